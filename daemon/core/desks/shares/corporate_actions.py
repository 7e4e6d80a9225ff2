"""Corporate actions in a desk's shares: splits, new names, mergers, spin-offs, from the broker's ledger.

Old shares leave by one line and new ones come by another (two NC lines, quantity negative, then positive). Invariant:
equity does not change, unless cash comes; a desk without fractions holds whole shares.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from msgspec import UnsetType
from msgspec.structs import replace

from daemon.core.book import COST_GRID, rescale
from daemon.core.broker.foreign import awaits_shares
from daemon.core.broker.ledger import MERGED, SPLITS, SPUN_OFF, WORTHLESS, income
from daemon.core.draft import EXIT, Draft
from daemon.core.effects import RaiseAlarm
from daemon.core.events import Activity, BrokerPosition
from daemon.core.risk import splits
from daemon.core.risk.guards import end_trade, revalue
from daemon.core.state import BROKER_MODES, ZERO, Leaver, Position
from strategies.kit.quantity import FINEST, Quantity, exact, floor_to


def note_positions(draft: Draft, positions: Iterable[BrokerPosition]) -> None:
    """Compare the broker's positions with the book; an alarm names each split without its ledger line yet."""
    for symbol, detail in splits.note_positions(draft, positions).items():
        draft.alarm("split_awaited", detail, once=True, about=symbol)


def end_waits(draft: Draft) -> None:
    """End the waits for splits that the ended session has answered."""
    splits.on_session_over(draft)


def split_shares(draft: Draft, line: Activity, paid_out: Decimal) -> None:
    """Book a split: quantity and mark change by the same ratio, the cost stays, a fraction comes as cash.

    `paid_out` shares of the line are such a fraction, on a desk with fractions too.
    """
    old_quantity, mark, leavers = draft.held(line.symbol), draft.marks.get(line.symbol), len(draft.basket.leavers)
    _split(draft, line, paid_out)
    # a line of leaving shares is followed by one of arriving ones
    if old_quantity and len(draft.basket.leavers) <= leavers:
        splits.note_booking(draft, line.symbol, mark)
        splits.note_line(draft, line)


def _split(draft: Draft, line: Activity, paid_out: Decimal) -> None:
    old_quantity = draft.held(line.symbol)
    if not old_quantity:
        return
    of_both = old_quantity < -line.quantity < old_quantity + _spare_fraction(draft, line.symbol)
    all_leave = old_quantity <= -line.quantity and not of_both
    if all_leave or draft.basket.left_by(line):  # two lines: all leave, then all come
        reorganise(draft, line)
        return
    _stop_trading(draft, line.symbol)
    due, booked_quantity = _of_the_book(draft, line, line.symbol, old_quantity, adds=True)
    whole = draft.counted(booked_quantity - paid_out)
    _follow_exit(draft, line.symbol, line.symbol, due, old_quantity)
    if line.symbol in draft.marks:
        draft.marks = {**draft.marks, line.symbol: draft.marks[line.symbol] * old_quantity / due}
        _leave_out(draft, line.symbol, draft.marks[line.symbol] * (due - whole))
    position = replace(draft.book.positions[line.symbol], quantity=whole)
    if not isinstance(position.high, UnsetType):
        position = replace(position, high=position.high * old_quantity / due)
    draft.put_book(replace(draft.book, positions={**draft.book.positions, line.symbol: position}))
    if not whole:
        _end(draft, line.symbol)
    revalue(draft)


def _of_the_book(
    draft: Draft, line: Activity, symbol: str, own_quantity: Quantity, *, adds: bool
) -> tuple[Decimal, Decimal]:
    """Return how many shares of `symbol` are due by the line for `own_quantity` in the book, and how many come.

    The rest belongs to the fraction of `symbol` in no book, which grows by it (`adds`) or is replaced by it. Where
    others hold shares too, the line is the desk's part already. Fewer come than are due where the broker rounds the
    account down to whole shares and pays for the rest. Where several ratios fit, the largest possible number is due: a
    higher price of the shares would become a loss once they are quoted.
    """
    broker, fractions = draft.broker, dict(draft.broker.beside_fractions)
    crumb = _spare_fraction(draft, symbol)
    old_quantity = own_quantity + crumb
    total = line.quantity + (old_quantity if adds else ZERO)
    if own_quantity <= 0 or total <= 0:
        return line.quantity + (own_quantity if adds else ZERO), line.quantity + (own_quantity if adds else ZERO)
    new, old = splits.plain_ratio(old_quantity, total, splits.SPLIT_RATIO) or (total, old_quantity)
    due, booked_quantity = own_quantity * new / old, Decimal(floor_to(total * own_quantity / old_quantity, FINEST))
    if not draft.fractional:
        booked_quantity = min(due, total)
    if splits.may_be_cut(old_quantity, total):
        due = own_quantity * (total + 1) / old_quantity
    if crumb:
        if not adds:
            del fractions[symbol]
        rest = exact((total - draft.counted(booked_quantity)).quantize(FINEST))
        draft.broker = replace(broker, beside={**fractions, line.symbol: rest})
    return due, booked_quantity


