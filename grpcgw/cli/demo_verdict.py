"""Verdict on a run of the demo's clients: who answered in which order, over how many connections."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answers:
    """What a client run printed: the pods in the order of their answers, and the client ports used."""

    hosts: tuple[str, ...]
    ports: tuple[int, ...]


def read_answers(printed: str) -> Answers:
    hosts = re.findall(r"^Response from Service: .* server host: (\S+)$", printed, re.MULTILINE)
    ports = re.findall(r"^Client ports used: (.*)$", printed, re.MULTILINE)
    return Answers(tuple(hosts), tuple(int(port) for line in ports for port in line.split()))


def find_faults(answers: Answers, one_connection: bool, names: Sequence[str], calls: int) -> list[str]:
    faults = []
    if len(answers.hosts) != calls:
        faults.append(f"{len(answers.hosts)} answers to {calls} calls")
    if not took_strict_turns(answers.hosts, names):
        faults.append(f"the pods did not take strict turns: {' '.join(answers.hosts)}")
    expected = 1 if one_connection else calls
    if len(set(answers.ports)) != expected:
        faults.append(f"{len(set(answers.ports))} client ports instead of {expected}")
    return faults


def took_strict_turns(hosts: Sequence[str], names: Sequence[str]) -> bool:
    """Every pod answered once before any answered again, and always in the same order."""
    first = hosts[: len(names)]
    return sorted(first) == sorted(names) and all(host == first[i % len(names)] for i, host in enumerate(hosts))
