"""What the stock and option messages mean: parsed bars, refusals, statuses and conflated quotes.

Messages are those of Alpaca's documentation or written by hand; expected values are read off them.
"""

from __future__ import annotations

import asyncio
import math
from decimal import Decimal
from typing import Any

import msgpack
import pytest

from daemon.brokers.alpaca.market.feed import QuoteBook
from daemon.brokers.alpaca.market.socket import Endpoint, StockStream, TradingStatus, instant_ns, read_bar, read_status
from daemon.core.events import BarRejected, Quote
from daemon.host.time.calendar import SessionCalendar
from strategies.kit.contract import Bar, Session
from tests.support.alpaca.stream_server import KEY, QUICK, SECRET, SOON, StreamServer, until

MINUTE = 60_000_000_000
SECOND_NS = 1_000_000_000
OPEN = 1_614_004_200_000_000_000  # 2021-02-22 09:30 New York, 14:30 UTC
SESSION = Session("2021-02-22", OPEN, OPEN + 390 * MINUTE)
START = 1_614_021_300_000_000_000  # 2021-02-22T19:15:00Z
CALL = "SPY240816C00530000"


def raw_bar(**changes: Any) -> dict[str, Any]:
    """The documented minute bar of SPY, 2021-02-22T19:15:00Z."""
    message = {"T": "b", "S": "SPY", "o": 388.985, "h": 389.13, "l": 388.975, "c": 389.12, "v": 49378, "n": 461}
    return {**message, "vw": 389.062639, "t": msgpack.Timestamp.from_unix_nano(START), **changes}


def read(message: dict[str, Any]) -> Bar | BarRejected:
    return read_bar(message, "SPY", SESSION, 60, 7)


def test_the_documented_bar_is_read() -> None:
    assert read(raw_bar()) == Bar("SPY", START, 388.985, 389.13, 388.975, 389.12, 49378.0)


def test_a_bar_of_rest_has_a_text_as_time_and_no_symbol() -> None:
    message = raw_bar(t="2021-02-22T19:15:00Z")
    del message["S"]
    assert read(message) == Bar("SPY", START, 388.985, 389.13, 388.975, 389.12, 49378.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"c": math.nan}, "not_finite"),
        ({"h": math.inf}, "not_finite"),
        ({"c": 10**400}, "not_finite"),
        ({"o": None}, "not_finite"),
        ({"v": "49378"}, "not_finite"),
        ({"l": 0.0}, "not_positive"),
        ({"l": 389.5}, "high_below_low"),
        ({"c": 389.14}, "high_below_low"),
        ({"o": 388.0}, "high_below_low"),
        ({"v": -1}, "negative_volume"),
        ({"t": msgpack.Timestamp.from_unix_nano(START + 1)}, "off_grid"),
        ({"S": "QQQ"}, "wrong_symbol"),
    ],
)
def test_a_bad_bar_is_refused_with_its_reason(changes: dict[str, Any], reason: str) -> None:
    event = read(raw_bar(**changes))
    assert isinstance(event, BarRejected)
    assert event.reason == reason
    assert event.time_ns == 7


@pytest.mark.parametrize("key", ["t", "o", "c", "v"])
def test_a_bar_without_a_field_is_unreadable(key: str) -> None:
    message = raw_bar()
    del message[key]
    with pytest.raises(KeyError):
        read(message)


