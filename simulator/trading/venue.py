"""What all of the loopback Alpaca shares: the market, its clock, the script of faults, the rules, and the accounts."""

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
    """What differs between brokers, plans and tests; times in simulated seconds."""

    fill_sizes: tuple[int, int] = (1, 10)  # contracts (or hundreds of shares) that one order fills at one path point
    seed: int = 0
    rate_limit: int = 200  # trading requests of one account in a simulated minute
    data_rate_limit: int = 10_000
    duplicate_id_code: int = 42210000  # 40010001 was recorded too
    binary_trade_frames: bool = True  # as paper does
    dead_session_s: float = 90.0  # how long a session is held whose client vanished without a close frame
    late_activities: bool = False  # paper shows expiry, exercise and assignment on the next day only
    one_id: bool = False  # an exercise and its shares bear one id, as in Alpaca's documentation of these lines
    fee_per_contract: Decimal = Decimal(0)  # USD, booked as FEE at the session's close
    taf_per_share: Decimal = Decimal(
        0
    )  # USD a share sold: a FEE of its own then, as the next two, rounded up to the cent
    reg_rate: Decimal = Decimal(0)  # of what sales of shares brought
    cat_per_share: Decimal = Decimal(0)  # USD a share bought or sold
    free_plan: bool = False  # of market data: IEX and indicative option quotes alone
    venue_delay_s: float = 0.0  # between pending_new and new
    gtc_ends_days: bool = False  # an order until it is cancelled is done_for_day at the close and new at the open
    calls_cross: bool = False  # the close call is no wash trade: whether Alpaca's is one, it does not say
    stop_elects: Literal["print", "bid"] = "print"  # what touches an option's stop sale: trades are at the middle
    not_fractionable: frozenset[str] = frozenset()  # shares that trade whole alone, by their asset's flag
    fraction_least_usd: Decimal = Decimal(0)  # what an order of a fraction is at least worth: Alpaca's is not known
    fractions_in_parts: bool = False  # an order of a fraction fills in parts with up to nine decimals
    cash_rounding: Rounding = "none"  # to cents; Alpaca's is not known

    @property
    def rounding(self) -> str:
        """What rounds cash to cents: "none", each "fill", or each "order"; "drawn" is decided by the seed."""
        if self.cash_rounding == "drawn":
            return random.Random(f"cash {self.seed}").choice(("none", "fill", "order"))
        return self.cash_rounding


class Brokerage:
    """One broker with its market, before anybody is connected. `accounts` as in `AlpacaServer`."""

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
        """Bars corrected after the fact, by symbol and start: since when, and the bar that history has from then on."""

    @property
    def account(self) -> Account:
        """The first account: the only one in most tests."""
        return next(iter(self.accounts.values()))

    def now_ns(self) -> int:
        """The broker's clock: simulated time, and `skew_s` (30) more under the fault `clock_skew`."""
        skew = self.faults.take("clock_skew")
        return self.clock.now_ns() + (0 if skew is None else int(float(skew.get("skew_s", 30)) * SECOND_NS))

    def authentic(self, key: str, secret: str) -> Account | None:
        """The account of these credentials; None for wrong ones."""
        account = self.accounts.get(key)
        return account if account is not None and account.secret == secret else None

    def exposed(self, key: str | None) -> bool:
        """Whether this account (any, for None) has a working order or an open position."""
        if key is not None and key in self.accounts:
            return self.accounts[key].exposed()
        return any(account.exposed() for account in self.accounts.values())


class Listed:
    """The venue's accounts for its streams."""

    def __init__(self, venue: Brokerage) -> None:
        self._venue = venue

    @property
    def binary_frames(self) -> bool:
        """Whether messages go out as binary frames, as Alpaca's paper stream sends them."""
        return self._venue.rules.binary_trade_frames

    @property
    def dead_session_s(self) -> float:
        """Seconds for which a session is held whose client vanished without a close frame."""
        return self._venue.rules.dead_session_s

    def now_ns(self) -> int:
        """Simulated time."""
        return self._venue.clock.now_ns()

    def number(self, key: str, secret: str) -> str | None:
        """The account number of these credentials."""
        account = self._venue.authentic(key, secret)
        return None if account is None else account.account_number

    def numbers(self) -> Iterable[str]:
        """The numbers of all accounts."""
        return [account.account_number for account in self._venue.accounts.values()]
