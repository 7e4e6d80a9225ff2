"""The golden tapes and the contract hash: they prove that a model was made for this code.

Reads only the minutes committed next to this file; the days are generated. Invariant: the hash covers declared words
and numbers, never source code, so it changes exactly when the meaning of an observation or an answer does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import date, timedelta
from hashlib import sha256
from itertools import groupby
from math import prod
from operator import attrgetter
from pathlib import Path
from traceback import extract_tb
from typing import Any, cast

import msgspec

from strategies.kit.contract import (
    MINUTES,
    OPEN,
    SESSION_S,
    Answer,
    AnyStrategy,
    Bar,
    BarStrategy,
    DailySpec,
    DailyStrategy,
    Grid,
    Observation,
    Portfolio,
    Session,
    ShareStrategy,
    Spec,
    Strategy,
    View,
)
from strategies.kit.entry import IMPURE, reporting
from strategies.kit.plain import read_again
from strategies.kit.quantity import to_json
from strategies.kit.synthetic import synthetic_days, synthetic_sessions
from strategies.kit.timeframes import joined
from strategies.kit.units import DAY_NS, HOUR_NS, MINUTE_NS, SECOND_NS
from strategies.registry import STRATEGIES, by_kind, declaration
from strategies.registry import strategy as strategy_named

VALUE_LONGEST = 200  # characters of a value's JSON; of a longer one a digest is kept
DIGEST_DIGITS = 4  # enough to see that a value is another, too few to find a short secret by trying
GOLDEN_SEED = 20240703
GOLDEN_SESSIONS = (
    Session("2024-07-02", 1719927000_000000000, 1719950400_000000000),
    Session("2024-07-03", 1720013400_000000000, 1720026000_000000000),  # a half day
    Session("2024-07-05", 1720186200_000000000, 1720209600_000000000),
)
"""The hours of real sessions; the tape's prices are synthetic (`strategies.kit.synthetic`)."""

GOLDEN_POINTS = ((1, 19), (1, 59), (1, 109), (1, 209), (2, 19), (2, 90), (2, 389))
"""(session, bar) of the golden observations. Held: nothing, call, put, put at the early close, nothing, call turned
put, nothing."""

GOLDEN_FIRST_DAY = date(2021, 1, 4)
GOLDEN_DECISIONS = 6
"""Golden decisions: one before each of the last sessions. The first day is a Monday, and every weekday is a session."""

GOLDEN_SYMBOLS = ("GOLD", "OLDEN", "TAPE")
"""Synthetic symbols for strategies that serve any symbols: few, because each has a row in the manifest."""

GOLDEN_BARS = (0, 1, 7, 12)
"""Bars of the last golden session at which a share desk's policy is asked: first flat, then with other shares each
time."""

DAY_OPEN_NS = SESSION_S * SECOND_NS

TAPE = Path(__file__).with_name("golden_tape.csv")


def golden_bars(symbol: str = "SPY") -> tuple[Bar, ...]:
    """Return the tape's bars, oldest first."""
    lines = TAPE.read_text(encoding="ascii").splitlines()[1:]
    return tuple(Bar(symbol, int(start), *map(float, rest)) for start, *rest in (line.split(",") for line in lines))


