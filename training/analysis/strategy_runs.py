"""Runs of a strategy over a file's bars, whole, cut or distorted, and training's feature table of the same bars.

The desk follows a script by the clock and the policy is fixed, so differences between two runs come from the strategy
alone. A daily strategy gets a session's bars and then decides for the next session.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from daemon.core.events import BarClosed, SessionEnded, SessionScheduled
from daemon.core.limits import Basket
from daemon.core.session import new_york_text
from daemon.host.time.calendar import SessionCalendar
from daemon.tapes.days import DailyTapeSource, scan_daily
from daemon.tapes.minutes import TapeSource, scan
from strategies.kit.contract import (
    AnyStrategy,
    Bar,
    DailySpec,
    DailyStrategy,
    Decision,
    Observation,
    Portfolio,
    Rebalance,
    Session,
    ShareSpec,
    ShareStrategy,
    Spec,
    Strategy,
    View,
)
from strategies.kit.units import MINUTE_NS
from strategies.registry import by_kind
from training.analysis.subjects import AnalyseError, CachedPolicy, Subject, strategy_of

Float64Array = npt.NDArray[np.float64]
UNITS = {"bar": "bars", "session": "sessions"}
"""`Spec.decides` -> the word for its moments."""
PRICE_USD = 100.0  # of every share of the scripted portfolio


@dataclass(frozen=True, slots=True)
class Moment:
    """The bars that closed together, oldest first in a tape; `index` counts from the session's first.

    Of a daily strategy they are one session's, and `session` is the next one, which is decided for; `index` is 0.
    """

    end_ns: int
    session: Session
    index: int
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class ObservedDecision:
    """Observation and decision of a run at one moment."""

    observation: Observation | None
    decision: tuple[object, ...] | None  # action, action after resolution and target; or name and basket


def moments_of(path: Path, spec: Spec) -> tuple[Moment, ...]:
    """The file's regular-session bars of the strategy's symbols, as the daemon would receive them."""
    return _MOMENTS[spec.decides](path, spec)


def _minutes_of(path: Path, spec: Spec) -> tuple[Moment, ...]:
    info = scan(path, spec.symbols, spec.bar_interval_s, spec.bar_anchor)
    source = TapeSource(path, info, SessionCalendar.load(info.first_date, info.last_date))
    moments: list[Moment] = []
    session: Session | None = None
    for event in source:
        if isinstance(event, SessionScheduled):
            session = event.session
        elif isinstance(event, BarClosed):
            assert session is not None  # SessionScheduled precedes every bar
            previous = moments[-1] if moments else None
            if previous is not None and previous.end_ns == event.time_ns:
                moments[-1] = Moment(previous.end_ns, previous.session, previous.index, (*previous.bars, event.bar))
            else:
                index = previous.index + 1 if previous is not None and previous.session.date == session.date else 0
                moments.append(Moment(event.time_ns, session, index, (event.bar,)))
    return tuple(moments)


def _days_of(path: Path, spec: Spec) -> tuple[Moment, ...]:
    """A moment for each session that has a bar."""
    info = scan_daily(path, spec.symbols)
    source = DailyTapeSource(path, info, SessionCalendar.load(info.first_date, info.last_date), Basket())
    moments: list[Moment] = []
    bars: list[Bar] = []
    following: Session | None = None
    for event in source:
        if isinstance(event, SessionScheduled):
            following, bars = event.upcoming[0], []
        elif isinstance(event, BarClosed):
            bars.append(event.bar)
        elif isinstance(event, SessionEnded) and bars:
            assert following is not None  # SessionScheduled precedes every end
            moments.append(Moment(event.time_ns, following, 0, tuple(bars)))
    return tuple(moments)


_MOMENTS = {"bar": _minutes_of, "session": _days_of}


def scripted_portfolio(spec: DailySpec, session: Session) -> Portfolio:
    """A portfolio by date alone: a week cash, a week half in shares of all symbols, a week all; constant prices."""
    halves = date.fromisoformat(session.date).toordinal() // 7 % 3
    count = len(spec.symbols)
    shares_each = int(halves * spec.capital_usd / (2 * count * PRICE_USD))
    cash = spec.capital_usd - shares_each * count * PRICE_USD
    return Portfolio(cash, float(spec.capital_usd), (shares_each,) * count, (PRICE_USD,) * count)


def _asked(spec: DailySpec, moment: Moment) -> View:
    """The desk before the open of the decision's session."""
    now_ns = moment.session.open_ns - Basket().before_open_min * MINUTE_NS
    return View(now_ns, moment.session, portfolio=scripted_portfolio(spec, moment.session))


def scripted_view(moment: Moment, spec: Spec) -> View:
    """The desk at a moment, by the clock alone: 40 bars flat, 40 long calls, 40 long puts, and so on.

    A share desk holds all its symbols for 40 bars and nothing for 40, at constant prices.
    """
    return _VIEWS[spec.holds](moment, spec)


