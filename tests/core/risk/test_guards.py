"""The guards: stops, loss limits, losses in a row, rejections; and the halt as a state that only a reason ends."""

from __future__ import annotations

from dataclasses import replace as configured
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from daemon.core.book import session_loss
from daemon.core.effects import AskPolicy, SubmitOrder
from daemon.core.events import (
    CancelRejected,
    CashTransferred,
    FlattenRequested,
    HaltRequested,
    OrderAccepted,
    OrderRejected,
    OrderUnknown,
    PauseRequested,
    Price,
    PricesPrinted,
    ResumeRequested,
    SessionEnded,
    SessionScheduled,
)
from daemon.core.gates import LOSSES
from daemon.core.limits import Execution, Risk, Sizing, Trading
from daemon.core.orders import CANCELING
from daemon.core.risk.guards import reached_stop
from daemon.core.state import Position, encode_state
from daemon.operator.status import status_of
from tests.support.core.account import Account, line
from tests.support.core.daily_desk import KEEP, daily_desk
from tests.support.core.daily_live import live, with_shares
from tests.support.core.desk import (
    BUY_CALL,
    CALL,
    EXIT,
    HALF_DAY,
    MINUTE,
    TUESDAY,
    Desk,
    alarms,
    canceling,
    desk,
    of,
    quote,
    sent,
)

RESTED = Risk(cooldown_trade_s=0, cooldown_loss_s=0, orders_per_minute=50)
NO_STOP = Sizing(stop_loss=0.99, take_profit=9.0)  # so that the loss limits speak first
ONE = Trading(sizing=Sizing(max_contracts=1), risk=RESTED)
POSITION = Position(CALL, 1, 10, Decimal("20.00"), 100, 0, "2024-07-02")  # 2.00 a share on average


@pytest.mark.parametrize(
    ("low", "high", "reason"),
    [
        ("1.41", "2.99", ""),
        ("1.40", "2.00", "stop_loss"),  # 2.00 x 0.7
        ("2.00", "3.00", "take_profit"),  # 2.00 x 1.5
        ("1.40", "3.00", "stop_loss"),  # both within one range: the stop counts
    ],
)
def test_a_stop_counts_before_a_target_and_both_at_their_very_price(low: str, high: str, reason: str) -> None:
    assert reached_stop(POSITION, quote(CALL, low=low, high=high), Sizing(stop_loss=0.30, take_profit=0.50)) == reason


def test_a_target_that_is_met_exactly_counts_although_the_product_is_not_exact_in_binary() -> None:
    position = replace(POSITION, cost=Decimal("20.20"))  # 2.02 a share; in binary 2.02 x 1.5 is above 3.03
    assert 2.02 * 1.5 > 3.03
    assert reached_stop(position, quote(CALL, low="2.02", high="3.03"), Sizing(stop_loss=0.30)) == "take_profit"


@pytest.mark.parametrize(("low", "high", "reason"), [("1.39", "", "stop_loss"), ("", "3.01", "take_profit")])
def test_a_stop_or_target_touched_between_two_quotes_leaves_the_position(low: str, high: str, reason: str) -> None:
    d = desk()
    d.holds()
    order = sent(d.quotes(1, quote(CALL, low=low, high=high), second=20))
    assert (order.side, order.quantity) == (-1, 9)
    assert d.order(order.client_order_id).reason == reason
    row = d.decisions()[-1]
    assert (row.kind, row.action, row.resolved, row.outcome, row.work) == ("rule", reason, "EXIT", "exit", "2.1")
    assert d.quotes(1, quote(CALL, low="1.00"), second=21) == []  # once


def test_the_range_of_a_bar_before_the_position_was_opened_stops_nothing() -> None:
    d = desk()
    order = d.buys()
    end = d.at(2)
    d.fill(order, 9)
    position = replace(d.state.book.positions[CALL], opened_ns=end)  # filled at the bar's end, on touch
    d.state = replace(d.state, book=replace(d.state.book, positions={CALL: position}))
    assert of(d.bar(1, quotes=(quote(CALL, low="1.00"),)), SubmitOrder) == []
    assert sent(d.bar(2, quotes=(quote(CALL, low="1.00"),))).side == -1


