"""Which requests are let in at all: a path that is `/service/method` and nothing else, and a name that can be one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.engines.exchange import begin_exchange
from grpcgw.model.status import Reason
from grpcgw.policy.request import Peer, Request
from grpcgw.session.admission import MAX_PATH_CHARACTERS, find_fault, is_canonical
from tests.session.gateway import Gateway
from tests.session.playbook import FakeCall, Rpc

UNSAFE = '/?#%;\\"<>^`{|} \t\n\r\0\x7f\xe9\ufffd\u2028'
PART = st.from_regex(r"[A-Za-z0-9_.\-~:@!$&'()*+,=]{1,20}", fullmatch=True).filter(lambda part: part not in (".", ".."))


@given(service=PART, method=PART)
def test_a_service_and_a_method_are_a_path(service: str, method: str) -> None:
    assert is_canonical(f"/{service}/{method}")


@given(service=PART, method=PART, at=st.integers(0, 50), what=st.sampled_from(UNSAFE))
def test_nothing_that_others_may_read_as_another_path_is_one(service: str, method: str, at: int, what: str) -> None:
    path = f"/{service}/{method}"
    at = min(at, len(path))
    assert not is_canonical(path[:at] + what + path[at:])


@given(st.text(max_size=30))
def test_any_text_is_judged_and_what_is_let_in_is_visible_ascii_of_two_parts(path: str) -> None:
    if is_canonical(path):
        empty, service, method = path.split("/")
        assert empty == ""
        assert service
        assert method
        assert path.isascii()
        assert path.isprintable()


@pytest.mark.parametrize(
    "path",
    [
        "", "*", "/", "//", "/a.B", "/a.B/", "//C", "a.B/C", "//a.B/C", "/a.B//C", "/a.B/C/", "/a.B/C/D", "/a.B/C?x=1",
        "/a.B/C?", "/a.B/../x.Y/C", "/../C", "/a.B/..", "/./C", "/a.B/.", "/a.B/%43", "/a.B/C#f", "/a.B/C;v=1",
        "/a.B\\C", "/a.B/C\n", "\n/a.B/C", "http://x/a.B/C", "/a.B/" + "C" * MAX_PATH_CHARACTERS,
    ],
)  # fmt: skip
def test_is_no_path(path: str) -> None:
    assert not is_canonical(path)


@pytest.mark.parametrize(
    "name", ["", "gw", "gw.example.com:443", "[::1]:50051", "10.0.0.1:80", "%2Ftmp%2Fsocket", "a_b"]
)
def test_is_a_name(name: str) -> None:
    assert find_fault("/a.B/C", name) is None


@pytest.mark.parametrize(
    "name",
    ["a b", " gw", "gw\n", "gw\0", "\xe9", "\ufffd", "user@gw", "gw/x", "gw?x", "gw#x", "a" * 1000, "a,b", "a\\b"],
)
def test_is_no_name(name: str) -> None:
    refusal = find_fault("/a.B/C", name)
    assert refusal is not None
    assert refusal.reason is Reason.BAD_AUTHORITY


@pytest.mark.parametrize(
    "path", ["/grpc.health.v1.Health/Check?", "/grpc.health.v1.Health/../x.Y/Z", "/" + "a" * 60_000, "/x.Y/Z\n\x1b[31m"]
)
def test_what_is_refused_is_not_looked_at_and_not_kept(path: str) -> None:
    gateway = Gateway()
    request = Request(path, "gw", (), None, Peer("10.0.0.1"))
    begin_exchange(gateway, FakeCall(Rpc(gateway)), request, 0.0)
    assert request.refusal is not None
    assert request.refusal.reason is Reason.BAD_PATH
    assert len(request.path) < 300
    assert request.path.isascii()
    assert request.path.isprintable()
