"""Many option scalpers on one history, stepped together as tensors: their accounts, the two rewards, the market.

One episode is one session on one account. Orders are whole and fill at the next bar's open, buys at the ask, sells at
the bid; money of accounts is integer cents, of rewards USD, time is in minutes from the session's open. Invariants:
cash + the position at its entry price = capital + realised P&L, to the cent, because fees are exact integers; nothing
is priced or estimated here, every number is gathered from tables made before the episode. Neither `observe` nor `step`
waits for a device: rare operations run on the affected rows alone on a CPU, and masked on all rows on other devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from daemon.core.limits import ALL, PROCEEDS, SOLD, Trading
from daemon.core.paper.fees import fees, rate
from daemon.core.risk.guards import TOUCH_USD
from strategies.option_scalper import BUY_CALL, BUY_PUT, EXIT, KEPT_PERCENT, MARKET_FEATURES, RESOLUTION, SPEC, WINDOW
from training.desks.scalper.history import SHARES, History, PriceTable, TradingDay, entry_rows, exact, millionths
from training.rl.draws import uniform
from training.rl.protocols import Step

# --- accounts ---------------------------------------------------------------------------------------------------------

NEVER = -(10**6)  # a minute long before any session
FOREVER = 10**6  # and one long after
_FEE_UNIT = Decimal("0.0000001")  # USD: fee rates are whole multiples of this
_UNITS_PER_CENT = 100_000


@dataclass(frozen=True, slots=True)
class Account:
    """One account for each environment; all int64 (n,). Its fields are the rows of one matrix (`account_of`)."""

    cash: Tensor
    contracts: Tensor
    side: Tensor  # +1 calls, -1 puts, 0 flat
    entry: Tensor  # price paid, cents a share
    opened: Tensor  # minute of the fill
    trade_pnl: Tensor  # of the open position so far, after fees
    trade_cost: Tensor  # premium paid for it
    realised: Tensor  # after fees, since the episode began
    rests_until: Tensor  # minute before which no entry is allowed: cooldowns, the pause after losses, a halt
    losses: Tensor  # in a row
    closed: Tensor  # trades
    wins: Tensor
    orders: Tensor
    bought: Tensor  # contracts
    premium: Tensor  # paid for all buys
    fees: Tensor
    held_min: Tensor  # minutes with a position


COLUMNS = tuple(column.name for column in fields(Account))


def account_of(matrix: Tensor) -> Account:
    """The accounts whose columns are the rows of `matrix`, int64 (17, n), as views of it."""
    return Account(*matrix.unbind(0))


def matrix_of(account: Account) -> Tensor:
    """A new matrix, int64 (17, n), with the account's columns as rows."""
    return torch.stack([getattr(account, name) for name in COLUMNS])


def meanings() -> list[list[int]]:
    """Rows (buys, right, percent sold) by the index (side + 1) x 6 + action; right: 0 call, 1 put."""
    sold = {action: 100 - percent_kept for action, percent_kept in KEPT_PERCENT.items()} | {EXIT: 100}
    resolved = [action for side in (-1, 0, 1) for action in RESOLUTION[side]]
    return [[action in {BUY_CALL, BUY_PUT}, action == BUY_PUT, sold.get(action, 0)] for action in resolved]


class Fill(NamedTuple):
    """Whole orders of one moment, all int64 (n,): contracts, 0 where none; an account has at most one of the two."""

    bought: Tensor
    sold: Tensor
    ask: Tensor  # cents a share
    bid: Tensor
    right: Tensor  # of what is bought: 0 calls, 1 puts
    minute: Tensor  # at whose end the fill is known; it happens at its begin


class Booked(NamedTuple):
    """The accounts after a `Fill`; `ended` (bool): a position was closed; its return on the premium, float64."""

    account: Account
    ended: Tensor
    result: Tensor


