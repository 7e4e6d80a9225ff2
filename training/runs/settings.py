"""The settings of a run, the folds and trials that follow from them, and which trials are chosen. Pure.

Invariant: two runs with the same `identity` give the same weights (CPU).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from training.desks.kind import TaskData, TrainingKind
from training.desks.registry import kind
from training.desks.trial import OWN, Request
from training.rl.coefficients import Coefficients
from training.rl.dimensions import value_of, with_values
from training.rl.presets import Plan
from training.study.folds import by_years, expanding, single
from training.study.study import Fold, Trial

PROCESSES = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run is asked for. All but `out`, `run_folder`, `processes` of many trials, `ray` and the checkpoints'
    interval decides what comes out, and so belongs to the run's identity."""

    strategy: str
    bars: Path
    out: Path
    steps: int = 2_000_000  # of each trial
    seeds: tuple[int, ...] = (1,)
    rewards: tuple[str, ...] = ("potential",)  # variants: the first is the headline's, the others are the ablation
    network: str = "mlp"
    precision: str = "float32"
    device: str = "cpu"
    feed: str = "sip"  # whose bars the file holds; it goes into the manifest
    folds: int = 1  # 1: the strategy's own years, or 60/20/20
    train_sessions: int | None = None  # of the first fold
    validate_sessions: int = 10
    test_sessions: int = 20
    patience: int = 0
    coefficients: Coefficients = field(default_factory=Coefficients)
    plan: Plan | None = None  # of a strategy with a procedure of its own, which nothing asks for coefficients
    more_bars: tuple[Path, ...] = ()  # further files, for an open universe
    symbols: tuple[str, ...] = ()  # the universe, where it is open; none: the strategy's own
    processes: int = PROCESSES
    engine: str = OWN  # what a SAC is trained by
    ray: str = ""  # "local", "auto", a cluster's address; "" is this machine's processes without Ray
    checkpoint_s: float = 300.0
    run_folder: Path | None = None
    restart: bool = False

    @property
    def preset(self) -> str | None:
        """The preset that has these coefficients; None when they are no preset's. A plan may have searched values."""
        known, plan = kind(self.strategy), self.plan
        for name, preset in known.presets.items():
            own = preset.plan
            if own is not None and plan is not None and known.procedure is not None:
                searched = [dimension.name for dimension in known.procedure.searched(own)]
                own = with_values(own, {each: value_of(plan, each) for each in (*searched, "members")})
            if (preset.coefficients, own) == (self.coefficients, plan):
                return name
        return None

    def anywhere(self) -> Settings:
        """The same for a process in another folder or on another machine: files by their whole paths."""
        more = tuple(path.absolute() for path in self.more_bars)
        return replace(self, bars=self.bars.absolute(), more_bars=more, out=self.out.absolute())

    def identity(self, bars_sha256: str) -> dict[str, Any]:
        """What decides the result, as JSON."""
        kept = asdict(self)
        for name in ("out", "checkpoint_s", "run_folder", "restart", "processes", "ray"):
            del kept[name]
        if self.plan is None:
            del kept["plan"]
        else:
            del kept["coefficients"]
            kept["plan"] = msgspec.to_builtins(self.plan)
        for name in ("more_bars", "symbols"):
            if not kept[name]:
                del kept[name]
        if self.engine == OWN:
            del kept["engine"]
        kept |= {"more_bars": [path.name for path in self.more_bars]} if self.more_bars else {}
        trials = self.folds * len(self.seeds) * len(self.rewards)
        found = {
            **kept,
            "bars": self.bars.name,
            "bars_sha256": bars_sha256,
            "processes_a_trial": self.processes if trials == 1 or self.engine != OWN else 1,
        }
        normal: dict[str, Any] = json.loads(json.dumps(found))
        return normal

    def command(self) -> str:
        """The command line that repeats the run, with the options that are not the defaults; files by their names."""
        preset, default = self.preset, settings_for(self.strategy, Path(), Path(), preset=self.preset)
        usual = next(iter(kind(self.strategy).presets))
        options = {
            "preset": preset if preset not in {None, usual} else None,
            "steps": self.steps if self.steps != default.steps else None,
            "seed": self.seeds[0] if self.seeds[0] != default.seeds[0] else None,
            "seeds": len(self.seeds) if len(self.seeds) > 1 else None,
            "reward": self.rewards[0] if self.rewards[0] != default.rewards[0] else None,
            "ablation": "" if len(self.rewards) > 1 else None,
            "coefficients": "coefficients.json" if preset is None or self._tuned(default.plan) else None,
            "members": self.plan.members if self.plan is not None and self.plan.members > 1 else None,
            "symbols": ",".join(self.symbols) or None,
        }
        for name in (
            "network", "precision", "device", "engine", "feed", "folds", "train_sessions", "validate_sessions",
            "test_sessions", "patience",
        ):  # fmt: skip
            value = getattr(self, name)
            options[name] = value if value != getattr(default, name) else None
        if len(self.seeds) * len(self.rewards) * self.folds == 1 and self.processes != PROCESSES:
            options["processes"] = self.processes
        given = " ".join(
            f"--{name.replace('_', '-')} {value}".rstrip() for name, value in options.items() if value is not None
        )
        what = f"--strategy {self.strategy} --bars {self.bars.name} --models-dir onnx_models"
        return f"train-and-export {what} {given}".rstrip()

    def _tuned(self, usual: Plan | None) -> bool:
        """Whether a plan has other values than its preset's."""
        return self.plan is not None and usual is not None and replace(usual, members=self.plan.members) != self.plan


