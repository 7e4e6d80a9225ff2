"""Every algorithm against Stable-Baselines3 with the same work on both sides: a part of `make bench-train`.

The same market, layers, batch and gradient steps for each transition, one process and one thread each. The sides are
measured in alternation, each time in a process of its own, in transitions for each second of processor time, which
other programs disturb less. The ratio is the median of the pairs'. With `--parts` it says instead where the time of
ours goes, with `--curves` what ours learns on planted markets, for a comparison of two releases: by seed the steps to
90 % of the optimum and the score at the end. The last line is one JSON object; `--quick` is a smoke run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from stable_baselines3 import SAC, TD3
from torch import nn

from bench.training import bench_dqn, bench_off_policy, train_daily, train_ours, train_peers
from bench.training.train_daily import SWITCHING, DailySize
from bench.training.train_work import (
    BARS,
    BRISK,
    TINY,
    WORK,
    Rate,
    alone,
    course,
    data,
    measured,
    optimum,
    progress,
    show,
    update_rate,
    versions,
)
from strategies.daily_rebalancer import SPEC as REBALANCER
from strategies.regime_switcher import SPEC as SWITCHER
from tests.support.planted.flipping import share_of_optimum as share_of_flipping
from tests.support.rl.planted_sizing import PlantedSizing, SizingVecEnv
from tests.support.rl.planted_sizing import share_of_optimum as share_of_sizing
from training.rl import ppo
from training.rl.coefficients import Coefficients
from training.rl.dqn.dqn import Dqn, DqnTrainer
from training.rl.dqn.replay import ChoiceReplay
from training.rl.kernels import fast_precision, use_fast_float32
from training.rl.layers import Adam
from training.rl.off_policy.coefficients import OffPolicyCoefficients
from training.rl.off_policy.learner import Descent
from training.rl.off_policy.presets import build
from training.rl.off_policy.replay import Replay
from training.rl.off_policy.trainer import OffPolicyTrainer, Rounds
from training.rl.ppo import Trainer, make_deterministic
from training.rl.process_group import ProcessGroup

NAMES = ("sac", "td3", "dqn", "option_scalper", "daily_rebalancer", "regime_switcher")


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    pairs: int = 3
    windows: int = 2
    rounds: int = 8  # of 1,024 transitions, in a window of an off-policy learner
    work: Coefficients = WORK  # of PPO on `option_scalper` and `daily_rebalancer`
    switching: Coefficients = SWITCHING
    brisk: Coefficients = BRISK  # of PPO's curve
    curve: int = 40_960  # steps of a curve
    recorded: bool = True  # markets of recorded bars, where they are there


QUICK = Size(1, 1, 1, TINY, TINY, TINY, 1024, recorded=False)


def off_policy(name: str) -> OffPolicyCoefficients:
    """Network and rates of the recipe `few_large`, with the batches and gradient steps of `bench_dqn.matched`."""
    return replace(
        bench_off_policy.coefficients(name, bench_off_policy.Size()),
        schedule="constant",
        environments=64,
        batch=256,
        gradient_steps=4,
        per_transitions=64,
        round_transitions=1024,
        learning_starts=1024,
        capacity=200_000,
    )


def our_trainer(name: str, precision: str, size: Size) -> Trainer | Rounds:
    """Ours, before its first update."""
    make_deterministic()
    use_fast_float32()
    if name == "dqn":
        return bench_dqn.online(bench_dqn.matched(), precision, 1)
    if name == "option_scalper":
        return train_ours.ours(ProcessGroup(), where(size), "mlp", size.work, precision, 1, 10**9)
    if name in {REBALANCER.name, SWITCHER.name}:
        c = size.work if name == REBALANCER.name else size.switching
        return train_daily.trainer(ProcessGroup(), name, c, precision, DailySize(recorded=recorded(size)))
    recipe = off_policy(name)
    agent = build(name, bench_off_policy.TASK.inputs, recipe, seed=1, precision=precision)
    place = PlantedSizing(bench_off_policy.TASK, recipe.environments, 1)
    return OffPolicyTrainer(agent, place, recipe, total_steps=10**9, seed=1)


def our_speed(name: str, precision: str, size: Size) -> Rate:
    """Whole updates, from the first one that learns."""
    trainer = our_trainer(name, precision, size)
    updates = size.rounds if isinstance(trainer, Rounds) else 1
    while not trainer.gradient_steps:
        trainer.update()
    return update_rate(trainer, updates, size.windows)


def their_off_policy(name: str, size: Size) -> Rate:
    """Stable-Baselines3's SAC or TD3 with the same layers and coefficients."""
    torch.set_num_threads(1)
    c, task = off_policy(name), bench_off_policy.TASK
    place = SizingVecEnv(bench_off_policy.Scaled(task, c.environments, 1), c.environments, task.inputs)
    kind: Any = SAC if name == "sac" else TD3
    model = kind(
        "MlpPolicy",
        place,
        policy_kwargs={"net_arch": {"pi": list(c.actor_widths), "qf": list(c.critic_widths)}},
        learning_rate=c.learning_rate,
        gamma=c.discount,
        tau=c.smoothing,
        batch_size=c.batch,
        gradient_steps=c.gradient_steps,
        learning_starts=c.learning_starts,
        buffer_size=c.capacity,
        seed=1,
        device="cpu",
        **({"policy_delay": c.actor_delay} if name == "td3" else {}),
    )
    model.learn(c.learning_starts + c.environments)

    def work() -> int:
        steps_before = model.num_timesteps
        model.learn(size.rounds * c.round_transitions, reset_num_timesteps=False)
        return int(model.num_timesteps - steps_before)

    return measured(work, size.windows)


