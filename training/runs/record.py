"""The results of a run: lines of the ledger, the study, and the version in the store with its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from torch import nn

from daemon.core.limits import Protection, Trading
from daemon.core.strategy_rules import DIGEST, desk_keys, rules_digest, with_rules
from daemon.host.whole_files import write_whole
from daemon.library.run_files import STUDY_FILE
from daemon.tapes.bars import origin_of
from strategies.kit.manifest import LEAD, RISK
from strategies.registry import configured
from training.desks.kind import FoldComparison, described
from training.evaluate.players import with_costs
from training.evaluate.sizes import SESSIONS, SIZES_USD
from training.evidence.criteria import COSTS_TWICE, claim_of, lead_is_proven
from training.evidence.dead import dead_trial
from training.evidence.findings import Findings
from training.evidence.risk import DRAWDOWN, RiskStatement
from training.evidence.statistics import chosen_results, joined, trial_matrix
from training.export.export import Release, export
from training.export.reference import reference_of
from training.export.weights import Weights, write_weights
from training.report.find import risk_of
from training.report.report import files, judge_again, write_report
from training.runs.folder import machine
from training.runs.ledger import RISK_CLAIM, Ledger, LedgerLine, utc_now
from training.runs.prepared import UNTRAINED, UNTRAINED_WORDS, Prepared
from training.study.progress import phase
from training.study.study import (
    PASSIVE_WORDS,
    Baseline,
    Fold,
    OneAccount,
    PlayResult,
    RiskRuns,
    SessionResult,
    SizesPlayed,
    Study,
    Trial,
    as_metrics,
    encode,
)

PROBES = 1000
DRAWDOWN_MOST = 0.99  # largest drawdown that can be stated: an account without leverage loses at most everything


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run: the version in the store, the run's folder, and the report's findings."""

    version: Path
    run_folder: Path
    findings: Findings
    passive: bool = False  # True: the version is the strategy's passive policy, not the learned one


def exported(
    record: RunRecord,
    study: Study,
    policy: nn.Module,
    refit: nn.Module | None = None,
    weights: Sequence[Weights] = (),
) -> Outcome:
    """Export the last fold's policy, or `refit`, into the store, with the report on all folds.

    `weights` are those of its networks; they are kept unless the passive policy is exported.
    """
    p = record.prepared
    findings = write_report(study, p.folder)
    instead, words = _unproven(p, study, findings, policy)
    if record.stated is not None:
        risk = record.risk(study, policy, passive=instead is not None)
        study = msgspec.structs.replace(study, risk=risk)
        findings = msgspec.structs.replace(findings, risk=risk_of(risk, study.capital_usd))
    sizes = record.sizes(study, instead or policy, passive=instead is not None)
    study, findings = msgspec.structs.replace(study, sizes=sizes), msgspec.structs.replace(findings, sizes=sizes)
    of_passive = msgspec.structs.replace(findings, passive=True)
    if instead is not None and claim_of(of_passive, p.settings.claim, record.stated) is None:
        words = words.replace(":", ", and claims nothing:", 1)
    study = msgspec.structs.replace(study, exported=words, claim=p.settings.claim)
    record.write(study)
    findings = judge_again(study, findings, p.folder)
    refit = None if instead is not None else refit

    passive_metrics = _of_passive(record, study, instead, policy) if instead is not None else None

    def write_files(folder: Path, digest: str, version: str) -> None:
        figures = None if passive_metrics is None else passive_metrics["test"]
        for name, data in files(study, findings, policy_sha256=digest, exported=figures, version=version).items():
            write_whole(folder / name, data)
        if weights and instead is None:
            write_weights(folder, study.network, weights)

    trial = study.headline[-1]
    learnt = p.folds[-1].train if refit is None else tuple(p.data.days)
    span = p.span if instead is None else p.passive_span
    learned, policy = policy, instead or refit or policy
    with phase("distributions of the training sessions"):
        watched = p.data.watch(policy, span(learnt, study.reward))
    rules = p.kind.rules(span(p.folds[-1].test, study.reward))
    tested = with_rules(p.trading, rules)
    release = Release(
        training=study.data
        if refit is None
        else described(p.data, study.data.file, study.data.feed, Fold(learnt, (), ()), study.data.source),
        hyperparameters={**study.settings, **study.machine, "seed": trial.seed, "chosen_steps": trial.chosen_steps},
        metrics=passive_metrics
        if passive_metrics is not None
        else _learned_figures(record, study, learned, unproven=bool(words)),
        report=write_files,
        note=findings.verdict if refit is None else f"{findings.verdict} {study.refit}",
        label="passive" if instead is not None else "",
        rules={**rules, DIGEST: rules_digest(tested)},
        desk=desk_keys(p.settings.strategy, tested),
        reference=reference_of(p.kind.inputs, watched, p.machine.spec),
        symbols=configured(p.machine.spec),
        claim=findings.claim,
    )
    with phase("export to ONNX, read back and compared"):
        probes = p.data.probes(p.folds[-1], PROBES, trial.seed)
        version = export(policy, p.machine, release, out=p.settings.out, probes=probes)
    return Outcome(version, p.folder, findings, passive=instead is not None)


