"""Filters addresses by the IP families that a Mapping enables (`enable_ipv4`, `enable_ipv6`). Pure."""

from __future__ import annotations

from grpcgw.model.cluster import Addressing


def is_enabled(address: str, addressing: Addressing) -> bool:
    """`address` is an IPv4 or IPv6 address without brackets."""
    return addressing.ipv6 if ":" in address else addressing.ipv4


def explain_disabled(found: str, addressing: Addressing) -> str:
    """The error of a set without pods although addresses were found; `found` says where."""
    wanted, switch = ("IPv4", "enable_ipv6") if addressing.ipv4 else ("IPv6", "enable_ipv4")
    return f"{found}, but none with an {wanted} address, and {switch} is false"
