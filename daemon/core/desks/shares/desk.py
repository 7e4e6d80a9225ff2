"""A desk that holds shares, whole ones or fractions, by baskets: long or flat, overnight where its spec says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from hashlib import sha256
from math import fsum
from typing import ClassVar

import msgspec
from msgspec import UNSET
from msgspec.structs import replace
from numpy.random import Philox

from daemon.core import gates
from daemon.core.book import mid, worth_at
from daemon.core.broker.exits import exit_at_stop, exit_in_time
from daemon.core.broker.on_broker import HAPPENED
from daemon.core.desks.guarded import GuardedStrategy
from daemon.core.desks.shares.corporate_actions import end_waits, note_positions, reorganise, split_shares
from daemon.core.desks.shares.overlay import apply_overlay, note_exposure_max, report_overlay
from daemon.core.desks.shares.rebalance import (
    ask_again,
    drive_shares,
    free_cash,
    note_work_ends,
    rebalance,
    reserved_cash,
)
from daemon.core.desks.shares.sizes import choose_fractions, exact_decision, report_too_small
from daemon.core.draft import Draft, Handler, ShownDecision
from daemon.core.events import Activity, BrokerPosition, Event, Funds, OrderFilled, PricesPrinted, Quote, QuotesReceived
from daemon.core.gates import Intent, RiskView, ask_gates
from daemon.core.instruments.quotes import QuoteGuard, is_quote, middle_of, share_guard
from daemon.core.limits import Exploration, Trading
from daemon.core.orders import Work
from daemon.core.paper.shares import SharePaperBroker, on_grid
from daemon.core.records import ChoiceRow
from daemon.core.risk import splits
from daemon.core.risk.guards import cost_rate, is_cash_account, revalue, risk_view
from daemon.core.risk.marks import mark_shares, take_quotes
from daemon.core.state import ZERO, Ask, Book, Position
from strategies.kit.contract import (
    Answer,
    Bar,
    DailyStrategy,
    Leg,
    Portfolio,
    Rebalance,
    RowOptions,
    Session,
    ShareStrategy,
    Spec,
    View,
    softmax,
)
from strategies.kit.daily import usable
from strategies.kit.quantity import Quantity
from strategies.kit.units import MINUTE_NS


def behaviour(
    values: Sequence[float], greedy: int, action_flags: Sequence[bool], rules: Exploration
) -> tuple[float, ...]:
    """Return the probability of each action, 0 for one that is not allowed.

    Args:
        values: of each action.
        greedy: the action with the largest value; where it is not allowed the first one stands for it.
        action_flags: by action; the first one, which holds, always is.
        rules: `epsilon` is spread over the allowed actions, the rest is the greedy one's; `softmax` is that of the
            allowed values divided by the temperature.
    """
    best = greedy if action_flags[greedy] else 0
    count = len(values)
    if rules.kind == "softmax":
        places = [place for place in range(count) if action_flags[place]]
        shares = dict(zip(places, softmax([values[place] for place in places], rules.temperature), strict=True))
        return tuple([shares.get(place, 0.0) for place in range(count)])
    epsilon = rules.epsilon if rules.kind == "epsilon" else 0.0
    share = epsilon / sum(action_flags)
    return tuple(
        [(share if action_flags[place] else 0.0) + (1.0 - epsilon if place == best else 0.0) for place in range(count)]
    )


def draw(epoch: str, decision: int, place: int, probabilities: Sequence[float]) -> int:
    """Return the action that is drawn for a symbol at a decision.

    Args:
        epoch: of the journal.
        decision: its number.
        place: of the symbol in the spec's order.
        probabilities: of the actions; they sum to 1 but for rounding.
    """
    key = int.from_bytes(sha256(f"{epoch}|{decision}|{place}".encode()).digest()[:16], "little")
    point = (Philox(key=key).random_raw() >> 11) * 2.0**-53  # in [0, 1)
    for action, _ in enumerate(probabilities):
        if point < fsum(probabilities[: action + 1]):
            return action
    return max(range(len(probabilities)), key=probabilities.__getitem__)  # the sum was rounded below the point


_encode = msgspec.json.encode


def draw_actions(draft: Draft, ask: Ask, options: tuple[RowOptions, ...], answer: Answer) -> Answer:
    """Return the answer with the drawn actions; one row for each symbol.

    Without exploration the actions with the largest values are taken, and the gates are asked once, about them.
    """
    rules, names, actions = draft.trading.exploring, draft.spec.actions, []
    exploring = rules.kind != "none"
    for place, option in enumerate(options):
        values = answer.logits[place * len(names) : (place + 1) * len(names)]
        action_flags = [
            action == 0 or (leg is not None and (not exploring or _is_allowed(draft, leg, answer)))
            for action, leg in enumerate(option.legs)
        ]
        shares = behaviour(values, option.greedy, action_flags, rules)
        action = draw(draft.identity.epoch, ask.decision, place, shares) if exploring else option.greedy
        actions.append(action)
        draft.records.append(
            ChoiceRow(
                ask.decision,
                option.symbol,
                draft.now_ns,
                names[option.greedy],
                names[action],
                _encode(shares).decode(),
                _encode([name for name, free in zip(names, action_flags, strict=True) if free]).decode(),
            )
        )
    return replace(answer, drawn=tuple(actions))


def _is_allowed(draft: Draft, leg: Leg, answer: Answer) -> bool:
    """Return whether the gates would let this leg begin: an exit always, a buy where no gate denies it."""
    if leg.goal < draft.held(leg.symbol):
        return True
    intent = Intent("basket", None, "", 0, 0, None, logits=answer.logits, legs=(leg,))
    return not ask_gates(risk_view(draft), intent, draft.desk.gates).denials


def on_prices_printed(draft: Draft, event: PricesPrinted) -> None:
    """Update marks only: fills at these prices come next, and orders move on with the quotes after them."""
    _mark(draft, {price_print.symbol: price_print.price for price_print in event.prices if price_print.price > 0})
    if draft.book.positions:
        revalue(draft)


def on_share_quotes(draft: Draft, event: QuotesReceived) -> None:
    """Update quotes and marks; record the equity if something was traded since the last record."""
    take_quotes(draft, event.quotes)
    if draft.book.positions:
        revalue(draft)
    record_trades(draft)


def recent_price(quotes: tuple[Quote, ...], bar: Bar, now_ns: int, guard: QuoteGuard) -> float | None:
    """Return the mid in USD of the last narrow quote of the bar's symbol since the bar began; None without one."""
    recent_quotes = [
        q for q in quotes if q.symbol == bar.symbol and is_quote(q, now_ns) and q.quoted_ns >= bar.start_ns
    ]
    narrow = [quote for quote in recent_quotes if middle_of(quote, guard) is not None]
    return float(mid(narrow[-1])) if narrow else None


