"""The risk overlay of a desk that decides once a session: its gross exposure is capped by a forecast of volatility.

It acts between the strategy's goals and the gates, on the closes that the strategy keeps, so that a replay repeats it.
Invariant: no goal is raised; sales that the strategy asks for always pass; nothing is bought while the forecast is
unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from math import fsum, isfinite, nan
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from daemon.core.desks.shares.sizes import of_steps, steps_a_share, worth_an_order
from daemon.core.draft import Draft, names_of
from daemon.core.instruments.quotes import middle_of, share_guard
from daemon.core.limits import Basket as Rules
from daemon.core.records import OverlayRow
from daemon.core.risk.overlay import (
    MODEL,
    VARIANCE,
    cap_goals,
    exposure_cap,
    mix_of,
    return_count,
    volatility,
    without_new_risk,
)
from daemon.core.risk.splits import SPLIT_RATIO
from daemon.core.state import ZERO
from strategies.kit.contract import Answer, Basket, Leg, Rebalance
from strategies.kit.daily import KeptBars, dated_closes
from strategies.kit.entry import BoolArray, Float64Array
from strategies.kit.quantity import Quantity, to_json

ALONE = 2.0  # a close this many times its neighbours, or they of it, is an error: no price halves for a day


class Ruling(NamedTuple):
    """The decision under the overlay, its row, and the symbols that the overlay sells, or sells more of.

    `most` is what may be invested, the band included, in USD; unset while the volatility is not known.
    """

    decided: Rebalance
    row: OverlayRow
    sold: frozenset[str]
    most: Decimal | UnsetType


class Known(NamedTuple):
    """A volatility and the cap that follows from it; both NaN where `unknown` says why."""

    volatility: float
    cap: float
    unknown: str


def closing_returns(closes: Float64Array, count: int) -> tuple[Float64Array, BoolArray]:
    """Return the simple returns of the newest `count` sessions, (t, s), and whether each symbol's are known, (s,).

    Args:
        closes: USD, (sessions, s), oldest first, NaN where a symbol has no bar, for which its last close counts. A
            symbol without a close of the newest session, or before the first return, is unknown; its returns are 0.
        count: t.
    """
    window = np.full((count + 1, closes.shape[1]), nan)
    rows = carried_closes(closes)[-count - 1 :]
    window[len(window) - len(rows) :] = rows
    is_known = (
        np.isfinite(closes[-1]) & np.isfinite(window[0]) if len(closes) else np.zeros(closes.shape[1], dtype=bool)
    )
    safe = np.where(is_known, window, 1.0)
    known_flags: BoolArray = is_known
    return safe[1:] / safe[:-1] - 1.0, known_flags


def carried_closes(closes: Float64Array) -> Float64Array:
    """Return closes (sessions, s) where each missing one (NaN) is the symbol's last one before it."""
    newest = np.where(np.isfinite(closes), np.arange(len(closes))[:, None], 0)
    full_closes: Float64Array = np.take_along_axis(closes, np.maximum.accumulate(newest, axis=0), axis=0)
    return full_closes


def apply_overlay(draft: Draft, rebalance: Rebalance, answer: Answer, decision: int) -> Ruling | None:
    """Return the decision under the overlay; None where it is off, or the gates deny the legs as they are."""
    rules, symbols = draft.trading.basket, draft.spec.symbols
    goals_of = {leg.symbol: leg.goal for leg in rebalance.basket.legs}
    whole_legs = len(goals_of) == len(rebalance.basket.legs) and goals_of.keys() <= set(symbols)
    off = not rules.volatility_target or not draft.desk.decides.rebalances
    if off or not whole_legs or min(goals_of.values(), default=0) < 0:
        return None
    old_quantities = [max(draft.held(symbol), 0) for symbol in symbols]
    goal_quantities = [goals_of.get(symbol, now) for symbol, now in zip(symbols, old_quantities, strict=True)]
    steps = [steps_a_share(draft, symbol) for symbol in symbols]  # all below is counted in steps
    holdings, goals = (
        np.array([[float(count * n) for count, n in zip(counts, steps, strict=True)]])
        for counts in (old_quantities, goal_quantities)
    )
    prices = np.array([[float(draft.marks.get(s, ZERO)) / n for s, n in zip(symbols, steps, strict=True)]])
    equity = float(draft.book.equity)
    forecast = _forecast(draft, rebalance, answer, goals, prices)
    if forecast.unknown:
        new_goals = without_new_risk(np, holdings, goals)
    else:
        most = np.array([forecast.cap * equity])
        new_goals = cap_goals(np, holdings, goals, prices, most=most, band=rules.volatility_band, whole=rebalance.whole)
    cut = {
        symbol: (
            goal_quantities[place],
            old_quantities[place] if count == holdings[0, place] else of_steps(int(count), steps[place]),
        )
        for place, (symbol, count) in enumerate(zip(symbols, new_goals[0].tolist(), strict=True))
        if count < goals[0, place]
    }
    row = OverlayRow(
        decision=decision,
        time_ns=draft.now_ns,
        forecast=rules.volatility_forecast,
        target=rules.volatility_target,
        volatility=_number(forecast.volatility),
        cap=_number(forecast.cap),
        asked=_weight(goals, prices, equity),
        allowed=_weight(new_goals, prices, equity),
        cut=msgspec.json.encode(cut, enc_hook=to_json).decode(),
        unknown=forecast.unknown,
    )
    sold_symbols = frozenset([symbol for symbol, (_, goal) in cut.items() if goal < draft.held(symbol)])
    decided = replace(rebalance, basket=Basket(_legs(draft, rebalance.basket.legs, cut)))
    most_usd = forecast.cap * equity * (1.0 + rules.volatility_band)
    return Ruling(decided, row, sold_symbols, UNSET if forecast.unknown else Decimal(str(round(most_usd, 2))))


