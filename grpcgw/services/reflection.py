"""The gateway's `grpc.reflection` service, v1 and v1alpha: describes the services that the client's RPCs reach."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from grpcgw.model.codes import Code
from grpcgw.model.status import Status
from grpcgw.policy.request import Request
from grpcgw.services.local import LocalExchange, ServiceCall
from grpcgw.session.serving import Serving
from grpcgw.upstream.descriptors import DescriptorIndex, IndexView

REFLECTION_PATHS = frozenset(
    f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in ("v1", "v1alpha")
)


class ReflectionExchange(LocalExchange):
    """One ServerReflectionInfo stream: an answer to each request, in order."""

    def __init__(
        self, serving: Serving, index: DescriptorIndex, call: ServiceCall, request: Request, now_s: float
    ) -> None:
        super().__init__(serving, call, request, now_s, request.path)
        self._index = index
        self._view: IndexView | None = None
        self._seen_in = serving.snapshot
        self._half_closed = False

    def answer(self, message: bytes | None, now_s: float) -> None:
        if message is None:
            self._half_closed = True
            if not self.sending:
                self.finish(Status(Code.OK, ""), now_s)
            return
        try:
            answer = self._look().answer(message)
        except DecodeError:
            self.finish(Status(Code.INVALID_ARGUMENT, "the request is no ServerReflectionRequest"), now_s)
            return
        self.send(answer)

    def _look(self) -> IndexView:
        """The view of this client; rebuilt when the routes have changed, since each service is routed for it."""
        view = self._view
        if view is None or self._seen_in is not self.serving.snapshot:
            self._seen_in = self.serving.snapshot
            view = self._view = self._index.see(self._clusters_of)
        return view

    def _clusters_of(self, service: str) -> frozenset[str]:
        request = self.request
        return self.serving.clusters_of(f"/{service}/", request.authority, request.metadata, request.port)

    def on_client_sent(self, ok: bool, now_s: float) -> None:
        super().on_client_sent(ok, now_s)
        if self.finished or not ok:
            return
        if self._half_closed:
            self.finish(Status(Code.OK, ""), now_s)
        else:
            self.call.read()
