"""Lines of the broker's ledger other than fills: each kind has one meaning.

A line of unknown kind raises an alarm, and only its cash is booked. A line books exactly its own change. Invariant:
each id once. The kinds below belong to the core and are journaled; a broker's adapter maps its own kinds to them, with
these signs of quantity and amount.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date
from decimal import Decimal
from typing import TypeVar

from msgspec import UnsetType
from msgspec.structs import replace

from daemon.core.book import COST_GRID, OPTION_MULTIPLIER, move_shares, rescale, without_income
from daemon.core.broker.fills import is_ours, transfer
from daemon.core.broker.foreign import (
    SETTLED,
    SHARE_TRANSFERS,
    cash_of_the_desk,
    contracts_of_the_desk,
    dispute,
    hold_foreign,
    hold_moved,
    holdings_of,
    is_owed,
    lieu_fraction,
    may_be_the_desks,
    note_delivered,
    others_traded,
    part_of,
    settled_without,
    share_of,
    shares_of_the_desk,
    take_fraction,
    take_spin_off_back,
    whole_shares,
)
from daemon.core.broker.on_broker import on_contract_expired
from daemon.core.broker.sending import has_lapsed
from daemon.core.draft import Draft
from daemon.core.events import Activity, ContractExpired, LedgerBooked
from daemon.core.instruments.option_market import OccContract, option_terms, parse_occ, root_of
from daemon.core.moves import Cause
from daemon.core.risk.guards import revalue
from daemon.core.risk.splits import (
    go_ex,
    note_dividend,
    note_moved,
    note_told,
    was_counted,
    was_left_out,
    was_paid_out,
    was_taken_over,
)
from daemon.core.session import new_york_date
from daemon.core.state import ZERO, Book, Position
from strategies.kit.quantity import Quantity, exact, whole_of

Line = TypeVar("Line")

FEES = frozenset(("FEE", "PTC", "PTR"))
CRYPTO_FEE = "CFEE"  # for a person's trades: no desk has crypto
DIVIDENDS = (
    "DIV",
    "DIVCGL",
    "DIVCGS",
    "DIVFEE",
    "DIVFT",
    "DIVNRA",
    "DIVROC",
    "DIVTW",
    "DIVTXEX",
    "DIVWH",
    "DVF",
    "CGD",
    "ROC",
)
INTEREST = ("INT", "INTNRA", "INTTW")
WITHHELD = "WH"  # tax, of dividends or interest
CASH_IN_LIEU = "CIL"  # for the fraction of a share
CORRECTION = "CORR"  # of an earlier line's cash
INCOME = frozenset((*DIVIDENDS, *INTEREST, WITHHELD, CASH_IN_LIEU, CORRECTION))
TRANSFERS = frozenset(("CSD", "CSW", "JNL", "JNLC", "TRANS", "ACATC", CRYPTO_FEE, *SHARE_TRANSFERS))
SPLITS = frozenset(("SPLIT", "SSP", "FSPLIT", "RSPLIT"))
EXERCISED = ("OPEXC", "OPASN")
CONTRACT_ENDS = frozenset(("OPEXP", *EXERCISED))
CONTRACT_CASH = "OPCSH"  # cash for contracts
WORTHLESS = "REORG"  # shares removed for nothing; reorganisations are REO
CONTRACT_CHANGED = "OPCA"  # a corporate action replaces contracts by others
SPUN_OFF = ("SPIN", "SSO")  # shares come, and none leave for them
MERGED = ("MA", "REO", "VOF")  # shares leave, for cash, other shares or both
REORGANISED = frozenset(("NC", "SC", *MERGED, WORTHLESS, *SPUN_OFF))
"""Names, symbols, mergers, offers, spin-offs."""
REPLACING = SPLITS | REORGANISED | {CONTRACT_CHANGED}
"""Kinds whose lines take what is held and bring other shares or contracts for it."""
AMENDED_FILL = "AMENDED_FILL"  # change by a bust or correction of a fill; its order may be forgotten
CASH_NEAR = Decimal(50)  # USD: two strikes of one contract are further apart, a day's fees are less
CHOICES_MAX = 4096  # combinations of contracts that may have become shares
AMENDED = frozenset(("correct", "canceled"))  # statuses of a line that changes or takes back an earlier one


OWNED = INCOME | SPLITS | REORGANISED
"""Kinds of lines about a symbol that belong to who held it."""

REASONS: dict[str, str] = {
    **dict.fromkeys(FEES, "fee"),
    **dict.fromkeys(DIVIDENDS, "dividend"),
    **dict.fromkeys((*INTEREST, WITHHELD), "interest"),
    CASH_IN_LIEU: "cash_in_lieu",
    CORRECTION: "correction",
    CONTRACT_CASH: "corporate_action",
    **dict.fromkeys(SPLITS, "split"),
    **dict.fromkeys(REORGANISED, "corporate_action"),
    **dict.fromkeys(("OPEXC", "OPTRD"), "exercise"),
    "OPASN": "assignment",
    "OPEXP": "expiry",
    AMENDED_FILL: "trade_corrected",
}
"""Cause of a book's move by kind of line; "transfer" for other kinds."""


