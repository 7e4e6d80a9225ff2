"""How fast SAC and TD3 are, against Stable-Baselines3 on the same planted task: a part of `make bench-train`.

Two figures: transitions a second with the gradient steps for each transition stated with them, since steps alone can
be bought by learning less; and seconds until 90 % of the best policy's return, which linear-quadratic control gives.
Each is measured in a process of its own. The last line is one JSON object; `--quick` is a smoke run.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from stable_baselines3 import SAC, TD3
from torch import Tensor, nn

from bench.training.train_work import (
    PROCESSES,
    SCORE,
    Course,
    Rate,
    alone,
    course,
    measured,
    median,
    progress,
    seconds_to_score,
    update_rate,
    versions,
)
from tests.support.rl.planted_sizing import MDP, PlantedSizing, SizingVecEnv, share_of_optimum
from training.rl.kernels import fast_precision, use_fast_float32
from training.rl.off_policy.coefficients import OffPolicyCoefficients, shared
from training.rl.off_policy.presets import RECIPES, build
from training.rl.off_policy.trainer import OffPolicyTrainer
from training.rl.ppo import make_deterministic
from training.rl.process_group import ProcessGroup, run_group
from training.rl.protocols import Step

TASK = replace(MDP, inputs=24)
REWARD_SCALE = 10.0  # for both sides
NAMES = ("sac", "td3")


@dataclass(frozen=True, slots=True)
class Peer:
    """Settings of Stable-Baselines3; rates and widths not named here are its own."""

    environments: int = 1
    batch: int = 256
    gradient_steps: int = 1  # for one step of all environments
    learning_rate: float | None = None
    learning_starts: int = 100

    @property
    def words(self) -> str:
        """For the table."""
        ratio = self.gradient_steps / self.environments
        return f"{self.environments} environments, batch {self.batch}, {ratio:.4g} updates a transition"


DEFAULT = Peer()
TUNED = (
    Peer(16, 256, 4, 1e-3, 1024),
    Peer(64, 512, 4, 1e-3, 1024),
    Peer(64, 1024, 4, 1e-3, 1024),
)
"""What was tried for it: the one that reaches the score first counts."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    windows: int = 3
    rounds: int = 4  # of 1,024 transitions, in a window of ours
    seeds: int = 3
    cap_s: float = 90.0  # for a peer to reach the score
    look_default: int = 100  # a peer's steps between two looks, with one environment
    threads: tuple[int, ...] = (1, 2)  # of a tuned peer
    processes: tuple[int, ...] = (1, PROCESSES)  # of ours, one thread each; rates are those of the last
    tuned: int = len(TUNED)  # of them are measured
    recipe: dict[str, Any] | None = None  # what a smoke run changes


QUICK = Size(
    windows=1,
    rounds=1,
    seeds=1,
    cap_s=0.05,
    threads=(1,),
    tuned=1,
    recipe={
        "environments": 32,
        "batch": 32,
        "gradient_steps": 2,
        "per_transitions": 32,
        "round_transitions": 64,
        "learning_starts": 64,
    },
)


def coefficients(name: str, size: Size) -> OffPolicyCoefficients:
    """The recipe `few_large`, with looks after every 1,024 transitions."""
    c = replace(RECIPES["few_large"].of(name), discount=TASK.discount, reward_scale=REWARD_SCALE)
    return replace(c, **({"round_transitions": 1024} if size.recipe is None else size.recipe))


def ours(group: ProcessGroup, name: str, precision: str, seed: int, size: Size) -> OffPolicyTrainer:
    """A trainer of this process's share."""
    make_deterministic()
    use_fast_float32()
    c, own_seed = shared(coefficients(name, size), group.size), seed * group.size + group.rank
    average = group.average if group.size > 1 else None
    agent = build(name, TASK.inputs, c, seed=seed, precision=precision, average=average)
    place = PlantedSizing(TASK, c.environments, own_seed)
    return OffPolicyTrainer(agent, place, c, total_steps=10**9, seed=own_seed)


