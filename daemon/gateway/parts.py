"""How a line of the broker's ledger is divided between sub-accounts, by what each traded or held.

A line names an account, not a strategy. Fees go by the day's fills, dividends by the holdings at the close before the
ex-date, splits and exercises by holders of the shares or contracts, interest by cash; deposits and all else are
`main`'s. Cents are divided by the largest remainder. A sub-account that trades fractions of shares gets its own to nine
decimals; any other gets whole shares, and `main` the fraction that is left.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from datetime import date, timedelta
from decimal import ROUND_FLOOR, Decimal

import msgspec
from msgspec.structs import replace

from daemon.alpaca_api.wire import ZERO, Json, multiplier
from daemon.brokers.alpaca import wire
from daemon.core.book import CENT, OPTION_MULTIPLIER
from daemon.core.broker.foreign import NEW_NAME
from daemon.core.broker.ledger import (
    CASH_IN_LIEU,
    CONTRACT_CASH,
    CONTRACT_ENDS,
    CORRECTION,
    CRYPTO_FEE,
    EXERCISED,
    FEES,
    INCOME,
    INTEREST,
    REPLACING,
    SPLITS,
    TRANSFERS,
    WITHHELD,
)
from daemon.core.instruments.option_market import OccContract, is_contract, parse_occ, root_of
from daemon.core.risk.splits import plain_ratio
from daemon.gateway.books import DayFill, Ledgers, LinePart, Moving, name_of_part, stamped_ns
from daemon.gateway.events import MAIN
from strategies.kit.quantity import FINEST

OF_CASH = FEES | INCOME
SHARE_LEG = "OPTRD"
LAPSED = "OPEXP"
EARLY = "early OPTRD"
"""The kind of `Moving` of shares booked for a contract before its line came."""
SPUN = "spun"
"""The kind of `Moving` of a spin-off's shares, whose parent stays."""
STRIKES_NEAR = Decimal("0.001")  # strikes after a split are rounded


class LedgerLine(msgspec.Struct, frozen=True):
    """A line of the ledger other than a fill; `date` is its own New York date."""

    id: str
    kind: str
    symbol: str
    quantity: Decimal
    amount: Decimal
    price: Decimal | None
    date: str
    words: str
    status: str


class Division(msgspec.Struct, frozen=True):
    """A line's parts by sub-account, and why a person should check it, "" where it is clear.

    `early`: the parts were booked from the broker's positions, before the line came.
    """

    parts: dict[str, LinePart]
    doubt: str = ""
    early: bool = False


def line_of(row: Json) -> LedgerLine:
    """Parse a row of the activities other than a fill. Raises Malformed."""
    moment = row.get("date") or row.get("transaction_time") or row.get("created_at")
    day = str(moment or "")[:10]
    try:
        date.fromisoformat(day)
    except ValueError:
        raise wire.Malformed(f"date is {wire.value_text(moment)}: expected YYYY-MM-DD, or a time") from None
    if row.get("transaction_time"):
        wire.moment_ns(row["transaction_time"], "transaction_time")
    return LedgerLine(
        wire.required_text(row, "id"),
        wire.required_text(row, "activity_type"),
        wire.text(row.get("symbol")),
        wire.optional_quantity(row, "qty") or ZERO,
        wire.optional_decimal(row, "net_amount") or ZERO,
        wire.optional_decimal(row, "price"),
        day,
        wire.text(row.get("description")),
        wire.text(row.get("status")),
    )


def divide(books: Ledgers, line: LedgerLine, ex_date: str) -> Division:
    """Divide the line. Of the books it changes only what later lines need, such as `moving`, `held` and `lieu`."""
    if (line.kind in OF_CASH or not line.quantity) and (reversal := _reversal(books, line)) is not None:
        return reversal
    division = _divided(books, line, ex_date)
    if division.parts and not division.doubt:
        return division
    return _reversal(books, line) or division


