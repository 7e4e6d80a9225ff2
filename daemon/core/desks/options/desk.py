"""A desk that holds one option position: buys calls or puts, and is flat before the close."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, ClassVar

from msgspec.structs import replace

from daemon.core.book import OPTION_MULTIPLIER
from daemon.core.broker.exits import exit_at_stop, exit_by_rule, exit_in_time
from daemon.core.desks.guarded import GuardedStrategy
from daemon.core.desks.options.decide import act, drive
from daemon.core.draft import EXIT, Draft, Handler, ShownDecision
from daemon.core.effects import WatchContracts
from daemon.core.events import Activity, BrokerPosition, ContractsListed, Event, Funds, Quote, QuotesReceived
from daemon.core.gates import OPTION_SHARES, Intent, RiskView
from daemon.core.instruments.quotes import (
    QuoteGuard,
    candidates,
    choose_expiry,
    implied_spot,
    is_quote,
    is_wide,
    option_guard,
)
from daemon.core.limits import Trading
from daemon.core.orders import Work
from daemon.core.paper.paper import PaperBroker
from daemon.core.paper.quotes import QuotePaperBroker
from daemon.core.paper.recorded import RecordedPaperBroker
from daemon.core.risk.guards import revalue
from daemon.core.risk.marks import mark_options, marked, note_bar, note_quotes
from daemon.core.session import minutes_to
from daemon.core.state import Ask, Book
from strategies.kit.contract import Answer, Bar, Decision, Session, Spec, Strategy, View
from strategies.kit.units import MINUTE_NS, SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Iterable


def on_contracts_listed(draft: Draft, event: ContractsListed) -> None:
    session = draft.session.session
    if session is None or event.session_date != session.date:
        return
    draft.chain = choose_expiry(event, session, draft.session.upcoming, draft.trading.contracts)
    watch(draft)


def watch(draft: Draft) -> None:
    """Keep candidates, held and worked contracts subscribed, and the descriptions of all ordered ones."""
    chosen = candidates(draft.chain, draft.session, draft.now_ns, draft.trading.contracts) if draft.chain else ()
    symbols = tuple([contract.symbol for contract in chosen])
    if draft.book.positions or draft.orders or draft.works:
        at_work = [order.symbol for order in draft.orders.values()] + [work.symbol for work in draft.works.values()]
        symbols = tuple(dict.fromkeys((*symbols, *option_symbols(draft), *at_work)))
    if symbols == draft.watched:
        return
    ordered = {order.symbol for order in draft.closed.values()}
    contracts = {**draft.contracts, **{c.symbol: c for c in chosen}}
    draft.contracts = {s: c for s, c in contracts.items() if s in symbols or s in ordered}
    draft.quotes = {s: q for s, q in draft.quotes.items() if s in symbols}
    draft.watched = symbols
    draft.effects.append(WatchContracts(symbols))


def view_at(draft: Draft, now_ns: int) -> View:
    """Return the strategy's view at `now_ns`: side, return and age of the one option position."""
    session = draft.session.session
    if session is None:
        raise ValueError("a view needs a session; SessionScheduled precedes every bar")
    position = draft.holding
    if position is None:
        return View(now_ns, session)
    price = marked(draft, position.symbol)
    gain = 0.0 if price is None or not position.cost else float(price * position.quantity / position.cost) - 1.0
    age = max(now_ns - position.opened_ns, 0) / MINUTE_NS
    return View(now_ns, session, position.right, gain, age)


def check_stops(draft: Draft, quotes: tuple[Quote, ...], bar_ns: int) -> None:
    """Leave an option at its stop or its target."""
    for quote in quotes:
        position = draft.book.positions.get(quote.symbol)
        if position is not None and position.right:
            exit_at_stop(draft, position, quote, bar_ns)


def option_symbols(draft: Draft) -> list[str]:
    """Return the options held."""
    return [symbol for symbol, position in draft.book.positions.items() if position.right]


