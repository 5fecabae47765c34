"""Verdicts of ext_authz services: what each CheckResponse makes of an RPC. Envoy's answers where it agrees."""

from __future__ import annotations

from base64 import b64encode

import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.model.codes import Code
from grpcgw.model.metadata import Metadata
from grpcgw.policy.answer_headers import MAX_TRAILER_BYTES
from grpcgw.policy.dynamic_metadata import MAX_FACTS
from grpcgw.policy.ext_authz.ext_authz_answer import LONGEST_KNOWN_BYTES, NoVerdict, ServiceError, read_answer
from grpcgw.policy.ext_authz.ext_authz_pb2 import (
    CheckResponse,
    DeniedHttpResponse,
    HeaderValue,
    HeaderValueOption,
    OkHttpResponse,
    Status,
)
from grpcgw.policy.verdicts import Allow, Deny

WHO = "Mapping greet.default: AuthService auth.default"
OK = Status(code=0)


def option(key: str, value: str, **fields: object) -> HeaderValueOption:
    made = HeaderValueOption(header=HeaderValue(key=key, value=value))
    if fields.get("append"):
        made.append.value = True
    made.append_action = fields.get("action", 0)
    return made


def verdict_of(answer: CheckResponse) -> Allow | Deny:
    return read_answer(answer.SerializeToString(), WHO)


def deny(answer: CheckResponse) -> Deny:
    verdict = verdict_of(answer)
    assert isinstance(verdict, Deny)
    return verdict


def denied(http: int = 0, code: int = 0, body: str = "", *headers: tuple[str, str]) -> CheckResponse:
    response = DeniedHttpResponse(body=body, headers=[option(*one) for one in headers])
    response.status.code = http
    return CheckResponse(status=Status(code=code), denied_response=response)


def allowed(**fields: object) -> CheckResponse:
    return CheckResponse(status=OK, ok_response=OkHttpResponse(**fields))  # type: ignore[arg-type]


def pods_metadata(answer: CheckResponse, *metadata: tuple[str, str]) -> Metadata:
    verdict = verdict_of(answer)
    assert isinstance(verdict, Allow)
    return (*(item for item in metadata if item[0] not in verdict.remove), *verdict.add)


@pytest.mark.parametrize("answer", [CheckResponse(status=OK), allowed(), CheckResponse(ok_response=OkHttpResponse())])
def test_an_ok_status_or_response_allows(answer: CheckResponse) -> None:
    assert verdict_of(answer) == Allow()


@pytest.mark.parametrize("message", [b"", b"\xff\xff", b"no protobuf at all"])
def test_an_answer_without_content_or_sense_is_no_verdict(message: bytes) -> None:
    with pytest.raises(NoVerdict):
        read_answer(message, WHO)


@pytest.mark.parametrize(
    ("http", "code", "expected"),
    [
        (401, 0, Code.UNAUTHENTICATED),
        (403, 7, Code.PERMISSION_DENIED),
        (404, 7, Code.UNIMPLEMENTED),
        (429, 7, Code.UNAVAILABLE),
        (503, 7, Code.UNAVAILABLE),
        (302, 7, Code.UNKNOWN),
        (200, 7, Code.UNKNOWN),
        (0, 0, Code.PERMISSION_DENIED),
        (0, 16, Code.UNAUTHENTICATED),
        (0, 8, Code.RESOURCE_EXHAUSTED),
        (0, 17, Code.PERMISSION_DENIED),
        (0, -1, Code.PERMISSION_DENIED),
    ],
)
def test_the_code_of_a_denial(http: int, code: int, expected: Code) -> None:
    assert deny(denied(http, code)).status().code == expected


@pytest.mark.parametrize("code", [1, 16, 99])
def test_a_status_that_is_not_ok_denies_whatever_else_is_said(code: int) -> None:
    assert isinstance(verdict_of(CheckResponse(status=Status(code=code), ok_response=OkHttpResponse())), Deny)


def test_a_grpc_status_among_the_headers_wins() -> None:
    verdict = deny(denied(403, 7, "", ("Grpc-Status", "5"), ("grpc-message", "no such tenant"), ("x-a", "1")))
    assert (verdict.code, verdict.message, verdict.metadata) == (Code.NOT_FOUND, "no such tenant", (("x-a", "1"),))


