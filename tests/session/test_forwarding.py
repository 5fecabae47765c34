"""Metadata crosses whole: order, duplicates and binary values; what belongs to one hop stays behind."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.model.metadata import Metadata
from grpcgw.policy.request import FORWARDED_FOR, FORWARDED_PROTO, REQUEST_ID, Peer, make_request_id, parse_peer
from grpcgw.session.forwarding import HOP_BY_HOP, forward_request, trim

EXTERNAL, INTERNAL, SOCKET = Peer("8.8.8.8"), Peer("10.1.2.3"), Peer("")
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

SPECIAL = {FORWARDED_FOR, FORWARDED_PROTO, REQUEST_ID}
KEYS = st.from_regex(r"[a-z0-9_.-]{1,8}", fullmatch=True).filter(lambda key: key not in HOP_BY_HOP | SPECIAL)
TEXT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=8)
PLAIN = st.tuples(KEYS.filter(lambda key: not key.endswith("-bin")), TEXT)
BINARY = st.tuples(KEYS.map(lambda key: f"{key}-bin"), st.binary(max_size=8))
ORDINARY = st.lists(st.one_of(PLAIN, BINARY), max_size=8).map(tuple)
HOPS = st.lists(st.tuples(st.sampled_from(sorted(HOP_BY_HOP)), TEXT), max_size=3).map(tuple)


def values(metadata: Metadata, key: str) -> list[str | bytes]:
    return [value for name, value in metadata if name == key]


@given(metadata=ORDINARY, hops=HOPS, data=st.data())
def test_all_but_what_belongs_to_the_hop_crosses_in_order(
    metadata: Metadata, hops: Metadata, data: st.DataObject
) -> None:
    mixed = list(metadata)
    for hop in hops:
        mixed.insert(data.draw(st.integers(0, len(mixed))), hop)
    forwarded = forward_request(tuple(mixed), EXTERNAL, tls=False)
    assert tuple(item for item in forwarded if item[0] not in SPECIAL) == metadata


@given(metadata=ORDINARY)
def test_address_and_request_id_are_there_once(metadata: Metadata) -> None:
    forwarded = forward_request(metadata, EXTERNAL, tls=False)
    assert values(forwarded, FORWARDED_FOR) == ["8.8.8.8"]
    (request_id,) = values(forwarded, REQUEST_ID)
    assert UUID4.fullmatch(str(request_id))


def test_the_clients_address_is_appended() -> None:
    forwarded = forward_request(((FORWARDED_FOR, "1.1.1.1"), (FORWARDED_FOR, "2.2.2.2")), EXTERNAL, tls=False)
    assert values(forwarded, FORWARDED_FOR) == ["1.1.1.1,2.2.2.2,8.8.8.8"]


def test_a_client_without_an_address_leaves_the_list_as_it_is() -> None:
    assert values(forward_request(((FORWARDED_FOR, "1.1.1.1"),), SOCKET, tls=False), FORWARDED_FOR) == ["1.1.1.1"]
    assert values(forward_request((), SOCKET, tls=False), FORWARDED_FOR) == []


@pytest.mark.parametrize(("tls", "said"), [(True, "https"), (False, "http")])
def test_pods_are_told_how_the_rpc_came_in_whatever_the_client_says(tls: bool, said: str) -> None:
    for claimed in ((), ((FORWARDED_PROTO, "https"),), ((FORWARDED_PROTO, "http"), (FORWARDED_PROTO, "https"))):
        assert values(forward_request(claimed, INTERNAL, tls), FORWARDED_PROTO) == [said]


def test_a_request_id_of_an_external_client_is_replaced() -> None:
    (request_id,) = values(forward_request(((REQUEST_ID, "mine"),), EXTERNAL, tls=False), REQUEST_ID)
    assert request_id != "mine"


@pytest.mark.parametrize("peer", [INTERNAL, SOCKET])
def test_a_request_id_of_an_internal_client_is_kept(peer: Peer) -> None:
    forwarded = forward_request(((REQUEST_ID, "mine"), ("k", "v"), (REQUEST_ID, "again")), peer, tls=False)
    assert values(forwarded, REQUEST_ID) == ["mine"]
    assert forwarded[:2] == ((REQUEST_ID, "mine"), ("k", "v"))


def test_spaces_around_text_are_trimmed_and_bytes_are_not() -> None:
    values = (("x-a", " \ta b\t "), ("x-b", "  "), ("x-bin", b" a "))
    assert trim(values) == (("x-a", "a b"), ("x-b", ""), ("x-bin", b" a "))
    assert trim(values[2:]) == values[2:]


def test_request_ids_differ() -> None:
    assert len({make_request_id() for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    ("text", "address", "internal"),
    [
        ("ipv4:10.0.0.1:5123", "10.0.0.1", True),
        ("ipv4:127.0.0.1:1", "127.0.0.1", True),
        ("ipv4:8.8.8.8:443", "8.8.8.8", False),
        ("ipv6:%5B::1%5D:5123", "::1", True),
        ("ipv6:[2001:4860:4860::8888]:443", "2001:4860:4860::8888", False),
        ("ipv6:%5Bfe80::1%25eth0%5D:443", "fe80::1", True),
        ("unix:/run/grpcgw.sock", "", True),
        ("unknown", "", True),
        ("", "", True),
    ],
)
def test_peers_are_read_from_grpcs_text(text: str, address: str, internal: bool) -> None:
    peer = parse_peer(text)
    assert (peer.address, peer.keeps_id) == (address, internal)


def test_what_is_no_address_is_external() -> None:
    assert Peer("nonsense").keeps_id is False
