"""The replay keeps the newest transitions, draws any of them, and goes on from its state."""

from __future__ import annotations

import pytest
import torch

from training.rl.off_policy.replay import Replay, Transitions


def numbered(first: int, count: int = 2) -> Transitions:
    """Transitions whose every number says which one it is."""
    n = torch.arange(first, first + count, dtype=torch.float32)
    return Transitions(n.repeat(3, 1).T, n.repeat(3, 1).T + 0.5, n.unsqueeze(1), -n, n % 2)


def draws(replay: Replay, count: int = 400) -> Transitions:
    return replay.sample(count, torch.Generator().manual_seed(1))


def test_only_what_was_added_is_drawn_and_all_of_it() -> None:
    replay = Replay(10, 2, 3, 1)
    replay.add(numbered(1))
    replay.add(numbered(3))
    assert replay.size == 4
    assert set(draws(replay).actions.flatten().tolist()) == {1.0, 2.0, 3.0, 4.0}


def test_the_oldest_rows_are_replaced_first() -> None:
    replay = Replay(7, 2, 3, 1)  # room for 6: whole steps of both environments
    for first in (1, 3, 5, 7):
        replay.add(numbered(first))
    assert replay.size == 6
    assert set(draws(replay).actions.flatten().tolist()) == {3.0, 4.0, 5.0, 6.0, 7.0, 8.0}


def test_a_drawn_row_keeps_together_what_belongs_together() -> None:
    replay = Replay(10, 2, 3, 1)
    replay.add(numbered(1))
    replay.add(numbered(3))
    t = draws(replay)
    n = t.actions.squeeze(1)
    assert torch.equal(t.observations, n.repeat(3, 1).T)
    assert torch.equal(t.following, n.repeat(3, 1).T + 0.5)
    assert torch.equal(t.rewards, -n)
    assert torch.equal(t.goes_on, n % 2)


@pytest.mark.parametrize("additions", [2, 5])
def test_a_replay_goes_on_from_its_state(additions: int) -> None:
    replay, other = Replay(7, 2, 3, 1), Replay(7, 2, 3, 1)
    for step in range(additions):
        replay.add(numbered(1 + 2 * step))
    other.load_state_dict(replay.state_dict())
    for buffer in (replay, other):
        buffer.add(numbered(50))
    assert other.size == replay.size
    assert torch.equal(draws(other).observations, draws(replay).observations)


def test_a_state_of_another_shape_is_refused() -> None:
    replay = Replay(8, 2, 4, 1)
    with pytest.raises(ValueError, match="use the settings it was made with"):
        replay.load_state_dict(Replay(8, 2, 3, 1).state_dict() | {"rows": torch.zeros(2, 9)})