def _reversal(books: Ledgers, line: LedgerLine) -> Division | None:
    """Return the parts of a line that reverses an earlier one: those of the earlier, negated; None for any other line.

    It has the same symbol and amount, and the same kind or that of a correction.
    """
    for earlier_id, (_, parts) in reversed(books.lines.items()):
        amount = sum((it.amount for it in parts.values()), ZERO)
        quantity = sum((it.quantity for it in parts.values()), ZERO)
        of_cash = line.kind in OF_CASH and not quantity  # its quantity is that of the shares that it pays for
        if not (amount or quantity) or amount != -line.amount or (quantity != -line.quantity and not of_cash):
            continue
        reversed_id = f"{earlier_id} reversed"
        if reversed_id not in books.lines and _is_alike(books, earlier_id, parts, line):
            books.lines[reversed_id] = (books.now_ns, {})
            return Division({name: LinePart(-it.quantity, -it.amount, -it.cost) for name, it in parts.items()})
    return None


def _is_alike(books: Ledgers, earlier_id: str, parts: Collection[str], line: LedgerLine) -> bool:
    """Return whether an earlier line has this line's symbol, and its kind unless this is a correction."""
    for name in parts:
        part_id = name_of_part(earlier_id, name)
        for row in (noted.fields for noted in books.accounts[name].activities if noted.id == part_id):
            of_kind = line.kind in (row["activity_type"], CORRECTION)
            return of_kind and wire.text(row.get("symbol")) == line.symbol
    return False


def _divided(books: Ledgers, line: LedgerLine, ex_date: str) -> Division:
    if line.kind == CRYPTO_FEE:
        return Division({MAIN: LinePart(amount=line.amount)})  # a fee in coins is in the broker's position
    if line.kind in FEES:
        return _fee(books, line)
    if line.kind == CASH_IN_LIEU:
        return _fraction(books, line)
    if line.symbol and line.kind in INCOME:
        return _income(books, line, ex_date)
    if line.kind in (*INTEREST, WITHHELD):
        return _interest(books, line)
    if line.kind in SPLITS and parse_occ(line.symbol) is None:
        return _split(books, line)
    if line.kind in CONTRACT_ENDS or (line.kind == CONTRACT_CASH and line.symbol):
        return _contracts(books, line)
    if line.kind == SHARE_LEG:
        return _share_leg(books, line)
    if line.symbol and line.kind in REPLACING:
        return _reorganisation(books, line)
    known = line.kind in TRANSFERS or line.kind in INCOME
    doubt = "" if known else f"{line.kind} {line.symbol}: {line.amount} USD, {line.quantity} units"
    return Division({MAIN: _in_one_part(books, line)}, doubt)


def _in_one_part(books: Ledgers, line: LedgerLine) -> LinePart:
    """Return the line in one part. Shares without an amount cost the line's price, else the broker's average.

    A person may move them to a desk, whose stop depends on their cost.
    """
    price = line.price or books.broker_averages.get(line.symbol, ZERO)
    cost = abs(line.amount) or abs(line.quantity) * price * multiplier(line.symbol)
    return LinePart(line.quantity, line.amount, cost)


# --- shares of a sum --------------------------------------------------------------------------------------------------


def apportion(total: Decimal, weights: Mapping[str, Decimal], step: Decimal = CENT) -> dict[str, Decimal]:
    """Divide `total` by `weights` into parts that add up to it exactly, in steps, by the largest remainder.

    Equal remainders go by name, `main` last. Without a weight above 0 all of it is `main`'s.
    """
    positive = {name: weight for name, weight in weights.items() if weight > 0}
    if not positive:
        return {MAIN: total}
    whole, sign = sum(positive.values()), -1 if total < 0 else 1
    units, rest = divmod(abs(total), step)
    exact = {name: units * weight / whole for name, weight in positive.items()}
    parts = {name: share.to_integral_value(ROUND_FLOOR) for name, share in exact.items()}
    order = sorted(parts, key=lambda name: (parts[name] - exact[name], name == MAIN, name))
    over = units - sum(parts.values())  # steps
    for name in order[: int(over)]:
        parts[name] += 1
    shares = {name: sign * count * step for name, count in parts.items()}
    shares[order[0]] += sign * rest  # less than a step
    return shares


def _in_cash(shares: Mapping[str, Decimal], doubt: str = "") -> Division:
    return Division({name: LinePart(amount=amount) for name, amount in shares.items() if amount}, doubt)


# --- cash -------------------------------------------------------------------------------------------------------------


