"""The features of `forecast_ensemble` under `train-and-export analyse`: of days, and of 5-minute bars."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from strategies.forecast_ensemble import ForecastEnsemble
from strategies.forecast_ensemble.features import COUNT, NAMES, WINDOW, table
from strategies.kit.contract import Answer, Bar, Observation, Target
from tests.support.strategies.histories import walk, weekdays
from tests.support.training.made_up import sessions, write_csv
from training.analysis.differences import DifferenceLog
from training.analysis.forecast_minutes import SPEC, ForecastMinutes
from training.analysis.strategy_runs import FeatureRows, moments_of, observed, scripted_view, tabled
from training.analysis.subjects import linear_policy, subject_named

FIVE_NS = 300_000_000_000


def five_minutes(folder: Path, count: int) -> Path:
    bars: list[Bar] = []
    history = walk(3, weekdays("2015-03-02", count * 78), 0.002)
    days = sessions(count)
    for number, columns in enumerate(zip(*(column.tolist() for column in history[:5]), strict=True)):
        day = days[number // 78]
        bars.append(Bar("SPY", day.open_ns + number % 78 * FIVE_NS, *columns))
    return write_csv(folder / "five.csv", bars)


def test_the_5_minute_rows_that_a_strategy_sees_are_those_of_its_table(tmp_path: Path) -> None:
    subject = subject_named("training.analysis.forecast_minutes:ForecastMinutes")
    moments = moments_of(five_minutes(tmp_path, 7), SPEC)
    rows = tabled(subject, moments, SPEC)
    assert rows.values.shape == (7 * 78, COUNT)
    assert int(np.argmax(rows.warm)) == 300
    observations = observed(ForecastMinutes(), moments)
    assert len(observations) == 7 * 78 - 359
    for place in (0, 100, len(observations) - 1):
        expected = rows.values[300 + place : 360 + place].astype(np.float32)
        assert observations[place].array().tobytes() == expected.tobytes()
    state, decision = ForecastMinutes().decide(
        ForecastMinutes().start(), Answer((0.0, 1.0, 0.0)), scripted_view(moments[0], ForecastMinutes().spec)
    )
    assert (state, decision.target) == (ForecastMinutes().start(), Target(0, 0, keep=True))


def test_a_table_of_symbols_names_the_feature_and_the_symbol_that_differ() -> None:
    spec = ForecastEnsemble(("AAA", "BBB")).spec
    same, other = np.zeros((1, 2 * COUNT)), np.zeros((1, 2 * COUNT))
    other[0, COUNT + 1] = 1.0
    findings, warm = DifferenceLog(spec), np.ones(1, dtype=np.bool_)
    findings.rows("table", FeatureRows([0], same, warm), FeatureRows([0], other, warm))
    assert [change.feature for change in findings.report("warmup", spec.name, 1).changes] == [f"{NAMES[1]} BBB"]


def test_a_stand_in_policy_answers_each_symbol_by_its_own_row() -> None:
    history = walk(1, weekdays("2018-01-02", 460))
    spec = ForecastEnsemble(("AAA", "BBB")).spec
    rows = table(*history)[-WINDOW:].reshape(1, -1)
    one = np.concatenate([rows, np.zeros((1, 6), dtype=np.float32)], axis=1)
    matrix = np.concatenate([one, one * np.float32(0.9)])
    policy = linear_policy(spec, [Observation(matrix.astype("<f4").tobytes(), matrix.shape)], 0)
    answer = policy.answer(Observation(matrix.astype("<f4").tobytes(), matrix.shape)).logits
    swapped = policy.answer(Observation(matrix[::-1].astype("<f4").tobytes(), matrix.shape)).logits
    assert answer == swapped[::-1]
    assert len(set(answer)) == 2
