"""Totals set by look-ups, executions reported once each, and busts and corrections that take some back.

The broker's answers are those of its documentation; quantities and money are computed by hand.
"""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import AskBroker
from daemon.core.orders import PARTIAL
from tests.support.core.account import Account, agreed, at_broker, line
from tests.support.core.daily_desk import KEEP
from tests.support.core.daily_live import live
from tests.support.core.desk import CALL, EXIT, alarms, sent
from tests.support.core.lost_orders import look_ups, rows, submitted


def test_a_look_up_tells_the_totals_first_and_the_executions_come_later_once_each() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    fills = [account.fill(name, n, price, d.at(1)) for n, price in ((2, "2.00"), (3, "2.05"), (4, "2.10"))]
    d.put(account.found(name, d.at(1, 6)))
    # 2 x 2.00 + 3 x 2.05 + 4 x 2.10 = 18.55 USD a share
    assert (d.held, d.state.book.cash, rows(d)) == ({CALL: 9}, Decimal("8145.00"), [])
    for fill in (fills[2], fills[0], fills[2], fills[1], fills[0]):
        d.put(fill)
    assert (sorted(rows(d)), d.state.book.cash) == ([(0, 2), (0, 5), (0, 9)], Decimal("8145.00"))
    agreed(d, account, 2)
    assert (len(rows(d)), d.state.stats.fills, d.state.stats.partial_fills) == (3, 3, 2)


def test_an_execution_told_out_of_order_is_told_when_it_comes_and_books_nothing() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    first, second = account.fill(name, 2, "2.00", d.at(1)), account.fill(name, 1, "2.06", d.at(1))
    d.put(second)
    assert (d.held, d.state.book.cash) == ({CALL: 3}, Decimal("9394.00"))
    d.put(first, second, first)
    assert (d.held, d.state.book.cash, rows(d)) == ({CALL: 3}, Decimal("9394.00"), [(0, 3), (0, 2)])


@pytest.mark.parametrize("looked_up", [False, True])
def test_many_shares_cost_the_sum_of_their_fills_though_the_average_is_rounded(looked_up: bool) -> None:
    d = live(account := Account("1000000"))
    d.due()
    d.answer(1999, KEEP, KEEP)
    name = account.take(sent(d.quotes(0, AAA="100")), d.state.now_ns)
    for quantity, price in ((777, "100.01"), (1000, "100.02"), (222, "100.03")):
        fill = account.fill(name, quantity, price, d.at(1))
        average = account.orders[name].average_price
        assert average is not None
        average = round(average, 6)  # as the broker tells it: 100.017224 at the end
        if looked_up:
            d.put(ev.OrderFound(d.at(1), replace(account.orders[name], average_price=average)))
        else:
            total_cost = round(average * fill.cumulative_quantity, 4)  # 199,934.4308
            d.put(replace(fill, cumulative_cost=total_cost))
    assert looked_up or d.state.book.cash == account.cash
    d.put(account.report(d.at(2)))
    assert d.state.book.cash == account.cash == Decimal("800065.57")  # 777 x 100.01 + 1000 x 100.02 + 222 x 100.03
    assert (d.state.risk.reconciled, d.state.broker.suspicion) == (True, None)


@pytest.mark.parametrize("old", ["behind", "without a price", "filled, with other figures"])
def test_an_old_or_unfinished_answer_turns_nothing_back(old: str) -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    early = account.orders[name]
    d.put(account.fill(name, 4, "2.00", d.at(1)))
    now = account.orders[name]
    answer = {
        "behind": replace(early, status="canceled"),
        "without a price": replace(now, filled=Decimal(9), average_price=None, status="filled"),
        "filled, with other figures": replace(now, status="filled"),
    }[old]
    d.put(ev.OrderFound(d.at(1, 6), answer))
    assert (d.order(name).status, d.held, d.state.book.cash) == (PARTIAL, {CALL: 4}, Decimal(9200))


def test_an_average_that_the_broker_rounded_still_gives_the_cents_that_were_paid() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    for n, price in ((1, "2.00"), (5, "2.01"), (1, "2.05")):
        account.fill(name, n, price, d.at(1))
    rounded = replace(account.orders[name], average_price=Decimal("2.014286"))  # 14.10 / 7
    d.put(ev.OrderFound(d.at(1, 6), rounded))
    assert d.state.book.cash == Decimal("8590.00")


# --- corrections --------------------------------------------------------------------------------------------------


