"""The record that leaves the journal for the trainer: one decision, its action and its outcome.

It holds the ingredients of a reward, not the reward. Any change of a field's meaning needs a new `SCHEMA`.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping
from math import isfinite, prod

import msgspec

from daemon.host.safe_decode import Unreadable, decode_with_type
from strategies.kit.quantity import Quantity, from_json, to_json

SCHEMA = 1
FIELDS = (b"schema", b"after", b"experience")
HASH = b"hash"  # field of an entry: hash of its row, unique to the journal's past
ROW_DIGITS = 19  # of a row number
NUMBER_MOST = 2**63  # of a decision's number
STATE_MOST = 1e9  # of a number in an observation
PRICE_LEAST, PRICE_MOST = 1e-4, 1e7  # USD a share
SHARES_MOST = 10**9
EQUITY_LEAST, USD_MOST = 1.0, 1e12
GAIN_MOST = 10.0  # x equity: most gain of one symbol; also most value held, and most fees
TIME_MOST_NS = 4_102_444_800_000_000_000  # 2100
SYMBOL = re.compile(r"[A-Z][A-Z0-9]*([./-][A-Z0-9]+)?")
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+ -]{0,99}")
OUTCOMES = frozenset(("ordered", "hold", "denied", "failed", "expired", "exit"))


class ForeignEntry(ValueError):
    """A stream's entry is no experience of this schema."""