def _fee(books: Ledgers, line: LedgerLine) -> Division:
    """Divide a fee by the fills of its day: by sale proceeds, units sold or contracts, as the fee's rule counts."""
    trades, weigh = books.trades.get(line.date, []), _rule_of(line.words)
    weights: dict[str, Decimal] = {}
    for trade in trades:
        if not line.symbol or trade.symbol == line.symbol:
            weights[trade.account] = weights.get(trade.account, ZERO) + weigh(trade)
    if not any(weights.values()):  # the rule counts none of these fills: by value traded
        weights = {}
        for trade in trades:
            weights[trade.account] = weights.get(trade.account, ZERO) + _trade_value(trade)
    return _in_cash(apportion(line.amount, weights))


def _rule_of(words: str) -> Callable[[DayFill], Decimal]:
    """Return how a fee counts a fill, from its description: TAF by units sold, REG and SEC by proceeds, else contracts.

    Alpaca's descriptions begin with the fee's name, those of options with OPT: `TAF fee for proceed of 9 shares …`,
    `OPT TAF fee for proceed of 3 contracts …`, `OPT REG fee …`, `ORF fee …`.
    """
    name = words.upper()
    of_options = any(word in name for word in ("CONTRACT", "ORF", "OCC", "OPT"))

    def counts(trade: DayFill, *, sales: bool) -> bool:
        return is_contract(trade.symbol) == of_options and (trade.side < 0 or not sales)

    if "TAF" in name:
        return lambda trade: trade.quantity if counts(trade, sales=True) else ZERO
    if any(word in name for word in ("REG ", "SEC ", "SECTION 31")):
        return lambda trade: _trade_value(trade) if counts(trade, sales=True) else ZERO
    if of_options:
        return lambda trade: trade.quantity if counts(trade, sales=False) else ZERO
    return _trade_value


def _trade_value(trade: DayFill) -> Decimal:
    return trade.quantity * trade.price * multiplier(trade.symbol)


def _interest(books: Ledgers, line: LedgerLine) -> Division:
    """Divide by cash: interest paid goes to those with cash, interest charged to those with debt."""
    sign = 1 if line.amount >= 0 else -1
    weights = {name: max(sign * account.cash, ZERO) for name, account in books.accounts.items()}
    if sign < 0 and not any(weights.values()):
        weights = {name: max(account.cash, ZERO) for name, account in books.accounts.items()}
    return _in_cash(apportion(line.amount, weights))


def _income(books: Ledgers, line: LedgerLine, ex_date: str) -> Division:
    """Divide by the holdings at the close before the ex-date; where none is known, before the line's own date."""
    holders = books.holders_before(line.symbol, ex_date or line.date)
    weights = {name: abs(quantity) for name, quantity in holders.items() if quantity * line.amount > 0}
    weights = weights or {name: abs(quantity) for name, quantity in holders.items()}
    doubt = ""
    if not ex_date and _changed_hands(books, line):
        doubt = f"{line.kind} {line.symbol}: its ex-date is unknown, divided by who held before {line.date}"
    if not weights:
        doubt = f"{line.kind} {line.symbol}: {line.amount} USD, and nobody held it before {ex_date or line.date}"
    return _in_cash(apportion(line.amount, weights), doubt)


def _changed_hands(books: Ledgers, line: LedgerLine) -> bool:
    """Return whether others than today's holders may have held the share when the dividend was earned."""
    since_date = (date.fromisoformat(line.date) - timedelta(days=60)).isoformat()
    entries = books.held.get(line.symbol, [])
    owners = {name for day, quantities in entries if day >= since_date for name in quantities} | set(
        books.holders_before(line.symbol, since_date)
    )
    return len(owners) > 1


def _fraction(books: Ledgers, line: LedgerLine) -> Division:
    """Divide cash in lieu by who got fewer new shares than were due, and by whose fractions it takes away.

    Without either it is `main`'s. Where no one holds a fraction, the line's quantity only names what it pays for.
    """
    holders = _holders(books, line)
    fractions = {name: quantity % 1 for name, quantity in holders.items() if quantity % 1 > 0}
    shares = apportion(line.quantity, fractions, FINEST) if fractions else {}
    due = dict(books.lieu.pop(line.symbol, ("", {}))[1])
    for name, quantity in shares.items():
        due[name] = due.get(name, ZERO) - quantity
    cash = apportion(line.amount, due if any(part > 0 for part in due.values()) else fractions)
    return Division({name: LinePart(shares.get(name, ZERO), cash.get(name, ZERO)) for name in sorted(shares | cash)})


