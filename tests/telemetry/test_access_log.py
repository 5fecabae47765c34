"""The access log: what a line says, in every format, and that writing it never holds up an RPC."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grpcgw.model.log_format import (
    ANNOTATION,
    PLAIN_OPERATORS,
    InvalidLogFormat,
    LogFormat,
    LogType,
    parse_line,
    parse_log_format,
    parse_share,
)
from grpcgw.model.objects import Severity
from grpcgw.model.operators import Operator
from grpcgw.model.status import Reason
from grpcgw.telemetry import access_log
from grpcgw.telemetry.access_log import (
    MAX_FACTS,
    MAX_VALUE_CHARACTERS,
    PLAIN_VALUES,
    CancelledBy,
    RpcRecord,
    StatusFrom,
    is_logged,
    render_line,
)
from grpcgw.telemetry.log_writer import MAX_WAITING_LARGE, PIECE_BYTES, AccessLog, cut_pieces
from tests.compiling import compile_objects, mapping, module, only, said

DEADLINE_S = 40.0
JSON = LogFormat(LogType.JSON)
TEXT = LogFormat(LogType.TEXT)
ENDED_AT_S = 1_700_000_001.5

SERVED = RpcRecord(
    path="/greet.GrpcService/Greet",
    code=5,
    status_from=StatusFrom.TRAILERS,
    duration_s=1.5,
    authority="gw.example.com:8080",
    peer="192.0.2.7",
    peer_port=5123,
    metadata=(("user-agent", "grpc-python/1.80"), ("x-tenant", "a"), ("x-tenant", "b"), ("key-bin", b"\x00\xff")),
    mapping="grpcserver.default",
    cluster="grpcserver.grpcserver:50051/KubernetesEndpointResolver",
    pod="10.0.0.1:50051",
    facts={"identity": "ann", "token-issuer": "https://issuer.example"},
    message="no such greeting",
    request_messages=1,
    request_bytes=12,
    response_messages=2,
    response_bytes=34,
    timeout_s=5.0,
    deadline_left_s=3.4999,
    retries=1,
    forwarded=(("x-tenant", "a"), ("x-request-id", "id-1")),
    headers=(("server", "greet"),),
    trailers=(("cost", "3"),),
)
REFUSED = RpcRecord(
    path="/none/Such",
    code=12,
    status_from=StatusFrom.GATEWAY,
    duration_s=0.0001,
    authority="gw",
    peer="",
    message="no Mapping matches /none/Such",
    reason="no-mapping",
)


def show(text: str, record: RpcRecord = SERVED) -> str:
    return render_line(record, ENDED_AT_S, LogFormat(LogType.TEXT, parse_line(text)))


# ---- lines


def test_a_json_line_says_everything_with_numbers_as_numbers() -> None:
    assert json.loads(render_line(SERVED, ENDED_AT_S, JSON)) == {
        "start": "2023-11-14T22:13:20.000Z",
        "method": "/greet.GrpcService/Greet",
        "mapping": "grpcserver.default",
        "pod": "10.0.0.1:50051",
        "status": "NOT_FOUND",
        "status_number": 5,
        "status_from": "trailers",
        "reason": None,
        "message": "no such greeting",
        "policy": None,
        "identity": "ann",
        "request_messages": 1,
        "response_messages": 2,
        "request_bytes": 12,
        "response_bytes": 34,
        "duration_ms": 1500.0,
        "timeout_ms": 5000.0,
        "deadline_left_ms": 3499.9,
        "cancelled_by": None,
        "retries": 1,
        "peer": "192.0.2.7",
        "authority": "gw.example.com:8080",
        "request_id": "id-1",
        "user_agent": "grpc-python/1.80",
        "facts": {"token-issuer": "https://issuer.example"},
    }


def test_facts_of_any_number_and_size_stay_one_bounded_line() -> None:
    facts = {f"claim {number}\n": "ä\n\u2028" * 10_000 for number in range(1000)}
    line = render_line(replace(SERVED, facts=facts), ENDED_AT_S, JSON)
    assert len(json.loads(line)["facts"]) == MAX_FACTS
    assert len(line) < 4 * MAX_FACTS * MAX_VALUE_CHARACTERS
    assert line.isprintable()


def test_what_the_gateway_refused_says_why_and_null_for_what_never_was() -> None:
    line = json.loads(render_line(REFUSED, ENDED_AT_S, JSON))
    assert (line["status"], line["status_from"], line["reason"]) == ("UNIMPLEMENTED", "gateway", "no-mapping")
    absent = ("mapping", "pod", "timeout_ms", "deadline_left_ms", "peer", "request_id", "user_agent", "cancelled_by")
    assert [line[name] for name in absent] == [None] * len(absent)


def test_what_a_policy_denied_names_it() -> None:
    denied = replace(REFUSED, reason="forbidden", facts={"policy": "AuthService auth.default", "identity": "bob"})
    line = json.loads(render_line(denied, ENDED_AT_S, JSON))
    assert (line["policy"], line["identity"], line["facts"]) == ("AuthService auth.default", "bob", None)
    assert show("%POLICY% %IDENTITY%", denied) == "AuthService auth.default bob"


def test_a_text_line_says_the_same() -> None:
    assert render_line(SERVED, ENDED_AT_S, TEXT) == (
        "[2023-11-14T22:13:20.000Z] /greet.GrpcService/Greet NOT_FOUND 5 from=trailers reason=- policy=- identity=ann "
        "mapping=grpcserver.default pod=10.0.0.1:50051 messages=1/2 bytes=12/34 duration_ms=1500 timeout_ms=5000 "
        "left_ms=3500 cancelled_by=- retries=1 peer=192.0.2.7 authority=gw.example.com:8080 request_id=id-1 "
        'user_agent="grpc-python/1.80" message="no such greeting"'
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("%REQ(X-Tenant)%", "a"),  # as the pod got it
        ("%REQ(KEY-BIN)%", "AP8="),
        ("%REQ(x-none)%", "-"),
        ("%REQ(x-none?:path)%", "/greet.GrpcService/Greet"),
        ("%REQ(:METHOD)% %PROTOCOL% %RESPONSE_CODE%", "POST HTTP/2 200"),
        ("%REQ(:PATH):6%", "/greet"),
        ("%FACT(identity)% %FACT(tenant?identity)% %FACT(tenant)%", "ann ann -"),
        ("%RESP(server)% %TRAILER(cost)% %TRAILER(none)%", "greet 3 -"),
        ("%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS(NUMBER)%", "NotFound NOT_FOUND 5"),
        ("%RESPONSE_CODE_DETAILS%", "via_upstream"),
        ("%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_PORT%", "192.0.2.7:5123 5123"),
        ("%UPSTREAM_REQUEST_ATTEMPT_COUNT% of %ROUTE_NAME%", "2 of grpcserver.default"),
        ("100%% sure\n", "100% sure"),
    ],
)
def test_operators_show_what_envoy_s_do(text: str, shown: str) -> None:
    assert show(text) == shown


def test_several_values_of_one_key_are_joined() -> None:
    assert show("%REQ(x-tenant)%", replace(SERVED, forwarded=())) == "a,b"


@pytest.mark.parametrize(
    ("record", "flags"),
    [
        (SERVED, "-"),
        (REFUSED, "NR"),
        (replace(REFUSED, reason="no-endpoints"), "UH"),
        (replace(REFUSED, cancelled_by=CancelledBy.CLIENT, reason=""), "DC"),
    ],
)
def test_response_flags_are_envoy_s(record: RpcRecord, flags: str) -> None:
    assert show("%RESPONSE_FLAGS%", record) == flags


def test_flags_are_for_reasons_that_exist() -> None:
    assert set(access_log._FLAGS) <= {reason.value for reason in Reason}


def test_every_operator_a_format_may_name_has_a_value() -> None:
    assert set(PLAIN_VALUES) == PLAIN_OPERATORS
    for name in (*PLAIN_OPERATORS, "START_TIME"):
        assert show(f"%{name}%")
        assert show(f"%{name}%", REFUSED)


ENVOYS_OWN = (
    *("%DYNAMIC_METADATA(envoy.lua:user)%", "%FILTER_STATE(key:PLAIN)%", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    *("%DOWNSTREAM_LOCAL_ADDRESS%", "%DOWNSTREAM_PEER_URI_SAN%", "%REQUESTED_SERVER_NAME%", "%RESPONSE_DURATION%"),
    *("%HOSTNAME%", "%CONNECTION_ID%", "%TLS_JA3_FINGERPRINT%", "%VIRTUAL_CLUSTER_NAME%", "%ENVIRONMENT(HOME)%"),
    *("%UPSTREAM_WIRE_BYTES_SENT:3%", "%METADATA(ROUTE:a:b)%", "%REQUEST_TX_DURATION%", "%TRACE_ID%"),
)


@pytest.mark.parametrize("operator", ENVOYS_OWN)
def test_an_operator_that_only_envoy_knows_shows_a_dash_and_is_a_notice(operator: str) -> None:
    assert show(f"<{operator}>") == "<->"
    compiled = compile_objects(module(envoy_log_type="typed_json", envoy_log_format={"a": operator}))
    (line,) = said(compiled)
    assert "notice: Module ambassador.shop spec.config.envoy_log_format: in the access log " in line
    assert f"{operator} is '-'" in line
    assert compiled.snapshot.access_log is not None
    assert json.loads(render_line(SERVED, ENDED_AT_S, compiled.snapshot.access_log)) == {"a": None}


def test_a_format_of_the_time_has_no_effect_and_is_a_notice() -> None:
    assert show("%START_TIME(%s.%3f)%") == show("%START_TIME%")
    compiled = compile_objects(module(envoy_log_type="text", envoy_log_format="%START_TIME(%s)%"))
    assert "the format of START_TIME(%s) has no effect" in said(compiled)[0]


def test_a_path_has_no_query_to_leave_out() -> None:
    assert show("%REQ_WITHOUT_QUERY(X-NONE?:path)%") == show("%REQ(:path)%")


def test_a_json_format_of_one_s_own_has_these_fields_alone() -> None:
    log_format = parse_log_format("json", {"status": "%GRPC_STATUS%", "who": "<%REQ(user-agent)%>"})
    assert json.loads(render_line(SERVED, ENDED_AT_S, log_format)) == {
        "status": "NotFound",
        "who": "<grpc-python/1.80>",
    }


def test_typed_json_keeps_numbers_and_null() -> None:
    names = {
        "bytes": "%BYTES_SENT%", "status": "%GRPC_STATUS(NUMBER)%", "name": "%GRPC_STATUS%",
        "port": "%DOWNSTREAM_REMOTE_PORT%", "timeout": "%TIMEOUT%", "none": "%REQ(x-none)%",
        "cut": "%BYTES_SENT:1%", "text": "%BYTES_SENT% bytes",
    }  # fmt: skip
    line = render_line(replace(SERVED, timeout_s=None), ENDED_AT_S, parse_log_format("typed_json", names))
    assert json.loads(line) == {
        "bytes": 34, "status": 5, "name": "NotFound", "port": 5123,
        "timeout": None, "none": None, "cut": "3", "text": "34 bytes",
    }  # fmt: skip
    assert render_line(SERVED, ENDED_AT_S, parse_log_format("typed_json", None)) == render_line(
        SERVED, ENDED_AT_S, JSON
    )


NASTY = st.text(st.sampled_from('"\\\n\r\0\x85\u2028%a') | st.characters())


@example(value='"\r\n[forged]', kind=LogType.TEXT)
@example(value='"\r\n[forged]', kind=LogType.JSON)
@given(value=NASTY, kind=st.sampled_from(LogType))
def test_whatever_a_client_sends_a_line_stays_one_line(value: str, kind: LogType) -> None:
    record = replace(
        SERVED, path=value, authority=value, message=value, metadata=(("user-agent", value),), forwarded=()
    )
    line = render_line(record, ENDED_AT_S, LogFormat(kind))
    assert "\n" not in line
    assert "\r" not in line
    if kind is LogType.TEXT:
        quoted = line[line.index('user_agent="') :]
        assert quoted.replace("\\\\", "").replace('\\"', "").count('"') == 4
    else:
        assert json.loads(line)["method"][:100] == value[:100]


def test_long_values_are_cut() -> None:
    record = replace(SERVED, path="/" + "p" * 100_000, metadata=(("user-agent", "u" * 100_000),))
    line = json.loads(render_line(record, ENDED_AT_S, JSON))
    assert len(line["method"]) == len(line["user_agent"]) == MAX_VALUE_CHARACTERS
    assert line["method"].endswith("…")


# ---- formats and switches


@pytest.mark.parametrize(
    ("log_type", "log_format", "said"),
    [
        ("xml", None, "should be text, json or typed_json, not 'xml'"),
        ("typed_json", "%PROTOCOL%", "should be an object of names and formats where envoy_log_type is typed_json"),
        ("text", {"a": "b"}, "should be a string"),
        (None, {"a": "b"}, "should be a string"),
        ("json", "%PROTOCOL%", "should be an object"),
        ("json", {"a": 1}, "the value of a should be a string"),
        ("text", "%NO_SUCH%", "%NO_SUCH% is not among the operators: BYTES_RECEIVED"),
        ("json", {"a": "%NO_SUCH%"}, "%NO_SUCH% is not among"),
        ("text", "%REQ%", "REQ needs a key"),
        ("text", "%REQ()%", "REQ needs a key"),
        ("text", "%DURATION(s)%", "DURATION takes no argument"),
        ("text", "%GRPC_STATUS(LOUD)%", "GRPC_STATUS takes CAMEL_STRING, SNAKE_STRING, NUMBER"),
        ("text", "50% done", "the % at position 2 begins no operator"),
    ],
)
def test_a_format_that_cannot_be_used_is_refused_with_the_reason(
    log_type: str | None, log_format: object, said: str
) -> None:
    with pytest.raises(InvalidLogFormat) as caught:
        parse_log_format(log_type, log_format)
    assert said in str(caught.value)


def test_without_a_type_lines_are_text_and_without_a_format_grpcgw_s_own() -> None:
    assert parse_log_format(None, None) == LogFormat(LogType.TEXT)
    assert parse_log_format("json", None) == LogFormat(LogType.JSON)
    assert parse_log_format(None, "a%PROTOCOL%") == LogFormat(LogType.TEXT, ("a", Operator("PROTOCOL")))


@given(st.text())
def test_any_text_is_a_format_or_refused(text: str) -> None:
    try:
        line = parse_line(text)
    except InvalidLogFormat:
        return
    if all(isinstance(part, str) for part in line):
        assert "".join(map(str, line)) == text.replace("%%", "%")


@pytest.mark.parametrize(
    ("text", "share"), [("on", 100), ("off", 0), ("10%", 10), (" 0.5 % ", 0.5), ("100%", 100), ("0%", 0)]
)
def test_a_mapping_s_switch_is_a_share(text: str, share: float) -> None:
    assert parse_share(text) == share


@pytest.mark.parametrize("text", ["", "yes", "10", "101%", "-1%", "1e1%", "٣%"])
def test_another_switch_is_refused_with_what_it_may_be(text: str) -> None:
    with pytest.raises(InvalidLogFormat, match="should be on, off, or a share like 10%"):
        parse_share(text)


@pytest.mark.parametrize("sign", ["\x1b", "\x9b", "\x85", "\u2028", "\u202e", "\u2066", "\x7f", "\r"])
@pytest.mark.parametrize("log_type", [LogType.JSON, LogType.TEXT])
def test_what_terminals_obey_and_what_turns_text_around_is_escaped(log_type: LogType, sign: str) -> None:
    hostile = replace(SERVED, path=f"/a.B/{sign}[2J", metadata=(("user-agent", f"x{sign}y"),), authority=f"h{sign}")
    assert sign not in render_line(hostile, ENDED_AT_S, LogFormat(log_type))


def test_a_value_of_a_client_makes_up_no_field_in_a_line_of_text() -> None:
    hostile = replace(
        SERVED,
        path="/a.B/C OK 0 from=trailers",
        authority="h status=OK",
        metadata=(("user-agent", 'x" mapping="m'), ("x-request-id", "1 pod=other")),
        forwarded=(),
    )
    line = render_line(hostile, ENDED_AT_S, LogFormat(LogType.TEXT))
    assert "/a.B/C\\x20OK\\x200\\x20from=trailers NOT_FOUND" in line
    assert "authority=h\\x20status=OK request_id=1\\x20pod=other" in line
    assert 'user_agent="x\\" mapping=\\"m"' in line


def test_sampling_takes_its_share_and_none_and_all_without_a_throw_of_dice() -> None:
    def no_dice() -> float:
        raise AssertionError("nothing to decide")

    assert not is_logged(0, no_dice)
    assert is_logged(100, no_dice)
    taken = [is_logged(25, lambda number=number: number / 100) for number in range(100)]  # type: ignore[misc]
    assert taken == [True] * 25 + [False] * 75


# ---- writing


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        for descriptor in (reading, writing):
            try:
                os.close(descriptor)
            except OSError:
                continue  # the test closed it


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.002)


def no_thread_is_left() -> bool:
    return not any(thread.name == "access-log" for thread in threading.enumerate())


def numbered(number: int) -> RpcRecord:
    return replace(SERVED, path=f"/s/{number}")


def read_all(descriptor: int) -> list[dict[str, object]]:
    with os.fdopen(os.dup(descriptor), encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def test_records_are_written_in_order_and_all_of_them_by_close() -> None:
    with pipe() as (reading, writing):
        clock = iter(range(1_700_000_000, 1_800_000_000))
        written = AccessLog(JSON, writing, pause_s=0.001, clock=lambda: float(next(clock)))
        for number in range(50):
            written.put(numbered(number))
        written.close(DEADLINE_S)
        os.close(writing)
        lines = read_all(reading)
    assert [line["method"] for line in lines] == [f"/s/{number}" for number in range(50)]
    assert lines[0]["start"] == "2023-11-14T22:13:18.500Z", "the time is that of put, not of writing"
    assert written.dropped == 0
    assert no_thread_is_left()


def test_a_log_nobody_writes_to_starts_no_thread() -> None:
    log = AccessLog(JSON, -1)
    assert no_thread_is_left()
    log.close(DEADLINE_S)
    assert no_thread_is_left()


def test_a_format_replaced_holds_for_the_next_lines() -> None:
    with pipe() as (reading, writing):
        log = AccessLog(JSON, writing, pause_s=0.001)
        log.put(SERVED)
        assert os.read(reading, 100_000).startswith(b"{")
        log.log_format = TEXT
        log.put(SERVED)
        assert os.read(reading, 100_000).startswith(b"[")
        log.close(DEADLINE_S)


def test_a_reader_that_does_not_read_costs_records_and_never_holds_up_who_logs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    total, limit = 2000, 100
    with pipe() as (reading, writing):
        log = AccessLog(JSON, writing, max_waiting=limit, pause_s=0.001)
        for number in range(total):  # the pipe takes some hundred lines, then the writer hangs in write
            log.put(numbered(number))
            if number % 50 == 0:
                time.sleep(0)
        assert log.dropped > 0
        lines: list[bytes] = []
        draining = threading.Thread(target=lambda: lines.extend(os.fdopen(os.dup(reading), "rb")))
        draining.start()
        log.close(DEADLINE_S)
        os.close(writing)
        draining.join(DEADLINE_S)
    assert len(lines) + log.dropped == total
    assert all(json.loads(line) for line in lines)
    assert no_thread_is_left()


def test_a_reader_that_does_not_read_does_not_make_the_gateway_hold_much_metadata() -> None:
    large = replace(SERVED, metadata=(("x-large", "a" * 60_000),))
    with pipe() as (reading, writing):
        log = AccessLog(JSON, writing, pause_s=1000.0)
        for _ in range(2 * MAX_WAITING_LARGE):
            log.put(large)
        assert log.dropped >= MAX_WAITING_LARGE - 1
        dropped = log.dropped
        log.put(SERVED)
        assert log.dropped == dropped
        draining = threading.Thread(target=lambda: list(os.fdopen(os.dup(reading), "rb")))
        draining.start()
        log.close(DEADLINE_S)
        os.close(writing)
        draining.join(DEADLINE_S)


def test_a_reader_that_never_reads_again_holds_up_the_end_no_longer_than_allowed() -> None:
    with pipe() as (reading, writing):
        log = AccessLog(JSON, writing, pause_s=0.001)
        for number in range(1000):
            log.put(numbered(number))
        log.close(0.01)
        assert not no_thread_is_left()
        log.put(SERVED)
        assert log.dropped == 1, "what comes after the end is dropped"
        draining = threading.Thread(target=lambda: list(os.fdopen(os.dup(reading), "rb")))
        draining.start()
        until(no_thread_is_left)
        os.close(writing)
        draining.join(DEADLINE_S)


def test_a_reader_that_is_gone_is_said_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with pipe() as (reading, writing):
        os.close(reading)
        log = AccessLog(JSON, writing, pause_s=0.001)
        for number in range(3):
            log.put(numbered(number))
            until(lambda number=number: log.dropped == number + 1)  # type: ignore[misc]  # bound for the loop
        log.close(DEADLINE_S)
    (complaint,) = caplog.messages
    assert "1 RPCs were not logged so far: stdout: Broken pipe" in complaint
    assert no_thread_is_left()


def test_a_descriptor_that_others_made_non_blocking_is_waited_for() -> None:
    with pipe() as (reading, writing):
        os.set_blocking(writing, False)
        log = AccessLog(JSON, writing, pause_s=0.001)
        for number in range(1000):
            log.put(numbered(number))
        lines: list[bytes] = []
        draining = threading.Thread(target=lambda: lines.extend(os.fdopen(os.dup(reading), "rb")))
        draining.start()
        log.close(DEADLINE_S)
        os.close(writing)
        draining.join(DEADLINE_S)
    assert [json.loads(line)["method"] for line in lines] == [f"/s/{number}" for number in range(1000)]


def test_workers_that_share_a_pipe_do_not_tear_each_other_s_lines() -> None:
    with pipe() as (reading, writing):
        logs = [AccessLog(JSON, writing, pause_s=0.001) for _ in range(3)]
        lines: list[bytes] = []
        draining = threading.Thread(target=lambda: lines.extend(os.fdopen(os.dup(reading), "rb")))
        draining.start()
        for number in range(1000):
            for log in logs:
                log.put(numbered(number))
        for log in logs:
            log.close(DEADLINE_S)
        os.close(writing)
        draining.join(DEADLINE_S)
    assert len(lines) == 3000
    assert all(json.loads(line) for line in lines)


@given(st.lists(st.text(st.characters(exclude_characters="\n"), max_size=3000), max_size=20))
def test_pieces_are_whole_lines_and_no_longer_than_is_written_at_once(lines: list[str]) -> None:
    pieces = list(cut_pieces(lines))
    whole = b"".join(piece for piece, _ in pieces)
    assert whole == "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace")
    for piece, count in pieces:
        assert piece.count(b"\n") == count
        assert len(piece) <= PIECE_BYTES or count == 1


# --- what the configuration asks for


def test_a_module_that_says_nothing_leaves_the_format_to_the_flag() -> None:
    assert compile_objects(module()).snapshot.access_log is None


def test_a_module_chooses_the_format_and_that_is_a_new_version() -> None:
    text = compile_objects(module(envoy_log_format="%GRPC_STATUS%"))
    assert text.problems == ()
    assert text.snapshot.access_log == LogFormat(LogType.TEXT, text=parse_line("%GRPC_STATUS%"))
    other = compile_objects(module(envoy_log_type="json"))
    assert other.snapshot.access_log == LogFormat(LogType.JSON)
    assert text.snapshot.version != other.snapshot.version


def test_a_format_that_cannot_be_read_is_told_and_costs_the_module_nothing_else() -> None:
    compiled = compile_objects(module(envoy_log_format="%NO_SUCH%", cluster_request_timeout_ms=7), mapping())
    (error,) = said(compiled, Severity.ERROR)
    assert "%NO_SUCH%" in error
    assert compiled.snapshot.access_log is None
    assert only(compiled).timeout_ms == 7


@pytest.mark.parametrize(("annotation", "percent"), [("on", 100.0), ("off", 0.0), ("2.5%", 2.5)])
def test_an_annotation_says_how_much_of_a_mapping_is_logged(annotation: str, percent: float) -> None:
    compiled = compile_objects(mapping(metadata={"annotations": {ANNOTATION: annotation}}))
    assert compiled.problems == ()
    assert only(compiled).access_log_percent == percent
    assert only(compile_objects(mapping())).access_log_percent is None


def test_an_annotation_that_cannot_be_read_is_told_and_the_mapping_serves() -> None:
    compiled = compile_objects(mapping(metadata={"annotations": {ANNOTATION: "sometimes"}}))
    (error,) = said(compiled, Severity.ERROR)
    assert "sometimes" in error
    assert only(compiled).access_log_percent is None
