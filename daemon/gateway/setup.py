"""Files to begin with: gateway.toml and the sub-accounts' keys by `init`, a desk's config.toml by `desk`."""

from __future__ import annotations

import dataclasses
import io
import json
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from msgspec import structs
from pydantic import ValidationError

from daemon.brokers.alpaca import wire
from daemon.brokers.alpaca.rest.client import Refused
from daemon.brokers.api import BrokerError, BrokerRefused
from daemon.config.checks import values
from daemon.config.clock import clock_of
from daemon.config.load import ADDRESSES, NO_STRATEGY, ConfigError, Credentials, defaults, load
from daemon.config.sources import KEYS, error_parts, value_text
from daemon.config.tables import DeskSettings
from daemon.gateway.config import (
    SHARED_TABLES,
    GatewaySettings,
    SubAccountTable,
    in_cents,
    key_files,
    load_gateway,
    make_keys,
)
from daemon.gateway.events import MAIN, Opened
from daemon.gateway.rules import free_cash
from daemon.gateway.step import Bookkeeper
from daemon.gateway.upstream import Upstream
from daemon.host.whole_files import write_whole
from daemon.operator.log import Log
from strategies.registry import is_known, names

TEMPLATE = """# One account, several strategies (docs/GATEWAY.md). The account's own keys never stand here: they are the
# environment variables or credentials APCA_API_KEY_ID and APCA_API_SECRET_KEY of the gateway alone.

[gateway]
account = "{account}"
account_number = "{number}"
port = {port}  # on 127.0.0.1
state_dir = {state_dir}  # journal and control socket
keys_dir = {keys_dir}  # a folder with key and secret for each sub-account
stream_symbols_max = 30  # of shares, over all sub-accounts: the free plan's

[account]  # Limits over all sub-accounts, USD; 0: none. What `main` holds does not count.
gross_exposure_max = 0
symbol_exposure_max = 0
day_loss_max = 0  # no new risk for the rest of the day
orders_a_minute = 0
{subs}{tables}"""
SUB = """
[sub_account.{name}]
capital = {capital}  # USD, moved from `main` at the first start
kinds = {kinds}
symbols = {symbols}  # [] is any
order_max = 0  # USD in one order; 0: no limit
exposure_max = 0  # USD in holdings and working purchases
guard_prefix = ""  # [guard] prefix of its desk, where a guard watches it
"""
DESK = """# The desk of sub-account {name}: it trades at the gateway, and holds no key of the broker. Start it with
# CREDENTIALS_DIRECTORY={keys} rltraderd --config {file}

[desk]
name = "{name}"
{strategy}account = "{account}"
account_number = "{number}"

[paths]
state_dir = "state/{name}"
{tables}"""
TO_FILL_IN = '# strategy = "…"  # its strategy: a name, or a file of yours\n'


@dataclasses.dataclass(frozen=True, slots=True)
class SetupRequest:
    """The arguments of `init`: the file to write, sub-accounts as text, and the account's address."""

    file: Path
    subs: Collection[str]
    live: bool
    url: str
    port: int
    state_dir: str
    keys_dir: str = ""  # "": the folder `keys` of state_dir


