"""Streamed quotes as rows of minutes; the session is 2024-08-15, its open 13:30 UTC."""

from __future__ import annotations

import math

import pytest

from daemon.tapes.quotes.minute_book import MinuteBook, MinuteQuote, StreamQuote
from strategies.kit.units import MINUTE_NS, SECOND_NS

OPEN_NS = 1_723_728_600 * SECOND_NS
CALL, PUT = "SPY240816C00550000", "SPY240816P00550000"
UNKNOWN = (None,) * 4


def quote_at(second: float, bid: float, ask: float, sizes: tuple[int | None, int | None] = (3, 4)) -> StreamQuote:
    return StreamQuote(bid, ask, *sizes, OPEN_NS + int(second * SECOND_NS))


def end(minute: int) -> int:
    return OPEN_NS + minute * MINUTE_NS


@pytest.fixture
def book() -> MinuteBook:
    return MinuteBook(OPEN_NS)


def test_a_minute_has_its_last_quote_and_the_extremes_from_its_begin_on(book: MinuteBook) -> None:
    book.add(CALL, quote_at(10, 2.0, 2.1))
    assert book.close(end(1)) == [MinuteQuote(CALL, 2.0, 2.1, 3, 4, *UNKNOWN)]  # what stood at 9:30 is not known
    book.add(CALL, quote_at(70, 1.8, 2.3))
    book.add(CALL, quote_at(110, 1.9, 2.0, (5, None)))
    assert book.close(end(2)) == [MinuteQuote(CALL, 1.9, 2.0, 5, None, 1.8, 2.0, 2.0, 2.3)]  # 2.0 stood until 9:31:10
    assert book.close(end(3)) == [MinuteQuote(CALL, 1.9, 2.0, 5, None, 1.9, 1.9, 2.0, 2.0)]  # it stands


def test_a_quote_at_a_minutes_end_belongs_to_it_and_one_after_it_to_the_next(book: MinuteBook) -> None:
    book.add(CALL, quote_at(60, 2.0, 2.1))
    book.add(CALL, quote_at(60.000001, 3.0, 3.1))  # before the minute is closed
    assert [row.bid for row in book.close(end(1))] == [2.0]
    assert [row.bid for row in book.close(end(2))] == [3.0]


def test_after_a_gap_in_the_stream_nothing_stands(book: MinuteBook) -> None:
    book.add(CALL, quote_at(10, 2.0, 2.1))
    book.add(PUT, quote_at(10, 1.0, 1.1))
    book.close(end(1))
    book.interrupt()
    book.add(PUT, quote_at(100, 1.2, 1.3))
    assert book.close(end(2)) == [MinuteQuote(PUT, 1.2, 1.3, 3, 4, *UNKNOWN)]


def test_a_quote_stands_for_a_quarter_of_an_hour(book: MinuteBook) -> None:
    book.add(CALL, quote_at(60, 2.0, 2.1))
    standing = [len(book.close(end(minute))) for minute in range(1, 19)]
    assert standing == [1] * 16 + [0, 0]  # 16 minutes' ends are at most 15 minutes after 9:31
    book.add(CALL, quote_at(18 * 60 + 5, 2.5, 2.6))
    assert book.close(end(19)) == [MinuteQuote(CALL, 2.5, 2.6, 3, 4, *UNKNOWN)]


def test_what_is_no_longer_streamed_is_forgotten(book: MinuteBook) -> None:
    for symbol in (CALL, PUT):
        book.add(symbol, quote_at(10, 2.0, 2.1))
    book.close(end(1))
    book.add(PUT, quote_at(70, 2.0, 2.1))
    book.keep_only({CALL})
    assert [row.symbol for row in book.close(end(2))] == [CALL]


def test_what_no_market_quotes_and_what_is_late_or_far_ahead_is_dropped(book: MinuteBook) -> None:
    book.close(end(1))
    for quote in (
        quote_at(70, 2.2, 2.1), quote_at(70, math.nan, 2.1), quote_at(70, -1.0, 2.1), quote_at(70, 0, 0),
        quote_at(50, 2.0, 2.1), quote_at(300, 2.0, 2.1),
    ):  # fmt: skip
        book.add(CALL, quote)
    assert book.close(end(2)) == []
    assert book.counts == {"crossed": 1, "not_finite": 2, "empty": 1, "late": 1, "early": 1}
