"""Baselines that the ensemble has to beat on the same sessions, and the ensemble under other conditions.

Each baseline is one account through the tests of all folds, with each fold's own forecaster and agents. Decisions of
forecasters and agents play through the dry run, under its gates and in whole shares. Baselines that only hold stocks
are an account of fractional shares with the same opens and costs. Random traders play on the tensor market.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from training.desks.daily import baselines as daily
from training.desks.daily.task_data import funds_beside
from training.desks.forecast.graph import SEEN, SEQUENCE, Answers, Policy, weighted
from training.desks.forecast.market import ACCOUNT, ForecastMarket, Outlook, weight_max
from training.desks.forecast.play import play, threshold_rule
from training.desks.kind import POLICY, FoldResults
from training.evaluate.days import Desk, relay, under
from training.evaluate.machine import Player
from training.evaluate.players import COSTS, Late, with_costs
from training.evidence.criteria import ONE_BAR_LATE
from training.forecast.network import Forecasted
from training.study.study import PlayResult, SessionResult

FORECASTER, SAC, TD3 = "forecaster alone", "SAC alone", "TD3 alone"
TRUSTING = "ensemble without confidence"
PARTS = frozenset({FORECASTER, SAC, TD3, TRUSTING})  # parts of the policy, trained with it
RANDOM_DRAWS = 1000  # random traders for the p-value
_DESK = "Through the dry run, as the ensemble."

BASELINES: Mapping[str, str] = {
    daily.FLAT: "Never trades.",
    FORECASTER: "The forecaster by a threshold of confidence, chosen on validation: on a BUY the most that a symbol "
    f"may weigh, on a SELL nothing, else as it is. {_DESK}",
    SAC: f"SAC's wish times the size. {_DESK}",
    TD3: f"TD3's wish times the size. {_DESK}",
    TRUSTING: f"The mean of both, whatever the size. {_DESK}",
    daily.MONTHLY: "Holds the whole universe with equal weights, set again at each month's first open. An account of "
    "fractions of shares that pays the costs of what it trades once and does not wait.",
    daily.HOLD_ALL: "Buys the whole universe for equal money at the first tested open. An account of fractions.",
    daily.SPY: "Buys SPY at the first tested open; left out where no file of ETFs lies beside the bars. An account of "
    "fractions.",
    daily.RANDOM: "Wants as much as the ensemble at the same times, but of other symbols: its final actions "
    "with the symbols dealt out anew, once for all sessions, so its turnover is alike. The median of a few, on the "
    "tensor market, as are the draws behind the p-value.",
}


class Row(NamedTuple):
    """The inputs of a variation's decision."""

    answers: Answers
    account: Tensor  # (rows, 4): weight, unrealised return, age, cash share


Decision = Callable[[Row], Tensor]
"""Final actions (rows,)."""


Memory = dict[bytes, Forecasted]
"""Cache of one policy's forecasts, by the digest of the sequences."""


class Variation(nn.Module):
    """The policy with another final decision. Forecasts are cached by the digest of their sequences."""

    def __init__(self, policy: Policy, decide: Decision, memory: Memory) -> None:
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


def silent(policy: Player) -> Player:
    """The player whose actions are 0, with the policy's forecasts."""

    def answers(observation: Tensor) -> Answers:
        answers_given: Answers = policy(observation)
        return answers_given._replace(actions=torch.zeros_like(answers_given.actions))

    return answers


class _AnswerLog:
    """Records a policy's answers, session by session."""

    def __init__(self, policy: Player, answers: list[Answers]) -> None:
        self.policy, self.answers = policy, answers

    def __call__(self, observation: Tensor) -> Answers:
        """The same."""
        self.answers.append(self.policy(observation))
        return self.answers[-1]


PLAYERS = (POLICY, *BASELINES, *COSTS, ONE_BAR_LATE, daily.SAME_CLOSE)
"""All names that `Account.play` knows, the policy's first."""


