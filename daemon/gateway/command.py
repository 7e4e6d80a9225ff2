"""`rltrader-gateway`: one account, several strategies. docs/GATEWAY.md explains it.

Without a further word it serves; `init` writes gateway.toml and the sub-accounts' keys from what the account holds,
`--check` says what would happen. The others ask a running gateway through its socket, or read its journal.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import http.client
import io
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import structs

from daemon.alpaca_api.wire import text
from daemon.brokers.alpaca import wire
from daemon.brokers.alpaca.assemble import feeds_of_plan
from daemon.brokers.alpaca.trading.report import block_reason
from daemon.brokers.api import BrokerError, EventLogger
from daemon.brokers.clock_check import ClockCheck
from daemon.config.clock import clock_of
from daemon.config.kept_feed import kept_feed, write_feed
from daemon.config.load import EXIT_CODE, ConfigError, Credentials, credentials
from daemon.core.book import CENT
from daemon.core.limits import AUTO
from daemon.core.orders import FENCE, parse_name
from daemon.core.session import new_york_text
from daemon.engine.state_dir import standing
from daemon.gateway.books import Ledgers
from daemon.gateway.config import (
    GatewaySettings,
    client_keys,
    in_cents,
    keep_start,
    last_start,
    limits_in_cents,
    load_gateway,
    load_or_last,
    make_keys,
    state_dir_of,
    usable_keys,
)
from daemon.gateway.events import MAIN, Opened, Transferred
from daemon.gateway.gateway import ALL, BEAT_S, Gateway
from daemon.gateway.journal import (
    GatewayJournal,
    kept_for,
    open_journal,
    read_books,
    rotate_idle,
    rotate_when_due,
    verify,
)
from daemon.gateway.market import MarketRelay
from daemon.gateway.rules import OrderView, denied_entries, free_cash
from daemon.gateway.server import CONTROL_SOCKET, Clients, GatewayServer
from daemon.gateway.setup import (
    SetupRequest,
    account_problem,
    desk_file,
    init,
    require_capital,
    shared_symbols,
    symbol_problems,
)
from daemon.gateway.step import OWES_USD
from daemon.gateway.upstream import Upstream
from daemon.gateway.watched import GatewayStatusFile
from daemon.host.account_lock import AccountLock, AccountTakenError, Holder, lock_folder
from daemon.host.failures import innermost
from daemon.host.loopback import refused
from daemon.host.own_files import StateDirError, person
from daemon.host.passing import MayPass
from daemon.host.printable import result_of
from daemon.host.service import Service
from daemon.host.time.clock import Clock
from daemon.host.time.virtual_time import look_s
from daemon.host.version import CommandLine, add_version
from daemon.journal.rows import JournalError, WriteFailed
from daemon.operator.alarm_command import AlarmCommand, AlarmedLog
from daemon.operator.control.client import address
from daemon.operator.log import Log
from daemon.operator.metrics.server import serve as serve_metrics
from daemon.operator.side_thread import Work, supervise
from daemon.operator.status import first_named
from rltrader import called

FAILED = 1
JOURNAL_S = 45.0  # real seconds within which the journal's thread must answer
DEFAULT_FILE = Path("gateway.toml")


# --- the service ------------------------------------------------------------------------------------------------------


async def opening(settings: GatewaySettings, upstream: Upstream, now_ns: int) -> Opened:
    """Read the account for the first event. Raises ConfigError, with the figures, for capital that it does not have."""
    account, positions, orders, lines = await upstream.account()
    number = wire.required_text(account, "account_number")
    expected = settings.gateway.account_number
    if expected and number != expected:
        raise ConfigError(f"the keys open account {number}, gateway.account_number is {expected}: correct either")
    capital = capital_of(settings)
    _require_cents(capital)
    event = Opened(
        now_ns,
        number,
        account,
        positions,
        orders,
        [str(line["id"]) for line in lines],
        capital,
        list(settings.guards),
    )
    require_capital(event)
    return event


def former_desks(event: Opened) -> list[str]:
    """Return, in words, that desks have bought here before this journal: their holdings become `main`'s."""
    held_symbols = {str(row["symbol"]) for row in event.positions}
    desk_orders = [row for row in event.orders if parse_name(wire.text(row.get("client_order_id"))) is not None]
    symbols = sorted(held_symbols & {wire.text(row.get("symbol")) for row in desk_orders})
    if not symbols:
        return []
    shares = (
        f"{', '.join(symbols)}, of which a desk has orders, is {MAIN}'s in this new journal, and no desk can sell it"
    )
    cure = f"`rltrader-gateway transfer {MAIN} NAME` moves it"
    return [f"{shares}: {cure}; where gateway.state_dir was another folder, stop, and set it back first"]


