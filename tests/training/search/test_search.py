"""A search from end to end on made-up bars, and its book of trials on made-up earnings: what counts, what is seen."""

from __future__ import annotations

import fcntl
import json
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from math import fsum
from pathlib import Path
from statistics import fmean, stdev

import msgspec
import optuna
import pytest

from daemon.core.events import BarClosed
from strategies.kit.contract import Bar
from tests.support.training.made_up import drifting, write_csv
from training.cli import main as cli
from training.cli.search import main, parser, search_from
from training.desks.ppo import spans_before
from training.desks.trial import Diverged
from training.evidence.overfitting import expected_maximum
from training.rl.coefficients import SPACE, Coefficients
from training.rl.dimensions import Dimension, Plan, read_plan
from training.rl.pool import Flag, Stopped
from training.runs.folder import RunFolderError
from training.runs.ledger import Ledger, ledger_path
from training.runs.settings import Settings
from training.studies.runner import write_result
from training.studies.search.search import Results, SearchProcess, one_trial, results_of, run_search
from training.studies.search.trials import (
    Search,
    TrialBook,
    TrialResult,
    TrialSetup,
    TrialTraining,
    make_ready,
    open_book,
)
from training.study.folds import HistoryError
from training.study.study import Fold

SMALL = Coefficients(environments=32, rollout_steps=64, batch=512, epochs=4, learning_rate=1e-3)
FEW = (
    Dimension("learning_rate", "", 8e-4, 2e-3, log=True),
    Dimension("value_clip", "", 0.1, 0.4, optional=True),
    Dimension("epochs", "", 4, 5, whole=True),
)
FIRST_TEST = "2024-06-28"  # of eight usable sessions from 2024-06-20 on: 3 train, a gap, 1 validates, a gap
Earn = Callable[[Plan, int, int, Flag], TrialTraining]


def _bars(seed: int) -> list[Bar]:
    return [event.bar for event in drifting(29, seed) if isinstance(event, BarClosed)]


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("bars") / "drift.csv", _bars(7))


def _search(bars: Path, folder: Path, *, trials: int, steps: int = 1, folds: int = 2) -> Search:
    run = Settings(
        "option_scalper", bars, folder / "store", steps=steps, folds=folds, train_sessions=3, validate_sessions=1,
        test_sessions=1, purge_sessions=1, plan=SMALL, processes=1, run_folder=folder / "study",
    )  # fmt: skip
    return Search(run, trials=trials, space=FEW)


@pytest.fixture(scope="module")
def ready(bars: Path, tmp_path_factory: pytest.TempPathFactory) -> TrialSetup:
    return make_ready(_search(bars, tmp_path_factory.mktemp("ready"), trials=1), "")


def _desk(ready: TrialSetup, folder: Path, earn: Earn, *, seeds: int = 1) -> SearchProcess:
    """A book in a new folder, and trainings that earn what `earn` says."""
    folder.mkdir(exist_ok=True)
    run = replace(ready.search.run, seeds=tuple(range(1, seeds + 1)), out=folder / "store")
    search = replace(ready.search, run=run)
    book = open_book(search, folder, ready)
    book.take_up()
    return SearchProcess(ready, book, earn)


def _earning(worth: Callable[[Coefficients], float]) -> Earn:
    def earn(coefficients: Plan, fold: int, seed: int, _: Flag) -> TrialTraining:
        assert isinstance(coefficients, Coefficients)
        value = worth(coefficients)
        returns = (value + 0.01 * fold, value - 0.01 * seed)
        return TrialTraining(fold, seed, returns, fsum(returns), 100, 200, 2.0)

    return earn


def _by_rate(coefficients: Coefficients) -> float:
    return coefficients.learning_rate * 10.0


def _run(desk: SearchProcess, positions: Sequence[int]) -> list[TrialResult]:
    return [one_trial(desk, position, threading.Event(), lambda _: None) for position in positions]


