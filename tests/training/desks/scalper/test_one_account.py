"""One account through several spans, on a made-up market whose fees make every round trip lose about 400 USD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from functools import cache

import pytest
import torch
from torch import Tensor

from daemon.core.events import Event
from daemon.core.limits import Trading
from strategies.option_scalper import BUY_CALL, EXIT, SPEC
from strategies.registry import strategy
from tests.support.training.made_up import random_walk, sessions
from training.desks.scalper.data import desk_of
from training.evaluate.bars import BarDesk
from training.study.study import PlayResult

MACHINE = strategy(SPEC.name)
WARMING, FEE_USD = 5, 200
DATES = [session.date for session in sessions(WARMING + 6)][WARMING:]


@cache
def events() -> tuple[Event, ...]:
    """Three sessions that give the volatility, two more that the desk waits for, then six."""
    return tuple(random_walk(len(DATES) + WARMING))


def rules(drawdown_max: float) -> Trading:
    """One contract a trade, one losing trade a session, nothing but the drawdown that halts, 10,000 USD."""
    plain = Trading()
    return replace(
        plain,
        sizing=replace(plain.sizing, max_contracts=1),
        risk=replace(plain.risk, cooldown_loss_s=8 * 3600, daily_loss_max=1.0, drawdown_max=drawdown_max),
        paper=replace(plain.paper, volatility_sessions=3, commission_usd=Decimal(FEE_USD)),
    )


def loser(observations: Tensor) -> Tensor:
    """Buys a call whenever it holds nothing, and leaves a minute later."""
    holds = observations[:, -1, 20] != 0.0
    return torch.nn.functional.one_hot(torch.where(holds, EXIT, BUY_CALL), 6).float() * 50.0


def desk() -> BarDesk:
    return desk_of(events(), MACHINE)


def account(trading: Trading, *spans: Sequence[str]) -> tuple[PlayResult, ...]:
    return desk().relay([loser] * len(spans), spans, trading)


@cache
def anew() -> PlayResult:
    """Every session on an account of its own."""
    return desk().play(loser, desk().before(DATES, rules(0.11)), rules(0.11))


def test_the_account_halts_at_the_third_loss_of_four_in_a_hundred_and_never_trades_again() -> None:
    """Two trades lose about 8 % of the peak, three about 12 %; the limit is 11 %."""
    first, second = account(rules(0.11), DATES[:4], DATES[4:])
    results = (*first.sessions, *second.sessions)
    assert [one.date for one in results] == DATES
    assert [one.trades for one in results] == [1, 1, 1, 0, 0, 0]
    assert [one.pnl_usd for one in results[3:]] == [0.0] * 3
    assert [(halt.date, halt.reason) for halt in (*first.halts, *second.halts)] == [(DATES[2], "drawdown")]
    assert second.denials["halted"] > 0


def test_accounts_that_begin_anew_go_on_trading_and_never_halt() -> None:
    assert [one.trades for one in anew().sessions] == [1] * 6
    assert all(-450 < one.pnl_usd < -350 for one in anew().sessions)  # two fees of 200, and what the option moved
    assert anew().halts == ()


def test_two_folds_are_one_long_dry_run_and_a_session_between_them_is_only_watched() -> None:
    """One contract is bought whatever the equity, so each session earns what it earns alone."""
    trading = rules(1.0)
    (straight,) = account(trading, DATES)
    assert [one.pnl_usd for one in straight.sessions] == pytest.approx([one.pnl_usd for one in anew().sessions])
    first, second = account(trading, DATES[:2], DATES[2:])
    assert (*first.sessions, *second.sessions) == straight.sessions
    equity = 10_000.0
    for one in straight.sessions:
        assert one.capital_usd == pytest.approx(equity, abs=1e-6)
        equity += one.pnl_usd
    before, after = account(trading, DATES[:1], DATES[2:4])
    profits = [one.pnl_usd for one in (*before.sessions, *after.sessions)]
    assert profits == pytest.approx([anew().sessions[place].pnl_usd for place in (0, 2, 3)])
    assert after.sessions[0].capital_usd == pytest.approx(10_000.0 + profits[0], abs=1e-6)


def test_a_session_that_the_feed_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="no session 2031-01-02 in the feed"):
        account(rules(1.0), DATES[:1], ["2031-01-02"])
