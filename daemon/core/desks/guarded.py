"""The strategy as its desk calls it: the one place of every call, where results are checked.

A strategy is switched off until a person resumes (`RiskState.strategy_off`) after it raised twice on one event, or did
not return in time. Then it is not called; only the bars that it keeps are still read, since they show a split of what
is held. An error in a frame of `GuardedStrategy` is the strategy's, not the core's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import ROUND_HALF_EVEN, Context, DivisionByZero, InvalidOperation, Overflow, getcontext, setcontext
from math import isfinite, prod
from traceback import walk_tb
from types import MappingProxyType, UnionType
from typing import Any, TypeVar

import msgspec
import numpy as np

from daemon.core.draft import Draft
from daemon.core.records import HeadRow
from strategies.kit.contract import (
    Answer,
    Bar,
    Basket,
    Choice,
    Decision,
    Leg,
    Observation,
    Rebalance,
    RowOptions,
    Spec,
    Target,
    View,
)
from strategies.kit.entry import told_of_calls
from strategies.kit.plain import STATE_MOST, read_again, size_of
from strategies.registry import STRATEGIES

DecisionT = TypeVar("DecisionT", Decision, Rebalance)
WHOLE = (int, np.integer)
TEXT_MOST = 2000  # letters of an error's text
_DECIMALS = Context(prec=28, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, DivisionByZero, Overflow])


class GuardedStrategy:
    """One strategy of any kind. Each call takes the state out of the draft and puts the new one back.

    Raises what the strategy raises, and ValueError or TypeError for results that cannot be used: no state, another type
    than in its contract, a number that is NaN or infinite, what the journal cannot store.
    """

    __slots__ = ("_last_bars", "_strategy")

    def __init__(self, strategy: Any) -> None:
        self._strategy = strategy
        self._last_bars: tuple[Any, Mapping[str, tuple[Bar, ...]]] | None = None  # state and its bars, cached

    def observe(self, draft: Draft, bars: tuple[Bar, ...], view: View) -> Observation | None:
        """Pass bars and return the observation; None while not warm, or off."""
        if draft.risk.strategy_off:
            return None
        observation: Observation | None
        state, observation = _call(self._strategy.observe, draft.strategy, bars, view)
        if observation is not None:
            _check(observation, Observation, "observe")
            if fault := observation.fault(draft.spec):
                raise ValueError(f"observe returned {fault}")
        _keep(self._strategy, draft, state, "observe")
        return observation

    def decide(
        self, draft: Draft, answer: Answer, view: View, kind: type[DecisionT], *, shown: bool = False
    ) -> DecisionT:
        """Return the decision on the policy's answer, of the type that the strategy's contract has.

        `shown`: a preview for another policy's answer; the state stays.
        """
        decision: DecisionT
        state, decision = _call(self._strategy.decide, draft.strategy, answer, view)
        _check(decision, kind, "decide")
        _check_decision(decision, len(draft.spec.actions))
        if not shown:
            _keep(self._strategy, draft, state, "decide")
        return decision

    def options(self, draft: Draft, answer: Answer, view: View) -> tuple[RowOptions, ...]:
        """Return what each action would do, row by row, for a policy that chooses by row."""
        options: tuple[RowOptions, ...] = _call(self._strategy.options, draft.strategy, answer, view)
        _check_options(options, draft.spec)
        return options

    def correct(self, draft: Draft, bar: Bar) -> None:
        """Replace a bar that was observed; do nothing while the strategy is off."""
        if not draft.risk.strategy_off:
            _keep(self._strategy, draft, _call(self._strategy.correct, draft.strategy, bar), "correct")

    def split(self, draft: Draft, symbol: str, ratio: float, from_ns: int) -> bool:
        """Let a strategy by the bar adjust the bars that it keeps for a split; False where it has no rule for one."""
        if not hasattr(self._strategy, "split"):
            return False
        _keep(self._strategy, draft, _call(self._strategy.split, draft.strategy, symbol, ratio, from_ns), "split")
        return True

    def remember(self, draft: Draft, bars: tuple[Bar, ...]) -> None:
        """Keep final bars, oldest first; do nothing while off: the next session's history brings them."""
        if not draft.risk.strategy_off:
            _keep(self._strategy, draft, _call(self._strategy.remember, draft.strategy, bars), "remember")

    def readjust(self, draft: Draft, symbol: str, bars: tuple[Bar, ...]) -> None:
        """Replace all bars of a symbol; do nothing while off, as in `remember`."""
        if not draft.risk.strategy_off:
            _keep(self._strategy, draft, _call(self._strategy.readjust, draft.strategy, symbol, bars), "readjust")

    def known(self, draft: Draft) -> Mapping[str, tuple[Bar, ...]]:
        """Return the bars that the strategy keeps, by symbol, oldest first; none where it is off and raises.

        Those of the newest state are cached: reading thousands of bars takes milliseconds.
        """
        if self._last_bars is None or self._last_bars[0] is not draft.strategy:
            try:
                checked_bars = {} if self._last_bars is None else self._last_bars[1]
                self._last_bars = draft.strategy, kept_bars(self._strategy, draft.strategy, checked_bars)
            except Exception:
                if not draft.risk.strategy_off:
                    raise
                return {}
        return self._last_bars[1]


