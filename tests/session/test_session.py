"""How one RPC is forwarded, rule by rule. Each test plays an engine's events and reads what the session asks for."""

from __future__ import annotations

import pytest

from grpcgw.model.codes import Code
from grpcgw.model.endpoints import PodState
from grpcgw.model.match import MatchKind
from grpcgw.model.status import Status
from grpcgw.session.session import OVERDUE_S
from tests.session.gateway import LABEL, Gateway, destination, endpoints, route, snapshot
from tests.session.playbook import (
    CANCEL_POD,
    COALESCE,
    CONNECT_FAILED,
    CONNECTION_LOST,
    DEADLINE,
    METHOD,
    OK,
    READ,
    READ_POD,
    STREAM_REFUSED,
    Abort,
    Finish,
    Open,
    Rpc,
    Send,
    SendPod,
    ended_with,
    reason_of,
)

POD_HEADERS = (("server", "pod"),)
NOT_FOUND = Status(Code.NOT_FOUND, "no such user", (("grpc-status-details-bin", b"\x08\x05"), ("a", "1"), ("a", "2")))


def assert_over(rpc: Rpc, *codes: int) -> None:
    """The RPC was counted once, every pick was done once, and no pod has it any more."""
    assert rpc.session.finished
    assert rpc.codes() == dict.fromkeys(codes, 1)
    assert all(report.in_flight == 0 for report in rpc.gateway.counters.reports())
    for target in rpc.gateway.targets:
        assert target.picked == [pod for pod, _ in target.done_with]
    assert all(pod.in_flight == 0 and pod.counts.total == pod.counts.finished for pod in rpc.gateway.pods())


def learned_stream(gateway: Gateway) -> Gateway:
    """`gateway` after it learned that the method streams both ways: nothing is waited for."""
    counters = gateway.counters.of(LABEL, METHOD)
    counters.one_request = counters.one_reply = False
    return gateway


def streaming(gateway: Gateway | None = None) -> Rpc:
    """A stream on a pod that has taken the opening and answered with headers."""
    rpc = Rpc(learned_stream(gateway or Gateway()))
    assert rpc.starts() == [READ, Open(1)]
    assert rpc.pod_takes() == []
    assert rpc.pod_headers(*POD_HEADERS) == [Send(POD_HEADERS)]
    assert rpc.client_takes() == []
    return rpc


# --- unary: one batch each way


def test_a_unary_rpc_crosses_in_one_batch_each_way() -> None:
    rpc = Rpc(Gateway())
    assert rpc.starts() == [READ, COALESCE]
    assert rpc.client_sends(b"hi") == [READ]
    assert rpc.client_half_closes() == [Open(1, b"hi", half_close=True)]
    assert rpc.pod_takes() == []
    assert rpc.pod_headers(*POD_HEADERS) == [COALESCE]
    assert rpc.pod_replies(b"yo") == []
    assert rpc.pod_ends(NOT_FOUND) == [Finish(NOT_FOUND, POD_HEADERS, b"yo")]
    assert_over(rpc, Code.NOT_FOUND)


def test_the_pod_is_sent_what_the_mapping_and_the_client_say() -> None:
    rpc = Rpc(Gateway(rewrite="/other.Service/"), metadata=(("k", "1"), ("k", "2"), ("te", "trailers")), deadline_s=9.0)
    (opened,) = rpc.is_sent_unary()[-1:]
    assert isinstance(opened, Open)
    assert (opened.path, opened.authority, opened.deadline_s) == ("/other.Service/Greet", "gateway.example", 9.0)
    assert opened.metadata[:3] == (("k", "1"), ("k", "2"), ("x-forwarded-for", "192.0.2.7"))
    assert [key for key, _ in opened.metadata[3:]] == ["x-forwarded-proto", "x-request-id"]


def test_a_mapping_without_rewrite_leaves_the_path_alone() -> None:
    (opened,) = Rpc(Gateway()).is_sent_unary()[-1:]
    assert isinstance(opened, Open)
    assert opened.path == METHOD


def test_a_request_without_a_message_is_sent_as_half_close_alone() -> None:
    rpc = Rpc(Gateway())
    rpc.starts()
    assert rpc.client_half_closes() == [Open(1, None, half_close=True)]


@pytest.mark.parametrize(
    "order",
    ["headers message status", "headers status message", "status headers message", "message headers status",
     "message status headers", "status message headers"],
)  # fmt: skip
def test_the_status_goes_out_last_in_whatever_order_the_parts_are_reported(order: str) -> None:
    rpc = Rpc(Gateway())
    rpc.is_sent_unary()
    rpc.pod_takes()
    report = {
        "headers": lambda: rpc.pod_headers(*POD_HEADERS),
        "message": lambda: rpc.pod_replies(b"yo"),
        "status": lambda: rpc.pod_ends(NOT_FOUND),
    }
    asked = [step for part in order.split() for step in report[part]() if step != COALESCE]
    assert asked == [Finish(NOT_FOUND, POD_HEADERS, b"yo")]
    assert_over(rpc, Code.NOT_FOUND)


@pytest.mark.parametrize("status_first", [False, True])
def test_trailers_only_stays_trailers_only(status_first: bool) -> None:
    rpc = Rpc(Gateway())
    rpc.is_sent_unary()
    rpc.pod_takes()
    asked = rpc.pod_ends(NOT_FOUND) if status_first else []
    asked += rpc.pod_headers()
    asked += rpc.pod_has_no_more()
    asked += [] if status_first else rpc.pod_ends(NOT_FOUND)
    assert [step for step in asked if step != COALESCE] == [Finish(NOT_FOUND, (), None)]


