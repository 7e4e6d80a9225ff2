"""Paper broker of shares: simulates a broker and an exchange for a desk of shares, as a pure function.

It fills at prices printed after an order came (or, on a live feed, at later quotes), never at a known price. It reads
no clock and draws no random number. Invariant: no order and no fill takes more than the cash; only a day's fees may, by
cents, as at a broker. Rules: docs/PAPER.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import ClassVar, NamedTuple

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from daemon.core.book import CENT, MICRO
from daemon.core.effects import CancelOrder, Effect, SubmitOrder
from daemon.core.events import (
    DIVIDEND,
    SPLIT,
    ActionsAnnounced,
    Activity,
    Announcement,
    BarClosed,
    CancelRejected,
    ClockTicked,
    Event,
    LedgerBooked,
    OrderAccepted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    PartClosed,
    PricesPrinted,
    Quote,
    QuotesReceived,
    SessionEnded,
    SessionScheduled,
    action_name,
)
from daemon.core.limits import Trading
from daemon.core.paper.fees import charges_days, day_fees
from daemon.core.paper.state import (
    Actions,
    DayTraded,
    DueDividend,
    PaperPosition,
    ShareOrder,
    SharePaperState,
    came_in_parts,
    trade_holding,
)
from daemon.core.state import ZERO
from strategies.kit.contract import Bar, Session
from strategies.kit.quantity import FINEST, floor_to, total, whole_of
from strategies.kit.units import DAY_NS, MINUTE_NS

GRID = Decimal("0.0001")  # USD: the finest price
AUCTION_CLOSES_NS = 2 * MINUTE_NS  # before the open: later orders for the opening auction are refused
AUCTION_WAITS_NS = 2 * MINUTE_NS  # after the open, on a live feed: orders without a quote by then are canceled
DAY_LOW_NS = 2 * MINUTE_NS  # after the open: a day's low may elect only stops sent until then
NAMES_MAX = 256  # newest announcements that are known by name: those of some nights

_NEWS: tuple[type[Event], ...] = (
    OrderAccepted,
    OrderRejected,
    OrderFilled,
    OrderCanceled,
    OrderExpired,
    CancelRejected,
    LedgerBooked,
)


class Offer(NamedTuple):
    """Prices of a symbol now, USD a share on the grid; 0: that side is missing. Auction orders trade at `auction_*`.

    A stop sells at the bid once `low`, the lowest price of its time, is at or below it. A fraction sells at
    `fraction_bid`, if given.
    """

    bid: Decimal
    ask: Decimal
    auction_bid: Decimal
    auction_ask: Decimal
    at_ns: int
    low: Decimal
    fraction_bid: Decimal | None = None


def on_grid(price: float) -> Decimal:
    """Return a price in USD on the grid of 1e-4: the nearest to its shortest text, ties to even."""
    return Decimal(repr(price)).quantize(GRID, ROUND_HALF_EVEN)


class SharePaperBroker:
    """The paper broker of one desk of shares. Holds only rules: every result depends only on the arguments.

    `live` is for a dry run on a live feed: `QuotesReceived` from outside are the market and `PricesPrinted` are not.
    `by_bar` is for a replay by bars: an order trades at the open of the first bar that begins after it, and quotes
    around its close end each bar.
    """

    MOVED_BY: ClassVar[frozenset[type[Event]]] = frozenset(
        (
            ActionsAnnounced,
            BarClosed,
            PartClosed,
            ClockTicked,
            PricesPrinted,
            QuotesReceived,
            SessionScheduled,
            SessionEnded,
        )
    )  # effects excepted

    __slots__ = ("EMITS", "_by_bar", "_charges", "_live", "_paper", "_symbols")

    def __init__(self, trading: Trading, symbols: Sequence[str], *, live: bool = False, by_bar: bool = False) -> None:
        self._paper = trading.paper
        self._charges = charges_days(trading.paper)
        self._symbols = frozenset(symbols)
        self._live = live
        self._by_bar = by_bar and not live
        self.EMITS: tuple[type[Event], ...] = _NEWS if live else (QuotesReceived, *_NEWS)  # the events that it may emit

    def start(self) -> SharePaperState:
        """Return the state before any event: only the configured cash."""
        return SharePaperState(cash=self._paper.cash_usd)

    def step(
        self, state: SharePaperState, event: Event, effects: Sequence[Effect] = ()
    ) -> tuple[SharePaperState, tuple[Event, ...]]:
        """Return the state after `event` and the core's `effects` for it, and the broker's events.

        Raises ValueError when a client order id is submitted twice, a broken invariant of the caller.
        """
        news: list[Event] = []
        quotes: QuotesReceived | None = None
        match event:
            case BarClosed() if self._by_bar:
                if not came_in_parts(state, event.bar):
                    state = self._trade(state, event.bar, event.time_ns, news)
                state, quotes = self._closing(state, event.bar, event.time_ns)
            case PartClosed() if self._by_bar:
                state = replace(self._trade(state, event.bar, event.time_ns, news), part_ns=event.time_ns)
                state, quotes = self._closing(state, event.bar, event.time_ns, part=True)
            case BarClosed() if state.orders and not self._live:
                state = self._fall(state, event.bar, event.time_ns, news, DAY_LOW_NS)
            case PricesPrinted() if not self._live:
                state, quotes = self._print(state, event, news)
            case QuotesReceived() if self._live:
                state = self._fill_at_quotes(state, event.quotes, event.time_ns, news)
            case ClockTicked() if self._live and state.orders:
                state = self._fill_at_quotes(state, (), event.time_ns, news)
            case SessionScheduled():
                if state.session is None or state.session.date < event.session.date:
                    state = replace(self._end(state, event.time_ns, news), session=event.session, seen=())
                state = _pay(state, event.session.date, event.time_ns, news)
            case ActionsAnnounced() if self._live:
                state = _pay(_act(state, event, news), event.date, event.time_ns, news)
            case SessionEnded():
                if state.session is not None and state.session.date == event.date:
                    state = self._end(state, event.time_ns, news)
        for effect in effects:
            match effect:
                case SubmitOrder():
                    state = self._submit(state, effect, event.time_ns, news)
                case CancelOrder():
                    state = _cancel(state, effect.client_order_id, event.time_ns, news)
        if quotes is not None:
            news.append(quotes)
        return state, tuple(news)

    # --- the market -----------------------------------------------------------------------------------------------

    def _is_regular(self, session: Session | None, bar: Bar) -> bool:
        if session is None or bar.symbol not in self._symbols:
            return False
        return session.open_ns <= bar.start_ns < session.close_ns

    def _trade(self, state: SharePaperState, bar: Bar, now_ns: int, news: list[Event]) -> SharePaperState:
        """Fill earlier orders at the bar's open, and elect the stops that it touches."""
        session = state.session
        if session is None or not state.orders or not self._is_regular(session, bar):
            return state
        at_open = on_grid(bar.open)
        begun_ns = bar.start_ns + 1  # an order sent at its start is in time
        offer = Offer(at_open, at_open, at_open, at_open, begun_ns, at_open)
        state = self._match(state, {bar.symbol: offer}, now_ns, news, auction=True, auction_ends=True)
        return self._fall(state, bar, now_ns, news, bar.start_ns - session.open_ns)

    def _closing(
        self, state: SharePaperState, bar: Bar, now_ns: int, *, part: bool = False
    ) -> tuple[SharePaperState, QuotesReceived | None]:
        """Return the quotes at the bar's close; their range is the bar's, unless parts of it covered the range."""
        if not self._is_regular(state.session, bar):
            return state, None
        price = on_grid(bar.close)
        ask = up(price * (1 + self._paper.share_wait_rate))
        state = replace(state, asks={**state.asks, bar.symbol: ask})
        middle = (price + ask) / 2
        low, high = min(on_grid(bar.low), middle), max(on_grid(bar.high), middle)
        if not part and came_in_parts(state, bar):
            low = high = middle
        closes_ns = 0 if part else bar.start_ns
        return state, QuotesReceived(now_ns, closes_ns, (Quote(bar.symbol, price, ask, low, high, now_ns),))

    def _fall(self, state: SharePaperState, bar: Bar, now_ns: int, news: list[Event], until_ns: int) -> SharePaperState:
        """Sell by the stops that the bar's low touches, each at its price less `share_wait_rate`.

        Stops that were sent later than `until_ns` after the session's open are left out: the low may be from before
        them.
        """
        session, low = state.session, on_grid(bar.low)
        if session is None or not session.open_ns - DAY_NS < bar.start_ns < session.close_ns:  # of another session
            return state
        for order in state.orders:
            stop = order.stop_price
            if isinstance(stop, UnsetType) or order.symbol != bar.symbol:
                continue
            if low <= stop and order.submitted_ns <= session.open_ns + until_ns:
                price = down(stop * (1 - self._paper.share_wait_rate))
                offer = Offer(price, ZERO, ZERO, ZERO, now_ns, low)
                other_orders = tuple(other for other in state.orders if other is not order)
                state = replace(state, orders=(order,))
                state = self._match(state, {bar.symbol: offer}, now_ns, news, auction=False, auction_ends=False)
                state = replace(state, orders=(*other_orders, *state.orders))
        return state

    def _print(
        self, state: SharePaperState, event: PricesPrinted, news: list[Event]
    ) -> tuple[SharePaperState, QuotesReceived | None]:
        """Fill earlier orders at this print; the opening one ends the auction. Then return the quotes."""
        if state.session is None or state.session.date != event.date:
            return state, None
        now_ns, wait_rate = event.time_ns, self._paper.share_wait_rate
        offers: dict[str, Offer] = {}
        quotes: list[Quote] = []
        for symbol, price in ((it.symbol, it.price) for it in event.prices):
            bid, auction_ask, ask = down(price), up(price), up(price * (1 + wait_rate))
            offers[symbol] = Offer(bid, ask, bid, auction_ask, now_ns, bid, down(price * (1 - wait_rate)))
            middle = (bid + ask) / 2
            quotes.append(Quote(symbol, bid, ask, middle, middle, now_ns))
        state = replace(state, asks={**state.asks, **{symbol: offer.ask for symbol, offer in offers.items()}})
        if state.orders:
            state = self._match(state, offers, now_ns, news, auction=event.opening, auction_ends=event.opening)
        return state, QuotesReceived(now_ns, 0, tuple(quotes))

    def _fill_at_quotes(
        self, state: SharePaperState, quotes: Sequence[Quote], now_ns: int, news: list[Event]
    ) -> SharePaperState:
        """Fill earlier orders at quotes of the running session; its first quotes after the open are the auction."""
        session = state.session
        if session is None:
            return state
        offers = {
            quote.symbol: Offer(
                down(quote.bid), up(quote.ask), down(quote.bid), up(quote.ask), quote.quoted_ns, quote.low
            )
            for quote in quotes
            if session.open_ns <= quote.quoted_ns < session.close_ns
        }
        state = replace(state, asks={**state.asks, **{symbol: o.ask for symbol, o in offers.items() if o.ask}})
        over = now_ns >= session.open_ns + AUCTION_WAITS_NS
        if not state.orders or not (offers or over):
            return state
        return self._match(state, offers, now_ns, news, auction=True, auction_ends=over)

    def _match(
        self,
        state: SharePaperState,
        offers: Mapping[str, Offer],
        now_ns: int,
        news: list[Event],
        *,
        auction: bool,
        auction_ends: bool,
    ) -> SharePaperState:
        """Trade the working orders, first come first; cancel those that the auction or the cash cannot fill."""
        cash, costs, reserved_cash, day, bought = state.cash, state.costs, state.reserved, state.day, state.bought
        holdings, open_orders = dict(state.holdings), []
        for order in state.orders:
            offer = offers.get(order.symbol)
            price = _price(order, offer, auction=auction) if offer is not None else None
            if offer is None or price is None:
                if order.auction and auction_ends:
                    reserved_cash -= order.reserved
                    news.append(OrderCanceled(now_ns, order.client_order_id))
                else:
                    open_orders.append(order)
                continue
            reserved_cash -= order.reserved
            value = price * order.quantity
            cost = self.cost(value)
            new_cash = cash - order.side * value - cost
            if order.side > 0 and new_cash < 0:  # the price of a market buy rose above the cash
                news.append(OrderCanceled(now_ns, order.client_order_id))
                continue
            cash, costs = new_cash, costs + cost
            _hold(holdings, order, price)
            if self._live and state.session is not None:
                bought = _bought(bought, order, holdings, state.session.date)
            if self._charges:
                day = _with_fill(day, order, value)
            name, symbol, side, quantity = order.client_order_id, order.symbol, order.side, order.quantity
            filled_ns = min(offer.at_ns, now_ns)
            news.append(OrderFilled(now_ns, name, symbol, side, price, filled_ns, quantity, value, cost, quantity))
        return replace(
            state,
            cash=cash,
            costs=costs,
            reserved=reserved_cash,
            holdings=holdings,
            orders=tuple(open_orders),
            day=day,
            bought=bought,
        )

    def cost(self, value: Decimal) -> Decimal:
        """Return the cost of trading this value, in USD on the grid of 1e-6, ties to even."""
        return (value * self._paper.share_cost_rate).quantize(MICRO, ROUND_HALF_EVEN)

    def _end(self, state: SharePaperState, time_ns: int, news: list[Event]) -> SharePaperState:
        """End the session: orders expire except stops of whole shares, fees are booked, prices are dropped."""
        stops = tuple(order for order in state.orders if order.stop_price is not UNSET and type(order.quantity) is int)
        news.extend(OrderExpired(time_ns, order.client_order_id) for order in state.orders if order not in stops)
        cash, costs = state.cash, state.costs
        if not isinstance(state.day, UnsetType) and state.session is not None:
            day, date = state.day, state.session.date
            fees = day_fees(day.shares, day.sold, day.proceeds, self._paper)
            lines = tuple(_fee_line(date, name, usd, time_ns) for name, usd in fees.items())
            if lines:
                news.append(LedgerBooked(time_ns, lines))
            fees_usd = sum(fees.values(), ZERO)
            cash, costs = cash - fees_usd, costs + fees_usd
        return replace(state, cash=cash, costs=costs, orders=stops, reserved=ZERO, session=None, asks={}, day=UNSET)

    # --- orders ---------------------------------------------------------------------------------------------------

    def _submit(self, state: SharePaperState, order: SubmitOrder, time_ns: int, news: list[Event]) -> SharePaperState:
        """Accept the order, or reject it as a broker would."""
        name = order.client_order_id
        if name in state.seen:
            raise ValueError(f"client order id {name!r} was submitted twice; expected a new id for every submission")
        state = replace(state, seen=(*state.seen, name))
        reserve = self._reserve_for(state, order)
        reason = self._fault(state, order, time_ns) or _shortfall(state, order, reserve)
        if reason or reserve is None:
            news.append(OrderRejected(time_ns, name, reason))
            return state
        working = ShareOrder(
            name,
            order.symbol,
            order.side,
            order.quantity,
            order.limit_price,
            time_ns,
            order.auction,
            reserve,
            order.stop_price,
        )
        news.append(OrderAccepted(time_ns, name))
        return replace(state, orders=(*state.orders, working), reserved=state.reserved + reserve)

    def _reserve_for(self, state: SharePaperState, order: SubmitOrder) -> Decimal | None:
        """Return the highest cost of an order in USD: 0 for a sale; None for a market buy without a price."""
        if order.side < 0:
            return ZERO
        worst = state.asks.get(order.symbol) if order.limit_price is None else order.limit_price
        if worst is None:
            return None
        value = worst * order.quantity
        return value + self.cost(value)

    def _fault(self, state: SharePaperState, order: SubmitOrder, time_ns: int) -> str:
        """Return the order's own fault, in a broker's usual words, or an empty string."""
        if order.quantity <= 0:
            return f"qty must be > 0 (requested: {order.quantity})"
        if order.auction and type(order.quantity) is not int:
            return "fractional orders must be DAY orders"
        if order.symbol not in self._symbols and order.symbol not in state.holdings:
            return f'asset "{order.symbol}" not found'
        session = state.session
        for name, price in (("limit", order.limit_price), ("stop", order.stop_price)):
            if isinstance(price, Decimal) and (price <= 0 or price % GRID != 0):
                return f"{name} price {price} must be a positive multiple of {GRID}"
        if session is None:
            return "no session is scheduled"
        if order.auction:
            closes_ns = session.open_ns - AUCTION_CLOSES_NS
            return "" if time_ns <= closes_ns else "opg orders are accepted until two minutes before the open"
        return "" if session.open_ns <= time_ns < session.close_ns else "the market is closed"


