"""What a bars file becomes, and the prices made of it, against the scalar option market and facts of the calendar."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core.desks.options import contracts_for, entry_bound, entry_limit
from daemon.core.events import BarClosed, Quote
from daemon.core.instruments.option_market import bid_ask_cents, price, years_to_expiry
from daemon.core.limits import Paper, Trading
from strategies.option_scalper import SPEC, OptionScalper
from tests.support.examples import examples
from tests.support.training.made_up import MINUTE_NS, random_walk
from tests.support.training.made_up_days import days
from training.desks.scalper.data import load
from training.desks.scalper.history import (
    DENIED,
    MILLION,
    History,
    entry_costs,
    exact,
    millionths,
    price_day,
    read_history,
)
from training.study.folds import HistoryError

TRADING = Trading()


@pytest.fixture(scope="module")
def history() -> History:
    return read_history(random_walk(32), SPEC, TRADING)


def test_bars_that_all_were_refused_are_no_training_and_the_refusal_says_why(tmp_path: Path) -> None:
    rows = "".join(f"{day}T10:00:00-04:00,-5,-5,-5,-5,100\n" for day in days("2024-07-01", "2024-07-09"))
    bars = tmp_path / "t.csv"
    bars.write_text(f"timestamp,open,high,low,close,volume\n{rows}", encoding="utf-8")
    with pytest.raises(HistoryError, match="6 of 6 bars were rejected, 6 of them as not_positive, the first of SPY at"):
        load(bars, OptionScalper(), TRADING)


def test_a_session_is_usable_once_21_earlier_closes_give_a_volatility(history: History) -> None:
    assert [day.usable for day in history.days] == [False] * 21 + [True] * 11


def test_the_flatten_is_sent_seven_minutes_before_the_close_on_full_and_half_days(history: History) -> None:
    by_date = {day.session.date: day for day in history.days}
    full, half = by_date["2024-07-02"], by_date["2024-07-03"]
    assert (full.end - full.first, full.flatten - full.first) == (390, 382)  # bar 382 ends at minute 383 of 390
    assert (half.end - half.first, half.flatten - half.first) == (210, 202)


def test_the_session_after_next_is_not_known_early_the_volatility_uses_earlier_closes_alone(history: History) -> None:
    day = history.days[21]
    closes = [history.close[earlier.end - 1] for earlier in history.days[:21]]
    expected = float(np.std(np.diff(np.log(closes)), ddof=1) * 252**0.5 * 1.25)
    assert day.volatility == pytest.approx(max(expected, 0.08), rel=1e-12)


def test_minutes_count_from_the_open_to_the_bar_s_end(history: History) -> None:
    day = history.days[5]
    assert history.minute[day.first : day.end].tolist() == list(range(1, 391))
    assert history.features[history.days[22].end - 1, 18] == 1.0


def test_missing_minutes_count_for_each_row_whose_window_holds_the_hole() -> None:
    events = random_walk(24)
    whole = read_history(events, SPEC, TRADING)
    hole = set(whole.start_ns[whole.days[23].first + 100 : whole.days[23].first + 105].tolist())
    rest = [e for e in events if not (isinstance(e, BarClosed) and e.bar.start_ns in hole)]
    holed = read_history(rest, SPEC, TRADING)
    first = holed.days[23].first
    assert np.flatnonzero(holed.gap).tolist() == list(range(first + 100, first + 119))
    assert set(holed.gap[first + 100 : first + 119].tolist()) == {5}


def test_bars_of_another_interval_are_an_error_that_names_both() -> None:
    sparse = [e for e in random_walk(3) if not isinstance(e, BarClosed) or e.bar.start_ns // MINUTE_NS % 5 == 0]
    with pytest.raises(HistoryError, match=r"bars are 300 s apart, option_scalper needs 60 s"):
        read_history(sparse, SPEC, TRADING)


def test_a_file_without_bars_is_an_error() -> None:
    with pytest.raises(HistoryError, match="no regular-session bar of SPY"):
        read_history([], SPEC, TRADING)


@settings(max_examples=examples(200))
@given(number=st.integers(0, 10), where=st.integers(0, 10**9), right=st.sampled_from([0, 1]))
def test_every_cell_of_the_table_is_what_the_scalar_option_market_quotes(number: int, where: int, right: int) -> None:
    history, prices = HISTORY, PRICES[number]
    day = HISTORY.usable[number]
    bar = where % (day.end - day.first)
    strike = where % len(prices.strikes)
    row, sign = day.first + bar, (+1, -1)[right]
    start = int(history.start_ns[row])
    assert day.volatility is not None
    for moment, spot, at_ns in (
        ("open", history.open[row], start),
        ("close", history.close[row], start + MINUTE_NS),
    ):
        years = years_to_expiry(at_ns, day.session, day.upcoming[:1])
        mid = price(float(spot), float(prices.strikes[strike]), years, day.volatility, sign)
        cents = (
            int(getattr(prices, f"{moment}_bid")[right, strike, bar]),
            int(getattr(prices, f"{moment}_ask")[right, strike, bar]),
        )
        assert cents == bid_ask_cents(mid, Paper())
    years = years_to_expiry(start + MINUTE_NS, day.session, day.upcoming[:1])
    extremes = (history.low[row], history.high[row])[::sign]
    for name, spot in zip(("lowest", "highest"), extremes, strict=True):
        mid = price(float(spot), float(prices.strikes[strike]), years, day.volatility, sign)
        assert int(getattr(prices, name)[right, strike, bar]) == sum(bid_ask_cents(mid, Paper()))


@settings(max_examples=examples(300))
@given(bid=st.integers(0, 4_000), spread=st.integers(1, 300), cash=st.integers(1, 3_000_000))
def test_an_entry_costs_and_is_denied_as_the_core_sizes_and_gates_it(bid: int, spread: int, cash: int) -> None:
    limits, ask = TRADING, bid + spread
    dollars = [Decimal(cents) / 100 for cents in (bid, ask)]
    middle = (dollars[0] + dollars[1]) / 2
    quote = Quote("SPY240621C00500000", dollars[0], dollars[1], middle, middle, 0)
    limit = entry_limit(quote, limits.execution.entry_slack, entry_bound(quote, limits.risk.price_collar))
    expected = contracts_for(Decimal(cash) / 100, limit, limits.sizing)
    cost = int(entry_costs(torch.tensor([bid]), torch.tensor([ask]), limits)[0])
    if bid == 0 or (dollars[1] - dollars[0]) / middle > Decimal(str(limits.risk.spread_max)):
        assert cost == DENIED
    else:
        budget = cash * int(limits.sizing.premium_fraction * MILLION)
        assert min(budget // cost, limits.sizing.max_contracts) == expected


def test_a_limit_finer_than_a_millionth_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a limit of the desk is 0.12345678; training counts in millionths"):
        millionths(exact(0.12345678))


def test_the_strike_at_each_close_is_the_whole_dollar_nearest_to_it(history: History) -> None:
    day = history.usable[0]
    prices = price_day(history, day, TRADING)
    strikes = np.array(prices.strikes)[prices.nearest]
    assert np.abs(strikes - history.close[day.first : day.end]).max() <= 0.5 + 1e-9


HISTORY = read_history(random_walk(32), SPEC, TRADING)
PRICES = [price_day(HISTORY, day, TRADING) for day in HISTORY.usable]
