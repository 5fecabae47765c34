"""Dynamic metadata (google.protobuf.Struct) of a policy's service as facts for later policies and the access log."""

from __future__ import annotations

import json

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct, Value

from grpcgw.policy.verdicts import Facts

PREFIX, LIMIT_PREFIX = "auth.", "limit."
"""Of an ext_authz service, and of a rate limit service: it can set no fact that another policy sets, as `identity`."""
MAX_FACTS = 16
MAX_NAME_CHARACTERS, MAX_VALUE_CHARACTERS = 64, 256
NOT_JSON = "?"
"""Of a value that JSON cannot hold: a number that is infinite, or none."""


def read_facts(metadata: Struct, prefix: str = PREFIX) -> Facts:
    """`<prefix><key>` for each of the first MAX_FACTS keys; a value that is no text is JSON."""
    items = sorted(metadata.fields.items())[:MAX_FACTS]
    return tuple([(f"{prefix}{key[:MAX_NAME_CHARACTERS]}", _write(value)) for key, value in items])


def _write(given: Value) -> str:
    try:
        value = MessageToDict(given)
    except ValueError:
        return NOT_JSON
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), sort_keys=True)
    return text[:MAX_VALUE_CHARACTERS]
