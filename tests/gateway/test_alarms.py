"""The operator's program runs for each alarm of a gateway."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.support.gateway_stage import stage


async def test_a_halt_runs_the_operators_program_with_the_alarm_as_one_line(tmp_path: Path) -> None:
    told = tmp_path / "told"
    program = f"import pathlib, sys; pathlib.Path({str(told)!r}).write_text(sys.stdin.read())"
    table = {"command": [sys.executable, "-c", program]}
    async with stage(tmp_path / "gateway", more_tables={"alarms": table}) as s:
        await s.gateway.halt("operator", "a word", "anna")
        await s.until(lambda: told.exists() and bool(told.read_text()))
    line = json.loads(told.read_text())
    assert (line["desk"], line["mode"], line["alarm"]) == ("gateway", "gateway", "gateway_halted")
    assert line["detail"] == "operator: a word"
