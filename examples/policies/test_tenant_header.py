"""Tests of the tenant header, without a gateway."""

from examples.policies.tenant_header import TenantHeader
from grpcgw.policies import Code
from grpcgw.policies.testing import FakeCall, check_call


def test_the_tenant_of_the_token_replaces_what_the_client_sent() -> None:
    checked = check_call(TenantHeader(), FakeCall(metadata={"x-tenant": "forged"}, claims={"tenant": "acme"}))
    assert checked.code is Code.OK
    assert checked.metadata == (("x-tenant", "acme"),)


def test_a_caller_without_a_tenant_is_refused() -> None:
    assert check_call(TenantHeader(), FakeCall(claims={"sub": "ann"})).code is Code.PERMISSION_DENIED
