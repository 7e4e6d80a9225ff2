"""The operator's program runs for each alarm of a gateway."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import pytest

from daemon.journal.writer import BALLAST_FILE
from strategies.kit.units import SECOND_NS
from tests.support.gateway_stage import stage

pytestmark = pytest.mark.host_time  # the program is a real one


def alarm_program(alarm_file: Path) -> dict[str, list[str]]:
    program = f"import pathlib, sys; pathlib.Path({str(alarm_file)!r}).write_text(sys.stdin.read())"
    return {"command": [sys.executable, "-c", program]}


async def test_a_halt_runs_the_operators_program_with_the_alarm_as_one_line(tmp_path: Path) -> None:
    alarm_file = tmp_path / "told"
    async with stage(tmp_path / "gateway", more_tables={"alarms": alarm_program(alarm_file)}) as s:
        await s.gateway.halt("operator", "a word", "anna")
        await s.until(lambda: alarm_file.exists() and bool(alarm_file.read_text()))
    line = json.loads(alarm_file.read_text())
    assert (line["desk"], line["mode"], line["alarm"]) == ("gateway", "gateway", "gateway_halted")
    assert line["detail"] == "operator: a word"


async def test_a_resume_after_a_full_disk_takes_the_reserve_again_or_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with stage(tmp_path) as s:
        ballast, writer = tmp_path / BALLAST_FILE, s.gateway.journal._writer
        writer._ballast_mib, writer.pressed = 1, True  # a reserve that was given up
        await s.gateway.lift("a")
        await s.until(lambda: s.halted() == "disk_full")
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", no_room)
            with pytest.raises(ValueError, match=r"cannot reserve .* make room"):
                await s.gateway.resume("anna", "there is room")
        assert s.halted() == "disk_full"
        await s.gateway.resume("anna", "there is room")
        assert (s.halted(), ballast.stat().st_size) == ("", 2**20)


async def test_a_full_disk_halts_and_runs_the_operators_program(tmp_path: Path) -> None:
    alarm_file = tmp_path / "told"
    async with stage(tmp_path / "gateway", more_tables={"alarms": alarm_program(alarm_file)}) as s:
        s.gateway.journal._writer.pressed = True  # as the writer does when it gives up the reserve
        await s.gateway.lift("a")
        await s.until(lambda: alarm_file.exists() and bool(alarm_file.read_text()))
        assert s.halted() == "disk_full"
    line = json.loads(alarm_file.read_text())
    assert (line["alarm"], line["detail"].partition(":")[0]) == ("gateway_halted", "disk_full")


async def test_a_host_s_clock_that_differs_runs_the_operators_program_once_an_hour(tmp_path: Path) -> None:
    alarm_file = tmp_path / "told"
    async with stage(tmp_path / "gateway", more_tables={"alarms": alarm_program(alarm_file)}) as s:
        until_ns = s.broker.clock.now_ns() + 60 * SECOND_NS
        s.broker.faults.add("clock_skew", until_ns=until_ns, skew_s=5)
        for _ in range(2):
            await s.gateway._check.measure()
        await s.until(lambda: alarm_file.exists() and bool(alarm_file.read_text()))
        assert s.gateway.alarms_raised == {"clock_skew": 1}
        assert len(s.log.of("clock_skew")) == 2
    line = json.loads(alarm_file.read_text())
    assert line["alarm"] == "clock_skew"
    name, seconds = line["detail"].partition(",")[0].split()
    assert (name, round(float(seconds), 1)) == ("skew_s", 5.0)  # a request on a busy host takes milliseconds
