"""Read-model rows of a policy's heads at a decision: one for each symbol, or one for all."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import msgspec

from daemon.core.draft import Draft
from daemon.core.records import HeadRow
from strategies.kit.contract import Answer, Rebalance, Spec

_encode = msgspec.json.encode


def head_rows(draft: Draft, decision: int, answer: Answer, decided: Rebalance | None = None) -> Iterator[HeadRow]:
    """The rows of an answer; none where it has no heads and no values by symbol. `decided`: of a desk of shares."""
    if not answer.heads and not draft.spec.by_row:
        return
    spec, now_ns = draft.spec, draft.now_ns
    portfolio = draft.desk.holds.view(draft, now_ns).portfolio
    if not spec.rows_are_symbols or portfolio is None or decided is None:
        numbers = {head.name: _numbers(answer.heads[head.name], head.shape, 0) for head in spec.heads}
        yield HeadRow(decision, "", now_ns, _encode(answer.logits).decode(), _encode(numbers).decode(), None, None, "")
        return
    goals = {leg.symbol: leg.goal for leg in decided.basket.legs}
    for place, symbol in enumerate(spec.symbols):
        numbers = {head.name: _numbers(answer.heads[head.name], head.shape, place) for head in spec.heads}
        held, price = portfolio.shares[place], portfolio.prices[place]
        yield HeadRow(
            decision=decision,
            symbol=symbol,
            time_ns=now_ns,
            answer=_encode(_of_row(answer.logits, spec, place)).decode(),
            heads=_encode(numbers).decode(),
            weight_before=_weight(held, price, portfolio.equity),
            weight_after=_weight(goals.get(symbol, held), price, portfolio.equity),
            note=decided.notes.get(symbol, ""),
        )


def _of_row(logits: tuple[float, ...], spec: Spec, row: int) -> float | tuple[float, ...]:
    """A symbol's number of an answer, or its actions' numbers."""
    return _numbers(logits, () if spec.continuous else (len(spec.actions),), row)


def _numbers(values: tuple[float, ...], shape: tuple[int, ...], row: int) -> float | tuple[float, ...]:
    """One row of a head's values: a number, or its numbers in C order."""
    size = prod(shape)
    return values[row * size : (row + 1) * size] if shape else values[row]


def _weight(shares: int, price: float, equity: float) -> float | None:
    """The part of the equity that so many shares are worth; None where that is not known."""
    if not shares:
        return 0.0
    return shares * price / equity if price > 0.0 and equity > 0.0 else None
