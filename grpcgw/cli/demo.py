"""`grpcgw demo`: the main job end to end on this machine, without Kubernetes, and a verdict on it.

Starts two greet pods and the gateway as child processes, lets both clients of the example call through it, and always
ends its children. Knows the gateway only from outside: its command line, its ports and its readiness.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from grpcgw.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path("examples/greet")
HOST = "127.0.0.1"
START_DEADLINE_S = 30.0
RUN_DEADLINE_S = 60.0
STOP_DEADLINE_S = 10.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class DemoPod:
    name: str
    port: int


PODS = (DemoPod("greet-1", 50061), DemoPod("greet-2", 50062))
"""As `examples/greet/pods.yaml` names them."""


@dataclass(frozen=True, slots=True)
class DemoPorts:
    clear: int = 8080
    tls: int = 8443
    admin: int = 8877


@dataclass(frozen=True, slots=True)
class Client:
    """One run of a client of the example."""

    title: str
    module: str
    tls: bool
    one_connection: bool


CLIENTS = tuple(
    Client(f"{title}, {'TLS' if tls else 'clear text'}", module, tls, one_connection)
    for tls in (False, True)
    for title, module, one_connection in (
        ("One long-lived connection", "client_long", True),
        ("A connection per call", "client_short", False),
    )
)


@dataclass(frozen=True, slots=True)
class Answers:
    """What a client run printed: the pods in the order of their answers, and the client ports used."""

    hosts: tuple[str, ...]
    ports: tuple[int, ...]


def run_demo(console: Console, calls: int, keep: bool) -> int:
    """Run everything and return 0 only if all went as it should. Raises UserError where it cannot start."""
    require_checkout(ROOT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the children are ended then, too
    with ExitStack() as stack:
        pods = tuple(DemoPod(pod.name, free_port(pod.port)) for pod in PODS)
        ports = choose_ports(console)
        config = stack.enter_context(configuration(pods))
        for pod in pods:
            stack.enter_context(running_pod(pod))
        gateway = stack.enter_context(running_gateway(config, ports))
        console.print(f"Gateway serves on {HOST}:{ports.clear} (clear text) and {HOST}:{ports.tls} (TLS)")

        faults = [fault for client in CLIENTS for fault in run_client(console, client, ports, calls, pods)]
        for fault in faults:
            console.print(f"FAULT {fault}", style="bold red", markup=False)
        if not faults:
            console.print("The pods took strict turns in every run.", style="bold green")
        console.print(f"Diagnostics: http://{HOST}:{ports.admin}/ambassador/v0/diag/")
        if keep:
            console.print("Staying up; Ctrl-C ends it.")
            with suppress(KeyboardInterrupt):
                gateway.wait()
    return 1 if faults else 0


def require_checkout(root: Path) -> None:
    if not (root / CONFIG / "greet.yaml").is_file() or not (root / "protos/greet").is_dir():
        raise UserError(
            f"demo needs the project's examples, and {root} is no checkout of it: clone it, then `make demo`"
        )


# ---- ports and configuration ----


def free_port(wanted: int) -> int:
    """`wanted`, or another free port where something listens there already."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise UserError(f"no free port on {HOST}")


def choose_ports(console: Console) -> DemoPorts:
    usual = DemoPorts()
    chosen = DemoPorts(free_port(usual.clear), free_port(usual.tls), free_port(usual.admin))
    for wanted, port in ((usual.clear, chosen.clear), (usual.tls, chosen.tls), (usual.admin, chosen.admin)):
        if port != wanted:
            console.print(f"Port {wanted} is taken, using {port} in its place", style="yellow")
    return chosen


@contextmanager
def configuration(pods: Sequence[DemoPod]) -> Iterator[Path]:
    """The example's directory, or a copy of it with other pod ports where its own are taken."""
    if tuple(pods) == PODS:
        yield CONFIG
        return
    with tempfile.TemporaryDirectory(prefix="grpcgw-demo-") as name:
        shutil.copy(ROOT / CONFIG / "greet.yaml", name)
        text = (ROOT / CONFIG / "pods.yaml").read_text()
        for usual, pod in zip(PODS, pods, strict=True):
            text = text.replace(f"port: {usual.port}", f"port: {pod.port}")
        Path(name, "pods.yaml").write_text(text)
        yield Path(name)


