"""The heartbeat of a desk for its guard on another host, and the guard's own: signed, counted, with the time.

Both travel over MQTT and as a file in a folder that both hosts see. A message is authenticated by its HMAC only,
whatever its way and the release that wrote it: the HMAC covers the message as it came. So a new field needs a default,
and a change that a default does not cover a new `v`. The desk's heartbeat contains all that a guard needs to protect
the desk, so that the guard knows no strategy and no journal.
"""

from __future__ import annotations

import contextlib
import hmac
import os
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from msgspec.structs import replace

from daemon.config.load import ConfigError, operator_secrets
from daemon.config.tables import GuardTable
from daemon.core.broker.protection import cover_of, guard_prefix
from daemon.core.draft import DeskKind, Draft
from daemon.core.orders import name_prefix
from daemon.core.state import State
from daemon.host.safe_decode import decode_with_type, json_value
from daemon.host.whole_files import write_whole
from daemon.operator.signing import KEY_LEAST, Key, KeyRefused, parse_key
from strategies.kit.quantity import Quantity, from_json, to_json
from strategies.kit.units import SECOND_NS

BYTES_MAX = 256 * 1024  # of a message; one with 500 positions has 40,000
QUANTITY_MAX = 40  # characters of a quantity
FRESH_S = 60.0  # most that a message's time may differ from the receiver's: others were delayed
FRESH_NS = round(FRESH_S) * SECOND_NS
LATELY_NS = 2 * FRESH_NS  # orders that ended earlier were in the last heartbeat, by any clock


class Held(msgspec.Struct, frozen=True, array_like=True):
    """A position: the desk's quantity, that of others, and the stop that a guard may rest, in USD; None: none."""

    quantity: Quantity
    others: Quantity
    stop: Decimal | None
    limit: Decimal | None


class _Signed(msgspec.Struct, frozen=True, kw_only=True):
    """Fields of both messages: `counter` grows by one within a `life`; times are the sender's, nanoseconds UTC."""

    v: Literal[1] = 1
    desk: str
    life: int
    counter: int
    time_ns: int
    mac: str = ""


class Heartbeat(_Signed, frozen=True, kw_only=True):
    """`heartbeat`: the desk lives.

    `names` is the prefix of its orders' names, `prefix` that of its guard's ("": an older release); `orders` are those
    that work or lately filled, with their filled quantities. `known_ns`: what others did later, `holds` does not
    include, by the desk's last report of the account; 0: an older release, or none yet. `leaving`: a person stopped the
    desk, and no message follows.
    """

    schema: Literal["heartbeat"] = "heartbeat"
    account: str
    names: str
    prefix: str = ""
    known_ns: int = 0
    leaving: bool
    holds: dict[str, Held]
    orders: dict[str, Quantity]


class GuardBeat(_Signed, frozen=True, kw_only=True):
    """`guard`: the guard of this desk lives; `state` is its finding."""

    schema: Literal["guard"] = "guard"
    state: str


Beat = TypeVar("Beat", Heartbeat, GuardBeat)


class OtherRelease(Exception):
    """A genuine message that this release cannot read; its life and counter, (0, 0) where unknown."""

    def __init__(self, message: dict[str, Any]) -> None:
        life, counter = message.get("life"), message.get("counter")
        self.life, self.counter = (life, counter) if isinstance(life, int) and isinstance(counter, int) else (0, 0)
        super().__init__(f"a message of another release (v {str(message.get('v'))[:20]!r})")


def guard_key(table: GuardTable) -> Key:
    """Return the key from the credential or variable GUARD_KEY. Raises ConfigError for none, and for a weak one."""
    text = operator_secrets().guard_key
    if text is None:
        raise ConfigError(
            f"guard.prefix is {table.prefix!r} and there is no key that signs the heartbeat: expected the credential "
            f"or environment variable GUARD_KEY, the same on both hosts: `openssl rand -hex {KEY_LEAST}` makes one"
        )
    try:
        return parse_key(text.get_secret_value(), "GUARD_KEY")
    except KeyRefused as error:
        raise ConfigError(f"{error}, the same on both hosts") from None


