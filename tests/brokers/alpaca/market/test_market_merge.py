"""The merge of streamed and REST bars: expected values are read off its written rule, by hand.

Property: whatever comes in, each minute goes out at most once and in ascending order.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daemon.brokers.alpaca.market.live_bars import TORN_NS, BarBuilder, BarMerge, Given
from daemon.core.events import BarClosed, BarCorrected, BarRejected
from strategies.kit.contract import Bar, Grid, Session

MINUTE = 60_000_000_000
OPEN = 1_717_421_400_000_000_000  # 2024-06-03 09:30 New York
DAY = Session("2024-06-03", OPEN, OPEN + 390 * MINUTE)


def bar(minute: int, close: float = 100.0) -> Bar:
    return Bar("SPY", OPEN + minute * MINUTE, 100.0, 110.0, 90.0, close, 1000.0)


def fresh() -> BarMerge:
    return BarMerge(OPEN - MINUTE)


def kinds_and_minutes(events: list[Given]) -> list[tuple[str, int]]:
    """Kind and minute of each event."""
    starts = [e.start_ns if isinstance(e, BarRejected) else e.bar.start_ns for e in events]
    return [(type(e).__name__, (start - OPEN) // MINUTE) for e, start in zip(events, starts, strict=True)]


def test_a_new_bar_is_given_and_the_same_bar_again_is_dropped_and_counted() -> None:
    merge = fresh()
    assert merge.add(bar(0), 7) == [BarClosed(7, bar(0))]
    assert merge.add(bar(0), 8) == []
    assert merge.counts["duplicate"] == 1


def test_a_late_update_of_a_given_bar_is_a_correction() -> None:
    merge = fresh()
    merge.add(bar(0), 1)
    merge.add(bar(1), 2)
    assert merge.add(bar(0, 101.0), 3) == [BarCorrected(3, bar(0, 101.0))]
    assert merge.add(bar(0, 101.0), 4) == []


def test_an_update_whose_bar_never_came_is_the_bar() -> None:
    merge = fresh()
    merge.add(bar(0), 1)
    assert kinds_and_minutes(merge.add(bar(1), 2)) == [("BarClosed", 1)]


def test_a_minute_that_was_passed_over_is_refused_when_it_comes_at_last() -> None:
    merge = fresh()
    merge.add(bar(0), 1)
    merge.add(bar(2), 2)
    (rejection,) = merge.add(bar(1), 3)
    assert isinstance(rejection, BarRejected)
    assert rejection.reason == "out_of_order"
    assert kinds_and_minutes(merge.add(bar(3), 4)) == [("BarClosed", 3)]


def test_during_a_repair_streamed_bars_wait_and_rest_bars_go_first() -> None:
    merge = fresh()
    merge.add(bar(0), 1)
    merge.hold()
    assert merge.add(bar(3), 2) == []
    assert merge.add(bar(4), 2) == []
    events = merge.repaired([bar(2), bar(1), bar(0), bar(3)], 5)
    assert kinds_and_minutes(events) == [("BarClosed", 1), ("BarClosed", 2), ("BarClosed", 3), ("BarClosed", 4)]
    assert kinds_and_minutes(merge.add(bar(5), 6)) == [("BarClosed", 5)]


def test_an_update_replaces_a_held_bar_and_wins_over_rest() -> None:
    merge = fresh()
    merge.hold()
    merge.add(bar(0), 1)
    merge.add(bar(0, 105.0), 2)
    assert merge.repaired([bar(0, 99.0)], 3) == [BarClosed(3, bar(0, 105.0))]


def test_rest_corrects_a_given_bar_whose_update_was_missed() -> None:
    merge = fresh()
    merge.add(bar(0), 1)
    merge.hold()
    assert merge.repaired([bar(0, 102.0)], 3) == [BarCorrected(3, bar(0, 102.0))]


def test_without_rest_the_held_bars_go_on_alone() -> None:
    merge = fresh()
    merge.hold()
    merge.add(bar(2), 1)
    assert kinds_and_minutes(merge.release(2)) == [("BarClosed", 2)]
    assert not merge.holding


def test_what_is_held_is_bounded_and_the_oldest_goes_first() -> None:
    merge = BarMerge(OPEN - MINUTE, most_waiting=2)
    merge.hold()
    for minute in range(4):
        merge.add(bar(minute), 1)
    assert merge.counts["overflow"] == 2
    assert kinds_and_minutes(merge.release(2)) == [("BarClosed", 2), ("BarClosed", 3)]


def test_bars_known_from_before_are_not_given_again() -> None:
    merge = fresh()
    merge.know([bar(0), bar(1)])
    merge.hold()
    assert kinds_and_minutes(merge.repaired([bar(0), bar(1), bar(2)], 3)) == [("BarClosed", 2)]


_bars = st.builds(bar, st.integers(0, 12), st.sampled_from([99.0, 100.0, 101.0]))
_acts: st.SearchStrategy[tuple[str, list[Bar]]] = st.one_of(
    st.tuples(st.just("add"), st.lists(_bars, min_size=1, max_size=1)),
    st.tuples(st.just("hold"), st.just([])),
    st.tuples(st.just("repaired"), st.lists(_bars, max_size=8)),
)


@given(st.lists(_acts, max_size=60))
def test_any_interleaving_gives_each_minute_at_most_once_and_ascending(acts: list[tuple[str, list[Bar]]]) -> None:
    merge, out = fresh(), list[Given]()
    for act, bars in acts:
        match act:
            case "add":
                out += merge.add(bars[0], 1)
            case "hold":
                merge.hold()
            case _:
                out += merge.repaired(bars, 1)
    out += merge.release(1)
    starts = [event.bar.start_ns for event in out if isinstance(event, BarClosed)]
    assert starts == sorted(set(starts))
    for place, event in enumerate(out):  # a correction only of what went out before
        if isinstance(event, BarCorrected):
            assert any(isinstance(e, BarClosed) and e.bar.start_ns == event.bar.start_ns for e in out[:place])


@given(st.permutations(range(10)), st.sets(st.integers(0, 9)))
def test_a_repair_with_all_minutes_loses_none(order: list[int], streamed: set[int]) -> None:
    merge = fresh()
    merge.hold()
    for minute in order:
        if minute in streamed:
            merge.add(bar(minute), 1)
    assert kinds_and_minutes(merge.repaired([bar(minute) for minute in order], 2)) == [
        ("BarClosed", m) for m in range(10)
    ]


# --- wider bars -------------------------------------------------------------------------------------------------------


def minute_bar(minute: int, close: float = 100.0, volume: float = 10.0) -> Bar:
    """A minute that opens at 99, goes a dollar beyond open and close, and ends at `close`."""
    return Bar("SPY", OPEN + minute * MINUTE, 99.0, max(99.0, close) + 1, min(99.0, close) - 1, close, volume)


def close_minute(builder: BarBuilder, minute: int, **values: float) -> list[BarClosed | BarCorrected]:
    return builder.take(BarClosed(7, minute_bar(minute, **values)))


def test_with_a_width_of_one_minute_each_minute_is_its_bar() -> None:
    builder = BarBuilder(DAY, Grid(MINUTE))
    assert close_minute(builder, 0) == [BarClosed(7, minute_bar(0))]
    assert close_minute(builder, 3) == [BarClosed(7, minute_bar(3))]
    correction = BarCorrected(8, minute_bar(0, close=101.0))
    assert builder.take(correction) == [correction]
    assert builder.torn(OPEN + 60 * MINUTE) == []


def test_a_wide_bar_goes_out_with_its_last_minute() -> None:
    builder = BarBuilder(DAY, Grid(5 * MINUTE))
    closes = (100.0, 104.0, 97.0, 98.0)
    assert [event for minute, close in enumerate(closes) for event in close_minute(builder, minute, close=close)] == []
    wide = Bar("SPY", OPEN, 99.0, 105.0, 96.0, 103.0, 50.0)
    assert close_minute(builder, 4, close=103.0) == [BarClosed(7, wide)]


def test_a_wide_bar_without_its_last_minute_goes_out_some_seconds_after_its_end_and_is_corrected_by_it() -> None:
    builder = BarBuilder(DAY, Grid(5 * MINUTE))
    assert [close_minute(builder, minute) for minute in range(4)] == [[]] * 4
    assert builder.torn(OPEN + 5 * MINUTE + TORN_NS - 1) == []
    short_bar = Bar("SPY", OPEN, 99.0, 101.0, 98.0, 100.0, 40.0)
    assert builder.torn(OPEN + 5 * MINUTE + TORN_NS) == [short_bar]
    assert close_minute(builder, 4, close=95.0) == [BarCorrected(7, Bar("SPY", OPEN, 99.0, 101.0, 94.0, 95.0, 50.0))]


def test_a_wide_bar_without_its_last_minute_goes_out_before_a_later_one() -> None:
    builder = BarBuilder(DAY, Grid(5 * MINUTE))
    assert close_minute(builder, 1) == []
    assert close_minute(builder, 9) == [
        BarClosed(7, Bar("SPY", OPEN, 99.0, 101.0, 98.0, 100.0, 10.0)),
        BarClosed(7, Bar("SPY", OPEN + 5 * MINUTE, 99.0, 101.0, 98.0, 100.0, 10.0)),
    ]


def test_the_short_last_bar_of_a_session_ends_with_its_close_with_or_without_its_last_minute() -> None:
    builder = BarBuilder(DAY, Grid(60 * MINUTE))
    assert close_minute(builder, 360) == []
    assert close_minute(builder, 389) == [BarClosed(7, Bar("SPY", OPEN + 360 * MINUTE, 99.0, 101.0, 98.0, 100.0, 20.0))]
    builder = BarBuilder(DAY, Grid(60 * MINUTE))
    assert close_minute(builder, 361) == []
    assert builder.torn(DAY.close_ns + TORN_NS - 1) == []
    assert [bar.start_ns for bar in builder.torn(DAY.close_ns + TORN_NS)] == [OPEN + 360 * MINUTE]


def test_bars_of_the_full_hour_begin_with_a_short_one() -> None:
    builder = BarBuilder(DAY, Grid(60 * MINUTE, "hour"))
    ends = [minute for minute in range(390) if close_minute(builder, minute)]
    assert ends == [29, 89, 149, 209, 269, 329, 389]  # the minutes that end at 10:00, 11:00, ... 16:00


def test_a_correction_within_an_unfinished_wide_bar_is_in_it_when_it_goes_out() -> None:
    builder = BarBuilder(DAY, Grid(2 * MINUTE))
    assert close_minute(builder, 0) == []
    assert builder.take(BarCorrected(8, minute_bar(0, volume=33.0))) == []
    assert close_minute(builder, 1) == [BarClosed(7, Bar("SPY", OPEN, 99.0, 101.0, 98.0, 100.0, 43.0))]


def test_after_a_start_the_bars_that_the_state_lacks_go_out_and_one_under_way_goes_on() -> None:
    builder = BarBuilder(DAY, Grid(5 * MINUTE))
    so_far = [minute_bar(minute) for minute in range(12)]
    bars = builder.know(so_far, OPEN, OPEN + 12 * MINUTE)
    assert [bar.start_ns for bar in bars] == [OPEN + 5 * MINUTE]
    assert bars[0].volume == 50.0
    assert builder.take(BarCorrected(8, minute_bar(0, volume=33.0))) == [
        BarCorrected(8, Bar("SPY", OPEN, 99.0, 101.0, 98.0, 100.0, 73.0))
    ]
    assert [event.bar.volume for minute in (12, 13, 14) for event in close_minute(builder, minute)] == [50.0]


def test_a_bar_that_went_out_before_a_start_is_never_corrected_from_a_part_of_its_minutes() -> None:
    builder = BarBuilder(DAY, Grid(5 * MINUTE))
    assert builder.know((), OPEN, OPEN + 7 * MINUTE) == []
    assert close_minute(builder, 3) == []
    assert builder.take(BarCorrected(8, minute_bar(3, volume=33.0))) == []
