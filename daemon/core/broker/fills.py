"""Book fills: set the order's totals and move the book by the difference, in the same step.

An execution is recorded once, by its identity (order, correction, cumulative quantity). A look-up may bring the totals
earlier than the executions they consist of.
"""

from __future__ import annotations

from decimal import Decimal

from msgspec import UNSET
from msgspec.structs import replace

from daemon.core.book import (
    AVERAGE_GRID,
    CENT,
    COST_GRID,
    OPTION_MULTIPLIER,
    BookedFill,
    book_fill,
    book_transfer,
    is_news,
    new_quantity,
)
from daemon.core.broker.exits import reduce_excess
from daemon.core.broker.sending import has_lapsed
from daemon.core.draft import PROTECTION, Draft
from daemon.core.effects import AskBroker
from daemon.core.events import BrokerOrder, BrokerReported, OrderFilled
from daemon.core.instruments.option_market import is_contract
from daemon.core.moves import Cause
from daemon.core.orders import Order, advance, in_words, name_prefix
from daemon.core.records import FillRow
from daemon.core.risk.guards import end_trade, note_fate, revalue
from daemon.core.risk.marks import mark_book, position_price
from daemon.core.risk.splits import believed
from daemon.core.session import new_york_date
from daemon.core.state import BROKER_MODES, ZERO, Book, Position
from strategies.kit.quantity import Part, Quantity, exact


def note_fill(draft: Draft, symbol: str) -> None:
    """Remember that a fill in `symbol` was booked now: earlier reports have another position and cash."""
    draft.broker = replace(draft.broker, filled=_at_now(draft, draft.broker.filled, symbol))


def note_other_party(draft: Draft, symbol: str, why: str) -> None:
    """Remember that another party may have traded in `symbol`: its quantity is unknown until a new report."""
    broker = draft.broker
    draft.broker = replace(
        broker, available=_without(broker.available, symbol), touched=_at_now(draft, broker.touched, symbol)
    )
    draft.effects.append(AskBroker(why))


def take_available(draft: Draft, event: BrokerReported) -> None:
    """Take over the available quantity of each symbol without news since the report was requested.

    A symbol that the broker does not list has nothing to sell, and one that it is short of has none of what the desk
    holds. Where a fill came later, the report is ignored and a doubt stays.
    """
    broker, asked_ns = draft.broker, event.asked_ns
    fill_times = _recent_times(broker.filled, asked_ns)
    broker_quantities = {position.symbol: exact(position.quantity) for position in event.positions}
    symbols = {*broker_quantities, *draft.expected_symbols()}
    doubtful = [symbol for symbol in sorted(symbols) if broker_quantities.get(symbol, 0) != draft.expected(symbol)]
    available_by_symbol = {position.symbol: position.available for position in event.positions}
    counts: dict[str, Quantity] = dict.fromkeys(draft.book.positions.keys() - available_by_symbol.keys(), 0)
    against = {symbol for symbol, count in broker_quantities.items() if count * draft.held(symbol) < 0}
    counts.update(
        {s: 0 if s in against else abs(exact(count)) for s, count in available_by_symbol.items() if count is not None}
    )
    move_times, touch_times = _recent_times(broker.moved, asked_ns), _recent_times(broker.touched, asked_ns)
    available = {
        symbol: count for symbol, count in counts.items() if symbol not in move_times and symbol not in touch_times
    }
    more = {
        symbol: broker_quantities.get(symbol, 0) - draft.expected(symbol) for symbol in doubtful if symbol in available
    }
    draft.broker = replace(
        broker,
        asked_ns=asked_ns,
        available=available,
        moved=move_times,
        touched=touch_times,
        filled=fill_times,
        doubtful=tuple(symbol for symbol in doubtful if symbol not in fill_times or symbol in broker.doubtful),
        beyond={symbol: count for symbol, count in more.items() if count > 0} or UNSET,
    )


def clamp_times(draft: Draft) -> None:
    """Move times in the future back to now, after the desk's clock was set back."""
    broker, now_ns = draft.broker, draft.now_ns
    move_times, fill_times, touch_times = (
        {symbol: min(at_ns, now_ns) for symbol, at_ns in times.items()}
        for times in (broker.moved, broker.filled, broker.touched)
    )
    draft.broker = replace(broker, moved=move_times, filled=fill_times, touched=touch_times)


