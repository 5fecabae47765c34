"""What the Module asks of every request: who its client is, whether it is served, what its metadata may hold."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.listeners.open_ports import PortView
from grpcgw.model.clients import DEFAULT_CLIENT_RULES, AddressRule, ClientRules, Underscores
from grpcgw.model.listener import Listener, SecurityModel, Transport
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Reason
from grpcgw.policy.client_rules import make_reception
from grpcgw.policy.request import FORWARDED_FOR, FORWARDED_PROTO, Peer, Request
from grpcgw.session.forwarding import REQUEST_ID, forward_request

PROXY, CLIENT = "9.9.9.9", "8.8.8.8"


def received(rules: ClientRules, *metadata: tuple[str, str], peer: str = PROXY) -> Request:
    request = Request("/a.B/C", "test", metadata, None, Peer(peer, 4711))
    reception = make_reception(rules)
    assert reception is not None
    reception.receive(request)
    return request


def forwarded(request: Request) -> Metadata:
    return forward_request(request.metadata, request.peer, request.port.tls)


def test_without_rules_there_is_nothing_to_do() -> None:
    assert make_reception(DEFAULT_CLIENT_RULES) is None
    assert make_reception(ClientRules(max_metadata_bytes=1024)) is None


@pytest.mark.parametrize(
    ("rules", "before", "address", "after"),
    [
        (ClientRules(trusted_hops=1), f"6.6.6.6, {CLIENT}", CLIENT, f"6.6.6.6, {CLIENT},{PROXY}"),
        (ClientRules(trusted_hops=2), f"{CLIENT},10.0.0.1", CLIENT, f"{CLIENT},10.0.0.1,{PROXY}"),
        (ClientRules(trusted_hops=3), f"{CLIENT},10.0.0.1", PROXY, f"{CLIENT},10.0.0.1,{PROXY}"),
        (ClientRules(trusted_hops=1), "not an address", PROXY, f"not an address,{PROXY}"),
        (ClientRules(use_remote_address=False), f"6.6.6.6,{CLIENT}", CLIENT, f"6.6.6.6,{CLIENT}"),
        (ClientRules(use_remote_address=False, trusted_hops=1), f"{CLIENT},10.0.0.1", CLIENT, f"{CLIENT},10.0.0.1"),
        (ClientRules(use_remote_address=False, trusted_hops=2), CLIENT, PROXY, CLIENT),
    ],
)
def test_the_client_is_who_the_trusted_proxies_say(rules: ClientRules, before: str, address: str, after: str) -> None:
    request = received(rules, (FORWARDED_FOR, before))
    assert request.peer.address == address
    assert dict(forwarded(request))[FORWARDED_FOR] == after


def test_a_listener_may_believe_other_proxies_than_the_module() -> None:
    behind = Listener("behind", 1, Transport.CLEAR, SecurityModel.XFP, trusted_hops=2)
    open_to_all = Listener("open", 2, Transport.CLEAR, SecurityModel.XFP)
    assert make_reception(DEFAULT_CLIENT_RULES, [open_to_all]) is None
    reception = make_reception(DEFAULT_CLIENT_RULES, [behind, open_to_all])
    assert reception is not None
    for listener, address in ((behind, CLIENT), (open_to_all, PROXY)):
        metadata = ((FORWARDED_FOR, f"{CLIENT},10.0.0.1"),)
        request = Request("/a.B/C", "test", metadata, None, Peer(PROXY, 4711), port=PortView(listener.name))
        reception.receive(request)
        assert request.peer.address == address


def test_without_x_forwarded_for_the_client_is_who_connected() -> None:
    for rules in (ClientRules(trusted_hops=1), ClientRules(use_remote_address=False)):
        request = received(rules)
        assert (request.peer.address, request.peer.port) == (PROXY, 4711)
    assert FORWARDED_FOR not in dict(forwarded(request))


def test_several_lines_of_x_forwarded_for_are_one_list() -> None:
    request = received(ClientRules(trusted_hops=2), (FORWARDED_FOR, CLIENT), (FORWARDED_FOR, "10.0.0.1"))
    assert request.peer.address == CLIENT


@pytest.mark.parametrize(
    ("rules", "client", "kept"),
    [
        (ClientRules(preserve_request_id=True), CLIENT, True),
        (ClientRules(trusted_hops=1), CLIENT, False),
        (ClientRules(trusted_hops=1), "10.1.2.3", True),
        (ClientRules(use_remote_address=False), CLIENT, True),
    ],
)
def test_a_request_id_is_kept_where_it_is_trusted(rules: ClientRules, client: str, kept: bool) -> None:
    request = received(rules, (FORWARDED_FOR, client), (REQUEST_ID, "mine"))
    assert (dict(forwarded(request))[REQUEST_ID] == "mine") is kept


@pytest.mark.parametrize(
    ("rules", "proto"),
    [
        (ClientRules(trusted_hops=1), "https"),
        (ClientRules(use_remote_address=False), "https"),
        (ClientRules(preserve_request_id=True), "http"),
    ],
)
def test_how_the_client_came_is_for_believed_proxies_to_say(rules: ClientRules, proto: str) -> None:
    assert dict(forwarded(received(rules, (FORWARDED_PROTO, "https"))))[FORWARDED_PROTO] == proto


@pytest.mark.parametrize(
    ("rules", "peer", "served"),
    [
        (ClientRules(allow=(AddressRule("10.0.0.0/8"),)), "10.9.9.9", True),
        (ClientRules(allow=(AddressRule("10.0.0.0/8"),)), CLIENT, False),
        (ClientRules(allow=(AddressRule("10.0.0.0/8"),)), "::ffff:10.1.1.1", True),
        (ClientRules(allow=(AddressRule("10.0.0.0/8"), AddressRule("2001:db8::/32"))), "2001:db8::7", True),
        (ClientRules(allow=()), "10.9.9.9", False),
        (ClientRules(allow=(AddressRule("0.0.0.0/0"),)), "", False),
        (ClientRules(deny=(AddressRule("10.0.0.0/8"),)), "10.9.9.9", False),
        (ClientRules(deny=(AddressRule("10.0.0.0/8"),)), CLIENT, True),
        (ClientRules(deny=(AddressRule("10.0.0.0/8"),)), "", True),
        (ClientRules(allow=(AddressRule("10.0.0.0/8"),), deny=(AddressRule("10.1.0.0/16"),)), "10.1.0.1", False),
        (ClientRules(allow=(AddressRule("10.0.0.0/8"),), deny=(AddressRule("10.1.0.0/16"),)), "10.2.0.1", True),
    ],
)
def test_networks_say_who_is_served(rules: ClientRules, peer: str, served: bool) -> None:
    refusal = received(rules, peer=peer).refusal
    assert (refusal is None) is served
    assert refusal is None or refusal.reason is Reason.CLIENT_ADDRESS


def test_remote_is_the_client_and_peer_the_connection() -> None:
    behind = (FORWARDED_FOR, CLIENT)
    for of_peer, network in ((False, CLIENT), (True, PROXY)):
        rules = ClientRules(trusted_hops=1, allow=(AddressRule(f"{network}/32", of_peer),))
        assert received(rules, behind).refusal is None
        assert received(ClientRules(trusted_hops=1, deny=rules.allow or ()), behind).refusal is not None


def test_keys_with_underscores_are_dropped_or_their_calls_rejected() -> None:
    given_ = (("x_a", "1"), ("x-b", "2"))
    dropped = received(ClientRules(underscores=Underscores.DROP_HEADER), *given_)
    assert (dropped.metadata, dropped.refusal) == ((("x-b", "2"),), None)
    rejected = received(ClientRules(underscores=Underscores.REJECT_REQUEST), *given_)
    assert rejected.refusal is not None
    assert rejected.refusal.reason is Reason.UNDERSCORE
    assert received(ClientRules(underscores=Underscores.REJECT_REQUEST), ("x-b", "2")).refusal is None


@given(
    values=st.lists(st.text("0123456789.:, abx-", max_size=30), max_size=3),
    hops=st.integers(0, 4),
    use_remote=st.booleans(),
)
def test_whatever_x_forwarded_for_holds_the_client_has_an_address(
    values: list[str], hops: int, use_remote: bool
) -> None:
    rules = ClientRules(use_remote_address=use_remote, trusted_hops=hops, preserve_request_id=True)
    assert ip_address(received(rules, *((FORWARDED_FOR, value) for value in values)).peer.address)
