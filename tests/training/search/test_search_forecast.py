"""A search for `forecast_ensemble`: forecaster and agents, by its own procedure, on sessions before the first test."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from daemon.host.time.calendar import midnight_ns
from strategies.forecast_ensemble import SPEC
from strategies.kit.contract import Bar
from strategies.kit.synthetic import synthetic_days
from tests.support.training.made_up import write_csv
from tests.support.training.made_up_days import days
from tests.support.training.ray_processes import left, mark
from training.cli.search import main, parser, search_from
from training.cli.train import parser as training_parser
from training.cli.train import settings_from
from training.desks.forecast.plan import PRESETS, ForecastPlan, folds_of
from training.rl.dimensions import Dimension, value_of, with_values
from training.runs.ledger import Ledger, ledger_path
from training.runs.settings import Settings, requests_of, settings_for
from training.studies.search.search import run_search
from training.studies.search.trials import Search, TrialResult, make_ready
from training.study.folds import HistoryError

SYMBOLS = ("AAA", "BBB", "CCC")
PLAN = msgspec.convert(msgspec.to_builtins(PRESETS["smoke"].plan), ForecastPlan)
FEW = (
    Dimension("forecaster.recipe.learning_rate", "", 5e-4, 2e-3, log=True),
    Dimension("sac.learning_rate", "", 1e-3, 1e-2, log=True),
)


def rising(seed: int) -> list[Bar]:
    """Days to the middle of the tested year, 2022; they rise by 0.2 % a session, so that a policy learns to buy."""
    dates = days("2016-06-01", "2022-07-15")
    place = {midnight_ns(date): number for number, date in enumerate(dates)}
    walks = synthetic_days(seed, SYMBOLS, place)
    return [_raised(bar, 1.002 ** place[bar.start_ns]) for bar in walks]


def _raised(bar: Bar, factor: float) -> Bar:
    prices = {name: round(getattr(bar, name) * factor, 2) for name in ("open", "high", "low", "close")}
    return msgspec.structs.replace(bar, **prices)


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("bars") / "days.csv", rising(3))


def searching(bars: Path, home: Path) -> Search:
    run = settings_for(SPEC.name, bars, home / "store", preset="smoke")
    run = replace(run, symbols=SYMBOLS, processes=1, steps=32_768, folds=1, run_folder=home / "study")
    return Search(run, trials=2, space=FEW, preset="smoke")


def without_speed(trial: TrialResult) -> TrialResult:
    return msgspec.structs.replace(trial, steps_per_s=0.0)


def sharpes(home: Path) -> list[float | None]:
    lines = Ledger(ledger_path(home / "store", SPEC.name)).read().lines
    return sorted((line.sharpe for line in lines), key=str)


@pytest.fixture(scope="module")
def home(bars: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a search was made."""
    folder = tmp_path_factory.mktemp("search")
    run_search(searching(bars, folder), lambda _: None)
    return folder


def found_in(home: Path) -> list[TrialResult]:
    """The trials of a search that has ended."""
    search = json.loads((home / "study" / "search.json").read_text())
    return [without_speed(trial) for trial in msgspec.convert(search["trials"], list[TrialResult])]


def test_trials_vary_forecaster_and_agents_and_are_all_in_the_ledger(home: Path) -> None:
    search = json.loads((home / "study" / "search.json").read_text())
    assert (search["validation"][0][:4], search["first_test"][:4]) == ("2021", "2022")
    trials = found_in(home)
    assert {trial.number for trial in trials} == {0, 1}
    assert {frozenset(trial.coefficients) for trial in trials} == {
        frozenset(),
        frozenset(dimension.name for dimension in FEW),
    }
    assert any(trial.validation_return != 0.0 for trial in trials)
    assert sharpes(home) == sorted((trial.sharpe for trial in trials), key=str)