def our_speed(group: ProcessGroup, name: str, precision: str, size: Size) -> Rate:
    """Steps, replay and gradient steps, after those of the start."""
    trainer = ours(group, name, precision, 1, size)
    while not trainer.gradient_steps:
        trainer.update()
    return update_rate(trainer, size.rounds, size.windows, group.size)


def our_course(group: ProcessGroup, name: str, precision: str, seed: int, size: Size) -> Course:
    """Until the score; evaluations are not timed."""
    trainer = ours(group, name, precision, seed, size)

    def work() -> int:
        trainer.update()
        return trainer.steps * group.size

    score = partial(share_of_optimum, TASK, trainer.agent.actor) if group.rank == 0 else lambda: 0.0
    return course(work, score, 400_000 if size.recipe is None else 1, group)


def group_work(group: ProcessGroup, size: Size) -> dict[str, Any]:
    """All of ours, in processes that start once."""
    if group.rank:
        torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    for name in NAMES:
        for precision in dict.fromkeys(("float32", fast_precision())):
            key = f"{name}_{precision}"
            if group.rank == 0:
                progress(f"ours, {key}, processes: {group.size}")
            figures[f"{key} speed"] = our_speed(group, name, precision, size)
            figures[f"{key} course"] = [our_course(group, name, precision, seed, size) for seed in range(size.seeds)]
    return figures


def lead(size: Size, processes: int) -> dict[str, Any]:
    """`group_work` in this process and its others."""
    return run_group(processes, partial(group_work, size=size), group_work, size)


class Scaled(PlantedSizing):
    """Rewards as ours learns from."""

    def step(self, actions: Tensor) -> Step:
        """The step, its rewards times `REWARD_SCALE`."""
        step = super().step(actions)
        return step._replace(rewards=step.rewards * REWARD_SCALE)


def theirs(name: str, peer: Peer, threads: int, seed: int) -> Any:
    """Stable-Baselines3's SAC or TD3 on the same task."""
    torch.set_num_threads(threads)
    rate = {} if peer.learning_rate is None else {"learning_rate": peer.learning_rate}
    place = SizingVecEnv(Scaled(TASK, peer.environments, seed), peer.environments, TASK.inputs)
    kind: Any = SAC if name == "sac" else TD3
    return kind(
        "MlpPolicy",
        place,
        gamma=TASK.discount,
        batch_size=peer.batch,
        gradient_steps=peer.gradient_steps,
        learning_starts=peer.learning_starts,
        buffer_size=200_000,
        seed=seed,
        device="cpu",
        **rate,
    )


def their_course(name: str, peer: Peer, threads: int, seed: int, size: Size) -> Course:
    """Until the score; evaluations are not timed."""
    model = theirs(name, peer, threads, seed)
    look = max(size.look_default, 4 * peer.environments)

    def work() -> int:
        model.learn(look, reset_num_timesteps=False)
        return int(model.num_timesteps)

    def acting(observed: Tensor) -> Tensor:
        actions: Tensor = model.actor(observed, deterministic=True) if name == "sac" else model.actor(observed)
        return actions

    return course(work, partial(share_of_optimum, TASK, acting), 10**9, ProcessGroup(), cap_s=size.cap_s)


