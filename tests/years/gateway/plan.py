"""What befalls a gateway, its desks and its account in one run, drawn from its seed: a plain list.

It does nothing. By swarm: each run has its own kinds of trouble, and its own rates. The broker's are the campaign's.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

from tests.chaos.gateway.boundaries import BOUNDARIES
from tests.chaos.gateway.plan import of_broker
from tests.years.desks import DAILY, FORECAST, ONLINE, REBALANCER, SCALPER, SWITCHER
from tests.years.schedule import FIRST_YEAR, LAST_YEAR, OF_GUARD, Row
from tests.years.schedule import guard as guard_of

GATEWAY, BROKER, PERSON, COMPANY, GUARD = "gateway", "broker", "person", "company", "guard"
BOUNDARY = "killed where "
DAYS = (2, 4)  # sessions of a run
OFTEN = (0.2, 2.5)  # troubles a session of a run, of each who
HANDS = (2, 10)  # orders of a person in a session
AT_BROKER = 0.3  # of the runs: market data come from the broker itself

LIVES = ("kill", "kill at a turn", "kill twice", "restart", "away", "cut off", "half open")
ACTS: dict[str, tuple[str, ...]] = {
    GATEWAY: (*LIVES, *(BOUNDARY + words for words in BOUNDARIES), "host without power"),
    BROKER: tuple(kind.name for kind in of_broker()),
    PERSON: (
        "fee", "transfer to a desk", "transfer from a desk", "exercise", "let a contract expire", "deposit",
        "halt and resume", "panic of a desk", "panic of the account",
    ),
}  # fmt: skip
COMMANDS = tuple(f"command {name}" for name in ("flatten", "pause", "halt", "resume", "accept-broker"))
OF_A_DESK = (*LIVES, "kill in the step", *COMMANDS)
SPLIT = "split in parts"
MERGER, SPIN_OFF = "merger", "spin-off"
MERGERS = 0.4  # of the runs: the same of a merger or a spin-off
SPLITS = 0.5  # of the runs: something comes between the parts of a split; drawn apart, so that all else is what it was
FLIP = "row flipped"
FLIPS = 0.4  # of the runs: a bit of the gateway's journal flips; drawn apart too
UNTOLD = "cash without a line"
UNTOLDS = 0.4  # of the runs: money goes that no line will tell; drawn apart too
SETTINGS, LEFT_OUT = "settings changed", "a desk left out"
CHANGES = 0.4  # of the runs: a person changes the gateway's file between two lives; drawn apart too
GUARDS = 0.5  # of the runs: one of the desks has a guard on another host; drawn apart too
BARE: tuple[Row, ...] = (  # each stop of a fraction is for the day: a desk that is away in the morning has none
    ("basket", "fractions", "on"),
    ("protection", "rest_at_broker", True),
    ("protection", "disaster_stop", 0.2),
)
ALL_AWAY = "desk and gateway away"
LIMITED = 0.4  # of the runs: the account, or a desk, has limits at the gateway


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
    tables: tuple[tuple[str, str, Any], ...] = ()  # of the gateway's file: table, key, value
    protected: bool = False  # some of the desks rest stops
    guarded: str = ""  # the desk that a guard on another host watches
    guard: tuple[Row, ...] = ()  # settings of both, and whether the guard may close all: as a schedule's tables

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
    for actor, whats in (*ACTS.items(), *((desk, OF_A_DESK) for desk in desks)):
        acts = [act for act in whats if chance.random() < 0.5] or [chance.choice(whats)]
        often = chance.uniform(*OFTEN) * (0.5 if actor in desks else 1.0)
        for day in range(days):
            count = int(often) + (chance.random() < often % 1)
            happenings += [_at(day, actor, chance.choice(acts), chance) for _ in range(count)]
    for day in range(days):
        happenings += [_at(day, PERSON, "trade", chance) for _ in range(chance.randint(*HANDS))]
    happenings += _over_night(seed, days, "splits", SPLITS, (SPLIT,))
    happenings += _over_night(seed, days, "mergers", MERGERS, (MERGER, SPIN_OFF))
    happenings += _flips(seed, days) + _untold(seed, days) + _changes(seed, days)
    guarded, guard_rows, of_guard = _guard(seed, days, desks)
    happenings += of_guard
    order = tuple(sorted(happenings, key=lambda it: (it.day, it.minute)))
    at_broker = chance.random() < AT_BROKER
    tables, protected = _limits(desks, chance), chance.random() < 0.6
    return Plan(seed, first, days, desks, at_broker, order, tables, protected, guarded, guard_rows)


def _over_night(seed: int, days: int, name: str, often: float, whats: tuple[str, ...]) -> list[Happening]:
    chance = random.Random(f"{name} behind a gateway {seed}")
    if days < 2 or chance.random() >= often:
        return []
    day, number = chance.randrange(days - 1), chance.randrange(10**6)
    return [Happening(day, 30.0, COMPANY, chance.choice(whats), number)]


def _flips(seed: int, days: int) -> list[Happening]:
    chance = random.Random(f"flips behind a gateway {seed}")
    if chance.random() >= FLIPS:
        return []
    return [_at(chance.randrange(days), GATEWAY, FLIP, chance)]


def _untold(seed: int, days: int) -> list[Happening]:
    chance = random.Random(f"untold behind a gateway {seed}")
    if chance.random() >= UNTOLDS:
        return []
    return [_at(chance.randrange(days), PERSON, UNTOLD, chance)]


def _changes(seed: int, days: int) -> list[Happening]:
    chance = random.Random(f"changes behind a gateway {seed}")
    if chance.random() >= CHANGES:
        return []
    whats = (SETTINGS, SETTINGS, LEFT_OUT)
    return [_at(chance.randrange(days), GATEWAY, chance.choice(whats), chance) for _ in range(chance.randint(1, 2))]


def _guard(seed: int, days: int, desks: tuple[str, ...]) -> tuple[str, tuple[Row, ...], list[Happening]]:
    """A guard of one of the desks in some of the runs, and what happens to it, its desk and the gateway."""
    chance = random.Random(f"guard behind a gateway {seed}")
    if chance.random() >= GUARDS:
        return "", (), []
    desk, number, rows = chance.choice(desks), 0, list[Row]()
    while not rows:  # a quarter of its runs has one
        rows, number = guard_of(desk, 1000 * seed + number, days)[0], number + 1
    rows += BARE if desk in DAILY and chance.random() < 0.5 else ()
    count = chance.randint(1, 2 * days)
    whats = (*OF_GUARD, ALL_AWAY, ALL_AWAY)
    happenings = [_at(chance.randrange(days), GUARD, chance.choice(whats), chance) for _ in range(count)]
    happenings += [Happening(days - 1, -30.0, GUARD, "away", chance.randrange(10**6))]
    return desk, tuple(rows), happenings


def _limits(desks: tuple[str, ...], chance: random.Random) -> tuple[tuple[str, str, Any], ...]:
    """Limits at the gateway in some of the runs."""
    return limits(desks, chance) if chance.random() < LIMITED else ()


def limits(desks: tuple[str, ...], chance: random.Random) -> tuple[tuple[str, str, Any], ...]:
    """Limits at the gateway, some of which these desks meet."""
    one = f"sub_account.{chance.choice(desks)}"
    rows = (
        ("account", "gross_exposure_max", chance.choice((100_000, 200_000))),
        ("account", "symbol_exposure_max", chance.choice((20_000, 90_000))),
        ("account", "day_loss_max", chance.choice((200, 1_000, 5_000))),
        ("account", "orders_a_minute", chance.choice((2, 5, 20))),
        (one, "order_max", chance.choice((2_000, 8_000, 50_000))),
        (one, "exposure_max", chance.choice((5_000, 50_000))),
    )
    return tuple(row for row in rows if chance.random() < 0.4)


def _at(day: int, actor: str, act: str, chance: random.Random) -> Happening:
    minute = chance.uniform(-60.0, 10.0) if chance.random() < 0.25 else chance.uniform(0.0, 389.0)
    return Happening(day, round(minute, 3), actor, act, chance.randrange(10**6))
