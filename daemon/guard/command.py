"""`rltrader-guard`: watches one desk from another host, and protects it when its host is gone.

It reads the desk's own config.toml, needs the account's keys and the key shared by desk and guard, and has no journal
and no model. Its memory, the desk's last heartbeat and whether it fenced the account, is one small file.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from daemon.brokers.api import BrokerError, BrokerRefused, GuardedAccount
from daemon.brokers.panic import Show, panic
from daemon.brokers.registry import guarded_account
from daemon.config.load import (
    DEFAULT_CONFIG,
    EXIT_CODE,
    NO_STRATEGY,
    ConfigError,
    Credentials,
    DeskSettings,
    credentials,
    load,
    sim_start_ns,
)
from daemon.core.session import OPENS_MIN, new_york_date, new_york_minute
from daemon.guard.paths import FolderPath, MqttPath
from daemon.guard.watch import NOTHING, Action, Alarm, Cancel, Fence, Memory, Rest, Rules, Watch
from daemon.host.safe_decode import Unreadable, decode_with_type
from daemon.host.service import Service
from daemon.host.time.clock import Clock
from daemon.host.version import CommandLine, add_version
from daemon.host.whole_files import write_whole
from daemon.operator.alarm_command import AlarmCommand
from daemon.operator.heartbeat import FRESH_NS, GuardBeat, Heartbeat, OtherRelease, genuine, guard_key, sign
from daemon.operator.log import Log
from daemon.operator.mqtt.connection import MqttBroker, password_of
from daemon.operator.signing import Key
from rltrader import called
from strategies.kit.quantity import from_json, to_json
from strategies.kit.units import SECOND_NS

TABLES = ("desk", "alpaca", "clock", "mqtt", "alarms", "guard", "log")
"""Tables of config.toml that a guard reads."""
LAST_START = "last_start.json"  # next to its memory: the tables of the last start, by dotted keys
TURN_S = 1.0
DAYS_MAX = 90  # most days of corporate actions requested: a stop rests no longer
CLOSING_S = 40.0  # seconds for one call to close everything
KEPT_EVERY_S = 60.0  # between two writes of the memory where only the counter changed
FAILED = 1


_MEMORY = msgspec.json.Decoder(Memory, dec_hook=from_json)  # made before there are threads: see `prepare_types`
_PARTS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def boot_s() -> float:
    """Return seconds since this machine's boot, suspended ones included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Guard:
    """One guard of one desk: its paths, its looks at the account, and its actions."""

    def __init__(
        self,
        settings: DeskSettings,
        account: GuardedAccount,
        key: Key,
        password: str | None,
        state_file: Path,
        log: Log,
        clock: Clock,
        now_s: Callable[[], float] = boot_s,
        mistake: str = "",
    ) -> None:
        self._mistake = mistake
        table, mqtt, self._desk = settings.guard, settings.mqtt, settings.desk.name
        self._account, self._key, self._file, self._log, self._clock, self._now_s = (
            account, key, state_file, log, clock, now_s,
        )  # fmt: skip
        self._settings, self._life, self._counter = settings, clock.now_ns(), 0
        self._unread = ""  # problem with heartbeats that this release cannot read
        self._ahead_ns = 0  # by which the broker's clock is ahead of this host's
        self._opens_ns = 0  # when a closed market opens; 0: it is open, or not known
        paths: list[MqttPath | FolderPath] = []
        if mqtt.enabled:
            paths.append(MqttPath(MqttBroker.of(mqtt), password, mqtt.prefix, self._desk, key, self, table.beat_s))
        if table.drop_dir:
            paths.append(FolderPath(Path(table.drop_dir), self._desk, key, self, table.beat_s))
        self._paths = tuple(paths)
        self._problems = dict.fromkeys((path.name for path in paths), "")
        self._echo_counters = dict.fromkeys(self._problems, 0)  # counter of the newest own message that came back
        rules = Rules(
            tuple(path.name for path in paths),
            table.act,
            table.beat_s,
            table.alarm_s,
            table.act_s,
            table.look_s,
            table.fence,
            max(settings.clock.rate, 1.0),
            table.prefix,
        )
        self._file_memory = memory_of(state_file, self._desk, key)
        self._file_memory_s, self._forgets = now_s(), False
        self.watch = Watch(rules, now_s(), self._file_memory)
        self._rules, self._soon, self._news = rules, asyncio.Event(), asyncio.Event()
        self._orders: asyncio.Queue[Action] = asyncio.Queue()
        command = settings.alarms
        self._alarms = AlarmCommand(command.command, command.per_minute, command.timeout_s, self._desk, log)

    # --- the paths' side ----------------------------------------------------------------------------------------------

    def own_beat(self) -> GuardBeat:
        """Return the guard's next message."""
        self._counter += 1
        beat = GuardBeat(
            desk=self._desk,
            life=self._life,
            counter=self._counter,
            time_ns=self._broker_ns(),
            state=self.watch.state,
        )
        return sign(beat, self._key)

    def take_beat(self, path: str, beat: Heartbeat) -> None:
        """Take a heartbeat of the desk."""
        self._problems[path] = ""
        self._news.set()
        self.watch.take_beat(beat, self._now_s(), self._broker_ns())

    def take_unread(self, path: str, beat: OtherRelease) -> None:
        """Take a heartbeat of the desk that this release cannot read."""
        self._unread = f"its heartbeat on {path} is {beat}: give both hosts one release"
        self.watch.take_unread(beat.life, beat.counter, self._now_s())

    def take_echo(self, path: str, beat: GuardBeat) -> None:
        """Take a guard's message from a path; a newer one of this guard proves that the path works."""
        if beat.life == self._life and beat.counter > self._echo_counters[path]:
            self._problems[path], self._echo_counters[path] = "", beat.counter
            self._news.set()
            self.watch.take_echo(path, self._now_s())

    def note_loss(self, path: str, problem: str) -> None:
        """Log why a path cannot be used, once for each problem."""
        if problem != self._problems[path]:
            self._problems[path] = problem
            self._log("guard_path", path=path, problem=problem)

    def _broker_ns(self) -> int:
        return self._clock.now_ns() + self._ahead_ns

    # --- the guard's work ---------------------------------------------------------------------------------------------

    async def run(self, service: Service) -> None:
        """Watch until cancelled."""
        beat = self.watch.beat
        knows = "nothing" if beat is None else f"{len(beat.holds)} positions of {_time_text(beat.time_ns)}"
        self._log("guard_started", desk=self._desk, act=self._rules.act, paths=list(self._rules.paths), knows=knows)
        if self._mistake:
            self._raise(Alarm("guard_configuration", self._mistake))
        async with asyncio.TaskGroup() as group:
            for path in self._paths:
                group.create_task(path.run(), name=path.name)
            if self._settings.alarms.command:
                group.create_task(self._alarms.run(), name="alarm command")
            group.create_task(self._look_on(), name="looks")
            group.create_task(self._act_on(), name="acts")
            service.ready()
            while True:
                for action in self.watch.turn(self._now_s()):
                    if isinstance(action, Alarm):
                        self._raise(action)
                    else:
                        self._orders.put_nowait(action)
                self._remember()
                service.watchdog()
                service.status(f"{self._desk}: {self.watch.state}")
                await asyncio.sleep(TURN_S)

    async def _look_on(self) -> None:
        """Look at the account until cancelled: at once after an action, never while one waits for its answer."""
        while True:
            await self._orders.join()
            await self.look()
            self._soon.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._rules.look_s):
                    await self._soon.wait()

    async def look(self) -> None:
        """Read the account once, and pass the answer or the problem to the watch."""
        beat, asked_s = self.watch.beat, self._now_s()
        silent = self.watch.silent_s(asked_s) >= self._rules.alarm_s
        known_ns = self.watch.known_ns
        since_ns = known_ns - FRESH_NS if known_ns else self._broker_ns()
        until_ns = max(self._broker_ns(), self._opens_ns)  # a stop of the night meets the prices of the next session
        days = changed_days(known_ns, until_ns) if known_ns and silent else ()
        try:
            look = await self._account.look(since_ns, beat.orders if beat is not None else (), days)
        except BrokerError as error:
            wrong_keys = isinstance(error, BrokerRefused) and error.unknown_keys
            self.watch.note_no_look(f"{error}: {self._settings.right_keys}" if wrong_keys else str(error))
            return
        self._ahead_ns = round(look.ahead_s * SECOND_NS)
        self._opens_ns = 0 if look.market_open else look.next_open_ns
        self.watch.take_look(look, asked_s)

    async def _act_on(self) -> None:
        """Carry out one action after another; the next look shows its effect."""
        while True:
            action = await self._orders.get()
            if self.watch.still_wants(action, self._now_s()):
                await self._carry_out(action)
                self.watch.carried_out(self._now_s())
            self._orders.task_done()
            if self._orders.empty():
                self._soon.set()

    async def _carry_out(self, action: Action) -> None:
        try:
            match action:
                case Cancel(order_id=order_id, name=name):
                    action_text = f"cancel {name}"
                    await self._account.cancel(order_id)
                case Rest(order=order):
                    action_text = f"rest {order.client_order_id}"
                    await self._account.rest(order)
                case Fence(on=on):
                    action_text = "fence the account" if on else "lift the fence"
                    await self._account.fence(on=on)
                case _:
                    action_text = "close everything"
                    await self._close(action, partial(self._show, action_text))
        except BrokerError as error:
            self._log("guard_answered", what=action_text, answer=str(error))
            if isinstance(action, Rest):
                self.watch.note_refusal(action.order, str(error))
        else:
            self._log("guard_answered", what=action_text, answer="done")

    async def _close(self, action: Action, show: Show) -> None:
        """Close everything; stop repeating once the desk is heard."""
        closing = asyncio.ensure_future(panic(self._account.admin, show, deadline_s=CLOSING_S))
        try:
            while not (await asyncio.wait({closing}, timeout=TURN_S))[0]:
                if not self.watch.still_wants(action, self._now_s()):
                    show("no more: the desk is heard")
                    return
            await closing
        finally:
            closing.cancel()
            await asyncio.gather(closing, return_exceptions=True)

    def _show(self, action_text: str, answer: str) -> None:
        self._log("guard_answered", what=action_text, answer=answer)

    def _raise(self, alarm: Alarm) -> None:
        """Log the alarm, and run the operator's program; where the guard is blind, with the paths' problems."""
        problems = [f"{name}: {problem}" for name, problem in self._problems.items() if problem]
        cause = f" ({'; '.join(problems)})" if problems and alarm.name == "guard_blind" else ""
        self._log(alarm.name, detail=f"{alarm.detail}{cause}")
        self._alarms.raise_for("guard", alarm.name, f"{alarm.detail}{cause}", self._broker_ns())

    async def try_out(self, within_s: float) -> list[tuple[bool, str]]:
        """Try each path and the account for at most `within_s`; return each finding as (right, words)."""
        paths = [asyncio.ensure_future(path.run()) for path in self._paths]
        try:
            await self.look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    while not self.watch.is_heard or self.watch.blind(self._now_s()):
                        self._news.clear()
                        await self._news.wait()
        finally:
            for path in paths:
                path.cancel()
            await asyncio.gather(*paths, return_exceptions=True)
        blind, findings = self.watch.blind(self._now_s()), list[tuple[bool, str]]()
        for name in self._rules.paths:
            why = self._problems[name] or "its own message did not come back"
            findings.append((name not in blind, f"{name}: {why if name in blind else 'its own message came back'}"))
        beat = self.watch.beat
        if beat is not None and self.watch.is_heard:
            stops = sum(hold.stop is not None for hold in beat.holds.values())
            protects = f"can protect {stops}" if self._rules.act != "alarm" else f"knows the stops of {stops}"
            words = f"heard, holds {len(beat.holds)} positions, of which it {protects}"
            if self._rules.act == "alarm":
                words += '; guard.act is "alarm": it tells, and protects nothing'
        else:
            last = "" if beat is None else f"its last heartbeat is of {_time_text(beat.time_ns)}, and "
            which = "newer one" if last else "heartbeat"
            unheard = (
                f"{last}no {which} came within {within_s:g} s: is it running, with the same key, prefix and desk.name?"
            )
            words = self._unread or unheard
        return [*findings, (self.watch.is_heard, f"desk {self._desk}: {words}"), *self.watch.account_findings()]

    # --- what it remembers -------------------------------------------------------------------------------------------

    def _remember(self) -> None:
        """Write the memory if it changed, for a new counter alone once a minute. A failed write is repeated."""
        memory, file_memory = self.watch.memory, self._file_memory
        if replace(memory, beat=file_memory.beat) == file_memory:
            lately = self._now_s() - self._file_memory_s < KEPT_EVERY_S
            if memory.beat is file_memory.beat or (lately and _content(memory.beat) == _content(file_memory.beat)):
                return
        self._file_memory_s = self._now_s()
        try:
            write_whole(self._file, msgspec.json.encode(memory, enc_hook=to_json), 0o600)
        except OSError as error:  # the guard goes on without
            if not self._forgets:
                self._log("guard_forgets", problem=str(error))
            self._forgets = True
        else:
            self._file_memory, self._forgets = memory, False


