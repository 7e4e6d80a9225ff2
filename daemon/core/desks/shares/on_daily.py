"""What happens to a daily desk: bars are gathered and remembered, prices mark its shares, once a session it rebalances.

One question and one basket for each date, whatever is told how often. A bar is remembered whole sessions at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import msgspec
from msgspec.structs import replace

from daemon.core.desks.options.execution import cost_rate, count_denials, risk_view
from daemon.core.desks.shares.basket import free_cash, works_of
from daemon.core.draft import Draft, wording
from daemon.core.effects import AskPolicy
from daemon.core.events import (
    BarClosed,
    BarCorrected,
    HistoryAdjusted,
    PricesPrinted,
    QuotesReceived,
    RebalanceDue,
    SessionEnded,
)
from daemon.core.paper.shares import on_grid
from daemon.core.records import DecisionRow
from daemon.core.risk import splits
from daemon.core.risk.guards import revalue
from daemon.core.risk.marks import take_quotes
from daemon.core.risk.risk import PASSING, SHARE_GATES, Verdicts, ask_gates
from daemon.core.risk.view import MINUTE_NS, SECOND_NS, Intent
from daemon.core.session import new_york_text
from daemon.core.state import ZERO, Ask, Waiting
from strategies.kit.contract import Answer, Bar, DailyStrategy, Leg, Observation, Portfolio, Rebalance, View
from strategies.kit.daily import usable

_encode = msgspec.json.encode
BOUND = Decimal(str(splits.SPLIT_RATIO))  # times the price of the decision: what is dearer was counted at a wrong one


# --- bars ---------------------------------------------------------------------------------------------------------


def on_daily_bar(draft: Draft, event: BarClosed) -> None:
    """Keep a session's final bar until the session is over, or one of a later session comes."""
    daily, bar = _daily(draft), event.bar
    if bar.symbol not in daily.spec.symbols:
        draft.count_rejected("unknown_symbol", bar.symbol)
        return
    if bar.start_ns > event.time_ns:
        draft.count_rejected("early", bar.symbol)
        return
    if any((b.symbol, b.start_ns) == (bar.symbol, bar.start_ns) for b in draft.pending_bars):
        draft.count_rejected("duplicate", bar.symbol)
        return
    if draft.pending_bars and bar.start_ns > draft.pending_bars[-1].start_ns:
        remember_pending(draft)
    draft.pending_bars = (*draft.pending_bars, bar)
    draft.stats = replace(draft.stats, bars=draft.stats.bars + 1)
    if bar.start_ns >= draft.session.last_bar_ns:
        draft.session = replace(draft.session, last_bar_ns=bar.start_ns)
        session = draft.session.session
        told_late = session is not None and date_of(bar) != session.date
        if not (told_late and bar.symbol in draft.book.positions and bar.symbol in draft.marks):  # known since then
            _mark_bars(draft, (bar,))


def on_daily_bar_corrected(draft: Draft, event: BarCorrected) -> None:
    """A correction replaces the bar where the strategy keeps it, or where it still waits."""
    bar, same = event.bar, (event.bar.symbol, event.bar.start_ns)
    if same in [(b.symbol, b.start_ns) for b in draft.pending_bars]:
        draft.pending_bars = tuple(bar if (b.symbol, b.start_ns) == same else b for b in draft.pending_bars)
    elif bar.start_ns <= draft.basket.newest.get(bar.symbol, 0):
        draft.strategy = _daily(draft).remember(draft.strategy, (bar,))


def remember_pending(draft: Draft) -> None:
    """Let the strategy keep the gathered bars, oldest first."""
    if draft.pending_bars:
        bars = tuple(sorted(draft.pending_bars, key=lambda bar: bar.start_ns))
        draft.pending_bars = ()
        draft.strategy = _daily(draft).remember(draft.strategy, bars)
        _note_newest(draft, bars)


def _note_newest(draft: Draft, bars: tuple[Bar, ...]) -> None:
    newest = dict(draft.basket.newest)
    for bar in bars:
        newest[bar.symbol] = max(bar.start_ns, newest.get(bar.symbol, 0))
    draft.basket = replace(draft.basket, newest=newest)