def their_speed(name: str, size: Size) -> Rate:
    """Stable-Baselines3's; sb3-contrib's for the network with a carried state."""
    of_daily = DailySize(windows=size.windows, cap_s=float("inf"), recorded=recorded(size))
    if name == "dqn":
        return bench_dqn.their_speed(bench_dqn.matched(), bench_dqn.Size(windows=size.windows, rounds=size.rounds))
    if name == "option_scalper":
        return train_peers.sb3_speed(where(size), train_peers.SameTrunk, size.work, size.windows, 1)
    if name == REBALANCER.name:
        return train_daily.stocks_peer(size.work, of_daily, 1)
    if name == SWITCHER.name:
        return train_daily.funds_peer(size.switching, of_daily, 1)
    return their_off_policy(name, size)


def where(size: Size) -> str:
    """The market of `option_scalper`."""
    return "option" if size.recorded and BARS.exists() else "planted"


def recorded(size: Size) -> bool:
    """Whether the daily desks' bars are used."""
    return size.recorded and train_daily.recorded()


def compared(name: str, size: Size) -> dict[str, Any]:
    """Rates of both sides, pair by pair, and the ratios."""
    rates: dict[str, list[float]] = {}
    precisions = tuple(dict.fromkeys(("float32", fast_precision())))
    for turn in range(size.pairs):
        progress(f"{name}, pair {turn + 1} of {size.pairs}")
        for precision in precisions:
            rates.setdefault(precision, []).append(alone(our_speed, name, precision, size).by_processor)
        rates.setdefault("sb3", []).append(alone(their_speed, name, size).by_processor)
    figures: dict[str, Any] = {f"{name}_{side}_steps_per_core_second": round(max(of)) for side, of in rates.items()}
    for precision in precisions:
        ratios = [mine / theirs for mine, theirs in zip(rates[precision], rates["sb3"], strict=True)]
        figures[f"{name}_{precision}_times_sb3"] = round(statistics.median(ratios), 2)
        figures[f"{name}_{precision}_pairs"] = [round(ratio, 2) for ratio in ratios]
    return figures