class Prices(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One bar of a symbol: USD a share, and shares traded. `start_ns` labels the bar's start."""

    start_ns: int
    open: float
    high: float
    low: float
    close: float
    volume: float


class SymbolTransition(msgspec.Struct, frozen=True, gc=False):
    """One symbol at the decision and at the next one, or the session's end.

    `flow` is the cash from its fills between the two (negative for purchases), less fees. Shares transferred without a
    trade count as bought or sold at their value.
    """

    symbol: str
    bar: Prices  # the bar that the decision saw
    next_bar: Prices  # the newest bar at the end of the transition
    shares: Quantity
    next_shares: Quantity
    mark: float  # USD, the price at which the book valued it
    next_mark: float
    flow: float  # USD
    fees: float  # USD, part of the flow

    @property
    def gain(self) -> float:
        """Change of its value plus the cash from its fills, after costs, USD."""
        return float(self.next_shares) * self.next_mark - float(self.shares) * self.mark + self.flow


class ActionChoice(msgspec.Struct, frozen=True, gc=False):
    """The behaviour for one row of the policy's batch: indices into the spec's actions.

    `probabilities` are those of the draw, after the gates' mask.
    """

    action: int
    greedy: int
    probabilities: tuple[float, ...]


class Experience(msgspec.Struct, frozen=True, gc=False):
    """One decision and its outcome: the session's next question, or the session's end (`terminal`).

    `state` and `next_state` are the policy's observations: float32, little endian, of `shape`; `next_state` is empty if
    `terminal`. `row` is the journal's row that completed it.
    """

    row: int
    decision: int
    session: str  # New York date
    bar_ns: int  # start of the decision's bar
    bars: int  # bars from the decision to the next: 1, more if bars were missing
    model: str
    outcome: str  # of the decision: ordered, hold, denied; failed and expired are a hold without an answer
    shape: tuple[int, ...]
    state: bytes
    next_state: bytes
    terminal: bool
    chosen: tuple[ActionChoice, ...]  # one for each row of the batch
    holdings: tuple[SymbolTransition, ...]  # one for each of the spec's symbols
    equity: float  # USD, at the decision
    next_equity: float
    transfers: float  # USD transferred meanwhile without a trade: no reward


_encoder = msgspec.msgpack.Encoder(enc_hook=to_json)
_decoder = msgspec.msgpack.Decoder(Experience, dec_hook=from_json)


def to_entry(experience: Experience, after_id: int, row_hash: bytes = b"") -> dict[bytes, bytes]:
    """Return the fields of a stream's entry; `after_id` is the previous entry's row, 0 for the first.

    `row_hash` is the hash of the journal's row, b"" to leave it out, as earlier releases did.
    """
    entry = dict(zip(FIELDS, (b"%d" % SCHEMA, b"%d" % after_id, _encoder.encode(experience)), strict=True))
    return entry | ({HASH: row_hash} if row_hash else {})


def of_entry(row: int, fields: Mapping[bytes, bytes]) -> tuple[Experience, int]:
    """Return the experience of the entry `<row>-0`, and the previous entry's row. Raises ForeignEntry."""
    schema, after_id = fields.get(FIELDS[0], b""), fields.get(FIELDS[1], b"")
    if schema != b"%d" % SCHEMA:
        raise ForeignEntry(f"schema {schema.decode(errors='replace')[:20]!r}, expected '{SCHEMA}'")
    if not (after_id.isdigit() and len(after_id) <= ROW_DIGITS and int(after_id) < row):
        raise ForeignEntry(f"after {after_id.decode(errors='replace')[:20]!r}, expected a row below {row}")
    try:
        experience = decode_with_type(_decoder.decode, fields.get(FIELDS[2], b""))
    except Unreadable as error:
        raise ForeignEntry(f"no experience: {str(error)[:200]}") from None
    if experience.row != row:
        raise ForeignEntry(f"the experience of row {experience.row} under the id {row}-0")
    if problem := _unfit(experience):
        raise ForeignEntry(problem)
    return experience, int(after_id)


def _unfit(experience: Experience) -> str:
    """Return why the parts of an experience are inconsistent, "" if they are not."""
    if not experience.shape or min(experience.shape) < 1 or prod(experience.shape) > 2**24:
        return f"the shape {experience.shape[:4]}"
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
    return next(_implausible(experience), "")


def _implausible(experience: Experience) -> Iterator[str]:
    """Yield each figure that no desk can have had: other writers to the stream may be wrong or hostile."""
    for name in ("state", "next_state"):
        numbers = array("f", getattr(experience, name))
        if not all(abs(number) <= STATE_MOST for number in numbers):  # False for NaN
            yield f"{name} has a number above {STATE_MOST:g}, or one that is none"
    for chosen in experience.chosen:
        if not all(0.0 <= one <= 1.0 for one in chosen.probabilities) or abs(sum(chosen.probabilities) - 1.0) > 1e-3:
            yield "probabilities outside of 0 to 1, or with another sum"
        elif chosen.probabilities[chosen.action] == 0.0:
            yield f"action {chosen.action}, which its probabilities never draw"
    decision, bars = experience.decision, experience.bars
    if not (0 < decision < NUMBER_MOST and 0 <= bars < 10**6 and 0 <= experience.bar_ns < TIME_MOST_NS):
        yield f"decision {experience.decision}, {experience.bars} bars, bar {experience.bar_ns}"
    if not WORD.fullmatch(experience.session) or experience.outcome not in OUTCOMES:
        yield "session or outcome"
    if experience.model and (not WORD.fullmatch(experience.model) or ".." in experience.model):
        yield "the name of the model"
    if not EQUITY_LEAST <= experience.equity <= USD_MOST:
        yield f"equity {experience.equity}"
    if not all(abs(usd) <= USD_MOST for usd in (experience.next_equity, experience.transfers)):
        yield f"next equity {experience.next_equity}, transfers {experience.transfers}"
    if not experience.holdings or len(experience.chosen) not in (1, len(experience.holdings)):
        yield f"{len(experience.holdings)} holdings for {len(experience.chosen)} choices"
    for holding in experience.holdings:
        yield from _implausible_holding(holding, experience.equity)


def _implausible_holding(holding: SymbolTransition, equity: float) -> Iterator[str]:
    if not SYMBOL.fullmatch(holding.symbol) or len(holding.symbol) > 20:
        yield "a symbol's name"
        return
    for bar in (holding.bar, holding.next_bar):
        prices = (bar.open, bar.high, bar.low, bar.close)
        if not all(PRICE_LEAST <= price <= PRICE_MOST for price in prices) or not 0.0 <= bar.volume <= USD_MOST:
            yield f"{holding.symbol}: a bar of {prices}, volume {bar.volume}"
        elif bar.low > bar.high or not 0 <= bar.start_ns < TIME_MOST_NS:
            yield f"{holding.symbol}: a bar of {bar.start_ns} from {bar.low} to {bar.high}"
    if not all(PRICE_LEAST <= mark <= PRICE_MOST for mark in (holding.mark, holding.next_mark)):
        yield f"{holding.symbol}: marks {holding.mark} and {holding.next_mark}"
    if max(abs(holding.shares), abs(holding.next_shares)) > SHARES_MOST:
        yield f"{holding.symbol}: {holding.shares} and {holding.next_shares} shares"
    elif not (isfinite(holding.flow) and isfinite(holding.fees) and abs(holding.gain) <= GAIN_MOST * equity):
        yield f"{holding.symbol}: a flow of {holding.flow} USD, fees of {holding.fees}: a gain beyond the equity"
    else:
        value_held = max(abs(float(holding.shares)) * holding.mark, abs(float(holding.next_shares)) * holding.next_mark)
        if max(value_held, abs(holding.fees)) > GAIN_MOST * equity:
            yield f"{holding.symbol}: {value_held} USD held, fees of {holding.fees}, beyond the equity"


def stream_name(desk: str, epoch: str) -> str:
    """Return the stream of a desk's journal: a journal of another epoch has another stream."""
    return f"rltrader:{desk}:{epoch}:experience"


def row_of(identifier: bytes) -> int:
    """Return the journal's row of an entry's id."""
    return int(identifier.partition(b"-")[0])
