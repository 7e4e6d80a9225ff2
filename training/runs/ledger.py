"""The permanent record of all trials and openings of test sessions: `<store>/<strategy>/ledger.jsonl`.

Append-only JSON lines; nothing here deletes or rewrites one. It fails closed: a ledger that cannot be read is an error,
never a ledger without trials, because the number of trials is what a deflated Sharpe ratio is deflated by.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import math
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec

from daemon.host.whole_files import sync

LEDGER_FILE = "ledger.jsonl"
RISK_CLAIM = "states a risk:"  # prefix of the note of an opening that states a risk
AFTER_TORN = b'{"after_torn":true'
DIGEST_LENGTH = 64  # hexadecimal digits of a SHA-256


class LedgerError(Exception):
    """The ledger cannot be read or written; the text names the file, what was found and what helps."""


class LedgerLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One trial, or one opening of a span of test sessions (New York dates, both ends included).

    Raises:
        ValueError: a field does not match its comment.
    """

    after_torn: bool = False  # the line before this one was cut off by a crash; set by `append`, first in the JSON
    kind: Literal["trial", "opening"]
    utc: str  # when, ISO 8601: see `utc_now`
    strategy: str
    data_sha256: str  # of the bars file, 64 hexadecimal digits
    first: str  # test session, ISO date
    last: str
    study: str  # study or run
    sharpe: float | None = None  # of a trial alone: per session, not annualised, on the test sessions
    settings_sha256: str = ""  # of a trial alone: see `settings_digest`
    note: str = ""

    @property
    def same(self) -> tuple[str, str, str, float | None]:
        """A key that is equal for two lines on the same trial with the same result, or on the same opening."""
        return self.kind, self.study, self.note, self.sharpe

    def __post_init__(self) -> None:
        if datetime.fromisoformat(self.utc).utcoffset() != timedelta(0):
            raise ValueError(f"utc is {self.utc}; expected ISO 8601 that ends with +00:00")
        if date.fromisoformat(self.first) > date.fromisoformat(self.last):
            raise ValueError(f"a span from {self.first} to {self.last}; expected the first session before the last")
        _digest("data_sha256", self.data_sha256)
        if self.kind == "trial":
            _digest("settings_sha256", self.settings_sha256)
            if self.sharpe is None or not math.isfinite(self.sharpe):
                raise ValueError(f"a trial with Sharpe ratio {self.sharpe}; expected a finite number per session")
        elif self.sharpe is not None or self.settings_sha256:
            raise ValueError("an opening with a Sharpe ratio or settings; expected them for trials alone")


def _digest(name: str, value: str) -> None:
    if len(value) != DIGEST_LENGTH or set(value) - set("0123456789abcdef"):
        raise ValueError(f"{name} is {value!r}; expected 64 hexadecimal digits, lower case")


@dataclass(frozen=True, slots=True)
class Contents:
    """All lines in the order they were written, and the numbers (from 1) of those that a crash cut off."""

    lines: tuple[LedgerLine, ...]
    torn: tuple[int, ...]


def ledger_path(store: Path, strategy: str) -> Path:
    """Where the ledger of a strategy lies in a model store."""
    return store / strategy / LEDGER_FILE


def utc_now() -> str:
    """The time for a line, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def settings_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of the settings as JSON with sorted keys: the same settings in any order have the same digest."""
    return hashlib.sha256(msgspec.json.encode(dict(settings), order="deterministic")).hexdigest()


