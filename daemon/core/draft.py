"""The draft in which a step prepares the next state, with the few things that every rule does to it.

A draft lives only inside one step and is thrown away when the step raises, so a failed step changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from daemon.core.effects import AnyEffect, CancelOrder, LookUpOrder, RaiseAlarm
from daemon.core.events import Contract, Quote
from daemon.core.instruments.option_market import parse_occ
from daemon.core.orders import CANCELING, Order, Work, advance
from daemon.core.records import DecisionRow, EquityRow, Row, order_row
from daemon.core.state import SEEN_MAX, Ask, Halt, Position, State, held_option
from strategies.kit.units import MINUTE_NS, SECOND_NS

if TYPE_CHECKING:
    from daemon.core.desks.kind import DeskKind

ENTRY, EXIT = "entry", "exit"  # purposes of works and orders
LEAVING = frozenset(("daily_loss", "blind", "disk_full", "flatten"))  # the halts that also leave every position
URGENCY = {"cash_difference": -1, "daily_loss": 1, "blind": 1, "disk_full": 2, "flatten": 2, "panic": 3}  # 0 of others
CASES_MAX = 20  # cases of one alarm a session, however many wordings there are
CASE_LETTERS = 200
_FIGURES = re.compile(r"\d+(\.\d+)?")
CANCEL_AGAIN_NS = 30 * SECOND_NS  # a refused or unanswered cancel is asked for again only after this
CANCEL_STUCK_NS = 2 * CANCEL_AGAIN_NS  # and is an alarm when it was asked for so long without an end


class Draft:
    """The next state in the making: one attribute for each field of `State`, beside effects and read-model rows."""

    __slots__ = (
        "ask",
        "basket",
        "book",
        "broker",
        "chain",
        "closed",
        "contracts",
        "decision",
        "desk",
        "doubted",
        "effects",
        "facts",
        "fed",
        "identity",
        "leaps",
        "marks",
        "model",
        "now_ns",
        "orders",
        "pending_bars",
        "quotes",
        "records",
        "risk",
        "seq",
        "session",
        "shadow",
        "spec",
        "stats",
        "strategy",
        "trading",
        "wanted",
        "watched",
        "works",
    )

    def __init__(self, state: State[Any], desk: DeskKind) -> None:
        self.desk = desk
        self.spec = desk.spec
        self.strategy = state.strategy
        self.identity = state.identity
        self.trading = state.trading
        self.now_ns = state.now_ns
        self.seq = state.seq
        self.fed = state.fed
        self.decision = state.decision
        self.session = state.session
        self.chain = state.chain
        self.watched = state.watched
        self.contracts = state.contracts
        self.quotes = state.quotes
        self.book = state.book
        self.orders = state.orders
        self.closed = state.closed
        self.works = state.works
        self.risk = state.risk
        self.model = state.model
        self.pending_bars = state.pending_bars
        self.ask = state.ask
        self.stats = state.stats
        self.broker = state.broker
        self.marks = state.marks
        self.basket = state.basket
        self.shadow = state.shadow
        self.leaps = state.leaps
        self.wanted = state.wanted
        self.doubted = state.doubted
        self.facts: tuple[AnyEffect, ...] | None = None  # what left the process, where other code's journal says it
        self.effects: list[AnyEffect] = []
        self.records: list[Row] = []

    def freeze(self) -> State[Any]:
        return State(
            self.strategy,
            self.identity,
            self.trading,
            self.now_ns,
            self.seq,
            self.fed,
            self.decision,
            self.session,
            self.chain,
            self.watched,
            self.contracts,
            self.quotes,
            self.book,
            self.orders,
            self.closed,
            self.works,
            self.risk,
            self.model,
            self.pending_bars,
            self.ask,
            self.stats,
            self.broker,
            self.marks,
            self.basket,
            self.shadow,
            self.leaps,
            self.wanted,
            self.doubted,
        )

    @property
    def holding(self) -> Position | None:
        """The one option position of a single-position desk, or None."""
        return held_option(self.book)

    def find_order(self, client_order_id: str) -> Order | None:
        """The order, working or ended in this session; None when it is not ours or older."""
        return self.orders.get(client_order_id) or self.closed.get(client_order_id)

    def working(self, symbol: str, side: int) -> int:
        """Contracts of `symbol` that working orders on this side may still fill."""
        return sum(o.remaining for o in self.orders.values() if o.symbol == symbol and o.side == side)

    def alarm(self, name: str, detail: str, *, once: bool = False, about: str = "") -> bool:
        """Raise an alarm; with `once` one for each case a session: `about` is what makes another case of the same name.

        There are `CASES_MAX` cases of a name at most; `case_over` ends them. Returns whether it was raised.
        """
        if once:
            case = f"{name} {about}" if about else name
            if case in self.risk.alarms or sum(_is_of(told, name) for told in self.risk.alarms) >= CASES_MAX:
                return False
            self.risk = replace(self.risk, alarms=(*self.risk.alarms, case))
        self.effects.append(RaiseAlarm(name, detail))
        return True

    def case_over(self, *names: str) -> None:
        """What these alarms report is over: when it comes again it is another case."""
        kept = tuple(told for told in self.risk.alarms if not any(_is_of(told, name) for name in names))
        if len(kept) != len(self.risk.alarms):
            self.risk = replace(self.risk, alarms=kept)

    def halt(self, reason: str, detail: str) -> None:
        """Take no new risk until resumed: the state is set, what the policy began ends, the operator is told.

        The first reason stays, unless a later one is more urgent: then it takes over and names the first. One that does
        not is an alarm, once for each case.
        """
        former = self.risk.halt
        if former is not None and URGENCY.get(reason, 0) > URGENCY.get(former.reason, 0):
            detail = f"{detail}; halted before: {former.reason}: {former.detail}"
            former = None
        if former is None:
            self.risk = replace(self.risk, halt=Halt(reason, detail, self.now_ns))
            self.effects.append(RaiseAlarm(reason, detail))
        elif former.reason != reason:
            self.alarm(reason, detail, once=True, about=wording(detail))
        self.end_trading(leaving=self.leaves_all())

    def leaves_all(self) -> bool:
        """True while the halt's reason is one that also leaves every position."""
        halted = self.risk.halt
        if halted is None or (halted.reason == "daily_loss" and not self.trading.risk.daily_loss_flatten):
            return False
        return halted.reason in LEAVING

    def first_time(self, name: str) -> bool:
        """Remember `name`; True when it was not judged before. Reports repeat it each minute, or after every start."""
        if name in self.broker.seen:
            return False
        self.broker = replace(self.broker, seen=(*self.broker.seen, name)[-SEEN_MAX:])
        return True

    def end_trading(self, *, leaving: bool = False) -> None:
        """Give up what the policy began and ask for the cancel of its orders: entries, and a basket of shares whole.

        A basket's sales without its buys would leave the account in cash. Where all is `leaving` anyway they go on, and
        the exits by a rule take them over; those go on in any case.
        """
        holds = self.desk.holds
        basket = holds.by_basket and not leaving
        ended = {
            key: work
            for key, work in self.works.items()
            if work.purpose == ENTRY or (basket and work.reason == "policy")
        }
        for name, order in self.orders.items():
            if order.purpose == ENTRY or order.work in ended:
                self.cancel(name)
        holds.note_ended(self, tuple(ended.values()))
        self.works = {key: work for key, work in self.works.items() if key not in ended}

    def cancel_entries(self) -> None:
        """Ask for the cancel of every working entry order."""
        for name, order in self.orders.items():
            if order.purpose == "entry":
                self.cancel(name)

    def cancel(self, client_order_id: str) -> None:
        """Ask for the cancel of a working order, and again only after `CANCEL_AGAIN_NS`: a broker may refuse it.

        An unknown order cannot be cancelled until the broker knows it.
        """
        order = self.orders[client_order_id]
        asked = advance(order, "cancel_requested")
        again = bool(order.cancel_asked_ns)
        if asked.status != CANCELING or (again and self.now_ns - order.cancel_asked_ns < CANCEL_AGAIN_NS):
            return
        if not self.leaves(CancelOrder(client_order_id)):
            return
        since_ns = order.cancel_since_ns or self.now_ns
        self.put_order(replace(asked, cancel_asked_ns=self.now_ns, cancel_since_ns=since_ns))
        self.effects.append(CancelOrder(client_order_id))
        if self.now_ns - since_ns >= CANCEL_STUCK_NS and order.purpose != "exit":  # an exit's is `exit_stuck`
            why = f"{client_order_id} ({order.side:+d} {order.remaining} {order.symbol}) does not end"
            self.alarm("cancel_stuck", why, once=True, about=client_order_id)

    def leaves(self, effect: AnyEffect) -> bool:
        """Whether an effect leaves the process: always, but where other code's journal is taken as it happened."""
        return self.facts is None or effect in self.facts

    def put_order(self, order: Order) -> None:
        """Store an order, among the working or the ended ones, and its read-model row."""
        name = order.client_order_id
        former = self.find_order(name)
        if former is None or former.status != order.status:
            order = replace(order, news_ns=self.now_ns)
        if former is None or (former.status, former.filled) != (order.status, order.filled):
            self.note_moved(order.symbol)
        if order.working:
            self.orders = {**self.orders, name: order}  # an ended order never works again: `LIFE` has no such way
        else:
            self.orders = {key: other for key, other in self.orders.items() if key != name}
            self.closed = {**self.closed, name: order}
        self.records.append(order_row(order, self.now_ns))

    def note_moved(self, symbol: str) -> None:
        """Remember that an order in `symbol` changed now: what a report that was asked for earlier has of it is old."""
        broker = self.broker
        available = {other: count for other, count in broker.available.items() if other != symbol}
        self.broker = replace(broker, available=available, moved={**broker.moved, symbol: self.now_ns})

    def look_up(self, order: Order) -> None:
        """Ask what became of an order; asked again only after `look_up_s`."""
        self.put_order(replace(order, looked_up_ns=self.now_ns))
        self.effects.append(LookUpOrder(order.client_order_id))

    def count_denials(self, gates: Iterable[str]) -> None:
        """Count each denial under its gate's name."""
        counts = dict(self.stats.denials)
        for gate in gates:
            counts[gate] = counts.get(gate, 0) + 1
        self.stats = replace(self.stats, denials=counts)

    def count_sent(self) -> None:
        """Count an order that leaves now for the limits on orders."""
        risk = self.risk
        recent = tuple(t for t in risk.order_times if self.now_ns - t < MINUTE_NS)
        self.risk = replace(risk, order_times=(*recent, self.now_ns), orders_today=risk.orders_today + 1)
        self.stats = replace(self.stats, orders=self.stats.orders + 1)

    def held(self, symbol: str) -> int:
        """Contracts or shares in the book, negative when short."""
        position = self.book.positions.get(symbol)
        return position.quantity if position else 0

    def contract_of(self, symbol: str) -> Contract | None:
        """The contract of an OCC symbol: as it was listed, else as the symbol says; None for shares."""
        known = self.contracts.get(symbol)
        if known is not None:
            return known
        told = parse_occ(symbol)
        return None if told is None else Contract(symbol, told.expiry, told.right, told.strike, 0)

    def fresh(self, quote: Quote | None) -> Quote | None:
        """The quote when it is young enough to act on, else None."""
        if quote is None or self.now_ns - quote.quoted_ns > self.trading.risk.quote_age_max_s * SECOND_NS:
            return None
        return quote

    def exit_of(self, symbol: str) -> Work | None:
        """The exit of `symbol` that is under way, or None."""
        for work in self.works.values():
            if work.purpose == EXIT and work.symbol == symbol:
                return work
        return None

    def newest_attempt(self, work: Work) -> Order:
        """The work's newest attempt, which is kept for as long as the work."""
        order = self.find_order(work.order_id)
        if order is None:
            raise ValueError(f"order {work.order_id} of work {work.key} is forgotten; the last attempt is kept")
        return order

    def close_work(self, work: Work) -> None:
        """The work is done or given up."""
        self.works = {key: other for key, other in self.works.items() if key != work.key}

    def count_rejected(self, reason: str, symbol: str) -> None:
        """Count a bar that is not taken, and tell it once a session."""
        self.stats = replace(self.stats, bars_rejected=self.stats.bars_rejected + 1)
        self.alarm("bar_rejected", f"{symbol}: {reason}", once=True, about=f"{symbol} {reason}")

    def record_equity(self) -> None:
        """Put a row of the equity as it is marked now."""
        book = self.book
        row = EquityRow(self.now_ns, str(book.equity), str(book.cash), str(book.realized), book.max_drawdown)
        self.records.append(row)

    def end_unanswered(self, ask: Ask, outcome: str) -> None:
        """End the open question without an answer (`expired` or `failed`): one decision row, and nothing to act on."""
        self.ask = None
        self.stats = replace(self.stats, decisions=self.stats.decisions + 1)
        self.records.append(
            DecisionRow(
                decision=ask.decision,
                kind="policy",
                bar_ns=ask.bar_ns,
                time_ns=self.now_ns,
                outcome=outcome,
                row=ask.row,
            )
        )


def wording(detail: str) -> str:
    """What a text is about: its words without its figures, which may change from one look to the next."""
    return _FIGURES.sub("#", detail)[:CASE_LETTERS]


def _is_of(told: str, name: str) -> bool:
    return told == name or told.startswith(f"{name} ")
