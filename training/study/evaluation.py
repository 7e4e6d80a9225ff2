"""Results of a policy or baseline, session by session, and the figures over them.

Pure arithmetic; it knows no market and no strategy.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class SessionResult:
    """One session on its own account; money in USD, net of spread and fees."""

    date: str
    pnl_usd: float
    trades: int
    wins: int
    fees_usd: float
    premium_usd: float  # paid for all buys of options; the value of all shares traded
    held_min: int  # with a position; of shares the minutes times their part of the equity
    minutes: int  # in which a position could be held
    capital_usd: float = 0.0  # with which this session began; 0: the study's, with which every session begins
    over_night: int = 0  # positions held at its close by a desk that is flat before it

    @property
    def decisions_flat(self) -> int:
        """Minutes without a position."""
        return max(self.minutes - self.held_min, 0)


@dataclass(frozen=True, slots=True)
class SessionFigures:
    """Figures over sessions. Returns are fractions of the capital with which the session begins."""

    sessions: int
    net_return: float  # the sum over sessions, or compounded
    session_return: float  # the mean
    session_deviation: float  # the sample deviation
    sharpe_annual: float  # mean / deviation x sqrt(252); 0 without deviation
    worst_session: float
    max_drawdown: float  # of the running sum of returns, or of the account's highest equity
    trades: int
    trades_per_session: float
    win_rate: float
    fees_usd: float
    turnover: float  # premium paid, or value traded / capital, a session
    exposure: float  # minutes with a position / minutes


def figures(results: Sequence[SessionResult], capital_usd: float, *, compounds: bool = False) -> SessionFigures:
    """The figures of at least one session; `compounds` where they are of one account that goes through all of them."""
    returns = [result.pnl_usd / (result.capital_usd or capital_usd) for result in results]
    deviation = statistics.stdev(returns) if len(returns) > 1 else 0.0
    mean = statistics.fmean(returns)
    running = peak = drawdown = 0.0  # net return so far
    for value in returns:
        running += value * (1.0 + running if compounds else 1.0)
        peak = max(peak, running)
        drawdown = max(drawdown, (peak - running) / (1.0 + peak if compounds else 1.0))
    trades = sum(result.trades for result in results)
    return SessionFigures(
        sessions=len(results),
        net_return=running if compounds else math.fsum(returns),
        session_return=mean,
        session_deviation=deviation,
        sharpe_annual=mean / deviation * math.sqrt(252) if deviation > 0.0 else 0.0,
        worst_session=min(returns),
        max_drawdown=drawdown,
        trades=trades,
        trades_per_session=trades / len(results),
        win_rate=sum(result.wins for result in results) / trades if trades else 0.0,
        fees_usd=math.fsum(result.fees_usd for result in results),
        turnover=sum(r.premium_usd / (r.capital_usd or capital_usd) for r in results) / len(results),
        exposure=sum(result.held_min for result in results) / sum(result.minutes for result in results),
    )


def as_metrics(results: SessionFigures) -> dict[str, Any]:
    """The figures for a manifest, rounded to six decimals."""
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(results).items()}
