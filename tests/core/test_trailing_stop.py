"""A trailing stop, which the broker's stop follows, and a time stop.

The desk is `tests.support.core.two_shares`: it bought ten shares of each symbol at 100 USD. Its own stop is 30 % below
the price paid, its trailing stop 10 % below the highest price since; with a distance of 1.5 the broker's is 15 % below
that price: 85 USD at first, 102 USD once the price was 120.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core import events as ev
from daemon.core.broker.protection import cover_of
from daemon.core.draft import Draft
from daemon.core.effects import AnyEffect, CancelOrder, SubmitOrder
from daemon.core.limits import Sizing, Trading
from daemon.core.records import DecisionRow
from daemon.core.risk.guards import reached_stop
from daemon.core.state import Position, encode_state
from daemon.core.strategy_rules import desk_keys, rules_digest, trading_for, with_rules
from tests.support.core.account import Account, at_broker, line
from tests.support.core.desk import BUY_CALL, CALL, MONDAY, SECOND, of
from tests.support.core.desk import quote as option_quote
from tests.support.core.resting import LIMITED, RESTS, protected, sales, stops
from tests.support.core.two_shares import RULES, Desk
from tests.support.examples import examples

CALM = Sizing(stop_loss=0.3, take_profit=9.0)
TRAILING = replace(CALM, trailing_stop=0.1)
PATIENT = replace(RULES, broker=replace(RULES.broker, on_blind="alarm"))  # no quotes and reports in most of the time
TRAILS = replace(RESTS, sizing=TRAILING, broker=PATIENT.broker)
HELD = Position("SPY", 0, 10, Decimal(1000), 1, 0, "")


def price(desk: Desk, minute: int, second: float, usd: str, symbol: str = "SPY") -> list[AnyEffect]:
    """One quote whose middle is this price."""
    now, middle = desk.at(minute, second), Decimal(usd)
    quote = ev.Quote(symbol, middle - Decimal("0.01"), middle + Decimal("0.01"), middle, middle, now)
    return desk.put(ev.QuotesReceived(now, 0, (quote,)))


def climbs(desk: Desk, minute: int, *usd: str) -> list[AnyEffect]:
    """Each price is quoted twice, two seconds apart, so that none waits for another quote."""
    effects: list[AnyEffect] = []
    for step, usd_price in enumerate(usd):
        effects += price(desk, minute, 10 + 4 * step, usd_price) + price(desk, minute, 12 + 4 * step, usd_price)
    return effects


def rule_rows(desk: Desk, *events: ev.Event) -> list[str]:
    rows = []
    for event in events:
        step = desk.core.step(desk.state, event)
        desk.state = step.state
        rows += [row.action for row in step.rows if isinstance(row, DecisionRow) and row.kind == "rule"]
    return [row for row in rows if row is not None]


# --- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("high", "low", "stop_loss", "reason"),
    [
        ("120", "108.01", 0.3, ""),
        ("120", "108.00", 0.3, "trailing_stop"),  # 120 x 0.9
        ("", "90.01", 0.3, ""),  # no price was above the 100 paid
        ("", "90.00", 0.3, "trailing_stop"),
        ("", "95.00", 0.05, "stop_loss"),  # the nearer one, which the price met first
        ("120", "50.00", 0.05, "trailing_stop"),
    ],
)
def test_of_two_stops_the_higher_one_leaves(high: str, low: str, stop_loss: float, reason: str) -> None:
    position = msgspec.structs.replace(HELD, high=Decimal(high)) if high else HELD
    quote = ev.Quote("SPY", Decimal(low), Decimal(low), Decimal(low), Decimal(low), 0)
    assert reached_stop(position, quote, replace(TRAILING, stop_loss=stop_loss)) == reason


def test_a_fall_of_a_tenth_from_the_highest_confirmed_price_leaves() -> None:
    desk = Desk(replace(RULES, sizing=TRAILING))
    desk.holds()
    climbs(desk, 2, "104", "108", "112", "116", "120")
    assert desk.state.book.positions["SPY"].high == 120
    assert sales(climbs(desk, 3, "114", "109", "108.01")) == []
    (sale,) = sales(price(desk, 4, 0, "108.00"))
    assert (sale.symbol, sale.quantity) == ("SPY", 10)


def test_one_stray_quote_moves_neither_the_high_nor_the_desk() -> None:
    desk = Desk(replace(RULES, sizing=TRAILING))
    desk.holds()
    climbs(desk, 2, "104")
    assert sales(price(desk, 3, 0, "150") + price(desk, 3, 2, "104") + price(desk, 3, 4, "60")) == []
    assert desk.state.book.positions["SPY"].high == 104


def test_the_high_ends_with_the_position() -> None:
    desk = Desk(replace(RULES, sizing=TRAILING))
    desk.holds()
    climbs(desk, 2, "104", "108", "112", "116", "120")
    (sale,) = sales(climbs(desk, 3, "114", "108"))
    name = desk.account.take(sale, desk.state.now_ns)
    desk.put(desk.account.fill(name, 10, "108", desk.at(3, 50)), desk.account.report(desk.at(3, 51)))
    assert "SPY" not in desk.state.book.positions
    desk.bar(5, "SPY", 108)
    desk.bar(5, "QQQ", 100)
    desk.answer(1.0, 1.0)
    (again,) = of(price(desk, 6, 2, "108"), SubmitOrder)
    desk.put(desk.account.fill(desk.account.take(again, desk.at(6, 2)), 10, "108", desk.at(6, 3)))
    climbs(desk, 7, "109")
    assert desk.state.book.positions["SPY"].high == 109


def test_without_the_keys_nothing_of_them_is_encoded_and_every_digest_stays() -> None:
    desk, bare = Desk(replace(RULES, sizing=Sizing(trailing_stop=0.0, time_stop_min=0))), Desk(RULES)
    assert encode_state(desk.state) == encode_state(bare.state)
    desk.holds()
    climbs(desk, 2, "104", "108")
    assert b"trailing" not in encode_state(desk.state)
    assert b"time_stop" not in encode_state(desk.state)
    assert b'"high"' not in msgspec.json.encode(desk.state.book)
    usual = trading_for("option_scalper")
    assert rules_digest(usual) == rules_digest(replace(usual, sizing=replace(usual.sizing, trailing_stop=0.0)))
    assert rules_digest(usual) != rules_digest(replace(usual, sizing=replace(usual.sizing, trailing_stop=0.1)))


def test_a_manifest_s_keys_bring_the_stops_back() -> None:
    usual = trading_for("option_scalper")
    rules = replace(usual, sizing=replace(usual.sizing, trailing_stop=0.1, time_stop_min=30))
    keys = desk_keys("option_scalper", rules)
    assert keys == {"sizing.trailing_stop": "0.1", "sizing.time_stop_min": "30"}
    assert with_rules(usual, keys) == rules


def test_a_snapshot_keeps_the_high() -> None:
    desk = Desk(replace(RULES, sizing=TRAILING))
    desk.holds()
    climbs(desk, 2, "104", "108")
    again = desk.core.decoder().decode(encode_state(desk.state))
    assert again == desk.state
    assert again.book.positions["SPY"].high == 108


def test_a_journal_of_before_goes_on_with_the_price_paid_as_its_first_high() -> None:
    desk = Desk(RULES)
    desk.holds()
    climbs(desk, 2, "104", "108")
    rules = replace(RULES, sizing=TRAILING)
    desk.put(ev.RunStarted(desk.at(3), "live", "d", "share_bars", "e1", "c", "sip", rules))
    desk.put(desk.account.report(desk.at(3, 1)))
    assert sales(climbs(desk, 4, "105")) == []
    assert desk.state.book.positions["SPY"].high == 105


# --- time -------------------------------------------------------------------------------------------------------------


def test_a_position_is_left_after_its_minutes_and_not_before() -> None:
    desk = Desk(replace(PATIENT, sizing=replace(CALM, time_stop_min=30)))
    desk.holds()
    opened_ns = desk.state.book.positions["SPY"].opened_ns
    due = opened_ns + 30 * 60 * SECOND
    assert rule_rows(desk, ev.ClockTicked(due - SECOND)) == []
    assert rule_rows(desk, ev.ClockTicked(due)) == ["time_stop", "time_stop"]  # both symbols were bought at once
    assert rule_rows(desk, ev.ClockTicked(due + 1)) == []


def test_minutes_before_the_open_do_not_count() -> None:
    desk = Desk(replace(PATIENT, sizing=replace(CALM, time_stop_min=30)))
    desk.holds()
    position = desk.state.book.positions["SPY"]
    early = msgspec.structs.replace(position, opened_ns=MONDAY.open_ns)
    book = msgspec.structs.replace(desk.state.book, positions={"SPY": early})
    desk.state = msgspec.structs.replace(desk.state, book=book)
    assert rule_rows(desk, ev.ClockTicked(MONDAY.open_ns + 30 * 60 * SECOND - SECOND)) == []
    assert rule_rows(desk, ev.ClockTicked(MONDAY.open_ns + 30 * 60 * SECOND)) == ["time_stop"]


# --- the stop at the broker -------------------------------------------------------------------------------------------


def end_stop(desk: Desk, name: str, minute: int, second: float) -> list[AnyEffect]:
    """The stop's cancel is answered, and a report says what is free."""
    desk.account.end(name)
    effects = desk.put(ev.OrderCanceled(desk.at(minute, second), name))
    return effects + desk.put(desk.account.report(desk.at(minute, second + 1))) + desk.tick(minute, second + 2)


