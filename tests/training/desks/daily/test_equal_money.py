"""The passive policy of `daily_rebalancer` puts the same money into each stock, whatever a share of it costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from daemon.core.strategy_rules import DIGEST, trading_for
from daemon.models.store import check_rules, load
from strategies import daily_rebalancer
from strategies.daily_rebalancer import CASH, CLOSES, HOLDINGS, TRADABLE, VALUE, WIDTH, DailyRebalancer
from strategies.registry import strategy
from tests.support.paths import REPOSITORY
from tests.support.training.made_up_days import sessions
from training.data.daily_table import DailyTable, table_of
from training.desks.daily.markets.rebalancer import by_variant
from training.desks.registry import kind
from training.evaluate.days import desk_before, play_to_desk
from training.export.export import Exported

Floats = npt.NDArray[np.float64]
NAME, STOCKS, WARM, DAYS = "daily_rebalancer", 50, 401, 12
CAPITAL = 1_000_000.0
PRICES = np.where(np.arange(STOCKS) % 2, 1000.0, 10.0)  # of a share


def passive() -> nn.Module:
    baseline = kind(NAME).passive
    assert baseline is not None
    assert baseline.rule is not None
    return baseline.rule(trading_for(NAME))


def table(closes: Floats, first: Sequence[int] = (0,) * STOCKS) -> DailyTable:
    """A table of closes (days, 50), opened at the close before; a stock has no bar before its first session."""
    opens = np.concatenate([closes[:1], closes[:-1]])
    bars = np.stack([opens, np.maximum(opens, closes), np.minimum(opens, closes), closes, np.full_like(closes, 1e6)])
    missing = np.arange(len(closes))[:, None] < np.array(first)
    return table_of(np.where(missing, np.nan, bars), sessions(len(closes)), daily_rebalancer.SPEC)


def wandering(days: int) -> Floats:
    """Closes around `PRICES`, a hundredth up or down a day."""
    steps = np.random.default_rng(4).normal(0.0, 0.01, (days, STOCKS))
    closes: Floats = PRICES * np.exp(steps.cumsum(axis=0))
    return closes


def money(closes: Floats, days: int, first: Sequence[int] = (0,) * STOCKS) -> tuple[Floats, list[int], list[float]]:
    """Dollars in each stock, orders of each session, fees, of the passive policy after `days` sessions."""
    market_table = table(closes, first)
    rules = by_variant(trading_for(NAME), "account")
    desk = desk_before(market_table, market_table.dates[WARM : WARM + days], DailyRebalancer(), rules)
    result, after = play_to_desk(passive(), desk)
    positions = after.state.book.positions
    shares = np.array([positions[s].quantity if s in positions else 0 for s in daily_rebalancer.SYMBOLS], dtype=float)
    assert result.denials == {}
    worth: Floats = shares * closes[WARM + days - 1]
    return worth, [s.trades for s in result.sessions], [s.fees_usd for s in result.sessions]


def test_a_share_of_10_and_a_share_of_1000_dollars_get_the_same_money_and_are_kept() -> None:
    worth, orders, _ = money(np.tile(PRICES, (WARM + DAYS, 1)), DAYS)
    fiftieth = 0.98 * CAPITAL / STOCKS  # 19,600 USD; costs of 0.1 % take up to 20 of them
    assert (worth <= fiftieth).all()
    assert (worth > fiftieth - 20.0 - PRICES).all()  # less than one share is missing
    assert orders[:2] == [STOCKS, STOCKS]  # 10,000 USD a day
    assert not any(orders[2:])


def test_an_adjustment_of_one_stock_s_whole_history_changes_nobody_s_money() -> None:
    closes = wandering(WARM + DAYS)
    adjusted = closes.copy()
    adjusted[:, 0] /= 4.0
    adjusted[:, 1] /= 4.0  # from about 1,000 to 250 USD
    as_it_was, then = money(closes, DAYS)[0], money(adjusted, DAYS)[0]
    assert (np.abs(then - as_it_was) <= 1.05 * closes[WARM + DAYS - 1]).all()  # rounding to whole shares
    assert then[0] == pytest.approx(as_it_was[0], rel=0.002)  # of hundreds of shares


def test_what_was_bought_is_held_while_prices_move() -> None:
    days = 60
    _, orders, fees = money(wandering(WARM + days), days)
    assert sum(orders[:3]) >= 2 * STOCKS
    assert not any(orders[3:])
    assert sum(fees) == pytest.approx(0.001 * 0.98 * CAPITAL, rel=0.03)  # costs of 0.1 %, once


def test_the_money_of_a_stock_that_cannot_be_traded_yet_waits_for_it() -> None:
    days = 20
    late = [0] * STOCKS
    late[4] = 10  # its 400th bar comes ten sessions after that of the others
    closes = np.tile(PRICES, (WARM + days, 1))
    early = money(closes, 8, late)[0]
    assert early[4] == 0.0
    assert early[6] == pytest.approx(19_600, abs=60)
    worth = money(closes, days, late)[0]
    assert worth[4] == pytest.approx(19_600, abs=60)
    assert np.delete(worth, 4) == pytest.approx(np.delete(early, 4))


def test_without_a_price_a_value_or_cash_nothing_is_wanted() -> None:
    rows = np.zeros((4, WIDTH), dtype=np.float32)
    rows[:, VALUE] = rows[:, CASH] = 1e6
    rows[:, CLOSES] = 20.0
    rows[:, TRADABLE] = 1.0
    rows[0, CLOSES] = 0.0
    rows[1, VALUE] = rows[1, CASH] = 0.0
    rows[2, CASH] = -5.0
    rows[3, TRADABLE] = 0.0
    assert not passive()(torch.from_numpy(rows)).numpy().any()


# --- what is shipped ----------------------------------------------------------------------------------------------

STORE = REPOSITORY / "onnx_models"


def test_the_shipped_current_version_is_this_policy_and_a_desk_of_default_rules_runs_it() -> None:
    model = load(STORE, strategy(NAME))
    check_rules(model, strategy(NAME), trading_for(NAME))
    assert model.manifest.rules.keys() - {DIGEST} == {
        "basket.shares_per_unit",
        "basket.notional_per_unit_usd",
        "basket.equity_per_unit",
    }
    draw = np.random.default_rng(7)
    rows = draw.uniform(0.0, 1.0, (200, WIDTH)).astype(np.float32)
    rows[:, CLOSES] *= 500.0
    rows[:, HOLDINGS] = np.trunc(rows[:, HOLDINGS] * 60.0)
    rows[:, TRADABLE] = rows[:, TRADABLE] > 0.1
    worth = (rows[:, CLOSES] * rows[:, HOLDINGS]).sum(axis=1)
    rows[:, CASH] *= 1e6
    rows[:, VALUE] = rows[:, CASH] + worth
    answers = passive()(torch.from_numpy(rows)).numpy()
    assert (answers > 0.0).any()
    assert Exported(model.path / "policy.onnx").answers(rows) == pytest.approx(answers, abs=1e-5)