def capital_of(settings: GatewaySettings) -> dict[str, Decimal]:
    """Return each sub-account's starting capital, USD."""
    return {name: table.capital for name, table in settings.sub_accounts.items()}


def _require_cents(capital: Mapping[str, Decimal]) -> None:
    """Raise ConfigError for capital with parts of a cent: the sums could never match the broker's."""
    for name, usd in capital.items():
        if not in_cents(usd):
            raise ConfigError(f"sub_account.{name}.capital is {usd}: expected USD in whole cents: correct it")


def newcomers(settings: GatewaySettings, books: Ledgers, now_ns: int) -> list[Transferred]:
    """Return the events that give new sub-accounts of the file their capital. Raises ConfigError, as `opening` does."""
    fresh = {name: usd for name, usd in capital_of(settings).items() if name not in books.accounts}
    _require_cents(fresh)
    whole, free = sum(fresh.values(), Decimal(0)), free_cash(books, MAIN)
    if whole > free:
        parts = ", ".join(f"{name} {usd}" for name, usd in fresh.items())
        owners = [name for name in gone_from_file(settings, books) if books.accounts[name].cash > 0]
        moves = "".join(f", or by the former file `rltrader-gateway transfer {name} {MAIN}` first" for name in owners)
        words = f"{MAIN} has {free:.2f} USD that no order and no short position keeps"
        raise ConfigError(f"{words}, new sub-accounts ask for {whole} ({parts}): lower their capital{moves}")
    return [
        Transferred(now_ns, MAIN, name, usd, "", Decimal(0), "gateway.toml", "capital") for name, usd in fresh.items()
    ]


def as_there_is(moves: list[Transferred], cash: Decimal, books: Ledgers) -> list[Transferred]:
    """Return the moves of capital; with 0 USD where the broker's cash, less the sub-accounts', is not enough.

    The cash that `main` has by the journal may be gone since: the capital would be another sub-account's.
    """
    others_cash = sum((account.cash for name, account in books.accounts.items() if name != MAIN), Decimal(0))
    if sum((move.cash for move in moves), Decimal(0)) <= cash - others_cash:
        return moves
    return [structs.replace(move, cash=Decimal(0)) for move in moves]


def gone_from_file(settings: GatewaySettings, books: Ledgers) -> list[str]:
    """Return the sub-accounts that have books and are no longer in the file."""
    return sorted(books.accounts.keys() - settings.sub_accounts.keys() - {MAIN})


def unlike_file(settings: GatewaySettings, books: Ledgers) -> list[str]:
    """Return, in words, where file and books differ about sub-accounts; a start changes none of it."""
    words = []
    for name, table in settings.sub_accounts.items():
        began = books.accounts[name].capital if name in books.accounts else table.capital
        if table.capital != began:
            cure = "what it has changes by `rltrader-gateway transfer` alone"
            words.append(f"sub_account.{name}.capital is {table.capital}, and it began with {began}: {cure}")
    for name in gone_from_file(settings, books):
        account, orders = books.accounts[name], sum(order.account == name for order in books.open_orders())
        holdings = [f"{text(holding.qty)} {symbol}" for symbol, holding in account.holdings.items()]
        if holdings or orders or abs(account.cash) >= CENT:  # less than a cent cannot be moved
            content = f"holds {', '.join([*holdings, f'{account.cash:.2f} USD'])} and has {orders} orders"
            closes = f"`rltrader-gateway panic {name}` closes it, then " if holdings or orders else ""
            cure = f"{closes}`rltrader-gateway transfer {name} {MAIN}` moves its cash; or put it back into the file"
            words.append(f"{name} is not in the file, {content}: no desk reaches it: {cure}")
    return words


def alarmed_log(settings: GatewaySettings, plain: EventLogger, clock: Clock) -> AlarmedLog:
    """Return the log of a gateway: its alarms run the operator's program."""
    table = settings.upstream.alarms
    command = AlarmCommand(table.command, table.per_minute, table.timeout_s, "gateway", plain)
    return AlarmedLog(plain, command, "gateway", clock.now_ns)


