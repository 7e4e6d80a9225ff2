"""A whole run on made-up days: forecaster folds, agents, dry run, report, one graph; stopped, it ends in the same."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
from dataclasses import replace
from pathlib import Path

import msgspec
import onnx
import pytest
import torch

from daemon.library.run_files import STUDY_FILE
from strategies.forecast_ensemble import SPEC
from strategies.golden import contract_hash
from strategies.kit.manifest import MANIFEST_FILE, Manifest, decode
from strategies.registry import strategy
from tests.support.desks.desk_run import Desk, table, verified
from tests.support.training.made_up_days import days, write_days
from tests.support.training.ray_processes import left, mark
from tests.support.training.small_runs import StopAfter
from training.cli.main import main
from training.desks.forecast.agents import first_agents, lift_of, seed_of
from training.desks.forecast.baselines import BASELINES
from training.desks.forecast.graph import AGENT_WIDTH, MEMBERS, Ensemble, RowScaling
from training.desks.forecast.plan import ForecastPlan
from training.desks.trial import News, Stage
from training.forecast.findings import read
from training.rl.off_policy.presets import build
from training.rl.pool import Stopped
from training.runs.run import train_and_export
from training.runs.settings import Settings, requests_of, settings_for
from training.study.folds import HistoryError
from training.study.study import Study, Trial
from training.study.study import decode as decode_study

pytestmark = pytest.mark.usefixtures("one_export")
SYMBOLS = ("AAA", "BBB", "CCC")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A smoke run on three made-up symbols."""
    home = tmp_path_factory.mktemp("forecast")
    bars = write_days(home / "days.csv", SYMBOLS, days("2016-06-01", "2022-07-15"))
    base = settings_for(SPEC.name, bars, home / "store", preset="smoke")
    return replace(base, symbols=SYMBOLS, processes=1, run_folder=home / "run", checkpoint_s=0.0, allow_unproven=True)


@pytest.fixture(scope="module")
def progress() -> list[object]:
    """The messages of the run."""
    return []


@pytest.fixture(scope="module")
def version(settings: Settings, progress: list[object]) -> Path:
    """What the run made."""
    return train_and_export(settings, progress.append).version


@pytest.fixture(scope="module")
def manifest(version: Path) -> Manifest:
    return decode((version / MANIFEST_FILE).read_bytes())


def test_the_version_has_the_contract_of_the_strategy_whatever_its_symbols(manifest: Manifest) -> None:
    assert manifest.contract_hash == contract_hash(strategy(SPEC.name))
    assert manifest.symbols == SYMBOLS
    assert {"basket.weight_max", "basket.band", "digest"} == manifest.rules.keys()
    assert manifest.hyperparameters["plan"]["forecaster"]["barriers"]["horizon"] == 5
    assert manifest.note
    assert manifest.metrics["chosen"]["bonus"] == 1e-3
    assert manifest.metrics["chosen"]["alpha"] == manifest.hyperparameters["plan"]["alpha"] == 1.0
    assert sum(manifest.metrics["chosen"]["shares"].values()) == pytest.approx(1.0)
    scores = manifest.metrics["forecaster"]
    assert set(scores) == {"2020", "2021", "2022"}
    assert 0.0 < scores["2022"]["tested"]["after"]["log_loss"]["estimate"] < 3.0


def test_the_graph_is_one_with_the_heads_in_their_order(version: Path) -> None:
    graph = onnx.load(version / "policy.onnx").graph
    assert [output.name for output in graph.output] == ["actions", *(head.name for head in SPEC.heads)]
    assert not any(initializer.external_data for initializer in graph.initializer)


def test_a_trial_says_how_far_its_agents_came(settings: Settings, version: Path) -> None:
    assert settings.run_folder is not None
    (trial,) = decode_study((settings.run_folder / STUDY_FILE).read_bytes()).trials
    assert trial.learnt is not None
    assert trial.learnt.gradient_steps > 0
    assert trial.learnt.kl is not None
    assert trial.learnt.kl > 0.0
    assert 0.0 < trial.learnt.size <= 1.0
    sac, td3 = ({p.agent: p for p in trial.curve}[agent].explained_variance for agent in ("sac", "td3"))
    assert trial.learnt.explained_variance == pytest.approx((sac + td3) / 2)
    assert all(0.0 != agent <= 1.0 for agent in (sac, td3))


