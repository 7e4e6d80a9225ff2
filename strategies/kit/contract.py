"""The contract between a strategy and all that run it: live, replay and training.

A strategy sees bars and a `View`, emits observations, and turns the policy's raw answer into a `Target`: what to hold,
never how to order it. It does no I/O, reads no clock and draws no random number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, fsum, prod
from typing import Any, ClassVar, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from strategies.kit.quantity import MOST_DIGITS, Part
from strategies.kit.units import DAY_S, HOUR_NS, HOUR_S, MINUTE_S, SECOND_NS

Float32Array = npt.NDArray[np.float32]
"""The type of an observation: an array of numpy, float32."""


class Feature(NamedTuple):
    """One column of an observation: its name and its definition. The text is part of the contract hash."""

    name: str
    definition: str


class Bar(msgspec.Struct, frozen=True, gc=False):
    """One bar of one symbol. `start_ns` labels its start (integer nanoseconds UTC); prices in USD, volume in shares."""

    symbol: str
    start_ns: int
    open: float
    high: float
    low: float
    close: float
    volume: float


class Session(msgspec.Struct, frozen=True, gc=False):
    """One trading session: New York date (`YYYY-MM-DD`) and its regular hours in nanoseconds UTC, half days too."""

    date: str
    open_ns: int
    close_ns: int


OPEN, HOUR = ANCHORS = ("open", "hour")
"""Where the bars of a session begin: whole lengths after its open (9:30, 10:30, ...), or at the full hour (9:30, 10:00,
11:00, ...)."""
LONGEST_MIN = 60  # of a bar within the session
SESSION_S = 390 * MINUTE_S  # of a whole day


class Grid(NamedTuple):
    """Where bars of one length begin and end within a session; all times are nanoseconds UTC.

    From the open on only the last bar may be shorter than `length_ns`, by the hour the first one too. New York's full
    hours are those of UTC.
    """

    length_ns: int
    anchor: str = OPEN  # one of `ANCHORS`

    def at(self, time_ns: int, session: Session) -> tuple[int, int]:
        """Return start and end of the bar that holds this time of the session; it ends with the close at the latest."""
        if self.anchor == HOUR:
            begun_ns = time_ns - time_ns % self.length_ns
            return max(begun_ns, session.open_ns), min(begun_ns + self.length_ns, session.close_ns)
        start_ns = time_ns - (time_ns - session.open_ns) % self.length_ns
        return start_ns, min(start_ns + self.length_ns, session.close_ns)


MINUTES = Grid(MINUTE_S * SECOND_NS)


class Timeframe(msgspec.Struct, frozen=True):
    """Further, longer bars that a strategy sees beside its own, once they are closed: see `Timeframes`."""

    length: str  # minutes, hours or a day: "30min", "1h", "1d"
    keep: int  # closed bars of each symbol that the strategy sees, at most
    anchor: str = OPEN  # of those shorter than a day, one of `ANCHORS`

    @property
    def length_s(self) -> int:
        """Its seconds; of a day 86,400, though its bar ends with the session. 0 for no length."""
        for unit, seconds in (("min", MINUTE_S), ("h", HOUR_S), ("d", DAY_S)):
            count = self.length.removesuffix(unit)
            if count != self.length and count.isascii() and count.isdigit():
                return int(count) * seconds
        return 0

    @property
    def grid(self) -> Grid:
        """Where its bars begin and end: a day's is that of the session."""
        return Grid(self.length_s * SECOND_NS, OPEN if self.length_s == DAY_S else self.anchor)


class Head(msgspec.Struct, frozen=True):
    """One more output of a policy after its answer: journaled and shown; its meaning is part of the contract.

    `shape` leaves the first axis (the batch) out: `()` is one number for each row. A `wish` is an action that a part of
    the policy alone would take: it is shown with what the answer took from it.
    """

    name: str
    shape: tuple[int, ...]
    meaning: str
    wish: bool = False


