"""The data of the page of learning, as `daemon.dashboard.views` holds that of the others. 0 is never, or none."""

from __future__ import annotations

import msgspec

from daemon.reports.heads import DecisionHeads
from strategies.kit.quantity import Quantity

Pairs = tuple[tuple[str, float], ...]


class CoursePoint(msgspec.Struct, frozen=True):
    """The trainer's figures after some updates."""

    time: float
    row: int
    updates: int
    figures: dict[str, float]


class TrainerLine(msgspec.Struct, frozen=True):
    """What the trainer last wrote. `waiting` and `pending` are entries of its stream, None for unknown."""

    written: float
    age_s: float  # by this host's clock, when the desk was last looked at
    ours: bool  # its stream is this journal's
    stream: str
    row: int  # of the journal, up to which it learned
    behind: int  # rows of this journal after that one
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
    """The choices of one session: how many there were, and how many were not the one with the largest value."""

    session: str
    choices: int
    explored: int
    chance: float  # mean probability of not taking the largest value


class LeadLine(msgspec.Struct, frozen=True):
    """A card's lead over the parent by one estimator, with its 95 % interval."""

    estimator: str
    estimate: float
    low: float
    high: float


class CardLine(msgspec.Struct, frozen=True):
    """A version's card. `cannot_be_said` is why there is no lead, "" where there is one."""

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
    """A step of the ladder as it was journaled; `from_step` equals `to_step` where a session was counted."""

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
    """A version with a card, or with a step in the journal: where it stands, and what it is made from."""

    version: str
    step: str  # "" where it was never proposed
    running: bool  # it answers now, or answered last where the desk does not run
    parent: str
    card: CardLine | None
    problem: str  # why its card cannot be read, "" where it can or there is none
    steps: tuple[StepLine, ...]  # newest first


class LearningPage(msgspec.Struct, frozen=True):
    """`GET /api/learning`."""

    learns: bool
    trainer: TrainerLine | None
    missing: str  # why there is no trainer to show, "" where there is one
    exploration: str  # the rule in words
    explored: tuple[ExploredSession, ...]  # newest first
    rungs: tuple[RungLine, ...]  # newest first
    held: tuple[tuple[str, str], ...]  # versions held back, with the reason
    frozen: str  # why learning is frozen, "" where it is not
    decision: int  # the newest of the policy
    weights: DecisionHeads | None  # what it was decided by
    live: bool = False  # the desk runs


class StateCell(msgspec.Struct, frozen=True):
    """One feature at the decision and at what followed; `after` None at the session's end."""

    feature: str
    before: float
    after: float | None


class TransitionRow(msgspec.Struct, frozen=True):
    """One row of the policy's batch in a transition. Money is USD.

    `action`, `greedy` and `probabilities` are the decision's; `learned` is the action that the trainer takes: of a
    decision that was denied, or had no answer, a hold.
    """

    symbol: str
    state: tuple[StateCell, ...]  # its newest bar's features and its portfolio
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
    reward: float  # the gain as a part of the equity at the decision


class TransitionPage(msgspec.Struct, frozen=True):
    """`GET /api/transition/N`: a decision and what followed; N 0 is the newest one that is complete.

    `pending`: it is still being computed: ask again. `missing`: why there is none.
    """

    decision: int
    previous: int  # 0 for none
    next: int
    time: float
    session: str
    model: str
    outcome: str
    bars: int  # from the decision to what followed
    terminal: bool
    equity: float
    next_equity: float
    rows: tuple[TransitionRow, ...]
    pending: bool
    missing: str
    became: str = ""  # as in `DecisionLine`
    why: tuple[str, ...] = ()
