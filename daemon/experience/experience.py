"""The record that leaves the journal for the trainer: one decision, what was done, and what followed.

It holds the ingredients of a reward and no reward. Any change of a field's meaning is a new `SCHEMA`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import msgspec

SCHEMA = 1
FIELDS = (b"schema", b"after", b"experience")


class ForeignEntry(ValueError):
    """A stream's entry that is no experience of this schema."""


class Prices(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One bar of a symbol: USD a share, and shares traded. `start_ns` labels the bar's start."""

    start_ns: int
    open: float
    high: float
    low: float
    close: float
    volume: float


class Holding(msgspec.Struct, frozen=True, gc=False):
    """One symbol at the decision and at what followed.

    `flow` is the cash that its fills brought between the two (bought: negative), fees taken off.
    """

    symbol: str
    bar: Prices  # the bar that the decision saw
    next_bar: Prices  # the newest bar at what followed
    shares: int
    next_shares: int
    mark: float  # USD, the price by which the book counted it
    next_mark: float
    flow: float  # USD
    fees: float  # USD, part of the flow

    @property
    def gain(self) -> float:
        """The change of its value and the cash that its fills brought, after costs, USD."""
        return self.next_shares * self.next_mark - self.shares * self.mark + self.flow


class Chosen(msgspec.Struct, frozen=True, gc=False):
    """The behaviour at one row of the policy's batch: indices into the spec's actions.

    `probabilities` are those by which the action was drawn, after the gates' mask.
    """

    action: int
    greedy: int
    probabilities: tuple[float, ...]


class Experience(msgspec.Struct, frozen=True, gc=False):
    """One decision and what followed: the next question of the session, or the session's end (`terminal`).

    `state` and `next_state` are the policy's observations: float32, little endian, of `shape`; `next_state` is empty
    where `terminal`. `row` is the journal's row that completed it.
    """

    row: int
    decision: int
    session: str  # New York date
    bar_ns: int  # start of the decision's bar
    bars: int  # bars from the decision to what followed: 1, more where bars were missing
    model: str
    outcome: str  # of the decision: ordered, hold, denied; failed and expired are a hold without an answer
    shape: tuple[int, ...]
    state: bytes
    next_state: bytes
    terminal: bool
    chosen: tuple[Chosen, ...]  # one for each row of the batch
    holdings: tuple[Holding, ...]  # one for each of the spec's symbols
    equity: float  # USD, at the decision
    next_equity: float
    transfers: float  # USD that came or left between without a trade: no reward


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Experience)


def to_entry(experience: Experience, after: int) -> dict[bytes, bytes]:
    """Return the fields of a stream's entry; `after` is the row of the entry before it, 0 for the first."""
    return dict(zip(FIELDS, (b"%d" % SCHEMA, b"%d" % after, _encoder.encode(experience)), strict=True))


def of_entry(row: int, fields: Mapping[bytes, bytes]) -> tuple[Experience, int]:
    """Return the experience of the entry `<row>-0`, and the row of the entry before it. Raises ForeignEntry."""
    schema, after = fields.get(FIELDS[0], b""), fields.get(FIELDS[1], b"")
    if schema != b"%d" % SCHEMA:
        raise ForeignEntry(f"schema {schema.decode(errors='replace')[:20]!r}, expected '{SCHEMA}'")
    if not (after.isdigit() and int(after) < row):
        raise ForeignEntry(f"after {after.decode(errors='replace')[:20]!r}, expected a row below {row}")
    try:
        experience = _decoder.decode(fields.get(FIELDS[2], b""))
    except msgspec.DecodeError as error:
        raise ForeignEntry(f"no experience: {error}") from None
    if experience.row != row:
        raise ForeignEntry(f"the experience of row {experience.row} under the id {row}-0")
    if problem := _unfit(experience):
        raise ForeignEntry(problem)
    return experience, int(after)


def _unfit(experience: Experience) -> str:
    """Return why the parts of an experience do not fit each other, "" where they do."""
    size = 4 * prod(experience.shape)
    for name, data in (("state", experience.state), ("next_state", experience.next_state)):
        expected = 0 if experience.terminal and name == "next_state" else size
        if len(data) != expected:
            return f"{name} has {len(data)} bytes, expected {expected}"
    if not experience.chosen:
        return "no choice"
    for chosen in experience.chosen:
        if not (0 <= chosen.action < len(chosen.probabilities) and 0 <= chosen.greedy < len(chosen.probabilities)):
            return f"action {chosen.action} or {chosen.greedy} of {len(chosen.probabilities)}"
    return ""
