"""API keys: who has one passes under its name, and the key goes no further."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.model.api_keys import ApiKeySettings, make_api_keys
from grpcgw.model.codes import Code
from grpcgw.model.content_hash import digest
from grpcgw.model.objects import ObjectKey
from grpcgw.policy.api_key import build
from grpcgw.policy.contract import PolicyRequest, Verdict
from grpcgw.policy.request import Peer, Request
from grpcgw.policy.services import PolicyServices
from grpcgw.policy.verdicts import Allow, Deny

KEY = ObjectKey("Mapping", "default", "m")


def settings(forward: bool = False, header: str = "x-api-key", **keys: str) -> ApiKeySettings:
    return make_api_keys("Filter f.default", header, {name: [key.encode()] for name, key in keys.items()}, forward)


def check(chosen: ApiKeySettings, *values: str | bytes) -> Verdict:
    metadata = tuple((chosen.header, value) for value in values)
    request = Request("/a.S/M", "", metadata, None, Peer(""))
    return build(KEY, chosen, PolicyServices()).check(PolicyRequest(request, KEY, metadata))


def test_a_valid_key_passes_under_its_name_and_is_taken_away() -> None:
    chosen = settings(ann="secret-a", bob="secret-b")
    assert check(chosen, "secret-b") == Allow(remove=("x-api-key",), facts=(("identity", "bob"),))
    assert check(settings(forward=True, ann="secret-a"), "secret-a") == Allow(facts=(("identity", "ann"),))
    assert check(settings(header="x-key-bin", ann="secret-a"), b"secret-a") == Allow(
        remove=("x-key-bin",), facts=(("identity", "ann"),)
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((), "and the call has none"),
        (("",), "and that of the call is not valid"),
        (("secret-A",), "and that of the call is not valid"),
        (("wrong", "secret-a"), "and the call has several"),
        (("secret-a", "wrong"), "and the call has several"),
        (("secret-a", "secret-a"), "and the call has several"),
        (("secret-a\udc80",), "and that of the call is not valid"),
    ],
)
def test_without_a_valid_key_a_call_is_unauthenticated(values: tuple[str, ...], message: str) -> None:
    denied = check(settings(ann="secret-a"), *values)
    assert isinstance(denied, Deny)
    assert (denied.reason, denied.status().code) == ("unauthenticated", Code.UNAUTHENTICATED)
    assert message in denied.message
    assert "secret" not in denied.message


def test_without_any_key_nobody_passes() -> None:
    assert isinstance(check(settings(), ""), Deny)


_KEYS = st.dictionaries(st.text(min_size=1, max_size=5), st.text(min_size=1, max_size=8), max_size=5)


@given(_KEYS, st.text(max_size=8))
def test_those_who_have_a_key_pass_and_no_others(keys: dict[str, str], value: str) -> None:
    given_keys = {name: [key.encode("utf-8", "surrogatepass")] for name, key in keys.items()}
    chosen = make_api_keys("Filter f.default", "x-api-key", given_keys, False)
    verdict = check(chosen, value)
    assert isinstance(verdict, Allow) is (value in keys.values())
    for name, key in keys.items():
        allowed = check(chosen, key)
        assert isinstance(allowed, Allow)
        (fact,) = allowed.facts
        assert fact == ("identity", min(other for other, one in keys.items() if one == key)), name


def test_mappings_share_the_table_of_their_keys_while_it_is_the_same() -> None:
    services = PolicyServices()
    every = settings(ann="a"), settings(ann="a"), settings(ann="b"), settings(forward=True, ann="a")
    first, *others = [build(KEY, one, services) for one in every]
    assert [one.keys is first.keys for one in others] == [True, False, False]


def test_settings_show_no_key_and_change_with_each() -> None:
    chosen = settings(ann="secret-a")
    assert "secret-a" not in repr(chosen)
    assert b"secret-a" not in pickle.dumps(chosen)
    versions = {digest(one) for one in (chosen, settings(ann="secret-b"), settings(bob="secret-a"), settings())}
    assert len(versions) == 4
    assert digest(settings(ann="secret-a")) == digest(chosen)