@dataclass(frozen=True, slots=True)
class Ledger:
    """The ledger in one file, which comes into being with the first line. Writers in other processes may join in."""

    path: Path

    def append(self, *lines: LedgerLine) -> None:
        """Add lines in one write, on disk (fsync) when this returns. A torn line before them stays, marked as such.

        Raises:
            LedgerError: they could not be written, or not whole.
        """
        if not lines:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _lock(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, fcntl.LOCK_EX) as file:
                size = os.fstat(file).st_size
                torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
                marked = (msgspec.structs.replace(lines[0], after_torn=torn), *lines[1:])
                data = b"\n" * torn + b"".join(msgspec.json.encode(line) + b"\n" for line in marked)
                written_bytes = os.write(file, data)
                os.fsync(file)
            if size == 0:
                sync(self.path.parent)
        except OSError as error:
            raise LedgerError(f"{self.path} could not be written: {error}; expected a writable file") from error
        if written_bytes != len(data):
            raise LedgerError(
                f"{self.path} took {written_bytes} of {len(data)} bytes: is the disk full? Make room and append again"
            ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def read(self) -> Contents:
        """Everything in the ledger; nothing where there is no file yet.

        Raises:
            LedgerError: the file cannot be read, or a line in it is corrupt (its number is named).
        """
        try:
            with _lock(self.path, os.O_RDONLY, fcntl.LOCK_SH) as file, os.fdopen(os.dup(file), "rb") as stream:
                data = stream.read()
        except FileNotFoundError:
            return Contents((), ())
        except OSError as error:
            raise LedgerError(f"{self.path} could not be read: {error}; expected a readable file") from error
        return self._parsed(data)

    def record(self, *lines: LedgerLine) -> None:
        """Append the lines that are not here yet (by `same`): a resumed or repeated run is counted once.

        Raises `LedgerError` as `read` and `append` do.
        """
        recorded = {line.same for line in self.read().lines}
        self.append(*(line for line in lines if line.same not in recorded))

    def prior(
        self, test_dates: Collection[str], *, own_lines: Collection[LedgerLine] = ()
    ) -> tuple[tuple[float, ...], int]:
        """Session Sharpe ratios of other trials that count, and the number of openings of any of these test dates.

        A trial counts if it saw any session from the first test date on, later sessions included: whoever has seen
        those chose the tested span with knowledge of them. The bars file does not matter: a file with one more day is
        the same data. A line that is the `same` as one of `own_lines` does not count. Raises `LedgerError` as `read`
        does.
        """
        ours = {line.same for line in own_lines}
        lines = [line for line in self._since(test_dates) if line.same not in ours]
        sharpes = tuple(line.sharpe for line in lines if line.sharpe is not None)
        return sharpes, sum(
            line.kind == "opening" and any(line.first <= day <= line.last for day in test_dates) for line in lines
        )

    def trials(self, test_dates: Collection[str]) -> int:
        """The number of distinct trials that saw a session from the first test date on.

        Raises `LedgerError` as `read` does.
        """
        return len({line.same for line in self._since(test_dates) if line.kind == "trial"})

    def claims(self, test_dates: Collection[str], *, own_lines: Collection[LedgerLine] = ()) -> int:
        """The number of risks stated on spans that reach beyond the first test date, without those of `own_lines`.

        Raises `LedgerError` as `read` does.
        """
        ours = {line.same for line in own_lines}
        lines = self._since(test_dates)
        return len({line.same for line in lines if line.note.startswith(RISK_CLAIM) and line.same not in ours})

    def _since(self, test_dates: Collection[str]) -> list[LedgerLine]:
        """Return the lines about a session from the first of these dates on. Raises `LedgerError` as `read` does."""
        first = min(test_dates, default=None)
        return [] if first is None else [line for line in self.read().lines if line.last >= first]

    def _parsed(self, data: bytes) -> Contents:
        """Parse all lines. A broken line counts as torn if it is the last one, or if the next line marks it as torn."""
        *texts, unfinished = data.split(b"\n")
        if unfinished:
            texts.append(unfinished)
        lines: list[LedgerLine] = []
        torn: list[int] = []
        for number, text in enumerate(texts, start=1):
            try:
                lines.append(msgspec.json.decode(text, type=LedgerLine))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                is_last = number == len(texts)
                if not (unfinished if is_last else texts[number].startswith(AFTER_TORN)):
                    raise self._corrupt(number, error) from error
                torn.append(number)
        return Contents(tuple(lines), tuple(torn))

    def _corrupt(self, number: int, error: Exception) -> LedgerError:
        return LedgerError(
            f"line {number} of {self.path} is corrupt: {error}; expected one trial or opening as JSON. Restore the "
            "file from a copy or correct that line by hand; without it the number of trials is unknown"
        )


@contextmanager
def _lock(path: Path, flags: int, lock: int) -> Iterator[int]:
    """The descriptor of the file under an advisory lock, which ends with it."""
    file = os.open(path, flags | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(file, lock)
        yield file
    finally:
        os.close(file)