def on_history_adjusted(draft: Draft, event: HistoryAdjusted) -> None:
    """A split or dividend. The mark of what is held stays: the ledger's line about the shares changes it with them.

    Where that line is still to come, no price of the new shares marks the old ones.
    """
    daily = _daily(draft)
    if event.symbol not in daily.spec.symbols:
        return
    remember_pending(draft)
    if event.symbol not in draft.book.positions:
        _mark_bars(draft, event.bars[-1:])
    splits.note_history(draft, daily, event)
    draft.strategy = daily.readjust(draft.strategy, event.symbol, event.bars)
    _note_newest(draft, event.bars)


def on_daily_session_ended(draft: Draft, event: SessionEnded) -> None:
    """The session's bars are complete, as far as they came: the strategy keeps them, and the book counts at them."""
    session = draft.session.session
    if session is None or session.date != event.date:
        return
    remember_pending(draft)
    revalue(draft)
    draft.session = replace(draft.session, ended=True)
    splits.on_session_over(draft)
    if draft.ask is not None:
        draft.end_unanswered(draft.ask, "expired")
    draft.record_equity()


def _daily(draft: Draft) -> DailyStrategy:
    """The strategy; these handlers are a daily desk's alone."""
    assert draft.daily is not None
    return draft.daily


# --- prices -------------------------------------------------------------------------------------------------------


def on_prices_printed(draft: Draft, event: PricesPrinted) -> None:
    """Marks alone: what these prices filled is told next, and orders move on with the quotes after it."""
    _mark(draft, {known.symbol: known.price for known in event.prices if known.price > 0})
    if draft.book.positions:
        revalue(draft)


def on_share_quotes(draft: Draft, event: QuotesReceived) -> None:
    """Quotes and marks; the equity is recorded where something was traded since it was last."""
    take_quotes(draft, event.quotes)
    if draft.book.positions:
        revalue(draft)
    if draft.stats.fills > draft.basket.fills:
        draft.basket = replace(draft.basket, fills=draft.stats.fills)
        draft.record_equity()


def _mark_bars(draft: Draft, bars: tuple[Bar, ...]) -> None:
    _mark(draft, {bar.symbol: on_grid(bar.close) for bar in bars if usable(bar)})


def _mark(draft: Draft, prices: dict[str, Decimal]) -> None:
    """Take over what the shares cost now; a price of shares that are being split may be of other shares."""
    taken = {
        symbol: price
        for symbol, price in prices.items()
        if not splits.stands(draft.basket, symbol) and splits.believed(draft, symbol, price)
    }
    draft.marks = {**draft.marks, **taken}


def date_of(bar: Bar) -> str:
    """The New York date of a daily bar."""
    return date_of_ns(bar.start_ns)


def date_of_ns(start_ns: int) -> str:
    """The New York date of a daily bar's start, "" for 0."""
    return new_york_text(start_ns)[:10] if start_ns else ""


# --- the question -------------------------------------------------------------------------------------------------


def on_rebalance_due(draft: Draft, event: RebalanceDue) -> None:
    """Ask the policy, once for each date. What is due for another session than the scheduled one is refused."""
    why = _not_due(draft, event)
    if why:
        draft.alarm("rebalance_refused", f"due for {event.date}: {why}", once=True, about=wording(why))
        return
    remember_pending(draft)
    draft.basket = replace(draft.basket, date=event.date, given_up={})
    if event.running:
        _mark_bars(draft, event.running)
        last = max(draft.session.last_bar_ns, *(bar.start_ns for bar in event.running))
        draft.session = replace(draft.session, last_bar_ns=last)
    revalue(draft)
    draft.strategy, observation = _daily(draft).observe(draft.strategy, event.running, daily_view(draft))
    draft.session = replace(draft.session, warm=observation is not None)
    if observation is None:
        return
    draft.decision += 1
    valid_until = draft.now_ns + draft.trading.execution.policy_valid_s * SECOND_NS
    draft.ask = Ask(draft.decision, draft.session.last_bar_ns, valid_until, observation.data)
    foreign = draft.model is not None and draft.basket.memory_of not in ("", draft.model.version)
    if foreign and not _daily(draft).keeps_memory:
        observation = Observation(observation.data, observation.shape)  # other weights' memory means nothing to these
    draft.effects.append(AskPolicy(draft.decision, valid_until, observation))


