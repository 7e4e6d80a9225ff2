"""Bars of a journal in buckets: each bucket is what pandas makes of its bars, and none is cut by the span asked for."""

from __future__ import annotations

import itertools
import json
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import talib
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.session import NEW_YORK
from daemon.dashboard.bar_history import (
    MONTH_S,
    POINTS_MOST,
    STEPS,
    WEEK_S,
    YEAR_S,
    BarHistory,
    Series,
    join_buckets,
    step_of,
)
from daemon.journal.reader import ROTATED
from strategies.kit.contract import Bar
from strategies.kit.units import DAY_S
from tests.support.dashboards import Played, Served

SECOND_NS = 10**9
HALF_DAYS = 3  # each third session has half its minutes


def minutes(first: datetime, sessions: int) -> list[Bar]:
    """Minutes of weekdays with prices that jump, each third day a half one. New York's clock, so summer and winter."""
    rng = np.random.default_rng(7)
    bars = []
    days = [first + timedelta(days=n) for n in range(2 * sessions) if (first + timedelta(days=n)).weekday() < 5]
    for number, day in enumerate(days[:sessions]):
        opens = day.replace(hour=9, minute=30, tzinfo=NEW_YORK)
        for minute in range(390 if number % HALF_DAYS else 210):
            prices = rng.uniform(90.0, 110.0, 4)
            start_ns = int(opens.timestamp() + 60 * minute) * SECOND_NS
            volume = float(rng.integers(1, 1000))
            bars.append(Bar("SPY", start_ns, prices[0], max(prices), min(prices), prices[1], volume))
    return bars


BARS = minutes(datetime(2024, 2, 26, tzinfo=NEW_YORK), 30)  # with 10 March, when the clocks go on


def series_of(bars: Sequence[Bar]) -> Series:
    series = Series()
    for bar in bars:
        series.add(bar)
    return series