def down(price: Decimal) -> Decimal:
    """Return the highest price on the grid that is not above `price`."""
    return price.quantize(GRID, ROUND_FLOOR)


def up(price: Decimal) -> Decimal:
    """Return the lowest price on the grid that is not below `price`."""
    return price.quantize(GRID, ROUND_CEILING)


def _shortfall(state: SharePaperState, order: SubmitOrder, reserve: Decimal | None) -> str:
    """Return the account's shortfall for the order, in a broker's usual words, or an empty string."""
    if reserve is None:
        return "market order without a quote"
    if order.side > 0:
        free = state.cash - state.reserved
        return "" if reserve <= free else f"insufficient buying power (required: {reserve}, available: {free})"
    holding = state.holdings.get(order.symbol)
    working = total(o.quantity for o in state.orders if o.side < 0 and o.symbol == order.symbol)
    free_shares = (holding.quantity if holding is not None else 0) - working
    if order.quantity <= free_shares:
        return ""
    return f"insufficient qty available for order (requested: {order.quantity}, available: {free_shares})"


def _price(order: ShareOrder, offer: Offer, *, auction: bool) -> Decimal | None:
    """Return the price at which the order trades at this offer, or None.

    None if the order came too late, its side is missing, or the price is beyond its limit or above its stop.
    """
    if order.submitted_ns >= offer.at_ns or (order.auction and not auction):
        return None
    if not isinstance(order.stop_price, UnsetType) and offer.low > order.stop_price:
        return None
    bid, ask = (offer.auction_bid, offer.auction_ask) if order.auction else (offer.bid, offer.ask)
    if offer.fraction_bid is not None and type(order.quantity) is not int:
        bid = offer.fraction_bid
    price, limit = ask if order.side > 0 else bid, order.limit_price
    if not price or (limit is not None and order.side * (limit - price) < 0):
        return None
    return price


