"""A market of one made-up session whose every price a test sets by hand, in cents; and two markets compared bit by bit.

The session has 90 bars of a minute; the first decision is at the close of bar 19, entries end with 30 minutes left,
the flatten is sent at the close of bar 82 and fills at the open of bar 83.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal

import numpy as np
import torch
from torch import Tensor

from daemon.core.limits import Paper, Trading
from strategies.kit.contract import Session
from training.desks.scalper.history import History, TradingDay, packed
from training.desks.scalper.market import Market

FEES = Paper(orf_usd=Decimal("0.03"), occ_usd=Decimal("0.02"), taf_usd=Decimal("0.003"), sec_rate=Decimal("0.00003"))
"""A contract costs 0.05 USD to buy, and 0.053 + 0.00003 of the proceeds to sell."""

BARS = 90
MINUTE_NS = 60_000_000_000
FIRST, LAST_ENTRY, FLATTEN = 19, 58, 82
HOLD, BUY_CALL, BUY_PUT, TRIM_50, TRIM_70, EXIT = range(6)


class HandMarket:
    """Call and put cost 198 / 202 everywhere until `quote` says otherwise; bars touch nothing but their own mid."""

    def __init__(self, trading: Trading | None = None) -> None:
        self.trading = replace(trading or Trading(), paper=FEES)
        self.columns = {
            "open_bid": torch.full((2, BARS), 198),
            "open_ask": torch.full((2, BARS), 202),
            "close_bid": torch.full((2, BARS), 198),
            "close_ask": torch.full((2, BARS), 202),
            "lowest": torch.full((2, BARS), 400),
            "highest": torch.full((2, BARS), 400),
        }

    def quote(self, moment: str, bar: int, bid: int, ask: int, right: int = 0) -> None:
        """Set the bid and ask at the `open` or `close` of a bar; `right` 0 call, 1 put."""
        self.columns[f"{moment}_bid"][right, bar] = bid
        self.columns[f"{moment}_ask"][right, bar] = ask

    def reach(self, bar: int, lowest: int, highest: int, right: int = 0) -> None:
        """Set the range of the mid within a bar, in cents."""
        self.columns["lowest"][right, bar] = 2 * lowest
        self.columns["highest"][right, bar] = 2 * highest

    def open(self, reward_name: str = "potential") -> Market:
        """One environment on this session, before its first decision."""
        day = TradingDay(
            session=Session("2024-01-02", 0, BARS * MINUTE_NS),
            upcoming=(),
            first=0,
            end=BARS,
            flatten=FLATTEN,
            previous_close=500.0,
            volatility=0.2,
            usable=True,
        )
        zeros = np.zeros(BARS)
        history = History(
            start_ns=np.arange(BARS) * MINUTE_NS,
            open=zeros,
            high=zeros,
            low=zeros,
            close=zeros,
            features=np.zeros((BARS, 20)),
            minute=np.arange(1, BARS + 1),
            gap=np.zeros(BARS, dtype=np.int64),
            days=(day,),
        )
        lanes = torch.tensor([[0, BARS]]).expand(BARS, 2)
        flat = {name: column.reshape(-1) for name, column in self.columns.items()}
        prices = packed(flat, lanes, self.trading)
        market = Market(
            history, prices, (day,), self.trading, count=1, reward_name=reward_name, discount=0.99, auto_reset=False
        )
        market.begin(torch.tensor([0]))
        return market


def play(market: Market, *actions: int) -> Tensor:
    """Take the actions one after the other; their rewards, float32 (actions,)."""
    return torch.stack([market.step(torch.tensor([action])).rewards[0] for action in actions])


def cash(market: Market) -> int:
    """The account's cash in cents."""
    return int(market.account.cash[0])


def same_to_the_bit(one: Market, other: Market, choices: Iterable[torch.Tensor]) -> int:
    """Play both with int64 actions (n,) and assert that all is equal; returns how many sessions ended."""
    ended = 0
    for chosen in choices:
        step, twin = one.step(chosen), other.step(chosen)
        assert torch.equal(step.rewards, twin.rewards)
        assert torch.equal(step.terminals, twin.terminals)
        ended += int(step.terminals.sum())
    assert torch.equal(one.observe(), other.observe())
    assert torch.equal(one.account.cash, other.account.cash)
    return ended
