"""Book against broker: a pure, idempotent comparison, and one written verdict for each kind of difference.

Orders and fills are taken over first (they explain most), then the ledger, then what still differs. A difference is
judged only when it stood for `SETTLE_NS`: the report's parts are asked one after another, and the broker's own books
need a moment. Until book and broker agree there is no new risk. Verdicts: docs/OPERATIONS.md, "Reconciliation".
"""

from __future__ import annotations

from decimal import Decimal

from msgspec.structs import replace

from daemon.core.book import CENT, OPTION_MULTIPLIER, begin_session
from daemon.core.effects import AskBroker, CancelOrder
from daemon.core.events import Activity, BrokerPosition, BrokerReported, BrokerSnapshot
from daemon.core.execution import contract_of, held
from daemon.core.fills import is_ours, on_order_filled, transfer, without_gain
from daemon.core.foreign import can_hold, hold_beside, keep_own, met_at_begin
from daemon.core.guards import alarm, cancel_entries, case_over, first_time, halt, look_up, revalue
from daemon.core.ledger import AMENDED, arrives, book_activity, settle_without_ledger
from daemon.core.marks import mark_book
from daemon.core.on_broker import absorb
from daemon.core.orders import SUBMITTED, UNKNOWN
from daemon.core.risk_view import SECOND_NS
from daemon.core.sellable import take_available
from daemon.core.splits import note_positions, only_splits_differ
from daemon.core.state import ZERO, Draft, Position, Suspicion

SETTLE_NS = 10 * SECOND_NS
CLOSED = frozenset(
    f"status {word}" for word in ("ACCOUNT_CLOSED", "DISABLED", "INACTIVE", "REJECTED", "SUBMISSION_FAILED")
)
"""What the broker calls an account that does not come back by itself."""


def on_broker_snapshot(draft: Draft, event: BrokerSnapshot) -> None:
    """The paper broker's word at a start: a journal without history adopts its cash, a difference halts and is named.

    Paper broker and book come from the same journal, so a difference is a bug and there is nothing to settle.
    """
    if draft.identity.mode != "replay":  # whose state is the same however often it was restarted
        draft.broker = replace(draft.broker, reported_ns=draft.now_ns)
    if draft.seq == 0 and not draft.orders and draft.book.cash == 0:
        if event.positions or event.open_orders:
            found = [p.symbol for p in event.positions] + list(event.open_orders)
            halt(draft, "reconciliation", f"the account is not empty and this journal is new: {', '.join(found)}")
            return
        _adopt_cash(draft, event.cash)
        draft.risk = replace(draft.risk, reconciled=True)
        return
    found = [*_cash_and_positions(draft, event.cash, event.positions), *_orders(draft, frozenset(event.open_orders))]
    draft.risk = replace(draft.risk, reconciled=not found)
    if found:
        halt(draft, "reconciliation", "; ".join(found))


def on_broker_reported(draft: Draft, event: BrokerReported) -> None:
    """Take the broker's word over as far as it explains itself, then compare; differences that stay are judged."""
    if not _account_is_right(draft, event):
        return
    positions = event.positions
    if draft.daily is not None:
        event = replace(event, positions=_whole_shares(positions))
    draft.broker = replace(draft.broker, reported_ns=draft.now_ns)
    if not draft.broker.began_ns and not _begin(draft, event):
        return
    _take_over_lines(draft, event)
    _ask_for_the_missing(draft, event)
    take_available(draft, event)
    if draft.daily is not None:
        for symbol, detail in note_positions(draft, positions).items():
            alarm(draft, "split_awaited", detail, once=True, about=symbol)
    _compare(draft, event)
    _note_status(draft, event.blocked)


def _note_status(draft: Draft, blocked: str) -> None:
    """An account that may not trade takes no new risk while that lasts; one that is closed halts."""
    former = draft.broker.blocked
    draft.broker = replace(draft.broker, blocked=blocked)
    if CLOSED & set(blocked.split(", ")):
        halt(draft, "account_blocked", blocked)
    elif blocked:
        alarm(draft, "account_blocked", blocked, once=True, about=blocked)
        cancel_entries(draft)
    elif former:
        case_over(draft, "account_blocked")


def _whole_shares(positions: tuple[BrokerPosition, ...]) -> tuple[BrokerPosition, ...]:
    """The positions in whole shares: a fraction, of a reinvested dividend or a split, lies beside the desk's own."""
    whole = (replace(position, quantity=Decimal(int(position.quantity))) for position in positions)
    return tuple(position for position in whole if position.quantity)


def _take_over_lines(draft: Draft, event: BrokerReported) -> None:
    """Orders first, then their executions, then the ledger's other lines, each line once."""
    heard = draft.broker
    for order in (*event.ended_orders, *event.open_orders):
        absorb(draft, order)
    draft.broker = replace(draft.broker, moved=heard.moved, filled=heard.filled)  # read before positions and cash
    for fill in event.fills:
        if is_ours(draft, fill.client_order_id) and draft.find_order(fill.client_order_id) is not None:
            on_order_filled(draft, fill)
    for activity in sorted(event.activities, key=arrives):
        if activity.status != "pending" and _mark_seen(draft, activity):
            book_activity(draft, activity)


