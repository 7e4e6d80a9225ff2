"""Many option scalpers on one history, stepped together as tensors: one episode is one session on one account.

Orders are whole and fill at the next bar's open, buys at the ask, sells at the bid; money is integer cents.
Invariant: nothing is priced or estimated here; every number is gathered from tables made before the episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import torch
from torch import Tensor

from daemon.core.guards import TOUCH_USD
from daemon.core.limits import Trading
from daemon.core.option_market import MINUTE_NS
from strategies.option_scalper import BUY_CALL, BUY_PUT, EXIT, KEPT_PERCENT, RESOLUTION, TRIM_50, TRIM_70, WINDOW
from training import reward
from training.account import SHARES, Account, Broker, open_accounts, reset
from training.history import History, TradingDay
from training.prices import PriceTable

_MILLION = 10**6  # fractions of the limits as whole millionths, so that sizes are exact


class Market:
    """`count` environments over `days` of one history. Implements `training.ppo.Environment`.

    With `auto_reset` a finished environment begins another session at once, drawn from a generator seeded with `seed`;
    without, it stands still, and `begin` says which session each one plays.
    """

    def __init__(
        self,
        history: History,
        prices: PriceTable,
        days: Sequence[TradingDay],
        trading: Trading,
        *,
        count: int,
        reward_name: str = "potential",
        discount: float = 0.99,
        seed: int = 0,
        auto_reset: bool = True,
    ) -> None:
        self.account: Account = open_accounts(count)
        self.row = torch.zeros(count, dtype=torch.int64)  # of the history, whose close is the present
        self.active = torch.zeros(count, dtype=torch.bool)
        self._prices = prices
        self._trading = trading
        self._broker = Broker(trading)
        self._reward_name = reward_name
        self._discount = discount
        self._auto_reset = auto_reset
        self._count = count
        self._capital = int(trading.paper.cash_usd * 100)
        self._generator = torch.Generator().manual_seed(seed)
        self._features = torch.from_numpy(history.features).to(torch.float32)
        self._minute = torch.from_numpy(history.minute)
        self._window = torch.arange(1 - WINDOW, 1)
        self._resolution = torch.tensor([RESOLUTION[side] for side in (-1, 0, 1)])
        self._sold_percent = torch.zeros(6, dtype=torch.int64)
        for action in (TRIM_50, TRIM_70):
            self._sold_percent[action] = 100 - KEPT_PERCENT[action]
        self._time_gate = _entry_rows(history, days, trading)
        self._first_decision = torch.tensor([day.first + WINDOW - 1 for day in days])
        self._flatten_row = torch.tensor([day.flatten for day in days])
        self._last_row = torch.zeros(count, dtype=torch.int64)
        self._equity = torch.zeros(count, dtype=torch.int64)  # at the bid
        self._peak = torch.zeros(count, dtype=torch.int64)
        self._mark_peak = torch.zeros(count, dtype=torch.int64)  # of the equity at the mid, which limits look at
        self._halted = torch.zeros(count, dtype=torch.bool)
        self._exit_due = torch.zeros(count, dtype=torch.bool)
        self._standing = torch.zeros(count, dtype=torch.float64)
        self._position_rows = torch.zeros(count, WINDOW, 3)
        if auto_reset:
            self.begin(self._draw())
            self._scatter_starts()

    def begin(self, days: Tensor, which: Tensor | None = None) -> None:
        """Start the environments `which` (bool (n,), all when None) on `days` (int64 (n,), indices into the days)."""
        mask = torch.ones(self._count, dtype=torch.bool) if which is None else which
        reset(self.account, mask, self._capital)
        self.row[mask] = self._first_decision[days[mask]]
        self._last_row[mask] = self._flatten_row[days[mask]]
        for tensor in (self._equity, self._peak, self._mark_peak):
            tensor[mask] = self._capital
        for tensor in (self._halted, self._exit_due, self._standing, self._position_rows):
            tensor[mask] = 0
        self.active[mask] = True

    def observe(self) -> Tensor:
        """Raw observations, float32 (n, 20, 23)."""
        market = self._features[self.row.unsqueeze(1) + self._window]
        return torch.cat([market, self._position_rows], dim=2)

    def entries_allowed(self) -> Tensor:
        """Where the gates that training knows would let a buy pass now, bool (n,): flat, rested, in time, no halt."""
        account, risk, now = self.account, self._trading.risk, self._minute[self.row]
        rested = (now - account.last_trade) * 60 >= risk.cooldown_trade_s
        rested &= (now - account.last_loss) * 60 >= risk.cooldown_loss_s
        rested &= now >= account.paused_until
        allowed = self._time_gate[self.row] & ~self._halted & (account.orders < risk.orders_per_day)
        return rested & allowed & self.active & (account.contracts == 0)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Carry int64 actions (n,) out at the next bar's open; rewards float32 (n,) and true terminals bool (n,)."""
        account, active = self.account, self.active.clone()
        equity_before, standing_before, realised_before = self._equity, self._standing, account.realised.clone()
        resolved = self._resolution[account.side + 1, actions]
        side = 1 - 2 * (resolved == BUY_PUT).to(torch.int64)
        lane = self._prices.lanes[self.row, (resolved == BUY_PUT).to(torch.int64)]
        buying = self._buy_quantity(resolved, lane)
        selling = self._sell_quantity(resolved)
        self.row = self.row + active.to(torch.int64)
        self._sell(selling, self.row)
        ask = self._prices.open_ask[self._cells(self.row, buying > 0, lane)]
        self._broker.buy(account, buying, ask, lane=lane, side=side, now=self._minute[self.row] - 1)
        terminal = active & (self.row == self._last_row)
        self._mark(active)
        self._sell(torch.where(terminal, account.contracts, 0), self.row + terminal.to(torch.int64))
        self._equity = torch.where(terminal, account.cash, self._equity)
        self._peak = torch.maximum(self._peak, self._equity)
        sharpe, win_rate = reward.trade_statistics(account.returns, account.closed)
        drawdown = (self._peak - self._equity).double() / self._peak
        self._standing = torch.where(active, reward.standing(sharpe, win_rate, drawdown), standing_before)
        capital = self._capital / 100.0
        if self._reward_name == "reference":
            realised = (account.realised - realised_before).double() / 100.0
            paid = reward.reference(realised, capital, self._standing)
        else:
            change = (self._equity - equity_before).double() / 100.0
            paid = reward.potential(
                change, capital, standing_before, self._standing, terminal=terminal, discount=self._discount
            )
        self.active = active & ~terminal
        if self._auto_reset and bool(terminal.any()):
            self.begin(self._draw(), terminal)
        return torch.where(active, paid, 0.0).to(torch.float32), terminal

    @property
    def net_pnl_usd(self) -> Tensor:
        """Equity at the bid less the capital in USD, float64 (n,)."""
        return (self._equity - self._capital).double() / 100.0

    def _buy_quantity(self, resolved: Tensor, lane: Tensor) -> Tensor:
        """Contracts to buy by the core's rule (`contracts_for` at `entry_limit`), 0 where a gate denies; int64 (n,)."""
        rules, account = self._trading, self.account
        wanted = ((resolved == BUY_CALL) | (resolved == BUY_PUT)) & self.entries_allowed()
        cell = self._cells(self.row, wanted, lane)
        bid, ask = self._prices.close_bid[cell], self._prices.close_ask[cell]
        limit = ask * _millionths(1 + _exact(rules.execution.entry_slack)) // _MILLION
        bound = (bid + ask) * _millionths(1 + _exact(rules.risk.price_collar)) // (2 * _MILLION)
        cost = torch.minimum(limit, bound).clamp(min=1) * SHARES * _MILLION
        budget = account.cash * _millionths(_exact(rules.sizing.premium_fraction))
        quantity = (budget // cost).clamp(0, rules.sizing.max_contracts)
        narrow = (ask - bid) * 2 * _MILLION <= (bid + ask) * _millionths(_exact(rules.risk.spread_max))
        return torch.where(wanted & narrow & (bid > 0) & (quantity >= rules.sizing.min_contracts), quantity, 0)

    def _sell_quantity(self, resolved: Tensor) -> Tensor:
        """Contracts to sell, int64 (n,): all on an exit (the policy's or a rule's), a part, at least one, on a trim."""
        contracts, percent = self.account.contracts, self._sold_percent[resolved]
        trimmed = torch.where((percent > 0) & (contracts > 0), (contracts * percent // 100).clamp(min=1), 0)
        leaving = self._exit_due | (resolved == EXIT)
        return torch.where(leaving, contracts, trimmed) * self.active

    def _sell(self, quantity: Tensor, row: Tensor) -> None:
        bid = self._prices.open_bid[self._cells(row, quantity > 0, self.account.lane)]
        self._broker.sell(self.account, quantity, bid, known=self._minute[row])

    def _mark(self, active: Tensor) -> None:
        """At this row's close: equity at the bid, limits and position columns at the mid, stop and target."""
        account, risk, sizing = self.account, self._trading.risk, self._trading.sizing
        held = account.contracts > 0
        cell = self._cells(self.row, held, account.lane)
        bid, ask = self._prices.close_bid[cell], self._prices.close_ask[cell]
        self._equity = account.cash + account.contracts * SHARES * bid
        self._peak = torch.maximum(self._peak, self._equity)
        marked = account.cash + account.contracts * SHARES * (bid + ask) // 2
        self._mark_peak = torch.maximum(self._mark_peak, marked)
        day_lost = (self._capital - marked).double() / self._capital >= risk.daily_loss_max
        drawn_down = (self._mark_peak - marked).double() / self._mark_peak >= risk.drawdown_max
        leaves = day_lost & risk.daily_loss_flatten  # also where the drawdown halted first
        self._halted = self._halted | day_lost | drawn_down
        contracts = account.contracts.clamp(min=1)
        average = (account.entry * contracts).double() / 100.0 / contracts  # as the core computes it, to the last bit
        stopped = self._prices.lowest[cell].double() / 200.0 <= average * (1.0 - sizing.stop_loss) + TOUCH_USD
        reached = self._prices.highest[cell].double() / 200.0 >= average * (1.0 + sizing.take_profit) - TOUCH_USD
        self._exit_due = held & (stopped | reached | leaves)
        value = (bid + ask).double() / 200.0 / average - 1.0
        minutes = (self._minute[self.row] - account.opened).double() / 60.0
        columns = torch.stack([account.side.double(), value.clamp(-1.0, 3.0), minutes.clamp(0.0, 2.0)], dim=1)
        columns = torch.where(held.unsqueeze(1), columns, 0.0).to(torch.float32)
        shifted = torch.cat([self._position_rows[:, 1:], columns.unsqueeze(1)], dim=1)
        self._position_rows = torch.where(active.view(-1, 1, 1), shifted, self._position_rows)
        account.held_min += held & active

    def _cells(self, row: Tensor, used: Tensor, lane: Tensor) -> Tensor:
        """Where `lane`'s prices at `row` are; any cell of that session where the lane is not used."""
        return torch.where(used, lane, self._prices.lanes[row, 0]) + row

    def _draw(self) -> Tensor:
        return torch.randint(0, len(self._first_decision), (self._count,), generator=self._generator)

    def _scatter_starts(self) -> None:
        """Spread the first episodes over their sessions, so that the environments are not all at the same minute."""
        fraction = torch.rand(self._count, generator=self._generator, dtype=torch.float64)
        self.row += ((self._last_row - self.row).double() * fraction).floor().to(torch.int64)


def _exact(value: float) -> Decimal:
    """A configured fraction as it was written."""
    return Decimal(str(value))


def _millionths(value: Decimal) -> int:
    """The value in millionths, which must be whole.

    Raises:
        ValueError: the value has more than six decimals.
    """
    result = value * _MILLION
    if result != int(result):
        raise ValueError(f"a limit of the desk is {value}; training counts in millionths: write at most six decimals")
    return int(result)


def _entry_rows(history: History, days: Sequence[TradingDay], trading: Trading) -> Tensor:
    """Rows at whose close the clock and the window's bars allow an entry, bool (rows,)."""
    risk = trading.risk
    minute, gap = torch.from_numpy(history.minute), torch.from_numpy(history.gap)
    allowed = torch.zeros(len(history.close), dtype=torch.bool)
    for day in days:
        rows = slice(day.first, day.end)
        length = (day.session.close_ns - day.session.open_ns) // MINUTE_NS
        late = length - minute[rows] <= risk.no_entry_before_close_min
        early = minute[rows] < risk.no_entry_after_open_min
        allowed[rows] = ~late & ~early & (gap[rows] <= risk.gap_min)
    return allowed
