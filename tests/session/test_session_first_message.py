"""Policies that wait for the first message of a request, event by event, on engines with messages and with frames."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grpcgw.model.codes import Code
from grpcgw.model.objects import ObjectKey
from grpcgw.model.status import Reason
from grpcgw.policy.contract import FailMode, FirstMessage, MessageStart, PolicyRequest, Verdict, Wait
from grpcgw.policy.held_messages import HeldMessages
from grpcgw.policy.verdicts import ALLOW, Allow, Deny
from tests.session.frames import cut, frame
from tests.session.playbook import COALESCE, POLICY_TIMER, READ, Ask, Finish, Open, Rpc, SendPod, reason_of
from tests.session.test_session_of_policies import Policy, ask, gateway

FRAMES = pytest.mark.parametrize("frames", [False, True])


class Looking(Policy):
    """Waits for the first message, and keeps what it saw."""

    def __init__(self, max_bytes: int = 100, verdict: Verdict = ALLOW) -> None:
        super().__init__(verdict)
        self.max_bytes = max_bytes
        self.seen: list[MessageStart | None] = []

    def check(self, request: PolicyRequest) -> Verdict:
        def then(waited: Allow | Deny) -> Verdict:
            self.seen.append(request.first_message)
            return waited if isinstance(waited, Deny) else self._verdict

        return Wait(FirstMessage(self.max_bytes), 60.0, FailMode.CLOSED, Code.DEADLINE_EXCEEDED, then)


def sent(frames: bool, message: bytes) -> bytes:
    return frame(message) if frames else message


@FRAMES
def test_the_policy_gets_the_message_and_the_pod_all_of_it(frames: bool) -> None:
    looking = Looking()
    rpc = Rpc(gateway(looking), frames=frames)
    assert rpc.starts() == [READ, POLICY_TIMER]
    rpc.client_sends(sent(frames, b"abc"))
    assert looking.seen == [MessageStart(frame(b"abc"), True)]
    assert rpc.client_half_closes() == [Open(1, sent(frames, b"abc"), half_close=True)]


@FRAMES
def test_a_request_without_messages_is_an_empty_one(frames: bool) -> None:
    looking = Looking()
    rpc = Rpc(gateway(looking), frames=frames)
    rpc.starts()
    assert rpc.client_half_closes() == [Open(1, None, half_close=True)]
    assert looking.seen == [MessageStart(b"", True)]


@FRAMES
def test_a_long_message_is_cut_for_the_policy_alone(frames: bool) -> None:
    looking, message = Looking(8), b"abcdefgh"
    rpc = Rpc(gateway(looking), frames=frames)
    rpc.starts()
    rpc.client_sends(sent(frames, message))
    assert looking.seen == [MessageStart(frame(message)[:8], False)]
    assert rpc.client_half_closes() == [Open(1, sent(frames, message), half_close=True)]


def test_chunks_are_read_until_the_message_is_whole() -> None:
    looking, whole = Looking(), frame(b"abcdef")
    rpc = Rpc(gateway(looking), frames=True)
    rpc.starts()
    assert rpc.client_sends(whole[:3]) == [READ]
    assert rpc.client_sends(whole[3:8]) == [READ]
    assert looking.seen == []
    assert READ in rpc.client_sends(whole[8:])
    assert looking.seen == [MessageStart(whole, True)]
    assert rpc.client_half_closes() == [Open(1, whole, half_close=True)]


def test_a_long_message_is_read_up_to_the_limit_and_no_further() -> None:
    looking, whole = Looking(200_000), frame(bytes(300_000))
    rpc = Rpc(gateway(looking, ask()), frames=True)
    rpc.starts()
    chunks = [whole[at : at + 50_000] for at in range(0, len(whole), 50_000)]
    assert [rpc.client_sends(chunk) for chunk in chunks[:3]] == [[READ]] * 3
    assert not [one for one in rpc.client_sends(chunks[3]) if one == READ]
    (start,) = looking.seen
    assert start == MessageStart(whole[:200_000], False)


def test_what_was_held_reaches_the_pod_in_order_before_the_rest() -> None:
    looking, messages = Looking(70_000), [bytes([65 + n]) * 60_000 for n in range(3)]
    stream = b"".join(map(frame, messages))
    rpc = Rpc(gateway(looking), frames=True)
    got = b""
    asked = rpc.starts()
    for chunk in [stream[at : at + 50_000] for at in range(0, len(stream), 50_000)]:
        while not rpc.call.reading:
            asked += rpc.pod_takes()
        asked += rpc.client_sends(chunk)
        if COALESCE in asked:
            asked = [one for one in asked if one != COALESCE] + rpc.timer_expires()
    for one in asked:
        got += (one.message or b"") if isinstance(one, Open | SendPod) else b""
    assert got == stream[: len(got)]
    assert len(got) > 120_000
    assert looking.seen == [MessageStart(frame(messages[0]), True)]


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=4), st.lists(st.integers(1, 200)), st.integers(1, 60))
@example([b"", b""], [86], 5)  # within the prefix of the second one
def test_wherever_the_stream_is_cut_the_policy_sees_the_same(
    messages: list[bytes], places: list[int], max_bytes: int
) -> None:
    looking, stream = Looking(max_bytes), b"".join(map(frame, messages))
    rpc = Rpc(gateway(looking, ask()), frames=True)
    rpc.starts()
    for chunk in cut(stream, places):
        if looking.seen:
            break
        rpc.client_sends(chunk)
    first = frame(messages[0])
    assert looking.seen == [MessageStart(first[:max_bytes], len(first) <= max_bytes)]


@FRAMES
def test_a_message_that_came_while_another_policy_waited_is_there_at_once(frames: bool) -> None:
    looking = Looking()
    rpc = Rpc(gateway(ask(), looking, ask()), frames=frames)
    rpc.starts()
    assert rpc.client_sends(sent(frames, b"hi")) == []
    asked = rpc.server_answers(b"yes")
    assert looking.seen == [MessageStart(frame(b"hi"), True)]
    assert any(isinstance(one, Ask) for one in asked)


def test_a_client_that_sends_nothing_is_refused_in_time() -> None:
    rpc = Rpc(gateway(Looking()), frames=True)
    rpc.starts()
    (finish,) = rpc.timer_expires()
    assert isinstance(finish, Finish)
    assert finish.status.code == Code.DEADLINE_EXCEEDED
    assert "no message of the client within 60000 ms" in finish.status.details


def test_what_is_held_for_a_policy_counts_against_the_clients_limit() -> None:
    chosen = gateway(Looking(1 << 20), ask())
    chosen.held = HeldMessages(40_000)
    rpc, other, whole = Rpc(chosen, frames=True), Rpc(chosen, frames=True), frame(bytes(600_000))
    rpc.starts()
    rpc.client_sends(whole[:150_000])
    assert chosen.held.total_bytes() == 149_995
    other.starts()
    assert reason_of(other.client_sends(whole[:150_000])) == Reason.TOO_MUCH_HELD
    rpc.client_leaves()
    assert chosen.held.total_bytes() == 0


def test_a_shadow_gets_all_that_was_held_for_the_policy() -> None:
    made, whole = gateway(Looking()), frame(b"abcdef")
    before = made.snapshot
    copied = replace(before.routes[0].destinations[0], key=ObjectKey("Mapping", "default", "copy"), policies=())
    routes = tuple(replace(one, shadow=copied) for one in before.routes)
    made.apply(replace(before, version="2", routes=routes), 0.0)
    rpc = Rpc(made, frames=True)
    rpc.starts()
    for chunk in (whole[:3], whole[3:8], whole[8:]):
        rpc.client_sends(chunk)
    rpc.client_half_closes()
    (copy,) = rpc.copies
    assert copy.sending == (whole, True)
