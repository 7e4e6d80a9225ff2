"""What others lived through, each once as it happened and once as the core answers it; numbers as in the list kept.

Only incidents that the pure core can meet stand here; disconnects, silence, memory and disks are the shell's.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest

from daemon.core import events as ev
from daemon.core.desks.registry import OPTION_GATES
from daemon.core.effects import LookUpOrder, SubmitOrder
from daemon.core.gates import Gate, Intent, RiskView, ask_gates
from daemon.core.limits import Execution, Risk, Trading
from daemon.core.orders import ACCEPTED, FILLED, UNKNOWN
from daemon.core.records import FillRow
from daemon.core.state import Identity, encode_state
from daemon.core.step import Core
from strategies.kit.contract import Bar, Session
from tests.support.core.account import Account, agreed, at_broker
from tests.support.core.desk import (
    BUY_CALL,
    CALL,
    DAY,
    EXIT,
    HALF_DAY,
    HOLD,
    MINUTE,
    OPEN,
    PUT,
    SECOND,
    Desk,
    Pointer,
    alarms,
    canceling,
    chain_of,
    desk,
    of,
    questions,
    quote,
    sent,
    snapshot_of,
)
from tests.support.core.risk_view import ENTRY, VIEW


def restarted(d: Desk) -> Desk:
    """The desk after a crash: its state through JSON, a new start, and the broker's word still to come."""
    again = Desk(d.state.trading, mode=d.state.identity.mode)
    again.session, again.rows = d.session, []
    again.state = again.core.decoder().decode(encode_state(d.state))
    identity = d.state.identity
    now = d.state.now_ns + SECOND
    again.put(
        ev.RunStarted(now, identity.mode, identity.account, "pointer", identity.epoch, "c", "sip", d.state.trading),
        ev.ModelVerified(now, "v1", "d", promoted=True, feed="sip"),
    )
    return again


def live() -> Desk:
    return desk(mode="live")


def test_incident_1_a_restart_that_finds_another_position_halts_and_invents_no_fill() -> None:
    d = live()
    d.holds()
    again = restarted(d)
    effects = again.put(msgspec.structs.replace(snapshot_of(again), positions=()))
    assert (alarms(effects), of(effects, SubmitOrder)) == (["reconciliation"], [])
    assert again.held == {CALL: 9}
    assert f"{CALL}: broker 0, book 9" in str(again.state.risk.halt)
    again.bar(1)
    assert of(again.answer(BUY_CALL), SubmitOrder) == []


def test_incident_2_a_working_order_is_known_after_a_restart_and_no_second_one_is_sent() -> None:
    d = live()
    order = d.buys()
    again = restarted(d)
    again.put(snapshot_of(again))
    assert again.state.risk.reconciled
    again.bar(1, quotes=())
    again.answer(BUY_CALL)
    assert of(again.effects, SubmitOrder) == []
    again.fill(order, 9)
    assert again.held == {CALL: 9}


def test_incident_2_no_decision_leads_to_an_order_before_the_broker_has_been_asked() -> None:
    d = live()
    d.bar(0)
    d.answer(HOLD)
    again = restarted(d)
    again.bar(1)
    assert again.answer(BUY_CALL) == []
    assert list(again.state.stats.denials) == ["not_reconciled"]


def test_incident_3_fills_told_again_after_a_restart_are_counted_once_however_often() -> None:
    d = live()
    order = d.buys()
    d.fill(order, 4)
    again = restarted(d)
    books = []
    for _ in range(3):
        for quantity in (2, 4, 9):
            again.fill(order, quantity)
        again.put(snapshot_of(again))
        books.append(again.state.book)
    assert again.held == {CALL: 9}
    assert books[0].cash == Decimal(8200)
    assert books[0] == books[1] == books[2]


def test_incident_4_a_position_closed_by_hand_is_noticed_at_the_next_comparison() -> None:
    d = live()
    d.holds()
    report = snapshot_of(d, cash="9980.00")
    d.put(msgspec.structs.replace(report, positions=()))
    assert d.halted() == "reconciliation"
    assert f"{CALL}: broker 0, book 9" in str(d.state.risk.halt)


