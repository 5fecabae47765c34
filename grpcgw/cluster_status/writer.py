"""Writes the status of Mappings and Hosts, and Events for errors, to the API server.

Only the replica that holds the Lease writes, at a bounded rate, and only what differs from the cluster; errors first.
Retry-After is honoured. Writes are computed from the last compilation and the store, so a failed write or a new leader
loses nothing. If a right is missing, nothing is written, a notice names the right, and the gateway serves all the same.
Runs in the control process's event loop; `object_status` decides what is written.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import socket
from collections import deque
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random

from grpcgw.cluster_status.lease import Elector, LeasePace
from grpcgw.cluster_status.object_status import (
    ObjectStatus,
    Plan,
    Tried,
    Write,
    desired_statuses,
    event_of,
    make_event,
    note_write,
    other_errors,
    plan_writes,
    status_patch,
)
from grpcgw.discovery.sources.kubernetes_api import ApiAway, ApiRefused, ClusterAccess, KubernetesApi
from grpcgw.discovery.store import ObjectStore
from grpcgw.errors import UserError
from grpcgw.model.objects import KubeObject, ObjectKey, Problem, Severity

log = logging.getLogger(__name__)

PARTITION = "kubernetes status"
MAX_EVENTS = 100
"""Events waiting to be sent; the oldest are dropped for newer ones."""
MAX_RETRY_AFTER_S = 60.0
"""Longest Retry-After (429) that is honoured."""


@dataclass(frozen=True, slots=True)
class StatusPace:
    """Rate and retry times of writes; tests use shorter ones."""

    pause_s: float = 0.01
    """Between the starts of two writes."""
    in_flight: int = 8
    """Concurrent writes: the first statuses of thousands of Mappings must not take minutes."""
    batch: int = 100
    """Writes per plan; after them a new plan is made, errors first."""
    settle_s: float = 30.0
    """Shortest time between two writes of the same status to one object."""
    retry_s: float = 5.0
    """Pause after the API server was unreachable or overloaded."""
    denied_s: float = 300.0
    """Pause before a write is tried again for which a right was missing."""
    request_s: float = 10.0
    lease: LeasePace = field(default_factory=LeasePace)


class _RetryLater(ApiAway):
    """The API server may accept the write later: it is overloaded, or starting."""

    def __init__(self, message: str, after_s: float) -> None:
        super().__init__(message)
        self.after_s = after_s


class StatusWriter:
    """`namespace` is the gateway's own, where the Lease is; replicas of one `ambassador_id` there share one Lease.

    `plurals`: the name in paths of each kind whose status is written.
    """

    def __init__(
        self,
        store: ObjectStore,
        access: ClusterAccess,
        plurals: Mapping[str, str],
        namespace: str,
        ambassador_id: str = "default",
        *,
        pace: StatusPace | None = None,
        random: Random | None = None,
    ) -> None:
        self._store, self._pace, self._random = store, pace or StatusPace(), random or Random()
        self._api, self._plurals = KubernetesApi(access), plurals
        self._identity = f"{socket.gethostname()}_{secrets.token_hex(4)}"
        self._elector = Elector(
            self._api,
            namespace,
            lease_name(ambassador_id),
            self._identity,
            changed=self._wake_up,
            note=lambda text: self._note("lease", text),
            pace=self._pace.lease,
            random=self._random,
        )
        self._desired: dict[ObjectKey, ObjectStatus] = {}
        self._tried: dict[ObjectKey, Tried] = {}
        self._errors: list[tuple[ObjectKey, str]] = []
        self._reported: set[tuple[ObjectKey, str]] = set()
        self._events: deque[dict[str, object]] = deque(maxlen=MAX_EVENTS)
        self._denied_until_s: dict[str, float] = {}
        self._notices: dict[str, str] = {}
        self._next_turn_s = 0.0
        self._wake = asyncio.Event()

    def report(self, served: Collection[ObjectKey], problems: Collection[Problem]) -> None:
        """Replace the desired statuses: those of `served` objects are good unless a problem is an error of theirs.

        Never blocks; `run` writes what differs from the cluster.
        """
        self._desired = desired_statuses(served, problems)
        self._errors = other_errors(problems)
        self._reported &= {*self._errors, *self._bad_statuses()}
        self._tried = {key: tried for key, tried in self._tried.items() if key in self._desired}
        self._wake_up()

    async def run(self) -> None:
        """Write while leading, until cancelled. Raises UserError if the credentials cannot be loaded."""
        await self._api.connect()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._elector.run(), name="lease")
                tasks.create_task(self._write_while_leading(), name="status")
        finally:
            await self._api.aclose()

    def _wake_up(self) -> None:
        self._wake.set()

    async def _write_while_leading(self) -> None:
        while True:
            self._wake.clear()
            pause_s = await self._write_due() if self._elector.leading else None
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()

    async def _write_due(self) -> float | None:
        """Write everything that is due. Returns after how many seconds to plan again; None: only after a change."""
        try:
            while (plan := self._plan()).due and self._elector.leading:
                await self._write_statuses(deque(plan.due[: self._pace.batch]))
            self._gather_events()
            while self._events and self._elector.leading and not self._is_denied("events"):
                await self._wait_for_turn()
                await self._send_event()
        except (ApiAway, UserError) as away:
            log.debug("status: %s", away)
            retry_after_s = away.after_s if isinstance(away, _RetryLater) else 0.0
            return max(self._pace.retry_s, retry_after_s) * self._random.uniform(1.0, 1.2)
        if self._denied_until_s:
            return self._pace.denied_s
        return self._pace.settle_s if plan.postponed else None

    async def _write_statuses(self, due: deque[Write]) -> None:
        """Up to `in_flight` at a time. Raises ApiAway, UserError after all started writes have ended."""

        async def write() -> None:
            while due and self._elector.leading and not self._is_denied("status"):
                await self._wait_for_turn()
                if due:
                    await self._write_status(due.popleft())

        async def write_until_failure() -> ApiAway | UserError | None:
            try:
                await write()
            except (ApiAway, UserError) as error:
                due.clear()
                return error
            return None

        for error in await asyncio.gather(*(write_until_failure() for _ in range(self._pace.in_flight))):
            if error is not None:
                raise error

    async def _wait_for_turn(self) -> None:
        now_s = asyncio.get_running_loop().time()
        turn_s = max(now_s, self._next_turn_s)
        self._next_turn_s = turn_s + self._pace.pause_s
        await asyncio.sleep(turn_s - now_s)

    def _plan(self) -> Plan:
        if self._is_denied("status"):
            return Plan((), False)
        now_s = asyncio.get_running_loop().time()
        return plan_writes(self._desired, self._store.get, self._tried, now_s, self._pace.settle_s)

    async def _write_status(self, write: Write) -> None:
        obj = write.obj
        plural = self._plurals[obj.key.kind]
        right = f"{plural}/status"
        path = f"/apis/{obj.api_version}/namespaces/{obj.key.namespace}/{plural}/{obj.key.name}/status"
        if not await self._send("PATCH", path, status_patch(write), "status", f'"patch" on {right}.getambassador.io'):
            return
        now_s = asyncio.get_running_loop().time()
        self._tried[obj.key] = note_write(write, self._tried.get(obj.key), now_s, self._pace.settle_s)
        event = event_of(write)
        if event is not None:
            self._add_event(obj, event)

    def _gather_events(self) -> None:
        for key, text in self._errors + (self._bad_statuses() if self._is_denied("status") else []):
            obj = self._store.get(key)
            if (key, text) not in self._reported and obj is not None and obj.source.origin == "kubernetes":
                self._add_event(obj, ("Warning", "Rejected", text))
            self._reported.add((key, text))

    def _bad_statuses(self) -> list[tuple[ObjectKey, str]]:
        return [(key, status.reason) for key, status in self._desired.items() if not status.good]

    def _add_event(self, obj: KubeObject, event: tuple[str, str, str]) -> None:
        self._events.append(make_event(obj, event, self._identity, datetime.now(UTC)))

    async def _send_event(self) -> None:
        event, sent = self._events.popleft(), False
        metadata = event["metadata"]
        assert isinstance(metadata, dict)
        path = f"/apis/events.k8s.io/v1/namespaces/{metadata['namespace']}/events"
        try:
            sent = await self._send("POST", path, event, "events", '"create" on events.events.k8s.io')
        finally:
            if not sent:
                self._events.appendleft(event)

    async def _send(self, method: str, path: str, body: dict[str, object], what: str, right: str) -> bool:
        """Whether the request is finished: accepted, or refused for good, so that it is not repeated unchanged.

        Raises ApiAway if it should be, later.
        """
        try:
            await self._api.write(method, path, body, self._pace.request_s)
        except ApiRefused as refusal:
            if refusal.status == 403:
                self._deny(what, f"not allowed: grpcgw needs the right {right} (deploy/rbac.yaml grants it): {refusal}")
                return False
            if refusal.is_passing:
                raise _RetryLater(str(refusal), min(refusal.retry_after_s, MAX_RETRY_AFTER_S)) from refusal
            # 404: the object was deleted; 409: it has changed, and the watch will report the change.
            level = logging.DEBUG if refusal.status in (404, 409) else logging.WARNING
            log.log(level, "%s %s: %s", method, path, refusal)
            return True
        self._denied_until_s.pop(what, None)
        self._note(what, "")
        return True

    def _deny(self, what: str, text: str) -> None:
        self._denied_until_s[what] = asyncio.get_running_loop().time() + self._pace.denied_s
        self._note(what, text)

    def _is_denied(self, what: str) -> bool:
        return asyncio.get_running_loop().time() < self._denied_until_s.get(what, 0.0)

    def _note(self, what: str, text: str) -> None:
        """Show `text` as a notice on the page and in the log; the empty text removes the notice."""
        if text == self._notices.get(what, ""):
            return
        if text:
            log.warning("status is not written back to the cluster: %s", text)
        self._notices[what] = text
        shown = [f"{what} not written back to the cluster: {said}" for what, said in self._notices.items() if said]
        self._store.report(PARTITION, [Problem(Severity.NOTICE, said, "kubernetes") for said in shown])


def lease_name(ambassador_id: str) -> str:
    """`grpcgw` for the default id, else with the id, in the characters that names in Kubernetes may have."""
    suffix = re.sub(r"[^a-z0-9]+", "-", ambassador_id.lower()).strip("-")
    return "grpcgw" if ambassador_id == "default" else f"grpcgw-{suffix}"[:63].rstrip("-")
