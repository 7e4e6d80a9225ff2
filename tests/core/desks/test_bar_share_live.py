"""A desk of two shares by the minute at a real broker: entries that do not fill, exits without quotes, lost bars.

Every expected value is read off the written rules: seconds of `execution`, the wait of a minute, parts of a price.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from msgspec.structs import replace as replaced

from daemon.core import events as ev
from daemon.core.effects import AnyEffect, AskPolicy, CancelOrder, RaiseAlarm, SubmitOrder
from daemon.core.limits import Broker
from strategies.kit.contract import Bar
from strategies.kit.quantity import Quantity
from tests.support.core.account import line
from tests.support.core.daily_desk import MIDNIGHT
from tests.support.core.desk import MINUTE, MONDAY, SESSIONS, TUESDAY, of
from tests.support.core.two_shares import RULES, SECOND, SYMBOLS, Desk


def test_a_minute_is_asked_about_once_when_both_bars_are_there() -> None:
    d = Desk()
    assert of(d.bar(0, "SPY"), AskPolicy) == []
    assert len(of(d.bar(0, "QQQ"), AskPolicy)) == 1
    assert d.state.basket.newest == dict.fromkeys(SYMBOLS, d.at(0))


def test_a_minute_with_one_bar_waits_five_seconds_and_its_late_bar_joins_the_history_only() -> None:
    d = Desk()
    d.bar(0, "SPY")
    assert of(d.tick(1, 4.9), AskPolicy) == []
    assert len(of(d.tick(1, 5.0), AskPolicy)) == 1
    late = ev.BarClosed(d.at(1, 9.0), Bar("QQQ", d.at(0), 100.0, 100.0, 100.0, 100.5, 1000.0))
    assert of(d.put(late, ev.QuotesReceived(d.at(1, 9.0), d.at(0), ())), AskPolicy) == []
    assert d.state.strategy.rows == ((100.5, 0.0),)
    assert d.state.basket.newest["QQQ"] == d.at(0)


def test_a_buy_is_a_limit_above_the_ask_and_is_given_up_after_its_deadline() -> None:
    d = Desk()
    d.minute(0)
    effects = d.answer(1.0, 0.0)
    (order,) = of(effects, SubmitOrder)
    assert (order.symbol, order.side, order.quantity) == ("SPY", 1, 10)
    assert order.limit_price == Decimal("100.23")  # 100.02 x 1.002, rounded up to a cent
    (first,) = d.take(effects)
    begun_s = (d.state.now_ns - d.at(1)) / SECOND
    assert [c.client_order_id for c in of(d.tick(1, begun_s + 60.0), CancelOrder)] == [first]
    d.account.end(first)
    now = d.at(1, begun_s + 61.0)
    again = d.put(d.account.found(first, now), ev.QuotesReceived(now, 0, (d.quote("SPY", now),)))
    (second,) = d.take(again)
    assert [c.client_order_id for c in of(d.tick(1, begun_s + 180.0), CancelOrder)] == [second]
    d.account.end(second)
    now = d.at(1, begun_s + 181.0)
    last = d.put(d.account.found(second, now), ev.QuotesReceived(now, 0, (d.quote("SPY", now),)))
    assert of(last, SubmitOrder) == []
    assert d.state.works == {}


def test_a_sale_of_the_policy_goes_below_the_bid_and_without_any_quote_to_the_market() -> None:
    d = Desk()
    d.holds()
    d.minute(1)
    quoted = of(d.answer(0.0, 1.0), SubmitOrder)
    assert [(o.symbol, o.side, o.limit_price) for o in quoted] == [("SPY", -1, Decimal("99.80"))]

    d = Desk()
    d.holds()
    for minute in range(1, 4):
        d.minute(minute, quoted=False)  # bars alone: the last quotes are two minutes old
    assert of(d.answer(0.0, 1.0), SubmitOrder) == []
    assert of(d.tick(4, 5.9), SubmitOrder) == []
    (order,) = of(d.tick(4, 6.0), SubmitOrder)
    assert (order.symbol, order.side, order.quantity, order.limit_price) == ("SPY", -1, 10, None)


def test_shares_that_their_exchange_halted_are_not_offered_at_the_market_before_they_trade_again() -> None:
    d = Desk(overnight=True)
    d.holds()
    d.put(ev.TradingStatusChanged(d.at(1, 10), "SPY", True, "LULD"))
    effects = d.put(ev.FlattenRequested(d.at(1, 20), "by hand", "ann"))
    effects += [effect for second in range(21, 60) for effect in d.tick(1, second)]
    assert [order.symbol for order in of(effects, SubmitOrder)] == ["QQQ"]
    d.put(ev.TradingStatusChanged(d.at(6), "SPY", False, "resumed"))
    assert of(d.tick(6, 4.9), SubmitOrder) == []
    assert [(order.symbol, order.quantity) for order in of(d.tick(6, 5.0), SubmitOrder)] == [("SPY", 10)]


@pytest.mark.parametrize(("price", "limit"), [("93", "95.01"), ("107", "105.01")])  # 5 % below 100.01, and above
def test_a_sale_of_the_policy_leaves_though_a_person_s_shares_keep_the_price_from_being_believed(
    price: str, limit: str
) -> None:
    d = Desk(replace(RULES, broker=Broker(on_blind="alarm")))
    d.holds()
    d.account.by_hand("ann-1", "SPY", 1, 4, d.at(1, 10))
    d.account.fill("ann-1", 4, "100", d.at(1, 11))
    d.put(d.account.report(d.at(1, 12)))
    for symbol, close in (("SPY", float(price)), ("QQQ", 100.0)):  # beyond the collar of 5 %
        now = d.at(2, 1.0)
        quoted = (d.quote(symbol, now - SECOND // 2, str(close)),)
        d.put(ev.BarClosed(now, Bar(symbol, d.at(1), close, close, close, close, 1000.0)))
        d.put(ev.QuotesReceived(now, d.at(1), quoted))
    effects = d.answer(-1.0, 1.0)
    for second in range(2, 14):
        now = d.at(2, second)
        effects += d.put(ev.QuotesReceived(now, 0, (d.quote("SPY", now, price),)))
    (sale,) = of(effects, SubmitOrder)
    assert (sale.symbol, sale.quantity, sale.limit_price) == ("SPY", 10, Decimal(limit))


def test_a_sale_of_the_policy_goes_beyond_a_buy_that_does_not_end() -> None:
    """The buy's limit is 100.23, and a sale would go to 99.80: the broker refuses what crosses the buy."""
    d = Desk(replace(RULES, execution=replace(RULES.execution, exit_limit_attempts=9)))
    d.minute(0)
    effects = d.answer(1.0, 0.0)
    (buy,) = d.take(effects)
    d.put(d.account.fill(buy, 4, "100", d.state.now_ns))
    sales: list[tuple[Quantity, Decimal | None]] = []
    for minute in range(1, 6):
        d.minute(minute)
        d.answer(0.0, 0.0)
        now = d.at(minute + 1, 40.0 + minute / 10)  # a re-price interval after the last report, and a moment
        for sale in of(d.put(ev.QuotesReceived(now, 0, (d.quote("SPY", now),))), SubmitOrder):
            sales.append((sale.quantity, sale.limit_price))
            d.put(ev.OrderRejected(now, sale.client_order_id, "403 potential wash trade detected"))
    assert sales == [(4, Decimal(price)) for price in ("99.80", "99.80", "100.24", "100.24", "100.24")]


