"""What shall happen in one run, drawn from its seed: a plain list, so that a failing one can be made shorter.

By swarm: each run has its own subset of families of trouble, and its own rates. Nothing here happens; `acts` does it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tests.chaos.desks.plan import DAILY, ONLINE, OWN, SCALPER, SHARES, shared_kinds
from tests.chaos.kinds import Kind

FIRST_YEAR, LAST_YEAR = 2022, 2024
DAYS = (3, 8)  # sessions of a run
RULES = ("halt", "ignore", "adopt")
TICKS_S = ((1, 5), (5, 5), (5, 30), (5, 60))
"""Of a desk that waits for something, and of one that holds: its own rhythm, or a slower one, with which the loop is
quicker. The rules allow minutes."""
ATTENDED = 0.8  # of the runs: a person is on call
REPORTS = ((60, 5), (150, 5), (300, 10), (600, 20))  # seconds between two, and `blind_min` that allows it
NIGHT_MIN = -900.0  # before the open
DAY_MIN = 389.0
NIGHTS = 0.2  # of them are lived through; over the others, and over weekends, the host is off
TRAILS, NEAR_TRAILS = (0.1, 0.25), (0.002, 0.01)  # of trailing stops, for contracts and for shares
SMALL_USD = (900, 3_000, 8_000, 30_000)  # accounts of desks that may trade fractions
ROUNDINGS = ("none", "fill", "order")  # of cash to cents
OFTEN = (0.2, 3.0)  # happenings a session of a run, at least and at most
COMMANDS = ("pause", "resume", "halt", "flatten", "accept-broker", "resume-reset-limits", "reload-model", "status")

Row = tuple[str, str, Any]
OF_SHARES = (*DAILY, ONLINE)
EVERY = (SCALPER, *OF_SHARES)
BY_BAR = (SCALPER, ONLINE)
RICHLY = 0.85  # of the sessions have a trouble of `RICH`, where none is under way
DENSE = 0.6  # of the runs have many happenings; the others are quiet enough to judge what comes together

FAMILIES: dict[str, tuple[str, ...]] = {
    "process": ("kill", "kill at a turn", "kill in the step", "kill twice", "power", "restart", "restart flat", "away"),
    "person": ("buys", "buys beside", "sells", "closes", "cancels", "closes unheard, flatten"),
    "persons' shares": ("split beside", "dividend beside"),
    "command": tuple(f"command {name}" for name in COMMANDS),
    "panic": ("panic", "panic that fails"),
    "model": ("model flipped", "model cut", "model gone"),
    "configuration": ("typo in risk", "typo in execution", "typo in journal", "typo in feed"),
    "clock": ("clock ahead", "clock behind"),
    "network": ("network down", "half open"),
    "disk": ("snapshot flipped", "row flipped"),
    "ledger": ("fee late", "half a share", "dividend reinvested"),
}
"""What the runner itself does, by family."""

RICH: dict[str, dict[str, tuple[str, ...]]] = {
    "prices": {
        "falls behind wide quotes": (SCALPER,), "wide quotes stay": (SCALPER,), "wide market, flatten": (SCALPER,),
        "falls": EVERY, "falls at the close": (SCALPER,), "exits of zero minutes": (SCALPER,),
    },
    "shares of both": {
        "split of both": OF_SHARES, "dividend of both": OF_SHARES, "new name of both": (*DAILY,),
        "dividend nobody announced": OF_SHARES, "exercise beside": (SCALPER,),
    },
    "no report": {"no report, flatten": OF_SHARES, "no report, flatten beside": OF_SHARES},
    "panic that leaves": {"panic killed": EVERY, "panic, flatten": EVERY, "panic unheard": EVERY},
    "start": {"ballast is a folder": EVERY, "model gone for days": EVERY},
    "strategy": {"strategy raises": (SCALPER, ONLINE)},
    "alarms": {"many small and a grave": EVERY, "exits refused": EVERY},
    "account": {"sells more": OF_SHARES, "blocked": (SCALPER, ONLINE), "closes unheard, then flatten": OF_SHARES},
    "basket": {
        "split line late": DAILY, "halted at the decision": DAILY, "paused at the decision": DAILY,
        "quotes gone": DAILY,
    },
    "amended": {
        "bust unheard": EVERY, "correction unheard": EVERY, "older correction": EVERY, "older bust": EVERY,
    },
    "lines": {"unknown line": EVERY, "worthless": OF_SHARES, "activity garbage": EVERY},
}  # fmt: skip
"""Troubles that have to come together (`together.py`), by family, and the desks that can meet each."""

UNDER: dict[str, Row] = {
    "activity garbage": ("alpaca", "activity_stream", True),
    "sells more": ("broker", "foreign_orders", "adopt"),
    "split of both": ("broker", "foreign_orders", "ignore"),
    "dividend of both": ("broker", "foreign_orders", "ignore"),
    "new name of both": ("broker", "foreign_orders", "ignore"),
    "dividend nobody announced": ("broker", "foreign_orders", "ignore"),
    "exercise beside": ("broker", "foreign_orders", "ignore"),
    "no report, flatten beside": ("broker", "foreign_orders", "ignore"),
    "falls": ("risk", "daily_loss_max", 0.01),
    "many small and a grave": ("alarms", "per_minute", 1),
    "panic unheard": ("world", "attended", False),
    "model gone for days": ("world", "attended", False),
    "halted at the decision": ("world", "attended", False),
    "paused at the decision": ("world", "attended", False),
}
"""What a trouble needs in the settings."""

WIDE: Row = ("sizing", "stop_loss", 0.95)
SCALPER_SETTINGS: tuple[tuple[Row, ...], ...] = (
    (WIDE, ("risk", "daily_loss_max", 0.02)),
    (
        ("execution", "flat_before_close_min", 0), ("execution", "flatten_lead_min", 1), ("sizing", "max_contracts", 4),
    ),
)  # fmt: skip

for _family, _whats in RICH.items():
    FAMILIES[_family] = tuple(_whats)

CLOSES = ("close all of one", "close a part of one")
"""Commands that leave one position: drawn apart, so that all else of a seed is what it was."""


SPLITS = ("split in parts", "split in parts beside")
"""Splits whose parts come each at its own time, also with a person beside; drawn apart too."""


REORGANISED = ("merger", "merger beside", "spin-off", "spin-off beside")
"""The same for mergers and spin-offs."""


OF_HOST = ("disk out of room", "disk read-only", "upgrade", "upgrade unclean")
"""What the host's disk and releases do; drawn apart too."""


