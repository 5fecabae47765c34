#!/usr/bin/env python3
"""Writes deploy/crds.yaml from the typed resources; `--check` only tests whether it is current.

The schemas are structural, as API servers require (apiextensions.k8s.io/v1): no references, no unions, a type wherever
not every value is allowed. They refuse only values that the models refuse, and null, and keep fields they do not name.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from grpcgw.ambassador.dialect_objects import API_GROUP, WATCHED
from grpcgw.ambassador.spec.parse import OWN_GROUP
from grpcgw.ambassador.spec.resources import MODELS
from grpcgw.model.dialect import ApiResource

FILE = Path(__file__).parent.parent / "deploy" / "crds.yaml"
HEAD = """\
# The custom resources grpcgw reads: Ambassador's kinds under Ambassador's names, so that its YAML applies unchanged,
# and grpcgw's own (`grpcgw.io`).
# Generated from grpcgw/ambassador/spec by scripts/crds.py; `make crds` writes it.
#
# DO NOT apply this file where Ambassador's (Emissary's) own CRDs are installed, even if Ambassador itself is gone:
# grpcgw reads those CRDs as they are, and this file applied over them would remove their conversion webhook.
#   kubectl get crd mappings.getambassador.io      # "NotFound": apply this file
#
# - Fields that are named here are checked by the API server: types, bounds, what is required. Others are kept
#   (x-kubernetes-preserve-unknown-fields): otherwise the API server would drop them silently. A misspelt field thus
#   reaches grpcgw, which names the object and the field on its diagnostics page and in the object's status.
# - v1, v2 and v3alpha1 are the same object under three names (conversion None); grpcgw reads v3alpha1, the newest, and
#   understands the spellings of all three in it. v2 is stored, as by Ambassador's CRDs, so that either set of CRDs
#   can replace the other without migrating objects.
"""
MEANINGS = {
    "Mapping": "Routes RPCs to a service, with settings. https://github.com/grpcgw/grpcgw/blob/main/docs/ambassador.md",
    "Module": "Settings of the whole gateway, and defaults of its Mappings. It is named `ambassador`.",
    "KubernetesEndpointResolver": "Mappings that name it go to the ready pods of their service.",
    "KubernetesServiceResolver": "Mappings that name it go to the addresses that DNS has for their service.",
    "ConsulResolver": "Mappings that name it go to the passing instances of a service in Consul.",
    "TLSContext": "Certificates and settings of TLS, for clients and for pods.",
    "Host": "A name of the gateway, its certificate, and the policy for calls in clear text.",
    "Listener": "A port of the gateway.",
    "Filter": "Decides on calls: by API keys, tokens, or another service. FilterPolicies say on which.",
    "AuthorizationPolicy": "Says who may call what, on the Mappings that it selects.",
    "FilterPolicy": "Says which Filters decide on which calls.",
    "AuthService": "A service that is asked about every call, but those of Mappings with `bypass_auth`.",
    "RateLimit": "Limits how often calls with certain labels may be made.",
    "RateLimitService": "A service of Envoy's rate limit protocol, which counts the calls of Mappings with labels.",
}
AGE = ("Age", "date", ".metadata.creationTimestamp")
COLUMNS = {
    "Mapping": (
        ("Source Host", "string", ".spec.host"),
        ("Source Prefix", "string", ".spec.prefix"),
        ("Dest Service", "string", ".spec.service"),
        ("State", "string", ".status.state"),
        ("Reason", "string", ".status.reason"),
        AGE,
    ),
    "Host": (
        ("Hostname", "string", ".spec.hostname"),
        ("State", "string", ".status.state"),
        ("Reason", "string", ".status.errorReason"),
        AGE,
    ),
    "Listener": (
        ("Port", "string", ".spec.port"),
        ("Protocol", "string", ".spec.protocol"),
        ("Stack", "string", ".spec.protocolStack"),
        ("StatsPrefix", "string", ".spec.statsPrefix"),
        ("Security", "string", ".spec.securityModel"),
        ("L7Depth", "string", ".spec.l7Depth"),
        AGE,
    ),
    "TLSContext": (("Secret", "string", ".spec.secret"), AGE),
}
"""Emissary's columns first, under its names, then further ones."""
STATUSES = {
    "Mapping": {
        "state": "`Running`, or `Inactive` where something is wrong with the object or with what it leads to",
        "reason": "what is wrong",
    },
    "Host": {"state": "`Ready`, or `Error`", "errorReason": "what is wrong"},
}
_STORED = "v2"
_KEPT = (
    *("type", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "required"),
    "x-kubernetes-validations",
)
"""Keywords with the same meaning in structural schemas and JSON Schema."""

