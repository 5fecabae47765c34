"""Writes the access log of one worker: a bounded queue, a thread, a descriptor. Does not know the lines' content.

An RPC pays for one queue operation; the thread renders and writes lines in batches. If the reader is slow or gone, the
log drops records and counts them; it never delays an RPC.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue

from grpcgw.model.log_format import LogFormat
from grpcgw.telemetry.access_log import RpcRecord, render_line

log = logging.getLogger(__name__)

MAX_WAITING = 8192
"""Most records in the queue; the log drops and counts the rest."""
MAX_WAITING_LARGE = 512
"""If more records wait, the queue takes only records with little metadata. Metadata may have 64 KiB."""
LARGE_CHARACTERS = 4096
PAUSE_S = 0.1
"""How long the thread collects records before it writes them."""
PIECE_BYTES = select.PIPE_BUF
"""Several workers share one stdout: a pipe keeps a write of up to this size in one piece (POSIX, write)."""
COMPLAIN_EVERY_S = 60.0


class AccessLog:
    """`put` may be called by any thread; the writing thread starts with the first record."""

    def __init__(
        self,
        log_format: LogFormat,
        descriptor: int = 1,
        *,
        max_waiting: int = MAX_WAITING,
        pause_s: float = PAUSE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.log_format = log_format
        """May be replaced at any time; applies to later lines."""
        self._descriptor, self._max_waiting, self._pause_s, self._clock = descriptor, max_waiting, pause_s, clock
        self._waiting: SimpleQueue[tuple[float, RpcRecord] | None] = SimpleQueue()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._dropped = 0
        self._complained_of = 0
        self._complained_at_s = -COMPLAIN_EVERY_S

    @property
    def dropped(self) -> int:
        """Records dropped since the start."""
        return self._dropped

    def put(self, record: RpcRecord) -> None:
        """Queue the record of an RPC that ended just now. Never blocks: a full queue drops and counts the record."""
        waiting = self._waiting.qsize()
        if (
            waiting >= self._max_waiting
            or (waiting >= MAX_WAITING_LARGE and _is_large(record))
            or self._closing.is_set()
        ):
            self._drop(1)
            return
        self._waiting.put((self._clock(), record))
        if self._thread is None:
            self._start()

    def close(self, timeout_s: float) -> None:
        """Write the queue for at most `timeout_s`, then end. Later records are dropped."""
        self._closing.set()
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join(timeout_s)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                # A daemon thread: a blocked reader must not keep the process alive.
                self._thread = threading.Thread(target=self._write_all, name="access-log", daemon=True)
                self._thread.start()

    def _write_all(self) -> None:
        more = True
        while more:
            first = self._waiting.get()
            self._closing.wait(self._pause_s)
            batch, more = self._gather(first)
            lines = (render_line(record, ended_at_s, self.log_format) for ended_at_s, record in batch)
            for piece, count in cut_pieces(lines):
                try:
                    self._write(piece)
                except OSError as error:
                    self._drop(count)
                    self._complain(f"stdout: {error.strerror}")
            self._complain("stdout is read too slowly")

    def _gather(self, first: tuple[float, RpcRecord] | None) -> tuple[list[tuple[float, RpcRecord]], bool]:
        """All queued records, and whether the log is still open."""
        batch: list[tuple[float, RpcRecord]] = []
        item = first
        while item is not None:
            batch.append(item)
            try:
                item = self._waiting.get_nowait()
            except Empty:
                return batch, True
        return batch, False

    def _write(self, piece: bytes) -> None:
        while piece:
            try:
                piece = piece[os.write(self._descriptor, piece) :]
            except BlockingIOError:  # another process that shares the descriptor may have set O_NONBLOCK
                select.select([], [self._descriptor], [])

    def _drop(self, count: int) -> None:
        with self._lock:
            self._dropped += count

    def _complain(self, why: str) -> None:
        """Log that records were dropped since the last such line, at most once in COMPLAIN_EVERY_S."""
        now_s = time.monotonic()
        if self._dropped > self._complained_of and now_s - self._complained_at_s >= COMPLAIN_EVERY_S:
            self._complained_of, self._complained_at_s = self._dropped, now_s
            log.warning("access log: %d RPCs were not logged so far: %s", self._dropped, why)


def _is_large(record: RpcRecord) -> bool:
    held = (*record.metadata, *record.headers, *record.trailers)
    return len(record.message) + sum(len(key) + len(value) for key, value in held) > LARGE_CHARACTERS


def cut_pieces(lines: Iterable[str]) -> Iterator[tuple[bytes, int]]:
    """Whole lines in UTF-8, as many as fit into PIECE_BYTES (at least one), and their number."""
    piece, count = b"", 0
    for line in lines:
        encoded = line.encode(errors="backslashreplace") + b"\n"
        if piece and len(piece) + len(encoded) > PIECE_BYTES:
            yield piece, count
            piece, count = b"", 0
        piece += encoded
        count += 1
    if piece:
        yield piece, count
