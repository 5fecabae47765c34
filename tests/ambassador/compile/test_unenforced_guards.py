"""What is to decide who may call and cannot be asked yet: what it protects is refused, unless a flag says otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from grpcgw.cli.main import execute
from grpcgw.model.objects import KubeObject, Severity
from grpcgw.model.route_source import Compiled, CompileOptions
from tests.compiling import compile_objects, destinations, guard_of, mapping, module, obj, said

WITHOUT = CompileOptions(serve_without_auth=True)


def limit(kind: str = "RateLimit", **fields: object) -> KubeObject:
    return obj(kind, "limit", fields)


def guarded(compiled: Compiled) -> dict[str, str]:
    return {label: guard_of(one) for label, one in destinations(compiled).items()}


@pytest.mark.parametrize("api", ["getambassador.io/v1", "getambassador.io/v2", "getambassador.io/v3alpha1"])
@pytest.mark.parametrize("kind", ["WebApplicationFirewall"])
def test_what_would_decide_on_calls_is_an_error_and_with_the_flag_a_notice(kind: str, api: str) -> None:
    guard = obj(kind, "guard", {}, api=api)
    (error,) = said(compile_objects(guard), Severity.ERROR)
    assert f"{kind} guard.shop: {kind} is not supported yet" in error
    assert "--serve-without-auth" in error
    (notice,) = said(compile_objects(guard, options=WITHOUT))
    assert f"notice: {kind} guard.shop: {kind} is not supported yet: calls are not" in notice


@pytest.mark.parametrize(
    ("kind", "spec", "is_guarded"),
    [
        ("WebApplicationFirewallPolicy", {"rules": [{"host": "*", "path": "*"}]}, True),
        ("WebApplicationFirewall", {"firewallRules": []}, False),
    ],
)
def test_the_newer_objects_of_edge_stack_protect_too(kind: str, spec: dict[str, object], is_guarded: bool) -> None:
    compiled = compile_objects(obj(kind, "guard", spec, api="gateway.getambassador.io/v1alpha1"), mapping())
    assert bool(guarded(compiled)["greet.shop"]) is is_guarded
    assert said(compiled, Severity.ERROR) != []


EDGE_STACK = "gateway.getambassador.io/v1alpha1"


def firewall(rules: object, **fields: object) -> KubeObject:
    return obj("WebApplicationFirewallPolicy", "waf", {"rules": rules, **fields}, api=EDGE_STACK)


@pytest.mark.parametrize(
    ("rules", "is_guarded"),
    [
        ([{"wafRef": {"name": "waf"}}], True),
        ([{"path": "/greet.GrpcService/*", "wafRef": {"name": "waf"}}], True),
        ([{"path": "/login/*", "wafRef": {"name": "waf"}}], False),
        ([{"path": "/login/*"}, {"path": "*", "precedence": 3}], True),
        ([{"ifRequestHeader": {"name": "x-from", "value": "outside"}}], True),
        ([{"path": 5}], True),
        (["*"], True),
        ("none", True),
        (None, True),
        ([], False),
    ],
    ids=str,
)
def test_a_firewall_policy_refuses_the_calls_that_its_rules_may_match(rules: object, is_guarded: bool) -> None:
    """It is unclear what a firewall would let pass, so nothing does."""
    compiled = compile_objects(firewall(rules), mapping())
    assert bool(guarded(compiled)["greet.shop"]) is is_guarded
    assert "the calls of the Mappings that it protects are refused" in said(compiled, Severity.ERROR)[0]
    assert guarded(compile_objects(firewall(rules), mapping(), options=WITHOUT)) == {"greet.shop": ""}


@pytest.mark.parametrize(
    ("selector", "is_guarded"),
    [({"ambassadorIds": ["other"]}, False), ({"ambassadorIds": ["default", "other"]}, True), ({}, True), ("x", True)],
    ids=str,
)
def test_a_selector_says_for_which_gateway_an_object_of_edge_stack_is(selector: object, is_guarded: bool) -> None:
    compiled = compile_objects(firewall([{}], ambassadorSelector=selector), mapping())
    assert bool(guarded(compiled)["greet.shop"]) is is_guarded


def test_one_that_comes_and_goes_protects_while_it_is_there() -> None:
    without = compile_objects(mapping())
    within = compile_objects(mapping(), limit(), mapping("limited", prefix="/l.S/", labels=LABELS), last=without)
    assert within.snapshot.version != without.snapshot.version
    assert compile_objects(mapping(), last=within).snapshot == without.snapshot


LABELS = {"ambassador": [{"group": [{"generic_key": {"value": "x"}}]}]}


@pytest.mark.parametrize(
    ("guard", "config", "is_guarded"),
    [
        (limit(domain="ambassador", limits=[]), {}, True),
        (limit(limits=[]), {}, True),
        (limit(domain="other"), {}, False),
        (limit(domain=5), {}, True),
        (limit(), {"default_label_domain": "other"}, False),
        (limit(domain="other"), {"default_labels": {"other": {"defaults": ["x"]}}}, True),
    ],
)
def test_rate_limits_protect_mappings_by_labels(guard: KubeObject, config: dict[str, object], is_guarded: bool) -> None:
    compiled = compile_objects(guard, module(**config), mapping(labels=LABELS))
    assert bool(guarded(compiled)["greet.shop"]) is is_guarded


def test_rate_limits_do_not_touch_mappings_without_labels() -> None:
    assert guarded(compile_objects(limit(domain="ambassador"), mapping())) == {"greet.shop": ""}


def test_check_fails_unless_the_flag_says_that_calls_are_served_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "waf.yaml").write_text(
        "apiVersion: gateway.getambassador.io/v1alpha1\nkind: WebApplicationFirewallPolicy\nmetadata: {name: waf}\n"
    )
    assert execute(["check", str(tmp_path)]) == 1
    assert "WebApplicationFirewallPolicy is not supported yet, and the calls" in capsys.readouterr().out
    assert execute(["check", "--serve-without-auth", str(tmp_path)]) == 0
    monkeypatch.setenv("GRPCGW_SERVE_WITHOUT_AUTH", "true")
    assert execute(["check", str(tmp_path)]) == 0