def cause_of(line: Activity) -> Cause:
    """Return the cause of a book's move by this line."""
    return Cause(REASONS.get(line.kind, "transfer"))


def in_order(lines: Iterable[Line], activity_of: Callable[[Line], Activity]) -> list[Line]:
    """Return the lines of one report in the order in which they are booked; equal ones stay in the report's order.

    Days come in turn, since a later line may take what an earlier one brought. Within a day those kinds come last that
    take what another kind brings, such as the split of renamed shares; within an action what leaves comes first, then
    cash alone, then what comes. A transfer's shares come last of a day, since an action is of those held before it.
    Shares of an exercise follow the contracts that ended for them, and cash for a fraction follows all shares, whatever
    their days.
    """
    entries = [(line, it, new_york_date(it.time_ns)) for line in lines for it in (activity_of(line),)]
    ended_on: dict[str, date] = {}
    of_days: dict[date, list[Activity]] = {}
    for _, it, day in entries:
        of_days.setdefault(day, []).append(it)
        contract = parse_occ(it.symbol) if it.kind in CONTRACT_ENDS else None
        if contract is not None:
            ended_on[contract.root] = max(day, ended_on.get(contract.root, day))
    later_kinds = {day: _kinds_that_follow(some) for day, some in of_days.items()}

    def place(entry: tuple[Line, Activity, date]) -> tuple[date, int, int]:
        _, it, day = entry
        if it.kind == "OPTRD":
            return max(day, ended_on.get(it.symbol, day)), 1, 0
        if it.kind == CASH_IN_LIEU:
            return date.max, 0, 0
        if it.kind in SHARE_TRANSFERS:
            return day, 3, 0
        return day, 2 if it.kind in later_kinds[day] else 0, _turn(it) if it.kind in REPLACING else 0

    return [line for line, _, _ in sorted(entries, key=place)]


def _turn(line: Activity) -> int:
    """Return the rank of a line within its action: 0 for what leaves, 1 for cash alone, 2 for what comes."""
    return 0 if line.quantity < 0 else 2 if line.quantity else 1


def _kinds_that_follow(lines: Iterable[Activity]) -> set[str]:
    """Return the kinds that take shares which another kind brings, and bring none that the other takes.

    A split takes and brings the same symbol, in one line or two.
    """
    takes: dict[str, set[str]] = {}
    brings: dict[str, set[str]] = {}
    for line in lines:
        if line.kind in REPLACING and line.quantity:
            if line.quantity < 0 or line.kind in SPLITS:
                takes.setdefault(line.kind, set()).add(line.symbol)
            if line.quantity > 0 or line.kind in SPLITS:
                brings.setdefault(line.kind, set()).add(line.symbol)
    return {
        kind
        for kind, taken in takes.items()
        if any(
            other != kind and brought & taken and not brings.get(kind, set()) & takes.get(other, set())
            for other, brought in brings.items()
        )
    }