def _notes(book: TrialBook) -> list[str]:
    return [line.note for line in book.ledger.read().lines]


@pytest.fixture(scope="module")
def searched(bars: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path]:
    """Two trials of two real trainings. The folder in which the command is given stays empty."""
    search = _search(bars, tmp_path_factory.mktemp("searched"), trials=2, steps=12_288)
    here = tmp_path_factory.mktemp("here")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        results = run_search(search, lambda _: None)
    assert list(here.iterdir()) == []
    return results


def test_the_first_trial_has_the_defaults_and_all_are_in_the_ledger_against_the_tests_to_come(
    searched: tuple[Results, Path],
) -> None:
    results, folder = searched
    by_number = {trial.number: trial for trial in results.trials}
    assert sorted(by_number) == [0, 1]
    assert replace(Coefficients(), **by_number[0].coefficients) == SMALL
    assert by_number[1].coefficients["learning_rate"] != SMALL.learning_rate
    ledger = Ledger(ledger_path(folder.parent / "store", "option_scalper"))
    assert {line.note.split(":")[0] for line in ledger.read().lines} == {
        f"search, trial {number}, {trial.state}" for number, trial in by_number.items()
    }
    assert sorted(ledger.prior([FIRST_TEST])[0]) == sorted(trial.sharpe for trial in results.trials)
    assert ledger.prior(["2024-07-02"]) == ((), 0)  # after the last test session
    assert results.best is not None
    assert read_plan(folder / "coefficients.json", Coefficients()) == replace(
        Coefficients(), **results.best.coefficients
    )
    assert msgspec.json.decode((folder / "search.json").read_bytes(), type=Results) == results


def test_other_bars_in_the_test_sessions_change_no_trial(searched: tuple[Results, Path], tmp_path: Path) -> None:
    results, _ = searched
    first = next(bar.start_ns for bar in _bars(7) if _date(bar) >= FIRST_TEST)
    before = [bar for bar in _bars(7) if bar.start_ns < first]
    other = write_csv(tmp_path / "drift.csv", [*before, *(bar for bar in _bars(8) if bar.start_ns >= first)])
    again, _ = run_search(_search(other, tmp_path, trials=2, steps=12_288), lambda _: None)
    assert results.first_test == again.first_test == FIRST_TEST
    assert again.settings["bars_sha256"] != results.settings["bars_sha256"]
    assert [_without_speed(trial) for trial in again.trials] == [_without_speed(trial) for trial in results.trials]
    assert any(trial.validation_return != 0.0 for trial in results.trials)  # they traded, so there was a result to move


def _date(bar: Bar) -> str:
    return datetime.fromtimestamp(bar.start_ns / 1e9, tz=UTC).date().isoformat()


def _without_speed(trial: TrialResult) -> TrialResult:
    return msgspec.structs.replace(trial, steps_per_s=0.0)


def test_the_same_command_again_does_nothing_anew_and_more_trials_go_on(
    searched: tuple[Results, Path], bars: Path
) -> None:
    results, folder = searched
    messages: list[str | TrialResult] = []
    search = _search(bars, folder.parent, trials=2, steps=12_288)
    again, _ = run_search(search, messages.append)
    assert again == results
    assert not [news for news in messages if isinstance(news, TrialResult)]
    other = replace(search, run=replace(search.run, steps=8_192))
    with pytest.raises(RunFolderError, match="steps = 12288, this one has 8192: use another --study-dir"):
        run_search(other, messages.append)


