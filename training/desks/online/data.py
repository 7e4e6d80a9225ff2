"""Data of `online_dqn`: prepared bars, players on its market, and the `TaskData` for the pipeline.

A player maps observations to values of the actions. The figures of a report come from `training.evaluate.bars`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from daemon.core.events import Event
from daemon.core.limits import Trading
from strategies.kit.contract import Float32Array, ShareSpec
from strategies.online_dqn import ACTIONS, BUY, HOLD, SELL, OnlineDqn
from strategies.online_dqn.model_config import ModelConfig
from strategies.online_dqn.state_vector import portfolio_fields
from training.desks.kind import Evaluator, Span
from training.desks.online.history import Bars, Float64Array, History, Int64Array, TradingDay, history_of, read_bars
from training.desks.online.market import OnlineMarket
from training.evaluate.bars import BarDesk, SessionStart, under
from training.evaluate.machine import Player
from training.evaluate.players import RandomTrader, choosing, one_hot
from training.evidence.heads import KEY, HeadScores, direction_scores, risk_scores
from training.export.reference import Watched
from training.study.folds import explained
from training.study.study import Fold, OneAccount, PlayResult, SessionFigures, SessionResult, SizeFigures, figures


@dataclass(frozen=True, slots=True)
class OnlineData:
    """Bars made ready for one model configuration and its symbols."""

    bars: Bars
    history: History
    config: ModelConfig
    strategy: OnlineDqn
    trading: Trading

    @property
    def spec(self) -> ShareSpec:
        """The strategy's."""
        return self.strategy.spec

    @property
    def days(self) -> Mapping[str, int]:
        """The usable sessions by date, ascending, and their place among all sessions."""
        usable = frozenset(self.history.dates)
        places = {scheduled.session.date: place for place, scheduled in enumerate(self.bars.scheduled)}
        return {date: place for date, place in places.items() if date in usable}

    def on(self, dates: Sequence[str]) -> tuple[TradingDay, ...]:
        """These sessions, one for each symbol."""
        return self.history.on(dates)

    def market(
        self, dates: Sequence[str], trading: Trading, *, count: int = 0, seed: int = 0, auto_reset: bool = True
    ) -> OnlineMarket:
        """Rows that play these sessions; without a `count` one for each session and symbol."""
        days = self.on(dates)
        symbols = len(self.spec.symbols)
        size = count or len(days)
        return OnlineMarket(
            self.history, days, self.config, trading, symbols=symbols, count=size, seed=seed, auto_reset=auto_reset
        )

    @property
    def desk(self) -> BarDesk:
        """The desk whose dry run gives all figures of a report."""
        flat = choosing(HOLD, len(ACTIONS), 1.0)
        return BarDesk(self.strategy, self._fed, flat, minutes=lambda date, _bars, _rules: self.minutes(date))

    def _fed(self, date: str, _: Trading) -> tuple[Iterable[Event], int]:
        """The feed from the session with which warm-up for this one begins, and the number of sessions before it."""
        bars, first = self.bars, self.days[date]
        opening = bars.scheduled[first].session.open_ns
        begins = [
            int(part_series.start_ns[part_series.start_ns < opening][-self.spec.history_bars])
            for part_series in bars.series
        ]
        start = sum(scheduled.session.close_ns <= min(begins) for scheduled in bars.scheduled)
        return chain.from_iterable(bars.feed(index) for index in range(start, len(bars.scheduled))), first - start

    def minutes(self, date: str) -> int:
        """Minutes of the session in which a position can be held."""
        return max(day.flatten - day.first for day in self.on((date,))) * self.history.bar_min

    def rows(self, dates: Sequence[str]) -> tuple[Int64Array, Int64Array]:
        """The rows of these sessions for all symbols, and the index of each row's session."""
        days = self.on(dates)
        places = {date: place for place, date in enumerate(dates)}
        rows = np.concatenate([np.arange(day.first, day.end) for day in days])
        sessions = np.concatenate([np.full(day.end - day.first, places[day.session.date]) for day in days])
        return rows, sessions

    def flat_observations(self, rows: Int64Array) -> Float32Array:
        """Observations at these rows of an account with nothing but cash, float32 (n, width)."""
        cash = float(self.trading.paper.cash_usd)
        fields = portfolio_fields(self.config.portfolio, shares=0, price=1.0, cash=cash, equity=cash, cost=0, age_min=0)
        return self._observations(rows, np.broadcast_to(fields, (len(rows), len(self.config.portfolio))))

    def probes(self, dates: Sequence[str], count: int, seed: int) -> Float32Array:
        """Up to `count` observations of these sessions with made-up portfolios, float32 (n, width)."""
        random = np.random.default_rng(seed)
        rows, _ = self.rows(dates)
        chosen = random.choice(rows, size=min(count, len(rows)), replace=False)
        return self._observations(chosen, random.uniform(-1.0, 3.0, size=(len(chosen), len(self.config.portfolio))))

    def _observations(self, rows: Int64Array, portfolio: Float64Array) -> Float32Array:
        window = np.arange(1 - self.config.window, 1)
        market = self.history.seen[self.history.newest[rows][:, None] + window].reshape(len(rows), -1)
        return np.concatenate([market, portfolio.astype(np.float32)], axis=1)


