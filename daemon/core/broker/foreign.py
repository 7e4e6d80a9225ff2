"""Orders and positions that the desk did not make: from a person, the broker, or another program.

`foreign_orders` selects the rule: `halt` (default), `ignore` (count them apart, book their cash as a transfer) or
`adopt` (book them as the desk's own). A foreign sale of what the desk holds is always noticed.

With `ignore`, a dividend or a corporate action belongs to those who held at the close before its ex-date, so the
quantities at each close are kept. The desk's part is booked as its own, the rest as a transfer. Quantities are whole:
of a split the desk gets its own shares times the ratio, rounded down, the others get the rest, and cash for a fraction
goes to the fraction's owner. A desk with fractions holds its fraction until that cash comes. Where date or owner is
unknown, nothing is booked as the desk's, an alarm is raised, and the symbol takes no new risk until a person resumes
the desk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from decimal import ROUND_FLOOR, Decimal
from typing import NamedTuple

from msgspec import UNSET
from msgspec.structs import replace

from daemon.core.book import CENT, COST_GRID, OPTION_MULTIPLIER
from daemon.core.broker.fills import (
    is_ours,
    note_other_party,
    note_part,
    set_totals,
    total_cost,
    transfer,
    without_gain,
)
from daemon.core.broker.protection import on_removed
from daemon.core.draft import Draft
from daemon.core.events import Activity, BrokerOrder
from daemon.core.instruments.option_market import is_contract, option_terms, parse_occ, root_of
from daemon.core.moves import Cause
from daemon.core.orders import ACCEPTED, BROKER_STATUS, CANCELED, ENDED, Order, advance, in_words, parse_name
from daemon.core.risk.splits import (
    SPIN_OFF,
    SPLIT_RATIO,
    near_days,
    note_spun_off,
    plain_ratio,
    purchases_around,
    spin_offs_to_come,
    splits_commonly,
    was_counted,
)
from daemon.core.session import CLOSES_MIN, new_york_date, new_york_minute
from daemon.core.state import BROKER_MODES, ZERO, HeldAtClose, Leaver, Owners
from strategies.kit.quantity import FINEST, Quantity, exact, floor_to, whole_of
from strategies.kit.units import MINUTE_NS

NEW_NAME = ("NC", "SC")  # of the company, of its symbol
SHARE_TRANSFERS = ("JNLS", "ACATS")  # their shares are not the desk's: see `hold_moved`
FOREIGN = "foreign"  # an order's purpose
SETTLED = " settled"  # suffix in `seen` of a contract that ended by the positions, before its line
STRANGE = " of others"  # suffix in `seen` of a symbol that others traded: theirs are in no book (`halt`)
SOLD_BY_OTHERS = Cause("foreign_order")


def on_foreign_order(draft: Draft, report: BrokerOrder, adopted_order: Order | None) -> None:
    """Apply the rule to an order that the desk did not send; `adopted_order`: the book's record of it, once adopted."""
    rule, ignored = draft.trading.broker.foreign_orders, report.client_order_id in draft.broker.foreign
    if adopted_order is None and not ignored:
        if report.submitted_ns < draft.broker.began_ns and report.status in ENDED:
            return  # from before this journal
        if is_ours(draft, report.client_order_id):  # the journal may be an old copy: the name is in use
            if (name := parse_name(report.client_order_id)) is not None:
                draft.decision = max(draft.decision, name.decision)
            if report.status not in ENDED:  # an order of an earlier session is closed and forgotten
                _doubt(draft, report)
                _refuse(draft, report, "bears this desk's name, and its journal does not know it")
            return
    new = adopted_order is None and not ignored
    touches = _touches(draft, report, new=new)
    if touches:
        _doubt(draft, report)
    fraction, sells_own = is_fraction(draft, report), False
    if ignored or (new and fraction):  # an ignored order stays ignored
        action, sells_own = "ignored", _ignore(draft, report)
    elif adopted_order is not None or rule == "adopt":
        action = "adopted" if _adopt(draft, report, adopted_order) else ""
    elif rule == "ignore":
        action, sells_own = "ignored", _ignore(draft, report)
    else:
        if report.filled:
            draft.first_time(report.symbol + STRANGE)
        _note_refused(draft, report)
        _refuse(draft, report, "was not sent by this desk")
        return
    whys = ["sold what this desk holds"] if sells_own else []
    whys += ["touches what this desk holds or works on"] if touches and not fraction else []
    if not _refuse(draft, report, *whys) and new and action:  # one alarm for each order
        _report_foreign(draft, f"{action}: {report.client_order_id} ({_describe(report)})")


def _note_refused(draft: Draft, report: BrokerOrder) -> None:
    """Remember what an order of others filled of shares that the desk holds: no split made these."""
    shares = report.filled and draft.held(report.symbol) and not is_contract(report.symbol)
    if shares and draft.first_time(f"{report.client_order_id} {report.filled} in no book"):
        fills = {
            **draft.broker.refused_fills,
            report.client_order_id: (report.symbol, exact(report.side * report.filled)),
        }
        draft.broker = replace(draft.broker, refused=fills)


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
        note_other_party(draft, report.symbol, f"somebody else's order {report.client_order_id} ({_describe(report)})")


def is_fraction(draft: Draft, report: BrokerOrder) -> bool:
    """Return True for an order of less than one share, such as a reinvested dividend.

    False for a sale on a desk with fractions: the desk may own that fraction.
    """
    if draft.contract_of(report.symbol) is not None or (draft.fractional and report.side < 0):
        return False
    quantity = report.quantity or (report.filled if report.status in ENDED else ZERO)  # ordered in USD: no quantity
    return 0 < quantity < 1


def on_foreign_cancel(draft: Draft, order: Order) -> None:
    """Halt when another party or the broker cancelled an order of the desk that was still wanted.

    Cancels by the close, or by the end of an auction, are none of these.
    """
    session = draft.session.session
    if draft.identity.mode not in BROKER_MODES or order.purpose == FOREIGN or order.cancel_asked_ns:
        return
    if session is None or draft.session.ended:
        return
    if draft.now_ns >= (session.open_ns if order.auction else session.close_ns):
        return
    note_other_party(draft, order.symbol, f"somebody else cancelled {order.client_order_id}")
    if on_removed(draft, order):
        return
    draft.risk = replace(draft.risk, reconciled=False)
    draft.halt("foreign_order", f"order {order.client_order_id} was cancelled, and not by this desk")


