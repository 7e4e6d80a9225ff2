"""One run from a bars file to a version in the model store: read, split, train, choose, compare, export.

The test sessions are opened once, after the checkpoint is chosen. Invariant: the same file, seed and settings give the
same weights byte for byte on one machine's CPU.
"""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from daemon.core.limits import Trading
from daemon.shell.calendar import SessionCalendar
from daemon.shell.tape import TapeInfo, TapeSource, scan
from strategies.contract import Strategy
from strategies.manifest import Training
from strategies.registry import strategy as registered
from training.dry_run import DryRun, desks, dry_run
from training.evaluation import (
    Figures,
    Player,
    RandomTrader,
    SessionResult,
    always_hold,
    as_metrics,
    figures,
    play,
    random_like,
)
from training.export import Float32Array, Release, export
from training.history import History, TradingDay, read_history, split
from training.market import Market
from training.network import ActorCritic, fit_scaling
from training.ppo import Coefficients, Progress, make_deterministic, train
from training.prices import PriceTable, price_table
from training.report import Comparison, render

CHECKPOINTS = 40  # about as many are compared on the validation sessions
RANDOM_DRAWS_DRY_RUN = 10
RANDOM_DRAWS_MARKET = 1000
DRAWS_AT_ONCE = 50
PROBES = 1000


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run is asked for."""

    strategy: str
    bars: Path
    out: Path
    steps: int = 2_000_000
    seed: int = 1
    reward: str = "potential"
    feed: str = "sip"  # whose bars the file holds; the manifest says it
    coefficients: Coefficients = field(default_factory=Coefficients)


@dataclass(frozen=True, slots=True)
class Checked:
    """A checkpoint's figures on the validation sessions; `best` when it is the best so far."""

    progress: Progress
    validate: Figures
    best: bool


Listener = Callable[[Progress | Checked | str], None]
"""Told of every update, every checkpoint, and the stages of a run in words."""


@dataclass(frozen=True, slots=True)
class Data:
    """A bars file made ready."""

    info: TapeInfo
    source: TapeSource
    history: History
    splits: dict[str, tuple[TradingDay, ...]]
    prices: PriceTable


def load(path: Path, machine: Strategy, trading: Trading) -> Data:
    """Read a bars file.

    Raises:
        TapeError, CalendarError, HistoryError: the file cannot be trained on; the text says why and what helps.
    """
    spec = machine.spec
    info = scan(path, spec.symbols, spec.bar_interval_s)
    source = TapeSource(path, info, SessionCalendar.load(info.first_date, info.last_date))
    history = read_history(source, spec, trading)
    parts = split(history.usable)
    return Data(info, source, history, parts, price_table(history, history.usable, trading))


