"""A learning desk: its trainer, its exploration, the ladder with each version's card, the newest choice; and one
transition (s, a, r, s′) as its trainer gets it.

Read from the journal's tables, the steps of the ladder that were seen in it, and small files of the model store; each
part is bounded, and an unreadable one becomes a sentence.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from daemon.core.session import new_york_date
from daemon.core.state import State
from daemon.dashboard.desks import Picture
from daemon.dashboard.learning_views import (
    CardLine,
    CoursePoint,
    ExploredSession,
    LeadLine,
    LearningPage,
    RungLine,
    StateCell,
    TrainerLine,
    TransitionPage,
    TransitionRow,
)
from daemon.dashboard.newest import decision_lines, under_way
from daemon.dashboard.pages.history import Transition
from daemon.dashboard.pages.models import manifest_in
from daemon.dashboard.pages.now import learns
from daemon.dashboard.pages.price import NotThere
from daemon.experience.experience import Experience, stream_name
from daemon.experience.learning import LearningUnreadable, read_learning
from daemon.journal.outcomes import shown_outcome
from daemon.journal.reader import JournalReader
from daemon.models.ladder.cards import HoldReasons, card_times, holds_of, read_card
from daemon.models.pointer import ModelError
from daemon.reports.decision import SymbolChoice, heads_at
from strategies.kit.contract import Spec

CHOICES_MOST = 5_000  # newest choices that are counted
SESSIONS_MOST = 20
RUNGS_MOST = 40
NO_TRAINER = "no trainer seen: it writes learning.json next to the versions of the store, and there is none"
_ASKED = "kind = 'policy'"


def learning_page(picture: Picture, reader: JournalReader, models_dir: Path) -> LearningPage:
    """`GET /api/learning`. Raises sqlite3.Error."""
    spec, state = picture.spec, picture.state
    if spec is None or not _learns(state, spec):
        return LearningPage(False, None, "", "", (), (), (), "", 0, None)
    shelf = models_dir / spec.name
    trainer, missing = _trainer(shelf, picture)
    decision = _newest_choice(reader)
    holds = _holds(shelf)
    return LearningPage(
        learns=True,
        trainer=trainer,
        missing=missing,
        exploration=_rule(state),
        explored=_count_explorations(reader, spec),
        rungs=_rungs(picture, models_dir, spec),
        held=tuple(sorted(holds.held.items()))[:RUNGS_MOST],
        frozen=holds.frozen,
        decision=decision,
        weights=heads_at(reader, decision, spec) if decision else None,
        live=bool(picture.process),
    )


def _learns(state: State[Any] | None, spec: Spec) -> bool:
    return spec.by_row if state is None else learns(state, spec)


# --- the trainer ------------------------------------------------------------------------------------------------------


def _trainer(shelf: Path, picture: Picture) -> tuple[TrainerLine | None, str]:
    """Return the trainer's last figures, else why there are none."""
    try:
        learning = read_learning(shelf)
    except LearningUnreadable as error:
        return None, str(error)
    if learning is None:
        return None, NO_TRAINER
    ours = learning.stream == stream_name(picture.meta.get("desk", ""), picture.meta.get("epoch", ""))
    line = TrainerLine(
        written=learning.written_ns / 1e9,
        age_s=max(picture.read_at - learning.written_ns / 1e9, 0.0),
        ours=ours,
        stream=learning.stream,
        row=learning.row,
        behind=max(picture.last_id - learning.row, 0) if ours else 0,
        transitions=learning.transitions,
        updates=learning.updates,
        waiting=learning.waiting,
        pending=learning.pending,
        replay=learning.replay,
        replay_most=learning.replay_most,
        figures=tuple(learning.figures.items()),
        rewards=tuple(learning.rewards.items()),
        version=learning.version,
        frozen=learning.frozen,
        problem=learning.trouble or _refused_text(learning.refused),
        course=tuple(CoursePoint(p.time_ns / 1e9, p.row, p.updates, p.figures) for p in learning.course),
    )
    return line, ""


def _refused_text(count: int) -> str:
    """Return how many entries were refused, as a text; "" for none."""
    return f"{count} entries of the stream were refused (experience_refused in the log)" if count else ""


# --- exploration ------------------------------------------------------------------------------------------------------


