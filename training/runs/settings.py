"""The settings of a run, its inputs from a desk's configuration, its folds and trials, and the choice of trials.

Pure but for the file of the configuration. Invariant: two runs with the same `identity` give the same weights (CPU).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from daemon.config.load import ConfigError, DeskSettings, load
from daemon.core.limits import Trading
from daemon.core.strategy_rules import rules_digest, trading_for
from daemon.tapes.quotes.calibration_file import read_calibration
from strategies.kit.parameters import words_given
from strategies.registry import entry
from training.data.quotes.source import QuoteSource
from training.desks.registry import kind
from training.desks.trial import OWN, Request
from training.evidence.resampling import interquartile_mean, typical
from training.rl.coefficients import Coefficients
from training.rl.dimensions import Plan, with_values
from training.rl.presets import AS_THE_DESK, RANDOM, Practice
from training.sinks.sink import anywhere
from training.study.folds import Cut, Walk, is_short, trained_from
from training.study.study import Fold, Trial

if TYPE_CHECKING:
    from training.desks.kind import TaskData, TrainingKind


def trading_of(strategy: str, config: Path | None, changes: Mapping[str, object] | None = None) -> Trading:
    """The rules of this strategy under `config` and the environment; None: its defaults. `changes` are by dotted keys.

    Raises:
        ValueError: the configuration cannot be read or is wrong; the text names each key, its value and the cure.
    """
    if config is None and not changes:
        return trading_for(strategy)
    return _settings(strategy, config, changes).trading()


def calibration_of(strategy: str, config: Path | None) -> dict[str, object]:
    """The calibration of the option market from `paths.calibration` of `config`, with the values in use; {} without.

    Raises ValueError as above.
    """
    settings = None if config is None else _settings(strategy, config)
    if settings is None or not settings.paths.calibration:
        return {}
    calibration, paper = read_calibration(Path(settings.paths.calibration)), settings.trading().paper
    values = {key: getattr(paper, key) for key in calibration.fitted.__struct_fields__}
    return {"quotes": calibration.quotes, "roots": calibration.roots, "digest": calibration.digest, **values}


def model_config_of(strategy: str, config: Path | None) -> Path | None:
    """The file that `config` names for the state vector; None where it names none. Raises ValueError as above."""
    model_config = "" if config is None else _settings(strategy, config).desk.model_config
    return Path(model_config) if model_config else None


def parameters_of(strategy: str, config: Path | None) -> tuple[str, ...]:
    """The words of `desk.parameters` in `config`. Raises ValueError as above."""
    return () if config is None else _settings(strategy, config).desk.parameters


def _settings(strategy: str, config: Path | None, changes: Mapping[str, object] | None = None) -> DeskSettings:
    environment: dict[str, str] | None = (
        {} if config is None else None
    )  # {}: the strategy's defaults alone; None: the process's environment
    try:
        return load(config, {"desk.strategy": strategy, **(changes or {})}, environment)
    except ConfigError as error:
        raise ValueError(str(error)) from error


PROCESSES = 2
CPU = "cpu"
IQM, BEST = SELECTS = ("iqm", "best")
SEEDS, NONE = ENSEMBLES = ("seeds", "none")
"""A fold's policy: the mean of its seeds, or the seed that validation chose."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a run. Every field is part of its identity, except those that `identity` removes."""

    strategy: str
    bars: Path
    out: Path
    steps: int = 2_000_000  # of each trial
    seeds: tuple[int, ...] = (1,)
    rewards: tuple[str, ...] = ("potential",)  # variants: the first is the headline's, the others are the ablation
    network: str = "mlp"
    precision: str = "float32"
    device: str = CPU
    feed: str = "sip"  # feed of the file's bars, for the manifest
    folds: int = 1  # number of folds, counted from the end of the walk
    train_sessions: int | None = None  # least training sessions of a fold; None: the strategy's, also in the next three
    validate_sessions: int | None = None
    test_sessions: int | None = None  # for a daily strategy: sessions instead of years
    purge_sessions: int | None = None  # left out between two spans
    reference_years: bool = False  # one fold with the years of the published source instead of the walk
    begins: str = RANDOM
    select: str = IQM  # how settings and seeds are chosen on validation
    ensemble: str = SEEDS
    refit: bool = False  # train the last fold's choice again on all sessions, and export that
    patience: int = 0
    plan: Plan = field(default_factory=Coefficients)
    more_bars: tuple[Path, ...] = ()  # further bars files, where the universe can be chosen
    symbols: tuple[str, ...] = ()  # the universe, where it can be chosen; (): the strategy's own
    model_config: str = ""  # canonical text of the file that describes the state vector; "": the shipped one
    model_config_file: str = ""  # that file's name, for the command that repeats the run
    processes: int = PROCESSES
    engine: str = OWN  # engine that trains SAC
    ray: str = ""  # "local", "auto", a cluster's address; "" is this machine's processes without Ray
    checkpoint_s: float = 300.0
    run_folder: Path | None = None
    restart: bool = False
    config: Path | None = None  # desk configuration: its limits, costs, gates and sizes apply; None: the defaults
    base: str = ""  # the preset that the coefficients change; "": the strategy's first
    practice: Practice = AS_THE_DESK  # how training environments differ from the desk
    quotes: QuoteSource | None = None  # recorded option quotes; None: prices of the option market
    warm_start: str = ""  # version of the store whose weights trials begin at, critics included
    sinks: tuple[str, ...] = ()  # sinks for each trial's figures: see `training.sinks.sink`
    allow_unproven: bool = False  # export the learned policy even without a proven lead over the best baseline
    passive: bool = False  # train nothing: test and export the strategy's passive policy
    claim: str = ""  # the version's claim: a lead, a risk, or "" for the best proven one
    claim_drawdown: float | None = None  # greatest yearly drawdown of a stated risk; None: from the target volatility

    @property
    def kind(self) -> TrainingKind:
        """How the strategy is trained, with this model configuration and these symbols. Raises as `registry.kind`."""
        return kind(self.strategy, self.model_config, self.symbols)

    @property
    def preset(self) -> str | None:
        """The preset with this plan, ignoring members and precision; None if there is none."""
        for name, preset in self.kind.presets.items():
            if (preset.begins, self._usual(preset.plan)) == (self.begins, self.plan):
                return name
        return None

    def _usual(self, plan: Plan) -> Plan:
        """A preset's plan in a run of this precision, with as many members."""
        usual = plan.at(self.precision)
        return usual if usual.members == self.plan.members else with_values(usual, {"members": self.plan.members})

    @property
    def walk(self) -> Walk:
        """How sessions are cut into folds: the strategy's rule with the sizes that were asked for."""
        usual = self.kind.walk
        return Walk(
            train=usual.train if self.train_sessions is None else self.train_sessions,
            validate=usual.validate if self.validate_sessions is None else self.validate_sessions,
            test=usual.test if self.test_sessions is None else self.test_sessions,
            purge=usual.purge if self.purge_sessions is None else self.purge_sessions,
            years=usual.years and self.test_sessions is None,
        )

    @property
    def averages(self) -> bool:
        """Whether each fold ends with the mean of its seeds."""
        return self.ensemble == SEEDS and len(self.seeds) > 1 and "ensemble" not in self.kind.procedure.lacks()

    @property
    def strict(self) -> bool:
        """Whether folds were requested, so that a file too short for them is refused."""
        sizes = (self.train_sessions, self.validate_sessions, self.test_sessions, self.purge_sessions)
        return self.folds > 1 or sizes != (None,) * len(sizes)

    @property
    def cut(self) -> Cut:
        """How the sessions of the file are cut into folds."""
        return Cut(self.walk, self.folds, self.strict, self.reference_years, self.kind.unusable)

    @property
    def given(self) -> list[str]:
        """The given options that not every procedure supports; folds and ensemble have defaults of their own."""
        values = {
            "symbols": self.symbols,
            "option_quotes": self.quotes,
            "warm_start": self.warm_start,
            "reference_years": self.reference_years,
            "refit": self.refit,
            "members": self.plan.members > 1,
            "engine": self.engine != OWN,
            "device": self.device != CPU,
        }
        return [name for name, value in values.items() if value]

    def anywhere(self) -> Settings:
        """The settings for a process in another folder or on another machine: files by absolute paths."""
        more = tuple(path.absolute() for path in self.more_bars)
        config = self.config.absolute() if self.config is not None else None
        sinks = tuple(map(anywhere, self.sinks))
        bars, out = self.bars.absolute(), self.out.absolute()
        quotes = self.quotes
        if quotes is not None:
            closes = None if quotes.closes is None else quotes.closes.absolute()
            quotes = replace(quotes, path=quotes.path.absolute(), closes=closes)
        return replace(self, bars=bars, more_bars=more, out=out, config=config, sinks=sinks, quotes=quotes)

    @property
    def trained_steps(self) -> int:
        """Steps of each trial without an early stop: the requested ones, rounded up to whole rollouts."""
        return self.plan.trained_steps(self.steps)

    def identity(self, bars_sha256: str) -> dict[str, Any]:
        """What decides the result, as JSON."""
        identity = {self.plan.setting if name == "plan" else name: value for name, value in asdict(self).items()}
        identity[self.plan.setting] = msgspec.to_builtins(self.plan)
        for name in (
            "out", "checkpoint_s", "run_folder", "restart", "processes", "ray", "allow_unproven", "config", "ensemble",
            "base", "sinks", "claim", "claim_drawdown",
        ):  # fmt: skip
            del identity[name]
        del identity["model_config_file"], identity["quotes"]
        identity |= {"option_quotes": self.quotes.identity} if self.quotes is not None else {}
        identity |= {"calibration": digested} if (digested := calibration_of(self.strategy, self.config)) else {}
        if self.model_config:
            identity["model_config"] = hashlib.sha256(self.model_config.encode()).hexdigest()
        for name in ("more_bars", "symbols", "model_config", "warm_start", "passive"):
            if not identity[name]:
                del identity[name]
        if self.engine == OWN:
            del identity["engine"]
        del identity["practice"]
        identity |= {"practice": digested} if (digested := self.practice.changes) else {}
        identity |= {"more_bars": [path.name for path in self.more_bars]} if self.more_bars else {}
        for name in ("train_sessions", "validate_sessions", "test_sessions", "purge_sessions"):
            del identity[name]
        trials = self.folds * len(self.seeds) * len(self.rewards)
        digested = {
            **identity,
            "walk": self.walk._asdict(),
            "rules": rules_digest(trading_of(self.strategy, self.config)),
            "bars": self.bars.name,
            "bars_sha256": bars_sha256,
            "processes_a_trial": self.processes if trials == 1 or self.engine != OWN else 1,
        }
        normal: dict[str, Any] = json.loads(json.dumps(digested))
        return normal

    @property
    def parameter_words(self) -> list[str]:
        """The values of declared parameters that differ from the defaults, such as `fast=20`."""
        return words_given(self.model_config) if entry(self.strategy).parameters else []

    def command(self) -> str:
        """The command line that repeats the run, with the options that are not the defaults; files by their names."""
        preset, lacks = self.preset, self.kind.procedure.lacks()
        default = settings_for(self.strategy, Path(), Path(), preset=preset or self.base or None)
        usual = next(iter(kind(self.strategy).presets))
        options = {
            "preset": (preset or self.base) if (preset or self.base) not in {"", usual} else None,
            "steps": self.steps if self.steps != default.steps else None,
            "seed": self.seeds[0] if self.seeds[0] != default.seeds[0] else None,
            "seeds": len(self.seeds) if len(self.seeds) > 1 else None,
            "reward": self.rewards[0] if self.rewards[0] != default.rewards[0] else None,
            "reference_years": "" if self.reference_years else None,
            "config": self.config.name if self.config is not None else None,
            "refit": "" if self.refit else None,
            "warm_start": self.warm_start or None,
            "ablation": "" if len(self.rewards) > 1 else None,
            "allow_unproven": "" if self.allow_unproven else None,
            "passive": "" if self.passive else None,
            "claim": self.claim or None,
            "claim_drawdown": self.claim_drawdown,
            "coefficients": "coefficients.json" if preset is None else None,
            "members": self.plan.members if self.plan.members > 1 else None,
            "model_config": self.model_config_file or None,
            "parameters": ",".join(self.parameter_words) or None,
            "symbols": ",".join(self.symbols) or None,
        }
        if self.quotes is not None:
            options |= {
                "option_quotes": self.quotes.path.name,
                "option_root": self.quotes.root or None,
                "closes": None if self.quotes.closes is None else self.quotes.closes.name,
                "synthetic_share": str(self.quotes.synthetic_share) if self.quotes.synthetic_share else None,
            }
        for name in (
            "select", "ensemble", "network", "precision", "device", "engine", "feed", "folds", "train_sessions",
            "validate_sessions", "test_sessions", "purge_sessions", "patience",
        ):  # fmt: skip
            value = getattr(self, name)
            options[name] = value if value != getattr(default, name) and name not in lacks else None
        if len(self.seeds) * len(self.rewards) * self.folds == 1 and self.processes != PROCESSES:
            options["processes"] = self.processes
        option_texts = " ".join(
            f"--{name.replace('_', '-')} {value}".rstrip() for name, value in options.items() if value is not None
        )
        bars = " ".join(f"--bars {path.name}" for path in (self.bars, *self.more_bars))
        what = f"--strategy {self.strategy} {bars} --models-dir onnx_models"
        practice = " ".join(f"--practice {key}={str(value).lower()}" for key, value in self.practice.changes.items())
        return " ".join(filter(None, (f"train-and-export {what}", option_texts, practice)))


