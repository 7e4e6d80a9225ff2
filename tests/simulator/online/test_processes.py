"""Processes of the show: their ends are noticed, their logs read, and all are stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulator.online.processes import Processes, ShowError


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    return Processes(tmp_path, 1.0)


def test_a_process_that_ends_by_itself_is_an_error_with_its_last_words(processes: Processes) -> None:
    processes.start("clerk", ["sh", "-c", "echo no paper left; exit 3"])
    with pytest.raises(ShowError, match=r"clerk ended with 3: no paper left"):
        processes.until(lambda: False, "nothing", 60.0)


def test_what_does_not_come_is_named(processes: Processes) -> None:
    processes.start("clerk", ["sleep", "60"])
    with pytest.raises(ShowError, match="waited 0 s for this: a letter"):
        processes.until(lambda: False, "a letter", 0.0)
    processes.stop_all()
    processes.check()  # nothing is left that could have ended


def test_a_command_gives_its_output_or_raises(processes: Processes) -> None:
    processes.begin("good", ["sh", "-c", "echo 42"])
    processes.begin("bad", ["sh", "-c", "exit 7"])
    assert processes.finish("good", 60.0).strip() == "42"
    with pytest.raises(ShowError, match="bad ended with 7"):
        processes.finish("bad", 60.0)


def test_events_are_read_from_a_log_with_other_lines(processes: Processes) -> None:
    lines = ["no JSON", json.dumps({"event": "other"}), json.dumps({"event": "run_started", "epoch": "e1"}), "[1]"]
    processes.log("daemon").write_text("\n".join(lines))
    assert processes.logged("daemon", "run_started") == [{"event": "run_started", "epoch": "e1"}]
