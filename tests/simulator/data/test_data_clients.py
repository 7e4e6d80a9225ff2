"""History, quotes, chain, contracts, clock and calendar of the loopback Alpaca, asked by the unchanged alpaca-py.

Expected values: the tape that this file writes, hand calculation, put-call parity, the documented protocol. The clock
stands still, so that each answer is of one moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.clock import SimClock
from simulator.prices.market import NEVER_NS, Market
from simulator.prices.tape import price_path
from simulator.server import AlpacaServer
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET
from strategies.kit.contract import Bar, Session
from tests.support.paths import REPOSITORY

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "websockets.legacy", DeprecationWarning)
    from alpaca.common.exceptions import APIError
    from alpaca.data.historical import OptionHistoricalDataClient, StockHistoricalDataClient
    from alpaca.data.requests import (
        OptionChainRequest,
        OptionLatestQuoteRequest,
        OptionSnapshotRequest,
        StockBarsRequest,
        StockLatestBarRequest,
        StockLatestQuoteRequest,
        StockLatestTradeRequest,
        StockSnapshotRequest,
    )
    from alpaca.data.timeframe import TimeFrame, TimeFrameUnit
    from alpaca.trading.client import TradingClient
    from alpaca.trading.requests import GetCalendarRequest, GetOptionContractsRequest

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
OPEN_NS = 1_719_927_000 * SECOND_NS  # 2024-07-02 13:30 UTC
DAY_NS = 1440 * MINUTE_NS
SESSIONS = [
    Session("2024-07-02", OPEN_NS, OPEN_NS + 390 * MINUTE_NS),
    Session("2024-07-03", OPEN_NS + DAY_NS, OPEN_NS + DAY_NS + 210 * MINUTE_NS),  # a half day, then a holiday
    Session("2024-07-05", OPEN_NS + 3 * DAY_NS, OPEN_NS + 3 * DAY_NS + 390 * MINUTE_NS),
    Session("2024-07-08", OPEN_NS + 6 * DAY_NS, OPEN_NS + 6 * DAY_NS + 390 * MINUTE_NS),
]
NOON_NS = OPEN_NS + DAY_NS + 150 * MINUTE_NS  # 2024-07-03 12:00 New York
OPEN_AT = datetime(2024, 7, 2, 13, 30, tzinfo=UTC)


def tape() -> list[Bar]:
    """All minutes of the first two sessions: SPY at 545.00 plus a cent a minute, QQQ at 480.00 minus a cent."""
    bars = []
    for session, count in zip(SESSIONS[:2], (390, 210), strict=True):
        for minute in range(count):
            start_ns = session.open_ns + minute * MINUTE_NS
            for symbol, first, step in (("SPY", 54_500, 1), ("QQQ", 48_000, -1)):
                cents = first + step * minute
                low, high, close = (round((cents + more) / 100, 2) for more in (-5, 5, step))
                bars.append(Bar(symbol, start_ns, cents / 100, high, low, close, 1000 + minute))
    return bars


MARKET = Market.from_bars(tape(), sessions=SESSIONS)


@contextlib.asynccontextmanager
async def at(now_ns: int) -> AsyncIterator[AlpacaServer]:
    """The server at a moment that does not pass."""
    async with AlpacaServer(MARKET, SimClock.starting_now(now_ns, 1e-9)) as server:
        yield server


class Clients:
    """alpaca-py's three clients; each call runs in a thread, because they block."""

    def __init__(self, server: AlpacaServer, *, raw: bool = False) -> None:
        keys = (DEFAULT_KEY, DEFAULT_SECRET)
        self.stock = StockHistoricalDataClient(*keys, raw_data=raw, url_override=server.data_url)
        self.option = OptionHistoricalDataClient(*keys, raw_data=raw, url_override=server.data_url)
        self.trading = TradingClient(*keys, raw_data=raw, url_override=server.trading_url)

    async def ask(self, client: Any, method: str, *arguments: Any) -> Any:
        return await asyncio.to_thread(getattr(client, method), *arguments)


