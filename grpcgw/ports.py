"""The data ports: settled once for all workers, and held while the gateway lives.

Workers share a port by SO_REUSEPORT. So would a second gateway, by mistake, if nobody looked first.
"""

from __future__ import annotations

import contextlib
import socket

from grpcgw.errors import UserError


class HeldPorts:
    """Ports that are bound and do not listen: no connection ever comes here, and nobody else gets them."""

    def __init__(self, address: str, *ports: int | None) -> None:
        """Port 0 takes a free one, None none. Raises UserError where one is taken or the address is not ours."""
        self._sockets: list[socket.socket] = []
        self.numbers = tuple(None if port is None else self._hold(address, port) for port in ports)

    def release(self) -> None:
        for held in self._sockets:
            held.close()

    def _hold(self, address: str, port: int) -> int:
        try:
            with contextlib.closing(_bind(address, port, share=False)) as alone:
                number: int = alone.getsockname()[1]
            self._sockets.append(_bind(address, number, share=True))
        except OSError as error:
            self.release()
            raise UserError(f"cannot listen on {address}:{port}: {error.strerror}; choose another port") from error
        return number


def _bind(address: str, port: int, share: bool) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Both options mind sockets that are bound; connections of a former gateway that linger are no obstacle.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if share else socket.SO_REUSEADDR, 1)
        bound.bind((address, port))
    except OSError:
        bound.close()
        raise
    return bound