def on_ledger_booked(draft: Draft, event: LedgerBooked) -> None:
    """Book the lines of the paper broker's ledger, then record the equity, which includes them."""
    draft.lines = event.activities
    for line in event.activities:
        with draft.because(cause_of(line)):
            book_activity(draft, line)
    draft.record_equity()


def book_activity(draft: Draft, line: Activity) -> None:
    """Book one line of the ledger, except shares that were taken over with the broker's positions."""
    if line.kind == "OPTRD" and was_counted(draft, line) and not is_owed(draft, line):
        return  # shares and cash were taken over together, and the contract with them
    was_taken = line.kind in REORGANISED and was_counted(draft, line)
    if was_taken and not (line.kind in SPUN_OFF and take_spin_off_back(draft, line)):
        if line.kind in SPUN_OFF and line.quantity > 0 and may_be_the_desks(draft, line.symbol):
            dispute(draft, replace(line, amount=ZERO))
        line = replace(line, quantity=ZERO)
        if not line.amount:
            return
    before = holdings_of(draft, line.symbol)
    if line.status in AMENDED:
        draft.alarm("ledger_amended", f"{line.kind} {line.id}: {line.status}; the next comparison judges it")
    elif line.kind in SPLITS and was_taken_over(draft, line):
        note_told(draft, line)  # the book has it from the positions
    elif line.kind == AMENDED_FILL:
        _amend_fill(draft, line)
    elif (share := _of_the_desk(draft, line)) is not None:
        _book(draft, share)

    if line.kind == "OPTRD":
        note_delivered(draft, line.symbol, new_york_date(line.time_ns), before)


def _of_the_desk(draft: Draft, line: Activity) -> Activity | None:
    """Return the desk's part of the line; book the others' part, or raise an alarm where the owner is unknown."""
    if parse_occ(line.symbol) is not None:
        return line  # see `_end_contract`
    if line.kind == "OPTRD":
        return shares_of_the_desk(draft, line)
    if not line.symbol or line.kind not in OWNED:
        return line
    replaces = line.quantity > 0 and line.kind in REORGANISED
    share = share_of(draft, line, cash=line.kind in INCOME, replaces=replaces)
    if share is None:
        dispute(draft, line)
        return None
    own_quantity, foreign_quantity = share
    if line.kind == CASH_IN_LIEU and (fraction := lieu_fraction(draft, line)) and not was_paid_out(draft, line):
        own_fraction = take_fraction(draft, line.symbol, fraction, own_quantity, foreign_quantity)
        desks = part_of(draft, replace(line, quantity=ZERO), own_quantity, foreign_quantity, moves=False)
        return None if desks is None else replace(desks, quantity=Decimal(-own_fraction))
    if line.kind in INCOME:  # it may name how many shares it pays for
        line = replace(line, quantity=ZERO)
    moves = (
        line.kind in REORGANISED
        or bool(draft.basket.left_by(line))
        or (own_quantity > 0 and 0 < own_quantity + foreign_quantity <= -line.quantity)
    )
    return part_of(draft, line, own_quantity, foreign_quantity, moves=moves)


def _book(draft: Draft, line: Activity) -> None:
    if line.kind == CASH_IN_LIEU and line.quantity and line.amount > 0:  # a fraction that is held is sold for it
        draft.desk.holds.reorganise(draft, line)
    elif line.kind in FEES or line.kind in INCOME:
        _book_income(draft, line)
    elif line.kind in TRANSFERS:
        transfer(draft, line.amount)
        if line.kind in SHARE_TRANSFERS:
            note_moved(draft, line)
            hold_moved(draft, line)
    elif line.kind in SPLITS and parse_occ(line.symbol) is None:
        draft.desk.holds.split(draft, line, ZERO)
    elif line.kind in REORGANISED and draft.desk.holds.reorganise(draft, line):
        pass  # the desk booked it
    elif line.kind in CONTRACT_ENDS or line.kind == CONTRACT_CASH:
        _end_contract(draft, line)
    elif line.kind == "OPTRD":
        _move_shares(draft, line)
    else:
        _book_other_line(draft, line)


