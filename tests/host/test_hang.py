"""A step that does not come back ends the process, one that was stopped meanwhile does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from daemon.host.hang import BOOT_ID, CALL_FILE, FILE, CallMark, HangGuard, crash_of, last_hang, shown_stack
from tests.support.paths import REPOSITORY

WATCHED = """
import ctypes, sys, time
from pathlib import Path
import daemon.host.hang as hang
hang.LAST_S = float(sys.argv[3])
step = [0]
guard = hang.HangGuard(Path(sys.argv[1]), float(sys.argv[2]), lambda: step[0])
guard.start()
print("on", flush=True)
def policy():
    {0}
{1}
policy()
print("back", flush=True)
step[0] = 0
guard.close()
"""
DEADLINE_S = 60.0


def process(
    folder: Path, body: str, before: str = "step[0] = 1", limits: tuple[float, float] = (1.0, 2.0)
) -> subprocess.Popen[str]:
    code = WATCHED.replace("{0}", body).replace("{1}", before)
    command = [sys.executable, "-c", code, str(folder), *map(str, limits)]
    started = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline() == "on\n"
    return started


@pytest.mark.parametrize(
    "body",
    ["while True: pass", "time.sleep(600)", "ctypes.PyDLL(None).pause()"],
    ids=["spins", "waits", "keeps the GIL"],
)
def test_a_step_that_does_not_come_back_ends_the_process_and_leaves_its_stack(tmp_path: Path, body: str) -> None:
    with process(tmp_path, body) as hanging:
        assert hanging.wait(DEADLINE_S) == 1
    assert "<string>:11 policy, from <string>:13 <module>" in shown_stack(last_hang(tmp_path), "<string>")
    assert crash_of(last_hang(tmp_path)) == ""


def test_a_step_whose_long_calls_in_c_seldom_let_a_thread_run_ends_by_the_time_that_it_computed(tmp_path: Path) -> None:
    body = """sys.setswitchinterval(1000.0)  # computes as a call in C does, which keeps the GIL
    time.sleep(0.6)
    for end_s in (2.5, 5.0, 7.5, 10.0):
        while time.thread_time() < end_s: pass
        time.sleep(0.01)"""
    with process(tmp_path, body, limits=(5.0, 50.0)) as hanging:
        assert hanging.wait(DEADLINE_S) == 1
    assert "policy, from <string>" in shown_stack(last_hang(tmp_path), "<string>")


def test_a_step_whose_long_waits_in_c_seldom_let_a_thread_run_ends_by_the_time_that_passed(tmp_path: Path) -> None:
    body = "for _ in range(5): ctypes.PyDLL(None).sleep(2)"
    with process(tmp_path, body, limits=(5.0, 50.0)) as hanging:
        assert hanging.wait(DEADLINE_S) == 1
    assert "policy, from <string>" in shown_stack(last_hang(tmp_path), "<string>")


def test_a_wait_in_c_on_a_desk_that_switches_threads_often_counts_no_time_of_a_stop(tmp_path: Path) -> None:
    code = WATCHED.replace("{0}", "time.sleep(0.7); ctypes.PyDLL(None).sleep(2)").replace("{1}", "step[0] = 1")
    command = [sys.executable, "-c", f"import sys; sys.setswitchinterval(0.0005)\n{code}"]
    with subprocess.Popen([*command, str(tmp_path), "5.0", "50.0"], cwd=REPOSITORY, stdout=subprocess.PIPE) as stopped:
        assert stopped.stdout is not None
        assert stopped.stdout.readline() == b"on\n"
        time.sleep(1.9)
        os.kill(stopped.pid, signal.SIGSTOP)
        time.sleep(6.0)
        os.kill(stopped.pid, signal.SIGCONT)
        assert stopped.wait(DEADLINE_S) == 0


@pytest.mark.parametrize(
    ("body", "words", "number"),
    [
        ("ctypes.string_at(0)", "Segmentation fault", signal.SIGSEGV),
        ("__import__('os').abort()", "Aborted", signal.SIGABRT),
    ],
)
def test_a_step_whose_code_in_c_ends_the_process_leaves_its_stack(
    tmp_path: Path, body: str, words: str, number: int
) -> None:
    with process(tmp_path, body) as crashing:
        assert crashing.wait(DEADLINE_S) == -number
    stack = last_hang(tmp_path)
    assert "<string>:11 policy, from <string>:13 <module>" in shown_stack(stack, "<string>")
    assert crash_of(stack) == words


def test_many_short_steps_and_a_long_time_between_two_are_no_hang(tmp_path: Path) -> None:
    body = "[(step.__setitem__(0, n + 1), time.sleep(0.1)) for n in range(20)]; step[0] = 0; time.sleep(2.5)"
    with process(tmp_path, body) as working:
        assert working.wait(DEADLINE_S) == 0
    assert last_hang(tmp_path) == ""


def test_a_process_that_was_stopped_in_a_step_goes_on(tmp_path: Path) -> None:
    with process(tmp_path, "sys.stdin.readline()") as stopped:
        stopped.kill()
    reads = WATCHED.replace("{0}", "sys.stdin.readline()").replace("{1}", "step[0] = 1")
    command = [sys.executable, "-c", reads, str(tmp_path), "1.0", "50.0"]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as suspended:
        assert suspended.stdout is not None
        assert suspended.stdin is not None
        assert suspended.stdout.readline() == "on\n"
        os.kill(suspended.pid, signal.SIGSTOP)
        time.sleep(2.5)
        os.kill(suspended.pid, signal.SIGCONT)
        suspended.stdin.write("go on\n")
        suspended.stdin.flush()
        assert suspended.stdout.readline() == "back\n"
        assert suspended.wait(DEADLINE_S) == 0


def test_the_record_of_another_user_s_link_is_not_written_and_ends_a_hang_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("kept")
    (tmp_path / FILE).symlink_to(tmp_path / "target")
    with process(tmp_path, "time.sleep(600)") as hanging:
        assert hanging.wait(DEADLINE_S) == 1
    assert (tmp_path / "target").read_text() == "kept"
    guard = HangGuard(tmp_path, 1.0, lambda: 0)
    guard.close()
    assert guard.unrecorded == f"{tmp_path / FILE}: it is no plain file: move it away"
    (tmp_path / FILE).unlink()
    os.mkfifo(tmp_path / FILE)
    assert last_hang(tmp_path) == ""


def test_a_stack_that_was_in_no_file_asked_for_is_not_shown() -> None:
    text = 'Thread 0x1 (most recent call first):\n  File "/a/b.py", line 3 in wait\n'
    assert shown_stack(text, "desks/guarded.py") == ""
    assert last_hang(Path("/nowhere")) == ""


def noted(folder: Path, day: str = "2026-11-30") -> tuple[str, int]:
    mark = CallMark(folder, day)
    mark.close()
    return mark.ended_in, mark.times


def end_within(folder: Path, call: str, day: str = "2026-11-30") -> None:
    mark = CallMark(folder, day)
    mark.note("observe")
    mark.note(call)
    mark.close()


def test_runs_that_ended_in_a_call_count_by_the_day_and_one_that_ended_between_two_calls_does_not(
    tmp_path: Path,
) -> None:
    assert noted(tmp_path) == ("", 0)
    end_within(tmp_path, "decide")
    assert noted(tmp_path) == ("decide", 1)
    assert noted(tmp_path) == ("", 1)
    end_within(tmp_path, "a name that is longer than its place")
    assert noted(tmp_path) == ("a name that is l", 2)
    end_within(tmp_path, "")
    assert noted(tmp_path) == ("", 2)
    end_within(tmp_path, "decide")
    assert noted(tmp_path, "2026-12-01") == ("decide", 1)
    mark = CallMark(tmp_path, "2026-12-01")
    mark.forget()
    mark.close()
    assert noted(tmp_path, "2026-12-01") == ("", 0)


def test_what_another_thread_calls_hides_no_call_under_way(tmp_path: Path) -> None:
    mark = CallMark(tmp_path, "2026-11-30")
    mark.note("observe")
    for call in ("golden tape", ""):
        other = threading.Thread(target=mark.note, args=(call,))
        other.start()
        other.join()
    assert mark.under_way == 1
    mark.close()
    assert noted(tmp_path) == ("observe", 1)


def test_runs_that_ended_after_a_call_and_were_not_stopped_count_by_the_day(tmp_path: Path) -> None:
    def ends(calls: tuple[str, ...], *, stopped: bool, day: str = "2026-11-30") -> tuple[int, bool, str]:
        mark = CallMark(tmp_path, day)
        for call in calls:
            mark.note(call)
        if stopped:
            mark.stopped()
            mark.note("decide")  # what it is asked while it stops is no call that ended it
        mark.close()
        after = CallMark(tmp_path, day)
        after.close()
        return after.unstopped, after.ended_after, after.ended_in

    assert ends((), stopped=False) == (0, False, "")
    assert ends(("observe", ""), stopped=True) == (0, False, "")
    assert ends(("observe", ""), stopped=False) == (1, True, "")
    assert ends(("observe", ""), stopped=True) == (1, False, "")
    assert ends(("observe", "", "decide"), stopped=True) == (1, False, "decide")  # it stopped the process itself
    assert ends(("observe", ""), stopped=False) == (2, True, "")
    assert ends(("observe", ""), stopped=False, day="2026-12-01") == (1, True, "")


def test_of_a_file_that_a_run_has_alone_another_process_counts_nothing(tmp_path: Path) -> None:
    running = CallMark(tmp_path, "2026-11-30", alone=True)
    running.note("")
    other = CallMark(tmp_path, "2026-11-30", alone=True)
    assert (other.unstopped, other.ended_after) == (0, False)
    other.close()
    running.close()
    later = CallMark(tmp_path, "2026-11-30", alone=True)
    assert (later.unstopped, later.ended_after) == (1, True)
    later.close()


def test_what_an_earlier_boot_or_a_damaged_disk_left_says_nothing(tmp_path: Path) -> None:
    end_within(tmp_path, "decide")
    file, boot = tmp_path / CALL_FILE, BOOT_ID.read_text().strip()
    whole = file.read_text()
    assert boot in whole
    for text in (
        whole.replace(boot, "another-boot"),
        "",
        whole[:30],
        "decide",
        whole.replace(" 0\n", " x\n"),
        "\0" * 60,
    ):
        file.write_text(text)
        assert noted(tmp_path) == ("", 0)
        assert noted(tmp_path) == ("", 0)
    file.write_text(whole)
    assert noted(tmp_path) == ("decide", 1)
    file.unlink()
    file.mkdir()
    end_within(tmp_path, "decide")
    assert noted(tmp_path) == ("", 0)
