"""The pages in a real browser, on a real journal: what they show is what the journal says, and everyone can use them.

One desk trades real minutes (synthetic ones where the data is missing) and stops while it holds something.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageColor
from playwright.sync_api import Browser, Page, Route, expect

from daemon.core.desks.registry import GATES
from daemon.core.session import NEW_YORK
from daemon.reports.words import instrument
from strategies.option_scalper import ACTIONS, SPEC
from tests.support.browser import (
    CONTRAST,
    LIMIT_MS,
    PHONE,
    SMALL,
    WIDE,
    JournalRows,
    Watched,
    dashboard,
    new_york,
    picture,
    real_rows,
    synthetic_rows,
    trade,
)
from tests.support.dashboards import end
from tests.support.desks.desk_run import Desk, write_tape
from tests.support.paths import REPOSITORY
from tests.support.ports import free_port

ROW = struct.Struct("<23f")
SAME = [["trades", "7"]]  # of both versions
HOSTILE = "<img src=x onerror=window.broken=1>"
Opener = Callable[..., Watched]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Desk, Path]:
    """The desk and its state directory; its last session is half done, and something is held."""
    folder = tmp_path_factory.mktemp("pages")
    data = Path(os.environ.get("RLTRADER_DATA", REPOSITORY.parent / "shared" / "data"))
    rows = real_rows(data) if data.is_dir() else synthetic_rows()
    tape_desk = Desk(write_tape(folder / "tape.csv", rows), risk__consecutive_losses_max=5)
    last_day = new_york(int(rows[-1].split(",")[1])).date().isoformat()
    trade(tape_desk, folder / "desk", until_holding_on=last_day)
    return tape_desk, folder / "desk"


@pytest.fixture(scope="module")
def journal(desk: tuple[Desk, Path]) -> JournalRows:
    return JournalRows(desk[1])


@pytest.fixture(scope="module")
def address(desk: tuple[Desk, Path]) -> Iterator[str]:
    with dashboard(free_port(), desk[1]) as url:
        yield url


@pytest.fixture
def open_page(browser: Browser, address: str) -> Iterator[Opener]:
    """Opens a watched page; at the test's end nothing may have gone wrong on it."""
    pages: list[Watched] = []

    def opener(
        route: str, ready: str = "main h1", size: tuple[int, int] = WIDE, scheme: str = "light", **more: Any
    ) -> Watched:
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if scheme == "dark" else "light",
            reduced_motion="reduce",
        )
        tab = Watched(context.new_page(), more.get("address", address))
        tab.page.set_default_timeout(LIMIT_MS)
        if "answers" in more:
            more["answers"](tab.page)
        pages.append(tab)
        tab.open(route, ready)
        return tab

    yield opener
    for tab in pages:
        tab.page.unroute_all(behavior="ignoreErrors")
        tab.page.context.close()
        assert tab.troubles == []


READY = {
    "fleet": "main tr[data-fleet]",
    "now": "#answer [data-action]",
    "performance": "#days td[data-day]",
    "trades": "#trips tr[data-trade]",
    "decisions": "#list tr[data-decision]",
    "decision": "#contributions [data-name]",
    "models": "#versions tr[data-version]",
    "risk": "#limits [data-limit]",
    "health": "#journal [data-figure]",
}


def newest(journal: JournalRows) -> dict[str, Any]:
    return journal.row("SELECT * FROM decisions ORDER BY decision DESC LIMIT 1")


def explained(journal: JournalRows) -> dict[str, Any]:
    """The newest decision that was ordered: it has everything that a decision can have."""
    return journal.row("SELECT * FROM decisions WHERE outcome = 'ordered' ORDER BY decision DESC LIMIT 1")


def route_of(page: str, journal: JournalRows) -> str:
    return f"decision/{explained(journal)['decision']}" if page == "decision" else page


def value_of(page: Page, figure: str) -> str:
    """The value that stands under a name, without its small print."""
    value: str = page.locator(f'[data-figure="{figure}"]').first.evaluate("node => node.firstChild.textContent")
    return value


def session_of(journal: JournalRows) -> tuple[int, int]:
    """First and last moment of the newest bar's New York day."""
    moment = new_york(newest(journal)["bar_ns"]).replace(hour=0, minute=0, second=0, microsecond=0)
    start = int(moment.timestamp()) * 10**9
    return start, start + 86_400 * 10**9


# --- what is shown is what the journal says --------------------------------------------------------------------------


def test_the_first_page_shows_the_journals_newest_decision_and_money(open_page: Opener, journal: JournalRows) -> None:
    page = open_page("now", READY["now"]).page
    decision = newest(journal)
    money = journal.row("SELECT * FROM equity ORDER BY time_ns DESC LIMIT 1")
    assert page.locator("#answer span[data-action]").get_attribute("data-action") == decision["action"]
    assert float(page.locator("[data-confidence]").get_attribute("data-confidence") or 0) == decision["confidence"]
    shares = page.locator("#answer .bars li").evaluate_all(
        "all => all.map(n => [n.dataset.action, Number(n.dataset.value)])"
    )
    assert shares == [list(pair) for pair in zip(ACTIONS, json.loads(decision["probabilities"]), strict=True)]
    assert value_of(page, "Equity") == f"${Decimal(money['equity_usd']):,.2f}"
    assert value_of(page, "Cash") == f"${Decimal(money['cash_usd']):,.2f}"


def test_the_position_is_the_sum_of_the_journals_fills(open_page: Opener, journal: JournalRows) -> None:
    page = open_page("now", "#position [data-symbol]").page
    positions = journal.rows("SELECT symbol, SUM(side * quantity) AS held FROM fills GROUP BY symbol HAVING held <> 0")
    assert page.locator("#position h3").all_text_contents() == [instrument(row["symbol"]) for row in positions]
    trades = journal.rows(
        "SELECT quantity, held, pnl_usd, realized_usd FROM trades WHERE left_ns IS NULL ORDER BY symbol"
    )
    assert [trade["held"] for trade in trades] == [row["held"] for row in positions]
    (trade,) = trades
    of_all = f" of {trade['quantity']}" if trade["quantity"] > trade["held"] else ""
    expect(page.locator("#position .open")).to_have_text(f"open: {trade['held']}{of_all}")
    parts = {"Unrealised": trade["pnl_usd"] - trade["realized_usd"], "Realised": trade["realized_usd"]}
    money = {name: f"{'−' if usd < 0 else '+'}${abs(usd):,.2f}" for name, usd in parts.items()}
    figures = page.locator("#position .figures")
    assert {name: figures.locator(f'[data-figure="{name}"] > span').text_content() for name in money} == money
    closed_totals = journal.row("SELECT count(*) AS n, total(pnl_usd) AS usd FROM trades WHERE left_ns IS NOT NULL")
    line = open_page("trades", "#trips tr[data-trade]").page.locator("#held tr[data-trade]").first
    expect(line).to_contain_text(f"unrealised {money['Unrealised']}, realised {money['Realised']}")
    expect(line.locator('[data-label="Open"]')).to_have_text(f"{trade['held']}{of_all}")
    expect(line.locator('[data-label="Exit"]')).to_have_count(0)
    page = line.page
    assert page.locator("#trips h2:visible").all_text_contents() == ["Open: 1", f"Closed: {closed_totals['n']}"]
    usd = trade["pnl_usd"] + closed_totals["usd"]
    assert value_of(page, "P&L in all") == f"{'−' if usd < 0 else '+'}${abs(usd):,.2f}"