class Spec(msgspec.Struct, frozen=True):
    """A strategy's fixed numbers. Part of the contract hash, so any change refuses older models.

    Class attributes describe its desk: when it decides (at each `bar`, or once a `session`), what it holds (one
    `option` position, or `shares`), and what follows from that. Other code never tests the class: it reads these
    attributes, looks `decides`, `holds` or `kind` up in a table, or calls `strategies.registry.by_kind`.
    """

    decides: ClassVar[str] = "bar"
    holds: ClassVar[str] = "option"
    chained: ClassVar[bool] = True  # it trades contracts of its first symbol's option chain
    shares_stopped: ClassVar[bool] = False  # `sizing.stop_loss` and `sizing.take_profit` apply to shares
    before_open_ns: ClassVar[int] = 0  # longest time before the open at which its session begins

    name: str
    revision: int
    symbols: tuple[str, ...]
    bar_interval_s: int
    history_bars: int  # W: bars before the session's open that warm the indicators
    window: int  # rows of an observation, all of the same session
    observation_shape: tuple[int, ...]
    dtype: str
    features: tuple[str, ...]
    actions: tuple[str, ...]
    temperature: float  # the live softmax divides the logits by it
    recurrent_shape: tuple[int, ...] | None = None  # hidden state carried between decisions
    heads: tuple[Head, ...] = ()  # the policy's outputs after its answer, in their order
    rows_are_symbols: bool = False
    """True: each symbol is a row of the batch, so one policy serves any symbols, and `symbols` may be configured.

    Then `observation_shape` is that of one row, an observation has one row for each symbol, and `features` name the
    last numbers of a row. A continuous policy has one action and answers with one number for each symbol, any other
    with one for each action of each symbol, symbol by symbol.
    """
    config: str = ""  # the canonical text of its model configuration, "" where it has none
    bar_anchor: str = OPEN  # one of `ANCHORS`
    timeframes: tuple[Timeframe, ...] = ()  # further, longer bars; only for strategies that decide at each bar

    def __post_init__(self) -> None:
        """Raise ValueError for bars that no session has."""
        check_bars(self)

    @property
    def overnight(self) -> bool:
        """Whether positions are kept overnight."""
        return False

    @property
    def compounds(self) -> bool:
        """Whether one account goes through all sessions of training and tests; else each has its own."""
        return self.overnight

    @property
    def grid(self) -> Grid:
        """Where its bars begin and end within a session."""
        return Grid(self.bar_interval_s * SECOND_NS, self.bar_anchor)

    @property
    def kind(self) -> tuple[str, str]:
        """The key of its desk in a table by kind: when it decides, and what it holds."""
        return self.decides, self.holds

    @property
    def bar_span_s(self) -> int:
        """Seconds from the start of a bar to its end."""
        return self.bar_interval_s

    @property
    def shown_by_symbol(self) -> bool:
        """Whether an observation is shown as a table of symbols; else as a list of features."""
        return self.rows_are_symbols

    @property
    def rows(self) -> int:
        """Number of batch rows of one observation."""
        return len(self.symbols) if self.rows_are_symbols else 1

    @property
    def asked_shape(self) -> tuple[int, ...]:
        """The shape of an observation with all its rows."""
        return (self.rows, *self.observation_shape) if self.rows_are_symbols else self.observation_shape

    @property
    def answers(self) -> tuple[str, ...]:
        """The subject of each number of an answer: an action, a symbol, or an action of a symbol."""
        if not self.rows_are_symbols:
            return self.actions
        if self.continuous:
            return self.symbols
        return tuple([f"{action} {symbol}" for symbol in self.symbols for action in self.actions])

    @property
    def by_row(self) -> bool:
        """Whether the policy chooses one of `actions` for each symbol."""
        return self.rows_are_symbols and not self.continuous

    @property
    def continuous(self) -> bool:
        """Whether the policy answers with one number in [-1, 1] for each action; else with logits."""
        return False


class ShareSpec(Spec, frozen=True):
    """A strategy that decides at each bar and holds shares of `symbols`: flat before the close, or overnight."""

    holds: ClassVar[str] = "shares"
    chained: ClassVar[bool] = False
    shares_stopped: ClassVar[bool] = True

    capital_usd: int = 100_000  # starting cash of dry run and training
    holds_overnight: bool = False  # else the desk leaves all before the close

    @property
    def overnight(self) -> bool:
        """As `holds_overnight` says."""
        return self.holds_overnight


class DailySpec(Spec, frozen=True):
    """A strategy that decides once a session on daily bars and holds whole shares of `symbols`, by baskets.

    `history_bars` is W: an observation depends on the newest W bars of a symbol only. A `continuous` policy answers
    with one action in [-1, 1] for each of `actions`, any other with one logit for each.
    """

    decides: ClassVar[str] = "session"
    holds: ClassVar[str] = "shares"
    chained: ClassVar[bool] = False
    before_open_ns: ClassVar[int] = 4 * HOUR_NS  # the most that `basket.before_open_min` may be

    continuous: bool = False
    capital_usd: int = 100_000  # starting cash of dry run and training

    def __post_init__(self) -> None:
        """Raise ValueError for other bars than those of days."""
        check_days(self)

    @property
    def overnight(self) -> bool:
        """Always."""
        return True

    @property
    def bar_span_s(self) -> int:
        """A day's bar starts at midnight in New York and ends at 16:00."""
        return 16 * 3600

    @property
    def shown_by_symbol(self) -> bool:
        """Always: its features are of one symbol each, or of the desk."""
        return True


