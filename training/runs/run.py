"""From a bars file to a version in the model store: fold, train every trial, choose, test, compare, report, export.

The test sessions choose nothing: within a fold the trial with the best net validation return is taken, and every
opening of the test sessions stands in the store's ledger. Invariant: the same file, settings and number of processes
give the same weights byte for byte on one machine's CPU, stopped and gone on with or not.
"""

from __future__ import annotations

import functools
import hashlib
import math
import operator
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from torch import nn

from daemon.host.whole_files import write_whole
from strategies.kit.contract import configured
from training.desks.kind import POLICY, Compared, Played, described
from training.desks.registry import kind
from training.desks.scalper.network import parameter_count
from training.desks.trial import News, Request, Stage
from training.evidence.findings import Findings
from training.evidence.wording import counted
from training.export.export import Release, export
from training.export.import_sb3 import import_sb3
from training.export.reference import reference_of
from training.report.lines import joined
from training.report.report import files, write_report
from training.rl.pool import Flag, stop_on_signals, work_through
from training.rl.process_group import ProcessGroup, run_group
from training.runs.folder import STUDY_FILE, code_version, held, machine, open_run
from training.runs.ledger import Ledger, Line, ledger_path, settings_digest, utc_now
from training.runs.settings import Settings, requests_of, split_note
from training.runs.tasks import (
    Chosen,
    Player,
    check_device,
    compare,
    play_one,
    prepare,
    prepare_same,
    prior_one,
    run_member,
    train_one,
)
from training.runs.trial import check_shares
from training.study.evaluation import SessionResult, as_metrics
from training.study.study import Baseline, Fold, PlayResult, Study, Trial, encode

