"""Bars of a desk that trades by the minute: taken in their order, and only where they can be.

A bar that is late, twice or out of order changes nothing; it is counted. One whose prices leap away from the last bar's
waits: it counts when the quotes that close it, or the next bar, say the same, and is refused otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from daemon.core.desks.options.on_market import observe, on_quotes, watch
from daemon.core.draft import Draft
from daemon.core.events import BarClosed, BarCorrected, BarRejected, Quote, QuotesReceived
from daemon.core.instruments.contracts import implied_spot
from daemon.core.risk.marks import is_quote
from daemon.core.risk.view import SECOND_NS
from strategies.kit.contract import Bar


def on_bar_closed(draft: Draft, event: BarClosed) -> None:
    bar, state = event.bar, draft.session
    session, interval_ns = state.session, draft.machine.spec.bar_interval_s * SECOND_NS
    if session is None or not session.open_ns <= bar.start_ns < session.close_ns:
        return
    if bar.start_ns < state.last_bar_ns or bar.start_ns > event.time_ns:
        draft.count_rejected("out_of_order" if bar.start_ns < state.last_bar_ns else "early", bar.symbol)
        return
    if _is_known(draft, bar):
        draft.count_rejected("duplicate", bar.symbol)
        return
    if draft.doubted is not None:
        _judge(draft, draft.doubted, bar)
    if _leaps(draft, bar):
        draft.doubted = bar
        return
    _take(draft, bar)
    if event.time_ns - bar.start_ns <= interval_ns + draft.trading.risk.stale_bar_s * SECOND_NS:
        watch(draft)


def _is_known(draft: Draft, bar: Bar) -> bool:
    """True for a bar that was told before."""
    if draft.doubted is not None and draft.doubted.start_ns == bar.start_ns:
        return True
    pending = [b.symbol for b in draft.pending_bars]
    return bar.start_ns == draft.session.last_bar_ns and (not pending or bar.symbol in pending)


def _take(draft: Draft, bar: Bar) -> None:
    """Let the bar wait for its quotes; an earlier one whose quotes never came is observed first."""
    if bar.start_ns != draft.session.last_bar_ns:
        if draft.pending_bars:
            observe(draft)
        starts = (*draft.session.starts, bar.start_ns)[-draft.machine.spec.window :]
        draft.session = replace(draft.session, last_bar_ns=bar.start_ns, spot=bar.close, starts=starts)
    draft.pending_bars = (*draft.pending_bars, bar)
    draft.stats = replace(draft.stats, bars=draft.stats.bars + 1)


def on_bar_corrected(draft: Draft, event: BarCorrected) -> None:
    """A correction counts for rows to come. One that meets the bar before it was observed replaces it there."""
    bar, doubted = event.bar, draft.doubted
    if doubted is not None and doubted.start_ns == bar.start_ns:
        draft.doubted = None
        on_bar_closed(draft, BarClosed(event.time_ns, bar))
        return
    if _leaps(draft, bar):
        draft.count_rejected("leap", bar.symbol)
        return
    same = [b.symbol == bar.symbol and b.start_ns == bar.start_ns for b in draft.pending_bars]
    if any(same):
        draft.pending_bars = tuple(bar if hit else b for b, hit in zip(draft.pending_bars, same, strict=True))
        return
    draft.strategy = draft.machine.correct(draft.strategy, bar)


def on_bar_rejected(draft: Draft, event: BarRejected) -> None:
    draft.count_rejected(event.reason, event.symbol)


def on_bar_quotes(draft: Draft, event: QuotesReceived) -> None:
    """Quotes; those that close a doubted bar are asked first whether they support it."""
    doubted = draft.doubted
    if doubted is not None and event.closes_bar_ns == doubted.start_ns and _supported(draft, doubted, event):
        draft.doubted = None
        _take(draft, doubted)
        watch(draft)
    on_quotes(draft, event)


# --- doubts -------------------------------------------------------------------------------------------------------


def _far(draft: Draft, price: float, known: float) -> bool:
    return abs(price - known) > draft.trading.risk.bar_leap_max * max(price, known)


def _leaps(draft: Draft, bar: Bar) -> bool:
    """True for a bar with a price far from the last bar's close. A desk of several symbols has no one price."""
    spot = draft.session.spot
    known = spot > 0 and tuple(draft.machine.spec.symbols) == (bar.symbol,)
    return known and any(_far(draft, price, spot) for price in (bar.open, bar.high, bar.low, bar.close))


def _judge(draft: Draft, doubted: Bar, later: Bar) -> None:
    """The next bar decides: beyond the same side of the last close it confirms the doubted one, else that is refused.

    A confirmed bar is seen by the strategy, and no question is asked: it is a bar old.
    """
    spot, draft.doubted = draft.session.spot, None
    same = (doubted.close - spot) * (later.close - spot) > 0
    if same and _far(draft, doubted.close, spot) and _far(draft, later.close, spot):
        _take(draft, doubted)
        observe(draft, ask=False)
    else:
        draft.count_rejected("leap", doubted.symbol)


def _supported(draft: Draft, bar: Bar, event: QuotesReceived) -> bool:
    """True when an option pair that was quoted since the bar began implies a price near all of the bar's."""
    fresh: Mapping[str, Quote] = {
        quote.symbol: quote
        for quote in event.quotes
        if is_quote(quote, draft.now_ns) and quote.quoted_ns >= bar.start_ns
    }
    implied = next((price for symbol in fresh if (price := implied_spot(symbol, fresh)) is not None), None)
    prices = (bar.open, bar.high, bar.low, bar.close)
    return implied is not None and not any(_far(draft, price, implied) for price in prices)
