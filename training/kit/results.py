"""What runs and stores wrote, read back: reports, studies, updates, the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from daemon.library.run_files import REPORT_FILE, RUN_FILE, STUDY_FILE
from training.evidence import findings
from training.evidence.findings import Findings
from training.report.compare import read_runs, updates_of
from training.runs.ledger import LEDGER_FILE, Ledger, LedgerError, LedgerLine
from training.study import study
from training.study.study import Study

T = TypeVar("T")


def load_report(path: Path | str) -> Findings:
    """Read the report of a run's folder, of a version in a model store, or the file `report.json` itself.

    Raises:
        ValueError: there is none, or it is damaged; the text names the file.

    >>> import training
    >>> report = training.load_report("onnx_models/option_scalper/2024-12-04-ef2af89f")
    >>> report.policy.figures.sessions == sum(fold.test[2] for fold in report.folds)
    True
    >>> low, high = report.policy.sharpe_annual.low, report.policy.sharpe_annual.high
    >>> low < report.policy.figures.sharpe_annual < high
    True
    >>> [criterion.name for criterion in report.criteria if criterion.passes][:1]
    ['data']
    """
    return _read(path, REPORT_FILE, findings.decode)


def load_study(path: Path | str) -> Study:
    """Read all that a report is made of, of a run's folder, or the file `study.json`: each trial, session by session.

    Raises:
        ValueError: there is none, or it is damaged; the text names the file.
    """
    return _read(path, STUDY_FILE, study.decode)


def load_metrics(run: Path | str) -> list[dict[str, Any]]:
    """Read every update of every trial in a run's folder, oldest first: `run`, `trial` and the figures of the update.

    `pandas.DataFrame(load_metrics(run))` has a row for each.

    Raises:
        ValueError: it is no run's folder, or a file is damaged.
    """
    folder = Path(run)
    if not (folder / RUN_FILE).is_file():
        raise ValueError(f"{folder} holds no {RUN_FILE}: give the folder of a run")
    return list(updates_of(folder))


def load_ledger(path: Path | str) -> tuple[LedgerLine, ...]:
    """Read the trials, and the openings of test sessions, of a strategy in a model store, in the order of their time.

    Args:
        path: `<store>/<strategy>`, or its `ledger.jsonl`.

    Raises:
        LedgerError: there is none, or a line is damaged: the number of trials would be unknown.

    >>> import training
    >>> lines = training.load_ledger("onnx_models/option_scalper")
    >>> {line.kind for line in lines} == {"trial", "opening"}
    True
    """
    place = Path(path)
    file = place / LEDGER_FILE if place.is_dir() else place
    if not file.is_file():
        raise LedgerError(f"{file}: no ledger here; expected <store>/<strategy>, or its {LEDGER_FILE}")
    return Ledger(file).read().lines


def compare_runs(folders: Iterable[Path | str]) -> list[dict[str, Any]]:
    """Return a row of figures for each finished run, or version of a model store, as `train-and-export compare` does.

    `pandas.DataFrame(compare_runs(...))` is the table. Returns are fractions of the capital; `lead` is the mean over
    the best baseline a session, `lead_low` its lower bound. None: not known.

    Raises:
        ValueError: a folder is given twice, or holds no report; the text names it.

    >>> import training
    >>> from pathlib import Path
    >>> rows = training.compare_runs(sorted(Path("onnx_models/regime_switcher").glob("2022-*")))
    >>> len(rows), rows[0]["strategy"], rows[0]["net_return_low"] < rows[0]["net_return"] < rows[0]["net_return_high"]
    (2, 'regime_switcher', True)
    """
    return [{"run": run.name} | _row(run.findings) for run in read_runs([Path(folder) for folder in folders])]


def _row(f: Findings) -> dict[str, Any]:
    figures, lead = f.policy.figures, f.lead
    return {
        "strategy": f.strategy,
        "network": f.network,
        "reward": f.reward,
        "bars": f.data_file,
        "first_session": f.first_session,
        "last_session": f.last_session,
        "sessions": figures.sessions,
        "folds": len(f.folds),
        "seeds": f.seeds,
        "net_return": figures.net_return,
        "net_return_low": f.policy.net_return.low,
        "net_return_high": f.policy.net_return.high,
        "sharpe_annual": figures.sharpe_annual,
        "max_drawdown": figures.max_drawdown,
        "trades": figures.trades,
        "best_baseline": None if lead is None else lead.baseline,
        "lead": None if lead is None else lead.mean,
        "lead_low": None if lead is None else lead.low,
        "deflated_sharpe": f.deflated.deflated,
        "criteria_passed": sum(criterion.passes for criterion in f.criteria),
        "criteria": len(f.criteria),
        "passive": f.passive,
    }


def _read(path: Path | str, name: str, decode: Callable[[bytes], T]) -> T:
    place = Path(path)
    file = place / name if place.is_dir() else place
    try:
        return decode(file.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{file} is not there: give the folder of a finished run or of a version, or {name}") from None
    except (OSError, msgspec.DecodeError) as error:
        raise ValueError(f"{file} cannot be read ({error}): expected {name}, as a run writes it") from error