# --- shares and contracts ---------------------------------------------------------------------------------------------


def _holders(books: Ledgers, line: LedgerLine) -> dict[str, Decimal]:
    """Return the holders of the line's symbol; for a line that waited for fills, those when it first came."""
    seen_ns = next((seen_ns for seen_ns, row, _ in books.lines_later if row["id"] == line.id), None)
    return books.holders(line.symbol) if seen_ns is None else books.holders_at(line.symbol, seen_ns)


def _split(books: Ledgers, line: LedgerLine) -> Division:
    """Divide a split in one line (the change), or in two (shares taken away, then shares given for them)."""
    holders = _holders(books, line)
    at_ns = stamped_ns(line.id)
    earliest = (
        {}
        if at_ns is None
        else books.holders_at(line.symbol, min(at_ns, _difference_start_ns(books, line.symbol, at_ns)))
    )
    earlier = books.holders_before(line.symbol, line.date)  # trades since then were in the new shares
    for owners in (earliest, earlier, holders):
        if line.quantity < 0 and sum(owners.values(), ZERO) == -line.quantity:
            return _take_away(books, line, {name: -quantity for name, quantity in owners.items()})
    removal = _moving_of(books, line.kind, line)
    if removal is not None and line.quantity > 0:
        books.moving.remove(removal)
        old = {name: -part.quantity for name, part in removal.parts.items()}
        costs = {name: -part.cost for name, part in removal.parts.items()}
        new = _shares_of(books, line, old, line.quantity)
        return Division({name: LinePart(new[name], ZERO, costs.get(name, ZERO)) for name in new if new[name]})
    holders = earliest or holders  # trades since then were in the new shares
    total = sum(holders.values(), ZERO)
    if not total:
        return Division(
            {MAIN: _in_one_part(books, line)}, f"{line.kind} {line.symbol}: {line.quantity} shares of nobody"
        )
    new = _shares_of(books, line, holders, total + line.quantity)
    names = holders.keys() | new.keys()
    change = {name: new.get(name, ZERO) - holders.get(name, ZERO) for name in sorted(names)}
    return Division({name: LinePart(quantity, rescales=True) for name, quantity in change.items()})


def _difference_start_ns(books: Ledgers, symbol: str, otherwise: int) -> int:
    """Return since when books and broker differ on a symbol: a line may be dated after its shares came."""
    return books.differences.get(symbol, (otherwise, ""))[0]


def _shares_of(books: Ledgers, line: LedgerLine, old: Mapping[str, Decimal], total: Decimal) -> dict[str, Decimal]:
    """Divide `total` shares that come for `old` ones, in proportion to these.

    A sub-account that trades whole shares gets whole ones: by the line's announced ratio, if `total` is that less a
    fraction paid in cash; without one by the only plain ratio that gives it. The rest is `main`'s; without `main` or
    whole shares, what is finer than nine decimals goes to the greatest holder.
    """
    old_total, ratio = sum(old.values(), ZERO), books.ratios.get(line.id, "")
    new_rate, old_rate = _rates(ratio) if ratio else (total, old_total)
    if not ratio or abs(old_total * new_rate / old_rate - total) >= 1:  # or the announcement is for another action
        new_rate, old_rate = plain_ratio(old_total, total) or (total, old_total)
    due = {name: quantity * new_rate / old_rate for name, quantity in sorted(old.items())}
    new = _cut(books, old, due, total)
    less = {name: due.get(name, ZERO) - new.get(name, ZERO) for name in sorted(due.keys() | new.keys())}
    books.lieu.pop(line.symbol, None)
    if any(part > FINEST for part in less.values()):
        books.lieu[line.symbol] = (line.date, less)
    return new


