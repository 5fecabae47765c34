"""Causes are read from grpc core's texts, and a deadline that passed is told from a pod's own DEADLINE_EXCEEDED."""

from __future__ import annotations

import pytest

from grpcgw.engines.core_texts import core_cause, deadline_passed
from grpcgw.model.codes import Code
from grpcgw.model.status import Reason, Status

CORES_OWN = Status(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")


@pytest.mark.parametrize(
    ("code", "details", "reason"),
    [
        (
            Code.UNAVAILABLE,
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:50051: Failed to connect to remote "
            "host: Connection refused",
            Reason.CONNECT_FAILED,
        ),
        (Code.UNAVAILABLE, "connections to all backends failing; last error: x", Reason.CONNECT_FAILED),
        (
            Code.UNAVAILABLE,
            "Stream removed (RST_STREAM (Received RST_STREAM with error code 7))",
            Reason.STREAM_REFUSED,
        ),
        (Code.INTERNAL, "Stream removed (RST_STREAM (Received RST_STREAM with error code 2))", Reason.STREAM_RESET),
        (Code.UNAVAILABLE, "Stream removed (GOAWAY received; Error code: 0; Debug Text: )", Reason.STREAM_REFUSED),
        (Code.UNAVAILABLE, "Stream removed (Socket closed)", Reason.CONNECTION_LOST),
        (Code.UNAVAILABLE, "Stream removed (recvmsg:Connection reset by peer)", Reason.CONNECTION_LOST),
        (Code.UNAVAILABLE, "Socket closed", Reason.CONNECTION_LOST),
        (Code.UNAVAILABLE, "recvmsg:Connection reset by peer", Reason.CONNECTION_LOST),
        (Code.UNAVAILABLE, "keepalive watchdog timeout", Reason.CONNECTION_LOST),
        (Code.UNAVAILABLE, "ping timeout", Reason.CONNECTION_LOST),
        (Code.CANCELLED, "CANCELLED", None),
        (Code.UNAVAILABLE, "Stream removed (Transport closed (Delayed close))", Reason.CONNECTION_LOST),
        (
            Code.UNAVAILABLE,
            "Stream removed (Socket closed (GOAWAY received; Error code: 0; Debug Text: ))",
            Reason.CONNECTION_LOST,
        ),
        (Code.UNKNOWN, "Stream removed (something new)", Reason.BAD_RESPONSE),
        (Code.UNKNOWN, "No status received", None),
        (Code.UNKNOWN, "Received http2 header with status: 409", None),
        (Code.UNAVAILABLE, "Received http2 header with status: 503", None),
        (Code.UNAVAILABLE, "failed parsing HTTP/2", Reason.BAD_RESPONSE),
        (Code.INTERNAL, "Invalid compression algorithm value", Reason.BAD_RESPONSE),
        (Code.INTERNAL, "Invalid metadata", Reason.BAD_METADATA),
    ],
)
def test_what_grpc_core_says_is_recognised(code: Code, details: str, reason: Reason) -> None:
    assert core_cause(code, details) is reason


@pytest.mark.parametrize("code", [code for code in Code if code not in (2, 13, 14)])
def test_words_with_a_code_that_core_does_not_use_for_them_have_no_cause(code: Code) -> None:
    assert core_cause(code, "Socket closed") is None


@pytest.mark.parametrize("now_s", [2.0, 1.97])
def test_core_may_call_a_deadline_passed_a_little_early(now_s: float) -> None:
    assert deadline_passed(CORES_OWN, 2.0, 0.0, now_s)


@pytest.mark.parametrize(
    ("status", "deadline_s"),
    [
        (Status(Code.DEADLINE_EXCEEDED, "my database was slow"), 2.0),
        (Status(Code.DEADLINE_EXCEEDED, "Deadline Exceeded", (("k", "v"),)), 2.0),
        (CORES_OWN, None),
        (CORES_OWN, 1_000.0),
    ],
)
def test_a_deadline_exceeded_of_the_pods_own_is_none_that_passed_here(status: Status, deadline_s: float | None) -> None:
    assert not deadline_passed(status, deadline_s, 0.0, 2.0)


@pytest.mark.parametrize(("now_s", "passed"), [(1.0, False), (4.99, True), (5.01, True)])
def test_a_pod_that_cancels_at_the_deadline_is_the_deadline(now_s: float, passed: bool) -> None:
    reset = Status(Code.CANCELLED, "Stream removed (RST_STREAM (Received RST_STREAM with error code 8))")
    assert deadline_passed(reset, 5.0, 0.0, now_s) is passed
