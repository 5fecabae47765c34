"""What of a request enters the header tables of pods (HPACK)."""

from __future__ import annotations

from grpcgw.engines.http2.h2 import NeverIndexed
from grpcgw.engines.http2.headers import encode_metadata


def test_a_request_id_displaces_nothing_in_the_header_table_of_a_pod() -> None:
    (field,) = encode_metadata((("x-request-id", "8d1c2d7e-1f0a-4b7c-a3de-0123456789ab"),))
    assert isinstance(field, NeverIndexed)
    assert field == (b"x-request-id", b"8d1c2d7e-1f0a-4b7c-a3de-0123456789ab")


def test_what_rpcs_repeat_is_kept_in_the_header_table_of_a_pod() -> None:
    (field,) = encode_metadata((("x-forwarded-for", "192.0.2.1"),))
    assert not isinstance(field, NeverIndexed)
