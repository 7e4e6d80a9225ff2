"""Compare book and broker: pure and idempotent, with one written verdict for each kind of difference.

Orders and fills are taken over first (they explain most), then the ledger, then the remaining differences. A difference
is judged only after it stood for `SETTLE_NS`: the parts of a report are requested one after another, and the broker's
own books lag. Until book and broker agree there is no new risk. Verdicts: docs/BOOK.md. A takeover of the broker's
positions (one symbol by `foreign_orders`, all when a person accepts them) is neither gain nor loss: it is a transfer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from itertools import chain, combinations, pairwise
from typing import TypeVar

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from daemon.core.book import CENT, OPTION_MULTIPLIER, begin_book
from daemon.core.broker.fills import (
    is_ours,
    late_fill,
    settle_cost,
    take_available,
    take_fill,
    transfer,
    without_gain,
)
from daemon.core.broker.foreign import (
    NEW_NAME,
    STRANGE,
    can_hold,
    dispute,
    drop_sold_shares,
    end_unheld_sale,
    forget_leavers,
    have_left_for,
    hold_foreign,
    is_fraction,
    keep_own_part,
    lieu_fraction,
    met_at_begin,
    note_closes,
    note_fractions,
    note_strangers,
    precedes_its_contract,
)
from daemon.core.broker.ledger import (
    AMENDED,
    CASH_IN_LIEU,
    CONTRACT_CASH,
    CONTRACT_ENDS,
    EXERCISED,
    INCOME,
    MERGED,
    REORGANISED,
    SPLITS,
    book_activity,
    cause_of,
    in_order,
    lapsed_positions,
    settle_without_ledger,
)
from daemon.core.broker.on_broker import (
    CLOCK_NS,
    absorb,
    count_refused_exits,
    end_entries,
    has_new_name,
    on_order_news,
    own_or_guards,
    under_our_names,
)
from daemon.core.broker.protection import end_former, is_guarded, is_of_former, is_of_guard, lift_fence
from daemon.core.draft import BY_OPERATOR, CLOSED_BY_HAND, ENTRY, Draft, names_of
from daemon.core.effects import AskBroker, CancelOrder
from daemon.core.events import (
    AcceptBrokerRequested,
    Activity,
    BrokerOrder,
    BrokerPosition,
    BrokerReported,
    BrokerSnapshot,
    OrderRejected,
)
from daemon.core.instruments.option_market import parse_occ, root_of
from daemon.core.moves import Cause
from daemon.core.orders import ENDED, FENCE, SUBMITTED, UNKNOWN, Order, advance
from daemon.core.risk.guards import UNRECONCILED_NS, deficit, revalue
from daemon.core.risk.marks import mark_book
from daemon.core.risk.splits import (
    ANNOUNCED,
    SPLIT_RATIO,
    at_split,
    end_waits,
    factor,
    is_paid_for,
    is_split,
    note_announcement,
    note_paid_out,
    note_positions,
    note_taken_over,
    note_takeover_day,
    note_told,
    only_awaited_differ,
    plain_ratio,
    replaced_symbols,
    split_into,
    splits_others_short,
    was_counted,
    was_paid_out,
    was_taken_over,
)
from daemon.core.session import new_york_date, new_york_text
from daemon.core.state import ADJUSTED_MAX, BROKER_MODES, ZERO, Adjusted, Leaver, Position, Suspicion
from strategies.kit.quantity import Quantity, exact, total, whole_of
from strategies.kit.units import MINUTE_NS, SECOND_NS

T = TypeVar("T")

ADOPTED = Cause("taken_over")
UNBOOKED = ("pending", ANNOUNCED)  # statuses of lines that move nothing yet
REPLACED = (*NEW_NAME, *MERGED)  # kinds of lines that replace shares by others
TAKES_CONTRACTS = (*CONTRACT_ENDS, CONTRACT_CASH)  # kinds of lines that end contracts
OF_CASH = ""  # in place of a symbol, for the day on which cash was taken over
TAKEN_LINES_MAX = 10  # newest lines of which some may be of cash that was taken over
SETTLE_NS = 10 * SECOND_NS  # wait before a difference is judged, or a fence after it was lifted
OPEN_NS = 2 * MINUTE_NS  # margin around a session within which the broker's clock may differ from the calendar


def count_fractions(draft: Draft, positions: tuple[BrokerPosition, ...], *, judged: bool = False) -> None:
    """Count quantities below one share that are in no book, such as a reinvested dividend or a split's remainder.

    A desk of whole shares counts them at once, since its own orders never cause them; a desk with fractions only when
    the difference has stood long enough (`judged`). They are kept apart from what desk and others hold; `adopt` books
    them. A lack below one share counts only where others hold shares; elsewhere it is a difference like any other.
    While a split of the symbol is awaited, the count stays: the split's line divides it.
    """
    if draft.fractional and not judged:
        return
    broker_positions = {position.symbol: position for position in positions}
    fractions = draft.broker.beside_fractions
    adopts = draft.trading.broker.foreign_orders == "adopt"
    new_fractions: dict[str, Quantity] = {}
    for symbol in sorted({*broker_positions, *draft.expected_symbols()}):
        if draft.contract_of(symbol) is not None or (adopts and can_hold(draft, symbol)):
            continue
        crumb = fractions.get(symbol, 0)
        broker_position = broker_positions.get(symbol)
        if symbol in draft.basket.to_come or _shows_split(draft, symbol, broker_position):
            new_fractions.update({symbol: crumb} if crumb else {})
            continue
        quantity = exact(ZERO if broker_position is None else broker_position.quantity)
        apart = quantity - max(draft.broker.refused_of(symbol), 0) - draft.expected(symbol) + crumb
        least = -max(draft.broker.foreign_held.get(symbol, 0), 0)
        if not draft.fractional:
            foreign_whole = whole_of(max(crumb, 0))  # whole shares that a split made of others' fraction
            crumb = apart - whole_of(apart)
            crumb += 1 if crumb < least else 0
            crumb += foreign_whole if apart >= foreign_whole else 0
        elif abs(apart) < 1:
            crumb = max(apart, 0) if apart < least else apart
        if crumb:
            new_fractions[symbol] = crumb
    if new_fractions != fractions:
        draft.broker = replace(draft.broker, beside=new_fractions)


def _shows_split(draft: Draft, symbol: str, broker_position: BrokerPosition | None) -> bool:
    """Return whether the broker's position shows a split of shares that the book does not have yet."""
    is_held = draft.desk.holds.by_basket and symbol in draft.book.positions
    differs = is_held and broker_position is not None and broker_position.quantity != draft.expected(symbol)
    return differs and is_split(draft, symbol, broker_position)


def take_over(draft: Draft, symbol: str, position: BrokerPosition | None, rule: str) -> bool:
    """Take over the broker's quantity of one symbol: into the book (`adopt`) or as foreign (`ignore`).

    Returns False for shares of another underlying, which the desk cannot hold: they stay a difference.
    """
    quantity = exact(position.quantity) if position is not None else 0
    if rule != "ignore" and not can_hold(draft, symbol):
        return False
    fractions = draft.broker.beside_fractions
    if symbol in fractions:  # the whole figure is taken over
        draft.broker = replace(draft.broker, beside={s: crumb for s, crumb in fractions.items() if s != symbol})
    forget_leavers(draft, symbol)
    if rule == "ignore":
        own_quantity = draft.held(symbol)
        kept_quantity = min(own_quantity, max(quantity, 0)) if own_quantity > 0 else max(own_quantity, min(quantity, 0))
        hold_foreign(draft, symbol, quantity - kept_quantity - draft.broker.foreign_held.get(symbol, 0))
        if kept_quantity != own_quantity:
            keep_own_part(draft, symbol, kept_quantity)
        return True
    hold_foreign(draft, symbol, -draft.broker.foreign_held.get(symbol, 0))  # the desk's own from now on
    if position is None:
        with draft.because(ADOPTED):
            draft.put_book(
                replace(draft.book, positions={s: p for s, p in draft.book.positions.items() if s != symbol})
            )
        return True
    contract, book_position = draft.contract_of(symbol), draft.book.positions.get(symbol)
    right, expiry = (contract.right, contract.expiry) if contract is not None else (0, "")
    multiplier = OPTION_MULTIPLIER if contract is not None else 1
    opened_ns = book_position.opened_ns if book_position is not None else draft.now_ns
    cost = (position.average_price * quantity).quantize(CENT)
    new_position = Position(symbol, right, quantity, cost, multiplier, opened_ns, expiry)
    if book_position is not None:
        new_position = replace(new_position, high=book_position.high)
    with draft.because(ADOPTED):
        draft.put_book(replace(draft.book, positions={**draft.book.positions, symbol: new_position}))
    if contract is not None:
        draft.contracts = {**draft.contracts, symbol: contract}
    return True


