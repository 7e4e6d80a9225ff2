"""Longer bars of minutes, and prices adjusted when they are read.

Expected values: pandas' resample, hand calculation, the prices of a dividend that users published (TPG, February 2026),
and the adjusted bars of the loopback Alpaca, whose arithmetic is its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from daemon.host.time.calendar import SessionCalendar, midnight_ns
from daemon.tapes.bar_folder import Action, Actions
from daemon.tapes.files import TapeError
from simulator.clock import SimClock
from simulator.prices.corporate_actions import Dividend, Split
from simulator.prices.day_prices import DailyPrices
from simulator.prices.market import Market
from simulator.server import RunningServer, serving
from simulator.trading.account import Account
from strategies.kit.contract import Bar, Session
from tests.support.training.bar_folders import bars_file, data, digest, keys_of_environment, read, span
from tests.support.training.recorded_alpaca import AFTER_ALL_NS, KEYS, bars_in, fetch, minutes
from training.data.folder import writing

NEW_YORK = "America/New_York"


def sessions(first: str, last: str) -> list[Session]:
    return [day for day in SessionCalendar.load(first, last).sessions if first <= day.date <= last]


def uneven(first: str, last: str) -> list[Bar]:
    """Minutes of SPY whose every value differs, with a minute missing here and there."""
    random = np.random.default_rng(7)
    bars = []
    for day in sessions(first, last):
        for bar in minutes("SPY", day, 50_000):
            low, one, other, high = np.round(np.sort(random.uniform(490.0, 510.0, 4)), 2).tolist()
            open_price, close = (one, other) if random.uniform() < 0.5 else (other, one)
            if random.uniform() > 0.02:
                volume = float(random.integers(1, 5_000))
                bars.append(Bar("SPY", bar.start_ns, open_price, high, low, close, volume))
    return bars


# --- longer bars ------------------------------------------------------------------------------------------------------

# October 27th to November 5th 2024: the clocks go back on the 3rd; November 29th is a half day


@pytest.mark.parametrize(("first", "last"), [("2024-10-30", "2024-11-06"), ("2024-11-27", "2024-12-02")])
@pytest.mark.parametrize("length", ["5min", "15min", "1h"])
def test_longer_bars_are_those_of_pandas_within_each_session(
    tmp_path: Path, first: str, last: str, length: str
) -> None:
    bars = uneven(first, last)
    folder = tmp_path / "bars"
    assert data(folder, "add", "--from-file", bars_file(tmp_path / "b.csv", bars)) == 0
    assert data(folder, "resample", length) == 0
    frame = pd.DataFrame(
        [[bar.open, bar.high, bar.low, bar.close, bar.volume] for bar in bars],
        columns=["open", "high", "low", "close", "volume"],
        index=pd.DatetimeIndex([bar.start_ns for bar in bars], tz="UTC").tz_convert(NEW_YORK),
    )
    how = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    expected = []
    for _, day in frame.groupby(frame.index.date):
        longer = day.resample(length, origin="start_day", offset="9h30min").agg(how).dropna()
        expected += [
            Bar("SPY", start.tz_convert("UTC").value, *row.tolist())
            for start, row in zip(longer.index, longer.to_numpy(), strict=True)
        ]
    assert read(span(folder, first, last, bars=length)) == expected
    assert data(folder, "check") == 0


@pytest.mark.parametrize("length", ["5m", "5Min", "300s", "5minutes"])
def test_a_length_is_understood_however_it_is_written(tmp_path: Path, length: str) -> None:
    folder, (day,) = tmp_path / "bars", sessions("2024-07-02", "2024-07-02")
    data(folder, "add", "--from-file", bars_file(tmp_path / "b.csv", minutes("SPY", day, 54_500)))
    assert data(folder, "resample", length) == 0
    assert len(read(span(folder, "2024-07-02", "2024-07-02", bars="5min"))) == 78


@pytest.mark.parametrize("length", ["10m", "5", "5 x", "٥m", "1w"])
def test_a_length_that_no_folder_has_is_refused_with_what_is_read_in_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], length: str
) -> None:
    with pytest.raises(SystemExit):
        data(tmp_path / "bars", "resample", length)
    output = " ".join(capsys.readouterr().err.split())
    assert f"{length!r} is no length of bars in a folder: expected one of 1min, 5min, 15min, 1h, 1d;" in output
    assert "reads 1min bars, of which its own are made" in output


def test_a_day_is_labelled_by_midnight_and_hours_end_with_the_session(tmp_path: Path) -> None:
    folder = tmp_path / "bars"
    day, half = sessions("2024-07-02", "2024-07-03")
    bars = [*minutes("SPY", day, 54_500), *minutes("SPY", half, 54_500)]
    data(folder, "add", "--from-file", bars_file(tmp_path / "b.csv", bars))
    data(folder, "resample", "1d", "1h")
    # the last minute opens 389 (209) cents above the first; its high is 5 cents above its open, its close one
    assert read(span(folder, "2024-07-02", "2024-07-03", bars="1d")) == [
        Bar("SPY", midnight_ns("2024-07-02"), 545.0, 548.89 + 0.05, 544.95, 548.9, float(sum(range(1000, 1390)))),
        Bar("SPY", midnight_ns("2024-07-03"), 545.0, 547.09 + 0.05, 544.95, 547.1, float(sum(range(1000, 1210)))),
    ]
    hours = read(span(folder, "2024-07-03", "2024-07-03", bars="1h"))
    starts = [(bar.start_ns - half.open_ns) // 60_000_000_000 for bar in hours]
    assert starts == [0, 60, 120, 180]
    assert hours[-1].volume == float(sum(range(1180, 1210)))  # half an hour: a session ends at 13:00


def test_longer_bars_of_minutes_that_changed_are_refused_until_they_are_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bars"
    bars = uneven("2024-10-30", "2024-11-06")
    data(folder, "add", "--from-file", bars_file(tmp_path / "b.csv", uneven("2024-10-30", "2024-10-30")))
    data(folder, "resample", "5min")
    data(folder, "add", "--from-file", bars_file(tmp_path / "more.csv", bars))
    with pytest.raises(TapeError, match="were made of minutes that have changed: rltrader data resample 5min"):
        read(span(folder, "2024-10-30", "2024-10-30", bars="5min"))
    assert data(folder, "check") == 1
    assert data(folder, "resample", "5min") == 0
    assert len(read(span(folder, "2024-10-30", "2024-11-06", bars="5min"))) == 6 * 78
    assert data(folder, "add", "--from-file", tmp_path / "b.csv", "--bars", "5min") == 2
    assert "were made of its minutes" in capsys.readouterr().err


# --- adjustment, by hand ----------------------------------------------------------------------------------------------


def days(symbol: str, rows: Sequence[tuple[str, float, float, float, float, float]]) -> list[Bar]:
    return [Bar(symbol, midnight_ns(date), *prices) for date, *prices in rows]


TPG = days(
    "TPG",
    [
        ("2026-02-17", 49.16, 50.08, 46.83, 46.90, 4716935.0),
        ("2026-02-18", 47.15, 48.36, 46.75, 47.94, 2942139.0),
        ("2026-02-19", 46.14, 46.27, 43.045, 44.58, 7317796.0),
    ],
)
"""As traded; 0.61 USD a share with the ex-date 2026-02-19."""


def actions(path: Path, *rows: tuple[str, str, str, float]) -> Path:
    path.write_text("symbol,ex_date,kind,value\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


def test_a_dividend_takes_its_part_of_the_close_before(tmp_path: Path) -> None:
    folder = tmp_path / "bars"
    actions_file = actions(tmp_path / "a.csv", ("TPG", "2026-02-19", "dividend", 0.61))
    file = bars_file(tmp_path / "b.csv", TPG)
    assert data(folder, "add", "TPG", "--from-file", file, "--bars", "1d", "--actions", actions_file) == 0
    read_back = {
        how: read(span(folder, "2026-02-17", "2026-02-19", "TPG", "1d", how)) for how in ("raw", "split", "all")
    }
    assert read_back["raw"] == read_back["split"] == TPG
    closes = [round(bar.close, 2) for bar in read_back["all"]]
    assert closes == [46.30, 47.33, 44.58]  # 47.94 - 0.61, and 46.90 x (1 - 0.61 / 47.94): as Yahoo has it
    assert [bar.volume for bar in read_back["all"]] == [bar.volume for bar in TPG]
    before_it = read(span(folder, "2026-02-17", "2026-02-18", "TPG", "1d", "all"))
    assert before_it == TPG[:2]  # on the span's last day nobody knew of it


def test_a_split_divides_prices_and_multiplies_volume_and_a_dividend_before_it_is_of_the_old_shares(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "bars"
    rows = days(
        "XYZ",
        [
            ("2024-03-04", 200.0, 202.0, 198.0, 200.0, 1000.0),
            ("2024-03-05", 199.0, 200.0, 196.0, 196.0, 1000.0),  # ex-date of 4.00: 1 - 4 / 200 = 0.98
            ("2024-03-06", 49.0, 50.0, 48.0, 49.0, 4000.0),  # four for one
            ("2024-03-07", 98.0, 99.0, 97.0, 98.0, 2000.0),  # one for two
        ],
    )
    actions_file = actions(
        tmp_path / "a.csv", ("XYZ", "2024-03-05", "dividend", 4.0), ("XYZ", "2024-03-06", "split", 4.0),
        ("XYZ", "2024-03-07", "split", 0.5),
    )  # fmt: skip
    data(folder, "add", "--from-file", bars_file(tmp_path / "b.csv", rows), "--bars", "1d", "--actions", actions_file)
    splits = read(span(folder, "2024-03-04", "2024-03-07", "XYZ", "1d", "split"))
    assert [(bar.close, bar.volume) for bar in splits] == [
        (100.0, 2000.0),
        (98.0, 2000.0),
        (98.0, 2000.0),
        (98.0, 2000.0),
    ]
    result = read(span(folder, "2024-03-04", "2024-03-07", "XYZ", "1d", "all"))
    assert [bar.close for bar in result] == pytest.approx([98.0, 98.0, 98.0, 98.0])
    assert data(folder, "check") == 0


def test_minutes_are_adjusted_by_the_last_close_before(tmp_path: Path) -> None:
    folder = tmp_path / "bars"
    bars = [bar for day in sessions("2024-07-01", "2024-07-03") for bar in minutes("SPY", day, 54_500)]
    actions_file = actions(tmp_path / "a.csv", ("SPY", "2024-07-03", "dividend", 5.489))
    data(folder, "add", "--from-file", bars_file(tmp_path / "b.csv", bars), "--actions", actions_file)
    result = read(span(folder, "2024-07-01", "2024-07-03", adjustment="all"))
    # the session before closes at 548.90, so 1 - 5.489 / 548.90 = 0.99
    assert [bar.close for bar in result[:780]] == pytest.approx([bar.close * 0.99 for bar in bars[:780]], rel=1e-12)
    assert result[780:] == bars[780:]


# --- what is not known is refused, and what becomes known counts ------------------------------------------------------


def test_without_splits_and_dividends_adjusted_prices_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "bars"
    data(folder, "add", "--from-file", bars_file(tmp_path / "b.csv", TPG), "--bars", "1d")
    whole = ("2026-02-17", "2026-02-19", "TPG", "1d")
    with pytest.raises(TapeError, match="and they are not known: rltrader data update"):
        read(span(folder, *whole, "all"))
    actions_file = actions(tmp_path / "a.csv", ("TPG", "2026-02-19", "dividend", 0.61))
    data(folder, "add", "TPG", "--actions", actions_file)
    later = bars_file(tmp_path / "l.csv", [*TPG, *days("TPG", [("2026-02-20", 44.23, 44.87, 43.18, 44.51, 1.0)])])
    data(folder, "add", "--from-file", later, "--bars", "1d")
    read(span(folder, *whole, "all"))
    with pytest.raises(TapeError, match="they are known from 2026-02-17 to 2026-02-19 alone"):
        read(span(folder, "2026-02-17", "2026-02-20", "TPG", "1d", "split"))


def test_a_dividend_that_becomes_known_changes_the_digest_of_adjusted_spans_over_it_alone(tmp_path: Path) -> None:
    folder = tmp_path / "bars"
    data(folder, "add", "--from-file", bars_file(tmp_path / "b.csv", TPG), "--bars", "1d")
    data(folder, "add", "TPG", "--actions", actions(tmp_path / "none.csv"))
    whole, before = ("2026-02-17", "2026-02-19", "TPG", "1d"), ("2026-02-17", "2026-02-18", "TPG", "1d")
    old = {how: digest(span(folder, *whole, how)) for how in ("raw", "split", "all")}
    early = digest(span(folder, *before, "all"))
    assert len(set(old.values())) == 3
    data(folder, "add", "TPG", "--actions", actions(tmp_path / "a.csv", ("TPG", "2026-02-19", "dividend", 0.61)))
    new = {how: digest(span(folder, *whole, how)) for how in ("raw", "split", "all")}
    assert (new["raw"], new["split"], digest(span(folder, *before, "all"))) == (old["raw"], old["split"], early)
    assert new["all"] != old["all"]


def test_a_spin_off_of_unknown_worth_is_refused_until_somebody_states_it(tmp_path: Path) -> None:
    folder = tmp_path / "bars"
    data(folder, "add", "--from-file", bars_file(tmp_path / "b.csv", TPG), "--bars", "1d")
    with writing(folder) as writer:
        unknown = (Action("2026-02-19", "spin_off", 0.0),)
        writer.put_actions(Actions("TPG", "2026-02-17", "2026-02-19", "Alpaca", "2026-02-20T00:00:00Z", unknown))
    whole = ("2026-02-17", "2026-02-19", "TPG", "1d")
    with pytest.raises(TapeError, match="the spin-off of TPG with the ex-date 2026-02-19 has no factor"):
        read(span(folder, *whole, "all"))
    assert read(span(folder, *whole, "split")) == TPG
    data(folder, "add", "TPG", "--actions", actions(tmp_path / "a.csv", ("TPG", "2026-02-19", "spin_off", 4.794)))
    assert [bar.close for bar in read(span(folder, *whole, "all"))] == pytest.approx([42.21, 43.146, 44.58])  # x 0.9


def test_thirteen_years_of_spy_are_adjusted_as_yahoo_has_them(data_dir: Path, tmp_path: Path) -> None:
    folder, dates = tmp_path / "bars", ("2010-01-04", "2022-12-30")
    table = pd.read_parquet(data_dir / "etf_daily_2010_2022.parquet").query("symbol == 'SPY'")
    columns = ["symbol", "timestamp", "open", "high", "low", "close", "volume"]
    table[columns].to_parquet(tmp_path / "spy.parquet", index=False)
    dividends = pd.read_parquet(data_dir / "spy_dividends_2010_2022.parquet")
    rows = [
        ("SPY", str(day)[:10], "dividend", float(usd))
        for day, usd in zip(dividends.iloc[:, 1], dividends.iloc[:, 2], strict=True)
    ]
    actions_file = actions(tmp_path / "a.csv", *rows)
    assert data(folder, "add", "--from-file", tmp_path / "spy.parquet", "--bars", "1d", "--actions", actions_file) == 0
    closes = np.array([bar.close for bar in read(span(folder, *dates, "SPY", "1d", "all"))])
    level = closes / table["adj_close"].to_numpy()  # theirs is as of a later day, so by one factor below ours
    assert len(rows) == 52
    assert level / level[-1] == pytest.approx(np.ones(3272), abs=2e-6)


def test_two_dividends_of_one_day_both_count_and_a_row_given_twice_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, at = tmp_path / "bars", "2026-02-19"
    actions_file = actions(tmp_path / "a.csv", ("TPG", at, "dividend", 0.61), ("TPG", at, "dividend", 2.0))
    data(folder, "add", "--from-file", bars_file(tmp_path / "b.csv", TPG), "--bars", "1d", "--actions", actions_file)
    raw, adjusted = (read(span(folder, "2026-02-17", at, "TPG", "1d", how)) for how in ("raw", "all"))
    assert [bar.close for bar in adjusted[:2]] == pytest.approx(
        [bar.close * (1 - 2.61 / raw[1].close) for bar in raw[:2]], rel=1e-12
    )
    twice = actions(tmp_path / "t.csv", *[("TPG", at, "dividend", 0.61)] * 2)
    assert data(folder, "add", "TPG", "--actions", twice) == 2
    assert f"row 3: the dividend of TPG of {at}, 0.61, comes twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (("TPG", "2026-02-19", "dividend", -0.61), "row 2: dividend -0.61; expected one of split, dividend, spin_off"),
        (("TPG", "2026-02-19", "merger", 1.0), "row 2: merger 1; expected one of"),
        (("TPG", "19.02.2026", "dividend", 0.61), "row 2: ex_date and value are 19.02.2026, 0.61; expected a date"),
    ],
)
def test_a_row_that_is_no_action_is_named(
    tmp_path: Path, row: tuple[str, str, str, float], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bars"
    data(folder, "add", "--from-file", bars_file(tmp_path / "b.csv", TPG), "--bars", "1d")
    assert data(folder, "add", "TPG", "--actions", actions(tmp_path / "a.csv", row)) == 2
    assert complaint in capsys.readouterr().err


def test_a_file_of_actions_that_is_no_text_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_bytes(b"\x1f\x8b\x08")
    assert data(tmp_path / "bars", "add", "TPG", "--actions", tmp_path / "a.csv") == 2
    assert f"{tmp_path / 'a.csv'}: no CSV file" in capsys.readouterr().err


def test_the_check_finds_a_night_like_a_split_and_a_split_without_its_night(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bars"
    rows = days(
        "XYZ",
        [
            ("2024-03-04", 200.0, 202.0, 198.0, 200.0, 1000.0),
            ("2024-03-05", 100.0, 101.0, 98.0, 99.0, 1000.0),
            ("2024-03-06", 99.5, 101.0, 98.0, 99.0, 1000.0),
        ],
    )
    file = bars_file(tmp_path / "b.csv", rows)
    data(folder, "add", "--from-file", file, "--bars", "1d", "--actions", actions(tmp_path / "none.csv"))
    assert data(folder, "check", "--json") == 1
    (finding,) = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (finding["symbol"], finding["what"]) == ("XYZ", "split")
    assert finding["detail"].startswith("2024-03-05: from 200 to 100, as by a split 2 for 1 that nobody knows of")
    actions_file = actions(tmp_path / "a.csv", ("XYZ", "2024-03-05", "split", 2.0), ("XYZ", "2024-03-06", "split", 3.0))
    data(folder, "add", "XYZ", "--actions", actions_file)
    assert data(folder, "check", "--json") == 1
    (finding,) = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "2024-03-06: a split 3 for 1, yet 99 and then 99.5: adjusted prices?" in finding["detail"]


# --- Alpaca -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def market() -> Iterator[RunningServer]:
    """A server with daily prices of AAA: a dividend in May, paid in June, and a split in June."""
    span_of_it = sessions("2024-04-01", "2024-08-29")
    prices = DailyPrices.made_up(
        ["AAA"], span_of_it, seed=3, closes={"AAA": ("2024-06-28", 100.0)},
        splits=[Split("AAA", "2024-06-10", Decimal(4))],
        dividends=[Dividend("AAA", "2024-05-15", Decimal("2.5"), "2024-06-14")],
    )  # fmt: skip
    built = Market.from_bars([], "AAA", sessions=prices.sessions, days=prices)
    clock = SimClock.starting_now(AFTER_ALL_NS, 1e-6)
    with serving(built, clock, accounts=[Account(KEYS.key, KEYS.secret)]) as server:
        yield server


def test_adjusted_reading_agrees_with_alpaca_s_adjusted_bars(
    market: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in keys_of_environment(market.data_url).items():
        monkeypatch.setenv(name, value)
    folder, dates = tmp_path / "bars", ("2024-04-02", "2024-07-31")
    assert data(folder, "add", "AAA", "--bars", "1d", "--from", dates[0], "--to", dates[1]) == 0
    for how in ("raw", "split", "all"):
        options = {"symbols": ("AAA",), "start": dates[0], "end": dates[1], "timeframe": "1Day", "adjustment": how}
        fetch(market, tmp_path / f"{how}.parquet", **options)
        alpaca_bars = bars_in(tmp_path / f"{how}.parquet")
        folder_bars = read(span(folder, *dates, "AAA", "1d", how))
        assert [bar.start_ns for bar in folder_bars] == [bar.start_ns for bar in alpaca_bars]
        for name in ("open", "high", "low", "close"):  # theirs are rounded to four decimals
            expected = pytest.approx([getattr(bar, name) for bar in alpaca_bars], abs=5.1e-5)
            assert [getattr(bar, name) for bar in folder_bars] == expected
        assert [round(bar.volume) for bar in folder_bars] == [bar.volume for bar in alpaca_bars]
    assert data(folder, "check") == 0