def _spare_fraction(draft: Draft, symbol: str) -> Decimal:
    """Return the fraction in no book; 0 where others hold shares, since the line is the desk's part then."""
    foreign_quantity, crumb = draft.broker.foreign_held.get(symbol), draft.broker.beside_fractions.get(symbol, 0)
    return Decimal(crumb) if crumb > 0 and not foreign_quantity else ZERO


def reorganise(draft: Draft, line: Activity) -> None:
    """Book one line about shares that leave or come. Cash for shares sells them; cash alone is income.

    Where both cash and other shares replace them, the cash pays for a part of their worth.
    """
    if line.quantity < 0:
        held_quantity = max(draft.held(line.symbol), 0)
        _leave(draft, line, held_quantity if held_quantity <= -line.quantity else -draft.counted(line.quantity))
    elif line.quantity > 0:
        _arrive(draft, line)
    elif line.amount > 0 and _are_replaced(draft, line):
        _pay_for_a_part(draft, line)
    elif line.amount > 0 and (count := _paid_count(draft, line)):
        _pay_for_shares(draft, line, count)
    else:
        draft.put_book(income(draft.book, line.amount))
    revalue(draft)


def _are_replaced(draft: Draft, line: Activity) -> bool:
    """Return whether the report has shares that replace all shares of the line's symbol.

    That is so where at least as many lines of the kind bring shares as take some; a split brings its own symbol only.
    """
    alike = [other for other in draft.lines if other.kind == line.kind and other.status != splits.ANNOUNCED]
    if line.kind in SPLITS:
        alike = [other for other in alike if other.symbol == line.symbol]
    departures = [other for other in alike if other.quantity < 0]
    of_it = sum((other.quantity for other in departures if other.symbol == line.symbol), ZERO)
    arrival_count = sum(other.quantity > 0 for other in alike)
    return 0 < draft.held(line.symbol) <= -of_it and len(departures) <= arrival_count and line.kind != WORTHLESS


PAID_LEAST = 1 / Decimal(str(splits.SPLIT_RATIO))  # part of the shares' worth: with less cash, other shares are to come


def _is_paid_in_part(draft: Draft, line: Activity, count: Quantity) -> bool:
    """Return whether all shares left for so little cash that a later report will bring others for them."""
    worth = draft.marks.get(line.symbol, ZERO) * count
    of_all = count == draft.held(line.symbol) and line.kind in MERGED
    return of_all and draft.identity.mode in BROKER_MODES and line.amount < PAID_LEAST * worth


def _paid_count(draft: Draft, line: Activity) -> Quantity:
    """Return how many shares a line of cash alone pays for: those that left by the merger's lines, else all held.

    The line by which they leave may come later. Without a price nothing shows that the cash is for them.
    """
    if line.kind not in MERGED:
        return 0
    left = sum((it.quantity for it in draft.basket.left_by(line)), ZERO)
    if left or draft.identity.mode not in BROKER_MODES or not draft.marks.get(line.symbol):
        return draft.counted(min(left, Decimal(draft.held(line.symbol))))
    return max(draft.held(line.symbol), 0)


def _pay_for_shares(draft: Draft, line: Activity, count: Quantity) -> None:
    """Sell shares that left, or will, for this cash; if it pays for a part only, they wait for their replacement."""
    if _is_paid_in_part(draft, line, count):
        _pay_for_a_part(draft, line)
        return
    left = draft.basket.left_by(line)
    if not left:
        splits.note_paid_for(draft, line.symbol)
    draft.basket = replace(draft.basket, leavers=tuple(it for it in draft.basket.leavers if it not in left))
    _leave(draft, replace(line, quantity=-Decimal(count)), count)