def note_exposure_max(draft: Draft, ruling: Ruling | None) -> None:
    """Note up to which exposure this decision's buys may go while one of its sales finds no buyer.

    Unset on a tape, where a basket's sales and buys meet the same prints.
    """
    most = UNSET if ruling is None or draft.identity.by_tape else ruling.most
    if most != draft.basket.exposure_max:
        draft.basket = replace(draft.basket, exposure_max=most)


def report_overlay(draft: Draft, row: OverlayRow) -> None:
    """Record what the overlay did; raise an alarm, once a session for each cause, when the forecast is unknown."""
    draft.records.append(row)
    if row.unknown:
        draft.alarm("volatility_unknown", f"nothing is bought: {row.unknown}", once=True, about=row.unknown)


def _legs(draft: Draft, legs: Sequence[Leg], cut: Mapping[str, tuple[Quantity, Quantity]]) -> tuple[Leg, ...]:
    """Return the legs with the goals that were cut: a buy cut to nothing is dropped, a sale without a leg is added.

    The legs keep their order, which is that of the buys; the new sales follow. Legs too small for an order are dropped.
    """
    changed_legs = [Leg(leg.symbol, cut[leg.symbol][1]) if leg.symbol in cut else leg for leg in legs]
    leg_symbols = {leg.symbol for leg in legs}
    fresh = [Leg(symbol, goal) for symbol, (_, goal) in cut.items() if symbol not in leg_symbols]
    return worth_an_order(draft, (leg for leg in (*changed_legs, *fresh) if leg.goal != draft.held(leg.symbol)))


def _forecast(draft: Draft, rebalance: Rebalance, answer: Answer, goals: Float64Array, prices: Float64Array) -> Known:
    """Return the volatility and the cap of the portfolio that these goals ask for, in steps at `prices` in USD each."""
    rules, symbols, equity = draft.trading.basket, draft.spec.symbols, float(draft.book.equity)
    wanted = goals[0] > 0.0
    if not wanted.any():
        return Known(nan, 1.0, "")
    if not equity > 0.0:
        return _unknown_forecast(f"equity is {draft.book.equity} USD")
    strange = [s for s, position in draft.book.positions.items() if position.quantity and s not in symbols]
    if strange:
        return _unknown_forecast(f"the desk holds what it does not trade: {names_of(strange)}")
    alone = wanted & np.isin(symbols, list(rebalance.notes))
    if alone.any():
        return _unknown_forecast(
            f"the strategy leaves alone what is held: {names_of(_flagged_symbols(symbols, alone))}"
        )
    priceless = (prices[0] <= 0.0) | np.isin(symbols, draft.basket.uncertain_symbols)
    if (wanted & priceless).any():
        return _unknown_forecast(f"no sure price: {names_of(_flagged_symbols(symbols, wanted & priceless))}")
    closes = kept_closes(draft)
    returns, is_known = closing_returns(closes, return_count(rules.volatility_forecast, rules.volatility_span))
    if (wanted & ~is_known).any():
        why = f"fewer than {len(returns) + 1} closes, or none of the newest session"
        return _unknown_forecast(f"{why}: {names_of(_flagged_symbols(symbols, wanted & ~is_known))}")
    if not draft.identity.by_tape and (
        why := _doubt(draft, _flagged_symbols(symbols, wanted), closes[:, wanted], len(returns))
    ):
        return _unknown_forecast(why)
    variances = _variances(rules, answer, len(symbols))
    worth = goals * prices
    with np.errstate(all="ignore"):  # a result that is not finite is unknown
        forecasts = volatility(
            np,
            mix_of(worth),
            returns[None],
            rules.volatility_forecast,
            rules.volatility_span,
            variances,
        )
        annual, cap = float(forecasts[0]), float(exposure_cap(rules.volatility_target, forecasts)[0])
    if not (isfinite(annual) and annual > 0.0):
        return _unknown_forecast(f"the forecast is {annual}")
    return Known(annual, cap, "")


