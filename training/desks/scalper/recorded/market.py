"""The tensor market with the timing of a dry run on recorded quotes: an order fills at the quote of a later minute.

A row runs as on the desk: its quote moves the mark, stops and limits are checked, the observation is made, working
orders fill or end, and unfilled ones are sent again; then the policy decides. Rows without a position and without an
order are skipped. Money is in cents, marks in half cents.

Its price table is of recorded quotes, or of modelled ones: equal quotes give an equal table, whatever their source. A
run of cells is one contract of one session.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from daemon.core.broker.sending import HANGS_NS
from daemon.core.desks.options import TIME_VALUE_MAX
from daemon.core.instruments.quotes import NARROW_USD, STEP_USD
from daemon.core.limits import Trading
from daemon.core.risk.guards import TOUCH_USD
from strategies.kit.units import SECOND_NS
from training.desks.scalper.history import (
    DENIED,
    MILLION,
    RIGHTS,
    SHARES,
    History,
    PriceTable,
    TradingDay,
    entry_costs,
    exact,
    millionths,
    quote_day,
)
from training.desks.scalper.market import FOREVER, Account, Fill, Market, account_of, matrix_of
from training.rl.draws import uniform
from training.study.folds import HistoryError

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class QuoteTable(PriceTable):
    """What the desk knows of each contract at each row, and at what price an order fills there.

    The columns of `PriceTable` with other meanings: a minute has one quote, that of its end.

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
        _tensor_of(*fills),
        _tensor_of(worth, bid + ask),
        _tensor_of(quotes.low, quotes.high, (bid + ask) / 200.0),
        costs.reshape(-1),
        _tensor_of(*own_quotes, *of_near, paired.astype(np.int64), alone.astype(np.int64)),
    )


def _tensor_of(*arrays: npt.NDArray[np.generic]) -> Tensor:
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


# Marks and limits on recorded quotes, in whole numbers for many environments.
#
# The rules are those of `daemon.core.risk.marks` and `daemon.core.desks.options`. Prices are in half cents a
# share, so that mids are whole, and limits of orders in cents. Fractions of the desk's limits are whole millionths.

HALF_CENTS = 200  # of a dollar


