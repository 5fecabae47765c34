"""A judge of CRDs: whether a schema is one that an API server takes, and what it makes of objects.

Stands in for the API server where there is none. Types and bounds are judged by jsonschema, rules by a CEL evaluator;
what makes a schema structural is written down here, after the Kubernetes documentation of CustomResourceDefinitions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cel
import yaml
from jsonschema import Draft4Validator

Schema = dict[str, Any]

CRDS = Path(__file__).parents[1] / "deploy" / "crds.yaml"

KEYWORDS = frozenset(
    {
        *("type", "description", "properties", "required", "items", "additionalProperties", "enum", "pattern"),
        *("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"),
        *("x-kubernetes-preserve-unknown-fields", "x-kubernetes-validations"),
    }
)
"""What a structural schema may have, of what ours need: neither references, unions nor defaults."""
TYPES = frozenset({"object", "array", "string", "integer", "number", "boolean"})
PRESERVE = "x-kubernetes-preserve-unknown-fields"


@cache
def read_crds() -> dict[str, Schema]:
    """By kind."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return {crd["spec"]["names"]["kind"]: crd for crd in yaml.load_all(CRDS.read_text(), loader)}


def schema_of(kind: str, version: str) -> Schema:
    (found,) = [one for one in read_crds()[kind]["spec"]["versions"] if one["name"] == version]
    schema: Schema = found["schema"]["openAPIV3Schema"]
    return schema


def violations(schema: Schema, path: str = "", repeated: bool = False) -> Iterator[str]:
    """What an API server would refuse in `schema`. `repeated`: it stands in a list or map without bounds, where rules
    may cost more than a server allows."""
    yield from (f"{path}: {keyword} is not allowed" for keyword in schema.keys() - KEYWORDS)
    kind = schema.get("type")
    if kind is None:
        if schema.keys() - {"description"} != {PRESERVE}:
            yield f"{path}: has no type"
        return
    if not isinstance(kind, str) or kind not in TYPES:
        yield f"{path}: {kind} is no type"
    if kind == "array" and not isinstance(schema.get("items"), dict):
        yield f"{path}: an array needs items"
    if "properties" in schema and "additionalProperties" in schema:
        yield f"{path}: properties and additionalProperties exclude each other"
    if kind != "object" and schema.keys() & {"properties", "additionalProperties", "required", PRESERVE}:
        yield f"{path}: is no object"
    yield from (f"{path}: {name} is required and unknown" for name in missing(schema))
    for rule in schema.get("x-kubernetes-validations", ()):
        if repeated:
            yield f"{path}: a rule among an unbounded number of values"
        for name in re.findall(r"self\.(\w+)", rule["rule"]):
            if is_unknown(schema.get("properties", {}).get(name, {})):
                yield f"{path}: a rule reads {name}, whose type CEL does not know"
    for name, part in schema.get("properties", {}).items():
        yield from violations(part, f"{path}.{name}", repeated)
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            yield from violations(schema[keyword], f"{path}[]", True)


def is_unknown(schema: Schema) -> bool:
    """Whether rules cannot read it, as there is no type, or nothing but one, to preserved fields."""
    if schema.get("type") == "object":
        return "properties" not in schema and is_unknown(schema.get("additionalProperties", {}))
    return "type" not in schema or (schema["type"] == "array" and is_unknown(schema["items"]))


def missing(schema: Schema) -> set[str]:
    return set(schema.get("required", ())) - schema.get("properties", {}).keys()


def refusals(schema: Schema, value: object) -> list[str]:
    """Why an API server would not take `value`; empty: it would."""
    return [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in Draft4Validator(schema).iter_errors(value)
    ] or list(broken_rules(schema, value))


def broken_rules(schema: Schema, value: object) -> Iterator[str]:
    """The messages of rules that do not hold; `value` has the right types."""
    for rule in schema.get("x-kubernetes-validations", ()):
        if not cel.evaluate(rule["rule"], {"self": value}):
            yield rule["message"]
    if isinstance(value, dict):
        for name, part in value.items():
            inner = schema.get("properties", {}).get(name, schema.get("additionalProperties", {}))
            yield from broken_rules(inner, part)
    elif isinstance(value, list):
        for part in value:
            yield from broken_rules(schema.get("items", {}), part)