def test_incident_5_a_timeout_is_not_a_rejection_and_nothing_is_sent_again() -> None:
    d = live()
    d.bar(0)
    order = sent(d.answer(BUY_CALL)).client_order_id
    d.put(ev.OrderUnknown(d.at(1, 10), order))
    for minute in range(1, 8):
        d.bar(minute)
        d.answer(BUY_CALL)
    assert [e.client_order_id for e in of(d.effects, SubmitOrder)] == [order]
    assert (d.order(order).status, d.state.risk.outcomes) == (UNKNOWN, ())
    d.fill(order, 9)
    assert (d.order(order).status, d.held) == (FILLED, {CALL: 9})


def test_incident_7_two_journals_never_share_an_order_id_even_for_the_same_decision() -> None:
    names = []
    for epoch in ("a1b2", "c3d4"):
        d = Desk()
        d.core = Core(Pointer())
        d.state = d.core.start(Identity("live", "desk-1", "pointer", epoch, "sip"), Trading())
        d.fund().begin()
        d.bar(0)
        names.append(sent(d.answer(BUY_CALL)).client_order_id)
    assert names == ["a1b2-pointer-1-0-0", "c3d4-pointer-1-0-0"]


def test_incident_7_ids_go_on_counting_after_a_restart() -> None:
    d = live()
    d.holds()
    again = restarted(d)
    again.put(snapshot_of(again))
    again.bar(1)
    assert sent(again.answer(EXIT)).client_order_id == "e1-pointer-2-1-0"


def test_incident_11_the_step_that_hears_of_the_fill_already_knows_the_position() -> None:
    d = desk()
    order = d.buys()
    d.put(ev.BarClosed(d.at(2), _bar(d, 1)))
    d.fill(order, 9)  # between the bar and its quotes
    (row,) = (list(e.observation.array().ravel()) for e in d.put(_quotes(d, 1)) if hasattr(e, "observation"))
    assert row == [500.0, 1.0]  # the strategy sees that it holds calls


def test_incident_12_a_desk_of_many_sessions_remembers_no_more_than_one_of_few() -> None:
    d, sizes = at_broker(account := Account()), []
    dates = [f"2025-{month:02}-{day:02}" for month in (1, 2) for day in range(1, 25)]
    days = [Session(date, OPEN + n * DAY, OPEN + n * DAY + 390 * MINUTE) for n, date in enumerate(dates, 1)]
    for day, *upcoming in (days[n : n + 6] for n in range(40)):
        d.session = day
        d.put(ev.SessionScheduled(d.at(-1), day, tuple(upcoming)))
        d.put(ev.ContractsListed(d.at(-1), day.date, chain_of(upcoming[0].date), 0.2))
        account.fills, account.orders = [], {}  # a report repeats two days at most
        for minute, (action, side) in enumerate(((BUY_CALL, 1), (EXIT, -1))):
            d.bar(minute)
            order = sent(d.answer(action))
            assert order.side == side
            d.put(account.fill(account.take(order, d.state.now_ns), 9, "2.00", d.at(minute + 1)))
        agreed(d, account, 3)
        d.put(ev.SessionEnded(d.at(390), day.date))
        sizes.append(len(encode_state(d.state)))
    assert sizes[-1] - sizes[9] < 20  # a digit more in a few counts


def test_incident_13_a_half_day_is_flat_before_its_own_close_and_takes_no_entry_near_it() -> None:
    d = Desk().fund().begin(HALF_DAY)
    d.holds(minute=170)
    assert d.tick(203, -1) == []
    assert sent(d.tick(203)).side == -1
    d = Desk().fund().begin(HALF_DAY)
    d.bar(180)
    d.answer(BUY_CALL)
    assert list(d.state.stats.denials) == ["near_close"]