def _refuse(draft: Draft, report: BrokerOrder, *whys: str) -> bool:
    """Halt on a foreign order, once for each filled quantity: reports repeat it after every start.

    An order that ended without a fill does not halt. Returns whether an alarm was raised, for the first new reason.
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
    """Report an order of others; during a panic, which closes everything at once, only the first."""
    draft.alarm("foreign_order", text, once=draft.broker.stood_down, about="panic" if draft.broker.stood_down else "")


def _adopt(draft: Draft, report: BrokerOrder, order: Order | None) -> bool:
    """Book the order's fills as the desk's own; its sender keeps control of it. False where it cannot be held."""
    if order is None:
        if not report.side or not can_hold(draft, report.symbol):
            _refuse(draft, report, "is of a kind that this desk cannot hold")
            return False
        order = _as_order(report)
        draft.put_order(order)
    if report.side < 0 and draft.held(report.symbol) < report.filled - order.filled:
        draft.risk = replace(draft.risk, reconciled=False)  # its purchase is not reported yet, or it is short:
        return True  # the next report has all orders and the positions
    if set_totals(draft, order, report):
        now = draft.find_order(report.client_order_id)
        word = BROKER_STATUS.get(report.status, "")
        if now is not None and (word != "filled" or now.filled == now.quantity):
            new_order = advance(now, word)
            if new_order is not now:
                draft.put_order(new_order)
    return True


def end_unheld_sale(draft: Draft, report: BrokerOrder) -> None:
    """End an adopted sale of more than the desk holds once every purchase is reported; book none of it.

    The position that it leaves differs from the book, and has its own verdict.
    """
    order = draft.find_order(report.client_order_id)
    if order is None or order.purpose != FOREIGN or report.side > 0 or report.status not in ENDED:
        return
    if order.working and draft.held(report.symbol) < report.filled - order.filled:
        sold_order = replace(order, filled=exact(report.filled), cost=total_cost(draft, report))
        draft.put_order(advance(sold_order, "filled" if sold_order.filled == sold_order.quantity else "canceled"))
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
    """Count the order's fills as foreign and its cash as a transfer; True where it sold what the desk holds."""
    broker, old_book = draft.broker, draft.book
    order = broker.foreign.get(report.client_order_id) or _as_order(report)
    filled_quantity, cost, is_ended = exact(report.filled), total_cost(draft, report), report.status in ENDED
    came_late = filled_quantity < order.filled or (not is_ended and (order.status == CANCELED or cost < order.cost))
    if came_late or (filled_quantity and report.average_price is None):
        return False  # an old answer, a fraction of a share, or one in the middle of a change
    new_order = replace(order, filled=filled_quantity, cost=cost, status=CANCELED if is_ended else ACCEPTED)
    draft.broker = replace(broker, foreign={**broker.foreign, report.client_order_id: new_order})
    if (filled_quantity, cost) == (order.filled, order.cost):
        return False
    cash_usd = -report.side * (cost - order.cost) * (OPTION_MULTIPLIER if is_contract(report.symbol) else 1)
    draft.put_book(replace(old_book, cash=old_book.cash + cash_usd))
    hold_foreign(draft, report.symbol, report.side * (filled_quantity - order.filled))
    _note_missed_trade(draft, report, report.side * (filled_quantity - order.filled))
    note_part(draft, filled_quantity - order.filled)
    gave_up = _drop_sold_shares(draft, report.symbol)
    with draft.because(SOLD_BY_OTHERS):
        without_gain(draft, old_book)
    return bool(gave_up)


def _drop_sold_shares(draft: Draft, symbol: str) -> Quantity:
    """Remove the part of the desk's position that others sold; return its quantity."""
    foreign, own_quantity = draft.broker.foreign_held.get(symbol, 0), draft.held(symbol)
    if not foreign < 0 < own_quantity:
        return 0
    sold_quantity = min(own_quantity, -foreign)
    hold_foreign(draft, symbol, sold_quantity)
    keep_own_part(draft, symbol, own_quantity - sold_quantity)
    return sold_quantity


def drop_sold_shares(draft: Draft) -> None:
    """Remove what others sold of the desk's shares before their purchase was reported."""
    for symbol in tuple(draft.broker.foreign_held):
        old_book = draft.book
        if sold_quantity := _drop_sold_shares(draft, symbol):
            with draft.because(SOLD_BY_OTHERS):
                without_gain(draft, old_book)
            draft.risk = replace(draft.risk, reconciled=False)
            draft.halt("foreign_order", f"others sold {sold_quantity} {symbol} that this desk holds")


def keep_own_part(draft: Draft, symbol: str, quantity: Quantity) -> None:
    """Keep `quantity` of the desk's position, at its share of the cost: another party sold the rest."""
    position = draft.book.positions[symbol]
    positions = {other: p for other, p in draft.book.positions.items() if other != symbol}
    if quantity:
        cost = (position.cost * quantity / position.quantity).quantize(COST_GRID)
        positions = {**draft.book.positions, symbol: replace(position, quantity=quantity, cost=cost)}
    with draft.because(SOLD_BY_OTHERS):
        draft.put_book(replace(draft.book, positions=positions))


def hold_foreign(draft: Draft, symbol: str, quantity: Quantity) -> None:
    """Change the foreign quantity of `symbol` by `quantity`; a sale beyond it uses up a fraction that is in no book."""
    foreign, fractions = dict(draft.broker.foreign_held), draft.broker.beside_fractions
    foreign[symbol] = foreign.get(symbol, 0) + quantity
    if quantity < 0 and fractions.get(symbol, 0) > 0 > foreign[symbol]:
        fraction = min(fractions[symbol], -foreign[symbol])
        foreign[symbol] += fraction
        draft.broker = replace(draft.broker, beside={**fractions, symbol: fractions[symbol] - fraction})
    draft.broker = replace(draft.broker, foreign_held={s: q for s, q in foreign.items() if q})


