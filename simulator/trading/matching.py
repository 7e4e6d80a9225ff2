"""The venue: orders arrive, match the quotes of the market's path points, are cancelled, replaced and expire.

Every change of an order goes through `emit`, so REST, trade updates and activities agree. Simulated time only.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from simulator.prices.market import NEVER_NS
from simulator.trading import order_changes, settlement, share_books
from simulator.trading.account import Account, Trade, fault_context
from simulator.trading.order_rules import check
from simulator.trading.orders import Order, fill_fields, multiplier, stamp, text, triggers
from simulator.trading.refusals import Refused
from simulator.trading.tickets import ticket
from strategies.kit.contract import Session
from strategies.kit.units import MINUTE_NS, SECOND_NS

if TYPE_CHECKING:
    from simulator.server import AlpacaServer

SELL_OUT_NS = 60 * MINUTE_NS  # before the close of an expiry's session
LONGEST_WAIT_S = 3600.0
MATCHABLE = frozenset({"new", "partially_filled", "pending_cancel"})


class Matching:
    """The venue and the broker's back office of all accounts of one server; its methods run on the server's loop."""

    def __init__(self, server: AlpacaServer) -> None:
        self.server = server
        self.changed = asyncio.Event()
        self._seen_ns = server.clock.now_ns()  # path points up to here are matched
        self._closed = sum(session.close_ns <= self._seen_ns for session in server.market.sessions)
        days = server.market.days
        self._actions = deque(entry for entry in ([] if days is None else days.actions()) if entry[0] > self._seen_ns)
        self._sold_out_ns = 0  # when expiring contracts were last looked at
        self._submitted_ns = 0

    # --- time -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Match and settle as simulated time passes, until cancelled; asleep while there is nothing to look at."""
        loop = asyncio.get_running_loop()
        self.server.faults.on_add = lambda: _wake(loop, self.changed)
        while True:
            self.changed.clear()
            self.advance(self.server.clock.now_ns())
            left_s = self.server.clock.real_s(self._next_wake() - self.server.clock.now_ns())
            with contextlib.suppress(TimeoutError):  # not wait_for: it may lose a cancellation
                async with asyncio.timeout(min(max(left_s, 0.0), LONGEST_WAIT_S)):
                    await self.changed.wait()

    def advance(self, now_ns: int) -> None:
        """All that happens up to `now_ns`: path points, sessions that close, companies' and the script's doings."""
        while (session := self._closing()) is not None and session.close_ns <= now_ns:
            self._act(session.close_ns)
            self._match_points(session.close_ns - 1)
            for account in self.server.accounts.values():
                settlement.close_session(self, account, session)
            self._closed += 1
        self._act(now_ns)
        self._match_points(now_ns)
        session_now = self.server.market.session_at(now_ns)
        if session_now is not None and self._sells_out(session_now, now_ns):
            self._sold_out_ns = now_ns
            for account in self.server.accounts.values():
                settlement.sell_out(self, account, session_now, now_ns)
        for account in self.server.accounts.values():
            settlement.take_faults(self, account, now_ns)
        self.server.trade_stream.tick()

    def _closing(self) -> Session | None:
        """The next session to close."""
        sessions = self.server.market.sessions
        return sessions[self._closed] if self._closed < len(sessions) else None

    def _act(self, until_ns: int) -> None:
        """Splits, dividends and new names up to `until_ns`, each after the path points before it."""
        while self._actions and self._actions[0][0] <= until_ns:
            at_ns, action, paid = self._actions.popleft()
            self._match_points(at_ns - 1)
            for account in self.server.accounts.values():
                share_books.happen(self, account, action, at_ns, paid=paid)

    def _sells_out(self, session: Session, now_ns: int) -> bool:
        return now_ns >= session.close_ns - SELL_OUT_NS and now_ns >= self._sold_out_ns + MINUTE_NS

    def _match_points(self, until_ns: int) -> None:
        accounts = [account for account in self.server.accounts.values() if account.working]
        while accounts and (point := self.server.market.next_change(self._seen_ns)) <= until_ns:
            self._seen_ns = point
            for account in accounts:
                for order in list(account.working.values()):
                    self._touch(account, order, point)
        self._seen_ns = max(self._seen_ns, until_ns)

    def _touch(self, account: Account, order: Order, point_ns: int) -> None:
        """One working order at one path point; one that waited for the open begins to work."""
        session = self.server.market.session_at(point_ns)
        if point_ns < order.created_ns or (session is None and not order.extended_hours):
            return
        if order.status == "accepted":
            self.arrive(account, order, point_ns)
        else:
            self._match(account, order, point_ns)

    def _next_wake(self) -> int:
        now_ns = self._seen_ns
        times = [self._actions[0][0] if self._actions else NEVER_NS]
        if (session := self._closing()) is not None:
            close_ns = session.close_ns
            times += [moment for moment in (close_ns - SELL_OUT_NS, close_ns) if moment > now_ns]
            if close_ns - SELL_OUT_NS <= now_ns and any(account.positions for account in self.server.accounts.values()):
                times.append(now_ns + MINUTE_NS)
        if any(account.working for account in self.server.accounts.values()):
            times.append(self.server.market.next_change(now_ns))
        for fault in self.server.faults.waiting(*settlement.KINDS, *self.server.trade_stream.TICKING):
            later = fault.from_ns is not None and fault.from_ns > now_ns
            times.append(fault.from_ns if later and fault.from_ns is not None else now_ns + MINUTE_NS)
        return min(times)

    # --- the life of an order ---------------------------------------------------------------------------------------

    def submit(self, account: Account, body: dict[str, Any]) -> Order:
        """Take an order into the books (`pending_new`, or `accepted` while the market is closed). Raises `Refused`."""
        now_ns = self._submitted_ns = max(self.server.clock.now_ns(), self._submitted_ns + 1)  # no two are the same
        made = ticket(body)
        if made.client_order_id in account.by_client_id:
            raise Refused(422, self.server.rules.duplicate_id_code, "client_order_id must be unique")
        intent, reserve = check(made, account, self.server.market, now_ns)
        session = self._session_for(now_ns)
        order = Order(
            id=account.new_id(),
            client_order_id=made.client_order_id or account.new_id(),
            symbol=made.symbol,
            side=made.side,
            type=made.type,
            time_in_force=made.time_in_force,
            qty=made.qty,
            notional=made.notional,
            created_ns=now_ns,
            position_intent=intent,
            limit_price=made.limit_price,
            stop_price=made.stop_price,
            trail_price=made.trail_price,
            trail_percent=made.trail_percent,
            extended_hours=made.extended_hours,
            reserve_price=reserve,
            expires_ns=0 if session is None or made.time_in_force == "gtc" else session.close_ns,
        )
        self.take_in(account, order, now_ns)
        return order

    def take_in(self, account: Account, order: Order, now_ns: int) -> None:
        """Put a new order into the books and send it to the venue, where it may already work."""
        waits = self.server.market.session_at(now_ns) is None and not order.extended_hours
        waits = waits or order.time_in_force == "opg"
        order.status = "accepted" if waits else "pending_new"
        account.add(order)
        self.emit(account, order, order.status, now_ns)
        if not waits:
            self.later(self.server.rules.venue_delay_s, lambda: self.arrive(account, order, self.server.clock.now_ns()))
        self.changed.set()

    def arrive(self, account: Account, order: Order, at_ns: int) -> None:
        """The order reaches the venue: it is rejected there, or new and matched at once."""
        if order.status not in {"accepted", "pending_new"} or order.held:
            return
        context = fault_context(account, order)
        if self.server.faults.take("order_rejected", context) is not None:
            order.failed_ns = at_ns
            self.end(account, order, "rejected", at_ns)
            return
        back = self.server.faults.take("order_held_back", context)
        if back is not None:
            delay_s = float(back.get("seconds", 30))
            self.later(delay_s, lambda: self.arrive(account, order, self.server.clock.now_ns()))
            return
        order.status = "new"
        self.emit(account, order, "new", at_ns)
        self._match(account, order, at_ns)

    def _match(self, account: Account, order: Order, at_ns: int) -> None:
        if order.status not in MATCHABLE or order.held or order.time_in_force == "cls":
            return
        price = self.price(order, at_ns)
        if price is not None:
            self.fill(account, order, self._size(account, order, at_ns), price, at_ns)
        if order.open and order.time_in_force in {"ioc", "fok", "opg"}:
            order.canceled_ns = at_ns
            self.end(account, order, "canceled", at_ns)

    def price(self, order: Order, at_ns: int) -> Decimal | None:
        """Where the order trades against the quote of `at_ns`; None while it does not, or for want of another side."""
        quote = self._quote(order, at_ns)
        if quote is None:
            return None
        bid, ask = quote
        if not order.triggered and order.type in {"stop", "stop_limit", "trailing_stop"}:
            order.triggered = triggers(order, (bid + ask) / 2)
            if not order.triggered:
                return None
        price = ask if order.side == "buy" else bid
        limit = order.limit_price
        if price <= 0 or (limit is not None and (limit - price) * order.sign < 0):
            return None
        return price

    def _quote(self, order: Order, at_ns: int) -> tuple[Decimal, Decimal] | None:
        """Bid and ask for this order; a share of daily prices has one price in the opening auction, none in a halt."""
        market = self.server.market
        if order.time_in_force == "opg" and order.symbol in market.derived:
            opened = market.opening_print(order.symbol, at_ns)
            return None if opened is None else (opened, opened)
        return market.quote(order.symbol, at_ns) if market.trading(order.symbol, at_ns) else None

    def _size(self, account: Account, order: Order, at_ns: int) -> Decimal:
        left = order.left
        if order.time_in_force in {"fok", "opg", "cls"}:
            return left
        part = self.server.faults.take("fill_partial", fault_context(account, order))
        if part is not None:
            order.held = bool(part.get("then_held"))
            return min(left, Decimal(str(part.get("quantity", 1))))
        seed = f"{self.server.rules.seed}:{order.created_ns}:{at_ns}"  # not the name: it has an epoch in it
        size = random.Random(seed).randint(*self.server.rules.fill_sizes)
        return min(left, Decimal(size * (1 if multiplier(order.symbol) == 100 else 100)))

    def fill(self, account: Account, order: Order, quantity: Decimal, price: Decimal, at_ns: int) -> None:
        """An execution: order, position, cash, activity and trade update change together."""
        if self.server.faults.take("fill_unheard", fault_context(account, order)) is not None:
            self.server.trade_stream.cut(account.key)
        if order.notional is not None:
            quantity = min(quantity, ((order.notional - order.cost) / price).quantize(Decimal("1e-9")))
        execution_id = account.new_id()
        account.trade(Trade(order.symbol, quantity * order.sign, price, at_ns, order.id, execution_id))
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

    def close(self, account: Account, symbol: str, quantity: Decimal | None, percent: Decimal | None) -> Order:
        """A market order against the position, whole or in part. Raises `Refused`, 404 where there is none."""
        held = account.quantity(symbol)
        if not held:
            raise Refused(404, 40410000, f"position not found: {symbol}")
        wanted = abs(held) if quantity is None else quantity
        if percent is not None:
            wanted = (abs(held) * percent / 100).quantize(Decimal(1) if multiplier(symbol) == 100 else Decimal("1e-9"))
        side = "sell" if held > 0 else "buy"
        return self.submit(
            account,
            {"symbol": symbol, "qty": text(wanted), "side": side, "type": "market", "time_in_force": "day"},
        )

    def by_hand(self, account: Account, action: str, fields: dict[str, Any]) -> dict[str, Any]:
        """A person's `place`, `cancel` or `close`; see `AlpacaServer.by_hand`."""
        match action:
            case "place":
                order = self.submit(account, {"type": "market", "time_in_force": "day", **fields})
                account.by_hand.add(order.id)
                return order.shown()
            case "cancel":
                order = account.orders[fields["order_id"]]
                order_changes.cancel(self, account, order)
                return order.shown()
            case "close":
                order = self.close(account, fields["symbol"], None, None)
                account.by_hand.add(order.id)
                return order.shown()
            case _:
                raise ValueError(f"by_hand: found {action!r}; expected place, cancel or close")

    # --- what all of them do ----------------------------------------------------------------------------------------

    def end(self, account: Account, order: Order, event: str, at_ns: int) -> None:
        """The order is over: `event` is its last status too."""
        order.status = event
        account.working.pop(order.id, None)
        self.emit(account, order, event, at_ns)

    def emit(
        self, account: Account, order: Order, event: str, at_ns: int, *, execution_id: str | None = None, **extra: str
    ) -> None:
        """Update what REST shows, and publish to the trade stream."""
        order.updated_ns = at_ns
        shown = order.shown()
        order.past.append((self.server.clock.now_ns(), shown))
        if execution_id is None and event not in {"accepted", "pending_new"}:
            execution_id = account.new_id()
        update = {"event": event, "execution_id": execution_id, "timestamp": stamp(at_ns), **extra, "order": shown}
        self.server.trade_stream.publish(account, update)

    def _session_for(self, now_ns: int) -> Session | None:
        """The session in which a day order of `now_ns` works: this one, or the next."""
        return next((session for session in self.server.market.sessions if session.close_ns > now_ns), None)

    def later(self, sim_s: float, then: Callable[[], None]) -> None:
        """Do it after that much simulated time; with none, in the loop's next turn."""
        loop = asyncio.get_running_loop()
        if sim_s > 0:
            loop.call_later(self.server.clock.real_s(int(sim_s * SECOND_NS)), then)
        else:
            loop.call_soon(then)  # the next turn: before whatever the reply makes the client do


def _wake(loop: asyncio.AbstractEventLoop, changed: asyncio.Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(changed.set)
