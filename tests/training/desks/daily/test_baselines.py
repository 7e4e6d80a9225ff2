"""Baselines against hand calculation, and what a policy does under other conditions against its own words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from daemon.core.limits import Trading
from daemon.core.strategy_rules import trading_for
from strategies import daily_rebalancer, regime_switcher
from strategies.daily_rebalancer import DailyRebalancer
from strategies.regime_switcher import HIDDEN, RegimeSwitcher
from tests.support.training.made_up_days import trading, walk, written
from training.desks.daily import baselines
from training.desks.daily.baselines import (
    HOLD_ALL,
    RANDOM,
    RESET,
    SAME_CLOSE,
    at_other_times,
    of_other_stocks,
    owned,
    random_rebalancers,
    random_switchers,
    rebalancer_baselines,
    rebalancer_scenarios,
    regime_baselines,
    regime_scenarios,
)
from training.desks.daily.markets.rebalancer import by_variant, variant_of
from training.desks.daily.play import (
    RandomRebalancer,
    always,
    flat,
    one_hot_logits,
    play_rebalancer,
    play_regime,
)
from training.desks.daily.share_accounts import fees_of_values
from training.desks.daily.task_data import funds_beside
from training.desks.registry import kind
from training.evaluate.days import Desk, desk_before, dry_run
from training.evaluate.players import COSTS_THRICE, NO_COSTS, Late, with_costs
from training.evidence.criteria import COSTS_TWICE, ONE_BAR_LATE
from training.evidence.significance import random_p_value
from training.study.study import PlayResult, SessionResult


@cache
def stocks_desk() -> Desk:
    table = walk(440, seed=11, spec=daily_rebalancer.SPEC)
    rules = by_variant(trading_for("daily_rebalancer"))
    return desk_before(table, table.dates[405:], DailyRebalancer(), rules)


@cache
def funds_desk() -> Desk:
    table = walk(560, seed=12, spec=regime_switcher.SPEC)
    rules = trading_for("regime_switcher")
    return desk_before(table, table.dates[260:], RegimeSwitcher(), rules)


def dates(desk: Desk) -> tuple[str, ...]:
    return desk.table.dates[desk.first : desk.last + 1]


def total(results: Sequence[SessionResult]) -> float:
    return sum(result.pnl_usd for result in results)


def test_owning_two_stocks_from_the_first_open_comes_out_as_calculated_by_hand() -> None:
    table = written(
        {"AAPL": [(10.0, 10.0), (11.0, 12.0), (12.0, 9.0)], "ADBE": [(20.0, 20.0), (25.0, 20.0), (20.0, 30.0)]}
    )
    play = owned(table, table.dates[1:], trading("10010"), lambda day: day == 0, ("AAPL", "ADBE"))
    # 5,000 USD each at the opens 11 and 25, and 10 of costs: 10,000 x 0.001; CAT 654.5 x 0.000048 = 0.0314, so 4 cents
    first, second = play.sessions
    assert first.pnl_usd == pytest.approx(5000 * 12 / 11 + 5000 * 20 / 25 - 10010.04, abs=1e-6)
    assert first.fees_usd == pytest.approx(10.04, abs=1e-6)
    assert first.premium_usd == pytest.approx(10000.0, abs=1e-4)
    assert (first.trades, second.trades) == (2, 0)
    assert second.pnl_usd == pytest.approx(5000 * (9 - 12) / 11 + 5000 * (30 - 20) / 25, abs=1e-6)
    assert second.capital_usd == pytest.approx(10010 + first.pnl_usd)


def test_a_small_account_without_shares_pays_the_fees_of_what_its_values_come_to() -> None:
    # 5 sold and 4 bought: TAF 5 x 0.000166, SEC 0.0000278 x 500 = 0.0139, CAT 9 x 0.000048: 0.01, 0.02 and 0.01
    trades_usd, prices = torch.tensor([[-500.0, 200.0, 0.9]]).double(), torch.tensor([[100.0, 50.0, 0.01]]).double()
    assert fees_of_values(trades_usd, prices, trading("5000")).tolist() == pytest.approx([0.04])
    assert fees_of_values(trades_usd, prices, trading("100000")).tolist() == [0.0]
    table = walk(30, seed=3)
    (first, *rest) = owned(table, table.dates[3:], trading("5000"), lambda day: day == 0).sessions
    assert first.fees_usd - 0.001 * first.premium_usd == pytest.approx(0.01)
    assert {other.fees_usd for other in rest} == {0.0}


def test_equal_weights_are_set_again_without_money_from_outside() -> None:
    table = walk(60, seed=3)
    play = owned(table, table.dates[3:], trading("100000"), lambda day: day % 10 == 0)
    ends = [result.capital_usd + result.pnl_usd for result in play.sessions]
    starts = [result.capital_usd for result in play.sessions]
    assert starts[1:] == pytest.approx(ends[:-1])
    assert [result.trades > 0 for result in play.sessions] == [day % 10 == 0 for day in range(57)]
    assert all(result.fees_usd == pytest.approx(0.001 * result.premium_usd) for result in play.sessions)


def test_the_rebalancers_baselines_play_its_sessions_and_spy_is_left_out_without_its_file(tmp_path: Path) -> None:
    assert funds_beside(tmp_path / "stocks.parquet") is None
    desk = stocks_desk()
    players = rebalancer_baselines(desk, None)
    assert set(players) == set(baselines.REBALANCER_BASELINES) - {baselines.SPY, RANDOM}
    for play in players.values():
        assert [result.date for result in play.sessions] == list(desk.table.dates[405:])
    assert total(players[baselines.FLAT].sessions) == 0.0
    closes, opens = desk.table.close_ticks[439], desk.table.open_ticks[405]
    worth = 1_000_000 / 1.001 * float((closes / opens).mean())
    assert total(players[HOLD_ALL].sessions) == pytest.approx(worth - 1_000_000, rel=1e-9)
    months = {date[:7] for date in desk.table.dates[405:]}
    assert sum(result.trades > 0 for result in players[baselines.MONTHLY].sessions) == len(months)


def test_the_switchers_baselines_hold_what_their_names_say() -> None:
    desk = funds_desk()
    players = regime_baselines(desk)
    assert set(players) == set(kind(regime_switcher.SPEC.name).baselines) - {RANDOM}
    closes, opens = desk.table.close_ticks, desk.table.open_ticks
    grown = closes[559] / opens[260]
    for name, growth in (("ALL_SPY", grown[0]), ("ALL_QQQ", grown[1]), ("ALL_IWM", grown[2]), ("HOLD", grown.mean())):
        play = players[name]
        if play.denials:  # a halt on a fall of these made-up prices: then it is no longer that baseline
            continue
        assert total(play.sessions) / 100_000 + 1 == pytest.approx(growth, rel=6e-3), name
    assert sum(result.trades for result in players["HOLD"].sessions) == 3
    assert sum(result.trades for result in players["EQUAL_WEIGHT"].sessions) > 20


def share_held(play: PlayResult) -> float:
    """Mean part of the equity in shares."""
    return sum(result.held_min for result in play.sessions) / sum(result.minutes for result in play.sessions)


def test_random_traders_want_as_much_as_the_policy_of_other_stocks() -> None:
    desk = stocks_desk()
    policy = dry_run(RandomRebalancer(7, 0.2), desk)
    play, totals = random_rebalancers(RandomRebalancer(7, 0.2), desk, 600, 1)
    value = [sum(result.premium_usd for result in p.sessions) for p in (policy, play)]
    assert value[1] == pytest.approx(value[0], rel=0.25)
    assert share_held(play) == pytest.approx(share_held(policy), abs=0.15)
    assert len(totals) == 600
    assert len(set(totals)) > 590
    assert random_rebalancers(RandomRebalancer(7, 0.2), desk, 600, 1) == (play, totals)
    dealt = of_other_stocks(torch.arange(150.0).view(3, 50), 4, 1)
    for row in dealt(2) - dealt(0):  # the same order on every day
        assert torch.equal(row, torch.full((50,), 100.0))
    assert all(row.sort().values.tolist() == list(range(50, 100)) for row in dealt(1))
    assert len({tuple(row.tolist()) for row in dealt(1)}) == 4


def test_who_wants_the_same_of_all_stocks_at_all_times_does_as_well_as_every_random_trader() -> None:
    desk = stocks_desk()
    _, totals = random_rebalancers(lambda observations: torch.full((len(observations), 50), 0.5), desk, 20, 1)
    alike = total(
        play_rebalancer(
            lambda observations: torch.full((len(observations), 50), 0.5), desk.table, dates(desk), desk.trading
        )
    )
    assert set(totals) == {round(alike, 2)}
    other = funds_desk()
    _, totals = random_switchers(always(3), other, 20, 1)
    assert set(totals) == {round(total(play_regime(always(3), other.table, dates(other), other.trading)), 2)}


def test_random_switchers_hold_the_policy_s_portfolios_for_as_long_at_other_times() -> None:
    # 0 HOLD, 1 ALL_CASH, 3 ALL_QQQ: cash for two sessions, QQQ for three, cash for one
    answers = at_other_times(torch.tensor([0, 0, 3, 0, 0, 1]), 200, 5)
    rows = {tuple(row) for row in torch.stack([answers(day) for day in range(6)], 1).tolist()}
    assert rows == {
        (1, 1, 3, 0, 0, 1), (1, 3, 0, 0, 1, 1), (3, 0, 0, 1, 1, 1),
        (3, 0, 1, 1, 1, 3), (3, 1, 1, 1, 3, 0), (1, 1, 1, 3, 0, 0),
    }  # fmt: skip
    desk = funds_desk()

    def early(observations: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        is_first = bool(hidden[0, 0] == 0.0)  # all money in SPY at once, then it holds for ever
        return always(2 if is_first else 0)(observations, hidden)[0], torch.ones(1, HIDDEN)

    play, totals = random_switchers(early, desk, 600, 1)
    assert len(totals) == 600
    assert share_held(play) == pytest.approx(share_held(dry_run(early, desk)), abs=0.01)
    assert play == random_switchers(early, desk, 600, 1)[0]


def test_who_knows_the_day_to_come_is_told_from_random_switchers() -> None:
    desk = funds_desk()
    best = 2 + (desk.table.close_ticks[260:] / desk.table.open_ticks[260:]).argmax(1)
    days = iter(range(len(best)))

    def seer(observations: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return one_hot_logits(torch.tensor([int(best[next(days)])])), hidden

    _, totals = random_switchers(seer, desk, 200, 1)
    days = iter(range(len(best)))
    earned = total(play_regime(seer, desk.table, dates(desk), desk.trading))
    assert random_p_value([earned], [totals]) < 0.02


def test_a_policy_under_other_conditions_pays_other_costs() -> None:
    desk = stocks_desk()

    def steady(observations: Tensor) -> Tensor:
        return torch.full((observations.shape[0], 50), 0.3)

    results = rebalancer_scenarios(steady, desk)
    assert set(results) == {NO_COSTS, COSTS_TWICE, COSTS_THRICE, ONE_BAR_LATE, SAME_CLOSE}
    plain = dry_run(steady, desk)
    fees = {name: sum(r.fees_usd for r in play.sessions) for name, play in results.items()}
    assert fees[NO_COSTS] == 0.0
    once = sum(r.fees_usd for r in plain.sessions)
    assert fees[COSTS_TWICE] == pytest.approx(2 * once, rel=0.02)
    assert fees[COSTS_THRICE] == pytest.approx(3 * once, rel=0.02)
    assert results[ONE_BAR_LATE].sessions[0].trades == 0
    assert results[ONE_BAR_LATE].sessions[1].trades == 50
    first = results[SAME_CLOSE].sessions[0]
    assert first.premium_usd == pytest.approx(30 * float(desk.table.close_ticks[404].sum()) / 10_000)


def test_a_recurrent_policy_is_also_played_with_its_memory_taken_away() -> None:
    desk = funds_desk()

    def forgetting(observations: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        is_first = bool(hidden[0, 0] == 0.0)  # in SPY at the first decision after a zero state, then it holds
        return always(2 if is_first else 0)(observations, hidden)[0], torch.ones(1, HIDDEN)

    results = regime_scenarios(forgetting, desk)
    assert set(results) == {NO_COSTS, COSTS_TWICE, COSTS_THRICE, ONE_BAR_LATE, SAME_CLOSE, RESET}
    trades = [result.trades for result in results[RESET].sessions]
    assert trades[0] == 1
    assert sum(trades[1:256]) == 0
    assert trades[256] == 1  # what was reserved is spent when it decides again
    assert sum(result.trades for result in results[COSTS_TWICE].sessions) == 1


def test_late_policies_answer_what_they_saw_one_session_before() -> None:
    first, second = torch.full((1, 803), 0.25), torch.full((1, 803), 0.75)
    late = Late(lambda observations: observations[:, :50], flat)
    assert torch.equal(late(first), flat(first))
    assert torch.equal(late(second), first[:, :50])
    switcher = Late(lambda observations, hidden: (observations[:, :16], hidden + 1.0), always(0))
    hidden = torch.zeros(1, HIDDEN)
    logits, hidden = switcher(torch.full((1, 64), 2.0), hidden)
    assert int(logits.argmax()) == 0
    assert not bool(hidden.any())
    logits, hidden = switcher(torch.full((1, 64), 3.0), hidden)
    assert torch.equal(logits, torch.full((1, 16), 2.0))
    assert bool((hidden == 1.0).all())


def test_costs_times_none_are_none_and_the_variant_is_told_by_the_rules() -> None:
    rules = Trading()
    none, thrice = with_costs(rules, 0).paper, with_costs(rules, 3).paper
    assert none.share_cost_rate == none.share_wait_rate == 0
    assert [str(rate) for rate in (thrice.share_cost_rate, thrice.share_wait_rate)] == ["0.003", "0.0006"]
    for variant in ("shares", "notional"):
        assert variant_of(by_variant(rules, variant)) == variant


def test_two_plays_of_one_policy_are_the_same() -> None:
    desk = stocks_desk()
    assert dry_run(RandomRebalancer(3), desk) == dry_run(RandomRebalancer(3), desk)
    assert isinstance(dry_run(flat, desk), PlayResult)
