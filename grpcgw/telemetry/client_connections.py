"""Counts client connections in the kernel's socket tables, for the generic-handler engine, which has no counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
"""proc(5): a line of a table is `sl local_address rem_address st …`, addresses as `0100007F:1F90`."""
_ESTABLISHED = "01"


def count_connections(ports: Iterable[int], tables: Iterable[Path] = _TABLES) -> dict[int, int] | None:
    """Open connections at each of these local ports, over all processes; None: the system has no such tables."""
    found: Counter[str] = Counter()
    readable = False
    for table in tables:
        try:
            text = table.read_text()
        except OSError:  # no Linux, or no IPv6
            continue
        readable = True
        found.update(_list_local_ports(text))
    return {port: found[f"{port:04X}"] for port in ports} if readable else None


def _list_local_ports(table: str) -> Iterable[str]:
    for line in table.splitlines()[1:]:
        _, local, _, state, *_ = line.split(maxsplit=4)
        if state == _ESTABLISHED:
            yield local.rpartition(":")[2]
