"""Drift: the running model's inputs and actions against its training.

It reads the journal's table `decisions` on a connection and a thread of its own. Its only effect on trading is a pause
event, where configured. A difference within chance, or within the spread of the training data itself, is no alarm.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np

from daemon.core.session import new_york_text
from daemon.journal.reader import JournalReader
from strategies.kit.contract import Spec
from strategies.kit.manifest import Histogram, Manifest, config_text
from strategies.kit.reference import Float64Array, chance_level, psi, shares_of, usual_level
from strategies.registry import strategy as strategy_named

NAMED = 3  # features that an alarm names
_NEWEST = (
    "SELECT bar_ns, row, logits FROM decisions WHERE kind = 'policy' AND model = ? AND row IS NOT NULL "
    "AND logits IS NOT NULL ORDER BY decision DESC LIMIT ?"
)

_PAUSED = (
    "SELECT max(time_ns) AS time_ns FROM events WHERE kind = 'PauseRequested' AND json_valid(payload) "
    "AND json_extract(payload, '$.who') = ? AND instr(json_extract(payload, '$.reason'), ?) = 1"
)
WHO = "drift"  # the name in its pauses


class DriftLimits(msgspec.Struct, frozen=True):
    """The window of a measurement and the alarm limits; see `[drift]`."""

    window: int  # newest decisions
    least: int  # fewer decisions give no result
    feature_psi_max: float
    action_psi_max: float


class QuantityDrift(msgspec.Struct, frozen=True):
    """The drift index of one quantity, with two thresholds from chance and training (`strategies.kit.reference`)."""

    name: str
    psi: float
    by_chance: float  # two samples of these sizes drawn one by one exceed it once in a hundred
    in_training: float  # as many consecutive rows of the training exceeded it once in a hundred; 0 where unknown
    of_the_desk: bool
    expected: tuple[float, ...]  # shares of the bins
    found: tuple[float, ...]

    def beyond(self, limit: float) -> bool:
        """Return whether it is an alarm under this limit."""
        return not self.of_the_desk and self.psi > max(limit, self.by_chance, self.in_training)


class DriftResult(msgspec.Struct, frozen=True):
    """One measurement. `features` are sorted, the largest index first."""

    model: str
    decisions: int
    first_ns: int  # start of the oldest decision's bar
    last_ns: int
    features: tuple[QuantityDrift, ...]
    actions: QuantityDrift


def measure(journal: Path, manifest: Manifest, window: int, least: int) -> DriftResult | None:
    """Compare the newest `window` decisions of the manifest's model with its reference.

    None where the manifest holds no reference, or there are fewer than `least` decisions. Raises JournalError for a
    file that is no journal, ValueError for rows of another strategy.
    """
    reference = manifest.reference
    if reference is None:
        return None
    with closing(JournalReader(journal)) as reader:
        decisions = reader.query(_NEWEST, (manifest.version, window))
    if len(decisions) < max(least, 1):
        return None
    spec = strategy_named(manifest.strategy, manifest.symbols, config_text(manifest)).spec
    rows, answers = _arrays(decisions, spec, manifest)
    action_values = answers.reshape(len(answers), -1) if spec.continuous else answers.argmax(axis=-1)
    features = [
        _measure(histogram, rows[:, :, list(histogram.columns)].reshape(len(rows), -1), reference.samples)
        for histogram in reference.features
    ]
    return DriftResult(
        model=manifest.version,
        decisions=len(decisions),
        first_ns=decisions[-1]["bar_ns"],
        last_ns=decisions[0]["bar_ns"],
        features=tuple(sorted(features, key=lambda drift: -drift.psi)),
        actions=_measure(reference.actions, action_values, reference.samples),
    )


def breaches(drift: DriftResult, limits: DriftLimits) -> tuple[str, ...]:
    """Return texts for quantities beyond their limit, largest first; () for none."""
    far = [quantity for quantity in drift.features if quantity.beyond(limits.feature_psi_max)]
    texts = [f"{quantity.name} {quantity.psi:.2f}" for quantity in far[:NAMED]]
    if len(far) > NAMED:
        texts.append(f"{len(far) - NAMED} more features")
    if drift.actions.beyond(limits.action_psi_max):
        texts.append(f"actions {drift.actions.psi:.2f}")
    return tuple(texts)


def count_beyond(drift: DriftResult, limits: DriftLimits) -> int:
    """Return how many quantities exceed their limit."""
    features = sum(quantity.beyond(limits.feature_psi_max) for quantity in drift.features)
    return features + drift.actions.beyond(limits.action_psi_max)


class DriftWatch:
    """Measures every `every_min` minutes of real time, first at once. Runs on the event loop.

    `running()` gives the manifest of the live model, None without one. `log(name, **fields)` logs a declared event, and
    raises an alarm where it is one. `pause(reason)`, where given, pauses the desk.
    """

    def __init__(
        self,
        journal: Path,
        running: Callable[[], Manifest | None],
        limits: DriftLimits,
        *,
        every_min: float,
        log: Callable[..., None],
        pause: Callable[[str], Awaitable[object]] | None = None,
    ) -> None:
        self.last: DriftResult | None = None  # the newest measurement, for display
        self._journal = journal
        self._running = running
        self._limits = limits
        self._every_s = every_min * 60.0
        self._log = log
        self._pause = pause
        self._without_reference: set[str] = set()  # versions without a reference, reported once
        self._pauses: set[tuple[str, str]] = set()  # version and date for which the desk was paused

    async def run(self) -> None:
        """Measure for ever; returns at once when switched off. Raises what `measure` does."""
        while self._every_s > 0.0:
            await self.look()
            await asyncio.sleep(self._every_s)

    async def look(self) -> None:
        """Measure once, log the result, and raise alarms."""
        manifest, limits = self._running(), self._limits
        if manifest is None:
            return
        if manifest.reference is None:
            if manifest.version not in self._without_reference:
                self._without_reference.add(manifest.version)
                self._log("drift_unmeasured", model=manifest.version, reason="its manifest holds no reference")
            return
        drift = await asyncio.to_thread(measure, self._journal, manifest, limits.window, limits.least)
        if drift is None or drift == self.last:  # no decision since the last measurement
            return
        self.last = drift
        largest = next((quantity for quantity in drift.features if not quantity.of_the_desk), drift.actions)
        self._log(
            "drift_measured",
            model=drift.model,
            decisions=drift.decisions,
            features_psi_max=round(largest.psi, 4),
            feature=largest.name,
            action_psi=round(drift.actions.psi, 4),
            beyond=count_beyond(drift, limits),
        )
        if far := breaches(drift, limits):
            await self._alarm(drift, ", ".join(far))

    async def _alarm(self, drift: DriftResult, far: str) -> None:
        """Raise the alarm; pause once for each model and day."""
        detail = f"index over {drift.decisions} decisions: {far}"
        self._log("drift", model=drift.model, detail=detail)
        key = (drift.model, new_york_text(drift.last_ns)[:10])
        if self._pause is not None and key not in self._pauses:
            self._pauses.add(key)
            if await asyncio.to_thread(_paused_last, self._journal, drift.model) < key[1]:
                await self._pause(f"{_reason(drift.model)}{detail}"[:500])


def _reason(model: str) -> str:
    return f"drift of {model}: "


def _paused_last(journal: Path, model: str) -> str:
    """Return the date of the newest pause for this model's drift, "" without one: a restart repeats none."""
    with closing(JournalReader(journal)) as reader:
        at_ns = reader.query(_PAUSED, (WHO, _reason(model)))[0]["time_ns"]
    return "" if at_ns is None else new_york_text(at_ns)[:10]


