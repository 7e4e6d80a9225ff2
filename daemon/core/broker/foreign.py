"""Orders and positions that the desk did not make: from a person, the broker, or another program.

`foreign_orders` selects the rule: `halt` (default), `ignore` (count them apart, book their cash as a transfer) or
`adopt` (book them as the desk's own). A foreign sale of what the desk holds is always noticed.

With `ignore`, a dividend or a corporate action belongs to who held at the close before its ex-date, so the quantities
at each close are kept. The desk's part is booked as its own, the rest as a transfer; quantities are whole, and what is
left over is the other's: of a split the desk has its own shares times the ratio, rounded down, and cash for a fraction
goes to whose the fraction was. A desk with fractions holds its own until that cash comes, which takes it. Where date or
owner is not known nothing is booked as the desk's, an alarm says so, and the symbol takes no new risk until a person
resumes the desk.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from decimal import ROUND_FLOOR, Decimal
from typing import NamedTuple

from msgspec.structs import replace

from daemon.core.book import CENT, OPTION_MULTIPLIER
from daemon.core.broker.fills import is_ours, note_part, note_touched, set_totals, total_cost, transfer, without_gain
from daemon.core.broker.protection import on_removed
from daemon.core.draft import Draft
from daemon.core.events import Activity, BrokerOrder
from daemon.core.instruments.option_market import is_contract, option_terms, parse_occ, root_of
from daemon.core.moves import Cause
from daemon.core.orders import ACCEPTED, BROKER_STATUS, CANCELED, ENDED, Order, advance, in_words, parse_name
from daemon.core.risk.splits import SPLIT_RATIO, plain_ratio
from daemon.core.session import new_york_date
from daemon.core.state import BROKER_MODES, ZERO, HeldAtClose, Owners
from strategies.kit.quantity import FINEST, Quantity, exact, floor_to, whole_of

NEW_NAME = ("NC", "SC")  # of the company, of its symbol
FOREIGN = "foreign"  # an order's purpose
GRID = Decimal("0.0001")  # of a share of a cost
SOLD_BY_OTHERS = Cause("foreign_order")


def on_foreign_order(draft: Draft, report: BrokerOrder, adopted: Order | None) -> None:
    """Apply the rule to an order that the desk did not send; `adopted` is the order as adopted before."""
    rule, ignored = draft.trading.broker.foreign_orders, report.client_order_id in draft.broker.foreign
    if adopted is None and not ignored:
        if report.submitted_ns < draft.broker.began_ns and report.status in ENDED:
            return  # from before this journal
        if is_ours(draft, report.client_order_id):  # the journal may be a copy of before: its name is taken
            if (name := parse_name(report.client_order_id)) is not None:
                draft.decision = max(draft.decision, name.decision)
            if report.status not in ENDED:  # an order of an earlier session is closed and forgotten
                _doubt(draft, report)
                _refuse(draft, report, "bears this desk's name, and its journal does not know it")
            return
    new = adopted is None and not ignored
    touches = _touches(draft, report, new=new)
    if touches:
        _doubt(draft, report)
    fraction, sold = is_fraction(draft, report), False
    if ignored or (new and fraction):  # an ignored order stays ignored
        taken, sold = "ignored", _ignore(draft, report)
    elif adopted is not None or rule == "adopt":
        taken = "adopted" if _adopt(draft, report, adopted) else ""
    elif rule == "ignore":
        taken, sold = "ignored", _ignore(draft, report)
    else:
        _refuse(draft, report, "was not sent by this desk")
        return
    whys = ["sold what this desk holds"] if sold else []
    whys += ["touches what this desk holds or works on"] if touches and not fraction else []
    if not _refuse(draft, report, *whys) and new and taken:  # one alarm for each order
        _report_foreign(draft, f"{taken}: {report.client_order_id} ({_describe(report)})")


def _touches(draft: Draft, report: BrokerOrder, *, new: bool) -> bool:
    """Return True for an order in a symbol that the desk held or worked on at the order's first news."""
    if new and _concerns(draft, report.symbol):
        draft.first_time(mark_of(report))
    return mark_of(report) in draft.broker.seen


