"""The figures of a span: against quantstats, and by hand."""

from __future__ import annotations

import importlib
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from daemon.journal.equity import EquityDay
from daemon.journal.trades import Totals
from daemon.reports.performance.figures import (
    Drawdown,
    Performance,
    Period,
    begin_of,
    in_market,
    performance,
    span_of,
    sum_desks,
)
from daemon.reports.performance.words import rows, span_words
from tests.support.examples import examples

HOUR = 3600 * 10**9


@pytest.fixture(scope="module")
def oracle() -> Any:
    """Without types. It loads seaborn and matplotlib, a second in each process that collects this file."""
    return importlib.import_module("quantstats.stats")


def day(date: str, close_usd: float, open_usd: float = 0.0, *, transfers: float = 0.0, hours: float = 6.5) -> EquityDay:
    """A session that ended at 21:00 UTC."""
    last = int(datetime.fromisoformat(f"{date}T21:00").replace(tzinfo=UTC).timestamp()) * 10**9
    return EquityDay(
        date=date,
        first_ns=last - int(hours * HOUR),
        last_ns=last,
        opened_usd=open_usd or close_usd,
        closed_usd=close_usd,
        transfers_usd=transfers,
    )


def random_days(seed: int, count: int = 300) -> tuple[list[EquityDay], pd.Series]:
    """Days with random returns, and those returns with their dates; the first is from its own opening record."""
    returns = np.random.default_rng(seed).normal(0.0004, 0.011, count)
    dates = pd.date_range("2023-03-01", periods=count, freq="B")
    course = 50_000.0 * np.cumprod(1.0 + returns)
    days = [day(f"{at:%Y-%m-%d}", float(value), 50_000.0) for at, value in zip(dates, course, strict=True)]
    return days, pd.Series(returns, index=dates)


@pytest.mark.parametrize("seed", [1, 2])
def test_quantstats_finds_the_same_figures(seed: int, oracle: Any) -> None:
    days, returns = random_days(seed)
    figures = performance(span_of(days))
    assert figures.share == pytest.approx(oracle.comp(returns))
    assert figures.sharpe == pytest.approx(oracle.sharpe(returns, periods=252))
    assert figures.sortino == pytest.approx(oracle.sortino(returns, periods=252))
    assert figures.volatility == pytest.approx(oracle.volatility(returns, periods=252))
    assert figures.max_drawdown == pytest.approx(-oracle.max_drawdown(returns))
    assert figures.annual == pytest.approx((1 + oracle.comp(returns)) ** (252 / len(returns)) - 1)
    assert figures.best is not None
    assert figures.best.share == pytest.approx(returns.max())
    assert figures.best.name == f"{returns.idxmax():%Y-%m-%d}"
    monthly = returns.groupby(returns.index.strftime("%Y-%m")).apply(oracle.comp)
    assert {month.name: month.share for month in figures.months} == pytest.approx(monthly.to_dict())


@pytest.mark.parametrize("seed", [1, 2])
def test_quantstats_finds_the_same_drawdowns(seed: int, oracle: Any) -> None:
    days, returns = random_days(seed)
    table = oracle.drawdown_details(oracle.to_drawdown_series(returns))
    expected = {
        (str(row["start"])[:10], str(row["valley"])[:10]): -row["max drawdown"] / 100 for _, row in table.iterrows()
    }
    drawdowns = {(fall.start, fall.trough): fall.depth for fall in performance(span_of(days)).drawdowns}
    assert set(drawdowns) == set(expected)
    assert drawdowns == pytest.approx(expected)
    assert len(drawdowns) > 3


def test_the_error_of_the_sharpe_ratio_is_lo_s() -> None:
    days = [day("2024-03-04", 101.0, 100.0), day("2024-03-05", 101.0), day("2024-03-06", 104.03)]
    figures = performance(span_of(days))
    daily = 0.04 / 3 / np.std([0.01, 0.0, 0.03], ddof=1)
    assert figures.sharpe == pytest.approx(daily * np.sqrt(252))
    assert figures.sharpe_error == pytest.approx(np.sqrt((1 + daily**2 / 2) / 3) * np.sqrt(252))


