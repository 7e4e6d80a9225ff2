"""How fast training is on one device, and whether it learns there what it learns on the CPU.

    python -m bench.training.bench_device --device cuda --part speed profile agents curves

Rates are whole updates, rollout included, the best and the median of a few windows; `--quick` is a smoke run that any
machine can do. `curves` trains one task with several seeds; `--against FILE` compares them with those of another
device. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import multiprocessing
import os
import platform
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor, nn

from bench.tapes import DATA
from daemon.core.limits import Trading
from strategies.regime_switcher import SPEC as SWITCHER
from strategies.regime_switcher import WIDTH
from strategies.registry import daily_strategy, strategy
from tests.support.training.made_up_days import trading, walk
from training.data.daily_table import DailyTable, read_table
from training.desks.daily.markets.rebalancer import RebalancerMarket
from training.desks.daily.markets.regime import RegimeMarket
from training.desks.daily.networks.regime import RegimeActorCritic
from training.desks.daily.regime import REGIME
from training.desks.scalper.data import Data, load
from training.desks.scalper.market import Market
from training.desks.scalper.network import IDENTITY, build
from training.rl.coefficients import Coefficients
from training.rl.dqn.dqn import DqnTrainer
from training.rl.dqn.presets import RECIPES as DQN_RECIPES
from training.rl.dqn.presets import build as dqn_of
from training.rl.kernels import how_computed
from training.rl.off_policy.presets import RECIPES
from training.rl.off_policy.presets import build as agent_of
from training.rl.off_policy.trainer import OffPolicyTrainer
from training.rl.ppo import Trainer, make_deterministic

SCALPER = "option_scalper"
assert isinstance(REGIME.plan, Coefficients)
PRESET = REGIME.plan


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement of whole updates."""

    desk: str
    coefficients: Coefficients
    record: bool = True
    precision: str = "float32"

    @property
    def words(self) -> str:
        """For the table."""
        c = self.coefficients
        how = "" if self.record else ", one by one"
        shape = f"{c.environments} x {c.rollout_steps}, minibatch {c.batch}, {c.epochs} epochs"
        return f"{self.desk}: {shape}, {self.precision}{how}"


def case(desk: str, environments: int, steps: int, batch: int, **changes: Any) -> Case:
    """`desk` by its preset, but for the sizes of a rollout and of a minibatch."""
    start = PRESET if desk == SWITCHER.name else Coefficients()
    return Case(desk, replace(start, environments=environments, rollout_steps=steps, batch=batch), **changes)


CASES = (
    case(SWITCHER.name, 2048, 256, 2048),
    case(SWITCHER.name, 2048, 256, 2048, record=False),
    case(SWITCHER.name, 8192, 64, 16_384),
    case(SWITCHER.name, 16_384, 64, 65_536),
    case(SWITCHER.name, 16_384, 64, 65_536, record=False),
    case(SWITCHER.name, 16_384, 64, 65_536, precision="bf16"),
    case(SWITCHER.name, 65_536, 32, 131_072),
    case(SCALPER, 256, 64, 1024),
    case(SCALPER, 256, 64, 1024, record=False),
    case(SCALPER, 4096, 64, 16_384),
    case(SCALPER, 16_384, 64, 65_536),
    case(SCALPER, 16_384, 64, 65_536, record=False),
    case(SCALPER, 16_384, 64, 65_536, precision="bf16"),
    case(SCALPER, 65_536, 16, 65_536),
)
TINY = (case(SWITCHER.name, 16, 32, 128), case(SCALPER, 16, 8, 64))


@cache
def funds() -> DailyTable:
    """The daily bars of `regime_switcher`."""
    return read_table(DATA / "etf_daily_2010_2022.parquet", daily_strategy(SWITCHER.name))


@cache
def minutes() -> Data:
    """The minute bars of `option_scalper`."""
    return load(DATA / "spy_1min_2024.parquet", strategy(SCALPER), Trading())


