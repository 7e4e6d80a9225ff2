"""History, snapshots and assets of shares on daily prices, read by the unchanged alpaca-py clients.

Expected values by hand from the rows of `share_days.py`, and from the documentation.
"""

from __future__ import annotations

import warnings
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from simulator.prices.corporate_actions import SpinOff
from simulator.server import AlpacaServer, RunningServer
from strategies.kit.units import SECOND_NS
from tests.support.simulator.lone_loop import clock_of_loop
from tests.support.simulator.share_days import DATES, SESSIONS, at, desks, history, shares
from tests.support.simulator.stream_clients import connected

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "websockets.legacy", DeprecationWarning)
    from alpaca.common.exceptions import APIError
    from alpaca.data.enums import Adjustment
    from alpaca.data.models import BarSet
    from alpaca.data.requests import StockBarsRequest, StockLatestQuoteRequest, StockSnapshotRequest
    from alpaca.data.timeframe import TimeFrame
    from alpaca.trading.enums import AssetStatus
    from alpaca.trading.models import Asset

START = datetime(2024, 6, 1, tzinfo=UTC)


def bars(
    server: RunningServer, *symbols: str, timeframe: TimeFrame = TimeFrame.Day, **fields: Any
) -> dict[str, list[Any]]:
    """The bars that the real client reads, by symbol."""
    request = StockBarsRequest(symbol_or_symbols=list(symbols), timeframe=timeframe, **{"start": START, **fields})
    with history(server) as client:
        answer = client.get_stock_bars(request)
    assert isinstance(answer, BarSet)
    return dict(answer.data)


def closes(server: RunningServer, symbol: str, adjustment: Adjustment) -> list[float]:
    """The closes of a share's whole history."""
    return [bar.close for bar in bars(server, symbol, adjustment=adjustment)[symbol]]


def test_daily_bars_are_those_of_the_source_labelled_by_midnight_in_new_york() -> None:
    with desks(at("2024-06-04", 18)) as (server, _):
        first, second = bars(server, "AAA")["AAA"]
    assert (first.open, first.high, first.low, first.close, first.volume) == (100, 104, 99, 102, 390_000)
    assert first.timestamp == datetime(2024, 6, 3, 4, tzinfo=UTC)
    assert second.close == 104


def test_the_running_day_has_a_bar_that_grows_from_its_first_minute_on() -> None:
    with desks(at("2024-06-03", 9, 30)) as (server, _):
        assert bars(server, "AAA") == {}
        server.jump_to(at("2024-06-03", 9, 31) + 2 * SECOND_NS)
        (opening,) = bars(server, "AAA")["AAA"]
        server.jump_to(at("2024-06-03", 16) + 2 * SECOND_NS)
        (whole,) = bars(server, "AAA")["AAA"]
    assert (opening.open, opening.volume) == (100, 1000)
    assert opening.high < 104
    assert (whole.open, whole.high, whole.low, whole.close, whole.volume) == (100, 104, 99, 102, 390_000)


def test_history_before_a_split_changes_on_the_morning_of_its_date_and_not_before() -> None:
    with desks(at("2024-06-05", 4) - SECOND_NS) as (server, _):
        assert closes(server, "AAA", Adjustment.ALL) == [102, 104]
        server.jump_to(at("2024-06-05", 4))
        assert closes(server, "AAA", Adjustment.ALL) == [51, 52]
        assert closes(server, "AAA", Adjustment.SPLIT) == [51, 52]
        assert closes(server, "AAA", Adjustment.RAW) == closes(server, "AAA", Adjustment.DIVIDEND) == [102, 104]
        assert [bar.volume for bar in bars(server, "AAA", adjustment=Adjustment.ALL)["AAA"]] == [780_000, 780_000]


def test_a_spin_off_takes_its_part_of_all_earlier_prices_where_it_is_asked_for() -> None:
    market = shares(spin_offs=[SpinOff("BBB", "2024-06-05", "KID", Decimal(1), part=0.1)], dividends=())
    with desks(at("2024-06-05", 4), market=market) as (server, _):
        assert closes(server, "BBB", Adjustment.ALL) == [45, 45]
        assert closes(server, "BBB", Adjustment.SPLIT) == closes(server, "BBB", Adjustment.RAW) == [50, 50]


