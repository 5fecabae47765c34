"""Where calls go and over what connections: clusters, their names, TLS to pods, Consul."""

from __future__ import annotations

from datetime import timedelta

import pytest

from grpcgw.model.cluster import (
    Addressing,
    Cluster,
    ConnectionSettings,
    ConsulAgent,
    ResolverKind,
    ServiceRef,
    UpstreamTls,
)
from grpcgw.model.objects import KubeObject, Severity
from grpcgw.model.route_source import CompileOptions
from tests.compiling import compile_objects, destinations, mapping, module, obj, only_cluster, said
from tests.pems import NOW, key_pair, secret

PLAIN = "greet.shop:50051/KubernetesEndpointResolver"


def cluster_of(*others: KubeObject, **fields: object) -> Cluster:
    compiled = compile_objects(mapping(**fields), *others)
    assert compiled.problems == ()
    return only_cluster(compiled)


# Connections


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ConnectionSettings()),
        ({"connect_timeout_ms": 3000, "cluster_idle_timeout_ms": 0}, ConnectionSettings()),
        ({"connect_timeout_ms": 5}, ConnectionSettings(connect_timeout_ms=5)),
        ({"cluster_idle_timeout_ms": 5}, ConnectionSettings(idle_timeout_ms=5)),
        ({"cluster_max_connection_lifetime_ms": 5}, ConnectionSettings(max_lifetime_ms=5)),
        ({"keepalive": {}}, ConnectionSettings(keepalive_time_s=7200, keepalive_timeout_s=675)),
        (
            {"keepalive": {"time": 10, "interval": 2, "probes": 3}},
            ConnectionSettings(keepalive_time_s=10, keepalive_timeout_s=6),
        ),
        ({"keepalive": {"idle_time": 10}}, ConnectionSettings(keepalive_time_s=10, keepalive_timeout_s=675)),
    ],
)
def test_connection_settings(fields: dict[str, object], expected: ConnectionSettings) -> None:
    cluster = cluster_of(**fields)
    assert cluster.connection == expected
    assert (cluster.name == PLAIN) is (expected == ConnectionSettings())


def test_the_module_gives_connection_settings_to_all() -> None:
    keys = module(keepalive={"idle_time": 9}, cluster_idle_timeout_ms=7, cluster_max_connection_lifetime_ms=8)
    assert cluster_of(keys).connection == ConnectionSettings(
        idle_timeout_ms=7, max_lifetime_ms=8, keepalive_time_s=9, keepalive_timeout_s=675
    )


