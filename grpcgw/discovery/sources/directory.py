"""A directory of YAML files as a source of objects, read once (`read_directory`) or followed (`DirectorySource`).

Owns when new content of a file is accepted, and what keeps serving while a file is broken. Files are read and parsed in
a thread as values; the store is written in the control loop only, all files in one step, so that an object that moves
from one file to another, or a whole ConfigMap, changes at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

from grpcgw.discovery.sources.directory_files import (
    WatchDirectory,
    find_identity,
    list_files,
    list_other_files,
    printable,
    require_directory,
    watch_directory,
)
from grpcgw.discovery.sources.followed_files import FileContent, read_followed
from grpcgw.discovery.sources.object_counts import (
    ObjectCounts,
    count_objects,
    describe_counts,
    find_missing_configuration,
)
from grpcgw.discovery.sources.placeholders import find_placeholders, make_unreadable_file
from grpcgw.discovery.sources.yaml_objects import DEFAULT_NAMESPACE, ObjectReader, keep_first
from grpcgw.discovery.store import ObjectStore, SourceStatus
from grpcgw.model.dialect import DialectObjects
from grpcgw.model.objects import UNREADABLE_FILE, KubeObject, Problem, Severity

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 16 * 1024 * 1024
SETTLE_S = 0.05
"""How long a file must stay missing, or stay without a newline at its end, before that is accepted."""
POLL_S = 0.1
"""Pause between readings while the directory cannot be watched."""

_CLOSES = "; no call is served until it can be read or is deleted, as it may contain objects that restrict access"


@dataclass(frozen=True, slots=True)
class ObjectFile:
    """One file: the `objects` of its last good content, and the `problems` of the content it has now (`read`)."""

    read: FileContent
    objects: tuple[KubeObject, ...] = ()
    problems: tuple[Problem, ...] = ()
    awaited: bytes | None = None
    """New content that looks half written; accepted if it is unchanged at the next reading."""
    gone: bool = False
    """The file was missing at the last reading, as it is for a moment while some editors save it."""

    @property
    def settled(self) -> bool:
        return self.awaited is None and not self.gone

    @property
    def closes(self) -> bool:
        """It was never read and may contain objects that restrict access."""
        return any(obj.key.kind == UNREADABLE_FILE for obj in self.objects)

    @property
    def has_last_good(self) -> bool:
        return bool(self.objects) and not self.closes


Files = Mapping[Path, ObjectFile]


def read_directory(directory: Path, reader: ObjectReader) -> tuple[tuple[KubeObject, ...], tuple[Problem, ...]]:
    """All objects below `directory`, and the problems of its files.

    It may also be a single file with any suffix. Raises UserError if it is neither or cannot be read.
    """
    if not directory.is_file():
        require_directory(directory)
    files, problems = scan(directory, {}, reader)
    objects, conflicts = merge(files, reader.dialect)
    return objects, (*problems, *_problems_of(files), *conflicts)


class DirectorySource:
    """Keeps the store equal to the files of a directory. Call `load`, then `run`, in the control loop.

    `watch` and `clock` (seconds since the epoch) are for tests alone.
    """

    def __init__(
        self,
        store: ObjectStore,
        directory: Path,
        reader: ObjectReader,
        *,
        watch: WatchDirectory | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._directory = directory
        self._reader = reader
        self._watch = watch or watch_directory
        self._clock = clock
        self._name = f"directory {directory}"
        self._files: Files = {}
        self._conflicts: tuple[Problem, ...] = ()
        self._nothing: tuple[Problem, ...] = ()
        self._summary = ""
        self._changed = asyncio.Event()
        self._read_all = True
        """The next reading reads all files, whatever their stamps."""
        self._synced = False
        self._watch_error = ""
        self._last_contact_s = 0.0

    async def load(self) -> None:
        """Read the directory for the first time. Raises UserError if it is no readable directory."""
        require_directory(self._directory)
        await self._refresh()

    async def run(self) -> None:
        """Follow the directory until cancelled. Changes while the watch is being set up are not missed."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(), name=f"watch {self._directory}")
            await asyncio.sleep(0)  # the first step of the task sets up the watch: every later change is an event
            while True:
                before = self._files
                await self._refresh()
                if self._files == before and all(state.settled for state in self._files.values()):
                    await self._changed.wait()
                else:  # read again after a pause: files that looked half written, and files that kept changing
                    await asyncio.sleep(SETTLE_S)

    async def _follow(self) -> None:
        """Set `_changed` for each event of the watch; poll while the directory cannot be watched."""
        while True:
            try:
                self._watch_error = ""
                await self._follow_one_directory()
            # watchfiles raises both, for instance at an inotify limit or for a name that is not UTF-8, also in groups.
            except* (OSError, RuntimeError) as errors:
                self._watch_error = _first_message(errors)
            self._read_everything()
            await asyncio.sleep(POLL_S)

    async def _follow_one_directory(self) -> None:
        """Follow the directory that has the name now; return when it was replaced or removed."""
        identity = find_identity(self._directory)
        async with aclosing(self._watch(self._directory)) as changes:
            async for changed in changes:
                if changed:
                    self._changed.set()
                else:
                    self._read_everything()
                if find_identity(self._directory) != identity:
                    return

    def _read_everything(self) -> None:
        """Read all files at the next reading, whatever their stamps."""
        self._read_all = True
        self._changed.set()

    async def _refresh(self) -> None:
        self._changed.clear()
        before, read_all, self._read_all = self._files, self._read_all, False
        self._files, unlisted = await asyncio.to_thread(scan, self._directory, before, self._reader, read_all)
        if self._files != before or not self._summary:
            objects, self._conflicts = merge(self._files, self._reader.dialect)
            self._store.replace(self._name, objects)
            counts = count_objects(objects, self._reader.dialect)
            self._sum_up(counts, await asyncio.to_thread(list_other_files, self._directory))
        self._set_status(unlisted)
        problems = (*unlisted, *self._nothing, *self._watch_problems(), *_problems_of(self._files), *self._conflicts)
        self._store.report(self._name, problems)

    def _sum_up(self, counts: ObjectCounts, other_files: list[str]) -> None:
        """Log what is read and what is ignored, whenever that changes."""
        files = sum(not state.gone for state in self._files.values())
        nothing = None if files else find_missing_configuration(counts, files, str(self._directory))
        # A gateway may be started before its files are there.
        self._nothing = () if nothing is None else (replace(nothing, severity=Severity.NOTICE),)
        summary = describe_counts(counts, files, other_files)
        if summary != self._summary:
            log.info("%s: %s", self._name, summary)
        self._summary = summary

    def _set_status(self, unlisted: tuple[Problem, ...]) -> None:
        if not unlisted:
            self._synced = True
            self._last_contact_s = self._clock()
        error = unlisted[0].message if unlisted else ""
        self._store.set_status(SourceStatus(self._name, self._synced, self._last_contact_s, not unlisted, error))

    def _watch_problems(self) -> Iterable[Problem]:
        if self._watch_error and self._directory.is_dir():
            message = (
                f"changes are not reported by the system ({self._watch_error}), so the files are read every "
                f"{POLL_S * 1000:.0f} ms; raise fs.inotify.max_user_watches and fs.inotify.max_user_instances"
            )
            yield Problem(Severity.NOTICE, message, str(self._directory))