def golden_view(session: Session, bar: int) -> View:
    """Return the desk's view at the close of the session's bar of this index: 40 bars flat, 40 long calls, 40 long
    puts, ...."""
    bars_since_entry = bar % 40
    side = (0, +1, -1)[bar // 40 % 3]
    now_ns = session.open_ns + (bar + 1) * MINUTE_NS
    if side == 0:
        return View(now_ns=now_ns, session=session)
    return View(
        now_ns, session, side, position_return=(bars_since_entry - 10) / 20, position_age_min=float(bars_since_entry)
    )


def golden_days(spec: DailySpec) -> tuple[tuple[Session, tuple[Bar, ...]], ...]:
    """Return sessions and bars: W with all symbols, then one for each golden decision, with one symbol missing.

    Where rows are symbols it is always the last one, as a strategy may leave a symbol with a hole alone for long.
    The hours are those of New York's winter all year.
    """
    days = (GOLDEN_FIRST_DAY + timedelta(days=n) for n in range(2 * spec.history_bars + 20))
    midnights = {  # 05:00 UTC
        (day - date(1970, 1, 1)).days * DAY_NS + 5 * HOUR_NS: day.isoformat() for day in days if day.weekday() < 5
    }
    starts = list(midnights)[: spec.history_bars + GOLDEN_DECISIONS]
    tape = groupby(synthetic_days(GOLDEN_SEED, spec.symbols, starts), key=attrgetter("start_ns"))
    sessions = []
    for number, (start, bars) in enumerate(tape):
        session = Session(midnights[start], start + 19 * HOUR_NS // 2, start + 16 * HOUR_NS)
        sessions_after = number - spec.history_bars  # sessions since all symbols had W bars
        place = -1 if spec.rows_are_symbols else sessions_after * 7 % len(spec.symbols)
        absent = spec.symbols[place] if sessions_after >= 0 else None
        sessions.append((session, tuple(bar for bar in bars if bar.symbol != absent)))
    return tuple(sessions)


def golden_portfolio(spec: DailySpec, prices: Mapping[str, float], decision: int) -> Portfolio:
    """Return the portfolio at a golden decision: cash only at the first, then other shares each time."""
    cents = [round(prices[symbol] * 100) for symbol in spec.symbols]
    shares = tuple(decision * (17 * place + 5) % 31 for place in range(len(spec.symbols)))
    cash = spec.capital_usd * 100 - 1_234_567 * decision
    equity = cash + sum(count * price for count, price in zip(shares, cents, strict=True))
    return Portfolio(cash / 100, equity / 100, shares, tuple(price / 100 for price in cents))


def golden_observations(strategy: AnyStrategy) -> tuple[Observation, ...]:
    """Return the strategy's observations on its golden tape: a model's golden inputs.

    Option desks of minutes: at `GOLDEN_POINTS` with `golden_view`. Daily desks: before the open of `GOLDEN_DECISIONS`
    sessions with `golden_portfolio`. Share desks that decide at each bar, and desks of longer bars or further
    timeframes: at `GOLDEN_BARS` of the last session of `golden_share_bars`. A strategy that serves any symbols gets
    `GOLDEN_SYMBOLS`.

    A recurrent policy answers the observations as one sequence from the zero state. The caller carries that state: the
    observations hold none. `ValueError` when the strategy is not warm at one of them, or when its state cannot be read
    back from a journal.
    """
    spec = strategy.spec
    if spec.rows_are_symbols and spec.symbols != GOLDEN_SYMBOLS:
        return golden_observations(strategy_named(spec.name, GOLDEN_SYMBOLS, spec.config))
    with reporting("golden tape"):
        return by_kind(strategy, option=_minute_observations, shares=_share_observations, days=_daily_observations)


HOLES = {
    ("session", "shares"): "after the first history_bars days one symbol is missing each day",
    ("bar", "shares"): "the last symbol has no bar at every third time, as a symbol that nobody traded has none",
    ("bar", "option"): "one of its sessions is a half day",
}
"""What makes a golden tape difficult, in words for errors, by the spec's kind of desk."""


def check_golden(strategy: AnyStrategy) -> None:
    """Raise ValueError where the strategy has no finite observation at each golden question: no model could be made.

    The text names where the strategy failed, and the intended gaps of the tape. A strategy that answers the same
    question with something else when it is asked again is refused too: nothing that it does could be replayed.
    """
    spec = strategy.spec
    golden_spec = msgspec.structs.replace(spec, symbols=GOLDEN_SYMBOLS) if spec.rows_are_symbols else spec
    asked = _AskedTwice(strategy_named(spec.name, GOLDEN_SYMBOLS, spec.config) if golden_spec != spec else strategy)
    try:
        observations = golden_observations(cast("AnyStrategy", asked))
        faults = [one.fault(golden_spec) for one in observations]
        faulty = next((number for number, fault in enumerate(faults) if fault), None)
        problem = "" if faulty is None else f"its observation {faulty + 1} of {len(observations)} has {faults[faulty]}"
    except Exception as error:  # noqa: BLE001  whatever the user's code raises
        frames = [one for one in extract_tb(error.__traceback__) if one.filename != __file__]
        where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        problem = f"{type(error).__name__}: {error}{where}"
    if asked.differs:
        raise ValueError(
            f"{spec.name} cannot be exported, so nothing is trained: {asked.differs} twice on the golden tape it comes "
            f"to something else: {IMPURE}. Let a result depend on the state, the bars and the view alone: a replay, "
            "and a start after a crash, ask again"
        )
    if problem:
        raise ValueError(
            f"{spec.name} cannot be exported, so nothing is trained: on the golden tape {problem}. "
            f"That tape has holes on purpose: {HOLES[spec.kind]}. Keep bars by symbol, and use what is there: "
            "kit.KeptBars with kit.KeepsBars (days) or kit.KeepsMinutes (bars)"
        )


class _AskedTwice:
    """A strategy each of whose observations, and each decision that could follow it, is asked for twice."""

    def __init__(self, strategy: AnyStrategy) -> None:
        self.differs = ""  # the first call that came to something else
        self._strategy: Any = strategy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._strategy, name)

    def observe(self, state: Any, bars: tuple[Bar, ...], view: View) -> Any:
        """Return the first of two equal results; note in `differs` where they are not."""
        returned, again = (self._strategy.observe(state, bars, view) for _ in range(2))
        if isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], Observation):
            self._compare("observe", _seen(returned), _seen(again))
            for answer in _answers(self.spec):
                question = returned[0], answer, view
                self._compare("decide", *(_outcome(self._strategy.decide, *question) for _ in range(2)))
        return returned

    def _compare(self, call: str, one: Any, other: Any) -> None:
        with suppress(
            TypeError, ValueError, OverflowError, RecursionError
        ):  # what no journal keeps is refused elsewhere
            if one is not other and _encode(one) != _encode(other):
                self.differs = self.differs or f"asked to {call}"


