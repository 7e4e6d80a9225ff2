"""`analyse` on daily strategies: planted leaks are found by hand-calculated size, the registered ones are clean.

Expected values: hand calculation on a tape where AAA closes a dollar higher each session and BBB misses every third.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from daemon.host.time.calendar import SessionCalendar, midnight_ns
from strategies import daily_rebalancer, regime_switcher
from strategies.golden import golden_bars
from strategies.kit.contract import Bar, DailySpec
from tests.support.planted.days import SPEC, clean
from tests.support.training.made_up import write_csv
from tests.support.training.made_up_days import days, write_days
from training.analysis.differences import Report
from training.analysis.strategy_runs import Moment, bars_of, moments_of, newest, observed, scripted_portfolio, tabled
from training.analysis.subjects import AnalyseError, Subject, linear_policy, model_policy, strategy_of, subject_named
from training.cli import analyse
from training.data.bars_request import utc

HERE = "tests.support.planted.days"
DATES = days("2024-01-02", "2024-12-31", 30)
Column = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty sessions: AAA closes at 100, 101, …; BBB at 50, on two of three."""
    bars: list[Bar] = []
    for place, date in enumerate(DATES):
        close = 100.0 + place
        bars.append(Bar("AAA", midnight_ns(date), close, close + 1.0, close - 1.0, close, 500.0))
        if place % 3:
            bars.append(Bar("BBB", midnight_ns(date), 50.0, 51.0, 49.0, 50.0, 500.0))
    return write_csv(tmp_path_factory.mktemp("tape") / "days.csv", bars)


def report_of(analysis: str, subject: Subject, tape: Path, samples: int = 4) -> Report:
    moments = moments_of(tape, SPEC)
    policy = linear_policy(SPEC, observed(subject.make(bars_of(moments)), moments), 0)
    return analyse.ANALYSES[analysis](subject, moments, policy, samples, 0)


def planted(name: str) -> Subject:
    return subject_named(f"{HERE}:{name}")


def test_a_session_s_bars_are_one_moment_that_decides_for_the_session_after_it(tape: Path) -> None:
    moments = moments_of(tape, SPEC)
    assert [len(moment.bars) for moment in moments[:4]] == [1, 2, 2, 1]
    assert [moment.session.date for moment in moments[:-1]] == list(DATES[1:])
    assert moments[-1].session.date > DATES[-1]


def test_the_scripted_desk_changes_from_week_to_week_and_its_equity_never() -> None:
    sessions = [moment.session for moment in _moments_of_weeks()]
    portfolios = [scripted_portfolio(SPEC, session) for session in sessions]
    # 100,000 USD in two symbols at 100 USD: none, 250 each or 500 each
    assert {(portfolio.cash, portfolio.shares) for portfolio in portfolios} == {
        (100_000.0, (0, 0)), (50_000.0, (250, 250)), (0.0, (500, 500)),
    }  # fmt: skip
    assert {portfolio.equity for portfolio in portfolios} == {100_000.0}


def _moments_of_weeks() -> tuple[Moment, ...]:
    sessions = SessionCalendar.load(DATES[0], DATES[-1]).sessions[:25]
    return tuple(Moment(session.close_ns, session, 0, ()) for session in sessions)


# --- lookahead ----------------------------------------------------------------------------------------------------


def test_the_next_session_s_close_is_found_with_its_size(tape: Path) -> None:
    report = report_of("lookahead", planted("tomorrow"), tape)
    changes = {change.run: change for change in report.changes}
    assert {change.feature for change in report.changes} == {"planted"}
    assert changes["cut"].largest == pytest.approx(1.0)  # a dollar a session
    assert (
        changes["cut"].bars == changes["wild"].bars == report.samples == 4
    )  # only the newest session sees past the cut
    assert changes["wild"].largest > 100.0  # the next close is twice or three times as large
    assert report.decisions_changed > 0
    assert not report.clean


@pytest.mark.parametrize("name", ["clean", "one_more", "endless"])
def test_a_daily_strategy_that_keeps_to_the_past_is_clean(name: str, tape: Path) -> None:
    report = report_of("lookahead", planted(name), tape)
    assert report.clean
    assert report.compared == report.decisions > 20


def test_training_s_table_of_days_is_cut_off_as_well(tape: Path) -> None:
    def table(*prices: Column, present: npt.NDArray[np.bool_]) -> Column:
        assert present.sum() == np.isfinite(prices[3]).sum()
        return np.column_stack([prices[3][:, 0], prices[3][:, 0] - np.nanmean(prices[3][:, 0])])

    report = report_of("lookahead", Subject("planted", lambda _: clean(), table), tape, samples=1)
    assert [(c.feature, c.run) for c in report.changes] == [("planted", "table cut"), ("planted", "table wild")]
    rows = report.changes[0].bars
    assert report.changes[0].largest == pytest.approx((len(DATES) - rows) / 2)  # the mean of n closes: (n - 1) / 2
    assert report.decisions_changed == 0


# --- warmup -------------------------------------------------------------------------------------------------------


def test_one_bar_more_than_the_strategy_says_is_found_with_its_own_history_alone(tape: Path) -> None:
    report = report_of("warmup", planted("one_more"), tape)
    assert {(change.feature, change.run) for change in report.changes} == {("planted", "1x")}
    assert report.changes[0].largest == pytest.approx(1.0)  # the oldest of five closes, not of six


