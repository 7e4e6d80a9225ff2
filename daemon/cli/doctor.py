"""`rltraderd --check` of a live desk: one line for each thing that a trading host gets wrong, exit code 0 or 2.

It reads only: nothing is written, no order is sent, no stream is opened. A line is `ok`, `warn` (it would run) or
`FAIL` with the cure.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from daemon.app.live_start import DRY_RUN, Live, clock_of, prepare_live
from daemon.app.operator_side import broker_keys
from daemon.brokers.api import Account, Admin, Broker, BrokerError, BrokerRefused, BrokerUnreadable, alone
from daemon.brokers.registry import broker_of
from daemon.config.limits_shown import in_force
from daemon.config.load import EXIT_CODE, ConfigError, Credentials, Settings
from daemon.engine.state_dir import check_identity, locked_by, peek
from daemon.host.account_lock import AccountLock, Holder, lock_folder
from daemon.host.own_files import StateDirError
from daemon.host.time.calendar import CalendarError, SessionCalendar
from daemon.host.time.clock import Clock, skew_ns
from daemon.journal.journal import FILE
from daemon.journal.rows import JournalError
from daemon.models.store import ModelError
from strategies.kit.units import DAY_NS, HOUR_NS, SECOND_NS
from strategies.registry import strategy

OK, WARN, FAIL = "ok", "warn", "FAIL"
FREE_MIB_LEAST = 500
FREE_MIB_GOOD = 5_000
HORIZON_DAYS_LEAST, HORIZON_DAYS_GOOD = 15, 60
OPTIONS_LEVEL = 2  # long calls and puts


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, how it is, and what was found (with the cure where it is not ok)."""

    subject: str
    verdict: str
    told: str


def examine(settings: Settings, keys: Credentials, *, dry_run: bool) -> int:
    """Print all findings; returns 0, or 2 when one failed."""
    findings = asyncio.run(findings_of(settings, keys, dry_run=dry_run))
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        sys.stdout.write(f"{finding.subject:<{width}}  {finding.verdict:<4}  {finding.told}\n")
    failed = [finding.subject for finding in findings if finding.verdict == FAIL]
    sys.stdout.write(json.dumps({"check": "failed" if failed else "ok", "failed": failed}) + "\n")
    return EXIT_CODE if failed else 0


async def findings_of(settings: Settings, keys: Credentials, *, dry_run: bool) -> list[Finding]:
    """All findings, in the order in which they are shown."""
    clock, broker = clock_of(settings), broker_of(settings)
    mode = DRY_RUN if dry_run else settings.desk.account
    sends = "orders are filled on paper here, nothing is sent" if dry_run else f"orders go to the {mode} account"
    found = [Finding("configuration", OK, f"desk {settings.desk.name}, mode {mode}: {sends}")]
    found += [Finding("limits", OK, in_force(settings)), _addresses(settings, broker), *_operator(settings)]
    live, model = _model(settings, keys, dry_run=dry_run)
    found += [model, _calendar(clock), *_state_dir(settings, live)]
    if not dry_run:
        found += _other_desk(settings, broker, keys)
    connection = alone(broker, settings, keys, clock)
    try:
        admin = connection.admin
        account = await _account(settings, broker, admin, dry_run=dry_run, shares=_trades_shares(settings))
        found += account
        if account[0].verdict != FAIL:
            found.append(await _skew(connection.clock_skew_max_s, admin, clock))
        found += await _feeds(settings, admin, clock)
    finally:
        await connection.close()
    return found


def _addresses(settings: Settings, broker: Broker) -> Finding:
    shown = ", ".join(dict.fromkeys(address.split("/")[2] for address in broker.services(settings)))
    told = f"{shown}; simulated clock at {settings.clock.rate:g} times real time" if settings.clock.sim_start else shown
    return Finding("addresses", OK, told)