class Broker:
    """Books whole fills on accounts by the fees and limits of one desk."""

    def __init__(self, trading: Trading, device: torch.device | str = "cpu") -> None:
        paper, risk = trading.paper, trading.risk
        self._rest_trade = -(-risk.cooldown_trade_s // 60)  # times are whole minutes, so fractions round up
        self._rest_longer = max(-(-risk.cooldown_loss_s // 60) - self._rest_trade, 0)  # after a loss
        self._losses_max = risk.consecutive_losses_max
        self._pause_min = risk.consecutive_losses_pause_min
        most = trading.sizing.max_contracts
        buying = [int(fees(number, Decimal(0), 1, paper) * 100) for number in range(most + 1)]
        self._fee_buy = torch.tensor(buying, device=device)
        per_contract, of_sales = rate(ALL, paper) + rate(SOLD, paper), rate(PROCEEDS, paper)
        units, parts = per_contract / _FEE_UNIT, of_sales / _FEE_UNIT
        if units != int(units) or parts != int(parts):
            rates = f"{per_contract} a contract and {of_sales} of sales"
            raise ValueError(f"fee rates: found {rates}; expected whole multiples of {_FEE_UNIT}: round them")
        self._units, self._rate = int(units), int(parts)

    def book(self, account: Account, fill: Fill) -> Booked:
        """Book the fill: buys open a position, sells close it or a part of it."""
        bought, sold = fill.bought, fill.sold
        opening = bought > 0
        paid = fill.ask * SHARES * bought
        proceeds = fill.bid * SHARES * sold
        fee = self._fee_buy.index_select(0, bought) + self.sell_fee(sold, proceeds)
        gain = proceeds - account.entry * SHARES * sold - fee
        contracts = account.contracts + bought - sold
        ended = (sold > 0) & (contracts == 0)
        pnl = torch.where(opening, gain, account.trade_pnl + gain)
        cost = torch.where(opening, paid, account.trade_cost)
        side = torch.where(opening, 1 - 2 * fill.right, account.side)
        lost = ended & (pnl < 0)
        in_a_row = torch.where(ended, (account.losses + 1) * lost, account.losses)
        pause = in_a_row >= self._losses_max
        rests_until = fill.minute + self._rest_trade + lost * self._rest_longer
        rests_until = torch.where(pause, torch.maximum(rests_until, fill.minute + self._pause_min), rests_until)
        after = Account(
            cash=account.cash + proceeds - paid - fee,
            contracts=contracts,
            side=side.masked_fill_(ended, 0),
            entry=torch.where(opening, fill.ask, account.entry),
            opened=torch.where(opening, fill.minute - 1, account.opened),
            trade_pnl=pnl,
            trade_cost=cost,
            realised=account.realised + gain,
            rests_until=torch.where(ended, torch.maximum(account.rests_until, rests_until), account.rests_until),
            losses=in_a_row.masked_fill_(pause, 0),
            closed=account.closed + ended,
            wins=account.wins + (ended & (pnl > 0)),
            orders=account.orders + (bought + sold > 0),
            bought=account.bought + bought,
            premium=account.premium + paid,
            fees=account.fees + fee,
            held_min=account.held_min,
        )
        return Booked(after, ended, pnl.double() / cost.clamp(min=1))

    def sell_fee(self, quantity: Tensor, proceeds: Tensor) -> Tensor:
        """Fees in cents of selling `quantity` contracts for `proceeds` cents, by `daemon.core.paper.fees`."""
        nano_usd = quantity * self._units * 100 + proceeds * self._rate  # cents x 1e-7 = 1e-9 USD
        cent = _UNITS_PER_CENT * 100
        return (nano_usd + cent - 1) // cent


# --- rewards: arithmetic over tensors; neither is used to choose a model ----------------------------------------------

TRADES = 20  # closed trades in the window of Sharpe and win rate, which restarts with each episode
TRADES_MIN = 5  # least number of closed trades for a Sharpe ratio
SHARPE_MAX = 2.0
PNL_WEIGHT = 10.0
SHARPE_WEIGHT = 0.1
WIN_RATE_WEIGHT = 0.2
DRAWDOWN_WEIGHT = 0.5
REWARDS = ("potential", "reference")


def skill(sharpe: Tensor, win_rate: Tensor) -> Tensor:
    """0.1 x Sharpe + 0.2 x win rate: the terms that change only when a trade closes."""
    return sharpe * SHARPE_WEIGHT + win_rate * WIN_RATE_WEIGHT


def standing(skilled: Tensor, drawdown: Tensor) -> Tensor:
    """`skill` - 0.5 x drawdown: the standing terms of the reward `reference`, and the potential of `potential`."""
    return skilled - drawdown * DRAWDOWN_WEIGHT


def reference(realised_pnl: Tensor, capital: float, standing_after: Tensor) -> Tensor:
    """10 x P&L realised in this step after fees / capital, plus the standing terms after the step."""
    return realised_pnl / capital * PNL_WEIGHT + standing_after


def potential(
    equity_change: Tensor,
    capital: float,
    potential_before: Tensor,
    potential_after: Tensor,
    *,
    terminal: Tensor,
    discount: float,
) -> Tensor:
    """10 x change of equity / capital + discount x potential after - potential before; 0 after a terminal step.

    Shaping that leaves the best policy unchanged: Ng, Harada, Russell 1999, "Policy invariance under reward
    transformations", theorem 1; the terminal state's potential must be 0. Both potentials are `standing` values.
    """
    following = torch.where(terminal, torch.zeros_like(potential_after), potential_after)
    return equity_change / capital * PNL_WEIGHT + discount * following - potential_before


def trade_statistics(returns: Tensor, closed: Tensor) -> tuple[Tensor, Tensor]:
    """Sharpe and win rate of each environment's last closed trades, float64 (n,) both.

    Sharpe is mean / sample deviation of the returns (not annualised), 0 below five trades or without deviation, clipped
    to +-2. Win rate is the part with a return above 0, and 0 without any trade.

    Args:
        returns: float64 (n, 20), a ring of net trade returns, 0 where none is yet.
        closed: int64 (n,), trades closed in this episode.
    """
    count = closed.clamp(max=TRADES)
    used = torch.arange(TRADES, device=returns.device).unsqueeze(0) < count.unsqueeze(1)
    number = count.clamp(min=1).to(returns.dtype)
    mean = (returns * used).sum(dim=1) / number
    squares = ((returns - mean.unsqueeze(1)).square() * used).sum(dim=1)
    deviation = (squares / (number - 1.0).clamp(min=1.0)).sqrt()
    defined = (count >= TRADES_MIN) & (deviation > 0.0)
    sharpe = torch.where(defined, mean / deviation.clamp(min=1e-300), torch.zeros_like(mean))
    wins = ((returns > 0.0) & used).sum(dim=1).to(returns.dtype)
    return sharpe.clamp(-SHARPE_MAX, SHARPE_MAX), wins / number


# --- the market -------------------------------------------------------------------------------------------------------

_OWN = ("row", "last_row", "lane", "equity", "peak", "mark_peak")  # int64 rows of the state after COLUMNS
_REAL = ("standing", "skill", "average", "stop", "target")  # float64 rows of the state; the last three in USD a share
_CHANGING = ("_whole", "_real", "_returns", "_positions", "_episode", "active", "_exit_due")  # all rows of the state


class Market:
    """`count` environments over `days` of one history. Implements `training.rl.ppo.Environment` on `device`.

    With `auto_reset` a finished environment begins another session at once. The session is a function of `seed`, the
    environment's index and its number of episodes, so every device plays the same ones. Without `auto_reset` it stays
    inactive until `begin` chooses its session.
    """

    changing: ClassVar[tuple[str, ...]] = _CHANGING
    replayable: ClassVar[bool] = True

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
        device: torch.device | str = "cpu",
    ) -> None:
        """Make the tables; with `auto_reset` also begin everywhere.

        Raises:
            ValueError: `reward_name` is none of `REWARDS`, or there is no session to draw
            from.
        """
        if reward_name not in REWARDS or (auto_reset and not days):
            raise ValueError(
                f"reward_name is {reward_name!r} over {len(days)} sessions; expected one of "
                f"{', '.join(REWARDS)}, and at least one session: correct the name, or give a longer file"
            )
        self.device = torch.device(device)
        self._looks = self.device.type == "cpu"  # on a CPU the code may look at a result without waiting
        self._trading = trading
        self._broker = Broker(trading, device)
        self._reward_name = reward_name
        self._discount = discount
        self._auto_reset = auto_reset
        self._count = count
        self._seed = seed
        self._capital = int(trading.paper.cash_usd * 100)
        self._prices = prices.to(device)
        self._budget = millionths(exact(trading.sizing.premium_fraction))
        self._day_lost = self._capital - _least_loss(self._capital, trading.risk.daily_loss_max)
        self._tables(history, days)
        self._state(count)
        if auto_reset:
            self.begin(self._draw())
            self._scatter_starts()

    def _tables(self, history: History, days: Sequence[TradingDay]) -> None:
        """Make the lookup tables: features, data of each row, meanings of actions, first rows of sessions."""
        features = np.zeros((len(history.close), len(SPEC.features)), dtype=np.float32)
        features[:, :MARKET_FEATURES] = history.features
        self._features = torch.from_numpy(features).to(self.device)
        minute = torch.from_numpy(history.minute)
        entry_minute = torch.where(torch.from_numpy(entry_rows(history, days, self._trading)), minute, 2 * NEVER)
        self._known = torch.stack([minute, entry_minute, *self._prices.lanes.cpu().unbind(1)], dim=1).to(self.device)
        self._meant = torch.tensor(meanings(), device=self.device)
        self._window = torch.arange(1 - WINDOW, 1, device=self.device)
        self._first_decision = torch.tensor([day.first + WINDOW - 1 for day in days], device=self.device)
        self._flatten_row = torch.tensor([day.flatten for day in days], device=self.device)
        self._everyone = torch.arange(self._count, device=self.device)
        self._slots = torch.arange(TRADES, device=self.device)

    def _state(self, count: int) -> None:
        """The tensors that a step changes, always in place, so that `row`, `account` and the others stay views."""
        names = COLUMNS + _OWN
        fresh = dict.fromkeys(("cash", "equity", "peak", "mark_peak"), self._capital) | {"rests_until": NEVER}
        begins = [fresh.get(name, 0) for name in names]
        self._fresh = torch.tensor(begins, device=self.device).unsqueeze(1)
        never = {"average": 1.0, "stop": float("-inf"), "target": float("inf")}
        self._fresh_real = torch.tensor([[never.get(n, 0.0)] for n in _REAL], dtype=torch.float64, device=self.device)
        self._whole = self._fresh.repeat(1, count)
        self._real = self._fresh_real.repeat(1, count)
        self._accounts, state = torch.split(self._whole, [len(COLUMNS), len(_OWN)])
        self.account: Account = account_of(self._accounts)
        self.row, self._last_row, self._lane, self._equity, self._peak, self._mark_peak = state.unbind(0)
        self._standing, self._skill, self._average, self._stop, self._target = self._real.unbind(0)
        self._levels = self._real.narrow(0, 2, 3)
        self.active = torch.zeros(count, dtype=torch.bool, device=self.device)
        self._exit_due = torch.zeros(count, dtype=torch.bool, device=self.device)
        self._episode = torch.zeros(count, dtype=torch.int64, device=self.device)
        self._returns = torch.zeros(count, TRADES, dtype=torch.float64, device=self.device)
        self._positions = torch.zeros(count, WINDOW, 3, device=self.device)

    def begin(self, days: Tensor, which: Tensor | None = None) -> None:
        """Start the environments `which` (bool (n,), all when None) on `days` (int64 (n,), indices into the days)."""
        days = days.to(self.device)
        mask = torch.ones_like(self.active) if which is None else which
        rows = self._rows(mask)
        if not rows.numel():
            return
        chosen, day = self._of(mask, 0, rows), self._of(days, 0, rows)
        self._afresh(self._whole, 1, rows, chosen, self._fresh)
        for tensor, first in ((self.row, self._first_decision), (self._last_row, self._flatten_row)):
            self._afresh(tensor, 0, rows, chosen, first.index_select(0, day))
        self._episode.add_(mask)
        self._afresh(self._real, 1, rows, chosen, self._fresh_real)
        for tensor in (self._returns, self._positions, self._exit_due):
            self._afresh(
                tensor, 0, rows, chosen.view(-1, *[1] * (tensor.dim() - 1)), torch.zeros_like(tensor.narrow(0, 0, 1))
            )
        self.active |= mask

    def observe(self) -> Tensor:
        """Raw observations, a new tensor of float32 (n, 20, 23)."""
        rows = (self.row.unsqueeze(1) + self._window).view(-1)
        observations = self._features.index_select(0, rows).view(self._count, WINDOW, -1)
        observations.narrow(2, MARKET_FEATURES, 3).copy_(self._positions)
        return observations

    def step(self, actions: Tensor) -> Step:
        """Carry int64 actions (n,) out at the next bar's open; rewards float32 (n,) and true terminals bool (n,)."""
        account, active = self.account, self.active.clone()
        equity_before, standing_before = self._equity.clone(), self._standing.clone()
        realised_before = account.realised.clone() if self._reward_name == "reference" else account.realised
        self._trade(actions)
        terminal = active & (self.row == self._last_row)
        self._mark()
        self._leave(terminal)
        drawdown = (self._peak - self._equity).double() / self._peak
        self._standing.copy_(standing(self._skill, drawdown))
        capital = self._capital / 100.0
        if self._reward_name == "reference":
            realised = (account.realised - realised_before).double() / 100.0
            paid = reference(realised, capital, self._standing)
        else:
            change = (self._equity - equity_before).double() / 100.0
            paid = potential(
                change, capital, standing_before, self._standing, terminal=terminal, discount=self._discount
            )
        if self._auto_reset:
            self._begin_again(terminal)
            return Step(paid.to(torch.float32), terminal)
        self.active &= ~terminal
        return Step(torch.where(active, paid, 0.0).to(torch.float32), terminal)

    @property
    def net_pnl_usd(self) -> Tensor:
        """Equity at the bid less the capital in USD, float64 (n,)."""
        pnl: Tensor = (self._equity - self._capital).double() / 100.0
        return pnl

    def state_dict(self) -> dict[str, Any]:
        """All state that the next steps depend on, apart from the arguments of the constructor; tensors are copies."""
        state: dict[str, Any] = {name.strip("_"): getattr(self, name).clone() for name in self.changing}
        return state | {"seed": self._seed, "days": len(self._first_decision), "rows": len(self._features)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict` of a market with the same arguments, on whatever device.

        Raises:
            ValueError: the state is of another number of environments, sessions or bars.
        """
        expected = {"environments": self._count, "days": len(self._first_decision), "rows": len(self._features)}
        given_state = {"environments": state["active"].shape[0], "days": state["days"], "rows": state["rows"]}
        if expected != given_state:
            raise ValueError(
                f"the market's state is of {given_state}, this one has {expected}: give the same file and count"
            )
        self._seed = int(state["seed"])
        for name in self.changing:
            getattr(self, name).copy_(state[name.strip("_")])

    def _entries(self, entry_minute: Tensor) -> Tensor:
        account = self.account
        rested = entry_minute >= account.rests_until
        return rested & (account.orders < self._trading.risk.orders_per_day) & self.active

    def _trade(self, actions: Tensor) -> None:
        """Order what the actions and exit rules demand at this row's close; orders fill at the next row's open."""
        account = self.account
        buys, right, percent = self._meant.index_select(0, account.side * 6 + 6 + actions).unbind(1)
        _, entry_minute, call, put = self._known.index_select(0, self.row).unbind(1)
        self._lane.copy_(torch.where(account.contracts > 0, self._lane, torch.where(right == 1, put, call)))
        entering = (buys > 0) & self._entries(entry_minute)
        rows = self._rows(entering | (percent > 0) | self._exit_due)
        if rows.numel():
            before = account_of(self._of(self._accounts, 1, rows))
            decided = self._of(self._lane + self.row, 0, rows)
            bought = self._quantity(before.cash, self._of(entering, 0, rows), decided)
            part, due = self._of(percent, 0, rows), self._of(self._exit_due, 0, rows)
            some = torch.maximum(before.contracts * part // 100, (part > 0).to(torch.int64))
            sold = torch.where(due, before.contracts, some)
            moves = self._of(self.active, 0, rows).to(torch.int64)
            self._fill(rows, before, bought, sold, self._of(right, 0, rows), decided + moves)
        self.row.add_(self.active)

    def _quantity(self, cash: Tensor, entering: Tensor, cell: Tensor) -> Tensor:
        """Contracts to buy by the core's rule (`contracts_for` at `entry_limit`), 0 where a gate denies; int64."""
        sizing = self._trading.sizing
        quantity = (cash * self._budget // self._prices.costs.index_select(0, cell)).clamp(0, sizing.max_contracts)
        return quantity * (entering & (quantity >= sizing.min_contracts))

    def _fill(self, rows: Tensor, before: Account, bought: Tensor, sold: Tensor, right: Tensor, cell: Tensor) -> None:
        """Book orders of the environments `rows` at the open of `cell`, and update what depends on the position."""
        bid, ask = self._prices.opens.index_select(0, cell).unbind(1)
        row = cell - self._of(self._lane, 0, rows)
        minute = self._known.index_select(0, row).select(1, 0)
        booked = self._broker.book(before, Fill(bought, sold, ask, bid, right, minute))
        account, sizing = booked.account, self._trading.sizing
        self._put(self._accounts, 1, rows, matrix_of(account))
        has_position = account.contracts > 0
        contracts = account.contracts.clamp(min=1)
        average = (account.entry * contracts).double() / 100.0 / contracts  # as the core computes it, to the last bit
        stop = average * (1.0 - sizing.stop_loss) + TOUCH_USD
        if sizing.trails:  # after a partial sale the trailing stop stays
            stop = torch.maximum(stop, average * (1.0 - sizing.trails) + TOUCH_USD)
            stop = torch.maximum(stop, self._of(self._stop, 0, rows))
        stop = stop.masked_fill_(~has_position, float("-inf"))
        target = (average * (1.0 + sizing.take_profit) - TOUCH_USD).masked_fill_(~has_position, float("inf"))
        levels = torch.stack([average, stop, target])
        self._put(self._levels, 1, rows, levels)
        self._remember(rows, booked)

    def _remember(self, rows: Tensor, booked: Booked) -> None:
        """Add closed trades to the ring of returns; update Sharpe ratio and win rate of accounts that closed one."""
        some = self._rows(booked.ended)
        if not some.numel():
            return
        rows, closed = self._of(rows, 0, some), self._of(booked.account.closed, 0, some)
        ended, result = self._of(booked.ended, 0, some), self._of(booked.result, 0, some)
        newest = self._slots == ((closed - 1) % TRADES).unsqueeze(1)
        ring = torch.where(ended.unsqueeze(1) & newest, result.unsqueeze(1), self._of(self._returns, 0, rows))
        self._put(self._returns, 0, rows, ring)
        self._put(self._skill, 0, rows, skill(*trade_statistics(ring, closed)))

    def _mark(self) -> None:
        """At this row's close: equity at the bid, limits and position columns at the mid, stops and target."""
        account, risk, sizing = self.account, self._trading.risk, self._trading.sizing
        has_position = account.contracts > 0
        cell = self._lane + self.row
        bid, spread_sum = self._prices.closes.index_select(0, cell).unbind(1)
        lowest, highest, mid = self._prices.mids.index_select(0, cell).unbind(1)
        shares = account.contracts * SHARES
        torch.add(account.cash, shares * bid, out=self._equity)
        torch.maximum(self._peak, self._equity, out=self._peak)
        marked = account.cash + shares * spread_sum // 2
        torch.maximum(self._mark_peak, marked, out=self._mark_peak)
        day_lost = marked <= self._day_lost
        drawn_down = (self._mark_peak - marked).double() / self._mark_peak >= risk.drawdown_max
        account.rests_until.masked_fill_(day_lost | drawn_down, FOREVER)
        leaves = (lowest <= self._stop) | (highest >= self._target)
        if sizing.trails:  # the low meets the stop before the bar, the close the stop after its high
            follows = (highest * (1.0 - sizing.trails) + TOUCH_USD).masked_fill_(~has_position, float("-inf"))
            torch.maximum(self._stop, follows, out=self._stop)
            leaves |= mid <= self._stop
        if sizing.held_max_min:
            age_min = self._known.index_select(0, self.row).select(1, 0) - account.opened
            leaves |= has_position & (age_min >= sizing.held_max_min)
        if risk.daily_loss_flatten:  # even where the drawdown caused the first halt
            leaves |= day_lost & has_position
        self._exit_due.copy_(leaves)
        value = (mid / self._average - 1.0).clamp(-1.0, 3.0)
        minutes = (self._known.index_select(0, self.row).select(1, 0) - account.opened).double() / 60.0
        columns = torch.stack([account.side.double(), value, minutes.clamp(0.0, 2.0)], dim=1)
        newest = columns.masked_fill_(~has_position.unsqueeze(1), 0.0).to(torch.float32).unsqueeze(1)
        self._positions.copy_(torch.cat([self._positions.narrow(1, 1, WINDOW - 1), newest], dim=1))
        account.held_min.add_(has_position)

    def _leave(self, terminal: Tensor) -> None:
        """Where the session's flatten is due, sell the position at the next row's open."""
        leaving = terminal & (self.account.contracts > 0)
        rows = self._rows(leaving)
        if not rows.numel():
            return
        ends = self._of(leaving, 0, rows)
        before = account_of(self._of(self._accounts, 1, rows))
        none = torch.zeros_like(before.contracts)
        cell = self._of(self._lane + self.row, 0, rows) + ends
        self._fill(rows, before, none, before.contracts * ends, none, cell)
        cash, equity = self._of(self.account.cash, 0, rows), self._of(self._equity, 0, rows)
        self._put(self._equity, 0, rows, torch.where(ends, cash, equity))
        torch.maximum(self._peak, self._equity, out=self._peak)

    def _rows(self, mask: Tensor) -> Tensor:
        """Indices that include all rows of `mask`: exactly these on a CPU, all indices where a look would wait."""
        return mask.nonzero().squeeze(1) if self._looks else self._everyone

    def _of(self, state: Tensor, dim: int, rows: Tensor) -> Tensor:
        """The values of `state` at `rows` along `dim`: a copy, or `state` itself where the rows are all."""
        return state if rows is self._everyone else state.index_select(dim, rows)

    def _put(self, state: Tensor, dim: int, rows: Tensor, values: Tensor) -> None:
        """Write `values` to `rows` along `dim`."""
        if rows is self._everyone:
            state.copy_(values)
        else:
            state.index_copy_(dim, rows, values)

    def _afresh(self, state: Tensor, dim: int, rows: Tensor, mask: Tensor, fresh: Tensor) -> None:
        """Write `fresh` to those of `rows` where `mask` is true."""
        self._put(state, dim, rows, torch.where(mask, fresh, self._of(state, dim, rows)))

    def _begin_again(self, terminal: Tensor) -> None:
        if self._rows(terminal).numel():
            self.begin(self._draw(), terminal)

    def _draw(self) -> Tensor:
        """A session for the next episode of each environment, int64 (n,)."""
        number = len(self._first_decision)
        return (uniform(self._seed, 0, self._everyone, self._episode) * number).floor().to(torch.int64)

    def _scatter_starts(self) -> None:
        """Spread the first episodes over their sessions, so that the environments are not all at the same minute."""
        spread = uniform(self._seed, 1, self._everyone, self._episode)
        self.row += ((self._last_row - self.row).double() * spread).floor().to(torch.int64)


def _least_loss(capital: int, part: float) -> int:
    """The smallest loss in cents that is at least `part` of the capital, as float64 divides."""
    loss = int(capital * part) - 1
    while loss / capital < part:
        loss += 1
    return loss
