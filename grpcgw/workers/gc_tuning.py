"""GC tuning: pause during bulk allocation, freeze long-lived objects, let young ones live.

A collection walks all live objects and stops every thread until it is done. With thousands of Mappings one walk takes
tenths of a second, and building them starts several. Nothing here takes effect before `enable`: a program that embeds
the gateway keeps its own garbage collector settings.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG_OBJECTS = 10_000
"""So many more objects than after the last collection start one. Running RPCs have some 20 each and leave no cycles:
Python's default, 700, makes collections of nothing but them, which take 1.4 % of a worker's time under load."""

_enabled = False


def enable() -> None:
    """Allow tuning in this process. Call it only in processes of the gateway's own."""
    global _enabled
    _enabled = True
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])


@contextmanager
def paused() -> Iterator[None]:
    """Pause collections in this process: for work that allocates many long-lived objects."""
    was_on = _enabled and gc.isenabled()
    if was_on:
        gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def freeze() -> None:
    """Exclude all live objects from later collections. Reference counting still frees them."""
    if _enabled:
        gc.freeze()