def test_days_weeks_and_months_add_up_and_leave_transfers_out() -> None:
    """Friday 2 February ends at 1,010; on Monday 500 come and 10 are lost; on Tuesday 15 are earned."""
    days = [
        day("2024-01-31", 1_000.0, 990.0),
        day("2024-02-02", 1_010.0),
        day("2024-02-05", 1_500.0, transfers=500.0),
        day("2024-02-06", 1_515.0),
    ]
    figures = performance(span_of(days, "2024-02-01"))
    assert [(one.name, one.pnl_usd) for one in figures.days] == [
        ("2024-02-02", 10.0),
        ("2024-02-05", -10.0),
        ("2024-02-06", 15.0),
    ]
    assert figures.days[1].share == pytest.approx(-10 / 1_010)
    assert [(one.name, one.pnl_usd, one.sessions) for one in figures.weeks] == [
        ("2024-01-29", 10.0, 1),
        ("2024-02-05", 5.0, 2),
    ]
    assert figures.months == (Period("2024-02", 15.0, figures.share, 3),)
    assert figures.share == pytest.approx(1.01 * (1 - 10 / 1_010) * 1.01 - 1)
    assert (figures.start_usd, figures.end_usd, figures.transfers_usd, figures.pnl_usd) == (
        1_000.0,
        1_515.0,
        500.0,
        15.0,
    )
    assert figures.days_won == pytest.approx(2 / 3)


def test_profits_add_up_to_their_total_to_the_cent_of_days_months_and_desks() -> None:
    """Equities of 100.004, 100.008 and 100.012 show as 100.00, 100.01 and 100.01: 0.01 in all, on the second day."""
    days = [day("2024-01-30", 100.004, 100.0), day("2024-01-31", 100.008), day("2024-02-01", 100.012)]
    figures = performance(span_of(days))
    assert [one.pnl_usd for one in figures.days] == [0.0, 0.01, 0.0]
    assert [one.pnl_usd for one in figures.months] == [0.01, 0.0]
    assert figures.pnl_usd == 0.01
    both = performance(span_of(sum_desks([days, days])))
    assert [one.pnl_usd for one in both.days] == [0.0, 0.02, 0.0]
    assert both.pnl_usd == 0.02


def test_a_drawdown_ends_on_the_day_that_makes_it_up_or_lasts() -> None:
    days = [day(f"2024-05-{n:02}", value, 100.0) for n, value in ((6, 100), (7, 90), (8, 95), (9, 100), (10, 99))]
    first, second = performance(span_of(days)).drawdowns
    assert (first.depth, second.depth) == pytest.approx((0.1, 0.01))
    assert first == Drawdown("2024-05-07", "2024-05-07", "2024-05-09", first.depth, 2, 1)
    assert second == Drawdown("2024-05-10", "2024-05-10", "", second.depth, 1, 1)


COURSES = st.lists(st.lists(st.floats(50.0, 200.0), min_size=1, max_size=5), min_size=1, max_size=6)


def days_of(course: list[list[float]], deepest: float = 0.0) -> list[EquityDay]:
    """Days with these records each; the desk's own figure is `deepest`."""
    dates = pd.date_range("2023-03-01", periods=len(course), freq="B")
    days = []
    for date, usd in zip(dates, course, strict=True):
        falls = [1.0 - later / max(usd[: place + 1]) for place, later in enumerate(usd)]
        days.append(
            replace(
                day(f"{date:%Y-%m-%d}", usd[-1], usd[0]),
                low_usd=min(usd), high_usd=max(usd), fall=max(falls), deepest=deepest,
            )
        )  # fmt: skip
    return days


@settings(max_examples=examples(100), deadline=None)
@given(COURSES)
def test_the_drawdown_within_days_is_that_of_all_records_and_never_smaller_than_at_day_ends(
    course: list[list[float]],
) -> None:
    figures = performance(span_of(days_of(course)))
    records = np.array([usd for session in course for usd in session])
    assert figures.marked_drawdown == pytest.approx((1.0 - records / np.maximum.accumulate(records)).max())
    assert figures.marked_drawdown is not None
    assert figures.marked_drawdown >= figures.max_drawdown - 1e-12


def test_a_peak_that_the_desk_forgot_makes_no_drawdown_within_days_smaller_than_at_day_ends() -> None:
    course = [[100.0, 100.0], [98.0, 97.0], [96.0, 94.86]]
    figures = performance(span_of(days_of(course, deepest=0.0397)))  # since a resume before the last day
    assert figures.max_drawdown == pytest.approx(0.0514)
    assert figures.marked_drawdown == pytest.approx(0.0514)


def test_a_deeper_mark_between_the_records_counts_where_the_span_begins_with_the_desk() -> None:
    days = days_of([[100.0, 99.0], [99.0, 100.0]], deepest=0.02)
    assert performance(span_of(days)).marked_drawdown == 0.02
    assert performance(span_of(days, days[1].date)).marked_drawdown == 0.0


