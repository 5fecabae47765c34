"""AuthServices with `proto: grpc` on both engines: from Ambassador's YAML to a real server of Envoy's protocol."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import pytest

from dataplane.auth_server import CHECK, AuthServer, allow, by_token, deny
from dataplane.authorities import Authority
from dataplane.configured import compile_yaml, configured
from dataplane.lab import Gateway, Lab, tls_port
from dataplane.pods import Context, Pod
from dataplane.waiting import PATIENCE_S, eventually
from grpcgw.session.serving import RpcLog
from grpcgw.settings import EngineName
from grpcgw.telemetry.access_log import RpcRecord

GOOD = (("authorization", "Bearer good"),)


def gateway_for(
    lab: Lab, auth: AuthServer | Pod | None, *fields: str, pod: Pod | None = None, mapping: str = ""
) -> Gateway:
    """A Mapping, and an AuthService with further fields, each as a line of YAML."""
    lines = "".join(f"            {one}\n" for one in fields)
    text = f"""
        kind: Mapping
        metadata: {{name: pods, namespace: default}}
        spec: {{service: "pods:80"{mapping}}}
        ---
        kind: AuthService
        metadata: {{name: auth, namespace: default}}
        spec:
            auth_service: "auth:50051"
            proto: grpc
            protocol_version: v3
            resolver: endpoint
{lines}"""
    pods = {"pods": pod or lab.pod()}
    if auth is None:
        return configured(lab, text, **pods)
    return configured(lab, text, auth=auth if isinstance(auth, Pod) else auth.pod, **pods)


def begin(
    lab: Lab,
    gateway: Gateway,
    *metadata: tuple[str, str | bytes],
    message: bytes = b"hi",
    timeout_s: float = PATIENCE_S,
) -> grpc.Future:
    return lab.channel(gateway).unary_unary("/test.Pod/Unary").future(message, metadata=metadata, timeout=timeout_s)


def reason_of(call: grpc.Call) -> object:
    return dict(call.trailing_metadata()).get("x-grpcgw-reason")


def test_an_allowed_call_reaches_the_pod_with_the_services_headers(lab: Lab) -> None:
    auth, pod = AuthServer(lab), lab.pod()
    gateway = gateway_for(lab, auth, pod=pod, mapping=", auth_context_extensions: {tier: gold}")
    assert begin(lab, gateway, *GOOD, ("x-user", "mallory"), ("b-bin", b"\0\1")).result() == b"pod:hi"
    assert pod.calls[0].values("x-user") == ["ann"]
    (asked,) = auth.asked
    http = asked.attributes.request.http
    assert dict(asked.attributes.context_extensions) == {"tier": "gold"}
    assert asked.attributes.source.address.socket_address.address == "127.0.0.1"
    assert (http.path, http.method, http.protocol) == ("/test.Pod/Unary", "POST", "HTTP/2")
    assert (http.headers["x-user"], http.headers["b-bin"]) == ("mallory", "AAE")
    assert http.headers["x-forwarded-for"] == "127.0.0.1"
    assert pod.calls[0].values("x-request-id") == [http.id]
    if lab.engine == EngineName.HTTP2:
        where = asked.attributes.destination.address.socket_address
        assert f"{where.address}:{where.port_value}" == gateway.address


def test_a_denied_call_gets_the_services_status_and_headers(lab: Lab) -> None:
    auth, pod = AuthServer(lab), lab.pod()
    gateway = gateway_for(lab, auth, pod=pod)
    call = begin(lab, gateway)
    assert (call.code(), call.details()) == (grpc.StatusCode.UNAUTHENTICATED, "a token is needed")
    trailers = dict(call.trailing_metadata())
    assert (trailers["www-authenticate"], trailers["x-grpcgw-reason"]) == ("Bearer", "unauthenticated")
    answer = lab.raw_client(gateway).call("Unary")
    assert (answer.status, answer.trailers_only) == (16, True)
    assert not pod.calls


def test_a_mapping_that_bypasses_it_is_not_asked_about(lab: Lab) -> None:
    auth = AuthServer(lab)
    gateway = gateway_for(lab, auth, mapping=", bypass_auth: true")
    assert begin(lab, gateway).result() == b"pod:hi"
    assert not auth.asked


def test_metadata_of_the_service_is_in_the_access_log(lab: Lab) -> None:
    answer = allow()
    answer.dynamic_metadata.update({"user": "ann"})
    gateway = gateway_for(lab, AuthServer(lab, lambda asked: answer))
    records: list[RpcRecord] = []
    gateway.serving.rpc_log = RpcLog(records.append, 100.0)
    before = gateway.serving.snapshot
    gateway.apply(replace(before, version="2", routes=tuple(replace(route) for route in before.routes)))
    begin(lab, gateway).result()
    eventually(lambda: records)
    assert records[0].facts == {"auth.user": "ann"}


def test_v2_services_are_called_by_their_name(lab: Lab) -> None:
    auth = AuthServer(lab, path="/envoy.service.auth.v2.Authorization/Check")
    text = """
        kind: Mapping
        metadata: {name: pods, namespace: default}
        spec: {service: "pods:80"}
        ---
        kind: AuthService
        metadata: {name: auth, namespace: default}
        spec: {auth_service: "auth:50051", proto: grpc, protocol_version: v2, resolver: endpoint}
    """
    gateway = configured(lab, text, pods=lab.pod(), auth=auth.pod)
    assert begin(lab, gateway, *GOOD).result() == b"pod:hi"


# --- the first message


@pytest.mark.parametrize("size", [0, 3, 100_000])
def test_the_first_message_is_part_of_the_question(lab: Lab, size: int) -> None:
    auth, pod = AuthServer(lab, lambda asked: allow()), lab.pod()
    gateway = gateway_for(lab, auth, "include_body: {max_bytes: 200000}", pod=pod)
    message = b"m" * size
    assert begin(lab, gateway, message=message).result() == b"pod:" + message
    (http,) = auth.questions
    assert http.raw_body == b"\0" + size.to_bytes(4, "big") + message
    assert http.headers["x-envoy-auth-partial-body"] == "false"


def test_a_message_above_the_limit_is_cut_or_refused(lab: Lab) -> None:
    auth = AuthServer(lab, lambda asked: allow())
    gateway = gateway_for(lab, auth, "include_body: {max_bytes: 8, allow_partial: true}")
    message = b"abcdefgh" * 20_000
    assert begin(lab, gateway, message=message).result() == b"pod:" + message
    assert auth.questions[0].raw_body == b"\0" + len(message).to_bytes(4, "big") + b"abc"


def test_a_message_above_the_limit_is_refused_without_allow_partial(lab: Lab) -> None:
    auth = AuthServer(lab, lambda asked: allow())
    gateway = gateway_for(lab, auth, "include_body: {max_bytes: 8}")
    call = begin(lab, gateway, message=b"abcdefgh")
    assert (call.code(), reason_of(call)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "message-too-large")
    assert not auth.asked


def test_a_stream_goes_on_after_its_first_message_was_looked_at(lab: Lab) -> None:
    auth = AuthServer(lab, lambda asked: allow())
    gateway = gateway_for(lab, auth, "allow_request_body: true")
    messages = [bytes([number]) * 30_000 for number in range(20)]
    chat = lab.channel(gateway).stream_stream("/test.Pod/Chat")(iter(messages), timeout=PATIENCE_S)
    assert list(chat) == messages
    assert auth.questions[0].headers["x-envoy-auth-partial-body"] == "true"


# --- no answer


def test_a_service_that_is_away_refuses_or_lets_pass_as_the_operator_says(lab: Lab) -> None:
    call = begin(lab, gateway_for(lab, None))
    assert (call.code(), reason_of(call)) == (grpc.StatusCode.UNAVAILABLE, "policy-unavailable")
    call = begin(lab, gateway_for(lab, None, "status_on_error: {code: 403}"))
    assert call.code() is grpc.StatusCode.PERMISSION_DENIED
    assert begin(lab, gateway_for(lab, None, "failure_mode_allow: true")).result() == b"pod:hi"


@pytest.mark.parametrize("nonsense", [b"", b"\xff\xff\xff", b"hello"])
def test_an_answer_without_sense_refuses_even_where_failures_are_allowed(lab: Lab, nonsense: bytes) -> None:
    gateway = gateway_for(lab, AuthServer(lab, lambda asked: nonsense), "failure_mode_allow: true")
    call = begin(lab, gateway, *GOOD)
    assert (call.code(), reason_of(call)) == (grpc.StatusCode.UNAVAILABLE, "policy-unavailable")


@pytest.mark.parametrize("pause_s", [0.0, 0.1])
def test_a_service_that_answers_twice_gives_no_verdict_and_leaves_nothing(lab: Lab, pause_s: float) -> None:
    def answer(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        next(requests)
        yield allow().SerializeToString()
        time.sleep(pause_s)
        yield deny().SerializeToString()

    auth, pod = lab.pod("auth", {CHECK: answer}), lab.pod()
    call = begin(lab, gateway_for(lab, auth, "timeout_ms: 1000", pod=pod), *GOOD)
    assert (call.code(), reason_of(call)) == (grpc.StatusCode.UNAVAILABLE, "policy-unavailable")
    if not lab.on_grpc_core:
        assert "more than one message" in (call.details() or "")
    assert not pod.calls


def test_a_slow_service_meets_its_time_out(lab: Lab) -> None:
    auth = AuthServer(lab)
    auth.hold()
    call = begin(lab, gateway_for(lab, auth, "timeout_ms: 100"), *GOOD)
    assert (call.code(), reason_of(call)) == (grpc.StatusCode.UNAVAILABLE, "policy-unavailable")
    assert "no answer within 100 ms" in call.details()
    eventually(lambda: auth.cancelled == 1, "the question is taken back")


def test_several_services_take_turns(lab: Lab) -> None:
    ones = [AuthServer(lab), AuthServer(lab)]
    text = """
        kind: Mapping
        metadata: {name: pods, namespace: default}
        spec: {service: "pods:80"}
        ---
        kind: AuthService
        metadata: {name: one, namespace: default}
        spec: {auth_service: "one:50051", proto: grpc, protocol_version: v3, resolver: endpoint}
        ---
        kind: AuthService
        metadata: {name: two, namespace: default}
        spec: {auth_service: "two:50051", proto: grpc, protocol_version: v3, resolver: endpoint}
    """
    gateway = configured(lab, text, pods=lab.pod(), one=ones[0].pod, two=ones[1].pod)
    for _ in range(10):
        begin(lab, gateway, *GOOD).result()
    assert [len(one.asked) for one in ones] == [5, 5]


# --- answers that are kept


def test_kept_answers_ask_nobody(lab: Lab) -> None:
    auth = AuthServer(lab)
    gateway = gateway_for(lab, auth, "cache: {headers: [authorization], max_age_ms: 600000}")
    assert [begin(lab, gateway, *GOOD).result() for _ in range(5)] == [b"pod:hi"] * 5
    assert [begin(lab, gateway).code() for _ in range(5)] == [grpc.StatusCode.UNAUTHENTICATED] * 5
    assert len(auth.asked) == 2


def test_clients_that_show_different_certificates_share_no_answer(lab: Lab) -> None:
    """The service decides by the name in the certificate, which no header of the cache has."""
    authority, auth = Authority(), AuthServer(lab)
    auth.decide_by_name = lambda name: allow() if name == "ann" else deny()
    text = """
        kind: Mapping
        metadata: {name: pods, namespace: default}
        spec: {service: "pods:80"}
        ---
        kind: AuthService
        metadata: {name: auth, namespace: default}
        spec:
            {auth_service: "auth:50051", proto: grpc, protocol_version: v3, resolver: endpoint,
             cache: {headers: [authorization], max_age_ms: 600000}}
    """
    compiled = compile_yaml(text, lab.engine).snapshot
    by_service = {cluster.service.name: name for name, cluster in compiled.clusters.items()}
    port = tls_port(authority.certificate("localhost", client_ca=authority.pem))
    members = {by_service["pods"]: (lab.pod(),), by_service["auth"]: (auth.pod,)}
    gateway = lab.gateway(configuration=compiled, clusters=members, ports=(port,))
    gateway.wait_for_ready_pods(2)
    port = replace(port, port=gateway.engine.ports.numbers()[0])
    codes = []
    for name in ("ann", "bob", "ann", "bob"):
        channel = lab.channel_to(port, authority.client(authority.sign(name)))
        codes.append(channel.unary_unary("/test.Pod/Unary").future(b"hi", timeout=PATIENCE_S).code())
    assert codes == [grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED] * 2
    assert [one.attributes.source.principal for one in auth.asked] == ["ann", "bob"]


# --- many RPCs at once


def test_hundreds_of_calls_end_while_the_service_misbehaves(lab: Lab) -> None:
    """It fails, or answers nonsense; calls are cancelled meanwhile. Each ends with a status, and nothing stays."""
    auth, pod = AuthServer(lab), lab.pod()
    gateway = gateway_for(lab, auth, "timeout_ms: 500", pod=pod)
    channel = lab.channel(gateway)
    unary, join = channel.unary_unary("/test.Pod/Unary"), channel.stream_unary("/test.Pod/Join")
    moods = iter(range(10**6))
    lock = threading.Lock()

    def decide(asked: object) -> object:
        with lock:
            mood = next(moods) % 4
        if mood == 0:
            raise RuntimeError("a defect of the service")
        return (b"nonsense", deny(503, "busy"), allow())[mood - 1]

    auth.decide = decide  # type: ignore[assignment]
    with ThreadPoolExecutor(20) as threads:
        streams = [join.future(iter([b"x"]), timeout=PATIENCE_S) for _ in range(100)]
        calls = [unary.future(b"hi", timeout=PATIENCE_S) for _ in range(300)]
        for call in (*streams[::3], *calls[::3]):
            call.cancel()
        codes = list(threads.map(lambda call: call.code(), (*streams, *calls)))
    assert None not in codes
    assert grpc.StatusCode.OK in codes
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}
    eventually(lambda: not gateway.in_flight() and not gateway.pod_in_flight(), "nothing stays")
    auth.decide = by_token
    assert begin(lab, gateway, *GOOD).result() == b"pod:hi"


def test_calls_that_wait_when_the_service_dies_are_refused_and_it_is_asked_again_when_it_is_back(lab: Lab) -> None:
    auth = AuthServer(lab)
    gateway = gateway_for(lab, auth, "timeout_ms: 30000")
    auth.hold()
    channel = lab.channel(gateway)
    calls = [
        channel.unary_unary("/test.Pod/Unary").future(b"hi", metadata=GOOD, timeout=PATIENCE_S) for _ in range(200)
    ]
    assert auth.reached.acquire(timeout=PATIENCE_S)
    stopping = threading.Thread(target=auth.pod.stop)
    stopping.start()
    eventually(lambda: all(call.done() for call in calls), "each has its status")
    assert {call.code() for call in calls} == {grpc.StatusCode.UNAVAILABLE}
    auth.go_on()
    stopping.join()
    again = AuthServer(lab)
    (name,) = [one for one in gateway.serving.snapshot.clusters if "auth" in one]
    gateway.set_pods(again.pod, cluster=name)
    eventually(lambda: begin(lab, gateway, *GOOD).code() is grpc.StatusCode.OK, "it is back")
    eventually(lambda: not gateway.in_flight())


def test_cancelled_calls_take_their_questions_back(lab: Lab) -> None:
    auth = AuthServer(lab)
    gateway = gateway_for(lab, auth, "timeout_ms: 30000")
    auth.hold()
    calls = [begin(lab, gateway, *GOOD) for _ in range(20)]
    for _ in calls:
        assert auth.reached.acquire(timeout=PATIENCE_S)
    for call in calls:
        call.cancel()
    eventually(lambda: auth.cancelled == 20, "the service sees all of them cancelled")
    eventually(lambda: not gateway.in_flight() and not gateway.pod_in_flight())


def test_verdicts_waits_and_failures_are_counted_by_mapping_and_policy(lab: Lab) -> None:
    auth = AuthServer(lab)
    gateway = gateway_for(lab, auth)
    assert begin(lab, gateway, *GOOD).result() == b"pod:hi"
    assert begin(lab, gateway).code() is grpc.StatusCode.UNAUTHENTICATED
    auth.decide = lambda _: b"nonsense"
    assert begin(lab, gateway).code() is grpc.StatusCode.UNAVAILABLE
    (report,) = gateway.serving.policy_services.counters.policy_reports()
    assert (report.mapping, report.policy) == ("pods.default", "AuthService auth.default")
    assert (report.allowed, report.denied, report.errors) == (1, 2, {"failed-closed": 1})
    assert sum(report.wait_counts) == 3
