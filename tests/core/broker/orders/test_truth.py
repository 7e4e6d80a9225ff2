"""One truth reported in any order, any number of times and by any of three ways comes to one book and one set of fills.

The truth is an account of its own (tests/support/core/account.py); a message is what the stream, a look-up or a report
would have reported at some moment of it. A last report always comes, as it does every minute.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import SubmitOrder
from daemon.core.limits import Broker, Sizing, Trading
from daemon.core.orders import CANCELED, FILLED
from daemon.core.records import FillRow
from daemon.core.state import State
from strategies.kit.quantity import Quantity
from tests.support.core.account import Account, at_broker, line
from tests.support.core.desk import BUY_CALL, CALL, EXIT, MINUTE, PUT, SECOND, Desk, of, sent

CALM = Sizing(stop_loss=0.99, take_profit=99.0)
PRICES = st.integers(150, 260).map(lambda cents: str(Decimal(cents) / 100))
EXECUTIONS = st.lists(st.tuples(st.integers(1, 4), PRICES), min_size=1, max_size=5)
Parts = list[tuple[int, str]]  # quantity and price of each execution


def parts_of(whole: int, executions: Parts) -> Parts:
    """The executions, as many as `whole` holds."""
    parts, remaining = [], whole
    for quantity, price in executions:
        if remaining:
            parts.append((min(quantity, remaining), price))
            remaining -= parts[-1][0]
    return parts


def desk_with_order(rule: Broker, leaving: bool) -> tuple[Desk, Account, SubmitOrder]:
    """A desk with an order just sent: an entry of 9 calls, or the exit of 9 calls that it holds."""
    account = Account()
    d = at_broker(account, trading=Trading(broker=rule, sizing=CALM))
    d.bar(0)
    order = sent(d.answer(BUY_CALL))
    if leaving:
        name = account.take(order, d.state.now_ns)
        d.put(account.fill(name, 9, "2.00", d.state.now_ns))
        d.bar(1)
        order = sent(d.answer(EXIT))
    else:
        d.put(ev.PauseRequested(d.state.now_ns, "the works stand still", "ann"))
    return d, account, order


def live(d: Desk, account: Account, order: SubmitOrder, parts: Parts, canceled: bool) -> list[ev.Event]:
    """Let the order live at the account; returns its events, in order."""
    now = d.state.now_ns
    name = account.take(order, now)
    events: list[ev.Event] = [ev.OrderAccepted(now, name, f"id-{name}")]
    for step, (quantity, price) in enumerate(parts):
        events += [account.fill(name, quantity, price, now), account.found(name, now)]
        if step == 1:
            account.book(line("FEE", amount="-0.31"))
        events.append(account.report(now + step * SECOND))
    if canceled and account.orders[name].status != "filled":
        account.end(name)
        events += [ev.OrderCanceled(now, name), account.found(name, now)]
    account.book(line("CSD", amount="250"))
    return [*events, account.report(now + 6 * SECOND)]


def last_word(d: Desk, account: Account, *, halted: bool = False) -> None:
    """The report of the next minute; after it the book is the account's. `halted`: others touched what it works on."""
    now = d.state.now_ns + MINUTE
    d.put(account.report(now))
    holdings = Counter(d.held)
    holdings.update(d.state.broker.foreign_held)
    assert {s: q for s, q in holdings.items() if q} == {s: q for s, (q, _) in account.positions.items()}
    assert (d.state.book.cash, d.state.broker.suspicion) == (account.cash, None)
    assert d.halted() == ("foreign_order" if halted else "")
    before = d.state
    assert d.put(account.report(now)) == []
    assert plain(d) == replace(before, seq=before.seq + 1, broker=replace(before.broker, available={}))


def plain(d: Desk) -> State[Any]:
    """The state without what the broker would let us sell: a step that moves an order makes that unknown again."""
    return replace(d.state, broker=replace(d.state.broker, available={}))


def fill_identities(d: Desk) -> list[tuple[str, int, Quantity]]:
    """The identities of all fill rows."""
    return [(row.client_order_id, row.correction, row.cumulative) for row in d.rows if isinstance(row, FillRow)]


