"""Checks of `rltraderd --check`: of this host (calendar, folders, disk, locks) and of the broker's account."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from msgspec import UNSET

from daemon.app.live.prepare import Live
from daemon.app.operator_side import signed_keys
from daemon.brokers.api import AccountSummary, Admin, Broker, BrokerError, BrokerRefused, BrokerUnreadable, LedgerStream
from daemon.config.checks import LOOPBACK
from daemon.config.load import ConfigError, Credentials, DeskSettings
from daemon.config.strategy import strategy_of
from daemon.config.tables import OPTION_FEEDS, STOCK_FEEDS
from daemon.core.limits import AUTO
from daemon.engine.state_dir import check_identity, locked_by, peek
from daemon.host.account_lock import AccountLock, Holder, lock_folder
from daemon.host.loopback import refused
from daemon.host.own_files import StateDirError
from daemon.host.time.calendar import CalendarError, SessionCalendar
from daemon.host.time.clock import Clock, skew_ns
from daemon.journal.journal import FILE
from daemon.journal.rows import JournalError
from daemon.operator.heartbeat import guard_key
from strategies.kit.contract import Spec
from strategies.kit.units import DAY_NS, HOUR_NS, SECOND_NS
from strategies.registry import takes_streams

OK, WARN, FAIL = "ok", "warn", "FAIL"


@dataclass(frozen=True, slots=True)
class CheckLine:
    """One line of a check: its subject, its status, and the finding (with the cure if not ok)."""

    subject: str
    verdict: str
    text: str


FREE_MIB_LEAST = 500
FREE_MIB_GOOD = 5_000
HORIZON_DAYS_LEAST, HORIZON_DAYS_GOOD = 15, 60


def calendar_finding(clock: Clock) -> CheckLine:
    now_ns = clock.now_ns()
    today = datetime.fromtimestamp(now_ns / SECOND_NS, UTC).date().isoformat()
    try:
        calendar = SessionCalendar.to_horizon(today)
        upcoming = calendar.at(now_ns) or calendar.next_after(now_ns)
    except CalendarError as error:
        return CheckLine("calendar", FAIL, str(error))
    last = calendar.sessions[-1]
    days = (last.close_ns - now_ns) // DAY_NS
    minutes = (upcoming.close_ns - upcoming.open_ns) // (60 * SECOND_NS)
    text = f"session {upcoming.date} ({minutes} minutes) runs or comes next; known until {last.date}, {days} days"
    if days >= HORIZON_DAYS_GOOD:
        return CheckLine("calendar", OK, text)
    return CheckLine("calendar", FAIL if days < HORIZON_DAYS_LEAST else WARN, f"{text}: update exchange_calendars")


def state_dir_findings(settings: DeskSettings, live: Live | None) -> list[CheckLine]:
    """Check the state directory, its permissions, and its disk."""
    path = settings.paths.state_dir
    try:
        existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    except OSError as error:
        return [CheckLine("state directory", FAIL, f"{path}: {error.strerror}: choose another")]
    if not existing.is_dir():
        return [CheckLine("state directory", FAIL, f"{path}: {existing} is no folder: choose another")]
    if not os.access(existing, os.W_OK | os.X_OK):
        lines = [CheckLine("state directory", FAIL, f"{path}: {existing} is not writable: check its owner and mode")]
    else:
        lines = [_journal(path, live)]
    if existing == path:
        lines.append(_permissions(path))
    free = shutil.disk_usage(existing).free >> 20
    verdict = OK if free >= FREE_MIB_GOOD else WARN if free >= FREE_MIB_LEAST else FAIL
    cure = "" if verdict == OK else f": make room, {FREE_MIB_GOOD:,} MiB are good for months"
    return [*lines, CheckLine("disk", verdict, f"{free:,} MiB free where the journal is{cure}")]


def _journal(path: Path, live: Live | None) -> CheckLine:
    try:
        meta = peek(path)
        if meta is not None and live is not None:
            check_identity(path, meta, live.meta())
        holder = locked_by(path)
    except (StateDirError, JournalError, OSError) as error:
        return CheckLine("state directory", FAIL, str(error))
    if holder:
        return CheckLine(
            "state directory", WARN, f"{path}: in use by process {holder}: a second daemon would be refused"
        )
    return CheckLine("state directory", OK, f"{path}: " + ("resumes a journal" if meta else "new"))


def other_desk_findings(settings: DeskSettings, broker: Broker, keys: Credentials, *, dry_run: bool) -> list[CheckLine]:
    """Report another desk of this host on the same account; it would make this desk's start fail."""
    if dry_run and not takes_streams(strategy_of(settings)):
        return []
    folder, path = lock_folder(), settings.paths.state_dir
    try:
        if not folder.is_dir() or locked_by(path):  # no lock exists, or this desk runs
            return []
    except (StateDirError, OSError):  # the finding about the state directory reports it
        return []
    lock = AccountLock(folder, Holder(settings.desk.name, str(path.absolute()), 0), broker.service(settings))
    problem = lock.streams_taken(keys.key) if dry_run else lock.taken(keys.key)
    return [CheckLine("account lock", FAIL, problem)] if problem else []


