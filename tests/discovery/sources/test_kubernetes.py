"""Discovery from an API server: what a cluster holds reaches the store, and stays there on the server's bad days."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grpcgw.ambassador.dialect_objects import make_dialect_objects
from grpcgw.discovery.sources.kubernetes import KubernetesSource
from grpcgw.discovery.sources.kubernetes_api import ClusterAccess
from grpcgw.discovery.sources.reflector import ReflectorPace
from grpcgw.discovery.store import ObjectStore, SourceStatus
from grpcgw.errors import UserError
from grpcgw.model.dialect import ApiResource
from grpcgw.model.objects import KubeObject, ObjectKey, Severity
from tests.crd_schemas import read_crds
from tests.kube_api import BUILT_IN_KINDS, CUSTOM_KINDS, KubeApi, Request
from tests.kube_cluster import Body, Cluster
from tests.parsing import KINDS, WATCHED_KINDS
from tests.scenarios import run

DEPLOY = Path(__file__).parents[3] / "deploy"
DEADLINE_S = 30.0

BRISK = ReflectorPace(
    page_size=2, watch_s=(5.0, 9.0), silence_s=20.0, request_s=20.0, recheck_s=0.1, retry_base_s=0.02, retry_cap_s=0.1
)

HASTY = replace(BRISK, silence_s=2.0, request_s=1.0)
"""For servers that stop: a connection made in that moment may stay open without an answer."""


class Highest(Random):
    """The longest delay that jitter allows."""

    def uniform(self, a: float, b: float) -> float:
        return b


@asynccontextmanager
async def reading(
    access: ClusterAccess,
    namespace: str = "",
    pace: ReflectorPace = BRISK,
    random: Random | None = None,
    ambassador_id: str = "default",
) -> AsyncIterator[ObjectStore]:
    store = ObjectStore()
    async with asyncio.TaskGroup() as group:
        source = KubernetesSource(
            store, access, make_dialect_objects(ambassador_id), namespace, pace=pace, random=random
        )
        running = group.create_task(source.run())
        yield store
        running.cancel()


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        await asyncio.sleep(0.005)


async def until_synced(store: ObjectStore) -> None:
    await until(lambda: store.synced() and all(each.watching for each in store.statuses()), "synced and watching")


def status(store: ObjectStore, kind: str) -> SourceStatus:
    return next(each for each in store.statuses() if each.name == f"kubernetes {kind}")


def names(store: ObjectStore, kind: str, namespace: str | None = None) -> set[str]:
    return {obj.key.name for obj in store.of_kind(kind) if namespace in (None, obj.key.namespace)}


def body_of(obj: KubeObject | None) -> dict[str, Any]:
    assert obj is not None
    return dict(obj.body)


def versions(store: ObjectStore, kind: str) -> dict[str, str]:
    return {obj.key.name: body_of(obj)["metadata"]["resourceVersion"] for obj in store.of_kind(kind)}


def mapping(name: str, namespace: str = "greet", api_version: str = "getambassador.io/v2", **spec: object) -> Body:
    metadata = {"name": name, "namespace": namespace}
    spec = {"prefix": "/", "service": "greet", **spec}
    return {"apiVersion": api_version, "kind": "Mapping", "metadata": metadata, "spec": spec}


def secret(name: str, kind: str, namespace: str = "greet") -> Body:
    metadata = {"name": name, "namespace": namespace}
    data = {"tls.crt": "", "tls.key": ""} if kind == "kubernetes.io/tls" else {}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind, "data": data}


def endpoints(kind: str, name: str, namespace: str = "greet") -> Body:
    metadata = {"name": name, "namespace": namespace}
    if kind == "Endpoints":
        return {"apiVersion": "v1", "kind": kind, "metadata": metadata, "subsets": []}
    slice_of = {"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 50051}]}
    return {"apiVersion": "discovery.k8s.io/v1", "kind": kind, "metadata": metadata, **slice_of}


def requests_for(api: KubeApi, verb: str, kind: str) -> list[Request]:
    return [each for each in api.requests if (each.verb, each.kind) == (verb, kind)]


# ---- any cluster


def test_objects_that_exist_and_each_change_of_them_reach_the_store(cluster: Cluster) -> None:
    space = cluster.namespace
    cluster.put(mapping("old", space))

    async def scenario() -> None:
        async with reading(cluster.access) as store:
            await until_synced(store)
            assert names(store, "Mapping", space) == {"old"}
            cluster.put(mapping("new", space))
            await until(lambda: names(store, "Mapping", space) == {"old", "new"}, "added")
            cluster.put(mapping("new", space, service="greet:1"))
            key = ObjectKey("Mapping", space, "new")
            await until(lambda: body_of(store.get(key))["spec"] == {"prefix": "/", "service": "greet:1"}, "modified")
            cluster.delete("Mapping", space, "old")
            await until(lambda: names(store, "Mapping", space) == {"new"}, "deleted")

    run(scenario())


def test_fields_that_no_schema_knows_reach_the_store(cluster: Cluster) -> None:
    space = cluster.namespace
    cluster.put(mapping("listed", space, mispelt={"deep": [1]}))

    async def scenario() -> None:
        async with reading(cluster.access) as store:
            await until_synced(store)
            cluster.put(mapping("watched", space, mispelt={"deep": [1]}))
            await until(lambda: names(store, "Mapping", space) == {"listed", "watched"}, "added")
            for name in ("listed", "watched"):
                spec = body_of(store.get(ObjectKey("Mapping", space, name)))["spec"]
                assert spec == {"prefix": "/", "service": "greet", "mispelt": {"deep": [1]}}

    run(scenario())


def test_no_secret_but_certificates_is_read(cluster: Cluster) -> None:
    space = cluster.namespace
    cluster.put(secret("certificate", "kubernetes.io/tls", space))
    cluster.put(secret("password", "Opaque", space))

    async def scenario() -> None:
        async with reading(cluster.access) as store:
            await until_synced(store)
            cluster.put(secret("another-password", "Opaque", space))
            cluster.put(secret("later", "kubernetes.io/tls", space))
            await until(lambda: "later" in names(store, "Secret", space), "added")
            assert names(store, "Secret", space) == {"certificate", "later"}

    run(scenario())


def test_a_namespace_scope_hides_all_other_namespaces(cluster: Cluster) -> None:
    cluster.put(mapping("mine", cluster.namespace))
    cluster.put(mapping("other", "default"))

    async def scenario() -> None:
        async with reading(cluster.access, cluster.namespace) as store:
            await until_synced(store)
            cluster.put(mapping("other-later", "default"))
            cluster.put(mapping("mine-later", cluster.namespace))
            await until(lambda: "mine-later" in names(store, "Mapping"), "added")
            assert names(store, "Mapping") == {"mine", "mine-later"}

    try:
        run(scenario())
    finally:
        cluster.delete("Mapping", "default", "other")
        cluster.delete("Mapping", "default", "other-later")


def test_objects_of_one_name_in_two_groups_are_two_objects(api: KubeApi, access: ClusterAccess) -> None:
    """A FilterPolicy that was hidden by another one would protect nothing."""

    def policy(api_version: str, path: str) -> Body:
        spec = {"rules": [{"path": path}]}
        return {"apiVersion": api_version, "kind": "FilterPolicy", "metadata": {"name": "one"}, "spec": spec}

    def paths(store: ObjectStore) -> dict[str, str]:
        return {obj.key.name: obj.body["spec"]["rules"][0]["path"] for obj in store.of_kind("FilterPolicy")}  # type: ignore[index,call-overload]

    async def scenario() -> None:
        second = "one (gateway.getambassador.io)"
        api.put(policy("gateway.getambassador.io/v1alpha1", "/b"))
        async with reading(access) as store:
            await until(lambda: paths(store) == {second: "/b"}, "the second group's")
            api.put(policy("getambassador.io/v3alpha1", "/a"))
            await until(lambda: paths(store) == {"one": "/a", second: "/b"}, "both")
            api.put(policy("gateway.getambassador.io/v1alpha1", "/c"))
            await until(lambda: paths(store) == {"one": "/a", second: "/c"}, "a change")
            api.delete("FilterPolicy.gateway.getambassador.io", "default", "one")
            await until(lambda: paths(store) == {"one": "/a"}, "the first group's")

    run(scenario())


def test_firewalls_of_edge_stack_are_read(api: KubeApi, access: ClusterAccess) -> None:
    """One that was passed over would leave open what it protects."""
    kinds = ("WebApplicationFirewall", "WebApplicationFirewallPolicy")

    async def scenario() -> None:
        for kind in kinds:
            api.put(
                {
                    "apiVersion": "gateway.getambassador.io/v1alpha1",
                    "kind": kind,
                    "metadata": {"name": "waf"},
                    "spec": {},
                }
            )
        async with reading(access) as store:
            await until(lambda: all(names(store, kind) == {"waf"} for kind in kinds), "both")

    run(scenario())


def test_endpoint_slices_are_read_and_endpoints_left_alone_where_both_exist(cluster: Cluster) -> None:
    space = cluster.namespace
    cluster.put(endpoints("EndpointSlice", "slice", space))
    cluster.put(endpoints("Endpoints", "legacy", space))

    async def scenario() -> None:
        async with reading(cluster.access) as store:
            await until_synced(store)
            assert "slice" in names(store, "EndpointSlice", space)
            assert names(store, "Endpoints") == set()

    run(scenario())


# ---- kinds that are not there


def test_endpoints_are_read_with_a_notice_where_the_cluster_has_no_slices(api: KubeApi, access: ClusterAccess) -> None:
    api.uninstall("EndpointSlice")
    api.put(endpoints("Endpoints", "legacy"))

    async def scenario() -> None:
        async with reading(access) as store:
            await until_synced(store)
            assert names(store, "Endpoints") == {"legacy"}
            assert [problem.severity for problem in store.problems()] == [Severity.NOTICE]

    run(scenario())


def test_a_kind_that_is_not_installed_is_a_notice_and_picked_up_when_it_appears(
    api: KubeApi, access: ClusterAccess
) -> None:
    api.uninstall("Mapping")

    async def scenario() -> None:
        async with reading(access) as store:
            await until(store.synced, "synced without Mapping")
            (problem,) = store.problems()
            assert (problem.severity, problem.where) == (Severity.NOTICE, "kubernetes")
            assert "Mapping (getambassador.io) is not installed" in problem.message
            assert not status(store, "Mapping").watching
            assert status(store, "Mapping").last_contact_s > 0
            api.install("Mapping")
            api.put(mapping("greet"))
            await until(lambda: names(store, "Mapping") == {"greet"}, "picked up")
            assert store.problems() == ()

    run(scenario())


def test_objects_go_when_their_kind_is_uninstalled(api: KubeApi, access: ClusterAccess) -> None:
    api.put(mapping("greet"))

    async def scenario() -> None:
        async with reading(access) as store:
            await until_synced(store)
            api.stop()  # so that the deletions themselves are missed
            api.uninstall("Mapping")
            api.start()
            await until(lambda: names(store, "Mapping") == set(), "gone")
            assert "Mapping (getambassador.io) is not installed" in store.problems()[0].message

    run(scenario())


def test_a_kind_that_is_missing_for_a_moment_keeps_its_objects(api: KubeApi, access: ClusterAccess) -> None:
    api.put(mapping("greet"))

    async def scenario() -> None:
        async with reading(access, pace=replace(BRISK, recheck_s=1.0)) as store:
            await until_synced(store)
            seen: list[set[str]] = []
            store.subscribe(lambda _: seen.append(names(store, "Mapping")))
            api.refuse(404, "Mapping")
            api.send_error(410, "Mapping")
            await until(lambda: "no longer served" in status(store, "Mapping").error, "noticed")
            api.accept()
            await until(lambda: status(store, "Mapping").watching, "back")
            assert set() not in seen
            assert names(store, "Mapping") == {"greet"}

    run(scenario())


def test_the_kind_is_read_in_the_version_that_is_served(tmp_path: Path) -> None:
    only_v2 = [replace(kind, versions=("v2", "v1")) for kind in CUSTOM_KINDS if "v2" in kind.versions]
    only_v2 += [kind for kind in CUSTOM_KINDS if "v2" not in kind.versions]
    with KubeApi(kinds=[*only_v2, *BUILT_IN_KINDS]) as api:
        api.put(mapping("greet", api_version="getambassador.io/v1"))

        async def scenario() -> None:
            async with reading(ClusterAccess(api.kubeconfig(tmp_path / "kubeconfig"))) as store:
                await until_synced(store)
                (found,) = store.of_kind("Mapping")
                assert found.api_version == "getambassador.io/v2"

        run(scenario())


# ---- lists


def test_a_long_list_is_read_in_pages(api: KubeApi, access: ClusterAccess) -> None:
    for number in range(5):
        api.put(mapping(f"m{number}"))

    async def scenario() -> None:
        async with reading(access) as store:
            await until_synced(store)
            assert names(store, "Mapping") == {f"m{number}" for number in range(5)}

    run(scenario())
    assert [each.query.get("limit") for each in requests_for(api, "list", "Mapping")] == ["2", "2", "2"]


def test_a_list_that_changes_between_its_pages_is_taken_in_one_piece(api: KubeApi, access: ClusterAccess) -> None:
    api.compact_between_pages = True
    for number in range(5):
        api.put(mapping(f"m{number}"))

    async def scenario() -> None:
        async with reading(access, pace=replace(BRISK, page_size=4)) as store:
            await until(lambda: status(store, "Mapping").synced, "read")
            assert names(store, "Mapping") == {f"m{number}" for number in range(5)}

    run(scenario())
    first, second, third = requests_for(api, "list", "Mapping")[:3]
    assert (first.query["limit"], "continue" in second.query, third.query) == ("4", True, {})


def test_what_was_deleted_while_nobody_watched_is_noticed(api: KubeApi, access: ClusterAccess) -> None:
    api.put(mapping("stays"))
    api.put(mapping("goes"))

    async def scenario() -> None:
        async with reading(access) as store:
            await until_synced(store)
            api.stop()
            api.delete("Mapping", "greet", "goes")
            api.put(mapping("comes"))
            api.compact()
            api.start()
            await until(lambda: names(store, "Mapping") == {"stays", "comes"}, "listed again")

    run(scenario())


def test_a_relist_of_unchanged_objects_changes_nothing(api: KubeApi, access: ClusterAccess) -> None:
    api.put({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "greet"}})

    async def scenario() -> None:
        async with reading(access) as store:
            await until_synced(store)
            api.put({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "b", "namespace": "greet"}})
            await until(lambda: names(store, "Service") == {"a", "b"}, "watched")
            changes: list[frozenset[ObjectKey]] = []
            store.subscribe(changes.append)
            api.send_error(410, "Service")
            await until(lambda: len(requests_for(api, "watch", "Service")) == 2, "watching again")
            assert len(requests_for(api, "list", "Service")) == 2
            assert changes == []

    run(scenario())


# ---- bad days of a watch


@pytest.mark.parametrize(
    "odd",
    [
        b'{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old resource version"}}\n',
        b"no json at all\n",
        b'{"type":"ADDED","object":' + b'{"spec":' * 3000 + b"1" + b"}" * 3001 + b"\n",
        b'{"type":"SURPRISE","object":{}}\n',
        b'{"type":"MODIFIED","object":{"metadata":{"name":"ghost","namespace":"greet","resourceVersion":"9"}}}\n',
        b'{"type":"DELETED","object":{"metadata":{"name":"ghost","namespace":"greet","resourceVersion":"9"}}}\n',
    ],
    ids=["410", "garbage", "nested too deeply", "unknown type", "gap before a change", "gap before a deletion"],
)
def test_an_odd_event_leads_to_a_new_list(api: KubeApi, access: ClusterAccess, odd: bytes) -> None:
    async def scenario() -> None:
        async with reading(access) as store:
            await until_synced(store)
            api.send_raw(odd, "Mapping")
            await until(lambda: len(requests_for(api, "list", "Mapping")) == 2, "listed again")
            api.put(mapping("greet"))
            await until(lambda: names(store, "Mapping") == {"greet"}, "alive")
            assert status(store, "Mapping").error == ""
            await until(lambda: api.watches("Mapping") == 1, "the former watch is closed")

    run(scenario())


def test_a_connection_lost_in_the_middle_of_a_line_is_resumed_without_a_new_list(
    api: KubeApi, access: ClusterAccess
) -> None:
    async def scenario() -> None:
        async with reading(access) as store:
            await until_synced(store)
            half = json.dumps({"type": "ADDED", "object": mapping("ghost")})[:60]
            api.send_raw(half.encode(), "Mapping")
            api.drop_connections("Mapping")
            api.put(mapping("greet"))
            await until(lambda: names(store, "Mapping") == {"greet"}, "resumed")

    run(scenario())
    assert len(requests_for(api, "list", "Mapping")) == 1


def test_changes_keep_coming_from_a_server_that_closes_every_watch_at_once(api: KubeApi, access: ClusterAccess) -> None:
    api.close_watches_after_s = 0.0

    async def scenario() -> None:
        async with reading(access) as store:
            for number in range(5):
                api.put(mapping(f"m{number}"))
                await until(lambda: len(names(store, "Mapping")) == number + 1, "seen")  # noqa: B023

    run(scenario())
    assert len(requests_for(api, "list", "Mapping")) == 1


def test_a_server_that_closes_every_watch_at_once_is_not_hammered(api: KubeApi, access: ClusterAccess) -> None:
    api.close_watches_after_s = 0.0
    pace = replace(BRISK, retry_base_s=0.05, rewatch_cap_s=0.2)

    async def scenario() -> None:
        async with reading(access, pace=pace, random=Highest()):
            await until(lambda: len(requests_for(api, "watch", "Mapping")) >= 5, "five watches")

    run(scenario())
    times = [each.at_s for each in requests_for(api, "watch", "Mapping")]
    assert times[4] - times[0] >= 0.05 + 0.1 + 0.2 + 0.2


def test_bookmarks_prove_life_and_move_the_place_to_resume_from(api: KubeApi, access: ClusterAccess) -> None:
    api.bookmark_interval_s = 0.02

    async def scenario() -> None:
        async with reading(access) as store:
            await until_synced(store)
            before = status(store, "Mapping").last_contact_s
            version = api.put(secret("other kind", "kubernetes.io/tls"))
            await until(lambda: status(store, "Mapping").last_contact_s > before, "a bookmark")
            resumed_from = int(requests_for(api, "watch", "Mapping")[-1].query["resourceVersion"])
            assert resumed_from < int(version)
            contact = status(store, "Mapping").last_contact_s
            await until(lambda: status(store, "Mapping").last_contact_s > contact, "a bookmark after the change")
            api.drop_connections("Mapping")
            await until(lambda: len(requests_for(api, "watch", "Mapping")) > 1, "resumed")
            assert requests_for(api, "watch", "Mapping")[-1].query["resourceVersion"] == version

    run(scenario())


def test_an_object_of_a_megabyte_passes_through_list_and_watch(api: KubeApi, access: ClusterAccess) -> None:
    api.put(mapping("listed", text="x" * 1_000_000))

    async def scenario() -> None:
        async with reading(access) as store:
            await until_synced(store)
            api.put(mapping("watched", text="y" * 3_000_000))
            await until(lambda: names(store, "Mapping") == {"listed", "watched"}, "both")

    run(scenario())


# ---- a server that is away, slow or refuses


def delete_if_there(api: KubeApi, name: str) -> None:
    if name in api.versions("Mapping"):
        api.delete("Mapping", "greet", name)


STEPS: dict[str, Callable[[KubeApi, int], object]] = {
    "put": lambda api, number: api.put(mapping(f"m{number}")),
    "delete": lambda api, number: delete_if_there(api, f"m{number}"),
    "compact": lambda api, _: api.compact(),
    "drop": lambda api, _: api.drop_connections(),
    "half a line": lambda api, _: api.send_raw(b'{"type":"DELETED","obj', "Mapping"),
    "expire": lambda api, _: api.send_error(410, "Mapping"),
    "refuse": lambda api, _: api.refuse(503),
    "accept": lambda api, _: api.accept(),
    "stop": lambda api, _: api.stop(),
    "start": lambda api, _: api.start(),
}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 3)), max_size=20))
def test_whatever_happens_the_store_ends_equal_to_the_cluster(tmp_path: Path, steps: list[tuple[str, int]]) -> None:
    with KubeApi() as api:

        async def scenario() -> None:
            async with reading(ClusterAccess(api.kubeconfig(tmp_path / "kubeconfig")), pace=HASTY) as store:
                for name, number in steps:
                    STEPS[name](api, number)
                    await asyncio.sleep(0)
                api.accept()
                api.start()
                api.put(mapping("last"))
                await until(lambda: versions(store, "Mapping") == api.versions("Mapping"), "equal")

        run(scenario())


def test_the_last_state_keeps_serving_while_the_server_is_away(api: KubeApi, access: ClusterAccess) -> None:
    api.put(mapping("greet"))

    async def scenario() -> None:
        async with reading(access) as store:
            await until_synced(store)
            api.stop()
            await until(lambda: not any(each.watching for each in store.statuses()), "noticed by all")
            assert names(store, "Mapping") == {"greet"}
            assert store.synced()
            assert api.url in status(store, "Mapping").error
            contact = status(store, "Mapping").last_contact_s
            assert contact > 0
            api.put(mapping("meanwhile"))
            api.start()
            await until_synced(store)
            await until(lambda: names(store, "Mapping") == {"greet", "meanwhile"}, "caught up")
            assert status(store, "Mapping").last_contact_s > contact
            assert status(store, "Mapping").error == ""

    run(scenario())


def test_a_server_that_is_down_at_the_start_is_waited_for(api: KubeApi, access: ClusterAccess) -> None:
    api.stop()

    async def scenario() -> None:
        async with reading(access) as store:
            await until(lambda: all(each.error for each in store.statuses()), "reported by all")
            assert len(store.statuses()) == len(WATCHED_KINDS)
            assert not store.synced()
            api.start()
            await until_synced(store)

    run(scenario())


def test_a_list_that_hangs_is_given_up_and_tried_again(api: KubeApi, access: ClusterAccess) -> None:
    api.hang_lists = True

    async def scenario() -> None:
        async with reading(access, pace=replace(BRISK, request_s=0.3)) as store:
            await until(lambda: "silent for too long" in status(store, "Mapping").error, "noticed")
            api.hang_lists = False
            await until(lambda: status(store, "Mapping").synced, "read")

    run(scenario())


@pytest.mark.parametrize("verb", ["list", "watch", "discover"])
def test_a_server_that_fails_is_asked_again(api: KubeApi, access: ClusterAccess, verb: str) -> None:
    api.refuse(500, verb=verb)

    async def scenario() -> None:
        async with reading(access) as store:
            await until(lambda: "500 made to fail" in status(store, "Mapping").error, "reported")
            api.accept()
            await until_synced(store)
            assert status(store, "Mapping").error == ""

    run(scenario())
    if verb == "watch":
        assert len(requests_for(api, "list", "Mapping")) == 1, "a watch that failed is resumed"


@pytest.mark.parametrize("verb", ["list", "watch"])
def test_a_missing_right_is_named(api: KubeApi, access: ClusterAccess, verb: str) -> None:
    api.refuse(403, "Mapping", verb)

    async def scenario() -> None:
        async with reading(access, "greet") as store:
            right = f'"{verb}" on mappings.getambassador.io in namespace greet'
            await until(lambda: right in status(store, "Mapping").error, "named")
            assert "deploy/rbac.yaml grants it" in status(store, "Mapping").error
            assert status(store, "Mapping").synced == (verb == "watch")
            api.accept()
            await until_synced(store)

    run(scenario())


def test_a_server_is_left_alone_for_as_long_as_it_asks(api: KubeApi, access: ClusterAccess) -> None:
    api.refuse(429, "Mapping", "list", retry_after_s=1)

    async def scenario() -> None:
        async with reading(access, pace=replace(BRISK, retry_cap_s=5.0)) as store:
            await until(lambda: "429" in status(store, "Mapping").error, "refused")
            api.accept()
            await until(lambda: status(store, "Mapping").synced, "read")

    run(scenario())
    first, second = requests_for(api, "list", "Mapping")
    assert second.at_s - first.at_s >= 1.0


def test_one_kind_that_fails_does_not_hold_up_the_others(api: KubeApi, access: ClusterAccess) -> None:
    api.refuse(500, "Secret", "list")

    async def scenario() -> None:
        async with reading(access) as store:
            await until(lambda: sum(each.watching for each in store.statuses()) == len(WATCHED_KINDS) - 1, "others")
            assert not store.synced()

    run(scenario())


def test_a_right_to_read_ingresses_is_missed_but_not_waited_for(api: KubeApi, access: ClusterAccess) -> None:
    api.refuse(403, "Ingress", "list")

    async def scenario() -> None:
        async with reading(access) as store:
            await until(store.synced, "synced")
            await until(lambda: any("ingresses" in str(each) for each in store.problems()), "reported")

    run(scenario())


# ---- annotations


def annotated(kind: str, name: str, text: str) -> Body:
    metadata = {"name": name, "namespace": "greet", "annotations": {"getambassador.io/config": text}}
    api_version = "v1" if kind == "Service" else "networking.k8s.io/v1"
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}


def flat(name: str, prefix: str = "/greet.Greeter/") -> str:
    return f"---\napiVersion: ambassador/v1\nkind: Mapping\nname: {name}\nprefix: {prefix}\nservice: greet:50051\n"


@pytest.mark.parametrize("kind", ["Service", "Ingress"])
def test_annotations_of_the_cluster_are_objects_that_come_change_and_go(
    api: KubeApi, access: ClusterAccess, kind: str
) -> None:
    api.put(annotated(kind, "greet", flat("one") + flat("two")))

    async def scenario() -> None:
        async with reading(access) as store:
            await until_synced(store)
            assert names(store, "Mapping", "greet") == {"one", "two"}
            api.put(annotated(kind, "greet", flat("one", "/other.Other/")))
            await until(lambda: names(store, "Mapping") == {"one"}, "one gone")
            (one,) = store.of_kind("Mapping")
            assert body_of(one)["spec"]["prefix"] == "/other.Other/"
            assert one.source.locate() == f"kubernetes, annotation of {kind} greet.greet"
            api.delete(kind, "greet", "greet")
            await until(lambda: not names(store, "Mapping"), "all gone")

    run(scenario())


def test_what_is_wrong_in_an_annotation_of_the_cluster_is_reported_until_it_is_right(
    api: KubeApi, access: ClusterAccess
) -> None:
    api.put(annotated("Service", "a", flat("greet")))
    api.put(annotated("Service", "b", "kind: [\n" + flat("x")))
    api.put(annotated("Service", "c", flat("greet", "/c/")))

    async def scenario() -> None:
        async with reading(access) as store:
            await until_synced(store)
            said = sorted(str(each) for each in store.problems())
            assert len(said) == 2
            assert said[0].startswith(
                "kubernetes, annotation of Service b.greet: error: annotation getambassador.io/config"
            )
            assert said[1].startswith(
                "kubernetes, annotation of Service c.greet: error: Mapping greet.greet: this object"
            )
            api.put(annotated("Service", "b", flat("x")))
            api.delete("Service", "greet", "c")
            await until(lambda: store.problems() == () and names(store, "Mapping") == {"greet", "x"}, "mended")

    run(scenario())


# ---- credentials


def test_credentials_that_were_replaced_are_read_again(api: KubeApi, access: ClusterAccess) -> None:
    async def scenario() -> None:
        async with reading(access) as store:
            await until_synced(store)
            api.token = "renewed"
            api.drop_connections()
            await until(lambda: "401" in status(store, "Mapping").error, "rejected")
            assert access.kubeconfig is not None
            api.kubeconfig(access.kubeconfig, token="renewed")
            await until_synced(store)

    run(scenario())


@pytest.mark.parametrize(
    ("content", "context", "named"),
    [
        (None, None, "kubeconfig {path} cannot be used"),
        ("clusters: [", None, "kubeconfig {path} cannot be used"),
        ("just text", None, "kubeconfig {path} cannot be used: it should be a file with clusters, users and contexts"),
        ("", None, "kubeconfig {path} cannot be used: it should be a file with clusters, users and contexts"),
        ("# nothing yet", None, "kubeconfig {path} cannot be used: it should be a file with clusters"),
        ("valid", "nowhere", "kubeconfig {path}, context nowhere cannot be used"),
    ],
    ids=["missing", "broken YAML", "not a kubeconfig", "empty", "only a comment", "unknown context"],
)
def test_a_kubeconfig_that_cannot_be_used_is_named(
    api: KubeApi, tmp_path: Path, content: str | None, context: str | None, named: str
) -> None:
    path = tmp_path / "kubeconfig"
    if content == "valid":
        api.kubeconfig(path)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as raised:
        asyncio.run(KubernetesSource(ObjectStore(), ClusterAccess(path, context), KINDS).run())
    assert str(raised.value).startswith(named.format(path=path))


def test_a_service_account_that_is_demanded_but_missing_is_an_error() -> None:
    with pytest.raises(UserError, match="service account cannot be used"):
        asyncio.run(KubernetesSource(ObjectStore(), ClusterAccess(in_cluster=True), KINDS).run())


# ---- deploy/


def documents(name: str) -> list[Body]:
    return [document for document in yaml.safe_load_all((DEPLOY / name).read_text()) if document]


def resources_read() -> list[ApiResource]:
    return [resource for kind in WATCHED_KINDS for resource in kind.candidates]


def test_the_rights_to_read_are_exactly_those_used() -> None:
    (role,) = [
        each for each in documents("rbac.yaml") if (each["kind"], each["metadata"]["name"]) == ("ClusterRole", "grpcgw")
    ]
    granted = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == {(each.group, each.plural, verb) for each in resources_read() for verb in ("list", "watch")}


def test_the_rights_are_bound_to_the_gateway_s_service_account() -> None:
    by_kind = {document["kind"]: document for document in documents("rbac.yaml")}
    account = by_kind["ServiceAccount"]["metadata"]
    bound = set()
    for binding in (document for document in documents("rbac.yaml") if document["kind"].endswith("Binding")):
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
        ]
        bound.add((binding["roleRef"]["kind"], binding["roleRef"]["name"]))
    roles = {
        (each["kind"], each["metadata"]["name"]) for each in documents("rbac.yaml") if each["kind"].endswith("Role")
    }
    assert bound == roles
    assert account["namespace"] == by_kind["Namespace"]["metadata"]["name"]


def test_every_custom_kind_that_is_read_has_a_crd_in_every_version() -> None:
    served = {
        (crd["spec"]["group"], version["name"], crd["spec"]["names"]["kind"], crd["spec"]["names"]["plural"])
        for crd in read_crds().values()
        for version in crd["spec"]["versions"]
        if version["served"]
    }
    typed = make_dialect_objects().kinds
    custom = [each for kind in WATCHED_KINDS for each in kind.candidates if each.kind in typed]
    assert served == {(each.group, each.version, each.kind, each.plural) for each in custom if not each.is_second}


@pytest.mark.parametrize("crd", read_crds().values(), ids=lambda crd: str(crd["metadata"]["name"]))
def test_a_crd_keeps_unknown_fields_and_stores_one_version(crd: Body) -> None:
    spec = crd["spec"]
    assert crd["metadata"]["name"] == f"{spec['names']['plural']}.{spec['group']}"
    assert spec["conversion"] == {"strategy": "None"}
    names = [version["name"] for version in spec["versions"]]
    stored = [version["name"] for version in spec["versions"] if version["storage"]]
    assert stored == (["v2"] if "v2" in names else names), "as Ambassador's own CRDs do"
    for version in spec["versions"]:
        schema = version["schema"]["openAPIV3Schema"]
        assert schema["properties"]["spec"]["x-kubernetes-preserve-unknown-fields"] is True
