"""Messages on open streams, back and forth: how many in a second, and the processor time of the proxy for each.

Every stream has one message on its way: the client sends the next when the pod's echo is whole and the same. In the end
every stream must end with OK.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median

import uvloop

from bench.backend import STREAM_METHOD
from bench.children import cpu_s, running
from bench.frames import FrameConnection, Headers
from bench.h2load import make_frame
from bench.pods import Pod
from bench.progress import say
from bench.proxies import Proxy, Start
from bench.side_by_side import running_rows
from grpcgw.cli.demo_processes import HOST
from grpcgw.errors import UserError

PODS = 2
WARM_UP_S = 0.3
ANSWER_DEADLINE_S = 30.0
REQUEST = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", STREAM_METHOD),
    (":authority", HOST),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)


@dataclass(frozen=True, slots=True)
class Exchange:
    """`connections` of `streams` each, with messages of `message_bytes`."""

    connections: int
    streams: int
    message_bytes: int


SMALL = Exchange(8, 8, 100)
LARGE = Exchange(4, 1, 1_000_000)


@dataclass(slots=True)
class Samples:
    """A value per round. Each message crosses the proxy twice: to the pod and back."""

    per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)


@dataclass(slots=True)
class MessageRow:
    proxy: Proxy
    small: Samples = field(default_factory=Samples)
    large: Samples = field(default_factory=Samples)


class Client(FrameConnection):
    def __init__(self, exchange: Exchange) -> None:
        super().__init__(is_client=True)
        self.echoed = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Fails with UserError when an answer is wrong."""
        self._stopping = False
        streams = [2 * number + 1 for number in range(exchange.streams)]
        self._messages = {s: make_frame(bytes([s]) * exchange.message_bytes) for s in streams}
        self._views = {s: memoryview(message) for s, message in self._messages.items()}
        self._at = dict.fromkeys(streams, 0)
        """How much of the echo has come."""

    def start(self) -> None:
        for stream, message in self._views.items():
            self.send_headers(stream, REQUEST)
            self.send_data(stream, message)
        self.flush()

    def stop(self) -> None:
        """Every stream ends after its next echo."""
        self._stopping = True

    def on_data(self, stream: int, data: memoryview, ended: bool) -> None:
        message, at = self._messages[stream], self._at[stream]
        end = at + len(data)
        if bytes(data) != message[at:end]:
            self.on_lost(f"the echo on stream {stream} differs from byte {at} on")
        elif end < len(message):
            self._at[stream] = end
        else:
            self._at[stream] = 0
            self.echoed += 1
            if self._stopping:
                self.end_stream(stream)
            else:
                self.send_data(stream, self._views[stream])

    def on_headers(self, stream: int, headers: Headers, ended: bool) -> None:
        known = dict(headers)
        if not ended and known.get(":status") == "200":
            return
        if not self._stopping or known.get("grpc-status") != "0":
            self.on_lost(f"stream {stream} ended with {known}")
            return
        del self._at[stream]
        if not self._at and not self.ended.done():
            self.ended.set_result(None)

    def on_lost(self, reason: str) -> None:
        if not self.ended.done():
            self.ended.set_exception(UserError(reason))


@contextmanager
def running_echo_pods(count: int) -> Iterator[tuple[Pod, ...]]:
    with running([sys.executable, "-m", "bench.echo_pod", str(count)], says=True) as process:
        assert process.stdout is not None
        ports = process.stdout.readline().split()
        if len(ports) != count:
            raise UserError(f"of {count} echo pods {len(ports)} started; see above")
        yield tuple(Pod(f"pod-{number:03}", int(port)) for number, port in enumerate(ports))


def measure_messages(
    starts: Mapping[str, Start], rounds: int, run_s: float
) -> tuple[MessageRow, dict[str, MessageRow]]:
    """The row without a proxy, and one for each of `starts`; all take turns. Raises UserError if an answer is wrong."""
    with ExitStack() as stack:
        pods = stack.enter_context(running_echo_pods(PODS))
        started = stack.enter_context(running_rows([(start, pods) for start in starts.values()]))
        floor = MessageRow(Proxy("no proxy, straight to a pod", pods[0].port, ()))
        rows = {name: MessageRow(row.proxy) for name, row in zip(starts, started, strict=True)}
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}: {', '.join(rows)}")
            for row in (floor, *rows.values()):
                uvloop.run(exchange_messages(row.proxy, SMALL, run_s, row.small))
                uvloop.run(exchange_messages(row.proxy, LARGE, run_s, row.large))
        return floor, rows


async def exchange_messages(proxy: Proxy, exchange: Exchange, run_s: float, samples: Samples) -> None:
    """Adds one value to `samples`."""
    loop = asyncio.get_running_loop()
    clients = [Client(exchange) for _ in range(exchange.connections)]
    try:
        for client in clients:
            await loop.create_connection(lambda client=client: client, HOST, proxy.port)  # type: ignore[misc]
            client.start()
        await asyncio.sleep(WARM_UP_S)
        began_s, cpu_before_s, before = loop.time(), cpu_s(proxy.pids), sum(client.echoed for client in clients)
        await asyncio.sleep(run_s)
        count = sum(client.echoed for client in clients) - before
        samples.per_s.append(count / (loop.time() - began_s))
        samples.cpu_us.append(1e6 * (cpu_s(proxy.pids) - cpu_before_s) / max(count, 1))
        await end_all(clients)
    except UserError as error:
        raise UserError(f"{proxy.name}: messages of {exchange.message_bytes:,} bytes: {error}") from error
    finally:
        for client in clients:
            client.ended.cancel()
            client.close()


async def end_all(clients: Sequence[Client]) -> None:
    for client in clients:
        client.stop()
    ended = [client.ended for client in clients]
    done, open_still = await asyncio.wait(ended, timeout=ANSWER_DEADLINE_S, return_when=asyncio.FIRST_EXCEPTION)
    for future in done:
        future.result()
    if open_still:
        raise UserError(f"after {ANSWER_DEADLINE_S:.0f} s {len(open_still)} connections have streams that did not end")


def rate_ratio(samples: Samples, other: Samples) -> float:
    return median(mine / its for mine, its in zip(samples.per_s, other.per_s, strict=True))


def describe(row: MessageRow, yardstick: MessageRow) -> list[str]:
    cells = [row.proxy.name]
    for mine, its, unit in ((row.small, yardstick.small, "us"), (row.large, yardstick.large, "ms")):
        cpu = median(mine.cpu_us) / (1 if unit == "us" else 1000)
        cells += [
            f"{median(mine.per_s):,.0f}",
            f"{rate_ratio(mine, its):.2f}",
            f"{cpu:.1f} {unit}" if row.proxy.pids else "-",
        ]
    return cells


def header(yardstick: MessageRow) -> list[str]:
    columns = [""]
    for exchange in (SMALL, LARGE):
        streams = exchange.connections * exchange.streams
        what = f"messages/s of {exchange.message_bytes:,} bytes on {streams} streams"
        columns += [what, f"x {yardstick.proxy.name}", "CPU each"]
    return columns