def metrics_findings(settings: DeskSettings) -> list[CheckLine]:
    """Report whether the metrics' port is free; on another desk's port this desk would stay unmonitored."""
    table, path = settings.metrics, settings.paths.state_dir
    try:
        if not table.enabled or locked_by(path):  # a running desk holds it
            return []
    except (StateDirError, OSError):  # the finding about the state directory reports it
        return []
    problem = refused("metrics.port", table.port, "end what has it, or choose another: each desk needs its own")
    return [CheckLine("metrics", WARN if problem else OK, problem or f"metrics.port {table.port} is free")]


def _permissions(path: Path) -> CheckLine:
    """Check the file modes; a folder closed to others protects its files anyway."""
    files = [file for file in (path, path / FILE) if file.exists()]
    if path.stat().st_mode & stat.S_IRWXO:
        open_to_all = [file.name for file in files if file.stat().st_mode & stat.S_IRWXO]
        text = f"{', '.join(open_to_all)}: open to every user: chmod -R o-rwx {path}"
        return CheckLine("permissions", WARN, text)
    return CheckLine("permissions", OK, "the state directory is closed to other users")


def protection_findings(settings: DeskSettings, *, dry_run: bool) -> list[CheckLine]:
    """Report the stops that rest at the broker while the daemon is down, if any."""
    rules = settings.protection
    if settings.trading().protection is UNSET:
        return []
    if dry_run and rules.rest_at_broker == AUTO:
        text = "orders to the broker have one; this dry run has none: protection.rest_at_broker = true has it here too"
        return [CheckLine("protection", WARN, f"no stop rests: {text}")]
    if trades_shares(settings):
        far = f"{rules.disaster_stop:.0%} below the last close" if rules.disaster_stop else _distance(settings)
        return [CheckLine("protection", OK, f"a stop rests {far}, until it is cancelled")]
    text = f"a {rules.options} for the day rests {_distance(settings)}; what elects an option's stop is unknown"
    return [CheckLine("protection", WARN, f"{text}: by the bid a wide quote would sell")]


def _distance(settings: DeskSettings) -> str:
    far, sizing = settings.protection.distance, settings.sizing
    follows = f", and follows {far * sizing.trails:.1%} below the highest price since" if sizing.trails else ""
    return f"{far * sizing.stop_loss:.0%} below the price paid{follows}"


