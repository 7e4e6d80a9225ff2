"""The venue: orders arrive, match the quotes of the market's path points, are cancelled and replaced.

Every change of an order goes through `emit`, so REST, trade updates and activities agree. A cancel or a change is
requested now and done after the venue's delay, or refused; the script may decide the race. Simulated time only.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import random
from collections.abc import Callable
from decimal import ROUND_DOWN, ROUND_UP, Decimal
from typing import Any

from daemon.alpaca_api.books import PositionChange
from daemon.alpaca_api.refusals import Refusal, unprocessable
from daemon.alpaca_api.tickets import number, ticket
from daemon.alpaca_api.wire import ZERO, fill_fields, multiplier, stamp, text
from simulator.trading.account import Account, fault_context
from simulator.trading.order_rules import FractionRules, check, check_price_grid
from simulator.trading.orders import AlpacaOrder, triggers
from simulator.trading.trade_stream import FaultyTradeStream
from simulator.trading.venue import Brokerage
from strategies.kit.contract import Session
from strategies.kit.quantity import FINEST
from strategies.kit.units import SECOND_NS

MATCHABLE = frozenset({"new", "partially_filled", "pending_cancel"})


class Matching:
    """The orders of all accounts of one server; its methods run on the server's loop."""

    def __init__(self, venue: Brokerage, trade_stream: FaultyTradeStream) -> None:
        self.venue = venue
        self.trade_stream = trade_stream
        self.changed = asyncio.Event()
        self.seen_ns = venue.clock.now_ns()  # path points up to here have been matched
        self._submitted_ns = 0

    def match_points(self, until_ns: int) -> None:
        """Match the working orders at each path point up to `until_ns`."""
        accounts = [account for account in self.venue.accounts.values() if account.working]
        while accounts and (point := self.venue.market.next_change(self.seen_ns)) <= until_ns:
            self.seen_ns = point
            is_open = self.venue.market.session_at(point) is not None
            for account in accounts:
                for order in list(account.working.values()):
                    if point >= order.created_ns and (is_open or order.extended_hours):
                        self._touch(account, order, point)
        self.seen_ns = max(self.seen_ns, until_ns)

    def _touch(self, account: Account, order: AlpacaOrder, point_ns: int) -> None:
        """Process one working order at one path point; one that waited for the open begins to work."""
        if order.status in ("accepted", "done_for_day"):
            self.arrive(account, order, point_ns)
        elif point_ns >= order.unreached_until_ns:
            self._match(account, order, point_ns)

    # --- the life of an order ---------------------------------------------------------------------------------------

    def submit(
        self,
        account: Account,
        body: dict[str, Any],
        *,
        crosses: bool = False,
        whole_position: Decimal | None = None,
    ) -> AlpacaOrder:
        """Add an order to the books (`pending_new`, or `accepted` while the market is closed). Raises `Refusal`.

        With `crosses` it may meet the account's own orders; `whole_position` is the quantity of a close call for all.
        """
        now_ns = self._submitted_ns = max(self.venue.clock.now_ns(), self._submitted_ns + 1)  # all different
        request = ticket(body)
        if request.client_order_id in account.by_client_id:
            raise Refusal(422, self.venue.rules.duplicate_id_code, "client_order_id must be unique")
        fractions = self._fractions(whole_position)
        intent, reserve = check(request, account, self.venue.market, now_ns, crosses=crosses, fractions=fractions)
        session = self._session_for(now_ns)
        order = AlpacaOrder(
            id=account.new_id(),
            client_order_id=request.client_order_id or account.new_id(),
            symbol=request.symbol,
            side=request.side,
            type=request.type,
            time_in_force=request.time_in_force,
            qty=request.qty,
            notional=request.notional,
            created_ns=now_ns,
            position_intent=intent,
            limit_price=request.limit_price,
            stop_price=request.stop_price,
            trail_price=request.trail_price,
            trail_percent=request.trail_percent,
            extended_hours=request.extended_hours,
            reserve_price=reserve,
            expires_ns=0 if session is None or request.time_in_force == "gtc" else session.close_ns,
        )
        self.take_in(account, order, now_ns)
        return order

    def _fractions(self, whole_position: Decimal | None = None) -> FractionRules:
        rules = self.venue.rules
        return FractionRules(rules.not_fractionable, rules.fraction_least_usd, whole_position)

    def take_in(self, account: Account, order: AlpacaOrder, now_ns: int) -> None:
        """Add a new order to the books and send it to the venue, where it may work at once."""
        waits = self.venue.market.session_at(now_ns) is None and not order.extended_hours
        waits = waits or order.time_in_force == "opg"
        order.status = "accepted" if waits else "pending_new"
        account.add(order)
        self.emit(account, order, order.status, now_ns)
        if not waits:
            self.later(self.venue.rules.venue_delay_s, lambda: self.arrive(account, order, self.venue.clock.now_ns()))
        self.changed.set()

    def arrive(self, account: Account, order: AlpacaOrder, at_ns: int) -> None:
        """Let the order reach the venue: it is rejected there, or new and matched at once."""
        if order.status not in {"accepted", "pending_new", "done_for_day"} or order.held:
            return
        context = fault_context(account, order)
        if self.venue.faults.take("order_rejected", context) is not None:
            order.failed_ns = at_ns
            self.end(account, order, "rejected", at_ns)
            return
        back = self.venue.faults.take("order_held_back", context)
        if back is not None:
            delay_s = float(back.get("seconds", 30))
            self.later(delay_s, lambda: self.arrive(account, order, self.venue.clock.now_ns()))
            return
        order.status = "new"
        self.emit(account, order, "new", at_ns)
        self._match(account, order, at_ns)

    def _match(self, account: Account, order: AlpacaOrder, at_ns: int) -> None:
        if order.status not in MATCHABLE or order.held or order.time_in_force == "cls":
            return
        price = self.price(order, at_ns)
        if price is not None:
            self.fill(account, order, self._size(account, order, at_ns), price, at_ns)
        if order.open and order.time_in_force in {"ioc", "fok", "opg"}:
            order.canceled_ns = at_ns
            self.end(account, order, "canceled", at_ns)

    def price(self, order: AlpacaOrder, at_ns: int) -> Decimal | None:
        """Return the order's price at the quote of `at_ns`; None if it does not trade, or the other side is missing."""
        quote = self._quote(order, at_ns)
        if quote is None:
            return None
        bid, ask = quote
        if not order.triggered and order.type in {"stop", "stop_limit", "trailing_stop"}:
            by_bid = self.venue.rules.stop_elects == "bid" and order.side == "sell" and multiplier(order.symbol) == 100
            order.triggered = triggers(order, bid if by_bid else (bid + ask) / 2)
            if not order.triggered:
                order.unreached_until_ns = self._unreached_until(order, at_ns)
                return None
        price = ask if order.side == "buy" else bid
        limit = order.limit_price
        if price <= 0 or (limit is not None and (limit - price) * order.sign < 0):
            return None
        return price

    def _unreached_until(self, order: AlpacaOrder, at_ns: int) -> int:
        """Return the time before which no price of the running minute touches a stop that sells; 0 where one may.

        A minute's path is known with its first point, whatever a script or a company does in it; quotes lie above it.
        """
        if order.side == "buy" or order.type == "trailing_stop" or order.symbol not in self.venue.market.derived:
            return 0
        assert order.stop_price is not None
        least_price, until_ns = self.venue.market.least_of_minute(order.symbol, at_ns)
        return until_ns if least_price > order.stop_price else 0

    def _quote(self, order: AlpacaOrder, at_ns: int) -> tuple[Decimal, Decimal] | None:
        """Return this order's bid and ask; a share of daily prices has one price in the opening auction."""
        market = self.venue.market
        if order.time_in_force == "opg" and order.symbol in market.derived:
            opening_price = market.opening_print(order.symbol, at_ns)
            return None if opening_price is None else (opening_price, opening_price)
        return market.quote(order.symbol, at_ns) if market.trading(order.symbol, at_ns) else None

    def _size(self, account: Account, order: AlpacaOrder, at_ns: int) -> Decimal:
        units_left = order.left
        if order.time_in_force in {"fok", "opg", "cls"}:
            return units_left
        part = self.venue.faults.take("fill_partial", fault_context(account, order))
        if part is not None:
            order.held = bool(part.get("then_held"))
            return min(units_left, Decimal(str(part.get("quantity", 1))))
        seed = f"{self.venue.rules.seed}:{order.created_ns}:{at_ns}"  # not the client order id: it contains the epoch
        draw = random.Random(seed)
        size = draw.randint(*self.venue.rules.fill_sizes)
        if self.venue.rules.fractions_in_parts and units_left % 1:
            return (units_left * Decimal(str(draw.random()))).quantize(FINEST, ROUND_UP)
        return min(units_left, Decimal(size * (1 if multiplier(order.symbol) == 100 else 100)))

    def fill(self, account: Account, order: AlpacaOrder, quantity: Decimal, price: Decimal, at_ns: int) -> None:
        """Book an execution: order, position, cash, activity and trade update change together."""
        if self.venue.faults.take("fill_unheard", fault_context(account, order)) is not None:
            self.trade_stream.cut(account.key)
        if order.notional is not None:
            quantity = min(quantity, ((order.notional - order.cost) / price).quantize(FINEST))
        execution_id = account.new_id()
        change = PositionChange(order.symbol, quantity * order.sign, price, at_ns, order.id, execution_id)
        account.trade(dataclasses.replace(change, rounding=self.rounding(account, change)))
        order.filled_qty += quantity
        order.cost += quantity * price
        order.filled_ns = at_ns
        dust = order.notional is not None and (order.notional - order.cost) < price / 10**6
        whole = order.left <= 0 or dust
        order.status = "filled" if whole else ("partially_filled" if order.status != "pending_cancel" else order.status)
        if whole:
            account.working.pop(order.id, None)
        account.note(at_ns, fill_fields(order, quantity, price, at_ns, whole=whole), name=execution_id)
        self.emit(
            account,
            order,
            "fill" if whole else "partial_fill",
            at_ns,
            execution_id=execution_id,
            price=text(price),
            qty=text(quantity),
            position_qty=text(account.quantity(order.symbol)),
        )

    def rounding(self, account: Account, fill: PositionChange, former: PositionChange | None = None) -> Decimal:
        """Return the part of a fill's cost from rounding to cents: of this fill alone, or of its order's so far.

        It may replace a `former` one.
        """
        how = self.venue.rules.rounding
        if how == "none":
            return ZERO
        other_trades = (t for t in account.trades if how == "order" and t.order_id == fill.order_id and t is not former)
        cost_before = sum((trade.cost - trade.rounding for trade in other_trades), ZERO)
        exact = fill.cost - fill.rounding
        return round(cost_before + exact, 2) - round(cost_before, 2) - exact

    def close(self, account: Account, symbol: str, quantity: Decimal | None, percent: Decimal | None) -> AlpacaOrder:
        """Submit a market order that closes the position, whole or in part. Raises `Refusal`, 404 without one."""
        units = account.quantity(symbol)
        if not units:
            raise Refusal(404, 40410000, f"position not found: {symbol}")
        amount = abs(units) if quantity is None else quantity
        if percent is not None:
            grid = Decimal(1) if multiplier(symbol) == 100 else FINEST
            amount = (abs(units) * percent / 100).quantize(grid, ROUND_DOWN)
        whole = amount if amount == abs(units) else None
        context = {"key": account.key, "symbol": symbol}
        if multiplier(symbol) == 1 and (dust := self.venue.faults.take("close_dust", context)) is not None:
            amount = max(amount - Decimal(str(dust.get("quantity", FINEST))), FINEST)
            whole = amount
        side = "sell" if units > 0 else "buy"
        body = {"symbol": symbol, "qty": text(amount), "side": side, "type": "market", "time_in_force": "day"}
        return self.submit(account, body, crosses=self.venue.rules.calls_cross, whole_position=whole)

    def by_hand(self, account: Account, action: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Carry out a person's `place`, `cancel` or `close`; see `AlpacaServer.by_hand`."""
        match action:
            case "place":
                order = self.submit(account, {"type": "market", "time_in_force": "day", **fields})
                account.by_hand.add(order.id)
                return order.shown()
            case "cancel":
                order = account.orders[fields["order_id"]]
                self.cancel(account, order)
                return order.shown()
            case "close":
                order = self.close(account, fields["symbol"], None, None)
                account.by_hand.add(order.id)
                return order.shown()
            case _:
                raise ValueError(f"by_hand: found {action!r}; expected place, cancel or close")

    # --- what becomes of an order that is to be cancelled or replaced -------------------------------------------------

    def cancel(self, account: Account, order: AlpacaOrder) -> None:
        """Request a cancellation; it is done (or a fill wins) after this returns. Raises `Refusal` if impossible."""
        context = fault_context(account, order)
        if not order.open or order.status in {"pending_cancel", "pending_replace"}:
            raise unprocessable("order is not cancelable")
        if self.venue.faults.take("cancel_refused", context) is not None:
            raise unprocessable("order is not cancelable")
        now_ns = self.venue.clock.now_ns()
        status_before, order.status, order.cancel_requested_ns = order.status, "pending_cancel", now_ns
        self.emit(account, order, "pending_cancel", now_ns)
        next_call: Callable[[Account, AlpacaOrder], None] = self._cancel_now
        if self.venue.faults.take("cancel_stuck", context) is not None:
            order.held = True
            return
        if self.venue.faults.take("cancel_rejected", context) is not None:
            next_call = functools.partial(self._cancel_not, status_before=status_before)
        elif self.venue.faults.take("cancel_loses", context) is not None:
            next_call = self._fill_instead
        elif fault := self.venue.faults.take("cancel_overtaken", context):
            next_call = functools.partial(self._cancel_and_fill, delay_s=float(fault.get("delay_s", 30)))
        self.later(self.venue.rules.venue_delay_s, lambda: next_call(account, order))

    def _cancel_now(self, account: Account, order: AlpacaOrder) -> None:
        if order.open:
            order.canceled_ns = self.venue.clock.now_ns()
            self.end(account, order, "canceled", order.canceled_ns)

    def _cancel_and_fill(self, account: Account, order: AlpacaOrder, *, delay_s: float) -> None:
        """Cancel, then report a fill that the venue made before."""
        self._cancel_now(account, order)
        self.later(delay_s, lambda: self._fill_late(account, order))

    def _fill_late(self, account: Account, order: AlpacaOrder) -> None:
        """Fill a cancelled order whose limit was met before. A sale never exceeds the free holding."""
        if order.status == "canceled" and (order.sign > 0 or account.available(order.symbol) >= order.left):
            now_ns = self.venue.clock.now_ns()
            self.fill(account, order, order.left, order.limit_price or order.reserve_price, now_ns)

    def _cancel_not(self, account: Account, order: AlpacaOrder, *, status_before: str) -> None:
        if order.open:
            order.status = status_before
            self.emit(account, order, "order_cancel_rejected", self.venue.clock.now_ns())

    def _fill_instead(self, account: Account, order: AlpacaOrder) -> None:
        """Fill an order that won the race: at the quote if it crosses, else at the limit."""
        if order.open:
            now_ns = self.venue.clock.now_ns()
            price = self.price(order, now_ns) or order.limit_price or order.reserve_price
            self.fill(account, order, order.left, price, now_ns)

    def replace(self, account: Account, old: AlpacaOrder, fields: dict[str, Any]) -> AlpacaOrder:
        """Replace `old` by a new order for its unfilled rest; returns it. Raises `Refusal`."""
        if old.status not in {"new", "partially_filled", "accepted", "pending_new"}:
            raise unprocessable(f"cannot replace order in {old.status} status")
        new = _replacement(account, old, fields, self.venue.clock.now_ns())
        self._check_replacement(account, old, new)
        now_ns = new.created_ns
        status_before, old.status = old.status, "pending_replace"
        self.emit(account, old, "pending_replace", now_ns)
        if self.venue.faults.take("replace_rejected", fault_context(account, old)) is not None:
            old.status = status_before
            self.emit(account, old, "order_replace_rejected", now_ns)
            return new
        old.replaced_ns, old.replaced_by = now_ns, new.id
        self.end(account, old, "replaced", now_ns)
        self.take_in(account, new, now_ns)
        return new

    def _check_replacement(self, account: Account, old: AlpacaOrder, new: AlpacaOrder) -> None:
        trails = new.type == "trailing_stop"  # the present stop price of its trail, which the client did not send
        for price in (new.limit_price, None if trails else new.stop_price):
            check_price_grid(price)
        if new.client_order_id in account.by_client_id:
            raise Refusal(422, self.venue.rules.duplicate_id_code, "client_order_id must be unique")
        account.working.pop(old.id)  # the new order takes over the old one's hold
        try:
            new_ticket = ticket(new.shown() | ({"stop_price": None} if trails else {}))
            check(new_ticket, account, self.venue.market, new.created_ns, fractions=self._fractions())
        finally:
            account.working[old.id] = old

    # --- what all of them do ----------------------------------------------------------------------------------------

    def end(self, account: Account, order: AlpacaOrder, event: str, at_ns: int) -> None:
        """End the order: `event` is also its last status."""
        order.status = event
        account.working.pop(order.id, None)
        self.emit(account, order, event, at_ns)

    def emit(
        self,
        account: Account,
        order: AlpacaOrder,
        event: str,
        at_ns: int,
        *,
        execution_id: str | None = None,
        **extra: str,
    ) -> None:
        """Update REST's view, and publish to the trade stream."""
        order.updated_ns = at_ns
        row = order.shown()
        order.past.append((self.venue.clock.now_ns(), row))
        if execution_id is None and event not in {"accepted", "pending_new"}:
            execution_id = account.new_id()
        update = {"event": event, "execution_id": execution_id, "timestamp": stamp(at_ns), **extra, "order": row}
        self.trade_stream.publish(account.key, update)

    def _session_for(self, now_ns: int) -> Session | None:
        """Return the session in which a day order of `now_ns` works: this one, or the next."""
        return next((session for session in self.venue.market.sessions if session.close_ns > now_ns), None)

    def later(self, sim_s: float, next_call: Callable[[], None]) -> None:
        """Call after this much simulated time; for 0, in the loop's next turn."""
        loop = asyncio.get_running_loop()
        if sim_s > 0:
            loop.call_later(self.venue.clock.real_s(int(sim_s * SECOND_NS)), next_call)
        else:
            loop.call_soon(next_call)  # the next turn: before the client can react to the reply


def _replacement(account: Account, old: AlpacaOrder, fields: dict[str, Any], now_ns: int) -> AlpacaOrder:
    """Return the order requested by PATCH. `qty` counts the whole old order, so the new one has only its rest."""
    changes: dict[str, Any] = {}
    for name in ("limit_price", "stop_price"):
        if (price := number(fields, name)) is not None:
            changes[name] = price
    if fields.get("time_in_force"):
        changes["time_in_force"] = str(fields["time_in_force"])
    if (trail := number(fields, "trail")) is not None:
        changes["trail_price" if old.trail_price is not None else "trail_percent"] = trail
    whole = old.qty
    if (quantity := number(fields, "qty")) is not None:
        whole = quantity
        if whole <= old.filled_qty:
            raise unprocessable("order qty must be greater than filled qty")
    if whole == old.qty and all(getattr(old, name) == value for name, value in changes.items()):
        raise unprocessable("order parameters are not changed")
    client_order_id = str(fields.get("client_order_id") or account.new_id())
    return dataclasses.replace(
        old,
        id=account.new_id(),
        client_order_id=client_order_id,
        created_ns=now_ns,
        updated_ns=now_ns,
        filled_ns=0,
        filled_qty=Decimal(0),
        cost=Decimal(0),
        qty=None if whole is None else whole - old.filled_qty,
        reserve_price=changes.get("limit_price", old.reserve_price),
        replaces=old.id,
        status="pending_new",
        past=[],
        **changes,
    )
