"""A session whose engine passes chunks of gRPC frames: what is counted, limited and kept, event by event."""

from __future__ import annotations

from typing import Any

import pytest

from grpcgw.model.codes import Code
from grpcgw.session.request_side import MAX_OPENING_BYTES
from tests.session.frames import frame
from tests.session.gateway import LABEL, Gateway
from tests.session.playbook import (
    CANCEL_POD,
    COALESCE,
    METHOD,
    OK,
    READ,
    READ_POD,
    STREAM_REFUSED,
    Finish,
    Open,
    Rpc,
    Send,
    SendPod,
    ended_with,
    reason_of,
)
from tests.session.test_access_log import LoggingGateway

POD_HEADERS = (("server", "pod"),)


def framed(pods: int = 1, **mapping: Any) -> Rpc:
    return Rpc(Gateway(pods, **mapping), frames=True)


def test_a_unary_rpc_crosses_in_one_batch_each_way() -> None:
    rpc = framed()
    assert rpc.starts() == [READ, COALESCE]
    assert rpc.client_sends(frame(b"hi")) == [READ]
    assert rpc.client_half_closes() == [Open(1, frame(b"hi"), half_close=True)]
    rpc.pod_takes()
    assert rpc.pod_headers(*POD_HEADERS) == [COALESCE]
    assert rpc.pod_replies(frame(b"yo")) == []
    assert rpc.pod_ends(OK) == [Finish(OK, POD_HEADERS, frame(b"yo"))]


def test_what_is_written_at_once_is_read_on_at_once() -> None:
    rpc = framed()
    rpc.starts()
    rpc.client_sends(frame(b"1"))
    assert rpc.timer_expires() == [Open(1, frame(b"1"), half_close=False)]
    rpc.writes_at_once = True
    assert rpc.pod_takes() == []
    assert rpc.client_sends(frame(b"2")) == [SendPod(frame(b"2"), half_close=False), READ]
    rpc.pod_headers(*POD_HEADERS)
    rpc.pod_replies(frame(b"a"))
    assert rpc.timer_expires() == [Send(POD_HEADERS, frame(b"a")), READ_POD]
    assert rpc.pod_replies(frame(b"b")) == [Send(None, frame(b"b")), READ_POD]
    assert rpc.client_half_closes() == [SendPod(None, half_close=True)]
    assert rpc.pod_has_no_more() == []
    assert rpc.pod_ends(OK) == [Finish(OK, None)]


def test_a_message_in_chunks_goes_out_as_one_opening() -> None:
    rpc, whole = framed(), frame(b"abcdef")
    rpc.starts()
    assert rpc.client_sends(whole[:3]) == [READ]
    assert rpc.client_sends(whole[3:8]) == [READ]
    assert rpc.client_sends(whole[8:]) == [READ]
    assert rpc.client_half_closes() == [Open(1, whole, half_close=True)]


def test_a_second_try_gets_all_chunks_of_the_opening() -> None:
    rpc, whole = framed(pods=2), frame(b"abcdef")
    rpc.starts()
    rpc.client_sends(whole[:6])
    assert rpc.timer_expires() == [Open(1, whole[:6])]
    assert rpc.pod_takes() == []
    assert rpc.client_sends(whole[6:]) == [SendPod(whole[6:])]
    assert Open(2, whole) in rpc.try_fails(STREAM_REFUSED)


def test_a_chunk_that_waits_for_its_turn_goes_out_once_with_the_second_try() -> None:
    rpc, whole = framed(pods=2), frame(b"abcdef")
    rpc.starts()
    rpc.client_sends(whole[:6])
    rpc.timer_expires()
    rpc.client_sends(whole[6:])
    assert Open(2, whole) in rpc.try_fails(STREAM_REFUSED)
    assert rpc.pod_takes() == [READ]


@pytest.mark.parametrize("following", [frame(b"second"), bytes(MAX_OPENING_BYTES)])
def test_after_a_second_message_or_too_many_bytes_no_other_try_follows(following: bytes) -> None:
    rpc = framed(pods=2)
    rpc.starts()
    rpc.client_sends(frame(bytes(2 * MAX_OPENING_BYTES))[:6] if len(following) > 100 else frame(b"first"))
    rpc.timer_expires()
    rpc.pod_takes()
    assert rpc.client_sends(following) == [SendPod(following)]
    rpc.pod_takes()
    assert reason_of(rpc.try_fails(STREAM_REFUSED)) == "stream-refused"
    assert len(rpc.attempts) == 1


