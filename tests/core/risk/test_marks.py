"""One guard of quotes for both desks: what is no quote, what only bounds a price, what waits for a second quote."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from daemon.core.effects import SubmitOrder
from daemon.core.events import ClockTicked, FlattenRequested, Quote, QuotesReceived
from daemon.core.instruments.quotes import bar_fault, fault, is_quote, share_guard
from daemon.core.limits import Execution, Sizing, Trading
from daemon.core.state import encode_state
from strategies.kit.contract import Bar
from tests.support.core.daily_desk import DailyDesk
from tests.support.core.desk import CALL, EXIT, SECOND, TUESDAY, Desk, alarms, desk, of, quote, sent
from tests.support.examples import examples

NO_STOP = Trading(sizing=Sizing(stop_loss=0.99, take_profit=9.0))  # so that the loss limits speak first


def holding(trading: Trading | None = None) -> Desk:
    """A live desk that holds 9 calls bought at 2.00, marked there: equity 10,000 USD."""
    d = desk(trading, mode="live")
    d.holds()
    d.quotes(1, quote(CALL), second=10)
    assert (d.state.marks, d.state.book.equity) == ({CALL: Decimal(2)}, Decimal(10000))
    return d


# --- no quote, or a quote that is no price ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bid", "ask"),
    [("0", "0"), ("2.02", "1.98"), ("-1", "2"), ("1", "-2"), ("NaN", "2"), ("2", "Infinity"), ("1e27", "1e27")],
)
def test_what_is_no_quote_changes_nothing(bid: str, ask: str) -> None:
    d = holding()
    before = d.state
    odd = Quote(CALL, Decimal(bid), Decimal(ask), Decimal(0), Decimal(0), d.at(2))
    assert not is_quote(odd, d.at(2))
    assert d.put(QuotesReceived(d.at(2), 0, (odd,))) == []
    assert encode_state(replace(d.state, now_ns=before.now_ns, seq=before.seq, fed=before.fed)) == encode_state(before)


def test_nobody_s_quote_of_nothing_is_no_daily_loss() -> None:
    d = holding(NO_STOP)
    for second in range(20, 40):
        assert d.quotes(1, quote(CALL, "0", "0"), second=second) == []
    assert (d.halted(), d.state.book.equity, d.state.quotes[CALL].bid) == ("", Decimal(10000), Decimal("1.98"))


@pytest.mark.parametrize("ahead_s", [3, 59])
def test_a_quote_stamped_in_the_future_is_refused_and_blinds_no_stop(ahead_s: int) -> None:
    d = holding()
    early = replace(quote(CALL, "5.00", "5.04"), quoted_ns=d.at(1, 20 + ahead_s))
    assert d.put(QuotesReceived(d.at(1, 20), 0, (early,))) == []
    assert d.state.quotes[CALL].quoted_ns == d.at(1, 10)
    assert sent(d.confirmed(1, quote(CALL, "1.20", "1.24"), second=21)).side == -1


def test_a_clock_that_is_two_seconds_behind_hears_its_quotes() -> None:
    d = holding()
    ahead = replace(quote(CALL, "1.90", "1.94"), quoted_ns=d.at(1, 22))
    d.put(QuotesReceived(d.at(1, 20), 0, (ahead,)))
    assert d.state.marks[CALL] == Decimal("1.92")


@pytest.mark.parametrize(
    ("bid", "ask", "price"),
    [
        ("0.01", "2.02", "2"),  # says only: between 0.01 and 2.02
        ("1.98", "20", "2"),
        ("0", "2.05", "2"),
        ("1.95", "0", "2"),
        ("1.50", "2.50", "2"),  # 1.00 of 2.00: the widest that counts
        ("1.40", "2.50", "2"),  # 1.10 of 1.95
        ("0", "1.90", "1.90"),  # nobody asks more
        ("2.10", "0", "2.10"),
    ],
)
def test_a_wide_or_one_sided_quote_bounds_the_mark_and_moves_it_no_further(bid: str, ask: str, price: str) -> None:
    d = holding()
    assert d.confirmed(1, quote(CALL, bid, ask), second=20) == []
    assert d.state.marks[CALL] == Decimal(price)


def test_a_cheap_option_is_marked_by_a_quote_ten_cents_wide() -> None:
    d = holding(NO_STOP)
    d.confirmed(1, quote(CALL, "0.04", "0.14"), second=20)
    assert d.state.marks[CALL] == Decimal("0.09")


def test_an_option_that_nobody_bids_for_is_worth_what_is_asked_at_most() -> None:
    d = holding()
    effects = d.confirmed(1, quote(CALL, "0", "0.05"), second=20)
    assert (d.state.marks[CALL], alarms(effects)) == (Decimal("0.05"), ["daily_loss", "no_bid"])


# --- a leap -------------------------------------------------------------------------------------------------------


def test_a_stray_quote_neither_sells_nor_halts_nor_moves_the_peak() -> None:
    d = holding()
    for second, (bid, ask) in enumerate((("0.40", "0.42"), ("1.98", "2.02"), ("9.00", "9.10"), ("1.98", "2.02")), 20):
        assert d.quotes(1, quote(CALL, bid, ask), second=second) == []
    assert (d.state.book.peak, d.state.book.max_drawdown, d.halted()) == (Decimal(10000), 0.0, "")
    assert (d.state.marks, d.state.leaps) == ({CALL: Decimal(2)}, {})


def test_an_extreme_within_the_second_sells_nothing_at_a_broker() -> None:
    d = holding()
    assert d.quotes(1, quote(CALL, low="0.10", high="9.00"), second=20) == []


def test_a_fall_that_the_next_quote_confirms_is_sold_at_once() -> None:
    d = holding()
    assert d.quotes(1, quote(CALL, "1.20", "1.24"), second=20) == []
    order = sent(d.quotes(1, quote(CALL, "1.18", "1.22"), second=21))
    assert (order.quantity, str(order.limit_price), d.order(order.client_order_id).reason) == (9, "1.13", "stop_loss")


def test_a_fall_that_goes_on_is_followed_one_quote_behind() -> None:
    d = holding(NO_STOP)
    marks = []
    for second, middle in enumerate(("1.60", "1.30", "1.00", "0.98"), 20):
        d.quotes(1, quote(CALL, middle, middle), second=second)
        marks.append(str(d.state.marks[CALL].normalize()))
    assert marks == ["2", "1.6", "1.3", "0.98"]


def test_quotes_of_one_burst_and_the_same_quote_again_confirm_nothing() -> None:
    d = holding()
    fallen = replace(quote(CALL, "1.20", "1.24"), quoted_ns=d.at(1, 20))
    later = replace(fallen, quoted_ns=fallen.quoted_ns + SECOND // 2 - 1)
    for second, news in ((20, fallen), (21, fallen), (22, later)):
        assert d.put(QuotesReceived(d.at(1, second), 0, (news,))) == []
    stands = replace(fallen, quoted_ns=fallen.quoted_ns + SECOND // 2)
    assert sent(d.put(QuotesReceived(d.at(1, 23), 0, (stands,)))).side == -1


def test_a_leap_to_the_other_side_begins_the_wait_anew() -> None:
    d = holding()
    d.quotes(1, quote(CALL, "1.20", "1.24"), second=20)
    assert d.quotes(1, quote(CALL, "9.00", "9.04"), second=21) == []
    assert d.quotes(1, quote(CALL, "1.20", "1.24"), second=22) == []
    assert d.state.marks[CALL] == 2


def test_the_first_mark_is_compared_with_what_was_paid() -> None:
    d = desk(mode="live")
    d.holds()
    assert d.state.marks == {}
    d.quotes(1, quote(CALL, "9.00", "9.10"), second=10)
    assert (d.state.marks, d.state.book.equity, d.state.book.peak) == ({}, Decimal(10000), Decimal(10000))
    d.quotes(1, quote(CALL), second=11)
    assert d.state.marks == {CALL: Decimal(2)}


@pytest.mark.parametrize("bid", ["0.01", "1.00"])
def test_an_exit_before_the_first_mark_is_priced_within_the_collar_of_what_was_paid(bid: str) -> None:
    d = desk(mode="live")
    d.holds()
    d.quotes(1, quote(CALL, bid, "2.02"), second=10)  # too wide to be a price
    assert d.state.marks == {}
    leaving = d.put(FlattenRequested(d.at(1, 11), "x", "ann")) + d.tick(1, 17)
    assert sent(leaving).limit_price == Decimal("1.60")  # 2.00 less a fifth


def test_an_exit_right_after_the_fill_waits_for_a_second_quote_where_the_first_one_leaps() -> None:
    d = desk(mode="live")
    d.holds()
    d.quotes(1, quote(CALL, "0.01", "0.02"), second=10)
    assert of(d.put(FlattenRequested(d.at(1, 11), "x", "ann")), SubmitOrder) == []
    assert sent(d.quotes(1, quote(CALL), second=12)).limit_price == Decimal("1.89")  # 1.98 less 5 %, on cents above


def test_an_exit_is_never_priced_above_the_mark_by_a_quote_that_leaps() -> None:
    d = holding(NO_STOP)
    d.quotes(1, quote(CALL, "19.00", "20.00"), second=20)
    d.put(FlattenRequested(d.at(1, 21), "x", "ann"))
    assert sent(d.tick(1, 27)).limit_price == Decimal("2.00")


def test_a_quote_that_comes_after_a_newer_one_changes_nothing() -> None:
    d = holding()
    for second in (20, 21):  # both stamped before the quote of second 10, and both at the stop
        late = replace(quote(CALL, "1.00", "1.04"), quoted_ns=d.at(1, second - 15))
        assert d.put(QuotesReceived(d.at(1, second), 0, (late,))) == []
    assert (d.state.marks[CALL], d.state.quotes[CALL].bid) == (Decimal(2), Decimal("1.98"))


def test_marks_end_with_the_position() -> None:
    d = holding()
    exit_order = sent(d.confirmed(1, quote(CALL, "1.20", "1.24"), second=20)).client_order_id
    d.fill(exit_order, 9, "1.20")
    d.quotes(2, quote(CALL))
    assert (d.state.marks, d.state.leaps) == ({}, {})


def test_a_replay_s_market_is_believed_at_once_and_its_range_counts() -> None:
    d = desk()
    d.holds()
    assert sent(d.quotes(1, quote(CALL, low="1.00"), second=20)).side == -1
    assert d.state.marks == {}


# --- the limits of exits ------------------------------------------------------------------------------------------


def test_an_exit_is_priced_within_the_collar_of_the_confirmed_mark_and_ends_at_the_market() -> None:
    d = holding()
    d.bar(1)
    sales = [sent(d.answer(EXIT))]
    for minute in (3, 4):
        d.accept(sales[-1].client_order_id)
        d.quotes(minute, quote(CALL, "0.50", "0.54"))  # a minute is over: the cancel is asked for
        sales.append(sent(d.canceled(sales[-1].client_order_id)))
    limits = [order.limit_price for order in sales]
    assert limits == [Decimal("1.89"), Decimal("1.60"), None]  # bid 1.98 x 0.95; mark 2.00 x 0.8; the market


def test_an_exit_waits_a_few_seconds_for_a_leap_to_be_confirmed() -> None:
    d = holding()
    d.bar(1)
    d.quotes(2, quote(CALL, "1.50", "1.52"), second=1)
    assert of(d.answer(EXIT), SubmitOrder) == []
    assert of(d.tick(2, 5), SubmitOrder) == []
    order = sent(d.tick(2, 6))
    assert order.limit_price == Decimal("1.60")  # the mark is still 2.00


def test_an_exit_that_starts_at_the_mid_starts_at_the_confirmed_one() -> None:
    d = holding(Trading(execution=Execution(exit_start="mid")))
    d.bar(1)
    d.quotes(2, quote(CALL, "1.98", "20"), second=1)
    assert sent(d.answer(EXIT)).limit_price == Decimal("2.00")


# --- never, always ------------------------------------------------------------------------------------------------

CENTS = st.integers(min_value=0, max_value=3000)


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(st.tuples(CENTS, CENTS, st.integers(-5, 90), st.integers(-4, 4)), min_size=1, max_size=12))
@example([(218, 0, 2, -4)])
def test_single_bad_quotes_never_sell_never_halt_and_never_move_the_peak(bad: list[tuple[int, int, int, int]]) -> None:
    d = holding(Trading(sizing=Sizing(stop_loss=0.25, take_profit=0.50)))
    now = d.at(2)
    for bid, ask, ahead_s, drift in bad:
        stray = Quote(CALL, Decimal(bid) / 100, Decimal(ask) / 100, Decimal(0), Decimal(99), now + ahead_s * SECOND)
        assert of(d.put(QuotesReceived(now, 0, (stray,))), SubmitOrder) == []
        assert d.state.book.peak <= 10000 + 9 * 100 * Decimal("0.28")  # what is believed at once: 2.04 / 0.9 - 2.00
        middle = 200 + drift
        for later_s in (1, 2, 3, 4):  # a stray one may be stamped two seconds ahead: two that are newer
            good = Quote(CALL, Decimal(middle - 2) / 100, Decimal(middle + 2) / 100, Decimal(2), Decimal(2), 0)
            good = replace(good, quoted_ns=now + later_s * SECOND)
            assert of(d.put(QuotesReceived(good.quoted_ns, 0, (good,))), SubmitOrder) == []
        assert d.state.marks[CALL] == Decimal(middle) / 100
        now += 5 * SECOND
    assert (d.halted(), d.held) == ("", {CALL: 9})


@settings(max_examples=examples(150), deadline=None)
@given(
    st.lists(st.integers(141, 260), max_size=6),
    st.tuples(st.integers(2, 140), st.integers(2, 140)),
    st.integers(500, 30_000),
)
def test_two_quotes_at_or_below_the_stop_always_sell(before: list[int], below: tuple[int, int], apart_ms: int) -> None:
    d = holding(Trading(sizing=Sizing(stop_loss=0.30, take_profit=0.90)))
    now, effects = d.at(2), []
    for middle in (*before, *below):
        price = Decimal(middle) / 100
        effects += d.put(QuotesReceived(now, 0, (Quote(CALL, price, price, price, price, now),)))
        now += apart_ms * 1_000_000
    effects += d.put(ClockTicked(now + 5 * SECOND))  # where the second one leaps again, a third is waited for so long
    assert [row.action for row in d.decisions() if row.kind == "rule"][:1] in (["stop_loss"], ["daily_loss"])
    assert [o.side for o in of(effects, SubmitOrder)] == [-1]


def test_a_daily_desk_and_an_option_desk_share_one_guard() -> None:
    guard = share_guard(Trading().basket)
    assert (guard.width, guard.leap) == (Decimal("0.10"), Decimal("0.05"))
    d = DailyDesk().fund().holds(AAA=10)
    d.begin(TUESDAY)
    early = replace(quote("AAA", "101", "101"), quoted_ns=d.at(1) + 3 * SECOND)
    d.put(QuotesReceived(d.at(1), 0, (early,)))
    assert d.state.marks["AAA"] == 100


FIGURES = st.lists(st.sampled_from((-1.0, 0.0, 9.0, 10.0, 11.0, math.nan, math.inf, -math.inf)), min_size=5, max_size=5)


@given(FIGURES)
@example([10.0, 11.0, 9.0, 10.0, 0.0])
def test_one_bar_has_the_fault_that_it_has_among_many(figures: list[float]) -> None:
    assert bar_fault(Bar("SPY", 0, *figures)) == fault(figures, 0)
