"""Tests of the command line start without the variables of grpcgw and Ambassador."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("GRPCGW_", "AMBASSADOR_")):
            monkeypatch.delenv(name)
