"""`rltrader-guard` as it is started: what it refuses, and what its check finds."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import cast

import msgspec
import pytest

from daemon.brokers.api import GuardedAccount
from daemon.config.load import load
from daemon.guard import command
from daemon.guard.command import changed_days, main
from daemon.guard.watch import Memory
from daemon.host.service import Service
from daemon.host.time.clock import Clock
from daemon.operator.heartbeat import Heartbeat, Held, sign
from daemon.operator.log import Log
from daemon.operator.signing import parse_key
from strategies.kit.quantity import to_json
from tests.support.log import LogRecorder

KEYS = {"APCA_API_KEY_ID": "PKGUARD0", "APCA_API_SECRET_KEY": "s3cret-0123456789", "GUARD_KEY": "5a" * 32}


def configured(folder: Path, *lines: str) -> str:
    path = folder / "config.toml"
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("lines", "missing", "expected"),
    [
        (("[guard]",), "", 'guard.prefix is ""'),
        (("[guard]", 'prefix = "guard"'), "", "guard.drop_dir"),
        (("[guard]", 'prefix = "guard"', 'drop_dir = "relative"'), "", "whole path"),
        (("[guard]", 'prefix = "guard"', 'drop_dir = "/d"', 'act = "close"'), "", "two paths"),
        (("[guard]", 'prefix = "guard"', 'drop_dir = "/d"', "act_s = 60"), "", "at least guard.alarm_s + 2 x look_s"),
        (("[guard]", 'prefix = "guard"', 'drop_dir = "/d"', "alarm_s = 20"), "", "three times guard.beat_s"),
        (("[guard]", 'prefix = "Guard"', 'drop_dir = "/d"'), "", "guard.prefix"),
        (("[guard]", 'prefix = "guard"', 'drop_dir = "/d"'), "GUARD_KEY", "GUARD_KEY"),
        (("[guard]", 'prefix = "guard"', 'drop_dir = "/d"'), "APCA_API_SECRET_KEY", "the account's keys are missing"),
    ],
)
def test_what_it_cannot_begin_with_is_named_with_the_cure(
    lines: tuple[str, ...],
    missing: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if missing:
        monkeypatch.delenv(missing)
    assert main(["--config", configured(tmp_path, *lines), "--state-dir", str(tmp_path / "state")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("rltrader-guard: ")
    assert expected in error
    assert not any(value in error for value in KEYS.values())


def test_the_check_names_each_path_the_desk_and_the_account(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ('[guard]\nprefix = "guard"', f'drop_dir = "{tmp_path}"', "beat_s = 1", "alarm_s = 3")
    nobody = ('[alpaca]\ntrading_url = "http://127.0.0.1:9"', 'trade_stream_url = "ws://127.0.0.1:9"')
    strange = '[desk]\nstrategy = "/nowhere/of/the/desk/own.py"'  # a file of one's own is not on the guard's host
    path = configured(tmp_path, strange, *lines, *nobody)
    assert main(["--config", path, "--state-dir", str(tmp_path / "state"), "--check"]) == 1
    output = capsys.readouterr().out.splitlines()
    assert output[0] == "ok   folder: its own message came back"
    assert output[1].startswith("FAIL desk paper-1: no heartbeat came within 3 s")
    assert output[2].startswith("FAIL account: ")


@pytest.mark.parametrize(
    ("last_beat", "now", "days"),
    [
        ("2026-11-24T15:00", "2026-11-24T16:00", ()),  # within one session
        ("2026-11-24T13:00", "2026-11-24T15:00", ("2026-11-24",)),  # before the day's open
        ("2026-11-24T20:00", "2026-11-25T12:00", ("2026-11-25",)),  # over night
        ("2026-11-20T20:00", "2026-11-23T15:00", ("2026-11-23", "2026-11-22", "2026-11-21")),
    ],
)
def test_the_days_of_corporate_actions_that_the_desk_cannot_know(
    last_beat: str, now: str, days: tuple[str, ...]
) -> None:
    def ns(text: str) -> int:
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000_000

    assert changed_days(ns(last_beat), ns(now)) == days


@pytest.mark.parametrize(("now", "day_count"), [("2026-03-02", 28), ("2026-05-03", 90), ("2026-05-04", None)])
def test_the_corporate_actions_of_a_long_absence_are_all_asked_for_or_unknown(now: str, day_count: int | None) -> None:
    """The desk was last heard on Monday the 2nd of February 2026, after the open: the 3rd is the first day."""
    heard_ns, now_ns = (
        int(datetime.fromisoformat(f"{day}T20:00+00:00").timestamp()) * 10**9 for day in ("2026-02-02", now)
    )
    days = changed_days(heard_ns, now_ns)
    assert (None if days is None else (len(days), days[0], days[-1])) == (day_count and (day_count, now, "2026-02-03"))


@pytest.mark.parametrize("error", [OSError(24, "too many open files"), TimeoutError(), ConnectionResetError("reset")])
def test_a_fault_of_the_system_ends_a_guard_with_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError
) -> None:
    async def fails(_: object, __: object) -> None:
        assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0  # the account's keys reach no file
        raise error

    monkeypatch.setattr(command.Guard, "run", fails)
    path = configured(tmp_path, "[guard]", 'prefix = "guard"', f'drop_dir = "{tmp_path}"')
    assert command.main(["--config", path, "--state-dir", str(tmp_path / "state")]) == 1
    assert capsys.readouterr().err == f"rltrader-guard: {str(error) or 'TimeoutError'}\n"


# --- a configuration with a mistake ---------------------------------------------------------------------------------


def heard(folder: Path, holds: Mapping[str, Held]) -> None:
    """What the guard remembers of the desk that it heard last."""
    beat = Heartbeat(
        desk="paper-1", life=1, counter=5, time_ns=1, account="PA1", names="rlt-", prefix="guard", leaving=False,
        holds=dict(holds), orders={},
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    signed = sign(beat, parse_key(KEYS["GUARD_KEY"], "the key"))
    (folder / "paper-1.json").write_bytes(msgspec.json.encode(Memory(signed), enc_hook=to_json))


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[command.Guard]:
    """The guards that began to watch; each ends at once, as by a signal."""
    guards: list[command.Guard] = []

    async def run(guard: command.Guard, _: object) -> None:
        guards.append(guard)
        raise asyncio.CancelledError

    monkeypatch.setattr(command.Guard, "run", run)
    return guards


HOLDS = {"SPY": Held(10, 0, Decimal(90), None)}


@pytest.mark.parametrize(
    ("whole_act", "mistaken", "act"),
    [
        (
            "close",
            ('act = "clsoe"',),
            "protect",
        ),  # what both share may have been changed: it does what harms no living desk
        ("protect", ('act = "protect"', "act_s = 1"), "protect"),
        ("alarm", ('act = "protect', ""), "alarm"),  # no TOML at all
    ],
)
def test_a_mistake_leaves_the_guard_of_a_desk_that_holds_something_its_last_start(
    tmp_path: Path, begun: list[command.Guard], whole_act: str, mistaken: tuple[str, ...], act: str
) -> None:
    drop, state = tmp_path / "drop", tmp_path / "state"
    table = (
        "[mqtt]",
        "enabled = true",
        'host = "third.example"',
        "[guard]",
        'prefix = "guard"',
        f'drop_dir = "{drop}"',
    )
    heard(state, HOLDS)
    arguments = ["--config", configured(tmp_path, *table, f'act = "{whole_act}"'), "--state-dir", str(state)]
    assert main(arguments) == 0
    configured(tmp_path, *table, *mistaken)
    assert main(arguments) == 0
    whole, last = begun
    assert whole.watch._rules.act == whole_act
    assert (last.watch._rules.act, last.watch._rules.fence) == (act, False)
    assert last.watch._rules.paths == whole.watch._rules.paths == ("MQTT", "folder")
    assert last.watch.beat == whole.watch.beat is not None
    assert whole._mistake == ""
    assert "config.toml" in last._mistake
    assert main([*arguments, "--check"]) == 2


def test_a_mistake_in_the_environment_leaves_it_its_last_start_and_a_flat_desk_has_its_mistake_named(
    tmp_path: Path, begun: list[command.Guard], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    table = ("[guard]", 'prefix = "guard"', f'drop_dir = "{tmp_path}"', 'act = "protect"')
    arguments = ["--config", configured(tmp_path, *table), "--state-dir", str(state)]
    monkeypatch.setenv("RLTRADER_GUARD__LOOK_S", "7")
    assert main(arguments) == 0
    monkeypatch.setenv("RLTRADER_GUARD__LOOK_S", "often")
    heard(state, {})
    assert main(arguments) == 2
    heard(state, HOLDS)
    assert main(arguments) == 0
    assert [guard.watch._rules.look_s for guard in begun] == [7, 7]


async def test_a_guard_that_goes_on_by_its_last_start_says_so_with_the_mistake(tmp_path: Path) -> None:
    log = LogRecorder()
    settings = load(None, {"guard.prefix": "guard", "guard.drop_dir": str(tmp_path)}, {}, only=command.TABLES)
    key = parse_key(KEYS["GUARD_KEY"], "the key")
    guard = command.Guard(
        settings,
        cast(GuardedAccount, None),
        key,
        None,
        tmp_path / "memory",
        cast(Log, log),
        Clock.real(),
        mistake="look_s is 0",
    )
    running = asyncio.create_task(guard.run(Service()))
    await asyncio.sleep(0.1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert log.of("guard_configuration") == [{"detail": "look_s is 0"}]
