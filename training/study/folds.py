"""Splits of sessions into training, validation and test. Pure; works on dates only.

Invariant: in the order of time, no session in two spans. Walk-forward folds leave `gap` sessions out between spans
(purge and embargo, López de Prado 2018, chapter 7), although nothing here is carried through a night.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from training.study.study import Fold

SESSIONS_MIN = 5
SESSIONS_A_YEAR = 252
FIRST_TRAIN = 0.48  # of all sessions: 60 % of what is left when a fifth is kept for later


class HistoryError(Exception):
    """The bars file cannot be trained on; the text names the file's figure, the one needed and the cure."""


def single(dates: Sequence[str], before: str = "that warm the desk up") -> tuple[Fold, ...]:
    """One fold: the first 60 % train, the next 20 % validate, the last 20 % test.

    `before` names in an error the sessions that cannot be used.

    Raises:
        HistoryError: fewer than five sessions.
    """
    if len(dates) < SESSIONS_MIN:
        raise HistoryError(
            f"too little history: {len(dates)} usable sessions, at least {SESSIONS_MIN} are needed after those "
            f"{before}: give a file with more sessions"
        )
    first, second = len(dates) * 6 // 10, len(dates) * 8 // 10
    return (Fold(tuple(dates[:first]), tuple(dates[first:second]), tuple(dates[second:])),)


class Split(NamedTuple):
    """Years that train, choose and test: the first and the last of each, both included."""

    train: tuple[int, int]
    validate: tuple[int, int]
    test: tuple[int, int]

    def __str__(self) -> str:
        spans = zip(("train", "validate", "test"), self, strict=True)
        return ", ".join(f"{name} {f'{first} to {last}' if first < last else first}" for name, (first, last) in spans)


def by_years(dates: Sequence[str], split: Split) -> Fold | None:
    """The fold of these years; None where the sessions do not cover them, each span at least half."""
    spans = []
    for first, last in split:
        found = tuple(date for date in dates if first <= int(date[:4]) <= last)
        if len(found) < SESSIONS_A_YEAR * (last - first + 1) // 2:
            return None
        spans.append(found)
    return Fold(*spans)


def expanding(
    dates: Sequence[str], count: int, *, train: int | None = None, validate: int = 10, test: int = 20, gap: int = 1
) -> tuple[Fold, ...]:
    """`count` walk-forward folds: each trains on all sessions from the first, `test` more than the one before it.

    Tests follow one another without a hole. `train` sessions in the first fold, 48 % of all when None.

    Raises:
        HistoryError: too few sessions; the text names how many are needed.
    """
    if train is not None and train < 1:
        raise HistoryError(f"the first fold trains on {train} sessions: expected at least 1")
    first = int(len(dates) * FIRST_TRAIN) if train is None else train
    needed = first + (count - 1) * test + gap + validate + gap + test
    if first < 1 or needed > len(dates):
        raise HistoryError(
            f"too little history: {len(dates)} usable sessions; {count} folds that train on {max(first, 1)} sessions "
            f"and more, validate on {validate} and test on {test} need {needed}: give a longer file, or ask for fewer "
            "folds or shorter spans"
        )
    folds = []
    for index in range(count):
        trained = first + index * test
        chosen = trained + gap
        tested = chosen + validate + gap
        folds.append(
            Fold(tuple(dates[:trained]), tuple(dates[chosen : chosen + validate]), tuple(dates[tested : tested + test]))
        )
    return tuple(folds)
