"""State of the paper brokers: cash, holdings, working orders and the session's market, as one frozen value each.

Makes no trading decision. Invariant: JSON gives back an equal state, and holdings change only by `trade_holding`.
"""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache

import msgspec
from msgspec import UNSET, UnsetType

from daemon.core.events import BrokerPosition, BrokerSnapshot, Quote
from daemon.core.instruments.option_market import OccContract, SessionMarket, parse_occ
from daemon.core.state import ZERO
from strategies.kit.contract import Bar, Session
from strategies.kit.quantity import Quantity, total


class PaperPosition(msgspec.Struct, frozen=True):
    """A position: contracts, or shares (negative when short). `average_price` in USD a share."""

    symbol: str
    quantity: Quantity
    average_price: Decimal


class RestingOrder(msgspec.Struct, frozen=True):
    """An accepted order that is neither filled, cancelled nor expired. `cost` = sum of price x contracts so far.

    With a `stop_price` it rests until the bid is at or below it, and is then a market or limit order.
    """

    client_order_id: str
    symbol: str
    side: int
    quantity: int
    limit_price: Decimal | None
    submitted_ns: int
    filled: int = 0
    cost: Decimal = ZERO
    fees: Decimal = ZERO
    stop_price: Decimal | UnsetType = UNSET


class SessionClose(msgspec.Struct, frozen=True):
    """The close of a session's last bar."""

    date: str
    close: float


class PaperState(msgspec.Struct, frozen=True):
    """Complete state of the paper broker. JSON-encodable; a decoded copy continues exactly like the original."""

    cash: Decimal
    holdings: tuple[PaperPosition, ...] = ()
    orders: tuple[RestingOrder, ...] = ()
    closes: tuple[SessionClose, ...] = ()  # of earlier sessions, oldest first, as many as the volatility estimate needs
    session: Session | None = None  # None before the first and between sessions
    upcoming: tuple[Session, ...] = ()
    previous: tuple[Session, ...] = ()
    market: SessionMarket | None = None  # of this session, fixed before its first bar; None while σ is unknown
    last_bar: Bar | None = None  # of this session
    watched: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()  # client order ids submitted since the session was scheduled, or still working then
    listed: tuple[str, ...] = ()  # contracts listed by a real market
    quotes: tuple[Quote, ...] = ()  # last quotes of this session
    part_ns: int | UnsetType = UNSET  # end of the newest part of a longer bar; unset if bars come whole


class RecordedState(PaperState, frozen=True):
    """`PaperState` with recorded quotes from a tape. Counts are since the journal began."""

    listed_for: str = ""  # date of the session whose contracts are listed
    closed_bar_ns: int = 0  # start of the newest bar ended by quotes
    fills_recorded: int = 0  # at a recorded quote
    fills_modelled: int = 0  # at a Black-Scholes price, if the minute had no quote


class ShareOrder(msgspec.Struct, frozen=True):
    """An accepted order for shares; it fills whole or not at all. `reserved` is its highest cost in USD.

    With a `stop_price` it rests until a price is at or below it, then sells; it also rests over nights, except a
    fraction.
    """

    client_order_id: str
    symbol: str
    side: int
    quantity: Quantity
    limit_price: Decimal | None
    submitted_ns: int
    auction: bool = False
    reserved: Decimal = ZERO
    stop_price: Decimal | UnsetType = UNSET


class DayTraded(msgspec.Struct, frozen=True):
    """Base of a session's share fees: shares traded, those of them sold, and the proceeds in USD."""

    shares: Quantity
    sold: Quantity
    proceeds: Decimal


class DueDividend(msgspec.Struct, frozen=True):
    """Cash that the holders before `ex_date` are paid on the day `paid`: `usd` in all. `id` is that of its line."""

    id: str
    symbol: str
    ex_date: str
    paid: str
    usd: Decimal


class Actions(msgspec.Struct, frozen=True):
    """The corporate actions of a dry run with ex-dates from `since` to `to`: names of the newest, and what is due."""

    since: str
    to: str
    names: tuple[str, ...] = ()
    due: tuple[DueDividend, ...] = ()


class SharePaperState(msgspec.Struct, frozen=True):
    """Complete state of the share paper broker. JSON-encodable; a decoded copy continues exactly like the original."""

    cash: Decimal
    costs: Decimal = ZERO  # of all trades so far, in USD
    reserved: Decimal = ZERO  # of the cash, for working buys
    holdings: dict[str, PaperPosition] = {}  # by symbol; none of quantity 0
    orders: tuple[ShareOrder, ...] = ()  # working, in the order they came
    session: Session | None = None  # None before the first and between sessions
    asks: dict[str, Decimal] = {}  # last known in this session: a market buy is checked against them
    seen: tuple[str, ...] = ()  # client order ids submitted since the session was scheduled
    day: DayTraded | UnsetType = UNSET  # unset without a trade, or without fees
    part_ns: int | UnsetType = UNSET  # as in `PaperState`
    actions: Actions | UnsetType = UNSET  # of a dry run on a live feed; unset before the first were read
    bought: dict[str, str] | UnsetType = UNSET  # on a live feed: held symbol -> date of its newest buy


def broker_snapshot(state: PaperState | SharePaperState, time_ns: int) -> BrokerSnapshot:
    """Return the paper broker's snapshot: cash, positions (by symbol, of shares) and open orders."""
    holdings = state.holdings
    if isinstance(holdings, dict):
        holdings = tuple(holdings[symbol] for symbol in sorted(holdings))
    positions = tuple(BrokerPosition(h.symbol, Decimal(h.quantity), h.average_price) for h in holdings)
    return BrokerSnapshot(time_ns, state.cash, positions, tuple(order.client_order_id for order in state.orders))


def came_in_parts(state: PaperState | SharePaperState, bar: Bar) -> bool:
    """Return whether the market moved already with the parts of this bar."""
    return not isinstance(state.part_ns, UnsetType) and state.part_ns > bar.start_ns


def held_options(state: PaperState) -> list[tuple[PaperPosition, OccContract]]:
    """Return the held options with their parsed symbols; shares are left out."""
    return [(holding, contract) for holding in state.holdings if (contract := parse_occ(holding.symbol)) is not None]


def holding_quantity(state: PaperState, symbol: str) -> Quantity:
    return total(holding.quantity for holding in state.holdings if holding.symbol == symbol)


def with_trade(
    holdings: tuple[PaperPosition, ...], symbol: str, quantity: Quantity, at: Decimal
) -> tuple[PaperPosition, ...]:
    """Return the holdings after a trade of signed `quantity`, by `trade_holding`; zero quantities are dropped."""
    other_holdings = tuple(holding for holding in holdings if holding.symbol != symbol)
    old = next((holding for holding in holdings if holding.symbol == symbol), PaperPosition(symbol, 0, ZERO))
    new = trade_holding(old, quantity, at)
    return (*other_holdings, new) if new.quantity else other_holdings


def trade_holding(old: PaperPosition, quantity: Quantity, at: Decimal) -> PaperPosition:
    """Return a holding after a trade: growing averages its price, shrinking keeps it, turning takes the new one."""
    total, average = old.quantity + quantity, at
    if total and old.quantity * quantity >= 0:
        average = (old.average_price * old.quantity + at * quantity) / total
    elif old.quantity * total > 0:
        average = old.average_price
    return PaperPosition(old.symbol, total, average)


@lru_cache(maxsize=65536)
def usd(cents: int) -> Decimal:
    """Return whole cents as USD with two decimals."""
    return Decimal(cents).scaleb(-2)