class Account:
    """One account through the tests of all folds; in each fold its own policy trades."""

    def __init__(
        self,
        policies: Sequence[Policy],
        desk: Desk,
        spans: Sequence[Sequence[str]],
        *,
        path: Path,
        seed: int,
        memories: dict[str, Memory],
        check_stop: Callable[[], None],
    ) -> None:
        """Prepare.

        Args:
            desk: before the first session of the first span.
            path: of the bars, beside which a file of ETFs may lie.
            memories: of the policies by their digests; players share them.
            check_stop: called at intervals; it may raise.
        """
        self._policies, self._desk, self._spans, self._path = policies, desk, spans, path
        self._seed, self._check_stop = seed, check_stop
        self._memories = [memories.setdefault(_digest(policy), {}) for policy in policies]
        self._dates = [date for dates in spans for date in dates]

    def play(self, player: str) -> FoldResults:
        """Play one of `PLAYERS` through all folds."""
        if player in COSTS:
            return FoldResults(self._relay(_final, under(self._desk, with_costs(self._desk.trading, COSTS[player]))))
        if player in (daily.HOLD_ALL, daily.MONTHLY, daily.SPY):
            owned = self._owned(player)
            return FoldResults(() if owned is None else self._split(owned.sessions))
        if player == daily.RANDOM:
            return self._random()
        if player == daily.SAME_CLOSE:
            return self._same_close()
        if player == ONE_BAR_LATE:
            waiting: list[tuple[Player, Tensor]] = []
            return FoldResults(self._relay(_final, self._desk, lambda usual: Late(usual, silent(usual), waiting)))
        return FoldResults(self._relay(_final if player == POLICY else _DECISIONS[player], self._desk))

    def _relay(
        self,
        maker: Maker,
        desk: Desk,
        around: Callable[[Player], Player] = lambda usual: usual,
    ) -> tuple[PlayResult, ...]:
        most = weight_max(desk.trading)

        def players() -> Iterator[Player]:
            for policy, memory in zip(self._policies, self._memories, strict=True):
                self._check_stop()
                yield around(Variation(policy, maker(policy, most), memory))

        return relay(players(), desk, self._spans)

    def _split(self, sessions: Sequence[SessionResult]) -> tuple[PlayResult, ...]:
        remaining = iter(sessions)
        return tuple(PlayResult(tuple(islice(remaining, len(dates)))) for dates in self._spans)

    def _owned(self, player: str) -> PlayResult | None:
        """A baseline that only holds stocks; None for SPY where there is no file of ETFs."""
        months = [date[:7] for date in self._dates]
        if player == daily.SPY:
            funds = funds_beside(self._path)
            if funds is None or not set(self._dates) <= set(funds.dates):
                return None
            return daily.owned(funds, self._dates, self._desk.trading, lambda day: day == 0, symbols=("SPY",))

        def buys(day: int) -> bool:
            return day == 0 or (player == daily.MONTHLY and months[day] != months[day - 1])

        return daily.owned(self._desk.table, self._dates, self._desk.trading, buys)

    def _answers(self) -> list[Answers]:
        """The answers of the policies in each session."""
        answers: list[Answers] = []
        self._relay(_final, self._desk, lambda usual: _AnswerLog(usual, answers))
        return answers

    def _random(self) -> FoldResults:
        """Random traders, which apply the final actions to permuted symbols: the median one, and all their profits."""
        day_answers = self._answers()
        finals = torch.stack([answers.final for answers in day_answers])
        desk, blind = self._desk, _outlook(day_answers, self._desk)
        last = desk.table.span(self._dates)[1]

        crowds: dict[int, Tensor] = {}

        def crowd(count: int, nth: int) -> tuple[float, ...]:
            market = ForecastMarket(
                desk.table, blind, desk.first, last, desk.trading, count=count, draws=False, trusting=True
            )
            crowds[nth] = self._by_fold(market, daily.of_other_stocks(finals, count, self._seed + nth))
            return tuple(crowds[nth].sum(0).tolist())

        median, _ = daily.median_and_totals(RANDOM_DRAWS, crowd, self._check_stop)
        totals = torch.cat([earned for nth, earned in crowds.items() if nth >= daily.RANDOM_RUNS], dim=1)
        answers = daily.of_other_stocks(finals, 1, self._seed + median)
        days = iter(range(len(finals)))
        sessions = play(lambda _: answers(next(days))[0], desk.table, blind, self._dates, desk.trading)
        earned = ([round(usd, 2) for usd in row[:RANDOM_DRAWS]] for row in totals.tolist())
        return FoldResults(self._split(sessions), tuple(map(tuple, earned)))

    def _by_fold(self, market: ForecastMarket, answers: daily.Answers) -> Tensor:
        """Profit of each account of a market in each fold, USD (folds, accounts)."""
        profits, equity_before, days = [], market.equity_usd, iter(range(len(self._dates)))
        for dates in self._spans:
            for day in islice(days, len(dates)):
                market.step(answers(day).reshape(-1, 1))
            equity_after = market.closing_usd[0]
            profits.append(equity_after - equity_before)
            equity_before = equity_after
        return torch.stack(profits)

    def _same_close(self) -> FoldResults:
        """The final actions filled at the close that they were decided on, which nobody can trade."""
        answers, desk = self._answers(), self._desk
        days = iter(answers)
        outlook = _outlook(answers, desk)
        sessions = play(lambda _: next(days).final, desk.table, outlook, self._dates, desk.trading, fill="same_close")
        return FoldResults(self._split(sessions))


