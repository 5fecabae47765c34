"""A pod of the greet service: answers every call with its own host name.

Run it with `python -m examples.greet.server --port 50051`. It serves reflection and health, and on SIGTERM says
NOT_SERVING, takes no new calls and lets the running ones finish.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from greet import greet_pb2, greet_pb2_grpc

SERVICE = greet_pb2.DESCRIPTOR.services_by_name["GrpcService"].full_name
GRACE_S = 10.0
"""How long running calls may continue after SIGTERM."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Greeter(greet_pb2_grpc.GrpcServiceServicer):
    """The service: each reply names its host."""

    def __init__(self, host_name: str) -> None:
        self._host_name = host_name

    def Greet(  # noqa: N802 - the name is the method's on the wire
        self, request: greet_pb2.GreetRequest, context: grpc.ServicerContext
    ) -> greet_pb2.GreetReply:
        return self._reply(request.input)

    def GreetAll(  # noqa: N802
        self, requests: Iterable[greet_pb2.GreetRequest], context: grpc.ServicerContext
    ) -> greet_pb2.GreetReply:
        return self._reply(", ".join(request.input for request in requests))

    def GreetRepeatedly(  # noqa: N802
        self, request: greet_pb2.GreetRepeatedlyRequest, context: grpc.ServicerContext
    ) -> Iterator[greet_pb2.GreetReply]:
        for _ in range(request.repetitions):
            yield self._reply(request.input)

    def GreetEach(  # noqa: N802
        self, requests: Iterable[greet_pb2.GreetRequest], context: grpc.ServicerContext
    ) -> Iterator[greet_pb2.GreetReply]:
        for request in requests:
            yield self._reply(request.input)

    def _reply(self, text: str) -> greet_pb2.GreetReply:
        return greet_pb2.GreetReply(message=f"Got input {text} server host: {self._host_name}")


class Pod:
    """A running server; `port` is the one it listens on."""

    def __init__(self, host_name: str, address: str = "127.0.0.1", port: int = 0) -> None:
        """Start serving; port 0 takes a free port. Raises RuntimeError if the address cannot be bound."""
        # Without so_reuseport=0 a second server on the same port would silently share it with the first.
        self._threads = ThreadPoolExecutor(max_workers=32)
        self._server = grpc.server(self._threads, options=[("grpc.so_reuseport", 0)])
        self._health = health.HealthServicer()
        greet_pb2_grpc.add_GrpcServiceServicer_to_server(Greeter(host_name), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        services = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(services, self._server)
        self._health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        self.port: int = self._server.add_insecure_port(f"{address}:{port}")
        self._server.start()

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Refuse new calls, and wait for running ones at most `grace_s` seconds."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace_s).wait()
        self._threads.shutdown(wait=False)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.greet.server", description="A pod of the greet service.")
    parser.add_argument("--port", type=int, default=50051, help="port to listen on, 0 for a free one (%(default)s)")
    parser.add_argument("--address", default="0.0.0.0", help="address to listen on (%(default)s)")
    parser.add_argument(
        "--host-name",
        default=os.environ.get("HOSTNAME") or socket.gethostname(),
        help="name put into replies; in a pod HOSTNAME is the pod's name (%(default)s)",
    )
    options = parser.parse_args(arguments)

    # Blocked before other threads start, then received by sigwait: a signal handler that sets an Event can deadlock
    # with the thread that waits for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        pod = Pod(options.host_name, options.address, options.port)
    except RuntimeError:
        print(f"cannot listen on {options.address}:{options.port}: is the port taken?", file=sys.stderr)
        return 1
    print(f"{options.host_name} serves {SERVICE} on {options.address}:{pod.port}", flush=True)
    signal.sigwait(STOP_SIGNALS)
    pod.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
