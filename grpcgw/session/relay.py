"""The flow of messages between the client and the current try, each way one at a time; the base of `Session`.

Rules that hold throughout:

* One message is in flight per direction: the next is read only when the one before was written. A slow reader so
  slows the writer, and memory stays flat. With an engine that passes chunks of frames it is one chunk; messages are
  still counted, and their limits checked by the declared length, before anything of a message is forwarded.
* What arrives together goes out together. A unary request comes as message and half-close, a unary reply as headers,
  message and status, within microseconds; sent on in one batch each, they cost half as much. So for a method whose
  RPCs look unary a session waits for what usually follows (`Call.coalesce`), and learns from each RPC whether the
  method still looks unary. A stream waits at most once.
* The status goes out last. grpc core reports a pod's status only when every message before it was read or is being
  read (chttp2 holds trailing metadata back), so with no read under way there is none left.
* Until a pod has answered, the opening (metadata, first message, half-close) is kept, so that a try that provably
  never reached its pod can be repeated once on another. The engine proves it (`Status.cause`): a status by itself
  proves nothing, since a pod can write any code and any text.
"""

from __future__ import annotations

from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Status
from grpcgw.policy.breakers import Permit
from grpcgw.policy.chain import Chain
from grpcgw.policy.request import Request
from grpcgw.routing.targets import Target
from grpcgw.session import ending
from grpcgw.session.call import Call, Timer
from grpcgw.session.forwarding import forward_response
from grpcgw.session.pod_try import Try, end_on_pod
from grpcgw.session.policy_stage import PolicyStage
from grpcgw.session.request_side import FramedRequestSide, RequestSide
from grpcgw.session.response_side import FramedResponseSide, ResponseSide
from grpcgw.session.serving import Serving
from grpcgw.session.shadow_copy import Copy
from grpcgw.telemetry.counters import MethodCounters

# Globals, because access to a member of an enum costs ten times as much: 0.1 us.
POLICY = Timer.POLICY


