"""CPU time and memory of this process. Cheap enough for each report: one system call and one small file."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_STATM = Path("/proc/self/statm")
_RESIDENT = 1
"""Index of the resident pages in it (proc(5))."""


@dataclass(frozen=True, slots=True)
class ProcessUse:
    cpu_s: float
    """Processor time since the process started, of all its threads."""
    memory_bytes: int
    """Resident memory; 0: unknown."""


NOT_MEASURED = ProcessUse(0.0, 0)


def measure_process() -> ProcessUse:
    return ProcessUse(time.process_time(), _read_resident_bytes())


def _read_resident_bytes() -> int:
    try:
        pages = int(_STATM.read_bytes().split()[_RESIDENT])
    except OSError:  # no Linux
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
