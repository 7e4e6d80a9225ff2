"""The networks of `daily_rebalancer`: input scaling, an actor of a number for each stock, a separate critic.

`mlp` reads all stocks at once; `shared` applies the same weights to each stock and to the mean of all. A policy is
exactly what is exported; all that it needs (scaling included) is a buffer or a parameter of it. The number of stocks
follows from the width of an observation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from strategies.daily_rebalancer import INDICATORS, SPEC, ObservationColumns, columns_for
from training.rl.layers import NO_LIMIT, Scaling, check_rows, start_linear

HIDDEN = 64
LOG_STD = -0.5
"""Where the logarithms of the standard deviations start: 0.61, so that a tenth of the samples around 0 is clipped to
[-1, 1]; at Stable-Baselines3's 0 (a deviation of 1) a third of them is, and actions carry less information."""
CLIP = 5.0
"""Scaled market inputs are clipped to [-CLIP, CLIP] deviations."""
_FACTORS = {"rsi14": 0.01, "cci20": 0.005, "dx14": 0.01, "williams_r14": 0.01, "stochastic_k14": 0.01}
_SMA_200 = INDICATORS.index("sma200")


def columns_of(observations: Tensor) -> ObservationColumns:
    """Column slices of raw observations (..., 16 n + 3)."""
    return columns_for((observations.shape[-1] - 3) // (3 + len(INDICATORS)))


def _inverse(divisor: Tensor) -> Tensor:
    """1 / divisor, and 0 where that is 0."""
    return torch.where(divisor == 0.0, 0.0, 1.0 / divisor)


class _Prices(nn.Module):
    """Closes and indicators without their units: the same for both networks."""

    factors: Tensor
    of_price: Tensor

    def __init__(self) -> None:
        super().__init__()
        factors = torch.tensor([_FACTORS.get(name, 0.0) for name in INDICATORS])
        self.register_buffer("factors", factors, persistent=False)  # fixed by definition, not fitted
        self.register_buffer("of_price", factors == 0.0, persistent=False)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Closes (n, stocks) and indicators (n, stocks, 13) of raw observations, float32 (n, 16 stocks + 3).

        A close is divided by its SMA 200; averages, bands, ATR and MACD by the stock's close; RSI, DX, %R and %K by
        100, CCI by 200. Where a divisor is 0 the quotient is 0.
        """
        at = columns_of(observation)
        closes = observation[:, at.closes]
        indicators = observation[:, at.indicators].reshape(-1, at.stocks, len(INDICATORS))
        factors = torch.where(self.of_price, _inverse(closes).unsqueeze(2), self.factors)
        return closes * _inverse(indicators[:, :, _SMA_200]), indicators * factors


def _moments(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation, (columns,), of values (rows, columns) where `mask` is true; 1 for a constant's deviation."""
    count = mask.sum(dim=0)
    mean = torch.where(mask, values, 0.0).sum(dim=0) / count.clamp_min(1)
    squares = torch.where(mask, (values - mean).square(), 0.0).sum(dim=0)
    scale = (squares / (count - 1).clamp_min(1)).sqrt()
    return mean, torch.where(scale < 1e-8, 1.0, scale)  # a column that never changed


# --- mlp: all stocks at once ----------------------------------------------------------------------------------------


def fit_scaling(observations: Tensor) -> Scaling:
    """Scaling of closes and indicators, fitted; of money and holdings, which depend on the policy, fixed.

    Args:
        observations: raw, float32 (rows, 16 n + 3), of the training sessions. Stocks whose flag is 0 do not count.

    Raises:
        ValueError: fewer than two rows, or a value that is not finite.
    """
    check_rows(observations, "observations")
    at = columns_of(observations)
    market = Policy(Scaling.identity(at.width)).normalise(observations)[:, : at.cash].double()
    tradable = observations[:, at.tradable] != 0.0
    mean, scale = _moments(market, torch.cat([tradable, tradable.repeat_interleave(len(INDICATORS), dim=1)], dim=1))
    means, scales, clips = [0.0] * at.width, [1.0] * at.width, [NO_LIMIT] * at.width
    means[: at.cash], scales[: at.cash], clips[: at.cash] = mean.tolist(), scale.tolist(), [CLIP] * at.cash
    scales[at.holdings] = [1.0 / at.stocks] * at.stocks  # an equal share of the portfolio counts as 1
    means[at.value] = 1.0  # the capital at the start
    return Scaling(tuple(means), tuple(scales), tuple(clips))


class Policy(nn.Module):
    """Observation to a number in [-1, 1] of each stock: normalise, scale, 803 -> 64 -> 64 -> 50, tanh, 0 at flag 0."""

    mean: Tensor
    scale: Tensor
    clip: Tensor

    def __init__(self, scaling: Scaling) -> None:
        super().__init__()
        scaling.keep_in(self)
        self.prices = _Prices()
        width = len(scaling.mean)
        self.actor = _layers(width, columns_of(self.mean).stocks)

    def normalise(self, observation: Tensor) -> Tensor:
        """Raw observations, float32 (n, 16 stocks + 3), without their units, in the same order.

        Closes and indicators as `_Prices` says; holdings x close and cash by the portfolio value, that by the capital
        at the start. Weekday and flags stay. Where a divisor is 0 the quotient is 0.
        """
        at = columns_of(observation)
        value = observation[:, at.value : at.value + 1]
        closes, indicators = self.prices(observation)
        of_value = _inverse(value)
        return torch.cat(
            [
                closes,
                indicators.flatten(1),
                observation[:, at.cash : at.cash + 1] * of_value,
                value / SPEC.capital_usd,
                observation[:, at.holdings] * observation[:, at.closes] * of_value,
                observation[:, at.weekday :],
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
        return torch.tanh(numbers.float()) * prepared[:, columns_of(prepared).tradable]

    def forward(self, observation: Tensor) -> Tensor:
        """Actions, float32 (batch, 50) in [-1, 1], of raw observations, float32 (batch, 803)."""
        return self.means(self.prepare(observation))


class RebalancerActorCritic(nn.Module):
    """The policy, a critic 803 -> 64 -> 64 -> 1, 114,547 parameters, and the 50 logarithms of deviations."""

    def __init__(self, scaling: Scaling, seed: int) -> None:
        """Orthogonal weights drawn from `seed`, gains sqrt(2), 0.01 (means), 1 (value); biases 0.

        Source: Stable-Baselines3, `ActorCriticPolicy._build` (ortho_init=True).
        """
        super().__init__()
        self.policy = Policy(scaling)
        self.critic = _layers(len(scaling.mean), 1)
        self.log_std = nn.Parameter(torch.full((columns_of(self.policy.mean).stocks,), LOG_STD))
        generator = torch.Generator().manual_seed(seed)
        start_linear(self, {self.policy.actor[-1]: 0.01, self.critic[-1]: 1.0}, generator)

    def prepare(self, observations: Tensor) -> Tensor:
        """Normalised, scaled and limited, float32 (batch, 803), of raw observations, float32 (batch, 803)."""
        return self.policy.prepare(observations)

    def forward(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Means (batch, 50) and values (batch,) of prepared observations (batch, 803)."""
        values: Tensor = self.critic(prepared)
        return self.policy.means(prepared), values.squeeze(-1)


def _layers(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs)
    )


# --- shared: each stock by the same weights -------------------------------------------------------------------------

UNITS = 32
FEATURES = 1 + len(INDICATORS) + 5  # per stock: close, indicators, holding, flag; then cash, value, weekday
HELD, FLAG, FREE, WORTH, DAY = range(1 + len(INDICATORS), FEATURES)


def fit_shared_scaling(observations: Tensor) -> Scaling:
    """As `fit_scaling`, with one mean and deviation of each feature over all stocks, float (19,)."""
    check_rows(observations, "observations")
    rows = SharedPolicy(Scaling.identity(FEATURES)).normalise(observations).flatten(0, 1).double()
    is_tradable = (rows[:, FLAG] != 0.0).unsqueeze(1)
    mean, scale = _moments(rows[:, :HELD], is_tradable.expand(-1, HELD))
    means, scales = [*mean.tolist(), 1.0, 0.0, 0.0, 1.0, 2.0], [*scale.tolist(), 1.0, 1.0, 1.0, 1.0, 2.0]
    return Scaling(tuple(means), tuple(scales), (CLIP,) * HELD + (NO_LIMIT,) * (FEATURES - HELD))


class _Encoder(nn.ModuleList):
    """Two layers, each of a stock's own numbers and the mean of all tradable stocks' numbers, and a number at the end.

    The weights are shared, so permuting the stocks permutes the outputs. Source: Zaheer et al. 2017, "Deep Sets",
    equation 4. The output layer has index 4, as in the actor of `mlp`.
    """

    def __init__(self) -> None:
        pairs = [nn.Linear(inputs, UNITS, bias=bias) for inputs in (FEATURES, UNITS) for bias in (True, False)]
        super().__init__([*pairs, nn.Linear(UNITS, 1)])

    def forward(self, stocks: Tensor) -> Tensor:
        """A number of each stock, (batch, stocks), of prepared ones, (batch, stocks, 19)."""
        own_1, all_1, own_2, all_2, output_layer = self
        flags = stocks[:, :, FLAG : FLAG + 1]
        part = flags / flags.sum(dim=1, keepdim=True).clamp(min=1.0)
        hidden = torch.relu(own_1(stocks) + all_1((stocks * part).sum(dim=1, keepdim=True)))
        hidden = torch.relu(own_2(hidden) + all_2((hidden * part).sum(dim=1, keepdim=True)))
        numbers: Tensor = output_layer(hidden)
        return numbers.squeeze(2)


class SharedPolicy(nn.Module):
    """Observation to a number in [-1, 1] of each stock, by weights that all stocks share; 0 where the flag is 0."""

    mean: Tensor
    scale: Tensor
    clip: Tensor

    def __init__(self, scaling: Scaling) -> None:
        super().__init__()
        scaling.keep_in(self)
        self.prices = _Prices()
        self.actor = _Encoder()

    def normalise(self, observation: Tensor) -> Tensor:
        """Float32 (n, stocks, 19) of raw observations, float32 (n, 16 stocks + 3), without their units.

        Of each stock close and indicators as `_Prices` says, its part of the value over an equal part, its flag; then
        of the account, the same for all: cash over value, value over the capital at the start, weekday.
        """
        at = columns_of(observation)
        value = observation[:, at.value : at.value + 1]
        closes, indicators = self.prices(observation)
        of_value = _inverse(value)
        held = observation[:, at.holdings] * observation[:, at.closes] * of_value * at.stocks
        account = torch.cat(
            [
                observation[:, at.cash : at.cash + 1] * of_value,
                value / SPEC.capital_usd,
                observation[:, at.weekday : at.weekday + 1],
            ],
            dim=1,
        )
        columns = [closes, held, observation[:, at.tradable]]
        close, holding, flag = (column.unsqueeze(2) for column in columns)
        return torch.cat([close, indicators, holding, flag, account.unsqueeze(1).expand(-1, at.stocks, -1)], dim=2)

    def prepare(self, observation: Tensor) -> Tensor:
        """Normalised, scaled and limited, float32 (batch, stocks, 19), of raw observations."""
        scaled = (self.normalise(observation) - self.mean) / self.scale
        return torch.clamp(scaled, -self.clip, self.clip)

    def means(self, prepared: Tensor) -> Tensor:
        """Float32 (batch, stocks) in [-1, 1] of prepared observations (batch, stocks, 19)."""
        numbers: Tensor = self.actor(prepared)
        return torch.tanh(numbers.float()) * prepared[:, :, FLAG]

    def forward(self, observation: Tensor) -> Tensor:
        """Actions, float32 (batch, stocks) in [-1, 1], of raw observations, float32 (batch, 16 stocks + 3)."""
        return self.means(self.prepare(observation))


class SharedActorCritic(nn.Module):
    """The policy, a critic of each stock's own reward, and one logarithm of a deviation for all stocks.

    6,723 parameters, however many stocks there are. Each action is judged by what its stock earned (`each`, see
    `training.rl.protocols.Network`).
    """

    each = True

    def __init__(self, scaling: Scaling, seed: int, stocks: int) -> None:
        """Orthogonal weights as in `RebalancerActorCritic`; `stocks` is how many actions there are."""
        super().__init__()
        self.policy = SharedPolicy(scaling)
        self.critic = _Encoder()
        self.common_log_std = nn.Parameter(torch.full((1,), LOG_STD))
        self._stocks = stocks
        generator = torch.Generator().manual_seed(seed)
        start_linear(self, {self.policy.actor[-1]: 0.01, self.critic[-1]: 0.1}, generator)

    @property
    def log_std(self) -> Tensor:
        """The logarithms of deviations, float32 (stocks,): all the same."""
        return self.common_log_std.expand(self._stocks)

    def prepare(self, observations: Tensor) -> Tensor:
        """Normalised, scaled and limited, float32 (batch, stocks, 19), of raw observations."""
        return self.policy.prepare(observations)

    def forward(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Means and values, (batch, stocks) each, of prepared observations (batch, stocks, 19)."""
        values: Tensor = self.critic(prepared)
        return self.policy.means(prepared), values


# The passive policy of `daily_rebalancer`: as many dollars of each stock, bought once and kept. Nothing is learned.

INVESTED = 0.98
"""Part of the portfolio value that is invested; the rest pays costs and opens above the last close."""
LEAST = 0.015
"""Part of the portfolio value: less free cash stays cash. Whole shares of 50 stocks leave about 0.5 %."""


class EqualMoney(nn.Module):
    """Spends free cash on stocks below an equal part of 98 % of the value, by what each lacks; never sells.

    Free cash is the cash above 2 % of the value, less the equal part of each stock that is not held and not tradable
    yet. An action is USD / `unit_usd`, both as observed: scaled to the contract's capital where a unit is a part of the
    equity. Prices matter only through the value held, so splits and adjusted prices change nothing.
    """

    unit_usd: Tensor

    def __init__(self, unit_usd: float) -> None:
        super().__init__()
        self.register_buffer("unit_usd", torch.tensor(unit_usd))

    def forward(self, observation: Tensor) -> Tensor:
        """Actions, float32 (batch, stocks) in [0, 1], of raw observations, float32 (batch, 16 stocks + 3)."""
        at = columns_of(observation)
        closes, holdings = observation[:, at.closes], observation[:, at.holdings]
        cash, value = observation[:, at.cash : at.cash + 1], observation[:, at.value : at.value + 1].clamp(min=0.0)
        tradable = (observation[:, at.tradable] != 0.0) & (closes > 0.0)
        goal = value * (INVESTED / at.stocks)
        waits = (~tradable & (holdings == 0.0)).to(goal.dtype).sum(dim=1, keepdim=True)
        free = cash - (1.0 - INVESTED) * value - goal * waits
        lacks = torch.where(tradable, (goal - holdings * closes).clamp(min=0.0), 0.0)
        in_all = lacks.sum(dim=1, keepdim=True)
        part = torch.where(in_all > 0.0, free / in_all.clamp(min=1e-6), 0.0).clamp(0.0, 1.0)
        spend_usd = torch.where(free >= LEAST * value, lacks * part, 0.0)
        return (spend_usd / self.unit_usd).clamp(max=1.0)