def test_the_chart_has_an_arrow_for_each_fill_of_the_session(open_page: Opener, journal: JournalRows) -> None:
    page = open_page("now", "#price .chart[data-bars]").page
    fills = journal.rows(
        "SELECT * FROM fills WHERE filled_ns >= ? AND filled_ns < ? ORDER BY filled_ns", *session_of(journal)
    )
    assert len(fills) > 3
    assert page.locator("#price .chart").get_attribute("data-marks") == str(len(fills))
    page.locator("#fills summary").click()
    kinds = page.locator("#fills tbody tr td:nth-child(2)").all_text_contents()
    assert kinds == ["entry" if fill["side"] > 0 else "exit" for fill in fills]
    page.locator("#fills tbody a").first.click()
    page.wait_for_selector("#orders [data-order]")
    assert fills[0]["client_order_id"] in page.locator("#orders [data-order]").evaluate_all(
        "all => all.map(n => n.dataset.order)"
    )


def test_a_basket_s_working_orders_are_folded_beyond_the_first_eight(open_page: Opener) -> None:
    page = open_page("now").page
    shown, folded = page.evaluate(
        """async () => {
            const { orders } = await import("/static/js/parts.js");
            const order = { side: 1, quantity: 1, filled: 0, symbol: "SPY", limit: 1, status: "new", submitted: 1 };
            const box = document.createElement("div");
            const lines = [...Array(41).keys()].map((n) => ({ ...order, client_order_id: `${n}` }));
            box.append(...orders(lines, "").filter(Boolean));
            const count = (where) => box.querySelectorAll(`${where} tr[data-order]`).length;
            return [count(":scope > .scroll"), count("details")];
        }"""
    )
    assert (shown, folded) == (8, 33)