def mark_of(report: BrokerOrder) -> str:
    """Return the name by which an order of others in what the desk holds or works on is remembered."""
    return f"{report.client_order_id} touches"


def _concerns(draft: Draft, symbol: str) -> bool:
    at_work = any(order.symbol == symbol and order.purpose != FOREIGN for order in draft.orders.values())
    return bool(draft.held(symbol)) or at_work or any(work.symbol == symbol for work in draft.works.values())


def _doubt(draft: Draft, report: BrokerOrder) -> None:
    """Mark the held quantity of the symbol as unknown until the next report, once for each news of the order."""
    if draft.first_time(f"{report.client_order_id} {report.status} {report.filled}"):
        note_touched(draft, report.symbol, f"somebody else's order {report.client_order_id} ({_describe(report)})")


def is_fraction(draft: Draft, report: BrokerOrder) -> bool:
    """Return True for less than one share: a reinvested dividend, and no share of a desk that holds whole ones.

    On a desk with fractions a sale is none: it may be of the desk's own.
    """
    if draft.contract_of(report.symbol) is not None or (draft.fractional and report.side < 0):
        return False
    quantity = report.quantity or (report.filled if report.status in ENDED else ZERO)  # ordered in USD: no quantity
    return 0 < quantity < 1


def on_cancel_by_others(draft: Draft, order: Order) -> None:
    """Halt when another party or the broker cancelled an order of the desk that was still wanted.

    Orders cancelled by the close or the end of an auction were over.
    """
    session = draft.session.session
    if draft.identity.mode not in BROKER_MODES or order.purpose == FOREIGN or order.cancel_asked_ns:
        return
    if session is None or draft.session.ended:
        return
    if draft.now_ns >= (session.open_ns if order.auction else session.close_ns):
        return
    note_touched(draft, order.symbol, f"somebody else cancelled {order.client_order_id}")
    if on_removed(draft, order):
        return
    draft.risk = replace(draft.risk, reconciled=False)
    draft.halt("foreign_order", f"order {order.client_order_id} was cancelled, and not by this desk")


def _refuse(draft: Draft, report: BrokerOrder, *whys: str) -> bool:
    """Halt, once for each filled quantity: reports repeat the order after every start. No fill, no halt.

    Returns whether an alarm tells of it: the first of these reasons that is new.
    """
    if not report.filled and report.status in ENDED:
        return False
    fresh = [why for why in whys if draft.first_time(f"{report.client_order_id} {report.filled} {why}")]
    if not fresh:
        return False
    draft.risk = replace(draft.risk, reconciled=False)
    return draft.halt("foreign_order", f"order {report.client_order_id} ({_describe(report)}) {fresh[0]}")


def _describe(report: BrokerOrder) -> str:
    return f"{in_words(report.side, report.quantity, report.symbol)}, {report.status}, filled {report.filled}"


def _report_foreign(draft: Draft, text: str) -> None:
    """Report an order of others; of those that a panic sends the first alone: it closes everything at once."""
    draft.alarm("foreign_order", text, once=draft.broker.stood_down, about="panic" if draft.broker.stood_down else "")


def _adopt(draft: Draft, report: BrokerOrder, order: Order | None) -> bool:
    """Book its fills as the desk's own; the sender keeps control of the order. False where it cannot be held."""
    if order is None:
        if not report.side or not can_hold(draft, report.symbol):
            _refuse(draft, report, "is of a kind that this desk cannot hold")
            return False
        order = _as_order(report)
        draft.put_order(order)
    if report.side < 0 and draft.held(report.symbol) < report.filled - order.filled:
        draft.risk = replace(draft.risk, reconciled=False)  # its purchase did not arrive yet, or it is short:
        return True  # the next report has all orders and the positions
    if set_totals(draft, order, report):
        now = draft.find_order(report.client_order_id)
        word = BROKER_STATUS.get(report.status, "")
        if now is not None and (word != "filled" or now.filled == now.quantity):
            moved = advance(now, word)
            if moved is not now:
                draft.put_order(moved)
    return True


