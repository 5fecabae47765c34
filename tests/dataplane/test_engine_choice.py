"""Which engine serves where the libraries of the default engine cannot be loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

# A process of its own is a machine for which there is no such library.
SERVE_WITHOUT = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
if sys.argv[1]:
    sys.modules[sys.argv[1]] = None
from grpcgw.settings import Settings
from grpcgw.workers.messages import WorkerPlan
from grpcgw.workers.worker import make_engine
from grpcgw.model.listener import Listener, SecurityModel, Transport
plan = WorkerPlan(Settings(address="127.0.0.1", drain_time_s=1.0))
engine = make_engine(plan, 0)
engine.start(0.1)
engine.ports.update([Listener("test", 0, Transport.CLEAR, SecurityModel.XFP)])
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
with grpc.insecure_channel(f"127.0.0.1:{engine.ports.numbers()[0]}") as channel:
    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
print(engine.name, answer.status)
engine.stop()
"""


def serve_without(lacking: str) -> str:
    command = [sys.executable, "-c", SERVE_WITHOUT, lacking]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    return done.stdout


def test_http2_is_the_default_engine() -> None:
    assert serve_without("") == "http2 1\n"


@pytest.mark.parametrize("lacking", ["ngh2", "uvloop"])
def test_generic_handler_takes_over_where_a_library_is_missing_and_says_why(lacking: str) -> None:
    log, _, served = serve_without(lacking).strip().rpartition("\n")
    assert served == "generic-handler 1"
    assert log.startswith("WARNING ")
    assert lacking in log