def cancelled(effects: list[AnyEffect]) -> list[str]:
    return [effect.client_order_id for effect in of(effects, CancelOrder)]


def test_the_resting_stop_follows_the_highest_price_and_there_is_never_a_second_one() -> None:
    desk, names = protected(TRAILS)
    assert {order.stop_price for order in desk.state.orders.values()} == {Decimal("85.00")}
    effects = climbs(desk, 2, "104", "108", "112", "116", "120")
    assert cancelled(effects) == [names["SPY"]]
    assert stops(effects) == []  # the old one still works
    effects = end_stop(desk, names["SPY"], 2, 31)
    assert [(stop.symbol, stop.quantity, stop.stop_price) for stop in stops(effects)] == [
        ("SPY", 10, Decimal("102.00"))
    ]
    assert cover_of(Draft(desk.state, desk.core.desk))["SPY"].stop == Decimal("102.00")  # what a guard is told


def test_it_never_goes_down() -> None:
    desk, names = protected(TRAILS)
    climbs(desk, 2, "104", "108", "112", "116", "120")
    desk.take(list(stops(end_stop(desk, names["SPY"], 2, 31))))
    effects = climbs(desk, 5, "116", "112", "110") + desk.tick(6, 0) + desk.tick(9, 0)
    assert (cancelled(effects), stops(effects), sales(effects)) == ([], [], [])