def test_an_arrow_of_the_chart_leads_to_its_decision(open_page: Opener, journal: JournalRows) -> None:
    page = open_page("now", "#price .chart[data-marks]").page
    chart = page.locator("#price .chart")
    image = Image.open(io.BytesIO(chart.screenshot())).convert("RGB")
    entry = ImageColor.getrgb("#0a5cc2")  # --accent of the light colours
    arrows = [divmod(index, image.width) for index, pixel in enumerate(image.get_flattened_data()) if pixel == entry]
    y, x = arrows[len(arrows) // 2]
    chart.hover(position={"x": x, "y": y})
    expect(page.locator("#price .reading")).to_contain_text(
        re.compile(r"O [\d.]+ H [\d.]+ L [\d.]+ C [\d.]+ volume [\d,]+ · .*buy \d+ SPY \d")
    )
    chart.click(position={"x": x, "y": y})
    page.wait_for_selector("#orders [data-order]")
    number = int(page.url.rsplit("/", 1)[1])
    assert journal.row("SELECT outcome FROM decisions WHERE decision = ?", number)["outcome"] == "ordered"


def test_trades_are_shown_with_an_arrow_a_sign_and_a_link_to_their_decisions(
    open_page: Opener, journal: JournalRows
) -> None:
    page = open_page("trades", READY["trades"]).page
    trades = journal.rows(
        "SELECT * FROM trades ORDER BY left_ns IS NOT NULL, coalesce(left_ns, opened_ns) DESC LIMIT 50"
    )
    rows = page.locator("#trips tr[data-trade]")
    assert rows.count() == len(trades) > 2
    kinds = [rows.nth(n).locator("td").first.locator("span").first.get_attribute("class") for n in range(len(trades))]
    assert kinds == ["gain" if row["pnl_usd"] > 0 else "loss" if row["pnl_usd"] < 0 else "even" for row in trades]
    arrows = page.evaluate(
        "['gain', 'loss'].map(name => getComputedStyle(document.querySelector(`.${name}`), '::before').content)"
    )
    assert arrows == ['"▲ "', '"▼ "']
    closed_trades = [row for row in trades if row["left_ns"]]
    assert value_of(page, "Closed trades") == str(len(closed_trades))
    total = sum(row["pnl_usd"] for row in closed_trades)
    assert value_of(page, "Closed") == f"{'−' if total < 0 else '+'}${abs(total):,.2f}"
    page.get_by_label("Result", exact=True).select_option("win")
    won = [row for row in closed_trades if row["pnl_usd"] > 0]
    expect(rows).to_have_count(len(won))
    assert "result=win" in (page.locator("a[download]").get_attribute("href") or "")
    rows.first.locator("a").first.click()
    page.wait_for_selector("#orders [data-order]")
    assert page.url.endswith(f"decision/{won[0]['entry_decision']}")


def test_the_performance_is_that_of_the_journal_s_equity(open_page: Opener, journal: JournalRows) -> None:
    page = open_page("performance", READY["performance"]).page
    last: dict[str, float] = {}
    for row in journal.rows("SELECT time_ns, equity_usd FROM equity ORDER BY time_ns"):
        last[new_york(row["time_ns"]).date().isoformat()] = float(row["equity_usd"])
    first = new_york(journal.row("SELECT min(opened_ns) AS t FROM round_trips")["t"]).date().isoformat()
    dates = [date for date in last if date >= first]
    before = last[max(date for date in last if date < first)]
    cells = page.locator("#days td[data-day]").evaluate_all("all => all.map(n => [n.dataset.day, n.textContent])")
    words = [f"{day.day} {day:%b %Y}" for day in map(date.fromisoformat, (dates[0], dates[-1]))]
    expect(page.locator("#figures .note").first).to_contain_text(f"{words[0]} to {words[1]}, {len(dates)} of ")
    newest = new_york(journal.row("SELECT max(time_ns) AS time_ns FROM equity")["time_ns"])
    expect(page.locator("#figures .note").first).to_contain_text(f"; the equity as of {newest:%H:%M:%S} E")
    starts = [before, *(last[date] for date in dates)]
    gains = {date: last[date] - start for date, start in zip(dates, starts, strict=False)}
    assert dict(cells) == {date: "▲" if gain > 0 else "▼" if gain < 0 else "·" for date, gain in gains.items()}
    total = last[dates[-1]] - before
    assert value_of(page, "P&L") == f"{'−' if total < 0 else '+'}${abs(total):,.2f}"
    assert page.locator("#course [data-line]").count() == 2
    page.get_by_text("week as a list").or_(page.get_by_text("weeks as a list")).click()
    mondays = {str(day - timedelta(days=day.weekday())) for day in map(date.fromisoformat, dates)}
    weeks = page.get_by_role("table", name="Weeks").locator("tr[data-period]")
    names = weeks.evaluate_all("all => all.map(n => n.dataset.period)")
    assert sorted(names, reverse=True) == names
    assert set(names) == mondays
    assert all(
        re.fullmatch(r"\d{1,2} [A-Z][a-z]{2} \d{4}", text)
        for text in weeks.get_by_role("rowheader").all_text_contents()
    )
    page.get_by_role("button", name="1D").click()
    expect(page.locator("#days td[data-day]")).to_have_count(1)
    assert page.get_by_role("button", name="1D").get_attribute("aria-pressed") == "true"
    day = gains[dates[-1]]
    expect(page.locator('[data-figure="P&L"] span')).to_have_text(f"{'−' if day < 0 else '+'}${abs(day):,.2f}")
    assert int(page.locator("#course .chart").get_attribute("data-points") or 0) > 10


def test_twelve_years_of_days_fit_on_a_phone(open_page: Opener) -> None:
    first, days = 1_262_563_200, 3_000

    def long(answer: Any) -> Any:
        if isinstance(answer, dict) and "lines" in answer.get("figures", ()):
            times = [first + 86_400 * day for day in range(days)]
            line = {"name": "equity", "times": times, "shares": [day / days for day in range(days)]}
            answer["figures"]["lines"] = [line]
        return answer

    page = open_page(
        "performance", "#course .chart[data-from]", PHONE, answers=answer_filter(long, lambda now: now)
    ).page
    expect(page.locator("#course .chart")).to_have_attribute("data-from", str(first))


def test_a_month_that_was_scrolled_to_stays_beside_its_year(open_page: Opener) -> None:
    def long(answer: Any) -> Any:
        if isinstance(answer, dict) and "months" in answer.get("figures", ()):
            year, month = answer["figures"]["years"][0]["name"], {"share": -0.1, "pnl_usd": -123_456_789.0}
            answer["figures"]["months"] = [{**month, "name": f"{year}-{number:02}"} for number in range(1, 13)]
        return answer

    page = open_page("performance", '#months [data-month$="-12"]', answers=answer_filter(long, lambda now: now)).page
    page.wait_for_function("document.querySelector('#months .scroll').scrollLeft > 0")
    beside = "box => box.querySelector('tbody th').getBoundingClientRect().left >= box.getBoundingClientRect().left"
    assert page.locator("#months .scroll").evaluate(beside)


def test_the_chart_shows_every_session_that_was_traded(open_page: Opener, journal: JournalRows) -> None:
    page = open_page("now", "#price .choosers select").page
    sessions = page.locator("#price .choosers option").evaluate_all("all => all.map(n => n.value).filter(Boolean)")
    days = {new_york(row["bar_ns"]).date().isoformat() for row in journal.rows("SELECT bar_ns FROM decisions")}
    assert days <= set(sessions)
    assert sessions == sorted(sessions, reverse=True)
    page.locator("#price .choosers select").select_option(min(days))
    first = date.fromisoformat(min(days))
    expect(page.locator("#price h2")).to_contain_text(f"{first.day} {first:%b %Y}")
    expect(page.locator("#price .chart")).to_have_attribute("data-bars", "390")


def test_the_list_is_the_journals_newest_first_by_outcome_and_by_page(open_page: Opener, journal: JournalRows) -> None:
    page = open_page("decisions", READY["decisions"]).page
    acted = journal.rows(
        "SELECT decision FROM decisions WHERE outcome IN ('ordered', 'exit') ORDER BY decision DESC LIMIT 50"
    )
    decisions = page.locator("tr[data-decision]").evaluate_all("all => all.map(n => n.dataset.decision)")
    assert decisions == [str(row["decision"]) for row in acted]
    every = journal.row("SELECT count(*) AS n FROM decisions")["n"]
    total = journal.row("SELECT count(*) AS n FROM decisions WHERE outcome IN ('ordered', 'exit')")["n"]
    expect(page.locator("#shares")).to_contain_text(f"{total:,} of {every:,} decisions shown: with orders.")
    page.get_by_role("button", name="Show all").click()
    expect(page.locator("#shares")).to_have_text(f"All {every:,} decisions.")
    expect(page.get_by_label("Outcome")).to_have_value("")
    expected = [
        str(row["decision"]) for row in journal.rows("SELECT decision FROM decisions ORDER BY decision DESC LIMIT 100")
    ]
    numbers = "all => all.map(n => n.dataset.decision)"
    page.wait_for_selector(f'tr[data-decision="{expected[0]}"] ~ tr[data-decision="{expected[49]}"]')
    assert page.locator("tr[data-decision]").evaluate_all(numbers) == expected[:50]
    page.get_by_role("button", name="Older").click()
    page.wait_for_selector(f'tr[data-decision="{expected[50]}"]')
    assert page.locator("tr[data-decision]").evaluate_all(numbers) == expected[50:]
    page.get_by_label("Outcome").select_option("denied")
    denied = journal.rows("SELECT decision FROM decisions WHERE outcome = 'denied' ORDER BY decision DESC LIMIT 50")
    page.wait_for_selector(f'tr[data-decision="{denied[0]["decision"]}"]')
    expect(page.locator(f'tr[data-decision="{expected[50]}"]')).to_have_count(0)
    assert page.locator("tr[data-decision]").evaluate_all(numbers) == [str(row["decision"]) for row in denied]


def test_the_heat_map_shows_the_bytes_that_the_policy_was_given(open_page: Opener, journal: JournalRows) -> None:
    decision = explained(journal)
    page = open_page(f"decision/{decision['decision']}", "#observation td").page
    before = journal.rows(
        "SELECT row FROM decisions WHERE row IS NOT NULL AND decision <= ? ORDER BY decision DESC LIMIT 20",
        decision["decision"],
    )
    rows = page.locator("#observation tbody tr").evaluate_all(
        "all => all.map(row => [...row.querySelectorAll('td')].map(cell => Number(cell.dataset.value)))"
    )
    assert [len(row) for row in rows] == [23] * 20
    assert rows[-1] == list(ROW.unpack(decision["row"]))
    assert rows == [list(ROW.unpack(row["row"])) for row in reversed(before)]
    names = page.locator("#observation thead th[data-name]").evaluate_all("all => all.map(n => n.dataset.name)")
    assert names == list(SPEC.features)


def test_a_cell_tells_its_value_on_hover_and_on_focus_and_arrows_walk(open_page: Opener, journal: JournalRows) -> None:
    decision = explained(journal)
    page = open_page(f"decision/{decision['decision']}", READY["decision"]).page
    last = page.locator("#observation tbody tr").last.locator("td")
    last.first.hover()
    expect(page.locator(".readout")).to_contain_text("log_return, bar newest")
    last.nth(18).focus()
    elapsed = ROW.unpack(decision["row"])[18]
    expect(page.locator(".readout")).to_contain_text(f"session_elapsed, bar newest: {elapsed:.4f}"[:-1])
    page.keyboard.press("ArrowUp")
    expect(page.locator(".readout")).to_contain_text("session_elapsed, bar −1:")
    assert page.url.endswith(str(decision["decision"]))  # within the table the arrows do not turn the page
    page.get_by_label("Contribution of each cell").check()
    expect(page.locator(".heat")).to_have_attribute("data-mode", "cells")


def test_a_decision_shows_the_journals_gates_orders_and_fills(open_page: Opener, journal: JournalRows) -> None:
    decision = explained(journal)
    page = open_page(f"decision/{decision['decision']}", READY["decision"]).page
    gates = {
        gate: "unknown" if reason is None else "denies" if reason else "passes"
        for gate, reason in json.loads(decision["gates"]).items()
    }
    states = page.locator("#gates li").evaluate_all("all => all.map(n => [n.dataset.gate, n.dataset.state])")
    assert dict(states) == gates
    orders = journal.rows("SELECT client_order_id FROM orders WHERE work = ?", decision["work"])
    assert set(page.locator("#orders [data-order]").evaluate_all("all => all.map(n => n.dataset.order)")) == {
        row["client_order_id"] for row in orders
    }
    fills = journal.rows(
        "SELECT f.* FROM fills f JOIN orders o USING (client_order_id) WHERE o.work = ? ORDER BY f.filled_ns",
        decision["work"],
    )
    prices = page.locator('#orders td[data-label="Price"]').all_text_contents()
    assert prices == [f"${Decimal(fill['price']):,.2f}" for fill in fills]
    logits = page.locator("[data-logit]").evaluate_all("all => all.map(n => Number(n.dataset.logit))")
    assert logits == json.loads(decision["logits"])


def test_a_denied_decision_names_the_gate_and_its_reason(open_page: Opener, journal: JournalRows) -> None:
    decision = journal.row("SELECT * FROM decisions WHERE outcome = 'denied' ORDER BY decision DESC LIMIT 1")
    page = open_page(f"decision/{decision['decision']}", "#gates li").page
    gates = {gate: reason for gate, reason in json.loads(decision["gates"]).items() if reason}
    denied = {gate: re.sub(r"[A-Z]+\d{6}[CP]\d{8}", lambda m: instrument(m[0]), why) for gate, why in gates.items()}
    reasons = page.locator("#gates li[data-state=denies]").evaluate_all(
        "all => all.map(n => [n.dataset.gate, n.querySelector('.gate-reason').textContent])"
    )
    assert dict(reasons) == denied


def test_arrow_keys_and_space_walk_through_the_decisions(open_page: Opener, journal: JournalRows) -> None:
    numbers = [row["decision"] for row in journal.rows("SELECT decision FROM decisions ORDER BY decision LIMIT 104")][
        100:
    ]
    page = open_page(f"decision/{numbers[1]}", "#gates .body > *").page
    page.keyboard.press("ArrowRight")
    expect(page.locator("h1")).to_have_text(f"Decision {numbers[2]}")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("h1")).to_have_text(f"Decision {numbers[1]}")
    page.get_by_label("Speed").select_option("every 2 s")
    page.locator("h1").focus()
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    expect(page.locator("h1")).to_have_text(f"Decision {numbers[2]}")
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Play")).to_be_visible()