def test_spans_to_validate_on_lie_before_the_first_test_and_the_last_is_the_first_fold_s_own() -> None:
    dates = [f"2024-01-{day:02}" for day in range(1, 31)]
    folds = [
        Fold(tuple(dates[:10]), tuple(dates[11:14]), tuple(dates[15:20])),
        Fold(tuple(dates[:15]), tuple(dates[16:19]), tuple(dates[20:25])),
        Fold(tuple(dates[:20]), tuple(dates[21:24]), tuple(dates[25:30])),
    ]
    spans = spans_before(folds, dates)
    assert spans == (
        Fold(tuple(dates[:4]), tuple(dates[5:8]), ()),
        Fold(tuple(dates[:7]), tuple(dates[8:11]), ()),
        Fold(tuple(dates[:10]), tuple(dates[11:14]), ()),
    )
    short = [msgspec.structs.replace(fold, train=fold.train[:6]) for fold in folds]
    with pytest.raises(HistoryError, match="3 spans of 3 to validate on needs 7"):
        spans_before(short, dates)


def test_a_hopeless_trial_is_given_up_after_its_first_training_and_still_counts(
    ready: TrialSetup, tmp_path: Path
) -> None:
    trial_numbers: list[int] = []

    def earn(coefficients: Plan, fold: int, seed: int, flag: Flag) -> TrialTraining:
        trial_numbers.append(len(desk.book.finished()))
        hopeless = len(desk.book.finished()) == 6
        return _earning(lambda _: -0.5 if hopeless else 0.1)(coefficients, fold, seed, flag)

    desk = _desk(ready, tmp_path, earn, seeds=3)
    trials = _run(desk, range(7))
    assert [trial.state for trial in trials] == ["complete"] * 6 + ["pruned"]
    assert [trial_numbers.count(trial) for trial in range(7)] == [6] * 6 + [1]
    assert trials[6].validation_return == pytest.approx(-0.5 - 0.5 - 0.01)
    assert [line.sharpe for line in desk.book.ledger.read().lines] == [trial.sharpe for trial in trials]
    assert _notes(desk.book)[6].startswith("search, trial 6, pruned: Sharpe ratio on validation sessions, 1 trainings")


def test_a_trial_is_worth_the_mean_of_its_trainings_and_its_sharpe_ratio_is_that_of_all_their_sessions(
    ready: TrialSetup, tmp_path: Path
) -> None:
    (trial,) = _run(_desk(ready, tmp_path, _earning(lambda _: 0.03)), [0])
    returns = [0.03, 0.02, 0.04, 0.02]  # fold 1, fold 2 of seed 1
    assert trial.validation_return == pytest.approx((0.05 + 0.06) / 2)
    assert trial.sharpe == pytest.approx(fmean(returns) / stdev(returns))
    assert trial.steps_per_s == pytest.approx(400 / 4.0)


def test_a_search_that_was_stopped_makes_the_trials_of_an_undisturbed_one_and_trains_nothing_twice(
    ready: TrialSetup, tmp_path: Path
) -> None:
    undisturbed = _run(_desk(ready, tmp_path / "a", _earning(_by_rate)), range(14))
    trainings: list[tuple[float, int]] = []
    stops = iter([False] * 7 + [True] + [False] * 50)

    def earn(coefficients: Plan, fold: int, seed: int, flag: Flag) -> TrialTraining:
        if next(stops):
            raise Stopped("asked to")
        assert isinstance(coefficients, Coefficients)
        trainings.append((coefficients.learning_rate, fold))
        return _earning(_by_rate)(coefficients, fold, seed, flag)

    first = _desk(ready, tmp_path / "b", earn)
    with pytest.raises(Stopped):
        _run(first, range(14))
    assert len(_notes(first.book)) == 3
    second = _desk(ready, tmp_path / "b", earn)
    count = len(second.book.finished())
    _run(second, range(count, 14))
    trials = second.book.finished()
    assert sorted(map(_encode, trials)) == sorted(map(_encode, undisturbed))
    assert len(trainings) == len(set(trainings)) == sum(trial.trainings for trial in undisturbed)
    assert len(_notes(second.book)) == len(set(_notes(second.book))) == 14


def _encode(trial: TrialResult) -> str:
    return msgspec.json.encode(msgspec.structs.replace(trial, number=0, steps_per_s=0.0)).decode()