def _hold(holdings: dict[str, PaperPosition], order: ShareOrder, price: Decimal) -> None:
    """Add a trade to the holdings."""
    old = holdings.get(order.symbol, PaperPosition(order.symbol, 0, ZERO))
    new = trade_holding(old, order.side * order.quantity, price)
    if new.quantity:
        holdings[order.symbol] = new
    else:
        del holdings[order.symbol]


def _cancel(state: SharePaperState, name: str, time_ns: int, news: list[Event]) -> SharePaperState:
    """Cancel a working order, or reject the cancel with a reason."""
    working_order = next((order for order in state.orders if order.client_order_id == name), None)
    if working_order is None:
        reason = "order is not cancelable" if name in state.seen else "order not found"
        news.append(CancelRejected(time_ns, name, reason))
        return state
    news.append(OrderCanceled(time_ns, name))
    rest = tuple(order for order in state.orders if order is not working_order)
    return replace(state, orders=rest, reserved=state.reserved - working_order.reserved)


def _with_fill(day: DayTraded | UnsetType, order: ShareOrder, value: Decimal) -> DayTraded:
    """Return the day's totals with one more fill, worth `value` USD."""
    old_day = DayTraded(0, 0, ZERO) if isinstance(day, UnsetType) else day
    sale_shares, proceeds = (order.quantity, value) if order.side < 0 else (0, ZERO)
    return DayTraded(old_day.shares + order.quantity, old_day.sold + sale_shares, old_day.proceeds + proceeds)


