"""`python -m bench.soak`: bad days of what policies depend on, under load; exits 1 when an answer or a leak is wrong.

A thousand RPCs run all the time, and streams are opened and cancelled meanwhile, through a gateway that asks an
AuthService, verifies tokens and counts in Redis. The service is slow, down, resets and answers nonsense; Redis is
killed and started again; keys are rotated. Each answer must have a status that its phase allows: no RPC may hang, and
none may be served that nobody allowed. At the end nothing may be left: RPCs in flight, open files, memory.

python -m bench.soak                     two cycles of 6 s a phase, about three minutes
python -m bench.soak --cycles 20         overnight
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import grpc
import httpx
from prometheus_client.parser import text_string_to_metric_families

from bench.__main__ import allow_many_files, describe_machine
from bench.children import OTHER_CORES, resident_bytes
from bench.moody_auth import Mood, MoodyAuth, running_auth
from bench.pods import (
    NAMESPACE,
    Body,
    Pod,
    describe_endpoints,
    describe_mapping,
    describe_service,
    running_pods,
    write_configuration,
)
from bench.progress import say
from bench.proxies import Gateway, running_gateway
from bench.report import Figure, at_most, count_at_most, none_of, render_figures
from bench.soak_load import CALLERS, REFUSED_OR_SERVED, SERVED, UNAVAILABLE, Issuer, Load, Phase
from grpcgw.cli.demo_processes import HOST
from grpcgw.errors import UserError
from grpcgw.settings import EngineName
from tests.jwts import make_signer
from tests.redis_server import RedisServer

AUTH_TIMEOUT_MS = 5000
"""Ambassador's default."""
RECOVERY_S = 30.0
END_S = 20.0
"""How long what is left at the end may take to go."""
MOST_GROWTH_MB, MOST_FILES = 20, 8


class Soak:
    """One gateway, what it depends on, and what was seen."""

    def __init__(self, gateway: Gateway, load: Load, auth: MoodyAuth, issuer: Issuer, redis: RedisServer) -> None:
        self._gateway, self._load = gateway, load
        self._auth, self._issuer, self._redis = auth, issuer, redis
        self._keys = 0
        self.phases: list[Phase] = []

    async def cycle(self, seconds: float) -> None:
        await self._phase("all is well", SERVED, seconds)
        for mood in (Mood.SLOW, Mood.DOWN, Mood.RESETTING, Mood.NONSENSE):
            await self._auth.be(mood)
            await self._phase(f"AuthService {mood}", REFUSED_OR_SERVED, seconds)
            if not self.phases[-1].codes[UNAVAILABLE]:
                self.phases[-1].wrong["no RPC was refused, though nobody allowed it"] += 1
            await self._auth.be(Mood.PROMPT)
            await self._recover()
        self._redis.kill()
        await self._phase("Redis killed", SERVED, seconds)
        self._redis.start()
        await self._phase("Redis is back", SERVED, seconds)
        await self._rotate(seconds)

    async def _rotate(self, seconds: float) -> None:
        """As issuers do: the new key is shown first, tokens have it later, and the old one goes last."""
        self._keys += 1
        old, new = self._issuer.signers[-1], make_signer(f"key-{self._keys}", "ES256")
        self._issuer.signers = (old, new)
        await self._phase("a key is added", SERVED, seconds)
        self._issuer.sign_by(new)
        await self._phase("tokens are signed by it", SERVED, seconds)
        while any(one.running for one in self.phases[:-1]):  # noqa: ASYNC110  # with tokens of the old key
            await asyncio.sleep(0.1)
        self._issuer.signers = (new,)
        await self._phase("the old key is gone", SERVED, seconds)

    async def _recover(self) -> None:
        phase = self._enter("recovery", REFUSED_OR_SERVED)
        if not await self._load.wait_until_served(RECOVERY_S):
            phase.wrong[f"no RPC is served {RECOVERY_S:.0f} s after the service is back"] += 1
        self._tell(phase)

    async def _phase(self, name: str, allowed: frozenset[grpc.StatusCode], seconds: float) -> None:
        phase = self._enter(name, allowed)
        await asyncio.sleep(seconds)
        self._tell(phase)

    def _enter(self, name: str, allowed: frozenset[grpc.StatusCode]) -> Phase:
        phase = self._load.phase = Phase(name, allowed)
        self.phases.append(phase)
        return phase

    def _tell(self, phase: Phase) -> None:
        codes = ", ".join(f"{count} {code.name}" for code, count in sorted(phase.codes.items(), key=str))
        say(f"    {phase.name}: {codes}; slowest {phase.slowest_s:.1f} s; {self.measure()}")
        for what, count in phase.wrong.most_common(3):
            say(f"        WRONG: {count} x {what}")

    def measure(self) -> str:
        pid = self._gateway.worker_pid
        return f"worker {resident_bytes(pid) / 1e6:.0f} MB, {open_files(pid)} files"


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def read_in_flight(gateway: Gateway) -> float:
    text = httpx.get(f"http://{HOST}:{gateway.admin_port}/metrics", timeout=30).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "grpcgw_rpcs_in_flight"
    )


