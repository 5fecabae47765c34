"""Lists the configuration files below a directory, and watches the directory for changes (inotify)."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from pathlib import Path

from watchfiles import awatch

from grpcgw.errors import UserError

SUFFIXES = (".yaml", ".yml", ".json")
RESCAN_MS = 2_000
"""All files are read this often without any event, too: no file system reports every change."""

WatchDirectory = Callable[[Path], AsyncGenerator[Collection[object], None]]
"""Yields whenever something below a directory may have changed; an empty collection after a time without an event.
Raises OSError or RuntimeError if it cannot watch."""


def watch_directory(directory: Path, rescan_ms: int = RESCAN_MS) -> AsyncGenerator[Collection[object], None]:
    """Report changes after 10 ms of quiet, at the latest 50 ms after the first, and none after `rescan_ms` without."""
    return awatch(
        directory,
        watch_filter=None,
        debounce=50,
        step=10,
        rust_timeout=rescan_ms,
        yield_on_timeout=True,
        ignore_permission_denied=True,
    )


def list_files(directory: Path) -> tuple[list[Path], list[OSError]]:
    """The YAML and JSON files below `directory`, and the directories that could not be listed.

    Hidden names are left out: editors' files, and the `..data` directory of a mounted ConfigMap, whose visible names
    are links into it. Links are followed, each directory is entered once.
    """
    errors: list[OSError] = []
    if directory.is_file():
        return [directory], []
    paths = (path for path in _walk(directory, errors.append) if path.name.endswith(SUFFIXES))
    return sorted(paths), errors


def list_other_files(directory: Path) -> list[str]:
    """The names below `directory` of the files that are not read."""
    paths = (path for path in _walk(directory, lambda _: None) if not path.name.endswith(SUFFIXES))
    return [printable(path.relative_to(directory)) for path in sorted(paths)]


def _walk(directory: Path, on_error: Callable[[OSError], None]) -> Iterator[Path]:
    entered: set[str] = set()
    for folder, subfolders, names in os.walk(directory, onerror=on_error, followlinks=True):
        real = os.path.realpath(folder)
        if real in entered:
            subfolders.clear()
            continue
        entered.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def printable(path: Path) -> str:
    """The path as text that can be printed: a name need not be UTF-8."""
    return os.fsencode(path).decode(errors="replace")


def require_directory(directory: Path) -> None:
    """Raises UserError if it is no directory or cannot be listed."""
    try:
        with os.scandir(directory):
            pass
    except OSError as error:
        message = f"cannot read the configuration directory {directory}: {error.strerror or error}"
        raise UserError(f"{message}; name a directory that holds YAML files") from error


def find_identity(directory: Path) -> tuple[int, int] | None:
    """Device and inode of what has this name now; None: nothing."""
    try:
        status = directory.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
