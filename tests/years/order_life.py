"""The life of an order, explored whole: the real core with a small broker and a person, every order of what happens.

`python -m tests.years.order_life --orders 2 --faults 3`

Breadth first over states. A state is what the core knows, what the broker knows, and what is under way between them. At
each state every next happening is tried: a message arrives, the broker fills, cancels or expires, time passes, a
command comes, or a fault happens: an answer or an update is lost, comes twice, late or in another order, a look-up
finds nothing yet, a person trades or cancels, the process starts again. States are visited by the number of faults they
need, then by the number of happenings, so the first path to a mistake is a shortest one.

The broker here is written from Alpaca's documentation and shares nothing with the paper brokers or the simulator.

What is cut, so that the space is finite:
- Only the first `--orders` orders at the broker have a life of their own; later ones are filled when they arrive.
- Time passes in whole steps, of 11 or 61 seconds, `--steps` of them at most before all faults are over: each waiting
  time of the core ends within or between them, and none falls on a boundary. While something is under way, time passes
  only by a fault (then it is late).
- One option contract is held, two contracts of it; an order fills one or all of what is left. Reports are read at once.
- Two states are one when they differ in what nothing reads (counts, alarms, quotes, marks: no limit is near), or in
  times that no rule tells apart: an age counts in steps, and an order of times only against those that are compared.
From every state the rest of the way is played without faults, to a desk that agrees with its broker or is halted by its
name. It is played twice, with a market that fills all orders and with one that fills no purchase; the states that it
passes are remembered.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from hashlib import blake2b
from typing import Any, Literal, NamedTuple, get_args

import msgspec
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core import orders as life
from daemon.core.effects import AnyEffect, AskBroker, CancelOrder, LookUpOrder, SubmitOrder
from daemon.core.limits import Broker, Execution, Risk, Sizing, Trading
from daemon.core.orders import Order
from daemon.core.state import State
from daemon.core.step import Core, Step
from strategies.kit.quantity import whole_of
from tests.support.core.desk import BUY_CALL, CALL, MINUTE, SECOND, Desk, adds_up, moves_add_up, quote, sent

START_CASH = Decimal(10_000)
FIRST, LATER = {1: Decimal("2.00"), -1: Decimal("1.90")}, {1: Decimal("2.01"), -1: Decimal("1.93")}
"""Prices in USD a share of an order's first and second contract when they fill apart: the cents tell them apart."""
SHORT_NS, LONG_NS = round(11.03 * SECOND), round(61.03 * SECOND)
ACCOUNT = "PA3LIFE"
OVER = frozenset(("filled", "canceled", "expired", "rejected"))


Foreign = Literal["halt", "ignore", "adopt"]


def rules_of(contracts: int, foreign: Foreign) -> Trading:
    """The default rules, but for limits that count: they are far, so that their counts tell no states apart."""
    return Trading(
        sizing=Sizing(max_contracts=contracts, stop_loss=0.3, take_profit=50.0),
        execution=Execution(entry_reprice_s=60, entry_deadline_s=180, exit_reprice_s=60),
        risk=Risk(
            stale_bar_s=36_000,
            quote_age_max_s=36_000,
            orders_per_minute=1000,
            orders_per_day=1000,
            daily_loss_max=1.0,
            drawdown_max=1.0,
            reject_rate_orders=1000,
            consecutive_losses_max=1000,
            cooldown_trade_s=0,
            cooldown_loss_s=0,
        ),
        broker=Broker(foreign, cash_tolerance_usd=Decimal(0), blind_min=600),
    )


class Broken(Exception):
    """Something that must hold does not. The text says what."""


def check(holds: bool, problem: str) -> None:
    """Raise Broken unless it holds."""
    if not holds:
        raise Broken(problem)


# --- the broker -------------------------------------------------------------------------------------------------------


BY_HAND = "by-hand"


class Own(NamedTuple):
    """An order at the broker. `fills` are (quantity, price) of its executions; `free`: its life is chosen."""

    name: str
    symbol: str
    side: int
    quantity: int
    limit: Decimal | None
    intent: str
    status: str
    submitted_ns: int
    free: bool
    fills: tuple[tuple[int, Decimal], ...] = ()

    @property
    def filled(self) -> int:
        return sum(quantity for quantity, _ in self.fills)

    @property
    def cost(self) -> Decimal:
        return sum((quantity * price for quantity, price in self.fills), Decimal(0))

    @property
    def left(self) -> int:
        return 0 if self.status in OVER else self.quantity - self.filled

    @property
    def by_hand(self) -> bool:
        return self.name.startswith(BY_HAND)

    def shown(self) -> ev.BrokerOrder:
        """The order as the broker's answers have it."""
        average = self.cost / self.filled if self.filled else None
        status = self.status
        if status == "new" and self.filled:
            status = "partially_filled"
        return ev.BrokerOrder(
            self.name, f"id-{self.name}", self.symbol, self.side, Decimal(self.quantity), self.limit, self.intent,
            status, Decimal(self.filled), average, self.submitted_ns,
        )  # fmt: skip

    def execution(self, count: int) -> ev.OrderFilled:
        """The stream's update about the `count`th execution, from 1."""
        fills = self.fills[:count]
        quantity, price = fills[-1]
        total = sum(part for part, _ in fills)
        cost = sum((part * at for part, at in fills), Decimal(0))
        return ev.OrderFilled(
            0, self.name, self.symbol, self.side, price, self.submitted_ns, total, cost, Decimal(0), quantity
        )


Update = tuple[ev.Event, ...]


class World(NamedTuple):
    """One state of all: the desk's, the broker's, and what is under way between them."""

    state: State[Any]
    now: int
    orders: tuple[Own, ...] = ()  # at the broker, in the order of their arrival
    posts: tuple[SubmitOrder, ...] = ()  # from the desk, on their way
    strays: tuple[SubmitOrder, ...] = ()  # given up as unanswered, and still on their way
    answers: tuple[ev.Event, ...] = ()  # to posts, on their way back
    cancels: tuple[str, ...] = ()
    looks: tuple[str, ...] = ()
    found: tuple[ev.Event, ...] = ()  # answers to look-ups, and refused cancels
    stream: tuple[Update, ...] = ()  # in their order
    wanted: bool = False  # a report is asked for
    report: ev.BrokerReported | None = None  # read, on its way back
    intents: tuple[str, ...] = ()  # what may still be wanted of the desk
    meddled: bool = False  # a person, or the broker itself, did something to this account
    steps: int = 0  # of time, left
    faulty: bool = False
    late: bool = False  # an order filled after its end: nobody can know, and the excess is sold
    refused: int = 0  # orders that were refused at once
    known: bytes = b""  # the core's part of the digest, "" until it is made

    @property
    def under_way(self) -> bool:
        return bool(self.posts or self.answers or self.cancels or self.looks or self.found or self.stream) or (
            self.wanted or self.report is not None
        )

    @property
    def position(self) -> int:
        return sum(order.side * order.filled for order in self.orders)

    @property
    def cash(self) -> Decimal:
        return START_CASH - 100 * sum((order.side * order.cost for order in self.orders), Decimal(0))

    @property
    def ours(self) -> tuple[Own, ...]:
        return tuple(order for order in self.orders if not order.by_hand)

    def at_broker(self, name: str) -> Own | None:
        return next((order for order in self.orders if order.name == name), None)

    def with_order(self, order: Own, *news: Update) -> World:
        """The order as it is now, and what the stream says of it."""
        orders = tuple(order if broker_order.name == order.name else broker_order for broker_order in self.orders)
        return self._replace(orders=orders, stream=(*self.stream, *news))


