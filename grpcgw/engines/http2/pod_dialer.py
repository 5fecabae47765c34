"""Opens connections to one pod: one at a time, within the connect time-out, with pauses that grow after failures."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import Protocol

from grpcgw.engines.http2.happy_eyeballs import connect_first
from grpcgw.engines.http2.pod_link import PodLink
from grpcgw.engines.http2.timers import LoopTimer, Timers
from grpcgw.logs import DefectLog

_defects = DefectLog(logging.getLogger(__name__))

FIRST_BACKOFF_S, MAX_BACKOFF_S, BACKOFF_FACTOR, BACKOFF_JITTER = 0.1, 5.0, 1.6, 0.2
"""gRPC `connection-backoff`, with shorter times: a pod that restarts is back within seconds."""


class DialEvents(Protocol):
    """What a dialer calls in the loop."""

    def make_link(self) -> PodLink: ...
    def on_connected(self, link: PodLink) -> None:
        """The pod has sent its settings. The connection may be lost again by now."""
        ...

    def on_dial_failed(self, why: str) -> None: ...
    def on_pause_over(self) -> None:
        """After a failure: `dial` may be called again."""
        ...


class Dialer:
    """In the loop's thread only."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timers: Timers,
        address: tuple[str, int],
        timeout_ms: int,
        events: DialEvents,
    ) -> None:
        """`address`: host and port. `timeout_ms`: until the pod's settings are here."""
        self._loop, self._timers, self._events = loop, timers, events
        self._address, self._timeout_ms = address, timeout_ms
        self._other_address = ""
        self._task: asyncio.Task[None] | None = None
        self._pause: LoopTimer | None = None
        self._backoff_s = FIRST_BACKOFF_S

    def set_other_address(self, address: str) -> None:
        """The pod's address in its other IP family; "": it has none."""
        self._other_address = address

    def dial(self) -> bool:
        """Begin to connect. False: a connection is being opened, or a pause is not over."""
        if self._task is not None or self._pause is not None:
            return False
        self._task = self._loop.create_task(self._connect())
        return True

    def back_off(self) -> None:
        """Do not dial for a while."""
        pause_s = self._backoff_s * random.uniform(1 - BACKOFF_JITTER, 1 + BACKOFF_JITTER)
        self._backoff_s = min(MAX_BACKOFF_S, self._backoff_s * BACKOFF_FACTOR)
        self._end_pause()
        self._pause = self._timers.at(time.monotonic() + pause_s, self._on_pause_over)

    def forget_failures(self) -> None:
        """The pod has served: dial at once, and begin with the shortest pause after the next failure."""
        self._backoff_s = FIRST_BACKOFF_S
        self._end_pause()

    def close(self) -> None:
        self._end_pause()
        if self._task is not None:
            self._task.cancel()

    def _end_pause(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def _on_pause_over(self) -> None:
        self._pause = None
        self._events.on_pause_over()

    async def _connect(self) -> None:
        link = self._events.make_link()
        try:
            async with asyncio.timeout(self._timeout_ms / 1000):
                await self._connect_link(link)
                await link.ready
        except asyncio.CancelledError:
            link.abandon("the gateway closed it")
            raise
        except TimeoutError:
            self._failed(link, f"no connection within {self._timeout_ms} ms")
        except (OSError, ValueError) as error:
            self._failed(link, _explain(error))
        except Exception:  # else the pod would never be connected to again
            _defects.note("cannot connect to pod", self._address[0])
            self._failed(link, "a defect in the gateway, see its log")
        else:
            self._task = None
            self._events.on_connected(link)

    async def _connect_link(self, link: PodLink) -> None:
        host, port = self._address
        if self._other_address:
            connected = await connect_first(self._loop, (host, self._other_address), port)
            await self._loop.create_connection(link.as_protocol, sock=connected)
        else:
            await self._loop.create_connection(link.as_protocol, host, port)

    def _failed(self, link: PodLink, why: str) -> None:
        self._task = None
        link.abandon(why)
        self._events.on_dial_failed(why)


def _explain(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
