"""Splits arrive in parts: the broker's positions, its ledger, adjusted bars and prices, in any order.

Until the parts agree the mark of the shares stays, so that half a split counts as no loss, and nothing is decided on
bars of other shares than those held. `BasketState` has what is missing.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import accumulate

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from daemon.core.book import average_price, rescale
from daemon.core.draft import Draft, names_of
from daemon.core.effects import AskBroker
from daemon.core.events import SPLIT, ActionsAnnounced, Activity, BrokerPosition, HistoryAdjusted
from daemon.core.session import OPENS_MIN, new_york_date, new_york_minute, new_york_text
from daemon.core.state import BROKER_MODES, ZERO, BasketState, Leaver
from strategies.kit.quantity import FINEST, Quantity, exact, floor_to

ANNOUNCED = "announced"  # status of a line about what is to come: nothing is booked by it
SPIN_OFF = "SPIN"  # kind of a line that announces shares for which none leave
PAYS = "DIV"  # and of one that announces a cash dividend, whose price is its USD a share
SPLIT_RATIO = 1.2  # lowest ratio of prices or shares in a split; the smallest common one is 5 for 4
WHOLE_MAX, PARTS_MAX = 100, 10  # n for 1 and 1 for n up to the first, a for b up to the second
_FRACTIONS = sorted(
    {
        *(Fraction(n) for n in range(2, WHOLE_MAX + 1)),
        *(Fraction(1, n) for n in range(2, WHOLE_MAX + 1)),
        *(Fraction(a, b) for a in range(1, PARTS_MAX + 1) for b in range(1, PARTS_MAX + 1) if a != b),
    }
)
"""New shares for each old one, in splits that happen, the fewest first."""
RATIOS = tuple(float(it) for it in _FRACTIONS if max(it, 1 / it) >= SPLIT_RATIO)
COMMON = (*range(2, WHOLE_MAX + 1), 3 / 2, 4 / 3, 5 / 2, 5 / 3, 5 / 4)
_SHARED_RATIOS = (*COMMON, *(1 / ratio for ratio in COMMON))  # for symbols that others hold too
NEAR = 0.02  # tolerance for a dividend of the same day, and rounding
COST_NEAR = Decimal("0.01")  # of the cost: the broker rounds its average price
NIGHTS_MAX = 5  # nights from a split in the broker's books to its announced day, over a long weekend
EXACT = 1e-8  # shares: quantities have nine places, and a ratio is a float


def plain_ratio(old_quantity: Decimal, total: Decimal, least: float = 1.0) -> tuple[Decimal, Decimal] | None:
    """Return the one ratio of a split, new shares for old ones, that makes `total` of `old_quantity`; None for none
    or more.

    Where the broker pays a fraction in cash no ratio below `least` either way counts.
    """
    ratios = _plain_ratios(old_quantity, total, least)
    return (Decimal(ratios[0].numerator), Decimal(ratios[0].denominator)) if len(ratios) == 1 else None


def splits_commonly(old_quantity: Decimal, total: Decimal) -> bool:
    """Return whether one ratio makes `total` of `old_quantity`, and it is a common one."""
    ratio = plain_ratio(old_quantity, total)
    return ratio is not None and any(abs(float(ratio[0] / ratio[1]) - common) <= EXACT for common in _SHARED_RATIOS)


def may_be_cut(old_quantity: Decimal, total: Decimal) -> bool:
    """Return whether several ratios make `total` of `old_quantity`: then fraction and price are unknown."""
    return len(_plain_ratios(old_quantity, total, SPLIT_RATIO)) > 1


def _plain_ratios(old_quantity: Decimal, total: Decimal, least: float) -> list[Fraction]:
    """Return the ratios of splits that make `total` of `old_quantity`, the smallest first.

    The broker rounds `total` down to nine decimals, or to whole shares where it pays the fraction in cash.
    """
    over = {it: old_quantity * it.numerator / it.denominator - total for it in _FRACTIONS}
    exactly = [it for it, fraction in over.items() if 0 <= fraction < FINEST]
    cut = [it for it, fraction in over.items() if 0 <= fraction < 1 and not total % 1 and max(it, 1 / it) >= least]
    return exactly if len(exactly) == 1 else cut


def factor(one: float, other: float) -> float:
    """Return the ratio of the greater price to the smaller one."""
    return max(one / other, other / one)


# --- the parts ----------------------------------------------------------------------------------------------------


def note_history(draft: Draft, event: HistoryAdjusted) -> None:
    """Note adjusted bars: they show a split whose ledger line is awaited, or end the wait for bars after that line."""
    go_ex(draft)
    basket, symbol = draft.basket, event.symbol
    change = _changed_by(draft, event)
    if symbol in basket.unadjusted:
        if change is None or factor(*change) >= SPLIT_RATIO:
            draft.basket = replace(basket, unadjusted=_without(basket.unadjusted, symbol))
        return
    mark = float(draft.marks.get(symbol, ZERO))
    if change is None or mark <= 0 or symbol not in draft.book.positions or symbol in basket.splits:
        return
    old_close, new_close = change
    if factor(old_close, new_close) < SPLIT_RATIO or factor(mark, old_close) >= factor(mark, new_close):
        return
    if _is_noted_near(draft, f"{symbol}{_NO_SPLIT}", new_york_date(draft.now_ns)):
        return
    certain = draft.identity.mode in BROKER_MODES and _is_common(factor(old_close, new_close))
    if certain and not _spins_off(draft, symbol):
        basket = replace(basket, sure=(*basket.sure, symbol))
        draft.first_time(_sure_key(symbol, new_york_date(draft.now_ns)))
    draft.basket = replace(basket, splits=(*basket.splits, symbol))


def _sure_key(symbol: str, day: date) -> str:
    return f"{symbol} split without doubt {day.isoformat()}"


def _changed_by(draft: Draft, event: HistoryAdjusted) -> tuple[float, float] | None:
    """Return the newest close that known and adjusted bars share, as (known, adjusted); None without one."""
    old = {bar.start_ns: bar.close for bar in draft.desk.decides.known(draft).get(event.symbol, ())}
    close_pairs = [(old[bar.start_ns], bar.close) for bar in event.bars if bar.start_ns in old]
    return close_pairs[-1] if close_pairs and min(close_pairs[-1]) > 0 else None


def _is_common(ratio: float) -> bool:
    """Return True near a common split ratio; spin-offs and large dividends are seldom near one."""
    return any(abs(ratio / common - 1.0) <= NEAR for common in COMMON)


def note_booking(draft: Draft, symbol: str, old_mark: Decimal | None) -> None:
    """End the wait for a split's booked ledger line; wait for new bars where the known ones are of the old shares."""
    basket = draft.basket
    draft.basket = basket = replace(
        basket,
        splits=_without(basket.splits, symbol),
        sure=_without(basket.sure, symbol),
        to_come=_without(basket.to_come, symbol),
        apart=_without(basket.apart, symbol),
    )
    mark = draft.marks.get(symbol, ZERO)
    if not old_mark or mark <= 0 or symbol in basket.unadjusted:
        return
    bars = draft.desk.decides.known(draft).get(symbol, ())
    close = bars[-1].close if bars else 0.0
    split = factor(float(mark), float(old_mark)) >= SPLIT_RATIO
    if split and close > 0 and factor(close, float(old_mark)) < factor(close, float(mark)):
        draft.basket = replace(basket, unadjusted=(*basket.unadjusted, symbol))