def _call(method: Callable[..., Any], *arguments: Any) -> Any:
    """Call a method of the strategy. Changes to its decimal context end with the call, and never reach the core's.

    What would end the process (`SystemExit`, a cancellation) becomes a RuntimeError, an error like any other.
    """
    money_context = getcontext()
    setcontext(_DECIMALS.copy())
    for note in told_of_calls:
        note(getattr(method, "__name__", "a call"))
    try:
        return method(*arguments)
    except (Exception, KeyboardInterrupt):  # the latter by a person
        raise
    except BaseException as error:
        text = f"{type(error).__name__}({error}), which would end the program"
        raise RuntimeError(text).with_traceback(error.__traceback__) from error
    finally:
        for note in told_of_calls:
            note("")
        setcontext(money_context)


def kept_bars(
    strategy: Any, state: Any, checked_bars: Mapping[str, tuple[Bar, ...]] = MappingProxyType({})
) -> Mapping[str, tuple[Bar, ...]]:
    """Return the bars that a daily strategy keeps. Raises what it raises, and TypeError for no mapping to bars.

    A tuple that is in `checked_bars` too is not checked again.
    """
    bars: Any = _call(strategy.known, state)
    if not isinstance(bars, Mapping):
        raise TypeError(f"known returned {type(bars).__name__}: a mapping of symbols to bars is expected")
    for symbol, history in bars.items():
        if history is checked_bars.get(symbol) and isinstance(history, tuple):
            continue
        if not (isinstance(history, tuple | list) and all(isinstance(bar, Bar) for bar in history)):
            raise TypeError(f"known returned {str(history)[:100]} for {symbol}: a tuple of bars is expected")
    return dict(bars)


def blame(error: Exception) -> tuple[str, bool]:
    """Return an error in words, with the line of the strategy's file that raised it; and whether it is the strategy's.

    It is where the strategy raised, or returned what could not be used.
    """
    guard = file = place = ""
    text = _text_of(error)
    asked = False
    for frame, line in walk_tb(error.__traceback__):
        frame_file, owner = frame.f_code.co_filename, frame.f_locals.get("self")
        if guard and not file and frame_file != guard:
            file = frame_file
        if isinstance(owner, GuardedStrategy):
            call = frame.f_code.co_name
            guard, place = frame_file, "" if text.startswith(call) else f" (what {call} returned)"
        elif frame.f_code.co_name in _ASKING and isinstance(getattr(owner, "_strategy", None), GuardedStrategy):
            asked = True
        if file and frame_file == file:
            place = f" ({file}, line {line})"
    return f"{type(error).__name__}: {text}{place}", asked or bool(guard)


_ASKING = frozenset(("_observe", "act", "on_rebalance_due"))  # methods of a desk that take the strategy's answer


def _text_of(error: Exception) -> str:
    """Return what an error says, as the journal can keep it: any code can raise, so its text may be of any kind."""
    try:
        text = str(error)
    except Exception as second:  # noqa: BLE001 (any code can raise there)
        return f"(its text cannot be read: {type(second).__name__})"
    return (text if len(text) <= TEXT_MOST else f"{text[: TEXT_MOST - 1]}…").encode(errors="backslashreplace").decode()


def strategy_failed(what: str) -> str:
    """Return the error of a strategy as a command reports it; `what` is its text as `blame` returns it."""
    return f"the strategy failed: {what}: correct it there"


def _keep(strategy: Any, draft: Draft, state: Any, call: str) -> None:
    """Store the new state as a start would read it back, so that a restart changes nothing for the strategy."""
    if state is None and draft.strategy is not None:
        raise TypeError(f"{call} returned None where its new state is expected")
    if draft.spec.name not in STRATEGIES:  # tests look at a shipped one's states, and a look at each bar costs time
        try:
            state = read_again(state, strategy.state_type)
        except TypeError as error:
            raise TypeError(f"{call} returned a state that cannot be kept: {error}") from error
        if (size := size_of(state)) > STATE_MOST:
            raise ValueError(
                f"{call} returned a state of {size / 2**20:.1f} MiB, expected {STATE_MOST >> 20} at most: keep the "
                "newest rows alone, as kit.KeptBars does"
            )
    draft.strategy = state


