"""Trading limits and rules: one frozen dataclass for each table of the configuration, with bounds and defaults.

Defined here because the step decides by them and the journal records them; `daemon.config.load` validates them (bounds
are `annotated_types`, unknown keys are refused). Units are in the names: `_s` seconds, `_min` minutes, `_usd` dollars.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, ClassVar, Literal

import msgspec
from annotated_types import Ge, Gt, Le, Lt
from msgspec import UNSET, UnsetType

from strategies.kit.contract import Spec
from strategies.kit.quantity import FINEST

Fraction = Annotated[float, Ge(0), Le(1)]
Minutes = Annotated[int, Ge(0), Le(390)]
Count = Annotated[int, Ge(0)]
Usd = Annotated[Decimal, Ge(0)]
ORDER_SLACK = Decimal("1.5")  # covers moves between a decision and its order; a wrong price exceeds it


@dataclass(frozen=True, slots=True)
class Sizing:
    """Position size, stop loss and take profit of an option desk."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "arbitrary_types_allowed": True}  # UNSET is a type of its own
    premium_fraction: Annotated[float, Gt(0), Le(1)] = 0.20  # of equity, at most, spent on one position's premium
    min_contracts: Annotated[int, Ge(1)] = 1
    max_contracts: Annotated[int, Ge(1)] = 10
    stop_loss: Annotated[float, Gt(0), Lt(1)] = 0.30  # exit when the mark fell by this part of the entry price
    take_profit: Annotated[float, Gt(0)] = 0.50  # exit when the mark rose by this part of the entry price
    trailing_stop: Annotated[float, Ge(0), Lt(1)] | UnsetType = UNSET  # below the highest mark since the entry; 0: none
    time_stop_min: Annotated[int, Ge(0), Le(390)] | UnsetType = UNSET  # exit this long after the entry; 0: never

    def __post_init__(self) -> None:
        """Unset the keys that are off, so that the journal omits them."""
        for key in ("trailing_stop", "time_stop_min"):
            if not getattr(self, key):
                object.__setattr__(self, key, UNSET)

    @property
    def trails(self) -> float:
        """`trailing_stop`, 0.0 if unset."""
        return 0.0 if isinstance(self.trailing_stop, UnsetType) else self.trailing_stop

    @property
    def held_max_min(self) -> int:
        """`time_stop_min`, 0 if unset."""
        return 0 if isinstance(self.time_stop_min, UnsetType) else self.time_stop_min


@dataclass(frozen=True, slots=True)
class Contracts:
    """Choice of the option contract: days to expiry and strike."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    min_days: Count = 1  # trading days to expiry; 0 allows the contract that expires today
    max_days: Count = 5
    strike: Literal["nearest", "delta"] = "nearest"
    delta_target: Annotated[float, Gt(0), Lt(1)] = 0.50  # absolute delta, for strike = "delta"


@dataclass(frozen=True, slots=True)
class Execution:
    """Prices and lifetimes of option orders."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    policy_valid_s: Annotated[int, Gt(0)] = 30  # an older answer is discarded
    entry_slack: Fraction = 0.05  # entry limit = ask x (1 + slack)
    entry_reprice_s: Annotated[int, Gt(0)] = 60  # a working entry is cancelled and re-priced after this
    entry_deadline_s: Annotated[int, Gt(0)] = 180  # no attempt of an entry is older than this
    exit_start: Literal["mid", "bid"] = "bid"  # first exit limit: at the mid, or at bid x (1 - slack)
    exit_slack: Fraction = 0.05
    exit_reprice_s: Annotated[int, Gt(0)] = 60
    exit_limit_attempts: Annotated[int, Ge(0)] = 2  # then a market order
    flat_before_close_min: Minutes = 5  # every option position is flat this long before the close
    flatten_lead_min: Minutes = 2  # the exit order is sent this much earlier
    expiry_day_flat_min: Minutes = 60  # `flat_before_close_min` for contracts that expire today
    expiry_day_no_entry_min: Minutes = 90  # no entry into contracts that expire today in the last minutes


