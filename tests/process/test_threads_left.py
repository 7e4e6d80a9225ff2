"""A thread that a strategy started and that never ends keeps no ended daemon, nor its exit code from systemd."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

ENDED = """
import sys, threading, time
from concurrent.futures import ThreadPoolExecutor
import daemon.__main__ as program
from daemon.cli import daemon as cli
from daemon.cli.start import exits

exits.LEAVE_S = 0.2

def work():
    {begins}
    {ends}

cli.main = work
sys.exit(program.main())
"""
BEGINS = {
    "mine": "threading.Thread(target=time.sleep, args=(600,), name='mine').start()",
    "ThreadPoolExecutor-0_0": "ThreadPoolExecutor(1).submit(time.sleep, 600)",
}


@pytest.mark.parametrize("name", BEGINS)
@pytest.mark.parametrize(("ends", "code"), [("return 0", 0), ("return 1", 1), ("raise MemoryError", 1)])
def test_a_thread_that_does_not_end_keeps_no_daemon_that_did(name: str, ends: str, code: int) -> None:
    left = run(ENDED.format(begins=BEGINS[name], ends=ends))
    assert left.returncode == code
    (line,) = [json.loads(text) for text in left.stderr.splitlines() if text.startswith("{")]
    assert (line["event"], line["threads"]) == ("threads_left", name)


def test_a_daemon_without_such_a_thread_ends_at_once_and_says_nothing() -> None:
    left = run(
        ENDED.format(begins="threading.Thread(target=time.sleep, args=(600,), daemon=True).start()", ends="return 0")
    )
    assert (left.returncode, left.stderr) == (0, "")


def run(program: str) -> Any:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
