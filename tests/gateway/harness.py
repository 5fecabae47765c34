"""The gateway as users run it: `grpcgw run` as a child process, seen only through its ports, its log and its exit code.

    with running_gateway("--config", str(cluster.directory), workers=2, folder=tmp_path) as gateway:
        with gateway.channel() as channel: …

However a test ends, the gateway and its workers are ended too; a gateway that complained of a defect fails its test.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
import psutil
from dataplane.waiting import PATIENCE_S, eventually
from prometheus_client.parser import text_string_to_metric_families

from examples.greet import server as greet_server  # its package puts the generated code on the path
from gateway.forked import Grpcgw
from greet import greet_pb2, greet_pb2_grpc

BASE = "/ambassador/v0"
HOST = "127.0.0.1"
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Gateway:
    """One run of `grpcgw run`. Ports are known once `wait_until_ready` returned."""

    def __init__(self, arguments: tuple[str, ...], log: Path) -> None:
        self._log = log
        with log.open("wb") as stderr:
            self.process = Grpcgw(("run", *arguments), stderr)
        self.admin_port = 0
        self.port = self.tls_port = 0
        self.seen: set[psutil.Process] = set()
        """Every process of it that was ever asked for."""

    # --- life

    def wait_for_admin(self) -> None:
        eventually(self._find_admin_port, self.log)

    def wait_until_ready(self) -> None:
        self.wait_for_admin()
        eventually(self.is_ready, self.log)
        for listener in self.diagnostics("listeners"):
            port = int(listener["address"].rpartition(":")[2])
            if listener["protocol"] == "tls":
                self.tls_port = port
            else:
                self.port = port
        self.worker_pids()

    def _find_admin_port(self) -> bool:
        assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.log()}"
        found = re.search(r"diagnostics: http://[^/]*:(\d+)/", self.log())
        self.admin_port = int(found[1]) if found else 0
        return bool(found)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit code."""
        return self.process.wait(PATIENCE_S)

    def processes(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.process.pid)
            self.seen |= {own, *own.children(recursive=True)}
        return [process for process in self.seen if _lives(process)]

    def worker_pids(self) -> list[int]:
        """Pids of the worker processes, by number; 0 for one that is being replaced."""
        self.processes()
        return [worker["pid"] for worker in self.diagnostics("workers")]

    # --- what it says

    def log(self) -> str:
        return self._log.read_text()

    def get(self, path: str) -> tuple[int, str]:
        try:
            with _NO_PROXY.open(f"http://{HOST}:{self.admin_port}{path}", timeout=PATIENCE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def is_ready(self) -> bool:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            return self.get(f"{BASE}/check_ready")[0] == 200
        return False

    def diagnostics(self, part: str) -> Any:
        status, text = self.get(f"{BASE}/diag/?json=true&filter={part}")
        assert status == 200, text
        return json.loads(text)

    def version(self) -> str:
        return self.diagnostics("system")["configuration_version"]

    def errors(self) -> list[str]:
        """Errors as the diagnostics tell them, each as one text."""
        return [" ".join(error) for error in self.diagnostics("errors")]

    def pod_ports(self) -> set[int]:
        """Ports of the pods in use, over all clusters."""
        return {
            int(pod["address"].rpartition(":")[2])
            for pods in self.diagnostics("pods").values()
            for pod in pods
            if pod["state"] != "draining"
        }

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of `grpcgw_<name>` that have these labels."""
        _, text = self.get("/metrics")
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == f"grpcgw_{name}" and labels.items() <= sample.labels.items()
        )

    # --- clients

    def channel(self, *options: tuple[str, int | str]) -> grpc.Channel:
        """A connection of its own."""
        return grpc.insecure_channel(f"{HOST}:{self.port}", [("grpc.use_local_subchannel_pool", 1), *options])

    def secure_channel(self, trust: bytes, name: str) -> grpc.Channel:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", name)]
        return grpc.secure_channel(f"{HOST}:{self.tls_port}", grpc.ssl_channel_credentials(trust), options)


@contextlib.contextmanager
def running_gateway(
    *arguments: str, folder: Path, workers: int = 0, ready: bool = True, healthy: bool = True
) -> Iterator[Gateway]:
    """A gateway on free ports; `ready`: wait until it is. `healthy`: its log must tell of no defect."""
    common = ("--address", HOST, "--port", "0", "--tls-port", "0", "--admin-port", "0", "--workers", str(workers))
    gateway = Gateway((*common, *arguments), folder / f"gateway-{time.monotonic_ns()}.log")
    try:
        if ready:
            gateway.wait_until_ready()
        yield gateway
    finally:
        gateway.processes()
        if gateway.process.poll() is None:
            gateway.signal(signal.SIGTERM)
        try:
            gateway.wait()
            eventually(lambda: not gateway.processes(), "processes left", 15)
        finally:
            for process in gateway.processes():
                process.kill()
    if healthy:
        assert not re.search(r"Traceback|defect|ERROR", gateway.log()), gateway.log()


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# --- pods and clients


@contextlib.contextmanager
def running_pods(*names: str) -> Iterator[list[greet_server.Pod]]:
    with contextlib.ExitStack() as stack:
        pods = [greet_server.Pod(name) for name in names]
        for pod in pods:
            stack.callback(pod.stop, 0)
        yield pods


def greet(channel: grpc.Channel, text: str = "test", timeout_s: float = PATIENCE_S, wait: bool = False) -> str:
    """The name of the pod that answered."""
    stub = greet_pb2_grpc.GrpcServiceStub(channel)
    reply = stub.Greet(greet_pb2.GreetRequest(input=text), timeout=timeout_s, wait_for_ready=wait)
    message, _, host = reply.message.rpartition(": ")
    assert message == f"Got input {text} server host"
    return host


def status_of(channel: grpc.Channel, path: str = "/greet.GrpcService/Greet") -> tuple[grpc.StatusCode, str]:
    """How a call of `path` ends: code and message."""
    call = channel.unary_unary(path)
    try:
        call(greet_pb2.GreetRequest(input="test").SerializeToString(), timeout=PATIENCE_S)
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


class Stream:
    """A bidirectional RPC that stays open: `echo` sends one message and waits for its reply."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._more = threading.Semaphore(0)
        self._over = False
        self.call = greet_pb2_grpc.GrpcServiceStub(channel).GreetEach(self._requests())

    def _requests(self) -> Iterator[greet_pb2.GreetRequest]:
        while self._more.acquire() and not self._over:
            yield greet_pb2.GreetRequest(input="test")

    def echo(self) -> str:
        self._more.release()
        return next(self.call).message.rpartition(": ")[2]

    def close(self) -> None:
        """Half-close: the client has nothing more to say."""
        self._over = True
        self._more.release()

    def status(self) -> tuple[grpc.StatusCode, str]:
        """Code and message, waited for."""
        for _ in self.call:
            pass
        return self.call.code(), self.call.details()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self.call.cancel()


@dataclass
class Traffic:
    """Clients that greet one after the other until told to end, with a pause or without; what came of it."""

    pause_s: float
    answers: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, clients: int, open_channel: Callable[[], grpc.Channel], reconnect: bool) -> None:
        for _ in range(clients):
            self._threads.append(threading.Thread(target=self._run, args=(open_channel, reconnect)))
            self._threads[-1].start()

    @property
    def calls(self) -> int:
        return sum(self.answers.values()) + len(self.faults)

    def end(self) -> None:
        """No new RPC from now on; returns when the last one has its answer, so that pods may be stopped then."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, open_channel: Callable[[], grpc.Channel], reconnect: bool) -> None:
        while not self._over.is_set():
            with open_channel() as channel:
                while not self._over.is_set():
                    self._call(channel)
                    if self.pause_s:
                        self._over.wait(self.pause_s)
                    if reconnect:
                        break

    def _call(self, channel: grpc.Channel) -> None:
        try:
            host = greet(channel)
        except grpc.RpcError as error:
            with self._lock:
                self.faults.append(f"{error.code().name}: {error.details()}")
        else:
            with self._lock:
                self.answers[host] += 1


@contextlib.contextmanager
def traffic(gateway: Gateway, clients: int = 4, reconnect: bool = False, pause_s: float = 0.0) -> Iterator[Traffic]:
    """`clients` threads, each on a connection of its own (`reconnect`: a new one for each RPC)."""
    running = Traffic(pause_s)
    try:
        running.start(clients, gateway.channel, reconnect)
        eventually(lambda: running.calls >= 2 * clients, "traffic flows")
        yield running
    finally:
        running.end()
