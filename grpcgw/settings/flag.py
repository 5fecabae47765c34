"""Flags: name, environment variable and help of a setting, and the checks that parse its text.

A check takes the user's text and returns the value. It raises ValueError, which says what is wrong and what is valid.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

SOURCE = "Where configuration and pods come from: one of --config and --kubernetes"
LISTEN = "Where to listen"
DATA_PLANE = "Data plane"
LOG = "Log"
PANELS = (SOURCE, LISTEN, DATA_PLANE, LOG)
"""The headings of the flags in help, in order."""

LONGEST_S = 86_400
"""A day: longer than any sensible setting, and short enough for the clocks of grpc core, which overflow."""
MOST = 2**31 - 1
"""grpc core keeps its limits in 32 bits."""


@dataclass(frozen=True, slots=True)
class Flag:
    """Flag, variable and help of a setting."""

    name: str
    """`--drain-time`; the environment variable is GRPCGW_DRAIN_TIME."""
    panel: str
    help: str
    metavar: str = ""
    """Placeholder of the value in help; empty: the values of an enumeration, or nothing for a switch."""
    parse: Callable[[str], object] | None = None
    """The check; None: the type is enough."""
    ambassador: str = ""
    """Ambassador's variable for the same thing; grpcgw's wins."""
    unset: str = ""
    """The default in words, if its value is not clear."""
    default: str = ""
    """The default of the command line, if it differs from that of `Settings`."""
    repeated: bool = False
    """The flag may come several times; `parse` gets all its texts, one a line, as the variable has them."""


@dataclass(frozen=True, slots=True)
class GivenPolicy:
    """An own policy of the command line."""

    plugin: str
    """`module:Class`, or the name of an entry point."""
    config: str = field(default="{}", repr=False)
    """A JSON object. It may hold secrets."""


# ---- checks


def parse_directory(text: str) -> Path:
    """An existing directory. Raises ValueError."""
    if not Path(text).is_dir():
        raise ValueError(f"there is no directory {text!r}")
    return Path(text)


def parse_file(text: str) -> Path:
    """An existing file. Raises ValueError."""
    if not Path(text).is_file():
        raise ValueError(f"there is no file {text!r}")
    return Path(text)


def parse_port(text: str) -> int:
    """A port, 0 to 65535. Raises ValueError."""
    if text.startswith("tcp://"):
        raise ValueError(
            f"{text} is what Kubernetes sets in pods for a Service of that name:"
            " say enableServiceLinks: false in the pod"
        )
    if not text.isdecimal() or int(text) > 65_535:
        raise ValueError(f"{text} is no port: say 0 to 65535 (0 takes a free one)")
    return int(text)


def parse_port_or_off(text: str) -> int | None:
    """A port, or None for `off`. Raises ValueError."""
    try:
        return None if text == "off" else parse_port(text)
    except ValueError as error:
        raise ValueError(f"{error} or off" if "is no port" in str(error) else str(error)) from None


def parse_address(text: str) -> str:
    """An IP address, or a name that the system resolves, such as `localhost`. Raises ValueError."""
    with contextlib.suppress(ValueError):
        return str(ip_address(text))
    try:
        if not any(letter.isalpha() for letter in text):  # the system would read 8080 as 0.0.31.144
            raise OSError("it is no name")
        socket.getaddrinfo(text, None, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ValueError(
            f"{text!r} is no IP address, and no name of this machine: say 0.0.0.0 or :: for all of its addresses,"
            " or one of them, such as 127.0.0.1"
        ) from error
    return text


def parse_names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


_PLUGIN = re.compile(r"[\w.-]+(:[\w.]+)?")


def parse_policies(text: str) -> tuple[GivenPolicy, ...]:
    """`module:Class` or `module:Class={json}`, any number of them. Raises ValueError, which shows no configuration."""
    found, at = list[GivenPolicy](), 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        plugin = _PLUGIN.match(text, at)
        if plugin is None:
            raise ValueError("say module:Class, or module:Class={…} with a configuration as JSON")
        at, config = _read_config(text, plugin.end(), plugin[0])
        if at < len(text) and not text[at].isspace():
            raise ValueError(f"{plugin[0]}: a space or = and a JSON object should follow")
        found.append(GivenPolicy(plugin[0], config))
    return tuple(found)


def _read_config(text: str, at: int, plugin: str) -> tuple[int, str]:
    """The JSON object that begins with `=` at `at`, and where it ends; `{}` where there is none."""
    if not text.startswith("=", at):
        return at, "{}"
    try:
        value, end = json.JSONDecoder().raw_decode(text, at + 1)
    except ValueError:
        value, end = None, at
    if not isinstance(value, dict):
        raise ValueError(f"{plugin}: what follows = is no JSON object")
    return end, text[at + 1 : end]


def parse_workers(text: str) -> int:
    """A number of workers; `auto`: one for each available processor. Raises ValueError."""
    if text == "auto":
        return len(cores())
    if not text.isdecimal():
        raise ValueError(f"{text} is no number of workers: say auto, or 0, 1, 2, …")
    return int(text)


def whole(noun: str) -> Callable[[str], int]:
    """A check for a whole number of `noun`, 1 to MOST."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= MOST:
            raise ValueError(f"{text} is no number of {noun} from 1 to {MOST}")
        return int(text)

    return parse


def number(noun: str, least: float, most: float) -> Callable[[str], float]:
    """A check for a `noun` (`number of seconds`) from `least` to `most`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise ValueError(f"{text} is no {noun} from {least:g} to {most}")
        return value

    return parse


def cores() -> list[int]:
    """Processor numbers this process may run on: `--workers auto` starts one worker for each."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
