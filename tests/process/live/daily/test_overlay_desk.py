"""The risk overlay at the loopback Alpaca: what is bought of SPY is what the cap leaves, and stays so on the next day.

The expected number of shares comes from pandas and the closes that the desk kept.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from daemon.cli import ctl
from strategies.registry import daily_strategy
from tests.support.desks.daily_day import BEGIN, bought
from tests.support.desks.daily_stage import CASH, HALF_DAY, daily_stage, swapping
from tests.support.desks.live_desk import differences


def test_a_live_desk_buys_what_the_cap_leaves(tmp_path: Path) -> None:
    models = swapping(tmp_path / "models")
    overlay = {"basket": {"volatility_target": 0.05}}
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models, overlay) as desk:
        bought(desk)
        books = desk.books()
        bars = daily_strategy("regime_switcher").known(books.state.strategy)["SPY"]
        closes = pd.Series([bar.close for bar in bars][-61:])
        variance = (closes.pct_change().dropna() ** 2).ewm(span=20).mean().iloc[-1]
        cap = 0.05 / (252 * variance) ** 0.5
        assert 0.1 < cap < 0.9
        assert books.state.book.positions["SPY"].quantity == int(int(CASH / closes.iloc[-1]) * cap * CASH
            / (int(CASH / closes.iloc[-1]) * closes.iloc[-1]))  # fmt: skip
        assert differences(books, desk.account) == []
        assert ctl.main(["verify", "--state-dir", str(desk.state_dir)]) == 0