# --- accepted by a person ---------------------------------------------------------------------------------------------


def on_accept_broker(draft: Draft, event: AcceptBrokerRequested) -> None:
    """Halt, and let the next report requested from now on set the book."""
    if draft.identity.mode not in BROKER_MODES:
        draft.alarm("command_refused", f"accept-broker (by {event.who}): no broker outside reports to this desk")
        return
    draft.halt("accept_broker", f"{event.reason} (by {event.who})")
    draft.broker = replace(draft.broker, accept_ns=draft.now_ns)
    draft.risk = replace(draft.risk, reconciled=False)
    draft.effects.append(AskBroker("accept-broker"))


def accepts(draft: Draft, event: BrokerReported) -> bool:
    """Return True for a report that a person accepted beforehand; if a fill came later, the next one counts."""
    asked_ns = draft.broker.accept_ns
    overtaken = any(at_ns >= event.asked_ns for at_ns in draft.broker.filled.values())
    return bool(asked_ns) and event.asked_ns > asked_ns and not overtaken


def accept(draft: Draft, event: BrokerReported) -> None:
    """Take over positions and cash; end or cancel the desk's orders. The desk stays halted and may send again."""
    _end_orders(draft, event)
    broker_positions = {position.symbol: position for position in event.positions}
    _accept_splits(draft, event)
    old_book, broker = draft.book, draft.broker
    closing_works = [(work, draft.held(work.symbol) - work.goal) for work in draft.works.values()]
    rule = "ignore" if draft.trading.broker.foreign_orders == "ignore" else "adopt"
    cannot: list[str] = []
    given: list[str] = []
    for symbol in sorted(broker_positions.keys() | draft.expected_symbols()):
        if _quantity_of(symbol, event.positions) != draft.expected(symbol):
            note_takeover_day(draft, symbol)
        if not take_over(draft, symbol, broker_positions.get(symbol), rule):
            take_over(draft, symbol, broker_positions.get(symbol), "ignore")
            cannot += [f"{count} {symbol}" for count in (draft.broker.foreign_held.get(symbol, 0),) if count]
        elif (count := draft.broker.foreign_held.get(symbol, 0)) not in (0, broker.foreign_held.get(symbol, 0)):
            given.append(f"{count} {symbol}")
    for work, quantity in closing_works:  # no more of what is held now than a person asked to close
        draft.works = {**draft.works, work.key: replace(work, goal=max(draft.held(work.symbol) - quantity, 0))}
    _note_taken_cash(draft, event.cash - _told_cash(draft))
    draft.put_book(replace(draft.book, cash=event.cash))
    with draft.because(ADOPTED):
        without_gain(draft, old_book)
    draft.broker = replace(
        draft.broker, accept_ns=0, stood_down=False, panic_failed_ns=0, suspicion=None, cash_since_ns=0, adjusted=UNSET
    )
    draft.basket = replace(draft.basket, lieu=UNSET)  # its cash is there
    held_now = ", ".join(f"{p.quantity} {p.symbol}" for p in draft.book.positions.values()) or "nothing"
    foreign_text = f"; {names_of(cannot)}: a person's from now on, this desk cannot hold that" if cannot else ""
    foreign_text += f"; {names_of(given)}: a person's from now on, by broker.foreign_orders" if given else ""
    cash_text = f"cash {event.cash} USD (book before: {old_book.cash} USD)"
    draft.alarm("broker_accepted", f"{cash_text}{foreign_text}; holds {held_now}")


def _accept_splits(draft: Draft, event: BrokerReported) -> None:
    """Book the splits that the accepted positions show and no line has reported, and end all waits."""
    if draft.desk.holds.by_basket:
        note_positions(draft, event.positions)
        pending_splits, by_market = draft.basket.to_come, draft.basket.splits
        end_waits(draft)
        for symbol in pending_splits:
            note_taken_over(draft, symbol, paid_out=False)
        _split_by_positions(draft, event.positions, pending_splits, by_market)


def _split_by_positions(
    draft: Draft, positions: Iterable[BrokerPosition], symbols: Iterable[str], by_market: Collection[str]
) -> None:
    """Book the splits of these symbols by the broker's positions, before their ledger lines arrive.

    Where others hold shares too, the new ones are divided in proportion if the market shows the split as well
    (`by_market`). Otherwise the quantity alone does not show whose they are, and the desk's quantity stays, as it does
    where a line of the symbol is disputed.
    """
    broker_positions = {position.symbol: position for position in positions}
    for symbol in symbols:
        own_quantity, foreign_quantity = draft.held(symbol), draft.broker.foreign_held.get(symbol, 0)
        leaves = any(it.symbol == symbol for it in draft.basket.leavers)  # booked before: its cash is to come
        is_unclear = symbol in draft.broker.owners.disputed or (foreign_quantity and symbol not in by_market)
        if symbol not in broker_positions or leaves or is_unclear:
            continue
        position = broker_positions[symbol]
        left_out = _paid_out(draft, position)
        old_quantity, new_quantity = at_split(draft, symbol, position)
        bought_since = draft.expected(symbol) - old_quantity
        note_fractions(draft, symbol, new_quantity + left_out, own_quantity, foreign_quantity - bought_since)
        note_taken_over(draft, symbol, paid_out=bool(left_out))
        if not draft.fractional:  # the broker's figure is in new shares: fractions are counted anew
            fractions = {other: crumb for other, crumb in draft.broker.beside_fractions.items() if other != symbol}
            draft.broker = replace(draft.broker, beside=fractions)
        expected = draft.expected(symbol) - bought_since
        paid_out = ZERO if foreign_quantity else left_out
        change = new_quantity + paid_out - expected
        if foreign_quantity:
            change = Decimal(draft.counted(Decimal(new_quantity) * own_quantity / expected) - own_quantity)
        in_no_book = draft.broker.refused_of(symbol) + draft.broker.beside_fractions.get(symbol, 0)
        own_now = own_quantity + exact(change - paid_out)
        hold_foreign(draft, symbol, exact(position.quantity) - in_no_book - own_now - foreign_quantity)
        line = Activity("", "SPLIT", symbol, change, None, ZERO, "executed", draft.now_ns)
        with draft.because(cause_of(line)):
            draft.desk.holds.split(draft, line, paid_out)


def on_order_rejected(draft: Draft, event: OrderRejected) -> None:
    """Handle a refusal. Where the existing quantity that a refused exit names shows a split, book the split.

    Neither the split's line nor a report may come in time. The average price, which a refusal lacks, is the book's.
    """
    on_order_news(draft, event)
    order, existing = draft.find_order(event.client_order_id), event.existing
    if order is None or isinstance(existing, UnsetType) or existing <= 0 or order.symbol not in draft.basket.to_come:
        return
    if (
        draft.exit_of(symbol := order.symbol) is not None
        and (book_position := draft.book.positions.get(symbol)) is not None
    ):
        broker_position = BrokerPosition(symbol, Decimal(existing), book_position.cost / existing)
        if split_into(draft, symbol, broker_position) is not None:
            _split_by_positions(draft, (broker_position,), (symbol,), draft.basket.splits)


def _paid_out(draft: Draft, position: BrokerPosition) -> Decimal:
    """Return the fraction of a share that a split paid out in cash: by the ledger, else by the split's ratio."""
    lieu_quantity = sum((abs(it.quantity) for it in draft.basket.early_lieu if it.symbol == position.symbol), ZERO)
    _, new_quantity = at_split(draft, position.symbol, position)
    return lieu_quantity or max((split_into(draft, position.symbol, position) or ZERO) - new_quantity, ZERO)


