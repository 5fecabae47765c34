"""AuthServices with `proto: http` on both engines, and real HTTP/1.1 servers."""

from __future__ import annotations

import base64
import socket
import ssl
import textwrap
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest

from dataplane.authorities import Authority, Identity
from dataplane.configured import compile_yaml
from dataplane.lab import Gateway, Lab
from dataplane.pods import Pod
from dataplane.test_auth_service import GOOD, begin, reason_of
from dataplane.waiting import PATIENCE_S, eventually
from grpcgw.model.endpoints import Endpoint

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Asked:
    line: str
    headers: dict[str, str]
    body: bytes
    connection: int
    """The port that the gateway called from."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 1024
    accepted = 0
    """Connections so far."""

    def get_request(self) -> tuple[socket.socket, object]:
        self.accepted += 1
        return super().get_request()

    def handle_error(self, *_: object) -> None:
        """A handshake that fails is what a test wants."""


@dataclass
class HttpAuth:
    """Decides by the `authorization` header, unless the test sets `answer`."""

    lab: Lab
    asked: list[Asked] = field(default_factory=list)
    answer: Callable[[Asked], Answer] | None = None
    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.lab.defer(self.gate.set)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                asked = Asked(
                    self.requestline, {k.lower(): v for k, v in self.headers.items()}, body, self.client_address[1]
                )
                outer.asked.append(asked)
                outer.gate.wait()
                status, added, text = (outer.answer or outer.decide)(asked)
                self.send_response(status)
                for key, value in added.items():
                    self.send_header(key, value)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        self.server = _Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if self.tls is not None:  # the handshake is made by the first read, in the thread of the connection
            self.server.socket = self.tls.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), name="http auth")
        self._thread.start()
        self.lab.defer(self.stop)

    @staticmethod
    def decide(asked: Asked) -> Answer:
        if asked.headers.get("authorization") == "Bearer good":
            return 200, {"x-user": "ann", "x-secret": "1", "set-cookie": "a=b"}, b""
        return 401, {"www-authenticate": "Bearer", "x-user": "nobody", "x-secret": "1"}, b"a token is needed"

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.server.server_port, "http-auth")

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


def gateway_for(
    lab: Lab, auth: HttpAuth, *fields: str, pod: Pod | None = None, service: str = "auth:80", others: str = ""
) -> Gateway:
    """`others`: further objects, as YAML."""
    lines = "".join(f"            {one}\n" for one in fields)
    text = f"""
        kind: Mapping
        metadata: {{name: pods, namespace: default}}
        spec: {{service: "pods:80"}}
        ---
        kind: AuthService
        metadata: {{name: auth, namespace: default}}
        spec:
            auth_service: "{service}"
            resolver: endpoint
{lines}"""
    snapshot = compile_yaml("\n---\n".join([textwrap.dedent(text), *filter(None, [others])]), lab.engine).snapshot
    by_service = {cluster.service.name: name for name, cluster in snapshot.clusters.items()}
    members = {by_service["pods"]: (pod or lab.pod(),), by_service["auth"]: (auth,)}
    gateway = lab.gateway(configuration=snapshot, clusters=members)  # type: ignore[arg-type]
    gateway.wait_for_ready_pods(1)
    return gateway


def test_an_allowed_call_takes_the_allowed_headers_along(lab: Lab) -> None:
    auth = HttpAuth(lab)
    pod = lab.pod()
    gateway = gateway_for(
        lab,
        auth,
        "path_prefix: /check",
        "allowed_request_headers: [x-tenant]",
        "allowed_authorization_headers: [X-User]",
        "add_auth_headers: {x-gateway: a}",
        pod=pod,
    )
    assert begin(lab, gateway, *GOOD, ("x-tenant", "t"), ("x-other", "o"), ("x-user", "mallory")).result() == b"pod:hi"
    (asked,) = auth.asked
    assert asked.line == "POST /check/test.Pod/Unary HTTP/1.1"
    assert asked.headers["authorization"] == "Bearer good"
    assert (asked.headers["x-tenant"], asked.headers["x-gateway"]) == ("t", "a")
    assert asked.headers["x-forwarded-for"] == "127.0.0.1"
    assert asked.headers["content-length"] == "0"
    assert not {"x-other", "te", "content-type"} & asked.headers.keys()
    (seen,) = pod.calls
    assert (seen.values("x-user"), seen.values("x-secret"), seen.values("x-other")) == (["ann"], [], ["o"])


def test_no_engine_opens_an_http2_connection_to_the_service(lab: Lab) -> None:
    auth = HttpAuth(lab)
    gateway = gateway_for(lab, auth)
    assert [begin(lab, gateway, *GOOD).result() for _ in range(5)] == [b"pod:hi"] * 5
    gateway.advance_balancers(60.0)
    assert begin(lab, gateway, *GOOD).result() == b"pod:hi"
    assert auth.server.accepted == 1


def test_a_denied_call_gets_code_text_and_headers(lab: Lab) -> None:
    gateway = gateway_for(lab, HttpAuth(lab))
    call = begin(lab, gateway)
    assert (call.code(), call.details()) == (grpc.StatusCode.UNAUTHENTICATED, "a token is needed")
    trailers = dict(call.trailing_metadata())
    assert trailers["www-authenticate"] == "Bearer"
    assert not {"x-user", "x-secret"} & trailers.keys()


@pytest.mark.parametrize(
    ("status", "headers", "code"),
    [
        (403, {}, grpc.StatusCode.PERMISSION_DENIED),
        (302, {"location": "/login"}, grpc.StatusCode.UNKNOWN),
        (204, {}, grpc.StatusCode.UNKNOWN),
        (401, {"grpc-status": "8"}, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (503, {}, grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_only_200_allows(lab: Lab, status: int, headers: dict[str, str], code: grpc.StatusCode) -> None:
    auth = HttpAuth(lab, answer=lambda asked: (status, headers, b""))
    assert begin(lab, gateway_for(lab, auth), *GOOD).code() is code


def test_an_error_of_the_service_is_a_failure(lab: Lab) -> None:
    auth = HttpAuth(lab, answer=lambda asked: (500, {}, b"oh"))
    call = begin(lab, gateway_for(lab, auth))
    assert (call.code(), call.details(), reason_of(call)) == (grpc.StatusCode.UNAVAILABLE, "oh", "policy-unavailable")
    assert begin(lab, gateway_for(lab, auth, "failure_mode_allow: true")).result() == b"pod:hi"
    assert (
        begin(lab, gateway_for(lab, auth, "status_on_error: {code: 403}")).code() is grpc.StatusCode.PERMISSION_DENIED
    )


def test_the_first_message_is_the_body(lab: Lab) -> None:
    auth = HttpAuth(lab)
    assert begin(lab, gateway_for(lab, auth, "allow_request_body: true"), *GOOD, message=b"abc").result() == b"pod:abc"
    assert auth.asked[0].body == b"\0\0\0\0\3abc"
    assert auth.asked[0].headers["x-envoy-auth-partial-body"] == "false"


def test_a_service_that_is_away_refuses(lab: Lab) -> None:
    auth = HttpAuth(lab)
    gateway = gateway_for(lab, auth)
    auth.server.socket.close()
    call = begin(lab, gateway, *GOOD)
    assert (call.code(), reason_of(call)) == (grpc.StatusCode.UNAVAILABLE, "policy-unavailable")


def test_a_slow_service_meets_its_time_out_and_cancelled_calls_end(lab: Lab) -> None:
    auth = HttpAuth(lab)
    gateway = gateway_for(lab, auth, "timeout_ms: 100")
    auth.gate.clear()
    call = begin(lab, gateway, *GOOD)
    assert (call.code(), reason_of(call)) == (grpc.StatusCode.UNAVAILABLE, "policy-unavailable")
    assert "no answer within 100 ms" in call.details()
    auth.gate.set()
    eventually(lambda: not gateway.in_flight() and not gateway.pod_in_flight())


def test_hundreds_of_calls_at_once_each_get_their_verdict(lab: Lab) -> None:
    auth = HttpAuth(lab)
    gateway = gateway_for(lab, auth)
    unary = lab.channel(gateway).unary_unary("/test.Pod/Unary")
    calls = [unary.future(b"hi", metadata=GOOD if n % 2 else (), timeout=PATIENCE_S) for n in range(200)]
    for call in calls[::10]:
        call.cancel()
    codes = [call.code() for call in calls]
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.CANCELLED}
    assert {grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED} <= set(codes)
    eventually(lambda: not gateway.in_flight() and not gateway.pod_in_flight())


# --- TLS


def serving_tls(folder: Path, shown: Identity, clients: Authority | None = None) -> ssl.SSLContext:
    """A server's context. `clients`: it demands a certificate of theirs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (folder / "chain.pem").write_bytes(shown.certificate)
    (folder / "key.pem").write_bytes(shown.key)
    context.load_cert_chain(folder / "chain.pem", folder / "key.pem")
    context.set_alpn_protocols(["http/1.1"])
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=clients.pem.decode())
    return context