def _cut(books: Ledgers, old: Mapping[str, Decimal], due: Mapping[str, Decimal], total: Decimal) -> dict[str, Decimal]:
    """Return what each gets of `total` shares, in proportion to its `due`, whole where it trades whole shares."""
    short = min(due.get(MAIN, ZERO), ZERO)
    names = [name for name in due if name != MAIN]
    whole = [name for name in names if not (books.accounts[name].fractions or old[name] % 1)]
    new = {name: due[name].to_integral_value(ROUND_FLOOR) for name in whole}
    other_names, available = [name for name in names if name not in whole], total - short - sum(new.values(), ZERO)
    due_total = sum((due[name] for name in other_names), ZERO)
    for name in other_names:
        part = due[name] if due_total <= available else due[name] * available / due_total
        new[name] = (part / FINEST).to_integral_value(ROUND_FLOOR) * FINEST
    rest = total - sum(new.values(), ZERO)
    if whole or MAIN in old:
        return {**new, MAIN: rest} if rest or MAIN in old else new
    new[max(new, key=lambda name: (new[name], name))] += rest
    return new


def _rates(ratio: str) -> tuple[Decimal, Decimal]:
    """Return the new shares and the old ones of an announced "new/old"."""
    new, old = map(Decimal, ratio.split("/"))
    return new, old


def _take_away(books: Ledgers, line: LedgerLine, change: Mapping[str, Decimal]) -> Division:
    """Divide shares that leave and whose replacement follows; note their cost for it."""
    parts = {}
    cash = apportion(line.amount, {name: abs(quantity) for name, quantity in change.items()})
    for name, quantity in change.items():
        parts[name] = LinePart(quantity, cash.get(name, ZERO), _cost(books, name, line.symbol) * quantity)
    if (moving := _moving_of(books, line.kind, line)) is None:
        books.moving.append(Moving(line.kind, line.date, line.symbol, parts))
    else:  # several lines of one removal
        names = sorted(moving.parts.keys() | parts.keys())
        moving.parts = {n: _sum_of(moving.parts.get(n, LinePart()), parts.get(n, LinePart())) for n in names}
    return Division(parts)


def _moving_of(books: Ledgers, kind: str, line: LedgerLine) -> Moving | None:
    """Return the first entry of this kind with the line's date and symbol; None without one."""
    return next((m for m in books.moving if (m.kind, m.date, m.symbol) == (kind, line.date, line.symbol)), None)


def _cost(books: Ledgers, name: str, symbol: str) -> Decimal:
    """Return the average cost of one share or contract in a sub-account, USD."""
    holding = books.accounts[name].holdings.get(symbol)
    return ZERO if holding is None else holding.average * multiplier(symbol)


def _sum_of(one: LinePart, other: LinePart) -> LinePart:
    return LinePart(one.quantity + other.quantity, one.amount + other.amount, one.cost + other.cost)


def _removal_for(books: Ledgers, line: LedgerLine) -> Moving | None:
    """Return what lines of this action took away and this line replaces; None where that is not certain.

    Of several the one counts whose contract terms fit, or whose number at the announced ratio (1 without one), or whose
    name is in the line's words. Where all had the same owners in the same proportion, any of them does.
    """
    of_action = [m for m in books.moving if (m.kind, m.date) == (line.kind, line.date)]
    candidates = [m for m in of_action if not m.given] + [m for m in of_action if line.symbol in m.given]
    candidates = candidates or of_action
    new, old = _rates(ratio := books.ratios.get(line.id, "") or "1/1")
    near = FINEST if ratio == "1/1" else Decimal(1)

    def fits_in_number(moving: Moving) -> bool:
        come = sum(moving.given.get(line.symbol, {}).values(), line.quantity)
        return abs(moving.total * new / old + come) < near

    for fits in (
        lambda moving: _fits_contract(moving, line),
        fits_in_number,
        lambda moving: moving.symbol in re.findall(r"[A-Z0-9.]+", line.words),
    ):
        candidates = [m for m in candidates if fits(m)] or candidates
    owners = {tuple((name, part.quantity / m.total) for name, part in m.parts.items()) for m in candidates}
    return candidates[0] if len(owners) == 1 else None


def _fits_contract(moving: Moving, line: LedgerLine) -> bool:
    """Return whether contracts may have become the line's: same expiry and right, same total strike value."""
    if not (is_contract(line.symbol) and is_contract(moving.symbol)):
        return is_contract(line.symbol) == is_contract(moving.symbol)
    worth, former_worth = _strike_of(line.symbol) * line.quantity, _strike_of(moving.symbol) * -moving.total
    return _series(line.symbol) == _series(moving.symbol) and abs(worth - former_worth) <= worth * STRIKES_NEAR