def test_a_bar_that_leaps_away_from_its_own_symbol_s_price_is_refused_unless_its_quotes_support_it() -> None:
    d = Desk()
    d.minute(0)
    d.answer(0.0, 0.0)
    d.bar(1, "SPY")
    bars_before = d.state.stats.bars_rejected
    assert of(d.bar(1, "QQQ", 4000.0), AskPolicy) == []
    assert d.state.stats.bars_rejected == bars_before + 1
    assert d.state.doubted is None
    assert [bar.symbol for bar in d.state.pending_bars] == ["SPY"]
    assert len(of(d.tick(2, 5.0), AskPolicy)) == 1

    now, start = d.at(3, 1.0), d.at(2)
    d.answer(0.0, 0.0)
    d.bar(2, "SPY")
    leapt = d.put(
        ev.BarClosed(now, Bar("QQQ", start, 110.0, 110.0, 110.0, 110.0, 1000.0)),
        ev.QuotesReceived(now, start, (d.quote("QQQ", now, "110"),)),
    )
    assert len(of(leapt, AskPolicy)) == 1


def test_a_leaping_bar_whose_quotes_do_not_come_is_refused_with_the_next_bar() -> None:
    d = Desk()
    d.minute(0)
    d.answer(0.0, 0.0)
    absurd = Bar("QQQ", d.at(1), 4000.0, 4000.0, 4000.0, 4000.0, 1000.0)
    d.put(ev.BarClosed(d.at(2, 1.0), absurd))
    assert [d.state.doubted] == [absurd]
    bars_before = d.state.stats.bars_rejected
    d.bar(1, "SPY")
    assert d.state.doubted is None
    assert d.state.stats.bars_rejected == bars_before + 1
    assert [bar.symbol for bar in d.state.pending_bars] == ["SPY"]


