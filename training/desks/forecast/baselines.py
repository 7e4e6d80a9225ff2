"""Those that the ensemble has to beat on the same sessions, and the ensemble under other conditions.

What forecaster and agents decide plays through the dry run, under the gates and in whole shares; what only owns stocks
is an account of fractions at the same opens and costs. Random traders play on the tensor market.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from training.desks.daily import baselines as daily
from training.desks.daily.dry_run import Desk, dry_run, under
from training.desks.forecast.graph import SEEN, SEQUENCE, Answers, Policy, weighted
from training.desks.forecast.market import ACCOUNT, ForecastMarket, Outlook, weight_max
from training.desks.forecast.play import play, threshold_rule
from training.desks.kind import Compared
from training.evidence.criteria import COSTS_TWICE, ONE_BAR_LATE
from training.study.study import PlayResult

FORECASTER, SAC, TD3 = "forecaster alone", "SAC alone", "TD3 alone"
TRUSTING = "ensemble without confidence"
RANDOM_DRAWS = 1000  # traders behind the p-value
_DESK = "Through the dry run, as the ensemble."

BASELINES: Mapping[str, str] = {
    daily.FLAT: "Never trades.",
    FORECASTER: "The forecaster by a threshold of confidence, chosen on validation: on a BUY the most that a symbol "
    f"may weigh, on a SELL nothing, else as it is. {_DESK}",
    SAC: f"SAC's wish times min(2 x confidence, 1). {_DESK}",
    TD3: f"TD3's wish times min(2 x confidence, 1). {_DESK}",
    TRUSTING: f"The mean of both, whatever the confidence. {_DESK}",
    daily.MONTHLY: "Holds the whole universe with equal weights, set again at each month's first open. An account of "
    "fractions of shares that pays the costs of what it trades once and does not wait.",
    daily.HOLD_ALL: "Buys the whole universe for equal money at a fold's first tested open. An account of fractions.",
    daily.SPY: "Buys SPY at a fold's first tested open; left out where no file of ETFs lies beside the bars. An "
    "account of fractions.",
    daily.RANDOM: "Wants as much as the ensemble at the same times, but of other symbols: its final actions with the "
    "symbols dealt out anew, once for all sessions, so its turnover is alike. The median of a few, on the tensor "
    "market, as are the draws behind the p-value.",
}


class Row(NamedTuple):
    """What a variation decides by."""

    answers: Answers
    account: Tensor  # (rows, 5): weight, unrealised return, age, cash share, drawdown


Decision = Callable[[Row], Tensor]
"""Final actions (rows,)."""


class Variation(nn.Module):
    """The policy with another last step. What the network says of a sequence is remembered by the sequence."""

    def __init__(self, policy: Policy, decide: Decision, memory: dict[bytes, tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.policy, self._decide, self._memory = policy, decide, memory

    def forward(self, observation: Tensor) -> Answers:
        """As `Policy`, with the variation's final action."""
        sequences = observation[:, :SEQUENCE]
        key = hashlib.sha256(sequences.numpy().tobytes()).digest()
        if key not in self._memory:
            self._memory[key] = self.policy.forecast(observation)
        answers = self.policy.decided(observation, *self._memory[key])
        final = self._decide(Row(answers, observation[:, SEQUENCE : SEQUENCE + ACCOUNT]))
        return answers._replace(actions=final, final=final)


class Late(nn.Module):
    """One session late: answers as the other would have to the observation before; at first it wants nothing."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy
        self._before: Tensor | None = None

    def forward(self, observation: Tensor) -> Answers:
        """The answers to the observation before."""
        before, self._before = self._before, observation.clone()
        answers: Answers = self.policy(observation if before is None else before)
        return answers if before is not None else answers._replace(actions=torch.zeros_like(answers.actions))


class _Noted(nn.Module):
    """Keeps what a policy answers, session by session."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy
        self.answers: list[Answers] = []

    def forward(self, observation: Tensor) -> Answers:
        """The same."""
        self.answers.append(self.policy(observation))
        return self.answers[-1]


def compared(policy: nn.Module, desk: Desk, path: Path, seed: int, check_stop: Callable[[], None]) -> Compared:
    """Baselines, random traders and scenarios on the desk's sessions. `check_stop` is called between players."""
    assert isinstance(policy, Policy)
    memory: dict[bytes, tuple[Tensor, Tensor]] = {}
    usual = Variation(policy, lambda row: row.answers.final, memory)
    noted = _Noted(usual)
    dry_run(noted, desk)
    check_stop()
    found: dict[str, PlayResult] = {}
    for name, decide in _decisions(policy, desk).items():
        found[name] = dry_run(Variation(policy, decide, memory), desk)
        check_stop()
    found |= _owners(desk, path)
    finals = torch.stack([answers.final for answers in noted.answers])
    found[daily.RANDOM], totals = _random(finals, desk, seed, check_stop)
    return Compared(found, totals, _scenarios(usual, desk, _outlook(noted.answers, desk), finals, check_stop))


