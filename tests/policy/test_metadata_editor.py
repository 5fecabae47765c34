"""Metadata edits: what may be added, what operators say, and that order and everything else stay as they were."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.model.edits import NO_EDITS, HeaderAdd, HeaderEdits
from grpcgw.model.header_values import (
    CONNECTION_HEADERS,
    HEADER_OPERATORS,
    InvalidHeader,
    check_header_name,
    parse_header_value,
)
from grpcgw.policy.metadata_editor import compile_edits
from grpcgw.policy.request import Peer, Request
from grpcgw.session.forwarding import is_sendable

METADATA = (("x-user", "ann"), ("x-tag", "a"), ("x-tag", "b"), ("id-bin", b"\xff\x00"))
FACTS = Request(
    "/greet.GrpcService/Greet", "api.example.com", METADATA, None, Peer("10.1.2.3", 5123), 1_700_000_000.1234567
)


def edit(*add: HeaderAdd, remove: tuple[str, ...] = ()) -> tuple[tuple[str, str | bytes], ...]:
    compiled = compile_edits(HeaderEdits(add, remove))
    assert compiled is not None
    return compiled(METADATA, FACTS)


def value_of(text: str, facts: Request = FACTS, name: str = "x-new") -> str | bytes | None:
    compiled = compile_edits(HeaderEdits((HeaderAdd(name, text),)))
    assert compiled is not None
    return next((value for key, value in compiled((), facts) if key == name), None)


def test_without_edits_there_is_nothing_to_call() -> None:
    assert compile_edits(NO_EDITS) is None


def test_added_headers_come_last_and_beside_those_that_are_there() -> None:
    assert edit(HeaderAdd("X-Tag", "c"), HeaderAdd("x-new", "1")) == (*METADATA, ("x-tag", "c"), ("x-new", "1"))


def test_a_header_that_replaces_takes_all_values_away() -> None:
    assert edit(HeaderAdd("x-tag", "c", append=False)) == (METADATA[0], METADATA[3], ("x-tag", "c"))


@pytest.mark.parametrize("form", ["%START_TIME(%n)%", "%START_TIME(%Y%t%m)%", "x %START_TIME(%n)%", "%REQ(x-name)%"])
def test_a_value_that_no_metadata_can_have_is_left_out(form: str) -> None:
    assert value_of(form, replace(FACTS, metadata=(("x-name", "caf\u00e9"),))) is None


@given(text=st.text(max_size=20), length=st.none() | st.integers(0, 20))
def test_whatever_clients_send_what_is_added_of_it_can_be_sent(text: str, length: int | None) -> None:
    form = "%REQ(x-name)%" if length is None else f"%REQ(x-name):{length}%"
    value = value_of(form, replace(FACTS, metadata=(("x-name", text),)))
    assert value is None or is_sendable((("x-new", value),))


def test_removals_come_before_additions() -> None:
    assert edit(HeaderAdd("x-tag", "c"), remove=("X-TAG", "x-none")) == (METADATA[0], METADATA[3], ("x-tag", "c"))


def test_additions_are_made_in_order() -> None:
    adds = (HeaderAdd("x-a", "1"), HeaderAdd("x-a", "2", append=False), HeaderAdd("x-a", "3"))
    assert edit(*adds) == (*METADATA, ("x-a", "2"), ("x-a", "3"))
    dynamic = (*adds, HeaderAdd("x-p", "%PROTOCOL%"))
    assert edit(*dynamic) == (*METADATA, ("x-a", "2"), ("x-a", "3"), ("x-p", "HTTP/2"))


@pytest.mark.parametrize("value", ["", "%REQ(x-none)%"])
def test_an_empty_value_is_not_added_and_replaces_nothing(value: str) -> None:
    assert edit(HeaderAdd("x-user", value, append=False)) == METADATA


def test_a_header_can_be_renamed() -> None:
    renamed = edit(HeaderAdd("x-account", "%REQ(X-User)%"), remove=("x-user",))
    assert renamed == (*METADATA[1:], ("x-account", "ann"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("%REQ(x-user)%", "ann"),
        ("%REQ(x-tag)%", "a"),
        ("%REQ(x-none?x-user)%", "ann"),
        ("%REQ(x-user?x-tag)%", "ann"),
        ("%REQ(x-user):2%", "an"),
        ("  %REQ(x-user)% ", "ann"),
        ("%REQ(x-user)% %REQ(x-none)%", "ann"),
        ("%REQ(id-bin)%", "/wA="),
        ("%REQ(:path)% at %REQ(:AUTHORITY)% by %REQ(:method)%", "/greet.GrpcService/Greet at api.example.com by POST"),
        ("%DOWNSTREAM_REMOTE_ADDRESS%", "10.1.2.3:5123"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.1.2.3"),
        ("%DOWNSTREAM_REMOTE_PORT%", "5123"),
        ("%PROTOCOL%", "HTTP/2"),
        ("100%% %PROTOCOL%%%", "100% HTTP/2%"),
        ("%START_TIME%", "2023-11-14T22:13:20.123Z"),
        ("t=%START_TIME(%s.%3f)%", "t=1700000000.123"),
        ("%START_TIME(%Y/%m/%d %H:%M %6f)%", "2023/11/14 22:13 123456"),
        ("plain", "plain"),
    ],
)
def test_operators_say_what_envoys_do(text: str, value: str) -> None:
    shown = value_of(text)
    assert isinstance(shown, str)
    assert shown == value


def test_fractions_of_a_second_keep_their_zeros() -> None:
    facts = replace(FACTS, received_at_s=1_700_000_000.005)
    assert value_of("%START_TIME(%s.%3f)%", facts) == "1700000000.005"


def test_an_ipv6_address_stands_in_brackets_before_a_port() -> None:
    facts = replace(FACTS, peer=Peer("::1", 5123))
    assert value_of("%DOWNSTREAM_REMOTE_ADDRESS%", facts) == "[::1]:5123"
    assert value_of("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", facts) == "::1"


def test_a_client_without_an_address_adds_nothing() -> None:
    facts = replace(FACTS, peer=Peer(""))
    for name in ("DOWNSTREAM_REMOTE_ADDRESS", "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", "DOWNSTREAM_REMOTE_PORT"):
        assert value_of(f"%{name}%", facts) is None


def test_binary_keys_take_base64_or_the_bytes_of_another() -> None:
    assert value_of("/wA=", name="copy-bin") == b"\xff\x00"
    assert value_of("/wA", name="copy-bin") == b"\xff\x00"
    assert value_of("%REQ(id-bin)%", name="copy-bin") == b"\xff\x00"


def test_edits_without_operators_are_worked_out_beforehand() -> None:
    constant = compile_edits(HeaderEdits((HeaderAdd("x-a", "100%%"),), ("x-tag",)))
    assert constant is not None
    assert constant(METADATA, FACTS) == (METADATA[0], METADATA[3], ("x-a", "100%"))


@pytest.mark.parametrize("name", HEADER_OPERATORS.names())
def test_every_operator_that_is_accepted_can_be_evaluated(name: str) -> None:
    assert value_of(f"%{name}(x-user)%" if name == "REQ" else f"%{name}%")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (":authority", "x", "use host_rewrite"),
        ("Host", "x", "use host_rewrite"),
        (":path", "x", "use rewrite or regex_rewrite"),
        (":method", "x", "pseudo-header"),
        ("grpc-timeout", "1S", "use timeout_ms"),
        ("grpc-encoding", "gzip", "set by gRPC itself"),
        ("Content-Type", "x", "set by gRPC itself"),
        ("user-agent", "x", "set by gRPC itself"),
        ("x y", "1", "no header name"),
        ("", "1", "no header name"),
        ("x-ü", "1", "no header name"),
        ("x-a", "ü", "printable ASCII"),
        ("x-a", "a\nb", "printable ASCII"),
        ("x-a", "50%", "write %% for a percent"),
        ("x-a", "%NOPE%", "not among the operators"),
        ("x-a", "%REQ%", "REQ needs a key"),
        ("x-a", "%REQ()%", "REQ needs a key"),
        ("x-a", "%REQ(a b)%", "REQ needs a key"),
        ("x-a", "%PROTOCOL(1)%", "takes no argument"),
        ("x-bin", "not base64!", "should be base64"),
        ("x-bin", "%REQ(x-user)%", "of another -bin key"),
        ("x-bin", "%REQ(id-bin)%%REQ(id-bin)%", "of another -bin key"),
        ("x-bin", "%PROTOCOL%", "of another -bin key"),
    ],
)
def test_what_cannot_be_added_is_refused_with_the_reason(name: str, value: str, message: str) -> None:
    with pytest.raises(InvalidHeader, match=re.escape(message)):
        compile_edits(HeaderEdits((HeaderAdd(name, value),)))


def test_tracing_data_of_applications_may_be_set() -> None:
    assert value_of("AA==", name="grpc-trace-bin") == b"\x00"


@pytest.mark.parametrize("name", [":path", "x y", "grpc-timeout"])
def test_what_cannot_be_removed_is_refused(name: str) -> None:
    with pytest.raises(InvalidHeader):
        compile_edits(HeaderEdits(remove=(name,)))


def test_a_name_is_told_as_metadata_has_it() -> None:
    assert check_header_name("X-Request-ID") == "x-request-id"


names = st.sampled_from(["x-a", "x-b", "x-c"])
values = st.sampled_from(["1", "2", "%PROTOCOL%", "%REQ(x-a)%", "", "%%"])


@given(
    st.lists(st.tuples(names, st.sampled_from(["7", "8"]))),
    st.lists(st.builds(HeaderAdd, names, values, st.booleans())),
    st.lists(names),
)
def test_edits_do_what_doing_them_one_by_one_does(
    metadata: list[tuple[str, str]], adds: list[HeaderAdd], removes: list[str]
) -> None:
    facts = replace(FACTS, metadata=tuple(metadata))
    expected: list[tuple[str, str | bytes]] = [item for item in metadata if item[0] not in removes]
    first = next((value for key, value in metadata if key == "x-a"), "")
    for add in adds:
        value = add.value.replace("%PROTOCOL%", "HTTP/2").replace("%REQ(x-a)%", first).replace("%%", "%")
        if value and not add.append:
            expected = [item for item in expected if item[0] != add.name]
        if value:
            expected.append((add.name, value))
    compiled = compile_edits(HeaderEdits(tuple(adds), tuple(removes)))
    assert (tuple(metadata) if compiled is None else compiled(tuple(metadata), facts)) == tuple(expected)


@given(st.text())
def test_any_text_is_a_value_or_refused(text: str) -> None:
    try:
        line = parse_header_value(text)
    except InvalidHeader:
        return
    assert all(isinstance(part, str) or part.name in HEADER_OPERATORS.names() for part in line)


@pytest.mark.parametrize("value", ["a\nb", "a\0b", "\xe9", "\ufffd", "\x7f"])
def test_a_client_cannot_put_into_an_answer_what_no_answer_can_have(value: str) -> None:
    facts = replace(FACTS, metadata=(("x-user", value),))
    assert value_of("%REQ(x-user)%", facts) is None
    assert value_of("user %REQ(x-user)%", facts) is None


@pytest.mark.parametrize("name", sorted(CONNECTION_HEADERS))
def test_headers_of_a_connection_cannot_be_added(name: str) -> None:
    with pytest.raises(InvalidHeader, match="set by gRPC itself"):
        compile_edits(HeaderEdits((HeaderAdd(name, "x"),)))
