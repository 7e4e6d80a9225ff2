"""Processes that meet over shared memory: exact means, one word, bytes in order, and nobody waits for who is gone."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training.rl.process_group import Collectives, MemberLeftError

CONTEXT = multiprocessing.get_context("fork")
ROUNDS = 300


def run_ranks(folder: Path, size: int, work: Callable[[Collectives], object]) -> list[object]:
    """What `work` returns or raises in each of `size` processes, by rank; the first is this one."""
    queue = CONTEXT.Queue()

    def member(rank: int) -> None:
        torch.set_num_threads(1)
        collectives = Collectives(folder, rank, size)
        try:
            result: object = work(collectives)
        except MemberLeftError as error:
            result = str(error)
        finally:
            collectives.leave()
        queue.put((rank, result))

    torch.set_num_threads(1)
    processes = [CONTEXT.Process(target=member, args=(rank,), daemon=True) for rank in range(size)]
    for process in processes:
        process.start()
    results = dict(queue.get(timeout=300) for _ in processes)
    for process in processes:
        process.join(timeout=10)
    return [results[rank] for rank in range(size)]


@pytest.mark.parametrize("size", [2, 3])
def test_every_process_gets_the_mean_of_all_in_every_round(tmp_path: Path, size: int) -> None:
    def work(collectives: Collectives) -> bool:
        right = True
        for index in range(ROUNDS):
            # powers of two, so that sums and their halves are exact in float32
            first, second = (
                torch.full((4, 3), 2.0 ** (collectives.rank + index % 7)),
                torch.tensor([float(collectives.rank)]),
            )
            collectives.average([first, second])
            mean = sum(2.0 ** (rank + index % 7) for rank in range(size)) / size
            right &= bool((first == torch.tensor(mean, dtype=torch.float32)).all())
            right &= float(second) == pytest.approx(sum(range(size)) / size)
        return right

    assert run_ranks(tmp_path, size, work) == [True] * size


def test_the_first_decides_for_all_and_gathers_what_each_brings(tmp_path: Path) -> None:
    def work(collectives: Collectives) -> object:
        words = [collectives.broadcast(10 * index + collectives.rank) for index in range(ROUNDS)]
        items = [collectives.gather(bytes([collectives.rank, index % 256])) for index in range(20)]
        return words == [10 * index for index in range(ROUNDS)], items

    first, second = run_ranks(tmp_path, 2, work)
    assert first == (True, [[bytes([0, index]), bytes([1, index])] for index in range(20)])
    assert second == (True, [[]] * 20)


def test_who_waits_for_somebody_who_left_is_told(tmp_path: Path) -> None:
    def work(collectives: Collectives) -> object:
        collectives.broadcast(1)
        return collectives.broadcast(2) if collectives.rank == 0 else "left"

    assert run_ranks(tmp_path, 2, work) == ["a training process left before the others", "left"]


def test_who_waits_for_somebody_who_was_killed_is_told(tmp_path: Path) -> None:
    def doomed() -> None:
        Collectives(tmp_path, 1, 2).broadcast(1)
        os.kill(os.getpid(), signal.SIGKILL)

    other = CONTEXT.Process(target=doomed)
    other.start()
    collectives = Collectives(tmp_path, 0, 2, is_gone=lambda: not other.is_alive())
    assert collectives.broadcast(7) == 7
    with pytest.raises(MemberLeftError, match="ended before the others"):
        collectives.broadcast(8)


def test_who_arrives_and_ends_while_it_is_looked_for_was_there(tmp_path: Path) -> None:
    other = Collectives(tmp_path, 1, 2)

    def is_gone() -> bool:
        other.broadcast(0)
        return True

    assert Collectives(tmp_path, 0, 2, is_gone).broadcast(7) == 7
