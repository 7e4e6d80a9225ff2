"""How fast training is, against Stable-Baselines3 on the same machine and the same work: `make bench-train`.

Each figure is measured in a process of its own with one thread (a peer with one and with two, the better counts), in
short windows of which the best and the median are printed. The last line is one JSON object; `--quick` is a smoke run.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import gymnasium
import sb3_contrib
import stable_baselines3
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from daemon.core.limits import Trading
from strategies.registry import strategy
from tests.training.planted_market import BeliefActor, Planted, PlantedMarket, TensorVecEnv, greedy, play, solve
from training.data import Data, load
from training.kernels import use_fast_float32
from training.lstm_policy import CarryingLstm
from training.market import Market
from training.network import FEATURE_VECTOR, FEATURES, IDENTITY, WINDOW, build, parameter_count
from training.ppo import Coefficients, Environment, Step, Trainer, make_deterministic
from training.team import Team, together

DATA = Path(os.environ.get("RLTRADER_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
BARS = DATA / "spy_1min_2024.parquet"
SCORE = 0.9  # of the best policy's net return on the planted market
EVALUATED = 256  # episodes, which no policy was trained on
PROCESSES = 2
PLANTED = Planted()

MLP_MACS = 460 * 256 + 256 * 128 + 128 * 64 + 2 * 64 * 32 + 32 * 6 + 32
LSTM_MACS = 20 * (256 * (23 + 64) + 256 * (64 + 64)) + 2 * 64 * 32 + 32 * 6 + 32
FIRST_LAYER = {"mlp": 460 * 256, "lstm": 20 * 256 * 23}  # whose inputs need no gradient


WORK = Coefficients(schedule="constant", batch=4096)  # 256 environments x 64 steps, batch 4096, 10 epochs
RECURRENT = replace(WORK, rollout_steps=16)
CARRIED = replace(WORK, epochs=4, sequence=32)
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
    """A training towards the score: seconds and steps when it was first reached, None if never; the last score."""

    seconds: float | None
    steps: int | None
    spent_s: float
    last: float


def measured(work: Callable[[], int], windows: int, processes: int = 1) -> Rate:
    """The rate of `work`, which returns its transitions; the first call is not counted."""
    work()
    rates, by_processor = [], []
    for _ in range(windows):
        wall, processor = time.perf_counter(), time.process_time()
        steps = work()
        rates.append(steps / (time.perf_counter() - wall))
        by_processor.append(steps / processes / (time.process_time() - processor))
    return Rate(max(rates), statistics.median(rates), max(by_processor))


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


# What is trained on


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

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
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


# Ours


def ours(
    team: Team, where: str, network: str, c: Coefficients, precision: str, seed: int, steps: int, kernels: bool = True
) -> Trainer:
    """A trainer of this team's share of the environments."""
    make_deterministic()
    if kernels:
        use_fast_float32()
    share = replace(c, environments=c.environments // team.size, batch=c.batch // team.size)
    place = market(where, share.environments, seed * team.size + team.rank, c.discount)
    return Trainer(
        build(network, IDENTITY, seed),
        place,
        share,
        total_steps=steps // team.size,
        seed=seed * team.size + team.rank,
        precision=precision,
        average=team.average if team.size > 1 else None,
    )


def our_speed(
    team: Team, where: str, network: str, c: Coefficients, precision: str, windows: int, kernels: bool = True
) -> Rate:
    """Whole updates, rollout included."""
    trainer = ours(team, where, network, c, precision, 1, 10**9, kernels)
    updates = 1 if network == "lstm" or windows == 1 else 2

    def work() -> int:
        for _ in range(updates):
            trainer.update()
        return updates * c.environments * c.rollout_steps

    return measured(work, windows, team.size)


def our_course(
    team: Team, c: Coefficients, precision: str, seed: int, steps: int, look_steps: int, to_the_end: bool
) -> Course:
    """Train on the planted market until the score, or to the end; evaluations are not timed."""
    trainer = ours(team, "planted", "mlp", c, precision, seed, steps)
    network: Any = trainer.network
    return course(
        partial(_ours_updated, trainer, _updates(c, look_steps), team.size),
        lambda: evaluated(greedy(network.policy)) if team.rank == 0 else 0.0,
        steps,
        team,
        to_the_end,
    )


def _ours_updated(trainer: Trainer, updates: int, processes: int) -> int:
    for _ in range(updates):
        if not trainer.done:
            trainer.update()
    return trainer.steps * processes


def _updates(c: Coefficients, look_steps: int) -> int:
    return max(1, look_steps // (c.environments * c.rollout_steps))


def course(
    work: Callable[[], int],
    score: Callable[[], float],
    steps: int,
    team: Team,
    to_the_end: bool = False,
    cap_s: float = float("inf"),
) -> Course:
    """Work and look, by turns, until the score is reached or `steps` or `cap_s` are spent."""
    spent, done, seconds, at, last = 0.0, 0, None, None, 0.0
    while done < steps and spent < cap_s and (seconds is None or to_the_end):
        start = time.perf_counter()
        done = work()
        spent += time.perf_counter() - start
        last = score()
        if seconds is None and team.decided(int(last >= SCORE)):
            seconds, at = spent, done
    return Course(seconds, at, spent, last)


@cache
def optimum() -> float:
    """The net return of the best policy on the episodes that all are evaluated on."""
    actor = BeliefActor(PLANTED, solve(PLANTED), windowed=False)
    return float(play(PLANTED, actor, episodes=EVALUATED, seed=4242).mean())


def evaluated(actor: Callable[[Tensor], Tensor]) -> float:
    """The share of the optimum that a policy earns on fresh episodes."""
    return float(play(PLANTED, actor, episodes=EVALUATED, seed=4242).mean()) / optimum()


def team_work(team: Team, size: Size, where: str) -> dict[str, Any]:
    """All that is measured with several processes, in one team: they start once."""
    if team.rank:
        torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for precision in ("float32", "bf16"):
        found[f"{precision}"] = our_speed(team, where, "mlp", size.work, precision, size.windows)
        found[f"{precision} planted"] = our_speed(team, "planted", "mlp", size.work, precision, size.windows)
        found[f"{precision} lstm"] = our_speed(team, "planted", "lstm", size.recurrent, precision, size.windows)
        found[f"{precision} course"] = our_course(
            team, size.work, precision, 1, size.score_steps, size.look_steps, to_the_end=False
        )
        gc.collect()
    return found


def lead(size: Size, where: str) -> dict[str, Any]:
    """`team_work` in this process and its others."""
    return together(PROCESSES, partial(team_work, size=size, where=where), team_work, size, where)


# Stable-Baselines3


class SameTrunk(BaseFeaturesExtractor):
    """Scaling and the trunk 460 -> 256 -> 128 -> 64 of our policy."""

    def __init__(self, space: gymnasium.spaces.Box) -> None:
        super().__init__(space, FEATURE_VECTOR)
        policy: Any = build("mlp", IDENTITY, 0).policy
        policy.actor = nn.Identity()
        self.policy = policy

    def forward(self, observations: Tensor) -> Tensor:
        """The feature vector (batch, 64)."""
        found: Tensor = self.policy.features(self.policy.prepare(observations))
        return found


class SameLstm(BaseFeaturesExtractor):
    """Scaling and an LSTM of two layers over the 20 rows, as torch has it: what anyone would write."""

    def __init__(self, space: gymnasium.spaces.Box) -> None:
        super().__init__(space, FEATURE_VECTOR)
        self.scaled = build("mlp", IDENTITY, 0).policy.prepare
        self.lstm = nn.LSTM(FEATURES, FEATURE_VECTOR, 2, batch_first=True)

    def forward(self, observations: Tensor) -> Tensor:
        """The last output (batch, 64)."""
        rows = self.scaled(observations).view(-1, WINDOW, FEATURES)
        found: Tensor = self.lstm(rows)[0][:, -1]
        return found


class SameEncoder(BaseFeaturesExtractor):
    """Linear 64 -> 128 and ReLU, what comes before the carried LSTM."""

    def __init__(self, space: gymnasium.spaces.Box) -> None:
        super().__init__(space, 128)
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU())

    def forward(self, observations: Tensor) -> Tensor:
        """Float32 (batch, 128)."""
        found: Tensor = self.encoder(observations)
        return found


def sb3(where: str, extractor: type[BaseFeaturesExtractor], c: Coefficients, threads: int, seed: int = 1) -> PPO:
    """Stable-Baselines3's PPO with our network and these coefficients, torch as it comes."""
    torch.set_num_threads(threads)
    kwargs = {
        "features_extractor_class": extractor,
        "net_arch": {"pi": [32], "vf": [32]},
        "activation_fn": nn.ReLU,
    }
    place = TensorVecEnv(market(where, c.environments, seed, c.discount), c.environments)
    return PPO("MlpPolicy", place, policy_kwargs=kwargs, seed=seed, device="cpu", **_named(c))


def _named(c: Coefficients) -> dict[str, Any]:
    return {
        "learning_rate": c.learning_rate,
        "n_steps": c.rollout_steps,
        "batch_size": c.batch,
        "n_epochs": c.epochs,
        "gamma": c.discount,
        "ent_coef": c.entropy,
    }


def _learned(model: PPO | RecurrentPPO, updates: int = 1) -> int:
    """Steps done so far, after some more updates."""
    each = model.n_steps * model.n_envs
    model.learn(updates * each, reset_num_timesteps=False)
    return int(model.num_timesteps)


def sb3_speed(where: str, extractor: type[BaseFeaturesExtractor], c: Coefficients, windows: int, threads: int) -> Rate:
    """Whole updates, rollout included."""
    return _speed(sb3(where, extractor, c, threads), windows)


def sb3_lifted(c: Coefficients, windows: int, threads: int) -> Rate:
    """The same with the kernels that ours uses, which nobody gets by installing it."""
    use_fast_float32()
    return sb3_speed("planted", SameTrunk, c, windows, threads)


def recurrent_speed(c: Coefficients, windows: int, threads: int) -> Rate:
    """sb3-contrib's RecurrentPPO at the shape of `regime_switcher`."""
    torch.set_num_threads(threads)
    kwargs = {
        "features_extractor_class": SameEncoder,
        "lstm_hidden_size": 128,
        "shared_lstm": True,
        "enable_critic_lstm": False,
        "net_arch": [],
    }
    place = TensorVecEnv(Noise(c.environments), c.environments, (64,), 16)
    model = RecurrentPPO("MlpLstmPolicy", place, policy_kwargs=kwargs, seed=1, device="cpu", **_named(c))
    return _speed(model, windows)


def _speed(model: PPO | RecurrentPPO, windows: int) -> Rate:
    def work() -> int:
        before = model.num_timesteps
        return _learned(model) - before

    return measured(work, windows)


def sb3_course(c: Coefficients, threads: int, seed: int, steps: int, look_steps: int, cap_s: float) -> Course:
    """Train on the planted market until the score; evaluations are not timed."""
    model = sb3("planted", SameTrunk, c, threads, seed)

    def acting(observations: Tensor) -> Tensor:
        return model.policy.get_distribution(observations).mode()

    return course(
        partial(_learned, model, _updates(c, look_steps)), lambda: evaluated(acting), steps, Team(), cap_s=cap_s
    )


# Limits and levers


def carried_speed(c: Coefficients, precision: str, windows: int) -> Rate:
    """Our trainer with a carried state at the shape of `regime_switcher`."""
    make_deterministic()
    use_fast_float32()
    network = CarryingLstm(64, 128, 16, seed=1)
    trainer = Trainer(network, Noise(c.environments), c, total_steps=10**9, seed=1, precision=precision)

    def work() -> int:
        trainer.update()
        return c.environments * c.rollout_steps

    return measured(work, windows)


def peak_gflops(kernels: bool, rows: int, windows: int) -> float:
    """The most that float32 products reach here, one core, in GFLOP/s."""
    torch.set_num_threads(1)
    if kernels:
        use_fast_float32()
    best = 0.0
    for left, inner, right in ((rows, rows, rows), (4 * rows, 460, 256), (4 * rows, 256, 128)):
        x, y = torch.randn(left, inner), torch.randn(inner, right)
        torch.mm(x, y)
        for _ in range(10 * windows):
            start = time.perf_counter()
            torch.mm(x, y)
            best = max(best, 2e-9 * left * inner * right / (time.perf_counter() - start))
    return best


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
    """Microseconds of processor time: an Adam step, fused and not, and the scaling of one rollout."""
    make_deterministic()
    network = build("mlp", IDENTITY, 1)
    found = {}
    for name, fused in (("adam_us", False), ("adam_fused_us", True)):
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-9, fused=fused)
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        found[name] = _microseconds(optimizer.step, windows)
    rollout = torch.zeros(c.environments * c.rollout_steps, WINDOW, FEATURES)
    found["scaling_of_a_rollout_us"] = _microseconds(partial(network.prepare, rollout), windows)
    return found


