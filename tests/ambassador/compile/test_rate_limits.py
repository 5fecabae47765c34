"""RateLimits and the limits of Mappings themselves, compiled: which Mapping gets which, and what is refused."""

from __future__ import annotations

import pytest

from grpcgw.ambassador.compile.rate_limits import RateLimitsGuard
from grpcgw.model.header_template import HeaderTemplate
from grpcgw.model.labels import AddressLabel, FixedLabel, HeaderLabel
from grpcgw.model.objects import KubeObject, Severity
from grpcgw.model.rate_limits import ConcurrencyLimitSettings, LabelLimit, Rate, RateLimitSettings, Unit
from grpcgw.model.route import PolicySettings, Unenforced
from grpcgw.model.route_source import Compiled, CompileOptions
from tests.compiling import compile_objects, destinations, mapping, module, obj, said

FOO = {"ambassador": [{"group": ["foo"]}]}
PATTERN = ((("generic_key", "foo"),),)
ONE: dict[str, object] = {"pattern": [{"generic_key": "foo"}], "rate": 5, "unit": "minute"}


def limits(*given: dict[str, object], name: str = "limits") -> KubeObject:
    return obj("RateLimit", name, {"domain": "ambassador", "limits": list(given)})


def policies(compiled: Compiled, label: str = "greet.shop") -> tuple[PolicySettings, ...]:
    return {one: found.policies for one, found in destinations(compiled).items()}[label]


def only_limit(compiled: Compiled) -> LabelLimit:
    (settings,) = policies(compiled)
    assert isinstance(settings, RateLimitSettings)
    (limit,) = settings.limits
    return limit


def test_a_rate_limit_decides_on_the_mappings_with_labels_that_it_counts() -> None:
    other = mapping("other", prefix="/other.S/", labels={"ambassador": [{"group": ["bar"]}]})
    compiled = compile_objects(limits(ONE), mapping(labels=FOO), other, mapping("free", prefix="/free.S/"))
    assert not said(compiled)
    assert policies(compiled) == (
        RateLimitSettings(
            name="RateLimit limits.shop",
            domain="ambassador",
            groups=((FixedLabel("generic_key", "foo"),),),
            limits=(LabelLimit("limits.shop-0", PATTERN, Rate(5, Unit.MINUTE)),),
        ),
    )
    assert policies(compiled, "other.shop") == policies(compiled, "free.shop") == ()


def test_labels_of_the_module_are_enough() -> None:
    defaults = module(default_labels={"ambassador": {"defaults": ["remote_address"]}})
    per_client = {"pattern": [{"remote_address": "*"}], "rate": 5, "unit": "second"}
    (settings,) = policies(compile_objects(limits(per_client), defaults, mapping()))
    assert isinstance(settings, RateLimitSettings)
    assert settings.groups == ((AddressLabel("remote_address"),),)
    assert settings.limits[0].pattern == ((("remote_address", ""),),)


def test_the_domain_is_the_modules_where_none_is_given() -> None:
    given = obj("RateLimit", "limits", {"limits": [ONE]})
    shop = {"shop": [{"group": ["foo"]}]}
    assert policies(compile_objects(given, module(default_label_domain="shop"), mapping(labels=shop)))
    assert not policies(compile_objects(given, mapping(labels=shop)))