def bars_request(frame: Any, symbols: Any = "SPY", **more: Any) -> StockBarsRequest:
    return StockBarsRequest(symbol_or_symbols=symbols, timeframe=frame, **{"start": OPEN_AT, **more})


# --- history ------------------------------------------------------------------------------------------------------


async def test_minutes_come_with_their_start_from_start_to_end_inclusive() -> None:
    async with at(NOON_NS) as server:
        clients = Clients(server)
        request = bars_request(TimeFrame.Minute, end=OPEN_AT + timedelta(minutes=2))
        answer = await clients.ask(clients.stock, "get_stock_bars", request)
    assert [bar.timestamp for bar in answer["SPY"]] == [OPEN_AT + timedelta(minutes=m) for m in range(3)]
    last = answer["SPY"][2]
    assert (last.open, last.high, last.low, last.close, last.volume) == (545.02, 545.07, 544.97, 545.03, 1002)


@pytest.mark.parametrize(("after_end_ms", "count"), [(999, 0), (1000, 1)])
async def test_a_bar_is_known_one_second_after_its_end(after_end_ms: int, count: int) -> None:
    async with at(OPEN_NS + MINUTE_NS + after_end_ms * 1_000_000) as server:
        clients = Clients(server)
        answer = await clients.ask(clients.stock, "get_stock_bars", bars_request(TimeFrame.Minute))
    assert len(answer.data.get("SPY", [])) == count


async def test_pages_fill_symbol_by_symbol_and_join_to_the_whole() -> None:
    async with at(NOON_NS) as server:
        clients = Clients(server, raw=True)
        query = {"symbols": "SPY,QQQ", "timeframe": "1Min", "start": OPEN_AT.isoformat(), "limit": 300}
        first = await clients.ask(clients.stock, "get", "/stocks/bars", query)
        request = bars_request(TimeFrame.Minute, ["SPY", "QQQ"])
        whole = await clients.ask(clients.stock, "get_stock_bars", request)
        params = {key: value for key, value in query.items() if key != "limit"}
        paged = await clients.ask(clients.stock, "_get_marketdata", "/stocks/bars", params, 100, 100)
    assert list(first["bars"]) == ["QQQ"]
    assert len(first["bars"]["QQQ"]) == 300
    assert first["next_page_token"]
    assert paged == whole
    assert {symbol: len(rows) for symbol, rows in paged.items()} == {"QQQ": 390 + 149, "SPY": 390 + 149}  # 12:00:00
    assert paged["SPY"][0]["t"] == "2024-07-02T13:30:00Z"


async def test_wider_bars_join_their_minutes_and_a_day_is_stamped_midnight_new_york() -> None:
    async with at(NOON_NS) as server:
        clients = Clients(server)
        fives = await clients.ask(
            clients.stock, "get_stock_bars", bars_request(TimeFrame(5, TimeFrameUnit("Min")), limit=1)
        )
        midnight = datetime(2024, 7, 2, 4, tzinfo=UTC)
        days = await clients.ask(clients.stock, "get_stock_bars", bars_request(TimeFrame.Day, start=midnight))
    (five,) = fives["SPY"]
    assert (five.open, five.high, five.low, five.close) == (545.00, 545.09, 544.95, 545.05)
    assert five.volume == 1000 + 1001 + 1002 + 1003 + 1004
    first = days["SPY"][0]
    assert first.timestamp == midnight
    assert (first.open, first.high, first.low, first.close) == (545.00, 548.94, 544.95, 548.90)
    assert first.volume == sum(range(1000, 1390))


async def test_newest_first_is_the_same_history_backwards() -> None:
    async with at(NOON_NS) as server:
        clients = Clients(server, raw=True)
        query = {"symbols": "SPY", "timeframe": "1Min", "start": OPEN_AT.isoformat()}
        up = await clients.ask(clients.stock, "_get_marketdata", "/stocks/bars", {**query, "sort": "asc"}, 200, 200)
        down = await clients.ask(clients.stock, "_get_marketdata", "/stocks/bars", {**query, "sort": "desc"}, 200, 200)
    assert down["SPY"] == up["SPY"][::-1]