def _book_income(draft: Draft, line: Activity) -> None:
    book = draft.book
    fees = book.fees - line.amount if line.kind in FEES else book.fees
    is_neutral = line.kind == CASH_IN_LIEU and was_left_out(draft, line.symbol)  # leaving it out was no loss
    if line.kind in DIVIDENDS and line.amount > 0 and line.ex_date:
        is_neutral = note_dividend(draft, line)
    if is_neutral:
        book = rescale(book, book.equity, line.amount)
    elif line.kind in INCOME:
        book = without_income(book, line.amount)
    draft.put_book(replace(income(book, line.amount), fees=fees))
    revalue(draft)
    if line.kind in DIVIDENDS:
        go_ex(draft)
        revalue(draft)


def income(book: Book, amount: Decimal) -> Book:
    """Return the book with `amount` USD of cash realised."""
    return replace(book, cash=book.cash + amount, realized=book.realized + amount)


def _book_other_line(draft: Draft, line: Activity) -> None:
    """Book the cash of a line of unknown kind: an outflow is a loss, an inflow a transfer."""
    if line.amount < 0:
        _book_income(draft, line)
    elif line.amount:
        transfer(draft, line.amount)
    shares = f"; its quantity {line.quantity} was not" if line.quantity else ""
    if line.kind == CONTRACT_CHANGED and line.quantity:
        shares += "; contracts were adjusted: close what came for them at the broker, then rltraderctl accept-broker"
    draft.alarm("unknown_activity", f"{line.kind} {line.symbol}: {line.amount} USD was booked{shares}")


def _amend_fill(draft: Draft, line: Activity) -> None:
    """Book the bust or correction of a fill whose order is forgotten; a known order's totals are set instead.

    A forgotten order of the guard may be an earlier journal's: the comparison judges it.
    While a purchase is held, its cost changes. What is no longer held is realised, by the position to which the fill
    belonged.
    """
    if draft.find_order(line.order) is not None or not is_ours(draft, line.order):
        return
    book, contract, quantity = draft.book, parse_occ(line.symbol), exact(line.quantity)
    empty_position = Position(line.symbol, 0, 0, ZERO, 1, line.time_ns, "")
    if contract is not None:
        empty_position = replace(
            empty_position, right=contract.right, multiplier=OPTION_MULTIPLIER, expiry=contract.expiry
        )
    position = book.positions.get(line.symbol) or empty_position
    draft.alarm("trade_corrected", f"{line.order}: {quantity:+d} {line.symbol} and {line.amount:+} USD, an older order")
    if has_lapsed(draft, line.symbol):
        quantity = max(quantity, -max(position.quantity, 0))  # of lapsed contracts only the cash comes back
    if position.quantity + quantity < 0 <= position.quantity:
        draft.risk = replace(draft.risk, reconciled=False)
        detail = f"{line.order}: {quantity:+d} {line.symbol} of an older order were busted, held {position.quantity}"
        draft.halt("fill_mismatch", detail)
        return
    of_cost = line.side > 0 or quantity  # a sale's price alone is realised
    gain = ZERO if of_cost else line.amount
    its_own = not isinstance(line.filled_ns, UnsetType) and line.filled_ns >= position.opened_ns
    new_position = replace(
        position, quantity=position.quantity + quantity, pnl=position.pnl + (gain if its_own else ZERO)
    )
    if of_cost:
        new_position = replace(new_position, cost=position.cost - line.amount / position.multiplier)
    positions = {**book.positions, line.symbol: new_position}
    if not new_position.quantity:
        gain -= new_position.cost * new_position.multiplier
        del positions[line.symbol]
    with draft.because(draft.cause._replace(side=line.side if its_own else 0)):
        draft.put_book(replace(book, cash=book.cash + line.amount, positions=positions, realized=book.realized + gain))
    revalue(draft)