def test_a_late_report_of_the_opening_changes_nothing() -> None:
    rpc = Rpc(Gateway())
    rpc.is_sent_unary()
    rpc.pod_headers(*POD_HEADERS)
    rpc.pod_replies(b"yo")
    rpc.pod_ends()
    assert rpc.pod_takes(ok=False) == []
    assert_over(rpc, Code.OK)


# --- what does not come along is not waited for


def test_a_client_that_sends_nothing_more_reaches_the_pod_when_the_wait_is_over() -> None:
    rpc = Rpc(Gateway())
    rpc.starts()
    rpc.client_sends(b"one")
    assert rpc.timer_expires() == [Open(1, b"one")]
    rpc.pod_takes()
    assert rpc.client_sends(b"two") == [SendPod(b"two")]


def test_a_client_that_is_silent_reaches_the_pod_when_the_wait_is_over() -> None:
    rpc = Rpc(Gateway())
    rpc.starts()
    assert rpc.timer_expires() == [Open(1)]
    assert rpc.pod_takes() == []
    assert rpc.client_sends(b"one") == [SendPod(b"one")]
    assert rpc.pod_takes() == [READ]
    assert rpc.client_half_closes() == [SendPod(None, half_close=True)]


def test_a_second_request_message_ends_the_wait() -> None:
    rpc = Rpc(Gateway())
    rpc.starts()
    rpc.client_sends(b"one")
    assert rpc.client_sends(b"two") == [Open(1, b"one")]
    assert rpc.pod_takes() == [SendPod(b"two")]
    assert rpc.pod_takes() == [READ]


def test_headers_of_a_pod_that_says_nothing_more_go_out_when_the_wait_is_over() -> None:
    rpc = Rpc(Gateway())
    rpc.is_sent_unary()
    rpc.pod_takes()
    assert rpc.pod_headers(*POD_HEADERS) == [COALESCE]
    assert rpc.timer_expires() == [Send(POD_HEADERS)]
    assert rpc.pod_replies(b"yo") == []
    assert rpc.client_takes() == [Send(None, b"yo")]
    assert rpc.client_takes() == [READ_POD]


def test_a_reply_that_comes_after_its_headers_went_out_is_not_held_back() -> None:
    rpc = Rpc(Gateway())
    rpc.is_sent_unary()
    rpc.pod_headers(*POD_HEADERS)
    rpc.timer_expires()
    rpc.client_takes()
    assert rpc.pod_replies(b"yo") == [Send(None, b"yo")]


def test_a_reply_without_a_status_goes_out_with_the_headers_when_the_wait_is_over() -> None:
    rpc = Rpc(Gateway())
    rpc.is_sent_unary()
    rpc.pod_takes()
    rpc.pod_headers(*POD_HEADERS)
    rpc.pod_replies(b"yo")
    assert rpc.timer_expires() == [Send(POD_HEADERS, b"yo")]
    assert rpc.client_takes() == [READ_POD]
    assert rpc.pod_has_no_more() == []
    assert rpc.pod_ends() == [Finish(OK, None, None)]


def test_the_clients_wait_that_expires_after_the_opening_does_nothing() -> None:
    rpc = Rpc(Gateway())
    rpc.is_sent_unary()
    assert rpc.timer_expires() == []


def test_empty_headers_wait_for_the_status_even_of_a_stream() -> None:
    """They may be the beginning of trailers-only, which clients may retry and headers may not."""
    rpc = Rpc(learned_stream(Gateway()))
    rpc.starts()
    assert rpc.pod_headers() == [COALESCE]
    rpc.pod_has_no_more()
    assert rpc.pod_ends(NOT_FOUND) == [Finish(NOT_FOUND, (), None)]


# --- what is learned of a method


def shape(gateway: Gateway) -> tuple[bool, bool]:
    counters = gateway.counters.of(LABEL, METHOD)
    return counters.one_request, counters.one_reply


def test_a_method_is_taken_for_unary_until_it_streams() -> None:
    gateway = Gateway()
    assert shape(gateway) == (True, True)
    rpc = Rpc(gateway)
    rpc.starts()
    rpc.timer_expires()
    assert shape(gateway) == (False, True)
    rpc.pod_headers(*POD_HEADERS)
    rpc.pod_replies(b"one")
    rpc.timer_expires()
    assert shape(gateway) == (False, False)


def test_a_second_request_shows_a_stream() -> None:
    gateway = Gateway()
    rpc = Rpc(gateway)
    rpc.starts()
    rpc.client_sends(b"1")
    rpc.client_sends(b"2")
    assert shape(gateway) == (False, True)


def test_a_second_reply_shows_a_stream() -> None:
    gateway = Gateway()
    rpc = Rpc(gateway)
    rpc.is_sent_unary()
    rpc.pod_headers(*POD_HEADERS)
    rpc.timer_expires()
    rpc.client_takes()
    rpc.pod_replies(b"1")
    rpc.client_takes()
    assert shape(gateway) == (True, True)
    rpc.pod_replies(b"2")
    assert shape(gateway) == (True, False)


def test_a_stream_waits_for_nothing() -> None:
    rpc = Rpc(learned_stream(Gateway()))
    assert rpc.starts() == [READ, Open(1)]
    assert rpc.pod_headers(*POD_HEADERS) == [Send(POD_HEADERS)]
    assert rpc.pod_replies(b"one") == []
    assert rpc.client_takes() == [Send(None, b"one")]


def test_an_rpc_that_looked_unary_makes_its_method_unary_again() -> None:
    gateway = learned_stream(Gateway())
    rpc = Rpc(gateway)
    rpc.starts()
    rpc.client_sends(b"hi")
    rpc.pod_takes()
    rpc.pod_takes()
    rpc.client_half_closes()
    rpc.pod_headers(*POD_HEADERS)
    rpc.client_takes()
    rpc.pod_replies(b"yo")
    rpc.client_takes()
    rpc.pod_has_no_more()
    rpc.pod_ends()
    assert shape(gateway) == (True, True)
    assert Rpc(gateway).starts() == [READ, COALESCE]


