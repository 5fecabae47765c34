"""One try of an RPC on one pod: what was sent to the pod, what came back, and how it ended.

A session has at most one at a time. When another try follows, the old one is dropped whole; nothing of it is reset.
"""

from __future__ import annotations

from grpcgw.balancer.base import Outcome
from grpcgw.model.codes import Code
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Reason, Status, counts_against_pod
from grpcgw.routing.targets import Target
from grpcgw.session.call import Attempt
from grpcgw.upstream.pod import Pod


class Try:
    __slots__ = (
        "deadline_s",
        "half_close_sent",
        "headers",
        "headers_seen",
        "pod",
        "port",
        "reached",
        "reading",
        "sending",
        "since_s",
        "status",
    )

    def __init__(self, pod: Pod, port: Attempt, deadline_s: float | None, half_close: bool, now_s: float) -> None:
        """The opening is being sent, and the first reply is being read. `half_close`: the opening half-closes."""
        self.pod, self.port, self.deadline_s, self.since_s = pod, port, deadline_s, now_s
        self.sending = self.reading = self.reached = True
        """`reached`: something of the try may have reached the pod."""
        self.half_close_sent = half_close
        self.headers_seen = False
        self.headers: Metadata = ()
        """The pod's initial metadata as the client may get it; empty also before it is here."""
        self.status: Status | None = None

    def send(self, message: bytes | None, half_close: bool) -> None:
        """Send a message or the half-close; not while something is being sent."""
        self.half_close_sent = half_close
        self.sending = not self.port.send(message, half_close)

    def cause(self, status: Status) -> Reason | None:
        """What the engine proved about the end of the try; None: the status may be the pod's own."""
        if status.cause is Reason.CONNECTION_LOST and not self.reached:
            return Reason.CONNECT_FAILED  # the connection was lost before anything was sent
        return status.cause


def end_on_pod(target: Target, pod: Pod, duration_s: float, status: Status, now_s: float) -> None:
    """Report the end of a try to its pod and its balancer."""
    failed = counts_against_pod(status)
    pod.end(duration_s, (status.details or Code(status.code).name) if failed else "")
    target.done(pod, Outcome(status.code, failed, duration_s, status.trailers), now_s)