async def init(request: SetupRequest, keys: Credentials) -> str:
    """Write gateway.toml from what the account holds, and keys for each sub-account; return the text for the user.

    Raises ConfigError for capital that the account does not have, and what `Upstream` and `load` raise.
    """
    subs = [parse_sub(text) for text in request.subs]
    for name, count in Counter(sub.name for sub in subs).items():
        if count > 1:
            raise ConfigError(f"--sub {name}: is given {count} times: give each sub-account another name")
    kind = "live" if request.live else "paper"
    overrides = {"desk.name": "gateway", "desk.account": kind, "desk.account_number": "unknown" if request.live else ""}
    overrides |= {f"alpaca.{name}": address for name, address in _addresses(request).items()}
    settings = load(None, {**overrides, **NO_STRATEGY}, only=(*SHARED_TABLES, "desk"))
    clock = clock_of(settings)
    upstream = Upstream(settings, keys, clock, Log("error", "json", stream=io.StringIO()))
    try:
        account, positions, orders, _ = await upstream.account()
        problems = await symbol_problems(upstream, subs)
    finally:
        await upstream.close()
    number, cash = wire.text(account.get("account_number")), wire.decimal(account.get("cash"), "cash")
    capital = {sub.name: sub.capital for sub in subs}
    require_capital(Opened(clock.now_ns(), number, account, positions, orders, [], capital, []))
    if problems:
        raise ConfigError("\n".join(problems))
    keys_dir = request.keys_dir or f"{request.state_dir}/keys"
    written_text = TEMPLATE.format(
        account=kind,
        number=number,
        port=request.port,
        state_dir=json.dumps(request.state_dir),
        keys_dir=json.dumps(keys_dir),
        subs="".join(_sub_table_text(sub) for sub in subs),
        tables=tables_of(settings, ("alpaca", "clock", "feed")),
    )
    write_whole(request.file, written_text.encode(), 0o640)
    words = [f"account {number}: {cash} USD, holds {_positions_text(positions)}; all of it but the capital is {MAIN}'s"]
    if subs:
        new_settings = load_gateway(request.file)
        for sub in subs:
            if not all(file.exists() for file in key_files(new_settings, sub.name)):
                make_keys(new_settings, sub.name)
            words.append(f"sub-account {sub.name}: {sub.capital} USD, keys in {keys_dir}/{sub.name}")
    words += [f"note: {note}" for note in shared_symbols(subs)]
    command = "rltrader-gateway" if request.file.name == "gateway.toml" else f"rltrader-gateway --config {request.file}"
    words += [f"written: {request.file}: set the limits there. Then:"]
    words += [f"  {command} --check", f"  {command}"]
    words += [f"  {command} desk {sub.name} --strategy NAME > {sub.name}.toml" for sub in subs]
    return "\n".join(words) + "\n"


def require_capital(event: Opened) -> None:
    """Raise ConfigError, with the figures, for capital beyond the cash that no order and no short position keeps."""
    keeper = Bookkeeper()
    keeper.step(structs.replace(event, capital={}))
    cash, free, whole = keeper.books.main.cash, free_cash(keeper.books, MAIN), sum(event.capital.values(), Decimal(0))
    if whole > free:
        parts = ", ".join(f"{name} {usd}" for name, usd in event.capital.items())
        kept = f", {free:.2f} of it free of orders and short positions" if free < cash else ""
        raise ConfigError(
            f"the account has {cash:.2f} USD in cash{kept}, and the capital of all is {whole} ({parts}): lower it"
        )


def account_problem(error: BrokerError) -> str:
    """Return in words why the account cannot be read."""
    if isinstance(error, BrokerRefused) and error.of_keys:
        return (
            f"the broker refuses the account's keys ({error}): correct {' and '.join(KEYS)}; a paper account's keys "
            "open no live account, and the other way round"
        )
    return str(error)


async def symbol_problems(upstream: Upstream, tables: Iterable[SubAccountTable]) -> list[str]:
    """Return, in words, which symbols of sub-accounts the broker does not know. Raises BrokerError.

    An index has contracts and is no asset.
    """
    return [
        f"sub_account.{table.name}.symbols has {symbol}, which the broker does not know: correct it"
        for table in tables
        for symbol in table.symbols
        if not (
            await _is_asset(upstream, symbol) or ("options" in table.kinds and await _has_contracts(upstream, symbol))
        )
    ]


async def _is_asset(upstream: Upstream, symbol: str) -> bool:
    try:
        await upstream.reads.asset(symbol)
    except Refused as error:
        if error.status != 404:
            raise
        return False
    return True


async def _has_contracts(upstream: Upstream, symbol: str) -> bool:
    answer = await upstream.get("/options/contracts", {"underlying_symbols": symbol, "limit": "1"})
    return isinstance(answer, dict) and bool(answer.get("option_contracts"))


def _addresses(request: SetupRequest) -> dict[str, str]:
    """Return the addresses that the options name; the others are the environment's, or Alpaca's."""
    if request.url:
        return served_at(request.url.rstrip("/"))
    if request.live:
        return {"trading_url": "https://api.alpaca.markets", "trade_stream_url": "wss://api.alpaca.markets/stream"}
    return {}


def served_at(url: str) -> dict[str, str]:
    """Return the `[alpaca]` addresses of one server that speaks all of Alpaca's protocols, such as the gateway."""
    stream = url.replace("http", "ws", 1)
    paths = {"trading_url": "", "data_url": ""}
    streams = {
        "stream_url": "/v2/{feed}",
        "trade_stream_url": "/stream",
        "option_stream_url": "/v1beta1/{options}",
    }
    return {name: url + path for name, path in paths.items()} | {name: stream + p for name, p in streams.items()}


