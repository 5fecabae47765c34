"""What a Mapping changes on the way: path, `:authority`, metadata to the pod, metadata to the client."""

from __future__ import annotations

import re

import pytest

from dataplane.configured import compile_yaml, configured
from dataplane.lab import Lab
from dataplane.pods import SeenCall
from dataplane.raw_client import Answer
from dataplane.scripted_pod import Header, Stream, refusing

UNIMPLEMENTED, UNAVAILABLE = 12, 14


def answer_ok(stream: Stream) -> None:
    stream.read_all()
    stream.send_headers(("x-pod", "1"), ("x-secret", "pod"), ("x-secret", "pod too"))
    stream.send_message(b"reply")
    stream.end(0, "", ("x-secret", "trailer"), ("x-trailer", "kept"))


# --- the path


@pytest.mark.parametrize(
    ("fields", "path", "seen"),
    [
        ("prefix: /public.v1.Pod/, rewrite: /test.Pod/", "/public.v1.Pod/Unary", "/test.Pod/Unary"),
        ('prefix: /test.Pod/, rewrite: ""', "/test.Pod/Unary", "/test.Pod/Unary"),
        ("prefix: /test.Pod/Old, prefix_exact: true, rewrite: /test.Pod/Unary", "/test.Pod/Old", "/test.Pod/Unary"),
        (
            'prefix: "/v[0-9]+/.*", prefix_regex: true, regex_rewrite: {pattern: "^/v([0-9]+)/(.*)$",'
            ' substitution: "/test.Pod/\\\\2"}',
            "/v12/Unary",
            "/test.Pod/Unary",
        ),
        ('prefix: /a.a/, regex_rewrite: {pattern: "a", substitution: "bb"}', "/a.a/Name", "/bb.bb/Nbbme"),
    ],
)
def test_path_is_rewritten(lab: Lab, fields: str, path: str, seen: str) -> None:
    pod = lab.scripted_pod(answer_ok)
    client = lab.raw_client(configured(lab, f"{{name: m, service: pods, {fields}}}", pods=pod))
    assert client.call(path).status == 0
    assert [stream.header(":path") for stream in pod.streams] == [seen]


def test_rewritten_rpc_keeps_its_timeout_and_its_name_in_figures(lab: Lab) -> None:
    """Metrics name the method that the client called, and `timeout_ms` bounds what the pod is given.

    The client, on grpc core, rounds its 10 s up."""
    pod = lab.pod("a")
    text = "{name: m, service: pods, prefix: /public.Pod/, rewrite: /test.Pod/, timeout_ms: 20000}"
    gateway = configured(lab, text, pods=pod)
    call = lab.channel(gateway).unary_unary("/public.Pod/Unary")
    for timeout_s, at_most_s in ((None, 20), (60, 20), (10, 10.1)):
        assert call(b"x", timeout=timeout_s) == b"a:x"
        left_s = pod.calls[-1].time_left_s
        assert left_s is not None
        assert at_most_s / 2 < left_s <= at_most_s
    assert {seen.method for seen in pod.calls} == {"/test.Pod/Unary"}
    assert {report.service for report in gateway.serving.counters.reports()} == {"public.Pod"}


def test_a_timeout_of_a_rewriting_mapping_ends_the_rpc_with_its_name(lab: Lab) -> None:
    pod = lab.scripted_pod()
    text = "{name: m, service: pods, prefix: /public.Pod/, rewrite: /test.Pod/, timeout_ms: 50}"
    answer = lab.raw_client(configured(lab, text, pods=pod)).call("/public.Pod/Unary")
    assert (answer.status, answer.header("x-grpcgw-reason")) == (4, "timeout")
    assert "Mapping m.default: timeout_ms 50" in answer.message


# --- :authority