def test_the_daily_loss_halts_and_leaves_every_position() -> None:
    d = desk(Trading(sizing=NO_STOP))
    d.holds()  # 9 x 2.00
    assert d.quotes(2, quote(CALL, "0.89", "0.91")) == []  # 9 x 1.10 x 100 = 990 lost
    assert not d.halted()
    effects = d.quotes(3, quote(CALL, "0.88", "0.88"))  # 9 x 1.12 x 100 = 1008 of 10,000
    assert alarms(effects) == ["daily_loss"]
    assert d.halted()
    assert (d.halted(), sent(effects).side, sent(effects).quantity) == ("daily_loss", -1, 9)


def test_the_daily_loss_leaves_positions_alone_where_so_configured() -> None:
    d = desk(Trading(sizing=NO_STOP, risk=Risk(daily_loss_flatten=False)))
    d.holds()
    effects = d.bar(1, quotes=(quote(CALL, "0.50", "0.50"),))
    assert (alarms(effects), of(effects, SubmitOrder)) == (["daily_loss"], [])


def test_the_daily_loss_counts_fees_and_leaves_transfers_out() -> None:
    d = desk(Trading(sizing=NO_STOP))
    d.put(CashTransferred(d.at(0), Decimal(-3000)))
    assert (d.halted(), d.state.book.equity, d.state.book.peak) == ("", Decimal(7000), Decimal(7000))
    d.put(CashTransferred(d.at(0), Decimal(3000)))
    order = d.buys()
    d.fill(order, 9, fees="999.99")
    assert not d.halted()
    d.fill(order, 9, fees="1000.00", correction=1)
    assert d.halted() == "daily_loss"


def test_a_desk_that_was_halted_for_something_else_still_leaves_at_the_daily_loss() -> None:
    d = desk(Trading(sizing=NO_STOP))
    d.holds()
    d.put(HaltRequested(d.at(1), "operator", "lunch", "ann"))
    effects = d.bar(1, quotes=(quote(CALL, "0.50", "0.50"),))
    assert (alarms(effects), sent(effects).side) == (["daily_loss"], -1)
    assert d.halted()
    assert [halt.reason for halt in d.state.risk.halts] == ["daily_loss", "operator"]


def test_the_drawdown_from_the_peak_halts() -> None:
    d = desk(Trading(sizing=NO_STOP, risk=Risk(daily_loss_max=1.0)))
    d.holds()
    d.quotes(1, quote(CALL, "6.00", "6.00"))  # the peak: 8200 + 9 x 600 = 13,600
    assert d.state.book.peak == Decimal(13600)
    assert d.quotes(2, quote(CALL, "1.50", "1.50")) == []  # 9550: drawdown 29.8 %
    assert alarms(d.quotes(3, quote(CALL, "1.46", "1.46"))) == ["drawdown"]  # 9514: 30.04 %
    assert d.state.book.max_drawdown == pytest.approx(4086 / 13600)
    assert of(d.tick(4), SubmitOrder) == []


def test_a_halt_cancels_the_working_entry_and_survives_json_and_a_new_session() -> None:
    d = desk()
    order = d.buys()
    assert canceling(d.put(HaltRequested(d.at(1), "operator", "lunch", "ann"))) == [order]
    d.canceled(order)
    d.state = d.core.decoder().decode(encode_state(d.state))
    d.begin(TUESDAY, "2024-07-03")
    assert d.halted()
    d.bar(0)
    d.answer(BUY_CALL)
    assert (d.decisions()[-1].outcome, list(d.state.stats.denials)) == ("denied", ["halted"])


def test_a_second_halt_keeps_the_first_reason_and_is_told_once() -> None:
    d = desk()
    d.put(HaltRequested(d.at(1), "operator", "lunch", "ann"))
    again = HaltRequested(d.at(2), "quarantine", "again", "engine")
    assert (alarms(d.put(again)), d.put(again), d.halted()) == (["quarantine"], [], "operator")
    assert d.put(HaltRequested(d.at(3), "operator", "still lunch", "ann")) == []


