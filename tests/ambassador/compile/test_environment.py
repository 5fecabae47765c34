"""Variables of the environment in files: filled in everywhere, never shown, and not read for anybody else."""

from __future__ import annotations

import asyncio
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.control.factories import make_source
from grpcgw.discovery.sources.directory import DirectorySource, read_directory
from grpcgw.discovery.sources.yaml_objects import ObjectReader
from grpcgw.discovery.store import ObjectStore
from grpcgw.model.environment import fill_in, hide
from grpcgw.model.match import HostKind, HostMatch
from grpcgw.model.objects import KubeObject, Severity
from grpcgw.settings import Settings
from tests.compiling import compile_objects, destinations, only, only_cluster, only_route, said
from tests.parsing import KINDS, READER, parse_objects

ENVIRONMENT = {
    "CONSUL_HOST": "consul.infra",
    "CONSUL_PORT": "8500",
    "GREET_PORT": "50051",
    "HOST": "shop.example.com",
    "WEIGHT": "30",
    "EMPTY": "",
    "TOKEN": "s3cret:with 'quotes' and more",
}


def read(text: str, **environment: str) -> tuple[KubeObject, ...]:
    objects, problems = parse_objects(textwrap.dedent(text), "f.yaml", environment={**ENVIRONMENT, **environment})
    assert problems == ()
    return objects


def mapping(fields: str) -> str:
    """`fields` and, of the usual ones, those that are not among them."""
    usual = {"prefix": "/greet.Greeter/", "service": '"greet:50051"', "resolver": "endpoint"}
    rest = [f"{name}: {value}" for name, value in usual.items() if f"{name}:" not in fields]
    return f"""\
apiVersion: getambassador.io/v2
kind: Mapping
metadata: {{name: greet, namespace: shop}}
spec: {{{", ".join([*rest, fields])}}}
"""


def spec_of(fields: str) -> dict[str, object]:
    (obj,) = read(mapping(fields))
    spec = obj.body["spec"]
    assert isinstance(spec, dict)
    return spec


def test_both_forms_are_filled_in_in_every_field_and_file_form() -> None:
    consul, greet, flat = read("""\
        apiVersion: getambassador.io/v2
        kind: ConsulResolver
        metadata: {name: dc1, namespace: default}
        spec: {address: "$CONSUL_HOST:$CONSUL_PORT", datacenter: dc1}
        ---
        apiVersion: getambassador.io/v2
        kind: Mapping
        metadata: {name: greet}
        spec: {prefix: /greet.Greeter/, service: greet, resolver: dc1}
        ---
        apiVersion: getambassador.io/v2
        kind: Mapping
        name: flat
        prefix: /greet.Flat/
        service: greet:${GREET_PORT}
        weight: $WEIGHT
        """)
    compiled = compile_objects(consul, greet, flat)
    assert compiled.problems == ()
    clusters = compiled.snapshot.clusters
    by_consul = clusters[destinations(compiled)["greet.default"].clusters[0].cluster].consul
    assert by_consul is not None
    assert by_consul.address == "consul.infra:8500"
    assert clusters[destinations(compiled)["flat.default"].clusters[0].cluster].service.port == 50051


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("$WEIGHT", 30),
        ("'$WEIGHT'", "30"),
        ("$EMPTY", None),
        ("'${HOST}x'", "shop.example.comx"),
        ("$HOSTx", "$HOSTx"),
        ("'$$HOST'", "$shop.example.com"),
        ("'^/a$'", "^/a$"),
        ("'(a|b)$|c$)'", "(a|b)$|c$)"),
        (r"'\1 ${1} $1 ${HOST-x} $ ${'", r"\1 ${1} $1 ${HOST-x} $ ${"),
        ("'${NOT_SET}'", "${NOT_SET}"),
    ],
)
def test_only_names_that_are_set_are_filled_in(written: str, value: object) -> None:
    assert spec_of(f"x: {written}")["x"] == value


def test_keys_lists_and_anchors_are_filled_in() -> None:
    spec = spec_of("headers: {$HOST: &host $HOST}, list: [a, '${HOST}', *host]")
    assert spec["headers"] == {"shop.example.com": "shop.example.com"}
    assert spec["list"] == ["a", "shop.example.com", "shop.example.com"]


def test_an_annotation_is_filled_in_after_it_was_read() -> None:
    objects = read(
        """\
        apiVersion: v1
        kind: Service
        metadata:
          name: greet
          annotations:
            getambassador.io/config: |
              apiVersion: ambassador/v1
              kind: Mapping
              name: greet
              prefix: /greet.Greeter/
              service: $SERVICE
        """,
        SERVICE="greet:1\nprefix: /other/",
    )
    assert [obj.key.kind for obj in objects] == ["Service", "Mapping"]
    assert objects[1].body["spec"] == {"prefix": "/greet.Greeter/", "service": "greet:1\nprefix: /other/"}


