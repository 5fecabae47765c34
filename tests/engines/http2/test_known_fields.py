"""What is remembered of fields is bounded, whatever clients send."""

from __future__ import annotations

import pytest

from grpcgw.engines.http2.headers import encode_metadata, parse_request
from grpcgw.engines.http2.known_fields import LONGEST_BYTES, MOST, MOST_BYTES, KnownFields


@pytest.mark.parametrize("size_bytes", [1, 64, LONGEST_BYTES])
def test_neither_many_nor_long_fields_are_too_many(size_bytes: int) -> None:
    known: KnownFields[int, int] = KnownFields()
    for number in range(3 * MOST):
        known.keep(number, number, size_bytes)
        assert known[number] == number
        assert len(known) <= MOST
        assert len(known) * size_bytes <= known.size_bytes <= MOST_BYTES


def test_a_longer_field_is_not_kept_and_pushes_out_none() -> None:
    known: KnownFields[str, int] = KnownFields()
    known.keep("a", 1, 1)
    known.keep("b", 2, LONGEST_BYTES + 1)
    assert known == {"a": 1}


@pytest.mark.parametrize("size", [10, 700, LONGEST_BYTES + 1])
def test_a_field_that_comes_again_is_read_and_written_as_before(size: int) -> None:
    field = (b"authorization", b"Bearer " + b"t" * size)
    for _ in range(2):
        head = parse_request(((b":method", b"POST"), (b":path", b"/a.S/M"), (b":scheme", b"http"), field))
        assert head.metadata == (("authorization", field[1].decode()),)
        assert encode_metadata(head.metadata) == [field]
