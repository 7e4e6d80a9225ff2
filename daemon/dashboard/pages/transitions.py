"""One transition (s, a, r, s′) of a desk that learns, as its trainer gets it."""

from __future__ import annotations

import numpy as np

from daemon.dashboard.desks import Picture
from daemon.dashboard.learning_views import StateCell, TransitionPage, TransitionRow
from daemon.dashboard.newest import under_way
from daemon.dashboard.pages.history import Transition
from daemon.dashboard.pages.price import NotThere
from daemon.experience.experience import Experience
from daemon.journal.outcomes import shown_outcome
from daemon.journal.reader import JournalReader
from strategies.kit.contract import Spec

_ASKED = "kind = 'policy'"


def wanted(reader: JournalReader, number: int) -> int:
    """Return the decision that is asked for; 0 asks for the newest that a later one follows. Raises sqlite3.Error."""
    if number:
        return number
    rows = reader.query(f"SELECT decision FROM decisions WHERE {_ASKED} ORDER BY decision DESC LIMIT 2")
    return int(rows[-1]["decision"]) if rows else 0


def transition_page(picture: Picture, reader: JournalReader, number: int, found: Transition) -> TransitionPage:
    """`GET /api/transition/N`. Raises NotThere, sqlite3.Error."""
    shown = f"SELECT time_ns, model, {shown_outcome(under_way(picture.state))} AS shown FROM decisions AS d"
    rows = reader.query(f"{shown} WHERE decision = ? AND {_ASKED}", (number,))
    if not rows:
        raise NotThere(f"no decision {number} of the policy in this journal")
    before = reader.query(f"SELECT max(decision) AS n FROM decisions WHERE decision < ? AND {_ASKED}", (number,))
    after = reader.query(f"SELECT min(decision) AS n FROM decisions WHERE decision > ? AND {_ASKED}", (number,))
    experience, spec = found.experience, picture.spec
    return TransitionPage(
        decision=number,
        previous=before[0]["n"] or 0,
        next=after[0]["n"] or 0,
        time=rows[0]["time_ns"] / 1e9,
        session=experience.session if experience is not None else "",
        model=rows[0]["model"] or "",
        outcome=rows[0]["shown"],
        bars=experience.bars if experience is not None else 0,
        terminal=experience is not None and experience.terminal,
        equity=experience.equity if experience is not None else 0.0,
        next_equity=experience.next_equity if experience is not None else 0.0,
        rows=_rows(experience, spec) if experience is not None and spec is not None else (),
        pending=found.pending,
        missing=found.missing,
    )


def _rows(experience: Experience, spec: Spec) -> tuple[TransitionRow, ...]:
    before, after = _newest(experience.state, spec), _newest(experience.next_state, spec)
    return tuple(_row(experience, spec, place, before, after) for place in range(len(experience.chosen)))


def _newest(data: bytes, spec: Spec) -> np.ndarray | None:
    """Return the newest features of each row of the batch; None without an observation."""
    if not data:
        return None
    return np.frombuffer(data, dtype="<f4").reshape(spec.rows, -1)[:, -len(spec.features) :].astype(np.float64)


def _row(
    experience: Experience, spec: Spec, place: int, before: np.ndarray | None, after: np.ndarray | None
) -> TransitionRow:
    chosen, held = experience.chosen[place], experience.holdings[place]
    cells = () if before is None else zip(spec.features, before[place].tolist(), strict=True)
    return TransitionRow(
        symbol=held.symbol,
        state=tuple(
            StateCell(feature, value, None if after is None else float(after[place, column]))
            for column, (feature, value) in enumerate(cells)
        ),
        action=spec.actions[chosen.action],
        greedy=spec.actions[chosen.greedy],
        probabilities=tuple(zip(spec.actions, chosen.probabilities, strict=True)),
        shares=held.shares,
        next_shares=held.next_shares,
        mark=held.mark,
        next_mark=held.next_mark,
        fees=held.fees,
        gain=held.gain,
        reward=held.gain / experience.equity if experience.equity > 0.0 else 0.0,
    )
