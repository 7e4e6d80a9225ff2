"""The desk's risk against its model's claim: verdicts are journaled, and the pointer follows them.

Only `daemon.core.risk.claim` judges. Invariant: a verdict is journaled as `ClaimJudged` before the pointer moves, and
from that event on the version takes no new risk; after a crash the pointer follows the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from msgspec import UnsetType

from daemon.core.events import ClaimJudged, Event, ModelPromoted
from daemon.core.limits import Trading
from daemon.core.risk import claim as rules
from daemon.core.state import BrokenClaim, ClaimState, LadderState, State
from daemon.core.step import Step
from daemon.host.printable import printable
from daemon.models.ladder.cards import holds_of
from daemon.models.lifecycle import WatchedDesk
from daemon.models.pointer import CURRENT, ModelError, former_version, point, pointer_text
from daemon.models.store import check_promoted, check_rules, is_passive, load, versions
from daemon.pacing import look_again

WHO = "claim"
FAILURES: tuple[type[Exception], ...] = (Exception,)  # of one check: the next one tries again
REASON_MOST = 500  # characters of a problem that are logged


class ClaimWatch:
    """Run `run` on the event loop; `observe` must see every step, after the models.

    `consequence` is `drift.claim_broken`.
    """

    def __init__(self, desk: WatchedDesk, consequence: str, trading: Trading) -> None:
        self._desk, self._consequence, self._trading = desk, consequence, trading
        self._wake = asyncio.Event()
        self._claim: object = None  # of the last step checked
        self._book: object = None
        self._problem = ""

    def observe(self, event: Event, step: Step) -> None:
        """Wake up if the step left a verdict to journal."""
        state = step.state
        if isinstance(state.claim, UnsetType) or (self._claim is state.claim and self._book is state.book):
            return
        self._claim, self._book = state.claim, state.book
        if type(event) is ModelPromoted or rules.judge_claim(state.claim, state.book) is not None:
            self._wake.set()

    async def run(self) -> None:
        """Check now, then each `poll_s` seconds and whenever there is a verdict, until cancelled."""
        await look_again(self._look_safely, self._wake, self._desk.poll_s)

    async def _look_safely(self) -> None:
        try:
            await self.look()
        except FAILURES as error:
            self._hold(f"{type(error).__name__}: {error}")

    async def look(self) -> None:
        """Journal a due verdict, then let the pointer follow the journal."""
        state = self._desk.submitter.state
        verdict = rules.judge_claim(state.claim, state.book)
        if verdict is not None:
            await self._judge(state, verdict)
        await self._align()

    async def _judge(self, state: State[Any], verdict: rules.Verdict) -> None:
        claim = state.claim
        assert isinstance(claim, ClaimState)
        consequence = self._consequence if verdict.verdict in rules.BROKEN else ""
        former = await self._former_if_any(state) if consequence == rules.FORMER_VERSION else ""
        full = claim.claim is not None and len(claim.returns) >= claim.claim.window_sessions
        await self._desk.submitter.submit(
            lambda now_ns: ClaimJudged(
                now_ns,
                claim.version,
                verdict.verdict,
                verdict.detail,
                claim.sessions,
                rules.volatility(claim.returns) if full else 0.0,
                rules.fall(claim, state.book),
                consequence,
                former,
            ),
            deadline_s=None,
        )

    async def _former_if_any(self, state: State[Any]) -> str:
        """Return the version to answer again; "" also if the store cannot say: no verdict waits for that."""
        try:
            return await asyncio.to_thread(self._former, state)
        except FAILURES as error:
            self._hold(f"{type(error).__name__}: {error}")
            return ""

    def _former(self, state: State[Any]) -> str:
        """Return the version before the running one, else a passive policy; "" where neither may answer.

        Versions held back by a person are excluded. Raises ModelError where these cannot be read, OSError.
        """
        shelf = self._desk.shelf
        broken_claims = state.claim.broken if isinstance(state.claim, ClaimState) else {}
        out = {self._desk.models.running.version, *broken_claims, *_versions_off_ladder(state), *holds_of(shelf).held}
        with contextlib.suppress(ModelError):
            version = former_version(shelf)
            if version not in out and self._may_answer(version, state):
                return version
        version_names = reversed(versions(self._desk.models_dir, self._desk.strategy.spec.name))
        return next(
            (name for name in version_names if name not in out and self._may_answer(name, state, passive=True)), ""
        )

    def _may_answer(self, version: str, state: State[Any], *, passive: bool = False) -> bool:
        """Return whether the store's checks, except the trial, allow a version to replace the running one."""
        try:
            model = load(self._desk.models_dir, self._desk.strategy, version, self._desk.public_key)
            check_rules(model, self._desk.strategy, self._trading)
            if state.identity.account == "live":
                check_promoted(model, self._desk.models.running, self._desk.strategy, self._trading)
        except ModelError:
            return False
        return is_passive(model.manifest) or not passive

    async def _align(self) -> None:
        """Set `current` to the former version if the answering one broke its claim, unless a person set it."""
        running, claim = self._desk.models.running.version, self._desk.submitter.state.claim
        broken_claim = claim.broken.get(running) if isinstance(claim, ClaimState) else None
        if broken_claim is None or not broken_claim.former:
            return
        shelf = self._desk.shelf
        if await asyncio.to_thread(pointer_text, shelf, CURRENT) == running:
            await asyncio.to_thread(self._point, shelf, running, broken_claim)
            self._desk.lifecycle.wake()

    def _point(self, shelf: Path, version: str, broken_claim: BrokenClaim) -> None:
        why, back = f"{version}: {broken_claim.detail}", False
        with contextlib.suppress(ModelError):
            back = former_version(shelf) == broken_claim.former
        point(
            shelf,
            CURRENT,
            broken_claim.former,
            author=WHO,
            why=why,
            now_ns=self._desk.submitter.now_ns(),
            rollback=back,
        )

    def _hold(self, problem: str) -> None:
        """Log once why the pointer does not follow; the version takes no new risk meanwhile."""
        if self._problem != problem:
            self._problem = problem
            self._desk.log("claim_held", reason=printable(problem, REASON_MOST))


def _versions_off_ladder(state: State[Any]) -> set[str]:
    """Return the versions that left the ladder, except the newest one's champion."""
    ladder = state.ladder
    return {*ladder.judged} - {ladder.champion} if isinstance(ladder, LadderState) else set()
