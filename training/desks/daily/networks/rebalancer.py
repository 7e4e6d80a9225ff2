"""The network of `daily_rebalancer`: input scaling, an actor for 50 numbers, a separate critic.

`Policy` is exactly what is exported; whatever it needs (the scaling too) is a buffer or a parameter of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from strategies.daily_rebalancer import (
    CASH,
    CLOSES,
    HOLDINGS,
    INDICATOR_COLUMNS,
    INDICATORS,
    SPEC,
    STOCKS,
    TRADABLE,
    VALUE,
    WEEKDAY,
    WIDTH,
)
from training.rl.layers import NO_LIMIT, Scaling, check_rows, start_linear

HIDDEN = 64
LOG_STD = -0.5
"""Where the logarithms of the standard deviations start: 0.61, so that a tenth of the samples around 0 is clipped to
[-1, 1]; at Stable-Baselines3's 0 (a deviation of 1) a third of them is, and actions carry less information."""
CLIP = 5.0
"""Scaled market inputs are clipped to [-CLIP, CLIP] deviations."""
EQUAL_SHARE = 1.0 / STOCKS  # a holding of this share of the portfolio counts as 1
_FACTORS = {"rsi14": 0.01, "cci20": 0.005, "dx14": 0.01, "williams_r14": 0.01, "stochastic_k14": 0.01}
_MARKET = slice(CLOSES.start, INDICATOR_COLUMNS.stop)  # closes and indicators: what `fit_scaling` measures
_SMA_200 = INDICATORS.index("sma200")


IDENTITY = Scaling.identity(WIDTH)
"""Leaves every normalised input as it is; weights that bring their scaling are loaded into it."""


def _inverse(divisor: Tensor) -> Tensor:
    """1 / divisor, and 0 where that is 0."""
    return torch.where(divisor == 0.0, 0.0, 1.0 / divisor)


def fit_scaling(observations: Tensor) -> Scaling:
    """Scaling of closes and indicators by the days observed; of money and holdings, which are the policy's, fixed.

    Args:
        observations: raw, float32 (rows, 803), of the training sessions. Stocks whose flag is 0 do not count.

    Raises:
        ValueError: fewer than two rows, or a value that is not finite.
    """
    check_rows(observations, "observations")
    market = Policy(IDENTITY).normalise(observations)[:, _MARKET].double()
    known = observations[:, TRADABLE] != 0.0
    known = torch.cat([known, known.repeat_interleave(len(INDICATORS), dim=1)], dim=1)
    count = known.sum(dim=0)
    mean = torch.where(known, market, 0.0).sum(dim=0) / count.clamp_min(1)
    squares = torch.where(known, (market - mean).square(), 0.0).sum(dim=0)
    scale = (squares / (count - 1).clamp_min(1)).sqrt()
    scale = torch.where(scale < 1e-8, 1.0, scale)  # a column that never changed
    means, scales, clips = [0.0] * WIDTH, [1.0] * WIDTH, [NO_LIMIT] * WIDTH
    means[_MARKET], scales[_MARKET], clips[_MARKET] = mean.tolist(), scale.tolist(), [CLIP] * len(mean)
    scales[HOLDINGS] = [EQUAL_SHARE] * STOCKS
    means[VALUE] = 1.0  # the capital at the start
    return Scaling(tuple(means), tuple(scales), tuple(clips))


class Policy(nn.Module):
    """Observation to 50 numbers in [-1, 1]: normalise, scale, 803 -> 64 -> 64 -> 50, tanh, 0 where the flag is 0."""

    mean: Tensor
    scale: Tensor
    clip: Tensor
    factors: Tensor
    of_price: Tensor

    def __init__(self, scaling: Scaling) -> None:
        super().__init__()
        scaling.keep_in(self)
        factors = torch.tensor([_FACTORS.get(name, 0.0) for name in INDICATORS])
        self.register_buffer("factors", factors, persistent=False)  # given by the definition, not by training
        self.register_buffer("of_price", factors == 0.0, persistent=False)
        self.actor = _layers(STOCKS)

    def normalise(self, observation: Tensor) -> Tensor:
        """Raw observations, float32 (n, 803), without their units, float32 (n, 803) in the same order.

        A close is divided by its SMA 200; averages, bands, ATR and MACD by the stock's close; RSI, DX, %R and %K by
        100, CCI by 200; holdings x close and cash by the portfolio value, that by the capital at the start. Weekday
        and flags stay. Where a divisor is 0 the quotient is 0.
        """
        closes, value = observation[:, CLOSES], observation[:, VALUE : VALUE + 1]
        indicators = observation[:, INDICATOR_COLUMNS].reshape(-1, STOCKS, len(INDICATORS))
        factors = torch.where(self.of_price, _inverse(closes).unsqueeze(2), self.factors)
        of_value = _inverse(value)
        return torch.cat(
            [
                closes * _inverse(indicators[:, :, _SMA_200]),
                (indicators * factors).flatten(1),
                observation[:, CASH : CASH + 1] * of_value,
                value / SPEC.capital_usd,
                observation[:, HOLDINGS] * closes * of_value,
                observation[:, WEEKDAY:],
            ],
            dim=1,
        )

    def prepare(self, observation: Tensor) -> Tensor:
        """Normalised, scaled and limited, float32 (batch, 803), of raw observations, float32 (batch, 803)."""
        scaled = (self.normalise(observation) - self.mean) / self.scale
        return torch.clamp(scaled, -self.clip, self.clip)

    def means(self, prepared: Tensor) -> Tensor:
        """Float32 (batch, 50) in [-1, 1] of prepared observations (batch, 803)."""
        numbers: Tensor = self.actor(prepared)
        return torch.tanh(numbers.float()) * prepared[:, TRADABLE]

    def forward(self, observation: Tensor) -> Tensor:
        """Actions, float32 (batch, 50) in [-1, 1], of raw observations, float32 (batch, 803)."""
        return self.means(self.prepare(observation))