def their_speed(name: str, peer: Peer, threads: int, size: Size) -> Rate:
    """Steps, replay and gradient steps, after those of the start."""
    model = theirs(name, peer, threads, 1)
    model.learn(peer.learning_starts + peer.environments)
    steps = peer.environments * max(1, size.rounds * 25 // peer.gradient_steps)

    def work() -> int:
        steps_before = model.num_timesteps
        model.learn(steps, reset_num_timesteps=False)
        return int(model.num_timesteps - steps_before)

    return measured(work, size.windows, cap_s=size.cap_s)


def show_course(key: str, words: str, result: Course, figures: dict[str, Any]) -> Course:
    """Print one line and add one figure; returns the course."""
    reached = f"{result.seconds:.2f} s, {result.core_s:.2f} core-s, {result.steps:,} steps" if result.seconds else ""
    print(f"{words:84}{reached or f'not reached in {result.spent_s:.1f} s':>40}", flush=True)
    figures[key] = None if result.seconds is None else round(result.seconds, 3)
    figures.setdefault("courses", {})[key] = asdict(result)
    return result


def run(size: Size) -> dict[str, Any]:
    """Everything; the figures."""
    figures: dict[str, Any] = {}
    groups = {processes: alone(lead, size, processes) for processes in size.processes}
    for name in NAMES:
        ratio = coefficients(name, size).update_to_data
        figures[f"{name}_update_to_data"] = round(ratio, 6)
        best: list[Course] = []
        for precision in dict.fromkeys(("float32", fast_precision())):
            key = f"{name}_{precision}"
            words = f"{name}, {precision}, {ratio:.4g} updates a transition"
            rate: Rate = groups[size.processes[-1]][f"{key} speed"]
            print(f"{f'{words}, processes: {size.processes[-1]}':84}{rate.best:>16,.0f} steps/s", flush=True)
            figures[f"{key}_steps_per_s"] = round(rate.best)
            figures[f"{key}_steps_per_core_second"] = round(rate.by_processor)
            for processes, group in groups.items():
                middle, text = median(group[f"{key} course"]), f"{words}, processes: {processes}, to the score"
                best.append(show_course(f"{key}_{processes}processes_seconds", text, middle, figures))
        against(name, min(best, key=seconds_to_score), size, figures)
    return figures


def against(name: str, mine: Course, size: Size, figures: dict[str, Any]) -> None:
    """Stable-Baselines3, and how its seconds compare with the best of ours."""
    progress(f"Stable-Baselines3, {name}")
    rate: Rate = alone(their_speed, name, DEFAULT, 1, size)
    figures[f"sb3_{name}_default_steps_per_s"] = round(rate.best)
    words = f"SB3 {name}, defaults: {DEFAULT.words}"
    print(f"{words:84}{rate.best:>16,.0f} steps/s", flush=True)
    runs = [alone(their_course, name, DEFAULT, 1, seed, size) for seed in range(size.seeds)]
    default = show_course(f"sb3_{name}_default_seconds", f"{words}, to the score", median(runs), figures)
    tuned = []
    for index, peer in enumerate(TUNED[: size.tuned]):
        for threads in size.threads:
            runs = [alone(their_course, name, peer, threads, seed, size) for seed in range(size.seeds)]
            key = f"sb3_{name}_tuned{index}_{threads}threads_seconds"
            tuned.append(show_course(key, f"SB3 {name}, {threads} threads: {peer.words}", median(runs), figures))
    for key, rival in (("default", default), ("tuned", min(tuned, key=seconds_to_score))):
        compared(f"{name}_share_of_sb3_{key}", mine, rival, figures)


def compared(key: str, mine: Course, theirs: Course, figures: dict[str, Any]) -> None:
    """Our seconds as a share of theirs: none where ours never got there, an upper bound where theirs did not."""
    bound = "" if theirs.seconds is not None else "_at_most"
    wall = None if mine.seconds is None else round(mine.seconds / (theirs.seconds or theirs.spent_s), 3)
    core = None if mine.seconds is None else round(mine.core_s / theirs.core_s, 3)
    figures[f"{key}_seconds"], figures[f"{key}_core_seconds"], figures[f"{key}_bound"] = wall, core, bound
    print(f"{f'{key}{bound}, seconds and core-seconds':84}{wall!s:>20}{core!s:>20}", flush=True)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Print the table and the JSON line; the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run: figures mean nothing")
    size = QUICK if parser.parse_args(arguments).quick else Size()
    torch.set_num_threads(1)
    torch.optim.Adam([nn.Parameter(torch.zeros(1))]).step()  # torch imports much at the first one: once, before copies
    print(f"precision for this CPU: {fast_precision()}", flush=True)
    figures = {
        "benchmark": "off_policy",
        "quick": size is QUICK,
        "score": SCORE,
        "processes": PROCESSES,
        "precision": fast_precision(),
        "versions": versions(),
        **run(size),
    }
    print(json.dumps(figures), flush=True)
    return figures


if __name__ == "__main__":
    main()
