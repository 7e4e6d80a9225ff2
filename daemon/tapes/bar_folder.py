"""A folder of bars: Parquet by symbol, bar length and month, an index beside them, and what companies did to shares.

    1min/SPY/index.json               what there is of SPY, with the SHA-256 of each file
    1min/SPY/2024-03-5f0c2a917b3e.parquet
    1d/SPY/2024-9d41….parquet         bars of days by year
    actions/SPY.json                  splits and dividends, by ex-date

Prices are as they were traded. A file's name ends with the beginning of its digest and its bytes never change; what
replaces it has another name, and the next command that writes removes it. So who began to read goes on with what it
was. This module reads; `training.data.folder` writes.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet

from daemon.tapes.files import PRICES, TapeError

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]
T = TypeVar("T", bound=msgspec.Struct)

BAR_LENGTHS = {"1min": 60, "5min": 300, "15min": 900, "1h": 3_600, "1d": 86_400}
_UNITS = {"s": 1, "m": 60, "t": 60, "min": 60, "minute": 60, "h": 3_600, "hour": 3_600, "d": 86_400, "day": 86_400}


def bar_length(text: str) -> str:
    """Return the folder's name of a bar length in any notation: `5m`, `5Min` and `300s` are 5min.

    Raises ValueError for a length that no folder has.
    """
    words = re.fullmatch(r"(\d{1,6})([a-z]+?)s?", text.lower(), re.ASCII)
    seconds = int(words[1]) * _UNITS.get(words[2], 0) if words is not None else 0
    length_name = next((name for name, length in BAR_LENGTHS.items() if length == seconds), None)
    if length_name is None:
        raise ValueError(
            f"{text!r} is no length of bars in a folder: expected one of {', '.join(BAR_LENGTHS)}; a strategy of any "
            "other length up to an hour reads 1min bars, of which its own are made"
        )
    return length_name


"""Length of a bar -> seconds."""
DAYS = "1d"
SPLIT, DIVIDEND, SPIN_OFF = ACTION_KINDS = ("split", "dividend", "spin_off")
INDEX = "index.json"
ACTIONS = "actions"
UNKNOWN = "unknown"  # source of bars of unknown origin
_VERSION = 1
_CURE = "rltrader data remove takes it away, rltrader data add fetches it anew"


class Part(msgspec.Struct, frozen=True):
    """One month of bars (of days: one year). Dates are New York's, in order."""

    file: str  # file name; "" if the source has no bar in these sessions
    sha256: str  # of the file's bytes
    content: str  # SHA-256 of its bars: longer bars made of these are checked against it
    rows: int
    sessions: tuple[str, ...]  # with a bar
    empty: tuple[str, ...]  # without a bar at the source
    fetched: str  # UTC, download time of the newest bars
    made_of: str = ""  # for bars made of minutes: the digest of their contents


class Series(msgspec.Struct, frozen=True):
    """The bars of one symbol in one length."""

    symbol: str
    bars: str  # a key of `BAR_LENGTHS`
    feed: str  # sip, iex, or the name given by a file's owner
    source: str  # origin of the bars; contains `UNKNOWN` if some have none
    synthetic: str  # the label of synthetic bars, "" of recorded ones
    parts: dict[str, Part]  # by month, YYYY-MM (of days: by year, YYYY), in order

    @property
    def sessions(self) -> tuple[str, ...]:
        """New York dates with a bar, in order."""
        return tuple(date for part in self.parts.values() for date in part.sessions)

    @property
    def empty(self) -> frozenset[str]:
        """New York dates without a bar at the source."""
        return frozenset(date for part in self.parts.values() for date in part.empty)


class Action(msgspec.Struct, frozen=True, order=True):
    """A corporate action on a symbol; it applies from the open of `ex_date` (New York) on."""

    ex_date: str
    kind: str  # one of `ACTION_KINDS`
    value: float  # for a split the new shares for each old one, else USD a share; 0 if unknown


class Actions(msgspec.Struct, frozen=True):
    """What is known of a symbol's splits, dividends and spin-offs from `first` to `last`, New York dates, both
    included. There is none but these."""

    symbol: str
    first: str
    last: str
    source: str
    fetched: str  # UTC
    actions: tuple[Action, ...]  # in order


