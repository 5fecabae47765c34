"""Descriptors of an RPC from label groups."""

from __future__ import annotations

import pytest

from grpcgw.model.labels import AddressLabel, FixedLabel, HeaderLabel, Label
from grpcgw.model.metadata import Metadata
from grpcgw.model.objects import ObjectKey
from grpcgw.policy.contract import PolicyRequest
from grpcgw.policy.limits.rpc_labels import MAX_VALUE_CHARACTERS, compile_group, describe_all
from grpcgw.policy.request import Peer, Request

METADATA: Metadata = (("x-tenant", "a"), ("x-many", "1"), ("x-many", "2"), ("x-key-bin", b"\xff\x01"))


def rpc(address: str = "10.0.0.9", metadata: Metadata = METADATA) -> PolicyRequest:
    request = Request("/greet.Greeter/Hello", "greet.example.com", metadata, None, Peer(address))
    return PolicyRequest(request, ObjectKey("Mapping", "default", "m"), metadata)


@pytest.mark.parametrize(
    ("label", "value"),
    [
        (FixedLabel("generic_key", "x"), "x"),
        (AddressLabel("remote_address"), "10.0.0.9"),
        (HeaderLabel("h", "x-tenant"), "a"),
        (HeaderLabel("h", "x-many"), "1,2"),
        (HeaderLabel("h", "x-key-bin"), "/wE"),
        (HeaderLabel("h", ":authority"), "greet.example.com"),
        (HeaderLabel("h", ":path"), "/greet.Greeter/Hello"),
        (HeaderLabel("h", ":method"), "POST"),
    ],
)
def test_each_kind_of_label_has_its_value(label: Label, value: str) -> None:
    assert compile_group((label,))(rpc()) == ((label.key, value),)


def test_labels_keep_their_order_and_keys_may_repeat() -> None:
    group = (FixedLabel("k", "1"), HeaderLabel("t", "x-tenant"), FixedLabel("k", "2"))
    assert compile_group(group)(rpc()) == (("k", "1"), ("t", "a"), ("k", "2"))


def test_a_missing_header_leaves_out_the_descriptor() -> None:
    group = compile_group((FixedLabel("k", "1"), HeaderLabel("t", "x-absent")))
    assert group(rpc()) is None


def test_an_optional_header_that_is_missing_leaves_out_its_label() -> None:
    group = compile_group((FixedLabel("k", "1"), HeaderLabel("t", "x-absent", optional=True)))
    assert group(rpc()) == (("k", "1"),)


def test_a_client_without_an_address_has_no_descriptor_of_it() -> None:
    assert compile_group((AddressLabel("remote_address"),))(rpc(address="")) is None


def test_labels_see_what_earlier_policies_made_of_the_metadata() -> None:
    request = rpc()
    request.metadata = (("x-user", "ann"),)
    assert compile_group((HeaderLabel("user", "x-user"),))(request) == (("user", "ann"),)


def test_an_empty_descriptor_counts_nothing() -> None:
    groups = [compile_group(one) for one in ((HeaderLabel("t", "x-absent", True),), (FixedLabel("k", "1"),))]
    assert describe_all(groups, rpc()) == [(("k", "1"),)]


def test_a_long_value_is_kept_short_and_is_still_its_own() -> None:
    group = compile_group((HeaderLabel("t", "x-long"),))
    whole, longer, other = ("x" * MAX_VALUE_CHARACTERS + more for more in ("", "y", "z"))
    assert group(rpc(metadata=(("x-long", whole),))) == (("t", whole),)
    made = [group(rpc(metadata=(("x-long", value),))) for value in (longer, longer, other)]
    assert made[0] == made[1] != made[2]
    assert made[0] is not None
    assert len(made[0][0][1]) < 150