@pytest.mark.parametrize("value", [None, 5, "yesterday", "2021-02-22T19:15:00"])
def test_a_time_without_an_instant_is_unreadable(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        instant_ns(value)


def test_times_keep_nine_digits_in_both_codecs() -> None:
    assert instant_ns("2024-03-11T13:35:35.13312256Z") == 1_710_164_135_133_122_560
    assert instant_ns(msgpack.Timestamp.from_unix_nano(1_710_164_135_133_122_561)) == 1_710_164_135_133_122_561


@pytest.mark.parametrize(
    ("code", "halted"), [("H", True), ("P", True), ("2", True), ("T", False), ("3", False), ("Q", None)]
)
def test_a_status_says_whether_trading_is_halted(code: str, halted: bool | None) -> None:
    message = {"T": "s", "S": "AAPL", "sc": code, "sm": "Trading Halt", "rc": "T12", "rm": "Trading Halted; ..."}
    assert read_status(message) == TradingStatus("AAPL", code, "Trading Halt", "T12 Trading Halted; ...", halted)


async def test_the_stream_gives_bars_updates_and_statuses_of_regular_hours_and_survives_the_rest() -> None:
    calls: list[object] = []
    later = Session("2021-02-23", SESSION.open_ns + 1440 * MINUTE, SESSION.close_ns + 1440 * MINUTE)
    async with StreamServer() as server:
        stream = StockStream(
            Endpoint(server.url, KEY, SECRET, QUICK, SOON),
            ("SPY",),
            60,
            calendar=SessionCalendar((SESSION, later)),
            now_ns=lambda: 7,
            on_bar=lambda bar, session: calls.append((bar.start_ns, bar.volume, session.date)),
            on_rejected=lambda rejected: calls.append(rejected.reason),
            on_status=lambda status: calls.append(status.halted),
            on_state=lambda _state: None,
            log=lambda _name, /, **_fields: None,
        )
        running = asyncio.create_task(stream.socket.run())
        await until(lambda: stream.socket.up)
        assert server.subscribed == {("bars", "SPY"), ("updatedBars", "SPY"), ("statuses", "SPY")}
        evening = msgpack.Timestamp.from_unix_nano(SESSION.close_ns)
        ages_ago = msgpack.Timestamp(5)
        await server.send(
            raw_bar(),
            raw_bar(t=evening),
            raw_bar(t=ages_ago),
            raw_bar(T="u", v=50_000),
            {"T": "d", "S": "SPY"},
            {"T": "brand new", "S": "SPY"},
            raw_bar(h=1.0),
            {"T": "s", "S": "SPY", "sc": "H", "sm": "Trading Halt"},
        )
        await until(lambda: True in calls)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    day = SESSION.date
    assert calls == [(START, 49378.0, day), (START, 50_000.0, day), "high_below_low", True]
    assert stream.socket.counts["bad"] == 1  # the bar of another age


# --- quotes -------------------------------------------------------------------------------------------------------


def test_a_quote_is_whole_cents_and_its_range_is_its_mid() -> None:
    book = QuoteBook()
    assert book.add(CALL, 9.46, 9.66, 5) == ""
    assert book.take() == (Quote(CALL, Decimal("9.46"), Decimal("9.66"), Decimal("9.56"), Decimal("9.56"), 5),)


def test_the_range_spans_the_mids_since_the_last_one_given() -> None:
    book = QuoteBook()
    for ns, (bid, ask) in enumerate([(1.0, 1.2), (0.5, 0.7), (2.0, 2.2), (1.5, 1.7)], start=1):
        book.add(CALL, bid, ask, ns)
    (quote,) = book.take()
    assert (quote.low, quote.high, quote.bid, quote.quoted_ns) == (Decimal("0.60"), Decimal("2.10"), Decimal("1.50"), 4)
    (again,) = book.take()
    assert (again.low, again.high) == (Decimal("1.60"), Decimal("1.60"))
    book.add(CALL, 1.7, 1.9, 5)
    assert (book.take()[0].low, book.take()[0].high) == (Decimal("1.60"), Decimal("1.80"))


@pytest.mark.parametrize(
    ("bid", "ask", "reason"),
    [
        (0, 0, "empty"),
        (1.2, 1.1, "crossed"),
        (-0.1, 1.0, "negative"),
        (1.0, -1.0, "negative"),
        (math.nan, 1.0, "not_finite"),
        (1.0, math.inf, "not_finite"),
        (None, 1.0, "not_finite"),
        ("1.0", 1.1, "not_finite"),
        (True, 1.1, "not_finite"),
        (1.0, 1e300, "not_finite"),
    ],
)
def test_a_bad_quote_is_dropped_and_counted(bid: object, ask: object, reason: str) -> None:
    book = QuoteBook()
    book.add(CALL, 1.0, 1.1, 1)
    assert book.add(CALL, bid, ask, 2) == reason
    assert book.counts == {reason: 1}
    assert book.take()[0].quoted_ns == 1


def test_a_locked_or_one_sided_quote_is_kept() -> None:
    book = QuoteBook()
    assert book.add("A", 1.0, 1.0, 1) == ""
    assert book.add("B", 0, 0.05, 1) == ""
    assert book.add("C", 1.0, 0.0, 1) == ""
    assert [(str(q.bid), str(q.ask)) for q in book.take()] == [("1.00", "1.00"), ("0.00", "0.05"), ("1.00", "0.00")]


def test_an_older_quote_never_replaces_a_newer_one() -> None:
    book = QuoteBook()
    book.add(CALL, 1.0, 1.1, 10)
    assert book.add(CALL, 2.0, 2.1, 9) == "older"
    assert book.take()[0].bid == Decimal("1.00")


@pytest.mark.parametrize("ahead_ns", [2 * SECOND_NS + 1, 59 * SECOND_NS, 2 * MINUTE])
def test_a_quote_from_the_future_is_dropped_and_those_after_it_count(ahead_ns: int) -> None:
    book = QuoteBook(lambda: START)
    assert book.add(CALL, 1.0, 1.1, START + ahead_ns) == "early"
    assert book.add(CALL, 2.0, 2.1, START) == ""
    assert [(quote.bid, quote.quoted_ns) for quote in book.take()] == [(Decimal("2.00"), START)]


def test_only_what_was_quoted_since_it_was_given_is_news() -> None:
    book = QuoteBook()
    book.add("A", 1.0, 1.1, 1)
    book.add("B", 1.0, 1.1, 1)
    assert book.news({"A", "C"}) == {"A"}
    book.take({"A"})
    assert book.news({"A", "B"}) == {"B"}


def test_contracts_that_are_no_longer_watched_are_forgotten() -> None:
    book = QuoteBook()
    book.add("A", 1.0, 1.1, 1)
    book.add("B", 1.0, 1.1, 1)
    book.keep_only({"B"})
    assert [quote.symbol for quote in book.take()] == ["B"]
    assert "A" not in book
