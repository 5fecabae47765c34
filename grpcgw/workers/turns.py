"""Turns that all workers share, so that RPCs take strict turns over the pods whichever worker their connection met.

A turn is taken by one lseek on a file that the workers inherited open: they share its position, which the kernel moves
on in one step, whoever asks. Nobody holds a lock, so a worker that dies leaves nothing behind, and none waits
(docs/decisions/010-workers-share-turns.md).
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import resource
from collections.abc import Iterator, Mapping
from functools import partial

from grpcgw.balancer.base import TakeTurn
from grpcgw.balancer.catalogue import TAKE_TURNS
from grpcgw.model.snapshot import Snapshot
from grpcgw.upstream.clusters import Balancing

log = logging.getLogger(__name__)

MOST_SHARED = 256
"""Clusters whose turns are shared, each by an open file in every process. Over the others each worker takes its own."""
SHARE_OF_FILES = 8
"""Of the files that a process may open at most one in so many is for turns."""
FIRST_TURNS = 1 << 20
"""Turns begin at any number below, so that gateways do not all begin with the same pod."""

TurnKey = tuple[str, Balancing]
"""A cluster, and what its Mappings must agree on to take turns together."""


def take_turn_of(descriptor: int) -> TakeTurn:
    return partial(os.lseek, descriptor, 1, os.SEEK_CUR)


class SharedTurns:
    """In the control process: the files, and who uses which. Workers must inherit `descriptors` under these numbers."""

    def __init__(self, most: int = MOST_SHARED) -> None:
        """Where the system has no such files, or no more of them, fewer turns are shared, or none."""
        self.descriptors = tuple(_open_files(most))
        self._free = list(reversed(self.descriptors))
        self._dealt: dict[TurnKey, int] = {}

    def deal(self, snapshot: Snapshot) -> Mapping[TurnKey, int]:
        """The descriptor for each that takes turns. What stays keeps its own; two never have the same."""
        wanted = dict.fromkeys(_find_keys(snapshot))
        for key in [key for key in self._dealt if key not in wanted]:
            self._free.append(self._dealt.pop(key))
        for key in wanted:
            if key not in self._dealt and self._free:
                self._dealt[key] = self._free.pop()
        return dict(self._dealt)

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = ()


def _open_files(most: int) -> Iterator[int]:
    if not hasattr(os, "memfd_create"):
        log.info("this system has no memfd: every worker takes turns of its own")
        return
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError):  # no more files: the rest is not shared
        for _ in range(most if allowed == resource.RLIM_INFINITY else min(most, allowed // SHARE_OF_FILES)):
            descriptor = os.memfd_create("grpcgw turns")
            yield descriptor
            os.lseek(descriptor, random.randrange(FIRST_TURNS), os.SEEK_SET)


def _find_keys(snapshot: Snapshot) -> Iterator[TurnKey]:
    for route in snapshot.routes:
        for destination in route.all_destinations():
            if destination.load_balancer.policy in TAKE_TURNS:
                yield destination.cluster, Balancing.of(destination)