def test_risk_and_health_say_what_the_journal_says(open_page: Opener, journal: JournalRows) -> None:
    page = open_page("risk", READY["risk"]).page
    denials: dict[str, int] = {}
    for row in journal.rows("SELECT gates FROM decisions WHERE outcome = 'denied'"):
        for gate, reason in json.loads(row["gates"]).items():
            denials[gate] = denials.get(gate, 0) + bool(reason)
    counts = page.locator("#denials li").evaluate_all("all => all.map(n => [n.dataset.gate, Number(n.dataset.count)])")
    assert dict(counts) == {gate: count for gate, count in denials.items() if count}

    def with_alarms(count: int) -> Any:
        return answer_filter(
            lambda answer: {**answer, "alarms": count} if "troubles" in answer else answer, lambda now: now
        )

    page = open_page("health", READY["health"], answers=with_alarms(0)).page
    assert page.locator("#state .headline").text_content() == "Well The run ended, and nothing is wrong with it."
    assert value_of(page, "Events") == f"{journal.row('SELECT COUNT(seq) AS n FROM events')['n']:,}"
    page = open_page("health", READY["health"], answers=with_alarms(2)).page
    assert page.evaluate(SMALL) == []
    sentence = "2 alarms during the run: see Risk. It ended, and nothing else is wrong with it."
    assert page.locator("#state .headline").text_content() == sentence
    assert (page.locator("#state .headline a").get_attribute("href") or "").startswith("#/risk")


