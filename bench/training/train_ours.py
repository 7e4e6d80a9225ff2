"""Our side of the benchmark of training: whole updates and courses, in one process or in a group; levers and limits.

All that several processes do is done by one group, one measurement after the other: its processes start once.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from bench.training import train_daily
from bench.training.train_daily import DailySize
from bench.training.train_work import (
    PROCESSES,
    Course,
    Noise,
    Rate,
    Size,
    course,
    evaluated,
    market,
    measured,
    updates_between,
)
from tests.support.planted.market import greedy
from tests.support.rl.carrying_gru import CarryingGru
from training.data.daily_table import DailyTable
from training.desks.scalper.network import FEATURES, IDENTITY, WINDOW, build
from training.rl.coefficients import Coefficients
from training.rl.kernels import keep_freed_memory, use_fast_float32
from training.rl.ppo import Trainer, make_deterministic
from training.rl.process_group import ProcessGroup, run_group

MLP_MACS = 460 * 256 + 256 * 128 + 128 * 64 + 2 * 64 * 32 + 32 * 6 + 32
LSTM_MACS = 20 * (256 * (23 + 64) + 256 * (64 + 64)) + 2 * 64 * 32 + 32 * 6 + 32
FIRST_LAYER = {"mlp": 460 * 256, "lstm": 20 * 256 * 23}  # whose inputs need no gradient


def shared(c: Coefficients, group: ProcessGroup) -> Coefficients:
    """The part of the environments and of a minibatch that each process of the group has."""
    return replace(c, environments=c.environments // group.size, batch=c.batch // group.size)


def ours(
    group: ProcessGroup,
    where: str,
    network: str,
    c: Coefficients,
    precision: str,
    seed: int,
    steps: int,
    kernels: bool = True,
) -> Trainer:
    """A trainer of this group's share of the environments."""
    make_deterministic()
    if kernels:
        use_fast_float32()
    share = shared(c, group)
    place = market(where, share.environments, seed * group.size + group.rank, c.discount)
    return Trainer(
        build(network, IDENTITY, seed),
        place,
        share,
        total_steps=steps // group.size,
        seed=seed * group.size + group.rank,
        precision=precision,
        average=group.average if group.size > 1 else None,
    )


def our_speed(
    group: ProcessGroup, where: str, network: str, c: Coefficients, precision: str, windows: int, kernels: bool = True
) -> Rate:
    """Whole updates, rollout included."""
    trainer = ours(group, where, network, c, precision, 1, 10**9, kernels)
    updates = 1 if network == "lstm" or windows == 1 else 2

    def work() -> int:
        for _ in range(updates):
            trainer.update()
        return updates * c.environments * c.rollout_steps

    return measured(work, windows, group.size)


def carried_speed(group: ProcessGroup, c: Coefficients, precision: str, windows: int) -> Rate:
    """Whole updates with a carried state, at the shape of `regime_switcher`."""
    make_deterministic()
    use_fast_float32()
    share = shared(c, group)
    trainer = Trainer(
        CarryingGru(64, 128, 16, seed=1),
        Noise(share.environments, seed=group.rank),
        share,
        total_steps=10**9,
        seed=1 + group.rank,
        precision=precision,
        average=group.average if group.size > 1 else None,
    )

    def work() -> int:
        trainer.update()
        return c.environments * c.rollout_steps

    return measured(work, windows, group.size)


def our_course(
    group: ProcessGroup, c: Coefficients, precision: str, seed: int, steps: int, look_steps: int, to_the_end: bool
) -> Course:
    """Train on the planted market until the score, or to the end; evaluations are not timed."""
    trainer = ours(group, "planted", "mlp", c, precision, seed, steps)
    network: Any = trainer.network
    return course(
        partial(_ours_updated, trainer, updates_between(c, look_steps), group.size),
        lambda: evaluated(greedy(network.policy)) if group.rank == 0 else 0.0,
        steps,
        group,
        to_the_end,
    )


