"""The broker's word against the book: adopted once, compared ever after, named where it differs, never invented."""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.orders import CANCELED, CANCELING, FILLED, PARTIAL
from daemon.core.state import encode_state
from tests.support.core.desk import (
    BUY_CALL,
    CALL,
    EXIT,
    OPEN,
    PUT,
    Desk,
    alarms,
    canceling,
    desk,
    sent,
    snapshot_of,
)


def test_a_new_journal_adopts_the_cash_of_an_empty_account() -> None:
    d = Desk()
    assert not d.state.risk.reconciled
    d.put(ev.BrokerSnapshot(OPEN, Decimal("12345.67"), (), ()))
    book = d.state.book
    assert (book.cash, book.equity, book.peak, book.session_start_equity) == (Decimal("12345.67"),) * 4
    assert d.state.risk.reconciled


@pytest.mark.parametrize(
    ("positions", "orders", "words"),
    [((ev.BrokerPosition(CALL, Decimal(2), Decimal(1)),), (), CALL), ((), ("by-hand",), "by-hand")],
)
def test_a_new_journal_on_an_account_that_is_not_empty_halts_and_names_what_it_found(
    positions: tuple[ev.BrokerPosition, ...], orders: tuple[str, ...], words: str
) -> None:
    d = Desk()
    d.put(ev.BrokerSnapshot(OPEN, Decimal(10000), positions, orders))
    assert (d.halted(), d.state.risk.reconciled, d.state.book.cash) == ("reconciliation", False, Decimal(0))
    assert words in str(d.state.risk.halt)


def test_an_agreeing_snapshot_reconciles_and_the_same_again_changes_nothing() -> None:
    d = desk(mode="live")
    d.holds()
    d.bar(1)
    d.accept(sent(d.answer(EXIT)).client_order_id)
    d.put(ev.RunStarted(d.at(2), "live", "desk-1", "pointer", "e1", "c", "sip", d.state.trading))
    assert not d.state.risk.reconciled
    assert d.put(snapshot_of(d)) == []
    first = encode_state(d.state)
    assert d.put(snapshot_of(d)) == []
    assert (d.state.risk.reconciled, encode_state(d.state)) == (True, first)


@pytest.mark.parametrize("difference", ["cash", "missing", "foreign", "short", "order", "lost order"])
def test_every_difference_halts_is_named_and_moves_no_money(difference: str) -> None:
    d = desk()
    d.holds()
    d.bar(1)
    order = sent(d.answer(EXIT)).client_order_id
    good, book = snapshot_of(d), d.state.book
    snapshot, words = {
        "cash": (replace(good, cash=good.cash - 1), "cash: broker 8199.00 USD, book 8200.00 USD"),
        "missing": (replace(good, positions=()), f"{CALL}: broker 0, book 9"),
        "foreign": (
            replace(good, positions=(*good.positions, ev.BrokerPosition(PUT, Decimal(1), Decimal(1)))),
            f"{PUT}: broker 1, book 0",
        ),
        "short": (replace(good, positions=(ev.BrokerPosition(CALL, Decimal(-9), Decimal(1)),)), "broker -9, book 9"),
        "order": (replace(good, open_orders=(order, "by-hand")), "order by-hand: at the broker only"),
        "lost order": (replace(good, open_orders=()), f"order {order}: in the book only"),
    }[difference]
    d.put(snapshot)
    assert (d.halted(), d.state.risk.reconciled, d.state.book) == ("reconciliation", False, book)
    assert words in str(d.state.risk.halt)


def test_the_snapshot_of_a_broker_that_agrees_again_lets_new_risk_in_only_after_a_resume() -> None:
    d = desk()
    good = snapshot_of(d)
    d.put(replace(good, cash=Decimal(1)), good)
    assert (d.halted(), d.state.risk.reconciled) == ("reconciliation", True)
    d.bar(0)
    d.answer(BUY_CALL)
    assert list(d.state.stats.denials) == ["halted"]


def test_a_resume_does_not_reconcile() -> None:
    d = desk()
    d.put(replace(snapshot_of(d), cash=Decimal(1)), ev.ResumeRequested(OPEN, "never mind", "ann"))
    d.bar(0)
    d.answer(BUY_CALL)
    assert list(d.state.stats.denials) == ["not_reconciled"]


@pytest.mark.parametrize(
    "event",
    [
        ev.OrderAccepted(OPEN, "by-hand"),
        ev.OrderCanceled(OPEN, "by-hand"),
        ev.OrderFilled(OPEN, "by-hand", CALL, 1, Decimal(2), OPEN, 1, Decimal(2), Decimal(0), 1),
    ],
    ids=lambda event: type(event).__name__,
)
def test_news_about_an_order_that_is_not_ours_moves_no_money_and_stops_new_risk(event: ev.Event) -> None:
    d = desk()
    book = d.state.book
    assert (alarms(d.put(event)), alarms(d.put(event))) == (["foreign_order"], [])
    assert (d.state.book, d.state.orders) == (book, {})
    d.bar(0)
    d.answer(BUY_CALL)
    assert list(d.state.stats.denials) == ["not_reconciled"]