def test_a_value_cannot_add_fields() -> None:
    (obj,) = read(mapping("host: $INJECTED"), INJECTED="a}\n---\nkind: Module")
    assert isinstance(obj.body["spec"], dict)
    assert obj.body["spec"]["host"] == "a}\n---\nkind: Module"


def test_a_name_that_is_not_set_stays_and_a_notice_says_so() -> None:
    compiled = compile_objects(*read(mapping("headers: {x: '${NOT_SET}'}")))
    assert said(compiled) == [
        "f.yaml:4: notice: Mapping greet.shop spec.headers.x: names NOT_SET, which the gateway's environment does not"
        " have: the text stays unchanged"
    ]
    assert only(compiled).label == "greet.shop"


# Secrets


@pytest.mark.parametrize(
    "fields",
    [
        "service: '$TOKEN'",
        "service: 'a-${TOKEN}:1'",
        "resolver: a-$TOKEN",
        "host: $TOKEN",
        "hostname: '*.$TOKEN'",
        "weight: $TOKEN",
        "timeout_ms: -$TOKEN",
        "prefix: '($TOKEN', prefix_regex: true",
        "regex_rewrite: {pattern: '($TOKEN', substitution: $TOKEN}",
        "host_rewrite: $TOKEN",
        "headers: {$TOKEN: x}",
        "headers: {x: [$TOKEN]}",
        "add_request_headers: {x: '%$TOKEN%'}",
        "load_balancer: {policy: ring_hash, header: $TOKEN}",
        "load_balancer: {policy: $TOKEN}",
        "load_balancer: {policy: round_robin, wrong: $TOKEN}",
        "load_balancer: $TOKEN",
        "retry_policy: {retry_on: $TOKEN, per_try_timeout: $TOKEN}",
        "resolver: $TOKEN",
        "tls: $TOKEN",
        "host: a, hostname: $TOKEN",
        "$TOKEN: x",
        "keepalive: {time: $TOKEN}",
        "cors: [$TOKEN]",
    ],
)
@pytest.mark.parametrize("token", [ENVIRONMENT["TOKEN"], "p@ss,w0rdy/1", "{a: b", "hunter2", "-4711", "x" * 90])
def test_what_was_filled_in_is_in_no_problem(fields: str, token: str) -> None:
    text = "\n".join(said(compile_objects(*read(mapping(fields), TOKEN=token))))
    for part in [token, *token.replace(":", " ").replace("/", " ").replace(",", " ").split()]:
        if len(part) > 3 and part not in ("with", "more"):
            assert part not in text


def test_two_objects_that_disagree_tell_nothing_of_each_other() -> None:
    first, second = read(
        mapping("load_balancer: {policy: ring_hash, header: $TOKEN}")
        + "---\n"
        + mapping("load_balancer: {policy: round_robin}").replace("name: greet", "name: other"),
        TOKEN="x-s3cret",
    )
    compiled = compile_objects(first, second)
    assert said(compiled, Severity.ERROR) != []
    assert "s3cret" not in "".join(said(compiled))


@given(st.text(min_size=4, max_size=12).filter(lambda text: "$" not in text), st.text("ab.:'", max_size=3))
def test_a_value_is_hidden_however_it_is_quoted(value: str, before: str) -> None:
    filled = fill_in(f"{before}$SECRET", {"SECRET": value})
    assert filled is not None
    assert filled.text == before + value
    for message in (f"{filled.text!r} is wrong; left out", f"has {filled.text}, which is wrong"):
        shown = hide(message, [filled])
        assert value not in shown
        assert repr(value)[1:-1] not in shown


# Where the environment comes from


def test_a_directory_that_is_followed_is_filled_in_as_one_that_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "greet.yaml").write_text(mapping("host: $HOST"))
    (read_once,), _ = read_directory(tmp_path, ObjectReader(KINDS, ENVIRONMENT))

    async def follow() -> KubeObject:
        store = ObjectStore()
        await DirectorySource(store, tmp_path, ObjectReader(KINDS, ENVIRONMENT)).load()
        return next(store.objects())

    followed = asyncio.run(follow())
    assert followed.body == read_once.body
    assert only_cluster(compile_objects(followed)).service.port == 50051
    (untouched,), _ = read_directory(tmp_path, READER)
    assert untouched.body != read_once.body


def test_the_gateway_fills_files_in_from_its_own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_OF_TEST", "shop.example.com")
    (tmp_path / "greet.yaml").write_text(mapping("host: $HOST_OF_TEST"))

    async def serve() -> KubeObject:
        store = ObjectStore()
        running = asyncio.create_task(make_source(Settings(config_dir=tmp_path), store).run())
        changed = asyncio.Event()
        store.subscribe(lambda _: changed.set())
        async with asyncio.timeout(20):
            while not store.synced():
                await changed.wait()
                changed.clear()
        running.cancel()
        await asyncio.wait([running])
        return next(store.objects())

    assert only_route(compile_objects(asyncio.run(serve()))).host == HostMatch(HostKind.EXACT, "shop.example.com")
