"""Admission of requests: refuses ambiguous paths and authorities, and metadata that is too large. Pure.

A request that is refused here reaches no matching, policy, metric or pod. A path that two servers parse in different
ways (`//a.B/C`, `/a.B/%43`, `/a.B/../x.Y/C`) gets past rules about paths, and one with bytes that HTTP/2 forbids makes
a strict pod close the connection that other clients' RPCs are on.
"""

from __future__ import annotations

import re
from functools import lru_cache

from grpcgw.model.request_path import PATH_CHARACTER
from grpcgw.model.status import Reason
from grpcgw.policy.client_rules import Reception
from grpcgw.policy.request import Request
from grpcgw.policy.verdicts import Deny
from grpcgw.session.forwarding import drop_own_keys, size_of

MAX_PATH_CHARACTERS = 1024
MAX_AUTHORITY_CHARACTERS = 512
"""A DNS name has 253 at most; a socket's path is escaped."""
_SHOWN_CHARACTERS = 64
"""Of a path that is refused, in the log."""

_PART = rf"(?!\.{{1,2}}(?:/|\Z)){PATH_CHARACTER}+"
"""No `.` or `..` either (RFC 3986, 3.3)."""
_PATH = re.compile(f"/{_PART}/{_PART}")
_AUTHORITY = re.compile(r"[A-Za-z0-9_.~:!$&'()*+=%\[\]-]*")
"""RFC 9113, 8.3.1: host and port, without user information. Empty: the engine does not know it, or there is none."""

_BAD_PATH = Deny(
    Reason.BAD_PATH, f"the path is not /service/method in at most {MAX_PATH_CHARACTERS} characters that need no escape"
)
_BAD_AUTHORITY = Deny(Reason.BAD_AUTHORITY, "the :authority is no host with an optional port")


def admit(request: Request, reception: Reception | None) -> None:
    """Set `refusal` of `request` if it is refused, and reduce its path to printable text. Apply the client rules
    (`reception`), and drop the keys that only the gateway may set, unless a trusted proxy sends them."""
    refusal = find_fault(request.path, request.authority)
    if refusal is not None:
        request.refusal = refusal
        request.path = _show(request.path)
        request.authority = _show(request.authority)
    if reception is not None:
        reception.receive(request)
    if request.has_own_keys and not request.peer.keeps_proto:
        request.metadata = drop_own_keys(request.metadata)


def find_fault(path: str, authority: str) -> Deny | None:
    """Why a request is refused; None: it is not."""
    if len(path) > MAX_PATH_CHARACTERS or not is_canonical(path):
        return _BAD_PATH
    if len(authority) > MAX_AUTHORITY_CHARACTERS or not _is_host(authority):
        return _BAD_AUTHORITY
    return None


def limit_metadata(request: Request, limit_bytes: int) -> Deny | None:
    """Why the metadata of `request` is refused; None: it is not.

    Such metadata is dropped at once: held until the RPCs are over, that of a few hundred would fill the memory.
    """
    if is_too_large(request, limit_bytes):
        request.metadata, request.metadata_bytes = (), 0
        return Deny(Reason.METADATA_TOO_LARGE, f"the metadata is larger than {limit_bytes} bytes")
    return None


def is_too_large(request: Request, limit_bytes: int) -> bool:
    """Whether its header list is over the limit, counted as RFC 9113, 6.5.2 has it. Sets `metadata_bytes` where the
    engine did not.

    grpc core holds the limit as well, but not before a client has acknowledged its settings: one that never does may
    send 16 MB in each RPC, a few kilobytes on the wire (docs/hardening.md).
    """
    if not request.metadata_bytes:
        request.metadata_bytes = size_of(request.metadata)
    return request.metadata_bytes > limit_bytes


# Clients call the same few again and again: a look-up costs a tenth of a match.
@lru_cache(maxsize=1024)
def is_canonical(path: str) -> bool:
    """Whether `path` is `/service/method` and cannot be read otherwise (grpc `PROTOCOL-HTTP2`, Path)."""
    return len(path) <= MAX_PATH_CHARACTERS and _PATH.fullmatch(path) is not None


@lru_cache(maxsize=1024)
def _is_host(authority: str) -> bool:
    return _AUTHORITY.fullmatch(authority) is not None


def _show(text: str) -> str:
    """In visible ASCII, cut."""
    return ascii(text[:_SHOWN_CHARACTERS])[1:-1]
