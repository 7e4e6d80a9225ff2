"""Splits of sessions into training, validation and test. Pure; works on dates only.

One rule for every strategy (`walk`): folds are counted from the end of the file, whose last session is always tested,
and `purge` sessions between two spans are left out (purge and embargo, López de Prado 2018, chapters 7 and 12).
Invariant: in the order of time, no session in two spans of a fold, none tested twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from training.study.study import SESSIONS_A_YEAR, Fold

SESSIONS_MIN = 5
FIRST_YEAR = 2014  # the earliest year that is tested, where tests are years


class HistoryError(Exception):
    """The bars file cannot be trained on; the text names the file's figure, the one needed and the cure."""


@contextmanager
def explained(remark: Callable[[], str]) -> Iterator[None]:
    """Add to a HistoryError what of the file counts for nothing, for a person: it may be the reason."""
    try:
        yield
    except HistoryError as error:
        if words := remark():
            raise HistoryError(f"{error}. {words}") from error
        raise


class Walk(NamedTuple):
    """How a strategy's sessions are cut into folds; all sizes in sessions."""

    train: int  # least number of training sessions; a fold trains on all sessions up to its validation
    validate: int
    test: int  # sessions of a test; not used with `years`
    purge: int  # left out between spans: an observation's look-back and the time until a decision's result
    years: bool = False  # tests are calendar years; the last one ends with the file

    def __str__(self) -> str:
        size = "a calendar year" if self.years else f"{self.test} sessions"
        return (
            f"train on {self.train} sessions and more, validate on {self.validate}, test on {size}, "
            f"{self.purge} left out between spans"
        )


class Cut(NamedTuple):
    """How a run asks for the sessions of its file to be cut into folds."""

    rule: Walk
    folds: int
    stated: bool  # True: a file too short for them is refused
    reference_years: bool  # one fold with the years of the published source, in place of the walk
    unusable: str  # words for errors: which sessions of a file have no decision


def walk(dates: Sequence[str], rule: Walk, count: int) -> tuple[Fold, ...]:
    """The last `count` folds of a file, in the order of time; the last test ends with the last session.

    Tests follow one another without a hole. Each fold validates on `rule.validate` sessions and trains on all before
    them, with `rule.purge` sessions left out before the validation and before the test.

    Raises:
        HistoryError: too few sessions; the text names how many folds there can be, and what one needs.
    """
    begins = _years(dates) if rule.years else [*range(len(dates) - rule.test, -1, -rule.test)][::-1]
    least = rule.train + rule.purge + rule.validate + rule.purge
    fit = [begin for begin in begins if begin >= least]
    if count > len(fit):
        raise HistoryError(
            f"too little history: {len(dates)} usable sessions; folds = {count} needs "
            f"{_needed_text(rule, count, least)} ({rule}), there can be {len(fit)}: "
            "give a longer file, or ask for fewer folds or shorter spans"
        )
    ends = [*fit[1:], len(dates)]
    return tuple(_fold(dates, rule, begin, end) for begin, end in list(zip(fit, ends, strict=True))[len(fit) - count :])


def _needed_text(rule: Walk, count: int, least: int) -> str:
    if rule.years:
        return f"{least} before the first tested year ({FIRST_YEAR} or later)"
    return str(least + count * rule.test)


def _years(dates: Sequence[str]) -> list[int]:
    """Index of each tested year's first session; a year with less than half of its sessions joins the one before."""
    years = [int(date[:4]) for date in dates]
    begins = [at for at, year in enumerate(years) if year >= FIRST_YEAR and (at == 0 or years[at - 1] < year)]
    return [at for at in begins if at == begins[0] or years.count(years[at]) >= SESSIONS_A_YEAR // 2]


def _fold(dates: Sequence[str], rule: Walk, begin: int, end: int) -> Fold:
    chosen = begin - rule.purge - rule.validate
    return Fold(
        tuple(dates[: chosen - rule.purge]), tuple(dates[chosen : chosen + rule.validate]), tuple(dates[begin:end])
    )


def trained_from(folds: Sequence[Fold], date: str) -> tuple[Fold, ...]:
    """The folds without the training sessions before a date ("": all of them). Raises HistoryError for too few."""
    shortened = tuple(Fold(tuple(day for day in fold.train if day >= date), fold.validate, fold.test) for fold in folds)
    fewest = min(len(fold.train) for fold in shortened)
    if date and fewest < SESSIONS_MIN:
        raise HistoryError(
            f"from_date is {date}: {fewest} sessions are left to train on, at least {SESSIONS_MIN} are needed: give an "
            "earlier date or fewer folds"
        )
    return shortened


def last_fold(dates: Sequence[str], rule: Walk, unusable: str = "that warm the desk up") -> Fold:
    """The last fold of the walk, or 60/20/20 without purge where the sessions are too few for one (see `is_short`).

    Raises:
        HistoryError: fewer than five sessions.
    """
    return single(dates, unusable)[0] if is_short(dates, rule) else walk(dates, rule, 1)[0]


def is_short(dates: Sequence[str], rule: Walk) -> bool:
    """Whether there are too few sessions for one fold of the walk."""
    try:
        walk(dates, rule, 1)
    except HistoryError:
        return True
    return False


def single(dates: Sequence[str], unusable: str = "that warm the desk up") -> tuple[Fold, ...]:
    """One fold: the first 60 % train, the next 20 % validate, the last 20 % test.

    `unusable` names in an error the sessions that cannot be used.

    Raises:
        HistoryError: fewer than five sessions.
    """
    if len(dates) < SESSIONS_MIN:
        raise HistoryError(
            f"too little history: {len(dates)} usable sessions, at least {SESSIONS_MIN} are needed after those "
            f"{unusable}: give a file with more sessions"
        )
    first, second = len(dates) * 6 // 10, len(dates) * 8 // 10
    return (Fold(tuple(dates[:first]), tuple(dates[first:second]), tuple(dates[second:])),)


class YearSplit(NamedTuple):
    """Years that train, choose and test: the first and the last of each, both included."""

    train: tuple[int, int]
    validate: tuple[int, int]
    test: tuple[int, int]

    def __str__(self) -> str:
        spans = zip(("train", "validate", "test"), self, strict=True)
        return ", ".join(f"{name} {f'{first} to {last}' if first < last else first}" for name, (first, last) in spans)


def by_years(dates: Sequence[str], split: YearSplit) -> Fold:
    """The fold of these years, as a published source has them: without purge, and with a test to the last session.

    Raises:
        HistoryError: a span is not covered by half of its sessions.
    """
    spans = []
    for name, (first, last) in zip(YearSplit._fields, split, strict=True):
        until = last if name != "test" else 9999
        session_dates = tuple(date for date in dates if first <= int(date[:4]) <= until)
        needed = SESSIONS_A_YEAR * (last - first + 1) // 2
        if len(session_dates) < needed:
            raise HistoryError(
                f"too little history: {len(session_dates)} usable sessions in the years that {name} ({first} to "
                f"{last}), at least {needed} are needed: give a longer file, or leave --reference-years out"
            )
        spans.append(session_dates)
    return Fold(*spans)
