"""The figures of a finished run, read from its journal."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from daemon.app.replay_figures import CURVE_POINTS, equity_curve
from daemon.core.records import EquityRow
from daemon.journal.journal import FILE, Journal
from daemon.journal.rows import Batch


@pytest.mark.parametrize(
    ("rows", "every"), [(0, 1), (1, 1), (600, 1), (601, 2), (1500, 3)]
)  # 601 / 600 and 1500 / 600, rounded up
def test_the_equity_curve_has_few_points_evenly_chosen_and_ends_with_the_last(
    tmp_path: Path, rows: int, every: int
) -> None:
    journal = Journal.create(tmp_path / FILE, {})
    batch = Batch()
    batch.rows.extend(EquityRow(number, str(number), "0", "0", 0.0) for number in range(rows))
    journal.commit(batch)
    curve = equity_curve(journal.reader())
    journal.close()
    assert curve == [Decimal(number) for number in range(rows)][::-1][::every][::-1]
    assert len(curve) <= CURVE_POINTS
