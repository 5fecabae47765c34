"""The YAML of docs/who-may-call.md is good as it stands."""

from __future__ import annotations

import re
from pathlib import Path

from grpcgw.model.objects import Severity
from tests.compiling import compile_objects, said
from tests.parsing import parse_objects

PAGE = Path(__file__).parents[2] / "docs" / "who-may-call.md"


def test_the_examples_of_the_page_have_no_errors() -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    objects, faults = parse_objects("---\n".join(blocks), PAGE.name)
    errors = [*faults, *said(compile_objects(*objects), Severity.ERROR)]
    assert [one for one in errors if "have not been fetched yet" not in one] == []
