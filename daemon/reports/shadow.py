"""Compare a candidate with the live model: agreement, confidence, and the hypothetical result of each.

Reads a journal: its read models for the comparison; for the hypothetical result every event is stepped again and, from
the candidate's first question on, two copies of the desk with it (`daemon.models.shadow`). Nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from daemon.core.events import Event
from daemon.core.step import Divergence, Machine, Step
from daemon.engine.recover import adopt_trading, leave_out, machine_of
from daemon.journal.reader import JournalReader
from daemon.journal.rows import decode_event, strategy_of
from daemon.models.shadow import RULE, Shadow

FEWEST = 16  # sessions; no interval is given for fewer
DRAWS = 10_000
LEVEL = 0.95
AT_ONCE = 500_000  # most resampled numbers in memory at once
DIRECTIONS: tuple[str, ...] = ("SELL", "NONE", "BUY")  # of a continuous policy's actions, by their sign
CALIBRATION = (
    "A candidate's confidence cannot be checked: what it would have done had no outcome, so there is nothing to "
    "compare its probabilities with."
)

Float64Array = npt.NDArray[np.float64]


class SessionPair(msgspec.Struct, frozen=True):
    """One session's hypothetical result of both, in USD."""

    date: str
    live_usd: float
    shadow_usd: float


class Hypothetical(msgspec.Struct, frozen=True):
    """Both on copies of the desk, over the same sessions. `low` and `high` bound the mean difference a session."""

    rule: str
    sessions: tuple[SessionPair, ...]
    live_usd: float
    shadow_usd: float
    live_trades: int
    shadow_trades: int
    modelled: int  # prices that are not the journal's own, of both together
    mean_difference_usd: float  # shadow less live, a session
    low_usd: float | None  # None with too few sessions
    high_usd: float | None
    block: float  # mean length in sessions of the bootstrap's blocks


class ShadowReport(msgspec.Struct, frozen=True):
    """One candidate. Shares are of the decisions that both answered; None where there is nothing to take them of."""

    model: str
    beside: tuple[str, ...]  # live versions that answered those decisions
    verdict: str
    decisions: int
    failures: int  # of the candidate
    unmatched: int  # answers of the candidate to questions that the live model left without an answer
    agreement: float | None
    kappa: float | None
    actions: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]  # rows live, columns candidate; of a continuous policy pooled over symbols
    confidence_live: float | None
    confidence_shadow: float | None
    calibration: str
    total_variation: float | None  # mean of half the sum of |p - q|
    mean_difference: float | None  # of a continuous policy: mean absolute difference of an action
    hypothetical: Hypothetical | None
    untold: str = ""  # why there is no hypothetical result


class _Pair(msgspec.Struct, frozen=True):
    """A decision that both models answered."""

    live_model: str
    live: str
    shadow: str
    confidences: tuple[float, float] | None
    probabilities: tuple[tuple[float, ...], tuple[float, ...]] | None
    logits: tuple[tuple[float, ...], tuple[float, ...]]


def shadow_reports(journal: Path) -> tuple[ShadowReport, ...]:
    """Return a report for each candidate in the journal, by version; () without one.

    Raises JournalError for a file that is no journal.
    """
    with closing(JournalReader(journal)) as reader:
        if not reader.query("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'shadows'"):
            return ()
        models = [row["model"] for row in reader.query("SELECT DISTINCT model FROM shadows ORDER BY model")]
        if not models:
            return ()
        shadows, untold = _replay_candidates(reader, models)
        return tuple(_report(reader, model, shadows.get(model), untold) for model in models)


# --- the comparison -----------------------------------------------------------------------------------------------


