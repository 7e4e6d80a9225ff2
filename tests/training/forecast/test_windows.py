"""Batches gathered from a panel."""

from __future__ import annotations

import numpy as np
import pytest

from training.forecast.panel import Windows


def test_a_window_is_the_last_rows_of_its_symbol_the_newest_last() -> None:
    features = np.random.default_rng(0).normal(size=(20, 3, 4)).astype(np.float32)
    windows = Windows(features, 5)
    rows = np.array([[4, 0], [19, 2], [7, 1]])
    sequences = windows.gather(windows.places(rows)).numpy()
    assert sequences.shape == (3, 5, 4)
    for sequence, (day, place) in zip(sequences, rows.tolist(), strict=True):
        assert np.array_equal(sequence, features[day - 4 : day + 1, place])


def test_rows_without_features_become_zero() -> None:
    features = np.ones((6, 1, 2), dtype=np.float32)
    features[2, 0] = np.nan
    windows = Windows(features, 3)
    assert windows.gather(windows.places(np.array([[3, 0]])))[0, :, 0].tolist() == [1.0, 0.0, 1.0]


def test_a_window_that_would_begin_before_the_panel_is_refused() -> None:
    windows = Windows(np.ones((6, 1, 2), dtype=np.float32), 3)
    with pytest.raises(ValueError, match="ends in session 1"):
        windows.places(np.array([[1, 0], [3, 0]]))