# --- corporate actions of a dry run -----------------------------------------------------------------------------------


def _act(state: SharePaperState, event: ActionsAnnounced, news: list[Event]) -> SharePaperState:
    """Book each split of what was held before its ex-date, and note each cash dividend as due. Each counts once.

    What was bought on the ex-date or later has the new price. Dividends count before a split of their day.
    """
    actions = Actions(event.date, event.date) if isinstance(state.actions, UnsetType) else state.actions
    bought = {} if isinstance(state.bought, UnsetType) else state.bought
    holdings, names, due, lines = dict(state.holdings), list(actions.names), list(actions.due), list[Activity]()
    for action in sorted(event.actions, key=lambda it: (it.ex_date, it.kind)):
        name, holding = action_name(action), holdings.get(action.symbol)
        if name in names:
            continue
        names.append(name)
        is_new = actions.since <= action.ex_date <= event.date and bought.get(action.symbol, "") < action.ex_date
        if holding is None or not is_new:
            continue
        if action.kind == DIVIDEND:
            usd = round(holding.quantity * action.cash, 2)
            due.append(DueDividend(name, action.symbol, action.ex_date, max(action.paid, action.ex_date), usd))
        elif action.kind == SPLIT:
            new_holding, split_lines = _split(holding, action, event.time_ns)
            lines += split_lines
            holdings[action.symbol] = new_holding
            if not new_holding.quantity:
                del holdings[action.symbol]
    if lines:
        news.append(LedgerBooked(event.time_ns, tuple(lines)))
    to = max(actions.to, event.date)
    new_actions = replace(actions, to=to, names=tuple(names[-NAMES_MAX:]), due=tuple(due))
    cash = state.cash + sum((line.amount for line in lines), ZERO)
    return replace(state, cash=cash, holdings=holdings, actions=new_actions)


