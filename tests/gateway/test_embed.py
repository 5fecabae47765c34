"""grpcgw inside another program's server: the example of docs/embedding.md, as it stands there."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import SO_REUSEPORT, SOL_SOCKET, socket

import grpc
import pytest
from dataplane.raw_client import RawClient
from dataplane.waiting import PATIENCE_S, eventually
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.harness import HOST, greet, status_of
from gateway.objects import Directory, mapping

PAGE = Path(__file__).parents[2] / "docs" / "embedding.md"


_HEEDS_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
"""As in a terminal: what a shell runs in the background, these tests perhaps, ignores SIGINT."""


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
    return _HEEDS_CTRL_C + str(code)


@contextmanager
def held_port() -> Iterator[int]:
    """A port that nobody else gets until the program listens on it, nor while its server is started again."""
    with socket() as holder:
        holder.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1)
        holder.bind((HOST, 0))
        yield holder.getsockname()[1]


def test_the_example_serves_its_own_service_and_the_mappings(directory: Directory) -> None:
    with held_port() as port:
        program = subprocess.Popen([sys.executable, "-c", example(directory, port)], stderr=subprocess.PIPE, text=True)
        check_that_it_serves(program, directory, port)


def check_that_it_serves(program: subprocess.Popen[str], directory: Directory, port: int) -> None:
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
        assert "is started again" in said
    finally:
        program.kill()
        program.communicate()


STATE = """
import asyncio, gc, json, logging, os, resource, signal, sys, threading, warnings, weakref
from pathlib import Path
import uvicorn.config  # names a level of logging

logging.getLogger("uvicorn.access").addHandler(logging.NullHandler())

class Node: pass

def handlers():
    return {str(number): str(signal.getsignal(number)) for number in signal.valid_signals()}

def loggers():
    found = [logging.getLogger(), *(logging.getLogger(name) for name in sorted(logging.root.manager.loggerDict))]
    known = [one for one in found if not one.name.startswith(("grpcgw", "asyncio"))]
    return {one.name: [one.level, one.propagate, one.disabled, len(one.handlers)] for one in known}

def state():
    return {
        "environment": dict(os.environ), "frozen": gc.get_freeze_count(), "collects": gc.isenabled(),
        "thresholds": gc.get_threshold(), "signals": handlers(),
        "hooks": [str(sys.excepthook), str(threading.excepthook)],
        "switch": sys.getswitchinterval(), "policy": type(asyncio.get_event_loop_policy()).__name__,
        "files": resource.getrlimit(resource.RLIMIT_NOFILE), "umask": os.umask(0o22), "path": sys.path[:],
        "affinity": sorted(os.sched_getaffinity(0)), "scheduler": os.sched_getscheduler(0),
    }

os.umask(0o22)
before, loggers_before = state(), loggers()

from grpcgw.embed import Gateway
from grpcgw.settings import Settings

async def main():
    node = Node()
    node.itself, seen = node, weakref.ref(node)
    async with Gateway(Settings(config_dir=Path(sys.argv[1]), admin_port=0)):
        del node
        gc.collect()
        during, loggers_during = state(), loggers()
        collected = seen() is None
    return collected, during, {name: loggers_during[name] for name in loggers_before}

# Not asyncio.run, which takes SIGINT for itself.
collected, during, loggers_during = asyncio.new_event_loop().run_until_complete(main())
print(json.dumps({
    "collected": collected,
    "changed": [key for key in before if before[key] != during[key]],
    "changed after": [key for key, value in state().items() if before[key] != value],
    "loggers": [name for name in loggers_before if loggers_before[name] != loggers_during[name]],
}))
"""


def test_embedding_changes_nothing_in_the_process(directory: Directory) -> None:
    """Neither environment nor garbage collector, signals, loggers, event loop policy, …; its garbage is collected."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRPC")}
    command = [sys.executable, "-c", STATE, str(directory.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=environment, check=True)
    assert json.loads(done.stdout) == {"collected": True, "changed": [], "changed after": [], "loggers": []}


CANCELLED = """
import asyncio, sys
from pathlib import Path
from grpcgw.embed import Gateway
from grpcgw.settings import Settings

async def main():
    try:
        async with asyncio.timeout(float(sys.argv[2])), Gateway(Settings(config_dir=Path(sys.argv[1]), admin_port=0)):
            raise SystemExit("it was entered")
    except TimeoutError:
        await asyncio.sleep(0)  # what was cancelled ends
        print(len(asyncio.all_tasks()))

asyncio.run(main())
"""


@pytest.mark.parametrize("patience_s", [0, 0.01])
def test_a_start_that_is_cancelled_leaves_no_task(directory: Directory, patience_s: float) -> None:
    command = [sys.executable, "-c", CANCELLED, str(directory.path), str(patience_s)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert done.stdout == "1\n"


CRASHED = """
import asyncio, grpc
from grpcgw.embed import EmbeddedCarrier
from grpcgw.engines.generic_handler.loop_proxy import LoopProxy
from grpcgw.model.snapshot import Snapshot

def fail():
    raise ZeroDivisionError

async def main():
    proxy = LoopProxy(max_metadata_bytes=8192)
    carrier = EmbeddedCarrier(proxy)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((proxy.handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await carrier.apply(Snapshot("1"))
    for _ in range(2):
        try:
            await carrier.run(fail, print)
        except ZeroDivisionError:
            print("crashed")
    changed = asyncio.Event()
    running = asyncio.create_task(carrier.run(changed.set, print))
    await changed.wait()
    report = carrier.report()
    print("started", report.started, "ready", report.ready)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            await channel.unary_unary("/a.S/M")(b"")
        except grpc.aio.AioRpcError as refused:
            print(refused.code().name)
    running.cancel()
    await asyncio.wait((running,))
    await server.stop(None)
    await proxy.stop()
    print(len(asyncio.all_tasks()))

asyncio.run(main())
"""


def test_a_carrier_whose_run_raised_does_not_drain_and_runs_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CRASHED], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    expected = ["crashed", "crashed", "started True ready True", "UNIMPLEMENTED", "1"]
    assert done.stdout.splitlines() == expected, done.stderr