@given(EXECUTIONS, st.booleans(), st.booleans(), st.lists(st.integers(0, 99), max_size=30))
def test_stream_look_ups_and_reports_in_any_order_come_to_the_same_book_and_fills(
    executions: Parts, leaving: bool, canceled: bool, picks: list[int]
) -> None:
    d, account, order = desk_with_order(Broker(), leaving)
    parts = parts_of(9, executions)
    events = live(d, account, order, parts, canceled and not leaving)
    d.put(*[events[pick % len(events)] for pick in picks])
    last_word(d, account)
    cumulative = [sum(q for q, _ in parts[: i + 1]) for i in range(len(parts))]
    expected = {(order.client_order_id, 0, c) for c in cumulative}
    if leaving:
        expected.add(("e1-pointer-1-0-0", 0, 9))
    assert Counter(fill_identities(d)) == Counter(expected)
    broker_status = account.orders[order.client_order_id].status
    assert (d.order(order.client_order_id).status == FILLED) == (broker_status == "filled")
    assert (d.order(order.client_order_id).status == CANCELED) == (broker_status == "canceled")


@given(EXECUTIONS, st.integers(0, 8), st.lists(st.integers(0, 99), max_size=25), st.integers(0, 25), st.booleans())
def test_a_bust_told_at_any_moment_among_old_news_leaves_what_stands(
    executions: Parts, stand: int, picks: list[int], moment: int, by_stream: bool
) -> None:
    d, account, order = desk_with_order(Broker(), leaving=False)
    events = [m for m in live(d, account, order, parts_of(9, executions), True) if not isinstance(m, ev.BrokerReported)]
    name, now = order.client_order_id, d.state.now_ns
    broker_order = account.orders[name]
    stand = min(stand, int(broker_order.filled) - 1)
    assert broker_order.average_price is not None
    back = int(broker_order.filled) - stand
    cost = Decimal(stand) * 2
    account.cash += (broker_order.average_price * broker_order.filled - cost) * 100
    account.orders[name] = replace(broker_order, filled=Decimal(stand), average_price=Decimal(2) if stand else None)
    account.positions.pop(CALL)
    if stand:
        account.positions[CALL] = (stand, Decimal(2))
    account.fills.clear()  # an order with an amended line is reported by its figures
    bust = ev.TradeCorrected(now, name, "x1", stand, cost, "trade_bust")
    stands = ev.OrderFilled(now, name, CALL, 1, Decimal(2), now, stand, cost, Decimal(0), 0, 1)  # as a report tells it
    events.append(stands)
    news = [events[pick % len(events)] for pick in picks]
    d.put(*news[:moment], *((bust, stands) if by_stream else (stands, bust)), *news[moment:], bust)
    assert back > 0
    last_word(d, account)
    assert all(count == 1 for count in Counter(fill_identities(d)).values())


@given(
    st.sampled_from(["adopt", "ignore"]),
    EXECUTIONS,
    st.sampled_from([(CALL, 1), (PUT, 1)]),
    st.lists(st.integers(0, 99), max_size=20),
)
def test_what_others_do_told_in_any_order_comes_to_the_same_holdings(
    rule: str, executions: Parts, act: tuple[str, int], picks: list[int]
) -> None:
    d, account, order = desk_with_order(Broker(foreign_orders="adopt" if rule == "adopt" else "ignore"), leaving=False)
    account.take(order, d.state.now_ns)
    now = d.state.now_ns
    account.by_hand("ann-1", *act, 9, now)
    events: list[ev.Event] = [account.found("ann-1", now)]
    for quantity, price in parts_of(9, executions):
        account.fill("ann-1", quantity, price, now)
        events.append(account.found("ann-1", now))
    d.put(*[events[pick % len(events)] for pick in picks])
    last_word(d, account, halted=act[0] == CALL)  # which the desk works on
    shares = d.held if rule == "adopt" else d.state.broker.foreign_held
    assert shares == {act[0]: int(account.orders["ann-1"].filled)}
    book = d.state.book
    assert (book.realized, book.transfers != 0) == (Decimal(0), rule == "ignore")


@given(EXECUTIONS, st.lists(st.integers(0, 99), max_size=12), st.integers(0, 11))
def test_a_restart_in_the_middle_of_the_news_changes_nothing_of_it(
    executions: Parts, picks: list[int], moment: int
) -> None:
    d, account, order = desk_with_order(Broker(), leaving=False)
    events = live(d, account, order, parts_of(9, executions), True)
    news = [events[pick % len(events)] for pick in picks]
    start = ev.RunStarted(d.state.now_ns, "live", "desk-1", "pointer", "e1", "c", "sip", d.state.trading)
    d.put(*news[:moment])
    d.reload = True
    d.put(start, *news[moment:])
    last_word(d, account)
    assert all(count == 1 for count in Counter(fill_identities(d)).values())
    assert of(d.effects, SubmitOrder) == [msgspec.structs.replace(order)]
