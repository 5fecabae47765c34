"""Objects as the versions of Ambassador wrote, converted and stored them: they mean here what they meant there."""

from __future__ import annotations

import pytest

from grpcgw.model.match import HostKind, HostMatch
from grpcgw.model.objects import KubeObject, Severity
from grpcgw.model.route_source import Compiled, CompileOptions
from grpcgw.routing.table import RouteTable
from tests.compiling import compile_objects, destinations, module, obj, only_cluster, only_route, said

STORED_ID = "--apiVersion-v3alpha1-only--default"


def mapping(
    api: str = "getambassador.io/v2", metadata: dict[str, object] | None = None, **fields: object
) -> KubeObject:
    spec = {"prefix": "/greet.Greeter/", "service": "greet:50051", **fields}
    return obj("Mapping", "greet", spec, api=api, metadata=metadata)


def serves(compiled: Compiled, authority: str) -> bool:
    return RouteTable(compiled.snapshot.routes).match("/greet.Greeter/Greet", authority) is not None


# Whose objects


@pytest.mark.parametrize(
    ("given", "own_id", "is_served"),
    [
        ([STORED_ID], "default", True),
        (STORED_ID, "default", True),
        ([STORED_ID], "blue", False),
        (["--apiVersion-v3alpha1-only--blue", "green"], "blue", True),
        (["--apiVersion-v3alpha1-only--_automatic_"], "blue", True),
        ([3, "blue"], "default", False),
    ],
)
def test_the_mark_of_a_stored_v3alpha1_object_is_no_part_of_its_id(given: object, own_id: str, is_served: bool) -> None:
    compiled = compile_objects(mapping(ambassador_id=given), options=CompileOptions(own_id))
    assert bool(compiled.snapshot.routes) is is_served


def test_both_spellings_of_a_hosts_id_count_together() -> None:
    host = obj("Host", "host", {"ambassador_id": ["green"], "ambassadorId": ["blue"]})
    for own_id, count in (("green", 1), ("blue", 1), ("default", 0)):
        assert len(compile_objects(host, options=CompileOptions(own_id)).snapshot.hosts) == count


# Hosts


@pytest.mark.parametrize("api", ["getambassador.io/v2", "getambassador.io/v1", "ambassador/v1", "ambassador/v0"])
def test_before_v3alpha1_the_host_of_a_mapping_is_a_glob(api: str) -> None:
    compiled = compile_objects(mapping(api, host="*.example.com"))
    assert compiled.problems == ()
    assert only_route(compiled).host == HostMatch(HostKind.SUFFIX, ".example.com")


def test_in_v3alpha1_the_host_of_a_mapping_is_compared_exactly() -> None:
    compiled = compile_objects(mapping("getambassador.io/v3alpha1", host="*.example.com"))
    assert "compared exactly and cannot match anything; use hostname" in said(compiled)[0]
    exact = compile_objects(mapping("getambassador.io/v3alpha1", host="shop.example.com"))
    assert only_route(exact).host == HostMatch(HostKind.EXACT, "shop.example.com")


def test_a_star_alone_is_every_host_and_a_pattern_stays_a_pattern() -> None:
    assert only_route(compile_objects(mapping(host="*"))).host is None
    pattern = only_route(compile_objects(mapping(host="(a|b)[.]example[.]com", host_regex=True)))
    assert pattern.host == HostMatch(HostKind.REGEX, "(a|b)[.]example[.]com")


def test_the_mark_of_a_v3alpha1_mapping_without_hostname_is_no_host() -> None:
    marked = mapping(host="_skip_mapping_with_empty_host_", metadata={"labels": {"team": "a"}})
    assert only_route(compile_objects(marked)).host is None
    selecting = obj("Host", "tools", {"hostname": "tools.example.com", "selector": {"matchLabels": {"team": "a"}}})
    route = only_route(compile_objects(marked, selecting))
    assert route.host == HostMatch(HostKind.EXACT, "tools.example.com")


# Names that say that they are complete