@dataclass(frozen=True, slots=True)
class Risk:
    """Limits of the risk gates, and of the guards that halt or pause."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    confidence_min: Fraction = 0.5
    no_entry_before_close_min: Minutes = 30
    no_entry_after_open_min: Minutes = 0
    no_trade_windows: tuple[str, ...] = ()  # New York times, "HH:MM-HH:MM"
    stale_bar_s: Annotated[int, Gt(0)] = 90  # age of the newest bar's end
    bar_leap_max: Annotated[float, Gt(0), Lt(1)] = 0.05  # of the last close; a bar further away waits for confirmation
    spot_gap_max: Annotated[float, Gt(0), Lt(1)] = 0.01  # last bar against the spot implied by the quotes
    gap_min: Annotated[int, Ge(1)] = 3  # longest gap between two bars of the window, in minutes
    cooldown_trade_s: Count = 120  # after a position was closed
    cooldown_loss_s: Count = 300  # after a position was closed at a loss
    orders_per_minute: Annotated[int, Ge(1)] = 6
    orders_per_day: Annotated[int, Ge(1)] = 100
    order_contracts_max: Annotated[int, Ge(1)] = 10
    order_notional_max_usd: Usd = Decimal(25000)  # see `premium_max_usd`
    position_contracts_max: Annotated[int, Ge(1)] = 10
    gross_exposure_max_usd: Usd = Decimal(25000)
    price_collar: Fraction = 0.20  # an order's limit lies within this part of the mid
    spread_max: Fraction = 0.10  # (ask - bid) / mid of the contract
    open_interest_min: Count = 100
    quote_age_max_s: Annotated[int, Gt(0)] = 90
    mark_width_max: Annotated[float, Gt(0), Le(2)] = 0.50  # (ask - bid) / mid; a wider quote only bounds the price
    mark_leap_max: Annotated[float, Gt(0), Lt(1)] = 0.10  # of the mark; a price further away waits for another quote
    daily_loss_max: Annotated[float, Gt(0), Le(1)] = 0.10  # of the equity at the session's start; halts
    daily_loss_flatten: bool = True
    drawdown_max: Annotated[float, Gt(0), Le(1)] = 0.30  # from the equity peak; halts
    consecutive_losses_max: Annotated[int, Ge(1)] = 5  # pauses
    consecutive_losses_pause_min: Annotated[int, Ge(1)] = 60
    reject_rate_max: Fraction = 0.5  # of the last reject_rate_orders orders; halts
    reject_rate_orders: Annotated[int, Ge(2)] = 10
    intraday_exposure_max: Annotated[float, Gt(0)] = 1.05  # of the equity: all positions and working orders

    @property
    def premium_max_usd(self) -> Decimal:
        """Highest premium of one order in USD: its own limit, and at most half of the exposure limit."""
        return min(self.order_notional_max_usd, self.gross_exposure_max_usd / 2)


@dataclass(frozen=True, slots=True)
class Broker:
    """Rules for differences between broker and book, and for a silent broker or feed."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    foreign_orders: Literal["halt", "ignore", "adopt"] = "halt"  # orders and positions of other traders in the account
    exercised_shares: Literal["close", "hold"] = "close"  # shares left by an exercise or assignment
    cash_tolerance_usd: Usd = Decimal("1.00")  # an unexplained difference of cash up to this is booked as a fee
    cash_halt_min: Annotated[int, Ge(1)] = 30  # a cash difference above it halts after this long in a session
    on_blind: Literal["flatten", "hold", "alarm"] = "flatten"  # bars, quotes or reconciliation lost with a position
    blind_min: Annotated[int, Ge(1)] = 5  # after this many minutes
    look_up_s: Annotated[int, Ge(1)] = 5  # an order in an unknown state is looked up after this, and again
    on_stop: Literal["keep", "flatten"] = "keep"  # positions when the daemon is stopped


AUTO = "auto"  # the key's value is derived from the desk


