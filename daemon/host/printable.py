"""Foreign text as one safe line for a terminal: control characters become visible escapes.

For text from a model store, a broker or another process. Invariant: the result is printable and of bounded length.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

MOST = 2000  # characters


def printable(text: str, most: int = MOST) -> str:
    """Return at most `most` characters of the text; unprintable ones (str.isprintable) as Python escapes."""
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:most])
    return text if len(text) <= most else f"{text[: most - 1]}…"


def printable_lines(text: str) -> str:
    """Return the text with its line breaks, each line whole and printable."""
    return "\n".join(printable(line, 10 * len(line)) for line in text.split("\n"))


@contextlib.contextmanager
def result_of(subject: str) -> Iterator[None]:
    """Print the result of something done: a full disk or a closed pipe does not turn it into a failure."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            sys.stderr.write(f"{subject} is done; what came of it cannot be printed: {error.strerror}\n")
