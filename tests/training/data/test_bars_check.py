"""Rows that are no bars and bars that are bad: each is named, and no file appears."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.support.training.recorded_alpaca import DATES, SECOND_NS, alpaca, fetch, session_of, spy
from training.data import bars_check
from training.data.bars_check import checked
from training.data.bars_request import Chunk, DownloadError, DownloadRequest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"high": 540.0}, "high is below low"),
        ({"close": 560.0}, "open or close is outside"),
        ({"open": -1.0, "low": -2.0}, "not above 0"),
        ({"start_ns": session_of("2024-06-27").open_ns + 630 * SECOND_NS}, "not on the grid"),
    ],
)
def test_a_bad_bar_is_named_and_no_file_appears(tmp_path: Path, change: dict[str, float], message: str) -> None:
    bars = spy(skip=DATES[1:])
    bars[10] = msgspec.structs.replace(bars[10], **change)
    with alpaca(bars) as server, pytest.raises(DownloadError, match=rf"SPY: the bar of 2024-06-27T13:40:.*{message}"):
        fetch(server, tmp_path / "bars.parquet", end="2024-06-27")
    assert not (tmp_path / "bars.parquet").exists()


def test_duplicates_disorder_and_nan_are_named() -> None:
    row = {"o": 1.0, "h": 1.0, "l": 1.0, "c": 1.0, "v": 1}
    starts = [bars_check._row({"t": f"2024-06-27T13:{minute}:00Z", **row}, "SPY")[0] for minute in (30, 31, 31)]
    assert starts[0] == session_of("2024-06-27").open_ns
    for order, message in (
        (starts, "13:31:00Z comes twice"),
        (starts[1::-1], "13:30:00Z comes after 2024-06-27T13:31"),
    ):
        with pytest.raises(DownloadError, match=message):
            bars_check._check_order("SPY", np.array(order))
    nan = json.loads('{"t": "2024-06-27T13:30:00Z", "o": 1, "h": 1, "l": NaN, "c": 1, "v": 1}')  # as alpaca-py reads it
    start_ns, values = bars_check._row(nan, "SPY")
    with pytest.raises(DownloadError, match=r"SPY: the bar of 2024-06-27T13:30:00Z: a value is not finite.*low=nan"):
        bars_check._check_values("SPY", np.array([start_ns]), np.array([values]).T, np.zeros(1, dtype=np.int64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"o": "1.0"}, "is no bar"),
        ({"t": "2024-06-27T13:30:00"}, "is no bar"),  # of no zone
        ({"t": "9999-12-31T00:00:00Z"}, "is no bar"),  # int64 nanoseconds end in 2262
        ({"h": 10**400}, "is no bar"),  # a float64 ends at 1.8e308
        ({"t": "2024-06-27T13:30:00.5Z"}, "the bar of 2024-06-27T13:30:00Z: its start is not on the grid"),
    ],
)
def test_a_row_that_is_no_bar_of_the_timeframe_is_named(change: dict[str, Any], message: str) -> None:
    row = {"t": "2024-06-27T13:30:00Z", "o": 1.0, "h": 1.0, "l": 1.0, "c": 1.0, "v": 1}
    request = DownloadRequest(("SPY",), "2024-06-27", "2024-06-27", "1Min", Path("bars.parquet"))
    chunk = Chunk("SPY", (session_of("2024-06-27"),))
    assert checked(request, chunk, [[row]]).start_ns.tolist() == [session_of("2024-06-27").open_ns]
    with pytest.raises(DownloadError, match=message):
        checked(request, chunk, [[row | change]])
