"""Derive experiences from a journal's steps. Pure: the same rows give the same experiences, live or replayed.

A decision is complete at the next question of its session, or at the session's end. Rows must be consecutive; after a
gap call `begin`: the open decision is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec

from daemon.core.effects import AskPolicy
from daemon.core.records import ChoiceRow, DecisionRow, MoveRow
from daemon.core.state import ZERO, Book, State
from daemon.core.step import Step
from daemon.experience.experience import ActionChoice, Experience, Prices, SymbolTransition
from strategies.kit.contract import Bar, Observation, Spec
from strategies.kit.quantity import Quantity
from strategies.kit.units import SECOND_NS

UNANSWERED = frozenset(("failed", "expired"))  # outcomes of a question without an answer: the desk holds
DENIED = "denied"
HOLD = 0


def choices_of(spec: Spec, row: DecisionRow, choices: Sequence[ChoiceRow]) -> tuple[ActionChoice, ...]:
    """Return the choice of each row of the batch; a question denied or unanswered chose to hold, with certainty."""
    if choices and row.outcome != DENIED:
        return tuple(
            ActionChoice(
                spec.actions.index(choice.drawn),
                spec.actions.index(choice.greedy),
                msgspec.json.decode(choice.behaviour, type=tuple[float, ...]),
            )
            for choice in choices
        )
    if row.outcome in UNANSWERED or row.probabilities is None or row.action is None:
        sure = tuple(float(index == HOLD) for index in range(len(spec.actions)))
        return (ActionChoice(HOLD, HOLD, sure),) * spec.rows
    probabilities = msgspec.json.decode(row.probabilities, type=tuple[float, ...])
    greedy = max(range(len(probabilities)), key=probabilities.__getitem__)
    return (ActionChoice(spec.actions.index(row.action), greedy, probabilities),)


_Money = tuple[Decimal, Decimal]  # flow and fees, USD


class _Open(msgspec.Struct):
    """A decision whose outcome is still open."""

    decision: int
    observation: Observation
    session: str
    bar_ns: int
    bars: dict[str, Prices]
    book: Book
    marks: dict[str, float]
    chosen: tuple[ActionChoice, ...] = ()
    outcome: str = ""
    model: str = ""
    money: dict[str, _Money] = {}
    others: Decimal = ZERO  # USD transferred without a trade


class Experiences:
    """Takes a journal's steps in order; `take` returns the experience completed by a step."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._open: _Open | None = None
        self._state: State[Any] | None = None
        self._bars: dict[str, Prices] = {}

    def begin(self, state: State[Any] | None) -> bool:
        """Restart from `state`; returns whether a decision was open, which is lost."""
        lost = self._open is not None
        self._open, self._state, self._bars = None, state, {}
        if state is not None:
            self._see(state)
        return lost

    def take(self, row: int, step: Step) -> Experience | None:
        """Take the step of journal row `row`."""
        state, state_before = step.state, self._state
        self._see(state)
        self._state = state
        if self._open is not None and state_before is not None:
            _book_moves(self._open, step, state.book.cash - state_before.book.cash)
        for record in step.rows:
            if isinstance(record, DecisionRow):
                self._note_decision(record, [other for other in step.rows if isinstance(other, ChoiceRow)])
        question = next((effect for effect in step.effects if isinstance(effect, AskPolicy)), None)
        experience = self._experience_of(row, state, question)
        if question is not None:
            self._ask(question, state)
        return experience

    def _see(self, state: State[Any]) -> None:
        """Keep the newest bars, doubted ones too: they count once a question names them."""
        doubtful_bars = () if state.doubted is None else (state.doubted,)
        for bar in (*doubtful_bars, *state.pending_bars):
            self._bars[bar.symbol] = _prices(bar)

    def _note_decision(self, row: DecisionRow, choices: list[ChoiceRow]) -> None:
        waiting = self._open
        if waiting is not None and row.kind == "policy" and row.decision == waiting.decision:
            waiting.chosen, waiting.outcome, waiting.model = (
                choices_of(self._spec, row, choices),
                row.outcome,
                row.model or "",
            )

    def _ask(self, question: AskPolicy, state: State[Any]) -> None:
        session, ask = state.session.session, state.ask
        if session is not None and ask is not None:
            self._open = _Open(
                decision=question.decision,
                observation=question.observation,
                session=session.date,
                bar_ns=ask.bar_ns,
                bars=dict(self._bars),
                book=state.book,
                marks=_marks(state),
            )

    def _experience_of(self, row: int, state: State[Any], question: AskPolicy | None) -> Experience | None:
        """Return the open decision's experience if this step completes it."""
        waiting, session = self._open, state.session
        date = "" if session.session is None else session.session.date
        terminal = waiting is not None and (session.ended or date != waiting.session)
        if waiting is None or not (terminal or question is not None):
            return None
        self._open = None
        if not waiting.chosen or not all(symbol in waiting.bars for symbol in self._spec.symbols):
            return None
        bar_ns = session.last_bar_ns if date == waiting.session else waiting.bar_ns
        observation = waiting.observation
        return Experience(
            row=row,
            decision=waiting.decision,
            session=waiting.session,
            bar_ns=waiting.bar_ns,
            bars=(bar_ns - waiting.bar_ns) // (self._spec.bar_interval_s * SECOND_NS),
            model=waiting.model,
            outcome=waiting.outcome,
            shape=observation.shape,
            state=observation.data,
            next_state=b"" if terminal or question is None else question.observation.data,
            terminal=terminal,
            chosen=waiting.chosen,
            holdings=tuple(self._holding(waiting, symbol, state) for symbol in self._spec.symbols),
            equity=float(waiting.book.equity),
            next_equity=float(state.book.equity),
            transfers=float(waiting.others),
        )

    def _holding(self, waiting: _Open, symbol: str, state: State[Any]) -> SymbolTransition:
        bar, marks = waiting.bars[symbol], _marks(state)
        flow, fees = waiting.money.get(symbol, (ZERO, ZERO))
        return SymbolTransition(
            symbol=symbol,
            bar=bar,
            next_bar=self._bars[symbol],
            shares=_shares(waiting.book, symbol),
            next_shares=_shares(state.book, symbol),
            mark=waiting.marks.get(symbol, bar.close),
            next_mark=marks.get(symbol, self._bars[symbol].close),
            flow=float(flow),
            fees=float(fees),
        )


def _prices(bar: Bar) -> Prices:
    return Prices(bar.start_ns, bar.open, bar.high, bar.low, bar.close, bar.volume)


def _marks(state: State[Any]) -> dict[str, float]:
    return {symbol: float(price) for symbol, price in state.marks.items()}


def _shares(book: Book, symbol: str) -> Quantity:
    position = book.positions.get(symbol)
    return 0 if position is None else position.quantity


def _book_moves(waiting: _Open, step: Step, cash: Decimal) -> None:
    """Add the cash flows and fees of a step's moves to their symbols; the rest of its `cash` moved without a trade.

    One step may book fills of several symbols: a report with fills that the stream lost.
    """
    for row in step.rows:
        if isinstance(row, MoveRow) and row.opened_ns:
            fees = Decimal(row.fees_usd)
            flow = Decimal(row.left_usd) - Decimal(row.entered_usd) - fees
            sums = waiting.money.get(row.symbol, (ZERO, ZERO))
            waiting.money[row.symbol] = (sums[0] + flow, sums[1] + fees)
            cash -= flow
    waiting.others += cash