def test_a_stream_answered_before_its_half_close_stays_a_stream() -> None:
    gateway = Gateway()
    rpc = streaming(gateway)
    rpc.client_sends(b"one")
    rpc.pod_takes()
    rpc.client_half_closes()
    rpc.pod_takes()
    rpc.pod_has_no_more()
    rpc.pod_ends()
    assert shape(gateway)[0] is False


# --- streams: one message in flight each way


def test_the_client_is_read_on_only_when_its_last_message_is_written() -> None:
    rpc = streaming()
    for number in range(3):
        assert rpc.client_sends(b"%d" % number) == [SendPod(b"%d" % number)]
        assert rpc.pod_takes() == [READ]
    assert rpc.client_half_closes() == [SendPod(None, half_close=True)]
    assert rpc.pod_takes() == []


def test_the_pod_is_read_on_only_when_its_last_message_is_written() -> None:
    rpc = streaming()
    for number in range(3):
        assert rpc.pod_replies(b"%d" % number) == [Send(None, b"%d" % number)]
        assert rpc.client_takes() == [READ_POD]


def test_a_message_waits_for_the_one_before_it() -> None:
    rpc = Rpc(learned_stream(Gateway()))
    rpc.starts()
    assert rpc.client_sends(b"while the opening is being sent") == []
    assert rpc.pod_takes() == [SendPod(b"while the opening is being sent")]


def test_a_half_close_waits_for_the_message_before_it() -> None:
    rpc = Rpc(learned_stream(Gateway()))
    rpc.starts()
    assert rpc.client_half_closes() == []
    assert rpc.pod_takes() == [SendPod(None, half_close=True)]


def test_the_status_waits_for_a_message_that_is_being_written() -> None:
    rpc = streaming()
    assert rpc.pod_replies(b"one") == [Send(None, b"one")]
    assert rpc.pod_ends() == []
    assert rpc.client_takes() == [Finish(OK, None, None)]
    assert_over(rpc, Code.OK)


def test_the_status_waits_for_the_message_that_is_being_read() -> None:
    rpc = streaming()
    rpc.pod_replies(b"one")
    rpc.client_takes()
    assert rpc.pod_ends() == []
    assert rpc.pod_replies(b"two") == [Send(None, b"two")]
    assert rpc.client_takes() == [Finish(OK, None, None)]


def test_a_held_reply_is_not_lost_when_the_status_comes_while_headers_are_written() -> None:
    rpc = Rpc(learned_stream(Gateway()))
    rpc.starts()
    rpc.pod_headers(*POD_HEADERS)
    assert rpc.pod_replies(b"one") == []
    assert rpc.pod_ends() == []
    assert rpc.client_takes() == [Send(None, b"one")]
    assert rpc.client_takes() == [Finish(OK, None, None)]


def test_a_reply_of_a_stream_that_is_reported_before_its_headers_follows_them() -> None:
    rpc = Rpc(learned_stream(Gateway()))
    rpc.starts()
    assert rpc.pod_replies(b"one") == []
    assert rpc.pod_headers(*POD_HEADERS) == [Send(POD_HEADERS, b"one")]


def test_a_read_that_finds_the_try_over_waits_for_the_status_only() -> None:
    rpc = streaming()
    rpc.pod_replies(b"one")
    rpc.nothing_left_to_read = True
    assert rpc.client_takes() == [READ_POD]
    assert rpc.pod_ends() == [Finish(OK, None, None)]


def test_a_pod_may_end_before_the_client_has() -> None:
    rpc = streaming()
    rpc.pod_has_no_more()
    assert rpc.pod_ends(NOT_FOUND) == [Finish(NOT_FOUND, None, None)]
    assert rpc.client_sends(b"too late") == []
    assert_over(rpc, Code.NOT_FOUND)


def test_nothing_is_sent_to_a_pod_whose_status_is_here() -> None:
    rpc = streaming()
    rpc.pod_replies(b"one")
    rpc.pod_ends()
    assert rpc.client_sends(b"too late") == []


def test_a_send_that_fails_waits_for_the_status() -> None:
    rpc = streaming()
    rpc.client_sends(b"one")
    assert rpc.pod_takes(ok=False) == []
    rpc.pod_has_no_more()
    assert rpc.pod_ends(NOT_FOUND) == [Finish(NOT_FOUND, None, None)]


def test_nothing_is_sent_after_a_send_that_failed_and_another_pod_gets_it_all() -> None:
    rpc = Rpc(Gateway(pods=2))
    rpc.starts()
    rpc.client_sends(b"one")
    rpc.timer_expires()
    assert rpc.pod_takes(ok=False) == []
    assert rpc.client_sends(b"two") == []
    assert rpc.pod_never_answers() + rpc.pod_has_no_more() == []
    assert rpc.pod_ends(STREAM_REFUSED) == [Open(2, b"one")]
    assert rpc.pod_takes() == [SendPod(b"two")]


# --- statuses of the gateway's own


def test_no_mapping_is_unimplemented_at_once() -> None:
    rpc = Rpc(Gateway(), "/unknown.Service/Method")
    asked = rpc.starts()
    assert reason_of(asked) == "no-mapping"
    assert ended_with(asked).code == Code.UNIMPLEMENTED
    assert "/unknown.Service/Method" in ended_with(asked).details
    assert rpc.gateway.counters.unmatched.report().codes == {Code.UNIMPLEMENTED: 1}