def record_trades(draft: Draft) -> None:
    """Record the equity if something was traded since the last record."""
    if draft.stats.fills > draft.basket.fills:
        draft.basket = replace(draft.basket, fills=draft.stats.fills)
        draft.record_equity()


def mark_bars(draft: Draft, bars: tuple[Bar, ...]) -> None:
    """Mark positions at the closes of bars."""
    _mark(draft, {bar.symbol: on_grid(bar.close) for bar in bars if usable(bar)})


def _mark(draft: Draft, prices: dict[str, Decimal]) -> None:
    """Update prices; a price of shares in a split may be of other shares."""
    new_marks = {
        symbol: price
        for symbol, price in prices.items()
        if symbol not in draft.basket.uncertain_symbols and splits.believed(draft, symbol, price)
    }
    draft.marks = {**draft.marks, **new_marks}


def average_cost(position: Position | None) -> float:
    """Return the average price in USD of what is held; 0.0 for nothing."""
    return float(position.cost / position.quantity) if position is not None and position.quantity else 0.0


def share_view(draft: Draft, now_ns: int) -> View:
    """Return what a strategy may know now: unreserved cash, its shares, and the last known prices."""
    session = draft.session.session
    if session is None:
        raise ValueError("a view needs a session; SessionScheduled precedes every decision")
    rules, symbols = draft.trading.basket, draft.spec.symbols
    cash = free_cash(draft.book.cash, draft.orders, draft.marks, cost_rate(draft))
    positions = [draft.book.positions.get(symbol) for symbol in symbols]
    portfolio = Portfolio(
        cash=float(cash),
        equity=float(draft.book.equity),
        shares=tuple([_as_float(draft.held(symbol)) for symbol in symbols]),
        prices=tuple(float(draft.marks.get(symbol, ZERO)) for symbol in symbols),
        shares_per_unit=rules.shares_per_unit,
        notional_per_unit=float(rules.notional_per_unit_usd),
        equity_per_unit=rules.equity_per_unit,
        band=rules.band,
        weight_max=rules.weight_max,
        per_share=rules.steps_a_share if draft.buys_fractions else 1,
        costs=tuple(map(average_cost, positions)),
        opened_ns=tuple(position.opened_ns if position else 0 for position in positions),
    )
    return View(now_ns, session, portfolio=portfolio)