@dataclass(frozen=True, slots=True)
class Protection:
    """Stop orders that rest at the broker below the desk's holdings."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    rest_at_broker: bool | Literal["auto"] = "auto"  # auto: at a real broker, if one of the rules below applies
    distance: Annotated[float, Ge(1), Le(20)] = 1.5  # times `sizing.stop_loss` below the price paid
    disaster_stop: Annotated[float, Ge(0), Lt(1)] = 0.0  # below the last close, for a desk without a stop of its own
    options: Literal["off", "stop_limit", "stop"] = "off"  # undocumented: does a trade or a quote elect the stop?
    floor: Annotated[float, Gt(0), Lt(1)] = 0.5  # a stop_limit sells no further below its stop than this part of it

    def covers(self, spec: Spec) -> bool:
        """Return whether a rule applies to the holdings of a desk of this strategy."""
        if spec.shares_stopped:
            return True
        return self.options != "off" if spec.chained else self.disaster_stop > 0


OVERLAY = ("volatility_target", "volatility_forecast", "volatility_span", "volatility_band")
"""Keys of `Basket` that set the risk overlay."""


@dataclass(frozen=True, slots=True)
class Basket:
    """Time and manner of a daily desk's rebalancing of shares. Weights are fractions of the equity."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    decide: Literal["after_close", "before_close"] = "after_close"  # for the next open, or on the running day
    before_close_min: Annotated[int, Ge(2), Le(120)] = 10  # time of the decision, for "before_close"
    before_open_min: Annotated[int, Ge(3), Le(240)] = 15  # time at which the sells are sent, for "after_close"
    auction: bool = True  # sells decided after the close go into the opening auction
    shares_per_unit: Annotated[int, Ge(1)] = 100  # one unit of a continuous action (daily_rebalancer)
    notional_per_unit_usd: Usd = Decimal(0)  # a unit in USD; 0: by `equity_per_unit`
    equity_per_unit: Annotated[float, Ge(0), Le(1)] = 0.0  # a unit as a fraction of the equity; 0: by shares
    band: Annotated[float, Ge(0), Lt(1)] = 0.0  # a smaller change of a weight is left out
    weight_max: Annotated[float, Gt(0), Le(1)] = 1.0  # of one symbol, for strategies that size by weights
    price_slack: Annotated[float, Ge(0), Lt(1)] = 0.002  # limit = ask x (1 + slack), bid x (1 - slack)
    reprice_s: Annotated[int, Gt(0)] = 60  # a working order is cancelled and re-priced after this
    price_collar: Annotated[float, Gt(0), Lt(1)] = 0.05  # no order further than this from the last known price
    end_before_close_min: Annotated[int, Ge(1), Le(390)] = 5  # unfinished orders are given up for the day
    order_weight_max: Annotated[float, Gt(0)] = 1.0  # one order
    order_notional_max_usd: Usd = Decimal(0)  # one buy; 0: see `buy_max_usd`
    position_weight_max: Annotated[float, Gt(0)] = 1.05  # one symbol after the order
    gross_weight_max: Annotated[float, Gt(0)] = 1.05  # all positions and working buys
    turnover_max: Annotated[float, Gt(0)] = 2.05  # of one basket: bought and sold
    fractions: Literal["auto", "on", "off"] = "auto"  # of shares, if the asset allows them; auto: by the first equity
    order_step: Annotated[Decimal, Ge(FINEST), Le(1)] = Decimal("0.0001")  # shares: a basket's targets are multiples
    min_order_usd: Usd = Decimal(1)  # a basket's order of a fraction below this is left out, except an exit
    volatility_target: Annotated[float, Ge(0)] = 0.0  # annual, of the portfolio; 0: no overlay
    volatility_forecast: Literal["ewma", "har", "model"] = "ewma"  # see `daemon.core.risk.overlay`
    volatility_span: Annotated[int, Ge(2), Le(250)] = 20  # sessions of the moving average
    volatility_band: Annotated[float, Ge(0), Lt(1)] = 0.1  # fraction of the cap by which holdings may exceed it

    @property
    def steps_a_share(self) -> int:
        """Number of steps of `order_step` in one share."""
        return int(1 / self.order_step)

    def buy_max_usd(self, equity: Decimal) -> Decimal:
        """Return the highest cost of one buy in USD: its own limit, else 1.5 times the highest weight of one symbol."""
        return self.order_notional_max_usd or equity * Decimal(str(self.weight_max)) * ORDER_SLACK


@dataclass(frozen=True, slots=True)
class Exploration:
    """Exploration of a policy that chooses an action for each symbol, among the actions that the gates allow."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    kind: Literal["none", "epsilon", "softmax"] = "none"
    epsilon: Annotated[float, Gt(0), Le(0.5)] = 0.02  # fraction of the decisions, spread over the allowed actions
    temperature: Annotated[float, Gt(0)] = 1.0  # of the softmax over the values of the allowed actions


@dataclass(frozen=True, slots=True)
class Served:
    """Answers to the policy's questions from another process."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    deadline_ms: Annotated[int, Ge(10)] = 500  # by the desk's clock; without an answer by then the action is HOLD


ALL, SOLD, PROCEEDS = "every contract", "contracts sold", "proceeds of sales"
SHARES, SHARES_SOLD = "every share", "shares sold"
"""Base of a fee: its rate is USD for each contract or share (sold), or a fraction of the proceeds of sales."""


class Fee(msgspec.Struct, frozen=True):
    """A regulatory fee. The paper brokers, training, the configuration's key and docs/PAPER.md are derived from it."""

    short: str  # name in a list of costs
    charged: str  # ALL, SOLD, PROCEEDS, SHARES or SHARES_SOLD
    meaning: str
    rate: str  # in 2024: the default, and a note on exceptions
    since: str  # the rate since then, "" if unchanged
    source: str


def fee(default: str, short: str, unit: str, meaning: str, *, note: str = "", since: str = "", source: str) -> Decimal:
    """Declare a fee as a field of `Paper`; append new ones at the end of the table, with a default of 0.

    A start that an earlier release journaled lacks the new key: with another default its replay would pay the fee. A
    new field changes the digest of the rules, so the desk reports that shipped models were trained with other costs;
    except for a field in `daemon.core.strategy_rules.LATER`, which at its default changes nothing that they were tested
    with.
    """
    declaration = Fee(short, unit, meaning, f"{default}{note}", since, source)
    return field(default=Decimal(default), metadata={Fee: declaration})


