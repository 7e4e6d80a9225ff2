"""A broker's account as its documentation describes it: orders, executions, cash, positions and a ledger.

It is the truth that a scenario's desk hears about, in whatever order and however often. It judges nothing.
"""

from __future__ import annotations

from decimal import Decimal

from msgspec.structs import replace

from daemon.core.effects import SubmitOrder
from daemon.core.events import (
    Activity,
    BrokerOrder,
    BrokerPosition,
    BrokerReported,
    ModelVerified,
    OrderFilled,
    OrderFound,
)
from daemon.core.limits import Broker, Trading
from strategies.kit.quantity import Quantity, exact
from tests.support.core.desk import OPEN, SECOND, Desk

NUMBER = "PA3TEST"
ZERO = Decimal(0)
ENDED = frozenset(("filled", "canceled", "expired", "rejected", "replaced"))  # reports list all others as open


class Account:
    """One account. Prices in USD a share, `multiplier` 100 for options (symbols longer than six letters)."""

    def __init__(self, cash: str = "10000") -> None:
        self.cash = Decimal(cash)
        self.positions: dict[str, tuple[Quantity, Decimal]] = {}  # symbol: quantity, average price
        self.orders: dict[str, BrokerOrder] = {}
        self.fills: list[OrderFilled] = []
        self.lines: list[Activity] = []

    def take(self, order: SubmitOrder, at_ns: int) -> str:
        """The order arrives and works; returns its client order id."""
        name = order.client_order_id
        self.orders[name] = BrokerOrder(
            name, f"id-{name}", order.symbol, order.side, Decimal(order.quantity), order.limit_price, order.intent,
            "new", ZERO, None, at_ns,
        )  # fmt: skip
        return name

    def by_hand(self, name: str, symbol: str, side: int, quantity: Quantity, at_ns: int) -> str:
        """Somebody else's order."""
        return self.take(SubmitOrder(name, symbol, side, quantity, Decimal(2), "", 0), at_ns)

    def fill(self, name: str, quantity: Quantity, price: str, at_ns: int) -> OrderFilled:
        """One execution of `quantity` at `price`; returns it as the stream tells it."""
        order, paid = self.orders[name], Decimal(price)
        filled = exact(order.filled) + quantity
        cost = (order.average_price or ZERO) * order.filled + paid * quantity
        status = "filled" if filled == order.quantity else "partially_filled"
        self.orders[name] = replace(order, filled=Decimal(filled), average_price=cost / filled, status=status)
        self._move(order.symbol, order.side * quantity, paid)
        fill = OrderFilled(
            at_ns, name, order.symbol, order.side, paid, at_ns, filled, cost.quantize(Decimal("0.01")), ZERO, quantity
        )
        self.fills.append(fill)
        return fill

    def _move(self, symbol: str, quantity: Quantity, price: Decimal) -> None:
        held, average = self.positions.pop(symbol, (0, ZERO))
        after = held + quantity
        if held * quantity >= 0:
            average = (average * held + price * quantity) / after
        if after:
            self.positions[symbol] = (after, average)
        self.cash -= quantity * price * (100 if len(symbol) > 6 else 1)

    def end(self, name: str, status: str = "canceled") -> None:
        self.orders[name] = replace(self.orders[name], status=status)

    def found(self, name: str, at_ns: int) -> OrderFound:
        """The answer to a look-up."""
        return OrderFound(at_ns, self.orders[name])

    def book(self, line: Activity) -> None:
        """A line of the ledger, with the cash that it moves."""
        self.lines.append(line)
        self.cash += line.amount

    def _free(self, symbol: str, held: Quantity) -> Decimal:
        """What no working order on the other side holds back, as `qty_available`."""
        side = 1 if held > 0 else -1
        against = [o for o in self.orders.values() if (o.symbol, o.side) == (symbol, -side) and o.status not in ENDED]
        return Decimal(held) - side * sum((order.quantity - order.filled for order in against), ZERO)

    def report(self, at_ns: int, *, blocked: str = "", account: str = NUMBER) -> BrokerReported:
        """The whole word: everything of the day, as after a start."""
        return BrokerReported(
            at_ns,
            at_ns,
            account,
            self.cash,
            blocked,
            tuple(BrokerPosition(s, Decimal(q), p, self._free(s, q)) for s, (q, p) in self.positions.items()),
            tuple(order for order in self.orders.values() if order.status not in ENDED),
            tuple(order for order in self.orders.values() if order.status in ENDED),
            tuple(self.fills),
            tuple(self.lines),
        )


def line(kind: str, symbol: str = "", quantity: Quantity = 0, amount: str = "0", status: str = "executed") -> Activity:
    """A ledger line of today, dated as the broker dates those: midnight. Its id is its kind, symbol and figures."""
    name = f"20240701000000000::{kind}-{symbol}-{quantity}-{amount}"
    return Activity(name, kind, symbol, Decimal(quantity), None, Decimal(amount), status, OPEN - 34_200 * SECOND)


def at_broker(account: Account, broker: Broker | None = None, trading: Trading | None = None) -> Desk:
    """A desk on Monday before the open whose first report came from `account`."""
    d = Desk(trading or Trading(broker=broker or Broker()), mode="live")
    d.prompt = account.report
    now = d.at(-2)
    d.put(ModelVerified(now, "v1", "d", promoted=True, feed="sip"), account.report(now))
    return d.begin()


def agreed(d: Desk, account: Account, minute: float, second: int = 0) -> None:
    """A report after which book and broker agree on everything."""
    d.put(account.report(d.at(minute, second)))
    beside = d.state.broker.foreign_held
    both = {s: d.held.get(s, 0) + beside.get(s, 0) for s in d.held | beside}
    assert {s: q for s, q in both.items() if q} == {s: q for s, (q, _) in account.positions.items()}
    assert (d.state.book.cash, d.state.risk.reconciled, d.state.broker.suspicion) == (account.cash, True, None)
