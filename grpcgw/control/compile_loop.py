"""Compile loop: compiles after the first complete read of all sources, then after each burst of changes."""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from grpcgw.control.containment import CannotCompile, Containment
from grpcgw.control.own_policies import make_shared_policies
from grpcgw.control.problem_log import log_new_problems
from grpcgw.discovery.sources.certificate_files import CertificateFiles
from grpcgw.discovery.sources.key_sets import KeySets
from grpcgw.discovery.store import ObjectStore
from grpcgw.errors import UserError
from grpcgw.model.objects import KubeObject, ObjectKey, Problem, Severity
from grpcgw.model.route_source import NOTHING_TO_REUSE, Compiled, CompileOptions, Reuse
from grpcgw.settings import EngineName, Settings
from grpcgw.workers import gc_tuning

log = logging.getLogger(__name__)

QUIET_S, LONGEST_BURST_S = 0.02, 0.1
"""Compile when nothing has changed for the first, or the burst lasts for the second."""
NOT_COMPILED_KINDS = frozenset({"Service", "Endpoints", "EndpointSlice"})
"""Resolvers read these; a change of them needs no compilation."""


class CompileLoop:
    """Keeps the result of the last compilation, and the last good version of each object."""

    def __init__(
        self,
        store: ObjectStore,
        certificate_files: CertificateFiles,
        key_sets: KeySets,
        settings: Settings,
        on_compiled: Callable[[Compiled | None], Awaitable[None]],
    ) -> None:
        """`on_compiled` is awaited after each compilation, before the next; with None after one that failed, when
        `problems` has why."""
        self._store, self._certificate_files, self._key_sets = store, certificate_files, key_sets
        self._settings = settings
        self._on_compiled = on_compiled
        self._engine = settings.engine
        self._changed = asyncio.Event()
        self._compiling = True
        self._containment = Containment()
        self._reuse: Mapping[str, Reuse] = NOTHING_TO_REUSE
        self.compiled: Compiled | None = None
        """The last compilation that succeeded."""
        self.last_good: Mapping[ObjectKey, KubeObject] = {}
        self.problems: tuple[Problem, ...] = ()
        self.errors_total = 0
        """Compilations that found at least one error, since the start."""
        self.compile_ms = 0.0

    def note_change(self, changed: frozenset[ObjectKey]) -> None:
        """Objects of the store changed: compile soon, if that makes a difference."""
        if self.compiled is None or any(key.kind not in NOT_COMPILED_KINDS for key in changed):
            self._changed.set()

    def set_engine(self, engine: EngineName) -> None:
        """Compile again where carriers run on another engine than known so far: some problems depend on it."""
        if engine is not self._engine:
            self._engine = engine
            self._changed.set()

    def is_pending(self) -> bool:
        """Whether a change is not yet compiled, or `on_compiled` has not handled it yet."""
        return self._compiling or self._changed.is_set()

    async def run(self) -> None:
        """Compile until cancelled. A defect in one compilation leaves the last good result, and is a problem."""
        while not self._store.synced():
            await self._changed.wait()
            self._changed.clear()
        while True:
            try:
                await self._compile()
            except UserError:
                raise
            except Exception as error:
                await self._note_defect(error)
            self._compiling = False
            await self._changed.wait()
            self._compiling = True
            await self._wait_for_quiet()

    async def _wait_for_quiet(self) -> None:
        limit_s = time.monotonic() + LONGEST_BURST_S
        while self._changed.is_set() and time.monotonic() < limit_s:
            self._changed.clear()
            await asyncio.sleep(QUIET_S)
        self._changed.clear()

    async def _compile(self) -> None:
        began_s = time.perf_counter()
        await self._certificate_files.read_wanted()
        await self._key_sets.fetch_wanted()
        objects = list(self._store.objects())
        work = partial(self._containment.compile, objects, self.last_good, self._options(), self._reuse)
        # In a thread: thousands of Mappings take seconds, and the event loop must follow endpoints.
        with gc_tuning.paused():
            compiled = await asyncio.to_thread(work)
        self.compile_ms = 1000 * (time.perf_counter() - began_s)
        if self.compiled is None:
            gc_tuning.freeze()
        self.compiled, self.last_good, self._reuse = compiled, compiled.last_good, compiled.reuse
        self.errors_total += any(problem.severity is Severity.ERROR for problem in compiled.problems)
        self._set_problems(compiled.problems)
        await self._on_compiled(compiled)

    def _options(self) -> CompileOptions:
        return CompileOptions(
            gateway_id=self._settings.ambassador_id,
            gateway_namespace=self._settings.ambassador_namespace,
            now=datetime.datetime.now(datetime.UTC),
            environment=os.environ,
            authority_hidden_by="" if self._engine.shows_authority else self._engine,
            first_bytes_hidden_by="" if self._engine.reads_first_bytes else self._engine,
            serve_without_auth=self._settings.serve_without_auth,
            zone_unknown=not self._settings.zone,
            policies=make_shared_policies(self._settings),
        )

    async def _note_defect(self, error: Exception) -> None:
        if isinstance(error, CannotCompile):
            problem = error.problem
        else:
            log.error("defect: the configuration cannot be published", exc_info=error)
            message = (
                f"the configuration cannot be published, which is a defect of grpcgw: please report it ({error!r})"
            )
            problem = Problem(Severity.ERROR, message, "grpcgw")
        known = () if self.compiled is None else self.compiled.problems
        self.errors_total += 1
        self._set_problems((*known, problem))
        await self._on_compiled(None)

    def _set_problems(self, problems: tuple[Problem, ...]) -> None:
        log_new_problems(problems, self.problems)
        self.problems = problems