def _at_now(draft: Draft, times: dict[str, int], symbol: str) -> dict[str, int]:
    return {**times, symbol: draft.now_ns}


def _without(counts: dict[str, Quantity], symbol: str) -> dict[str, Quantity]:
    return {other: count for other, count in counts.items() if other != symbol}


def _recent_times(times: dict[str, int], asked_ns: int) -> dict[str, int]:
    return {symbol: at_ns for symbol, at_ns in times.items() if at_ns >= asked_ns}


def on_order_filled(draft: Draft, event: OrderFilled) -> None:
    """Change the book in the same step as the fill, before any strategy runs.

    A fill under a company's new symbol waits for the next report, which shows whose shares the order sold. So does one
    at a price that a split would explain: it may be of other shares than the book's.
    """
    order = draft.find_order(event.client_order_id)
    if order is not None and _may_be_renamed(draft, order, event):
        note_other_party(draft, event.symbol, f"{event.client_order_id} filled as {event.symbol}, not {order.symbol}")
        return
    if order is not None and is_news(order, event) and awaits_report(draft, order, event.price):
        return
    take_fill(draft, event)


def awaits_report(draft: Draft, order: Order, price: Decimal) -> bool:
    """Return whether a fill at this price (USD) waits for a report of how many shares there are; request one."""
    if not draft.desk.holds.by_basket or believed(draft, order.symbol, price):
        return False
    note_other_party(draft, order.symbol, f"{order.client_order_id} filled at {price} USD: how many are there?")
    return True


def _may_be_renamed(draft: Draft, order: Order, event: OrderFilled) -> bool:
    """Return whether a fill of a share order came under another symbol at a real broker."""
    of_shares = not (is_contract(event.symbol) or is_contract(order.symbol)) and event.symbol != order.symbol
    is_its_own = event.side == order.side and order.filled < event.cumulative_quantity <= order.quantity
    return draft.identity.mode in BROKER_MODES and of_shares and is_its_own


def take_fill(draft: Draft, event: OrderFilled) -> None:
    """Book what is new in a fill of the stream or the ledger."""
    order = draft.find_order(event.client_order_id)
    if order is None:
        on_unknown_order(draft, event.client_order_id, event.symbol)
        return
    same = (event.symbol, event.side) == (order.symbol, order.side) and event.cumulative_quantity <= order.quantity
    if not same:
        if event.side != order.side or event.cumulative_quantity > order.filled:
            mismatch(draft, order, event)
        return  # booked already, under the company's former symbol
    if event.correction:
        _take_correction(draft, order, event)
        return
    if order.correction:  # once an order is corrected, its totals come from look-ups and the ledger alone
        if event.cumulative_quantity > order.filled:
            draft.look_up(order)
            if order.working:  # its figures may be those before the correction
                draft.effects.append(AskBroker(f"{order.client_order_id}: a fill after its correction"))
        return
    event = _with_exact_cost(order, event)
    news = is_news(order, event)
    booked = event.cumulative_quantity in order.executions
    fees = event.cumulative_fees - order.fees if news else ZERO
    if news and not book_totals(draft, order, event):
        return
    if news or not booked:
        record_execution(draft, event, fees)


def _lost_most(quantity: Quantity) -> Decimal:
    """Return the largest error in USD of a cost computed from a rounded average price."""
    return COST_GRID + AVERAGE_GRID * quantity


def _with_exact_cost(order: Order, event: OrderFilled) -> OrderFilled:
    """Return the fill with the exact sum of price x quantity where it follows the last: averages are rounded."""
    cost = order.cost + event.price * event.quantity
    follows = event.cumulative_quantity == order.filled + event.quantity
    near = abs(cost - event.cumulative_cost) <= _lost_most(event.cumulative_quantity)
    return replace(event, cumulative_cost=cost) if follows and near and cost != event.cumulative_cost else event


def settle_cost(draft: Draft, fill: OrderFilled) -> None:
    """Replace a cost from a look-up's rounded average price by the ledger's exact sum over the fills."""
    order = draft.find_order(fill.client_order_id)
    if order is None or order.correction or fill.correction or fill.cumulative_quantity != order.filled:
        return
    if fill.cumulative_cost == order.cost or abs(fill.cumulative_cost - order.cost) > _lost_most(order.filled):
        return
    if (fill.symbol, fill.side) == (order.symbol, order.side) and draft.held(fill.symbol) >= 0:
        exact_fill = replace(fill, cumulative_fees=order.fees, correction=1)
        booking = book_fill(draft.book, order, exact_fill, draft.contract_of(fill.symbol))
        with draft.because(Cause("", booking.order, fill.filled_ns)):
            draft.put_book(booking.book)
        draft.put_order(replace(booking.order, correction=0))
        revalue(draft)


