"""Serve recorded days by hand: `rltrader-simulator --bars FILE --accounts scalper,regime --speed N`.

It prints (or writes, with --env) the environment that each daemon needs to trade here, then a line for every
connection, refused request, order and fill, until SIGINT, SIGTERM or the tape's end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from daemon.host.loopback import listen
from daemon.host.version import CommandLine, add_version, in_this_shell
from rltrader import called
from simulator.clock import SimClock
from simulator.desks_by_hand import DESKS, accounts_of, add_own, environment, market_of, names_of
from simulator.prices.market import Market
from simulator.prices.tape import NEW_YORK
from simulator.server import AlpacaServer, LoggedRequest
from simulator.trading.trade_stream import FaultyTradeStream
from simulator.trading.venue import ROUNDINGS, Brokerage, Rules
from strategies.kit.contract import Session
from strategies.kit.units import MINUTE_NS, SECOND_NS

BEFORE_OPEN_NS = 10 * MINUTE_NS
BEFORE_OPEN_DAILY_NS = 90 * MINUTE_NS  # a daily desk decides at 9:15, and a person needs time to start it
AFTER_CLOSE_NS = 60 * MINUTE_NS  # for a daemon's work at the end of a day
SPEED_MAX = 100_000  # limit of the daemon's clock.rate
LOOK_S = 0.5  # real seconds between two checks of the request log


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    options = CommandLine(prog=called("rltrader-simulator"), description="Serve a recorded day as Alpaca would.")
    add_version(options)
    options.add_argument(
        "--bars", type=Path, help="tape of minute bars, CSV(.gz) or Parquet (30 made-up sessions of SPY)"
    )
    options.add_argument("--accounts", metavar="NAMES", help=f"desks with an account of their own: {','.join(DESKS)}")
    text = "one account of 100,000 USD for all of them, for rltrader-gateway: the environment to FILE.gateway"
    options.add_argument("--one-account", action="store_true", help=text)
    text = "a strategy of yours, by its file or its name: a desk with an account of its own"
    options.add_argument("--strategy", metavar="FILE.py", help=text)
    options.add_argument(
        "--daily", type=Path, action="append", default=[], metavar="FILE", help="daily bars, Parquet (made up)"
    )
    options.add_argument("--speed", type=_speed, default=60.0, help="simulated seconds a real second, above 0 (60)")
    options.add_argument("--date", help="session to begin with, YYYY-MM-DD (the tape's last); those before are history")
    options.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (a free one)")
    options.add_argument("--env", type=Path, metavar="FILE", help="write the environment there, of NAME to FILE.NAME")
    free = "the accounts have the free data plan: IEX and indicative option quotes alone"
    options.add_argument("--free-plan", action="store_true", help=free)
    whole = "shares that are not fractionable, with commas: orders of a fraction of them are refused"
    options.add_argument("--not-fractionable", metavar="SYMBOLS", default="", help=whole)
    cents = "what rounds cash to cents, since Alpaca's way is not known (%(default)s)"
    options.add_argument("--cash-rounding", choices=ROUNDINGS, default="none", help=cents)
    options.add_argument(
        "--sim-start",
        help="where simulated time begins, ISO 8601 with a zone (10 min before the open, 90 with a daily desk)",
    )
    return options


def _speed(text: str) -> float:
    """Read a rate that the daemon's clock accepts too."""
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed <= SPEED_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no speed; expected a number above 0, at most {SPEED_MAX:,}")
    return speed


def start_ns(market: Market, day: str | None, moment: str | None) -> int:
    """Return the start of simulated time. Raises ValueError for a date without bars, or a time without a zone."""
    sessions = taped_sessions(market)
    if not sessions:
        raise ValueError("--bars has no bar within the hours of a session: check its dates and its time zone")
    if moment is not None:
        try:
            begin = datetime.fromisoformat(moment)
        except ValueError:
            raise ValueError(f"--sim-start {moment} is no time: write it like 2024-07-01T09:20:00-04:00") from None
        if begin.tzinfo is None:
            raise ValueError(f"--sim-start {moment} has no zone: write it like 2024-07-01T09:20:00-04:00")
        begin_ns = int(begin.timestamp()) * SECOND_NS
        if begin_ns > sessions[-1].close_ns:
            raise ValueError(
                f"--sim-start {moment} is after the tape's last session: expected one up to {sessions[-1].date}"
            )
        return begin_ns
    session_of_day = next((session for session in sessions if session.date == day), None) if day else sessions[-1]
    if session_of_day is None:
        raise ValueError(f"--date {day} is no session of the tape: expected {sessions[0].date} to {sessions[-1].date}")
    return session_of_day.open_ns - (BEFORE_OPEN_NS if market.days is None else BEFORE_OPEN_DAILY_NS)


def taped_sessions(market: Market) -> list[Session]:
    """Return the sessions with bars on the tape."""
    return [session for session in market.sessions if market.closing_price(session.date) is not None]


