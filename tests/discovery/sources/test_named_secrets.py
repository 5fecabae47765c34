"""Secrets of any type that TLSContexts and Hosts name: read one by one, for as long as something names them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grpcgw.discovery.sources.kubernetes_api import ClusterAccess
from grpcgw.discovery.store import ObjectStore
from grpcgw.model.objects import ObjectKey, Problem, Severity
from tests.discovery.sources.test_kubernetes import (
    BRISK,
    HASTY,
    body_of,
    mapping,
    names,
    reading,
    requests_for,
    secret,
    status,
    until,
    until_synced,
)
from tests.kube_api import KubeApi
from tests.kube_cluster import Body, Cluster
from tests.parsing import WATCHED_KINDS
from tests.scenarios import run

CA = ObjectKey("Secret", "greet", "ca")


def custom(kind: str, name: str, spec: object, namespace: str = "greet") -> Body:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "getambassador.io/v2", "kind": kind, "metadata": metadata, "spec": spec}


def context(ca_secret: object = "ca", name: str = "tls", namespace: str = "greet", **more: object) -> Body:
    return custom("TLSContext", name, {"ca_secret": ca_secret, **more}, namespace)


def opaque(name: str = "ca", text: str = "QQ==", namespace: str = "greet") -> Body:
    return {**secret(name, "Opaque", namespace), "data": {"ca.crt": text}}


def text_of(store: ObjectStore, key: ObjectKey = CA) -> object:
    return None if store.get(key) is None else body_of(store.get(key))["data"]["ca.crt"]


def sources(store: ObjectStore) -> set[str]:
    """The names of the sources that are no kinds."""
    return {each.name for each in store.statuses()} - {f"kubernetes {kind.name}" for kind in WATCHED_KINDS}


# ---- any cluster


def test_a_named_secret_of_any_type_is_known_with_the_first_complete_read(cluster: Cluster) -> None:
    space = cluster.namespace
    for obj in (opaque("ca", namespace=space), opaque("other", namespace=space), context("ca", namespace=space)):
        cluster.put(obj)

    async def scenario() -> None:
        async with reading(cluster.access) as store:
            await until(store.synced, "synced")
            assert names(store, "Secret", space) == {"ca"}

    run(scenario())


def test_a_named_secret_comes_changes_and_goes(cluster: Cluster) -> None:
    space = cluster.namespace
    key = ObjectKey("Secret", space, "ca")
    cluster.put(context("ca", namespace=space))

    async def scenario() -> None:
        async with reading(cluster.access) as store:
            await until_synced(store)
            assert store.get(key) is None
            for text in ("QQ==", "Qg=="):
                cluster.put(opaque("ca", text, space))
                await until(lambda: text_of(store, key) == text, "come or changed")  # noqa: B023
            cluster.delete("Secret", space, "ca")
            await until(lambda: store.get(key) is None, "gone")

    run(scenario())


def test_a_named_secret_that_is_made_anew_with_another_type_is_followed(cluster: Cluster) -> None:
    space = cluster.namespace
    key = ObjectKey("Secret", space, "ca")
    cluster.put(context("ca", namespace=space))
    certificate = secret("ca", "kubernetes.io/tls", space)

    async def scenario() -> None:
        async with reading(cluster.access) as store:
            await until_synced(store)
            for obj in (opaque("ca", namespace=space), certificate, opaque("ca", namespace=space)):
                if store.get(key) is not None:
                    cluster.delete("Secret", space, "ca")
                cluster.put(obj)
                await until(lambda: store.get(key) is not None and body_of(store.get(key))["type"] == obj["type"], "it")  # noqa: B023
                assert bool(sources(store)) == (obj is not certificate), "a certificate needs no watch of its own"

    run(scenario())


# ---- which are read


@pytest.mark.parametrize(
    "named_by",
    [
        context("ca"),
        context("ca.greet", namespace="elsewhere"),
        context(None, secret="ca"),
        context("other", secret="ca", secret_namespacing=False),
        custom("Host", "host", {"tlsSecret": {"name": "ca"}}),
        custom("Host", "host", {"tlsSecret": {"name": "ca", "namespace": "greet"}}, "elsewhere"),
        custom("Host", "host", {"tls": {"ca_secret": "ca"}}),
        custom("Host", "host", {"tls": {"caSecret": "ca"}}),
    ],
)
def test_whatever_names_a_secret_makes_it_read(api: KubeApi, access: ClusterAccess, named_by: Body) -> None:
    api.put(opaque())
    api.put(named_by)

    async def scenario() -> None:
        async with reading(access) as store:
            await until(store.synced, "synced")
            assert store.get(CA) is not None

    run(scenario())


def selectors(api: KubeApi) -> set[str]:
    return {each.query["fieldSelector"] for each in requests_for(api, "list", "Secret")}


def test_certificates_that_are_named_are_not_asked_for_one_by_one(api: KubeApi, access: ClusterAccess) -> None:
    api.put(secret("ca", "kubernetes.io/tls"))
    api.put(context())
    api.refuse(503, "Secret")

    async def scenario() -> None:
        async with reading(access) as store:
            await until(lambda: names(store, "TLSContext") == {"tls"}, "known before any certificate")
            api.accept()
            await until_synced(store)
            assert sources(store) == set()

    run(scenario())
    assert selectors(api) == {"type=kubernetes.io/tls"}


def test_what_is_asked_for_by_name_leaves_out_certificates(api: KubeApi, access: ClusterAccess) -> None:
    api.put(context())

    async def scenario() -> None:
        async with reading(access) as store:
            await until_synced(store)

    run(scenario())
    assert selectors(api) == {"type=kubernetes.io/tls", "metadata.name=ca,type!=kubernetes.io/tls"}


@pytest.mark.parametrize(
    "name", ["ca,type=Opaque", "a/b", "../ca", "x.kube-system/secrets", "ca.", ".", "Ca", "x" * 300]
)
def test_a_name_that_no_secret_can_have_is_not_asked_for(api: KubeApi, access: ClusterAccess, name: str) -> None:
    api.put(context(name))

    async def scenario() -> None:
        async with reading(access) as store:
            await until_synced(store)
            assert sources(store) == set()

    run(scenario())


def test_secrets_of_other_namespaces_are_not_read_with_a_namespace_scope(api: KubeApi, access: ClusterAccess) -> None:
    api.put(opaque("ca", namespace="vault"))
    api.put(opaque("ca"))
    api.put(context("ca.vault", "far"))
    api.put(context("ca", "near"))

    async def scenario() -> None:
        async with reading(access, "greet") as store:
            await until_synced(store)
            assert {obj.key for obj in store.of_kind("Secret")} == {CA}

    run(scenario())
    assert {each.namespace for each in requests_for(api, "list", "Secret")} == {"greet"}


def test_what_another_gateway_s_objects_name_is_not_read(api: KubeApi, access: ClusterAccess) -> None:
    for name in ("ours", "theirs"):
        api.put(opaque(name))
        api.put(context(name, name, ambassador_id=[name]))

    async def scenario() -> None:
        async with reading(access, ambassador_id="ours") as store:
            await until_synced(store)
            assert names(store, "Secret") == {"ours"}

    run(scenario())


def test_more_secrets_than_a_client_usually_has_connections_are_all_followed(
    api: KubeApi, access: ClusterAccess
) -> None:
    every = {f"ca-{number}" for number in range(120)}
    for name in every:
        api.put(opaque(name))
        api.put(context(name, name))

    async def scenario() -> None:
        async with reading(access, pace=replace(BRISK, page_size=500)) as store:
            await until_synced(store)
            assert names(store, "Secret") == every
            api.put(mapping("late"))
            await until(lambda: names(store, "Mapping") == {"late"}, "the kinds are followed as well")

    run(scenario())


# ---- how long


def test_a_secret_is_followed_until_nothing_names_it_and_then_forgotten(api: KubeApi, access: ClusterAccess) -> None:
    for obj in (opaque("ca"), opaque("new"), context("ca", "first"), context("ca", "second")):
        api.put(obj)

    async def scenario() -> None:
        async with reading(access) as store:
            await until_synced(store)
            await until(lambda: api.watched_names("Secret") == ["ca"], "once, however many name it")
            api.put(context("new", "first"))
            await until(lambda: api.watched_names("Secret") == ["ca", "new"], "the other one still names it")
            api.delete("TLSContext", "greet", "second")
            await until(lambda: api.watched_names("Secret") == ["new"], "nothing names it any more")
            assert names(store, "Secret") == {"new"}
            assert sources(store) == {"kubernetes Secret new.greet"}
            api.put(context("new", "first", ambassador_id=["other"]))
            await until(lambda: api.watched_names("Secret") == [], "no object of this gateway names it")
            assert names(store, "Secret") == sources(store) == set()
            api.put(context("new", "first"))
            await until(lambda: names(store, "Secret") == {"new"}, "named anew")

    run(scenario())


def test_an_object_whose_new_version_cannot_be_read_keeps_its_secrets_followed(
    api: KubeApi, access: ClusterAccess
) -> None:
    api.put(opaque())
    api.put(context())

    async def scenario() -> None:
        async with reading(access) as store:
            await until_synced(store)
            api.put(context(1))
            tls = ObjectKey("TLSContext", "greet", "tls")
            await until(lambda: body_of(store.get(tls))["spec"]["ca_secret"] == 1, "broken")
            api.put(opaque(text="Qg=="))
            await until(lambda: text_of(store) == "Qg==", "its last good version has the news")

    run(scenario())


# ---- bad days


@pytest.mark.parametrize("verb", ["list", "watch"])
def test_a_missing_right_is_a_problem_that_names_the_secret_and_the_rest_is_served(
    api: KubeApi, access: ClusterAccess, verb: str
) -> None:
    api.refuse(403, "Secret", verb, name="ca")
    for obj in (opaque("ca"), opaque("other"), context("ca", "first"), context("other", "second")):
        api.put(obj)

    async def scenario() -> None:
        async with reading(access) as store:
            await until(store.synced, "synced without it")
            assert "other" in names(store, "Secret")
            await until(lambda: bool(store.problems()), "told")
            (problem,) = store.problems()
            assert (problem.severity, problem.object) == (Severity.ERROR, CA)
            assert f'"{verb}" on secrets in namespace greet (deploy/rbac.yaml grants it)' in problem.message
            assert status(store, "Secret ca.greet").error == problem.message
            api.accept()
            await until(lambda: store.problems() == (), "granted")
            assert names(store, "Secret") == {"ca", "other"}

    run(scenario())


def test_a_missing_right_is_said_without_a_break_while_the_list_is_allowed(api: KubeApi, access: ClusterAccess) -> None:
    api.refuse(403, "Secret", "watch", name="ca")
    api.put(context())
    told: list[tuple[Problem, ...]] = []

    async def scenario() -> None:
        async with reading(access) as store:
            await until(lambda: bool(store.problems()), "told")
            store.subscribe(lambda _: told.append(store.problems()))
            watches = len(requests_for(api, "watch", "Secret"))
            await until(lambda: len(requests_for(api, "watch", "Secret")) > watches + 2, "asked again")

    run(scenario())
    assert () not in told


def test_the_start_waits_for_a_secret_that_fails_but_not_for_ever(api: KubeApi, access: ClusterAccess) -> None:
    api.refuse(503, "Secret", name="ca")
    api.put(opaque())
    api.put(context())

    async def scenario() -> None:
        async with reading(access, pace=replace(BRISK, request_s=30.0)) as store:
            await until(lambda: any("503" in each.error for each in store.statuses()), "asked")
            await until(lambda: sum(each.watching for each in store.statuses()) == len(WATCHED_KINDS), "the others")
            assert [each.name for each in store.statuses() if not each.synced] == ["kubernetes Secret ca.greet"]
            api.accept()
            await until(store.synced, "read")
            assert store.get(CA) is not None
        api.refuse(503, "Secret", name="ca")
        async with reading(access, pace=replace(BRISK, request_s=0.5)) as store:
            await until(store.synced, "given up")
            assert "503" in status(store, "Secret ca.greet").error
            api.accept()
            await until(lambda: store.get(CA) is not None, "read all the same when it can be")

    run(scenario())


# ---- whatever happens


def remove(api: KubeApi, kind: str, name: str) -> None:
    if api.get(kind, "greet", name) is not None:
        api.delete(kind, "greet", name)


def make(api: KubeApi, name: str, kind: str) -> None:
    """Anew: the type of a Secret cannot be changed."""
    remove(api, "Secret", name)
    api.put(secret(name, kind))


STEPS: dict[str, Callable[[KubeApi, str, str], object]] = {
    "name": lambda api, one, other: api.put(context(other, one)),
    "name no more": lambda api, one, _: remove(api, "TLSContext", one),
    "opaque": lambda api, one, _: make(api, one, "Opaque"),
    "certificate": lambda api, one, _: make(api, one, "kubernetes.io/tls"),
    "gone": lambda api, one, _: remove(api, "Secret", one),
    "drop": lambda api, *_: api.drop_connections(),
    "expire": lambda api, *_: api.send_error(410, "Secret"),
    "compact": lambda api, *_: api.compact(),
    "refuse": lambda api, one, _: api.refuse(403, "Secret", name=one),
    "accept": lambda api, *_: api.accept(),
    "stop": lambda api, *_: api.stop(),
    "start": lambda api, *_: api.start(),
}
LETTERS = st.sampled_from("abc")


def types(api: KubeApi) -> dict[str, str]:
    return {body["metadata"]["name"]: body["type"] for body in api.all("Secret")}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from(sorted(STEPS)), LETTERS, LETTERS), max_size=20))
def test_whatever_happens_certificates_and_what_is_named_are_read_and_nothing_else(
    tmp_path: Path, steps: list[tuple[str, str, str]]
) -> None:
    with KubeApi() as api:

        async def scenario() -> None:
            async with reading(ClusterAccess(api.kubeconfig(tmp_path / "kubeconfig")), pace=HASTY) as store:
                for name, one, other in steps:
                    STEPS[name](api, one, other)
                    await asyncio.sleep(0)
                api.accept()
                api.start()
                certificates = {name for name, kind in types(api).items() if kind == "kubernetes.io/tls"}
                named = {body["spec"]["ca_secret"] for body in api.all("TLSContext")} - certificates
                await until_synced(store)
                await until(lambda: names(store, "Secret") == certificates | (named & set(types(api))), "these Secrets")
                await until(lambda: api.watched_names("Secret") == sorted(named), "these watches")
                assert sources(store) == {f"kubernetes Secret {name}.greet" for name in named}
                await until(lambda: store.problems() == (), "nothing is wrong any more")

        run(scenario())