def _pay_for_a_part(draft: Draft, line: Activity) -> None:
    """Book cash for a part of the worth of shares that others replace; cost and mark keep the rest."""
    symbol, book = line.symbol, draft.book
    position, mark = book.positions[symbol], draft.marks.get(symbol, ZERO)
    part = min(line.amount / (mark * position.quantity), Decimal(1)) if mark > 0 else Decimal(1)
    cost = (position.cost * part).quantize(COST_GRID)
    gain = line.amount - cost
    new_position = replace(position, cost=position.cost - cost, pnl=position.pnl + gain)
    draft.put_book(
        replace(
            book,
            cash=book.cash + line.amount,
            realized=book.realized + gain,
            positions={**book.positions, symbol: new_position},
        )
    )
    draft.marks = {**draft.marks, symbol: mark * (1 - part)}


def _leave(draft: Draft, line: Activity, count: Quantity) -> None:
    """Book leaving shares: sold if paid for, lost if worthless, else held until their replacement arrives."""
    _stop_trading(draft, line.symbol)
    if count and line.amount > 0 and (_are_replaced(draft, line) or _is_paid_in_part(draft, line, count)):
        _pay_for_a_part(draft, line)
        line = replace(line, amount=ZERO)
    if count and (line.amount > 0 or line.kind == WORTHLESS):
        position = draft.book.positions[line.symbol]
        cost = (position.cost * count / position.quantity).quantize(COST_GRID)
        rest_position = replace(position, quantity=position.quantity - count, cost=position.cost - cost)
        rest_position = replace(rest_position, pnl=rest_position.pnl + line.amount - cost)
        book = draft.book
        draft.put_book(
            replace(
                book,
                cash=book.cash + line.amount,
                realized=book.realized + line.amount - cost,
                positions={**book.positions, line.symbol: rest_position},
            )
        )
        if not rest_position.quantity:
            _end(draft, line.symbol)
        if not line.amount:
            text = f"{count} {line.symbol} were removed as worthless: the {cost:.2f} USD that they cost are lost"
            draft.effects.append(RaiseAlarm("shares_renamed", text))
        return
    draft.put_book(income(draft.book, line.amount))
    if count:
        leavers = (*draft.basket.leavers, Leaver(line.kind, line.symbol, count, draft.now_ns))
        draft.basket = replace(draft.basket, leavers=leavers)


def _arrive(draft: Draft, line: Activity) -> None:
    """Give new shares the cost and value of those that left by a line of the same kind, else no cost.

    Less than one share is dropped: its worth comes as cash.
    """
    leaver = _leaver_for(draft, line)
    if line.kind in SPUN_OFF:
        splits.note_spun_off(draft)
    due = booked_quantity = line.quantity
    if leaver is not None:
        due, booked_quantity = _of_the_book(draft, line, leaver.symbol, leaver.quantity, adds=False)
    count = draft.counted(booked_quantity)
    position = draft.book.positions.get(line.symbol) or Position(line.symbol, 0, 0, ZERO, 1, draft.now_ns, "")
    cost, mark, high = ZERO, line.price, position.high
    if leaver is not None:
        old = draft.book.positions.get(leaver.symbol)
        joins = line.symbol != leaver.symbol and line.symbol in draft.book.positions
        if old is not None and not isinstance(old.high, UnsetType) and not joins:
            high = old.high * leaver.quantity / due
        other_leavers = list(draft.basket.leavers)
        other_leavers.remove(leaver)
        draft.basket = replace(draft.basket, leavers=tuple(other_leavers))
        cost, value = _take_out(draft, leaver)
        mark = value / due
        _leave_out(draft, line.symbol, mark * (due - count))
        position = draft.book.positions.get(line.symbol) or replace(position, quantity=0, cost=ZERO)
    draft.put_book(income(draft.book, line.amount))
    _stop_trading(draft, line.symbol)
    if leaver is not None:
        _follow_exit(draft, leaver.symbol, line.symbol, due, leaver.quantity)
    if not count:
        draft.put_book(replace(draft.book, realized=draft.book.realized - cost))
        return
    if line.symbol not in draft.marks or (leaver is not None and leaver.symbol == line.symbol):
        draft.marks = {**draft.marks, line.symbol: mark or ZERO}
    new_position = replace(position, quantity=position.quantity + count, cost=position.cost + cost, high=high)
    draft.put_book(replace(draft.book, positions={**draft.book.positions, line.symbol: new_position}))
    if not new_position.quantity:  # they covered a short position
        _end(draft, line.symbol)
    if leaver is None or leaver.symbol != line.symbol:
        origin = f"{leaver.quantity} {leaver.symbol} became" if leaver is not None else "a corporate action brought"
        traded = line.symbol in draft.spec.symbols
        note = "" if traded else "; this desk does not trade it: it is held at its last price"
        draft.effects.append(RaiseAlarm("shares_renamed", f"{origin} {count} {line.symbol}{note}"))