SEEN_NS = 10 * MINUTE_NS  # a report at most this long before a close shows who held what at the close
CLOSES_MAX = 64  # changes kept for each symbol; the oldest is dropped first
PAID_WITHIN = timedelta(days=100)  # longest time from a dividend's ex-date to its payment
BEGUN = "0"  # stands for a close while none is known: earlier than any date
FRACTION = Decimal(1)
STOCK_DIVIDEND, STOCK_DIVIDEND_MAX = Decimal("0.005"), Decimal("0.5")  # new shares for an old one: a multiple of it


def note_closes(draft: Draft) -> None:
    """Keep what desk and others held at the last close, once for each close, before later lines are booked.

    A journal of former days without a note is of a release that kept none: what its desk held before is unknown.
    """
    session, owners = draft.session.session, draft.broker.owners
    if session is None:
        return
    over = draft.session.ended or draft.now_ns >= session.close_ns  # its end may come after the first report
    close_date = session.date if over else draft.session.previous
    if owners.noted and close_date <= owners.noted:
        return
    began_before = new_york_date(draft.broker.began_ns) < new_york_date(draft.now_ns)
    has_past = not owners.noted and draft.stats.orders > 0 and began_before
    if has_past and not over and draft.now_ns >= session.open_ns:
        return  # it may have traded since the close
    foreign = draft.broker.foreign_held
    for symbol, quantity in draft.broker.beside_fractions.items():
        if draft.first_time(f"beside {symbol} {quantity}"):
            draft.alarm("fraction_beside", f"{quantity} {symbol} that no order and no line of the ledger explains")
    closes = {}
    for symbol in {**owners.closes, **foreign}:
        history, now = owners.closes.get(symbol, ()), (draft.held(symbol), foreign.get(symbol, 0))
        if not history or (history[-1].own, history[-1].others) != now:
            is_new = not (owners.noted or has_past or now[0])  # a new desk has held nothing before
            first = "" if is_new else close_date
            history = (*history, HeldAtClose(first, *now))[-CLOSES_MAX:]
        if any(one.others for one in history):
            closes[symbol] = history
    seen = over and session.close_ns - draft.broker.asked_ns <= SEEN_NS  # else earlier trades may be unreported
    alone_from = (owners.alone_from or close_date) if seen else UNSET
    _note(draft, replace(owners, noted=close_date or BEGUN, closes=closes, alone_from=alone_from))


def hold_moved(draft: Draft, line: Activity) -> None:
    """Count shares that a transfer brings as others', from its day on, unless they were taken over (`ignore`).

    With `halt` they are in no book, and the report's later lines are about them too. Shares that a transfer takes may
    be anybody's: the comparison judges them.
    """
    rule, symbol, count = draft.trading.broker.foreign_orders, line.symbol, draft.counted(line.quantity)
    if count <= 0 or was_counted(draft, line):
        return
    if rule == "ignore":
        hold_foreign(draft, symbol, count)
        _note_missed(draft, symbol, new_york_date(line.time_ns), count)
    elif rule == "halt":
        beyond = {**(draft.broker.beyond or {}), symbol: draft.broker.beyond_of(symbol) + count}
        draft.broker = replace(draft.broker, beyond=beyond)


def _note_missed_trade(draft: Draft, report: BrokerOrder, change: Quantity) -> None:
    """Note a trade of others on a day whose close the desk did not see: the order's, or that of the last report.

    What is sent after a close trades on the next day.
    """
    late = new_york_minute(report.submitted_ns) >= CLOSES_MIN
    sent_on = new_york_date(report.submitted_ns) + timedelta(days=late)
    _note_missed(draft, report.symbol, max(sent_on, new_york_date(draft.broker.asked_ns)), change)


def holdings_of(draft: Draft, symbol: str) -> tuple[Quantity, Quantity]:
    """Return what desk and others hold of the symbol."""
    return draft.held(symbol), draft.broker.foreign_held.get(symbol, 0)


def note_delivered(draft: Draft, symbol: str, delivered_on: date, before: tuple[Quantity, Quantity]) -> None:
    """Note what desk and others hold since contracts became shares on a day whose close the desk did not see.

    `before`: what they held until then. Not where the desk is alone.
    """
    own_change, change = (now - then for now, then in zip(holdings_of(draft, symbol), before, strict=True))
    others = change or before[1] or symbol in draft.broker.owners.closes
    if others and (own_change or change):
        _note_missed(draft, symbol, delivered_on, change, own_change)


def _note_missed(draft: Draft, symbol: str, changed_on: date, change: Quantity, own_change: Quantity = 0) -> None:
    """Note what both held since a `change` of the others', and one of the desk's, on a day whose close nobody saw."""
    owners, day = draft.broker.owners, changed_on.isoformat()
    if not (owners.noted and owners.noted <= day < new_york_date(draft.now_ns).isoformat()):
        return
    history, now = owners.closes.get(symbol, ()), holdings_of(draft, symbol)
    earlier, later = (tuple(one for one in history if (one.date < day) is before) for before in (True, False))
    if not later:
        later = (HeldAtClose(day, *now),)
    else:
        then = earlier[-1].others if earlier else 0
        later = tuple(replace(one, own=one.own + own_change, others=one.others + change) for one in later)
        later = later if later[0].date == day else (HeldAtClose(day, later[0].own, then + change), *later)
    _note(draft, replace(owners, closes={**owners.closes, symbol: (*earlier, *later)[-CLOSES_MAX:]}))