def flatten(draft: Draft, session: Session) -> None:
    """Leave every option position before the close, and shares from an exercise."""
    for symbol, position in tuple(draft.book.positions.items()):
        if not position.right:
            if draft.trading.broker.exercised_shares == "close":
                exit_by_rule(draft, symbol, "shares_from_exercise")
        else:
            exit_in_time(draft, position, session)


def split_exercised(draft: Draft, line: Activity) -> None:
    """Book a split of shares from an exercise: their number changes, their cost stays."""
    position = draft.book.positions.get(line.symbol)
    if position is not None:
        moved = replace(position, quantity=position.quantity + int(line.quantity))
        draft.book = replace(draft.book, positions={**draft.book.positions, line.symbol: moved})
        revalue(draft)


_PAPERS: Mapping[str, type[PaperBroker | QuotePaperBroker]] = {"replay": PaperBroker, "recorded": RecordedPaperBroker}
"""The paper brokers of replays by mode; every other mode without a real broker is on a live feed."""


class OneOption:
    """Hold one option position at a time. See `draft.Holds` for each member."""

    by_basket: ClassVar[bool] = False
    guards_replays: ClassVar[bool] = False
    marks_held_only: ClassVar[bool] = True
    multiplier: ClassVar[int] = OPTION_MULTIPLIER
    handlers: ClassVar[Mapping[type[Event], Handler]] = {ContractsListed: on_contracts_listed}
    quiet: ClassVar[frozenset[type[Event]]] = frozenset()

    __slots__ = ("_strategy",)

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = GuardedStrategy(strategy)

    # --- deciding -----------------------------------------------------------------------------------------------------

    def view(self, draft: Draft, now_ns: int) -> View:
        return view_at(draft, now_ns)

    def act(self, draft: Draft, ask: Ask, answer: Answer, model: str) -> None:
        decision = self._strategy.decide(draft, answer, view_at(draft, draft.now_ns), Decision)
        act(draft, ask, decision, answer, model)

    def shown(self, draft: Draft, answer: Answer) -> ShownDecision:
        decision = self._strategy.shown(draft, answer, view_at(draft, draft.now_ns), Decision)
        choice = decision.choice
        return ShownDecision.of(draft.spec.actions[choice.action], choice, decision.target)

    # --- bars and quotes ----------------------------------------------------------------------------------------------

    def watch(self, draft: Draft) -> None:
        watch(draft)

    def quoted(self, draft: Draft, quotes: tuple[Quote, ...], bar_ns: int) -> None:
        if draft.book.positions:
            check_stops(draft, quotes, bar_ns)

    def note_quotes(self, draft: Draft, quotes: tuple[Quote, ...]) -> None:
        note_quotes(draft, quotes)

    def priced_by_bar(self, draft: Draft) -> None:
        if note_bar(draft):
            revalue(draft)
            check_stops(draft, tuple(draft.quotes[symbol] for symbol in draft.worths), 0)

    def implied_price(self, draft: Draft, bar: Bar, event: QuotesReceived) -> float | None:
        fresh = {
            quote.symbol: quote
            for quote in event.quotes
            if is_quote(quote, draft.now_ns) and quote.quoted_ns >= bar.start_ns
        }
        return next((price for symbol in fresh if (price := implied_spot(symbol, fresh)) is not None), None)

    def mark_bars(self, draft: Draft, bars: tuple[Bar, ...]) -> None:
        """Ignore bars: a bar of the underlying marks no option."""

    def guard(self, trading: Trading) -> QuoteGuard:
        return option_guard(trading.risk)

    def mark_book(self, draft: Draft, book: Book) -> Book:
        return mark_options(draft, book)

    # --- orders -------------------------------------------------------------------------------------------------------

    def drive(self, draft: Draft) -> None:
        if draft.orders or draft.works:
            drive(draft)

    def intent(self, side: int, purpose: str) -> str:
        if purpose == EXIT:
            return "sell_to_close" if side < 0 else "buy_to_close"
        return "buy_to_open" if side > 0 else "sell_to_open"

    def exit_reprice_s(self, trading: Trading) -> int:
        return trading.execution.exit_reprice_s

    def spendable(self, funds: Funds) -> Decimal | None:
        return funds.options

    def beyond_limit(self, draft: Draft) -> int:
        total = sum(position.quantity for position in draft.book.positions.values() if position.right)
        return total - draft.trading.risk.position_contracts_max

    # --- ends ---------------------------------------------------------------------------------------------------------

    def note_ended(self, draft: Draft, works: tuple[Work, ...]) -> None:
        """Do nothing: an ended entry leaves nothing to note."""

    def session_over(self, draft: Draft) -> None:
        """Do nothing: options are flat by then, or were reported."""

    def risked(self, draft: Draft) -> list[str]:
        return option_symbols(draft)

    def flatten(self, draft: Draft, session: Session) -> None:
        flatten(draft, session)

    # --- the broker ---------------------------------------------------------------------------------------------------

    def split(self, draft: Draft, line: Activity) -> None:
        split_exercised(draft, line)

    def reorganise(self, _: Draft, __: Activity) -> bool:
        return False

    def note_positions(self, draft: Draft, positions: Iterable[BrokerPosition]) -> None:
        """Do nothing: contracts have no splits that the ledger reports late."""

    def paper(self, trading: Trading, spec: Spec, mode: str, *, by_bar: bool) -> PaperBroker | QuotePaperBroker:
        del by_bar  # contracts are filled at quotes
        return _PAPERS.get(mode, QuotePaperBroker)(trading, spec.symbols[0])