def note_line(draft: Draft, line: Activity) -> None:
    """Remember that the ledger's line of a split is booked."""
    draft.first_time(_booking_key(line.symbol, new_york_date(line.time_ns)))


def _was_booked(draft: Draft, symbol: str) -> bool:
    """Return whether a split of the symbol was booked for today or the nights before."""
    today = new_york_date(draft.now_ns)
    return any(_booking_key(symbol, today - timedelta(days=days)) in draft.broker.seen for days in range(NIGHTS_MAX))


def _booking_key(symbol: str, day: date) -> str:
    return f"{symbol} split {day.isoformat()}"


def note_left_out(draft: Draft, symbol: str) -> None:
    """Remember that a fraction was dropped from the book until its cash comes."""
    draft.first_time(_fraction_key(symbol))


def was_left_out(draft: Draft, symbol: str) -> bool:
    """Return whether a fraction of the symbol was dropped from the book, which counted as no loss."""
    return _fraction_key(symbol) in draft.broker.seen


def _fraction_key(symbol: str) -> str:
    return f"{symbol} fraction left out"


def note_announcement(draft: Draft, line: Activity) -> None:
    """Note a split, spin-off or merger of today before the open: prices of these shares may be of others.

    A spin-off or merger of what is held is noted at any time: it may explain the broker's positions. A split waits for
    its ledger line as if the history had shown it, unless that line was booked already.
    """
    symbol, now_ns = line.symbol, draft.now_ns
    if line.kind == PAYS:
        _go_ex_unpaid(draft, line)
        return
    is_held = symbol in draft.book.positions and draft.desk.holds.by_basket
    if line.kind != "SPLIT" and is_held:
        _keep_announcement(draft, line)
    basket = draft.basket
    today = line.ex_date == new_york_date(now_ns).isoformat() and new_york_minute(now_ns) < OPENS_MIN
    if not (today and is_held) or symbol in basket.unadjusted or not draft.first_time(line.id):
        return
    if line.kind == "SPLIT" and _was_booked(draft, symbol):
        return
    splits = (*basket.splits, symbol) if line.kind == "SPLIT" and symbol not in basket.splits else basket.splits
    draft.basket = replace(basket, splits=splits, leapt={**basket.leapt, symbol: now_ns})