def share_of(draft: Draft, line: Activity, *, cash: bool, replaces: bool) -> tuple[Quantity, Quantity] | None:
    """Return what desk and others held of the line's symbol when it counted; None where that is not known.

    `cash`: the line pays for what was held before its ex-date, maybe weeks ago; other lines come on the day they count.
    `replaces`: it brings shares in place of others, which another line takes away.
    """
    owners, foreign = draft.broker.owners, draft.broker.foreign_held
    closes = owners.closes.get(line.symbol, ())
    others_hold = foreign or _others_held(draft, line)
    if line.kind == "CIL" and line.symbol in owners.lieu:
        return (1, 1)  # by its fractions, see `_cash_part`
    came_back = line.quantity >= 0 and any(
        name.startswith(f"{line.kind} {line.symbol} ") for name in _recent_moves(draft, line)
    )
    if (replaces or came_back) and (leaver_parts := list(_left_for(draft, line).values())):
        return leaver_parts[-1] if _alike(leaver_parts) else None
    if not cash and not replaces and len(readings := _readings(draft, line)) > 1:
        leaving = [shares for shares in readings if sum(shares) == -line.quantity]
        fitting = leaving or [shares for shares in readings if _changes(draft, line, shares)]
        return fitting[0] if len(fitting) == 1 else None
    if not closes and not foreign.get(line.symbol):
        strange = replaces and not _takes_the_place(draft, line) and _has_strange_shares(draft, line.symbol)
        if (replaces and others_hold and _holds_shares(draft)) or strange:
            return None  # shares of a spin-off, or in place of what is not known to have left
        if cash and draft.broker.beyond_of(line.symbol):
            return None  # shares that no book has earned a part of it
        desks = not others_hold or draft.held(line.symbol) or line.symbol in draft.spec.symbols or not line.symbol
        return (1, 0) if desks else (0, 1)
    day = new_york_date(line.time_ns)
    if line.ex_date or not cash:
        earlier = [one for one in closes if one.date < (line.ex_date or day.isoformat())]
        if not earlier and _was_alone(owners, closes, line.ex_date or day.isoformat()):
            return (1, 0) if cash or replaces or draft.held(line.symbol) else (0, 1)  # it is theirs who came since
        return (earlier[-1].own, earlier[-1].others) if earlier and earlier[-1].own + earlier[-1].others else None
    first_date = (day - PAID_WITHIN).isoformat()
    if closes and closes[0].date > first_date and _was_alone(owners, closes, closes[0].date):
        return None  # others came within that time
    return _all_alike(closes, first_date, day.isoformat(), draft.counted(line.quantity))


def _readings(draft: Draft, line: Activity) -> list[tuple[Quantity, Quantity]]:
    """Return what desk and others may have held when this line of a split changed their shares; one where it is known.

    That is what they held at the close, or what they hold now less some of what others bought since: before the split
    or after it. Shares of orders that were refused are in no book.
    """
    symbol, day, owners = line.symbol, new_york_date(line.time_ns).isoformat(), draft.broker.owners
    own_quantity, foreign_quantity = draft.held(symbol), draft.broker.foreign_held.get(symbol, 0)
    closes = owners.closes.get(symbol, ())
    readings = [(one.own, one.others) for one in closes if one.date < day][-1:]
    if not readings and foreign_quantity and _was_alone(owners, closes, day):
        readings = [(own_quantity, 0)]
    for before, after in purchases_around(draft, symbol):
        if foreign_quantity >= after:
            readings.append((own_quantity, foreign_quantity - after + before))
    readings = list(dict.fromkeys(readings))
    return readings if line.quantity and len(readings) > 1 and not _alike(readings) else readings[:1]


def _changes(draft: Draft, line: Activity, shares: tuple[Quantity, Quantity]) -> bool:
    """Return whether the line changes these shares, with any fraction in no book, as a split or a stock dividend does.

    All that leave are the first of two lines.
    """
    old_quantity = Decimal(sum(shares) + max(draft.broker.beside_fractions.get(line.symbol, 0), 0))
    new_quantity = old_quantity + line.quantity
    if old_quantity <= 0 or new_quantity <= 0:
        return new_quantity == 0
    dividend = line.quantity / old_quantity
    is_dividend = 0 < dividend <= STOCK_DIVIDEND_MAX and not dividend % STOCK_DIVIDEND
    return is_dividend or splits_commonly(old_quantity, new_quantity)


def note_strangers(draft: Draft, line: Activity, quantity: Quantity) -> None:
    """Count shares that no book has, and that the line changes, as others': held at the close before it."""
    hold_foreign(draft, line.symbol, quantity)
    owners = draft.broker.owners
    counts = date.fromisoformat(line.ex_date) if line.ex_date else new_york_date(line.time_ns)
    foreign = draft.broker.foreign_held[line.symbol]
    close = HeldAtClose((counts - timedelta(days=1)).isoformat(), draft.held(line.symbol), foreign)
    history = (*owners.closes.get(line.symbol, ()), close)[-CLOSES_MAX:]
    _note(draft, replace(owners, closes={**owners.closes, line.symbol: history}))
    why = f"{line.kind} {line.symbol} {line.quantity}: {quantity} {line.symbol} that no book has are counted as others'"
    draft.alarm("owner_unknown", why, once=True, about=f"{line.kind} {line.symbol}")


def _takes_the_place(draft: Draft, line: Activity) -> bool:
    """Return whether the line brings as many shares as left of the desk's by a line of its kind, and no other does."""
    left = any((it.kind, it.quantity) == (line.kind, line.quantity) for it in draft.basket.leavers)
    return left and sum((it.kind, it.quantity) == (line.kind, line.quantity) for it in draft.lines) == 1


def _has_strange_shares(draft: Draft, symbol: str) -> bool:
    """Return whether the account has shares of another symbol that are in no book, and may have left this line's.

    Shares that the report's other lines bring do not count. Neither do as many as the desk's own actions may bring in
    all: for shares of it that are gone, and for spin-offs that are announced.
    """
    beyond, to_come = draft.broker.beyond or {}, draft.basket.to_come
    lines = [line for line in draft.lines if line.kind not in SHARE_TRANSFERS and line.quantity > 0]
    brought = {line.symbol for line in lines if beyond.get(line.symbol) == line.quantity}
    others = [one for one in beyond.keys() - {symbol, *to_come} - brought if not is_contract(one)]
    missing = {one for one in draft.broker.doubtful if draft.held(one) > 0 and draft.broker.available.get(one) == 0}
    gone = {it.symbol for it in draft.basket.leavers} | {one for one in missing - {*to_come} if not is_contract(one)}
    return bool(others) and 1 + len(others) > len(gone) + spin_offs_to_come(draft)


