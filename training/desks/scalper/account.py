"""The accounts of many environments as int64 tensors: cash, the one position, closed trades and what they cost.

Money is in cents, time in minutes from the session's open. Invariant: cash + the position at its entry price = capital
+ realised P&L, to the cent, because fees are exact integers.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from decimal import Decimal
from typing import NamedTuple

import torch
from torch import Tensor

from daemon.core.limits import ALL, PROCEEDS, SOLD, Trading
from daemon.core.paper.fees import fees, rate
from strategies.option_scalper import BUY_CALL, BUY_PUT, EXIT, KEPT_PERCENT, RESOLUTION

SHARES = 100  # of the underlying for one contract
NEVER = -(10**6)  # a minute long before any session
FOREVER = 10**6  # and one long after
_FEE_UNIT = Decimal("0.0000001")  # USD: fee rates are whole multiples of it
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
    """By (side + 1) x 6 + action: whether it buys, which right (0 call, 1 put), what percent it sells."""
    sold = {action: 100 - kept for action, kept in KEPT_PERCENT.items()} | {EXIT: 100}
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
    """The accounts after a `Fill`; where a position was `ended` (bool) and what it returned on its premium, float64."""

    account: Account
    ended: Tensor
    result: Tensor


class Broker:
    """Books whole fills on accounts by the fees and limits of one desk."""

    def __init__(self, trading: Trading, device: torch.device | str = "cpu") -> None:
        paper, risk = trading.paper, trading.risk
        self._rest_trade = -(-risk.cooldown_trade_s // 60)  # minutes are whole, so a part of one is all of it
        self._rest_longer = max(-(-risk.cooldown_loss_s // 60) - self._rest_trade, 0)  # after a loss
        self._losses_max = risk.consecutive_losses_max
        self._pause_min = risk.consecutive_losses_pause_min
        most = trading.sizing.max_contracts
        buying = [int(fees(number, Decimal(0), 1, paper) * 100) for number in range(most + 1)]
        self._fee_buy = torch.tensor(buying, device=device)
        per_contract, of_sales = rate(ALL, paper) + rate(SOLD, paper), rate(PROCEEDS, paper)
        units, parts = per_contract / _FEE_UNIT, of_sales / _FEE_UNIT
        if units != int(units) or parts != int(parts):
            found = f"{per_contract} a contract and {of_sales} of sales"
            raise ValueError(f"fee rates: found {found}; expected whole multiples of {_FEE_UNIT}: round them")
        self._units, self._rate = int(units), int(parts)

    def book(self, account: Account, fill: Fill) -> Booked:
        """Carry the fill out: what is bought opens a position, what is sold leaves it or a part of it."""
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
        rest = fill.minute + self._rest_trade + lost * self._rest_longer
        rest = torch.where(pause, torch.maximum(rest, fill.minute + self._pause_min), rest)
        after = Account(
            cash=account.cash + proceeds - paid - fee,
            contracts=contracts,
            side=side.masked_fill_(ended, 0),
            entry=torch.where(opening, fill.ask, account.entry),
            opened=torch.where(opening, fill.minute - 1, account.opened),
            trade_pnl=pnl,
            trade_cost=cost,
            realised=account.realised + gain,
            rests_until=torch.where(ended, torch.maximum(account.rests_until, rest), account.rests_until),
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
