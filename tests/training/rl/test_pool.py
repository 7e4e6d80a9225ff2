"""Tasks in several processes: what is stopped, what fails, who is killed, and that nobody hangs or is left over."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import REPOSITORY
from tests.support.rl.pool_tasks import carry_out, nothing
from training.rl.pool import Flag, ProcessPool, SharedFlag, Stopped, work_through


def refuse(argument: Any) -> Any:
    """A preparation that fails."""
    raise FileNotFoundError(f"{argument} is gone")


def through(folder: Path, tasks: list[str], flag: Flag | None = None, **other: Any) -> list[str]:
    """The tasks in two processes."""
    options = {"prepare": nothing, "emit": lambda _: None, **other}
    return work_through(carry_out, tasks, argument=folder, processes=2, flag=flag or threading.Event(), **options)


def test_results_are_in_the_order_of_the_tasks_and_all_news_arrives(tmp_path: Path) -> None:
    messages: list[str] = []
    assert through(tmp_path, ["a", "b", "c"], emit=messages.append) == ["A", "B", "C"]
    assert sorted(messages) == ["a", "b", "c"]


def test_a_task_that_fails_stops_the_ones_before_it_and_is_what_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fold 3 has no sessions"):
        through(tmp_path, ["wait 1", "fail", "wait 2", "wait 3", "wait 4", "wait 5"])
    assert not list(tmp_path.glob("wait 5*"))  # never began
    assert not multiprocessing.active_children()


def test_a_strategy_that_fails_in_a_process_is_named_with_its_line_whatever_it_raises(tmp_path: Path) -> None:
    lines = (REPOSITORY / "tests" / "support" / "rl" / "pool_tasks.py").read_text(encoding="utf-8").splitlines()
    line = 1 + next(place for place, text in enumerate(lines) if "raise NoRowError" in text)
    text = (
        rf"the strategy failed: NoRowError: no row of SPY on day 3 \(.*pool_tasks.py, line {line}\): correct it there"
    )
    with pytest.raises(RuntimeError, match=text):
        through(tmp_path, ["wait 1", "ask"])


def test_what_the_preparation_of_a_process_raises_is_what_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is gone"):
        through(tmp_path, ["a", "b"], prepare=refuse)


def test_a_process_that_is_killed_ends_the_work_with_a_cure_though_another_is_idle(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"ended by itself, perhaps for lack of memory.*fewer --processes"):
        through(tmp_path, ["a", "die"])
    assert not multiprocessing.active_children()


def test_processes_stay_for_further_tasks_and_one_that_ended_meanwhile_is_replaced(tmp_path: Path) -> None:
    flag = threading.Event()
    messages: list[str] = []
    with contextlib.closing(ProcessPool(nothing, tmp_path, 2)) as pool:

        def pids() -> set[int | None]:
            assert pool.work_through(carry_out, ["a", "b"], flag=flag, emit=messages.append) == ["A", "B"]
            return {process.pid for process in multiprocessing.active_children()}

        first = pids()
        assert pids() == first
        multiprocessing.active_children()[0].kill()
        while multiprocessing.active_children():  # the pool ends the other one
            time.sleep(0.02)
        assert first.isdisjoint(pids())
        flag.set()
        with pytest.raises(Stopped):
            pool.work_through(carry_out, ["a", "b"], flag=flag, emit=messages.append)
    assert sorted(messages) == ["a", "a", "a", "b", "b", "b"]
    assert not multiprocessing.active_children()


def test_a_stop_ends_what_is_under_way_and_begins_nothing_more(tmp_path: Path) -> None:
    flag = threading.Event()
    with pytest.raises(Stopped):
        through(tmp_path, ["wait 1", "wait 2", "wait 3", "wait 4", "wait 5"], flag, emit=lambda _: flag.set())
    assert not list(tmp_path.glob("wait 5*"))


def test_a_stop_is_seen_while_messages_come_without_a_pause(tmp_path: Path) -> None:
    flag, heard = threading.Event(), iter(range(1_000))

    def listen(_: object) -> None:
        flag.set()
        assert next(heard, None) is not None, "a thousand messages after the stop"

    with contextlib.suppress(Stopped):  # of a task that had not begun
        through(tmp_path, ["talk", "talk"], flag, emit=listen)


def test_a_kill_is_followed_by_no_words_about_semaphores(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(SCRIPT)
    (tmp_path / "signs").mkdir()
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "signs")], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    while process.poll() is None and not list((tmp_path / "signs").iterdir()):
        time.sleep(0.02)
    process.kill()
    assert process.communicate(timeout=300)[1] == ""  # read to its end: all that held it have ended


def test_who_is_killed_while_looking_at_the_flag_blocks_nobody() -> None:
    flag = SharedFlag()
    looking = multiprocessing.get_context("spawn").Process(target=look_for_ever, args=(flag,))
    looking.start()
    looking.kill()
    looking.join()
    flag.set()
    assert flag.is_set()


def look_for_ever(flag: Flag) -> None:
    """Holds the flag as often as one can."""
    while not flag.is_set():
        pass


SCRIPT = """
import sys, threading
from pathlib import Path
from tests.support.rl.pool_tasks import carry_out, nothing
from training.rl.pool import Stopped, stop_on_signals, work_through
if __name__ == "__main__":
    flag = threading.Event()
    with stop_on_signals(flag):
        print("begun", flush=True)
        try:
            work_through(carry_out, ["wait 1", "wait 2", "wait 3"], prepare=nothing, argument=Path(sys.argv[1]),
                         processes=2, flag=flag, emit=lambda _: None)
        except Stopped:
            sys.exit(130)
"""


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_at_once_is_a_stop_and_nothing_else(
    tmp_path: Path, number: signal.Signals, early: bool
) -> None:
    """As Ctrl-C in a terminal does, or systemd: also while the workers load what they need."""
    (tmp_path / "signs").mkdir()
    script = tmp_path / "work.py"
    script.write_text(SCRIPT)
    root = REPOSITORY
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "signs")], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    while process.poll() is None and len(list((tmp_path / "signs").iterdir())) < 2 and not early:
        time.sleep(0.02)
    os.killpg(process.pid, number)
    errors = process.communicate(timeout=300)[1]
    assert (process.returncode, errors) == (130, "")
