"""RateLimitServices: which Mappings they limit, what each field does, and what happens where one is broken."""

from __future__ import annotations

import pytest

from grpcgw.model.codes import Code
from grpcgw.model.labels import FixedLabel, HeaderLabel
from grpcgw.model.objects import KubeObject, Severity
from grpcgw.model.rate_limit_service import RateLimitServiceSettings
from grpcgw.model.route_source import Compiled, CompileOptions
from tests.compiling import compile_objects, destinations, guard_of, mapping, module, obj, said

LABELS = {"ambassador": [{"group": [{"generic_key": {"value": "x"}}]}], "shop": [{"g": ["remote_address"]}]}
WITHOUT = CompileOptions(serve_without_auth=True)


def service(name: str = "limits", **fields: object) -> KubeObject:
    return obj("RateLimitService", name, {"service": "limits:8081", "protocol_version": "v3", **fields})


def settings_of(*objects: KubeObject) -> RateLimitServiceSettings:
    (found,) = destinations(compile_objects(*objects, mapping(labels=LABELS)))["greet.shop"].policies
    assert isinstance(found, RateLimitServiceSettings)
    return found


def is_limited(compiled: Compiled, label: str = "greet.shop") -> bool:
    return bool(destinations(compiled)[label].policies)


def test_mappings_with_labels_of_the_domain_are_limited_by_it() -> None:
    compiled = compile_objects(service(), mapping(labels=LABELS), mapping("other", prefix="/other.S/"))
    assert said(compiled) == []
    assert (is_limited(compiled), is_limited(compiled, "other.shop")) == (True, False)
    settings = settings_of(service())
    assert (settings.name, settings.domain) == ("RateLimitService limits.shop", "ambassador")
    assert settings.groups == ((FixedLabel("generic_key", "x"),),)
    assert (settings.timeout_ms, settings.failure_mode_deny) == (20, False)
    assert (settings.code, settings.api_version) == (Code.RESOURCE_EXHAUSTED, "v3")


def test_the_cluster_of_the_service_is_of_the_configuration() -> None:
    compiled = compile_objects(service(), mapping(labels=LABELS))
    (upstream,) = settings_of(service()).upstreams
    cluster = compiled.snapshot.clusters[upstream.clusters[0].cluster]
    assert (cluster.service.name, cluster.service.port) == ("limits", 8081)


def test_a_domain_of_its_own() -> None:
    settings = settings_of(service(domain="shop"))
    assert (settings.domain, len(settings.groups)) == ("shop", 1)
    assert not is_limited(compile_objects(service(domain="none"), mapping(labels=LABELS)))


def test_the_module_gives_the_domain_and_the_first_labels() -> None:
    defaults = {"shop": {"defaults": [{"tenant": {"header": "x-tenant"}}]}}
    settings = settings_of(service(), module(default_label_domain="shop", default_labels=defaults))
    assert settings.domain == "shop"
    assert settings.groups[0][0] == HeaderLabel("tenant", "x-tenant")
    alone = compile_objects(service(), module(default_label_domain="shop", default_labels=defaults), mapping())
    assert is_limited(alone)


@pytest.mark.parametrize(
    ("grpc", "code"),
    [
        (None, Code.RESOURCE_EXHAUSTED),
        ({}, Code.RESOURCE_EXHAUSTED),
        ({"use_resource_exhausted_code": True}, Code.RESOURCE_EXHAUSTED),
        ({"rate_limited_as_resource_exhausted": True}, Code.RESOURCE_EXHAUSTED),
        ({"use_resource_exhausted_code": False}, Code.UNAVAILABLE),
        ({"rate_limited_as_resource_exhausted": False}, Code.UNAVAILABLE),
    ],
)
def test_both_spellings_of_the_code_are_read(grpc: object, code: Code) -> None:
    assert settings_of(service(grpc=grpc)).code is code


def test_spellings_that_differ_are_an_error() -> None:
    both = {"use_resource_exhausted_code": False, "rate_limited_as_resource_exhausted": True}
    (error,) = said(compile_objects(service(grpc=both)), Severity.ERROR)
    assert "two names of one field" in error


