"""Health of the API server, shared by all reflectors: probes it when watches are silent, and logs failures.

A watch may be silent for as long as nothing changes, so silence alone proves nothing. Owns the probe, the end of all
pauses when the server answers again, and the log of failures. Runs in the control process's loop.
"""

from __future__ import annotations

import asyncio
import logging

from grpcgw.discovery.sources.failure_log import FailureLog
from grpcgw.discovery.sources.kubernetes_api import ApiAway, ApiRefused, KubernetesApi

log = logging.getLogger(__name__)

PROBE_PATH = "/version"
"""Cheap to answer, and allowed for everybody by the built-in ClusterRole system:public-info-viewer."""
RECOVERY_S = 5.0
"""The shortest time between two recoveries, so that pauses still have an effect with a server that flaps."""


class ApiHealth:
    """One for all reflectors of a source."""

    def __init__(self, api: KubernetesApi, answer_s: float, reuse_s: float) -> None:
        """`answer_s`: time-out of a probe. `reuse_s`: how long its result counts, as watches fall silent together."""
        self._api, self._answer_s, self._reuse_s = api, answer_s, reuse_s
        self._probing = asyncio.Lock()
        self._error = ""
        self._probed_at_s = -reuse_s
        self._failures = FailureLog()
        self._is_away = False
        self._recovered = asyncio.Event()
        self._recovered_at_s = -RECOVERY_S

    async def probe(self) -> None:
        """Returns if the server answers at all. Raises ApiAway otherwise."""
        async with self._probing:
            if self._now_s() >= self._probed_at_s + self._reuse_s:
                self._error = await self._probe()
                self._probed_at_s = self._now_s()
        if self._error:
            raise ApiAway(self._error)

    async def _probe(self) -> str:
        try:
            await self._api.get(PROBE_PATH, {}, self._answer_s)
        except ApiAway as away:
            return str(away)
        except ApiRefused:
            pass  # an answer, too
        return ""

    def note_success(self, reader: str) -> None:
        """A request of `reader` succeeded."""
        self.note_answer()
        line = self._failures.note_success(reader, self._now_s())
        if line:
            log.info("%s", line)

    def note_answer(self) -> None:
        """The server answered, perhaps with an error. After an outage all pauses end."""
        if self._is_away and self._now_s() >= self._recovered_at_s + RECOVERY_S:
            self._recovered_at_s = self._now_s()
            self._recovered.set()
            self._recovered = asyncio.Event()
        self._is_away = False

    def note_failure(self, reader: str, cause: str, error: str) -> None:
        """`reader` failed and will retry. Failures with the same `cause` are logged together."""
        line = self._failures.note_failure(reader, cause, error, self._now_s())
        if line:
            log.warning("%s", line)

    def note_away(self, reader: str, error: ApiAway) -> None:
        """The server did not answer `reader`."""
        self._is_away = True
        self.note_failure(reader, "away", str(error))

    def forget(self, reader: str) -> None:
        """`reader` has ended."""
        self._failures.forget(reader)

    async def pause(self, delay_s: float) -> bool:
        """Wait `delay_s`, or until the server answers again after it was away; True if so."""
        try:
            async with asyncio.timeout(delay_s):
                await self._recovered.wait()
                return True
        except TimeoutError:
            return False

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()