Schema = dict[str, Any]
"""JSON, as pydantic writes it and an API server reads it."""


def main(arguments: list[str]) -> int:
    crds = render()
    if arguments == ["--check"]:
        if FILE.read_text(encoding="utf-8") != crds:
            sys.exit(f"{FILE} is not what the resources say; run make crds")
        return 0
    FILE.write_text(crds, encoding="utf-8")
    return 0


def render() -> str:
    return HEAD + "".join("---\n" + _dump(_crd(resources)) for resources in _custom_resources())


def _custom_resources() -> Iterator[list[ApiResource]]:
    """Each kind that has a model, in the versions it is read in."""
    for kind in WATCHED:
        if kind.candidates[0].group in (API_GROUP, OWN_GROUP) and kind.name in MODELS:
            yield sorted(kind.candidates, key=lambda resource: resource.version)


def _crd(resources: list[ApiResource]) -> Schema:
    kind, plural, group = resources[0].kind, resources[0].plural, resources[0].group
    # One value for all versions: the file has it once, as a YAML anchor.
    common = {
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {"name": name, "type": type_, "jsonPath": path} for name, type_, path in COLUMNS.get(kind, (AGE,))
        ],
        "schema": {"openAPIV3Schema": _object_schema(kind)},
    }
    versions = [resource.version for resource in resources]
    stored = _STORED if _STORED in versions else versions[-1]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{group}",
            "labels": {"app.kubernetes.io/part-of": "grpcgw"},
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "conversion": {"strategy": "None"},
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "categories": ["ambassador-crds" if group == API_GROUP else "grpcgw"],
            },
            "versions": [
                {"name": version, "served": True, "storage": version == stored, **common} for version in versions
            ],
        },
    }


def _object_schema(kind: str) -> Schema:
    spec = structural(MODELS[kind].model_json_schema(mode="validation"))
    spec["description"] = MEANINGS[kind]
    status = {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
        "properties": {
            name: {"type": "string", "description": meaning} for name, meaning in STATUSES.get(kind, {}).items()
        },
    }
    if not status["properties"]:
        del status["properties"]
    schema: Schema = {
        "type": "object",
        "description": MEANINGS[kind],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
    }
    if "required" in spec:
        schema["required"] = ["spec"]
    return schema


def structural(schema: Schema, definitions: Schema | None = None) -> Schema:
    """A JSON Schema of pydantic as a structural schema that accepts at least the same values."""
    definitions = schema.get("$defs", {}) if definitions is None else definitions
    described = {"description": schema["description"]} if "description" in schema else {}
    if "$ref" in schema:
        target = structural(definitions[schema["$ref"].rpartition("/")[2]], definitions)
        return {**target, **described}
    if "anyOf" in schema:
        choices = [choice for choice in schema["anyOf"] if choice != {"type": "null"}]
        if len(choices) != 1:  # a union: anything, for an API server
            return {**described, "x-kubernetes-preserve-unknown-fields": True}
        return {**structural(choices[0], definitions), **described}
    if "type" not in schema:
        return {**described, "x-kubernetes-preserve-unknown-fields": True}
    return {**described, **_typed(schema, definitions)}


def _typed(schema: Schema, definitions: Schema) -> Schema:
    made = {keyword: copy.deepcopy(schema[keyword]) for keyword in _KEPT if keyword in schema}
    if "const" in schema:
        made["enum"] = [schema["const"]]
    if "items" in schema:
        made["items"] = structural(schema["items"], definitions)
    if schema["type"] == "object":
        values = schema.get("additionalProperties")
        if isinstance(values, dict):
            return {**made, "additionalProperties": structural(values, definitions)}
        made["x-kubernetes-preserve-unknown-fields"] = True
        properties = schema.get("properties", {})
        if properties:
            made["properties"] = {name: structural(part, definitions) for name, part in properties.items()}
    return made


class _Dumper(yaml.SafeDumper):
    """Indents lists, and names anchors after their content."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, False)

    def generate_anchor(self, node: yaml.Node) -> str:
        if isinstance(node, yaml.SequenceNode):
            return "columns"
        return "schema" if node.value[0][0].value == "openAPIV3Schema" else "subresources"


def _dump(crd: Schema) -> str:
    text: str = yaml.dump(crd, Dumper=_Dumper, sort_keys=False, width=118, allow_unicode=True)
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
