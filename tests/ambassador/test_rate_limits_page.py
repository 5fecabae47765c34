"""The YAML of docs/rate-limits.md is good as it stands."""

from __future__ import annotations

import re
from pathlib import Path

from tests.compiling import compile_objects, destinations, obj, said
from tests.parsing import parse_objects

PAGE = Path(__file__).parents[2] / "docs" / "rate-limits.md"


def test_the_examples_of_the_page_have_no_problems() -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    objects, faults = parse_objects("---\n".join(blocks), PAGE.name)
    compiled = compile_objects(*objects, obj("KubernetesEndpointResolver", "endpoint", {}))
    assert [*faults, *said(compiled)] == []
    kinds = {label: [one.kind for one in found.policies] for label, found in destinations(compiled).items()}
    assert kinds == {
        "greet.default": ["rate-limit", "concurrency-limit"],
        "greet-with-labels.default": ["rate-limit"],
    }
