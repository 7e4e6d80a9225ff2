"""`train-and-export analyse` on planted strategies that leak or never forget, and on the real one, which is clean.

Expected values: hand calculation on a tape whose close rises by a cent a minute.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from strategies.kit.contract import Answer, Bar, Choice, Decision, Observation, Target, View
from tests.support.paths import REPOSITORY
from tests.support.planted.strategies import DECAY, HISTORY, SPEC, WINDOW, Memory, Planted, anchored
from tests.support.training.made_up import sessions, write_csv
from training.analysis.differences import Report
from training.analysis.strategy_runs import moments_of, observed, tabled
from training.analysis.subjects import AnalyseError, CachedPolicy, Subject, linear_policy, model_policy, subject_named
from training.cli import analyse
from training.data.bars_request import utc

STORE = REPOSITORY / "onnx_models"
HERE = "tests.support.planted.strategies"
MINUTE_NS = 60_000_000_000
Column = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four sessions in which every close is a cent above the one before."""
    bars: list[Bar] = []
    for day in sessions(4):
        for minute in range((day.close_ns - day.open_ns) // MINUTE_NS):
            close = 100.0 + 0.01 * len(bars)
            bars.append(Bar("SPY", day.open_ns + minute * MINUTE_NS, close, close + 0.02, close - 0.02, close, 500.0))
    return write_csv(tmp_path_factory.mktemp("tape") / "rising.csv", bars)


def report_of(analysis: str, planted: str, tape: Path, samples: int = 3) -> Report:
    subject = subject_named(f"{HERE}:{planted}")
    moments = moments_of(tape, SPEC)
    bars = tuple(bar for moment in moments for bar in moment.bars)
    policy = linear_policy(SPEC, observed(subject.make(bars), moments), 0)
    return analyse.ANALYSES[analysis](subject, moments, policy, samples, 0)


# --- lookahead ----------------------------------------------------------------------------------------------------


def test_a_centred_mean_is_found_with_its_feature_its_first_bar_and_its_size(tape: Path) -> None:
    report = report_of("lookahead", "centred_mean", tape, samples=1)
    changes = {change.run: change for change in report.changes}
    assert set(changes) == {"cut", "wild"}
    assert {change.feature for change in report.changes} == {"planted"}
    # cut off, the last bar's mean is of three closes that end with it, not of five around it: half a step of two cents
    assert changes["cut"].largest == pytest.approx(0.01, rel=1e-2)
    assert changes["cut"].bars == 2  # the bar at the cut and the one before it, whose mean lacks one close
    assert changes["wild"].first_bar == changes["cut"].first_bar
    assert changes["wild"].largest > 10.0
    assert not report.clean


def test_a_mean_of_the_whole_file_is_found_from_the_first_observation_on(tape: Path) -> None:
    report = report_of("lookahead", "file_mean", tape)
    first = sessions(1)[0].open_ns + HISTORY * MINUTE_NS  # the first bar that has 40 before it
    assert [change.feature for change in report.changes] == ["planted", "planted"]
    assert {change.first_bar for change in report.changes} == {utc(first)}
    assert report.changes[0].bars > 100
    assert report.decisions_changed > 0


def test_a_strategy_that_keeps_to_the_past_is_clean(tape: Path) -> None:
    for planted in ("anchored", "endless_average"):
        report = report_of("lookahead", planted, tape)
        assert report.clean
        assert report.compared > 100
        assert report.decisions == report.compared


def test_training_s_own_table_is_cut_off_as_well(tape: Path) -> None:
    def table(*columns: Column, **_: object) -> Column:
        close = columns[3]
        return np.column_stack([close / 100.0, close - close.mean()])

    subject = Subject("planted", lambda _: anchored(), table)
    moments = moments_of(tape, SPEC)
    policy = linear_policy(SPEC, observed(anchored(), moments), 0)
    report = analyse.lookahead(subject, moments, policy, 1, 0)
    assert [(change.feature, change.run) for change in report.changes] == [
        ("planted", "table cut"),
        ("planted", "table wild"),
    ]
    assert report.decisions_changed == 0
    places = round(report.changes[0].largest / 0.005)  # the mean of n closes is half of n cents above the first
    assert report.changes[0].bars == len(moments) - places


# --- warmup -------------------------------------------------------------------------------------------------------


def test_an_average_that_nothing_anchors_differs_by_what_its_decay_leaves(tape: Path) -> None:
    report = report_of("warmup", "endless_average", tape, samples=10)
    changes = {change.run: change for change in report.changes if change.feature == "planted"}
    # on a line of slope d the average lags by L = d * decay / (1 - decay), of which decay^n is missing n bars after
    # its start; the first row of a session has the multiple of 40 bars before it
    lag = 0.01 * DECAY / (1 - DECAY)
    assert changes["1x"].largest == pytest.approx(lag * DECAY**40, rel=0.05)
    assert changes["2x"].largest == pytest.approx(lag * DECAY**80, abs=1e-5)  # float32 at 100 has steps of 7.6e-6
    assert "anchored" not in {change.feature for change in report.changes}
    assert changes["1x"].relative == pytest.approx(changes["1x"].largest / 104, rel=0.1)


def test_features_of_the_session_alone_do_not_differ_at_all(tape: Path) -> None:
    report = report_of("warmup", "anchored", tape, samples=10)
    assert report.clean
    assert report.samples == 3  # of the four sessions the first has no history


def test_a_strategy_that_needs_more_than_it_says_has_no_observation_with_its_own_history(tape: Path) -> None:
    subject = Subject("greedy", lambda _: Planted(lambda _, bar: bar.high - bar.low, needs=60), None)
    moments = moments_of(tape, SPEC)
    policy = linear_policy(SPEC, observed(subject.make(()), moments), 0)
    report = analyse.warmup(subject, moments, policy, 1, 0)
    missing = [change for change in report.changes if change.feature == "(no observation)"]
    assert [(change.run, change.bars) for change in missing] == [("1x", 60 - HISTORY + 1 - WINDOW)]
    assert report.decisions_changed == missing[0].bars


# --- other shapes ---------------------------------------------------------------------------------------------------


class Fickle:
    """Its decisions are part of what it sees next: a policy cannot be asked ahead of it."""

    spec = msgspec.structs.replace(SPEC, observation_shape=(1, 3), features=("a", "b"), symbols=("SPY", "QQQ"))
    state_type = Memory

    def __init__(self, peek: float) -> None:
        self._peek = peek

    def start(self) -> Memory:
        return Memory()

    def observe(self, state: Memory, bars: tuple[Bar, ...], view: View) -> tuple[Memory, Observation | None]:
        state = msgspec.structs.replace(state, seen=state.seen + 1)
        values = np.array([[state.average, len(bars), self._peek]], dtype="<f4")
        return state, Observation(values.tobytes(), (1, 3))

    def correct(self, state: Memory, bar: Bar) -> Memory:
        return state

    def decide(self, state: Memory, answer: Answer, view: View) -> tuple[Memory, Decision]:
        state = msgspec.structs.replace(state, average=state.average + answer.logits[0])
        return state, Decision(Choice((1.0,), 0, 1.0), 0, Target(0, 100))


def test_symbols_that_close_together_are_one_moment_and_decisions_may_feed_back(tape: Path, tmp_path: Path) -> None:
    spy = [bar for moment in moments_of(tape, SPEC) for bar in moment.bars][:100]
    pairs = [bar for one in spy for bar in (one, msgspec.structs.replace(one, symbol="QQQ"))]
    moments = moments_of(write_csv(tmp_path / "pairs.csv", pairs), Fickle.spec)
    assert [len(moment.bars) for moment in moments] == [2] * 100
    sizes: list[int] = []

    def batch(observations: npt.NDArray[np.float32]) -> Column:
        sizes.append(len(observations))
        return observations[:, 0, :2].astype(np.float64) + 1.0

    subject = Subject("fickle", lambda bars: Fickle(float(len(bars))), None, takes_bars=True)
    report = analyse.lookahead(subject, moments, CachedPolicy("one", batch), 1, 0)
    assert sizes[:3] == [1, 1, 1]  # one before the first decision, then each as the decisions make it
    assert {change.feature for change in report.changes} == {"value 2"}
    assert {change.run for change in report.changes} == {"cut"}  # the wild future is as long as the real one


# --- the real one -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("analysis", ["lookahead", "warmup"])
def test_option_scalper_is_clean_on_the_bundled_tape(analysis: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = analyse.main([analysis, "--strategy", "option_scalper", "--models-dir", str(STORE), "--samples", "3"])
    out, err = capsys.readouterr()
    assert code == 0, out
    assert "/policy.onnx" in err
    assert "No observation and no decision" in out


def test_without_a_model_a_random_policy_decides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["warmup", "--strategy", "option_scalper", "--models-dir", str(tmp_path), "--samples", "2"]
    assert analyse.main(arguments) == 0
    assert "decisions by a random linear policy (no model)" in capsys.readouterr().err


# --- the command line ---------------------------------------------------------------------------------------------


def test_a_strategy_in_a_file_of_its_own_is_found_and_its_leak_told(
    tape: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"from {HERE} import file_mean\n\n\ndef Mine(bars):\n    return file_mean(bars)\n")
    code = analyse.main(["lookahead", "--strategy", f"{file}:Mine", "--bars", str(tape), "--samples", "2"])
    out = capsys.readouterr().out
    assert code == 1
    lines = out.splitlines()
    assert lines[0].startswith("lookahead of Mine: 2 bars sampled")
    assert lines[1].split() == ["feature", "run", "first", "bar", "bars", "largest", "relative"]
    assert lines[2].split()[:3] == ["planted", "cut", "2024-05-20T14:10:00Z"]
    assert "1 features and" in lines[-1]
    assert lines[-1].endswith(
        "depend on bars that come later: what was learned or measured with them will not be seen live."
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--strategy", "option_scalpel"), "did you mean 'option_scalper'"),
        (("--strategy", "no.such.module:Class"), "no.such.module cannot be imported (ModuleNotFoundError"),
        (("--strategy", "missing.py:Class"), "missing.py cannot be imported (FileNotFoundError"),
        (("--strategy", f"{HERE}:nothing"), "has no class or function 'nothing'"),
        (("--strategy", f"{HERE}:no_strategy"), "is no strategy: state_type, start, observe, decide is missing"),
        (("--strategy", f"{HERE}:demanding"), "missing a required argument: 'threshold'"),
        (("--strategy", f"{HERE}:never_warm"), "never_warm has no observation on 11520 bars"),
        (("--strategy", "option_scalper", "--bars", "missing.csv"), "missing.csv: no such file"),
        (("--strategy", "option_scalper", "--samples", "0"), "--samples is 0"),
        (("--strategy", "option_scalper", "--model", "v9"), "--model v9: no such file, folder or version"),
    ],
)
def test_what_cannot_be_analysed_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert analyse.main(["lookahead", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_file_that_raises_is_no_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "broken.py"
    file.write_text("ratio = 1 / 0\n")
    assert analyse.main(["lookahead", "--strategy", f"{file}:Mine"]) == 2
    assert "broken.py cannot be imported (ZeroDivisionError: division by zero)" in capsys.readouterr().err


def test_a_store_whose_current_version_is_gone_is_one_without_a_model(tmp_path: Path) -> None:
    (tmp_path / SPEC.name).mkdir()
    (tmp_path / SPEC.name / "current").write_text("v7\n")
    assert model_policy("", tmp_path, SPEC, "") is None
    with pytest.raises(AnalyseError, match="--model v7: no such file, folder or version of planted"):
        model_policy("v7", tmp_path, SPEC, "")


def test_a_model_of_another_contract_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = (STORE / "option_scalper" / "current").read_text().strip()
    folder = tmp_path / "option_scalper" / version
    shutil.copytree(STORE / "option_scalper" / version, folder)
    manifest = msgspec.json.decode((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest | {"contract_hash": "0" * 64}))
    assert analyse.main(["warmup", "--strategy", "option_scalper", "--model", str(folder)]) == 2
    assert "its contract hash is 000000000000…" in capsys.readouterr().err


def test_a_model_of_another_shape_is_refused(tape: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = (STORE / "option_scalper" / "current").read_text().strip()
    model = str(STORE / "option_scalper" / version / "policy.onnx")
    assert analyse.main(["warmup", "--strategy", f"{HERE}:anchored", "--bars", str(tape), "--model", model]) == 2
    assert "{'observation': [20, 23], 'logits': [6]}, expected {'observation': [5, 2], 'logits': [2]}" in (
        capsys.readouterr().err
    )


def test_a_file_that_is_no_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "policy.onnx").write_text("no model")
    assert analyse.main(["warmup", "--strategy", "option_scalper", "--model", str(tmp_path)]) == 2
    assert "it is no ONNX file" in capsys.readouterr().err


def test_a_table_with_another_number_of_rows_is_refused(tape: Path) -> None:
    subject = Subject("short", lambda _: anchored(), lambda *columns, **_: columns[3][1:, None])
    with pytest.raises(AnalyseError, match=r"feature_table of short has shape \(1559, 1\) for 1560 bars"):
        tabled(subject, moments_of(tape, SPEC), SPEC)


def test_a_file_of_one_session_cannot_vary_the_history(tape: Path, tmp_path: Path) -> None:
    one = tmp_path / "one.csv"
    one.write_text("\n".join([*tape.read_text().splitlines()[:391], ""]))
    with pytest.raises(AnalyseError, match="no session has more than 40 bars before it in 390 bars"):
        report_of("warmup", "anchored", one)
