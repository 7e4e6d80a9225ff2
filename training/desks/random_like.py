"""A random trader that trades about as often as a policy, and holds about as long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from training.study.evaluation import SessionResult
from training.study.progress import counted

Trader = TypeVar("Trader")


def random_like(
    results: Sequence[SessionResult],
    make: Callable[[float, float], Trader],
    measure: Callable[[Trader], Sequence[SessionResult]],
) -> Trader:
    """A trader of `make(chance to enter, chance to leave)` with about the trades and the holding time of `results`.

    Its chance to enter is corrected three times by what `measure` finds, because cooldowns and limits deny entries.
    """
    trades = sum(result.trades for result in results) / len(results)
    held = sum(result.held_min for result in results) / len(results)
    flat = sum(result.decisions_flat for result in results) / len(results)
    enter, leave = min(trades / max(flat, 1.0), 1.0), min(trades / max(held, 1.0), 1.0)
    for _ in counted(range(3), "tries"):
        found = measure(make(enter, leave))
        found_trades = sum(result.trades for result in found) / len(found)
        found_held = sum(result.held_min for result in found) / len(found)
        if found_trades <= 0.0:
            break
        enter = min(enter * trades / found_trades, 1.0)
        leave = min(leave * (found_held / found_trades) / max(held / trades, 1e-9), 1.0) if trades else leave
    return make(enter, leave)
