"""Applies client rules before routing: trusted hops, ip_allow/ip_deny, header names, client certificates. Pure.

Serving makes one `Reception` per snapshot, or none where no rule applies. The rules of `x-forwarded-for` are Envoy's
(`use_remote_address`, `xff_num_trusted_hops`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from ipaddress import ip_network

from grpcgw.model.clients import DEFAULT_CLIENT_RULES, AddressRule, CertificateForwarding, ClientRules, Underscores
from grpcgw.model.listener import Listener
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Reason
from grpcgw.policy.addresses import parse_address
from grpcgw.policy.client_certificates import FORWARDED_CERTIFICATE, forward_certificate
from grpcgw.policy.request import FORWARDED_FOR, Peer, Request
from grpcgw.policy.verdicts import Deny


class Reception:
    """Applies the client rules of the Module and of Listeners to each request."""

    def __init__(self, rules: ClientRules, listeners: Iterable[Listener] = ()) -> None:
        self._rules = rules
        own = int(not rules.use_remote_address)
        self._hops = rules.trusted_hops + own
        self._hops_by_listener = {one.name: one.trusted_hops + own for one in listeners if one.trusted_hops}
        self._keeps_ids = rules.preserve_request_id or not rules.use_remote_address
        self._forwards_certificates = rules.certificates is not CertificateForwarding.SANITIZE
        self._allow = None if rules.allow is None else _matcher(rules.allow)
        self._deny = _matcher(rules.deny)

    def receive(self, request: Request) -> None:
        """Set the client of `request`, and its `refusal` where a rule refuses it."""
        peer = request.peer
        hops = self._hops_by_listener.get(request.port.listener, self._hops)
        client = self._find_client(peer, request.metadata, hops)
        if self._forwards_certificates:
            client.certificate = self._find_certificate(request)
        request.peer = client
        underscores = self._rules.underscores
        if underscores is not Underscores.ALLOW:
            kept = tuple(item for item in request.metadata if "_" not in item[0])
            if underscores is Underscores.REJECT_REQUEST and kept != request.metadata:
                request.refusal = Deny(
                    Reason.UNDERSCORE, "a metadata key has an underscore; headers_with_underscores_action rejects those"
                )
            request.metadata = kept
        if not self._admits(peer.connected, client.address):
            where = client.address or "a Unix socket"
            request.refusal = Deny(Reason.CLIENT_ADDRESS, f"clients at {where} are not served (ip_allow, ip_deny)")

    def _find_client(self, peer: Peer, metadata: Metadata, hops: int) -> Peer:
        """The client, as far as the trusted proxies before the gateway name it."""
        address = (hops and _forwarded(metadata, hops)) or peer.address
        client = Peer(address, peer.port if address == peer.address else 0)
        client.connected, client.dialled = peer.connected, peer.dialled
        client.hop = peer.address if self._rules.use_remote_address else ""
        client.keeps_id = self._keeps_ids or client.keeps_id
        client.keeps_proto = hops > 0
        return client

    def _find_certificate(self, request: Request) -> str:
        rules = self._rules
        given = ",".join(str(value) for key, value in request.metadata if key == FORWARDED_CERTIFICATE)
        return forward_certificate(rules.certificates, rules.certificate_details, given, request.certificate)

    def _admits(self, peer: str, client: str) -> bool:
        if self._allow is not None and not self._allow(peer, client):
            return False
        return not self._deny(peer, client)


def make_reception(rules: ClientRules, listeners: Sequence[Listener] = ()) -> Reception | None:
    """None where no rule applies to any request."""
    asks = replace(rules, max_metadata_bytes=None, proxy_protocol=False) != DEFAULT_CLIENT_RULES
    return Reception(rules, listeners) if asks or any(one.trusted_hops for one in listeners) else None


def _forwarded(metadata: Metadata, hops: int) -> str:
    """The address `hops` from the end of `x-forwarded-for`; empty where there is no such entry, or it is no address."""
    values = [str(value) for key, value in metadata if key == FORWARDED_FOR]
    addresses = ",".join(values).split(",")
    if len(addresses) < hops:
        return ""
    found = parse_address(addresses[-hops].strip())
    return "" if found is None else str(found)


def _matcher(rules: Iterable[AddressRule]) -> Callable[[str, str], bool]:
    """Whether one of `rules` matches the address of the connection or of the client. Text that is no address matches
    none."""
    networks = [(ip_network(rule.network), rule.of_peer) for rule in rules]

    def matches(peer: str, client: str) -> bool:
        if not networks:
            return False
        by_peer = {True: parse_address(peer), False: parse_address(client)}
        return any((address := by_peer[of_peer]) is not None and address in network for network, of_peer in networks)

    return matches