@pytest.mark.parametrize(
    ("fields", "seen"),
    [
        ("service: pods, host_rewrite: pods.internal:50051", "pods.internal:50051"),
        ("service: pods.prod, auto_host_rewrite: true", "pods.prod"),
        ("service: pods.prod, auto_host_rewrite: true, host_rewrite: pods.internal", "pods.internal"),
    ],
)
def test_pods_are_called_by_the_name_a_mapping_gives(lab: Lab, fields: str, seen: str) -> None:
    pod = lab.scripted_pod(answer_ok)
    compiled = compile_yaml(f"{{name: m, {fields}}}")
    gateway = lab.gateway(
        configuration=compiled.snapshot, clusters={name: [pod] for name in compiled.snapshot.clusters}
    )
    client = lab.raw_client(gateway)
    for authority in ("api.example.com", "other.example.com:8443"):
        assert client.call("Unary", authority=authority).status == 0
    assert {stream.header(":authority") for stream in pod.streams} == {seen}


def test_mappings_over_one_service_may_call_it_by_different_names(lab: Lab) -> None:
    pod = lab.scripted_pod(answer_ok)
    text = """
        {name: one, service: pods, prefix: /test.Pod/One, host_rewrite: one.internal}
        ---
        {name: two, service: pods, prefix: /test.Pod/Two, host_rewrite: two.internal}
    """
    client = lab.raw_client(configured(lab, text, pods=pod))
    for method in ("One", "Two", "One"):
        assert client.call(method).status == 0
    assert [s.header(":authority") for s in pod.streams] == ["one.internal", "two.internal", "one.internal"]


# --- metadata to the pod


def seen_by_pod(lab: Lab, fields: str, *metadata: Header) -> SeenCall:
    pod = lab.pod("a")
    call = lab.channel(configured(lab, f"{{name: m, service: pods, {fields}}}", pods=pod)).unary_unary(
        "/test.Pod/Unary"
    )
    assert call(b"x", metadata=metadata) == b"a:x"
    return pod.calls[0]


def test_metadata_is_removed_added_and_replaced_on_the_way_to_the_pod(lab: Lab) -> None:
    fields = """
        remove_request_headers: [X-Secret],
        add_request_headers: {X-Add: gateway, x-more: {value: two, append: true}, x-own: {value: set, append: false}}
    """
    seen = seen_by_pod(
        lab, fields, ("x-secret", "1"), ("x-secret", "2"), ("x-more", "one"), ("x-own", "theirs"), ("x-kept", "a")
    )
    assert seen.values("x-secret") == []
    assert seen.values("x-add") == ["gateway"]
    assert seen.values("x-more") == ["one", "two"]
    assert seen.values("x-own") == ["set"]
    assert seen.values("x-kept") == ["a"]
    assert len(seen.values("x-request-id")) == len(seen.values("x-forwarded-for")) == 1


def test_added_values_tell_of_the_request_as_the_client_sent_it(lab: Lab) -> None:
    fields = """
        prefix: /public.Pod/, rewrite: /test.Pod/, remove_request_headers: x-user,
        add_request_headers: {
          x-account: "%REQ(X-User)%", x-either: "%REQ(x-none?x-user):2%", x-none: "%REQ(x-none)%",
          x-path: "%REQ(:path)% 100%%", x-peer: "%DOWNSTREAM_REMOTE_ADDRESS%",
          x-ip: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", x-port: "%DOWNSTREAM_REMOTE_PORT%",
          x-protocol: "%PROTOCOL%", x-began: "%START_TIME%", copy-bin: "%REQ(id-bin)%"}
    """
    pod = lab.pod("a")
    gateway = configured(lab, f"{{name: m, service: pods, {fields}}}", pods=pod)
    call = lab.channel(gateway).unary_unary("/public.Pod/Unary")
    call(b"x", metadata=(("x-user", "ann"), ("id-bin", b"\xff\x00")))
    told = {key: values[0] for key in FACTS if (values := pod.calls[0].values(key))}
    assert pod.calls[0].values("x-user") == []
    assert told.pop("copy-bin") == b"\xff\x00"
    assert re.fullmatch(r"127\.0\.0\.1:[0-9]+", str(told.pop("x-peer")))
    assert re.fullmatch(r"[0-9]+", str(told.pop("x-port")))
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(told.pop("x-began")))
    assert told == {
        "x-account": "ann",
        "x-either": "an",
        "x-path": "/public.Pod/Unary 100%",
        "x-ip": "127.0.0.1",
        "x-protocol": "HTTP/2",
    }


