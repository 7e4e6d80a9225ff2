"""The lines of the broker's ledger that are no fills: each kind has one meaning, an unknown one is told and not booked.

A line books exactly its own change. Invariant: each id once. Sources: Alpaca's account activities (types and the
signs of quantity and amount).
"""

from __future__ import annotations

from msgspec.structs import replace

from daemon.core.events import Activity, ContractExpired
from daemon.core.execution import held
from daemon.core.fills import transfer
from daemon.core.guards import alarm, halt, revalue
from daemon.core.on_broker import on_contract_expired
from daemon.core.option_market import parse_occ
from daemon.core.state import ZERO, Draft, Position

FEES = frozenset(("FEE", "CFEE", "PTC", "PTR"))
INCOME = frozenset(
    ("DIV", "DIVCGL", "DIVCGS", "DIVFEE", "DIVFT", "DIVNRA", "DIVROC", "DIVTW", "DIVTXEX", "INT", "INTNRA")
)
TRANSFERS = frozenset(("CSD", "CSW", "JNL", "JNLC", "TRANS", "ACATC"))
SPLITS = frozenset(("SPLIT", "SSP", "FSPLIT", "RSPLIT"))
CONTRACT_ENDS = frozenset(("OPEXP", "OPEXC", "OPASN"))
SHARES_OF_CONTRACT = 100


def book_activity(draft: Draft, line: Activity) -> None:
    """Book one line of the ledger."""
    if line.time_ns < draft.broker.began_ns:
        return
    if line.status in ("correct", "canceled"):
        alarm(draft, "ledger_amended", f"{line.kind} {line.id}: {line.status}; the next comparison judges it")
    elif line.kind in FEES or line.kind in INCOME:
        book = draft.book
        fees = book.fees - line.amount if line.kind in FEES else book.fees
        draft.book = replace(book, cash=book.cash + line.amount, realized=book.realized + line.amount, fees=fees)
        revalue(draft)
    elif line.kind in TRANSFERS:
        transfer(draft, line.amount)
    elif line.kind in SPLITS and parse_occ(line.symbol) is None:
        _split(draft, line)
    elif line.kind in CONTRACT_ENDS:
        _end_contract(draft, line)
    elif line.kind == "OPTRD":
        _move_shares(draft, line)
    else:
        alarm(draft, "unknown_activity", f"{line.kind} {line.symbol} {line.quantity} {line.amount} USD was not booked")


def _end_contract(draft: Draft, line: Activity) -> None:
    """An option ended. Its shares, if any, come as a line of their own."""
    quantity = held(draft, line.symbol)
    contract = parse_occ(line.symbol)
    if not quantity or contract is None:
        return
    on_contract_expired(draft, ContractExpired(line.time_ns, line.symbol, quantity, contract.root, 0, contract.strike))
    if line.kind != "OPEXP":
        halt(draft, "shares_from_exercise", f"{line.symbol}: {line.kind} of {quantity} contracts")


def _move_shares(draft: Draft, line: Activity) -> None:
    """The share leg of an exercise or assignment; one that was booked from the positions already is passed over."""
    shares = int(line.quantity)
    if (line.symbol, shares) in draft.broker.settled:
        left = list(draft.broker.settled)
        left.remove((line.symbol, shares))
        draft.broker = replace(draft.broker, settled=tuple(left))
        return
    book = draft.book
    known = book.positions.get(line.symbol) or Position(line.symbol, 0, 0, ZERO, 1, line.time_ns, "")
    moved = replace(known, quantity=known.quantity + shares, cost=known.cost - line.amount)
    positions = {**book.positions, line.symbol: moved}
    gain = ZERO
    if moved.quantity == 0:
        gain = -moved.cost
        del positions[line.symbol]
    draft.book = replace(book, cash=book.cash + line.amount, positions=positions, realized=book.realized + gain)
    if moved.quantity:
        halt(draft, "shares_from_exercise", f"{shares:+d} {line.symbol} came from an exercise or assignment")
    revalue(draft)


def _split(draft: Draft, line: Activity) -> None:
    """Shares multiply or merge; their cost stays."""
    known = draft.book.positions.get(line.symbol)
    if known is not None:
        moved = replace(known, quantity=known.quantity + int(line.quantity))
        draft.book = replace(draft.book, positions={**draft.book.positions, line.symbol: moved})
        revalue(draft)


def settle_without_ledger(draft: Draft, theirs: dict[str, int]) -> bool:
    """Settle expired options that the broker holds no more although its ledger says nothing yet (paper: a day later).

    Shares that the broker holds beyond the book, as many as the contracts stand for, show an exercise. True when
    something was settled.
    """
    session = draft.session.session
    done = False
    for symbol, position in tuple(draft.book.positions.items()):
        contract = parse_occ(symbol)
        if session is None or contract is None or theirs.get(symbol, 0):
            continue
        over = contract.expiry < session.date or (contract.expiry == session.date and draft.session.ended)
        if not over:
            continue
        whole = contract.right * SHARES_OF_CONTRACT * position.quantity
        beyond = theirs.get(contract.root, 0) - held(draft, contract.root)
        shares = whole if beyond == whole else 0
        if shares:
            draft.broker = replace(draft.broker, settled=(*draft.broker.settled, (contract.root, shares)))
        on_contract_expired(
            draft, ContractExpired(draft.now_ns, symbol, position.quantity, contract.root, shares, contract.strike)
        )
        done = True
    return done