def _operator(settings: Settings) -> list[Finding]:
    """What commands, telemetry and alarms need on this host. No broker is asked: one that is down stops no trading."""
    found, mqtt, command = [], settings.mqtt, settings.alarms.command
    if mqtt.enabled:
        try:
            keys = broker_keys(settings)
            taken = f"commands signed by {', '.join(sorted(keys.commands))}" if mqtt.commands else "no commands taken"
            missing = bool(mqtt.ca_file) and not Path(mqtt.ca_file).is_file()
            told = f"; mqtt.ca_file {mqtt.ca_file} is no file: the broker cannot be trusted" if missing else ""
            found.append(Finding("mqtt", WARN if missing else OK, f"{mqtt.host}:{mqtt.port}, {taken}{told}"))
        except ConfigError as error:
            found.append(Finding("mqtt", FAIL, str(error)))
    if command and not os.access(command[0], os.X_OK):
        found.append(Finding("alarms", WARN, f"alarms.command {command[0]} cannot be run: mend its path or its mode"))
    return found


def _model(settings: Settings, keys: Credentials, *, dry_run: bool) -> tuple[Live | None, Finding]:
    try:
        live = prepare_live(settings, keys, dry_run=dry_run)
    except (ModelError, CalendarError) as error:
        return None, Finding("model", FAIL, str(error))
    manifest = live.model.manifest
    told = f"{live.model.version} on {live.policy.provider}, hash and golden answers verified"
    problems = []
    if not manifest.promoted:
        problems.append("it is not promoted")
    if manifest.training.feed != settings.feed.name:
        problems.append(f"it was trained on feed {manifest.training.feed}, this desk uses {settings.feed.name}")
    if problems:
        real = live.mode == "live"
        cure = ": every entry would be denied; promote a model, or trade on paper" if real else ""
        return live, Finding("model", FAIL if real else WARN, f"{told}; {' and '.join(problems)}{cure}")
    if live.refused:
        return live, Finding("model", WARN, f"{told}: it answered last and would go on, because {live.refused}")
    return live, Finding("model", OK, told)


def _calendar(clock: Clock) -> Finding:
    now_ns = clock.now_ns()
    today = datetime.fromtimestamp(now_ns / SECOND_NS, UTC).date().isoformat()
    try:
        calendar = SessionCalendar.to_horizon(today)
        upcoming = calendar.at(now_ns) or calendar.next_after(now_ns)
    except CalendarError as error:
        return Finding("calendar", FAIL, str(error))
    last = calendar.sessions[-1]
    days = (last.close_ns - now_ns) // DAY_NS
    minutes = (upcoming.close_ns - upcoming.open_ns) // (60 * SECOND_NS)
    told = f"session {upcoming.date} ({minutes} minutes) runs or comes next; known until {last.date}, {days} days"
    if days >= HORIZON_DAYS_GOOD:
        return Finding("calendar", OK, told)
    return Finding("calendar", FAIL if days < HORIZON_DAYS_LEAST else WARN, f"{told}: update exchange_calendars")


def _state_dir(settings: Settings, live: Live | None) -> list[Finding]:
    """The state directory, who may read it, and the disk it is on."""
    path = settings.paths.state_dir
    try:
        there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    except OSError as error:
        return [Finding("state directory", FAIL, f"{path}: {error.strerror}: choose another")]
    if not there.is_dir():
        return [Finding("state directory", FAIL, f"{path}: {there} is no folder: choose another")]
    if not os.access(there, os.W_OK | os.X_OK):
        found = [Finding("state directory", FAIL, f"{path}: {there} is not writable: check its owner and mode")]
    else:
        found = [_journal(path, live)]
    if there == path:
        found.append(_permissions(path))
    free = shutil.disk_usage(there).free >> 20
    verdict = OK if free >= FREE_MIB_GOOD else WARN if free >= FREE_MIB_LEAST else FAIL
    cure = "" if verdict == OK else f": make room, {FREE_MIB_GOOD:,} MiB are good for months"
    return [*found, Finding("disk", verdict, f"{free:,} MiB free where the journal is{cure}")]