@pytest.mark.parametrize("resolver", ["kubernetes-service", "endpoint"])
def test_a_service_may_end_in_a_dot(resolver: str) -> None:
    compiled = compile_objects(mapping(service="greet.apps.svc.cluster.local.:50051", resolver=resolver))
    assert compiled.problems == ()
    service = only_cluster(compiled).service
    assert (service.name, service.namespace, service.port) == ("greet", "apps", 50051)
    if resolver == "kubernetes-service":
        assert service.hostname == "greet.apps.svc.cluster.local."


def test_certificates_and_authorities_have_no_dot_at_their_end() -> None:
    compiled = compile_objects(mapping(service="https://greet.example.com.", auto_host_rewrite=True))
    tls = only_cluster(compiled).connection.tls
    assert tls is not None
    assert tls.server_name == "greet.example.com"
    assert destinations(compiled)["greet.shop"].authority == "greet.example.com"


@pytest.mark.parametrize("field", ["hostname", "host"])
@pytest.mark.parametrize("dot", ["", "."])
def test_a_dot_at_the_end_of_an_authority_does_not_count(field: str, dot: str) -> None:
    compiled = compile_objects(mapping(**{field: f"Shop.example.com{dot}"}))
    assert compiled.problems == ()
    for authority in ("shop.example.com", "shop.example.com.", "shop.example.com.:8080", "shop.example.com:8080"):
        assert serves(compiled, authority), authority
    assert not serves(compiled, "shop.example.co")
    only_8443 = compile_objects(mapping(hostname=f"*.example.com{dot}:8443"))
    assert serves(only_8443, "shop.example.com.:8443")
    assert not serves(only_8443, "shop.example.com.")


# The oldest version


def test_v0_is_read_as_v1_and_its_rate_limits_are_a_notice() -> None:
    compiled = compile_objects(mapping("ambassador/v0", rate_limits=[{"descriptor": "greet"}]))
    assert list(destinations(compiled)) == ["greet.shop"]
    assert said(compiled, Severity.ERROR) == []
    assert "spec.rate_limits: has no effect yet" in said(compiled)[0]


def test_v0_was_never_a_version_of_the_newer_group() -> None:
    assert "getambassador.io/v0 is not read" in said(compile_objects(mapping("getambassador.io/v0")))[0]


# What stands in the wrong place, or never meant anything to gRPC


@pytest.mark.parametrize("kind", ["Mapping", "Host", "TLSContext", "Listener", "KubernetesEndpointResolver"])
def test_metadata_in_the_spec_is_a_notice(kind: str) -> None:
    specs: dict[str, dict[str, object]] = {
        "Mapping": {"prefix": "/greet.Greeter/", "service": "greet"},
        "Listener": {"port": 8080, "protocol": "HTTP", "securityModel": "XFP"},
    }
    metadata = {"name": "greet", "namespace": "shop", "generation": 1, "metadata_labels": {"a": "b"}}
    compiled = compile_objects(obj(kind, "greet", {**specs.get(kind, {}), **metadata}, api="getambassador.io/v3alpha1"))
    assert said(compiled, Severity.ERROR) == []
    assert len([line for line in said(compiled) if "it belongs to the object's metadata" in line]) == len(metadata)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("allow_chunked_length", True),
        ("reject_requests_with_escaped_slashes", False),
        ("regex_type", "unsafe"),
        ("diag_port", 8878),
        ("debug_mode", True),
        ("auth_enabled", True),
        ("ambassador_id", ["default"]),
    ],
)
def test_a_key_of_the_module_without_meaning_for_grpc_is_a_notice_at_most(key: str, value: object) -> None:
    assert said(compile_objects(module(**{key: value})), Severity.ERROR) == []


def test_what_happens_anyway_brings_no_notice() -> None:
    quiet = module(
        reject_requests_with_escaped_slashes=True,
        regex_type="safe",
        diag_port=8877,
        debug_mode=False,
        auth_enabled=False,
    )
    assert compile_objects(quiet).problems == ()


# Ingresses


def ingress(annotations: dict[str, object], spec: dict[str, object] | None = None) -> KubeObject:
    return obj("Ingress", "shop", spec or {}, api="networking.k8s.io/v1", metadata={"annotations": annotations})