def test_an_opening_that_is_full_is_sent_without_waiting() -> None:
    rpc, whole = framed(), frame(bytes(3 * MAX_OPENING_BYTES))
    rpc.starts()
    half = MAX_OPENING_BYTES // 2
    assert rpc.client_sends(whole[:half]) == [READ]
    assert rpc.client_sends(whole[half : 2 * half]) == [READ]
    assert rpc.client_sends(whole[2 * half : 3 * half]) == [Open(1, whole[: 2 * half])]
    assert rpc.pod_takes() == [SendPod(whole[2 * half : 3 * half])]


# --- limits


def test_a_message_too_large_is_refused_by_its_declared_length_before_any_of_it_is_sent() -> None:
    rpc = framed(max_message_bytes=5)
    rpc.starts()
    asked = rpc.client_sends(frame(b"123456")[:5])
    assert (ended_with(asked).code, reason_of(asked)) == (Code.RESOURCE_EXHAUSTED, "message-too-large")
    assert "6 bytes is larger than max_message_bytes 5" in ended_with(asked).details
    assert rpc.attempts == []


def test_a_chunk_may_be_larger_than_a_message_may_be() -> None:
    rpc, chunk = framed(max_message_bytes=5), frame(b"12345") + frame(b"12345")
    rpc.starts()
    rpc.client_sends(chunk)
    assert rpc.client_half_closes() == [Open(1, chunk, half_close=True)]


def test_a_reply_too_large_reaches_no_client_and_the_try_ends() -> None:
    rpc = framed(max_message_bytes=5)
    rpc.is_sent_unary(frame(b"hi"))
    rpc.pod_headers()
    asked = rpc.pod_replies(frame(b"123456")[:7])
    assert (ended_with(asked).code, reason_of(asked)) == (Code.RESOURCE_EXHAUSTED, "message-too-large")
    assert CANCEL_POD in asked


def test_the_engine_bounds_what_a_client_makes_be_held() -> None:
    rpc = framed()
    rpc.starts()
    rpc.client_sends(frame(bytes(100_000)))
    assert rpc.gateway.held.total_bytes() == 0


def test_a_request_that_ends_in_the_middle_of_a_message_is_refused() -> None:
    rpc = framed()
    rpc.starts()
    rpc.client_sends(frame(b"abcdef")[:7])
    asked = rpc.client_half_closes()
    assert (ended_with(asked).code, reason_of(asked)) == (Code.INTERNAL, "message-cut-off")
    assert rpc.attempts == []


def test_the_pod_of_a_request_cut_off_later_sees_no_half_close() -> None:
    rpc = framed()
    rpc.starts()
    rpc.client_sends(frame(b"abcdef")[:7])
    rpc.timer_expires()
    rpc.pod_takes()
    asked = rpc.client_half_closes()
    assert reason_of(asked) == "message-cut-off"
    assert CANCEL_POD in asked


# --- replies, and what is counted


def test_a_reply_of_several_chunks_does_not_wait_for_the_status() -> None:
    rpc, whole = framed(), frame(b"abcdef")
    rpc.is_sent_unary(frame(b"hi"))
    rpc.pod_takes()
    rpc.pod_headers(*POD_HEADERS)
    assert rpc.pod_replies(whole[:7]) == [Send(POD_HEADERS, whole[:7])]
    assert rpc.client_takes() == [READ_POD]
    assert rpc.pod_replies(whole[7:]) == [Send(None, whole[7:])]
    assert rpc.client_takes() == [READ_POD]
    rpc.pod_has_no_more()
    assert rpc.pod_ends(OK) == [Finish(OK, None)]
    counters = rpc.gateway.counters.of(LABEL, METHOD)
    assert (counters.one_request, counters.one_reply) == (True, True)


def test_messages_and_their_bytes_are_counted_without_prefixes() -> None:
    gateway = LoggingGateway()
    rpc = Rpc(gateway, frames=True)
    rpc.starts()
    for chunk in (b"\0\0\0", b"\0\2ab\0\0\0\0\1c", frame(b"")):
        rpc.client_sends(chunk)
        while rpc.attempts and rpc.attempt.sending:
            rpc.pod_takes()
    rpc.client_leaves()
    record = gateway.only()
    assert (record.request_messages, record.request_bytes) == (3, 3)
