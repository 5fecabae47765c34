"""Own policies as a user writes them, for the tests that load them by name."""

from __future__ import annotations

import asyncio
import threading

from pydantic import BaseModel

from grpcgw.policies import Allow, CallView, Code, Deny, OwnPolicy, Status, allow, deny


class Sign(BaseModel):
    key: str = "x-signed"
    value: str


class Signs(OwnPolicy[Sign]):
    """Adds to metadata how many calls it has seen."""

    def __init__(self, config: Sign) -> None:
        super().__init__(config)
        self.seen = 0

    def check(self, call: CallView) -> Allow | Deny:
        self.seen += 1
        return allow(add={self.config.key: f"{self.config.value} {self.seen}"}, add_response={"x-signed": "yes"})


class Words(OwnPolicy):
    """Does as the call says in `x-do`."""

    def check(self, call: CallView) -> Allow | Deny:
        match call.get("x-do"):
            case "raise":
                raise LookupError("a password")
            case "exit":
                raise SystemExit("a policy should not end the gateway")
            case "nothing":
                return None  # type: ignore[return-value]
            case "deny":
                return deny(Code.ABORTED, "as you say", reason="said-so", trailers={"x-help": "ask"}, retry_after_ms=5)
        return allow()


class LateWords(Words):
    """The same after a moment, or never."""

    timeout_ms = 200
    reached, cancelled = threading.Event(), threading.Event()

    async def check(self, call: CallView) -> Allow | Deny:  # type: ignore[override]  # a user may do so
        self.reached.set()
        try:
            await asyncio.sleep(0 if call.get("x-do") != "hang" else 3600)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return super().check(call)


class Ends(OwnPolicy):
    """Notes how calls ended."""

    ended: list[tuple[str, int]] = []  # noqa: RUF012 - for the test to read

    def check(self, call: CallView) -> Allow | Deny:
        return allow(facts={"seen-by": "ends"})

    def on_end(self, call: CallView, status: Status) -> None:
        self.ended.append((call.method, status.code))


class Certified(OwnPolicy):
    """Tells pods who the client's certificate is for."""

    def check(self, call: CallView) -> Allow | Deny:
        if call.certificate is None:
            return deny(Code.UNAUTHENTICATED, "no certificate")
        return allow(set={"x-who": " ".join(call.certificate.uris)})
