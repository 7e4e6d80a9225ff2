"""The draft of the next state within one step, with the operations that all rules share; and the kinds of desks.

It is thrown away when the step raises, so a failed step changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from daemon.core.effects import AnyEffect, CancelOrder, LookUpOrder, RaiseAlarm
from daemon.core.events import Activity, BrokerPosition, Contract, Event, Funds, Quote, QuotesReceived
from daemon.core.gates import Gate
from daemon.core.instruments.option_market import parse_occ
from daemon.core.instruments.quotes import QuoteGuard
from daemon.core.limits import Trading
from daemon.core.moves import RECONCILED, Cause, Move
from daemon.core.orders import CANCELING, Order, Work, advance, in_words
from daemon.core.paper.paper import PaperBroker
from daemon.core.paper.quotes import QuotePaperBroker
from daemon.core.paper.shares import SharePaperBroker
from daemon.core.records import DecisionRow, EquityRow, OrderRow, Row
from daemon.core.state import SEEN_MAX, ZERO, Ask, Book, Halt, LadderState, Position, State, Worth
from strategies.kit.contract import Answer, Bar, Choice, Leg, Session, Spec, View
from strategies.kit.quantity import FINEST, Part, Quantity, floor_to, to_json, total
from strategies.kit.units import MINUTE_NS, SECOND_NS

ENTRY, EXIT = "entry", "exit"  # purposes of works and orders
PROTECTION = "protection"  # purpose of a stop that rests at the broker
CLOSED_BY_HAND = "closed_by_hand"  # reason of a person's exit from one position
BY_OPERATOR = "operator"  # reason of a person's exit from all positions
LEAVING = frozenset(("daily_loss", "blind", "disk_full", "flatten"))  # the halts that also leave every position
URGENCY = {"cash_difference": -1, "daily_loss": 1, "blind": 1, "disk_full": 2, "flatten": 2, "panic": 3}  # 0 for others
LASTING = frozenset({"blind", "blind_hold"})  # what more is lost meanwhile is no problem of its own
CASES_MAX = 20  # most cases of one alarm in a session
CASE_LETTERS = 200
_FIGURES = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d+(\.\d+)?")
NEAR_WHOLE = Decimal("1e-8")  # shares: several holders' parts, each rounded down to nine decimals
CANCEL_AGAIN_NS = 30 * SECOND_NS  # a refused or unanswered cancel is repeated only after this
CANCEL_STUCK_NS = 2 * CANCEL_AGAIN_NS  # an alarm is raised when it stays unanswered for this long


class Draft:
    """The next state in the making: one attribute for each field of `State`, plus effects and read-model rows."""

    __slots__ = (
        "ask",
        "basket",
        "book",
        "broker",
        "cause",
        "chain",
        "claim",
        "closed",
        "contracts",
        "decision",
        "desk",
        "doubted",
        "effects",
        "facts",
        "fed",
        "former",
        "identity",
        "ladder",
        "leaps",
        "lines",
        "marks",
        "model",
        "moves",
        "now_ns",
        "observed",
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
        "worths",
    )

    def __init__(self, state: State[Any], desk: DeskKind, facts: tuple[AnyEffect, ...] | None = None) -> None:
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
        self.book = state.book  # read freely, set by `put_book` and `put_high` alone
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
        self.ladder = state.ladder
        self.claim = state.claim
        self.worths: dict[str, Worth] = {} if isinstance(state.worths, UnsetType) else state.worths
        # effects that left the process, when taken over from other code's journal
        self.facts = facts
        self.effects: list[AnyEffect] = []
        self.records: list[Row] = []
        self.former = state
        self.cause = RECONCILED  # why the book moves
        self.moves: list[Move] = []
        self.observed = 0  # bars that the strategy saw in this step
        self.lines: tuple[Activity, ...] = ()  # ledger lines of the report being processed

    def freeze(self) -> State[Any]:
        return State(
            self.strategy, self.identity, self.trading, self.now_ns, self.seq, self.fed, self.decision, self.session,
            self.chain, self.watched, self.contracts, self.quotes, self.book, self.orders, self.closed, self.works,
            self.risk, self.model, self.pending_bars, self.ask, self.stats, self.broker, self.marks, self.basket,
            self.shadow, self.leaps, self.wanted, self.doubted, self.ladder, self.worths or UNSET,
            self.claim,
        )  # fmt: skip

    def put_book(self, book: Book) -> None:
        """Set the book; record each change of a position or of the realised profit, with the present cause."""
        former = self.book
        if book.positions is not former.positions or book.realized is not former.realized:
            self.moves.append(Move(former, book, self.cause))
        self.book = book

    def put_high(self, symbol: str, high: Decimal) -> None:
        """Set the highest price of a position since its entry; no move, since no money and no quantity changes."""
        position = replace(self.book.positions[symbol], high=high)
        self.book = replace(self.book, positions={**self.book.positions, symbol: position})

    def put_gains(self, gains: Mapping[tuple[int, str], Decimal]) -> None:
        """Add profits realised while a position is unchanged, by (opened_ns, symbol), to the move's cause."""
        positions = {
            symbol: replace(position, pnl=position.pnl + gains.get((position.opened_ns, symbol), ZERO))
            for symbol, position in self.book.positions.items()
        }
        self.book = replace(self.book, positions=positions)

    @contextmanager
    def because(self, cause: Cause) -> Iterator[None]:
        """Give this cause to all moves of the book inside the block."""
        former, self.cause = self.cause, cause
        try:
            yield
        finally:
            self.cause = former

    @property
    def holding(self) -> Position | None:
        """The position of a desk with one option position: the one opened first; None without one."""
        for position in self.book.positions.values():
            if position.right:
                return position
        return None

    @property
    def size_share(self) -> float:
        """Return the part of the size that the answering model may trade: 1 unless it climbs the ladder."""
        ladder, model = self.ladder, self.model
        if isinstance(ladder, LadderState) and model is not None and model.version == ladder.version:
            return ladder.share
        return 1.0

    def find_order(self, client_order_id: str) -> Order | None:
        """Return the order, working or ended in this session; None when unknown or older."""
        return self.orders.get(client_order_id) or self.closed.get(client_order_id)

    def rests(self) -> bool:
        """Return whether a stop rests at the broker."""
        return any(order.purpose == PROTECTION for order in self.orders.values())

    def working(self, symbol: str, side: int) -> Quantity:
        """Return the quantity of `symbol` that working orders on this side may still fill."""
        return total(o.remaining for o in self.orders.values() if o.symbol == symbol and o.side == side)

    def alarm(self, name: str, detail: str, *, once: bool = False, about: str = "") -> bool:
        """Raise an alarm; with `once` one for each case a session, where `about` distinguishes the cases of a name.

        A name has `CASES_MAX` cases at most; `case_over` ends them. Returns whether it was raised.
        """
        if once:
            case = f"{name} {about}" if about else name
            if case in self.risk.alarms or sum(_is_of(case_, name) for case_ in self.risk.alarms) >= CASES_MAX:
                return False
            self.risk = replace(self.risk, alarms=(*self.risk.alarms, case))
        self.effects.append(RaiseAlarm(name, detail))
        return True

    def told_of(self, name: str) -> set[str]:
        """Return the words that distinguish the cases of this alarm so far, such as symbols."""
        return {word for case in self.risk.alarms if _is_of(case, name) for word in case.split()[1:]}

    def close_session_at(self, told_ns: int) -> bool:
        """Move the session's close to this time if that is earlier than in the calendar; return whether it moved."""
        state, session = self.session, self.session.session
        assert session is not None
        calendar_ns = state.calendar_close_ns
        by_calendar_ns = session.close_ns if isinstance(calendar_ns, UnsetType) else calendar_ns
        early = session.open_ns < told_ns < by_calendar_ns
        close_ns = told_ns if early else by_calendar_ns
        if close_ns == session.close_ns:
            return False
        new_session = replace(session, close_ns=close_ns)
        self.session = replace(state, session=new_session, calendar_close_ns=by_calendar_ns if early else UNSET)
        return True

    def case_over(self, *names: str) -> None:
        """End the cases of these alarms: a later one is a new case."""
        other_cases = tuple([case_ for case_ in self.risk.alarms if not any(_is_of(case_, name) for name in names)])
        if len(other_cases) != len(self.risk.alarms):
            self.risk = replace(self.risk, alarms=other_cases)

    def halt(self, reason: str, detail: str) -> bool:
        """Take no new risk until resumed: set the state, end what the policy began, notify the operator.

        The first reason stays first unless a later one is more urgent. A less urgent one is kept behind it. What comes
        in other words raises an alarm once for each case. Returns whether an alarm was raised.
        """
        new = Halt(reason, detail, self.now_ns)
        repeats = [_repeat_halt(halt, new) for halt in self.risk.halts]
        halts = tuple([halt for halt, _ in repeats])
        if not halts or URGENCY.get(reason, 0) > URGENCY.get(halts[0].reason, 0):
            self._put_halts((new, *halts))
            self.effects.append(RaiseAlarm(reason, detail))
            is_raised = True
        else:
            self._put_halts((*halts, new))
            is_same = repeats[0][1]
            is_raised = not is_same and self.alarm(reason, detail, once=True, about=wording(detail))
        self.end_trading(leaving=bool(self.leaves_for()))
        return is_raised

    def end_halts(self, *reasons: str) -> None:
        """End the halts of these reasons, all without any; halts kept behind an ended one go on."""
        self._put_halts([halt for halt in self.risk.halts if reasons and halt.reason not in reasons])

    def _put_halts(self, halts: Iterable[Halt]) -> None:
        """Set the halts, the first of each reason."""
        standing: dict[str, Halt] = {}
        for halt in halts:
            standing.setdefault(halt.reason, halt)
        first, *behind = standing.values() or (None,)
        self.risk = replace(self.risk, halt=first, behind=tuple(behind) or UNSET)

    def leaves_for(self) -> str:
        """Return the reason of a halt that also leaves every position; "" without one, and after a panic."""
        halts, stays = self.risk.halts, () if self.trading.risk.daily_loss_flatten else ("daily_loss",)
        if halts and halts[0].reason == "panic":
            return ""
        return next((halt.reason for halt in halts if halt.reason in LEAVING and halt.reason not in stays), "")

    def first_time(self, name: str) -> bool:
        """Return True once for each `name`, because reports repeat their news each minute, or after every start.

        Of too many names the oldest is forgotten, but no ledger line of the report being processed: a busy person's
        orders would be booked again.
        """
        seen = self.broker.seen
        if name in seen:
            return False
        if len(seen) >= SEEN_MAX:
            told = {line.id for line in self.lines}
            oldest = next((place for place, former in enumerate(seen) if former.partition(" ")[0] not in told), 0)
            seen = (*seen[:oldest], *seen[oldest + 1 :])
        self.broker = replace(self.broker, seen=(*seen, name))
        return True

    def end_trading(self, *, leaving: bool = False) -> None:
        """Give up what the policy began and cancel its orders: entries, and a basket of shares as a whole.

        A basket's sales without its buys would leave the account in cash. With `leaving` the sales go on, and exits by
        a rule replace them. Exits by a rule always go on.
        """
        holds = self.desk.holds
        basket = self.desk.decides.rebalances and not leaving
        ended_works = {
            key: work
            for key, work in self.works.items()
            if work.purpose == ENTRY or (basket and work.reason == "policy")
        }
        for name, order in self.orders.items():
            if order.purpose == ENTRY or order.work in ended_works:
                self.cancel(name)
        holds.note_work_ends(self, tuple(ended_works.values()))
        self.works = {key: work for key, work in self.works.items() if key not in ended_works}

    def cancel_entries(self) -> None:
        """Cancel every working entry order."""
        for name, order in self.orders.items():
            if order.purpose == "entry":
                self.cancel(name)

    def cancel(self, client_order_id: str) -> None:
        """Cancel a working order, and again only after `CANCEL_AGAIN_NS`: a broker may refuse it.

        An unknown order cannot be cancelled until the broker knows it.
        """
        order = self.orders[client_order_id]
        canceling = advance(order, "cancel_requested")
        again = bool(order.cancel_asked_ns)
        if canceling.status != CANCELING or (again and self.now_ns - order.cancel_asked_ns < CANCEL_AGAIN_NS):
            return
        if not self.leaves(CancelOrder(client_order_id)):
            return
        since_ns = order.cancel_since_ns or self.now_ns
        self.put_order(replace(canceling, cancel_asked_ns=self.now_ns, cancel_since_ns=since_ns))
        self.effects.append(CancelOrder(client_order_id))
        if self.now_ns - since_ns >= CANCEL_STUCK_NS and order.purpose != "exit":  # exits have `exit_stuck`
            why = f"{client_order_id} ({in_words(order.side, order.remaining, order.symbol)}) does not end"
            self.alarm("cancel_stuck", why, once=True, about=client_order_id)

    def leaves(self, effect: AnyEffect) -> bool:
        """Return whether an effect leaves the process: always, except when replaying other code's journal."""
        return self.facts is None or effect in self.facts

    def put_order(self, order: Order) -> None:
        """Store an order as working or ended, with its read-model row."""
        name = order.client_order_id
        former = self.find_order(name)
        if former is None or former.status != order.status:
            order = replace(order, news_ns=self.now_ns)
        if former is None or (former.status, former.filled) != (order.status, order.filled):
            self.note_order_change(order.symbol)
        if order.working:
            self.orders = {**self.orders, name: order}  # an ended order never works again: `LIFE` has no such way
        else:
            self.orders = {key: other for key, other in self.orders.items() if key != name}
            self.closed = {**self.closed, name: order}
        self.records.append(_order_row(order, self.now_ns))

    def note_order_change(self, symbol: str) -> None:
        """Remember that an order in `symbol` changed now: reports requested earlier are outdated."""
        broker = self.broker
        available = {other: count for other, count in broker.available.items() if other != symbol}
        self.broker = replace(broker, available=available, moved={**broker.moved, symbol: self.now_ns})

    def look_up(self, order: Order) -> None:
        """Look up an order; repeated only after `look_up_s`."""
        self.put_order(replace(order, looked_up_ns=self.now_ns))
        by_id = order.order_id if order.closing and order.order_id else UNSET
        self.effects.append(LookUpOrder(order.client_order_id, by_id))

    def count_denials(self, gates: Iterable[str]) -> None:
        """Count each denial under its gate's name."""
        counts = dict(self.stats.denials)
        for gate in gates:
            counts[gate] = counts.get(gate, 0) + 1
        self.stats = replace(self.stats, denials=counts)

    def count_order(self) -> None:
        """Count an order that leaves now against the order limits."""
        risk = self.risk
        recent = tuple(t for t in risk.order_times if self.now_ns - t < MINUTE_NS)
        self.risk = replace(risk, order_times=(*recent, self.now_ns), orders_today=risk.orders_today + 1)
        self.stats = replace(self.stats, orders=self.stats.orders + 1)

    def held(self, symbol: str) -> Quantity:
        """Return the quantity in the book, negative when short."""
        position = self.book.positions.get(symbol)
        return position.quantity if position else 0

    @property
    def buys_fractions(self) -> bool:
        """Return whether this desk buys fractions of shares: as configured, or as its first basket chose."""
        rule, chosen = self.trading.basket.fractions, self.basket.fractions
        return self.desk.holds.by_basket and (rule == "on" or (rule == "auto" and chosen is True))

    @property
    def fractional(self) -> bool:
        """Return whether this desk counts fractions of shares: it buys them, or still holds some."""
        if self.buys_fractions or not self.desk.holds.by_basket:
            return self.buys_fractions
        return any(type(position.quantity) is Part for position in self.book.positions.values())

    def divides(self, symbol: str) -> bool:
        """Return whether the desk buys fractions of this symbol: only if the broker takes them."""
        return self.buys_fractions and not self.basket.is_indivisible(symbol)

    def expected(self, symbol: str) -> Quantity:
        """Return what the account should hold: the desk's quantity, others', and fractions in no book."""
        crumb = self.broker.beside_fractions.get(symbol, 0)
        return self.held(symbol) + self.broker.foreign_held.get(symbol, 0) + crumb

    def expected_symbols(self) -> set[str]:
        """Return all symbols of which the account should hold something."""
        return {*self.book.positions, *self.broker.foreign_held, *self.broker.beside_fractions}

    def counted(self, shares: Decimal | int) -> Quantity:
        """Return how many of these shares the desk counts: all with fractions, else the whole ones.

        Negative numbers are rounded towards 0. Brokers round down to nine decimals: a number that lacks no more than
        that of a whole share is whole.
        """
        if self.fractional:
            return floor_to(shares, FINEST)
        exact_shares = Decimal(shares)
        near = exact_shares.to_integral_value()
        return int(near) if abs(exact_shares - near) <= NEAR_WHOLE else floor_to(exact_shares, 1)

    def contract_of(self, symbol: str) -> Contract | None:
        """Return the contract of an OCC symbol, from the chain or parsed from the symbol; None for shares."""
        contract = self.contracts.get(symbol)
        if contract is not None:
            return contract
        terms = parse_occ(symbol)
        return None if terms is None else Contract(symbol, terms.expiry, terms.right, terms.strike, 0)

    def fresh(self, quote: Quote | None) -> Quote | None:
        """Return the quote when it is young enough to act on, else None."""
        if quote is None or self.now_ns - quote.quoted_ns > self.trading.risk.quote_age_max_s * SECOND_NS:
            return None
        return quote

    def exit_of(self, symbol: str) -> Work | None:
        """Return the exit of `symbol` that is under way, or None."""
        for work in self.works.values():
            if work.purpose == EXIT and work.symbol == symbol:
                return work
        return None

    def newest_attempt(self, work: Work) -> Order:
        """Return the work's newest attempt, which is kept as long as the work."""
        order = self.find_order(work.order_id)
        if order is None:
            raise ValueError(f"order {work.order_id} of work {work.key} is forgotten; the last attempt is kept")
        return order

    def close_work(self, work: Work) -> None:
        """Close a work that is done or given up."""
        self.works = {key: other for key, other in self.works.items() if key != work.key}

    def end_buys(self, symbol: str) -> bool:
        """End the works that buy a symbol; returns whether there was any."""
        works = {key: work for key, work in self.works.items() if (work.symbol, work.purpose) != (symbol, ENTRY)}
        ended = len(works) < len(self.works)
        self.works = works
        return ended

    def count_bad_bar(self, reason: str, symbol: str) -> None:
        """Count a refused bar, and report it once a session."""
        self.stats = replace(self.stats, bars_rejected=self.stats.bars_rejected + 1)
        self.alarm("bar_rejected", f"{symbol}: {reason}", once=True, about=f"{symbol} {reason}")

    def record_equity(self) -> None:
        """Add a row of the marked equity."""
        book = self.book
        row = EquityRow(self.now_ns, str(book.equity), str(book.cash), str(book.realized), book.max_drawdown)
        self.records.append(row)

    def end_question(self, ask: Ask, outcome: str) -> None:
        """End the open question without an answer (`expired` or `failed`): one decision row, no action."""
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


