"""Alpaca's JSON against our structs. Expected values: the documented samples, lists and arithmetic by hand.

The documented words of events and statuses stand here as lists of their own; none may be without an outcome.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.brokers.alpaca import wire
from daemon.brokers.alpaca.trading import report
from daemon.brokers.alpaca.wire import Malformed
from daemon.core.events import (
    CancelRejected,
    OrderAccepted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderFound,
    OrderRejected,
    TradeCorrected,
)
from tests.support.alpaca.trade_updates import NAME, NOW, OCC, OURS, order, parse, update

ZERO = Decimal(0)

# Alpaca, Websocket Streaming and Order Lifecycle, and what clients saw besides
DOCUMENTED_EVENTS = [
    "accepted",
    "pending_new",
    "new",
    "partial_fill",
    "fill",
    "canceled",
    "expired",
    "done_for_day",
    "replaced",
    "rejected",
    "pending_cancel",
    "pending_replace",
    "order_cancel_rejected",
    "order_replace_rejected",
    "stopped",
    "calculated",
    "suspended",
    "restated",
    "held",
    "trade_bust",
    "trade_correct",
]
DOCUMENTED_STATUSES = [
    "new",
    "partially_filled",
    "filled",
    "done_for_day",
    "canceled",
    "expired",
    "replaced",
    "pending_cancel",
    "pending_replace",
    "pending_review",
    "accepted",
    "pending_new",
    "accepted_for_bidding",
    "stopped",
    "rejected",
    "suspended",
    "calculated",
    "held",
]


def test_every_documented_event_and_status_has_exactly_one_outcome() -> None:
    assert sorted(wire.EVENT_TABLE) == sorted(DOCUMENTED_EVENTS)
    assert sorted(wire.STATUS_TABLE) == sorted(DOCUMENTED_STATUSES)
    assert {"filled", "canceled", "expired", "rejected", "replaced"} == wire.ENDED


@pytest.mark.parametrize("event", DOCUMENTED_EVENTS)
def test_every_documented_event_of_ours_is_told_or_ignored_by_name(event: str) -> None:
    kinds = tuple(type(news) for news in parse(update(event)))
    expected: dict[str, tuple[type, ...]] = {
        "accepted": (OrderAccepted,),
        "pending_new": (OrderAccepted,),
        "new": (OrderAccepted,),
        "partial_fill": (OrderFilled,),
        "fill": (OrderFilled,),
        "canceled": (OrderFound, OrderCanceled),  # two of three were filled before
        "replaced": (OrderFound, OrderCanceled),
        "expired": (OrderFound, OrderExpired),
        "rejected": (OrderFound, OrderRejected),
        "order_cancel_rejected": (CancelRejected,),
        "trade_bust": (TradeCorrected,),
        "trade_correct": (TradeCorrected,),
        "stopped": (),
        "pending_cancel": (),
        "pending_replace": (),
        "order_replace_rejected": (),
    }
    assert kinds == expected.get(event, (OrderFound,))


def test_a_fill_is_told_with_the_orders_cumulative_figures() -> None:
    (fill,) = parse(update("partial_fill"))
    assert fill == OrderFilled(
        NOW,
        client_order_id=NAME,
        symbol=OCC,
        side=1,
        price=Decimal("1.06"),
        filled_ns=1_719_927_065_024_916_716,  # date -u -d '2024-07-02T13:31:05Z' +%s is 1719927065
        cumulative_quantity=2,
        cumulative_cost=Decimal("2.11"),  # 1.05 + 1.06
        cumulative_fees=Decimal(0),
        quantity=1,
    )


def test_an_end_without_fills_is_told_alone_and_one_by_replacement_names_its_successor() -> None:
    bare = order(filled_qty="0", filled_avg_price=None, status="canceled")
    assert parse(update("canceled", order=bare)) == (OrderCanceled(NOW, NAME),)
    replacement, end = parse(update("replaced", order=bare | {"status": "replaced", "replaced_by": "b-2"}))
    assert (replacement.order.replaced_by, end) == ("b-2", OrderCanceled(NOW, NAME))


def test_a_bust_is_told_with_what_stands_after_it() -> None:
    after = order(filled_qty="0", filled_avg_price=None, status="filled")
    (bust,) = parse(update("trade_bust", order=after))
    assert (bust.cumulative_quantity, bust.cumulative_cost, bust.reason) == (0, Decimal(0), "trade_bust")
    assert bust.execution_id == "2f63ea93-423d-4169-b3f6-3fdafc10c418"


def test_an_order_that_is_not_ours_is_told_as_found_whatever_happened_to_it() -> None:
    for event in DOCUMENTED_EVENTS:
        (foreign,) = parse(update(event, order=order(client_order_id="made-by-hand", status="filled")))
        assert foreign.order.client_order_id == "made-by-hand"
    assert not OURS("a1b2c3-option_scalper2-7-0-1")
    assert not OURS("")


def test_unknown_words_and_fields_come_through_as_found() -> None:
    odd = order(status="teleported", side="barter", asset_class="moon", future={"a": [1]}, legs=[{"id": None}])
    (foreign,) = parse(update("quantum_fill", order=odd, extra=1))
    assert isinstance(foreign, OrderFound)
    assert (foreign.order.status, foreign.order.side, foreign.order.filled) == ("teleported", 0, Decimal(2))


def test_the_parent_of_a_multi_leg_order_is_read_with_its_nulls() -> None:
    parent = order(client_order_id=None, symbol="", side=None, qty=None, limit_price=None, filled_qty=None, status=None)
    read = wire.order(parent)
    assert (read.client_order_id, read.symbol, read.side, read.quantity, read.limit_price) == ("", "", 0, ZERO, None)


def test_a_position_of_nothing_is_none() -> None:
    rows = [
        {"symbol": symbol, "qty": qty, "avg_entry_price": "1"} for symbol, qty in (("A", "0"), ("B", "0.0"), ("C", "2"))
    ]
    assert [position.symbol for position in wire.positions(rows)] == ["C"]


def test_an_order_that_filled_whole_is_over_while_its_settlement_is_calculated() -> None:
    for quantity, expected in (("3", "filled"), ("2", "calculated"), ("0", "calculated")):
        assert wire.order(order(status="calculated", filled_qty=quantity)).status == expected


@pytest.mark.parametrize(
    ("data", "key"),
    [
        (None, "data"),
        ([], "data"),
        ("fill", "data"),
        ({}, "event"),
        ({"event": 7}, "event"),
        ({"event": "fill"}, "order"),
        ({"event": "fill", "order": None}, "order"),
        (update("fill", order={}), "id"),
        (update("fill", order=order(id=None)), "id"),
        (update("fill", price=None), "price"),
        (update("fill", price="NaN"), "price"),
        (update("fill", qty="1e999999999999"), "qty"),
        (update("fill", qty="0.5"), "qty"),
        (update("fill", timestamp="yesterday"), "timestamp"),
        (update("fill", order=order(filled_avg_price=None)), "filled_avg_price"),
        (update("fill", order=order(filled_qty="Infinity")), "filled_qty"),
        (update("fill", order=order(filled_qty="1.5")), "filled_qty"),
        (update("fill", order=order(qty=True)), "qty"),
        (update("fill", order=order(qty=10**5000)), "qty"),
        (update("fill", order=order(qty={"APCA": 1})), "qty"),
        (update("new", order=order(submitted_at=12)), "submitted_at"),
    ],
)
def test_what_cannot_be_read_is_malformed_and_names_its_key(data: object, key: str) -> None:
    with pytest.raises(Malformed, match=f"^{key} is "):
        parse(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(order())), st.sampled_from(sorted(update("fill"))), JSON, JSON)
def test_hostile_values_never_raise_anything_but_malformed(key: str, outer: str, one: object, other: object) -> None:
    data = json.loads(json.dumps(update("fill", order=order(**{key: one})) | ({outer: other} if other else {})))
    try:
        parse(data)
        wire.position(data["order"])
        report.activity(data["order"])
    except Malformed:
        pass


# --- times and numbers --------------------------------------------------------------------------------------------


def test_offsets_and_nine_digits_are_one_moment() -> None:
    at = 1_719_927_060_123_456_789  # 2024-07-02 13:31:00 UTC
    assert wire.time_ns("2024-07-02T13:31:00.123456789Z") == at
    assert wire.time_ns("2024-07-02T09:31:00.123456789-04:00") == at
    assert wire.time_ns("2024-07-02T09:31:00.1234567891234-0400") == at
    assert wire.time_ns("1969-12-31T23:59:59.9Z") == -100_000_000


@given(st.integers(-60_000_000_000_000_000_000, 250_000_000_000_000_000_000))
def test_a_time_written_and_read_again_is_always_the_same(ns: int) -> None:
    text = wire.time_text(ns)
    assert wire.time_ns(text) == ns
    assert "." not in text or not text.endswith("0Z")


@given(st.datetimes(timezones=st.timezones()))
def test_times_of_any_offset_agree_with_the_standard_library(moment: datetime) -> None:
    offset = moment.utcoffset()
    if not 1900 < moment.year < 2200:
        return
    if offset is None or offset.total_seconds() % 60:
        return  # RFC 3339 has no seconds in offsets
    since = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    expected = ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000
    assert wire.time_ns(moment.isoformat()) == expected


@pytest.mark.parametrize("text", ["2024-02-30T00:00:00Z", "2024-07-02", "2024-07-02T09:31:00", "", "9" * 40])
def test_text_that_is_no_time_is_malformed(text: str) -> None:
    with pytest.raises(Malformed, match="timestamp is"):
        wire.time_ns(text)


def test_a_time_that_nobody_set_is_none_and_one_that_no_journal_can_hold_is_malformed() -> None:
    """Services in Go write an unset time as year 1; SQLite's integers end with 2262-04-11 in nanoseconds."""
    created = order()["created_at"]
    assert wire.order(order(submitted_at="0001-01-01T00:00:00Z")).submitted_ns == wire.time_ns(created)
    assert wire.order(order(submitted_at=None, created_at="0001-01-01T00:00:00Z")).submitted_ns == 0
    for odd in ("0001-01-01T00:00:00Z", "1969-12-31T23:59:59Z", "2262-04-12T00:00:00Z", "9999-12-31T23:59:59Z"):
        with pytest.raises(Malformed, match="timestamp is"):
            parse(update("fill", timestamp=odd))


