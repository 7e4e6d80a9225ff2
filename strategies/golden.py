"""The golden tape and the contract hash: how a model proves that it means what this code means.

Reads only the tape committed beside this file. Invariant: the hash is taken over declared words and numbers, never
over source code, so it changes exactly when the meaning of an observation or of an answer changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path

import msgspec

from strategies.contract import Bar, Observation, Session, Spec, Strategy, View
from strategies.features import BAR_NS
from strategies.registry import declaration

GOLDEN_SEED = 20240703
GOLDEN_SESSIONS = (
    Session("2024-07-02", 1719927000_000000000, 1719950400_000000000),
    Session("2024-07-03", 1720013400_000000000, 1720026000_000000000),  # a half day
    Session("2024-07-05", 1720186200_000000000, 1720209600_000000000),
)
"""The hours of real sessions; the tape's prices are made up (`strategies.synthetic`)."""

GOLDEN_POINTS = ((1, 19), (1, 59), (1, 109), (1, 209), (2, 19), (2, 90), (2, 389))
"""(session, bar) of the golden observations: flat, call, put, put at the early close, flat, call turned put, flat."""

TAPE = Path(__file__).with_name("golden_tape.csv")
HEADER = "start_ns,open,high,low,close,volume"


def tape_text(bars: Iterable[Bar]) -> str:
    """The bars as the tape's CSV: a header, then one line for each, prices in cents' precision, whole shares."""
    lines = (f"{b.start_ns},{b.open:.2f},{b.high:.2f},{b.low:.2f},{b.close:.2f},{b.volume:.0f}" for b in bars)
    return "\n".join((HEADER, *lines, ""))


def golden_bars(symbol: str = "SPY") -> tuple[Bar, ...]:
    """The tape's bars, oldest first."""
    lines = TAPE.read_text(encoding="ascii").splitlines()[1:]
    return tuple(Bar(symbol, int(start), *map(float, rest)) for start, *rest in (line.split(",") for line in lines))


def golden_view(session: Session, bar: int) -> View:
    """The desk at the close of the session's bar of this index: 40 bars flat, 40 long calls, 40 long puts, ...."""
    since = bar % 40
    side = (0, +1, -1)[bar // 40 % 3]
    now_ns = session.open_ns + (bar + 1) * BAR_NS
    if side == 0:
        return View(now_ns=now_ns, session=session)
    return View(now_ns, session, side, position_return=(since - 10) / 20, position_age_min=float(since))


def golden_observations(strategy: Strategy) -> tuple[Observation, ...]:
    """The strategy's observations at `GOLDEN_POINTS` of the tape under `golden_view`: a model's golden inputs.

    `ValueError` when the strategy is not warm at one of them.
    """
    state = strategy.start()
    bars = iter(golden_bars(strategy.spec.symbols[0]))
    found: list[Observation] = []
    for number, session in enumerate(GOLDEN_SESSIONS):
        for index in range((session.close_ns - session.open_ns) // BAR_NS):
            state, observation = strategy.observe(state, (next(bars),), golden_view(session, index))
            if (number, index) not in GOLDEN_POINTS:
                continue
            if observation is None:
                raise ValueError(
                    f"{strategy.spec.name} has no observation at bar {index} of {session.date} on the golden tape, "
                    "expected one: let history_bars fit into the first session, or lengthen the tape"
                )
            found.append(observation)
    return tuple(found)


def contract_digest(spec: Spec, declared: Mapping[str, object]) -> str:
    """SHA-256 (hex) over the canonical JSON of the spec and of what is declared beside it."""
    return sha256(msgspec.json.encode({"spec": spec, "declared": declared}, order="deterministic")).hexdigest()


def contract_hash(strategy: Strategy) -> str:
    """The digest a model's manifest must carry to be loaded for this strategy (hex SHA-256).

    `ValueError` when the strategy is not registered.
    """
    return contract_digest(strategy.spec, declaration(strategy.spec.name))