def _end_orders(draft: Draft, event: BrokerReported) -> None:
    """End all works except closes that a person requested; cancel working orders, expire those not at the broker.

    An order that is still in the desk's own queue may arrive later, so it is cancelled.
    """
    by_person = (CLOSED_BY_HAND, BY_OPERATOR)
    draft.works = {key: work for key, work in draft.works.items() if work.reason in by_person}
    open_names = {order.client_order_id for order in event.open_orders}
    for name, order in tuple(draft.orders.items()):
        if name not in open_names and order.submitted_ns < event.asked_ns and not order.in_hand:
            draft.put_order(advance(order, "expired"))
        elif order.purpose != "foreign":
            draft.cancel(name)


CLOSED = frozenset(
    f"status {word}" for word in ("ACCOUNT_CLOSED", "DISABLED", "INACTIVE", "REJECTED", "SUBMISSION_FAILED")
)
"""The broker's statuses of an account that does not recover by itself."""


def note_account(draft: Draft, event: BrokerReported) -> None:
    """Take over the account's state from the report: trading blocks, the market's hours, a margin deficit."""
    _note_status(draft, event)
    _note_market(draft, event)
    short = deficit(event.funds)
    draft.broker = replace(draft.broker, funds=event.funds)
    if short:
        draft.alarm("margin_deficit", f"{short} USD more margin is asked for than the equity", once=True)
    else:
        draft.case_over("margin_deficit")


def _note_status(draft: Draft, event: BrokerReported) -> None:
    """Take no new risk while the account may not trade; halt when it is closed, or fenced by the desk's guard."""
    block_reason, former, lifted_ns = event.blocked, draft.broker.blocked, draft.broker.unfenced_ns
    draft.broker = replace(draft.broker, blocked=block_reason)
    lifting = not isinstance(lifted_ns, UnsetType) and event.asked_ns <= lifted_ns + SETTLE_NS
    fenced = FENCE in block_reason and is_guarded(draft)
    if fenced and not lifting:
        by = "its guard while this desk was silent, or a panic of its gateway"
        draft.halt("fenced", f"{block_reason}: by {by}; a resume lifts it")
        if any(draft.held(position.symbol) for position in event.positions):
            # bought before the fence, reported later: exits need it lifted, the halt stays
            lift_fence(draft)
    if CLOSED & set(block_reason.split(", ")):
        draft.halt("account_blocked", block_reason)
    elif fenced and ", " not in block_reason:
        draft.cancel_entries()  # its halt has told it
    elif block_reason:
        end_entries(draft, block_reason)
    elif former:
        draft.case_over("account_blocked")


def _note_market(draft: Draft, event: BrokerReported) -> None:
    """Begin nothing new while the broker's market is closed during a session of our calendar."""
    _note_early_close(draft, event.next_close_ns)
    _note_open_market(draft, event)
    session, asked_ns = draft.session.session, event.asked_ns
    is_closed = False
    if session is not None and event.market_open is not None and not draft.session.ended:
        within = session.open_ns + CLOCK_NS <= asked_ns < session.close_ns - CLOCK_NS
        later = asked_ns < session.open_ns and event.next_open_ns > session.open_ns + CLOCK_NS
        is_closed = (within and not event.market_open) or later
    if draft.broker.closed and not is_closed:
        draft.broker = replace(draft.broker, opened_ns=draft.now_ns)
    draft.broker = replace(draft.broker, closed=is_closed)
    if is_closed:
        opens = new_york_text(event.next_open_ns) if event.next_open_ns else "unknown"
        draft.alarm("market_closed", f"in a session of the calendar; the broker opens next: {opens}", once=True)
    else:
        draft.case_over("market_closed")


def _note_open_market(draft: Draft, event: BrokerReported) -> None:
    """Raise an alarm while the broker's market is open between the calendar's sessions, when no rule acts."""
    session, asked_ns = draft.session.session, event.asked_ns
    if session is None or event.market_open is None:
        return
    session_pairs = pairwise((session, *draft.session.upcoming))
    following = [
        later for early, later in session_pairs if early.close_ns + OPEN_NS <= asked_ns < later.open_ns - OPEN_NS
    ]
    if following and event.market_open:
        opens = new_york_text(following[0].open_ns)
        detail = f"and the calendar has no session before {opens}: until then no rule leaves what is held"
        draft.alarm("market_open", f"by the broker's clock, {detail}", once=True)
    else:
        draft.case_over("market_open")


def _note_early_close(draft: Draft, told_ns: int) -> None:
    """Shorten the session where the broker's clock closes earlier than the calendar, so that exits leave in time.

    A market that closes later than in the calendar is not traded after the calendar's close.
    """
    session = draft.session.session
    if session is None or draft.session.ended or not told_ns or new_york_date(told_ns).isoformat() != session.date:
        return
    if draft.close_session_at(told_ns):
        closes, calendar_close = new_york_text(told_ns), new_york_text(session.close_ns)
        draft.alarm(
            "market_closed", f"{session.date} closes at {closes} by the broker's clock, before: {calendar_close}"
        )


def account_is_right(draft: Draft, event: BrokerReported) -> bool:
    """Check that the account belongs to this journal and is the one configured."""
    broker = draft.broker
    other_accounts = [number for number in (broker.account, broker.expected) if number and number != event.account]
    account = broker.account or ("" if other_accounts else event.account)
    draft.broker = replace(broker, account=account, wrong=bool(other_accounts), taken=UNSET)  # it listens
    if other_accounts:
        expected = other_accounts[0]
        draft.risk = replace(draft.risk, reconciled=False)
        draft.halt("wrong_account", f"the keys open account {event.account}, expected is {expected}")
    return not other_accounts


def all_differences(draft: Draft, event: BrokerReported) -> list[str]:
    """Return the differences of cash, positions and orders, each as a text that begins with its subject and a colon."""
    differences = cash_and_positions(draft, event.cash, event.positions)
    for order in event.open_orders:
        if is_ours(draft, order.client_order_id) and order.client_order_id not in draft.orders:
            differences.append(f"order {order.client_order_id}: works at the broker only")
    return differences


def cash_and_positions(draft: Draft, cash: Decimal, positions: tuple[BrokerPosition, ...]) -> list[str]:
    book = draft.book
    differences = [f"cash: broker {cash} USD, book {book.cash} USD"] if cash != _told_cash(draft) else []
    return differences + differing_positions(draft, positions)


def differing_positions(draft: Draft, positions: tuple[BrokerPosition, ...]) -> list[str]:
    differences: list[str] = []
    for symbol in _differing_symbols(draft, positions):
        own_quantity = draft.held(symbol)
        foreign_quantity = draft.expected(symbol) - own_quantity
        with_foreign = f" and {foreign_quantity} beside it" if foreign_quantity else ""
        differences.append(f"{symbol}: broker {_quantity_of(symbol, positions)}, book {own_quantity}{with_foreign}")
    return differences


def _differing_symbols(draft: Draft, positions: tuple[BrokerPosition, ...]) -> list[str]:
    """Return the symbols, sorted, of which the broker has another quantity than expected."""
    at_broker = {position.symbol: position.quantity for position in positions}
    symbols = sorted(at_broker.keys() | draft.expected_symbols())
    return [symbol for symbol in symbols if at_broker.get(symbol, ZERO) != draft.expected(symbol)]


def differing_orders(draft: Draft, open_orders: frozenset[str]) -> list[str]:
    return [
        f"order {name}: {'at the broker' if name in open_orders else 'in the book'} only"
        for name in sorted(open_orders ^ draft.orders.keys())
    ]


def halt_on_shorts(draft: Draft, event: BrokerReported) -> None:
    """Halt at once on a short position that is not in the book: more was sold than was held.

    Judged with the other differences are shares of a held option's underlying, shares that others' contracts may have
    sold, and others' short shares that a split multiplied. A symbol with fills since the request waits for the next
    report.
    """
    roots = {contract.root for symbol in draft.book.positions if (contract := parse_occ(symbol)) is not None}
    for position in event.positions:
        symbol = position.symbol
        expected = draft.expected(symbol)
        least = min(expected, 0) - _foreign_need(draft, symbol)
        if splits_others_short(draft, symbol, position.quantity):
            continue
        if position.quantity < least and can_hold(draft, symbol) and symbol not in {*roots, *draft.broker.filled}:
            draft.risk = replace(draft.risk, reconciled=False)
            draft.halt("short_position", f"{symbol}: broker {position.quantity}, book {expected}")