def test_other_bars_in_the_tested_year_change_no_trial(bars: Path, home: Path, tmp_path: Path) -> None:
    one, other = rising(3), rising(99)
    begin = midnight_ns("2022-01-01")
    parts = [*(bar for bar in one if bar.start_ns < begin), *(bar for bar in other if bar.start_ns >= begin)]
    mixed = write_csv(tmp_path / "days.csv", parts)
    run_search(searching(mixed, tmp_path), lambda _: None)
    assert found_in(tmp_path) == found_in(home)


def test_trials_that_differ_in_the_agents_alone_share_the_forecaster(bars: Path, tmp_path: Path) -> None:
    run_search(replace(searching(bars, tmp_path), space=FEW[1:]), lambda _: None)
    folders = [path.name for path in (tmp_path / "study" / "trials").iterdir()]
    assert sum(name.startswith("forecaster-2021-1") for name in folders) == 1
    assert sum(name.startswith("fold1-bonus-seed1") for name in folders) == 2


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install '.[scale]'")
def test_ray_finds_what_a_search_without_it_finds(
    bars: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark(monkeypatch, str(tmp_path))
    run_search(replace(searching(bars, tmp_path), ray="local"), lambda _: None)
    assert found_in(tmp_path) == found_in(home)
    assert sharpes(tmp_path) == sharpes(home)
    assert left(str(tmp_path)) == []


def test_what_was_found_is_trained_with_by_the_printed_command(home: Path, bars: Path) -> None:
    command = json.loads((home / "study" / "search.json").read_text())["command"].split()
    assert command[0] == "train-and-export"
    settings = settings_from(training_parser().parse_args(command[1:]))
    best = found_in(home)[0]
    expected = with_values(PRESETS["smoke"].plan, best.coefficients)
    assert settings.plan == expected
    assert (settings.preset or settings.base) == "smoke"
    assert ("--coefficients" in settings.command()) == bool(best.coefficients)


def test_the_space_holds_every_preset_and_may_be_narrowed_by_a_name() -> None:
    arguments = ["--strategy", SPEC.name, "--bars", "b.csv", "--out", "store"]
    for name, preset in PRESETS.items():
        search = search_from(parser().parse_args([*arguments, "--preset", name]))
        assert isinstance(preset.plan, ForecastPlan)
        assert all(dimension.fixed(value_of(preset.plan, dimension.name)) for dimension in search.space)
        assert (search.run.folds, search.run.steps) == (1, preset.steps // 4)
    narrow = search_from(parser().parse_args([*arguments, "--only", "td3"]))
    assert {dimension.name.partition(".")[0] for dimension in narrow.space} == {"td3"}


def test_spans_to_validate_on_are_the_years_before_the_first_test(bars: Path, tmp_path: Path) -> None:
    search = searching(bars, tmp_path)
    ready = make_ready(search, "")
    assert [(fold.validate[0][:4], fold.test) for fold in ready.folds] == [("2021", ())]
    with pytest.raises(HistoryError, match="the first two years before 2021"):
        make_ready(replace(search, run=replace(search.run, folds=2)), "")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"sac.learning_rat": 0.001}', "unknown coefficient 'sac.learning_rat': did you mean 'sac.learning_rate'?"),
        ('{"sac.learning_rate": 3}', "values.json: sac.learning_rate is 3: expected 0.0001 to 0.01"),
        ('{"sac.discount": "high"}', "sac.discount is 'high'"),
        ('{"forecaster.confidence": "sure"}', "forecaster.confidence is 'sure': expected ('calibrated', 'entropy')"),
        ('{"forecaster.barriers.horizon": 2.5}', "forecaster.barriers.horizon is 2.5: expected 1 to 60, a whole"),
        ("[]", "is not a file of coefficients"),
    ],
)
def test_a_wrong_file_of_values_is_refused_with_the_field(
    text: str, complaint: str, bars: Path, tmp_path: Path
) -> None:
    (tmp_path / "values.json").write_text(text)
    arguments = ["--strategy", SPEC.name, "--bars", str(bars), "--out", str(tmp_path / "store")]
    with pytest.raises(ValueError, match=r"values\.json") as raised:
        settings_from(training_parser().parse_args([*arguments, "--coefficients", str(tmp_path / "values.json")]))
    assert complaint in str(raised.value)


