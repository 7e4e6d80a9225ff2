"""A desk that decides at each bar: bars are taken in their order.

A minute of several symbols is complete when each has its bar and the quotes that close it, or some seconds after its
end: then it is observed without the missing ones, whose late bars join the history only.

A bar that is late, duplicate or out of order is counted and changes nothing. A bar whose prices leap away from the last
close waits: the quotes that close it, or the next bar, confirm it; otherwise it is refused. With several symbols the
reference is the symbol's mark, and the quotes that close the bar decide. Bars are observed when their quotes arrive.
Rows once emitted are never rebuilt.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import ClassVar

from msgspec import UnsetType
from msgspec.structs import replace

from daemon.core.desks.guarded import GuardedStrategy
from daemon.core.draft import Draft, Handler
from daemon.core.effects import AskPolicy
from daemon.core.events import (
    BarClosed,
    BarCorrected,
    ClockTicked,
    Event,
    QuotesReceived,
    SessionEnded,
    SharesSplit,
)
from daemon.core.risk.claim import note_close
from daemon.core.risk.guards import check_blind, note_trading, revalue
from daemon.core.risk.marks import mark_late_bar, take_quotes
from daemon.core.risk.splits import note_market_split
from daemon.core.state import Ask, Leap
from strategies.kit.contract import Bar, BarStrategy, Leg
from strategies.kit.units import MILLISECOND_NS, SECOND_NS

MINUTE_WAIT_NS = 5 * SECOND_NS  # wait after a minute's end for other symbols' bars, which come within two seconds


class AtEachBar:
    """Ask the policy at each bar. See `draft.Decides` for each member."""

    quiet: ClassVar[frozenset[type[Event]]] = frozenset()
    rebalances: ClassVar[bool] = False

    __slots__ = ("_several", "_strategy", "_symbols", "handlers")

    def __init__(self, strategy: BarStrategy) -> None:
        self._strategy = GuardedStrategy(strategy)
        self._symbols = frozenset(strategy.spec.symbols)
        self._several = len(self._symbols) > 1
        self.handlers: Mapping[type[Event], Handler] = {
            BarClosed: self.on_bar_closed,
            BarCorrected: self.on_bar_corrected,
            ClockTicked: self.on_clock_ticked,
            QuotesReceived: self.on_quotes,
            SessionEnded: self.on_session_ended,
            SharesSplit: self.on_shares_split,
        }

    def fills_to_come(self, draft: Draft) -> bool:
        """Bars of one time come one after the other, and each fills the orders of its symbol."""
        return self._several and draft.identity.by_tape

    def known(self, _: Draft) -> Mapping[str, tuple[Bar, ...]]:
        return {}

    def newest(self, _: Draft) -> Mapping[str, int]:
        return {}

    def waits_until_ns(self, _: Draft, ask: Ask) -> int:
        return ask.valid_until_ns

    def begin(self, draft: Draft, legs: tuple[Leg, ...]) -> None:
        """Give up what remains of earlier bars' baskets in the same symbols."""
        new_symbols = {leg.symbol for leg in legs}
        draft.works = {
            key: work for key, work in draft.works.items() if work.reason != "policy" or work.symbol not in new_symbols
        }

    # --- bars ---------------------------------------------------------------------------------------------------------

    def on_bar_closed(self, draft: Draft, event: BarClosed) -> None:
        bar, state = event.bar, draft.session
        session = state.session
        if session is None or not session.open_ns <= bar.start_ns < session.close_ns:
            return
        if not isinstance(state.trading_halts, UnsetType):
            halt = state.trading_halt(bar.symbol)
            if halt is not None and bar.start_ns >= halt.since_ns:  # it trades again, without a message of it
                note_trading(draft, bar.symbol, halted=False)
        if self._several and bar.symbol in draft.spec.symbols and _is_late(draft, bar):
            if self._leaps(draft, bar):
                draft.count_bad_bar("leap", bar.symbol)
                return
            self._strategy.correct(draft, bar)
            _note_newest(draft, bar)
            return
        if bar.start_ns < state.last_bar_ns or bar.start_ns > event.time_ns:
            draft.count_bad_bar("out_of_order" if bar.start_ns < state.last_bar_ns else "early", bar.symbol)
            return
        if _is_known(draft, bar):
            draft.count_bad_bar("duplicate", bar.symbol)
            return
        if draft.doubted is not None:
            self._judge(draft, draft.doubted, bar)
        end_ns = draft.desk.grid.at(bar.start_ns, session)[1]
        if self._leaps(draft, bar) and not (self._several and _again(draft, bar, end_ns)):
            draft.doubted = bar
            return
        self._take(draft, bar)
        if draft.book.positions:
            draft.desk.holds.priced_by_bar(draft)
        if event.time_ns - end_ns <= draft.trading.risk.stale_bar_s * SECOND_NS:
            draft.desk.holds.watch(draft)
        else:
            mark_late_bar(draft, bar, end_ns)

    def _take(self, draft: Draft, bar: Bar) -> None:
        """Hold the bar until its quotes arrive; an earlier one without quotes is observed first."""
        if bar.start_ns != draft.session.last_bar_ns:
            if draft.pending_bars:
                self._observe(draft)
            starts = draft.session.starts  # bars that the strategy saw: the gate on gaps counts others as missing
            if not draft.risk.strategy_off:
                starts = (*starts, bar.start_ns)[-draft.spec.window :]
            draft.session = replace(draft.session, last_bar_ns=bar.start_ns, spot=bar.close, starts=starts)
        draft.pending_bars = (*draft.pending_bars, bar)
        if self._several:
            _note_newest(draft, bar)
        draft.stats = replace(draft.stats, bars=draft.stats.bars + 1)

    def on_bar_corrected(self, draft: Draft, event: BarCorrected) -> None:
        """Apply a correction to later rows, and to the newest price. A bar that was not observed yet is replaced."""
        bar, doubted_bar = event.bar, draft.doubted
        if doubted_bar is not None and doubted_bar.start_ns == bar.start_ns:
            draft.doubted = None
            self.on_bar_closed(draft, BarClosed(event.time_ns, bar))
            return
        if self._leaps(draft, bar):
            draft.count_bad_bar("leap", bar.symbol)
            return
        if not self._several and bar.start_ns == draft.session.last_bar_ns:
            draft.session = replace(draft.session, spot=bar.close)
        same = [b.symbol == bar.symbol and b.start_ns == bar.start_ns for b in draft.pending_bars]
        if any(same):
            draft.pending_bars = tuple(bar if hit else b for b, hit in zip(draft.pending_bars, same, strict=True))
            return
        self._strategy.correct(draft, bar)

    def on_shares_split(self, draft: Draft, event: SharesSplit) -> None:
        """Let the strategy adjust the bars that it keeps from before the split, once. The ledger splits the book.

        The reference price of leaps follows at once, for held symbols with the ledger's line; positions keep their
        price until then. A strategy with bars from before the session and no rule for splits halts once, and adjusts
        them as soon as it has a rule. One that is off adjusts them with the next session.
        """
        symbol, from_ns, spec = event.symbol, event.from_ns, draft.spec
        newest_ns = draft.basket.newest.get(symbol, 0) if self._several else draft.session.last_bar_ns
        if newest_ns < from_ns:
            note_market_split(draft, symbol, from_ns)
        former_ns = draft.basket.split_from.get(symbol, 0)
        if symbol not in self._symbols or from_ns <= former_ns or draft.risk.strategy_off:
            return
        did_split = self._strategy.split(draft, symbol, event.ratio, from_ns)
        if not did_split and former_ns == -from_ns:
            return
        draft.basket = replace(
            draft.basket, split_ns={**draft.basket.split_from, symbol: from_ns if did_split else -from_ns}
        )
        if not did_split and spec.history_bars:
            detail = f'{symbol} split {event.ratio:g} for 1, {spec.name} has no "split": its bars are of the old shares'
            draft.halt("history_missing", detail)
        if newest_ns >= from_ns or former_ns == -from_ns:
            return
        if not self._several:
            draft.session = replace(draft.session, spot=draft.session.spot / event.ratio)
        if symbol in draft.marks and symbol not in draft.book.positions:
            draft.marks = {**draft.marks, symbol: draft.marks[symbol] / Decimal(str(event.ratio))}

    def _judge(self, draft: Draft, doubted_bar: Bar, later: Bar) -> None:
        """Judge a doubted bar by the next: beyond the same side of the last close confirms it, else it is refused.

        The strategy sees a confirmed bar without a question: it is a bar old. With several symbols it is refused.
        """
        spot, draft.doubted = draft.session.spot, None
        if self._several:
            draft.count_bad_bar("leap", doubted_bar.symbol)
            return
        same = (doubted_bar.close - spot) * (later.close - spot) > 0
        if same and _far(draft, spot, doubted_bar.close) and _far(draft, spot, later.close):
            self._take(draft, doubted_bar)
            self._observe(draft, ask=False)
        else:
            draft.count_bad_bar("leap", doubted_bar.symbol)

    def _leaps(self, draft: Draft, bar: Bar) -> bool:
        """Return True for a bar with a price far from the last close, or the symbol's mark if there are several."""
        reference = float(draft.marks.get(bar.symbol, 0)) if self._several else draft.session.spot
        mine = reference > 0 and bar.symbol in draft.spec.symbols
        return mine and _far(draft, reference, bar.open, bar.high, bar.low, bar.close)

    # --- quotes -------------------------------------------------------------------------------------------------------

    def on_quotes(self, draft: Draft, event: QuotesReceived) -> None:
        """Update marks, stops and loss limits; then observe the bar that these quotes close.

        A doubted bar is first checked against the quotes that close it.
        """
        doubted_bar, holds = draft.doubted, draft.desk.holds
        if doubted_bar is not None and event.closes_bar_ns == doubted_bar.start_ns:
            if _supported(draft, doubted_bar, event):
                draft.doubted = None
                self._take(draft, doubted_bar)
                holds.watch(draft)
            elif self._several:
                draft.doubted = None
                draft.count_bad_bar("leap", doubted_bar.symbol)
        quotes = take_quotes(draft, event.quotes)
        if quotes and draft.book.positions:
            holds.note_quotes(draft, quotes)
            revalue(draft)
        if quotes:
            holds.handle_quotes(draft, quotes, event.closes_bar_ns)
        pending = draft.pending_bars
        is_closed = pending and event.closes_bar_ns == pending[0].start_ns
        if is_closed and self._symbols.issubset([bar.symbol for bar in pending]):  # each has its bar of the minute
            self._observe(draft)

    def on_clock_ticked(self, draft: Draft, _: ClockTicked) -> None:
        """Observe a minute that some symbols have no bar of, after `MINUTE_WAIT_NS`; check for lost data."""
        pending, session = draft.pending_bars, draft.session.session
        if pending and self._several and session is not None:
            end_ns = draft.desk.grid.at(pending[0].start_ns, session)[1]
            if draft.now_ns >= end_ns + MINUTE_WAIT_NS:
                self._observe(draft)
        check_blind(draft)

    # --- the question -------------------------------------------------------------------------------------------------

    def _observe(self, draft: Draft, *, ask: bool = True) -> None:
        """Pass the pending bars to the strategy; ask the policy when warm, in session and the bar young enough.

        Without `ask` the strategy only sees them.
        """
        bars, spec, session = draft.pending_bars, draft.spec, draft.session.session
        assert session is not None  # of these bars
        draft.pending_bars = ()
        draft.observed += 1
        bar_end_ns = draft.desk.grid.at(bars[0].start_ns, session)[1]
        observation = self._strategy.observe(draft, bars, draft.desk.holds.view(draft, bar_end_ns))
        if draft.book.positions or len(draft.session.starts) == 1:
            draft.record_equity()
        warm = observation is not None
        if warm != draft.session.warm:
            draft.session = replace(draft.session, warm=warm)
        late = draft.now_ns - bar_end_ns > draft.trading.risk.stale_bar_s * SECOND_NS
        if observation is None or late or draft.session.ended or not ask:
            return
        if draft.ask is not None:
            draft.end_question(draft.ask, "expired")
        draft.decision += 1
        rules, served, valid_ns = draft.trading.served, False, draft.trading.execution.policy_valid_s * SECOND_NS
        if not isinstance(rules, UnsetType) and not draft.identity.by_tape:  # another process answers
            served, valid_ns = True, rules.deadline_ms * MILLISECOND_NS
        valid_until_ns = draft.now_ns + valid_ns
        draft.ask = Ask(draft.decision, bars[0].start_ns, valid_until_ns, observation.newest(spec), served)
        draft.effects.append(AskPolicy(draft.decision, valid_until_ns, observation, served))

    def on_session_ended(self, draft: Draft, event: SessionEnded) -> None:
        """End the running session; the end of another session changes nothing."""
        if draft.session.session is None or draft.session.session.date != event.date:
            return
        if draft.pending_bars:
            self._observe(draft)
        if draft.doubted is not None:
            draft.count_bad_bar("leap", draft.doubted.symbol)
            draft.doubted = None
        draft.session = replace(draft.session, ended=True)
        draft.desk.holds.session_over(draft)
        if draft.ask is not None:
            draft.end_question(draft.ask, "expired")
        note_close(draft)
        draft.record_equity()


