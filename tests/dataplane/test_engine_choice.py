"""Which engine serves where the installed grpcio is not the one the default engine was written for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from grpcgw.engines.completion_queue.core import check_fit

# A process of its own is the grpcio of another day: it lacks one thing that the default engine uses.
SERVE_WITHOUT = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
import grpc._cython.cygrpc as core
if sys.argv[1]:
    delattr(core, sys.argv[1])
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


def test_installed_grpcio_fits_the_default_engine() -> None:
    check_fit()
    assert serve_without("") == "completion-queue 1\n"


@pytest.mark.parametrize("lacking", ["ReceiveCloseOnServerOperation", "RequestCallEvent"])
def test_generic_handler_takes_over_where_grpcio_does_not_fit_and_says_why(lacking: str) -> None:
    log, _, served = serve_without(lacking).strip().rpartition("\n")
    assert served == "generic-handler 1"
    assert log.startswith("WARNING ")
    assert lacking in log