def _foreign_need(draft: Draft, root: str) -> Quantity:
    """Return how many shares an exercise of others' long puts and short calls would deliver."""
    foreign_contracts = ((parse_occ(symbol), quantity) for symbol, quantity in draft.broker.foreign_held.items())
    takes = (-one.right * quantity for one, quantity in foreign_contracts if one is not None and one.root == root)
    return OPTION_MULTIPLIER * total(count for count in takes if count > 0)


def judge(draft: Draft, event: BrokerReported, differences: tuple[str, ...]) -> None:
    """Apply the written verdicts in order: expiries, foreign positions as configured, small cash as a fee.

    A difference that no verdict explains stays, and halts. Splits whose line is awaited are left out: the line would
    count them again.
    """
    for order in event.open_orders:
        if is_ours(draft, order.client_order_id) and order.client_order_id not in draft.orders:
            draft.effects.append(CancelOrder(order.client_order_id))  # nothing here would ever end it
    broker_positions = {p.symbol: p for p in event.positions}
    quantities = {symbol: exact(p.quantity) for symbol, p in broker_positions.items()}
    count_fractions(draft, event.positions, judged=True)
    waiting = _told_cash(draft) - draft.book.cash
    if settle_without_ledger(draft, quantities, event.cash - waiting):
        draft.alarm("settled_without_ledger", "; ".join(differences))
    book = draft.book
    differing = _differing_symbols(draft, event.positions)
    rule = draft.trading.broker.foreign_orders
    if differing and rule != "halt":
        foreign_symbols = _foreign_symbols(draft, differing, quantities, paid=event.cash != _told_cash(draft))
        adopted_symbols = [
            symbol for symbol in foreign_symbols if take_over(draft, symbol, broker_positions.get(symbol), rule)
        ]
        for symbol in adopted_symbols:
            note_takeover_day(draft, symbol)
        if adopted_symbols:
            draft.alarm("position_changed", f"{rule}: {'; '.join(differences)}")
            cash = event.cash - _told_cash(draft)
            _note_taken_cash(draft, cash)
            draft.put_book(replace(draft.book, cash=draft.book.cash + cash))
            with draft.because(ADOPTED):
                without_gain(draft, book)
    cash = event.cash - _told_cash(draft)
    if cash and not (differing and rule == "halt") and abs(cash) <= draft.trading.broker.cash_tolerance_usd:
        draft.alarm("cash_adjusted", f"{cash:+} USD that no line of the broker's ledger explains yet")
        _adjust(draft, cash)
        _keep_adjustments(draft, (*_adjustments(draft).amounts, cash))
    elif cash and rule == "adopt" and not differing:
        draft.alarm("position_changed", f"adopt: {'; '.join(differences)}")
        _note_taken_cash(draft, cash)
        transfer(draft, cash)


def _foreign_symbols(
    draft: Draft, differing: Sequence[str], quantities: Mapping[str, Quantity], *, paid: bool
) -> Sequence[str]:
    """Return the symbols whose difference others may have caused and no ledger line will explain.

    None while an exercise or a merger may explain it: options lapsed, the desk's contracts are owed shares that differ,
    or own shares are missing while others came. Awaited splits are left out; with `ignore` so are symbols with a late
    fill, and missing own shares if no cash came (`paid`).
    """
    owed = {root_of(contract) for contract, (own, _) in draft.broker.owners.owed.items() if own}
    if lapsed_positions(draft, quantities) or not owed.isdisjoint(differing):
        return ()  # shares and cash of an exercise: the lines will show whose they are
    candidates = [symbol for symbol in differing if symbol not in draft.basket.to_come]
    missing = {symbol for symbol in candidates if _lacks_own(draft, symbol, quantities.get(symbol, 0))}
    if missing and any(quantities.get(symbol, 0) > draft.expected(symbol) for symbol in candidates):
        return ()  # a merger may bring cash too, and others' orders are known by the next report
    if draft.trading.broker.foreign_orders != "ignore":
        return candidates
    late = {symbol for symbol in candidates if late_fill(draft, symbol) in draft.broker.seen}
    return [symbol for symbol in candidates if symbol not in late and (paid or symbol not in missing)]


def _lacks_own(draft: Draft, symbol: str, broker_quantity: Quantity) -> bool:
    """Return whether the broker has less than the desk's own quantity."""
    own_quantity = draft.held(symbol)
    return bool(abs(own_quantity) > max(broker_quantity if own_quantity > 0 else -broker_quantity, 0))


def _adjust(draft: Draft, cash: Decimal) -> None:
    book = draft.book
    with draft.because(Cause("cash_adjusted")):
        draft.put_book(replace(book, cash=book.cash + cash, realized=book.realized + cash, fees=book.fees - cash))
    revalue(draft)


def _adjustments(draft: Draft) -> Adjusted:
    adjustments = draft.broker.adjusted
    return Adjusted(()) if isinstance(adjustments, UnsetType) else adjustments


def _keep_adjustments(draft: Draft, amounts: tuple[Decimal, ...], told_amounts: tuple[Decimal, ...] = ()) -> None:
    """Keep the newest cash adjustments and the lines that may explain them; UNSET without an adjustment."""
    new_adjustments = Adjusted(amounts[-ADJUSTED_MAX:], told_amounts[-ADJUSTED_MAX:]) if amounts else UNSET
    if new_adjustments != draft.broker.adjusted:
        draft.broker = replace(draft.broker, adjusted=new_adjustments)


def _take_adjusted_back(draft: Draft, event: BrokerReported) -> None:
    """Reverse a cash adjustment once ledger lines of the same sum arrived, which booked that cash again."""
    adjustments, twice = _adjustments(draft), _told_cash(draft) - event.cash
    if not (twice and adjustments.told) or draft.broker.filled or differing_positions(draft, event.positions):
        return
    of_lines = any(sum(some) == twice for some in _combinations_of(adjustments.told))
    booked_places = next(
        (some for some in _combinations_of(range(len(adjustments.amounts))) if _sum_of(adjustments, some) == twice), ()
    )
    if of_lines and booked_places:
        _adjust(draft, -twice)
        other_amounts = tuple(amount for at, amount in enumerate(adjustments.amounts) if at not in booked_places)
        _keep_adjustments(draft, other_amounts, adjustments.told)


def _note_taken_cash(draft: Draft, cash: Decimal) -> None:
    """Note cash that was taken over as a transfer: its ledger lines may come later."""
    former = draft.broker.taken_cash
    if cash:
        amounts = (*(() if isinstance(former, UnsetType) else former), cash)
        draft.broker = replace(draft.broker, taken_cash=amounts[-ADJUSTED_MAX:])
        note_takeover_day(draft, OF_CASH)


def _lines_of_taken_cash(draft: Draft, event: BrokerReported) -> tuple[Collection[str], Collection[str]]:
    """Return the ids of new lines whose cash was taken over before, and of lines that wait for the next report.

    Booked with their cash, the former would count it twice: lines of an amount that was taken over, or some of its day
    or earlier that sum to what would be too much, in two reports. Lines wait where the report is older than a fill or
    than another report, or where its cash fits neither reading: it cannot decide then.
    """
    amounts, broker = draft.broker.taken_cash, draft.broker
    if isinstance(amounts, UnsetType):
        return (), ()
    lines = [
        line for line in event.activities if line.status not in (*UNBOOKED, *AMENDED) and not _is_seen(draft, line)
    ]
    exact_lines = [line for line in lines if line.amount in amounts][-ADJUSTED_MAX:]
    fitting = [line for line in lines if line.amount and was_counted(draft, replace(line, symbol=OF_CASH))]
    unsure_ids = [line.id for line in lines if line in exact_lines or (line in fitting and not line.quantity)]
    if broker.filled or event.asked_ns < broker.asked_ns:
        return (), unsure_ids
    twice = _told_cash(draft) + sum((line.amount for line in lines), ZERO) - event.cash
    readings = chain(_combinations_of(exact_lines), (tuple(fitting),), _combinations_of(fitting[-TAKEN_LINES_MAX:]))
    some = next((some for some in readings if sum(line.amount for line in some) == twice), ()) if twice else ()
    if not twice or not some:
        return (), unsure_ids if twice else ()
    others = [line for line in some if line not in exact_lines]
    if any(line not in broker.waiting_lines for line in others):  # its cash may come a moment later
        return (), [line.id for line in some]
    left = list(amounts)
    for line in some:
        if line.amount in left:
            left.remove(line.amount)
    if others and left:
        left[-1] -= sum((line.amount for line in others), ZERO)
    draft.broker = replace(broker, taken_cash=tuple(amount for amount in left if amount) or UNSET)
    return [line.id for line in some], ()


