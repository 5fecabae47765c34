"""The diagnostics page of the real gateway in a real browser: what traffic does is seen without reloading."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from examples.greet.server import Pod
from gateway.harness import HOST, Gateway, greet, running_gateway
from gateway.objects import Directory

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE_MS = 30_000


@pytest.fixture
def page() -> Iterator[Page]:
    if CHROMIUM is None:
        if os.environ.get("CI") == "true":
            pytest.fail("the page tests need chromium: run scripts/install-system-packages")
        pytest.skip("chromium is not installed: run scripts/install-system-packages")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE_MS)
        yield page
        browser.close()


def test_pods_routes_and_traffic_are_seen_as_they_change(
    page: Page, directory: Directory, pods: list[Pod], tmp_path: Path
) -> None:
    expect.set_options(timeout=PATIENCE_MS)
    with running_gateway("--config", str(directory.path), folder=tmp_path, workers=2) as gateway:
        page.goto(f"http://{HOST}:{gateway.admin_port}/ambassador/v0/diag/")
        expect(page.locator("header")).to_contain_text(gateway.version())
        expect(page.get_by_role("region", name="Resolvers in use")).to_contain_text("grpcserver-endpoint-resolver")
        route = page.locator("tbody.route")
        expect(route).to_contain_text("/greet.GrpcService/")
        send(gateway, 42)
        expect(page.locator("#rpcs")).to_have_text("42")
        for pod in pods:
            row = route.locator(f"tr[data-key='{HOST}:{pod.port}']")
            expect(row.locator(".state")).to_have_text("ready")
            expect(row).to_contain_text("21")
        directory.delete("Mapping", "default", "grpcserver")
        expect(route).to_have_count(0)


def send(gateway: Gateway, calls: int) -> None:
    with gateway.channel() as channel:
        for _ in range(calls):
            greet(channel)