def _take_correction(draft: Draft, order: Order, event: OrderFilled) -> None:
    """Take the ledger's totals of a corrected order, unless a later correction is known."""
    for number in range(1, event.correction + 1):
        draft.first_time(correction_name(order.client_order_id, number))
    same_fees = event.cumulative_fees in (ZERO, order.fees)  # a broker whose fees come as lines names none
    if same_fees and (event.cumulative_quantity, event.cumulative_cost) == (order.filled, order.cost):
        if event.correction > order.correction:  # uncorrected news of it is not booked any more
            draft.put_order(replace(order, correction=event.correction))
    elif correction_name(order.client_order_id, event.correction + 1) not in draft.broker.seen:
        book_correction(draft, order, event)


def correction_name(client_order_id: str, number: int) -> str:
    """Return the name under which the `number`th bust or correction of an order is remembered; the first is 1."""
    return f"{client_order_id} corrected {number}"


def is_replaced(order: Order, quantity: Quantity, cost: Decimal) -> bool:
    """Return True for totals that are the order's already, or that a bust or correction replaced."""
    return (quantity, cost) in ((order.filled, order.cost), *order.replaced)


def book_correction(draft: Draft, order: Order, event: OrderFilled) -> None:
    """Book the totals after a bust or correction, as the difference from the totals known before."""
    order = replace(order, replaced=(*order.replaced, (order.filled, order.cost)))
    stands = replace(
        event,
        quantity=event.cumulative_quantity - order.filled,
        correction=max(event.correction, order.correction + 1),
    )
    if book_totals(draft, order, stands):
        record_execution(draft, stands, ZERO)


def note_part(draft: Draft, quantity: Quantity) -> None:
    """Count the fill of a fraction, the desk's or another's: the broker may round the cash of each."""
    if type(quantity) is Part:
        draft.broker = replace(draft.broker, parted=draft.broker.part_fills + 1)


def record_execution(draft: Draft, event: OrderFilled, fees: Decimal) -> None:
    """Record the execution by its identity, with its row."""
    order = draft.find_order(event.client_order_id)
    assert order is not None
    executions = (*order.executions, event.cumulative_quantity)
    draft.put_order(replace(order, executions=executions))
    note_part(draft, event.quantity)
    stats = draft.stats
    whole = event.cumulative_quantity == order.quantity
    draft.stats = replace(stats, fills=stats.fills + 1, partial_fills=stats.partial_fills + (not whole))
    draft.records.append(
        FillRow(
            client_order_id=event.client_order_id,
            correction=event.correction,
            cumulative=event.cumulative_quantity,
            symbol=event.symbol,
            side=event.side,
            quantity=event.quantity,
            price=str(event.price),
            fees_usd=str(fees),
            filled_ns=event.filled_ns,
            time_ns=event.time_ns,
        )
    )


def book_totals(draft: Draft, order: Order, event: OrderFilled) -> bool:
    """Book what is new in the totals; False when the book cannot hold it: that halts and is never booked later."""
    if was_refused(draft, event.client_order_id, event.correction, event.cumulative_quantity):
        return False
    missing = -new_quantity(draft.book, order, event)
    if missing <= 0:
        booking = book_fill(draft.book, order, event, draft.contract_of(event.symbol))
    elif event.side > 0 and has_lapsed(draft, event.symbol):
        booking = _take_back_lapsed(draft, order, event, missing)
    elif event.side > 0 > draft.held(event.symbol):
        booking = _buy_back(draft, order, event)
    else:
        mismatch(draft, order, event)
        return False
    with draft.because(Cause("", booking.order, event.filled_ns)):
        draft.put_book(booking.book)
    note_fill(draft, event.symbol)
    corrected = event.correction > order.correction
    filled_order = replace(booking.order, executions=() if corrected else order.executions)
    whole = filled_order.filled == filled_order.quantity
    draft.put_order(advance(filled_order, "filled" if whole else "partial"))
    note_fate(draft, order)
    if booking.closed is not None:
        end_trade(draft, booking.closed)
    revalue(draft)
    reduce_excess(draft, order, booking.quantity)
    if order.purpose == PROTECTION and booking.quantity > 0 and draft.end_buys(order.symbol):  # as the desk's own stop
        draft.wanted = {**draft.wanted, order.symbol: draft.held(order.symbol)}
    return True