def test_a_bust_by_the_stream_takes_contracts_back_once_and_its_replays_change_nothing() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    for n in (5, 4):
        d.put(account.fill(name, n, "2.00", d.at(1)))
    bust = ev.TradeCorrected(d.at(2), name, "x1", 5, Decimal(10), "trade_bust")
    assert alarms(d.put(bust)) == ["trade_corrected"]
    assert (d.held, d.state.book.cash, d.order(name).correction) == ({CALL: 5}, Decimal(9000), 1)
    assert d.put(bust) == []
    assert (d.held, rows(d)) == ({CALL: 5}, [(0, 5), (0, 9), (1, 5)])


def test_after_a_bust_the_old_totals_of_a_replay_are_looked_up_instead_of_booked() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    whole = account.fill(name, 9, "2.00", d.at(1))
    d.put(whole, ev.TradeCorrected(d.at(2), name, "x1", 5, Decimal(10), "trade_bust"))
    assert look_ups(d.put(whole)) == [name]
    assert (d.held, d.state.book.cash) == ({CALL: 5}, Decimal(9000))
    stands = replace(account.orders[name], filled=Decimal(5), average_price=Decimal(2))
    d.put(ev.OrderFound(d.at(2, 6), stands))
    assert (d.held, d.order(name).correction) == ({CALL: 5}, 1)
    assert look_ups(d.put(replace(whole, cumulative_quantity=5, quantity=5))) == []


def test_a_corrected_order_s_totals_are_set_as_found_also_when_they_are_less() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    d.put(ev.TradeCorrected(d.at(2), name, "x1", 9, Decimal("18.90"), "trade_correct"))
    assert d.state.book.cash == Decimal(8110)
    order = replace(account.orders[name], filled=Decimal(8), average_price=Decimal("2.10"))
    d.put(ev.OrderFound(d.at(3), order), ev.OrderFound(d.at(3, 1), order))
    assert (d.held, d.state.book.cash, d.order(name).correction) == ({CALL: 8}, Decimal(8320), 2)
    more = replace(order, filled=Decimal(9))
    d.put(ev.OrderFound(d.at(4), more))
    assert (d.held, d.state.book.cash, d.order(name).correction) == ({CALL: 9}, Decimal(8110), 2)


def test_a_correction_that_its_order_does_not_show_is_booked_by_the_fill_that_it_names() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    event = ev.TradeCorrected(d.at(2), name, "x1", 9, Decimal(18), "trade_correct")  # the order shows 9 at 2.00 still
    effects = d.put(event)
    assert (alarms(effects), [e.at_once for e in effects if isinstance(e, AskBroker)]) == (["trade_corrected"], [True])
    account.cash -= 700  # the broker's books have the new price, 9 x 2.7777... = 25.00 USD a share
    stands = ev.OrderFilled(d.at(3), name, CALL, 1, Decimal(2), d.at(3), 9, Decimal(25), Decimal(0), 0, 1)
    account.fills[:] = [stands]
    for minute in (3, 4, 35, 40):
        agreed(d, account, minute)
        d.put(account.found(name, d.at(minute, 30)))  # a look-up, with the order's old figures
        assert (d.state.book.cash, d.held, d.halted()) == (Decimal(7500), {CALL: 9}, "")
    assert rows(d) == [(0, 9), (2, 9)]


def test_a_bust_that_its_order_does_not_show_while_it_works_is_booked_once() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    first = account.fill(name, 4, "2.00", d.at(1))
    d.put(first, ev.TradeCorrected(d.at(2), name, "x1", 2, Decimal(4), "trade_bust"))
    account.cash, account.positions = Decimal(9600), {CALL: (2, Decimal(2))}  # 2 x 2.00 x 100 USD are paid for
    stands = replace(first, correction=1, cumulative_quantity=2, cumulative_cost=Decimal(4), quantity=-2)
    account.fills[:] = [stands]
    for minute in (3, 4, 5):
        agreed(d, account, minute)
        d.put(account.found(name, d.at(minute, 30)))  # the order shows 4 at 2.00 still
        assert (d.held, d.state.book.cash) == ({CALL: 2}, Decimal(9600))
    assert (rows(d), d.order(name).working) == ([(0, 4), (1, 2)], True)

    again = replace(first, time_ns=d.at(6), cumulative_quantity=4, cumulative_cost=Decimal(8), quantity=2)
    asked = d.put(again)  # 2 more at 2.00: the totals are those that the bust replaced
    assert [e for e in asked if isinstance(e, AskBroker)]
    account.cash, account.positions = Decimal(9200), {CALL: (4, Decimal(2))}
    account.fills[:] = [replace(again, correction=1)]
    agreed(d, account, 6, 10)
    assert d.held == {CALL: 4}


