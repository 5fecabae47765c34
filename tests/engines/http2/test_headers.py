"""What of a request enters the header tables of pods (HPACK)."""

from __future__ import annotations

from grpcgw.engines.http2.h2 import NeverIndexed
from grpcgw.engines.http2.headers import encode_metadata, parse_request


def test_a_request_id_displaces_nothing_in_the_header_table_of_a_pod() -> None:
    (field,) = encode_metadata((("x-request-id", "8d1c2d7e-1f0a-4b7c-a3de-0123456789ab"),))
    assert isinstance(field, NeverIndexed)
    assert field == (b"x-request-id", b"8d1c2d7e-1f0a-4b7c-a3de-0123456789ab")


def test_what_rpcs_repeat_is_kept_in_the_header_table_of_a_pod() -> None:
    (field,) = encode_metadata((("x-forwarded-for", "192.0.2.1"),))
    assert not isinstance(field, NeverIndexed)


def test_what_its_client_keeps_out_of_header_tables_stays_out_however_often_it_comes() -> None:
    secret, opened = (NeverIndexed(b"authorization", b"Bearer abc"), (b"authorization", b"Bearer abc"))
    pseudo = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a.B/C"))
    for _ in range(3):
        (field,) = encode_metadata(parse_request((*pseudo, secret)).metadata)
        assert isinstance(field, NeverIndexed)
        assert field == opened


def test_a_value_that_comes_in_the_open_is_indexed_though_another_client_hides_it() -> None:
    hidden, opened = NeverIndexed(b"x-shared", b"value"), (b"x-shared", b"value")
    pseudo = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a.B/C"))
    encode_metadata(parse_request((*pseudo, hidden)).metadata)
    (field,) = encode_metadata(parse_request((*pseudo, opened)).metadata)
    assert not isinstance(field, NeverIndexed)