# ---- child processes ----


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python child process in the checkout, ended however the block is left."""
    process = subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, env=clean_environment())
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def clean_environment() -> dict[str, str]:
    """The environment without what would configure the gateway otherwise than the demo means it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("GRPCGW_", "AMBASSADOR_"))}


@contextmanager
def running_pod(pod: DemoPod) -> Iterator[None]:
    arguments = ("--address", HOST, "--port", str(pod.port), "--host-name", pod.name)
    with running("examples.greet.server", *arguments) as process:
        wait_until(lambda: accepts(pod.port), process, f"pod {pod.name}")
        yield


@contextmanager
def running_gateway(config: Path, ports: DemoPorts) -> Iterator[subprocess.Popen[bytes]]:
    arguments = ["--config", str(config), "--workers", "1", "--address", HOST, "--log-level", "warning"]
    arguments += ["--port", str(ports.clear), "--tls-port", str(ports.tls), "--admin-port", str(ports.admin)]
    with running("grpcgw", "run", *arguments, "--drain-time", "1") as process:
        wait_until(lambda: is_ready(ports.admin), process, "the gateway")
        yield process


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], what: str) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while not ready():
        if process.poll() is not None:
            raise UserError(f"{what} ended with exit code {process.returncode} while starting: see its messages above")
        if time.monotonic() > deadline:
            raise UserError(f"{what} was not ready within {START_DEADLINE_S:.0f} s")
        time.sleep(POLL_S)


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def is_ready(admin_port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{admin_port}/ambassador/v0/check_ready", timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


# ---- clients and the verdict ----


def run_client(console: Console, client: Client, ports: DemoPorts, calls: int, pods: Sequence[DemoPod]) -> list[str]:
    """Let one client make its calls, print what it prints, and return what was wrong with it."""
    console.print(f"\n{client.title}:", style="bold")
    target = f"{HOST}:{ports.tls if client.tls else ports.clear}"
    command = [sys.executable, "-m", f"examples.greet.{client.module}", "--target", target, "--calls", str(calls)]
    command += ["--tls"] if client.tls else []
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=RUN_DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [f"{client.title}: not done within {RUN_DEADLINE_S:.0f} s"]
    console.print(done.stdout.rstrip(), markup=False, soft_wrap=True)
    if done.returncode != 0:
        return [f"{client.title}: {' '.join(done.stderr.split())}"]
    names = [pod.name for pod in pods]
    return [f"{client.title}: {fault}" for fault in find_faults(read_answers(done.stdout), client, names, calls)]


def read_answers(printed: str) -> Answers:
    hosts = re.findall(r"^Response from Service: .* server host: (\S+)$", printed, re.MULTILINE)
    ports = re.findall(r"^Client ports used: (.*)$", printed, re.MULTILINE)
    return Answers(tuple(hosts), tuple(int(port) for line in ports for port in line.split()))


def find_faults(answers: Answers, client: Client, names: Sequence[str], calls: int) -> list[str]:
    faults = []
    if len(answers.hosts) != calls:
        faults.append(f"{len(answers.hosts)} answers to {calls} calls")
    if not took_strict_turns(answers.hosts, names):
        faults.append(f"the pods did not take strict turns: {' '.join(answers.hosts)}")
    expected = 1 if client.one_connection else calls
    if len(set(answers.ports)) != expected:
        faults.append(f"{len(set(answers.ports))} client ports instead of {expected}")
    return faults


def took_strict_turns(hosts: Sequence[str], names: Sequence[str]) -> bool:
    """Every pod answered once before any answered again, and always in the same order."""
    first = hosts[: len(names)]
    return sorted(first) == sorted(names) and all(host == first[i % len(names)] for i, host in enumerate(hosts))