def _series(contract: str) -> str:
    """Return a contract's expiry and right, `YYMMDDC`; also of an adjusted contract."""
    return contract[-15:-8]


def _strike_of(contract: str) -> Decimal:
    """Return a contract's strike in USD; also of an adjusted contract."""
    return Decimal(contract[-8:]) / 1000


def _reorganisation(books: Ledgers, line: LedgerLine) -> Division:
    """Divide renames, mergers, offers, removals: old shares by holder, new shares and cash in the same proportion."""
    holders = _holders(books, line)
    total = sum(holders.values(), ZERO)
    if line.quantity < 0 and total and -line.quantity <= total:
        if total == -line.quantity:
            return _take_away(books, line, {name: -quantity for name, quantity in holders.items()})
        fraction = line.quantity % 1 or any(quantity % 1 for quantity in holders.values())
        some = apportion(line.quantity, holders, FINEST if fraction else Decimal(1))
        return _take_away(books, line, {name: quantity for name, quantity in some.items() if quantity})
    if 0 < line.quantity <= -total:  # short ones are taken back, for no others
        shorts = apportion(line.quantity, {name: -quantity for name, quantity in holders.items()}, FINEST)
        return Division({name: LinePart(quantity) for name, quantity in shorts.items()})
    if line.quantity > 0 and (removal := _removal_for(books, line)) is not None:
        return _give(books, line, removal)
    if not line.quantity and line.amount and (owners := _payees(books, line, holders)):
        return _in_cash(apportion(line.amount, owners))
    if (spun := _spun_off(books, line)) is not None:
        return spun
    doubt = f"{line.kind} {line.symbol}: {line.quantity} units, {line.amount} USD, and whose they are is not known"
    return Division({MAIN: _in_one_part(books, line)}, doubt)


def _give(books: Ledgers, line: LedgerLine, removal: Moving) -> Division:
    """Divide what comes for shares that left, as if all that came under this symbol had come in this one line."""
    if line.kind in NEW_NAME and not removal.given:
        books.rename_holders(removal.symbol, line.symbol, line.date)
    old = {name: -part.quantity for name, part in removal.parts.items()}
    former = removal.given.get(line.symbol, {})
    new = _shares_of(books, line, old, sum(former.values(), line.quantity))
    removal.given = {**removal.given, line.symbol: new}
    come = {name: new.get(name, ZERO) - former.get(name, ZERO) for name in new.keys() | former.keys()}
    costs = {name: -part.cost for name, part in removal.parts.items() if come.get(name, ZERO) > 0}
    removal.parts = {n: replace(part, cost=ZERO) if n in costs else part for n, part in removal.parts.items()}
    cash = apportion(line.amount, {name: abs(quantity) for name, quantity in old.items()})
    names = sorted(come.keys() | cash.keys())
    return Division({n: LinePart(come.get(n, ZERO), cash.get(n, ZERO), costs.get(n, ZERO)) for n in names})


def _payees(books: Ledgers, line: LedgerLine, holders: Mapping[str, Decimal]) -> dict[str, Decimal]:
    """Return whom a line of cash alone pays: holders of shares that left by the action's lines, else of held ones."""
    left = [m for m in books.moving if (m.kind, m.symbol) == (line.kind, line.symbol)]
    if not left:
        return dict(holders)
    newest = max(left, key=lambda moving: moving.date)
    return {name: -part.quantity for name, part in newest.parts.items()}