def settings_for(strategy: str, bars: Path, out: Path, *, preset: str | None = None) -> Settings:
    """The default settings of the strategy; `preset` None takes its first one.

    Raises:
        ValueError: the strategy or the preset is unknown.
    """
    training_kind = kind(strategy)
    chosen = training_kind.preset(preset or next(iter(training_kind.presets)))
    return Settings(
        strategy, bars, out, steps=chosen.steps, rewards=training_kind.variants[:1], network=training_kind.networks[0],
        plan=chosen.plan, begins=chosen.begins, folds=chosen.plan.folds,
    )  # fmt: skip


def folds_of(settings: Settings, data: TaskData) -> tuple[Fold, ...]:
    """The folds that were asked for. Raises HistoryError when the sessions do not suffice."""
    folds = settings.kind.procedure.folds(tuple(data.days), settings.plan, settings.cut)
    return trained_from(folds, settings.practice.from_date)


def bars_notes(settings: Settings, data: TaskData) -> tuple[str, ...]:
    """What a person should know of the bars before anything is trained on them."""
    remark = data.info.remark
    return tuple(filter(None, (f"{settings.bars.name}: {remark}" if remark else "", _split_note(settings, data))))


def _split_note(settings: Settings, data: TaskData) -> str:
    """A line on folds without purge (a file too short for the walk, or the source's years); else ""."""
    dates = tuple(data.days)
    if settings.reference_years:
        return f"the years are the reference's ({settings.kind.procedure.split}): nothing is left out between them"
    if settings.strict or not is_short(dates, settings.walk):
        return ""
    return (
        f"{settings.bars.name} can be decided on in {len(dates)} sessions from {dates[0]} to {dates[-1]}, too few to "
        f"{settings.walk}: they are split 60/20/20 instead, and none is left out"
    )