def _take_out(draft: Draft, leaver: Leaver) -> tuple[Decimal, Decimal]:
    """Remove shares that left from the book; return their part of the cost, and their value at the mark, in USD."""
    position = draft.book.positions.get(leaver.symbol)
    if position is None:
        return ZERO, ZERO
    count = min(leaver.quantity, position.quantity)
    cost = (position.cost * count / position.quantity).quantize(COST_GRID)
    value = draft.marks.get(leaver.symbol, ZERO) * count
    positions = {s: p for s, p in draft.book.positions.items() if s != leaver.symbol}
    if count < position.quantity:
        positions[leaver.symbol] = replace(position, quantity=position.quantity - count, cost=position.cost - cost)
    draft.put_book(replace(draft.book, positions=positions))
    return cost, value


def _leaver_for(draft: Draft, line: Activity) -> Leaver | None:
    """Return the shares that the line's replace: same kind, preferring the same symbol, then the same number.

    Where others hold shares too, the line is the desk's part, and the record of both says which ones it replaces.
    """
    fitting = [leaver for leaver in draft.basket.leavers if leaver.kind == line.kind]
    fitting = [leaver for leaver in fitting if not awaits_shares(draft, leaver)] or fitting
    same = [leaver for leaver in fitting if leaver.symbol == line.symbol]
    as_many = [leaver for leaver in fitting if leaver.quantity == line.quantity]
    return next(iter(same or as_many or fitting), None)


def _end(draft: Draft, symbol: str) -> None:
    """End a position and realise the rest of its cost."""
    book = draft.book
    position = book.positions[symbol]
    positions = {s: p for s, p in book.positions.items() if s != symbol}
    draft.put_book(replace(book, positions=positions, realized=book.realized - position.cost))
    end_trade(draft, replace(position, cost=ZERO, pnl=position.pnl - position.cost))


def _leave_out(draft: Draft, symbol: str, value: Decimal) -> None:
    """Drop a fraction worth `value` USD from the book; its cash comes later, so it is no loss."""
    if value:
        splits.note_left_out(draft, symbol)
        draft.put_book(rescale(draft.book, draft.book.equity, -value))


def _follow_exit(draft: Draft, symbol: str, new_symbol: str, new: Decimal, old: Quantity) -> None:
    """Let a rule's exit of `symbol` sell what its shares became: `new` shares for `old` ones.

    Called before those are booked under another name. While some old shares are still held, the exit stays with them.
    """
    work = draft.exit_of(symbol)
    if work is None or (new_symbol != symbol and draft.held(symbol)):
        return
    goal = draft.counted(work.goal * new / old)
    if new_symbol != symbol:
        other_exit = draft.exit_of(new_symbol)
        goal += draft.held(new_symbol) if other_exit is None else other_exit.goal
        if other_exit is not None:
            draft.close_work(other_exit)
    draft.works = {**draft.works, work.key: replace(work, symbol=new_symbol, goal=goal)}


def _stop_trading(draft: Draft, symbol: str) -> None:
    """Stop trading a symbol whose shares changed: cancel its orders, drop its quote. An exit by a rule goes on."""
    draft.works = {
        key: work
        for key, work in draft.works.items()
        if work.symbol != symbol or (work.purpose == EXIT and work.reason != "policy")
    }
    draft.wanted = {s: goal for s, goal in draft.wanted.items() if s != symbol}
    draft.quotes = {s: quote for s, quote in draft.quotes.items() if s != symbol}
    requoted = {} if isinstance(draft.session.requoted, UnsetType) else draft.session.requoted
    draft.session = replace(draft.session, requoted={**requoted, symbol: draft.now_ns})
    for name, order in draft.orders.items():
        if order.symbol == symbol and order.purpose != "foreign":
            draft.cancel(name)
