"""A session's orders gathered from its journaled events, in order, for `daemon.reports.execution_quality` to judge.

A pure fold: nothing is read or decided here. Totals are set from the broker's reports, never added, so an event that
comes twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from typing import Any, NamedTuple

from daemon.core.book import CENT, OPTION_MULTIPLIER
from daemon.core.broker.fills import COST_GRID
from daemon.core.events import (
    BarClosed,
    BarCorrected,
    BrokerOrder,
    BrokerReported,
    CancelRejected,
    Event,
    HistoryAdjusted,
    OrderAccepted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderFound,
    OrderMissing,
    OrderRejected,
    OrderUnknown,
    PolicyAnswered,
    PricesPrinted,
    QuotesReceived,
    RebalanceDue,
    TradeCorrected,
)
from daemon.core.instruments.option_market import parse_occ
from daemon.core.orders import BROKER_STATUS, LIFE, SUBMITTED, TERMINAL
from daemon.reports.execution_quality import CLOSE, PRINT, QUOTE, ZERO, Arrival, OrderQuality, Quality, WorkQuality
from strategies.kit.contract import Bar
from strategies.kit.quantity import Quantity, exact, of_column

_WORDS: dict[type[Event], str] = {
    OrderAccepted: "accepted",
    OrderRejected: "rejected",
    OrderCanceled: "canceled",
    OrderExpired: "expired",
    OrderUnknown: "unknown",
    OrderMissing: "missing",
    CancelRejected: "cancel_rejected",
}


class Filled(NamedTuple):
    """What an order filled up to a time: cost is the sum of price x quantity."""

    quantity: Quantity = 0
    cost: Decimal = ZERO
    fees: Decimal = ZERO


NOTHING = Filled()


@dataclass(slots=True)
class _Sent:
    """An order in the making. `earlier` is what it filled before the session, which is not the session's."""

    client_order_id: str
    decision: int
    leg: int
    attempt: int
    purpose: str
    symbol: str
    side: int
    auction: bool
    quantity: Quantity
    limit: Decimal | None
    arrival: Arrival | None
    submitted_ns: int
    status: str = SUBMITTED
    reason: str = ""
    filled: Quantity = 0
    cost: Decimal = ZERO
    fees: Decimal = ZERO
    correction: int = 0
    corrected_by: tuple[str, ...] = ()
    accepted_ns: int = 0
    first_fill_ns: int = 0
    last_fill_ns: int = 0
    cancel_asked_ns: int = 0
    canceled_ns: int = 0
    ended_ns: int = 0
    ended_at: Arrival | None = None
    earlier: Filled = NOTHING

    @property
    def now(self) -> Filled:
        """What it filled in the session."""
        before = self.earlier
        return Filled(self.filled - before.quantity, self.cost - before.cost, self.fees - before.fees)

    @property
    def ordered_now(self) -> Quantity:
        """What it could still fill when the session began."""
        return self.quantity - self.earlier.quantity

    @property
    def multiplier(self) -> int:
        return OPTION_MULTIPLIER if parse_occ(self.symbol) is not None else 1


