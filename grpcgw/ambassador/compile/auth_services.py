"""Compiles AuthServices to one policy of external authorization, for every Mapping without `bypass_auth`.

Several must agree in all but their service; calls take turns between the services. One that cannot be compiled, and
never was, refuses what it protects (Ambassador answers 500 then).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from grpcgw.ambassador.compile.edge_stack import leave_out_own
from grpcgw.ambassador.compile.generations import Generations
from grpcgw.ambassador.compile.guards import Guard, GuardContext, GuardedMapping
from grpcgw.ambassador.compile.policy_upstreams import compile_policy_upstream
from grpcgw.ambassador.compile.resilience import compile_breakers
from grpcgw.ambassador.compile.unenforced_guards import AuthScope, UnenforcedGuard
from grpcgw.ambassador.spec.asked_service import limit_ms
from grpcgw.ambassador.spec.auth_specs import AuthModuleSpec, AuthServiceSpec, IncludeBodySpec
from grpcgw.ambassador.spec.parse import Findings, parse_spec
from grpcgw.model.cluster import Cluster
from grpcgw.model.codes import code_of_http
from grpcgw.model.ext_authz import (
    MAX_INCLUDED_BYTES,
    NEVER_ASKED,
    AnswerCaching,
    AuthProtocol,
    ExtAuthzSettings,
    IncludedMessage,
)
from grpcgw.model.header_values import InvalidHeader, check_header_name, is_reserved
from grpcgw.model.hidden_text import HiddenText
from grpcgw.model.objects import KubeObject
from grpcgw.model.route import Destination, PolicySettings

_LEFT_OUT = "the calls of the Mappings without bypass_auth are refused"
_LEFT_OUT_OPEN = "left out: calls are not authenticated (--serve-without-auth)"
_PREFIX = re.compile(r"[!-\"$-~]*")
_WHOLE_BODY = IncludeBodySpec(max_bytes=4096, allow_partial=True)
"""`allow_request_body: true`."""


@dataclass(frozen=True, slots=True)
class AuthGuard:
    """Asks the AuthServices about all calls of Mappings without `bypass_auth`."""

    settings: ExtAuthzSettings
    clusters: tuple[Cluster, ...]

    def settings_for(self, mapping: GuardedMapping) -> PolicySettings | None:
        if mapping.spec.bypass_auth:
            return None
        extensions = mapping.spec.auth_context_extensions
        if not extensions:
            return self.settings
        return replace(self.settings, context_extensions=tuple(sorted(extensions.items())))


@dataclass(frozen=True, slots=True)
class CompiledAuthService:
    """One AuthService, or one Filter of type External."""

    settings: ExtAuthzSettings
    cluster: Cluster

    def shared(self) -> ExtAuthzSettings:
        """What all AuthServices must have in common."""
        return replace(self.settings, name="", upstreams=())


def compile_auth_services(objects: Sequence[KubeObject], context: GuardContext) -> tuple[Guard, ...]:
    left_out = _LEFT_OUT_OPEN if context.serve_without else _LEFT_OUT
    serving: list[tuple[KubeObject, CompiledAuthService]] = []
    refusing: list[Guard] = []
    for obj in leave_out_own(objects, "auth_service", "Filters", context):
        compiled = context.generations.serve(obj, lambda one, findings: _build(one, context, findings), left_out)
        if compiled is not None:
            serving.append((obj, compiled))
        elif not context.serve_without:
            refusing.append(UnenforcedGuard(str(obj.key), AuthScope(), why="cannot be asked: it has errors"))
    return (*refusing, *_join(serving, context.generations))


def _join(serving: Sequence[tuple[KubeObject, CompiledAuthService]], generations: Generations) -> tuple[Guard, ...]:
    """The policy of all AuthServices; one that does not agree with the first is left out."""
    if not serving:
        return ()
    (first, reference), agreeing = serving[0], [serving[0][1]]
    for obj, compiled in serving[1:]:
        if compiled.shared() == reference.shared():
            agreeing.append(compiled)
        else:
            generations.leave_out(obj, f"differs from {first.key} in more than its service; {first.key} decides")
    upstreams: list[Destination] = []
    for one in agreeing:
        upstreams += [each for each in one.settings.upstreams if all(each.clusters != it.clusters for it in upstreams)]
    clusters = {one.cluster.name: one.cluster for one in agreeing}
    return (AuthGuard(replace(reference.settings, upstreams=tuple(upstreams)), tuple(clusters.values())),)


def _build(obj: KubeObject, context: GuardContext, findings: Findings) -> CompiledAuthService | None:
    spec = _parse(obj, findings)
    return None if spec is None else compile_auth_service(obj, spec, context, findings)


def compile_auth_service(
    obj: KubeObject, spec: AuthServiceSpec, context: GuardContext, findings: Findings
) -> CompiledAuthService | None:
    """`obj`: an AuthService, or another object that has its settings. None: an error is in `findings`."""
    _note_others(spec, findings)
    added = _compile_added(spec, findings)
    fields = {
        "service": spec.auth_service,
        "tls": spec.tls,
        "resolver": spec.resolver or context.module.resolver,
        "stats_name": spec.stats_name or spec.v3StatsName,
    }
    breakers = compile_breakers(spec.circuit_breakers or (), findings, "circuit_breakers")
    upstream = compile_policy_upstream(
        obj, fields, "auth_service", context.around, findings, breakers, http=spec.proto != "grpc"
    )
    message = _compile_message(spec, findings)
    if upstream is None or findings.rejected:
        return None
    either = spec.allowed_headers or ()
    settings = ExtAuthzSettings(
        name=str(obj.key),
        upstreams=(upstream.destination,),
        protocol=AuthProtocol(spec.proto or "http"),
        api_version=spec.protocol_version or "v3",
        timeout_ms=limit_ms(spec.timeout_ms, 5000),
        failure_mode_allow=bool(spec.failure_mode_allow),
        code_on_error=code_of_http(spec.status_on_error.code) if spec.status_on_error else None,
        message=message,
        added_metadata=added,
        allowed_request_headers=_lower(*either, *(spec.allowed_request_headers or ())),
        allowed_authorization_headers=_lower(*either, *(spec.allowed_authorization_headers or ())),
        path_prefix=_compile_prefix(spec, findings),
        caching=_compile_caching(spec, message, findings),
    )
    return None if findings.rejected else CompiledAuthService(settings, upstream.cluster)


def _parse(obj: KubeObject, findings: Findings) -> AuthServiceSpec | None:
    if obj.key.kind != "Module":
        return parse_spec(obj, AuthServiceSpec, findings)
    module = parse_spec(obj, AuthModuleSpec, findings)
    return None if module is None else module.config


def _note_others(spec: AuthServiceSpec, findings: Findings) -> None:
    if spec.proto == "grpc":
        if spec.protocol_version is None:
            findings.notice(
                "calls envoy.service.auth.v3; a service of Ambassador 1 or 2 may have only v2: set protocol_version",
                "proto",
            )
        for name in ("allowed_request_headers", "allowed_authorization_headers", "path_prefix"):
            if getattr(spec, name):
                findings.notice("has no effect: a gRPC service gets all headers, and its own are passed on", name)
        return
    if spec.protocol_version is not None:
        findings.notice("has no effect without proto: grpc", "protocol_version")
    for name in sorted(NEVER_ASKED.intersection(_lower(*(spec.allowed_request_headers or ())))):
        findings.notice(f"{name} has no effect: it is of the client's own connection", "allowed_request_headers")


def _compile_message(spec: AuthServiceSpec, findings: Findings) -> IncludedMessage | None:
    body = spec.include_body or (_WHOLE_BODY if spec.allow_request_body else None)
    if body is None:
        return None
    if body.max_bytes > MAX_INCLUDED_BYTES:
        findings.notice(
            f"the service gets at most {MAX_INCLUDED_BYTES} bytes of a message", "include_body", "max_bytes"
        )
    return IncludedMessage(min(body.max_bytes, MAX_INCLUDED_BYTES), body.allow_partial)


def _compile_prefix(spec: AuthServiceSpec, findings: Findings) -> str:
    """Begins with a slash, as the path of a request does."""
    prefix = spec.path_prefix or ""
    if spec.proto != "grpc" and not _PREFIX.fullmatch(prefix):
        findings.error("should be a path in visible ASCII characters without '#', such as /check", "path_prefix")
    return f"/{prefix}" if prefix and not prefix.startswith("/") else prefix


def _compile_added(spec: AuthServiceSpec, findings: Findings) -> tuple[tuple[str, HiddenText], ...]:
    """No message quotes a value: it may be the service's password."""
    added = []
    for name, given in (spec.add_auth_headers or {}).items():
        value = given if isinstance(given, str) else str(given).lower()
        try:
            key = check_header_name(name)
        except InvalidHeader as error:
            findings.error(str(error), "add_auth_headers", name)
            continue
        if is_reserved(key):
            findings.notice("has no effect: each connection sets it", "add_auth_headers", name)
        elif key.endswith("-bin") or not (value.isascii() and value.isprintable()):
            findings.error("should be text of printable ASCII characters", "add_auth_headers", name)
        else:
            added.append((key, HiddenText(value.strip())))
    return tuple(added)


def _compile_caching(
    spec: AuthServiceSpec, message: IncludedMessage | None, findings: Findings
) -> AnswerCaching | None:
    if spec.cache is None:
        return None
    if message is not None:
        findings.error("answers cannot be kept where the service looks at messages (include_body)", "cache")
    return AnswerCaching(_lower(*spec.cache.headers), spec.cache.max_age_ms, spec.cache.max_entries)


def _lower(*names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys([name.lower() for name in names]))