def test_a_decision_shows_the_price_around_it_and_the_trade_it_opened(open_page: Opener, journal: JournalRows) -> None:
    row = journal.row("SELECT * FROM trades WHERE left_ns IS NOT NULL ORDER BY opened_ns LIMIT 1")
    page = open_page(f"decision/{row['entry_decision']}", "#ended tr[data-ended]").page
    assert page.locator("#ended tr[data-ended]").get_attribute("data-ended") == row["symbol"]
    kind = "gain" if row["pnl_usd"] > 0 else "loss" if row["pnl_usd"] < 0 else "even"
    span = page.locator("#ended td").first.locator("span")
    assert span.get_attribute("class") == kind
    assert f"${abs(Decimal(str(row['pnl_usd']))):,.2f}" in (span.text_content() or "")
    assert "opened it" in (page.locator("#ended").text_content() or "")
    bar = journal.row("SELECT bar_ns FROM decisions WHERE decision = ?", row["entry_decision"])["bar_ns"]
    expect(page.locator("#around .chart")).to_have_attribute("data-decided", str(bar // 10**9))
    moment = new_york(bar)
    head = f"{moment.day} {moment:%b %Y, %H:%M} decided on this bar: O"
    expect(page.locator("#around .reading")).to_contain_text(head)
    assert int(page.locator("#around .chart").get_attribute("data-bars") or 0) > 30


def test_a_basket_s_orders_have_one_heading_and_two_versions_stand_side_by_side(
    open_page: Opener, journal: JournalRows
) -> None:
    def two(answer: Any) -> Any:
        if "orders" in answer and "line" in answer:
            (order, *_) = answer["orders"]
            answer["orders"] = [{**order, "symbol": name, "client_order_id": name} for name in ("AAA", "BBB")]
        if "versions" in answer:
            (version, *_) = answer["versions"]
            other = {**version, "version": "2030-01-01-other", "current": False, "running": False}
            without_trades, with_trades = (
                [["test trades", n], ["test win rate", rate]] for n, rate in (("0", "0.0"), ("5", "0.4"))
            )
            answer["versions"] = [
                {
                    **version,
                    "metrics": [
                        *without_trades,
                        *SAME,
                        ["net return", "0.25"],
                        ["max drawdown", "0.10"],
                        ["fees usd", "5"],
                    ],
                },
                {
                    **other,
                    "metrics": [
                        *with_trades,
                        *SAME,
                        ["net return", "0.5"],
                        ["max drawdown", "0.25"],
                        ["fees usd", "7.5"],
                    ],
                },
            ]
        return answer

    between = answer_filter(two, lambda now: now)
    page = open_page(route_of("decision", journal), "#orders tr[data-order]", answers=between).page
    assert page.locator("#orders tr[data-order]").count() == 2
    assert page.locator("#orders h3").count() == 0
    tab = open_page("models", "#compare tr[data-compared]", answers=between)
    cells = {
        name: tab.page.locator(f'#compare tr[data-compared="{name}"] td').all_text_contents()
        for name in ("net return", "max drawdown", "fees usd", "test win rate")
    }
    assert cells == {
        "net return": ["25.00 %", "50.00 %", "better by 25.00 points"],
        "max drawdown": ["−10.00 %", "−25.00 %", "worse by 15.00 points"],
        "fees usd": ["$5.00", "$7.50", "worse by $2.50"],
        "test win rate": ["–", "40.00 %", "–"],  # no trade, no rate
    }
    rates = [re.findall(r"win rate(–|[\d.]+ %)", row) for row in tab.page.locator("#versions tr").all_text_contents()]
    assert rates[1:] == [["–"], ["40.00 %"]]
    assert tab.page.locator('#compare tr[data-compared="trades"] td').last.text_content() == "–"
    assert "answers now" not in (tab.page.locator("#versions").text_content() or "")  # the desk has stopped
    assert tab.page.locator("#versions .badge").first.text_content() == "answered last"


# --- whatever happens ---------------------------------------------------------------------------------------------


def test_a_change_of_the_journal_and_a_restart_of_the_dashboard_reach_an_open_page(
    browser: Browser, desk: tuple[Desk, Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(desk[1], tmp_path / "copy"))
    port, page = free_port(), browser.new_page()
    with dashboard(port, copy) as url:
        page.goto(f"{url}/#/now")
        before = newest(JournalRows(copy))["decision"]
        expect(page.locator("#answer [data-key=open]")).to_contain_text(f"{before:,}")
        trade(desk[0], copy)
        after = newest(JournalRows(copy))["decision"]
        assert after > before
        expect(page.locator("#answer [data-key=open]")).to_contain_text(f"{after:,}")
        expect(page.locator("#connection")).to_have_text("stopped")
        expect(page.locator("#clock")).to_contain_text("recorded time: ")
    expect(page.locator("#connection")).to_contain_text("reconnecting")
    with dashboard(port, copy):
        expect(page.locator("#connection")).to_have_text("stopped")
    page.close()


def test_a_page_that_nobody_sees_asks_nothing(open_page: Opener) -> None:
    page = open_page("risk", READY["risk"]).page
    hide = "hidden => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
    turn = hide + " document.dispatchEvent(new Event('visibilitychange')); }"
    page.evaluate(turn, True)
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url) if "/api/" in request.url else None)
    page.evaluate("location.hash = '#/health'")
    expect(page.locator("h1")).to_have_text("Health")
    assert urls == []
    page.evaluate(turn, False)
    page.wait_for_selector(READY["health"])
    assert {url.split("/api/")[1].split("?")[0] for url in urls} == {"health", "stream"}


def answer_filter(
    change: Callable[[Any], Any], states: Callable[[dict[str, Any]], dict[str, Any]]
) -> Callable[[Page], None]:
    """Put between page and server: each answer goes through `change`, the stream's state through `states` as well."""

    def between(page: Page) -> None:
        def answer(route: Route) -> None:
            if "/api/stream" in route.request.url:
                now = route.fetch(url=route.request.url.replace("/api/stream", "/api/now")).json()
                state = json.dumps(states(change(now)))
                route.fulfill(body=f"retry: 60000\nevent: now\ndata: {state}\n\n", content_type="text/event-stream")
            else:
                reply = route.fetch()
                route.fulfill(response=reply, body=json.dumps(change(reply.json())))

        page.route("**/api/**", answer)

    return between


def hostile(answer: Any, key: str = "") -> Any:
    """The same answer with markup in every text but those by which the page finds its way."""
    if isinstance(answer, dict):
        return {name: hostile(value, name) for name, value in answer.items()}
    if isinstance(answer, list):
        return [hostile(value, key) for value in answer]
    return HOSTILE + answer if isinstance(answer, str) and key not in WAYS else answer


WAYS = {"name", "desk", "session", "sessions", "state", "rows", "equity_usd", "cash_usd", "realized_usd", "day_usd"}


def test_markup_in_any_text_is_shown_as_text(open_page: Opener, journal: JournalRows) -> None:
    alarm = {"first": 1.0, "time": 1.0, "name": HOSTILE, "detail": HOSTILE, "count": 1}
    between = answer_filter(hostile, lambda now: {**now, "halt": HOSTILE, "raised": [alarm]})
    tab = open_page("now", READY["now"], answers=between)
    expect(tab.page.locator("#alarms")).to_contain_text(HOSTILE)
    for name, ready in READY.items():
        page = tab.open(route_of(name, journal), "#gates .body > *" if name == "decision" else ready)
        expect(page.locator("#banner")).to_contain_text(HOSTILE)
        expect(page.locator("main")).to_contain_text("<img")
        assert page.locator("img").count() == 0
        assert page.evaluate("window.broken") is None


def test_live_money_halt_and_stale_are_said_in_words(open_page: Opener, tmp_path: Path) -> None:
    stale = "the journal was written by other code"
    halt = {
        "halt": "operator: spread (by control/anna (uid 7))",
        "halt_since": datetime(2024, 1, 5, 10, 30, tzinfo=NEW_YORK).timestamp(),
    }
    states = {"mode": "live", "account": "live 123456789", "stale": stale, **halt}
    between = answer_filter(lambda answer: answer, lambda now: {**now, **states})
    page = open_page("now", READY["now"], answers=between, size=PHONE).page
    page.evaluate("scrollTo(0, 900)")
    for part in ("#desk", "#mode", "nav", "#banner"):
        expect(page.locator(part)).to_be_in_viewport(ratio=1)
    expect(page.locator("#mode")).to_have_text("LIVE MONEY")
    line = page.locator(".bar-line")
    assert line.evaluate("node => getComputedStyle(node).backgroundColor") == "rgb(180, 35, 24)"
    assert line.evaluate("node => node.getBoundingClientRect().width") == PHONE[0]
    assert page.evaluate(CONTRAST) == []
    assert page.locator("#top").evaluate("node => node.getBoundingClientRect().height") <= PHONE[1] / 8
    expect(page.locator(".said")).to_contain_text("Nothing is opened until the desk is resumed.")
    page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})
    expect(page.locator("#live-money")).to_be_in_viewport(ratio=1)
    expect(page.locator("#banner")).to_contain_text("HALTED since 5 Jan 2024, 10:30 EST: operator: spread, by anna.")
    expect(page.locator("#stale")).to_have_text("Not live: the journal was written by other code")
    expect(page.locator("#clock")).to_have_class(re.compile("old"))
    picture(page, "halted-1280", tmp_path)


