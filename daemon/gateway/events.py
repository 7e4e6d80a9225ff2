"""The events in a gateway's journal, and the effects of stepping them.

Quantities and money are exact decimals, USD; times are nanoseconds UTC. Rows are Alpaca's JSON as it came.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec

from daemon.alpaca_api.wire import Json

MAIN = "main"
"""The sub-account of everything else: a person's holdings and orders, deposits, the account before the gateway."""


class GatewayEvent(msgspec.Struct, frozen=True, tag=True, tag_field="type"):
    """One row of the journal."""

    time_ns: int


class Opened(GatewayEvent, frozen=True):
    """The first event: the account's content, which is `main`'s, and the capital that `main` gives to each other one.

    `guards` as in `GatewayStarted`.
    """

    number: str
    account: Json
    positions: list[Json]
    orders: list[Json]
    lines: list[str]
    capital: dict[str, Decimal]
    guards: list[tuple[str, str]] = []


class OrderTaken(GatewayEvent, frozen=True):
    """An order passed all rules. It leaves once this is durable and the orders `against` it are cancelled.

    `reserve` is what an opening order reserves of the buying power, USD a share.
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
    """The broker's own call is to close `quantity`; its order bears a name of the broker's, see `OrderAnswered`.

    With `for_order` it replaces a client's order `name`, and its owner sees that name. `against` as in `OrderTaken`.
    """

    account: str
    name: str
    symbol: str
    side: str
    quantity: Decimal
    for_order: bool = False
    against: tuple[str, ...] = ()


class OrderAnswered(GatewayEvent, frozen=True):
    """The broker accepted the order `name`; `row` is its order object."""

    name: str
    row: Json


class OrderRefused(GatewayEvent, frozen=True):
    """The broker definitely refused the order `name`; or it was never sent."""

    name: str
    status: int
    code: int | None
    message: str
    extra: Json


class OrderUnanswered(GatewayEvent, frozen=True):
    """No usable answer: the order `name` may exist or not, and is looked up."""

    name: str


class Missing(GatewayEvent, frozen=True):
    """The broker has no order `name`, after several look-ups."""

    name: str


class Updated(GatewayEvent, frozen=True):
    """The `data` of one message of the stream of trade updates."""

    update: Json


class Reported(GatewayEvent, frozen=True):
    """The account as read from `asked_ns` on: its figures, positions, and the orders and ledger lines that are new.

    By line id: `ex_dates` has a dividend's announced ex-date, `ratios` the announced "new/old" of a split or merger (""
    if unknown), `spun` the announced possible parents of a spin-off as (symbol, ex-date, "new/old"). `gone`: ids of
    working orders that the broker does not know. `closed`: today's session is over by the broker's clock, which is
    asked when a contract that expires today is no longer there.
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
    """All fill lines of one order, read after a bust or a correction of a fill."""

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
    """A person gave a sub-account an unexplained difference: `change` of `what`, a symbol at `price` USD, or cash."""

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
    """The broker accepted that a sub-account's contract `symbol` is not to be exercised."""

    account: str
    symbol: str


class ExerciseAsked(GatewayEvent, frozen=True):
    """A sub-account has its contract `symbol` exercised, and keeps cash or shares for it; not `on`: it was refused."""

    account: str
    symbol: str
    on: bool


class Halted(GatewayEvent, frozen=True):
    """No new risk in any sub-account until `Resumed`, or to the end of `until_date` ("": no end by itself)."""

    reason: str
    detail: str
    by: str
    until_date: str = ""


class EntriesEnded(GatewayEvent, frozen=True):
    """Purchases that rest from before a start and would be denied now are cancelled: name -> why."""

    ended: dict[str, str]


class RowsLeftOut(GatewayEvent, frozen=True):
    """A start left out these rows of the journal. The books are complete up to the report of `since_ns`.

    Reports bring later orders and lines again. Transfers, fences and chosen lapses in those rows are lost: no new risk
    in any sub-account until `Resumed`.
    """

    rows: list[str]
    since_ns: int


class Resumed(GatewayEvent, frozen=True):
    """A person allows new risk again."""

    by: str
    why: str


class GatewayStarted(GatewayEvent, frozen=True):
    """A process started on this journal, with this code.

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
    | ExerciseAsked
    | Halted
    | EntriesEnded
    | RowsLeftOut
    | Resumed
    | GatewayStarted
)


# --- effects of a step ------------------------------------------------------------------------------------------------


class GatewayEffect(msgspec.Struct, frozen=True, tag=True, tag_field="type"):
    """An action outside the books, done once the event is durable."""


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
    """Send an update to the sub-account's clients."""

    account: str
    update: Json


class Warn(GatewayEffect, frozen=True):
    """Raise the alarm `name`."""

    name: str
    detail: str


AnyGatewayEffect = SendOrder | CancelSibling | ReadFills | PassOn | Warn
