"""Bars of any length and further timeframes: pandas' resampling, and no look-ahead whatever the bars are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.golden import contract_digest
from strategies.kit import Bar, FrameBars, Session, ShareSpec, Timeframe, Timeframes, View
from strategies.kit.contract import DailySpec, Grid, Spec

MINUTE = 60_000_000_000
OPEN = 1_719_840_600_000_000_000  # 2024-07-01 9:30 in New York
DAY = Session("2024-07-01", OPEN, OPEN + 390 * MINUTE)
HALF = Session("2024-07-03", OPEN + 2 * 1440 * MINUTE, OPEN + (2 * 1440 + 210) * MINUTE)
AFTER = Session("2024-07-05", OPEN + 4 * 1440 * MINUTE, OPEN + (4 * 1440 + 390) * MINUTE)
SESSIONS = (DAY, HALF, AFTER)


def spec(minutes: int = 15, frames: tuple[Timeframe, ...] = (), **fields: Any) -> ShareSpec:
    usual: dict[str, Any] = {
        "name": "toy",
        "revision": 1,
        "symbols": ("SPY", "QQQ"),
        "bar_interval_s": 60 * minutes,
        "history_bars": 400,
        "window": 1,
        "observation_shape": (1,),
        "dtype": "float32",
        "features": ("x",),
        "actions": ("CASH", "SPY"),
        "temperature": 1.0,
        "timeframes": frames,
    }
    return ShareSpec(**(usual | fields))


def bar(symbol: str, start_ns: int, close: float = 100.0) -> Bar:
    return Bar(symbol, start_ns, close + 0.5, close + 2.0, close - 2.0, close, 10.0)


# --- where bars begin and end -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("minutes", [1, 2, 5, 7, 15, 30, 45, 60])
@pytest.mark.parametrize("session", [DAY, HALF])
def test_from_the_open_bars_are_those_of_pandas(minutes: int, session: Session) -> None:
    times = pd.date_range(pd.Timestamp(session.open_ns), pd.Timestamp(session.close_ns), freq="1min", inclusive="left")
    expected = pd.Series(0, times).resample(f"{minutes}min", origin="start").first().index.as_unit("ns").asi8.tolist()
    grid = Grid(minutes * MINUTE)
    starts = [grid.at(time_ns, session)[0] for time_ns in range(session.open_ns, session.close_ns, MINUTE)]
    assert list(dict.fromkeys(starts)) == expected
    assert [grid.at(start, session)[1] for start in expected] == [*expected[1:], session.close_ns]


def test_from_the_full_hour_the_first_bar_is_short() -> None:
    grid = Grid(60 * MINUTE, "hour")
    starts = list(dict.fromkeys(grid.at(time_ns, DAY)[0] for time_ns in range(OPEN, DAY.close_ns, MINUTE)))
    assert [(start - OPEN) // MINUTE for start in starts] == [0, 30, 90, 150, 210, 270, 330]  # 9:30, 10:00, 11:00, ...
    assert [(grid.at(start, DAY)[1] - OPEN) // MINUTE for start in starts] == [30, 90, 150, 210, 270, 330, 390]


# --- what a spec may declare ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"bar_interval_s": 90}, "bar_interval_s is 90: expected whole minutes from 60 to 3600 s"),
        ({"bar_interval_s": 7200}, "bar_interval_s is 7200: .* a strategy of daily bars has a DailySpec"),
        ({"bar_anchor": "noon"}, "bar_anchor is 'noon' with bars of 15 minutes: expected 'open', or 'hour'"),
        ({"bar_anchor": "hour", "bar_interval_s": 420}, "minutes that divide an hour: 1, 2, 3, 4, 5, 6, 10, 12, 15"),
        ({"timeframes": (Timeframe("1w", 1),)}, "timeframe '1w': expected minutes or an hour"),
        ({"timeframes": (Timeframe("5min", 1),)}, "timeframe '5min': .* longer than its own bars of 15 minutes"),
        ({"timeframes": (Timeframe("40min", 1),)}, "bars of 15 minutes from the open do not join to it"),
        ({"timeframes": (Timeframe("1h", 0),)}, "keep is 0, history_bars 400: expected at least 1"),
        ({"timeframes": (Timeframe("1d", 20),)}, "20 need history_bars = 520 or more"),
        ({"timeframes": (Timeframe("1h", 1), Timeframe("1h", 2))}, "timeframes name a length twice"),
        ({"timeframes": (Timeframe("1h", 1, "noon"),)}, "anchor is 'noon': expected 'open', or 'hour'"),
        (
            {"bar_interval_s": 1200, "timeframes": (Timeframe("1h", 1, "hour"),)},
            "bars of 20 minutes from the open do not join to it",
        ),
    ],
)
def test_a_length_that_no_session_has_is_refused_with_a_cure(fields: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        spec(**fields)


def test_a_daily_strategy_has_daily_bars_alone() -> None:
    fields = {name: getattr(spec(), name) for name in Spec.__struct_fields__}
    with pytest.raises(ValueError, match=r"bar_interval_s is 900.* has bars of 86400 s alone"):
        DailySpec(**fields)


def test_what_is_declared_is_part_of_the_contract() -> None:
    plain = spec()
    variants = (
        spec(bar_anchor="hour"),
        spec(holds_overnight=True),
        spec(frames=(Timeframe("1h", 2),)),
        spec(frames=(Timeframe("1h", 3),)),
        spec(frames=(Timeframe("1h", 2, "hour"),)),
    )
    assert len({contract_digest(variant, {}) for variant in (plain, *variants)}) == 6


# --- further timeframes -----------------------------------------------------------------------------------------------

FRAMES = (Timeframe("1h", 9), Timeframe("30min", 4, "hour"), Timeframe("1d", 3))


@dataclass(frozen=True)
class Seen:
    """What a strategy of quarters of an hour sees at each decision, by its time."""

    spec: ShareSpec
    by_time: dict[int, dict[tuple[str, str], tuple[Bar, ...]]]


def look(bars: dict[tuple[int, str], Bar], share_spec: ShareSpec) -> Seen:
    """Give the bars to the strategy as a desk does: those of one time together, at their end."""
    frames, frame_bars, by_time = Timeframes(share_spec), FrameBars(), {}
    for session in SESSIONS:
        for start in range(session.open_ns, session.close_ns, share_spec.grid.length_ns):
            together = tuple(bars[start, symbol] for symbol in share_spec.symbols if (start, symbol) in bars)
            if together:
                now_ns = share_spec.grid.at(start, session)[1]
                frame_bars = frames.add(frame_bars, together, View(now_ns, session))
                by_time[now_ns] = {
                    (symbol, frame.length): frames.closed(frame_bars, symbol, frame.length)
                    for symbol in share_spec.symbols
                    for frame in share_spec.timeframes
                }
    return Seen(share_spec, by_time)


STARTS = [start for session in SESSIONS for start in range(session.open_ns, session.close_ns, 15 * MINUTE)]
PLACES = [(start, symbol) for start in STARTS for symbol in ("SPY", "QQQ")]
PRICES = st.integers(10, 1000).map(float)


@settings(max_examples=60, deadline=None)
@given(
    closes=st.lists(PRICES, min_size=len(PLACES), max_size=len(PLACES)),
    missing=st.sets(st.sampled_from(PLACES), max_size=60),
    other_closes=st.lists(PRICES, min_size=len(PLACES), max_size=len(PLACES)),
    also_missing=st.sets(st.sampled_from(PLACES), max_size=60),
    cut=st.integers(0, len(STARTS) - 1),
)
def test_whatever_the_future_is_nothing_before_it_changes(
    closes: list[float],
    missing: set[tuple[int, str]],
    other_closes: list[float],
    also_missing: set[tuple[int, str]],
    cut: int,
) -> None:
    share_spec, from_ns = spec(frames=FRAMES), STARTS[cut]
    one = {place: bar(place[1], place[0], close) for place, close in zip(PLACES, closes, strict=True)}
    one = {place: item for place, item in one.items() if place not in missing}
    two = {place: bar(place[1], place[0], close) for place, close in zip(PLACES, other_closes, strict=True)}
    two = {place: item for place, item in two.items() if place not in also_missing and place[0] >= from_ns}
    two |= {place: item for place, item in one.items() if place[0] < from_ns}
    first, second = look(one, share_spec).by_time, look(two, share_spec).by_time
    before = {now_ns for now_ns in first if now_ns <= from_ns}
    assert before == {now_ns for now_ns in second if now_ns <= from_ns}
    assert [first[now_ns] for now_ns in sorted(before)] == [second[now_ns] for now_ns in sorted(before)]


@settings(max_examples=40, deadline=None)
@given(missing=st.sets(st.sampled_from(PLACES), max_size=80))
def test_a_longer_bar_is_seen_from_its_end_on_and_is_that_of_pandas(missing: set[tuple[int, str]]) -> None:
    share_spec = spec(frames=(Timeframe("1h", 50), Timeframe("1d", 3)), history_bars=4000)
    bars = {(start, symbol): bar(symbol, start, 50.0 + at) for at, (start, symbol) in enumerate(PLACES)}
    bars = {place: item for place, item in bars.items() if place not in missing}
    rows = [msgspec.structs.asdict(item) for item in bars.values() if item.symbol == "SPY"]
    how = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    for now_ns, frames in look(bars, share_spec).by_time.items():
        expected = []
        for session in SESSIONS:
            day_rows = [row for row in rows if session.open_ns <= row["start_ns"] < min(session.close_ns, now_ns)]
            if day_rows:
                table = pd.DataFrame(day_rows).set_index(pd.to_datetime([row["start_ns"] for row in day_rows]))
                longer = table.resample("60min", origin=pd.Timestamp(session.open_ns)).agg(how).dropna()
                ends = [min(start.value + 60 * MINUTE, session.close_ns) for start in longer.index]
                expected += [row for row, end in zip(longer.to_numpy().tolist(), ends, strict=True) if end <= now_ns]
        hours = frames["SPY", "1h"]
        assert [[one.open, one.high, one.low, one.close, one.volume] for one in hours] == expected


def test_the_day_under_way_is_not_seen_and_the_half_day_is_one() -> None:
    share_spec = spec(frames=(Timeframe("1d", 3),))
    by_time = look({(start, "SPY"): bar("SPY", start) for start in STARTS}, share_spec).by_time
    counts = {now_ns: len(frames["SPY", "1d"]) for now_ns, frames in by_time.items()}
    assert counts[DAY.close_ns - 15 * MINUTE] == 0
    assert counts[DAY.close_ns] == counts[HALF.open_ns + 15 * MINUTE] == counts[HALF.close_ns - 15 * MINUTE] == 1
    assert counts[HALF.close_ns] == 2
    assert [one.volume for one in by_time[AFTER.open_ns + 15 * MINUTE]["SPY", "1d"]] == [260.0, 140.0]  # 26 and 14 bars


def test_a_late_correction_counts_for_what_is_seen_later_and_a_late_bar_too() -> None:
    share_spec = spec(30, (Timeframe("1h", 3),))
    frames, frame_bars = Timeframes(share_spec), FrameBars()
    for place, close in ((0, 10.0), (1, 20.0), (2, 30.0)):
        now_ns = OPEN + (place + 1) * 30 * MINUTE
        frame_bars = frames.add(frame_bars, (bar("SPY", OPEN + place * 30 * MINUTE, close),), View(now_ns, DAY))
    assert [one.close for one in frames.closed(frame_bars, "SPY", "1h")] == [20.0]
    frame_bars = frames.correct(frame_bars, bar("SPY", OPEN + 30 * MINUTE, 25.0))
    frame_bars = frames.correct(frame_bars, bar("QQQ", OPEN, 70.0))
    assert [one.close for one in frames.closed(frame_bars, "SPY", "1h")] == [25.0]
    assert [one.close for one in frames.closed(frame_bars, "QQQ", "1h")] == [70.0]
    assert frames.correct(frame_bars, bar("SPY", OPEN - 1440 * MINUTE, 1.0)) == frame_bars  # of a session that is over


def test_a_session_that_broke_off_counts_with_the_next_one() -> None:
    share_spec = spec(60, (Timeframe("1d", 2),))
    frames, frame_bars = Timeframes(share_spec), FrameBars()
    frame_bars = frames.add(frame_bars, (bar("SPY", OPEN, 10.0),), View(OPEN + 60 * MINUTE, DAY))
    assert frames.closed(frame_bars, "SPY", "1d") == ()
    frame_bars = frames.add(frame_bars, (bar("SPY", HALF.open_ns, 11.0),), View(HALF.open_ns + 60 * MINUTE, HALF))
    assert [one.close for one in frames.closed(frame_bars, "SPY", "1d")] == [10.0]


def test_what_is_kept_is_the_same_after_a_snapshot() -> None:
    share_spec = spec(frames=FRAMES)
    frames, frame_bars = Timeframes(share_spec), FrameBars()
    for session in SESSIONS[:2]:
        frame_bars = frames.add(
            frame_bars, (bar("SPY", session.open_ns),), View(session.open_ns + 15 * MINUTE, session)
        )
    assert msgspec.json.decode(msgspec.json.encode(frame_bars), type=FrameBars) == frame_bars


# --- splits -----------------------------------------------------------------------------------------------------------


def test_after_a_split_the_longer_bars_from_before_it_are_those_of_the_new_shares() -> None:
    frames = Timeframes(spec(15, (Timeframe("1h", 2), Timeframe("1d", 2))))

    def bars_after(ratio: float) -> FrameBars:
        frame_bars = FrameBars()
        for session in (DAY, HALF):
            for start in range(session.open_ns, session.close_ns, 15 * MINUTE):
                bars = tuple(bar(symbol, start, 400.0 + start % 7) for symbol in ("SPY", "QQQ"))
                own_bars = tuple(
                    Bar(b.symbol, start, b.open / ratio, b.high / ratio, b.low / ratio, b.close / ratio, ratio * 10.0)
                    if b.symbol == "SPY"
                    else b
                    for b in bars
                )
                frame_bars = frames.add(frame_bars, own_bars, View(start + 15 * MINUTE, session))
        return frame_bars

    for first in (False, True):  # told over the night, or after the first bar of the new shares
        now, expected = (bars_after(1.0), bars_after(4.0))
        if first:
            new, view = (bar("SPY", AFTER.open_ns, 101.0),), View(AFTER.open_ns + 15 * MINUTE, AFTER)
            now, expected = frames.add(now, new, view), frames.add(expected, new, view)
        assert frames.split(now, "SPY", 4.0, AFTER.open_ns) == expected
