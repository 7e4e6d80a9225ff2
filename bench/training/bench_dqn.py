"""How fast DQN and PQN are, against our PPO and Stable-Baselines3's DQN: a part of `make bench-train`.

The cold start is PQN on the planted market: steps a second of whole updates, and seconds to 90 % of the optimum, both
also of PPO. Online learning is DQN against Stable-Baselines3's on the same task: at its defaults, and with the same
batch, environments and gradient steps for each transition on both sides. All ratios are of one run. The last line
is one JSON object; `--quick` is a smoke run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from stable_baselines3 import DQN
from torch import Tensor, nn

from bench.training.train_ours import our_course as ppo_course
from bench.training.train_ours import our_speed as ppo_speed
from bench.training.train_work import (
    BRISK,
    PROCESSES,
    SCORE,
    Course,
    Rate,
    alone,
    course,
    evaluated,
    market,
    measured,
    median,
    progress,
    show,
    update_rate,
    versions,
)
from tests.support.planted.flipping import INPUTS, Flipping, FlippingMarket, share_of_optimum
from tests.support.planted.market import TensorVecEnv
from training.desks.scalper.network import ACTIONS, FEATURES, WINDOW
from training.rl.dqn.coefficients import DqnCoefficients, PqnCoefficients
from training.rl.dqn.dqn import DqnTrainer
from training.rl.dqn.pqn import PqnTrainer
from training.rl.dqn.presets import RECIPES, build, build_pqn
from training.rl.kernels import fast_precision, use_fast_float32
from training.rl.ppo import make_deterministic
from training.rl.process_group import ProcessGroup, run_group
from training.rl.protocols import Environment, Step

TASK = Flipping()
REWARD_SCALE = 5.0  # for both sides
DISCOUNT = 0.95


START = PqnCoefficients(
    discount=BRISK.discount, environments=256, rollout_steps=16, widths=(128, 64), epsilon_share=0.1
)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    passes: int = 3  # over all sides of online learning, so that all of them meet the machine's other work
    windows: int = 3
    rounds: int = 8
    seeds: int = 3
    start_steps: int = 400_000  # of a cold start, at most
    look: int = 8192  # transitions of ours between two looks
    cap_s: float = 90.0  # for a peer to reach the score
    start: PqnCoefficients = START


QUICK = Size(
    passes=1,
    windows=1,
    rounds=1,
    seeds=1,
    start_steps=128,
    look=128,
    cap_s=0.05,
    start=PqnCoefficients(environments=16, rollout_steps=8, batch=64, widths=(16,)),
)


class Flat:
    """The planted market with its windows as rows, whose network needs no scaling."""

    def __init__(self, inner: Environment) -> None:
        self._inner = inner

    def observe(self) -> Tensor:
        """Float32 (n, 460)."""
        return self._inner.observe().flatten(1)

    def step(self, actions: Tensor) -> Step:
        """The market's."""
        return self._inner.step(actions)

    def state_dict(self) -> dict[str, Any]:
        """The market's."""
        return self._inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The market's."""
        self._inner.load_state_dict(state)


