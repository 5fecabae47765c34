"""The policy of authorization: rules of who may call what, in Envoy's RBAC semantics. Pure.

An Rbac that denies is passed by an RPC that none of its policies matches, one that allows by an RPC that one matches;
one that logs by every RPC.
What cannot be evaluated denies, whatever the action is: a condition, the address of a client that has none, the name in
a certificate that cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from grpcgw.model.authorization import ANYTHING, CONDITION_VARIABLES, Action, AuthorizationSettings, Rbac, RbacPolicy
from grpcgw.model.cel import CelExpression, NotEvaluated
from grpcgw.model.objects import ObjectKey
from grpcgw.model.route import PolicySettings
from grpcgw.model.status import Reason
from grpcgw.policy.chain import LOGGED
from grpcgw.policy.contract import PolicyRequest
from grpcgw.policy.rpc_matchers import Test, all_of, any_of, as_text, compile_matcher
from grpcgw.policy.services import PolicyServices
from grpcgw.policy.verdicts import ALLOW, Allow, Deny, Facts
from grpcgw.telemetry.policy_counters import PolicyCounters

RULE, DRY_RUN = "rule", "dry-run"
"""Facts: the rule that decided; what the rules that only record decide (`shadow_rules`)."""
NO_RULE = "none"
"""The rule of an RPC that is denied because no rule allows it."""


def build(key: ObjectKey, settings: PolicySettings, services: PolicyServices) -> AuthorizationPolicy:
    """Raises InvalidRegex, InvalidGlob, InvalidExpression, and ValueError for a network that is none."""
    assert isinstance(settings, AuthorizationSettings)
    shadow = services.counters.of_policy(key.label, f"{settings.name} (dry run)") if settings.shadow_rules else None
    logs = any(rbac.action is Action.LOG for rbac in settings.rules)
    logged = services.counters.of_policy(key.label, f"{settings.name} (log)") if logs else None
    return AuthorizationPolicy(settings, key, shadow, logged)


_Step = tuple[tuple[tuple[Test, Allow | Deny], ...], Allow | Deny]
"""An Rbac, compiled: each policy with the verdict on what it matches, and the verdict where none matches."""


class AuthorizationPolicy:
    def __init__(
        self,
        settings: AuthorizationSettings,
        key: ObjectKey,
        shadow: PolicyCounters | None = None,
        logged: PolicyCounters | None = None,
    ) -> None:
        """`key`: the Mapping. `shadow`: counts what the rules decide that only record; `logged`: RPCs that rules have
        logged. Raises as `build`."""
        logs = [one for rbac in settings.rules if rbac.action is Action.LOG for one in rbac.policies]
        self._logs = tuple([(_compile_policy(one, if_unsure=True), one.name) for one in logs])
        self._logged = logged or PolicyCounters()
        self._steps = tuple([_compile_step(rbac, key) for rbac in settings.rules if rbac.action is not Action.LOG])
        self._shadows = tuple([_compile_step(rbac, key) for rbac in settings.shadow_rules])
        self._counters = shadow or PolicyCounters()

    def check(self, request: PolicyRequest) -> Allow | Deny:
        verdict = _decide(self._steps, request)
        if self._logs:
            verdict = self._mark(verdict, request)
        return self._record(verdict, _decide(self._shadows, request)) if self._shadows else verdict

    def _mark(self, verdict: Allow | Deny, request: PolicyRequest) -> Allow | Deny:
        """`verdict`, with the fact of the rule that has the RPC logged, if there is one."""
        for matches, name in self._logs:
            if matches(request):
                self._logged.allowed += 1
                return replace(verdict, facts=(*verdict.facts, (LOGGED, name)))
        return verdict

    def _record(self, verdict: Allow | Deny, shadow: Allow | Deny) -> Allow | Deny:
        """`verdict`, with the fact of what the rules that only record decide."""
        if isinstance(shadow, Deny):
            self._counters.deny()
        else:
            self._counters.allowed += 1
        outcome = "deny" if isinstance(shadow, Deny) else "allow"
        facts: Facts = (*verdict.facts, (DRY_RUN, " ".join([outcome, *(rule for _, rule in shadow.facts)])))
        return replace(verdict, facts=facts)


def _decide(steps: tuple[_Step, ...], request: PolicyRequest) -> Allow | Deny:
    """Of the last step, where all allow."""
    verdict: Allow | Deny = ALLOW
    for rules, otherwise in steps:
        verdict = otherwise
        for matches, decided in rules:
            if matches(request):
                verdict = decided
                break
        if isinstance(verdict, Deny):
            return verdict
    return verdict


# --- building


def _compile_step(rbac: Rbac, key: ObjectKey) -> _Step:
    denies = rbac.action is Action.DENY
    rules = tuple([(_compile_policy(one, if_unsure=denies), _make_verdict(one, denies, key)) for one in rbac.policies])
    return rules, ALLOW if denies else _make_deny(key, NO_RULE)


def _compile_policy(policy: RbacPolicy, if_unsure: bool) -> Test:
    """`if_unsure`: the answer where what a matcher or the condition asks for is not known."""
    given = [matchers for matchers in (policy.permissions, policy.principals) if ANYTHING not in matchers]
    tests = [any_of([compile_matcher(one, if_unsure) for one in matchers]) for matchers in given]
    if policy.condition:
        tests.append(_compile_condition(policy.condition, if_unsure))
    return all_of(tests)


def _make_verdict(policy: RbacPolicy, denies: bool, key: ObjectKey) -> Allow | Deny:
    return _make_deny(key, policy.name) if denies else Allow(facts=((RULE, policy.name),))


def _make_deny(key: ObjectKey, rule: str) -> Deny:
    """Says nothing of the rules: what they are is not the client's to know."""
    return Deny(Reason.FORBIDDEN, f"{key}: this client may not make this call", facts=((RULE, rule),))


def _compile_condition(expression: str, if_unknown: bool) -> Test:
    """`if_unknown`: the answer where the expression gives none."""
    condition = CelExpression(expression, CONDITION_VARIABLES)
    readers = [(name, _READERS[name]) for name in sorted(condition.variables)]

    def test(request: PolicyRequest) -> bool:
        try:
            return condition.holds({name: read(request) for name, read in readers})
        except NotEvaluated:
            return if_unknown

    return test


def _describe_request(request: PolicyRequest) -> object:
    """Envoy's `request.*`."""
    headers: dict[str, str] = {}
    for key, value in request.metadata:
        text = as_text(value)
        headers[key] = f"{headers[key]},{text}" if key in headers else text
    client = request.request
    return {"path": client.path, "url_path": client.path, "host": client.authority, "headers": headers}


def _describe_connection(request: PolicyRequest) -> object:
    """Envoy's `connection.*` of the client's certificate."""
    certificate = request.request.certificate
    if certificate is None:
        return {"mtls": False}
    return {
        "mtls": True,
        "subject_peer_certificate": certificate.subject,
        "uri_san_peer_certificate": next(iter(certificate.uris), ""),
        "dns_san_peer_certificate": next(iter(certificate.names), ""),
    }


def _find_claims(request: PolicyRequest) -> object:
    return {} if request.claims is None else dict(request.claims)


_READERS: dict[str, Callable[[PolicyRequest], object]] = {
    "request": _describe_request,
    "connection": _describe_connection,
    "claims": _find_claims,
}