def note_actions(draft: Draft, event: ActionsAnnounced) -> None:
    """Note what is announced in a dry run, whose paper broker books splits and cash dividends alone.

    A large dividend, or another action, explains why bars changed as by a split: nothing waits for one.
    """
    for action in event.actions:
        symbol, mark = action.symbol, draft.marks.get(action.symbol, ZERO)
        small = action.cash and factor(float(mark or 1), float(max(mark - action.cash, FINEST))) < SPLIT_RATIO
        if symbol not in draft.book.positions or action.kind == SPLIT or small:
            continue
        if not draft.first_time(f"{symbol}{_NO_SPLIT}{action.ex_date}"):
            continue
        draft.basket = replace(draft.basket, splits=_without(draft.basket.splits, symbol))
        if not action.cash:
            text = f"a dry run does not book its {action.kind} of {action.ex_date}: the shares stay as they are"
            draft.alarm("shares_renamed", f"{symbol}: {text}")


def note_market_split(draft: Draft, symbol: str, from_ns: int) -> None:
    """Note a split that market data show from this open on: shares held from before it wait for the ledger's line.

    Not where the line was booked already, which an earlier session's is.
    """
    basket, position, session = draft.basket, draft.book.positions.get(symbol), draft.session.session
    if draft.identity.by_tape or session is None or from_ns < session.open_ns:
        return
    old = position is not None and position.opened_ns < from_ns
    if old and symbol not in basket.splits and not _was_booked(draft, symbol):
        draft.basket = replace(basket, splits=(*basket.splits, symbol))


def note_taken_over(draft: Draft, symbol: str, *, paid_out: bool) -> None:
    """Note that the book took a split over from the broker's positions: its ledger line is not booked again.

    `paid_out`: the fraction for which cash comes was not among the positions.
    """
    today = new_york_date(draft.now_ns)
    if paid_out:
        _note_day(draft, f"{symbol}{_PAID_OUT}", today)
    _note_day(draft, _takeover_key(symbol), today)
    draft.first_time(_booking_key(symbol, today))


def end_waits(draft: Draft) -> None:
    """End all waits: a person accepted the broker's positions, and with them the splits that these show."""
    draft.basket = replace(draft.basket, splits=(), sure=(), apart=(), to_come=(), unadjusted=(), leapt={})


def was_taken_over(draft: Draft, line: Activity) -> bool:
    """Return whether the ledger's line reports a split that the book took over from the broker's positions.

    Positions of a day include the splits up to it, and may include one dated some nights later. A line of a later day
    counts unless only lines of other days have reported the takeover before.
    """
    day = new_york_date(line.time_ns).isoformat()
    for takeover in _takeovers(draft, line):
        told_days = [key[-len(day) :] for key in draft.broker.seen if key.startswith(_told_key(takeover))]
        if takeover[-len(day) :] >= day or not told_days or day in told_days:
            return True
    return False


def note_told(draft: Draft, line: Activity) -> None:
    """Note that this line of the ledger reported a split taken over from the broker's positions."""
    for takeover in _takeovers(draft, line):
        _note_day(draft, _told_key(takeover), new_york_date(line.time_ns))


def _takeovers(draft: Draft, line: Activity) -> list[str]:
    """Return the notes of takeovers of the line's symbol, from some nights before its day on."""
    name, day = _takeover_key(line.symbol), new_york_date(line.time_ns) - timedelta(days=NIGHTS_MAX)
    return [key for key in draft.broker.seen if key.startswith(name) and key >= f"{name}{day.isoformat()}"]


def _told_key(takeover: str) -> str:
    return f"told: {takeover} "


def note_paid_out(draft: Draft, line: Activity) -> None:
    """Note that the fraction of a share which this cash pays for is not in the book."""
    _note_day(draft, f"{line.symbol}{_PAID_OUT}", new_york_date(line.time_ns))


def was_paid_out(draft: Draft, line: Activity) -> bool:
    """Return whether the fraction of a share which this cash pays for is not in the book."""
    return _is_noted_near(draft, f"{line.symbol}{_PAID_OUT}", new_york_date(line.time_ns))


def _takeover_key(symbol: str) -> str:
    return f"{symbol} split by positions "


def note_takeover_day(draft: Draft, symbol: str) -> None:
    """Note that the broker's quantity of the symbol was taken over, including what lines of its day will report."""
    _note_day(draft, f"{symbol}{_TAKEN_OVER}", new_york_date(draft.now_ns))


