"""From a bars file to a version in the model store: fold, train every trial, choose, test, compare, report, export.

Test sessions choose nothing: a fold's policy is the mean of its seeds, or one seed chosen by validation, and every
opening of test sessions is recorded in the store's ledger. Invariant: the same file, settings and number of processes
give the same weights byte for byte on one machine's CPU, also after a stop and a resume.
"""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from strategies.golden import check_golden
from strategies.registry import own
from strategies.registry import strategy as registered
from training.desks.kind import POLICY, FoldComparison
from training.desks.registry import kind
from training.desks.trial import RLLIB, TRIALS, News, Request, Stage
from training.evidence.dead import dead_trial, with_weight
from training.evidence.wording import counted
from training.export.shelf import check_shelf
from training.export.weights import Weights
from training.rl.kernels import how_computed
from training.rl.pool import Flag, ProcessPool, stop_on_signals, work_through
from training.rl.ray_cluster import LOCAL, connected
from training.rl.ray_pool import ClusterPool
from training.runs.folder import RUNS, code_version, folder_lock, machine, open_run
from training.runs.ledger import Ledger, ledger_path, settings_digest
from training.runs.prepared import check_device, prepare, prepare_same
from training.runs.progress import ProgressFile
from training.runs.record import Outcome, RunRecord, exported
from training.runs.settings import Settings, bars_notes, choose, headline_of, requests_of
from training.runs.tasks import (
    FoldChoice,
    Player,
    Relay,
    SeedGroup,
    by_fold,
    compare,
    mean_one,
    play_one,
    prior_one,
    refit_one,
    relay_one,
    train_group,
    train_one,
)
from training.sinks.sink import check_sinks
from training.study.progress import PhaseProgress, phase, reading, reported
from training.study.study import OneAccount, PlayResult, Trial

T = TypeVar("T")

Listener = Callable[[News | Stage | Trial | PhaseProgress | str], None]
"""Called with the stages and phases of a run, every update and validation of its trials, and finished trials."""


def train_and_export(settings: Settings, listen: Listener, flag: Flag | None = None) -> Outcome:
    """Do the whole run, or resume one of the same settings.

    Raises:
        Stopped: SIGTERM or `flag`; the same call goes on.
        ValueError: the strategy is unknown, or a setting is out of bounds.
        TapeError, CalendarError, HistoryError, RunFolderError, NotFiniteError, ExportError, LedgerError, OSError: the
            text names what was found and what helps.
    """
    with stop_on_signals(flag) as stop:
        run = Run(settings, listen, stop)
        with run.begun():
            if settings.passive:
                return run.passive()
            rule = kind(settings.strategy).rule
            return run.outcome() if rule is None else run.imported(rule(), 0, "a rule, not trained")