def test_without_a_proven_lead_a_policy_that_wants_all_of_every_stock_is_exported(
    settings: Settings, version: Path, manifest: Manifest
) -> None:
    folder = train_and_export(replace(settings, allow_unproven=False), lambda _: None).version  # nothing is trained
    passive = decode((folder / MANIFEST_FILE).read_bytes())
    assert passive.note.startswith("The exported policy is the passive one, which holds as much of each stock as ")
    assert {value for row in passive.golden.logits for value in row} == {1.0}
    heads = [one.heads[0] for one in (passive.golden, manifest.golden)]
    assert heads[0]["probabilities"] == pytest.approx(heads[1]["probabilities"], abs=1e-6)
    assert passive.metrics["test"]["trades"] > 0


def test_stages_come_in_order_with_their_number_of_tasks(version: Path, progress: list[object]) -> None:
    stages = [(news.name, news.tasks) for news in progress if isinstance(news, Stage)]
    assert stages == [("forecaster folds", 3), ("forecasts", 3), ("trials", 1), ("players", 15)]
    names = [news.name for news in progress if isinstance(news, News)]
    assert set(names[: names.index("forecast-2020")]) == {f"forecaster-{year}-1" for year in (2020, 2021, 2022)}
    assert sum(isinstance(news, Trial) for news in progress) == 1
    last = {news.name: news for news in progress if isinstance(news, News)}
    assert all(news.steps == news.total for news in last.values())


def test_forecasters_of_few_gradient_steps_are_named_before_the_agents_begin(
    settings: Settings, version: Path, progress: list[object]
) -> None:
    """Batches of 64 rows from every tenth session, two epochs at most: counted from the rows, not from the run."""
    (words,) = [
        news for news in progress if isinstance(news, str) and news.startswith("few gradient steps of forecasters")
    ]
    steps_by_year = {int(year): int(steps) for year, steps in re.findall(r"(20\d\d): (\d+)", words)}
    assert set(steps_by_year) == {2020, 2021, 2022}
    assert all(1 <= steps <= 2 * 3 * 252 * (year - 2 - 2016 + 1) / 10 / 64 + 2 for year, steps in steps_by_year.items())
    trials = [at for at, news in enumerate(progress) if isinstance(news, Stage) and news.name == "trials"]
    assert progress.index(words) < trials[0]
    study = read(study_of(settings.run_folder).extra)
    assert study is not None
    assert {year.year: year.gradient_steps for year in study.years} == steps_by_year


def test_metrics_hold_each_term_of_the_reward(settings: Settings, version: Path) -> None:
    assert settings.run_folder is not None
    lines = (settings.run_folder / "trials" / "fold1-bonus-seed1" / "metrics.jsonl").read_text().splitlines()
    rows = [msgspec.json.decode(line) for line in lines]
    assert [agent for agent, _ in itertools.groupby(row["agent"] for row in rows)] == ["sac", "td3"]  # once each
    assert {row["alpha"] for row in rows} == {1.0}
    for row in rows:
        assert row["gain"] + row["cost"] + row["bonus"] == pytest.approx(row["reward"], abs=1e-7)


def test_a_run_that_was_stopped_again_and_again_ends_in_the_same_bytes(
    settings: Settings, version: Path, tmp_path: Path
) -> None:
    """In a forecaster, amid the second agent, and after some of the players."""
    again = replace(settings, run_folder=tmp_path / "run", out=tmp_path / "store")
    for name, steps in (("forecaster-2021-1", 2), ("fold1-bonus-seed1", 5000), ("account-SAC-alone", 1)):
        stop = StopAt(name, steps)
        with pytest.raises(Stopped):
            train_and_export(again, stop, stop)
    other = train_and_export(again, lambda _: None).version
    assert (other / "policy.onnx").read_bytes() == (version / "policy.onnx").read_bytes()
    assert results_of(tmp_path / "run") == results_of(settings.run_folder)


class StopAt(StopAfter):
    """A flag that is set once a task has come so far."""

    def __init__(self, name: str, steps: int) -> None:
        super().__init__(1)
        self._name, self._steps = name, steps

    def __call__(self, news: object) -> None:
        """Listen to a run."""
        if isinstance(news, News) and news.name == self._name and news.steps >= self._steps:
            self.set()


def results_of(run: Path | None) -> tuple[object, ...]:
    """What all players of a run did."""
    study = study_of(run)
    return study.account, study.baselines, study.random_pnl_usd, study.scenarios


def study_of(run: Path | None) -> Study:
    assert run is not None
    return decode_study((run / STUDY_FILE).read_bytes())