def was_counted(draft: Draft, line: Activity) -> bool:
    """Return whether the shares of a line were taken over with the broker's positions, on its day or later."""
    name = f"{line.symbol}{_TAKEN_OVER}"
    first_key = f"{name}{new_york_date(line.time_ns).isoformat()}"
    return any(key.startswith(name) and key >= first_key for key in draft.broker.seen)


def note_moved(draft: Draft, line: Activity) -> None:
    """Note shares that came or left without a trade, as from another broker: their number shows no split."""
    _note_day(draft, f"{line.symbol}{_MOVED}{exact(line.quantity)} by {line.id} ", new_york_date(draft.now_ns))


def _were_moved(draft: Draft, symbol: str, change: Quantity) -> bool:
    """Return whether lines of the last nights, whatever their dates, moved `change` shares, one or several together."""
    name, days = f"{symbol}{_MOVED}", near_days(new_york_date(draft.now_ns))
    sums: set[Quantity] = {0}
    for key in draft.broker.seen:
        if key.startswith(name) and key.endswith(tuple(days)):
            quantity = exact(Decimal(key.removeprefix(name).partition(" ")[0]))
            sums |= {some + quantity for some in sums}
    return change in sums


def note_positions(draft: Draft, positions: Iterable[BrokerPosition]) -> dict[str, str]:
    """Compare the broker's positions with the book: a symbol whose quantity differs keeps its mark until both agree.

    A quantity at a split's ratio for the same cost is a split without its ledger line yet, and so is any difference of
    a symbol with cash in lieu, or of which the broker has some though a line took all; returns these symbols, each with
    a text for the operator. What refused orders of others filled is no such difference.
    """
    go_ex(draft)
    broker_positions = {position.symbol: position for position in positions}
    book_positions, basket = draft.book.positions, draft.basket
    lieu_symbols = {line.symbol for line in basket.early_lieu}
    left_symbols = {leaver.symbol for leaver in basket.leavers}
    apart = tuple(
        symbol
        for symbol in book_positions
        if symbol not in draft.broker.filled  # the report is older than a fill
        and _broker_quantity(broker_positions.get(symbol)) != draft.expected(symbol)
    )
    splits = tuple(symbol for symbol in basket.splits if symbol in book_positions)  # a sold position waits for nothing
    sure = tuple(symbol for symbol in basket.sure if symbol in book_positions)
    changed = {symbol: at_split(draft, symbol, broker_positions.get(symbol)) for symbol in apart}
    pending_splits = tuple(
        symbol
        for symbol, (old_quantity, new_quantity) in changed.items()
        if not _were_moved(draft, symbol, new_quantity - old_quantity)
        and (
            symbol in splits
            or symbol in lieu_symbols
            or (symbol in left_symbols and symbol in broker_positions)
            or is_split(draft, symbol, broker_positions.get(symbol))
        )
    )
    draft.basket = replace(basket, apart=apart, to_come=pending_splits, splits=splits, sure=sure)
    return {symbol: _split_text(draft, symbol, broker_positions.get(symbol)) for symbol in pending_splits}


def _broker_quantity(position: BrokerPosition | None) -> Quantity:
    return 0 if position is None else exact(position.quantity)


def purchases_around(draft: Draft, symbol: str) -> list[tuple[Quantity, Quantity]]:
    """Return what others may have bought around a split since the last close: (before it, after it), nothing first.

    Before it counts what is in no book, of refused orders; after it what is counted as others'.
    """
    close_date = draft.broker.owners.noted
    orders = [order for order in draft.broker.foreign.values() if order.symbol == symbol and order.side > 0]
    filled = [order.filled for order in orders if new_york_date(order.submitted_ns).isoformat() >= close_date]
    after_sums = list(accumulate(reversed(filled), initial=0))
    return [(before, after) for after in after_sums for before in draft.broker.refused_until(symbol)]


def at_split(draft: Draft, symbol: str, position: BrokerPosition | None) -> tuple[Quantity, Quantity]:
    """Return how many shares of the book a split met, and how many it made of them, by the broker's position.

    What others bought since, and what became of their shares in no book, is left out. They bought before the split or
    after it: the one reading with a common ratio counts, else that with the fewest new shares.
    """
    quantity, expected = _broker_quantity(position), draft.expected(symbol)
    refused = draft.broker.refused_of(symbol)
    rest = quantity - refused
    if refused < 0 or expected <= 0 or rest in (0, expected):
        return expected, rest
    readings, plain = [], []
    for before, after in purchases_around(draft, symbol):
        old, new = expected - after, rest - after + before
        if old <= 0 or new <= 0:
            continue
        of_book = exact(floor_to(Decimal(new) * old / (old + before), FINEST))
        if not after:
            readings.append((old, of_book))
        if splits_commonly(Decimal(old + before), Decimal(new)):
            plain.append((old, of_book))
    if len(plain) == 1:
        return plain[0]
    return min(readings, key=lambda reading: reading[1], default=(expected, rest))


