"""The interface of a trainable strategy: `TrainingKind`, its `Procedure`, and `TaskData`, which that makes of bars.

The pipeline (settings, trials, runs, export) knows these alone, and no strategy. `training.desks.registry` is the one
place that knows them all. Most strategies are trained by one procedure, `training.desks.ppo.Ppo`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from daemon.core.limits import Trading
from strategies.kit.contract import Float32Array
from strategies.kit.manifest import Training
from training.data.quotes.source import QuoteSource
from training.desks.trial import Control, Listener, Request, Trained
from training.evidence.claims import StrategyClaims
from training.export.reference import Input, Watched
from training.rl.dimensions import Plan
from training.rl.presets import AS_THE_DESK, PASSIVE, Practice, Preset
from training.rl.process_group import ProcessGroup
from training.rl.protocols import CarryingNetwork, Network
from training.sinks.sink import MetricsFile
from training.study.folds import Cut, Walk, YearSplit
from training.study.study import Fold, OneAccount, PlayResult, SessionFigures, SessionResult, SizeFigures


class Info(Protocol):
    """The facts of a bars file."""

    @property
    def sha256(self) -> str:
        """SHA-256 of its bytes, 64 hexadecimal digits."""

    @property
    def synthetic(self) -> str:
        """The label of made-up bars, empty for recorded ones."""

    @property
    def remark(self) -> str:
        """What of the file counts for nothing, where that is much and known."""


class FlatLearner(Network, Protocol):
    """A network whose `policy`, raw observations to answers, is exported."""

    @property
    def policy(self) -> nn.Module: ...


class CarryingLearner(CarryingNetwork, Protocol):
    """A network whose `policy`, raw observations and states to answers and the next states, is exported."""

    @property
    def policy(self) -> nn.Module: ...


Learner = FlatLearner | CarryingLearner
Evaluator = Callable[[nn.Module], tuple[SessionResult, ...]]
"""Plays the sessions of one span with a policy as it is now, on the live path; returns each session's result."""


@dataclass(frozen=True, slots=True)
class Span:
    """The sessions that a player plays, ascending and of `TaskData.days`, and by which rules."""

    dates: Sequence[str]
    variant: str
    trading: Trading
    burn_in: int = 0  # sessions before the first that a memory goes through, with an account of its own


@dataclass(frozen=True, slots=True)
class EnvSettings:
    """Environments that are stepped together. `discount` is PPO's, for rewards with a potential."""

    count: int
    seed: int
    discount: float
    device: str
    practice: Practice = AS_THE_DESK
    each: bool = False  # a reward of each action: for a network that judges each (`training.rl.protocols.Network`)


@dataclass(frozen=True, slots=True)
class Compared:
    """What one fold's chosen policy is compared with, all on the fold's test sessions."""

    baselines: dict[str, PlayResult]
    random_pnl_usd: tuple[float, ...]  # totals of random traders
    scenarios: dict[str, PlayResult]  # the policy once more, under other conditions


@dataclass(frozen=True, slots=True)
class Played:
    """What one player did on the account that goes through all tests, fold by fold."""

    folds: tuple[PlayResult, ...]  # none where it cannot play, such as a fund without a file
    random_pnl_usd: tuple[tuple[float, ...], ...] = ()  # of random traders alone: of each fold, what each one earned


class TaskData(Protocol):
    """A bars file made ready for one strategy: what every procedure needs. Dates are those of New York sessions."""

    @property
    def info(self) -> Info:
        """The file."""

    @property
    def days(self) -> Collection[str]:
        """The sessions that can be decided on, ascending."""

    def evaluator(self, span: Span, device: str) -> Evaluator:
        """Where a policy is looked at on validation sessions, on the tensor market."""

    def figures(self, results: Sequence[SessionResult]) -> SessionFigures:
        """The figures of a player's sessions; `net_return` is what models are chosen by."""

    def test(self, policy: nn.Module, span: Span) -> PlayResult:
        """What a policy does on these sessions through the dry run."""

    def relay(self, policies: Sequence[nn.Module], spans: Sequence[Span], /) -> OneAccount:
        """What policies do on one account through spans that follow one another, each in its own, by the dry run.

        Nobody resumes the desk after a halt. Not asked where the players of the procedure have one account already.
        """

    def at_sizes(self, policy: nn.Module, span: Span, /) -> tuple[SizeFigures, ...]:
        """What a policy comes to in these sessions on accounts of several sizes, by the dry run.

        () where each session has an account of its own.
        """

    def probes(self, fold: Fold, count: int, seed: int) -> Float32Array:
        """Up to `count` raw observations of the fold's sessions to check an export with, float32 (n, *shape)."""

    def watch(self, policy: nn.Module, span: Span, /) -> Watched:
        """What a policy sees and answers on these sessions, in the order of time, on the CPU."""


