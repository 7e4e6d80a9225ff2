"""The order's life against the broker's documented events: terminal states absorb, only a fill wins over them.

`DOCUMENTED` lists Alpaca's trade events and order statuses as its documentation names them, with the word of ours
that each becomes; None means that it leaves open where our day order stands.
"""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.orders import (
    ACCEPTED,
    BROKER_STATUS,
    CANCELED,
    CANCELING,
    EXPIRED,
    FILLED,
    LIFE,
    PARTIAL,
    REJECTED,
    SUBMITTED,
    TERMINAL,
    UNKNOWN,
    Order,
    advance,
    client_order_id,
)

STATUSES = (SUBMITTED, UNKNOWN, ACCEPTED, PARTIAL, CANCELING, FILLED, CANCELED, REJECTED, EXPIRED)
WORDS = (
    "accepted", "rejected", "canceled", "expired", "unknown", "cancel_requested", "cancel_rejected",
    "partial", "filled", "missing", "sent_again", "pending_cancel",
)  # fmt: skip

DOCUMENTED: dict[str, tuple[str | None, str | None]] = {
    # event: (our word, the status that it leaves an accepted order in, None for unchanged)
    "accepted": ("accepted", None),
    "pending_new": ("accepted", None),
    "new": ("accepted", None),
    "partial_fill": ("partial", PARTIAL),
    "fill": ("filled", FILLED),
    "canceled": ("canceled", CANCELED),
    "expired": ("expired", EXPIRED),
    "done_for_day": (None, None),  # no more updates until the next trading day: Alpaca names it among no ends
    "replaced": ("canceled", CANCELED),  # we replace nothing: another order would stand under an id not ours
    "rejected": ("rejected", REJECTED),
    "order_cancel_rejected": ("cancel_rejected", None),
    "pending_cancel": ("pending_cancel", CANCELING),
    "pending_replace": (None, None),
    "order_replace_rejected": (None, None),
    "stopped": (None, None),
    "calculated": (None, None),
    "suspended": (None, None),
    "restated": (None, None),
    "held": (None, None),
}


STATUS_DOCUMENTED = {
    # what Alpaca says that an order is: what our accepted order then is
    "new": ACCEPTED, "accepted": ACCEPTED, "pending_new": ACCEPTED, "accepted_for_bidding": ACCEPTED,
    "pending_review": ACCEPTED, "held": ACCEPTED, "stopped": ACCEPTED, "suspended": ACCEPTED, "calculated": ACCEPTED,
    "partially_filled": ACCEPTED, "pending_replace": ACCEPTED, "pending_cancel": CANCELING, "filled": FILLED,
    "canceled": CANCELED, "replaced": CANCELED, "done_for_day": ACCEPTED, "expired": EXPIRED, "rejected": REJECTED,
}  # fmt: skip


def order(status: str, filled: int = 0) -> Order:
    return Order("o1", "1.0", "entry", "policy", "X", 1, 10, Decimal(2), status, 0, filled)


@pytest.mark.parametrize("event", DOCUMENTED)
def test_each_documented_event_leaves_an_accepted_order_where_the_broker_says(event: str) -> None:
    word, expected = DOCUMENTED[event]
    next_order = order(ACCEPTED) if word is None else advance(order(ACCEPTED), word)
    assert next_order.status == (expected or ACCEPTED)


def test_each_documented_status_has_one_word_and_leaves_an_accepted_order_where_the_broker_says() -> None:
    assert {status: advance(order(ACCEPTED), word).status for status, word in BROKER_STATUS.items()} == (
        STATUS_DOCUMENTED
    )


@pytest.mark.parametrize("status", sorted(TERMINAL))
@pytest.mark.parametrize("word", WORDS)
def test_a_terminal_status_absorbs_everything_and_only_a_fill_wins(status: str, word: str) -> None:
    expected = FILLED if word == "filled" else status
    assert advance(order(status), word).status == expected


@pytest.mark.parametrize("status", [s for s in STATUSES if s not in TERMINAL])
@pytest.mark.parametrize(
    ("word", "end"), [("filled", FILLED), ("canceled", CANCELED), ("expired", EXPIRED), ("rejected", REJECTED)]
)
def test_every_working_order_can_be_ended_by_the_broker(status: str, word: str, end: str) -> None:
    assert advance(order(status), word).status == end


def test_the_table_knows_only_our_words_and_statuses_and_no_entry_stands_still_for_nothing() -> None:
    assert {status for status, _ in LIFE} | set(LIFE.values()) == set(STATUSES)
    assert {word for _, word in LIFE} == set(WORDS)
    still = {(status, word) for (status, word), after in LIFE.items() if status == after}
    assert {word for _, word in still} == {"partial"}


@pytest.mark.parametrize(
    ("status", "word", "after"),
    [
        (SUBMITTED, "partial", PARTIAL),  # a fill before the acceptance
        (SUBMITTED, "unknown", UNKNOWN),
        (ACCEPTED, "unknown", ACCEPTED),  # what the broker accepted is known
        (FILLED, "unknown", FILLED),
        (PARTIAL, "accepted", PARTIAL),  # the acceptance comes after its fill
        (UNKNOWN, "accepted", ACCEPTED),
        (UNKNOWN, "cancel_requested", UNKNOWN),  # nothing to cancel before the broker knows it
        (SUBMITTED, "cancel_requested", CANCELING),
        (CANCELING, "accepted", CANCELING),
        (CANCELING, "partial", CANCELING),
        (CANCELING, "cancel_rejected", ACCEPTED),
        (ACCEPTED, "cancel_rejected", ACCEPTED),
        (SUBMITTED, "missing", UNKNOWN),  # it never arrived, as far as the broker knows
        (UNKNOWN, "missing", UNKNOWN),
        (ACCEPTED, "missing", ACCEPTED),  # what the broker knew once cannot be sent again
        (UNKNOWN, "sent_again", SUBMITTED),
        (CANCELED, "sent_again", CANCELED),
        (FILLED, "pending_cancel", FILLED),
    ],
)
def test_news_out_of_order_never_turns_an_order_back(status: str, word: str, after: str) -> None:
    assert advance(order(status), word).status == after


@given(st.sampled_from(STATUSES), st.lists(st.sampled_from(WORDS), max_size=12))
def test_an_order_never_comes_back_to_work(status: str, words: list[str]) -> None:
    current_order, is_over = order(status), status in TERMINAL
    for word in words:
        current_order = advance(current_order, word)
        assert not (is_over and current_order.working)
        is_over = not current_order.working


def test_only_a_working_order_has_something_left_to_fill() -> None:
    assert (order(PARTIAL, 4).remaining, order(CANCELED, 4).remaining) == (6, 0)
    assert order(UNKNOWN).remaining == 10


def test_an_id_names_epoch_strategy_decision_leg_and_attempt_within_the_broker_s_128_characters() -> None:
    longest = client_order_id("f" * 32, "option_scalper", 10**9, 1, 99)
    assert longest == "f" * 32 + "-option_scalper-1000000000-1-99"
    assert len(longest) <= 128
    parts = [(1, 0, 0), (1, 0, 1), (1, 1, 0), (2, 0, 0), (11, 0, 0), (1, 10, 0), (1, 1, 10)]
    assert len({client_order_id("e", "s", *part) for part in parts}) == len(parts)
