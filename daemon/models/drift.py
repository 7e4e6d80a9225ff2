"""Drift: what the running model meets and does against its training, and what its desk risks against its claim.

The first reads the journal's table `decisions` on a connection and a thread of its own. Its only effect on trading is a
pause event, where configured. A difference within chance, or within the spread of the training data itself, is no
alarm. Of the second only `daemon.core.risk.claim` judges. Invariant: a verdict is journaled as `ClaimJudged` before the
pointer moves, and from that event on the version takes no new risk; after a crash the pointer follows the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import UnsetType

from daemon.core.events import ClaimJudged, Event, ModelPromoted
from daemon.core.limits import Trading
from daemon.core.risk import claim as rules
from daemon.core.session import new_york_text
from daemon.core.state import BrokenClaim, ClaimState, LadderState, State
from daemon.core.step import Step
from daemon.host.printable import printable
from daemon.journal.reader import JournalReader
from daemon.models.lifecycle import Lifecycle, WriteLog
from daemon.models.pointer import CURRENT, ModelError, before, named, point
from daemon.models.runtime import Models
from daemon.models.store import check_rules, is_passive, load, versions
from daemon.operator.submitter import Submitter
from daemon.pacing import look_again
from strategies.kit.contract import AnyStrategy, Spec
from strategies.kit.manifest import Histogram, Manifest, config_text
from strategies.kit.reference import Float64Array, chance_level, psi, shares_of, usual_level
from strategies.registry import strategy as strategy_named

NAMED = 3  # features that an alarm names
_NEWEST = (
    "SELECT bar_ns, row, logits FROM decisions WHERE kind = 'policy' AND model = ? AND row IS NOT NULL "
    "AND logits IS NOT NULL ORDER BY decision DESC LIMIT ?"
)


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
    acted = answers.reshape(len(answers), -1) if spec.continuous else answers.argmax(axis=-1)
    features = [
        _found(histogram, rows[:, :, list(histogram.columns)].reshape(len(rows), -1), reference.samples)
        for histogram in reference.features
    ]
    return DriftResult(
        model=manifest.version,
        decisions=len(decisions),
        first_ns=decisions[-1]["bar_ns"],
        last_ns=decisions[0]["bar_ns"],
        features=tuple(sorted(features, key=lambda drift: -drift.psi)),
        actions=_found(reference.actions, acted, reference.samples),
    )


def breaches(drift: DriftResult, limits: DriftLimits) -> tuple[str, ...]:
    """Return texts of what exceeds its limit, largest first; () if nothing does."""
    far = [quantity for quantity in drift.features if quantity.beyond(limits.feature_psi_max)]
    texts = [f"{quantity.name} {quantity.psi:.2f}" for quantity in far[:NAMED]]
    if len(far) > NAMED:
        texts.append(f"{len(far) - NAMED} more features")
    if drift.actions.beyond(limits.action_psi_max):
        texts.append(f"actions {drift.actions.psi:.2f}")
    return tuple(texts)


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
        self._unknown: set[str] = set()  # versions without a reference, reported once
        self._paused: set[tuple[str, str]] = set()  # version and date for which the desk was paused

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
            if manifest.version not in self._unknown:
                self._unknown.add(manifest.version)
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
        )
        if far := breaches(drift, limits):
            await self._alarm(drift, ", ".join(far))

    async def _alarm(self, drift: DriftResult, far: str) -> None:
        """Raise the alarm; pause once for each model and day."""
        detail = f"index over {drift.decisions} decisions: {far}"
        self._log("drift", model=drift.model, detail=detail)
        key = (drift.model, new_york_text(drift.last_ns)[:10])
        if self._pause is not None and key not in self._paused:
            self._paused.add(key)
            await self._pause(f"drift of {drift.model}: {detail}"[:500])


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


def _found(reference: Histogram, values: Float64Array, samples: int) -> QuantityDrift:
    """Measure one quantity, (decisions, pooled): pooled values of one decision correlate and count as one."""
    shares = shares_of(values, reference.edges)
    filled = sum(expected > 0.0 or found > 0.0 for expected, found in zip(reference.shares, shares, strict=True))
    return QuantityDrift(
        name=reference.name,
        psi=float(psi(reference.shares, shares)),
        by_chance=chance_level(filled, len(values), samples),
        in_training=usual_level(reference.within, len(values)),
        of_the_desk=reference.of_the_desk,
        expected=reference.shares,
        found=tuple(round(share, 6) for share in shares.tolist()),
    )


# --- the claim about risk ---------------------------------------------------------------------------------------------

WHO = "claim"
FAILURES: tuple[type[Exception], ...] = (Exception,)  # of one look: the next one tries again
REASON_MOST = 500  # letters of a problem that are logged


class ClaimWatch:
    """Run `run` on the event loop; `observe` must see every step, after the models.

    `consequence` is `drift.claim_broken`.
    """

    def __init__(
        self,
        models_dir: Path,
        strategy: AnyStrategy,
        consequence: str,
        *,
        trading: Trading,
        poll_s: float,
        public_key: str,
        submitter: Submitter,
        models: Models,
        lifecycle: Lifecycle,
        log: WriteLog,
    ) -> None:
        self._models_dir, self._strategy, self._consequence = models_dir, strategy, consequence
        self._trading = trading
        self._poll_s, self._public_key = poll_s, public_key
        self._submitter, self._models, self._lifecycle, self._log = submitter, models, lifecycle, log
        self._wake = asyncio.Event()
        self._claim: object = None  # of the last step that was looked at
        self._book: object = None
        self._problem = ""

    def observe(self, event: Event, step: Step) -> None:
        """Look at once where the step left something to say."""
        state = step.state
        if isinstance(state.claim, UnsetType) or (self._claim is state.claim and self._book is state.book):
            return
        self._claim, self._book = state.claim, state.book
        if type(event) is ModelPromoted or rules.judged(state.claim, state.book) is not None:
            self._wake.set()

    async def run(self) -> None:
        """Look now, then each `poll_s` seconds and whenever something is to be said, until cancelled."""
        await look_again(self._look_safely, self._wake, self._poll_s)

    async def _look_safely(self) -> None:
        try:
            await self.look()
        except FAILURES as error:
            self._hold(f"{type(error).__name__}: {error}")

    async def look(self) -> None:
        """Journal the verdict that is due, then let the pointer follow the journal."""
        state = self._submitter.state
        verdict = rules.judged(state.claim, state.book)
        if verdict is not None:
            await self._judge(state, verdict)
        await self._align()

    async def _judge(self, state: State[Any], verdict: rules.Verdict) -> None:
        watched = state.claim
        assert isinstance(watched, ClaimState)
        consequence = self._consequence if verdict.verdict in rules.BROKEN else ""
        former = await asyncio.to_thread(self._former, state) if consequence == rules.FORMER_VERSION else ""
        full = watched.claim is not None and len(watched.returns) >= watched.claim.window_sessions
        await self._submitter.submit(
            lambda now_ns: ClaimJudged(
                now_ns,
                watched.version,
                verdict.verdict,
                verdict.detail,
                watched.sessions,
                rules.volatility(watched.returns) if full else 0.0,
                rules.fall(watched, state.book),
                consequence,
                former,
            ),
            deadline_s=None,
        )

    def _former(self, state: State[Any]) -> str:
        """Return the version before the running one, else a passive policy; "" where neither may answer."""
        shelf = self._models_dir / self._strategy.spec.name
        broken = state.claim.broken if isinstance(state.claim, ClaimState) else {}
        out = {self._models.running.version, *broken, *_fallen(state)}
        with contextlib.suppress(ModelError):
            version = before(shelf)
            if version not in out and self._may_answer(version, state):
                return version
        others = reversed(versions(self._models_dir, self._strategy.spec.name))
        return next((name for name in others if name not in out and self._may_answer(name, state, passive=True)), "")

    def _may_answer(self, version: str, state: State[Any], *, passive: bool = False) -> bool:
        """Return whether the store's checks, but for the trial, let a version answer in the running one's place."""
        try:
            loaded = load(self._models_dir, self._strategy, version, self._public_key)
            check_rules(loaded, self._strategy, self._trading)
        except ModelError:
            return False
        real = state.identity.account == "live" and self._models.running.manifest.promoted
        return (is_passive(loaded.manifest) or not passive) and (loaded.manifest.promoted or not real)

    async def _align(self) -> None:
        """Let `current` name the former version where the one that answers broke its claim; by hand it stays."""
        running, watched = self._models.running.version, self._submitter.state.claim
        broken = watched.broken.get(running) if isinstance(watched, ClaimState) else None
        if broken is None or not broken.former:
            return
        shelf = self._models_dir / self._strategy.spec.name
        if await asyncio.to_thread(named, shelf, CURRENT) == running:
            await asyncio.to_thread(self._point, shelf, running, broken)
            self._lifecycle.wake()

    def _point(self, shelf: Path, version: str, broken: BrokenClaim) -> None:
        why, back = f"{version}: {broken.detail}", False
        with contextlib.suppress(ModelError):
            back = before(shelf) == broken.former
        point(shelf, CURRENT, broken.former, who=WHO, why=why, now_ns=self._submitter.now_ns(), rollback=back)

    def _hold(self, problem: str) -> None:
        """Log once why nothing follows; the version takes no new risk meanwhile."""
        if self._problem != problem:
            self._problem = problem
            self._log("claim_held", reason=printable(problem, REASON_MOST))


def _fallen(state: State[Any]) -> set[str]:
    """Return the versions that left the ladder, but for the champion of the newest one."""
    ladder = state.ladder
    return {*ladder.judged} - {ladder.champion} if isinstance(ladder, LadderState) else set()