def test_the_same_seed_suggests_the_same_and_another_seed_others(ready: TrialSetup, tmp_path: Path) -> None:
    def coefficients(name: str, seed: int) -> list[dict[str, object]]:
        desk = _desk(replace(ready, search=replace(ready.search, seed=seed)), tmp_path / name, _earning(_by_rate))
        return [trial.coefficients for trial in _run(desk, range(12))]

    first, same, other = coefficients("a", 1), coefficients("b", 1), coefficients("c", 2)
    assert first == same
    assert first[0] == other[0]  # the defaults
    assert not [one for one in first[1:] if one in other]


def test_a_trial_that_diverges_counts_as_one_that_earned_nothing_and_the_search_goes_on(
    ready: TrialSetup, tmp_path: Path
) -> None:
    def earn(coefficients: Plan, fold: int, seed: int, flag: Flag) -> TrialTraining:
        if not desk.book.finished():
            raise Diverged("the loss is nan")
        return _earning(_by_rate)(coefficients, fold, seed, flag)

    desk = _desk(ready, tmp_path, earn)
    trials = _run(desk, range(2))
    assert [(trial.state, trial.trainings) for trial in trials] == [("diverged", 0), ("complete", 2)]
    assert trials[0].reason == "diverged: the loss is nan"
    assert [line.sharpe for line in desk.book.ledger.read().lines] == [0.0, trials[1].sharpe]


def test_the_best_of_many_is_told_with_what_luck_alone_would_give(ready: TrialSetup, tmp_path: Path) -> None:
    desk = _desk(ready, tmp_path, _earning(_by_rate))
    trials = _run(desk, range(25))
    results = results_of(ready, desk.book, tmp_path)
    luck = expected_maximum(stdev(trial.sharpe for trial in trials), 25)
    assert results.expected_maximum_sharpe == pytest.approx(luck)
    assert f"the best would have {luck:+.3f} a session" in results.caution
    assert max(results.importances, key=lambda name: results.importances[name]) == "learning_rate"
    assert results.best == max(trials, key=lambda trial: trial.validation_return)
    sessions = "--test-sessions 1 --purge-sessions 1"
    assert results.command.endswith(f"{sessions} --coefficients {tmp_path / 'coefficients.json'}")