def default_folder() -> Path:
    """Return the folder of the user's bars: `$XDG_DATA_HOME/rltrader/bars`, or under `~/.local/share`."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "rltrader" / "bars"


def period_of(date: str, bars: str) -> str:
    """Return the key of the part that holds a date: its month, of daily bars its year."""
    return date[:4] if bars == DAYS else date[:7]


def encode_index(value: msgspec.Struct) -> bytes:
    """Encode an index, sealed with its own digest."""
    body = msgspec.json.encode(value)
    seal = {"version": _VERSION, "sha256": hashlib.sha256(body).hexdigest(), "body": msgspec.Raw(body)}
    return msgspec.json.format(msgspec.json.encode(seal), indent=1) + b"\n"


class _SealedIndex(msgspec.Struct):
    version: int
    sha256: str
    body: dict[str, Any]


def _read_index(path: Path, kind: type[T]) -> T | None:
    """Read an index; None if there is none. Raises TapeError for one that is damaged or was edited."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TapeError(f"{path}: it cannot be read ({error.strerror}): let this user read it") from error
    try:
        sealed_index = msgspec.json.decode(data, type=_SealedIndex)
        if sealed_index.version != _VERSION:
            raise TapeError(f"{path}: version {sealed_index.version}, expected {_VERSION}: another release made it")
        body = msgspec.convert(sealed_index.body, kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise TapeError(f"{path}: it is no index of bars ({error}): {_CURE}") from error
    if hashlib.sha256(msgspec.json.encode(body)).hexdigest() != sealed_index.sha256:
        raise TapeError(f"{path}: its digest is not that of its content, so somebody edited it: {_CURE}")
    return body


def series_of(folder: Path, bars: str, symbol: str) -> Series | None:
    """Return a symbol's bars of one length, or None. Raises TapeError."""
    return _read_index(folder / bars / symbol / INDEX, Series)


def actions_of(folder: Path, symbol: str) -> Actions | None:
    """Return a symbol's known splits and dividends, or None. Raises TapeError."""
    return _read_index(folder / ACTIONS / f"{symbol}.json", Actions)


def all_series(folder: Path) -> Iterator[Series]:
    """Yield all series of a folder, by length and then by symbol. Raises TapeError."""
    for bars in BAR_LENGTHS:
        for path in sorted((folder / bars).glob(f"*/{INDEX}")):
            series = series_of(folder, bars, path.parent.name)
            if series is not None:
                yield series


def read_part(folder: Path, series: Series, part: Part) -> tuple[Int64Array, Float64Array]:
    """Return a part's starts (n,) in nanoseconds UTC, ascending, and open, high, low, close, volume (5, n).

    Raises TapeError if the file is not the one of the index.
    """
    if not part.file:
        return np.empty(0, np.int64), np.empty((len(PRICES), 0))
    path = folder / series.bars / series.symbol / part.file
    dates = f"--from {min(part.sessions + part.empty)} --to {max(part.sessions + part.empty)}"
    cure = f"rltrader data add {series.symbol} --bars {series.bars} {dates} --again --data-dir {folder} replaces it"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TapeError(f"{path}: {error.strerror}; the index names it: {cure}") from error
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise TapeError(f"{path}: its SHA-256 is not that of the index, so the file was edited or damaged: {cure}")
    try:
        with pa.parquet.ParquetFile(pa.BufferReader(data)) as file:
            table = file.read(use_threads=False)
        starts = table.column("timestamp").cast(pa.int64()).to_numpy()
        return starts, np.stack([table.column(name).to_numpy() for name in PRICES])
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise TapeError(f"{path}: it is no file of bars ({error}): {cure}") from error


def content_digest(starts: Int64Array, prices: Float64Array) -> str:
    """Return the SHA-256 of bars, independent of their file."""
    return hashlib.sha256(_bytes(starts, prices)).hexdigest()


def _bytes(starts: Int64Array, prices: Float64Array) -> bytes:
    return starts.astype("<i8").tobytes() + np.ascontiguousarray(prices, dtype="<f8").tobytes()


def made_of(minutes: Mapping[str, Part], period: str) -> str:
    """Return the digest of a month's or year's minutes, from which longer bars are made."""
    contents = [part.content for month, part in minutes.items() if month.startswith(period)]
    return hashlib.sha256("".join(contents).encode()).hexdigest()
