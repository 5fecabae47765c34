"""IP addresses of clients as text, and the networks they are in. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """None where `text` is no address. An IPv4-mapped IPv6 address becomes IPv4."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def match_networks(networks: Iterable[str]) -> Callable[[str], bool]:
    """Whether an address is in one of `networks`. Text that is no address is in none."""
    compiled = tuple(map(_parse_network, networks))

    def matches(text: str) -> bool:
        address = parse_address(text)
        return address is not None and any(address in network for network in compiled)

    return matches


def _parse_network(text: str) -> IPv4Network | IPv6Network:
    """An IPv4-mapped network becomes IPv4, as its addresses do. Raises ValueError."""
    network = ip_network(text)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    return network if mapped is None or network.prefixlen < 96 else IPv4Network((mapped, network.prefixlen - 96))