def _sum_of(adjustments: Adjusted, places: tuple[int, ...]) -> Decimal:
    return sum((adjustments.amounts[place] for place in places), ZERO)


def _combinations_of(values: Sequence[T]) -> Iterator[tuple[T, ...]]:
    """Return all combinations of one or more values, the smallest first."""
    return chain.from_iterable(combinations(values, count) for count in range(1, len(values) + 1))


def on_broker_snapshot(draft: Draft, event: BrokerSnapshot) -> None:
    """Reconcile with the paper broker at a start: a journal without history adopts its cash, a difference halts.

    Paper broker and book come from the same journal, so a difference is a bug and there is nothing to settle.
    """
    if not draft.identity.by_tape:  # its state must not depend on the number of restarts
        draft.broker = replace(draft.broker, reported_ns=draft.now_ns)
    if draft.seq == 0 and not draft.orders and draft.book.cash == 0:
        if event.positions or event.open_orders:
            open_symbols = [p.symbol for p in event.positions] + list(event.open_orders)
            draft.halt("reconciliation", f"the account is not empty and this journal is new: {', '.join(open_symbols)}")
            return
        _adopt_cash(draft, event.cash)
        draft.risk = replace(draft.risk, reconciled=True)
        return
    differences = [
        *cash_and_positions(draft, event.cash, event.positions),
        *differing_orders(draft, frozenset(event.open_orders)),
    ]
    draft.risk = replace(draft.risk, reconciled=not differences)
    if differences:
        draft.halt("reconciliation", "; ".join(differences))


def on_broker_reported(draft: Draft, event: BrokerReported) -> None:
    """Take over what the report explains, then compare; remaining differences are judged.

    From a report requested before the newest known one, only the ledger's lines are used.
    """
    if not account_is_right(draft, event):
        return
    late = event.asked_ns < draft.broker.asked_ns <= event.time_ns
    draft.broker = replace(draft.broker, reported_ns=draft.now_ns)
    if not draft.broker.began_ns and not _begin(draft, event):
        return
    ended_count = len(event.ended_orders)
    orders = under_our_names(draft, (*event.ended_orders, *event.open_orders), event.asked_ns)
    event = replace(event, ended_orders=orders[:ended_count], open_orders=orders[ended_count:])
    accepts_broker = accepts(draft, event)
    note_closes(draft)
    _take_over_lines(draft, event)
    _book_lieu(draft, None if late else event.positions)
    if late:
        return
    if accepts_broker:
        accept(draft, event)
    _ask_for_the_missing(draft, event)
    count_refused_exits(draft, event)
    take_available(draft, event)
    if not draft.broker.filled:
        count_fractions(draft, event.positions)
    draft.desk.holds.note_positions(draft, event.positions)
    if leaving := [symbol for symbol in draft.basket.to_come if draft.exit_of(symbol) is not None]:
        # an exit does not wait for their lines
        _split_by_positions(draft, event.positions, leaving, draft.basket.splits)
        count_fractions(draft, event.positions)
    _compare(draft, event)
    note_account(draft, event)


def _take_over_lines(draft: Draft, event: BrokerReported) -> None:
    """Take over orders first, then their executions, then the ledger's other lines, each line once."""
    old_broker = draft.broker  # these orders were read before positions and cash, which include them
    event = _without_passage(draft, _with_waiting(draft, event))
    draft.lines = event.activities
    _split_before_fills(draft, event)
    for order in (*event.ended_orders, *event.open_orders):
        absorb(draft, order)
    for order in (*event.ended_orders, *event.open_orders):
        end_unheld_sale(draft, order)
    touch_times = {
        s: at_ns for s, at_ns in draft.broker.touched.items() if old_broker.filled.get(s, -1) >= event.asked_ns
    }
    draft.broker = replace(
        draft.broker, moved=old_broker.moved, filled=old_broker.filled, touched={**touch_times, **old_broker.touched}
    )  # keep the times of fills that came after the request; foreign trades wait for the next report
    for fill in event.fills:
        known = draft.find_order(fill.client_order_id)
        if known is not None and known.purpose != "foreign":
            take_fill(draft, fill)
            settle_cost(draft, fill)
    drop_sold_shares(draft)
    paid_ids, waiting_ids = _lines_of_taken_cash(draft, event)
    lines = in_order(event.activities, lambda line: line) if event.activities else ()  # most reports have none
    waiting = []
    for activity in lines:
        if activity.status == ANNOUNCED:
            note_announcement(draft, activity)
        elif activity.id in waiting_ids or _precedes(draft, activity, event.positions):
            waiting.append(activity)
        else:
            _book_once(draft, activity, event.positions, paid=activity.id in paid_ids)
    if tuple(waiting) != draft.broker.waiting_lines:
        draft.broker = replace(draft.broker, waiting=tuple(waiting) or UNSET)


def _with_waiting(draft: Draft, event: BrokerReported) -> BrokerReported:
    """Add the lines that wait to the report, because a report contains only new lines."""
    told = {line.id for line in event.activities}
    waiting = tuple(line for line in draft.broker.waiting_lines if line.id not in told)
    return replace(event, activities=(*waiting, *event.activities)) if waiting else event


def _without_passage(draft: Draft, event: BrokerReported) -> BrokerReported:
    """Drop lines of shares that came and left again on one day, of a symbol that is in no book.

    A second change of name on one day causes this, or an action that is reversed. The order of a day's lines is not
    known, and booked one by one they would add shares to those that they replace.
    """
    together: dict[tuple[str, str, date], list[Activity]] = {}
    for line in event.activities:
        moves = line.quantity and not line.amount and line.status not in (*UNBOOKED, *AMENDED)
        if line.kind in REORGANISED and moves and not _is_seen(draft, line):
            together.setdefault((line.kind, line.symbol, new_york_date(line.time_ns)), []).append(line)
    passed = [
        line
        for (_, symbol, _), lines in together.items()
        if not sum(line.quantity for line in lines) and not draft.expected(symbol)
        for line in lines
    ]
    for line in passed:
        _mark_seen(draft, line)
    return replace(event, activities=tuple([it for it in event.activities if it not in passed])) if passed else event


def _precedes(draft: Draft, line: Activity, positions: tuple[BrokerPosition, ...]) -> bool:
    """Return whether a line brings shares of a new name, merger or split before any line takes the old ones away.

    Such a line waits for up to a day: booked alone, it would add shares to those that it replaces. A split's brings all
    the shares that the broker has; one that tells the change alone does not. Shares of an exercise wait for the line of
    its contract.
    """
    symbol, of_split = line.symbol, line.kind in SPLITS
    if line.kind == "OPTRD" and line.status not in (*UNBOOKED, *AMENDED) and not _is_seen(draft, line):
        return precedes_its_contract(draft, line, {it.symbol: exact(it.quantity) for it in positions})
    if not (of_split or line.kind in REPLACED) or line.quantity <= 0 or line.amount or line.status == "pending":
        return False
    replaceable = draft.desk.holds.by_basket and draft.book.positions and draft.held(symbol) >= 0
    if not replaceable or _is_seen(draft, line) or was_counted(draft, line):
        return False
    brings_all = _quantity_of(symbol, positions) == line.quantity != draft.expected(symbol) > 0
    if of_split and (not brings_all or was_taken_over(draft, line)):
        return False
    leaves = any(
        it.kind == line.kind and it.quantity < 0 and it.status != ANNOUNCED and (it.symbol == symbol or not of_split)
        for it in draft.lines
    )
    has_left = any(it.kind == line.kind for it in draft.basket.leavers) or have_left_for(draft, line)
    days = new_york_date(draft.now_ns) - new_york_date(line.time_ns)
    return not leaves and not has_left and days <= timedelta(days=1)