def test_the_same_fill_heard_twice_from_stream_and_activities_is_booked_once() -> None:
    d = desk()
    order = d.buys()
    d.fill(order, 4)
    before = d.state
    assert d.fill(order, 4) == []
    assert d.state == replace(before, seq=before.seq + 1)


def test_fills_in_any_order_come_to_the_same_book() -> None:
    cumulative = {3: "6.00", 5: "10.10", 9: "18.30"}
    books = []
    for order_of in ((3, 5, 9), (9, 5, 3), (5, 3, 9), (5, 9, 5)):
        d = desk()
        order = d.buys()
        for quantity in order_of:
            d.fill(order, quantity, cost=cumulative[quantity])
        books.append((d.state.book.cash, d.held, d.order(order).status))
    assert books == [(Decimal("8170.00"), {CALL: 9}, FILLED)] * 4


def test_a_fill_before_the_acceptance_and_an_acceptance_after_it_are_one_order() -> None:
    d = desk()
    d.bar(0)
    order = sent(d.answer(BUY_CALL)).client_order_id
    d.fill(order, 4)
    assert d.order(order).status == PARTIAL
    assert d.accept(order) == []
    assert d.order(order).status == PARTIAL
    assert d.state.risk.outcomes == (False,)


def test_a_fill_after_the_cancel_wins_even_when_the_money_has_moved_to_other_strikes() -> None:
    d = desk()
    order = d.buys()
    d.put(ev.HaltRequested(d.at(1), "operator", "x", "ann"))
    d.canceled(order)
    for minute in range(1, 5):
        d.bar(minute, 504.0)
    assert CALL not in d.state.watched
    d.fill(order, 2, "2.00")
    position = d.state.book.positions[CALL]
    assert (d.order(order).status, position.quantity, position.right, position.multiplier) == (CANCELED, 2, 1, 100)
    assert d.state.book.cash == Decimal(9600)
    d.bar(5, 504.0)
    assert CALL in d.state.watched


@pytest.mark.parametrize(
    ("quantity", "symbol", "side"), [(10, CALL, 1), (1, PUT, 1), (1, CALL, -1)], ids=["too many", "symbol", "side"]
)
def test_a_fill_that_is_not_what_was_ordered_halts_and_is_not_booked(quantity: int, symbol: str, side: int) -> None:
    d = desk()
    order = d.buys()
    effects = d.fill(order, quantity, symbol=symbol, side=side)
    assert (alarms(effects), canceling(effects), d.held) == (["fill_mismatch"], [order], {})
    assert (d.halted(), d.state.risk.reconciled) == ("fill_mismatch", False)


def test_a_sale_of_more_than_the_book_holds_halts_instead_of_going_short() -> None:
    d = desk()
    d.holds()
    d.bar(1)
    first = sent(d.answer(EXIT)).client_order_id
    d.bar(2)
    second = sent(d.canceled(first)).client_order_id
    d.fill(first, 9, "1.90")
    d.fill(second, 1, "1.90")
    assert (d.halted(), d.held, d.state.risk.reconciled) == ("fill_mismatch", {}, False)
    assert d.state.risk.halt is not None
    assert d.state.risk.halt.detail.endswith(f"filled sell 1 {CALL}, ordered sell 9 {CALL}, held 0")


def test_an_unknown_order_counts_as_exposure_until_the_broker_has_spoken() -> None:
    d = desk()
    d.bar(0)
    order = sent(d.answer(BUY_CALL)).client_order_id
    d.put(ev.OrderUnknown(d.at(1, 10), order))
    d.bar(1)
    d.answer(BUY_CALL)
    denials = d.state.stats.denials
    assert {"duplicate_intent", "max_position"} <= set(denials)
    assert canceling(d.bar(2)) == []
    assert canceling(d.accept(order)) == [order]  # found, and too old by now
    assert d.order(order).status == CANCELING


def test_a_price_correction_reaches_the_book_once() -> None:
    d = desk()
    order = d.holds()
    for _ in range(2):
        d.fill(order, 9, cost="18.90", correction=1)
    assert d.state.book.cash == Decimal(8110)
    d.fill(order, 9, cost="18.00")
    assert d.state.book.cash == Decimal(8110)


def test_a_busted_sale_is_held_again_and_its_trade_counted_once_it_is_over() -> None:
    d = desk()
    d.holds()
    d.bar(1)
    sale = sent(d.answer(EXIT)).client_order_id
    d.fill(sale, 9, "2.10")
    assert d.held == {}
    d.fill(sale, 4, "2.10", correction=1)
    assert (d.held, d.state.book.cash) == ({CALL: 5}, Decimal(8200 + 840))