def test_the_other_fields() -> None:
    given = service(
        timeout_ms=500, failure_mode_deny=True, protocol_version="v2", stats_name="counter", tls=True, service="limits"
    )
    settings = settings_of(given)
    assert (settings.timeout_ms, settings.failure_mode_deny, settings.api_version) == (500, True, "v2")
    assert settings.upstreams[0].stats_name == "counter"
    cluster = compile_objects(given, mapping(labels=LABELS)).snapshot.clusters[
        settings.upstreams[0].clusters[0].cluster
    ]
    assert (cluster.service.port, cluster.connection.tls is not None) == (443, True)
    assert settings_of(service(v3StatsName="counter")).upstreams[0].stats_name == "counter"


def test_without_a_version_a_notice_says_which_is_called() -> None:
    (notice,) = said(compile_objects(obj("RateLimitService", "limits", {"service": "limits"})))
    assert "calls envoy.service.ratelimit.v3" in notice


def test_without_a_limit_an_answer_may_take_five_minutes() -> None:
    compiled = compile_objects(service(timeout_ms=0), mapping(labels=LABELS))
    (settings,) = destinations(compiled)["greet.shop"].policies
    assert isinstance(settings, RateLimitServiceSettings)
    assert settings.timeout_ms == 300_000


def test_an_empty_domain_is_the_default() -> None:
    compiled = compile_objects(service(domain=""), mapping(labels=LABELS))
    (settings,) = destinations(compiled)["greet.shop"].policies
    assert isinstance(settings, RateLimitServiceSettings)
    assert settings.domain == "ambassador"


def test_the_one_that_edge_stack_installs_for_its_limits_is_not_called() -> None:
    own = service("ambassador-edge-stack-ratelimit", service="127.0.0.1:8500", failure_mode_deny=True)
    compiled = compile_objects(own, mapping(labels=LABELS))
    assert not is_limited(compiled)
    (notice,) = said(compiled)
    assert "spec.service: has no effect: it is the service of Edge Stack itself, whose RateLimits" in notice
    compiled = compile_objects(own, service("limits"), mapping(labels=LABELS))
    assert said(compiled, Severity.ERROR) == []
    (settings,) = destinations(compiled)["greet.shop"].policies
    assert settings.name == "RateLimitService limits.shop"


def test_a_second_one_is_an_error_at_its_source_and_the_first_serves() -> None:
    compiled = compile_objects(service("b", domain="shop"), service("a"), mapping(labels=LABELS))
    (error,) = said(compiled, Severity.ERROR)
    assert "RateLimitService b.shop: a gateway has one RateLimitService, and RateLimitService a.shop is it" in error
    (settings,) = destinations(compiled)["greet.shop"].policies
    assert settings.name == "RateLimitService a.shop"


@pytest.mark.parametrize("wrong", [{"service": "http://:x"}, {"timeout_ms": -1}, {"tls": "missing"}, {"domain": 5}])
def test_one_with_errors_limits_nothing_unless_it_fails_closed(wrong: dict[str, object]) -> None:
    compiled = compile_objects(service(**wrong), mapping(labels=LABELS))
    (error,) = said(compiled, Severity.ERROR)
    assert "left out: it limits no calls" in error
    assert not is_limited(compiled)
    closed = service(**wrong, failure_mode_deny=True)
    compiled = compile_objects(closed, mapping(labels=LABELS))
    assert guard_of(destinations(compiled)["greet.shop"]) == "RateLimitService limits.shop"
    assert "are refused (failure_mode_deny)" in "".join(said(compiled, Severity.ERROR))
    assert not is_limited(compile_objects(closed, mapping(labels=LABELS), options=WITHOUT))
    assert not is_limited(compile_objects(closed, mapping()))


def test_the_last_good_version_serves_on() -> None:
    before = compile_objects(service(timeout_ms=30), mapping(labels=LABELS))
    after = compile_objects(service(timeout_ms=-1), mapping(labels=LABELS), last=before)
    (settings,) = destinations(after)["greet.shop"].policies
    assert isinstance(settings, RateLimitServiceSettings)
    assert settings.timeout_ms == 30