async def serve(settings: GatewaySettings, keys: Credentials, clock: Clock, plain_log: Log, folder: Path) -> None:
    """Run the gateway, with its journal in `folder`, until cancelled.

    Raises ConfigError, StateDirError, JournalError, BrokerError, OSError.
    """
    pairs, problems = usable_keys(settings)
    if clock.is_simulated:
        plain_log.market_time = lambda: new_york_text(clock.now_ns())
    log = alarmed_log(settings, plain_log, clock)
    lock = AccountLock(
        lock_folder(), Holder("gateway", str(folder), os.getpid()), settings.upstream.address("trading_url")
    )
    lock.claim_key(keys.key)
    table = settings.gateway
    rotate_when_due(folder, table.account, table.rotate_mib, log)
    journal = open_journal(folder, table.account, table.ballast_mib)
    if journal.unreserved:
        log("no_ballast", problem=journal.unreserved)
    upstream = Upstream(settings.upstream, keys, clock, log)
    try:
        if not pairs and not journal.books.is_needed:
            raise problems[0]
        check = clock_check(settings, journal, upstream, clock, log)
        await check.at_start(settings.upstream.alpaca.handshake_timeout_s)
        await _open(settings, journal, upstream, clock, log)
        lock.claim_number(journal.books.number)
        keep_start(folder, settings)
        for words in (*map(str, problems), *unlike_file(settings, journal.books)):
            log("gateway_file_differs", detail=words)
        settings = await with_feeds(settings, upstream, folder, log)
        gateway = Gateway(settings, journal, upstream, clock, log, check)
        clients = Clients(gateway, pairs)
        relay = MarketRelay(gateway, clients, log)
        service = Service()
        control, port = folder / CONTROL_SOCKET, settings.gateway.port
        async with GatewayServer(gateway, clients, relay, port=port, control=control) as server:
            gateway.serve_to(server.publish, server.on_state, server.listens)
            log("gateway_started", port=server.port, account=journal.books.number, sub_accounts=sorted(pairs))
            async with asyncio.TaskGroup() as group:
                group.create_task(gateway.run(), name="gateway")
                group.create_task(_feed(service, gateway), name="watchdog")
                group.create_task(check.run(), name="clock")
                group.create_task(server.keep_control(), name="control")
                for name, work in _watchers(settings, GatewayStatusFile(server, folder), plain_log):
                    group.create_task(supervise(name, work, gateway.watcher_failed), name=name)
    finally:
        await journal.close()
        await upstream.close()
        lock.close()


def _watchers(settings: GatewaySettings, status_file: GatewayStatusFile, log: Log) -> Iterator[tuple[str, Work]]:
    """Yield the tasks that only show the gateway: a failed one is restarted, and no desk notices."""
    yield "status", status_file.run
    if settings.upstream.metrics.enabled:
        yield "metrics", partial(serve_metrics, status_file.registry(), settings.upstream.metrics.port, log)


def clock_check(
    settings: GatewaySettings, journal: GatewayJournal, upstream: Upstream, clock: Clock, log: EventLogger
) -> ClockCheck:
    """Return the clock check: the gateway's time follows a leap that the broker's clock confirms."""
    return ClockCheck(
        upstream.clock, clock, log, settings.upstream.alpaca.clock_skew_max_s, lambda: journal.books.now_ns
    )


async def _open(
    settings: GatewaySettings, journal: GatewayJournal, upstream: Upstream, clock: Clock, log: EventLogger
) -> None:
    """Journal the opening of a fresh journal, and the capital of new sub-accounts."""
    if journal.fresh:
        event = await opening(settings, upstream, clock.now_ns())
        for words in former_desks(event):
            log("gateway_file_differs", detail=words)
        journal.take(event)
    _refuse_unlike(settings, journal.books)
    moves = newcomers(settings, journal.books, clock.now_ns())
    if moves:
        try:
            cash = wire.decimal((await upstream.reads.account()).get("cash"), "cash")
        except (BrokerError, wire.Malformed):
            cash = Decimal(0)
        moves = as_there_is(moves, cash, journal.books)
    for move in moves:
        journal.take(move)
    await journal.durable()


async def with_feeds(settings: GatewaySettings, upstream: Upstream, folder: Path, log: EventLogger) -> GatewaySettings:
    """Return the settings with the feeds of the account's data plan, where they say `auto`.

    A broker that is away delays no exit: the last start's feeds are used. Raises BrokerError at the first start.
    """
    if AUTO not in (settings.upstream.feed.name, settings.upstream.feed.options):
        return settings
    former, how = kept_feed(folder), "by the account's data plan"
    try:
        feeds = await feeds_of_plan(upstream.market, "SPY", options=True)
    except BrokerError as error:
        if former is None:
            raise
        feeds, how = former, f"as at the last start; the account's data plan cannot be asked ({error})"
    if feeds != former:
        write_feed(folder, *feeds)
    log("feed_chosen", name=feeds[0], options=feeds[1], how=how)
    return dataclasses.replace(settings, upstream=settings.upstream.with_feed(*feeds))


