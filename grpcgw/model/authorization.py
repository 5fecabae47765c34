"""Settings of authorization in the shape of Envoy's RBAC (`envoy.config.rbac.v3`): policies by name, with permissions
(what is called) and principals (who calls), which nest by and, or, not.

Sources: Envoy's RBAC filter, gRFC A41. What each class below is there is in its docstring.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from grpcgw.model.route import PolicySettings

CONDITION_VARIABLES = ("request", "connection", "claims")
"""Of conditions. The first two have Envoy's attributes."""


class Action(StrEnum):
    """What an Rbac does with an RPC that one of its policies matches (`RBAC.Action`)."""

    ALLOW = "ALLOW"
    """It goes on; an RPC that none matches is denied."""
    DENY = "DENY"
    """It is denied."""
    LOG = "LOG"
    """It goes on, as one that none matches, and is in the access log whatever share of RPCs is (`access_log_hint`)."""


class TextKind(StrEnum):
    EXACT = "exact"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    CONTAINS = "contains"
    REGEX = "regex"
    """RE2; the whole text must match."""
    GLOB = "glob"
    """As in `model.glob`. For Envoy: a `safe_regex`."""


@dataclass(frozen=True, slots=True)
class TextMatch:
    """`StringMatcher`."""

    kind: TextKind
    value: str
    ignore_case: bool = False


class CertificateField(StrEnum):
    ANY = "any"
    """Whether there is a certificate at all."""
    URI = "uri"
    """Each URI among its subject alternative names; a SPIFFE ID is one."""
    DNS = "dns"
    """Each DNS name among its subject alternative names."""
    SUBJECT = "subject"
    """As RFC 2253 writes it."""


@dataclass(frozen=True, slots=True)
class AllOf:
    """`and_rules`, `and_ids`. Of nothing: holds for every RPC (`any`)."""

    parts: tuple[Matcher, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """`or_rules`, `or_ids`. Of nothing: holds for no RPC."""

    parts: tuple[Matcher, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """`not_rule`, `not_id`."""

    part: Matcher


@dataclass(frozen=True, slots=True)
class IsMethod:
    """`url_path`: the path that the client calls, before a rewrite. One of the texts must match, as in those below."""

    texts: tuple[TextMatch, ...]


@dataclass(frozen=True, slots=True)
class IsAuthority:
    """`header` with the name `:authority`, compared with its port and without, in lower case."""

    texts: tuple[TextMatch, ...]


@dataclass(frozen=True, slots=True)
class HasHeader:
    """`header`: several values of the key are one text, joined by commas. Where a match refuses the RPC, one of the
    values may match as well: else a client would get round a rule that denies by sending the header twice. An absent
    header matches no text."""

    name: str
    """In lower case, as RPCs have them."""
    texts: tuple[TextMatch, ...] = ()
    """None: it has to be there."""


@dataclass(frozen=True, slots=True)
class IsFrom:
    """`remote_ip`, or `direct_remote_ip` where it is `of_peer`. A client without an address (on a Unix socket) is
    refused: it may be in any network."""

    networks: tuple[str, ...]
    """`10.0.0.0/8`, `2001:db8::/32`; one of them."""
    of_peer: bool = False
    """The address of the connection, not that of the client behind trusted proxies."""


@dataclass(frozen=True, slots=True)
class HasCertificate:
    """`authenticated`, by one field of the certificate that the client has proved to own."""

    field: CertificateField
    texts: tuple[TextMatch, ...] = ()
    """None: the field has to be there."""


@dataclass(frozen=True, slots=True)
class HasClaim:
    """`sourced_metadata` of Envoy's jwt_authn filter: a claim of the token that a policy before has verified. Of an
    array one element must match. Numbers and truth values are compared as JSON writes them."""

    name: str
    """Of a claim, or the names that lead to it, joined by dots."""
    texts: tuple[TextMatch, ...] = ()
    """None: it has to be there."""


Matcher = AllOf | AnyOf | Not | IsMethod | IsAuthority | HasHeader | IsFrom | HasCertificate | HasClaim
ANYTHING = AllOf(())


@dataclass(frozen=True, slots=True)
class RbacPolicy:
    """`Policy`: matches an RPC that one of the permissions and one of the principals match, where `condition` holds."""

    name: str
    """Unique in an Rbac: `greet.default/readers`, the object and its rule. For the access log."""
    permissions: tuple[Matcher, ...] = (ANYTHING,)
    principals: tuple[Matcher, ...] = (ANYTHING,)
    condition: str = ""
    """CEL (`model.cel`); empty: none. If it cannot be evaluated, the RPC is denied, whatever the action is."""


@dataclass(frozen=True, slots=True)
class Rbac:
    """`RBAC`."""

    action: Action
    policies: tuple[RbacPolicy, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationSettings(PolicySettings):
    """Authorization of a Mapping: an RPC must pass each Rbac, in order."""

    kind: ClassVar[str] = "authorization"
    rules: tuple[Rbac, ...]
    shadow_rules: tuple[Rbac, ...] = ()
    """What they decide is recorded and has no effect (`shadow_rules` of Envoy's filter); none: nothing is recorded."""

    @property
    def reads_certificate(self) -> bool:
        return any(_reads_certificate(one) for rbac in (*self.rules, *self.shadow_rules) for one in rbac.policies)


def _reads_certificate(policy: RbacPolicy) -> bool:
    matchers = (part for one in (*policy.permissions, *policy.principals) for part in _walk(one))
    return "connection" in policy.condition or any(isinstance(one, HasCertificate) for one in matchers)


def _walk(matcher: Matcher) -> Iterator[Matcher]:
    yield matcher
    match matcher:
        case AllOf(parts) | AnyOf(parts):
            for part in parts:
                yield from _walk(part)
        case Not(part):
            yield from _walk(part)
        case _:
            pass
