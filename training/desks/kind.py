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
from training.evidence.findings import StrategyClaims
from training.export.reference import Input, Watched
from training.rl.dimensions import Plan
from training.rl.presets import AS_THE_DESK, PASSIVE, Practice, Preset
from training.rl.process_group import ProcessGroup
from training.rl.protocols import CarryingNetwork, Network
from training.sinks.sink import MetricsFile
from training.study.folds import Cut, Walk, YearSplit
from training.study.study import Fold, OneAccount, PlayResult, SessionFigures, SessionResult, SizeFigures


class Info(Protocol):
    """Facts about a bars file."""

    @property
    def sha256(self) -> str:
        """SHA-256 of its bytes, 64 hexadecimal digits."""

    @property
    def synthetic(self) -> str:
        """The label of made-up bars, empty for recorded ones."""

    @property
    def remark(self) -> str:
        """What part of the file was ignored, in words, if that is a large part."""


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
"""Plays one span with a policy's present weights, with the live rules of decision; returns each session's result."""


@dataclass(frozen=True, slots=True)
class Span:
    """The sessions to play, ascending and from `TaskData.days`, and the rules to play by."""

    dates: Sequence[str]
    variant: str
    trading: Trading
    burn_in: int = 0  # sessions before the first through which the hidden state passes, on a separate account


@dataclass(frozen=True, slots=True)
class EnvSettings:
    """Settings of environments that are stepped together. `discount` is PPO's, for potential-based rewards."""

    count: int
    seed: int
    discount: float
    device: str
    practice: Practice = AS_THE_DESK
    each: bool = False  # a reward for each action, for a network with `each` (`training.rl.protocols.Network`)


@dataclass(frozen=True, slots=True)
class FoldComparison:
    """The players that one fold's chosen policy is compared with, on the fold's test sessions."""

    baselines: dict[str, PlayResult]
    random_pnl_usd: tuple[float, ...]  # totals of random traders
    scenarios: dict[str, PlayResult]  # the policy under other conditions


@dataclass(frozen=True, slots=True)
class FoldResults:
    """What one player did on the account that goes through all tests, fold by fold."""

    folds: tuple[PlayResult, ...]  # () where it cannot play, such as a fund without a file
    random_pnl_usd: tuple[tuple[float, ...], ...] = ()  # only for random traders: by fold, the profit of each


class TaskData(Protocol):
    """A bars file made ready for one strategy: what every procedure needs. Dates are those of New York sessions."""

    @property
    def info(self) -> Info:
        """The file."""

    @property
    def days(self) -> Collection[str]:
        """The sessions that have a decision, ascending."""

    def evaluator(self, span: Span, device: str) -> Evaluator:
        """A function that plays a policy on validation sessions, on the tensor market."""

    def figures(self, results: Sequence[SessionResult]) -> SessionFigures:
        """The figures of a player's sessions; checkpoints are chosen by `net_return`."""

    def test(self, policy: nn.Module, span: Span) -> PlayResult:
        """Play a policy on these sessions through the dry run."""

    def relay(self, policies: Sequence[nn.Module], spans: Sequence[Span], /) -> OneAccount:
        """Play policies on one account through consecutive spans, each policy in its span, through the dry run.

        A halt is never resumed. Not called where the procedure's players have one account anyway.
        """

    def at_sizes(self, policy: nn.Module, span: Span, /) -> tuple[SizeFigures, ...]:
        """The policy's results on these sessions for accounts of several sizes, through the dry run.

        () where each session has an account of its own.
        """

    def probes(self, fold: Fold, count: int, seed: int) -> Float32Array:
        """Up to `count` raw observations of the fold's sessions to check an export with, float32 (n, *shape)."""

    def watch(self, policy: nn.Module, span: Span, /) -> Watched:
        """A policy's observations and answers on these sessions, in order of time, on the CPU."""


@runtime_checkable
class PlaysTogether(Protocol):
    """Data that can play many sets of rules in one pass, with the results of separate runs."""

    def alike_but_for_rules(self, spans: Sequence[Span], /) -> bool:
        """Whether `relay_each` can play these spans, which differ in their rules alone."""

    def relay_each(
        self, policy: nn.Module, spans: Sequence[Span], check_stop: Callable[[], None], /
    ) -> Sequence[PlayResult]:
        """`TaskData.relay` of one policy for each of the spans. Calls `check_stop`, which may raise."""


