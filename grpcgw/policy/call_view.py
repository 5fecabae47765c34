"""An RPC as an own policy sees it: what the client sent, and what earlier policies found out. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from grpcgw.model.metadata import Metadata, MetadataValue
from grpcgw.policy.client_certificates import ClientCertificate
from grpcgw.policy.contract import PolicyRequest

_NO_CLAIMS: Mapping[str, object] = MappingProxyType({})


class CallView:
    """Read-only. `repr` shows no metadata: they may be secret."""

    __slots__ = ("_request",)

    def __init__(self, request: PolicyRequest) -> None:
        self._request = request

    @property
    def path(self) -> str:
        """`/greet.Greeter/Hello`, as the client sent it."""
        return self._request.request.path

    @property
    def service(self) -> str:
        """`greet.Greeter`."""
        return self.path[1:].rpartition("/")[0]

    @property
    def method(self) -> str:
        """`Hello`."""
        return self.path.rpartition("/")[2]

    @property
    def authority(self) -> str:
        """`:authority`; empty on the generic-handler engine, which does not know it."""
        return self._request.request.authority

    @property
    def mapping(self) -> str:
        """The object that routes the RPC: `Mapping greet.default`."""
        return str(self._request.key)

    @property
    def metadata(self) -> Metadata:
        """Pairs of key (lower case) and value: the client's, as earlier policies left them."""
        return self._request.metadata

    def get(self, key: str) -> MetadataValue | None:
        """The first value of `key` (lower case): bytes for a `-bin` key, else text; None: there is none."""
        return self._request.get(key)

    def get_all(self, key: str) -> tuple[MetadataValue, ...]:
        return tuple([value for name, value in self._request.metadata if name == key])

    @property
    def peer(self) -> str:
        """The client's IP address, also behind proxies that are trusted; empty: a Unix socket."""
        return self._request.request.peer.address

    @property
    def certificate(self) -> ClientCertificate | None:
        """What the client showed on its TLS connection: `subject`, `uris` (SPIFFE ids), `names` (DNS), `pem`."""
        return self._request.request.certificate

    @property
    def claims(self) -> Mapping[str, object]:
        """Of the token that a JWT Filter verified; empty: there is none. A copy: other calls have the same token."""
        claims = self._request.claims
        return _NO_CLAIMS if claims is None else MappingProxyType({name: _copy(claims[name]) for name in claims})

    @property
    def facts(self) -> Mapping[str, str]:
        """What earlier policies found out: `identity` (of an API key or token), …"""
        return MappingProxyType(self._request.facts)

    @property
    def received_at_s(self) -> float:
        """When the RPC came, in seconds since the epoch."""
        return self._request.request.received_at_s

    @property
    def remaining_s(self) -> float | None:
        """How long the client waits from now on (its deadline); None: for ever."""
        deadline_s = self._request.request.deadline_s
        return None if deadline_s is None else max(0.0, deadline_s - self._request.now_s)

    def __repr__(self) -> str:
        return f"<call of {self.path}>"


def _copy(value: object) -> object:
    """Of a value of JSON."""
    if isinstance(value, dict):
        return {name: _copy(one) for name, one in value.items()}
    return [_copy(one) for one in value] if isinstance(value, list) else value