def end_unheld_sale(draft: Draft, report: BrokerOrder) -> None:
    """End an adopted sale of more than the desk holds, by a report that has every purchase; nothing of it is booked.

    The position that it left differs from the book then, and has its own verdict.
    """
    order = draft.find_order(report.client_order_id)
    if order is None or order.purpose != FOREIGN or report.side > 0 or report.status not in ENDED:
        return
    if order.working and draft.held(report.symbol) < report.filled - order.filled:
        sold = replace(order, filled=exact(report.filled), cost=total_cost(draft, report))
        draft.put_order(advance(sold, "filled" if sold.filled == sold.quantity else "canceled"))
        draft.alarm(
            "foreign_order", f"{report.client_order_id} ({_describe(report)}): this desk did not hold all of that"
        )


def can_hold(draft: Draft, symbol: str) -> bool:
    """Return True for an option and for shares of the desk's own underlying: nothing else has a mark here."""
    return draft.contract_of(symbol) is not None or symbol in draft.spec.symbols


def _as_order(report: BrokerOrder) -> Order:
    """Return a foreign order before its first fill."""
    return Order(
        client_order_id=report.client_order_id,
        work="",
        purpose=FOREIGN,
        reason="by hand",
        symbol=report.symbol,
        side=report.side,
        quantity=exact(report.quantity),
        limit_price=report.limit_price,
        status=ACCEPTED,
        submitted_ns=report.submitted_ns,
        order_id=report.order_id,
    )


def met_at_begin(draft: Draft, report: BrokerOrder) -> None:
    """Handle an open order that exists when a journal begins: its fills are in cash and positions already."""
    adopts = draft.trading.broker.foreign_orders == "adopt" and not is_fraction(draft, report)
    rule = "adopted" if adopts else "ignored"
    _report_foreign(draft, f"{rule}: {report.client_order_id} ({_describe(report)})")
    order = replace(_as_order(report), filled=exact(report.filled), cost=total_cost(draft, report))
    if rule == "adopted":
        draft.put_order(order)
    else:
        draft.broker = replace(draft.broker, foreign={**draft.broker.foreign, report.client_order_id: order})


def _ignore(draft: Draft, report: BrokerOrder) -> bool:
    """Count its fills as foreign and book its cash as a transfer; True where it sold what the desk holds."""
    broker, before = draft.broker, draft.book
    order = broker.foreign.get(report.client_order_id) or _as_order(report)
    filled, cost, ended = exact(report.filled), total_cost(draft, report), report.status in ENDED
    came_late = filled < order.filled or (not ended and (order.status == CANCELED or cost < order.cost))
    if came_late or (filled and report.average_price is None):
        return False  # an old answer, a fraction of a share, or one in the middle of a change
    moved = replace(order, filled=filled, cost=cost, status=CANCELED if ended else ACCEPTED)
    draft.broker = replace(broker, foreign={**broker.foreign, report.client_order_id: moved})
    if (filled, cost) == (order.filled, order.cost):
        return False
    paid = -report.side * (cost - order.cost) * (OPTION_MULTIPLIER if is_contract(report.symbol) else 1)
    draft.put_book(replace(before, cash=before.cash + paid))
    hold_foreign(draft, report.symbol, report.side * (filled - order.filled))
    note_part(draft, filled - order.filled)
    gave_up = _give_up_sold(draft, report.symbol)
    with draft.because(SOLD_BY_OTHERS):
        without_gain(draft, before)
    return bool(gave_up)


def _give_up_sold(draft: Draft, symbol: str) -> Quantity:
    """Give up the part of the desk's position that others sold; returns how many."""
    foreign, own = draft.broker.foreign_held.get(symbol, 0), draft.held(symbol)
    if not foreign < 0 < own:
        return 0
    sold = min(own, -foreign)
    hold_foreign(draft, symbol, sold)
    keep_own(draft, symbol, own - sold)
    return sold


def give_up_sold(draft: Draft) -> None:
    """Give up what others sold of the desk's own before its purchase was reported."""
    for symbol in tuple(draft.broker.foreign_held):
        before = draft.book
        if sold := _give_up_sold(draft, symbol):
            with draft.because(SOLD_BY_OTHERS):
                without_gain(draft, before)
            draft.risk = replace(draft.risk, reconciled=False)
            draft.halt("foreign_order", f"others sold {sold} {symbol} that this desk holds")