def is_split(draft: Draft, symbol: str, position: BrokerPosition | None) -> bool:
    """Return True when the broker's shares are those of the book at a split's ratio: see `split_into`."""
    return split_into(draft, symbol, position) is not None


def split_into(draft: Draft, symbol: str, position: BrokerPosition | None) -> Decimal | None:
    """Return how many shares a split made of the book's, by the broker's position; None where that shows no split.

    The quantity is at a split's ratio and costs what the book's shares cost. A fraction in no book may be older or come
    from the split. The cost of others' shares is unknown: with these a common ratio of all shares is enough. Of several
    ratios the one with the fewest shares counts, which leaves the least cash to come.
    """
    return next((new_quantity for _, new_quantity in _splits_into(draft, symbol, position)), None)


def splits_others_short(draft: Draft, symbol: str, broker_quantity: Decimal) -> bool:
    """Return whether a short position is others' alone, multiplied by a common split's ratio."""
    foreign_quantity = -draft.broker.foreign_held.get(symbol, 0)
    if draft.held(symbol) or foreign_quantity <= 0:
        return False
    return any(
        _fraction(foreign_quantity, -broker_quantity, ratio, draft.fractional) is not None for ratio in _SHARED_RATIOS
    )


def _splits_into(draft: Draft, symbol: str, position: BrokerPosition | None) -> Iterator[tuple[float, Decimal]]:
    """Yield each ratio that explains the broker's position, the smallest first, with the shares that it makes."""
    book_position, foreign_quantity = draft.book.positions[symbol], draft.broker.foreign_held.get(symbol, 0)
    expected, new_shares = at_split(draft, symbol, position)
    broker_quantity = Decimal(new_shares)
    if position is None or broker_quantity <= 0 or book_position.quantity <= 0:
        return
    if abs(broker_quantity - expected) < 1 and _was_booked(draft, symbol):
        return  # left over by the split that is booked
    if _were_moved(draft, symbol, new_shares - expected):
        return
    price = position.average_price
    all_shares = expected - draft.broker.beside_fractions.get(symbol, 0)
    cost_is_unknown = bool(foreign_quantity or draft.broker.refused_of(symbol))
    ratios = _SHARED_RATIOS if cost_is_unknown else RATIOS
    for old_quantity in dict.fromkeys((all_shares, expected)):
        extra_cost = (
            price * abs(old_quantity - all_shares) * broker_quantity / old_quantity if old_quantity > 0 else ZERO
        )
        apart = abs(broker_quantity * price - book_position.cost) - COST_NEAR * book_position.cost - extra_cost
        for ratio in ratios:
            fraction = _fraction(old_quantity, broker_quantity, ratio, draft.fractional)
            if fraction is not None and (cost_is_unknown or apart <= price * Decimal(fraction)):
                new_quantity = round(Decimal(float(old_quantity) * ratio), 8)  # a ratio is a float
                yield ratio, broker_quantity if abs(new_quantity - broker_quantity) <= EXACT else new_quantity


def _split_text(draft: Draft, symbol: str, position: BrokerPosition | None) -> str:
    """Return the alarm's text on a split without its line; where several ratios explain it, with these and the cure."""
    book_quantity = draft.book.positions[symbol].quantity
    detail = f"{symbol}: broker {_broker_quantity(position)}, book {book_quantity}, no line in the ledger"
    ratios = sorted({ratio for ratio, _ in _splits_into(draft, symbol, position)})
    if len(ratios) < 2:
        return detail
    fractions = [Fraction(ratio).limit_denominator(WHOLE_MAX) for ratio in ratios]
    words = names_of([f"{ratio.numerator} for {ratio.denominator}" for ratio in fractions])
    cure = "no new risk until its line comes; if it does not, rltraderctl accept-broker takes what the broker has"
    return f"{detail}; it may be {words}: {cure}"


def _fraction(old_quantity: Quantity, broker_quantity: Decimal, ratio: float, fractional: bool) -> float | None:
    """Return the fraction of a share that a split of this ratio left out of the position, 0.0 for none.

    None where there was no such split. A desk of whole shares compares whole positions only. Unless the ratio is exact,
    the change must be a share or more: a smaller one may be a fraction that somebody traded.
    """
    exact_quantity = float(old_quantity) * ratio
    if abs(float(broker_quantity) - exact_quantity) <= EXACT:
        return 0.0
    whole = math.floor(broker_quantity)
    cut = (
        whole == math.floor(exact_quantity + EXACT) >= 1
        and abs(broker_quantity - old_quantity) >= 1
        and (whole == broker_quantity or not fractional)
    )
    return exact_quantity - whole + float(broker_quantity - whole) if cut else None