def test_a_new_problem_of_the_reason_that_halts_already_is_an_alarm_once_and_its_figures_are_not() -> None:
    d = desk()
    d.put(HaltRequested(d.at(1), "quarantine", "event 7 raised", "engine"))
    assert alarms(d.put(HaltRequested(d.at(2), "quarantine", "event 8 raised", "engine"))) == []
    others = HaltRequested(d.at(3), "quarantine", "the strategy ended its process", "rltraderd")
    assert (alarms(d.put(others)), alarms(d.put(others))) == (["quarantine"], [])


def test_what_more_a_blind_desk_loses_is_no_further_alarm() -> None:
    d = desk()
    d.put(HaltRequested(d.at(1), "blind", "bars lost for 5 minutes while SPY is held", "engine"))
    assert (
        d.put(HaltRequested(d.at(2), "blind", "bars and quotes lost for 5 minutes while SPY is held", "engine")) == []
    )


def test_a_halt_ends_only_by_a_command_that_states_a_reason() -> None:
    d = desk()
    d.put(HaltRequested(d.at(1), "operator", "lunch", "ann"))
    assert alarms(d.put(ResumeRequested(d.at(2), " ", "ann"))) == ["resume_refused"]
    assert d.halted()
    assert d.put(ResumeRequested(d.at(3), "back from lunch", "ann")) == []
    assert not d.halted()
    d.bar(3)
    assert sent(d.answer(BUY_CALL)).side == 1


def lose_on_eight(d: Desk, minute: int, price: str) -> None:
    """Buy 8 contracts at 2.00 and sell them at `price`."""
    d.holds(minute=minute)
    d.bar(minute + 1)
    d.fill(sent(d.answer(EXIT)).client_order_id, 8, price)


def test_halts_and_resumes_do_not_forget_what_the_day_lost() -> None:
    eight = configured(NO_STOP, max_contracts=8)
    d = desk(configured(Trading(sizing=eight), risk=configured(RESTED, consecutive_losses_max=4)))
    for minute in (0, 2):  # 400 of 10,000 each: 4, 8 %; the limit is 10 %
        lose_on_eight(d, minute, "1.50")
        assert not d.halted()
        d.put(HaltRequested(d.at(minute + 2), "operator", "lunch", "ann"))
        assert d.put(ResumeRequested(d.at(minute + 2), "back", "ann")) == []
    book = d.state.book
    assert (book.session_start_equity, book.peak, book.equity) == (Decimal(10000), Decimal(10000), Decimal(9200))
    assert d.state.risk.consecutive_losses == 2
    lose_on_eight(d, 4, "1.75")  # 200 more: 10 %
    assert d.halted() == "daily_loss"


def test_a_resume_after_a_loss_halt_is_refused_until_the_limits_are_reset() -> None:
    d = desk(Trading(sizing=NO_STOP))
    d.holds()
    sale = sent(d.bar(1, quotes=(quote(CALL, "0.50", "0.50"),)))
    d.fill(sale.client_order_id, 9, "0.50")
    effects = d.put(ResumeRequested(d.at(2), "understood", "ann"))
    assert alarms(effects) == ["resume_refused"]
    assert "resume --reset-limits --reason" in str(effects)
    assert d.halted() == "daily_loss"
    d.put(ResumeRequested(d.at(2), "understood", "ann", reset_limits=True))
    assert not d.halted()
    book = d.state.book
    assert (book.equity, book.peak, book.session_start_equity) == (Decimal(8650), Decimal(10000), Decimal(10000))
    assert (book.guard_base, book.guard_peak, book.max_drawdown) == (Decimal(8650), Decimal(8650), 0.135)
    status = status_of(d.state, "paper")
    assert (status.day_usd, status.drawdown) == ("-1350.00", 0.135)
    assert (status.limit_base_usd, status.limit_peak_usd, status.loss_to_reset) == ("8650.00", "8650.00", "")
    d.put(CashTransferred(d.at(2), Decimal(0)))
    assert not d.halted()
    d.put(CashTransferred(d.at(2), Decimal(-4325)))  # half of it: the references halve too
    assert (d.halted(), d.state.book.guard_base, d.state.book.guard_peak) == ("", Decimal(4325), Decimal(4325))
    d.begin(TUESDAY, "2024-07-03")
    assert (d.state.book.guard_base, d.state.book.guard_peak, d.state.book.peak) == (
        Decimal(0),
        Decimal(4325),
        Decimal(5000),
    )