def _rule(state: State[Any] | None) -> str:
    if state is None:
        return "unknown: the journal cannot be followed"
    rule = state.trading.exploring
    if rule.kind == "epsilon":
        return f"epsilon: {rule.epsilon:g} of the choices are spread over the allowed actions"
    if rule.kind == "softmax":
        return f"softmax of the values of the allowed actions / {rule.temperature:g}"
    return "none: the action with the largest value is taken"


def _choices(reader: JournalReader, sql: str, *values: int) -> list[sqlite3.Row]:
    """Return rows of the read model; none from a journal older than that table. Raises sqlite3.Error."""
    try:
        return reader.query(sql, values)
    except sqlite3.OperationalError as error:
        if "no such table: choices" in str(error):
            return []
        raise


def _newest_choice(reader: JournalReader) -> int:
    rows = _choices(reader, "SELECT max(decision) AS decision FROM choices")
    return (rows[0]["decision"] or 0) if rows else 0


def _count_explorations(reader: JournalReader, spec: Spec) -> tuple[ExploredSession, ...]:
    """Count the newest choices by session, newest first; the oldest session may be incomplete. Raises sqlite3.Error."""
    rows = _choices(
        reader,
        "SELECT time_ns, greedy, drawn, behaviour FROM choices ORDER BY decision DESC, symbol LIMIT ?",
        CHOICES_MOST,
    )
    counts: dict[str, tuple[int, int, float]] = {}
    for row in rows:
        date = new_york_date(row["time_ns"]).isoformat()
        choices, explorations, chance = counts.get(date, (0, 0, 0.0))
        greedy = json.loads(row["behaviour"])[spec.actions.index(row["greedy"])]
        counts[date] = (choices + 1, explorations + (row["drawn"] != row["greedy"]), chance + 1.0 - greedy)
    return tuple(
        ExploredSession(date, choices, explorations, chance / choices)
        for date, (choices, explorations, chance) in list(counts.items())[:SESSIONS_MOST]
    )


# --- the ladder -------------------------------------------------------------------------------------------------------


def _holds(shelf: Path) -> HoldReasons:
    try:
        return holds_of(shelf)
    except ModelError as error:
        return HoldReasons(frozen=f"nothing climbs: holds.json cannot be read ({error.check})")


def _rungs(picture: Picture, models_dir: Path, spec: Spec) -> tuple[RungLine, ...]:
    """Return the versions with a card or a step, the newest first."""
    steps, shelf = picture.newest.steps, models_dir / spec.name
    versions = list(dict.fromkeys(step.version for step in steps))
    cards = card_times(models_dir, spec.name)
    waiting = sorted((name for name in cards if name not in versions), key=lambda name: -cards[name])
    running = picture.state.model.version if picture.state is not None and picture.state.model is not None else ""
    names = [name for name in dict.fromkeys((*waiting, *versions, running)) if name][:RUNGS_MOST]
    return tuple(_rung(shelf, name, running, picture, name in cards) for name in names)


def _rung(shelf: Path, version: str, running: str, picture: Picture, has_card: bool) -> RungLine:
    steps = tuple(step for step in picture.newest.steps if step.version == version)
    card, problem = None, ""
    if has_card:
        try:
            card = _card(shelf / version)
        except (ModelError, msgspec.DecodeError, UnicodeDecodeError) as error:
            problem = f"its card cannot be read: {error.check if isinstance(error, ModelError) else error}"
    return RungLine(
        version=version,
        step=steps[0].to_step if steps else "",
        running=version == running,
        parent=card.parent if card is not None else "",
        card=card,
        problem=problem,
        steps=steps,
    )


def _card(folder: Path) -> CardLine:
    """Return a version's card. Raises ModelError, msgspec.DecodeError, UnicodeDecodeError."""
    card = read_card(folder, manifest_in(folder))
    return CardLine(
        parent=card.parent,
        trainer=card.trainer[:12],
        stream=card.stream,
        first_row=card.first_row,
        last_row=card.last_row,
        decisions=card.decisions,
        sessions=card.sessions,
        exploration=card.exploration,
        overlap=card.overlap,
        effective=card.effective,
        leads=tuple(LeadLine(name, lead.estimate, lead.low, lead.high) for name, lead in card.leads.items()),
        cannot_be_said=card.cannot_be_said,
        session_mean=card.session_mean,
        session_deviation=card.session_deviation,
    )