def starting(group: ProcessGroup, precision: str, seed: int, steps: int, size: Size) -> PqnTrainer:
    """A cold start of this process's share."""
    make_deterministic()
    use_fast_float32()
    c, own_seed = size.start, seed * group.size + group.rank
    share = replace(c, environments=c.environments // group.size, batch=c.batch // group.size)
    average = group.average if group.size > 1 else None
    pqn = build_pqn(WINDOW * FEATURES, share, actions=ACTIONS, seed=seed, precision=precision, average=average)
    place = Flat(market("planted", share.environments, own_seed, c.discount))
    return PqnTrainer(pqn, place, share, total_steps=steps // group.size, seed=own_seed)


def start_speed(group: ProcessGroup, precision: str, size: Size) -> Rate:
    """Whole updates, rollout included."""
    trainer = starting(group, precision, 1, 10**9, size)
    return update_rate(trainer, size.rounds, size.windows, group.size)


def start_course(group: ProcessGroup, precision: str, seed: int, size: Size) -> Course:
    """Until the score; evaluations are not timed."""
    trainer = starting(group, precision, seed, size.start_steps, size)

    def work() -> int:
        steps_before = trainer.steps
        while not trainer.done and (trainer.steps - steps_before) * group.size < size.look:
            trainer.update()
        return trainer.steps * group.size

    network = trainer.pqn.network
    score = partial(evaluated, lambda observations: network.values(observations.flatten(1)).argmax(dim=1))
    return course(work, score if group.rank == 0 else lambda: 0.0, size.start_steps, group)


def start_work(group: ProcessGroup, size: Size) -> dict[str, Any]:
    """Cold starts and PPO, in processes that start once."""
    if group.rank:
        torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    brisk = BRISK if size is not QUICK else replace(BRISK, environments=16, rollout_steps=8, batch=64)
    for precision in dict.fromkeys(("float32", fast_precision())):
        if group.rank == 0:
            progress(f"the cold start and PPO, {precision}, processes: {group.size}")
        steps, look = size.start_steps, size.look
        figures[f"pqn {precision} speed"] = start_speed(group, precision, size)
        figures[f"ppo {precision} speed"] = ppo_speed(group, "planted", "mlp", brisk, precision, size.windows)
        seeds = range(size.seeds)
        figures[f"pqn {precision} course"] = [start_course(group, precision, seed, size) for seed in seeds]
        figures[f"ppo {precision} course"] = [
            ppo_course(group, brisk, precision, seed, steps, look, False) for seed in seeds
        ]
    return figures


def lead(size: Size) -> dict[str, Any]:
    """`start_work` in this process and its others."""
    return run_group(PROCESSES, partial(start_work, size=size), start_work, size)


class Scaled(FlippingMarket):
    """Rewards as ours learns from."""

    def step(self, actions: Tensor) -> Step:
        """The step, its rewards times `REWARD_SCALE`."""
        step = super().step(actions)
        return step._replace(rewards=step.rewards * REWARD_SCALE)


def matched() -> DqnCoefficients:
    """Few and large updates without what Stable-Baselines3 has not, so that both sides do the same work."""
    return replace(
        RECIPES["textbook"],
        learning_rate=1e-3,
        discount=DISCOUNT,
        environments=64,
        batch=256,
        gradient_steps=4,
        per_transitions=64,
        round_transitions=1024,
        learning_starts=1024,
        capacity=200_000,
        target_every=4,  # once a step of all environments, as theirs follows
        smoothing=0.02,
    )


def large() -> DqnCoefficients:
    """The recipe `few_large` for this task."""
    return replace(RECIPES["few_large"], discount=DISCOUNT, round_transitions=1024, widths=(64, 64))


def online(c: DqnCoefficients, precision: str, seed: int) -> DqnTrainer:
    """Our DQN on the same task, in one process."""
    make_deterministic()
    use_fast_float32()
    dqn = build(INPUTS, c, actions=3, seed=seed, precision=precision)
    return DqnTrainer(dqn, Scaled(TASK, c.environments, seed), c, total_steps=300_000, seed=seed)


def online_speed(c: DqnCoefficients, precision: str, size: Size) -> Rate:
    """Steps, replay and gradient steps, after those of the start."""
    trainer = online(c, precision, 1)
    while not trainer.gradient_steps:
        trainer.update()
    return update_rate(trainer, size.rounds, size.windows, cap_s=size.cap_s)


def online_course(c: DqnCoefficients, precision: str, seed: int, size: Size) -> Course:
    """Until the score; evaluations are not timed."""
    trainer = online(c, precision, seed)

    def work() -> int:
        trainer.update()
        return trainer.steps

    score = partial(share_of_optimum, TASK, trainer.dqn.network.values, 1.0, sessions=64)
    return course(work, score, 300_000, ProcessGroup(), cap_s=size.cap_s)


def theirs(c: DqnCoefficients | None, seed: int) -> Any:
    """Stable-Baselines3's DQN: its defaults, or the work of `c`."""
    rows = 1 if c is None else c.environments
    place = TensorVecEnv(Scaled(TASK, rows, seed), rows, (INPUTS,), 3)
    arguments: dict[str, Any] = {"gamma": DISCOUNT, "seed": seed, "device": "cpu"}
    if c is not None:
        arguments |= {
            "learning_rate": c.learning_rate,
            "batch_size": c.batch,
            "train_freq": c.per_transitions // c.environments,
            "gradient_steps": c.gradient_steps,
            "learning_starts": c.learning_starts,
            "buffer_size": c.capacity,
            "tau": c.smoothing,
            "target_update_interval": c.environments,
        }
    return DQN("MlpPolicy", place, **arguments)


def their_speed(c: DqnCoefficients | None, size: Size) -> Rate:
    """Steps, replay and gradient steps, after those of the start."""
    model = theirs(c, 1)
    model.learn(model.learning_starts + model.n_envs)

    def work() -> int:
        steps_before = model.num_timesteps
        model.learn(size.rounds * (64 if c is None else 1024), reset_num_timesteps=False)
        return int(model.num_timesteps - steps_before)

    return measured(work, size.windows, cap_s=size.cap_s)


def their_course(c: DqnCoefficients | None, seed: int, size: Size) -> Course:
    """Until the score; evaluations are not timed. Its exploration is that of its last phase."""
    model = theirs(c, seed)
    model.exploration_schedule = lambda _: model.exploration_final_eps  # `learn` in parts would restart it

    def work() -> int:
        model.learn(1024, reset_num_timesteps=False)
        return int(model.num_timesteps)

    score = partial(share_of_optimum, TASK, model.q_net, 1.0, sessions=64)
    return course(work, score, 10**9, ProcessGroup(), cap_s=size.cap_s)


def ratio(mine: float | None, theirs: float | None) -> float | None:
    """Mine over the other's, where both are there."""
    return None if mine is None or not theirs else round(mine / theirs, 3)


def run_start(size: Size) -> dict[str, Any]:
    """The cold start against PPO."""
    measured, figures = alone(lead, size), {}
    for precision in dict.fromkeys(("float32", fast_precision())):
        for name in ("pqn", "ppo"):
            rate, middle = measured[f"{name} {precision} speed"], median(measured[f"{name} {precision} course"])
            figures[f"{name}_{precision}_steps_per_s"] = round(rate.best)
            figures[f"{name}_{precision}_steps_per_core_second"] = round(rate.by_processor)
            figures[f"{name}_{precision}_course"] = asdict(middle)
        of_pqn, of_ppo = (figures[f"{name}_{precision}_course"] for name in ("pqn", "ppo"))
        core_s = [None if course["seconds"] is None else course["core_s"] for course in (of_pqn, of_ppo)]
        figures[f"pqn_{precision}_share_of_ppo_core_seconds"] = ratio(*core_s)
    return figures


def run_online(size: Size) -> dict[str, Any]:
    """DQN against Stable-Baselines3's, in one process and one thread each."""
    figures: dict[str, Any] = {}
    sides: dict[str, tuple[Callable[..., Rate], Callable[..., Course], tuple[Any, ...]]] = {
        "sb3_default": (their_speed, their_course, (None,)),
        "sb3_matched": (their_speed, their_course, (matched(),)),
        "matched": (online_speed, online_course, (matched(), "float32")),
        "few_large": (online_speed, online_course, (large(), fast_precision())),
    }
    rates: dict[str, list[Rate]] = {name: [] for name in sides}
    for turn in range(size.passes):
        for name, (speed, _, arguments) in sides.items():
            progress(f"{name}, pass {turn + 1}")
            rates[name].append(alone(speed, *arguments, size))
    for name, (_, towards, arguments) in sides.items():
        progress(f"{name} to the score")
        middle = median([alone(towards, *arguments, seed, size) for seed in range(size.seeds)])
        figures[f"{name}_steps_per_s"] = round(max(rate.best for rate in rates[name]))
        figures[f"{name}_steps_per_core_second"] = round(max(rate.by_processor for rate in rates[name]))
        figures[f"{name}_course"] = asdict(middle)
    for mine, peer in (("matched", "sb3_matched"), ("few_large", "sb3_default")):
        key, courses = "steps_per_core_second", [figures[f"{name}_course"] for name in (mine, peer)]
        figures[f"{mine}_over_{peer}_speed"] = ratio(figures[f"{mine}_{key}"], figures[f"{peer}_{key}"])
        seconds = [None if course["seconds"] is None else course["core_s"] for course in courses]
        figures[f"{mine}_share_of_{peer}_core_seconds"] = ratio(*seconds)
    return figures


PARTS = {"start": run_start, "online": run_online}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Print the figures, the last line as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run: figures mean nothing")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part alone; by default all")
    options = parser.parse_args(arguments)
    size = QUICK if options.quick else Size()
    torch.set_num_threads(1)
    torch.optim.Adam([nn.Parameter(torch.zeros(1))]).step()  # torch imports much at the first one: once, before copies
    figures: dict[str, Any] = {
        "benchmark": "dqn",
        "quick": options.quick,
        "score": SCORE,
        "precision": fast_precision(),
    }
    figures["versions"] = versions()
    figures["processes"] = PROCESSES
    for part in options.only or PARTS:
        figures |= PARTS[part](size)
    return show(figures)


if __name__ == "__main__":
    main()
