"""A gateway in front of the loopback Alpaca, on one event loop with its test: sub-accounts `a` and `b`, and `main`.

One price stands all day: a share costs 500.01 to buy and brings 500.00.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
from pydantic import SecretStr

from daemon.config.load import Credentials
from daemon.config.tables import DeskSettings
from daemon.gateway.books import Ledgers
from daemon.gateway.command import alarmed_log, clock_check, newcomers, opening
from daemon.gateway.config import AccountLimits, ClientKeys, GatewaySettings, GatewayTable, SubAccountTable
from daemon.gateway.gateway import Gateway
from daemon.gateway.journal import GatewayVerified, open_journal, verify
from daemon.gateway.market import MarketRelay
from daemon.gateway.server import Clients, GatewayServer
from daemon.gateway.upstream import Upstream
from daemon.host.time.clock import Clock
from daemon.journal.journal import FILE
from simulator.prices.market import Market
from simulator.server import AlpacaServer
from simulator.trading.account import Account
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET, Rules
from strategies.kit.contract import Bar, Session
from strategies.kit.units import MINUTE_NS
from tests.support.log import LogRecorder
from tests.support.simulator.lone_loop import clock_of_loop

OPEN_NS = 1_748_871_000 * 1_000_000_000  # 2025-06-02 13:30 UTC
SESSIONS = [
    Session("2025-06-02", OPEN_NS, OPEN_NS + 390 * MINUTE_NS),
    Session("2025-06-03", OPEN_NS + 1440 * MINUTE_NS, OPEN_NS + 1830 * MINUTE_NS),
    Session("2025-06-04", OPEN_NS + 2880 * MINUTE_NS, OPEN_NS + 3270 * MINUTE_NS),  # the clock names the next open
]
HALF_DAY = [Session("2025-06-02", OPEN_NS, OPEN_NS + 210 * MINUTE_NS), *SESSIONS[1:]]
CALL = "SPY250602C00500000"
KEYS = {name: ClientKeys(f"GWKEY{name.upper()}000000", f"secret-of-{name}-0000000000") for name in ("a", "b")}
PATIENCE_S = 30.0


def market(*symbols: str, sessions: Sequence[Session] = SESSIONS) -> Market:
    """A day of minutes at 500.00 for SPY and each other symbol."""
    names, first = ("SPY", *symbols), sessions[0]
    starts = range(first.open_ns, first.close_ns, MINUTE_NS)
    bars = [Bar(name, start_ns, 500.0, 500.0, 500.0, 500.0, 1000.0) for name in names for start_ns in starts]
    return Market.from_bars(bars, sessions=sessions)


def table(name: str, capital: str = "20000", **more: Any) -> SubAccountTable:
    """A sub-account that may trade everything."""
    return SubAccountTable(**{"name": name, "capital": Decimal(capital), "kinds": ("shares", "options"), **more})


@dataclasses.dataclass(slots=True)
class Stage:
    """The broker, the gateway, and a client for each sub-account."""

    broker: AlpacaServer
    gateway: Gateway
    server: GatewayServer
    http: aiohttp.ClientSession
    folder: Path
    log: LogRecorder

    @property
    def books(self) -> Ledgers:
        """The gateway's books."""
        return self.gateway.books

    @property
    def url(self) -> str:
        """The gateway's address."""
        return f"http://127.0.0.1:{self.server.port}"

    @property
    def stream_url(self) -> str:
        """The gateway's stream of trade updates."""
        return f"ws://127.0.0.1:{self.server.port}/stream"

    async def ask(self, name: str, method: str, path: str, body: Any = None, **query: str) -> tuple[int, Any]:
        """One request of a sub-account; returns status and JSON."""
        headers = {"APCA-API-KEY-ID": KEYS[name].key, "APCA-API-SECRET-KEY": KEYS[name].secret}
        async with self.http.request(method, self.url + path, json=body, params=query, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None) if answer.status != 204 else None

    async def place(self, name: str, quantity: object, side: str = "buy", symbol: str = "SPY", **more: Any) -> Any:
        """POST an order that must be taken; returns its row."""
        body = {"symbol": symbol, "qty": str(quantity), "side": side, "type": "market", "time_in_force": "day", **more}
        status, row = await self.ask(name, "POST", "/v2/orders", body)
        assert status == 200, row
        return row

    async def refused(self, name: str, quantity: object, side: str = "buy", symbol: str = "SPY", **more: Any) -> Any:
        """POST an order that must be refused; returns (status, code, message)."""
        body = {"symbol": symbol, "qty": str(quantity), "side": side, "type": "market", "time_in_force": "day", **more}
        status, row = await self.ask(name, "POST", "/v2/orders", body)
        assert status != 200, row
        return status, row.get("code"), row["message"]

    def held(self, name: str) -> dict[str, Decimal]:
        """What a sub-account holds, by the gateway's books."""
        return {symbol: holding.qty for symbol, holding in self.books.accounts[name].holdings.items()}

    def halted(self) -> str:
        """Why nobody may add risk, "" where all may."""
        return "" if self.books.halt is None else self.books.halt[0]

    async def until(self, true: Callable[[], bool]) -> None:
        """Return as soon as it holds; fails when it does not."""
        async with asyncio.timeout(PATIENCE_S):
            for _ in itertools.takewhile(lambda _: not true(), itertools.count()):
                await asyncio.sleep(0.01)

    async def settled(self) -> None:
        """Wait for a report, and check that the sums are the broker's."""
        await self.gateway.wait_for_report(PATIENCE_S)
        cash, held = self.books.sums()
        account = self.broker.account
        assert cash == account.cash
        assert held == {symbol: position.qty for symbol, position in account.positions.items()}
        assert not self.books.differences

    def verified(self) -> GatewayVerified:
        """The journal, stepped again."""
        return verify(self.folder / FILE)