class Move(NamedTuple):
    """Something that may happen next, in words, the faults it costs, and the state after it.

    `onward`: where nothing goes wrong any more, the first such move is what happens.
    """

    words: str
    faults: int
    after: Callable[[], World]
    onward: bool = False


def short(name: str) -> str:
    """The end of an order's name: decision, leg and attempt."""
    return name.split("-", 2)[2] if name.count("-") >= 4 else name


class Life:
    """The rules by which states follow each other."""

    def __init__(self, orders: int = 2, steps: int = 0, contracts: int = 2, foreign: Foreign = "halt") -> None:
        self.core: Core
        self.contracts = contracts
        self.foreign = foreign
        self.rules = rules_of(contracts, foreign)
        self.order_count = orders
        self.steps = steps

    def __str__(self) -> str:
        return f"Life({self.order_count}, {self.steps}, {self.contracts}, {self.foreign!r})"

    def first(self) -> World:
        """A desk that has just decided to buy; its order is on its way."""
        desk = Desk(self.rules, mode="live")
        self.core = desk.core
        now = desk.at(-2)
        report = ev.BrokerReported(now, now, ACCOUNT, START_CASH, "", (), (), (), (), ())
        desk.put(ev.ModelVerified(now, "v1", "d", promoted=True, feed="sip"), report)
        desk.begin()
        desk.bar(0)
        order = sent(desk.answer(BUY_CALL))
        intents = ("pause",) if self.order_count == 1 else ("stop", "flatten")
        return World(desk.state, desk.state.now_ns, posts=(order,), intents=intents, steps=self.steps)

    # --- the desk ---------------------------------------------------------------------------------------------------

    def feed(self, world: World, *events: ev.Event) -> World:
        """Step the events, one nanosecond apart, and take what the desk asks for."""
        for template in events:
            now = world.now + 1
            event = replace(template, time_ns=now)
            before = world.state
            step = self._step(before, event)
            world = world._replace(state=step.state, now=now, known=b"")
            self._stepped(world, before, step.state)
            if step.state.book is not before.book:
                adds_up(before, event, step.state)
                moves_add_up(before, event, step)
            for effect in step.effects:
                world = self._take(world, before, effect)
        return world

    def _step(self, state: State[Any], event: ev.Event) -> Step:
        try:
            return self.core.step(state, event)
        except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
            raise Broken(f"the step of {type(event).__name__} raised {error!r}") from error

    def _stepped(self, world: World, before: State[Any], after: State[Any]) -> None:
        """Check what one step did to the desk's orders, and that the book is what their executions make of it."""
        for name in after.orders:
            if name not in before.orders and (closed_order := before.closed.get(name)) is not None:
                raise Broken(f"{short(name)} was {closed_order.status} and works again as {after.orders[name].status}")
        if after.closed is not before.closed:
            for name, order in after.closed.items():
                former = before.closed.get(name)
                if former is not None and former.status != order.status:
                    late = order.status == "filled" and order.filled > former.filled
                    check(late, f"{short(name)} was {former.status} and is {order.status} without a late fill")
        if after.orders is before.orders and after.closed is before.closed and after.book is before.book:
            return
        calm = after.risk.halt is None and after.risk.pause is None
        for order in after.orders.values():
            may_work = calm or order.purpose != "entry" or order.cancel_asked_ns or order.status == "unknown"
            check(bool(may_work), f"{short(order.client_order_id)} buys on, and the desk is halted or paused")
        serving = Counter(order.work for order in after.orders.values() if order.purpose == "entry")
        for work, count in serving.items():
            check(count == 1, f"{count} orders work for the one entry {work}")
        cash, quantity = START_CASH, 0
        for order in (*after.orders.values(), *after.closed.values()):
            cash -= 100 * order.side * order.cost
            quantity += order.side * order.filled
            if order.filled:
                self._as_filled(world, order)
        if world.meddled and self.foreign != "halt":
            return  # what others trade is in the book, too
        check(after.book.cash == cash, f"the book has {after.book.cash} USD, its executions make {cash}")
        book_quantity = sum(position.quantity for position in after.book.positions.values())
        check(book_quantity == quantity, f"the book holds {book_quantity}, its executions make {quantity}")
        check(book_quantity >= 0, f"the book is short: {book_quantity}")

    @staticmethod
    def _as_filled(world: World, order: Order) -> None:
        """Check an order's figures against the broker's executions: a part of them, each recorded once."""
        name, broker_order = short(order.client_order_id), world.at_broker(order.client_order_id)
        if broker_order is None:
            raise Broken(f"{name} filled {order.filled} in the book, and the broker has no such order")
        quantity, cost, reached = 0, Decimal(0), {0}
        for part, price in broker_order.fills:
            quantity, cost = quantity + part, cost + part * price
            reached.add(quantity)
            if quantity == order.filled:
                check(order.cost == cost, f"{name} filled {quantity} for {cost}, the book has {order.cost}")
        check(
            order.filled in reached, f"{name} filled {order.filled} in the book, the broker has {broker_order.filled}"
        )
        executions = order.executions
        check(len(set(executions)) == len(executions), f"an execution of {name} is recorded twice: {executions}")
        check(
            set(executions) <= reached, f"{name} has executions up to {executions}, the broker up to {sorted(reached)}"
        )

    def _take(self, world: World, before: State[Any], effect: AnyEffect) -> World:
        state, name = world.state, getattr(effect, "client_order_id", "")
        if isinstance(effect, SubmitOrder):
            if effect.side > 0:
                calm = before.risk.halt is None and before.risk.pause is None
                check(calm, f"{short(name)} buys while the desk is halted or paused")
            else:
                position = state.book.positions.get(effect.symbol)
                other_sells = sum(
                    o.remaining
                    for o in state.orders.values()
                    if o.side < 0 and not o.absent and o.client_order_id != name and not o.cancel_since_ns
                )
                free = (position.quantity if position else 0) - other_sells
                check(
                    effect.quantity <= free, f"{short(name)} sells {effect.quantity}, and {free} are free in the book"
                )
            return world._replace(posts=(*world.posts, effect))
        if isinstance(effect, CancelOrder):
            return world if name in world.cancels else world._replace(cancels=(*world.cancels, name))
        if isinstance(effect, LookUpOrder):
            running = name in world.looks or any(name == _about(event) for event in world.found)
            return world if running else world._replace(looks=(*world.looks, name))
        if isinstance(effect, AskBroker):
            return world._replace(wanted=True)
        return world

    # --- what may happen --------------------------------------------------------------------------------------------

    def moves(self, world: World, faults: int) -> Iterator[Move]:
        """All that may happen next, with at most this many faults."""
        yield from self._arrivals(world)
        yield from self._choices(world)
        yield from self._commands(world)
        yield from self._time(world)
        if faults:
            yield from self._faults(world)

    def _arrivals(self, world: World) -> Iterator[Move]:
        """Everything under way may arrive; of the stream only its head."""
        names = set()
        for post in world.posts:
            name = post.client_order_id
            if name in names or any(_about(answer) == name for answer in world.answers):
                continue
            names.add(name)
            yield Move(f"the post of {short(name)} arrives", 0, partial(self.arrives, world, post), onward=True)
            if name in world.cancels:
                yield Move(f"{short(name)} is withdrawn unsent", 0, partial(self.withdrawn, world, post))
        for post in world.strays:
            name = short(post.client_order_id)
            yield Move(
                f"the late post of {name} arrives",
                0,
                partial(self.arrives, world, post, stray=True),
                onward=True,
            )
        for answer in world.answers:
            words = f"the desk hears its post's answer: {text_of(answer)}"
            yield Move(words, 0, partial(self.answered, world, answer), onward=True)
        for name in world.cancels:
            if not self.posting(world, name):
                yield Move(f"the cancel of {short(name)} arrives", 0, partial(self.cancel, world, name), onward=True)
        for name in world.looks:
            if not self.posting(world, name):
                yield Move(f"{short(name)} is looked up", 0, partial(self.looked_up, world, name), onward=True)
        for event in world.found:
            yield Move(f"the desk hears: {text_of(event)}", 0, partial(self.hears, world, event), onward=True)
        if world.stream:
            yield Move(f"the stream says: {text_of(*world.stream[0])}", 0, lambda: self.streams(world), onward=True)
        if world.report is not None:
            yield Move("the slow report comes", 0, lambda: self.reported(world), onward=True)
        elif world.wanted:
            yield Move("a report comes", 0, lambda: self.reported(self.read(world)), onward=True)

    def _choices(self, world: World) -> Iterator[Move]:
        """What the broker does with orders that it has, and with those that arrive."""
        for post in world.posts:
            new = world.at_broker(post.client_order_id) is None and self.choosing(world)
            if new and not self.answering(world, post.client_order_id):
                yield Move(
                    f"the broker refuses {short(post.client_order_id)}",
                    0,
                    partial(self.refused, world, post, "refused"),
                )
        for order in world.orders:
            if order.status in OVER or not order.free:
                continue
            name = short(order.name)
            if order.left > 1:
                yield Move(f"one contract of {name} fills", 0, partial(self.fills, world, order, 1))
            yield Move(
                f"all that is left of {name} fills", 0, partial(self.fills, world, order, order.left), onward=True
            )
            if order.status == "pending_cancel":
                yield Move(f"{name} is cancelled", 0, partial(self.ends, world, order, "canceled"), onward=True)

    def _commands(self, world: World) -> Iterator[Move]:
        if "pause" in world.intents:
            yield Move("the operator pauses the desk", 0, lambda: self.paused(world))
        if "flatten" in world.intents:
            yield Move("the operator flattens the desk", 0, lambda: self.flattened(world))
        if "stop" in world.intents and CALL in world.state.book.positions:
            yield Move("the price falls to the stop", 0, lambda: self.stopped(world))

    def _time(self, world: World) -> Iterator[Move]:
        if world.steps and not world.under_way:
            yield Move("eleven seconds pass", 0, lambda: self.passes(world, SHORT_NS))
            yield Move("a minute passes", 0, lambda: self.passes(world, LONG_NS))

    def _faults(self, world: World) -> Iterator[Move]:
        for post in world.posts:
            name = post.client_order_id
            if self.answering(world, name):
                continue
            yield Move(f"the post of {short(name)} is lost", 1, partial(self.lost, world, post))
            yield Move(f"the post of {short(name)} hangs", 1, partial(self.hangs, world, post))
            yield Move(f"the post of {short(name)} arrives, its answer is lost", 1, partial(self.unheard, world, post))
        if world.stream:
            words = text_of(*world.stream[0])
            yield Move(f"an update is lost: {words}", 1, lambda: world._replace(stream=world.stream[1:]))
            yield Move(f"an update comes twice: {words}", 1, lambda: self.doubled(world))
        if len(world.stream) > 1:
            one, two, *rest = world.stream
            yield Move(
                f"an update waits for the next: {text_of(*one)}", 1, lambda: world._replace(stream=(two, one, *rest))
            )
        for name in world.cancels:
            if not self.posting(world, name):
                yield Move(f"the cancel of {short(name)} is lost", 1, partial(self.cancel_lost, world, name))
        for name in world.looks:
            if self.posting(world, name):
                continue
            words = f"{short(name)} is looked up, and"
            yield Move(f"{words} the answer is slow", 1, partial(self.look, world, name))
            if world.at_broker(name) is not None:
                yield Move(f"{words} not found yet", 1, partial(self.unfound, world, name))
        for order in world.orders:
            yield from self._meddling(world, order)
        if self.free(world) > 0:
            yield Move("a person sells one contract", 1, lambda: self.by_hand(world, -1))
        yield Move("a person buys one contract", 1, lambda: self.by_hand(world, 1))
        yield Move("the stream breaks", 1, lambda: self.breaks(world))
        yield Move("the process starts again", 1, lambda: self.restarts(world))
        if world.wanted and world.report is None:
            yield Move("a report is read, and slow to come", 1, lambda: self.read(world))
        if world.steps and world.under_way:
            yield Move("eleven seconds pass, and the news are late", 1, lambda: self.passes(world, SHORT_NS))

    def _meddling(self, world: World, order: Own) -> Iterator[Move]:
        """What ends an order that the desk still wants, and what the broker does to one that had ended."""
        name = short(order.name)
        if not order.free:
            return
        if order.status == "new":
            yield Move(f"a person cancels {name}", 1, lambda: self.canceled_by_hand(world, order))
        if order.status not in OVER:
            yield Move(f"the broker expires {name}", 1, lambda: self.meddles(world, order, "expired"))
            yield Move(f"the venue rejects {name}", 1, lambda: self.meddles(world, order, "rejected"))
        elif order.status in ("canceled", "expired", "rejected") and order.filled < order.quantity:
            yield Move(f"{name} fills after its end", 1, lambda: self.fills_late(world, order))

    # --- the way to the broker and back -----------------------------------------------------------------------------

    @staticmethod
    def free(world: World) -> int:
        """Contracts that no order to sell holds back: the broker lets nobody sell more."""
        return world.position - sum(order.left for order in world.orders if order.side < 0)

    def choosing(self, world: World) -> bool:
        """Whether the next order has a life of its own."""
        return len(world.ours) + world.refused < self.order_count

    @staticmethod
    def answering(world: World, name: str) -> bool:
        return any(_about(answer) == name for answer in world.answers)

    def posting(self, world: World, name: str) -> bool:
        """Whether the name's post has no answer yet: its cancels and look-ups wait for that."""
        return self.answering(world, name) or any(post.client_order_id == name for post in world.posts)

    def arrives(self, world: World, post: SubmitOrder, *, stray: bool = False) -> World:
        """The broker takes the order, or refuses it: a name is taken once, and nobody sells what is not free."""
        name = post.client_order_id
        if world.at_broker(name) is not None:
            world = self._left(world, post, stray)
            if stray:
                return world
            looks = world.looks if name in world.looks else (*world.looks, name)
            return world._replace(answers=(*world.answers, ev.OrderUnknown(0, name)), looks=looks)
        free = self.free(world)
        quantity = min(post.quantity, free) if post.closing else post.quantity
        if post.side < 0 and (quantity > free or quantity <= 0):
            check(world.faulty, f"{short(name)} sells {quantity}, and the broker has {free} free")
            return self._left(world, post, stray) if stray else self.refused(world, post, "insufficient qty available")
        is_free = self.choosing(world)
        order = Own(
            name, post.symbol, post.side, whole_of(quantity), post.limit_price, post.intent, "new", world.now, is_free
        )
        world = self._left(world, post, stray)
        world = world._replace(orders=(*world.orders, order), stream=(*world.stream, (_accepted(order),)))
        self.bought(world)
        if not stray:
            answer = ev.OrderFound(0, order.shown()) if post.closing else _accepted(order)
            world = world._replace(answers=(*world.answers, answer))
        return world if is_free else self._at_once(world, order)

    def _at_once(self, world: World, order: Own) -> World:
        """Of a later order everything happens at once, and is heard."""
        former = world
        world = world._replace(stream=world.stream[:-1])
        world = self.fills(world, order, order.left)
        news, world = world.stream[-1], world._replace(stream=world.stream[:-1])
        for answer in former.answers:
            if _about(answer) == order.name:
                world = self.answered(world, answer)
        return self.feed(world, *news)

    @staticmethod
    def _left(world: World, post: SubmitOrder, stray: bool) -> World:
        if stray:
            return world._replace(strays=_without(world.strays, post))
        return world._replace(posts=_without(world.posts, post))

    def bought(self, world: World) -> None:
        """Check that no more is bought or on order than was wanted."""
        count = sum(order.filled + order.left for order in world.ours if order.side > 0)
        check(
            world.late or count <= self.contracts,
            f"{count} contracts are bought or on order, and {self.contracts} were wanted",
        )

    def refused(self, world: World, post: SubmitOrder, why: str) -> World:
        name = post.client_order_id
        world = world._replace(posts=_without(world.posts, post), refused=min(world.refused + 1, self.order_count))
        return world._replace(answers=(*world.answers, ev.OrderRejected(0, name, why)))

    def withdrawn(self, world: World, post: SubmitOrder) -> World:
        name = post.client_order_id
        world = world._replace(posts=_without(world.posts, post), cancels=_without(world.cancels, name))
        return world._replace(answers=(*world.answers, ev.OrderExpired(0, name)))

    def answered(self, world: World, answer: ev.Event) -> World:
        """The desk hears of its post; a definite answer ends what waited for it."""
        name = _about(answer)
        world = world._replace(answers=_without(world.answers, answer))
        if not isinstance(answer, ev.OrderUnknown):
            world = world._replace(
                looks=tuple(other for other in world.looks if other != name),
                posts=tuple(post for post in world.posts if post.client_order_id != name),
            )
        if isinstance(answer, ev.OrderExpired | ev.OrderRejected):
            world = world._replace(cancels=tuple(other for other in world.cancels if other != name))
        return self.feed(world, answer)

    def hears(self, world: World, event: ev.Event) -> World:
        return self.feed(world._replace(found=_without(world.found, event)), event)

    def streams(self, world: World) -> World:
        return self.feed(world._replace(stream=world.stream[1:]), *world.stream[0])

    def cancel(self, world: World, name: str) -> World:
        world, order = world._replace(cancels=_without(world.cancels, name)), world.at_broker(name)
        if order is None:
            return self._looked(world, name)
        if order.status in OVER:
            refusal = ev.CancelRejected(0, name, f"order is already {order.status}")
            return self._looked(world._replace(found=(*world.found, refusal)), name)
        if order.free:
            return world.with_order(order._replace(status="pending_cancel"))
        return self.ends(world, order, "canceled")

    @staticmethod
    def _looked(world: World, name: str) -> World:
        return world if name in world.looks else world._replace(looks=(*world.looks, name))

    def look(self, world: World, name: str) -> World:
        """Read the order; the answer is on its way."""
        order = world.at_broker(name)
        answer = ev.OrderMissing(0, name) if order is None else ev.OrderFound(0, order.shown())
        return world._replace(looks=_without(world.looks, name), found=(*world.found, answer))

    def looked_up(self, world: World, name: str) -> World:
        after = self.look(world, name)
        return self.hears(after, after.found[-1])

    def unfound(self, world: World, name: str) -> World:
        world = world._replace(looks=_without(world.looks, name), faulty=True)
        return self.feed(world, ev.OrderMissing(0, name))

    def read(self, world: World) -> World:
        """Read a report: all of the day, each time."""
        now = world.now + 1
        quantity = world.position
        position = ev.BrokerPosition(CALL, Decimal(quantity), Decimal(2), Decimal(self.free(world)))
        fills = tuple(order.execution(n) for order in world.ours for n in range(1, len(order.fills) + 1))
        report = ev.BrokerReported(
            now,
            now,
            ACCOUNT,
            world.cash,
            "",
            (position,) if quantity else (),
            tuple(order.shown() for order in world.orders if order.status not in OVER),
            tuple(order.shown() for order in world.orders if order.status in OVER),
            fills,
            (),
        )
        return world._replace(now=now, wanted=False, report=report, known=b"")

    def reported(self, world: World) -> World:
        assert world.report is not None
        return self.feed(world._replace(report=None), world.report)

    # --- the broker's side ------------------------------------------------------------------------------------------

    def fills(self, world: World, order: Own, quantity: int) -> World:
        price = (LATER if order.fills else FIRST)[order.side]
        order = order._replace(fills=(*order.fills, (quantity, price)))
        if order.filled == order.quantity:
            order = order._replace(status="filled")
        return world.with_order(order, (order.execution(len(order.fills)),))

    def ends(self, world: World, order: Own, status: str) -> World:
        kinds: dict[str, ev.Event] = {
            "canceled": ev.OrderCanceled(0, order.name),
            "expired": ev.OrderExpired(0, order.name),
            "rejected": ev.OrderRejected(0, order.name, "rejected after it was accepted"),
        }
        order = order._replace(status=status)
        figures = (ev.OrderFound(0, order.shown()),) if order.filled else ()
        return world.with_order(order, (*figures, kinds[status]))

    # --- commands and time ------------------------------------------------------------------------------------------

    def paused(self, world: World) -> World:
        return self.feed(world._replace(intents=_without(world.intents, "pause")), ev.PauseRequested(0, "to see", "op"))

    def flattened(self, world: World) -> World:
        return self.feed(world._replace(intents=()), ev.FlattenRequested(0, "enough", "op"))

    def stopped(self, world: World) -> World:
        """Two quotes at half the price, a second apart: the desk believes the second."""
        world = world._replace(intents=())
        for _ in range(2):
            low = replace(quote(CALL, "0.98", "1.02"), quoted_ns=world.now + 1)
            world = self.feed(world, ev.QuotesReceived(0, 0, (low,)))
            world = world._replace(now=world.now + SECOND)
        return world

    def passes(self, world: World, by_ns: int, *, free: bool = False) -> World:
        """Time passes: the market quotes as before, the clock ticks, and each minute a report is due."""
        world = world._replace(now=world.now + by_ns, steps=world.steps if free else world.steps - 1)
        quotes = tuple(replace(known_quote, quoted_ns=world.now + 1) for known_quote in world.state.quotes.values())
        world = self.feed(world, ev.QuotesReceived(0, 0, quotes), ev.ClockTicked(0))
        if world.now - world.state.broker.asked_ns >= MINUTE and world.report is None:
            world = world._replace(wanted=True)
        return world

    @staticmethod
    def absent(world: World) -> bool:
        """Whether the desk waits for nothing but an entry that the broker does not know: until the session ends."""
        return bool(world.state.orders) and all(order.absent for order in world.state.orders.values())

    def closes(self, world: World) -> World:
        """The session ends. Day orders that work would expire; here none is left."""
        session = world.state.session.session
        assert session is not None
        world = world._replace(now=max(world.now, session.close_ns))
        return self.feed(world, ev.SessionEnded(0, session.date))

    # --- faults -----------------------------------------------------------------------------------------------------

    def lost(self, world: World, post: SubmitOrder) -> World:
        world = world._replace(posts=_without(world.posts, post), faulty=True)
        return world._replace(answers=(*world.answers, ev.OrderUnknown(0, post.client_order_id)))

    def hangs(self, world: World, post: SubmitOrder) -> World:
        return self.lost(world, post)._replace(strays=(*world.strays, post))

    def unheard(self, world: World, post: SubmitOrder) -> World:
        world = self.arrives(world._replace(faulty=True), post)
        answers = tuple(answer for answer in world.answers if _about(answer) != post.client_order_id)
        return world._replace(answers=(*answers, ev.OrderUnknown(0, post.client_order_id)))

    def doubled(self, world: World) -> World:
        return world._replace(stream=(world.stream[0], *world.stream))

    def cancel_lost(self, world: World, name: str) -> World:
        return self._looked(world._replace(cancels=_without(world.cancels, name)), name)

    def canceled_by_hand(self, world: World, order: Own) -> World:
        return world.with_order(order._replace(status="pending_cancel"))._replace(meddled=True)

    def fills_late(self, world: World, order: Own) -> World:
        """One contract more trades, although the broker had confirmed the end."""
        if order.side < 0 and world.position < 1:
            return world
        price = (LATER if order.fills else FIRST)[order.side]
        order = order._replace(fills=(*order.fills, (1, price)))
        if order.filled == order.quantity:
            order = order._replace(status="filled")
        return world._replace(late=True, faulty=True).with_order(order, (order.execution(len(order.fills)),))

    def meddles(self, world: World, order: Own, status: str) -> World:
        return self.ends(world._replace(meddled=True), order, status)

    def by_hand(self, world: World, side: int) -> World:
        """A person trades one contract at the market; the stream says so."""
        price = Decimal("1.80") if side < 0 else Decimal("2.20")
        name = f"{BY_HAND}-{len(world.orders) - len(world.ours) + 1}"
        order = Own(name, CALL, side, 1, None, "", "filled", world.now, free=False, fills=((1, price),))
        update = (ev.OrderFound(0, order.shown()),)
        world = world._replace(orders=(*world.orders, order), stream=(*world.stream, update))
        return world._replace(meddled=True, faulty=True)

    def breaks(self, world: World) -> World:
        """The stream ends with all that it had to say, and connects again."""
        world = world._replace(stream=(), wanted=True, report=None)
        return self.feed(world, ev.BrokerLost(0, "trade stream: closed"))

    def restarts(self, world: World) -> World:
        """The process is killed and starts again: what was under way to it is lost, posts may still arrive."""
        world = world._replace(
            posts=(), strays=(*world.strays, *world.posts), answers=(), cancels=(), looks=(), found=(), stream=(),
            wanted=True, report=None, faulty=True,
        )  # fmt: skip
        identity = world.state.identity
        start = ev.RunStarted(0, "live", identity.account, identity.strategy, identity.epoch, "code", "sip", self.rules)
        return self.feed(world, start, ev.ModelVerified(0, "v1", "d", promoted=True, feed="sip"))

    # --- the rest of the way ----------------------------------------------------------------------------------------

    def onward(self, world: World, *, buys: bool = True) -> tuple[str, World]:
        """The next happening where nothing goes wrong any more; "" where only time is left.

        Without `buys` the market fills no purchase.
        """
        world = world._replace(faulty=True)
        for move in self._arrivals(world):
            if move.onward:
                return move.words, move.after()
        for broker_order in world.orders:
            if broker_order.free and broker_order.status == "pending_cancel":
                return f"{short(broker_order.name)} is cancelled", self.ends(world, broker_order, "canceled")
        for broker_order in world.orders:
            if broker_order.left and (buys or broker_order.side < 0):
                return f"all that is left of {short(broker_order.name)} fills", self.fills(
                    world, broker_order, broker_order.left
                )
        return "", world

    def settled(self, world: World) -> str:
        """Say why the desk is not done, "" where it is: nothing at work, and it agrees with its broker or is halted."""
        state = world.state
        at_work = [order for order in state.orders.values() if order.purpose != "foreign"]
        if at_work:
            return f"{short(at_work[0].client_order_id)} is at work as {at_work[0].status}"
        if any(broker_order.left for broker_order in world.orders):
            return "an order works at the broker"
        for broker_order in world.ours:
            order = state.closed.get(broker_order.name)
            if order is None or order.filled != broker_order.filled or order.cost != broker_order.cost:
                booking = "nothing" if order is None else f"{order.filled} for {order.cost}"
                return (
                    f"{short(broker_order.name)} filled {broker_order.filled} for {broker_order.cost}, "
                    f"the desk booked {booking}"
                )
            if (order.status == "filled") != (broker_order.status == "filled"):
                return f"{short(broker_order.name)} is {broker_order.status} at the broker, and {order.status} here"
            if len(order.executions) != len(broker_order.fills):
                return (
                    f"{short(broker_order.name)} has {len(broker_order.fills)} executions, "
                    f"the desk recorded {len(order.executions)}"
                )
        quantity = sum(position.quantity for position in state.book.positions.values())
        quantity += state.broker.foreign_held.get(CALL, 0)
        agrees = state.book.cash == world.cash and quantity == world.position and state.risk.reconciled
        if world.meddled:
            halted = state.risk.halt is not None and state.risk.halt.reason in HALTS
            return "" if agrees or halted else "a person meddled, and the desk neither agrees nor is halted"
        if not agrees:
            return f"book {quantity} and {state.book.cash} USD, broker {world.position} and {world.cash} USD"
        if state.works:
            return f"the work {next(iter(state.works))} does not end"
        wants_exit = self.order_count > 1 and not world.intents
        return f"{quantity} are held after the exit was wanted" if wants_exit and quantity else ""


