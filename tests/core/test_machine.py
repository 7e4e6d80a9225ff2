"""The machine: core and paper broker advanced as one, a journal applied again in its order, differences refused."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import AskPolicy, SubmitOrder
from daemon.core.limits import Paper, Trading
from daemon.core.paper.shares import SharePaperBroker
from daemon.core.paper.state import broker_snapshot
from daemon.core.records import MoveRow, RoundTripRow
from daemon.core.state import encode_state
from daemon.core.step import Core, Divergence, Machine, Step
from strategies.kit.contract import Bar
from tests.support.core.daily_desk import LAST_FRIDAY, Shelf
from tests.support.core.desk import HOLD, IDENTITY, MINUTE, MONDAY, SESSIONS, logits
from tests.support.core.machines import feed, machine, policy, run


def test_a_run_trades_through_the_paper_broker_and_the_two_agree_on_every_cent() -> None:
    desk = machine()
    events = run(desk)
    assert desk.market_state is not None
    assert (desk.state.stats.orders, desk.state.stats.trades, desk.state.book.positions) == (2, 1, {})
    assert desk.state.book.cash == desk.market_state.cash == desk.state.book.equity
    assert desk.state.book.realized == desk.market_state.cash - Decimal(10000)
    assert [type(event).__name__ for event in events].count("OrderFilled") == 2
    assert not desk.queue


def test_what_an_event_causes_is_stepped_before_the_next_one_of_the_feed() -> None:
    kinds = [type(event).__name__ for event in run(machine())]
    for i, name in enumerate(kinds):
        if name == "BarClosed" and i > 6:
            assert "QuotesReceived" in kinds[i + 1 : i + 4]
    assert kinds[-1] in {"SessionEnded", "OrderExpired"}


def test_two_runs_of_the_same_feed_are_equal_event_by_event() -> None:
    first, second = machine(), machine()
    assert run(first) == run(second)
    assert encode_state(first.state) == encode_state(second.state)


def test_a_core_that_keeps_no_trades_leaves_out_their_rows_and_nothing_else() -> None:
    full = machine()
    short = Machine(Core(full.core.strategy, trades=False), full.state, full.market, full.market_state)
    left_out = 0
    for event in run(machine()):
        one, other = full.reapply(event), short.reapply(event)
        other_rows = tuple(row for row in one.rows if not isinstance(row, MoveRow | RoundTripRow))
        left_out += len(one.rows) - len(other_rows)
        assert other.rows == other_rows
        assert [effect for effect in other.effects if type(effect) is not AskPolicy] == [
            effect for effect in one.effects if type(effect) is not AskPolicy
        ]
        assert encode_state(other.state) == encode_state(one.state)
    assert left_out > 2  # a purchase, a sale, and the marks between them


def test_a_journal_applied_again_rebuilds_the_machine_from_any_prefix() -> None:
    desk = machine()
    events = run(desk)
    again = machine()
    for event in events:
        again.reapply(event)
    assert encode_state(again.state) == encode_state(desk.state)
    assert (again.market_state, list(again.queue)) == (desk.market_state, [])


def test_a_journal_cut_anywhere_goes_on_to_the_same_end() -> None:
    desk = machine()
    events = run(desk)
    rest = feed()
    for place in range(2, len(events), 5):
        again = machine()
        for event in events[:place]:
            again.reapply(event)
        fed = sum(isinstance(event, (*ev.FEED_EVENTS, ev.ModelVerified)) for event in events[:place])
        while again.queue:
            caused = again.queue.popleft()
            again.apply(policy(caused, again.state.now_ns) if isinstance(caused, AskPolicy) else caused)
        again.run(rest[fed:], policy)
        assert encode_state(again.state) == encode_state(desk.state)


def journal_until(kind: type[ev.Event]) -> tuple[Machine, ev.Event]:
    """A machine that reapplied everything before the first event of this kind, and that event."""
    events = run(machine())
    first = next(i for i, event in enumerate(events) if isinstance(event, kind))
    again = machine()
    for event in events[:first]:
        again.reapply(event)
    return again, events[first]


def test_a_journaled_market_event_that_does_not_follow_is_a_divergence() -> None:
    desk, fill = journal_until(ev.OrderFilled)
    assert isinstance(fill, ev.OrderFilled)
    with pytest.raises(Divergence, match="follows from the events before it"):
        desk.reapply(replace(fill, price=fill.price + 1))


@pytest.mark.parametrize(
    "stranger",
    [
        ev.PolicyAnswered(MONDAY.open_ns, 99, logits(HOLD), b"", "v1"),
        ev.OrderCanceled(MONDAY.open_ns, "e1-pointer-1-0-0"),
    ],
    ids=["another answer", "a market event instead"],
)
def test_a_journal_that_answers_another_question_is_a_divergence(stranger: ev.Event) -> None:
    desk, _ = journal_until(ev.PolicyAnswered)
    with pytest.raises(Divergence, match="where an answer follows"):
        desk.reapply(stranger)


def test_a_journal_that_answers_when_nobody_asked_is_a_divergence() -> None:
    with pytest.raises(Divergence, match="where None follows"):
        machine().reapply(ev.PolicyFailed(0, 1, "x"))


def test_with_a_real_broker_answered_questions_leave_the_queue_and_the_last_open_one_stays() -> None:
    desk = machine(market=False)
    start = MONDAY.open_ns
    events: list[ev.Event] = [ev.SessionScheduled(start - MINUTE, MONDAY, SESSIONS[1:])]
    for minute in range(3):
        bar = Bar("SPY", start + minute * MINUTE, 500.0, 500.0, 500.0, 500.0, 1.0)
        end = bar.start_ns + MINUTE
        events += [ev.BarClosed(end, bar), ev.QuotesReceived(end, bar.start_ns, ())]
        if minute < 2:
            events.append(ev.PolicyAnswered(end, minute + 1, logits(HOLD), b"", "v1"))
    for event in events:
        desk.reapply(event)
    assert [caused.decision for caused in desk.queue if isinstance(caused, AskPolicy)] == [3]
    with pytest.raises(Divergence, match="where an answer follows"):
        desk.reapply(ev.PolicyAnswered(start, 1, logits(HOLD), b"", "v1"))


def test_when_a_step_or_the_market_raises_nothing_has_changed() -> None:
    desk = machine()
    events = run(desk)
    desk = machine()
    for event in events[:12]:
        desk.reapply(event)
    before: tuple[Any, ...] = (desk.state, desk.market_state, list(desk.queue))
    with pytest.raises(TypeError):
        desk.apply(ev.Event(0))
    assert before == (desk.state, desk.market_state, list(desk.queue))


def test_an_order_leaves_the_machine_once_for_each_decision() -> None:
    desk = machine()
    orders: list[str] = []

    def watch(_: ev.Event, step: Step) -> None:
        orders.extend(e.client_order_id for e in step.effects if isinstance(e, SubmitOrder))

    assert desk.market_state is not None
    desk.run([broker_snapshot(desk.market_state, 0), *feed()], policy, watch)
    assert orders == ["e1-pointer-3-0-0", "e1-pointer-8-1-0"]


def test_a_daily_desk_s_shares_fill_at_later_prints_and_the_two_books_agree_through_the_journal() -> None:
    strategy: Any = Shelf()
    rules = Trading(paper=Paper(cash_usd=Decimal(10000)))

    def shelf() -> Machine:
        core, broker = Core(strategy), SharePaperBroker(rules, strategy.spec.symbols)
        return Machine(core, core.start(IDENTITY, rules), broker, broker.start())

    def answer(ask: AskPolicy, now_ns: int) -> ev.PolicyAnswered:
        goals = {1: (10.0, 0.0, 0.0), 2: (0.0, 20.0, 0.0)}[ask.decision]
        return ev.PolicyAnswered(now_ns, ask.decision, goals, b"", "v1")

    desk, events = shelf(), list[ev.Event]()
    days: list[ev.Event] = [ev.ModelVerified(0, "v1", "d", promoted=False, feed="sip")]
    for number, session in enumerate(SESSIONS[:2]):
        start, prices = session.open_ns, (ev.Price("AAA", Decimal(100 + number)), ev.Price("BBB", Decimal(50)))
        bar = Bar("AAA", start - 570 * MINUTE, 100.0, 101.0, 99.0, 100.0, 1.0)
        before = Bar("AAA", LAST_FRIDAY.open_ns - 570 * MINUTE, 100.0, 101.0, 99.0, 100.0, 1.0)
        previous = (LAST_FRIDAY, *SESSIONS[:number])
        days += [ev.SessionScheduled(start - 30 * MINUTE, session, SESSIONS[number + 1 :], previous)]
        days += [ev.BarClosed(start - 30 * MINUTE, before)] if number == 0 else []
        days += [
            ev.RebalanceDue(start - 15 * MINUTE, session.date),
            ev.PricesPrinted(start, session.date, opening=True, prices=prices),
            ev.PricesPrinted(start + MINUTE, session.date, opening=False, prices=prices),
            ev.BarClosed(session.close_ns, bar),
            ev.SessionEnded(session.close_ns, session.date),
        ]
    desk.run([broker_snapshot(desk.market_state, 0), *days], answer, lambda event, _: events.append(event))
    fills = [(f.symbol, f.side, f.quantity, f.price, f.filled_ns) for f in events if isinstance(f, ev.OrderFilled)]
    monday, tuesday = (session.open_ns for session in SESSIONS[:2])
    assert fills == [
        ("AAA", +1, 10, Decimal("100.0200"), monday + MINUTE),
        ("AAA", -1, 10, Decimal("101.0000"), tuesday),
        ("BBB", +1, 20, Decimal("50.0100"), tuesday + MINUTE),
    ]
    # 10,000 - 1,000.20 - 1.0002, + 1,010 - 1.01, - 1,000.20 - 1.0002; CAT twice, SEC 0.02808 and TAF once
    assert desk.state.book.cash == desk.market_state.cash == Decimal("9006.589600") - Decimal("0.06")
    again = shelf()
    for event in events:
        again.reapply(event)
    assert encode_state(again.state) == encode_state(desk.state)
    assert (again.market_state, list(again.queue)) == (desk.market_state, [])
