"""`max_message_bytes` of a Mapping, event by event: what is above it goes neither way."""

from __future__ import annotations

from grpcgw.model.codes import Code
from grpcgw.policy.held_messages import HeldMessages
from tests.session.gateway import Gateway
from tests.session.playbook import CANCEL_POD, READ, Open, Rpc, ended_with, reason_of


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
    assert "6 bytes is larger than max_message_bytes 5" in ended_with(asked).details
    assert rpc.attempts == []


def test_a_larger_one_of_the_pod_reaches_no_client_and_the_try_ends() -> None:
    rpc = Rpc(Gateway(max_message_bytes=5))
    rpc.is_sent_unary()
    rpc.pod_headers()
    asked = rpc.pod_replies(b"123456")
    assert (ended_with(asked).code, reason_of(asked)) == (Code.RESOURCE_EXHAUSTED, "message-too-large")
    assert CANCEL_POD in asked


LARGE = bytes(100_000)


def small_gateway() -> Gateway:
    gateway = Gateway()
    gateway.held = HeldMessages(len(LARGE) // 2)  # so that two large ones are held, and no third
    return gateway


def test_what_one_client_makes_be_held_is_bounded_and_given_back() -> None:
    gateway = small_gateway()
    first, second, third = Rpc(gateway), Rpc(gateway), Rpc(gateway)
    for rpc in (first, second, third):
        rpc.starts()
    first.client_sends(LARGE)
    second.client_sends(LARGE)
    asked = third.client_sends(LARGE)
    assert (ended_with(asked).code, reason_of(asked)) == (Code.RESOURCE_EXHAUSTED, "too-much-held")
    first.client_leaves()
    again = Rpc(gateway)
    again.starts()
    assert again.client_sends(LARGE) == [READ]
    second.client_leaves()
    again.client_leaves()
    assert gateway.held.total_bytes() == 0


def test_a_stream_gives_back_what_its_pod_has_taken() -> None:
    gateway = small_gateway()
    rpc = Rpc(gateway)
    rpc.starts()
    rpc.client_sends(LARGE)
    rpc.timer_expires()
    rpc.pod_takes()
    rpc.client_sends(b"small")
    rpc.pod_takes()
    assert gateway.held.total_bytes() == 0
    for _ in range(5):
        rpc.client_sends(LARGE)
        rpc.pod_takes()
    rpc.client_leaves()
    assert gateway.held.total_bytes() == 0


def test_a_client_that_makes_nothing_be_held_may_send_one_of_any_size() -> None:
    held = HeldMessages(10)
    assert held.take(("10.0.0.1", 1), 1000)
    assert not held.take(("10.0.0.1", 1), 1)
    assert held.take(("10.0.0.1", 2), 1000)
    held.give(("10.0.0.1", 1), 1000)
    held.give(("10.0.0.1", 2), 1000)
    assert held.total_bytes() == 0
