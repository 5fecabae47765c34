"""What Hosts say of RPCs: which names a port serves, and whether it serves them in clear text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from dataplane.authorities import Authority
from dataplane.configured import configured, pods_named, who_answers
from dataplane.lab import Gateway, Lab, clear_port, mapping, snapshot, tls_port
from grpcgw.model.clients import ClientRules
from grpcgw.model.host_policy import HostPolicy
from grpcgw.model.listener import Listener, SecurityModel
from grpcgw.model.match import HostKind, HostMatch
from grpcgw.model.snapshot import Snapshot
from grpcgw.upstream.descriptors import DescriptorIndex

EVERYBODY = HostPolicy(None)
ONLY_TLS = HostPolicy(None, clear_text=False)
OK, REFUSED, NO_HOST = (0, ""), (7, "clear-text"), (12, "no-host")


def policy(name: str, clear_text: bool = True) -> HostPolicy:
    return HostPolicy(HostMatch(HostKind.EXACT, name), clear_text)


def configuration(*ports: Listener) -> Snapshot:
    return replace(snapshot(mapping()), listeners=ports)


def gateway_of(lab: Lab, *ports: Listener) -> Gateway:
    return lab.gateway(lab.pod("a"), configuration=configuration(*ports), ports=ports)


def answer_of(channel: grpc.Channel, *metadata: tuple[str, str]) -> tuple[int, str]:
    """Code and reason."""
    try:
        channel.unary_unary("/test.Pod/Unary")(b"x", metadata=metadata, timeout=30)
    except grpc.RpcError as error:
        return error.code().value[0], str(dict(error.trailing_metadata()).get("x-grpcgw-reason", ""))
    return OK


def call(lab: Lab, gateway: Gateway, authority: str) -> tuple[int, str]:
    with lab.raw_client(gateway) as client:
        answer = client.call("Unary", authority=authority)
        return answer.status, answer.header("x-grpcgw-reason") or ""


def test_a_host_that_wants_tls_is_not_served_in_clear_text(lab: Lab) -> None:
    authority = Authority()
    gateway = gateway_of(
        lab, clear_port(hosts=(ONLY_TLS,)), tls_port(authority.certificate("localhost"), hosts=(ONLY_TLS,))
    )
    assert answer_of(lab.channel(gateway)) == REFUSED
    assert answer_of(lab.tls_channel(gateway, authority.pem)) == OK


@pytest.mark.parametrize(
    ("model", "in_clear_text", "in_tls"),
    [
        (SecurityModel.XFP, {"": REFUSED, "http": REFUSED, "https": REFUSED}, {"": OK, "http": OK, "https": OK}),
        (SecurityModel.SECURE, {"": OK, "http": OK, "https": OK}, {"": OK, "http": OK, "https": OK}),
        (
            SecurityModel.INSECURE,
            {"": REFUSED, "http": REFUSED, "https": REFUSED},
            {"": REFUSED, "http": REFUSED, "https": REFUSED},
        ),
    ],
)
def test_what_counts_as_clear_text_is_the_listeners_choice(
    lab: Lab, model: SecurityModel, in_clear_text: dict[str, object], in_tls: dict[str, object]
) -> None:
    authority = Authority()
    rules = {"hosts": (ONLY_TLS,), "security_model": model}
    gateway = gateway_of(lab, clear_port(**rules), tls_port(authority.certificate("localhost"), **rules))
    for channel, expected in (
        (lab.channel(gateway), in_clear_text),
        (lab.tls_channel(gateway, authority.pem), in_tls),
    ):
        seen = {proto: answer_of(channel, *([("x-forwarded-proto", proto)] if proto else [])) for proto in expected}
        assert seen == expected


@pytest.mark.parametrize(
    ("hops", "clients"),
    [
        (1, ClientRules()),
        (0, ClientRules(trusted_hops=1)),
        (0, ClientRules(use_remote_address=False)),
    ],
)
def test_of_proxies_that_are_believed_the_forwarded_protocol_counts(lab: Lab, hops: int, clients: ClientRules) -> None:
    authority = Authority()
    ports = (
        clear_port(hosts=(ONLY_TLS,), trusted_hops=hops),
        tls_port(authority.certificate("localhost"), hosts=(ONLY_TLS,), trusted_hops=hops),
    )
    gateway = lab.gateway(lab.pod(), configuration=replace(configuration(*ports), clients=clients), ports=ports)
    for channel, without in ((lab.channel(gateway), REFUSED), (lab.tls_channel(gateway, authority.pem), OK)):
        assert answer_of(channel) == without
        assert answer_of(channel, ("x-forwarded-proto", "http")) == REFUSED
        assert answer_of(channel, ("x-forwarded-proto", "https")) == OK


def test_the_host_of_the_name_decides(lab: Lab) -> None:
    gateway = gateway_of(lab, clear_port(hosts=(policy("strict.example", False), EVERYBODY)))
    assert call(lab, gateway, "strict.example") == REFUSED
    assert call(lab, gateway, "STRICT.example:8080") == REFUSED
    assert call(lab, gateway, "other.example") == OK


def test_a_port_serves_the_names_of_its_hosts_alone(lab: Lab) -> None:
    gateway = gateway_of(lab, clear_port(hosts=(policy("a.example"), policy("b.example"))))
    assert call(lab, gateway, "a.example") == OK
    assert call(lab, gateway, "b.example:80") == OK
    assert call(lab, gateway, "c.example") == NO_HOST


LEFT_OUT = (14, "host-left-out")


def test_the_name_of_a_host_that_is_left_out_is_served_neither_over_tls_nor_in_clear_text(lab: Lab) -> None:
    """Where a name is not known it may be that one."""
    authority = Authority()
    hosts = (replace(policy("localhost", False), left_out="Host h.default"), EVERYBODY)
    gateway = gateway_of(lab, clear_port(hosts=hosts), tls_port(authority.certificate("localhost"), hosts=hosts))
    in_clear_text = lab.channel(gateway, ("grpc.default_authority", "localhost"))
    for channel in (in_clear_text, lab.tls_channel(gateway, authority.pem)):
        with pytest.raises(grpc.RpcError, match=r"Host h\.default has errors, so .* is not served"):
            channel.unary_unary("/test.Pod/Unary")(b"x", timeout=30)
        assert answer_of(channel) == LEFT_OUT


def test_other_names_are_served_beside_one_that_is_left_out(lab: Lab) -> None:
    broken = replace(policy("broken.example", False), left_out="Host h")
    gateway = gateway_of(lab, clear_port(hosts=(broken, EVERYBODY)))
    assert call(lab, gateway, "broken.example") == LEFT_OUT
    assert call(lab, gateway, "other.example") == OK


def test_where_the_name_is_not_known_nothing_is_served_that_some_host_refuses(lab: Lab) -> None:
    """Whatever an engine knows of names, these are never served: it may not guess to the better."""
    refusing = (policy("strict.example", False), EVERYBODY)
    assert call(lab, gateway_of(lab, clear_port(hosts=refusing)), "strict.example") == REFUSED
    assert call(lab, gateway_of(lab, clear_port(hosts=(policy("a.example"),))), "b.example") == NO_HOST


def test_hosts_change_while_rpcs_go_on(lab: Lab) -> None:
    gateway = gateway_of(lab, clear_port())
    channel = lab.channel(gateway)
    for hosts, expected in (((ONLY_TLS,), REFUSED), ((EVERYBODY,), OK), ((ONLY_TLS,), REFUSED), ((), OK)):
        gateway.apply(configuration(clear_port(hosts=hosts)))
        gateway.listen(clear_port(hosts=hosts))
        assert answer_of(channel) == expected


def test_health_is_answered_whatever_hosts_say_and_reflection_is_not(lab: Lab) -> None:
    gateway = gateway_of(lab, clear_port(hosts=(ONLY_TLS,)))
    gateway.serving.reflection = DescriptorIndex({})
    channel = lab.channel(gateway)
    stub = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    asked: Iterable[reflection_pb2.ServerReflectionRequest] = iter(
        [reflection_pb2.ServerReflectionRequest(list_services="")]
    )
    with pytest.raises(grpc.RpcError) as refused:
        list(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked, timeout=30))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_request_policy_as_it_is_written(lab: Lab) -> None:
    gateway = configured(
        lab,
        """
        {name: m, service: pods}
        ---
        {kind: Host, name: h, hostname: "*", requestPolicy: {insecure: {action: Reject}}}
        """,
        pods=lab.pod("a"),
    )
    gateway.apply(replace(gateway.serving.snapshot, listeners=(clear_port(hosts=gateway.serving.snapshot.hosts),)))
    assert answer_of(lab.channel(gateway)) == REFUSED


SELECTING = """
{{name: chosen, service: chosen, metadata_labels: {{tier: web}}}}
---
{{name: other, service: other}}
---
{{name: any, service: any, prefix: /test.Pod/Any, hostname: "*"}}
---
{{name: named, service: named, prefix: /test.Pod/Named, hostname: web.example}}
---
{{name: fit, service: fit, prefix: /test.Pod/Fit, hostname: "*", metadata_labels: {{tier: web}}}}
---
{{kind: Host, name: h, hostname: web.example, {field}: {{matchLabels: {{tier: web}}}}}}
"""


@pytest.mark.parametrize("field", ["selector", "mappingSelector"])
def test_a_host_that_selects_mappings_serves_them_alone(lab: Lab, field: str) -> None:
    methods = "Any", "Named", "Fit"
    gateway = configured(lab, SELECTING.format(field=field), **pods_named(lab, "chosen other any named fit", *methods))
    served = gateway.serving.snapshot
    gateway.apply(replace(served, listeners=(clear_port(hosts=(*served.hosts, EVERYBODY)),)))
    with lab.raw_client(gateway) as client:
        seen = {
            authority: [who_answers(client, method=method, authority=authority) for method in ("Unary", *methods)]
            for authority in ("web.example", "elsewhere.example")
        }
    assert seen == {
        "web.example": ["chosen", "chosen", "chosen", "fit"],
        "elsewhere.example": ["other", "any", "other", "fit"],
    }
