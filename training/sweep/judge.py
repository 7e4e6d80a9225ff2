"""What the cells of a sweep show together.

The best of many cells flatters, so the result has the probability of backtest overfitting over the cells, and the
deflated Sharpe ratio of the best one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.evidence.cross_validation import Overfitting, backtest_overfitting
from training.evidence.overfitting import Deflated, deflated_sharpe, effective_trials
from training.evidence.statistics import deviations, sharpes
from training.evidence.wording import counted
from training.runs.ledger import Ledger, Line, ledger_path, utc_now
from training.sweep.cells import Cell, Swept
from training.sweep.ready import Ready


def judged(ready: Ready, played: Sequence[Cell], digest: str) -> Swept:
    """What all cells show together; one line of the ledger counts the sweep."""
    asked, manifest, cells = ready.asked, ready.version.manifest, played[1:]
    matrix = np.array([cell.returns for cell in cells], dtype=np.float64).T
    ratios = sharpes(matrix.T)
    best = int(ratios.argmax())
    line = Line(
        kind="trial",
        utc=utc_now(),
        strategy=asked.strategy,
        data_sha256=ready.data.info.sha256,
        first=ready.dates[0],
        last=ready.dates[-1],
        study=f"sweep-{asked.strategy}-{digest[:8]}",
        sharpe=float(ratios[best]),
        settings_sha256=digest,
        note=f"sweep of {', '.join(axis.key for axis in asked.axes)}, {len(cells)} cells of {manifest.version}: the "
        "best one's Sharpe ratio",
    )
    ledger = Ledger(ledger_path(asked.store, asked.strategy))
    prior, _ = ledger.prior(ready.dates, own=[line])
    ledger.record(line)
    deflated = deflated_sharpe(
        matrix[:, best],
        [*ratios.tolist(), *prior],
        least_deviation=float(deviations(ratios)),
        trials=len(cells) + len(prior),
        effective=effective_trials(matrix) + len(prior),
    )
    spans = [manifest.training.splits[name] for name in ("train", "validate") if name in manifest.training.splits]
    overfitting = backtest_overfitting(matrix)
    return Swept(
        strategy=asked.strategy,
        version=manifest.version,
        bars=asked.bars.name,
        first=ready.dates[0],
        last=ready.dates[-1],
        sessions=len(ready.dates),
        seen=sum(any(first <= day <= last for first, last in spans) for day in ready.dates),
        keys=tuple(axis.key for axis in asked.axes),
        configured=played[0],
        cells=tuple(cells),
        best=best,
        overfitting=overfitting,
        deflated=deflated,
        words=_words(cells[best], played[0], len(cells), deflated, overfitting),
    )


def _words(best: Cell, configured: Cell, count: int, deflated: Deflated, overfitting: Overfitting) -> str:
    named = ", ".join(f"{key} {value}" for key, value in best.rules.items())
    luck = (
        f"the best of one half of the sessions is in the worse half of the other in {overfitting.probability:.0%} of "
        "the splits (PBO)".replace("%", " %")
        if overfitting.probability is not None
        else f"PBO is not known: {overfitting.note}"
    )
    return (
        f"The largest Sharpe ratio of {counted(count, 'cell')}, {best.sharpe_annual:+.2f} a year, is that of {named}; "
        f"as configured it is {configured.sharpe_annual:+.2f}. The best of many flatters: its deflated Sharpe ratio is "
        f"{deflated.deflated:.2f} among {deflated.trials} trials, and {luck}. No configuration was changed."
    )