class PrintedStream(FaultyTradeStream):
    """The trading stream, also printed on the terminal."""

    def publish(self, key: str, update: dict[str, Any]) -> None:
        """Print one line for the update, then send it."""
        order = update["order"]
        limit = order["limit_price"] or "market"
        trade_text = f", {update['qty']} at {update['price']}" if "price" in update else ""
        show(
            self.venue,
            f"order {update['event']}: {order['side']} {order['qty']} {order['symbol']} at {limit}{trade_text}; "
            f"filled {order['filled_qty']} ({order['client_order_id']})"
            + (f" of {self.venue.accounts[key].account_number}" if len(self.venue.accounts) > 1 else ""),
        )
        super().publish(key, update)


def show(venue: Brokerage, text: str) -> None:
    """Print one line with the simulated New York time."""
    moment = datetime.fromtimestamp(venue.clock.now_ns() / SECOND_NS, NEW_YORK)
    print(f"{moment:%Y-%m-%d %H:%M:%S}  {text}", flush=True)


class Lines(logging.Handler):
    """Log handler that prints the data streams' log on the terminal."""

    def __init__(self, server: AlpacaServer) -> None:
        super().__init__(logging.INFO)
        self._server = server

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        show(self._server, record.getMessage())


async def look(server: AlpacaServer) -> None:
    """Print refused requests and changes of the trading stream's listeners, for ever."""
    seen_count = 0
    listening = dict.fromkeys(server.accounts, 0)
    while True:
        await asyncio.sleep(LOOK_S)
        new, seen_count = server.requests[seen_count:], len(server.requests)
        for request in new:
            if not 200 <= request.status < 300:
                show(server, refusal_line(request))
        for key, account in server.accounts.items():
            now = server.trade_stream.listeners(key)
            if now != listening[key]:
                of = f" of {account.account_number}" if len(server.accounts) > 1 else ""
                show(server, f"trade stream{of}: {now} listening")
                listening[key] = now


def refusal_line(request: LoggedRequest) -> str:
    """Return one line for a failed request."""
    status = f"status {request.status}" if request.status else "no reply"
    return f"request {request.method} {request.path}: {status} {request.body}".rstrip()


async def serve(options: argparse.Namespace) -> None:
    """Serve until a signal or the tape's end. Raises ValueError for options that do not match the tape."""
    names = [add_own(options.strategy)] if options.strategy else []
    names += names_of(options.accounts) if options.accounts else []
    market = market_of(names, options.bars, options.daily)
    begin_ns = start_ns(market, options.date, options.sim_start)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    clock = SimClock.starting_now(begin_ns, options.speed)
    accounts = accounts_of(names, one=options.one_account)
    rules = Rules(
        free_plan=options.free_plan,
        not_fractionable=frozenset(filter(None, options.not_fractionable.split(","))),
        cash_rounding=options.cash_rounding,
    )
    server = AlpacaServer(market, clock, accounts=accounts.values(), rules=rules, trade_stream=PrintedStream)
    stream_log = logging.getLogger("simulator")
    stream_log.addHandler(Lines(server))
    stream_log.setLevel(logging.INFO)
    async with server:
        await bind(server, options.port)
        if not accounts:
            show_environment(environment(server), options.env)
        for name, account in accounts.items():
            file = None if options.env is None else options.env.with_name(f"{options.env.name}.{name}")
            strategy = "" if options.one_account else DESKS[name].strategy
            variables = environment(server, account, strategy, gateway=options.one_account)
            show_environment(variables, file, gateway=options.one_account)
        show(server, f"serving at {server.trading_url}, {options.speed:g} times real time; Ctrl-C ends it")
        looking = asyncio.create_task(look(server))
        end_s = clock.real_s(taped_sessions(market)[-1].close_ns + AFTER_CLOSE_NS - clock.now_ns())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(end_s, 0.0)):
                await stop.wait()
        looking.cancel()
        show(server, "stopped by a signal" if stop.is_set() else "the tape has ended")


def show_environment(variables: str, file: Path | None, *, gateway: bool = False) -> None:
    """Print the environment, or write it to `file` and print the command that starts a daemon, or gateway, with it."""
    if file is None:
        print(variables, flush=True)
        return
    try:
        file.write_text(variables)
    except OSError as error:
        raise OSError(f"--env {file}: {error.strerror}: name a file in a folder that is there") from error
    path_text = file if file.is_absolute() else f"./{file}"  # sh searches PATH for a bare name
    program, arguments = ("rltrader-gateway", "init --sub SUB …") if gateway else ("rltraderd", "--state-dir DIR")
    print(f"in another terminal: . {path_text} && {in_this_shell(program)} {arguments}\n", flush=True)


async def bind(server: AlpacaServer, port: int) -> None:
    """Also listen on `port`, and use it in the addresses; 0: do nothing. Raises OSError naming the option."""
    if port and server._runner is not None:
        listening = listen("port", port, "choose another with --port, or 0 for a free one")
        await web.SockSite(server._runner, listening).start()
        server.port = port


def main() -> int:
    """Run the program; returns exit code 2 for impossible options."""
    options = parser().parse_args()
    try:
        asyncio.run(serve(options))
    except (OSError, ValueError) as error:
        print(f"rltrader-simulator: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
