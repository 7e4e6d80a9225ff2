"""Accounts of daily desks on made-up days, their rules, and what it means that two of them agree.

Nothing here computes an expected value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from functools import cache

import pytest
import torch
from torch import Tensor

from daemon.core.limits import Trading
from daemon.core.strategy_rules import trading_for
from strategies import daily_rebalancer, regime_switcher
from strategies.daily_rebalancer import CASH, HOLDINGS, TRADABLE, VALUE
from tests.support.training.made_up_days import walk
from training.data.daily_table import DailyTable
from training.desks.daily.markets.rebalancer import by_variant
from training.study.study import PlayResult, SessionResult

CENT = 0.01
SMA20 = [50 + 13 * stock + 4 for stock in range(50)]


@cache
def made_up_stocks() -> DailyTable:
    """450 sessions of 50 random walks: the desk is warm after 400."""
    return walk(450, seed=1, spec=daily_rebalancer.SPEC)


@cache
def made_up_funds() -> DailyTable:
    """330 sessions of three random walks."""
    return walk(330, seed=2, spec=regime_switcher.SPEC)


def trend(observations: Tensor) -> Tensor:
    """A policy that reads closes, an indicator, holdings, cash and value: any difference grows with the sessions."""
    closes, value = observations[:, :50], observations[:, VALUE : VALUE + 1]
    weights = observations[:, HOLDINGS] * closes / value
    cash = observations[:, CASH : CASH + 1] / value
    moved = torch.tanh(20.0 * (closes / observations[:, SMA20] - 1.0)) + cash - 8.0 * weights
    return moved.clamp(-1.0, 1.0) * observations[:, TRADABLE]


def ends(results: Sequence[SessionResult]) -> list[float]:
    """Equity at each session's end in USD."""
    return [result.capital_usd + result.pnl_usd for result in results]


def agree(desk: PlayResult, market: Sequence[SessionResult]) -> None:
    """Both accounts are the same to the cent at every close, and traded as much."""
    assert [r.date for r in desk.sessions] == [r.date for r in market]
    assert ends(desk.sessions) == pytest.approx(ends(market), rel=0, abs=CENT)
    assert [r.trades for r in desk.sessions] == [r.trades for r in market]
    for figure in ("fees_usd", "premium_usd", "pnl_usd"):
        figures = [[getattr(r, figure) for r in results] for results in (desk.sessions, market)]
        assert figures[0] == pytest.approx(figures[1], rel=0, abs=CENT)
    assert [r.held_min for r in desk.sessions] == [r.held_min for r in market]
    assert desk.denials == {}


def stocks_rules(variant: str, cash: int = 1_000_000) -> Trading:
    """The desk's own rules, but that it never halts."""
    rules = trading_for("daily_rebalancer")
    rules = replace(rules, risk=replace(rules.risk, daily_loss_max=1.0, drawdown_max=1.0))
    rules = by_variant(rules, variant)
    return replace(rules, paper=replace(rules.paper, cash_usd=Decimal(cash)))