def keep_own(draft: Draft, symbol: str, quantity: Quantity) -> None:
    """Keep `quantity` of the desk's position, at its share of the cost: another party sold the rest."""
    position = draft.book.positions[symbol]
    positions = {other: p for other, p in draft.book.positions.items() if other != symbol}
    if quantity:
        cost = (position.cost * quantity / position.quantity).quantize(GRID)
        positions = {**draft.book.positions, symbol: replace(position, quantity=quantity, cost=cost)}
    with draft.because(SOLD_BY_OTHERS):
        draft.put_book(replace(draft.book, positions=positions))


def hold_foreign(draft: Draft, symbol: str, quantity: Quantity) -> None:
    """Change the foreign quantity of `symbol` by `quantity`; what is sold beyond it was a fraction that lay beside."""
    foreign, beside = dict(draft.broker.foreign_held), draft.broker.unexplained
    foreign[symbol] = foreign.get(symbol, 0) + quantity
    if quantity < 0 and beside.get(symbol, 0) > 0 > foreign[symbol]:
        taken = min(beside[symbol], -foreign[symbol])
        foreign[symbol] += taken
        draft.broker = replace(draft.broker, beside={**beside, symbol: beside[symbol] - taken})
    draft.broker = replace(draft.broker, foreign_held={s: q for s, q in foreign.items() if q})


CLOSES_MAX = 64  # of a symbol: changes of what was held, the oldest goes first
PAID_WITHIN = timedelta(days=100)  # a dividend after its ex-date
BEGUN = "0"  # noted before any close is known: earlier than any date
FRACTION = Decimal(1)


def note_closes(draft: Draft) -> None:
    """Keep what desk and others held at the last close, once for each close, before later lines are booked."""
    session, owners = draft.session.session, draft.broker.owners
    if session is None:
        return
    over = draft.session.ended or draft.now_ns >= session.close_ns  # its end may come after the first report
    closed = session.date if over else draft.session.previous
    if owners.noted and closed <= owners.noted:
        return
    foreign = draft.broker.foreign_held
    for symbol, quantity in draft.broker.unexplained.items():
        if draft.first_time(f"beside {symbol} {quantity}"):
            draft.alarm("fraction_beside", f"{quantity} {symbol} that no order and no line of the ledger explains")
    closes = {}
    for symbol in {**owners.closes, **foreign}:
        history, now = owners.closes.get(symbol, ()), (draft.held(symbol), foreign.get(symbol, 0))
        if not history or (history[-1].own, history[-1].others) != now:
            first = "" if not owners.noted and not now[0] else closed  # a desk that begins has held nothing yet
            history = (*history, HeldAtClose(first, *now))[-CLOSES_MAX:]
        if any(one.others for one in history):
            closes[symbol] = history
    _note(draft, replace(owners, noted=closed or BEGUN, closes=closes))


def share_of(draft: Draft, line: Activity, *, cash: bool, replaces: bool) -> tuple[Quantity, Quantity] | None:
    """Return what desk and others held of the line's symbol when it counted; None where that is not known.

    `cash`: it pays for what was held before its ex-date, maybe weeks ago. Other lines come on the day they count.
    `replaces`: it brings shares for others, which left by another line.
    """
    owners, foreign = draft.broker.owners, draft.broker.foreign_held
    closes = owners.closes.get(line.symbol, ())
    if cash and line.symbol in owners.lieu:
        return (1, 1)  # by its fractions, see `_cash_part`
    if replaces and (left := list(_left_for(draft, line).values())):
        return left[-1] if _alike(left) else None
    if not closes and not foreign.get(line.symbol):
        if replaces and foreign and _holds_shares(draft):
            return None  # shares of a spin-off, or in place of what is not known to have left
        desks = not foreign or draft.held(line.symbol) or line.symbol in draft.spec.symbols or not line.symbol
        return (1, 0) if desks else (0, 1)
    day = new_york_date(line.time_ns)
    if line.ex_date or not cash:
        earlier = [one for one in closes if one.date < (line.ex_date or day.isoformat())]
        return (earlier[-1].own, earlier[-1].others) if earlier and earlier[-1].own + earlier[-1].others else None
    return _all_alike(closes, (day - PAID_WITHIN).isoformat(), day.isoformat(), draft.counted(line.quantity))


