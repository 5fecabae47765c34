"""Pods get the tenant of the caller's token as `x-tenant`; a caller without one is refused."""

from grpcgw.policies import Allow, CallView, Code, Deny, OwnPolicy, allow, deny


class TenantHeader(OwnPolicy):
    def check(self, call: CallView) -> Allow | Deny:
        tenant = call.claims.get("tenant")
        if not isinstance(tenant, str):
            return deny(Code.PERMISSION_DENIED, "the token names no tenant")
        return allow(set={"x-tenant": tenant}, facts={"tenant": tenant})
