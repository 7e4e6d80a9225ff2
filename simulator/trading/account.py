"""One account of the simulator: its keys, its orders, and the books that REST shows of it.

Fills change position and cash only through `trade` and `amend`. Makes no decision.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from decimal import Decimal

from daemon.alpaca_api.books import AccountBooks, ActivityRow, AlpacaPosition, PositionChange
from daemon.alpaca_api.wire import ZERO, Json, multiplier, stamp
from simulator.clock import SimClock
from simulator.prices.corporate_actions import Dividend
from simulator.prices.tape import new_york_date
from simulator.trading.orders import AlpacaOrder
from strategies.kit.units import SECOND_NS

LATE = 200  # newest activities that may still have to be shown
LONGEST_NS = 3600 * SECOND_NS


class Account(AccountBooks):
    """The books behind one pair of keys. `cash` in USD; `level` is the approved option level, 0 to 3.

    `margin` is the multiplier of the buying power: 2, or 1 for an account that buys only with cash. With `settles` the
    proceeds of a day's sales cannot be spent on that day (a cash account: settlement follows a day later).
    """

    def __init__(
        self,
        key: str,
        secret: str,
        *,
        cash: Decimal = Decimal("10000.00"),
        level: int = 3,
        margin: int = 2,
        settles: bool = False,
        account_number: str = "PA3LOOPBACK1",
    ) -> None:
        super().__init__(key, cash=cash, level=level, margin=margin, account_number=account_number)
        self.key = key
        self.secret = secret
        self.settles = settles
        self.past_positions: deque[tuple[int, dict[str, AlpacaPosition]]] = deque([(0, {})], maxlen=256)
        self.orders: dict[str, AlpacaOrder] = {}
        self.working: dict[str, AlpacaOrder] = {}  # by id: orders that may still fill
        self.by_client_id: dict[str, AlpacaOrder] = {}
        self.by_hand: set[str] = set()  # ids of orders placed by a person
        self.sold_out: set[str] = set()  # ids of orders placed by the broker in the last hour of contracts
        self.entitled: dict[Dividend, Decimal] = {}  # shares held at the ex-date of dividends not yet paid
        self._waiting: dict[asyncio.Event, None] = {}

    def exposed(self) -> bool:
        """Return whether an order works or a position is open."""
        return bool(self.working) or bool(self.positions)

    def add(self, order: AlpacaOrder) -> None:
        """Add a new order to the books."""
        self.orders[order.id] = order
        self.working[order.id] = order
        self.by_client_id[order.client_order_id] = order

    def held_for_orders(self, symbol: str) -> tuple[Decimal, list[str]]:
        """Return the quantity of a position that working orders against it hold, and their ids."""
        closing = -1 if self.quantity(symbol) > 0 else 1
        against = [order for order in self.working.values() if order.symbol == symbol and order.sign == closing]
        return sum((order.left for order in against), ZERO), [order.id for order in against]

    def available(self, symbol: str) -> Decimal:
        """Return the signed quantity that no working order holds."""
        quantity = self.quantity(symbol)
        held_units = min(self.held_for_orders(symbol)[0], abs(quantity))
        return quantity - held_units if quantity > 0 else quantity + held_units

    def note(
        self, now_ns: int, fields: Json, *, visible_ns: int | None = None, name: str = "", amends: str = ""
    ) -> ActivityRow:
        """Add a row to the activities, and wake its waiters. Must be called on the server's loop.

        A row with a date but no time also gets its later creation time.
        """
        if "date" in fields:
            fields = {**fields, "created_at": stamp(now_ns if visible_ns is None else visible_ns)}
        row = super().note(now_ns, fields, visible_ns=visible_ns, name=name, amends=amends)
        for waiting in self._waiting:
            waiting.set()
        return row

    async def next_activity(self, clock: SimClock) -> None:
        """Return once there is another row, or an existing one may be shown; in any case after an hour."""
        now_ns = clock.now_ns()
        later = [row.visible_ns for row in self.activities[-LATE:] if row.visible_ns > now_ns]
        left_ns = min(later) - now_ns if later else LONGEST_NS
        self._waiting[news := asyncio.Event()] = None
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(clock.nap_s(left_ns)):
                    await news.wait()
        finally:
            del self._waiting[news]

    def trade(self, trade: PositionChange) -> None:
        """Book a trade: cash and position change together; a position of zero is removed."""
        super().trade(trade)
        self.remember(trade.time_ns)

    def remember(self, since_ns: int) -> None:
        """Store the positions as of this time, for stale reads."""
        self.past_positions.append((since_ns, dict(self.positions)))

    def reserved(self) -> Decimal:
        """Return the USD of buying power reserved by working orders that open a position."""
        opening = (order for order in self.working.values() if order.position_intent.endswith("_to_open"))
        return sum((order.left * order.reserve_price * multiplier(order.symbol) for order in opening), ZERO)

    def unsettled(self, now_ns: int) -> Decimal:
        """Return the USD of today's sales that a cash account may not spend yet."""
        if not self.settles:
            return ZERO
        today = new_york_date(now_ns)
        sales = (t for t in self.trades if t.quantity < 0 and new_york_date(t.time_ns) == today)
        return sum((-t.quantity * t.price * multiplier(t.symbol) for t in sales), ZERO)

    def shown(
        self, mark: Callable[[AlpacaPosition], Decimal], *, blocked: bool, now_ns: int = 0, deficit: Decimal = ZERO
    ) -> Json:
        """Return the account object of REST with every position at `mark` USD a share.

        `deficit` raises the required margin this far above the equity.
        """
        return self.figures(
            mark, blocked=blocked, reserved=self.reserved(), unsettled=self.unsettled(now_ns), deficit=deficit
        )


def fault_context(account: Account, order: AlpacaOrder) -> dict[str, object]:
    """Return the fields of an order by which a scripted fault may select it."""
    return {
        "key": account.key,
        "symbol": order.symbol,
        "side": order.side,
        "type": order.type,
        "client_order_id": order.client_order_id,
    }