def _was_alone(owners: Owners, closes: tuple[HeldAtClose, ...], date: str) -> bool:
    """Return whether others are known to have held nothing at the close before this date: they came later."""
    return isinstance(owners.alone_from, str) and owners.alone_from < date and len(closes) < CLOSES_MAX


def take_spin_off_back(draft: Draft, line: Activity) -> bool:
    """Give spun-off shares that were counted as others' to the desk, where it alone held the parent's shares.

    That is certain where others hold nothing else and held no shares at the last close. Returns whether it did so.
    """
    foreign, count = draft.broker.foreign_held, draft.counted(line.quantity)
    others_hold = any(symbol != line.symbol for symbol in foreign) or not _holds_shares(draft)
    if others_hold or _others_held(draft, line) or not 0 < count <= foreign.get(line.symbol, 0):
        return False
    hold_foreign(draft, line.symbol, -count)
    return True


def _others_held(draft: Draft, line: Activity) -> bool:
    """Return whether others held anything at the last close before the line, or wait for what replaces their shares."""
    day = new_york_date(line.time_ns).isoformat()
    earlier = [[one.others for one in history if one.date < day] for history in draft.broker.owners.closes.values()]
    return any(held[-1] for held in earlier if held) or any(others for _, others in _recent_moves(draft, line).values())


def may_be_the_desks(draft: Draft, symbol: str) -> bool:
    """Return whether shares of a spin-off that were counted as others' may be of shares that the desk holds."""
    return draft.broker.foreign_held.get(symbol, 0) > 0 and _holds_shares(draft)


def _left_for(draft: Draft, line: Activity) -> dict[str, tuple[Quantity, Quantity]]:
    """Return the shares (desk's, others') that the line's may replace: by symbol, else by number, else by kind.

    The desk's that were paid for are not replaced.
    """
    waiting = {it.symbol for it in draft.basket.leavers}
    fitting = {
        name: parts
        for name, parts in _recent_moves(draft, line).items()
        if name.startswith(f"{line.kind} ") and (not parts[0] or _moved_symbol(name) in waiting)
    }
    same = {name: parts for name, parts in fitting.items() if _moved_symbol(name) == line.symbol}
    return same or {name: parts for name, parts in fitting.items() if sum(parts) == line.quantity} or fitting


def awaits_shares(draft: Draft, leaver: Leaver) -> bool:
    """Return whether the record of what left, of desk or others, has these shares: none have come for them yet."""
    return any(name.startswith(f"{leaver.kind} {leaver.symbol} ") for name in draft.broker.owners.moves)


def have_left_for(draft: Draft, line: Activity) -> bool:
    """Return whether shares of desk or others have left that the line's shares may replace."""
    return bool(_left_for(draft, line))


def _recent_moves(draft: Draft, line: Activity) -> dict[str, tuple[Quantity, Quantity]]:
    """Return the shares that left within a few nights of the line's date; older ones are dropped with the next move."""
    days = near_days(new_york_date(line.time_ns))
    moves = draft.broker.owners.moves
    return {name: parts for name, parts in moves.items() if name.count(" ") < 2 or name.rpartition(" ")[2] in days}


def _moved_symbol(name: str) -> str:
    return name.split(" ")[1]


def _holds_shares(draft: Draft) -> bool:
    return any(not position.right for position in draft.book.positions.values())


def _alike(parts: list[tuple[Quantity, Quantity]]) -> bool:
    """Return True where the desk's and the others' shares have the same proportion in all parts."""
    own_quantity, foreign_quantity = parts[0]
    return all(own_quantity * more == foreign_quantity * own_part for own_part, more in parts)


def _all_alike(
    closes: tuple[HeldAtClose, ...], first_date: str, end_date: str, quantity: Quantity
) -> tuple[Quantity, Quantity] | None:
    """Return what both held at the closes from `first_date` to before `end_date`; None where the proportion changed.

    Where the line names the number of shares (`quantity`), only closes with that total count, if there are any.
    """
    earlier = [one for one in closes if one.date < first_date]
    within = [*earlier[-1:], *(one for one in closes if first_date <= one.date < end_date)]
    pairs = {(one.own, one.others) for one in within if one.own + one.others}
    pairs = {pair for pair in pairs if sum(pair) == quantity} or pairs
    if not pairs:
        return None
    return next(iter(pairs)) if _alike(list(pairs)) else None


def part_of(
    draft: Draft, line: Activity, own_quantity: Quantity, foreign_quantity: Quantity, *, moves: bool
) -> Activity | None:
    """Book the others' part of the line, and return the desk's; None where nothing of it is the desk's.

    `moves`: the line takes all shares away, or brings what replaces them.
    """
    old = _replaced_by(draft, line) if moves and line.quantity > 0 else line.symbol
    if moves and line.kind != "OPTRD":
        _note_move(draft, line, own_quantity, foreign_quantity)
    cut, whole = None, own_quantity + foreign_quantity
    joins = moves and line.quantity > 0 and not draft.basket.left_by(line)
    joined = _both_hold(draft, line.symbol) if joins else (0, 0)
    if line.quantity and line.kind != "OPTRD" and not (own_quantity and foreign_quantity):
        note_fractions(draft, line.symbol, line.quantity, own_quantity, foreign_quantity, joined)
    if not foreign_quantity:
        return line
    if own_quantity:
        cut = _whole_share_cut(draft, line, old, own_quantity, whole, moves=moves)
        line = _without_fraction(draft, line, old, whole, moves=moves)
    quantity, amount = line.quantity * own_quantity / whole, _cash_part(draft, line, own_quantity, whole)
    amount = amount.quantize(CENT, rounding=ROUND_FLOOR) if own_quantity else ZERO
    if cut is not None and not draft.fractional:
        quantity = cut.due if moves else cut.due - own_quantity
        _hold_of_cut(draft, line.symbol, cut, joins=line.symbol != old)
    elif moves:
        hold_foreign(draft, line.symbol, draft.counted(line.quantity) - draft.counted(quantity))
    elif line.quantity:
        total = draft.held(line.symbol) + draft.broker.foreign_held.get(line.symbol, 0)
        desk = draft.counted(draft.held(line.symbol) + quantity) if own_quantity else 0
        new_total = draft.counted(total + line.quantity)
        hold_foreign(draft, line.symbol, new_total - desk - draft.broker.foreign_held.get(line.symbol, 0))
    if cut is not None:
        less = own_quantity / whole if draft.fractional else (cut.due - draft.counted(cut.due)) / cut.paid
        _note_lieu(draft, line.symbol, Decimal(less))
    elif own_quantity and (line.quantity > 0 or (line.quantity and not moves)):
        total = line.quantity + (0 if moves else whole)
        note_fractions(draft, line.symbol, total, own_quantity, foreign_quantity, joined)
    if line.amount != amount:
        transfer(draft, line.amount - amount)
    return replace(line, quantity=quantity, amount=amount) if own_quantity else None


