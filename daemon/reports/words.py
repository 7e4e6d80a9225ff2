"""Texts about a session: the first sentences of its page and its table, and the formats of numbers.

Plain text; the caller escapes it for markup.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

from daemon.core.instruments.option_market import parse_occ
from daemon.core.orders import TERMINAL
from daemon.core.session import NEW_YORK, new_york_text
from daemon.page_kit.svg import MINUS
from daemon.reports.execution_quality import Quality
from daemon.reports.record import Day, Notice
from strategies.kit.units import SECOND_NS

NONE = "\N{EN DASH}"


def money(value: Decimal, *, sign: bool = False) -> str:
    """Return USD with two decimals, thousands separators and a true minus; with `sign` a gain has its plus."""
    return f"{value:{'+' if sign else ''},.2f}".replace("-", MINUS)


def number(value: Decimal, decimals: int) -> str:
    """Return a number with thousands separators and a true minus."""
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def number_text(value: Decimal | None, decimals: int) -> str:
    """Return the number, a dash if unknown."""
    return NONE if value is None else number(value, decimals)


def price(value: Decimal) -> str:
    """Return USD a share: cents, and up to four decimals if needed."""
    text = f"{value:,.4f}"
    return text[:-2] if text.endswith("00") else text.removesuffix("0")


def clock(time_ns: int, *, seconds: bool = False) -> str:
    """Return the New York time of day, "never" for 0."""
    local = datetime.fromtimestamp(time_ns // SECOND_NS, UTC).astimezone(NEW_YORK)
    return local.strftime("%H:%M:%S" if seconds else "%H:%M") if time_ns else "never"


def long_date(text: str) -> str:
    """Return a date in long form: 2024-12-03 is "Tuesday, 3 December 2024"."""
    day = date.fromisoformat(text)
    return f"{day:%A}, {day.day} {day:%B} {day.year}"


def instrument(symbol: str) -> str:
    """Return an OCC symbol as text ("SPY 3 Dec 24 458 call"); a share's symbol unchanged."""
    contract = parse_occ(symbol)
    if contract is None:
        return symbol
    expiry, right = date.fromisoformat(contract.expiry), "call" if contract.right > 0 else "put"
    return f"{contract.root} {expiry.day} {expiry:%b %y} {contract.strike.normalize():f} {right}"


