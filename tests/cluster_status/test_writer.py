"""Statuses and Events written back to the cluster: what is said, by whom, how seldom, and without the right to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.cluster_status.lease import Lease, LeasePace, Step, next_step, read_lease
from grpcgw.cluster_status.object_status import (
    KINDS_WITH_STATUS,
    MAX_CHANGES,
    MAX_NOTE_BYTES,
    ObjectStatus,
    Tried,
    Write,
    desired_statuses,
    event_of,
    make_event,
    note_write,
    other_errors,
    plan_writes,
    read_status,
    status_patch,
    version_of,
)
from grpcgw.cluster_status.writer import StatusPace, StatusWriter, lease_name
from grpcgw.control.dialects import compile_snapshot
from grpcgw.discovery.sources.kubernetes import KubernetesSource
from grpcgw.discovery.sources.kubernetes_api import ClusterAccess
from grpcgw.discovery.sources.reflector import ReflectorPace
from grpcgw.discovery.store import ObjectStore
from grpcgw.model.objects import KubeObject, ObjectKey, Problem, Severity, Source
from grpcgw.model.route_source import Compiled, CompileOptions
from grpcgw.model.snapshot import EMPTY_SNAPSHOT
from tests.kube_api import Body, KubeApi, Request
from tests.parsing import KINDS
from tests.scenarios import run

PLURALS = {kind.name: kind.candidates[0].plural for kind in KINDS.watched}

DEADLINE_S = 40.0
READING = ReflectorPace(request_s=20.0, recheck_s=0.1, retry_base_s=0.02, retry_cap_s=0.1)
LEASE = LeasePace(duration_s=10.0, renew_s=0.05, request_s=20.0)
BRISK = StatusPace(pause_s=0.0, settle_s=0.1, retry_s=0.05, denied_s=0.2, request_s=20.0, lease=LEASE)
GOOD, BAD = ObjectStatus(True), ObjectStatus(False, "spec.prefix: is required; left out")


# ---- pure


def mapping(name: str, version: str = "1", status: Body | None = None, origin: str = "kubernetes") -> KubeObject:
    body: Body = {"metadata": {"name": name, "namespace": "greet", "resourceVersion": version, "uid": f"uid-{name}"}}
    if status is not None:
        body["status"] = status
    return KubeObject("getambassador.io/v2", key_of(name), body, Source(origin))


def key_of(name: str, kind: str = "Mapping") -> ObjectKey:
    return ObjectKey(kind, "greet", name)


def error(key: ObjectKey, message: str, path: str = "", severity: Severity = Severity.ERROR) -> Problem:
    return Problem(severity, message, "kubernetes", key, path)


def due_names(desired: dict[ObjectKey, ObjectStatus], *objects: KubeObject, **tried: Tried) -> list[str]:
    known = {obj.key: obj for obj in objects}
    plan = plan_writes(desired, known.get, {key_of(name): one for name, one in tried.items()}, 100.0, 30.0)
    return [write.obj.key.name for write in plan.due]


def test_what_serves_is_running_and_what_has_an_error_is_inactive_with_the_reason() -> None:
    a, b, host, module = mapping("a"), key_of("b"), key_of("h", "Host"), key_of("m", "Module")
    problems = [
        error(key_of("a"), "has no effect", severity=Severity.NOTICE),
        error(b, "is required; left out", "spec.prefix"),
        error(b, "has no effect", severity=Severity.NOTICE),
        error(host, "no Secret"),
        error(module, "is unknown"),
        Problem(Severity.ERROR, "no YAML", "a.yaml"),
    ]
    assert desired_statuses([a.key], problems) == {a.key: GOOD, b: BAD, host: ObjectStatus(False, "no Secret")}
    assert other_errors(problems) == [(module, "is unknown")]


def test_the_reason_names_every_error_as_far_as_they_fit() -> None:
    b, module = key_of("b"), key_of("m", "Module")
    problems = [error(each, message, "spec.x") for each in (b, module) for message in ("is wrong", "is required")]
    named = "1) spec.x: is wrong 2) spec.x: is required"
    assert desired_statuses([], problems) == {b: ObjectStatus(False, named)}
    assert other_errors(problems) == [(module, named)]
    many = [error(b, f"{number} " + "ä" * 100) for number in range(30)]
    reason = desired_statuses([], many)[b].reason
    assert reason.startswith("1) 0 ä")
    assert reason.endswith(" … and 26 more, see the diagnostics page")
    assert len(reason.encode()) <= MAX_NOTE_BYTES
    long = desired_statuses([], [error(b, "ä" * 2000)])[b].reason
    assert MAX_NOTE_BYTES - 3 <= len(long.encode()) <= MAX_NOTE_BYTES


def test_a_mapping_whose_last_good_version_serves_on_is_inactive_and_says_so() -> None:
    former = mapping("a")
    problems = [error(former.key, "wrong; the last good version keeps serving")]
    assert desired_statuses([former.key], problems) == {
        former.key: ObjectStatus(False, "wrong; the last good version keeps serving")
    }


@pytest.mark.parametrize(
    ("status", "read"),
    [
        (None, None),
        ({}, None),
        ({"state": "Pending"}, None),
        ({"state": "Running"}, GOOD),
        ({"state": "Running", "reason": None}, GOOD),
        ({"state": "Inactive", "reason": BAD.reason}, BAD),
    ],
)
def test_a_status_is_written_where_the_cluster_says_something_else(
    status: Body | None, read: ObjectStatus | None
) -> None:
    obj = mapping("a", status=status)
    assert read_status(obj) == read
    for wanted in (GOOD, BAD):
        assert due_names({obj.key: wanted}, obj) == ([] if wanted == read else ["a"])


def test_what_is_gone_or_not_of_the_cluster_is_not_written() -> None:
    assert due_names({key_of("a"): GOOD}) == []
    assert due_names({key_of("a"): GOOD}, mapping("a", origin="a.yaml")) == []


def test_what_is_wrong_is_written_first() -> None:
    objects = [mapping(name) for name in "abcd"]
    desired = {obj.key: BAD if obj.key.name == "c" else GOOD for obj in objects}
    assert due_names(desired, *objects) == ["c", "a", "b", "d"]


def test_the_same_status_waits_for_its_echo_and_fights_no_other_writer() -> None:
    obj = mapping("a", version="7")
    assert due_names({obj.key: GOOD}, obj, a=Tried(GOOD, "7", 0.0)) == [], "its echo is not there yet, or never comes"
    assert due_names({obj.key: GOOD}, obj, a=Tried(GOOD, "6", 99.0)) == [], "somebody else wrote another just now"
    assert due_names({obj.key: GOOD}, obj, a=Tried(GOOD, "6", 60.0)) == ["a"]
    assert due_names({obj.key: GOOD}, obj, a=Tried(BAD, "7", 99.0)) == ["a"], "another status is written at once"
    assert status_patch(Write(obj, GOOD, None))["metadata"] == {"resourceVersion": "7"}, "a newer object refuses it"
    plan = plan_writes({obj.key: GOOD}, {obj.key: obj}.get, {obj.key: Tried(GOOD, "6", 99.0)}, 100.0, 30.0)
    assert plan.postponed


def test_a_status_that_flaps_is_written_a_few_times_and_then_once_in_a_while() -> None:
    obj, tried, written = mapping("a"), dict[ObjectKey, Tried](), 0
    for second in range(300):
        desired = {obj.key: BAD if second % 2 else GOOD}
        plan = plan_writes(desired, {obj.key: obj}.get, tried, float(second), 30.0)
        for write in plan.due:
            written += 1
            tried[obj.key] = note_write(write, tried.get(obj.key), float(second), 30.0)
            obj = mapping("a", str(second + 2), status_patch(write)["status"])  # type: ignore[arg-type]
    assert MAX_CHANGES <= written <= MAX_CHANGES * 300 / 30


def test_a_status_is_compared_with_what_was_written_while_its_echo_is_under_way() -> None:
    obj = mapping("a", "7", {"state": "Running"})
    assert due_names({obj.key: GOOD}, obj, a=Tried(BAD, "7", 99.0)) == ["a"]
    plan = plan_writes({obj.key: BAD}, {obj.key: obj}.get, {obj.key: Tried(BAD, "7", 99.0)}, 100.0, 30.0)
    assert (plan.due, plan.postponed) == ((), True), "it may have met a newer object: look again"


STATUSES = st.sampled_from([None, {"state": "Running"}, {"state": "Inactive", "reason": BAD.reason}])


@given(
    objects=st.dictionaries(st.sampled_from("abcdef"), st.tuples(STATUSES, st.booleans())),
)
def test_carrying_out_the_plan_leaves_nothing_to_do(objects: dict[str, tuple[Body | None, bool]]) -> None:
    known = {key_of(name): mapping(name, status=status) for name, (status, _) in objects.items()}
    desired = {key_of(name): GOOD if good else BAD for name, (_, good) in objects.items()}
    plan = plan_writes(desired, known.get, {}, 0.0, 30.0)
    for write in plan.due:
        patch: Any = status_patch(write)["status"]
        status = {name: value for name, value in patch.items() if value is not None}
        known[write.obj.key] = mapping(write.obj.key.name, "2", status)
    assert plan_writes(desired, known.get, {}, 0.0, 30.0).due == ()


def test_events_tell_of_what_becomes_wrong_or_right_again_and_of_nothing_else() -> None:
    write = plan_writes({key_of("a"): BAD}, {key_of("a"): mapping("a")}.get, {}, 0.0, 1.0).due[0]
    assert event_of(write) == ("Warning", "Rejected", BAD.reason)
    assert event_of(replace(write, status=GOOD, before=BAD)) == ("Normal", "Accepted", "serves as it is written")
    assert event_of(replace(write, status=GOOD, before=None)) is None
    assert event_of(replace(write, status=GOOD, before=GOOD)) is None


def a_lease(holder: str, duration_s: float = 30.0) -> Lease:
    return Lease(holder, duration_s, "then", "now", 3, "17")


@pytest.mark.parametrize(
    ("lease", "unchanged_s", "step"),
    [
        (None, 0.0, Step.CREATE),
        (a_lease("me"), 0.0, Step.RENEW),
        (a_lease("me"), 1000.0, Step.RENEW),
        (a_lease("other"), 0.0, Step.WAIT),
        (a_lease("other"), 30.0, Step.WAIT),
        (a_lease("other"), 30.1, Step.TAKE),
        (a_lease(""), 0.0, Step.TAKE),
    ],
)
def test_a_lease_is_taken_when_free_or_when_its_holder_broke_its_promise(
    lease: Lease | None, unchanged_s: float, step: Step
) -> None:
    assert next_step(lease, "me", unchanged_s) is step


FIELDS = ("spec", "metadata", "holderIdentity", "leaseDurationSeconds", "leaseTransitions", "resourceVersion")


@given(
    st.recursive(
        st.none() | st.text(max_size=3) | st.integers(),
        lambda inner: st.dictionaries(st.sampled_from(FIELDS), inner, max_size=3),
        max_leaves=6,
    )
)
def test_any_object_is_read_as_a_lease(body: object) -> None:
    lease = read_lease(body if isinstance(body, dict) else {})
    assert next_step(lease, "me", 1e9) in (Step.TAKE, Step.RENEW, Step.WAIT)


@pytest.mark.parametrize(
    ("ambassador_id", "name"),
    [("default", "grpcgw"), ("Edge_2", "grpcgw-edge-2"), ("x" * 100, "grpcgw-" + "x" * 56)],
)
def test_each_ambassador_id_has_a_lease_of_its_own(ambassador_id: str, name: str) -> None:
    assert lease_name(ambassador_id) == name


# ---- against the emulated API server


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        await asyncio.sleep(0.005)


class Replica:
    """What the control process does: read, compile after each change, report."""

    def __init__(self, access: ClusterAccess, pace: StatusPace) -> None:
        self.store = ObjectStore()
        self.source = KubernetesSource(self.store, access, KINDS, pace=READING)
        self.writer = StatusWriter(self.store, access, PLURALS, "grpcgw", pace=pace)
        self.compilations = 0
        self._compiled = Compiled(EMPTY_SNAPSHOT, (), {})
        self._changed = asyncio.Event()
        self.store.subscribe(lambda _: self._changed.set())

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.source.run())
            tasks.create_task(self.writer.run())
            tasks.create_task(self._compile())

    async def _compile(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self.store.synced():
                self.compilations += 1
                self._compiled = compile_snapshot(self.store.objects(), self._compiled.last_good, CompileOptions())
                self.writer.report(self._compiled.last_good, self._compiled.problems)

    def notices(self) -> list[str]:
        return [problem.message for problem in self.store.problems() if "written back" in problem.message]


@asynccontextmanager
async def replicas(access: ClusterAccess, count: int = 1, pace: StatusPace = BRISK) -> AsyncIterator[list[Replica]]:
    async with asyncio.TaskGroup() as tasks:
        made = [Replica(access, pace) for _ in range(count)]
        running = [tasks.create_task(replica.run()) for replica in made]
        yield made
        for task in running:
            task.cancel()


def put_mapping(api: KubeApi, name: str = "greet", **spec: object) -> None:
    spec = {"prefix": f"/{name}/", "service": "greet:50051", **spec}
    metadata = {"name": name, "namespace": "greet"}
    api.put({"apiVersion": "getambassador.io/v2", "kind": "Mapping", "metadata": metadata, "spec": spec})


def status_of(api: KubeApi, name: str = "greet", kind: str = "Mapping") -> Body:
    found = api.get(kind, "greet", name)
    assert found is not None
    return dict(found.get("status", {}))


def requests_for(api: KubeApi, verb: str, kind: str) -> list[Request]:
    return [each for each in api.requests if (each.verb, each.kind) == (verb, kind)]


def holder(api: KubeApi) -> str:
    lease = api.get("Lease", "grpcgw", "grpcgw")
    return str(lease["spec"]["holderIdentity"]) if lease else ""


async def until_state(api: KubeApi, state: str, name: str = "greet") -> Body:
    await until(lambda: status_of(api, name).get("state") == state, f"{name} {state}")
    return status_of(api, name)


def test_a_mapping_is_running_then_inactive_with_the_reason_then_running_without_one(
    api: KubeApi, access: ClusterAccess
) -> None:
    put_mapping(api)

    async def scenario() -> None:
        async with replicas(access):
            assert await until_state(api, "Running") == {"state": "Running"}
            put_mapping(api, weight=1000)
            inactive = await until_state(api, "Inactive")
            assert inactive["reason"].startswith("spec.weight: ")
            assert inactive["reason"].endswith("; the last good version keeps serving")
            await until(lambda: len(api.all("Event")) == 1, "an Event")
            put_mapping(api)
            assert await until_state(api, "Running") == {"state": "Running"}
            await until(lambda: len(api.all("Event")) == 2, "another Event")

    run(scenario())
    rejected, accepted = api.all("Event")
    assert (rejected["type"], rejected["reason"], accepted["type"], accepted["reason"]) == (
        "Warning",
        "Rejected",
        "Normal",
        "Accepted",
    )
    assert rejected["regarding"]["kind"] == "Mapping"
    assert rejected["regarding"]["name"] == "greet"
    assert rejected["metadata"]["namespace"] == "greet"
    assert rejected["note"].startswith("spec.weight: ")


def test_what_the_cluster_says_already_is_not_written_again_and_a_status_compiles_nothing(
    api: KubeApi, access: ClusterAccess
) -> None:
    for number in range(5):
        put_mapping(api, f"m{number}")

    async def scenario() -> None:
        async with replicas(access) as (first,):
            await until(lambda: all(status_of(api, f"m{number}") for number in range(5)), "written")
            compilations = first.compilations
            put_mapping(api, "later")
            await until_state(api, "Running", "later")
            assert first.compilations == compilations + 1
        async with replicas(access) as (second,):
            await until(lambda: second.compilations > 0 and bool(holder(api)), "read and leading")
            put_mapping(api, "last")
            await until_state(api, "Running", "last")

    run(scenario())
    assert len(requests_for(api, "patch", "Mapping")) == 7
    assert api.all("Event") == []


def test_an_object_without_a_status_has_its_error_told_by_one_event(api: KubeApi, access: ClusterAccess) -> None:
    metadata = {"name": "other", "namespace": "greet"}
    api.put({"apiVersion": "getambassador.io/v2", "kind": "Module", "metadata": metadata, "spec": {"config": {}}})

    async def scenario() -> None:
        async with replicas(access):
            await until(lambda: len(api.all("Event")) == 1, "an Event")
            put_mapping(api)
            await until_state(api, "Running")

    run(scenario())
    (event,) = api.all("Event")
    assert event["regarding"]["kind"] == "Module"
    assert "should be named ambassador" in event["note"]


def test_a_host_without_its_secret_is_in_error(api: KubeApi, access: ClusterAccess) -> None:
    metadata = {"name": "h", "namespace": "greet"}
    spec = {"hostname": "*", "tlsSecret": {"name": "none"}}
    api.put({"apiVersion": "getambassador.io/v2", "kind": "Host", "metadata": metadata, "spec": spec})

    async def scenario() -> None:
        async with replicas(access):
            await until(lambda: status_of(api, "h", "Host").get("state") == "Error", "an error")
            assert "none" in status_of(api, "h", "Host")["errorReason"]

    run(scenario())


def test_one_replica_writes_and_when_it_leaves_another_goes_on(api: KubeApi, access: ClusterAccess) -> None:
    put_mapping(api)

    async def scenario() -> None:
        async with replicas(access, 2) as both:
            await until_state(api, "Running")
            await until(lambda: all(replica.compilations for replica in both), "both compiled")
            first = holder(api)
            async with replicas(access):
                pass  # one that never leads gives nothing back
            assert holder(api) == first
        assert holder(api) == "", "given back at the end"
        async with replicas(access):
            put_mapping(api, weight=1000)
            await until_state(api, "Inactive")
        lease = api.get("Lease", "grpcgw", "grpcgw")
        assert lease is not None
        assert lease["spec"]["leaseTransitions"] == 1

    run(scenario())
    assert len(requests_for(api, "patch", "Mapping")) == 2


def test_the_lease_of_a_replica_that_died_is_taken_over_when_its_time_is_over(
    api: KubeApi, access: ClusterAccess
) -> None:
    put_mapping(api)
    spec = {"holderIdentity": "dead", "leaseDurationSeconds": 1, "leaseTransitions": 4}
    metadata = {"name": "grpcgw", "namespace": "grpcgw"}
    api.put({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec})

    async def scenario() -> None:
        async with replicas(access):
            await until_state(api, "Running")
            looks = [each.at_s for each in requests_for(api, "get", "Lease")]
            taken = requests_for(api, "update", "Lease")[0]
            assert taken.at_s - looks[0] >= 1.0

    run(scenario())


def test_a_leader_that_cannot_renew_stops_writing_before_another_may_begin(api: KubeApi, access: ClusterAccess) -> None:
    put_mapping(api)
    short = replace(BRISK, lease=LeasePace(duration_s=3.0, renew_s=0.05, request_s=20.0))

    async def scenario() -> None:
        async with replicas(access, pace=short) as (replica,):
            await until_state(api, "Running")
            api.refuse(503, "Lease")
            await until(lambda: not replica.writer._elector.leading, "no longer leading")
            put_mapping(api, weight=1000)
            before = replica.compilations
            await until(lambda: replica.compilations > before, "compiled")
            assert status_of(api) == {"state": "Running"}, "it is Inactive by now, but nobody may write"
            api.accept()
            await until_state(api, "Inactive")

    run(scenario())


def test_what_was_due_while_a_renewal_took_too_long_is_written_after_it(api: KubeApi, access: ClusterAccess) -> None:
    """The renewal begins in time and ends in time for the next period, but after the end of the last one."""
    put_mapping(api)
    short = replace(BRISK, lease=LeasePace(duration_s=1.5, renew_s=0.5, request_s=20.0))

    async def scenario() -> None:
        async with replicas(access, pace=short) as (replica,):
            await until_state(api, "Running")
            api.freeze()
            await until(lambda: not replica.writer._elector.leading, "no longer leading")
            replica.writer.report([], [error(key_of("greet"), "is wrong")])
            for _ in range(5):  # turns of the loop, in which the writer sees that it does not lead
                await asyncio.sleep(0)
            api.thaw()
            await until_state(api, "Inactive")

    run(scenario())


def test_a_status_that_meets_a_newer_object_is_decided_anew(api: KubeApi, access: ClusterAccess) -> None:
    put_mapping(api)

    async def scenario() -> None:
        async with replicas(access):
            await until_state(api, "Running")
            for number in range(20):
                put_mapping(api, weight=1000 if number % 2 else 10)
            await until_state(api, "Inactive")
            put_mapping(api)
            await until_state(api, "Running")

    run(scenario())


def test_an_api_server_that_is_away_or_overloaded_is_tried_again(api: KubeApi, access: ClusterAccess) -> None:
    put_mapping(api, weight=1000)
    api.refuse(500, "Mapping", "patch")

    async def scenario() -> None:
        async with replicas(access):
            await until(lambda: len(requests_for(api, "patch", "Mapping")) > 1, "tried twice")
            api.accept()
            api.refuse(429, "Event")
            await until_state(api, "Inactive")
            await until(lambda: len(requests_for(api, "create", "Event")) > 1, "tried twice")
            api.accept()
            await until(lambda: len(api.all("Event")) == 1, "an Event")

    run(scenario())


def test_several_statuses_are_written_at_a_time_and_no_more_than_that(api: KubeApi, access: ClusterAccess) -> None:
    api.write_delay_s = 0.02
    for number in range(60):
        put_mapping(api, f"m{number}")

    async def scenario() -> None:
        async with replicas(access):
            await until(lambda: all("status" in body for body in api.all("Mapping")), "all written")

    run(scenario())
    assert len(requests_for(api, "patch", "Mapping")) == 60
    assert api.most_writes == BRISK.in_flight


def test_an_api_server_that_asks_to_be_left_alone_is(api: KubeApi, access: ClusterAccess) -> None:
    for number in range(30):
        put_mapping(api, f"m{number}")
    api.refuse(429, "Mapping", "patch", retry_after_s=1)

    async def scenario() -> None:
        async with replicas(access):
            await until(lambda: bool(requests_for(api, "patch", "Mapping")), "refused")
            api.accept()
            await until(lambda: all("status" in body for body in api.all("Mapping")), "all written")

    run(scenario())
    times = [each.at_s for each in requests_for(api, "patch", "Mapping")]
    begun = BRISK.in_flight
    assert times[begun] - times[begun - 1] >= 0.9, "those under way are answered, then nobody asks"


@pytest.mark.parametrize(
    ("kind", "verb", "right"),
    [
        ("Mapping", "patch", '"patch" on mappings/status.getambassador.io'),
        ("Event", "create", '"create" on events.events.k8s.io'),
        ("Lease", "get", 'the rights "get", "create" and "update" on leases.coordination.k8s.io in namespace grpcgw'),
        ("Lease", "create", 'the rights "get", "create" and "update" on leases.coordination.k8s.io'),
    ],
)
def test_a_right_that_is_missing_is_named_once_and_what_is_allowed_goes_on(
    kind: str, verb: str, right: str, api: KubeApi, access: ClusterAccess, caplog: pytest.LogCaptureFixture
) -> None:
    put_mapping(api, weight=1000)
    api.refuse(403, kind, verb)

    async def scenario() -> None:
        async with replicas(access) as (replica,):
            await until(lambda: bool(replica.notices()), "a notice")
            (notice,) = replica.notices()
            assert right in notice
            assert "deploy/rbac.yaml" in notice
            if kind == "Mapping":
                await until(lambda: len(api.all("Event")) == 1, "the Event all the same")
            elif kind == "Event":
                await until_state(api, "Inactive")
            await until(lambda: len(requests_for(api, verb, kind)) > 1, "tried again later")
            api.accept()
            await until(lambda: not replica.notices(), "no notice")
            await until_state(api, "Inactive")

    run(scenario())
    assert sum("not allowed" in message for message in caplog.messages) == 1


def test_ten_thousand_changes_between_two_looks_are_one_write_each(api: KubeApi, access: ClusterAccess) -> None:
    async def scenario() -> None:
        store = ObjectStore()
        writer = StatusWriter(store, access, PLURALS, "grpcgw", pace=BRISK)
        put_mapping(api)
        body = api.get("Mapping", "greet", "greet")
        assert body is not None
        obj = KubeObject("getambassador.io/v2", key_of("greet"), body, Source("kubernetes"))
        store.apply("p", obj)
        for number in range(10_000):
            problems = [error(obj.key, "wrong")] if number % 2 else []
            writer.report([obj.key], problems)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(writer.run())
            await until_state(api, "Inactive")
            await until(lambda: len(api.all("Event")) == 1, "an Event")
            running.cancel()

    run(scenario())
    assert len(requests_for(api, "patch", "Mapping")) == 1


# ---- deploy/


def granted(kind: str, name: str) -> set[tuple[str, str, str, tuple[str, ...]]]:
    text = (Path(__file__).parents[2] / "deploy" / "rbac.yaml").read_text()
    (role,) = [
        document
        for document in yaml.safe_load_all(text)
        if (document["kind"], document["metadata"]["name"]) == (kind, name)
    ]
    return {
        (group, resource, verb, tuple(rule.get("resourceNames", ())))
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_rights_to_write_are_those_of_statuses_events_and_one_lease() -> None:
    plurals = {"Mapping": "mappings", "Host": "hosts"}
    assert set(plurals) == KINDS_WITH_STATUS
    assert granted("ClusterRole", "grpcgw-status") == {
        *(("getambassador.io", f"{plural}/status", "patch", ()) for plural in plurals.values()),
        ("events.k8s.io", "events", "create", ()),
    }
    assert granted("Role", "grpcgw-lease") == {
        ("coordination.k8s.io", "leases", "create", ()),
        ("coordination.k8s.io", "leases", "get", (lease_name("default"),)),
        ("coordination.k8s.io", "leases", "update", (lease_name("default"),)),
    }


def test_an_event_is_one_that_a_server_takes() -> None:
    told = ("Warning", "Rejected", "n" * 5000)
    event = make_event(mapping("m" * 253), told, "i" * 300, datetime(2026, 1, 2, 3, 4, 5, 6, UTC))
    metadata: Any = event["metadata"]
    assert len(metadata["name"]) <= 253
    assert event["eventTime"] == "2026-01-02T03:04:05.000006Z"
    assert len(str(event["note"])) <= 1024
    assert len(str(event["reportingInstance"])) <= 128
    assert version_of(mapping("a", "9")) == "9"
