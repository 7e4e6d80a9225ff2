"""The merge of streamed and REST bars: expected values are read off its written rule, by hand.

Property: whatever comes in, each minute goes out at most once and in ascending order.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daemon.brokers.alpaca.market.merge import BarMerge, Given
from daemon.core.events import BarClosed, BarCorrected, BarRejected
from strategies.kit.contract import Bar

MINUTE = 60_000_000_000
OPEN = 1_717_421_400_000_000_000  # 2024-06-03 09:30 New York


def bar(minute: int, close: float = 100.0) -> Bar:
    return Bar("SPY", OPEN + minute * MINUTE, 100.0, 110.0, 90.0, close, 1000.0)


def fresh() -> BarMerge:
    return BarMerge(OPEN - MINUTE)


def told(events: list[Given]) -> list[tuple[str, int]]:
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
    assert told(merge.add(bar(1), 2)) == [("BarClosed", 1)]


def test_a_minute_that_was_passed_over_is_refused_when_it_comes_at_last() -> None:
    merge = fresh()
    merge.add(bar(0), 1)
    merge.add(bar(2), 2)
    (refused,) = merge.add(bar(1), 3)
    assert isinstance(refused, BarRejected)
    assert refused.reason == "out_of_order"
    assert told(merge.add(bar(3), 4)) == [("BarClosed", 3)]


def test_during_a_repair_streamed_bars_wait_and_rest_bars_go_first() -> None:
    merge = fresh()
    merge.add(bar(0), 1)
    merge.hold()
    assert merge.add(bar(3), 2) == []
    assert merge.add(bar(4), 2) == []
    events = merge.repaired([bar(2), bar(1), bar(0), bar(3)], 5)
    assert told(events) == [("BarClosed", 1), ("BarClosed", 2), ("BarClosed", 3), ("BarClosed", 4)]
    assert told(merge.add(bar(5), 6)) == [("BarClosed", 5)]


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
    assert told(merge.release(2)) == [("BarClosed", 2)]
    assert not merge.holding


def test_what_is_held_is_bounded_and_the_oldest_goes_first() -> None:
    merge = BarMerge(OPEN - MINUTE, most_held=2)
    merge.hold()
    for minute in range(4):
        merge.add(bar(minute), 1)
    assert merge.counts["overflow"] == 2
    assert told(merge.release(2)) == [("BarClosed", 2), ("BarClosed", 3)]


def test_bars_known_from_before_are_not_given_again() -> None:
    merge = fresh()
    merge.know([bar(0), bar(1)])
    merge.hold()
    assert told(merge.repaired([bar(0), bar(1), bar(2)], 3)) == [("BarClosed", 2)]


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
    assert told(merge.repaired([bar(minute) for minute in order], 2)) == [("BarClosed", m) for m in range(10)]