def describe_policies(issuer: Issuer) -> Sequence[Body]:
    def custom(kind: str, name: str, spec: Body) -> Body:
        metadata = {"name": name, "namespace": NAMESPACE}
        return {"apiVersion": "getambassador.io/v2", "kind": kind, "metadata": metadata, "spec": spec}

    auth = {"auth_service": f"auth.{NAMESPACE}:50051", "proto": "grpc", "protocol_version": "v3", "resolver": "pods"}
    return (
        custom("AuthService", "auth", {**auth, "timeout_ms": AUTH_TIMEOUT_MS}),
        custom("Filter", "token", {"JWT": {"jwksURI": issuer.url, "maxStale": "1s"}}),
        custom("FilterPolicy", "all", {"rules": [{"host": "*", "path": "*", "filters": [{"name": "token"}]}]}),
        describe_service("auth"),
    )


@contextmanager
def running_all(engine: EngineName, auth_port: int) -> Iterator[tuple[Gateway, Issuer, RedisServer]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="grpcgw-soak-")))
        pods = stack.enter_context(running_pods(2))
        issuer, redis = Issuer(), RedisServer(folder)
        stack.callback(issuer.close)
        stack.callback(redis.kill)
        limited = describe_mapping("greet", "greet")
        limited["spec"]["rate_limit"] = {"rate": 1_000_000, "unit": "second", "per": ["remote_address"]}
        others = (*describe_policies(issuer), describe_endpoints("auth", (Pod("auth", auth_port),)))
        configuration = folder / "config"
        configuration.mkdir()
        write_configuration(configuration, pods, limited, others)
        source = ("--config", str(configuration), "--rate-limit-redis", redis.url)
        yield stack.enter_context(running_gateway(source, engine)), issuer, redis


@asynccontextmanager
async def loaded(gateway: Gateway, issuer: Issuer) -> AsyncIterator[Load]:
    load = Load(gateway.port, issuer)
    try:
        yield load
    finally:
        await load.stop()


async def soak(engine: EngineName, cycles: int, seconds: float) -> list[Figure]:
    async with running_auth() as auth:
        return await soak_with(auth, engine, cycles, seconds)


async def soak_with(auth: MoodyAuth, engine: EngineName, cycles: int, seconds: float) -> list[Figure]:
    with running_all(engine, auth.port) as (gateway, issuer, redis):
        pids = {"worker": gateway.worker_pid, "control process": gateway.control_pid}
        async with loaded(gateway, issuer) as load:
            await load.wait_until_served(RECOVERY_S)
            files = {name: open_files(pid) for name, pid in pids.items()}
            run = Soak(gateway, load, auth, issuer, redis)
            load.start()
            sizes = []
            for number in range(cycles):
                say(f"{engine}: cycle {number + 1} of {cycles}, {CALLERS} RPCs in flight")
                await run.cycle(seconds)
                sizes.append({name: resident_bytes(pid) for name, pid in pids.items()})
        figures = [judge(run.phases), count_at_most("RPCs that never ended", load.hung, 0)]
        figures.append(await settle("RPCs in flight", partial(read_in_flight, gateway), 0))
        for name, pid in pids.items():
            figures.append(await settle(f"open files, {name}", partial(open_files, pid), files[name] + MOST_FILES))
            grown_mb = (sizes[-1][name] - sizes[0][name]) / 1e6
            figures.append(at_most(f"memory since the first cycle, {name}", grown_mb, MOST_GROWTH_MB, " MB"))
    return figures


def judge(phases: Sequence[Phase]) -> Figure:
    wrong, answers = sum(one.wrong.total() for one in phases), sum(one.codes.total() for one in phases)
    return none_of("answers with a wrong status", wrong, answers)


async def settle(what: str, read: Callable[[], float], most: float) -> Figure:
    """What is left at the end, within END_S."""
    until_s = time.monotonic() + END_S
    while (left := await asyncio.to_thread(read)) > most and time.monotonic() < until_s:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    return at_most(f"{what} at the end", left, most, " ")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--engine", type=EngineName, default=EngineName.HTTP2, choices=list(EngineName))
    parser.add_argument("--cycles", type=int, default=2, help="how often everything happens (default 2)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each phase (default 6)")
    options = parser.parse_args(arguments)
    os.sched_setaffinity(0, OTHER_CORES)
    allow_many_files()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the children end too
    try:
        figures = asyncio.run(soak(options.engine, options.cycles, options.seconds))
    except UserError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    print("\n\n".join([render_figures(figures), describe_machine()]))
    return 1 if any(figure.ok is False for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