def _arrays(decisions: list[sqlite3.Row], spec: Spec, manifest: Manifest) -> tuple[Float64Array, Float64Array]:
    """Return the recorded rows and raw answers of decisions, oldest first. ValueError when sizes differ.

    Each has an axis of the symbols, of length 1 where rows are no symbols.
    """
    data = [bytes(decision["row"]) for decision in reversed(decisions)]
    answers = [msgspec.json.decode(decision["logits"]) for decision in reversed(decisions)]
    count = len(answers[0]) // len(spec.actions) if spec.rows_are_symbols else 1  # a journal has one universe
    width, size = 4 * len(spec.features) * count, len(spec.actions) * count
    strange = {len(row) for row in data} - {width} or {len(answer) for answer in answers} - {size}
    if strange or not count:
        raise ValueError(
            f"decisions of {manifest.version} hold rows or answers of the size {min(strange, default=0)}; expected "
            f"rows of {width} bytes and {size} answers: is this the journal of a {manifest.strategy} desk?"
        )
    rows = np.frombuffer(b"".join(data), dtype="<f4").reshape(len(data), count, -1)
    return rows.astype(np.float64), np.asarray(answers, dtype=np.float64).reshape(len(data), count, -1)


def _measure(reference: Histogram, values: Float64Array, samples: int) -> QuantityDrift:
    """Measure one quantity, (decisions, pooled): pooled values of one decision correlate and count as one."""
    shares = shares_of(values, reference.edges)
    bins = sum(expected > 0.0 or share > 0.0 for expected, share in zip(reference.shares, shares, strict=True))
    return QuantityDrift(
        name=reference.name,
        psi=float(psi(reference.shares, shares)),
        by_chance=chance_level(bins, len(values), samples),
        in_training=usual_level(reference.within, len(values)),
        of_the_desk=reference.of_the_desk,
        expected=reference.shares,
        found=tuple(round(share, 6) for share in shares.tolist()),
    )
