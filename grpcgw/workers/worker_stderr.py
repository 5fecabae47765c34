"""Reads the stderr of worker processes: counts failed TLS handshakes from grpc core's log, logs other lines.

This is for the generic-handler engine: grpc core reports failed TLS handshakes only in its own log. Bad clients can
cause any number of lines. So the stderr of a worker is a non-blocking pipe; this module reads it at a bounded rate and
counts the failures by cause. A flood loses lines, so counts may be too low, never too high. The gateway's own log does
not go through the pipe.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from grpcgw.engines.contract import QUIET_CORE
from grpcgw.telemetry.handshake_failures import HandshakeFailures

log = logging.getLogger(__name__)

CHUNK_BYTES = 65_536
PAUSE_S = 0.05
"""Between chunks: at most 1.3 MB a second are read."""
MOST_LOGGED_LINES = 200
"""Lines that are not grpc core's (a traceback, a crash), per process."""

_HANDSHAKE = re.compile(rb"Handshake failed with (?:fatal )?error [^:]*: .*?OPENSSL_internal:([A-Z0-9_]+)")
_CORE = re.compile(rb"[IWE]\d{4} \d\d:\d\d:|WARNING: All log messages before absl|=== Source|src/core/|\s*$")

_CAUSES = {
    b"WRONG_VERSION_NUMBER": "no-tls",
    b"HTTP_REQUEST": "http",
    b"HTTPS_PROXY_REQUEST": "http",
    b"PEER_DID_NOT_RETURN_A_CERTIFICATE": "no-client-certificate",
    b"CERTIFICATE_VERIFY_FAILED": "untrusted-certificate",
    b"UNSUPPORTED_PROTOCOL": "tls-version",
    b"TLSV1_ALERT_PROTOCOL_VERSION": "tls-version",
    b"NO_SHARED_CIPHER": "no-shared-cipher",
    b"SSLV3_ALERT_HANDSHAKE_FAILURE": "no-shared-cipher",
    b"TLSV1_ALERT_UNKNOWN_CA": "own-certificate-refused",
    b"SSLV3_ALERT_BAD_CERTIFICATE": "own-certificate-refused",
    b"SSLV3_ALERT_CERTIFICATE_UNKNOWN": "own-certificate-refused",
    b"SSLV3_ALERT_CERTIFICATE_EXPIRED": "own-certificate-refused",
}
"""By BoringSSL's name of the error; every other error is `other`."""

OTHER = "other"


class WorkerStderr:
    """The stderr of one worker slot, over all processes that fill it."""

    def __init__(self, worker: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._worker = worker
        self._failures = HandshakeFailures(f"worker {worker}: ", clock)

    @property
    def handshake_failures(self) -> Counter[str]:
        """By cause, since the start. grpc core does not say whether the peer was a client or a pod."""
        return self._failures.by_cause

    async def follow(self, descriptor: int) -> None:
        """Read the pipe until all its writers are gone, then close it."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
        )
        rest, left = b"", MOST_LOGGED_LINES
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                *lines, rest = (rest[:CHUNK_BYTES] + chunk).split(b"\n")
                left -= self.read_lines(lines, left)
                await asyncio.sleep(PAUSE_S)
            self.read_lines([rest], left)
        finally:
            transport.close()

    def read_lines(self, lines: Iterable[bytes], most: int = MOST_LOGGED_LINES) -> int:
        """Count grpc core's handshake failures, and log up to `most` other lines; returns how many were logged."""
        logged = 0
        for line in lines:
            failed = _HANDSHAKE.search(line)
            if failed is not None:
                self._failures.count(_CAUSES.get(failed[1], OTHER))
            elif not _CORE.match(line) and logged < most:
                logged += 1
                log.error("worker %d on stderr: %s", self._worker, line.decode(errors="backslashreplace"))
        return logged


def operator_sets_verbosity(environment: Mapping[str, str]) -> bool:
    """Whether GRPC_VERBOSITY has a value of the operator's, so that grpc core's log goes to the operator unchanged."""
    return environment.get("GRPC_VERBOSITY", QUIET_CORE) != QUIET_CORE


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` with the verbosity at which grpc core logs failed handshakes."""
    return {**environment, "GRPC_VERBOSITY": "INFO"}


def open_pipe() -> tuple[int, int]:
    """The read end and the write end; a write never blocks."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    return read_end, write_end