def test_incident_14_a_kill_switch_that_raises_stops_trading_and_a_nan_disables_no_limit() -> None:
    def fail(_: RiskView, __: Intent) -> str | None:
        raise RuntimeError("the kill switch itself")

    gates = tuple(Gate(g.name, fail, g.applies) if g.name == "halted" else g for g in OPTION_GATES)
    assert [denial.gate for denial in ask_gates(VIEW, ENTRY, gates).denials] == ["halted"]
    unknown = msgspec.structs.replace(VIEW, book=msgspec.structs.replace(VIEW.book, equity=Decimal("NaN")))
    assert {"daily_loss", "drawdown"} <= {denial.gate for denial in ask_gates(unknown, ENTRY, OPTION_GATES).denials}


def test_incident_14_a_halt_is_a_state_that_outlives_the_process() -> None:
    d = live()
    order = d.buys()
    d.put(ev.HaltRequested(d.at(1), "operator", "x", "ann"))
    d.canceled(order)
    again = restarted(d)
    again.put(snapshot_of(again))
    again.bar(1)
    again.answer(BUY_CALL)
    assert (again.halted(), list(again.state.stats.denials)) == ("operator", ["halted"])


def test_incident_15_a_decision_is_made_on_the_bar_that_closed_and_filled_no_earlier_than_the_next() -> None:
    d = desk()
    effects = d.bar(0, 500.0)
    assert questions(effects) == [1]
    order = sent(d.answer(BUY_CALL))
    assert d.order(order.client_order_id).submitted_ns == d.at(1)  # the next bar's open, not this one's
    assert d.decisions()[0].bar_ns == d.at(0)


def test_incident_17_a_stop_loss_is_sent_once_however_often_the_price_stays_below_it() -> None:
    d = desk()
    d.holds()
    for second in range(50):
        d.quotes(1, quote(CALL, "1.20", "1.24"), second=second)
    assert len([e for e in of(d.effects, SubmitOrder) if e.side < 0]) == 1
    assert len(d.decisions()) == 2


def test_incident_17_a_rejected_stop_loss_is_tried_again_at_intervals_and_ends_in_a_halt() -> None:
    d = desk(Trading(risk=Risk(reject_rate_orders=4), execution=Execution()))
    d.holds()
    attempts = 0
    for second in range(300):
        for order in of(d.quotes(1, quote(CALL, "1.38", "1.42"), second=second), SubmitOrder):
            attempts += 1
            d.put(ev.OrderRejected(d.state.now_ns, order.client_order_id, "no"))
    assert attempts == 5  # one a minute
    assert d.halted() == "reject_rate"


def test_incident_17_a_cancel_that_the_broker_refuses_is_no_loop() -> None:
    d = desk()
    order = d.buys()
    d.bar(1)
    for second in range(1, 59):
        d.put(ev.CancelRejected(d.at(2, second), order, "not cancelable"))
    assert canceling(d.effects) == [order, order]  # at once and half a minute later


@pytest.mark.parametrize("times", [2, 5])
def test_incident_18_a_sale_told_several_times_sells_no_more_than_it_did(times: int) -> None:
    d = desk()
    d.holds()
    d.bar(1)
    sale = sent(d.answer(EXIT)).client_order_id
    for _ in range(times):
        d.fill(sale, 4, "2.10")
    assert d.held == {CALL: 5}
    for _ in range(times):
        d.fill(sale, 9, "2.10")
    assert (d.held, d.state.book.cash, d.state.stats.trades) == ({}, Decimal(10090), 1)


# --- the same at a real broker: stream, look-ups, reports ---------------------------------------------------------


def desk_with_calls(account: Account) -> tuple[Desk, str]:
    """9 calls at 2.00 that the stream reported."""
    d = at_broker(account)
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    return d, name


def test_incident_1_at_a_broker_a_restart_invents_no_fill_and_opens_nothing_again() -> None:
    d, _ = desk_with_calls(account := Account())
    del account.positions[CALL]
    account.cash = Decimal(10000)
    again = restarted(d)
    again.put(account.report(again.at(2)), account.report(again.at(2, 10)))
    assert (again.halted(), again.held) == ("reconciliation", {CALL: 9})
    assert [row for row in again.rows if isinstance(row, FillRow)] == []
    again.bar(2)
    again.answer(BUY_CALL)
    assert [e for e in of(again.effects, SubmitOrder) if e.side > 0] == []


