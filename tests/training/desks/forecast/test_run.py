"""A whole run on made-up days: forecaster folds, agents, dry run, report, one graph; stopped, it ends in the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import onnx
import pytest

from strategies.forecast_ensemble import SPEC
from strategies.golden import contract_hash
from strategies.kit.manifest import MANIFEST_FILE, Manifest, decode
from strategies.registry import strategy
from tests.support.desks.desk_run import Desk, verified
from tests.support.training.made_files import days, write_days
from tests.support.training.small_runs import StopAfter
from training.cli.main import main
from training.desks.trial import News, Stage
from training.rl.pool import Stopped
from training.runs.run import train_and_export
from training.runs.settings import Settings, settings_for
from training.study.folds import HistoryError
from training.study.study import Trial

SYMBOLS = ("AAA", "BBB", "CCC")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A smoke run on three made-up symbols."""
    home = tmp_path_factory.mktemp("forecast")
    bars = write_days(home / "days.csv", SYMBOLS, days("2016-06-01", "2022-07-15"))
    found = settings_for(SPEC.name, bars, home / "store", preset="smoke")
    return replace(found, symbols=SYMBOLS, processes=1, run_folder=home / "run", checkpoint_s=0.0)


@pytest.fixture(scope="module")
def told() -> list[object]:
    """What the run told."""
    return []


@pytest.fixture(scope="module")
def version(settings: Settings, told: list[object]) -> Path:
    """What the run made."""
    return train_and_export(settings, told.append).version


@pytest.fixture(scope="module")
def manifest(version: Path) -> Manifest:
    return decode((version / MANIFEST_FILE).read_bytes())


def test_the_version_has_the_contract_of_the_strategy_whatever_its_symbols(manifest: Manifest) -> None:
    assert manifest.contract_hash == contract_hash(strategy(SPEC.name))
    assert manifest.symbols == SYMBOLS
    assert {"basket.weight_max", "basket.band"} == manifest.rules.keys()
    assert manifest.hyperparameters["plan"]["forecaster"]["barriers"]["horizon"] == 5
    assert manifest.note
    assert manifest.metrics["chosen"]["bonus"] == 1e-3
    assert sum(manifest.metrics["chosen"]["shares"].values()) == pytest.approx(1.0)
    scores = manifest.metrics["forecaster"]
    assert set(scores) == {"2020", "2021", "2022"}
    assert 0.0 < scores["2022"]["tested"]["after"]["log_loss"]["estimate"] < 3.0


def test_the_graph_is_one_with_the_heads_in_their_order(version: Path) -> None:
    graph = onnx.load(version / "policy.onnx").graph
    assert [output.name for output in graph.output] == ["actions", *(head.name for head in SPEC.heads)]
    assert not any(initializer.external_data for initializer in graph.initializer)


def test_stages_come_in_order_with_their_number_of_tasks(version: Path, told: list[object]) -> None:
    stages = [(news.name, news.tasks) for news in told if isinstance(news, Stage)]
    assert stages == [("forecaster folds", 3), ("forecasts", 3), ("trials", 1)]
    names = [news.name for news in told if isinstance(news, News)]
    assert set(names[: names.index("forecast-2020")]) == {f"forecaster-{year}-1" for year in (2020, 2021, 2022)}
    assert sum(isinstance(news, Trial) for news in told) == 1


def test_metrics_hold_each_term_of_the_reward(settings: Settings, version: Path) -> None:
    assert settings.run_folder is not None
    lines = (settings.run_folder / "trials" / "fold1-bonus-seed1" / "metrics.jsonl").read_text().splitlines()
    rows = [msgspec.json.decode(line) for line in lines]
    assert {row["agent"] for row in rows} == {"sac", "td3"}
    for row in rows:
        assert row["gain"] + row["cost"] + row["bonus"] == pytest.approx(row["reward"], abs=1e-7)


@pytest.mark.parametrize("part", [0.2, 0.9])  # in the forecaster folds, and among the agents
def test_a_run_that_was_stopped_ends_in_the_same_bytes(
    settings: Settings, version: Path, told: list[object], tmp_path: Path, part: float
) -> None:
    again = replace(settings, run_folder=tmp_path / "run", out=tmp_path / "store")
    stop = StopAfter(round(part * sum(isinstance(news, News) for news in told)))
    with pytest.raises(Stopped):
        train_and_export(again, stop, stop)
    assert (
        train_and_export(again, lambda _: None).version.joinpath("policy.onnx").read_bytes()
        == (version / "policy.onnx").read_bytes()
    )


def test_the_model_is_replayed_by_the_daemon_and_verifies(settings: Settings, version: Path, tmp_path: Path) -> None:
    given = {"desk__strategy": SPEC.name, "paths__models_dir": settings.out, "policy__version": version.name}
    desk = Desk(settings.bars, **given, desk__symbols=list(SYMBOLS))
    assert desk.run(tmp_path / "state").failure is None
    assert verified(tmp_path / "state").difference == ""


def test_years_that_the_file_does_not_hold_are_an_error_with_the_cure(settings: Settings, tmp_path: Path) -> None:
    short = write_days(tmp_path / "short.csv", SYMBOLS, days("2018-01-02", "2021-12-31"))
    with pytest.raises(HistoryError, match=r"2022.*give a longer file"):
        train_and_export(replace(settings, bars=short, run_folder=tmp_path / "run"), lambda _: None)


def test_what_is_for_other_strategies_is_refused(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--strategy", SPEC.name, "--bars", str(settings.bars), "--out", str(settings.out)]
    with pytest.raises(SystemExit):
        main([*asked, "--folds", "3"])
    assert "--folds is not for forecast_ensemble" in capsys.readouterr().err
    scalper = ["--strategy", "option_scalper", *asked[2:]]
    with pytest.raises(SystemExit):
        main([*scalper, "--members", "5"])
    assert "--members is not for option_scalper" in capsys.readouterr().err
