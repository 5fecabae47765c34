"""Reads the entries of a Secret: `data` in base64, or `stringData`. No message contains one."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from grpcgw.errors import GrpcgwError
from grpcgw.model.objects import KubeObject


class InvalidSecret(GrpcgwError):
    """A Secret cannot be used; the message says why, without any content."""


def read_entries(obj: KubeObject) -> dict[str, bytes]:
    """All entries by name. Raises InvalidSecret."""
    sections = [obj.body.get(name) for name in ("data", "stringData")]
    names = {str(name): None for section in sections if isinstance(section, Mapping) for name in section}
    entries = {name: decode_entry(obj, name) for name in names}
    return {name: entry for name, entry in entries.items() if entry is not None}


def decode_entry(obj: KubeObject, name: str) -> bytes | None:
    """None: there is none. Raises InvalidSecret."""
    plain, encoded = find_entry(obj, "stringData", name), find_entry(obj, "data", name)
    if plain is not None:  # as the API server does: stringData wins
        return plain.encode()
    if encoded is None:
        return None
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidSecret(f"data of {name} is no base64") from error


def find_entry(obj: KubeObject, section: str, name: str) -> str | None:
    """As it stands in the object."""
    entries = obj.body.get(section)
    value = entries.get(name) if isinstance(entries, Mapping) else None
    return value if isinstance(value, str) else None