def test_it_moves_at_most_once_a_minute() -> None:
    desk, names = protected(TRAILS)
    climbs(desk, 2, "104", "108", "112", "116", "120")
    (name,) = desk.take(list(stops(end_stop(desk, names["SPY"], 2, 31))))
    rested_ns = desk.state.orders[name].submitted_ns
    effects = (
        climbs(desk, 2, "124", "128", "132") if rested_ns < desk.at(2, 10) else climbs(desk, 3, "124", "128", "132")
    )
    assert cancelled(effects) == []
    early = (rested_ns - desk.at(0)) / SECOND + 59
    assert cancelled(desk.tick(0, early)) == []
    assert cancelled(desk.tick(0, early + 1)) == [name]


def test_after_a_restart_it_rests_where_it_was_and_follows_on() -> None:
    desk, names = protected(TRAILS)
    climbs(desk, 2, "104", "108", "112", "116", "120")
    (name,) = desk.take(list(stops(end_stop(desk, names["SPY"], 2, 31))))
    desk.state = desk.core.decoder().decode(encode_state(desk.state))
    desk.put(ev.RunStarted(desk.at(4), "live", "d", "share_bars", "e1", "c", "sip", TRAILS))
    effects = desk.put(desk.account.report(desk.at(4, 1))) + desk.tick(4, 5)
    assert (cancelled(effects), stops(effects)) == ([], [])
    assert cancelled(climbs(desk, 5, "119", "123", "127")) == [name]


def test_a_part_that_the_stop_sold_leaves_the_rest_a_stop_that_follows() -> None:
    desk, names = protected(TRAILS)
    desk.put(desk.account.fill(names["SPY"], 4, "85", desk.at(1, 30)), desk.account.report(desk.at(1, 32)))
    effects = climbs(desk, 2, "104", "108", "112", "116", "120")
    assert cancelled(effects) == [names["SPY"]]
    effects = end_stop(desk, names["SPY"], 2, 31)
    assert [(stop.quantity, stop.stop_price) for stop in stops(effects)] == [(6, Decimal("102.00"))]


def test_a_split_divides_the_high() -> None:
    """Four for one: 40 shares at 25 paid, 30 the highest price; the stops are at 27 and 25.50."""
    desk, names = protected(TRAILS)
    climbs(desk, 2, "104", "108", "112", "116", "120")
    desk.take(list(stops(end_stop(desk, names["SPY"], 2, 31))))
    desk.account.positions["SPY"] = (40, Decimal(25))
    desk.account.book(line("SPLIT", "SPY", 30))
    desk.put(desk.account.report(desk.at(4)))
    position = desk.state.book.positions["SPY"]
    assert [position.quantity, position.high, desk.state.marks["SPY"]] == [40, 30, 30]
    assert cover_of(Draft(desk.state, desk.core.desk))["SPY"].stop in (Decimal("25.50"), None)