class Keeper(Protocol):
    """The files of one task; they are valid for one identity of settings and code."""

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
    """What a strategy is trained on besides the first bars file; the universe where it may be chosen."""

    files: tuple[Path, ...] = ()  # further bars files, adjusted alike
    symbols: tuple[str, ...] = ()  # the universe; none: the strategy's own
    quotes: QuoteSource | None = None


SYNTHETIC = "Black-Scholes prices"  # the scenario of a policy that was tested on recorded option quotes
POLICY = "policy"  # the player that is the chosen policies


D = TypeVar("D")
P = TypeVar("P", bound=Plan)
Done = Callable[[str], Mapping[str, Any]]
"""Task name -> the last checkpoint of a task that came before the trials."""


OWN_FOLDS = {
    **dict.fromkeys(
        ("folds", "train_sessions", "validate_sessions", "test_sessions", "purge_sessions", "reference_years"),
        "its procedure has its own folds",
    ),
    "ensemble": "its procedure joins what it trains",
    "refit": "its procedure trains for each fold",
    "warm_start": "its procedure has its own beginning",
}
"""Entries of `Procedure.lacks` for procedures with fixed folds and with a fixed start of a trial."""


class Never:
    """A `Control` that never stops and never asks for a checkpoint."""

    def stop(self) -> bool:
        """Never."""
        return False

    def checkpoint_due(self) -> bool:
        """Never."""
        return False


@dataclass(frozen=True, slots=True)
class Task(Generic[D, P]):
    """One task of a run, for the process that does it: request, data, and its files."""

    request: Request
    plan: P
    data: D
    trading: Trading
    keeper: Keeper
    done: Done
    begin: Callable[[Any], None] | None = None  # applied to the newly initialised network
    control: Control = field(default_factory=Never)
    listen: Listener = lambda _: None
    group: ProcessGroup = field(default_factory=ProcessGroup)  # the processes that share one trial


class Start(NamedTuple):
    """The policy that a trial began as, and how far its actions explored."""

    policy: nn.Module
    deviations: Tensor | None  # standard deviations, (actions,) or one for all; None for a policy with logits or values


class Procedure(ABC, Generic[D, P]):
    """How a strategy is trained: the calls of a run, in this order, for data `D` and a plan `P`.

    Ask `Task.control` after every piece of work; on a stop save and raise `Stopped`. The same call then resumes and
    ends in the same bytes.
    """

    def lacks(self) -> Mapping[str, str]:
        """The options of the command line that it does not have, by their names (`_` for `-`), each with the reason."""
        return {}

    @property
    def practised(self) -> Sequence[str]:
        """The fields of `Practice` that the procedure supports."""
        return ()

    @property
    def arms(self) -> Mapping[str, Arm]:
        """The settings that an ablation can compare with the run as requested, by name."""
        return {}

    @property
    def starts(self) -> int:
        """How many accounts play a validation span, each beginning later than the one before."""
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
        """Tasks before the trials, names by stage. Stages run in this order, the tasks of one in any order."""
        del plan
        return {}

    def needed(self, plan: P, fold: Fold, /) -> Sequence[str]:
        """The tasks that a trial on such a fold needs first, in order."""
        del plan, fold
        return ()

    def prior(self, name: str, task: Task[D, P], /) -> None:
        """Do or resume the task of this name; its result is its last checkpoint, which `done` returns."""
        raise ValueError(f"there is no task {name!r} for {task.request.name}: nothing comes before the trials")

    def concerns(self, request: Request, plan: P, done: Done, /) -> Sequence[str]:
        """Warnings before the trials, in words; none where all is well."""
        del request, plan, done
        return ()

    def shared(self, plan: P, processes: int, /) -> bool:
        """Whether several processes train one trial together. Raises ValueError if they cannot share it equally."""
        del plan, processes
        return False

    @abstractmethod
    def trial(self, task: Task[D, P], fold: Fold, /) -> Trained:
        """Train one trial. On a fold without a test the weights may be empty."""

    def learner(self, data: D, network: str, seed: int, train: Sequence[str], /) -> Learner | None:
        """The network of a trial, newly initialised; None where a policy is made of several networks."""
        del data, network, seed, train
        return None

    @abstractmethod
    def start(self, task: Task[D, P], fold: Fold, policy: nn.Module, weights: Mapping[str, Any], /) -> Start | None:
        """The initial policy of the trial that ended as this policy with these weights.

        None where another engine drew the initial weights.
        """

    @property
    def players(self) -> Sequence[str]:
        """Names of the players of the account of all tests: `POLICY`, the baselines, the policy's scenarios.

        Empty where folds are compared one by one, by `compare`.
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
    ) -> FoldResults:
        """Play one account through the tests of all folds, each with its own chosen policy. May take long.

        Calls `check_stop` at intervals; it raises `Stopped`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no players")

    def compare(
        self, policy: nn.Module, played: PlayResult, data: D, span: Span, seed: int, check_stop: Callable[[], None], /
    ) -> FoldComparison:
        """Baselines and scenarios for one fold's policy, whose result is `played`. Otherwise as `play`."""
        raise NotImplementedError(f"{type(self).__name__} compares by its players")

    def for_report(
        self, plan: P, policies: Sequence[nn.Module], data: D, folds: Sequence[Fold], done: Done, /
    ) -> dict[str, Any]:
        """Results of the stages, as JSON, for the report's pages; `policies` are the chosen ones of all folds."""
        del plan, policies, data, folds, done
        return {}

    def figures(self, plan: P, policy: nn.Module, done: Done, /) -> Mapping[str, Any]:
        """Results of the stages and facts about the last fold's policy, as JSON, for the manifest."""
        del plan, policy, done
        return {}


