"""A client that leaves an RPC is reported as that, whenever it does: the engine sees why a stream ends."""

from __future__ import annotations

import pytest
from dataplane.lab import clear_port
from dataplane.raw_client import RawClient
from dataplane.waiting import eventually

from engines.http2.served import serving
from grpcgw.model.codes import Code
from grpcgw.session.serving import RpcLog
from grpcgw.telemetry.access_log import CancelledBy, RpcRecord


@pytest.mark.parametrize("method", ["Unary", "/grpc.health.v1.Health/Watch"])
def test_a_client_that_resets_its_rpc_at_once_is_logged_as_the_one_who_cancelled(method: str) -> None:
    records: list[RpcRecord] = []
    with (
        serving(clear_port(), rpc_log=RpcLog(records.append, 100.0)) as engine,
        RawClient(f"127.0.0.1:{engine.ports.numbers()[0]}") as client,
    ):
        client.cancel(client.request(method, messages=(), end=False))
        eventually(lambda: records)
    assert [(one.code, one.reason, one.cancelled_by) for one in records] == [(Code.CANCELLED, "", CancelledBy.CLIENT)]
