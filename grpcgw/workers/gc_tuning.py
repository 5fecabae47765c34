"""What the garbage collector may do, and when: it walks all that is alive and lets no thread run meanwhile.

With thousands of Mappings one walk takes tenths of a second, and making them starts several. Knows no kind of object.
Does nothing in a process that is not the gateway's own: a program that embeds it has objects that nobody here knows.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_in_charge = False


def take_charge() -> None:
    """This process is the gateway's own."""
    global _in_charge
    _in_charge = True


@contextmanager
def paused() -> Iterator[None]:
    """No collection in this process meanwhile: for work that makes many objects, which stay."""
    was_on = _in_charge and gc.isenabled()
    if was_on:
        gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def keep() -> None:
    """What there is now stays for long, so it is not walked again; it is still freed when the last use of it ends."""
    if _in_charge:
        gc.freeze()
