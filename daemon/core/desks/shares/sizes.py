"""From a strategy's goals, which are floats, to exact quantities that the cash pays for: fractions, or whole shares.

Training uses the same pure rules: `fractions_fit`, and `share_out`, whose arithmetic on tensors of float64 is in
`training.desks.daily.share_accounts`. Invariants: goals of 0, and of what is held, stay as they are; any other goal is
a multiple of the desk's step from one of these, and no further from 0 than requested, except for a fraction too small
for an order; shared buys cost no more than there is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from msgspec import UnsetType
from msgspec.structs import replace

from daemon.core.draft import Draft, names_of
from daemon.core.limits import Trading
from daemon.core.state import ZERO
from strategies.kit.contract import Basket, Leg, Rebalance
from strategies.kit.quantity import Part, Quantity, exact, steps_of, whole_of

FEWEST_SHARES = 20.0  # with fewer, half a share of rounding is more than a fortieth of a position


def fractions_fit(equity: float, prices: Sequence[float]) -> bool:
    """Return whether an equal part of the equity pays for fewer than 20 shares of some symbol with a price.

    Args:
        equity: USD.
        prices: USD a share of each of the desk's symbols, the last known; 0 or less (or infinite) where none is.
    """
    part = equity / len(prices) if prices else 0.0
    return any(0.0 < price < math.inf and part < FEWEST_SHARES * price for price in prices)


def may_trade_fractions(trading: Trading, dearest: float, symbols: int) -> bool:
    """Return whether a desk with the paper cash may come to trade fractions; a replay prints for it once more.

    Args:
        trading: its rules.
        dearest: USD, the highest price of its tape.
        symbols: how many it trades.
    """
    rule, cash = trading.basket.fractions, float(trading.paper.cash_usd)
    return rule == "on" or (rule == "auto" and fractions_fit(cash, [dearest] * symbols))


def choose_fractions(draft: Draft) -> None:
    """Decide at the first basket of a journal whether the desk holds fractions, for good.

    A journal that has sent orders before stays with whole shares. Without equity, or any price, nothing is decided yet.
    """
    rules, chosen, equity = draft.trading.basket, draft.basket.fractions, draft.book.equity
    if rules.fractions != "auto" or not isinstance(chosen, UnsetType) or equity <= 0:
        return
    prices = [float(draft.marks.get(symbol, ZERO)) for symbol in draft.spec.symbols]
    if not any(prices):
        return
    fractions = draft.stats.orders == 0 and fractions_fit(float(equity), prices)
    draft.basket = replace(draft.basket, fractions=fractions)


def out_of_reach(equity: float, prices: Mapping[str, float]) -> tuple[str, ...]:
    """Return the symbols of which an equal part of the equity pays for less than one share, the dearest first.

    Args:
        equity: USD.
        prices: USD a share by each of the desk's symbols.
    """
    part = equity / len(prices) if prices else 0.0
    dear = [symbol for symbol, price in prices.items() if 0.0 < price < math.inf and part < price]
    return tuple(sorted(dear, key=lambda symbol: -prices[symbol]))


def least_capital(count: int, dearest: float) -> int:
    """Return the equity in whole USD, rounded up, of which an equal part for `count` symbols pays for the dearest."""
    return math.ceil(round(count * dearest, 6))  # the product's last bits are no cent


def out_of_reach_words(equity: float, prices: Mapping[str, float], symbols: Sequence[str]) -> str:
    """Return why `symbols`, the dearest first, cannot be held in whole shares, and from which capital they could be."""
    count, dearest = len(prices), prices[symbols[0]]
    part = math.floor(100 * equity / count) / 100
    prices_text = names_of([f"{symbol} at {prices[symbol]:,.2f} USD" for symbol in symbols])
    return (
        f"{equity:,.2f} USD over {count} symbol{'s' * (count != 1)} are {part:,.2f} each, less than one share of "
        f"{prices_text}: what is below one share is not held; {least_capital(count, dearest):,} USD "
        "hold them"
    )


def report_too_small(draft: Draft) -> None:
    """Raise an alarm where an equal part of the equity pays for less than one share of a symbol held whole.

    On a desk with fractions those are the symbols that the broker does not divide. It is checked once a session, at the
    first decision with a reconciled book: the equity of a new journal is 0 until its first report.
    """
    session = draft.session.session
    if session is None or not draft.risk.reconciled or not draft.first_time(f"account_too_small {session.date}"):
        return
    equity, spec = float(draft.book.equity), draft.spec
    prices = {symbol: float(draft.marks.get(symbol, ZERO)) for symbol in spec.symbols}
    symbols = [symbol for symbol in out_of_reach(equity, prices) if steps_a_share(draft, symbol) == 1]
    if symbols:
        cure = "the broker takes no fraction of them" if draft.buys_fractions else 'or set basket.fractions = "on"'
        draft.alarm("account_too_small", f"{out_of_reach_words(equity, prices, symbols)}, {cure}", once=True)


def steps_a_share(draft: Draft, symbol: str) -> int:
    """Return in how many steps the desk counts a share of this symbol: 1 for whole shares."""
    return draft.trading.basket.steps_a_share if draft.divides(symbol) else 1


def step_of(draft: Draft, symbol: str) -> Quantity:
    """Return the step, in shares, of which buys of this symbol are multiples."""
    return exact(draft.trading.basket.order_step) if steps_a_share(draft, symbol) > 1 else 1


def in_steps(draft: Draft, symbol: str, goal: float | Quantity) -> Quantity:
    """Return a strategy's goal as a quantity that the desk can hold; a goal equal to the holding is kept as it is."""
    if type(goal) is int:
        return goal
    quantity, steps = draft.held(symbol), steps_a_share(draft, symbol)
    if goal == float(quantity):  # as the strategy saw it
        return quantity
    return of_steps(steps_of(goal, steps) if isinstance(goal, float) else int(goal * steps), steps)


