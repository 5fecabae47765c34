"""A defect in the gateway ends the one RPC it happens in, with INTERNAL; the others do not notice."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable

import grpc
import pytest

from dataplane.lab import Gateway, Lab
from dataplane.waiting import PATIENCE_S
from grpcgw.proxy.ports import PortView
from grpcgw.proxy.serving import Target
from grpcgw.proxy.status import REASON_KEY, Metadata, Refusal


class Defect(Exception):
    """What nobody thought of."""


def fail(*_: object, **__: object) -> None:
    raise Defect


class Broken:
    """A Target of which one thing does not work."""

    def __init__(self, target: Target, what: str) -> None:
        self._target, self._what = target, what

    def __getattr__(self, name: str) -> object:
        return fail if name == self._what else getattr(self._target, name)


def break_target(gateway: Gateway, what: str) -> Callable[[], None]:
    """Let `what` fail for new RPCs with the metadata `break`."""
    route = gateway.serving.route

    def broken(path: str, authority: str, metadata: Metadata, port: PortView) -> Target | Refusal:
        if not any(key == "break" for key, _ in metadata):
            return route(path, authority, metadata, port)
        if what == "route":
            fail()
        return Broken(route(path, authority, metadata, port), what)  # type: ignore[arg-type,return-value]

    gateway.serving.route = broken  # type: ignore[method-assign]


@pytest.mark.parametrize("what", ["route", "pick", "rewrite", "done"])
@pytest.mark.parametrize("method", ["Unary", "Join"])
def test_a_defect_ends_one_rpc_with_internal(
    lab: Lab, what: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "grpcgw")  # the tracebacks are expected
    gateway = lab.gateway(lab.pod("a"))
    call = lab.channel(gateway).stream_unary(f"/test.Pod/{method}")
    break_target(gateway, what)
    with pytest.raises(grpc.RpcError) as failed:
        call(iter([b"hello"]), metadata=(("break", "1"),), timeout=PATIENCE_S)
    assert failed.value.code() is grpc.StatusCode.INTERNAL
    assert dict(failed.value.trailing_metadata())[REASON_KEY] == "defect"
    assert call(iter([b"hello"]), timeout=PATIENCE_S)


def test_a_defect_of_housekeeping_ends_one_rpc(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """A stream is sent on by housekeeping: nothing else comes from its client that could."""
    caplog.set_level(logging.CRITICAL, "grpcgw")
    gateway = lab.gateway(lab.pod("a"))
    break_target(gateway, "pick")
    call = lab.channel(gateway).stream_stream("/test.Pod/Chat")
    requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    lab.defer(lambda: requests.put(None))
    requests.put(b"hello")
    stream = call(iter(requests.get, None), metadata=(("break", "1"),), timeout=PATIENCE_S)
    assert stream.code() is grpc.StatusCode.INTERNAL
    assert list(call(iter([b"hello"]), timeout=PATIENCE_S)) == [b"hello"]