async def test_no_data_are_an_empty_object_and_a_bad_request_has_a_message_without_a_code() -> None:
    async with at(NOON_NS) as server:
        clients = Clients(server, raw=True)
        nothing = await clients.ask(clients.stock, "get", "/stocks/bars", {"symbols": "ZZZ", "timeframe": "1Min"})
        with pytest.raises(APIError) as refused:
            await clients.ask(clients.stock, "get", "/stocks/bars", {"symbols": "SPY", "timeframe": "soon"})
    assert nothing == {"bars": {}, "next_page_token": None}
    assert refused.value.status_code == 400
    with pytest.raises(KeyError):
        _ = refused.value.code


async def test_a_basic_plan_may_not_ask_for_the_newest_sip_data() -> None:
    async with at(NOON_NS) as server:
        server.faults.add("insufficient_subscription", where={"stream": "rest"})
        clients = Clients(server)
        with pytest.raises(APIError, match="recent SIP data") as refused:
            await clients.ask(clients.stock, "get_stock_bars", bars_request(TimeFrame.Minute))
    assert refused.value.status_code == 403


# --- the newest ---------------------------------------------------------------------------------------------------


async def test_latest_bar_trade_and_quote_are_of_this_minute() -> None:
    async with at(NOON_NS + 2 * SECOND_NS) as server:  # the 12:00 bar has begun: 545.00 + 150 cents
        clients = Clients(server)
        bar = await clients.ask(clients.stock, "get_stock_latest_bar", StockLatestBarRequest(symbol_or_symbols="SPY"))
        trade = await clients.ask(
            clients.stock, "get_stock_latest_trade", StockLatestTradeRequest(symbol_or_symbols="SPY")
        )
        quote = await clients.ask(
            clients.stock, "get_stock_latest_quote", StockLatestQuoteRequest(symbol_or_symbols="SPY")
        )
    assert bar["SPY"].timestamp == datetime(2024, 7, 3, 15, 59, tzinfo=UTC)
    assert trade["SPY"].price == 546.50
    assert (quote["SPY"].bid_price, quote["SPY"].ask_price) == (546.50, 546.51)


async def test_stock_snapshots_have_this_day_and_the_day_before() -> None:
    async with at(NOON_NS + 2 * SECOND_NS) as server:
        clients = Clients(server)
        request = StockSnapshotRequest(symbol_or_symbols=["SPY", "QQQ"])
        snapshots = await clients.ask(clients.stock, "get_stock_snapshot", request)
    spy = snapshots["SPY"]
    assert set(snapshots) == {"SPY", "QQQ"}
    assert (spy.daily_bar.open, spy.daily_bar.close) == (545.00, 546.50)
    assert (spy.previous_daily_bar.close, spy.latest_trade.price) == (548.90, 546.50)


# --- options ------------------------------------------------------------------------------------------------------


async def test_latest_option_quotes_keep_put_call_parity() -> None:
    call, put = "SPY240705C00547000", "SPY240705P00547000"
    async with at(NOON_NS) as server:
        clients = Clients(server)
        request = OptionLatestQuoteRequest(symbol_or_symbols=[call, put])
        quotes = await clients.ask(clients.option, "get_option_latest_quote", request)
    mids = {symbol: (quote.bid_price + quote.ask_price) / 2 for symbol, quote in quotes.items()}
    assert mids[call] - mids[put] == pytest.approx(546.50 - 547, abs=0.02)  # S - K with r = q = 0, cents rounded


async def test_the_chain_has_greeks_near_the_money_alone_and_their_deltas_differ_by_one() -> None:
    async with at(NOON_NS) as server:
        clients = Clients(server)
        request = OptionChainRequest(underlying_symbol="SPY", expiration_date=date(2024, 7, 5))
        chain = await clients.ask(clients.option, "get_option_chain", request)
    assert len(chain) == 2 * 51  # calls and puts, 25 strikes on each side of the middle one
    near = {kind: chain[f"SPY240705{kind}00547000"] for kind in "CP"}
    assert near["C"].greeks.delta - near["P"].greeks.delta == pytest.approx(1.0, abs=2e-4)  # r = q = 0
    assert near["C"].greeks.gamma == near["P"].greeks.gamma > 0
    assert near["C"].implied_volatility == 0.18
    assert chain["SPY240705C00570000"].greeks is None  # far out of the money
    assert {snapshot.latest_trade is None for snapshot in chain.values()} == {True, False}


