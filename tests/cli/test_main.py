"""The command line as a whole: help, versions, exit codes, errors of one line."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from grpcgw import __version__
from grpcgw.cli.main import execute
from grpcgw.errors import UserError
from grpcgw.settings import Settings
from tests.cli.commands import DEADLINE_S, GREET, usage_error, write_mapping


@pytest.mark.parametrize("module", ["grpcgw.workers.worker", "grpcgw.cli.main"])
def test_workers_and_help_do_not_load_pydantic_settings(module: str) -> None:
    look = f"import sys, {module}; sys.exit('pydantic_settings' in sys.modules)"
    subprocess.run([sys.executable, "-c", look], timeout=60, check=True)


@pytest.mark.parametrize("error", [UserError("port 8080 is taken:\nend what listens there"), OSError("no such thing")])
def test_what_a_user_can_cause_is_one_line_and_exit_code_1(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(_: Settings) -> int:
        raise error

    assert execute(["run", "--config", GREET], start) == 1
    assert capsys.readouterr().err == f"grpcgw: {' '.join(str(error).split())}\n"


def test_a_defect_keeps_its_traceback() -> None:
    def start(_: Settings) -> int:
        raise KeyError("defect")

    with pytest.raises(KeyError):
        execute(["run", "--config", GREET], start)


def test_interrupt_ends_with_130() -> None:
    def start(_: Settings) -> int:
        raise KeyboardInterrupt

    assert execute(["run", "--config", GREET], start) == 130


COMMANDS = ("run", "check", "routes", "demo", "version")


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([*command, "--help"]) == 0
    assert " ".join(["grpcgw", *command]) in capsys.readouterr().out


def test_without_a_command_help_is_shown_as_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([]) == 2
    assert set(COMMANDS) <= set(capsys.readouterr().out.split())


def test_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "rum" in usage_error(capsys, "rum")


def test_version_names_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["version"]) == 0
    assert re.match(
        rf"grpcgw {re.escape(__version__)} \((compiled, )?ngh2 \d.*, grpcio \d.*, Python 3\.\d+",
        capsys.readouterr().out,
    )


def test_command_runs_as_a_module_and_writes_no_colours_into_a_pipe() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "grpcgw", "run", "--help"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    assert "--max-concurrent-streams" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("flag", ["--version", "version"])
def test_the_version_is_a_flag_and_a_command(capsys: pytest.CaptureFixture[str], flag: str) -> None:
    assert execute([flag]) == 0
    assert capsys.readouterr().out.startswith("grpcgw ")


@pytest.mark.parametrize("command", [(), ("run",), ("check",), ("routes",), ("demo",)])
def test_help_has_a_short_flag(capsys: pytest.CaptureFixture[str], command: tuple[str, ...]) -> None:
    assert execute([*command, "-h"]) == 0
    assert "Usage: grpcgw" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["check", "routes"])
def test_help_names_no_flag_that_the_command_does_not_take(capsys: pytest.CaptureFixture[str], command: str) -> None:
    execute([command, "--help"])
    named = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    taken = {
        "--serve-without-auth",
        "--ambassador-id",
        "--ambassador-namespace",
        "--engine",
        "--help",
        "--policy",
        *(["--json"] if command == "routes" else []),
    }
    assert named == taken


@pytest.mark.parametrize(
    "arguments", [("run", "--config", GREET, "--engine", "fast"), ("run",), ("demo", "--calls", "1"), ("check", "x")]
)
def test_wrong_usage_is_told_without_the_words_of_a_library(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    said = usage_error(capsys, *arguments)
    assert "Value error" not in said
    assert "Invalid value:" not in said


def printed_on_a_terminal(command: list[str], **environment: str) -> str:
    controller, terminal = pty.openpty()
    with open(controller, "rb", buffering=0) as reader, open(terminal, "wb", buffering=0) as writer:
        variables = {**os.environ, "TERM": "xterm", **environment}
        subprocess.run(command, stdout=writer, env=variables, timeout=DEADLINE_S, check=False)
        # While this side holds the terminal open, what was written can be read, and reading cannot fail.
        return reader.read(65_536).decode()


def test_colours_are_for_terminals_and_no_color_turns_them_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    write_mapping(tmp_path, "broken", "timeout_ms", "soon")
    command = [sys.executable, "-m", "grpcgw", "check", str(tmp_path)]
    piped = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False).stdout
    assert "\x1b" not in piped
    assert "\x1b[" in printed_on_a_terminal(command)
    assert "\x1b" not in printed_on_a_terminal(command, NO_COLOR="1")
