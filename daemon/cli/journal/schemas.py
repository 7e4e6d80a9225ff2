"""The JSON Schema of each `--json` of a command: `rltraderctl reference NAME` prints it."""

from __future__ import annotations

from typing import Any

from daemon.cli.journal.events import EventLine
from daemon.models.drift import DriftResult
from daemon.operator.mqtt.messages import schema_of, schema_text
from daemon.operator.status import DeskStatus
from daemon.operator.summary import Summary
from daemon.reports.end_of_day import DayReport, SessionReport
from daemon.reports.gap import Gap, GapSummary
from daemon.reports.performance.read import Sheet
from daemon.reports.shadow import ShadowReport
from daemon.reports.tables import trades_contract
from daemon.tapes.quotes.calibration_file import Calibration
from daemon.tapes.quotes.coverage import QuoteReport

PRINTED: dict[str, Any] = {
    "ctl-day": DayReport,
    "ctl-drift": DriftResult,
    "ctl-events": EventLine,
    "ctl-gap": Gap,
    "ctl-gap-days": GapSummary,
    "ctl-performance": Sheet,
    "ctl-replay": Summary,
    "ctl-report": SessionReport,
    "ctl-shadow": ShadowReport,
    "ctl-status": DeskStatus,
    "ctl-trades": trades_contract(),
    "train-and-export-calibrate": Calibration,
    "train-and-export-check-quotes": QuoteReport,
}
"""Name -> type that is printed: by a command's `--json`, by `report` over a span (`performance`), by `gap --days`, by a
replay into a pipe, and into the file `reports/<day>.json` (`day`)."""


def schemas() -> dict[str, str]:
    """Return the text of each schema by its file name."""
    return {f"{name}.v1.json": schema_text(schema_of(kind)) for name, kind in PRINTED.items()}