class Relay:
    """Subclasses say how an RPC begins and ends: `_open`, `_settle`, `_end_early`."""

    __slots__ = (
        "_call",
        "_copy",
        "_counters",
        "_last_active_s",
        "_looked_unary",
        "_on_hold",
        "_permit",
        "_policies",
        "_replies",
        "_request",
        "_requests",
        "_serving",
        "_stage",
        "_target",
        "_try",
        "_unchecked_bytes",
        "finished",
    )

    def __init__(self, serving: Serving, call: Call, request: Request, now_s: float) -> None:
        self._serving, self._call, self._request = serving, call, request
        self._last_active_s = now_s
        self.finished = False
        """The client has its status, or is gone."""
        self._requests: RequestSide
        self._replies: ResponseSide
        if call.carries_frames:
            self._requests, self._replies = FramedRequestSide(), FramedResponseSide(request)
        else:
            self._requests, self._replies = RequestSide(), ResponseSide(request)
        self._unchecked_bytes = 0
        """Messages of at most this size need no look. Set with the target, before the client is read."""
        self._target: Target | None = None
        self._copy: Copy | None = None
        """For the Mapping's shadow; None: the RPC is not copied."""
        self._permit: Permit | None = None
        self._policies: Chain | None = None
        """None: the Mapping has no policies, or they only allowed the RPC."""
        self._stage: PolicyStage | None = None
        """What a policy waits for; None: none had to wait."""
        self._on_hold: Timer | None = None
        """What must come before the next try is opened; None: nothing."""
        self._try: Try | None = None
        """The current try, or the last one if no other follows. Kept until its status is here, even after the RPC."""
        self._counters: MethodCounters = serving.counters.unmatched
        self._looked_unary = False
        """The whole request, of one message, was here before the pod's headers."""

    # --- what a subclass decides

    def _open(self, now_s: float) -> None:
        """Open a try with what was read of the request."""
        raise NotImplementedError

    def _settle(self, now_s: float) -> None:
        """Go on if the try's status is here and nothing comes before it."""
        raise NotImplementedError

    def _end_early(self, status: Status, now_s: float) -> None:
        """End the RPC with a status of the gateway's own, whatever is under way."""
        raise NotImplementedError

    # --- client → pod

    def on_request_message(self, message: bytes | None, now_s: float, last: bool = False) -> None:
        """The client sent a message, or None: it provably half-closed. One that is gone is `on_client_closed` alone.

        `last`: the client half-closed with this message.
        """
        requests = self._requests
        requests.reading = False
        if self.finished:
            return
        self._last_active_s = now_s
        if message is not None:
            size_bytes = requests.size_of(message)
            if size_bytes > self._unchecked_bytes and not self._may_hold(size_bytes, now_s):
                return
            requests.take(message)
        if message is None or last:
            if requests.cut_off:
                self._end_early(ending.request_cut_off(), now_s)
                return
            requests.half_closed = True
        if self._copy is not None:
            self._copy_taken(self._copy, message, now_s)
        if requests.count > 1:
            self._counters.one_request = False
        if self._try is not None:
            requests.forward(self._call, self._try)
        elif self._on_hold is POLICY:
            self._held_for_policies(now_s)
        elif not (requests.half_closed or requests.beyond):
            requests.read(self._call)  # the half-close usually follows at once
        elif self._on_hold is None:
            self._open(now_s)

    def _held_for_policies(self, now_s: float) -> None:
        """A part of the request was read, and is held until the policies allow the RPC."""
        if not self._requests.lend(self._request, self._serving.held):
            self._end_early(ending.too_much_held(), now_s)
        elif self._stage is not None:
            self._stage.on_message(now_s)

    def _copy_taken(self, copy: Copy, message: bytes | None, now_s: float) -> None:
        """Give the copy what was just read."""
        if message is not None:
            copy.take(message, now_s)
        if self._requests.half_closed:
            copy.take(None, now_s)

    def _may_hold(self, size_bytes: int, now_s: float) -> bool:
        """Whether a message that is not small may be held; where it may not, the RPC has ended."""
        assert self._target is not None
        refused = self._requests.refuse(size_bytes, self._target, self._request, self._serving.held)
        if refused is None:
            return True
        self._end_early(refused, now_s)
        return False

    def _copy_held(self, now_s: float) -> None:
        """Give the copy what was read while a policy waited."""
        held = self._requests.held()
        if self._copy is not None and held is not None:
            self._copy.take(held, now_s)
        if self._copy is not None and self._requests.half_closed:
            self._copy.take(None, now_s)

    def on_pod_sent(self, ok: bool, now_s: float) -> None:
        """What was sent to the pod is written. Not ok: nor will anything else be, the status follows."""
        attempt, requests = self._try, self._requests
        if not ok or attempt is None:
            return
        attempt.sending = False
        if self._permit is not None and self._permit.waits:
            self._permit.connected()
        if requests.lent_bytes:
            requests.give_back(self._request, self._serving.held)
        if not self.finished:
            self._last_active_s = now_s
            requests.forward(self._call, attempt)

    # --- pod → client

    def on_pod_headers(self, headers: Metadata | None, now_s: float) -> None:
        """The pod's initial metadata: empty also where it sent trailers only; None: provably nothing was sent to it."""
        attempt = self._try
        if self.finished or attempt is None:
            return
        self._last_active_s = now_s
        attempt.headers_seen, attempt.reached = True, headers is not None
        if headers:
            attempt.headers = forward_response(headers)
        self._looked_unary = self._requests.half_closed and self._requests.count == 1
        if attempt.status is not None:
            self._settle(now_s)
        elif headers is None:
            pass  # the status follows, and may allow another try as long as no headers went out
        elif self._counters.one_reply or not headers:
            self._call.coalesce()
        else:
            self._pass_back(attempt, now_s)

    def on_pod_message(self, message: bytes | None, now_s: float) -> None:
        """A reply, or None: there are no more, the status follows or is here."""
        attempt, target, replies = self._try, self._target, self._replies
        if attempt is None or target is None:
            return
        attempt.reading = False
        if self.finished:
            return
        self._last_active_s = now_s
        if message is None:
            self._settle(now_s)
            return
        size_bytes = replies.size_of(message)
        if size_bytes > target.max_message_bytes:
            self._end_early(ending.message_too_large(target.key, size_bytes, target.max_message_bytes), now_s)
            return
        replies.take(message)
        if self._counters.unnamed:
            self._name_method()
        if replies.count > 1:
            self._counters.one_reply = False
        elif self._counters.one_reply and not replies.headers_sent and replies.whole:
            if attempt.status is not None:  # else it usually comes along; the window is open since the headers
                self._settle(now_s)
            return
        self._pass_back(attempt, now_s)

    def on_no_more_replies(self) -> None:
        """Instead of `on_pod_message`, from inside `Attempt.read`: the try was over already."""
        if self._try is not None:
            self._try.reading = False

    def _pass_back(self, attempt: Try, now_s: float) -> None:
        """Start what is next towards the client: headers, a reply, the status, or reading on."""
        replies = self._replies
        if replies.sending or not attempt.headers_seen:
            return
        if not replies.headers_sent:
            self._send_headers(attempt)
        elif replies.held is not None:
            replies.send_held(self._call)
        if replies.sending:
            return
        if attempt.status is not None:
            self._settle(now_s)
        elif not attempt.reading:
            attempt.reading = True
            attempt.port.read()

    def _send_headers(self, attempt: Try) -> None:
        self._requests.commit()
        self._replies.send_headers(self._call, attempt.headers)

    def on_client_sent(self, ok: bool, now_s: float) -> None:
        """What was sent to the client is written (or, not ok, the client is gone: `on_client_closed` follows)."""
        self._replies.sending = False
        if ok and not self.finished and self._try is not None:
            self._last_active_s = now_s
            self._pass_back(self._try, now_s)

    def on_pod_status(self, status: Status, now_s: float) -> None:
        """The try is over; what else is still to be reported of it (headers, a message) may come after."""
        attempt, target = self._try, self._target
        assert attempt is not None
        assert target is not None
        end_on_pod(target, attempt.pod, now_s - attempt.since_s, status, now_s)
        attempt.status = status
        if self.finished:
            self._try = None
        else:
            self._settle(now_s)

    # --- what a method looks like

    def _coalescing_ended(self, now_s: float) -> None:
        """Coalescing window expired: this is a stream (or slow), flush what arrived."""
        attempt, replies = self._try, self._replies
        if attempt is None:
            self._counters.one_request = False
            self._open(now_s)
        elif attempt.headers_seen and attempt.reached and not replies.headers_sent and attempt.status is None:
            if replies.held is not None:
                self._counters.one_reply = False
            self._pass_back(attempt, now_s)

    def _name_method(self) -> None:
        """A pod has answered the method: it exists, and may have a name in metrics."""
        unnamed = self._counters
        self._counters = found = self._serving.counters.name(unnamed, self._request.path)
        if found is not unnamed:
            unnamed.move(found)

    def _learn(self) -> None:
        """A method that looked unary in this RPC is taken for unary in the next."""
        if self._looked_unary:
            self._counters.one_request = True
        if self._replies.count == 1:
            self._counters.one_reply = True
