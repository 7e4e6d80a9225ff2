"""The accounts of many environments as int64 tensors: cash, the one position, closed trades and what they cost.

Money is in cents, time in minutes from the session's open. Invariant: cash + the position at its entry price = capital
+ realised P&L, to the cent, because fees are exact integers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from decimal import Decimal

import torch
from torch import Tensor

from daemon.core.fees import fees
from daemon.core.limits import Trading
from training.reward import TRADES

SHARES = 100  # of the underlying for one contract
NEVER = -(10**6)  # a minute long before any session
_FEE_UNIT = Decimal("0.0000001")  # USD: fee rates are whole multiples of it
_UNITS_PER_CENT = 100_000


def _whole() -> Tensor:
    return torch.zeros(0, dtype=torch.int64)


@dataclass(slots=True)
class Account:
    """One row for each environment; all int64 (n,) but `returns`, float64 (n, 20)."""

    cash: Tensor = field(default_factory=_whole)
    contracts: Tensor = field(default_factory=_whole)
    side: Tensor = field(default_factory=_whole)  # +1 calls, -1 puts, 0 flat
    lane: Tensor = field(default_factory=_whole)  # of the held contract in the price table
    entry: Tensor = field(default_factory=_whole)  # price paid, cents a share
    opened: Tensor = field(default_factory=_whole)  # minute of the fill
    trade_pnl: Tensor = field(default_factory=_whole)  # of the open position so far, after fees
    trade_cost: Tensor = field(default_factory=_whole)  # premium paid for it
    realised: Tensor = field(default_factory=_whole)  # after fees, since the episode began
    last_trade: Tensor = field(default_factory=_whole)  # minute at whose end the last position's end was known
    last_loss: Tensor = field(default_factory=_whole)
    losses: Tensor = field(default_factory=_whole)  # in a row
    paused_until: Tensor = field(default_factory=_whole)
    closed: Tensor = field(default_factory=_whole)  # trades
    wins: Tensor = field(default_factory=_whole)
    orders: Tensor = field(default_factory=_whole)
    bought: Tensor = field(default_factory=_whole)  # contracts
    premium: Tensor = field(default_factory=_whole)  # paid for all buys
    fees: Tensor = field(default_factory=_whole)
    held_min: Tensor = field(default_factory=_whole)  # minutes with a position
    returns: Tensor = field(default_factory=_whole)  # a ring of net trade returns on the premium paid


def open_accounts(count: int) -> Account:
    """`count` accounts that hold nothing, not even cash: `reset` them before use."""
    account = Account()
    for name in (f.name for f in fields(Account)):
        setattr(account, name, torch.zeros(count, dtype=torch.int64))
    account.returns = torch.zeros(count, TRADES, dtype=torch.float64)
    return account


def reset(account: Account, which: Tensor, capital: int) -> None:
    """Begin anew with `capital` cents where `which` (bool (n,)) is true."""
    for name in (f.name for f in fields(Account)):
        getattr(account, name)[which] = 0
    account.cash[which] = capital
    for tensor in (account.last_trade, account.last_loss, account.paused_until):
        tensor[which] = NEVER


class Broker:
    """Books whole fills on accounts by the fees and limits of one desk."""

    def __init__(self, trading: Trading) -> None:
        paper = trading.paper
        self._risk = trading.risk
        most = trading.sizing.max_contracts
        self._fee_buy = torch.tensor([int(fees(number, Decimal(0), 1, paper) * 100) for number in range(most + 1)])
        per_contract = paper.commission_usd + paper.orf_usd + paper.occ_usd + paper.taf_usd
        units, rate = per_contract / _FEE_UNIT, paper.sec_rate / _FEE_UNIT
        if units != int(units) or rate != int(rate):
            found = f"{per_contract} a contract and {paper.sec_rate} of sales"
            raise ValueError(f"fee rates: found {found}; expected whole multiples of {_FEE_UNIT}: round them")
        self._units, self._rate = int(units), int(rate)

    def buy(self, account: Account, quantity: Tensor, ask: Tensor, *, lane: Tensor, side: Tensor, now: Tensor) -> None:
        """Open positions of `quantity` contracts (0: none) at `ask` cents a share, filled at minute `now`; all (n,)."""
        bought = quantity > 0
        fee = self._fee_buy[quantity]
        premium = torch.where(bought, ask * SHARES * quantity, 0)
        account.cash -= premium + fee
        account.contracts += quantity
        account.side = torch.where(bought, side, account.side)
        account.lane = torch.where(bought, lane, account.lane)
        account.entry = torch.where(bought, ask, account.entry)
        account.opened = torch.where(bought, now, account.opened)
        account.trade_pnl = torch.where(bought, -fee, account.trade_pnl)
        account.trade_cost = torch.where(bought, premium, account.trade_cost)
        account.realised -= fee
        account.orders += bought
        account.bought += quantity
        account.premium += premium
        account.fees += fee

    def sell(self, account: Account, quantity: Tensor, bid: Tensor, *, known: Tensor) -> None:
        """Sell `quantity` contracts (0: none) at `bid` cents a share; the fill is `known` at that minute; all (n,)."""
        sold = quantity > 0
        proceeds = bid * SHARES * quantity
        fee = self.sell_fee(quantity, proceeds)
        gain = proceeds - account.entry * SHARES * quantity - fee
        account.cash += proceeds - fee
        account.contracts -= quantity
        account.trade_pnl += gain
        account.realised += gain
        account.orders += sold
        account.fees += fee
        self._close(account, sold & (account.contracts == 0), known)

    def sell_fee(self, quantity: Tensor, proceeds: Tensor) -> Tensor:
        """Fees in cents of selling `quantity` contracts for `proceeds` cents: `daemon.core.fees`, rounded up once."""
        nano_usd = quantity * self._units * 100 + proceeds * self._rate  # cents x 1e-7 = 1e-9 USD
        cent = _UNITS_PER_CENT * 100
        return (nano_usd + cent - 1) // cent

    def _close(self, account: Account, ended: Tensor, now: Tensor) -> None:
        """Book closed trades: their returns, the cooldowns, losses in a row and the pause after too many."""
        lost = ended & (account.trade_pnl < 0)
        result = account.trade_pnl.double() / account.trade_cost.clamp(min=1)
        account.returns[ended, (account.closed % TRADES)[ended]] = result[ended]
        account.closed += ended
        account.wins += ended & (account.trade_pnl > 0)
        account.last_trade = torch.where(ended, now, account.last_trade)
        account.last_loss = torch.where(lost, now, account.last_loss)
        in_a_row = torch.where(lost, account.losses + 1, torch.where(ended, 0, account.losses))
        pause = in_a_row >= self._risk.consecutive_losses_max
        until = now + self._risk.consecutive_losses_pause_min
        account.paused_until = torch.where(pause, until, account.paused_until)
        account.losses = torch.where(pause, 0, in_a_row)
        account.side = torch.where(ended, 0, account.side)
