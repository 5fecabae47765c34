"""TLS and mTLS to pods: who is spoken to is checked, and certificates are replaced without a restart."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse

from dataplane.authorities import Authority
from dataplane.configured import compile_yaml
from dataplane.lab import Gateway, Lab
from dataplane.pods import Context, Pod
from dataplane.waiting import eventually
from grpcgw.listeners.self_signed import make_self_signed
from grpcgw.model.listener import ServerCertificate
from tests.pems import key_pair

UNAVAILABLE = 14
CHECK = "/grpc.health.v1.Health/Check"
MAPPING = "metadata: {name: test}\nspec: {service: 'pods:50051', tls: to-pods}"


def certify(name: str) -> ServerCertificate:
    """A certificate that is its own authority."""
    return make_self_signed(name, datetime.now(UTC))


@pytest.fixture(scope="module")
def of_pod() -> ServerCertificate:
    return certify("pod.test")


@pytest.fixture(scope="module")
def of_gateway() -> ServerCertificate:
    return certify("gateway.test")


def secret(name: str, certificate: ServerCertificate) -> str:
    chain, key = (base64.b64encode(one).decode() for one in (certificate.certificate_chain, certificate.private_key))
    return (
        f"apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {{name: {name}}}\n"
        f"data: {{tls.crt: {chain}, tls.key: {key}}}"
    )


def speaking_tls(authority: ServerCertificate, own: ServerCertificate | None = None, sni: str = "pod.test") -> str:
    """A Mapping whose pods are spoken to in TLS: they must show `authority`; the gateway shows `own`."""
    spec = "ca_secret: authority" + (f", sni: {sni}" if sni else "") + (", secret: own" if own else "")
    objects = [MAPPING, f"kind: TLSContext\nmetadata: {{name: to-pods}}\nspec: {{{spec}}}"]
    objects += [secret("authority", authority), *([secret("own", own)] if own else [])]
    return "\n---\n".join(objects)


def who(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
    """The certificate that the gateway showed."""
    list(requests)
    yield context.auth_context().get("x509_pem_cert", [b""])[0]


def talk(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
    yield b"started"
    yield from requests


def serving(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
    list(requests)
    yield HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString()


def tls_pod(lab: Lab, certificate: ServerCertificate, *clients: ServerCertificate) -> Pod:
    """`clients`: whom it serves; none: everybody."""
    credentials = grpc.ssl_server_credentials(
        [(certificate.private_key, certificate.certificate_chain)],
        b"".join(client.certificate_chain for client in clients) or None,
        require_client_auth=bool(clients),
    )
    return lab.pod("a", {"Who": who, "Talk": talk, CHECK: serving}, credentials=credentials)


def shown(lab: Lab, gateway: Gateway) -> bytes:
    return b"".join(lab.channel(gateway).stream_stream("/test.Pod/Who")(iter([b""])))


def gateway_for(lab: Lab, text: str, pod: Pod) -> Gateway:
    configuration = compile_yaml(text, lab.engine).snapshot
    return lab.gateway(configuration=configuration, clusters={name: [pod] for name in configuration.clusters})


def assert_not_connected(lab: Lab, text: str, pod: Pod) -> None:
    with lab.raw_client(gateway_for(lab, text, pod)) as client:
        answer = client.call("Unary")
    assert (answer.status, answer.header("x-grpcgw-reason")) == (UNAVAILABLE, "connect-failed")
    assert pod.calls == []


@pytest.mark.parametrize("sni", ["pod.test", "pod.test."])
def test_pod_is_spoken_to_in_tls_by_the_name_it_proves(lab: Lab, of_pod: ServerCertificate, sni: str) -> None:
    """Neither certificates nor SNI have the trailing dot of a fully qualified name (RFC 6066, 3)."""
    pod = tls_pod(lab, of_pod)
    gateway = gateway_for(lab, speaking_tls(of_pod, sni=sni), pod)
    call = lab.channel(gateway).unary_unary("/test.Pod/Unary")
    assert [call(b"1"), call(b"2")] == [b"a:1", b"a:2"]
    assert shown(lab, gateway) == b""
    assert len(gateway.serving.clusters.pods()) == 1


@pytest.mark.parametrize(
    "field",
    [
        "host_rewrite: other.test",
        "host_rewrite: 'pod.test:443'",
        "host_rewrite: Pod.test",
        "auto_host_rewrite: true",
        "host_rewrite: other.test, health_checks: [{interval: 50ms, health_check: {grpc: {upstream_name: ''}}}]",
        "health_checks: [{interval: 50ms, health_check: {grpc: {upstream_name: '', authority: other.test}}}]",
    ],
)
def test_pod_that_proves_one_name_can_be_called_by_another(lab: Lab, of_pod: ServerCertificate, field: str) -> None:
    pod = tls_pod(lab, of_pod)
    text = speaking_tls(of_pod).replace("tls: to-pods", f"tls: to-pods, {field}")
    gateway = gateway_for(lab, text, pod)
    gateway.wait_for_ready_pods(1)
    if "health_checks" in field:
        eventually(lambda: [call.method for call in pod.calls].count(CHECK) > 1, "two checks")
    assert lab.channel(gateway).unary_unary("/test.Pod/Unary")(b"1") == b"a:1"


def test_without_sni_the_pod_proves_the_name_of_the_service(lab: Lab) -> None:
    of_service = certify("pods.default")
    pod = tls_pod(lab, of_service)
    gateway = gateway_for(lab, speaking_tls(of_service, sni=""), pod)
    assert lab.channel(gateway).unary_unary("/test.Pod/Unary")(b"1") == b"a:1"


def test_gateway_proves_who_it_is_to_pods_that_ask(
    lab: Lab, of_pod: ServerCertificate, of_gateway: ServerCertificate
) -> None:
    pod = tls_pod(lab, of_pod, of_gateway)
    gateway = gateway_for(lab, speaking_tls(of_pod, of_gateway), pod)
    assert shown(lab, gateway) == of_gateway.certificate_chain
    assert_not_connected(lab, speaking_tls(of_pod), tls_pod(lab, of_pod, of_gateway))


def test_pod_that_cannot_prove_who_it_is_is_not_spoken_to(
    lab: Lab, of_pod: ServerCertificate, of_gateway: ServerCertificate
) -> None:
    by_the_systems_authorities = "metadata: {name: test}\nspec: {service: 'https://pods:50051'}"
    for text in (speaking_tls(of_pod, sni="other.test"), speaking_tls(of_gateway), by_the_systems_authorities):
        assert_not_connected(lab, text, tls_pod(lab, of_pod))


def test_a_pod_whose_certificate_is_revoked_is_not_spoken_to(lab: Lab) -> None:
    """An engine that reads no revocation lists connects to no pod at all where there is one."""
    authority = Authority()
    identity = authority.sign("pod.test")
    pod = ServerCertificate("pod", (), identity.certificate, identity.key)
    known = speaking_tls(ServerCertificate("authority", (), authority.pem, b""))
    shown_to_be_good = tls_pod(lab, pod)
    assert shown(lab, gateway_for(lab, known, shown_to_be_good)) == b""
    revoked = base64.b64encode(authority.revoke(identity)).decode()
    crl = f"apiVersion: v1\nkind: Secret\nmetadata: {{name: crl}}\ndata: {{crl.pem: {revoked}}}"
    checked = known.replace("ca_secret: authority", "ca_secret: authority, crl_secret: crl")
    assert_not_connected(lab, f"{checked}\n---\n{crl}", tls_pod(lab, pod))


def test_renewed_certificate_is_shown_without_restart_and_streams_go_on(
    lab: Lab, of_pod: ServerCertificate, of_gateway: ServerCertificate
) -> None:
    # Of another subject: OpenSSL tries but one authority of each.
    renewed = ServerCertificate("renewed", (), *key_pair("renewed", datetime.now(UTC) + timedelta(days=1)))
    pod = tls_pod(lab, of_pod, of_gateway, renewed)
    gateway = gateway_for(lab, speaking_tls(of_pod, of_gateway), pod)
    goes_on = threading.Event()
    lab.defer(goes_on.set)

    def requests() -> Iterator[bytes]:
        goes_on.wait()
        yield b"1"

    running = lab.channel(gateway).stream_stream("/test.Pod/Talk")(requests())
    assert next(running) == b"started"
    gateway.apply(compile_yaml(speaking_tls(of_pod, renewed), lab.engine).snapshot)
    eventually(lambda: shown(lab, gateway) == renewed.certificate_chain)
    goes_on.set()
    assert list(running) == [b"1"]


def test_certificates_that_do_not_fit_keep_the_old_connections(
    lab: Lab, of_pod: ServerCertificate, of_gateway: ServerCertificate
) -> None:
    pod = tls_pod(lab, of_pod, of_gateway)
    gateway = gateway_for(lab, speaking_tls(of_pod, of_gateway), pod)
    call = lab.channel(gateway).unary_unary("/test.Pod/Unary")
    gateway.apply(compile_yaml(speaking_tls(of_gateway, of_gateway), lab.engine).snapshot)
    eventually(lambda: "failing" in [report.state for report in gateway.serving.clusters.pod_reports()])
    assert [call(b"1"), call(b"2")] == [b"a:1", b"a:2"]
    notes = [report.note for report in gateway.serving.clusters.pod_reports()]
    assert notes == ["", "reconnecting; the previous connection serves until then"]
    gateway.apply(compile_yaml(speaking_tls(of_pod, of_gateway), lab.engine).snapshot)
    eventually(lambda: [report.state for report in gateway.serving.clusters.pod_reports()] == ["ready"])
    assert call(b"3") == b"a:3"
