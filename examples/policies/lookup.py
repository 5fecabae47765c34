"""Asks a service over HTTP whether the caller's account may call the method; answers are kept for a while."""

import aiohttp
from cachetools import TTLCache
from pydantic import BaseModel

from grpcgw.policies import Allow, CallView, Code, Deny, OwnPolicy, allow, deny


class Lookup(BaseModel):
    url: str
    keep_s: float = 10.0


class AccountLookup(OwnPolicy[Lookup]):
    timeout_ms = 500

    def __init__(self, config: Lookup) -> None:
        super().__init__(config)
        self.known: TTLCache[tuple[str, str], bool] = TTLCache(10_000, config.keep_s)

    async def check(self, call: CallView) -> Allow | Deny:
        account = call.facts.get("identity")
        if account is None:
            return deny(Code.UNAUTHENTICATED, "who calls is not known")
        asked = account, call.path
        allowed = self.known.get(asked)
        if allowed is None:
            try:
                allowed = self.known[asked] = await self.ask(account, call.path)
            except aiohttp.ClientError:
                return deny(Code.UNAVAILABLE, "the account cannot be looked up")
        if allowed:
            return allow(set={"x-account": account})
        return deny(Code.PERMISSION_DENIED, f"the account may not call {call.method}")

    async def ask(self, account: str, path: str) -> bool:
        query = {"account": account, "path": path}
        async with aiohttp.ClientSession() as session, session.get(self.config.url, params=query) as answer:
            answer.raise_for_status()
            return bool((await answer.json())["allowed"])