def _take_back_lapsed(draft: Draft, order: Order, event: OrderFilled, missing: Quantity) -> BookedFill:
    """Book the bust of a purchase whose contracts lapsed: they are not owed to anyone, and what was paid comes back."""
    book, contract = draft.book, draft.contract_of(event.symbol)
    assert contract is not None
    empty_position = Position(
        event.symbol, contract.right, 0, ZERO, OPTION_MULTIPLIER, event.filled_ns, contract.expiry
    )
    position = book.positions.get(event.symbol) or empty_position
    with_them = {**book.positions, event.symbol: replace(position, quantity=position.quantity + missing)}
    booking = book_fill(replace(book, positions=with_them), order, event, contract)
    return BookedFill(booking.book, booking.order, booking.quantity, None)  # the end of the trade was counted before


def _buy_back(draft: Draft, order: Order, event: OrderFilled) -> BookedFill:
    """Book a part of a buy-back: its cost joins the position's; the gain is realised when all is bought back."""
    short_position = draft.book.positions[event.symbol]
    quantity, cost = event.cumulative_quantity - order.filled, event.cumulative_cost - order.cost
    fees = event.cumulative_fees - order.fees
    new_position = replace(
        short_position,
        quantity=short_position.quantity + quantity,
        cost=short_position.cost + cost,
        pnl=short_position.pnl - fees,
    )
    order = replace(
        order,
        filled=event.cumulative_quantity,
        cost=event.cumulative_cost,
        fees=event.cumulative_fees,
        correction=event.correction,
    )
    book = replace(
        draft.book,
        cash=draft.book.cash - cost * short_position.multiplier - fees,
        positions={**draft.book.positions, event.symbol: new_position},
        realized=draft.book.realized - fees,
        fees=draft.book.fees + fees,
    )
    return BookedFill(book, order, quantity, None)


def mismatch(draft: Draft, order: Order, event: OrderFilled) -> None:
    """Halt on a fill that the book cannot represent, once for each fill."""
    if not draft.first_time(_refusal_key(event.client_order_id, event.correction, event.cumulative_quantity)):
        return
    draft.risk = replace(draft.risk, reconciled=False)
    draft.halt(
        "fill_mismatch",
        f"{event.client_order_id}: filled {in_words(event.side, event.cumulative_quantity, event.symbol)}, ordered "
        f"{in_words(order.side, order.quantity, order.symbol)}, held {draft.held(event.symbol)}",
    )


def _refusal_key(client_order_id: str, correction: int, cumulative: Quantity) -> str:
    """Return the name under which a refused fill is remembered: its identity."""
    return f"{client_order_id} {correction} {cumulative} not booked"


def was_refused(draft: Draft, client_order_id: str, correction: int, cumulative: Quantity) -> bool:
    """Return True for a fill that the book refused before."""
    return _refusal_key(client_order_id, correction, cumulative) in draft.broker.seen


def set_totals(draft: Draft, order: Order, report: BrokerOrder) -> bool:
    """Book the totals found where they exceed ours; False when they are older, have no price yet, or cannot be booked.

    Single executions come from the stream or the ledger. Totals of a corrected order are set as found, but for those
    that a correction replaced: an answer may be older, and the order's own figures need not follow a correction.
    """
    filled_quantity = exact(report.filled)
    if filled_quantity and report.average_price is None:
        return False
    cost = total_cost(draft, report)
    if order.correction and is_replaced(order, filled_quantity, cost):
        return True
    behind = filled_quantity < order.filled
    if behind and not order.correction:
        return False
    if filled_quantity > order.filled or (order.correction and (filled_quantity, cost) != (order.filled, order.cost)):
        correction = order.correction + 1 if behind or filled_quantity == order.filled else order.correction
        price = report.average_price or ZERO
        fill = OrderFilled(
            draft.now_ns,
            order.client_order_id,
            order.symbol,
            order.side,
            price,
            draft.now_ns,
            filled_quantity,
            cost,
            order.fees,
            filled_quantity - order.filled,
            correction,
        )
        return book_totals(draft, order, fill)
    return True


