"""From a strategy's goals, which are floats, to exact quantities: fractions of shares, or whole ones.

Invariant: a goal of 0 and what is held stay as they are; any other goal is a multiple of the desk's step, and no
further from 0 than what the strategy asked for.
"""

from __future__ import annotations

from decimal import Decimal

from msgspec import UnsetType
from msgspec.structs import replace

from daemon.core.desks.shares.fractions import fractions_fit
from daemon.core.draft import Draft
from daemon.core.state import ZERO
from strategies.kit.contract import Basket, Leg, Rebalance
from strategies.kit.quantity import Part, Quantity, exact, steps_of


def choose_fractions(draft: Draft) -> None:
    """Let the first basket of a journal decide whether the desk holds fractions, for good.

    One that has sent orders before this was asked stays with whole shares.
    """
    rules, chosen = draft.trading.basket, draft.basket.fractions
    if rules.fractions != "auto" or not isinstance(chosen, UnsetType):
        return
    prices = [float(draft.marks.get(symbol, ZERO)) for symbol in draft.spec.symbols]
    fractions = draft.stats.orders == 0 and fractions_fit(float(draft.book.equity), prices)
    draft.basket = replace(draft.basket, fractions=fractions)


def is_indivisible(draft: Draft, symbol: str) -> bool:
    """Return whether the broker takes whole shares of this symbol alone, as far as it said so."""
    return not isinstance(draft.basket.indivisible, UnsetType) and symbol in draft.basket.indivisible


def steps_a_share(draft: Draft, symbol: str) -> int:
    """Return in how many steps the desk counts a share of this symbol: 1 where it holds whole ones."""
    divides = draft.fractional and not is_indivisible(draft, symbol)
    return draft.trading.basket.steps_a_share if divides else 1


def step_of(draft: Draft, symbol: str) -> Quantity:
    """Return the least number of shares that a buy of this symbol is a multiple of."""
    return exact(draft.trading.basket.order_step) if steps_a_share(draft, symbol) > 1 else 1


def in_steps(draft: Draft, symbol: str, goal: float | Quantity) -> Quantity:
    """Return a strategy's goal as a quantity that the desk can hold."""
    if type(goal) is int:
        return goal
    steps = steps_a_share(draft, symbol)
    return of_steps(steps_of(goal, steps) if isinstance(goal, float) else int(goal * steps), steps)


def of_steps(count: int, steps: int) -> Quantity:
    """Return so many steps as shares."""
    return exact(Decimal(count) / steps) if steps > 1 else count


def counted(draft: Draft, decided: Rebalance) -> Rebalance:
    """Return the decision with exact goals, without purchases of what a person closed, and without tiny changes.

    Tiny is a change of a fraction that is worth less than `min_order_usd`; never one that sells all.
    """
    closed = () if isinstance(draft.risk.by_hand, UnsetType) else draft.risk.by_hand
    if not (closed or draft.fractional) and all(type(leg.goal) is int for leg in decided.basket.legs):
        return decided
    legs = [Leg(leg.symbol, in_steps(draft, leg.symbol, leg.goal)) for leg in decided.basket.legs]
    bought_back = [leg for leg in legs if leg.symbol in closed and leg.goal > draft.held(leg.symbol)]
    kept = tuple(leg for leg in legs if leg not in bought_back and not _is_too_small(draft, leg))
    return replace(decided, basket=Basket(kept))


def _is_too_small(draft: Draft, leg: Leg) -> bool:
    change = leg.goal - draft.held(leg.symbol)
    if type(change) is not Part or not leg.goal:
        return False
    worth: Decimal = abs(change) * draft.marks.get(leg.symbol, ZERO)
    return worth < draft.trading.basket.min_order_usd