def test_an_average_that_nothing_anchors_misses_what_its_decay_leaves(tape: Path) -> None:
    report = report_of("warmup", planted("endless"), tape, samples=30)
    changes = {change.run: change for change in report.changes}
    # begun anew it is 2^-n of the old average short, which is the close before the window less one dollar
    first, last = 7, len(DATES) - 1
    assert changes["1x"].largest == pytest.approx((100.0 + last - 5 - 1.0) / 2**5, rel=1e-3)
    assert changes["1x"].bars == len(range(first, last + 1))
    assert changes["4x"].largest < changes["2x"].largest < changes["1x"].largest


def test_history_is_counted_for_each_symbol_so_that_holes_are_no_finding(tape: Path) -> None:
    report = report_of("warmup", planted("clean"), tape, samples=30)
    assert report.clean
    assert report.compared == 3 * (len(DATES) - 7)  # BBB has five bars from the eighth session on
    moments = newest(moments_of(tape, SPEC), 5)
    bars = bars_of(moments)
    assert [sum(bar.symbol == name for bar in bars) for name in SPEC.symbols] == [5, 5]
    assert len(moments) > 5  # BBB's fifth bar is older than AAA's


# --- the registered ones --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("analysis", ["lookahead", "warmup"])
@pytest.mark.parametrize("spec", [daily_rebalancer.SPEC, regime_switcher.SPEC], ids=lambda spec: spec.name)
def test_a_registered_daily_strategy_is_clean(
    spec: DailySpec, analysis: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dates = days("2021-01-04", "2023-12-29", spec.history_bars + 8)
    bars = write_days(tmp_path / "days.csv", spec.symbols, dates)
    arguments = [
        analysis,
        "--strategy",
        spec.name,
        "--bars",
        str(bars),
        "--models-dir",
        str(tmp_path),
        "--samples",
        "1",
    ]
    assert analyse.main(arguments) == 0
    output = capsys.readouterr()
    assert f"{len(dates)} sessions; decisions by a random linear policy" in output.err
    assert output.out.startswith(f"{analysis} of {spec.name}: 1 sessions sampled")
    assert "No observation and no decision" in output.out


def test_the_table_of_stocks_has_its_columns_where_the_observation_has_them(tmp_path: Path) -> None:
    spec = daily_rebalancer.SPEC
    dates = days("2021-01-04", "2023-12-29", spec.history_bars + 1)
    moments = moments_of(write_days(tmp_path / "days.csv", spec.symbols, dates), spec)
    subject = subject_named(spec.name)
    rows = tabled(subject, moments, spec)
    observation = observed(subject.make(golden_bars()), moments)[-1].array()
    report_text = {"cash", "portfolio_value", "weekday", *(f"shares {symbol}" for symbol in spec.symbols)}
    account = np.array([name in report_text for name in spec.features])
    assert np.array_equal(rows.values[-1][~account], observation[~account].astype(np.float64))
    assert subject_named(regime_switcher.SPEC.name).table is not None


def _onnx(path: Path, output: str) -> Path:
    """tanh of a thousandth of each of the first two values."""
    weights = numpy_helper.from_array(np.array([[1e-3, 0.0], [0.0, 1e-3], [0.0, 0.0]], dtype=np.float32), "weights")
    nodes = [
        helper.make_node("MatMul", ["observation", "weights"], ["sum"]),
        helper.make_node("Tanh", ["sum"], [output]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
        for name, width in (("observation", 3), (output, 2))
    ]
    graph = helper.make_graph(nodes, "policy", ends[:1], ends[1:], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_a_model_of_continuous_actions_decides_where_one_is_given(tmp_path: Path) -> None:
    policy = model_policy(str(_onnx(tmp_path / "policy.onnx", "actions")), tmp_path, SPEC, "")
    assert policy is not None
    (answer,) = policy.batch(np.array([[100.0, 50.0, 0.0]], dtype=np.float32)).tolist()
    assert answer == pytest.approx([math.tanh(0.1), math.tanh(0.05)], rel=1e-5)
    with pytest.raises(AnalyseError, match=r"'logits': \[2\]}, expected .*'actions': \[2\]"):
        model_policy(str(_onnx(tmp_path / "other.onnx", "logits")), tmp_path, SPEC, "")


def test_a_model_with_a_memory_is_refused_and_the_store_s_is_passed_over(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "regime_switcher" / "v1"
    folder.mkdir(parents=True)
    (folder / "policy.onnx").write_bytes(b"never read")
    (folder.parent / "current").write_text("v1\n")
    assert model_policy("", tmp_path, regime_switcher.SPEC, "") is None
    with pytest.raises(AnalyseError, match=r"--model v1: regime_switcher carries a memory.*leave --model out"):
        model_policy("v1", tmp_path, regime_switcher.SPEC, "")


# --- what cannot be measured ------------------------------------------------------------------------------------------


def test_what_is_no_daily_strategy_or_table_of_days_is_refused(tape: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from tests.support.planted.days import Forgetful as Mine\n")
    with pytest.raises(AnalyseError, match="Mine is no strategy: remember is missing"):
        strategy_of(subject_named(f"{file}:Mine"), ())
    short = Subject("short", lambda _: clean(), lambda *prices, **_: prices[3][1:])
    with pytest.raises(AnalyseError, match=r"feature_table of short has shape \(29, 2\) for 30 sessions"):
        tabled(short, moments_of(tape, SPEC), SPEC)


def test_a_mistake_on_the_command_line_is_one_line(tape: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert analyse.main(["lookahead", "--strategy", "regime_switcher", "--bars", str(tape)]) == 2
    err = capsys.readouterr().err
    assert "AAA" in err
    assert err.count("\n") == 1


def test_a_change_is_labelled_by_the_midnight_of_its_session(tape: Path) -> None:
    report = report_of("warmup", planted("one_more"), tape, samples=30)
    assert report.changes[0].first_bar == utc(midnight_ns(DATES[7]))
