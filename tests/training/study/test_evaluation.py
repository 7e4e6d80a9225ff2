"""Figures by hand, the live path by its vector, and the tensor market against the desk itself, to the cent."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from daemon.core.events import Event
from daemon.core.limits import Trading
from strategies.option_scalper import BUY_CALL, EXIT, HOLD, SPEC
from strategies.registry import strategy
from tests.support.rl.erratic import erratic
from tests.support.rl.trained import train
from tests.support.training.made_up import drifting, random_walk
from training.desks.scalper.baselines import live_actions, play, random_trader
from training.desks.scalper.data import always_hold, desk_of
from training.desks.scalper.history import price_table, read_history
from training.desks.scalper.market import Market
from training.desks.scalper.network import ActorCritic, fit_scaling
from training.evaluate.machine import Player
from training.evaluate.players import random_like
from training.rl.coefficients import Coefficients
from training.rl.ppo import make_deterministic
from training.study.study import SessionFigures, SessionResult, figures

TRADING = Trading()


def _play_both(events: Sequence[Event]) -> tuple[tuple[SessionResult, ...], tuple[SessionResult, ...], dict[str, int]]:
    """The same player's results through the tensor market and through the desk, and the desk's denials."""
    machine = strategy(SPEC.name)
    history = read_history(events, SPEC, TRADING)
    days = history.usable
    dates = [day.session.date for day in days]
    market = Market(history, price_table(history, days, TRADING), days, TRADING, count=len(days), auto_reset=False)
    quick = play(market, erratic, dates, TRADING.risk.confidence_min)
    desk = desk_of(events, machine)
    through = desk.play(erratic, desk.before(dates, TRADING), TRADING)
    return quick, through.sessions, through.denials


@pytest.mark.parametrize("events", [random_walk(32), drifting(32)], ids=["random walk", "drifting"])
def test_identical_decisions_come_to_the_same_cent_in_the_tensor_market_and_on_the_desk(events: list[Event]) -> None:
    quick, desk, denials = _play_both(events)
    assert sum(result.trades for result in desk) > 100
    assert {"cooldown_trade", "cooldown_loss", "near_close"} <= denials.keys()
    for session, expected in zip(quick, desk, strict=True):
        assert (session.date, session.trades, session.wins, session.held_min, session.minutes) == (
            expected.date, expected.trades, expected.wins, expected.held_min, expected.minutes,
        )  # fmt: skip
        assert round(session.pnl_usd * 100) == round(expected.pnl_usd * 100)
        assert round(session.fees_usd * 100) == round(expected.fees_usd * 100)
        assert round(session.premium_usd * 100) == round(expected.premium_usd * 100)


def test_who_always_holds_neither_trades_nor_earns() -> None:
    events, machine = random_walk(24), strategy(SPEC.name)
    desk = desk_of(events, machine)
    desk_play = desk.play(always_hold, desk.before(["2024-06-20", "2024-06-21"], TRADING), TRADING)
    assert [(result.pnl_usd, result.trades) for result in desk_play.sessions] == [(0.0, 0), (0.0, 0)]
    assert desk_play.denials == {}


def test_a_date_without_a_session_is_an_error() -> None:
    with pytest.raises(ValueError, match="no session 2024-06-19"):
        desk_of(random_walk(2), strategy(SPEC.name)).before(["2024-06-19"], TRADING)


def test_the_live_path_takes_the_strategy_s_vector_and_holds_back_an_unsure_entry() -> None:
    vector = torch.tensor([[0.2, 1.5, -0.3, -0.5, -0.8, -1.0]])  # action 1 with 0.7377
    flat, holding = torch.tensor([True]), torch.tensor([False])
    assert live_actions(vector, flat, 0.7376).tolist() == [BUY_CALL]
    assert live_actions(vector, flat, 0.7378).tolist() == [HOLD]
    assert live_actions(vector, holding, 0.7378).tolist() == [BUY_CALL]  # no entry: holds or leaves
    unsure_exit = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, 0.1]])
    assert live_actions(unsure_exit, holding, 0.9).tolist() == [EXIT]


def test_figures_of_three_sessions_by_hand() -> None:
    def result(pnl_usd: float, trades: int, wins: int) -> SessionResult:
        return SessionResult("2024-01-02", pnl_usd, trades, wins, 1.5, 1000.0, 100, 200)

    values = figures([result(100.0, 2, 2), result(-300.0, 1, 0), result(50.0, 1, 1)], 10_000.0)
    # returns 0.01, -0.03, 0.005: mean -0.005, squares of deviations 0.000225 + 0.000625 + 0.0001 = 0.00095
    deviation = (0.00095 / 2) ** 0.5
    expected = SessionFigures(
        sessions=3,
        net_return=-0.015,
        session_return=-0.005,
        session_deviation=deviation,
        sharpe_annual=-0.005 / deviation * 252**0.5,
        worst_session=-0.03,
        max_drawdown=0.03,
        trades=4,
        trades_per_session=4 / 3,
        win_rate=0.75,
        fees_usd=4.5,
        turnover=0.1,
        exposure=0.5,
    )
    for name in SessionFigures.__slots__:
        assert getattr(values, name) == pytest.approx(getattr(expected, name)), name


def seeded(enter: float, leave: float) -> Player:
    return random_trader(enter, leave, seed=1)


def test_the_random_trader_trades_about_as_often_as_whom_it_is_compared_with() -> None:
    history = read_history(random_walk(32), SPEC, TRADING)
    days = history.usable
    dates = [day.session.date for day in days]
    prices = price_table(history, days, TRADING)

    def measure(trader: Player) -> tuple[SessionResult, ...]:
        market = Market(history, prices, days, TRADING, count=5 * len(days), auto_reset=False)
        return play(market, trader, dates, TRADING.risk.confidence_min)

    goal = [SessionResult(date, 0.0, 6, 3, 0.0, 0.0, 90, 363) for date in dates]
    results = measure(random_like(goal, seeded, measure))
    assert sum(result.trades for result in results) / len(results) == pytest.approx(6.0, rel=0.2)
    assert sum(result.held_min for result in results) / len(results) == pytest.approx(90.0, rel=0.3)


def test_it_learns_a_drift_that_shows_in_the_gap_and_beats_random_trades_on_later_sessions() -> None:
    make_deterministic()
    history = read_history(drifting(40), SPEC, TRADING)
    prices = price_table(history, history.usable, TRADING)
    early, late = history.usable[:12], history.usable[12:]
    dates = [day.session.date for day in late]
    rows = torch.cat([torch.arange(day.first, day.end) for day in early])
    network = ActorCritic(fit_scaling(torch.from_numpy(history.features)[rows]), seed=1)
    market = Market(history, prices, early, TRADING, count=32, seed=1)
    small = Coefficients(
        environments=32, rollout_steps=32, batch=256, epochs=6, learning_rate=1e-3, schedule="constant"
    )
    train(network, market, small, total_steps=16_000, seed=1)  # 8,000 end by luck of a kernel's last bits

    def measure(player: Player, accounts: int = 1) -> tuple[SessionResult, ...]:
        market = Market(history, prices, late, TRADING, count=accounts * len(late), auto_reset=False)
        return play(market, player, dates, TRADING.risk.confidence_min)

    sessions = measure(network.policy)
    by_chance = measure(random_like(sessions, seeded, measure), accounts=20)
    earned = sum(result.pnl_usd for result in sessions)
    draws = torch.tensor([result.pnl_usd for result in by_chance]).reshape(-1, len(late)).sum(dim=1).tolist()
    assert len(draws) == 20
    assert earned > 5_000.0
    assert earned > max(draws)