def _mark_seen(draft: Draft, line: Activity) -> bool:
    """True when this line of the ledger, with this status, was not seen before. A line is amended under its own id."""
    return first_time(draft, f"{line.id} {line.status}" if line.status in AMENDED else line.id)


def _account_is_right(draft: Draft, event: BrokerReported) -> bool:
    """The account is the one that this journal belongs to, and the one that the configuration names."""
    broker = draft.broker
    others = [number for number in (broker.account, broker.expected) if number and number != event.account]
    draft.broker = replace(broker, account=broker.account or ("" if others else event.account), wrong=bool(others))
    if others:
        expected = others[0]
        draft.risk = replace(draft.risk, reconciled=False)
        halt(draft, "wrong_account", f"the keys open account {event.account}, expected is {expected}")
    return not others


def _begin(draft: Draft, event: BrokerReported) -> bool:
    """The first report of a journal: its cash is the start, what the account did before is not ours.

    Positions and open orders of others are judged as foreign: False while they keep the desk from beginning.
    """
    for line in event.activities:  # told once: a later report does not repeat them
        if line.status != "pending":
            _mark_seen(draft, line)
    foreign = [order for order in event.open_orders if not is_ours(draft, order.client_order_id)]
    rule = draft.trading.broker.foreign_orders
    if rule == "halt" and (event.positions or foreign):
        found = [p.symbol for p in event.positions] + [order.client_order_id for order in foreign]
        detail = f"the account is not empty and this journal is new: {', '.join(found)}"
        draft.risk = replace(draft.risk, reconciled=False)
        halt(draft, "foreign_order", detail)
        return False
    draft.broker = replace(draft.broker, began_ns=event.asked_ns)
    _adopt_cash(draft, event.cash)
    for position in event.positions:
        _take_over(draft, position.symbol, position)
    for order in foreign:
        met_at_begin(draft, order)
    book = mark_book(draft, draft.book)
    draft.book = begin_session(replace(book, peak=book.equity, max_drawdown=0.0))
    return True


def _adopt_cash(draft: Draft, cash: Decimal) -> None:
    draft.book = begin_session(replace(draft.book, cash=cash, equity=cash, peak=cash))


def _ask_for_the_missing(draft: Draft, event: BrokerReported) -> None:
    """Our working orders that the broker does not list: each is looked up by its name before anything is said."""
    listed = {order.client_order_id for order in (*event.open_orders, *event.ended_orders)}
    for order in tuple(draft.orders.values()):
        due = order.submitted_ns < event.asked_ns and order.looked_up_ns < event.asked_ns
        if order.client_order_id not in listed and due and order.purpose != "foreign":
            look_up(draft, order)


# --- differences --------------------------------------------------------------------------------------------------


def _compare(draft: Draft, event: BrokerReported) -> None:
    """Judge by what the desk knew when the report was asked for: one that a fill overtook says nothing about it."""
    found = tuple(_all_differences(draft, event))
    if found and draft.broker.filled:  # fills that came after it was asked for
        draft.effects.append(AskBroker(f"filled since the report was asked for: {', '.join(draft.broker.filled)}"))
        return
    suspicion = draft.broker.suspicion
    if only_splits_differ(draft.basket, found):  # the ledger's line explains them: nothing is judged before it
        draft.broker = replace(draft.broker, suspicion=Suspicion(found, event.asked_ns))
        draft.risk = replace(draft.risk, reconciled=False)
        return
    if found and suspicion is not None and suspicion.differences == found:
        if event.asked_ns - suspicion.since_ns < SETTLE_NS:
            return
        _judge(draft, event, found)
        found = tuple(_all_differences(draft, event))
        if found:
            draft.risk = replace(draft.risk, reconciled=False)
            halt(draft, "reconciliation", "; ".join(found))
            return
    if found:
        draft.broker = replace(draft.broker, suspicion=Suspicion(found, event.asked_ns))
        draft.risk = replace(draft.risk, reconciled=False)
        if suspicion is None:  # one that changes waits for the next minute's report: no loop
            draft.effects.append(AskBroker("; ".join(found)))
        return
    settled = not any(order.status in (SUBMITTED, UNKNOWN) for order in draft.orders.values())
    draft.broker = replace(draft.broker, suspicion=None, agreed_ns=draft.now_ns)
    if settled or draft.risk.reconciled:
        draft.risk = replace(draft.risk, reconciled=True)
        case_over(draft, "unreconciled", "broker_lost")


def _all_differences(draft: Draft, event: BrokerReported) -> list[str]:
    found = _cash_and_positions(draft, event.cash, event.positions)
    for order in event.open_orders:
        if is_ours(draft, order.client_order_id) and order.client_order_id not in draft.orders:
            found.append(f"order {order.client_order_id}: works at the broker only")
    return found


