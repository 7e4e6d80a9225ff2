"""A daily bars file as arrays: what a replay would be fed with, whatever the order of its rows."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path

import msgspec
import numpy as np
import pytest

import strategies
from daemon.core.events import SessionScheduled
from daemon.core.limits import Basket, Paper, Trading
from daemon.host.time.calendar import CalendarError, SessionCalendar
from daemon.tapes.days import DailyTapeSource, scan_daily
from daemon.tapes.files import TapeError
from strategies import regime_switcher
from strategies.regime_switcher import RegimeSwitcher
from tests.support.training.made_up_days import SHORT, walk, written
from training.data import daily_table as table
from training.data.daily_table import read_table, ticks
from training.evaluate.days import feed

HEADER = "symbol,timestamp,open,high,low,close,volume,adj_close\n"
LINES = (  # sorted by symbol; QQQ has no bar on the second day; SPY's adj_close is half its close
    "SPY,2022-06-01T04:00:00Z,400,410,390,404,10,202\n"
    "SPY,2022-06-02T04:00:00Z,404,416,402,412,10,206\n"
    "QQQ,2022-06-01T04:00:00Z,300,306,297,303.00005,10,303.00005\n"
    "IWM,2022-06-01T04:00:00Z,180,182,179,181,10,181\n"
    "IWM,2022-06-02T04:00:00Z,181,184,180,-1,10,183\n"  # refused: a close below zero
    "IWM,2022-06-03T04:00:00Z,181,184,180,183,10,183\n"
    "DIA,2022-06-02T04:00:00Z,330,331,329,330,10,330\n"
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bars.csv"
    path.write_text(HEADER + LINES)
    return path


def test_rows_sorted_by_symbol_become_sessions_by_symbols_adjusted_and_on_the_grid(file: Path) -> None:
    table = read_table(file, RegimeSwitcher())
    assert table.dates == ("2022-06-01", "2022-06-02", "2022-06-03")
    assert table.symbols == ("SPY", "QQQ", "IWM")
    assert table.present.tolist() == [[True, True, True], [True, False, False], [False, False, True]]
    assert table.open_ticks.tolist() == [[2_000_000, 3_000_000, 1_800_000], [2_020_000, 0, 0], [0, 0, 1_810_000]]
    assert table.close_ticks.tolist() == [
        [2_020_000, 3_030_000, 1_810_000],  # 303.00005 lies between two ticks: the even one
        [2_060_000, 3_030_000, 1_810_000],
        [2_060_000, 3_030_000, 1_830_000],
    ]
    assert table.synthetic == ""
    assert [table.weekday(day) for day in range(4)] == [2, 3, 4, 0]
    assert date.fromisoformat(table.dates[0]).weekday() == 2
    assert [bar.symbol for bar in table.day_bars(1)] == ["SPY"]


def test_what_of_a_file_counts_for_nothing_is_told_where_it_is_much_also_of_a_table_that_was_kept(
    file: Path, tmp_path: Path
) -> None:
    why = (
        "1 of 6 bars were rejected, 1 of them as not_positive, the first of IWM at 2022-06-02T04:00:00Z: a price is "
        "zero or negative: check the columns."
    )
    assert [read_table(file, RegimeSwitcher(), tmp_path / "store").remark for _ in range(2)] == [why, why]
    winter = tmp_path / "winter.csv"  # labelled by one offset all year: an hour late in summer
    rows = [
        f"{symbol},{day}T05:00:00Z,9,9,9,9,1,9\n"
        for symbol in ("SPY", "QQQ", "IWM")
        for day in ("2022-01-05", "2022-06-01")
    ]
    winter.write_text(HEADER + "".join(rows))
    assert read_table(winter, RegimeSwitcher()).remark.startswith("3 of 6 bars were rejected, 3 of them as off_grid, ")
    file.write_text(HEADER + LINES.replace(",-1,", ",183,"))
    assert read_table(file, RegimeSwitcher()).remark == ""


WHOLE = Trading(paper=Paper(cash_usd=Decimal(100_000)))  # pays for so many shares that none is divided


def test_the_feed_made_of_a_table_is_the_one_that_a_replay_reads(file: Path) -> None:
    table = read_table(file, RegimeSwitcher())
    info = scan_daily(file, table.symbols)
    source = DailyTapeSource(file, info, SessionCalendar.load(info.first_date, info.last_date), Basket())
    read = [event for event in source if type(event).__name__ != "BarRejected"]
    table_events = [event for day in range(3) for event in feed(table, day, WHOLE)]
    plain = [
        msgspec.structs.replace(event, upcoming=(), previous=()) if isinstance(event, SessionScheduled) else event
        for events in (read, table_events)
        for event in events
    ]
    assert plain[: len(read)] == plain[len(read) :]


def test_what_was_kept_of_a_file_is_given_again_until_its_bytes_change(file: Path, tmp_path: Path) -> None:
    first = read_table(file, RegimeSwitcher(), tmp_path / "kept")
    again = read_table(file, RegimeSwitcher(), tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == 1
    for name in ("bars", "present", "open_ticks", "close_ticks", "features", "tradable", "warm"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert (first.sessions, first.sha256, first.synthetic) == (again.sessions, again.sha256, again.synthetic)
    (cache_file,) = (tmp_path / "kept").iterdir()
    cache_file.write_bytes(cache_file.read_bytes()[:500])
    assert read_table(file, RegimeSwitcher(), tmp_path / "kept").sha256 == first.sha256
    assert cache_file.stat().st_size > 500
    file.write_text(HEADER + LINES.replace("SPY,2022-06-02T04:00:00Z,404", "SPY,2022-06-02T04:00:00Z,406"))
    assert read_table(file, RegimeSwitcher(), tmp_path / "kept").open_ticks[1, 0] == 2_030_000


def test_a_file_without_the_symbols_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TapeError, match="no such file"):
        read_table(tmp_path / "none.csv", RegimeSwitcher())
    other = tmp_path / "other.csv"
    other.write_text(HEADER + "DIA,2022-06-02T04:00:00Z,330,331,329,330,10,330\n")
    with pytest.raises(TapeError, match="no row of SPY, QQQ, IWM"):
        read_table(other, RegimeSwitcher())
    rows = (f"{symbol},2022-06-02T04:00:00Z,9,9,9,9,-1,9\n" for symbol in ("SPY", "QQQ", "IWM"))
    other.write_text(HEADER + "".join(rows))
    with pytest.raises(
        TapeError, match=r"has no bar of SPY, QQQ, IWM: 3 of 3 bars were rejected, .* check the column vol"
    ):
        read_table(other, RegimeSwitcher())


def test_ticks_round_half_to_even_and_what_is_not_finite_is_none() -> None:
    prices = np.array([[0.00005, 0.00015, 123.45678], [np.nan, np.inf, 100.0]])
    assert ticks(prices).tolist() == [[0.0, 2.0, 1_234_568.0], [0.0, 0.0, 1_000_000.0]]


def test_spans_are_those_of_the_tables_dates() -> None:
    table = walk(6, seed=0)
    assert table.span(table.dates[2:5]) == (2, 4)
    with pytest.raises(ValueError, match="no session"):
        table.span(("1999-01-04",))
    with pytest.raises(ValueError, match="no session"):
        table.span(())


def test_training_begins_where_the_strategy_is_warm() -> None:
    assert walk(6, seed=0).first_decision == SHORT.history_bars
    late = {"AAPL": [(10.0, 11.0)] * 5, "ADBE": [(10.0, 11.0)]}  # one stock with W bars is enough
    assert written(late).first_decision == 2
    funds = msgspec.structs.replace(regime_switcher.SPEC, history_bars=2)  # of funds it takes all three
    bars = {"SPY": [(10.0, 11.0)] * 5, "QQQ": [(10.0, 11.0)] * 5}
    assert written(bars, funds).first_decision == 5
    assert written(bars | {"IWM": [(float("nan"), 1.0)] * 2 + [(10.0, 11.0)] * 3}, funds).first_decision == 4


def test_a_later_bar_changes_no_earlier_row() -> None:
    prices = {"AAPL": [(10.0, 11.0), (11.0, 12.0), (12.0, 13.0)]}
    short = written(prices)
    longer = written({"AAPL": [*prices["AAPL"], (99.0, 5.0)]})
    np.testing.assert_array_equal(longer.features[:3], short.features)
    np.testing.assert_array_equal(longer.tradable[:3], short.tradable)


def test_a_kept_table_is_of_this_code_alone(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_table(file, RegimeSwitcher(), tmp_path / "tables")
    monkeypatch.setattr(table, "sources", lambda: "0badc0de")
    read_table(file, RegimeSwitcher(), tmp_path / "tables")
    assert len(list((tmp_path / "tables").iterdir())) == 2
    package = tmp_path / "strategies"
    package.mkdir()
    (package / "features.py").write_text("WINDOW = 20\n")
    monkeypatch.undo()
    monkeypatch.setattr(strategies, "__path__", [str(package)])
    before = table.sources.__wrapped__()
    (package / "features.py").write_text("WINDOW = 21\n")
    assert table.sources.__wrapped__() != before


def test_bars_of_days_that_no_calendar_knows_are_refused_with_their_file(file: Path) -> None:
    file.write_text(file.read_text().replace("2022-", "2150-"))
    with pytest.raises(CalendarError, match=r"bars\.csv: the bars are from 2150-06-01 to 2150-06-03: no session"):
        read_table(file, RegimeSwitcher())
