"""Whatever is in an object, compilation ends with a snapshot that can be used and a word on what is wrong."""

from __future__ import annotations

import pickle

from hypothesis import given, settings
from hypothesis import strategies as st

from grpcgw.ambassador.spec.resources import MODELS
from grpcgw.control.dialects import compile_snapshot
from grpcgw.model.objects import KubeObject
from grpcgw.model.route_source import CompileOptions
from grpcgw.routing.host_match import HostTable
from grpcgw.routing.split import Split
from grpcgw.routing.table import RouteTable
from tests.compiling import mapping, obj

WORDS = st.sampled_from(
    ["", "*", "a", "greet", "/", "/a/", "[", "(", "(a)", "\\1", "1s", "100%", "%REQ(a)%", "x y", "é", "\ud800", "a:b",
     "https://greet:1", "${HOME}", "v1.2", "5xx", "default", "high", "HTTP", "HTTPS", "round_robin", "maglev",
     "endpoint", "consul", "kubernetes-service", "greet..b", "cert", "true", "strict_dns", "Reject", "XFP", "*.a"]
)  # fmt: skip
NAMES = st.sampled_from(
    ["a", ":authority", "x", "policy", "header", "source_ip", "retry_on", "pattern", "substitution", "value", "append",
     "time", "priority", "max_requests", "health_check", "grpc", "upstream_name", "matchLabels", "name", "insecure",
     "action", "from", "namespace", "httpmapping", "prefix", "load_balancer", "interval_ms"]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers(-1, 9) | st.just(2**70) | st.floats() | WORDS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=6
)
REQUIRED = {
    "Mapping": {"prefix": WORDS, "service": WORDS, "resolver": WORDS},
    "Listener": {"port": st.integers(0, 9), "protocol": WORDS, "securityModel": WORDS},
    "ConsulResolver": {"datacenter": WORDS},
    "Module": {"config": st.dictionaries(st.sampled_from(sorted(MODELS["Mapping"].model_fields)), VALUES, max_size=4)},
}


@st.composite
def objects(draw: st.DrawFn) -> KubeObject:
    kind = draw(st.sampled_from(sorted(MODELS)))
    spec = draw(st.fixed_dictionaries(REQUIRED.get(kind, {})))
    fields = st.sampled_from(sorted(MODELS[kind].model_fields))
    metadata = draw(
        st.dictionaries(st.sampled_from(["labels", "annotations", "creationTimestamp"]), VALUES, max_size=2)
    )
    name = "ambassador" if kind == "Module" else draw(st.sampled_from(["a", "b", "endpoint"]))
    return obj(kind, name, {**spec, **draw(st.dictionaries(fields, VALUES, max_size=5))}, metadata=metadata)


@given(found=st.lists(objects(), max_size=6))
@settings(max_examples=150)
def test_any_objects_compile_to_a_snapshot_that_can_be_used(found: list[KubeObject]) -> None:
    compiled = compile_snapshot([mapping("good", prefix="/good/"), *found], {}, CompileOptions())
    snapshot = compiled.snapshot
    if not any(one.key.kind in ("Module", "Host") for one in found):  # those speak of all Mappings
        assert "good.shop" in {one.label for route in snapshot.routes for one in route.destinations}
    assert pickle.loads(pickle.dumps(snapshot)) == snapshot
    HostTable(snapshot.hosts).find("greet")
    RouteTable(snapshot.routes).match("/a/b", "greet", (("x", "1"),))
    for route in snapshot.routes:
        Split([(one, one.weight) for one in route.destinations], route.unrouted_weight).pick()
        assert {one.cluster for each in route.destinations for one in each.clusters} <= set(snapshot.clusters)
    for problem in compiled.problems:
        assert problem.message
