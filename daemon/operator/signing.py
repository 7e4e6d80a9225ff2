"""Signed commands: their canonical form, their keys with what each may do, their HMAC. No network and no clock.

The signature covers the compact JSON array of the parsed fields, not the received bytes, so a message has one meaning.
A key's value is in no repr, no exception and no log.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

KEY_LEAST = 32  # bytes of a key
SCHEME = "rltrader-command-v1"
PHONE = "phone"
SCOPES = {PHONE: frozenset(("status", "pause", "resume", "halt", "close", "flatten"))}
"""Scope of a key -> the commands that it may sign; a key without a scope may sign each."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")
_Time = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class KeyRefused(ValueError):
    """Unusable keys; the text names the line and the cure, never the line's content."""


class Key:
    """A command key, of a scope of `SCOPES` or "" for every command. Only `mac` uses its value; it is not shown."""

    __slots__ = ("_value", "scope")

    def __init__(self, value: bytes, scope: str = "") -> None:
        self._value, self.scope = value, scope

    def __repr__(self) -> str:
        return "Key(hidden)"

    def may(self, command: str) -> bool:
        """Return whether the key may sign the command, which may have arguments."""
        return not self.scope or command.partition(" ")[0] in SCOPES[self.scope]

    def mac(self, message: bytes) -> str:
        """HMAC-SHA256 (RFC 2104) in hex."""
        return hmac.new(self._value, message, hashlib.sha256).hexdigest()


class SignedCommand(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A command for one desk. Times are nanoseconds since 1970 UTC of the sender's clock, `nonce` and `mac` hex."""

    v: Literal[1]
    desk: Annotated[str, Meta(max_length=40)]
    command: Annotated[str, Meta(max_length=40)]
    reason: Annotated[str, Meta(max_length=500)]
    issued_ns: _Time
    expires_ns: _Time
    nonce: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    key: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9._-]{0,39}$")]
    mac: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


def parse_keys(text: str) -> dict[str, Key]:
    """Parse keys from `name:hex` or `name:hex:scope`, separated by lines or commas. Raises KeyRefused."""
    keys: dict[str, Key] = {}
    for place, entry in enumerate(filter(None, (part.strip() for part in re.split(r"[,\n]", text))), 1):
        name, colon, rest = (part.strip() for part in entry.partition(":"))
        digits, limit_text, scope = (part.strip() for part in rest.partition(":"))
        if not colon or not _NAME.fullmatch(name):
            raise KeyRefused(
                f"command key {place}: expected name:hex, the name of a to z, digits, . _ - and at most 40 letters: "
                f"write it so"
            )
        if limit_text and scope not in SCOPES:
            raise KeyRefused(
                f"command key {place} has a scope that there is not: expected {', '.join(SCOPES)} after its second "
                f"colon, or no second colon for a key that may do everything"
            )
        key = parse_key(digits, f"command key {place}", scope)
        if name in keys:
            raise KeyRefused(f"command key {place} has the name of an earlier one: expected each name once: rename it")
        keys[name] = key
    return keys


def parse_key(digits: str, key_name: str, scope: str = "") -> Key:
    """Return the key of hex digits. Raises KeyRefused, which calls it `key_name` and shows nothing of it."""
    try:
        value = bytes.fromhex(digits.strip())
    except ValueError:
        value = b""
    if len(value) < KEY_LEAST:
        size_text = f"{len(value)} bytes" if value else "no hex digits"
        raise KeyRefused(
            f"{key_name} has {size_text}: expected at least {KEY_LEAST} bytes as hex: "
            f"make one with `openssl rand -hex {KEY_LEAST}`"
        )
    return Key(value, scope)


def canonical(command: SignedCommand) -> bytes:
    """Return the signed bytes: a compact JSON array in UTF-8. Raises UnicodeEncodeError for half a surrogate pair."""
    fields = [
        SCHEME,
        command.desk,
        command.command,
        command.reason,
        command.issued_ns,
        command.expires_ns,
        command.nonce,
        command.key,
    ]
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


def sign_command(
    key: Key, name: str, desk: str, command: str, reason: str, issued_ns: int, lifetime_ns: int, nonce: bytes
) -> SignedCommand:
    """Return the command signed with the key of this name; `nonce` are 16 random bytes, used once."""
    blank = SignedCommand(1, desk, command, reason, issued_ns, issued_ns + lifetime_ns, nonce.hex(), name, mac="0" * 64)
    return msgspec.structs.replace(blank, mac=key.mac(canonical(blank)))


def is_genuine(command: SignedCommand, key: Key) -> bool:
    """Return whether the key made the command's mac, in constant time."""
    return hmac.compare_digest(key.mac(canonical(command)).encode(), command.mac.encode())
