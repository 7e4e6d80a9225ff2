"""A desk that decides once a session: it collects whole sessions of bars, then asks the policy.

One question for each date, however often it is due.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from msgspec.structs import replace

from daemon.core.desks.guarded import GuardedStrategy
from daemon.core.draft import NAMED, Draft, Handler, wording
from daemon.core.effects import AskPolicy
from daemon.core.events import (
    BarClosed,
    BarCorrected,
    Event,
    HistoryAdjusted,
    PricesPrinted,
    RebalanceDue,
    SessionEnded,
)
from daemon.core.risk import splits
from daemon.core.risk.claim import note_close
from daemon.core.risk.guards import revalue
from daemon.core.risk.marks import mark_late_bar
from daemon.core.session import new_york_text
from daemon.core.state import Ask
from strategies.kit.contract import Bar, DailyStrategy, Leg, Observation
from strategies.kit.units import MINUTE_NS, SECOND_NS

SWITCHES_OFF = frozenset(("quarantine", "no_model", "configuration"))  # halts after which no strategy is asked


class OnceASession:
    """Ask the policy when it is due. See `draft.Decides` for each member."""

    quiet: ClassVar[frozenset[type[Event]]] = frozenset((PricesPrinted, RebalanceDue))
    rebalances: ClassVar[bool] = True

    __slots__ = ("_keys", "_strategy", "_waiting_bars", "handlers")

    def __init__(self, strategy: DailyStrategy) -> None:
        self._strategy = GuardedStrategy(strategy)
        self._waiting_bars: tuple[Bar, ...] = ()
        self._keys: set[tuple[str, int]] = set()  # those of `_waiting_bars`: a cache, not state
        self.handlers: Mapping[type[Event], Handler] = {
            BarClosed: self.on_bar_closed,
            BarCorrected: self.on_bar_corrected,
            HistoryAdjusted: self.on_history_adjusted,
            RebalanceDue: self.on_rebalance_due,
            SessionEnded: self.on_session_ended,
        }

    def fills_to_come(self, _: Draft) -> bool:
        return False

    def known(self, draft: Draft) -> Mapping[str, tuple[Bar, ...]]:
        return self._strategy.known(draft)

    def newest(self, draft: Draft) -> Mapping[str, int]:
        newest = draft.basket.newest
        if not newest:  # a state that was made warm before this desk's first bar
            newest = {symbol: bars[-1].start_ns for symbol, bars in self.known(draft).items()}
        return newest

    def waits_until_ns(self, draft: Draft, _: Ask) -> int:
        """The open for a basket decided before it, else the end of the session's trading."""
        session, rules = draft.session.session, draft.trading.basket
        assert session is not None
        if rules.decide == "after_close":
            return session.open_ns
        return session.close_ns - rules.end_before_close_min * MINUTE_NS

    def begin(self, draft: Draft, _: tuple[Leg, ...]) -> None:
        """Do nothing: the last session's basket ended with its session."""

    # --- bars ---------------------------------------------------------------------------------------------------------

    def on_bar_closed(self, draft: Draft, event: BarClosed) -> None:
        """Keep a session's final bar until the session is over or a later bar comes."""
        bar = event.bar
        if bar.symbol not in draft.spec.symbols:
            draft.count_bad_bar("unknown_symbol", bar.symbol)
            return
        if bar.start_ns > event.time_ns:
            draft.count_bad_bar("early", bar.symbol)
            return
        if self._waits(draft.pending_bars, bar):
            draft.count_bad_bar("duplicate", bar.symbol)
            return
        if draft.pending_bars and bar.start_ns > draft.pending_bars[-1].start_ns:
            self._remember_pending(draft)
        waiting_bars = draft.pending_bars
        draft.pending_bars = (*waiting_bars, bar)
        if waiting_bars is self._waiting_bars:
            self._waiting_bars = draft.pending_bars
            self._keys.add((bar.symbol, bar.start_ns))
        draft.stats = replace(draft.stats, bars=draft.stats.bars + 1)
        if bar.start_ns >= draft.session.last_bar_ns:
            draft.session = replace(draft.session, last_bar_ns=bar.start_ns)
            session = draft.session.session
            late = session is not None and date_of(bar) != session.date
            if late and bar.symbol in draft.book.positions and bar.symbol in draft.marks:
                if not draft.identity.by_tape:
                    mark_late_bar(draft, bar, bar.start_ns, of_an_earlier_session=True)
            else:
                draft.desk.holds.mark_bars(draft, (bar,))

    def _waits(self, waiting_bars: tuple[Bar, ...], bar: Bar) -> bool:
        """Return whether a bar of this symbol and time is pending; fast, since hundreds of symbols close at once."""
        if waiting_bars is not self._waiting_bars:
            self._waiting_bars, self._keys = waiting_bars, {(b.symbol, b.start_ns) for b in waiting_bars}
        return (bar.symbol, bar.start_ns) in self._keys

    def on_bar_corrected(self, draft: Draft, event: BarCorrected) -> None:
        """Replace the bar where the strategy keeps it, or where it still waits."""
        bar, same = event.bar, (event.bar.symbol, event.bar.start_ns)
        if same in [(b.symbol, b.start_ns) for b in draft.pending_bars]:
            draft.pending_bars = tuple(bar if (b.symbol, b.start_ns) == same else b for b in draft.pending_bars)
        elif bar.start_ns <= draft.basket.newest.get(bar.symbol, 0):
            self._strategy.remember(draft, (bar,))

    def _remember_pending(self, draft: Draft) -> None:
        """Pass the pending bars to the strategy, oldest first."""
        if draft.pending_bars:
            bars = tuple(sorted(draft.pending_bars, key=lambda bar: bar.start_ns))
            draft.pending_bars = ()
            self._strategy.remember(draft, bars)
            _note_newest(draft, bars)

    def on_history_adjusted(self, draft: Draft, event: HistoryAdjusted) -> None:
        """Replace a history after a split or dividend. The mark of a position changes with the ledger's line only.

        Until then no price of the new shares marks the old ones.
        """
        if event.symbol not in draft.spec.symbols:
            return
        self._remember_pending(draft)
        if event.symbol not in draft.book.positions:
            draft.desk.holds.mark_bars(draft, event.bars[-1:])
        splits.note_history(draft, event)
        self._strategy.readjust(draft, event.symbol, event.bars)
        _note_newest(draft, event.bars)

    def on_session_ended(self, draft: Draft, event: SessionEnded) -> None:
        """Pass the session's bars to the strategy and mark the book with them."""
        session = draft.session.session
        if session is None or session.date != event.date:
            return
        self._remember_pending(draft)
        revalue(draft)
        draft.observed += 1  # the session's bar
        draft.session = replace(draft.session, ended=True)
        draft.desk.holds.session_over(draft)
        if draft.ask is not None:
            draft.end_question(draft.ask, "expired")
        note_close(draft)
        draft.record_equity()

    # --- the question -------------------------------------------------------------------------------------------------

    def on_rebalance_due(self, draft: Draft, event: RebalanceDue) -> None:
        """Ask the policy, once for each date, for the scheduled session only."""
        why = _not_due(draft, event)
        if why:
            draft.alarm("rebalance_refused", f"due for {event.date}: {why}", once=True, about=wording(why))
            return
        self._remember_pending(draft)
        draft.basket = replace(draft.basket, date=event.date, given_up={})
        if event.running:
            draft.desk.holds.mark_bars(draft, event.running)
            last = max(draft.session.last_bar_ns, *(bar.start_ns for bar in event.running))
            draft.session = replace(draft.session, last_bar_ns=last)
        revalue(draft)
        view = draft.desk.holds.view(draft, draft.now_ns)
        observation = self._strategy.observe(draft, event.running, view)
        draft.session = replace(draft.session, warm=observation is not None)
        if observation is None:
            if draft.decision or not draft.identity.by_tape:  # a tape's first sessions only provide history
                _report_cold(draft, event.date, self.known(draft))
            return
        draft.decision += 1
        valid_until_ns = draft.now_ns + draft.trading.execution.policy_valid_s * SECOND_NS
        draft.ask = Ask(draft.decision, draft.session.last_bar_ns, valid_until_ns, observation.newest(draft.spec))
        if draft.model is not None and draft.basket.memory_of not in ("", draft.model.version):
            observation = Observation(observation.data, observation.shape)  # memory of other weights is not usable
        draft.effects.append(AskPolicy(draft.decision, valid_until_ns, observation))


