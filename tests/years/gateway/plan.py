"""What befalls a gateway, its desks and its account in one run, drawn from its seed: a plain list.

It does nothing. By swarm: each run has its own kinds of trouble, and its own rates. The broker's are the campaign's.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from tests.chaos.gateway.boundaries import BOUNDARIES
from tests.chaos.gateway.plan import of_broker
from tests.years.desks import FORECAST, ONLINE, REBALANCER, SCALPER, SWITCHER
from tests.years.schedule import FIRST_YEAR, LAST_YEAR

GATEWAY, BROKER, PERSON = "gateway", "broker", "person"
BOUNDARY = "killed where "
DAYS = (2, 4)  # sessions of a run
OFTEN = (0.2, 2.5)  # troubles a session of a run, of each who
HANDS = (2, 10)  # orders of a person in a session
AT_BROKER = 0.3  # of the runs: market data come from the broker itself

LIVES = ("kill", "kill at a turn", "kill twice", "restart", "away", "cut off", "half open")
ACTS: dict[str, tuple[str, ...]] = {
    GATEWAY: (*LIVES, *(BOUNDARY + words for words in BOUNDARIES), "host without power"),
    BROKER: tuple(kind.name for kind in of_broker()),
    PERSON: ("fee", "transfer to a desk", "transfer from a desk", "exercise", "let a contract expire", "deposit"),
}
OF_A_DESK = (*LIVES, "kill in the step")


@dataclass(frozen=True, slots=True)
class Happening:
    """`who` meets `what` in session `day` (from 0) at `minute` from its open; `number` draws its details."""

    day: int
    minute: float
    who: str
    what: str
    number: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: its desks, its world's seed, where it begins, how many sessions, and what happens."""

    seed: int
    first: str
    days: int
    desks: tuple[str, ...]
    at_broker: bool  # the desks' market data; else they come through the gateway
    happenings: tuple[Happening, ...]

    def without(self, places: set[int]) -> Plan:
        """The same without some of what happens."""
        return replace(self, happenings=tuple(it for n, it in enumerate(self.happenings) if n not in places))


def draw(seed: int, days: int = 0) -> Plan:
    """The run of this seed; `days` sessions, or as many as it draws."""
    chance = random.Random(f"behind a gateway {seed}")
    desks = (SCALPER, chance.choice((REBALANCER, FORECAST, ONLINE)), SWITCHER)
    drawn_days = chance.randint(*DAYS)
    days = days or drawn_days
    first = f"{chance.randint(FIRST_YEAR, LAST_YEAR)}-{chance.randint(1, 11):02d}-{chance.randint(1, 28):02d}"
    happenings: list[Happening] = []
    for who, whats in (*ACTS.items(), *((desk, OF_A_DESK) for desk in desks)):
        some = [what for what in whats if chance.random() < 0.5] or [chance.choice(whats)]
        often = chance.uniform(*OFTEN) * (0.5 if who in desks else 1.0)
        for day in range(days):
            count = int(often) + (chance.random() < often % 1)
            happenings += [_at(day, who, chance.choice(some), chance) for _ in range(count)]
    for day in range(days):
        happenings += [_at(day, PERSON, "trade", chance) for _ in range(chance.randint(*HANDS))]
    order = tuple(sorted(happenings, key=lambda it: (it.day, it.minute)))
    return Plan(seed, first, days, desks, chance.random() < AT_BROKER, order)


def _at(day: int, who: str, what: str, chance: random.Random) -> Happening:
    minute = chance.uniform(-60.0, 10.0) if chance.random() < 0.25 else chance.uniform(0.0, 389.0)
    return Happening(day, round(minute, 3), who, what, chance.randrange(10**6))
