"""The dialects that the gateway reads, one line each, and the compilation with all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from grpcgw.ambassador.compile.compiler import AMBASSADOR
from grpcgw.model.compilation import compile_configuration
from grpcgw.model.objects import KubeObject
from grpcgw.model.route_source import NOTHING_TO_REUSE, Compiled, CompileOptions, ObjectsByKey, Reuse, RouteSource

ROUTE_SOURCES: tuple[RouteSource, ...] = (AMBASSADOR,)
ROUTE_KINDS = frozenset(kind for source in ROUTE_SOURCES for kind in source.route_kinds)


def compile_snapshot(
    objects: Iterable[KubeObject],
    last_good: ObjectsByKey,
    options: CompileOptions,
    reuse: Mapping[str, Reuse] = NOTHING_TO_REUSE,
) -> Compiled:
    """As `compile_configuration`, with all dialects."""
    return compile_configuration(ROUTE_SOURCES, objects, last_good, options, reuse)