def _learned_figures(record: RunRecord, study: Study, policy: nn.Module, *, unproven: bool = False) -> dict[str, Any]:
    """The learned policy's figures, for the manifest; `unproven` marks it as exported without a proven lead."""
    trial = study.headline[-1]
    dead_seeds = {
        f"seed {other_trial.seed}": dead_trial(other_trial)
        for other_trial in study.trials
        if (other_trial.fold, other_trial.reward) == (trial.fold, trial.reward) and dead_trial(other_trial)
    }
    return {
        **({"exported": "unproven"} if unproven else {}),
        "test": record.metrics(trial.test.sessions),
        "test_denials": dict(trial.test.denials),
        "validate": record.metrics(trial.validate),
        **({"learnt": msgspec.to_builtins(trial.learnt)} if trial.learnt is not None else {}),
        **({"dead": dead_seeds} if dead_seeds else {}),
        **({"account": record.metrics(joined(study.account))} if study.account else {}),
        **record.found(policy),
    }


def _of_passive(record: RunRecord, study: Study, policy: nn.Module, learned: nn.Module) -> dict[str, Any]:
    """The figures of the passive policy on the last fold's test sessions, and of the learned policy."""
    p, is_own = record.prepared, record.prepared.settings.passive
    tested = study.headline[-1].test if is_own else p.data.test(policy, p.passive_span(p.folds[-1].test, study.reward))
    return {
        "exported": "passive",
        "test": record.metrics(tested.sessions),
        "test_denials": dict(tested.denials),
        **({} if is_own else {"learned": _learned_figures(record, study, learned)}),
    }


def _unproven(p: Prepared, study: Study, findings: Findings, policy: nn.Module) -> tuple[nn.Module | None, str]:
    """The passive policy, to export where no lead is proven, and a sentence on what is exported.

    None and "" where a lead is proven, the policy was trained elsewhere, or the strategy names no passive policy.
    """
    passive = p.kind.passive
    if p.settings.passive and passive is not None:
        return policy, f"{PASSIVE_WORDS}{passive.words}: nothing was trained."
    if passive is None or findings.imported or lead_is_proven(findings):
        return None, ""
    if p.settings.allow_unproven:
        return None, "Exported although no lead over the best baseline is proven."
    return p.passive(study.network, p.folds[-1].train, policy), (
        f"{PASSIVE_WORDS}{passive.words}: for what was learned no lead over the best "
        "baseline is proven. What was learned:"
    )


