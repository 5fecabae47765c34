"""The policy of a RateLimitService: what it asks, and what it makes of the answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.model.codes import Code
from grpcgw.model.labels import AddressLabel, FixedLabel, HeaderLabel, LabelGroup
from grpcgw.model.objects import ObjectKey
from grpcgw.model.rate_limit_service import RateLimitServiceSettings
from grpcgw.model.route import Destination, WeightedCluster
from grpcgw.policy.catalogue import CATALOGUE
from grpcgw.policy.chain import FAILED_OPEN
from grpcgw.policy.contract import Answer, FailMode, PolicyRequest, UnaryRpc, Verdict, Wait
from grpcgw.policy.limits.rate_limit_service_pb2 import (
    OK,
    OVER_LIMIT,
    UNKNOWN,
    DescriptorStatus,
    HeaderValue,
    Limit,
    RateLimitRequest,
    RateLimitResponse,
    Unit,
)
from grpcgw.policy.limits.remote_rate_limit import build
from grpcgw.policy.limits.rpc_labels import compile_group, describe_all
from grpcgw.policy.request import Peer, Request
from grpcgw.policy.services import PolicyServices
from grpcgw.policy.verdicts import ALLOW, Allow, Deny

KEY = ObjectKey("Mapping", "default", "greet")
SERVICE = Destination(ObjectKey("RateLimitService", "default", "limits"), (WeightedCluster("limits"),))
FIXED: LabelGroup = (FixedLabel("generic_key", "x"), FixedLabel("source_cluster", ""))
TENANT: LabelGroup = (FixedLabel("a", "b"), HeaderLabel("tenant", "x-tenant"), AddressLabel("remote_address"))
OPTIONAL: LabelGroup = (HeaderLabel("tier", "x-tier", optional=True),)
SETTINGS = RateLimitServiceSettings(
    name="RateLimitService limits.default", upstreams=(SERVICE,), domain="shop", groups=(FIXED,)
)
WHO = "Mapping greet.default: RateLimitService limits.default"


def request(*metadata: tuple[str, str | bytes]) -> PolicyRequest:
    return PolicyRequest(Request("/a.S/M", "greet.test", metadata, None, Peer("10.0.0.9")), KEY, metadata)


def check(settings: RateLimitServiceSettings, *metadata: tuple[str, str | bytes]) -> Verdict:
    return build(KEY, settings, PolicyServices()).check(request(*metadata))


def asked(verdict: Verdict) -> tuple[UnaryRpc, RateLimitRequest]:
    assert isinstance(verdict, Wait)
    assert isinstance(verdict.work, UnaryRpc)
    return verdict.work, RateLimitRequest.FromString(verdict.work.message)


def entries(message: RateLimitRequest) -> list[list[tuple[str, str]]]:
    return [[(one.key, one.value) for one in descriptor.entries] for descriptor in message.descriptors]


def judge(answer: RateLimitResponse | bytes, settings: RateLimitServiceSettings = SETTINGS) -> Allow | Deny:
    message = answer if isinstance(answer, bytes) else answer.SerializeToString()
    return asked(check(settings))[0].judge(Answer(message, (), ()))


def exceeded(seconds: float, **fields: object) -> DescriptorStatus:
    reset = Duration()
    reset.FromMilliseconds(round(seconds * 1000))
    return DescriptorStatus(code=OVER_LIMIT, duration_until_reset=reset, **fields)  # type: ignore[arg-type]


# --- the question


def test_the_question_has_the_descriptors_and_the_limits_of_time() -> None:
    verdict = check(replace(SETTINGS, groups=(FIXED, TENANT)), ("x-tenant", "ann"))
    rpc, message = asked(verdict)
    assert rpc.path == "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
    assert (message.domain, message.hits_addend) == ("shop", 0)
    assert entries(message) == [
        [("generic_key", "x"), ("source_cluster", "")],
        [("a", "b"), ("tenant", "ann"), ("remote_address", "10.0.0.9")],
    ]
    assert isinstance(verdict, Wait)
    assert (verdict.timeout_s, verdict.fail_mode) == (0.02, FailMode.OPEN)


def test_the_older_version_has_another_path() -> None:
    rpc, _ = asked(check(replace(SETTINGS, api_version="v2")))
    assert rpc.path == "/envoy.service.ratelimit.v2.RateLimitService/ShouldRateLimit"


def test_a_descriptor_whose_header_is_absent_is_left_out() -> None:
    assert entries(asked(check(replace(SETTINGS, groups=(TENANT, FIXED))))[1]) == [
        [("generic_key", "x"), ("source_cluster", "")]
    ]


@pytest.mark.parametrize("groups", [(), (TENANT,), (OPTIONAL,), ((),)])
def test_without_a_descriptor_the_service_is_not_called(groups: tuple[LabelGroup, ...]) -> None:
    assert check(replace(SETTINGS, groups=groups)) is ALLOW


def test_the_question_of_fixed_labels_is_made_once() -> None:
    policy = build(KEY, SETTINGS, PolicyServices())
    assert policy.check(request()) is policy.check(request(("x-tenant", "ann")))


_TEXT = st.text(max_size=300)
_LABELS = st.one_of(
    st.builds(FixedLabel, _TEXT, _TEXT),
    st.builds(HeaderLabel, _TEXT, st.sampled_from(["a", "b", "c-bin", ":path", ":authority"]), st.booleans()),
    st.builds(AddressLabel, _TEXT),
)
_VALUE = st.text(st.characters(codec="latin-1"), max_size=200)


@given(
    st.lists(st.lists(_LABELS, max_size=4).map(tuple), max_size=4).map(tuple),
    st.lists(st.tuples(st.sampled_from("ab"), _VALUE), max_size=4).map(tuple),
)
def test_the_question_is_what_the_labels_describe(
    groups: tuple[LabelGroup, ...], metadata: tuple[tuple[str, str], ...]
) -> None:
    described = describe_all([compile_group(group) for group in groups], request(*metadata))
    verdict = check(replace(SETTINGS, groups=groups), *metadata)
    if not described:
        assert verdict is ALLOW
    else:
        assert entries(asked(verdict)[1]) == [list(one) for one in described]


def test_text_that_is_no_unicode_is_escaped() -> None:
    _, message = asked(check(replace(SETTINGS, groups=(TENANT,)), ("x-tenant", "\udc80")))
    assert entries(message)[0][1] == ("tenant", "\\udc80")


# --- the verdict


def test_ok_allows() -> None:
    status = DescriptorStatus(code=OK, current_limit=Limit(requests_per_unit=9, unit=Unit.SECOND), limit_remaining=5)
    assert judge(RateLimitResponse(overall_code=OK)) is ALLOW
    assert judge(RateLimitResponse(overall_code=OK, statuses=[status])) is ALLOW


def test_ok_adds_headers_both_ways_and_facts() -> None:
    metadata = Struct()
    metadata.update({"plan": "gold"})
    answer = RateLimitResponse(
        overall_code=OK,
        request_headers_to_add=[HeaderValue(key="X-Plan", value="gold")],
        response_headers_to_add=[HeaderValue(key="x-left", raw_value=b"5"), HeaderValue(key="grpc-status", value="0")],
        dynamic_metadata=metadata,
    )
    assert judge(answer) == Allow(
        add=(("x-plan", "gold"),), add_response=(("x-left", "5"),), facts=(("limit.plan", "gold"),)
    )


def test_over_limit_refuses_and_says_when_to_come_again() -> None:
    limit = Limit(requests_per_unit=10, unit=Unit.MINUTE, name="per-minute")
    denied = judge(RateLimitResponse(overall_code=OVER_LIMIT, statuses=[exceeded(2.5, current_limit=limit)]))
    assert isinstance(denied, Deny)
    status = denied.status()
    trailers = dict(status.trailers)
    assert (status.code, status.details) == (Code.RESOURCE_EXHAUSTED, f"{WHO}: rate limit per-minute reached")
    assert trailers["x-grpcgw-reason"] == "rate-limit"
    assert trailers["x-envoy-ratelimited"] == "true"
    assert trailers["grpc-retry-pushback-ms"] == "2500"
    assert trailers["x-ratelimit-limit"] == '10, 10;w=60;name="per-minute"'
    assert (trailers["x-ratelimit-remaining"], trailers["x-ratelimit-reset"]) == ("0", "2")
    details = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])  # type: ignore[arg-type]
    info = error_details_pb2.RetryInfo()
    assert details.details[0].Unpack(info)
    assert info.retry_delay.ToMilliseconds() == 2500


def test_the_exceeded_limit_that_lasts_longest_decides_when_to_come_again() -> None:
    fine = DescriptorStatus(code=OK, duration_until_reset=Duration(seconds=99))
    denied = judge(RateLimitResponse(overall_code=OVER_LIMIT, statuses=[exceeded(1), exceeded(30), fine]))
    assert isinstance(denied, Deny)
    assert denied.retry_after_ms == 30_000


@pytest.mark.parametrize("statuses", [[], [DescriptorStatus(code=OVER_LIMIT)], [exceeded(0)], [exceeded(-5)]])
def test_without_a_time_no_client_is_told_when_to_come_again(statuses: list[DescriptorStatus]) -> None:
    denied = judge(RateLimitResponse(overall_code=OVER_LIMIT, statuses=statuses))
    assert isinstance(denied, Deny)
    assert (denied.code, denied.retry_after_ms, denied.details) == (Code.RESOURCE_EXHAUSTED, None, b"")


def test_a_time_beyond_all_bounds_is_cut() -> None:
    forever = DescriptorStatus(code=OVER_LIMIT, duration_until_reset=Duration(seconds=315_576_000_000))
    denied = judge(RateLimitResponse(overall_code=OVER_LIMIT, statuses=[forever]))
    assert isinstance(denied, Deny)
    assert denied.status()
    assert denied.retry_after_ms == 2**31 - 1


def test_the_code_may_be_unavailable() -> None:
    denied = judge(RateLimitResponse(overall_code=OVER_LIMIT), replace(SETTINGS, code=Code.UNAVAILABLE))
    assert isinstance(denied, Deny)
    assert denied.status().code == Code.UNAVAILABLE


def test_the_body_is_the_message_and_headers_are_trailers() -> None:
    answer = RateLimitResponse(
        overall_code=OVER_LIMIT,
        raw_body="zu viel\xff".encode() + b"\xff",
        response_headers_to_add=[HeaderValue(key="X-RateLimit-Limit", value="own"), HeaderValue(key="a b", value="c")],
        statuses=[exceeded(1, current_limit=Limit(requests_per_unit=1, unit=Unit.DAY))],
    )
    denied = judge(answer)
    assert isinstance(denied, Deny)
    assert denied.message == "zu viel\xff�"
    assert denied.metadata == (("x-envoy-ratelimited", "true"), ("x-ratelimit-limit", "own"))


def test_a_body_without_end_is_cut() -> None:
    denied = judge(RateLimitResponse(overall_code=OVER_LIMIT, raw_body=b"x" * 100_000, statuses=[exceeded(1)]))
    assert isinstance(denied, Deny)
    assert sum(len(value) for _, value in denied.status().trailers) < 2000
    assert len(denied.status().details) <= 512


def test_many_limits_with_long_names_are_shown_in_bounds() -> None:
    limit = Limit(requests_per_unit=4_000_000_000, unit=Unit.YEAR, name='"' + "x" * 10_000)
    denied = judge(RateLimitResponse(overall_code=OVER_LIMIT, statuses=[exceeded(1, current_limit=limit)] * 1000))
    assert isinstance(denied, Deny)
    assert sum(len(value) for _, value in denied.metadata) < 1000
    assert len(denied.message) < 300


@pytest.mark.parametrize(
    "answer", [b"\xff", b"", RateLimitResponse(overall_code=UNKNOWN).SerializeToString(), b"\x08\x63"]
)
def test_nonsense_is_decided_by_the_failure_mode(answer: bytes) -> None:
    assert judge(answer) == Allow(facts=((FAILED_OPEN, "RateLimitService limits.default"),))
    denied = judge(answer, replace(SETTINGS, failure_mode_deny=True))
    assert isinstance(denied, Deny)
    assert (denied.status().code, denied.reason) == (Code.UNAVAILABLE, "policy-unavailable")
    assert WHO in denied.message


@given(st.binary(max_size=200))
def test_any_answer_makes_a_verdict(answer: bytes) -> None:
    verdict = judge(answer)
    assert isinstance(verdict, Allow) or verdict.status().code != Code.OK


def test_the_catalogue_has_it() -> None:
    assert "rate-limit-service" in [kind.kind for kind in CATALOGUE.kinds]
