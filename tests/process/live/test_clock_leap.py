"""A host whose wall clock is eight hours ahead, under a desk that holds a position: every way out stays open.

Expected values are the server's book and clock.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from daemon.cli import ctl
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from tests.support.desks.stage import KEYS, Stage, Tape, new_york_ns, stage

DAY = "2024-10-31"
BEGIN = "10:06"  # three minutes before the lively policy's first entry
SECOND_NS = 1_000_000_000
EIGHT_HOURS_S = 8 * 3600.0


def send(word: str, desk: Stage, *more: str) -> int:
    return ctl.main([word, "--state-dir", str(desk.state_dir), "--reason", "a test", *more])


def newest_ns(desk: Stage) -> int:
    """The latest time in the journal."""
    reader = JournalReader(desk.state_dir / FILE)
    try:
        return int(reader.query("SELECT max(time_ns) AS t FROM events")[0]["t"])
    finally:
        reader.close()


def test_a_leap_of_the_host_s_clock_locks_no_exit_over_a_restart_either(
    bundled: Tape, lively: Path, tmp_path: Path
) -> None:
    with stage(bundled, DAY, BEGIN, tmp_path, lively) as desk:
        daemon = desk.start()
        desk.until_true(lambda: bool(desk.held()), "a position")
        daemon.leap(EIGHT_HOURS_S)
        desk.until_true(lambda: bool(desk.read_log("clock_leap")), "the alarm")
        daemon.terminate()
        assert daemon.wait(60) == 0
        before = len(desk.read_log("control_listening"))
        desk.start(ahead_s=EIGHT_HOURS_S)
        desk.until_true(lambda: bool(desk.read_log("clock_wrong")), "the start's alarm")
        desk.until_true(lambda: len(desk.read_log("control_listening")) > before, "its own socket")
        assert send("flatten", desk, "--yes") == 0
        desk.until_true(lambda: not desk.held(), "an account that is flat")
        assert newest_ns(desk) <= desk.clock.now_ns() < new_york_ns(DAY, "16:00")


@pytest.mark.parametrize("running", [True, False])
def test_a_journal_that_is_eight_hours_ahead_is_led_back_by_command_and_its_exits_leave(
    bundled: Tape, lively: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, running: bool
) -> None:
    with stage(bundled, DAY, BEGIN, tmp_path, lively) as desk:
        daemon = desk.start()
        desk.until_true(lambda: bool(desk.held()), "a position")
        daemon.kill()
        daemon.wait(60)
        # a start that cannot ask the broker's clock believes the host's: its first event is eight hours ahead
        faults, clock = desk.server.faults, {"path": "/v2/clock"}
        desk.server.call(faults.add, "http_error", where=clock, times=1, status=503)
        blind = desk.start(ahead_s=EIGHT_HOURS_S)
        desk.until_true(lambda: len(desk.journaled("RunStarted")) == 2, "its first event")
        blind.kill()
        blind.wait(60)
        assert newest_ns(desk) > desk.clock.now_ns() + 7 * 3600 * SECOND_NS
        before = len(desk.read_log("control_listening"))
        last = desk.start()
        desk.until_true(lambda: bool(desk.read_log("clock_ahead")), "the alarm")
        desk.until_true(lambda: len(desk.read_log("control_listening")) > before, "its own socket")
        assert send("flatten", desk, "--yes") == 0
        assert desk.held()
        if running:
            assert send("reset-clock", desk) == 0
        else:
            last.kill()
            last.wait(60)
            for name, value in KEYS.items():
                monkeypatch.setenv(name, value)
            with ThreadPoolExecutor(1) as other:  # it asks the server, whose answer takes virtual time
                reset = other.submit(send, "reset-clock", desk, "--config", str(desk.folder / "config.toml"))
                while not wait((reset,), 0.05).done:
                    desk.clock.pass_s(0.1)
            assert reset.result() == 0
            desk.start()
        desk.until_true(lambda: not desk.held(), "an account that is flat")
        assert [row["reason"] for row in desk.journaled("ClockReset")] == ["a test"]