class _Cut(NamedTuple):
    """New shares due to the desk, and how many new shares of the account the broker pays out in cash."""

    due: Decimal
    paid: Decimal
    both: Decimal  # due to desk and others
    there: Decimal  # new shares of the account


def _whole_share_cut(
    draft: Draft, line: Activity, old: str, own_quantity: Quantity, all_shares: Quantity, *, moves: bool
) -> _Cut | None:
    """Return what is due for `own_quantity` of `all_shares` where the broker rounded the new shares down to whole ones.

    None where it did not round.
    """
    old_total = Decimal(all_shares + max(draft.broker.beside_fractions.get(old, 0), 0))
    total = line.quantity + (ZERO if moves else old_total)
    if total <= 0 or total % 1 or not line.quantity or line.kind == "OPTRD":
        return None
    new, former = plain_ratio(old_total, total, SPLIT_RATIO) or (total, old_total)
    cash_shares = old_total * new / former - total
    return (
        _Cut(own_quantity * new / former, cash_shares, all_shares * new / former, total)
        if cash_shares > FINEST
        else None
    )


def _hold_of_cut(draft: Draft, symbol: str, cut: _Cut, *, joins: bool) -> None:
    """Give desk and others the whole shares due to them; the rest is a fraction that belongs to no one.

    New shares of another symbol are added to what others hold of it.
    """
    whole_shares = min(draft.counted(cut.both), exact(cut.there))
    desk = min(draft.counted(cut.due), whole_shares)
    hold_foreign(draft, symbol, whole_shares - desk - (0 if joins else draft.broker.foreign_held.get(symbol, 0)))
    if joins:
        return
    fractions = {other: crumb for other, crumb in draft.broker.beside_fractions.items() if other != symbol}
    rest = exact(cut.there) - whole_shares
    draft.broker = replace(draft.broker, beside={**fractions, symbol: rest} if rest else fractions)


def _replaced_by(draft: Draft, line: Activity) -> str:
    """Return the symbol of the shares that left for those that the line brings; its own where none is known."""
    return next((_moved_symbol(name) for name in reversed(_left_for(draft, line))), line.symbol)


def _without_fraction(draft: Draft, line: Activity, old: str, all_shares: Quantity, *, moves: bool) -> Activity:
    """Return the line's part for `all_shares` of `old`, of desk and others, without that of a fraction in no book.

    When shares leave, the fraction stays until the shares come that replace it too.
    """
    fractions = dict(draft.broker.beside_fractions)
    crumb = fractions.get(old, 0)
    if crumb <= 0 or not line.quantity or line.kind == "OPTRD":
        return line
    if moves and line.quantity < 0:
        return replace(line, quantity=line.quantity + crumb) if -line.quantity >= all_shares + crumb else line
    part = floor_to(line.quantity * crumb / (all_shares + crumb), FINEST)
    kept_crumb = 0 if moves else crumb
    del fractions[old]
    draft.broker = replace(
        draft.broker, beside={**fractions, line.symbol: fractions.get(line.symbol, 0) + kept_crumb + part}
    )
    return replace(line, quantity=line.quantity - part)


def _cash_part(draft: Draft, line: Activity, own_quantity: Quantity, whole: Quantity) -> Decimal:
    """Return the desk's part of the line's cash; cash in lieu is divided by the fractions that it pays for."""
    lieu = draft.broker.owners.lieu
    if line.kind != "CIL" or line.symbol not in lieu:
        return line.amount * own_quantity / whole
    part = lieu[line.symbol]
    _forget_lieu(draft, line.symbol)
    return line.amount * part


def lieu_fraction(draft: Draft, line: Activity) -> Quantity:
    """Return which fraction of a share this cash in lieu takes from the account; 0 on a desk of whole shares.

    Without a quantity in the line, what the account has beyond whole shares, or the one side that the cash belongs to.
    """
    if not draft.fractional:
        return 0
    part, beyond = draft.broker.owners.lieu.get(line.symbol), draft.expected(line.symbol)
    if part in (0, FRACTION):
        beyond = draft.held(line.symbol) if part else max(draft.broker.foreign_held.get(line.symbol, 0), 0)
    return abs(exact(line.quantity)) or max(beyond - whole_of(beyond), 0)


def take_fraction(
    draft: Draft, symbol: str, paid_fraction: Quantity, own_quantity: Quantity, foreign_quantity: Quantity
) -> Quantity:
    """Take the others' part of a paid-out fraction from them; return the desk's, which the caller books.

    `own_quantity` and `foreign_quantity` give the proportion where no split or merger noted the parts.
    """
    part = draft.broker.owners.lieu.get(symbol, Decimal(own_quantity) / (own_quantity + foreign_quantity))
    own_part = min(exact((paid_fraction * part).quantize(FINEST)), max(draft.held(symbol), 0))
    foreign_part = min(paid_fraction - own_part, max(draft.broker.foreign_held.get(symbol, 0), 0))
    if foreign_part:
        hold_foreign(draft, symbol, -foreign_part)
    return own_part