class QuoteRules:
    """The limits of one desk that need a quote."""

    def __init__(self, trading: Trading) -> None:
        """Read the limits. Raises HistoryError for rules that this market does not support."""
        risk, rules, sizing = trading.risk, trading.execution, trading.sizing
        if max(rules.entry_reprice_s, rules.exit_reprice_s) > 60:
            raise HistoryError(
                f"entry_reprice_s is {rules.entry_reprice_s}, exit_reprice_s {rules.exit_reprice_s}: on recorded "
                "quotes training knows orders of a minute: choose at most 60"
            )
        if trading.paper.contracts_per_minute < sizing.max_contracts:
            raise HistoryError(
                f"paper.contracts_per_minute is {trading.paper.contracts_per_minute}, sizing.max_contracts "
                f"{sizing.max_contracts}: training knows whole fills: choose at least as many"
            )
        if sizing.trails or sizing.held_max_min:
            raise HistoryError(
                f"sizing.trailing_stop is {sizing.trails}, sizing.time_stop_min {sizing.held_max_min}: training on "
                "recorded quotes knows neither: train with 0, the desk may have them"
            )
        self._width, self._leap = millionths(exact(risk.mark_width_max)), millionths(exact(risk.mark_leap_max))
        self._narrow, self._step = int(NARROW_USD * HALF_CENTS), int(STEP_USD * HALF_CENTS) * MILLION
        self._slack = millionths(1 + exact(rules.entry_slack))
        self._collar = millionths(exact(risk.price_collar))
        self._below_bid = millionths(1 - exact(rules.exit_slack))
        self._spread = millionths(exact(risk.spread_max))
        self._at_mid = rules.exit_start == "mid"
        self._attempts = rules.exit_limit_attempts

    def price(self, bid: Tensor, ask: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """The price in half cents that a quote in cents implies near `reference`, and where there is one (bool)."""
        middle, wide = bid + ask, ask - bid
        narrow = (bid > 0) & (ask >= bid) & ((2 * wide <= self._narrow) | (2 * wide * MILLION <= self._width * middle))
        bound = torch.maximum(reference, 2 * bid)
        bound = torch.where(ask > 0, torch.minimum(bound, 2 * ask), bound)
        return torch.where(narrow, middle, bound), narrow | (bound != reference)

    def leaps(self, price: Tensor, reference: Tensor) -> Tensor:
        """Where `price` is too far from `reference` to be accepted without confirmation, bool."""
        return (price - reference).abs() * MILLION > (torch.maximum(price, reference) * self._leap).clamp(
            min=self._step
        )

    def marked(
        self, mark: Tensor, doubt: Tensor, reference: Tensor, bid: Tensor, ask: Tensor, where: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The new mark and doubt (a jump to confirm; 0: none) after the quotes of the rows where `where` is true.

        `reference` is the price that jumps are measured from; it is never 0.
        """
        price, implies = self.price(bid, ask, reference)
        far = self.leaps(price, reference)
        again = (doubt > 0) & ((doubt - reference) * (price - reference) >= 0)
        nearer = torch.where((price - reference).abs() <= (doubt - reference).abs(), price, doubt)
        follows = self.leaps(price, nearer)
        accepted = torch.where(far & follows, nearer, price)
        waits = far & (~again | follows)
        new_mark = torch.where(where & implies & (~far | again), accepted, mark)
        return new_mark, torch.where(where & implies, price * waits, doubt)

    def entry_limit(self, ask: Tensor, bound: Tensor) -> Tensor:
        """The limit of a buy in cents."""
        return torch.minimum(ask * self._slack // MILLION, bound)

    def entry_bound(self, bid: Tensor, ask: Tensor) -> Tensor:
        """The highest limit of all attempts of an entry decided at this quote, in cents."""
        return (bid + ask) * (MILLION + self._collar) // (2 * MILLION)

    def may_pay(self, limit: Tensor, bid: Tensor, ask: Tensor) -> Tensor:
        """Where a buy at this limit passes the gates on spread and price, bool."""
        middle = bid + ask
        narrow = (ask - bid) * 2 * MILLION <= middle * self._spread
        close = (2 * limit - middle).abs() * MILLION <= middle * self._collar
        return (bid > 0) & (ask > 0) & narrow & close

    def exit_limit(self, bid: Tensor, price: Tensor, attempt: Tensor) -> Tensor:
        """The limit of a sale in cents, 0 for a market order; `attempt` counts from 0, `price` is the mark."""
        cent = 2 * MILLION
        collared = torch.maximum(2 * bid * self._below_bid, price * (MILLION - self._collar)).clamp(min=cent)
        least = torch.minimum(collared, price * MILLION)
        limit = -(-least.clamp(min=cent) // cent)
        if self._at_mid:
            limit = torch.where(attempt == 0, (price + 1) // 2, limit)
        return limit * (attempt < self._attempts)


NONE, ENTRY, EXIT = range(3)


@dataclass(frozen=True, slots=True)
class Work:
    """Working orders and position counters of each environment; all int64 (n,)."""

    kind: Tensor  # NONE, ENTRY or EXIT
    order: Tensor  # contracts of the working order, 0 for none
    limit: Tensor  # its limit, 0 for a market order
    goal: Tensor  # contracts to hold: those that an exit keeps, or an entry wants
    attempt: Tensor  # orders sent for it
    sent: Tensor  # orders of the session
    started: Tensor  # minute
    bound: Tensor  # highest limit of an entry
    right: Tensor  # right that an entry buys: 0 calls, 1 puts
    mark: Tensor  # mark of the position, 0 without one
    doubt: Tensor  # a price that jumped and needs another quote to confirm it, 0 for none


@dataclass(frozen=True, slots=True)
class _QuoteRow:
    """One row of some environments: the minute, and the data of their contract in it."""

    minute: Tensor
    pause: Tensor  # minutes since the row before
    entry_minute: Tensor
    near: Tensor  # bool: the contract is nearest the money of its right
    cell: Tensor
    bid: Tensor  # newest quote that is young enough to act on; 0 for none
    ask: Tensor
    paired: Tensor
    alone: Tensor


class RecordedMarket(Market):
    """`Market` on a `QuoteTable`. The last `modelled` sessions of `days` are drawn with probability `share`."""

    changing: ClassVar[tuple[str, ...]] = (*Market.changing, "_works", "_busy", "_tails")
    replayable: ClassVar[bool] = False  # a step checks on the host whether a position is held

    def __init__(
        self,
        history: History,
        prices: QuoteTable,
        days: Sequence[TradingDay],
        trading: Trading,
        *,
        modelled: int = 0,
        share: float = 0.0,
        **more: Any,
    ) -> None:
        """See `Market`. Raises HistoryError as `QuoteRules`."""
        self._rules = QuoteRules(trading)
        self._hangs_min = -(-(trading.execution.exit_reprice_s + HANGS_NS // SECOND_NS) // 60)
        self._made, self._share = modelled, share
        super().__init__(history, prices, days, trading, **more)
        assert isinstance(self._prices, QuoteTable)
        self._newest = self._prices.known

    def _tables(self, history: History, days: Sequence[TradingDay]) -> None:
        super()._tables(history, days)
        tails = [day.end - 1 - day.flatten for day in days]
        self._tail = torch.tensor(tails, device=self.device)
        self._longest_tail = max(tails, default=0)

    def _state(self, count: int) -> None:
        super()._state(count)
        self._works = torch.zeros(len(fields(Work)), count, dtype=torch.int64, device=self.device)
        self.work = _work_of(self._works)
        self._busy = torch.full((count,), -1, dtype=torch.int64, device=self.device)
        self._tails = torch.zeros(count, dtype=torch.int64, device=self.device)

    def begin(self, days: Tensor, which: Tensor | None = None) -> None:
        """See `Market`."""
        super().begin(days, which)
        mask = torch.ones_like(self.active) if which is None else which
        self._tails.copy_(torch.where(mask, self._tail.index_select(0, days.to(self.device)), self._tails))
        self._works.masked_fill_(mask, 0)
        self._busy.masked_fill_(mask, -1)

    def _draw(self) -> Tensor:
        number = len(self._first_decision)
        if not self._made or self._share <= 0.0:
            return (uniform(self._seed, 0, self._everyone, self._episode) * (number - self._made)).floor().long()
        place = uniform(self._seed, 0, self._everyone, self._episode)
        of_made = uniform(self._seed, 2, self._everyone, self._episode) < self._share
        recorded = (place * (number - self._made)).floor()
        return torch.where(of_made, number - self._made + (place * self._made).floor(), recorded).to(torch.int64)

    # --- the policy's decision ----------------------------------------------------------------------------------------

    def _trade(self, actions: Tensor) -> None:
        """What the actions order at this row's close; then the next row begins."""
        account, work = self.account, self.work
        buys, right, percent = self._meant.index_select(0, account.side * 6 + 6 + actions).unbind(1)
        _, entry_minute, call, put = self._known.index_select(0, self.row).unbind(1)
        free = (account.contracts == 0) & (work.kind == NONE)
        self._lane.copy_(torch.where(free, torch.where(right == 1, put, call), self._lane))
        entering = (buys > 0) & free & self._entries(entry_minute)
        reducing = (percent > 0) & (account.contracts > 0) & self.active
        reducing &= (work.kind != EXIT) | (percent == 100)
        rows = self._rows(entering | reducing)
        if rows.numel():
            account_before = account_of(self._accounts.index_select(1, rows))
            now, mine = self._at(rows, self.row.index_select(0, rows)), _work_of(self._works.index_select(1, rows))
            mine = self._enter(
                mine, account_before, now, rows, entering.index_select(0, rows), right.index_select(0, rows)
            )
            part, is_request = percent.index_select(0, rows), reducing.index_select(0, rows)
            remaining = account_before.contracts - torch.maximum(
                account_before.contracts * part // 100, torch.ones_like(part)
            )
            mine = _request_exits(mine, torch.where(part == 100, 0, remaining), now.minute, is_request)
            mine = self._send_exits(mine, account_before, now, is_request)
            self._put_work(rows, mine)
        self.row.add_(self.active)

    def _enter(
        self, work: Work, account: Account, now: _QuoteRow, rows: Tensor, entering: Tensor, right: Tensor
    ) -> Work:
        """Send the entries that gates and sizes allow."""
        busy = self._busy.index_select(0, rows) == self._lane.index_select(0, rows)
        near = self._newest.index_select(0, now.cell)[:, 2:4]
        bid, ask = torch.where(busy, now.bid, near[:, 0]), torch.where(busy, now.ask, near[:, 1])
        bound = self._rules.entry_bound(bid, ask)
        limit = self._rules.entry_limit(ask, bound)
        cost = self._prices.costs.index_select(0, now.cell)
        has_price = (now.paired > 0) & self._rules.may_pay(limit, bid, ask)
        cost = torch.where(busy, torch.where(has_price, limit.clamp(min=1) * SHARES * MILLION, DENIED), cost)
        sizing = self._trading.sizing
        quantity = (account.cash * self._budget // cost).clamp(0, sizing.max_contracts)
        goes = entering & (quantity >= sizing.min_contracts)
        return _update_works(
            work,
            goes,
            kind=ENTRY,
            order=quantity,
            limit=limit,
            goal=quantity,
            attempt=1,
            sent=work.sent + 1,
            started=now.minute,
            bound=bound,
            right=right,
        )

    # --- a row --------------------------------------------------------------------------------------------------------

    def _mark(self) -> None:
        """Process this row, then value the accounts at the last bid."""
        account, work = self.account, self.work
        used = ((account.contracts > 0) | (work.kind != NONE)) & self.active
        self._busy.copy_(torch.where(used, self._lane, -1))
        columns = torch.zeros(self._count, 3, device=self.device)
        rows = self._rows(used)
        if rows.numel():
            due = (self.row == self._last_row).index_select(0, rows)
            self._minute(rows, self.row.index_select(0, rows), due, used.index_select(0, rows), columns)
        newest = columns.unsqueeze(1)
        self._positions.copy_(torch.cat([self._positions.narrow(1, 1, self._positions.shape[1] - 1), newest], dim=1))
        bid = self._prices.closes.index_select(0, self._lane + self.row).select(1, 0)
        worth = account.cash + account.contracts * SHARES * bid
        self._equity.copy_(torch.where(self.active, worth, self._equity))
        torch.maximum(self._peak, self._equity, out=self._peak)

    def _minute(self, rows: Tensor, row: Tensor, due: Tensor, real: Tensor, columns: Tensor | None) -> None:
        """Step the environments `rows` one row where `real` is true; close the position where `due` is true.

        The position columns of the observation, float32 (n, 3), are written into `columns`.
        """
        account, work = account_of(self._accounts.index_select(1, rows)), _work_of(self._works.index_select(1, rows))
        now = self._at(rows, row)
        has_position = (account.contracts > 0) & real
        work, reached = self._quoted(work, account, now, has_position)
        halted, leaves, peak = self._valued(account, work, self._mark_peak.index_select(0, rows), has_position)
        if columns is not None:
            columns.index_copy_(0, rows, _columns(account, work, now.minute, has_position))
        work = _request_exits(work, torch.zeros_like(row), now.minute, has_position & (reached | leaves | due))
        more, limit = self._next_to_hanging(work, account, now, real)
        filled, bought, sold, fill = self._fills(work, now, real)
        booked = self._broker.book(account, fill)
        account_after = replace(
            booked.account,
            opened=torch.where(bought, now.minute, account.opened),
            held_min=account.held_min + has_position,
            rests_until=booked.account.rests_until.masked_fill(halted, FOREVER),
        )
        self._remember(rows, booked)
        fresh = bought | (account_after.contracts == 0)
        had_order = work.order > 0
        work = _update_works(work, real & had_order, order=more)
        work = _update_works(work, more > 0, limit=limit, attempt=work.attempt + 1, sent=work.sent + 1)
        work = _update_works(work, filled & fresh, mark=0, doubt=0)
        halted, leaves, peak = self._valued(account_after, work, peak, filled)
        account_after.rests_until.masked_fill_(halted, FOREVER)
        work = _update_works(work, bought, kind=NONE)
        has_position = (account_after.contracts > 0) & real
        work = _request_exits(work, torch.zeros_like(row), now.minute, has_position & (leaves | due))
        work = _update_works(work, sold & (account_after.contracts <= work.goal), kind=NONE)
        work = self._send_entries(work, account_after, now, real & had_order & ~bought)
        work = self._send_exits(work, account_after, now, real)
        self._accounts.index_copy_(1, rows, torch.where(real, matrix_of(account_after), matrix_of(account)))
        self._mark_peak.index_copy_(0, rows, torch.where(real, peak, self._mark_peak.index_select(0, rows)))
        old = _work_of(self._works.index_select(1, rows))
        self._put_work(rows, _update_works(old, real, **{name: getattr(work, name) for name in _COLUMNS}))

    def _at(self, rows: Tensor, row: Tensor) -> _QuoteRow:
        lane = self._lane.index_select(0, rows)
        cell = lane + row
        minute, entry_minute, call, put = self._known.index_select(0, row).unbind(1)
        pause = minute - self._known.index_select(0, (row - 1).clamp(min=0)).select(1, 0)
        newest = self._newest.index_select(0, cell)
        bid, ask, paired, alone = (newest.select(1, place) for place in (0, 1, 4, 5))
        return _QuoteRow(minute, pause, entry_minute, (lane == call) | (lane == put), cell, bid, ask, paired, alone)

    def _quoted(self, work: Work, account: Account, now: _QuoteRow, has_position: Tensor) -> tuple[Work, Tensor]:
        """Move the marks by this minute's quotes; also returns where a stop or a target is reached."""
        bid, spread_sum = self._prices.closes.index_select(0, now.cell).unbind(1)
        low, high, _ = self._prices.mids.index_select(0, now.cell).unbind(1)
        quoted = has_position & (spread_sum > 0)
        measure = _measure(work, account)
        mark, doubt = self._rules.marked(work.mark, work.doubt, measure, bid, spread_sum - bid, quoted)
        price, is_quote = mark.double() / HALF_CENTS, mark == spread_sum
        contracts, sizing = account.contracts.clamp(min=1), self._trading.sizing
        average = (account.entry * contracts).double() / 100.0 / contracts  # as the core computes it, to the last bit
        down = torch.where(is_quote, low, price) <= average * (1.0 - sizing.stop_loss) + TOUCH_USD
        up = torch.where(is_quote, high, price) >= average * (1.0 + sizing.take_profit) - TOUCH_USD
        return replace(work, mark=mark, doubt=doubt), quoted & (mark > 0) & (down | up)

    def _valued(self, account: Account, work: Work, peak: Tensor, where: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where the desk halts and where it closes all positions at these marks, both bool, and the new peaks."""
        risk = self._trading.risk
        worth = _measure(work, account)
        marked = account.cash + account.contracts * (SHARES // 2) * worth
        peak = torch.where(where, torch.maximum(peak, marked), peak)
        lost = where & (marked <= self._day_lost)
        drawn_down = where & ((peak - marked).double() / peak >= risk.drawdown_max)
        leaves = lost if risk.daily_loss_flatten else torch.zeros_like(lost)
        return lost | drawn_down, leaves, peak

    def _fills(self, work: Work, now: _QuoteRow, real: Tensor) -> tuple[Tensor, Tensor, Tensor, Fill]:
        """Where working orders fill this minute: any, buys, sales (bool), and the fills."""
        bid, ask = self._prices.opens.index_select(0, now.cell).unbind(1)
        works = real & (work.order > 0)
        bought = works & (work.kind == ENTRY) & (ask > 0) & (ask <= work.limit)
        sold = works & (work.kind == EXIT) & (bid > 0) & (bid >= work.limit)
        fill = Fill(work.order * bought, work.order * sold, ask, bid, work.right, now.minute)
        return bought | sold, bought, sold, fill

    # --- orders -------------------------------------------------------------------------------------------------------

    def _send_entries(self, work: Work, account: Account, now: _QuoteRow, where: Tensor) -> Work:
        """Resend entries whose order did not fill, or give them up."""
        rules = self._trading.execution
        again = where & (work.kind == ENTRY)
        limit = self._rules.entry_limit(now.ask, work.bound)
        late = (now.minute - work.started) * 60 >= rules.entry_deadline_s
        supported = torch.where(now.near, now.paired, now.alone) > 0
        goes = again & ~late & supported & (limit >= now.ask) & self._rules.may_pay(limit, now.bid, now.ask)
        goes &= now.entry_minute >= account.rests_until
        goes &= (work.sent < self._trading.risk.orders_per_day) & (limit * SHARES * work.goal <= account.cash)
        work = _update_works(work, goes, order=work.goal, limit=limit, attempt=work.attempt + 1, sent=work.sent + 1)
        return _update_works(work, again & ~goes, kind=NONE)

    def _send_exits(self, work: Work, account: Account, now: _QuoteRow, where: Tensor) -> Work:
        """Send the exits that have no working order; those without a bid, or at a price in doubt, wait."""
        quoted, surplus = now.ask + now.bid > 0, account.contracts - work.goal
        measure = _measure(work, account)
        price, implies = self._rules.price(now.bid, now.ask, measure)
        waits = quoted & (work.started == now.minute) & implies & self._rules.leaps(price, measure)
        goes = where & (work.kind == EXIT) & (work.order == 0) & (surplus > 0) & ~waits & (~quoted | (now.bid > 0))
        limit = self._rules.exit_limit(now.bid, measure, work.attempt) * quoted
        return _update_works(work, goes, order=surplus, limit=limit, attempt=work.attempt + 1, sent=work.sent + 1)

    def _next_to_hanging(self, work: Work, account: Account, now: _QuoteRow, real: Tensor) -> tuple[Tensor, Tensor]:
        """Contracts that an exit sends while its earlier order hangs, and their limit: the desk does not wait for it.

        A market order hangs after its minute, another one only after minutes without a bar.
        """
        hangs = (work.limit == 0) | (now.pause >= self._hangs_min)
        surplus, quoted = account.contracts - work.goal - work.order, now.ask + now.bid > 0
        goes = real & (work.kind == EXIT) & (work.order > 0) & hangs & (~quoted | (now.bid > 0))
        limit = self._rules.exit_limit(now.bid, _measure(work, account), work.attempt) * quoted
        return surplus.clamp(min=0) * goes, limit

    def _put_work(self, rows: Tensor, work: Work) -> None:
        """Store the works, and the number of sent orders."""
        self._works.index_copy_(1, rows, torch.stack([getattr(work, name) for name in _COLUMNS]))
        self.account.orders.index_copy_(0, rows, work.sent)

    def _leave(self, terminal: Tensor) -> None:
        """Step until positions held at the flatten are sold, at most to the session's end. Waits for the device."""
        account, work = self.account, self.work
        for later in range(1, self._longest_tail + 1):
            open_ = terminal & ((account.contracts > 0) | (work.kind != NONE)) & (later <= self._tails)
            if not bool(open_.any()):
                break
            rows = self._rows(open_)
            row = (self.row + torch.where(open_, later, 0)).index_select(0, rows)
            is_open = open_.index_select(0, rows)
            self._minute(rows, row, is_open, is_open, None)
        worth = _measure(work, account)
        ends = account.cash + account.contracts * (SHARES // 2) * worth
        self._equity.copy_(torch.where(terminal, ends, self._equity))
        torch.maximum(self._peak, self._equity, out=self._peak)


_COLUMNS = tuple(column.name for column in fields(Work))


def _work_of(matrix: Tensor) -> Work:
    """The works whose columns are the rows of `matrix`, as views of it."""
    return Work(*matrix.unbind(0))


def _update_works(work: Work, where: Tensor, **values: Tensor | int) -> Work:
    """The works with these values where `where` is true."""
    return replace(work, **{name: torch.where(where, value, getattr(work, name)) for name, value in values.items()})


def _measure(work: Work, account: Account) -> Tensor:
    """The mark of a position, or before there is one the price paid."""
    return torch.where(work.mark > 0, work.mark, 2 * account.entry)


def _request_exits(work: Work, goal: Tensor, minute: Tensor, where: Tensor) -> Work:
    """The works with exits down to `goal` requested; an exit under way takes the lower goal."""
    under_way = work.kind == EXIT
    work = _update_works(work, where & ~under_way, kind=EXIT, order=0, attempt=0, started=minute, goal=goal)
    return _update_works(work, where & under_way, goal=torch.minimum(work.goal, goal))


def _columns(account: Account, work: Work, minute: Tensor, has_position: Tensor) -> Tensor:
    """Side, return at the mark and age in hours of what is held, float32 (n, 3)."""
    value = work.mark.double() / (2 * account.entry).clamp(min=1) - 1.0
    value = torch.where(work.mark > 0, value, 0.0).clamp(-1.0, 3.0)
    age = ((minute - account.opened).double() / 60.0).clamp(0.0, 2.0)
    columns = torch.stack([account.side.double(), value, age], dim=1)
    return columns.masked_fill(~has_position.unsqueeze(1), 0.0).to(torch.float32)
