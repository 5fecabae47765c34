"""Counts failed TLS handshakes by cause, and logs each cause at most once a minute, as strangers cause them."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

log = logging.getLogger(__name__)

LOG_EVERY_S = 60.0
"""Shortest time between two log lines of one cause."""


class HandshakeFailures:
    def __init__(self, prefix: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        """`prefix`: of the log lines."""
        self._prefix, self._clock = prefix, clock
        self.by_cause: Counter[str] = Counter()
        """Since the start."""
        self._logged: dict[str, tuple[float, int]] = {}

    def count(self, cause: str, why: str = "") -> None:
        """`cause`: one of few. `why`: a sentence about this failure, for the log."""
        self.by_cause[cause] += 1
        logged_at_s, logged = self._logged.get(cause, (-LOG_EVERY_S, 0))
        now_s = self._clock()
        if now_s - logged_at_s >= LOG_EVERY_S:
            count = self.by_cause[cause]
            self._logged[cause] = now_s, count
            last = f"; the last: {why}" if why else ""
            log.warning("%sTLS handshakes failed: %s, %d more%s", self._prefix, cause, count - logged, last)