@pytest.mark.parametrize(
    ("side", "shares_before", "quantity", "amount", "cost", "gain"),
    [
        (1, 9, 0, "-700", "25", "0"),  # a purchase of 9 at 2.00, still held: it cost more
        (1, 9, -4, "800", "10", "0"),  # 4 of them were busted
        (1, 9, -9, "1700", None, "-100"),  # all; what came back is not all that was paid
        (1, 0, 0, "-700", None, "-700"),  # not held any more
        (-1, 9, 0, "-700", "18", "-700"),  # a sale brought less
        (-1, 0, 4, "-880", "8.80", "0"),  # a sale was busted: its contracts are back
    ],
)
def test_a_correction_of_an_order_of_an_earlier_day_is_booked_once(
    side: int, shares_before: int, quantity: int, amount: str, cost: str | None, gain: str
) -> None:
    d = at_broker(account := Account())
    if shares_before:
        d.put(account.fill(submitted(d, account), 9, "2.00", d.at(1)))
        agreed(d, account, 1, 5)
    before = d.state.book
    older = replace(
        line("AMENDED_FILL", CALL, quantity, amount, status=""), order="e1-pointer-0-0-0", side=side, id="older 1"
    )
    account.book(older)
    shares_after = shares_before + quantity
    account.positions.pop(CALL, None)
    if shares_after:
        account.positions[CALL] = (shares_after, Decimal(2))
    agreed(d, account, 2)
    agreed(d, account, 3)
    position = d.state.book.positions.get(CALL)
    assert (position.cost if position is not None else None) == (None if cost is None else Decimal(cost))
    assert d.state.book.realized - before.realized == Decimal(gain)
    assert (alarms(d.effects).count("trade_corrected"), d.halted()) == (1, "")


def test_a_correction_that_was_booked_while_its_order_was_known_is_not_booked_again_later() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    d.put(ev.TradeCorrected(d.at(2), name, "x1", 9, Decimal(25), "trade_correct"))
    d.state = replace(d.state, closed={}, orders={})  # as a later session has it
    late = replace(line("AMENDED_FILL", CALL, 0, "-700", status=""), order=name, side=1, id=f"{name} corrected 1")
    account.fills.clear()
    account.orders.clear()
    account.cash -= 700
    account.lines.append(late)
    agreed(d, account, 5)
    assert d.state.book.cash == Decimal(7500)


def test_a_wholly_busted_order_holds_nothing() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    d.put(ev.TradeCorrected(d.at(2), name, "x1", 0, Decimal(0), "trade_bust"))
    assert (d.held, d.state.book.cash, d.state.book.realized) == ({}, Decimal(10000), Decimal(0))


def test_a_bust_of_a_purchase_that_was_sold_already_halts_because_the_book_cannot_say_it() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    d.bar(1)
    sale = account.take(sent(d.answer(EXIT)), d.state.now_ns)
    d.put(account.fill(sale, 9, "2.10", d.at(2)))
    d.put(ev.TradeCorrected(d.at(3), name, "x1", 5, Decimal(10), "trade_bust"))
    assert (d.halted(), d.held, d.state.risk.reconciled) == ("fill_mismatch", {}, False)


def test_a_bust_of_an_order_that_is_not_known_is_a_stranger_s() -> None:
    d = at_broker(Account())
    assert alarms(d.put(ev.TradeCorrected(d.at(2), "by-hand", "x1", 0, Decimal(0), "trade_bust"))) == ["foreign_order"]


@pytest.mark.parametrize("stands", [0, 4])
def test_an_order_that_filled_and_was_busted_while_nobody_listened_is_over(stands: int) -> None:
    """Its status stays `filled`, with less than was ordered: it will never fill more."""
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(account.found(name, d.at(1)))
    fills = [account.fill(name, quantity, "2.00", d.at(1)) for quantity in (4, 5)]
    account.cash += 200 * (9 - stands)
    account.positions = {CALL: (stands, Decimal(2))} if stands else {}
    price = Decimal(2) if stands else None
    account.orders[name] = replace(account.orders[name], filled=Decimal(stands), average_price=price)
    totals = {"cumulative_quantity": stands, "cumulative_cost": Decimal(2 * stands), "quantity": stands}
    account.fills = [replace(fills[-1], correction=1, **totals)]
    d.put(account.report(d.at(2)))
    agreed(d, account, 3)
    assert (d.state.orders, d.order(name).filled, d.held) == ({}, stands, {CALL: stands} if stands else {})
