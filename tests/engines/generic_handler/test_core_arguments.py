"""What the generic-handler engine asks of grpc core for a port."""

from __future__ import annotations

from grpcgw.engines.contract import ServerOptions
from grpcgw.engines.generic_handler.core_arguments import server_arguments
from grpcgw.model.listener import Listener, SecurityModel, Transport


def test_a_quiet_client_is_asked_whether_it_is_there_and_has_time_to_answer() -> None:
    """Core misses one in hundreds of those that leave within milliseconds; when is chance, so no test waits for one."""
    listener = Listener("clear", 0, Transport.CLEAR, SecurityModel.XFP)
    arguments = dict(server_arguments(ServerOptions("127.0.0.1", 1000, 65_536), listener))
    assert arguments["grpc.keepalive_time_ms"] == 20_000
    assert arguments["grpc.keepalive_timeout_ms"] == arguments["grpc.http2.ping_timeout_ms"] == 60_000