def _book_once(draft: Draft, line: Activity, positions: tuple[BrokerPosition, ...], *, paid: bool = False) -> None:
    """Book a line not seen before; `paid`: its cash was taken over already, so only its shares are booked."""
    if line.status == "pending" or not _mark_seen(draft, line):
        return
    if line.status not in AMENDED and _has_split(draft, line, positions):
        note_told(draft, line)
        return
    if paid:
        line = replace(line, amount=ZERO)
        if not line.quantity or line.kind in INCOME:
            return
    if line.kind in CONTRACT_ENDS and not line.amount and _was_end_counted(draft, line, positions):
        return
    if line.amount:
        adjustments = _adjustments(draft)
        _keep_adjustments(draft, adjustments.amounts, (*adjustments.told, line.amount))
    if line.kind == CASH_IN_LIEU and line.status not in AMENDED:
        draft.basket = replace(draft.basket, lieu=(*draft.basket.early_lieu, line))
        return
    strangers = _strangers(draft, line, positions)
    if strangers is None:
        dispute(draft, line)
        return
    if strangers:
        note_strangers(draft, line, strangers)
    if line.kind in TAKES_CONTRACTS and line.symbol + STRANGE in draft.broker.seen:
        hold_foreign(draft, line.symbol, _ending_of_others(draft, line, positions))
    with draft.because(cause_of(line)):
        book_activity(draft, line)


def _strangers(draft: Draft, line: Activity, positions: tuple[BrokerPosition, ...]) -> Quantity | None:
    """Return the shares in no book that the line takes away or changes with the desk's; None where that is not clear.

    They belong to a person, and stay unexplained with `foreign_orders = "halt"`. The line is about the whole account:
    without them all of it would be the desk's.
    """
    symbol, expected = line.symbol, draft.expected(line.symbol)
    if line.kind not in SPLITS | REORGANISED or line.status in AMENDED or was_counted(draft, line):
        return 0
    if not draft.held(symbol) or draft.basket.left_by(line) or (line.kind in SPLITS and was_taken_over(draft, line)):
        return 0
    others = (it for it in draft.lines if it.symbol == symbol and it.kind in SPLITS)
    if line.kind not in SPLITS or any(it.quantity * line.quantity < 0 for it in others):  # all leave, then all come
        leavers = draft.counted(-line.quantity - expected)
        return leavers if leavers >= 1 else 0
    quantity, beyond = _quantity_of(symbol, positions), draft.broker.beyond_of(symbol)
    without_fraction = expected - draft.broker.beside_fractions.get(symbol, 0)  # it may be this split's
    if beyond < 1 or quantity in (expected, expected + line.quantity, without_fraction + line.quantity):
        return 0
    if line.quantity < 0 and _is_plain_split(expected + beyond, line.quantity):
        return beyond
    before = draft.counted(quantity - line.quantity - expected)  # where positions show the split
    fitting = [it for it in {beyond, before} if it >= 1 and _is_plain_split(expected + it, line.quantity)]
    return fitting[0] if len(fitting) == 1 else None


def _was_end_counted(draft: Draft, line: Activity, positions: tuple[BrokerPosition, ...]) -> bool:
    """Return whether the contracts that the line ends were taken over before with the shares that they became."""
    symbols = (line.symbol, root_of(line.symbol)) if line.kind in EXERCISED else (line.symbol,)
    counted = all(was_counted(draft, replace(line, symbol=symbol)) for symbol in symbols)
    return counted and _quantity_of(line.symbol, positions) == draft.expected(line.symbol)


def _ending_of_others(draft: Draft, line: Activity, positions: tuple[BrokerPosition, ...]) -> int:
    """Return how many contracts that the line ends are others' and in no book: the report ends more than are missing.

    Theirs end first.
    """
    symbol, lines = line.symbol, draft.lines
    to_come = [it for it in lines if it.kind in TAKES_CONTRACTS and it.symbol == symbol and not _is_seen(draft, it)]
    count, ended = (whole_of(total(abs(exact(it.quantity)) for it in some)) for some in ([line], [line, *to_come]))
    missing = whole_of(draft.expected(symbol) - exact(_quantity_of(symbol, positions)))
    return max(min(count, ended - missing), 0) if draft.held(symbol) > 0 else 0


def _is_plain_split(quantity: Quantity, change: Decimal) -> bool:
    return plain_ratio(Decimal(quantity), quantity + change, SPLIT_RATIO) is not None


def _has_split(draft: Draft, line: Activity, positions: tuple[BrokerPosition, ...]) -> bool:
    """Return whether a split was taken over with the broker's quantity before its line; small ones have no known ratio.

    False where others hold the symbol too: only the line shows whose the new shares are.
    """
    alone = line.kind in SPLITS and not draft.broker.foreign_held.get(line.symbol)
    return alone and was_counted(draft, line) and _has_all(draft, line.symbol, positions)


def _book_lieu(draft: Draft, positions: tuple[BrokerPosition, ...] | None) -> None:
    """Book cash in lieu, except for a split whose line is still awaited: it pays for a part of the new shares.

    `positions` is None where the report is older than one already known.
    """
    early = draft.basket.early_lieu
    for line in early:
        is_held = draft.desk.holds.by_basket and line.symbol in draft.book.positions
        leaver = _all_paid_out(draft, line.symbol, positions) if is_held else None
        new_line = line if positions is None else _with_its_fraction(draft, line, positions)
        if is_held and leaver is None and _comes_early(draft, new_line, positions):
            continue
        draft.basket = replace(draft.basket, lieu=tuple(other for other in draft.basket.early_lieu if other != line))
        if leaver is not None:
            draft.basket = replace(draft.basket, leavers=tuple(it for it in draft.basket.leavers if it != leaver))
            new_line = replace(line, kind=leaver.kind, quantity=-Decimal(leaver.quantity))
        elif is_held and positions is not None and _has_all(draft, line.symbol, positions):
            note_paid_out(draft, line)
        with draft.because(cause_of(new_line)):
            book_activity(draft, new_line)
    if early and not draft.basket.early_lieu:
        draft.basket = replace(draft.basket, lieu=UNSET)


def _with_its_fraction(draft: Draft, line: Activity, positions: tuple[BrokerPosition, ...]) -> Activity:
    """Return cash in lieu with the fraction that the broker took for it, where the line names none.

    This may be less than the book's fraction: the desk may have bought since.
    """
    missing = _before_lack(draft, line.symbol) - _quantity_of(line.symbol, positions)
    unsaid = draft.fractional and not line.quantity
    return replace(line, quantity=-missing) if unsaid and 0 < missing < 1 else line


def _has_all(draft: Draft, symbol: str, positions: tuple[BrokerPosition, ...]) -> bool:
    return _quantity_of(symbol, positions) == _before_lack(draft, symbol)


def _before_lack(draft: Draft, symbol: str) -> Quantity:
    """Return the quantity expected at the broker, without the deduction of a missing fraction that is in no book."""
    return draft.expected(symbol) - min(draft.broker.beside_fractions.get(symbol, 0), 0)


def _quantity_of(symbol: str, positions: Iterable[BrokerPosition]) -> Decimal:
    return next((position.quantity for position in positions if position.symbol == symbol), ZERO)


def _all_paid_out(draft: Draft, symbol: str, positions: tuple[BrokerPosition, ...] | None) -> Leaver | None:
    """Return the desk's shares that a split removed entirely, as less than one new share; None without any.

    None also where others held some: only their fractions would show whose the cash is.
    """
    if positions is None or any(position.symbol == symbol for position in positions):
        return None
    if draft.broker.foreign_held.get(symbol) or symbol in draft.broker.owners.closes:
        return None
    split_leavers = (it for it in draft.basket.leavers if it.symbol == symbol and it.kind in SPLITS)
    return next((it for it in split_leavers if it.quantity == draft.held(symbol)), None)