def _check_decision(decision: Decision | Rebalance, actions: int) -> None:
    """Raise TypeError or ValueError for an invalid choice, action, target or basket."""
    choice: Choice | None = decision.choice
    if choice is not None or isinstance(decision, Decision):
        _check(choice, Choice, "decide")
    chosen: tuple[Any, ...] = () if choice is None else (choice.action,)
    if isinstance(decision, Rebalance):
        _check_rebalance(decision)
        chosen = chosen or decision.actions
    else:
        _check(decision.target, Target, "decide")
        chosen += (decision.resolved,)
    if choice is not None and not isfinite(choice.confidence + sum(choice.probabilities)):
        raise ValueError(f"decide returned a probability or confidence that is not finite: {choice}")
    for action in chosen:
        if not (isinstance(action, WHOLE) and 0 <= action < actions):
            raise ValueError(f"decide returned action {action!r}: the index of one of {actions} actions is expected")


def _check_rebalance(rebalance: Rebalance) -> None:
    """Raise TypeError or ValueError for invalid legs, and for names and notes that the journal cannot store."""
    _check(rebalance.basket, Basket, "decide")
    _check(rebalance.basket.legs, tuple | list, "decide")
    for leg in rebalance.basket.legs:
        _check(leg, Leg, "decide")
    notes = rebalance.notes
    for text in (rebalance.name, *notes, *notes.values(), *[leg.symbol for leg in rebalance.basket.legs]):
        if type(text) is not str:
            kind = type(text).__name__
            raise TypeError(f"decide returned a {kind} as a name, note or symbol of its Rebalance: str is expected")
        text.encode()


def _check_options(options: Any, spec: Spec) -> None:
    """Raise TypeError or ValueError unless there are options for each symbol, with a place for each action."""
    actions = len(spec.actions)
    _check(options, tuple, "options")
    for option in options:
        _check(option, RowOptions, "options")
        for leg in option.legs:
            _check(leg, Leg | None, "options")
        if len(option.legs) != actions or not (isinstance(option.greedy, WHOLE) and 0 <= option.greedy < actions):
            raise ValueError(f"options returned {option}: a leg or None for each of {actions} actions is expected")
    symbols = tuple([option.symbol for option in options])
    if symbols != spec.symbols:
        raise ValueError(f"options returned those of {symbols}: those of {spec.symbols} are expected")


def _check(value: Any, kind: type[Any] | UnionType, call: str) -> None:
    if not isinstance(value, kind):
        name = kind.__name__ if isinstance(kind, type) else kind
        raise TypeError(f"{call} returned {type(value).__name__}: {name} is expected")


_encode = msgspec.json.encode


def head_rows(draft: Draft, decision: int, answer: Answer, rebalance: Rebalance | None = None) -> Iterator[HeadRow]:
    """Yield the rows of an answer; none without heads and rows by symbol. `rebalance`: of a desk of shares."""
    if not answer.heads and not draft.spec.by_row:
        return
    spec, now_ns = draft.spec, draft.now_ns
    portfolio = draft.desk.holds.view(draft, now_ns).portfolio
    if not spec.rows_are_symbols or portfolio is None or rebalance is None:
        numbers = {head.name: _numbers(answer.heads[head.name], head.shape, 0) for head in spec.heads}
        yield HeadRow(decision, "", now_ns, _encode(answer.logits).decode(), _encode(numbers).decode(), None, None, "")
        return
    goals = {leg.symbol: leg.goal for leg in rebalance.basket.legs}
    for place, symbol in enumerate(spec.symbols):
        numbers = {head.name: _numbers(answer.heads[head.name], head.shape, place) for head in spec.heads}
        quantity, price = portfolio.shares[place], portfolio.prices[place]
        yield HeadRow(
            decision=decision,
            symbol=symbol,
            time_ns=now_ns,
            answer=_encode(_of_row(answer.logits, spec, place)).decode(),
            heads=_encode(numbers).decode(),
            weight_before=_weight(quantity, price, portfolio.equity),
            weight_after=_weight(float(goals.get(symbol, quantity)), price, portfolio.equity),
            note=rebalance.notes.get(symbol, ""),
        )


def _of_row(logits: tuple[float, ...], spec: Spec, row: int) -> float | tuple[float, ...]:
    """Return a symbol's number of an answer, or its numbers by action."""
    return _numbers(logits, () if spec.continuous else (len(spec.actions),), row)


def _numbers(values: tuple[float, ...], shape: tuple[int, ...], row: int) -> float | tuple[float, ...]:
    """Return one row of a head's values: a number, or its numbers in C order."""
    size = prod(shape)
    return values[row * size : (row + 1) * size] if shape else values[row]


def _weight(shares: float, price: float, equity: float) -> float | None:
    """Return the value of the shares as a part of the equity; None where that is not known."""
    if not shares:
        return 0.0
    return shares * price / equity if price > 0.0 and equity > 0.0 else None
