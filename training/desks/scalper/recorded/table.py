"""The price table of a market whose orders fill at the quotes of a later minute: from recorded quotes, or modelled.

A run of cells is one contract of one session. It holds what the desk knows of the contract at each row, and at what
price an order fills there. Invariant: equal quotes give an equal table, whatever their source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from daemon.core.desks.options import TIME_VALUE_MAX
from daemon.core.limits import Trading
from training.desks.scalper.history import DENIED, RIGHTS, History, PriceTable, TradingDay, entry_costs, quote_day

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class QuoteTable(PriceTable):
    """The columns of `PriceTable` with other meanings: a minute has one quote, that of its end.

    `opens`: bid and ask at which a working order fills in that minute, 0 for none. `closes`: the last bid of the
    session so far, and bid + ask of the minute's own quote, 0 without one. `costs`: for a contract that is watched only
    because it is nearest the money.
    """

    known: Tensor  # int64 (cells, 6): see `KNOWN`


KNOWN = ("bid", "ask", "near_bid", "near_ask", "paired", "alone")
"""The newest quote that is young enough to act on, 0 without one: of a contract that is held or ordered, and of one
that is watched only while it is nearest the money. Whether the quote supports the bar's close, with and without that of
its counterpart (`spot_unsupported`)."""


@dataclass(frozen=True, slots=True)
class SessionQuotes:
    """One session's quotes near the money in whole cents: int64 arrays (2 rights, strikes, bars), 0 for no such side.

    Where both sides are 0 the minute has no quote, and orders fill at `model`, bid and ask, unless these are 0 too.
    """

    strikes: tuple[float, ...]
    nearest: Int64Array  # (bars,) index into strikes at each close
    bid: Int64Array
    ask: Int64Array
    low: Float64Array  # USD: the lowest and the highest mid of the minute
    high: Float64Array
    model: tuple[Int64Array, Int64Array]


def modelled(history: History, day: TradingDay, trading: Trading) -> SessionQuotes:
    """The quotes of the paper broker's option market at the end of each minute. Raises HistoryError."""
    quotes = quote_day(history, day, trading)
    bid, ask = quotes.close
    has_quote, middle = np.minimum(bid, ask) > 0, bid + ask
    sides = []
    for (low_bid, low_ask), most in ((quotes.lowest, np.minimum), (quotes.highest, np.maximum)):
        reached = has_quote & (low_bid > 0) & (low_ask > 0)
        sides.append(np.where(reached, most(middle, low_bid + low_ask), middle) / 200.0)
    none = np.zeros_like(bid)
    return SessionQuotes(quotes.strikes, quotes.nearest, bid, ask, sides[0], sides[1], (none, none))


def quote_table(history: History, sessions: Sequence[tuple[TradingDay, SessionQuotes]], trading: Trading) -> QuoteTable:
    """The cells of all sessions in one row. Rows of other sessions have lane 0."""
    parts: list[tuple[Tensor, ...]] = []
    lanes = np.zeros((len(history.close), 2), dtype=np.int64)
    offset = 0
    for day, quotes in sessions:
        parts.append(_cells(history, day, quotes, trading))
        bars = day.end - day.first
        for right in range(2):
            lane = offset + (right * len(quotes.strikes) + quotes.nearest) * bars - day.first
            lanes[day.first : day.end, right] = lane
        offset += 2 * len(quotes.strikes) * bars
    opens, closes, mids, costs, newest = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return QuoteTable(opens, closes, mids, costs, torch.from_numpy(lanes), newest)


def _cells(history: History, day: TradingDay, quotes: SessionQuotes, trading: Trading) -> tuple[Tensor, ...]:
    """The columns of one session's cells, in the order of `QuoteTable`'s fields without the lanes."""
    minute, risk = history.minute[day.first : day.end], trading.risk
    bid, ask = quotes.bid, quotes.ask
    quoted = (bid > 0) | (ask > 0)
    last = _last(quoted)
    young = (last >= 0) & ((minute - minute[last]) * 60 <= risk.quote_age_max_s)
    watched = np.broadcast_to(quotes.nearest == np.arange(len(quotes.strikes))[:, None], bid.shape)
    near = watched & young & (last > _last(~watched))  # watched without a break since that quote
    sides = [np.take_along_axis(side, np.maximum(last, 0), axis=-1) for side in (bid, ask)]
    own_quotes, of_near = ([np.where(mask, side, 0) for side in sides] for mask in (young, near))
    spot = history.close[day.first : day.end]
    terms = (np.array(RIGHTS, dtype=np.float64).reshape(2, 1, 1), np.array(quotes.strikes).reshape(1, -1, 1), spot)
    alone = _is_supported(own_quotes, None, terms, risk.spot_gap_max)
    paired = _is_supported(own_quotes, of_near, terms, risk.spot_gap_max)
    supported = _is_supported(of_near, of_near, terms, risk.spot_gap_max)
    costs = entry_costs(torch.from_numpy(of_near[0]), torch.from_numpy(of_near[1]), trading)
    costs = torch.where(torch.from_numpy(near & supported & (of_near[1] > 0)), costs, DENIED)
    trades = minute < (day.session.close_ns - day.session.open_ns) // 60_000_000_000
    fills = [np.where(quoted, side, model) * trades for side, model in zip((bid, ask), quotes.model, strict=True)]
    worth = np.where(last >= 0, np.take_along_axis(bid, np.maximum(last, 0), axis=-1), 0)
    return (
        _columns(*fills),
        _columns(worth, bid + ask),
        _columns(quotes.low, quotes.high, (bid + ask) / 200.0),
        costs.reshape(-1),
        _columns(*own_quotes, *of_near, paired.astype(np.int64), alone.astype(np.int64)),
    )


def _columns(*arrays: npt.NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.stack([array.reshape(-1) for array in arrays], axis=1))


def _last(mask: BoolArray) -> Int64Array:
    """Index of the newest true value of `mask` up to each place of the last axis; -1 for none."""
    places = np.where(mask, np.arange(mask.shape[-1]), -1)
    newest: Int64Array = np.maximum.accumulate(places, axis=-1)
    return newest


def _is_supported(
    own_quotes: Sequence[Int64Array],
    pair_quotes: Sequence[Int64Array] | None,
    terms: tuple[Float64Array, Float64Array, Float64Array],
    gap: float,
) -> BoolArray:
    """Where the gate `spot_unsupported` lets a contract pass, bool. `pair_quotes`: of call and put; None: no pair.

    The same operations in the same order as the gate's.
    """
    right, strike, spot = terms
    mid = (own_quotes[0] + own_quotes[1]) / 100.0 / 2
    value = mid - np.maximum(right * (spot - strike), 0.0)
    alone: BoolArray = (-gap * spot <= value) & (value <= TIME_VALUE_MAX * spot)
    if pair_quotes is None:
        return alone
    opposite = [side[::-1] for side in pair_quotes]  # the counterpart of the other right
    has_both = (own_quotes[0] > 0) & (own_quotes[0] <= own_quotes[1]) & (opposite[0] > 0) & (opposite[0] <= opposite[1])
    implied = strike + right * (mid - (opposite[0] + opposite[1]) / 100.0 / 2)
    paired: BoolArray = np.where(has_both, np.abs(implied - spot) <= gap * spot, alone)
    return paired