def _report(reader: JournalReader, model: str, shadow: Shadow | None, untold: str) -> ShadowReport:
    pairs, failures, unmatched_count = _pairs(reader, model)
    actions, confusion = _confusion(pairs, strategy_of(reader.meta()).spec.actions)
    hypothetical = _hypothetical(shadow) if shadow is not None and shadow.sessions else None
    sure = np.array([pair.confidences for pair in pairs if pair.confidences is not None])
    spread = [p for pair in pairs if (p := pair.probabilities) is not None]
    continuous = [pair.logits for pair in pairs if pair.probabilities is None]
    return ShadowReport(
        model=model,
        beside=tuple(sorted({pair.live_model for pair in pairs})),
        verdict=verdict_of(hypothetical, untold),
        decisions=len(pairs),
        failures=failures,
        unmatched=unmatched_count,
        agreement=agreement_of(confusion),
        kappa=kappa_of(confusion),
        actions=actions,
        confusion=confusion,
        confidence_live=float(sure[:, 0].mean()) if len(sure) else None,
        confidence_shadow=float(sure[:, 1].mean()) if len(sure) else None,
        calibration=CALIBRATION,
        total_variation=_mean_difference(spread, 0.5 * len(spread[0][0])) if spread else None,
        mean_difference=_mean_difference(continuous, 1.0) if continuous else None,
        hypothetical=hypothetical,
        untold=untold,
    )


def _pairs(reader: JournalReader, model: str) -> tuple[list[_Pair], int, int]:
    """Return the decisions that both answered, the candidate's failures, and the count that only it answered."""
    rows = reader.query(
        "SELECT s.problem, s.action, s.confidence, s.probabilities, s.logits, d.model AS live_model, "
        "d.action AS live_action, d.confidence AS live_confidence, d.probabilities AS live_probabilities, "
        "d.logits AS live_logits FROM shadows s LEFT JOIN decisions d ON d.decision = s.decision AND d.kind = 'policy' "
        "WHERE s.model = ? ORDER BY s.decision",
        (model,),
    )
    failures = sum(bool(row["problem"]) for row in rows)
    answered_rows = [row for row in rows if not row["problem"]]
    pairs = [
        _Pair(
            live_model=row["live_model"],
            live=row["live_action"],
            shadow=row["action"],
            confidences=_pair(row["live_confidence"], row["confidence"]),
            probabilities=_pair(_numbers(row["live_probabilities"]), _numbers(row["probabilities"])),
            logits=(_numbers(row["live_logits"]) or (), _numbers(row["logits"]) or ()),
        )
        for row in answered_rows
        if row["live_logits"] is not None
    ]
    return pairs, failures, len(answered_rows) - len(pairs)


def _numbers(text: str | None) -> tuple[float, ...] | None:
    return None if text is None else msgspec.json.decode(text, type=tuple[float, ...])


def _pair(live: Any, shadow: Any) -> Any:
    return None if live is None or shadow is None else (live, shadow)


def _mean_difference(pairs: Sequence[tuple[Sequence[float], Sequence[float]]], factor: float) -> float:
    values = np.asarray(pairs, dtype=np.float64)
    return float(np.abs(values[:, 0] - values[:, 1]).mean() * factor)


def _confusion(pairs: Sequence[_Pair], order: Sequence[str]) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """Return the chosen actions and their counts; of a continuous policy the direction for each symbol."""
    if pairs and pairs[0].probabilities is None:
        actions = DIRECTIONS
        signs = np.sign(np.array([pair.logits for pair in pairs])).astype(int) + 1
        chosen = np.stack([signs[:, 0].ravel(), signs[:, 1].ravel()])
    else:
        names = {name for pair in pairs for name in (pair.live, pair.shadow)}
        actions = tuple(name for name in order if name in names)
        chosen = np.array([[actions.index(pair.live), actions.index(pair.shadow)] for pair in pairs], dtype=int).T
    counts = np.zeros((len(actions), len(actions)), dtype=int)
    if pairs:
        np.add.at(counts, (chosen[0], chosen[1]), 1)
    return actions, tuple(map(tuple, counts.tolist()))


def agreement_of(confusion: Sequence[Sequence[int]]) -> float | None:
    """Return the share on the diagonal; None without a count."""
    counts = np.asarray(confusion, dtype=np.float64)
    return float(np.trace(counts) / counts.sum()) if counts.sum() else None


def kappa_of(confusion: Sequence[Sequence[int]]) -> float | None:
    """Return Cohen's kappa (Cohen 1960): the agreement beyond that of independent answers with the same frequencies.

    None without a count, and if both always gave one and the same answer: chance alone agrees then.
    """
    agreement = agreement_of(confusion)
    if agreement is None:
        return None
    shares = np.asarray(confusion, dtype=np.float64)
    shares /= shares.sum()
    by_chance = float(shares.sum(axis=0) @ shares.sum(axis=1))
    return None if by_chance >= 1.0 else (agreement - by_chance) / (1.0 - by_chance)