def _not_due(draft: Draft, event: RebalanceDue) -> str:
    """Why nothing is decided, "" where it is."""
    session, last = draft.session.session, draft.basket.date
    if session is None or draft.session.ended or event.date != session.date:
        return f"the session is {'unknown' if session is None else 'over' if draft.session.ended else session.date}"
    if event.date <= last:
        return f"the last basket was of {last}"
    if draft.trading.basket.decide == "after_close" and draft.now_ns >= session.open_ns:
        return "the session is open, and this desk decides before it"
    strange = [bar.symbol for bar in event.running if date_of(bar) != event.date]
    return f"running bars of another day: {', '.join(strange)}" if strange else splits.undecidable(draft.basket)


def daily_view(draft: Draft) -> View:
    """What a daily strategy may know now: the cash that no buy keeps back, its shares, and the last known prices."""
    session = draft.session.session
    if session is None:
        raise ValueError("a view needs a session; SessionScheduled precedes every decision")
    rules, symbols = draft.trading.basket, draft.machine.spec.symbols
    cash = free_cash(draft.book.cash, draft.orders, draft.marks, cost_rate(draft))
    portfolio = Portfolio(
        cash=float(cash),
        equity=float(draft.book.equity),
        shares=tuple(draft.held(symbol) for symbol in symbols),
        prices=tuple(float(draft.marks.get(symbol, ZERO)) for symbol in symbols),
        shares_per_unit=rules.shares_per_unit,
        notional_per_unit=float(rules.notional_per_unit_usd),
        band=rules.band,
    )
    return View(draft.now_ns, session, portfolio=portfolio)


# --- the answer ---------------------------------------------------------------------------------------------------


def rebalance(draft: Draft, daily: DailyStrategy, ask: Ask, answer: Answer, model: str) -> None:
    """Turn the policy's answer into works, unless a gate denies the basket: then nothing of it is sent."""
    draft.strategy, decided = daily.decide(draft.strategy, answer, daily_view(draft))
    if answer.hidden and draft.model is not None:
        draft.basket = replace(draft.basket, memory_of=draft.model.version)
    legs = tuple(leg for leg in decided.basket.legs if leg.goal != draft.held(leg.symbol))
    outcome, verdicts = "hold", None
    if legs:
        verdicts = _ask_for_basket(draft, daily, decided, legs, answer)
        outcome = "denied" if verdicts.denials else "ordered"
    _count(draft, decided)
    choice = decided.choice
    row = DecisionRow(
        decision=ask.decision,
        kind="policy",
        bar_ns=ask.bar_ns,
        time_ns=draft.now_ns,
        action=decided.name,
        resolved=decided.name,
        confidence=choice.confidence if choice is not None else None,
        probabilities=_encode(choice.probabilities).decode() if choice is not None else None,
        logits=_encode(answer.logits).decode(),
        target=_encode(legs).decode(),
        gates=_encode(verdicts.by_gate).decode() if verdicts is not None else None,
        outcome=outcome,
        model=model,
        row=ask.row,
    )
    if outcome == "ordered":
        row = _begin_basket(draft, legs, row, _bounds(draft, legs))
    elif verdicts is not None and _only_passing(verdicts):
        waiting = Waiting(legs, row, _deadline_ns(draft), _bounds(draft, legs))
        draft.basket = replace(draft.basket, waiting=waiting)
    draft.records.append(row)