def tables_of(settings: DeskSettings, names: Iterable[str]) -> str:
    """Return tables as TOML, with the keys alone that differ from their defaults."""
    default_tables, text = defaults(), ""
    for name in names:
        lines = _lines({k: v for k, v in values(getattr(settings, name)).items() if v != default_tables[name][k]})
        text += f"\n[{name}]\n{lines}" if lines else ""
    return text


def _lines(keys: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())


def _positions_text(positions: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(f"{row['qty']} {row['symbol']}" for row in positions) or "nothing"


# --- sub-accounts -----------------------------------------------------------------------------------------------------


def parse_sub(text: str) -> SubAccountTable:
    """Parse NAME:CAPITAL[:KINDS[:SYMBOLS]], lists with commas. Raises ConfigError."""
    parts = text.split(":")
    try:
        capital = Decimal(parts[1])
        kinds = tuple(filter(None, parts[2].split(","))) if len(parts) > 2 else ("shares",)
        symbols = tuple(filter(None, parts[3].split(","))) if len(parts) > 3 else ()
        sub = SubAccountTable(name=parts[0], capital=capital, kinds=kinds, symbols=symbols)  # type: ignore[arg-type]
    except (IndexError, InvalidOperation, ValidationError) as error:
        wrong = list(error_parts(error)) if isinstance(error, ValidationError) else []
        problems = [f"{key} is {value_text(value)}: expected {expected}" for key, value, expected in wrong]
        form = "expected NAME:CAPITAL[:KINDS[:SYMBOLS]], such as scalper:10000:options:SPY"
        raise ConfigError(f"--sub {text}: " + "; ".join([*problems, form])) from None
    if not in_cents(capital):
        raise ConfigError(f"--sub {text}: capital is {capital}: expected USD in whole cents")
    return sub


def _sub_table_text(sub: SubAccountTable) -> str:
    kinds, symbols = json.dumps(list(sub.kinds)), json.dumps(list(sub.symbols))
    return SUB.format(name=sub.name, capital=sub.capital, kinds=kinds, symbols=symbols)


def shared_symbols(tables: Iterable[SubAccountTable]) -> list[str]:
    """Return, in words, which sub-accounts may meet in a symbol: where one rests a stop, another cannot buy."""
    words, subs = [], list(tables)
    for place, one in enumerate(subs):
        for other in subs[place + 1 :]:
            if not set(one.kinds) & set(other.kinds):
                continue
            lists = [set(table.symbols) for table in (one, other) if table.symbols]  # none is any symbol
            common = set.intersection(*lists) if lists else set()
            if common or not lists:
                where = ", ".join(sorted(common)) or "any symbol"
                words.append(
                    f"{one.name} and {other.name} may both trade {where}: where one rests a stop, the other's purchase "
                    f"is refused (403, wash trade)"
                )
    return words


# --- a desk -----------------------------------------------------------------------------------------------------------


def desk_file(settings: GatewaySettings, name: str, strategy: str) -> str:
    """Return the config.toml of a desk that trades sub-account `name` by `strategy` ("": to be filled in).

    Raises ConfigError for a name that no strategy has; a file may be on the desk's host alone.
    """
    if strategy and "/" not in strategy and ".py" not in strategy and not is_known(strategy):
        expected = f"one of {', '.join(names())}, or a file of yours: path/to/file.py"
        raise ConfigError(f"--strategy {strategy}: expected {expected}")
    gateway, upstream = settings.gateway, settings.upstream
    addresses = served_at(f"http://127.0.0.1:{gateway.port}")
    assert addresses.keys() == ADDRESSES.keys()
    number = f"{gateway.account_number}-{name}" if gateway.account_number else ""
    return DESK.format(
        name=name,
        keys=shlex.quote(str(Path(gateway.keys_dir).resolve() / name)),
        file=f"{name}.toml",
        strategy=f"strategy = {json.dumps(strategy)}\n" if strategy else TO_FILL_IN,
        account=gateway.account,
        number=number,
        tables=f"\n[alpaca]\n{_lines(addresses)}{tables_of(upstream, ('clock', 'feed'))}",
    )