TIME_VALUE_MAX = 0.05  # of the underlying: one week at the money at a volatility of 90 %


def low_confidence(view: RiskView, intent: Intent) -> str | None:
    limit = view.limits.confidence_min
    return None if intent.confidence >= limit else f"confidence {intent.confidence:.4f} below {limit}"


def order_quantity(view: RiskView, intent: Intent) -> str | None:
    limit = view.limits.order_contracts_max
    if intent.quantity < 1:
        return f"quantity {intent.quantity}: the sizing rule allows less than one contract"
    return f"{intent.quantity} contracts, limit {limit} an order" if intent.quantity > limit else None


def order_notional(view: RiskView, intent: Intent) -> str | None:
    notional, limit = intent.notional, view.limits.premium_max_usd
    if notional is None:
        return "notional unknown: an entry needs a limit price"
    return f"notional {notional} USD, limit {limit}" if notional > limit else None


def max_position(view: RiskView, intent: Intent) -> str | None:
    held = sum(p.quantity for p in view.book.positions.values() if p.right)
    coming = sum(o.remaining for o in view.orders.values() if o.side > 0)
    total, limit = held + coming + intent.quantity, view.limits.position_contracts_max
    return f"position would be {total} contracts, limit {limit}" if total > limit else None


def gross_exposure(view: RiskView, intent: Intent) -> str | None:
    notional, limit = intent.notional, view.limits.gross_exposure_max_usd
    if notional is None:
        return "exposure unknown: an entry needs a limit price"
    total = notional + _reserved(view)
    for symbol, position in view.book.positions.items():
        quote = view.quotes.get(symbol)
        if quote is None or not _fresh(view, quote):
            return f"exposure unknown: no fresh mark for {symbol}"
        if position.right and not view.identity.by_tape and is_wide(quote, view.limits):
            return f"exposure unknown: {symbol} is quoted {quote.bid}/{quote.ask}, too wide for a price"
        total += (quote.bid + quote.ask) / 2 * abs(position.quantity) * position.multiplier
    return f"exposure would be {total} USD, limit {limit}" if total > limit else None


def buying_power(view: RiskView, intent: Intent) -> str | None:
    notional = intent.notional
    if notional is None:
        return "cost unknown: an entry needs a limit price"
    free = view.book.cash - _reserved(view)
    if view.spendable is not None:
        free = min(free, view.spendable)
    return f"costs {notional} USD, buying power {free}" if notional > free else None