def note_fractions(
    draft: Draft,
    symbol: str,
    total: Decimal,
    own_quantity: Quantity,
    foreign_quantity: Quantity,
    joined: tuple[Quantity, Quantity] = (0, 0),
) -> None:
    """Keep which part of the coming cash in lieu is the desk's, for `total` new shares of both sides.

    `joined`: what desk and others hold already of the symbol that the new shares are added to. All or nothing where one
    holds alone: when the cash comes the other may hold the symbol too. An earlier line's part ends: its cash has come,
    or there was none.
    """
    desks = total * own_quantity / (own_quantity + foreign_quantity) if foreign_quantity else total
    desks, all_of_it = desks + joined[0], total + sum(joined)
    if desks in (0, all_of_it):
        _note_lieu(draft, symbol, FRACTION if desks else ZERO)
    elif all_of_it % FRACTION:
        _note_lieu(draft, symbol, (desks % FRACTION) / (all_of_it % FRACTION))
    else:
        _forget_lieu(draft, symbol)


def _both_hold(draft: Draft, symbol: str) -> tuple[Quantity, Quantity]:
    """Return how many shares of the symbol desk and others hold, what lies beside counted as others'."""
    own, others = holdings_of(draft, symbol)
    return own, max(others + draft.broker.beside_fractions.get(symbol, 0), 0)


def _note_lieu(draft: Draft, symbol: str, part: Decimal) -> None:
    owners = draft.broker.owners
    _note(draft, replace(owners, lieu={**owners.lieu, symbol: min(part, FRACTION)}))


def _forget_lieu(draft: Draft, symbol: str) -> None:
    owners = draft.broker.owners
    _note(draft, replace(owners, lieu={other: part for other, part in owners.lieu.items() if other != symbol}))


def _note_move(draft: Draft, line: Activity, own_quantity: Quantity, foreign_quantity: Quantity) -> None:
    """Keep how many shares of each side left until their replacement comes; not in an account of the desk alone."""
    owners = draft.broker.owners
    moves = owners.moves
    if line.quantity > 0:
        old_moves = list(_left_for(draft, line))[-1:]
        moves = {name: parts for name, parts in moves.items() if name not in old_moves}
    elif line.quantity < 0 and (foreign_quantity or draft.broker.foreign_held or owners.closes):
        quantities = (own_quantity, foreign_quantity) if foreign_quantity else (-draft.counted(line.quantity), 0)
        name = f"{line.kind} {line.symbol} {new_york_date(line.time_ns).isoformat()}"
        moves = {**_recent_moves(draft, line), name: quantities}
    closes = owners.closes
    if line.quantity > 0 and line.kind in NEW_NAME and line.symbol not in closes:  # for a dividend weeks later
        former = closes.get(_replaced_by(draft, line), ())
        closes = {**closes, line.symbol: former} if former else closes
    if moves != owners.moves or closes is not owners.closes:
        _note(draft, replace(owners, moves=moves, closes=closes))


def forget_leavers(draft: Draft, symbol: str) -> None:
    """Forget shares of a symbol that left or that contracts owe, once the broker's quantity was taken over."""
    basket, owners = draft.basket, draft.broker.owners
    if any(it.symbol == symbol for it in basket.leavers):
        draft.basket = replace(basket, leavers=tuple(it for it in basket.leavers if it.symbol != symbol))
    moves = {name: parts for name, parts in owners.moves.items() if _moved_symbol(name) != symbol}
    debts = {contract: parts for contract, parts in owners.owed.items() if root_of(contract) != symbol}
    if (moves, debts) != (owners.moves, owners.owed):
        _note(draft, replace(owners, moves=moves, owed=debts))


def dispute(draft: Draft, line: Activity) -> None:
    """Book nothing of the line as the desk's: its cash is a transfer, its symbol takes no new risk."""
    owners = draft.broker.owners
    if line.kind == SPIN_OFF:
        note_spun_off(draft)
    if line.amount:
        transfer(draft, line.amount)
    if line.symbol not in owners.disputed:
        _note(draft, replace(owners, disputed=(*owners.disputed, line.symbol)))
    why = f"{line.kind} {line.symbol} {line.quantity} {line.amount} USD: whose it is, is not known"
    draft.alarm("owner_unknown", why, once=True, about=f"{line.kind} {line.symbol}")


def settle_disputes(draft: Draft) -> None:
    """Let disputed symbols take new risk again: a person has looked."""
    if draft.broker.owners.disputed:
        _note(draft, replace(draft.broker.owners, disputed=()))


# --- options ----------------------------------------------------------------------------------------------------------


def contracts_of_the_desk(draft: Draft, line: Activity, *, exercised: bool) -> tuple[int, int]:
    """Return how many contracts of (desk, others) the line ends. Others' end first: a desk never exercises.

    An exercise or assignment notes how many contracts' shares each side is owed.
    """
    foreign, own_quantity = draft.broker.foreign_held.get(line.symbol, 0), abs(draft.held(line.symbol))
    count = whole_of(abs(exact(line.quantity)) or own_quantity + abs(foreign))
    in_no_book = not own_quantity and not foreign
    if in_no_book and _has_ended(draft, line):
        return 0, 0
    foreign_count = min(count, whole_of(abs(foreign)))
    if in_no_book and (draft.trading.broker.foreign_orders != "adopt" or draft.broker.foreign_held):
        foreign_count = count
    own_count = min(count - foreign_count, whole_of(own_quantity))
    if foreign:
        hold_foreign(draft, line.symbol, -foreign_count if foreign > 0 else foreign_count)
    contract = parse_occ(line.symbol)
    if exercised and contract is not None and (own_count or foreign_count):
        owners = draft.broker.owners
        old_debt = owners.owed.get(line.symbol, (0, 0))
        debts = {**owners.owed, line.symbol: (old_debt[0] + own_count, old_debt[1] + foreign_count)}
        _note(draft, replace(owners, owed=debts))
    return own_count, foreign_count


def others_traded(draft: Draft, root: str) -> bool:
    """Return whether others traded this underlying or its contracts, and no book has theirs."""
    return root + STRANGE in draft.broker.seen or _of_root(root, _contracts_in_no_book(draft))


def _contracts_in_no_book(draft: Draft) -> list[str]:
    return [name.removesuffix(STRANGE) for name in draft.broker.seen if name.endswith(STRANGE)]


