"""What a worker process writes to its stderr beside the gateway's log: lines of grpc core, and last words.

grpc core tells of TLS handshakes that fail in its own log alone, as many lines as bad clients like. So workers have a
pipe for a stderr, which never makes a writer wait; here its lines are read, at a bounded rate, and counted by cause. A
flood loses lines, so the counts may be too low, never too high. The gateway's own log goes another way, past the pipe.
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

log = logging.getLogger(__name__)

CHUNK_BYTES = 65_536
PAUSE_S = 0.05
"""Between chunks: at most 1.3 MB a second are looked at."""
SAID_EVERY_S = 60.0
"""How often a cause may have a line in the log."""
MOST_PASSED_ON = 200
"""Lines that are not core's (a traceback, the last words of a crash), for each process."""

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
"""By BoringSSL's name of the error; whatever else there is, is `other`."""

OTHER = "other"


class CoreLog:
    """Of one worker's place, whatever processes fill it."""

    def __init__(self, worker: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._worker, self._clock = worker, clock
        self.handshake_failures: Counter[str] = Counter()
        """By cause, since the start. Core does not say whether a client's connection failed or one to a pod."""
        self._said: dict[str, tuple[float, int]] = {}

    async def follow(self, descriptor: int) -> None:
        """Read the pipe until all who write to it are gone, and close it."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
        )
        rest, left = b"", MOST_PASSED_ON
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                *lines, rest = (rest[:CHUNK_BYTES] + chunk).split(b"\n")
                left -= self.take(lines, left)
                await asyncio.sleep(PAUSE_S)
            self.take([rest], left)
        finally:
            transport.close()

    def take(self, lines: Iterable[bytes], most: int = MOST_PASSED_ON) -> int:
        """Count what core says, and pass on up to `most` other lines; returns how many were."""
        passed_on = 0
        for line in lines:
            failed = _HANDSHAKE.search(line)
            if failed is not None:
                self._count(_CAUSES.get(failed[1], OTHER))
            elif not _CORE.match(line) and passed_on < most:
                passed_on += 1
                log.error("worker %d on stderr: %s", self._worker, line.decode(errors="backslashreplace"))
        return passed_on

    def _count(self, cause: str) -> None:
        self.handshake_failures[cause] += 1
        said_at_s, said = self._said.get(cause, (-SAID_EVERY_S, 0))
        now_s = self._clock()
        if now_s - said_at_s >= SAID_EVERY_S:
            count = self.handshake_failures[cause]
            self._said[cause] = now_s, count
            log.warning("worker %d: TLS handshakes failed: %s, %d more", self._worker, cause, count - said)


def is_chosen(environment: Mapping[str, str]) -> bool:
    """Whether the operator wants core's log for himself."""
    return environment.get("GRPC_VERBOSITY", QUIET_CORE) != QUIET_CORE


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Core tells of handshakes at the level INFO."""
    return {**environment, "GRPC_VERBOSITY": "INFO"}


def open_pipe() -> tuple[int, int]:
    """The ends to read and to write; who writes is never made to wait."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    return ours, theirs
