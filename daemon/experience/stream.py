"""Names and rows of a desk's stream of experience; reading them needs no Redis."""

from __future__ import annotations


def stream_name(desk: str, epoch: str) -> str:
    """Return the stream of a desk's journal: a journal of another epoch has another stream."""
    return f"rltrader:{desk}:{epoch}:experience"


def row_of(identifier: bytes) -> int:
    """Return the journal's row of an entry's id."""
    return int(identifier.partition(b"-")[0])
