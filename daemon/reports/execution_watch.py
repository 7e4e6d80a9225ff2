"""Gather a session's orders from its journaled events, in order, for `daemon.reports.execution_quality` to judge.

A pure fold. Totals are set from the broker's reports, never added, so an event that comes twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from typing import Any, NamedTuple

from daemon.core.book import CENT, COST_GRID, OPTION_MULTIPLIER
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
    """Fills of an order up to a time: cost is the sum of price x quantity."""

    quantity: Quantity = 0
    cost: Decimal = ZERO
    fees: Decimal = ZERO


NOTHING = Filled()


@dataclass(slots=True)
class _OrderRecord:
    """An order under construction. `earlier` are its fills before the session, which do not count."""

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
        """The fills of this session only."""
        earlier = self.earlier
        return Filled(self.filled - earlier.quantity, self.cost - earlier.cost, self.fees - earlier.fees)

    @property
    def ordered_now(self) -> Quantity:
        """The quantity still unfilled at the session's begin."""
        return self.quantity - self.earlier.quantity

    @property
    def multiplier(self) -> int:
        return OPTION_MULTIPLIER if parse_occ(self.symbol) is not None else 1


class Watch:
    """Sees a session's events and their effects in order. `known` is the newest price of each symbol."""

    __slots__ = ("_decisions", "_orders", "_resting", "known")

    def __init__(self) -> None:
        self.known: dict[str, Arrival] = {}
        self._orders: dict[str, _OrderRecord] = {}
        self._resting: set[str] = set()  # names of stops
        self._decisions: dict[int, tuple[int, dict[str, Arrival]]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Client order ids, in the order in which they were sent."""
        return tuple(self._orders)

    def see(self, event: Event, effects: Iterable[Mapping[str, Any]] = ()) -> None:
        """Take one event, then the effects of its step (the journal's JSON objects, each with its `type`)."""
        self.see_price(event)
        match event:
            case PolicyAnswered(time_ns=time_ns, decision=decision):
                self._decisions[decision] = (time_ns, dict(self.known))
            case OrderFilled():
                self._note_fill(event)
            case TradeCorrected():
                self._note_correction(event)
            case OrderFound(time_ns=time_ns, order=order):
                self._note_report(order, time_ns)
            case BrokerReported(time_ns=time_ns):
                for order in (*event.ended_orders, *event.open_orders):
                    self._note_report(order, time_ns)
                for fill in event.fills:
                    self._note_fill(fill)
            case _ if type(event) in _WORDS:
                self._news(event, _WORDS[type(event)])
        for effect in effects:
            if effect["type"] == "SubmitOrder":
                self._add_order(effect, event.time_ns)
            elif effect["type"] == "CancelOrder" and (canceled_order := self._orders.get(effect["client_order_id"])):
                canceled_order.cancel_asked_ns = canceled_order.cancel_asked_ns or event.time_ns
                self._advance(canceled_order, "cancel_requested", event.time_ns)

    def see_earlier(self, row: Mapping[str, Any], earlier: Filled) -> None:
        """Take an order of an earlier session that may still fill, a row of `orders`; it counts once it fills."""
        name, limit = row["client_order_id"], row["limit_price"]
        decision, leg, attempt = map(int, name.rsplit("-", 3)[1:])
        self._resting.add(name)
        self._orders[name] = _OrderRecord(
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
                    if quote.bid > 0 and quote.ask > 0:  # one side only has no mid
                        middle = (quote.bid + quote.ask) / 2
                        self.known[quote.symbol] = Arrival(middle, QUOTE, quote.quoted_ns, quote.bid, quote.ask)
            case PricesPrinted(time_ns=time_ns):
                for price in event.prices:
                    self.known[price.symbol] = Arrival(price.price, PRINT, time_ns)
            case BarClosed(time_ns=time_ns, bar=bar):
                self._note_close(bar, time_ns)
            case BarCorrected(time_ns=time_ns, bar=bar):
                if (now := self.known.get(bar.symbol)) is None or now.source == CLOSE:
                    self._note_close(bar, time_ns)
            case RebalanceDue(time_ns=time_ns):
                for bar in event.running:
                    self._note_close(bar, time_ns)
            case HistoryAdjusted(time_ns=time_ns, symbol=symbol, bars=bars) if bars:
                self.known.pop(symbol, None)  # a split invalidates the known price
                self._note_close(bars[-1], time_ns)

    def quality(self, statuses: Mapping[str, str] | None = None) -> Quality:
        """Return the orders' quality so far; `statuses` by client order id override the events.

        A resting stop counts as an order once it sold something, without an arrival price.
        """
        orders_shown = {
            name: order for name, order in self._orders.items() if order.now.quantity or name not in self._resting
        }
        orders = tuple(
            self._order(order, (statuses or {}).get(name, order.status)) for name, order in orders_shown.items()
        )
        # the sort is stable, so the attempts stay in order
        by_work = sorted(orders_shown.values(), key=lambda order: (order.decision, order.leg))
        works = [self._work(tuple(group)) for _, group in groupby(by_work, lambda order: (order.decision, order.leg))]
        place = {order.work: index for index, order in reversed(tuple(enumerate(orders)))}
        return Quality(orders, tuple(sorted(works, key=lambda work: place[work.work])))

    # --- news ---

    def _note_close(self, bar: Bar, time_ns: int) -> None:
        self.known[bar.symbol] = Arrival(Decimal(repr(bar.close)), CLOSE, time_ns)

    def _add_order(self, effect: Mapping[str, Any], time_ns: int) -> None:
        name = str(effect["client_order_id"])
        if name in self._orders:  # the broker did not know it: the same order is sent again
            self._advance(self._orders[name], "sent_again", time_ns)
            return
        decision, leg, attempt = map(int, name.rsplit("-", 3)[1:])
        side, limit, intent = int(effect["side"]), effect["limit_price"], effect["intent"]
        if rests := effect.get("stop_price") is not None:
            self._resting.add(name)
        entry = intent == "buy_to_open" or (not intent and side > 0)
        self._orders[name] = _OrderRecord(
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
        order = self._orders.get(getattr(event, "client_order_id", ""))
        if order is None:
            return
        if word == "accepted":
            order.accepted_ns = order.accepted_ns or event.time_ns
        elif word == "canceled":
            order.canceled_ns = order.canceled_ns or event.time_ns
        elif isinstance(event, OrderRejected):
            order.reason = event.reason
        self._advance(order, word, event.time_ns)

    def _advance(self, order: _OrderRecord, word: str, time_ns: int) -> None:
        status = LIFE.get((order.status, word))
        if status is None or status == order.status:
            return
        order.status = status
        order.ended_ns, order.ended_at = (time_ns, self.known.get(order.symbol)) if status in TERMINAL else (0, None)

    def _note_fill(self, fill: OrderFilled) -> None:
        order = self._orders.get(fill.client_order_id)
        same = order is not None and (fill.symbol, fill.side) == (order.symbol, order.side)
        if order is None or not same or fill.correction < order.correction or fill.cumulative_quantity > order.quantity:
            return
        if (fill.correction, fill.cumulative_quantity) > (order.correction, order.filled):
            fees, total = fill.cumulative_fees, fill.cumulative_cost
            self._set(order, fill.correction, fill.cumulative_quantity, total, fees, fill.time_ns)
        order.first_fill_ns = min(order.first_fill_ns or fill.filled_ns, fill.filled_ns)
        order.last_fill_ns = max(order.last_fill_ns, fill.filled_ns)

    def _note_correction(self, event: TradeCorrected) -> None:
        order = self._orders.get(event.client_order_id)
        if order is None or event.execution_id in order.corrected_by:
            return
        order.corrected_by = (*order.corrected_by, event.execution_id)
        correction, quantity = order.correction + 1, event.cumulative_quantity
        self._set(order, correction, quantity, event.cumulative_cost, order.fees, event.time_ns)

    def _note_report(self, report: BrokerOrder, time_ns: int) -> None:
        """Take the broker's report on an order: its totals if they exceed the known ones, and its status."""
        order, filled_quantity = self._orders.get(report.client_order_id), exact(report.filled)
        if (
            order is None
            or (report.symbol, report.side) != (order.symbol, order.side)
            or report.quantity != order.quantity
        ):
            return
        if report.average_price is not None:
            grid = CENT if order.multiplier == OPTION_MULTIPLIER else COST_GRID
            cost = (report.average_price * report.filled).quantize(grid)
            if filled_quantity > order.filled or (
                order.correction and (filled_quantity, cost) != (order.filled, order.cost)
            ):
                correction = order.correction + (filled_quantity <= order.filled)
                self._set(order, correction, filled_quantity, cost, order.fees, time_ns)
                order.first_fill_ns, order.last_fill_ns = order.first_fill_ns or time_ns, order.last_fill_ns or time_ns
        word = BROKER_STATUS.get(report.status)
        if (
            filled_quantity >= order.filled
            and word is not None
            and not (word == "filled" and order.filled < order.quantity)
        ):
            if word == "canceled":
                order.canceled_ns = order.canceled_ns or time_ns
            self._advance(order, word, time_ns)

    def _set(
        self,
        order: _OrderRecord,
        correction: int,
        filled_quantity: Quantity,
        cost: Decimal,
        fees: Decimal,
        time_ns: int,
    ) -> None:
        order.correction, order.filled, order.cost, order.fees = correction, filled_quantity, cost, fees
        self._advance(order, "filled" if filled_quantity == order.quantity else "partial", time_ns)

    # --- what came of it ---

    def _order(self, order: _OrderRecord, status: str) -> OrderQuality:
        return OrderQuality(
            client_order_id=order.client_order_id,
            work=f"{order.decision}.{order.leg}",
            decision=order.decision,
            attempt=order.attempt,
            purpose=order.purpose,
            symbol=order.symbol,
            side=order.side,
            auction=order.auction,
            quantity=order.ordered_now,
            multiplier=order.multiplier,
            limit=order.limit,
            arrival=order.arrival,
            status=status,
            reason=order.reason,
            filled=order.now.quantity,
            cost=order.now.cost,
            fees=order.now.fees,
            corrections=order.correction,
            decided_ns=self._decisions.get(order.decision, (order.submitted_ns, {}))[0],
            submitted_ns=order.submitted_ns,
            accepted_ns=order.accepted_ns,
            first_fill_ns=order.first_fill_ns,
            last_fill_ns=order.last_fill_ns,
            cancel_asked_ns=order.cancel_asked_ns,
            canceled_ns=order.canceled_ns,
            ended_ns=order.ended_ns,
        )

    def _work(self, attempts: Sequence[_OrderRecord]) -> WorkQuality:
        first, last = attempts[0], attempts[-1]
        quantity_before: Quantity = 0
        quantity_ordered: Quantity = 0
        for order in attempts:
            quantity_ordered = max(quantity_ordered, quantity_before + order.ordered_now)
            quantity_before += order.now.quantity
        working = any(order.status not in TERMINAL for order in attempts)
        prices = self._decisions.get(first.decision, (0, {}))[1]
        return WorkQuality(
            work=f"{first.decision}.{first.leg}",
            symbol=first.symbol,
            side=first.side,
            purpose=first.purpose,
            orders=len(attempts),
            wanted=quantity_ordered,
            filled=quantity_before,
            multiplier=first.multiplier,
            decision=prices.get(first.symbol, first.arrival),
            end=self.known.get(first.symbol) if working else last.ended_at,
            open=working,
            cost=sum((order.now.cost for order in attempts), ZERO),
            fees_usd=sum((order.now.fees for order in attempts), ZERO),
        )