def test_all_rate_limits_of_a_domain_decide_together() -> None:
    more = limits({**ONE, "pattern": [{"generic_key": ""}]}, name="more")
    (settings,) = policies(compile_objects(limits(ONE), more, mapping(labels=FOO)))
    assert isinstance(settings, RateLimitSettings)
    assert settings.name == "RateLimit limits.shop, RateLimit more.shop"
    assert [one.name for one in settings.limits] == ["limits.shop-0", "more.shop-0"]


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({"name": "own"}, LabelLimit("own", PATTERN, Rate(5, Unit.MINUTE))),
        ({"action": "LogOnly"}, LabelLimit("limits.shop-0", PATTERN, Rate(5, Unit.MINUTE), True)),
        ({"unit": "Hour"}, LabelLimit("limits.shop-0", PATTERN, Rate(5, Unit.HOUR))),
        ({"burstFactor": 3}, LabelLimit("limits.shop-0", PATTERN, Rate(5, Unit.MINUTE, 15))),
        ({"rate": 0}, LabelLimit("limits.shop-0", PATTERN, Rate(0, Unit.MINUTE))),
        (
            {"pattern": [{"generic_key": "foo", "other": "*"}]},
            LabelLimit("limits.shop-0", ((("generic_key", "foo"), ("other", "")),), Rate(5, Unit.MINUTE)),
        ),
        (
            {
                "injectRequestHeaders": [{"name": "X-A", "value": "1"}],
                "injectResponseHeaders": [{"name": "x-b", "value": "2"}],
                "errorResponse": {"headers": [{"name": "x-c", "value": "3"}]},
            },
            LabelLimit(
                *("limits.shop-0", PATTERN, Rate(5, Unit.MINUTE), False),
                *((HeaderTemplate("x-a", "1"),), (HeaderTemplate("x-b", "2"),), (HeaderTemplate("x-c", "3"),)),
            ),
        ),
    ],
    ids=str,
)
def test_each_field_of_a_limit(fields: dict[str, object], limit: LabelLimit) -> None:
    compiled = compile_objects(limits({**ONE, **fields}), mapping(labels=FOO))
    assert not said(compiled)
    assert only_limit(compiled) == limit


def test_templates_of_headers_and_messages_are_taken() -> None:
    remaining = "{{ (index .RateLimitResponse.Statuses 0).LimitRemaining }}"
    error = {"headers": [{"name": "x-id", "value": "{{ .request_id }}"}], "bodyTemplate": "in {{ .RetryAfter }}"}
    given = limits({**ONE, "injectResponseHeaders": [{"name": "X-B", "value": remaining}], "errorResponse": error})
    compiled = compile_objects(given, mapping(labels=FOO))
    assert not said(compiled)
    limit = only_limit(compiled)
    assert limit.response_headers == (HeaderTemplate("x-b", remaining),)
    assert limit.refusal_headers == (HeaderTemplate("x-id", "{{ .request_id }}"),)
    assert limit.refusal_body == "in {{ .RetryAfter }}"


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{{ range .RateLimitResponse.Statuses }}{{ end }}", "not supported: range"),
        ("{{ .message }}", "it asks for .message, which there is not"),
        ("{{ .RetryAfter.Fortnights }}", "a duration has no .Fortnights"),
        ("{{ .RateLimitResponse.Statuses.Code }}", "is asked of something that has no fields"),
        ("{{ .RetryAfter", "{{ without }}"),
    ],
)
def test_a_template_that_cannot_be_used_is_reported_and_the_limit_holds(template: str, error: str) -> None:
    given = limits({**ONE, "injectResponseHeaders": [{"name": "x-b", "value": template}]})
    compiled = compile_objects(given, mapping(labels=FOO))
    (said_error,) = said(compiled, Severity.ERROR)
    assert "injectResponseHeaders.0.value: the template cannot be used" in said_error
    assert error in said_error
    assert said_error.endswith("the header is left out")
    assert only_limit(compiled).response_headers == ()


def test_a_message_that_cannot_be_used_is_reported_and_the_limit_holds() -> None:
    given = limits({**ONE, "errorResponse": {"bodyTemplate": "{{ .nothing }}"}})
    compiled = compile_objects(given, mapping(labels=FOO))
    (error,) = said(compiled, Severity.ERROR)
    assert "errorResponse.bodyTemplate: the template cannot be used: it asks for .nothing" in error
    assert only_limit(compiled).refusal_body == ""


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"unit": "week"}, "unit"),
        ({"rate": -1}, "rate"),
        ({"pattern": [{}]}, "should be an object with one label or more"),
        ({"action": "Refuse"}, "action"),
        ({"injectRequestHeaders": [{"name": "grpc-status", "value": "0"}]}, "grpc-status"),
        ({"injectRequestHeaders": [{"name": "x-a", "value": "ä"}]}, "should be printable ASCII characters"),
        ({"burst": 5}, "burst"),
    ],
    ids=str,
)
def test_a_rate_limit_that_cannot_be_compiled_refuses_what_it_limits(fields: dict[str, object], error: str) -> None:
    bad, free = limits({**ONE, **fields}), mapping("free", prefix="/free.S/")
    compiled = compile_objects(bad, mapping(labels=FOO), free)
    assert any(error in one and "the calls that it limits are refused" in one for one in said(compiled, Severity.ERROR))
    assert policies(compiled) == (Unenforced(name="RateLimit limits.shop", why="cannot be enforced: it has errors"),)
    assert policies(compiled, "free.shop") == ()
    without = compile_objects(bad, mapping(labels=FOO), options=CompileOptions(serve_without_auth=True))
    assert policies(without) == ()


