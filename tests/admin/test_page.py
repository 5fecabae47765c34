"""The diagnostics page in a real browser: what it shows, that it stays live, and that hostile names stay text."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, Request, expect, sync_playwright

from admin.admin_states import (
    GREET,
    RunningAdmin,
    empty_state,
    greet_state,
    make_destination,
    make_route,
    make_worker,
    many_routes_state,
    problem_state,
    run_admin,
)
from grpcgw.admin.state import GatewayState
from grpcgw.model.endpoints import Endpoint, EndpointSet, PodState
from grpcgw.model.ext_authz import ExtAuthzSettings
from grpcgw.model.objects import ObjectKey, Problem, Severity
from grpcgw.model.rate_limits import LabelLimit, Rate, RateLimitSettings, Unit
from grpcgw.telemetry.report import LATENCY_BUCKETS_S, PolicyReport

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
# The bound of every wait; nothing waits that long unless something is broken.
PATIENCE_MS = 30_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        if os.environ.get("CI") == "true":
            pytest.fail("the page tests need chromium: run scripts/install-system-packages")
        pytest.skip("chromium is not installed: run scripts/install-system-packages")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Page:
    """One for all tests: a tab of its own costs each a second of processor time."""
    return browser.new_page()


@pytest.fixture
def page(tab: Page) -> Iterator[Page]:
    """A page that fails its test when the browser reports an error (a blocked resource, an exception in the script)."""
    complaints: list[str] = []

    def note_error(error: Error) -> None:
        complaints.append(str(error))

    def note_line(line: ConsoleMessage) -> None:
        if line.type == "error":
            complaints.append(line.text)

    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.emulate_media(color_scheme="light")
    tab.on("pageerror", note_error)
    tab.on("console", note_line)
    yield tab
    tab.goto("about:blank")
    tab.remove_listener("pageerror", note_error)
    tab.remove_listener("console", note_line)
    assert [text for text in complaints if "net::ERR_CONNECTION" not in text] == []


@pytest.fixture
def admin() -> Iterator[RunningAdmin]:
    with run_admin(greet_state()) as admin:
        yield admin


def with_first_pod(state: GatewayState, pod_state: PodState, last_error: str = "") -> GatewayState:
    worker = state.workers[0]
    pods = (replace(worker.pods[0], state=pod_state, last_error=last_error), *worker.pods[1:])
    return replace(state, workers=(replace(worker, pods=pods), *state.workers[1:]))


def test_the_route_is_shown_with_its_destination_and_both_pods(page: Page, admin: RunningAdmin) -> None:
    page.goto(admin.url)

    route = page.locator("tbody.route")
    expect(route).to_have_count(1)
    for text in ("/greet.GrpcService/", "grpcserver.default", "endpoint", "round_robin", "5 min idle"):
        expect(route).to_contain_text(text)
    first, second = route.locator("tr[data-key*=':50051']").all()
    expect(first).to_contain_text("grpcserver-5c9d8-abcde")
    expect(first).to_contain_text("east")
    expect(first).to_contain_text("10.244.1.7:50051")
    expect(first).to_contain_text("ready")
    expect(first).to_contain_text("0.84 ms")
    expect(second).to_contain_text("10.244.2.9:50051")
    expect(page.get_by_role("region", name="Resolvers in use")).to_contain_text("grpcserver-endpoint-resolver")
    expect(page.locator("header")).to_contain_text("3fa91c07be52")


def test_changes_appear_without_reloading(page: Page, admin: RunningAdmin) -> None:
    page.goto(admin.url)
    page.evaluate("window.loadedOnce = true")
    pod = page.locator("tr[data-key='10.244.1.7:50051']")
    expect(pod.locator(".state")).to_have_text("ready")

    admin.shown.current = with_first_pod(greet_state(), PodState.FAILING, "connect: connection refused")

    expect(pod.locator(".state")).to_have_text("failing")
    expect(pod).to_contain_text("connect: connection refused")
    assert page.evaluate("window.loadedOnce")


def test_a_pod_that_joins_and_one_that_leaves_are_followed(page: Page, admin: RunningAdmin) -> None:
    page.goto(admin.url)
    state = greet_state()
    pods = EndpointSet((Endpoint("10.244.2.9", 50051, "grpcserver-5c9d8-fghij"), Endpoint("10.244.7.7", 50051, "new")))
    reports = (state.workers[0].pods[1], replace(state.workers[0].pods[0], address="10.244.7.7:50051"))

    admin.shown.current = replace(state, endpoints={GREET: pods}, workers=(make_worker(0, reports, ()),))

    expect(page.locator("tr[data-key='10.244.7.7:50051']")).to_contain_text("new")
    expect(page.locator("tr[data-key='10.244.1.7:50051']")).to_have_count(0)


def test_what_the_reader_has_done_survives_updates(page: Page, admin: RunningAdmin) -> None:
    admin.shown.current = many_routes_state(40)
    page.goto(admin.url)
    page.get_by_role("searchbox").fill("team07")
    expect(page.locator("#shown")).to_have_text("1 of 40")
    route = page.locator("tbody.route:visible")
    route.locator("summary").click()
    expect(route).to_contain_text("team07-1")
    page.get_by_role("searchbox").focus()
    page.mouse.wheel(0, 300)
    page.wait_for_function("scrollY > 0")
    scrolled = page.evaluate("scrollY")

    admin.shown.current = replace(many_routes_state(40), ready=False, draining=True)

    expect(page.locator("header")).to_contain_text("Draining")
    expect(page.get_by_role("searchbox")).to_have_value("team07")
    expect(page.get_by_role("searchbox")).to_be_focused()
    expect(page.locator("tbody.route:visible")).to_have_count(1)
    expect(route).to_contain_text("team07-1")
    assert page.evaluate("scrollY") >= scrolled - 100


def test_five_hundred_routes_can_be_searched_by_path_mapping_and_pod(page: Page, admin: RunningAdmin) -> None:
    admin.shown.current = many_routes_state(500)
    page.goto(admin.url)
    expect(page.locator("#shown")).to_have_text("500 routes")

    page.keyboard.press("/")
    for words, count in (("service123", 1), ("ROUTE-499", 1), ("10.1.3.2", 10), ("team03 service003", 1), ("", 500)):
        page.get_by_role("searchbox").fill(words)
        expect(page.locator("tbody.route:visible")).to_have_count(count)
    page.get_by_role("searchbox").fill("nothing like that")
    expect(page.locator("#none")).to_be_visible()


def test_the_table_head_stays_in_sight(page: Page, admin: RunningAdmin) -> None:
    admin.shown.current = many_routes_state(60)
    page.goto(admin.url)

    page.locator("tbody.route").nth(50).scroll_into_view_if_needed()

    expect(page.get_by_role("columnheader", name="Destination", exact=True)).to_be_in_viewport()
    expect(page.get_by_text("Ready", exact=True)).to_be_in_viewport()


def test_problems_are_shown_errors_first_with_place_object_and_path(page: Page, admin: RunningAdmin) -> None:
    admin.shown.current = problem_state()
    page.goto(admin.url)

    first, second, third = page.locator(".problems li").all()
    for text in ("error", "no resolver is named greet-endpint", "examples/greet/typo.yaml:9", "Mapping typo.default"):
        expect(first).to_contain_text(text)
    expect(first).to_contain_text("spec.resolver")
    expect(second).to_contain_text("examples/greet/broken.yaml:3")
    expect(third).to_contain_text("notice")


def test_canary_weights_health_precedence_and_missing_services_are_told(page: Page, admin: RunningAdmin) -> None:
    admin.shown.current = problem_state()
    page.goto(admin.url)

    exact, canary, dns = page.locator("tbody.route").all()
    for text in ("precedence 10", "exact", "1.5 s in all", "idle: no limit", "Service gone does not exist"):
        expect(exact).to_contain_text(text)
    for text in ("80 %", "20 %", "/greet.v2.GrpcService/", "UNAVAILABLE 240"):
        expect(canary).to_contain_text(text)
    expect(canary.locator(".dot.yellow")).to_have_count(1)
    expect(dns.locator(".chip")).to_have_text("service")
    expect(page.get_by_role("region", name="Sources")).to_contain_text("connection lost; trying again in 4 s")
    expect(page.get_by_role("region", name="Workers")).to_contain_text("behind")
    for text in ("first", "40 s ago", "failed 5 min ago: its answer is 503", "none: calls", "no answer", "never"):
        expect(page.get_by_role("region", name="Key sets")).to_contain_text(text)


def test_hostile_names_stay_text(page: Page, admin: RunningAdmin) -> None:
    evil = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\"'"
    state = greet_state()
    route = make_route(
        f"/{evil}/",
        replace(make_destination("m", GREET, rewrite=evil), key=ObjectKey("Mapping", evil, evil), where=evil),
    )
    problem = Problem(Severity.ERROR, evil, evil, ObjectKey(evil, evil, evil), evil)
    endpoints = {GREET: EndpointSet((Endpoint("10.244.1.7", 50051, evil),), evil)}
    admin.shown.current = replace(
        state,
        snapshot=replace(state.snapshot, routes=(route,)),
        problems=(problem,),
        endpoints=endpoints,
        hostname=evil,
    )
    page.goto(admin.url)

    expect(page.locator(".problems li p").first).to_have_text(evil)
    admin.shown.current = replace(admin.shown.current, ready=False, draining=True)
    expect(page.locator("header")).to_contain_text("Draining")

    expect(page.locator("tbody.route th code").first).to_have_text(f"/{evil}/")
    assert page.evaluate("window.hacked") is None
    assert page.locator("#live script, #live img[src=x]").count() == 0


def test_a_gateway_without_routes_shows_what_to_write(page: Page, admin: RunningAdmin) -> None:
    admin.shown.current = empty_state()
    page.goto(admin.url)

    expect(page.locator("pre")).to_contain_text("kind: Mapping")
    expect(page.locator("header")).to_contain_text("Not ready")
    expect(page.locator(".callout")).to_contain_text("Waiting for a first complete read of kubernetes Mapping")

    admin.shown.current = greet_state()

    expect(page.locator("tbody.route")).to_have_count(1)
    expect(page.locator("#shown")).to_have_text("1 route")


def test_a_gateway_that_goes_away_and_returns_is_noticed(page: Page) -> None:
    with run_admin(greet_state()) as admin:
        page.goto(admin.url)
        port = int(admin.url.rpartition(":")[2])
    expect(page.get_by_role("alert")).to_have_text(re.compile("Connection lost since .*"))
    expect(page.locator("tbody.route")).to_contain_text("grpcserver.default")

    with run_admin(greet_state(), port):
        expect(page.locator("#lost")).to_be_hidden()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("make_state", [greet_state, problem_state, empty_state])
def test_the_page_never_scrolls_sideways(page: Page, admin: RunningAdmin, width: int, make_state) -> None:
    admin.shown.current = make_state()
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(admin.url)

    assert page.evaluate("document.documentElement.scrollWidth") <= width


CONTRAST = """() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = (color) => channels(color).slice(0, 3)
    .map((c) => c / 255).map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if ((channels(color)[3] ?? 1) > 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const poor = [];
  for (const element of document.querySelectorAll("#live *")) {
    const hasText = [...element.childNodes].some((n) => n.nodeType === 3 && n.nodeValue.trim());
    if (!hasText || !element.checkVisibility()) continue;
    const pair = [luminance(getComputedStyle(element).color), luminance(behind(element))].sort((a, b) => b - a);
    const contrast = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (contrast < 4.5) poor.push([element.className || element.tagName, contrast.toFixed(2)].join(" "));
  }
  return [...new Set(poor)];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_both_colour_schemes(page: Page, admin: RunningAdmin, scheme: str) -> None:
    admin.shown.current = problem_state()
    page.emulate_media(color_scheme=scheme)
    page.goto(admin.url)

    assert page.evaluate(CONTRAST) == []
    lightness = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert (lightness < 64) == (scheme == "dark")


def test_everything_comes_from_the_admin_port(page: Page, admin: RunningAdmin) -> None:
    asked: list[str] = []

    def note(request: Request) -> None:
        asked.append(request.url)

    page.on("request", note)
    page.goto(admin.url)
    expect(page.locator("#rate")).to_contain_text("per second")
    page.remove_listener("request", note)

    assert all(url.startswith(admin.url) for url in asked)


def decided_state(routes: int) -> GatewayState:
    """Each route is decided on by an AuthService whose pods are away, and by a rate limit."""
    auth = ExtAuthzSettings(name="AuthService auth.default", upstreams=(make_destination("auth", GREET),))
    rates = tuple(LabelLimit(f"limit-{number}", (), Rate(100, Unit.SECOND, 20)) for number in range(4))
    limit = RateLimitSettings(name="RateLimit tenants.default", domain="d", groups=(), limits=rates)
    state = many_routes_state(routes)
    decided = tuple(
        replace(route, destinations=tuple(replace(one, policies=(limit, auth)) for one in route.destinations))
        for route in state.snapshot.routes
    )
    waits = (0,) * (len(LATENCY_BUCKETS_S) + 1)
    counted = PolicyReport("route-000.default", auth.name, 12345, 67, {"failed-closed": 8}, waits, 0.0)
    workers = (replace(state.workers[0], policies=(counted,)), *state.workers[1:])
    return replace(state, snapshot=replace(state.snapshot, routes=decided), workers=workers)


@pytest.mark.parametrize(("routes", "scheme"), [(1, "light"), (500, "dark")])
def test_policies_of_a_route_are_shown_in_order_with_what_they_decided(
    page: Page, routes: int, scheme: Literal["light", "dark"], tmp_path: Path
) -> None:
    page.emulate_media(color_scheme=scheme)
    with run_admin(decided_state(routes)) as admin:
        page.goto(f"{admin.url}/ambassador/v0/diag/")
        first = page.locator("tbody.route").first
        expect(page.locator("tbody.route")).to_have_count(routes)
        expect(first.locator("td.to")).to_contain_text("1. AuthService auth.default grpc")
        expect(first.locator("td.to")).to_contain_text("2. RateLimit tenants.default limit-0: 100 per second, burst 20")
        first.locator("summary").click()
        row = first.locator('tr[data-key="policy AuthService auth.default"]')
        row.wait_for(state="attached")  # `expect` describes the whole page each time that it looks and finds nothing
        expect(row).to_contain_text("fails closed")
        expect(row).to_contain_text("failed-closed 8")
        page.screenshot(path=os.environ.get("PAGE_SHOTS", str(tmp_path)) + f"/policies-{routes}-{scheme}.png")