def total_cost(draft: Draft, report: BrokerOrder) -> Decimal:
    """Return the sum of price x quantity, on its grid (options whole cents, shares finer): the average is rounded."""
    grid = CENT if draft.contract_of(report.symbol) is not None else COST_GRID
    return ((report.average_price or ZERO) * report.filled).quantize(grid)


def transfer(draft: Draft, amount: Decimal) -> None:
    """Book a transfer of cash, neither gain nor loss."""
    book = draft.book
    draft.put_book(book_transfer(replace(book, cash=book.cash + amount), book.equity, amount))
    revalue(draft)


def without_gain(draft: Draft, old_book: Book) -> None:
    """Book what was taken over since `old_book` as a transfer: neither gain nor loss.

    This realises the unrealised gain of the positions, so that cash and positions at cost still add up: what was taken
    over was entered at its mark.
    """
    old_book, book = mark_book(draft, old_book), mark_book(draft, draft.book)
    transfer_usd = book.equity - old_book.equity
    gain_usd = at_cost(book) - at_cost(old_book) - transfer_usd
    by_position = _gains_by_position(draft, old_book, book) if gain_usd else {}
    positions = book.positions.values()
    entry_keys = frozenset(_key(p) for p in positions if abs(p.quantity) >= abs(_quantity_in(old_book, p.symbol)))
    if by_position:
        draft.put_gains(by_position)
    book = replace(
        book,
        positions=draft.book.positions,
        peak=old_book.peak,
        max_drawdown=old_book.max_drawdown,
        guard_peak=old_book.guard_peak,
        realized=book.realized + gain_usd,
    )
    with draft.because(draft.cause._replace(gains=by_position, entered=entry_keys)):
        draft.put_book(book_transfer(book, old_book.equity, transfer_usd))
    revalue(draft)


def _gains_by_position(draft: Draft, old_book: Book, new_book: Book) -> dict[tuple[int, str], Decimal]:
    """Return the unrealised gain that each changed position loses between the two books, by (opened_ns, symbol)."""
    gains: dict[tuple[int, str], Decimal] = {}
    for symbol in {**old_book.positions, **new_book.positions}:
        old, new = old_book.positions.get(symbol), new_book.positions.get(symbol)
        position = old or new
        if position is not None and old != new:
            price = position_price(draft, symbol)
            gain = _open_gain(old, price) - _open_gain(new, price)
            if gain:
                gains[_key(position)] = gain
    return gains


def _key(position: Position) -> tuple[int, str]:
    return position.opened_ns, position.symbol


def _quantity_in(book: Book, symbol: str) -> Quantity:
    position = book.positions.get(symbol)
    return 0 if position is None else position.quantity


def _open_gain(position: Position | None, price: Decimal | None) -> Decimal:
    if position is None or price is None:
        return ZERO
    return (price * position.quantity - position.cost) * position.multiplier


def at_cost(book: Book) -> Decimal:
    """Return cash and positions at cost, USD."""
    return book.cash + sum((p.cost * p.multiplier for p in book.positions.values()), ZERO)


def is_ours(draft: Draft, client_order_id: str) -> bool:
    """Return True for a client order id that this journal's desk makes."""
    return client_order_id.startswith(name_prefix(draft.identity.epoch, draft.identity.strategy))


def late_fill(draft: Draft, symbol: str) -> str:
    """Return the name under which a fill of today is remembered whose order, the desk's own, is forgotten."""
    return f"{symbol} filled late {new_york_date(draft.now_ns).isoformat()}"


def on_unknown_order(draft: Draft, client_order_id: str, symbol: str = "") -> None:
    """Handle news about an order that is not in the state: from an earlier session, or a foreign one.

    A fill names its `symbol`: the quantity held of it is unknown until the next report.
    """
    if symbol:
        note_other_party(draft, symbol, f"a fill of an order that this journal does not know: {client_order_id}")
    if is_ours(draft, client_order_id):
        if symbol:
            draft.first_time(late_fill(draft, symbol))
        draft.effects.append(AskBroker(f"news about a forgotten order: {client_order_id}"))
        return
    draft.risk = replace(draft.risk, reconciled=False)
    detail = f"news about an order that is not ours: {client_order_id}"
    draft.alarm("foreign_order", detail, once=True, about=client_order_id)