def _reserved(view: RiskView) -> Decimal:
    """Return the premium that working buys may still spend."""
    return sum(
        ((o.limit_price or Decimal(0)) * o.remaining * OPTION_SHARES for o in view.orders.values() if o.side > 0),
        Decimal(0),
    )


def _fresh(view: RiskView, quote: Quote) -> bool:
    return view.now_ns - quote.quoted_ns <= view.limits.quote_age_max_s * SECOND_NS


def price_collar(view: RiskView, intent: Intent) -> str | None:
    if intent.limit_price is None:
        return "an entry needs a limit price"
    quote = view.quotes.get(intent.symbol)
    if quote is None or quote.ask <= 0:
        return f"no quote for {intent.symbol}"
    middle, collar = (quote.bid + quote.ask) / 2, Decimal(str(view.limits.price_collar))
    if abs(intent.limit_price - middle) > middle * collar:
        return f"limit {intent.limit_price} is further than {collar} from the mid {middle}"
    return None


def wide_spread(view: RiskView, intent: Intent) -> str | None:
    quote = view.quotes.get(intent.symbol)
    if quote is None or quote.bid <= 0 or quote.ask <= 0:
        return f"no two-sided quote for {intent.symbol}"
    spread = float((quote.ask - quote.bid) / ((quote.bid + quote.ask) / 2))
    limit = view.limits.spread_max
    return None if 0 <= spread <= limit else f"spread {spread:.4f} of the mid, limit {limit}"


def spot_unsupported(view: RiskView, intent: Intent) -> str | None:
    """Deny when the contract's quotes do not imply the bar's close by which the strike was chosen.

    When its counterpart is not quoted, the time value must be that of a contract near the money.
    """
    quote, contract, spot = view.quotes.get(intent.symbol), intent.contract, view.session.spot
    if quote is None or quote.bid <= 0 or contract is None:
        return None  # `wide_spread` and `open_interest` deny that
    if spot <= 0:
        return "the underlying's price is unknown"
    fresh = {symbol: other for symbol, other in view.quotes.items() if _fresh(view, other)}
    implied, limit = implied_spot(intent.symbol, fresh), view.limits.spot_gap_max
    if implied is not None:
        far = abs(implied - spot) > limit * spot
        return f"the quotes imply {implied:.2f}, the last bar closed at {spot}" if far else None
    middle = float(quote.bid + quote.ask) / 2
    value = middle - max(contract.right * (spot - float(contract.strike)), 0.0)
    if -limit * spot <= value <= TIME_VALUE_MAX * spot:
        return None
    return f"a mid of {middle} is no price of {intent.symbol} at {spot}"


def open_interest(view: RiskView, intent: Intent) -> str | None:
    if intent.contract is None:
        return "contract unknown"
    contracts, limit = intent.contract.open_interest, view.limits.open_interest_min
    return f"open interest {contracts}, at least {limit} wanted" if contracts < limit else None


def expires_today(view: RiskView, intent: Intent) -> str | None:
    session, limit = view.session.session, view.execution.expiry_day_no_entry_min
    if session is None or intent.contract is None:
        return "contract or session unknown"
    if intent.contract.expiry > session.date or minutes_to(session.close_ns, view.now_ns) > limit:
        return None
    return f"the contract expires today and {limit} minutes or less are left"


def duplicate_intent(view: RiskView, intent: Intent) -> str | None:
    for order in view.orders.values():
        theirs = order.purpose == "foreign" and intent.purpose == "exit"  # its quantity is left out of the exit
        if order.symbol == intent.symbol and order.side == intent.side and not theirs:
            return f"order {order.client_order_id} already works on this side of {intent.symbol}"
        if intent.purpose == "entry" and order.purpose == "entry":
            return f"entry order {order.client_order_id} is already working"
    return None
