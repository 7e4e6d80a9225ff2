"""Accounts and market of a manually started server: its desks, their symbols, their environment.

The keys are invented and no secret. Nothing here serves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from math import ceil
from pathlib import Path

from daemon.alpaca_api.wire import stamp
from daemon.core.limits import Broker, Paper
from simulator.prices.day_prices import DailyPrices
from simulator.prices.market import Market
from simulator.prices.tape import calendar_sessions, new_york_date, read_bars
from simulator.server import AlpacaServer
from simulator.trading.account import Account
from strategies.kit.entry import INSTALLED
from strategies.registry import STRATEGIES, add, entry, own

ONE_ACCOUNT = "gateway"  # name of the single account behind a gateway
ONE_ACCOUNT_USD = Decimal(100_000)  # initial cash of Alpaca's paper accounts
BUNDLED = Path(__file__).resolve().parents[1] / "daemon" / "tapes" / "spy_synthetic_30.csv.gz"
BLIND_S = 5.0  # of this machine's time; at 60 times real speed it is the daemon's default
HISTORY = timedelta(days=2 * 365)  # of synthetic daily bars before the tape: longer than any look-back


@dataclasses.dataclass(frozen=True, slots=True)
class HandRunDesk:
    """One account, named like its desk: the strategy that trades there, and its initial state."""

    strategy: str  # its name, or the file of an own strategy
    cash: Decimal
    margin: int
    shares: tuple[str, ...]  # traded on daily prices
    taped: tuple[str, ...] = ()  # shares traded by the minute, on the tape


def desk_of(strategy: str) -> HandRunDesk:
    """Return the desk for a strategy's file: its paper cash; on margin if it trades options."""
    strategy_entry = entry(strategy)
    spec, paper = strategy_entry.make().spec, strategy_entry.defaults.get("paper", {})
    cash = Decimal(str(paper.get("cash_usd", Paper().cash_usd)))
    return {
        ("bar", "option"): HandRunDesk(strategy, cash, 2, ()),
        ("bar", "shares"): HandRunDesk(strategy, cash, 1, (), spec.symbols),
        ("session", "shares"): HandRunDesk(strategy, cash, 1, spec.symbols),
    }[spec.kind]


DESKS = {entry(name).desk: desk_of(name) for name in STRATEGIES}


def add_own(text: str) -> str:
    """Add a desk for the user's own strategy, by its name or `path/to/file.py`; returns the desk's name.

    Raises ValueError for an unusable strategy, or if another desk has the name.
    """
    strategy = add(text)
    desk = desk_of(strategy)
    name, own_strategy = entry(strategy).desk, own(strategy)
    if name in DESKS and DESKS[name].strategy != strategy:
        raise ValueError(f"--strategy {text}: its desk is {name!r}, like that of {DESKS[name].strategy}: rename it")
    is_file = own_strategy is not None and not own_strategy.place.startswith(INSTALLED)
    DESKS[name] = (
        dataclasses.replace(desk, strategy=own_strategy.place) if own_strategy is not None and is_file else desk
    )
    return name


