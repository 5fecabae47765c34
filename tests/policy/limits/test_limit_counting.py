"""Counting for others: what the gateway's own rate limit service answers, and its bounds."""

from __future__ import annotations

import contextlib

import pytest
from google.protobuf.wrappers_pb2 import UInt64Value
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.model.header_template import HeaderTemplate
from grpcgw.model.labels import HeaderLabel
from grpcgw.model.objects import ObjectKey
from grpcgw.model.rate_limits import DomainLimits, LabelLimit, Rate, Unit
from grpcgw.policy.contract import PolicyRequest
from grpcgw.policy.limits import rate_limit_service_pb2 as pb
from grpcgw.policy.limits.limit_counting import (
    MAX_DESCRIPTOR_BYTES,
    MAX_REQUEST_BYTES,
    MOST_DESCRIPTORS,
    BadRequest,
    CountedRequest,
    LimitDomains,
)
from grpcgw.policy.limits.limiter import Limiter
from grpcgw.policy.limits.rpc_labels import compile_group
from grpcgw.policy.request import Peer, Request
from grpcgw.policy.services import PolicyServices

ALL = LabelLimit("all", ((("generic_key", "all"),),), Rate(3, Unit.MINUTE))
TENANT = LabelLimit("tenant", ((("tenant", ""),),), Rate(1, Unit.HOUR, burst=2))
DOMAINS = LimitDomains((DomainLimits("shop", (ALL, TENANT)),))


def limiter() -> Limiter:
    return PolicyServices().limiter


def request(*descriptors: tuple[str, str], domain: str = "shop", hits: int = 0) -> bytes:
    made = [pb.Descriptor(entries=[pb.Entry(key=key, value=value)]) for key, value in descriptors]
    return pb.RateLimitRequest(domain=domain, descriptors=made, hits_addend=hits).SerializeToString()


def ask(
    counts: Limiter, message: bytes, now_s: float = 1000.0, domains: LimitDomains = DOMAINS
) -> pb.RateLimitResponse:
    counted = CountedRequest(message, domains)
    assert counted.count(counts, now_s) == ()
    return pb.RateLimitResponse.FromString(counted.answer(counts, now_s))


def test_a_limit_is_counted_and_its_status_says_what_is_left() -> None:
    counts = limiter()
    first = ask(counts, request(("generic_key", "all")))
    (status,) = first.statuses
    assert (first.overall_code, status.code) == (pb.OK, pb.OK)
    assert (status.current_limit.requests_per_unit, status.current_limit.unit) == (3, pb.MINUTE)
    assert (status.current_limit.name, status.limit_remaining) == ("all", 2)
    assert ask(counts, request(("generic_key", "all"))).statuses[0].limit_remaining == 1
    assert ask(counts, request(("generic_key", "all"))).statuses[0].limit_remaining == 0
    refused = ask(counts, request(("generic_key", "all")))
    (status,) = refused.statuses
    assert (refused.overall_code, status.code, status.limit_remaining) == (pb.OVER_LIMIT, pb.OVER_LIMIT, 0)
    assert status.duration_until_reset.seconds == 60, "the minute began at 1000"


def test_each_descriptor_counts_for_itself() -> None:
    counts = limiter()
    both = request(("generic_key", "all"), ("tenant", "ann"))
    codes = [[one.code for one in ask(counts, both).statuses] for _ in range(4)]
    assert codes == [[pb.OK, pb.OK], [pb.OK, pb.OK], [pb.OK, pb.OVER_LIMIT], [pb.OVER_LIMIT, pb.OVER_LIMIT]]
    assert ask(counts, request(("tenant", "bob"))).overall_code == pb.OK


def test_hits_count_at_once() -> None:
    counts = limiter()
    assert ask(counts, request(("generic_key", "all"), hits=3)).overall_code == pb.OK
    assert ask(counts, request(("generic_key", "all"))).overall_code == pb.OVER_LIMIT
    assert ask(limiter(), request(("generic_key", "all"), hits=4)).overall_code == pb.OVER_LIMIT
    assert ask(limiter(), request(("generic_key", "all"), hits=2**32 - 1)).overall_code == pb.OVER_LIMIT


def test_a_descriptor_may_have_hits_of_its_own() -> None:
    entries = [pb.Entry(key="generic_key", value="all")]
    own = pb.Descriptor(entries=entries, hits_addend=UInt64Value(value=2))
    message = pb.RateLimitRequest(domain="shop", descriptors=[own], hits_addend=3).SerializeToString()
    assert ask(limiter(), message).statuses[0].limit_remaining == 1


@pytest.mark.parametrize("message", [request(("generic_key", "all"), domain="other"), request(("other", "all"))])
def test_an_unknown_domain_or_descriptor_is_allowed(message: bytes) -> None:
    answer = ask(limiter(), message)
    (status,) = answer.statuses
    assert (answer.overall_code, status.code, status.HasField("current_limit")) == (pb.OK, pb.OK, False)


