"""Paths of gRPC requests (`/service/method`): the characters that the gateway admits."""

from __future__ import annotations

import re

PATH_CHARACTER = r"[A-Za-z0-9_.~:@!$&'()*+,=-]"
"""A regular expression for one character of a service or a method: RFC 3986's pchar without escapes and without `;`,
which some servers cut paths at. The gateway admits no other, so a Mapping that needs one matches no call."""

METHOD_PATH = re.compile(f"/{PATH_CHARACTER}+/{PATH_CHARACTER}+")
BEGIN_OF_METHOD_PATH = re.compile(f"(?:/(?:{PATH_CHARACTER}+(?:/{PATH_CHARACTER}*)?)?)?")
"""Any beginning of one, the empty one and the whole, too."""