NAMED = 5  # most symbols named in an alarm or a reason


def names_of(symbols: Sequence[str]) -> str:
    """Return the first symbols in words, and how many more there are."""
    more = f" and {len(symbols) - NAMED} more" if len(symbols) > NAMED else ""
    return f"{', '.join(symbols[:NAMED])}{more}"


def while_held(holdings: Sequence[str]) -> str:
    """Return "while ... is held" for one holding, "are held" for several."""
    return f"while {names_of(holdings)} {'is' if len(holdings) == 1 else 'are'} held"


def wording(detail: str) -> str:
    """Return a text without its figures and ids, which may change between calls."""
    return _FIGURES.sub("#", detail)[:CASE_LETTERS]


def _repeat_halt(halt: Halt, new: Halt) -> tuple[Halt, bool]:
    """Return a standing halt after a new one, and whether the new one says the same.

    The same is its reason in the same words, of the same person, or one that lasts. Its reason in other words gives it
    the new one's time.
    """
    if halt.reason != new.reason:
        return halt, False
    person = _person(new.detail)
    same_words, same_person = wording(halt.detail) == wording(new.detail), _person(halt.detail) == person
    is_same = same_words or new.reason in LASTING or bool(person and same_person)
    if same_words:
        return halt, is_same
    others_ns = halt.others_ns if same_person else new.since_ns
    return replace(halt, again_ns=new.since_ns, others_ns=others_ns), is_same