def test_a_limit_that_is_reached_under_another_halt_keeps_a_plain_resume_out() -> None:
    d = desk(Trading(sizing=NO_STOP, risk=Risk(daily_loss_max=1.0)))
    d.holds()
    d.quotes(1, quote(CALL, "6.00", "6.00"))  # the peak: 13,600
    d.put(HaltRequested(d.at(1), "operator", "lunch", "ann"))
    d.quotes(2, quote(CALL, "1.40", "1.40"))  # 9460: drawdown 30.4 %
    assert d.halted() == "operator"
    assert alarms(d.put(ResumeRequested(d.at(3), "back", "ann"))) == ["resume_refused"]
    d.put(ResumeRequested(d.at(3), "back", "ann", reset_limits=True))
    assert not d.halted()
    d.quotes(4, quote(CALL, "6.50", "6.50"))  # above the old peak: there is one peak again
    assert (d.state.book.guard_peak, d.state.book.peak) == (Decimal(0), Decimal(14050))


def test_the_next_session_takes_a_plain_resume_after_a_daily_loss_but_not_after_a_drawdown() -> None:
    for limits, halted in ((Risk(), ""), (Risk(daily_loss_max=1.0, drawdown_max=0.1), "drawdown")):
        d = desk(Trading(sizing=NO_STOP, risk=limits))
        d.holds()
        d.bar(1, quotes=(quote(CALL, "0.50", "0.50"),))
        assert d.halted() == (halted or "daily_loss")
        for order in tuple(d.state.orders):
            d.fill(order, 9, "0.50")
        d.begin(TUESDAY, "2024-07-03")
        d.put(ResumeRequested(d.at(1), "a new day", "ann"))
        assert d.halted() == halted


def test_a_daily_loss_of_before_the_open_keeps_a_plain_resume_out_all_that_day_although_the_price_came_back() -> None:
    """100 AAA bought at 100 USD, 90 % of what there is: at 94 before Tuesday's open 5.4 % are lost, and found again."""
    risk = Trading(risk=Risk(daily_loss_max=0.05))
    d = with_shares(Account("11111"), risk, AAA=100)
    d.put(PricesPrinted(d.at(-10), "2024-07-02", False, (Price("AAA", Decimal(94)),)))
    for minute in (-5, 30):
        d.put(PricesPrinted(d.at(minute), "2024-07-02", False, (Price("AAA", Decimal(100)),)))
        assert alarms(d.put(ResumeRequested(d.at(minute, 1), "it is back", "ann"))) == ["resume_refused"]
    d.begin(HALF_DAY)
    d.put(ResumeRequested(d.at(-5), "a new day", "ann"))
    assert d.state.risk.halt is None


def test_a_daily_loss_keeps_a_plain_resume_out_on_its_evening_too() -> None:
    d = desk(Trading(sizing=NO_STOP))
    d.holds()
    d.bar(1, quotes=(quote(CALL, "0.50", "0.50"),))
    d.fill(next(iter(d.state.orders)), 9, "0.50")
    evening = d.at(500)
    d.put(SessionEnded(d.at(390), "2024-07-01"), SessionScheduled(d.at(391), TUESDAY, ()))
    assert alarms(d.put(ResumeRequested(evening, "home", "ann"))) == ["resume_refused"]


def test_a_loss_halt_that_a_flatten_stands_before_keeps_a_plain_resume_out_although_the_sale_brought_more() -> None:
    d = desk(Trading(sizing=NO_STOP, risk=Risk(daily_loss_max=1.0)))
    d.holds()
    d.quotes(1, quote(CALL, "6.00", "6.00"))  # the peak: 13,600
    d.confirmed(2, quote(CALL, "1.46", "1.46"))  # 9514: drawdown 30.04 %
    sale = sent(d.put(FlattenRequested(d.at(3), "out", "ann")))
    d.fill(sale.client_order_id, 9, "1.60")  # 9640: 29.1 %
    assert [halt.reason for halt in d.state.risk.halts] == ["flatten", "drawdown"]
    assert alarms(d.put(ResumeRequested(d.at(4), "back", "ann"))) == ["resume_refused"]
    d.put(ResumeRequested(d.at(4), "back", "ann", reset_limits=True))
    assert not d.halted()