class Timed(Trainer):
    """A trainer that knows the seconds that its rollouts and its epochs took."""

    collecting_s = improving_s = 0.0

    def _collect(self) -> Any:
        began = self._now()
        rollout = super()._collect()
        self.collecting_s += self._now() - began
        return rollout

    def _improve(self, rollout: Any) -> Any:
        began = self._now()
        figures = super()._improve(rollout)
        self.improving_s += self._now() - began
        return figures

    def only_rollout(self) -> int:
        """Collect one rollout; returns its number of steps of all environments."""
        self._collect()
        return self.coefficients.rollout_steps

    def only_epoch(self) -> int:
        """All epochs over the newest rollout; their minibatches."""
        assert self._rollout is not None
        return len(self._improve(self._rollout)[0])

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def trainer(desk: str, c: Coefficients, device: str, seed: int = 1, steps: int = 10**9, **how: Any) -> Timed:
    """A trainer of a shipped strategy over its recorded bars, all years of them."""
    make_deterministic()
    network: Any
    place: Any
    if desk == SWITCHER.name:
        table = funds()
        last = len(table.sessions) - 1
        place = RegimeMarket(table, 260, last, Trading(), count=c.environments, seed=seed, device=device)
        network = RegimeActorCritic(seed)
    else:
        days = list(minutes().days.values())
        data, count = minutes(), c.environments
        place = Market(
            data.history, data.prices, days, Trading(), count=count, discount=c.discount, seed=seed, device=device
        )
        network = build("mlp", IDENTITY, seed)
    return Timed(network, place, c, total_steps=steps, seed=seed, device=device, **how)


def speed(device: str, cases: tuple[Case, ...], windows: int, cap_s: float) -> dict[str, Any]:
    """Transitions a second of each case, best and median of the windows, and where the seconds went."""
    figures_by_case: dict[str, Any] = {}
    for case_ in cases:
        gc.collect()
        began = time.perf_counter()
        figures_by_case[case_.words] = figures = measured(case_, device, windows, cap_s)
        figures["spent_s"] = round(time.perf_counter() - began, 1)
        print(f"{case_.words:84}{json.dumps(figures)}", flush=True)
    return figures_by_case


