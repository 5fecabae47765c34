"""`:authority` of an RPC: the names by which it is matched."""

from __future__ import annotations


def split_authority(authority: str) -> tuple[str, ...]:
    """`:authority` in lower case and, if it has a port, also without the port.

    The trailing dot of a fully qualified name is removed, and a colon without a port: both mean the same host (RFC
    3986, 3.2.3).
    """
    full = authority.lower()
    name, colon, port = full.rpartition(":")
    if not colon or name.endswith(":") or (port and not port.isdigit()):
        return (full.removesuffix("."),)
    name = name.removesuffix(".")
    return (f"{name}:{port}", name) if port else (name,)