async def test_chain_pages_and_filters_leave_nothing_out_and_nothing_twice() -> None:
    async with at(NOON_NS) as server:
        clients = Clients(server, raw=True)
        path, params = "/options/snapshots/SPY", {"type": "put", "strike_price_gte": 540, "strike_price_lte": 549.5}
        paged = await clients.ask(clients.option, "_get_marketdata", path, params, 7, 7)
    assert len(paged) == 10 * 3  # strikes 540 to 549, expiries 3, 5 and 8 July
    assert all(re.fullmatch(r"SPY24070[358]P0054\d000", symbol) for symbol in paged)


async def test_the_script_takes_greeks_away_and_adds_an_odd_symbol() -> None:
    async with at(NOON_NS) as server:
        server.faults.add("greeks_missing")
        server.faults.add("odd_symbol")
        clients = Clients(server)
        request = OptionChainRequest(underlying_symbol="SPY", expiration_date=date(2024, 7, 5))
        chain = await clients.ask(clients.option, "get_option_chain", request)
    assert all(snapshot.greeks is None for snapshot in chain.values())
    assert "XOM2241220P00280000" in chain


async def test_snapshots_leave_out_what_is_not_listed() -> None:
    async with at(NOON_NS) as server:
        clients = Clients(server)
        symbols = ["SPY240705C00547000", "SPY240705C00900000"]
        request = OptionSnapshotRequest(symbol_or_symbols=symbols)
        snapshots = await clients.ask(clients.option, "get_option_snapshot", request)
    assert list(snapshots) == symbols[:1]


async def test_contracts_come_in_pages_and_without_a_filter_up_to_the_weekend() -> None:
    async with at(NOON_NS) as server:
        clients = Clients(server)
        contracts: list[Any] = []
        token = None
        while token is not None or not contracts:
            request = GetOptionContractsRequest(underlying_symbols=["SPY"], limit=90, page_token=token)
            page = await clients.ask(clients.trading, "get_option_contracts", request)
            contracts += page.option_contracts
            token = page.next_page_token
    assert len(contracts) == 2 * 2 * 51  # 3 and 5 July, not Monday the 8th
    assert len({contract.symbol for contract in contracts}) == len(contracts)
    one = next(contract for contract in contracts if contract.symbol == "SPY240705P00550000")
    assert (one.expiration_date, one.type.value, one.strike_price, one.size) == (date(2024, 7, 5), "put", 550.0, "100")
    assert int(one.open_interest) > 0


async def test_a_contract_is_found_by_symbol_and_by_id_and_an_unknown_one_is_404() -> None:
    async with at(NOON_NS) as server:
        clients = Clients(server)
        by_symbol = await clients.ask(clients.trading, "get_option_contract", "SPY240705P00550000")
        by_id = await clients.ask(clients.trading, "get_option_contract", by_symbol.id)
        with pytest.raises(APIError) as refused:
            await clients.ask(clients.trading, "get_option_contract", "SPY240705P99000000")
    assert by_id == by_symbol
    assert (refused.value.status_code, refused.value.code) == (404, 40410000)


# --- assets, clock, calendar --------------------------------------------------------------------------------------


async def test_an_asset_is_found_by_symbol_and_by_id() -> None:
    async with at(NOON_NS) as server:
        clients = Clients(server)
        spy = await clients.ask(clients.trading, "get_asset", "SPY")
        again = await clients.ask(clients.trading, "get_asset", str(spy.id))
        everything = await clients.ask(clients.trading, "get_all_assets")
        with pytest.raises(APIError) as refused:
            await clients.ask(clients.trading, "get_asset", "ZZZ")
    assert again == spy
    assert (spy.tradable, spy.fractionable) == (True, True)
    assert {asset.symbol for asset in everything} == {"SPY", "QQQ"}
    assert refused.value.status_code == 404


