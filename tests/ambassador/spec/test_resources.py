"""One object alone: which fields are known, what is said of each, and how wrong ones are named."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.ambassador.spec.fields import FieldNote, Resource
from grpcgw.ambassador.spec.host_specs import HostSpec, TLSContextSpec
from grpcgw.ambassador.spec.mapping_spec import MappingSpec
from grpcgw.ambassador.spec.module_spec import ModuleSpec
from grpcgw.ambassador.spec.parse import Findings, parse_spec
from grpcgw.ambassador.spec.resources import MODELS
from grpcgw.model.objects import KubeObject, ObjectKey, Problem, Severity, Source
from tests.parsing import parse_objects

GOOD = {"prefix": "/greet.GrpcService/", "service": "greet"}

REFERENCE_FIELDS = """
ambassador_id prefix prefix_exact prefix_regex case_sensitive hostname host host_regex headers regex_headers method
method_regex query_parameters regex_query_parameters precedence service grpc resolver load_balancer tls weight shadow
cluster_tag stats_name dns_type respect_dns_ttl enable_ipv4 enable_ipv6 priority rewrite regex_rewrite host_rewrite
auto_host_rewrite add_request_headers remove_request_headers add_response_headers remove_response_headers
add_linkerd_headers timeout_ms idle_timeout_ms connect_timeout_ms cluster_idle_timeout_ms
cluster_max_connection_lifetime_ms keepalive retry_policy circuit_breakers health_checks outlier_detection bypass_auth
auth_context_extensions labels rate_limits modules envoy_override docs cors host_redirect path_redirect prefix_redirect
regex_redirect redirect_response_code use_websocket allow_upgrade error_response_overrides
bypass_error_response_overrides v2BoolHeaders v2BoolQueryParameters v2ExplicitTLS v2Representation
v2CommaSeparatedOrigins v2Shorthand v3StatsName v3health_checks
"""

OWN_FIELDS = ("max_message_bytes", "rate_limit", "concurrency_limit")
"""Of grpcgw alone."""


def mapping(spec: object, api_version: str = "getambassador.io/v2") -> KubeObject:
    key = ObjectKey("Mapping", "default", "greet")
    return KubeObject(api_version, key, {"kind": "Mapping", "spec": spec}, Source("greet.yaml"))


def read(obj: KubeObject, model: type[Resource] = MappingSpec) -> tuple[Resource | None, list[Problem]]:
    findings = Findings(obj)
    spec = parse_spec(obj, model, findings)
    assert findings.rejected == any(problem.severity is Severity.ERROR for problem in findings.problems)
    return spec, findings.problems


def read_yaml(text: str, model: type[Resource] = MappingSpec) -> list[Problem]:
    (obj,), faults = parse_objects(textwrap.dedent(text), "greet.yaml")
    assert not faults
    return read(obj, model)[1]


def test_every_field_of_the_reference_is_known_and_says_what_it_does() -> None:
    assert sorted(MappingSpec.model_fields) == sorted([*REFERENCE_FIELDS.split(), *OWN_FIELDS])
    for model in MODELS.values():
        for name, field in model.model_fields.items():
            notes = [note for note in field.metadata if isinstance(note, FieldNote)]
            assert len(notes) == 1, name


@pytest.mark.parametrize("version", ["v1", "v2", "v3alpha1"])
def test_each_api_version_is_read(version: str) -> None:
    spec, problems = read(mapping(GOOD, f"getambassador.io/{version}"))
    assert spec is not None
    assert problems == []


def test_another_api_version_is_an_error() -> None:
    spec, (problem,) = read(mapping(GOOD, "getambassador.io/v9"))
    assert spec is None
    assert "getambassador.io/v9 is not read" in problem.message


def test_fields_beside_the_kind_are_the_spec_where_there_is_none() -> None:
    body = {"apiVersion": "getambassador.io/v2", "kind": "Mapping", "name": "greet", "metadata": {"labels": {}}, **GOOD}
    obj = KubeObject("getambassador.io/v2", ObjectKey("Mapping", "default", "greet"), body, Source("greet.yaml"))
    spec, problems = read(obj)
    assert isinstance(spec, MappingSpec)
    assert spec.prefix == "/greet.GrpcService/"
    assert problems == []


def test_every_error_of_an_object_is_told_with_file_line_path_and_what_would_be_right() -> None:
    problems = read_yaml("""\
        apiVersion: getambassador.io/v2
        kind: Mapping
        metadata: {name: greet}
        spec:
          prefx: /greet.GrpcService/
          service: greet..shop
          grpc: "yes"
          timeout_ms: 5s
          idle_timeout_ms: -1
          weight: 101
          load_balancer:
            policy: roundrobin
        """)
    assert sorted(str(problem) for problem in problems) == sorted(
        f"greet.yaml:{line}: error: Mapping greet.default spec.{rest}"
        for line, rest in [
            (4, "prefix: is required"),
            (5, "prefx: is an unknown field; did you mean prefix?"),
            (6, "service: 'greet..shop' has an empty name part: a dot too many (character 7)"),
            (7, "grpc: should be a valid boolean, not 'yes'"),
            (8, "timeout_ms: should be a valid integer, not '5s'"),
            (9, "idle_timeout_ms: should be greater than or equal to 0, not -1"),
            (10, "weight: should be less than or equal to 100, not 101"),
            (
                12,
                "load_balancer.policy: should be 'round_robin', 'least_request', 'ring_hash', 'maglev' or"
                " 'weighted_round_robin', not 'roundrobin'",
            ),
        ]
    )


@pytest.mark.parametrize(("value"), [True, 1.0, "1", [1]])
def test_a_number_is_nothing_else(value: object) -> None:
    spec, (problem,) = read(mapping({**GOOD, "timeout_ms": value}))
    assert spec is None
    assert problem.path == "spec.timeout_ms"


@pytest.mark.parametrize("spec", ["text", 3, ["prefix"], True])
def test_a_spec_that_is_no_mapping_of_fields_is_an_error(spec: object) -> None:
    assert read(mapping(spec))[0] is None


def test_a_key_that_is_no_name_is_an_error() -> None:
    spec, problems = read(mapping({**GOOD, 1: 2}))
    assert spec is None
    assert [problem.path for problem in problems] == ["spec.1"]


@pytest.mark.parametrize(
    ("balancer", "reason"),
    [
        ({}, "is required"),
        ({"policy": "round_robin", "header": "x"}, "round_robin takes no header"),
        ({"policy": "least_request", "source_ip": True}, "least_request takes no source_ip"),
        ({"policy": "ring_hash"}, "needs exactly one"),
        ({"policy": "maglev", "header": "x", "cookie": {"name": "c"}}, "needs exactly one"),
        ({"policy": "round_robin", "extra": 1}, "unknown field"),
    ],
)
def test_a_load_balancer_that_contradicts_itself_is_an_error(balancer: dict[str, object], reason: str) -> None:
    spec, (problem,) = read(mapping({**GOOD, "load_balancer": balancer}))
    assert spec is None
    assert reason in problem.message
    assert problem.path.startswith("spec.load_balancer")


NOTICED = {
    "path_redirect": ("/other", "has no effect on gRPC"),
    "cors": ({"origins": "*"}, "has no effect on gRPC"),
    "use_websocket": (True, "has no effect on gRPC"),
    "envoy_override": ({"a": 1}, "has no effect:"),
    "v2ExplicitTLS": ({"tls": "null"}, "has no effect:"),
}


@pytest.mark.parametrize("field", NOTICED)
def test_a_field_without_effect_is_a_notice_and_the_object_serves(field: str) -> None:
    value, said = NOTICED[field]
    spec, (problem,) = read(mapping({**GOOD, field: value}))
    assert spec is not None
    assert problem.severity is Severity.NOTICE
    assert problem.path == f"spec.{field}"
    assert problem.message.startswith(said)


@pytest.mark.parametrize("spelling", ["time", "idle_time"])
def test_both_spellings_of_the_keepalive_time_are_accepted(spelling: str) -> None:
    assert read(mapping({**GOOD, "keepalive": {spelling: 7200}}))[0] is not None


@pytest.mark.parametrize(
    ("field", "value"),
    [("hostname", "*"), ("method", "POST"), ("tls", False), ("headers", {}), ("shadow", True), ("stats_name", "a")],
)
def test_a_value_that_is_carried_out_or_asks_for_what_happens_anyway_is_no_problem(field: str, value: object) -> None:
    assert read(mapping({**GOOD, field: value}))[1] == []


def test_keys_of_a_module_are_checked_and_noted_one_by_one() -> None:
    problems = read_yaml(
        """\
        apiVersion: getambassador.io/v2
        kind: Module
        metadata: {name: ambassador}
        spec:
          config:
            diagnostics: {enabled: true}
            gzip: {memory_level: 1}
            service_port: 8080
            resolver: endpoint
            resolvr: endpoint
        """,
        ModuleSpec,
    )
    assert [(problem.where, problem.path, problem.severity) for problem in problems] == [
        ("greet.yaml:6", "spec.config.diagnostics", Severity.NOTICE),
        ("greet.yaml:7", "spec.config.gzip", Severity.NOTICE),
        ("greet.yaml:8", "spec.config.service_port", Severity.NOTICE),
        ("greet.yaml:10", "spec.config.resolvr", Severity.ERROR),
    ]


@pytest.mark.parametrize(
    ("model", "spec"),
    [
        (TLSContextSpec, {"cert_chain_file": "/tls.crt"}),
        (TLSContextSpec, {"private_key_file": "/tls.key"}),
        (TLSContextSpec, {"cacert_chain_file": "ca.crt"}),
        (HostSpec, {"tlsSecret": {}}),
        (HostSpec, {"tlsSecret": "name"}),
    ],
)
def test_tls_settings_that_cannot_be_kept_are_errors(model: type[Resource], spec: dict[str, object]) -> None:
    problems = read(mapping(spec), model)[1]
    assert any(problem.severity is Severity.ERROR for problem in problems)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(sorted(name for model in MODELS.values() for name in model.model_fields))


@given(model=st.sampled_from(list(MODELS.values())), spec=st.dictionaries(FIELDS | st.text(), VALUES, max_size=6))
def test_any_spec_is_read_or_refused_with_a_reason(model: type[Resource], spec: dict[str, object]) -> None:
    read_spec, problems = read(mapping(spec), model)
    refused = any(problem.severity is Severity.ERROR for problem in problems)
    assert refused or read_spec is not None


def test_the_documentation_says_of_each_field_what_the_resources_say() -> None:
    root = Path(__file__).parents[3]
    checked = subprocess.run(
        [sys.executable, root / "scripts/ambassador_docs.py", "--check"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