@dataclass(frozen=True, slots=True)
class RunRecord:
    """Records a run's results. Every opening of test sessions is a line of the ledger."""

    prepared: Prepared
    identity: Mapping[str, Any]  # the settings that decide the result
    digest: str  # digest of these settings
    name: str
    ledger: Ledger

    def openings(self) -> list[LedgerLine]:
        """The opening of each fold's test sessions, and the risk that is stated before it."""
        version = self.prepared.version
        folds = [self._opening(fold, f"fold {i + 1}, code {version}") for i, fold in enumerate(self.prepared.folds)]
        return [*folds, *self.claims()]

    def line(self, trial: Trial) -> LedgerLine:
        """A trial, which has seen its fold's test sessions."""
        fold = self.prepared.folds[trial.fold]
        figures = self.prepared.data.figures(trial.test.sessions)
        deviation = figures.session_deviation
        who = f"mean of {trial.members} seeds" if trial.members > 1 else f"seed {trial.seed}"
        opened = self._opening(fold, f"fold {trial.fold + 1}, {trial.reward}, {who}")
        return msgspec.structs.replace(
            opened,
            kind="trial",
            sharpe=figures.session_return / deviation if deviation > 0.0 else 0.0,
            settings_sha256=self.digest,
        )

    def _opening(self, fold: Fold, note: str) -> LedgerLine:
        """The opening of the fold's test sessions."""
        return LedgerLine(
            kind="opening",
            utc=utc_now(),
            strategy=self.prepared.settings.strategy,
            data_sha256=self.prepared.data.info.sha256,
            first=fold.test[0],
            last=fold.test[-1],
            study=self.name,
            note=note,
        )

    def check_claim(self) -> None:
        """Raise ValueError where a risk is claimed without a risk overlay that could keep it."""
        settings, target = self.prepared.settings, self.prepared.trading.basket.volatility_target
        if settings.claim == RISK and not self.prepared.kind.compounds:
            raise ValueError(
                f"--claim risk is not for {settings.strategy}: each of its sessions has an account of its own, and a "
                "risk is claimed of one account through all: leave it out"
            )
        if settings.claim == RISK and target <= 0.0:
            raise ValueError(
                f"--claim risk needs basket.volatility_target above 0, found {target:g}: give the configuration of a "
                "desk that sets it by --config, or leave --claim out"
            )
        if settings.claim_drawdown is not None and self.stated is None:
            raise ValueError(
                f"--claim-drawdown is {settings.claim_drawdown:g} and no risk is stated: set basket.volatility_target "
                "in the configuration that --config names, or leave it out"
            )

    @property
    def stated(self) -> RiskStatement | None:
        """The risk that this run states before its tests; None without a risk overlay, or where a lead is asked for."""
        settings, target = self.prepared.settings, self.prepared.trading.basket.volatility_target
        if settings.claim == LEAD or target <= 0.0 or not self.prepared.kind.compounds:
            return None
        return RiskStatement(target, settings.claim_drawdown or min(DRAWDOWN * target, DRAWDOWN_MOST))

    def claims(self) -> list[LedgerLine]:
        """The ledger's line on the stated risk, on all test sessions; none without a stated risk."""
        if self.stated is None:
            return []
        first, last = self.prepared.folds[0], self.prepared.folds[-1]
        words = f"{RISK_CLAIM} volatility {self.stated.target:g}, drawdown {self.stated.drawdown:g}"
        return [msgspec.structs.replace(self._opening(first, words), last=last.test[-1])]

    def risk(self, study: Study, policy: nn.Module, *, passive: bool) -> RiskRuns:
        """The exported policy (passive or learned) on the tests of all folds, for a claim of risk.

        `policy` is the last fold's learned one.
        """
        p, stated = self.prepared, self.stated
        assert stated is not None, "asked for a run that states one"
        basket = replace(p.trading.basket, volatility_target=0.0)
        without, twice = replace(p.trading, basket=basket), with_costs(p.trading, 2)
        results: dict[Trading, list[PlayResult]] = {p.trading: [], without: [], twice: []}
        with phase("the stated risk: tests with and without the overlay"):
            for fold in p.folds:
                passive_policy = p.passive(study.network, fold.train, policy)
                span = p.passive_span(fold.test, study.reward)
                for trading, folds in results.items():
                    if passive or trading is without:
                        folds.append(p.data.test(passive_policy or policy, replace(span, trading=trading)))
        if not passive:
            results |= {p.trading: list(chosen_results(study)), twice: list(study.scenarios[COSTS_TWICE])}
        dates = [date for fold in p.folds for date in fold.test]
        chosen_among = 0 if passive else trial_matrix(study, study.reward)[1].shape[1] - 1
        return RiskRuns(
            target=stated.target,
            drawdown=stated.drawdown,
            policy=tuple(results[p.trading]),
            twice=tuple(results[twice]),
            passive=tuple(results[without]),
            earlier=len(study.prior_sharpes) + chosen_among + self.ledger.claims(dates, own_lines=self.claims()),
        )

    def sizes(self, study: Study, policy: nn.Module, *, passive: bool) -> SizesPlayed | None:
        """The exported policy on accounts of several sizes; None where each session has its own account."""
        p = self.prepared
        dates = p.folds[-1].test[:SESSIONS]
        span = (p.passive_span if passive else p.span)(dates, study.reward)
        with phase(f"accounts of {len(SIZES_USD)} sizes, {len(dates)} sessions"):
            accounts = p.data.at_sizes(policy, span)
        return SizesPlayed(dates[0], dates[-1], accounts) if accounts else None

    def study(
        self,
        trials: Sequence[Trial],
        chosen: Sequence[int],
        compared: Sequence[FoldComparison],
        *,
        means: Sequence[Trial],
        account: tuple[PlayResult, ...],
        extra: dict[str, Any],
        one_account: OneAccount | None = None,
    ) -> Study:
        """The study: all trials, and the comparisons of the chosen ones; also written into the run's folder."""
        settings, p = self.prepared.settings, self.prepared
        dates = [date for fold in p.folds for date in fold.test]
        own_lines = [*self.openings(), *(self.line(trial) for trial in (*trials, *means))]
        sharpes, openings = self.ledger.prior(dates, own_lines=own_lines)
        study = Study(
            strategy=settings.strategy,
            network=self.identity["network"],
            reward=trials[chosen[0]].reward,
            capital_usd=float(p.trading.paper.cash_usd),
            compounds=p.kind.compounds,
            code_version=p.version,
            settings={**self.identity, **p.kind.facts(p.data), **_resting(p.trading), "command": settings.command()},
            machine=machine(settings.device, settings.processes),
            data=described(
                p.data, settings.bars.name, settings.feed, p.folds[-1], origin_of(settings.bars, *settings.more_bars)
            ),
            folds=p.folds,
            trials=tuple(trials),
            chosen=tuple(chosen),
            baselines=tuple(
                Baseline(name, text, tuple(fold_result.baselines[name] for fold_result in compared))
                for name, text in (*p.kind.baselines.items(), (UNTRAINED, UNTRAINED_WORDS))
                if all(name in fold_result.baselines for fold_result in compared)
            ),
            random_pnl_usd=tuple(fold_result.random_pnl_usd for fold_result in compared),
            prior_sharpes=sharpes,
            prior_openings=openings,
            counted_trials=self.ledger.trials(dates),
            counted_risks=self.ledger.claims(dates),
            scenarios={
                name: tuple(fold_result.scenarios[name] for fold_result in compared) for name in compared[0].scenarios
            },
            extra=extra,
            ensembles=tuple(means),
            account=account,
            one_account=one_account,
            refit=refit_words(tuple(p.data.days), p.folds) if settings.refit else "",
        )
        self.write(study)
        return study

    def write(self, study: Study) -> None:
        """Write the study into the run's folder."""
        write_whole(self.prepared.folder / STUDY_FILE, encode(study))

    def for_report(self, policies: Sequence[nn.Module]) -> dict[str, Any]:
        """The procedure's data for the report's pages."""
        p = self.prepared
        return p.kind.procedure.for_report(p.settings.plan, policies, p.data, p.folds, p.done)

    def found(self, policy: nn.Module) -> Mapping[str, Any]:
        """The procedure's figures on its stages and on the last fold's policy."""
        return self.prepared.kind.procedure.figures(self.prepared.settings.plan, policy, self.prepared.done)

    def metrics(self, results: Sequence[SessionResult]) -> dict[str, Any]:
        """The figures for the manifest; without a win rate where one account compounds, whose trades are orders."""
        metrics = as_metrics(self.prepared.data.figures(results))
        return {
            name: value for name, value in metrics.items() if name != "win_rate" or not self.prepared.kind.compounds
        }


def _resting(trading: Trading) -> dict[str, Any]:
    """Records that stop orders rest at the broker, if the run's rules have that."""
    rests = isinstance(trading.protection, Protection) and trading.protection.rest_at_broker is True
    return {"resting_stops": True} if rests else {}


def refit_words(dates: Sequence[str], folds: Sequence[Fold]) -> str:
    """Words on the sessions a refit was trained on, and on the policy that was tested instead."""
    tested = f"{folds[0].test[0]} to {folds[-1].test[-1]}"
    return (
        f"The exported weights were trained once more, by the settings and for the steps of the last fold's choice, on "
        f"all {len(dates)} sessions from {dates[0]} to {dates[-1]}. No session tests these weights: the tests "
        f"({tested}) are of the weights that each fold trained on its own earlier sessions."
    )