@dataclass(frozen=True, slots=True)
class Passive:
    """A strategy's passive policy, which needs no skill, and the last layer's biases that make a network play it.

    Where no constant answer is the passive policy, `rule` makes it, and the biases only set where training begins. For
    a policy of several networks `of` makes it from a trained policy with the same outputs, and the procedure sets where
    training begins.
    """

    words: str  # what it does
    layer: str = ""  # name of a learner's last layer
    biases: tuple[float, ...] = ()  # one bias for all answers, or one for each
    of: Callable[[nn.Module], nn.Module] | None = None
    rule: Callable[[Trading], nn.Module] | None = None  # makes the policy for a desk's rules
    variant: str = ""  # variant that it plays by; "": the trained policy's

    @torch.no_grad()
    def begin(self, network: Any) -> None:
        """Set the biases; the last layer keeps its small initial weights, from which training can depart."""
        network.get_submodule(self.layer).bias.copy_(torch.tensor(self.biases))

    @torch.no_grad()
    def play(self, network: Any) -> None:
        """Set the biases and zero the last layer's weights: one answer to every observation."""
        self.begin(network)
        network.get_submodule(self.layer).weight.zero_()


@dataclass(frozen=True, slots=True)
class Arm:
    """A setting that an ablation compares with the run as requested."""

    why: str
    coefficients: Mapping[str, Any] = field(default_factory=dict)
    practice: Mapping[str, Any] = field(default_factory=dict)
    rules: Mapping[str, str] = field(default_factory=dict)  # of the desk, by dotted keys
    starts: int = 0  # accounts by which a checkpoint is chosen; 0: the strategy's number
    burn_in: int = 0  # sessions before a validation span through which the hidden state passes
    network: str = ""  # instead of the requested network


@dataclass(frozen=True, slots=True)
class TrainingKind:
    """What a strategy brings to training. The first of `networks`, `variants` and `presets` is the default."""

    strategy: str
    networks: tuple[str, ...]
    variants: tuple[str, ...]  # rewards, or units of an action: first the headline's, then those compared with it
    presets: Mapping[str, Preset]
    baselines: Mapping[str, str]  # name -> description, in the report's order
    procedure: Procedure[Any, Any]
    policy: Callable[[str, int, Mapping[str, Any]], nn.Module]  # network, seed, weights -> the module that is exported
    inputs: tuple[Input, ...]  # inputs whose live distribution is compared with training's
    unusable: str  # words for errors: which sessions of a file have no decision, after "those"
    walk: Walk  # how its sessions are cut into folds
    compounds: bool = False  # one account through all sessions of a span
    parts: frozenset[str] = frozenset()  # baselines that are parts of the policy, which it need not lead
    rules: Callable[[Span], Mapping[str, str]] = lambda _: {}  # what the daemon must be configured with: see Manifest
    imports: bool = False  # whether a policy trained elsewhere can be imported
    reference: StrategyClaims | None = None  # claims of the published source, for the report
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
        """The function that moves a new network to that start; None for no change, or where the procedure does it.

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
    """The policy itself if it is on the CPU, else a copy there."""
    return policy if device == "cpu" else copy.deepcopy(policy).cpu()


def _one_of(what: str, name: str, owner: str, names: Sequence[str]) -> str:
    if name not in names:
        raise ValueError(f"the {what} is called {name!r}: expected {', '.join(names)} for {owner}")
    return name


def described(data: TaskData, file: str, feed: str, fold: Fold, source: str) -> Training:
    """The manifest's training data for a model of this fold; without test and validation it trained on all sessions.

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
