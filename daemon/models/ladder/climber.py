"""Take one challenger at a time up the ladder: judge its card, replay, run its shadow, size its canary, roll it back.

Invariant: every step is journaled as `LadderMoved`, with its figures, before a pointer moves; after a crash in between
the pointers follow the journal. Only `daemon.models.ladder.rules` decides.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from daemon.config.tables import LadderTable
from daemon.core.book import session_loss
from daemon.core.events import (
    CandidateRefused,
    ClaimJudged,
    Event,
    LadderMoved,
    ModelPromoted,
    SessionEnded,
)
from daemon.core.state import BROKER_MODES, ZERO, Book, ClaimState, LadderState, State
from daemon.core.step import Step
from daemon.host.printable import printable
from daemon.models.ladder import rules as rules_of
from daemon.models.ladder.cards import HoldReasons, card_of, figures_of, holds_of, newest_with_card
from daemon.models.ladder.replay_gate import Replaying
from daemon.models.ladder.rules import CANARY, CHAMPION, CLIMBING, REFUSED, REPLAY, ROLLED_BACK, SHADOW, LadderMove
from daemon.models.lifecycle import WatchedDesk
from daemon.models.pointer import CURRENT, MISSING, ModelError, canary_of, changes, point, version_of_pointer
from daemon.models.runtime import NO_MODEL
from daemon.models.shadow import Shadow
from daemon.models.store import Sight, load, sight
from daemon.pacing import look_again

WHO = "ladder"
FAILURES: tuple[type[Exception], ...] = (Exception,)  # of one check: none may end the climb, or prevent a fall
REASON_MOST = 500  # characters of a problem that are logged
TOLD_MOST = 100  # problems remembered as logged: several versions may wait for their files at once
GAINED, PEAK, ASKED, FAILED, TRADED = "gained", "gained_peak", "asked_to", "failed_to", "traded_to"
UNUSABLE = "unusable_to"
"""Figures of a canary: USD that the desk had gained when it was promoted, the most since, the newest question, how many
had no answer up to it, when the newest session opened that was judged (ns, 0 before the first), and how many answers
up to that question could not be used."""

UNKNOWN = "current names it as a canary, and this journal knows nothing of its climb"

PEAK_STEP = 0.25
"""A higher gain is journaled once it exceeds the journaled one by this part of the drawdown allowed to a canary."""


class Climber:
    """Run `run` on the event loop; `observe` must see every step, after the models."""

    def __init__(self, desk: WatchedDesk, rules: LadderTable, journal: Path) -> None:
        self._desk, self._rules = desk, rules
        self._wake = asyncio.Event()
        self._due: tuple[str, LadderMove] | None = None  # version, and a move found between two checks
        self._shadow: Shadow | None = None  # of the climbing version, since this process began
        self._session_ends = deque(_session_end_at_start(desk.submitter.state))  # states to be judged
        self._peak = float("-inf")  # highest gain since this process began
        self._peak_due = False  # it must be journaled, since a restart forgets it otherwise
        self._told_problems = deque[str](maxlen=TOLD_MOST)
        self._load_failures: dict[str, Sight] = {}  # versions that this check could not load
        self._load_failures_before: dict[str, Sight] = {}  # those of the check before
        self._rightful = ""  # the answering version, if it is no canary of another journal
        self._kept_back = ("", "")  # version and step that `current` cannot follow, as reported
        self._replaying = Replaying(
            desk.models_dir, journal, rules.replay_sessions, desk.public_key, self._wake.set, desk.log
        )

    # --- the trading loop's side --------------------------------------------------------------------------------------

    def observe(self, event: Event, step: Step) -> None:
        """Collect the step's news of the challenger; a breach wakes the climber at once."""
        state, ladder = step.state, step.state.ladder
        if type(event) is ModelPromoted:  # the new version may be a canary of another journal
            self._wake.set()
        if ladder is UNSET or ladder.step not in CLIMBING:
            return
        if ladder.step == SHADOW:
            self._observe_shadow(event, step, ladder.version)
        match event:
            case CandidateRefused(version=ladder.version, reason=reason):
                self._note_move(ladder, LadderMove(_out(ladder), "verification", reason))
            case SessionEnded():
                self._session_ends.append(state)
                self._wake.set()
            case ClaimJudged():
                self._wake.set()
            case _:
                pass
        if ladder.step in CANARY and GAINED in ladder.figures:
            self._check_drawdown(state.book, ladder)

    def _observe_shadow(self, event: Event, step: Step, version: str) -> None:
        """Step the copies of the desk; an error in them starts a new pair, and the desk goes on."""
        if self._shadow is None or self._shadow.model != version:
            self._shadow = Shadow(version)
        try:
            self._shadow.observe(self._desk.submitter.machine, event, step)
        except FAILURES as error:
            self._shadow = None
            self._hold(f"the shadow of {version}: {type(error).__name__}: {error}")

    @property
    def symbols_used(self) -> frozenset[str]:
        """Return the symbols that a climbing shadow holds or has orders for; its copies fill at the desk's quotes."""
        ladder = self._desk.submitter.state.ladder
        if self._shadow is None or ladder is UNSET or (ladder.step, ladder.version) != (SHADOW, self._shadow.model):
            return frozenset()
        return self._shadow.symbols_used

    def drifted(self, version: str, detail: str) -> None:
        """Roll the canary back when its features or actions drift."""
        ladder = self._desk.submitter.state.ladder
        if ladder is not UNSET and ladder.version == version and ladder.step in CANARY:
            self._note_move(ladder, LadderMove(ROLLED_BACK, "canary_drift", detail))

    def _check_drawdown(self, book: Book, ladder: LadderState) -> None:
        gain = rules_of.total_gain(book)
        self._peak = max(self._peak, gain, ladder.figures[PEAK])
        capital = float(book.equity) - (gain - ladder.figures[GAINED])  # capital at its promotion, and transfers since
        move = rules_of.drawdown(gain, self._peak, capital, ladder.share, self._rules)
        if move is not None:
            self._note_move(ladder, move)
        most = capital * self._rules.drawdown_max * ladder.share
        if self._peak - ladder.figures[PEAK] > PEAK_STEP * most and not self._peak_due:
            self._peak_due = True
            self._wake.set()

    def _note_move(self, ladder: LadderState, move: LadderMove) -> None:
        """Note a due move; the first of a version counts."""
        if self._due is None or self._due[0] != ladder.version:
            self._due = ladder.version, move
            self._wake.set()

    # --- the climb ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Check now, then each `poll_s` seconds and after each finding, until cancelled."""
        try:
            await look_again(self._look_safely, self._wake, self._desk.poll_s)
        finally:
            self._replaying.give_up()

    async def _look_safely(self) -> None:
        try:
            await self.look()
        except FAILURES as error:
            self._hold(f"{type(error).__name__}: {error}")

    async def replayed(self) -> None:
        """Wait for a running replay, if any."""
        await self._replaying.wait()

    async def look(self) -> None:
        """Take every step that is due."""
        try:
            holds = await asyncio.to_thread(holds_of, self._desk.shelf)
        except ModelError as error:
            holds = HoldReasons(frozen=str(error))
            self._hold(str(error))
        self._load_failures_before, self._load_failures = self._load_failures, {}
        while await self._step(holds):
            pass
        await self._align()

    def _hold(self, problem: str) -> None:
        """Log once why a version does not climb; the next check tries again."""
        if problem not in self._told_problems:
            self._told_problems.append(problem)
            self._desk.log("ladder_held", reason=printable(problem, REASON_MOST))

    async def _step(self, holds: HoldReasons) -> bool:
        """Take one step; False when none is due."""
        ladder = self._desk.submitter.state.ladder
        stray = await self._stray(ladder)
        if stray is not None:
            await self._move(stray, LadderMove(ROLLED_BACK, "canary_unknown", UNKNOWN))
            return True
        if ladder is not UNSET and ladder.step == CHAMPION and not await self._note_champion(ladder):
            return False
        if ladder is UNSET or ladder.step not in CLIMBING:
            idle = holds.frozen or rules_of.falls(ladder) or not self._answers()
            return not idle and await self._propose(holds)
        move = self._leaves(ladder, holds)
        if move is not None and move.reason == "by_hand" and await self._is_stood_in_for(ladder):
            return False
        if move is not None:
            self._replaying.give_up()
            await self._move(ladder, move)
            self._due = None
            return True
        if ladder.step == REPLAY:
            self._session_ends.clear()
            return await self._replay(ladder)
        if ladder.step in CANARY and GAINED not in ladder.figures and self._answers() == ladder.version:
            await self._begin(ladder)
            return True
        if self._peak_due:
            self._peak_due = False
            if ladder.step in CANARY and PEAK in ladder.figures:
                figures = {**ladder.figures, PEAK: self._peak}
                await self._submit(ladder, ladder.step, ladder.sessions, figures, "peak", "the most it gained so far")
                return True
        if self._session_ends:
            state = self._session_ends.popleft()
            await (
                self._end_shadow_session(ladder, state)
                if ladder.step == SHADOW
                else self._end_canary_session(ladder, state)
            )
            return True
        return False

    async def _stray(self, ladder: LadderState | UnsetType) -> LadderState | None:
        """Return a canary that answers and that this journal does not know: it would trade the full size."""
        state, running = self._desk.submitter.state, self._answers()
        ours = ladder is not UNSET and ladder.version == running and ladder.step in (*CANARY, CHAMPION, ROLLED_BACK)
        if ours or running in ("", self._rightful) or state.identity.mode not in BROKER_MODES:
            return None
        change = await asyncio.to_thread(canary_of, self._desk.shelf)
        if change is None or change.after != running:
            self._rightful = running
            return None
        judged_versions = ladder.judged if ladder is not UNSET else ()
        manifest, share = self._desk.models.running.manifest_digest, min(CANARY.values())
        return LadderState(running, "proposed", change.before, share, 0, {}, judged_versions, manifest)

    async def _note_champion(self, ladder: LadderState) -> bool:
        """Note in the history that a canary became champion, before another is proposed; restore a lost `current`.

        False, with an alarm, where the store cannot be written: the next check tries again.
        """
        if self._rightful != ladder.version and await asyncio.to_thread(self._current) in ("", ladder.version):
            try:
                if await asyncio.to_thread(canary_of, self._desk.shelf) is not None:
                    await self._point(ladder, ladder.version, ladder.manifest)
            except (ModelError, OSError) as error:
                reason = f"it climbed to champion, which its store does not note, so no other version climbs: {error}"
                self._report_kept_back(ladder, ladder.version, reason)
                return False
            self._rightful = ladder.version
        return True

    def _leaves(self, ladder: LadderState, holds: HoldReasons) -> LadderMove | None:
        """Return the move by which the version leaves the ladder now; None where it climbs on."""
        running = self._answers()
        if ladder.version in holds.held:
            return LadderMove(_out(ladder), "held_back", holds.held[ladder.version])
        if ladder.step in CANARY and (reason := _claim_fault(self._desk.submitter.state, ladder.version)):
            return LadderMove(ROLLED_BACK, "canary_claim", reason)
        if ladder.step in (REPLAY, SHADOW) and running == ladder.version:
            return LadderMove(CHAMPION, "by_hand", "it was promoted by hand")
        if ladder.step in CANARY and running == ladder.version and self._was_changed(ladder):
            return LadderMove(ROLLED_BACK, "version_changed", "what answers is not what was judged by its card")
        version, move = self._due or ("", None)
        if move is not None and version == ladder.version:
            return move
        expected = ("", ladder.version) if "base" in ladder.figures else ("", ladder.version, ladder.champion)
        if running not in expected:
            return LadderMove(_out(ladder), "by_hand", f"{running} answers, and not by the ladder")
        return None

    async def _is_stood_in_for(self, ladder: LadderState) -> bool:
        """Return whether the champion answers because the start could not load the canary, whose refusal follows."""
        ours = ladder.step in CANARY and self._answers() == ladder.champion and not self._desk.lifecycle.pinned
        return ours and await asyncio.to_thread(self._current) == ladder.version

    def _was_changed(self, ladder: LadderState) -> bool:
        """Return whether the answering version has another manifest than the climbing one, if known."""
        return "" not in (ladder.manifest, now := self._desk.models.running.manifest_digest) and now != ladder.manifest

    def _answers(self) -> str:
        """Return the answering version; "" where none could be loaded at the start."""
        version = self._desk.models.running.version
        return "" if version == NO_MODEL else version

    async def _propose(self, holds: HoldReasons) -> bool:
        """Judge the newest version with a card not judged yet; False without one."""
        state = self._desk.submitter.state
        judged_versions = state.ladder.judged if state.ladder is not UNSET else ()
        running = self._desk.models.running
        champion, manifest = running.version, ""
        excluded_versions = {*holds.held, champion, *self._load_failures}
        if state.ladder is not UNSET:
            excluded_versions.add(state.ladder.champion)  # its card has another parent
        name = self._desk.strategy.spec.name
        version = await asyncio.to_thread(
            newest_with_card, self._desk.models_dir, name, judged_versions, excluded_versions
        )
        if not version:
            return False
        files = await asyncio.to_thread(sight, self._desk.models_dir, name, version)
        try:
            model = await asyncio.to_thread(
                load, self._desk.models_dir, self._desk.strategy, version, self._desk.public_key
            )
            card, manifest = await asyncio.to_thread(card_of, model), model.manifest_digest
            move, figures = rules_of.judge_card(card, champion, self._rules), figures_of(card)
        except ModelError as error:
            if self._waits(files, error):
                return True
            move, figures = LadderMove(REFUSED, "card_refused", str(error)), {}
        if move.to_step == REPLAY:
            figures["replay_to"] = float(state.seq)
        proposal = LadderState(
            version, "proposed", champion, 1.0, 0, figures, judged_versions, manifest, running.manifest_digest
        )
        await self._move(proposal, move)
        return True

    def _waits(self, files: Sight, error: ModelError) -> bool:
        """Return whether a version that cannot be loaded waits for its files: one is missing, or they still change."""
        if error.check != MISSING and self._load_failures_before.get(files.version) == files:
            return False
        self._load_failures[files.version] = files
        self._hold(f"{files.version} waits until all its files are there: {error}")
        return True

    async def _replay(self, ladder: LadderState) -> bool:
        """Judge the replay when it has ended, else make sure it runs, always over the same sessions."""
        result = self._replaying.look(ladder, self._desk.submitter.state)
        if result is None:
            return False
        figures = {**ladder.figures}
        for name in ("sessions", "asked", "failed", "pnl", "champion_pnl", "trades", "champion_trades"):
            figures[f"replay_{name}"] = float(getattr(result, name))
        await self._move(msgspec.structs.replace(ladder, figures=figures), rules_of.after_replay(result, self._rules))
        return True

    async def _begin(self, ladder: LadderState) -> None:
        """Note the equity and former gain at the challenger's promotion, when it begins to answer."""
        state = self._desk.submitter.state
        base, self._peak = float(state.book.equity), rules_of.total_gain(state.book)
        figures = {**ladder.figures, "base": base, "began_ns": float(state.now_ns)}
        figures |= {GAINED: self._peak, PEAK: self._peak, TRADED: 0.0} | _questions(state)
        await self._submit(ladder, ladder.step, 0, figures, "answers", f"equity {base:.2f} at its promotion")

    async def _end_shadow_session(self, ladder: LadderState, state: State[Any]) -> None:
        """Count a session of the shadow in which it was asked, and judge it."""
        session, shadow = state.session.session, self._shadow
        session_result = shadow.sessions.pop(session.date, None) if shadow is not None and session is not None else None
        if shadow is None or session_result is None:
            return
        reason = rules_of.idle(
            state.risk, state.now_ns, session_result.answered + session_result.failed, 0, self._rules
        )
        if reason:
            await self._left_out(ladder, ladder.figures, reason)
            return
        new_figures = {
            "answered": float(session_result.answered),
            "failed": float(session_result.failed),
            "champion_pnl": float(session_result.live.gained) / shadow.base_usd,
            "pnl": float(session_result.candidate.gained) / shadow.base_usd,
        }
        figures = {**ladder.figures}
        for name, value in new_figures.items():
            figures[name] = figures.get(name, 0.0) + value
        sessions = ladder.sessions + 1
        move = rules_of.after_shadow(
            sessions,
            int(figures["answered"]),
            int(figures["failed"]),
            figures["pnl"],
            figures["champion_pnl"],
            self._rules,
        )
        await self._record_session(ladder, sessions, figures, move)

    async def _end_canary_session(self, ladder: LadderState, state: State[Any]) -> None:
        """Count a whole session of the canary, and judge it."""
        session, book = state.session.session, state.book
        loss = session_loss(msgspec.structs.replace(book, guard_base=ZERO))  # whatever base the limits have
        if session is None or GAINED not in ladder.figures or loss is None:
            return
        if ladder.figures["began_ns"] > session.open_ns or ladder.figures.get(TRADED, 0.0) >= session.open_ns:
            return
        now = _questions(state) | {TRADED: float(session.open_ns)}
        figures = {**ladder.figures, PEAK: max(self._peak, ladder.figures[PEAK]), **now}
        questions = int(now[ASKED] - ladder.figures.get(ASKED, -1.0))
        failures = int(now[FAILED] - ladder.figures.get(FAILED, now[FAILED]))
        unusable = int(now[UNUSABLE] - ladder.figures.get(UNUSABLE, now[UNUSABLE]))
        if broken := rules_of.unusable(questions, unusable, self._rules):
            await self._record_session(ladder, ladder.sessions, figures, broken)
            return
        if reason := rules_of.idle(state.risk, state.now_ns, questions, failures, self._rules):
            await self._left_out(ladder, figures, reason)
            return
        figures |= rules_of.bet(ladder.figures, -loss, ladder.share) | {"session_return": -loss}
        figures["evidence"] = rules_of.evidence_of(figures)
        sessions = ladder.sessions + (state.risk.halt is None)
        await self._record_session(
            ladder, sessions, figures, rules_of.after_canary(ladder.step, sessions, figures["evidence"], self._rules)
        )

    async def _left_out(self, ladder: LadderState, figures: dict[str, float], reason: str) -> None:
        """Journal that a session does not count."""
        await self._submit(ladder, ladder.step, ladder.sessions, figures, "idle", f"{reason}: it does not count")

    async def _record_session(
        self, ladder: LadderState, sessions: int, figures: dict[str, float], move: LadderMove | None
    ) -> None:
        ladder = msgspec.structs.replace(ladder, sessions=sessions, figures=figures)
        if move is None:
            await self._submit(ladder, ladder.step, sessions, figures, "session", f"{sessions} on this step")
        else:
            await self._move(ladder, move)

    async def _move(self, ladder: LadderState, move: LadderMove) -> None:
        await self._submit(ladder, move.to_step, 0, ladder.figures, move.reason, move.detail)

    async def _submit(
        self, ladder: LadderState, to_step: str, sessions: int, figures: dict[str, float], reason: str, detail: str
    ) -> None:
        """Journal the step. A falling version keeps its part of the size until another one answers."""
        falls = to_step == ROLLED_BACK and "left" not in figures
        share = ladder.share if falls else CANARY.get(to_step, 1.0)
        await self._desk.submitter.submit(
            lambda now_ns: LadderMoved(
                now_ns,
                ladder.version,
                ladder.step,
                to_step,
                ladder.champion,
                share,
                sessions,
                reason,
                detail,
                figures,
                ladder.manifest,
                ladder.champion_manifest,
            ),
            deadline_s=None,
        )

    async def _align(self) -> None:
        """Let shadow and `current` follow the journal.

        A fall is complete when another version answers and `current` does not name the fallen one, which a start would
        take.
        """
        ladder = self._desk.submitter.state.ladder
        if ladder is UNSET:
            return
        self._desk.lifecycle.climb(ladder.version if ladder.step == SHADOW else "", ladder.manifest)
        now = await asyncio.to_thread(self._current)
        if rules_of.falls(ladder):
            if now in ("", ladder.version):
                now = await self._put_back(ladder)
            running = self._answers()
            if self._desk.lifecycle.pinned == ladder.version:
                pinned = f"policy.version is {ladder.version}: let it name another, and restart"
                reason = f"it cannot take the place of {ladder.version}, which fell: {pinned}"
                self._report_kept_back(ladder, ladder.champion, reason)
            if running not in ("", ladder.version) and now not in ("", ladder.version):
                await self._submit(
                    ladder, ROLLED_BACK, 0, {**ladder.figures, "left": 1.0}, "left", f"{running} answers"
                )
        elif ladder.step in CANARY and "base" not in ladder.figures and now != ladder.version:
            await self._name_canary(ladder, now)

    def _current(self) -> str:
        """Return the version that `current` names, "" where it names none."""
        try:
            return version_of_pointer(self._desk.shelf, CURRENT)
        except ModelError:
            return ""

    async def _name_canary(self, ladder: LadderState, now: str) -> None:
        """Set `current` from `now` to the challenger, unless a person chose another version since the shadow.

        A challenger that is gone or not the judged version is refused. A store that cannot be read or written is an
        alarm, and the next check tries again.
        """
        try:
            if chosen := await asyncio.to_thread(self._chosen_by_hand, ladder, now):
                await self._move(ladder, LadderMove(ROLLED_BACK, "by_hand", chosen))
            else:
                await self._point(ladder, ladder.version, ladder.manifest, canary=True)
        except (ModelError, OSError) as error:
            if reason := await asyncio.to_thread(self._fault, ladder):
                await self._move(ladder, LadderMove(REFUSED, reason, str(error)))
            else:
                self._report_kept_back(
                    ladder, ladder.champion, f"it cannot give its place to {ladder.version}: {error}"
                )

    def _fault(self, ladder: LadderState) -> str:
        """Return why the store has no longer the version that was judged; "" where it has, or cannot be read at all."""
        if not self._desk.shelf.is_dir():
            return ""
        digest = sight(self._desk.models_dir, self._desk.strategy.spec.name, ladder.version).manifest_digest
        if not digest:
            return "verification"
        return "" if ladder.manifest in ("", digest) else "version_changed"

    def _chosen_by_hand(self, ladder: LadderState, now: str) -> str:
        """Return how a person lets another version than the challenger answer, "" if not."""
        pinned_version = self._desk.lifecycle.pinned
        if pinned_version not in ("", ladder.version):
            return f"policy.version is {pinned_version}"
        if now not in ("", ladder.champion):
            return f"current names {now}"
        moves = (change for change in reversed(changes(self._desk.shelf)) if change.pointer == CURRENT)
        newest = next((change for change in moves if ladder.version in (change.before, change.after)), None)
        taken_out = newest is not None and newest.after != ladder.version and newest.who != WHO
        return f"it was taken out of current, which names {now}" if taken_out else ""

    async def _put_back(self, ladder: LadderState) -> str:
        """Set `current` to the champion again and return its name; an obstacle raises an alarm once."""
        try:
            await self._point(ladder, ladder.champion, ladder.champion_manifest, rollback=True)
        except (ModelError, OSError) as error:
            reason = f"it cannot take the place of {ladder.version}, which fell: {error}"
            self._report_kept_back(ladder, ladder.champion, reason)
            return ""
        return ladder.champion

    def _report_kept_back(self, ladder: LadderState, version: str, reason: str) -> None:
        """Raise an alarm, once, that `current` or the history cannot follow the journal, about this version."""
        if self._kept_back != (case := (ladder.version, ladder.step)):
            self._kept_back = case
            self._desk.lifecycle.report_refused(version, reason)

    async def _point(
        self, ladder: LadderState, version: str, digest: str, *, rollback: bool = False, canary: bool = False
    ) -> None:
        """Move `current`. Raises ModelError, OSError, leaving it as it was."""
        why, now_ns = f"{ladder.version}: {ladder.step}", self._desk.submitter.now_ns()
        names = partial(point, self._desk.shelf, CURRENT, version, author=WHO, why=why, now_ns=now_ns)
        await asyncio.to_thread(names, judged_digest=digest, rollback=rollback, canary=canary)
        self._desk.lifecycle.wake()


def _questions(state: State[Any]) -> dict[str, float]:
    """Return the counts from which a canary's questions are counted."""
    stats = state.stats
    return {
        ASKED: float(state.decision),
        FAILED: float(rules_of.unanswered_questions(stats)),
        UNUSABLE: float(rules_of.unusable_answers(stats)),
    }


def _session_end_at_start(state: State[Any]) -> tuple[State[Any], ...]:
    """Return the start's state, if a canary's session ended in it without a judgement, because a daemon died."""
    ladder, session = state.ladder, state.session.session
    if ladder is UNSET or ladder.step not in CANARY or session is None or not state.session.ended:
        return ()
    return (state,) if ladder.figures.get(TRADED, session.open_ns) < session.open_ns else ()


def _claim_fault(state: State[Any], version: str) -> str:
    """Return how the version broke its claim about risk, "" if not: without risk a session shows nothing."""
    broken_claim = state.claim.broken.get(version) if isinstance(state.claim, ClaimState) else None
    return "" if broken_claim is None else broken_claim.detail


def _out(ladder: LadderState) -> str:
    return ROLLED_BACK if ladder.step in CANARY else REFUSED
