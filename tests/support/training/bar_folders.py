"""Folders of bars for tests: files to take in, commands to run, spans to read back."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from daemon.tapes.bars import digest_of_bars, open_bars
from daemon.tapes.spans import Span
from strategies.kit.contract import Bar
from tests.support.training.recorded_alpaca import KEYS, Passing
from training.cli.data import main
from training.data.alpaca_bars import PacingClock


def bars_file(path: Path, bars: Iterable[Bar]) -> Path:
    """Write bars as CSV, in the order given; times as integers."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["symbol", "timestamp", "open", "high", "low", "close", "volume"])
        for bar in bars:
            writer.writerow(
                [bar.symbol, bar.start_ns, *map(repr, (bar.open, bar.high, bar.low, bar.close, bar.volume))]
            )
    return path


def data(folder: Path, *words: object, clock: PacingClock | None = None) -> int:
    """Run `rltrader data` on a folder; returns the exit code."""
    return main([*map(str, words), "--data-dir", str(folder)], clock or Passing().clock)


def span(
    folder: Path, first: str, last: str, symbols: str = "SPY", bars: str = "1min", adjustment: str = "raw"
) -> Path:
    return Span(folder, tuple(symbols.split(",")), bars, adjustment, first, last).path


def read(path: Path) -> list[Bar]:
    """All bars behind a path, in the order in which they are read."""
    return [
        Bar(rows.names[code], start, *prices)
        for rows in open_bars(path, ("SPY",)).batches()
        for code, start, prices in zip(rows.codes.tolist(), rows.start_ns.tolist(), rows.prices.T.tolist(), strict=True)
    ]


def digest(path: Path) -> str:
    return digest_of_bars(path)


def keys_of_environment(url: str) -> dict[str, str]:
    """The environment of a command that fetches from a server on this machine."""
    return {
        "APCA_API_KEY_ID": KEYS.key,
        "APCA_API_SECRET_KEY": KEYS.secret,
        "RLTRADER_ALPACA__DATA_URL": url,
    }