def test_an_unrouted_share_is_unavailable() -> None:
    gateway = Gateway(weight=50)
    reasons = sorted(
        reason_of([s for s in Rpc(gateway).starts() if isinstance(s, Finish)] or [Finish(OK)]) for _ in "ab"
    )
    assert reasons == ["", "unrouted-share"]


def test_no_pod_is_unavailable_and_names_mapping_and_service() -> None:
    asked = Rpc(Gateway(pods=0)).is_sent_unary()
    assert reason_of(asked) == "no-endpoints"
    assert ended_with(asked).details == "Mapping grpcserver.default: no ready pod of greet.default:50051"
    assert ended_with(asked).code == Code.UNAVAILABLE


def test_a_draining_gateway_refuses() -> None:
    gateway = Gateway()
    gateway.draining = True
    asked = Rpc(gateway).starts()
    assert (reason_of(asked), ended_with(asked).code) == ("draining", Code.UNAVAILABLE)


def test_a_connection_lost_before_the_headers_is_trailers_only() -> None:
    rpc = Rpc(Gateway(pods=2))
    rpc.is_sent_unary()
    asked = rpc.try_fails(CONNECTION_LOST)
    (finish,) = asked
    assert isinstance(finish, Finish)
    assert (finish.headers, finish.message, reason_of(asked)) == ((), None, "connection-lost")
    assert finish.status.details == ("Mapping grpcserver.default: pod 10.0.0.1:50051: Stream removed (Socket closed)")
    assert_over(rpc, Code.UNAVAILABLE)


def test_a_connection_lost_mid_stream_ends_it_after_the_messages_that_came() -> None:
    rpc = streaming()
    rpc.pod_replies(b"one")
    rpc.pod_ends(CONNECTION_LOST)
    asked = rpc.client_takes()
    assert reason_of(asked) == "connection-lost"
    assert_over(rpc, Code.UNAVAILABLE)


def test_a_connection_lost_after_the_reply_of_a_unary_rpc_keeps_the_reply() -> None:
    rpc = Rpc(Gateway())
    rpc.is_sent_unary()
    rpc.pod_takes()
    rpc.pod_headers(*POD_HEADERS)
    rpc.pod_replies(b"yo")
    (finish,) = rpc.pod_ends(CONNECTION_LOST)
    assert isinstance(finish, Finish)
    assert (finish.headers, finish.message) == (POD_HEADERS, b"yo")
    assert reason_of([finish]) == "connection-lost"


@pytest.mark.parametrize("code", list(Code))
def test_a_status_of_the_pods_own_passes_untouched(code: Code) -> None:
    status = Status(code, "", (("k", "v"), ("k", "w")))
    rpc = Rpc(Gateway())
    rpc.is_sent_unary()
    assert rpc.is_answered_unary(b"yo", status)[-1:] == [Finish(status, POD_HEADERS, b"yo")]
    assert_over(rpc, code)


@pytest.mark.parametrize(
    "said",
    [
        Status(CONNECT_FAILED.code, CONNECT_FAILED.details),
        Status(Code.UNAVAILABLE, "Stream removed (RST_STREAM (Received RST_STREAM with error code 7))"),
        Status(Code.UNAVAILABLE, "Stream removed (GOAWAY received; Error code: 0; Debug Text: )"),
        Status(Code.UNAVAILABLE, "Stream removed (Socket closed)"),
        Status(Code.CANCELLED, "CANCELLED"),
        Status(Code.INTERNAL, "Invalid metadata"),
        Status(Code.UNKNOWN, "No status received"),
    ],
    ids=lambda status: status.details,
)
def test_a_pods_own_words_about_a_stream_of_its_own_prove_nothing_and_pass_untouched(said: Status) -> None:
    rpc = Rpc(Gateway(pods=2))
    rpc.is_sent_unary()
    rpc.pod_takes()
    rpc.pod_headers()
    rpc.pod_has_no_more()
    assert rpc.pod_ends(said) == [Finish(said, (), None)]
    assert rpc.gateway.pod(1).state is PodState.READY
    assert rpc.gateway.counters.retries == 0


def test_a_connection_lost_before_anything_was_sent_on_it_is_one_that_failed() -> None:
    rpc = Rpc(Gateway(pods=2))
    rpc.is_sent_unary()
    rpc.pod_takes(ok=False)
    rpc.pod_has_no_more()
    rpc.pod_ends(CONNECTION_LOST)
    assert rpc.pod_never_answers() == [Open(2, b"hi", half_close=True)]


# --- a second pod


@pytest.mark.parametrize("failure", [CONNECT_FAILED, STREAM_REFUSED])
def test_a_try_that_never_reached_its_pod_is_repeated_once_on_another(failure: Status) -> None:
    rpc = Rpc(Gateway(pods=2))
    rpc.is_sent_unary(b"hi")
    assert rpc.try_fails(failure) == [Open(2, b"hi", half_close=True)]
    assert rpc.is_answered_unary()[-1:] == [Finish(OK, POD_HEADERS, b"yo")]
    assert rpc.gateway.counters.retries == 1
    assert_over(rpc, Code.OK)


def test_the_second_try_is_the_same_request() -> None:
    rpc = Rpc(Gateway(pods=2), metadata=(("k", "v"),), deadline_s=9.0)
    (first,) = rpc.is_sent_unary()[-1:]
    (second,) = rpc.try_fails(CONNECT_FAILED)
    assert isinstance(first, Open)
    assert isinstance(second, Open)
    assert (second.metadata, second.deadline_s, second.path) == (first.metadata, first.deadline_s, first.path)


def test_there_is_no_third_try() -> None:
    rpc = Rpc(Gateway(pods=3))
    rpc.is_sent_unary()
    rpc.try_fails(STREAM_REFUSED)
    asked = rpc.try_fails(STREAM_REFUSED)
    assert reason_of(asked) == "stream-refused"
    assert_over(rpc, Code.UNAVAILABLE)


