"""The examples of own policies do what they say, and docs/policies.md shows them as they are."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from examples.policies.lookup import AccountLookup, Lookup
from examples.policies.maintenance_window import MaintenanceWindow, Window
from examples.policies.test_tenant_header import (  # noqa: F401
    test_a_caller_without_a_tenant_is_refused,
    test_the_tenant_of_the_token_replaces_what_the_client_sent,
)
from grpcgw.cli.main import execute
from grpcgw.policies import Code
from grpcgw.policies.testing import CheckedCall, FakeCall, check_call, check_call_async

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(ROOT.glob("examples/policies/[!_]*.*"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_the_documentation_shows_the_files(example: Path) -> None:
    language = {".py": "python", ".yaml": "yaml"}[example.suffix]
    assert f"```{language}\n{example.read_text()}```" in (ROOT / "docs" / "policies.md").read_text()


def test_the_documented_commands_load_their_policies(capsys: pytest.CaptureFixture[str]) -> None:
    shown = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs" / "policies.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(shown) == 2
    for words in map(shlex.split, shown):
        assert words[:4] == ["PYTHONPATH=.", "grpcgw", "run", "--config"]
        assert execute(["check", str(ROOT / words[4]), *words[5:]]) == 0
    assert "no errors" in capsys.readouterr().out


# --- maintenance window

BEGINS = datetime(2030, 1, 1, 2, tzinfo=UTC)
WINDOW = MaintenanceWindow(Window(begins=BEGINS, ends=BEGINS + timedelta(hours=4)))


def during(seconds: float, method: str = "Create") -> CheckedCall:
    """A call so long after the window has begun."""
    return check_call(WINDOW, FakeCall(f"/shop.Orders/{method}", received_at_s=BEGINS.timestamp() + seconds))


def test_what_changes_something_is_refused_in_the_window_and_told_when_it_ends() -> None:
    assert during(-1).code is Code.OK
    refused = during(4 * 3600 - 90)
    assert refused.code is Code.UNAVAILABLE
    assert refused.status is not None
    assert ("grpc-retry-pushback-ms", "90000") in refused.status.trailers
    assert during(4 * 3600).code is Code.OK


def test_methods_that_read_are_served_in_the_window() -> None:
    assert during(60, "GetOrder").code is Code.OK


# --- lookup


@asynccontextmanager
async def accounts(asked: list[str]) -> AsyncIterator[str]:
    """The service that the example asks; its URL. It knows `ann`, and breaks over `bug`."""

    async def answer(request: web.Request) -> web.Response:
        account = request.query["account"]
        asked.append(account)
        if account == "bug":
            return web.Response(status=500)
        if account == "slow":
            await asyncio.Event().wait()
        return web.json_response({"allowed": account == "ann"})

    app = web.Application()
    app.router.add_get("/allowed", answer)
    runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/allowed"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("account", "code"),
    [
        ("ann", Code.OK),
        ("eve", Code.PERMISSION_DENIED),
        ("bug", Code.UNAVAILABLE),
        ("slow", Code.UNAVAILABLE),
        ("", Code.UNAUTHENTICATED),
    ],
)
def test_the_lookup_asks_once_and_refuses_what_it_cannot_know(account: str, code: Code) -> None:
    async def call_twice() -> tuple[list[str], list[CheckedCall]]:
        asked: list[str] = []
        async with accounts(asked) as url:
            policy = AccountLookup(Lookup(url=url))
            call = FakeCall(facts={"identity": account} if account else {})
            return asked, [await check_call_async(policy, call) for _ in range(2)]

    asked, checked = asyncio.run(call_twice())
    assert [one.code for one in checked] == [code, code]
    if code in (Code.OK, Code.PERMISSION_DENIED):
        assert asked == [account]
    if code is Code.OK:
        assert checked[0].metadata == (("x-account", "ann"),)
