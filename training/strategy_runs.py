"""A strategy run over a file's bars, or over what is left or made of them, and training's table of the same bars.

The desk is scripted by the clock and the policy is given, so that two runs which differ do so by the strategy alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from daemon.core.events import BarClosed, SessionScheduled
from daemon.shell.calendar import SessionCalendar
from daemon.shell.tape import TapeSource, scan
from strategies.contract import Bar, Observation, Session, Spec, Strategy, View
from training.subjects import AnalyseError, Policy, Subject, made

Float64Array = npt.NDArray[np.float64]
MINUTE_NS = 60_000_000_000


@dataclass(frozen=True, slots=True)
class Moment:
    """The bars that closed together, oldest first in a tape; `index` counts from the session's first."""

    end_ns: int
    session: Session
    index: int
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """What a run gave at one moment."""

    observation: Observation | None
    decision: tuple[object, ...] | None  # the action, what it resolved to, and the target


def moments_of(path: Path, spec: Spec) -> tuple[Moment, ...]:
    """The file's regular-session bars of the strategy's symbols, as the daemon would be told of them."""
    info = scan(path, spec.symbols, spec.bar_interval_s)
    source = TapeSource(path, info, SessionCalendar.load(info.first_date, info.last_date))
    found: list[Moment] = []
    session: Session | None = None
    for event in source:
        if isinstance(event, SessionScheduled):
            session = event.session
        elif isinstance(event, BarClosed):
            assert session is not None  # SessionScheduled precedes every bar
            last = found[-1] if found else None
            if last is not None and last.end_ns == event.time_ns:
                found[-1] = Moment(last.end_ns, last.session, last.index, (*last.bars, event.bar))
            else:
                index = last.index + 1 if last is not None and last.session.date == session.date else 0
                found.append(Moment(event.time_ns, session, index, (event.bar,)))
    return tuple(found)


def scripted_view(moment: Moment) -> View:
    """The desk at a moment, by the clock alone: 40 bars flat, 40 long calls, 40 long puts, and so on."""
    since = moment.index % 40
    side = (0, +1, -1)[moment.index // 40 % 3]
    if side == 0:
        return View(moment.end_ns, moment.session)
    return View(moment.end_ns, moment.session, side, (since - 10) / 20, float(since))


def observed(strategy: Strategy, moments: Sequence[Moment]) -> list[Observation]:
    """All observations of a run in which the policy is never asked."""
    state, found = strategy.start(), []
    for moment in moments:
        state, observation = strategy.observe(state, moment.bars, scripted_view(moment))
        if observation is not None:
            found.append(observation)
    return found


def played(subject: Subject, moments: Sequence[Moment], bars: tuple[Bar, ...], policy: Policy) -> list[Step]:
    """A run with the policy over `moments`, of a strategy made with `bars`; one step for each moment."""
    policy.prime(observed(made(subject, bars), moments))
    strategy = made(subject, bars)
    state, steps = strategy.start(), []
    for moment in moments:
        view = scripted_view(moment)
        state, observation = strategy.observe(state, moment.bars, view)
        told: tuple[object, ...] | None = None
        if observation is not None:
            state, decision = strategy.decide(state, policy.answer(observation), view)
            told = (decision.choice.action, decision.resolved, decision.target)
        steps.append(Step(observation, told))
    return steps


def bars_of(moments: Sequence[Moment]) -> tuple[Bar, ...]:
    """All bars, in order."""
    return tuple(bar for moment in moments for bar in moment.bars)


def wild(moments: Sequence[Moment]) -> tuple[Moment, ...]:
    """Every price and volume two or three times as large, in turns: still bars, but nobody's continuation."""
    found = []
    for place, moment in enumerate(moments):
        bars = tuple(_times(bar, 2.0 + place % 2) for bar in moment.bars)
        found.append(Moment(moment.end_ns, moment.session, moment.index, bars))
    return tuple(found)


def _times(bar: Bar, factor: float) -> Bar:
    prices = (factor * value for value in (bar.open, bar.high, bar.low, bar.close, bar.volume))
    return Bar(bar.symbol, bar.start_ns, *prices)


@dataclass(frozen=True, slots=True)
class Rows:
    """Training's table over some bars: the bars' starts, the features, and which rows mean something."""

    start_ns: list[int]
    values: Float64Array  # (n, features)
    warm: npt.NDArray[np.bool_]  # (n,)


def tabled(subject: Subject, moments: Sequence[Moment]) -> Rows:
    """The table as training makes it from these bars alone. Raises AnalyseError when it has another shape."""
    assert subject.table is not None
    bars = bars_of(moments)
    firsts = [
        place for place, moment in enumerate(moments) if not place or moment.session != moments[place - 1].session
    ]
    columns = np.array([(b.open, b.high, b.low, b.close, b.volume) for b in bars], dtype=np.float64).T
    made = subject.table(
        *columns,
        session_starts=firsts,
        session_minutes=[(moments[i].session.close_ns - moments[i].session.open_ns) // MINUTE_NS for i in firsts],
        elapsed_minutes=[(moment.end_ns - moment.session.open_ns) / MINUTE_NS for moment in moments],
    )
    values = np.asarray(getattr(made, "values", made), dtype=np.float64)
    if values.ndim != 2 or len(values) != len(bars):
        raise AnalyseError(
            f"feature_table of {subject.name} has shape {values.shape} for {len(bars)} bars: expected a row for each"
        )
    warm = np.asarray(getattr(made, "warm", np.ones(len(bars))), dtype=np.bool_)
    return Rows([bar.start_ns for bar in bars], values, warm)


def part_of(rows: Rows, first: int, end: int) -> Rows:
    """The rows from `first` up to `end`."""
    return Rows(rows.start_ns[first:end], rows.values[first:end], rows.warm[first:end])
