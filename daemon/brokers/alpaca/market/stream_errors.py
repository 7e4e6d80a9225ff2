"""Error codes of a market-data stream: the end of the connection, or a refused request.

Pure: documented codes and texts in, a `StreamError` out; the socket acts on it.
"""

from __future__ import annotations

from typing import Any, Literal

Trouble = Literal["lost", "busy", "auth"]
AUTH_CODES = frozenset((402, 409, 411))  # wrong keys, or a feed outside of the plan: a person must act
REQUEST_CODES = frozenset((400, 405, 410, 412, 413))  # refuse one subscribe; the connection goes on
SYMBOL_LIMIT = 405


class StreamError(Exception):
    """The server broke the protocol; the connection is dropped. `trouble` sets the wait."""

    def __init__(self, text: str, trouble: Trouble = "lost") -> None:
        super().__init__(text)
        self.trouble: Trouble = trouble


def refusal(message: dict[str, Any]) -> StreamError:
    """Return the error that ends the connection, with the wait before the next one."""
    code, text = code_of(message), message.get("msg")
    trouble: Trouble = "auth" if code in AUTH_CODES else "busy" if code == 406 else "lost"
    return StreamError(f"error {code}: {text}", trouble)


def code_of(message: dict[str, Any]) -> int:
    """Return the code of an error message; 0 without one."""
    code = message.get("code")
    return code if isinstance(code, int) else 0


def short(message: dict[str, Any]) -> str:
    """Return the first 200 characters as text."""
    return str(message)[:200]
