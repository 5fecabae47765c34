"""grpcgw inside another program's server: the example of docs/embedding.md, as it stands there."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from socket import create_server

import grpc
from dataplane.raw_client import RawClient
from dataplane.waiting import PATIENCE_S, eventually
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.harness import HOST, greet, status_of
from gateway.objects import Directory, mapping

PAGE = Path(__file__).parents[2] / "docs" / "embedding.md"


def example(directory: Directory, port: int) -> str:
    """The program on the page, with the test's directory, a free port, and a servicer of its own."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    own = (
        "from grpc_health.v1 import health, health_pb2_grpc; "
        "health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)"
    )
    for there, here in (
        ('Path("examples/greet")', f"Path({str(directory.path)!r}), admin_port=0"),
        ("localhost:8080", f"{HOST}:{port}"),
        ("# add_YourServicer_to_server(YourServicer(), server)", own),
    ):
        assert there in code
        code = code.replace(there, here)
    return str(code)


def test_the_example_serves_its_own_service_and_the_mappings(directory: Directory) -> None:
    with closing(create_server((HOST, 0))) as free:
        port = free.getsockname()[1]
    program = subprocess.Popen([sys.executable, "-c", example(directory, port)], stderr=subprocess.PIPE, text=True)
    try:
        with grpc.insecure_channel(f"{HOST}:{port}", [("grpc.initial_reconnect_backoff_ms", 50)]) as channel:
            hosts = [greet(channel, wait=True) for _ in range(4)]
            assert hosts in (["pod-1", "pod-2"] * 2, ["pod-2", "pod-1"] * 2)
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
            assert health.status == health_pb2.HealthCheckResponse.SERVING
            assert status_of(channel, "/un.Known/Method")[0] is grpc.StatusCode.UNIMPLEMENTED
            directory.put(mapping("more", "/more.S/", rewrite="/greet.GrpcService/"))
            eventually(lambda: status_of(channel, "/more.S/Greet")[0] is grpc.StatusCode.OK, "a change is served")
            with RawClient(f"{HOST}:{port}") as bad:
                bad.call_bytes(b"/greet.GrpcService/\xe9")
            eventually(lambda: status_of(channel, "/more.S/Greet")[0] is grpc.StatusCode.OK, "it serves on")
        program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=PATIENCE_S)
        assert "KeyboardInterrupt" in said
        assert "made anew" in said
    finally:
        program.kill()
        program.communicate()