def test_the_account_of_one_test_year_is_the_trial_s_own_test(settings: Settings, version: Path) -> None:
    study = study_of(settings.run_folder)
    assert study.account == (study.trials[0].test,)
    assert [one.name for one in study.baselines] == [name for name in BASELINES if name != "SPY"]  # no file of ETFs
    assert list(study.scenarios) == [
        "no costs", "costs x 2", "costs x 3", "one bar late", "filled at the close it was decided on",
    ]  # fmt: skip
    assert [len(part) for part in study.random_pnl_usd] == [1000]


def test_the_learning_curve_holds_the_means_of_the_metrics_between_looks(settings: Settings, version: Path) -> None:
    assert settings.run_folder is not None
    lines = (settings.run_folder / "trials" / "fold1-bonus-seed1" / "metrics.jsonl").read_text().splitlines()
    rows = [msgspec.json.decode(line) for line in lines]
    for agent in ("sac", "td3"):
        rows_of_agent = [row for row in rows if row["agent"] == agent]
        curve = [point for point in study_of(settings.run_folder).trials[0].curve if point.agent == agent]
        assert [point.steps for point in curve] == [row["steps"] for row in rows_of_agent if "validate_return" in row]
        since = 0
        for point in curve:
            between = [row for row in rows_of_agent if since < row["steps"] <= point.steps]
            since = point.steps
            assert point.reward == pytest.approx(sum(row["reward"] for row in between) / len(between))
            for name in ("gain", "cost", "bonus", "critic loss", "Q mean", "actor loss"):
                values = [row[name] for row in between if name in row]
                assert point.figures[name] == pytest.approx(sum(values) / len(values))
            assert point.figures["update_to_data"] == between[-1]["update_to_data"]
            assert ("temperature" in point.figures) == (agent == "sac")


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install '.[scale]'")
def test_a_run_through_ray_ends_in_the_same_bytes(
    settings: Settings, version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark(monkeypatch, str(tmp_path))
    again = replace(settings, run_folder=tmp_path / "run", out=tmp_path / "store", processes=2, ray="local")
    messages: list[object] = []
    folder = train_and_export(again, messages.append).version
    assert folder.joinpath("policy.onnx").read_bytes() == (version / "policy.onnx").read_bytes()
    assert {news.name for news in messages if isinstance(news, News)} >= {"forecaster-2020-1", "forecast-2022"}
    assert left(str(tmp_path)) == []


@pytest.mark.skipif(importlib.util.find_spec("tree") is None, reason="needs RLlib: pip install '.[scale]'")
@pytest.mark.filterwarnings("ignore")  # RLlib warns of its own older ways, and of gymnasium's
def test_rllib_trains_the_sac_of_the_same_graph_on_two_runners(
    settings: Settings, version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark(monkeypatch, str(tmp_path))
    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", cache)  # of the calendar
    monkeypatch.setenv("HOME", str(tmp_path))  # where RLlib makes its folder
    assert isinstance(settings.plan, ForecastPlan)
    plan = replace(settings.plan, sac=replace(settings.plan.sac, per_transitions=256))  # RLlib's rounds are dear
    rllib_settings = replace(
        settings, run_folder=tmp_path / "run", out=tmp_path / "store", processes=2, engine="rllib", plan=plan
    )
    version_folder = train_and_export(rllib_settings, lambda _: None).version
    graph, before = (onnx.load(folder / "policy.onnx").graph for folder in (version_folder, version))
    assert [(node.op_type, len(node.input)) for node in graph.node] == [
        (node.op_type, len(node.input)) for node in before.node
    ]
    assert decode((version_folder / MANIFEST_FILE).read_bytes()).hyperparameters["engine"] == "rllib"
    rows = [
        msgspec.json.decode(line)
        for line in (tmp_path / "run" / "trials" / "fold1-bonus-seed1" / "metrics.jsonl").read_text().splitlines()
    ]
    assert {row["agent"] for row in rows} == {"sac", "td3"}
    assert all(row["update_to_data"] > 0.0 for row in rows)
    weights, expected = (
        torch.load(run / "trials" / "fold1-bonus-seed1" / "best.pt", weights_only=True)["state"]
        for run in (tmp_path / "run", settings.run_folder or Path())
    )
    same = {name: torch.equal(value, expected[name]) for name, value in weights.items()}
    assert all(same[name] for name in same if name.startswith("agents.members.1."))  # TD3 is trained by our own engine
    assert not all(same[name] for name in same if name.startswith("agents.members.0."))
    assert left(str(tmp_path)) == []


def test_an_engine_is_for_a_strategy_with_a_sac(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--bars", str(settings.bars), "--out", str(settings.out), "--engine", "rllib"]
    with pytest.raises(SystemExit):
        main(["--strategy", "option_scalper", *arguments])
    assert "--engine is not for option_scalper" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--strategy", SPEC.name, *arguments, "--precision", "bf16"])
    assert "computes in float32 on a CPU" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--strategy", SPEC.name, *arguments, "--preset", "passive"])
    assert "draws the first weights itself: leave it or --preset passive out" in capsys.readouterr().err


def test_agents_can_begin_near_the_passive_policy_and_are_compared_with_that() -> None:
    preset = settings_for(SPEC.name, Path(), Path(), preset="passive")
    assert (preset.preset, preset.begins) == ("passive", "passive")
    plan, request = preset.plan, requests_of(preset)[0]
    assert isinstance(plan, ForecastPlan)
    scaling = RowScaling(torch.zeros(AGENT_WIDTH), torch.ones(AGENT_WIDTH))
    agents = [
        build(
            name, AGENT_WIDTH, plan.coefficients(name), seed=seed_of(request, place), scaling=scaling,
            begins=lift_of(request),
        )
        for place, name in enumerate(MEMBERS)
    ]  # fmt: skip
    actors = [agent.actor for agent in agents]
    start = first_agents(plan, request, Ensemble(actors))
    for actor, first in zip(actors, start.members, strict=True):
        assert all(torch.equal(actor.state_dict()[name], value) for name, value in first.state_dict().items())
    of_target = agents[1].state_dict()["modules"]["target_actor"]
    assert all(torch.equal(actors[1].state_dict()[name], value) for name, value in of_target.items())
    rows = torch.randn(200, AGENT_WIDTH, generator=torch.Generator().manual_seed(1))
    random_start = first_agents(plan, replace(request, begins="random"), Ensemble(actors))
    with torch.no_grad():
        assert float(start(rows)[0].min()) > 0.5
        assert abs(float(random_start(rows)[0].mean())) < 0.3


def test_the_model_is_replayed_by_the_daemon_and_verifies(settings: Settings, version: Path, tmp_path: Path) -> None:
    options = {"desk__strategy": SPEC.name, "paths__models_dir": settings.out, "policy__version": version.name}
    tape = write_days(tmp_path / "tape.csv", SYMBOLS, days("2020-06-01", "2022-07-15"))  # warm after 360 sessions
    desk = Desk(tape, **options, desk__symbols=list(SYMBOLS))
    assert desk.run(tmp_path / "state").failure is None
    assert len(table(tmp_path / "state", "decisions")) > 100
    assert verified(tmp_path / "state").difference == ""


def test_years_that_the_file_does_not_hold_are_an_error_with_the_cure(settings: Settings, tmp_path: Path) -> None:
    short = write_days(tmp_path / "short.csv", SYMBOLS, days("2018-01-02", "2021-12-31"))
    with pytest.raises(HistoryError, match=r"2022.*give a longer file"):
        train_and_export(replace(settings, bars=short, run_folder=tmp_path / "run"), lambda _: None)


@pytest.mark.parametrize(
    ("symbols", "complaint"),
    [("AAA,XXX,YYY", "no row of XXX, YYY, of the universe"), ("AAA,BBB,AAA", "--symbols names AAA twice")],
)
def test_symbols_that_the_files_lack_or_that_come_twice_are_one_line(
    symbols: str, complaint: str, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--strategy", SPEC.name, "--preset", "smoke", "--bars", str(settings.bars), "--out", str(settings.out)]
    assert main([*arguments, "--symbols", symbols, "--run-dir", str(tmp_path / "run")]) == 2
    assert complaint in capsys.readouterr().err.splitlines()[-1]


def test_what_is_for_other_strategies_is_refused(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--strategy", SPEC.name, "--bars", str(settings.bars), "--out", str(settings.out)]
    with pytest.raises(SystemExit):
        main([*arguments, "--folds", "3"])
    assert "--folds is not for forecast_ensemble" in capsys.readouterr().err
    scalper = ["--strategy", "option_scalper", *arguments[2:]]
    with pytest.raises(SystemExit):
        main([*scalper, "--members", "5"])
    assert "--members is not for option_scalper" in capsys.readouterr().err
