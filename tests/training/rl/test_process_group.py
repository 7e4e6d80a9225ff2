"""Processes that work on one thing: they agree, they leave together, and who is lost is named at once."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch

from training.rl import process_group
from training.rl.pool import Stopped
from training.rl.process_group import ProcessGroup, run_group


def follow(group: ProcessGroup, act: str) -> None:
    """A further member, which runs its task once all have met."""
    if act == "early":
        os.kill(os.getpid(), signal.SIGKILL)
    group.broadcast(0)
    if act == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "fail":
        raise ValueError("the third session has no bars")
    gradient = torch.tensor([2.0, 4.0])
    group.average([gradient])
    group.gather(gradient.tolist())


def lead(group: ProcessGroup) -> list[list[float]]:
    """The first member."""
    group.broadcast(1)
    gradient = torch.tensor([4.0, 0.0])
    group.average([gradient])
    return group.gather(gradient.tolist())


def test_memory_that_a_killed_group_left_is_given_back_and_a_living_one_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_group, "MEMORY", tmp_path)
    left, alive, young = (tmp_path / f"rltrader-group-{name}" for name in ("left", "alive", "young"))
    for folder in (left, alive, young):
        folder.mkdir()
        (folder / "numbers-9").write_bytes(bytes(72))
    os.utime(left, (0, 0))
    os.utime(alive, (0, 0))
    holder = os.open(alive, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    assert run_group(2, lead, follow, "work") == [[3.0, 2.0], [3.0, 2.0]]
    os.close(holder)
    assert set(tmp_path.iterdir()) == {alive, young}


def test_a_group_averages_and_gathers_by_rank() -> None:
    assert run_group(2, lead, follow, "work") == [[3.0, 2.0], [3.0, 2.0]]


@pytest.mark.parametrize(
    ("act", "kind", "complaint"),
    [
        ("fail", ValueError, "the third session has no bars"),
        ("die", RuntimeError, "ended by itself, perhaps for lack of memory"),
    ],
)
def test_what_ends_a_member_is_told_by_the_first_and_nobody_is_left(
    act: str, kind: type[Exception], complaint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(kind, match=complaint):
        run_group(2, lead, follow, act)
    assert not multiprocessing.active_children()
    assert "Traceback" not in capfd.readouterr().err


def never_there(group: ProcessGroup) -> None:
    """A member that cannot even begin: `Unreadable` ends it on the way."""


class Unreadable:
    """An argument whose arrival kills the process that it was sent to."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os._exit, (9,)


def test_a_member_that_dies_before_the_meeting_is_not_waited_for() -> None:
    with pytest.raises(RuntimeError, match="ended by itself"):
        run_group(2, lead, never_there, Unreadable())
    assert not multiprocessing.active_children()


def stop(group: ProcessGroup) -> None:
    """What the first does when it was asked to stop."""
    group.broadcast(1)
    raise Stopped("as asked")


def stop_too(group: ProcessGroup) -> None:
    """What the others do then."""
    if group.broadcast(0):
        raise Stopped("as requested")


def test_a_stop_is_a_stop_for_all() -> None:
    with pytest.raises(Stopped, match="as asked"):
        run_group(2, stop, stop_too)
    assert not multiprocessing.active_children()