def check_bars(spec: Spec) -> None:
    """Raise ValueError where the length or anchor of bars, or a further timeframe, is not possible."""
    name, length_s, minutes = spec.name, spec.bar_interval_s, spec.bar_interval_s // MINUTE_S
    if length_s % MINUTE_S or not 1 <= minutes <= LONGEST_MIN:
        raise ValueError(
            f"{name}: bar_interval_s is {length_s}: expected whole minutes from {MINUTE_S} to {LONGEST_MIN * MINUTE_S} "
            f"s, such as 900 for 15 minutes; a strategy of daily bars has a DailySpec"
        )
    if spec.bar_anchor not in ANCHORS or (spec.bar_anchor == HOUR and HOUR_S % length_s):
        raise ValueError(
            f"{name}: bar_anchor is {spec.bar_anchor!r} with bars of {minutes} minutes: expected 'open', or 'hour' "
            "with minutes that divide an hour: 1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30 or 60"
        )
    for frame in spec.timeframes:
        _check_timeframe(spec, frame)
    if len({frame.length for frame in spec.timeframes}) < len(spec.timeframes):
        raise ValueError(
            f"{name}: timeframes name a length twice: {[f.length for f in spec.timeframes]}: leave one out"
        )


def check_days(spec: Spec) -> None:
    """Raise ValueError for other bars than those of days."""
    if spec.bar_interval_s != DAY_S or spec.bar_anchor != OPEN or spec.timeframes:
        raise ValueError(
            f"{spec.name}: bar_interval_s is {spec.bar_interval_s}, bar_anchor {spec.bar_anchor!r}, timeframes "
            f"{spec.timeframes}: a strategy that decides once a session has bars of {DAY_S} s alone: leave the others "
            "out"
        )