def load(paths: Sequence[Path], config: ModelConfig, symbols: tuple[str, ...], trading: Trading) -> OnlineData:
    """Read bars of these symbols (of the configuration's own where there are none). Raises what `read_bars` raises."""
    strategy = OnlineDqn(config, symbols)
    bars = read_bars(paths, strategy.spec)
    with explained(lambda: bars.remark):
        history = history_of(bars, strategy.spec, config, trading)
    return OnlineData(bars, history, config, strategy, trading)


FROM_OPEN = "hold from the open"  # that player's name in the report


def values_of(answer: Any) -> Tensor:
    """The values of the actions in a player's answer."""
    values: Tensor = answer[0] if isinstance(answer, tuple) else answer
    return values


def one_hot_values(actions: Tensor) -> Tensor:
    """Values, float32 (rows, 3): 1 for these actions, 0 for the others."""
    return one_hot(actions, len(ACTIONS), 1.0)


flat: Player = choosing(HOLD, len(ACTIONS), 1.0)
"""The player that never trades."""
hold_from_open: Player = choosing(BUY, len(ACTIONS), 1.0)
"""The player that buys as soon as allowed and holds; it buys again after a stop or a target."""


def random_trader(enter: float, leave: float, seed: int, bar_min: int) -> RandomTrader:
    """A trader that enters with probability `enter` a minute while flat, and leaves with `leave` while holding."""
    return RandomTrader(enter * bar_min, leave * bar_min, seed, entries=(BUY,), leaves_by=SELL, holds_by=HOLD)


@torch.no_grad()
def play(
    player: Player | RandomTrader, data: OnlineData, dates: Sequence[str], trading: Trading, draws: int = 1
) -> tuple[SessionResult, ...]:
    """Play one episode of each session and symbol, `draws` times: sessions in order, draw after draw.

    With several symbols each one has a part of the account, and a session's result is their sum.
    """
    days = data.on(dates)
    market = data.market(dates, trading, count=draws * len(days), auto_reset=False)
    market.begin(np.arange(draws * len(days)) % len(days))
    while market.active.any():
        if isinstance(player, RandomTrader):
            market.step(player.actions(torch.from_numpy(market.account.held > 0)))
        else:
            market.step(values_of(player(market.observe())).argmax(dim=1))
    a = market.account
    table = np.stack([a.closed, a.wins, a.held_min]).reshape(3, draws, -1)
    money = np.stack([a.net_usd, a.costs_usd, a.traded_usd]).reshape(3, draws, -1)
    symbols = len(data.spec.symbols)
    results: list[SessionResult] = []
    for draw in range(draws):
        for place, date in enumerate(dates):
            part = slice(place * symbols, (place + 1) * symbols)
            trades, wins = table[:2, draw, part].sum(axis=1).tolist()
            pnl, costs, traded = money[:, draw, part].sum(axis=1).tolist()
            held_min, minutes = int(table[2, draw, part].max()), data.minutes(date)
            results.append(SessionResult(date, pnl, trades, wins, costs, traded, held_min, minutes))
    return tuple(results)


