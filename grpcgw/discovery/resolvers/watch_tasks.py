"""One task for each watch, shared by the resolvers that query per service.

Owns the tasks: none outlives its watch or its resolver, and no failure is lost. The resolver gives the coroutine that
follows a watch. Runs in the control process's event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from grpcgw.discovery.resolvers.resolver import Publish
from grpcgw.logs import DefectLog
from grpcgw.model.cluster import Cluster
from grpcgw.model.endpoints import EndpointSet


@dataclass(slots=True, eq=False)
class Watch:
    cluster: Cluster
    publish: Publish
    last: EndpointSet | None = None
    ended: bool = False
    task: asyncio.Task[None] | None = None

    def offer(self, endpoints: EndpointSet) -> None:
        """Publish `endpoints` if they changed and the watch has not ended."""
        if not self.ended and endpoints != self.last:
            self.last = endpoints
            self.publish(endpoints)

    def fail(self, error: str) -> None:
        """Publish `error` with the endpoints known before."""
        self.offer(EndpointSet(self.last.endpoints if self.last is not None else (), error))


Follow = Callable[[Watch], Coroutine[None, None, None]]
"""Keeps a watch up to date until cancelled."""


AGAIN_S = 10.0
"""Seconds until a watch is followed again after a defect."""


class WatchTasks:
    """The watches of one resolver. Watches added before `run` wait for it."""

    def __init__(self, follow: Follow, again_s: float = AGAIN_S) -> None:
        self._follow, self._again_s = follow, again_s
        self._defects = DefectLog(logging.getLogger(__name__))
        self._watches: set[Watch] = set()
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Follow every watch until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                for watch in self._watches:
                    self._start(watch, tasks)
                await asyncio.Event().wait()
        finally:
            self._tasks = None

    def add(self, watch: Watch) -> Callable[[], None]:
        """Follow `watch`; returns the function that ends it (`Resolver.watch`)."""
        self._watches.add(watch)
        if self._tasks is not None:
            self._start(watch, self._tasks)

        def end() -> None:
            watch.ended = True
            self._watches.discard(watch)
            if watch.task is not None:
                watch.task.cancel()

        return end

    def _start(self, watch: Watch, tasks: asyncio.TaskGroup) -> None:
        watch.task = tasks.create_task(self._keep_following(watch), name=f"resolve {watch.cluster.name}")

    async def _keep_following(self, watch: Watch) -> None:
        while True:
            try:
                await self._follow(watch)
            except Exception as error:  # the other watches must go on
                self._defects.note("cannot follow", watch.cluster.name)
                watch.fail(f"its pods cannot be followed, which is a defect of grpcgw ({error!r})")
            await asyncio.sleep(self._again_s)
