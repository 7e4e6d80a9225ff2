"""The file of `train-and-export calibrate`: spreads and volatilities estimated from recorded quotes.

JSON with a digest of its own content, so a changed file is refused. Numbers are medians over sessions of each session's
median, so neither one bad quote nor one bad day moves them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from daemon.host.whole_files import write_whole
from daemon.tapes.files import TapeError

VERSION = 2


class Estimate(msgspec.Struct, frozen=True):
    """A median over sessions, with the quartiles over sessions, and what it rests on."""

    median: float
    low: float
    high: float
    sessions: int
    rows: int


class SpreadCell(msgspec.Struct, frozen=True):
    """Half-spreads of one cell: trading days to the expiry, distance of the strike, part of the session."""

    days: str
    moneyness: str
    part: str
    share: Estimate  # of the mid
    usd: Estimate
    assumed: Estimate  # share that the default constants of `[paper]` give for the same mids


class TermCell(msgspec.Struct, frozen=True):
    """Volatilities of one range of trading days to the expiry. `premium` is null without closes."""

    days: str
    implied: Estimate  # annualised, at the money
    skew: Estimate | None  # change of the volatility for each 1.0 of ln(strike / forward)
    premium: Estimate | None  # implied over realised


class Fitted(msgspec.Struct, frozen=True):
    """Values for the keys of `[paper]`; null where the quotes do not say."""

    half_spread: float | None
    half_spread_min_usd: float | None
    volatility_premium: float | None


class Calibration(msgspec.Struct, frozen=True):
    """The whole file. `digest` is the SHA-256 of the file with an empty digest."""

    version: int
    quotes: str  # the file's name
    quotes_sha256: str
    roots: tuple[str, ...]  # OCC roots of its contracts
    closes: str  # the file of closes, "" for none
    interval: str
    synthetic: str
    first_date: str
    last_date: str
    sessions: int
    rows: int  # that were usable
    fitted: Fitted
    spreads: tuple[SpreadCell, ...]
    terms: tuple[TermCell, ...]
    digest: str = ""

    @property
    def about(self) -> str:
        """Its contracts, dates and digest, for messages."""
        return f"{', '.join(self.roots)} {self.first_date} to {self.last_date}, digest {self.digest[:8]}"


def write_calibration(path: Path, calibration: Calibration) -> Calibration:
    """Write the file whole, with its digest; return the written value. Raises OSError."""
    with_digest = msgspec.structs.replace(calibration, digest=_digest(calibration))
    write_whole(path, msgspec.json.format(msgspec.json.encode(with_digest), indent=1) + b"\n")
    return with_digest


def read_calibration(path: Path) -> Calibration:
    """Read the file. Raises TapeError if it is missing, has another version, or was changed."""
    cure = "make it with `train-and-export calibrate`"
    try:
        calibration = msgspec.json.decode(path.read_bytes(), type=Calibration)
    except OSError as error:
        raise TapeError(f"{path}: cannot be read ({error.strerror}): {cure}") from error
    except msgspec.DecodeError as error:
        raise TapeError(f"{path}: no calibration ({error}): {cure}") from error
    if calibration.version != VERSION:
        raise TapeError(f"{path}: version {calibration.version}; expected {VERSION}: {cure} of this release")
    if calibration.digest != _digest(calibration):
        raise TapeError(
            f"{path}: the content was changed after it was written (digest {calibration.digest[:8]}): {cure}"
        )
    return calibration


def _digest(calibration: Calibration) -> str:
    return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(calibration, digest=""))).hexdigest()
