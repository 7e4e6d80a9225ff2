"""Foreign text as one line that a terminal shows and does not obey: control characters become visible escapes.

For what a model store, a broker or another process wrote. Invariant: the result is printable and no longer than asked.
"""

from __future__ import annotations

MOST = 2000  # letters


def printable(text: str, most: int = MOST) -> str:
    """At most `most` letters of the text; what is not printable (str.isprintable) as Python would write it."""
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:most])
    return text if len(text) <= most else f"{text[: most - 1]}…"