class Parts:
    """Processor seconds by part; a part does not count what another part within it takes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[str] = ["the rest"]
        self._since = time.process_time()

    def wrap(self, owner: Any, attribute: str, part: str, within: str = "") -> None:
        """Count the calls of a function or method under `part` from now on, but for those by the part `within`."""
        inner = getattr(owner, attribute)

        def timed(*arguments: Any, **keywords: Any) -> Any:
            if self._open[-1] == within:
                return inner(*arguments, **keywords)
            self._turn()
            self._open.append(part)
            try:
                return inner(*arguments, **keywords)
            finally:
                self._turn()
                self._open.pop()

        setattr(owner, attribute, timed)

    def begin(self) -> None:
        """Count from here."""
        self.seconds, self._since = {}, time.process_time()

    def shares(self) -> dict[str, float]:
        """The share of each part, the largest first."""
        self._turn()
        whole = sum(self.seconds.values())
        return {
            part: round(seconds / whole, 3) for part, seconds in sorted(self.seconds.items(), key=lambda of: -of[1])
        }

    def _turn(self) -> None:
        now = time.process_time()
        self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now


PARTS = (
    (Replay, "add", "collect: replay"),
    (Replay, "sample", "minibatch"),
    (ChoiceReplay, "add", "collect: replay"),
    (ChoiceReplay, "sample", "minibatch"),
    (Descent, "take", "Adam"),
    (ppo, "sample", "collect: draw"),
    (ppo, "generalized_advantages", "advantages"),
    (ppo, "minibatch", "minibatch"),
    (ppo, "losses", "forward, loss"),
    (torch.autograd, "backward", "backward"),
    (nn.utils, "clip_grad_norm_", "norm"),
    (Adam, "step", "Adam"),
)
"""What is counted of all trainers, and as which part."""


def parts(name: str, precision: str, size: Size) -> dict[str, float]:
    """Where an update goes: the share of its processor time."""
    trainer, timers = our_trainer(name, precision, size), Parts()
    while not trainer.gradient_steps:
        trainer.update()
    for owner, attribute, part in PARTS:
        timers.wrap(owner, attribute, part)
    for attribute in ("observe", "step"):
        timers.wrap(trainer.environment, attribute, "market")
    if isinstance(trainer, Trainer):
        timers.wrap(trainer.network, "forward", "collect: policy", within="forward, loss")
    else:
        assert isinstance(trainer, DqnTrainer | OffPolicyTrainer)
        learner = trainer.dqn if isinstance(trainer, DqnTrainer) else trainer.agent
        timers.wrap(learner, "values" if isinstance(learner, Dqn) else "act", "collect: policy")
        timers.wrap(learner, "update", "forward, backward")
    timers.begin()
    for _ in range(size.rounds if isinstance(trainer, Rounds) else size.windows):
        trainer.update()
    return timers.shares()


def curve(name: str, seed: int, size: Size) -> tuple[int | None, float]:
    """The steps until the score, and the last score, in float32: the recipe `few_large`; of PPO brisk settings."""
    precision = "float32"
    if name == "option_scalper":
        result = train_ours.our_course(ProcessGroup(), size.brisk, precision, seed, size.curve, 8192, to_the_end=True)
        return result.steps, round(result.last, 4)
    if name == "dqn":
        dqn = bench_dqn.online(bench_dqn.large(), precision, seed)
        score = partial(share_of_flipping, bench_dqn.TASK, dqn.dqn.network.values, 1.0, sessions=64)
        trainer: Rounds = dqn
    else:
        agents = bench_off_policy.ours(ProcessGroup(), name, precision, seed, bench_off_policy.Size())
        score = partial(share_of_sizing, bench_off_policy.TASK, agents.agent.actor, 1024)
        trainer = agents

    def work() -> int:
        for _ in range(4):  # a look takes longer than what is learned between two
            trainer.update()
        return trainer.steps

    result = course(work, score, size.curve, ProcessGroup(), to_the_end=True)
    return result.steps, round(result.last, 4)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Print the figures, the last line as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run: figures mean nothing")
    parser.add_argument("--only", choices=NAMES, action="append", help="one of them alone; by default all")
    parser.add_argument("--parts", action="store_true", help="where the time of ours goes, not the ratios")
    parser.add_argument(
        "--curves", type=int, metavar="SEEDS", help="what ours learns, by so many seeds, not the ratios"
    )
    options = parser.parse_args(arguments)
    size = QUICK if options.quick else Size()
    names = options.only or NAMES
    torch.set_num_threads(1)
    torch.optim.Adam([nn.Parameter(torch.zeros(1))]).step()  # torch imports much at the first one: once, before copies
    if options.curves and "option_scalper" in names:
        optimum()
    if where(size) == "option" and "option_scalper" in names:
        data()
    train_daily.tables(DailySize(recorded=recorded(size)))
    figures: dict[str, Any] = {"benchmark": "matched", "quick": options.quick, "precision": fast_precision()}
    figures["versions"] = versions()
    figures |= {"market": where(size), "daily_market": "recorded" if recorded(size) else "made up"}
    for name in names:
        if options.curves and name not in {REBALANCER.name, SWITCHER.name}:  # whose optimum nobody knows
            runs = [alone(curve, name, seed, size) for seed in range(options.curves)]
            figures[f"{name}_curve_steps"], figures[f"{name}_curve_scores"] = map(list, zip(*runs, strict=True))
        elif options.parts:
            for precision in dict.fromkeys(("float32", fast_precision())):
                figures[f"{name}_{precision}_parts"] = alone(partial(parts, name, precision, size))
        elif not options.curves:
            figures |= compared(name, size)
    return show(figures)


if __name__ == "__main__":
    main()