def _option_view(moment: Moment, _: Spec) -> View:
    since = moment.index % 40
    side = (0, +1, -1)[moment.index // 40 % 3]
    if side == 0:
        return View(moment.end_ns, moment.session)
    return View(moment.end_ns, moment.session, side, (since - 10) / 20, float(since))


def _share_view(moment: Moment, spec: ShareSpec) -> View:
    count, since = len(spec.symbols), moment.index % 40
    shares_each = int(spec.capital_usd / (2 * count * PRICE_USD)) * (moment.index // 40 % 2)
    portfolio = Portfolio(
        spec.capital_usd - shares_each * count * PRICE_USD,
        float(spec.capital_usd),
        (shares_each,) * count,
        (PRICE_USD,) * count,
        costs=(PRICE_USD * (1.0 + since / 10_000) if shares_each else 0.0,) * count,
        opened_ns=(moment.end_ns - since * MINUTE_NS if shares_each else 0,) * count,
    )
    return View(moment.end_ns, moment.session, portfolio=portfolio)


_VIEWS: dict[str, Callable[[Moment, Any], View]] = {"option": _option_view, "shares": _share_view}


def observed(strategy: AnyStrategy, moments: Sequence[Moment]) -> list[Observation]:
    """All observations of a run without decisions."""
    steps = _run(strategy, moments, None)
    return [step.observation for step in steps if step.observation is not None]


def run_with_policy(
    subject: Subject, moments: Sequence[Moment], bars: tuple[Bar, ...], policy: CachedPolicy
) -> list[ObservedDecision]:
    """A run with the policy over `moments`, of a strategy made with `bars`; one step for each moment."""
    strategy = strategy_of(subject, bars)
    if _PRIMED[strategy.spec.decides](policy):
        policy.prime(observed(strategy_of(subject, bars), moments))
    return _run(strategy, moments, policy)


_PRIMED: dict[str, Callable[[CachedPolicy], bool]] = {"bar": lambda _: True, "session": lambda policy: policy.fresh}
"""`Spec.decides` -> whether observations from a run without decisions are answered first, in one batch."""


def _run(strategy: AnyStrategy, moments: Sequence[Moment], policy: CachedPolicy | None) -> list[ObservedDecision]:
    """Run one step for each moment; without a policy there are no decisions."""
    return by_kind(
        strategy,
        option=lambda of_bars: _played_bars(of_bars, moments, policy),
        shares=lambda of_bars: _played_bars(of_bars, moments, policy),
        days=lambda of_days: _played_daily(of_days, moments, policy),
    )


def _played_bars(
    strategy: Strategy | ShareStrategy, moments: Sequence[Moment], policy: CachedPolicy | None
) -> list[ObservedDecision]:
    state, steps = strategy.start(), []
    for moment in moments:
        view = scripted_view(moment, strategy.spec)
        state, observation = strategy.observe(state, moment.bars, view)
        decided: tuple[object, ...] | None = None
        if observation is not None and policy is not None:
            state, decision = strategy.decide(state, policy.answer(observation), view)
            decided = _of_decision(decision)
        steps.append(ObservedDecision(observation, decided))
    return steps


def _of_decision(decision: Decision | Rebalance) -> tuple[object, ...]:
    if isinstance(decision, Rebalance):
        return decision.actions, decision.name, decision.basket
    return decision.choice.action, decision.resolved, decision.target


def _played_daily(
    strategy: DailyStrategy, moments: Sequence[Moment], policy: CachedPolicy | None
) -> list[ObservedDecision]:
    state, steps = strategy.start(), []
    for moment in moments:
        view = _asked(strategy.spec, moment)
        state, observation = strategy.observe(strategy.remember(state, moment.bars), (), view)
        decided: tuple[object, ...] | None = None
        if observation is not None and policy is not None:
            state, decision = strategy.decide(state, policy.answer(observation), view)
            decided = (decision.choice.action if decision.choice else None, decision.name, decision.basket)
        steps.append(ObservedDecision(observation, decided))
    return steps


def newest(moments: Sequence[Moment], count: int) -> tuple[Moment, ...]:
    """Moments with the newest `count` bars of each symbol; moments without a bar are dropped."""
    counts: Counter[str] = Counter()
    chosen: list[Moment] = []
    for moment in reversed(moments):
        counts.update(bar.symbol for bar in moment.bars)
        if bars := tuple(bar for bar in moment.bars if counts[bar.symbol] <= count):
            chosen.append(Moment(moment.end_ns, moment.session, moment.index, bars))
    return tuple(reversed(chosen))


def recent(moments: Sequence[Moment], first: int, end: int, count: int, spec: Spec) -> tuple[Moment, ...]:
    """The moments from `first` up to `end` with `count` bars of history; of days the newest `count` bars of each."""
    return _RECENT[spec.decides](moments, first, end, count)


_RECENT: dict[str, Callable[[Sequence[Moment], int, int, int], tuple[Moment, ...]]] = {
    "bar": lambda moments, first, end, count: tuple(moments[max(first - count, 0) : end]),
    "session": lambda moments, _, end, count: newest(moments[:end], count),
}


def bars_of(moments: Sequence[Moment]) -> tuple[Bar, ...]:
    """All bars, in order."""
    return tuple(bar for moment in moments for bar in moment.bars)


def wild(moments: Sequence[Moment]) -> tuple[Moment, ...]:
    """Every price and volume times two or three, alternating: valid bars, but no plausible continuation."""
    changed = []
    for place, moment in enumerate(moments):
        bars = tuple(_times(bar, 2.0 + place % 2) for bar in moment.bars)
        changed.append(Moment(moment.end_ns, moment.session, moment.index, bars))
    return tuple(changed)


def _times(bar: Bar, factor: float) -> Bar:
    prices = (factor * value for value in (bar.open, bar.high, bar.low, bar.close, bar.volume))
    return Bar(bar.symbol, bar.start_ns, *prices)


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """Training's feature table over some bars: starts, features, and which rows are valid."""

    start_ns: list[int]
    values: Float64Array  # (n, features)
    warm: npt.NDArray[np.bool_]  # (n,)


def has_table(subject: Subject, spec: Spec) -> bool:
    """Whether training's table of the features can be made: of one symbol's minutes, or of days."""
    return subject.table is not None and _TABLED[spec.decides](spec)


_TABLED: dict[str, Callable[[Spec], bool]] = {"bar": lambda spec: len(spec.symbols) == 1, "session": lambda _: True}


def tabled(subject: Subject, moments: Sequence[Moment], spec: Spec) -> FeatureRows:
    """The table as training makes it from these bars alone. Raises AnalyseError when it has another shape."""
    return _TABLES[spec.decides](subject, moments, spec)


def _of_bars(subject: Subject, moments: Sequence[Moment], spec: Spec) -> FeatureRows:
    del spec  # the bars are of one symbol
    assert subject.table is not None
    bars = bars_of(moments)
    firsts = [
        place for place, moment in enumerate(moments) if not place or moment.session != moments[place - 1].session
    ]
    columns = np.array([(b.open, b.high, b.low, b.close, b.volume) for b in bars], dtype=np.float64).T
    dates = [moment.session.date for moment in moments]
    table = subject.table(
        *columns,
        **({"dates": dates} if "dates" in inspect.signature(subject.table).parameters else {}),
        session_starts=firsts,
        session_minutes=[(moments[i].session.close_ns - moments[i].session.open_ns) // MINUTE_NS for i in firsts],
        elapsed_minutes=[(moment.end_ns - moment.session.open_ns) / MINUTE_NS for moment in moments],
    )
    return _rows(subject, table, [bar.start_ns for bar in bars], "bars")


def _of_days(subject: Subject, moments: Sequence[Moment], spec: Spec) -> FeatureRows:
    assert subject.table is not None
    bars = np.full((5, len(moments), len(spec.symbols)), np.nan)
    place = {symbol: index for index, symbol in enumerate(spec.symbols)}
    for row, moment in enumerate(moments):
        for bar in moment.bars:
            bars[:, row, place[bar.symbol]] = bar.open, bar.high, bar.low, bar.close, bar.volume
    more = {"volume": bars[4], "dates": [new_york_text(moment.bars[0].start_ns)[:10] for moment in moments]}
    parameters = inspect.signature(subject.table).parameters
    table = subject.table(
        *bars[:4], present=np.isfinite(bars).all(axis=0), **{name: more[name] for name in more if name in parameters}
    )
    return _rows(subject, table, [moment.bars[0].start_ns for moment in moments], "sessions")


_TABLES = {"bar": _of_bars, "session": _of_days}


def _rows(subject: Subject, table: object, starts: list[int], what: str) -> FeatureRows:
    values = np.asarray(getattr(table, "values", table), dtype=np.float64)
    if values.ndim != 2 or len(values) != len(starts):
        raise AnalyseError(
            f"feature_table of {subject.name} has shape {values.shape} for {len(starts)} {what}: expected a row for "
            "each"
        )
    warm = np.asarray(getattr(table, "warm", np.ones(len(starts))), dtype=np.bool_)
    return FeatureRows(starts, values, warm)


def part_of(rows: FeatureRows, first: int, end: int) -> FeatureRows:
    """The rows from `first` up to `end`."""
    return FeatureRows(rows.start_ns[first:end], rows.values[first:end], rows.warm[first:end])
