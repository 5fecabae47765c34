"""Connections to pods: a grpc channel each, with the thread that takes its events."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from grpcgw import __version__
from grpcgw.engines.completion_queue.core import (
    HALF_CLOSE,
    NO_FLAGS,
    RECEIVE_HEADERS,
    RECEIVE_MESSAGE,
    RECEIVE_STATUS,
    SEND_HEADERS,
    SEND_MESSAGE,
    UNAVAILABLE,
    Event,
    cygrpc,
    ignore,
)
from grpcgw.engines.contract import channel_arguments
from grpcgw.engines.health_probe import CHECK_METHOD, encode_request, judge_answer
from grpcgw.engines.pod_credentials import make_credentials
from grpcgw.model.balancing import HealthCheck
from grpcgw.model.cluster import ConnectionSettings
from grpcgw.model.endpoints import PodState
from grpcgw.model.status import POD_LEFT
from grpcgw.upstream.pod import pod_target

log = logging.getLogger(__name__)

_STATES = {0: PodState.IDLE, 1: PodState.CONNECTING, 2: PodState.READY, 3: PodState.FAILING, 4: PodState.FAILING}


class PodConnection:
    """A channel to one pod, and the thread that takes its events."""

    def __init__(
        self, address: str, max_metadata_bytes: int, settings: ConnectionSettings, contain: Callable[[object], None]
    ) -> None:
        """`contain` is called with the handler of an event that raised, while the exception is handled."""
        arguments = tuple(channel_arguments(max_metadata_bytes, f"grpcgw/{__version__}", settings))
        credentials = None if settings.tls is None else make_credentials(settings.tls)._credentials
        self._channel = cygrpc.Channel(pod_target(address).encode(), arguments, credentials)
        self._contain = contain
        self._rests = settings.idle_timeout_ms is not None
        self._woken = settings.on_demand
        self.integrated_call = self._channel.integrated_call
        self.closing = False
        self._thread = threading.Thread(target=self._run, name=f"grpcgw pod {address}", daemon=True)
        self._thread.start()

    def state(self) -> PodState:
        # A connection with an idle timeout is opened once, to see that it can be; afterwards its RPCs open it.
        state = _STATES[self._channel.check_connectivity_state(not (self._rests and self._woken))]
        self._woken |= state is PodState.READY
        return state

    def check_health(self, check: HealthCheck, report: Callable[[str], None]) -> None:
        def on_answer(event: Event) -> None:
            *_, reply, status = event.batch_operations
            if not self.closing:
                report(judge_answer(check, status.code(), status.details(), reply.message()))

        message = SEND_MESSAGE(encode_request(check), NO_FLAGS)
        answer = (RECEIVE_HEADERS(NO_FLAGS), RECEIVE_MESSAGE(NO_FLAGS), RECEIVE_STATUS(NO_FLAGS))
        batches = (((SEND_HEADERS((), NO_FLAGS), message, HALF_CLOSE, *answer), on_answer),)
        deadline_s = time.time() + check.timeout_ms / 1000
        authority = check.authority.encode() or None
        self.integrated_call(NO_FLAGS, CHECK_METHOD.encode(), authority, deadline_s, (), None, batches, None)

    def close(self) -> None:
        self.closing = True
        # A call whose deadline has passed ends at once: its event wakes the thread, which then closes the channel.
        batches = (((RECEIVE_STATUS(NO_FLAGS),), ignore),)
        self.integrated_call(NO_FLAGS, b"/", None, time.time() - 1, (), None, batches, None)
        self._thread.join()

    def _run(self) -> None:
        next_event = self._channel.next_call_event
        while not self.closing:
            event = next_event()
            try:
                event.tag(event)
            except Exception:  # the thread serves every RPC on this pod: an exception of one must not end it
                self._contain(event.tag)
        # Despite its name this is the close that cancels running calls and takes their events in this thread.
        self._channel.close_on_fork(UNAVAILABLE, POD_LEFT)
