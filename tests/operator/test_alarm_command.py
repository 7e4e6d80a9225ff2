"""The alarm command with real small programs: what they get, how often they are started, and how they are ended."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from daemon.config.tables import AlarmsTable
from daemon.core.effects import RaiseAlarm
from daemon.core.events import ClockTicked, Event, HaltRequested, TroubleNoticed
from daemon.core.limits import Trading
from daemon.core.state import Identity
from daemon.core.step import Core, Machine
from daemon.operator.alarm_command import AlarmCommand, tell_now
from daemon.operator.log_events import LOG_EVENTS
from daemon.operator.side_thread import SideThread
from strategies.registry import strategy as strategy_named

NOON_NS = 1_700_000_000_000_000_000  # 2023-11-14T22:13:20+00:00
IDENTITY = Identity("paper", "paper", "option_scalper", "0123456789", "sip")
RECORD = 'cat >> "$OUT"; env > "$OUT.env"; echo "$#" > "$OUT.args"\n'


def machine() -> Machine:
    core = Core(strategy_named("option_scalper"))
    return Machine(core, core.start(IDENTITY, Trading()))


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while True:
            if reached():
                return
            await asyncio.sleep(0.01)


def hold_the_loop_until(reached: Callable[[], bool]) -> None:
    while not reached():
        time.sleep(0.01)


def has_text(path: Path) -> bool:
    return path.exists() and bool(path.read_text())


def all_gone(pids: Path) -> bool:
    """Whether none of these processes runs any more; a zombie only waits for the machine's init."""
    return all(_state(int(pid)) in "ZX" for pid in pids.read_text().split())


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


