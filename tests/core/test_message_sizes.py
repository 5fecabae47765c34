"""`max_message_bytes` of a Mapping, event by event: what is above it goes neither way."""

from __future__ import annotations

from grpcgw.proxy.status import Code
from tests.core.gateway import Gateway
from tests.core.playbook import CANCEL_POD, Open, Rpc, ended_with, reason_of


def test_a_message_of_the_size_that_is_allowed_passes() -> None:
    rpc = Rpc(Gateway(max_message_bytes=5))
    rpc.starts()
    rpc.client_sends(b"12345")
    assert rpc.client_half_closes() == [Open(1, b"12345", half_close=True)]


def test_a_larger_one_of_the_client_reaches_no_pod() -> None:
    gateway = Gateway(max_message_bytes=5)
    rpc = Rpc(gateway)
    rpc.starts()
    asked = rpc.client_sends(b"123456")
    assert (ended_with(asked).code, reason_of(asked)) == (Code.RESOURCE_EXHAUSTED, "message-too-large")
    assert "6 bytes are more than max_message_bytes 5" in ended_with(asked).details
    assert rpc.attempts == []


def test_a_larger_one_of_the_pod_reaches_no_client_and_the_try_ends() -> None:
    rpc = Rpc(Gateway(max_message_bytes=5))
    rpc.is_sent_unary()
    rpc.pod_headers()
    asked = rpc.pod_replies(b"123456")
    assert (ended_with(asked).code, reason_of(asked)) == (Code.RESOURCE_EXHAUSTED, "message-too-large")
    assert CANCEL_POD in asked