def sized_view(draft: Draft, now_ns: int) -> View:
    """Return the view by which a basket is sized: a model that climbs the ladder trades a part of the equity."""
    view, share = share_view(draft, now_ns), draft.size_share
    portfolio = view.portfolio
    if share >= 1.0 or portfolio is None:
        return view
    sized_portfolio = replace(
        portfolio,
        equity=portfolio.equity * share,
        shares_per_unit=int(portfolio.shares_per_unit * share),
        notional_per_unit=portfolio.notional_per_unit * share,
    )
    return replace(view, portfolio=sized_portfolio)


def _as_float(quantity: Quantity) -> float:
    """Return a quantity as strategies see it: whole ones as they are."""
    return quantity if type(quantity) is int else float(quantity)


@lru_cache(maxsize=8)  # asked for at each event
def _names(symbols: tuple[str, ...]) -> frozenset[str]:
    return frozenset(symbols)


class Shares:
    """Hold shares of the spec's symbols. See `draft.Holds` for each member."""

    by_basket: ClassVar[bool] = True
    guards_replays: ClassVar[bool] = True
    marks_held_only: ClassVar[bool] = False
    multiplier: ClassVar[int] = 1
    handlers: ClassVar[Mapping[type[Event], Handler]] = {
        PricesPrinted: on_prices_printed,
        QuotesReceived: on_share_quotes,
    }
    quiet: ClassVar[frozenset[type[Event]]] = frozenset((OrderFilled, *HAPPENED))
    """One print fills many orders; the next requests need the news of all of them."""

    __slots__ = ("_by_row", "_strategy")

    def __init__(self, strategy: DailyStrategy | ShareStrategy) -> None:
        self._strategy = GuardedStrategy(strategy)
        self._by_row = strategy.spec.by_row

    # --- deciding -----------------------------------------------------------------------------------------------------

    def view(self, draft: Draft, now_ns: int) -> View:
        return share_view(draft, now_ns)

    def act(self, draft: Draft, ask: Ask, answer: Answer, model: str) -> None:
        choose_fractions(draft)
        report_too_small(draft)
        view = sized_view(draft, draft.now_ns)
        if self._by_row:
            answer = draw_actions(draft, ask, self._strategy.options(draft, answer, view), answer)
        decision = exact_decision(draft, self._strategy.decide(draft, answer, view, Rebalance))
        ruling = apply_overlay(draft, decision, answer, ask.decision)
        note_exposure_max(draft, ruling)
        if ruling is None:
            rebalance(draft, ask, decision, answer, model)
            return
        report_overlay(draft, ruling.row)
        rebalance(draft, ask, ruling.decided, answer, model, ruling.sold)

    def preview_decision(self, draft: Draft, answer: Answer) -> ShownDecision:
        view = share_view(draft, draft.now_ns)
        decision = exact_decision(draft, self._strategy.decide(draft, answer, view, Rebalance, shown=True))
        ruling = apply_overlay(draft, decision, answer, draft.decision)
        decision = decision if ruling is None else ruling.decided
        return ShownDecision.of(decision.name, decision.choice, decision.basket.legs)

    # --- bars and quotes ----------------------------------------------------------------------------------------------

    def watch(self, draft: Draft) -> None:
        """Do nothing: shares are quoted by the spec's symbols, whatever the price."""

    def handle_quotes(self, draft: Draft, quotes: tuple[Quote, ...], bar_ns: int) -> None:
        record_trades(draft)
        for quote in quotes:
            position = draft.book.positions.get(quote.symbol)
            if position is not None:
                exit_at_stop(draft, position, quote, bar_ns)

    def note_quotes(self, draft: Draft, quotes: tuple[Quote, ...]) -> None:
        """Do nothing: shares fetch their price, which each bar says."""

    def priced_by_bar(self, draft: Draft) -> None:
        """Do nothing: the quotes that close a bar mark shares at its price."""

    def implied_price(self, draft: Draft, bar: Bar, event: QuotesReceived) -> float | None:
        return recent_price(event.quotes, bar, draft.now_ns, self.guard(draft.trading))

    def mark_bars(self, draft: Draft, bars: tuple[Bar, ...]) -> None:
        mark_bars(draft, bars)

    def guard(self, trading: Trading) -> QuoteGuard:
        return share_guard(trading.basket)

    def mark_book(self, draft: Draft, book: Book) -> Book:
        return mark_shares(draft, book)

    # --- orders -------------------------------------------------------------------------------------------------------

    def drive(self, draft: Draft) -> None:
        ask_again(draft)
        if draft.orders or draft.works or draft.basket.goals is not UNSET:
            drive_shares(draft)

    def intent(self, _: int, __: str) -> str:
        return ""

    def exit_reprice_s(self, trading: Trading) -> int:
        return trading.basket.reprice_s

    def spendable(self, funds: Funds) -> Decimal | None:
        figure = funds.buying_power
        if is_cash_account(funds) and funds.non_marginable is not None:
            figure = funds.non_marginable if figure is None else min(figure, funds.non_marginable)
        return figure

    def beyond_limit(self, _: Draft) -> int:
        return 0

    # --- ends ---------------------------------------------------------------------------------------------------------

    def note_work_ends(self, draft: Draft, works: tuple[Work, ...]) -> None:
        note_work_ends(draft, works)

    def session_over(self, draft: Draft) -> None:
        end_waits(draft)

    def risk_symbols(self, draft: Draft) -> list[str]:
        symbols = _names(draft.spec.symbols)
        return [s for s, position in draft.book.positions.items() if position.quantity > 0 and s in symbols]

    def leavable(self, draft: Draft) -> list[str]:
        return [symbol for symbol, position in draft.book.positions.items() if position.quantity > 0]

    def flatten(self, draft: Draft, session: Session) -> None:
        if not draft.desk.overnight:
            for symbol in self.leavable(draft):
                exit_in_time(draft, draft.book.positions[symbol], session)

    # --- the broker ---------------------------------------------------------------------------------------------------

    def split(self, draft: Draft, line: Activity, paid_out: Decimal) -> None:
        split_shares(draft, line, paid_out)

    def reorganise(self, draft: Draft, line: Activity) -> bool:
        reorganise(draft, line)
        return True

    def note_positions(self, draft: Draft, positions: Iterable[BrokerPosition]) -> None:
        note_positions(draft, positions)

    def paper(self, trading: Trading, spec: Spec, mode: str, *, by_bar: bool) -> SharePaperBroker:
        return SharePaperBroker(trading, spec.symbols, live=mode == "dry_run", by_bar=by_bar)


