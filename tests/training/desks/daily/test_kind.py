"""What the daily strategies answer to the training pipeline, on small made-up files."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from daemon.core.strategy_rules import trading_for
from strategies import daily_rebalancer, regime_switcher
from strategies.daily_rebalancer import CASH, HOLDINGS, TRADABLE
from strategies.regime_switcher import REGIMES, layout
from tests.support.training.made_up_days import days, write_days
from training.data.daily_table import table_of
from training.desks.daily.baselines import regime_baselines
from training.desks.daily.rebalancer import RebalancerTaskData
from training.desks.daily.task_data import DailyTaskData
from training.desks.kind import EnvSettings, Span, described
from training.desks.ppo import PpoData
from training.desks.registry import kind
from training.rl.protocols import CarryingNetwork
from training.runs.settings import bars_notes, folds_of, settings_for
from training.study.folds import HistoryError
from training.study.study import Fold, SessionResult

STOCKS, FUNDS = daily_rebalancer.SPEC.name, regime_switcher.SPEC.name


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this module's, where tables are kept too."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))


@pytest.fixture(scope="module")
def stock_file(home: Path) -> Path:
    """All 50 stocks on 430 sessions."""
    return write_days(home / "stocks.csv", daily_rebalancer.SYMBOLS, days("2020-01-02", "2021-12-31", 430))


@pytest.fixture(scope="module")
def fund_file(home: Path) -> Path:
    """The three funds from 2013 to 2022."""
    return write_days(home / "funds.csv", regime_switcher.SYMBOLS, days("2013-01-02", "2022-12-30"))


@pytest.fixture
def stocks(stock_file: Path) -> PpoData:
    data: PpoData = kind(STOCKS).load(stock_file, trading_for(STOCKS))
    return data


@pytest.fixture
def funds(fund_file: Path) -> PpoData:
    data: PpoData = kind(FUNDS).load(fund_file, trading_for(FUNDS))
    return data


class Constant(nn.Module):
    """The same action for every stock."""

    def __init__(self, action: float) -> None:
        super().__init__()
        self.action = action

    def forward(self, observation: Tensor) -> Tensor:
        return torch.full((observation.shape[0], 50), self.action)


class Always(nn.Module):
    """The same regime on every day."""

    def __init__(self, regime: str) -> None:
        super().__init__()
        self.regime = [name for name, _ in REGIMES].index(regime)

    def forward(self, observation: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return nn.functional.one_hot(torch.full((len(observation),), self.regime), 16).float(), hidden


def test_a_session_is_decided_on_once_the_strategy_has_its_bars(
    stocks: PpoData, funds: PpoData, stock_file: Path
) -> None:
    assert list(stocks.days) == list(days("2020-01-02", "2021-12-31", 430))[400:]
    assert next(iter(funds.days)) == days("2013-01-02", "2022-12-30")[252]
    assert described(stocks, stock_file.name, "sip", Fold(("a",), ("b",), ("c", "d")), "").sessions == 4


def test_tests_are_years_from_the_end_and_a_short_file_is_split_with_a_line_that_says_so(
    stocks: PpoData, funds: PpoData, stock_file: Path, fund_file: Path
) -> None:
    settings, dates = settings_for(FUNDS, fund_file, Path("store")), list(funds.days)
    first, last = folds_of(replace(settings, folds=2), funds)
    assert [(span[0][:4], span[-1]) for span in (first.test, last.test)] == [
        ("2021", "2021-12-31"), ("2022", "2022-12-30"),
    ]  # fmt: skip
    for fold in (first, last):  # a look-back of 252 bars and the session in which a decision earns
        assert dates.index(fold.test[0]) - dates.index(fold.validate[-1]) == 254
        assert dates.index(fold.validate[0]) - dates.index(fold.train[-1]) == 254
        assert (fold.train[0], len(fold.validate)) == (dates[0], 252)
    assert folds_of(settings, funds) == (last,)
    assert bars_notes(settings, funds) == ()
    (reference,) = folds_of(replace(settings, reference_years=True), funds)
    assert [(span[0], span[-1]) for span in (reference.train, reference.validate, reference.test)] == [
        ("2015-01-02", "2018-12-31"), ("2019-01-02", "2019-12-31"), ("2020-01-02", "2022-12-30"),
    ]  # fmt: skip
    (note,) = bars_notes(replace(settings, reference_years=True), funds)
    assert "nothing is left out between them" in note
    other = settings_for(STOCKS, stock_file, Path("store"))
    (shares,) = folds_of(other, stocks)
    assert [len(span) for span in (shares.train, shares.validate, shares.test)] == [18, 6, 6]
    (note,) = bars_notes(other, stocks)
    assert note == (
        f"stocks.csv can be decided on in 30 sessions from {shares.train[0]} to {shares.test[-1]}, too few to train on "
        "252 sessions and more, validate on 252, test on a calendar year, 401 left out between spans: they are split "
        "60/20/20 instead, and none is left out"
    )
    with pytest.raises(HistoryError, match="folds = 2 needs 1306 before the first tested year"):
        folds_of(replace(other, folds=2), stocks)


def test_a_table_is_read_once_for_a_file(stock_file: Path, home: Path) -> None:
    first = kind(STOCKS).load(stock_file, trading_for(STOCKS))
    (file,) = [path for path in (home / "cache" / "rltrader" / "tables").iterdir() if path.name.startswith(
        first.info.sha256[:16]
    )]  # fmt: skip
    mtime_ns = file.stat().st_mtime_ns
    again = kind(STOCKS).load(stock_file, trading_for(STOCKS))
    fold = Fold(tuple(first.days), (), ())
    assert np.array_equal(first.probes(fold, 64, 1), again.probes(fold, 64, 1))
    assert file.stat().st_mtime_ns == mtime_ns


def test_seeds_draw_weights_and_leave_the_scaling(stocks: PpoData) -> None:
    train = list(stocks.days)[:18]
    one, other = (stocks.network("mlp", seed, train).policy.state_dict() for seed in (1, 2))
    again = stocks.network("mlp", 1, train).policy.state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)
    different = {name.split(".")[0] for name in one if not torch.equal(one[name], other[name])}
    assert different
    assert not different & {"mean", "scale", "clip"}


def test_sessions_after_those_of_training_leave_the_scaling_as_it_is(stocks: PpoData) -> None:
    assert isinstance(stocks, RebalancerTaskData)
    train, table = list(stocks.days)[:18], stocks.table
    after = np.arange(len(table.sessions)) > table.dates.index(train[-1])
    bars = np.where(after[:, None], table.bars * np.linspace(2.0, 9.0, len(after))[:, None], table.bars)
    other = replace(stocks, table=table_of(bars, table.sessions, daily_rebalancer.SPEC))
    assert not np.array_equal(other.table.features, table.features)
    one, same = (task.network("mlp", 1, train).policy.state_dict() for task in (stocks, other))
    assert all(torch.equal(one[name], same[name]) for name in one)


def test_a_policy_is_built_again_from_its_weights(stocks: PpoData, funds: PpoData) -> None:
    probes = torch.from_numpy(stocks.probes(Fold(tuple(stocks.days), (), ()), 10, 1))
    network = stocks.network("mlp", 3, list(stocks.days)[:18])
    assert isinstance(network, nn.Module)
    policy = kind(STOCKS).policy("mlp", 1, network.state_dict())
    with torch.no_grad():
        assert torch.equal(policy(probes), network.policy(probes))
    switcher = funds.network("gru", 3, list(funds.days)[:18])
    assert isinstance(switcher, nn.Module)
    assert isinstance(switcher, CarryingNetwork)
    same = kind(FUNDS).policy("gru", 1, switcher.state_dict())
    with torch.no_grad():
        for tensor, expected in zip(same(torch.ones(2, 64), torch.ones(2, 128)), switcher.policy(
            torch.ones(2, 64), torch.ones(2, 128)
        ), strict=True):  # fmt: skip
            assert torch.equal(tensor, expected)


def test_probes_are_observations_of_accounts_that_trade(stocks: PpoData, funds: PpoData) -> None:
    probes = stocks.probes(Fold(tuple(stocks.days), (), ()), 200, 1)
    assert probes.shape == (200, 803)
    assert probes.dtype == np.float32
    assert (probes[:64, HOLDINGS] == 0.0).all()  # before anyone has traded
    assert (probes[64:, HOLDINGS] > 0.0).any(axis=1).mean() > 0.8  # the others began anew at the span's end
    assert (probes[:, CASH] >= 0.0).all()
    assert (probes[:, TRADABLE] == 1.0).all()
    switched = funds.probes(Fold(tuple(funds.days), (), ()), 50, 1)
    assert switched.shape == (50, 64)
    assert np.abs(switched[:, layout(3).weights].sum(axis=1) - 1.0).max() < 1e-6
    assert len(np.unique(switched[:, layout(3).weights], axis=0)) > 10


def test_environments_have_the_seed_the_variant_and_the_span_they_are_asked_for(stocks: PpoData) -> None:
    dates, rules = list(stocks.days)[:10], trading_for(STOCKS)
    rules = replace(rules, paper=replace(rules.paper, cash_usd=Decimal(100_000_000)))  # short cash is shared by all
    environments = {
        variant: stocks.environment(Span(dates, variant, rules), EnvSettings(5, 7, 0.99, "cpu"))
        for variant in ("shares", "notional")
    }
    for environment in environments.values():
        environment.step(torch.ones(5, 50))
    shares, notional = (environments[variant].observe()[:, HOLDINGS] for variant in ("shares", "notional"))
    assert float(shares.max()) == 100.0  # a unit is 100 shares, of stocks from 20 USD
    assert float(notional.max()) > 300.0  # or 10,000 USD


def test_figures_compound(funds: PpoData) -> None:
    day = SessionResult("2020-01-02", 10_000.0, 1, 0, 1.0, 5000.0, 390, 390, 100_000.0)
    figures = funds.figures([day, replace(day, date="2020-01-03", pnl_usd=-11_000.0, capital_usd=110_000.0)])
    assert math.isclose(figures.net_return, 99_000.0 / 100_000.0 - 1.0)
    assert math.isclose(figures.max_drawdown, 0.1)


def test_a_look_and_the_dry_run_tell_of_the_same_account(stocks: PpoData, funds: PpoData) -> None:
    dates, rules = list(stocks.days)[:6], trading_for(STOCKS)
    for variant in ("shares", "notional"):
        span = Span(dates, variant, rules)
        looked = stocks.evaluator(span, "cpu")(Constant(0.9))
        play = stocks.test(Constant(0.9), span)
        assert looked[0].capital_usd == play.sessions[0].capital_usd == 1_000_000.0
        for look, session in zip(looked, play.sessions, strict=True):
            assert look.date == session.date
            assert abs(look.pnl_usd - session.pnl_usd) < 0.01
    few, switched = list(funds.days)[:6], Span(list(funds.days)[:6], "alpha", trading_for(FUNDS))
    looked, play = funds.evaluator(switched, "cpu")(Always("ALL_SPY")), funds.test(Always("ALL_SPY"), switched)
    assert [result.date for result in looked] == few
    for look, session in zip(looked, play.sessions, strict=True):  # weights here, whole shares there
        assert abs(look.pnl_usd - session.pnl_usd) < 0.005 * 100_000.0


def test_the_passive_policy_of_the_switcher_is_its_baseline_equal_weight(funds: PpoData) -> None:
    training_kind = kind(FUNDS)
    assert training_kind.passive is not None
    assert isinstance(funds, DailyTaskData)
    learner: Any = funds.network("gru", 5, ())
    training_kind.passive.begin(learner)
    probes = torch.from_numpy(funds.probes(Fold(tuple(funds.days)[:30], (), ()), 20, 1))
    logits, _ = learner.policy(probes, torch.zeros(len(probes), 128))
    assert set(logits.argmax(1).tolist()) == {regime_switcher.SPEC.actions.index("EQUAL_WEIGHT")}
    assert float(logits.detach().std(dim=0).max()) > 0.0  # it still departs from there
    training_kind.passive.play(learner)
    span = Span(tuple(funds.days)[-5:], "alpha", trading_for(FUNDS))
    result = funds.test(training_kind.policy("gru", 5, learner.state_dict()), span)
    assert result.sessions == regime_baselines(funds.desk(span))["EQUAL_WEIGHT"].sessions


def test_the_passive_policy_of_the_rebalancer_buys_every_stock_alike(stocks: PpoData) -> None:
    training_kind = kind(STOCKS)
    assert training_kind.passive is not None
    train = tuple(stocks.days)[:18]
    learner: Any = stocks.network("mlp", 5, train)
    training_kind.passive.play(learner)
    probes = stocks.probes(Fold(train, (), ()), 30, 1)
    answers = training_kind.policy("mlp", 5, learner.state_dict())(torch.from_numpy(probes)).detach().numpy()
    tradable = probes[:, daily_rebalancer.TRADABLE] != 0.0
    assert answers[tradable] == pytest.approx(0.7615942, abs=1e-6)  # tanh(1)
    assert not answers[~tradable].any()
