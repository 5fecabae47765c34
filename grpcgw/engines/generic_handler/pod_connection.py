"""Connections to pods: grpc.aio channels, one for each `:authority` that Mappings use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import grpc.aio

from grpcgw import __version__
from grpcgw.engines.generic_handler.core_arguments import channel_arguments
from grpcgw.engines.generic_handler.pod_credentials import make_credentials
from grpcgw.engines.health_probe import CHECK_METHOD, encode_request, judge_answer
from grpcgw.model.balancing import HealthCheck
from grpcgw.model.cluster import ConnectionSettings
from grpcgw.model.endpoints import PodState
from grpcgw.upstream.pod import pod_target

_STATES = {
    grpc.ChannelConnectivity.IDLE: PodState.IDLE,
    grpc.ChannelConnectivity.CONNECTING: PodState.CONNECTING,
    grpc.ChannelConnectivity.READY: PodState.READY,
    grpc.ChannelConnectivity.TRANSIENT_FAILURE: PodState.FAILING,
    grpc.ChannelConnectivity.SHUTDOWN: PodState.FAILING,
}

Spawn = Callable[[Coroutine[Any, Any, Any]], "asyncio.Task[None]"]
"""Runs a coroutine in the engine's loop, and keeps it from being collected while it runs."""


class PodConnection:
    """The channels to one pod, made in the engine's loop on first use. One for each `:authority` that Mappings set: the
    public API takes no authority per call.
    """

    def __init__(self, address: str, max_metadata_bytes: int, settings: ConnectionSettings, spawn: Spawn) -> None:
        self._address, self._settings, self._spawn = address, settings, spawn
        self._max_metadata_bytes = max_metadata_bytes
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._woken = settings.on_demand
        self.closed = False

    def channel(self, authority: str = "") -> grpc.aio.Channel:
        tls = self._settings.tls
        if tls is not None and authority == (tls.authority or tls.server_name):
            authority = ""  # it is the channel's own
        if authority not in self._channels:
            self._channels[authority] = self._open(authority)
        return self._channels[authority]

    def _open(self, authority: str) -> grpc.aio.Channel:
        target, tls = pod_target(self._address), self._settings.tls
        arguments = channel_arguments(self._max_metadata_bytes, f"grpcgw/{__version__}", self._settings)
        if authority:
            arguments.append(("grpc.default_authority", authority))
        if tls is None:
            return grpc.aio.insecure_channel(target, arguments)
        return grpc.aio.secure_channel(target, make_credentials(tls), arguments)

    def connectivity(self, authority: str) -> PodState:
        """Of the channel for `authority`, which is made to connect. FAILING once it is closed."""
        if self.closed:
            return PodState.FAILING
        return _STATES[self.channel(authority).get_state(try_to_connect=True)]

    def explain(self) -> str:
        return "the connection is closed" if self.closed else "there is no connection to it"

    def state(self) -> PodState:
        # A connection with an idle timeout is opened once, to see that it can be; afterwards its RPCs open it.
        rests = self._settings.idle_timeout_ms is not None
        state = _STATES[self.channel().get_state(try_to_connect=not (rests and self._woken))]
        self._woken |= state is PodState.READY
        return state

    def set_other_address(self, address: str) -> None:
        """grpc core takes addresses of one family for a channel: the first one alone is used."""

    def check_health(self, check: HealthCheck, report: Callable[[str], None]) -> None:
        self._spawn(self._check_health(check, report))

    async def _check_health(self, check: HealthCheck, report: Callable[[str], None]) -> None:
        ask = self.channel(check.authority).unary_unary(CHECK_METHOD)
        call = ask(encode_request(check), timeout=check.timeout_ms / 1000)
        code = await call.code()
        reply = await call if code is grpc.StatusCode.OK else None
        if not self.closed:
            report(judge_answer(check, code.value[0], await call.details() or "", reply))

    def close(self) -> None:
        self.closed = True
        for channel in self._channels.values():
            self._spawn(channel.close(None))
