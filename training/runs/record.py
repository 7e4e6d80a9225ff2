"""What a run puts on record: lines of the ledger, and the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from torch import nn

from daemon.host.whole_files import write_whole
from daemon.tapes.files import origin_of
from training.desks.kind import Compared, described
from training.runs.folder import machine
from training.runs.ledger import Ledger, Line, utc_now
from training.runs.prepared import UNTRAINED, UNTRAINED_WORDS, Prepared
from training.study.evaluation import SessionResult, as_metrics
from training.study.study import STUDY_FILE, Baseline, Fold, OneAccount, PlayResult, Study, Trial, encode


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run by its name and settings. Every opening of test sessions is a line of the ledger."""

    prepared: Prepared
    identity: Mapping[str, Any]  # the settings that decide the result
    digest: str  # of these
    name: str
    ledger: Ledger

    def openings(self) -> list[Line]:
        """The opening of each fold's test sessions."""
        version = self.prepared.version
        return [self._opening(fold, f"fold {i + 1}, code {version}") for i, fold in enumerate(self.prepared.folds)]

    def line(self, trial: Trial) -> Line:
        """A trial, which has seen its fold's test sessions."""
        fold = self.prepared.folds[trial.fold]
        found = self.prepared.data.figures(trial.test.sessions)
        deviation = found.session_deviation
        who = f"mean of {trial.members} seeds" if trial.members > 1 else f"seed {trial.seed}"
        opened = self._opening(fold, f"fold {trial.fold + 1}, {trial.reward}, {who}")
        return msgspec.structs.replace(
            opened,
            kind="trial",
            sharpe=found.session_return / deviation if deviation > 0.0 else 0.0,
            settings_sha256=self.digest,
        )

    def _opening(self, fold: Fold, note: str) -> Line:
        """The opening of the fold's test sessions."""
        return Line(
            kind="opening",
            utc=utc_now(),
            strategy=self.prepared.settings.strategy,
            data_sha256=self.prepared.data.info.sha256,
            first=fold.test[0],
            last=fold.test[-1],
            study=self.name,
            note=note,
        )

    def study(
        self,
        trials: Sequence[Trial],
        chosen: Sequence[int],
        compared: Sequence[Compared],
        *,
        means: Sequence[Trial],
        account: tuple[PlayResult, ...],
        extra: dict[str, Any],
        one: OneAccount | None = None,
    ) -> Study:
        """All trials, and what the chosen ones were compared with; also written into the run's folder."""
        settings, p = self.prepared.settings, self.prepared
        dates = [date for fold in p.folds for date in fold.test]
        own = [*self.openings(), *(self.line(trial) for trial in (*trials, *means))]
        sharpes, openings = self.ledger.prior(dates, own=own)
        study = Study(
            strategy=settings.strategy,
            network=self.identity["network"],
            reward=trials[chosen[0]].reward,
            capital_usd=float(p.trading.paper.cash_usd),
            compounds=p.kind.compounds,
            code_version=p.version,
            settings={**self.identity, **p.kind.facts(p.data), "command": settings.command()},
            machine=machine(settings.device, settings.processes),
            data=described(
                p.data, settings.bars.name, settings.feed, p.folds[-1], origin_of(settings.bars, *settings.more_bars)
            ),
            folds=p.folds,
            trials=tuple(trials),
            chosen=tuple(chosen),
            baselines=tuple(
                Baseline(name, text, tuple(found.baselines[name] for found in compared))
                for name, text in (*p.kind.baselines.items(), (UNTRAINED, UNTRAINED_WORDS))
                if all(name in found.baselines for found in compared)
            ),
            random_pnl_usd=tuple(found.random_pnl_usd for found in compared),
            prior_sharpes=sharpes,
            prior_openings=openings,
            scenarios={name: tuple(found.scenarios[name] for found in compared) for name in compared[0].scenarios},
            extra=extra,
            ensembles=tuple(means),
            account=account,
            one_account=one,
            refit=refit_words(tuple(p.data.days), p.folds) if settings.refit else "",
        )
        self.write(study)
        return study

    def write(self, study: Study) -> None:
        """Write the study into the run's folder."""
        write_whole(self.prepared.folder / STUDY_FILE, encode(study))

    def for_report(self, policies: Sequence[nn.Module]) -> dict[str, Any]:
        """What the procedure has for the pages of the report."""
        p = self.prepared
        return p.kind.procedure.for_report(p.settings.plan, policies, p.data, p.folds, p.done)

    def found(self, policy: nn.Module) -> Mapping[str, Any]:
        """What the procedure found in its stages, and about the last fold's policy."""
        return self.prepared.kind.procedure.figures(self.prepared.settings.plan, policy, self.prepared.done)

    def metrics(self, results: Sequence[SessionResult]) -> dict[str, Any]:
        """The figures for the manifest; of a basket no win rate, because its trades are orders, which earn nothing."""
        found = as_metrics(self.prepared.data.figures(results))
        return {name: value for name, value in found.items() if name != "win_rate" or not self.prepared.kind.compounds}


def refit_words(dates: Sequence[str], folds: Sequence[Fold]) -> str:
    """What the weights of a refit were trained on, and what was tested in their place."""
    tested = f"{folds[0].test[0]} to {folds[-1].test[-1]}"
    return (
        f"The exported weights were trained once more, by the settings and for the steps of the last fold's choice, on "
        f"all {len(dates)} sessions from {dates[0]} to {dates[-1]}. No session tests these weights: the tests "
        f"({tested}) are of the weights that each fold trained on its own earlier sessions."
    )
