"""The market that `online_dqn` learns on against the desk in dry run: the same observations and the same money."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from daemon.core.limits import Trading
from daemon.host.time.calendar import SessionCalendar
from daemon.tapes import BUNDLED_TAPE
from daemon.tapes.minutes import TapeSource, scan
from strategies.online_dqn import BUY, HOLD, SELL
from strategies.online_dqn.state_vector import shipped
from tests.support.training.online_bars import RULES, bundled, busy, five_minutes_of_two, of_bars, wild
from training.desks.online.data import OnlineData, hold_from_open, load, one_hot_values, play
from training.evaluate.machine import Player


def both_play(make: Callable[[], Player], data: OnlineData, dates: list[str], trading: Trading = RULES) -> int:
    """Let a player go through these sessions on the desk and on the market, each its own; the number of trades."""
    on_desk = data.desk.play(make(), data.desk.before(dates, trading), trading)
    on_market = play(make(), data, dates, trading)
    assert on_desk.sessions == on_market
    return sum(result.trades for result in on_market)


def of_size(usd: int, **basket: object) -> Trading:
    """The rules with this paper cash, and other keys of the basket."""
    return replace(RULES, paper=replace(RULES.paper, cash_usd=Decimal(usd)), basket=replace(RULES.basket, **basket))  # type: ignore[arg-type]


def shares_held(data: OnlineData, date: str, trading: Trading) -> float:
    """Shares held after the first BUY of a session."""
    market = data.market([date], trading, auto_reset=False)
    market.begin(np.array([0]))
    market.step(torch.tensor([BUY]))
    return float(market._money.shares(market.account.held)[0])


def test_every_observation_is_that_of_the_desk_bit_for_bit() -> None:
    data = bundled()
    dates = list(data.days)[3:5]
    by_player: dict[str, list[Tensor]] = {"desk": [], "market": []}

    def recording(kind: str) -> Player:
        def player(observations: Tensor) -> Tensor:
            by_player[kind].append(observations.clone())
            return busy()(observations)

        return player

    for date in dates:
        data.desk.play(recording("desk"), data.desk.before([date], RULES), RULES)
        play(recording("market"), data, [date], RULES)
        decided = len(by_player["market"])
        assert decided == 382
        assert torch.equal(
            torch.cat(by_player["market"]), torch.cat(by_player["desk"][:decided])
        )  # it decides on after that
        assert len({float(row[0, -5]) for row in by_player["market"]}) == 2  # flat and held
        for rows in by_player.values():
            rows.clear()


def test_the_desk_and_the_market_earn_the_same_to_the_last_digit() -> None:
    assert both_play(busy, bundled(), list(bundled().days)[8:11]) > 40


@pytest.mark.parametrize(("jump", "every"), [(0.006, 10), (0.02, 5)])
def test_they_do_where_opens_leap_over_limits_stops_and_the_daily_loss(jump: float, every: int) -> None:
    """Limit orders are missed and sent again, stops are jumped over, and the desk is halted and left."""
    data = of_bars(wild(bundled().bars, jump, every, seed=3))
    dates = list(data.days)[:2]
    assert both_play(busy, data, dates) > 30
    both_play(lambda: hold_from_open, data, dates)


@pytest.mark.parametrize(("leaps", "trades"), [(2, 1), (3, 0)])
def test_they_do_where_the_price_runs_away_from_a_buy_until_its_deadline(leaps: int, trades: int) -> None:
    """Each open is 0.3 % above the close before it, a limit 0.2 %: three minutes are three attempts."""
    bars = bundled().bars
    values = bars.series[0].values.copy()
    data = of_bars(bars)
    date = bars.scheduled[4].session.date
    (day,) = data.on([date])
    for leap in range(leaps):
        values[:4, day.first + 100 + leap :] *= 1.003
    data = of_bars(replace(bars, series=(replace(bars.series[0], values=values),)))

    def once() -> Player:
        asked = 0

        def player(observations: Tensor) -> Tensor:
            nonlocal asked
            asked += 1
            return one_hot_values(torch.full((len(observations),), BUY if asked == 100 else HOLD))

        return player

    assert both_play(once, data, [date]) == trades


@pytest.mark.parametrize(("part", "minutes"), [(0.003, 0), (0.0, 7), (0.002, 20)])
def test_they_do_with_a_trailing_stop_and_a_time_stop(part: float, minutes: int) -> None:
    sizing = replace(RULES.sizing, trailing_stop=part, time_stop_min=minutes)
    rules = replace(RULES, sizing=sizing)
    data = of_bars(wild(bundled().bars, 0.003, 4, seed=3), rules)
    dates = list(data.days)[:2]
    both_play(busy, data, dates, rules)
    more = both_play(lambda: hold_from_open, data, dates, rules)
    assert more > both_play(lambda: hold_from_open, data, dates)


@pytest.mark.parametrize("minutes", [15, 20, 60])
def test_they_do_by_longer_bars_made_of_minutes_whose_last_one_may_be_short(minutes: int) -> None:
    config = msgspec.structs.replace(shipped(), bar_minutes=minutes)
    data = load([BUNDLED_TAPE], config, (), RULES)
    dates = list(data.days)[-5:]
    assert both_play(busy, data, dates) > 3
    both_play(lambda: hold_from_open, data, dates)


def test_they_do_where_all_the_money_is_wanted_and_the_cash_cuts_the_buy() -> None:
    all_of_it = replace(RULES, basket=replace(RULES.basket, weight_max=1.0))
    data = of_bars(wild(bundled().bars, 0.006, 10, seed=5), all_of_it)
    assert both_play(busy, data, list(data.days)[5:6], all_of_it) > 20


def test_they_do_where_a_small_account_pays_each_session_s_fees_in_cents() -> None:
    small = of_size(9_000, fractions="off")
    data = of_bars(bundled().bars, small)
    (date,) = list(data.days)[8:9]
    assert both_play(busy, data, [date], small) > 10
    free = replace(small, paper=replace(small.paper, share_fees_below_usd=Decimal(0)))
    (with_fees,), (without,) = (
        play(busy(), data, [date], small),
        play(busy(), of_bars(bundled().bars, free), [date], free),
    )
    assert round(100 * (with_fees.fees_usd - without.fees_usd), 6) >= 3  # TAF, SEC and CAT
    assert with_fees.trades == without.trades


@pytest.mark.parametrize("usd", [300, 4_000, 9_000, 250_000])
def test_they_do_in_fractions_of_shares(usd: int) -> None:
    rules = of_size(usd, fractions="on")
    data = of_bars(wild(bundled().bars, 0.006, 10, seed=3), rules)
    dates = list(data.days)[:2]
    assert both_play(busy, data, dates, rules) > 30
    both_play(lambda: hold_from_open, data, dates, rules)


@pytest.mark.parametrize("weight_max", [0.95, 1.0])
@pytest.mark.parametrize("least_usd", [1, 3_990])
def test_they_do_where_short_cash_cuts_a_buy_in_fractions(weight_max: float, least_usd: int) -> None:
    """With all the money wanted the limit is dearer than the cash; a cut buy below the least order is not sent."""
    rules = of_size(4_000, fractions="auto", weight_max=weight_max, min_order_usd=Decimal(least_usd))
    data = of_bars(wild(bundled().bars, 0.003, 10, seed=5), rules)
    trades = both_play(busy, data, list(data.days)[5:6], rules)
    assert (trades > 10) is (least_usd == 1)


def test_auto_divides_shares_in_the_sessions_in_which_a_desk_would_begin_so() -> None:
    data = bundled()
    dates = list(data.days)
    firsts = [data.on([date])[0].first for date in dates]
    prices = (data.history.close[firsts] + data.history.ask[firsts]) / 20_000
    between = of_size(round(20 * float(np.median(prices))), fractions="auto")
    desk_data = of_bars(data.bars, between)
    dear = [date for date, price in zip(dates, prices.tolist(), strict=True) if between.paper.cash_usd < 20 * price]
    cheap = [date for date in dates if date not in dear]
    for case in (dear, cheap):
        assert both_play(lambda: hold_from_open, desk_data, case[:2], between) == 2
    divided, whole = (shares_held(desk_data, case[0], between) for case in (dear, cheap))
    assert divided % 1.0 > 0.0
    assert whole % 1.0 == 0.0


def test_steps_too_fine_for_whole_numbers_of_64_bits_are_refused() -> None:
    data = bundled()
    fine = of_size(1_000_000, fractions="on", order_step=Decimal("0.000000001"))
    with pytest.raises(ValueError, match=r"cash_usd is 1000000 and basket\.order_step 1E-9: .* larger order_step"):
        data.market(list(data.days)[:1], fine)


def test_a_state_in_other_steps_is_refused() -> None:
    data = bundled()
    dates = list(data.days)[:2]
    whole, divided = (data.market(dates, of_size(4_000, fractions=rule), count=2) for rule in ("off", "on"))
    former = {name: value for name, value in whole.state_dict().items() if name != "per_share"}
    whole.load_state_dict(former)
    with pytest.raises(ValueError, match=r"counts 1 steps a share, this one 10000: begin the run anew"):
        divided.load_state_dict(former)


def test_they_do_on_recorded_sessions(data_dir: Path) -> None:
    data = load([data_dir / "spy_1min_2024.parquet"], shipped(), (), RULES)
    dates = [date for date in data.days if date in {"2024-08-05", "2024-11-29", "2024-12-18"}]  # a crash, a half day
    assert len(dates) >= 2
    assert sum(both_play(busy, data, [date]) for date in dates) > 20


@pytest.mark.parametrize("only", [0, 1])
def test_a_row_is_the_desk_of_two_symbols_whose_other_one_holds(only: int, data_dir: Path) -> None:
    data = five_minutes_of_two(data_dir)
    dates = list(data.days)[40:43]
    on_desk = data.desk.play(busy(only, 2), data.desk.before(dates, RULES), RULES)
    days = data.on(dates)
    market = data.market(dates, RULES, auto_reset=False)
    market.begin(np.arange(len(days)))
    mask = torch.tensor([day.symbol == ("SPY", "QQQ")[only] for day in days])
    while market.active.any():
        market.step(busy()(market.observe()).argmax(dim=1).masked_fill(~mask, HOLD))
    profits = market.account.net_usd.reshape(-1, 2)
    assert profits[:, 1 - only].tolist() == [0.0] * 3
    assert [result.pnl_usd for result in on_desk.sessions] == pytest.approx(profits[:, only].tolist(), rel=0, abs=1e-6)
    assert sum(result.trades for result in on_desk.sessions) > 10


def test_the_events_of_a_session_are_those_of_a_replay() -> None:
    data = bundled()
    info = scan(BUNDLED_TAPE, data.spec.symbols, 60)
    source = list(TapeSource(BUNDLED_TAPE, info, SessionCalendar.load(info.first_date, info.last_date)))
    again = [event for index in range(len(data.bars.scheduled)) for event in data.bars.feed(index)]
    assert again == source


def test_a_trade_by_hand_to_the_last_digit() -> None:
    """Bought at the second bar's open, sold at the fourth's: 1 basis point of each value, 0.95 of the equity."""
    data = bundled()
    date = next(iter(data.days))
    (day,) = data.on([date])
    values = data.bars.series[0].values
    market = data.market([date], RULES, auto_reset=False)
    market.begin(np.array([0]))
    first = market.row.copy()
    close = round(values[3, first[0]], 4)
    ask = -(-int(close * 10_000) * 10_002 // 10_000) / 10_000  # 2 basis points dearer, up to the next tick
    shares = int(95_000 / ((close + ask) / 2))
    rewards = [float(market.step(torch.tensor([action])).rewards[0]) for action in (BUY, HOLD, SELL)]
    buy_price, sell_price = (round(values[0, first[0] + place], 4) for place in (1, 3))
    commission = round(shares * buy_price * 0.0001, 6) + round(shares * sell_price * 0.0001, 6)
    assert market.account.net_usd[0] == pytest.approx(shares * (sell_price - buy_price) - commission, abs=2e-6)
    assert np.prod(1.0 + np.array(rewards)) - 1.0 == pytest.approx(market.account.net_usd[0] / 100_000, abs=1e-7)
    assert market.account.closed[0] == 1
    assert day.end - day.first == 390


def test_labels_are_what_followed_within_the_session() -> None:
    data = bundled()
    (day,) = data.on([next(iter(data.days))])
    series = data.bars.series[0].values[:, day.first : day.end]
    labels = data.history.labels[day.first : day.end]
    assert np.isnan(labels[-15:]).all()
    assert not np.isnan(labels[:-15]).any()
    for place in (0, 100, 374):
        later = series[:, place + 1 : place + 16]
        assert labels[place, 0] == float(later[3, -1] > series[3, place])
        assert labels[place, 1] == pytest.approx(max(0.0, 1.0 - later[2].min() / series[3, place]), abs=1e-7)


def test_a_resumed_market_goes_on_in_the_same_bytes_and_refuses_another_size() -> None:
    data = bundled()
    dates = list(data.days)[:6]
    one, other = (data.market(dates, RULES, count=9, seed=4) for _ in range(2))
    actions = torch.randint(0, 3, (600, 9), generator=torch.Generator().manual_seed(1))
    for row in actions[:300]:
        one.step(row)
    other.load_state_dict(one.state_dict())
    for row in actions[300:]:
        assert torch.equal(one.step(row).rewards, other.step(row).rewards)
    assert torch.equal(one.observe(), other.observe())
    with pytest.raises(ValueError, match="9 rows"):
        data.market(dates, RULES, count=8).load_state_dict(one.state_dict())


def test_a_session_with_a_price_that_the_desk_would_doubt_is_left_out() -> None:
    bars = bundled().bars
    values = bars.series[0].values.copy()
    values[:4, 390 * 10 + 50 :] *= 1.08
    leaping = of_bars(replace(bars, series=(replace(bars.series[0], values=values),)))
    assert set(bundled().days) - set(leaping.days) == {bars.scheduled[10].session.date}


def test_missing_minutes_keep_entries_back_as_long_as_the_window_shows_them() -> None:
    bars = bundled().bars
    series = bars.series[0]
    keep = np.ones(len(series.start_ns), dtype=bool)
    keep[390 * 4 + 100 : 390 * 4 + 105] = False
    torn = of_bars(
        replace(bars, series=(replace(series, start_ns=series.start_ns[keep], values=series.values[:, keep]),))
    )
    date = bars.scheduled[4].session.date
    (day,) = torn.on([date])
    held_back = np.flatnonzero(~torn.history.entry[day.first : day.first + 300])
    assert held_back.tolist() == list(range(100, 119))
    assert both_play(busy, torn, [date]) > 10
