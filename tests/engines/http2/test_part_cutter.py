"""What a client sends is cut into parts of few frames and RPCs, wherever it was cut before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from grpcgw.engines.http2.part_cutter import PREFACE_BYTES, PartCutter, PartLimits
from tests.session.frames import cut

DATA, HEADERS, CONTINUATION = 0, 1, 9
PREFACE = b"*" * PREFACE_BYTES
FRAMES = st.lists(st.tuples(st.sampled_from((DATA, HEADERS, 4, CONTINUATION, 0xBB)), st.integers(0, 40)), max_size=30)
LIMITS = st.builds(PartLimits, st.integers(1, 200), st.integers(1, 5), st.integers(1, 3), st.integers(1, 60))


def frame(kind: int, length: int) -> bytes:
    return length.to_bytes(3, "big") + bytes((kind, 0, 0, 0, 0, 1)) + b"." * length


def cut_all(cutter: PartCutter, data: bytes, limits: PartLimits) -> list[bytes]:
    parts = []
    while data:
        size = cutter.cut(data, limits)
        parts.append(data[:size])
        data = data[size:]
    return parts


@given(frames=FRAMES, limits=LIMITS)
def test_a_part_has_no_more_than_its_limits(frames: list[tuple[int, int]], limits: PartLimits) -> None:
    stream, starts, in_block = PREFACE, {}, [False] * PREFACE_BYTES
    for kind, length in frames:
        starts[len(stream) + 8] = kind  # a frame counts where its header ends
        stream += frame(kind, length)
        in_block += [False] * 9 + [kind in (HEADERS, CONTINUATION)] * length
    parts, at = cut_all(PartCutter(), stream, limits), 0
    assert b"".join(parts) == stream
    for part in parts:
        kinds = [kind for end, kind in starts.items() if at <= end < at + len(part)]
        assert 0 < len(part) <= limits.size_bytes
        assert len(kinds) <= limits.frames
        assert kinds.count(HEADERS) <= limits.rpcs
        assert sum(in_block[at : at + len(part)]) <= limits.block_bytes
        at += len(part)


@given(frames=FRAMES, places=st.lists(st.integers(0, 2_000), max_size=30))
def test_however_the_stream_comes_no_rpc_is_missed(frames: list[tuple[int, int]], places: list[int]) -> None:
    """Nor is one seen in bytes that are no frame's header. One counts in the piece that its frame's header ends in."""
    stream, ends = PREFACE, []
    for kind, length in frames:
        ends += [len(stream) + 8] if kind == HEADERS else []
        stream += frame(kind, length)
    cutter, one_each, at = PartCutter(), PartLimits(1 << 20, frames=1 << 20, rpcs=1, block_bytes=1 << 20), 0
    for piece in cut(stream, places):
        begun = sum(at <= end < at + len(piece) for end in ends)
        assert len(cut_all(cutter, piece, one_each)) == max(1, begun)
        at += len(piece)


def test_an_rpc_and_its_message_are_one_part() -> None:
    rpc = frame(HEADERS, 30) + frame(DATA, 10)
    assert cut_all(PartCutter(), PREFACE + 3 * rpc, PartLimits(16_384, frames=32, rpcs=1, block_bytes=2048)) == [
        PREFACE + rpc,
        rpc,
        rpc,
    ]


def test_a_large_frame_is_cut_within() -> None:
    parts = cut_all(
        PartCutter(), PREFACE + frame(DATA, 50_000), PartLimits(16_384, frames=32, rpcs=1, block_bytes=2048)
    )
    assert [len(part) for part in parts] == [16_384, 16_384, 16_384, PREFACE_BYTES + 9 + 50_000 - 3 * 16_384]


def test_a_header_block_is_cut_within_where_it_is_large() -> None:
    parts = cut_all(
        PartCutter(), PREFACE + frame(HEADERS, 3000), PartLimits(16_384, frames=32, rpcs=1, block_bytes=2048)
    )
    assert [len(part) for part in parts] == [PREFACE_BYTES + 9 + 2048, 3000 - 2048]
