"""The report as one self-contained HTML page: no script, no external font or picture.

`page.html` has the order and the words. Same study and findings, same text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from daemon.page_kit.render import render
from daemon.tapes.quotes.calibration_file import Fitted
from strategies.registry import entry, is_known
from training.desks.registry import reference_of
from training.evidence.criteria import kind_of_bars
from training.evidence.findings import Findings
from training.evidence.heads import read as read_heads
from training.evidence.wording import counted, number, percent, share
from training.forecast.findings import read
from training.report import evidence, forecaster, heads, results
from training.report.cells import Row, difference, fall, variant_word, with_interval
from training.study.study import Study

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
        passive=study.passive,
        exported=exported,
        version=version,
        fall=fall,
        variant=variant_word(findings),
        facts=_facts(study, findings),
        settings=_settings(study),
        results=results,
        covered=_covered(study),
        evidence=evidence,
        forecaster=read(study.extra),
        pages=forecaster,
        heads=read_heads(study.extra),
        of_heads=heads,
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
    """The calibration that the prices of the option market rest on."""
    calibration = study.settings.get("calibration")
    if not calibration:
        return []
    values = ", ".join(f"{name} {calibration[name]:g}" for name in Fitted.__struct_fields__)
    return [("calibrated option market", f"{values}; to {calibration['quotes']}, digest {calibration['digest'][:16]}")]


def _covered(study: Study) -> str:
    """How much of what the run could trade has a recorded quote; "" for a run without any."""
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