def memory_of(file: Path, desk: str, key: Key) -> Memory:
    """Read an earlier process's file; return an empty memory unless it is genuine."""
    try:
        data = file.read_bytes()
        memory: Memory = decode_with_type(_MEMORY.decode, data)
        if memory.beat is None:
            return memory
        as_it_came = decode_with_type(_PARTS.decode, data)["beat"]  # with all fields of the release that wrote it
        return replace(memory, beat=genuine(bytes(as_it_came), Heartbeat, desk, key))
    except (OSError, Unreadable, OtherRelease):
        return NOTHING


def _content(beat: Heartbeat | None) -> object:
    return None if beat is None else (beat.life, beat.leaving, beat.holds, beat.orders)


def changed_days(since_ns: int, now_ns: int) -> tuple[str, ...] | None:
    """Return the New York dates whose corporate actions a desk last heard at `since_ns` cannot know.

    None where they are too many to request: prices of that time may be wrong by now.
    """
    first, last = new_york_date(since_ns), new_york_date(now_ns)
    if new_york_minute(since_ns) >= OPENS_MIN:
        first += timedelta(days=1)
    days = (last - first).days + 1
    return None if days > DAYS_MAX else tuple(_day(last, back) for back in range(days))


def _day(last: date, back: int) -> str:
    return (last - timedelta(days=back)).isoformat()


