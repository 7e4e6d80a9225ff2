"""Tasks through a Ray of this machine: results in order, errors as they were raised, and a lost process replaced."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.training.ray_processes import LOOPBACK, left, listening, mark
from training.rl.pool import Emit, Flag, Stopped
from training.rl.ray_cluster import connected
from training.rl.ray_pool import ClusterPool

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install '.[scale]'")


def prepared(folder: Path) -> Path:
    """What a process needs: it counts the processes."""
    (folder / f"process-{os.getpid()}").touch()
    return folder


def carry_out(folder: Path, task: str, flag: Flag, emit: Emit) -> str:
    """One task, by its name."""
    emit(f"{task} begins")
    if task == "wrong":
        raise ValueError("what is wrong, and the cure")
    if task == "wait":
        while not flag.is_set():
            flag_seen.wait(0.01)
        raise Stopped(task)
    if task in {"lost once", "lost always"} and not (folder / task).exists():
        if task == "lost once":
            (folder / task).touch()
        os._exit(1)
    emit(f"{task} ends")
    return task.upper()


flag_seen = threading.Event()  # never set: it waits


@pytest.fixture(scope="module")
def mark_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("mark"))


@pytest.fixture(scope="module")
def ray(mark_dir: str) -> Iterator[Any]:
    """Ray on two cores, once for all tests; it leaves no process."""
    with pytest.MonkeyPatch.context() as patch:
        mark(patch, mark_dir)
        with connected("local", 2) as cluster:
            assert set(listening(mark_dir).values()) <= LOOPBACK
            yield cluster
        assert left(mark_dir) == []


def through(ray: Any, folder: Path, tasks: list[str], flag: Flag | None = None, emit: Emit = print) -> list[str]:
    pool = ClusterPool(ray, "cpu", prepared, folder)
    try:
        return pool.work_through(carry_out, tasks, flag=flag or threading.Event(), emit=emit)
    finally:
        for process in pool.processes:
            ray.kill(process.actor)


def test_results_come_in_the_order_of_the_tasks_and_each_process_prepares_once(ray: Any, tmp_path: Path) -> None:
    messages: list[str] = []
    assert through(ray, tmp_path, ["a", "b", "c", "lost once"], emit=messages.append) == ["A", "B", "C", "LOST ONCE"]
    assert {"a begins", "a ends", "c ends", "lost once ends"} <= set(messages)
    assert messages.index("b begins") < messages.index("b ends")
    assert len(list(tmp_path.glob("process-*"))) <= 3  # two at once, and one in place of the lost one


def test_an_error_arrives_as_it_was_raised_and_stops_the_others(ray: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^what is wrong, and the cure$"):
        through(ray, tmp_path, ["wait", "wrong", "a", "b"])


def test_a_stop_reaches_the_tasks_under_way_and_none_begins_after_it(ray: Any, tmp_path: Path) -> None:
    messages: list[str] = []
    flag = threading.Event()

    def listen(message: str) -> None:
        messages.append(message)
        flag.set()

    with pytest.raises(Stopped):
        through(ray, tmp_path, ["wait", "wait", "a"], flag, listen)
    assert "a begins" not in messages


def test_processes_stay_for_further_tasks_unless_these_need_more_cores(ray: Any, tmp_path: Path) -> None:
    pool, flag = ClusterPool(ray, "cpu", prepared, tmp_path), threading.Event()
    for cores, expected in ((1, 2), (1, 2), (2, 3)):
        assert pool.work_through(carry_out, ["a", "b"], cores=cores, flag=flag, emit=print) == ["A", "B"]
        assert len(list(tmp_path.glob("process-*"))) <= expected
    ray.kill(pool.processes[0].actor)


def test_a_task_that_loses_its_process_twice_is_an_error_with_the_cure(ray: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"lost again \(.*give the same command"):
        through(ray, tmp_path, ["lost always"])