def test_a_late_bar_that_leaps_does_not_join_the_history() -> None:
    d = Desk()
    d.minute(0)
    d.bar(1, "SPY")
    d.tick(2, 5.0)
    d.put(ev.BarClosed(d.at(2, 9.0), Bar("QQQ", d.at(1), 4000.0, 4000.0, 4000.0, 4000.0, 1000.0)))
    assert d.state.strategy.rows == ()


def test_when_the_bars_of_a_held_symbol_are_lost_the_desk_leaves_though_the_other_s_come() -> None:
    d = Desk()
    d.holds()
    for minute in range(1, 6):
        d.bar(minute, "SPY")
        now = d.at(minute + 1, 2.0)
        d.put(d.account.report(now), ev.QuotesReceived(now, 0, (d.quote("QQQ", now),)))
        d.tick(minute + 1, 5.0)
    assert d.halted().startswith("blind: bars lost for 5 minutes")


@pytest.mark.parametrize("interval_s", [300, 1800])
def test_a_wide_bar_under_way_is_no_lost_bar(interval_s: int) -> None:
    d = Desk(interval_s=interval_s)
    wide = interval_s // 60
    for symbol in SYMBOLS:
        start, now = d.at(0), d.at(wide, 1.0)
        d.put(
            ev.BarClosed(now, Bar(symbol, start, 100.0, 100.0, 100.0, 100.0, 1000.0)),
            ev.QuotesReceived(now, start, (d.quote(symbol, now),)),
        )
    effects = d.answer(1.0, 0.0)
    (order,) = of(effects, SubmitOrder)
    d.put(d.account.fill(d.account.take(order, d.state.now_ns), 10, "100", d.state.now_ns))
    for minute in range(wide + 1, 2 * wide + 4):
        now = d.at(minute, 30.0)
        d.put(d.account.report(now), ev.QuotesReceived(now, 0, (d.quote("SPY", now),)))
        d.tick(minute, 30.0)
    assert d.halted() == ""
    for minute in range(2 * wide + 4, 2 * wide + 6):
        now = d.at(minute, 30.0)
        d.put(d.account.report(now), ev.QuotesReceived(now, 0, (d.quote("SPY", now),)))
        d.tick(minute, 30.0)
    assert d.halted().startswith("blind: bars lost")


# --- a split over the night -------------------------------------------------------------------------------------------


def over_the_night() -> Desk:
    """On Tuesday before the open: ten of each are held, bought at 100."""
    d = Desk(overnight=True)
    d.holds()
    d.put(
        ev.SessionEnded(MONDAY.close_ns, MONDAY.date),
        ev.SessionScheduled(TUESDAY.open_ns - 30 * MINUTE, TUESDAY, SESSIONS[2:], (MONDAY,)),
        d.account.report(TUESDAY.open_ns - 29 * MINUTE),
    )
    return d


def halved(d: Desk, first: int, last: int) -> list[AnyEffect]:
    """Reports, quotes and bars of these minutes of Tuesday: SPY at 50, QQQ at 100."""
    effects: list[AnyEffect] = []
    for minute in range(first, last):
        start_ns = TUESDAY.open_ns + minute * MINUTE
        effects += d.put(d.account.report(start_ns + SECOND))
        for symbol, price in (("SPY", 50.0), ("QQQ", 100.0)):
            end_ns = start_ns + MINUTE + SECOND
            quotes = tuple(d.quote(symbol, at_ns, str(price)) for at_ns in (start_ns + 2 * SECOND, end_ns - SECOND))
            effects += d.put(
                ev.QuotesReceived(quotes[0].quoted_ns, 0, quotes[:1]),
                ev.BarClosed(end_ns, Bar(symbol, start_ns, price, price, price, price, 1000.0)),
                ev.QuotesReceived(end_ns, start_ns, quotes[1:]),
            )
        effects += d.put(ev.ClockTicked(start_ns + MINUTE + 5 * SECOND))
    return effects


def book_split(d: Desk, minute: int) -> None:
    """The ledger's line of SPY's split, two for one."""
    d.account.positions["SPY"] = (20, Decimal(50))
    d.account.book(replaced(line("SPLIT", "SPY", 10), time_ns=TUESDAY.open_ns - MIDNIGHT))
    d.put(d.account.report(TUESDAY.open_ns + minute * MINUTE))


