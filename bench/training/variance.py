"""What the head `variance` of `forecast_ensemble` is worth: `python -m bench.training.variance --bars FILE`.

Prints JSON. By year the mean QLIKE of EWMA, of HAR and of what the head knows without a forecaster, each fitted on all
that came before the year; and, of the version's head on the year after its calibration, all that a report has.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from daemon.models.shipped import USUAL
from strategies.forecast_ensemble import ACCOUNT, SPEC, features
from strategies.kit.manifest import MANIFEST_FILE, POLICY_FILE, decode
from training.export.export import session_of
from training.forecast.findings import Forecast, risk_rows
from training.forecast.labels import Barriers, triple_barrier
from training.forecast.panel import Panel, Windows
from training.forecast.risk import COLUMNS, SESSIONS, UNKNOWN_LOG, Known, fitted, realised
from training.forecast.stage import Material
from training.forecast.trainer import answers

FIRST, LAST = 2017, 2022


def main() -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bars", type=Path, required=True)
    parser.add_argument("--version", default="", help="of the shipped store; the current one without it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    panel = Panel.load((options.bars,), features.table)
    variance = realised(panel.bars[3], panel.broken)
    labels = triple_barrier(panel.bars, Barriers(), panel.broken)
    material = Material(panel.dates, Windows(panel.features, features.WINDOW), labels, panel.valid, variance, COLUMNS)
    inputs = _known(material)
    by_year = {}
    for year in range(FIRST, LAST + 1):
        rows = _rows(material, year)
        (scored,) = risk_rows(material, panel.bars, [_said(year, rows, _expected(material, inputs, rows))]).values()
        scores = scored.scores()
        assert scores is not None
        by_year[year] = {
            name: round(interval.estimate, 4)
            for name, interval in (("ewma", scores.ewma), ("har", scores.har), ("without a forecaster", scores.qlike))
        }
    shelf = USUAL / SPEC.name
    folder = shelf / (options.version or (shelf / "current").read_text().strip())
    year = int(decode((folder / MANIFEST_FILE).read_bytes()).training.splits["test"][0][:4])
    rows = _rows(material, year)
    (scored,) = risk_rows(material, panel.bars, [_said(year, rows, _head(material, folder, rows))]).values()
    head = {"version": folder.name, "year": year, "scores": msgspec.to_builtins(scored.scores())}
    sys.stdout.write(json.dumps({"qlike": by_year, "head": head}, indent=1) + "\n")


def _rows(material: Material, year: int) -> NDArray[np.int64]:
    days = np.array([date.startswith(str(year)) for date in material.dates])
    indices: NDArray[np.int64] = np.argwhere(material.valid & days[:, None])
    return indices


def _known(material: Material) -> NDArray[np.float64]:
    """What is known of each row's variance, float64 (d, n, 5); NaN where there is no sequence."""
    rows = np.argwhere(material.valid)
    inputs = np.full((*material.valid.shape, 5), np.nan)
    answered = answers(Known(material.risk_columns), material.windows, material.windows.places(rows))
    inputs[tuple(rows.T)] = answered.double().numpy()
    return inputs


def _expected(material: Material, inputs: NDArray[np.float64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Variances of rows by what is known alone, with the weights of all rows before them."""
    assert material.variance is not None
    earlier = material.valid & np.isfinite(material.variance)
    earlier[int(rows[:, 0].min()) - SESSIONS :] = False
    weights = fitted(inputs[earlier], material.variance[earlier], (UNKNOWN_LOG, *(0.0,) * 5))
    variances: NDArray[np.float64] = np.exp(weights[0] + inputs[tuple(rows.T)] @ np.array(weights[1:]))
    return variances


def _head(material: Material, folder: Path, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """What a version's head says of rows."""
    session = session_of((folder / POLICY_FILE).read_bytes())
    account = torch.zeros(1, len(ACCOUNT))

    def variance_of(sequences: torch.Tensor) -> torch.Tensor:
        observation = torch.cat([sequences.flatten(1), account.expand(len(sequences), -1)], dim=1)
        return torch.from_numpy(session.run(["variance"], {"observation": observation.numpy()})[0])

    variances: NDArray[np.float64] = (
        answers(variance_of, material.windows, material.windows.places(rows)).double().numpy()
    )
    return variances


def _said(year: int, rows: NDArray[np.int64], variance: NDArray[np.float64]) -> Forecast:
    """A forecast of the variance alone."""
    even = np.full((len(rows), 3), 1.0 / 3.0, dtype=np.float32)
    return Forecast(year, rows, even, even[:, 0], 1.0, 0, variance=variance.astype(np.float32))


if __name__ == "__main__":
    main()