def test_there_is_no_second_try_without_another_pod() -> None:
    rpc = Rpc(Gateway(pods=1))
    rpc.is_sent_unary()
    asked = rpc.try_fails(STREAM_REFUSED)
    assert reason_of(asked) == "stream-refused"
    assert rpc.gateway.counters.retries == 0


@pytest.mark.parametrize(
    "status", [CONNECTION_LOST, Status(Code.UNAVAILABLE, "try later"), Status(Code.UNKNOWN, "Stream removed (?)")]
)
def test_what_may_have_reached_the_pod_is_not_repeated(status: Status) -> None:
    rpc = Rpc(Gateway(pods=2))
    rpc.is_sent_unary()
    assert isinstance(rpc.try_fails(status)[-1], Finish)
    assert len(rpc.attempts) == 1


def test_a_pod_that_cannot_be_connected_to_is_left_out_until_its_connection_stands() -> None:
    gateway = Gateway(pods=2)
    rpc = Rpc(gateway)
    rpc.is_sent_unary()
    rpc.try_fails(CONNECT_FAILED)
    assert gateway.pod(1).state is PodState.FAILING
    assert [Rpc(gateway).is_sent_unary()[-1] for _ in range(3)] == [Open(2, b"hi", half_close=True)] * 3
    gateway.refresh(1.0)
    assert Open(1, b"hi", half_close=True) in [Rpc(gateway).is_sent_unary()[-1] for _ in range(2)]


def test_a_refused_stream_is_repeated_with_all_that_was_sent() -> None:
    """The first message was sent apart from the opening: the second try has it in the opening."""
    rpc = Rpc(learned_stream(Gateway(pods=2)))
    rpc.starts()
    rpc.pod_takes()
    rpc.client_sends(b"one")
    rpc.pod_takes()
    assert rpc.try_fails(STREAM_REFUSED) == [Open(2, b"one")]
    assert rpc.client_half_closes() == []
    assert rpc.pod_takes() == [SendPod(None, half_close=True)]


def test_a_first_message_that_was_still_to_be_sent_goes_out_once_in_the_second_try() -> None:
    rpc = Rpc(learned_stream(Gateway(pods=2)))
    rpc.starts()
    rpc.client_sends(b"one")
    assert rpc.try_fails(CONNECT_FAILED) == [Open(2, b"one")]
    assert rpc.pod_takes() == [READ]


@pytest.mark.parametrize("messages", [(b"one", b"two"), (b"", b""), (b"a", b"a")])
def test_a_second_message_that_was_still_to_be_sent_goes_out_in_the_second_try(messages: tuple[bytes, bytes]) -> None:
    rpc = Rpc(Gateway(pods=2))
    rpc.starts()
    rpc.client_sends(messages[0])
    assert rpc.client_sends(messages[1]) == [Open(1, messages[0])]
    assert rpc.try_fails(CONNECT_FAILED) == [Open(2, messages[0])]
    assert rpc.pod_takes() == [SendPod(messages[1])]


@pytest.mark.parametrize("messages", [(b"one", b"two"), (b"", b""), (b"a", b"a")])
def test_a_stream_of_which_two_messages_were_sent_is_not_repeated(messages: tuple[bytes, bytes]) -> None:
    rpc = Rpc(learned_stream(Gateway(pods=2)))
    rpc.starts()
    rpc.pod_takes()
    for message in messages:
        rpc.client_sends(message)
        rpc.pod_takes()
    assert reason_of(rpc.try_fails(STREAM_REFUSED)) == "stream-refused"


def test_a_half_close_sent_on_its_own_is_repeated_with_the_opening() -> None:
    rpc = Rpc(learned_stream(Gateway(pods=2)))
    rpc.starts()
    rpc.pod_takes()
    rpc.client_half_closes()
    assert rpc.try_fails(STREAM_REFUSED) == [Open(2, None, half_close=True)]


def test_nothing_is_repeated_once_headers_went_out() -> None:
    rpc = streaming(Gateway(pods=2))
    rpc.pod_has_no_more()
    assert reason_of(rpc.pod_ends(STREAM_REFUSED)) == "stream-refused"
    assert len(rpc.attempts) == 1


def test_a_pod_whose_connection_was_closed_meanwhile_is_passed_over() -> None:
    rpc = Rpc(Gateway(pods=2))
    rpc.closed_pods = {1}
    assert rpc.is_sent_unary()[-2:] == [Open(1, b"hi", half_close=True), Open(2, b"hi", half_close=True)]
    rpc.is_answered_unary()
    assert rpc.gateway.counters.retries == 1
    assert_over(rpc, Code.OK)


@pytest.mark.parametrize("pods", [1, 2, 3])
def test_closed_connections_everywhere_end_in_unavailable(pods: int) -> None:
    rpc = Rpc(Gateway(pods=pods))
    rpc.closed_pods = {1, 2, 3}
    asked = rpc.is_sent_unary()
    assert reason_of(asked) == "connect-failed"
    assert len([step for step in asked if isinstance(step, Open)]) == min(pods, 2)
    assert_over(rpc, Code.UNAVAILABLE)


def test_the_second_try_may_find_that_the_pods_are_gone() -> None:
    """The RPC keeps the pods it started with in mind only as far as they are still served."""
    gateway = Gateway(pods=2)
    rpc = Rpc(gateway)
    rpc.is_sent_unary()
    gateway.set_endpoints("greet", endpoints(), 0.0)
    assert reason_of(rpc.try_fails(CONNECT_FAILED)) == "connect-failed"
    assert_over(rpc, Code.UNAVAILABLE)


