"""docs/data-plane.md tells of every reason the gateway can give, with the status it comes with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from grpcgw.model.codes import Code
from grpcgw.model.status import Reason, make_status

PAGE = Path(__file__).parents[2] / "docs/data-plane.md"
TABLE = dict(re.findall(r"^\| `([a-z-]+)` \| ([A-Z_]+) \|", PAGE.read_text(), re.MULTILINE))


@pytest.mark.parametrize("reason", Reason)
def test_reason_is_documented_with_its_status(reason: Reason) -> None:
    assert TABLE.get(reason.value) == Code(make_status(reason, "").code).name


def test_no_other_reason_is_documented() -> None:
    assert set(TABLE) == {reason.value for reason in Reason}