def test_a_day_with_a_transfer_counts_at_its_end() -> None:
    first, second = days_of([[100.0, 100.0], [95.0, 195.0]])
    days = [first, replace(second, transfers_usd=100.0)]
    assert performance(span_of(days)).marked_drawdown == pytest.approx(0.05)
    assert performance(span_of(sum_desks([days, days]))).marked_drawdown is None  # of several desks: not known


def test_sessions_before_the_first_trade_are_left_out_unless_a_date_is_given() -> None:
    days = [day(f"2024-05-{n:02}", 100.0) for n in (6, 7, 8)] + [day("2024-05-09", 99.0)]
    trade_ns = days[3].last_ns - HOUR
    figures = performance(span_of(days, traded_ns=trade_ns))
    assert (figures.first, figures.sessions, figures.warm_up, figures.start_usd) == ("2024-05-09", 1, 3, 100.0)
    assert performance(span_of(days, "2024-05-07", traded_ns=trade_ns)).sessions == 3
    assert performance(span_of(days, "2024-05-07", "2024-05-08")).last == "2024-05-08"
    assert performance(span_of(days, "2025-01-01")) == Performance()
    assert performance(span_of([])) == Performance()


def test_a_trade_that_ended_after_the_newest_record_counts_in_the_newest_span_alone() -> None:
    days = [day("2024-05-06", 100.0), day("2024-05-07", 101.0)]
    left_ns = days[1].last_ns + 1_000_000_000  # the sale that makes the desk flat, a second after its bar
    assert span_of(days).times[0] <= left_ns <= span_of(days).times[1]
    earlier = span_of(days, "2024-05-06", "2024-05-06")
    assert earlier.times == (days[0].first_ns, days[0].last_ns)


@pytest.mark.parametrize(
    ("name", "newest", "begin"),
    [
        ("1D", "2024-03-29", "2024-03-29"),
        ("1W", "2024-03-29", "2024-03-23"),
        ("1M", "2024-03-31", "2024-03-01"),
        ("1M", "2024-01-15", "2023-12-16"),
        ("3M", "2024-05-31", "2024-03-01"),
        ("YTD", "2024-03-29", "2024-01-01"),
        ("ALL", "2024-03-29", ""),
    ],
)
def test_ranges_end_with_the_newest_day(name: str, newest: str, begin: str) -> None:
    assert begin_of(name, newest) == begin


def test_time_in_the_market_counts_overlapping_positions_once_and_no_night() -> None:
    monday, tuesday = day("2024-03-04", 100.0), day("2024-03-05", 100.0)
    close = monday.last_ns
    spans = [(close - 2 * HOUR, close - HOUR), (close - 3 * HOUR // 2, close + 2 * HOUR)]  # the last two hours
    assert in_market(span_of([monday, tuesday]), spans) == pytest.approx(2 / 13)
    assert in_market(span_of([monday, tuesday]), [(0, 2**62)]) == 1.0
    assert in_market(span_of([monday]), []) == 0.0


def test_the_sum_of_two_desks_counts_a_later_desk_s_capital_as_a_transfer() -> None:
    """A gains 10 each day; B begins on the second day with 1,000 and loses 30 then, and has no third day."""
    first = [day("2024-03-04", 110.0, 100.0), day("2024-03-05", 120.0), day("2024-03-06", 130.0)]
    second = [day("2024-03-05", 970.0, 1_000.0)]
    figures = performance(span_of(sum_desks([first, second])))
    assert [(one.name, one.pnl_usd) for one in figures.days] == [
        ("2024-03-04", 10.0),
        ("2024-03-05", -20.0),
        ("2024-03-06", 10.0),
    ]
    assert (figures.end_usd, figures.transfers_usd) == (1_100.0, 1_000.0)


def test_a_desk_that_never_traded_has_no_fall_and_no_ratio_to_look_at() -> None:
    idle = Performance(first="2024-10-22", last="2024-12-03", sessions=30, max_drawdown=0.0, marked_drawdown=0.0)
    assert dict(rows(idle))["Largest drawdown"] == "0.00 %\nat day ends, 0.00 % within days"
    assert span_words(idle) == "2024-10-22 to 2024-12-03, 30 sessions. So few sessions tell little."
    assert span_words(replace(idle, sharpe_error=1.0)).endswith("little: see the error of the Sharpe ratio.")


def test_the_rows_name_what_belongs_to_no_trade_so_that_they_add_up() -> None:
    result = Performance(trades=Totals(other_usd=-7.39))
    assert dict(rows(result))["Not in a trade"] == "▼ −7.39 USD\nfees of the ledger, dividends, interest"
    assert "Not in a trade" not in dict(rows(Performance()))
