"""Watches that are each followed by a task of its own: the life shared by resolvers that ask per service.

Owns the tasks, so that none outlives its watch or its resolver and no failure of one is lost. What following means is
the resolver's business. Runs in the control process's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from grpcgw.config.endpoint import EndpointSet
from grpcgw.config.snapshot import Cluster
from grpcgw.discovery.resolver import Publish


@dataclass(slots=True, eq=False)
class Watch:
    cluster: Cluster
    publish: Publish
    last: EndpointSet | None = None
    ended: bool = False
    task: asyncio.Task[None] | None = None

    def offer(self, endpoints: EndpointSet) -> None:
        """Publish `endpoints` if they are new and somebody still listens."""
        if not self.ended and endpoints != self.last:
            self.last = endpoints
            self.publish(endpoints)

    def fail(self, error: str) -> None:
        """Say that nothing better is known, and why; the endpoints known before stay."""
        self.offer(EndpointSet(self.last.endpoints if self.last is not None else (), error))


Follow = Callable[[Watch], Coroutine[None, None, None]]
"""Keeps a watch up to date until cancelled."""


class Followers:
    """The watches of one resolver. Those added before `run` wait for it."""

    def __init__(self, follow: Follow) -> None:
        self._follow = follow
        self._watches: set[Watch] = set()
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Follow every watch until cancelled; a defect in following one ends all, loudly."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                for watch in self._watches:
                    self._start(watch, tasks)
                await asyncio.Event().wait()
        finally:
            self._tasks = None

    def add(self, watch: Watch) -> Callable[[], None]:
        """Follow `watch`; returns what ends it (`Resolver.watch`)."""
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
        watch.task = tasks.create_task(self._follow(watch), name=f"resolve {watch.cluster.name}")
