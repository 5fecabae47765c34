"""What an RPC knows of its client's connection: where it ends streams, and nothing of other RPCs, ages or floods."""

from __future__ import annotations

from grpcgw.engines.http2.connection import PeerConnection
from grpcgw.listeners.open_ports import PortView
from grpcgw.policy.client_certificates import ClientCertificate
from grpcgw.policy.request import Peer


class ClientSide(PeerConnection):
    """What an RPC uses of its client's connection."""

    peer: Peer
    view: PortView

    def certificate(self) -> ClientCertificate | None:
        """The client's, if it has shown one."""
        raise NotImplementedError

    def forget(self, stream_id: int) -> None:
        """The answer to the RPC on this stream is queued."""
        raise NotImplementedError

    def drop(self, stream_id: int) -> None:
        """The RPC on this stream is over, and the client does not read its answer: nothing more is kept for it."""
        raise NotImplementedError