class Programs:
    """A folder with a program that writes what it gets into `out`, and what the command logged."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        self.logged: list[dict[str, Any]] = []
        self.machine = machine()

    def program(self, text: str = RECORD) -> tuple[str, ...]:
        path = self.folder / "program"
        path.write_text(f'#!/bin/sh\nOUT="{self.out}"\n{text}')
        path.chmod(0o755)
        return (str(path),)

    def log(self, name: str, /, **fields: object) -> None:
        assert set(fields) == set(LOG_EVENTS[name].fields)
        self.logged.append({"event": name, **fields})

    def command(self, command: tuple[str, ...], per_minute: int = 60, timeout_s: float = 20.0) -> AlarmCommand:
        return AlarmCommand(command, per_minute, timeout_s, "desk-1", self.log, self.monotonic_ns)

    now_s = 0.0

    def monotonic_ns(self) -> int:
        return round(self.now_s * 1e9)

    def raise_alarm(self, command: AlarmCommand, event: Event) -> None:
        command.observe(event, self.machine.apply(event))

    def notice(self, command: AlarmCommand, name: str, detail: str) -> None:
        """Raise an alarm past the rule of one for each case."""
        step = self.machine.apply(ClockTicked(NOON_NS))
        command.observe(ClockTicked(NOON_NS), replace(step, effects=(RaiseAlarm(name, detail),)))

    def read_messages(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.read_text().splitlines()] if self.out.exists() else []

    async def come(self, count: int) -> list[dict[str, Any]]:
        await until(lambda: len(self.read_messages()) >= count)
        return self.read_messages()

    async def logs(self) -> dict[str, Any]:
        await until(lambda: bool(self.logged))
        return self.logged[0]


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


@asynccontextmanager
async def running(command: AlarmCommand) -> AsyncIterator[None]:
    task = asyncio.create_task(command.run())
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(180):
            yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def trouble(number: int, detail: str = "") -> TroubleNoticed:
    return TroubleNoticed(NOON_NS, f"trouble_{number}", detail or f"detail {number}")


async def test_the_program_reads_the_alarm_as_one_line_of_json(programs: Programs) -> None:
    command = programs.command(programs.program())
    async with running(command):
        programs.raise_alarm(command, HaltRequested(NOON_NS, "operator", "lunch", "control/alice"))
        assert await programs.come(1) == [
            {
                "v": 1,
                "desk": "desk-1",
                "strategy": "option_scalper",
                "mode": "paper",
                "alarm": "operator",
                "detail": "lunch (by control/alice)",
                "time_ns": NOON_NS,
                "time": "2023-11-14T22:13:20+00:00",
                "halted": True,
                "missed": 0,
            }
        ]
    assert programs.logged == []


async def test_a_step_without_an_alarm_starts_nothing(programs: Programs) -> None:
    command = programs.command(programs.program())
    async with running(command):
        programs.raise_alarm(command, ClockTicked(NOON_NS))
        programs.raise_alarm(command, trouble(1))
        assert [line["alarm"] for line in await programs.come(1)] == ["trouble_1"]


async def test_no_key_of_the_daemon_reaches_the_program(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "APCA_API_KEY_ID",
        "APCA_API_SECRET_KEY",
        "MQTT_PASSWORD",
        "MQTT_COMMAND_KEYS",
        "CREDENTIALS_DIRECTORY",
    ):
        monkeypatch.setenv(name, "hidden")
    command = programs.command(programs.program())
    async with running(command):
        programs.raise_alarm(command, trouble(1))
        await programs.come(1)
        environment = programs.out.with_name("out.env")
        arguments = programs.out.with_name("out.args")
        await until(lambda: has_text(arguments))
    names = {line.partition("=")[0] for line in environment.read_text().splitlines()}
    assert "hidden" not in environment.read_text()
    assert names - {"PWD", "OLDPWD", "SHLVL", "_"} <= {"PATH", "LANG", "HOME", "RLTRADER_DESK", "RLTRADER_ALARM"}
    assert "RLTRADER_ALARM=trouble_1" in environment.read_text()
    assert "RLTRADER_DESK=desk-1" in environment.read_text()


async def test_signs_that_mean_something_to_a_shell_do_nothing(programs: Programs) -> None:
    mark = programs.folder / "mark"
    detail = f"$(touch {mark}) `touch {mark}` ; touch {mark} | touch {mark} && touch {mark} \n'\"\\ -rf *"
    command = programs.command(programs.program())
    async with running(command):
        programs.raise_alarm(command, trouble(1, detail))
        (alarm,) = await programs.come(1)
        assert alarm["detail"] == detail
        arguments = programs.out.with_name("out.args")
        await until(lambda: has_text(arguments))
    assert not mark.exists()
    assert arguments.read_text().strip() == "0"


async def test_a_hundred_alarms_in_a_second_are_six_runs_and_the_next_tells_of_the_others(programs: Programs) -> None:
    command = programs.command(programs.program(), per_minute=6)
    for number in range(1, 51):
        programs.raise_alarm(command, trouble(number))
    async with running(command):
        for number in range(51, 101):
            programs.raise_alarm(command, trouble(number))
        await programs.come(6)
        await asyncio.sleep(0.2)
        alarms = programs.read_messages()
        assert len(alarms) == 6
        programs.now_s = 10.0  # at six a minute the seventh run is allowed after ten seconds
        alarms = await programs.come(7)
    assert programs.logged == []
    assert alarms[-1]["alarm"] == "trouble_100"
    assert len(alarms) + sum(line["missed"] for line in alarms) == 100  # each is sent or counted


async def test_halts_are_told_before_other_alarms_that_came_earlier(programs: Programs) -> None:
    command = programs.command(programs.program())
    for number in range(3):
        programs.raise_alarm(command, trouble(number))
    programs.raise_alarm(command, HaltRequested(NOON_NS, "operator", "stop it", "control/alice"))
    async with running(command):
        alarms = await programs.come(4)
    assert [line["alarm"] for line in alarms] == ["operator", "trouble_0", "trouble_1", "trouble_2"]
    assert [line["missed"] for line in alarms] == [0, 0, 0, 0]


async def test_grave_alarms_are_all_told_and_first_however_many_trivial_ones_came_before_them(
    programs: Programs,
) -> None:
    command = programs.command(programs.program(), per_minute=6)
    async with running(command):
        for number in range(6):  # these take the whole rate
            programs.notice(command, "bar_rejected", f"SPY {number}")
        await programs.come(6)
        for number in range(200):
            programs.notice(command, "order_rejected", f"order {number}")
        for number in range(3):
            programs.notice(command, "exit_stuck", f"contract {number}")
        programs.notice(command, "wal_large", "300 MiB")
        programs.notice(command, "not_flat", "8 contracts")
        for number in range(200, 400):
            programs.notice(command, "order_rejected", f"order {number}")
        for count in range(7, 12):
            programs.now_s += 10.0  # one more run at six a minute
            await programs.come(count)
        alarms = [(line["alarm"], line["detail"]) for line in programs.read_messages()[6:]]
    assert alarms == [
        ("exit_stuck", "contract 0"),
        ("not_flat", "8 contracts"),  # name by name: many of one do not keep another waiting
        ("exit_stuck", "contract 1"),
        ("exit_stuck", "contract 2"),
        ("wal_large", "300 MiB"),
    ]
    total = len(programs.read_messages()) + sum(line["missed"] for line in programs.read_messages())
    assert total + len(command._queue) == 6 + 405  # sent, counted, or waiting still


async def test_a_grave_alarm_whose_run_failed_is_told_again_and_another_is_not(programs: Programs) -> None:
    down = programs.folder / "down"
    down.touch()
    command = programs.command(programs.program(f'{RECORD}[ ! -e "{down}" ] || exit 7\n'))
    async with running(command):
        programs.notice(command, "bar_rejected", "SPY")
        programs.notice(command, "not_flat", "8 contracts")
        await until(lambda: len(programs.logged) == 2)
        down.unlink()
        programs.now_s += 9.0
        await asyncio.sleep(0.2)
        assert len(programs.read_messages()) == 2
        programs.now_s += 1.0
        alarms = await programs.come(3)
        programs.now_s += 3600.0
        await asyncio.sleep(1.5)
    assert sorted(line["alarm"] for line in alarms[:2]) == ["bar_rejected", "not_flat"]
    assert [line["alarm"] for line in programs.read_messages()[2:]] == ["not_flat"]


async def test_a_grave_alarm_outlasts_an_outage_of_hours_and_one_that_alone_fails_gets_ten_runs(
    programs: Programs,
) -> None:
    down = programs.folder / "down"
    down.touch()
    fails = f'{RECORD}[ ! -e "{down}" ] || exit 7\ncase "$RLTRADER_ALARM" in exit_stuck) exit 7;; esac\n'
    command = programs.command(programs.program(fails), per_minute=600)
    async with running(command):
        programs.notice(command, "not_flat", "8 contracts")
        for count in range(1, 41):
            await until(lambda count=count: len(programs.logged) == count)  # type: ignore[misc]
            programs.now_s += 300.0  # the longest wait: three hours in all
        down.unlink()
        assert [line["alarm"] for line in await programs.come(41)] == ["not_flat"] * 41
        programs.notice(command, "exit_stuck", "9 contracts")
        for count in range(41, 51):
            programs.notice(command, "bar_rejected", f"SPY {count}")
            await until(lambda count=count: len(programs.logged) == count)  # type: ignore[misc]
            programs.now_s += 300.0
        await asyncio.sleep(1.5)
    runs = [line["alarm"] for line in programs.read_messages()[41:]]
    assert (runs.count("exit_stuck"), runs.count("bar_rejected")) == (10, 10)


async def test_a_grave_alarm_outlasts_an_outage_that_another_s_run_breaks(programs: Programs) -> None:
    down = programs.folder / "down"
    down.touch()
    fails = f'{RECORD}case "$RLTRADER_ALARM" in bar_rejected) exit 0;; esac\n[ ! -e "{down}" ] || exit 7\n'
    command = programs.command(programs.program(fails), per_minute=600)
    async with running(command):
        programs.notice(command, "not_flat", "8 contracts")
        for count in range(1, 13):
            await until(lambda count=count: len(programs.logged) == count)  # type: ignore[misc]
            programs.now_s += 300.0
        await until(lambda: len(programs.logged) == 13)
        programs.notice(command, "bar_rejected", "SPY 1")
        await programs.come(14)
        programs.now_s += 300.0
        await until(lambda: len(programs.logged) == 14)
        down.unlink()
        programs.now_s += 300.0
        lines = await programs.come(16)
    assert [line["alarm"] for line in lines[13:]] == ["bar_rejected", "not_flat", "not_flat"]


async def test_a_full_queue_lets_the_oldest_go_and_counts_them(programs: Programs) -> None:
    command = programs.command(programs.program(), per_minute=600)
    for number in range(70):
        programs.raise_alarm(command, trouble(number))
    async with running(command):
        (first, *_) = await programs.come(1)
    assert (first["alarm"], first["missed"]) == ("trouble_6", 6)


async def test_a_program_that_hangs_is_killed_with_its_children(programs: Programs) -> None:
    hangs = programs.program('sleep 1000 &\necho "$! $$" > "$OUT.pids"\nwait\n')
    command = programs.command(hangs, timeout_s=3.0)  # it writes its pids before
    async with running(command):
        programs.raise_alarm(command, trouble(1))
        logged = await programs.logs()
    assert logged["event"] == "alarm_command_failed"
    assert "3.0" in logged["problem"]
    pids = programs.out.with_name("out.pids")
    await until(lambda: all_gone(pids))


async def test_a_stop_kills_the_run_that_is_under_way(programs: Programs) -> None:
    hangs = programs.program('sleep 1000 &\necho "$! $$" > "$OUT.pids"\nwait\n')
    command = programs.command(hangs, timeout_s=1000)
    pids = programs.out.with_name("out.pids")
    async with running(command):
        programs.raise_alarm(command, trouble(1))
        await until(lambda: has_text(pids))
    await until(lambda: all_gone(pids))


async def test_a_stop_in_the_middle_of_a_start_kills_the_program_and_its_children(programs: Programs) -> None:
    hangs = programs.program('sleep 1000 &\necho "$! $$" > "$OUT.pids"\nwait\n')
    command = programs.command(hangs, timeout_s=1000)
    pids = programs.out.with_name("out.pids")
    programs.raise_alarm(command, trouble(1))
    run = asyncio.create_task(command.run())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    hold_the_loop_until(lambda: has_text(pids))  # it has not heard yet that the program started
    run.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await run
    await until(lambda: all_gone(pids))


async def test_a_failing_program_is_logged_with_the_beginning_of_what_it_said(programs: Programs) -> None:
    fails = programs.program('i=0; while [ $i -lt 500 ]; do printf "no\\007 route " >&2; i=$((i+1)); done; exit 3\n')
    command = programs.command(fails)
    async with running(command):
        programs.raise_alarm(command, trouble(1))
        logged = await programs.logs()
    assert logged["alarm"] == "trouble_1"
    text = logged["problem"].partition(": ")[2]
    assert logged["problem"].startswith("exit code 3, expected 0: no route no route")
    assert len(text) == 200
    assert text.isprintable()


@pytest.mark.parametrize("mode", [None, 0o644])
async def test_a_program_that_is_missing_or_may_not_run_is_logged(programs: Programs, mode: int | None) -> None:
    path = programs.folder / "other"
    if mode is not None:
        path.write_text("#!/bin/sh\n")
        path.chmod(mode)
    command = programs.command((str(path),))
    async with running(command):
        programs.raise_alarm(command, trouble(1))
        logged = await programs.logs()
    assert str(path) in logged["problem"]
    assert ("No such file" if mode is None else "Permission denied") in logged["problem"]


def test_a_program_that_floods_standard_error_and_is_killed_leaves_nothing_open(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    floods, ignored = programs.program("exec yes >&2\n"), list[object]()
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    tell_now(AlarmsTable(command=floods, timeout_s=1.0), "desk-1", "blind", "", programs.log, halted=True)
    gc.collect()
    assert (ignored, len(programs.logged)) == ([], 1)  # its pipe would be closed after its loop: a traceback


async def test_a_program_that_does_not_read_ends_well(programs: Programs) -> None:
    command = programs.command(programs.program('exec 0<&-\necho "{}" >> "$OUT"\n'))
    async with running(command):
        programs.raise_alarm(command, trouble(1, "x" * 300_000))  # more than a pipe holds
        programs.raise_alarm(command, trouble(2))
        await programs.come(2)
    assert programs.logged == []


def test_alarms_of_the_trading_loop_reach_the_program_through_the_side_thread(programs: Programs) -> None:
    command = programs.command(programs.program())
    side = SideThread([("alarms", command.run)], lambda name, problem: programs.log(name, problem=problem))
    side.start()
    try:
        for number in range(3):
            programs.raise_alarm(command, trouble(number))
        asyncio.run(asyncio.wait_for(programs.come(3), 180))
    finally:
        assert side.stop(5.0)
    assert [line["alarm"] for line in programs.read_messages()] == ["trouble_0", "trouble_1", "trouble_2"]
    assert programs.logged == []


# --- the rate -----------------------------------------------------------------------------------------------------
