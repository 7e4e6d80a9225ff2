"""Shared parts of the loopback Alpaca: the market, its clock, scripted faults, the rules, and the accounts."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable
from decimal import Decimal
from typing import Literal, get_args

from simulator.clock import SimClock
from simulator.faults import Faults
from simulator.prices.market import Market
from simulator.trading.account import Account
from strategies.kit.contract import Bar
from strategies.kit.units import SECOND_NS

Rounding = Literal["none", "fill", "order", "drawn"]
ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)
DEFAULT_KEY = "PKTEST00000000000000"
DEFAULT_SECRET = "loopback-secret-0000000000000000000000000"


@dataclasses.dataclass(frozen=True, slots=True)
class Rules:
    """Settings that differ between brokers, plans and tests; times in simulated seconds."""

    fill_sizes: tuple[int, int] = (1, 10)  # contracts (or hundreds of shares) that one order fills at one path point
    seed: int = 0
    rate_limit: int = 200  # trading requests of one account in a simulated minute
    data_rate_limit: int = 10_000
    duplicate_id_code: int = 42210000  # 40010001 was recorded too
    binary_trade_frames: bool = True  # as Alpaca's paper service
    dead_session_s: float = 90.0  # holding time of a session whose client vanished without a close frame
    late_activities: bool = False  # paper shows expiry, exercise and assignment only on the next day
    one_id: bool = False  # an exercise and its shares have one id, as in Alpaca's documentation of these rows
    fee_per_contract: Decimal = Decimal(0)  # USD, booked as FEE at the session's close
    taf_per_share: Decimal = Decimal(
        0
    )  # USD a share sold: a FEE of its own then, as the next two, rounded up to the cent
    reg_rate: Decimal = Decimal(0)  # of the proceeds of share sales
    cat_per_share: Decimal = Decimal(0)  # USD a share bought or sold
    free_plan: bool = False  # of market data: only IEX and indicative option quotes
    venue_delay_s: float = 0.0  # from pending_new to new
    gtc_ends_days: bool = False  # a GTC order is done_for_day at the close and new at the open
    calls_cross: bool = False  # the close call is no wash trade; Alpaca does not document whether its is
    stop_elects: Literal["print", "bid"] = "print"  # price that touches an option's stop sale: trades are at the mid
    not_fractionable: frozenset[str] = frozenset()  # shares that trade only whole, by their asset's flag
    fraction_least_usd: Decimal = Decimal(0)  # least worth of an order of a fraction; Alpaca's is unknown
    fractions_in_parts: bool = False  # an order of a fraction fills in parts with up to nine decimals
    cash_rounding: Rounding = "none"  # to cents; Alpaca's is unknown

    @property
    def rounding(self) -> str:
        """What is rounded to cents: "none", each "fill", or each "order"; "drawn" is decided by the seed."""
        if self.cash_rounding == "drawn":
            return random.Random(f"cash {self.seed}").choice(("none", "fill", "order"))
        return self.cash_rounding


class Brokerage:
    """One broker with its market, before clients connect. `accounts` as in `AlpacaServer`."""

    def __init__(
        self,
        market: Market,
        clock: SimClock,
        *,
        faults: Faults | None = None,
        accounts: Iterable[Account] = (),
        rules: Rules | None = None,
    ) -> None:
        self.market = market
        self.clock = clock
        self.faults = Faults() if faults is None else faults
        self.rules = Rules() if rules is None else rules
        account_list = tuple(accounts) or (Account(DEFAULT_KEY, DEFAULT_SECRET),)
        self.accounts: dict[str, Account] = {account.key: account for account in account_list}
        self.corrections: dict[tuple[str, int], tuple[int, Bar]] = {}
        """Corrected bars by symbol and start: the time of the correction, and the bar in history from then on."""

    @property
    def account(self) -> Account:
        """The first account: the only one in most tests."""
        return next(iter(self.accounts.values()))

    def now_ns(self) -> int:
        """Return the broker's clock: simulated time, plus `skew_s` (30) under the fault `clock_skew`."""
        skew = self.faults.take("clock_skew")
        return self.clock.now_ns() + (0 if skew is None else int(float(skew.get("skew_s", 30)) * SECOND_NS))

    def authentic(self, key: str, secret: str) -> Account | None:
        """Return the account of these credentials; None if they are wrong."""
        account = self.accounts.get(key)
        return account if account is not None and account.secret == secret else None

    def exposed(self, key: str | None) -> bool:
        """Return whether this account (any, for None) has a working order or an open position."""
        if key is not None and key in self.accounts:
            return self.accounts[key].exposed()
        return any(account.exposed() for account in self.accounts.values())


class Listed:
    """The venue's accounts for its streams."""

    def __init__(self, venue: Brokerage) -> None:
        self._venue = venue

    @property
    def binary_frames(self) -> bool:
        """Whether JSON is sent in binary frames, as by Alpaca's paper stream."""
        return self._venue.rules.binary_trade_frames

    @property
    def dead_session_s(self) -> float:
        """Seconds for which the session of a client that vanished without a close frame is held."""
        return self._venue.rules.dead_session_s

    def now_ns(self) -> int:
        """Return the simulated time."""
        return self._venue.clock.now_ns()

    def number(self, key: str, secret: str) -> str | None:
        """Return the account number of these credentials, or None."""
        account = self._venue.authentic(key, secret)
        return None if account is None else account.account_number

    def numbers(self) -> Iterable[str]:
        """Return the numbers of all accounts."""
        return [account.account_number for account in self._venue.accounts.values()]