class RebalancerActorCritic(nn.Module):
    """The policy, a critic 803 -> 64 -> 64 -> 1, 114,547 parameters, and the 50 logarithms of deviations."""

    def __init__(self, scaling: Scaling, seed: int, log_std: float = LOG_STD) -> None:
        """Orthogonal weights drawn from `seed`, gains sqrt(2), 0.01 (means), 1 (value); biases 0.

        Source: Stable-Baselines3, `ActorCriticPolicy._build` (ortho_init=True).
        """
        super().__init__()
        self.policy = Policy(scaling)
        self.critic = _layers(1)
        self.log_std = nn.Parameter(torch.full((STOCKS,), log_std))
        generator = torch.Generator().manual_seed(seed)
        start_linear(self, {self.policy.actor[-1]: 0.01, self.critic[-1]: 1.0}, generator)

    def prepare(self, observations: Tensor) -> Tensor:
        """Normalised, scaled and limited, float32 (batch, 803), of raw observations, float32 (batch, 803)."""
        return self.policy.prepare(observations)

    def forward(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Means (batch, 50) and values (batch,) of prepared observations (batch, 803)."""
        values: Tensor = self.critic(prepared)
        return self.policy.means(prepared), values.squeeze(-1)


def _layers(outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs)
    )


# The passive policy of `daily_rebalancer`: as many dollars of each stock, bought once and kept. Nothing is learned.

INVESTED = 0.98
"""Of the portfolio value, so that no buy lacks cash for its costs and for a price above the last close."""
LEAST = 0.015
"""Of the portfolio value: free cash below it stays cash. Whole shares of 50 stocks leave about half a per cent."""


class EqualMoney(nn.Module):
    """Spends free cash on the stocks below a fiftieth of 98 % of the value, each by what it lacks; it never sells.

    Free is the cash beyond 2 % of the value and beyond the share of each stock that is not held and cannot be traded
    yet. An action is dollars over `unit_usd`, the desk's `basket.notional_per_unit_usd`: a price enters by the value of
    what is held alone, so shares that were split, or prices adjusted for it, get the same money.
    """

    unit_usd: Tensor

    def __init__(self, unit_usd: float) -> None:
        super().__init__()
        self.register_buffer("unit_usd", torch.tensor(unit_usd))

    def forward(self, observation: Tensor) -> Tensor:
        """Actions, float32 (batch, 50) in [0, 1], of raw observations, float32 (batch, 803)."""
        closes, held = observation[:, CLOSES], observation[:, HOLDINGS]
        cash, value = observation[:, CASH : CASH + 1], observation[:, VALUE : VALUE + 1].clamp(min=0.0)
        known = (observation[:, TRADABLE] != 0.0) & (closes > 0.0)
        goal = value * (INVESTED / STOCKS)
        waits = (~known & (held == 0.0)).to(goal.dtype).sum(dim=1, keepdim=True)
        free = cash - (1.0 - INVESTED) * value - goal * waits
        lacks = torch.where(known, (goal - held * closes).clamp(min=0.0), 0.0)
        in_all = lacks.sum(dim=1, keepdim=True)
        part = torch.where(in_all > 0.0, free / in_all.clamp(min=1e-6), 0.0).clamp(0.0, 1.0)
        wanted = torch.where(free >= LEAST * value, lacks * part, 0.0)
        return (wanted / self.unit_usd).clamp(max=1.0)
