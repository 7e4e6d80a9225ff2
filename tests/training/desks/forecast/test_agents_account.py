"""What agents see of the account: a desk that holds for months stands nowhere at the clip, and its past is not seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from daemon.models.store import versions
from strategies.forecast_ensemble import ACCOUNT as COLUMNS
from strategies.forecast_ensemble import SEQUENCE, WIDTH
from tests.support.paths import REPOSITORY
from tests.support.training.made_up_days import trading, walk
from tests.support.training.untrained_ensemble import untrained
from training.desks.forecast.graph import CLIP, RowScaling
from training.desks.forecast.market import ACCOUNT, ForecastMarket, Outlook
from training.desks.forecast.play import rows_of
from training.export.export import Exported

STORE = REPOSITORY / "onnx_models"


def accounts(*, draws: bool) -> ForecastMarket:
    """Accounts on a walk of 160 sessions whose stocks have a forecast that says nothing."""
    table = walk(160, seed=4)
    days, symbols = len(table.sessions), len(table.symbols)
    even = np.full((days, symbols, 3), 1 / 3, dtype=np.float32)
    features = np.zeros((days, symbols, 18), dtype=np.float32)
    rules = trading("100000", band=0.01)
    rules = replace(rules, basket=replace(rules.basket, weight_max=0.1))
    outlook = Outlook(even, even.max(axis=2), features)
    count = 16 if draws else 1
    return ForecastMarket(table, outlook, 3, days - 1, rules, count=count, episode=None, draws=draws, seed=1)


def test_a_desk_that_holds_everything_for_months_has_no_account_number_at_the_clip() -> None:
    """Scaled by accounts that trade at random, 4 of 5 stood there: what a holder is, random traders never are."""
    scaling = RowScaling.of(rows_of(accounts(draws=True), 64, seed=1), 0.1)
    holder = accounts(draws=False)
    inputs = []
    for _ in range(120):
        holder.step(torch.ones(holder.rows, 1))
        inputs.append(scaling(holder.observe())[:, -ACCOUNT:])
    rows = torch.stack(inputs)  # (sessions, symbols, 4)
    assert float(holder.observe()[:, -ACCOUNT:][:, COLUMNS.index("age")].max()) == 5.0  # 100 sessions and more
    assert (rows.abs() >= CLIP).float().mean(dim=(0, 1)).tolist() == [0.0] * ACCOUNT
    assert (rows.abs().amax(dim=(0, 1)) > 0.1).all()  # and none has vanished


def test_the_past_of_the_account_is_no_input_of_the_answer() -> None:
    """Two desks that hold the same, one of them 40 % below its highest equity, answer alike."""
    policy = untrained(3)
    rows = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(2))
    rows[:, SEQUENCE:] = rows[:, SEQUENCE:].abs().clamp(max=1.0)
    other = rows.clone()
    other[:, SEQUENCE + COLUMNS.index("drawdown")] = 0.4
    with torch.no_grad():
        assert torch.equal(policy(rows).final, policy(other).final)
        other[:, SEQUENCE + COLUMNS.index("cash_share")] += 0.3
        assert not torch.equal(policy(rows).final, policy(other).final)


@pytest.mark.parametrize("version", versions(STORE, "forecast_ensemble"))
def test_no_shipped_version_reads_the_past_of_the_account_and_its_page_says_so(version: str) -> None:
    rows = np.random.default_rng(5).normal(0.0, 1.0, (8, WIDTH)).astype(np.float32)
    rows[:, SEQUENCE:] = np.abs(rows[:, SEQUENCE:]).clip(max=1.0)
    other = rows.copy()
    other[:, SEQUENCE + COLUMNS.index("drawdown")] = 0.4
    graph = Exported(STORE / "forecast_ensemble" / version / "policy.onnx")
    assert np.array_equal(graph.answers(rows), graph.answers(other))
    page = (REPOSITORY / "docs" / "strategies" / "forecast_ensemble.md").read_text()
    assert "No shipped version reads it" in page
