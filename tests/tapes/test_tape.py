"""The tape: good files become events in one order, bad rows are refused by name, bad files with a cure."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core.events import FEED_EVENTS, BarClosed, BarRejected, Event, SessionEnded, SessionScheduled
from daemon.host.time.calendar import SessionCalendar
from daemon.tapes import BUNDLED_TAPE
from daemon.tapes.bars import origin_of
from daemon.tapes.files import SOURCE_KEY, TapeError, TapeFile
from daemon.tapes.make_synthetic import tape_bytes
from daemon.tapes.minutes import REJECT_REASONS, TapeInfo, TapeSource, scan
from strategies.kit.contract import Bar
from tests.support.examples import examples

HEADER = "symbol,timestamp,open,high,low,close,volume"
OPEN = 1_720_013_400 * 10**9  # 2024-07-03T13:30:00Z, the open of a half day
CLOSE = OPEN + 210 * 60 * 10**9
MINUTE = 60 * 10**9


@pytest.fixture(scope="module")
def summer() -> SessionCalendar:
    return SessionCalendar.load("2024-07-02", "2024-07-08")


COMMA = '10,12,9,"11,5"'  # a comma before the decimals


def row(minute: float, symbol: str = "SPY", prices: str = "10,12,9,11", volume: str = "100") -> str:
    return f"{symbol},{OPEN + int(minute * MINUTE)},{prices},{volume}"


def write(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.write_text("\n".join((header, *rows)) + "\n")
    return path


def play(
    path: Path, calendar: SessionCalendar, symbols: tuple[str, ...] = ("SPY",), interval_s: int = 60
) -> list[Event]:
    return list(TapeSource(path, scan(path, symbols, interval_s), calendar))


def bars_of(events: Sequence[Event]) -> list[tuple[str, int]]:
    return [(e.bar.symbol, (e.bar.start_ns - OPEN) // MINUTE) for e in events if isinstance(e, BarClosed)]


def rejected(events: Sequence[Event]) -> list[tuple[str, int]]:
    return [(e.reason, (e.start_ns - OPEN) // MINUTE) for e in events if isinstance(e, BarRejected)]


def test_a_session_is_scheduled_before_its_first_bar_and_ends_after_its_last(
    tmp_path: Path, summer: SessionCalendar
) -> None:
    friday = 2 * 24 * 60
    path = write(tmp_path / "t.csv", row(0), row(1, prices="11,11,11,11", volume="0"), row(friday))
    first, bar, quiet, end, second, last, over = play(path, summer)
    assert isinstance(first, SessionScheduled)
    assert (first.time_ns, first.session.date, first.session.close_ns) == (OPEN, "2024-07-03", CLOSE)
    assert [s.date for s in first.upcoming][:2] == ["2024-07-05", "2024-07-08"]
    assert (len(first.upcoming), first.previous[-1].date) == (8, "2024-07-02")
    assert bar == BarClosed(OPEN + MINUTE, Bar("SPY", OPEN, 10.0, 12.0, 9.0, 11.0, 100.0))
    assert quiet == BarClosed(OPEN + 2 * MINUTE, Bar("SPY", OPEN + MINUTE, 11.0, 11.0, 11.0, 11.0, 0.0))
    assert end == SessionEnded(CLOSE, "2024-07-03")
    assert isinstance(second, SessionScheduled)
    assert isinstance(last, BarClosed)
    assert over == SessionEnded(OPEN + friday * MINUTE + 390 * MINUTE, "2024-07-05")


def test_bars_outside_of_the_regular_session_are_left_out_and_counted(tmp_path: Path, summer: SessionCalendar) -> None:
    independence_day = 24 * 60
    path = write(tmp_path / "t.csv", row(-1), row(0), row(209), row(210), row(independence_day))
    source = TapeSource(path, scan(path, ("SPY",), 60), summer)
    assert bars_of(list(source)) == [("SPY", 0), ("SPY", 209)]
    assert (source.counts.bars, source.counts.outside_hours, source.counts.rejected.total()) == (2, 3, 0)


def test_sessions_without_a_bar_between_others_are_named(tmp_path: Path, summer: SessionCalendar) -> None:
    path = write(tmp_path / "t.csv", row(0), row(6 * 24 * 60))  # from Wednesday to Tuesday, over 4 July
    source = TapeSource(path, scan(path, ("SPY",), 60), summer)
    list(source)
    assert source.counts.absent_sessions == ["2024-07-05", "2024-07-08"]


def test_of_rows_in_no_order_the_cure_is_to_sort_them(tmp_path: Path) -> None:
    shuffled = [row(minute * 17 % 200) for minute in range(200)]  # 17 minutes apart, but for the jumps back
    with pytest.raises(TapeError, match=r"1020 s apart.*not in order of time: sort them by timestamp first"):
        scan(write(tmp_path / "t.csv", *shuffled), ("SPY",), 60)


def test_rows_of_other_symbols_are_left_out_and_counted(tmp_path: Path, summer: SessionCalendar) -> None:
    path = write(tmp_path / "t.csv", row(0, "QQQ"), row(0), row(1, "QQQ", "nan,nan,nan,nan"), row(1))
    info = scan(path, ("SPY",), 60)
    source = TapeSource(path, info, summer)
    assert bars_of(list(source)) == [("SPY", 0), ("SPY", 1)]
    assert source.counts.other_symbols == 2
    assert info.rows_by_symbol == {"QQQ": 2, "SPY": 2}


@pytest.mark.parametrize(
    ("prices", "volume", "reason"),
    [
        ("nan,12,9,11", "100", "not_finite"),
        ("10,inf,9,11", "100", "not_finite"),
        ("10,12,9,", "100", "not_finite"),
        ("10,12,9,11", "", "not_finite"),
        ("10,12,0,11", "100", "not_positive"),
        ("-10,12,9,11", "100", "not_positive"),
        ("10,9,12,11", "100", "high_below_low"),
        ("13,12,9,11", "100", "high_below_low"),
        ("10,12,9,8", "100", "high_below_low"),
        ("10,12,9,11", "-1", "negative_volume"),
    ],
)
def test_a_bad_row_is_rejected_by_name_and_its_values_are_text(
    tmp_path: Path, summer: SessionCalendar, prices: str, volume: str, reason: str
) -> None:
    path = write(tmp_path / "t.csv", row(0), row(1, prices=prices, volume=volume), row(2))
    _, _, refusal, good, _ = play(path, summer)
    assert isinstance(refusal, BarRejected)
    assert (refusal.symbol, refusal.start_ns, refusal.time_ns) == ("SPY", OPEN + MINUTE, OPEN + 2 * MINUTE)
    assert refusal.reason == reason
    assert refusal.reason in REJECT_REASONS
    assert "open=" in refusal.detail
    assert msgspec.json.decode(msgspec.json.encode(refusal), type=BarRejected) == refusal
    assert isinstance(good, BarClosed)


def test_a_repeated_minute_is_a_duplicate_and_an_earlier_one_is_out_of_order(
    tmp_path: Path, summer: SessionCalendar
) -> None:
    path = write(tmp_path / "t.csv", row(0), row(2), row(2, prices="20,20,20,20"), row(1), row(3))
    events = play(path, summer)
    assert bars_of(events) == [("SPY", 0), ("SPY", 2), ("SPY", 3)]
    assert rejected(events) == [("duplicate", 2), ("out_of_order", 1)]
    refusal = next(e for e in events if isinstance(e, BarRejected) and e.reason == "out_of_order")
    assert refusal.detail.endswith("start 2024-07-03T13:31:00Z, the tape is at 2024-07-03T13:32:00Z")


def test_a_good_row_after_a_bad_one_of_the_same_minute_counts(tmp_path: Path, summer: SessionCalendar) -> None:
    path = write(tmp_path / "t.csv", row(0, prices="nan,12,9,11"), row(0), row(1))
    events = play(path, summer)
    assert isinstance(events[0], SessionScheduled)
    assert rejected(events) == [("not_finite", 0)]
    assert bars_of(events) == [("SPY", 0), ("SPY", 1)]


def test_a_start_between_two_minutes_is_off_the_grid(tmp_path: Path, summer: SessionCalendar) -> None:
    path = write(tmp_path / "t.csv", row(0), row(0.5), row(1.5), row(1))
    events = play(path, summer)
    assert [reason for reason, _ in rejected(events)] == ["off_grid", "off_grid"]
    assert bars_of(events) == [("SPY", 0), ("SPY", 1)]


def test_bars_that_closed_together_come_in_the_strategys_order_of_symbols(
    tmp_path: Path, summer: SessionCalendar
) -> None:
    path = write(tmp_path / "t.csv", row(0, "SPY"), row(0, "QQQ"), row(1, "QQQ"), row(2, "SPY"), row(2, "QQQ"))
    events = play(path, summer, ("QQQ", "SPY"))
    assert bars_of(events) == [("QQQ", 0), ("SPY", 0), ("QQQ", 1), ("QQQ", 2), ("SPY", 2)]


def test_the_interval_is_the_strategys(tmp_path: Path, summer: SessionCalendar) -> None:
    path = write(tmp_path / "t.csv", row(0), row(5), row(6))
    _, first, refusal, second, _ = play(path, summer, interval_s=300)
    assert isinstance(first, BarClosed)
    assert first.time_ns == OPEN + 5 * MINUTE
    assert isinstance(second, BarClosed)
    assert second.time_ns == OPEN + 10 * MINUTE
    assert isinstance(refusal, BarRejected)
    assert refusal.reason == "off_grid"


def test_a_daily_bar_is_labelled_by_midnight_in_new_york_and_closes_with_the_session(
    tmp_path: Path, summer: SessionCalendar
) -> None:
    midnight = OPEN - int(9.5 * 60) * MINUTE
    path = write(tmp_path / "t.csv", f"SPY,{midnight},10,12,9,11,100", f"SPY,{midnight + 24 * 60 * MINUTE},9,9,9,9,1")
    _, bar, end = play(path, summer, interval_s=86_400)
    assert bar == BarClosed(CLOSE, Bar("SPY", midnight, 10.0, 12.0, 9.0, 11.0, 100.0))
    assert end == SessionEnded(CLOSE, "2024-07-03")  # 4 July was a holiday: its row is left out


@given(
    rows=st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["SPY", "QQQ"])), min_size=1, max_size=40),
    data=st.data(),
)
@settings(max_examples=examples(60))
def test_order_and_duplicates_follow_the_rule_whatever_the_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, str]], data: st.DataObject
) -> None:
    calendar = SessionCalendar.load("2024-07-02", "2024-07-08")
    path = write(tmp_path_factory.mktemp("tape") / "t.csv", *(row(minute, symbol) for minute, symbol in rows))
    info = TapeInfo("", len(rows), {}, OPEN, OPEN, 1, ("SPY", "QQQ"), 60, False, "")
    events = list(TapeSource(path, info, calendar))

    newest, bars = -1, set[tuple[int, str]]()
    faults: list[tuple[str, int]] = []
    for minute, symbol in rows:  # the rule, in its own words
        if minute < newest:
            faults.append(("out_of_order", minute))
        elif (minute, symbol) in bars:
            faults.append(("duplicate", minute))
        else:
            newest = minute
            bars.add((minute, symbol))
    order = sorted(bars, key=lambda bar: (bar[0], bar[1] == "QQQ"))
    assert bars_of(events) == [(symbol, minute) for minute, symbol in order]
    assert rejected(events) == faults
    times = [event.time_ns for event in events]
    assert times == sorted(times)
    assert all(isinstance(event, FEED_EVENTS) for event in events)

    skip = data.draw(st.integers(0, len(events)))
    assert list(TapeSource(path, info, calendar, skip)) == events[skip:]


def test_a_journal_longer_than_the_tape_is_refused(tmp_path: Path, summer: SessionCalendar) -> None:
    path = write(tmp_path / "t.csv", row(0))
    source = TapeSource(path, scan(path, ("SPY",), 60), summer, skip=4)
    with pytest.raises(TapeError, match="the journal holds 4 feed events, the tape has 3: resume with the tape"):
        next(iter(source))


def test_a_calendar_that_does_not_span_the_tape_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", row(0))
    calendar = SessionCalendar.load("2024-03-04", "2024-03-05")
    with pytest.raises(TapeError, match="the bars are from 2024-07-03 to 2024-07-03, the calendar holds 2024-0"):
        TapeSource(path, scan(path, ("SPY",), 60), calendar)


def test_csv_gzip_and_parquet_with_any_spelling_of_the_time_give_the_same_events(
    tmp_path: Path, summer: SessionCalendar
) -> None:
    plain = write(tmp_path / "t.csv", *(row(minute) for minute in range(3)))
    expected = play(plain, summer)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    times = ["2024-07-03T13:30:00Z", "2024-07-03 09:31:00-04:00", "2024-07-03 13:32:00.000+00:00"]
    write(tmp_path / "zone.csv", *(f"SPY,{time},10,12,9,11,100" for time in times))
    table = pa.csv.read_csv(plain)
    for name, kind in (
        ("int", pa.int64()),
        ("us", pa.timestamp("us", "UTC")),
        ("ny", pa.timestamp("s", "America/New_York")),
    ):
        column = table["timestamp"].cast(pa.timestamp("ns", "UTC")).cast(kind)
        other_table = table.set_column(1, "timestamp", column).append_column("vwap", pa.array([1.0, 2.0, 3.0]))
        pa.parquet.write_table(other_table, tmp_path / f"{name}.parquet", row_group_size=2)
    for name in ("t.csv.gz", "zone.csv", "int.parquet", "us.parquet", "ny.parquet"):
        assert play(tmp_path / name, summer) == expected, name


def test_a_file_without_a_symbol_column_is_the_strategys_one_symbol_and_the_scan_says_so(
    tmp_path: Path, summer: SessionCalendar
) -> None:
    path = write(tmp_path / "t.csv", row(0).removeprefix("SPY,"), header=HEADER.removeprefix("symbol,"))
    info = scan(path, ("SPY",), 60)
    assert info.symbol_assumed
    assert bars_of(list(TapeSource(path, info, summer))) == [("SPY", 0)]
    with pytest.raises(TapeError, match=r"no column symbol, and the strategy has 2 symbols \(SPY, QQQ\)"):
        scan(path, ("SPY", "QQQ"), 60)


def test_a_file_names_where_its_bars_come_from_or_nothing_is_known_of_it(tmp_path: Path) -> None:
    csv_file = write(tmp_path / "t.csv", row(0), header=f"# bars of a year\n# source: Kibot, 2024-12-01\n{HEADER}")
    (packed := tmp_path / "t.csv.gz").write_bytes(gzip.compress(csv_file.read_bytes()))
    table = pa.table({"close": [1.0]})
    pa.parquet.write_table(
        table.replace_schema_metadata({SOURCE_KEY: "Alpaca /v2/stocks/bars"}), tmp_path / "t.parquet"
    )
    pa.parquet.write_table(table, tmp_path / "bare.parquet")
    bare = write(tmp_path / "bare.csv", row(0), header=f"# 2024\n{HEADER}")
    assert [origin_of(path) for path in (csv_file, packed, tmp_path / "t.parquet")] == [
        "Kibot, 2024-12-01", "Kibot, 2024-12-01", "Alpaca /v2/stocks/bars",
    ]  # fmt: skip
    assert [origin_of(path) for path in (bare, tmp_path / "bare.parquet", tmp_path / "none.csv")] == ["", "", ""]
    assert origin_of(csv_file, packed, tmp_path / "t.parquet") == "Kibot, 2024-12-01, Alpaca /v2/stocks/bars"
    assert origin_of(csv_file, bare) == ""  # of one file it is not known
    assert scan(csv_file, ("SPY",), 60).rows == 1


def test_a_synthetic_tape_says_so_in_csv_and_in_parquet(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", row(0), header=f"# synthetic walk, seed 1\n# more\n{HEADER}")
    assert scan(path, ("SPY",), 60).synthetic == "synthetic walk, seed 1"
    assert scan(write(tmp_path / "u.csv", row(0), header=f"# recorded\n{HEADER}"), ("SPY",), 60).synthetic == ""
    table = pa.csv.read_csv(tmp_path / "u.csv", pa.csv.ReadOptions(skip_rows=1))
    pa.parquet.write_table(table.replace_schema_metadata({"synthetic": "seed 2"}), tmp_path / "t.parquet")
    assert scan(tmp_path / "t.parquet", ("SPY",), 60).synthetic == "seed 2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty; expected a header and bars"),
        (f"{HEADER}\n", "the file has a header and no row"),
        ("symbol,timestamp,open,high,low,close\n", "the column volume is missing; found symbol, timestamp, open"),
        (
            "a,b\n1,2\n",
            "the columns timestamp, open, high, low, close, volume are missing; found a, b; expected",
        ),
        (f"{HEADER},close\n{row(0)},9\n", "the column close is there more than once; expected each once"),
        (f"{HEADER}\nSPY,2024-07-03 13:30:00,1,1,1,1,1\n", "have no time zone .such as '2024-07-03 13:30:00'."),
        (
            f"{HEADER}\n{row(0)}\nSPY,2024-07-03T13:30:00Z,1,1,1,1,1\n",
            "line 3 has '2024-07-03T13:30:00Z' in the column timestamp; expected integer epoch",
        ),
        (
            f"{HEADER}\nSPY,07/03/2024,1,1,1,1,1\n",
            "line 2 has '07/03/2024' in the column timestamp; expected times with",
        ),
        (f"{HEADER}\nSPY,2024-07-03,1,1,1,1,1\n", "no time zone .*a day's bar as 2024-03-26T00:00:00-04:00"),
        (f"{HEADER}\nSPY,,1,1,1,1,1\n", "row 1 has no timestamp"),
        (f"{HEADER}\nSPY,1720013400,1,1,1,1,1\n", "the timestamp 1720013400 is before 1980 when read as nanoseconds"),
        (
            f"{HEADER}\nSPY,2024-07-03T13:30:00Z,1,1,1,1,1\nSPY,2024-07-03 13:31:00,1,1,1,1,1\n",
            "line 3 has '2024-07-03 13:31:00' in the column timestamp; expected times with their zone",
        ),
        (f"{HEADER}\n{row(0, prices='10,twelve,9,11')}\n", "line 2 has 'twelve' in the column high; expected a number"),
        (
            f"# synthetic\n{HEADER}\n{row(0)}\n{row(1, prices=COMMA)}\n",
            "line 4 has '11,5' in the column close",
        ),
        (f"{HEADER}\n{row(0, prices=COMMA)}\n", "line 2 has '11,5' in the column close"),
        (f"{HEADER}\n{row(0)}\n".replace(",", ";"), "columns .* are missing; .*: separate the columns by commas"),
        (f"{HEADER}\n{row(0, 'spy')}\n", "no row of SPY; found spy: write the symbols in capital letters"),
        (f"{HEADER}\n{row(0)}\nSPY,17200", "truncated or malformed .*Expected 7 columns, got 2"),
        (f"{HEADER}\n{row(0, 'QQQ')}\n{row(0, 'IWM')}\n", "no row of SPY; found IWM, QQQ: pass a tape"),
    ],
)
def test_a_bad_csv_is_refused_with_file_fault_and_cure(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(TapeError, match=f"bad.csv: .*{message}"):
        scan(tmp_path / "bad.csv", ("SPY",), 60)


def test_a_missing_file_and_an_unknown_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TapeError, match=r"none\.csv: no such file; expected a tape of bars: check the path"):
        scan(tmp_path / "none.csv", ("SPY",), 60)
    with pytest.raises(TapeError, match=r": a folder; expected a tape of bars: check the path"):
        scan(tmp_path, ("SPY",), 60)
    (tmp_path / "bars.xlsx").write_text("PK")
    with pytest.raises(TapeError, match=r"bars\.xlsx: unknown format; expected \.csv, \.csv\.gz or \.parquet"):
        scan(tmp_path / "bars.xlsx", ("SPY",), 60)


def test_a_truncated_gzip_is_refused(tmp_path: Path) -> None:
    whole = BUNDLED_TAPE.read_bytes()
    (tmp_path / "cut.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TapeError, match=r"cut\.csv\.gz: the gzip stream is truncated or damaged"):
        scan(tmp_path / "cut.csv.gz", ("SPY",), 60)
    (tmp_path / "not.csv.gz").write_text(HEADER)
    with pytest.raises(TapeError, match=r"not\.csv\.gz: the gzip stream is truncated or damaged .Not a gzipped file"):
        scan(tmp_path / "not.csv.gz", ("SPY",), 60)


def test_text_in_parquet_is_read_and_what_is_no_value_is_named_with_its_row(tmp_path: Path) -> None:
    def table(times: list[str], opens: list[str]) -> pa.Table:
        columns = {"timestamp": pa.array(times, pa.large_string()), "open": pa.array(opens, pa.large_string())}
        return pa.table({**columns, **{name: [1.0, 1.0] for name in ("high", "low", "close", "volume")}})

    def starts(times: list[str], opens: list[str]) -> list[int]:
        pa.parquet.write_table(table(times, opens), tmp_path / "t.parquet")
        return [int(ns) for rows in TapeFile(tmp_path / "t.parquet", ("SPY",)).batches() for ns in rows.start_ns]

    zoned = ["2024-07-03T13:30:00Z", "2024-07-03T09:31:00-04:00"]  # as pandas writes text since its version 3
    assert starts(zoned, ["1.0", "1"]) == [1_720_013_400 * 10**9, 1_720_013_460 * 10**9]
    with pytest.raises(TapeError, match="row 2 has 'n/a' in the column open; expected a number"):
        starts(zoned, ["1.0", "n/a"])
    with pytest.raises(
        TapeError, match="row 2 has '2024-07-03' in the column timestamp; expected times with their zone"
    ):
        starts([zoned[0], "2024-07-03"], ["1.0", "1"])


def test_decimals_in_parquet_are_the_numbers_that_their_digits_say(tmp_path: Path) -> None:
    digits = ["500.29", "0.1", "512.83", "1234567.89"]
    prices = pa.array([Decimal(text) for text in digits], pa.decimal128(20, 11))
    starts = pa.array([1_720_013_400 * 10**9 + 60 * 10**9 * place for place in range(4)])
    columns = dict.fromkeys(("open", "high", "low", "close", "volume"), prices)
    pa.parquet.write_table(pa.table({"timestamp": starts, **columns}), tmp_path / "t.parquet")
    (rows,) = TapeFile(tmp_path / "t.parquet", ("SPY",)).batches()
    assert rows.prices[3].tolist() == [500.29, 0.1, 512.83, 1234567.89]


def test_a_column_that_holds_no_numbers_is_named(tmp_path: Path) -> None:
    columns = {name: [1.0] for name in ("open", "high", "low", "close")}
    table = pa.table({"timestamp": [1_720_013_400 * 10**9], **columns, "volume": [[1.0]]})
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(TapeError, match=r"row 1 has \[1\.0\] in the column volume; expected a number"):
        list(TapeFile(tmp_path / "t.parquet", ("SPY",)).batches())


def test_a_file_in_another_encoding_says_which_one_is_needed(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"{HEADER}\n{row(0)}\n", encoding="utf-16")
    with pytest.raises(TapeError, match=r"no text in UTF-8 .*: save it as CSV in UTF-8"):
        scan(tmp_path / "t.csv", ("SPY",), 60)


def test_a_truncated_parquet_and_a_naive_one_are_refused(tmp_path: Path) -> None:
    table = pa.csv.read_csv(write(tmp_path / "t.csv", row(0)))
    pa.parquet.write_table(table, tmp_path / "whole.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "whole.parquet").read_bytes()[:-20])
    with pytest.raises(TapeError, match=r"cut\.parquet: the file is truncated or malformed .Parquet magic bytes"):
        scan(tmp_path / "cut.parquet", ("SPY",), 60)
    for kind, message in ((pa.timestamp("ns"), r"no time zone .type timestamp.ns"), (pa.float64(), "has type double")):
        pa.parquet.write_table(
            table.set_column(1, "timestamp", table["timestamp"].cast(kind, safe=False)), tmp_path / "x.parquet"
        )
        with pytest.raises(TapeError, match=message):
            scan(tmp_path / "x.parquet", ("SPY",), 60)


def test_a_file_in_another_order_than_times_is_sorted_and_one_late_row_is_rejected(
    tmp_path: Path, summer: SessionCalendar
) -> None:
    symbols = ("SPY", "QQQ")
    by_symbol = write(tmp_path / "s.csv", *(row(minute, symbol) for symbol in symbols for minute in range(3)))
    newest_first = write(tmp_path / "n.csv", *(row(minute, name) for minute in (2, 1, 0) for name in symbols))
    expected = [(name, minute) for minute in range(3) for name in symbols]
    for path in (by_symbol, newest_first):
        assert scan(path, symbols, 60).resorted
        events = play(path, summer, symbols)
        assert (bars_of(events), rejected(events)) == (expected, [])
    assert scan(newest_first, ("SPY",), 60).first_ns == OPEN
    late = write(tmp_path / "l.csv", row(0, "SPY"), row(0, "QQQ"), row(2, "SPY"), row(1, "SPY"), row(2, "QQQ"))
    assert not scan(late, symbols, 60).resorted
    assert rejected(play(late, summer, symbols)) == [("out_of_order", 1)]


def test_two_rows_of_one_bar_keep_their_order_where_a_file_is_sorted(tmp_path: Path, summer: SessionCalendar) -> None:
    rows = (row(2), row(1, prices="1,1,1,1"), row(1, prices="2,2,2,2"), row(0))
    events = play(write(tmp_path / "n.csv", *rows), summer)
    assert [event.bar.close for event in events if isinstance(event, BarClosed)] == [11.0, 1.0, 11.0]
    assert rejected(events) == [("duplicate", 1)]


def test_the_bundled_tape_is_what_its_tool_writes() -> None:
    bundled = BUNDLED_TAPE.read_bytes()
    assert gzip.decompress(bundled) == gzip.decompress(tape_bytes())
    assert bundled[4:8] == bytes(4), "the gzip header carries a time"


def test_the_bundled_tape_is_thirty_sessions_with_a_half_day_and_a_clock_change() -> None:
    info = scan(BUNDLED_TAPE, ("SPY",), 60)
    assert (info.dates, info.rows, info.first_date, info.last_date) == (30, 29 * 390 + 210, "2024-10-22", "2024-12-03")
    assert info.synthetic.startswith("synthetic")
    events = list(TapeSource(BUNDLED_TAPE, info, SessionCalendar.load(info.first_date, info.last_date)))
    assert len(events) == info.rows + 60
    opens = {
        e.session.date: datetime.fromtimestamp(e.time_ns / 1e9, UTC).hour
        for e in events
        if isinstance(e, SessionScheduled)
    }
    assert (opens["2024-11-01"], opens["2024-11-04"]) == (13, 14)


def test_recorded_minutes_come_out_as_they_were_recorded(data_dir: Path, tmp_path: Path) -> None:
    path = data_dir / "spy_1min_2024.parquet"
    table = pa.parquet.read_table(path)
    info = scan(path, ("SPY",), 60)
    calendar = SessionCalendar.load(info.first_date, info.last_date)
    assert (info.rows, info.dates, info.first_date, info.last_date) == (75_120, 194, "2024-03-26", "2024-12-31")
    events = list(TapeSource(path, info, calendar))
    bars = [event.bar for event in events if isinstance(event, BarClosed)]
    assert [bar.start_ns for bar in bars] == table["timestamp"].cast(pa.int64()).to_pylist()
    assert [bar.close for bar in bars] == table["close"].to_pylist()
    ends = [event for event in events if isinstance(event, SessionEnded)]
    short = [e.date for e in ends if datetime.fromtimestamp(e.time_ns / 1e9, UTC).hour in (17, 18)]
    assert short == ["2024-07-03", "2024-11-29", "2024-12-24"]
    assert len(events) == 75_120 + 2 * 194

    pa.csv.write_csv(table, tmp_path / "spy.csv")
    again = tmp_path / "spy.csv"
    assert (
        list(itertools.islice(TapeSource(again, scan(again, ("SPY",), 60), calendar, 70_000), 50))
        == events[70_000:70_050]
    )


def test_extended_hours_are_left_out_of_a_recorded_tape(data_dir: Path) -> None:
    path = data_dir / "spy_1min_ext_hours_2024.parquet"
    info = scan(path, ("SPY",), 60)
    source = TapeSource(path, info, SessionCalendar.load(info.first_date, info.last_date))
    sessions = sum(isinstance(event, SessionScheduled) for event in source)
    expected = 30 * 390 - 180 - 72  # 3 July was a half day; on 3 June the source has 318 of the 390 minutes
    assert (sessions, source.counts.bars) == (30, expected)
    assert source.counts.outside_hours == info.rows - expected
    assert not source.counts.rejected


def test_a_tape_of_another_interval_is_refused_and_one_with_holes_is_not(tmp_path: Path) -> None:
    two_minutes = write(tmp_path / "two.csv", *(row(2 * minute) for minute in range(30)))
    with pytest.raises(TapeError, match=r"two\.csv: most bars are 120 s apart; expected bars of 60 s"):
        scan(two_minutes, ("SPY",), 60)
    holes = write(tmp_path / "holes.csv", *(row(minute) for minute in range(60) if minute % 3))  # 60, 120, 60, 120 …
    assert scan(holes, ("SPY",), 60).rows == 40
    short = write(tmp_path / "short.csv", *(row(2 * minute) for minute in range(20)))  # 19 steps: too few to judge
    assert scan(short, ("SPY",), 60).rows == 20


@pytest.mark.parametrize("length", [1, 5])
def test_minutes_that_are_labelled_by_their_end_are_refused_with_a_cure(tmp_path: Path, length: int) -> None:
    minutes_open = {-2: 390, -1: 390, 0: 210, 2: 390}  # by days from the half day on

    def file(name: str, shift: int, after_hours: range = range(0)) -> Path:
        labels = [
            day * 24 * 60 + minute + shift
            for day, count in minutes_open.items()
            for minute in (*range(0, count, length), *after_hours)
        ]
        return write(tmp_path / name, *map(row, labels))

    assert scan(file("starts.csv", 0), ("SPY",), 60 * length).dates == 4
    assert scan(file("long.csv", 0, range(390, 600, length)), ("SPY",), 60 * length).dates == 4  # with a bar of 16:00
    ends = file("ends.csv", length)
    for interval_s in {60 * length, 300}:  # of minutes longer ones are made
        with pytest.raises(TapeError, match=r"ends\.csv: .* labelled by their end; .* subtract a bar's length"):
            scan(ends, ("SPY",), interval_s)


@pytest.mark.parametrize(("interval_min", "first_min", "wrong"), [(60, 0, False), (60, -30, True), (15, 0, False)])
def test_hours_that_begin_at_the_full_hour_are_refused_with_a_cure(
    tmp_path: Path, interval_min: int, first_min: int, wrong: bool
) -> None:
    rows = [row(first_min + interval_min * n) for n in range(24)]  # minutes after the open
    tape = write(tmp_path / "wide.csv", *rows)
    if not wrong:
        assert scan(tape, ("SPY",), 60 * interval_min).rows == 24
        return
    with pytest.raises(TapeError, match="do not begin at 9:30 plus whole lengths, which bar_anchor = 'open'"):
        scan(tape, ("SPY",), 60 * interval_min)