def _time_text(ns: int) -> str:
    return datetime.fromtimestamp(ns // SECOND_NS, UTC).isoformat()


# --- the program ------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `rltrader-guard`; returns the exit code: 0 after a signal, 1 for a failed check, 2 for wrong use.

    1 also stands for a passing fault of the system: systemd restarts the guard.
    """
    options = _options(arguments)
    try:
        return asyncio.run(_main(_prepare(options), check=options.check))
    except (ConfigError, OSError) as error:
        sys.stderr.write(f"rltrader-guard: {str(error) or type(error).__name__}\n")
        return EXIT_CODE if isinstance(error, ConfigError) else FAILED


class Prepared(NamedTuple):
    """A guard's settings and keys at its begin; `mistake` is why they are the last start's. Never printed."""

    settings: DeskSettings
    keys: Credentials
    key: Key
    password: str | None
    state_file: Path
    mistake: str = ""


def _prepare(options: argparse.Namespace) -> Prepared:
    """Return the settings and keys. Raises ConfigError, and OSError for a folder that cannot be made.

    If the desk held something when last heard, a configuration with a mistake is replaced by that of the last start.
    """
    folder = options.state_dir or Path(os.environ.get("STATE_DIRECTORY", "guard"))
    try:
        setup = _of_settings(load(options.config, NO_STRATEGY, only=TABLES), folder)
    except ConfigError as error:
        last = None if options.check else _last_start(folder)
        if last is None:
            raise
        return last._replace(mistake=f"{error}; meanwhile: the configuration of the last start, and it closes nothing")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not options.check:
        _keep_start(folder, setup.settings)
    return setup


def _of_settings(settings: DeskSettings, folder: Path) -> Prepared:
    if not settings.guard.prefix:
        raise ConfigError('guard.prefix is "": expected a name such as "guard": set it on both hosts, the same')
    key, keys = guard_key(settings.guard), credentials()
    if not keys.complete:
        raise ConfigError(
            f"the account's keys are missing: expected {' and '.join(keys.missing)}, as the desk has them"
        )
    password = password_of(settings.mqtt) if settings.mqtt.enabled else None
    return Prepared(settings, keys, key, password, folder / f"{settings.desk.name}.json")


def _last_start(folder: Path) -> Prepared | None:
    """Return the last start's settings, if the desk held something when it was last heard; else None.

    The paths shared by both hosts may have changed, so that it no longer hears a living desk: it then only does what
    harms none. The environment is not used: the mistake may be there.
    """
    try:
        last = load(None, json.loads((folder / LAST_START).read_bytes()) | NO_STRATEGY, {}, only=TABLES)
        setup = _of_settings(last, folder)
    except (OSError, ValueError, TypeError, ConfigError):
        return None
    beat, table = memory_of(setup.state_file, last.desk.name, setup.key).beat, last.guard
    if beat is None or not (beat.holds or beat.orders):
        return None
    harmless = dataclasses.replace(table, act="alarm" if table.act == "alarm" else "protect", fence=False)
    return setup._replace(settings=last.model_copy(update={"guard": harmless}))


def _keep_start(folder: Path, settings: DeskSettings) -> None:
    """Keep the tables for a later start; if the folder cannot be written, the former ones stay."""
    tables = settings.model_dump(mode="json", include=set(TABLES))
    keys = {f"{name}.{key}": value for name, table in tables.items() for key, value in table.items()}
    with contextlib.suppress(OSError):
        write_whole(folder / LAST_START, json.dumps(keys).encode(), 0o600)


async def _main(setup: Prepared, *, check: bool) -> int:
    settings, keys, key, password, state_file, mistake = setup
    start_ns, clock_settings = sim_start_ns(settings.clock), settings.clock
    clock = Clock.real()
    if start_ns is not None:
        clock = Clock.simulated(clock_settings.anchor_unix_s, start_ns, clock_settings.rate)
    account = guarded_account(settings, keys, clock)
    log = Log("error", "json", stream=io.StringIO()) if check else Log(settings.log.level, settings.log.format)
    guard = Guard(settings, account, key, password, state_file, log, clock, mistake=mistake)
    try:
        if check:
            findings = await guard.try_out(settings.guard.alarm_s)
            for right, line in findings:
                sys.stdout.write(f"{'ok  ' if right else 'FAIL'} {line}\n")
            return 0 if all(right for right, _ in findings) else FAILED
        service = Service()
        running = asyncio.ensure_future(guard.run(service))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, running.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await running
        service.stopping()
        return 0
    finally:
        await account.close()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    line = CommandLine(
        prog=called("rltrader-guard"),
        description="Watches one desk from another host, and protects it when its host is gone. docs/GUARD.md "
        "explains it.",
    )
    add_version(line)
    default = DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None
    config = "the desk's own configuration (%(default)s); the guard's host may differ by RLTRADER_SECTION__KEY"
    line.add_argument("--config", type=Path, default=default, metavar="FILE", help=config)
    state = "folder of what it remembers ($STATE_DIRECTORY, else ./guard)"
    line.add_argument("--state-dir", type=Path, metavar="DIR", help=state)
    check = "try each path, the account and the clocks, print what was found, and end"
    line.add_argument("--check", action="store_true", help=check)
    return line.parse_args(arguments)
