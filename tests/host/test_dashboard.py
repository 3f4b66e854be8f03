"""The dashboard in a real browser: what it shows, what one can do with it, and what it leaves alone."""

from __future__ import annotations

import re
from contextlib import closing, contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from tests.e2e.clients import logged_in
from tests.e2e.programs import Daemon, workshop
from tests.host.browser import DESKTOP, PHONE, Dashboard, chromium

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page, Route

    from tests.e2e.programs import Workshop

GIB = 2**30

# Guests that take seconds to move a GiB: their movement can be seen.
SLOW = """\
name = "slow guests"
[host]
total_kib = 8388608
slush_kib = 73728
free_kib = 1048576
[[guest]]
domid = 1
name_label = "lazy"
static_min_kib = 262144
dynamic_min_kib = 1048576
dynamic_max_kib = 3145728
static_max_kib = 4194304
balloon = { rate_kib_s = 131072 }
[[guest]]
domid = 2
name_label = "steady"
dynamic_min_kib = 1048576
dynamic_max_kib = 3145728
balloon = { rate_kib_s = 131072 }
[[guest]]
domid = 3
name_label = "deaf"
dynamic_min_kib = 262144
dynamic_max_kib = 524288
balloon = { stuck = true }
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def shop() -> Iterator[Workshop]:
    with workshop() as opened:
        yield opened


@contextmanager
def dashboard(browser: Browser, daemon: Daemon, **options: Any) -> Iterator[Dashboard]:
    """An open dashboard in a context of its own, which asked nobody else and complained of nothing."""
    context = browser.new_context(**{"viewport": DESKTOP, "color_scheme": "light", **options})
    try:
        opened = Dashboard(context.new_page(), daemon)
        opened.open()
        yield opened
        assert opened.complaints == []
        assert opened.hosts == {f"127.0.0.1:{daemon.port}"}
    finally:
        context.close()


@pytest.fixture
def slow(shop: Workshop) -> Daemon:
    """A daemon on the host of slow guests."""
    return shop.daemon(scenario=shop.write("slow.toml", SLOW))


def watch_bar(page: Page, name: str) -> None:
    """Take down from now on all that a VM's bar tells."""
    page.evaluate(
        """(name) => {
            const row = [...document.querySelectorAll(".vm-row")].find(
                (row) => row.querySelector(".name").textContent === name);
            const bar = row.querySelector(".range-bar");
            window.told = [];
            new MutationObserver(() => window.told.push(bar.getAttribute("aria-label")))
                .observe(bar, { attributes: true, attributeFilter: ["aria-label"] });
        }""",
        name,
    )


def test_bars_move_with_the_memory(browser: Browser, slow: Daemon) -> None:
    with logged_in(slow) as api, dashboard(browser, slow) as shown:
        shown.wait_for_bar("lazy", "holds 3 GiB, target 3 GiB, dynamic range 1 GiB to 3 GiB")
        watch_bar(shown.page, "lazy")
        api.call("VM.set_memory_dynamic_range", api.ref("lazy"), 2 * GIB, 2 * GIB)
        shown.wait_for_bar("lazy", "holds 2 GiB, target 2 GiB, dynamic range 2 GiB to 2 GiB")
        told = shown.page.evaluate("window.told")
        on_the_way = {text for text in told if re.match(r"holds 2\.\d+ GiB, target 2 GiB", text)}
        assert len(on_the_way) >= 3
        expect(shown.row("lazy").locator(".reason")).to_have_text(
            "Is pinned: dynamic-min = dynamic-max = 2 GiB."
        )
        shown.page.wait_for_selector(".decisions .sentence:has-text('lazy 3 GiB → 2 GiB')")