HALTS = frozenset(("foreign_order", "reconciliation", "flatten", "short_position", "fill_mismatch", "order_mismatch"))


def _about(event: ev.Event) -> str:
    if isinstance(event, ev.OrderFound):
        return event.order.client_order_id
    return str(getattr(event, "client_order_id", ""))


def _accepted(order: Own) -> ev.Event:
    return ev.OrderAccepted(0, order.name, f"id-{order.name}")


def _without(many: tuple[Any, ...], one: Any) -> tuple[Any, ...]:
    """The tuple without the first that equals `one`."""
    place = many.index(one)
    return many[:place] + many[place + 1 :]


def text_of(*events: ev.Event) -> str:
    """An update or an answer in words."""
    event = events[-1]
    name = short(_about(event))
    match event:
        case ev.OrderFound(order=order):
            return f"{name} is {order.status}, {order.filled} filled"
        case ev.OrderFilled():
            return f"{name} filled {event.cumulative_quantity}"
        case ev.OrderMissing():
            return f"{name} is not known"
        case ev.CancelRejected():
            return f"the cancel of {name} is refused"
        case _:
            return f"{name} {type(event).__name__.removeprefix('Order').lower()}"


# --- which states are one ---------------------------------------------------------------------------------------------

_pack = msgspec.msgpack.Encoder(decimal_format="string").encode


