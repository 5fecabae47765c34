"""Status and Events of objects: what each object should have, and the writes that bring it there. Pure.

Mapping has `status.state` Running or Inactive with `reason`; Host has Ready or Error with `errorReason` (Ambassador's
CRDs). Other kinds have no such status: their errors become Events only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from grpcgw.model.objects import KubeObject, ObjectKey, Problem, Severity

MAX_NOTE_BYTES = 1000
"""An Event's note may have 1024 at most."""
MAX_CHANGES = 5
"""Most changes of one object's status within `settle_s`: pods that come and go must not cause endless writes."""
_ROOM_FOR_MORE = 60
REPORTER = "getambassador.io/grpcgw"


@dataclass(frozen=True, slots=True)
class _Words:
    """The states of a kind: serving, not serving, and the field with the reason."""

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
    """A write that the API server has answered, with success or not."""

    status: ObjectStatus
    version: str
    """resourceVersion of the object that it was meant for."""
    at_s: float
    changes: int = 1
    """How many writes there were, this one included, none of them later than `settle_s` after the one before."""


@dataclass(frozen=True, slots=True)
class Plan:
    due: tuple[Write, ...]
    """Errors first."""
    postponed: bool
    """Other writes are held back for now: plan again later."""


def desired_statuses(served: Iterable[ObjectKey], problems: Iterable[Problem]) -> dict[ObjectKey, ObjectStatus]:
    """The status of every object of this gateway whose kind has one: bad if a problem is an error of it, else good.

    `served`: the objects of which a version serves; also those whose last good version does.
    """
    good = {key: ObjectStatus(True) for key in served if key.kind in KINDS_WITH_STATUS}
    bad = {key: ObjectStatus(False, text) for key, text in _errors(problems) if key.kind in KINDS_WITH_STATUS}
    return good | bad


def other_errors(problems: Iterable[Problem]) -> list[tuple[ObjectKey, str]]:
    """The errors of objects that have no status to show them: one text for each object."""
    return [(key, text) for key, text in _errors(problems) if key.kind not in KINDS_WITH_STATUS]


def plan_writes(
    desired: Mapping[ObjectKey, ObjectStatus],
    find: Callable[[ObjectKey], KubeObject | None],
    tried: Mapping[ObjectKey, Tried],
    now_s: float,
    settle_s: float,
) -> Plan:
    """The writes that make the statuses in the cluster, as `find` knows them, those desired.

    The same status is not written twice to one version of an object (its echo is under way, or it was refused), nor
    twice within `settle_s` (somebody else writes another: not to be fought at full speed), and no more than
    `MAX_CHANGES` statuses are within that time.
    """
    due: list[Write] = []
    postponed = False
    for key, status in desired.items():
        obj = find(key)
        if obj is None or obj.source.origin != "kubernetes":
            continue
        last = tried.get(key)
        is_echoed = last is None or last.version != version_of(obj)
        known = read_status(obj) if last is None or is_echoed else last.status
        if known == status:
            postponed = postponed or not is_echoed
        elif last is None or now_s >= last.at_s + settle_s or (last.status != status and last.changes < MAX_CHANGES):
            due.append(Write(obj, status, known))
        else:
            postponed = True
    due.sort(key=lambda write: write.status.good)
    return Plan(tuple(due), postponed)


def note_write(write: Write, last: Tried | None, now_s: float, settle_s: float) -> Tried:
    """Record `write`, which the API server has just answered."""
    is_repeated = last is not None and now_s < last.at_s + settle_s
    return Tried(write.status, version_of(write.obj), now_s, last.changes + 1 if last and is_repeated else 1)


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
    """Type, reason and note of the Event that goes with a write; None if nothing new would be in it."""
    if not write.status.good:
        return ("Warning", "Rejected", write.status.reason)
    if write.before is not None and not write.before.good:
        return ("Normal", "Accepted", "serves as it is written")
    return None


def make_event(obj: KubeObject, event: tuple[str, str, str], instance: str, now: datetime) -> dict[str, object]:
    """An Event (events.k8s.io/v1) about `obj`. `now` is aware, in UTC, and makes the name unique; `instance` is
    the reporter."""
    kind, reason, note = event
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
        "note": _cut(note, MAX_NOTE_BYTES),
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


def _errors(problems: Iterable[Problem]) -> list[tuple[ObjectKey, str]]:
    """All errors of each object as one text."""
    texts: dict[ObjectKey, list[str]] = {}
    for problem in problems:
        if problem.severity is Severity.ERROR and problem.object is not None:
            text = f"{problem.path}: {problem.message}" if problem.path else problem.message
            texts.setdefault(problem.object, []).append(text)
    return [(key, _name_all(list(dict.fromkeys(each)))) for key, each in texts.items()]


def _name_all(texts: list[str]) -> str:
    """`1) this; 2) that`, as many as fit, and how many do not."""
    if len(texts) == 1:
        return _cut(texts[0], MAX_NOTE_BYTES)
    named = ""
    for number, text in enumerate(texts, start=1):
        longer = f"{named}{' ' if named else ''}{number}) {text}"
        if len(longer.encode()) > MAX_NOTE_BYTES - _ROOM_FOR_MORE and named:
            return f"{named} … and {len(texts) - number + 1} more, see the diagnostics page"
        named = longer
    return _cut(named, MAX_NOTE_BYTES)


def _cut(text: str, max_bytes: int) -> str:
    encoded = text.encode()
    return text if len(encoded) <= max_bytes else encoded[: max_bytes - 3].decode(errors="ignore") + "…"