def _split(holding: PaperPosition, action: Announcement, now_ns: int) -> tuple[PaperPosition, list[Activity]]:
    """Return the new shares and the ledger's lines. Of whole shares a fraction is paid in cash, at the last price."""
    symbol, old_quantity = holding.symbol, holding.quantity
    due = floor_to(old_quantity * action.new / action.old, FINEST)
    quantity = whole_of(due) if type(old_quantity) is int else due
    old_price, name = action.price or holding.average_price, f"{action.ex_date} {symbol}"
    price = old_price * action.old / action.new
    change, fraction = Decimal(due) - old_quantity, Decimal(due - quantity)
    lines = [Activity(f"{name} SPLIT", "SPLIT", symbol, change, None, ZERO, "executed", now_ns)]
    if fraction:
        cash = max(round(fraction * price, 2), CENT)
        lines.append(Activity(f"{name} CIL", "CIL", symbol, -fraction, price, cash, "executed", now_ns))
    return PaperPosition(symbol, quantity, holding.average_price * action.old / action.new), lines


def _pay(state: SharePaperState, date: str, now_ns: int, news: list[Event]) -> SharePaperState:
    """Pay the dividends that are due on this day or were before."""
    if isinstance(state.actions, UnsetType) or not (paid := [it for it in state.actions.due if it.paid <= date]):
        return state
    lines = tuple(
        Activity(it.id, "DIV", it.symbol, ZERO, None, it.usd, "executed", now_ns, ex_date=it.ex_date) for it in paid
    )
    news.append(LedgerBooked(now_ns, lines))
    rest = tuple(it for it in state.actions.due if it not in paid)
    cash = state.cash + sum((line.amount for line in lines), ZERO)
    return replace(state, cash=cash, actions=replace(state.actions, due=rest))


def _bought(
    bought: dict[str, str] | UnsetType, order: ShareOrder, holdings: Mapping[str, PaperPosition], date: str
) -> dict[str, str] | UnsetType:
    """Return the dates of the newest buys of what is held, after this fill."""
    dates = {} if isinstance(bought, UnsetType) else dict(bought)
    if order.side > 0:
        dates[order.symbol] = date
    elif order.symbol not in holdings:
        dates.pop(order.symbol, None)
    return dates or UNSET


def _fee_line(date: str, name: str, usd: Decimal, time_ns: int) -> Activity:
    """Return a day's fee of one kind as a line of the ledger."""
    return Activity(f"{date}-{name}", "FEE", "", ZERO, None, -usd, "executed", time_ns)
