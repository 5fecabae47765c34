"""What a verdict may hold: metadata that gRPC can send, and a status that refuses."""

from __future__ import annotations

import pytest

from grpcgw.model.codes import Code
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import REASON_KEY, Reason
from grpcgw.policy.contract import CoroutineWork, FailMode, UnaryRpc, Wait
from grpcgw.policy.verdicts import DETAILS_KEY, Allow, Deny

UNSENDABLE: list[Metadata] = [
    (("X-Upper", "a"),),
    (("x y", "a"),),
    ((":path", "/a/b"),),
    (("grpc-timeout", "1S"),),
    (("content-type", "application/grpc"),),
    ((REASON_KEY, "mine"),),
    (("x-a", "line\nbreak"),),
    (("x-a", "ü"),),
    (("x-a", b"bytes"),),
    (("x-a-bin", "text"),),
    (("x-a", " spaces around "),),
    (("x-a", 3),),  # type: ignore[list-item]
    [("x-a", "a")],  # type: ignore[list-item]  # it could change later
    (("x-a", "a" * 40_000), ("x-b-bin", b"b" * 40_000)),
]


@pytest.mark.parametrize("metadata", UNSENDABLE)
def test_metadata_that_cannot_be_sent_is_refused_where_it_is_made(metadata: Metadata) -> None:
    with pytest.raises(ValueError):
        Allow(add=metadata)
    with pytest.raises(ValueError):
        Deny("busy", "", metadata=metadata)
    with pytest.raises(ValueError):
        UnaryRpc("/a.B/C", b"", _judge, metadata)


def _judge(_: object) -> Allow:
    return Allow()


def test_a_deny_is_a_whole_status() -> None:
    status = Deny("busy", "later", Code.RESOURCE_EXHAUSTED, b"details", (("retry-after", "3"),)).status()
    assert (status.code, status.details) == (Code.RESOURCE_EXHAUSTED, "later")
    assert status.trailers == ((REASON_KEY, "busy"), ("retry-after", "3"), (DETAILS_KEY, b"details"))


def test_a_deny_without_a_code_has_that_of_its_reason() -> None:
    assert Deny(Reason.CLEAR_TEXT, "use TLS").status().code == Code.PERMISSION_DENIED
    assert Deny(Reason.POLICY_DEFECT, "").status().code == Code.INTERNAL
    assert Deny(Reason.POLICY_NOT_BUILT, "").status().code == Code.UNAVAILABLE


@pytest.mark.parametrize(
    "odd", [{"message": b"text"}, {"message": None}, {"details": "text"}, {"details": b"x" * 70_000}, {"code": 5.5}]
)
def test_a_status_that_no_client_could_read_is_no_deny(odd: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Deny(**{"reason": "busy", "message": "", **odd})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no time to wait"):
        Deny("busy", "", retry_after_ms=1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [0, -1, 17])
def test_a_code_that_refuses_nothing_is_no_deny(code: int) -> None:
    with pytest.raises(ValueError, match="no code"):
        Deny("busy", "", code)


@pytest.mark.parametrize("reason", ["", "Too Busy", "user:4711", "a" * 65])
def test_a_reason_is_a_word(reason: str) -> None:
    with pytest.raises(ValueError, match="no reason"):
        Deny(reason, "")


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("inf"), float("nan")])
def test_a_time_out_that_bounds_nothing_is_no_wait(timeout_s: float) -> None:
    with pytest.raises(ValueError, match="time-out"):
        Wait(WORK, timeout_s, FailMode.CLOSED)


@pytest.mark.parametrize("code", [0, -1, 17])
def test_a_wait_fails_closed_with_a_code_that_refuses(code: int) -> None:
    with pytest.raises(ValueError, match="no code"):
        Wait(WORK, 1.0, FailMode.CLOSED, code)


async def _allow() -> Allow:
    return Allow()


WORK = CoroutineWork(_allow)


@pytest.mark.parametrize("path", ["", "/", "a/b", "/a.B", "/a.B/C\nD", "/a.B/\ud800"])
def test_a_path_that_is_no_method_is_refused_where_it_is_made(path: str) -> None:
    with pytest.raises(ValueError, match="no path"):
        UnaryRpc(path, b"", _judge)


def test_a_message_that_is_no_bytes_is_refused_where_it_is_made() -> None:
    with pytest.raises(ValueError, match="bytes"):
        UnaryRpc("/a.B/C", "text", _judge)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["X-Key", ":path", ""])
def test_a_key_that_no_request_has_cannot_be_removed(key: str) -> None:
    with pytest.raises(ValueError, match="no metadata key"):
        Allow(remove=(key,))


def test_facts_are_text() -> None:
    with pytest.raises(ValueError, match="fact"):
        Allow(facts=(("age", 3),))  # type: ignore[arg-type]


def test_a_message_that_utf8_cannot_encode_is_escaped() -> None:
    assert Deny("busy", "no \ud800 ä").status().details == "no \\ud800 ä"
