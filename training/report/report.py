"""The report on a study: one page and one file of figures; it begins with the verdict on the policy.

The study is the only input; missing facts are reported as unknown. Equal studies give equal bytes. The page is
self-contained HTML: no script, no external font or picture; `page.html` has the order and the words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from daemon.host.whole_files import write_whole
from daemon.library.run_files import REPORT_FILE, REPORT_PAGE
from daemon.page_kit.render import render
from daemon.tapes.quotes.calibration_file import Fitted
from strategies.registry import entry, is_known
from training.desks.registry import reference_of
from training.evidence.criteria import kind_of_bars
from training.evidence.findings import Findings, encode
from training.evidence.heads import heads_of as read_heads
from training.evidence.wording import counted, number, percent, share
from training.forecast.findings import read
from training.report import forecaster, results
from training.report.cells import Row, difference, fall, variant_word, with_interval
from training.report.find import find
from training.report.judging import with_verdict
from training.study.progress import phase
from training.study.study import Study


def write_report(study: Study, folder: Path) -> Findings:
    """Write `report.html` and `report.json` into an existing folder, each by one rename; returns the figures.

    Raises:
        ValueError: the study cannot be reported on; the text names what is missing.
        OSError: the folder is missing or the disk is full.
    """
    findings = find(study)
    with phase("the report's page"):
        _write(study, findings, folder)
    return findings


def judge_again(study: Study, findings: Findings, folder: Path) -> Findings:
    """Write the report again once the study records what is exported; returns the figures, judged again."""
    again = with_verdict(study, findings)
    _write(study, again, folder)
    return again


def _write(study: Study, findings: Findings, folder: Path) -> None:
    for name, data in files(study, findings).items():
        write_whole(folder / name, data)


def files(
    study: Study,
    findings: Findings,
    *,
    policy_sha256: str | None = None,
    exported: Mapping[str, Any] | None = None,
    version: str = "",
) -> dict[str, bytes]:
    """The report's files by name; `policy_sha256` binds them to the model that they ship with, `version` names it.

    `exported` are the figures of a passive policy on the last fold's test sessions, as in its manifest.
    """
    bound = msgspec.structs.replace(findings, policy_sha256=policy_sha256 or findings.policy_sha256)
    return {REPORT_PAGE: page(study, bound, exported=exported, version=version).encode(), REPORT_FILE: encode(bound)}


TEMPLATE = Path(__file__).with_name("page.html")


def page(study: Study, findings: Findings, *, exported: Mapping[str, Any] | None = None, version: str = "") -> str:
    """The whole document. Same input, same text.

    `exported` are the figures of a passive policy, which is then what is exported; `version` is its name in the store,
    "" where there is none yet.
    """
    text = render(
        TEMPLATE,
        study=study,
        f=findings,
        reference=reference_of(study.strategy),
        passive=study.passive and not findings.untrained,  # the report's figures are then not of the exported policy
        exported=exported,
        version=version,
        fall=fall,
        variant=variant_word(findings),
        facts=_facts(study, findings),
        settings=_settings(study),
        results=results,
        covered=_coverage_text(study),
        forecaster=read(study.extra),
        pages=forecaster,
        heads=read_heads(study.extra),
        shares=_holds_shares(study.strategy),
        counted=counted,
        difference=difference,
        number=number,
        percent=percent,
        share=share,
        with_interval=with_interval,
    )
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def _holds_shares(strategy: str) -> bool:
    return is_known(strategy) and not entry(strategy).make().spec.chained


def _facts(study: Study, f: Findings) -> list[Row]:
    data = study.data
    seconds = sum(trial.seconds for trial in study.trials)
    return [
        ("strategy and network", f"{study.strategy}, {study.network}"),
        (f"{variant_word(f)} of the headline", "not known" if f.imported else study.reward),
        ("capital at the start" if f.compounds else "capital of every session", f"{study.capital_usd:,.0f} USD"),
        (
            "bars",
            f"{data.file}, feed {data.feed}, {kind_of_bars(f)}, {data.sessions} sessions",
        ),
        ("SHA-256 of the bars", data.file_sha256),
        *_calibration(study),
        *_quotes(study),
        ("SHA-256 of the policy", f.policy_sha256 or "not exported with this report"),
        ("code version", study.code_version),
        (
            "runs",
            "trained elsewhere" if f.imported else f"{len(study.trials)}, {seconds / 60:,.1f} minutes of training",
        ),
        *study.machine.items(),
    ]


def _calibration(study: Study) -> list[Row]:
    """The calibration of the modelled option prices."""
    calibration = study.settings.get("calibration")
    if not calibration:
        return []
    values = ", ".join(f"{name} {calibration[name]:g}" for name in Fitted.__struct_fields__)
    return [("calibrated option market", f"{values}; to {calibration['quotes']}, digest {calibration['digest'][:16]}")]


def _coverage_text(study: Study) -> str:
    """Words on the share of tradable contract minutes with a recorded quote; "" without recorded quotes."""
    coverage = study.settings.get("option_quote_coverage")
    if not coverage:
        return ""
    minutes = coverage["contract_minutes"]
    part = 1.0 - minutes["missing"] / (sum(minutes.values()) or 1)
    sessions = f"{coverage['sessions']} of {coverage['sessions_of_the_bars']} sessions"
    return (
        f"The file has quotes of {sessions} of the bars, and of {share(part)} of the contract minutes near the money."
    )


def _quotes(study: Study) -> list[Row]:
    """The recorded option quotes of a run that trained on some."""
    quotes, coverage = study.settings.get("option_quotes"), study.settings.get("option_quote_coverage")
    if not quotes or not coverage:
        return []
    minutes = coverage["contract_minutes"]
    parts = [f"{share(count / (sum(minutes.values()) or 1))} {name}" for name, count in minutes.items()]
    origin = f"made up ({coverage['synthetic']})" if coverage["synthetic"] else "recorded"
    sessions = f"{coverage['sessions']} of {coverage['sessions_of_the_bars']} sessions"
    return [
        ("option quotes", f"{quotes['file']}, {origin}, {sessions} from {coverage['first_session']}"),
        ("contract minutes near the money", ", ".join(parts)),
        ("Black-Scholes prices", f"{share(quotes['synthetic_share'])} of the training episodes"),
        ("SHA-256 of the option quotes", quotes["sha256"]),
    ]


def _settings(study: Study) -> list[Row]:
    return [
        (name, value if isinstance(value, str) else json.dumps(value))
        for name, value in study.settings.items()
        if name != "command"
    ]
