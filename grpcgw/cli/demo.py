"""`grpcgw demo`: the main job end to end on this machine, without Kubernetes, and a verdict on it.

Starts two greet pods and the gateway as child processes, and runs both clients of the example through the gateway.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from grpcgw.cli.demo_processes import HOST, ROOT, accepts, clean_environment, free_port, is_ready, running, wait_until
from grpcgw.cli.demo_verdict import find_faults, read_answers
from grpcgw.cli.output import open_stdout
from grpcgw.errors import UserError

CONFIG = Path("examples/greet")
RUN_DEADLINE_S = 60.0


def demo(
    calls: Annotated[int, typer.Option(min=4, help="Calls per client.")] = 6,
    keep: Annotated[bool, typer.Option("--keep", help="Stay up for a look at the diagnostics page.")] = False,
) -> int:
    """Run the main job here, without Kubernetes: two pods, the gateway, both clients in clear text and over TLS.

    Exit code 0 only if the pods took strict turns. Needs a checkout of the project.
    """
    return run_demo(open_stdout(), calls, keep)


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


def run_demo(console: Console, calls: int, keep: bool) -> int:
    """Run everything and return 0 only if all went as it should. Raises UserError if it cannot start."""
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
    """Raises UserError if `root` is not a checkout of the project."""
    if not (root / CONFIG / "greet.yaml").is_file() or not (root / "protos/greet").is_dir():
        raise UserError(
            f"demo needs the project's examples, and {root} is no checkout of it: clone it, then `make demo`"
        )


# ---- ports and configuration ----


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


# ---- pods and the gateway ----


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


# ---- clients ----


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
    return [
        f"{client.title}: {fault}"
        for fault in find_faults(read_answers(done.stdout), client.one_connection, names, calls)
    ]
