"""What the dashboard says of a decision is what its fills did, on every page the same."""

from __future__ import annotations

import shutil
import sqlite3
from collections import defaultdict
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from daemon.core.session import NEW_YORK
from daemon.core.state import State
from daemon.dashboard.desks import FollowedDesk
from daemon.dashboard.pages.decisions import decisions_page
from daemon.dashboard.pages.now import now_of
from daemon.dashboard.views import DecisionsPage
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from strategies.daily_rebalancer import SPEC as DAILY
from strategies.kit.contract import Session
from tests.support.dashboards import Played, Served

ORDERS = "SELECT * FROM orders WHERE work LIKE ? || '.%'"
ACTED = "/api/decisions?limit=200&outcome=acted"


def fills_of(replay: Played, number: int) -> list[dict[str, Any]]:
    """A decision's fills, oldest first, with the order's purpose."""
    return replay.sql(
        "SELECT f.*, o.purpose, o.work FROM fills f JOIN orders o USING (client_order_id) "
        "WHERE o.work LIKE ? || '.%' ORDER BY f.filled_ns, f.cumulative",
        str(number),
    )


def test_the_realised_of_all_decisions_of_a_trade_is_its_profit_with_the_entry_s_fees(
    served: Served, replay: Played
) -> None:
    lines = {line["decision"]: line for line in served.json(ACTED)["lines"]}
    of_symbol: dict[str, list[int]] = defaultdict(list)
    cash: dict[int, float] = {}
    for number in sorted(lines):
        for fill in fills_of(replay, number):
            money = -fill["side"] * fill["quantity"] * float(fill["price"]) * 100 - float(fill["fees_usd"])
            cash[number] = cash.get(number, 0.0) + money
            of_symbol[fill["symbol"]] += [number] * (number not in of_symbol[fill["symbol"]])
    checked = 0
    for trade in replay.sql("SELECT * FROM trades WHERE left_ns IS NOT NULL"):
        fees = sum(float(fill["fees_usd"]) for fill in fills_of(replay, trade["entry_decision"]))
        assert lines[trade["entry_decision"]]["realised_usd"] == pytest.approx(-fees, abs=0.005)
        part = [n for n in of_symbol[trade["symbol"]] if trade["entry_decision"] <= n <= trade["exit_decision"]]
        earned = sum(cash[number] for number in part)
        assert sum(lines[number]["realised_usd"] for number in part) == pytest.approx(earned, abs=0.01 * len(part))
        assert lines[trade["exit_decision"]]["closed_usd"] == pytest.approx(earned, abs=0.005)
        assert lines[trade["entry_decision"]]["closed_usd"] is None
        checked += 1
    assert checked > 2


def test_a_decision_says_what_its_orders_did_and_a_trim_is_no_exit(served: Served, replay: Played) -> None:
    positions: dict[str, int] = defaultdict(int)
    expected = {}
    for line in reversed(served.json(ACTED)["lines"]):
        number = line["decision"]
        fills = fills_of(replay, number)
        if not fills:
            statuses = [order["status"] for order in replay.sql(ORDERS, str(number))]
            works = not {"canceled", "expired", "filled", "rejected"} >= set(statuses)
            expected[number] = "no_order" if not statuses else "working" if works else "not_filled"
            continue
        for fill in fills:
            positions[fill["symbol"]] += fill["side"] * fill["quantity"]
        first = min(served.json(f"/api/decision/{number}")["orders"], key=lambda order: order["client_order_id"])
        whole = sum(fill["quantity"] for fill in fills) >= first["quantity"]
        exit_outcome = "exited" if positions[fills[-1]["symbol"]] == 0 else "trimmed"
        outcome = "filled" if fills[0]["purpose"] == "entry" else exit_outcome
        expected[number] = outcome if whole else "partly_filled"
    assert {"partly_filled", "exited", "trimmed"} <= set(expected.values())
    outcomes = {line["decision"]: line["became"] for line in served.json(ACTED)["lines"]}
    newest = max(expected)  # its work is under way where the tape ends
    assert {number: outcome for number, outcome in outcomes.items() if number != newest} == {
        number: outcome for number, outcome in expected.items() if number != newest
    }
    assert outcomes[newest] == "working"
    trimmed = next(number for number, outcome in expected.items() if outcome == "trimmed")
    assert served.json(f"/api/decision/{trimmed}")["line"]["became"] == "trimmed"


def numbers(page: DecisionsPage) -> tuple[int | None, int]:
    return page.total, page.of


