"""deploy/crds.yaml: an API server can take it, it refuses nonsense, and nothing that grpcgw takes."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from grpcgw.ambassador.spec.fields import Shape
from grpcgw.ambassador.spec.resources import MODELS
from tests.crd_schemas import PRESERVE, Schema, read_crds, refusals, schema_of, violations
from tests.kube_cluster import Cluster, Refused

ROOT = Path(__file__).parents[3]
CRDS = read_crds()
VERSIONS = [(kind, version["name"]) for kind, crd in CRDS.items() for version in crd["spec"]["versions"]]

Body = dict[str, Any]


def refused(obj: Body) -> list[str]:
    return refusals(schema_of(obj["kind"], obj["apiVersion"].rpartition("/")[2]), obj)


def make(kind: str, spec: object, version: str = "v3alpha1") -> Body:
    metadata = {"name": "n", "namespace": "default"}
    return {"apiVersion": f"getambassador.io/{version}", "kind": kind, "metadata": metadata, "spec": spec}


# ---- the file


def test_the_crds_are_what_the_resources_say() -> None:
    script = runpy.run_path(str(ROOT / "scripts/crds.py"))
    assert script["render"]() == (ROOT / "deploy/crds.yaml").read_text(), "run make crds"


TEXT: Schema = {"type": "string"}
RULE = [{"rule": "has(self.a)", "message": "m"}]


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"$ref": "#/a"},
        {"type": ["string", "null"]},
        {"anyOf": [TEXT, {"type": "integer"}]},
        {**TEXT, "default": "a"},
        {"type": "array"},
        {"type": "object", "properties": {"a": {}}},
        {"type": "object", "properties": {"a": TEXT}, "additionalProperties": TEXT},
        {"type": "object", "required": ["b"], "properties": {"a": TEXT}},
        {"type": "object", "properties": {"a": {PRESERVE: True}}, "x-kubernetes-validations": RULE},
        {"type": "array", "items": {"type": "object", "properties": {"a": TEXT}, "x-kubernetes-validations": RULE}},
    ],
    ids=json.dumps,
)
def test_the_judge_refuses_what_an_api_server_refuses(schema: Schema) -> None:
    assert list(violations(schema)) != []


@pytest.mark.parametrize(("kind", "version"), VERSIONS)
def test_an_api_server_takes_every_schema(kind: str, version: str) -> None:
    schema = schema_of(kind, version)
    assert list(violations(schema)) == []
    assert set(schema["properties"]) == {"apiVersion", "kind", "metadata", "spec", "status"}
    assert schema["properties"]["metadata"] == {"type": "object"}


@pytest.mark.parametrize("kind", CRDS)
def test_a_crd_fits_into_the_annotation_that_kubectl_apply_keeps_it_in(kind: str) -> None:
    """All annotations of an object together may have 256 KiB."""
    assert len(json.dumps(CRDS[kind])) < 200 * 1024


def newest(kind: str) -> str:
    return max(str(version["name"]) for version in CRDS[kind]["spec"]["versions"])


@pytest.mark.parametrize("kind", CRDS)
def test_what_is_stored_in_one_version_can_be_read_in_each(kind: str) -> None:
    """Without conversion a version that lacks a field, or a type, would drop or refuse what another let in."""
    schemas = [schema_of(kind, version["name"]) for version in CRDS[kind]["spec"]["versions"]]
    assert all(schema == schemas[0] for schema in schemas)


def objects_in(schema: Schema) -> Iterator[Schema]:
    if schema.get("type") == "object" and "additionalProperties" not in schema:
        yield schema
    for part in [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]:
        if isinstance(part, dict):
            yield from objects_in(part)


@pytest.mark.parametrize("kind", CRDS)
def test_fields_that_a_schema_does_not_name_are_kept_at_every_depth(kind: str) -> None:
    """So that grpcgw, not a silent API server, judges a misspelt field."""
    for part in objects_in(schema_of(kind, newest(kind))["properties"]["spec"]):
        assert part["x-kubernetes-preserve-unknown-fields"] is True


@pytest.mark.parametrize("kind", CRDS)
def test_every_field_of_a_spec_is_described(kind: str) -> None:
    spec = schema_of(kind, newest(kind))["properties"]["spec"]
    assert spec["description"]
    assert [name for name, part in spec.get("properties", {}).items() if not part.get("description")] == []


# ---- what is refused


NONSENSE: dict[str, Body] = {
    "a number for a text": make("Mapping", {"prefix": 5, "service": "a:1"}),
    "a list for a text": make("Mapping", {"prefix": "/a/", "service": ["a"]}),
    "a text for a number": make("Mapping", {"prefix": "/a/", "service": "a:1", "weight": "many"}),
    "a text for an object": make("Mapping", {"prefix": "/a/", "service": "a:1", "headers": "nope"}),
    "out of bounds": make("Mapping", {"prefix": "/a/", "service": "a:1", "weight": 101}),
    "a misspelt field in the place of a required one": make("Mapping", {"prefix": "/a/", "servicee": "a:1"}),
    "another word than those there are": make(
        "Mapping", {"prefix": "/a/", "service": "a:1", "load_balancer": {"policy": "roundrobin"}}
    ),
    "a hash without a source": make(
        "Mapping", {"prefix": "/a/", "service": "a:1", "load_balancer": {"policy": "ring_hash"}}
    ),
    "no duration": make(
        "Mapping", {"prefix": "/a/", "service": "a:1", "retry_policy": {"retry_on": "5xx", "per_try_timeout": "soon"}}
    ),
    "a text as outlier detection": make("Mapping", {"prefix": "/a/", "service": "a:1", "outlier_detection": "x"}),
    "a health check of no kind": make(
        "Mapping", {"prefix": "/a/", "service": "a:1", "health_checks": [{"health_check": 1}]}
    ),
    "a Mapping of v2": make("Mapping", {"prefix": 5, "service": "a:1"}, "v2"),
    "a Module's key": make("Module", {"config": {"xff_num_trusted_hops": "2"}}),
    "a Listener without a model of security": make("Listener", {"port": 8080, "protocol": "HTTP"}),
    "a Listener of two protocols": make(
        "Listener", {"port": 1, "securityModel": "XFP", "protocol": "HTTP", "protocolStack": ["HTTP", "TCP"]}
    ),
    "a Listener of none": make("Listener", {"port": 1, "securityModel": "XFP", "protocolStack": []}),
    "a port there is not": make("Listener", {"port": 70000, "securityModel": "XFP", "protocol": "HTTP"}),
    "a certificate without its key": make("TLSContext", {"cert_chain_file": "/a.pem"}),
    "a certificate from two places": make(
        "TLSContext", {"secret": "s", "cert_chain_file": "/a.pem", "private_key_file": "/b.pem"}
    ),
    "a Host of two settings of TLS": make("Host", {"tls": {}, "tlsContext": {"name": "t"}}),
    "a Consul resolver of nowhere": make("ConsulResolver", {}),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_refused_as_grpcgw_refuses_it(name: str) -> None:
    obj = NONSENSE[name]
    assert refused(obj) != []
    model = MODELS[obj["kind"]]
    checked_apart = "health check" in name or "outlier" in name
    if not checked_apart:
        with pytest.raises(ValidationError):
            model.model_validate(obj["spec"])


def lets_in(cluster: Cluster, obj: Body) -> bool:
    try:
        cluster.put({**obj, "metadata": {"name": "n", "namespace": cluster.namespace}})
    except Refused:
        return False
    return True


def test_a_cluster_lets_no_nonsense_in(cluster: Cluster) -> None:
    assert [name for name, obj in NONSENSE.items() if lets_in(cluster, obj)] == []


@pytest.mark.parametrize("kind", ["Mapping", "Listener", "ConsulResolver"])
def test_what_cannot_be_without_a_spec_is_refused_without(kind: str) -> None:
    obj = make(kind, {})
    del obj["spec"]
    assert refused(obj) != []


def test_every_rule_refuses_something() -> None:
    said = {message for obj in NONSENSE.values() for message in refused(obj)}

    def messages(schema: Schema) -> Iterator[str]:
        for part in objects_in(schema):
            yield from (rule["message"] for rule in part.get("x-kubernetes-validations", ()))

    for kind, version in VERSIONS:
        assert set(messages(schema_of(kind, version))) <= said


# ---- what is taken


VALUES: tuple[object, ...] = (
    *(
        True,
        False,
        0,
        1,
        5,
        100,
        -1,
        10**6,
        1.5,
        "",
        "a",
        "/a",
        "a:1",
        "*",
        "1s",
        "1m30s",
        "a,b",
        "5xx",
        "5xx,internal",
    ),
    *([], ["a"], ["5xx"], [{}], [{"a": "b"}], {}, {"a": "b"}, {"a": True}, {"a": {"value": "b", "append": False}}),
)
BASES: dict[str, Body] = {
    "MappingSpec": {"prefix": "/a/", "service": "a:1"},
    "LoadBalancerSpec": {"policy": "round_robin"},
    "RegexRewriteSpec": {"pattern": "a", "substitution": "b"},
    "RetryPolicySpec": {"retry_on": "5xx"},
    "HealthCheckSpec": {"health_check": {"grpc": {"upstream_name": "a"}}},
    "HealthProbeSpec": {"grpc": {"upstream_name": "a"}},
    "GrpcHealthSpec": {"upstream_name": "a"},
    "Cookie": {"name": "a"},
    "AddedHeader": {"value": "a"},
    "SecretReference": {"name": "a"},
    "NameReference": {"name": "a"},
    "ConsulResolverSpec": {"datacenter": "a"},
    "ListenerSpec": {"port": 1, "protocol": "HTTP", "securityModel": "XFP"},
    "RateLimitSpec": {"limits": [{"pattern": [], "rate": 1, "unit": "second"}]},
    "LimitSpec": {"pattern": [], "rate": 1, "unit": "second"},
    "OwnRateLimitSpec": {"rate": 1},
    "InjectedHeader": {"name": "a", "value": "b"},
    "RateLimitServiceSpec": {"service": "a"},
    "AuthorizationPolicySpec": {"rules": []},
    "AuthorizationRuleSpec": {"condition": "true"},
}
"""A value of each model that has required fields."""


def inner_types(annotation: object) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from inner_types(part.type if isinstance(part, Shape) else part)


def values_for(annotation: object, metadata: list[Any]) -> Iterator[object]:
    """Right and wrong values: of every type, every word of its own, and whatever its models take."""
    yield from VALUES
    shapes = [one.type for one in metadata if isinstance(one, Shape)]
    parts = [part for one in (annotation, *shapes) for part in inner_types(one)]
    origins = {get_origin(part) for part in parts}
    for part in parts:
        if get_origin(part) is Literal:
            for word in get_args(part):
                yield from (word, [word])
        elif isinstance(part, type) and issubclass(part, BaseModel):
            for value in specs_of(part):
                yield [value] if list in origins else {"a": value} if dict in origins else value


def specs_of(model: type[BaseModel]) -> Iterator[Body]:
    base = BASES.get(model.__name__, {})
    yield base
    for name, field in model.model_fields.items():
        for value in values_for(field.annotation, field.metadata):
            yield {**base, field.alias or name: value}


@pytest.mark.parametrize("kind", CRDS)
def test_what_grpcgw_takes_the_schema_takes(kind: str) -> None:
    spec_schema = schema_of(kind, newest(kind))["properties"]["spec"]
    taken = 0
    for spec in specs_of(MODELS[kind]):
        try:
            MODELS[kind].model_validate(spec)
        except ValidationError:
            continue
        if set(spec) & {"outlier_detection", "health_checks", "v3health_checks"} or has_unchecked_parts(spec):
            continue
        taken += 1
        assert refusals(spec_schema, spec) == [], spec
    assert taken >= 1


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("Host", {"tls": {}, "tlsContext": {"name": ""}}),
        ("TLSContext", {"secret": "", "cert_chain_file": "/a.pem", "private_key_file": "/b.pem"}),
        ("TLSContext", {"secret": "s", "cert_chain_file": "", "private_key_file": ""}),
        ("Listener", {"port": 1, "securityModel": "XFP", "protocol": "HTTP", "protocolStack": []}),
        ("Mapping", {"prefix": "/a/", "service": "a:1", "load_balancer": {"policy": "maglev", "source_ip": True}}),
    ],
)
def test_rules_take_what_grpcgw_takes(kind: str, spec: Body) -> None:
    MODELS[kind].model_validate(spec)
    assert refused(make(kind, spec)) == []


def has_unchecked_parts(spec: Body) -> bool:
    """Whether `httpmapping` in it has fields whose parts are checked apart."""
    return bool(re.search("outlier_detection|health_checks", str(spec)))


def documents() -> Iterator[Any]:
    for path in sorted(ROOT.glob("examples/**/*.yaml")):
        yield from yaml.safe_load_all(path.read_text())
    for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]:
        for block in re.findall(r"^```yaml\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
            yield from yaml.safe_load_all(block)


def test_every_resource_of_the_examples_and_the_documentation_is_taken() -> None:
    resources = [one for one in documents() if isinstance(one, dict) and one.get("kind") in CRDS and "spec" in one]
    assert len(resources) > 5
    for obj in resources:
        assert refused(obj) == [], obj
