"""One account through the tests of two folds: everybody's, and what each fold's own policy decides on it."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from daemon.core.strategy_rules import trading_for
from strategies.forecast_ensemble import ForecastEnsemble
from tests.support.training.made_up_days import walk
from tests.support.training.untrained_ensemble import untrained
from training.desks.forecast import baselines
from training.desks.forecast.baselines import PLAYERS, Account
from training.desks.kind import FoldResults
from training.evaluate.days import Desk, desk_before, dry_run
from training.study.study import PlayResult


@cache
def desk() -> tuple[Desk, tuple[tuple[str, ...], ...]]:
    """Before the first of two folds of 24 and 21 sessions."""
    spec = ForecastEnsemble(("AAA", "BBB", "CCC")).spec
    table = walk(450, seed=7, spec=spec)
    spans = tuple(table.dates[405:429]), tuple(table.dates[429:450])
    trading = trading_for(spec.name)
    return desk_before(table, spans[0] + spans[1], ForecastEnsemble(table.symbols), trading), spans


@cache
def plays() -> dict[str, FoldResults]:
    """What everybody did."""
    before, spans = desk()
    policies, memories = [untrained(3), untrained(1)], dict[str, baselines.Memory]()
    account = Account(
        policies, before, spans, path=Path("nowhere.csv"), seed=1, memories=memories, check_stop=lambda: None
    )
    results = {name: account.play(name) for name in PLAYERS}
    assert [len(memory) for memory in memories.values()] == [24, 21]  # of everybody: once a session
    return results


def test_everybody_has_one_account_through_both_folds_but_a_fund_without_a_file() -> None:
    _, spans = desk()
    results = plays()
    assert results.pop("SPY").folds == ()
    assert set(results) == set(PLAYERS) - {"SPY"}
    for name, one in results.items():
        assert [tuple(session.date for session in fold.sessions) for fold in one.folds] == list(spans), name
        sessions = [session for fold in one.folds for session in fold.sessions]
        assert sessions[0].capital_usd == 100_000.0
        for before, after in pairwise(sessions):
            assert after.capital_usd == pytest.approx(before.capital_usd + before.pnl_usd, abs=0.005), name


def test_the_policies_trade_a_lot_and_each_its_own_fold() -> None:
    before, _ = desk()
    folds = plays()["policy"].folds
    assert min(sum(session.trades for session in fold.sessions) for fold in folds) > 5
    first = dry_run(untrained(3), before)  # alone through both
    assert first.sessions[:24] == folds[0].sessions
    assert first.sessions[24:] != folds[1].sessions
    assert plays()["SAC alone"].folds != plays()["TD3 alone"].folds
    assert plays()["ensemble without confidence"].folds != folds


def test_who_buys_and_holds_buys_once_for_both_folds() -> None:
    first, second = plays()["buy and hold"].folds
    assert [session.trades for session in first.sessions] == [3] + [0] * 23
    assert not any(session.trades for session in second.sessions)


def test_a_late_policy_is_late_in_the_second_fold_too_and_waits_once() -> None:
    """It trades, one session later, what was wanted: the last wish of the first policy opens the second fold."""
    first, second = plays()["one bar late"].folds
    assert first.sessions[0].trades == 0
    assert first.sessions[1].trades == plays()["policy"].folds[0].sessions[0].trades
    assert sum(session.trades for session in second.sessions) > 0


def test_random_traders_go_on_too_and_what_they_earn_is_by_fold() -> None:
    one = plays()["random"]
    assert [len(fold) for fold in one.random_pnl_usd] == [1000, 1000]
    assert len(set(one.random_pnl_usd[0])) <= 6  # three symbols can be dealt in six orders
    earned = [round(sum(session.pnl_usd for session in fold.sessions), 2) for fold in one.folds]
    assert tuple(earned) in set(zip(*one.random_pnl_usd, strict=True))
    turnover = [turned(result.folds) for result in (one, plays()["policy"])]
    assert turnover[0] == pytest.approx(turnover[1], rel=0.25)


def turned(folds: tuple[PlayResult, ...]) -> float:
    """What was traded, in parts of the equity."""
    return sum(session.premium_usd / session.capital_usd for fold in folds for session in fold.sessions)
