"""An ordinary client in a process of its own, so that what it measures is the gateway and not a bad client's work.

`python -m tests.abuse.ordinary PORT` calls again and again on one connection. For each line it reads it prints one:
JSON with what happened since the line before (`Calls`). It ends with its standard input.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import grpc

HOST = "127.0.0.1"
METHOD = "/ordinary.Pod/Echo"
REQUEST = b"ordinary"
PAUSE_S = 0.01
GIVE_UP_S = 20.0
"""Generous: the machine may be busy with other things."""


@dataclass(slots=True)
class Calls:
    count: int = 0
    slowest_s: float = 0.0
    p50_s: float = 0.0
    p99_s: float = 0.0
    faults: list[str] = field(default_factory=list)


class OrdinaryClient:
    """The other end: asks the process how it went."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def report(self) -> Calls:
        """The calls since the last report, at least one of them begun after this was asked."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(flush=True, file=self._process.stdin)
        return Calls(**json.loads(self._process.stdout.readline()))


@contextmanager
def running_client(root: str, port: int) -> Iterator[OrdinaryClient]:
    command = [sys.executable, "-m", "tests.abuse.ordinary", str(port)]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        client = OrdinaryClient(process)
        client.report()
        yield client
        process.communicate()


def main(port: int) -> None:
    with grpc.insecure_channel(f"{HOST}:{port}") as channel:
        method = channel.unary_unary(METHOD)
        calls, took_s = Calls(), list[float]()
        while True:
            asked = select.select([sys.stdin], [], [], PAUSE_S)[0]
            if asked and not sys.stdin.readline():
                return
            took_s.append(call(method, calls))
            if asked:
                took_s.sort()
                calls.count, calls.slowest_s = len(took_s), took_s[-1]
                calls.p50_s, calls.p99_s = took_s[len(took_s) // 2], took_s[len(took_s) * 99 // 100]
                sys.stdout.write(json.dumps(asdict(calls)) + "\n")
                sys.stdout.flush()
                calls, took_s = Calls(), []


def call(method: grpc.UnaryUnaryMultiCallable, calls: Calls) -> float:
    """Seconds that a call took."""
    start_s = time.monotonic()
    try:
        method(REQUEST, timeout=GIVE_UP_S)
    except grpc.RpcError as error:
        calls.faults.append(f"{error.code()}: {error.details()}")
    return time.monotonic() - start_s


if __name__ == "__main__":
    main(int(sys.argv[1]))
