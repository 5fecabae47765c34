"""Policies that only tests have: one synchronous, one that asks a real gRPC server, one that is a coroutine.

They come in through the catalogue, as every policy does.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

from dataplane.lab import Lab, mapping
from dataplane.pods import Context, Gate, Pod
from grpcgw.model.codes import Code
from grpcgw.model.objects import ObjectKey
from grpcgw.model.route import Destination, PolicySettings, Route, WeightedCluster
from grpcgw.model.status import Status
from grpcgw.policy.catalogue import CATALOGUE, Catalogue, PolicyKind, Stage
from grpcgw.policy.contract import CoroutineWork, FailMode, PolicyRequest, UnaryRpc, Verdict, Wait
from grpcgw.policy.services import PolicyServices
from grpcgw.policy.verdicts import Allow, Deny

DETAILS = b"\x08\x10\x12\x06denied"
"""A serialized google.rpc.Status: code 16, message "denied"."""
DENIED = Deny("no-key", "a key is needed", Code.UNAUTHENTICATED, DETAILS, (("www-authenticate", "Key"),))
ALLOWED = Allow(add=(("x-user", "ann"),), remove=("x-key",), facts=(("user", "ann"),))
UPSTREAM = Destination(ObjectKey("AuthService", "default", "auth"), (WeightedCluster("auth"),))


def judge(word: bytes) -> Allow | Deny:
    """The verdict that a server or coroutine gives in a word."""
    if word == b"bug":
        raise RuntimeError("a defect in the policy")
    if word == b"exit":
        raise SystemExit("a policy should not end the gateway")
    return ALLOWED if word == b"yes" else DENIED


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySettings(PolicySettings):
    kind: ClassVar[str] = "key"
    ended: list[Status] = field(default_factory=list, compare=False)


class KeyPolicy:
    """Decides at once, by the metadata key `x-key`."""

    def __init__(self, settings: KeySettings) -> None:
        self._settings = settings

    def check(self, request: PolicyRequest) -> Verdict:
        key = request.get("x-key")
        return judge(key.encode() if isinstance(key, str) else b"")

    def on_end(self, request: PolicyRequest, status: Status) -> None:
        self._settings.ended.append(status)


@dataclass(frozen=True, slots=True, kw_only=True)
class LateSettings(PolicySettings):
    """Of a policy whose verdict comes later. `decide`: by a coroutine; None: by an RPC to the upstream."""

    kind: ClassVar[str] = "late"
    timeout_s: float = 30.0
    fail_mode: FailMode = FailMode.CLOSED
    decide: ByCoroutine | None = None


class LatePolicy:
    def __init__(self, settings: LateSettings) -> None:
        self._settings = settings

    def check(self, request: PolicyRequest) -> Verdict:
        settings = self._settings
        work: UnaryRpc | CoroutineWork
        if settings.decide is None:
            asked = (("x-asked-for", request.request.path),)
            work = UnaryRpc("/test.Pod/Check", b"may they?", lambda answer: judge(answer.message), asked)
        else:
            work = CoroutineWork(settings.decide.run)
        return Wait(work, settings.timeout_s, settings.fail_mode)


class Broken:
    @staticmethod
    def build(mapping: ObjectKey, settings: PolicySettings, services: PolicyServices) -> KeyPolicy:
        raise LookupError("no such key")


def _build_key(mapping: ObjectKey, settings: PolicySettings, services: PolicyServices) -> KeyPolicy:
    assert isinstance(settings, KeySettings)
    return KeyPolicy(settings)


def _build_late(mapping: ObjectKey, settings: PolicySettings, services: PolicyServices) -> LatePolicy:
    assert isinstance(settings, LateSettings)
    return LatePolicy(settings)


class BrokenSettings(PolicySettings):
    kind = "broken"


TRIAL_POLICIES = Catalogue(
    (
        *CATALOGUE.kinds,
        PolicyKind("key", Stage.IDENTITY, _build_key),
        PolicyKind("late", Stage.REMOTE_AUTHORIZATION, _build_late),
        PolicyKind("broken", Stage.OWN, Broken.build),
    )
)


def guarded(*policies: PolicySettings, timeout_ms: int | None = None) -> Route:
    """A Mapping with policies."""
    route = mapping(timeout_ms=timeout_ms)
    return replace(route, destinations=(replace(route.destinations[0], policies=policies),))


class Decider(Protocol):
    """Where late verdicts come from. Each waits until `say` gives the word."""

    reached: threading.Event
    """A policy asks."""
    cancelled: threading.Event
    """The question was taken back."""

    def settings(self, timeout_s: float = 30.0, fail_mode: FailMode = FailMode.CLOSED) -> LateSettings: ...
    def say(self, word: bytes) -> None: ...
    @property
    def pods(self) -> tuple[Pod, ...]:
        """Of the cluster `auth`."""
        ...


class ByRpc:
    """A real gRPC server."""

    def __init__(self, lab: Lab) -> None:
        self._gate = Gate()
        lab.defer(self._gate.open)
        self._word = b""
        self.reached, self.cancelled = self._gate.reached, self._gate.cancelled
        self.pods = (lab.pod("auth", {"Check": self._check}),)

    def settings(self, timeout_s: float = 30.0, fail_mode: FailMode = FailMode.CLOSED) -> LateSettings:
        return LateSettings(name="Trial rpc", timeout_s=timeout_s, fail_mode=fail_mode, upstreams=(UPSTREAM,))

    def _check(self, requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        self._gate.hold(context)
        yield self._word

    def say(self, word: bytes) -> None:
        self._word = word
        self._gate.open()


class ByCoroutine:
    """A coroutine on the event loop beside the engine."""

    pods: tuple[Pod, ...] = ()

    def __init__(self, lab: Lab) -> None:
        self.reached, self.cancelled = threading.Event(), threading.Event()
        self._said = threading.Event()
        self._word = b""
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        lab.defer(lambda: self.say(b"yes"))

    def settings(self, timeout_s: float = 30.0, fail_mode: FailMode = FailMode.CLOSED) -> LateSettings:
        return LateSettings(name="Trial coroutine", timeout_s=timeout_s, fail_mode=fail_mode, decide=self)

    async def run(self) -> Allow | Deny:
        said = asyncio.Event()
        self._waiting.append((asyncio.get_running_loop(), said))
        self.reached.set()
        if not self._said.is_set():
            try:
                await said.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        return judge(self._word)

    def say(self, word: bytes) -> None:
        self._word = word
        self._said.set()
        for loop, said in self._waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(said.set)
