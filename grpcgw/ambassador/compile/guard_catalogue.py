"""The catalogue of Guards: one line for each kind that is enforced; the other kinds refuse what they protect."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from grpcgw.ambassador.compile.auth_services import compile_auth_services
from grpcgw.ambassador.compile.authorization_policies import compile_authorization
from grpcgw.ambassador.compile.filter_policies import compile_filter_policies
from grpcgw.ambassador.compile.guards import Guard, GuardContext
from grpcgw.ambassador.compile.objects_by_kind import ObjectsByKind
from grpcgw.ambassador.compile.rate_limit_services import compile_rate_limit_services
from grpcgw.ambassador.compile.rate_limits import compile_rate_limits
from grpcgw.ambassador.compile.unenforced_guards import compile_unenforced
from grpcgw.model.objects import KubeObject

GuardCompiler = Callable[[Sequence[KubeObject], GuardContext], tuple[Guard, ...]]
"""Compiles all objects of its kinds together. Reports their problems by `GuardContext.generations`; what an object that
cannot be compiled protects must be refused (`unenforced_guards.UnenforcedGuard`)."""

ENFORCED: dict[str, GuardCompiler] = {
    "AuthService,Module": compile_auth_services,
    "Filter,FilterPolicy": compile_filter_policies,
    "AuthorizationPolicy": compile_authorization,
    "RateLimit": compile_rate_limits,
    "RateLimitService": compile_rate_limit_services,
}
"""By kind, or kinds joined by a comma that are compiled together."""


def compile_guards(configuration: ObjectsByKind, context: GuardContext) -> tuple[Guard, ...]:
    """The Guards of all objects, in the order of `ENFORCED`, the unenforced ones last."""
    guards: list[Guard] = []
    left = configuration.guards()
    for kinds, compile_kind in ENFORCED.items():
        objects = [obj for obj in left if obj.key.kind in kinds.split(",")]
        left = [obj for obj in left if obj not in objects]
        guards += compile_kind(objects, context) if objects else ()
    return (*guards, *compile_unenforced(left, context))