def _person(detail: str) -> str:
    """Return who commanded a halt, by its words, whatever the channel; "" where they name no one."""
    by = detail.rpartition(" (by ")[2] if detail.endswith(")") else ""
    return by.partition("/")[2] or by


def _is_of(case: str, name: str) -> bool:
    return case == name or case.startswith(f"{name} ")


# --- the kind of desk that it is drafted for --------------------------------------------------------------------------
# Two axes: when a desk decides, and what it holds; it composes one object of each. The rules call these objects and
# never ask which kind it is. A new kind is a new object on one axis, or a new pair.

Handler = Callable[[Draft, Any], None]
PaperMarket = PaperBroker | QuotePaperBroker | SharePaperBroker


class ShownDecision(NamedTuple):
    """A decision for display: the action's name, how the answer was read, and the target as JSON."""

    action: str
    choice: Choice | None
    target: bytes

    @classmethod
    def of(cls, action: str, choice: Choice | None, target: object) -> ShownDecision:
        """Encode the target."""
        return cls(action, choice, msgspec.json.encode(target, enc_hook=to_json))


class Decides(Protocol):
    """When a desk decides: which events bring bars, and which of them asks the policy."""

    @property
    def handlers(self) -> Mapping[type[Event], Handler]:
        """Handlers of these events; the common handlers cover all others."""

    @property
    def quiet(self) -> frozenset[type[Event]]:
        """Events after which orders are not advanced."""

    def fills_to_come(self, draft: Draft, /) -> bool:
        """Return True while a replay still has fills for the present time: orders are not advanced.

        Asked while bars wait for their quotes.
        """

    def known(self, draft: Draft, /) -> Mapping[str, tuple[Bar, ...]]:
        """The adjusted bars that the strategy keeps, by symbol, oldest first; empty where it keeps none."""

    def newest(self, draft: Draft, /) -> Mapping[str, int]:
        """Start of the newest adjusted bar of each symbol, where bars arrive in whole sessions."""

    def waits_until_ns(self, draft: Draft, ask: Ask, /) -> int:
        """Time until which a basket denied by a passing cause may still begin."""

    def begin(self, draft: Draft, legs: tuple[Leg, ...], /) -> None:
        """Begin a new basket: handle the works of an earlier one."""

    @property
    def rebalances(self) -> bool:
        """True where each decision covers all holdings.

        Then its sales end with its buys, and many positions that close are no losses in a row. Otherwise each decision
        opens or leaves a position: cooldowns, stops and the loss of data count as for any position of a session.
        """


