"""Progress on stderr, so that stdout has the tables alone."""

from __future__ import annotations

import sys
import time

_BEGAN_S = time.monotonic()


def say(line: str) -> None:
    print(f"[{time.monotonic() - _BEGAN_S:4.0f} s] {line}", file=sys.stderr, flush=True)