def test_an_rpc_goes_on_as_it_began_when_its_mapping_goes() -> None:
    gateway = Gateway()
    rpc = streaming(gateway)
    gateway.apply(snapshot(version="2"), 0.0)
    assert rpc.client_sends(b"one") == [SendPod(b"one")]
    rpc.pod_has_no_more()
    assert rpc.pod_ends() == [Finish(OK, None, None)]
    assert_over(rpc, Code.OK)


def test_a_try_that_nothing_came_back_from_keeps_its_second_chance_until_its_status_is_here() -> None:
    rpc = Rpc(Gateway(pods=2))
    rpc.is_sent_unary()
    assert rpc.pod_takes(ok=False) + rpc.pod_never_answers() + rpc.pod_has_no_more() == []
    assert rpc.timer_expires() == []
    assert rpc.pod_ends(CONNECT_FAILED) == [Open(2, b"hi", half_close=True)]


# --- time


def test_the_clients_deadline_travels_on() -> None:
    (opened,) = Rpc(Gateway(timeout_ms=60_000), deadline_s=5.0).is_sent_unary()[-1:]
    assert isinstance(opened, Open)
    assert opened.deadline_s == 5.0


def test_a_timeout_of_the_mapping_shortens_the_deadline() -> None:
    (opened,) = Rpc(Gateway(timeout_ms=2_000), deadline_s=5.0, now_s=1.0).is_sent_unary()[-1:]
    assert isinstance(opened, Open)
    assert opened.deadline_s == 3.0


@pytest.mark.parametrize(
    ("timeout_ms", "deadline_s", "reason", "words"),
    [
        (None, 2.0, "client-deadline", "the client's deadline passed"),
        (9_000, 2.0, "client-deadline", "the client's deadline passed"),
        (2_000, None, "timeout", "timeout_ms 2000 passed"),
        (2_000, 9.0, "timeout", "timeout_ms 2000 passed"),
    ],
)
def test_a_deadline_that_passes_says_whose_it_was(
    timeout_ms: int | None, deadline_s: float | None, reason: str, words: str
) -> None:
    rpc = Rpc(Gateway(timeout_ms=timeout_ms), deadline_s=deadline_s)
    rpc.is_sent_unary()
    rpc.now_s = 2.0
    asked = rpc.try_fails(DEADLINE)
    assert reason_of(asked) == reason
    assert ended_with(asked).code == Code.DEADLINE_EXCEEDED
    assert words in ended_with(asked).details
    assert "10.0.0.1:50051" in ended_with(asked).details
    assert_over(rpc, Code.DEADLINE_EXCEEDED)


@pytest.mark.parametrize(
    ("status", "deadline_s"),
    [
        (Status(Code.DEADLINE_EXCEEDED, "my database was slow"), 2.0),
        (Status(Code.DEADLINE_EXCEEDED, "Deadline Exceeded", (("k", "v"),)), 2.0),
        (Status(Code.DEADLINE_EXCEEDED, "Deadline Exceeded"), None),
        (Status(Code.CANCELLED, ""), 2.0),
    ],
)
def test_a_deadline_exceeded_of_the_pods_own_passes_untouched(status: Status, deadline_s: float | None) -> None:
    rpc = Rpc(Gateway(), deadline_s=deadline_s)
    rpc.is_sent_unary()
    rpc.now_s = 2.0
    assert rpc.is_answered_unary(b"yo", status)[-1:] == [Finish(status, POD_HEADERS, b"yo")]


def test_a_deadline_that_passes_before_the_opening_ends_the_rpc_at_the_next_sweep() -> None:
    rpc = Rpc(Gateway(timeout_ms=1_000))
    rpc.starts()
    rpc.now_s = 0.9
    assert rpc.sweep() == []
    rpc.now_s = 1.0
    assert reason_of(rpc.sweep()) == "timeout"
    assert_over(rpc, Code.DEADLINE_EXCEEDED)


def test_a_client_that_does_not_read_is_ended_at_the_deadline() -> None:
    """grpc core has told by then that the pod's side is over; what it does not watch is the client's."""
    rpc = Rpc(learned_stream(Gateway(timeout_ms=1_000)))
    rpc.starts()
    rpc.pod_headers(*POD_HEADERS)
    rpc.now_s = 1.0
    rpc.pod_has_no_more()
    assert rpc.pod_ends(DEADLINE) == []
    asked = rpc.sweep()
    assert isinstance(asked[0], Abort)
    assert reason_of(asked) == "timeout"
    assert_over(rpc, Code.DEADLINE_EXCEEDED)


def test_a_client_that_does_not_read_what_an_engine_holds_is_ended_after_the_deadline() -> None:
    """The engine has the pod's status, and reports it only after messages that the client makes wait."""
    rpc = Rpc(learned_stream(Gateway(timeout_ms=1_000)))
    rpc.starts()
    rpc.pod_headers(*POD_HEADERS)
    rpc.now_s = 1.0
    assert rpc.sweep() == [], "an engine that watches the deadline may be about to report it"
    rpc.now_s = 1.0 + OVERDUE_S
    abort, cancel = rpc.sweep()
    assert isinstance(abort, Abort)
    assert (reason_of([abort]), cancel) == ("timeout", CANCEL_POD)


def test_a_quiet_rpc_is_ended_and_its_pod_told() -> None:
    rpc = Rpc(learned_stream(Gateway(idle_timeout_ms=500)))
    rpc.starts()
    rpc.now_s = 0.4
    assert rpc.sweep() == []
    rpc.pod_takes()
    rpc.now_s = 0.8
    assert rpc.sweep() == []
    rpc.now_s = 0.9
    finish, cancel = rpc.sweep()
    assert (reason_of([finish]), cancel) == ("idle-timeout", CANCEL_POD)
    assert "idle_timeout_ms 500" in ended_with([finish]).details