def _end_contract(draft: Draft, line: Activity) -> None:
    """End as many contracts as the line names, or all. Their shares come in another line, cash in this one."""
    quantity, foreign_quantity = draft.held(line.symbol), draft.broker.foreign_held.get(line.symbol, 0)
    contract, delivers = parse_occ(line.symbol), line.kind in EXERCISED and not line.amount
    ended_count, foreign_count = 0, 0
    if line.quantity or line.kind != CONTRACT_CASH:
        ended_count, foreign_count = contracts_of_the_desk(draft, line, exercised=delivers)
    if line.amount:
        own_cash = cash_of_the_desk(
            draft,
            line,
            *((ended_count, foreign_count) if ended_count or foreign_count else (quantity, foreign_quantity)),
        )
        draft.put_book(income(draft.book, own_cash))
        revalue(draft)
    if not ended_count or contract is None:
        return
    if ended_count < abs(quantity):
        _end_some(draft, line.symbol, ended_count)
    else:
        over = ContractExpired(line.time_ns, line.symbol, whole_of(quantity), contract.root, 0, contract.strike)
        on_contract_expired(draft, over)
    if delivers:
        draft.halt("shares_from_exercise", f"{line.symbol}: {line.kind} of {min(ended_count, abs(quantity))} contracts")


def _end_some(draft: Draft, symbol: str, ended_count: int) -> None:
    """End some of the contracts and realise their share of the cost."""
    book, position = draft.book, draft.book.positions[symbol]
    quantity = abs(position.quantity)
    cost_part = (position.cost * ended_count / quantity).quantize(COST_GRID)
    loss = cost_part * position.multiplier
    rest_quantity = position.quantity - ended_count if position.quantity > 0 else position.quantity + ended_count
    new_position = replace(position, quantity=rest_quantity, cost=position.cost - cost_part, pnl=position.pnl - loss)
    draft.put_book(replace(book, positions={**book.positions, symbol: new_position}, realized=book.realized - loss))
    revalue(draft)


def _move_shares(draft: Draft, line: Activity) -> None:
    """Book the share leg of an exercise or assignment, unless it was booked from the positions already."""
    shares = whole_shares(line)
    if (settlements := settled_without(draft, line.symbol, shares)) is not None:
        draft.broker = replace(draft.broker, settled=settlements)
        return
    draft.put_book(move_shares(draft.book, line.symbol, shares, line.amount, line.time_ns))
    if draft.held(line.symbol):
        draft.halt("shares_from_exercise", f"{shares:+d} {line.symbol} came from an exercise or assignment")
    revalue(draft)


def settle_without_ledger(draft: Draft, broker_quantities: Mapping[str, Quantity], cash: Decimal) -> bool:
    """Settle expired options that the broker no longer holds although its ledger has no line yet (paper: a day later).

    Shares beyond the book, as many as contracts of desk and others stand for, show an exercise, and so does the
    account's `cash` in USD. Contracts wait for their lines where these figures are ambiguous, and for the end of a
    working order that may have sold them. Returns True when something was settled.
    """
    over, done, of_roots = _lapsed_contracts(draft, broker_quantities), False, dict[str, dict[str, OccContract]]()
    for symbol, contract in sorted(over.items()):
        of_roots.setdefault(contract.root, {})[symbol] = contract
    for root, contracts in sorted(of_roots.items(), key=lambda item: _is_of_both(draft, item[1])):
        first_expiry = min(contract.expiry for contract in contracts.values())
        if any(root_of(it) == root and option_terms(it)[2] >= first_expiry for it in draft.broker.owners.owed):
            continue  # the lines have begun to come
        exercised_symbols = _exercise_choice(
            draft, contracts, broker_quantities.get(root, 0) - draft.expected(root), cash - draft.book.cash
        )
        if exercised_symbols is None or any(order.symbol in contracts for order in draft.orders.values()):
            continue
        for symbol, contract in contracts.items():
            _settle(draft, symbol, contract, exercised=symbol in exercised_symbols)
        done = True
    return done