def test_details_and_pushback_of_a_grpc_status_among_the_headers_reach_the_client() -> None:
    packed = Status(code=8, details=[Packed(type_url="t/x", value=b"1")]).SerializeToString()
    details = ("grpc-status-details-bin", b64encode(packed).decode().rstrip("="))
    verdict = deny(denied(403, 7, "", ("grpc-status", "8"), details, ("Grpc-Retry-Pushback-Ms", "250")))
    assert (verdict.code, verdict.details, verdict.retry_after_ms) == (Code.RESOURCE_EXHAUSTED, packed, 250)


@pytest.mark.parametrize("pushback", ["-1", "soon", "99999999999", ""])
@pytest.mark.parametrize("details", ["!", "A" * 5000])
def test_what_a_grpc_status_cannot_have_is_left_out(details: str, pushback: str) -> None:
    headers = ("grpc-status", "8"), ("grpc-status-details-bin", details), ("grpc-retry-pushback-ms", pushback)
    verdict = deny(denied(403, 7, "", *headers))
    assert (verdict.code, verdict.details, verdict.retry_after_ms) == (Code.RESOURCE_EXHAUSTED, b"", None)


@pytest.mark.parametrize("given", ["0", "17", "-1", "seven", "", "²"])
def test_a_grpc_status_that_refuses_nothing_does_not_count(given: str) -> None:
    assert deny(denied(401, 0, "", ("grpc-status", given))).code == Code.UNAUTHENTICATED


def test_the_body_is_the_message_and_the_headers_are_trailers() -> None:
    headers = (("WWW-Authenticate", "Bearer"), ("content-type", "text/html"), ("x-bin", "AAE"), ("bad key", "1"))
    verdict = deny(denied(401, 16, "who are you?", *headers))
    assert verdict.message == "who are you?"
    assert verdict.metadata == (("www-authenticate", "Bearer"), ("x-bin", b"\0\1"))
    assert verdict.reason == "unauthenticated"


def test_headers_of_a_denial_have_a_bound() -> None:
    headers = [(f"x-{number}", "v" * 500) for number in range(100)]
    kept = deny(denied(403, 7, "", *headers)).metadata
    assert 0 < sum(len(key) + len(value) for key, value in kept) <= MAX_TRAILER_BYTES


def test_without_a_message_the_denial_names_the_service() -> None:
    assert deny(denied(403)).message == f"{WHO} refuses the call"
    assert deny(CheckResponse(status=Status(code=7, message="not you"))).message == "not you"


def test_details_of_a_status_reach_the_client() -> None:
    status = Status(code=16, message="expired", details=[Packed(type_url="t/x", value=b"1")])
    assert deny(CheckResponse(status=status)).details == status.SerializeToString()
    assert deny(denied(403, 16)).details == b""


def test_an_error_response_is_no_verdict_but_says_how_to_refuse() -> None:
    answer = CheckResponse(status=OK)
    answer.error_response.status.code = 503
    answer.error_response.headers.append(option("retry-after", "3"))
    with pytest.raises(ServiceError) as caught:
        read_answer(answer.SerializeToString(), WHO)
    assert (caught.value.refusal.code, caught.value.refusal.metadata) == (Code.UNAVAILABLE, (("retry-after", "3"),))


@pytest.mark.parametrize(
    ("fields", "given", "expected"),
    [
        ({}, ["1"], ["app"]),
        ({}, [], ["app"]),
        ({"append": True}, ["1"], ["1", "app"]),
        ({"action": 1}, ["1"], ["app"]),
        ({"action": 1}, [], ["app"]),
        ({"action": 2}, ["1", "2"], ["app"]),
        ({"action": 3}, ["1"], ["app"]),
        ({"action": 3}, [], ["app"]),
    ],
)
def test_headers_for_the_pod(fields: dict[str, object], given: list[str], expected: list[str]) -> None:
    answer = allowed(headers=[option("X-User", "app", **fields)])
    got = pods_metadata(answer, ("a", "b"), *(("x-user", value) for value in given))
    assert got == (("a", "b"), *(("x-user", value) for value in expected))


def test_headers_are_removed_but_never_path_and_host() -> None:
    answer = allowed(headers_to_remove=["X-Key", ":path", "host"])
    assert pods_metadata(answer, ("x-key", "1"), ("a", "b")) == (("a", "b"),)