def operator_findings(settings: DeskSettings) -> list[CheckLine]:
    """Check the needs of commands, telemetry and alarms on this host. Contacts no MQTT broker: it is optional."""
    lines, mqtt, command = [], settings.mqtt, settings.alarms.command
    if mqtt.enabled:
        try:
            keys = signed_keys(settings)
            commands_text = (
                f"commands signed by {', '.join(sorted(keys.commands))}" if mqtt.commands else "no commands taken"
            )
            missing = bool(mqtt.ca_file) and not Path(mqtt.ca_file).is_file()
            text = f"; mqtt.ca_file {mqtt.ca_file} is no file: the broker cannot be trusted" if missing else ""
            lines.append(CheckLine("mqtt", WARN if missing else OK, f"{mqtt.host}:{mqtt.port}, {commands_text}{text}"))
        except ConfigError as error:
            lines.append(CheckLine("mqtt", FAIL, str(error)))
    elif settings.control.signed:
        try:
            keys = signed_keys(settings)
            lines.append(CheckLine("control", OK, f"commands signed by {', '.join(sorted(keys.commands))}"))
        except ConfigError as error:
            lines.append(CheckLine("control", FAIL, str(error)))
    lines += _guard_findings(settings)
    if command and not os.access(command[0], os.X_OK):
        lines.append(CheckLine("alarms", WARN, f"alarms.command {command[0]} cannot be run: mend its path or its mode"))
    return lines


def _guard_findings(settings: DeskSettings) -> list[CheckLine]:
    """Report the desk's guard and its paths; nothing without a guard."""
    guard, mqtt = settings.guard, settings.mqtt
    if not guard.prefix:
        return []
    try:
        guard_key(guard)
    except ConfigError as error:
        return [CheckLine("guard", FAIL, str(error))]
    if guard.drop_dir and not os.access(guard.drop_dir, os.W_OK):
        text = f"guard.drop_dir {guard.drop_dir} cannot be written: mount it, or mend its rights"
        return [CheckLine("guard", WARN, text)]
    paths = [f"MQTT at {mqtt.host}"] * mqtt.enabled + [guard.drop_dir] * bool(guard.drop_dir)
    if mqtt.enabled and not guard.drop_dir and mqtt.host in LOOPBACK:
        text = "its one path is the MQTT broker of this host, which dies with it: a guard then hears nothing"
        return [CheckLine("guard", WARN, text)]
    does = {"alarm": "it tells", "protect": "it tells, and protects", "close": "it tells, and closes everything"}
    text = f"heartbeat by {' and '.join(paths)}; on silence {does[guard.act]} (rltrader-guard --check, on its own host)"
    return [CheckLine("guard", OK, text)]


STREAM_ASKED_NS = 7 * DAY_NS
OPTIONS_LEVEL = 2  # long calls and puts


def _spec(settings: DeskSettings) -> Spec:
    return strategy_of(settings).spec


def trades_shares(settings: DeskSettings) -> bool:
    return not _spec(settings).chained


async def account_findings(
    settings: DeskSettings, broker: Broker, admin: Admin, *, dry_run: bool, shares: bool
) -> tuple[list[CheckLine], str]:
    """Check the keys' environment, the account's number and status and, for options, the level.

    Also returns the account's equity in USD as the broker writes it, "" if unknown.
    """
    try:
        account = await admin.account()
    except BrokerRefused as refusal:
        where = broker.service(settings)
        if not refusal.of_keys:
            return [CheckLine("keys", FAIL, f"{where} serves no account ({refusal}): correct that address")], ""
        return [CheckLine("keys", FAIL, f"{where.split('/')[2]} refuses them ({refusal}): {settings.right_keys}")], ""
    except BrokerError as error:
        return [
            CheckLine("keys", FAIL, f"the trading service cannot be asked ({error}): check network and address")
        ], ""
    number, expected = account.number, settings.desk.account_number
    lines = [CheckLine("keys", OK, f"accepted for the {settings.desk.account} account {number}")]
    if expected and number != expected:
        text = f"the keys open {number}, desk.account_number is {expected}: give the right keys or number"
        lines.append(CheckLine("account number", FAIL, text))
    if account.blocked:
        lines.append(CheckLine("account", FAIL, f"it may not trade: {account.blocked}: see its page at the broker"))
    else:
        lines.append(CheckLine("account", OK, f"ACTIVE, {account.cash} USD of cash, equity {account.equity} USD"))
    if not shares:
        lines.append(_options_level(account, dry_run=dry_run))
    return [*lines, await _shorting(admin)], account.equity