def _left_for(draft: Draft, line: Activity) -> dict[str, tuple[Quantity, Quantity]]:
    """Return own and others' of the shares that the line's may replace: of its symbol, or as many, or by its kind."""
    moves = draft.broker.owners.moves
    if (same := f"{line.kind} {line.symbol}") in moves:
        return {same: moves[same]}
    fitting = {name: parts for name, parts in moves.items() if name.startswith(f"{line.kind} ")}
    return {name: parts for name, parts in fitting.items() if sum(parts) == line.quantity} or fitting


def _holds_shares(draft: Draft) -> bool:
    return any(not position.right for position in draft.book.positions.values())


def _alike(parts: list[tuple[Quantity, Quantity]]) -> bool:
    """Return True where own and others' stand in one proportion everywhere."""
    own, others = parts[0]
    return all(own * more == others * mine for mine, more in parts)


def _all_alike(
    closes: tuple[HeldAtClose, ...], since: str, until: str, quantity: Quantity
) -> tuple[Quantity, Quantity] | None:
    """Return what was held at every close from `since` to `until`, where it was the same in proportion.

    Only closes with `quantity` shares in all count, where the line names how many it pays for.
    """
    earlier = [one for one in closes if one.date < since]
    within = [*earlier[-1:], *(one for one in closes if since <= one.date < until)]
    pairs = {(one.own, one.others) for one in within if one.own + one.others}
    pairs = {pair for pair in pairs if sum(pair) == quantity} or pairs
    if not pairs:
        return None
    return next(iter(pairs)) if _alike(list(pairs)) else None


def part_of(draft: Draft, line: Activity, own: Quantity, others: Quantity, *, moves: bool) -> Activity | None:
    """Book the others' part of the line, and return the desk's; None where nothing of it is the desk's.

    `moves`: the line takes all shares away, or brings what replaces them.
    """
    old = _replaced_by(draft, line) if moves and line.quantity > 0 else line.symbol
    if moves and line.kind != "OPTRD":
        _note_move(draft, line, own, others)
    if not others:
        return line
    cut = _cut_to_whole(draft, line, old, own, own + others, moves=moves) if own else None
    if own:
        line = _without_beside(draft, line, old, own + others, moves=moves)
    whole = own + others
    quantity, amount = line.quantity * own / whole, _cash_part(draft, line, own, whole)
    amount = amount.quantize(CENT, rounding=ROUND_FLOOR) if own else ZERO
    if cut is not None and not draft.fractional:
        quantity = cut.due if moves else cut.due - own
        _hold_of_cut(draft, line.symbol, cut, joins=line.symbol != old)
    elif moves:
        hold_foreign(draft, line.symbol, draft.counted(line.quantity) - draft.counted(quantity))
    elif line.quantity:
        total = draft.held(line.symbol) + draft.broker.foreign_held.get(line.symbol, 0)
        desk = draft.counted(draft.held(line.symbol) + quantity) if own else 0
        after = draft.counted(total + line.quantity)
        hold_foreign(draft, line.symbol, after - desk - draft.broker.foreign_held.get(line.symbol, 0))
    if cut is not None:
        less = own / whole if draft.fractional else (cut.due - draft.counted(cut.due)) / cut.paid
        _note_lieu(draft, line.symbol, Decimal(less))
    elif line.quantity > 0 or (line.quantity and not moves):
        _note_fractions(draft, line, own, whole, moves=moves)
    if line.amount != amount:
        transfer(draft, line.amount - amount)
    return replace(line, quantity=quantity, amount=amount) if own else None


class _Cut(NamedTuple):
    """How many new shares are due to the desk, and how many of all the broker pays for in place of giving them."""

    due: Decimal
    paid: Decimal
    both: Decimal  # due to desk and others
    there: Decimal  # new shares of the account


def _cut_to_whole(draft: Draft, line: Activity, old: str, own: Quantity, held: Quantity, *, moves: bool) -> _Cut | None:
    """Return what is due for `own` of the `held` shares where the broker cut the new ones to whole ones; else None."""
    before = Decimal(held + max(draft.broker.unexplained.get(old, 0), 0))
    total = line.quantity + (ZERO if moves else before)
    if total <= 0 or total % 1 or not line.quantity or line.kind == "OPTRD":
        return None
    new, former = plain_ratio(before, total, SPLIT_RATIO) or (total, before)
    paid = before * new / former - total
    return _Cut(own * new / former, paid, held * new / former, total) if paid > FINEST else None


