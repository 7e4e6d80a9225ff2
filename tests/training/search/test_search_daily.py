"""A search for a daily strategy, from end to end on made-up days: what it begins with, and that no test is seen."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import prod
from pathlib import Path

import msgspec
import pytest

from daemon.host.time.calendar import midnight_ns
from strategies import daily_rebalancer, regime_switcher
from strategies.kit.contract import Bar, DailySpec
from strategies.kit.synthetic import synthetic_days
from tests.support.training.made_up import write_csv
from tests.support.training.made_up_days import days
from training.cli.search import main, parser, search_from
from training.cli.studies.ablate import ablation_of
from training.cli.studies.ablate import parser as ablation
from training.cli.train import parser as training
from training.cli.train import settings_from
from training.desks.registry import kind
from training.rl.coefficients import SPACE, Coefficients
from training.rl.dimensions import Dimension, read_plan
from training.runs.ledger import Ledger, ledger_path
from training.runs.settings import Settings
from training.studies.search.search import Results, run_search
from training.studies.search.trials import Search, TrialResult, make_ready

SMALL = Coefficients(environments=8, rollout_steps=32, batch=128, epochs=1, sequence=16)
FEW = (Dimension("learning_rate", "", 1e-4, 1e-2, log=True),)
CASES = (
    (daily_rebalancer.SPEC, "mlp", "account"),
    (regime_switcher.SPEC, "gru", "alpha"),
)
DECIDED = 20  # sessions: 12 train, 4 validate, 4 test


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tables that were read are kept with the test's own files."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return iter(())


def _bars(symbols: Iterable[str], dates: Iterable[str], seed: int) -> list[Bar]:
    return list(synthetic_days(seed, tuple(symbols), map(midnight_ns, dates)))


def _without_speed(trial: TrialResult) -> TrialResult:
    return msgspec.structs.replace(trial, steps_per_s=0.0)


@pytest.mark.parametrize(("spec", "network", "reward"), CASES, ids=("stocks", "funds"))
def test_other_bars_in_the_test_sessions_change_no_trial_of_a_daily_strategy(
    spec: DailySpec, network: str, reward: str, tmp_path: Path
) -> None:
    dates = days("2021-01-04", "2023-12-29", spec.history_bars + DECIDED)
    tested = dates[-4:]
    one, two = (_bars(spec.symbols, dates, seed) for seed in (3, 4))
    begin = midnight_ns(tested[0])
    mixed = [*(bar for bar in one if bar.start_ns < begin), *(bar for bar in two if bar.start_ns >= begin)]

    messages: list[str | TrialResult] = []

    def searched(name: str, bars: list[Bar]) -> Results:
        folder = tmp_path / name
        folder.mkdir()
        run = Settings(
            spec.name, write_csv(folder / "days.csv", bars), folder / "store", steps=512, rewards=(reward,),
            network=network, plan=SMALL, processes=1, run_folder=folder / "study",
        )  # fmt: skip
        return run_search(Search(run, trials=2, space=FEW), messages.append)[0]

    results, again = searched("one", one), searched("mixed", mixed)
    assert any("they are split 60/20/20" in news for news in messages if isinstance(news, str))
    assert results.validation == (dates[-8], dates[-5])
    assert results.first_test == again.first_test == tested[0]
    assert again.settings["bars_sha256"] != results.settings["bars_sha256"]
    assert [_without_speed(trial) for trial in again.trials] == [_without_speed(trial) for trial in results.trials]
    assert any(trial.validation_return != 0.0 for trial in results.trials)
    assert results.best is not None
    coefficients = read_plan(tmp_path / "one" / "study" / "coefficients.json", Coefficients())
    assert coefficients == replace(Coefficients(), **results.best.coefficients)
    assert results.command.endswith(f"--folds 1 --coefficients {tmp_path / 'one' / 'study' / 'coefficients.json'}")
    prior = Ledger(ledger_path(tmp_path / "one" / "store", spec.name)).prior(list(tested))
    assert sorted(prior[0]) == sorted(trial.sharpe for trial in results.trials)


def test_what_a_trial_earned_is_compounded_where_one_account_goes_through_all_sessions(tmp_path: Path) -> None:
    spec = regime_switcher.SPEC
    dates = days("2021-01-04", "2023-12-29", spec.history_bars + DECIDED)
    path = write_csv(tmp_path / "days.csv", _bars(spec.symbols, dates, 3))
    run = Settings(
        spec.name, path, tmp_path / "store", steps=256, rewards=("alpha",), network="gru", plan=SMALL,
        processes=1, run_folder=tmp_path / "study",
    )  # fmt: skip
    training = make_ready(Search(run, space=FEW), "").train(SMALL, 0, 1, threading.Event())
    assert len(training.returns) == 4
    assert training.net_return == pytest.approx(prod(1.0 + value for value in training.returns) - 1.0)


PRESETS = (preset for name in ("daily_rebalancer", "regime_switcher") for preset in kind(name).presets.values())


@pytest.mark.parametrize("start", [*(preset.plan for preset in PRESETS), Coefficients()])
def test_every_preset_lies_in_the_space_around_it(start: Coefficients) -> None:
    for dimension in start.searched:
        fixed = dimension.fixed(getattr(start, dimension.name))
        assert fixed.get(dimension.name, getattr(start, dimension.name)) == getattr(start, dimension.name)
        if dimension.name == "rollout_steps":
            assert all(int(choice) % start.sequence == 0 for choice in dimension.choices)
        if dimension.name == "batch":
            assert max(map(int, dimension.choices)) <= start.environments * 32


def test_choices_are_half_once_and_twice_a_number_that_is_not_among_them() -> None:
    around = {
        dimension.name: dimension.choices for dimension in kind("daily_rebalancer").presets["finrl"].plan.searched
    }
    assert (around["batch"], around["rollout_steps"]) == ((32, 64, 128), (128, 256, 512))
    assert Coefficients().searched == SPACE


def test_a_range_reaches_to_the_first_trials_number() -> None:
    start = replace(Coefficients(), discount=0.9, epochs=12, entropy=0.05)
    around = {dimension.name: (dimension.low, dimension.high) for dimension in start.searched}
    assert (around["discount"], around["epochs"], around["entropy"]) == ((0.9, 0.999), (4, 12), (1e-4, 0.05))


def test_a_daily_strategy_is_searched_with_its_own_years_network_and_preset() -> None:
    arguments = ["--bars", "b.csv", "--out", "store", "--strategy"]
    wide = kind("daily_rebalancer").presets["wide"].plan
    rebalancer = search_from(parser().parse_args([*arguments, "daily_rebalancer", "--preset", "wide"]))
    assert (rebalancer.run.network, rebalancer.run.rewards, rebalancer.run.folds) == ("mlp", ("account",), 1)
    assert (rebalancer.run.steps, rebalancer.run.plan) == (150_000, wide)
    regime = search_from(parser().parse_args([*arguments, "regime_switcher"]))
    assert (regime.run.network, regime.run.rewards, regime.run.folds) == ("gru", ("alpha",), 1)
    assert regime.run.steps == 4 * 2048 * 256  # four rollouts


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--network", "gru"], "the network is called 'gru': expected mlp, shared for daily_rebalancer"),
        (
            ["--reward", "potential"],
            "the reward is called 'potential': expected account, shares, notional for daily_rebalancer",
        ),
        (["--preset", "regime"], "the preset is called 'regime': expected"),
    ],
)
def test_what_the_strategy_does_not_have_is_one_line(
    arguments: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--strategy", "daily_rebalancer", "--bars", str(tmp_path / "b.csv"), "--out", str(tmp_path / "store")]
    assert main([*options, *arguments]) == 2
    assert complaint in capsys.readouterr().err.strip().splitlines()[-1]


def test_another_universe_is_searched_and_compared_as_it_is_trained(tmp_path: Path) -> None:
    arguments = ["--strategy", "regime_switcher", "--bars", "bars.csv", "--models-dir", str(tmp_path)]
    arguments += ["--symbols", "SPY,QQQ,IWM,TLT,GLD"]
    funds = ("SPY", "QQQ", "IWM", "TLT", "GLD")
    assert search_from(parser().parse_args(arguments)).run.symbols == funds
    assert ablation_of(ablation().parse_args(arguments)).run.symbols == funds
    assert settings_from(training().parse_args(arguments)).symbols == funds
