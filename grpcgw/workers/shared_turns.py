"""Round-robin positions shared by all workers, so that RPCs take strict turns whichever worker a connection reached.

A position is the file offset of a file in memory that the workers inherit: one lseek advances it atomically in the
kernel. No worker holds a lock, so one that dies leaves nothing behind and no other waits for it (decision 010).
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import resource
from collections.abc import Iterator, Mapping
from functools import partial

from grpcgw.balancer.balancer_catalogue import TAKE_TURNS
from grpcgw.balancer.base import TakeTurn
from grpcgw.model.balancing import Balancing
from grpcgw.model.snapshot import Snapshot

log = logging.getLogger(__name__)

MOST_SHARED = 256
"""Clusters that share a position, each by an open file in every process. In the others each worker has its own."""
SHARE_OF_FILES = 8
"""At most one in so many of the files that a process may open is for positions."""
FIRST_TURNS = 1 << 20
"""Positions start at a random number below this, so that not all gateways start with the same pod."""

TurnKey = tuple[str, Balancing]
"""A cluster, and the balancing settings on which Mappings must agree to share a position."""


def take_turn_of(descriptor: int) -> TakeTurn:
    """A function that takes the next number of the file."""
    return partial(os.lseek, descriptor, 1, os.SEEK_CUR)


class SharedTurns:
    """The files, and which cluster uses which. Lives in the control process; workers inherit `descriptors`."""

    def __init__(self, most: int = MOST_SHARED) -> None:
        """Opens fewer files, or none, where the system has no memfd or the limit of open files is low."""
        self.descriptors = tuple(_open_files(most))
        self._free = list(reversed(self.descriptors))
        self._assigned: dict[TurnKey, int] = {}

    def assign(self, snapshot: Snapshot) -> Mapping[TurnKey, int]:
        """The descriptor of each key of `snapshot`. A key keeps its descriptor; no two keys have the same."""
        wanted = dict.fromkeys(_find_keys(snapshot))
        for key in [key for key in self._assigned if key not in wanted]:
            self._free.append(self._assigned.pop(key))
        for key in wanted:
            if key not in self._assigned and self._free:
                self._assigned[key] = self._free.pop()
        return dict(self._assigned)

    def close(self) -> None:
        """Close the files. A second call does nothing."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = ()


def _open_files(most: int) -> Iterator[int]:
    if not hasattr(os, "memfd_create"):
        log.info("this system has no memfd: each worker takes turns by itself")
        return
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError):  # no more files: the other clusters share no position
        for _ in range(most if allowed == resource.RLIM_INFINITY else min(most, allowed // SHARE_OF_FILES)):
            descriptor = _open_file()
            yield descriptor
            os.lseek(descriptor, random.randrange(FIRST_TURNS), os.SEEK_SET)


def _open_file() -> int:
    """A file in memory whose lseek is atomic. Raises OSError.

    Linux locks the shared position of a regular file that was opened. It does not lock (seen with 6.18) that of the
    descriptor that memfd_create returns: under contention, 1 turn in 100 was lost. So the file is opened again.
    """
    made = os.memfd_create("grpcgw turns")
    try:
        return os.open(f"/proc/self/fd/{made}", os.O_RDWR | os.O_CLOEXEC)
    finally:
        os.close(made)


def _find_keys(snapshot: Snapshot) -> Iterator[TurnKey]:
    for route in snapshot.routes:
        for destination in route.all_destinations():
            if destination.balancing.load_balancer.policy in TAKE_TURNS:
                yield from ((one.cluster, destination.balancing) for one in destination.clusters)
