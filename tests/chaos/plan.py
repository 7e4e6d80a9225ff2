"""What one session of a campaign shall be: drawn from (campaign's seed, session's number), so that it can be repeated.

Pure: no clock, no files. The order of kinds is one shuffled deck, so that every kind comes up equally often.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.kinds import DEAD, KINDS, Kind, Line

FROM_DECK = 3  # kinds of a session that the deck gives; further ones are drawn
MORE_MOST = 3
FIRST_MIN = 2  # simulated minutes, from when the daemon is up, within which trouble begins: from this one
LATE_MIN = 34
MIX_MIN = 42  # to this one
CALM_MIN = 62  # from here on no fault is armed


@dataclass(frozen=True, slots=True)
class Trouble:
    """A kind, its lines as drawn, and the simulated minute (since the daemon was up) from which on it may begin."""

    kind: Kind
    lines: tuple[Line, ...]
    from_min: float


UNSHOWN = (
    "that its order does not show"  # told by the stream alone: no daemon, and nobody can say later which fill it means
)
OUTAGES = frozenset({"blind", "blind_hold", "history_missing"})
"""Halts for an outage that lasted too long, whatever the kind: a person resumes them when it is over."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One session. `day` counts the tape's sessions, `start_min` from the day's open; `tables` are its settings."""

    number: int
    seed: str
    day: int
    start_min: int
    troubles: tuple[Trouble, ...]
    tables: dict[str, dict[str, object]]

    @property
    def halts(self) -> frozenset[str]:
        """The reasons of a halt that this session may end in: those of its kinds, and those of too long an outage."""
        return OUTAGES.union(*(trouble.kind.halts for trouble in self.troubles))

    @property
    def books(self) -> bool:
        """Whether book and broker must agree in the end, whatever happened."""
        return all(trouble.kind.books for trouble in self.troubles)


def deck(seed: int) -> list[Kind]:
    """All kinds in an order of the seed's; the first ones are of different families."""
    chance = random.Random(f"deck {seed}")
    kinds = [KINDS[name] for name in sorted(KINDS)]
    chance.shuffle(kinds)
    first = {kind.family: kind for kind in reversed(kinds)}
    return sorted(kinds, key=lambda kind: first[kind.family] is not kind)


def together(kinds: Sequence[Kind]) -> list[Kind]:
    """At most one of the kinds that stand alone."""
    selection: list[Kind] = []
    for kind in kinds:
        if kind not in selection and not (kind.alone and any(other.alone for other in selection)):
            selection.append(kind)
    return selection


def plan(seed: int, number: int, *, only: Sequence[str] | None = None, from_deck: int = FROM_DECK) -> Plan:
    """The session `number` (0 and up) of the campaign `seed`; `only` these kinds instead of drawn ones.

    Raises KeyError for a kind that is none.
    """
    name = f"{seed}:{number}"
    chance = random.Random(f"session {name}")
    if only is not None:
        kinds = [KINDS[kind] for kind in only]
    else:
        kinds = _dealt(seed, number, from_deck)
        common = [kind for kind in KINDS.values() if not kind.alone]
        kinds += chance.sample(common, chance.randint(0, MORE_MOST))
    troubles = []
    for kind in together(kinds):
        earliest = LATE_MIN if kind.alone else FIRST_MIN  # what may end in a halt comes when others had their moment
        moment = round(chance.uniform(earliest, MIX_MIN), 2)
        troubles += [Trouble(kind, kind.draw(chance), moment)]
    tables = _settings(chance)
    if only is None:
        troubles = [trouble for trouble in troubles if trouble.kind.family != DEAD]
        if not any(trouble.kind.name.endswith(UNSHOWN) for trouble in troubles):
            troubles += _death(name)
    for trouble in troubles:
        for section, keys in trouble.kind.tables.items():
            tables[section] = {**tables.get(section, {}), **keys}
    day, start_min = chance.randint(21, 28), chance.randint(24, 150)
    return Plan(number, name, day, start_min, tuple(sorted(troubles, key=lambda t: t.from_min)), tables)


def _death(name: str) -> list[Trouble]:
    """In half of the sessions one long death, when what else comes had its moment. Drawn apart from all else."""
    chance = random.Random(f"death {name}")
    if chance.random() < 0.5:
        return []
    kind = chance.choice([kind for kind in KINDS.values() if kind.family == DEAD])
    return [Trouble(kind, kind.draw(chance), round(chance.uniform(LATE_MIN, CALM_MIN - 10), 2))]


def _dealt(seed: int, number: int, count: int) -> list[Kind]:
    """The deck's kinds for a session. One that may not come along (two that stand alone) goes to a later one."""
    waiting, hands = deck(seed), 0
    kinds: list[Kind] = []
    while hands <= number:
        kinds, hands = [], hands + 1
        while len(kinds) < count:
            if len(waiting) < count:
                waiting += deck(seed + hands)
            fits = next(k for k in waiting if k not in kinds and not (k.alone and any(o.alone for o in kinds)))
            waiting.remove(fits)
            kinds.append(fits)
    return kinds


def _settings(chance: random.Random) -> dict[str, dict[str, object]]:
    """Settings of a session: pings that cost little, and limits, tight ones in a third of the sessions."""
    patient = chance.random() < 0.5
    tables: dict[str, dict[str, object]] = {
        "alpaca": {"ping_s": 30},
        "feed": {"silence_s": 240},
        "journal": {"ballast_mib": 1, "snapshot_events": chance.choice((100, 400, 5000))},
        "execution": {
            "policy_valid_s": 600,
            "entry_reprice_s": 600 if patient else 90,
            "entry_deadline_s": 1200 if patient else 400,
            "exit_reprice_s": 300 if patient else 90,
            "exit_start": chance.choice(("bid", "mid")),
        },
        "broker": {"blind_min": 90, "look_up_s": 30, "on_stop": "keep"},
        "risk": {"stale_bar_s": 900, "quote_age_max_s": 900, "gap_min": 60},
    }
    if chance.random() < 1 / 3:
        largest = chance.randint(2, 4)
        tables["sizing"] = {"premium_fraction": 0.5, "max_contracts": largest}
        tables["risk"] |= {
            "order_contracts_max": largest,
            "position_contracts_max": chance.randint(largest, 6),
            "order_notional_max_usd": chance.choice((2000, 4000)),
            "gross_exposure_max_usd": chance.choice((2500, 4500)),
            "orders_per_minute": chance.randint(2, 4),
            "orders_per_day": chance.randint(12, 30),
        }
    return tables