def _microseconds(work: Callable[[], object], windows: int) -> float:
    work()
    spent = []
    for _ in range(5 * windows):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return 1e6 * min(spent)


def flops(network: str, epochs: int) -> float:
    """Of a transition: 2 MAC forward in the rollout, 6 MAC an epoch less the first layer's gradient for its input."""
    macs = MLP_MACS if network == "mlp" else LSTM_MACS
    return 2 * macs + epochs * (6 * macs - 2 * FIRST_LAYER[network])


# The table


class Table:
    """Lines as they are measured, and the figures for the last one."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}
        print(f"{'transitions a second':64}{'best':>10}{'median':>10}{'a core-s':>10}", flush=True)

    def rate(self, key: str, words: str, found: Rate) -> float:
        """One line and one figure: the best window's."""
        print(f"{words:64}{found.best:>10,.0f}{found.median:>10,.0f}{found.by_processor:>10,.0f}", flush=True)
        self.figures[key] = round(found.best)
        self.figures.setdefault("noise", {})[key] = round(found.median / found.best, 3)
        self.figures.setdefault("per_core_second", {})[key] = round(found.by_processor)
        return found.best

    def peer(self, key: str, words: str, threads: tuple[int, ...], measure: Callable[..., Rate], *given: Any) -> int:
        """A peer with each number of threads, its last argument; the best counts, and which it was is returned.

        Where its threads wait for each other for more than twice the first one's time, that is all there is to know.
        """
        found: dict[int, Rate] = {}
        start, patience_s = time.perf_counter(), None
        for count in threads:
            rate = apart(measure, *given, count)(patience_s)
            if rate is not None:
                found[count] = rate
            patience_s = patience_s or 2 * (time.perf_counter() - start)
        best = max(found, key=lambda count: found[count].best)
        others = (
            f", {count}: {found[count].best:,.0f}" if count in found else f", {count}: too slow" for count in threads
        )
        self.rate(key, f"{words} (threads{''.join(others)[1:]})", found[best])
        return best

    def figure(self, key: str, words: str, value: Any) -> None:
        """One line of another kind."""
        self.figures[key] = value
        print(f"{words:64}{value if isinstance(value, str) else f'{value:,.4g}':>10}", flush=True)

    def course(self, key: str, words: str, found: Course) -> None:
        """Seconds until the score, or that it was not reached."""
        reached = f"{found.seconds:.1f} s, {found.steps:,} steps" if found.seconds is not None else ""
        print(
            f"{words:64}{reached or f'not reached in {found.spent_s:.0f} s (score {found.last:.2f})':>30}", flush=True
        )
        self.figures[key] = None if found.seconds is None else round(found.seconds, 2)
        self.figures.setdefault("courses", {})[key] = asdict(found)


def alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of `work` in a process of its own."""
    return apart(work, *arguments)()


def against_sb3(table: Table, size: Size, where: str) -> int:
    """Speed with the feed-forward network and with the LSTM; the best number of threads where it is set as ours."""
    single = replace(WORK, environments=1, rollout_steps=size.single_steps, batch=64)
    eight = replace(single, environments=8, rollout_steps=size.single_steps // 8)
    name = "sb3_matched_planted_steps_per_s"
    threads = table.peer(name, "SB3 as ours", size.threads, sb3_speed, "planted", SameTrunk, size.work, size.windows)
    for key, words, place, extractor, c in (
        ("sb3_matched_option_steps_per_s", f"SB3 as ours, {where} market", where, SameTrunk, size.work),
        ("sb3_default_steps_per_s", "SB3 defaults", "planted", SameTrunk, single),
        ("sb3_8env_steps_per_s", "SB3, 8 environments", "planted", SameTrunk, eight),
        ("sb3_lstm_default_steps_per_s", "SB3 defaults, LSTM", "planted", SameLstm, single),
        ("sb3_lstm_steps_per_s", "SB3 as ours, LSTM", "planted", SameLstm, size.recurrent),
    ):
        table.peer(key, words, size.threads, sb3_speed, place, extractor, c, size.windows)
    table.peer(
        "sb3_matched_fast_steps_per_s", "SB3 as ours, our kernels", size.threads, sb3_lifted, size.work, size.windows
    )
    for found in (table.figures, table.figures["per_core_second"]):  # the market on which it did better
        found["sb3_matched_steps_per_s"] = max(found[name], found["sb3_matched_option_steps_per_s"])
    return threads


def carried(table: Table, size: Size) -> None:
    """A carried state; ours with one core."""
    for precision in ("float32", "bf16"):
        found = alone(carried_speed, size.carried, precision, size.windows)
        table.rate(f"carried_{precision}_steps_per_s", f"ours, carried LSTM 128, {precision}, 1 process", found)
    figures = table.figures
    figures["carried_steps_per_s"] = figures["carried_float32_steps_per_s"]
    for part in (4, 1):
        c = replace(size.carried, environments=size.carried.environments // part, batch=size.carried.batch // part)
        key, words = f"sb3_recurrent_{c.environments}env_steps_per_s", f"RecurrentPPO, {c.environments} environments"
        table.peer(key, words, size.threads, recurrent_speed, c, size.windows)
        figures["sb3_recurrent_steps_per_s"] = max(figures[key], figures.get("sb3_recurrent_steps_per_s", 0))


def to_the_score(table: Table, size: Size, team: dict[str, Any], threads: int) -> None:
    """Seconds until 90 % of the optimum on the planted market, with the settings as measured and with brisk ones.

    Brisk settings run with some seeds, whose median counts; Stable-Baselines3 with the threads that were best for it.
    """
    seeds, look = range(size.seeds), size.look_steps
    mine, peers = {}, {}
    for name in ("float32", "bf16"):
        runs = [alone(our_course, Team(), size.brisk, name, seed, size.brisk_steps, look, True) for seed in seeds]
        mine[f"{name}_seconds_matched"], mine[f"{name}_seconds_brisk"] = team[f"{name} course"], median(runs)
        last = round(statistics.mean(run.last for run in runs), 4)
        table.figure(f"{name}_score", f"score after {size.brisk_steps:,} brisk steps, {name}, mean", last)
    peers["sb3_seconds_matched"] = alone(sb3_course, size.work, threads, 1, size.score_steps, look, 2 * size.cap_s)
    runs = [alone(sb3_course, size.brisk, threads, seed, size.brisk_steps, look, size.cap_s) for seed in seeds]
    peers["sb3_seconds_brisk"] = median(runs)
    single = replace(WORK, environments=1, rollout_steps=size.single_steps, batch=64)
    peers["sb3_seconds_default"] = alone(sb3_course, single, 1, 1, 10**9, look, size.cap_s)
    for key, found in (mine | peers).items():
        table.course(key, key.replace("_", " "), found)
    table.course("seconds_to_score", "ours, the best", min(mine.values(), key=_when))
    table.course("sb3_seconds_to_score", "Stable-Baselines3, the best", min(peers.values(), key=_when))


def _when(found: Course) -> float:
    return float("inf") if found.seconds is None else found.seconds


def median(found: list[Course]) -> Course:
    """The course whose time is the median (the later of two)."""
    return sorted(found, key=_when)[len(found) // 2]


def one_core(table: Table, size: Size, where: str) -> None:
    """What each lever gives, on the planted market, one process."""
    ways = (("mkl", "float32", False), ("onednn", "float32", True), ("bf16", "bf16", True))
    for name, precision, kernels in ways:
        found = alone(our_speed, Team(), "planted", "mlp", size.work, precision, size.windows, kernels)
        words = f"ours, {precision}, {'fast' if kernels else 'default'} kernels, 1 process"
        table.rate(f"one_process_{name}_steps_per_s", words, found)
    for key, value in alone(small_levers, size.work, size.windows).items():
        table.figure(key, key.replace("_", " "), value)
    for place in dict.fromkeys((where, "planted")):
        found = alone(environment_speed, place, size.work.environments, size.windows)
        table.rate(f"environment_{place}_steps_per_s", f"environments alone, {place} market, 1 process", found)


def limits(table: Table, size: Size) -> None:
    """The cores' peak, and how much of it training uses."""
    for name, kernels in (("default", False), ("float32", True)):
        running = [apart(peak_gflops, kernels, size.product, size.windows) for _ in range(PROCESSES)]
        value = sum(result() for result in running)
        table.figure(f"peak_gflops_{name}", f"GFLOP/s, {name} kernels, {PROCESSES} processes", round(value, 1))
    figures = table.figures
    for share, rate, network, c in (
        ("peak_share", "float32_steps_per_s", "mlp", size.work),
        ("lstm_peak_share", "lstm_steps_per_s", "lstm", size.recurrent),
    ):
        used = flops(network, c.epochs) * figures[rate] * 1e-9 / figures["peak_gflops_float32"]
        table.figure(share, f"share of it in training, {network}", round(used, 3))