def _spun_off(books: Ledgers, line: LedgerLine) -> Division | None:
    """Divide a spin-off's shares by holdings of the parent at the close before its ex-date, over all of its lines.

    None unless exactly one announced parent was held in a number that brings so many shares, or else more.
    """
    spinning = _moving_of(books, SPUN, line) or Moving(SPUN, line.date, line.symbol, {})
    former = spinning.given.get(line.symbol, {})
    come = sum(former.values(), line.quantity)
    whole: list[tuple[dict[str, Decimal], str]] = []
    more: list[tuple[dict[str, Decimal], str]] = []
    for parent, ex_date, ratio in books.spun.get(line.id, ()):
        holders, (new, old) = books.holders_before(parent, ex_date), _rates(ratio)
        due, one = sum(holders.values(), ZERO) * new / old, (holders, ratio)
        of_them = whole if abs(due - come) < 1 else more if due > come else []
        if holders and one not in of_them:
            of_them.append(one)
    fitting = whole or more
    if line.quantity <= 0 or len(fitting) != 1:
        return None
    holders, books.ratios[line.id] = fitting[0]
    new_shares = _shares_of(books, line, holders, come)
    if not former:
        books.moving.append(spinning)
    spinning.given = {line.symbol: new_shares}
    change = {n: new_shares.get(n, ZERO) - former.get(n, ZERO) for n in sorted(new_shares.keys() | former.keys())}
    doubt = "" if whole else f"{line.kind} {line.symbol}: {come} shares so far, fewer than were announced"
    return Division({name: LinePart(quantity) for name, quantity in change.items() if quantity}, doubt)


def _contracts(books: Ledgers, line: LedgerLine) -> Division:
    """Divide contracts that expired, were exercised or assigned, by their holders; short ones are `main`'s alone.

    In a partial exercise those go first whose holder asked for it here, else `main`'s: no other can request one of a
    contract that several hold. Contracts that ended before their lines came are matched to these, in as many lines as
    come.
    """
    early = books.settled.get(line.symbol)
    owners = {
        name: count for name, count in (early or books.holders(line.symbol)).items() if count * line.quantity <= 0
    }
    total = sum((abs(count) for count in owners.values()), ZERO)
    if not total:
        return Division({}, f"{line.kind} {line.symbol}: {line.quantity} contracts, and nobody holds any")
    first = books.exercises.get(line.symbol, MAIN) if line.kind == "OPEXC" else ""
    quantities = some_of(owners, min(abs(line.quantity) or total, total), first)
    changes = {name: -count for name, count in quantities.items()}
    cash = apportion(line.amount, {name: abs(count) for name, count in changes.items()})
    if early is None:
        _note_end(books, line, changes)
        costs = {name: _cost(books, name, line.symbol) * count for name, count in changes.items()}
        return Division({n: LinePart(count, cash.get(n, ZERO), costs[n]) for n, count in changes.items()})
    rest = {name: count - quantities.get(name, ZERO) for name, count in early.items()}
    books.settled[line.symbol] = {name: count for name, count in rest.items() if count}
    if not books.settled[line.symbol]:
        del books.settled[line.symbol]
    if early_shares(books, line.symbol) is None:
        _note_end(books, line, changes)
    if line.amount:  # cash instead of shares: the contracts are booked already
        return _in_cash(cash)
    return Division({name: LinePart(count) for name, count in changes.items()}, early=True)


def some_of(holdings: Mapping[str, Decimal], count: Decimal, first: str = "") -> dict[str, Decimal]:
    """Return each holder's number when `count` of the contracts in `holdings` go, those of `first` before others."""
    weights = {name: abs(quantity) for name, quantity in holdings.items()}
    of_first = min(count, weights.pop(first, ZERO))
    some = apportion(count - of_first, weights, Decimal(1)) if weights else {}
    some |= {first: of_first} if of_first else {}
    return {name: number if holdings[name] > 0 else -number for name, number in some.items() if number}


def exercises(books: Ledgers, contracts: Mapping[str, OccContract]) -> set[str]:
    """Return which of the `contracts` that ended became shares, by the broker's shares beyond the books.

    Contracts deeper in the money were exercised first, and none that its holder lets lapse. Where several choices fit,
    or none, the lines will show it.
    """
    symbols: set[str] = set()
    for root in sorted({contract.root for contract in contracts.values()}):
        beyond = books.broker_held.get(root, ZERO) - sum(books.holders(root).values(), ZERO)
        shares = {
            symbol: sum(books.holders(symbol).values(), ZERO) * OPTION_MULTIPLIER * contract.right
            for symbol, contract in contracts.items()
            if contract.root == root
        }
        by_strike = sorted(
            (s for s in shares if shares[s] and s not in books.lapses), key=lambda s: contracts[s].strike
        )
        calls = [s for s in by_strike if contracts[s].right > 0]
        puts = [s for s in reversed(by_strike) if contracts[s].right < 0]
        choices = [calls[:i] + puts[:j] for i in range(len(calls) + 1) for j in range(len(puts) + 1)]
        matches = [choice for choice in choices if sum((shares[s] for s in choice), ZERO) == beyond]
        if len(matches) == 1:
            symbols.update(matches[0])
    return symbols


