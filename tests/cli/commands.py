"""Running commands of `grpcgw` in this process, and files for them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from grpcgw.cli.main import execute
from grpcgw.settings import Settings

ROOT = Path(__file__).parents[2]

GREET = str(ROOT / "examples/greet")

DEADLINE_S = 60


def settings_of(*arguments: str) -> Settings:
    """The settings `grpcgw run` would start the gateway with."""
    started: list[Settings] = []

    def start(settings: Settings) -> int:
        started.append(settings)
        return 0

    assert execute(["run", *arguments], start) == 0
    (settings,) = started
    return settings


def usage_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a wrong command line is answered with."""
    assert execute(arguments, lambda _: pytest.fail("started")) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"grpcgw: .*\n", printed.err), printed.err
    return printed.err


MAPPING = """\
apiVersion: getambassador.io/v2
kind: Mapping
metadata: {name: NAME}
spec:
  prefix: /NAME.Service/
  service: NAME
  KEY: VALUE
"""


def write_mapping(directory: Path, name: str, key: str, value: str) -> None:
    text = MAPPING.replace("NAME", name).replace("KEY", key).replace("VALUE", value)
    (directory / f"{name}.yaml").write_text(text)


def document(kind: str, name: str, spec: str) -> str:
    return f"apiVersion: getambassador.io/v2\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
