"""Cheap pods: one process serves several, each on a port of its own, on grpcio's completion queues.

    python -m bench.backend NAME [NAME...]

The first line of its output has the port of each, as the system chose them.

A pod answers every Greet at once with one prepared reply, as if the input were always `test`, and echoes its name to
every message of GreetEach. It parses nothing: what is measured stands before it. It is a service of external
authorization and a rate limit service as well, which allow all RPCs but those with the metadata key `x-deny`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener,-event_engine_client")

from grpc._cython import cygrpc

import examples.greet  # noqa: F401  # puts the generated code on the import path
from greet import greet_pb2
from grpcgw.policy.ext_authz.ext_authz_pb2 import CheckResponse
from grpcgw.policy.limits.rate_limit_service_pb2 import OK, OVER_LIMIT, DescriptorStatus, Limit, RateLimitResponse, Unit

HOST = "127.0.0.1"
METHOD = "/greet.GrpcService/Greet"
STREAM_METHOD = "/greet.GrpcService/GreetEach"
CHECK_METHOD = "/envoy.service.auth.v3.Authorization/Check"
COUNT_METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
DENY = "x-deny"
NO_FLAGS = 0
WAITING_REQUESTS = 64
OPTIONS = ((b"grpc.so_reuseport", 0), (b"grpc.max_concurrent_streams", 100_000))

Event = Any


def make_request() -> bytes:
    return greet_pb2.GreetRequest(input="test").SerializeToString()


def make_reply(name: str) -> bytes:
    return greet_pb2.GreetReply(message=f"Got input test server host: {name}").SerializeToString()


def make_ruling(denied: bool) -> bytes:
    answer = CheckResponse()
    answer.status.code = 7 if denied else 0
    if denied:
        answer.denied_response.status.code = 403
    else:
        option = answer.ok_response.headers.add()
        option.header.key, option.header.value = "x-user", "ann"
    return answer.SerializeToString()


def make_count(refused: bool) -> bytes:
    code = OVER_LIMIT if refused else OK
    status = DescriptorStatus(
        code=code, current_limit=Limit(requests_per_unit=1000, unit=Unit.SECOND), limit_remaining=0 if refused else 999
    )
    return RateLimitResponse(overall_code=code, statuses=[status]).SerializeToString()


class Pod:
    def __init__(self, name: str, queue: Any) -> None:
        """Start serving. Raises RuntimeError if no port can be bound."""
        self._queue = queue
        self._reply = make_reply(name)
        self._verdicts = {
            CHECK_METHOD.encode(): (make_ruling(False), make_ruling(True)),
            COUNT_METHOD.encode(): (make_count(False), make_count(True)),
        }
        """By method: allowed, refused."""
        self._server = cygrpc.Server(OPTIONS, False)
        self._server.register_completion_queue(queue)
        self.port: int = self._server.add_http2_port(f"{HOST}:0".encode())
        if not self.port:
            raise RuntimeError(f"cannot listen on {HOST}")
        self._server.start()
        for _ in range(WAITING_REQUESTS):
            self._server.request_call(queue, queue, self._on_request)

    def _on_request(self, event: Event) -> None:
        self._server.request_call(self._queue, self._queue, self._on_request)
        if event.call_details.method == METHOD.encode():
            # Reply only after the whole request, as any server does: a proxy may still be sending it.
            call = event.call
            call.start_server_batch((_read(),), lambda _: call.start_server_batch(_answer(self._reply), _ignore))
        elif event.call_details.method in self._verdicts:
            call, verdicts = event.call, self._verdicts[event.call_details.method]
            call.start_server_batch((_read(),), lambda read: call.start_server_batch(_decide(read, *verdicts), _ignore))
        else:
            _Stream(event.call, self._reply)


class _Stream:
    """One RPC that answers each message; kept alive by the events it waits for."""

    def __init__(self, call: Any, reply: bytes) -> None:
        self._call, self._reply = call, reply
        call.start_server_batch((_headers(),), self._read_next)

    def _read_next(self, _: Event) -> None:
        self._call.start_server_batch((_read(),), self._on_message)

    def _on_message(self, event: Event) -> None:
        if event.batch_operations[0].message() is None:
            self._call.start_server_batch((_ok(),), _ignore)
        else:
            self._call.start_server_batch((_message(self._reply),), self._read_next)


# An operation carries the state of its batch: each batch needs its own.


def _decide(read: Event, allowed: bytes, refused: bytes) -> tuple[Any, ...]:
    asked = read.batch_operations[0].message() or b""
    return _answer(refused if DENY.encode() in asked else allowed)


def _answer(reply: bytes) -> tuple[Any, ...]:
    return _headers(), _message(reply), _ok()


def _read() -> Any:
    return cygrpc.ReceiveMessageOperation(NO_FLAGS)


def _headers() -> Any:
    return cygrpc.SendInitialMetadataOperation((), NO_FLAGS)


def _message(body: bytes) -> Any:
    return cygrpc.SendMessageOperation(body, NO_FLAGS)


def _ok() -> Any:
    return cygrpc.SendStatusFromServerOperation((), 0, b"", NO_FLAGS)


def _ignore(_: Event) -> None:
    """The RPC is over."""


def main(names: list[str]) -> None:
    queue = cygrpc.CompletionQueue()
    serving = [Pod(name, queue) for name in names]
    print(*(pod.port for pod in serving), flush=True)
    poll: Callable[[], Event] = queue.poll
    while True:
        event = poll()
        if event.tag is not None:
            event.tag(event)


if __name__ == "__main__":
    main(sys.argv[1:])
