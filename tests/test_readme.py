"""What the documentation says to type works: commands that need no cluster are run, of the others the files are there.

A `console` block is run and its output compared (… stands for anything), an `sh` block is checked command by command.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from itertools import dropwhile
from pathlib import Path

import pytest
import yaml

from grpcgw import __version__
from grpcgw.cli import options
from grpcgw.cli.main import execute

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/command-line.md", "docs/kubernetes.md")
DEADLINE_S = 60


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


ASSIGNMENT = re.compile("[A-Z_]+=")


def commands(page: str) -> list[list[str]]:
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def sessions() -> list[tuple[str, str]]:
    """Each command of a console block with the output shown under it."""
    found = []
    for page in PAGES:
        for block in blocks(page, "console"):
            for part in block.removeprefix("$ ").split("\n$ "):
                command, _, shown = part.partition("\n")
                found.append((command, shown))
    return found


@cache
def printed_by(command: str) -> str:
    """Several pages show the same commands."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize(("command", "shown"), sessions())
def test_console_blocks_show_what_is_printed(command: str, shown: str) -> None:
    pattern = re.escape(shown.rstrip()).replace("…", ".*")
    printed = "\n".join(line.rstrip() for line in printed_by(command).rstrip().splitlines())
    assert re.fullmatch(pattern, printed, re.DOTALL), printed


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_need_more_than_a_checkout_name_what_is_there(page: str) -> None:
    for words in commands(page):
        match list(dropwhile(ASSIGNMENT.match, words)):
            case ["make", target]:
                assert f"\n{target}:" in (ROOT / "Makefile").read_text()
            case ["docker", "build", *arguments]:
                assert (ROOT / arguments[arguments.index("-f") + 1]).is_file()
                assert arguments[arguments.index("-t") + 1].endswith(f":{__version__}")
            case ["kubectl", "apply", "-f", manifest]:
                assert list(yaml.safe_load_all((ROOT / manifest).read_text()))
            case ["kubectl", "apply", "-k", directory]:
                assert (ROOT / directory / "kustomization.yaml").is_file()
            case ["kubectl", "-n", namespace, *arguments]:
                assert_deployed(namespace, next(word for word in arguments if "/" in word))
            case [".venv/bin/python", "-m", *arguments]:
                run(sys.executable, "-m", *arguments, "--help")
            case [".venv/bin/grpcgw", *arguments]:
                assert execute([*arguments, "--help"]) == 0
            case _:
                pytest.fail(f"{page}: nobody checks `{shlex.join(words)}`")


@cache
def run(*command: str) -> None:
    subprocess.run(command, cwd=ROOT, capture_output=True, timeout=DEADLINE_S, check=True)


def assert_deployed(namespace: str, reference: str) -> None:
    """`deployment/grpcgw` of `namespace` is in one of the manifests."""
    manifests = [
        manifest for path in (ROOT / "deploy").rglob("*.yaml") for manifest in yaml.safe_load_all(path.read_text())
    ]
    found = {
        f"{m['kind'].lower()}/{m['metadata']['name']}"
        for m in manifests
        if m.get("metadata", {}).get("namespace") == namespace
    }
    assert reference in found


def test_configuration_shown_is_the_examples_own() -> None:
    (shown,) = blocks("README.md", "yaml")
    assert shown == (ROOT / "examples/greet/greet.yaml").read_text()


def test_answers_shown_are_in_strict_turn() -> None:
    (shown,) = blocks("README.md", "text")
    assert re.findall(r"server host: (\S+)", shown) == ["greet-1", "greet-2"] * 2


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_links_between_pages_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    targets = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    missing = [t for t in targets if "://" not in t and not (ROOT / page).parent.joinpath(t).exists()]
    assert missing == []


def test_the_table_of_flags_is_what_the_settings_say() -> None:
    assert options.draw_flag_table() in (ROOT / "docs/command-line.md").read_text(), "run scripts/flags.py"