def names_of(text: str) -> list[str]:
    """Return the desks of a comma-separated list. Raises ValueError for an unknown or a repeated one."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    wrong_names = [name for name in names if name not in DESKS or names.count(name) > 1]
    if wrong_names or not names:
        raise ValueError(
            f"--accounts {text}: found {wrong_names or 'none'}; expected each at most once of {', '.join(DESKS)}"
        )
    return names


def accounts_of(names: Sequence[str], *, one: bool = False) -> dict[str, Account]:
    """Return an account for each desk, by name; with `one`, a single account for all of them, for a gateway."""
    if one:
        keys = f"PKLOOP{ONE_ACCOUNT.upper()}", f"loopback-secret-{ONE_ACCOUNT}"  # protects nothing
        return {ONE_ACCOUNT: Account(*keys, cash=ONE_ACCOUNT_USD, margin=2, account_number="PA3ONE")}
    return {
        name: Account(
            f"PKLOOP{name.upper()}",
            f"loopback-secret-{name}",  # protects nothing
            cash=DESKS[name].cash,
            margin=DESKS[name].margin,
            account_number=f"PA3{name.upper()}",
        )
        for name in names
    }


def market_of(names: Sequence[str], bars: Path | None, daily: Sequence[Path]) -> Market:
    """Return the market of these desks: the tape `bars`, the files `daily`, or synthetic daily prices if needed.

    Without `daily` the synthetic prices end with the tape, and the tape's symbol continues from them. With `daily` and
    no `bars` there is no tape. Raises ValueError for files that do not match.
    """
    shares = sorted({symbol for name in names for symbol in DESKS[name].shares})
    if daily:
        days = DailyPrices.from_parquet(*daily, symbols=shares or None)
        symbol = "SPY" if "SPY" in days.bars else next(iter(days.bars))
        return Market(read_bars(bars, symbol) if bars else (), symbol, sessions=days.sessions, days=days)
    tape = read_bars(bars or BUNDLED, "SPY")
    _check_tape(names, {bar.symbol for bar in tape})
    if not shares:
        return Market.from_bars(tape)
    begin, last = new_york_date(tape[0].start_ns), new_york_date(tape[-1].start_ns)
    sessions = calendar_sessions((date.fromisoformat(begin) - HISTORY).isoformat(), last)
    date_before = max(session.date for session in sessions if session.date < begin)
    closes = {tape[0].symbol: (date_before, tape[0].open)} if tape[0].symbol in shares else {}
    days = DailyPrices.made_up(shares, sessions, last=last, closes=closes)
    return Market(tape, tape[0].symbol, sessions=sessions, days=days)


def _check_tape(names: Sequence[str], symbols: set[str]) -> None:
    for name in names:
        missing = [symbol for symbol in DESKS[name].taped if symbol not in symbols]
        if missing:
            raise ValueError(
                f"--bars has no bar of {', '.join(missing)}, which the desk {name} trades: found "
                f"{', '.join(sorted(symbols))}; give a file with a column symbol and the bars of all of them"
            )


def environment(
    server: AlpacaServer, account: Account | None = None, strategy: str = "", *, gateway: bool = False
) -> str:
    """Return a daemon's environment for this server, as export lines: keys, addresses, the clock, the strategy.

    Without `account` it is the first one's, with the trading stream's plain address. With a fast clock a desk counts as
    blind after `BLIND_S` of this machine's time, as a busy machine may pause for long.
    """
    clock, owner = server.clock, account or server.account
    names = ("trading_url", "data_url", "stream_url", "trade_stream_url", "option_stream_url")
    addresses = {name: getattr(server, name) for name in names}
    addresses["stream_url"] = addresses["stream_url"].replace("/sip", "/{feed}")
    addresses["option_stream_url"] = addresses["option_stream_url"].replace("/indicative", "/{options}")
    if account is not None:
        addresses["trade_stream_url"] = server.trade_stream_url_of(account)
    blind_min = ceil(BLIND_S * clock.rate / 60)
    variables = {
        "APCA_API_KEY_ID": owner.key,
        "APCA_API_SECRET_KEY": owner.secret,
        **{f"RLTRADER_ALPACA__{name.upper()}": address for name, address in addresses.items()},
        "RLTRADER_CLOCK__ANCHOR_UNIX_S": repr(clock.anchor_unix_s),
        "RLTRADER_CLOCK__SIM_START": stamp(clock.sim_start_ns, new_york=True),
        "RLTRADER_CLOCK__RATE": repr(clock.rate),
        **({"RLTRADER_DESK__STRATEGY": strategy} if strategy else {}),
        **({"RLTRADER_BROKER__BLIND_MIN": str(blind_min)} if blind_min > Broker().blind_min and not gateway else {}),
    }
    return "".join(f"export {name}={value}\n" for name, value in variables.items())
