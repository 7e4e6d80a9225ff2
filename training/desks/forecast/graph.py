"""The one graph of `forecast_ensemble`: raw rows of symbols to probabilities, confidence, wishes and the final action.

`Policy` is exactly what is exported: scaling, ensemble members, temperature, agents, their weights and the sizing are
all inside. Several actors count as one: the weighted mean of their actions. An agent's row has the layout of
`training.desks.forecast.market`, so it answers alike there and here. The observation's drawdown is not read: it depends
on when a desk began, not on what to hold.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from strategies.forecast_ensemble.features import COUNT, NAMES, WINDOW
from training.desks.forecast.market import ACCOUNT, AGE_MAX, GAIN_MAX
from training.evidence.dead import counted
from training.forecast.network import FeatureScaling, Forecasted, Forecaster, ForecastNet, Frozen, Sizes
from training.rl.off_policy.learner import Actor


class Ensemble(nn.Module):
    """Raw observations to each member's action and to their weighted mean, all in [-1, 1]."""

    weights: Tensor

    def __init__(self, members: Sequence[nn.Module], weights: Sequence[float] | None = None) -> None:
        """Take any number of actors; without weights all count the same.

        Raises:
            ValueError: no member, or weights that are not as many, negative or all 0.
        """
        super().__init__()
        self.members = nn.ModuleList(members)
        values = torch.tensor([1.0] * len(members) if weights is None else list(weights))
        if not members or len(values) != len(members) or bool((values < 0.0).any()) or float(values.sum()) <= 0.0:
            raise ValueError(
                f"the weights of {len(members)} members are {values.tolist()}: expected one for each member, at least "
                "one member, none below 0 and not all 0"
            )
        self.register_buffer("weights", values / values.sum())

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """The mean (n, actions), and each member's actions (members, n, actions)."""
        actions = torch.stack([member(observations) for member in self.members])
        return (self.weights.view(-1, 1, 1) * actions).sum(dim=0), actions


def simplex(members: int, parts: int) -> list[tuple[float, ...]]:
    """All weights of `members` in steps of 1 / `parts`, equal or nearly equal ones first."""
    splits = (counts for counts in itertools.product(range(parts + 1), repeat=members) if sum(counts) == parts)
    ordered = sorted(splits, key=lambda counts: (sum(count * count for count in counts), counts))
    return [tuple(count / parts for count in counts) for counts in ordered]


PARTS = 4
"""Weights are tried in steps of 1 / PARTS; finer steps overfit the validation span."""


def choose_weights(
    score: Callable[[Sequence[float]], float], members: int, *, dead: Sequence[bool] | None = None
) -> tuple[tuple[float, ...], float]:
    """The weights with the highest validation score, and that score; on a tie the most equal ones.

    Args:
        score: what the ensemble earns on the validation span with these weights, by member.
        dead: members that get no weight beside a living one; None: none is.
    """
    is_dead = (False,) * members if dead is None else dead
    best = max((weights for weights in simplex(members, PARTS) if counted(weights, is_dead)), key=score)
    return best, score(best)


SEEN = (
    "log_return_1", "log_return_5", "log_return_20", "gap", "close_location", "sma20_distance", "sma100_distance",
    "linearreg_slope20", "macd_histogram", "adx14", "di_difference14", "rsi14", "natr14", "stddev20", "stddev_ratio",
    "percent_b20", "min20_distance", "volume_to_20",
)  # fmt: skip
"""Features of a symbol's newest row that the agents observe, beside forecast and account."""
COLUMNS = tuple(NAMES.index(name) for name in SEEN)
SEQUENCE = WINDOW * COUNT  # columns of a raw row before the account's
AGENT_WIDTH = len(SEEN) + 3 + 1 + ACCOUNT
MEMBERS = ("sac", "td3")
CLIP = 5.0  # bound, in deviations, of an agent's inputs
INSIDE = 4.0  # scaled size of the largest gain and age


class Answers(NamedTuple):
    """The outputs in the order of the graph: the answer itself, then the heads of the spec."""

    actions: Tensor  # (rows,), within [-1, 1]
    probabilities: Tensor  # (rows, 3): HOLD, BUY, SELL
    confidence: Tensor  # (rows,)
    variance: Tensor  # (rows,) of a session's log return over the next 5 sessions
    sac: Tensor  # (rows,)
    td3: Tensor  # (rows,)
    size: Tensor  # (rows,) factor on the wish, 0 to 1
    final: Tensor  # (rows,)