# --- several symbols ----------------------------------------------------------------------------------------------


def _note_newest(draft: Draft, bar: Bar) -> None:
    """Note a symbol's newest bar, after which a restarted feed continues."""
    newest = draft.basket.newest
    if bar.start_ns > newest.get(bar.symbol, 0):
        draft.basket = replace(draft.basket, newest={**newest, bar.symbol: bar.start_ns})


# --- doubts -------------------------------------------------------------------------------------------------------


def _is_late(draft: Draft, bar: Bar) -> bool:
    """Return True for a bar of a minute that was observed without it, or of an earlier one."""
    last_ns = draft.session.last_bar_ns
    return bar.start_ns < last_ns or (bar.start_ns == last_ns and not draft.pending_bars)


def _is_known(draft: Draft, bar: Bar) -> bool:
    """Return True for a bar that arrived before."""
    doubted_bar = draft.doubted
    if doubted_bar is not None and (doubted_bar.start_ns, doubted_bar.symbol) == (bar.start_ns, bar.symbol):
        return True
    if bar.start_ns != draft.session.last_bar_ns:
        return False
    pending = [b.symbol for b in draft.pending_bars]
    return not pending or bar.symbol in pending


def _far(draft: Draft, reference: float, *prices: float) -> bool:
    """Return True when one of the prices is too far from the known one."""
    most = draft.trading.risk.bar_leap_max
    low, high = min(prices), max(prices)
    return high - reference > most * high or reference - low > most * reference


def _again(draft: Draft, bar: Bar, end_ns: int) -> bool:
    """Return True where the symbol's last leaping bar had this price too and no narrow quote since differs.

    Otherwise this bar is kept as a leap that the next one may confirm.
    """
    former_leap, leap = draft.leaps.get(bar.symbol), Leap(Decimal(str(bar.close)), end_ns)
    draft.leaps = {**draft.leaps, bar.symbol: leap}
    if former_leap is None or former_leap.quoted_ns >= end_ns:
        return False
    return not _far(draft, float(former_leap.price), bar.open, bar.high, bar.low, bar.close)


def _supported(draft: Draft, bar: Bar, event: QuotesReceived) -> bool:
    """Return True when the quotes since the bar began imply prices near all of the bar's."""
    price = draft.desk.holds.implied_price(draft, bar, event)
    return price is not None and not _far(draft, price, bar.open, bar.high, bar.low, bar.close)