_encode = msgspec.json.Encoder(enc_hook=to_json).encode


def _seen(returned: Any) -> Any:
    state, observation = returned
    return state, *(getattr(observation, name, None) for name in Observation.__slots__)


def _outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a call returns, or what it raises."""
    try:
        return call(*arguments)
    except Exception as error:  # noqa: BLE001  whatever the user's code raises
        return str(error)


def _answers(spec: Spec) -> Iterator[Answer]:
    """Yield an answer that chooses each action in turn, in each row; of a continuous policy two."""
    heads = {head.name: (0.0,) * (spec.rows * prod(head.shape)) for head in spec.heads}
    hidden = bytes(4 * prod(spec.recurrent_shape)) if spec.recurrent_shape else b""
    size = len(spec.answers) if spec.rows_are_symbols else len(spec.actions)
    for place in range(2 if spec.continuous else len(spec.actions)):
        chosen = [
            place - 0.5 if spec.continuous else 10.0 * (number % len(spec.actions) == place) for number in range(size)
        ]
        yield Answer(tuple(chosen), hidden, heads)


def _daily_observations(strategy: DailyStrategy) -> tuple[Observation, ...]:
    spec = strategy.spec
    state = strategy.start()
    prices: dict[str, float] = {}
    observations: list[Observation] = []
    for number, (session, bars) in enumerate(golden_days(spec)):
        if number >= spec.history_bars:
            portfolio = golden_portfolio(spec, prices, decision=number - spec.history_bars)
            state, observation = strategy.observe(state, (), View(session.open_ns, session, portfolio=portfolio))
            if observation is None:
                raise ValueError(
                    f"{spec.name} has no observation after {number} golden sessions, expected one: let it be warm with "
                    f"history_bars ({spec.history_bars}) bars of each symbol"
                )
            observations.append(observation)
        state = strategy.remember(state, bars)
        prices.update((bar.symbol, bar.close) for bar in bars)
    _check_state(strategy, state)
    return tuple(observations)


def _minute_observations(strategy: Strategy) -> tuple[Observation, ...]:
    if strategy.spec.grid != MINUTES or strategy.spec.timeframes:
        return _bar_observations(strategy, _option_view)
    state = strategy.start()
    bars = iter(golden_bars(strategy.spec.symbols[0]))
    observations: list[Observation] = []
    for number, session in enumerate(GOLDEN_SESSIONS):
        for index in range((session.close_ns - session.open_ns) // MINUTE_NS):
            state, observation = strategy.observe(state, (next(bars),), golden_view(session, index))
            if (number, index) not in GOLDEN_POINTS:
                continue
            if observation is None:
                raise ValueError(
                    f"{strategy.spec.name} has no observation at bar {index} of {session.date} on the golden tape, "
                    "expected one: let history_bars fit into the first session, or lengthen the tape"
                )
            observations.append(observation)
    _check_state(strategy, state)
    return tuple(observations)


def golden_share_bars(spec: Spec) -> tuple[tuple[Session, tuple[tuple[Bar, ...], ...]], ...]:
    """Return the sessions of W bars of history, then one session to decide in, each with its bars grouped by time.

    The history is one session, or with further timeframes as many days as W bars need. The last symbol has no bar at
    every third time of the session asked about. Minutes are synthetic, joined to the spec's bars.
    """
    first, grid = GOLDEN_SESSIONS[0].open_ns, spec.grid
    length_ns, history_ns = grid.length_ns, spec.history_bars * grid.length_ns
    last = first + max(DAY_NS, 2 * history_ns)
    history: tuple[Session, ...] = (Session("golden history", first, first + history_ns),)
    if spec.timeframes:
        days = -(-history_ns // DAY_OPEN_NS)
        last = first + days * DAY_NS
        opens = range(first, last, DAY_NS)
        history = tuple(Session(f"golden history {day}", at, at + DAY_OPEN_NS) for day, at in enumerate(opens))
    sessions = (*history, Session("golden session", last, last + (GOLDEN_BARS[-1] + 1) * length_ns))
    by_minute: dict[int, list[Bar]] = {}
    for place, symbol in enumerate(spec.symbols):
        minutes = synthetic_sessions(GOLDEN_SEED + place, sessions, symbol=symbol, first_price=500.0 / (place + 1))
        for start, group in groupby(minutes, key=lambda bar: _start_ns(bar, sessions, grid)):
            number = (start - last) // length_ns
            if place < len(spec.symbols) - 1 or number < 0 or number % 3 != 1:
                by_minute.setdefault(start, []).append(joined(start, tuple(group)))
    times = sorted(by_minute.items())
    return tuple(
        (session, tuple([tuple(bars) for start, bars in times if session.open_ns <= start < session.close_ns]))
        for session in sessions
    )


def _start_ns(bar: Bar, sessions: Iterable[Session], grid: Grid) -> int:
    session = next(session for session in sessions if bar.start_ns < session.close_ns)
    return grid.at(bar.start_ns, session)[0]


def _share_observations(strategy: ShareStrategy) -> tuple[Observation, ...]:
    def view(number: int, now_ns: int, session: Session, prices: Mapping[str, float]) -> View:
        portfolio = _share_portfolio(strategy.spec, prices, number, now_ns)
        return View(now_ns, session, portfolio=portfolio)

    return _bar_observations(strategy, view)


def _option_view(number: int, now_ns: int, session: Session, _: Mapping[str, float]) -> View:
    """Return the view at a golden bar: flat, with calls, or with puts."""
    side = (0, +1, -1)[number % 5 % 3]
    if side == 0:
        return View(now_ns, session)
    return View(now_ns, session, side, position_return=(number - 10) / 20, position_age_min=float(number))


def _bar_observations(
    strategy: BarStrategy, view: Callable[[int, int, Session, Mapping[str, float]], View]
) -> tuple[Observation, ...]:
    spec, state = strategy.spec, strategy.start()
    prices = dict.fromkeys(spec.symbols, 0.0)
    sessions, observations = golden_share_bars(spec), []
    for session, times in sessions:
        for number, bars in enumerate(times):
            prices.update((bar.symbol, bar.close) for bar in bars)
            now_ns = spec.grid.at(bars[0].start_ns, session)[1]
            state, observation = strategy.observe(state, bars, view(number, now_ns, session, prices))
            if session is not sessions[-1][0] or number not in GOLDEN_BARS:
                continue
            if observation is None:
                raise ValueError(f"{spec.name} has no observation at golden bar {number}, expected one after W bars")
            observations.append(observation)
    _check_state(strategy, state)
    return tuple(observations)


def _check_state(strategy: BarStrategy | DailyStrategy, state: Any) -> None:
    """Raise ValueError for a state that cannot be read back from a journal."""
    try:
        read_again(state, strategy.state_type)
    except TypeError as error:
        raise ValueError(f"a state cannot be kept: {error}") from error


def _share_portfolio(spec: Spec, prices: Mapping[str, float], number: int, now_ns: int) -> Portfolio:
    """Return the portfolio at a golden bar: cash alone at the first, then each symbol held or not, in turn."""
    shares = tuple([number * (place + 1) % 5 * 10 for place in range(len(spec.symbols))])
    worth = sum(count * prices[symbol] for symbol, count in zip(spec.symbols, shares, strict=True))
    costs = tuple(
        [prices[symbol] * 0.995 if count else 0.0 for symbol, count in zip(spec.symbols, shares, strict=True)]
    )
    opened_ns = tuple([now_ns - number * MINUTE_NS if count else 0 for count in shares])
    return Portfolio(10_000.0, 10_000.0 + worth, shares, tuple(prices.values()), costs=costs, opened_ns=opened_ns)


def contract_digest(spec: Spec, declaration: Mapping[str, object]) -> str:
    """Return SHA-256 (hex) over the canonical JSON of the spec and of its declaration.

    Fields at their defaults (heads, rows, model configuration, anchor of bars, further timeframes, nights) are left
    out, and so are the symbols where each row of an observation is one.
    """
    fields = msgspec.to_builtins(spec)
    for name in ("heads", "config", "timeframes", "holds_overnight"):
        if not fields.get(name, True):
            del fields[name]
    if spec.bar_anchor == OPEN:
        del fields["bar_anchor"]
    del fields["symbols" if spec.rows_are_symbols else "rows_are_symbols"]
    numbers = msgspec.Raw(msgspec.json.encode(fields))  # its fields keep their order
    return sha256(msgspec.json.encode({"spec": numbers, "declared": declaration}, order="deterministic")).hexdigest()


def contract_hash(strategy: AnyStrategy) -> str:
    """Return the digest that a model's manifest must carry to be loaded for this strategy (hex SHA-256).

    `ValueError` when the strategy is not registered.
    """
    return contract_digest(strategy.spec, declaration(strategy.spec.name, strategy.spec.symbols))


def own_values(strategy: AnyStrategy) -> dict[str, Any]:
    """Return what an own strategy is made with: each attribute's plain value, as JSON has it; {} of a shipped one.

    A default that is written anew changes no contract, and where `decide` alone uses it no golden observation. The
    spec, which is of the contract, and what is no plain data are left out. Of a value with text, which may be a
    secret, and of a long one only a digest is returned: a manifest is shown and committed.
    """
    slots = [vars(kind).get("__slots__", ()) for kind in type(strategy).__mro__]
    names = [*vars(strategy)] if hasattr(strategy, "__dict__") else []
    names += [name for some in slots for name in ([some] if isinstance(some, str) else some)]
    values: dict[str, Any] = {}
    for name in () if strategy.spec.name in STRATEGIES else sorted({*names} - {"spec"}):
        with suppress(Exception):  # a slot without a value, an array, a function
            data = msgspec.json.encode(getattr(strategy, name), order="deterministic")
            hidden = len(data) > VALUE_LONGEST or b'"' in data
            digest = f"SHA-256 {sha256(data).hexdigest()[:DIGEST_DIGITS]}"
            values[name] = digest if hidden else msgspec.json.decode(data)
    return values