def test_what_is_not_searched_is_changed_by_a_file_too_and_longer_labels_widen_the_holes(
    bars: Path, tmp_path: Path
) -> None:
    values = {"forecaster.confidence": "entropy", "forecaster.barriers.up": 1.5, "forecaster.barriers.horizon": 9}
    (tmp_path / "values.json").write_text(json.dumps(values | {"alpha": 0.5}))
    arguments = ["--strategy", SPEC.name, "--bars", str(bars), "--out", str(tmp_path / "store"), "--preset", "smoke"]
    changes = ["--coefficients", str(tmp_path / "values.json")]
    settings = settings_from(training_parser().parse_args([*arguments, *changes]))
    assert isinstance(settings.plan, ForecastPlan)
    assert settings.plan.forecast.confidence == "entropy"
    assert (settings.plan.forecast.barriers.up, settings.plan.alpha) == (1.5, 0.5)
    assert (settings.preset, settings.base, "--coefficients" in settings.command()) == (None, "smoke", True)
    searched = search_from(parser().parse_args(arguments)).space
    assert not {dimension.name for dimension in searched} & {*values, "alpha"}
    dates = days("2019-06-03", "2022-12-30")
    usual, longer = (folds_of(dates, plan)[0] for plan in (PLAN, settings.plan))
    holes = [dates.index(fold.test[0]) - dates.index(fold.validate[-1]) - 1 for fold in (usual, longer)]
    assert holes == [60 + 100 + 5, 60 + 100 + 9]


def test_the_years_are_a_file_s_to_change_and_the_folds_are_theirs(bars: Path, tmp_path: Path) -> None:
    def settings(**years: int) -> Settings:
        (tmp_path / "values.json").write_text(json.dumps({"forecaster.first_year": 2018, **years}))
        arguments = ["--strategy", SPEC.name, "--bars", str(bars), "--out", str(tmp_path / "store")]
        return settings_from(
            training_parser().parse_args([*arguments, "--coefficients", str(tmp_path / "values.json")])
        )

    two = settings(first_test=2021, last_test=2022)
    assert isinstance(two.plan, ForecastPlan)
    assert (two.folds, len(requests_of(two))) == (2, 2)
    dates = days("2016-06-01", "2022-12-30")
    assert [fold.test[0][:4] for fold in folds_of(dates, two.plan)] == ["2021", "2022"]
    none = settings(first_test=2022, last_test=2021)
    assert isinstance(none.plan, ForecastPlan)
    with pytest.raises(ValueError, match="first_test is 2022: expected 2021, last_test, at most"):
        folds_of(dates, none.plan)


def test_a_run_in_bf16_trains_its_forecaster_so_too_and_is_still_the_preset(bars: Path, tmp_path: Path) -> None:
    arguments = ["--strategy", SPEC.name, "--bars", str(bars), "--out", str(tmp_path / "store"), "--precision", "bf16"]
    settings, search = (
        settings_from(training_parser().parse_args(arguments)),
        search_from(parser().parse_args(arguments)),
    )
    for plan in (settings.plan, search.run.plan):
        assert isinstance(plan, ForecastPlan)
        assert plan.forecast.recipe.precision == "bf16"
    assert settings.preset == "walk"
    assert settings.command().endswith("--precision bf16")


def test_a_name_that_nothing_begins_with_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--strategy", SPEC.name, "--bars", "b.csv", "--out", str(tmp_path), "--only", "dqn"]) == 2
    assert "--only is 'dqn'" in capsys.readouterr().err