def _ours_updated(trainer: Trainer, updates: int, processes: int) -> int:
    for _ in range(updates):
        if not trainer.done:
            trainer.update()
    return trainer.steps * processes


def team_work(
    group: ProcessGroup, size: Size, where: str, of_daily: DailySize, tables_given: dict[str, DailyTable]
) -> dict[str, Any]:
    """All that is measured with several processes, in one group: they start once."""
    if group.rank:
        torch.set_num_threads(1)
    figures: dict[str, Any] = dict(train_daily.team_work(group, of_daily, tables_given))
    for precision in ("float32", "bf16"):
        figures[f"{precision}"] = our_speed(group, where, "mlp", size.work, precision, size.windows)
        figures[f"{precision} planted"] = our_speed(group, "planted", "mlp", size.work, precision, size.windows)
        figures[f"{precision} lstm"] = our_speed(group, "planted", "lstm", size.recurrent, precision, size.windows)
        figures[f"{precision} carried"] = carried_speed(group, size.carried, precision, size.windows)
        figures[f"{precision} course"] = our_course(
            group, size.work, precision, 1, size.score_steps, size.look_steps, to_the_end=False
        )
        gc.collect()
    return figures


def lead(size: Size, where: str, of_daily: DailySize) -> dict[str, Any]:
    """`team_work` in this process and its others."""
    tables_given = train_daily.tables(of_daily)
    first = partial(team_work, size=size, where=where, of_daily=of_daily, tables_given=tables_given)
    return run_group(PROCESSES, first, team_work, size, where, of_daily, tables_given)


def environment_speed(where: str, count: int, windows: int) -> Rate:
    """Environments alone, random actions."""
    make_deterministic()
    place = market(where, count, 1)
    generator = torch.Generator().manual_seed(0)

    def work() -> int:
        for _ in range(32):
            place.observe()
            place.step(torch.randint(0, 6, (count,), generator=generator))
        return 32 * count

    return measured(work, windows)


def small_levers(c: Coefficients, windows: int) -> dict[str, float]:
    """Microseconds of processor time: an Adam step, fused and not, and the scaling of one rollout, step by step."""
    make_deterministic()
    keep_freed_memory()
    network = build("mlp", IDENTITY, 1)
    times = {}
    for name, fused in (("adam_us", False), ("adam_fused_us", True)):
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-9, fused=fused)
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        times[name] = _microseconds(optimizer.step, windows)
    observations = torch.zeros(c.environments, WINDOW, FEATURES)

    def scaling() -> None:
        for _ in range(c.rollout_steps):
            network.prepare(observations)

    times["scaling_of_a_rollout_us"] = _microseconds(scaling, windows)
    return times


def _microseconds(work: Callable[[], object], windows: int) -> float:
    work()
    spent = []
    for _ in range(5 * windows):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return 1e6 * min(spent)


def peak_gflops(kernels: bool, rows: int, windows: int) -> float:
    """The most that float32 products reach here, one core, in GFLOP/s."""
    torch.set_num_threads(1)
    if kernels:
        use_fast_float32()
    best = 0.0
    for rows_left, inner, right in ((rows, rows, rows), (4 * rows, 460, 256), (4 * rows, 256, 128)):
        x, y = torch.randn(rows_left, inner), torch.randn(inner, right)
        torch.mm(x, y)
        for _ in range(10 * windows):
            start = time.perf_counter()
            torch.mm(x, y)
            best = max(best, 2e-9 * rows_left * inner * right / (time.perf_counter() - start))
    return best


def flops(network: str, epochs: int) -> float:
    """Of a transition: 2 MAC forward in the rollout, 6 MAC an epoch less the first layer's gradient for its input."""
    macs = MLP_MACS if network == "mlp" else LSTM_MACS
    return 2 * macs + epochs * (6 * macs - 2 * FIRST_LAYER[network])