def test_a_stop_that_rests_is_among_the_orders_and_no_decision_of_a_page(replay: Played, tmp_path: Path) -> None:
    """A desk of fifty shares rests fifty of them a day."""
    before = now_of(FollowedDesk("desk", replay.path).look())
    shutil.copyfile(replay.path / FILE, tmp_path / FILE)
    newest, later = replay.sql("SELECT max(decision) AS n, max(time_ns) + 1 AS t FROM decisions")[0].values()
    decision = {
        "decision": newest + 1, "kind": "rule", "bar_ns": later, "time_ns": later, "action": "resting_stop",
        "resolved": "REST", "work": f"{newest + 1}.2", "outcome": "ordered",
    }  # fmt: skip
    order = {
        "client_order_id": f"e-s-{newest + 1}-2-0", "work": f"{newest + 1}.2", "purpose": "protection",
        "reason": "resting_stop", "symbol": "SPY", "side": -1, "quantity": 10, "limit_price": None,
        "status": "accepted", "filled": 0, "cost": "0", "fees_usd": "0", "submitted_ns": later, "updated_ns": later,
    }  # fmt: skip
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        for table, row in (("decisions", decision), ("orders", order)):
            places = ", ".join("?" * len(row))
            db.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", tuple(row.values()))
        db.commit()
    picture = FollowedDesk("desk", tmp_path).look()
    now = now_of(picture)
    assert now.acted is not None
    assert before.acted is not None
    assert (now.decision, now.acted.decision) == (before.decision, before.acted.decision)
    with closing(JournalReader(tmp_path / FILE)) as copy, closing(JournalReader(replay.path / FILE)) as played:
        pages = [decisions_page(picture, reader, 0, 5, "") for reader in (copy, played)]
    assert [(page.lines[0].decision, page.total, page.of) for page in pages] == [(newest, *numbers(pages[1]))] * 2


def test_the_state_now_has_the_newest_decision_and_the_newest_with_orders_each_with_its_reason(
    served: Served, replay: Played, tmp_path: Path
) -> None:
    last = replay.sql("SELECT max(decision) AS n FROM decisions WHERE work <> ''")[0]["n"]
    assert served.json("/api/now")["acted"]["decision"] == last
    shutil.copyfile(replay.path / FILE, tmp_path / FILE)
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        row = {"kind": "policy", "bar_ns": 1, "time_ns": 1, "action": "HOLD", "resolved": "HOLD", "outcome": "hold"}
        db.execute(
            f"INSERT INTO decisions (decision, {', '.join(row)}) VALUES (?{', ?' * len(row)})",
            (last + 1, *row.values()),
        )
        db.commit()
    now = now_of(FollowedDesk("desk", tmp_path).look())
    assert now.acted is not None
    assert (now.decision, now.became, now.acted.decision) == (last + 1, "hold", last)
    denied = replay.sql("SELECT * FROM decisions WHERE outcome = 'denied' ORDER BY decision DESC LIMIT 1")[0]
    line = served.json(f"/api/decision/{denied['decision']}")["line"]
    assert line["why"][0].startswith("Denied: ")
    other = replay.sql("SELECT * FROM decisions WHERE outcome = 'hold' AND action <> resolved LIMIT 1")[0]
    (why,) = served.json(f"/api/decision/{other['decision']}")["line"]["why"]
    action = other["action"].replace("_", " ").lower()
    assert why == f"With what was held then, {action} means {other['resolved'].lower()}."
    hold = replay.sql("SELECT * FROM decisions WHERE outcome = 'hold' AND action = resolved LIMIT 1")[0]
    line = served.json(f"/api/decision/{hold['decision']}")["line"]
    assert line["why"] == ["No order was wanted: nothing is to change."]


def test_the_list_counts_those_that_a_filter_leaves_out(served: Served, replay: Played) -> None:
    every = replay.sql("SELECT count(*) AS n FROM decisions")[0]["n"]
    page = served.json("/api/decisions?outcome=acted")
    acted = replay.sql("SELECT count(*) AS n FROM decisions WHERE outcome IN ('ordered', 'exit')")[0]["n"]
    assert (page["total"], page["of"]) == (acted, every)
    assert served.json("/api/decisions")["of"] == every


@pytest.mark.parametrize(("bar", "ends"), [(29, "13:00"), (27, "16:00")])  # the day after Thanksgiving closes early
def test_the_newest_daily_bar_of_a_half_day_ends_with_its_session(replay: Played, bar: int, ends: str) -> None:
    picture = FollowedDesk("desk", replay.path).look()
    state: State[Any] | None = picture.state
    assert state is not None

    def at(day: int, time: str) -> int:
        return int(datetime.fromisoformat(f"2024-11-{day}T{time}").replace(tzinfo=NEW_YORK).timestamp()) * 10**9

    half = Session("2024-11-29", at(29, "09:30"), at(29, "13:00"))
    state = replace(state, session=replace(state.session, session=half, last_bar_ns=at(bar, "00:00")))
    meta = {**picture.meta, "strategy": DAILY.name, "symbols": "", "config": ""}
    now = now_of(replace(picture, state=state, meta=meta))
    assert (now.last_bar, now.bars_are_days) == (at(bar, ends) / 1e9, True)