def test_range_is_edited_in_place_after_a_look_at_what_would_come_of_it(
    browser: Browser, slow: Daemon
) -> None:
    with logged_in(slow) as api, dashboard(browser, slow) as shown:
        page = shown.page
        page.get_by_role("button", name="Edit the dynamic range of lazy").click()
        expect(page.locator("#login-why")).to_have_text("Changing the memory of lazy needs a login.")
        shown.log_in(password="wrong")
        page.get_by_text("Wrong user or password.").wait_for()
        shown.log_in()
        apply = page.get_by_role("button", name="Apply")
        expect(apply).to_be_disabled()
        page.get_by_role("textbox", name="dynamic-max").fill("1.5 GiB")
        first = page.locator(".outlook tbody tr").first.locator("th, td")
        expect(first).to_have_count(5)
        assert first.all_inner_texts()[:4] == ["lazy", "3 GiB", "1.5 GiB", "\N{MINUS SIGN}1.5 GiB"]
        assert api.vm("lazy")["memory_dynamic_max"] == str(3 * GIB)
        shown.shoot("editor")
        apply.click()
        page.wait_for_selector(".editor", state="detached")
        shown.wait_for_bar("lazy", "dynamic range 1 GiB to 1.5 GiB")
        assert api.vm("lazy")["memory_dynamic_max"] == str(3 * GIB // 2)
        session = page.evaluate("JSON.parse(sessionStorage.getItem('xcpmem.session')).ref")
        assert session.startswith("OpaqueRef:")
        assert not [url for url in shown.urls if session in url]
        page.get_by_role("button", name="Log out").click()
        page.get_by_role("button", name="Log in").wait_for()
        assert page.evaluate("sessionStorage.getItem('xcpmem.session')") is None


def test_bad_order_is_refused_in_words_and_changes_nothing(browser: Browser, slow: Daemon) -> None:
    with logged_in(slow) as api, dashboard(browser, slow) as shown:
        page, before = shown.page, api.vm("lazy")
        page.get_by_role("button", name="Edit the dynamic range of lazy").click()
        shown.log_in()
        page.get_by_role("textbox", name="dynamic-min").fill("3.5 GiB")
        page.get_by_text("Refused: dynamic-min 3.5 GiB is above dynamic-max 3 GiB.").wait_for()
        apply = page.get_by_role("button", name="Apply")
        expect(apply).to_be_disabled()
        shown.shoot("refusal")
        page.get_by_role("textbox", name="dynamic-min").fill("much")
        page.get_by_text("dynamic-min: “much” is no size; type for example 512 MiB or 1.5 GiB.").wait_for()
        expect(apply).to_be_disabled()
        page.get_by_role("textbox", name="dynamic-min").press("Enter")
        page.keyboard.press("Escape")
        page.wait_for_selector(".editor", state="detached")
        after = api.vm("lazy")
        limits = ("memory_static_min", "memory_dynamic_min", "memory_dynamic_max", "memory_static_max")
        assert [after[name] for name in limits] == [before[name] for name in limits]


def test_preview_of_what_was_typed_before_allows_nothing(browser: Browser, slow: Daemon) -> None:
    with dashboard(browser, slow) as shown:
        page = shown.page
        held: list[Route] = []

        def hold_previews(route: Route) -> None:
            if "Memory.plan" in (route.request.post_data or ""):
                held.append(route)
            else:
                route.continue_()

        page.route("**/jsonrpc", hold_previews)
        page.get_by_role("button", name="Edit the dynamic range of lazy").click()
        shown.log_in()
        high = page.get_by_role("textbox", name="dynamic-max")
        with page.expect_request(lambda request: "Memory.plan" in (request.post_data or "")):
            high.fill("2 GiB")
        high.fill("much")
        page.get_by_text("dynamic-max: “much” is no size; type for example 512 MiB or 1.5 GiB.").wait_for()
        with page.expect_response("**/jsonrpc") as answered:
            held.pop().continue_()
        answered.value.finished()
        page.evaluate("new Promise((done) => setTimeout(done))")
        expect(page.get_by_role("button", name="Apply")).to_be_disabled()
        expect(page.locator(".outlook")).to_be_empty()


def test_reader_by_role_sees_what_would_come_of_it_and_may_not_do_it(browser: Browser, slow: Daemon) -> None:
    with logged_in(slow) as api, dashboard(browser, slow) as shown:
        api.call("Memory.add_user", "eve", "read-only", "eve's password")
        page = shown.page
        page.get_by_role("button", name="Edit the dynamic range of lazy").click()
        page.fill("#login-user", "eve")
        shown.log_in(password="eve's password")
        page.get_by_text("Your role may look but not change this").wait_for()
        page.get_by_role("textbox", name="dynamic-max").fill("2 GiB")
        page.locator(".outlook tbody tr").first.wait_for()
        expect(page.get_by_role("button", name="Apply")).to_be_disabled()
        expect(page.locator("#who")).to_have_text("eve (may look)")


def test_daemon_that_only_looks_says_so(browser: Browser, shop: Workshop) -> None:
    served = shop.daemon("--observe")
    with dashboard(browser, served) as shown:
        shown.page.get_by_text("looks only, touches nothing").wait_for()


def test_data_that_is_old_is_grey_and_dated_until_the_daemon_is_back(
    browser: Browser, shop: Workshop, slow: Daemon
) -> None:
    context = browser.new_context(viewport=DESKTOP)
    shown = Dashboard(context.new_page(), slow)
    shown.open()
    page = shown.page
    page.wait_for_selector("body.live")
    slow.kill()
    page.wait_for_selector("body.old")
    when, why = page.locator("#banner").inner_text().split(" ago: ")
    assert re.fullmatch(r"What you see is from \d\d:\d\d:\d\d, [\d.]+ (s|min \d+ s)", when)
    assert why == "the daemon does not answer; trying again."
    assert "grayscale(1)" in page.evaluate("getComputedStyle(document.querySelector('main')).filter")
    shown.shoot("old")
    words = ("--listen", f"127.0.0.1:{slow.port}", "--scenario", str(shop.folder / "slow.toml"))
    with closing(Daemon(shop.folder, *words, "--state-dir", str(slow.state_dir))):
        page.wait_for_selector("body.live")
        expect(page.locator("#banner")).to_be_hidden()
        context.close()


def test_a_thousand_vms_are_scrolled_filtered_and_sorted(browser: Browser, shop: Workshop) -> None:
    fleet = shop.daemon(scenario="fleet:1000")
    with dashboard(browser, fleet) as shown:
        page = shown.page
        expect(page.locator("#vm-count")).to_have_text("1001")
        shown.shoot("thousand")
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        shown.row("guest-1000").wait_for()
        assert page.locator(".vm-row").count() < 60
        expect(page.locator(".vm-row").last).to_have_attribute("aria-setsize", "1001")
        page.evaluate("window.scrollTo(0, document.body.scrollHeight / 2)")
        page.locator(".vm-row .name", has_text=re.compile(r"^guest-50\d$")).first.wait_for()
        page.fill("#filter", "guest-77")
        page.get_by_text("11 of 1001").wait_for()
        assert page.locator(".vm-row").count() == 11, "rows and their number are drawn together"
        page.select_option("#sort", "name")
        names = sorted([f"guest-77{n}" for n in ("", *range(10))])
        for place, name in enumerate(names, start=1):
            row = page.locator(f".vm-row[aria-posinset='{place}']")
            row.locator(".name", has_text=re.compile(f"^{name}$")).wait_for()
        page.fill("#filter", "nobody")
        page.get_by_text("No VM fits the filter.").wait_for()


def focused(page: Page) -> str:
    return str(
        page.evaluate("document.activeElement.closest('[data-uuid]')?.querySelector('.name').textContent")
    )


def test_everything_can_be_done_by_the_keyboard_alone(browser: Browser, slow: Daemon) -> None:
    with logged_in(slow) as api, dashboard(browser, slow) as shown:
        page, keys = shown.page, shown.page.keyboard
        keys.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the VMs"
        keys.press("/")
        keys.type("domain")
        keys.press("ArrowDown")
        assert focused(page).startswith("Control domain")
        keys.press("ArrowDown")
        assert focused(page) == "lazy"
        keys.press("End")
        assert focused(page) == "deaf"
        keys.press("Home")
        keys.press("ArrowDown")
        keys.press("h")
        page.wait_for_selector("#hour-of:has-text('lazy')")
        keys.press("Enter")
        page.wait_for_selector("dialog[open]")
        keys.type(slow.password)
        keys.press("Enter")
        page.wait_for_selector(".editor")
        assert page.evaluate("document.activeElement.labels[0].textContent") == "dynamic-min"
        keys.type("1.25 GiB")
        keys.press("Tab")
        assert page.evaluate("document.activeElement.labels[0].textContent") == "dynamic-max"
        keys.type("2 GiB")
        page.wait_for_selector(".editor button[type=submit]:enabled")
        keys.press("Enter")
        page.wait_for_selector(".editor", state="detached")
        shown.wait_for_bar("lazy", "dynamic range 1.25 GiB to 2 GiB")
        assert focused(page) == "lazy"
        assert api.vm("lazy")["memory_dynamic_min"] == str(5 * GIB // 4)
        keys.press("Enter")
        page.wait_for_selector(".editor")
        slider = page.get_by_role("slider", name="dynamic-max")
        slider.focus()
        keys.press("ArrowLeft")
        expect(page.get_by_role("textbox", name="dynamic-max")).to_have_value("1984 MiB")
        keys.press("Escape")
        page.wait_for_selector(".editor", state="detached")


def test_who_waits_for_memory_is_told_with_what_for(browser: Browser, slow: Daemon) -> None:
    with logged_in(slow) as api, dashboard(browser, slow) as shown:
        size_kib = 3 * GIB // 1024
        caller = Thread(target=api.call, args=("Memory.reserve_memory", size_kib))
        caller.start()
        waiting = shown.page.locator("#waits .request")
        waiting.wait_for()
        assert re.search(
            r"^3 GiB for \S+ waits until \d domains give back .* is free and promised to nobody; gives up in",
            waiting.inner_text(),
        )
        shown.shoot("waiting")
        caller.join()
        kept = shown.page.locator("#waits .reservation")
        kept.wait_for()
        assert "is kept for its owner, who builds a domain with it or gives it back" in kept.inner_text()
        shown.page.locator(".host-bar .reserved").wait_for()


def test_reader_from_another_machine_is_asked_to_log_in(browser: Browser, slow: Daemon) -> None:
    def guard(route: Route) -> None:
        if "authorization" in route.request.headers:
            route.continue_()
        else:
            route.fulfill(status=401, body="no")

    context = browser.new_context(viewport=DESKTOP)
    shown = Dashboard(context.new_page(), slow)
    shown.page.route("**/api/v1/*", guard)
    shown.page.goto(slow.url)
    shown.page.get_by_text("Reading from another machine needs a login.").wait_for()
    shown.log_in()
    shown.page.wait_for_selector(".vm-row")
    shown.page.wait_for_selector("body.live")
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_and_a_phone_for_people_to_look_at(browser: Browser, shop: Workshop, scheme: str) -> None:
    served = shop.daemon(scenario="default")
    with dashboard(browser, served, color_scheme=scheme) as shown:
        shown.page.wait_for_selector(".decisions .sentence")
        shown.shoot(scheme, full=True)
        ground = shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
        other = "dark" if scheme == "light" else "light"
        button = shown.page.locator("#theme")
        while button.inner_text() != f"Theme: {other}":
            button.click()
        assert shown.page.evaluate("getComputedStyle(document.body).backgroundColor") != ground
        shown.page.reload()
        shown.page.wait_for_selector(".vm-row")
        expect(shown.page.locator("#theme")).to_have_text(f"Theme: {other}")
    with dashboard(browser, served, color_scheme=scheme, viewport=PHONE, has_touch=True) as shown:
        shown.shoot(f"phone-{scheme}")
        width = shown.page.evaluate("document.documentElement.scrollWidth")
        assert width == PHONE["width"]
        shown.row("web").scroll_into_view_if_needed()
        shown.shoot(f"phone-vms-{scheme}")
        shown.row("web").get_by_role("button", name="Edit the dynamic range of web").tap()
        shown.page.wait_for_selector("dialog[open]")