def _hold_of_cut(draft: Draft, symbol: str, cut: _Cut, *, joins: bool) -> None:
    """Hold whole shares of what is due to desk and others as these two's, and the rest as one that lies beside.

    Under another name they join what others hold of that.
    """
    both = min(draft.counted(cut.both), exact(cut.there))
    desk = min(draft.counted(cut.due), both)
    hold_foreign(draft, symbol, both - desk - (0 if joins else draft.broker.foreign_held.get(symbol, 0)))
    if joins:
        return
    beside = {other: crumb for other, crumb in draft.broker.unexplained.items() if other != symbol}
    rest = exact(cut.there) - both
    draft.broker = replace(draft.broker, beside={**beside, symbol: rest} if rest else beside)


def _replaced_by(draft: Draft, line: Activity) -> str:
    """Return the symbol of the shares that left for those that the line brings; its own where none is known."""
    return next(reversed(_left_for(draft, line)), f"{line.kind} {line.symbol}").removeprefix(f"{line.kind} ")


def _without_beside(draft: Draft, line: Activity, old: str, held: Quantity, *, moves: bool) -> Activity:
    """Return the line of what desk and others `held` of `old`: a fraction that lies beside has its own part.

    Where shares leave, the fraction stays until those come that replace it too.
    """
    beside = dict(draft.broker.unexplained)
    crumb = beside.get(old, 0)
    if crumb <= 0 or not line.quantity or line.kind == "OPTRD":
        return line
    if moves and line.quantity < 0:
        return replace(line, quantity=line.quantity + crumb) if -line.quantity >= held + crumb else line
    part = floor_to(line.quantity * crumb / (held + crumb), FINEST)
    kept = 0 if moves else crumb
    del beside[old]
    draft.broker = replace(draft.broker, beside={**beside, line.symbol: beside.get(line.symbol, 0) + kept + part})
    return replace(line, quantity=line.quantity - part)


def _cash_part(draft: Draft, line: Activity, own: Quantity, whole: Quantity) -> Decimal:
    """Return the desk's part of the line's cash: of cash in lieu by the fractions of a share that it is for."""
    lieu = draft.broker.owners.lieu
    if line.kind != "CIL" or line.symbol not in lieu:
        return line.amount * own / whole
    part = lieu[line.symbol]
    _note(draft, replace(draft.broker.owners, lieu={s: one for s, one in lieu.items() if s != line.symbol}))
    return line.amount * part


def fraction_paid(draft: Draft, line: Activity) -> Quantity:
    """Return which fraction of a share this cash in lieu takes from the account; 0 on a desk of whole shares.

    A line that does not say how much takes what the account has beyond whole shares.
    """
    if not draft.fractional:
        return 0
    beyond = draft.expected(line.symbol)
    return abs(exact(line.quantity)) or max(beyond - whole_of(beyond), 0)


def take_fraction(draft: Draft, symbol: str, paid: Quantity, own: Quantity, others: Quantity) -> Quantity:
    """Take the others' part of a fraction that is paid out from them; returns the desk's, which is still to be booked.

    `own` and `others` are in the proportion in which both held, where no split or merger left the fraction.
    """
    part = draft.broker.owners.lieu.get(symbol, Decimal(own) / (own + others))
    gone = min(exact((paid * part).quantize(FINEST)), max(draft.held(symbol), 0))
    theirs = min(paid - gone, max(draft.broker.foreign_held.get(symbol, 0), 0))
    if theirs:
        hold_foreign(draft, symbol, -theirs)
    return gone


def _note_fractions(draft: Draft, line: Activity, own: Quantity, whole: Quantity, *, moves: bool) -> None:
    """Keep which part of the cash in lieu to come is the desk's."""
    total = line.quantity if moves else whole + line.quantity
    all_of_it, desks = total % FRACTION, (total * own / whole) % FRACTION
    if all_of_it:
        _note_lieu(draft, line.symbol, desks / all_of_it)


