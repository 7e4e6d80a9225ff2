"""Interface between the servers of Alpaca's protocols and the owner of the accounts.

The type variable is the owner's type of an account. All methods of `TradingBackend` may raise `Refusal`; REST returns
their JSON unchanged. Coroutines may wait for an upstream broker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Protocol, TypeVar

from daemon.alpaca_api.books import ActivityRow
from daemon.alpaca_api.wire import Json

A_contra = TypeVar("A_contra", contravariant=True)


class ShownOrder(Protocol):
    """An order as REST shows it: the fields that list filters use, and the whole object."""

    @property
    def symbol(self) -> str: ...
    @property
    def side(self) -> str: ...
    @property
    def submitted_ns(self) -> int: ...
    @property
    def open(self) -> bool: ...
    def shown(self) -> Json: ...


class AccountReads(Protocol[A_contra]):
    """Read access to an account's orders and positions."""

    def orders(self, account: A_contra, *, only_open: bool) -> Iterable[ShownOrder]:
        """The account's orders; with `only_open` at least those that may still fill."""

    def order(self, account: A_contra, order_id: str) -> ShownOrder | None:
        """The order with this id, None if the account has none."""

    def order_of_name(self, account: A_contra, client_order_id: str) -> ShownOrder | None:
        """The order with this client order id, None if the account has none."""

    def positions(self, account: A_contra) -> Mapping[str, Json]:
        """The positions as REST shows them, by symbol."""

    def position(self, account: A_contra, symbol: str) -> Json | None:
        """One position as REST shows it, None without one."""


class TradingBackend(AccountReads[A_contra], Protocol[A_contra]):
    """All operations of trading REST."""

    def now_ns(self) -> int:
        """The time of the server, in ns UTC."""

    def account(self, account: A_contra) -> Json:
        """The account object."""

    def configuration(self, account: A_contra) -> Json:
        """The account's configuration."""

    async def configure(self, account: A_contra, changes: Json) -> Json:
        """Change the configuration; returns the complete configuration."""

    def symbol(self, account: A_contra, name: str) -> str:
        """The symbol in a path, given as a symbol or as the asset id of a position; `name` if neither is known."""

    async def submit(self, account: A_contra, body: Json) -> Json:
        """Accept a new order; returns it as accepted."""

    async def replace(self, account: A_contra, order_id: str, changes: Json) -> Json:
        """Replace an order known to `order`; returns the new one."""

    async def cancel(self, account: A_contra, order_id: str) -> None:
        """Request the cancellation of an order known to `order`."""

    async def cancel_all(self, account: A_contra) -> list[Json]:
        """Request the cancellation of all open orders; returns a row of id and status for each."""

    async def close(self, account: A_contra, symbol: str, quantity: Decimal | None, percent: Decimal | None) -> Json:
        """Send a market order that closes the position, whole or in part; returns it. Raises 404 without a position."""

    async def close_all(self, account: A_contra, *, cancel_orders: bool) -> list[Json]:
        """Close all positions; returns a row of symbol, status and body for each."""

    async def exercise(self, account: A_contra, symbol: str) -> None:
        """Exercise the whole position."""

    async def do_not_exercise(self, account: A_contra, symbol: str) -> None:
        """Let the position expire without exercise."""

    def activities(self, account: A_contra) -> Sequence[ActivityRow]:
        """All rows in the order of booking; new rows are only appended."""

    async def announcements(self, query: Mapping[str, str]) -> list[Json]:
        """The corporate actions that match the query of GET /v2/corporate_actions/announcements."""


class StreamAccounts(Protocol):
    """The accounts of trade updates, and the rules of their sessions."""

    @property
    def binary_frames(self) -> bool:
        """Whether JSON is sent in binary frames, as by Alpaca's paper service."""

    @property
    def dead_session_s(self) -> float:
        """How long the session of a client that vanished without a close frame is held."""

    def now_ns(self) -> int:
        """The time of the server, in ns UTC."""

    def number(self, key: str, secret: str) -> str | None:
        """The account number of these credentials, None if they are wrong."""

    def numbers(self) -> Iterable[str]:
        """The numbers of all accounts."""
