"""The Module's keys on clients as they are compiled: what is read, and that a slip in one opens nothing."""

from __future__ import annotations

import pytest

from grpcgw.model.clients import DEFAULT_CLIENT_RULES, AddressRule, ClientRules, Underscores
from tests.compiling import compile_objects, module, obj, said

LAN = AddressRule("10.0.0.0/8")


@pytest.mark.parametrize(
    ("config", "rules"),
    [
        ({}, DEFAULT_CLIENT_RULES),
        ({"ip_allow": [], "ip_deny": [], "use_remote_address": True, "xff_num_trusted_hops": 0}, DEFAULT_CLIENT_RULES),
        (
            {"ip_allow": [{"remote": "10.0.0.0/8"}, {"peer": "::1"}]},
            ClientRules(allow=(LAN, AddressRule("::1/128", of_peer=True))),
        ),
        ({"ip_deny": [{"remote": "10.1.2.3/8"}]}, ClientRules(deny=(LAN,))),
        (
            {"use_remote_address": False, "xff_num_trusted_hops": 2},
            ClientRules(use_remote_address=False, trusted_hops=2),
        ),
        ({"preserve_external_request_id": True}, ClientRules(preserve_request_id=True)),
        ({"headers_with_underscores_action": "DROP_HEADER"}, ClientRules(underscores=Underscores.DROP_HEADER)),
        ({"max_request_headers_kb": 8}, ClientRules(max_metadata_bytes=8192)),
    ],
)
def test_the_keys_are_read(config: dict[str, object], rules: ClientRules) -> None:
    compiled = compile_objects(module(**config))
    assert compiled.snapshot.clients == rules
    assert said(compiled) == []


@pytest.mark.parametrize(("given", "idle_ms"), [(None, 3_600_000), (30_000, 30_000), (0, None)])
def test_connections_without_rpcs_are_closed_in_an_hour_or_as_the_module_says(
    given: int | None, idle_ms: int | None
) -> None:
    compiled = compile_objects(module(listener_idle_timeout_ms=given))
    assert compiled.snapshot.client_idle_timeout_ms == idle_ms
    assert said(compiled) == []


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"remote": "10.0.0.0/40"}, "ip_allow.0.remote: '10.0.0.0/40' is no IP address or network"),
        ({"remote": 7}, "7 is no IP address or network"),
        ({"remote": "10.0.0.1", "peer": "10.0.0.1"}, "takes one of remote and peer, not remote, peer"),
        ({"from": "10.0.0.1"}, "takes one of remote and peer, not from"),
        ({}, "takes one of remote and peer, not nothing"),
    ],
)
def test_an_entry_that_cannot_be_read_lets_nobody_in(entry: dict[str, object], problem: str) -> None:
    compiled = compile_objects(module(ip_allow=[entry]))
    assert compiled.snapshot.clients.allow == ()
    (told,) = said(compiled)
    assert problem in told
    assert compile_objects(module(ip_allow=[entry, {"remote": "10.0.0.0/8"}])).snapshot.clients.allow == (LAN,)


def test_both_lists_are_an_error_and_hold_both() -> None:
    compiled = compile_objects(module(ip_allow=[{"remote": "10.0.0.0/8"}], ip_deny=[{"remote": "10.1.0.0/16"}]))
    assert compiled.snapshot.clients == ClientRules(allow=(LAN,), deny=(AddressRule("10.1.0.0/16"),))
    (told,) = said(compiled)
    assert "may not both be set; both hold now" in told


def test_more_metadata_than_grpc_takes_is_not_promised() -> None:
    compiled = compile_objects(module(max_request_headers_kb=96))
    assert compiled.snapshot.clients == DEFAULT_CLIENT_RULES
    assert "more than 64 has no effect" in said(compiled)[0]


@pytest.mark.parametrize(
    "config",
    [
        {"xff_num_trusted_hops": -1},
        {"listener_idle_timeout_ms": -1},
        {"listener_idle_timeout_ms": 2**31},
        {"listener_idle_timeout_ms": "1s"},
        {"headers_with_underscores_action": "MAYBE"},
        {"max_request_headers_kb": 0},
    ],
)
def test_values_out_of_range_are_errors(config: dict[str, object]) -> None:
    (told,) = said(compile_objects(module(**config)))
    assert next(iter(config)) in told


def test_other_rules_are_another_configuration() -> None:
    changes = ({"remote": "10.0.0.1"}, {"remote": "10.0.0.2"})
    versions = {compile_objects(module(ip_deny=[change])).snapshot.version for change in changes}
    idle = compile_objects(module(ip_deny=[changes[0]], listener_idle_timeout_ms=1000)).snapshot.version
    assert len({*versions, idle}) == 3


@pytest.mark.parametrize(
    ("first", "second", "is_closed"),
    [
        ({}, {}, False),
        ({}, {"ip_allow": [{"remote": "10.0.0.0/8"}]}, True),
        ({}, {"ip_deny": [{"remote": "10.0.0.0/8"}]}, True),
        ({}, {"ip_allow": "10.0.0.0/8"}, True),
        ({}, {"ip_alow": [{"remote": "10.0.0.0/8"}]}, True),
        ({"ip_allow": [{"remote": "10.0.0.0/8"}]}, {}, False),
        ({"ip_allow": [{"remote": "10.0.0.0/8"}]}, {"ip_allow": [{"remote": "10.0.0.0/8"}]}, False),
        ({"ip_allow": [{"remote": "10.0.0.0/8"}]}, {"ip_allow": [{"remote": "10.1.0.0/16"}]}, True),
        (
            {"ip_allow": [{"remote": "10.0.0.0/8"}], "xff_num_trusted_hops": 1},
            {"ip_allow": [{"remote": "10.0.0.0/8"}]},
            True,
        ),
    ],
)
def test_of_two_modules_the_one_that_is_left_out_keeps_out_whom_it_would(
    first: dict[str, object], second: dict[str, object], is_closed: bool
) -> None:
    compiled = compile_objects(module("a", **first), module("b", **second))
    assert (compiled.snapshot.clients.allow == ()) is is_closed
    told = [one for one in said(compiled) if "another Module is in use" in one]
    assert ["no client is served until only one is left" in one for one in told] == [is_closed]


def test_a_second_module_that_cannot_be_read_may_keep_anybody_out() -> None:
    lost = obj("Module", "ambassador", "(lost)", "b")
    assert compile_objects(module("a"), lost).snapshot.clients.allow == ()


@pytest.mark.parametrize(("config", "is_closed"), [({"ip_allow": [{"remote": "10.0.0.0/8"}]}, True), ({}, False)])
def test_a_module_of_another_name_is_left_out_and_lets_in_nobody_whom_it_keeps_out(
    config: dict[str, object], is_closed: bool
) -> None:
    compiled = compile_objects(obj("Module", "ambassadr", {"config": config}))
    assert (compiled.snapshot.clients.allow == ()) is is_closed
    assert "the Module should be named ambassador" in said(compiled)[0]


@pytest.mark.parametrize("key", ["ip_allow", "ip_deny", "ip_alow"])
def test_what_keeps_out_and_stands_beside_config_lets_nobody_in(key: str) -> None:
    compiled = compile_objects(obj("Module", "ambassador", {key: [{"remote": "10.0.0.0/8"}], "config": {}}))
    assert compiled.snapshot.clients.allow == ()
    assert "no client is served until it is corrected" in said(compiled)[0]