def early_shares(books: Ledgers, contract: str) -> Moving | None:
    """Return the shares booked for a contract before its line came; None without any."""
    return next((m for m in books.moving if (m.kind, m.symbol) == (EARLY, contract)), None)


def _strike(symbol: str) -> Decimal | None:
    contract = parse_occ(symbol)
    return None if contract is None else contract.strike


def _unit_cost(line: LedgerLine) -> Decimal | None:
    """Return the cost of one share of the line, USD: by its cash, else by its price, which may be the market's."""
    return abs(line.amount / line.quantity) if line.amount and line.quantity else line.price


def _note_end(books: Ledgers, line: LedgerLine, changes: Mapping[str, Decimal]) -> None:
    if is_contract(line.symbol) and line.kind in EXERCISED:
        root, right = line.symbol[:-15].rstrip("0123456789"), 1 if line.symbol[-9] == "C" else -1
        parts = {name: LinePart(count * right) for name, count in changes.items()}
        books.moving.append(Moving(SHARE_LEG, line.date, f"{root} {_strike_of(line.symbol):f}", parts))


def _pop_early(books: Ledgers, line: LedgerLine) -> dict[str, LinePart] | None:
    """Return and remove the parts of shares that were booked before their line; None without any.

    The shares of one contract may come in several lines.
    """
    fitting = [m for m in books.moving if m.kind == EARLY and root_of(m.symbol) == line.symbol]
    fitting = [m for m in fitting if (price := _unit_cost(line)) is None or _strike(m.symbol) in (None, price)]
    fitting = [m for m in fitting if m.total * line.quantity > 0 and abs(m.total) >= abs(line.quantity)]
    if not fitting:
        return None
    early = min(fitting, key=lambda m: abs(m.total))
    books.moving.remove(early)
    contracts = {name: part.quantity / OPTION_MULTIPLIER for name, part in early.parts.items()}
    quantities = some_of(contracts, abs(line.quantity) / OPTION_MULTIPLIER, MAIN)
    rest = {name: count - quantities.get(name, ZERO) for name, count in contracts.items()}
    if any(rest.values()):
        books.moving.append(replace(early, parts=_shares_for(early, contracts, rest)))
    return _shares_for(early, contracts, quantities)


def _shares_for(early: Moving, whole: Mapping[str, Decimal], some: Mapping[str, Decimal]) -> dict[str, LinePart]:
    """Return the part of early booked shares that belongs to `some` of the contracts."""
    return {
        name: LinePart(
            part.quantity * count / whole[name], part.amount * count / whole[name], part.cost * count / whole[name]
        )
        for name, part in early.parts.items()
        if (count := some.get(name, ZERO))
    }


def _share_leg(books: Ledgers, line: LedgerLine) -> Division:
    """Divide the shares of an exercise or an assignment by whose contracts ended for them."""
    if (early := _pop_early(books, line)) is not None:
        return Division(early, early=True)
    ends = [m for m in books.moving if m.kind == SHARE_LEG and m.symbol.split(" ")[0] == line.symbol]
    ends = [m for m in ends if m.total * line.quantity < 0] or ends  # a call brings shares, a put takes them
    ends = [m for m in ends if Decimal(m.symbol.split(" ")[1]) == _unit_cost(line)] or ends
    ends = [m for m in ends if abs(m.total) * OPTION_MULTIPLIER == abs(line.quantity)]
    if not ends:
        doubt = f"{line.kind} {line.symbol}: {line.quantity} shares, and no contract ended for them"
        return Division({MAIN: LinePart(line.quantity, line.amount, -line.amount)}, doubt)
    books.moving.remove(ends[0])
    contracts = {name: abs(part.quantity) for name, part in ends[0].parts.items()}
    whole = sum(contracts.values(), ZERO)
    cash = apportion(line.amount, contracts)
    sign = 1 if line.quantity > 0 else -1
    return Division(
        {
            name: LinePart(sign * count * abs(line.quantity) / whole, cash.get(name, ZERO), -cash.get(name, ZERO))
            for name, count in contracts.items()
        }
    )