OF_PERSON = ("settings changed", "settings changed", "backup restored")
"""What the person who looks after the host does; drawn apart too."""


OF_GUARD = (
    "guard killed", "guard away", "guard's folder gone", "heartbeats cut", "desk and guard away", "away", "away",
    "power", "kill",
)  # fmt: skip
"""What happens to a guard and its desk, in the runs that have one."""


OF_MONEY = (
    "ledger", "transfer", "dividend", "split", "fee", "bust", "correct", "half a share", "unknown line", "worthless",
    "merger",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Happening:
    """`what` happens in session `day` (from 0) at `minute` from its open; `number` draws its details."""

    day: int
    minute: float
    what: str
    number: int = 0

    @property
    def changes_cash(self) -> bool:
        """Whether it moves money that no trade moves."""
        return any(word in self.what for word in OF_MONEY)


@dataclass(frozen=True, slots=True)
class Schedule:
    """One run: the desk, its world's seed, where it begins, how many sessions, its settings, and what happens."""

    desk: str
    seed: int
    first: str
    days: int
    tables: tuple[Row, ...]
    happenings: tuple[Happening, ...]
    nights: tuple[bool, ...] = ()  # before each session: whether the host is on

    def without(self, places: set[int]) -> Schedule:
        """The same without the happenings of these places."""
        rest = tuple(it for place, it in enumerate(self.happenings) if place not in places)
        return replace(self, happenings=rest)


def draw(desk: str, seed: int) -> Schedule:
    """The run of this seed."""
    chance = random.Random(f"schedule {desk} {seed}")
    days = chance.randint(*DAYS)
    month = f"{chance.randint(FIRST_YEAR, LAST_YEAR)}-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}"
    families = [name for name in FAMILIES if name not in RICH and chance.random() < 0.35]
    acts = [act for name in families for act in FAMILIES[name]]
    kinds = list(_kinds(desk))
    chance.shuffle(kinds)
    kinds = kinds[: int(len(kinds) * chance.random() ** 2)]
    pool: list[Callable[[], str]] = []
    if acts:
        pool.append(lambda: chance.choice(acts))
    if kinds:
        pool += [lambda: chance.choice(kinds)] * 2
    happenings = []
    rate = chance.uniform(*OFTEN) if chance.random() < DENSE else chance.uniform(0.0, 0.3)
    if pool:
        for day in range(days):
            for _ in range(_count(chance, rate)):
                night = chance.random() < (0.35 if desk in DAILY else 0.15)
                minute = chance.uniform(NIGHT_MIN, 0.0) if night else chance.uniform(0.0, DAY_MIN)
                happenings.append(Happening(day, round(minute, 3), chance.choice(pool)(), chance.randrange(10**6)))
    tables = [*_tables(chance), *protection(desk, seed), *fractions(desk, seed)]
    nights = [chance.random() < NIGHTS for _ in range(days)]
    tables += trailing(desk, seed)
    _draw_rich(desk, days, chance, happenings, tables, nights)
    happenings += [
        *closes(desk, seed, days),
        *over_night(desk, seed, days, "splits", SPLITS),
        *of_host(desk, seed, days),
    ]
    happenings += over_night(desk, seed, days, "reorganised", REORGANISED)
    happenings += of_host(desk, seed, days, "person", OF_PERSON)
    guard_rows, guard_happenings = guard(desk, seed, days)
    tables += guard_rows
    happenings += guard_happenings
    if WIDE in tables:  # it leaves room for no stop below it
        tables = [("protection", "distance", 1.0) if row[:2] == ("protection", "distance") else row for row in tables]
    happenings.sort(key=lambda it: (it.day, it.minute))
    return Schedule(desk, seed, month, days, tuple(tables), tuple(happenings), tuple(nights))


def _draw_rich(
    desk: str, days: int, chance: random.Random, happenings: list[Happening], tables: list[Row], nights: list[bool]
) -> None:
    """Add a few troubles that have to come together, with the settings under which they may do harm."""
    if desk == SCALPER and chance.random() < 0.6:
        tables.append(("world", "patient", True))
    if chance.random() < 0.3:
        tables.append(("alarms", "per_minute", chance.choice((1, 2))))
    if desk == SCALPER and chance.random() < 0.3:
        tables += chance.choice(SCALPER_SETTINGS)
    whats = [act for family in RICH for act, desks in RICH[family].items() if desk in desks]
    day = 0
    while day < days:
        if chance.random() < RICHLY:
            act = chance.choice(whats)
            happenings.append(Happening(day, round(chance.uniform(5.0, 240.0), 3), act, chance.randrange(10**6)))
            if act == "model gone for days" and day + 1 < days:
                nights[day + 1] = True
            if act in UNDER:
                tables[:] = [row for row in tables if row[:2] != UNDER[act][:2]] + [UNDER[act]]
            day += chance.choice((1, 1, 2))
        else:
            day += 1


def protection(desk: str, seed: int) -> tuple[Row, ...]:
    """Rest stops in half of the runs, now and then as near as the desk's own."""
    chance = random.Random(f"protection {desk} {seed}")
    if chance.random() < 0.5:
        return ()
    if desk in DAILY:
        part = chance.choice((0.02, 0.05, 0.2))
        return ("protection", "rest_at_broker", True), ("protection", "disaster_stop", part)
    return (
        ("protection", "rest_at_broker", True),
        ("protection", "distance", chance.choice((1.0, 1.5, 3.0))),
        ("protection", "options", chance.choice(("stop", "stop_limit"))),
    )


def trailing(desk: str, seed: int) -> tuple[Row, ...]:
    """Whether a desk by the bar has a trailing stop, and a time stop in minutes."""
    chance = random.Random(f"trailing {desk} {seed}")
    if desk in DAILY:
        return ()
    rows: list[Row] = []
    if chance.random() < 0.4:
        rows.append(("sizing", "trailing_stop", chance.choice(TRAILS if desk == SCALPER else NEAR_TRAILS)))
    if chance.random() < 0.4:
        rows.append(("sizing", "time_stop_min", chance.choice((3, 15, 45))))
    return tuple(rows)


def closes(desk: str, seed: int, days: int) -> list[Happening]:
    """A person's commands to close one position, or a part of it, in a third of the runs."""
    chance = random.Random(f"closes {desk} {seed}")
    if chance.random() > 1 / 3:
        return []
    lead = 60.0 if desk in DAILY else 0.0  # over night too: a daily desk decides then
    moments = [(day, chance.uniform(-lead, DAY_MIN)) for day in range(days) for _ in range(_count(chance, 1.3))]
    return [Happening(day, round(at, 3), chance.choice(CLOSES), chance.randrange(10**6)) for day, at in moments]


def over_night(desk: str, seed: int, days: int, name: str, whats: tuple[str, ...]) -> list[Happening]:
    """One of these, in a third of the runs of a desk of shares."""
    chance = random.Random(f"{name} {desk} {seed}")
    if desk not in OF_SHARES or chance.random() > 1 / 3:
        return []
    return [Happening(chance.randrange(days - 1), 30.0, chance.choice(whats), chance.randrange(10**6))]


def of_host(desk: str, seed: int, days: int, name: str = "host", whats: tuple[str, ...] = OF_HOST) -> list[Happening]:
    """A full or read-only disk or another release, or what a person does with the host, in a third of the runs."""
    chance = random.Random(f"{name} {desk} {seed}")
    if chance.random() > 1 / 3:
        return []
    lead = 60.0 if desk in DAILY else 5.0
    moments = [(chance.randrange(days), chance.uniform(-lead, DAY_MIN)) for _ in range(_count(chance, 1.5))]
    return [Happening(day, round(at, 3), chance.choice(whats), chance.randrange(10**6)) for day, at in moments]


def guard(desk: str, seed: int, days: int) -> tuple[list[Row], list[Happening]]:
    """A guard on another host, in a quarter of the runs, and what happens to it and its desk."""
    chance = random.Random(f"guard {desk} {seed}")
    if chance.random() > 1 / 4:
        return [], []
    beat_s, look_s = chance.choice((30, 60, 60)), chance.choice((60, 120, 300))
    alarm_s = chance.choice((3, 6)) * beat_s
    rows: list[Row] = [
        ("guard", "prefix", "guard"),
        ("guard", "act", chance.choice(("protect", "protect", "protect", "alarm"))),
        ("guard", "beat_s", beat_s),
        ("guard", "silence_s", 6 * beat_s),
        ("guard", "alarm_s", alarm_s),
        ("guard", "act_s", alarm_s + 2 * look_s + chance.choice((0, 120, 600))),
        ("guard", "look_s", look_s),
        ("guard", "fence", chance.random() < 0.7),
    ]
    if chance.random() < 0.3:
        rows.append(("world", "guard_closes", True))
    lead = 60.0 if desk in DAILY else 5.0
    moments = [(day, chance.uniform(-lead, DAY_MIN)) for day in range(days) for _ in range(_count(chance, 0.8))]
    return rows, [Happening(day, round(at, 3), chance.choice(OF_GUARD), chance.randrange(10**6)) for day, at in moments]


def fractions(desk: str, seed: int) -> tuple[Row, ...]:
    """Whether a desk of shares trades fractions, and how its broker and the person beside it do."""
    chance = random.Random(f"fractions {desk} {seed}")
    if desk not in OF_SHARES or chance.random() < 0.3:
        return ()
    rows: list[Row] = [
        ("world", "cash_usd", chance.choice(SMALL_USD)),
        ("world", "cash_rounding", chance.choice(ROUNDINGS)),
        ("basket", "fractions", chance.choice(("on", "auto", "auto", "auto", "off"))),
    ]
    if chance.random() < 0.5:
        rows.append(("world", "fractions_in_parts", True))
    if chance.random() < 0.5:
        rows.append(("world", "fractions_by_hand", True))
    if chance.random() < 0.3:
        rows.append(("world", "not_fractionable", chance.randrange(100)))
    if chance.random() < 0.5:
        rows.append(("world", "share_fees", True))
    return tuple(rows)


def _count(chance: random.Random, rate: float) -> int:
    return int(rate) + (chance.random() < rate % 1)


def _kinds(desk: str) -> tuple[str, ...]:
    """The campaign's kinds that the server does, for this desk."""
    names = [kind.name for kind in shared_kinds(desk) if not kind.act]
    if desk in DAILY:
        names += [name for name, entry in OWN.items() if not entry.kind.act]
    elif desk != SCALPER:
        names += list(SHARES)
    return tuple(sorted(names))


def kind_of(name: str) -> Kind | None:
    """The campaign's kind of this name; None for what the runner does."""
    from tests.chaos.kinds import KINDS

    if name in KINDS:
        return KINDS[name]
    for table in (OWN, SHARES):
        if name in table:
            return table[name].kind
    return None


def _tables(chance: random.Random) -> tuple[Row, ...]:
    """Settings of a run: what others may do, and now and then limits that are met."""
    rows: list[Row] = [
        ("broker", "foreign_orders", chance.choice(RULES)),
        ("broker", "on_stop", chance.choice(("keep", "keep", "flatten"))),
        ("journal", "snapshot_events", chance.choice((100, 500, 2000))),
        ("world", "attended", chance.random() < ATTENDED),
    ]
    busy_s, holding_s = chance.choice(TICKS_S)
    rows += [("world", "tick_s", busy_s), ("world", "holding_tick_s", holding_s)]
    report_s, blind_min = chance.choice(REPORTS)
    rows += [("alpaca", "report_every_s", report_s), ("broker", "blind_min", blind_min)]
    if chance.random() < 0.3:
        rows.append(("alpaca", "activity_stream", True))
    if chance.random() < 0.4:
        rows.append(("risk", "daily_loss_max", chance.choice((0.005, 0.01, 0.03))))
    if chance.random() < 0.2:
        rows.append(("risk", "drawdown_max", chance.choice((0.01, 0.05))))
    if chance.random() < 0.2:
        rows.append(("risk", "orders_per_day", chance.choice((4, 12))))
    if chance.random() < 0.2:
        rows.append(("execution", "exit_start", "mid"))
    return tuple(rows)
