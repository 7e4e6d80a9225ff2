"""The card of a version: what its trainer found out about it before it may climb the ladder.

Written by the trainer as `card.json` in the version's folder; the manifest holds its digest like that of every other
file, so a card that was changed is refused with its version. Read by the daemon, which judges it.
"""

from __future__ import annotations

import msgspec

CARD_FILE = "card.json"
FORMAT = 1
STAKES = (0.1, 0.2, 0.4, 0.8)
"""Stakes that bet against the sessions of a canary (docs/LADDER.md)."""
DEVIATIONS_MOST = 4.0  # that one session counts, so that no single one decides


class Lead(msgspec.Struct, frozen=True, kw_only=True):
    """The challenger's lead over its parent by one estimator: an episode's value, with its 95 % interval."""

    estimate: float
    low: float
    high: float


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Origin and off-policy figures of a version. `cannot_be_said` is the reason for having no `leads`, else ""."""

    format: int
    version: str
    parent: str  # the champion that it was trained from and compared with
    trainer: str  # digest of the trainer's code
    stream: str  # name of the stream of experience, "" where it saw none
    first_row: int = 0  # of the stream's rows that it was trained on
    last_row: int = 0
    decisions: int  # of the log that the figures are about
    sessions: int
    exploration: float
    overlap: float
    effective: float  # episodes that remain after weighting
    leads: dict[str, Lead] = {}  # by estimator: wis, dr, fqe
    cannot_be_said: str = ""
    session_mean: float  # expected return of a session at the full size, as a part of the equity
    session_deviation: float
    band: tuple[float, ...]  # of each stake b: log of the mean of exp(-b z) over those sessions, z in deviations


def encode(card: Card) -> bytes:
    """Return the card as indented JSON with a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(card), indent=1) + b"\n"


def decode(data: bytes) -> Card:
    """Decode a card. Raises `msgspec.ValidationError` or `msgspec.DecodeError` naming the wrong field."""
    return msgspec.json.decode(data, type=Card)
