"""Differences between two runs of a strategy: feature, kind of run, first bar and size.

Pure, and knows nothing of what was changed between the runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from strategies.kit.contract import Spec
from training.analysis.strategy_runs import UNITS, FeatureRows, Moment, ObservedDecision
from training.data.bars_request import utc

Float32Array = npt.NDArray[np.float32]


class Change(msgspec.Struct, frozen=True):
    """One feature that differs in one kind of run."""

    feature: str
    run: str  # kind of run: cut, wild, table cut, 1x, table 2x, …
    first_bar: str  # start of the earliest bar whose observation differs, UTC
    bars: int  # observations (rows of the table) that differ
    largest: float  # absolute difference; infinite where one side has no observation
    relative: float  # largest |a - b| / max(|a|, |b|)


class Report(msgspec.Struct, frozen=True):
    """The result of an analysis. `compared` counts observations and rows of the table, over all runs."""

    analysis: str  # lookahead or warmup
    strategy: str
    samples: int
    sampled: str  # unit of the samples: bars or sessions
    compared: int
    decisions: int  # compared
    decisions_changed: int
    first_decision: str  # the earliest bar whose decision changed, "" for none
    changes: tuple[Change, ...]

    @property
    def clean(self) -> bool:
        """True when no feature and no decision differs."""
        return not self.changes and not self.decisions_changed


class DifferenceLog:
    """Collects differences by feature and run."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._bars: dict[tuple[str, str], set[int]] = {}
        self._largest: dict[tuple[str, str], tuple[float, float]] = {}
        self._decided: set[int] = set()
        self.compared = 0
        self.decisions = 0

    def steps(
        self,
        run: str,
        moments: Sequence[Moment],
        expected: Sequence[ObservedDecision],
        actual: Sequence[ObservedDecision],
    ) -> None:
        """Observations and decisions of two runs over moments of the same bars."""
        for moment, left, right in zip(moments, expected, actual, strict=True):
            start_ns = moment.bars[-1].start_ns
            self.compared += left.observation is not None
            self.decisions += left.decision is not None
            if left.decision != right.decision:
                self._decided.add(start_ns)
            if left.observation is None or right.observation is None:
                if left.observation is not right.observation:
                    self._note("(no observation)", run, start_ns, math.inf, math.inf)
            elif left.observation.data != right.observation.data:
                self._observations(run, start_ns, left.observation.array(), right.observation.array())

    def rows(self, run: str, expected: FeatureRows, actual: FeatureRows) -> None:
        """Rows of two tables over the same bars."""
        self.compared += int(np.count_nonzero(expected.warm))
        for row in np.nonzero(expected.warm != actual.warm)[0].tolist():
            self._note("(no row)", run, expected.start_ns[row], math.inf, math.inf)
        left, right = expected.values, actual.values
        names = self._columns(left.shape[1])
        unequal = ((left != right) & ~(np.isnan(left) & np.isnan(right))).any(axis=1) & expected.warm & actual.warm
        for row in np.nonzero(unequal)[0].tolist():
            self._values(run, expected.start_ns[row], names, left[row : row + 1], right[row : row + 1])

    def _columns(self, count: int) -> Sequence[str]:
        """The names of a table's columns: the spec's features, of each symbol in turn where rows are symbols."""
        spec, width = self._spec, count // self._spec.rows
        names = (
            spec.features
            if not spec.rows_are_symbols
            else [f"{feature} {symbol}" for symbol in spec.symbols for feature in spec.features[:width]]
        )
        return (*names, *(f"column {place}" for place in range(count)))[:count]

    def _observations(self, run: str, start_ns: int, left: Float32Array, right: Float32Array) -> None:
        """Compare two observations. Feature names fit the last axis, or all values in C order, or there are none."""
        names: Sequence[str] = self._spec.features
        if left.shape[-1] != len(names):
            names = names if left.size == len(names) else [f"value {place}" for place in range(left.size)]
        shape = (-1, len(names))
        self._values(run, start_ns, names, left.reshape(shape), right.reshape(shape))

    def _values(
        self, run: str, start_ns: int, names: Sequence[str], left: npt.NDArray[Any], right: npt.NDArray[Any]
    ) -> None:
        """`left` and `right` (rows, names)."""
        a, b = left.astype(np.float64), right.astype(np.float64)
        absolute = np.where(a == b, 0.0, np.abs(a - b))
        absolute = np.where(np.isnan(a) & np.isnan(b), 0.0, np.where(np.isnan(absolute), math.inf, absolute))
        size = np.maximum(np.abs(a), np.abs(b))
        relative = np.divide(absolute, size, out=np.zeros_like(absolute), where=(absolute > 0.0) & np.isfinite(size))
        for column in np.nonzero(absolute.max(axis=0))[0].tolist():
            largest, share = float(absolute[:, column].max()), float(relative[:, column].max())
            self._note(names[column], run, start_ns, largest, share)

    def _note(self, feature: str, run: str, start_ns: int, largest: float, relative: float) -> None:
        key = (feature, run)
        self._bars.setdefault(key, set()).add(start_ns)
        largest_before = self._largest.get(key, (0.0, 0.0))
        self._largest[key] = (max(largest_before[0], largest), max(largest_before[1], relative))

    def report(self, analysis: str, strategy: str, samples: int) -> Report:
        """The report of all differences, features in the spec's order."""
        order = {name: place for place, name in enumerate(self._spec.features)}
        keys = sorted(self._bars, key=lambda key: (order.get(key[0], -1), key[0]))
        return Report(
            analysis=analysis,
            strategy=strategy,
            samples=samples,
            sampled=UNITS[self._spec.decides] if analysis == "lookahead" else "sessions",
            compared=self.compared,
            decisions=self.decisions,
            decisions_changed=len(self._decided),
            first_decision=utc(min(self._decided)) if self._decided else "",
            changes=tuple(
                Change(
                    name, run, utc(min(self._bars[name, run])), len(self._bars[name, run]), *self._largest[name, run]
                )
                for name, run in keys
            ),
        )