def secret(name: str, certificate: bytes, key: bytes = b"") -> str:
    data = {"tls.crt": certificate, "tls.key": key}
    lines = ", ".join(f"{field}: {base64.b64encode(value).decode()}" for field, value in data.items() if value)
    return f"apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ndata: {{{lines}}}"


def trusting(authority: Authority, own: Identity | None = None, sni: str = "auth.test") -> str:
    """A TLSContext `to-auth`, and its Secrets."""
    spec = f"ca_secret: authority, sni: {sni}" + (", secret: own" if own else "")
    objects = [f"kind: TLSContext\nmetadata: {{name: to-auth}}\nspec: {{{spec}}}", secret("authority", authority.pem)]
    if own is not None:
        objects.append(secret("own", own.certificate, own.key))
    return "\n---\n".join(objects)


def test_a_service_behind_tls_is_asked_over_connections_that_are_used_again(lab: Lab, tmp_path: Path) -> None:
    authority = Authority()
    auth = HttpAuth(lab, tls=serving_tls(tmp_path, authority.sign("auth.test")))
    gateway = gateway_for(lab, auth, "tls: to-auth", service="https://auth:443", others=trusting(authority))
    assert [begin(lab, gateway, *GOOD).result() for _ in range(5)] == [b"pod:hi"] * 5
    assert begin(lab, gateway).code() is grpc.StatusCode.UNAUTHENTICATED
    assert len({asked.connection for asked in auth.asked}) == 1


