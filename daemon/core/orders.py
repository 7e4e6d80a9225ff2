"""The life of an order, as one table. Quantities are set from cumulative figures, never added.

`LIFE` maps (status, what happened) to the next status; a pair that is not in it changes nothing (late, duplicate or
reordered news). Invariant: a terminal status is left only by a fill that the broker reports late.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from strategies.kit.quantity import Quantity

SUBMITTED = "submitted"  # in this process: it waits in the queue, or for the broker's answer
UNKNOWN = "unknown"  # the broker did not answer in time: counts as exposure until looked up
ACCEPTED = "accepted"
PARTIAL = "partially_filled"
CANCELING = "pending_cancel"
FILLED = "filled"
CANCELED = "canceled"
REJECTED = "rejected"
EXPIRED = "expired"

TERMINAL = frozenset({FILLED, CANCELED, REJECTED, EXPIRED})

LIFE: dict[tuple[str, str], str] = {
    (SUBMITTED, "accepted"): ACCEPTED,
    (SUBMITTED, "rejected"): REJECTED,
    (SUBMITTED, "canceled"): CANCELED,
    (SUBMITTED, "expired"): EXPIRED,
    (SUBMITTED, "unknown"): UNKNOWN,
    (SUBMITTED, "cancel_requested"): CANCELING,
    (SUBMITTED, "partial"): PARTIAL,
    (SUBMITTED, "filled"): FILLED,
    (SUBMITTED, "missing"): UNKNOWN,
    (CANCELING, "missing"): UNKNOWN,
    (CANCELING, "unknown"): UNKNOWN,
    (UNKNOWN, "sent_again"): SUBMITTED,
    (UNKNOWN, "accepted"): ACCEPTED,
    (UNKNOWN, "rejected"): REJECTED,
    (UNKNOWN, "canceled"): CANCELED,
    (UNKNOWN, "expired"): EXPIRED,
    (UNKNOWN, "partial"): PARTIAL,
    (UNKNOWN, "filled"): FILLED,
    (ACCEPTED, "rejected"): REJECTED,
    (ACCEPTED, "canceled"): CANCELED,
    (ACCEPTED, "expired"): EXPIRED,
    (ACCEPTED, "cancel_requested"): CANCELING,
    (ACCEPTED, "partial"): PARTIAL,
    (ACCEPTED, "filled"): FILLED,
    (PARTIAL, "rejected"): REJECTED,
    (PARTIAL, "canceled"): CANCELED,
    (PARTIAL, "expired"): EXPIRED,
    (PARTIAL, "cancel_requested"): CANCELING,
    (PARTIAL, "partial"): PARTIAL,
    (PARTIAL, "filled"): FILLED,
    (UNKNOWN, "pending_cancel"): CANCELING,
    (SUBMITTED, "pending_cancel"): CANCELING,
    (ACCEPTED, "pending_cancel"): CANCELING,
    (PARTIAL, "pending_cancel"): CANCELING,
    (CANCELING, "canceled"): CANCELED,
    (CANCELING, "expired"): EXPIRED,
    (CANCELING, "rejected"): REJECTED,
    (CANCELING, "cancel_rejected"): ACCEPTED,
    (CANCELING, "partial"): CANCELING,
    (CANCELING, "filled"): FILLED,
    # a fill overrides the former status
    (CANCELED, "filled"): FILLED,
    (CANCELED, "partial"): CANCELED,
    (EXPIRED, "filled"): FILLED,
    (EXPIRED, "partial"): EXPIRED,
    (REJECTED, "filled"): FILLED,
    (REJECTED, "partial"): REJECTED,
}


BROKER_STATUS: dict[str, str] = {
    "new": "accepted",
    "accepted": "accepted",
    "pending_new": "accepted",
    "accepted_for_bidding": "accepted",
    "pending_review": "accepted",
    "held": "accepted",
    "stopped": "accepted",
    "suspended": "accepted",
    "calculated": "accepted",
    "partially_filled": "accepted",
    "done_for_day": "accepted",
    "pending_replace": "accepted",
    "pending_cancel": "pending_cancel",
    "filled": "filled",
    "canceled": "canceled",
    "replaced": "canceled",
    "expired": "expired",
    "rejected": "rejected",
}
"""Status of a `BrokerOrder` -> key of `LIFE`. A broker's adapter maps its own to these; they are journaled. An unknown
one changes figures, but no status.

`suspended` and `calculated` may still fill, and `done_for_day` on a later day; a day order's own end follows it.
`replaced` ends this order, its successor is an order that is not ours.
"""


ENDED = frozenset(word for word, news in BROKER_STATUS.items() if news not in ("accepted", "pending_cancel"))
"""Final statuses of a broker's order."""
FENCE = "trade_suspended_by_user"
"""A reason in reports why the account may not trade: a setting of the account refuses new orders."""


SIDES = {1: "buy", -1: "sell"}


def in_words(side: int, quantity: Quantity | Decimal, symbol: str) -> str:
    """Return an order as a person reads it, such as `sell 7 SPY241204C00459000`."""
    return f"{SIDES.get(side, side)} {quantity} {symbol}"