@pytest.mark.parametrize(
    ("minutes", "is_open", "next_open", "next_close"),
    [
        (-1, False, "2024-07-03T09:30:00-04:00", "2024-07-03T13:00:00-04:00"),
        (0, True, "2024-07-05T09:30:00-04:00", "2024-07-03T13:00:00-04:00"),
        (209, True, "2024-07-05T09:30:00-04:00", "2024-07-03T13:00:00-04:00"),
        (210, False, "2024-07-05T09:30:00-04:00", "2024-07-05T16:00:00-04:00"),  # half day over, the 4th is a holiday
    ],
)
async def test_the_clock_knows_half_days_and_holidays(
    minutes: int, is_open: bool, next_open: str, next_close: str
) -> None:
    async with at(SESSIONS[1].open_ns + minutes * MINUTE_NS) as server:
        clients = Clients(server, raw=True)
        clock = await clients.ask(clients.trading, "get_clock")
    assert (clock["is_open"], clock["next_open"], clock["next_close"]) == (is_open, next_open, next_close)
    assert datetime.fromisoformat(clock["timestamp"]).utcoffset() == timedelta(hours=-4)


async def test_the_calendar_has_open_and_close_in_new_york_time() -> None:
    async with at(NOON_NS) as server:
        clients = Clients(server)
        request = GetCalendarRequest(start=date(2024, 7, 3), end=date(2024, 7, 5))
        days = await clients.ask(clients.trading, "get_calendar", request)
        raw = await clients.ask(Clients(server, raw=True).trading, "get_calendar", request)
    assert [(day.date, f"{day.open:%H:%M}", f"{day.close:%H:%M}") for day in days] == [
        (date(2024, 7, 3), "09:30", "13:00"),
        (date(2024, 7, 5), "09:30", "16:00"),
    ]
    assert [row["session_open"] for row in raw] == ["0400", "0400"]


# --- the market itself --------------------------------------------------------------------------------------------


def test_a_rising_minute_visits_its_low_first_and_a_falling_one_its_high() -> None:
    rising = Bar("SPY", OPEN_NS, 10.0, 10.5, 9.5, 10.1, 1.0)
    falling = Bar("SPY", OPEN_NS, 10.0, 10.5, 9.5, 9.9, 1.0)
    assert [str(price) for price in price_path(rising)] == ["10.00", "9.50", "10.50", "10.10"]
    assert [str(price) for price in price_path(falling)] == ["10.00", "10.50", "9.50", "9.90"]


def test_prices_stand_between_points_and_after_the_close() -> None:
    points = [OPEN_NS + seconds * SECOND_NS for seconds in (0, 15, 30, 45, 60)]
    assert [MARKET.next_change(point) for point in points[:4]] == points[1:]
    assert MARKET.next_change(OPEN_NS + 16 * SECOND_NS) == OPEN_NS + 30 * SECOND_NS
    assert MARKET.price(OPEN_NS - 1) is None
    assert MARKET.price(OPEN_NS + 44 * SECOND_NS) == Decimal("545.05")
    assert MARKET.price(SESSIONS[0].close_ns + 3600 * SECOND_NS) == Decimal("548.90")
    assert MARKET.closing_price("2024-07-02") == Decimal("548.90")
    assert MARKET.closing_price("2024-07-05") is None
    assert MARKET.next_change(SESSIONS[0].close_ns) == SESSIONS[1].open_ns
    assert MARKET.next_change(SESSIONS[1].close_ns) == NEVER_NS
    assert MARKET.session_at(SESSIONS[0].close_ns) is None


@given(st.integers(OPEN_NS, SESSIONS[1].close_ns - MINUTE_NS))
def test_a_quote_always_stands_until_the_next_path_point(now_ns: int) -> None:
    changes_ns = MARKET.next_change(now_ns)
    assert now_ns < changes_ns
    for symbol in ("SPY", "SPY240705C00546000", "SPY240705P00570000"):
        quote = MARKET.quote(symbol, now_ns)
        session = MARKET.session_at(now_ns)
        assert quote is not None
        assert 0 <= quote[0] < quote[1]
        if session is not None:
            assert MARKET.quote(symbol, min(changes_ns, session.close_ns) - 1) == quote


