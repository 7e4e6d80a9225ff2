"""What a run found of its forecasters: held against hand calculation, and against the logits before the temperature."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from tests.support.planted.panels import moving, panel
from training.forecast.findings import KEY, Forecast, find, read
from training.forecast.labels import BUY, HOLD, NONE, SELL, Barriers, Labels
from training.forecast.panel import Windows
from training.forecast.stage import Material

COST = 0.01
FACTS = {"parameters": 360_740, "members": 1, "confidence": "calibrated"}


def hand() -> tuple[Material, np.ndarray]:
    """Six sessions of one symbol; the last two have no label yet."""
    open_prices = np.array([100.0, 102.0, 104.0, 103.0, 99.0, 100.0])
    close = np.array([101.0, 105.0, 103.0, 98.0, 100.0, 101.0])
    bars = np.stack([open_prices, np.maximum(open_prices, close), np.minimum(open_prices, close), close, np.ones(6)])[
        :, :, None
    ]
    classes = np.array([BUY, SELL, SELL, HOLD, NONE, NONE], dtype=np.int8)[:, None]
    end = np.array([1, 3, 3, 5, NONE, NONE], dtype=np.int32)[:, None]
    labels = Labels(Barriers(), classes, end, np.full((6, 1), 0.01))
    dates = ("2019-12-30", "2019-12-31", "2020-01-02", "2020-01-03", "2020-01-06", "2020-01-07")
    return Material(dates, Windows(np.zeros((6, 1, 2), np.float32), 1), labels, np.ones((6, 1), np.bool_)), bars


def forecast(year: int, days: list[int], logits: list[list[float]], temperature: float) -> Forecast:
    probable = softmax(np.array(logits) / temperature, axis=1).astype(np.float32)
    rows = np.array([[day, 0] for day in days])
    return Forecast(year, rows, probable, probable.max(axis=1), temperature, purged=3)


Z2019 = [[0.0, 2.0, 0.0], [0.0, 1.0, 0.5]]  # both BUY: right, wrong
Z2020 = [[0.0, 0.2, 1.0], [2.0, 0.0, 0.0], [0.0, 0.0, 3.0], [0.0, 0.0, 1.0]]  # SELL, HOLD; the others have no label


def test_each_year_is_scored_before_and_after_its_own_temperature_and_the_tested_ones_together() -> None:
    material, bars = hand()
    years = [forecast(2019, [0, 1], Z2019, 2.0), forecast(2020, [2, 3, 4, 5], Z2020, 0.5)]
    findings = find(material, bars, years, [2019, 2020], COST, FACTS)
    first, second = findings.years
    assert (first.year, first.tested, first.purged) == (2019, True, 3)
    assert first.scores is not None
    assert second.scores is not None
    assert findings.scores is not None
    assert second.scores.after.rows == 2
    assert findings.scores.after.rows == 4
    right = np.array([BUY, SELL, SELL, HOLD])
    for part, logits, temperatures, rows in (
        (first.scores, Z2019, [2.0, 2.0], slice(0, 2)),
        (second.scores, Z2020[:2], [0.5, 0.5], slice(2, 4)),
        (findings.scores, Z2019 + Z2020[:2], [2.0, 2.0, 0.5, 0.5], slice(0, 4)),
    ):
        classes = right[rows]
        logit_rows = np.array(logits)
        before = -log_softmax(logit_rows, axis=1)[np.arange(len(classes)), classes].mean()
        after = -log_softmax(logit_rows / np.array(temperatures)[:, None], axis=1)[
            np.arange(len(classes)), classes
        ].mean()
        assert part.before.log_loss.estimate == pytest.approx(before, rel=1e-5)
        assert part.after.log_loss.estimate == pytest.approx(after, rel=1e-5)
    assert findings.scores.after.accuracy.estimate == 0.75
    assert findings.scores.after.base_rate.estimate == 0.5  # SELL, twice in four


def test_a_forecast_buy_is_bought_at_the_next_open_and_sold_at_the_close_that_decides() -> None:
    material, bars = hand()
    findings = find(material, bars, [forecast(2019, [0, 1], Z2019, 1.0)], [2019], COST, FACTS)
    assert findings.figures is not None
    sure, whole = findings.figures.coverage[0], findings.figures.coverage[-1]
    # row 0 is the more confident: in at 102, its label ends in session 1 at 105; row 1: in at 104, out at 98 in 3
    assert sure.pnl == pytest.approx(105 / 102 - 1 - COST)
    assert whole.pnl == pytest.approx((105 / 102 - 1 - COST) + (98 / 104 - 1 - COST))
    assert (whole.trades, whole.accuracy) == (2, 0.5)
    assert findings.figures.confusion == ((0, 0, 0), (0, 1, 0), (0, 1, 0))


def test_only_tested_years_are_joined_and_a_year_without_labels_is_not_known() -> None:
    material, bars = hand()
    years = [forecast(2019, [0, 1], Z2019, 1.0), forecast(2020, [4, 5], Z2020[2:], 1.0)]
    findings = find(material, bars, years, [2020], COST, FACTS)
    assert findings.scores is None
    assert findings.figures is None
    assert [(year.tested, year.scores is None) for year in findings.years] == [(False, False), (True, True)]


def test_it_is_read_back_from_json() -> None:
    material, truth = panel(3, symbols=3)
    days = [day for day, date in enumerate(material.dates) if date >= "2013"][:-1]
    rows = np.array([[day, place] for day in days for place in range(3)])
    probable = truth[tuple(rows.T)].astype(np.float32)
    year = Forecast(2013, rows, probable, probable.max(axis=1), 1.0, 0)
    findings = find(material, moving(material, 0.02).bars, [year], [2013], COST, FACTS)
    extra = msgspec.json.decode(msgspec.json.encode({KEY: msgspec.to_builtins(findings)}))
    assert read(extra) == findings
    assert read({}) is None
    assert findings.figures is not None
    assert findings.figures.coverage[-1].pnl_a_trade > 0.0  # the truth is worth something
    assert findings.figures.coverage[0].accuracy > findings.figures.coverage[-1].accuracy
