"""A desk, its account and one or two guards in virtual time, for the tests of the guard's watch.

The world knows what is true: which host runs, which path carries what, what the account holds. It carries out what a
guard asks for, as a broker does, and judges nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from msgspec.structs import replace

from daemon.brokers.api import AccountLook
from daemon.core.effects import SubmitOrder
from daemon.core.events import BrokerOrder, BrokerPosition
from daemon.guard.watch import NOTHING, Action, Alarm, Cancel, Close, Fence, Memory, Rest, Rules, Watch
from daemon.operator.heartbeat import Heartbeat, Held
from strategies.kit.quantity import Quantity, exact

SECOND = 1_000_000_000
EPOCH_NS = 1_800_000_000 * SECOND
TURN_S = 5.0
RULES = Rules(("MQTT", "folder"), "protect", 10.0, 45.0, 300.0, 30.0, fence=True)
NAMES = "e1-share_bars-"
ZERO = Decimal(0)


@dataclass
class Broker:
    """The account, as it truly is."""

    positions: dict[str, Quantity] = field(default_factory=dict)
    orders: dict[str, BrokerOrder] = field(default_factory=dict)
    fenced: bool = False
    up: bool = True
    is_open: bool = True
    number: str = "PA1"
    ahead_s: float = 0.0
    changed: frozenset[str] | None = frozenset()
    refuses: bool = False
    closes: bool = True  # False: it refuses to close a position, as for a day trader's protection

    def put(self, order: SubmitOrder, at_ns: int) -> bool:
        """Take an order; False where it refuses: a name twice, more than is free to sell, or a fenced account."""
        name = order.client_order_id
        free = self.positions.get(order.symbol, 0) - self._selling(order.symbol)
        if self.refuses or self.fenced or name in self.orders or (order.side < 0 and order.quantity > free):
            return False
        self.orders[name] = BrokerOrder(
            name, f"id-{name}", order.symbol, order.side, Decimal(order.quantity), order.limit_price, order.intent,
            "new", ZERO, None, at_ns, stop_price=order.stop_price,
        )  # fmt: skip
        return True

    def fill(self, name: str, quantity: Quantity) -> None:
        order = self.orders[name]
        filled = order.filled + quantity
        status = "filled" if filled == order.quantity else "partially_filled"
        self.orders[name] = replace(order, filled=filled, average_price=Decimal(50), status=status)
        left = self.positions.get(order.symbol, 0) + order.side * quantity
        self.positions = {**{s: q for s, q in self.positions.items() if s != order.symbol}, order.symbol: left}
        if not left:
            del self.positions[order.symbol]

    def end(self, name: str, status: str = "canceled") -> None:
        self.orders[name] = replace(self.orders[name], status=status)

    def working(self, side: int) -> list[BrokerOrder]:
        open_ = ("new", "partially_filled")
        return [order for order in self.orders.values() if order.side == side and order.status in open_]

    def stops(self) -> dict[str, Quantity]:
        """Symbol -> what working stops may still sell."""
        return {symbol: self._selling(symbol) for symbol in {order.symbol for order in self.working(-1)}}

    def _selling(self, symbol: str) -> Quantity:
        left = (order.quantity - order.filled for order in self.working(-1) if order.symbol == symbol)
        return exact(sum(left, ZERO))

    def look(self, now_ns: int) -> AccountLook:
        held = tuple(
            BrokerPosition(symbol, Decimal(count), Decimal(100), Decimal(count - self._selling(symbol)))
            for symbol, count in self.positions.items()
        )
        orders = tuple(self.orders.values())
        return AccountLook(self.number, now_ns, self.ahead_s, self.is_open, self.fenced, held, orders, self.changed)


@dataclass
class DeskHost:
    """The desk: what it would say, whether it runs and which paths carry its words."""

    holds: dict[str, Held] = field(default_factory=dict)
    runs: bool = True
    carries: set[str] = field(default_factory=lambda: {"MQTT", "folder"})
    life: int = EPOCH_NS
    counter: int = 0
    clock_s: float = 0.0  # by which its clock is wrong
    leaving: bool = False
    restarts: int = 0
    account: str = "PA1"
    prefix: str = "guard"  # of its guard's orders
    ended: dict[str, int] = field(default_factory=dict)  # when it first knew that an order of its own had ended
    known_ns: int = 0  # when it last knew the account; 0: at each heartbeat
    journal: set[str] | None = None  # names of the orders that it knows where it has not looked yet

    def beat(self, now_ns: int, broker: Broker) -> Heartbeat:
        self.counter += 1
        working = [order for side in (1, -1) for order in broker.working(side) if self.knows(order.client_order_id)]
        over = [order for order in broker.orders.values() if order not in working and self.knows(order.client_order_id)]
        lately = [o for o in over if now_ns - self.ended.setdefault(o.client_order_id, now_ns) < 120 * SECOND]
        return Heartbeat(
            desk="d1",
            life=self.life,
            counter=self.counter,
            time_ns=now_ns + round(self.clock_s * SECOND),
            account=self.account,
            names=NAMES,
            prefix=self.prefix,
            known_ns=self.known_ns or now_ns,
            leaving=self.leaving,
            holds=self.holds,
            orders={order.client_order_id: exact(order.filled) for order in (*working, *lately)},
        )

    def knows(self, name: str) -> bool:
        """Whether the desk sees an order: of a whole account all, of a sub-account its own and its guard's."""
        if self.journal is not None:
            return name in self.journal
        return self.account == "PA1" or name.startswith((NAMES, "guard-"))

    def restart_unseeing(self, now_ns: int, died_ns: int) -> None:
        """It starts, and tells what it held when it died: it has not looked at the account yet."""
        self.restart(now_ns)
        self.known_ns, self.journal = died_ns, set()

    def restart(self, now_ns: int) -> None:
        self.runs, self.life, self.counter = True, now_ns, 0


