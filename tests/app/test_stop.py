"""What a clean stop waits for, and what is left open when it does not wait any longer."""

from __future__ import annotations

from daemon.app.live.desk import settled
from daemon.core import events as ev
from tests.support.core.daily_desk import DailyDesk
from tests.support.core.desk import TUESDAY


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