def plural(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun: "1 order", "2 orders"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def kind_of(mode: str, account: str = "", *, synthetic: bool = False, tape: str = "") -> str:
    """Return a journal's mode, account and bars as text."""
    bars = "synthetic bars" if synthetic else f"tape {tape}" if tape else ""
    return ", ".join(filter(None, (mode, account and f"{account} account", bars)))


def about(day: Day) -> str:
    """Return desk, strategy, mode and date: the heading of a session's page and table."""
    kind = kind_of(day.mode, day.account, synthetic=day.synthetic, tape=day.tape)
    return " \N{MIDDLE DOT} ".join(filter(None, (day.desk, day.strategy, kind, day.session.date)))


def first_sentence(day: Day) -> str:
    """Summarise the day's result."""
    when = f"On {long_date(day.session.date)}"
    if day.half_day:
        when += f", a half day that {'closes' if not day.ended else 'closed'} at {clock(day.session.close_ns)},"
    if not day.ended:
        end_text = f"up to {clock(day.last_ns)} New York" if day.last_ns else "before its first event"
        if day.equity and (clock_text := clock(day.equity[-1][0])) != clock(day.last_ns):
            end_text += f"; the equity as of {clock_text}"  # recorded while something is held, and at the end
        when = f"{when.rstrip(',')}, so far ({end_text}),"
    return f"{when} {_gain(day)} {_orders(day)}.{_cost(day)}{_denied_text(day)}"


def _gain(day: Day) -> str:
    gain = day.gain
    if gain is None:
        return "no equity was recorded;"
    start = day.equity_before if day.equity_before is not None else day.equity[0][1]
    share = f" ({number(gain / start * 100, 2).replace(MINUS, '')} %)" if start > 0 else ""
    if not gain:
        return "the desk neither gained nor lost"
    return f"the desk {'gained' if gain > 0 else 'lost'} {money(abs(gain))} USD{share}"


def _orders(day: Day) -> str:
    quality = day.quality
    if not quality.orders:
        return "and sent no order" if day.gain is not None else "no order was sent"
    filled_orders = sum(order.filled == order.quantity for order in quality.orders)
    partly = sum(0 < order.filled < order.quantity for order in quality.orders)
    how = "all filled" if filled_orders == len(quality.orders) else f"{filled_orders:,} filled"
    if partly:
        how += f", {partly:,} in part"
    return f"with {plural(len(quality.orders), 'order')}, {how}"


def _cost(day: Day) -> str:
    """Return the cost of the fills against the arrival prices, and the fees."""
    quality = day.quality
    if quality.slippage_bp is None:
        return ""
    cost = quality.slippage_usd
    worse = f"{money(abs(cost))} USD ({number(abs(quality.slippage_bp), 1)} bp) {'worse' if cost > 0 else 'better'}"
    than = "The fills were as good as" if not cost else f"The fills were {worse} than"
    by_the_day = day.fees_by_the_day
    fees_usd = quality.fees_usd + by_the_day
    fees = f", and fees took {money(fees_usd)} USD" if fees_usd else ""
    fees += f", {money(by_the_day)} USD of it booked by the day" if by_the_day else ""
    return f" {than} {reference(quality)}{fees}."


def _denied_text(day: Day) -> str:
    """Return how many of the checked decisions a gate denied, and which gate denied most."""
    denied_count = sum(count for _, outcome, count in day.decisions if outcome == "denied")
    if not denied_count or not day.denials:
        return ""
    entries = denied_count + sum(count for _, outcome, count in day.decisions if outcome == "ordered")
    wishes_text = (
        plural(entries, "wanted basket") if day.overnight else plural(entries, "wanted entry", "wanted entries")
    )
    most = f"{'mostly ' * (len(day.denials) > 1)}by the gate {day.denials[0][0]}"
    return f" {denied_count:,} of {wishes_text} {'was' if entries == 1 else 'were'} denied, {most}."


def reference(quality: Quality) -> str:
    """Return as text what a fill is compared with."""
    arrivals = [order.arrival for order in quality.orders if order.filled and order.arrival is not None]
    quoted = all(arrival.bid is not None and arrival.ask is not None for arrival in arrivals)
    return "the middle of bid and ask when sent" if quoted else "the newest price known when sent"


def further_sentences(day: Day) -> tuple[str, ...]:
    """Return the further facts: halts, open orders and positions, refused and missing bars."""
    sentences = [_halt_text(halt, day) for halt in day.halts]
    if day.halt is not None:
        sentences.append(f"It is halted at the end, since {clock(day.halt.time_ns)}: {day.halt.name}.")
    elif day.halts:
        was_lifted = day.exact or any(
            command.name == "resume" and command.time_ns >= day.halts[-1].time_ns for command in day.commands
        )
        sentences.append(
            "It was resumed." if was_lifted else "Whether it still is halted is not known from this journal."
        )
    still = [position for position in day.held if position.quantity]
    if still and not day.overnight:
        names = ", ".join(f"{position.quantity:+,} {instrument(position.symbol)}" for position in still)
        sentences.append(f"Still held {'at the end' if day.ended else 'now'}: {names}.")
    if working := day.open_orders:
        sentences.append(f"{plural(len(working), 'order')} {'works' if len(working) == 1 else 'work'} still.")
    missing = sum(count for _, count in day.gaps)
    if missing:
        sentences.append(f"{missing:,} of {day.expected_bars:,} bars did not come.")
    if day.rejected:
        sentences.append(f"{plural(len(day.rejected), 'bar')} {'was' if len(day.rejected) == 1 else 'were'} refused.")
    if day.unread:
        sentences.append(unread_sentence(day.unread))
    if day.transfers:
        sentences.append(f"Transfers of {money(day.transfers, sign=True)} USD are neither gain nor loss.")
    return tuple(sentences)


def unread_sentence(count: int) -> str:
    return f"{plural(count, 'row')} of its journal could not be read: what was in it is missing."


def _halt_text(halt: Notice, day: Day) -> str:
    date = new_york_text(halt.time_ns)[:10]
    when = clock(halt.time_ns) if date == day.session.date else f"{clock(halt.time_ns)} on {long_date(date)}"
    return f"It was halted at {when}: {halt.name}" + (f" ({halt.who})." if halt.who else ".")


def ending(status: str, reason: str) -> str:
    """Describe how an order ended."""
    words = status.replace("_", " ") if status in TERMINAL else f"works ({status.replace('_', ' ')})"
    return f"{words}: {reason}" if reason else words