def test_incident_7_a_copy_of_the_journal_from_before_the_newest_orders_takes_none_of_their_names_again() -> None:
    copied, bought_name = desk_with_calls(account := Account())  # decision 1
    d = restarted(copied)
    agreed(d, account, 2)
    d.bar(2)
    sale = account.take(sent(d.answer(EXIT)), d.state.now_ns)  # decision 2
    d.put(account.fill(sale, 9, "2.40", d.at(3)))
    again = restarted(copied)
    again.put(account.report(again.at(3, 10)), ev.AcceptBrokerRequested(again.at(3, 20), "an old copy", "ann"))
    again.put(account.report(again.at(3, 30)), ev.ResumeRequested(again.at(3, 40), "an old copy", "ann"))
    assert (again.halted(), again.held) == ("", {})
    again.bar(3)
    assert (bought_name, sale) == ("e1-pointer-1-0-0", "e1-pointer-2-1-0")
    assert sent(again.answer(BUY_CALL)).client_order_id == "e1-pointer-3-0-0"


def test_incident_2_at_a_broker_a_working_order_is_taken_over_before_the_first_decision() -> None:
    d = at_broker(account := Account())
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)  # the answer to the post was lost in the crash
    again = restarted(d)
    again.put(account.report(again.at(1, 5)))
    assert (again.order(name).status, again.order(name).order_id) == (ACCEPTED, f"id-{name}")
    assert again.state.risk.reconciled
    again.bar(1, quotes=())
    again.answer(BUY_CALL)
    assert of(again.effects, SubmitOrder) == []


def test_incident_3_a_report_of_the_whole_day_after_every_restart_changes_nothing() -> None:
    d, _ = desk_with_calls(account := Account())
    books = []
    for minute in (2, 3, 4):
        d = restarted(d)
        agreed(d, account, minute)
        books.append((d.state.book, d.state.stats.fills))
    assert books[0] == books[1] == books[2]
    assert books[0][1] == 1


def test_incident_5_at_a_broker_a_timeout_is_looked_up_and_the_order_that_is_found_is_the_one_that_was_sent() -> None:
    d = at_broker(account := Account())
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    asking = d.put(ev.OrderUnknown(d.at(1, 3), name))
    assert [e.client_order_id for e in of(asking, LookUpOrder)] == [name]
    d.put(account.found(name, d.at(1, 4)))
    assert (d.order(name).status, [e.client_order_id for e in of(d.effects, SubmitOrder)]) == (ACCEPTED, [name])


@pytest.mark.parametrize("turned", [False, True], ids=["in order", "unordered"])
def test_incident_6_fills_during_a_disconnect_are_in_the_next_report(turned: bool) -> None:
    d = at_broker(account := Account())
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    d.put(account.fill(name, 2, "2.00", d.at(1)), ev.BrokerLost(d.at(1, 1), "stream ended"))
    for quantity in (3, 4):
        account.fill(name, quantity, "2.01", d.at(1, 2))  # nobody listens
    if turned:
        account.fills.reverse()
    agreed(d, account, 1, 30)
    assert (d.held, d.state.book.cash, d.state.stats.fills) == ({CALL: 9}, Decimal("8193.00"), 3)


def test_incident_7_news_that_name_another_s_order_move_nothing_of_ours() -> None:
    d, name = desk_with_calls(Account())
    book = d.state.book
    d.put(ev.OrderFilled(d.at(2), name.replace("e1", "e2"), CALL, 1, Decimal(2), 0, 1, Decimal(2), Decimal(0), 1))
    assert (d.state.book, d.state.risk.reconciled) == (book, False)


def test_incident_10_an_order_that_was_journaled_and_filled_while_the_daemon_was_down_is_the_desk_s() -> None:
    d = at_broker(account := Account())
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    account.fill(name, 9, "2.00", d.at(1))
    again = restarted(d)
    agreed(again, account, 30)
    assert (again.held, again.state.works, again.order(name).status) == ({CALL: 9}, {}, FILLED)
    again.bar(30, quotes=(quote(CALL, "1.20", "1.24"), quote(PUT)))
    assert sent(again.quotes(31, quote(CALL, "1.20", "1.24"), second=1)).side == -1  # its stop is watched