def _note_lieu(draft: Draft, symbol: str, part: Decimal) -> None:
    owners = draft.broker.owners
    _note(draft, replace(owners, lieu={**owners.lieu, symbol: min(part, FRACTION)}))


def _note_move(draft: Draft, line: Activity, own: Quantity, others: Quantity) -> None:
    """Keep how many shares of each left until their replacement comes; not where the desk is alone in the account."""
    owners = draft.broker.owners
    moves = owners.moves
    if line.quantity > 0:
        replaced = list(_left_for(draft, line))[-1:]
        moves = {name: parts for name, parts in moves.items() if name not in replaced}
    elif line.quantity < 0 and (others or draft.broker.foreign_held or owners.closes):
        moves = {**moves, f"{line.kind} {line.symbol}": (own, others) if others else (-draft.counted(line.quantity), 0)}
    closes = owners.closes
    if line.quantity > 0 and line.kind in NEW_NAME and line.symbol not in closes:  # a dividend comes weeks later
        former = closes.get(_replaced_by(draft, line), ())
        closes = {**closes, line.symbol: former} if former else closes
    if moves != owners.moves or closes is not owners.closes:
        _note(draft, replace(owners, moves=moves, closes=closes))


def forget_leavers(draft: Draft, symbol: str) -> None:
    """Forget shares of a symbol that left for others, or are owed by contracts: the broker's figure was taken over."""
    basket, owners = draft.basket, draft.broker.owners
    if any(it.symbol == symbol for it in basket.leavers):
        draft.basket = replace(basket, leavers=tuple(it for it in basket.leavers if it.symbol != symbol))
    moves = {name: parts for name, parts in owners.moves.items() if name.partition(" ")[2] != symbol}
    owed = {contract: parts for contract, parts in owners.owed.items() if root_of(contract) != symbol}
    if (moves, owed) != (owners.moves, owners.owed):
        _note(draft, replace(owners, moves=moves, owed=owed))


def dispute(draft: Draft, line: Activity) -> None:
    """Book nothing of the line as the desk's: its cash is a transfer, its symbol takes no new risk."""
    owners = draft.broker.owners
    if line.amount:
        transfer(draft, line.amount)
    if line.symbol not in owners.disputed:
        _note(draft, replace(owners, disputed=(*owners.disputed, line.symbol)))
    why = f"{line.kind} {line.symbol} {line.quantity} {line.amount} USD: whose it is, is not known"
    draft.alarm("owner_unknown", why, once=True, about=f"{line.kind} {line.symbol}")


def settle_disputes(draft: Draft) -> None:
    """A person has looked: the disputed symbols take new risk again."""
    if draft.broker.owners.disputed:
        _note(draft, replace(draft.broker.owners, disputed=()))


# --- options ----------------------------------------------------------------------------------------------------------


def contracts_of_the_desk(draft: Draft, line: Activity, *, exercised: bool) -> tuple[int, int]:
    """Return how many contracts of desk and others end by the line; theirs go first: they chose to, we never do.

    An exercise or assignment notes how many shares each side is owed by it.
    """
    foreign, own = draft.broker.foreign_held.get(line.symbol, 0), abs(draft.held(line.symbol))
    count = whole_of(abs(exact(line.quantity)) or own + abs(foreign))
    if not own and not foreign and _is_settled(draft, line.symbol, count):
        return 0, 0
    theirs = min(count, whole_of(abs(foreign))) if foreign else count if not own and draft.broker.foreign_held else 0
    ours = min(count - theirs, whole_of(own))
    if foreign:
        hold_foreign(draft, line.symbol, -theirs if foreign > 0 else theirs)
    contract = parse_occ(line.symbol)
    if exercised and contract is not None and (ours or theirs):
        owners = draft.broker.owners
        before = owners.owed.get(line.symbol, (0, 0))
        owed = {**owners.owed, line.symbol: (before[0] + ours, before[1] + theirs)}
        _note(draft, replace(owners, owed=owed))
    return ours, theirs