class RowScaling(nn.Module):
    """Scales and clips an agent's inputs: features and forecasts in deviations from their mean.

    The account's columns are scaled by their bounds, so that a position held for months stays within the clip.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    @classmethod
    def of(cls, rows: Tensor, weight_max: float) -> RowScaling:
        """Fit to rows, float32 (n, columns); a constant column keeps its scale.

        `weight_max` is the most that one symbol may weigh.
        """
        exact = rows.double()
        mean, deviation = exact.mean(0), exact.std(0)
        scale = torch.where(deviation < 1e-8, 1.0, deviation)
        mean[-ACCOUNT:] = torch.tensor([0.0, 0.0, 0.0, 0.5], dtype=torch.float64)
        scale[-ACCOUNT:] = torch.tensor([weight_max, GAIN_MAX / INSIDE, AGE_MAX / INSIDE, 0.5], dtype=torch.float64)
        return cls(mean.float(), scale.float())

    def forward(self, rows: Tensor) -> Tensor:
        """Float32 (n, columns) within `CLIP` of 0, of raw rows of the same shape."""
        return ((rows - self.mean) / self.scale).clamp(-CLIP, CLIP)


class Policy(nn.Module):
    """Raw rows, float32 (rows, 60 * 78 + 6), to `Answers`."""

    columns: Tensor
    threshold: Tensor

    def __init__(
        self, forecaster: Forecaster, agents: Ensemble, threshold: float = 0.0, risk_target: float = 0.0
    ) -> None:
        """Join them; `threshold` is the one of the forecaster alone, which the graph does not use.

        `risk_target`: see `size_of`.
        """
        super().__init__()
        self.risk_target = risk_target
        self.dead: dict[str, str] = {}  # why an agent counts as dead, by its name
        self.saturated: dict[str, float] = {}  # share of an agent's wishes on validation that are at -1 or 1
        self.forecaster, self.agents = forecaster, agents
        self.register_buffer("columns", torch.tensor(COLUMNS), persistent=False)
        self.register_buffer("threshold", torch.tensor(threshold))

    def forward(self, observation: Tensor) -> Answers:
        """Each row on its own: a symbol knows no other one."""
        return self.decided(observation, *self.forecast(observation))

    def forecast(self, observation: Tensor) -> Forecasted:
        """The forecast of each row."""
        outputs: Forecasted = self.forecaster(observation[:, :SEQUENCE].reshape(-1, WINDOW, COUNT))
        return outputs

    def decided(self, observation: Tensor, probabilities: Tensor, confidence: Tensor, variance: Tensor) -> Answers:
        """The agents' decisions by a forecast."""
        newest = observation[:, SEQUENCE - COUNT : SEQUENCE].index_select(1, self.columns)
        account = observation[:, SEQUENCE : SEQUENCE + ACCOUNT]
        mean, wishes = self.agents(torch.cat([newest, probabilities, confidence.unsqueeze(1), account], dim=1))
        size = size_of(confidence, variance, self.risk_target)
        final = weighted(mean[:, 0], size)
        return Answers(
            final, probabilities, confidence, variance, wishes[0, :, 0], wishes[1, :, 0], size, final.clone()
        )

    def mean(self, answers: Answers) -> Tensor:
        """The agents' mean wish before sizing, (rows,)."""
        return self.agents.weights[0] * answers.sac + self.agents.weights[1] * answers.td3


class Passive(nn.Module):
    """Wants the largest weight of every symbol, whatever the forecast; its forecasts are the trained policy's."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observation: Tensor) -> Answers:
        """As `Policy`."""
        outputs = self.policy.forecast(observation)
        wish = torch.ones_like(outputs.confidence)
        return Answers(wish, *outputs, wish.clone(), wish.clone(), wish.clone(), wish.clone())


def passive_of(trained: nn.Module) -> Passive:
    """The passive policy with the forecasts of a trained one. Raises `TypeError` where that is no `Policy`."""
    if not isinstance(trained, Policy):
        raise TypeError(f"the policy is a {type(trained).__name__}: expected a Policy")
    return Passive(trained).eval()


def size_of(confidence: Tensor, variance: Tensor, risk_target: float = 0.0) -> Tensor:
    """The factor on a wish, (...,) within [0, 1].

    Without a `risk_target` it is the source's: min(2 x confidence, 1). With one, a standard deviation of a session's
    return, it is min(target / forecast deviation, 1): the more a symbol is expected to move, the less is held.
    """
    if risk_target > 0.0:
        return (risk_target / variance.sqrt()).clamp(max=1.0)
    return (2.0 * confidence).clamp(max=1.0)


def weighted(wish: Tensor, size: Tensor) -> Tensor:
    """Target weights, (...), parts of the equity: wishes (...) within [-1, 1], times their size (...)."""
    return wish.clamp(-1.0, 1.0) * size


def made_weights(policy: Policy) -> dict[str, Any]:
    """The state from which `policy_of` makes the policy again: tensors and plain values."""
    net, actor = policy.forecaster.members[0], policy.agents.members[0]
    assert isinstance(net, ForecastNet)
    assert isinstance(actor, Actor)
    sizes = net.sizes
    return {
        "sizes": [sizes.features, sizes.window, *sizes.channels, sizes.kernel, sizes.hidden, sizes.attention],
        "members": len(policy.forecaster.members),
        "confidence": policy.forecaster.confidence,
        "risk_columns": policy.forecaster.known.columns.tolist(),
        "risk_target": policy.risk_target,
        "dead": dict(policy.dead),
        "saturated": dict(policy.saturated),
        "widths": [weight.shape[0] for weight in list(actor.weights)[:-1]],
        "normalised": actor.normalised,
        "state": {name: value.clone() for name, value in policy.state_dict().items()},
    }


def policy_of(weights: Mapping[str, Any]) -> Policy:
    """The policy from the result of `made_weights`."""
    features, window, first, second, kernel, hidden, attention = weights["sizes"]
    sizes = Sizes(
        features=features, window=window, channels=(first, second), kernel=kernel, hidden=hidden, attention=attention
    )
    frozen = Frozen(FeatureScaling.none(features))
    nets = [ForecastNet(sizes, frozen, seed) for seed in range(weights["members"])]
    actors = [
        Actor(
            AGENT_WIDTH,
            weights["widths"],
            seed=0,
            spread=name == "sac",
            normalised=weights["normalised"],
            scaling=RowScaling(torch.zeros(AGENT_WIDTH), torch.ones(AGENT_WIDTH)),
        )
        for name in MEMBERS
    ]
    forecaster = Forecaster(nets, weights["confidence"], weights["risk_columns"])
    policy = Policy(forecaster, Ensemble(actors), risk_target=weights["risk_target"])
    policy.load_state_dict(weights["state"])
    policy.dead, policy.saturated = dict(weights["dead"]), dict(weights["saturated"])
    return policy.eval()