def _first_message(errors: BaseExceptionGroup[BaseException]) -> str:
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return str(first)


def scan(
    directory: Path, former: Files, reader: ObjectReader, read_all: bool = False
) -> tuple[Files, tuple[Problem, ...]]:
    """The states of all files in order of path, and the directories that could not be listed, whose files stay.

    `read_all`: read also files whose stamp shows no change.
    """
    paths, errors = list_files(directory)
    unlisted = [Path(error.filename or directory) for error in errors]
    kept = {path: state for path, state in former.items() if any(path.is_relative_to(place) for place in unlisted)}
    states = kept | {path: read_file(path, former.get(path), reader, read_all) for path in paths}
    for path, state in former.items():
        if path not in states and not state.gone:
            states[path] = replace(state, awaited=None, gone=True)
    if not former:
        states |= _close(states, [place for place in unlisted if place != directory])
    problems = tuple(_unlisted_problem(error, directory) for error in errors)
    return dict(sorted(states.items())), problems


def _close(states: Files, unlisted: Iterable[Path]) -> Files:
    """The states in which files and directories that cannot be read at the start close all calls.

    Later the former state keeps serving: a file whose rights are set only after it was created must not cause a gap.
    """
    unread = [path for path, state in states.items() if state.read.content is None and _stays_unreadable(path)]
    closing = {path: replace(states[path], problems=_say_closed(states[path].problems)) for path in unread}
    closing |= {path: ObjectFile(FileContent()) for path in unlisted}
    return {path: replace(state, objects=(make_unreadable_file(printable(path)),)) for path, state in closing.items()}