def test_the_new_york_day_starts_at_its_own_midnight() -> None:
    assert wire.time_text(wire.day_start_ns(wire.time_ns("2024-07-02T03:59:59Z"))) == "2024-07-01T04:00:00Z"
    assert wire.time_text(wire.day_start_ns(wire.time_ns("2024-01-02T05:00:00Z"))) == "2024-01-02T05:00:00Z"


def test_the_cost_of_options_is_whole_cents_of_shares_a_hundredth_of_one_and_of_a_fraction_exact() -> None:
    assert wire.cost(OCC, Decimal(3), Decimal("1.333333")) == Decimal("4.00")  # 1.33 + 1.33 + 1.34
    assert wire.cost("SPY", Decimal(300), Decimal("545.123457")) == Decimal("163537.0371")
    assert wire.cost("SPY", Decimal("0.123456789"), Decimal("545.01")) == Decimal("67.28518457289")


# --- positions and the ledger -------------------------------------------------------------------------------------


def test_a_short_position_is_negative_however_the_broker_writes_it() -> None:
    raw = {"symbol": "SPY", "qty": "100", "qty_available": "60", "avg_entry_price": "545.1", "side": "short"}
    for quantity in ("100", "-100"):
        read = wire.position(raw | {"qty": quantity})
        assert (read.quantity, read.available, read.average_price) == (Decimal(-100), Decimal(-60), Decimal("545.1"))
    assert wire.position({"symbol": OCC, "qty": "2", "avg_entry_price": "1.05", "side": "long"}).available is None


