"""Messages of the data streams as bytes: JSON or msgpack, one array per frame.

Each message is encoded once for each codec; times and receivers are decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from daemon.alpaca_api.wire import Json, stamp
from strategies.kit.units import SECOND_NS

CHANNEL_OF = {"t": "trades", "q": "quotes", "b": "bars", "u": "updatedBars", "d": "dailyBars", "s": "statuses"}
CHANNEL_OF |= {"l": "lulds", "c": "corrections", "x": "cancelErrors"}


class DataMessage:
    """One data message: type, symbol, time and fields. `packed` and `text` are encoded once, on first use."""

    __slots__ = ("_msgpack", "_text", "channel", "fields", "symbol", "time_ns")

    def __init__(self, kind: str, symbol: str, time_ns: int, fields: Mapping[str, Any]) -> None:
        self.channel = CHANNEL_OF.get(kind, "")
        self.symbol = symbol
        self.time_ns = time_ns
        self.fields: Json = {"T": kind, "S": symbol, **fields}
        self._msgpack = b""
        self._text = b""

    @property
    def packed(self) -> bytes:
        """The message in msgpack, `t` a Timestamp extension with nanoseconds."""
        self._msgpack = self._msgpack or msgspec.msgpack.encode({**self.fields, "t": timestamp(self.time_ns)})
        return self._msgpack

    @property
    def text(self) -> bytes:
        """The message in JSON, `t` an RFC 3339 text."""
        self._text = self._text or msgspec.json.encode({**self.fields, "t": stamp(self.time_ns)})
        return self._text

    def renamed(self, symbol: str) -> DataMessage:
        """The same message of another symbol."""
        return DataMessage(
            self.fields["T"], symbol, self.time_ns, {k: v for k, v in self.fields.items() if k not in "TS"}
        )


def timestamp(time_ns: int) -> msgspec.msgpack.Ext:
    """Return the msgpack Timestamp of a time after 1970: 32, 64 or 96 bits, as the msgpack specification defines."""
    seconds, fraction = divmod(time_ns, SECOND_NS)
    if seconds >> 34:
        return msgspec.msgpack.Ext(-1, fraction.to_bytes(4, "big") + seconds.to_bytes(8, "big"))
    if fraction or seconds >> 32:
        return msgspec.msgpack.Ext(-1, (fraction << 34 | seconds).to_bytes(8, "big"))
    return msgspec.msgpack.Ext(-1, seconds.to_bytes(4, "big"))


def frame(messages: list[bytes], *, msgpack: bool) -> bytes:
    """Return an array of encoded messages."""
    if not msgpack:
        return b"[" + b",".join(messages) + b"]"
    count = len(messages)
    if count < 16:
        header = bytes([0x90 | count])
    else:
        header = b"\xdc" + count.to_bytes(2, "big") if count < 1 << 16 else b"\xdd" + count.to_bytes(4, "big")
    return header + b"".join(messages)