FACTS = ["x-account", "x-either", "x-none", "x-path", "x-peer", "x-ip", "x-port", "x-protocol", "x-began", "copy-bin"]


def test_the_clients_authority_can_be_told_to_the_pod(lab: Lab) -> None:
    pod = lab.pod("a")
    text = '{name: m, service: pods, host_rewrite: pods.internal, add_request_headers: {x-host: "%REQ(:authority)%"}}'
    lab.raw_client(configured(lab, text, pods=pod)).call("Unary", authority="api.example.com")
    assert pod.calls[0].values("x-host") == ["api.example.com"]


def test_linkerd_is_told_the_service(lab: Lab) -> None:
    assert seen_by_pod(lab, "add_linkerd_headers: true").values("l5d-dst-override") == ["pods.default:80"]


# --- metadata to the client

EDIT_RESPONSES = """
    {name: m, service: pods,
     remove_response_headers: x-secret,
     add_response_headers: {x-add: gateway, x-pod: {value: both, append: true}, x-path: "%REQ(:path)%"}}
"""


def initial(answer: Answer) -> dict[str, list[str]]:
    """The first header block, values by key."""
    block: dict[str, list[str]] = {}
    for key, value in answer.blocks[0]:
        block.setdefault(key, []).append(value)
    return block


def test_initial_metadata_of_answers_is_edited_and_trailers_and_status_are_not(lab: Lab) -> None:
    answer = lab.raw_client(configured(lab, EDIT_RESPONSES, pods=lab.scripted_pod(answer_ok))).call("Unary")
    headers, trailers = initial(answer), dict(answer.blocks[-1])
    assert headers["x-add"] == ["gateway"]
    assert headers["x-pod"] == ["1", "both"]
    assert headers["x-path"] == ["/test.Pod/Unary"]
    assert "x-secret" not in headers
    assert (trailers["grpc-status"], trailers["x-secret"], trailers["x-trailer"]) == ("0", "trailer", "kept")
    assert len(answer.blocks) == 2


def test_removing_what_grpc_sets_itself_has_no_effect_and_a_notice(lab: Lab) -> None:
    keys = ["grpc-status", "grpc-message", "te", "content-type"]
    compiled = compile_yaml(
        f"{{name: m, service: pods, remove_response_headers: {keys}, remove_request_headers: {keys}}}"
    )
    assert len(compiled.problems) == 8
    assert all("notice" in str(one) and "gRPC sets it itself on each" in str(one) for one in compiled.problems)
    pod = lab.scripted_pod(refusing(UNAVAILABLE, "come%20back"))
    (cluster,) = compiled.snapshot.clusters
    client = lab.raw_client(lab.gateway(configuration=compiled.snapshot, clusters={cluster: [pod]}))
    answer = client.call("Unary")
    assert (answer.status, answer.message, answer.trailers_only) == (UNAVAILABLE, "come back", True)
    assert (pod.streams[0].header("te"), pod.streams[0].header("content-type")) == ("trailers", "application/grpc")


def test_trailers_only_answers_stay_so_whatever_is_to_be_edited(lab: Lab) -> None:
    """There is no initial metadata to edit, and a block of it would take the right to retry from clients."""
    pod = lab.scripted_pod(refusing(UNAVAILABLE, "come%20back", ("x-secret", "kept")))
    answer = lab.raw_client(configured(lab, EDIT_RESPONSES, pods=pod)).call("Unary")
    assert answer.trailers_only
    assert (answer.status, answer.message, answer.header("x-secret")) == (UNAVAILABLE, "come back", "kept")
    assert answer.header("x-add") is None