@runtime_checkable
class PlaysTogether(Protocol):
    """Data whose desks play many rules in one pass, with the results that each would have by itself."""

    def alike_but_for_rules(self, spans: Sequence[Span], /) -> bool:
        """Whether `relay_each` can play these spans, which differ in their rules alone."""

    def relay_each(
        self, policy: nn.Module, spans: Sequence[Span], check_stop: Callable[[], None], /
    ) -> Sequence[PlayResult]:
        """What `TaskData.relay` gives for each of the spans, by one policy. Calls `check_stop`, which may raise."""


class Keeper(Protocol):
    """The files of one piece of work: what is kept belongs to these settings and this code."""

    @property
    def path(self) -> Path:
        """The folder of its files."""

    def save(self, checkpoint: Mapping[str, Any], /) -> None:
        """Replace the checkpoint: tensors and plain values only."""

    def checkpoint(self) -> dict[str, Any] | None:
        """The checkpoint to go on from; None without one."""

    def metrics(self, keep: int, /) -> MetricsFile:
        """The metrics file, open for appending after its first `keep` lines."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What a strategy is trained on, apart from the first bars file; a universe where it is open."""

    files: tuple[Path, ...] = ()  # further ones, of the same adjustment
    symbols: tuple[str, ...] = ()  # the universe; none: the strategy's own
    quotes: QuoteSource | None = None


SYNTHETIC = "Black-Scholes prices"  # the scenario of a policy that was tested on recorded option quotes
POLICY = "policy"  # the chosen ones, among the players


D = TypeVar("D")
P = TypeVar("P", bound=Plan)
Done = Callable[[str], Mapping[str, Any]]
"""The checkpoint that a task before the trials ended with, by the task's name."""


OWN_FOLDS = {
    **dict.fromkeys(
        ("folds", "train_sessions", "validate_sessions", "test_sessions", "purge_sessions", "reference_years"),
        "its procedure has its own folds",
    ),
    "ensemble": "its procedure joins what it trains",
    "refit": "its procedure trains for each fold",
    "warm_start": "its procedure has its own beginning",
}
"""What a procedure lacks (`Procedure.lacks`) that knows its folds, and where a trial begins."""


class Never:
    """The control of work that nobody stops and that needs no checkpoint."""

    def stop(self) -> bool:
        """Never."""
        return False

    def checkpoint_due(self) -> bool:
        """Never."""
        return False


@dataclass(frozen=True, slots=True)
class Task(Generic[D, P]):
    """One task of a run, as a process does it: what is asked for, of which data, and where its files go."""

    request: Request
    plan: P
    data: D
    trading: Trading
    keeper: Keeper
    done: Done
    begin: Callable[[Any], None] | None = None  # what is done to a network as it is drawn
    control: Control = field(default_factory=Never)
    listen: Listener = lambda _: None
    group: ProcessGroup = field(default_factory=ProcessGroup)  # that shares one trial


class Start(NamedTuple):
    """The policy that a trial began as, and how far its actions explored."""

    policy: nn.Module
    deviations: Tensor | None  # (actions,), or one for all; None for a policy that answers with logits or values


