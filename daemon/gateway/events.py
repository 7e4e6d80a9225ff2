"""What happens to a gateway: the events of its journal, and what a step of one makes it do.

Quantities and money are exact decimals, USD; times are nanoseconds UTC. Rows are Alpaca's JSON as it came.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec

from daemon.alpaca_api.wire import Json

MAIN = "main"
"""The sub-account of what no other owns: a person's holdings and orders, deposits, what was there before."""


class GatewayEvent(msgspec.Struct, frozen=True, tag=True, tag_field="type"):
    """One row of the journal."""

    time_ns: int


class Opened(GatewayEvent, frozen=True):
    """The first event: what the account holds, which is `main`'s, and the capital that `main` gives to each other.

    `guards` is as of `GatewayStarted`.
    """

    number: str
    account: Json
    positions: list[Json]
    orders: list[Json]
    lines: list[str]
    capital: dict[str, Decimal]
    guards: list[tuple[str, str]] = []


class OrderTaken(GatewayEvent, frozen=True):
    """An order passed all rules. It leaves when this is durable, and the cancels of the orders `against` it are done.

    `reserve` is what an opening order keeps from the buying power, USD a share.
    """

    account: str
    name: str
    body: Json
    reserve: Decimal
    against: tuple[str, ...] = ()


class ReplaceTaken(GatewayEvent, frozen=True):
    """A working order is to be replaced by one named `name` with `changes`, for its unfilled rest."""

    account: str
    name: str
    replaced: str
    changes: Json
    reserve: Decimal
    against: tuple[str, ...] = ()


class CloseTaken(GatewayEvent, frozen=True):
    """The broker's own call is to close `quantity`; its order bears the broker's name, see `OrderAnswered`.

    With `for_order` it takes the place of a client's order `name`, which keeps that name towards its owner. `against`
    is as of `OrderTaken`.
    """

    account: str
    name: str
    symbol: str
    side: str
    quantity: Decimal
    for_order: bool = False
    against: tuple[str, ...] = ()


class OrderAnswered(GatewayEvent, frozen=True):
    """The broker took the order `name`; `row` is its own."""

    name: str
    row: Json


class OrderRefused(GatewayEvent, frozen=True):
    """The broker refused the order `name`, without doubt; or it never left."""

    name: str
    status: int
    code: int | None
    message: str
    extra: Json


class OrderUnanswered(GatewayEvent, frozen=True):
    """No usable answer: the order `name` may be there or not, and is looked up."""

    name: str


class Missing(GatewayEvent, frozen=True):
    """The broker knows no order `name`, asked several times."""

    name: str


class Updated(GatewayEvent, frozen=True):
    """The `data` of one message of the stream of trade updates."""

    update: Json


class Reported(GatewayEvent, frozen=True):
    """The account as read from `asked_ns` on: its figures, positions, orders, and the ledger's lines that are news.

    `ex_dates` has the announced ex-date of a dividend's line by its id, `ratios` the announced "new/old" of a line of a
    split or merger; "" where none is known. `spun` has who may have spun off a line's shares by its id: symbol, ex-date
    and "new/old" of each one announced. `gone` are ids of working orders that the broker no longer knows. `closed`: by
    the broker's clock today's session is over; asked where a contract of today is no longer there.
    """

    asked_ns: int
    account: Json
    positions: list[Json]
    orders: list[Json]
    lines: list[Json]
    ex_dates: dict[str, str] = {}
    gone: list[str] = []
    ratios: dict[str, str] = {}
    closed: bool = False
    spun: dict[str, list[tuple[str, str, str]]] = {}


class FillsRead(GatewayEvent, frozen=True):
    """All lines of fills of one order, after a bust or a correction of one of them."""

    order_id: str
    lines: list[Json]


class Transferred(GatewayEvent, frozen=True):
    """A person moved cash, or `quantity` of a symbol at its average price, from one sub-account to another."""

    source: str
    target: str
    cash: Decimal
    symbol: str
    quantity: Decimal
    by: str
    why: str


class DifferenceAccepted(GatewayEvent, frozen=True):
    """A person gave a sub-account what no line explains: `change` of `what`, a symbol at `price` USD, or cash."""

    account: str
    what: str
    change: Decimal
    price: Decimal
    by: str
    why: str


class Suspended(GatewayEvent, frozen=True):
    """A sub-account's fence: it takes no new orders while `on`."""

    account: str
    on: bool


class LapseChosen(GatewayEvent, frozen=True):
    """The broker took a sub-account's word that its contract `symbol` is not to be exercised."""

    account: str
    symbol: str


class Halted(GatewayEvent, frozen=True):
    """No new risk in any sub-account until `Resumed`; `until_date` ends it by itself, "" does not."""

    reason: str
    detail: str
    by: str
    until_date: str = ""


class RowsLeftOut(GatewayEvent, frozen=True):
    """A start left out these rows of the journal. The books are whole up to the report of `since_ns`.

    Reports read again what came later. Transfers, fences and chosen lapses in those rows are gone: no new risk in any
    sub-account until `Resumed`.
    """

    rows: list[str]
    since_ns: int


class Resumed(GatewayEvent, frozen=True):
    """A person allows new risk again."""

    by: str
    why: str


class GatewayStarted(GatewayEvent, frozen=True):
    """A process began to run on this journal, with this code.

    `guards` are the prefixes of guards' order names, each with its sub-account, until the next start.
    """

    code: str
    guards: list[tuple[str, str]] = []


AnyGatewayEvent = (
    Opened
    | OrderTaken
    | ReplaceTaken
    | CloseTaken
    | OrderAnswered
    | OrderRefused
    | OrderUnanswered
    | Missing
    | Updated
    | Reported
    | FillsRead
    | Transferred
    | DifferenceAccepted
    | Suspended
    | LapseChosen
    | Halted
    | RowsLeftOut
    | Resumed
    | GatewayStarted
)


# --- what a step makes the gateway do ---------------------------------------------------------------------------------


class GatewayEffect(msgspec.Struct, frozen=True, tag=True, tag_field="type"):
    """Something for the world outside, done once the event is durable."""


class SendOrder(GatewayEffect, frozen=True):
    """Send the order `name` to the broker; `how` is post, replace or close."""

    name: str
    how: str


class CancelSibling(GatewayEffect, frozen=True):
    """Cancel the order `name`: an entry in the way of another sub-account's exit, or a sale of more than is held."""

    name: str


class ReadFills(GatewayEffect, frozen=True):
    """Read all lines of one order's fills: one was busted or corrected."""

    order_id: str


class PassOn(GatewayEffect, frozen=True):
    """Pass an update on to the sub-account's listeners."""

    account: str
    update: Json


class Warn(GatewayEffect, frozen=True):
    """A person should know."""

    name: str
    detail: str


AnyGatewayEffect = SendOrder | CancelSibling | ReadFills | PassOn | Warn
