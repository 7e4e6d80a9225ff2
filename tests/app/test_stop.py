"""What a clean stop waits for, and what is left open when it does not wait any longer."""

from __future__ import annotations

from daemon.app.live.desk import settled
from daemon.core import events as ev
from daemon.core.effects import SubmitOrder
from tests.support.core.daily_desk import DailyDesk
from tests.support.core.desk import TUESDAY, of
from tests.support.core.resting import protected, sales


def test_a_stop_that_leaves_shares_waits_for_a_sale_that_is_sent_again_only_later() -> None:
    d = DailyDesk().fund().holds(AAA=10)
    d.begin(TUESDAY)
    d.put(ev.StopRequested(d.at(5), "x", flatten=True))
    (name,) = d.state.orders
    d.put(ev.OrderRejected(d.at(5), name, "no"))
    assert (d.state.orders, settled(d.state, flatten=True)) == ({}, False)
    d.tick(7)
    (name,) = d.state.orders
    d.fill(name, 10, "100")
    d.tick(7.1)
    assert settled(d.state, flatten=True)


def test_a_stop_that_keeps_shares_waits_for_no_sale() -> None:
    d = DailyDesk().fund().holds(AAA=10)
    d.begin(TUESDAY)
    d.put(ev.FlattenRequested(d.at(5), "x", "ann"))
    assert d.state.orders
    assert settled(d.state, flatten=False)


def test_a_stop_waits_for_a_sale_for_which_the_resting_stop_was_taken_away() -> None:
    """Else the position would be without either until the next start."""
    desk, names = protected()
    desk.minute(1)
    desk.answer(-1.0, 1.0)
    desk.put(ev.StopRequested(desk.at(2, 2), "SIGTERM", flatten=False))
    assert not settled(desk.state, flatten=False)
    desk.account.end(names["SPY"])
    step = desk.core.step(desk.state, ev.OrderCanceled(desk.at(2, 3), names["SPY"]))
    assert not settled(step.state, flatten=False)  # it waits for a report
    desk.state = step.state
    effects = desk.put(desk.account.report(desk.at(2, 4))) + desk.tick(2, 5)
    assert [order.symbol for order in sales(effects)] == ["SPY"]
    assert settled(desk.state, flatten=False)


def test_a_stop_waits_for_a_resting_stop_that_was_not_answered_yet() -> None:
    desk, names = protected()
    desk.account.end(names["SPY"])
    desk.put(ev.OrderCanceled(desk.at(2), names["SPY"]), desk.account.report(desk.at(2, 1)))
    rested = [order for order in of(desk.minute(3), SubmitOrder) if order.symbol == "SPY"]
    desk.put(ev.StopRequested(desk.at(4, 2), "SIGTERM", flatten=False))
    assert not settled(desk.state, flatten=False)
    desk.take([*rested])
    assert settled(desk.state, flatten=False)