def _cash_and_positions(draft: Draft, cash: Decimal, positions: tuple[BrokerPosition, ...]) -> list[str]:
    found: list[str] = []
    book, beside = draft.book, draft.broker.foreign_held
    if cash != book.cash:
        found.append(f"cash: broker {cash} USD, book {book.cash} USD")
    theirs = {p.symbol: p.quantity for p in positions}
    ours = {symbol: Decimal(p.quantity) for symbol, p in book.positions.items()}
    for symbol in sorted(theirs.keys() | ours.keys() | beside.keys()):
        expected = ours.get(symbol, ZERO) + beside.get(symbol, 0)
        if theirs.get(symbol, ZERO) != expected:
            with_foreign = f" and {beside[symbol]} beside it" if symbol in beside else ""
            found.append(f"{symbol}: broker {theirs.get(symbol, 0)}, book {ours.get(symbol, 0)}{with_foreign}")
    return found


def _orders(draft: Draft, open_orders: frozenset[str]) -> list[str]:
    return [
        f"order {name}: {'at the broker' if name in open_orders else 'in the book'} only"
        for name in sorted(open_orders ^ draft.orders.keys())
    ]


# --- verdicts -----------------------------------------------------------------------------------------------------


def _judge(draft: Draft, event: BrokerReported, found: tuple[str, ...]) -> None:
    """The written verdicts, in order: what expired is settled, what is foreign is treated as configured, a little
    cash is a fee. What none of them explains stays a difference, and halts.
    """
    for order in event.open_orders:
        if is_ours(draft, order.client_order_id) and order.client_order_id not in draft.orders:
            draft.effects.append(CancelOrder(order.client_order_id))  # nobody here would ever end it
    theirs = {p.symbol: p for p in event.positions}
    if settle_without_ledger(draft, {symbol: int(p.quantity) for symbol, p in theirs.items()}):
        alarm(draft, "settled_without_ledger", "; ".join(found))
    book, beside = draft.book, draft.broker.foreign_held
    symbols = sorted(theirs.keys() | book.positions.keys() | beside.keys())
    differing = [
        symbol
        for symbol in symbols
        if (theirs[symbol].quantity if symbol in theirs else ZERO) != held(draft, symbol) + beside.get(symbol, 0)
    ]
    rule = draft.trading.broker.foreign_orders
    if differing and rule != "halt":
        taken = [symbol for symbol in differing if _take_over(draft, symbol, theirs.get(symbol))]
        if taken:
            alarm(draft, "position_changed", f"{rule}: {'; '.join(found)}")
            draft.book = replace(draft.book, cash=event.cash)
            without_gain(draft, book)
    cash = event.cash - draft.book.cash
    if cash and not (differing and rule == "halt") and abs(cash) <= draft.trading.broker.cash_tolerance_usd:
        alarm(draft, "cash_adjusted", f"{cash:+} USD that no line of the broker's ledger explains yet")
        book = draft.book
        draft.book = replace(book, cash=event.cash, realized=book.realized + cash, fees=book.fees - cash)
        revalue(draft)
    elif cash and rule == "adopt" and not differing:
        alarm(draft, "position_changed", f"adopt: {'; '.join(found)}")
        transfer(draft, cash)


def _take_over(draft: Draft, symbol: str, position: BrokerPosition | None) -> bool:
    """Let book (`adopt`) or what is held beside it (`ignore`) hold what the broker holds of one symbol.

    False for what the desk cannot hold, a fraction or another underlying's shares: it stays a difference.
    """
    quantity = int(position.quantity) if position is not None else 0
    if position is not None and position.quantity != quantity:
        return False
    if position is not None and draft.trading.broker.foreign_orders == "adopt" and not can_hold(draft, symbol):
        return False
    if draft.trading.broker.foreign_orders == "ignore":
        own = held(draft, symbol)
        left = min(own, max(quantity, 0)) if own > 0 else max(own, min(quantity, 0))
        hold_beside(draft, symbol, quantity - left - draft.broker.foreign_held.get(symbol, 0))
        if left != own:
            keep_own(draft, symbol, left)
        return True
    hold_beside(draft, symbol, -draft.broker.foreign_held.get(symbol, 0))  # the desk's own from now on
    if position is None:
        draft.book = replace(draft.book, positions={s: p for s, p in draft.book.positions.items() if s != symbol})
        return True
    contract, known = contract_of(draft, symbol), draft.book.positions.get(symbol)
    right, expiry = (contract.right, contract.expiry) if contract is not None else (0, "")
    multiplier = OPTION_MULTIPLIER if contract is not None else 1
    opened_ns = known.opened_ns if known is not None else draft.now_ns
    cost = (position.average_price * quantity).quantize(CENT)
    taken = Position(symbol, right, quantity, cost, multiplier, opened_ns, expiry)
    draft.book = replace(draft.book, positions={**draft.book.positions, symbol: taken})
    if contract is not None:
        draft.contracts = {**draft.contracts, symbol: contract}
    return True
