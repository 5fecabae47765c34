"""Ambassador's objects from YAML text and directories, for tests that do not care how they are read."""

from __future__ import annotations

from collections.abc import Mapping

from grpcgw.ambassador.dialect_objects import make_dialect_objects
from grpcgw.discovery.sources.watch_events import BUILT_IN_KINDS
from grpcgw.discovery.sources.yaml_objects import DEFAULT_NAMESPACE, ObjectReader, Objects

KINDS = make_dialect_objects()
WATCHED_KINDS = (*KINDS.watched, *BUILT_IN_KINDS)
READER = ObjectReader(KINDS)


def parse_objects(
    text: str,
    origin: str,
    namespace: str = DEFAULT_NAMESPACE,
    first_line: int = 1,
    environment: Mapping[str, str] | None = None,
) -> Objects:
    return ObjectReader(KINDS, environment or {}).read(text, origin, namespace, first_line)
