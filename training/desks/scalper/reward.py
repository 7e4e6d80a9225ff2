"""The two rewards of `option_scalper`, as arithmetic over tensors. Neither is used to choose a model.

Money is in USD, float64. Invariant of `potential`: its standing terms cancel over an episode, so that only the change
of equity is paid for in the end.
"""

from __future__ import annotations

import torch
from torch import Tensor

TRADES = 20  # closed trades that Sharpe and win rate look back on; the window starts anew with each episode
TRADES_MIN = 5  # fewer closed trades have no Sharpe
SHARPE_MAX = 2.0
PNL_WEIGHT = 10.0
SHARPE_WEIGHT = 0.1
WIN_RATE_WEIGHT = 0.2
DRAWDOWN_WEIGHT = 0.5
REWARDS = ("potential", "reference")


def skill(sharpe: Tensor, win_rate: Tensor) -> Tensor:
    """0.1 x Sharpe + 0.2 x win rate: what changes only when a trade is closed."""
    return sharpe * SHARPE_WEIGHT + win_rate * WIN_RATE_WEIGHT


def standing(skilled: Tensor, drawdown: Tensor) -> Tensor:
    """`skill` - 0.5 x drawdown: the terms that stand from step to step, and the potential."""
    return skilled - drawdown * DRAWDOWN_WEIGHT


def reference(realised_pnl: Tensor, capital: float, standing_after: Tensor) -> Tensor:
    """10 x P&L realised in this step after fees / capital, plus the standing terms after the step."""
    return realised_pnl / capital * PNL_WEIGHT + standing_after


def potential(
    equity_change: Tensor, capital: float, before: Tensor, after: Tensor, *, terminal: Tensor, discount: float
) -> Tensor:
    """10 x change of equity / capital + discount x potential after - potential before; 0 after a terminal step.

    Shaping that leaves the best policy unchanged: Ng, Harada, Russell 1999, "Policy invariance under reward
    transformations", theorem 1; the terminal state's potential must be 0. `before` and `after` are `standing` values.
    """
    following = torch.where(terminal, torch.zeros_like(after), after)
    return equity_change / capital * PNL_WEIGHT + discount * following - before


def trade_statistics(returns: Tensor, closed: Tensor) -> tuple[Tensor, Tensor]:
    """Sharpe and win rate of each environment's last closed trades, float64 (n,) both.

    Sharpe is mean / sample deviation of the returns (not annualised), 0 below five trades or without deviation, clipped
    to +-2. Win rate is the part with a return above 0, and 0 without any trade.

    Args:
        returns: float64 (n, 20), a ring of net trade returns, 0 where none is yet.
        closed: int64 (n,), trades closed in this episode.
    """
    count = closed.clamp(max=TRADES)
    used = torch.arange(TRADES, device=returns.device).unsqueeze(0) < count.unsqueeze(1)
    number = count.clamp(min=1).to(returns.dtype)
    mean = (returns * used).sum(dim=1) / number
    squares = ((returns - mean.unsqueeze(1)).square() * used).sum(dim=1)
    deviation = (squares / (number - 1.0).clamp(min=1.0)).sqrt()
    defined = (count >= TRADES_MIN) & (deviation > 0.0)
    sharpe = torch.where(defined, mean / deviation.clamp(min=1e-300), torch.zeros_like(mean))
    wins = ((returns > 0.0) & used).sum(dim=1).to(returns.dtype)
    return sharpe.clamp(-SHARPE_MAX, SHARPE_MAX), wins / number
