"""A training, read from its folder: settings, progress, the report's figures, and the course of its test sessions.

The files are the training's own (`training/runs/folder.py`); only the displayed fields are read, so that a folder of
another version is readable too.
"""

from __future__ import annotations

import fcntl
import os
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from daemon.host.own_files import lives
from daemon.library.listed import (
    FINISHED,
    RUNNING,
    STOPPED,
    STUDY,
    TRAINING,
    Course,
    ListedRun,
    RunFigures,
    course_of,
    dotted_settings,
)
from daemon.library.run_files import REPORT_FILE, RUN_FILE, STUDY_FILE, TRAINING_LOCK, read_progress, read_whole

CLOSE_HOUR = 16  # New York hour at which a course has a session's result
NEW_YORK = ZoneInfo("America/New_York")
STUDIES = ("space", "arms")  # a setting of a search, of an ablation: a study of several trainings
STUDY_RESULTS = ("search.json", "ablation.json")  # written at its end
OF_FOLDER = ("made_with", "bars", "bars_sha256", "strategy")  # shown separately, or no setting
FIRST = ("network", "steps", "seeds", "folds")  # the most important ones


class _Figures(msgspec.Struct):
    sessions: int = 0
    net_return: float = 0.0
    annual_return: float | None = None
    sharpe_annual: float | None = None
    max_drawdown: float = 0.0
    trades: int = 0


class _Policy(msgspec.Struct):
    figures: _Figures


class _Report(msgspec.Struct):
    verdict: str
    policy: _Policy
    first_session: str = ""
    last_session: str = ""
    capital_usd: float = 0.0
    synthetic: bool = False


class _Session(msgspec.Struct):
    date: str
    pnl_usd: float
    capital_usd: float = 0.0


class _TestResult(msgspec.Struct):
    sessions: tuple[_Session, ...]


class _Trial(msgspec.Struct):
    test: _TestResult


class _Study(msgspec.Struct):
    capital_usd: float
    trials: tuple[_Trial, ...]
    chosen: tuple[int, ...]
    compounds: bool = False
    ensembles: tuple[_Trial, ...] = ()
    account: tuple[_TestResult, ...] = ()

    @property
    def headline(self) -> tuple[_Session, ...]:
        """As `training.evidence.statistics.headline`: what was chosen in each fold, on its test sessions."""
        chosen = self.ensembles or tuple(self.trials[index] for index in self.chosen)
        test_results = self.account or tuple(trial.test for trial in chosen)
        return tuple(session for one in test_results for session in one.sessions)


def read_training(file: Path, name: str) -> ListedRun:
    """Return the run of these settings. Raises ValueError for a damaged file, OSError."""
    folder, settings = file.parent, _settings(file)
    progress, process = read_progress(folder), ""
    if progress is not None and progress.process and not progress.ended_s:
        process = holder_of(folder, progress.process)
    report = read_whole(folder / REPORT_FILE, _Report) if (folder / REPORT_FILE).is_file() else None
    study = any(key in settings for key in STUDIES)
    made_with = settings.get("made_with")
    is_over = progress.ended_s > 0 if progress is not None else report is not None
    if study:
        is_over = any((folder / result).is_file() for result in STUDY_RESULTS)
    times_s = [
        os.lstat(folder / file_name).st_mtime
        for file_name in (RUN_FILE, STUDY_FILE, REPORT_FILE)
        if (folder / file_name).exists()
    ]
    changes = _parameters(settings)
    return ListedRun(
        id=name,
        kind=STUDY if study else TRAINING,
        folder=str(folder),
        state=RUNNING if process else FINISHED if is_over else STOPPED,
        strategy=str(settings.get("strategy", "")),
        version=progress.version if progress is not None else "",
        data=str(settings.get("bars", "")),
        data_sha256=str(settings.get("bars_sha256", "")),
        synthetic=report is not None and report.synthetic,
        code=str(made_with.get("code", "")) if isinstance(made_with, dict) else "",
        began_s=times_s[0],
        ended_s=max(*times_s, progress.written_s if progress is not None else 0.0),
        verdict=report.verdict if report is not None else "",
        changed=changes,
        brief=tuple(f"{key}={changes[key]}" for key in FIRST if key in changes),
        figures=_figures_of(report) if report is not None else None,
        progress=progress,
    )


def read_course(file: Path) -> Course:
    """Return the course of the test sessions; empty before the first one. Raises ValueError, OSError."""
    study_file = file.with_name(STUDY_FILE)
    if not study_file.is_file():
        return Course((), (), ())
    study = read_whole(study_file, _Study)
    try:
        return _course(study)
    except (LookupError, ArithmeticError, ValueError) as error:
        raise ValueError(f"{study_file} holds no sessions that can be drawn ({error})") from error


def _course(study: _Study) -> Course:
    times, shares, total = [], [], 0.0
    for session in study.headline:
        session_return = session.pnl_usd / (session.capital_usd or study.capital_usd)
        total += session_return * (1.0 + total if study.compounds else 1.0)
        close = datetime.fromisoformat(session.date).replace(hour=CLOSE_HOUR, tzinfo=NEW_YORK)
        times.append(close.timestamp())
        shares.append(total)
    begin = times[0] - 6.5 * 3600 if times else 0.0  # the open of the first session
    return course_of((begin, *times), (0.0, *shares), compounds=study.compounds) if times else Course((), (), ())


def read_parameters(file: Path) -> dict[str, str]:
    """Return all settings of the run by dotted key. Raises ValueError, OSError."""
    return _parameters(_settings(file))


def holder_of(folder: Path, process: int) -> str:
    """Return the process that trains in the folder now, "" without one.

    The lock is tried only while the process named by the progress lives: a trial holds it for a moment, in which a
    training that starts would be refused.
    """
    if not lives(process):
        return ""
    try:
        descriptor = os.open(folder / TRAINING_LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return str(process)
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    return ""


def _figures_of(report: _Report) -> RunFigures:
    figures = report.policy.figures
    return RunFigures(
        first=report.first_session,
        last=report.last_session,
        sessions=figures.sessions,
        capital_usd=report.capital_usd,
        share=figures.net_return,
        annual=figures.annual_return,
        sharpe=figures.sharpe_annual or None,  # a report has 0 where no session's return differed
        max_drawdown=figures.max_drawdown,
        trades=figures.trades,
    )


def _parameters(settings: dict[str, Any]) -> dict[str, str]:
    return dict(dotted_settings({name: value for name, value in settings.items() if name not in OF_FOLDER}))


def _settings(file: Path) -> dict[str, Any]:
    settings = read_whole(file, dict[str, Any])
    if "strategy" not in settings:
        raise ValueError(f"{file} holds no settings of a training: expected a strategy among them")
    return settings