def measured(case_: Case, device: str, windows: int, cap_s: float) -> dict[str, Any]:
    """Three updates, in which what is recorded is recorded, then as many as `windows` or `cap_s` allow."""
    c = case_.coefficients
    timed = trainer(case_.desk, c, device, record=case_.record, precision=case_.precision)
    start_s = time.perf_counter()
    for _ in range(3):
        timed.update()
    first_s = time.perf_counter() - start_s
    timed.collecting_s = timed.improving_s = 0.0
    rates: list[float] = []
    while len(rates) < windows and (not rates or time.perf_counter() - start_s < cap_s):
        start = time.perf_counter()
        timed.update()
        rates.append(c.environments * c.rollout_steps / (time.perf_counter() - start))
    updates = len(rates)
    figures = {
        "best": round(max(rates)),
        "median": round(statistics.median(rates)),
        "updates": updates,
        "rollout_ms": round(1e3 * timed.collecting_s / updates, 1),
        "epochs_ms": round(1e3 * timed.improving_s / updates, 1),
        "first_three_s": round(first_s, 2),
    }
    if device.startswith("cuda"):
        figures["memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        torch.cuda.reset_peak_memory_stats()
    return figures


def profile(device: str, cases: tuple[Case, ...]) -> dict[str, Any]:
    """Kernels (on a CPU: operators) of a step of all environments and of a minibatch, and those that take longest."""
    profiles: dict[str, Any] = {}
    activity = torch.profiler.ProfilerActivity
    kinds = [activity.CPU, activity.CUDA] if device.startswith("cuda") else [activity.CPU]
    for case_ in cases:
        small = replace(case_.coefficients, epochs=1, rollout_steps=case_.coefficients.sequence)
        timed = trainer(case_.desk, small, device, record=False, precision=case_.precision)
        timed.update()
        for part, work in (("rollout", timed.only_rollout), ("epoch", timed.only_epoch)):
            with torch.profiler.profile(activities=kinds) as profile_:
                began = time.perf_counter()
                pieces = work()
                wall_s = time.perf_counter() - began
            profiles[f"{case_.words} {part}"] = summed(profile_, device, pieces, wall_s)
            print(f"{case_.words} {part}: {json.dumps(profiles[f'{case_.words} {part}'])}", flush=True)
    return profiles


def summed(profile_: Any, device: str, pieces: int, wall_s: float) -> dict[str, Any]:
    """What a profile has: kernels a piece, their microseconds, and the five that take most of them."""
    if device.startswith("cuda"):
        events = [event for event in profile_.events() if event.device_type == torch.profiler.DeviceType.CUDA]
    else:
        events = [event for event in profile_.events() if event.name.startswith("aten::")]
    spent: dict[str, list[float]] = {}
    for event in events:
        took = event.device_time if device.startswith("cuda") else event.self_cpu_time_total
        spent.setdefault(event.name[:60], []).append(took)
    most = sorted(spent.items(), key=lambda pair: -sum(pair[1]))[:6]
    return {
        "pieces": pieces,
        "kernels_each": round(len(events) / pieces, 1),
        "busy_us_each": round(sum(sum(durations) for durations in spent.values()) / pieces, 1),
        "wall_us_each": round(1e6 * wall_s / pieces, 1),
        "most": {
            name: [round(len(durations) / pieces, 1), round(sum(durations) / pieces, 1)] for name, durations in most
        },
    }


# --- SAC, TD3 and DQN -------------------------------------------------------------------------------------------------

AGENT_ENVIRONMENTS, QUICK_ENVIRONMENTS = 4096, 32


class Standardised(nn.Module):
    """Columns of raw observations less their mean, in deviations, within five of them."""

    mean: Tensor
    scale: Tensor

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", rows.mean(dim=0))
        self.register_buffer("scale", rows.std(dim=0).clamp_min(1e-6))

    def forward(self, rows: Tensor) -> Tensor:
        """Float32 (n, inputs)."""
        scaled: Tensor = ((rows - self.mean) / self.scale).clamp(-5.0, 5.0)
        return scaled


def agents(device: str, environments: int, rounds: int) -> dict[str, Any]:
    """Transitions and gradient steps a second of SAC, TD3 and DQN by their recipe `few_large`."""
    rates: dict[str, Any] = {}
    timed: Any
    for name in ("sac", "td3", "dqn", "dqn without priorities"):
        timed = choosing(device, environments, name) if name.startswith("dqn") else sizing(device, environments, name)
        while not timed.gradient_steps:
            timed.update()
        waited(device)
        began, steps, steps_before = time.perf_counter(), timed.steps, timed.gradient_steps
        for _ in range(rounds):
            progress = timed.update()
        waited(device)
        spent_s = time.perf_counter() - began
        rates[name] = figures = {
            "environments": environments,
            "steps_per_s": round((timed.steps - steps) / spent_s),
            "gradient_steps_per_s": round((timed.gradient_steps - steps_before) / spent_s),
            "reward": progress.reward,
        }
        print(f"{name:40}{json.dumps(figures)}", flush=True)
    return rates


def sizing(device: str, environments: int, name: str) -> OffPolicyTrainer:
    """SAC or TD3 on made-up days of the 50 stocks of `daily_rebalancer`."""
    make_deterministic()
    table = walk(400, seed=1)
    market = partial(RebalancerMarket, table, 40, 399, trading("1000000"), variant="account", episode=64)
    c = replace(RECIPES["few_large"].of(name), environments=environments, reward_scale=1e-2)
    c = replace(c, capacity=min(c.capacity, 256 * environments))
    c = replace(c, learning_starts=8 * environments, round_transitions=8 * environments)
    rows = market(count=64).observe()
    scaling = Standardised(torch.cat([rows, market(count=64, seed=2).observe()]))
    agent = agent_of(name, rows.shape[1], c, seed=1, actions=50, scaling=scaling, device=device)
    place = market(count=environments, device=device)
    return OffPolicyTrainer(agent, place, c, total_steps=10**9, seed=1)


def choosing(device: str, environments: int, name: str) -> DqnTrainer:
    """DQN on the market of `regime_switcher`."""
    make_deterministic()
    c = replace(DQN_RECIPES["few_large"], environments=environments, priority=0.5 if name == "dqn" else 0.0)
    c = replace(c, learning_starts=8 * environments, round_transitions=8 * environments, reward_scale=100.0)
    table = funds()
    place = RegimeMarket(table, 260, len(table.sessions) - 1, Trading(), count=environments, device=device)
    dqn = dqn_of(WIDTH, c, actions=len(SWITCHER.actions), seed=1, device=device)
    return DqnTrainer(dqn, place, c, total_steps=10**9, seed=1)


def waited(device: str) -> None:
    """All that was launched is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


# --- learning curves --------------------------------------------------------------------------------------------------

UPDATES = 30
LEARNED = (case(SWITCHER.name, 512, 32, 2048), case(SCALPER, 256, 64, 4096))


def curves(device: str, cases: tuple[Case, ...], updates: int, seeds: int) -> dict[str, Any]:
    """Mean rewards of every update, by case and seed; on a CPU the seeds run beside each other, one thread each."""
    courses = [(case_, seed, device, updates) for case_ in cases for seed in range(1, seeds + 1)]
    if device == "cpu":
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(len(courses), os.cpu_count() or 1), mp_context=context) as pool:
            rewards_of_courses = list(pool.map(curve, *zip(*courses, strict=True)))
    else:
        rewards_of_courses = [curve(*course) for course in courses]
    by_case: dict[str, Any] = {}
    for (case_, *_), rewards in zip(courses, rewards_of_courses, strict=True):
        by_case.setdefault(case_.words, []).append(rewards)
    return by_case


def curve(case_: Case, seed: int, device: str, updates: int) -> list[float]:
    """The mean reward of a step in each update."""
    c = replace(case_.coefficients, epochs=4)
    steps = updates * c.environments * c.rollout_steps
    timed = trainer(case_.desk, c, device, seed, steps)
    return [timed.update().reward for _ in range(updates)]


def differences(curves_here: dict[str, Any], curves_there: dict[str, Any]) -> dict[str, Any]:
    """Means over seeds, their difference and half its 95 % interval, by case, at five times of the course."""
    by_case: dict[str, Any] = {}
    for words in curves_here:
        updates = len(curves_here[words][0])
        width = max(1, updates // 5)
        rows = []
        for first in range(0, updates - width + 1, width):
            ours, theirs = (
                [statistics.fmean(seed[first : first + width]) for seed in side[words]]
                for side in (curves_here, curves_there)
            )
            error = math.sqrt(sum(statistics.variance(side) / len(side) for side in (ours, theirs)))
            freedom = len(ours) + len(theirs) - 2
            means = [statistics.fmean(side) for side in (ours, theirs)]
            rows.append([*means, means[0] - means[1], float(student.ppf(0.975, freedom)) * error])
            print(f"{words} from update {first}: {' '.join(f'{value:.4g}' for value in rows[-1])}", flush=True)
        by_case[words] = rows
    return by_case


PARTS = ("speed", "profile", "agents", "curves")
PROFILED = (
    case(SWITCHER.name, 2048, 256, 2048),
    case(SWITCHER.name, 16_384, 64, 65_536),
    case(SCALPER, 16_384, 64, 65_536),
)


def name_of(device: str) -> str:
    """What computes."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or "cpu"


def main() -> None:
    """Measure what was asked for, and print it as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--part", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--cap-s", type=float, default=8.0, help="of a case of speed (%(default)s)")
    parser.add_argument("--only", default="", help="cases of speed whose line has this text")
    parser.add_argument("--no-plain", action="store_true", help="no case of speed that launches kernels one by one")
    parser.add_argument("--seeds", type=int, default=5, help="of curves")
    parser.add_argument("--against", type=Path, help="the last line of a run of `curves` on another device")
    options = parser.parse_args()
    device, quick = options.device, options.quick
    report: dict[str, Any] = {"bench": "device", "torch": torch.__version__, "device": name_of(device)}
    print(f"{report['device']}, torch {torch.__version__}: {how_computed('float32', device)}", flush=True)
    cases = tuple(case_ for case_ in (TINY if quick else CASES) if options.only in case_.words)
    cases = tuple(case_ for case_ in cases if case_.record or not options.no_plain)
    if "speed" in options.part:
        report["speed"] = speed(device, cases, 1 if quick else options.windows, options.cap_s)
    if "profile" in options.part:
        report["profile"] = profile(device, TINY if quick else PROFILED)
    if "agents" in options.part:
        report["agents"] = agents(device, QUICK_ENVIRONMENTS if quick else AGENT_ENVIRONMENTS, 1 if quick else 20)
    if "curves" in options.part:
        report["curves"] = curves(device, TINY if quick else LEARNED, 2 if quick else UPDATES, options.seeds)
        if options.against:
            other_curves = json.loads(options.against.read_text().splitlines()[-1])["curves"]
            report["differences"] = differences(report["curves"], other_curves)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
