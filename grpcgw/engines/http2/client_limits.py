"""What each connection of a client may do: the limits of its port, and how many control frames it may send. Pure."""

from __future__ import annotations

import sys
from dataclasses import dataclass

CONTROL_BURST, CONTROL_PER_S = 1000, 50
"""PING, SETTINGS, WINDOW_UPDATE and PRIORITY_UPDATE frames at once, and in a second."""
CONTROL_PER_ANSWER = 40
"""More of them for each chunk that was sent and each RPC that has begun: clients ping to measure the bandwidth while
they receive (grpc-go once a round trip), update two windows for each DATA frame, of which a chunk may be sixteen, and
some when they begin an RPC (grpc core), whose answer may take its time."""

USUAL_HEADER_BYTES, HEADER_BYTES_PER_FRAME = 16_384, 256
"""Where a client resets an RPC with more header bytes, each 256 bytes above count as a control frame. HPACK packs such
headers into a few bytes, and to unpack them takes a millisecond."""


def count_reset(header_bytes: int) -> int:
    """As how many control frames the reset of an RPC with so large headers counts."""
    return max(0, header_bytes - USUAL_HEADER_BYTES) // HEADER_BYTES_PER_FRAME


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """What a port allows each of its connections. Times in seconds; None: no limit."""

    max_concurrent_streams: int
    max_metadata_bytes: int
    idle_s: float | None
    max_age_s: float | None
    max_age_grace_s: float | None


class ControlBudget:
    """How many control frames a client may send, in proportion to its RPCs and to what it gets, as Envoy bounds
    WINDOW_UPDATE frames (`max_inbound_window_update_frames_per_data_frame_sent`, and two for each stream)."""

    __slots__ = ("_answers", "_at_s", "_frames", "_left", "_most")

    def __init__(self, now_s: float) -> None:
        self._left, self._answers, self._at_s = float(CONTROL_BURST), 0, now_s
        self._frames, self._most = 0, CONTROL_BURST

    def count(self, frames: int = 1) -> bool:
        """A frame came, or what counts as many. Returns whether to look if there were too many."""
        self._frames += frames
        return self._frames > self._most

    def is_exceeded(self, answers: int, now_s: float) -> bool:
        """Whether there were too many frames; true once. `answers` is a count that only grows."""
        earned = CONTROL_PER_S * (now_s - self._at_s) + CONTROL_PER_ANSWER * (answers - self._answers)
        self._left = min(CONTROL_BURST, self._left + earned - self._frames)
        self._answers, self._at_s, self._frames = answers, now_s, 0
        exceeded = self._left < 0
        self._most = sys.maxsize if exceeded else int(self._left)
        return exceeded