def test_the_last_good_version_limits_while_the_new_one_has_an_error() -> None:
    before = compile_objects(limits(ONE), mapping(labels=FOO))
    after = compile_objects(limits({**ONE, "unit": "week"}), mapping(labels=FOO), last=before)
    assert only_limit(after) == only_limit(before)
    assert "the last good version keeps serving" in said(after, Severity.ERROR)[0]


# --- limits of a Mapping itself


def test_a_mapping_may_have_a_rate_limit_of_its_own() -> None:
    own = {"rate": 100, "burst": 10, "per": ["remote_address", "X-Tenant"]}
    assert policies(compile_objects(mapping(rate_limit=own))) == (
        RateLimitSettings(
            name="rate_limit of Mapping greet.shop",
            domain="",
            groups=(
                (
                    FixedLabel("mapping", "greet.shop"),
                    AddressLabel("remote_address", missing=""),
                    HeaderLabel("x-tenant", "x-tenant", missing=""),
                ),
            ),
            limits=(
                LabelLimit(
                    "rate_limit",
                    ((("mapping", "greet.shop"),), (("remote_address", ""),), (("x-tenant", ""),)),
                    Rate(100, Unit.SECOND, 10),
                ),
            ),
        ),
    )


def test_a_mapping_may_limit_how_many_calls_run() -> None:
    expected = ConcurrencyLimitSettings(name="concurrency_limit of Mapping greet.shop", most=7)
    assert policies(compile_objects(mapping(concurrency_limit=7))) == (expected,)


def test_the_module_may_set_limits_for_all_mappings() -> None:
    defaults = module(defaults={"httpmapping": {"rate_limit": {"rate": 3}, "concurrency_limit": 7}})
    found = policies(compile_objects(defaults, mapping()))
    assert [one.kind for one in found] == ["rate-limit", "concurrency-limit"]


@pytest.mark.parametrize(
    "fields",
    [
        {"rate_limit": {"rate": 5, "per": ["a b"]}},
        {"rate_limit": {"rate": 5, "unit": "week"}},
        {"rate_limit": {"unit": "second"}},
        {"rate_limit": 5},
        {"concurrency_limit": 0},
        {"labels": {"ambassador": "foo"}},
    ],
    ids=str,
)
def test_a_mapping_with_a_limit_that_cannot_be_read_is_left_out(fields: dict[str, object]) -> None:
    compiled = compile_objects(mapping(**fields))
    assert said(compiled, Severity.ERROR)
    assert "greet.shop" not in destinations(compiled)


def test_guards_that_say_the_same_are_equal() -> None:
    """So that a reload compiles no Mapping again for them."""
    one, other = (RateLimitsGuard("RateLimit a.b", "d", (), {"d": (FixedLabel("k", "v"),)}) for _ in range(2))
    assert one == other


def test_the_limits_of_all_domains_are_there_for_the_rate_limit_service() -> None:
    one = obj("RateLimit", "one", {"domain": "a", "limits": [{"pattern": [{"x": "y"}], "rate": 1, "unit": "day"}]})
    other = obj("RateLimit", "other", {"limits": [{"pattern": [], "rate": 2, "unit": "hour"}]})
    compiled = compile_objects(one, other).snapshot
    assert {each.domain: [limit.rate.amount for limit in each.limits] for each in compiled.rate_limits} == {
        "a": [1],
        "ambassador": [2],
    }
    assert compiled.version != compile_objects(one).snapshot.version


def test_a_limit_whose_pattern_another_has_before_it_has_a_notice() -> None:
    other = {"domain": "other", "limits": [ONE]}
    several = limits(ONE, {**ONE, "rate": 1}), limits(ONE, name="second"), obj("RateLimit", "third", other)
    reason = "has no effect: limits.shop-0 of RateLimit limits.shop has the same pattern"
    assert said(compile_objects(*several, mapping(labels=FOO))) == [
        f"limits.yaml: notice: RateLimit limits.shop spec.limits.1: {reason}",
        f"second.yaml: notice: RateLimit second.shop spec.limits.0: {reason}",
    ]