def test_bars_that_a_strategy_did_not_see_are_a_hole_after_the_resume() -> None:
    d = desk(ONE)
    d.bar(0)
    d.put(HaltRequested(d.at(1), "quarantine", "raised twice", "engine", strategy=True))
    for minute in range(1, 6):
        assert of(d.bar(minute), AskPolicy) == []
    d.put(ResumeRequested(d.at(6), "mended", "ann"))
    d.bar(6)
    d.answer(BUY_CALL)
    assert (d.decisions()[-1].outcome, list(d.state.stats.denials)) == ("denied", ["gapped_bars"])


def test_an_entry_that_the_broker_learns_of_late_is_cancelled_while_halted() -> None:
    d = desk()
    d.bar(0)
    order = sent(d.answer(BUY_CALL)).client_order_id
    d.put(OrderUnknown(d.at(1, 10), order))
    assert canceling(d.put(HaltRequested(d.at(1, 11), "operator", "lunch", "ann"))) == []  # nothing to cancel yet
    assert canceling(d.put(OrderAccepted(d.at(1, 20), order))) == [order]
    d.put(CancelRejected(d.at(1, 21), order, "try later"))
    assert canceling(d.tick(1, 50)) == [order]
    assert d.order(order).status == CANCELING


def test_a_flatten_halts_leaves_everything_and_also_what_still_fills_after_it() -> None:
    d = desk()
    order = d.buys()
    d.fill(order, 4)
    now = d.put(FlattenRequested(d.at(1), "going home", "ann"))
    assert (canceling(now), alarms(now)) == ([order], ["flatten"])
    d.fill(order, 5)
    sale = sent(d.canceled(order))
    assert sale.quantity == 5
    d.fill(sale.client_order_id, 5, "1.98")
    assert sent(d.fill(order, 6)).quantity == 1  # the broker had filled one more
    assert d.halted()
    assert "going home" in str(d.state.risk.halt)


def test_a_flatten_takes_over_from_a_daily_loss_that_was_to_leave_positions_alone() -> None:
    d = desk(Trading(sizing=NO_STOP, risk=Risk(daily_loss_flatten=False)))
    order = d.buys()
    d.fill(order, 8)
    assert alarms(d.quotes(2, quote(CALL, "0.50", "0.50"))) == ["daily_loss"]
    assert alarms(d.put(FlattenRequested(d.at(2), "going home", "ann"))) == ["flatten"]
    sale = sent(d.canceled(order))
    d.fill(sale.client_order_id, 8, "0.50")
    assert sent(d.fill(order, 9)).quantity == 1  # the broker had filled one more
    assert [halt.reason for halt in d.state.risk.halts] == ["flatten", "daily_loss"]


def lose(d: Desk, minute: int, price: str = "1.99") -> None:
    """Buy at 2.00 at `minute`, sell at `price` a minute later."""
    d.holds(minute=minute)
    d.bar(minute + 1)
    sale = sent(d.answer(EXIT))
    d.fill(sale.client_order_id, sale.quantity, price)


def test_losses_in_a_row_pause_for_their_time_and_a_gain_starts_the_count_again() -> None:
    d = desk(configured(ONE, risk=configured(RESTED, consecutive_losses_max=2)))
    lose(d, 0)
    lose(d, 2, "2.01")
    lose(d, 4)
    assert not d.paused()
    lose(d, 6)
    assert d.state.risk.pause is not None
    assert (d.paused(), alarms(d.effects)) == (LOSSES, [LOSSES])
    assert d.state.risk.pause.until_ns == d.at(8) + 60 * MINUTE
    for minute in range(8, 67):
        d.bar(minute)
    d.answer(BUY_CALL)
    assert d.state.stats.denials == {"consecutive_losses": 1}
    d.bar(67)
    assert sent(d.answer(BUY_CALL)).quantity == 1
    assert (d.state.stats.trades, d.state.stats.wins) == (4, 1)


