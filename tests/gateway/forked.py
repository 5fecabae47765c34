"""Programs of this repository as child processes that need not import it: forks of one process that has.

An interpreter takes more than a second of processor time for the imports of `grpcgw run`, and a fork of a process that
has done them some milliseconds. Apart from that the child is what `python -m grpcgw` would be: its arguments,
environment, folder, stdout and stderr, an interpreter that ends as usual, an exit code. (tests/abuse and `grpcgw demo`
start interpreters of their own.)
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Sequence
from typing import BinaryIO

_LONGEST_REQUEST = 1 << 17


class Grpcgw:
    """`grpcgw` with these arguments; of `subprocess.Popen`, what tests use."""

    def __init__(self, arguments: Sequence[str], stderr: BinaryIO) -> None:
        self.returncode: int | None = None
        self._keeper, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = json.dumps({"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()})
        with theirs:
            socket.send_fds(template(), [request.encode()], [theirs.fileno(), 1, stderr.fileno()])
        self.pid = int(self._read())

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout_s: float) -> int:
        if self.returncode is None:
            self._keeper.settimeout(timeout_s)
            try:
                self.returncode = int(self._read())
            except (BlockingIOError, TimeoutError):
                raise subprocess.TimeoutExpired("grpcgw", timeout_s) from None
            self._keeper.close()
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _read(self) -> bytes:
        answer = self._keeper.recv(16)
        assert answer, "the process that is forked has ended"
        return answer


@functools.cache
def template() -> socket.socket:
    """The way to the process that is forked. It ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LONGEST_REQUEST)
    with theirs:
        command = [sys.executable, "-c", _PROGRAM.format(path=sys.path, descriptor=theirs.fileno())]
        # A daemon of this process, which nobody waits for.
        warnings.filterwarnings("ignore", "subprocess .* is still running", ResourceWarning)
        subprocess.Popen(command, pass_fds=[theirs.fileno()])
    return ours


_IMPORTED_LATE = (
    *("pydantic_settings", "anyio._backends._asyncio", "uvicorn.lifespan.off"),
    "cryptography.hazmat.backends.openssl.backend",
)
"""What a start imports besides, a quarter of its processor time."""
_PROGRAM = "import sys; sys.path[:] = {path}; from gateway.forked import serve; serve({descriptor})"


# --- in the process that is forked


def serve(descriptor: int) -> None:
    _import_all()
    # A keeper is forgotten when it ends.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as requests:
        while True:
            request, descriptors, _, _ = socket.recv_fds(requests, _LONGEST_REQUEST, 3)
            if not request:
                return
            if not os.fork():
                break
            for each in descriptors:
                os.close(each)
    _keep(json.loads(request), *descriptors)


def _import_all() -> None:
    import grpcgw

    for module in pkgutil.walk_packages(grpcgw.__path__, "grpcgw."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for late in _IMPORTED_LATE:
        importlib.import_module(late)


def _keep(request: dict[str, object], answers: int, stdout: int, stderr: int) -> None:
    """Fork once more: this process tells the pid of the other, and how it ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if not pid:
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        for each in (answers, stdout, stderr):
            os.close(each)
        _become_grpcgw(**request)
    os.close(stdout)
    os.close(stderr)
    os.write(answers, str(pid).encode())
    _, status = os.waitpid(pid, 0)
    os.write(answers, str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _become_grpcgw(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    from grpcgw.cli.main import main

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    path = [*filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.path[:0] = [each for each in path if each not in sys.path]
    sys.argv = ["grpcgw", *arguments]
    main()
