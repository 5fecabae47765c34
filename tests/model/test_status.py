"""Which status means what: the gateway's own and the pods'."""

from __future__ import annotations

import pytest

from grpcgw.model.codes import Code
from grpcgw.model.status import REASON_KEY, Reason, Status, counts_against_pod, make_status, safe_to_retry

GATEWAY_CODES = {
    Reason.NO_MAPPING: Code.UNIMPLEMENTED,
    Reason.NO_ENDPOINTS: Code.UNAVAILABLE,
    Reason.UNROUTED_SHARE: Code.UNAVAILABLE,
    Reason.CONNECT_FAILED: Code.UNAVAILABLE,
    Reason.STREAM_REFUSED: Code.UNAVAILABLE,
    Reason.CONNECTION_LOST: Code.UNAVAILABLE,
    Reason.DRAINING: Code.UNAVAILABLE,
    Reason.STREAM_RESET: Code.INTERNAL,
    Reason.BAD_RESPONSE: Code.INTERNAL,
    Reason.NO_STATUS: Code.UNKNOWN,
    Reason.BAD_METADATA: Code.INVALID_ARGUMENT,
    Reason.DEFECT: Code.INTERNAL,
    Reason.TIMEOUT: Code.DEADLINE_EXCEEDED,
    Reason.IDLE_TIMEOUT: Code.DEADLINE_EXCEEDED,
    Reason.CLIENT_DEADLINE: Code.DEADLINE_EXCEEDED,
}


@pytest.mark.parametrize(("reason", "code"), GATEWAY_CODES.items())
def test_each_cause_has_its_code_and_says_its_reason(reason: Reason, code: Code) -> None:
    status = make_status(reason, "Mapping m: words")
    assert (status.code, status.details, status.trailers) == (code, "Mapping m: words", ((REASON_KEY, reason.value),))


@pytest.mark.parametrize("reason", list(Reason))
def test_no_cause_but_an_absent_status_is_unknown_or_ok(reason: Reason) -> None:
    expected = reason is Reason.NO_STATUS
    assert (make_status(reason, "").code in (Code.UNKNOWN, Code.OK)) is expected


def test_only_what_never_reached_a_pod_is_tried_again() -> None:
    assert {reason for reason in Reason if safe_to_retry(reason)} == {Reason.CONNECT_FAILED, Reason.STREAM_REFUSED}


def test_codes_that_speak_of_the_request_do_not_count_against_the_pod() -> None:
    failures = {Code.UNKNOWN, Code.DEADLINE_EXCEEDED, Code.INTERNAL, Code.UNAVAILABLE, Code.DATA_LOSS}
    assert {code for code in Code if counts_against_pod(Status(code, "words"))} == failures
    assert counts_against_pod(Status(Code.INTERNAL, "Invalid metadata"))
    assert not counts_against_pod(Status(Code.INTERNAL, "Invalid metadata", cause=Reason.BAD_METADATA))
    assert counts_against_pod(Status(Code.CANCELLED, "", cause=Reason.STREAM_RESET))


def test_a_code_grpc_does_not_define_does_not_count_against_the_pod() -> None:
    assert not counts_against_pod(Status(77, ""))