def lapsed_positions(draft: Draft, broker_quantities: Mapping[str, Quantity]) -> list[str]:
    """Return the desk's expired options that the broker no longer holds."""
    return [symbol for symbol in _lapsed_contracts(draft, broker_quantities) if symbol in draft.book.positions]


def _lapsed_contracts(draft: Draft, broker_quantities: Mapping[str, Quantity]) -> dict[str, OccContract]:
    """Return expired options of the desk and of others that the broker no longer holds."""
    contracts = dict[str, OccContract]()
    for symbol in {**draft.book.positions, **draft.broker.foreign_held}:
        contract = parse_occ(symbol)
        if contract is not None and not broker_quantities.get(symbol, 0) and has_lapsed(draft, symbol):
            contracts[symbol] = contract
    return contracts


def _is_of_both(draft: Draft, contracts: Mapping[str, OccContract]) -> bool:
    """Return whether desk and others hold some of the contracts."""
    return any(map(draft.held, contracts)) and any(draft.broker.foreign_held.get(symbol, 0) for symbol in contracts)


def _exercise_choice(
    draft: Draft, contracts: Mapping[str, OccContract], beyond: Quantity, cash_change: Decimal
) -> frozenset[str] | None:
    """Return the contracts whose exercise explains `beyond` shares; None where no choice does, or several do.

    Where several fit, `cash_change` (USD beyond the book) decides: a person may have exercised some. It must always
    show that most of the shares' price was paid; otherwise they came by a transfer.
    """
    choices: dict[tuple[Quantity, Decimal], list[frozenset[str]]] = {(0, ZERO): [frozenset()]}
    for symbol, contract in contracts.items():
        shares = contract.right * OPTION_MULTIPLIER * whole_of(draft.expected(symbol))
        for (total, cost), some in list(choices.items()) if shares else ():
            key = (total + shares, cost + shares * contract.strike)
            more = [choice | {symbol} for choice in some]
            choices[key] = [*choices.get(key, []), *more][:2]  # two are as good as many
        if len(choices) > CHOICES_MAX:
            return None
    by_shares = {
        cost: some
        for (total, cost), some in choices.items()
        if total == beyond and (not cost or abs(cash_change + cost) < abs(cash_change))
    }
    fitting = [choice for some in by_shares.values() for choice in some]
    beside = any(others_traded(draft, contract.root) for contract in contracts.values())
    if len(fitting) > 1 or beside or _is_of_both(draft, contracts):
        fitting = [choice for cost, some in by_shares.items() if abs(cash_change + cost) < CASH_NEAR for choice in some]
    return fitting[0] if len(fitting) == 1 else None


def _settle(draft: Draft, symbol: str, contract: OccContract, *, exercised: bool) -> None:
    """End the contracts of desk and others; each side gets the shares of its own contracts."""
    own_count, foreign_count = whole_of(draft.held(symbol)), whole_of(draft.broker.foreign_held.get(symbol, 0))
    shares_per_contract = contract.right * OPTION_MULTIPLIER if exercised else 0
    before = holdings_of(draft, contract.root)
    draft.first_time(symbol + SETTLED)
    if exercised:
        shares = (contract.root, shares_per_contract * (own_count + foreign_count))
        draft.broker = replace(draft.broker, settled=(*draft.broker.settled, shares))
    if foreign_count:
        hold_foreign(draft, symbol, -foreign_count)
        hold_foreign(draft, contract.root, shares_per_contract * foreign_count)
        transfer(draft, -shares_per_contract * foreign_count * contract.strike)
    if own_count:
        over = ContractExpired(
            draft.now_ns, symbol, own_count, contract.root, shares_per_contract * own_count, contract.strike
        )
        on_contract_expired(draft, over)
    note_delivered(draft, contract.root, date.fromisoformat(contract.expiry), before)
