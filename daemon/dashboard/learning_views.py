"""Data of the learning page; `daemon.dashboard.views` has that of the others. 0 is never, or none."""

from __future__ import annotations

import msgspec

from daemon.reports.decision import DecisionHeads
from strategies.kit.quantity import Quantity

Pairs = tuple[tuple[str, float], ...]


class CoursePoint(msgspec.Struct, frozen=True):
    """The trainer's figures after a number of updates."""

    time: float
    row: int
    updates: int
    figures: dict[str, float]


class TrainerLine(msgspec.Struct, frozen=True):
    """The trainer's last written figures. `waiting` and `pending` are entries of its stream, None for unknown."""

    written: float
    age_s: float  # by this host's clock, at the last look at the desk
    ours: bool  # its stream is from this journal
    stream: str
    row: int  # row of the journal up to which it learned
    behind: int  # newer rows of this journal
    transitions: int
    updates: int
    waiting: int | None
    pending: int | None
    replay: int
    replay_most: int
    figures: Pairs
    rewards: Pairs
    version: str
    frozen: bool
    problem: str
    course: tuple[CoursePoint, ...]  # oldest first


class ExploredSession(msgspec.Struct, frozen=True):
    """Choices of one session: their count, and the count of those without the largest value."""

    session: str
    choices: int
    explored: int
    chance: float  # mean probability of a choice without the largest value


class LeadLine(msgspec.Struct, frozen=True):
    """A version's lead over its parent by one estimator, with its 95 % interval."""

    estimator: str
    estimate: float
    low: float
    high: float


class CardLine(msgspec.Struct, frozen=True):
    """A version's card. `cannot_be_said` is why there is no lead, "" if there is one."""

    parent: str
    trainer: str
    stream: str
    first_row: int
    last_row: int
    decisions: int
    sessions: int
    exploration: float
    overlap: float
    effective: float
    leads: tuple[LeadLine, ...]
    cannot_be_said: str
    session_mean: float
    session_deviation: float


class StepLine(msgspec.Struct, frozen=True):
    """A journaled step of the ladder; `from_step` equals `to_step` for a counted session."""

    time: float
    version: str
    from_step: str
    to_step: str
    share: float
    sessions: int
    reason: str
    detail: str
    figures: dict[str, float]


class RungLine(msgspec.Struct, frozen=True):
    """A version with a card, or with a journaled step: its place on the ladder, and its origin."""

    version: str
    step: str  # "" if it was never proposed
    running: bool  # it answers now, or answered last if the desk does not run
    parent: str
    card: CardLine | None
    problem: str  # why its card cannot be read, "" if readable or absent
    steps: tuple[StepLine, ...]  # newest first


class LearningPage(msgspec.Struct, frozen=True):
    """`GET /api/learning`."""

    learns: bool
    trainer: TrainerLine | None
    missing: str  # why there is no trainer to show, "" if there is one
    exploration: str  # the rule as a text
    explored: tuple[ExploredSession, ...]  # newest first
    rungs: tuple[RungLine, ...]  # newest first
    held: tuple[tuple[str, str], ...]  # versions held back, with the reason
    frozen: str  # why learning is frozen, "" if it is not
    decision: int  # newest decision of the policy
    weights: DecisionHeads | None  # the heads of that decision
    live: bool = False  # the desk runs


class StateCell(msgspec.Struct, frozen=True):
    """One feature at the decision and at the next one; `after` None at the session's end."""

    feature: str
    before: float
    after: float | None


class TransitionRow(msgspec.Struct, frozen=True):
    """One row of the policy's batch in a transition. Money is USD.

    `action`, `greedy` and `probabilities` are the decision's; `learned` is the action that the trainer uses: a hold, if
    the decision was denied or had no answer.
    """

    symbol: str
    state: tuple[StateCell, ...]  # features of its newest bar, and its portfolio
    action: str
    learned: str
    greedy: str
    probabilities: tuple[tuple[str, float], ...]
    shares: Quantity
    next_shares: Quantity
    mark: float
    next_mark: float
    fees: float
    gain: float
    reward: float  # the gain as a fraction of the equity at the decision


class TransitionPage(msgspec.Struct, frozen=True):
    """`GET /api/transition/N`: a decision and its result; N 0 is the newest complete one.

    `pending`: it is still being computed: ask again. `missing`: why there is none.
    """

    decision: int
    previous: int  # 0 for none
    next: int
    time: float
    session: str
    model: str
    outcome: str
    bars: int  # from the decision to the end of the transition
    terminal: bool
    equity: float
    next_equity: float
    rows: tuple[TransitionRow, ...]
    pending: bool
    missing: str
    became: str = ""  # as in `DecisionLine`
    why: tuple[str, ...] = ()
