"""A client's request as policies and sessions see it: what its HEADERS said, and who sent them. Pure."""

from __future__ import annotations

import ipaddress
import random
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import unquote

from grpcgw.listeners.open_ports import SOME_PORT, PortView
from grpcgw.model.metadata import Metadata
from grpcgw.policy.client_certificates import ClientCertificate
from grpcgw.policy.verdicts import Deny

FORWARDED_FOR = "x-forwarded-for"
FORWARDED_PROTO = "x-forwarded-proto"
REQUEST_ID = "x-request-id"


class Peer:
    """The client of an RPC: the other end of the connection, or the client that trusted proxies name."""

    __slots__ = ("address", "certificate", "connected", "dialled", "hop", "keeps_id", "keeps_proto", "port")

    def __init__(self, address: str, port: int = 0) -> None:
        """`address`: IP address without port, or empty where the transport has none (a Unix socket)."""
        self.address, self.port = address, port
        self.connected = address
        """Address of the other end of the connection: a load balancer's, where a PROXY header names the client."""
        self.dialled = ("", 0)
        """Address and port of the gateway that the connection came to; empty: the engine does not know."""
        self.hop = address
        """Appended to `x-forwarded-for`; empty: nothing is."""
        self.keeps_id = _is_internal(address)
        """Whether the `x-request-id` that it sends is kept: an internal client's is."""
        self.keeps_proto = False
        """Whether the `x-forwarded-proto` and the keys of `OWN_PREFIXES` that it sends are kept: a trusted proxy knows
        how the client connected."""
        self.certificate = ""
        """Value of `x-forwarded-client-cert` towards the pod; empty: the header is not sent."""

    @property
    def key(self) -> tuple[str, int]:
        """Identifies the client where something is counted per client."""
        return self.address, self.port


@dataclass(slots=True)
class Request:
    """What a client's HEADERS said. `deadline_s` is on the clock of the `now_s` arguments; None: no deadline."""

    path: str
    authority: str
    metadata: Metadata = field(repr=False)
    """Perhaps with tokens and keys, so no `repr` shows it."""
    deadline_s: float | None
    peer: Peer
    received_at_s: float = 0.0
    """Seconds since the epoch, for logs and headers; timers do not use it."""
    port: PortView = SOME_PORT
    certificate: ClientCertificate | None = None
    """The client's, if it showed one; None also where neither client rules nor policies look at it."""
    message_encoding: str = "identity"
    """The client's `grpc-encoding`, where the engine passes frames."""
    has_own_keys: bool = False
    """Whether the client sent keys that gateways alone set (`forwarding.OWN_PREFIXES`). Set by the engine."""
    metadata_bytes: int = 0
    """Size of the header list, as the engine decoded it or, where it hides some of it, of the metadata, once the
    session has measured that; what policies make of it, if that is more."""
    refusal: Deny | None = None
    """Why the request is refused before routing; None: it is routed."""
    own_id: str = ""
    """The gateway's `x-request-id`, once a policy has told a service of it; empty: it is made with the first try."""

    def give_id(self) -> str:
        """`own_id`, made now if it is not yet: for a request whose client gives it none that counts."""
        if not self.own_id:
            self.own_id = make_request_id()
        return self.own_id


def parse_peer(peer: str) -> Peer:
    """From grpc's peer string: `ipv4:10.0.0.1:5123`, `ipv6:%5B::1%5D:5123`, `unix:/path`."""
    scheme, _, rest = peer.partition(":")
    if scheme not in ("ipv4", "ipv6"):
        return Peer("")
    host, _, port = unquote(rest).rpartition(":")
    return Peer(host.strip("[]").partition("%")[0], int(port) if port.isdecimal() else 0)


def make_request_id() -> str:
    """A random UUID (version 4) as text. It is an identifier, not a secret: the fast generator does."""
    bits = f"{random.getrandbits(128):032x}"
    return f"{bits[:8]}-{bits[8:12]}-4{bits[13:16]}-a{bits[17:20]}-{bits[20:]}"


@lru_cache(1024)  # of all that a new connection takes, to parse its address again takes a tenth
def _is_internal(address: str) -> bool:
    try:
        return not address or ipaddress.ip_address(address).is_private
    except ValueError:
        return False