def train_and_export(settings: Settings, listen: Listener) -> Path:
    """Train by `settings` and return the folder of the new version.

    Raises:
        ValueError: the strategy is unknown.
        TapeError, CalendarError, HistoryError, ExportError: see `load` and `training.export.export`.
    """
    make_deterministic()
    machine, trading = registered(settings.strategy), Trading()
    listen(f"reading {settings.bars.name}")
    data = load(settings.bars, machine, trading)
    network, chosen = _train(settings, data, trading, listen)
    listen("evaluating on the test sessions through the dry run")
    comparison = _compare(network, data, machine, trading, settings.seed, chosen.validate)
    training = _described(settings, data)
    hyperparameters = {
        **asdict(settings.coefficients),
        "steps": settings.steps,
        "seed": settings.seed,
        "reward": settings.reward,
        "checkpoint_steps": chosen.progress.steps,
        "threads": 1,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
    capital = float(trading.paper.cash_usd)
    release = Release(
        training=training,
        hyperparameters=hyperparameters,
        metrics={
            "test": as_metrics(comparison.policy),
            "test_always_hold": as_metrics(comparison.hold),
            "test_random": [as_metrics(draw) for draw in comparison.random],
            "test_random_beats": comparison.random_beats,
            "test_denials": dict(comparison.denials),
            "validate": as_metrics(comparison.validate),
        },
        report=render(settings.strategy, comparison, training, hyperparameters, capital),
    )
    listen("exporting")
    return export(network.policy, machine, release, out=settings.out, probes=probes(data.history, settings.seed))


def probes(history: History, seed: int, count: int = PROBES) -> Float32Array:
    """Real observations, float32 (count, 20, 23), at random minutes of usable sessions, with made-up positions."""
    random = np.random.default_rng(seed)
    starts = np.concatenate([np.arange(day.first, day.end - 19) for day in history.usable])
    rows = random.choice(starts, size=count)[:, None] + np.arange(20)
    market = history.features[rows]
    side = random.integers(-1, 2, size=(count, 1, 1)) * np.ones((1, 20, 1))
    value, age = random.uniform(-1, 3, size=side.shape), random.uniform(0, 2, size=side.shape)
    position = np.concatenate([side, value, age], axis=2)
    return np.concatenate([market, np.where(side == 0, 0.0, position)], axis=2).astype(np.float32)


def _train(settings: Settings, data: Data, trading: Trading, listen: Listener) -> tuple[ActorCritic, Checked]:
    """The network as it was at the best checkpoint, and that checkpoint."""
    c, history = settings.coefficients, data.history
    rows = np.concatenate([np.arange(day.first, day.end) for day in data.splits["train"]])
    network = ActorCritic(fit_scaling(torch.from_numpy(history.features[rows])), settings.seed)
    market = Market(
        history,
        data.prices,
        data.splits["train"],
        trading,
        count=c.environments,
        reward_name=settings.reward,
        discount=c.discount,
        seed=settings.seed,
    )
    days = data.splits["validate"]
    validation = Market(history, data.prices, days, trading, count=len(days), auto_reset=False)
    updates = max(1, -(-settings.steps // (c.environments * c.rollout_steps)))
    every = max(1, updates // CHECKPOINTS)
    best: list[tuple[Checked, dict[str, torch.Tensor]]] = []

    def on_update(progress: Progress) -> None:
        listen(progress)
        if progress.updates % every and progress.updates != updates:
            return
        results = play(validation, network.policy, _dates(days), trading.risk.confidence_min)
        found = figures(results, float(trading.paper.cash_usd))
        better = not best or found.net_return > best[0][0].validate.net_return
        checked = Checked(progress, found, better)
        if better:
            best[:] = [(checked, copy.deepcopy(network.state_dict()))]
        listen(checked)

    listen(f"training for {updates * c.environments * c.rollout_steps:,} steps")
    train(network, market, c, total_steps=settings.steps, seed=settings.seed, on_update=on_update)
    checked, weights = best[0]
    network.load_state_dict(weights)
    return network, checked


def _compare(
    network: ActorCritic, data: Data, machine: Strategy, trading: Trading, seed: int, validate: Figures
) -> Comparison:
    """The policy, always-HOLD and random traders on the test sessions."""
    days = data.splits["test"]
    dates, capital = _dates(days), float(trading.paper.cash_usd)
    ready = desks(data.source, machine, trading, dates)

    def through_desk(player: Player) -> DryRun:
        return dry_run(player, ready, machine, trading)

    def through_market(trader: RandomTrader, draws: int = DRAWS_AT_ONCE) -> tuple[SessionResult, ...]:
        market = Market(data.history, data.prices, days, trading, count=draws * len(days), auto_reset=False)
        return play(market, trader, dates, trading.risk.confidence_min)

    policy = through_desk(network.policy)
    found = figures(policy.results, capital)
    trader = random_like(policy.results, through_market, seed)
    draws: list[float] = []
    while len(draws) < RANDOM_DRAWS_MARKET:
        results = through_market(trader)
        pnl = np.array([result.pnl_usd for result in results]).reshape(-1, len(days))
        draws.extend((pnl.sum(axis=1) / capital).tolist())
    return Comparison(
        policy=found,
        hold=figures(through_desk(always_hold).results, capital),
        random=tuple(figures(through_desk(trader).results, capital) for _ in range(RANDOM_DRAWS_DRY_RUN)),
        random_beats=sum(value >= found.net_return for value in draws) / len(draws),
        random_draws=len(draws),
        denials=policy.denials,
        validate=validate,
    )


def _described(settings: Settings, data: Data) -> Training:
    parts = data.splits
    return Training(
        file=settings.bars.name,
        file_sha256=data.info.sha256,
        feed=settings.feed,
        synthetic=bool(data.info.synthetic),
        sessions=sum(len(days) for days in parts.values()),
        first_session=parts["train"][0].session.date,
        last_session=parts["test"][-1].session.date,
        splits={name: (days[0].session.date, days[-1].session.date) for name, days in parts.items()},
    )


def _dates(days: Sequence[TradingDay]) -> tuple[str, ...]:
    return tuple(day.session.date for day in days)
