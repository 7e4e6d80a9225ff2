"""All requests of the step to the shell, in the imperative. Frozen; journaled with the event that caused them.

The shell executes effects after the event is journaled; an effect that leaves the process (an order, a cancel) waits
for durability first.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec
from msgspec import UNSET, UnsetType

from strategies.kit.contract import Observation
from strategies.kit.quantity import Quantity


class Effect(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Base of all effects."""


class AskPolicy(Effect, frozen=True, tag=True, omit_defaults=True):
    """Run the policy on `observation`. An answer, a failure or the deadline ends it, each an event.

    A `served` question goes to another process: its answer comes from outside, and nothing waits for it.
    """

    decision: int
    valid_until_ns: int
    observation: Observation  # journaled as its digest
    served: bool = False


class WatchContracts(Effect, frozen=True, tag=True):
    """Keep exactly these option contracts subscribed for quotes."""

    symbols: tuple[str, ...]


class SubmitOrder(Effect, frozen=True, tag=True):
    """Send one order, for the day unless it is a stop.

    `limit_price` None is a market order; `intent` is the core's name for it.

    The same name may be submitted again after the broker reported it as unknown: it is the same order.
    """

    client_order_id: str
    symbol: str
    side: int  # +1 buy, -1 sell
    quantity: Quantity
    limit_price: Decimal | None
    intent: str  # buy_to_open, sell_to_close, or buy_to_close for shares owed; "" for shares
    valid_until_ns: int
    auction: bool = False  # into the opening auction instead of the day
    closing: bool = False  # by the broker's own call to close `quantity`, which never sells more than is held
    stop_price: Decimal | UnsetType = UNSET  # USD; set: a stop, of shares until it is cancelled, of options for the day


class CancelOrder(Effect, frozen=True, tag=True):
    client_order_id: str


class LiftFence(Effect, frozen=True, tag=True):
    """Let the account take new orders again, which its guard had stopped: a person resumes the desk."""


class LookUpOrder(Effect, frozen=True, tag=True):
    """Look up the order of this name until the broker answers; nothing else is done with the order before.

    `order_id` is set for an order of the broker's own call, which has another name at the broker.
    """

    client_order_id: str
    order_id: str | UnsetType = UNSET


class AskBroker(Effect, frozen=True, tag=True, omit_defaults=True):
    """Request a full broker report now instead of in the next minute; `at_once` where an exit waits for it."""

    why: str
    at_once: bool = False


class RaiseAlarm(Effect, frozen=True, tag=True):
    """Notify the operator. `name` has a heading in docs/OPERATIONS.md."""

    name: str
    detail: str


AnyEffect = AskPolicy | WatchContracts | SubmitOrder | CancelOrder | LiftFence | LookUpOrder | AskBroker | RaiseAlarm
