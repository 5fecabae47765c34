"""An HTTP request of a policy's own: one pod of its upstream, picked and counted like an RPC to that cluster."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from grpcgw.model.cluster import UpstreamTls
from grpcgw.model.codes import Code
from grpcgw.model.endpoints import Endpoint
from grpcgw.model.status import Reason, Status
from grpcgw.policy.breakers import Overflow, Permit
from grpcgw.policy.contract import CoroutineRuntime, CoroutineWork, HttpAnswer, HttpCall, RunningWork
from grpcgw.routing.targets import Target
from grpcgw.session.pod_try import end_on_pod
from grpcgw.upstream.pod import Pod

LEAST_FAILURE = 500


class HttpTransport(Protocol):
    """The engine's HTTP client; runs in the loop of policies' coroutines."""

    async def fetch(
        self, endpoint: Endpoint, tls: UpstreamTls | None, connect_timeout_s: float, call: HttpCall
    ) -> HttpAnswer:
        """Raises ConnectionRefusedError where no connection came about, ConnectionResetError where it ended before an
        answer began, and another ConnectionError where there is no whole answer."""
        ...


class _NoHttp:
    async def fetch(
        self, endpoint: Endpoint, tls: UpstreamTls | None, connect_timeout_s: float, call: HttpCall
    ) -> HttpAnswer:
        raise ConnectionError("this engine has no HTTP client")


NO_HTTP: HttpTransport = _NoHttp()


class PolicyHttp:
    """Called in the thread of the RPC that the policy decides on. It repeats once where no connection to the pod came
    about, or it ended before an answer began: on another pod, or on a new connection if there is none."""

    __slots__ = (
        "_call",
        "_on_end",
        "_permit",
        "_pod",
        "_repeated",
        "_runtime",
        "_since_s",
        "_target",
        "_transport",
        "_work",
    )

    def __init__(
        self,
        runtime: CoroutineRuntime,
        transport: HttpTransport,
        target: Target,
        call: HttpCall,
        on_end: Callable[[object, float], None],
    ) -> None:
        """`on_end` gets the HttpAnswer, why there is none, or the exception that is a defect; never from inside
        `start`, nor after `cancel`."""
        self._runtime, self._transport, self._target, self._call = runtime, transport, target, call
        self._on_end: Callable[[object, float], None] | None = on_end
        self._permit: Permit | None = None
        self._pod: Pod | None = None
        self._work: RunningWork | None = None
        self._since_s = 0.0
        self._repeated = False

    def start(self, now_s: float) -> str:
        """Send it. Returns why it cannot be sent; empty: it is sent, and `on_end` or `cancel` follows."""
        breaker = self._target.breaker
        if breaker is not None:
            admitted = breaker.admit(waits=False)
            if isinstance(admitted, Overflow):
                return str(admitted)
            self._permit = admitted
        fault = self._open(None, now_s)
        if fault:
            self._release()
        return fault

    def cancel(self) -> None:
        """The answer is no longer needed."""
        if self._work is not None and self._pod is not None:
            self._work.cancel()
            end_on_pod(self._target, self._pod, 0.0, Status(Code.CANCELLED, ""), self._since_s)
            self._release()

    def _open(self, avoid: Pod | None, now_s: float) -> str:
        target = self._target
        pod = target.pick(avoid)
        if pod is None:
            return target.why_no_endpoint()
        self._pod, self._since_s = pod, now_s
        pod.begin()
        limit_s = pod.settings.connect_timeout_ms / 1000
        fetch = partial(self._transport.fetch, pod.endpoint, target.tls, limit_s, self._call)
        self._work = self._runtime.run(CoroutineWork(fetch), self._on_result)
        return ""

    def _on_result(self, result: object, now_s: float) -> None:
        pod, on_end = self._pod, self._on_end
        if pod is None or on_end is None:
            return
        if isinstance(result, HttpAnswer):
            code = Code.UNAVAILABLE if result.status >= LEAST_FAILURE else Code.OK
            self._count(pod, Status(code, f"HTTP status {result.status}" if code else ""), now_s)
            self._release()
            on_end(result, now_s)
            return
        if not isinstance(result, ConnectionError):
            self._count(pod, Status(Code.CANCELLED, ""), now_s)
            self._release()
            on_end(result, now_s)
            return
        refused = isinstance(result, ConnectionRefusedError)
        self._count(pod, Status(Code.UNAVAILABLE, str(result), cause=Reason.CONNECT_FAILED if refused else None), now_s)
        lost = isinstance(result, ConnectionResetError)
        if not self._repeated and (lost or (refused and self._target.has_other(pod))):
            self._repeated = True
            if not self._open(pod, now_s):
                return
        self._release()
        on_end(f"pod {pod.endpoint}: {result}", now_s)

    def _count(self, pod: Pod, status: Status, now_s: float) -> None:
        end_on_pod(self._target, pod, now_s - self._since_s, status, now_s)

    def _release(self) -> None:
        self._work = self._on_end = self._pod = None
        if self._permit is not None:
            self._permit.release()
            self._permit = None