class Procedure(ABC, Generic[D, P]):
    """How a strategy is trained: what a run asks, of data `D` by a plan `P`, in this order.

    `Task.control` is asked after every piece of work: on a stop, save and raise `Stopped`. The same call goes on, and
    ends in the same bytes.
    """

    def lacks(self) -> Mapping[str, str]:
        """The options of the command line that it does not have, by their names (`_` for `-`), each with the reason."""
        return {}

    @property
    def practised(self) -> Sequence[str]:
        """The fields of `Practice` that can be asked for."""
        return ()

    @property
    def arms(self) -> Mapping[str, Arm]:
        """Settings worth comparing with a run as it is asked for, by name."""
        return {}

    @property
    def starts(self) -> int:
        """How many accounts look at a validation span, the later ones each a part of it later."""
        return 1

    @property
    def split(self) -> YearSplit | None:
        """The years of the strategy's reference, which `--reference-years` asks for."""
        return None

    @abstractmethod
    def load(self, path: Path, trading: Trading, sources: Sources, plan: P, /) -> D:
        """The bars made ready, a `TaskData`."""

    @abstractmethod
    def folds(self, dates: Sequence[str], plan: P, cut: Cut, /) -> tuple[Fold, ...]:
        """The folds of a run. Raises HistoryError when the sessions do not suffice."""

    @abstractmethod
    def search_folds(self, dates: Sequence[str], plan: P, folds: Sequence[Fold], count: int, /) -> tuple[Fold, ...]:
        """`count` folds without a test, all before the first test session of `folds`. Raises HistoryError."""

    def stages(self, plan: P, /) -> Mapping[str, Sequence[str]]:
        """What all trials need first: the names of the tasks of each stage, in order; those of one run in any order."""
        del plan
        return {}

    def needed(self, plan: P, fold: Fold, /) -> Sequence[str]:
        """The tasks that a trial on such a fold needs first, in order."""
        del plan, fold
        return ()

    def prior(self, name: str, task: Task[D, P], /) -> None:
        """Do the task of this name, or go on with it; its result stays in the checkpoint, and is what `done` gives."""
        raise ValueError(f"there is no task {name!r} for {task.request.name}: nothing comes before the trials")

    def concerns(self, request: Request, plan: P, done: Done, /) -> Sequence[str]:
        """Warnings before the trials, in words; none where all is well."""
        del request, plan, done
        return ()

    def shared(self, plan: P, processes: int, /) -> bool:
        """Whether so many processes train one trial together. Raises ValueError where they cannot have equal parts."""
        del plan, processes
        return False

    @abstractmethod
    def trial(self, task: Task[D, P], fold: Fold, /) -> Trained:
        """Train one trial. On a fold without a test the weights may be empty."""

    def learner(self, data: D, network: str, seed: int, train: Sequence[str], /) -> Learner | None:
        """The network that a trial trains, as it is drawn; None where a policy is made of several."""
        del data, network, seed, train
        return None

    @abstractmethod
    def start(self, task: Task[D, P], fold: Fold, policy: nn.Module, weights: Mapping[str, Any], /) -> Start | None:
        """What a trial began as that ended as this policy with these weights.

        None where the engine that trained it draws the first weights.
        """

    @property
    def players(self) -> Sequence[str]:
        """Names of the players of the account of all tests: `POLICY`, the baselines, the policy's scenarios.

        Nobody where each fold is compared alone, by `compare`.
        """
        return ()

    def play(
        self,
        player: str,
        policies: Sequence[nn.Module],
        data: D,
        spans: Sequence[Span],
        seed: int,
        check_stop: Callable[[], None],
        /,
    ) -> Played:
        """Play one account through the tests of all folds, each with its own chosen policy. May take long.

        Calls `check_stop` now and then; it raises `Stopped`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no players")

    def compare(
        self, policy: nn.Module, played: PlayResult, data: D, span: Span, seed: int, check_stop: Callable[[], None], /
    ) -> Compared:
        """Baselines and scenarios for the policy of one fold, which did `played`. As `play`."""
        raise NotImplementedError(f"{type(self).__name__} compares by its players")

    def for_report(
        self, plan: P, policies: Sequence[nn.Module], data: D, folds: Sequence[Fold], done: Done, /
    ) -> dict[str, Any]:
        """What the stages found, as JSON, for the pages of the report; `policies` are the chosen ones of all folds."""
        del plan, policies, data, folds, done
        return {}

    def figures(self, plan: P, policy: nn.Module, done: Done, /) -> Mapping[str, Any]:
        """What the stages and the last fold's policy found, as JSON, for the manifest."""
        del plan, policy, done
        return {}


@dataclass(frozen=True, slots=True)
class Passive:
    """The policy of a strategy that takes no skill, and how a network plays it: by the biases of its last layer.

    Where no constant answer plays it, a `rule` does, and the biases are only where training begins. A policy of
    several networks makes it `of` a trained one, with the same outputs, and its procedure knows how to begin there.
    """

    words: str  # what it does
    layer: str = ""  # the last one of a learner, by its name
    biases: tuple[float, ...] = ()  # one for all answers, or one for each
    of: Callable[[nn.Module], nn.Module] | None = None
    rule: Callable[[Trading], nn.Module] | None = None  # under a desk's rules
    variant: str = ""  # that it plays by; "": the one of what is trained

    @torch.no_grad()
    def begin(self, network: Any) -> None:
        """Set the biases. The small weights of the last layer stay as they were drawn: training departs from here."""
        network.get_submodule(self.layer).bias.copy_(torch.tensor(self.biases))

    @torch.no_grad()
    def play(self, network: Any) -> None:
        """Set the biases and no weights: the same answer to all that is observed."""
        self.begin(network)
        network.get_submodule(self.layer).weight.zero_()


@dataclass(frozen=True, slots=True)
class Arm:
    """One setting that an ablation compares with a run as it is asked for."""

    why: str
    coefficients: Mapping[str, Any] = field(default_factory=dict)
    practice: Mapping[str, Any] = field(default_factory=dict)
    rules: Mapping[str, str] = field(default_factory=dict)  # of the desk, by dotted keys
    starts: int = 0  # accounts that choose a checkpoint; 0: the strategy's
    burn_in: int = 0  # sessions before a validation span that the memory goes through
    network: str = ""  # in place of the one that is asked for