def test_a_service_with_another_certificate_is_not_asked(lab: Lab, tmp_path: Path) -> None:
    auth = HttpAuth(lab, tls=serving_tls(tmp_path, Authority().sign("auth.test")))
    gateway = gateway_for(lab, auth, "tls: to-auth", service="https://auth:443", others=trusting(Authority()))
    call = begin(lab, gateway, *GOOD)
    assert (call.code(), reason_of(call)) == (grpc.StatusCode.UNAVAILABLE, "policy-unavailable")
    assert "certificate" in call.details().lower()
    assert not auth.asked


def test_a_service_with_another_name_is_not_asked(lab: Lab, tmp_path: Path) -> None:
    authority = Authority()
    auth = HttpAuth(lab, tls=serving_tls(tmp_path, authority.sign("other.test")))
    gateway = gateway_for(lab, auth, "tls: to-auth", service="https://auth:443", others=trusting(authority))
    assert begin(lab, gateway, *GOOD).code() is grpc.StatusCode.UNAVAILABLE
    assert not auth.asked


def test_a_service_that_demands_a_certificate_gets_the_gateways(lab: Lab, tmp_path: Path) -> None:
    authority, clients = Authority(), Authority("clients")
    auth = HttpAuth(lab, tls=serving_tls(tmp_path, authority.sign("auth.test"), clients))
    others = trusting(authority, clients.sign("gateway.test"))
    gateway = gateway_for(lab, auth, "tls: to-auth", service="https://auth:443", others=others)
    assert begin(lab, gateway, *GOOD).result() == b"pod:hi"
