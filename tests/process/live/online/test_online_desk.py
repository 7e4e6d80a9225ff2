"""A half day of `online_dqn` at the loopback Alpaca, two funds by the minute, with troubles; both books in the end.

The daemon is a real process in virtual time; it is killed once. What is expected is the server's own book, its tape and
New York's wall clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from simulator.trading.account import Account
from strategies.kit.units import MINUTE_NS, SECOND_NS
from strategies.online_dqn import NO_BAR
from tests.support.desks.desk_run import records, verified
from tests.support.desks.live_desk import Books, differences
from tests.support.desks.online_day import HALF_DAY, SYMBOLS, minute_ns, online_stage
from tests.support.desks.stage import Stage, new_york_ns
from tests.support.models.online_models import put_momentum

LATE, LOST, KILLED = 40, range(60, 65), 90  # minutes: QQQ's bar comes late; its bars are lost; the daemon is killed
CLOSE_NS = new_york_ns(HALF_DAY, "13:00")
TICK_S = 2  # of the clock, at most


@dataclass(frozen=True, slots=True)
class Lived:
    """The half day that was lived through."""

    stage: Stage
    exit_code: int | None
    books: Books

    @property
    def account(self) -> Account:
        return self.stage.account

    def rows(self, name: str, order: str = "decision") -> list[Any]:
        """A read model's rows."""
        return records(self.stage.state_dir, name, order)

    def decided(self) -> dict[int, Any]:
        """The policy's decisions by the minute of their bar."""
        rows = [row for row in self.rows("decisions") if row["kind"] == "policy"]
        return {(row["bar_ns"] - minute_ns(0)) // MINUTE_NS: row for row in rows}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    folder = tmp_path_factory.mktemp("online")
    with online_stage("09:10", folder / "stage", put_momentum(folder / "store")) as desk:
        add = desk.server.server.faults.add
        desk.server.call(lambda: add("bar_late", where={"symbol": "QQQ", "start_ns": minute_ns(LATE)}, delay_s=9))
        for minute in LOST:
            where = {"symbol": "QQQ", "start_ns": minute_ns(minute)}
            desk.server.call(lambda where=where: add("bar_gap", where=where))
        desk.start()
        desk.until_time(minute_ns(KILLED))
        desk.until_true(lambda: bool(desk.held()), "a share is held")
        desk.daemons[-1].kill()
        desk.daemons[-1].wait(10)
        desk.clock.pass_s(30.0)
        desk.start()
        desk.until_time(new_york_ns(HALF_DAY, "13:15"))
        desk.daemons[-1].terminate()
        yield Lived(desk, desk.daemons[-1].wait(60), desk.books())


def test_after_the_half_day_both_books_agree_to_the_cent(session: Lived) -> None:
    assert session.exit_code == 0, session.stage.log()[-3000:]
    assert {trade.symbol for trade in session.account.trades} == set(SYMBOLS)
    assert len(session.account.trades) > 40
    assert differences(session.books, session.account) == []
    assert session.books.state.risk.halt is None


def test_no_order_name_is_posted_twice_though_the_daemon_was_killed_while_it_held_shares(session: Lived) -> None:
    names = [post["client_order_id"] for post in session.stage.posts()]
    assert len(names) == len(set(names))
    assert len(session.stage.read_log("run_started")) == 2


def test_the_journal_of_both_lives_replays_identically(session: Lived) -> None:
    proof = verified(session.stage.state_dir)
    assert proof.difference == ""


def test_all_is_sold_five_minutes_before_the_close(session: Lived) -> None:
    assert session.account.positions == {}
    last = max(trade.time_ns for trade in session.account.trades)
    assert last < CLOSE_NS - 5 * MINUTE_NS
    assert not [
        trade for trade in session.account.trades if trade.quantity > 0 and trade.time_ns > CLOSE_NS - 29 * MINUTE_NS
    ]


def test_what_it_bought_had_a_stop_at_the_broker_by_default_and_none_is_left(session: Lived) -> None:
    """Shares with a stop-loss of 1 %: 1.5 % below the price paid, until it is cancelled."""
    stops = [order for order in session.account.orders.values() if order.type == "stop"]
    assert {order.symbol for order in stops} == {t.symbol for t in session.account.trades if t.quantity > 0}
    for order in stops:
        assert order.stop_price is not None
        prices = [float(t.price) for t in session.account.trades if t.symbol == order.symbol and t.quantity > 0]
        assert min(prices) * 0.9849 < float(order.stop_price) < max(prices) * 0.9851
    assert [order for order in stops if order.open] == []


def test_every_order_but_a_stop_is_for_the_day_buys_with_a_limit_above_the_ask_of_their_moment(session: Lived) -> None:
    stops = [order for order in session.account.orders.values() if order.type == "stop"]
    for order in session.account.orders.values():
        assert order.time_in_force == ("gtc" if order in stops else "day")
        if order.side == "buy":
            quote = session.stage.market.quote(order.symbol, order.created_ns)
            assert quote is not None
            assert order.limit_price is not None
            assert float(quote[1]) * 0.99 < float(order.limit_price) <= float(quote[1]) * 1.01


def test_a_fall_of_one_percent_leaves_by_the_stop_between_two_bars(session: Lived) -> None:
    stops = [row for row in session.rows("decisions") if row["action"] == "stop_loss"]
    assert stops
    works = {row["work"] for row in stops}
    exits = [row for row in session.books.orders.values() if row["work"] in works]
    assert exits
    assert all(row["limit_price"] is None for row in exits)  # an exit by a rule goes to the market
    assert any((row["time_ns"] - minute_ns(0)) % MINUTE_NS < 45 * SECOND_NS for row in stops)


def test_a_minute_whose_second_bar_is_late_is_decided_five_seconds_after_its_end_without_it(session: Lived) -> None:
    row = session.decided()[LATE]
    waited = row["time_ns"] - row["bar_ns"] - MINUTE_NS
    assert 5 * SECOND_NS <= waited <= (5 + TICK_S) * SECOND_NS
    notes = {
        row["symbol"]: row["note"]
        for row in session.rows("heads")
        if row["decision"] == session.decided()[LATE]["decision"]
    }
    assert notes["QQQ"] == NO_BAR
    whole = session.decided()[LATE - 1]
    assert whole["time_ns"] - whole["bar_ns"] - MINUTE_NS < 5 * SECOND_NS


def test_while_one_symbol_is_lost_the_other_is_decided_and_the_lost_bars_come_over_rest(
    session: Lived,
) -> None:
    decided = session.decided()
    assert set(LOST) <= decided.keys()
    by_decision = {row["decision"] for minute, row in decided.items() if minute in LOST}
    choices = [row for row in session.rows("choices") if row["decision"] in by_decision and row["symbol"] == "QQQ"]
    assert all(json.loads(row["allowed"]) == ["HOLD"] for row in choices)
    starts = [
        event["bar"]["start_ns"] for event in session.stage.journaled("BarClosed") if event["bar"]["symbol"] == "QQQ"
    ]
    assert {minute_ns(minute) for minute in range(210)} <= set(starts)
    assert len(starts) == len(set(starts))
    assert {entry["symbol"] for entry in session.stage.read_log("repaired")} >= {"QQQ"}
