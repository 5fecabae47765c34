"""The grammar of a Mapping's `service`: `[scheme://]name[.namespace][:port]`.

Pure text to value; discovery finds the Service and its pods.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace

from grpcgw.errors import GrpcgwError
from grpcgw.model.cluster import ServiceRef

_TLS_BY_SCHEME = {"http": False, "grpc": False, "https": True, "grpcs": True}
_LABEL = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?", re.IGNORECASE | re.ASCII)
_USUAL = re.compile(
    r"(?:(http|grpc|https|grpcs)://)?"
    r"([a-z](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?){0,2})"
    r"(?::([1-9][0-9]{0,3}|[1-5][0-9]{4}))?",
    re.ASCII,
)
"""Fast path for the usual form; any other text is parsed part by part, with precise errors."""
_MAX_HOST_LENGTH = 253
_MAX_PORT = 65535


class InvalidService(GrpcgwError):
    """The text does not follow the grammar; the message quotes the bad part and gives its position (from 1)."""


@dataclass(frozen=True, slots=True)
class ParsedService:
    """`ignored` holds dotted parts that mean nothing to a Kubernetes Service: `b.c` in `name.namespace.b.c`.

    The suffixes `svc` and `svc.<cluster domain>` are understood and not reported there. A DNS name uses all its parts.
    """

    service: ServiceRef
    tls: bool = False
    is_ip: bool = False
    ignored: str = ""
    qualified: bool = False
    """Whether the name was written with dots."""
    port_given: bool = False
    path: str = ""
    """Text after host and port, which has no meaning for a service: `/status`."""


def parse_service(text: str, namespace: str, tls: bool = False) -> ParsedService:
    """Read `text`; a name without a namespace is in `namespace`. The port defaults to 80, with TLS to 443.

    `tls`: TLS was chosen elsewhere, whatever the scheme.

    Host names are lower-cased, as DNS and Kubernetes compare them. IPv6 addresses stand in brackets. `hostname` of the
    result is the name for DNS queries: the host as written, an unqualified name with its namespace. A trailing dot
    marks a fully qualified name, to which the search list of resolv.conf is not applied.

    Raises InvalidService. Source of the rules: Ambassador's `parseService` and `normalize_service_name`; faults that
    they only log (bad ports, odd dots) are errors here. Like there, a URL's path is ignored.
    """
    if "@" in text:  # nothing of it is quoted, it may be a password
        raise InvalidService("has an '@': name host and port alone, without a user or password")
    usual = _USUAL.fullmatch(text)
    if usual is not None:
        return _parse_name(usual[2], namespace, usual[3], tls or _TLS_BY_SCHEME[usual[1] or "http"])
    by_scheme, start = _parse_scheme(text)
    tls = tls or by_scheme
    end = text.find("/", start + 1)
    whole, text = text, text if end < 0 else text[:end]
    try:
        return replace(_parse_host_and_port(text, start, namespace, tls), path=whole[len(text) :])
    except InvalidService as error:
        raise InvalidService(str(error).replace(repr(text), repr(whole), 1)) from None


def _parse_host_and_port(text: str, start: int, namespace: str, tls: bool) -> ParsedService:
    if text[start:].startswith("["):
        return _parse_bracketed(text, start, tls)
    host, colon, port_text = text[start:].partition(":")
    if ":" in port_text:
        raise _invalid(text, start, "has several colons; write an IPv6 address in brackets: [::1]:50051")
    _check_host(text, start, host)
    port = _parse_port(text, start + len(host), colon, port_text, tls)
    if _is_ipv4(text, start, host):
        return ParsedService(ServiceRef(host, "", port, host), tls, is_ip=True, qualified=True, port_given=bool(colon))
    return _parse_name(host.lower(), namespace, port_text, tls)


def _parse_scheme(text: str) -> tuple[bool, int]:
    """Whether the scheme means TLS, and where the host begins."""
    scheme, separator, _ = text.partition("://")
    if not separator:
        return False, 0
    tls = _TLS_BY_SCHEME.get(scheme.lower())
    if tls is None:
        raise _invalid(text, 0, f"has the unknown scheme {scheme!r}; use one of {', '.join(_TLS_BY_SCHEME)}, or none")
    return tls, len(scheme) + len(separator)


def _parse_bracketed(text: str, start: int, tls: bool) -> ParsedService:
    inner, closing, rest = text[start + 1 :].partition("]")
    if not closing:
        raise _invalid(text, start, "has a '[' without ']'")
    try:
        address = str(ipaddress.IPv6Address(inner))
    except ValueError:
        raise _invalid(text, start + 1, f"has {inner!r} in brackets, which is no IPv6 address") from None
    if "%" in address:
        raise _invalid(text, start + 1, "has an IPv6 zone, which means nothing outside one machine")
    after = start + len(inner) + 2
    if rest and not rest.startswith(":"):
        raise _invalid(text, after, f"has {rest!r} after ']'; only :port may follow")
    port = _parse_port(text, after, rest[:1], rest[1:], tls)
    ref = ServiceRef(address, "", port, address)
    return ParsedService(ref, tls, is_ip=True, qualified=True, port_given=bool(rest))


def _check_host(text: str, start: int, host: str) -> None:
    if not host:
        raise _invalid(text, start, "names no host; write name[.namespace][:port]")
    if len(host) > _MAX_HOST_LENGTH:
        raise _invalid(text, start, f"has a host of {len(host)} characters; at most {_MAX_HOST_LENGTH} are allowed")
    position = start
    for label in host.removesuffix(".").split("."):
        if not label:
            raise _invalid(text, position, "has an empty name part: a dot too many")
        if not _LABEL.fullmatch(label):
            raise _invalid(
                text,
                position,
                f"has the bad name part {label!r}: up to 63 letters, digits and inner '-' are allowed",
            )
        position += len(label) + 1


def _parse_port(text: str, position: int, colon: str, digits: str, tls: bool) -> int:
    if not colon:
        return _default_port(tls)
    if not digits:
        raise _invalid(text, position, "ends in ':' without a port")
    if not re.fullmatch(r"[0-9]{1,5}", digits) or not 1 <= int(digits) <= _MAX_PORT:
        raise _invalid(text, position + 1, f"has the bad port {digits!r}; use 1 to {_MAX_PORT}")
    return int(digits)


def _default_port(tls: bool) -> int:
    return 443 if tls else 80


def _is_ipv4(text: str, start: int, host: str) -> bool:
    if not host.replace(".", "").isdigit() or "." not in host:
        return False
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        raise _invalid(text, start, f"has {host!r}, which is neither an IPv4 address nor a name") from None
    return True


def _parse_name(host: str, namespace: str, digits: str | None, tls: bool) -> ParsedService:
    """`host` and `digits` are well-formed."""
    given = bool(digits)
    port = int(digits) if digits else _default_port(tls)
    labels = host.removesuffix(".").split(".")
    name = labels[0]
    if len(labels) == 1 and host.endswith("."):
        return ParsedService(ServiceRef(name, namespace, port, host), tls, qualified=True, port_given=given)
    if len(labels) == 1:
        # localhost is a DNS name everywhere; any other single name would be looked up in the gateway's own namespace.
        hostname = host if name == "localhost" else f"{name}.{namespace}"
        return ParsedService(ServiceRef(name, namespace, port, hostname), tls, port_given=given)
    suffix = labels[2:]
    ignored = "" if suffix[:1] == ["svc"] else ".".join(suffix)
    return ParsedService(ServiceRef(name, labels[1], port, host), tls, False, ignored, True, given)


def _invalid(text: str, position: int, reason: str) -> InvalidService:
    return InvalidService(f"{text!r} {reason} (character {position + 1})")
