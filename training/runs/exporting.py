"""The version in the store that a run leaves behind, with its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from torch import nn

from daemon.core.strategy_rules import DIGEST, rules_digest, with_rules
from daemon.host.whole_files import write_whole
from strategies.kit.contract import configured
from training.desks.kind import described
from training.evidence.findings import Findings
from training.export.export import Release, export
from training.export.reference import reference_of
from training.export.weights import Weights, write_weights
from training.report.lines import joined
from training.report.report import files, judge_again, write_report
from training.runs.prepared import Prepared
from training.runs.record import RunRecord
from training.study.progress import phase
from training.study.study import PASSIVE_WORDS, Fold, Study

PROBES = 1000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run made: the version in the store, the run's folder, and the report's findings."""

    version: Path
    run_folder: Path
    findings: Findings
    passive: bool = False  # the version is the strategy's passive policy, not what was learned


def exported(
    record: RunRecord,
    study: Study,
    policy: nn.Module,
    refit: nn.Module | None = None,
    weights: Sequence[Weights] = (),
) -> Outcome:
    """The last fold's policy, or `refit`, as a version of the store with the report on all folds.

    `weights` are those of its networks, which it keeps unless the passive policy takes its place.
    """
    p = record.prepared
    findings = write_report(study, p.folder)
    instead, words = _unproven(p, study, findings, policy)
    if words:
        study = msgspec.structs.replace(study, exported=words)
        record.write(study)
        findings = judge_again(study, findings, p.folder)
    refit = None if instead is not None else refit

    held = _of_passive(record, study, instead, policy) if instead is not None else None

    def write_files(folder: Path, digest: str, version: str) -> None:
        shown = None if held is None else held["test"]
        for name, data in files(study, findings, policy_sha256=digest, exported=shown, version=version).items():
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
    release = Release(
        training=study.data
        if refit is None
        else described(p.data, study.data.file, study.data.feed, Fold(learnt, (), ()), study.data.source),
        hyperparameters={**study.settings, **study.machine, "seed": trial.seed, "chosen_steps": trial.chosen_steps},
        metrics=held if held is not None else _learned(record, study, learned, unproven=bool(words)),
        report=write_files,
        note=findings.verdict if refit is None else f"{findings.verdict} {study.refit}",
        label="passive" if instead is not None else "",
        rules={**rules, DIGEST: rules_digest(with_rules(p.trading, rules))},
        reference=reference_of(p.kind.inputs, watched, p.machine.spec),
        symbols=configured(p.machine.spec),
    )
    with phase("export to ONNX, read back and compared"):
        probes = p.data.probes(p.folds[-1], PROBES, trial.seed)
        version = export(policy, p.machine, release, out=p.settings.out, probes=probes)
    return Outcome(version, p.folder, findings, passive=instead is not None)


def _learned(record: RunRecord, study: Study, policy: nn.Module, *, unproven: bool = False) -> dict[str, Any]:
    """The figures of what was learned, for the manifest; `unproven` marks it as exported without a proven lead."""
    trial = study.headline[-1]
    return {
        **({"exported": "unproven"} if unproven else {}),
        "test": record.metrics(trial.test.sessions),
        "test_denials": dict(trial.test.denials),
        "validate": record.metrics(trial.validate),
        **({"learnt": msgspec.to_builtins(trial.learnt)} if trial.learnt is not None else {}),
        **({"account": record.metrics(joined(study.account))} if study.account else {}),
        **record.found(policy),
    }


def _of_passive(record: RunRecord, study: Study, policy: nn.Module, learned: nn.Module) -> dict[str, Any]:
    """The figures of the passive policy on the last fold's test sessions, and of what was learned."""
    p = record.prepared
    tested = p.data.test(policy, p.passive_span(p.folds[-1].test, study.reward))
    return {
        "exported": "passive",
        "test": record.metrics(tested.sessions),
        "test_denials": dict(tested.denials),
        "learned": _learned(record, study, learned),
    }


def _unproven(p: Prepared, study: Study, findings: Findings, policy: nn.Module) -> tuple[nn.Module | None, str]:
    """The passive policy, to be exported where no lead is proven, and the sentence that says what is exported.

    None and "" where a lead is proven, the policy was trained elsewhere, or the strategy names no passive policy.
    """
    known = p.kind.passive
    if known is None or findings.imported or (findings.lead is not None and (findings.lead.low or 0.0) > 0.0):
        return None, ""
    if p.settings.allow_unproven:
        return None, "Exported although no lead over the best baseline is proven."
    return p.passive(study.network, p.folds[-1].train, policy), (
        f"{PASSIVE_WORDS}{known.words}: for what was learned no lead over the best "
        "baseline is proven. What was learned:"
    )