def _journal(path: Path, live: Live | None) -> Finding:
    try:
        meta = peek(path)
        if meta is not None and live is not None:
            check_identity(path, meta, live.meta())
        holder = locked_by(path)
    except (StateDirError, JournalError, OSError) as error:
        return Finding("state directory", FAIL, str(error))
    if holder:
        return Finding("state directory", WARN, f"{path}: in use by process {holder}: a second daemon would be refused")
    return Finding("state directory", OK, f"{path}: " + ("resumes a journal" if meta else "new"))


def _other_desk(settings: Settings, broker: Broker, keys: Credentials) -> list[Finding]:
    """A line when another desk of this host trades the account of these keys: this one would be refused."""
    folder, path = lock_folder(), settings.paths.state_dir
    try:
        if not folder.is_dir() or locked_by(path):  # nobody has locked anything, or this desk runs
            return []
    except (StateDirError, OSError):  # the line about the state directory says it
        return []
    lock = AccountLock(folder, Holder(settings.desk.name, str(path.absolute()), 0), broker.service(settings))
    return [Finding("account lock", FAIL, problem)] if (problem := lock.taken(keys.key)) else []


def _permissions(path: Path) -> Finding:
    """A folder that others cannot enter keeps everything in it, whatever its files allow."""
    there = [file for file in (path, path / FILE) if file.exists()]
    if path.stat().st_mode & stat.S_IRWXO:
        open_to_all = [file.name for file in there if file.stat().st_mode & stat.S_IRWXO]
        told = f"{', '.join(open_to_all)}: open to every user: chmod -R o-rwx {path}"
        return Finding("permissions", WARN, told)
    return Finding("permissions", OK, "the state directory is closed to other users")


def _trades_shares(settings: Settings) -> bool:
    return strategy(settings.desk.strategy).spec.holds == "shares"


async def _account(settings: Settings, broker: Broker, admin: Admin, *, dry_run: bool, shares: bool) -> list[Finding]:
    """Keys of the right environment, the account's number, status and, for a desk of options, their level."""
    try:
        account = await admin.account()
    except BrokerRefused as refused:
        where = broker.service(settings).split("/")[2]
        return [Finding("keys", FAIL, f"{where} refuses them ({refused}): use the keys made for this environment")]
    except BrokerError as error:
        return [Finding("keys", FAIL, f"the trading service cannot be asked ({error}): check network and address")]
    number, expected = account.number, settings.desk.account_number
    found = [Finding("keys", OK, f"accepted for the {settings.desk.account} account {number}")]
    if expected and number != expected:
        told = f"the keys open {number}, desk.account_number is {expected}: give the right keys or number"
        found.append(Finding("account number", FAIL, told))
    if account.blocked:
        found.append(Finding("account", FAIL, f"it may not trade: {account.blocked}: see its page at the broker"))
    else:
        found.append(Finding("account", OK, f"ACTIVE, {account.cash} USD of cash, equity {account.equity} USD"))
    if not shares:
        found.append(_options_level(account, dry_run=dry_run))
    return [*found, await _shorting(admin)]


async def _shorting(admin: Admin) -> Finding:
    """Whether the broker itself refuses a sale of shares that are not there: the last guard of all."""
    try:
        short = await admin.short_sales()
    except BrokerError as error:
        return Finding("shorting", WARN, f"the account's configuration cannot be asked: {error}")
    if short.refused:
        return Finding("shorting", OK, f"the account refuses short sales ({short.setting})")
    return Finding("shorting", WARN, f"the account may sell shares that it does not hold: {short.cure}")


def _options_level(account: Account, *, dry_run: bool) -> Finding:
    level = account.options_level
    if level is not None and level >= OPTIONS_LEVEL:
        return Finding("options level", OK, f"{level}: long calls and puts may be bought")
    cure = f"{level}: {OPTIONS_LEVEL} is needed to buy calls and puts: apply for it at the broker"
    return Finding("options level", WARN if dry_run else FAIL, cure)