Maker = Callable[[Policy, float], Decision]
"""(policy, largest weight of a symbol) -> the decision."""


def _final(_: Policy, __: float) -> Decision:
    """The final actions of the policy itself."""
    return lambda row: row.answers.final


def _alone(policy: Policy, most: float) -> Decision:
    """The forecaster by its threshold."""
    rule = threshold_rule(float(policy.threshold), most)
    return lambda row: rule(_observation_row(row))


_DECISIONS: Mapping[str, Maker] = {
    daily.FLAT: lambda _, __: lambda row: torch.zeros_like(row.answers.final),
    FORECASTER: _alone,
    SAC: lambda _, __: lambda row: weighted(row.answers.sac, row.answers.size),
    TD3: lambda _, __: lambda row: weighted(row.answers.td3, row.answers.size),
    TRUSTING: lambda policy, _: lambda row: policy.mean(row.answers),
}


def _digest(policy: Policy) -> str:
    digest = hashlib.sha256()
    for name, values in policy.state_dict().items():
        digest.update(name.encode() + values.cpu().numpy().tobytes())
    return digest.hexdigest()


def _observation_row(row: Row) -> Tensor:
    """The row in the tensor market's layout, without features, which the threshold rule does not read."""
    answers, rows = row.answers, len(row.account)
    features = row.account.new_zeros(rows, len(SEEN))
    return torch.cat([features, answers.probabilities, answers.confidence.unsqueeze(1), row.account], dim=1)


def _outlook(answers: list[Answers], desk: Desk) -> Outlook:
    """The forecasts of the desk's sessions as an `Outlook`; NaN in all other sessions."""
    days, symbols = len(desk.table.sessions), len(desk.table.symbols)
    probabilities = np.full((days, symbols, 3), 1.0 / 3.0, dtype=np.float32)
    confidence = np.full((days, symbols), 1.0 / 3.0, dtype=np.float32)
    variances = np.full((days, symbols), np.nan)
    for day, answer in enumerate(answers, start=desk.first - 1):
        probabilities[day], confidence[day] = answer.probabilities.numpy(), answer.confidence.numpy()
        variances[day] = answer.variance.numpy()
    return Outlook(probabilities, confidence, np.zeros((days, symbols, 0), dtype=np.float32), variances)
