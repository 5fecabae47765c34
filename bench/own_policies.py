"""Own policies as users write them, for the part `policies`: by metadata, by method, and by the client's address."""

from __future__ import annotations

from bench.backend import DENY
from grpcgw.policies import Allow, CallView, Code, Deny, OwnPolicy, allow, deny


class ByMetadata(OwnPolicy):
    def check(self, call: CallView) -> Allow | Deny:
        if call.get(DENY) is not None:
            return deny(Code.PERMISSION_DENIED, "as it says")
        return allow()


class ByMethod(OwnPolicy):
    def check(self, call: CallView) -> Allow | Deny:
        if call.path.startswith("/admin."):
            return deny(Code.PERMISSION_DENIED, "not from here")
        return allow()


class ByPeer(OwnPolicy):
    refused = frozenset({"192.0.2.1"})

    def check(self, call: CallView) -> Allow | Deny:
        if call.peer in self.refused:
            return deny(Code.PERMISSION_DENIED, "not from there")
        return allow()
