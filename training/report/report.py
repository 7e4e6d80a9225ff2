"""The report on a study: one page and one file of figures; it begins with the verdict on the policy.

The study is the only input; what is not in it is reported as unknown. Same study, same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from daemon.host.whole_files import write_whole
from training.evidence.findings import REPORT_FILE, Findings, encode
from training.report.find import find
from training.report.judging import judged
from training.report.page import page
from training.study.progress import phase
from training.study.study import Study

PAGE_FILE = "report.html"


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
    """Write the report once more for a study that now says what is exported; returns the figures, judged again."""
    again = judged(study, findings)
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
    return {PAGE_FILE: page(study, bound, exported=exported, version=version).encode(), REPORT_FILE: encode(bound)}
