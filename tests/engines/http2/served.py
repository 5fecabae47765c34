"""An http2 engine that serves in this process, for tests of what only its own state shows."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from dataplane.lab import mapping, snapshot
from dataplane.scripted_pod import ScriptedPod

from grpcgw.engines.contract import ServerOptions
from grpcgw.engines.http2.engine import Http2Engine
from grpcgw.model.endpoints import EndpointSet
from grpcgw.model.listener import Listener
from grpcgw.session.serving import RpcLog


@contextlib.contextmanager
def serving(*ports: Listener, rpc_log: RpcLog | None = None) -> Iterator[Http2Engine]:
    """The Mapping of `lab` over one pod that never answers. Stopped at the end."""
    pod = ScriptedPod()
    engine = Http2Engine(ServerOptions("127.0.0.1", 1000, 65_536))
    engine.serving.rpc_log = rpc_log
    try:
        engine.serving.apply(snapshot(mapping()), time.monotonic())
        engine.serving.set_endpoints("pods", EndpointSet((pod.endpoint,)), time.monotonic())
        engine.start(settle_s=1.0)
        assert not engine.ports.update(ports)
        yield engine
    finally:
        engine.stop()
        pod.stop()