class Holds(Protocol):
    """What a desk holds: how it is shown, decided about, priced, ordered, counted and left."""

    @property
    def by_basket(self) -> bool:
        """True where the policy trades several symbols as one basket.

        Exits by a rule replace a sale, and the broker may split what is held.
        """

    @property
    def guards_replays(self) -> bool:
        """True where a replay's quotes may be wrong too: they are printed prices, not derived from bars."""

    @property
    def marks_held_only(self) -> bool:
        """True where only held symbols keep a price; else all do, for sizing a basket."""

    @property
    def multiplier(self) -> int:
        """Shares per unit of an order."""

    @property
    def handlers(self) -> Mapping[type[Event], Handler]:
        """Handlers of these events; the common handlers cover all others."""

    @property
    def quiet(self) -> frozenset[type[Event]]:
        """Events after which orders are not advanced, in addition to those of every desk."""

    def view(self, draft: Draft, now_ns: int, /) -> View:
        """Return what the strategy may know at `now_ns`. Raises ValueError without a session."""

    def act(self, draft: Draft, ask: Ask, answer: Answer, model: str, /) -> None:
        """Let the strategy decide on the policy's answer, ask the gates, start works; one decision row."""

    def preview_decision(self, draft: Draft, answer: Answer, /) -> ShownDecision:
        """Return what the strategy would decide on a candidate's answer. Nothing changes."""

    def watch(self, draft: Draft, /) -> None:
        """Subscribe to what may be bought now."""

    def handle_quotes(self, draft: Draft, quotes: tuple[Quote, ...], bar_ns: int, /) -> None:
        """Handle new quotes, after they marked the book; `bar_ns` is the start of the bar they close, 0 for none."""

    def note_quotes(self, draft: Draft, quotes: tuple[Quote, ...], /) -> None:
        """Update what the positions would fetch by new quotes, after these marked the book."""

    def priced_by_bar(self, draft: Draft, /) -> None:
        """Update what the positions would fetch by a new bar, and leave those that reached their stop by it."""

    def implied_price(self, draft: Draft, bar: Bar, event: QuotesReceived, /) -> float | None:
        """Return the price of the bar's symbol implied by quotes since the bar began; None where they imply none."""

    def mark_bars(self, draft: Draft, bars: tuple[Bar, ...], /) -> None:
        """Mark held positions at the closes of bars, where those are their prices."""

    def guard(self, trading: Trading, /) -> QuoteGuard:
        """Return the limits within which a quote is accepted at once."""

    def mark_book(self, draft: Draft, book: Book, /) -> Book:
        """Return the book with equity, peak and drawdown at the marks."""

    def drive(self, draft: Draft, /) -> None:
        """Advance every work."""

    def intent(self, side: int, purpose: str, /) -> str:
        """Return the intent sent with an order, "" for none."""

    def exit_reprice_s(self, trading: Trading, /) -> int:
        """Seconds for which an exit order works before it is repriced."""

    def spendable(self, funds: Funds, /) -> Decimal | None:
        """Return USD that new buys may cost by the broker, None when unknown."""

    def beyond_limit(self, draft: Draft, /) -> int:
        """Return by how much all positions exceed the desk's limit; 0 or less within it, or without one."""

    def note_work_ends(self, draft: Draft, works: tuple[Work, ...], /) -> None:
        """Note works of the policy that were given up. The cancel of their orders was requested."""

    def session_over(self, draft: Draft, /) -> None:
        """Handle the session's end, after the book is marked."""

    def risk_symbols(self, draft: Draft, /) -> list[str]:
        """Return the held symbols that the desk trades: it needs their prices, and protects them."""

    def leavable(self, draft: Draft, /) -> list[str]:
        """Return the symbols sold when the desk leaves everything, including shares of another name or a spin-off."""

    def flatten(self, draft: Draft, session: Session, /) -> None:
        """Leave positions that must not be held at this time of the session."""

    def split(self, draft: Draft, line: Activity, paid_out: Decimal, /) -> None:
        """Book the ledger's line about a split."""

    def reorganise(self, draft: Draft, line: Activity, /) -> bool:
        """Book the ledger's line about new names, mergers or spin-offs; False where the desk books none."""

    def note_positions(self, draft: Draft, positions: Iterable[BrokerPosition], /) -> None:
        """Look for splits in the broker's positions."""

    def paper(self, trading: Trading, spec: Spec, mode: str, /, *, by_bar: bool) -> PaperMarket:
        """Return the paper broker of a replay, or of a dry run on a live feed; `by_bar` where bars fill its orders."""