A_MINUTE, A_DAY = 2, 20  # orders for each symbol: a sale and a buy; twenty prices for each of them

# --- the basket ---------------------------------------------------------------------------------------------------


def stale_history(view: RiskView, _: Intent) -> str | None:
    """Deny unless the newest bar is that of the session before this one."""
    expected, newest = view.session.previous, view.newest_bar
    if not expected:
        return "the session before this one is unknown"
    return None if newest == expected else f"the newest bar is of {newest or 'no day'}, not of {expected}"


def basket_legs(view: RiskView, intent: Intent) -> str | None:
    """Deny unless each leg is a different symbol of the desk, with an allowed quantity and a price."""
    leg_symbols: set[str] = set()
    for leg in intent.legs:
        if leg.symbol in leg_symbols or leg.symbol not in view.symbols:
            return (
                f"leg {leg.symbol}: {'twice' if leg.symbol in leg_symbols else 'not one of the symbols of this desk'}"
            )
        leg_symbols.add(leg.symbol)
        if leg.goal < 0:
            return f"leg {leg.symbol}: {leg.goal} shares; a desk never sells short"
        if view.marks.get(leg.symbol, ZERO) <= 0:
            return f"leg {leg.symbol}: no price is known"
        if leg.symbol in view.splits:
            return f"leg {leg.symbol}: its history was split, its shares not yet"
    return None


def basket_under_way(view: RiskView, _: Intent) -> str | None:
    for order in view.orders.values():
        if order.symbol in view.symbols:
            return f"order {order.client_order_id} of {order.symbol} still works"
    return None


def leg_under_way(view: RiskView, intent: Intent) -> str | None:
    """Deny while an order of one of the legs works: each symbol is decided about by itself."""
    symbols = {leg.symbol for leg in intent.legs}
    for order in view.orders.values():
        if order.symbol in symbols:
            return f"order {order.client_order_id} of {order.symbol} still works"
    return None


def turnover(view: RiskView, intent: Intent) -> str | None:
    """Deny when sales, or buys as far as the cash may reach, exceed their parts of the equity.

    Sales that pay back what the account owes are not counted: they bring what is held down to what the equity carries.
    """
    sales = buys = ZERO
    for leg in intent.legs:
        price = view.marks.get(leg.symbol, ZERO)  # without one, another gate denies the leg
        value = (leg.goal - _held_quantity(view, leg.symbol)) * price
        sales, buys = (sales - value, buys) if value < 0 else (sales, buys + value)
    debt, cash = max(-view.book.cash, ZERO), max(view.book.cash + sales, ZERO)
    total = max(sales - debt, ZERO) + min(buys, cash)
    return _too_much(view, "turnover", total, view.basket.turnover_max)


