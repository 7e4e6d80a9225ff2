"""Messages of the data streams as bytes: JSON or msgpack, an array a frame, spoilt where the script has it.

Each message is encoded once for each codec; when it is sent, and to whom, is not decided here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from simulator.data.fields import rfc3339
from simulator.faults import NESTED
from strategies.kit.units import SECOND_NS

if TYPE_CHECKING:
    from simulator.data.session import Session

CHANNEL_OF = {"t": "trades", "q": "quotes", "b": "bars", "u": "updatedBars", "d": "dailyBars", "s": "statuses"}
CHANNEL_OF |= {"l": "lulds", "c": "corrections", "x": "cancelErrors"}
OVERSIZE = 1_100_000  # bytes, above the 1 MiB that alpaca-py takes

Fields = dict[str, Any]


class Message:
    """One data message: type, symbol, time and fields. `packed` and `text` are made once, when first needed."""

    __slots__ = ("_packed", "_text", "channel", "fields", "symbol", "time_ns")

    def __init__(self, kind: str, symbol: str, time_ns: int, fields: Mapping[str, Any]) -> None:
        self.channel = CHANNEL_OF.get(kind, "")
        self.symbol = symbol
        self.time_ns = time_ns
        self.fields: Fields = {"T": kind, "S": symbol, **fields}
        self._packed = b""
        self._text = b""

    @property
    def packed(self) -> bytes:
        """The message in msgpack, `t` a Timestamp extension with nanoseconds."""
        self._packed = self._packed or msgspec.msgpack.encode({**self.fields, "t": timestamp(self.time_ns)})
        return self._packed

    @property
    def text(self) -> bytes:
        """The message in JSON, `t` an RFC 3339 text."""
        self._text = self._text or msgspec.json.encode({**self.fields, "t": rfc3339(self.time_ns)})
        return self._text

    def renamed(self, symbol: str) -> Message:
        """The same message of another symbol."""
        return Message(self.fields["T"], symbol, self.time_ns, {k: v for k, v in self.fields.items() if k not in "TS"})


def timestamp(time_ns: int) -> msgspec.msgpack.Ext:
    """The msgpack Timestamp of a time after 1970: 32, 64 or 96 bits, as the msgpack specification has it."""
    seconds, fraction = divmod(time_ns, SECOND_NS)
    if seconds >> 34:
        return msgspec.msgpack.Ext(-1, fraction.to_bytes(4, "big") + seconds.to_bytes(8, "big"))
    if fraction or seconds >> 32:
        return msgspec.msgpack.Ext(-1, (fraction << 34 | seconds).to_bytes(8, "big"))
    return msgspec.msgpack.Ext(-1, seconds.to_bytes(4, "big"))


def frame(messages: list[bytes], *, msgpack: bool) -> bytes:
    """An array of encoded messages."""
    if not msgpack:
        return b"[" + b",".join(messages) + b"]"
    count = len(messages)
    header = bytes([0x90 | count]) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return header + b"".join(messages)


def spoilt(session: Session, messages: list[Message]) -> Iterator[bytes]:
    """The frames that go out for one frame of messages under the script of faults."""
    first = messages[0]
    about = {"message": first.fields["T"], "symbol": first.symbol}
    if fault := session.take("malformed_json", **about):
        broken = b"\xc1\xff" if session.msgpack else b'[{"T":"q","S":'
        yield NESTED if fault.get("nested", False) else broken
        return
    if session.take("data_null", **about):
        yield frame([b"\xc0" if session.msgpack else b"null"], msgpack=session.msgpack)
        return
    rows = [dict(message.fields) for message in messages]
    if fault := session.take("unknown_event", **about):
        strange = {**rows[0], "T": "zz"}
        rows = [strange, *rows] if fault.get("extra", False) else [strange, *rows[1:]]
        messages = [first, *messages] if fault.get("extra", False) else messages
    if fault := session.take("unknown_enum", **about):
        rows[0][str(fault.get("field", "z"))] = "of tomorrow"
    if session.take("unknown_field", **about):
        rows[0]["field_of_tomorrow"] = {"value": [1, None]}
    as_text = not session.msgpack or session.take("string_time", **about) is not None
    encode = msgspec.msgpack.encode if session.msgpack else msgspec.json.encode
    data = [
        encode({**row, "t": rfc3339(message.time_ns) if as_text else timestamp(message.time_ns)})
        for row, message in zip(rows, messages, strict=True)
    ]
    whole = frame(data, msgpack=session.msgpack)
    if session.take("oversize_frame", **about):
        whole = frame(data[:1] * (OVERSIZE // len(data[0]) + 1), msgpack=session.msgpack)
    yield whole
    if session.take("frame_duplicated", **about):
        yield whole
