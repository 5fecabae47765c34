"""Whether the API server answers: what all who read from it know together.

A watch may be silent for as long as nothing changes, so silence alone proves nothing. Owns the question that is asked
then, the end of pauses when the server answers again, and the log of what fails. Runs in the control process's loop.
"""

from __future__ import annotations

import asyncio
import logging

from grpcgw.discovery.sources.failure_log import FailureLog
from grpcgw.discovery.sources.kubernetes_api import ApiAway, ApiRefused, KubernetesApi

log = logging.getLogger(__name__)

QUESTION = "/version"
"""Cheap to answer, and allowed to everybody by the built-in ClusterRole system:public-info-viewer."""
RECOVERY_S = 5.0
"""The shortest time between two recoveries: pauses still do their work where a server comes and goes."""


class ApiHealth:
    """One for all loops of a source."""

    def __init__(self, api: KubernetesApi, answer_s: float, reuse_s: float) -> None:
        """`answer_s`: how long an answer is waited for; `reuse_s`: for how long it counts, as watches fall silent
        together."""
        self._api, self._answer_s, self._reuse_s = api, answer_s, reuse_s
        self._asking = asyncio.Lock()
        self._error = ""
        self._asked_at_s = -reuse_s
        self._outages = FailureLog()
        self._is_away = False
        self._recovered = asyncio.Event()
        self._recovered_at_s = -RECOVERY_S

    async def ask(self) -> None:
        """Raises ApiAway where the server does not answer, whatever it would say."""
        async with self._asking:
            if self._now_s() >= self._asked_at_s + self._reuse_s:
                self._error = await self._ask()
                self._asked_at_s = self._now_s()
        if self._error:
            raise ApiAway(self._error)

    async def _ask(self) -> str:
        try:
            await self._api.get(QUESTION, {}, self._answer_s)
        except ApiAway as away:
            return str(away)
        except ApiRefused:
            pass  # an answer all the same
        return ""

    def note_success(self, reader: str) -> None:
        """`reader` got what it asked for."""
        self.note_answer()
        line = self._outages.note_success(reader, self._now_s())
        if line:
            log.info("%s", line)

    def note_answer(self) -> None:
        """The server answered, perhaps by refusing. After an outage all pauses end."""
        if self._is_away and self._now_s() >= self._recovered_at_s + RECOVERY_S:
            self._recovered_at_s = self._now_s()
            self._recovered.set()
            self._recovered = asyncio.Event()
        self._is_away = False

    def note_failure(self, reader: str, cause: str, error: str) -> None:
        """`reader` failed, and will try again. `cause` is what counts as the same failure in the log."""
        line = self._outages.note_failure(reader, cause, error, self._now_s())
        if line:
            log.warning("%s", line)

    def note_away(self, reader: str, error: ApiAway) -> None:
        """The server did not answer `reader`."""
        self._is_away = True
        self.note_failure(reader, "away", str(error))

    def forget(self, reader: str) -> None:
        """`reader` is no more."""
        self._outages.forget(reader)

    async def pause(self, delay_s: float) -> bool:
        """Wait, at the longest until the server answers again after it was away; whether that is why it ended."""
        try:
            async with asyncio.timeout(delay_s):
                await self._recovered.wait()
                return True
        except TimeoutError:
            return False

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()
