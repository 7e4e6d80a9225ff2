"""One transition (s, a, r, s′) of a learning desk, as its trainer gets it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from daemon.dashboard.desks import Picture
from daemon.dashboard.learning_views import StateCell, TransitionPage, TransitionRow
from daemon.dashboard.newest import decision_lines, under_way
from daemon.dashboard.pages.history import Transition
from daemon.dashboard.pages.price import NotThere
from daemon.experience.experience import Experience
from daemon.journal.outcomes import shown_outcome
from daemon.journal.reader import JournalReader
from daemon.reports.heads import SymbolChoice, heads_at
from strategies.kit.contract import Spec

_ASKED = "kind = 'policy'"


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
