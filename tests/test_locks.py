"""The locks agree with pyproject.toml and with each other: nothing else is installed anywhere, on any Python.

Held without a network, so that a release of somebody else cannot turn it red. Whether a lock is complete pip says, each
time it installs from one: with hashes it takes no package that is not named.
"""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import NormalizedName, canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
GROUPS: Mapping[str, Sequence[str]] = {
    name: [entry for entry in entries if isinstance(entry, str)]
    for name, entries in PROJECT["dependency-groups"].items()
}
"""Without the groups that a group includes."""
PYTHONS = ("3.11", "3.12", "3.13")

WANTED: Mapping[str, Sequence[str]] = {
    "runtime": [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["redis"]],
    "dev": [*PROJECT["project"]["dependencies"], *GROUPS["demo"], *GROUPS["test"], *GROUPS["lint"]],
    "demo": GROUPS["demo"],
    "bench": GROUPS["bench"],
    "compile": GROUPS["lint"],
    "install": [*GROUPS["install"], *PROJECT["build-system"]["requires"]],
    "lock": GROUPS["lock"],
}
"""What each file of locks/ is made of."""


@dataclass(frozen=True, slots=True)
class Entry:
    version: str
    marker: Marker | None
    hashes: frozenset[str]
    required_by: tuple[str, ...]

    def is_for(self, python: str) -> bool:
        return self.marker is None or self.marker.evaluate(
            {"python_version": python, "python_full_version": f"{python}.0"}
        )


def read_lock(name: str) -> dict[NormalizedName, list[Entry]]:
    """A package that differs between versions of Python has an entry for each."""
    entries = defaultdict(list)
    for block in re.split(r"^(?=\S)", lock_text(name), flags=re.MULTILINE):
        found = re.match(r"([\w.-]+)==(\S+)(?: ; (.+?))? \\\n", block)
        if found is None:
            assert block.startswith("#") or not block, f"{name}: neither a version nor a comment: {block}"
            continue
        hashes = frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})\b", block))
        via = tuple(re.findall(r"^ +# +(?:via )?(\S.*)$", block.replace("# via\n", ""), re.MULTILINE))
        marker = Marker(found[3]) if found[3] else None
        entries[canonicalize_name(found[1])].append(Entry(found[2], marker, hashes, via))
    return entries


def lock_text(name: str) -> str:
    return (ROOT / f"locks/{name}.txt").read_text()


def all_entries(name: str) -> Iterator[tuple[NormalizedName, Entry]]:
    for package, entries in read_lock(name).items():
        for entry in entries:
            yield package, entry


def test_every_lock_is_known_here() -> None:
    assert {path.stem for path in (ROOT / "locks").iterdir()} == set(WANTED)


@pytest.mark.parametrize("name", WANTED)
def test_every_requirement_is_locked_within_its_range_on_every_python(name: str) -> None:
    locked = read_lock(name)
    for requirement in map(Requirement, WANTED[name]):
        for python in PYTHONS:
            (entry,) = [entry for entry in locked[canonicalize_name(requirement.name)] if entry.is_for(python)]
            assert requirement.specifier.contains(entry.version, prereleases=True), f"{requirement}: run `make lock`"


@pytest.mark.parametrize("name", WANTED)
def test_nothing_is_locked_that_nobody_requires(name: str) -> None:
    wanted = {canonicalize_name(Requirement(text).name) for text in WANTED[name]}
    locked = read_lock(name)
    for package, entry in all_entries(name):
        by_us = any(origin.startswith("grpcgw") for origin in entry.required_by)
        by_others = any(canonicalize_name(origin) in locked for origin in entry.required_by)
        assert by_us == (package in wanted), f"{package}: run `make lock`"
        assert by_us or by_others, f"{package}: run `make lock`"


@pytest.mark.parametrize("name", WANTED)
def test_every_version_has_hashes_and_no_address(name: str) -> None:
    assert all(entry.hashes for _, entry in all_entries(name))
    assert "://" not in lock_text(name)


@pytest.mark.parametrize("name", ["runtime", "demo", "compile"])
def test_what_is_served_is_what_was_tested(name: str) -> None:
    tested = read_lock("dev")
    for package, entry in all_entries(name):
        assert (entry.version, entry.hashes) in [(other.version, other.hashes) for other in tested[package]]


def test_pythons_that_are_promised_are_the_ones_that_are_locked_for() -> None:
    promised = [text.rpartition(" ")[2] for text in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", text)]
    assert tuple(promised) == PYTHONS
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(PYTHONS[0])


LOCKED = "--require-hashes --only-binary :all: -r"


def installing_steps() -> Iterator[str]:
    for path, start in (("Makefile", "\t"), ("deploy/Dockerfile", "RUN ")):
        for line in (ROOT / path).read_text().splitlines():
            if line.startswith(start) and re.search(r"\bpip (wheel|.*install) |\((PIP|EDITABLE|LOCKED)\)", line):
                yield from line.split("&&")


def test_nothing_is_installed_but_from_the_locks() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert f"LOCKED := $(PIP) {LOCKED}\n" in makefile
    assert re.search(r"^EDITABLE := .*\$\(PIP\) --no-deps --no-build-isolation -e$", makefile, re.MULTILINE)
    locked = re.compile(rf"({LOCKED}|\$\(LOCKED\)) locks/")
    free = [step.strip() for step in installing_steps() if not locked.search(step)]
    assert free == [
        "@$(EDITABLE) .",
        "RUN GRPCGW_COMPILE=1 pip wheel --no-deps --no-build-isolation --wheel-dir dist .",
        "pip --python /opt/grpcgw install --no-deps dist/*.whl",
    ]