async def _feed(service: Service, gateway: Gateway) -> None:
    """Feed the watchdog while the event loop runs and the journal's thread answers."""
    service.ready()
    while True:
        try:
            async with asyncio.timeout(JOURNAL_S):
                await gateway.journal.beat()
        except TimeoutError:
            raise TimeoutError(f"the journal's disk did not answer for {JOURNAL_S:g} s") from None
        gateway.beat()
        service.watchdog()
        service.status(f"{len(gateway.books.accounts)} sub-accounts, {gateway.away() or 'the broker is there'}")
        await asyncio.sleep(look_s(BEAT_S))


def _run(settings: GatewaySettings, keys: Credentials, folder: Path) -> int:
    """Serve until a signal ends it, on the loop of its clock."""
    clock = clock_of(settings.upstream)
    with asyncio.Runner(loop_factory=clock.new_loop) as runner:
        runner.run(serve_until_signal(settings, keys, clock, folder))
    return 0


async def serve_until_signal(settings: GatewaySettings, keys: Credentials, clock: Clock, folder: Path) -> None:
    """Serve until SIGTERM or SIGINT. Raises as `serve`; of several failed tasks the first error."""
    log = Log(settings.upstream.log.level, settings.upstream.log.format)
    running = asyncio.ensure_future(serve(settings, keys, clock, log, folder))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        try:
            await running
        except BaseExceptionGroup as several:  # of its tasks: the first failure ended the others
            raise innermost(several) from None


# --- what would happen ------------------------------------------------------------------------------------------------


async def check(settings: GatewaySettings, keys: Credentials, books: Ledgers, kind: str) -> list[tuple[bool, str]]:
    """Try the account and the files; return each finding as (right, words). `books`, `kind`: of the journal."""
    findings: list[tuple[bool, str]] = []
    try:
        client_keys(settings)
        findings.append((True, f"keys of {', '.join(settings.sub_accounts)} in {settings.gateway.keys_dir}"))
    except ConfigError as error:
        findings.append((False, str(error)))
    clock = clock_of(settings.upstream)
    upstream = Upstream(settings.upstream, keys, clock, Log("error", "json", stream=io.StringIO()))
    try:
        _refuse_unlike(settings, books, kind)
        findings += await _account_findings(settings, upstream, books, clock.now_ns())
        findings += [(False, words) for words in await symbol_problems(upstream, settings.sub_accounts.values())]
    except BrokerError as error:
        findings.append((False, f"account: {account_problem(error)}"))
    except (ConfigError, wire.Malformed) as error:
        findings.append((False, f"account: {error}"))
    finally:
        await upstream.close()
    findings += [(True, words) for words in shared_symbols(settings.sub_accounts.values())]
    findings += [(False, words) for words in limits_in_cents(settings)]
    port, metrics = settings.gateway.port, settings.upstream.metrics
    problem = refused("gateway.port", port, "does a gateway run?")
    findings.append((not problem, problem or f"port {port} is free"))
    if metrics.enabled and not problem:  # a running gateway uses this port too
        problem = refused("metrics.port", metrics.port, "end what has it, or choose another")
        findings.append((not problem, problem or f"port {metrics.port} for metrics is free"))
    return findings


async def _account_findings(
    settings: GatewaySettings, upstream: Upstream, books: Ledgers, now_ns: int
) -> list[tuple[bool, str]]:
    """Return findings on the account, and on capital that a start would give. Raises as `opening`, `newcomers`."""
    if not books.number:  # no journal yet
        event = await opening(settings, upstream, now_ns)
        account, positions, number = event.account, event.positions, event.number
        cash = wire.decimal(account.get("cash"), "cash")
        rest_cash = cash - sum(event.capital.values(), Decimal(0))
        begins = [f"{name} begins with {usd} USD" for name, usd in event.capital.items()]
        begins.append(f"{MAIN} keeps {rest_cash} USD, all that is held, and {len(event.orders)} orders")
        begins += former_desks(event)
    else:
        account, positions = await upstream.reads.account(), await upstream.reads.positions()
        number, cash = wire.text(account.get("account_number")), wire.decimal(account.get("cash"), "cash")
        if number != books.number:
            raise ConfigError(books.other_account(number))
        fresh = as_there_is(newcomers(settings, books, now_ns), cash, books)
        begins = [f"{move.target} begins with {move.cash} USD of {MAIN}'s" for move in fresh]
        begins += unlike_file(settings, books)
        view = OrderView(books, books.marks, settings.account, settings.sub_accounts, now_ns)
        begins += [f"purchase {name} would be cancelled: {why}" for name, why in denied_entries(view).items()]
    holdings = _positions_text({str(row["symbol"]): str(row["qty"]) for row in positions}) or "nothing"
    account_words = f"{settings.gateway.account} account {number}: {cash} USD, holds {holdings}"
    trades = [(False, f"account {number} may not trade: {words}") for words in (block_reason(account),) if words]
    return [*((True, words) for words in (account_words, *begins)), *trades]