def test_statuses_of_the_gateway_are_not_edited(lab: Lab) -> None:
    answer = lab.raw_client(configured(lab, EDIT_RESPONSES, pods=())).call("Unary")
    assert answer.trailers_only
    assert (answer.status, answer.header("x-grpcgw-reason")) == (UNAVAILABLE, "no-endpoints")
    assert answer.header("x-add") is None


def test_headers_of_a_stream_are_edited_before_its_first_message(lab: Lab) -> None:
    call = lab.channel(configured(lab, EDIT_RESPONSES, pods=lab.pod("a"))).stream_stream("/test.Pod/Chat")
    stream = call(iter([b"1", b"2"]))
    assert ("x-add", "gateway") in tuple(stream.initial_metadata())
    assert list(stream) == [b"1", b"2"]


# --- the Module, and the group


def test_defaults_of_the_module_hold_where_a_mapping_says_nothing(lab: Lab) -> None:
    text = """
        kind: Module
        name: ambassador
        config:
          cluster_request_timeout_ms: 20000
          defaults:
            httpmapping:
              add_request_headers: {x-default: "1"}
              remove_request_headers: [x-secret]
              add_response_headers: {x-gateway: "1"}
              auto_host_rewrite: true
        ---
        {name: plain, service: pods, prefix: /test.Pod/Unary}
        ---
        {name: own, service: pods, prefix: /test.Pod/Chat, add_request_headers: {x-own: "1"}, timeout_ms: 60000}
    """
    pod = lab.pod("a")
    channel = lab.channel(configured(lab, text, pods=pod))
    _, plain = channel.unary_unary("/test.Pod/Unary").with_call(b"", metadata=(("x-secret", "1"),))
    list(channel.stream_stream("/test.Pod/Chat")(iter([b""]), metadata=(("x-secret", "1"),)))
    by_default, own = pod.calls
    assert (by_default.values("x-default"), by_default.values("x-secret")) == (["1"], [])
    assert ("x-gateway", "1") in tuple(plain.initial_metadata())
    assert (own.values("x-default"), own.values("x-own"), own.values("x-secret")) == ([], ["1"], [])
    assert (by_default.time_left_s or 99) <= 20 < (own.time_left_s or 0)


def test_mappings_of_a_group_add_their_headers_together(lab: Lab) -> None:
    text = """
        {name: a, service: pods, weight: 50, add_request_headers: {x-a: "1", x-both: a}}
        ---
        {name: b, service: pods, weight: 50, add_request_headers: {x-b: "1", x-both: b}}
    """
    pod = lab.pod("a")
    call = lab.channel(configured(lab, text, pods=pod)).unary_unary("/test.Pod/Unary")
    for _ in range(2):
        call(b"")
    for seen in pod.calls:
        assert (seen.values("x-a"), seen.values("x-b"), seen.values("x-both")) == (["1"], ["1"], ["b"])


@pytest.mark.parametrize("field", ["add_request_headers", "add_response_headers"])
@pytest.mark.parametrize(
    ("name", "serves"),
    [
        *((":path", False), (":authority", False), ("host", False)),
        *(("grpc-status", True), ("grpc-timeout", True), ("te", True), ("content-type", True)),
    ],
)
def test_headers_that_grpc_needs_as_they_are_cannot_be_added(field: str, name: str, serves: bool) -> None:
    compiled = compile_yaml(f'{{name: m, service: pods, {field}: {{"{name}": x}}}}')
    (problem,) = compiled.problems
    severity = "notice" if serves else "error"
    assert f"test.yaml:2: {severity}: Mapping m.default spec.{field}.{name}: " in str(problem)
    assert bool(compiled.snapshot.routes) is serves
    for route in compiled.snapshot.routes:
        (destination,) = route.destinations
        assert (destination.request_headers.add, destination.response_headers.add) == ((), ())
