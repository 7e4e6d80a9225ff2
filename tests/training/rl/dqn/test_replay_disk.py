"""The replay on disk draws what the replay in memory draws, and is whole after its process was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.paths import REPOSITORY
from training.rl.dqn.replay import ChoiceReplay, Choices, DiskReplay


def numbered(number: int) -> Choices:
    """A transition whose numbers say which one it is."""
    n = torch.tensor([float(number)])
    return Choices(n.unsqueeze(1), n.unsqueeze(1) + 0.5, n.long() % 3, -n, 0.5 * n, n.unsqueeze(1) + 100.0)


def draws(replay: ChoiceReplay, count: int = 400) -> list[float]:
    values: list[float] = replay.sample(count, torch.Generator().manual_seed(1)).observations.flatten().tolist()
    return values


def on_disk(folder: Path, priority: float = 0.7, capacity: int = 8, spare: int = 4) -> DiskReplay:
    return DiskReplay(folder / "replay", capacity, 1, spare=spare, heads=1, priority=priority)


def test_a_disk_without_room_is_named_by_the_file_and_keeps_what_was_free(tmp_path: Path) -> None:
    with pytest.raises(OSError) as full:  # noqa: PT011  its errno is the file system's choice
        on_disk(tmp_path, 0.0, capacity=2**40)  # 26 TB
    assert full.value.filename == str(tmp_path / "replay")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("priority", [0.0, 0.7])
@pytest.mark.parametrize("additions", [3, 8, 9, 11, 12, 13, 30])  # with room left, full, in the spare rows, around
def test_the_same_transitions_count_as_in_memory(tmp_path: Path, priority: float, additions: int) -> None:
    replay = on_disk(tmp_path, priority)
    for number in range(additions):
        replay.add(numbered(number))
        replay.state_dict()
    assert set(draws(replay)) == {float(number) for number in range(max(0, additions - 8), additions)}
    assert replay.size == min(additions, 8)
    assert (tmp_path / "replay").stat().st_size == 12 * 6 * 4  # bounded: rows x numbers x bytes


@pytest.mark.parametrize("priority", [0.0, 0.7])
@pytest.mark.parametrize("after", [0, 1, 4])
def test_what_was_added_after_a_state_does_not_show_in_it(tmp_path: Path, priority: float, after: int) -> None:
    replay = on_disk(tmp_path, priority)
    for number in range(21):
        replay.add(numbered(number))
        state = replay.state_dict()
    if priority:
        replay.reprioritise(torch.tensor([5, 6]), torch.tensor([3.0, 0.2]))
        state = replay.state_dict()
    expected = draws(replay)
    for number in range(after):
        replay.add(numbered(1000 + number))
    again = on_disk(tmp_path, priority)
    again.load_state_dict(state)
    assert draws(again) == expected
    again.add(numbered(21))
    assert 21.0 in draws(again)
    assert 13.0 not in draws(again)


def test_more_than_the_spare_rows_between_two_states_are_refused(tmp_path: Path) -> None:
    replay = on_disk(tmp_path)
    for number in range(4):
        replay.add(numbered(number))
    with pytest.raises(RuntimeError, match="4 transitions were added since the last state"):
        replay.add(numbered(4))


KILLED = """
import sys, torch
from pathlib import Path
from training.rl.dqn.replay import Choices
from training.rl.dqn.replay import DiskReplay
folder = Path(sys.argv[1])
replay = DiskReplay(folder / "replay", 8, 1, spare=4, heads=1, priority=0.7)
for number in range(17):
    n = torch.tensor([float(number)])
    replay.add(Choices(n.unsqueeze(1), n.unsqueeze(1), n.long() % 3, n, n, n.unsqueeze(1)))
    if number < 16:
        state = replay.state_dict()
torch.save(state, folder / "state.pt")
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_killed_process_leaves_the_replay_of_its_last_state(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGKILL)
        child.wait()
    replay = on_disk(tmp_path)
    replay.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert set(draws(replay)) == {float(number) for number in range(8, 16)}


def test_a_file_of_other_settings_is_refused(tmp_path: Path) -> None:
    on_disk(tmp_path)
    with pytest.raises(ValueError, match=r"has 288 bytes: expected 336, 14 rows of 6 numbers"):
        on_disk(tmp_path, capacity=10)


def test_a_state_of_a_larger_replay_is_refused(tmp_path: Path) -> None:
    state = on_disk(tmp_path).state_dict() | {"size": 9}
    with pytest.raises(ValueError, match="the state is of 9 transitions"):
        on_disk(tmp_path).load_state_dict(state)


def test_a_file_that_was_half_made_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "replay.partial").write_bytes(b"x")
    replay = on_disk(tmp_path)
    replay.add(numbered(1))
    assert draws(replay, 3) == [1.0, 1.0, 1.0]
    assert np.fromfile(tmp_path / "replay", dtype="<f4")[:6].tolist() == [1.0, 1.5, 1.0, -1.0, 0.5, 101.0]