async def _shorting(admin: Admin) -> CheckLine:
    """Check that the broker refuses a sale of shares that are not held, as the last guard."""
    try:
        short = await admin.short_sales()
    except BrokerError as error:
        return CheckLine("shorting", WARN, f"the account's configuration cannot be asked: {error}")
    if short.refused:
        return CheckLine("shorting", OK, f"the account refuses short sales ({short.setting})")
    return CheckLine("shorting", WARN, f"the account may sell shares that it does not hold: {short.cure}")


def _options_level(account: AccountSummary, *, dry_run: bool) -> CheckLine:
    level = account.options_level
    if level is not None and level >= OPTIONS_LEVEL:
        return CheckLine("options level", OK, f"{level}: long calls and puts may be bought")
    cure = f"{level}: {OPTIONS_LEVEL} is needed to buy calls and puts: apply for it at the broker"
    return CheckLine("options level", WARN if dry_run else FAIL, cure)


async def clock_finding(limit_s: float, admin: Admin, clock: Clock) -> CheckLine:
    asked_ns = clock.now_ns()
    try:
        broker_ns = (await admin.clock()).now_ns
    except BrokerError as error:
        return CheckLine("clock", WARN, f"the broker's clock cannot be asked: {error}")
    answered_ns = clock.now_ns()
    skew_s = skew_ns(broker_ns, asked_ns, answered_ns) / SECOND_NS
    doubt_s = (answered_ns - asked_ns) / 2 / SECOND_NS
    text = f"{skew_s:+.3f} s from the broker's, give or take {doubt_s:.3f} s"
    if abs(skew_s) - doubt_s <= limit_s:
        return CheckLine("clock", OK, text)
    return CheckLine("clock", FAIL, f"{text}, limit {limit_s:g} s: mend time synchronisation (chrony)")


async def ledger_stream_findings(settings: DeskSettings, admin: Admin, clock: Clock) -> list[CheckLine]:
    """Check that the stream of account activities accepts these keys; it is a second source and optional."""
    now_ns, is_enabled = clock.now_ns(), settings.alpaca.activity_stream
    try:
        stream = await admin.ledger_stream(now_ns - STREAM_ASKED_NS, now_ns)
    except BrokerError as error:
        stream = LedgerStream(str(error), 0, 0)
    if stream is None:
        return []
    every = f"the ledger is read every {settings.alpaca.report_every_s} s without it"
    if stream.problem:
        cure = ": set alpaca.activity_stream = false" if is_enabled else ""
        text = f"does not answer these keys ({stream.problem}); {every}{cure}"
        return [CheckLine("activity stream", WARN if is_enabled else OK, text)]
    result_text = f"answers: {stream.lines} lines of the last week, {stream.same} of them under the ledger's own ids"
    how = "it is listened to" if is_enabled else "alpaca.activity_stream = true listens to it"
    return [CheckLine("activity stream", OK, f"{result_text}; {how}")]


async def feeds_findings(
    settings: DeskSettings, admin: Admin, clock: Clock
) -> tuple[list[CheckLine], Mapping[str, float]]:
    """Check that the keys may read the feeds: a quote of the underlying and recent bars.

    Also returns the quoted prices in USD by symbol: of shares, or of an underlying, and the asks of contracts near the
    money.
    """
    if trades_shares(settings):
        return await _share_feeds(settings, admin, clock)
    symbol = _spec(settings).symbols[0]
    now_ns = clock.now_ns()
    prices: dict[str, float] = {}

    async def quote() -> str:
        return "a quote" if symbol in await admin.quotes((symbol,)) else "no quote yet"

    async def bars() -> str:
        return f"{await admin.bars(symbol, now_ns - 96 * HOUR_NS, now_ns - 60 * SECOND_NS)} bars of the last days"

    async def options() -> str:
        try:
            spot = (await admin.quotes((symbol,))).get(symbol)
        except BrokerRefused as refusal:  # reported by the other finding
            raise BrokerUnreadable(str(refusal)) from refusal
        if not spot:
            raise BrokerUnreadable(f"{symbol} has no bid")
        days = (datetime.fromtimestamp(ns / SECOND_NS, UTC).date() for ns in (now_ns, now_ns + 7 * DAY_NS))
        today, week = (day.isoformat() for day in days)
        near = (spot * Decimal("0.99"), spot * Decimal("1.01"))
        asks = await admin.contracts(symbol, (today, week), near)
        prices.update({symbol: float(spot), **{contract: float(ask) for contract, ask in asks.items()}})
        return f"{len(asks)} contracts near the money this week"

    return [
        await _check_entitlement(f"feed {settings.feed.name}", quote, settings, "name", STOCK_FEEDS),
        await _check_entitlement("history", bars, settings, "name", STOCK_FEEDS),
        await _check_entitlement(f"options {settings.feed.options}", options, settings, "options", OPTION_FEEDS),
    ], prices