def still(d: Desk) -> tuple[str, Decimal, dict[str, Quantity]]:
    shares = {symbol: position.quantity for symbol, position in d.state.book.positions.items()}
    return d.halted(), d.state.book.equity.quantize(Decimal(1)), shares


def test_a_split_that_the_ledger_tells_late_does_not_blind_the_desk() -> None:
    d = over_the_night()
    d.account.positions["SPY"] = (20, Decimal(50))
    effects = d.put(d.account.report(TUESDAY.open_ns - 20 * MINUTE)) + halved(d, 0, 12)
    assert (of(effects, SubmitOrder), still(d)) == ([], ("", Decimal(10_000), {"SPY": 10, "QQQ": 10}))
    book_split(d, 12)
    effects = halved(d, 13, 15)
    assert (of(effects, SubmitOrder), still(d)) == ([], ("", Decimal(10_000), {"SPY": 20, "QQQ": 10}))


def test_a_split_that_is_booked_during_the_session_leaves_time_for_the_first_quote_of_the_new_shares() -> None:
    d = over_the_night()
    d.account.positions["SPY"] = (20, Decimal(50))
    d.put(d.account.report(TUESDAY.open_ns - 20 * MINUTE))
    halved(d, 0, 12)
    book_split(d, 12)
    d.put(ev.ClockTicked(TUESDAY.open_ns + 12 * MINUTE + 2 * SECOND))
    assert still(d) == ("", Decimal(10_000), {"SPY": 20, "QQQ": 10})
    for minute in (13, 15, 17):
        d.put(d.account.report(TUESDAY.open_ns + minute * MINUTE + 3 * SECOND))
    d.put(ev.ClockTicked(TUESDAY.open_ns + 17 * MINUTE + 6 * SECOND))
    assert d.halted() == "blind: bars and quotes lost for 5 minutes while SPY, QQQ are held"


def test_reports_that_stop_while_a_split_is_awaited_blind_it() -> None:
    d = over_the_night()
    d.account.positions["SPY"] = (20, Decimal(50))
    d.put(d.account.report(TUESDAY.open_ns - 20 * MINUTE))
    halved(d, 0, 2)
    for minute in range(2, 8):
        at_ns = TUESDAY.open_ns + minute * MINUTE
        d.put(*(ev.QuotesReceived(at_ns, 0, (d.quote(symbol, at_ns),)) for symbol in SYMBOLS), ev.ClockTicked(at_ns))
    assert d.halted().startswith("blind: ")


@pytest.mark.parametrize("off", [False, True])
def test_a_split_that_the_bars_tell_before_the_broker_sells_nothing(*, off: bool) -> None:
    d = over_the_night()
    if off:
        d.state = replaced(d.state, risk=replaced(d.state.risk, strategy_off=True))
    split = ev.SharesSplit(TUESDAY.open_ns - 28 * MINUTE, "SPY", 2.0, TUESDAY.open_ns)
    effects = d.put(split) + halved(d, 0, 12)
    assert (of(effects, SubmitOrder), still(d)) == ([], ("", Decimal(10_000), {"SPY": 10, "QQQ": 10}))
    book_split(d, 12)
    effects = d.put(replaced(split, time_ns=d.state.now_ns)) + halved(d, 13, 15)  # told again, as after a start
    assert (of(effects, SubmitOrder), still(d)) == ([], ("", Decimal(10_000), {"SPY": 20, "QQQ": 10}))
    assert d.state.basket.splits == ()


def test_a_split_that_the_bars_tell_after_its_line_is_waited_for_no_more() -> None:
    d = over_the_night()
    book_split(d, -25)
    d.put(ev.SharesSplit(TUESDAY.open_ns - 20 * MINUTE, "SPY", 2.0, TUESDAY.open_ns))
    assert (d.state.basket.splits, still(d)[2]) == ((), {"SPY": 20, "QQQ": 10})


def test_a_basket_that_is_missed_is_named_by_its_bar() -> None:
    d = Desk()
    d.put(d.account.report(d.at(0, 30.0), blocked="trading_blocked"))
    d.minute(0)
    d.answer(1.0, 0.0)
    assert d.state.basket.waiting is not None
    (alarm,) = [alarm for alarm in of(d.tick(6, 0.0), RaiseAlarm) if alarm.name == "basket_missed"]
    assert alarm.detail.startswith("no basket for 2024-07-01 09:30: denied: ")


