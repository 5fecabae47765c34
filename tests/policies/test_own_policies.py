"""Own policies as users write them: verdicts, configuration, and what goes wrong in them. No gateway runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Generic, TypeVar

import pytest
from pydantic import BaseModel, SecretStr

from grpcgw.policies import Allow, CallView, Code, Deny, OwnPolicy, allow, deny
from grpcgw.policies.testing import FakeCall, check_call, check_call_async


class NoDeletes(OwnPolicy):
    def check(self, call: CallView) -> Allow | Deny:
        if call.method.startswith("Delete"):
            return deny(Code.PERMISSION_DENIED, f"{call.service} deletes nothing", trailers={"x-help": "ask"})
        return allow()


def test_a_call_is_allowed_or_denied_with_a_whole_status() -> None:
    assert check_call(NoDeletes(), FakeCall("/greet.Greeter/Get")).code is Code.OK
    denied = check_call(NoDeletes(), FakeCall("/greet.Greeter/DeleteAll"))
    assert (denied.code, denied.message) == (Code.PERMISSION_DENIED, "greet.Greeter deletes nothing")
    assert denied.reason == "own-policy"
    assert denied.status is not None
    assert ("x-help", "ask") in denied.status.trailers


class Edits(OwnPolicy):
    def check(self, call: CallView) -> Allow | Deny:
        return allow(
            set={"x-tenant": "acme"},
            add=[("x-role", "reader"), ("x-role", "writer")],
            remove="authorization",
            add_response={"x-seen": "yes"},
            facts={"tenant": "acme"},
        )


def test_metadata_are_set_added_and_removed() -> None:
    sent = (("x-tenant", "forged"), ("authorization", "secret"), ("x-role", "guest"))
    checked = check_call(Edits(), FakeCall(metadata=sent))
    assert checked.metadata == (
        *(("x-role", "guest"), ("x-tenant", "acme")),
        *(("x-role", "reader"), ("x-role", "writer")),
    )
    assert checked.response_metadata == (("x-seen", "yes"),)
    assert checked.facts == {"tenant": "acme"}


@pytest.mark.parametrize("bad", [{"X-Tenant": "a"}, {"x-tenant": b"a"}, {"x-bin": "a"}, {"grpc-timeout": "1S"}])
def test_what_grpc_cannot_send_is_refused_where_it_is_made(bad: dict[str, str | bytes]) -> None:
    with pytest.raises(ValueError):
        allow(set=bad)
    with pytest.raises(ValueError):
        deny(Code.ABORTED, "", trailers=bad)


def test_pairs_may_be_lists_as_json_has_them() -> None:
    assert allow(add=[["x-a", "b"]]).add == (("x-a", "b"),)  # type: ignore[list-item]


# --- the view


def test_a_policy_sees_the_call() -> None:
    metadata = (("x-key", "1"), ("x-key", "2"), ("x-bin", b"\x00"))
    call = FakeCall("/a.B/C", metadata, "example.com", "10.0.0.1", claims={"sub": "ann"}, deadline_s=2.0).view()
    assert (call.path, call.service, call.method, call.authority) == ("/a.B/C", "a.B", "C", "example.com")
    assert (call.get("x-key"), call.get_all("x-key"), call.get("x-none")) == ("1", ("1", "2"), None)
    assert (call.peer, call.certificate, call.claims["sub"], call.remaining_s) == ("10.0.0.1", None, "ann", 2.0)
    assert FakeCall().view().claims == {}
    assert FakeCall().view().remaining_s is None


def test_a_policy_cannot_change_the_call_by_its_view() -> None:
    call = FakeCall(claims={"sub": "ann"}, facts={"identity": "ann"}).view()
    for change in ("call.path = 'x'", "call.claims['sub'] = 'eve'", "call.facts['identity'] = 'eve'"):
        with pytest.raises((AttributeError, TypeError)):
            exec(change, {"call": call})


def test_what_a_policy_does_to_claims_no_other_call_of_the_token_sees() -> None:
    claims = {"roles": ["reader"], "realm": {"roles": ["reader"]}, "sub": "ann"}
    call = FakeCall(claims=claims).view()
    for roles in (call.claims["roles"], call.claims["realm"]["roles"]):  # type: ignore[index]  # it is an object
        roles.append("admin")  # type: ignore[attr-defined]  # it is a list
    assert call.claims == claims == {"roles": ["reader"], "realm": {"roles": ["reader"]}, "sub": "ann"}


def test_the_view_shows_no_metadata_in_its_repr() -> None:
    assert repr(FakeCall("/a.B/C", {"authorization": "secret"}).view()) == "<call of /a.B/C>"


# --- what goes wrong


class Raising(OwnPolicy):
    def check(self, call: CallView) -> Allow | Deny:
        raise LookupError("a password")


class RaisingLater(OwnPolicy):
    async def check(self, call: CallView) -> Allow | Deny:
        raise LookupError("a password")


class Undecided(OwnPolicy):
    def check(self, call: CallView) -> Allow | Deny:
        return None  # type: ignore[return-value]


@pytest.mark.parametrize("policy", [Raising(), RaisingLater(), Undecided()])
def test_a_defect_denies_with_internal_and_names_no_internals(policy: OwnPolicy) -> None:
    denied = check_call(policy)
    assert (denied.code, denied.reason) == (Code.INTERNAL, "policy-defect")
    assert "password" not in denied.message


class Deferring(OwnPolicy):
    """Not `async` itself: its type says that it may return what is waited for."""

    def check(self, call: CallView) -> Awaitable[Allow | Deny]:
        return self._later(call)

    async def _later(self, call: CallView) -> Allow | Deny:
        if call.method == "Hang":
            await asyncio.Event().wait()
        return deny(Code.ABORTED, "later")


def test_a_check_may_return_what_is_waited_for() -> None:
    assert check_call(Deferring()).code is Code.ABORTED
    hasty = Deferring()
    hasty.timeout_ms = 10
    assert check_call(hasty, FakeCall("/a.B/Hang")).reason == "policy-unavailable"


class Slow(OwnPolicy):
    timeout_ms = 10
    cancelled = False

    async def check(self, call: CallView) -> Allow | Deny:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return allow()


def test_a_check_that_hangs_is_cancelled_and_denies() -> None:
    slow = Slow()
    denied = check_call(slow)
    assert (denied.code, denied.reason) == (Code.UNAVAILABLE, "policy-unavailable")
    assert "within 10 ms" in denied.message
    assert slow.cancelled


class Later(OwnPolicy):
    async def check(self, call: CallView) -> Allow | Deny:
        await asyncio.sleep(0)
        return allow(set={"x-late": "yes"})


def test_an_asynchronous_check_can_be_tested_in_a_running_event_loop() -> None:
    assert check_call(Later()).metadata == (("x-late", "yes"),)
    assert asyncio.run(check_call_async(Later())).metadata == (("x-late", "yes"),)


# --- configuration


class Limits(BaseModel):
    tenant: str
    most: int = 3
    token: SecretStr = SecretStr("")


class Configured(OwnPolicy[Limits]):
    def check(self, call: CallView) -> Allow | Deny:
        return allow(set={"x-tenant": self.config.tenant})


class MoreConfigured(Configured):
    pass


def test_a_configuration_is_of_the_classs_model() -> None:
    for policy in (Configured, MoreConfigured):
        made = policy.from_json('{"tenant": "acme", "most": 5}')
        assert (made.config.tenant, made.config.most) == ("acme", 5)
        assert check_call(made).metadata == (("x-tenant", "acme"),)


def test_a_configuration_that_does_not_fit_is_refused_without_its_values() -> None:
    with pytest.raises(ValueError) as raised:
        Configured.from_json('{"most": "a password", "token": 5}')
    assert "tenant: Field required" in str(raised.value)
    assert "most: Input should be a valid integer" in str(raised.value)
    assert "password" not in str(raised.value)


def test_a_policy_without_a_configuration_takes_none() -> None:
    assert NoDeletes.from_json("{}")
    with pytest.raises(ValueError, match="tenant: Extra inputs are not permitted"):
        NoDeletes.from_json('{"tenant": "acme"}')


Answer = TypeVar("Answer")
Model = TypeVar("Model", bound=BaseModel)


class Numbered(BaseModel):
    number: int


class Asking(OwnPolicy[Numbered], Generic[Answer]):
    """A base whose own type parameter is not its model."""

    def check(self, call: CallView) -> Allow:
        return allow(facts={"number": str(self.config.number)})


class AskingForText(Asking[str]):
    pass


class Either(OwnPolicy[Model], Generic[Answer, Model]):
    """A base that leaves the model open, as the second of its parameters."""

    def check(self, call: CallView) -> Allow:
        return allow(facts={key: str(value) for key, value in self.config})


class EitherForText(Either[str, Numbered]):
    pass


@pytest.mark.parametrize("policy", [AskingForText, EitherForText])
def test_type_parameters_of_a_base_that_are_not_its_model_leave_the_model_alone(
    policy: type[OwnPolicy[Numbered]],
) -> None:
    assert check_call(policy.from_json('{"number": 7}')).facts["number"] == "7"


def test_a_configuration_that_is_no_model_is_refused_where_the_class_is_made() -> None:
    with pytest.raises(TypeError, match="Wrong: its configuration should be a pydantic model"):
        type("Wrong", (OwnPolicy,), {"__orig_bases__": (OwnPolicy["Numbered"],)})