class Run:
    """One run in the first process."""

    def __init__(self, settings: Settings, listen: Listener, flag: Flag, also: Mapping[str, Any] | None = None) -> None:
        check_device(settings.device)
        check_sinks(settings.sinks)
        self._settings = settings
        self._told_of = listen
        self._flag = flag
        self._trains = True  # False: the policy comes from elsewhere
        self._cluster: ClusterPool | None = None  # while Ray is connected
        self._progress: ProgressFile | None = None  # while the run's folder is held
        if own(settings.strategy) is not None:
            check_golden(registered(settings.strategy, settings.symbols, settings.model_config))
        version = code_version(settings.strategy)
        with reading(settings.bars, listen):
            prepared = prepare((settings, Path(), version))
        for note in bars_notes(settings, prepared.data):
            listen(note)
        identity = {**settings.identity(prepared.data.info.sha256), **(also or {})}
        digest = settings_digest(identity)
        name = f"{settings.strategy}-{settings.network}-{digest[:8]}"
        folder = settings.run_folder or RUNS / name
        again = ((settings.anywhere(), folder.absolute(), version), prepared.data.info.sha256)
        self._prepare_again = functools.partial(prepare_same, *again)
        self._processes = ProcessPool(operator.call, self._prepare_again, settings.processes)
        self._prepared = replace(prepared, folder=folder)
        ledger = ledger_path(settings.out, settings.strategy)
        check_shelf(ledger.parent)
        self._ledger = Ledger(ledger)
        self._record = RunRecord(self._prepared, identity, digest, name, self._ledger)
        self._record.check_claim()

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Hold the run's folder."""
        folder = self._prepared.folder
        with folder_lock(folder):
            made_with = {"code": self._prepared.version, **machine(self._settings.device, self._settings.processes)}
            open_run(folder, self._record.identity, made_with, restart=self._settings.restart)
            self._progress = ProgressFile(folder, len(requests_of(self._settings)), self._settings.trained_steps)
            with contextlib.closing(self._processes), contextlib.ExitStack() as stack:
                where = self._settings.ray or (LOCAL if self._settings.engine == RLLIB else "")
                if where:
                    ray = stack.enter_context(connected(where, self._settings.processes))
                    self._cluster = ClusterPool(ray, self._settings.device, operator.call, self._prepare_again)
                yield

    def outcome(self) -> Outcome:
        """Run everything from the first trial to the version in the store."""
        p, requests = self._prepared, requests_of(self._settings)
        steps = self._settings.trained_steps
        self._listen(f"{counted(len(requests), 'trial')} of {steps:,} steps; run folder {p.folder}")
        if self._settings.engine != RLLIB:
            self._listen(how_computed(self._settings.precision, self._settings.device))
        if p.warm:
            self._listen(f"begins at the weights of {self._settings.warm_start}, critics included")
        self._ledger.record(*self._record.openings())
        self._prior()
        trials = self._trained(requests)
        chosen = choose(trials, self._settings, headline_of(trials, self._settings))
        groups = self._groups(requests, trials, chosen)
        weights = [[p.trial_folder(request).weights() for request in group.requests] for group in groups]
        policies = [p.mean_policy(group.requests, seeds) for group, seeds in zip(groups, weights, strict=True)]
        means: Sequence[Trial] = ()
        if self._settings.averages:
            self._listen(f"testing the mean of {len(self._settings.seeds)} seeds, without dead ones")
            means = self._through(mean_one, groups)
        weights_kept: tuple[Weights, ...] = () if "warm_start" in p.kind.procedure.lacks() else tuple(weights[-1])
        refit, weights_kept = self._refit(groups[-1]) if self._settings.refit else (None, weights_kept)
        return self._told(trials, chosen, policies, means, refit, weights_kept)

    def _groups(self, requests: Sequence[Request], trials: Sequence[Trial], chosen: Sequence[int]) -> list[SeedGroup]:
        """The trials of each fold's policy: the chosen one, or all living seeds of its reward."""
        groups = []
        for index in chosen:
            fold, reward = requests[index].fold, requests[index].reward
            seeds = [i for i, request in enumerate(requests) if (request.fold, request.reward) == (fold, reward)]
            living = with_weight([bool(dead_trial(trials[i])) for i in seeds])
            places = [seeds[place] for place in living] if self._settings.averages else [index]
            groups.append(SeedGroup(tuple(requests[i] for i in places), tuple(trials[i] for i in places)))
        return groups

    def _refit(self, group: SeedGroup) -> tuple[nn.Module, tuple[Weights, ...]]:
        """The last fold's policy and weights, trained again on all sessions for as many steps as its checkpoints."""
        again = [
            replace(request, steps=trial.chosen_steps, patience=0, refit=True)
            for request, trial in zip(group.requests, group.trials, strict=True)
        ]
        self._listen(f"training once more on all sessions, {sum(request.steps for request in again):,} steps")
        self._through(refit_one, again)
        weights = tuple(self._prepared.trial_folder(request).weights() for request in again)
        return self._prepared.mean_policy(again, weights), weights

    def imported(self, policy: nn.Module, steps: int, origin: str = "trained elsewhere") -> Outcome:
        """As `outcome`, for a policy trained elsewhere: it is the only trial, and nothing is chosen."""
        self._trains = False
        self._ledger.record(*self._record.openings())
        return self._told((self._as_made(0, policy, steps, origin),), (0,), [policy])

    def passive(self) -> Outcome:
        """As `outcome`, for the strategy's untrained passive policy, on the tests of all folds."""
        p, self._trains = self._prepared, False
        passives = [p.passive(self._settings.network, fold.train) for fold in p.folds]
        policies = [policy for policy in passives if policy is not None]
        if len(policies) < len(p.folds):
            raise ValueError(
                f"--passive is not for {self._settings.strategy}: it has no passive policy that is made without a "
                "trained one: leave it out"
            )
        self._ledger.record(*self._record.openings())
        self._listen(f"nothing is trained; run folder {p.folder}")
        trials = [self._as_made(index, policy, 0, "not trained") for index, policy in enumerate(policies)]
        return self._told(trials, range(len(trials)), policies)

    def _as_made(self, index: int, policy: nn.Module, steps: int, origin: str) -> Trial:
        """A fold's only trial, of a policy that is not trained here."""
        p, reward = self._prepared, self._settings.rewards[0]
        fold, span = p.folds[index], p.passive_span if self._settings.passive else p.span
        with reported(f"fold {index + 1}", self._listen), phase("test sessions"):
            return Trial(
                fold=index,
                seed=0,
                reward=reward,
                steps=steps,
                seconds=0.0,
                chosen_steps=steps,
                stopped=origin,
                curve=(),
                validate=p.data.evaluator(span(fold.validate, reward), "cpu")(policy),
                test=p.data.test(policy, span(fold.test, reward)),
            )

    def _told(
        self,
        trials: Sequence[Trial],
        chosen: Sequence[int],
        policies: Sequence[nn.Module],
        means: Sequence[Trial] = (),
        refit: nn.Module | None = None,
        weights: tuple[Weights, ...] = (),
    ) -> Outcome:
        """Compare, report, export; `means` are the means of each fold's seeds, where these are the policies.

        `weights` are those of the networks of what is exported, for a warm start from it.
        """
        self._ledger.record(*(self._record.line(trial) for trial in (*trials, *means)))
        self._listen("comparing the chosen policies with the baselines, through the dry run")
        tested = means or [trials[index] for index in chosen]
        account, compared = self._compared(tested, policies)
        one_account = self._one_account(tested, policies)
        with reported("", self._listen):
            with phase("figures for the report"):
                extra = self._record.for_report(policies)
                study = self._record.study(
                    trials, chosen, compared, means=means, account=account, extra=extra, one_account=one_account
                )
            outcome = exported(self._record, study, policies[-1], refit, weights)
        if self._progress is not None:
            self._progress.ended(outcome.version.name)
        return outcome

    def _compared(
        self, tested: Sequence[Trial], policies: Sequence[nn.Module]
    ) -> tuple[tuple[PlayResult, ...], Sequence[FoldComparison]]:
        """The policies' results on the account of all tests, if there is one; baselines and scenarios by fold."""
        p = self._prepared
        names = p.kind.procedure.players
        if not names:
            network = self._settings.network if self._trains else ""
            picked = zip(tested, policies, strict=True)
            return (), self._through(
                compare,
                [
                    FoldChoice(choice.fold, choice.seed, choice.reward, network, policy, choice.test)
                    for choice, policy in picked
                ],
            )
        self._listen(Stage("players", len(names), unit="players"))
        tasks = [Player(name, tuple(policies), tested[-1].seed) for name in names]
        results = dict(zip(names, self._through(play_one, tasks), strict=True))
        account = results[POLICY].folds if p.kind.compounds else ()  # otherwise each session has its own account
        return account, by_fold(results, tuple(p.kind.baselines))

    def _one_account(self, tested: Sequence[Trial], policies: Sequence[nn.Module]) -> OneAccount | None:
        """The policies on one account through all tests; None where the figures are of one account anyway."""
        p = self._prepared
        if p.kind.compounds and (p.kind.procedure.players or len(p.folds) == 1):
            return None
        return self._through(relay_one, [Relay(tuple(policies), tested[-1].reward)])[0]

    def _listen(self, news: News | Stage | Trial | PhaseProgress | str) -> None:
        """Pass news on. A finished trial has seen the test sessions, so it is recorded in the ledger."""
        if isinstance(news, Trial):
            self._ledger.record(self._record.line(news))
        if self._progress is not None:
            self._progress(news)
        self._told_of(news)

    def _prior(self) -> None:
        """Do the tasks before the trials, stage by stage."""
        p, requests = self._prepared, requests_of(self._settings)
        stages = p.kind.procedure.stages(p.settings.plan)
        for stage, tasks in stages.items():
            self._listen(Stage(stage, len(tasks)))
            self._through(prior_one, tasks)
        for words in p.kind.procedure.concerns(requests[0], p.settings.plan, p.done):
            self._listen(words)
        if stages:
            self._listen(Stage(TRIALS, len(requests), self._settings.trained_steps))

    def _trained(self, requests: list[Request]) -> tuple[Trial, ...]:
        if self._cluster is not None and self._settings.engine == RLLIB:  # RLlib's runners share each trial
            self._cluster.release()
            return tuple(self._here(train_one, requests))
        processes = self._settings.processes
        if len(requests) > 1 or not self._prepared.kind.procedure.shared(self._settings.plan, processes):
            return tuple(self._through(train_one, requests))
        return tuple(self._through(train_group, requests, processes))

    def _through(self, work: Callable[..., T], tasks: Sequence[Any], cores: int = 1) -> list[T]:
        """Do these tasks, `cores` cores each: through Ray, in processes, or in this process if there is only one."""
        if self._cluster is not None:
            return self._cluster.work_through(work, tasks, cores=cores, flag=self._flag, emit=self._listen)
        if self._settings.processes == 1 or len(tasks) == 1:
            return self._here(work, tasks)
        try:
            return self._processes.work_through(work, tasks, flag=self._flag, emit=self._listen)
        finally:
            if self._settings.device != "cpu":  # frees the GPU memory of idle processes
                self._processes.close()

    def _here(self, work: Callable[..., T], tasks: Sequence[Any]) -> list[T]:
        """Do these tasks in this process, one after the other."""
        return work_through(
            work,
            tasks,
            prepare=lambda prepared: prepared,
            argument=self._prepared,
            processes=1,
            flag=self._flag,
            emit=self._listen,
        )
