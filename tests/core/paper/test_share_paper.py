"""The paper broker of shares: every price, cost and refusal worked out by hand from the rules in docs/PAPER.md."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import CancelOrder, Effect, SubmitOrder, WatchContracts
from daemon.core.limits import Paper, Trading
from daemon.core.paper.shares import SharePaperBroker, on_grid
from daemon.core.paper.state import PaperPosition, SharePaperState, broker_snapshot
from strategies.kit.contract import Bar, Session
from strategies.kit.quantity import exact, from_json
from tests.support.core.desk import HALF_DAY, MINUTE, MONDAY, SECOND, TUESDAY

TRADING = Trading(paper=Paper(cash_usd=Decimal(10000)))
NOTHING = Decimal(0)
SYMBOLS = ("AAA", "BBB", "CCC")
BROKER = SharePaperBroker(TRADING, SYMBOLS)
LIVE = SharePaperBroker(TRADING, SYMBOLS, live=True)
OPEN, CLOSE = MONDAY.open_ns, MONDAY.close_ns
BEFORE = OPEN - 15 * MINUTE  # when sells for the auction are sent

Steps = tuple[ev.Event, Iterable[Effect]]


def play(
    state: SharePaperState, *steps: Steps, broker: SharePaperBroker = BROKER
) -> tuple[SharePaperState, list[ev.Event]]:
    events: list[ev.Event] = []
    for event, effects in steps:
        state, step_events = broker.step(state, event, tuple(effects))
        events.extend(step_events)
    return state, events


def monday(quantities: dict[str, int] | None = None, cash: str = "10000") -> SharePaperState:
    """Monday is scheduled; shares were bought at 10."""
    holdings = {symbol: PaperPosition(symbol, quantity, Decimal(10)) for symbol, quantity in (quantities or {}).items()}
    state = replace(BROKER.start(), cash=Decimal(cash), holdings=holdings)
    return play(state, (ev.SessionScheduled(OPEN - 30 * MINUTE, MONDAY, (TUESDAY,)), ()))[0]


def order(
    name: str, symbol: str, side: int, quantity: int, limit: str | None = None, *, auction: bool = False
) -> SubmitOrder:
    return SubmitOrder(name, symbol, side, quantity, None if limit is None else Decimal(limit), "", CLOSE, auction)


def tick(time_ns: int, *effects: Effect) -> Steps:
    return ev.ClockTicked(time_ns), effects


def prints_of(time_ns: int, *effects: Effect, opening: bool = False, **prices: str) -> Steps:
    prints = tuple(ev.Price(symbol, Decimal(price)) for symbol, price in prices.items())
    return ev.PricesPrinted(time_ns, MONDAY.date, opening, prints), effects


def quoted(time_ns: int, at_ns: int, **sides: tuple[str, str]) -> Steps:
    quotes = tuple(
        ev.Quote(symbol, Decimal(bid), Decimal(ask), Decimal(bid), Decimal(ask), at_ns)
        for symbol, (bid, ask) in sides.items()
    )
    return ev.QuotesReceived(time_ns, 0, quotes), ()


def fills(events: Iterable[ev.Event]) -> list[ev.OrderFilled]:
    return [event for event in events if isinstance(event, ev.OrderFilled)]


def rejections(events: Iterable[ev.Event]) -> list[str]:
    return [event.reason for event in events if isinstance(event, ev.OrderRejected)]


# --- fills and costs ----------------------------------------------------------------------------------------------


def test_a_sale_in_the_auction_and_the_buy_that_waited_are_worked_out_by_hand() -> None:
    state = monday({"AAA": 30}, cash="100")
    state, events = play(
        state,
        tick(BEFORE, order("s", "AAA", -1, 30, auction=True)),
        prints_of(OPEN, order("b", "BBB", +1, 7, "50.2"), opening=True, AAA="12.3456", BBB="50.01"),
        prints_of(OPEN + MINUTE, AAA="12.3456", BBB="50.01"),
    )
    sale, purchase = fills(events)
    # 30 x 12.3456 = 370.368, of which 0.1 % is 0.370368
    assert (sale.price, sale.cumulative_cost, sale.cumulative_fees) == (
        Decimal("12.3456"),
        Decimal("370.368"),
        Decimal("0.370368"),
    )
    # 50.01 x 1.0002 = 50.020002, rounded up to 50.0201; 7 of them cost 350.1407 and 0.3501407, rounded to 0.350141
    assert (purchase.price, purchase.cumulative_cost, purchase.cumulative_fees) == (
        Decimal("50.0201"),
        Decimal("350.1407"),
        Decimal("0.350141"),
    )
    assert (sale.filled_ns, purchase.filled_ns) == (OPEN, OPEN + MINUTE)
    assert state.cash == Decimal(100) + Decimal("370.368") - Decimal("0.370368") - Decimal("350.1407") - Decimal(
        "0.350141"
    )
    assert state.costs == Decimal("0.720509")
    assert state.holdings == {"BBB": PaperPosition("BBB", 7, Decimal("50.0201"))}
    assert (state.orders, state.reserved) == ((), NOTHING)


# --- fees by the day --------------------------------------------------------------------------------------------------

OVER: Steps = (ev.SessionEnded(CLOSE, MONDAY.date), ())


def fee_lines(events: Iterable[ev.Event]) -> list[tuple[str, str, Decimal]]:
    lines = [line for event in events if isinstance(event, ev.LedgerBooked) for line in event.activities]
    return [(line.id, line.kind, line.amount) for line in lines]


def test_a_session_s_end_books_its_fees_kind_by_kind_once_for_all_its_orders() -> None:
    state, events = play(
        monday({"AAA": 30}, cash="100"),
        tick(BEFORE, order("s", "AAA", -1, 20, auction=True), order("t", "AAA", -1, 10, auction=True)),
        prints_of(OPEN, order("b", "BBB", +1, 7, "50.2"), opening=True, AAA="12.3456", BBB="50.01"),
        prints_of(OPEN + MINUTE, AAA="12.3456", BBB="50.01"),
    )
    assert fee_lines(events) == []
    before = state.cash
    state, events = play(state, OVER)
    # TAF 30 x 0.000166 = 0.00498; SEC 0.0000278 x 370.368 = 0.0103; CAT 37 x 0.000048 = 0.0018
    assert fee_lines(events) == [
        (f"{MONDAY.date}-TAF", "FEE", Decimal("-0.01")),
        (f"{MONDAY.date}-SEC", "FEE", Decimal("-0.02")),
        (f"{MONDAY.date}-CAT", "FEE", Decimal("-0.01")),
    ]
    assert before - state.cash == Decimal("0.04")
    state, events = play(
        state,
        (ev.SessionScheduled(TUESDAY.open_ns - 30 * MINUTE, TUESDAY, ()), ()),
        (ev.SessionEnded(TUESDAY.close_ns, TUESDAY.date), ()),
    )
    assert fee_lines(events) == []  # a day without trades


def test_a_large_account_s_fees_are_part_of_its_costs() -> None:
    large = SharePaperBroker(Trading(paper=Paper(cash_usd=Decimal(100_000))), SYMBOLS)
    sells = tick(BEFORE, order("s", "AAA", -1, 30, auction=True))
    state, events = play(monday({"AAA": 30}), sells, prints_of(OPEN, opening=True, AAA="12"), OVER, broker=large)
    assert (fee_lines(events), state.cash) == ([], Decimal(10_000) + 360 - Decimal("0.36"))


def test_a_session_that_was_missed_pays_when_the_next_is_scheduled() -> None:
    sells = tick(BEFORE, order("s", "AAA", -1, 30, auction=True))
    state, _ = play(monday({"AAA": 30}), sells, prints_of(OPEN, opening=True, AAA="12"))
    _, events = play(state, (ev.SessionScheduled(TUESDAY.open_ns - 30 * MINUTE, TUESDAY, ()), ()))
    assert [name for name, _, _ in fee_lines(events)] == [f"{MONDAY.date}-{name}" for name in ("TAF", "SEC", "CAT")]


def test_a_sale_goes_through_where_a_day_s_fees_took_more_than_the_cash() -> None:
    dust = order("s", "AAA", -1, 1)
    state, events = play(monday({"AAA": 1}, cash="-0.03"), tick(OPEN + 1, dust), prints_of(OPEN + MINUTE, AAA="0.01"))
    assert (len(fills(events)), state.cash) == (1, Decimal("-0.02001"))


def test_a_fraction_is_sold_after_the_auction_below_the_print() -> None:
    state = monday({"AAA": 3})
    fraction = replace(order("f", "AAA", -1, 1), quantity=exact("0.25"))
    state, events = play(
        state,
        tick(BEFORE, order("s", "AAA", -1, 2, auction=True)),
        prints_of(OPEN, fraction, opening=True, AAA="12.3456"),
        prints_of(OPEN + MINUTE, AAA="12.3456"),
    )
    # 12.3456 x 0.9998 = 12.34313, down
    assert [(fill.quantity, fill.price) for fill in fills(events)] == [
        (2, Decimal("12.3456")),
        (exact("0.25"), Decimal("12.3431")),
    ]


def test_the_fills_are_said_before_the_quotes_and_the_quotes_close_no_bar() -> None:
    state = monday({"AAA": 1})
    _, events = play(state, tick(BEFORE, order("s", "AAA", -1, 1, auction=True)))
    assert events == [ev.OrderAccepted(BEFORE, "s")]
    state, _ = play(state, tick(BEFORE, order("s", "AAA", -1, 1, auction=True)))
    _, events = play(state, prints_of(OPEN, opening=True, AAA="10", BBB="20"))
    assert [type(event) for event in events] == [ev.OrderFilled, ev.QuotesReceived]
    quotes = events[1]
    assert isinstance(quotes, ev.QuotesReceived)
    assert quotes.closes_bar_ns == 0
    assert [(q.symbol, q.bid, q.ask, q.quoted_ns) for q in quotes.quotes] == [
        ("AAA", Decimal(10), Decimal("10.002"), OPEN),
        ("BBB", Decimal(20), Decimal("20.004"), OPEN),
    ]
    assert quotes.quotes[0].low == quotes.quotes[0].high == Decimal("10.001")


def test_a_print_off_the_grid_is_rounded_against_the_desk() -> None:
    state = monday({"AAA": 1}, cash="100")
    _, events = play(
        state,
        tick(BEFORE, order("s", "AAA", -1, 1, auction=True)),
        prints_of(OPEN, order("b", "BBB", +1, 1, "21"), opening=True, AAA="10.00019", BBB="20.00001"),
        prints_of(OPEN + MINUTE, BBB="20.00001"),
    )
    assert [fill.price for fill in fills(events)] == [Decimal("10.0001"), Decimal("20.0041")]  # 20.004010002, up


def test_a_buy_in_the_auction_pays_the_print_itself_rounded_up() -> None:
    _, events = play(
        monday(),
        tick(BEFORE, order("b", "BBB", +1, 3, "21", auction=True)),
        prints_of(OPEN, opening=True, BBB="20.00001"),
    )
    assert [fill.price for fill in fills(events)] == [Decimal("20.0001")]


def test_an_order_never_trades_at_a_price_printed_when_it_came_or_before() -> None:
    state = monday({"AAA": 5})
    now = OPEN + 10 * MINUTE
    state, events = play(state, prints_of(now, order("s", "AAA", -1, 5, "9"), AAA="10"), prints_of(now, AAA="10"))
    assert fills(events) == []
    _, events = play(state, prints_of(now + 1, AAA="9.5"))
    assert [fill.price for fill in fills(events)] == [Decimal("9.5")]


def test_a_limit_order_trades_only_where_it_is_marketable() -> None:
    state = monday({"AAA": 5}, cash="1000")
    state, events = play(
        state,
        tick(OPEN + 1, order("s", "AAA", -1, 5, "10.01"), order("b", "BBB", +1, 5, "20.0039")),
        prints_of(OPEN + MINUTE, AAA="10", BBB="20"),  # the bid is 10, the ask 20.004
    )
    assert fills(events) == []
    _, events = play(state, prints_of(OPEN + 2 * MINUTE, AAA="10.01", BBB="19.999"))
    assert [fill.price for fill in fills(events)] == [Decimal("10.01"), Decimal("20.0030")]  # 20.0029998, up


def test_orders_trade_in_the_order_they_came_and_a_symbol_that_is_not_printed_waits() -> None:
    state = monday({"AAA": 5, "BBB": 5, "CCC": 5})
    sells = [order(symbol, symbol, -1, 5, "1") for symbol in ("CCC", "AAA", "BBB")]
    state, events = play(state, tick(OPEN + 1, *sells), prints_of(OPEN + MINUTE, AAA="10", CCC="10"))
    assert [fill.symbol for fill in fills(events)] == ["CCC", "AAA"]
    assert [working.symbol for working in state.orders] == ["BBB"]


def test_selling_a_part_keeps_the_average_and_buying_more_moves_it() -> None:
    state = monday({"AAA": 4})
    state, _ = play(state, tick(OPEN + 1, order("s", "AAA", -1, 1)), prints_of(OPEN + MINUTE, AAA="20"))
    assert state.holdings == {"AAA": PaperPosition("AAA", 3, Decimal(10))}
    state, _ = play(
        state, tick(OPEN + 2 * MINUTE, order("b", "AAA", +1, 1, "31")), prints_of(OPEN + 3 * MINUTE, AAA="20")
    )
    assert state.holdings == {"AAA": PaperPosition("AAA", 4, Decimal("12.501"))}  # (3 x 10 + 20.004) / 4


@pytest.mark.parametrize(
    ("price", "ticks"),
    [(84.0780751871156, "84.0781"), (0.00005, "0.0000"), (0.00015, "0.0002"), (12.34565, "12.3456"), (7.0, "7.0000")],
)
def test_a_bar_s_price_is_put_on_the_grid_ties_to_even(price: float, ticks: str) -> None:
    assert str(on_grid(price)) == ticks


# --- life and refusals --------------------------------------------------------------------------------------------


def test_an_auction_order_without_a_print_is_canceled_at_the_opening_and_a_day_order_expires_at_the_end() -> None:
    state = monday({"AAA": 5, "BBB": 5})
    state, events = play(
        state,
        tick(BEFORE, order("a", "AAA", -1, 5, auction=True)),
        prints_of(OPEN, opening=True, BBB="10"),
        tick(OPEN + 1, order("d", "BBB", -1, 5, "11")),
        (ev.SessionEnded(CLOSE, MONDAY.date), ()),
    )
    assert ev.OrderCanceled(OPEN, "a") in events
    assert events[-1] == ev.OrderExpired(CLOSE, "d")
    assert (state.session, state.orders, state.asks, state.reserved) == (None, (), {}, NOTHING)


def test_an_auction_order_with_a_limit_beyond_the_print_is_canceled_at_the_opening() -> None:
    _, events = play(
        monday({"AAA": 5}),
        tick(BEFORE, order("a", "AAA", -1, 5, "11", auction=True)),
        prints_of(OPEN, opening=True, AAA="10"),
    )
    assert events[1] == ev.OrderCanceled(OPEN, "a")


def test_a_session_that_is_scheduled_over_another_ends_that_one_first() -> None:
    state = monday({"AAA": 5})
    state, _ = play(state, tick(OPEN + 1, order("d", "AAA", -1, 5, "11")))
    late = (ev.SessionScheduled(TUESDAY.open_ns - 1, TUESDAY, ()), ())
    state, events = play(state, late, late, (ev.SessionEnded(CLOSE, MONDAY.date), ()))
    assert events == [ev.OrderExpired(TUESDAY.open_ns - 1, "d")]
    assert (state.session, state.seen) == (TUESDAY, ())


def test_prices_of_another_session_trade_nothing() -> None:
    state, _ = play(monday({"AAA": 5}), tick(OPEN + 1, order("s", "AAA", -1, 5)))
    stray = ev.PricesPrinted(OPEN + MINUTE, TUESDAY.date, opening=False, prices=(ev.Price("AAA", Decimal(10)),))
    assert BROKER.step(state, stray) == (state, ())
    assert BROKER.step(BROKER.start(), stray) == (BROKER.start(), ())


def test_what_moves_nothing_is_passed_over() -> None:
    state = monday()
    assert play(state, tick(OPEN), tick(OPEN, WatchContracts(("AAA",)))) == (state, [])
    assert play(state, quoted(OPEN + 1, OPEN + 1, AAA=("10", "11"))) == (state, [])  # its own words


def test_every_refusal_says_what_is_wrong() -> None:
    state = monday({"AAA": 5}, cash="100")
    inside = OPEN + 5 * MINUTE
    _, events = play(
        state,
        tick(BEFORE, order("1", "AAA", -1, 5)),
        tick(OPEN - 2 * MINUTE, order("2", "AAA", -1, 5, auction=True), CancelOrder("2")),
        tick(OPEN - 2 * MINUTE + 1, order("3", "AAA", -1, 5, auction=True)),
        tick(
            inside,
            order("4", "AAA", -1, 0),
            order("5", "ZZZ", +1, 1, "1"),
            order("6", "AAA", -1, 6),
            order("7", "AAA", +1, 1, "0"),
            order("8", "AAA", +1, 1, "10.00001"),
            order("9", "AAA", +1, 1),
            order("10", "AAA", +1, 10, "9.991"),
            order("11", "AAA", -1, 3),
            order("12", "AAA", -1, 3),
        ),
        tick(CLOSE, order("13", "AAA", -1, 1)),
        (ev.SessionEnded(CLOSE, MONDAY.date), ()),
        tick(CLOSE + 1, order("14", "AAA", -1, 1)),
    )
    assert rejections(events) == [
        "the market is closed",
        "opg orders are accepted until two minutes before the open",
        "qty must be > 0 (requested: 0)",
        'asset "ZZZ" not found',
        "insufficient qty available for order (requested: 6, available: 5)",
        "limit price 0 must be a positive multiple of 0.0001",
        "limit price 10.00001 must be a positive multiple of 0.0001",
        "market order without a quote",
        "insufficient buying power (required: 100.009910, available: 100)",
        "insufficient qty available for order (requested: 3, available: 2)",
        "the market is closed",
        "no session is scheduled",
    ]
    assert ev.OrderCanceled(OPEN - 2 * MINUTE, "2") in events


def test_shares_that_are_no_longer_the_desk_s_can_still_be_sold() -> None:
    _, events = play(monday({"OLD": 2}), tick(OPEN + 1, order("s", "OLD", -1, 2)), prints_of(OPEN + MINUTE, OLD="10"))
    assert len(fills(events)) == 1


def test_working_buys_reserve_their_limit_and_cost_until_they_end() -> None:
    state = monday(cash="100")
    buy = order("b", "AAA", +1, 4, "24.9")  # 99.6 and 0.0996
    state, events = play(state, tick(OPEN + 1, buy, order("c", "BBB", +1, 1, "1")))
    assert state.reserved == Decimal("99.6996")
    assert rejections(events) == ["insufficient buying power (required: 1.001000, available: 0.300400)"]
    state, events = play(state, tick(OPEN + 2, CancelOrder("b")), tick(OPEN + 3, order("d", "BBB", +1, 99, "1")))
    assert state.reserved == Decimal("99.099")
    assert rejections(events) == []


def test_a_market_buy_that_became_dearer_than_the_cash_is_canceled() -> None:
    state, events = play(
        monday(cash="100"),
        prints_of(OPEN, opening=True, AAA="99"),
        tick(OPEN + 1, order("b", "AAA", +1, 1)),
        prints_of(OPEN + MINUTE, AAA="100"),
    )
    assert state.cash == 100
    assert (events[2], state.reserved) == (ev.OrderCanceled(OPEN + MINUTE, "b"), NOTHING)


def test_a_cancel_of_what_does_not_work_is_rejected_with_the_reason() -> None:
    state = monday({"AAA": 1})
    _, events = play(
        state,
        tick(OPEN + 1, order("s", "AAA", -1, 1)),
        prints_of(OPEN + MINUTE, CancelOrder("s"), CancelOrder("x"), AAA="10"),
    )
    assert events[2:4] == [
        ev.CancelRejected(OPEN + MINUTE, "s", "order is not cancelable"),
        ev.CancelRejected(OPEN + MINUTE, "x", "order not found"),
    ]


def test_a_name_used_twice_is_a_broken_caller() -> None:
    state, _ = play(monday({"AAA": 2}), tick(OPEN + 1, order("s", "AAA", -1, 1)))
    with pytest.raises(ValueError, match="'s' was submitted twice"):
        play(state, tick(OPEN + 2, order("s", "AAA", -1, 1)))


def test_the_broker_tells_what_it_holds_by_symbol() -> None:
    state, _ = play(monday({"BBB": 2, "AAA": 1}), tick(OPEN + 1, order("s", "AAA", -1, 1)))
    snapshot = broker_snapshot(state, OPEN + 2)
    assert snapshot.cash == 10000
    assert [(p.symbol, p.quantity, p.average_price) for p in snapshot.positions] == [
        ("AAA", Decimal(1), Decimal(10)),
        ("BBB", Decimal(2), Decimal(10)),
    ]
    assert snapshot.open_orders == ("s",)


# --- on a live feed -----------------------------------------------------------------------------------------------


def test_on_a_live_feed_quotes_from_outside_are_the_market_and_nothing_is_quoted() -> None:
    assert ev.QuotesReceived not in LIVE.EMITS
    assert ev.QuotesReceived in BROKER.EMITS
    state = monday({"AAA": 5, "CCC": 5}, cash="1000")
    state, events = play(
        state,
        tick(BEFORE, order("a", "AAA", -1, 5, auction=True), order("c", "CCC", -1, 5, auction=True)),
        quoted(OPEN - 1, OPEN - 1, AAA=("9", "11")),
        prints_of(OPEN, opening=True, AAA="10"),
        quoted(OPEN + 2 * SECOND, OPEN + SECOND, AAA=("9.98765", "10.1"), BBB=("0", "20.00001")),
        tick(OPEN + 3 * SECOND, order("b", "BBB", +1, 3), order("d", "AAA", +1, 1, "10.1")),
        quoted(OPEN + 4 * SECOND, OPEN + 2 * SECOND, BBB=("19", "20")),
        quoted(OPEN + 5 * SECOND, OPEN + 4 * SECOND, BBB=("19.9", "20.00001"), AAA=("10", "0")),
        broker=LIVE,
    )
    first, second = fills(events)
    assert (first.price, first.filled_ns, first.cumulative_fees) == (
        Decimal("9.9876"),
        OPEN + SECOND,
        Decimal("0.049938"),
    )
    assert (second.price, second.filled_ns) == (Decimal("20.0001"), OPEN + 4 * SECOND)
    assert [working.client_order_id for working in state.orders] == ["c", "d"]  # no quote, and no offer
    for late in (quoted(OPEN + 2 * MINUTE, OPEN + MINUTE), tick(OPEN + 2 * MINUTE)):
        assert play(state, late, broker=LIVE)[1] == [ev.OrderCanceled(OPEN + 2 * MINUTE, "c")]
    assert play(state, tick(OPEN + 2 * MINUTE - 1), broker=LIVE)[1] == []


def test_on_a_live_feed_quotes_outside_of_a_session_trade_nothing() -> None:
    early = quoted(OPEN, OPEN, AAA=("9", "11"))
    assert play(LIVE.start(), early, broker=LIVE) == (LIVE.start(), [])
    state, _ = play(monday({"AAA": 5}), tick(OPEN + 1, order("s", "AAA", -1, 5)), broker=LIVE)
    assert play(state, quoted(CLOSE, CLOSE, AAA=("9", "11")), broker=LIVE)[1] == []


# --- always -------------------------------------------------------------------------------------------------------

PRICE = st.integers(1, 10**6).map(lambda ticks: Decimal(ticks).scaleb(-4))


@given(
    prints=st.lists(st.lists(PRICE, min_size=3, max_size=3), min_size=1, max_size=8),
    orders=st.lists(
        st.tuples(
            st.integers(0, 8),
            st.sampled_from(SYMBOLS),
            st.sampled_from((1, -1)),
            st.integers(1, 5000),
            st.none() | PRICE,
        ),
        max_size=12,
    ),
)
def test_the_cash_never_falls_below_0_nothing_is_short_and_money_is_conserved_through_json(
    prints: list[list[Decimal]], orders: list[tuple[int, str, int, int, Decimal | None]]
) -> None:
    state = monday({"AAA": 50})
    exact = Fraction(state.cash)
    for minute, prices in enumerate(prints):
        now = OPEN + minute * MINUTE
        for number, (at, symbol, side, quantity, limit) in enumerate(orders):
            if at == minute:
                state, _ = play(state, tick(now, SubmitOrder(f"{number}", symbol, side, quantity, limit, "", CLOSE)))
        minute_prices = tuple(ev.Price(symbol, price) for symbol, price in zip(SYMBOLS, prices, strict=True))
        state, events = BROKER.step(
            state, ev.PricesPrinted(now + 1, MONDAY.date, opening=minute == 0, prices=minute_prices)
        )
        for fill in fills(events):
            exact -= fill.side * Fraction(fill.price) * fill.quantity + Fraction(fill.cumulative_fees)
            assert abs(Fraction(fill.cumulative_fees) - Fraction(fill.cumulative_cost) / 1000) <= Fraction(1, 2 * 10**6)
        state = msgspec.json.decode(msgspec.json.encode(state, order="deterministic"), type=SharePaperState)
        assert Fraction(state.cash) == exact >= 0
        assert all(holding.quantity > 0 for holding in state.holdings.values())
        assert state.reserved == sum(working.reserved for working in state.orders)


# --- stops that rest ----------------------------------------------------------------------------------------------

BY_BAR = SharePaperBroker(TRADING, SYMBOLS, by_bar=True)


def stop(name: str, quantity: int, price: str) -> SubmitOrder:
    return SubmitOrder(name, "AAA", -1, quantity, None, "", CLOSE, stop_price=Decimal(price))


def minute_bar(minute: int, open_: float, low: float, *effects: Effect) -> Steps:
    start = OPEN + minute * MINUTE
    return ev.BarClosed(start + MINUTE, Bar("AAA", start, open_, open_ + 1, low, open_ + 0.5, 1000.0)), effects


def day_bar(session: Session, low: float) -> Steps:
    midnight = session.open_ns - (9 * 60 + 30) * MINUTE
    return ev.BarClosed(session.close_ns, Bar("AAA", midnight, 10.0, 11.0, low, 10.5, 1000.0)), ()


@pytest.mark.parametrize(
    ("open_", "low", "price"),
    [
        (8.0, 7.9, "8"),  # the open is at it: the open
        (7.5, 7.4, "7.5"),  # the open is below it: the open
        (9.0, 8.0, "7.9984"),  # touched within the bar: the stop less 2 bp
        (9.0, 8.0001, ""),
    ],
)
def test_a_stop_sells_at_a_bar_s_open_below_it_else_at_its_price_less_the_wait(
    open_: float, low: float, price: str
) -> None:
    state, events = play(monday({"AAA": 10}), tick(OPEN, stop("s", 10, "8")), minute_bar(0, open_, low), broker=BY_BAR)
    assert [(fill.price, fill.quantity) for fill in fills(events)] == ([(Decimal(price), 10)] if price else [])
    assert [order.client_order_id for order in state.orders] == ([] if price else ["s"])


def test_no_bar_that_began_before_the_stop_elects_it() -> None:
    stop_step = (ev.ClockTicked(OPEN + 5 * SECOND), (stop("s", 10, "8"),))
    state, events = play(monday({"AAA": 10}), stop_step, minute_bar(0, 9.0, 7.0), broker=BY_BAR)
    assert (fills(events), len(state.orders)) == ([], 1)
    assert [fill.price for fill in fills(play(state, minute_bar(1, 9.0, 7.0), broker=BY_BAR)[1])] == [Decimal("7.9984")]


def test_a_stop_and_a_sale_never_sell_more_than_is_held() -> None:
    _, events = play(monday({"AAA": 10}), tick(OPEN, stop("s", 6, "8"), order("x", "AAA", -1, 5)))
    assert rejections(events) == ["insufficient qty available for order (requested: 5, available: 4)"]


def test_a_stop_off_the_grid_is_refused() -> None:
    _, events = play(monday({"AAA": 10}), tick(OPEN, stop("s", 6, "8.00005")))
    assert rejections(events) == ["stop price 8.00005 must be a positive multiple of 0.0001"]


def test_a_stop_rests_over_the_night_and_the_next_opening_print_below_it_sells() -> None:
    state, events = play(
        monday({"AAA": 10}),
        tick(OPEN, stop("s", 6, "8"), order("x", "AAA", -1, 4, "12")),
        prints_of(OPEN + MINUTE, AAA="9"),
        day_bar(MONDAY, 8.5),
        (ev.SessionEnded(CLOSE, MONDAY.date), ()),
        (ev.SessionScheduled(TUESDAY.open_ns - 30 * MINUTE, TUESDAY, ()), ()),
    )
    assert [event.client_order_id for event in events if isinstance(event, ev.OrderExpired)] == ["x"]
    assert (fills(events), [o.client_order_id for o in state.orders]) == ([], ["s"])
    gap = ev.PricesPrinted(TUESDAY.open_ns, TUESDAY.date, opening=True, prices=(ev.Price("AAA", Decimal("6.5")),))
    state, events = play(state, (gap, ()))
    assert [(fill.price, fill.quantity) for fill in fills(events)] == [(Decimal("6.5"), 6)]
    assert (state.holdings["AAA"].quantity, state.orders) == (4, ())


def test_a_day_s_low_elects_a_stop_of_before_or_of_its_first_minutes_alone() -> None:
    late, early = OPEN + 381 * MINUTE, OPEN + MINUTE
    for sent_ns, prices in ((early, [Decimal("7.9984")]), (late, [])):
        stop_step = (ev.ClockTicked(sent_ns), (stop("s", 10, "8"),))
        assert [fill.price for fill in fills(play(monday({"AAA": 10}), stop_step, day_bar(MONDAY, 7.0))[1])] == prices
    other_day = day_bar(Session(MONDAY.date, MONDAY.open_ns - 1440 * MINUTE, CLOSE - 1440 * MINUTE), 7.0)
    assert fills(play(monday({"AAA": 10}), tick(OPEN, stop("s", 10, "8")), other_day)[1]) == []


def test_on_a_live_feed_the_middle_elects_it_and_it_sells_at_the_bid() -> None:
    state, _ = play(monday({"AAA": 10}), tick(OPEN, stop("s", 10, "8")), broker=LIVE)
    state, events = play(state, quoted(OPEN + 2 * SECOND, OPEN + SECOND, AAA=("8.05", "8.10")), broker=LIVE)
    assert fills(events) == []
    low = ev.Quote("AAA", Decimal("8.04"), Decimal("8.06"), Decimal("7.99"), Decimal("8.2"), OPEN + 3 * SECOND)
    _, events = play(state, (ev.QuotesReceived(OPEN + 3 * SECOND, 0, (low,)), ()), broker=LIVE)
    assert [fill.price for fill in fills(events)] == [Decimal("8.04")]


def test_an_older_state_has_no_stop_in_its_text() -> None:
    state, _ = play(monday({"AAA": 10}), tick(OPEN, order("x", "AAA", -1, 4, "12")))
    assert b"stop_price" not in msgspec.json.encode(state)


# --- corporate actions of a dry run on a live feed --------------------------------------------------------------------


def announced(symbol: str, kind: str, day: str = TUESDAY.date, **figures: str) -> ev.Announcement:
    values = {name: value if name == "paid" else Decimal(value) for name, value in figures.items()}
    return ev.Announcement(symbol, kind, day, **values)  # type: ignore[arg-type]


def read(day: Session, *actions: ev.Announcement) -> Steps:
    return ev.ActionsAnnounced(day.open_ns - 20 * MINUTE, day.date, actions), ()


def over_night(state: SharePaperState, *steps: Steps) -> tuple[SharePaperState, list[ev.Event]]:
    """Nothing is announced for Monday, whose session ends; then Tuesday is scheduled."""
    schedule = ev.SessionScheduled(TUESDAY.open_ns - 30 * MINUTE, TUESDAY, ())
    ended = ev.SessionEnded(CLOSE, MONDAY.date)
    return play(state, read(MONDAY), (ended, ()), (schedule, ()), *steps, broker=LIVE)


def lines(events: Iterable[ev.Event]) -> list[tuple[str, str, str, str]]:
    booked = [line for event in events if isinstance(event, ev.LedgerBooked) for line in event.activities]
    return [(line.kind, line.symbol, str(line.quantity), str(line.amount)) for line in booked]


def test_a_split_changes_number_and_average_and_pays_for_the_fraction_of_a_whole_holding() -> None:
    three_for_two = announced("AAA", "split", new="3", old="2", price="12")
    state, events = over_night(monday({"AAA": 15, "BBB": 7}), read(TUESDAY, three_for_two))
    assert {it.symbol: (it.quantity, round(it.average_price, 4)) for it in state.holdings.values()} == {
        "AAA": (22, Decimal("6.6667")),
        "BBB": (7, Decimal(10)),
    }
    assert lines(events) == [("SPLIT", "AAA", "7.5", "0"), ("CIL", "AAA", "-0.5", "4.00")]  # half of 12 x 2 / 3
    assert state.cash == Decimal(10_004)


def test_a_fraction_that_is_held_splits_exactly_and_a_reverse_split_may_leave_nothing_but_cash() -> None:
    state = monday({"BBB": 5})
    state = replace(state, holdings={**state.holdings, "AAA": PaperPosition("AAA", exact("5.3"), Decimal(10))})
    two, tenth = announced("AAA", "split", new="2", old="1"), announced("BBB", "split", new="1", old="10")
    state, events = over_night(state, read(TUESDAY, two, tenth))
    assert {it.symbol: it.quantity for it in state.holdings.values()} == {"AAA": exact("10.6")}
    assert lines(events) == [
        ("SPLIT", "AAA", "5.3", "0"),
        ("SPLIT", "BBB", "-4.5", "0"),
        ("CIL", "BBB", "-0.5", "50.00"),
    ]


def test_an_announcement_counts_once_and_only_for_what_was_held_before_its_day() -> None:
    double = announced("AAA", "split", new="2", old="1")
    state, events = over_night(monday({"AAA": 10}), read(TUESDAY, double), read(TUESDAY, double))
    assert state.holdings["AAA"].quantity == 20
    assert len(lines(events)) == 1
    early = announced("AAA", "split", "2024-06-28", new="3", old="1")  # before the first that was read
    state, events = play(state, read(TUESDAY, early), broker=LIVE)
    assert (state.holdings["AAA"].quantity, events) == (20, [])


def test_shares_bought_at_the_new_price_are_not_split_by_what_is_read_late() -> None:
    state, _ = over_night(monday({"AAA": 10}))
    now = TUESDAY.open_ns + MINUTE
    bought = ("10.00", "10.01")
    state, _ = play(
        state,
        tick(now, order("b", "BBB", 1, 4, "11")),
        quoted(now + SECOND, now + SECOND, AAA=bought, BBB=bought),
        (
            ev.ActionsAnnounced(
                now + MINUTE, TUESDAY.date, tuple(announced(s, "split", new="2", old="1") for s in ("AAA", "BBB"))
            ),
            (),
        ),
        broker=LIVE,
    )
    assert {it.symbol: it.quantity for it in state.holdings.values()} == {"AAA": 20, "BBB": 4}


def test_a_dividend_is_paid_on_its_day_for_what_was_held_before_its_ex_date_and_sold_since() -> None:
    pays = announced("AAA", "dividend", cash="0.333", paid=HALF_DAY.date)
    state, events = over_night(monday({"AAA": 10}), read(TUESDAY, pays))
    assert (lines(events), state.cash) == ([], Decimal(10_000))
    now = TUESDAY.open_ns + MINUTE
    state, _ = play(
        state,
        tick(now, order("s", "AAA", -1, 10)),
        quoted(now + SECOND, now + SECOND, AAA=("10", "10.01")),
        broker=LIVE,
    )
    state, _ = play(state, (ev.SessionEnded(TUESDAY.close_ns, TUESDAY.date), ()), broker=LIVE)
    cash = state.cash
    state = msgspec.json.decode(msgspec.json.encode(state), type=SharePaperState, dec_hook=from_json)
    state, events = play(
        state,
        (ev.SessionScheduled(HALF_DAY.open_ns - 30 * MINUTE, HALF_DAY, ()), ()),
        read(HALF_DAY, pays),
        broker=LIVE,
    )
    assert lines(events) == [("DIV", "AAA", "0", "3.33")]
    assert state.cash == cash + Decimal("3.33")


def test_two_dividends_of_one_day_are_two_and_count_before_its_split() -> None:
    actions = [announced("AAA", "dividend", cash=cash, paid=TUESDAY.date) for cash in ("0.5", "2")]
    actions.append(announced("AAA", "split", new="2", old="1"))
    _, events = over_night(monday({"AAA": 10}), read(TUESDAY, *actions))
    assert lines(events) == [("SPLIT", "AAA", "10", "0"), ("DIV", "AAA", "0", "5.00"), ("DIV", "AAA", "0", "20.00")]


def test_by_a_tape_nothing_is_announced_and_the_state_of_before_has_no_new_text() -> None:
    state, events = play(monday({"AAA": 10}), read(MONDAY, announced("AAA", "split", MONDAY.date, new="2", old="1")))
    assert (state.holdings["AAA"].quantity, events) == (10, [])
    assert not {"actions", "bought"} & msgspec.json.decode(msgspec.json.encode(state)).keys()