@dataclass(frozen=True, slots=True)
class Paper:
    """The paper broker and the modelled option market of dry run and replay."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    cash_usd: Annotated[Decimal, Gt(0)] = Decimal(10000)
    contracts_per_minute: Annotated[int, Ge(1)] = 50  # most contracts of one order that fill within one bar
    commission_usd: Usd = fee(
        "0", "commission", ALL, "the broker's commission", since="0", source="Alpaca, commission-free for API orders"
    )
    orf_usd: Usd = fee(
        "0.02685",
        "ORF",
        ALL,
        "options regulatory fee",
        since="0.02815 from 2025-03-03",
        source='Alpaca "Regulatory Fees" (docs.alpaca.markets/docs/regulatory-fees); Interactive Brokers "Options '
        'Regulatory Fee", sum over the exchanges',
    )
    occ_usd: Usd = fee(
        "0.02",
        "OCC",
        ALL,
        "clearing fee",
        note=" (55 USD at most for a trade)",
        since="0.025, no cap",
        source="OCC schedule of fees; Federal Register 90 FR 10544 (2025-02)",
    )
    taf_usd: Usd = fee(
        "0.00279",
        "TAF",
        SOLD,
        "trading activity fee",
        source='FINRA Trading Activity Fee; Alpaca "Regulatory Fees"',
    )
    sec_rate: Annotated[Decimal, Ge(0), Lt(1)] = fee(
        "0.0000278",
        "SEC",
        PROCEEDS,
        "the SEC's fee",
        note=" from 2024-05-22, 0.000008 before",
        since="0 from 2025-05-14",
        source="SEC Release 34-99973 (89 FR 29402), Section 31; Security Traders Association (2025-05-14)",
    )
    volatility_premium: Annotated[float, Gt(0), Le(100)] = 1.25  # implied over realised volatility
    volatility_floor: Annotated[float, Gt(0), Le(100)] = 0.08  # annualised
    volatility_sessions: Annotated[int, Ge(2)] = 20
    half_spread: Annotated[float, Ge(0), Lt(1)] = 0.004  # of the mid
    half_spread_min_usd: Annotated[float, Ge(0)] = 0.005
    open_interest: Count = 1000
    strikes_each_side: Annotated[int, Ge(1), Le(1000)] = (
        25  # whole dollars listed around the previous session's last close
    )
    share_cost_rate: Annotated[Decimal, Ge(0), Lt(1)] = Decimal("0.001")  # of the traded value of shares
    share_wait_rate: Annotated[Decimal, Ge(0), Lt(1)] = Decimal("0.0002")  # dearer, for buys that wait for the sells
    share_fees_below_usd: Usd = Decimal(100_000)  # accounts that begin with less pay the day's share fees, in cents
    share_taf_usd: Usd = fee(
        "0.000166",
        "TAF",
        SHARES_SOLD,
        "trading activity fee of shares",
        note=" (8.30 USD at most for a trade: above 50,000 shares)",
        source='FINRA Trading Activity Fee; Alpaca "Regulatory Fees"',
    )
    share_cat_usd: Usd = fee(
        "0.000048",
        "CAT",
        SHARES,
        "consolidated audit trail fee of shares",
        note=" from 2024-10, 0 before",
        source="catnmsplan.com, question V6",
    )


@dataclass(frozen=True, slots=True)
class Trading:
    """All trading rules of one desk, journaled at every start."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    sizing: Sizing = field(default_factory=Sizing)
    contracts: Contracts = field(default_factory=Contracts)
    execution: Execution = field(default_factory=Execution)
    risk: Risk = field(default_factory=Risk)
    broker: Broker = field(default_factory=Broker)
    basket: Basket = field(default_factory=Basket)
    paper: Paper = field(default_factory=Paper)
    exploration: Exploration | UnsetType = UNSET  # unset at its defaults, so that the journal omits it
    served: Served | UnsetType = UNSET  # unset if the daemon runs the model itself
    protection: Protection | UnsetType = UNSET  # unset if no stop may rest at the broker
    guard_prefix: str | UnsetType = UNSET  # of the guard's order ids; unset without a guard

    @property
    def exploring(self) -> Exploration:
        """The rules of exploration; the defaults if unset."""
        return Exploration() if isinstance(self.exploration, UnsetType) else self.exploration


class Limit(msgspec.Struct, frozen=True):
    """One effective limit: its dotted key, its value as text, and the source of the value."""

    key: str
    value: str
    origin: str