def cash_of_the_desk(draft: Draft, line: Activity, own_count: Quantity, foreign_count: Quantity) -> Decimal:
    """Book the others' part of the contracts' cash; return the desk's. Gone contracts count as at the last close."""
    closes = draft.broker.owners.closes.get(line.symbol, ())
    last_holding = next(((one.own, one.others) for one in reversed(closes) if one.own or one.others), (1, 0))
    own_quantity, foreign_quantity = (own_count, foreign_count) if own_count or foreign_count else last_holding
    desks: Decimal = (line.amount * abs(own_quantity) / (abs(own_quantity) + abs(foreign_quantity))).quantize(
        CENT, rounding=ROUND_FLOOR
    )
    if desks != line.amount:
        transfer(draft, line.amount - desks)
    return desks


def settled_without(draft: Draft, root: str, shares: int) -> tuple[tuple[str, int], ...] | None:
    """Return the shares booked from positions that remain after a line of `shares`; None where fewer were booked.

    The shares of one contract may come in several lines, those of several in any order.
    """
    settlements = list(draft.broker.settled)
    if (root, shares) in settlements:
        settlements.remove((root, shares))
        return tuple(settlements)
    alike = [one for one in settlements if one[0] == root and one[1] * shares > 0]
    rest_shares = sum(one[1] for one in alike) - shares
    if rest_shares * shares < 0 or not alike:
        return None
    return (*(one for one in settlements if one not in alike), *([(root, rest_shares)] if rest_shares else []))


def whole_shares(line: Activity) -> int:
    """Return the whole shares of an exercise or assignment line, in hundreds."""
    return whole_of(exact(line.quantity))


def shares_of_the_desk(draft: Draft, line: Activity) -> Activity | None:
    """Book the others' shares of an exercise or assignment, and return the desk's part; None where it has none.

    Contracts that ended by earlier lines show whose the shares are. Where none did, and both sides hold contracts that
    could have, the line is disputed.
    """
    broker = draft.broker
    if settled_without(draft, line.symbol, whole_shares(line)) is not None:
        return line
    contract = _ended_for(draft, line)
    if contract is not None:
        debts, count = broker.owners.owed, max(abs(whole_shares(line)) // OPTION_MULTIPLIER, 1)
        own_quantity, foreign_quantity = debts[contract]
        foreign_count = min(count, foreign_quantity)
        own_count = min(count - foreign_count, own_quantity)
        new_debt = (own_quantity - own_count, foreign_quantity - foreign_count)
        rest = {symbol: one for symbol, one in debts.items() if symbol != contract}
        _note(draft, replace(broker.owners, owed={**rest, contract: new_debt} if any(new_debt) else rest))
        return part_of(draft, line, own_count, count - own_count, moves=True)
    if not broker.foreign_held:
        return line
    own_contracts, others_have = (
        _of_root(line.symbol, symbols) for symbols in (draft.book.positions, broker.foreign_held)
    )
    if own_contracts and (others_have or any(_of_root(line.symbol, (symbol,)) for symbol in broker.owners.owed)):
        dispute(draft, line)
        return None
    return part_of(draft, line, *((1, 0) if own_contracts else (0, 1)), moves=True)


def _has_ended(draft: Draft, line: Activity) -> bool:
    """Return whether the line's contract, or what became of it, was taken from the broker's positions before."""
    ended = f"{line.symbol}{SETTLED}" in draft.broker.seen
    return ended or any(was_counted(draft, replace(line, symbol=it)) for it in (line.symbol, root_of(line.symbol)))


def precedes_its_contract(draft: Draft, line: Activity, quantities: Mapping[str, Quantity]) -> bool:
    """Return whether shares of an exercise or assignment come before the line of the contract that ended for them.

    That line says whose they are. It is to come for a contract of this strike that the broker, with these `quantities`,
    has no more, and for one of others that no book has.
    """
    shares, debts = whole_shares(line), draft.broker.owners.owed
    if settled_without(draft, line.symbol, shares) is not None:
        return False
    if sum(sum(debts[symbol]) for symbol in debts if _has_its_price(symbol, line)) * OPTION_MULTIPLIER >= abs(shares):
        return False
    held = (symbol for symbol in {*draft.book.positions, *draft.broker.foreign_held} if is_contract(symbol))
    gone = [
        symbol
        for symbol in held
        if option_terms(symbol)[1] * draft.expected(symbol) * shares > 0
        and quantities.get(symbol, 0) != draft.expected(symbol)
    ]
    strange = () if was_counted(draft, line) else _contracts_in_no_book(draft)
    return any(_has_its_price(symbol, line) for symbol in (*gone, *strange))


def is_owed(draft: Draft, line: Activity) -> bool:
    """Return whether a contract ended, by a line, for these shares of an exercise or assignment."""
    return any(_has_its_price(symbol, line) for symbol in draft.broker.owners.owed)


def _has_its_price(symbol: str, line: Activity) -> bool:
    """Return whether the line's shares have the strike of this contract as their price."""
    shares = abs(whole_shares(line))
    return _of_root(line.symbol, (symbol,)) and Decimal(repr(option_terms(symbol)[0])) * shares == abs(line.amount)


def _ended_for(draft: Draft, line: Activity) -> str | None:
    """Return the contract that ended for these shares, by its strike, then by their number; None if it is not clear.

    Shares bought are a call's before they are a short put's; shares sold are a put's before they are a short call's.
    """
    debts, shares = draft.broker.owners.owed, abs(whole_shares(line))
    ended_contracts = [symbol for symbol in debts if _of_root(line.symbol, (symbol,))]
    ended_contracts = [
        symbol for symbol in ended_contracts if option_terms(symbol)[1] * line.quantity > 0
    ] or ended_contracts
    same_price = [symbol for symbol in ended_contracts if _has_its_price(symbol, line)]
    if not same_price and len(ended_contracts) > 1:
        return None
    as_many = [symbol for symbol in same_price if sum(debts[symbol]) * OPTION_MULTIPLIER == shares]
    return next(iter(as_many or same_price or ended_contracts), None)


def _of_root(root: str, symbols: Iterable[str]) -> bool:
    """Return True where one of the symbols is a contract of this underlying."""
    return any((contract := parse_occ(symbol)) is not None and contract.root == root for symbol in symbols)


def _note(draft: Draft, owners: Owners) -> None:
    draft.broker = replace(draft.broker, owners=owners)