def cash_of_the_desk(draft: Draft, line: Activity, ours: Quantity, theirs: Quantity) -> Decimal:
    """Book the others' part of the cash of contracts, and return the desk's: of what is gone by the last close."""
    closes = draft.broker.owners.closes.get(line.symbol, ())
    ended = next(((one.own, one.others) for one in reversed(closes) if one.own or one.others), (1, 0))
    own, others = (ours, theirs) if ours or theirs else ended
    desks: Decimal = (line.amount * abs(own) / (abs(own) + abs(others))).quantize(CENT, rounding=ROUND_FLOOR)
    if desks != line.amount:
        transfer(draft, line.amount - desks)
    return desks


def _is_settled(draft: Draft, symbol: str, count: int) -> bool:
    """Return whether the shares of so many contracts were booked from the positions."""
    shares = count * OPTION_MULTIPLIER
    return any(settled_without(draft, root_of(symbol), moved) is not None for moved in (shares, -shares))


def settled_without(draft: Draft, root: str, shares: int) -> tuple[tuple[str, int], ...] | None:
    """Return what was booked from the positions, but for the shares of a line; None where it was not so many.

    The shares of one contract may come in several lines, those of several in any order.
    """
    settled = list(draft.broker.settled)
    if (root, shares) in settled:
        settled.remove((root, shares))
        return tuple(settled)
    alike = [one for one in settled if one[0] == root and one[1] * shares > 0]
    left = sum(one[1] for one in alike) - shares
    if left * shares < 0 or not alike:
        return None
    return (*(one for one in settled if one not in alike), *([(root, left)] if left else []))


def whole_shares(line: Activity) -> int:
    """Return the shares of a line of the ledger that moves whole ones: of an exercise or assignment, in hundreds."""
    return whole_of(exact(line.quantity))


def shares_of_the_desk(draft: Draft, line: Activity) -> Activity | None:
    """Book the others' shares of an exercise or assignment, and return the desk's part; None where it has none.

    The contracts that ended by the lines before say whose they are. Where none did, and both hold contracts that could
    have, nobody knows.
    """
    broker = draft.broker
    if settled_without(draft, line.symbol, whole_shares(line)) is not None:
        return line
    contract = _ended_for(draft, line)
    if contract is not None:
        owed, count = broker.owners.owed, max(abs(whole_shares(line)) // OPTION_MULTIPLIER, 1)
        own, others = owed[contract]
        theirs = min(count, others)
        ours = min(count - theirs, own)
        left = (own - ours, others - theirs)
        rest = {symbol: one for symbol, one in owed.items() if symbol != contract}
        _note(draft, replace(broker.owners, owed={**rest, contract: left} if any(left) else rest))
        return part_of(draft, line, ours, count - ours, moves=True)
    if not broker.foreign_held:
        return line
    mine, others_have = (_of_root(line.symbol, held) for held in (draft.book.positions, broker.foreign_held))
    if mine and (others_have or any(_of_root(line.symbol, (symbol,)) for symbol in broker.owners.owed)):
        dispute(draft, line)
        return None
    return part_of(draft, line, *((1, 0) if mine else (0, 1)), moves=True)


def _ended_for(draft: Draft, line: Activity) -> str | None:
    """Return the contract that ended for these shares, by its strike and then their number; None where none did.

    Shares that come are a call's before they are a short put's, and so the other way round.
    """
    owed, shares = draft.broker.owners.owed, abs(whole_shares(line))
    ended = [symbol for symbol in owed if _of_root(line.symbol, (symbol,))]
    ended = [symbol for symbol in ended if option_terms(symbol)[1] * line.quantity > 0] or ended
    priced = [symbol for symbol in ended if Decimal(repr(option_terms(symbol)[0])) * shares == abs(line.amount)]
    if not priced and len(ended) > 1:
        return None
    as_many = [symbol for symbol in priced if sum(owed[symbol]) * OPTION_MULTIPLIER == shares]
    return next(iter(as_many or priced or ended), None)


def _of_root(root: str, symbols: Iterable[str]) -> bool:
    """Return True where one of the symbols is a contract of this underlying."""
    return any((contract := parse_occ(symbol)) is not None and contract.root == root for symbol in symbols)


def _note(draft: Draft, owners: Owners) -> None:
    draft.broker = replace(draft.broker, owners=owners)
