"""Training on hours made of minutes: over night one account goes through a span, else each session is alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from daemon.core.desks.bars import MINUTE_WAIT_NS
from daemon.core.events import ClockTicked
from daemon.core.limits import Risk, Sizing, Trading
from daemon.tapes import BUNDLED_TAPE
from daemon.tapes.minutes import TapeSource, scan
from strategies.online_dqn import OnlineDqn
from strategies.online_dqn.state_vector import shipped
from tests.support.core.longer_bars import LongerBars, longer_spec
from tests.support.desks.desk_run import bundled_rows, write_tape
from training.data.sessions import calendar_of
from training.desks.kind import Span
from training.desks.own.data import Hooks, OwnMinutes
from training.desks.own.sessions import minutes_of
from training.evaluate.players import CERTAIN, choosing

RULES = Trading(
    Sizing(stop_loss=0.9, take_profit=9.0),
    risk=Risk(gap_min=400, cooldown_trade_s=0, cooldown_loss_s=0, daily_loss_max=1.0, drawdown_max=1.0),
)


@pytest.fixture(scope="module", params=[True, False], ids=["over night", "flat"])
def data(request: pytest.FixtureRequest) -> OwnMinutes:
    spec = longer_spec(60, overnight=request.param)
    info = scan(Path(BUNDLED_TAPE), spec.symbols, spec.bar_interval_s)
    calendar = calendar_of(info.first_date, info.last_date)
    dates = tuple(day.date for day in calendar.sessions if info.first_date <= day.date <= info.last_date)[:10]
    return OwnMinutes(info, TapeSource(Path(BUNDLED_TAPE), info, calendar), dates, 3, LongerBars(spec), RULES, Hooks())


def test_what_is_held_is_carried_through_the_span_or_left_each_evening(data: OwnMinutes) -> None:
    span = Span(tuple(data.days)[:4], "", RULES)
    play = data.play(choosing(1, 2), span)
    overnight = data.spec.overnight
    assert [session.trades for session in play.sessions] == ([0, 0, 0, 0] if overnight else [1, 1, 1, 1])
    capital = [session.capital_usd for session in play.sessions]
    if overnight:  # each session begins with what the one before left
        money = float(RULES.paper.cash_usd)
        for session in play.sessions:
            assert session.capital_usd == pytest.approx(money, abs=0.01)
            money += session.pnl_usd
        returns = np.array([session.pnl_usd for session in play.sessions]) / np.array(capital)
        expected = float(np.prod(1.0 + returns) - 1.0)
    else:
        expected = sum(session.pnl_usd for session in play.sessions) / float(RULES.paper.cash_usd)
    assert data.figures(play.sessions).net_return == pytest.approx(expected)


def test_the_environment_earns_what_the_dry_run_earns_with_the_same_actions(data: Any) -> None:
    span = Span(tuple(data.days)[:3], "", RULES)
    env, generator, actions = data.desk_env(span), np.random.default_rng(3), list[int]()
    earned = 0.0
    for episode in range(1 if data.spec.overnight else 3):
        env.reset(options={"episode": episode})
        over, equity = False, float(RULES.paper.cash_usd)
        while not over:
            actions.append(int(generator.integers(2)))
            _, _, over, _, info = env.step(actions[-1])
            equity = info["equity_usd"]
        earned += equity - float(RULES.paper.cash_usd)
    again = iter(actions)

    def player(_: Tensor) -> Tensor:
        return CERTAIN * torch.nn.functional.one_hot(torch.tensor([next(again)]), 2).float()

    play = data.play(player, span)
    assert next(again, None) is None
    assert sum(session.pnl_usd for session in play.sessions) == pytest.approx(earned, abs=0.01)
    assert earned


def test_minutes_of_several_symbols_are_those_of_a_replay_with_its_wait_for_a_bar_that_one_lacks(
    tmp_path: Path,
) -> None:
    rows = next(iter(bundled_rows().values()))
    others = [row.replace("SPY", "QQQ") for place, row in enumerate(rows) if place not in (30, 200)]
    tape = write_tape(tmp_path / "two.csv", sorted([*rows, *others], key=lambda row: int(row.split(",")[1])))
    spec = OnlineDqn(shipped(), ("SPY", "QQQ")).spec
    starts = [int(rows[place].split(",")[1]) for place in (30, 200)]
    ticks = [event.time_ns for event in minutes_of(tape, spec, RULES).source if isinstance(event, ClockTicked)]
    assert ticks == [start + 60 * 10**9 + MINUTE_WAIT_NS for start in starts]