def _begin_basket(draft: Draft, legs: tuple[Leg, ...], row: DecisionRow, bounds: Mapping[str, Decimal]) -> DecisionRow:
    """Start the works of a basket that all gates let pass; returns its row."""
    held_now = {leg.symbol: draft.held(leg.symbol) for leg in legs}
    works = works_of(row.decision, legs, held_now, draft.now_ns, bounds)
    draft.wanted = {**draft.wanted, **{leg.symbol: leg.goal for leg in legs}}
    draft.works = {**draft.works, **{work.key: work for work in works}}
    draft.basket = replace(draft.basket, decision=row.decision, waiting=None)
    return replace(row, outcome="ordered", work=f"{row.decision}.")


def _bounds(draft: Draft, legs: tuple[Leg, ...]) -> dict[str, Decimal]:
    """What a buy may pay at most: its shares were counted at the prices of now. None where a replay's tape says all."""
    if draft.identity.mode == "replay":
        return {}
    known = {leg.symbol: draft.marks.get(leg.symbol, ZERO) for leg in legs}
    return {symbol: price * BOUND for symbol, price in known.items()}


def _only_passing(verdicts: Verdicts) -> bool:
    return all(denial.gate in PASSING for denial in verdicts.denials)


def _deadline_ns(draft: Draft) -> int:
    """Until when a basket may begin: the open for one decided before it, else the end of the session's trading."""
    session, rules = draft.session.session, draft.trading.basket
    assert session is not None
    if rules.decide == "after_close":
        return session.open_ns
    return session.close_ns - rules.end_before_close_min * MINUTE_NS


def ask_again(draft: Draft) -> None:
    """Put the basket that waits to the gates again; it ends with its deadline, or with a cause that does not pass."""
    waiting = draft.basket.waiting
    if waiting is None:
        return
    intent = Intent("basket", None, "", 0, 0, None, legs=waiting.legs)
    newest = date_of_ns(max(draft.basket.newest.values(), default=0))
    verdicts = ask_gates(replace(risk_view(draft), newest_bar=newest), intent, SHARE_GATES)
    row = replace(waiting.row, gates=_encode(verdicts.by_gate).decode())
    if not verdicts.denials and draft.now_ns < waiting.until_ns:
        draft.records.append(_begin_basket(draft, waiting.legs, row, waiting.bounds))
    elif draft.now_ns >= waiting.until_ns or not _only_passing(verdicts):
        draft.basket = replace(draft.basket, waiting=None)
        draft.records.append(row)
        why = "; ".join(f"{denial.gate}: {denial.reason}" for denial in verdicts.denials) or "its time is over"
        draft.alarm("basket_missed", f"no basket for {draft.basket.date}: denied: {why}")


def _ask_for_basket(
    draft: Draft, daily: DailyStrategy, decided: Rebalance, legs: tuple[Leg, ...], answer: Answer
) -> Verdicts:
    """What the gates say of the basket as a whole; symbols without the newest bar are told."""
    newest = draft.basket.newest
    if not newest:  # a state that was made warm before this desk's first bar
        newest = {symbol: bars[-1].start_ns for symbol, bars in daily.known(draft.strategy).items()}
    last_ns = max(newest.values(), default=0)
    masked = [symbol for symbol in daily.spec.symbols if newest.get(symbol, 0) < last_ns]
    if masked:
        told = f"{len(masked)} of {len(daily.spec.symbols)} without a bar of the newest session: {', '.join(masked)}"
        draft.alarm("symbols_masked", told, once=True, about=", ".join(masked))
    date = date_of_ns(last_ns)
    confidence = decided.choice.confidence if decided.choice is not None else 1.0
    intent = Intent("basket", None, "", 0, 0, None, confidence, answer.logits, legs)
    verdicts = ask_gates(replace(risk_view(draft), newest_bar=date), intent, SHARE_GATES)
    if verdicts.denials:
        count_denials(draft, verdicts.denials)
    return verdicts


def _count(draft: Draft, decided: Rebalance) -> None:
    """Count the decision, and its action where the policy chose one."""
    stats, actions = draft.stats, draft.stats.actions
    if decided.choice is not None:
        counts = list(actions or (0,) * len(draft.machine.spec.actions))
        counts[decided.choice.action] += 1
        actions = tuple(counts)
    draft.stats = replace(stats, decisions=stats.decisions + 1, actions=actions)