# --- one transition ---------------------------------------------------------------------------------------------------


def decision_wanted(reader: JournalReader, number: int) -> int:
    """Return the requested decision; 0 requests the newest one that has a successor. Raises sqlite3.Error."""
    if number:
        return number
    rows = reader.query(f"SELECT decision FROM decisions WHERE {_ASKED} ORDER BY decision DESC LIMIT 2")
    return int(rows[-1]["decision"]) if rows else 0


def transition_page(picture: Picture, reader: JournalReader, number: int, transition: Transition) -> TransitionPage:
    """`GET /api/transition/N`. Raises NotThere, sqlite3.Error."""
    coming = under_way(picture.state)
    columns_sql = f"SELECT d.*, {shown_outcome(coming)} AS shown FROM decisions AS d"
    rows = reader.query(f"{columns_sql} WHERE decision = ? AND {_ASKED}", (number,))
    if not rows:
        raise NotThere(f"no decision {number} of the policy in this journal")
    (line,) = decision_lines(reader, rows, coming)
    rows_before = reader.query(f"SELECT max(decision) AS n FROM decisions WHERE decision < ? AND {_ASKED}", (number,))
    rows_after = reader.query(f"SELECT min(decision) AS n FROM decisions WHERE decision > ? AND {_ASKED}", (number,))
    experience, spec = transition.experience, picture.spec
    return TransitionPage(
        decision=number,
        previous=rows_before[0]["n"] or 0,
        next=rows_after[0]["n"] or 0,
        time=line.time,
        session=experience.session if experience is not None else "",
        model=line.model,
        outcome=line.outcome,
        became=line.became,
        why=line.why,
        bars=experience.bars if experience is not None else 0,
        terminal=experience is not None and experience.terminal,
        equity=experience.equity if experience is not None else 0.0,
        next_equity=experience.next_equity if experience is not None else 0.0,
        rows=_rows(reader, experience, spec) if experience is not None and spec is not None else (),
        pending=transition.pending,
        missing=transition.missing,
    )


def _rows(reader: JournalReader, experience: Experience, spec: Spec) -> tuple[TransitionRow, ...]:
    values_before, values_after = _newest(experience.state, spec), _newest(experience.next_state, spec)
    heads = heads_at(reader, experience.decision, spec)
    choices = {choice.symbol: choice for choice in heads.choices} if heads is not None else {}
    return tuple(
        _row(experience, spec, place, values_before, values_after, choices) for place in range(len(experience.chosen))
    )


def _newest(data: bytes, spec: Spec) -> np.ndarray | None:
    """Return the newest features of each row of the batch; None without an observation."""
    if not data:
        return None
    return np.frombuffer(data, dtype="<f4").reshape(spec.rows, -1)[:, -len(spec.features) :].astype(np.float64)


def _row(
    experience: Experience,
    spec: Spec,
    place: int,
    values_before: np.ndarray | None,
    values_after: np.ndarray | None,
    choices: Mapping[str, SymbolChoice],
) -> TransitionRow:
    chosen, holding = experience.chosen[place], experience.holdings[place]
    learned_action, choice = spec.actions[chosen.action], choices.get(holding.symbol)
    cells = () if values_before is None else zip(spec.features, values_before[place].tolist(), strict=True)
    return TransitionRow(
        symbol=holding.symbol,
        state=tuple(
            StateCell(feature, value, None if values_after is None else float(values_after[place, column]))
            for column, (feature, value) in enumerate(cells)
        ),
        action=choice.drawn if choice is not None else learned_action,
        learned=learned_action,
        greedy=choice.greedy if choice is not None else spec.actions[chosen.greedy],
        probabilities=tuple(
            choice.behaviour.items() if choice is not None else zip(spec.actions, chosen.probabilities, strict=True)
        ),
        shares=holding.shares,
        next_shares=holding.next_shares,
        mark=holding.mark,
        next_mark=holding.next_mark,
        fees=holding.fees,
        gain=holding.gain,
        reward=holding.gain / experience.equity if experience.equity > 0.0 else 0.0,
    )