PAPER_MODES = frozenset(("replay", "recorded", "dry_run"))


class DeskKind:
    """One desk: its strategy's spec, when it decides, what it holds, and its gates."""

    __slots__ = ("decides", "gates", "grid", "holds", "overnight", "spec")

    def __init__(self, spec: Spec, decides: Decides, holds: Holds, gates: tuple[Gate, ...]) -> None:
        self.spec = spec
        self.decides = decides
        self.holds = holds
        self.gates = gates
        self.grid = spec.grid
        self.overnight = spec.overnight

    def paper(self, trading: Trading, mode: str) -> PaperMarket | None:
        """Return the desk's paper broker; None in a mode with a real broker."""
        if mode not in PAPER_MODES:
            return None
        return self.holds.paper(trading, self.spec, mode, by_bar=not self.decides.rebalances)


def _order_row(order: Order, now_ns: int) -> OrderRow:
    """Return the row of an order as it is at `now_ns`."""
    return OrderRow(
        client_order_id=order.client_order_id,
        work=order.work,
        purpose=order.purpose,
        reason=order.reason,
        symbol=order.symbol,
        side=order.side,
        quantity=order.quantity,
        limit_price=None if order.limit_price is None else str(order.limit_price),
        status=order.status,
        filled=order.filled,
        cost=str(order.cost),
        fees_usd=str(order.fees),
        submitted_ns=order.submitted_ns,
        updated_ns=now_ns,
    )
