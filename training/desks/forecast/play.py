"""What rules and agents earn on the tensor market with given forecasts: one account of the whole universe.

The quick look while training goes on. The figures of a report come from the dry run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from daemon.core.limits import Trading
from training.data.daily_table import DailyTable
from training.desks.daily.play import session_result
from training.desks.forecast.graph import SEEN
from training.desks.forecast.market import ACCOUNT, ForecastMarket, Outlook
from training.forecast.labels import BUY, SELL
from training.study.study import SessionResult

PROBABILITIES = slice(len(SEEN), len(SEEN) + 3)
CONFIDENCE = len(SEEN) + 3
WEIGHT = -ACCOUNT
Rule = Callable[[Tensor], Tensor]
"""Rows of an account, float32 (n, columns), to final actions, or to wishes that sizing cuts, (n,)."""


def wish_of(agent: nn.Module) -> Rule:
    """The wishes of an actor or an ensemble, before sizing."""

    def wish(rows: Tensor) -> Tensor:
        answer = agent(rows)
        wishes: Tensor = (answer[0] if isinstance(answer, tuple) else answer)[:, 0]
        return wishes

    return wish


def threshold_rule(least: float, most: float) -> Rule:
    """The forecaster alone: the largest weight on a BUY with confidence `least` or more, 0 on such a SELL.

    Otherwise no change. `most` is the largest weight of a symbol.
    """

    def final(rows: Tensor) -> Tensor:
        classes, sure = rows[:, PROBABILITIES].argmax(1), rows[:, CONFIDENCE] >= least
        stays = (rows[:, WEIGHT] / most).clamp(0.0, 1.0)
        stays = torch.where(sure & (classes == SELL), 0.0, stays)
        return torch.where(sure & (classes == BUY), 1.0, stays)

    return final


@torch.no_grad()
def play(
    rule: Rule,
    table: DailyTable,
    outlook: Outlook,
    dates: Sequence[str],
    trading: Trading,
    *,
    fill: str = "next_open",
    sized: bool = False,
) -> tuple[SessionResult, ...]:
    """Play one account from the first session of `dates` to the last. Raises as `ForecastMarket` does.

    `sized`: the rule gives wishes, which sizing cuts; else final actions.
    """
    first, last = table.span(dates)
    market = ForecastMarket(table, outlook, first, last, trading, count=1, fill=fill, draws=False)
    results: list[SessionResult] = []
    for day in range(first, last + 1):
        equity_before = float(market.equity_usd)
        actions = rule(market.observe()).unsqueeze(0)
        market.trade(market.final_of(actions) if sized else actions)
        results.append(session_result(table.sessions[day].date, equity_before, int(market.orders), market))
    return tuple(results)


def rows_of(market: ForecastMarket, steps: int, seed: int) -> Tensor:
    """Observations of accounts that trade at random, float32 (n, columns), without masked symbols."""
    generator = torch.Generator().manual_seed(seed)
    observations = []
    for _ in range(steps):
        observations.append(market.observe().cpu())
        market.step((torch.rand(market.rows, 1, generator=generator) * 2.0 - 1.0).to(market.device))
    rows = torch.cat(observations)
    return rows[rows[:, CONFIDENCE] > 0.0]