def test_the_fleet_has_one_state_for_each_desk_the_troubled_first_and_no_sum_of_other_days(open_page: Opener) -> None:
    def several(answer: Any) -> Any:
        if isinstance(answer, dict) and "totals" in answer:
            (desk,), (total,) = answer["desks"], answer["totals"]
            desk = {
                **desk,
                "holds": "flat",
                "orders": 0,
                "alarms": 0,
                "session": "2024-01-05",
                "money": "paper account",
            }
            lines: dict[str, dict[str, Any]] = {
                "calm": {"running": True, "equity_usd": 10_076.29},
                "over": {},
                "odd": {"holds": "4 SPY241121C00479000"},
                "sent": {"orders": 1},
                "tape": {"money": "recorded data", "holds": "4 SPY241121C00479000"},
                "mute": {"problem": "no journal here", "equity_usd": 10_000.0, "day_usd": 0.0},
                "held": {
                    "running": True,
                    "may_trade": False,
                    "trading": "halted: operator: why (by socket/anna (uid 0))",
                },
            }
            answer["desks"] = [{**desk, "name": name, **line} for name, line in lines.items()]
            answer["desks"][0]["session"] = "2024-01-04"
            answer["totals"] = [{**total, "money": "paper account", "desks": 4, "counted": 3, "day_usd": 12.0}]
        elif isinstance(answer, dict) and answer and all(isinstance(value, list) for value in answer.values()):
            answer = {"calm": [10_000.0, 9_997.0]}  # the recorded equity, which ends before the newest mark
        return answer

    page = open_page("fleet", READY["fleet"], answers=answer_filter(several, lambda now: now)).page
    states = page.locator("#desks tr[data-fleet]").evaluate_all(
        "all => all.map(n => [n.dataset.fleet, n.dataset.state])"
    )
    assert states == [
        ["mute", "UNREADABLE"],
        ["held", "HALTED"],
        ["odd", "STOPPED – HOLDING"],
        ["sent", "STOPPED – ORDERS AT WORK"],
        ["calm", "running"],
        ["over", "stopped"],
    ]
    finished = page.locator("#replays tr[data-fleet]")
    assert finished.evaluate_all("all => all.map(n => [n.dataset.fleet, n.dataset.state])") == [["tape", "finished"]]
    expect(finished).to_contain_text("recorded time")
    cells = page.locator('tr[data-fleet="mute"] td').all_text_contents()
    assert cells[1:] == ["–"] * len(cells[1:])
    expect(page.locator('tr[data-fleet="held"]')).to_contain_text("operator: why, by anna")
    expect(page.locator('tr[data-fleet="odd"]')).to_contain_text("4 SPY 21 Nov 24 479 call")
    course = page.locator('tr[data-fleet="calm"] svg')
    expect(course).to_have_attribute("aria-label", "Equity from $10,000.00 to $10,076.29")
    assert value_of(page, "P&L") == "not comparable"
    expect(page.locator("#totals .gain, #totals .loss")).to_have_count(0)
    expect(page.locator("#totals")).to_contain_text("4 Jan 2024 to 5 Jan 2024")


@pytest.mark.parametrize("width", [1280, 1024, 1000, 820, 640])
def test_each_column_of_the_fleet_is_seen_and_a_desk_s_long_name_covers_nothing(
    open_page: Opener, width: int, tmp_path: Path
) -> None:
    def wide(answer: Any) -> Any:
        if isinstance(answer, dict) and "totals" in answer:
            (desk,) = answer["desks"]
            halt = "halted: reconciliation: SPY: broker 198, book 0 (by socket/alice (uid 0))"
            of_all = {"running": True, "money": "paper account", "account": "paper PA3LOOPBACK1", "lag_s": 100.0}
            of_one = {"money": "real money", "account": "live 123456789", "alarms": 12, "alarm": "gateway_main_short"}
            figures = {"equity_usd": 1_234_567.89, "day_usd": -12_345.67, "holds": "4 SPY241121C00479000", "orders": 12}
            desk = {**desk, **of_all, **figures, "trading": "reconciled"}
            answer["desks"] = [
                {**desk, "name": "rebalancer-large-caps", **of_one, "trading": halt},
                {**desk, "name": "scalper"},
            ]
        elif isinstance(answer, dict) and answer and all(isinstance(value, list) for value in answer.values()):
            answer = {"rebalancer-large-caps": [1.0, 3.0, 2.0], "scalper": [1.0, 3.0, 2.0]}
        return answer

    page = open_page("fleet", READY["fleet"], (width, 800), answers=answer_filter(wide, lambda now: now)).page
    table = page.locator("#desks .scroll")
    picture(page, f"fleet-{width}", tmp_path)
    assert table.evaluate("node => node.scrollWidth - node.clientWidth") <= 0
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    newest = page.locator("#desks td[data-label='Newest event']").first
    newest.scroll_into_view_if_needed()
    expect(newest).to_be_in_viewport(ratio=1)
    name = page.locator('tr[data-fleet="rebalancer-large-caps"] th')
    words = (
        "node => { const r = document.createRange(); r.selectNodeContents(node); return r.getBoundingClientRect(); }"
    )
    link, below = name.locator("a").evaluate(words), name.locator("small").evaluate(words)
    assert link["height"] > 30 or width < 1024  # of two lines where it is a column
    assert link["bottom"] <= below["top"] + 1
    assert link["top"] >= name.evaluate("node => node.getBoundingClientRect().top")


