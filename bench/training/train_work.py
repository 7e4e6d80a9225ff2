"""What is measured of training, ours and its peers alike: the settings, the environments, the clock, the score.

Nothing here trains. Each figure is measured in a process of its own.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from bench.tapes import DATA
from daemon.core.limits import Trading
from strategies.registry import strategy
from tests.support.planted.market import BeliefActor, Planted, PlantedMarket, play, solve
from training.desks.scalper.data import Data, load
from training.desks.scalper.market import Market
from training.rl.coefficients import Coefficients
from training.rl.process_group import ProcessGroup
from training.rl.protocols import Environment, Step

BARS = DATA / "spy_1min_2024.parquet"
SCORE = 0.9  # of the best policy's net return on the planted market
EVALUATED = 256  # episodes, which no policy was trained on
PROCESSES = 2
PLANTED = Planted()

WORK = Coefficients(schedule="constant", batch=4096)  # 256 environments x 64 steps, batch 4096, 10 epochs
RECURRENT = replace(WORK, rollout_steps=16)
CARRIED = replace(WORK, epochs=4, sequence=32, batch=8192)
TINY = replace(WORK, environments=16, rollout_steps=8, batch=64, epochs=2, sequence=4)
BRISK = replace(WORK, learning_rate=1e-3, discount=0.97, entropy=0.01, epochs=4, rollout_steps=16, batch=1024)
"""Settings with which the planted market is learned sooner; used for both sides."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    windows: int = 3
    work: Coefficients = WORK
    recurrent: Coefficients = RECURRENT
    carried: Coefficients = CARRIED
    single_steps: int = 2048  # of a rollout with one or eight environments: Stable-Baselines3's n_steps
    threads: tuple[int, ...] = (1, 2)  # of Stable-Baselines3
    brisk: Coefficients = BRISK
    score_steps: int = 400_000
    look_steps: int = 8192  # between two evaluations
    brisk_steps: int = 131_072
    seeds: int = 3
    cap_s: float = 45.0  # for Stable-Baselines3's defaults to reach the score
    product: int = 1024  # rows of the matrix products


QUICK = Size(
    windows=1,
    work=TINY,
    recurrent=TINY,
    carried=TINY,
    brisk=TINY,
    single_steps=64,
    threads=(1,),
    score_steps=128,
    brisk_steps=128,
    look_steps=128,
    seeds=1,
    cap_s=0.1,
    product=128,
)


@dataclass(frozen=True, slots=True)
class Rate:
    """Transitions a second: of the best window, of the median one, and for each second of processor time."""

    best: float
    median: float
    by_processor: float


@dataclass(frozen=True, slots=True)
class Course:
    """A training towards the score: seconds and steps when it was first reached, None if never; the last score.

    `core_s` is the processor time of all processes until then, which other programs disturb less.
    """

    seconds: float | None
    steps: int | None
    spent_s: float
    last: float
    core_s: float = 0.0


def progress(words: str) -> None:
    """Say on stderr what is measured next."""
    print(f"measuring {words}", file=sys.stderr, flush=True)


def versions(**more: str) -> dict[str, str]:
    """What the figures were made with, and `more`."""
    import stable_baselines3

    made_with = {"python": platform.python_version(), "torch": str(torch.__version__)}
    return {**made_with, "stable_baselines3": stable_baselines3.__version__, **more}


def show(figures: dict[str, Any]) -> dict[str, Any]:
    """Print each figure on a line, and all of them as one JSON object on the last; returns them."""
    for name, value in figures.items():
        print(f"{name:60}{value}", flush=True)
    print(json.dumps(figures), flush=True)
    return figures


def measured(work: Callable[[], int], windows: int, processes: int = 1, cap_s: float = float("inf")) -> Rate:
    """The rate of `work`, which returns its transitions; the first call is not counted.

    No window begins after `cap_s`, but one is measured. (Several processes have to agree, so they need the default.)
    """
    start_s = time.perf_counter()
    work()
    rates: list[float] = []
    by_processor: list[float] = []
    for _ in range(windows):
        if rates and time.perf_counter() - start_s > cap_s:
            break
        wall, processor = time.perf_counter(), time.process_time()
        steps = work()
        rates.append(steps / (time.perf_counter() - wall))
        by_processor.append(steps / processes / (time.process_time() - processor))
    return Rate(max(rates), statistics.median(rates), max(by_processor))