@dataclass
class GuardHost:
    """One guard, the paths that carry its own message back, and whether it runs."""

    watch: Watch
    echoes: set[str] = field(default_factory=lambda: {"MQTT", "folder"})
    sees_broker: bool = True
    runs: bool = True
    done: list[tuple[float, Action]] = field(default_factory=list)
    executes: bool = True
    kept: Memory = NOTHING  # on its disk: of the same content a heartbeat may be a minute old
    refused: int = 0  # of its requests

    def alarms(self) -> list[str]:
        return [action.name for _, action in self.done if isinstance(action, Alarm)]

    def acts(self) -> list[Action]:
        return [action for _, action in self.done if not isinstance(action, Alarm)]

    def when(self, name: str) -> list[float]:
        return [at_s for at_s, action in self.done if isinstance(action, Alarm) and action.name == name]


class World:
    """All of it. `held` are shares of SPY that the desk bought; its stop would be at 55.00."""

    def __init__(self, rules: Rules = RULES, held: Quantity = 10, guards: int = 1, others: Quantity = 0) -> None:
        self.now_s, self.rules = 1000.0, rules
        self.broker, self.desk = Broker(), DeskHost()
        if held:
            self.desk.holds = {"SPY": Held(held, others, Decimal("55.00"), None)}
            self.broker.positions = {"SPY": held + others}
        self.guards = [GuardHost(Watch(rules, self.now_s)) for _ in range(guards)]
        self.guard = self.guards[0]
        self.at_once = False  # whether all guards look at one moment, and are done after it
        self.requests = 0  # that the guards made
        self.kill: tuple[int, bool] | None = None  # the request at which its guard is killed, and whether after it

    @property
    def now_ns(self) -> int:
        return EPOCH_NS + round(self.now_s * SECOND)

    def own(self, symbol: str, side: int, quantity: Quantity, stop: str = "") -> str:
        """An order of the desk itself arrives."""
        name = f"{NAMES}{len(self.broker.orders)}-2-0"
        price = {"stop_price": Decimal(stop)} if stop else {}
        order = SubmitOrder(name, symbol, side, quantity, None, "", 0)
        assert self.broker.put(order, self.now_ns)
        self.broker.orders[name] = replace(self.broker.orders[name], **price)
        return name

    def cut(self, path: str) -> None:
        """The path itself is gone: for everybody."""
        self.desk.carries.discard(path)
        for guard in self.guards:
            guard.echoes.discard(path)

    def mend(self, path: str) -> None:
        self.desk.carries.add(path)
        for guard in self.guards:
            guard.echoes.add(path)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        for _ in range(round(seconds / TURN_S)):
            self.now_s += TURN_S
            step = round(self.now_s / TURN_S)
            if step % 2 == 0:
                self._beats()
            todo = list[tuple[GuardHost, Action]]()
            for number, guard in enumerate(self.guards):
                if guard.runs:
                    todo += [(guard, action) for action in self._asked(guard, step + (0 if self.at_once else number))]
                if not self.at_once or guard is self.guards[-1]:
                    self._carry_out(todo)
                    todo = []

    def _beats(self) -> None:
        beat = self.desk.beat(self.now_ns, self.broker) if self.desk.runs else None
        for guard in self.guards:
            if not guard.runs:
                continue
            for path in self.rules.paths:
                if path in guard.echoes:
                    guard.watch.take_echo(path, self.now_s)
                if beat is not None and path in self.desk.carries & guard.echoes:
                    guard.watch.take_beat(beat, self.now_s, self.now_ns)

    def _asked(self, guard: GuardHost, step: int) -> list[Action]:
        if step % 6 == 0:
            if self.broker.up and guard.sees_broker:
                guard.watch.take_look(self.broker.look(self.now_ns), self.now_s)
            else:
                guard.watch.note_no_look("no answer")
        actions, memory = guard.watch.turn(self.now_s), guard.watch.memory
        if self.now_s % 60 == 0 or replace(memory, beat=guard.kept.beat) != guard.kept:
            guard.kept = memory
        return actions

    def begins_again(self, guard: GuardHost) -> None:
        """The guard's process ends, and another one begins with what is on its disk."""
        guard.watch = Watch(self.rules, self.now_s, guard.kept)

    def _carry_out(self, todo: list[tuple[GuardHost, Action]]) -> None:
        for guard, action in todo:
            guard.done.append((self.now_s, action))
            if isinstance(action, Alarm) or not (self.broker.up and guard.sees_broker and guard.executes):
                continue
            steps = (self._cancel_all, self._close_all) if isinstance(action, Close) else (self._do,)
            for step in steps:
                number, self.requests = self.requests, self.requests + 1
                if self.kill != (number, False):
                    step(guard, action)
                if self.kill in {(number, False), (number, True)}:
                    self.begins_again(guard)
                    return

    def _cancel_all(self, *_: object) -> None:
        for working in (*self.broker.working(1), *self.broker.working(-1)):
            self.broker.end(working.client_order_id)

    def _close_all(self, *_: object) -> None:
        self.broker.positions = {} if self.broker.closes else self.broker.positions

    def _do(self, guard: GuardHost, action: Action) -> None:
        broker = self.broker
        match action:
            case Cancel(name=name):
                assert broker.orders[name].side > 0 or name.startswith("guard-"), "a guard cancels no sale of others"
                broker.end(name)
            case Rest(order=order):
                assert order.side < 0
                if not broker.put(order, self.now_ns):
                    guard.refused += 1
                    guard.watch.note_refusal(order, "insufficient qty available for order")
            case Fence(on=on):
                broker.fenced = on
            case _:
                pass