def _core_part(world: World) -> bytes:
    """What of the core's state something may read, as bytes."""
    state, now = world.state, world.now
    broker, risk = state.broker, state.risk
    read_ns = 0 if world.report is None else world.report.asked_ns

    def age(at_ns: int) -> int:
        return min((now - at_ns) // SECOND, 400) if at_ns else -1

    def order(one: Order) -> tuple[Any, ...]:
        return (
            one.client_order_id, one.status, one.quantity, one.filled, str(one.cost), bool(one.order_id),
            one.executions, age(one.submitted_ns), age(one.news_ns), age(one.looked_up_ns), one.missing_ns > 0,
            one.looked_up_ns <= one.news_ns, age(one.cancel_asked_ns), age(one.cancel_since_ns),
            one.submitted_ns < read_ns, one.looked_up_ns < read_ns, one.closing, one.correction,
        )  # fmt: skip

    last = {work.order_id: work.report_ns for work in state.works.values() if work.purpose == "exit"}

    def closed_part(one: Order) -> tuple[Any, ...]:
        name = one.client_order_id
        times = (age(one.submitted_ns), age(one.news_ns), one.news_ns <= last[name]) if name in last else ()
        return (name, one.status, one.filled, str(one.cost), one.executions, bool(one.cancel_asked_ns), times)

    worths = {} if isinstance(state.worths, msgspec.UnsetType) else state.worths
    suspicion = broker.suspicion
    parts = (
        [order(one) for one in state.orders.values()],
        sorted(closed_part(one) for one in state.closed.values()),
        [
            (
                w.key,
                w.reason,
                w.goal,
                w.attempt,
                w.order_id,
                age(w.started_ns),
                age(w.report_ns),
                w.report_ns < broker.asked_ns,
                w.report_ns < read_ns,
            )
            for w in state.works.values()
        ],
        (risk.reconciled, risk.halt.reason if risk.halt else "", risk.pause is not None),
        (str(state.book.cash), [(s, p.quantity, str(p.cost)) for s, p in state.book.positions.items()]),
        sorted(state.wanted.items()),
        (
            sorted(broker.available.items()),
            *[
                [(s, t >= read_ns) for s, t in sorted(times.items())]
                for times in (broker.moved, broker.filled, broker.touched)
            ],
            broker.doubtful,
            (suspicion.differences, age(suspicion.since_ns)) if suspicion else (),
            sorted(broker.seen),
            age(broker.asked_ns),
            (broker.asked_ns >= broker.lost_ns, broker.reported_ns >= broker.started_ns),
            broker.agreed_ns > max(broker.started_ns, broker.lost_ns),
            (broker.lost_ns < read_ns, broker.started_ns < read_ns),
            sorted(broker.foreign_held.items()),
            sorted((o.client_order_id, o.status, o.filled) for o in broker.foreign.values()),
        ),
        (
            [str(known_quote.bid) for known_quote in state.quotes.values()],
            str(state.marks.get(CALL)),
            [(str(leap.price), age(leap.quoted_ns)) for leap in state.leaps.values()],
            [(str(w.confirmed), str(w.doubted), age(w.doubted_ns)) for w in worths.values()],
            state.decision,
            age(broker.cash_since_ns),
        ),
    )
    return _pack(parts)


def digest(world: World) -> bytes:
    """The state as 16 bytes, without what nothing reads: see the module's docstring."""
    return keyed(world)[0]


def keyed(world: World) -> tuple[bytes, World]:
    """The digest, and the world that knows the core's part of it: moves of the broker alone need not make it again."""
    if not world.known:
        world = world._replace(known=_core_part(world))
    report = world.report
    parts = (
        world.known,
        [
            (o.name, o.quantity, o.status, o.free, [(q, str(p)) for q, p in o.fills])
            for o in world.orders
        ],
        [(p.client_order_id, p.quantity) for p in world.posts],
        sorted(p.client_order_id for p in world.strays),
        sorted(_words_of(event) for event in world.answers),
        (sorted(world.cancels), sorted(world.looks), world.wanted, world.steps),
        (world.faulty, world.meddled, world.late, world.refused),
        sorted(_words_of(event) for event in world.found),
        [[_words_of(event) for event in update] for update in world.stream],
        () if report is None else (
            str(report.cash), [str(p.quantity) for p in report.positions],
            [(o.client_order_id, o.status, str(o.filled)) for o in (*report.open_orders, *report.ended_orders)],
        ),
        world.intents,
    )  # fmt: skip
    return blake2b(_pack(parts), digest_size=16).digest(), world


def _words_of(event: ev.Event) -> tuple[Any, ...]:
    if isinstance(event, ev.OrderFound):
        order = event.order
        return ("found", order.client_order_id, order.status, str(order.filled), str(order.average_price))
    if isinstance(event, ev.OrderFilled):
        return ("filled", event.client_order_id, event.cumulative_quantity, event.quantity)
    return (type(event).__name__, _about(event))


# --- the exploration --------------------------------------------------------------------------------------------------


class Pairs(dict[tuple[str, str], str]):
    """`LIFE` as it is, which counts what it is asked."""

    def __init__(self, table: dict[tuple[str, str], str]) -> None:
        super().__init__(table)
        self.met: Counter[tuple[str, str]] = Counter()

    def get(self, key: tuple[str, str], default: Any = None) -> Any:
        self.met[key] += 1
        return super().get(key, default)


@contextmanager
def table(changes: dict[tuple[str, str], str] | None = None) -> Iterator[Pairs]:
    """Let the core live by a table that counts; `changes` are put into it."""
    former = life.LIFE
    pairs = Pairs({**former, **(changes or {})})
    life.LIFE = pairs
    try:
        yield pairs
    finally:
        life.LIFE = former


class Story(NamedTuple):
    """The shortest way to something that must not be."""

    what: str
    steps: tuple[str, ...]
    rest: tuple[str, ...]  # of the way to rest, where nothing goes wrong any more
    faults: int
    rules: Life

    def __str__(self) -> str:
        lines = [f"{number:3}. {words}" for number, words in enumerate(self.steps, 1)]
        test = "\n".join(
            [
                "def test_the_story_holds() -> None:",
                f"    play({self.rules}, [",
                *[f"        {words!r}," for words in self.steps],
                "    ])",
            ]
        )
        rest = self.rest[:REST_TOLD]
        if rest:
            lines.append("     Nothing goes wrong from here on:")
            lines += [f"{number:3}. {words}" for number, words in enumerate(rest, len(lines))]
        if len(self.rest) > REST_TOLD:
            lines.append(f"     and so on, {len(self.rest) - REST_TOLD} more")
        return "\n".join([f"BROKEN with {self.faults} faults: {self.what}", *lines, "As a test:", test])


REST_TOLD = 20


class Seen(NamedTuple):
    """What an exploration met."""

    states: int
    transitions: int
    depth: int
    settling: int
    by_faults: tuple[int, ...]
    pairs: Counter[tuple[str, str]]
    story: Story | None
    whole: bool
    seconds: float


def play(rules: Life, steps: list[str], *, settle: bool = True) -> World:
    """Play a story by its words; then, with `settle`, the rest of the way. Raises Broken where something breaks."""
    world = rules.first()
    for words in steps:
        moves = {move.words: move for move in rules.moves(world, 1)}
        if words in moves:
            world = moves[words].after()
            continue
        following, world_after = rules.onward(world)
        if following == words:
            world = world_after
        elif words == MINUTE_MORE:
            world = rules.passes(world, LONG_NS, free=True)
        else:
            raise LookupError(f"{words!r} cannot happen here, but: {', '.join(moves)}")
    for buys in (True, False) if settle else ():
        _, why, _ = _settle(rules, world, set(), buys=buys)
        check(not why, why)
    return world


SESSION_OVER = "the session ends"
MINUTE_MORE = "another minute passes"
ROUNDS = 15  # minutes until which a desk must be done


def _settle(rules: Life, world: World, visits: set[bytes], *, buys: bool = True) -> tuple[list[str], str, int]:
    """Play the rest of the way; returns its steps, why the desk is not done ("" where it is), and how many were new."""
    words: list[str] = []
    passed: list[bytes] = []
    quiet, why = 0, ""
    for _ in range(ROUNDS * 40):
        key = digest(world._replace(steps=0, faulty=True))
        if key in visits:
            visits.update(passed)
            return words, "", len(passed)
        passed.append(key)
        try:
            step, after = rules.onward(world, buys=buys)
            if not step:
                why = rules.settled(world)
                if not why:
                    quiet += 1
                    if quiet == 2:
                        visits.update(passed)
                        return words, "", len(passed)
                else:
                    quiet = 0
                minutes = words.count(MINUTE_MORE)
                if minutes >= ROUNDS:
                    break
                if minutes == ROUNDS // 2 and rules.absent(world):
                    step, after = SESSION_OVER, rules.closes(world)
                else:
                    step, after = MINUTE_MORE, rules.passes(world, LONG_NS, free=True)
                words.extend([MINUTE_MORE] if step == SESSION_OVER else [])
        except (Broken, AssertionError, ValueError) as error:
            return words, str(error), len(passed)
        words.append(step)
        world = after
    return words, why or "it never comes to rest", len(passed)


def explore(
    rules: Life, faults: int, *, most: int = 0, seconds: float = 0, say: Callable[[str], None] | None = None
) -> Seen:
    """Explore all states; stop at the first broken rule, or after `most` states or `seconds` (0: without an end)."""
    gc.disable()  # nothing here is a circle, and each collection would walk all states
    try:
        return _explore(rules, faults, most, seconds, say)
    finally:
        gc.enable()


def _explore(rules: Life, faults: int, most: int, limit_s: float, say: Callable[[str], None] | None) -> Seen:
    began = time.monotonic()
    with table() if not isinstance(life.LIFE, Pairs) else _as_is() as pairs:
        first = rules.first()
        keys: dict[bytes, int] = {digest(first): 0}
        parents, words, onward = [-1], [""], [-1]
        depths = [0]
        queue: deque[tuple[int, World]] = deque([(0, first)])
        later: dict[bytes, tuple[int, World, str]] = {}  # states that need one fault more
        visits: set[bytes] = set()
        unfilled: set[bytes] = set()  # the same where the market fills no purchase
        transitions = settling = 0
        by_faults = [0] * (faults + 1)

        def enter(key: bytes, place: int, world: World, move_words: str, queue: deque[tuple[int, World]]) -> None:
            keys[key] = len(parents)
            queue.append((len(parents), world))
            parents.append(place)
            onward.append(-1)
            words.append(move_words)
            depths.append(depths[place] + 1)

        def path(place: int) -> list[str]:
            told_so_far = []
            while parents[place] >= 0:
                told_so_far.append(words[place])
                place = parents[place]
            return told_so_far[::-1]

        def result(story: Story | None, whole: bool) -> Seen:
            seconds = time.monotonic() - began
            return Seen(
                len(keys), transitions, max(depths), settling, tuple(by_faults), pairs.met, story, whole, seconds
            )

        for fault_count in range(faults + 1):
            while queue:
                place, world = queue.popleft()
                by_faults[fault_count] += 1
                if (most and len(keys) >= most) or (limit_s and time.monotonic() - began >= limit_s):
                    return result(None, False)
                if say is not None and sum(by_faults) % 20_000 == 0:
                    rate = len(keys) / (time.monotonic() - began)
                    say(
                        f"{len(keys):,} states, {transitions:,} transitions, {fault_count} faults, {rate:,.0f} states/s"
                    )
                follows = -1
                for move in rules.moves(world, faults - fault_count):
                    transitions += 1
                    try:
                        after = move.after()
                    except (Broken, AssertionError, ValueError) as error:
                        tale = (*path(place), move.words)
                        return result(Story(str(error), tale, (), fault_count + move.faults, rules), False)
                    key, after = keyed(after)
                    if key not in keys:
                        if move.faults:
                            later.setdefault(key, (place, after, move.words))
                            continue
                        enter(key, place, after, move.words, queue)
                    if follows < 0 and move.onward:
                        follows = keys[key]
                onward[place] = follows
                for buys, known in ((True, visits), (False, unfilled)):
                    needed = follows < 0 if buys else not world.under_way and any(order.left for order in world.orders)
                    if needed:  # only time is left; from any other state the way leads through its successor
                        rest, why, count = _settle(rules, world, known, buys=buys)
                        settling += count
                        if why:
                            return result(Story(why, tuple(path(place)), tuple(rest), fault_count, rules), False)
            queue = deque()
            for key, (place, after, move_words) in later.items():
                if key not in keys:
                    enter(key, place, after, move_words, queue)
            later = {}
        if (place := _circle(onward)) >= 0:
            return result(Story("it never comes to rest", tuple(path(place)), (), fault_count, rules), False)
        return result(None, True)


def _circle(onward: list[int]) -> int:
    """A place from which the onward ways lead back to it; -1 where there is none."""
    marks = bytearray(len(onward))
    for start in range(len(onward)):
        way, place = [], start
        while place >= 0 and not marks[place]:
            marks[place] = 1
            way.append(place)
            place = onward[place]
        if place >= 0 and marks[place] == 1:
            return place
        for passed in way:
            marks[passed] = 2
    return -1


@contextmanager
def _as_is() -> Iterator[Pairs]:
    pairs = life.LIFE
    assert isinstance(pairs, Pairs)
    yield pairs


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    line = argparse.ArgumentParser("python -m tests.years.order_life", description="An order's life, explored whole.")
    line.add_argument("--orders", type=int, default=2, help="orders with a life of their own (2)")
    line.add_argument("--faults", type=int, default=3, help="faults on one path, at most (3)")
    line.add_argument("--steps", type=int, default=1, help="steps of time on one path, at most (1)")
    line.add_argument("--contracts", type=int, default=2, help="contracts that the desk buys (2)")
    line.add_argument(
        "--foreign", choices=get_args(Foreign), default="halt", help="`foreign_orders` of the desk (halt)"
    )
    line.add_argument("--most", type=int, default=0, help="stop after this many states")
    line.add_argument("--minutes", type=float, default=0, help="stop after this time")
    options = line.parse_args(arguments)
    rules = Life(options.orders, options.steps, options.contracts, options.foreign)
    result = explore(
        rules,
        options.faults,
        most=options.most,
        seconds=60 * options.minutes,
        say=lambda text: print(text, flush=True),
    )
    print(summary(result))
    return 1 if result.story else 0


def summary(result: Seen) -> str:
    """What was met, as text."""
    pairs = [pair for pair in life.LIFE if result.pairs[pair]]
    unmet = [pair for pair in life.LIFE if not result.pairs[pair]]
    whole, rate = "all" if result.whole else "not all", result.states / (result.seconds or 1)
    ignored = {pair: count for pair, count in result.pairs.items() if pair not in life.LIFE}
    lines = [
        f"{result.states:,} states ({whole}), {result.transitions:,} transitions, {result.depth} deep",
        f"{result.settling:,} states on ways to rest; {result.seconds:.0f} s, {rate:,.0f} states/s",
        f"states expanded by faults needed: {', '.join(f'{count:,}' for count in result.by_faults)}",
        f"{len(pairs)} of {len(life.LIFE)} pairs of LIFE met; pairs outside it, which change nothing: {len(ignored)}",
        *[f"never met: {status}, {happened}: {UNMET.get((status, happened), '?')}" for status, happened in unmet],
    ]
    return "\n".join([*lines, str(result.story) if result.story else "nothing broken"])


ONE_LOOK_UP = "a look-up waits for its name's post, and no second one is asked before its answer is heard"
UNMET: dict[tuple[str, str], str] = {
    (life.SUBMITTED, "missing"): ONE_LOOK_UP,
    (life.CANCELING, "missing"): f"{ONE_LOOK_UP}; once known, an order is not missing but lost",
}
"""Pairs that the gateway's rules keep from happening, and why. The table keeps them for a gateway without these."""

MET_ELSEWHERE: dict[tuple[str, str], str] = {
    (life.REJECTED, "partial"): "--orders 1 --faults 2: rejected by the venue, then filled in part all the same",
}
"""Pairs that the bounded part does not reach, and what does."""


if __name__ == "__main__":
    sys.exit(main())
