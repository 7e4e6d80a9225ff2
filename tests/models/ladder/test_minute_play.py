"""The virtual account of a desk that holds shares by the minute, worked out by hand."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from daemon.core.desks.registry import desk_of
from daemon.core.events import BarClosed, ModelVerified, SessionScheduled
from daemon.core.limits import Paper, Trading
from daemon.core.state import Identity, State
from daemon.core.step import Core
from daemon.models.ladder.minute_play import MinuteSharePlay, player_of
from daemon.models.shadow_play import ContractPlay, SharePlay
from strategies.kit.contract import Answer, Bar
from strategies.registry import strategy as registered
from tests.support.core.desk import MINUTE, MONDAY, SESSIONS
from tests.support.core.share_bars import ShareBars

FLAT, LONG = Answer((1.0, 0.0), b""), Answer((0.0, 1.0), b"")


def state(cash: int = 10_000) -> State[Any]:
    core = Core(ShareBars())
    rules = Trading(paper=Paper(cash_usd=Decimal(cash), share_cost_rate=Decimal("0.001")))
    first = core.start(Identity("replay", "desk-1", "share_bars", "e1", "sip"), rules)
    for event in (
        ModelVerified(0, "v1", "d", promoted=True, feed="sip"),
        SessionScheduled(MONDAY.open_ns - MINUTE, MONDAY, SESSIONS[1:]),
    ):
        first = core.step(first, event).state
    return first


def bar(open_: float, close: float) -> BarClosed:
    return BarClosed(0, Bar("SPY", MONDAY.open_ns, open_, max(open_, close), min(open_, close), close, 1000.0))


def test_an_answer_trades_at_the_next_bar_s_open_and_nothing_is_held_overnight() -> None:
    """Buys 10 at 101 for 1,010 + 1.01, sells 10 at the last close of 103 for 1,030 - 1.03: 17.96."""
    now = state()
    play = MinuteSharePlay(ShareBars(), 10_000.0)
    play.watch(now, bar(99.0, 100.0))
    play.decide(now, LONG)
    assert play.trades == 0
    play.watch(now, bar(101.0, 102.0))
    play.decide(now, LONG)
    play.watch(now, bar(102.5, 103.0))
    assert play.trades == 1
    play.end(now)
    assert play.pnl_usd == {MONDAY.date: pytest.approx(17.96)}
    assert (play.trades, play.modelled) == (2, 0)
    play.end(now)
    assert play.pnl_usd == {MONDAY.date: pytest.approx(17.96)}


def test_a_sale_goes_before_the_close_and_buys_end_with_the_cash() -> None:
    """500 USD buy 4 of 10 shares at 110 and a tenth of a per cent; sold at 120: 440.44 out, 479.52 in."""
    now = state(500)
    play = MinuteSharePlay(ShareBars(), 500.0)
    play.decide(now, LONG)
    play.watch(now, bar(110.0, 110.0))
    play.decide(now, FLAT)
    play.watch(now, bar(120.0, 119.0))
    play.end(now)
    assert play.pnl_usd == {MONDAY.date: pytest.approx(479.52 - 440.44)}


def test_without_a_session_nothing_is_decided_and_nothing_counted() -> None:
    now = state()
    nowhere = replace(now, session=replace(now.session, session=None))
    play = MinuteSharePlay(ShareBars(), 10_000.0)
    play.decide(nowhere, LONG)
    play.end(nowhere)
    assert play.pnl_usd == {}


def test_each_kind_of_desk_has_its_player() -> None:
    assert desk_of(ShareBars()).spec.holds == "shares"
    assert isinstance(player_of(ShareBars(), 1.0), MinuteSharePlay)
    assert isinstance(player_of(registered("option_scalper"), 1.0), ContractPlay)
    assert isinstance(player_of(registered("daily_rebalancer"), 1.0), SharePlay)