def _cure(refusal: BrokerRefused, settings: DeskSettings, key: str, feeds: tuple[str, str]) -> str:
    """Return the cure for a feed that the broker refuses."""
    if refusal.unknown_keys:
        return settings.right_keys
    if not refusal.of_keys:
        return "neither keys nor plan are in the way: check the symbols, and the service's address"
    feed = getattr(settings.feed, key)
    cure = f'set it to "{feeds[1]}" (free) or "auto", or subscribe' if feed != feeds[1] else "look at the plan"
    return f'feed.{key} = "{feed}" is not in the account\'s data plan: {cure}'


async def _share_feeds(
    settings: DeskSettings, admin: Admin, clock: Clock
) -> tuple[list[CheckLine], Mapping[str, float]]:
    """Check the feeds of all shares of a desk: a quote of each, and a recent bar of the desk's interval."""
    spec, feed = _spec(settings), settings.feed.name
    symbols, now_ns = spec.symbols, clock.now_ns()
    prices: dict[str, float] = {}

    async def quotes() -> str:
        prices.update({symbol: float(bid) for symbol, bid in (await admin.quotes(symbols)).items()})
        return f"quotes of {len(prices)} of {len(symbols)} symbols"

    lines = [await _check_entitlement(f"feed {feed}", quotes, settings, "name", STOCK_FEEDS)]
    bars: dict[str, int] = {}

    async def days() -> str:
        bars.update(await admin.day_bars(symbols, now_ns - 7 * DAY_NS, now_ns - DAY_NS))
        return f"daily bars of {len(bars)} of {len(symbols)} symbols in the last days"

    async def minutes() -> str:
        for symbol in symbols:
            bars[symbol] = await admin.bars(symbol, now_ns - 96 * HOUR_NS, now_ns - 60 * SECOND_NS)
        return f"minute bars of {sum(map(bool, bars.values()))} of {len(symbols)} symbols in the last days"

    bars_of = {"bar": minutes, "session": days}[spec.decides]
    history = await _check_entitlement("history", bars_of, settings, "name", STOCK_FEEDS)
    if history.verdict == OK and (missing := [symbol for symbol in symbols if not bars.get(symbol)]):
        text = f"{history.text}: none of {', '.join(missing)}: halted, delisted or renamed; they are left alone"
        history = CheckLine("history", WARN, text)
    return [*lines, history], prices


async def _check_entitlement(
    subject: str, ask: Callable[[], Awaitable[str]], settings: DeskSettings, key: str, feeds: tuple[str, str]
) -> CheckLine:
    try:
        return CheckLine(subject, OK, await ask())
    except BrokerRefused as refusal:
        return CheckLine(subject, FAIL, f"{refusal}: {_cure(refusal, settings, key, feeds)}")
    except BrokerUnreadable as problem:
        return CheckLine(subject, WARN, f"not checked, there is no quote of the underlying now: {problem}")
    except BrokerError as error:
        return CheckLine(subject, FAIL, f"the market-data service cannot be asked ({error}): check network and address")