def test_a_dividend_takes_its_part_of_the_close_before_from_all_earlier_prices() -> None:
    with desks(at("2024-06-06", 18)) as (server, _):
        assert closes(server, "BBB", Adjustment.RAW) == [50, 50, 50, 49]
        assert closes(server, "BBB", Adjustment.SPLIT) == [50, 50, 50, 49]
        assert closes(server, "BBB", Adjustment.DIVIDEND) == [49, 49, 49, 49]  # 50 x (1 - 1 / 50)
        minute = {"timeframe": TimeFrame.Minute, "adjustment": Adjustment.ALL, "limit": 1}
        assert bars(server, "BBB", **minute)["BBB"][0].open == 49


def test_minute_bars_of_a_session_put_together_are_its_daily_bar() -> None:
    with desks(at("2024-06-04", 18)) as (server, _):
        end = datetime(2024, 6, 4, tzinfo=UTC)
        minutes = bars(server, "AAA", timeframe=TimeFrame.Minute, end=end)["AAA"]
    assert len(minutes) == 390
    assert (minutes[0].open, minutes[-1].close) == (100, 102)
    assert (max(bar.high for bar in minutes), min(bar.low for bar in minutes)) == (104, 99)


def test_a_day_without_a_trade_has_no_bar() -> None:
    with desks(at("2024-06-10", 18)) as (server, _):
        by_symbol = bars(server, "CCC", "AAA")
    assert [bar.timestamp.date().isoformat() for bar in by_symbol["CCC"]] == [*DATES[:3], "2024-06-07"]
    assert len(by_symbol["AAA"]) == 6


def test_a_daily_bar_that_comes_late_is_missing_until_then() -> None:
    with desks(at("2024-06-04", 18)) as (server, _):
        where = {"symbol": "AAA", "date": "2024-06-04"}
        server.faults.add("day_bar_missing", until_ns=at("2024-06-04", 19), where=where)
        by_symbol = bars(server, "AAA", "BBB")
        assert (len(by_symbol["AAA"]), len(by_symbol["BBB"])) == (1, 2)
        server.jump_to(at("2024-06-04", 19))
        assert len(bars(server, "AAA")["AAA"]) == 2


def test_a_new_name_has_the_whole_history_and_the_old_one_none_unless_asked_as_of_then() -> None:
    with desks(at("2024-06-05", 18)) as (server, _):
        assert len(bars(server, "OLD", "NEW")["OLD"]) == 3
        server.jump_to(at("2024-06-06", 18))
        by_symbol = bars(server, "OLD", "NEW")
        assert list(by_symbol) == ["NEW"]
        assert len(by_symbol["NEW"]) == 4
        assert len(bars(server, "OLD", asof="2024-06-05")["OLD"]) == 4  # asof names the share, not the time


def test_pages_run_over_symbols_in_order_and_count_all_points() -> None:
    with desks(at("2024-06-07", 18)) as (server, _), history(server) as client:
        query: dict[str, Any] = {"symbols": "NEW,AAA,BBB", "timeframe": "1Day", "start": "2024-06-01", "limit": 4}
        keys: list[tuple[str, str]] = []
        pages = 0
        while pages == 0 or query["page_token"] is not None:
            page = client.get("/stocks/bars", query)
            assert isinstance(page, dict)
            keys += [(symbol, bar["t"]) for symbol, rows in page["bars"].items() for bar in rows]
            query["page_token"] = page["next_page_token"]
            pages += 1
    assert pages == 4  # 15 points
    assert keys == sorted(keys)
    assert [symbol for symbol, _ in keys] == ["AAA"] * 5 + ["BBB"] * 5 + ["NEW"] * 5


def test_an_unknown_adjustment_is_a_bad_request() -> None:
    with desks(at("2024-06-07", 18)) as (server, _), history(server) as client, pytest.raises(APIError) as raised:
        client.get("/stocks/bars", {"symbols": "AAA", "timeframe": "1Day", "adjustment": "both"})
    assert raised.value.status_code == 400


