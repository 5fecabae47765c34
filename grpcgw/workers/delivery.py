"""Delivery of snapshots to one worker slot: what its process has, what it has not yet answered, and what to send."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from grpcgw.model.endpoints import EndpointSet
from grpcgw.model.snapshot import EMPTY_SNAPSHOT
from grpcgw.workers.messages import Listening, Refused
from grpcgw.workers.outbox import Outbox, Update, make_update


class Delivery:
    """Survives the processes of its slot: a new process starts with everything, in place of differences."""

    def __init__(self, everything: Outbox) -> None:
        """`everything`: the latest snapshot and endpoints since the start, for new processes."""
        self._everything = everything
        self._outbox = Outbox()
        self._unsent = asyncio.Event()
        self._sent = EMPTY_SNAPSHOT
        """What the process has once it has handled every message."""
        self._unanswered: dict[str, Update] = {}
        """By version."""
        self._served: Update | None = None
        """The last one served, by this process or one before."""
        self._refused: Refused | None = None
        """Why the newest snapshot is not served."""
        self._fell_back = False
        """The process was sent what its predecessor served, in place of the newest snapshot."""

    def start_over(self) -> None:
        """Send everything: the process is new, or lacks the base of a difference."""
        self._sent, self._outbox = EMPTY_SNAPSHOT, self._everything.copy()
        self._unanswered.clear()
        self._fell_back = False
        self._unsent.set()

    def apply(self, update: Update) -> None:
        self._refused = None
        self._outbox.apply(update)
        self._unsent.set()

    def set_endpoints(self, cluster: str, endpoints: EndpointSet) -> None:
        self._outbox.set_endpoints(cluster, endpoints)
        self._unsent.set()

    async def next_messages(self) -> list[bytes]:
        """Waits until something is unsent; returns all of it, to be written at once."""
        await self._unsent.wait()
        self._unsent.clear()
        before, update, after = self._outbox.take()
        messages = [] if update is None else [await self._encode(update)]
        return [*before, *messages, *after]

    async def _encode(self, update: Update) -> bytes:
        if update.base is not self._sent:  # it missed a snapshot in between, or is new
            update = await asyncio.to_thread(make_update, self._sent, update.snapshot, update.listeners, update.turns)
        self._sent = update.snapshot
        self._unanswered[update.snapshot.version] = update
        return update.message

    def on_answer(self, answer: Listening) -> Listening:
        """Note what the process serves; returns the answer with the reason why the newest snapshot is refused."""
        if answer.version in self._unanswered:
            self._served = self._unanswered[answer.version]
            self._unanswered.clear()
        if answer.refused is not None:
            self._refused = answer.refused
            self._fall_back(answer.version)
        return replace(answer, refused=self._refused)

    def _fall_back(self, version: str) -> None:
        """Send a new process, which serves nothing, what its predecessor served."""
        first = version == EMPTY_SNAPSHOT.version and not self._fell_back
        if first and self._served is not None and not self._unsent.is_set():
            self._fell_back = True
            self._sent = EMPTY_SNAPSHOT  # the process has none of the bases: the update is encoded again
            self._outbox.apply(replace(self._served, base=self._served.snapshot))
            self._unsent.set()