def _doubt(draft: Draft, symbols: Sequence[str], closes: Float64Array, count: int) -> str:
    """Return why closes (sessions, s) of these symbols, or their prices in USD, are in doubt; "" where they are not.

    One wrong close would sell all that is held. Not called for a tape, whose prices are those of its bars.
    """
    newest = [float(column[np.isfinite(column)][-1]) for column in closes.T]
    marks = [float(draft.marks.get(symbol, ZERO)) for symbol in symbols]
    far = [s for s, close, price in zip(symbols, newest, marks, strict=True) if _far(close, price)]
    if far:
        return f"the price is far from the newest close: {names_of(far)}"
    quote_prices = [_recent_mid(draft, symbol) for symbol in symbols]
    sure = [price is not None and not _far(close, price) for close, price in zip(newest, quote_prices, strict=True)]
    alone = [
        s for s, column, is_sure in zip(symbols, closes.T, sure, strict=True) if _has_alone(column, count, is_sure)
    ]
    return f"a close stands alone among its neighbours: {names_of(alone)}" if alone else ""


def _far(close: float, price: float) -> bool:
    return max(close / price, price / close) >= SPLIT_RATIO


def _recent_mid(draft: Draft, symbol: str) -> float | None:
    """Return the middle of the newest quote in USD, None where it is wide or older than the symbol's newest bar."""
    quote = draft.quotes.get(symbol)
    if quote is None or quote.quoted_ns < draft.basket.newest.get(symbol, 0):
        return None
    middle = middle_of(quote, share_guard(draft.trading.basket))
    return None if middle is None else float(middle)


def _has_alone(column: Float64Array, count: int, newest_is_sure: bool) -> bool:
    """Return whether a close that the newest `count` returns read is twice its neighbours, or half of them.

    The two neighbours agree with each other. The oldest kept close, and the newest unless it is sure, have one
    neighbour. A session without a bar is no neighbour.
    """
    rows = np.flatnonzero(np.isfinite(column))
    first = int(np.searchsorted(rows, len(column) - count - 1, side="right")) - 1  # the oldest that is read
    closes = column[rows[max(first - 1, 0) :]]
    leaps = _apart(closes[1:], closes[:-1]) >= ALONE
    inner = leaps[1:] & leaps[:-1] & (_apart(closes[2:], closes[:-2]) < SPLIT_RATIO)
    return bool(inner.any() or (first == 0 and leaps[0]) or (leaps[-1] and not newest_is_sure))


def _apart(one: Float64Array, other: Float64Array) -> Float64Array:
    """Return the ratio of the greater price to the smaller one."""
    ratio: Float64Array = np.maximum(one / other, other / one)
    return ratio


def _variances(rules: Rules, answer: Answer, count: int) -> Float64Array | None:
    """Return the head's variances, (1, s), NaN where it has none; None where the forecast reads no head."""
    if rules.volatility_forecast != MODEL:
        return None
    numbers = answer.heads.get(VARIANCE, ())
    return np.array([numbers if len(numbers) == count else [nan] * count], dtype=np.float64)


def kept_closes(draft: Draft) -> Float64Array:
    """Return the closes of all sessions of which the strategy keeps a bar, (sessions, s); NaN where one has none.

    A strategy of the kit keeps rows of bytes, which are read as they are: fifty stocks have 20,000 bars.
    """
    if isinstance(draft.strategy, KeptBars):
        return align_closes([dated_closes(rows) for rows in draft.strategy.series])
    bars = draft.desk.decides.known(draft)
    histories = [bars.get(symbol, ()) for symbol in draft.spec.symbols]
    return align_closes(
        [
            (np.array([b.start_ns for b in some], dtype=np.int64), np.array([b.close for b in some]))
            for some in histories
        ]
    )


def align_closes(series: Sequence[tuple[npt.NDArray[np.int64], Float64Array]]) -> Float64Array:
    """Return closes by session and symbol, (sessions, s), of each symbol's starts and closes; NaN where one has none.

    A close that is no price above 0 counts as none.
    """
    sessions = np.unique(np.concatenate([starts for starts, _ in series]))
    closes = np.full((len(sessions), len(series)), nan)
    for column, (starts, symbol_closes) in enumerate(series):
        closes[np.searchsorted(sessions, starts), column] = np.where(symbol_closes > 0.0, symbol_closes, nan)
    return closes


def _unknown_forecast(why: str) -> Known:
    return Known(nan, nan, why)


def _flagged_symbols(symbols: Sequence[str], flags: BoolArray) -> list[str]:
    return [symbol for symbol, flag in zip(symbols, flags.tolist(), strict=True) if flag]


def _number(value: float) -> float | None:
    return value if isfinite(value) else None


def _weight(goals: Float64Array, prices: Float64Array, equity: float) -> float | None:
    """Return the part of the equity that so many shares are worth; None where that is not known."""
    return fsum((goals * prices)[0].tolist()) / equity if equity > 0.0 else None
