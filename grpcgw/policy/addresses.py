"""IP addresses of clients as text, and the networks they are in. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """None where `text` is no address. An IPv4-mapped IPv6 address becomes IPv4."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def match_networks(networks: Iterable[str]) -> Callable[[str], bool]:
    """Whether an address is in one of `networks`. Text that is no address is in none."""
    compiled = tuple(ip_network(network) for network in networks)

    def matches(text: str) -> bool:
        address = parse_address(text)
        return address is not None and any(address in network for network in compiled)

    return matches