def _report_cold(draft: Draft, date: str, histories: Mapping[str, tuple[Bar, ...]]) -> None:
    """Raise an alarm for a session without a decision.

    It names the symbols with too little history, where the strategy needs a whole history of each.
    """
    spec = draft.spec
    short = [symbol for symbol in spec.symbols if len(histories.get(symbol, ())) < spec.history_bars]
    why = f"no symbol of {len(spec.symbols)} has a whole history up to now"
    if short and len(short) < len(spec.symbols):
        bars = ", ".join(f"{symbol} {len(histories.get(symbol, ()))}" for symbol in short[:NAMED])
        why = f"{len(short)} of {len(spec.symbols)} symbols have fewer than {spec.history_bars} bars: {bars}"
    draft.alarm("symbols_masked", f"no decision for {date}: {why}", once=True, about=date)


def _note_newest(draft: Draft, bars: tuple[Bar, ...]) -> None:
    newest = dict(draft.basket.newest)
    for bar in bars:
        newest[bar.symbol] = max(bar.start_ns, newest.get(bar.symbol, 0))
    draft.basket = replace(draft.basket, newest=newest)


def _not_due(draft: Draft, event: RebalanceDue) -> str:
    """Return why there is no decision, "" to decide."""
    session, last = draft.session.session, draft.basket.date
    if draft.risk.strategy_off:
        return f"the strategy is not asked before a resume: {_why_off(draft)}"
    if session is None or draft.session.ended or event.date != session.date:
        return f"the session is {'unknown' if session is None else 'over' if draft.session.ended else session.date}"
    if event.date <= last:
        return f"the last basket was of {last}"
    if draft.trading.basket.decide == "after_close" and draft.now_ns >= session.open_ns:
        return "the session is open, and this desk decides before it"
    strange = [bar.symbol for bar in event.running if date_of(bar) != event.date]
    return f"running bars of another day: {', '.join(strange)}" if strange else splits.undecidable(draft.basket)


def _why_off(draft: Draft) -> str:
    """Say why the strategy is off: in the words of the halt that switched it off, where one stands."""
    if halt := next((halt for halt in draft.risk.halts if halt.reason in SWITCHES_OFF), None):
        return halt.detail
    return "no model answers" if draft.model is None else "it failed, or a start was refused: an earlier alarm says why"


def date_of(bar: Bar) -> str:
    """Return the New York date of a daily bar."""
    return new_york_text(bar.start_ns)[:10]