def test_a_limit_that_only_logs_allows() -> None:
    limit = LabelLimit("all", ALL.pattern, Rate(0, Unit.DAY), log_only=True)
    domains = LimitDomains((DomainLimits("shop", (limit,)),))
    assert ask(limiter(), request(("generic_key", "all")), domains=domains).overall_code == pb.OK


def test_templates_of_limits_are_filled() -> None:
    limit = LabelLimit(
        *("one", ((("generic_key", "one"),),), Rate(1, Unit.MINUTE)),
        response_headers=(HeaderTemplate("x-code", "{{ .RateLimitResponse.OverallCode }} {{ .RetryAfter }}"),),
        refusal_headers=(HeaderTemplate("x-why", "{{ .message }}"),),
        refusal_body="wait {{ .RetryAfter }}",
    )
    counts, domains = limiter(), LimitDomains((DomainLimits("shop", (limit,)),))
    allowed, refused = (ask(counts, request(("generic_key", "one")), domains=domains) for _ in range(2))
    assert [one.value for one in allowed.response_headers_to_add] == ["1 0s"]
    assert not allowed.raw_body
    why = "rate limit one (1 per minute) reached"
    assert [one.value for one in refused.response_headers_to_add] == ["2 1m0s", why]
    assert refused.raw_body == b"wait 1m0s"


def test_headers_of_limits_are_passed_on() -> None:
    limit = LabelLimit(
        *("all", ALL.pattern, Rate(1, Unit.DAY)),
        request_headers=(HeaderTemplate("x-limited", "yes"),),
        response_headers=(HeaderTemplate("x-limit", "1"),),
        refusal_headers=(HeaderTemplate("x-why", "too much"),),
    )
    counts, domains = limiter(), LimitDomains((DomainLimits("shop", (limit,)),))
    allowed = ask(counts, request(("generic_key", "all")), domains=domains)
    assert [(one.key, one.value) for one in allowed.request_headers_to_add] == [("x-limited", "yes")]
    assert [(one.key, one.value) for one in allowed.response_headers_to_add] == [("x-limit", "1")]
    refused = ask(counts, request(("generic_key", "all")), domains=domains)
    assert [one.key for one in refused.response_headers_to_add] == ["x-limit", "x-why"]


_BIG = "x" * MAX_DESCRIPTOR_BYTES


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"\xff", "no RateLimitRequest"),
        (b"", "no domain"),
        (request(("a", "b"), domain=""), "no domain"),
        (request(), "1 to 64 descriptors"),
        (request(*[("a", "b")] * (MOST_DESCRIPTORS + 1)), "1 to 64 descriptors"),
        (request(("a", _BIG)), "a descriptor is larger than 4096 bytes"),
        (b"\0" * (MAX_REQUEST_BYTES + 1), "the request is larger than 262144 bytes"),
    ],
)
def test_what_is_beyond_the_bounds_is_refused(message: bytes, why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        CountedRequest(message, DOMAINS)


@given(st.binary(max_size=300))
def test_any_request_is_answered_or_refused(message: bytes) -> None:
    with contextlib.suppress(BadRequest):
        assert ask(limiter(), message).overall_code in (pb.OK, pb.OVER_LIMIT)


def test_a_reload_keeps_what_was_counted_and_the_rules_that_stay() -> None:
    counts = limiter()
    ask(counts, request(("generic_key", "all"), hits=3))
    same = DOMAINS.replace((DomainLimits("shop", (ALL, TENANT)),))
    assert same is DOMAINS
    more = DOMAINS.replace((DomainLimits("shop", (ALL, TENANT)), DomainLimits("other", (ALL,))))
    assert more.rules["shop"] is DOMAINS.rules["shop"]
    changed = DOMAINS.replace((DomainLimits("shop", (ALL,)),))
    assert ask(counts, request(("generic_key", "all")), domains=changed).overall_code == pb.OVER_LIMIT


def test_what_is_left_is_never_more_than_what_is_allowed_then() -> None:
    counts = limiter()
    domains = LimitDomains((DomainLimits("shop", (LabelLimit("all", ALL.pattern, Rate(100_000, Unit.SECOND)),)),))
    now_s = 1000.0
    for _ in range(300):
        left = ask(counts, request(("generic_key", "all"), hits=200), now_s, domains).statuses[0].limit_remaining
        now_s += 0.000_1
    assert left == 100_000 - 300 * 200


def test_a_long_value_counts_as_it_does_for_calls_of_the_gateway() -> None:
    value = "x" * 2000
    message = request(("tenant", value))
    made = compile_group((HeaderLabel("tenant", "x-tenant"),))
    metadata = (("x-tenant", value),)
    own = PolicyRequest(Request("/a/b", "", metadata, None, Peer("")), ObjectKey("Mapping", "a", "b"), metadata)
    counts, described = limiter(), made(own)
    assert described is not None
    assert counts.decide(DOMAINS.rules["shop"], [described], 2, 1000.0).is_plain
    assert ask(counts, message).overall_code == pb.OVER_LIMIT
