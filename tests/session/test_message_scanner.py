"""The scanner counts messages and their declared lengths, wherever the stream of them is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.session.message_scanner import MessageScanner
from tests.session.frames import cut, frame

MESSAGES = st.lists(st.binary(max_size=12) | st.sampled_from((b"", bytes(300), bytes(70_000))), max_size=6)


@given(messages=MESSAGES, places=st.lists(st.integers(0, 1_000), max_size=12))
def test_any_cutting_gives_the_same_count_and_sizes(messages: list[bytes], places: list[int]) -> None:
    stream = b"".join(frame(message) for message in messages)
    scanner = MessageScanner()
    largest = max((scanner.feed(chunk) for chunk in cut(stream, places)), default=0)
    assert largest == max((len(message) for message in messages), default=0)
    assert scanner.count == len(messages)
    assert scanner.complete


@given(messages=MESSAGES)
def test_byte_by_byte_each_length_is_reported_with_the_last_byte_of_its_prefix(messages: list[bytes]) -> None:
    scanner = MessageScanner()
    for message in messages:
        framed = frame(message[:20])
        assert [scanner.feed(framed[at : at + 1]) for at in range(len(framed))][4] == len(message[:20])
    assert scanner.complete


@given(messages=st.lists(st.binary(max_size=12), min_size=1, max_size=3), lost=st.integers(1, 16))
def test_a_stream_that_ends_within_a_message_is_not_complete(messages: list[bytes], lost: int) -> None:
    last = frame(messages[-1])
    stream = b"".join(frame(message) for message in messages[:-1]) + last[: max(1, len(last) - lost)]
    scanner = MessageScanner()
    scanner.feed(stream)
    assert not scanner.complete


@pytest.mark.parametrize("chunk", [b"\0\0\0\0", b"\1", b"\0\xff\xff\xff\xff"])
def test_a_part_of_a_message_is_not_a_whole_one(chunk: bytes) -> None:
    scanner = MessageScanner()
    assert scanner.feed(chunk) == (2**32 - 1 if len(chunk) == 5 else 0)
    assert not scanner.complete


def test_an_empty_chunk_changes_nothing() -> None:
    scanner = MessageScanner()
    assert (scanner.feed(b""), scanner.count, scanner.complete) == (0, 0, True)


def test_a_compressed_message_counts_as_any_other() -> None:
    scanner = MessageScanner()
    assert scanner.feed(b"\1\0\0\0\2ab") == 2
    assert (scanner.count, scanner.complete) == (1, True)


@given(messages=MESSAGES, places=st.lists(st.integers(0, 1_000), max_size=12))
def test_prefixes_are_no_bytes_of_messages(messages: list[bytes], places: list[int]) -> None:
    """Nor are parts of them: the figure never falls."""
    scanner, sizes = MessageScanner(), [0]
    for chunk in cut(b"".join(frame(message) for message in messages), places):
        scanner.feed(chunk)
        sizes.append(scanner.size_bytes)
    assert sizes == sorted(sizes)
    assert sizes[-1] == sum(map(len, messages))