# --- an order -----------------------------------------------------------------------------------------------------


def orders_per_minute(view: RiskView, _: Intent) -> str | None:
    recent = sum(1 for t in view.risk.order_times if view.now_ns - t < MINUTE_NS)
    limit = A_MINUTE * len(view.symbols)
    return f"{recent} orders within a minute, limit {limit}" if recent >= limit else None


def orders_per_day(view: RiskView, _: Intent) -> str | None:
    limit = A_DAY * len(view.symbols)
    return f"{view.risk.orders_today} orders today, limit {limit}" if view.risk.orders_today >= limit else None


def order_quantity(_: RiskView, intent: Intent) -> str | None:
    return None if intent.quantity > 0 else f"quantity {intent.quantity}: more than 0 is expected"


def order_weight(view: RiskView, intent: Intent) -> str | None:
    if intent.limit_price is None:
        return "cost unknown: a buy needs a limit price"
    return _too_much(view, "the order", intent.limit_price * intent.quantity, view.basket.order_weight_max)


def order_notional(view: RiskView, intent: Intent) -> str | None:
    if intent.limit_price is None:
        return "cost unknown: a buy needs a limit price"
    limit = view.basket.buy_max_usd(view.book.equity)
    value = intent.limit_price * intent.quantity
    return f"notional {value} USD, limit {limit}" if value > limit else None


def position_weight(view: RiskView, intent: Intent) -> str | None:
    if intent.limit_price is None:
        return "cost unknown: a buy needs a limit price"
    coming = sum(o.remaining for o in view.orders.values() if o.symbol == intent.symbol and o.side > 0)
    shares = _held_quantity(view, intent.symbol) + coming + intent.quantity
    return _too_much(view, f"{intent.symbol}", intent.limit_price * shares, view.basket.position_weight_max)


def gross_weight(view: RiskView, intent: Intent) -> str | None:
    if intent.limit_price is None:
        return "cost unknown: a buy needs a limit price"
    total = intent.limit_price * intent.quantity
    for position in view.book.positions.values():
        total += abs(worth_at(position, view.marks.get(position.symbol, ZERO)))
    for order in view.orders.values():
        if order.side > 0:
            total += order.remaining * (order.limit_price or view.marks.get(order.symbol, ZERO))
    return _too_much(view, "all positions", total, view.basket.gross_weight_max)


def buying_power(view: RiskView, intent: Intent) -> str | None:
    if intent.limit_price is None:
        return "cost unknown: a buy needs a limit price"
    cost = reserved_cash(intent.limit_price, intent.quantity, view.cost_rate)
    free = free_cash(view.book.cash, view.orders, view.marks, view.cost_rate)
    if view.spendable is not None:
        free = min(free, view.spendable)
    return f"costs {cost} USD, buying power {free}" if cost > free else None


def price_collar(view: RiskView, intent: Intent) -> str | None:
    """Deny a limit far from the last known price; an order without a limit is an exit that must leave."""
    limit, mark = intent.limit_price, view.marks.get(intent.symbol, ZERO)
    if limit is None:
        return None
    if mark <= 0:
        return f"no price of {intent.symbol} is known"
    collar = Decimal(str(view.basket.price_collar))
    return f"limit {limit} is further than {collar} from {mark}" if abs(limit - mark) > mark * collar else None


def stale_quote(view: RiskView, intent: Intent) -> str | None:
    return None if intent.limit_price is None else gates.stale_quote(view, intent)


def duplicate_order(view: RiskView, intent: Intent) -> str | None:
    for order in view.orders.values():
        beside = order.purpose in ("foreign", "protection") and intent.purpose == "exit"  # its quantity is left out
        if order.symbol == intent.symbol and order.side == intent.side and not beside:
            return f"order {order.client_order_id} already works on this side of {intent.symbol}"
    return None


def _held_quantity(view: RiskView, symbol: str) -> Quantity:
    position = view.book.positions.get(symbol)
    return position.quantity if position else 0


def _too_much(view: RiskView, name: str, value: Decimal, limit: float) -> str | None:
    if view.book.equity <= 0:
        return f"equity is {view.book.equity} USD"
    weight = float(value / view.book.equity)
    return f"{name} would be {weight:.4f} of the equity, limit {limit}" if weight > limit else None
