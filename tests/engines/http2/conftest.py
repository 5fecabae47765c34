"""Gateways on the http2 engine alone, for what no other engine does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dataplane.lab import Lab


@pytest.fixture
def http2() -> Iterator[Lab]:
    lab = Lab("http2")
    yield lab
    lab.close()
