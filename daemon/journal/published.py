"""Compare published heads of the hash chain with the journal as it is.

A head is published in the daemon's log (`chain_head`), in the day's report (`chain`), or as `ROW:HEAD`. Write access to
the file is enough to forge a whole journal with matching hashes; but its head at a published row differs. A signed head
is a line in a file that the journal's writer cannot write, with an Ed25519 signature.
"""

from __future__ import annotations

import os
import re
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec

from daemon.host.ed25519 import is_signature, signature_of
from daemon.host.own_files import open_own, open_own_folder
from daemon.journal.reader import JournalReader, reading
from daemon.journal.rows import JournalError, base_of

SIGNED_MODE = 0o644  # the desk's user may read it, but not write

_PATTERNS = (
    re.compile(r'"row":\s*(?P<row>\d+),\s*"head":\s*"(?P<head>[0-9a-f]{64})"'),
    re.compile(r'"head":\s*"(?P<head>[0-9a-f]{64})",\s*"row":\s*(?P<row>\d+)'),
    re.compile(r"\brow=(?P<row>\d+)\b.*?\bhead=(?P<head>[0-9a-f]{64})\b"),
    re.compile(r"\bhead=(?P<head>[0-9a-f]{64})\b.*?\brow=(?P<row>\d+)\b"),
    re.compile(r"\b(?P<row>\d+):(?P<head>[0-9a-f]{64})\b"),
)


class HeadComparison(NamedTuple):
    """Numbers of published heads found in this file and in the journal's other files, and the first missing one."""

    agree: int
    elsewhere: int
    difference: str


def heads_in(text: str) -> list[tuple[int, str]]:
    """Return (event row, head) of every head in a log, a report or a list, in their order.

    A journal agrees with a published head where its own at that row is the same:

    >>> from daemon import journal
    >>> with journal.open("state") as book:
    ...     log = f"chain_head row=100 head={book.head(100)}"  # a line of the desk's log, kept elsewhere
    ...     [book.head(row) == head for row, head in journal.heads_in(log)]
    [True]
    """
    matches = [(match.start(), match) for pattern in _PATTERNS for match in pattern.finditer(text)]
    return [(int(match["row"]), match["head"]) for _, match in sorted(matches, key=lambda place: place[0])]


class SignedHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of a file of signed heads."""

    row: int
    head: str
    signature: str  # base64

    def is_by(self, public_key: str) -> bool:
        """Return whether this key signed it. Raises ValueError for an invalid key."""
        return is_signature(_signed_text(self.row, self.head), self.signature.encode(), public_key)


def _signed_text(row: int, head: str) -> bytes:
    """Return the signed text; no manifest has this form."""
    return f"rltrader chain head {row}:{head}\n".encode()


def sign_head(row: int, head: str, key_file: Path, to: Path) -> str:
    """Append the signed head to the file `to`, durable; return the public key in base64.

    Raises KeyProblem; OSError where the file or its folder is not this user's own, or cannot be written.
    """
    signature, public_key = signature_of(_signed_text(row, head), key_file)
    folder = open_own_folder(to.parent)
    try:
        descriptor = open_own(folder, to.name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    finally:
        os.close(folder)
    try:
        os.fchmod(descriptor, SIGNED_MODE)
        _append_whole(descriptor, msgspec.json.encode(SignedHead(row, head, signature)) + b"\n")
    finally:
        os.close(descriptor)
    return public_key


def _append_whole(descriptor: int, line: bytes) -> None:
    """Append the line completely and durably, or not at all: a part written on a full disk is no signed head."""
    size_before = os.fstat(descriptor).st_size
    try:
        while line:
            line = line[os.write(descriptor, line) :]
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size_before)
        raise


def check_signed(file: str, public_key_file: Path) -> None:
    """Check that the key in `public_key_file` signed every line of `file`. Raises JournalError."""
    try:
        match = re.search(r"[A-Za-z0-9+/]{43}=", public_key_file.read_text(errors="replace"))
        lines = Path(file).read_text(errors="replace").splitlines()
    except OSError as error:
        raise JournalError(
            f"{error.filename}: cannot be read: {error.strerror}; --public-key needs two files"
        ) from error
    if match is None:
        raise JournalError(f"{public_key_file}: no public key stands there; expected 32 bytes in base64")
    for number, line in enumerate(lines, 1):
        try:
            good = msgspec.json.decode(line, type=SignedHead).is_by(match[0])
        except ValueError:  # not a signed head; msgspec's own errors are ValueErrors
            good = False
        if not good:
            raise JournalError(f"{file}: line {number} is no head signed by {match[0]}: take the file that root signs")


def compare(journal: Path, heads_or_file: str, *, newest: bool = True) -> HeadComparison:
    """Compare the journal's file with `ROW:HEAD`, or with every head in the file `heads_or_file`.

    If other files follow (not the `newest`), heads may lie beyond its end. Raises JournalError for a file without a
    head, or that cannot be read.
    """
    heads = heads_in(heads_or_file)
    if not heads:
        try:
            heads = heads_in(Path(heads_or_file).read_text(errors="replace"))
        except OSError as error:
            raise JournalError(f"{heads_or_file}: no ROW:HEAD, and no file to read: {error.strerror}") from error
    if not heads:
        raise JournalError(
            f"{heads_or_file}: no head stands there; expected the log's chain_head, a day's report, or ROW:HEAD"
        )
    with closing(JournalReader(journal)) as reader, reading(journal):
        return _compare(reader, heads, newest=newest)


def _compare(reader: JournalReader, heads: list[tuple[int, str]], *, newest: bool) -> HeadComparison:
    base, last = base_of(reader.meta()), reader.last_entry()
    first, end = base.row if base is not None else 0, last.id if last is not None else 0
    agree = in_other_files = 0
    for row, head in heads:
        if row < first or (row > end and not newest):
            in_other_files += 1
        elif row > end:
            return HeadComparison(agree, in_other_files, f"row {row} was published, and the journal ends at row {end}")
        elif reader.chain_head(row).hex() != head:
            return HeadComparison(
                agree, in_other_files, f"at row {row} the head {head} was published, the journal has another"
            )
        else:
            agree += 1
    return HeadComparison(agree, in_other_files, "")