@contextlib.asynccontextmanager
async def gateway_on(
    broker: AlpacaServer,
    folder: Path,
    *subs: SubAccountTable,
    limits: AccountLimits | None = None,
    gateway_table: Mapping[str, Any] | None = None,
    feed: Mapping[str, str] | None = None,
    more_tables: Mapping[str, Any] | None = None,
    at_once: bool = False,
    **alpaca: Any,
) -> AsyncIterator[Stage]:
    """A gateway on a running broker; its journal is in `folder`. `at_once`: before it has read the account."""
    tables = {sub.name: sub for sub in (subs or (table("a"), table("b")))}
    upstream_settings = settings_for(broker, feed, more_tables, **alpaca)
    settings = GatewaySettings(
        GatewayTable(state_dir=str(folder), port=0, **(gateway_table or {})),
        limits or AccountLimits(),
        tables,
        upstream_settings,
    )
    clock = Clock.real(broker.clock.now_ns)
    recorder = LogRecorder()
    log = alarmed_log(settings, recorder, clock)
    upstream = Upstream(settings.upstream, keys_of(broker), clock, log)
    journal = open_journal(folder, "paper")
    try:
        if journal.fresh:
            journal.take(await opening(settings, upstream, clock.now_ns()))
        for moved in newcomers(settings, journal.books, clock.now_ns()):
            journal.take(moved)
        await journal.durable()
        check = clock_check(settings, journal, upstream, clock, log)
        gateway = Gateway(settings, journal, upstream, clock, log, check)
        clients = Clients(gateway, {name: KEYS[name] for name in tables})
        relay = MarketRelay(gateway, clients, log)
        async with (
            GatewayServer(gateway, clients, relay, port=0, control=folder / "control.sock") as server,
            aiohttp.ClientSession() as http,
        ):
            gateway.serve_to(server.publish, server.on_state, server.listens)
            running = asyncio.create_task(gateway.run())
            stage = Stage(broker, gateway, server, http, folder, recorder)
            try:
                await stage.until(lambda: at_once or gateway.ready or running.done())
                if running.done():
                    await running  # it ended: say why
                yield stage
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
    finally:
        await journal.close()
        await upstream.close()


def keys_of(broker: AlpacaServer) -> Credentials:
    """The keys of the broker's first account."""
    account = broker.account
    return Credentials(api_key_id=SecretStr(account.key), api_secret_key=SecretStr(account.secret))


def settings_for(
    broker: AlpacaServer,
    feed: Mapping[str, str] | None = None,
    more_tables: Mapping[str, Any] | None = None,
    **alpaca: Any,
) -> DeskSettings:
    """The tables of the way to the broker."""
    urls = {
        "trading_url": broker.trading_url,
        "data_url": broker.data_url,
        "stream_url": broker.stream_url,
        "trade_stream_url": broker.trade_stream_url,
        "option_stream_url": broker.option_stream_url,
        "backoff_max_s": 1.0,
        "report_every_s": 60,
    }
    feed = {"name": "sip", "options": "indicative"} if feed is None else feed
    tables = {"alpaca": urls | alpaca, "feed": feed, "desk": {"name": "gateway"}}
    return DeskSettings.model_validate({**tables, **(more_tables or {})})


def broker(cash: str = "100000", rules: Rules | None = None, sessions: Sequence[Session] = SESSIONS) -> AlpacaServer:
    """The loopback Alpaca, ten minutes after the open."""
    account = Account(DEFAULT_KEY, DEFAULT_SECRET, cash=Decimal(cash), margin=1)
    rules = rules or Rules(fill_sizes=(1000, 1000), dead_session_s=1.0)
    return AlpacaServer(
        market(sessions=sessions), clock_of_loop(OPEN_NS + 10 * MINUTE_NS), accounts=[account], rules=rules
    )


@contextlib.asynccontextmanager
async def stage(
    folder: Path,
    *subs: SubAccountTable,
    cash: str = "100000",
    prepared: Callable[[AlpacaServer], object] = lambda _broker: None,
    rules: Rules | None = None,
    symbols: tuple[str, ...] = (),
    sessions: Sequence[Session] = SESSIONS,
    rate: float = 1.0,
    **more: Any,
) -> AsyncIterator[Stage]:
    """Broker and gateway, ten minutes after the open; `prepared` acts at the broker before the gateway comes."""
    account = Account(DEFAULT_KEY, DEFAULT_SECRET, cash=Decimal(cash), margin=1)
    rules = rules or Rules(fill_sizes=(1000, 1000), dead_session_s=1.0)
    clock = clock_of_loop(OPEN_NS + 10 * MINUTE_NS, rate)
    async with AlpacaServer(market(*symbols, sessions=sessions), clock, accounts=[account], rules=rules) as broker:
        prepared(broker)
        async with gateway_on(broker, folder, *subs, **more) as made:
            yield made
