"""What the garbage collector may do, and when: it walks all that is alive and lets no thread run meanwhile.

With thousands of Mappings one walk takes tenths of a second, and making them starts several. Knows no kind of object.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """No collection in this process meanwhile: for work that makes many objects, which stay."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def keep() -> None:
    """What there is now stays for long, so it is not walked again; it is still freed when the last use of it ends."""
    gc.freeze()