def heartbeat_of(
    state: State[Any], kind: DeskKind, desk: str, life: int, counter: int, time_ns: int, *, leaving: bool
) -> Heartbeat:
    """Return the unsigned heartbeat of a desk in this state."""
    draft, since_ns = Draft(state, kind), state.now_ns - LATELY_NS
    lately = [o for o in state.closed.values() if o.news_ns > since_ns and o.filled and not o.closing]
    orders = (*state.orders.values(), *lately)
    return Heartbeat(
        desk=desk,
        life=life,
        counter=counter,
        time_ns=time_ns,
        account=state.broker.account,
        names=name_prefix(state.identity.epoch, state.identity.strategy),
        prefix=guard_prefix(draft),
        known_ns=state.broker.asked_ns,
        leaving=leaving,
        holds={symbol: Held(*cover) for symbol, cover in cover_of(draft).items()},
        orders={order.client_order_id: order.filled for order in orders if order.purpose != "foreign"},
    )


def sign(beat: Beat, key: Key) -> Beat:
    """Return the message with its HMAC-SHA256, over all other fields."""
    return replace(beat, mac=key.mac(_content(beat)))


def payload_of(beat: Heartbeat | GuardBeat) -> bytes:
    """Return the message in bytes, as it is sent."""
    return _ENCODER.encode(beat)


def genuine(payload: bytes, kind: type[Beat], desk: str, key: Key) -> Beat | None:
    """Return the message of this desk, or of its guard; None for one that is not signed with the key.

    Raises OtherRelease.
    """
    message = _signed_message(payload, key)
    if message.get("desk") != desk or message.get("schema") != _SCHEMAS[kind]:
        return None
    try:
        beat: Beat = decode_with_type(_DECODERS[kind].decode, payload)
    except (ValueError, OverflowError):  # Unreadable is a ValueError
        raise OtherRelease(message) from None
    return sign(beat, key)  # re-signed in this release's form


def _signed_message(payload: bytes, key: Key) -> dict[str, Any]:
    """Return the fields of a message signed with the key, including those that this release does not know."""
    with contextlib.suppress(ValueError, OverflowError):
        message = json_value(payload) if len(payload) <= BYTES_MAX else None
        if isinstance(message, dict) and isinstance(mac := message.get("mac"), str):
            content = msgspec.json.encode({**message, "mac": ""})
            if hmac.compare_digest(key.mac(content).encode(), mac.encode()):
                return message
    return {}


def _content(beat: Heartbeat | GuardBeat) -> bytes:
    return payload_of(replace(beat, mac=""))


def _quantity(kind: Any, value: Any) -> Any:
    """Decode a quantity of an unverified message: short, and without an exponent that would take for ever."""
    if type(value) is str and (len(value) > QUANTITY_MAX or not value.isascii() or "e" in value.lower()):
        raise ValueError(f"a quantity of {len(value)} characters: expected a plain number")
    return from_json(kind, value)


# made before there are threads: see `prepare_types`
_ENCODER = msgspec.json.Encoder(enc_hook=to_json)
_DECODERS: dict[type, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind, dec_hook=_quantity) for kind in (Heartbeat, GuardBeat)
}
_SCHEMAS: dict[type, str] = {Heartbeat: "heartbeat", GuardBeat: "guard"}


# --- the folder that both hosts see -----------------------------------------------------------------------------------


def put(folder: Path, beat: Heartbeat | GuardBeat) -> None:
    """Write the message into the folder, whole, for the other host's user to read. Raises OSError."""
    write_whole(folder / f"{beat.desk}.{beat.schema}.json", payload_of(beat), exact=True)


def read_newest(folder: Path, kind: type[Beat], desk: str, key: Key) -> Beat | None:
    """Read the newest message from the folder; None without a genuine one.

    Raises OSError for a folder that is gone, and OtherRelease.
    """
    name = f"{desk}.{_SCHEMAS[kind]}.json"
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC  # a pipe in its place must not block
    try:
        with os.fdopen(os.open(folder / name, flags), "rb") as file:
            payload = file.read(BYTES_MAX + 1) or b""
    except FileNotFoundError:
        folder.stat()  # raises if the folder is gone
        return None
    return genuine(payload, kind, desk, key)