def by_pandas(bars: Sequence[Bar], step_s: int) -> list[list[float]]:
    """The same buckets by pandas: [time of the first bar, open, high, low, close, volume]."""
    index = pd.DatetimeIndex([bar.start_ns for bar in bars], tz="UTC").tz_convert(NEW_YORK)
    frame = pd.DataFrame(
        {
            "time": [bar.start_ns / SECOND_NS for bar in bars],
            "open": [bar.open for bar in bars],
            "high": [bar.high for bar in bars],
            "low": [bar.low for bar in bars],
            "close": [bar.close for bar in bars],
            "volume": [bar.volume for bar in bars],
        },
        index=index,
    )
    naive = index.tz_localize(None)
    since_open = naive - naive.normalize() - pd.Timedelta(hours=9, minutes=30)
    keys: list[Any] = {
        DAY_S: [naive.normalize()],
        WEEK_S: [naive.to_period("W-SUN")],
        MONTH_S: [naive.to_period("M")],
        YEAR_S: [naive.to_period("Y")],
    }.get(step_s, [naive.normalize(), since_open // pd.Timedelta(seconds=step_s)])
    grouped = frame.groupby(keys).agg(
        {"time": "first", "open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    )
    rows: list[list[float]] = grouped.to_numpy().tolist()
    return rows


@pytest.mark.parametrize("step_s", [step_s for step_s in STEPS if step_s > 60])
def test_a_bucket_is_what_pandas_makes_of_its_bars(step_s: int) -> None:
    series = series_of(BARS)
    assert join_buckets(series.rows(0, len(series)), step_s).values.tolist() == by_pandas(BARS, step_s)


def test_the_length_is_the_shortest_that_keeps_to_the_points() -> None:
    times = np.array([bar.start_ns / SECOND_NS for bar in BARS])
    for points in (50, 100, 400, 1000, 5000):
        counts = {step_s: len(by_pandas(BARS, step_s)) for step_s in STEPS if step_s > 60}
        expected = min(step_s for step_s, count in counts.items() if count <= points)
        assert step_of(times, points) == expected
    assert step_of(times, len(times)) == 0


@given(
    first=st.integers(0, len(BARS) - 1),
    length=st.integers(1, len(BARS)),
    points=st.integers(20, 700),
    step_s=st.sampled_from([None, 0, *STEPS]),
)
def test_whatever_span_is_asked_for_its_buckets_are_whole_cover_it_and_are_few(
    first: int, length: int, points: int, step_s: int | None
) -> None:
    series = series_of(BARS)
    begin, end = (BARS[min(place, len(BARS) - 1)].start_ns / SECOND_NS for place in (first, first + length))
    buckets = series.buckets(begin, end, points, step_s)
    rows = buckets.values.tolist()
    every = by_pandas(BARS, buckets.step_s) if buckets.step_s else series.rows(0, len(series)).tolist()
    place = every.index(rows[0])
    assert rows == every[place : place + len(rows)]
    assert len(rows) <= POINTS_MOST
    assert rows[0][0] <= begin
    following = every[place + len(rows)][0] if place + len(rows) < len(every) else float("inf")
    assert following > end
    if step_s is None and buckets.step_s:
        assert sum(begin <= row[0] <= end for row in rows) <= points


def test_a_bar_that_comes_late_or_again_stands_once_in_its_place_and_a_correction_replaces_it() -> None:
    bars = [Bar("SPY", start * 60 * SECOND_NS, 1.0, 2.0, 0.5, 1.5, 10.0) for start in (3, 1, 2)]
    series = series_of([*bars, Bar("SPY", 60 * SECOND_NS, 9.0, 9.0, 9.0, 9.0, 9.0)])
    assert list(series.times) == [60.0, 120.0, 180.0]
    assert series.rows(0, 1).tolist() == [[60.0, 1.0, 2.0, 0.5, 1.5, 10.0]]
    series.add(Bar("SPY", 120 * SECOND_NS, 1.0, 4.0, 0.5, 3.0, 12.0), corrected=True)
    assert series.rows(1, 2).tolist() == [[120.0, 1.0, 4.0, 0.5, 3.0, 12.0]]


def test_a_split_replaces_the_days_it_names_and_scales_the_older_ones() -> None:
    day_ns = DAY_S * SECOND_NS
    series = series_of([Bar("AAPL", day * day_ns, 100.0, 104.0, 96.0, 100.0, 7.0) for day in range(4)])
    series.adjust([Bar("AAPL", day * day_ns, 25.0, 26.0, 24.0, 25.0, 28.0) for day in (2, 3)])
    assert series.rows(0, 4)[:, 1:].tolist() == [
        [25.0, 26.0, 24.0, 25.0, 7.0],
        [25.0, 26.0, 24.0, 25.0, 7.0],
        [25.0, 26.0, 24.0, 25.0, 28.0],
        [25.0, 26.0, 24.0, 25.0, 28.0],
    ]


def test_a_split_of_a_desk_by_the_bar_scales_the_bars_before_it_once() -> None:
    minute_ns = 60 * SECOND_NS
    series = series_of([Bar("SPY", place * minute_ns, 100.0, 104.0, 96.0, 100.0, 7.0) for place in range(3)])
    for _ in range(2):
        series.split(4.0, 2 * minute_ns)
        assert series.rows(0, 3)[:, 1:].tolist() == [
            [25.0, 26.0, 24.0, 25.0, 28.0],
            [25.0, 26.0, 24.0, 25.0, 28.0],
            [100.0, 104.0, 96.0, 100.0, 7.0],
        ]


def bars_by_sql(path: Path) -> list[list[float]]:
    """The bars of a journal by plain SQL and json."""
    with closing(sqlite3.connect(path)) as db:
        payloads = db.execute("SELECT payload FROM events WHERE kind = 'BarClosed' ORDER BY id").fetchall()
    bars = [json.loads(payload)["bar"] for (payload,) in payloads]
    names = ("open", "high", "low", "close", "volume")
    return [[bar["start_ns"] / SECOND_NS, *(bar[name] for name in names)] for bar in bars]


def test_the_journal_s_bars_are_read_once_and_then_on(replay: Played, tmp_path: Path) -> None:
    copy = tmp_path / "journal.sqlite"
    shutil.copyfile(replay.path / "journal.sqlite", copy)
    every = bars_by_sql(copy)
    history = BarHistory(copy)
    with history.reading("SPY", 1) as series:
        assert series.rows(0, len(series)).tolist() == every
    later = {"symbol": "SPY", "start_ns": int(every[-1][0] + 60) * SECOND_NS, "open": 1.0, "high": 2.0, "low": 0.5}
    payload = json.dumps({"type": "BarClosed", "time_ns": 0, "bar": {**later, "close": 1.5, "volume": 3.0}})
    columns = "seq, time_ns, kind, payload, effects, hash"
    with closing(sqlite3.connect(copy)) as db:
        for text in (payload, "{"):  # and a damaged row
            db.execute(f"INSERT INTO events ({columns}) VALUES (NULL, 0, 'BarClosed', ?, '[]', x'')", (text,))
        db.commit()
    with history.reading("SPY", 1) as series:
        assert series.rows(0, len(series)).tolist() == [*every, [every[-1][0] + 60, 1.0, 2.0, 0.5, 1.5, 3.0]]
    with history.reading("QQQ", 1) as series:
        assert len(series) == 0


def test_bars_on_both_sides_of_a_rotation_are_read_also_by_one_who_was_behind(replay: Played, tmp_path: Path) -> None:
    journal, old = tmp_path / "journal.sqlite", tmp_path / ROTATED / f"{1:012}-{2:012}.sqlite"
    every = bars_by_sql(replay.path / "journal.sqlite")
    with closing(sqlite3.connect(replay.path / "journal.sqlite")) as db:
        (last,) = db.execute("SELECT max(id) FROM events").fetchone()
    split, behind = last // 2, last // 3
    old.parent.mkdir()
    history = BarHistory(journal)
    for path, condition in ((journal, f"id > {behind}"), (old, f"id > {split}")):
        shutil.copyfile(replay.path / "journal.sqlite", path)
        with closing(sqlite3.connect(path)) as db:
            db.execute(f"DELETE FROM events WHERE {condition}")
            db.commit()
        if path == journal:
            with history.reading("SPY", 1) as series:
                assert 0 < len(series) < len(every)
    shutil.copyfile(replay.path / "journal.sqlite", journal)
    with closing(sqlite3.connect(journal)) as db:
        db.execute(f"DELETE FROM events WHERE id < {split}")
        db.commit()
    for reading in (history, BarHistory(journal)):
        with reading.reading("SPY", 1) as series:
            assert series.rows(0, len(series)).tolist() == every


# --- GET /api/bars ----------------------------------------------------------------------------------------------------


def test_the_whole_journal_and_any_part_of_it_is_answered_in_buckets(served: Served, replay: Played) -> None:
    every = bars_by_sql(replay.path / "journal.sqlite")
    whole = served.json("/api/bars?view=all&points=100")
    assert (whole["first"], whole["last"]) == (every[0][0], every[-1][0])
    assert whole["step"] > 0
    assert len(whole["bars"]) <= 100
    assert sum(bar[5] for bar in whole["bars"]) == sum(bar[5] for bar in every)
    newest = served.json("/api/bars")
    day = [bar for bar in every if new_york_day(bar[0]) == new_york_day(every[-1][0])]
    assert newest["step"] == 0
    assert [bar for bar in newest["bars"] if newest["begin"] <= bar[0] <= newest["end"]] == day
    part = served.json(f"/api/bars?from={int(every[100][0])}&to={int(every[130][0])}")
    assert (part["begin"], part["end"]) == (every[100][0], every[130][0])
    place = every.index(part["bars"][0])
    assert part["bars"] == every[place : place + len(part["bars"])]


def new_york_day(second: float) -> str:
    return datetime.fromtimestamp(second, NEW_YORK).date().isoformat()


def test_fills_of_one_kind_at_one_bucket_are_one_mark_with_their_number(served: Served, replay: Played) -> None:
    fills = replay.sql("SELECT filled_ns, side FROM fills ORDER BY filled_ns")
    whole = served.json("/api/bars?view=all&points=20")
    assert whole["fills_seen"] == len(fills) == sum(mark["count"] for mark in whole["marks"])
    times = [bar[0] for bar in whole["bars"]]
    expected: dict[tuple[float, str], int] = {}
    for fill in fills:
        bucket = max(time for time in times if time <= fill["filled_ns"] / SECOND_NS)
        key = bucket, "entry" if fill["side"] > 0 else "exit"
        expected[key] = expected.get(key, 0) + 1
    assert {(mark["time"], mark["kind"]): mark["count"] for mark in whole["marks"]} == expected


def test_from_trade_to_trade_each_comes_once_in_order(served: Served, replay: Played) -> None:
    entries_ns = [row["opened_ns"] for row in replay.sql("SELECT opened_ns FROM round_trips ORDER BY opened_ns")]
    at, entries_s = 0, []
    for _ in entries_ns:
        page = served.json(f"/api/bars?trade=next&at={at}")
        entries_s.append(page["trade"]["entered"])
        assert page["begin"] <= page["trade"]["entered"] <= page["end"] + 60
        at = int(np.ceil(1000 * page["trade"]["entered"]))
    assert entries_s == [time / SECOND_NS for time in entries_ns]
    status, _, body = served.ask(f"/api/bars?trade=next&at={at}")
    assert (status, json.loads(body)) == (404, {"error": "there is no later trade"})
    before = served.json(f"/api/bars?trade=previous&at={int(1000 * entries_s[-1])}")
    assert before["trade"]["entered"] == entries_s[-2]


def test_a_feature_s_pane_is_what_the_policy_saw_and_an_indicator_that_of_ta_lib(
    served: Served, replay: Played
) -> None:
    page = served.json("/api/bars?panes=rsi14,EMA+21")
    rsi, ema = page["panes"]
    rows = replay.sql("SELECT bar_ns, row FROM decisions WHERE row IS NOT NULL ORDER BY bar_ns")
    column = 10  # rsi14 in docs/MODELS.md's list of the inputs
    expected = {row["bar_ns"] / SECOND_NS: float(np.frombuffer(row["row"], dtype="<f4")[column]) for row in rows}
    assert len(rsi["times"]) > 100
    assert rsi["values"] == [expected[time] for time in rsi["times"]]
    every = bars_by_sql(replay.path / "journal.sqlite")
    line = talib.EMA(np.array([bar[4] for bar in every]), timeperiod=21)
    by_time = {bar[0]: value for bar, value in zip(every, line.tolist(), strict=True)}
    assert ema["overlay"]
    assert ema["values"] == [by_time[time] for time in ema["times"]]


def test_the_contract_s_pane_is_the_middle_of_its_quotes_while_it_was_held(served: Served, replay: Played) -> None:
    page = served.json("/api/bars?panes=contract")
    trips = replay.sql("SELECT symbol, opened_ns, left_ns FROM round_trips")
    expected: dict[float, float] = {}
    for row in replay.sql("SELECT payload FROM events WHERE kind = 'QuotesReceived' ORDER BY id"):
        event = json.loads(row["payload"])
        contracts = {
            trip["symbol"] for trip in trips if trip["opened_ns"] <= event["time_ns"] <= (trip["left_ns"] or 2**63)
        }
        for quote in event["quotes"]:
            if quote["symbol"] in contracts:
                middle = (float(quote["bid"]) + float(quote["ask"])) / 2
                expected[event["closes_bar_ns"] / SECOND_NS] = middle
    pane = page["contract"]
    first = page["bars"][0][0]
    assert len(pane["times"]) > 5
    assert dict(zip(pane["times"], pane["values"], strict=True)) == {
        time: middle for time, middle in expected.items() if time >= first
    }


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("symbol=TSLA", 404, "symbol is 'TSLA'"),
        ("session=1999-01-04", 404, "session is '1999-01-04'"),
        ("session=soon", 400, "session is 'soon'"),
        ("step=7", 400, "step is 7, expected one of 0, 60"),
        ("points=9999", 400, "points is '9999'"),
        ("trade=best", 400, "trade is 'best'"),
        ("from=-1&to=5", 400, "from is '-1'"),
        ("panes=<b>", 404, "pane is '<b>', expected one of volume, contract"),
    ],
)
def test_a_wrong_wish_is_refused_with_the_value_and_what_is_expected(
    served: Served, query: str, status: int, words: str
) -> None:
    code, _, body = served.ask(f"/api/bars?{query}")
    assert code == status
    assert words in json.loads(body)["error"]


def test_a_span_without_bars_shows_those_next_to_it(served: Served, replay: Played) -> None:
    times = [bar[0] for bar in bars_by_sql(replay.path / "journal.sqlite")]
    gap = next(first for first, second in itertools.pairwise(times) if second - first > 3600)
    page = served.json(f"/api/bars?from={int(gap + 600)}&to={int(gap + 1200)}")
    assert page["begin"] <= gap < page["end"]