def test_headers_of_the_connection_are_not_passed_on() -> None:
    answer = allowed(headers=[option("content-length", "0"), option("te", "x"), option("x-a", "1")])
    assert pods_metadata(answer) == (("x-a", "1"),)


@pytest.mark.parametrize(
    "header", [(":path", "/other"), (":authority", "x"), ("Host", "x"), ("x-a", "a\nb"), ("b c", ""), ("x-bin", "%")]
)
def test_a_header_that_cannot_be_sent_makes_no_verdict(header: tuple[str, str]) -> None:
    with pytest.raises(NoVerdict, match="header that cannot be sent"):
        verdict_of(allowed(headers=[option(*header)]))


def test_headers_for_the_client() -> None:
    verdict = verdict_of(allowed(response_headers_to_add=[option("X-Seen", "1"), option("content-type", "x")]))
    assert verdict == Allow(add_response=(("x-seen", "1"),))


def test_dynamic_metadata_becomes_facts_in_bounds() -> None:
    metadata = Struct()
    metadata.update({"user": "ann", "groups": ["a", "b"], "long": "x" * 10_000})
    verdict = verdict_of(CheckResponse(status=OK, dynamic_metadata=metadata))
    assert isinstance(verdict, Allow)
    facts = dict(verdict.facts)
    assert (facts["auth.user"], facts["auth.groups"], len(facts["auth.long"])) == ("ann", '["a","b"]', 256)
    metadata.update({f"k{number}": 1 for number in range(1000)})
    verdict = verdict_of(CheckResponse(status=OK, dynamic_metadata=metadata))
    assert isinstance(verdict, Allow)
    assert len(verdict.facts) == MAX_FACTS


def test_a_denial_has_its_dynamic_metadata_as_facts_too() -> None:
    metadata = Struct()
    metadata.update({"user": "ann"})
    for answer in (denied(403), CheckResponse(status=Status(code=7))):
        answer.dynamic_metadata.CopyFrom(metadata)
        assert deny(answer).facts == (("auth.user", "ann"),)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_json_cannot_hold_changes_no_verdict(number: float) -> None:
    metadata = Struct()
    metadata.fields["score"].number_value = number
    assert verdict_of(CheckResponse(status=OK, dynamic_metadata=metadata)) == Allow(facts=(("auth.score", "?"),))


def test_a_kind_of_answer_that_is_not_known_is_no_verdict() -> None:
    later_kind = CheckResponse(status=OK).SerializeToString() + bytes([6 << 3 | 2, 0])
    with pytest.raises(NoVerdict, match="not known"):
        read_answer(later_kind, WHO)


def test_details_that_clients_would_not_take_are_left_out() -> None:
    answer = CheckResponse(status=Status(code=7, details=[Packed(type_url="t", value=b"d" * 5000)]))
    assert deny(answer).details == b""


def test_a_grpc_message_among_the_headers_is_percent_encoded() -> None:
    assert deny(denied(403, 0, "", ("grpc-message", "caf%C3%A9%20closed"))).message == "café closed"


@given(st.binary(max_size=200))
def test_no_answer_raises_anything_else(message: bytes) -> None:
    try:
        verdict = read_answer(message, WHO)
    except (NoVerdict, ServiceError):
        return
    assert isinstance(verdict, Allow | Deny)


@pytest.mark.parametrize("size", [10, LONGEST_KNOWN_BYTES])
def test_an_answer_that_comes_again_decides_as_before(size: int) -> None:
    """It is read once; a refusal names the service that gave it this time."""
    permission = allowed(headers=[option("x-user", "u" * size)]).SerializeToString()
    for _ in range(2):
        assert read_answer(permission, WHO) == Allow((("x-user", "u" * size),), ("x-user",))
    refusal = denied(403, 0, "", ("x-why", "w" * size)).SerializeToString()
    for who in ("one", "two"):
        verdict = read_answer(refusal, who)
        assert isinstance(verdict, Deny)
        assert (verdict.message, verdict.metadata) == (f"{who} refuses the call", (("x-why", "w" * size),))
    with pytest.raises(NoVerdict):
        read_answer(b"", WHO)
    with pytest.raises(NoVerdict):
        read_answer(b"", WHO)
