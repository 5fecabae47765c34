"""Gateways on the http2 engine alone, for what no other engine does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dataplane.lab import ENGINES, Gateway, Lab
from dataplane.waiting import eventually

from grpcgw.engines.http2.engine import Http2Engine


class Http2Lab(Lab):
    def _check_idle(self, gateway: Gateway) -> None:
        assert isinstance(gateway.engine, Http2Engine)
        active = gateway.engine.active
        eventually(lambda: not gateway.in_flight(), "every RPC recorded as ended")
        eventually(lambda: not gateway.pod_in_flight(), "no RPC in flight to a pod")
        eventually(lambda: not active, "the engine has let go of every RPC")


@pytest.fixture
def http2() -> Iterator[Lab]:
    ENGINES.setdefault("http2", Http2Engine)  # type: ignore[arg-type]  # once it is among them: a Lab("http2") alone
    lab = Http2Lab("http2")
    yield lab
    lab.close()