def test_a_snapshot_has_the_running_day_the_day_before_and_the_quote() -> None:
    with desks(at("2024-06-04", 15, 50)) as (server, _), history(server) as client:
        snapshots = client.get_stock_snapshot(StockSnapshotRequest(symbol_or_symbols=["AAA", "CCC", "NEW"]))
        assert set(snapshots) == {"AAA", "CCC"}
        snapshot: Any = snapshots["AAA"]
        assert (snapshot.daily_bar.open, snapshot.previous_daily_bar.close) == (102, 102)
        assert snapshot.daily_bar.timestamp == datetime(2024, 6, 4, 4, tzinfo=UTC)
        assert snapshot.minute_bar.timestamp == datetime(2024, 6, 4, 19, 48, tzinfo=UTC)
        assert snapshot.latest_quote.ask_price - snapshot.latest_quote.bid_price == pytest.approx(0.01)
        assert snapshot.latest_trade.price == snapshot.latest_quote.bid_price


def test_a_halted_share_has_the_snapshot_of_its_last_day() -> None:
    with desks(at("2024-06-06", 15, 50)) as (server, _), history(server) as client:
        snapshot: Any = client.get_stock_snapshot(StockSnapshotRequest(symbol_or_symbols="CCC"))["CCC"]
        assert snapshot.daily_bar.timestamp == datetime(2024, 6, 5, 4, tzinfo=UTC)
        assert snapshot.previous_daily_bar.timestamp == datetime(2024, 6, 4, 4, tzinfo=UTC)
        assert snapshot.latest_quote.timestamp < datetime(2024, 6, 5, 20, tzinfo=UTC)


def test_quotes_of_many_shares_come_in_one_answer() -> None:
    with desks(at("2024-06-03", 16)) as (server, _), history(server) as client:
        quotes = client.get_stock_latest_quote(StockLatestQuoteRequest(symbol_or_symbols=["AAA", "BBB", "CCC"]))
        assert {symbol: quote.bid_price for symbol, quote in quotes.items()} == {"AAA": 102, "BBB": 50, "CCC": 10}


def test_assets_that_are_halted_delisted_or_renamed_are_inactive() -> None:
    def state(symbol: str) -> tuple[AssetStatus, bool]:
        asset = client.get_asset(symbol)
        assert isinstance(asset, Asset)
        return asset.status, asset.tradable

    with desks(at("2024-06-05", 12)) as (server, (client, *_)):
        active, inactive = (AssetStatus.ACTIVE, True), (AssetStatus.INACTIVE, False)
        assert state("CCC") == state("OLD") == active
        assert state("NEW") == inactive
        server.jump_to(at("2024-06-06", 12))
        assert state("CCC") == state("OLD") == inactive
        assert state("NEW") == active
        server.jump_to(at("2024-06-07", 12))
        assert state("CCC") == active
        server.jump_to(at("2024-06-10", 12))
        assert state("CCC") == inactive


async def bars_of_the_stream() -> list[dict[str, Any]]:
    """What a subscriber hears of bars in the first minute of the second session."""
    clock = clock_of_loop(SESSIONS[1].open_ns - 2 * SECOND_NS, 240.0)
    async with AlpacaServer(shares(), clock) as server, connected(server.stream_url) as socket:
        await socket.hear()
        await socket.log_in()
        await socket.ask({"action": "subscribe", "bars": ["AAA"], "dailyBars": ["AAA"]})
        rows: list[dict[str, Any]] = await socket.hear()
        return rows


async def test_the_stock_stream_has_minute_and_daily_bars_of_shares() -> None:
    minute, daily = await bars_of_the_stream()
    assert (minute["T"], minute["S"], minute["o"]) == ("b", "AAA", 102.0)
    assert (daily["T"], daily["S"], daily["o"]) == ("d", "AAA", 102.0)
    assert (minute["t"], daily["t"]) == ("2024-06-04T13:30:00Z", "2024-06-04T04:00:00Z")