def _comes_early(draft: Draft, line: Activity, positions: tuple[BrokerPosition, ...] | None) -> bool:
    """Return whether cash in lieu of a held symbol arrived before the line of its split, and has to wait for it.

    Where the market does not show the split, it waits for up to a day: while the split's old shares have left alone, or
    while the position is missing or unexplained. A desk of whole shares ignores deviations below one share, which may
    be trades of others or the split itself. A desk with fractions waits until the broker has taken the fraction, which
    neither positions nor line may show.
    """
    symbol, fraction = line.symbol, lieu_fraction(draft, line) or abs(exact(line.quantity))
    if symbol in draft.basket.splits or positions is None:
        return True
    broker_position = next((position for position in positions if position.symbol == symbol), None)
    if _shows_split(draft, symbol, broker_position):
        return True
    quantity, expected = ZERO if broker_position is None else broker_position.quantity, draft.expected(symbol)
    days = new_york_date(draft.now_ns) - new_york_date(line.time_ns)
    has_left = any(it.symbol == symbol and it.kind in SPLITS for it in draft.basket.leavers)
    doubtful = broker_position is None or draft.fractional or abs(quantity - expected) >= 1
    taken = quantity == _before_lack(draft, symbol) - fraction or (quantity == expected and was_paid_out(draft, line))
    return days <= timedelta(days=1) and (has_left or (doubtful and not taken))


def _told_cash(draft: Draft) -> Decimal:
    """Return the account's cash by all ledger lines received, booked or waiting."""
    return draft.book.cash + sum((line.amount for line in draft.basket.early_lieu), ZERO)


def _split_before_fills(draft: Draft, event: BrokerReported) -> None:
    """Book a split or a new name before the fills that followed it: a stop that rested through it sold new shares."""
    booked_lines = [line for line in event.activities if line.status not in UNBOOKED]
    for symbol in {
        line.symbol: None for line in booked_lines if line.kind in SPLITS and line.symbol in draft.book.positions
    }:
        lines = [line for line in booked_lines if line.symbol == symbol and line.kind in SPLITS]
        _book_before_fills(draft, event, lines, symbol, symbol)
    for order in (*event.ended_orders, *event.open_orders):
        own_order = own_or_guards(draft, order)
        if own_order is not None and order.filled > own_order.filled and has_new_name(own_order, order):
            names = (own_order.symbol, order.symbol)
            lines = [line for line in booked_lines if line.symbol in names and line.kind in REORGANISED]
            _book_before_fills(draft, event, lines, *names)
    if event.asked_ns >= draft.broker.asked_ns:
        for symbol in tuple(draft.book.positions):
            _split_before_its_fills(draft, event, symbol)


def _split_before_its_fills(draft: Draft, event: BrokerReported, symbol: str) -> None:
    """Book a split that no line tells, where the report's position without its new fills shows it.

    The price of each fill must leap from the mark as a split's would.
    """
    mark, bought, sold, paid = draft.marks.get(symbol, ZERO), ZERO, ZERO, ZERO
    for order in _orders_with_fills(draft, event, symbol, draft.broker.asked_ns):
        known = draft.find_order(order.client_order_id) or draft.broker.foreign.get(order.client_order_id)
        old_quantity, old_cost = (0, ZERO) if known is None else (known.filled, known.cost)
        count, cost = order.filled - old_quantity, (order.average_price or ZERO) * order.filled - old_cost
        if mark <= 0 or cost <= 0 or factor(float(cost / count), float(mark)) < SPLIT_RATIO:
            return
        bought, sold, paid = (bought + count, sold, paid + cost) if order.side > 0 else (bought, sold + count, paid)
    position = next((it for it in event.positions if it.symbol == symbol), None)
    quantity = (ZERO if position is None else position.quantity) + sold
    if quantity <= bought or not (bought or sold):
        return
    cost = draft.book.positions[symbol].cost if position is None else position.average_price * quantity - paid
    former_position = BrokerPosition(symbol, quantity - bought, cost / (quantity - bought))
    if is_split(draft, symbol, former_position):
        _split_by_positions(draft, (former_position,), (symbol,), draft.basket.splits)


def _book_before_fills(draft: Draft, event: BrokerReported, lines: list[Activity], was: str, now: str) -> None:
    """Book these lines of shares formerly called `was` before the new fills of `now`, if there are any.

    Fills that the report dates before the lines are booked first, and so are orders of others that were sent before. A
    fill without a time counts as later.
    """
    since_ns = min((line.time_ns for line in lines), default=0)
    fills_before_split = [fill for fill in event.fills if fill.symbol == was and fill.filled_ns < since_ns]
    filled_quantities = {
        order.client_order_id: order.filled for order in _orders_with_fills(draft, event, now, since_ns)
    }
    for fill in fills_before_split:
        if draft.find_order(fill.client_order_id) is not None:
            take_fill(draft, fill)
        if filled_quantities.get(fill.client_order_id, -1) == fill.cumulative_quantity:
            del filled_quantities[fill.client_order_id]  # all of it filled before
    if filled_quantities:
        for order in (*event.ended_orders, *event.open_orders):
            if order.symbol == was and order.submitted_ns < since_ns and own_or_guards(draft, order) is None:
                absorb(draft, order)
        for line in in_order(lines, lambda line: line):
            _book_once(draft, line, event.positions)


def _orders_with_fills(draft: Draft, event: BrokerReported, symbol: str, since_ns: int) -> list[BrokerOrder]:
    """Return orders of desk and guard with fills not booked yet, and filled orders of others sent since `since_ns`."""
    orders = [order for order in (*event.ended_orders, *event.open_orders) if order.symbol == symbol and order.filled]
    filled = []
    for order in orders:
        own_order = draft.find_order(order.client_order_id) or draft.broker.foreign.get(order.client_order_id)
        of_others = not is_of_guard(draft, order) if own_order is None else own_order.purpose == "foreign"
        is_news = own_order is None or order.filled > own_order.filled
        if is_news and (not of_others or order.submitted_ns >= since_ns > 0):
            filled.append(order)
    return filled


def _mark_seen(draft: Draft, line: Activity) -> bool:
    """Mark the line as seen in this status; True when it is new. An amended line keeps its id."""
    return draft.first_time(_seen_name(line))


def _is_seen(draft: Draft, line: Activity) -> bool:
    return _seen_name(line) in draft.broker.seen


def _seen_name(line: Activity) -> str:
    return f"{line.id} {line.status}" if line.status in AMENDED else line.id


def _begin(draft: Draft, event: BrokerReported) -> bool:
    """Take over a journal's first report: its cash is the start; earlier ledger lines are not the desk's.

    The rule decides about foreign positions and open orders. Returns False while they block the start.
    """
    for line in event.activities:  # seen once: a later report does not repeat them
        if line.status not in UNBOOKED:
            _mark_seen(draft, line)
    foreign = [order for order in event.open_orders if not is_ours(draft, order.client_order_id)]
    rule, accepts_broker = draft.trading.broker.foreign_orders, accepts(draft, event)
    whole = [order.client_order_id for order in foreign if not is_fraction(draft, order)]
    open_symbols = [p.symbol for p in event.positions if abs(p.quantity) >= 1] + whole
    former = _held_by_former(draft, event)
    if (rule == "halt" or (rule == "ignore" and former)) and not accepts_broker and open_symbols:
        detail = f"the account is not empty and this journal is new: {', '.join(open_symbols)}"
        if former:
            cure = "set paths.state_dir to its folder, or rltraderctl accept-broker takes over what it held"
            detail += f"; {former} is of an earlier journal of this desk: {cure}"
        draft.risk = replace(draft.risk, reconciled=False)
        draft.halt("foreign_order", detail)
        return False
    draft.broker = replace(draft.broker, began_ns=event.asked_ns)
    _adopt_cash(draft, event.cash)
    first_rule = "adopt" if accepts_broker else rule
    for position in event.positions:
        take_over(draft, position.symbol, position, "ignore" if first_rule == "halt" else first_rule)
    if first_rule == "halt" and event.positions:  # all below one share: perhaps of this desk, which lost its journal
        symbols = names_of([f"{exact(position.quantity)} {position.symbol}" for position in event.positions])
        detail = f"this journal is new and counts what is below one share as others', beside its book: {symbols}"
        draft.alarm("fraction_beside", f"{detail}; where it is the desk's own, rltraderctl accept-broker takes it in")
    for order in foreign:
        met_at_begin(draft, order)
        end_former(draft, order)
    book = mark_book(draft, draft.book)
    draft.put_book(begin_book(book))
    return True


