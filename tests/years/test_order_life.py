"""A bounded part of the exploration of an order's life, and that it finds what is planted.

The whole is `make order-life`.
"""

from __future__ import annotations

from collections import Counter

import pytest

from daemon.core.events import OrderFilled
from daemon.core.orders import ACCEPTED, CANCELED, CANCELING, FILLED, LIFE, UNKNOWN, Order
from tests.years.order_life import MET_ELSEWHERE, UNMET, Broken, Life, Seen, explore, play, summary, table

ONE_AND_TWO_FAULTS = Life(1, 0, contracts=1)


@pytest.fixture(scope="module")
def explored() -> tuple[Seen, ...]:
    """One order: of one contract with two faults, of two with one, of three; over time. Two orders without a fault."""
    return (
        explore(ONE_AND_TWO_FAULTS, 2),
        explore(Life(1, 0), 1),
        explore(Life(1, 0, contracts=3), 0),
        explore(Life(1, 1), 0),
        explore(Life(2, 0), 0),
    )


def test_one_order_under_two_faults_and_two_orders_without_break_nothing(explored: tuple[Seen, ...]) -> None:
    for result in explored:
        assert (result.whole, result.story) == (True, None), summary(result)
    assert explored[0].states > 20_000, "the space shrank: is the cut still sound?"


def test_every_line_of_the_table_is_met_or_has_a_reason(explored: tuple[Seen, ...]) -> None:
    pairs: Counter[tuple[str, str]] = Counter()
    for result in explored:
        pairs += result.pairs
    assert {pair for pair in LIFE if not pairs[pair]} == {*UNMET, *MET_ELSEWHERE}


@pytest.mark.parametrize(
    ("line", "longest"),
    [
        ({(CANCELING, "filled"): CANCELED}, 8),  # a fill that overtakes a cancel ends the order as cancelled
        ({(UNKNOWN, "accepted"): CANCELED}, 4),  # an order found at the broker is given up, and bought again
        ({(CANCELED, "accepted"): ACCEPTED}, 8),  # old news brings an ended order back
    ],
)
def test_one_wrong_line_of_the_table_is_found_with_a_short_story(
    line: dict[tuple[str, str], str], longest: int
) -> None:
    with table(line):
        story = explore(Life(1, 0), 1).story
        assert story is not None
        assert len(story.steps) <= longest
        with pytest.raises(Broken) as error:
            play(story.rules, list(story.steps))
    assert str(error.value) == story.what


def test_fills_that_are_recorded_twice_are_found_with_a_short_story(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_news(order: Order, fill: OrderFilled) -> bool:
        return fill.cumulative_quantity >= order.filled  # a repeated report of the same total counts again

    monkeypatch.setattr("daemon.core.broker.fills.is_news", is_news)
    story = explore(Life(1, 0), 1).story
    assert story is not None
    assert "recorded twice" in story.what
    assert len(story.steps) <= 6
    assert str(story).splitlines()[1] == "  1. the post of 1-0-0 arrives"


def test_an_answer_that_is_lost_after_a_fill_ends_well() -> None:
    """The post's answer is lost, a look-up is too early, and the order has long been filled."""
    world = play(
        Life(1, 0),
        [
            "the post of 1-0-0 arrives, its answer is lost",
            "the desk hears its post's answer: 1-0-0 unknown",
            "all that is left of 1-0-0 fills",
            "1-0-0 is looked up, and not found yet",
            "the post of 1-0-0 arrives",
        ],
        settle=False,
    )
    assert world.state.orders["e1-pointer-1-0-0"].status != FILLED  # it was sent again under its name, and refused
    play(Life(1, 0), ["the post of 1-0-0 arrives", "one contract of 1-0-0 fills"])


def test_a_word_that_cannot_happen_is_named_with_those_that_can() -> None:
    with pytest.raises(LookupError, match="the post of 1-0-0 arrives"):
        play(Life(1, 0), ["pigs fly"])