async def _skew(limit_s: float, admin: Admin, clock: Clock) -> Finding:
    asked_ns = clock.now_ns()
    try:
        broker_ns = (await admin.clock()).now_ns
    except BrokerError as error:
        return Finding("clock", WARN, f"the broker's clock cannot be asked: {error}")
    answered_ns = clock.now_ns()
    skew_s = skew_ns(broker_ns, asked_ns, answered_ns) / SECOND_NS
    doubt_s = (answered_ns - asked_ns) / 2 / SECOND_NS
    told = f"{skew_s:+.3f} s from the broker's, give or take {doubt_s:.3f} s"
    if abs(skew_s) - doubt_s <= limit_s:
        return Finding("clock", OK, told)
    return Finding("clock", FAIL, f"{told}, limit {limit_s:g} s: mend time synchronisation (chrony)")


async def _feeds(settings: Settings, admin: Admin, clock: Clock) -> list[Finding]:
    """Whether the keys may read the configured feeds: a quote of the underlying, and recent bars."""
    if _trades_shares(settings):
        return await _share_feeds(settings, admin, clock)
    symbol = strategy(settings.desk.strategy).spec.symbols[0]
    now_ns = clock.now_ns()

    async def quote() -> str:
        return "a quote" if symbol in await admin.quotes((symbol,)) else "no quote yet"

    async def bars() -> str:
        return f"{await admin.bars(symbol, now_ns - 96 * HOUR_NS, now_ns - 60 * SECOND_NS)} bars of the last days"

    async def options() -> str:
        spot = (await admin.quotes((symbol,))).get(symbol)
        if not spot:
            raise BrokerUnreadable(f"{symbol} has no bid")
        days = (datetime.fromtimestamp(ns / SECOND_NS, UTC).date() for ns in (now_ns, now_ns + 7 * DAY_NS))
        today, week = (day.isoformat() for day in days)
        near = (spot * Decimal("0.99"), spot * Decimal("1.01"))
        return f"{await admin.contracts(symbol, (today, week), near)} contracts near the money this week"

    cure = "subscribe to it, or set feed.name"
    return [
        await _entitled(f"feed {settings.feed.name}", quote, cure),
        await _entitled("history", bars, cure),
        await _entitled(f"options {settings.feed.options}", options, "subscribe to it, or set feed.options"),
    ]


async def _share_feeds(settings: Settings, admin: Admin, clock: Clock) -> list[Finding]:
    """The same for all shares of a daily desk: a quote and a daily bar of the last days of each."""
    symbols, feed = strategy(settings.desk.strategy).spec.symbols, settings.feed.name
    now_ns = clock.now_ns()

    async def quotes() -> str:
        return f"quotes of {len(await admin.quotes(symbols))} of {len(symbols)} symbols"

    cure = "subscribe to it, or set feed.name"
    found = [await _entitled(f"feed {feed}", quotes, cure)]
    bars: dict[str, int] = {}

    async def days() -> str:
        bars.update(await admin.day_bars(symbols, now_ns - 7 * DAY_NS, now_ns - DAY_NS))
        return f"daily bars of {len(bars)} of {len(symbols)} symbols in the last days"

    history = await _entitled("history", days, cure)
    if history.verdict == OK and (missing := [symbol for symbol in symbols if not bars.get(symbol)]):
        told = f"{history.told}: none of {', '.join(missing)}: halted, delisted or renamed; they are left alone"
        history = Finding("history", WARN, told)
    return [*found, history]


async def _entitled(subject: str, ask: Callable[[], Awaitable[str]], cure: str) -> Finding:
    try:
        return Finding(subject, OK, await ask())
    except BrokerRefused as refused:
        return Finding(subject, FAIL, f"{refused}: {cure}")
    except BrokerUnreadable as problem:
        return Finding(subject, WARN, f"not checked, there is no quote of the underlying now: {problem}")
    except BrokerError as error:
        return Finding(subject, FAIL, f"the market-data service cannot be asked ({error}): check network and address")
