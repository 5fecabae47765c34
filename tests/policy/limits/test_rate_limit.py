"""The policy of rate limits: what a refused client gets, and what an allowed RPC gets with it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from google.rpc import error_details_pb2, status_pb2

from grpcgw.model.codes import Code
from grpcgw.model.header_template import HeaderTemplate
from grpcgw.model.labels import FixedLabel, HeaderLabel
from grpcgw.model.metadata import Metadata
from grpcgw.model.objects import ObjectKey
from grpcgw.model.rate_limits import LabelLimit, Rate, RateLimitSettings, Unit
from grpcgw.policy.catalogue import CATALOGUE
from grpcgw.policy.contract import PolicyRequest, Verdict, Wait
from grpcgw.policy.limits.limiter import Leased, LimitCounter
from grpcgw.policy.limits.rate_limit import RateLimitPolicy, build
from grpcgw.policy.request import Peer, Request
from grpcgw.policy.services import PolicyServices
from grpcgw.policy.verdicts import ALLOW, Allow, Deny

KEY = ObjectKey("Mapping", "default", "greet")
PATTERN = ((("generic_key", "foo"),),)


def settings(*limits: LabelLimit) -> RateLimitSettings:
    groups = ((FixedLabel("generic_key", "foo"),), (HeaderLabel("tenant", "x-tenant"),))
    return RateLimitSettings(name="RateLimit limits.default", domain="ambassador", groups=groups, limits=limits)


def check(policy: RateLimitPolicy, metadata: Metadata = (), now_s: float = 1000.0) -> Verdict:
    return policy.check(
        PolicyRequest(Request("/a/b", "", metadata, None, Peer("10.0.0.1")), KEY, metadata, now_s=now_s)
    )


def test_a_refused_client_gets_the_code_the_limit_and_when_to_come_again() -> None:
    policy = build(KEY, settings(LabelLimit("per-minute", PATTERN, Rate(2, Unit.MINUTE))), PolicyServices())
    assert check(policy) is ALLOW
    assert check(policy, now_s=1010.0) is ALLOW
    denied = check(policy, now_s=1015.0)
    assert isinstance(denied, Deny)
    status = denied.status()
    trailers = dict(status.trailers)
    assert status.code == Code.RESOURCE_EXHAUSTED
    assert status.details == "Mapping greet.default: rate limit per-minute (2 per minute) reached"
    assert trailers["x-grpcgw-reason"] == "rate-limit"
    # The minute began at 1000.
    assert trailers["grpc-retry-pushback-ms"] == "45000"
    details = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])  # type: ignore[arg-type]
    assert (details.code, details.message) == (status.code, status.details)
    info = error_details_pb2.RetryInfo()
    assert details.details[0].Unpack(info)
    assert info.retry_delay.ToMilliseconds() == 45_000


def test_a_limit_adds_to_requests_answers_and_refusals() -> None:
    limit = LabelLimit(
        *("one", PATTERN, Rate(1, Unit.MINUTE)),
        request_headers=(HeaderTemplate("x-limited", "yes"),),
        response_headers=(HeaderTemplate("x-limit", "1"),),
        refusal_headers=(HeaderTemplate("x-why", "too much"),),
    )
    policy = build(KEY, settings(limit), PolicyServices())
    assert check(policy) == Allow(add=(("x-limited", "yes"),), add_response=(("x-limit", "1"),))
    denied = check(policy)
    assert isinstance(denied, Deny)
    assert denied.metadata == (("x-why", "too much"), ("x-limit", "1"))


STATUSES = "{{ .RateLimitResponse.OverallCode }}: {{ (index .RateLimitResponse.Statuses 0).LimitRemaining }} of "
STATUSES += "{{ (index .RateLimitResponse.Statuses 0).CurrentLimit.RequestsPerUnit }}"


def test_templates_tell_what_was_decided() -> None:
    limit = LabelLimit(
        *("one", PATTERN, Rate(2, Unit.MINUTE)),
        request_headers=(HeaderTemplate("x-wait", "{{ .RetryAfter }}"),),
        response_headers=(HeaderTemplate("x-limit", STATUSES),),
        refusal_headers=(HeaderTemplate("x-id", "{{ .request_id }} {{ .status_code }}"),),
        refusal_body="{{ .message }}: come again in {{ .RetryAfter.Seconds }} s",
    )
    policy = build(KEY, settings(limit), PolicyServices())
    allowed = Allow(add=(("x-wait", "0s"),), add_response=(("x-limit", "1: 1 of 2"),))
    assert check(policy) == allowed
    assert check(policy).add_response == (("x-limit", "1: 0 of 2"),)  # type: ignore[union-attr]
    denied = check(policy, (("x-request-id", "7f"),), now_s=1010.0)
    assert isinstance(denied, Deny)
    assert denied.message == "Mapping greet.default: rate limit one (2 per minute) reached: come again in 50 s"
    assert denied.metadata == (("x-id", "7f 429"), ("x-limit", "2: 0 of 2"))


def test_a_header_whose_template_does_not_fit_is_left_out() -> None:
    limit = LabelLimit(
        *("one", PATTERN, Rate(1, Unit.MINUTE)),
        response_headers=(
            HeaderTemplate("x-second", "{{ (index .RateLimitResponse.Statuses 1).Code }}"),
            HeaderTemplate("x-limited", "{{ if .RetryAfter }}yes{{ else }}{{ doNotSet }}{{ end }}"),
        ),
    )
    policy = build(KEY, settings(limit), PolicyServices())
    assert check(policy) == Allow()
    denied = check(policy)
    assert isinstance(denied, Deny)
    assert denied.metadata == (("x-limited", "yes"),)


def test_a_limit_that_only_logs_leaves_a_fact() -> None:
    policy = build(KEY, settings(LabelLimit("one", PATTERN, Rate(1, Unit.MINUTE), log_only=True)), PolicyServices())
    assert check(policy) is ALLOW
    assert check(policy) == Allow(facts=(("rate-limit", "one"),))


def test_all_descriptors_of_an_rpc_count() -> None:
    per_tenant = LabelLimit("tenant", ((("tenant", ""),),), Rate(1, Unit.MINUTE))
    policy = build(KEY, settings(per_tenant), PolicyServices())
    assert check(policy, (("x-tenant", "a"),)) is ALLOW
    assert isinstance(check(policy, (("x-tenant", "a"),)), Deny)
    assert check(policy, (("x-tenant", "b"),)) is ALLOW
    assert check(policy) is ALLOW, "the RPC has no tenant, and the other descriptor no limit"


def test_a_reload_keeps_what_was_counted() -> None:
    services = PolicyServices()
    before = settings(LabelLimit("one", PATTERN, Rate(2, Unit.HOUR)))
    assert check(build(KEY, before, services)) is ALLOW
    after = settings(LabelLimit("one", PATTERN, Rate(2, Unit.HOUR)), LabelLimit("two", (), Rate(9, Unit.HOUR)))
    policy = build(KEY, after, services)
    assert [type(check(policy)) for _ in range(2)] == [Allow, Deny]


class LostRemote:
    """Remote buckets from which no lease ever comes."""

    away = False

    def collect(self) -> list[Leased]:
        return []

    def lease(self, counters: Sequence[LimitCounter], hits: int) -> Callable[[], Coroutine[Any, Any, Allow]]:
        async def nothing() -> Allow:
            return ALLOW

        return nothing


@pytest.mark.parametrize("answer", [ALLOW, Allow(facts=(("failed-open", "x"),))], ids=["no lease", "no answer"])
def test_without_leases_of_the_remote_buckets_the_limit_of_the_machine_holds(answer: Allow) -> None:
    services = PolicyServices()
    services.limiter.remote = LostRemote()
    policy = build(KEY, settings(LabelLimit("one", PATTERN, Rate(1, Unit.HOUR))), services)

    def decide() -> Verdict:
        verdict, waits = check(policy), 0
        while isinstance(verdict, Wait):
            waits += 1
            assert verdict.then is not None
            verdict = verdict.then(answer)
        assert waits == (3 if answer is ALLOW else 1)
        return verdict

    assert decide() is ALLOW
    assert isinstance(decide(), Deny)
    assert isinstance(check(policy), Deny), "a refusal is remembered"


def test_the_catalogue_has_it() -> None:
    assert "rate-limit" in [kind.kind for kind in CATALOGUE.kinds]
