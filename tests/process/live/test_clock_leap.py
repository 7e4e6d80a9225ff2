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


def send(word: str, played: Stage, *more: str) -> int:
    return ctl.main([word, "--state-dir", str(played.state_dir), "--reason", "a test", *more])


def newest_ns(played: Stage) -> int:
    """The latest time in the journal."""
    reader = JournalReader(played.state_dir / FILE)
    try:
        return int(reader.query("SELECT max(time_ns) AS t FROM events")[0]["t"])
    finally:
        reader.close()


def test_a_leap_of_the_host_s_clock_locks_no_exit_over_a_restart_either(
    bundled: Tape, lively: Path, tmp_path: Path
) -> None:
    with stage(bundled, DAY, BEGIN, tmp_path, lively) as played:
        daemon = played.start()
        played.until_true(lambda: bool(played.held()), "a position")
        daemon.leap(EIGHT_HOURS_S)
        played.until_true(lambda: bool(played.read_log("clock_leap")), "the alarm")
        daemon.terminate()
        assert daemon.wait(60) == 0
        before = len(played.read_log("control_listening"))
        played.start(ahead_s=EIGHT_HOURS_S)
        played.until_true(lambda: bool(played.read_log("clock_wrong")), "the start's alarm")
        played.until_true(lambda: len(played.read_log("control_listening")) > before, "its own socket")
        assert send("flatten", played, "--yes") == 0
        played.until_true(lambda: not played.held(), "an account that is flat")
        assert newest_ns(played) <= played.clock.now_ns() < new_york_ns(DAY, "16:00")


@pytest.mark.parametrize("running", [True, False])
def test_a_journal_that_is_eight_hours_ahead_is_led_back_by_command_and_its_exits_leave(
    bundled: Tape, lively: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, running: bool
) -> None:
    with stage(bundled, DAY, BEGIN, tmp_path, lively) as played:
        daemon = played.start()
        played.until_true(lambda: bool(played.held()), "a position")
        daemon.kill()
        daemon.wait(60)
        # a start that cannot ask the broker's clock believes the host's: its first event is eight hours ahead
        faults, clock = played.server.faults, {"path": "/v2/clock"}
        played.server.call(faults.add, "http_error", where=clock, times=1, status=503)
        blind = played.start(ahead_s=EIGHT_HOURS_S)
        played.until_true(lambda: len(played.journaled("RunStarted")) == 2, "its first event")
        blind.kill()
        blind.wait(60)
        assert newest_ns(played) > played.clock.now_ns() + 7 * 3600 * SECOND_NS
        before = len(played.read_log("control_listening"))
        last = played.start()
        played.until_true(lambda: bool(played.read_log("clock_ahead")), "the alarm")
        played.until_true(lambda: len(played.read_log("control_listening")) > before, "its own socket")
        assert send("flatten", played, "--yes") == 0
        assert played.held()
        if running:
            assert send("reset-clock", played) == 0
        else:
            last.kill()
            last.wait(60)
            for name, value in KEYS.items():
                monkeypatch.setenv(name, value)
            with ThreadPoolExecutor(1) as other:  # it asks the server, whose answer takes virtual time
                reset = other.submit(send, "reset-clock", played, "--config", str(played.folder / "config.toml"))
                while not wait((reset,), 0.05).done:
                    played.clock.pass_s(0.1)
            assert reset.result() == 0
            played.start()
        played.until_true(lambda: not played.held(), "an account that is flat")
        assert [row["reason"] for row in played.journaled("ClockReset")] == ["a test"]