def gateway_status(**changes: Any) -> dict[str, Any]:
    """What a gateway writes of itself: two sub-accounts and `main`, and the broker, which agrees."""
    rows: tuple[tuple[str, str, str, int, dict[str, str]], ...] = (
        ("main", "40000.00", "41250.50", 1, {"SPY": "2.5"}),
        ("scalper", "9100.00", "10020.00", 0, {"SPY241121C00479000": "4"}),
        ("rebalancer", "50000.00", "50000.00", 0, {}),
    )
    accounts = [
        {
            "name": name,
            "cash": cash,
            "equity": equity,
            "open_orders": orders,
            "positions": positions,
            "suspended": name[0] == "r",
        }
        for name, cash, equity, orders, positions in rows
    ]
    figures = {"cash": "99100.00", "equity": "101270.50"}
    account = {"account": "paper", "account_number": "PA3ONE"}
    return {
        "account": account, "ready": True, "away": "", "accounts": accounts, "sum": figures, "broker": figures,
        "halt": None, "differences": [], **changes,
    }  # fmt: skip


@contextlib.contextmanager
def never_silent(file: Path) -> Iterator[None]:
    """A gateway that goes on to write its status."""
    over = threading.Event()

    def touch() -> None:
        while not over.wait(1.0):
            with contextlib.suppress(FileNotFoundError):
                os.utime(file)

    thread = threading.Thread(target=touch, daemon=True)
    thread.start()
    yield
    over.set()
    thread.join()


def test_an_account_behind_a_gateway_shows_its_sub_accounts_their_sum_and_the_brokers_figures(
    open_page: Opener, desk: tuple[Desk, Path], tmp_path: Path
) -> None:
    file = tmp_path / "status.json"
    halt = {"reason": "day_loss", "detail": "900.00 USD lost today"}
    differs = "cash 99100.00 in the sub-accounts, 99099.99 at the broker"
    file.write_text(json.dumps(gateway_status()))
    with dashboard(free_port(), desk[1], gateways=[tmp_path]) as url, never_silent(file):
        page = open_page("fleet", "#gateways tr[data-account]", address=url).page
        expect(page.locator("#gateways h2")).to_have_text("Account PA3ONE running paper account")
        expect(page.get_by_role("link", name="Fleet")).to_be_visible()  # it is one desk alone that is shown
        rows = page.locator("#gateways tr[data-account]").evaluate_all(
            "all => all.map(row => [row.dataset.kind, ...[...row.cells].map(cell => cell.innerText.trim())])"
        )
        assert rows == [
            ["sub-account", "main", "$40,000.00", "$41,250.50", "1", "2.5 SPY"],
            ["sub-account", "scalper", "$9,100.00", "$10,020.00", "0", "4 SPY 21 Nov 24 479 call"],
            ["sub-account", "rebalancer\nfenced: no new order", "$50,000.00", "$50,000.00", "0", "flat"],
            ["sum", "all together", "$99,100.00", "$101,270.50", "–", "–"],
            ["broker", "by the broker", "$99,100.00", "$101,270.50", "–", "–"],
        ]
        picture(page, "gateway-1280", tmp_path)
        file.write_text(json.dumps(gateway_status(blocked="trade_suspended_by_user")))
        expect(page.locator("#gateways h2")).to_have_text("Account PA3ONE BLOCKED paper account")
        file.write_text(
            json.dumps(gateway_status(ready=False, away="no report: HTTP 503", halt=halt, differences=[differs]))
        )
        expect(page.locator("#gateways h2")).to_contain_text("BROKER AWAY")
        notes = ["no report: HTTP 503", "No new risk: day_loss: 900.00 USD lost today", f"Difference: {differs}"]
        expect(page.locator("#gateways .note")).to_have_text(notes)
        phone = open_page("fleet", "#gateways tr[data-account]", PHONE, address=url).page
        picture(phone, "gateway-390", tmp_path)
        assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")
        file.unlink()
        expect(page.locator("#gateways h2")).to_contain_text("UNREADABLE")
        for view in (page, phone):  # they ask the server again, which goes first
            view.goto("about:blank")


def test_an_account_that_the_broker_blocks_is_what_a_desk_says_first(
    open_page: Opener, desk: tuple[Desk, Path], tmp_path: Path
) -> None:
    """Not that book and broker were never compared, nor that all is well."""
    name = "rebalancer_of_thirty_letters_x"

    def blocked(answer: Any) -> Any:
        if "desks" not in answer:
            return answer
        (line,) = answer["desks"]
        trading = "blocked by the broker: trade_suspended_by_user"
        states = {"running": True, "may_trade": False, "trading": trading, "money": "paper account", "problem": ""}
        return {**answer, "desks": [{**line, **states, "name": name, "account": f"paper PA3ONE-{name}"}]}

    denies = {"name": "account_blocked", "state": "denies", "reason": "the broker does not let it trade", "ends": 0}
    answers = answer_filter(blocked, lambda now: {**now, "mode": "paper", "reconciled": True, "gates": [denies]})
    with dashboard(free_port(), desk[1], gateways=[tmp_path]) as url:
        page = open_page("fleet", f'tr[data-fleet="{name}"]', PHONE, address=url, answers=answers).page
        row = page.locator(f'tr[data-fleet="{name}"]')
        expect(row).to_have_attribute("data-state", "BLOCKED")
        expect(row).to_contain_text("trade_suspended_by_user")
        for cell in ("Desk", "Money"):  # a whole name, also on a phone
            assert row.locator(f'[data-label="{cell}"]').evaluate("cell => cell.scrollWidth <= cell.clientWidth")
        page.goto("about:blank")
        now = open_page("now", READY["now"], address=url, answers=answers).page
        expect(now.locator("#banner")).to_contain_text("BLOCKED: the broker does not let it trade")
        now.goto("about:blank")


