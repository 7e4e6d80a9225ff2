"""The feed of a daily desk: events and times written out by hand, files in any order, minutes put together to days."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core.events import (
    BarClosed,
    BarRejected,
    Event,
    Price,
    PricesPrinted,
    RebalanceDue,
    SessionEnded,
    SessionScheduled,
)
from daemon.core.limits import Basket
from daemon.host.time.calendar import SessionCalendar, midnight_ns
from daemon.tapes.days import DailyTapeSource, check_rule, scan_daily
from daemon.tapes.files import TapeError
from strategies.kit.contract import Bar
from tests.support.examples import examples

MINUTE = 60 * 10**9
OPEN = 1_719_840_600 * 10**9  # Monday 2024-07-01, 09:30 in New York
DAY = 24 * 60 * MINUTE
CLOSE = OPEN + 390 * MINUTE
MIDNIGHT = OPEN - 570 * MINUTE
HEADER = "symbol,timestamp,open,high,low,close,volume"
AFTER_CLOSE = Basket()
BEFORE_CLOSE = Basket(decide="before_close")


@pytest.fixture(scope="module")
def july() -> SessionCalendar:
    return SessionCalendar.load("2024-07-01", "2024-07-12")


def write(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.write_text("\n".join((header, *rows)) + "\n")
    return path


def day(symbol: str, number: int, price: float, *more: object) -> str:
    """A bar of the `number`-th day after 1 July: open, high, low, close are price, + 2, - 2, + 1."""
    values = (MIDNIGHT + number * DAY, price, price + 2, price - 2, price + 1, 100, *more)
    return ",".join(map(str, (symbol, *values)))


def minute(symbol: str, number: int, price: float, *, on: int = 0) -> str:
    """A bar of the `number`-th minute of a day: open, high, low, close are price, + 2, - 2, + 1; volume 10."""
    values = (OPEN + on * DAY + number * MINUTE, price, price + 2, price - 2, price + 1, 10)
    return ",".join(map(str, (symbol, *values)))


def play(
    path: Path, calendar: SessionCalendar, basket: Basket = AFTER_CLOSE, symbols: Sequence[str] = ("AAA", "BBB")
) -> list[Event]:
    return list(DailyTapeSource(path, scan_daily(path, tuple(symbols)), calendar, basket))


def prices(**price_of: str) -> tuple[Price, ...]:
    return tuple(Price(symbol, Decimal(price)) for symbol, price in price_of.items())


def scheduled(events: Iterator[Event]) -> SessionScheduled:
    event = next(events)
    assert isinstance(event, SessionScheduled)
    return event


# --- daily bars ---------------------------------------------------------------------------------------------------


def test_a_session_of_daily_bars_is_told_in_the_order_in_which_it_happened(
    tmp_path: Path, july: SessionCalendar
) -> None:
    path = write(tmp_path / "t.csv", day("AAA", 0, 10.00005), day("BBB", 0, 20.0))
    events = iter(play(path, july))
    first = scheduled(events)
    assert (first.time_ns, first.session.date) == (OPEN - 30 * MINUTE, "2024-07-01")
    assert list(events) == [
        RebalanceDue(OPEN - 15 * MINUTE, "2024-07-01"),
        PricesPrinted(OPEN, "2024-07-01", opening=True, prices=prices(AAA="10.0000", BBB="20.0000")),
        PricesPrinted(OPEN + MINUTE, "2024-07-01", opening=False, prices=prices(AAA="10.0000", BBB="20.0000")),
        BarClosed(CLOSE, Bar("AAA", MIDNIGHT, 10.00005, 12.00005, 8.00005, 11.00005, 100.0)),  # bars keep their floats
        BarClosed(CLOSE, Bar("BBB", MIDNIGHT, 20.0, 22.0, 18.0, 21.0, 100.0)),
        SessionEnded(CLOSE, "2024-07-01"),
    ]


def test_a_file_sorted_by_symbol_tells_what_one_sorted_by_time_tells(tmp_path: Path, july: SessionCalendar) -> None:
    rows = [day(symbol, number, 10.0 + number) for symbol in ("BBB", "AAA", "XXX") for number in (0, 1, 2, 4, 7)]
    by_symbol = write(tmp_path / "symbol.csv", *rows)
    by_time = write(tmp_path / "time.csv", *sorted(rows, key=lambda row: (int(row.split(",")[1]), row)))
    events = play(by_symbol, july)
    assert events == play(by_time, july)
    assert [e.bar.symbol for e in events if isinstance(e, BarClosed)] == ["AAA", "BBB"] * 5
    assert [e.date for e in events if isinstance(e, RebalanceDue)] == [f"2024-07-0{d}" for d in (1, 2, 3, 5, 8)]


def test_an_early_decision_moves_the_session_s_announcement_with_it(tmp_path: Path, july: SessionCalendar) -> None:
    path = write(tmp_path / "t.csv", day("AAA", 0, 10.0))
    first, due, *_ = play(path, july, Basket(before_open_min=240))
    assert (first.time_ns, due.time_ns) == (OPEN - 240 * MINUTE, OPEN - 240 * MINUTE)
    assert isinstance(due, RebalanceDue)


def test_a_symbol_that_starts_later_or_has_holes_has_no_bar_and_no_print(tmp_path: Path, july: SessionCalendar) -> None:
    path = write(tmp_path / "t.csv", day("AAA", 0, 10.0), day("BBB", 1, 20.0))
    printed = [e for e in play(path, july) if isinstance(e, PricesPrinted) and e.opening]
    assert [e.prices for e in printed] == [prices(AAA="10.0"), prices(BBB="20.0")]


def test_bad_rows_and_duplicates_are_rejected_and_not_printed(tmp_path: Path, july: SessionCalendar) -> None:
    bad = f"BBB,{MIDNIGHT},20,19,18,20,100"
    path = write(tmp_path / "t.csv", bad, day("AAA", 0, 10.0), day("AAA", 0, 99.0), day("BBB", 6, 1.0))
    source = DailyTapeSource(path, scan_daily(path, ("AAA", "BBB")), july, Basket())
    events = list(source)
    printed = next(e for e in events if isinstance(e, PricesPrinted))
    assert printed.prices == prices(AAA="10.0")  # of two rows of one bar the file's first counts
    refused = [e for e in events if isinstance(e, BarRejected)]
    assert [(e.symbol, e.reason, e.time_ns) for e in refused] == [
        ("AAA", "duplicate", CLOSE),
        ("BBB", "high_below_low", CLOSE),
    ]
    assert "high=19.0" in refused[1].detail
    assert (source.counts.bars, dict(source.counts.rejected)) == (1, {"duplicate": 1, "high_below_low": 1})
    assert source.counts.outside_hours == 1  # a Sunday


def test_sessions_without_a_bar_between_others_are_named(tmp_path: Path, july: SessionCalendar) -> None:
    path = write(tmp_path / "t.csv", *(day("AAA", number, 10) for number in (0, 2, 8, 9)))  # no 4 July at the exchange
    source = DailyTapeSource(path, scan_daily(path, ("AAA",)), july, AFTER_CLOSE)
    list(source)
    assert source.counts.absent_sessions == ["2024-07-02", "2024-07-05", "2024-07-08"]
    assert source.counts.holes == (
        "3 sessions between the first bar and the last have none, the first 2024-07-02: "
        "the desk goes across as over one night."
    )
    assert source.counts.holes in source.counts.remark


@pytest.mark.parametrize(("later", "told"), [(5.5, True), (22.0, True), (1100.0, True), (8.0, False), (14.0, False)])
def test_a_price_that_leaps_as_by_a_split_or_an_error_is_named(
    tmp_path: Path, july: SessionCalendar, later: float, told: bool
) -> None:
    path = write(tmp_path / "t.csv", day("AAA", 0, 10.0), day("AAA", 1, later), day("AAA", 2, later))
    source = DailyTapeSource(path, scan_daily(path, ("AAA",)), july, AFTER_CLOSE)
    list(source)
    why = (
        f"A price leaps: AAA on 2024-07-02 from 11 to {later:g}. If that is a split that the bars are not adjusted for"
    )
    assert source.counts.remark.startswith(why) is told
    assert bool(source.counts.remark) is told


def test_a_symbol_whose_bars_end_while_others_go_on_is_named(tmp_path: Path, july: SessionCalendar) -> None:
    rows = [day("AAA", number, 10.0) for number in (0, 1, 2, 4, 7)]
    path = write(tmp_path / "t.csv", *rows, day("BBB", 1, 10.0), day("CCC", 4, 10.0), day("CCC", 7, 10.0))
    source = DailyTapeSource(path, scan_daily(path, ("AAA", "BBB", "CCC")), july, AFTER_CLOSE)
    list(source)
    assert source.counts.remark == (  # of four sessions BBB has one; CCC was not listed before its first
        "Sessions without a bar since a symbol's first one, while others have bars: "
        "BBB 3 (its last bar is of 2024-07-02). What is held of it then keeps its last price."
    )


def test_symbols_without_any_good_bar_are_named(tmp_path: Path, july: SessionCalendar) -> None:
    symbols = ("AAA", "BBB", "CCC", "DDD", "EEE")
    path = write(tmp_path / "t.csv", day("AAA", 0, 10.0), day("BBB", 0, -10.0))
    source = DailyTapeSource(path, scan_daily(path, symbols), july, AFTER_CLOSE)
    list(source)
    assert "There is no good bar of BBB, CCC, DDD and 1 more: nothing of it can be traded." in source.counts.remark


@pytest.mark.parametrize("written", ["bbb", "BBB ", "\tBbb"])
def test_a_symbol_that_some_rows_write_otherwise_is_refused(tmp_path: Path, written: str) -> None:
    path = write(tmp_path / "t.csv", day("AAA", 0, 10.0), day("BBB", 0, 10.0), day(written, 1, 10.0))
    with pytest.raises(TapeError) as raised:
        scan_daily(path, ("AAA", "BBB"))
    assert f"{written!r} beside BBB: write the symbols in capital letters, without blanks" in str(raised.value)


def test_yahoo_s_name_of_the_adjusted_close_is_refused_not_ignored(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", day("AAA", 0, 10.0, 5.0), header=f"{HEADER},Adj Close")
    with pytest.raises(TapeError, match=r"'Adj Close' would not be read, .*: rename it to adj_close, or remove it"):
        scan_daily(path, ("AAA",))


def test_a_session_of_bad_rows_alone_prints_nothing_and_still_ends(tmp_path: Path, july: SessionCalendar) -> None:
    path = write(tmp_path / "t.csv", f"AAA,{MIDNIGHT},-1,1,1,1,1", day("AAA", 1, 10.0))
    kinds = [type(e).__name__ for e in play(path, july)][:6]
    assert kinds == [
        "SessionScheduled", "RebalanceDue", "PricesPrinted", "PricesPrinted", "BarRejected", "SessionEnded",
    ]  # fmt: skip


def test_adj_close_scales_open_high_low_and_close_and_leaves_the_volume(tmp_path: Path, july: SessionCalendar) -> None:
    header = f"{HEADER},adj_close"
    path = write(tmp_path / "t.csv", day("AAA", 0, 9.0, 5.0), day("AAA", 1, 9.0, ""), header=header)
    info = scan_daily(path, ("AAA",))
    assert info.adjusted
    events = list(DailyTapeSource(path, info, july, Basket()))
    # the close is 10 and stands for 5: everything is halved
    assert BarClosed(CLOSE, Bar("AAA", MIDNIGHT, 4.5, 5.5, 3.5, 5.0, 100.0)) in events
    assert PricesPrinted(OPEN, "2024-07-01", opening=True, prices=prices(AAA="4.5")) in events
    assert [e.reason for e in events if isinstance(e, BarRejected)] == ["not_finite"]  # 2 July has none
    table = pa.table(
        {
            "symbol": ["AAA"],
            "timestamp": pa.array([MIDNIGHT], pa.timestamp("ns", "UTC")),
            **{name: [value] for name, value in zip(HEADER.split(",")[2:], (9.0, 11.0, 7.0, 10.0, 100.0), strict=True)},
            "adj_close": [5.0],
        }
    )
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    assert play(tmp_path / "t.parquet", july, symbols=("AAA",)) == events[:6]
    minutes = write(tmp_path / "m.csv", *(f"{minute('AAA', n, 10.0)},5.0" for n in range(3)), header=header)
    assert not scan_daily(minutes, ("AAA",)).adjusted  # minutes are as they were traded


@pytest.mark.parametrize("skip", [0, 1, 5, 9, 12])
def test_a_replay_resumes_by_skipping_a_count(tmp_path: Path, july: SessionCalendar, skip: int) -> None:
    path = write(tmp_path / "t.csv", day("AAA", 0, 10.0), day("AAA", 1, 11.0))
    info = scan_daily(path, ("AAA",))
    assert list(DailyTapeSource(path, info, july, Basket(), skip)) == play(path, july, symbols=("AAA",))[skip:]


def test_a_tape_shorter_than_its_journal_is_refused(tmp_path: Path, july: SessionCalendar) -> None:
    path = write(tmp_path / "t.csv", day("AAA", 0, 10.0))
    with pytest.raises(TapeError, match="the journal holds 7 feed events, the tape has 6"):
        list(DailyTapeSource(path, scan_daily(path, ("AAA",)), july, Basket(), 7))


def test_before_the_close_daily_bars_are_refused_with_the_key_and_the_cure(
    tmp_path: Path, july: SessionCalendar
) -> None:
    path = write(tmp_path / "t.csv", day("AAA", 0, 10.0), day("AAA", 1, 11.0))
    info = scan_daily(path, ("AAA",))
    with pytest.raises(TapeError, match=r'basket.decide is "before_close".*pass a tape of minutes'):
        check_rule(path, info, BEFORE_CLOSE)
    with pytest.raises(TapeError, match=r"basket\.decide"):
        DailyTapeSource(path, info, july, BEFORE_CLOSE)


def test_a_calendar_that_does_not_span_the_tape_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", day("AAA", 0, 10.0))
    with pytest.raises(TapeError, match="load the calendar for the tape's dates"):
        play(path, SessionCalendar.load("2024-01-02", "2024-01-03"))


def test_files_that_hold_no_such_bars_are_refused_with_what_they_hold(tmp_path: Path) -> None:
    many = tuple(f"S{number}" for number in range(9))
    with pytest.raises(TapeError, match=r"no row of S0, .*, S7, …; found AAA"):
        scan_daily(write(tmp_path / "a.csv", day("AAA", 0, 10.0)), many)
    with pytest.raises(TapeError, match="a header and no row"):
        scan_daily(write(tmp_path / "b.csv"), ("AAA",))
    with pytest.raises(TapeError, match="most bars are 120 s apart"):
        scan_daily(write(tmp_path / "c.csv", *(minute("AAA", 2 * n, 10.0) for n in range(3))), ("AAA",))


def test_days_labelled_by_midnight_utc_are_refused_with_the_label_that_is_needed(
    tmp_path: Path, july: SessionCalendar
) -> None:
    rows = [f"AAA,2024-07-{number:02}T00:00:00Z,10,12,8,11,100" for number in (2, 3, 4)]
    with pytest.raises(TapeError, match=r"first one at 2024-07-02T00:00:00Z; .* a day's midnight in New York"):
        play(write(tmp_path / "t.csv", *rows), july)


def test_what_a_scan_tells(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", day("BBB", 1, 1.5), day("AAA", 0, 10.0), day("XXX", 9, 3.0), day("AAA", 3, 10.0))
    info = scan_daily(path, ("AAA", "BBB"))
    assert (info.rows, info.rows_by_symbol, info.dates) == (4, {"AAA": 2, "BBB": 1, "XXX": 1}, 3)
    assert (info.first_date, info.last_date, info.interval_s) == ("2024-07-01", "2024-07-04", 86_400)
    assert scan_daily(write(tmp_path / "one.csv", day("AAA", 0, 10.0)), ("AAA",)).interval_s == 86_400


# --- minutes ------------------------------------------------------------------------------------------------------


def test_minutes_are_put_together_to_the_day_and_printed_one_by_one(tmp_path: Path, july: SessionCalendar) -> None:
    path = write(tmp_path / "t.csv", minute("AAA", 0, 10.0), minute("AAA", 1, 13.0), minute("BBB", 1, 20.0))
    _, due, *events = play(path, july)
    assert due == RebalanceDue(OPEN - 15 * MINUTE, "2024-07-01")
    assert events == [
        PricesPrinted(OPEN, "2024-07-01", opening=True, prices=prices(AAA="10.0")),
        PricesPrinted(OPEN + MINUTE, "2024-07-01", opening=False, prices=prices(AAA="13.0", BBB="20.0")),
        BarClosed(CLOSE, Bar("AAA", MIDNIGHT, 10.0, 15.0, 8.0, 14.0, 20.0)),
        BarClosed(CLOSE, Bar("BBB", MIDNIGHT, 20.0, 22.0, 18.0, 21.0, 10.0)),
        SessionEnded(CLOSE, "2024-07-01"),
    ]


def test_before_the_close_the_running_day_holds_the_minutes_that_are_over(
    tmp_path: Path, july: SessionCalendar
) -> None:
    rows = [minute("AAA", n, 10.0 + n) for n in (0, 379, 380, 381)]
    events = play(write(tmp_path / "t.csv", *rows), july, BEFORE_CLOSE)
    at = next(number for number, event in enumerate(events) if isinstance(event, RebalanceDue))
    before, due, after = events[at - 1 : at + 2]
    assert before == PricesPrinted(CLOSE - 10 * MINUTE, "2024-07-01", opening=False, prices=prices(AAA="390"))
    assert due == RebalanceDue(
        CLOSE - 10 * MINUTE, "2024-07-01", (Bar("AAA", MIDNIGHT, 10.0, 391.0, 8.0, 390.0, 20.0),)
    )
    assert after == PricesPrinted(CLOSE - 9 * MINUTE, "2024-07-01", opening=False, prices=prices(AAA="391"))
    assert events[0].time_ns == OPEN - 30 * MINUTE


def test_a_desk_is_asked_before_the_close_of_a_half_day_also_without_a_minute_there(
    tmp_path: Path, july: SessionCalendar
) -> None:
    rows = [minute("AAA", n, 10.0, on=2) for n in range(2)]  # 3 July closed at 13:00
    events = play(write(tmp_path / "t.csv", *rows), july, Basket(decide="before_close", before_close_min=30))
    due = next(event for event in events if isinstance(event, RebalanceDue))
    assert due.time_ns == OPEN + 2 * DAY + 180 * MINUTE
    assert [bar.volume for bar in due.running] == [20.0]


def test_without_a_first_minute_the_opening_prints_nothing(tmp_path: Path, july: SessionCalendar) -> None:
    path = write(tmp_path / "t.csv", minute("AAA", 5, 10.0), minute("AAA", 6, 11.0))
    printed = [e for e in play(path, july) if isinstance(e, PricesPrinted)]
    assert [(e.time_ns - OPEN, e.opening, len(e.prices)) for e in printed] == [
        (0, True, 0),
        (5 * MINUTE, False, 1),
        (6 * MINUTE, False, 1),
    ]


def test_a_bad_minute_is_rejected_when_it_is_over_and_is_in_no_day(tmp_path: Path, july: SessionCalendar) -> None:
    bad = f"AAA,{OPEN + MINUTE},1,1,1,1,-5"
    late = f"AAA,{CLOSE - MINUTE},0,1,1,1,5"
    odd = f"AAA,{OPEN + 90 * 10**9},1,1,1,1,5"
    good = [minute("AAA", n, 10.0) for n in (2, 3, 4)]
    path = write(tmp_path / "t.csv", minute("AAA", 0, 10.0), bad, *good, late, odd)
    events = play(path, july)
    refused = [(e.time_ns, e.reason) for e in events if isinstance(e, BarRejected)]
    assert refused == [
        (OPEN + 2 * MINUTE, "negative_volume"),
        (OPEN + 150 * 10**9, "off_grid"),
        (CLOSE, "not_positive"),
    ]
    assert [e.bar.volume for e in events if isinstance(e, BarClosed)] == [40.0]


# --- always -------------------------------------------------------------------------------------------------------

ROWS = st.lists(
    st.tuples(st.sampled_from((0, 1, 2, 4)), st.integers(0, 389), st.sampled_from(("AAA", "BBB")), st.integers(3, 50)),
    min_size=1,
    max_size=30,
)


@given(rows=ROWS, before=st.booleans(), lead=st.integers(3, 120))
@settings(max_examples=examples(60))
def test_times_never_go_backwards_and_no_price_is_told_before_its_minute(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, str, int]], before: bool, lead: int
) -> None:
    calendar = SessionCalendar.load("2024-07-01", "2024-07-12")
    close = {s.date: s.close_ns for s in calendar.sessions}
    lines = [minute(symbol, number, float(price), on=on) for on, number, symbol, price in rows]
    lines += [minute("AAA", n, 10.0) for n in range(40)]  # so that most steps are minutes
    path = write(tmp_path_factory.mktemp("tape") / "t.csv", *lines)
    basket = Basket(decide="before_close" if before else "after_close", before_close_min=lead, before_open_min=lead)
    events = play(path, calendar, basket)
    assert all(one.time_ns <= two.time_ns for one, two in pairwise(events))
    due = [event for event in events if isinstance(event, RebalanceDue)]
    assert len(due) == len({event.date for event in due})
    assert len(due) == sum(isinstance(event, SessionEnded) for event in events)
    opens: dict[tuple[str, int], Decimal] = {}  # by symbol and start, the open of the file's first row of a minute
    for line in lines:
        symbol, start, price, *_ = line.split(",")
        opens.setdefault((symbol, int(start)), Decimal(price))
    for event in events:
        if isinstance(event, PricesPrinted):
            for printed in event.prices:
                assert opens[printed.symbol, event.time_ns] == printed.price
        elif isinstance(event, RebalanceDue):
            minutes = [key for key in opens if midnight_ns(event.date) <= key[1] and key[1] + MINUTE <= event.time_ns]
            minutes = [(symbol, start) for symbol, start in minutes if start < close[event.date]]
            volume = {symbol: 10.0 * sum(name == symbol for name, _ in minutes) for symbol in ("AAA", "BBB")}
            assert {bar.symbol: bar.volume for bar in event.running} == {
                symbol: total for symbol, total in volume.items() if total and before
            }