@pytest.mark.parametrize("day", ["2024-07-02", "2024-07-02T00:00:00"])
def test_a_ledger_line_is_of_its_date_however_late_it_was_written(day: str) -> None:
    """Alpaca writes a day's fees a quarter past midnight UTC, and a split of the morning at noon."""
    for time in ("2024-07-02T16:00:00Z", "2024-07-03T00:17:05.448916Z"):
        row = {"id": "x", "activity_type": "SPLIT", "date": day, "created_at": time, "qty": "10"}
        assert wire.time_text(report.activity(row).time_ns) == "2024-07-02T04:00:00Z"
    assert wire.time_text(report.activity({**row, "date": None}).time_ns) == time


def test_a_ledger_line_of_a_kind_nobody_knows_is_read() -> None:
    line = report.activity(
        {
            "id": "20240702000000000::x",
            "activity_type": "NEWS",
            "date": "2024-07-02",
            "net_amount": "-0.07",
            "qty": None,
        }
    )
    assert (line.kind, line.amount, line.quantity, line.symbol) == ("NEWS", Decimal("-0.07"), ZERO, "")
    assert wire.time_text(line.time_ns) == "2024-07-02T04:00:00Z"


def fill_line(number: int, quantity: str, price: str, cumulative: str) -> report.LedgerFill:
    return report.ledger_fill(
        {
            "id": f"20240702093105000::{number}",
            "activity_type": "FILL",
            "transaction_time": "2024-07-02T13:31:05Z",
            "type": "partial_fill",
            "price": price,
            "qty": quantity,
            "side": "sell_short",
            "symbol": OCC,
            "leaves_qty": "0",
            "cum_qty": cumulative,
            "order_id": "o-1",
        }
    )


def test_fills_of_one_millisecond_are_ordered_by_their_cumulative_quantity_and_costs_add_up() -> None:
    lines = [fill_line(9, "2", "1.06", "5"), fill_line(3, "3", "1.05", "3"), fill_line(9, "2", "1.06", "5")]
    first, second = report.order_fills(lines, NAME, NOW)
    assert (first.cumulative_quantity, first.cumulative_cost, first.side) == (3, Decimal("3.15"), -1)
    assert (second.cumulative_quantity, second.cumulative_cost, second.quantity) == (5, Decimal("5.27"), 2)


def test_fills_with_one_missing_are_not_summed() -> None:
    with pytest.raises(Malformed, match="cum_qty of fill"):
        report.order_fills([fill_line(2, "2", "1.06", "5")], NAME, NOW)