@pytest.mark.parametrize("arrives", ["client_sends", "pod_replies"])
@pytest.mark.parametrize("taken", [False, True])
def test_a_message_that_comes_or_goes_keeps_an_rpc_from_being_quiet(arrives: str, taken: bool) -> None:
    rpc = streaming(Gateway(idle_timeout_ms=500))
    rpc.now_s = 0.4
    getattr(rpc, arrives)(b"one")
    rpc.now_s = 0.8
    assert rpc.sweep() == []
    if taken:
        rpc.pod_takes() if arrives == "client_sends" else rpc.client_takes()
        rpc.now_s = 1.2
        assert rpc.sweep() == []
    else:
        rpc.now_s = 0.9
        assert reason_of(rpc.sweep()) == "idle-timeout"


def test_a_client_that_stopped_reading_is_quiet_too() -> None:
    rpc = Rpc(learned_stream(Gateway(idle_timeout_ms=500)))
    rpc.starts()
    rpc.pod_headers(*POD_HEADERS)
    rpc.now_s = 0.5
    abort, cancel = rpc.sweep()
    assert isinstance(abort, Abort)
    assert cancel == CANCEL_POD


def test_without_an_idle_timeout_quiet_is_no_reason_to_end() -> None:
    rpc = streaming(Gateway(idle_timeout_ms=None))
    rpc.now_s = 1e6
    assert rpc.sweep() == []


# --- the end comes from elsewhere, in any state


def started(gateway: Gateway) -> Rpc:
    rpc = Rpc(gateway)
    rpc.starts()
    return rpc


def with_message(gateway: Gateway) -> Rpc:
    rpc = started(gateway)
    rpc.client_sends(b"hi")
    return rpc


def opened(gateway: Gateway) -> Rpc:
    rpc = Rpc(gateway)
    rpc.is_sent_unary()
    return rpc


def answered_with_headers(gateway: Gateway) -> Rpc:
    rpc = opened(gateway)
    rpc.pod_takes()
    rpc.pod_headers(*POD_HEADERS)
    return rpc


def reply_held(gateway: Gateway) -> Rpc:
    rpc = answered_with_headers(gateway)
    rpc.pod_replies(b"yo")
    return rpc


def reply_being_sent(gateway: Gateway) -> Rpc:
    rpc = reply_held(gateway)
    rpc.timer_expires()
    return rpc


def status_held(gateway: Gateway) -> Rpc:
    rpc = reply_being_sent(gateway)
    rpc.pod_ends()
    return rpc


def second_try(gateway: Gateway) -> Rpc:
    rpc = opened(gateway)
    rpc.try_fails(CONNECT_FAILED)
    return rpc


STATES = [
    started,
    with_message,
    opened,
    answered_with_headers,
    reply_held,
    reply_being_sent,
    status_held,
    second_try,
    streaming,
]
ENDINGS = {
    "client_leaves": Code.CANCELLED,
    "drain_ends": Code.UNAVAILABLE,
    "defect": Code.INTERNAL,
    "sweep": Code.DEADLINE_EXCEEDED,
}


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
@pytest.mark.parametrize("ending", ENDINGS)
def test_an_rpc_can_be_ended_in_every_state(state: object, ending: str) -> None:
    assert callable(state)
    rpc: Rpc = state(Gateway(pods=2, idle_timeout_ms=1_000))
    rpc.now_s = 10.0
    on_pod = bool(rpc.attempts) and rpc.attempt.status_due
    being_sent = rpc.call.sending
    asked = getattr(rpc, ending)()
    assert (CANCEL_POD in asked) is on_pod
    assert any(isinstance(step, Abort) for step in asked) is (being_sent and ending != "client_leaves")
    assert len([step for step in asked if isinstance(step, Finish | Abort)]) == (ending != "client_leaves")
    assert rpc.codes() == {ENDINGS[ending]: 1}
    assert_silent_afterwards(rpc)
    assert_over(rpc, ENDINGS[ending])


def assert_silent_afterwards(rpc: Rpc) -> None:
    """What an engine still has to report, and what it may try again, is taken without an answer."""
    asked = rpc.client_leaves() + rpc.sweep() + rpc.drain_ends() + rpc.defect()
    if rpc.call.reading:
        asked += rpc.client_half_closes()
    if rpc.call.sending:
        asked += rpc.client_takes(ok=False)
    if rpc.attempts and rpc.attempt.status_due:
        asked += rpc.pod_ends(Status(Code.CANCELLED, ""))
    if rpc.attempts and rpc.attempt.headers_due:
        asked += rpc.pod_never_answers()
    if rpc.attempts and rpc.attempt.reading:
        asked += rpc.pod_has_no_more()
    if rpc.attempts and rpc.attempt.sending:
        asked += rpc.pod_takes(ok=False)
    assert asked == []


@pytest.mark.parametrize("reply", [b"yo", None])
def test_a_reply_that_comes_after_the_client_left_is_dropped(reply: bytes | None) -> None:
    rpc = answered_with_headers(Gateway())
    rpc.client_leaves()
    assert (rpc.pod_has_no_more() if reply is None else rpc.pod_replies(reply)) == []
    assert rpc.pod_ends() == []
    assert_over(rpc, Code.CANCELLED)


def test_a_client_whose_deadline_passed_is_counted_as_such() -> None:
    rpc = Rpc(Gateway(), deadline_s=2.0)
    rpc.is_sent_unary()
    rpc.now_s = 2.0
    assert rpc.client_leaves() == [CANCEL_POD]
    rpc.try_fails(DEADLINE)
    assert_over(rpc, Code.DEADLINE_EXCEEDED)