def run(size: Size, where: str) -> dict[str, Any]:
    """Everything; the figures."""
    table = Table()
    team = alone(lead, size, where)
    for precision in ("float32", "bf16"):
        for key, words, found in (
            ("", f"{where} market", team[precision]),
            ("_planted", "planted market", team[f"{precision} planted"]),
            ("_lstm", "LSTM", team[f"{precision} lstm"]),
        ):
            table.rate(f"{precision}{key}_steps_per_s", f"ours, {precision}, {PROCESSES} processes, {words}", found)
    table.figures["lstm_steps_per_s"] = table.figures["float32_lstm_steps_per_s"]
    one_core(table, size, where)
    threads = against_sb3(table, size, where)
    carried(table, size)
    to_the_score(table, size, team, threads)
    limits(table, size)
    figures = table.figures
    for key, part, whole in (
        ("times_sb3_default", "float32_steps_per_s", "sb3_default_steps_per_s"),
        ("times_sb3_matched", "float32_steps_per_s", "sb3_matched_steps_per_s"),
        ("bf16_times_sb3_matched", "bf16_steps_per_s", "sb3_matched_steps_per_s"),
        ("lstm_matched_ratio", "lstm_steps_per_s", "sb3_lstm_steps_per_s"),
        ("carried_ratio", "carried_steps_per_s", "sb3_recurrent_steps_per_s"),
    ):
        table.figure(key, key.replace("_", " "), round(figures[part] / figures[whole], 2))
    each = figures["per_core_second"]  # what the other programs of a busy machine disturb less
    ratio = round(each["float32_planted_steps_per_s"] / each["sb3_matched_steps_per_s"], 2)
    table.figure("times_sb3_matched_per_core_second", "times sb3 matched, per core-second", ratio)
    return figures


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Print the table and the JSON line; the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run: figures mean nothing")
    size = QUICK if parser.parse_args(arguments).quick else Size()
    torch.set_num_threads(1)
    where = "option" if BARS.exists() and size is not QUICK else "planted"
    if where == "option":
        data()
    optimum()
    torch.optim.Adam([nn.Parameter(torch.zeros(1))]).step()  # torch imports much at the first one: once, before copies
    start = time.perf_counter()
    figures = {
        "benchmark": "train",
        "quick": size is QUICK,
        "market": where,
        "parameters": parameter_count(build("mlp", IDENTITY, 0)),
        "lstm_parameters": parameter_count(build("lstm", IDENTITY, 0)),
        "cores": len(os.sched_getaffinity(0)),
        "processes": PROCESSES,
        "threads_per_process": 1,
        "score": SCORE,
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "stable_baselines3": stable_baselines3.__version__,
            "sb3_contrib": sb3_contrib.__version__,
        },
        **run(size, where),
    }
    figures["took_s"] = round(time.perf_counter() - start, 1)
    print(json.dumps(figures), flush=True)
    return figures


if __name__ == "__main__":
    main()