def test_incident_11_the_report_that_tells_of_a_fill_is_the_step_that_knows_the_position() -> None:
    d = at_broker(account := Account())
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    account.fill(name, 9, "2.00", d.at(1))
    d.put(account.report(d.at(1, 1)), ev.BarClosed(d.at(2), _bar(d, 1)))
    (row,) = (list(e.observation.array().ravel()) for e in d.put(_quotes(d, 1)) if hasattr(e, "observation"))
    assert row == [500.0, 1.0]


def test_incident_14_at_a_broker_no_report_however_good_ends_a_halt() -> None:
    d, _ = desk_with_calls(account := Account())
    d.put(account.report(d.at(2), blocked="status ACCOUNT_CLOSED"))
    for minute in (3, 4):
        agreed(d, account, minute)
    assert d.halted() == "account_blocked"


def test_incident_17_a_stop_loss_whose_fate_is_unknown_is_not_sent_a_second_time() -> None:
    d, _ = desk_with_calls(Account())
    stop = sent(d.confirmed(1, quote(CALL, "1.20", "1.24"), second=1)).client_order_id
    d.put(ev.OrderUnknown(d.at(1, 5), stop))
    for second in range(6, 59):
        d.quotes(1, quote(CALL, "1.20", "1.24"), second=second)
    assert len([e for e in of(d.effects, SubmitOrder) if e.side < 0]) == 1


def test_incident_18_a_sale_that_stream_look_up_and_report_all_tell_is_one_sale() -> None:
    d, _ = desk_with_calls(account := Account())
    d.bar(1)
    sale = account.take(sent(d.answer(EXIT)), d.state.now_ns)
    fill = account.fill(sale, 4, "2.10", d.at(2))
    for news in (fill, account.found(sale, d.at(2)), account.report(d.at(2, 1)), fill, account.report(d.at(2, 2))):
        d.put(news)
    assert (d.held, d.state.book.cash, d.state.stats.fills) == ({CALL: 5}, Decimal(9040), 2)


def test_incident_20_a_late_clock_still_flattens() -> None:
    d = desk()
    d.holds()
    late = d.tick(389, 59)  # the tick at minute 383 never came
    assert (sent(late).side, alarms(late)) == (-1, ["not_flat"])


def test_incident_21_unreconciled_is_a_state_in_which_exits_still_go_out() -> None:
    d = live()
    d.holds()
    again = restarted(d)
    assert not again.state.risk.reconciled
    again.confirmed(1, quote(CALL, "1.20", "1.24"), quote(PUT), second=30)
    assert of(again.effects, SubmitOrder) == []  # the broker is heard first, for a minute at most
    again.tick(3)
    assert [e.side for e in of(again.effects, SubmitOrder)] == [-1]


def test_incident_2_after_a_start_no_exit_goes_out_before_the_broker_s_first_word() -> None:
    d = at_broker(account := Account())
    name = account.take(_buy(d), d.state.now_ns)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    again = restarted(d)
    again.bar(1)
    assert of(again.answer(EXIT), SubmitOrder) == []  # decided, and not sent
    account.cash += 1818
    account.positions.clear()  # closed by a person while the daemon was down
    again.put(account.report(again.at(2, 10)))
    assert of(again.effects, SubmitOrder) == []


def _buy(d: Desk) -> SubmitOrder:
    d.bar(0)
    return sent(d.answer(BUY_CALL))


def _bar(d: Desk, minute: int) -> Bar:
    start = d.at(minute)
    return Bar("SPY", start, 500.0, 500.0, 500.0, 500.0, 1.0)


def _quotes(d: Desk, minute: int) -> ev.QuotesReceived:
    quotes = tuple(quote(symbol, at_ns=d.at(minute) + MINUTE) for symbol in d.state.watched)
    return ev.QuotesReceived(d.at(minute) + MINUTE, d.at(minute), quotes)
