"""What was met: counted by name over all runs, and what never was, out of all that there is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from daemon.core import orders
from daemon.core.desks.registry import GATES
from daemon.notify.trade_news import REASONS
from tests.chaos.desks.plan import DESKS
from tests.support.paths import REPOSITORY
from tests.years.schedule import CLOSES, COMMANDS, FAMILIES, OF_HOST, OF_PERSON, REORGANISED, SPLITS, _kinds

BOUNDARIES = ("before step", "after step", "before commit", "after commit", "before release")
PHASES = ("closed", "flat", "working", "held", "halted", "paused")


class CountedLife(dict[tuple[str, str], str]):
    """The table of an order's life, which counts what it is asked."""

    def __init__(self, table: Mapping[tuple[str, str], str], counts: Counter[str]) -> None:
        super().__init__(table)
        self._counts = counts

    def get(self, pair: tuple[str, str], default: Any = None) -> Any:
        """As a dict's."""
        self._counts[f"order {pair[0]} + {pair[1]}"] += 1
        return super().get(pair, default)


def count_lives(counts: Counter[str]) -> None:
    """Count pairs of (status, what happened) from now on, in this process."""
    orders.LIFE = CountedLife(orders.LIFE, counts)


def universe() -> list[str]:
    """All names that could be met."""
    manual = (REPOSITORY / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")
    names = [f"order {status} + {happened}" for status, happened in orders.LIFE]
    names += [f"gate {gate.name}" for gate in GATES]
    names += [f"halt {name}" for name in re.findall(r"^### halt `([a-z_]+)`", manual, re.MULTILINE)]
    names += [f"alarm {name}" for name in re.findall(r"^### alarm `([a-z_]+)`", manual, re.MULTILINE)]
    names += [f"left by {reason}" for reason in REASONS]
    names += [f"killed {name}" for name in BOUNDARIES]
    names += [f"command {name} while {phase}" for name in COMMANDS for phase in PHASES]
    names += [f"command close while {phase}" for phase in PHASES if phase != "flat"]
    names += [f"did {act}" for family in FAMILIES.values() for act in family]
    names += [f"did {act}" for act in (*CLOSES, *OF_HOST, *OF_PERSON, *SPLITS, *REORGANISED)]
    names += sorted({f"did {act}" for desk in DESKS for act in _kinds(desk)})
    return list(dict.fromkeys(names))


def never(counts: Mapping[str, int], names: Iterable[str]) -> list[str]:
    """Those of `names` that were not met."""
    return [name for name in names if not counts.get(name)]