@given(st.lists(st.integers(1, 99_999), min_size=4, max_size=4))
def test_a_minutes_path_never_leaves_its_range_and_touches_both_ends(cents: list[int]) -> None:
    low, *between, high = (value / 100 for value in sorted(cents))
    path = price_path(Bar("SPY", OPEN_NS, between[0], high, low, between[1], 1.0))
    assert (float(min(path)), float(max(path))) == (low, high)
    assert (float(path[0]), float(path[3])) == tuple(between)


def test_an_option_is_quoted_from_its_listing_to_its_last_midnight() -> None:
    symbol = "SPY240702C00545000"
    assert MARKET.quote(symbol, OPEN_NS) is not None
    assert MARKET.quote(symbol, SESSIONS[0].close_ns) is not None
    assert MARKET.quote(symbol, SESSIONS[1].open_ns) is None
    assert MARKET.quote("SPY240702C00571000", OPEN_NS) is None  # 26 dollars from the middle
    assert MARKET.quote("SPY240702C00545500", OPEN_NS) is None  # whole dollars alone
    assert MARKET.quote("no symbol", OPEN_NS) is None


def test_in_its_last_minute_an_option_is_worth_what_exercise_brings() -> None:
    quote = MARKET.quote("SPY240702C00540000", SESSIONS[0].close_ns - 1)
    assert quote is not None
    assert (quote[0] + quote[1]) / 2 == pytest.approx(Decimal("8.90"), abs=Decimal("0.04"))  # 548.90 - 540
    worthless = MARKET.quote("SPY240702C00560000", SESSIONS[0].close_ns - 1)
    assert worthless == (Decimal("0.00"), Decimal("0.01"))


def test_a_real_tape_has_its_half_days(data_dir: Path) -> None:
    market = Market.from_bars(data_dir / "spy_1min_2024.parquet")
    assert len(market.session_bars("2024-07-03")) == 210
    assert len(market.session_bars("2024-07-05")) == 390
    assert market.session_of("2024-07-04") is None
    assert market.price(SESSIONS[0].open_ns) == market.price(SESSIONS[0].open_ns + SECOND_NS)


# --- by hand ------------------------------------------------------------------------------------------------------


def test_serving_by_hand_prints_what_a_daemon_needs_and_ends_with_the_tape(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "simulator", "--speed", "50000", "--date", "2024-12-03"]
    run = subprocess.run(program, capture_output=True, text=True, check=True, cwd=REPOSITORY, timeout=120)
    exported = dict(re.findall(r"^export (\w+)=(.*)$", run.stdout, re.MULTILINE))
    assert {"APCA_API_KEY_ID", "APCA_API_SECRET_KEY"} < exported.keys()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", exported["RLTRADER_ALPACA__TRADING_URL"])
    assert exported["RLTRADER_CLOCK__SIM_START"] == "2024-12-03T09:20:00-05:00"  # ten minutes before, winter time
    assert float(exported["RLTRADER_CLOCK__RATE"]) == 50000
    assert run.stdout.rstrip().endswith("the tape has ended")
    env_file = tmp_path / "loopback.env"
    result = subprocess.run(
        [*program, "--env", str(env_file)], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert set(re.findall(r"^export (\w+)=", env_file.read_text(), re.MULTILINE)) == exported.keys()
    assert f". {env_file} && rltraderd --state-dir DIR" in result.stdout
    assert "APCA_API_SECRET_KEY" not in result.stdout


def test_serving_by_hand_refuses_a_date_that_is_no_session() -> None:
    program = [sys.executable, "-m", "simulator", "--date", "2024-11-28"]  # Thanksgiving
    run = subprocess.run(program, capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=120)
    assert run.returncode == 2
    assert "2024-11-28 is no session of the tape: expected 2024-10-22 to 2024-12-03" in run.stderr
