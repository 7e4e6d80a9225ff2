"""Those that a policy is compared with, and the same policy under worse conditions, by hand and by their invariants."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

import pytest
import torch

from daemon.core.events import Event, SessionScheduled
from daemon.core.limits import Trading
from strategies.kit.synthetic import synthetic_sessions
from strategies.option_scalper import BUY_CALL, BUY_PUT, SPEC
from strategies.registry import strategy
from tests.support.rl.erratic import erratic
from tests.support.training.made_up import sessions, write_csv
from training.desks.scalper import baselines
from training.desks.scalper.baselines import moving_averages
from training.desks.scalper.data import Data, always_hold, desk_of, load
from training.evaluate.players import Late, with_costs

TRADING = Trading()
MACHINE = strategy(SPEC.name)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    bars = write_csv(tmp_path_factory.mktemp("bars") / "walk.csv", synthetic_sessions(5, sessions(26)))
    return load(bars, MACHINE, TRADING)


def test_who_buys_and_holds_earns_the_change_of_the_price_on_the_capital(data: Data) -> None:
    dates = tuple(data.days)[:3]
    days = data.on(dates)
    play = baselines.buy_and_hold(data, dates, 10_000.0)
    buy_price = data.history.open[days[0].first + 20] + 0.01  # the first decision is at the 20th bar's close
    closes = [data.history.close[day.end - 1] for day in days]
    expected = [closes[0] / buy_price - 1, closes[1] / closes[0] - 1, closes[2] / closes[1] - 1]
    assert [session.pnl_usd for session in play.sessions] == pytest.approx([10_000 * part for part in expected])
    assert [session.held_min for session in play.sessions] == [370, 390, 390]
    assert sum(session.trades for session in play.sessions) == 1


def test_costs_are_multiplied_everywhere_and_nothing_else_changes() -> None:
    rules = with_costs(TRADING, 2)
    paper = TRADING.paper
    assert rules.paper == replace(
        paper,
        share_cost_rate=2 * paper.share_cost_rate,
        share_wait_rate=2 * paper.share_wait_rate,
        orf_usd=Decimal("0.05370"),
        occ_usd=Decimal("0.04"),
        taf_usd=Decimal("0.00558"),
        sec_rate=Decimal("0.0000556"),
        share_taf_usd=Decimal("0.000332"),
        share_cat_usd=Decimal("0.000096"),
        half_spread=0.008,
        half_spread_min_usd=0.01,
    )
    assert replace(rules, paper=paper) == TRADING


def test_the_same_decisions_earn_more_without_costs_and_less_at_twice_and_three_times_the_costs(data: Data) -> None:
    dates = tuple(data.days)[:2]
    ready = data.desk(MACHINE).before(dates, TRADING)
    results = baselines.scenarios(erratic, data.desk(MACHINE), ready, TRADING)
    as_they_are = data.desk(MACHINE).play(erratic, ready, TRADING)
    earned = [sum(s.pnl_usd for s in p.sessions) for p in (
        results["no costs"], as_they_are, results["costs x 2"], results["costs x 3"],
    )]  # fmt: skip
    assert sum(session.trades for session in as_they_are.sessions) > 10
    assert earned == sorted(earned, reverse=True)
    assert sum(session.fees_usd for session in results["no costs"].sessions) == 0.0
    assert list(results) == ["no costs", "costs x 2", "costs x 3", "one bar late"]
    for name, times in (("no costs", 0), ("costs x 3", 3)):  # as desks that had these costs from their first day on
        other = with_costs(TRADING, times)
        assert results[name] == data.desk(MACHINE).play(erratic, data.desk(MACHINE).before(dates, other), other)


def test_each_trade_has_the_confidence_it_was_entered_with_and_together_they_are_the_profit(data: Data) -> None:
    dates = tuple(data.days)[:2]
    ready = data.desk(MACHINE).before(dates, TRADING)
    play = data.desk(MACHINE).play(lambda rows: erratic(rows) / 50.0 * 2.0, ready, replace(TRADING, risk=replace(
        TRADING.risk, confidence_min=0.3,
    )))  # fmt: skip
    assert len(play.entries) == sum(session.trades for session in play.sessions) > 10
    for date in dates:
        earned = sum(entry.pnl_usd for entry in play.entries if entry.date == date)
        assert earned == pytest.approx(next(s.pnl_usd for s in play.sessions if s.date == date))
    # one logit of 2 among six at temperature 0.7: e^(2/0.7) / (e^(2/0.7) + 5) = 17.4118 / 22.4118
    assert {round(entry.confidence, 4) for entry in play.entries} == {0.7769}


def test_who_is_one_bar_late_answers_what_was_seen_before_and_holds_first_in_every_session(data: Data) -> None:
    observations: list[torch.Tensor] = []

    def player(observation: torch.Tensor) -> torch.Tensor:
        observations.append(observation.clone())
        return observation[:, -1, :1].repeat(1, 6)

    def row_of(mark: float) -> torch.Tensor:
        return torch.full((1, 20, 23), mark)

    late = Late(player, always_hold)
    assert torch.equal(late(row_of(7.0)), always_hold(row_of(7.0)))
    assert late(row_of(8.0))[0, 0] == 7.0
    assert late(row_of(9.0))[0, 0] == 8.0
    observations.clear()
    desk, dates = data.desk(MACHINE), list(data.days)[:2]
    desk.play_each(lambda: Late(player, always_hold), desk.before(dates, TRADING), TRADING)
    elapsed = [float(observation[0, -1, SPEC.features.index("session_elapsed")]) for observation in observations]
    assert elapsed.count(min(elapsed)) == 2  # the first bar of each session is answered once, the last one never
    assert sum(later < before for before, later in itertools.pairwise(elapsed)) == 1


def test_the_simple_rule_buys_calls_while_the_fast_average_is_above_the_slow_one() -> None:
    rows = torch.zeros(2, 20, 23)
    fast, slow = SPEC.features.index("ema9_distance"), SPEC.features.index("ema21_distance")
    # close 100, EMA9 99, EMA21 98: the distances are 100 / 99 - 1 and 100 / 98 - 1
    rows[0, -1, fast], rows[0, -1, slow] = 100 / 99 - 1, 100 / 98 - 1
    rows[1, -1, fast], rows[1, -1, slow] = 100 / 98 - 1, 100 / 99 - 1
    assert moving_averages(rows).argmax(dim=1).tolist() == [BUY_CALL, BUY_PUT]


def test_random_totals_are_of_whole_accounts_and_as_many_as_asked_for(data: Data) -> None:
    dates = tuple(data.days)[:2]
    ready = data.desk(MACHINE).before(dates, TRADING)
    trader = baselines.trader_like(data.desk(MACHINE).play(erratic, ready, TRADING), data, dates, TRADING, 1)
    totals = baselines.random_totals(trader, data, dates, TRADING, 1000)
    assert len(totals) == 1000
    assert len(set(totals)) > 900
    assert sum(totals) / 1000 < 0.0  # spread and fees, on a random walk


def test_a_fold_without_a_trade_has_random_traders_that_do_not_trade(data: Data) -> None:
    dates = tuple(data.days)[:2]
    ready = data.desk(MACHINE).before(dates, TRADING)
    play = data.desk(MACHINE).play(always_hold, ready, TRADING)
    trader = baselines.trader_like(play, data, dates, TRADING, 1)
    assert set(baselines.random_totals(trader, data, dates, TRADING, 100)) == {0.0}


def test_desks_are_made_without_reading_the_feed_to_its_end(data: Data) -> None:
    dates = tuple(data.days)[:1]
    feed_dates: list[str] = []

    def feed() -> Iterator[Event]:
        for event in data.source:
            if isinstance(event, SessionScheduled):
                feed_dates.append(event.session.date)
            yield event

    (desk,) = desk_of(feed(), MACHINE).before(dates, TRADING)
    assert desk.date == dates[0]
    assert feed_dates[-1] == tuple(data.days)[1]  # whose beginning ends the session before it
    (straight,) = data.desk(MACHINE).before(dates, TRADING)
    assert desk == straight