@dataclass(frozen=True, slots=True)
class OnlineTaskData:
    """See `training.desks.kind.TaskData`."""

    data: OnlineData
    ready: dict[tuple[str, ...], tuple[SessionStart, ...]] = field(default_factory=dict)  # made when first needed

    @property
    def info(self) -> Bars:
        """The file."""
        return self.data.bars

    @property
    def days(self) -> Mapping[str, int]:
        """The usable sessions by date, ascending."""
        return self.data.days

    def evaluator(self, span: Span, _device: str) -> Evaluator:
        """See `TaskData`."""
        return lambda policy: play(policy, self.data, span.dates, span.trading)

    def figures(self, results: Sequence[SessionResult]) -> SessionFigures:
        """See `TaskData`; every session begins with the same capital, so returns add up."""
        return figures(results, float(self.data.trading.paper.cash_usd))

    def test(self, policy: nn.Module, span: Span) -> PlayResult:
        """See `TaskData`."""
        return self.dry_run(lambda: policy, tuple(span.dates), span.trading)

    def dry_run(
        self,
        make: Callable[[], Player],
        dates: tuple[str, ...],
        trading: Trading,
        check_stop: Callable[[], None] = lambda: None,
    ) -> PlayResult:
        """Play a new player in each session, on the desk under these rules."""
        if dates not in self.ready:
            self.ready[dates] = self.data.desk.before(dates, self.data.trading)
        results = self.data.desk.play_each(make, under(self.ready[dates], trading), trading, check_stop)
        return msgspec.structs.replace(results, halts=())  # each halt ends with its account of one session

    def relay(self, policies: Sequence[nn.Module], spans: Sequence[Span]) -> OneAccount:
        """See `TaskData`; the reference account holds from the open."""
        data, trading, dates = self.data, spans[0].trading, [tuple(span.dates) for span in spans]
        holder_results = data.desk.relay([hold_from_open] * len(dates), dates, trading)
        sessions = tuple(session for result in holder_results for session in result.sessions)
        return OneAccount(data.desk.relay(policies, dates, trading), FROM_OPEN, sessions)

    def at_sizes(self, policy: nn.Module, span: Span) -> tuple[SizeFigures, ...]:
        """See `TaskData`: each session has an account of its own."""
        del policy, span
        return ()

    def probes(self, fold: Fold, count: int, seed: int) -> Float32Array:
        """See `TaskData`; the portfolios in them are drawn."""
        return self.data.probes((*fold.train, *fold.validate, *fold.test), count, seed)

    @torch.no_grad()
    def watch(self, policy: nn.Module, span: Span) -> Watched:
        """See `TaskData`; played on the market, whose episode ends at the desk's last exit."""
        dates = tuple(span.dates)
        market = self.data.market(dates, self.data.trading, auto_reset=False)
        days, width = len(self.data.on(dates)), len(self.data.spec.features)
        market.begin(np.arange(days))
        rows, answers, active = [], [], []
        while market.active.any():
            active.append(market.active)
            observations = market.observe()
            values = values_of(policy(observations))
            rows.append(observations[:, -width:].numpy().copy())
            answers.append(values.numpy())
            market.step(values.argmax(dim=1))
        played = np.stack(active, axis=1)
        return Watched(np.stack(rows, axis=1)[played], np.stack(answers, axis=1)[played])

    @torch.no_grad()
    def heads_for_report(self, policy: nn.Module, fold: Fold) -> dict[str, Any]:
        """The scores of the heads for the report; empty without heads."""
        return {KEY: msgspec.to_builtins(self.heads(policy, fold))} if self.data.spec.heads else {}

    def heads(self, policy: nn.Module, fold: Fold) -> HeadScores:
        """Scores of the heads on the fold's test sessions while nothing is held, against base rates of the training."""
        data, labels = self.data, self.data.history.labels
        (rows, sessions), (learnt, _) = data.rows(fold.test), data.rows(fold.train)
        answers = [answer.numpy() for answer in policy(torch.from_numpy(data.flat_observations(rows)))][1:]
        head_scores: dict[str, Any] = {}
        for place, head in enumerate(data.spec.heads):
            score = {"direction": direction_scores, "risk": risk_scores}[head.name]
            base = float(np.nanmean(labels[learnt, place].astype(np.float64)))
            is_known = ~np.isnan(labels[rows, place])
            forecasts, came = (values[is_known].astype(np.float64) for values in (answers[place], labels[rows, place]))
            head_scores[head.name] = score(forecasts, came, sessions[is_known], base)
        return HeadScores(**head_scores)
