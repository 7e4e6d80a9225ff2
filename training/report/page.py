"""The report as one HTML page that needs nothing else: no script, no font, no picture from elsewhere.

Puts the sections into the frame and says how the study was made and judged. Same study and findings, same text.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from string import Template

from training.evidence.claims import REFERENCES
from training.evidence.findings import Findings
from training.report import plots
from training.report.evidence import confidence_section, learning_section, luck_section, rewards_section, seeds_section
from training.report.html import figure, paragraph, table, variant_word
from training.report.results import equity_section, folds_section, result_section, scenarios_section
from training.report.words import limits, meanings
from training.study.study import Study

FRAME = Path(__file__).with_name("page.html")


def page(study: Study, findings: Findings) -> str:
    """The whole document. Same study and findings, same text."""
    sections = (
        ("result", "Result beside the baselines", result_section(findings)),
        ("promotion", "Fit for real money?", _criteria(findings)),
        ("equity", "Equity over the test sessions", equity_section(study, findings)),
        *_claims(study, findings),
        ("folds", "Fold by fold", folds_section(findings)),
        ("seeds", "Seeds", seeds_section(findings)),
        ("reward", f"Which {variant_word(findings)} trains better?", rewards_section(findings)),
        ("luck", "How much is luck and selection?", luck_section(findings)),
        (
            "costs",
            "Other costs, other times" if findings.compounds else "Higher costs, later orders",
            scenarios_section(findings),
        ),
        ("confidence", "Is the confidence worth anything?", confidence_section(findings)),
        ("learning", "How training went", learning_section(study)),
        ("gates", "Orders that gates denied" if findings.compounds else "Entries that gates denied", _gates(findings)),
        ("made", "How it was made", _made(study, findings)),
    )
    titles = [*((key, title) for key, title, _ in sections), ("words", "What the words mean"), ("limits", "Limits")]
    passed = bool(findings.criteria) and all(judged.passes for judged in findings.criteria)
    text = Template(FRAME.read_text(encoding="utf-8")).substitute(
        title=escape(f"{study.strategy}, {study.network}, {findings.first_session} to {findings.last_session}"),
        mark="good" if passed else "bad",
        verdict=escape(findings.verdict),
        abstract=paragraph(" ".join(findings.abstract)),
        meanings=meanings(compounds=findings.compounds),
        limits=limits(escape(_survivorship(study)), compounds=findings.compounds),
        contents=" ".join(f'<a href="#{key}">{escape(title)}</a>' for key, title in titles),
        sections="".join(f'<section id="{key}"><h2>{title}</h2>{body}</section>' for key, title, body in sections),
    )
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def _claims(study: Study, f: Findings) -> list[tuple[str, str, str]]:
    """The section on the reference's claims, for strategies that have one."""
    reference = REFERENCES.get(study.strategy)
    if reference is None:
        return []
    rows = [(escape(one.name), escape(one.claimed), escape(one.found(f, study))) for one in reference.claims]
    differs = "".join(f"<li>{escape(text)}</li>" for text in reference.differs)
    body = table(("", "the reference claims", "found here"), rows, "claims") + f"<ul>{differs}</ul>"
    return [("claims", "Beside what the reference claims", body)]


def _survivorship(study: Study) -> str:
    reference = REFERENCES.get(study.strategy)
    return reference.survivorship if reference is not None else ""


def _criteria(f: Findings) -> str:
    rows = [
        (escape(judged.name), escape(judged.rule), escape(judged.found), "passes" if judged.passes else "<b>fails</b>")
        for judged in f.criteria
    ]
    failed = sum(not judged.passes for judged in f.criteria)
    said = (
        f"{failed} of {len(f.criteria)} criteria fail, so this policy may run dry or on paper only."
        if failed
        else "All criteria pass, so a person may promote this policy. It is still no promise."
    )
    return paragraph(f"{said} A figure that is not known fails.") + table(
        ("criterion", "rule", "found", ""), rows, "criteria"
    )


def _gates(f: Findings) -> str:
    what = "order" if f.compounds else "entry"
    if not f.denials:
        return paragraph(f"No gate denied an {what} on the test sessions.")
    rows = sorted(f.denials.items(), key=lambda item: (-item[1], item[0]))
    named = [(gate.replace("_", " "), count) for gate, count in rows]
    return figure(
        plots.bars(named, f"Denials by gate of an {what}"),
        f"How often a gate denied an {what} that the policy wanted, test sessions.",
    )


def _made(study: Study, f: Findings) -> str:
    data = study.data
    seconds = sum(trial.seconds for trial in study.trials)
    facts = [
        ("strategy and network", f"{study.strategy}, {study.network}"),
        (f"{variant_word(f)} of the headline", "not known" if f.imported else study.reward),
        ("capital at the start" if f.compounds else "capital of every session", f"{study.capital_usd:,.0f} USD"),
        (
            "bars",
            f"{data.file}, feed {data.feed}, {'made up' if data.synthetic else 'recorded'}, {data.sessions} sessions",
        ),
        ("SHA-256 of the bars", data.file_sha256),
        ("SHA-256 of the policy", f.policy_sha256 or "not exported with this report"),
        ("code version", study.code_version),
        (
            "runs",
            "trained elsewhere" if f.imported else f"{len(study.trials)}, {seconds / 60:,.1f} minutes of training",
        ),
        *((name, value) for name, value in study.machine.items()),
    ]
    settings = {name: value for name, value in study.settings.items() if name != "command"}
    command = study.settings.get("command")
    again = (
        f"<p>To repeat:</p><pre>{escape(str(command))}</pre>"
        if command
        else paragraph("The command was not recorded; the settings below repeat the study.")
    )
    fact_rows = [(escape(name), escape(value)) for name, value in facts]
    setting_rows = [
        (escape(name), escape(value if isinstance(value, str) else json.dumps(value)))
        for name, value in settings.items()
    ]
    return table(("", ""), fact_rows, "pairs") + again + f"<h3>Settings</h3>{table(('', ''), setting_rows, 'pairs')}"
