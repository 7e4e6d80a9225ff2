"""What the error codes of a market-data stream mean: the end of the connection, or a refused request.

Pure: codes and texts of the documentation in, a `StreamError` out; what is done about it is the socket's.
"""

from __future__ import annotations

from typing import Any, Literal

Trouble = Literal["lost", "busy", "auth"]
AUTH_CODES = frozenset((402, 409, 411))  # wrong keys, a feed that the plan has not: a person must act
REQUEST_CODES = frozenset((400, 405, 410, 412, 413))  # refuse one subscribe; the connection goes on
SYMBOL_LIMIT = 405


class StreamError(Exception):
    """The server did not do what the protocol says; the connection is given up. `trouble` sets how long to wait."""

    def __init__(self, text: str, trouble: Trouble = "lost") -> None:
        super().__init__(text)
        self.trouble: Trouble = trouble


def refusal(message: dict[str, Any]) -> StreamError:
    """The error that ends the connection, with how long to wait before the next one."""
    code, text = code_of(message), message.get("msg")
    trouble: Trouble = "auth" if code in AUTH_CODES else "busy" if code == 406 else "lost"
    return StreamError(f"error {code}: {text}", trouble)


def code_of(message: dict[str, Any]) -> int:
    """The code of an error message; 0 where it has none."""
    code = message.get("code")
    return code if isinstance(code, int) else 0


def short(message: dict[str, Any]) -> str:
    """The first 200 characters, for a text."""
    return str(message)[:200]
