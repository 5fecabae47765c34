"""Paths of gRPC requests (`/service/method`): the characters that the gateway admits."""

from __future__ import annotations

PATH_CHARACTER = r"[A-Za-z0-9_.~:@!$&'()*+,=-]"
"""A regular expression for one character of a service or a method: RFC 3986's pchar without escapes and without `;`,
which some servers cut paths at. The gateway admits no other, so a Mapping that needs one matches no call."""