def _decisions(policy: Policy, desk: Desk) -> dict[str, Decision]:
    most = weight_max(desk.trading)
    alone = threshold_rule(float(policy.threshold), most)
    return {
        daily.FLAT: lambda row: torch.zeros_like(row.answers.final),
        FORECASTER: lambda row: alone(_seen(row)),
        SAC: lambda row: weighted(row.answers.sac, row.answers.confidence),
        TD3: lambda row: weighted(row.answers.td3, row.answers.confidence),
        TRUSTING: lambda row: policy.mean(row.answers),
    }


def _seen(row: Row) -> Tensor:
    """The row as the tensor market shows it, without features: the rules of the forecaster alone ask for none."""
    answers, rows = row.answers, len(row.account)
    features = row.account.new_zeros(rows, len(SEEN))
    return torch.cat([features, answers.probabilities, answers.confidence.unsqueeze(1), row.account], dim=1)


def _owners(desk: Desk, path: Path) -> dict[str, PlayResult]:
    """What only owns."""
    dates = desk.table.dates[desk.first : desk.last + 1]
    months = [date[:7] for date in dates]
    found = {
        daily.HOLD_ALL: daily.owned(desk.table, dates, desk.trading, lambda day: day == 0),
        daily.MONTHLY: daily.owned(
            desk.table, dates, desk.trading, lambda day: day == 0 or months[day] != months[day - 1]
        ),
    }
    funds = daily.funds_beside(path, None)
    if funds is not None and set(dates) <= set(funds.dates):
        found[daily.SPY] = daily.owned(funds, dates, desk.trading, lambda day: day == 0, symbols=("SPY",))
    return found


def _random(
    finals: Tensor, desk: Desk, seed: int, check_stop: Callable[[], None]
) -> tuple[PlayResult, tuple[float, ...]]:
    """Traders with the final actions (sessions, n) dealt out to other symbols: one's sessions, all their totals."""
    blind = _outlook([], desk)

    def crowd(count: int, nth: int) -> tuple[float, ...]:
        market = ForecastMarket(
            desk.table, blind, desk.first, desk.last, desk.trading, count=count, draws=False, trusting=True
        )
        answers = daily.of_other_stocks(finals, count, seed + nth)
        return daily.net_totals(market, lambda day: answers(day).reshape(-1, 1), desk)

    median, totals = daily.median_and_totals(RANDOM_DRAWS, crowd, check_stop)
    answers = daily.of_other_stocks(finals, 1, seed + median)
    days = iter(range(len(finals)))
    dates = desk.table.dates[desk.first : desk.last + 1]
    played = play(lambda _: answers(next(days))[0], desk.table, blind, dates, desk.trading)
    return PlayResult(played), totals


def _scenarios(
    policy: nn.Module, desk: Desk, outlook: Outlook, finals: Tensor, check_stop: Callable[[], None]
) -> dict[str, PlayResult]:
    found: dict[str, PlayResult] = {}
    for name, times in ((daily.NO_COSTS, 0), (COSTS_TWICE, 2), (daily.COSTS_THRICE, 3)):
        found[name] = dry_run(policy, under(desk, daily.with_costs(desk.trading, times)))
        check_stop()
    found[ONE_BAR_LATE] = dry_run(Late(policy), desk)
    check_stop()
    dates = desk.table.dates[desk.first : desk.last + 1]
    days = iter(range(len(finals)))
    played = play(lambda _: finals[next(days)], desk.table, outlook, dates, desk.trading, fill="same_close")
    found[daily.SAME_CLOSE] = PlayResult(played)
    return found


def _outlook(answers: list[Answers], desk: Desk) -> Outlook:
    """What was forecast in the desk's sessions, and nothing elsewhere; without answers, that nobody knows anything."""
    days, symbols = len(desk.table.sessions), len(desk.table.symbols)
    probabilities = np.full((days, symbols, 3), 1.0 / 3.0, dtype=np.float32)
    confidence = np.full((days, symbols), 1.0 / 3.0, dtype=np.float32)
    for day, each in enumerate(answers, start=desk.first - 1):
        probabilities[day], confidence[day] = each.probabilities.numpy(), each.confidence.numpy()
    return Outlook(probabilities, confidence, np.zeros((days, symbols, 0), dtype=np.float32))
