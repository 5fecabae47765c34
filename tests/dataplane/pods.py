"""Pods that are real grpc servers with handlers over raw bytes, as any service behind the gateway might be."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc

from grpcgw.model.endpoints import Endpoint

SERVICE = "test.Pod"
Context = grpc.ServicerContext
Behaviour = Callable[[Iterator[bytes], Context], Iterator[bytes]]

ARGUMENTS = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 1 << 20),
    ("grpc.absolute_max_metadata_size", 1 << 20),
]


@dataclass(frozen=True)
class SeenCall:
    """An RPC as it came to the pod. `time_left_s` is None where it came without a deadline."""

    method: str
    metadata: tuple[tuple[str, str | bytes], ...]
    time_left_s: float | None

    def values(self, key: str) -> list[str | bytes]:
        return [value for name, value in self.metadata if name == key]


class Pod(grpc.GenericRpcHandler):
    """Methods of every kind, and those a test adds. Unary answers `<name>:<request>`.

    `methods`: name → behaviour that gets an iterator over the requests and yields the replies.
    """

    def __init__(
        self,
        name: str = "pod",
        methods: Mapping[str, Behaviour] | None = None,
        port: int = 0,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self.name = name
        self.calls: list[SeenCall] = []
        self._methods: dict[str, Any] = {
            "Unary": grpc.unary_unary_rpc_method_handler(lambda request, _: f"{name}:".encode() + request),
            "Join": grpc.stream_unary_rpc_method_handler(lambda requests, _: b",".join(requests)),
            "Split": grpc.unary_stream_rpc_method_handler(
                lambda request, _: iter(request.split(b",") if request else ())
            ),
            "Chat": grpc.stream_stream_rpc_method_handler(lambda requests, _: requests),
        }
        for method, behaviour in (methods or {}).items():
            self._methods[method] = grpc.stream_stream_rpc_method_handler(behaviour)
        self._workers = ThreadPoolExecutor(32, thread_name_prefix=f"pod {name}")
        self._server = grpc.server(self._workers, handlers=(self,), options=ARGUMENTS)
        address = f"127.0.0.1:{port}"
        if credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, credentials)
        self._server.start()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        handler = self._methods.get(details.method.removeprefix(f"/{SERVICE}/"))
        return handler and _recording(handler, self.calls, details)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.port, self.name)

    def stop(self, grace_s: float | None = None) -> None:
        """End what runs and close the port."""
        self._server.stop(grace_s).wait()
        self._workers.shutdown()


def _recording(handler: Any, calls: list[SeenCall], details: grpc.HandlerCallDetails) -> Any:
    """`handler`, with what came written down before it runs."""
    name, make = next(
        (name, getattr(grpc, f"{name}_rpc_method_handler"))
        for name in ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
        if getattr(handler, name) is not None
    )
    behaviour = getattr(handler, name)

    def record(request: Any, context: Context) -> Any:
        calls.append(SeenCall(details.method, tuple(details.invocation_metadata), context.time_remaining()))
        return behaviour(request, context)

    return make(record)


class Gate:
    """Holds a behaviour back until the test opens it; says when the pod got there, and when it was cancelled."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.cancelled = threading.Event()
        self._open = threading.Event()

    def open(self) -> None:
        self._open.set()

    def hold(self, context: Context) -> None:
        """Wait for `open` or the end of the RPC."""
        if not context.add_callback(self._ended):
            self._ended()
        self.reached.set()
        self._open.wait()

    def _ended(self) -> None:
        if not self._open.is_set():
            self.cancelled.set()
        self._open.set()