def _held_by_former(draft: Draft, event: BrokerReported) -> str:
    """Return an order by which an earlier journal's desk still holds shares, or may buy some; "" without one."""
    net: dict[str, Decimal] = {}
    orders = [*event.open_orders, *event.ended_orders]
    former_orders = [order for order in orders if is_of_former(draft, order.client_order_id)]
    for order in former_orders:
        net[order.symbol] = net.get(order.symbol, ZERO) + order.side * order.filled
    broker_symbols = {position.symbol for position in event.positions}
    holding = (o for o in former_orders if o.status not in ENDED or (o.symbol in broker_symbols and net[o.symbol] > 0))
    return next((order.client_order_id for order in holding), "")


def _adopt_cash(draft: Draft, cash: Decimal) -> None:
    draft.put_book(begin_book(replace(draft.book, cash=cash, equity=cash)))


def _ask_for_the_missing(draft: Draft, event: BrokerReported) -> None:
    """Look up by name each working order of ours that the broker does not list, before any verdict."""
    listed_names = {order.client_order_id for order in (*event.open_orders, *event.ended_orders)}
    for order in tuple(draft.orders.values()):
        due = order.submitted_ns < event.asked_ns and order.looked_up_ns < event.asked_ns
        if order.client_order_id not in listed_names and due and order.purpose != "foreign" and not order.in_hand:
            draft.look_up(order)


# --- differences --------------------------------------------------------------------------------------------------


def _compare(draft: Draft, event: BrokerReported) -> None:
    """Compare the report with the desk's state; where differences and a later fill coincide, request a new report."""
    halt_on_shorts(draft, event)
    _book_rounding(draft, event)
    _take_adjusted_back(draft, event)
    differences = tuple(all_differences(draft, event))
    if differences and draft.broker.filled:  # fills since the request
        draft.effects.append(AskBroker(f"filled since the report was asked for: {', '.join(draft.broker.filled)}"))
        return
    suspicion = draft.broker.suspicion
    if _await_lines(draft, event, differences):
        return
    stood = suspicion is not None and suspicion.differences == differences
    if differences and suspicion is not None and stood and event.asked_ns - suspicion.since_ns >= SETTLE_NS:
        judge(draft, event, differences)
        differences = tuple(all_differences(draft, event))
        _sight(draft, event)
        if _await_lines(draft, event, differences):
            return
        if differences:
            draft.risk = replace(draft.risk, reconciled=False)
            _let_stand(draft, event, differences)
            return
    _sight(draft, event)
    if not differences:
        _agree(draft, event)
        return
    draft.risk = replace(draft.risk, reconciled=False)
    if not stood:
        draft.broker = replace(draft.broker, suspicion=Suspicion(differences, event.asked_ns))
    if suspicion is None:  # a difference that changes waits for the next minute's report: no loop
        draft.effects.append(AskBroker("; ".join(differences)))


def _await_lines(draft: Draft, event: BrokerReported, differences: tuple[str, ...]) -> bool:
    """Return whether only awaited corporate actions differ: no verdict before their ledger lines arrive.

    The positions are known meanwhile, so the desk is not blind.
    """
    if not only_awaited_differ(draft, event.positions, differences):
        return False
    quantities = {position.symbol: position.quantity for position in event.positions}
    replaced = replaced_symbols(draft, event.positions)
    left = [symbol for symbol in replaced if quantities.get(symbol, ZERO) < draft.expected(symbol)]
    cure = "if nothing comes, rltraderctl accept-broker takes what the broker has"
    for symbol in sorted(left or replaced):
        what = "came by a corporate action, and no line tells it yet"
        if left:
            what = "left by a corporate action, and no line tells yet what comes for it"
        elif is_paid_for(draft, symbol):
            what = "was paid for by a corporate action, and no line takes the shares yet"
        text = f"{symbol} {what}: no new risk until then; {cure}"
        draft.alarm("shares_renamed", text, once=True, about=f"left {symbol}")
    suspicion = Suspicion(differences, event.asked_ns)
    draft.broker = replace(draft.broker, suspicion=suspicion, sighted_ns=draft.now_ns)
    draft.risk = replace(draft.risk, reconciled=False)
    return True


def _book_rounding(draft: Draft, event: BrokerReported) -> None:
    """Book the broker's rounding of cash for fractions: a cent for each fill of a fraction at most.

    `cash_tolerance_usd` stays for unexplained fees.
    """
    fills, cash = draft.broker.part_fills, event.cash - _told_cash(draft)
    if not fills or draft.broker.filled or differing_positions(draft, event.positions):
        return
    if cash and abs(cash) <= fills * CENT:
        book = draft.book
        with draft.because(Cause("rounding")):
            draft.put_book(replace(book, cash=book.cash + cash, realized=book.realized + cash))
        revalue(draft)
        cash = ZERO
    if not cash:
        draft.broker = replace(draft.broker, parted=UNSET)


def _agree(draft: Draft, event: BrokerReported) -> None:
    """Note that book and broker agree. This ends a halt by `cash_difference`, and no other halt.

    An order whose fate is unknown keeps the desk unreconciled, unless it is an entry that cannot come any more.
    """
    draft.broker = replace(draft.broker, suspicion=None, agreed_ns=draft.now_ns)
    _keep_adjustments(draft, _adjustments(draft).amounts)
    unknown = [order for order in draft.orders.values() if order.status in (SUBMITTED, UNKNOWN)]
    if draft.risk.reconciled or all(_is_overdue(event, order) for order in unknown):
        draft.risk = replace(draft.risk, reconciled=True)
        draft.case_over("broker_lost", "cash_unexplained")
    if not unknown:
        draft.case_over("unreconciled")
    for halt in draft.risk.halts:
        if halt.reason == "cash_difference":
            draft.end_halts(halt.reason)
            draft.alarm("cash_explained", f"book and broker agree again; halted before: {halt.detail}")


def _is_overdue(event: BrokerReported, order: Order) -> bool:
    """Return whether an entry past its validity was never shown by the broker, minutes after it was sent.

    It stays exposure, which the gates count, until its session is over.
    """
    listed = {it.client_order_id for it in (*event.open_orders, *event.ended_orders)}
    late = event.asked_ns > order.valid_until_ns and event.asked_ns - order.submitted_ns >= UNRECONCILED_NS
    is_entry = order.purpose == ENTRY and order.status == UNKNOWN and not order.known
    return late and is_entry and order.client_order_id not in listed


def _sight(draft: Draft, event: BrokerReported) -> None:
    """Note when the positions last agreed, and since when cash differs by more than a fee.

    Refused fills of others in a symbol that agrees are gone, or in the book.
    """
    broker, cash = draft.broker, abs(event.cash - _told_cash(draft))
    beyond = cash > draft.trading.broker.cash_tolerance_usd
    since_ns = (broker.cash_since_ns or event.asked_ns) if beyond else 0
    sighted_ns = broker.sighted_ns if differing_positions(draft, event.positions) else draft.now_ns
    apart = {*draft.basket.apart, *broker.touched, *broker.filled}
    refused = {name: entry for name, entry in broker.refused_fills.items() if entry[0] in apart}
    draft.broker = replace(broker, cash_since_ns=since_ns, sighted_ns=sighted_ns, refused=refused or UNSET)


def _let_stand(draft: Draft, event: BrokerReported, differences: tuple[str, ...]) -> None:
    """Raise an alarm where only cash differs, as its line may come later; otherwise, or after too long, halt."""
    session, since_ns = draft.session.session, draft.broker.cash_since_ns
    if len(differences) > 1 or not since_ns or differing_positions(draft, event.positions):
        draft.halt("reconciliation", "; ".join(differences))
        return
    draft.alarm("cash_unexplained", differences[0], once=True)
    if session is None or draft.session.ended or not session.open_ns <= draft.now_ns < session.close_ns:
        return
    limit_ns = draft.trading.broker.cash_halt_min * MINUTE_NS
    if draft.now_ns - max(since_ns, session.open_ns) >= limit_ns:
        draft.halt("cash_difference", f"{differences[0]}, for {limit_ns // MINUTE_NS} minutes of the session")
