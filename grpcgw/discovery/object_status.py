"""What the cluster is to be told of its objects: the status each should have, the writes that bring it there, Events.

Mapping has `status.state` Running or Inactive with `reason`; Host has Ready or Error with `errorReason` (Ambassador's
CRDs). Other kinds have no status there: their errors become Events alone. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from grpcgw.config.compile import Compiled
from grpcgw.config.objects import KubeObject, ObjectKey, Problem, Severity

MAX_NOTE_CHARACTERS = 1000
"""An Event's note may have 1024 bytes at most."""
REPORTER = "getambassador.io/grpcgw"


@dataclass(frozen=True, slots=True)
class _Words:
    """How a kind says in its status that it serves, and that and why it does not."""

    good: str
    bad: str
    reason: str


_WORDS = {"Mapping": _Words("Running", "Inactive", "reason"), "Host": _Words("Ready", "Error", "errorReason")}
KINDS_WITH_STATUS = frozenset(_WORDS)


@dataclass(frozen=True, slots=True)
class ObjectStatus:
    good: bool
    """The object serves as it is written. False also where its last good version keeps serving: `reason` says so."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Write:
    """Give `obj`, as it was read, `status` in the place of `before` (None: it has none, or one that says nothing)."""

    obj: KubeObject
    status: ObjectStatus
    before: ObjectStatus | None


@dataclass(frozen=True, slots=True)
class Tried:
    """A write that the API server has answered, in whatever way."""

    status: ObjectStatus
    version: str
    """resourceVersion of the object that it was meant for."""
    at_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    due: tuple[Write, ...]
    """What is wrong first."""
    postponed: bool
    """More is to be written, but not now: ask again after a while."""


def desired_statuses(compiled: Compiled) -> dict[ObjectKey, ObjectStatus]:
    """The status of every object of this gateway that has one: bad where something is wrong with it, else good."""
    desired = {key: ObjectStatus(True) for key in compiled.last_good if key.kind in KINDS_WITH_STATUS}
    for key, text in _errors(compiled.problems):
        if key.kind in KINDS_WITH_STATUS and desired.get(key, ObjectStatus(True)).good:
            desired[key] = ObjectStatus(False, text)
    return desired


def other_errors(compiled: Compiled) -> list[tuple[ObjectKey, str]]:
    """The errors of objects that have no status to show them."""
    return [(key, text) for key, text in _errors(compiled.problems) if key.kind not in KINDS_WITH_STATUS]


def plan_writes(
    desired: Mapping[ObjectKey, ObjectStatus],
    find: Callable[[ObjectKey], KubeObject | None],
    tried: Mapping[ObjectKey, Tried],
    now_s: float,
    settle_s: float,
) -> Plan:
    """The writes that make the statuses in the cluster, as `find` knows them, those desired.

    The same status is not written twice to one version of an object (its echo is under way, or it was refused), nor
    twice within `settle_s` (somebody else writes another: not to be fought at full speed).
    """
    due: list[Write] = []
    postponed = False
    for key, status in desired.items():
        obj = find(key)
        if obj is None or obj.source.origin != "kubernetes" or read_status(obj) == status:
            continue
        last = tried.get(key)
        if last is None or last.status != status:
            due.append(Write(obj, status, read_status(obj)))
        elif last.version == version_of(obj):
            continue
        elif now_s < last.at_s + settle_s:
            postponed = True
        else:
            due.append(Write(obj, status, read_status(obj)))
    due.sort(key=lambda write: write.status.good)
    return Plan(tuple(due), postponed)


def read_status(obj: KubeObject) -> ObjectStatus | None:
    words, status = _WORDS[obj.key.kind], obj.body.get("status")
    state = status.get("state") if isinstance(status, Mapping) else None
    if not isinstance(status, Mapping) or state not in (words.good, words.bad):
        return None
    return ObjectStatus(state == words.good, str(status.get(words.reason) or ""))


def status_patch(write: Write) -> dict[str, object]:
    """A merge patch of the status, refused by the server (409) where the object has changed since it was read."""
    words = _WORDS[write.obj.key.kind]
    state = words.good if write.status.good else words.bad
    return {
        "metadata": {"resourceVersion": version_of(write.obj)},
        "status": {"state": state, words.reason: write.status.reason or None},
    }


def event_of(write: Write) -> tuple[str, str, str] | None:
    """Type, reason and note of the Event that goes with a write; None where it would tell nothing new."""
    if not write.status.good:
        return ("Warning", "Rejected", write.status.reason)
    if write.before is not None and not write.before.good:
        return ("Normal", "Accepted", "serves as it is written")
    return None


def make_event(obj: KubeObject, told: tuple[str, str, str], instance: str, now: datetime) -> dict[str, object]:
    """An Event (events.k8s.io/v1) about `obj`. `now` is aware, in UTC, and makes the name unique; `instance` is who
    tells it."""
    kind, reason, note = told
    metadata = obj.body.get("metadata")
    uid = metadata.get("uid") if isinstance(metadata, Mapping) else None
    key = obj.key
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": key.namespace, "name": f"{key.name[:200]}.{round(now.timestamp() * 1e6):x}"},
        "eventTime": show_time(now),
        "type": kind,
        "reason": reason,
        "action": "Compile",
        "note": note[:MAX_NOTE_CHARACTERS],
        "regarding": {
            "apiVersion": obj.api_version,
            "kind": key.kind,
            "namespace": key.namespace,
            "name": key.name,
            "resourceVersion": version_of(obj),
            **({"uid": uid} if uid else {}),
        },
        "reportingController": REPORTER,
        "reportingInstance": instance[:128],
    }


def show_time(now: datetime) -> str:
    """As Kubernetes writes a MicroTime."""
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def version_of(obj: KubeObject) -> str:
    metadata = obj.body.get("metadata")
    return str(metadata.get("resourceVersion", "")) if isinstance(metadata, Mapping) else ""


def _errors(problems: tuple[Problem, ...]) -> list[tuple[ObjectKey, str]]:
    return [
        (
            problem.object,
            f"{problem.path}: {problem.message}"[:MAX_NOTE_CHARACTERS] if problem.path else problem.message,
        )
        for problem in problems
        if problem.severity is Severity.ERROR and problem.object is not None
    ]
