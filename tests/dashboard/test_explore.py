"""The large chart in a real browser: zoom, pan, the strip of all sessions, the keyboard, panes and the link."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from tests.support.browser import LIMIT_MS, PHONE, WIDE, Watched, dashboard
from tests.support.dashboards import Played
from tests.support.ports import free_port

CHART, STRIP = "#price .chart", "#price .range"


@pytest.fixture(scope="module")
def address(replay: Played) -> Iterator[str]:
    with dashboard(free_port(), replay.path) as url:
        yield url


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": WIDE[0], "height": WIDE[1]}, reduced_motion="reduce")
    context.set_default_timeout(LIMIT_MS)
    yield context
    context.close()


@pytest.fixture
def narrow(browser: Browser) -> Iterator[BrowserContext]:
    """A window in which all bars of the tape are too many to be drawn one by one."""
    context = browser.new_context(viewport={"width": 720, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(LIMIT_MS)
    yield context
    context.close()


def open_chart(context: BrowserContext, address: str, route: str = "now") -> Watched:
    """A page with its chart and its strip drawn."""
    tab = Watched(context.new_page(), address)
    tab.open(route, f"{CHART}[data-bars]")
    tab.page.wait_for_selector(f"{STRIP}[data-to]")
    return tab


def bars_of(replay: Played) -> list[int]:
    """Starts of all bars, seconds UTC."""
    rows = replay.sql("SELECT payload FROM events WHERE kind = 'BarClosed' ORDER BY id")
    return [json.loads(row["payload"])["bar"]["start_ns"] // 10**9 for row in rows]


def window_of(page: Page) -> tuple[int, int]:
    """What the strip says is seen, seconds UTC."""
    strip = page.locator(STRIP)
    return int(strip.get_attribute("data-from") or 0), int(strip.get_attribute("data-to") or 0)


def linked(page: Page) -> dict[str, str]:
    """The view that the address holds."""
    query = parse_qs(urlsplit(page.url).fragment.partition("?")[2])
    return {name: values[0] for name, values in query.items()}


def until(page: Page, expression: str) -> None:
    """Wait until an expression is true; the page's policy forbids Playwright's own way, which evaluates text there."""
    for _ in range(LIMIT_MS // 100):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never true: {expression}; the strip has {window_of(page)}")


def spans(page: Page, compare: str, than: int) -> None:
    """Wait until what is seen is longer (`>`) or shorter (`<`) than so many seconds."""
    until(page, f"(({{ to, from }}) => to - from {compare} {than})(document.querySelector('{STRIP}').dataset)")


def test_the_wheel_zooms_out_to_longer_bars_and_in_again(narrow: BrowserContext, address: str, replay: Played) -> None:
    tab = open_chart(narrow, address)
    page = tab.page
    bars = bars_of(replay)
    assert page.locator(CHART).get_attribute("data-step") == "0"
    assert window_of(page)[1] == bars[-1]
    page.locator(CHART).hover()
    scrolled = page.evaluate("scrollY")
    for _ in range(30):
        page.mouse.wheel(0, 240)
    until(page, f"Number(document.querySelector('{STRIP}').dataset.from) === {bars[0]}")
    until(page, f"Number(document.querySelector('{CHART}').dataset.step) > 0")
    until(page, "location.hash.includes('from=')")
    wide = window_of(page)
    for _ in range(40):
        page.mouse.wheel(0, -240)
    spans(page, "<", (wide[1] - wide[0]) // 4)
    until(page, f"document.querySelector('{CHART}').dataset.step === '0'")
    assert page.evaluate("scrollY") == scrolled  # the page stays where it is
    assert tab.troubles == []


def test_two_fingers_zoom(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": PHONE[0], "height": PHONE[1]}, has_touch=True, is_mobile=True)
    context.set_default_timeout(LIMIT_MS)
    page = open_chart(context, address).page
    page.locator(CHART).scroll_into_view_if_needed()
    box = page.locator(CHART).bounding_box()
    assert box is not None
    middle, y = box["x"] + box["width"] / 2 - 20, box["y"] + box["height"] / 3
    before = window_of(page)
    driver = context.new_cdp_session(page)
    for kind, apart in (
        ("touchStart", 30),
        *(("touchMove", 30 + 12 * step) for step in range(1, 9)),
        ("touchEnd", None),
    ):
        points = [] if apart is None else [{"x": middle - apart / 2, "y": y}, {"x": middle + apart / 2, "y": y}]
        driver.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    spans(page, "<", (before[1] - before[0]) * 3 // 4)
    context.close()


def test_a_drag_moves_into_bars_that_come_when_they_are_needed(
    context: BrowserContext, address: str, replay: Played
) -> None:
    tab = open_chart(context, address)
    page = tab.page
    bars = bars_of(replay)
    box = page.locator(CHART).bounding_box()
    assert box is not None
    y = box["y"] + 100
    for _ in range(12):  # until the first bar is there, far beyond what came at first
        page.mouse.move(box["x"] + 100, y)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] - 150, y, steps=4)
        page.mouse.up()
        page.wait_for_timeout(400)
    until(page, f"Number(document.querySelector('{STRIP}').dataset.from) === {bars[0]}")
    assert tab.troubles == []


def test_the_strip_s_window_and_its_ends_move_what_is_seen(
    narrow: BrowserContext, address: str, replay: Played
) -> None:
    tab = open_chart(narrow, address)
    page = tab.page
    bars = bars_of(replay)
    page.locator(STRIP).scroll_into_view_if_needed()
    strip, pane = (page.locator(name).bounding_box() for name in (STRIP, f"{STRIP} .window"))
    assert strip is not None
    assert pane is not None
    y = strip["y"] + strip["height"] / 2
    page.mouse.move(pane["x"] + pane["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(strip["x"], y, steps=5)
    page.mouse.up()
    until(page, f"Number(document.querySelector('{STRIP}').dataset.from) === {bars[0]}")
    expect(page.locator(CHART)).to_have_attribute("aria-label", re.compile("Candles of SPY"))
    grip = page.get_by_role("slider", name="End of what is seen")
    grip.focus()
    page.keyboard.press("End")
    until(page, f"Number(document.querySelector('{STRIP}').dataset.to) === {bars[-1]}")
    until(page, f"Number(document.querySelector('{CHART}').dataset.step) > 0")
    begin = page.get_by_role("slider", name="Begin of what is seen")
    begin.focus()
    page.keyboard.press("PageUp")
    spans(page, "<", bars[-1] - bars[0])
    assert begin.get_attribute("aria-valuetext")
    assert tab.troubles == []


def test_a_choice_is_not_lost_to_a_move_just_before_it(context: BrowserContext, address: str, replay: Played) -> None:
    page = open_chart(context, address).page
    first = bars_of(replay)[0]

    def later(route: Route) -> None:
        page.wait_for_timeout(700)  # longer than the chart waits after a move
        route.continue_()

    page.route("**/api/bars?*", later)
    page.locator(CHART).hover()
    page.mouse.wheel(0, -240)
    page.get_by_role("button", name="All sessions").click()
    until(page, f"Number(document.querySelector('{STRIP}').dataset.from) === {first}")
    page.wait_for_timeout(2000)  # what the move would have asked for
    assert window_of(page)[0] == first
    assert page.locator(CHART).get_attribute("data-bars") == str(len(bars_of(replay)))


def test_an_answer_to_an_earlier_choice_leaves_the_strip_to_the_later_one(
    context: BrowserContext, address: str, replay: Played
) -> None:
    page = open_chart(context, address).page
    bars = bars_of(replay)
    delays_ms = iter((1000, 3000))

    def later(route: Route) -> None:
        page.wait_for_timeout(next(delays_ms, 0))
        route.continue_()

    page.locator(STRIP).scroll_into_view_if_needed()
    page.route("**/api/bars?*from=*", later)
    begin = page.get_by_role("slider", name="Begin of what is seen")
    begin.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Home")
    until(page, f"Number(document.querySelector('{STRIP}').dataset.from) === {bars[0]}")
    before = page.locator(CHART).get_attribute("data-bars")
    until(page, f"document.querySelector('{CHART}').dataset.bars !== '{before}'")  # the first one's answer
    assert window_of(page) == (bars[0], bars[-1])
    assert linked(page)["from"] == str(bars[0])
    until(page, f"document.querySelector('{CHART}').dataset.bars === '{len(bars)}'")
    assert window_of(page) == (bars[0], bars[-1])


def test_what_failed_is_asked_again(context: BrowserContext, address: str, replay: Played) -> None:
    page = open_chart(context, address).page
    failures = iter(("abort", "busy", "cut"))

    def unwilling(route: Route) -> None:
        match next(failures, ""):
            case "abort":
                route.abort()
            case "busy":
                route.fulfill(status=503, body=json.dumps({"error": "the journal cannot be read at the moment"}))
            case "cut":
                route.fulfill(body='{"bars": [', content_type="application/json")
            case _:
                route.continue_()

    page.route("**/api/bars?*", unwilling)
    page.get_by_role("button", name="All sessions").click()
    expect(page.get_by_role("alert").first).to_contain_text("Not read: ")
    until(page, f"Number(document.querySelector('{STRIP}').dataset.from) === {bars_of(replay)[0]}")
    expect(page.get_by_role("alert").first).to_be_hidden()


def test_the_arrow_keys_go_from_trade_to_trade(context: BrowserContext, address: str, replay: Played) -> None:
    tab = open_chart(context, address)
    page = tab.page
    trips = replay.sql("SELECT opened_ns, entry_decision FROM round_trips ORDER BY opened_ns")
    page.locator("#price .stage").focus()
    page.keyboard.press("Home")
    until(page, f"Number(document.querySelector('{STRIP}').dataset.from) === {bars_of(replay)[0]}")
    for trip in trips[:3]:
        page.keyboard.press("ArrowRight")
        link = page.locator("#trade a")
        expect(link).to_have_attribute("href", f"#/decision/{trip['entry_decision']}")
        from_s, to_s = window_of(page)
        assert from_s <= trip["opened_ns"] / 10**9 <= to_s + 60
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#trade a")).to_have_attribute("href", f"#/decision/{trips[1]['entry_decision']}")
    expect(page.locator("#trade")).to_contain_text("entered")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#trade a")).to_have_attribute("href", f"#/decision/{trips[0]['entry_decision']}")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#trade")).to_have_text("there is no earlier trade")
    before = window_of(page)
    page.keyboard.press("+")
    spans(page, "<", before[1] - before[0])
    assert all("404" in trouble for trouble in tab.troubles)  # the one question beyond the first trade


def test_an_address_holds_span_and_panes(context: BrowserContext, address: str, replay: Played) -> None:
    bars = bars_of(replay)
    first, last = bars[-120], bars[-40]
    view = f"from={first}&to={last}&panes=volume,contract,rsi14,EMA%2021"
    page = open_chart(context, address, f"now?{view}").page
    chart = page.locator(CHART)
    expect(chart).to_have_attribute("data-bars", "81")
    expect(chart).to_have_attribute("data-panes", "volume,contract,rsi14,EMA 21")
    assert linked(page) == {"from": str(first), "to": str(last), "panes": "volume,contract,rsi14,EMA 21"}
    page.locator("#price .picks summary").click()
    page.get_by_role("checkbox", name="rsi14").uncheck()
    expect(chart).to_have_attribute("data-panes", "volume,contract,EMA 21")
    until(page, "!location.hash.includes('rsi14')")
    again = context.new_page()
    again.goto(page.url)
    expect(again.locator(CHART)).to_have_attribute("data-panes", "volume,contract,EMA 21")
    expect(again.locator(CHART)).to_have_attribute("data-bars", "81")
    for name in ("Trades", "Now"):  # a page opened anew begins with the newest session
        again.get_by_role("link", name=name, exact=True).click()
    expect(again.locator(CHART)).to_have_attribute("data-panes", "volume")
    assert linked(again) == {}


def test_arrows_that_would_lie_on_each_other_are_one_with_a_count(
    context: BrowserContext, address: str, replay: Played
) -> None:
    page = open_chart(context, address).page
    page.get_by_role("button", name="All sessions").click()
    fills = replay.sql("SELECT count(*) AS n FROM fills")[0]["n"]
    chart = page.locator(CHART)
    expect(chart).to_have_attribute("data-marks", str(fills))
    until(page, f"Number(document.querySelector('{CHART}').dataset.groups) < {fills}")
    page.locator("#fills summary").click()
    expect(page.locator("#fills tbody tr")).to_have_count(min(fills, 200))


def test_on_a_phone_money_comes_first_the_header_is_small_and_lists_have_pages(
    browser: Browser, address: str, replay: Played
) -> None:
    context = browser.new_context(viewport={"width": PHONE[0], "height": PHONE[1]}, reduced_motion="reduce")
    context.set_default_timeout(LIMIT_MS)
    page = open_chart(context, address).page
    header = page.locator("#top").evaluate("node => node.getBoundingClientRect().bottom")
    assert header <= PHONE[1] / 8
    tops = [
        page.locator(name).first.evaluate("node => node.getBoundingClientRect().top")
        for name in ('#money [data-figure="Equity"]', '#money [data-figure="Position"]', "#price", "#answer")
    ]
    assert tops == sorted(tops)
    assert tops[1] < PHONE[1]
    page.goto(f"{address}/#/decisions")
    page.get_by_role("button", name="Show all").click()
    expect(page.locator("tr[data-decision]")).to_have_count(10)
    assert page.evaluate("document.documentElement.scrollHeight") < 4000
    newest = [row["decision"] for row in replay.sql("SELECT decision FROM decisions ORDER BY decision DESC LIMIT 20")]
    expect(page.locator(f'tr[data-decision="{newest[9]}"]')).to_be_attached()
    page.get_by_role("button", name="Older").click()
    expect(page.locator(f'tr[data-decision="{newest[19]}"]')).to_be_attached()
    expect(page.locator("tr[data-decision]")).to_have_count(10)
    page.goto(f"{address}/#/trades")
    trades = replay.sql("SELECT count(*) AS n FROM round_trips")[0]["n"]
    expect(page.locator("#trips tr[data-trade]")).to_have_count(min(10, trades))
    context.close()


def test_both_columns_are_of_one_width_and_neither_is_empty(context: BrowserContext, address: str) -> None:
    page = open_chart(context, address).page
    for route in ("now", "risk", "health"):
        page.goto(f"{address}/#/{route}")
        until(
            page,
            "() => { const sides = [...document.querySelectorAll('main .columns.even > .column')];"
            " const boxes = sides.map((side) => [...side.children].map((card) => card.getBoundingClientRect()));"
            " const lengths = boxes.map((all) => all.reduce((sum, box) => sum + box.height, 0));"
            " const widths = boxes.map((all) => all[0]?.width);"
            " return sides.length === 2 && Math.abs(widths[0] - widths[1]) < 2"
            " && Math.min(...lengths) > 0.4 * Math.max(...lengths); }",
        )


def test_one_alarm_twenty_times_is_one_line_and_now_risk_and_health_agree(
    context: BrowserContext, replay: Played, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(replay.path, tmp_path / "copy"))
    with closing(sqlite3.connect(copy / "journal.sqlite")) as db:
        rows = [row for (row,) in db.execute("SELECT id FROM events WHERE kind = 'BarClosed' ORDER BY id LIMIT 20")]
        db.execute("UPDATE events SET effects = '[]' WHERE effects LIKE '%RaiseAlarm%'")
        for number, row in enumerate(rows):
            alarm = {"type": "RaiseAlarm", "name": "blind", "detail": f"no bar for {number + 60} s"}
            db.execute("UPDATE events SET effects = ? WHERE id = ?", (json.dumps([alarm]), row))
        db.commit()
    with dashboard(free_port(), copy) as url:
        page = context.new_page()
        for route, box in (("now", "#alarms"), ("risk", "#alarms"), ("health", "#state")):
            page.goto(f"{url}/#/{route}")
            line = page.locator(f"{box} [data-raised]")
            expect(line).to_have_count(1)
            expect(line).to_have_attribute("data-count", "20")
            expect(line).to_contain_text("no bar for 79 s")
        expect(page.locator("#state .headline")).to_contain_text("20 alarms")
        page.goto("about:blank")


def test_figures_of_a_model_have_names_in_words(context: BrowserContext, address: str) -> None:
    page = context.new_page()
    page.goto(f"{address}/#/models")
    page.wait_for_selector("#versions [data-version]")
    page.evaluate(
        "async () => { const { label } = await import('/static/js/models.js');"
        " window.said = ['test sharpe annual', 'test fees usd', 'net pnl usd', 'worst session'].map(label); }"
    )
    assert page.evaluate("window.said") == ["test Sharpe ratio a year", "test fees", "net P&L", "worst session"]
