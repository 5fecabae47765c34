"""An ordinary client in a process of its own, so that what it measures is the gateway and not a bad client's work.

`python -m tests.abuse.ordinary PORT` reads a line, calls again and again on one connection until it reads the next, and
prints one: JSON with what happened in between (`Calls`). Then it rests until the next line: between the tests of abuse
others run. It ends with its standard input.
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
from io import FileIO

import grpc

HOST = "127.0.0.1"
METHOD = "/ordinary.Pod/Echo"
REQUEST = b"ordinary"
PAUSE_S = 0.01
GIVE_UP_S = 20.0
"""Generous: the machine may be busy with other things."""


@dataclass(slots=True)
class Calls:
    slowest_s: float = 0.0
    faults: list[str] = field(default_factory=list)


class OrdinaryClient:
    """The other end: lets the process call, and asks it how it went."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def begin(self) -> None:
        assert self._process.stdin is not None
        print(flush=True, file=self._process.stdin)

    def report(self) -> Calls:
        """The calls since `begin`, at least one of them begun after this was asked; there are no more."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(flush=True, file=self._process.stdin)
        return Calls(**json.loads(self._process.stdout.readline()))


@contextmanager
def running_client(root: str, port: int) -> Iterator[OrdinaryClient]:
    command = [sys.executable, "-m", "tests.abuse.ordinary", str(port)]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        client = OrdinaryClient(process)
        client.begin()
        client.report()
        yield client
        process.communicate()


def main(port: int) -> None:
    # Without a buffer, so that `select` sees each line.
    with grpc.insecure_channel(f"{HOST}:{port}") as channel, open(0, "rb", buffering=0) as asked:
        method = channel.unary_unary(METHOD)
        while asked.readline():
            sys.stdout.write(json.dumps(asdict(call_until(asked, method))) + "\n")
            sys.stdout.flush()


def call_until(asked: FileIO, method: grpc.UnaryUnaryMultiCallable) -> Calls:
    calls, over = Calls(), False
    while not over:
        over = bool(select.select([asked], [], [], PAUSE_S)[0])
        calls.slowest_s = max(calls.slowest_s, call(method, calls))
    asked.readline()
    return calls


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