class Order(msgspec.Struct, frozen=True, gc=False):
    """One order of ours. `cost` is the sum of price x quantity filled, in USD a share times contracts."""

    client_order_id: str
    work: str  # the work it serves: decision.leg
    purpose: str  # entry, exit or protection
    reason: str  # policy, or the rule that requested it
    symbol: str
    side: int
    quantity: Quantity
    limit_price: Decimal | None
    status: str
    submitted_ns: int
    filled: Quantity = 0
    cost: Decimal = Decimal(0)
    fees: Decimal = Decimal(0)
    correction: int = 0
    cancel_asked_ns: int = 0  # when its cancel was last requested
    valid_until_ns: int = 0  # it is not sent, first or again, after this
    order_id: str = ""  # the broker's own id, "" while unknown
    executions: tuple[Quantity, ...] = ()  # cumulative quantities of the executions so far, of this correction
    corrected_by: tuple[str, ...] = ()  # execution ids of the corrections
    news_ns: int = 0  # when its status last changed
    looked_up_ns: int = 0  # when it was last looked up
    missing_ns: int = 0  # when the broker last reported it as unknown; 0 once it was sent again
    auction: bool = False  # sent into the opening auction
    cancel_since_ns: int = 0  # when its cancel was first requested
    closing: bool = False  # sent by the broker's own call to close a position, under another name
    replaced: tuple[tuple[Quantity, Decimal], ...] = ()  # totals that busts and corrections replaced: quantity, cost
    stop_price: Decimal | UnsetType = UNSET  # USD; set: a stop, which rests until the price reaches it

    @property
    def working(self) -> bool:
        """True while the broker may still fill it."""
        return self.status not in TERMINAL

    @property
    def known(self) -> bool:
        """Return True when the broker has shown the order, so that it is never sent again."""
        return bool(self.order_id or self.filled) or self.status in (ACCEPTED, PARTIAL)

    @property
    def in_hand(self) -> bool:
        """Return True while this process sends it: it waits in the queue, or for the broker's answer."""
        return self.status == SUBMITTED or (self.status == CANCELING and not self.known)

    @property
    def absent(self) -> bool:
        """Return True for an order that the broker reported as unknown: it counts as exposure and blocks no exit."""
        return self.status == UNKNOWN and self.missing_ns > 0

    @property
    def remaining(self) -> Quantity:
        """Return the contracts that may still fill; 0 once terminal."""
        if not self.working:
            return 0
        return self.quantity - self.filled if self.filled else self.quantity


class Work(msgspec.Struct, frozen=True, gc=False):
    """An entry or exit with its goal, reached by attempts (orders, one at a time) as its rules allow.

    `goal` is the quantity to hold in the end. `order_id` is the newest attempt's, empty before the first.
    """

    key: str  # decision.leg
    decision: int
    purpose: str
    reason: str
    symbol: str
    goal: Quantity
    attempt: int
    order_id: str
    started_ns: int
    limit_bound: Decimal | None  # an entry never pays more than this
    auction: bool = False  # its first attempt went into the opening auction
    report_ns: int = 0  # when its next attempt requested a report to wait for; 0: no request


class OrderName(NamedTuple):
    """The parts of a desk's order name: `stem` is its `name_prefix` without the last hyphen."""

    stem: str
    decision: int
    leg: int
    attempt: int


_NAME = re.compile(r"(.+)-([0-9]{1,12})-([0-9]{1,12})-([0-9]{1,12})")
_STEM = re.compile(r"[0-9a-f]{10}-\w*[g-z_]\w*")  # an epoch, and a strategy with a character that no UUID has


def client_order_id(epoch: str, strategy: str, decision: int, leg: int, attempt: int) -> str:
    """Return the order's name at the broker, unique for ever: at most 128 characters of [A-Za-z0-9_-]."""
    return f"{name_prefix(epoch, strategy)}{decision}-{leg}-{attempt}"


def name_prefix(epoch: str, strategy: str) -> str:
    """Return the prefix of all order names of a journal's desk, and of no others."""
    return f"{epoch}-{strategy}-"


def parse_name(client_order_id: str) -> OrderName | None:
    """Return the parts of an order's name, as `client_order_id` joins them; None for a name not made by a desk."""
    match = _NAME.fullmatch(client_order_id)
    return None if match is None else OrderName(match[1], int(match[2]), int(match[3]), int(match[4]))


def guard_stem(prefix: str, symbol: str) -> str:
    """Return the beginning of the names of stops that a guard with this prefix rests below a symbol."""
    return f"{prefix}-{symbol.replace('.', '_')}-"


def is_desks(client_order_id: str) -> bool:
    """Return whether only a desk gives such a name: UUIDs, and words that end with a date, are not a desk's."""
    name = parse_name(client_order_id)
    return name is not None and _STEM.fullmatch(name.stem) is not None


def advance(order: Order, news: str) -> Order:
    """Return the order after `news` (a word in the keys of `LIFE`); unchanged when the table does not know the pair."""
    status = LIFE.get((order.status, news))
    if status is None or status == order.status:
        return order
    return msgspec.structs.replace(order, status=status)