def of_steps(count: int, steps: int) -> Quantity:
    """Return `count` steps as shares."""
    return exact(Decimal(count) / steps) if steps > 1 else count


def exact_decision(draft: Draft, decision: Rebalance) -> Rebalance:
    """Return the decision with exact goals, without purchases of what a person closed, and without tiny changes."""
    closed_symbols = draft.risk.closed_by_hand
    if not (closed_symbols or draft.fractional) and all(type(leg.goal) is int for leg in decision.basket.legs):
        return decision
    legs = [Leg(leg.symbol, in_steps(draft, leg.symbol, leg.goal)) for leg in decision.basket.legs]
    kept_legs = [leg for leg in legs if leg.symbol not in closed_symbols or leg.goal <= draft.held(leg.symbol)]
    return replace(decision, basket=Basket(worth_an_order(draft, kept_legs)))


def worth_an_order(draft: Draft, legs: Iterable[Leg]) -> tuple[Leg, ...]:
    """Return the legs without changes too small for an order: fractions below `min_order_usd`, unless all is sold.

    From a sale that goes into the auction such a fraction is left out: it would be an order of its own after the open.
    """
    kept_legs: list[Leg] = []
    for leg in legs:
        goal = leg.goal
        change = goal - draft.held(leg.symbol)
        if goal and type(change) is Part:
            if is_too_small(draft, leg.symbol, change):
                continue
            rest = change - whole_of(change)
            if change <= -1 and _into_auction(draft) and is_too_small(draft, leg.symbol, rest):
                goal -= rest
        kept_legs.append(Leg(leg.symbol, goal))
    return tuple(kept_legs)


def sells_in_auction(trading: Trading) -> bool:
    """Return whether what a decision sells goes into the opening auction, which takes whole shares."""
    return trading.basket.auction and trading.basket.decide == "after_close"


def sells_after_open(trading: Trading, dearest: float, symbols: int) -> bool:
    """Return whether sales may trade after the auction, so that buys for their cash trade later still."""
    return not sells_in_auction(trading) or may_trade_fractions(trading, dearest, symbols)


def _into_auction(draft: Draft) -> bool:
    return draft.desk.decides.rebalances and sells_in_auction(draft.trading)


def is_too_small(draft: Draft, symbol: str, change: Quantity, price: Decimal | None = None) -> bool:
    """Return whether a change is a fraction of shares worth less than `min_order_usd` at a price, None for its mark."""
    if type(change) is not Part:
        return False
    worth: Decimal = abs(change) * (draft.marks.get(symbol, ZERO) if price is None else price)
    return 0 < worth < draft.trading.basket.min_order_usd


# --- short cash -------------------------------------------------------------------------------------------------------


BITS = 20  # binary digits of the part that every buy keeps
TICKS = 10_000  # a USD: prices are whole ticks at most this fine
COST_GRID = 1_000_000  # a USD: costs are whole parts of this size
CENTS = 100  # a USD: the part is computed from whole cents, so that float64 holds it exactly


def units_a_usd(per_share: int) -> int:
    """Return how many units of money are a USD: one step of a share at one tick is whole, and so is a cost."""
    return math.lcm(COST_GRID, TICKS * per_share)


def whole_units(usd: Decimal, per_share: int) -> int:
    """Return USD in whole units of money, rounded down."""
    return int((usd * units_a_usd(per_share)).to_integral_value(ROUND_FLOOR))


def step_cost(price: Decimal, cost_rate: Decimal, per_share: int) -> int:
    """Return what one step of a share costs at this price in USD, cost included, in whole units rounded up.

    Counts times this cover each order's own cost rounded up to 1e-6 USD where shares are whole; with fractions
    `slack` more for each order.
    """
    usd = price * (1 + cost_rate) * units_a_usd(per_share) / per_share
    return int(usd.to_integral_value(ROUND_CEILING))


def slack(per_share: int) -> int:
    """Return the units of money by which the cost of one order may be rounded up beyond its steps' own."""
    return 0 if per_share == 1 else units_a_usd(per_share) // COST_GRID


def share_out(counts: Sequence[int], step_costs: Sequence[int], available: int, per_share: int = 1) -> list[int]:
    """Return how many steps of each buy the cash pays for: all of them, or each buy's same part of it.

    The part is floor(available x 2^20 / needed) / 2^20, in whole cents. What rounding leaves over goes, one share each,
    to the buys with the largest remainders (ties by place) that it still pays for; with fractions it stays cash.

    Args:
        counts: steps wanted, 0 or more, in the order of the spec's symbols.
        step_costs: units of money that one step costs (`step_cost`), above 0 where steps are wanted.
        available: units of money, after `slack` for each buy; below 0 counts as 0.
        per_share: steps in a share; 1 on a desk of whole shares.
    """
    available = max(available, 0)
    cost_sum = sum(count * cost for count, cost in zip(counts, step_costs, strict=True))
    if cost_sum <= available:
        return list(counts)
    cent = units_a_usd(per_share) // CENTS
    part = ((available // cent) << BITS) // -(-cost_sum // cent)
    granted_counts = [count * part >> BITS for count in counts]
    if per_share > 1:
        return granted_counts
    spare = available - sum(count * cost for count, cost in zip(granted_counts, step_costs, strict=True))
    remainders = [count * part & ((1 << BITS) - 1) for count in counts]
    for place in sorted(range(len(counts)), key=lambda place: -remainders[place]):
        if counts[place] > 0 and step_costs[place] <= spare:
            granted_counts[place] += 1
            spare -= step_costs[place]
    return granted_counts