def test_a_paper_account_is_told_from_real_money(open_page: Opener) -> None:
    denied = [{"name": name, "state": "denies", "reason": "", "ends": 0} for name in ("outside_session", "stale_bar")]
    states = {"mode": "paper", "account": "paper PA3TEST", "reconciled": False, "gates": denied}
    page = open_page(
        "now", READY["now"], answers=answer_filter(lambda answer: answer, lambda now: {**now, **states})
    ).page
    expect(page.locator("#mode")).to_have_text("live with a paper account")
    expect(page.locator("#live-money")).to_be_hidden()
    expect(page.locator("#banner")).to_contain_text("not yet compared")
    expect(page.locator("#gates .headline")).to_have_text("Market closed")
    states["gates"] = [*denied, {**denied[0], "name": "drawdown"}]
    page.reload()
    expect(page.locator("#gates .headline")).to_have_text("3 gates deny a new entry.")
    expect(page.locator('#gates [data-gate="outside_session"]')).to_contain_text("session hoursclosed")
    expect(page.locator("#gates .gate-state").filter(has_text=re.compile("^(yes|no)$"))).to_have_count(0)


# --- for everyone -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (PHONE, "dark")], ids=["wide", "phone"])
def test_every_page_fits_is_legible_and_can_be_touched(
    open_page: Opener, journal: JournalRows, tmp_path: Path, size: tuple[int, int], scheme: str
) -> None:
    tab = open_page("now", READY["now"], size=size, scheme=scheme)
    grounds = set()
    for name, ready in READY.items():
        page = tab.open(route_of(name, journal), ready)
        assert tab.overflow() <= 0, name
        assert page.evaluate(SMALL) == [], name
        picture(page, f"{name}-{size[0]}", tmp_path)
        if name == "trades":
            for excursion in ("Worst", "Best"):
                expect(page.locator(f'#trips td[data-label="{excursion}"]').first).to_be_visible()
        for colours in ("light", "dark"):
            page.emulate_media(color_scheme="light" if colours == "light" else "dark")
            assert page.evaluate(CONTRAST) == [], (name, colours)
            grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.emulate_media(color_scheme="light" if scheme == "light" else "dark")
    assert grounds == {"rgb(244, 245, 247)", "rgb(14, 19, 24)"}


def test_everything_is_reached_by_the_keyboard_and_the_focus_is_seen(open_page: Opener, journal: JournalRows) -> None:
    page = open_page("now", READY["now"]).page
    page.wait_for_selector("#fills summary")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    count = page.evaluate(
        "() => [...document.querySelectorAll('a, button, select, summary, [tabindex=\\'0\\']')]"
        ".filter((n) => n.checkVisibility() && !n.closest('.skip')).length"
    )
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(count + 5):
        page.keyboard.press("Tab")
        focus = page.evaluate(
            "() => { const n = document.activeElement; const s = getComputedStyle(n);"
            " const name = n.tagName + n.id + n.textContent.slice(0, 60) + (n.getAttribute('aria-label') ?? '');"
            " return n === document.body ? null : [name, s.outlineStyle, parseFloat(s.outlineWidth)]; }"
        )
        if focus is not None and focus not in reached:
            reached.append(focus)
    assert len(reached) >= count
    assert all(style == "solid" and width >= 2 for _, style, width in reached)


def test_the_theme_is_chosen_and_remembered(open_page: Opener) -> None:
    page = open_page("health", READY["health"]).page
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    for _ in ("light", "dark"):
        page.locator("#theme").click()
    expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == dark


def test_a_page_has_one_heading_landmarks_and_one_polite_region(open_page: Opener) -> None:
    page = open_page("risk", READY["risk"]).page
    for name in ("main", "header", "nav", "footer", "h1"):
        assert page.locator(f"{name}:visible").count() == 1
    live = page.locator("[aria-live], [role=status], [role=alert]:visible").evaluate_all("all => all.map(n => n.id)")
    assert live == ["banner"]
    assert page.locator("th:not([scope])").count() == 0
    assert page.locator("html").get_attribute("lang") == "en"


def test_the_chart_library_is_the_one_that_its_readme_names() -> None:
    vendor = REPOSITORY / "daemon" / "dashboard" / "static" / "vendor"
    named_files = re.findall(r"\| `(\S+)` \| `([0-9a-f]{64})` \|", (vendor / "README.md").read_text())
    assert len(named_files) == 2
    for name, digest in named_files:
        assert hashlib.sha256((vendor / name).read_bytes()).hexdigest() == digest


def test_each_gate_says_what_it_looks_at_with_one_answer_for_each_verdict() -> None:
    text = (REPOSITORY / "daemon" / "dashboard" / "static" / "js" / "gates.js").read_text()
    answers = dict(re.findall(r'^  (\w+): \[".+", "(.+", ".+)"\],$', text, re.MULTILINE))
    assert set(answers) >= {gate.name for gate in GATES} | {"no_quote"}
    assert [name for name, verdicts in answers.items() if len(set(verdicts.split('", "'))) != 2] == []


def test_no_script_of_ours_reads_text_as_html() -> None:
    scripts = (REPOSITORY / "daemon" / "dashboard" / "static" / "js").glob("*.js")
    forbidden = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function")
    assert [path.name for path in scripts if forbidden.search(path.read_text())] == []


def test_a_wrong_address_is_one_sentence_with_a_link_and_several_desks_begin_with_the_fleet(
    open_page: Opener, browser: Browser, address: str
) -> None:
    def two(answer: Any) -> Any:
        lists_desks = isinstance(answer, list) and answer and "strategy" in answer[0]
        return [*answer, {**answer[0], "name": "other"}] if lists_desks else answer

    tab = open_page("", READY["fleet"], answers=answer_filter(two, lambda now: now))
    expect(tab.page.locator("h1")).to_have_text("Fleet")
    for route, sentence in (("nowhere", 'a page "nowhere"'), ("now?desk=nobody", 'a desk "nobody"')):
        page = tab.open(route, "main h1")
        expect(page.locator("main")).to_contain_text(f"This dashboard does not have {sentence}.")
        expect(page.locator("main a")).to_have_text("All desks")
    page = browser.new_page()
    page.goto(f"{address}/#/decision/99999999")
    expect(page.locator(".trouble")).to_have_text("This journal has no decision 99999999. All decisions")
    expect(page.locator("main section:visible")).to_have_count(0)
    page.close()


def test_a_desk_without_a_journal_says_so_and_claims_nothing(browser: Browser, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "daemon.dashboard", "--state-dir", str(tmp_path), "--port", "0"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        page = browser.new_page()
        page.goto(process.stdout.readline().split()[1] + "#/now")
        expect(page.locator("#clock")).to_have_text("no event yet")
        expect(page.locator(".trouble")).to_contain_text("no journal here")
        expect(page.locator("#banner")).to_be_empty()
        assert {value_of(page, name) for name in ("Equity", "P&L", "Drawdown", "Position", "Cash")} == {"–"}
        expect(page.locator("#position")).to_contain_text("What is held is not known.")
        assert value_of(page, "Broker") == "not heard yet"
        page.close()
    finally:
        end(process)
