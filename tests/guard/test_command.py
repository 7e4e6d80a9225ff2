"""`rltrader-guard` as it is started: what it refuses, and what its check finds."""

from __future__ import annotations

import resource
from datetime import UTC, datetime
from pathlib import Path

import pytest

from daemon.guard import command
from daemon.guard.command import changed_days, main

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