def settings_for(strategy: str, bars: Path, out: Path, *, preset: str | None = None) -> Settings:
    """What the strategy is trained with where nothing else is asked for; `preset` None takes its first one.

    Raises:
        ValueError: the strategy or the preset is unknown.
    """
    known = kind(strategy)
    chosen = known.preset(preset or next(iter(known.presets)))
    return Settings(
        strategy, bars, out, steps=chosen.steps, rewards=known.variants[:1], network=known.networks[0],
        coefficients=chosen.coefficients, plan=chosen.plan, folds=_folds_of_plan(known, chosen.plan),
    )  # fmt: skip


def _folds_of_plan(known: TrainingKind, plan: Plan | None) -> int:
    """How many folds a run has that is not asked for another number."""
    return known.procedure.count(plan) if known.procedure is not None and plan is not None else 1


def folds_of(settings: Settings, data: TaskData) -> tuple[Fold, ...]:
    """The folds that were asked for. Raises HistoryError when the sessions do not suffice."""
    dates = tuple(data.days)
    known = kind(settings.strategy)
    if known.procedure is not None and settings.plan is not None:
        return known.procedure.folds(dates, settings.plan)
    if settings.folds == 1 and settings.train_sessions is None:
        own = by_years(dates, known.split) if known.split is not None else None
        return (own,) if own is not None else single(dates, known.before)
    return expanding(
        dates,
        settings.folds,
        train=settings.train_sessions,
        validate=settings.validate_sessions,
        test=settings.test_sessions,
    )


def split_note(settings: Settings, data: TaskData) -> str:
    """A line for a file that does not hold the years of the strategy's description; "" where it does."""
    split = kind(settings.strategy).split
    fixed = settings.folds == 1 and settings.train_sessions is None and split is not None
    if not fixed or split is None or by_years(tuple(data.days), split) is not None:
        return ""
    dates = tuple(data.days)
    return (
        f"{settings.bars.name} can be decided on from {dates[0]} to {dates[-1]}, which does not cover the strategy's "
        f"years ({split}): its sessions are split 60/20/20"
    )


def requests_of(settings: Settings) -> list[Request]:
    """Every trial of the run: folds, rewards, seeds."""
    return [
        Request(
            fold, seed, reward, settings.network, settings.steps, settings.precision, settings.device,
            settings.patience, settings.coefficients, settings.plan, settings.engine, settings.processes,
        )
        for fold in range(settings.folds)
        for reward in settings.rewards
        for seed in settings.seeds
    ]  # fmt: skip


def choose(trials: Sequence[Trial], settings: Settings) -> tuple[int, ...]:
    """For each fold the trial of the first reward with the best net validation return, the lowest seed on a tie."""
    return tuple(
        max(
            (i for i, trial in enumerate(trials) if trial.fold == fold and trial.reward == settings.rewards[0]),
            key=lambda index: (trials[index].validated_usd, -trials[index].seed),
        )
        for fold in range(settings.folds)
    )