# --- asking a running gateway -----------------------------------------------------------------------------------------


class _Local(http.client.HTTPConnection):
    """A connection to the operator's socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60.0)
        self._path = path

    def connect(self) -> None:
        """Open the Unix socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with address(self._path.parent) as short:
            self.sock.connect(short)


_PANIC_ADVICE = "; without it, rltraderctl panic with the account's own keys closes all that the account holds"


def ask(settings: GatewaySettings, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Send a request to the running gateway; return its JSON.

    Raises ConfigError for its refusal, or where none runs, and OSError where it took the request and did not answer.
    """
    file = Path(settings.gateway.state_dir) / CONTROL_SOCKET
    connection, is_there = _Local(file), False
    try:
        connection.connect()
        is_there = True
        connection.request(method, path, body=None if body is None else json.dumps(body))
        answer = connection.getresponse()
        content = json.loads(answer.read() or b"null")
    except (OSError, ValueError, http.client.HTTPException) as error:
        if not is_there:
            cure = "rltrader-gateway starts it" + _PANIC_ADVICE * (path == "/panic")
            cure = "run it as the gateway's user or as root" if isinstance(error, PermissionError) else cure
            raise ConfigError(f"{file}: no gateway answers there ({error}): {cure}") from None
        cure = "the command may still be carried out; look at `rltrader-gateway status` before you repeat it"
        cure = "it hangs: its log may say why; end and start it again" if method == "GET" else cure
        cure += "; while it hangs, rltraderctl panic with the account's own keys closes all" * (path == "/panic")
        raise OSError(f"{file}: the gateway took this and gave no answer ({error}): {cure}") from None
    finally:
        connection.close()
    if answer.status != 200:
        raise ConfigError(str(content.get("message") if isinstance(content, dict) else content))
    return content


def show(status: dict[str, Any]) -> str:
    """Return a status as a table: sub-accounts, their sum, the broker's figures."""
    lines = [f"{'':14}{'cash':>16}{'equity':>16}{'orders':>8}  positions"]
    rows = [*status["accounts"], *({"open_orders": "", **status[name], "name": name} for name in ("sum", "broker"))]
    for row in rows:
        figures = f"{_cents(row['cash']):>16}{_cents(row['equity']):>16}{row['open_orders']:>8}"
        lines.append(f"{row['name']:14}{figures}  {_positions_text(row['positions'])}")
    lines += [f"DIFFERENCE: {words}" for words in status["differences"]]
    if status.get("reported_ns") and not status["differences"] and _apart(status["sum"], status["broker"]):
        when = new_york_text(status["reported_ns"])[11:19]
        lines.append(f"the broker's figures are those of {when}, before the newest fills: it is asked each minute")
    if status["doubts"]:
        lines.append("no new risk until they agree; `rltrader-gateway accept` gives away what no line will explain")
    lines += [f"SHORT: {words}" for words in (*_debt_texts(status["accounts"]), *_shortage_texts(status["accounts"]))]
    if (halt := status["halt"]) is not None:
        ends = "the New York day" if halt["reason"] == "day_loss" else "`rltrader-gateway resume`"
        lines.append(f"HALT: {halt['reason']}: {halt['detail']}; {ends} ends it")
    if why := status.get("blocked"):  # a gateway of a former version does not say
        lifts = f"`rltrader-gateway lift {ALL}` lifts that" if FENCE in why else "look at its page at the broker"
        lines.append(f"BLOCKED: the account takes no orders, and maybe no exit: {why}; {lifts}")
    fenced_names = [row["name"] for row in status["accounts"] if row["suspended"]]
    lines += [f"FENCED: {_fence_text(name)}" for name in fenced_names]
    lines.append(status["away"] or "the broker is there")
    return "\n".join(lines) + "\n"


def _cents(usd: str) -> str:
    """Return an amount with two decimals; "" for a figure that the broker did not send."""
    return f"{Decimal(usd):.2f}" if usd else ""


def _apart(total: dict[str, Any], broker: dict[str, Any]) -> bool:
    """Return whether the sum and the newest report are of different times."""
    return any(total[figure] != broker[figure] for figure in ("cash", "positions"))


def _debt_texts(accounts: list[dict[str, Any]]) -> Iterator[str]:
    """Yield, in words, what a person withdrew of others' cash, and the cure."""
    cash = {row["name"]: Decimal(row["cash"]) for row in accounts}
    debt, lenders = -cash.get(MAIN, Decimal(0)), {name: usd for name, usd in sorted(cash.items()) if usd > 0}
    if debt < OWES_USD or not lenders:
        return
    first, names = next(iter(lenders)), " and ".join(lenders)
    move = f"`rltrader-gateway transfer {first} {MAIN} --cash {min(debt, lenders[first])} --why WORDS`"
    yield f"a person took {debt} USD that {names} have by the books: pay them in, or {move} takes them from {first}"


def _shortage_texts(accounts: list[dict[str, Any]]) -> Iterator[str]:
    """Yield, in words, what one is short of while others hold it, and the cure."""
    for account in accounts:
        name = account["name"]
        for symbol, quantity in account["positions"].items():
            owners = [row["name"] for row in accounts if Decimal(row["positions"].get(symbol, "0")) > 0]
            if Decimal(quantity) >= 0 or not owners:
                continue
            missing = quantity.removeprefix("-")
            move = f"`rltrader-gateway transfer {owners[0]} {name} --symbol {symbol} --quantity {missing} --why WORDS`"
            buys = "buy them back" if name == MAIN else f"`rltrader-gateway panic {name}` buys them back"
            who = "a person" if name == MAIN else name
            yield (
                f"{who} sold {missing} {symbol} that {' or '.join(owners)} holds by the books, and the account has "
                f"less: {buys}, or {move}, and the cash that they brought the other way"
            )


def _positions_text(positions: dict[str, str]) -> str:
    return first_named([f"{quantity} {symbol}" for symbol, quantity in positions.items() if quantity != "0"])


def _fence_text(name: str) -> str:
    return f"{name} takes no new risk until `rltrader-gateway lift {name}`"


def closing_text(rows: list[dict[str, Any]]) -> str:
    """Return, in words, the result of closing each position of a sub-account."""
    lines = []
    for row in rows:
        body = row["body"]
        if row["status"] == 200:
            lines.append(f"{row['symbol']}: {body['side']} {body['qty']} is on its way")
        else:
            lines.append(f"{row['symbol']}: NOT CLOSED: {body.get('message')}")
    return "\n".join(lines or ["it holds nothing"]) + "\n"


# --- the program ------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `rltrader-gateway`; returns the exit code: 0, 1 for a failed check, 2 for wrong use.

    1 also stands for passing causes (a disk, a lock, a broker that is away), and for any mistake while a desk holds
    something: systemd starts the gateway again.
    """
    options = _options(arguments)
    problem: Exception
    try:
        return _run_command(options)
    except MayPass as error:
        problem, code = error, FAILED
    except (ConfigError, AccountTakenError) as error:
        problem, code = error, FAILED if _starts_for_a_desk(options) else EXIT_CODE
    except (StateDirError, JournalError) as error:
        problem, code = error, EXIT_CODE
    except BrokerError as error:
        problem, code = BrokerError(account_problem(error)), FAILED
    except (wire.Malformed, WriteFailed, OSError) as error:
        problem, code = error, FAILED
    sys.stderr.write(f"rltrader-gateway: {str(problem) or type(problem).__name__}\n")
    return code


def _starts_for_a_desk(options: argparse.Namespace) -> bool:
    """Return whether this is a start while a desk behind the gateway holds something or has an order."""
    if options.command or options.check:
        return False
    try:
        file = standing(state_dir_of(options.config))
        return file.exists() and read_books(file).is_needed
    except (StateDirError, JournalError, OSError):
        return False


def _run_command(options: argparse.Namespace) -> int:
    if options.command == "init":
        if options.config.exists():
            raise ConfigError(f"{options.config}: exists already: move it away, or edit it by hand")
        o = options
        request = SetupRequest(o.config, o.sub, o.live, o.url, o.port, o.state_dir, o.keys_dir)
        sys.stdout.write(asyncio.run(init(request, _account_keys())))
        return 0
    is_mistyped = options.command and not options.config.exists()  # the last start may have been another gateway's
    if options.check or options.command in ("keys", "desk") or is_mistyped:
        settings = load_gateway(options.config)
    else:
        settings = load_or_last(options.config)
    if settings.mistake and options.command:
        sys.stderr.write(f"rltrader-gateway: {settings.mistake}\nby the file of the last start:\n")
    match options.command:
        case "keys":
            return _keys(settings, options.name)
        case "desk":
            _check_name(settings, options.name)
            sys.stdout.write(desk_file(settings, options.name, options.strategy))
            return 0
        case "verify":
            report = verify(options.file or standing(Path(settings.gateway.state_dir)))
            outcome = report.difference or f"{report.stepped} events stepped again, identical"
            sys.stdout.write(f"{report.rows} rows, {report.snapshots} snapshots: {outcome}\n")
            return FAILED if report.difference else 0
        case "rotate":
            rotation = rotate_idle(Path(settings.gateway.state_dir), settings.gateway.account)
            sizes = f"{rotation.before >> 20} MiB: {rotation.old}; the journal has {rotation.after >> 20} MiB"
            sys.stdout.write(f"rotated at row {rotation.row:,}, chain head {rotation.head}\nwhat was, {sizes}\n")
            return 0
        case "status":
            status = ask(settings, "GET", "/status")
            sys.stdout.write(json.dumps(status) + "\n" if options.json else show(status))
            return 0
        case "transfer":
            body = {
                "source": options.source, "target": options.target, "cash": options.cash, "symbol": options.symbol,
                "quantity": options.quantity, "by": _operator(options), "why": options.why,
            }  # fmt: skip
            return _print_result("transfer", show(ask(settings, "POST", "/transfer", body)))
        case "accept":
            body = {"what": options.what, "figure": options.figure, "account": options.account}
            body |= {"by": _operator(options), "why": options.why}
            return _print_result("accept", show(ask(settings, "POST", "/accept", body)))
        case "halt" | "resume":
            body = {"by": _operator(options), "why": options.why, "seen": getattr(options, "seen", "")}
            return _print_result(options.command, show(ask(settings, "POST", f"/{options.command}", body)))
        case "lift":
            body = {"account": options.name, "by": _operator(options), "seen": options.seen}
            return _print_result("lift", show(ask(settings, "POST", "/lift", body)))
        case "panic":
            rows = ask(settings, "POST", "/panic", {"account": options.name, "by": _operator(options)})
            _print_result("panic", closing_text(rows) + f"{_fence_text(options.name)}\n" * (options.name != ALL))
            return 0 if all(row["status"] == 200 for row in rows) else FAILED
    if options.check:
        findings = asyncio.run(check(settings, _account_keys(), *_journal_books(settings)))
        for right, words in findings:
            sys.stdout.write(f"{'ok  ' if right else 'FAIL'} {words}\n")
        return 0 if all(right for right, _ in findings) else FAILED
    settings = _fitting(settings, options.config)
    return _run(settings, _account_keys(), Path(settings.gateway.state_dir).absolute())


def _operator(options: argparse.Namespace) -> str:
    return options.who.strip() or person()


def _print_result(command: str, text: str) -> int:
    with result_of(f"rltrader-gateway: {command}"):
        sys.stdout.write(text)
    return 0


def _fitting(settings: GatewaySettings, file: Path) -> GatewaySettings:
    """Return settings that fit the journal; for a file with a mistake those of the last start, while desks need them.

    Raises ConfigError, the mistake, while desks hold nothing and have no order.
    """
    books, kind = _journal_books(settings)
    try:
        _refuse_unlike(settings, books, kind)
    except ConfigError as error:
        settings = last_start(file, error)
    if settings.mistake and not books.is_needed:
        raise ConfigError(settings.mistake)
    return settings


def _journal_books(settings: GatewaySettings) -> tuple[Ledgers, str]:
    """Return the books of a gateway's journal, and "paper" or "live" for its account ("" without a journal)."""
    file = standing(Path(settings.gateway.state_dir))
    return (read_books(file), kept_for(file)) if file.exists() else (Ledgers(), "")


def _refuse_unlike(settings: GatewaySettings, books: Ledgers, kind: str = "") -> None:
    """Raise ConfigError for a journal that does not fit the file.

    It is of another account, its `kind` (paper or live) differs, new capital exceeds `main`'s, or a guard's prefix was
    another sub-account's, whose guard's sales would be booked as this one's.
    """
    expected = settings.gateway.account_number
    if kind and kind != settings.gateway.account:
        raise ConfigError(f"the journal is of a {kind} account, gateway.account is {settings.gateway.account}")
    if expected and books.number and books.number != expected:
        raise ConfigError(f"the journal is of account {books.number}, gateway.account_number is {expected}")
    owners = dict(books.guards)
    for prefix, name in settings.guards:
        if (owner := owners.get(prefix, name)) != name and (owner in settings.sub_accounts or books.works(owner)):
            words = f"which {owner} had at the last start, and its guard may still use: give {name} another one"
            raise ConfigError(f"sub_account.{name}.guard_prefix is {prefix[:-1]!r}, {words}")
    if books.number:
        newcomers(settings, books, 0)


def _account_keys() -> Credentials:
    keys = credentials()
    if not keys.complete:
        raise ConfigError(
            f"the account's keys are missing: expected {' and '.join(keys.missing)} in the gateway's environment"
        )
    return keys


def _check_name(settings: GatewaySettings, name: str) -> None:
    if name not in settings.sub_accounts:
        raise ConfigError(f"{name} is no sub-account: expected one of {', '.join(settings.sub_accounts)}")


def _keys(settings: GatewaySettings, name: str) -> int:
    _check_name(settings, name)
    sys.stdout.write(f"written: {make_keys(settings, name)}\n")
    return 0


_NAMED, _WHY = "of the sub-account", "the reason; it is journaled"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    line = CommandLine(
        prog=called("rltrader-gateway"),
        description="One account, several strategies: holds the account's keys, and serves each sub-account as Alpaca "
        "would. docs/GATEWAY.md explains it.",
    )
    add_version(line)
    file = "the gateway's file (%(default)s)"
    line.add_argument("--config", type=Path, default=DEFAULT_FILE, metavar="FILE", help=file)
    line.add_argument("--check", action="store_true", help="say what would happen, and end")
    commands = line.add_subparsers(dest="command", metavar="COMMAND")
    first = _command(commands, "init", "write the file and the sub-accounts' keys from what the account holds")
    sub = "a sub-account: NAME:CAPITAL[:KINDS[:SYMBOLS]], such as scalper:10000:options:SPY; once for each"
    first.add_argument("--sub", action="append", default=[], metavar="SUB", help=sub)
    first.add_argument("--live", action="store_true", help="the live account instead of the paper one")
    first.add_argument("--url", default="", metavar="URL", help="a server on this machine instead of Alpaca")
    first.add_argument("--port", type=int, default=8433, help="port on 127.0.0.1 (%(default)s)")
    first.add_argument("--state-dir", default="gateway", metavar="DIR", help="folder of journal and keys (%(default)s)")
    first.add_argument("--keys-dir", default="", metavar="DIR", help="folder of the keys (STATE_DIR/keys)")
    desk = _command(commands, "desk", "print the config.toml of a desk that trades a sub-account")
    desk.add_argument("name", help=_NAMED)
    strategy = "what it trades by: a strategy's name or its file (none: to be filled in)"
    desk.add_argument("--strategy", default="", metavar="NAME", help=strategy)
    keys = _command(commands, "keys", "make the keys of a sub-account that was added to the file")
    keys.add_argument("name", help=_NAMED)
    status = _command(commands, "status", "sub-accounts, their sum, and the broker's figures")
    status.add_argument("--json", action="store_true", help="as JSON")
    move = _command(commands, "transfer", "move cash or shares from one sub-account to another, journaled")
    move.add_argument("source", help="the sub-account that gives; main is what no desk has")
    move.add_argument("target", help="the sub-account that gets it")
    move.add_argument("--cash", default="0", metavar="USD", help="how much cash (%(default)s)")
    move.add_argument("--symbol", default="", help="of the shares that are moved (none)")
    move.add_argument("--quantity", default="0", help="how many of them (%(default)s)")
    move.add_argument("--why", default="", metavar="WORDS", help=_WHY)
    words = "give a sub-account what its line will never explain of a difference with the broker, journaled"
    accept = _command(commands, "accept", words)
    accept.add_argument("what", help="the symbol that differs, or `cash`")
    accept.add_argument("figure", help="how much of it the broker has, as you have seen there: SPY 12, cash 10234.51")
    accept.add_argument("--account", default=MAIN, metavar="NAME", help="whose it is, or was (%(default)s)")
    accept.add_argument("--why", default="", metavar="WORDS", help=_WHY)
    halt = _command(commands, "halt", "allow no new risk to anybody")
    resume = _command(commands, "resume", "allow new risk again")
    for command in (halt, resume):
        command.add_argument("--why", default="", metavar="WORDS", help=_WHY)
    words = "cancel and close all of one sub-account, or of the account (`account`), a person's holdings too"
    close = _command(commands, "panic", words)
    close.add_argument("name", help="the sub-account, or `account`")
    lift = _command(commands, "lift", "lift the fence that a panic left on a sub-account, or the account's own")
    lift.add_argument("name", help="the sub-account, or `account`")
    for command in (move, accept, halt, resume, close, lift):
        command.add_argument("--who", default="", metavar="NAME", help="who asks for it (this user); it is journaled")
    for command in (resume, lift):
        command.add_argument("--seen", default="", metavar="NS", help="the time of your look, as a refusal names it")
    proof = _command(commands, "verify", "step the journal again and compare")
    proof.add_argument("--file", type=Path, metavar="FILE", help="another file of it, as in the folder rotated")
    words = "go on in a new file from the newest state; what was goes to the folder rotated (stopped gateway)"
    _command(commands, "rotate", words)
    return line.parse_args(arguments)


def _command(commands: Any, name: str, words: str) -> argparse.ArgumentParser:
    """Add a command; `words` stand in the list of commands and above its own options."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=words, description=words)
    return command