# --- the hypothetical result --------------------------------------------------------------------------------------


def _replay_candidates(reader: JournalReader, models: Sequence[str]) -> tuple[dict[str, Shadow], str]:
    """Step the journal again with each candidate next to the live model; also return the obstacle, else ""."""
    machine = machine_of(reader)
    shadows = {model: Shadow(model) for model in models}
    try:
        for event, step in _steps(reader, machine):
            for shadow in shadows.values():
                shadow.observe(machine, event, step)
        for shadow in shadows.values():
            shadow.end_session()
    except (Divergence, ValueError, msgspec.DecodeError) as error:
        return {}, f"the journal cannot be stepped again with this code ({error}): use the version that wrote it"
    return shadows, ""


def _steps(reader: JournalReader, machine: Machine) -> Iterator[tuple[Event, Step]]:
    """Yield every stepped row again: the event and its step."""
    for entry in reader.entries():
        if entry.raised:
            continue
        event = decode_event(entry.payload)
        if entry.quarantined:
            leave_out(machine, event)
            continue
        step = machine.reapply(event)
        if entry.kind == "RunStarted":
            adopt_trading(machine)
        yield event, step


def _hypothetical(shadow: Shadow) -> Hypothetical:
    by_date = sorted(shadow.sessions.items())
    sessions = tuple(
        SessionPair(date, round(float(profits.live.gained), 6), round(float(profits.candidate.gained), 6))
        for date, profits in by_date
    )
    differences = np.array([pair.shadow_usd - pair.live_usd for pair in sessions], dtype=np.float64)
    block = max(len(sessions) ** (1.0 / 3.0), 1.0)
    low, high = interval_of_mean(differences, block) if len(sessions) >= FEWEST else (None, None)
    return Hypothetical(
        rule=RULE,
        sessions=sessions,
        live_usd=round(sum(pair.live_usd for pair in sessions), 6),
        shadow_usd=round(sum(pair.shadow_usd for pair in sessions), 6),
        live_trades=sum(profits.live.fills for _, profits in by_date),
        shadow_trades=sum(profits.candidate.fills for _, profits in by_date),
        modelled=sum(profits.live.modelled + profits.candidate.modelled for _, profits in by_date),
        mean_difference_usd=float(differences.mean()) if sessions else 0.0,
        low_usd=low,
        high_usd=high,
        block=round(block, 2),
    )


def interval_of_mean(values: Float64Array, block: float, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean by the stationary bootstrap.

    Blocks have geometric length with mean `block`: Politis and Romano 1994, JASA 89, section 2. The same seed gives the
    same interval.
    """
    random, count = np.random.default_rng(seed), len(values)
    position, means = np.arange(count), []
    for draws in np.diff([*range(0, DRAWS, max(AT_ONCE // count, 1)), DRAWS]):
        begins = random.random((draws, count)) < 1.0 / block
        begins[:, 0] = True
        start = random.integers(count, size=(draws, count))
        latest = np.maximum.accumulate(np.where(begins, position, 0), axis=1)
        index = (np.take_along_axis(start, latest, axis=1) + position - latest) % count
        means.append(values[index].mean(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0])
    return float(low), float(high)


def verdict_of(hypothetical: Hypothetical | None, untold: str = "") -> str:
    """Return whether the difference may be chance, with its interval."""
    if hypothetical is None:
        return f"No result to compare: {untold or 'there is no decision that both answered'}."
    difference = hypothetical.mean_difference_usd
    word = "more" if difference >= 0 else "less"
    finding = (
        f"over {len(hypothetical.sessions)} sessions the candidate would have earned {abs(difference):,.2f} USD "
        f"a session {word} than the live model by the rule below"
    )
    if hypothetical.low_usd is None or hypothetical.high_usd is None:
        return f"May be chance: {finding}, and fewer than {FEWEST} sessions show no difference."
    bounds = f"95 % interval {hypothetical.low_usd:+,.2f} to {hypothetical.high_usd:+,.2f}"
    if hypothetical.low_usd <= 0.0 <= hypothetical.high_usd:
        return f"May be chance: {finding}, {bounds}."
    return f"More than chance at 95 %: {finding}, {bounds}."