@dataclass(frozen=True, slots=True)
class TrainingKind:
    """What a strategy brings to training. The first of `networks`, `variants` and `presets` is the default."""

    strategy: str
    networks: tuple[str, ...]
    variants: tuple[str, ...]  # rewards, or sizes of an action: the headline's, and those to compare it with
    presets: Mapping[str, Preset]
    baselines: Mapping[str, str]  # name -> description, in the report's order
    procedure: Procedure[Any, Any]
    policy: Callable[[str, int, Mapping[str, Any]], nn.Module]  # network, seed, weights -> the module that is exported
    inputs: tuple[Input, ...]  # whose distributions live ones are compared with
    unusable: str  # which sessions of a file cannot be decided on, for an error: "those ..."
    walk: Walk  # how its sessions are cut into folds
    compounds: bool = False  # one account through all sessions of a span
    parts: frozenset[str] = frozenset()  # of the baselines: parts of the policy itself, which it need not lead
    rules: Callable[[Span], Mapping[str, str]] = lambda _: {}  # what the daemon must be configured with: see Manifest
    imports: bool = False  # whether a policy that was trained elsewhere can be brought in
    reference: StrategyClaims | None = None  # what others claim for it, for the report
    with_config: Callable[[str], TrainingKind] | None = None  # for the canonical text of another model configuration
    with_symbols: Callable[[tuple[str, ...]], TrainingKind] | None = None  # where it depends on the symbols
    rule: Callable[[], nn.Module] | None = None  # makes a policy that needs no training
    facts: Callable[[Any], Mapping[str, Any]] = lambda _: {}  # of the data, as JSON, for manifest and report
    passive: Passive | None = None  # what is exported where no lead is proven; None: what was learned

    def load(self, path: Path, trading: Trading, sources: Sources | None = None) -> Any:
        """The bars made ready by the first preset, a `TaskData`. Raises what the procedure's `load` raises."""
        usual = next(iter(self.presets.values())).plan
        return self.procedure.load(path, trading, sources or Sources(), usual)

    def refusal(self, options: Collection[str]) -> str:
        """Why one of the given options of the command line is not for the strategy; "" where all are."""
        lacks = self.procedure.lacks()
        option = next((name for name in options if name in lacks), "")
        return f"--{option.replace('_', '-')} is not for {self.strategy}: {lacks[option]}" if option else ""

    def check_trained(self, command: str) -> None:
        """Raise ValueError where the policy is a rule, so that trainings cannot be compared."""
        if self.rule is not None:
            raise ValueError(
                f"{command} is not for {self.strategy}: its policy is a rule, and nothing is trained. sweep compares a "
                "desk's rules; parameters of a rule are searched where its entry has training=kit.RULE, as "
                "new-strategy --template plain writes it"
            )

    def preset(self, name: str) -> Preset:
        """The preset of this name. Raises `ValueError` for an unknown one."""
        return self.presets[_one_of("preset", name, self.strategy, tuple(self.presets))]

    def beginning(self, begins: str) -> Callable[[Any], None] | None:
        """What is done to a network that begins there; None for nothing, or where the procedure does it.

        Raises `ValueError` where no passive policy is named.
        """
        if begins != PASSIVE or (self.passive is not None and self.passive.of is not None):
            return None
        if self.passive is None or not self.passive.layer:
            raise ValueError(f"{self.strategy} names no passive policy to begin at")
        return self.passive.begin

    def check(self, variants: Sequence[str], network: str) -> None:
        """Raises `ValueError` for a variant or a network that the strategy does not have."""
        _one_of("network", network, self.strategy, self.networks)
        for variant in variants:
            _one_of("reward", variant, self.strategy, self.variants)


def on_cpu(policy: nn.Module, device: str) -> nn.Module:
    """The policy on the CPU: itself, or a copy of one that trains elsewhere."""
    return policy if device == "cpu" else copy.deepcopy(policy).cpu()


def _one_of(what: str, name: str, owner: str, names: Sequence[str]) -> str:
    if name not in names:
        raise ValueError(f"the {what} is called {name!r}: expected {', '.join(names)} for {owner}")
    return name


def described(data: TaskData, file: str, feed: str, fold: Fold, source: str) -> Training:
    """What a model of this fold was made from; a fold without a test and validation trained on all sessions.

    `source` is where the bars come from, "" where it is not known.
    """
    spans = (("train", fold.train), ("validate", fold.validate), ("test", fold.test))
    return Training(
        file=file,
        file_sha256=data.info.sha256,
        feed=feed,
        synthetic=bool(data.info.synthetic),
        sessions=sum(len(dates) for _, dates in spans),
        first_session=fold.train[0],
        last_session=next(dates[-1] for _, dates in reversed(spans) if dates),
        splits={name: (dates[0], dates[-1]) for name, dates in spans if dates},
        source=source,
    )
