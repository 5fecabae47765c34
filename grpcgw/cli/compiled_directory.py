"""A directory of YAML files compiled as a gateway with the same settings would, for `check` and `routes`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from grpcgw.settings import CompileSettings, EngineName

if TYPE_CHECKING:  # loaded when a directory is compiled, not for --help
    from grpcgw.model.objects import Problem
    from grpcgw.model.snapshot import Snapshot

PANEL = "Settings of the gateway that would read DIR"


@dataclass(frozen=True, slots=True)
class CompiledDirectory:
    snapshot: Snapshot
    problems: tuple[Problem, ...]
    summary: str
    """How many files and objects were read, and what was passed over."""


def compile_directory(directory: Path, settings: CompileSettings) -> CompiledDirectory:
    """What a gateway with `settings` would serve from `directory`, and all problems of its files."""
    from grpcgw.ambassador.dialect_objects import make_dialect_objects
    from grpcgw.control.carrier_problems import find_limits_of_grpc, find_unbuilt_policies
    from grpcgw.control.dead_routes import find_dead_in_files
    from grpcgw.control.dialects import compile_snapshot
    from grpcgw.control.own_policies import make_shared_policies
    from grpcgw.discovery.sources.certificate_files import read_certificate_files
    from grpcgw.discovery.sources.directory import read_directory
    from grpcgw.discovery.sources.directory_files import list_files, list_other_files
    from grpcgw.discovery.sources.key_sets import make_not_fetched
    from grpcgw.discovery.sources.object_counts import count_objects, describe_counts, find_missing_configuration
    from grpcgw.discovery.sources.yaml_objects import ObjectReader
    from grpcgw.model.route_source import CompileOptions

    dialect = make_dialect_objects(settings.ambassador_id)
    objects, problems = read_directory(directory, ObjectReader(dialect, os.environ))
    files = read_certificate_files(objects, dialect)
    compile_options = CompileOptions(
        gateway_id=settings.ambassador_id,
        gateway_namespace=settings.ambassador_namespace,
        now=datetime.now(UTC),
        environment=os.environ,
        authority_hidden_by="" if settings.engine.shows_authority else settings.engine,
        first_bytes_hidden_by="" if settings.engine.reads_first_bytes else settings.engine,
        serve_without_auth=settings.serve_without_auth,
        policies=make_shared_policies(settings),
    )
    compiled = compile_snapshot([*objects, *files, *make_not_fetched(objects, dialect)], {}, compile_options)
    dead = find_dead_in_files(compiled.snapshot, objects, compiled.last_good, str(directory))
    on_grpc = settings.engine is EngineName.GENERIC_HANDLER
    limits = find_limits_of_grpc(compiled.snapshot, compiled.last_good) if on_grpc else ()
    unbuilt = find_unbuilt_policies(compiled.snapshot, compiled.last_good)
    counts, number = count_objects(objects, dialect), len(list_files(directory)[0])
    nothing = find_missing_configuration(counts, number, str(directory))
    every = [*problems, *compiled.problems, *limits, *unbuilt, *dead, *([nothing] if nothing else [])]
    summary = describe_counts(counts, number, list_other_files(directory))
    return CompiledDirectory(compiled.snapshot, tuple(every), summary)