def _stays_unreadable(path: Path) -> bool:
    """Reads once more: a file may disappear and come back while a directory is read."""
    return read_followed(path, None, MAX_FILE_BYTES).content is None and os.path.lexists(path)


def _say_closed(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    return tuple(replace(problem, message=f"{problem.message}{_CLOSES}") for problem in problems)


def read_file(path: Path, former: ObjectFile | None, reader: ObjectReader, read_all: bool = True) -> ObjectFile:
    """The state of a file after `former`: broken content changes nothing but the problems.

    Without `read_all` it is `former` itself while its stamp proves that the file has not changed.
    """
    is_known = former is not None and former.settled and not read_all
    known = former.read if former is not None and is_known else None
    read = read_followed(path, known, MAX_FILE_BYTES)
    if former is not None and read is known:
        return former
    return _next_state(path, read, former, reader)


def _next_state(path: Path, read: FileContent, former: ObjectFile | None, reader: ObjectReader) -> ObjectFile:
    content = read.content
    if content is None:
        return _unreadable(path, read, former)
    if former is not None and content == former.read.content:
        return replace(former, read=read, awaited=None, gone=False)
    if former is not None and not content.endswith(b"\n") and content and content != former.awaited:
        return replace(former, awaited=content, gone=False)
    objects, problems = parse_content(content, printable(path), reader)
    if not objects and not problems and former is not None and former.has_last_good:
        problems = (Problem(Severity.ERROR, "this file holds no object any more", f"{printable(path)}:1"),)
    if any(problem.severity is Severity.ERROR for problem in problems):
        return _broken(read, former, problems, objects)
    return ObjectFile(read, objects, problems)


def _unreadable(path: Path, read: FileContent, former: ObjectFile | None) -> ObjectFile:
    problem = Problem(Severity.ERROR, f"cannot read this file: {read.unreadable}", printable(path))
    if former is not None and former.closes:
        return ObjectFile(read, former.objects, _say_closed((problem,)))
    return _broken(read, former, (problem,))


def parse_content(
    content: bytes, origin: str, reader: ObjectReader
) -> tuple[tuple[KubeObject, ...], tuple[Problem, ...]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"byte {content[error.start]:#04x} is not UTF-8: save the file as UTF-8 text"
        if b"\0" in content:  # another encoding, or encrypted: not even kinds can be found
            return (make_unreadable_file(origin),), _say_closed((Problem(Severity.ERROR, message, f"{origin}:{line}"),))
        lost = find_placeholders(content.decode("utf-8", "replace"), origin, DEFAULT_NAMESPACE, reader.dialect)
        return lost, (Problem(Severity.ERROR, message, f"{origin}:{line}"),)
    return reader.read(text, origin)


def merge(files: Files, dialect: DialectObjects) -> tuple[tuple[KubeObject, ...], tuple[Problem, ...]]:
    """One object per key: the first serves, in order of path and then of line; each other one is an error."""
    return keep_first((obj for state in files.values() for obj in state.objects), dialect)


def _broken(
    read: FileContent,
    former: ObjectFile | None,
    problems: tuple[Problem, ...],
    objects: tuple[KubeObject, ...] = (),
) -> ObjectFile:
    """The last good objects stay; a file without any serves the documents in it that are objects."""
    if former is None or not former.has_last_good:
        return ObjectFile(read, objects, problems)
    kept = "the objects last read from this file keep serving: correct it, or delete it to remove them"
    extended = tuple(replace(problem, message=f"{problem.message}; {kept}") for problem in problems)
    return ObjectFile(read, former.objects, extended)


def _problems_of(files: Files) -> Iterable[Problem]:
    return (problem for state in files.values() for problem in state.problems)


def _unlisted_problem(error: OSError, directory: Path) -> Problem:
    place = error.filename or directory
    message = (
        f"cannot list directory {place}: {error.strerror or error}; the objects last read from it keep serving: "
        "make it readable, or restart the gateway without it"
    )
    return Problem(Severity.ERROR, message, str(place))