def test_losses_after_a_pause_are_counted_anew() -> None:
    d = desk(configured(ONE, risk=configured(RESTED, consecutive_losses_max=2, consecutive_losses_pause_min=2)))
    counts = []
    for minute in (0, 2, 8, 10):
        lose(d, minute)
        counts.append(alarms(d.effects).count(LOSSES))
        for quiet in range(minute + 2, 8 if minute == 2 else minute + 2):
            d.bar(quiet)
    assert counts == [0, 1, 1, 2]


def test_losses_in_a_row_do_not_shorten_a_pause_that_the_operator_ordered() -> None:
    d = desk(configured(ONE, risk=configured(RESTED, consecutive_losses_max=1)))
    d.holds()
    d.put(PauseRequested(d.at(1), "news", "ann"))
    d.bar(1)
    sale = sent(d.answer(EXIT))
    d.fill(sale.client_order_id, 1, "1.00")
    for minute in range(2, 70):
        d.bar(minute)
    d.answer(BUY_CALL)
    assert d.state.stats.denials == {"paused": 1}
    d.put(ResumeRequested(d.at(70), "news read", "ann"))
    d.bar(70)
    assert sent(d.answer(BUY_CALL)).side == 1


def test_a_pause_cancels_the_working_entry() -> None:
    d = desk()
    order = d.buys()
    assert canceling(d.put(PauseRequested(d.at(1), "news", "ann"))) == [order]
    assert d.canceled(order) == []


def test_too_many_rejections_among_the_last_orders_halt() -> None:
    d = desk(configured(ONE, risk=configured(RESTED, reject_rate_orders=4)))
    for minute, is_rejected in enumerate((True, False, False)):
        d.bar(2 * minute)
        order = sent(d.answer(BUY_CALL)).client_order_id
        if is_rejected:
            d.put(OrderRejected(d.state.now_ns, order, "no"))
        else:
            d.fill(order, 1)  # filled before it was accepted: not a rejection either
            d.bar(2 * minute + 1)
            sale = sent(d.answer(EXIT)).client_order_id
            d.accept(sale)
            d.fill(sale, 1, "2.00")
    assert list(d.state.risk.outcomes) == [False] * 4
    assert not d.halted()
    for minute in (7, 8):
        d.bar(minute)
        order = sent(d.answer(BUY_CALL)).client_order_id
        d.put(OrderRejected(d.state.now_ns, order, "no"))
    assert d.halted() == "reject_rate"
    d.put(ResumeRequested(d.at(10), "the broker is well again", "ann"))
    assert list(d.state.risk.outcomes) == []


def test_what_a_gateway_denies_is_told_and_is_no_rejection() -> None:
    d = desk(configured(ONE, risk=configured(RESTED, reject_rate_orders=2)))
    for minute in range(4):
        d.bar(minute)
        order = sent(d.answer(BUY_CALL)).client_order_id
        effects = d.put(OrderRejected(d.state.now_ns, order, "gateway: no new risk: operator: news", denied=True))
        assert alarms(effects) == (["order_denied"] if minute == 0 else [])  # once for each wording
    assert (list(d.state.risk.outcomes), d.halted()) == ([], "")


def test_an_order_that_is_accepted_and_then_rejected_counts_once() -> None:
    d = desk(configured(ONE, risk=configured(RESTED, reject_rate_orders=4, reject_rate_max=0.8)))
    for minute in range(4):
        assert not d.halted()
        d.bar(minute)
        order = sent(d.answer(BUY_CALL)).client_order_id
        d.accept(order)
        d.put(OrderRejected(d.state.now_ns, order, "the venue's word"))
    assert (d.state.risk.outcomes, d.halted()) == ((True,) * 4, "reject_rate")


def test_an_order_that_fills_and_is_rejected_for_the_rest_is_none_that_was_rejected() -> None:
    d = desk()
    order = d.buys()
    d.fill(order, 1)
    d.put(OrderRejected(d.state.now_ns, order, "the rest of it"))
    assert d.state.risk.outcomes == (False,)