def update_rate(trainer: Any, rounds: int, windows: int, processes: int = 1, cap_s: float = float("inf")) -> Rate:
    """The rate of a trainer's whole updates, rollout included, `rounds` of them in each window."""

    def work() -> int:
        steps_before = int(trainer.steps)
        for _ in range(rounds):
            trainer.update()
        return (int(trainer.steps) - steps_before) * processes

    return measured(work, windows, processes, cap_s)


def apart(work: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """Start `work` in a process of its own (a copy of this one, so nothing is imported anew); call for its result.

    With `patience_s` the result is None, and the process is ended, when it takes longer.
    """
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sending.send(work(*arguments)))
    process.start()
    sending.close()

    def result(patience_s: float | None = None) -> Any:
        if not receiving.poll(patience_s):
            process.kill()
            return None
        try:
            return receiving.recv()
        except EOFError:
            process.join()
            raise RuntimeError(f"a measurement ended with exit code {process.exitcode}; its message is above") from None

    return result


def alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of `work` in a process of its own."""
    return apart(work, *arguments)()


@cache
def data() -> Data:
    """The real bars, read once."""
    return load(BARS, strategy("option_scalper"), Trading())


def market(name: str, count: int, seed: int, discount: float = 0.99) -> Environment:
    """`count` environments of the "option" market over real bars, or of the "planted" one."""
    if name == "planted":
        return PlantedMarket(PLANTED, count, seed)
    days = list(data().days.values())
    return Market(data().history, data().prices, days, Trading(), count=count, discount=discount, seed=seed)


class Noise:
    """The shape of `regime_switcher`: 64 numbers, 16 actions, ends after 256 steps. Nothing can be learned."""

    def __init__(self, count: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._table = torch.randn(8, count, 64, generator=generator)
        self._ends = torch.randint(0, 256, (count,), generator=generator)
        self._step = 0

    def observe(self) -> Tensor:
        """Float32 (n, 64)."""
        return self._table[self._step % 8]

    def step(self, actions: Tensor) -> Step:
        """Pay what nobody could foresee."""
        self._step += 1
        return Step(self._table[self._step % 8, :, 0] * actions, self._ends == self._step % 256)

    def state_dict(self) -> dict[str, Any]:
        """Only the clock moves."""
        return {"step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._step = state["step"]


def course(
    work: Callable[[], int],
    score: Callable[[], float],
    steps: int,
    group: ProcessGroup,
    to_the_end: bool = False,
    cap_s: float = float("inf"),
) -> Course:
    """Work and look, by turns, until the score is reached or `steps` or `cap_s` are spent."""
    spent, core_s, steps_done, seconds, at, last = 0.0, 0.0, 0, None, None, 0.0
    while steps_done < steps and spent < cap_s and (seconds is None or to_the_end):
        start, processor = time.perf_counter(), time.process_time()
        steps_done = work()
        spent += time.perf_counter() - start
        core_s += (time.process_time() - processor) * group.size if seconds is None else 0.0
        last = score()
        if seconds is None and group.broadcast(int(last >= SCORE)):
            seconds, at = spent, steps_done
    return Course(seconds, at, spent, last, core_s)


def seconds_to_score(run: Course) -> float:
    """Seconds until the score; infinity for a training that never reached it."""
    return float("inf") if run.seconds is None else run.seconds


def median(runs: Sequence[Course]) -> Course:
    """The training whose time is the median (the later of two); those that never reached the score are the longest."""
    return sorted(runs, key=lambda run: (seconds_to_score(run), run.spent_s))[len(runs) // 2]


@cache
def optimum() -> float:
    """The net return of the best policy on the episodes that all are evaluated on."""
    actor = BeliefActor(PLANTED, solve(PLANTED), windowed=False)
    return float(play(PLANTED, actor, episodes=EVALUATED, seed=4242).mean())


def evaluated(actor: Callable[[Tensor], Tensor]) -> float:
    """The share of the optimum that a policy earns on fresh episodes."""
    return float(play(PLANTED, actor, episodes=EVALUATED, seed=4242).mean()) / optimum()


def updates_between(c: Coefficients, look_steps: int) -> int:
    return max(1, look_steps // (c.environments * c.rollout_steps))
