"""What befalls a gateway, its desks and its account in one session, drawn from (seed, date); and all settings.

Pure. Kinds of the broker are those of `tests.chaos.kinds`, on the account's key alone; some are the gateway's own.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tests.chaos.desks import plan as desks_plan
from tests.chaos.desks.plan import REBALANCER, SCALPER, SWITCHER
from tests.chaos.gateway.boundaries import BOUNDARIES
from tests.chaos.kinds import ANY, HELD, KINDS, WORKING, Kind
from tests.chaos.plan import Trouble, together

DESKS = (SCALPER, REBALANCER, SWITCHER)
CAPITAL_USD = {SCALPER: 100_000, REBALANCER: 150_000, SWITCHER: 100_000}
MAINS_USD = 50_000
PROGRAM, PROGRAM_USD = "program", 20_000
"""The sub-account of a program on alpaca-py, where one runs beside the desks."""
DECIDE_MIN, END_MIN, CALM_MIN = 5, 46, 38  # before the open, after it, after it without new trouble
BOUNDARY = "boundary: "
OF_GATEWAY, OF_BROKER, OF_DESK = (1, 3), (2, 5), (0, 2)

GATEWAY: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("gateway: killed", "gateway killed", when=ANY, act="kill"),
        Kind("gateway: killed with an order at work", "gateway killed", when=WORKING, act="kill"),
        Kind("gateway: killed again while it starts", "gateway killed", when=ANY, act="kill_twice"),
        Kind("gateway: killed while it stops", "gateway killed", when=ANY, act="kill_stopping"),
        Kind("gateway: stopped and started", "gateway stopped", when=ANY, act="restart"),
        Kind("gateway: away for minutes", "gateway away", when=ANY, act="down"),
        *(
            Kind(f"gateway: killed where {words}", "gateway killed at a boundary", when=ANY, act=f"{BOUNDARY}{number}")
            for number, words in enumerate(BOUNDARIES)
        ),
    )
}
DESK: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("desk: killed", "desk killed", when=ANY, act="kill"),
        Kind("desk: killed with an order at work", "desk killed", when=WORKING, act="kill"),
        Kind("desk: killed again while it starts", "desk killed", when=ANY, act="kill_twice"),
        Kind("desk: killed while it stops", "desk killed", when=ANY, act="kill_stopping"),
        Kind("desk: stopped and started", "desk stopped", when=ANY, act="restart"),
        Kind("desk: down for minutes", "desk stopped", when=ANY, act="down"),
    )
}
PERSON: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("person: a fee", "person", when=HELD, act="fee"),
        Kind("person: a transfer to a desk", "person", when=ANY, act="give"),
        Kind("person: a transfer from a desk", "person", when=ANY, act="take"),
        Kind("person: buys a call and exercises it", "person", when=ANY, act="exercise"),
        Kind("person: buys a put and lets it expire", "person", when=ANY, act="expire"),
    )
}


def of_broker() -> tuple[Kind, ...]:
    """The kinds that a broker's account and its market data meet, whoever trades on it."""
    return tuple(kind for kind in KINDS.values() if not kind.act and not kind.tables)


def drawn(seed: int, date: str, owner: str) -> list[Trouble]:
    """What befalls the gateway (`gateway`), the broker's side (`broker`), a person (`person`), or a desk."""
    chance = random.Random(f"{owner} {seed} {date}")
    if owner == "gateway":
        kinds = chance.sample(list(GATEWAY.values()), chance.randint(*OF_GATEWAY))
    elif owner == "broker":
        kinds = together(chance.sample(of_broker(), chance.randint(*OF_BROKER)))
    elif owner == "person":
        kinds = chance.sample(list(PERSON.values()), 2)
    else:
        kinds = chance.sample(list(DESK.values()), chance.randint(*OF_DESK))
    windows = ((-DECIDE_MIN - 2.0, 3.0), (2.0, float(CALM_MIN)))
    troubles = []
    for kind in kinds:
        window = windows[1] if owner == "person" or chance.random() < 0.7 else windows[0]
        troubles.append(Trouble(kind, kind.draw(chance), round(chance.uniform(*window), 2)))
    return sorted(troubles, key=lambda trouble: trouble.from_min)


def of_desk(trouble: Trouble, desk: str) -> Trouble:
    """The trouble under a name that has the desk's."""
    return replace(trouble, kind=replace(trouble.kind, name=f"{desk}: {trouble.kind.name}"))


def tables(desk: str, folder: Path) -> list[Mapping[str, Mapping[str, object]]]:
    """A desk's settings: those of the campaign of desks, for a short morning."""
    more: dict[str, dict[str, object]] = {"alpaca": {"report_every_s": 120}}
    if desk != SCALPER:
        more["basket"] = {"before_open_min": DECIDE_MIN, "reprice_s": 240, "end_before_close_min": 60}
    return [desks_plan.tables(desk, folder), more]


def gateway_toml(
    port: int, folder: Path, keys: Path, upstream: Mapping[str, object], clock: Mapping[str, object]
) -> str:
    """The gateway's file: three desks' sub-accounts and the program's, no limit but what each may trade."""
    kinds = {SCALPER: ["options"], REBALANCER: ["shares"], SWITCHER: ["shares"]}
    sections: dict[str, Mapping[str, object]] = {
        "gateway": {
            "port": port,
            "state_dir": str(folder),
            "keys_dir": str(keys),
            "ballast_mib": 1,
            "stream_symbols_max": 200,
        },
        "alpaca": {**upstream, "ping_s": 30, "report_every_s": 60},
        "clock": clock,
        "feed": {"name": "sip", "options": "indicative"},
        "log": {"format": "json"},
    }
    for desk, usd in CAPITAL_USD.items():
        sections[f"sub_account.{desk}"] = {"capital": usd, "kinds": kinds[desk]}
    sections[f"sub_account.{PROGRAM}"] = {"capital": PROGRAM_USD, "kinds": ["shares"]}
    lines = []
    for section, values in sections.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""]
    return "\n".join(lines)