@pytest.mark.parametrize(
    ("one", "is_named"),
    [
        (ingress({"kubernetes.io/ingress.class": "ambassador"}), True),
        (ingress({}, {"ingressClassName": "ambassador"}), True),
        (ingress({}, {"ingressClassName": "edge"}), True),
        (ingress({}, {"ingressClassName": "nginx"}), False),
        (ingress({}), False),
        (ingress({"kubernetes.io/ingress.class": "ambassador", "getambassador.io/ambassador-id": "blue"}), False),
    ],
)
def test_an_ingress_for_ambassador_is_a_notice_and_another_ones_is_none(one: KubeObject, is_named: bool) -> None:
    edge = obj(
        "IngressClass", "edge", {"controller": "getambassador.io/ingress-controller"}, api="networking.k8s.io/v1"
    )
    compiled = compile_objects(one, edge)
    assert said(compiled) == (
        ["shop.yaml: notice: Ingress shop.shop: grpcgw does not serve Ingresses; write a Mapping for each rule"]
        if is_named
        else []
    )


# Redirects


def redirect(name: str = "old", **fields: object) -> KubeObject:
    spec = {"prefix": "/greet.Greeter/", "service": "new.example.com", "host_redirect": True, **fields}
    return obj("Mapping", name, spec)


def test_a_redirect_is_a_notice_and_takes_its_calls_from_all_others() -> None:
    others = obj("Mapping", "all", {"prefix": "/", "service": "greet:50051"})
    compiled = compile_objects(redirect(path_redirect="/new/", redirect_response_code=302), others)
    assert said(compiled, Severity.ERROR) == []
    assert "calls that match end with UNIMPLEMENTED" in "".join(said(compiled))
    found = RouteTable(compiled.snapshot.routes).match("/greet.Greeter/Greet")
    assert found is not None
    assert (found.redirect, found.destinations) == ("old.shop", ())
    assert list(compiled.snapshot.clusters) == ["greet.shop:50051/KubernetesServiceResolver"]


@pytest.mark.parametrize("second", ["redirect", "mapping"])
@pytest.mark.parametrize("first", ["redirect", "mapping"])
def test_a_redirect_is_alone_in_its_group(first: str, second: str) -> None:
    spec = {"prefix": "/greet.Greeter/", "service": "greet:50051"}
    made = {"redirect": redirect, "mapping": lambda name: obj("Mapping", name, spec)}
    compiled = compile_objects(made[first]("a"), made[second]("b"))
    if first == second == "mapping":
        assert said(compiled, Severity.ERROR) == []
        return
    (error,) = said(compiled, Severity.ERROR)
    assert "cannot accept b.shop beside a.shop: one Mapping that redirects takes all calls of its group" in error
    assert bool(only_route(compiled).redirect) is (first == "redirect")


def test_a_redirect_at_a_host_leaves_other_hosts_alone() -> None:
    serving = obj("Mapping", "greet", {"prefix": "/greet.Greeter/", "service": "greet:50051"})
    table = RouteTable(compile_objects(redirect(host="old.example.com"), serving).snapshot.routes)
    old, new = table.match("/greet.Greeter/Greet", "old.example.com"), table.match("/greet.Greeter/Greet", "new")
    assert old is not None
    assert new is not None
    assert (old.redirect, new.redirect) == ("old.shop", "")


# Ports for others


@pytest.mark.parametrize(
    "protocol",
    [{"protocol": "TCP"}, {"protocol": "UDP"}, {"protocol": "TLS"}, {"protocolStack": ["TLS", "TCP"]}],
)
def test_a_listener_without_http_is_a_notice_and_no_port(protocol: dict[str, object]) -> None:
    def listener(name: str, port: int, protocol: dict[str, object]) -> KubeObject:
        return obj(
            "Listener", name, {"port": port, "securityModel": "XFP", **protocol}, api="getambassador.io/v3alpha1"
        )

    was_http = compile_objects(listener("ssh", 2222, {"protocol": "HTTP"}))
    compiled = compile_objects(
        listener("ssh", 2222, protocol), listener("grpc", 8080, {"protocol": "HTTP"}), last=was_http
    )
    assert said(compiled) == ["ssh.yaml: notice: Listener ssh.shop: only gRPC is served: the port is not opened"]
    assert compiled.snapshot.listeners is not None
    assert [one.port for one in compiled.snapshot.listeners] == [8080]