def on_session_over(draft: Draft) -> None:
    """End the wait for a split's ledger line after one session with broker reports.

    The wait lasts some nights where the ratio leaves no doubt, and as long as the broker's quantity differs. Elsewhere
    the cause may have been a large dividend at a split's ratio. A dry run waits until what it is was announced.
    """
    basket, broker = draft.basket, draft.broker
    if draft.identity.dry:
        splits = tuple(symbol for symbol in basket.splits if symbol in draft.book.positions)
        for symbol in splits:
            text = f"its bars show a split, and none is announced: no new risk until one is; else close {symbol}"
            draft.alarm("split_awaited", f"{symbol}: {text}", once=True, about=symbol)
        draft.basket = replace(basket, splits=splits)
        return
    if broker.reported_ns < broker.started_ns:  # its ledger could not report yet, however many sessions
        return
    nights = [new_york_date(draft.now_ns) - timedelta(days=days) for days in range(NIGHTS_MAX)]
    sure = tuple(it for it in basket.sure if any(_sure_key(it, day) in broker.seen for day in nights))
    splits = tuple(symbol for symbol in basket.splits if symbol in sure or symbol in basket.apart)
    draft.basket = replace(basket, splits=splits, sure=sure)


# --- consequences -----------------------------------------------------------------------------------------------------


def believed(draft: Draft, symbol: str, price: Decimal) -> bool:
    """Return False for a price that a split would explain, until a later report has the quantity.

    If that quantity agrees, the shares are the same: the price is a gain or a loss.
    """
    reference, leapt = draft.marks.get(symbol) or average_price(draft.book, symbol) or ZERO, draft.basket.leapt
    real = draft.desk.holds.by_basket and draft.identity.mode in BROKER_MODES
    if (
        not (real and symbol in draft.book.positions and reference > 0)
        or factor(float(price), float(reference)) < SPLIT_RATIO
    ):
        if symbol in leapt:
            draft.basket = replace(draft.basket, leapt={s: ns for s, ns in leapt.items() if s != symbol})
        return True
    if symbol not in leapt:
        draft.basket = replace(draft.basket, leapt={**leapt, symbol: draft.now_ns})
        draft.effects.append(AskBroker(f"{symbol}: {price} after {reference} USD: how many are there?"))
        return False
    return draft.broker.asked_ns > leapt[symbol]


def is_awaited(basket: BasketState, symbol: str) -> bool:
    """Return whether a price of the symbol may be for shares other than the book's."""
    return symbol in basket.splits or symbol in basket.to_come or symbol in basket.leapt


def undecidable(basket: BasketState) -> str:
    """Return why nothing can be decided now, "" if it can: bars and shares of a split do not match yet."""
    late = sorted({*basket.splits, *basket.to_come})
    if late:
        return f"the broker's ledger does not tell the split of {', '.join(late)} yet"
    if basket.unadjusted:
        return f"the bars of {', '.join(sorted(basket.unadjusted))} are not adjusted for the split yet"
    return ""


def only_awaited_differ(draft: Draft, positions: Iterable[BrokerPosition], differences: Iterable[str]) -> bool:
    """Return True when awaited ledger lines, or cash in lieu, explain all differences of a report.

    Awaited are splits, and shares that leave and come by a merger or a spin-off that was announced or has begun.
    """
    waiting_symbols = {*draft.basket.to_come, *replaced_symbols(draft, positions)}
    return bool(waiting_symbols) and {text.partition(":")[0] for text in differences} <= {*waiting_symbols, "cash"}