T = TypeVar("T")
PROBES = 1000
RUNS = Path("runs")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run made: the version in the store, the run's folder, and the report's findings."""

    version: Path
    run_folder: Path
    findings: Findings


Listener = Callable[[News | Stage | Trial | str], None]
"""Called with the stages of a run, every update and validation of its trials, and finished trials."""


def train_and_export(settings: Settings, listen: Listener, flag: Flag | None = None) -> Outcome:
    """Do all of it, or go on with what a run of the same settings began.

    Raises:
        Stopped: SIGTERM or `flag`; the same call goes on.
        ValueError: the strategy is unknown, or a setting is out of bounds.
        TapeError, CalendarError, HistoryError, RunFolderError, NotFiniteError, ExportError, LedgerError, OSError: the
            text names what was found and what helps.
    """
    stop = flag or threading.Event()
    with stop_on_signals(stop):
        run = _Run(settings, listen, stop)
        with run.begun():
            return run.outcome()


def import_and_export(
    settings: Settings, path: Path, activation: str | None, golden: Path | None, listen: Listener
) -> Outcome:
    """Bring a policy that Stable-Baselines3 trained into the store, tested and reported like one trained here.

    Raises:
        ImportSb3Error: the file cannot be imported; the text gives reason and cure.
        ValueError and others: as `train_and_export`.
    """
    if not kind(settings.strategy).imports:
        raise ValueError(
            f"a policy that was trained elsewhere cannot be brought in for {settings.strategy}: train it here"
        )
    imported = import_sb3(path, settings.strategy, activation=activation, golden=golden)
    also = {
        "imported": path.name,
        "imported_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "stable_baselines3": imported.version,
        "activation": imported.activation,
        "coefficients": imported.hyperparameters,
        "network": f"{imported.activation} {parameter_count(imported.module)} parameters",
    }
    steps = int(imported.hyperparameters.get("num_timesteps") or 0)
    stop = threading.Event()
    with stop_on_signals(stop):
        run = _Run(settings, listen, stop, also)
        with run.begun():
            return run.imported(imported.module, steps)


class _Run:
    """One run in the first process."""

    def __init__(self, settings: Settings, listen: Listener, flag: Flag, also: Mapping[str, Any] | None = None) -> None:
        check_device(settings.device)
        self._settings = settings
        self._told_of = listen
        self._flag = flag
        version = code_version(settings.strategy)
        listen(f"reading {settings.bars.name}")
        prepared = prepare((settings, Path(), version))
        if note := split_note(settings, prepared.data):
            listen(note)
        identity = {**settings.identity(prepared.data.info.sha256), **(also or {})}
        digest = settings_digest(identity)
        self._name = f"{settings.strategy}-{settings.network}-{digest[:8]}"
        folder = settings.run_folder or RUNS / self._name
        self._digest = digest
        again = ((settings, folder, version), prepared.data.info.sha256)
        self._prepare_again = functools.partial(prepare_same, *again)
        self._prepared = replace(prepared, folder=folder)
        self._identity = identity
        self._ledger = Ledger(ledger_path(settings.out, settings.strategy))

    @contextmanager
    def begun(self) -> Iterator[None]:
        """The run's folder is this run's alone while this lasts."""
        folder = self._prepared.folder
        with held(folder):
            made_with = {"code": self._prepared.version, **machine(self._settings.device, self._settings.processes)}
            open_run(folder, self._identity, made_with, restart=self._settings.restart)
            yield

    def outcome(self) -> Outcome:
        """Everything from the first trial to the version in the store."""
        p, requests = self._prepared, requests_of(self._settings)
        self._listen(f"{counted(len(requests), 'trial')} of {self._settings.steps:,} steps; run folder {p.folder}")
        self._ledger.record(*self._openings())
        self._prior()
        trials = self._trained(requests)
        chosen = choose(trials, self._settings)
        policies = [p.policy(requests[i], p.trial_folder(requests[i]).weights()) for i in chosen]
        return self._told(trials, chosen, policies)

    def imported(self, policy: nn.Module, steps: int) -> Outcome:
        """The same for a policy that was trained elsewhere: it is the only trial, and nothing is chosen."""
        p = self._prepared
        self._ledger.record(*self._openings())
        evaluator = p.data.evaluator(p.span(p.folds[0].validate), "cpu")
        trial = Trial(
            fold=0,
            seed=0,
            reward=self._settings.rewards[0],
            steps=steps,
            seconds=0.0,
            chosen_steps=steps,
            stopped="trained elsewhere",
            curve=(),
            validate=evaluator(policy),
            test=p.data.test(policy, p.span(p.folds[0].test)),
        )
        return self._told((trial,), (0,), [policy])

    def _told(self, trials: Sequence[Trial], chosen: Sequence[int], policies: Sequence[nn.Module]) -> Outcome:
        """Compare, report, export."""
        self._ledger.record(*(self._line(trial) for trial in trials))
        self._listen("comparing the chosen policies with the baselines, through the dry run")
        account, compared = self._compared(trials, chosen, policies)
        study = self._study(trials, chosen, compared)
        study = msgspec.structs.replace(study, account=account, extra=self._extra(policies[-1]))
        write_whole(self._prepared.folder / STUDY_FILE, encode(study))
        self._listen("writing the report and exporting")
        return self._exported(study, policies[-1])

    def _compared(
        self, trials: Sequence[Trial], chosen: Sequence[int], policies: Sequence[nn.Module]
    ) -> tuple[tuple[PlayResult, ...], Sequence[Compared]]:
        """What the policies did on the account of all tests, where there is one; baselines and scenarios by fold."""
        p = self._prepared
        if p.kind.procedure is None or p.settings.plan is None:
            picked = zip(chosen, policies, strict=True)
            return (), self._through(
                compare, [Chosen(trials[i].fold, trials[i].seed, policy, trials[i].test) for i, policy in picked]
            )
        names = p.kind.procedure.players(p.settings.plan)
        self._listen(Stage("players", len(names)))
        tasks = [Player(name, tuple(policies), trials[chosen[-1]].seed) for name in names]
        played = dict(zip(names, self._through(play_one, tasks), strict=True))
        return played[POLICY].folds, by_fold(played, tuple(p.kind.baselines))

    def _listen(self, news: News | Stage | Trial | str) -> None:
        """Pass it on; a finished trial has seen the test sessions, so it is on record from then on."""
        if isinstance(news, Trial):
            self._ledger.record(self._line(news))
        self._told_of(news)

    def _prior(self) -> None:
        """What a strategy's own procedure needs before its trials, stage by stage."""
        p = self._prepared
        if p.kind.procedure is None or p.settings.plan is None:
            return
        for stage, tasks in p.kind.procedure.stages(p.settings.plan).items():
            self._listen(Stage(stage, len(tasks)))
            self._through(prior_one, tasks)
        self._listen(Stage("trials", len(requests_of(p.settings)), p.settings.steps))

    def _trained(self, requests: list[Request]) -> tuple[Trial, ...]:
        if len(requests) > 1 or self._settings.plan is not None:
            return tuple(self._through(train_one, requests))

        if self._settings.processes > 1:
            check_shares(self._settings.coefficients, self._settings.processes)

        def first(group: ProcessGroup) -> Trial:
            return train_one(self._prepared, requests[0], self._flag, self._listen, group)

        return (run_group(self._settings.processes, first, run_member, self._prepare_again, requests[0]),)

    def _through(self, work: Callable[..., T], tasks: Sequence[Any]) -> list[T]:
        alone = self._settings.processes == 1 or len(tasks) == 1
        return work_through(
            work,
            tasks,
            prepare=(lambda _: self._prepared) if alone else operator.call,
            argument=self._prepare_again,
            processes=self._settings.processes,
            flag=self._flag,
            emit=self._listen,
        )

    def _openings(self) -> list[Line]:
        version = self._prepared.version
        return [self._opening(fold, f"fold {i + 1}, code {version}") for i, fold in enumerate(self._prepared.folds)]

    def _line(self, trial: Trial) -> Line:
        fold = self._prepared.folds[trial.fold]
        found = self._prepared.data.figures(trial.test.sessions)
        deviation = found.session_deviation
        opened = self._opening(fold, f"fold {trial.fold + 1}, {trial.reward}, seed {trial.seed}")
        return msgspec.structs.replace(
            opened,
            kind="trial",
            sharpe=found.session_return / deviation if deviation > 0.0 else 0.0,
            settings_sha256=self._digest,
        )

    def _opening(self, fold: Fold, note: str) -> Line:
        """The opening of the fold's test sessions."""
        return Line(
            kind="opening",
            utc=utc_now(),
            strategy=self._settings.strategy,
            data_sha256=self._prepared.data.info.sha256,
            first=fold.test[0],
            last=fold.test[-1],
            study=self._name,
            note=note,
        )

    def _study(self, trials: Sequence[Trial], chosen: Sequence[int], compared: Sequence[Compared]) -> Study:
        settings, p = self._settings, self._prepared
        dates = [date for fold in p.folds for date in fold.test]
        own = [*self._openings(), *(self._line(trial) for trial in trials)]
        sharpes, openings = self._ledger.prior(dates, own=own)
        return Study(
            strategy=settings.strategy,
            network=self._identity["network"],
            reward=settings.rewards[0],
            capital_usd=float(p.trading.paper.cash_usd),
            compounds=p.kind.compounds,
            code_version=p.version,
            settings={**self._identity, "command": settings.command()},
            machine=machine(settings.device, settings.processes),
            data=described(p.data, settings.bars.name, settings.feed, p.folds[-1]),
            folds=p.folds,
            trials=tuple(trials),
            chosen=tuple(chosen),
            baselines=tuple(
                Baseline(name, text, tuple(found.baselines[name] for found in compared))
                for name, text in p.kind.baselines.items()
                if all(name in found.baselines for found in compared)
            ),
            random_pnl_usd=tuple(found.random_pnl_usd for found in compared),
            prior_sharpes=sharpes,
            prior_openings=openings,
            scenarios={name: tuple(found.scenarios[name] for found in compared) for name in compared[0].scenarios},
        )

    def _exported(self, study: Study, policy: nn.Module) -> Outcome:
        """The last fold's chosen policy as a version of the store, with the report on all folds next to it."""
        settings, p = self._settings, self._prepared
        findings = write_report(study, p.folder)

        def write_files(folder: Path, digest: str) -> None:
            for name, data in files(study, findings, policy_sha256=digest).items():
                write_whole(folder / name, data)

        trial = study.trials[study.chosen[-1]]
        watched = p.data.watch(policy, p.span(p.folds[-1].train))
        release = Release(
            training=study.data,
            hyperparameters={**study.settings, **study.machine, "seed": trial.seed, "chosen_steps": trial.chosen_steps},
            metrics={
                "test": self._metrics(trial.test.sessions),
                "test_denials": dict(trial.test.denials),
                "validate": self._metrics(trial.validate),
                **({"account": self._metrics(joined(study.account))} if study.account else {}),
                **self._found(study.chosen[-1]),
            },
            report=write_files,
            note=findings.verdict,
            rules=p.kind.rules(p.span(p.folds[-1].test)),
            reference=reference_of(p.kind.inputs, watched, p.machine.spec),
            symbols=configured(p.machine.spec),
        )
        probes = p.data.probes(p.folds[-1], PROBES, trial.seed)
        version = export(policy, p.machine, release, out=settings.out, probes=probes)
        return Outcome(version, p.folder, findings)

    def _extra(self, policy: nn.Module) -> dict[str, Any]:
        """What a procedure of the strategy's own has for the pages of the report."""
        p = self._prepared
        if p.kind.procedure is None or p.settings.plan is None:
            return {}
        return p.kind.procedure.for_report(p.settings.plan, policy, p.data, p.done)

    def _found(self, chosen: int) -> Mapping[str, Any]:
        """What a procedure of the strategy's own has to say of its stages and the chosen trial."""
        p = self._prepared
        if p.kind.procedure is None or p.settings.plan is None:
            return {}
        weights = p.trial_folder(requests_of(p.settings)[chosen]).weights()
        return p.kind.procedure.figures(p.settings.plan, weights, p.done)

    def _metrics(self, results: Sequence[SessionResult]) -> dict[str, Any]:
        """The figures for the manifest; of a basket no win rate, because its trades are orders, which earn nothing."""
        found = as_metrics(self._prepared.data.figures(results))
        return {name: value for name, value in found.items() if name != "win_rate" or not self._prepared.kind.compounds}


def by_fold(played: Mapping[str, Played], baselines: Collection[str]) -> list[Compared]:
    """What all players did, fold by fold; who could not play is left out."""
    found = []
    for fold in range(len(played[POLICY].folds)):
        there = {name: each.folds[fold] for name, each in played.items() if each.folds and name != POLICY}
        draws = [each.random_pnl_usd[fold] for each in played.values() if each.random_pnl_usd]
        found.append(
            Compared(
                {name: result for name, result in there.items() if name in baselines},
                draws[0] if draws else (),
                {name: result for name, result in there.items() if name not in baselines},
            )
        )
    return found


def choose(trials: Sequence[Trial], settings: Settings) -> tuple[int, ...]:
    """For each fold the trial of the first reward with the best net validation return, the lowest seed on a tie."""

    def earned(index: int) -> tuple[float, int]:
        return math.fsum(result.pnl_usd for result in trials[index].validate), -trials[index].seed

    return tuple(
        max(
            (i for i, trial in enumerate(trials) if trial.fold == fold and trial.reward == settings.rewards[0]),
            key=earned,
        )
        for fold in range(settings.folds)
    )
