"""Settings of external authorization (Envoy's ext_authz): an AuthService, or a Filter of type External."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from grpcgw.model.header_values import CONNECTION_HEADERS
from grpcgw.model.hidden_text import HiddenText
from grpcgw.model.route import PolicySettings


class AuthProtocol(StrEnum):
    """How the service is called."""

    GRPC = "grpc"
    """`envoy.service.auth.v3.Authorization/Check`, or that of v2."""
    HTTP = "http"
    """An HTTP/1.1 request with the path and the headers of the RPC; status 200 allows it."""


NEVER_ASKED = CONNECTION_HEADERS | {"content-length", "expect", "host", "te", "trailer"}
"""What the client sends of these describes its own connection and body: an HTTP service does not get it, also where
`allowed_request_headers` names it."""

MAX_INCLUDED_BYTES = 1 << 20
"""A policy gets at most so much of the first message: what is held for it is not on its way to a pod."""


@dataclass(frozen=True, slots=True)
class IncludedMessage:
    """The first message of the request is part of the question."""

    max_bytes: int
    """Counted with gRPC's prefix of 5 bytes, as Envoy counts the body; at most MAX_INCLUDED_BYTES."""
    allow_partial: bool = False
    """A longer message is cut; False: its RPC is refused."""


@dataclass(frozen=True, slots=True)
class AnswerCaching:
    """The service's answers are kept, by Mapping, path, host and the values of some headers. Not in Envoy."""

    headers: tuple[str, ...]
    """Keys (lower case) whose values decide, as `authorization`: the service must not decide by others."""
    max_age_ms: int
    max_entries: int = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtAuthzSettings(PolicySettings):
    """`upstreams` are the services: they take turns."""

    kind: ClassVar[str] = "ext-authz"
    protocol: AuthProtocol = AuthProtocol.GRPC
    api_version: str = "v3"
    """gRPC only: of `envoy.service.auth`. v2 has other names for the same messages."""
    timeout_ms: int = 5000
    """For the answer, with connecting."""
    failure_mode_allow: bool = False
    """An RPC is allowed where the service is away or gives no answer."""
    code_on_error: int | None = None
    """gRPC code of an RPC that is refused for that; None: UNAVAILABLE."""
    message: IncludedMessage | None = None
    """None: the service is asked before the client has sent a message."""
    context_extensions: tuple[tuple[str, str], ...] = ()
    """Of the Mapping (`auth_context_extensions`); gRPC only."""
    added_metadata: tuple[tuple[str, HiddenText], ...] = ()
    """Sent to the service beside what it gets of the RPC (`add_auth_headers`): perhaps its password."""
    allowed_request_headers: tuple[str, ...] = ()
    """HTTP only: further request headers for the service, in lower case. A gRPC service gets all."""
    allowed_authorization_headers: tuple[str, ...] = ()
    """HTTP only: further headers of the answer, in lower case, for the pod, or for the client of a refused RPC."""
    path_prefix: str = ""
    """HTTP only: stands before the path."""
    caching: AnswerCaching | None = None
    """None: the service is asked for each RPC."""

    @property
    def reads_certificate(self) -> bool:
        """A gRPC service gets the name in it (`source.principal`)."""
        return self.protocol is AuthProtocol.GRPC
