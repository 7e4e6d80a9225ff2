"""Money by hand: fills, partial sales, corrections, expiry, exercise; cash + cost = start + transfers + realised."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.book import book_expiry, book_fill, is_news, mark, mid, move_shares
from daemon.core.events import Contract, ContractExpired, OrderFilled
from daemon.core.orders import Order
from daemon.core.state import Book, Position
from tests.support.core.desk import CALL, PUT, at_cost, contract, quote

START = Book(cash=Decimal(10000))
OPTION = contract(CALL)


def order(
    side: int = 1, quantity: int = 10, filled: int = 0, cost: str = "0", fees: str = "0", correction: int = 0
) -> Order:
    purpose = "entry" if side > 0 else "exit"
    return Order(
        f"o{side}", "1.0", purpose, "policy", CALL, side, quantity, None, "accepted", 0,
        filled, Decimal(cost), Decimal(fees), correction,
    )  # fmt: skip


def fill(
    cumulative: int, cost: str, fees: str = "0", side: int = 1, correction: int = 0, symbol: str = CALL
) -> OrderFilled:
    price = Decimal(cost) / cumulative if cumulative else Decimal(0)
    return OrderFilled(
        9, f"o{side}", symbol, side, price, 7, cumulative, Decimal(cost), Decimal(fees), cumulative, correction
    )


def long(quantity: int, cost: str) -> Book:
    position = Position(CALL, 1, quantity, Decimal(cost), 100, 0, "2024-07-02")
    return Book(cash=Decimal(10000) - Decimal(cost) * 100, positions={CALL: position})


def test_a_purchase_costs_its_premium_and_its_fees() -> None:
    booking = book_fill(START, order(), fill(3, "6.03", "0.15"), OPTION)
    assert booking.book.cash == Decimal("9396.85")  # 10000 - 603 - 0.15
    assert booking.book.positions[CALL] == Position(
        CALL, 1, 3, Decimal("6.03"), 100, 7, "2024-07-02", pnl=Decimal("-0.15")
    )
    assert (booking.book.realized, booking.book.fees, booking.quantity) == (Decimal("-0.15"), Decimal("0.15"), 3)


def test_a_partial_sale_realises_its_share_of_the_cost() -> None:
    booking = book_fill(long(9, "18.10"), order(-1), fill(4, "9.00", "0.20", side=-1), OPTION)
    # 18.10 x 4 / 9 = 8.0444 of the cost; 900.00 - 804.44 - 0.20
    assert booking.book.realized == Decimal("95.36")
    assert booking.book.positions[CALL].cost == Decimal("10.0556")
    assert booking.closed is None
    assert at_cost(booking.book) == Decimal(10000) + booking.book.realized


def test_the_last_sale_closes_the_position_with_all_it_earned() -> None:
    first = book_fill(long(9, "18.10"), order(-1), fill(4, "9.00", side=-1), OPTION)
    last = book_fill(first.book, first.order, fill(9, "21.00", "0.50", side=-1), OPTION)
    assert last.closed is not None
    assert last.closed.pnl == Decimal("289.50")  # 2100 - 1810 - 0.50
    assert (last.book.positions, last.book.realized) == ({}, Decimal("289.50"))
    assert last.book.cash == Decimal("10289.50")


def test_a_fill_heard_twice_or_after_a_later_one_books_nothing() -> None:
    buy = order(filled=5, cost="10", fees="0.25")
    for news in (fill(5, "10", "0.25"), fill(3, "6", "0.15")):
        booking = book_fill(long(5, "10"), buy, news, OPTION)
        assert (booking.quantity, booking.order, booking.book) == (0, buy, long(5, "10"))
        assert not is_news(buy, news)


def test_quantities_are_set_from_the_cumulative_figures_so_a_lost_fill_is_made_up() -> None:
    first = book_fill(START, order(), fill(2, "4.00"), OPTION)
    third = book_fill(first.book, first.order, fill(7, "14.10"), OPTION)
    assert (third.quantity, third.book.positions[CALL].quantity) == (5, 7)
    assert third.book.cash == Decimal(8590)


def test_a_sale_beyond_the_position_is_refused() -> None:
    with pytest.raises(ValueError, match="a sale never exceeds the position"):
        book_fill(long(3, "6"), order(-1), fill(4, "8", side=-1), OPTION)
    with pytest.raises(ValueError, match="against 0 held"):
        book_fill(START, order(-1), fill(1, "2", side=-1), OPTION)


def test_a_price_correction_moves_cash_and_cost_alone() -> None:
    booking = book_fill(long(5, "10"), order(filled=5, cost="10"), fill(5, "10.50", correction=1), OPTION)
    assert booking.book.positions[CALL].cost == Decimal("10.50")
    assert (booking.quantity, booking.book.cash, booking.book.realized) == (0, Decimal(8950), Decimal(0))


def test_a_price_correction_after_the_position_closed_is_realised() -> None:
    sale = order(-1, quantity=5, filled=5, cost="12")
    booking = book_fill(START, sale, fill(5, "11.50", side=-1, correction=1), OPTION)
    assert (booking.book.cash, booking.book.realized, booking.book.positions) == (Decimal(9950), Decimal(-50), {})
    assert booking.closed is None
    purchase = book_fill(START, order(filled=5, cost="10"), fill(5, "10.10", correction=1), OPTION)
    assert (purchase.book.cash, purchase.book.realized, purchase.book.positions) == (Decimal(9990), Decimal(-10), {})


def test_a_busted_purchase_takes_its_contracts_back() -> None:
    booking = book_fill(long(5, "10"), order(filled=5, cost="10"), fill(3, "6", correction=1), OPTION)
    assert (booking.book.positions[CALL].quantity, booking.book.cash) == (3, Decimal(9400))
    whole = book_fill(long(5, "10"), order(filled=5, cost="10"), fill(0, "0", correction=1), OPTION)
    assert (whole.book.positions, whole.book.cash, whole.book.realized) == ({}, Decimal(10000), Decimal(0))
    assert whole.closed is not None


def test_a_busted_sale_returns_its_contracts_at_what_they_were_sold_for() -> None:
    booking = book_fill(START, order(-1, filled=5, cost="12"), fill(2, "5", side=-1, correction=1), OPTION)
    assert (booking.book.positions[CALL].quantity, booking.book.positions[CALL].cost) == (3, Decimal(7))
    assert at_cost(booking.book) == Decimal(10000)


def test_shares_count_once_each() -> None:
    booking = book_fill(START, order(), fill(10, "100.00", symbol="SPY"), None)
    assert (booking.book.cash, booking.book.positions["SPY"].right) == (Decimal(9900), 0)


def expired(symbol: str, shares: int = 0, strike: str = "500", quantity: int = 1) -> ContractExpired:
    return ContractExpired(99, symbol, quantity, "SPY", shares, Decimal(strike))


def exercised(book: Book, event: ContractExpired) -> Book:
    """The book after both moves of an exercise."""
    book, _ = book_expiry(book, event)
    return move_shares(book, event.underlying, event.shares, -event.strike * event.shares, event.time_ns)


def test_a_worthless_expiry_realises_the_whole_cost() -> None:
    book, position = book_expiry(long(5, "10"), expired(CALL, quantity=5))
    assert (book.cash, book.realized, book.positions) == (Decimal(9000), Decimal(-1000), {})
    assert position is not None
    assert position.pnl == Decimal(-1000)


def test_an_exercise_turns_the_premium_into_a_loss_and_the_strike_into_shares() -> None:
    book = exercised(long(1, "2"), expired(CALL, shares=100))
    shares = book.positions["SPY"]
    assert (shares.quantity, shares.cost, shares.multiplier) == (100, Decimal(50000), 1)
    assert book.cash == Decimal(10000 - 200 - 50000)
    assert at_cost(book) == Decimal(10000) + book.realized == Decimal(9800)


def test_shares_of_a_call_and_a_put_cancel_out_and_their_difference_is_realised() -> None:
    put = Position(PUT, -1, 1, Decimal(3), 100, 0, "2024-07-02")
    book = exercised(long(1, "2"), expired(CALL, shares=100, strike="500"))
    book = exercised(Book(book.cash, {**book.positions, PUT: put}, book.realized), expired(PUT, -100, "505"))
    assert book.positions == {}
    assert book.realized == Decimal(-200 - 300 + 500)
    assert at_cost(book) == Decimal(10000) + 300 + book.realized  # the put's cost was added by hand above


@pytest.mark.parametrize(
    ("shares_before", "cost", "strike", "shares", "shares_after", "cost_after", "gain"),
    [
        (300, "144000", "505", -100, 200, "96000", 2500),  # a put takes a third of what cost 480 each
        (-300, "-151500", "500", 100, -200, "-101000", 500),  # a call gives back a third of what was sold at 505
        (100, "48000", "505", -300, -200, "-101000", 2500),  # a put takes more than there is
        (100, "48000", "500", 100, 200, "98000", 0),  # a call adds
    ],
)
def test_what_an_exercise_takes_of_a_holding_is_realised_at_its_part_of_the_cost(
    shares_before: int, cost: str, strike: str, shares: int, shares_after: int, cost_after: str, gain: int
) -> None:
    holding = Position("SPY", 0, shares_before, Decimal(cost), 1, 0, "")
    book = Book(Decimal(10000), {CALL: Position(CALL, 1, 1, Decimal(2), 100, 0, "2024-07-02"), "SPY": holding})
    after = exercised(book, expired(CALL, shares, strike))
    assert (after.positions["SPY"].quantity, after.positions["SPY"].cost) == (shares_after, Decimal(cost_after))
    assert (after.realized, after.positions["SPY"].pnl) == (Decimal(gain - 200), Decimal(gain))
    assert at_cost(after) == at_cost(book) + after.realized


def test_an_expiry_of_what_is_not_held_changes_nothing() -> None:
    assert book_expiry(START, expired(CALL)) == (START, None)


def test_the_mark_is_the_mid_to_the_half_cent() -> None:
    assert mid(quote(CALL, "1.98", "2.01")) == Decimal("1.995")


def test_equity_marks_options_at_the_mid_shares_at_the_last_price_and_the_unquoted_at_cost() -> None:
    positions = {
        CALL: Position(CALL, 1, 2, Decimal(4), 100, 0, ""),
        PUT: Position(PUT, -1, 1, Decimal(3), 100, 0, ""),
        "SPY": Position("SPY", 0, -100, Decimal(-50000), 1, 0, ""),
    }
    book = mark(Book(Decimal(60000), positions), {CALL: Decimal("2.52")}, 500.125)
    assert book.equity == Decimal(60000) + 504 + 300 - Decimal("50012.50")
    unknown = mark(Book(Decimal(60000), positions), {}, 0.0)
    assert unknown.equity == Decimal(60000 + 400 + 300 - 50000)


def test_the_peak_only_rises_and_the_drawdown_keeps_its_worst() -> None:
    book = mark(Book(cash=Decimal(100)), {}, 0)
    for cash, drawdown in ((200, 0.0), (150, 0.25), (180, 0.25), (100, 0.5)):
        book = mark(Book(Decimal(cash), equity=book.equity, peak=book.peak, max_drawdown=book.max_drawdown), {}, 0)
        assert (book.peak, book.max_drawdown) == (Decimal(200), drawdown)
    assert mark(book, {}, 0) is book
    broke = mark(Book(cash=Decimal(-1)), {}, 0)
    assert (broke.equity, broke.peak, broke.max_drawdown) == (Decimal(-1), Decimal(0), 0.0)


CENTS = st.integers(1, 5000).map(lambda cents: Decimal(cents) / 100)
FEES = st.integers(0, 300).map(lambda cents: Decimal(cents) / 100)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9), CENTS, FEES), max_size=20))
def test_cash_and_positions_at_cost_are_always_start_and_realised(
    trades: list[tuple[bool, int, Decimal, Decimal]],
) -> None:
    book, option = START, Contract(CALL, "2024-07-02", 1, Decimal(500), 1)
    for buys, size, price, fees in trades:
        quantity_before = book.positions[CALL].quantity if CALL in book.positions else 0
        side, quantity = (1, size) if buys or not quantity_before else (-1, min(size, quantity_before))
        news = OrderFilled(9, "o", CALL, side, price, 7, quantity, price * quantity, fees, quantity)
        booking = book_fill(book, Order("o", "", "", "", CALL, side, quantity, None, "accepted", 0), news, option)
        book = booking.book
        assert at_cost(book) == Decimal(10000) + book.realized
        assert (booking.closed is not None) == (side < 0 and quantity == quantity_before)