@pytest.mark.parametrize(
    ("transfer", "price", "halted"),
    [
        (-4000, "1.40", ""),  # 540 of 6,000 lost: 9 %
        (-4000, "1.33", "daily_loss"),  # 603 of 6,000: 10.05 %, although 6 % of what was there at the start
        (90_000, "1.00", ""),  # 900 of 100,000: 0.9 %
    ],
)
def test_the_daily_loss_is_a_part_of_the_equity_with_its_transfers(transfer: int, price: str, halted: str) -> None:
    d = desk(Trading(sizing=NO_STOP))
    d.holds()
    d.put(CashTransferred(d.at(1), Decimal(transfer)))
    d.quotes(1, quote(CALL, price, price), second=5)
    assert d.halted() == halted


def test_a_transfer_in_the_middle_of_a_loss_changes_no_part_of_it() -> None:
    d = desk(Trading(sizing=NO_STOP))
    d.holds()
    d.quotes(1, quote(CALL, "1.50", "1.50"))  # 450 of 10,000
    d.put(CashTransferred(d.at(1), Decimal(-7640)))  # 1,910 are left: a fifth
    assert session_loss(d.state.book) == pytest.approx(0.045)
    d.quotes(2, quote(CALL, "1.39", "1.39"))  # 99 of 1,910 more: 1,811 of what were 2,000
    assert session_loss(d.state.book) == pytest.approx(0.0945)
    assert d.state.risk.halt is None
    d.quotes(3, quote(CALL, "1.37", "1.37"))
    assert d.halted() == "daily_loss"


def test_to_take_all_money_out_is_no_loss_and_what_comes_again_is_traded() -> None:
    d = daily_desk()
    d.put(CashTransferred(d.at(-20), Decimal(-10_000)))
    assert (d.state.risk.halt, session_loss(d.state.book)) == (None, None)
    d.put(CashTransferred(d.at(-18), Decimal(5000)))
    assert (session_loss(d.state.book), d.state.book.peak) == (0.0, Decimal(5000))
    d.due()
    d.answer(10, KEEP, KEEP)
    assert d.decisions()[-1].outcome == "ordered"


def test_a_desk_that_began_without_money_trades_what_comes() -> None:
    d = live(account := Account("0"))
    account.book(line("CSD", amount="7000"))
    d.put(account.report(d.at(-18)))
    d.due()
    d.answer(10, KEEP, KEEP)
    assert d.decisions()[-1].outcome == "ordered"


@given(st.lists(st.one_of(st.integers(-9000, 90_000), st.integers(100, 300).map(str)), max_size=12))
def test_transfers_alone_change_neither_the_loss_nor_the_drawdown(happenings: list[int | str]) -> None:
    d = desk(Trading(sizing=NO_STOP, risk=Risk(daily_loss_max=1.0, drawdown_max=1.0)))
    d.holds()
    worth, peak, equity = 1.0, 1.0, 10_000.0  # what a dollar of the start became, worked out move by move
    for happening in happenings:
        if isinstance(happening, str):
            d.quotes(1, quote(CALL, f"{int(happening) / 100}", f"{int(happening) / 100}"))
            now = float(d.state.book.equity)
            worth, equity = worth * now / equity, now
            peak = max(peak, worth)
        elif equity > 0 and equity + happening > 1000:  # of an account that lost all no part is left to compare with
            d.put(CashTransferred(d.at(1), Decimal(happening)))
            equity += happening
        assert session_loss(d.state.book) == pytest.approx(1 - worth, abs=1e-3)
        book = d.state.book
        assert float((book.peak - book.equity) / book.peak) == pytest.approx(1 - worth / peak, abs=1e-3)


def test_exits_go_out_while_halted_and_paused() -> None:
    d = desk(Trading(execution=Execution()))
    d.holds()
    d.put(HaltRequested(d.at(1), "operator", "lunch", "ann"), PauseRequested(d.at(1), "news", "ann"))
    d.bar(1)
    assert sent(d.answer(EXIT)).side == -1
