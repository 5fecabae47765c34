"""Leader election among replicas by a Lease (coordination.k8s.io/v1): only the holder writes statuses.

`next_step` decides and is pure; `Elector` does the requests. Clocks of different machines are never compared: a Lease
has expired when it has not changed for its duration, by the watcher's own clock. Runs in the control loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from random import Random

from grpcgw.cluster_status.object_status import show_time
from grpcgw.discovery.sources.kubernetes_api import ApiAway, ApiRefused, KubernetesApi
from grpcgw.errors import UserError

log = logging.getLogger(__name__)

Note = Callable[[str], None]
"""Gets the text of a problem; the empty text: there is none any more."""


@dataclass(frozen=True, slots=True)
class LeasePace:
    duration_s: float = 30.0
    """leaseDurationSeconds: without renewal for so long, another replica takes over."""
    renew_s: float = 10.0
    """How often every replica reads the Lease, and the holder renews it; varied by a fifth."""
    request_s: float = 5.0

    @property
    def hold_s(self) -> float:
        """How long after a renewal the holder writes: it stops well before another replica may start."""
        return self.duration_s * 2 / 3


@dataclass(frozen=True, slots=True)
class Lease:
    holder: str
    duration_s: float
    acquired: str
    renewed: str
    transitions: int
    version: str


class Step(Enum):
    CREATE = "create"
    RENEW = "renew"
    TAKE = "take"
    WAIT = "wait"


def next_step(lease: Lease | None, me: str, unchanged_s: float) -> Step:
    """What `me` does next. `lease` (None: there is none) has not changed for `unchanged_s`."""
    if lease is None:
        return Step.CREATE
    if lease.holder == me:
        return Step.RENEW
    return Step.TAKE if not lease.holder or unchanged_s > lease.duration_s else Step.WAIT


def read_lease(body: Mapping[str, object]) -> Lease:
    """Missing or invalid fields count as a Lease without a holder."""
    spec, metadata = _part(body, "spec"), _part(body, "metadata")
    duration, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
    return Lease(
        holder=str(spec.get("holderIdentity") or ""),
        duration_s=float(duration) if isinstance(duration, int) else 0.0,
        acquired=str(spec.get("acquireTime") or ""),
        renewed=str(spec.get("renewTime") or ""),
        transitions=transitions if isinstance(transitions, int) else 0,
        version=str(metadata.get("resourceVersion") or ""),
    )


class Elector:
    """One candidate. `identity` is unique among replicas; `changed` is called when it starts or stops leading."""

    def __init__(
        self,
        api: KubernetesApi,
        namespace: str,
        name: str,
        identity: str,
        *,
        changed: Callable[[], None],
        note: Note,
        pace: LeasePace,
        random: Random,
    ) -> None:
        self._api, self._namespace, self._name, self._identity = api, namespace, name, identity
        self._changed, self._note, self._pace, self._random = changed, note, pace, random
        self._parent = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._held: Lease | None = None
        self._leads_until_s = 0.0
        self._seen: Lease | None = None
        self._seen_at_s = 0.0

    @property
    def leading(self) -> bool:
        """Becomes false without a call if the Lease is not renewed in time."""
        return self._held is not None and asyncio.get_running_loop().time() < self._leads_until_s

    async def run(self) -> None:
        """Try to lead until cancelled; then release the Lease."""
        try:
            while True:
                await self._look()
                await asyncio.sleep(self._pace.renew_s * self._random.uniform(0.8, 1.2))
        finally:
            if self.leading:
                await self._release()

    async def _look(self) -> None:
        led, asked_at_s = self.leading, asyncio.get_running_loop().time()
        try:
            held = await self._advance()
            self._note("")
        except (ApiAway, ApiRefused, UserError) as error:
            log.debug("lease %s: %s", self._name, error)
            if not isinstance(error, ApiRefused) or error.is_passing:
                return  # written or not: what was held is held until its time is over
            held = None
            if error.status != 409:  # another replica was faster
                self._note(self._explain(error))
        lapsed = led and not self.leading
        self._held = held
        if held is not None:
            self._leads_until_s = asked_at_s + self._pace.hold_s
        if self.leading != led:
            log.info("this replica %s the status of objects", "writes" if self.leading else "no longer writes")
        if self.leading != led or lapsed:  # after a lapse during the requests, the writer may wait to lead
            self._changed()

    async def _advance(self) -> Lease | None:
        """One step; the Lease as it is then, if it is held."""
        lease = await self._read()
        now_s = asyncio.get_running_loop().time()
        if lease != self._seen:
            self._seen, self._seen_at_s = lease, now_s
        match next_step(lease, self._identity, now_s - self._seen_at_s):
            case Step.WAIT:
                return None
            case Step.CREATE:
                return await self._write("POST", self._parent, None, self._identity)
            case Step.RENEW | Step.TAKE:
                return await self._write("PUT", f"{self._parent}/{self._name}", lease, self._identity)

    async def _read(self) -> Lease | None:
        try:
            return read_lease(await self._api.get(f"{self._parent}/{self._name}", {}, self._pace.request_s))
        except ApiRefused as refusal:
            if refusal.status != 404:
                raise
            return None

    async def _write(self, method: str, path: str, before: Lease | None, holder: str) -> Lease:
        now = show_time(datetime.now(UTC))
        changes = before is not None and before.holder != holder
        spec = {
            "holderIdentity": holder,
            "leaseDurationSeconds": max(1, round(self._pace.duration_s)),
            "acquireTime": now if before is None or changes else before.acquired or now,
            "renewTime": now,
            "leaseTransitions": (before.transitions if before is not None else 0) + (1 if changes and holder else 0),
        }
        metadata = {"name": self._name, "namespace": self._namespace}
        if before is not None:
            metadata["resourceVersion"] = before.version
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        return read_lease(await self._api.write(method, path, body, self._pace.request_s))

    async def _release(self) -> None:
        self._held = None
        try:
            lease = await self._read()  # read again: a renewal may have been under way when the task was cancelled
            if lease is not None and lease.holder == self._identity:
                await self._write("PUT", f"{self._parent}/{self._name}", lease, "")
        except (ApiAway, ApiRefused, UserError) as error:
            log.debug("lease %s could not be given back, it will run out: %s", self._name, error)

    def _explain(self, refusal: ApiRefused) -> str:
        if refusal.status == 403:
            return (
                f'not allowed: grpcgw needs the rights "get", "create" and "update" on leases.coordination.k8s.io in '
                f"namespace {self._namespace} (deploy/rbac.yaml grants them): {refusal.message}"
            )
        return f"lease {self._name} in namespace {self._namespace}: {refusal}"


def _part(body: Mapping[str, object], name: str) -> Mapping[str, object]:
    part = body.get(name)
    return part if isinstance(part, Mapping) else {}
