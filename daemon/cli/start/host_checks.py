"""The checks of `rltraderd --check` on this host: calendar, state directory, disk, locks."""

from __future__ import annotations

import os
import shutil
import stat
from datetime import UTC, datetime
from pathlib import Path

from daemon.app.live.prepare import Live
from daemon.app.operator_side import broker_keys
from daemon.brokers.api import Broker
from daemon.cli.start.finding import FAIL, OK, WARN, CheckLine
from daemon.config.load import ConfigError, Credentials, DeskSettings
from daemon.engine.state_dir import check_identity, locked_by, peek
from daemon.host.account_lock import AccountLock, Holder, lock_folder
from daemon.host.own_files import StateDirError
from daemon.host.time.calendar import CalendarError, SessionCalendar
from daemon.host.time.clock import Clock
from daemon.journal.journal import FILE
from daemon.journal.rows import JournalError
from strategies.kit.units import DAY_NS, SECOND_NS

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
    """The state directory, who may read it, and the disk it is on."""
    path = settings.paths.state_dir
    try:
        there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    except OSError as error:
        return [CheckLine("state directory", FAIL, f"{path}: {error.strerror}: choose another")]
    if not there.is_dir():
        return [CheckLine("state directory", FAIL, f"{path}: {there} is no folder: choose another")]
    if not os.access(there, os.W_OK | os.X_OK):
        lines = [CheckLine("state directory", FAIL, f"{path}: {there} is not writable: check its owner and mode")]
    else:
        lines = [_journal(path, live)]
    if there == path:
        lines.append(_permissions(path))
    free = shutil.disk_usage(there).free >> 20
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


def other_desk_findings(settings: DeskSettings, broker: Broker, keys: Credentials) -> list[CheckLine]:
    """Report another desk of this host that trades the same account: this one would be refused."""
    folder, path = lock_folder(), settings.paths.state_dir
    try:
        if not folder.is_dir() or locked_by(path):  # nothing is locked, or this desk runs
            return []
    except (StateDirError, OSError):  # the line about the state directory reports it
        return []
    lock = AccountLock(folder, Holder(settings.desk.name, str(path.absolute()), 0), broker.service(settings))
    return [CheckLine("account lock", FAIL, problem)] if (problem := lock.taken(keys.key)) else []


def _permissions(path: Path) -> CheckLine:
    """Check the modes; a folder that others cannot enter protects its files anyway."""
    there = [file for file in (path, path / FILE) if file.exists()]
    if path.stat().st_mode & stat.S_IRWXO:
        open_to_all = [file.name for file in there if file.stat().st_mode & stat.S_IRWXO]
        text = f"{', '.join(open_to_all)}: open to every user: chmod -R o-rwx {path}"
        return CheckLine("permissions", WARN, text)
    return CheckLine("permissions", OK, "the state directory is closed to other users")


def operator_findings(settings: DeskSettings) -> list[CheckLine]:
    """Check what commands, telemetry and alarms need on this host. Asks no MQTT broker: trading does not need it."""
    lines, mqtt, command = [], settings.mqtt, settings.alarms.command
    if mqtt.enabled:
        try:
            keys = broker_keys(settings)
            taken = f"commands signed by {', '.join(sorted(keys.commands))}" if mqtt.commands else "no commands taken"
            missing = bool(mqtt.ca_file) and not Path(mqtt.ca_file).is_file()
            text = f"; mqtt.ca_file {mqtt.ca_file} is no file: the broker cannot be trusted" if missing else ""
            lines.append(CheckLine("mqtt", WARN if missing else OK, f"{mqtt.host}:{mqtt.port}, {taken}{text}"))
        except ConfigError as error:
            lines.append(CheckLine("mqtt", FAIL, str(error)))
    if command and not os.access(command[0], os.X_OK):
        lines.append(CheckLine("alarms", WARN, f"alarms.command {command[0]} cannot be run: mend its path or its mode"))
    return lines
