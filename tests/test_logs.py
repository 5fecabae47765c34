"""Numbers in the gateway's log, as a reader would write them."""

from __future__ import annotations

import pytest

from grpcgw.logs import count


@pytest.mark.parametrize(("number", "text"), [(0, "no routes"), (1, "1 route"), (2, "2 routes")])
def test_one_of_a_thing_is_not_many(number: int, text: str) -> None:
    assert count(number, "route") == text
