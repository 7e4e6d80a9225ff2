"""Folders of runs for the tests of the library: a dry run that was played, and trainings written by hand."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from daemon.journal.journal import FILE
from tests.support.desks.desk_run import Desk, tape_rows, write_tape

SESSIONS = (("2024-03-04", 1000.0), ("2024-03-05", -2200.0), ("2024-03-06", 500.0))
"""New York dates and profits in USD of the test sessions of a training written by hand."""


def play(folder: Path) -> Path:
    """Play a short tape as a dry run; returns its state directory."""
    desk = Desk(write_tape(folder / "tape.csv", tape_rows(1, 60)))
    recorded = desk.run(folder / "played")
    assert recorded.failure is None
    return folder / "played"


def dry_run(played: Path, folder: Path, mode: str = "") -> Path:
    """Copy a dry run that was played; with `mode` its journal says that it is of another one."""
    shutil.copytree(played, folder)
    if mode:
        with closing(sqlite3.connect(folder / FILE)) as db:
            db.execute("UPDATE meta SET value = ? WHERE key = 'mode'", (mode,))
            db.commit()
    return folder


def training(folder: Path, *, compounds: bool = True, steps: int = 1000, report: bool = True, **more: Any) -> Path:
    """Write a training's folder: capital 100,000 USD, the three test sessions of `SESSIONS`."""
    folder.mkdir(parents=True)
    settings = {
        "strategy": "regime_switcher", "bars": "etf.parquet", "bars_sha256": "ab" * 32, "steps": steps,
        "coefficients": {"clip": 0.2}, "made_with": {"code": "0123456789ab", "torch": "2"}, **more,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(settings))
    (folder / ".lock").touch()
    if report:
        sessions = [{"date": day, "pnl_usd": pnl, "capital_usd": 0.0, "trades": 1} for day, pnl in SESSIONS]
        study = {
            "capital_usd": 100_000.0, "compounds": compounds, "trials": [{"test": {"sessions": sessions}}],
            "chosen": [0], "ensembles": [], "account": [],
        }  # fmt: skip
        (folder / "study.json").write_text(json.dumps(study))
        figures = {
            "sessions": 3, "net_return": -0.007, "sharpe_annual": -1.5, "annual_return": None, "max_drawdown": 0.022,
            "trades": 3,
        }  # fmt: skip
        found = {
            "verdict": "Does not beat anything.", "policy": {"figures": figures}, "first_session": SESSIONS[0][0],
            "last_session": SESSIONS[-1][0], "capital_usd": 100_000.0, "synthetic": False,
        }  # fmt: skip
        (folder / "report.json").write_text(json.dumps(found))
        (folder / "report.html").write_text("<p>a report</p>")
    return folder
