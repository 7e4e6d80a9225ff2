"""The reward agent: it computes rewards from experience, term by term.

Each term is a share of the equity at the decision, of one symbol. A term's weight is configured; 0 leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from math import isfinite

from daemon.experience.experience import Experience, SymbolTransition

DEFAULT = {"gain": 1.0}


def gain(holding: SymbolTransition) -> float:
    """What the symbol gained in USD, after costs: the change of its value, and the cash that its fills brought."""
    return holding.gain


def fees(holding: SymbolTransition) -> float:
    """The fees in USD, negative. `gain` includes them already, so a weight counts them in addition."""
    return -holding.fees


def turnover(holding: SymbolTransition) -> float:
    """The value that changed hands in USD, negative."""
    return -abs(float(holding.next_shares - holding.shares)) * holding.mark


def inventory(holding: SymbolTransition) -> float:
    """The value that is held in USD, negative."""
    return -abs(float(holding.next_shares)) * holding.next_mark


def adverse(holding: SymbolTransition) -> float:
    """The fall from the mark to the newest bar's low, in USD on the held shares, negative."""
    return -max(0.0, holding.mark - holding.next_bar.low) * max(0.0, float(holding.next_shares))


TERMS: Mapping[str, Callable[[SymbolTransition], float]] = {
    term.__name__: term for term in (gain, fees, turnover, inventory, adverse)
}


class RewardAgent:
    """Rewards of the rows of a policy's batch: a symbol each, or all symbols together where there is one row.

    Raises ValueError for an unknown term, a weight that is no number, and where no term has a weight.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self.weights = {name: weight for name, weight in (weights or DEFAULT).items() if weight}
        if not self.weights:
            raise ValueError("every term of the reward has the weight 0, so nothing could be learned: give one, gain=1")
        for name, weight in self.weights.items():
            if not isfinite(weight):
                raise ValueError(f"the weight of the reward term {name} is {weight}: expected a finite number")
            if name not in TERMS:
                near = get_close_matches(name, TERMS, 1)
                hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(TERMS)}"
                raise ValueError(f"reward term {name!r} is unknown: {hint}")

    def terms(self, experience: Experience) -> list[dict[str, float]]:
        """Return the weighted terms of each row; their sum is its reward."""
        rows = [self._of(holding, experience.equity) for holding in experience.holdings]
        if len(rows) == len(experience.chosen):
            return rows
        return [{name: sum(row[name] for row in rows) for name in self.weights}]

    def _of(self, holding: SymbolTransition, equity: float) -> dict[str, float]:
        if equity <= 0.0:
            return dict.fromkeys(self.weights, 0.0)
        return {name: weight * TERMS[name](holding) / equity for name, weight in self.weights.items()}