def replaced_symbols(draft: Draft, positions: Iterable[BrokerPosition]) -> set[str]:
    """Return shares that left and whose replacement no line reports yet, and shares that came and are in no book.

    They left by a line, or all of them are gone at the broker while their merger is announced. New shares may replace
    them, or come from an announced spin-off, or be paid for and leave by a later line. This holds for some nights only:
    the lines of such an action come together or soon after each other.
    """
    announced_kinds = {
        symbol: kind
        for symbol, (kind, day) in _announced(draft).items()
        if symbol in draft.book.positions and _is_near(draft, date.fromisoformat(day))
    }
    quantities = {position.symbol: exact(position.quantity) for position in positions}
    paid_symbols = {
        symbol
        for symbol, quantity in quantities.items()
        if quantity > draft.expected(symbol) and is_paid_for(draft, symbol)
    }
    coming_symbols = {it.symbol for it in draft.broker.waiting_lines if it.quantity > 0 and it.kind != "OPTRD"}
    if coming_symbols:
        held_symbols = {*draft.book.positions, *draft.broker.foreign_held}
        paid_symbols |= (held_symbols - quantities.keys()) | (coming_symbols & quantities.keys())
    if not draft.basket.leavers and not announced_kinds:
        return paid_symbols
    leaver_symbols = {it.symbol for it in draft.basket.leavers if _is_near(draft, _left_on(it))}
    gone_symbols = {symbol for symbol in leaver_symbols if quantities.get(symbol, 0) < draft.expected(symbol)}
    merging_symbols = {symbol for symbol, kind in announced_kinds.items() if kind != SPIN_OFF}
    gone_symbols |= {symbol for symbol in merging_symbols - quantities.keys() if draft.expected(symbol) > 0}
    new = {
        symbol
        for symbol, quantity in quantities.items()
        if quantity > draft.expected(symbol) and (symbol in announced_kinds or not draft.expected(symbol))
    }
    return paid_symbols | (gone_symbols | new if gone_symbols or SPIN_OFF in announced_kinds.values() else set())


def note_dividend(draft: Draft, line: Activity) -> bool:
    """Note a cash dividend as large as a split's change of the price and paid before the mark falls by it.

    Exchanges let one of a quarter of the price or more trade ex the day after its payment. A wait for a split, which
    keeps the mark some nights past the ex-date, ends where this is what the bars show. Returns whether it is such a
    dividend: its cash is no gain then, and the fall is no loss, see `go_ex`. So is one that ended that wait unpaid.
    """
    if f"{line.symbol}{_OWED}{line.ex_date}" in draft.broker.seen:
        return True
    symbol, held, today = line.symbol, draft.held(line.symbol), new_york_date(draft.now_ns).isoformat()
    nears = line.ex_date in near_days(new_york_date(draft.now_ns))
    mark, waits = draft.marks.get(symbol, ZERO), symbol in draft.basket.splits
    real = draft.desk.holds.by_basket and draft.identity.mode in BROKER_MODES
    if not (real and nears and held > 0 and mark > 0) or (line.ex_date <= today and not waits):
        return False
    per_share = line.amount / held
    if factor(float(mark), float(max(mark - per_share, FINEST))) < SPLIT_RATIO:
        return False
    if waits and not _end_wait_for(draft, symbol, per_share, line.ex_date):
        return False
    draft.first_time(f"{symbol}{_GOES_EX}{per_share} {line.ex_date}")
    return True


def _end_wait_for(draft: Draft, symbol: str, per_share: Decimal, ex_date: str) -> bool:
    """End a wait for a split where the bars fell by this dividend; return whether they did.

    The mark may be older than the last close: what the price moved since is less than a quarter of the dividend.
    """
    bars, mark = draft.desk.decides.known(draft).get(symbol, ()), draft.marks.get(symbol, ZERO)
    before = [bar for bar in bars if new_york_text(bar.start_ns)[:10] < ex_date]
    closes = [bar.close for bar in (*before[-1:], *bars[-1:])]  # the newest fell, adjusted or not
    apart_most = max(NEAR * float(mark), float(per_share) / 4)
    if not any(abs(float(mark - per_share) - close) <= apart_most for close in closes):
        return False
    basket = draft.basket
    draft.basket = replace(basket, splits=_without(basket.splits, symbol), sure=_without(basket.sure, symbol))
    return True


def _go_ex_unpaid(draft: Draft, line: Activity) -> None:
    """Let an announced dividend that is paid later explain the fall that is waited for as a split: it is no loss."""
    symbol, per_share = line.symbol, line.price or ZERO
    waits = symbol in draft.basket.splits and symbol in draft.book.positions and draft.marks.get(symbol, ZERO) > 0
    nears = line.ex_date in near_days(new_york_date(draft.now_ns))
    if waits and nears and _end_wait_for(draft, symbol, per_share, line.ex_date):
        draft.first_time(f"{symbol}{_OWED}{line.ex_date}")
        draft.first_time(f"{symbol}{_GOES_EX}{per_share} {line.ex_date}")
        go_ex(draft)


def go_ex(draft: Draft) -> None:
    """Lower the mark by each large dividend that was paid and whose ex-date is here, which is no loss."""
    today = new_york_date(draft.now_ns).isoformat()
    for name in [it for it in draft.broker.seen if _GOES_EX in it and it[-len(today) :] <= today]:
        symbol, _, rest = name.partition(_GOES_EX)
        if not draft.first_time(f"{symbol} went ex {rest}") or draft.marks.get(symbol, ZERO) <= 0:
            continue
        per_share, book = Decimal(rest.partition(" ")[0]), draft.book
        value = per_share * draft.held(symbol)
        draft.marks = {**draft.marks, symbol: max(draft.marks[symbol] - per_share, FINEST)}
        draft.put_book(replace(rescale(book, book.equity, -value), equity=book.equity - value))


