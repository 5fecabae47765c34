"""Every test that asks for a `lab` runs once per engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dataplane.lab import DIFFERENCES, ENGINES, Lab


@pytest.fixture(params=list(ENGINES))
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    lab = Lab(request.param)
    yield lab
    lab.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "lab" in getattr(item, "fixturenames", ()):
            engine = item.callspec.params["lab"]  # type: ignore[attr-defined]  # parametrised by the fixture
            reason = DIFFERENCES[engine].get(getattr(item, "originalname", item.name))
            if reason is not None:
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
