"""The verdict of an ext_authz service: reads a `CheckResponse`, and refuses where Envoy lets RPCs pass by accident.

Differences from Envoy (docs/who-may-call.md): a CheckResponse without any content, or one with `denied_response` and an
OK status, allows nothing; the code of a denial is the gRPC status that the service gave, where it gave one.
"""

from __future__ import annotations

from functools import lru_cache

from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from grpcgw.errors import GrpcgwError
from grpcgw.model.codes import Code, code_of_http
from grpcgw.policy.answer_headers import (
    MAX_DETAILS_BYTES,
    BadHeader,
    explicit_status,
    is_dropped,
    keep_sendable,
    read_header,
)
from grpcgw.policy.dynamic_metadata import read_facts
from grpcgw.policy.ext_authz.ext_authz_pb2 import CheckResponse, DeniedHttpResponse, HeaderValueOption
from grpcgw.policy.ext_authz.service_verdicts import permit, refuse
from grpcgw.policy.verdicts import Allow, Deny, Facts

_REFUSALS = ("denied_response", "error_response")
MOST_KNOWN, LONGEST_KNOWN_BYTES = 1024, 1024
"""Answers that services repeat are read once: most RPCs of a user get the same one."""


class NoVerdict(GrpcgwError):
    """An answer that allows nothing and refuses nothing, or both; the text says why."""


class ServiceError(GrpcgwError):
    """The service says that it cannot decide. `refusal`: how it wants the RPC to be refused."""

    def __init__(self, refusal: Deny) -> None:
        super().__init__("the service reports an error")
        self.refusal = refusal


def read_answer(message: bytes, who: str) -> Allow | Deny:
    """The verdict of a serialized CheckResponse. `who` names the service to clients. Raises NoVerdict, ServiceError."""
    answer = (_read_known if len(message) <= LONGEST_KNOWN_BYTES else _read)(message)
    if isinstance(answer, Allow):
        return answer
    if answer.WhichOneof("http_response") == "error_response":
        raise ServiceError(_read_refusal(answer, answer.error_response, who, Code.UNAVAILABLE))
    return _read_refusal(answer, answer.denied_response, who, Code.PERMISSION_DENIED)


def _read(message: bytes) -> Allow | CheckResponse:
    """The permission that it is, or the whole answer where it is a refusal. Raises NoVerdict."""
    try:
        answer = CheckResponse.FromString(message)
    except DecodeError as error:
        raise NoVerdict("its answer is no CheckResponse") from error
    kind = answer.WhichOneof("http_response")
    if kind in _REFUSALS or answer.status.code:
        return answer
    if kind is None and UnknownFieldSet(answer):  # perhaps a kind of http_response that later versions have
        raise NoVerdict("its answer has fields that are not known")
    if kind is None and not answer.HasField("status"):
        raise NoVerdict("its answer is empty")
    return _read_permission(answer)


_read_known = lru_cache(MOST_KNOWN)(_read)


def _read_permission(answer: CheckResponse) -> Allow:
    """`append_action` of a header for the pod does not count, as in Envoy: what the service sets replaces what the
    client sent, unless it says `append`."""
    allowed = answer.ok_response
    facts = _read_facts(answer)
    if not allowed.ByteSize():
        return permit(facts=facts)
    try:
        given = [option for option in allowed.headers if not is_dropped(option.header.key)]
        replaced = tuple([_read_header(one) for one in given if not one.append.value])
        appended = tuple([_read_header(one) for one in given if one.append.value])
        removed = tuple([key for name in allowed.headers_to_remove if _may_remove(key := name.lower())])
        added = [_read_header(one) for one in allowed.response_headers_to_add if not is_dropped(one.header.key)]
        return permit(replaced, appended, removed, facts, tuple(added))
    except (BadHeader, ValueError) as error:
        raise NoVerdict(f"it allows the call with a header that cannot be sent: {error}") from error


def _read_header(option: HeaderValueOption) -> tuple[str, str | bytes]:
    header = option.header
    return read_header(header.key, header.value or header.raw_value.decode("latin-1"))


def _may_remove(key: str) -> bool:
    """As in Envoy, the path and the host stay."""
    return not key.startswith(":") and key != "host"


def _read_facts(answer: CheckResponse) -> Facts:
    if answer.HasField("dynamic_metadata"):
        return read_facts(answer.dynamic_metadata)
    if answer.ok_response.HasField("dynamic_metadata"):
        return read_facts(answer.ok_response.dynamic_metadata)
    return ()


def _read_refusal(answer: CheckResponse, denied: DeniedHttpResponse, who: str, default: Code) -> Deny:
    headers = [(one.header.key, one.header.value or one.header.raw_value.decode("latin-1")) for one in denied.headers]
    status = answer.status
    explicit = explicit_status(headers)
    code = explicit.code
    if code is None and denied.status.code:
        code = code_of_http(denied.status.code)
    if code is None:
        code = status.code if 0 < status.code <= Code.UNAUTHENTICATED else default
    message = denied.body or explicit.message or status.message
    own = status.SerializeToString() if status.details and code == status.code else b""
    details = explicit.details or (own if len(own) <= MAX_DETAILS_BYTES else b"")
    kept, facts = keep_sendable(headers), _read_facts(answer)
    return refuse(who, code, message, kept, details, explicit.retry_after_ms, facts)
