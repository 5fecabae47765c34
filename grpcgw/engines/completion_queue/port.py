"""A port of the completion-queue engine: a server of grpc core's on the engine's queue, with connections of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

from grpcgw.engines.completion_queue.core import cygrpc
from grpcgw.engines.contract import ServerOptions, max_message_bytes, server_arguments
from grpcgw.engines.server_credentials import FreshCertificates, make_server_credentials
from grpcgw.errors import UserError
from grpcgw.listeners.open_ports import PortViews
from grpcgw.model.listener import Listener, ServerCertificate, Transport

WAITING_REQUESTS = 128
"""RPCs grpc core may hand over before the server thread asks for more."""


class QueuePort:
    fault = ""

    def __init__(
        self,
        queue: Any,
        options: ServerOptions,
        listener: Listener,
        views: PortViews,
        take: Callable[[QueuePort, Any], None],
        note_closing: Callable[[QueuePort], None],
    ) -> None:
        """`take` is given each RPC's event, in the queue's thread.

        Raises UserError if the port cannot be opened.
        """
        self.views = views
        self.view = views.view_of(tls=listener.transport.takes_tls)
        views.limit_messages(max_message_bytes(options, listener))
        self.closed = threading.Event()
        """The last of its RPCs is over."""
        self._queue, self._take, self._note_closing = queue, take, note_closing
        self._in_core = threading.Lock()
        """Held while another thread than the queue's is inside the server: core reports that a server is shut down
        before the call that asked for it has returned, and a server destroyed then is used after it was freed."""
        self._fresh = FreshCertificates(listener.certificates)
        arguments = tuple((key.encode(), value) for key, value in server_arguments(options, listener))
        self._server = cygrpc.Server(arguments, False)
        self._server.register_completion_queue(queue)
        self.number = self._open(options.target(listener.port), listener.transport is Transport.TLS)
        self._server.start()
        for _ in range(WAITING_REQUESTS):
            self._request()

    def _open(self, target: str, tls: bool) -> int:
        try:
            credentials = (make_server_credentials(self._fresh)._credentials,) if tls else ()
            number = int(self._server.add_http2_port(target.encode(), *credentials))
            if not number:
                raise UserError(f"cannot listen on {target}: the address is in use or not this machine's")
        except UserError:
            self._server.destroy()  # it never started, so nothing has to be closed
            raise
        return number

    def set_certificates(self, certificates: tuple[ServerCertificate, ...]) -> None:
        self._fresh.set(certificates)

    def close(self) -> None:
        self.views.set_closing(True)
        self._note_closing(self)
        with self._in_core:
            self._server.shutdown(self._queue, self._on_closed)

    def cut_off(self) -> None:
        """End at once what runs still."""
        with self._in_core:
            if not self.closed.is_set():
                self._server.cancel_all_calls()

    def _request(self) -> None:
        with contextlib.suppress(ValueError):  # cygrpc raises it for a server that shuts down
            self._server.request_call(self._queue, self._queue, self._on_request)

    def _on_request(self, event: Any) -> None:
        if not event.success:  # the server is shutting down
            return
        if not self.view.closing:
            self._request()
        self._take(self, event)

    def _on_closed(self, _: Any) -> None:
        with self._in_core:
            self._server.destroy()
            self.closed.set()