def test_the_defaults_lie_in_the_space_and_every_suggestion_is_a_coefficient_that_a_file_may_hold(
    tmp_path: Path,
) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for dimension in SPACE:
        study.enqueue_trial(dimension.fixed(getattr(Coefficients(), dimension.name)))
        assert dimension.suggest(study.ask()) == getattr(Coefficients(), dimension.name)
    for index in range(50):
        trial = study.ask()
        values = replace(Coefficients(), **{dimension.name: dimension.suggest(trial) for dimension in SPACE})
        write_result(tmp_path / f"{index}.json", values.differences(Coefficients()))
        assert read_plan(tmp_path / f"{index}.json", Coefficients()) == values
        assert values.batch <= values.environments * values.rollout_steps
        assert values.rollout_steps % values.sequence == 0
    with pytest.raises(ValueError, match="epochs is 3: expected 4 to 10"):
        next(dimension for dimension in SPACE if dimension.name == "epochs").fixed(3)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is not a file of coefficients"),
        ("[1]", "is not a file of coefficients"),
        ('{"learning_rat": 1e-3}', "unknown coefficient 'learning_rat': did you mean 'learning_rate'?"),
        ('{"zzz": 1}', "unknown coefficient 'zzz': expected some of learning_rate, schedule"),
        ('{"learning_rate": "fast"}', "learning_rate is 'fast': expected a number above 0 up to 1"),
        ('{"learning_rate": true}', "learning_rate is True: expected a number above 0 up to 1"),
        ('{"epochs": 2.5}', "epochs is 2.5: expected a whole number from 1"),
        ('{"epochs": 0}', "epochs is 0: expected a whole number from 1"),
        ('{"clip": null}', "clip is None: expected a number above 0 up to 1"),
        ('{"value_clip": -1}', "value_clip is -1: expected a number above 0, or null"),
        ('{"schedule": "steep"}', "schedule is 'steep': expected one of 'linear', 'cosine', 'constant'"),
        ('{"normalize_advantage": 1}', "normalize_advantage is 1: expected true or false"),
    ],
)
def test_a_file_of_coefficients_at_fault_is_told_by_name_value_and_cure(
    text: str, complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "coefficients.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        read_plan(path, Coefficients())
    assert complaint in str(caught.value)


def test_a_file_of_coefficients_names_only_what_differs(tmp_path: Path) -> None:
    plan = replace(Coefficients(), epochs=4, target_kl=0.02)
    write_result(tmp_path / "c.json", plan.differences(Coefficients()))
    assert json.loads((tmp_path / "c.json").read_text()) == {"epochs": 4, "target_kl": 0.02}
    (tmp_path / "d.json").write_text('{"value_clip": null, "clip": 1}')
    assert read_plan(tmp_path / "d.json", Coefficients()) == replace(Coefficients(), clip=1.0)


def test_two_searches_in_one_folder_and_a_journal_that_was_cut_off(bars: Path, tmp_path: Path) -> None:
    search = _search(bars, tmp_path, trials=1, steps=2_048)
    results, folder = run_search(search, lambda _: None)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunFolderError, match="is in use by another search"):
            run_search(search, lambda _: None)
    with (folder / "study.log").open("ab") as log:
        log.write(b'{"op_code": 4, "work')
    assert run_search(search, lambda _: None)[0] == results


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--strategy", "option_scalpel"], "did you mean 'option_scalper'?"),
        (["--bars", "missing.csv"], "missing.csv"),
        (["--folds", "9"], "too little history"),
    ],
)
def test_what_cannot_be_searched_ends_with_exit_code_2_and_one_line(
    arguments: list[str], complaint: str, bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--strategy", "option_scalper", "--bars", str(bars), "--out", str(tmp_path / "store")]
    assert main([*options, "--study-dir", str(tmp_path / "study"), *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("train-and-export search: ")
    assert complaint in lines[-1]
    assert not (tmp_path / "store").exists()


def test_the_command_tells_of_each_trial_and_prints_where_its_findings_are(
    bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--strategy", "option_scalper", "--bars", str(bars), "--out", str(tmp_path / "store"), "--trials", "1"]
    study = tmp_path / "study"
    small = ["--steps", "1", "--folds", "1", "--seeds", "1", "--processes", "1", "--study-dir", str(study)]
    assert cli.main(["search", *arguments, *small]) == 0
    output = capsys.readouterr()
    assert output.out == f"{study / 'search.json'}\n"
    assert "trial   0  complete  validation " in output.err
    assert output.err.splitlines()[-1].startswith("train-and-export --strategy option_scalper --bars ")
    assert (study / "coefficients.json").read_text() == "{}\n"  # the defaults


def test_a_search_that_is_asked_to_stop_says_how_to_go_on(ready: TrialSetup) -> None:
    flag = threading.Event()
    flag.set()
    with pytest.raises(Stopped):
        run_search(ready.search, lambda _: None, flag)


def test_options_become_a_search_and_those_out_of_bounds_are_refused() -> None:
    arguments = ["--strategy", "option_scalper", "--bars", "b.csv", "--out", "store"]
    settings = search_from(
        parser().parse_args([*arguments, "--seed", "5", "--seeds", "3", "--folds", "2", "--ray", "local"])
    )
    assert settings.pairs == ((0, 5), (1, 5), (0, 6), (1, 6), (0, 7), (1, 7))
    assert (settings.seed, settings.ray, settings.trials, settings.run.steps) == (5, "local", 50, 150_000)
    with pytest.raises(SystemExit) as exit_info:
        main([*arguments, "--trials", "0"])
    assert exit_info.value.code == 2
