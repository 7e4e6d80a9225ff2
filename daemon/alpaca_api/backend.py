"""What the servers of Alpaca's protocols ask of whoever keeps the accounts.

The type variable is what stands for one account there. All methods of `TradingBackend` may raise `Refusal`; what REST
answers is their JSON, unchanged. Coroutines may wait for a broker behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Protocol, TypeVar

from daemon.alpaca_api.books import ActivityRow
from daemon.alpaca_api.wire import Json

A_contra = TypeVar("A_contra", contravariant=True)


class ShownOrder(Protocol):
    """An order as REST shows it: what the filters of a list look at, and the whole object."""

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
    """What reads of orders and positions see."""

    def orders(self, account: A_contra, *, only_open: bool) -> Iterable[ShownOrder]:
        """The account's orders; with `only_open` those at least that may still fill."""

    def order(self, account: A_contra, order_id: str) -> ShownOrder | None:
        """The order of this id, None where the account has none."""

    def order_of_name(self, account: A_contra, client_order_id: str) -> ShownOrder | None:
        """The order of this client order id, None where the account has none."""

    def positions(self, account: A_contra) -> Mapping[str, Json]:
        """The positions as REST shows them, by symbol."""

    def position(self, account: A_contra, symbol: str) -> Json | None:
        """One position as REST shows it, None where there is none."""


class TradingBackend(AccountReads[A_contra], Protocol[A_contra]):
    """All that trading REST needs."""

    def now_ns(self) -> int:
        """The time of the server, in ns UTC."""

    def account(self, account: A_contra) -> Json:
        """The account object."""

    def configuration(self, account: A_contra) -> Json:
        """The account's configuration."""

    async def configure(self, account: A_contra, changes: Json) -> Json:
        """Change the configuration; returns the whole of it."""

    def symbol(self, account: A_contra, name: str) -> str:
        """The symbol that a path names, by itself or by the asset id of a position; `name` where neither is known."""

    async def submit(self, account: A_contra, body: Json) -> Json:
        """Take a new order; returns it as it was accepted."""

    async def replace(self, account: A_contra, order_id: str, changes: Json) -> Json:
        """Replace an order that `order` has; returns the new one."""

    async def cancel(self, account: A_contra, order_id: str) -> None:
        """Ask for the cancellation of an order that `order` has."""

    async def cancel_all(self, account: A_contra) -> list[Json]:
        """Ask for the cancellation of all open orders: a row of id and status for each."""

    async def close(self, account: A_contra, symbol: str, quantity: Decimal | None, percent: Decimal | None) -> Json:
        """A market order against the position, whole or in part; returns it. Raises 404 where there is none."""

    async def close_all(self, account: A_contra, *, cancel_orders: bool) -> list[Json]:
        """Close all positions: a row of symbol, status and body for each."""

    async def exercise(self, account: A_contra, symbol: str) -> None:
        """Exercise the whole position."""

    async def do_not_exercise(self, account: A_contra, symbol: str) -> None:
        """Let the position lapse at its expiry."""

    def activities(self, account: A_contra) -> Sequence[ActivityRow]:
        """All rows in the order in which they were booked; rows are added at the end alone."""

    async def announcements(self, query: Mapping[str, str]) -> list[Json]:
        """The corporate actions that the query of GET /v2/corporate_actions/announcements names."""


class StreamAccounts(Protocol):
    """The accounts that may listen to trade updates, and how their sessions are held."""

    @property
    def binary_frames(self) -> bool:
        """Whether JSON goes out in binary frames, as paper has it."""

    @property
    def dead_session_s(self) -> float:
        """How long a session is held whose client vanished without a close frame."""

    def now_ns(self) -> int:
        """The time of the server, in ns UTC."""

    def number(self, key: str, secret: str) -> str | None:
        """The account number of these credentials, None for wrong ones."""

    def numbers(self) -> Iterable[str]:
        """The numbers of all accounts."""