def _check_timeframe(spec: Spec, frame: Timeframe) -> None:
    """Raise ValueError unless the timeframe is made of whole bars of the strategy, and fits into its history."""
    where, length_s, own_s = f"{spec.name}: timeframe {frame.length!r}", frame.length_s, spec.bar_interval_s
    if not (own_s < length_s <= HOUR_S or length_s == DAY_S):
        raise ValueError(
            f"{where}: expected minutes or an hour, longer than its own bars of {own_s // MINUTE_S} minutes and up to "
            "an hour, or a day: '30min', '1h', '1d'"
        )
    if frame.anchor not in ANCHORS or (frame.anchor == HOUR and HOUR_S % length_s and length_s < DAY_S):
        raise ValueError(
            f"{where}: anchor is {frame.anchor!r}: expected 'open', or 'hour' with minutes that divide an hour"
        )
    own_grid = Grid(own_s, spec.bar_anchor)
    other = frame.anchor if length_s < DAY_S else spec.bar_anchor
    offset_s = 0 if own_grid.anchor == other else HOUR_S // 2  # the open is at half past an hour
    if length_s < DAY_S and (length_s % own_s or offset_s % own_s):
        raise ValueError(
            f"{where} from the {frame.anchor}: bars of {own_s // MINUTE_S} minutes from the {spec.bar_anchor} do not "
            "join to it: choose lengths that divide it, or the same anchor"
        )
    a_bar = -(-SESSION_S // own_s) if length_s == DAY_S else length_s // own_s
    if frame.keep < 1 or frame.keep * a_bar > spec.history_bars:
        raise ValueError(
            f"{where}: keep is {frame.keep}, history_bars {spec.history_bars}: expected at least 1, and a history that "
            f"has them: {max(frame.keep, 1)} need history_bars = {max(frame.keep, 1) * a_bar} or more"
        )


class Portfolio(msgspec.Struct, frozen=True, gc=False):
    """The desk's money and shares at a decision; tuples in the spec's order of symbols.

    `shares` are ints where whole. Goals are multiples of 1 / `per_share`: 1 on a desk of whole shares. One unit of a
    continuous action is `unit_usd` worth of shares, or `shares_per_unit` shares where that is None (0 for a canary
    whose part of the size is below a whole share). A weight that would change by less than `band` stays. The largest
    target weight is `weight_max`.
    """

    cash: float  # USD
    equity: float  # USD, cash and shares at `prices`
    shares: tuple[Any, ...]  # int or float, each
    prices: tuple[float, ...]  # USD a share, the last known; 0.0 where none is
    shares_per_unit: int = 100
    notional_per_unit: float = 0.0  # USD
    band: float = 0.0
    weight_max: float = 1.0
    costs: tuple[float, ...] = ()  # USD, average price paid for a share of what is held; 0.0 where nothing is
    opened_ns: tuple[int, ...] = ()  # when what is held was first filled; 0 where nothing is
    equity_per_unit: float = 0.0  # part of the equity; used where `notional_per_unit` is 0
    per_share: int = 1  # the smallest order is 1 / `per_share` of a share

    @property
    def unit_usd(self) -> float | None:
        """USD that one unit of a continuous action is worth; None where a unit is a number of shares."""
        if self.notional_per_unit:
            return self.notional_per_unit
        return self.equity_per_unit * max(self.equity, 0.0) if self.equity_per_unit else None


class View(msgspec.Struct, frozen=True, gc=False):
    """The strategy's view of the desk at a bar's close, or at a daily decision."""

    now_ns: int
    session: Session
    side: int = 0  # +1 holds calls, -1 holds puts, 0 flat
    position_return: float = 0.0  # unrealised, marked at the last known mid: mid / average entry price - 1
    position_age_min: float = 0.0  # minutes since the first fill of the open position
    portfolio: Portfolio | None = None  # of strategies that hold shares alone


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The policy's raw answer to one observation: finite logits, one for each action of the spec.

    For a continuous policy (`DailySpec.continuous`) they are the actions themselves, each within [-1, 1]. `heads` maps
    the name of each head to its numbers, row by row.
    """

    logits: tuple[float, ...]
    hidden: bytes = b""
    heads: dict[str, tuple[float, ...]] = {}
    drawn: tuple[int, ...] = ()  # the action of each symbol where the desk drew it at random; (): the strategy chooses


class Choice(msgspec.Struct, frozen=True, gc=False):
    """The result of `choose`: all probabilities, the most probable action's index, its probability as confidence."""

    probabilities: tuple[float, ...]
    action: int
    confidence: float

    def __post_init__(self) -> None:
        """Convert numpy numbers to plain ones. Raise ValueError for anything else."""
        if type(self.action) is not int:
            _made_plain(self, "action")
        if type(self.confidence) is not float:
            _made_plain(self, "confidence", fraction=True)
        if type(self.probabilities) is not tuple or not set(map(type, self.probabilities)) <= {float, int}:
            msgspec.structs.force_setattr(self, "probabilities", tuple(map(float, self.probabilities)))


def _made_plain(struct: msgspec.Struct, field: str, *, fraction: bool = False) -> None:
    """Store the field as an int if it is whole, as a float if a `fraction` is allowed; else raise ValueError."""
    value = getattr(struct, field)
    expected = f"{type(struct).__name__}.{field} is {value!r}: a {'' if fraction else 'whole '}number is expected"
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(expected) from None
    if number != value and not (fraction and isinstance(value, (float, np.floating))):
        raise ValueError(expected)
    msgspec.structs.force_setattr(struct, field, number if number == value else float(value))


class Target(msgspec.Struct, frozen=True, gc=False):
    """The position to hold. `side` +1 calls, -1 puts, 0 flat.

    `percent` of the full size (the sizing rule's, which no percent exceeds) when flat now, of the present holding when
    holding now: so `Target(side=+1, percent=100)` opens calls when flat and keeps them when already held; `percent=50`
    keeps half.
    `keep` is true when nothing has to change. Raises ValueError for another `side` and for a fraction of a percent.
    """

    side: int
    percent: int
    keep: bool = False

    def __post_init__(self) -> None:
        if not type(self.side) is type(self.percent) is int:
            _made_plain(self, "side")
            _made_plain(self, "percent")
        if self.side not in (-1, 0, 1):
            raise ValueError(f"Target.side is {self.side}: +1 for calls, -1 for puts or 0 for flat is expected")


class Decision(msgspec.Struct, frozen=True, gc=False):
    """A strategy's decision: the chosen action, the action after resolution, and the target."""

    choice: Choice
    resolved: int  # index of the action after resolution against the position held
    target: Target


_GOALS = 10**MOST_DIGITS  # shares


class Leg(msgspec.Struct, frozen=True, gc=False):
    """Hold `goal` shares of `symbol`: an int where whole. Raises ValueError where `goal` is no finite number.

    The goal is rounded towards 0: to a whole share, or to the `order_step` of a desk that trades fractions.
    """

    symbol: str
    goal: Any  # int or float; exact where the desk has counted it

    def __post_init__(self) -> None:
        if type(self.goal) is not int and type(self.goal) is not Part:
            _made_plain(self, "goal", fraction=True)
        if not -_GOALS < self.goal < _GOALS:
            raise ValueError(f"Leg.goal of {self.symbol} has over {MOST_DIGITS} digits: a number of shares is expected")


class Basket(msgspec.Struct, frozen=True, gc=False):
    """A daily strategy's goals: one leg for each symbol to change, none when all stays.

    Sells come before buys. Where the cash does not pay for all buys, each gets the same part of what it wants.
    """

    legs: tuple[Leg, ...] = ()


class Rebalance(msgspec.Struct, frozen=True, gc=False):
    """A daily strategy's decision. `choice` None for a continuous policy; `name` sums it up in one word.

    `notes` say why symbols are left alone; they are shown with the heads. `whole` true: the goals are a complete
    portfolio, and the risk overlay keeps the proportions of its weights. False: the goals are changes, and symbols
    without a leg stay as they are.
    """

    choice: Choice | None
    name: str  # an action's name, or `rebalance` and `hold` of a continuous policy
    basket: Basket
    notes: dict[str, str] = {}
    actions: tuple[int, ...] = ()  # the action of each symbol after resolution, where the policy chooses by row
    whole: bool = False


class RowOptions(msgspec.Struct, frozen=True, gc=False):
    """What each action of one symbol would do now.

    `legs` has an entry for each action, None where it changes nothing. `greedy` is the index of the action with the
    largest number, after resolution: an action that changes nothing is the first one, which holds.
    """

    symbol: str
    greedy: int
    legs: tuple[Leg | None, ...]


class Observation:
    """One observation for the policy: `data` holds `shape` values of float32, little endian, in C order.

    `hidden` is the recurrent state to feed with it, empty for policies without one.
    """

    __slots__ = ("data", "hidden", "shape")

    def __init__(self, data: bytes, shape: tuple[int, ...], hidden: bytes = b"") -> None:
        self.data = data
        self.shape = shape
        self.hidden = hidden

    def array(self) -> Float32Array:
        """Return the observation as a read-only float32 array of `shape`; no copy."""
        return np.frombuffer(self.data, dtype="<f4").reshape(self.shape)

    def fault(self, spec: Spec) -> str:
        """Return why this observation does not fit the spec, and what is expected; "" where it fits."""
        for name, value in (("data", self.data), ("hidden", self.hidden)):
            if type(value) is not bytes:
                return f"{type(value).__name__} as Observation.{name}: give bytes, .tobytes()"
        shape, size = spec.asked_shape, 4 * prod(spec.asked_shape)
        if self.shape != shape or len(self.data) != size:
            size_text = f"{len(self.data)} bytes of shape {self.shape}"
            return f"{size_text}, where {size} of {shape} are expected: give spec.observation_shape, as .astype('<f4')"
        if self.hidden and spec.recurrent_shape is None:
            return f"{len(self.hidden)} bytes as Observation.hidden, where spec.recurrent_shape is None: give b''"
        values = np.frombuffer(self.data, "<f4")
        faults = values.size - np.count_nonzero(np.isfinite(values))
        return f"{faults} values that are not finite" if faults else ""

    def newest(self, spec: Spec) -> bytes:
        """Return the newest row of features: the observation's last numbers, or each row's where rows are symbols."""
        size = 4 * len(spec.features)
        if not spec.rows_are_symbols:
            return self.data[-size:]
        width = len(self.data) // spec.rows
        return b"".join([self.data[end - size : end] for end in range(width, len(self.data) + 1, width)])


class BarStrategy(Protocol):
    """A strategy that decides at each bar: pure functions over a state that the caller keeps.

    `state` is a frozen msgspec.Struct of `state_type`. A strategy object may hold caches (indicator handles), but every
    result depends on the arguments only.
    """

    @property
    def spec(self) -> Spec: ...

    @property
    def state_type(self) -> type[Any]: ...

    def start(self) -> Any:
        """Return the state before any bar."""

    def observe(self, state: Any, bars: tuple[Bar, ...], view: View) -> tuple[Any, Observation | None]:
        """Append the bars that closed together at `view.now_ns` (one for each symbol that traded).

        Returns the new state and the observation, or None while the strategy is not warm.
        """

    def correct(self, state: Any, bar: Bar) -> Any:
        """Replace an earlier bar by its late correction. Later rows use it; rows already emitted do not change."""


class Strategy(BarStrategy, Protocol):
    """A strategy that decides at each bar and holds one option position."""

    def decide(self, state: Any, answer: Answer, view: View) -> tuple[Any, Decision]:
        """Turn the policy's answer into a target."""


class ShareStrategy(BarStrategy, Protocol):
    """A strategy that decides at each bar and holds whole shares: `Spec.holds` of its spec.

    One that keeps bars over the night is a `SplitStrategy` too; another halts when its shares split.
    """

    def decide(self, state: Any, answer: Answer, view: View) -> tuple[Any, Rebalance]:
        """Turn the policy's answer into a basket; a recurrent policy's `answer.hidden` goes into the state here."""


class SplitStrategy(ShareStrategy, Protocol):
    """A share strategy that keeps bars of earlier sessions, which a split must adjust."""

    def split(self, state: Any, symbol: str, ratio: float, from_ns: int) -> Any:
        """Return the state after a split with `ratio` new shares for each old one: bars before `from_ns` are adjusted.

        Their prices are divided by `ratio`, their volume is multiplied (`strategies.kit.of_new_shares`).
        """


class RowStrategy(ShareStrategy, Protocol):
    """A share strategy whose policy chooses an action for each symbol: `Spec.by_row` of its spec."""

    def options(self, state: Any, answer: Answer, view: View) -> tuple[RowOptions, ...]:
        """Return what each action would do, symbol by symbol. `decide` takes `answer.drawn`, or the greedy actions."""


class DailyStrategy(Protocol):
    """A strategy whose spec is a `DailySpec`: pure functions over a state, as in `Strategy`.

    Bars are adjusted for splits and dividends as of the newest one. A bar's `start_ns` is midnight in New York.
    """

    @property
    def spec(self) -> DailySpec: ...

    @property
    def state_type(self) -> type[Any]: ...

    def start(self) -> Any:
        """Return the state before any bar."""

    def remember(self, state: Any, bars: tuple[Bar, ...]) -> Any:
        """Keep final bars of one or more sessions, in order of time; one of a known start replaces it."""

    def readjust(self, state: Any, symbol: str, bars: tuple[Bar, ...]) -> Any:
        """Replace all bars of `symbol` by newly adjusted ones, oldest first."""

    def known(self, state: Any) -> Mapping[str, tuple[Bar, ...]]:
        """Return the bars in the state, by symbol, oldest first, at most W of each; symbols without any are absent."""

    def observe(self, state: Any, bars: tuple[Bar, ...], view: View) -> tuple[Any, Observation | None]:
        """Return the observation of a decision at `view.now_ns`, None while not warm. Called once for each decision.

        `bars` are the running session's so far, or none; they are not kept. The strategy's memory of its own decisions
        (the equity of each) goes into the state here.
        """

    def decide(self, state: Any, answer: Answer, view: View) -> tuple[Any, Rebalance]:
        """Turn the policy's answer into a basket; a recurrent policy's `answer.hidden` goes into the state here."""


AnyStrategy = Strategy | DailyStrategy | ShareStrategy


SAMPLING = "probabilities = softmax(logits / temperature); action = argmax, ties to the lowest index"
"""How logits become an action, in words; part of the contract hash."""


def softmax(logits: Sequence[float], temperature: float) -> tuple[float, ...]:
    """Return exp(x / T) / sum exp(x / T) for each logit x, shifted by the largest so that nothing overflows.

    `ValueError` when there is no logit or the temperature is not positive.
    """
    if not logits:
        raise ValueError("logits are empty, expected one for each action of the spec: check the model's output shape")
    if not temperature > 0.0:
        raise ValueError(f"temperature is {temperature}, expected a number above 0: correct it in the spec")
    top = max(logits)
    weights = [exp((x - top) / temperature) for x in logits]
    total = fsum(weights)
    return tuple([w / total for w in weights])


def choose(logits: Sequence[float], temperature: float) -> Choice:
    """Return the most probable action, its probability as confidence, and all probabilities. Errors as `softmax`."""
    probabilities = softmax(logits, temperature)
    action = logits.index(max(logits))  # the first of equals
    return Choice(probabilities=probabilities, action=action, confidence=probabilities[action])