def requests_of(settings: Settings) -> list[Request]:
    """Every trial of the run: folds, rewards, seeds."""
    return [
        Request(
            fold, seed, reward, settings.network, settings.steps, settings.precision, settings.device,
            settings.patience, settings.plan, settings.engine, settings.processes, settings.begins,
            settings.practice,
        )
        for fold in range(settings.folds)
        for reward in settings.rewards
        for seed in settings.seeds
    ]  # fmt: skip


def headline_of(trials: Sequence[Trial], settings: Settings) -> str:
    """The reward, or variant, of the headline: with `iqm` the one with the largest lead on validation, else the first.

    The lead of a trial is over the better of the passive policy and never trading; its interquartile mean over seeds
    and folds decides. The first variant on a tie.
    """
    if settings.select == BEST:
        return settings.rewards[0]

    def middle(reward: str) -> float:
        leads = [trial.validate_lead for trial in trials if trial.reward == reward]
        return interquartile_mean(np.array(leads, dtype=np.float64))

    return max(settings.rewards, key=middle)


def choose(trials: Sequence[Trial], settings: Settings, reward: str) -> tuple[int, ...]:
    """Index of the chosen trial of this reward for each fold, by validation; the lowest seed on a tie.

    With `best` the one with the best result: among many, mostly the luckiest. With `iqm` a typical one: the nearest to
    the interquartile mean of its fold.
    """
    chosen = []
    for fold in range(settings.folds):
        indices = [i for i, trial in enumerate(trials) if trial.fold == fold and trial.reward == reward]
        indices.sort(key=lambda index: trials[index].seed)
        merits = [trials[index].merit for index in indices]
        place = typical(merits) if settings.select == IQM else merits.index(max(merits))
        chosen.append(indices[place])
    return tuple(chosen)