DIFFERENT = {
    "connect timeout": {"connect_timeout_ms": 5},
    "another connect timeout": {"connect_timeout_ms": 6},
    "idle": {"cluster_idle_timeout_ms": 5},
    "age": {"cluster_max_connection_lifetime_ms": 5},
    "keepalive": {"keepalive": {"time": 5}},
    "tag": {"cluster_tag": "blue"},
    "families": {"enable_ipv6": False},
    "TLS": {"tls": True},
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_connections_that_differ_are_clusters_of_their_own_with_stable_names(case: str) -> None:
    objects = mapping("a"), mapping("b", prefix="/b/", **DIFFERENT[case]), mapping("c", prefix="/c/", **DIFFERENT[case])
    compiled = compile_objects(*objects)
    names = {label: one.clusters[0].cluster for label, one in destinations(compiled).items()}
    assert names["a.shop"] == PLAIN
    assert names["b.shop"] == names["c.shop"] != PLAIN
    assert set(names.values()) == set(compiled.snapshot.clusters)
    assert names["b.shop"] == only_cluster(compile_objects(objects[2])).name


def test_all_different_connections_have_different_names() -> None:
    objects = [mapping(f"m{index}", prefix=f"/{index}/", **fields) for index, fields in enumerate(DIFFERENT.values())]
    assert len(compile_objects(*objects).snapshot.clusters) == len(DIFFERENT)


def test_a_tag_stands_before_the_name() -> None:
    assert cluster_of(cluster_tag="blue").name == f"blue/{PLAIN}"


@pytest.mark.parametrize(
    ("fields", "addressing"),
    [
        ({"enable_ipv6": True, "enable_ipv4": True}, Addressing()),
        ({"enable_ipv6": False}, Addressing(ipv6=False)),
        ({"enable_ipv4": False}, Addressing(ipv4=False)),
        ({"resolver": None, "dns_type": "logical_dns", "respect_dns_ttl": True}, Addressing(True, True, True, True)),
        ({"resolver": None, "dns_type": "strict_dns", "respect_dns_ttl": False}, Addressing()),
        ({"resolver": None, "dns_type": "LOGICAL_DNS"}, Addressing(logical_dns=True)),
        ({"resolver": None, "dns_type": ""}, Addressing()),
    ],
)
def test_addressing(fields: dict[str, object], addressing: Addressing) -> None:
    assert cluster_of(**fields).addressing == addressing


def test_no_family_of_addresses_is_an_error() -> None:
    compiled = compile_objects(mapping(enable_ipv4=False), module(enable_ipv6=False))
    assert "neither IPv4 nor IPv6 is enabled" in said(compiled, Severity.ERROR)[0]


# TLS to pods


@pytest.mark.parametrize("fields", [{"tls": True}, {"service": "https://greet"}, {"service": "grpcs://greet"}])
def test_tls_by_the_systems_roots(fields: dict[str, object]) -> None:
    assert cluster_of(**{"service": "greet", **fields}).connection.tls == UpstreamTls("system", "greet.shop")


@pytest.mark.parametrize(("service", "port"), [("greet", 443), ("greet:80", 80)])
def test_tls_changes_the_default_port(service: str, port: int) -> None:
    assert cluster_of(service=service, tls=True).service.port == port


def test_another_authority_of_pods_with_tls_is_another_connection() -> None:
    compiled = compile_objects(
        mapping("a", prefix="/a/", tls=True),
        mapping("b", prefix="/b/", tls=True, host_rewrite="other.test"),
        mapping("c", prefix="/c/", tls=True, auto_host_rewrite=True),
    )
    by_mapping = {
        label: compiled.snapshot.clusters[one.clusters[0].cluster] for label, one in destinations(compiled).items()
    }
    assert by_mapping["a.shop"] is by_mapping["c.shop"]
    tls = by_mapping["b.shop"].connection.tls
    assert tls is not None
    assert (tls.server_name, tls.authority) == ("greet.shop", "other.test")
    clear = compile_objects(mapping("a", prefix="/a/"), mapping("b", prefix="/b/", host_rewrite="other.test"))
    assert len(clear.snapshot.clusters) == 1


def test_a_health_check_calls_pods_with_tls_by_the_name_all_calls_have() -> None:
    checks = [{"health_check": {"grpc": {"upstream_name": "", "authority": "other.test"}}}]
    compiled = compile_objects(mapping(tls=True, health_checks=checks))
    assert (
        "spec.health_checks: authority other.test has no effect: pods with TLS are called by greet.shop"
        in (said(compiled, Severity.NOTICE)[0])
    )
    (destination,) = destinations(compiled).values()
    assert destination.balancing.health_check is not None
    assert destination.balancing.health_check.authority == ""
    assert compile_objects(mapping(tls=True, health_checks=checks, host_rewrite="other.test")).problems == ()


def test_a_tls_context_says_how() -> None:
    chain, private = key_pair("client")
    ca, _ = key_pair("ca")
    context = obj("TLSContext", "pods", {"secret": "cert", "ca_secret": "ca.vault", "sni": "greet.internal"})
    authorities = secret(ca, b"", "ca", "vault")
    cluster = cluster_of(context, secret(chain, private), authorities, tls="pods")
    expires_s = (NOW + timedelta(days=1)).timestamp()
    assert cluster.connection.tls == UpstreamTls(
        "pods.shop", "greet.internal", ca, chain, private, not_after_s=expires_s
    )
    assert private.decode().splitlines()[1] not in repr(cluster)


def test_a_tls_context_needs_no_certificate_to_be_used_with_pods() -> None:
    cluster = cluster_of(obj("TLSContext", "pods", {}), tls="pods")
    assert cluster.connection.tls == UpstreamTls("pods.shop", "greet.shop")


def test_a_renewed_certificate_leaves_the_cluster_its_name() -> None:
    context = obj("TLSContext", "pods", {"secret": "cert"})
    old, new = (cluster_of(context, secret(*key_pair(name)), tls="pods") for name in ("old", "new"))
    assert old.name == new.name
    assert old != new


@pytest.mark.parametrize(
    ("context", "reason"),
    [
        (None, "spec.tls: TLSContext pods is unknown or left out"),
        (obj("TLSContext", "pods", {"secret": "nobody"}), "TLSContext pods is unknown or left out"),
    ],
)
def test_a_context_that_cannot_be_used_leaves_the_mapping_out(context: KubeObject | None, reason: str) -> None:
    compiled = compile_objects(mapping(tls="pods"), *([context] if context else []))
    assert compiled.snapshot.routes == ()
    assert any(reason in error for error in said(compiled, Severity.ERROR))


def test_the_own_namespaces_tls_context_comes_first() -> None:
    contexts = [obj("TLSContext", "pods", {"sni": name}, namespace=name) for name in ("a", "shop")]
    tls = cluster_of(*contexts, tls="pods").connection.tls
    assert tls is not None
    assert tls.server_name == "shop"


# Consul


def consul(name: str = "dc", **fields: object) -> KubeObject:
    return obj("ConsulResolver", name, {"datacenter": "dc7", **fields})


def test_a_consul_service_has_its_name_alone() -> None:
    cluster = cluster_of(consul(address="consul.infra:8501"), resolver="dc", service="greet")
    assert cluster == Cluster(
        "greet/ConsulResolver/dc7@consul.infra:8501",
        ResolverKind.CONSUL,
        "dc",
        ServiceRef("greet", "", 0, "greet"),
        consul=ConsulAgent("consul.infra:8501", "dc7"),
    )


@pytest.mark.parametrize("name", ["consul", "consul-endpoint"])
def test_consul_resolvers_exist_without_being_declared(name: str) -> None:
    assert cluster_of(resolver=name, service="greet").consul == ConsulAgent("127.0.0.1:8500", "dc1")


def test_declared_under_one_name_it_is_meant_by_both() -> None:
    cluster = cluster_of(consul("consul", address="a:1"), resolver="consul-endpoint", service="greet")
    assert cluster.consul == ConsulAgent("a:1", "dc7")


@pytest.mark.parametrize(
    ("address", "agent"),
    [
        (None, "127.0.0.1:8500"),
        ("consul", "consul:8500"),
        ("${HOST_IP}", "10.0.0.7:8500"),
        ("https://$HOST_IP:8501", "https://10.0.0.7:8501"),
        ("[::1]", "[::1]:8500"),
    ],
)
def test_the_address_of_an_agent_may_be_that_of_the_node(address: str | None, agent: str) -> None:
    options = CompileOptions(environment={"HOST_IP": "10.0.0.7"})
    given = {} if address is None else {"address": address}
    compiled = compile_objects(mapping(resolver="dc", service="greet"), consul(**given), options=options)
    assert compiled.problems == ()
    assert only_cluster(compiled).consul == ConsulAgent(agent, "dc7")


@pytest.mark.parametrize("address", ["${TOKEN}", "$TOKEN:8500", "https://${HOST_IP}.${TOKEN}"])
def test_who_writes_objects_in_a_cluster_cannot_read_the_environment(address: str) -> None:
    options = CompileOptions(environment={"HOST_IP": "10.0.0.7", "TOKEN": "s3cret"})
    compiled = compile_objects(mapping(resolver="dc", service="greet"), consul(address=address), options=options)
    assert compiled.snapshot.clusters == {}
    assert "names TOKEN, which has no value: files have the gateway's environment" in said(compiled)[0]
    assert "s3cret" not in "".join(said(compiled))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"datacenter": None}, "spec.datacenter: "),
        ({"address": "ftp://consul"}, "has the unknown scheme 'ftp'"),
        ({"address": "consul:x"}, "spec.address: 'consul:x' has the bad port"),
        ({"adress": "consul"}, "spec.adress: is an unknown field; did you mean address?"),
    ],
)
def test_a_consul_resolver_that_cannot_be_is_left_out_with_its_mappings(fields: dict[str, object], reason: str) -> None:
    compiled = compile_objects(consul(**fields), mapping(resolver="dc", service="greet"))
    assert compiled.snapshot.routes == ()
    first, second = said(compiled, Severity.ERROR)
    assert reason in first
    assert "resolver dc is unknown" in second


def test_a_consul_name_has_no_dots_and_no_port_of_its_own() -> None:
    compiled = compile_objects(consul(), mapping("a", resolver="dc", service="greet.shop"))
    assert "resolver dc is a Consul resolver: its names have no dots" in said(compiled)[0]
    compiled = compile_objects(consul(), mapping("a", resolver="dc", service="greet:50051"))
    assert "port 50051 has no effect: Consul knows the port of each instance" in said(compiled, Severity.NOTICE)[0]


def test_consul_instances_can_be_balanced_and_checked() -> None:
    checks = [{"health_check": {"grpc": {"upstream_name": ""}}}]
    balancer = {"policy": "least_request"}
    assert cluster_of(consul(), resolver="dc", service="greet", load_balancer=balancer, health_checks=checks)


def test_the_path_of_a_service_is_a_notice() -> None:
    assert compile_objects(mapping("a", resolver=None, service="http://greet:50051/")).problems == ()
    (notice,) = said(compile_objects(mapping("a", resolver=None, service="http://greet:50051/v1/")))
    assert "notice: Mapping a.shop spec.service: '/v1/' has no effect: a service has no path; see rewrite" in notice