def test_the_gateways_own_status_replaces_headers_that_were_not_sent() -> None:
    rpc = reply_held(Gateway())
    finish, cancel = rpc.drain_ends()
    assert isinstance(finish, Finish)
    assert (finish.headers, finish.message, cancel) == ((), None, CANCEL_POD)


def test_the_gateways_own_status_follows_headers_that_were_sent() -> None:
    rpc = streaming()
    finish, _ = rpc.drain_ends()
    assert isinstance(finish, Finish)
    assert finish.headers is None


def raise_a_defect(*_: object) -> None:
    raise ValueError("a defect")


def test_a_defect_while_a_pod_is_asked_leaves_the_pod_with_nothing() -> None:
    """Such as metadata that grpc core does not take."""
    rpc = Rpc(Gateway())
    rpc.starts()
    rpc.client_sends(b"hi")
    rpc.call.open = raise_a_defect  # type: ignore[assignment,method-assign]
    with pytest.raises(ValueError, match="a defect"):
        rpc.client_half_closes()
    assert reason_of(rpc.defect()) == "defect"
    assert_over(rpc, Code.INTERNAL)


def test_a_defect_in_routing_is_counted_once() -> None:
    rpc = Rpc(Gateway())
    rpc.gateway.route = raise_a_defect  # type: ignore[assignment,method-assign]
    with pytest.raises(ValueError, match="a defect"):
        rpc.starts()
    assert reason_of(rpc.defect()) == "defect"
    report = rpc.gateway.counters.unmatched.report()
    assert (report.in_flight, report.codes) == (0, {Code.INTERNAL: 1})


def test_a_status_that_cannot_be_sent_is_replaced() -> None:
    """Such as trailers of a pod's that grpc core does not take on the way out."""
    rpc = Rpc(Gateway())
    rpc.is_sent_unary()
    finish, rpc.call.finish = rpc.call.finish, raise_a_defect  # type: ignore[assignment,method-assign]
    with pytest.raises(ValueError, match="a defect"):
        rpc.is_answered_unary()
    rpc.call.finish = finish  # type: ignore[method-assign]
    assert reason_of([step for step in rpc.defect() if isinstance(step, Finish)]) == "defect"
    assert_over(rpc, Code.INTERNAL)


def test_an_rpc_that_cannot_be_ended_for_a_defect_does_not_stay_in_flight() -> None:
    """A second defect, in what sends the status of the first."""
    rpc = Rpc(Gateway())
    rpc.is_sent_unary()
    rpc.call.finish = raise_a_defect  # type: ignore[assignment,method-assign]
    with pytest.raises(ValueError, match="a defect"):
        rpc.is_answered_unary()
    with pytest.raises(ValueError, match="a defect"):
        rpc.defect()
    assert_over(rpc, Code.INTERNAL)


# --- a client that leaves before its RPC begins


def test_an_rpc_whose_client_has_left_before_it_begins_reaches_no_pod() -> None:
    """Else a client that opens and resets RPCs by the thousand would put pods to work, and the gateway for them."""
    rpc = Rpc(Gateway())
    assert rpc.starts(client_left=True) == []
    assert rpc.client_leaves(by_client=True) == []
    assert_over(rpc, Code.CANCELLED)
    assert rpc.gateway.targets[0].picked == []


# --- what is counted


def test_pods_count_what_they_were_sent_and_what_failed() -> None:
    gateway = Gateway(pods=2)
    rpc = Rpc(gateway)
    rpc.is_sent_unary()
    assert (gateway.pod(1).in_flight, gateway.pod(1).counts.total) == (1, 1)
    rpc.now_s = 0.25
    rpc.try_fails(CONNECT_FAILED)
    rpc.now_s = 1.0
    rpc.is_answered_unary(b"yo", NOT_FOUND)
    first, second = gateway.pod(1).report(), gateway.pod(2).report()
    assert (first.total, first.failures, first.latency_mean_ms, first.in_flight) == (1, 1, 250.0, 0)
    assert first.last_error == CONNECT_FAILED.details
    assert (second.total, second.failures, second.latency_mean_ms, second.in_flight) == (1, 0, 750.0, 0)


def test_the_balancer_is_told_each_outcome_once() -> None:
    rpc = Rpc(Gateway(pods=2))
    rpc.is_sent_unary()
    rpc.try_fails(CONNECT_FAILED)
    rpc.is_answered_unary(b"yo", NOT_FOUND)
    (target,) = rpc.gateway.targets
    outcomes = [(outcome.code, outcome.failed) for _, outcome in target.done_with]
    assert outcomes == [(Code.UNAVAILABLE, True), (Code.NOT_FOUND, False)]


def test_the_duration_is_the_whole_rpcs() -> None:
    rpc = Rpc(Gateway(), now_s=1.0)
    rpc.is_sent_unary()
    rpc.now_s = 1.75
    rpc.is_answered_unary()
    (report,) = rpc.gateway.counters.reports()
    assert report.latency_sum_s == 0.75


def test_an_rpc_is_in_flight_from_its_start_to_its_end() -> None:
    rpc = Rpc(Gateway())
    rpc.starts()
    counters = rpc.gateway.counters.of(LABEL, METHOD)
    assert counters.in_flight == 1
    rpc.client_leaves()
    assert counters.in_flight == 0


def test_a_regular_expression_leaves_the_path_alone() -> None:
    gateway = Gateway()
    gateway.apply(snapshot(route(destination(rewrite="/x/"), prefix="/greet.*", kind=MatchKind.REGEX)), 0.0)
    (opened,) = Rpc(gateway).is_sent_unary()[-1:]
    assert isinstance(opened, Open)
    assert opened.path == METHOD