def test_shares_of_others_stay_out_of_it() -> None:
    rules = replace(TRAILS, broker=replace(TRAILS.broker, foreign_orders="ignore"))
    desk, names = protected(rules)
    desk.account.positions["SPY"] = (15, Decimal(100))
    desk.account.cash -= 500
    desk.put(desk.account.report(desk.at(1, 30)), desk.account.report(desk.at(1, 45)))
    climbs(desk, 2, "104", "108", "112", "116", "120")
    assert [stop.quantity for stop in stops(end_stop(desk, names["SPY"], 2, 31))] in ([10], [])


def test_while_the_symbol_is_halted_the_stop_stays() -> None:
    """No quote comes: nothing moves, however long."""
    desk, names = protected(TRAILS)
    climbs(desk, 2, "104", "108")
    desk.state = msgspec.structs.replace(desk.state, quotes={})
    effects = desk.tick(8, 0) + desk.tick(20, 0)
    assert names["SPY"] not in cancelled(effects)
    assert stops(effects) == []


PRICES = st.lists(st.integers(9_200, 13_500), min_size=1, max_size=12)


@settings(max_examples=examples(60), deadline=None)
@given(PRICES, st.lists(st.integers(0, 90), min_size=12, max_size=12))
def test_whatever_the_prices_the_stops_never_cover_more_than_is_held_and_only_rise(
    cents: list[int], waits: list[int]
) -> None:
    desk, _ = protected(TRAILS)
    second, newest = 90.0, Decimal("85.00")
    for price_cents, wait in zip(cents, waits, strict=False):
        usd = str(Decimal(price_cents) / 100)
        for _ in range(2):
            second += 2
            _serve(desk, price(desk, 0, second, usd))
        second += wait
        _serve(desk, desk.tick(0, second))
        spy_sells = [order for order in desk.state.orders.values() if order.symbol == "SPY" and order.side < 0]
        assert sum(order.remaining for order in spy_sells) <= 10
        resting = [order.stop_price for order in spy_sells if order.purpose == "protection"]
        for level in resting:
            assert isinstance(level, Decimal)
            assert level >= newest
            newest = level


def _serve(desk: Desk, effects: list[AnyEffect]) -> None:
    """The broker answers at once."""
    for effect in effects:
        if isinstance(effect, CancelOrder) and effect.client_order_id in desk.account.orders:
            desk.account.end(effect.client_order_id)
            _serve(desk, desk.put(ev.OrderCanceled(desk.state.now_ns + 1, effect.client_order_id)))
            _serve(desk, desk.put(desk.account.report(desk.state.now_ns + 2)))
        elif isinstance(effect, SubmitOrder):
            desk.take([effect])


# --- options ----------------------------------------------------------------------------------------------------------


def test_an_option_s_stop_follows_its_narrow_quotes_and_never_a_wide_one() -> None:
    account = Account()
    sizing = Sizing(max_contracts=9, stop_loss=0.3, take_profit=9.0, trailing_stop=0.2)
    desk = at_broker(account, trading=Trading(protection=LIMITED, sizing=sizing))
    desk.bar(0)
    name = account.take(next(iter(of(desk.answer(BUY_CALL), SubmitOrder))), desk.state.now_ns)
    desk.put(account.fill(name, 9, "2.00", desk.at(1)))
    desk.confirmed(1, option_quote(CALL, "1.98", "2.02"), second=5)
    (stop,) = stops(desk.effects)
    assert stop.stop_price == Decimal("1.40")  # 30 % below the 2.00 paid: 1.5 times the trailing stop's 20 %
    account.take(stop, desk.state.now_ns)
    desk.accept(stop.client_order_id)
    desk.effects.clear()
    desk.confirmed(3, option_quote(CALL, "1.00", "9.00"))  # a middle of 5 that nobody pays
    assert desk.state.book.positions[CALL].high is msgspec.UNSET or desk.state.book.positions[CALL].high == 2
    assert cancelled(desk.effects) == []
    for minute, bid in ((4, "2.18"), (5, "2.38"), (6, "2.48")):
        desk.confirmed(minute, option_quote(CALL, bid, str(Decimal(bid) + Decimal("0.04"))))
    assert desk.state.book.positions[CALL].high == Decimal("2.50")
    assert cancelled(desk.effects) == [stop.client_order_id]