@pytest.mark.parametrize(
    ("tuesday", "wednesday", "halt"),
    [("92", "91.5", ""), ("108", "101", "daily_loss")],
    ids=["a fall while it was away is no loss of today", "a rise while it was away hides no loss of today"],
)
def test_after_a_session_without_the_desk_the_day_s_loss_counts_from_its_close(
    tuesday: str, wednesday: str, halt: str
) -> None:
    """20 shares: on Wednesday 10 USD of about 9,840 are lost, then 140 of 10,160; the limit is 1 %."""
    d = Desk(replace(RULES, risk=replace(RULES.risk, daily_loss_max=0.01)), overnight=True)
    d.holds()
    d.put(ev.SessionEnded(MONDAY.close_ns, MONDAY.date))
    today = SESSIONS[2]
    now, close, last_ns = today.open_ns - 60 * MINUTE, float(tuesday), TUESDAY.close_ns - MINUTE
    d.put(ev.SessionScheduled(now, TUESDAY, SESSIONS[2:], (MONDAY,)))
    for minute in range(4):  # no bar is far from the one before
        price = 100.0 + (close - 100.0) * (minute + 1) / 4
        start_ns = last_ns - (3 - minute) * MINUTE
        d.put(*[ev.BarClosed(now, Bar(s, start_ns, price, price, price, price, 1000.0)) for s in SYMBOLS])
    d.put(ev.SessionEnded(now, TUESDAY.date), ev.SessionScheduled(now, today, SESSIONS[3:], (TUESDAY,)))
    for second in range(3):
        now = today.open_ns + second * SECOND
        d.put(ev.QuotesReceived(now, 0, tuple([d.quote(s, now, wednesday) for s in SYMBOLS])))
    assert d.halted().partition(":")[0] == halt


@pytest.mark.parametrize(
    ("gap", "wednesday", "halt"),
    [("90", "89.5", ""), ("110", "104.5", "daily_loss")],
    ids=["a fall while it was away is no loss of today", "a rise while it was away hides no loss of today"],
)
def test_bars_of_missed_days_that_gap_are_no_leaps_for_ever(gap: str, wednesday: str, halt: str) -> None:
    """20 shares: on Wednesday 10 USD of about 9,800 are lost, then 110 of 10,200; the limit is 1 %."""
    d = Desk(replace(RULES, risk=replace(RULES.risk, daily_loss_max=0.01)), overnight=True)
    d.holds()
    d.put(ev.SessionEnded(MONDAY.close_ns, MONDAY.date))
    today, price = SESSIONS[2], float(gap)
    now, rejected = today.open_ns - 60 * MINUTE, d.state.stats.bars_rejected
    d.put(ev.SessionScheduled(now, TUESDAY, SESSIONS[2:], (MONDAY,)))
    prices = (4000.0, 40.0, price, price, price, price)  # lone ones are refused, and the first of those that agree
    for minute, close in enumerate(prices):
        start_ns = TUESDAY.open_ns + minute * MINUTE
        d.put(*[ev.BarClosed(now, Bar(s, start_ns, close, close, close, close, 1000.0)) for s in SYMBOLS])
    assert d.state.stats.bars_rejected == rejected + 2 * 3
    d.put(ev.SessionEnded(now, TUESDAY.date), ev.SessionScheduled(now, today, SESSIONS[3:], (TUESDAY,)))
    for second in range(3):
        now = today.open_ns + second * SECOND
        d.put(ev.QuotesReceived(now, 0, tuple([d.quote(s, now, wednesday) for s in SYMBOLS])))
    assert d.halted().partition(":")[0] == halt


def test_a_gap_whose_quotes_are_all_wide_is_taken_with_the_second_bar_at_its_price() -> None:
    d = Desk()
    d.minute(0)
    d.answer(0.0, 0.0)

    def minute(number: int, price: str, bid: str) -> list[AnyEffect]:
        d.bar(number, "SPY")
        now, close, wide = (
            d.at(number + 1, 1.0),
            float(price),
            replaced(d.quote("QQQ", d.at(number + 1)), bid=Decimal(bid)),
        )
        bar = Bar("QQQ", d.at(number), close, close, close, close, 1000.0)
        return d.put(ev.BarClosed(now, bar), ev.QuotesReceived(now, d.at(number), (wide,)))

    assert of(minute(1, "90", "1"), AskPolicy) == []
    assert len(of(d.tick(2, 5.0), AskPolicy)) == 1
    d.answer(0.0, 0.0)
    assert len(of(minute(2, "89.5", "1"), AskPolicy)) == 1
    d.answer(0.0, 0.0)
    assert of(minute(3, "120", "99.98"), AskPolicy) == []  # a narrow quote says that the price did not change
    d.tick(4, 5.0)
    d.answer(0.0, 0.0)
    assert of(minute(4, "120", "99.98"), AskPolicy) == []
