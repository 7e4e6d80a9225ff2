"""The cold start: it trains the first model on recorded bars and fills the replay from which online learning goes on.

The last sessions are held out: the first model's returns there go into its card. The same bars, settings and seed give
the same weights and the same replay, byte for byte (CPU).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from training.desks.online.data import OnlineData, play
from training.desks.online.market import OnlineMarket
from training.desks.online.network import COLD_PRESETS, ColdPreset, network_of
from training.rl.dqn.networks import QNetwork, explore
from training.rl.dqn.pqn import Pqn, PqnTrainer
from training.rl.dqn.replay import ChoiceReplay, Choices, DiskReplay, OneStep, Returns
from training.study.folds import HistoryError
from training.study.study import SessionResult, as_metrics, figures

REPLAY_FILE = "cold.replay"
SPARE = 256  # transitions between two states of a replay on disk
ROWS = 64  # rows of the market that fills the replay

Report = Callable[[Mapping[str, float]], None]


@dataclass(frozen=True, slots=True)
class Cold:
    """The result of the cold start."""

    network: QNetwork
    replay: ChoiceReplay
    dates: tuple[str, ...]  # the held-out sessions
    session_returns: tuple[float, ...]  # the policy's return in each, a part of the capital
    figures: dict[str, float]  # figures of these sessions and of the last update


def cold_start(
    data: OnlineData,
    *,
    preset: ColdPreset = COLD_PRESETS["cold"],
    seed: int,
    threads: int = 1,
    folder: Path | None = None,
    report: Report = lambda _: None,
) -> Cold:
    """Train the first model and fill the replay.

    Args:
        data: bars made ready (`training.desks.online.data.load`).
        threads: number of torch's threads, from now on in this process.
        folder: where the replay is kept; None keeps it in memory.
        report: gets the figures of every update, and may raise to stop.

    Raises:
        HistoryError: no session is left to train on.
        NotFiniteError: a loss or a gradient was not finite.
        OSError: the replay's file cannot be made.
    """
    torch.set_num_threads(threads)
    dates, apart = tuple(data.days), dates_apart(data, preset)
    border = len(dates) - len(apart)
    if border < 1:
        raise HistoryError(f"{data.bars.file} has {len(dates)} usable sessions: expected two at least")
    network, last_figures = network_of(data.config, preset, seed), dict[str, float]()
    trainer = trainer_of(network, data, dates[:border], preset, seed, preset.steps)
    while not trainer.done:
        progress = trainer.update()
        last_figures = {"steps": float(progress.steps), "reward": progress.reward, **progress.figures}
        report(last_figures)
    network.eval()
    replay = cold_replay(network, preset, folder)
    _fill(replay, network, data.market(dates[:border], data.trading, count=ROWS, seed=seed + 1), preset, seed)
    results = play(network, data, apart, data.trading)
    capital = float(data.trading.paper.cash_usd)
    figures_apart = {f"apart {name}": float(value) for name, value in as_metrics(figures(results, capital)).items()}
    return Cold(network, replay, apart, _returns(results, data), last_figures | figures_apart)


def dates_apart(data: OnlineData, preset: ColdPreset) -> tuple[str, ...]:
    """Return the held-out sessions: the last ones, on which nothing is trained."""
    dates = tuple(data.days)
    return dates[-max(1, int(len(dates) * preset.kept_apart)) :]


def returns_apart(network: QNetwork, data: OnlineData, preset: ColdPreset) -> tuple[float, ...]:
    """Return a network's return in each held-out session, as a part of the capital."""
    return _returns(play(network, data, dates_apart(data, preset), data.trading), data)


def _returns(results: Sequence[SessionResult], data: OnlineData) -> tuple[float, ...]:
    capital = float(data.trading.paper.cash_usd)
    return tuple(result.pnl_usd / capital for result in results)


def trainer_of(
    network: QNetwork,
    data: OnlineData,
    dates: tuple[str, ...],
    preset: ColdPreset,
    seed: int,
    steps: int,
    precision: str = "float32",
) -> PqnTrainer:
    """PQN on these sessions; it trains `network` in place."""
    c = preset.pqn
    market = data.market(dates, data.trading, count=c.environments, seed=seed)
    return PqnTrainer(Pqn(network, c, precision=precision), market, c, total_steps=steps, seed=seed)


def cold_replay(network: QNetwork, preset: ColdPreset, folder: Path | None) -> ChoiceReplay:
    """An empty replay for the cold start, in memory or in `folder`; a learner that goes on loads its state into it."""
    c, heads = preset.online, len(network.heads)
    if folder is None:
        return ChoiceReplay(preset.replay, 1, network.inputs, heads=heads, priority=c.priority)
    path = folder / REPLAY_FILE
    return DiskReplay(path, preset.replay, network.inputs, spare=SPARE, heads=heads, priority=c.priority)


@torch.no_grad()
def _fill(replay: ChoiceReplay, network: QNetwork, market: OnlineMarket, preset: ColdPreset, seed: int) -> None:
    """Play the policy with some exploration until the replay is full."""
    c, generator = preset.online, torch.Generator().manual_seed(seed)
    sums = Returns(c.returns, c.discount)
    observed, added = network.prepare(market.observe()), 0
    while added < preset.replay:
        labels = market.labels()
        actions = explore(network.values(observed), preset.exploration, generator)
        step = market.step(actions)
        following = network.prepare(market.observe())
        goes_on = (~step.terminals).float()
        choices = sums.add(
            OneStep(observed, actions, step.rewards * c.reward_scale, following, goes_on, step.terminals, labels)
        )
        observed = following
        for row in range(0 if choices is None else len(actions)):
            if added == preset.replay:
                break
            if added % SPARE == 0:
                replay.state_dict()  # a replay on disk takes `SPARE` transitions between two states
            assert choices is not None
            replay.add(_row(choices, row))
            added += 1


def _row(choices: Choices, row: int) -> Choices:
    """The transition of one row of a step."""

    def at(column: Tensor) -> Tensor:
        return column[row : row + 1]

    return Choices(
        at(choices.observations),
        at(choices.following),
        at(choices.actions),
        at(choices.rewards),
        at(choices.discounts),
        at(choices.labels),
    )
