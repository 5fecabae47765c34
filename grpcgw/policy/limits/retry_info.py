"""`grpc-status-details-bin` of a refusal that a client may repeat: google.rpc.Status with a RetryInfo. Pure.

Written by hand: the messages have five fields, and the generated modules cost more start-up time than all of `policy`.
"""

from __future__ import annotations

from grpcgw.policy.protobuf_fields import bytes_field, number_field

RETRY_INFO = b"type.googleapis.com/google.rpc.RetryInfo"


def make_retry_details(code: int, message: str, retry_after_ms: int) -> bytes:
    """The serialized google.rpc.Status."""
    seconds, millis = divmod(retry_after_ms, 1000)
    delay = number_field(1, seconds) + number_field(2, millis * 1_000_000)
    retry_info = bytes_field(1, RETRY_INFO) + bytes_field(2, bytes_field(1, delay))
    return (
        number_field(1, code) + bytes_field(2, message.encode(errors="backslashreplace")) + bytes_field(3, retry_info)
    )