class Watch:
    """Sees a session's events and their effects in order. `known` is the newest price of each symbol."""

    __slots__ = ("_decided", "_resting", "_sent", "known")

    def __init__(self) -> None:
        self.known: dict[str, Arrival] = {}
        self._sent: dict[str, _Sent] = {}
        self._resting: set[str] = set()  # stops
        self._decided: dict[int, tuple[int, dict[str, Arrival]]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Client order ids, in the order in which they were sent."""
        return tuple(self._sent)

    def see(self, event: Event, effects: Iterable[Mapping[str, Any]] = ()) -> None:
        """Take one event, then what its step asked for (the journal's JSON objects, each with its `type`)."""
        self.see_price(event)
        match event:
            case PolicyAnswered(time_ns=time_ns, decision=decision):
                self._decided[decision] = (time_ns, dict(self.known))
            case OrderFilled():
                self._filled(event)
            case TradeCorrected():
                self._corrected(event)
            case OrderFound(time_ns=time_ns, order=order):
                self._found(order, time_ns)
            case BrokerReported(time_ns=time_ns):
                for order in (*event.ended_orders, *event.open_orders):
                    self._found(order, time_ns)
                for fill in event.fills:
                    self._filled(fill)
            case _ if type(event) in _WORDS:
                self._news(event, _WORDS[type(event)])
        for effect in effects:
            if effect["type"] == "SubmitOrder":
                self._submitted(effect, event.time_ns)
            elif effect["type"] == "CancelOrder" and (sent := self._sent.get(effect["client_order_id"])):
                sent.cancel_asked_ns = sent.cancel_asked_ns or event.time_ns
                self._advance(sent, "cancel_requested", event.time_ns)

    def see_earlier(self, row: Mapping[str, Any], earlier: Filled) -> None:
        """Take an order of an earlier session that may still fill, a row of `orders`: it is one once it does."""
        name, limit = row["client_order_id"], row["limit_price"]
        decision, leg, attempt = map(int, name.rsplit("-", 3)[1:])
        self._resting.add(name)
        self._sent[name] = _Sent(
            name,
            decision,
            leg,
            attempt,
            "entry" if row["purpose"] == "entry" else "exit",
            row["symbol"],
            row["side"],
            False,
            of_column(row["quantity"]),
            None if limit is None else Decimal(limit),
            None,
            row["submitted_ns"],
            filled=earlier.quantity,
            cost=earlier.cost,
            fees=earlier.fees,
            earlier=earlier,
        )

    def see_price(self, event: Event) -> None:
        """Take only the prices of the event."""
        match event:
            case QuotesReceived():
                for quote in event.quotes:
                    if quote.bid > 0 and quote.ask > 0:  # one side alone has no middle
                        middle = (quote.bid + quote.ask) / 2
                        self.known[quote.symbol] = Arrival(middle, QUOTE, quote.quoted_ns, quote.bid, quote.ask)
            case PricesPrinted(time_ns=time_ns):
                for printed in event.prices:
                    self.known[printed.symbol] = Arrival(printed.price, PRINT, time_ns)
            case BarClosed(time_ns=time_ns, bar=bar):
                self._closed(bar, time_ns)
            case BarCorrected(time_ns=time_ns, bar=bar):
                if (now := self.known.get(bar.symbol)) is None or now.source == CLOSE:
                    self._closed(bar, time_ns)
            case RebalanceDue(time_ns=time_ns):
                for bar in event.running:
                    self._closed(bar, time_ns)
            case HistoryAdjusted(time_ns=time_ns, symbol=symbol, bars=bars) if bars:
                self.known.pop(symbol, None)  # what was known before a split is no price any more
                self._closed(bars[-1], time_ns)

    def quality(self, statuses: Mapping[str, str] | None = None) -> Quality:
        """Return the orders' quality so far; `statuses` by client order id overrule the events.

        A stop that rests at the broker is an order once it sold something, without a price on arrival.
        """
        shown = {name: sent for name, sent in self._sent.items() if sent.now.quantity or name not in self._resting}
        orders = tuple(self._order(sent, (statuses or {}).get(name, sent.status)) for name, sent in shown.items())
        by_work = sorted(shown.values(), key=lambda sent: (sent.decision, sent.leg))  # stable: attempts in order
        works = [self._work(tuple(group)) for _, group in groupby(by_work, lambda sent: (sent.decision, sent.leg))]
        place = {order.work: index for index, order in reversed(tuple(enumerate(orders)))}
        return Quality(orders, tuple(sorted(works, key=lambda work: place[work.work])))

    # --- news ---

    def _closed(self, bar: Bar, time_ns: int) -> None:
        self.known[bar.symbol] = Arrival(Decimal(repr(bar.close)), CLOSE, time_ns)

    def _submitted(self, effect: Mapping[str, Any], time_ns: int) -> None:
        name = str(effect["client_order_id"])
        if name in self._sent:  # the broker did not know it: the same order goes out again
            self._advance(self._sent[name], "sent_again", time_ns)
            return
        decision, leg, attempt = map(int, name.rsplit("-", 3)[1:])
        side, limit, intent = int(effect["side"]), effect["limit_price"], effect["intent"]
        if rests := effect.get("stop_price") is not None:
            self._resting.add(name)
        entry = intent == "buy_to_open" or (not intent and side > 0)
        self._sent[name] = _Sent(
            name,
            decision,
            leg,
            attempt,
            "entry" if entry else "exit",
            effect["symbol"],
            side,
            bool(effect.get("auction")),
            of_column(effect["quantity"]),
            None if limit is None else Decimal(limit),
            None if rests else self.known.get(effect["symbol"]),  # it is no order to sell now
            time_ns,
        )

    def _news(self, event: Event, word: str) -> None:
        sent = self._sent.get(getattr(event, "client_order_id", ""))
        if sent is None:
            return
        if word == "accepted":
            sent.accepted_ns = sent.accepted_ns or event.time_ns
        elif word == "canceled":
            sent.canceled_ns = sent.canceled_ns or event.time_ns
        elif isinstance(event, OrderRejected):
            sent.reason = event.reason
        self._advance(sent, word, event.time_ns)

    def _advance(self, sent: _Sent, word: str, time_ns: int) -> None:
        status = LIFE.get((sent.status, word))
        if status is None or status == sent.status:
            return
        sent.status = status
        sent.ended_ns, sent.ended_at = (time_ns, self.known.get(sent.symbol)) if status in TERMINAL else (0, None)

    def _filled(self, fill: OrderFilled) -> None:
        sent = self._sent.get(fill.client_order_id)
        same = sent is not None and (fill.symbol, fill.side) == (sent.symbol, sent.side)
        if sent is None or not same or fill.correction < sent.correction or fill.cumulative_quantity > sent.quantity:
            return
        if (fill.correction, fill.cumulative_quantity) > (sent.correction, sent.filled):
            fees, total = fill.cumulative_fees, fill.cumulative_cost
            self._set(sent, fill.correction, fill.cumulative_quantity, total, fees, fill.time_ns)
        sent.first_fill_ns = min(sent.first_fill_ns or fill.filled_ns, fill.filled_ns)
        sent.last_fill_ns = max(sent.last_fill_ns, fill.filled_ns)

    def _corrected(self, event: TradeCorrected) -> None:
        sent = self._sent.get(event.client_order_id)
        if sent is None or event.execution_id in sent.corrected_by:
            return
        sent.corrected_by = (*sent.corrected_by, event.execution_id)
        correction, quantity = sent.correction + 1, event.cumulative_quantity
        self._set(sent, correction, quantity, event.cumulative_cost, sent.fees, event.time_ns)

    def _found(self, report: BrokerOrder, time_ns: int) -> None:
        """The broker's own word on an order: its totals where they go beyond ours, and its status."""
        sent, filled = self._sent.get(report.client_order_id), exact(report.filled)
        if sent is None or (report.symbol, report.side) != (sent.symbol, sent.side) or report.quantity != sent.quantity:
            return
        if report.average_price is not None:
            grid = CENT if sent.multiplier == OPTION_MULTIPLIER else COST_GRID
            cost = (report.average_price * report.filled).quantize(grid)
            if filled > sent.filled or (sent.correction and (filled, cost) != (sent.filled, sent.cost)):
                correction = sent.correction + (filled <= sent.filled)
                self._set(sent, correction, filled, cost, sent.fees, time_ns)
                sent.first_fill_ns, sent.last_fill_ns = sent.first_fill_ns or time_ns, sent.last_fill_ns or time_ns
        word = BROKER_STATUS.get(report.status)
        if filled >= sent.filled and word is not None and not (word == "filled" and sent.filled < sent.quantity):
            if word == "canceled":
                sent.canceled_ns = sent.canceled_ns or time_ns
            self._advance(sent, word, time_ns)

    def _set(self, sent: _Sent, correction: int, filled: Quantity, cost: Decimal, fees: Decimal, time_ns: int) -> None:
        sent.correction, sent.filled, sent.cost, sent.fees = correction, filled, cost, fees
        self._advance(sent, "filled" if filled == sent.quantity else "partial", time_ns)

    # --- what came of it ---

    def _order(self, sent: _Sent, status: str) -> OrderQuality:
        return OrderQuality(
            client_order_id=sent.client_order_id,
            work=f"{sent.decision}.{sent.leg}",
            decision=sent.decision,
            attempt=sent.attempt,
            purpose=sent.purpose,
            symbol=sent.symbol,
            side=sent.side,
            auction=sent.auction,
            quantity=sent.ordered_now,
            multiplier=sent.multiplier,
            limit=sent.limit,
            arrival=sent.arrival,
            status=status,
            reason=sent.reason,
            filled=sent.now.quantity,
            cost=sent.now.cost,
            fees=sent.now.fees,
            corrections=sent.correction,
            decided_ns=self._decided.get(sent.decision, (sent.submitted_ns, {}))[0],
            submitted_ns=sent.submitted_ns,
            accepted_ns=sent.accepted_ns,
            first_fill_ns=sent.first_fill_ns,
            last_fill_ns=sent.last_fill_ns,
            cancel_asked_ns=sent.cancel_asked_ns,
            canceled_ns=sent.canceled_ns,
            ended_ns=sent.ended_ns,
        )

    def _work(self, attempts: Sequence[_Sent]) -> WorkQuality:
        first, last = attempts[0], attempts[-1]
        before: Quantity = 0
        ordered: Quantity = 0
        for sent in attempts:
            ordered = max(ordered, before + sent.ordered_now)
            before += sent.now.quantity
        working = any(sent.status not in TERMINAL for sent in attempts)
        prices = self._decided.get(first.decision, (0, {}))[1]
        return WorkQuality(
            work=f"{first.decision}.{first.leg}",
            symbol=first.symbol,
            side=first.side,
            purpose=first.purpose,
            orders=len(attempts),
            wanted=ordered,
            filled=before,
            multiplier=first.multiplier,
            decision=prices.get(first.symbol, first.arrival),
            end=self.known.get(first.symbol) if working else last.ended_at,
            open=working,
            cost=sum((sent.now.cost for sent in attempts), ZERO),
            fees_usd=sum((sent.now.fees for sent in attempts), ZERO),
        )