def note_paid_for(draft: Draft, symbol: str) -> None:
    """Note that shares were sold for a merger's cash before the line by which they leave."""
    _note_day(draft, f"{symbol}{_PAID_FOR}", new_york_date(draft.now_ns))


def is_paid_for(draft: Draft, symbol: str) -> bool:
    """Return whether the desk's shares of the symbol were paid for recently, before they left."""
    return _is_noted_near(draft, f"{symbol}{_PAID_FOR}", new_york_date(draft.now_ns))


def _note_day(draft: Draft, name: str, day: date) -> None:
    draft.first_time(f"{name}{day.isoformat()}")


def _is_noted_near(draft: Draft, name: str, day: date) -> bool:
    """Return whether this was noted for a day around that one."""
    return any(f"{name}{near}" in draft.broker.seen for near in near_days(day))


def _left_on(leaver: Leaver) -> date:
    return new_york_date(0 if isinstance(leaver.since_ns, UnsetType) else leaver.since_ns)


def _is_near(draft: Draft, day: date) -> bool:
    return abs((new_york_date(draft.now_ns) - day).days) < NIGHTS_MAX


def _announced(draft: Draft) -> dict[str, tuple[str, str]]:
    announced = draft.basket.announced
    return {} if isinstance(announced, UnsetType) else announced


def spin_offs_to_come(draft: Draft) -> int:
    """Return how many spin-offs of the desk's shares are announced for a day around today and not booked yet."""
    return sum(
        kind == SPIN_OFF and symbol in draft.book.positions and _is_near(draft, date.fromisoformat(day))
        for symbol, (kind, day) in _announced(draft).items()
    )


_SPINS_OFF, _SPUN_OFF = " spins off ", "shares spun off "  # followed by the day, like those below
_NO_SPLIT = " changes by no split "
_GOES_EX = " goes ex "  # followed by the amount a share and the ex-date
_OWED = " owes the dividend of "
_PAID_FOR, _PAID_OUT, _MOVED, _TAKEN_OVER = " was paid for ", " split paid out ", " moved ", " taken over "


def _keep_announcement(draft: Draft, line: Activity) -> None:
    with contextlib.suppress(ValueError):
        day = date.fromisoformat(line.ex_date)
        if line.kind == SPIN_OFF:
            _note_day(draft, f"{line.symbol}{_SPINS_OFF}", day)
            _doubt_splits(draft, line.symbol)
            if _is_noted_near(draft, _SPUN_OFF, day):
                return
        draft.basket = replace(draft.basket, announced={**_announced(draft), line.symbol: (line.kind, line.ex_date)})


def near_days(day: date) -> list[str]:
    """Return the days around this one on which the other lines of its action may be dated."""
    return [(day + timedelta(days=days)).isoformat() for days in range(1 - NIGHTS_MAX, NIGHTS_MAX)]


def _spins_off(draft: Draft, symbol: str) -> bool:
    """Return whether a spin-off may have changed a share's bars: its own, or one without an announcement."""
    parents = _spinning_off(draft)
    return symbol in parents if parents else _is_noted_near(draft, _SPUN_OFF, new_york_date(draft.now_ns))


def _spinning_off(draft: Draft) -> set[str]:
    """Return the desk's shares with a spin-off announced for a day around today, reported by its line or not."""
    symbols, today = {*draft.book.positions, *_announced(draft)}, new_york_date(draft.now_ns)
    return {symbol for symbol in symbols if _is_noted_near(draft, f"{symbol}{_SPINS_OFF}", today)}


def _doubt_splits(draft: Draft, *symbols: str) -> None:
    """Doubt splits that adjusted bars showed: a spin-off changes them too, whatever its ratio."""
    sure = tuple(symbol for symbol in draft.basket.sure if symbol not in symbols)
    draft.basket = replace(draft.basket, sure=sure)


def note_spun_off(draft: Draft) -> None:
    """Note that a line has brought the shares of a spin-off: its announcement explains no further ones."""
    _doubt_splits(draft, *(_spinning_off(draft) or draft.basket.sure))
    _note_day(draft, _SPUN_OFF, new_york_date(draft.now_ns))
    rest = {symbol: (kind, day) for symbol, (kind, day) in _announced(draft).items() if kind != SPIN_OFF}
    draft.basket = replace(draft.basket, announced=rest or UNSET)


def _without(symbols: tuple[str, ...], symbol: str) -> tuple[str, ...]:
    return tuple(other for other in symbols if other != symbol)
