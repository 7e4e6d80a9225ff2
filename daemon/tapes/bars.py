"""Bars from any source: open a file of bars or a span of a folder in one way."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from daemon.tapes.files import TapeFile, digest_of, origin_of_file
from daemon.tapes.spans import SpanBars, is_span

AnyBars = TapeFile | SpanBars


def open_bars(path: Path, symbols: tuple[str, ...], *, adjust: bool = False) -> AnyBars:
    """Open a file of bars, or the span that the path names.

    `symbols` names the symbol of a file without a symbol column, if it is only one; `adjust` multiplies a file's prices
    by its adj_close / close. Raises TapeError, and CalendarError for a span with unknown dates.
    """
    return SpanBars(path) if is_span(path) else TapeFile(path, symbols, adjust=adjust)


def digest_of_bars(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, or of a span's bars. Raises OSError, and as `open_bars`."""
    return SpanBars(path).digest() if is_span(path) else digest_of(path)


def origin_of(*paths: Path) -> str:
    """Return the sources that the files name, each once; "" if one of them names none."""
    origins = [SpanBars(path).source if is_span(path) else origin_of_file(path) for path in paths]
    return ", ".join(dict.fromkeys(origins)) if all(origins) else ""


def last_closes(path: Path, symbols: tuple[str, ...], *, adjust: bool = False) -> dict[str, float]:
    """Return the close in USD of each symbol's latest row; symbols without one are absent.

    Reads all bars. Raises TapeError as a reader does.
    """
    newest: dict[str, tuple[int, float]] = {}
    for rows in open_bars(path, symbols, adjust=adjust).batches():
        for code, name in enumerate(rows.names):
            places = np.flatnonzero((rows.codes == code) & (rows.prices[3] > 0) & (rows.prices[3] < np.inf))
            if name in symbols and places.size:
                last = places[np.argmax(rows.start_ns[places])]
                row = int(rows.start_ns[last]), float(rows.prices[3, last])
                newest[name] = max(newest.get(name, row), row)
    return {name: close for name, (_, close) in newest.items()}
