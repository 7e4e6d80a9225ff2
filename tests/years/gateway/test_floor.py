from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.chaos.gateway.boundaries import BOUNDARIES, TAKEN, UPDATED
from tests.support.paths import REPOSITORY
from tests.years.desks import ONLINE, SCALPER, SWITCHER
from tests.years.gateway.__main__ import measure
from tests.years.gateway.plan import ALL_AWAY, BARE, BOUNDARY, GATEWAY, GUARD, PERSON, Happening, Plan, draw

HALF_DAY = "2024-07-03"
DESKS = (SCALPER, ONLINE, SWITCHER)


def test_a_gateway_and_three_desks_live_through_half_a_day_and_are_killed() -> None:
    happenings = (
        Happening(0, 5.0, PERSON, "trade"),
        Happening(0, 20.0, GATEWAY, BOUNDARY + BOUNDARIES[TAKEN]),
        Happening(0, 60.0, SCALPER, "kill in the step", 1),
        Happening(0, 90.0, GATEWAY, BOUNDARY + BOUNDARIES[UPDATED]),
        Happening(0, 120.0, ONLINE, "kill at a turn", 2),
    )
    outcome = measure(Plan(3, HALF_DAY, 1, DESKS, at_broker=False, happenings=happenings))[0]
    assert outcome.problems == ()
    assert outcome.fills > 0
    assert outcome.lives == len(DESKS) + 1 + 4
    assert outcome.met["look: equal"] > 150  # of the minutes of the day


def test_equal_seeds_tell_the_same_story_whatever_the_order_of_sets() -> None:
    digests = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-m", "tests.years.gateway", "--seed", "4", "--days", "1"]
        result = subprocess.run(
            command, cwd=REPOSITORY, env=environment, check=False, stdout=subprocess.PIPE, text=True
        )
        digests.add(result.stdout.splitlines()[0].rpartition("digest ")[2])
    assert len(digests) == 1
    assert len(digests.pop()) == 64


def test_a_plan_depends_on_its_seed_alone() -> None:
    assert draw(5) == draw(5) != draw(6)


def test_a_guard_protects_its_desk_behind_the_gateway_and_leaves_the_others_alone() -> None:
    seconds = {"beat_s": 30, "silence_s": 180, "alarm_s": 90, "act_s": 300, "look_s": 60}
    table = {"prefix": "guard", "act": "protect", **seconds}
    rows = (*((GUARD, key, value) for key, value in table.items()), ("world", "guard_closes", True), *BARE)
    happenings = (Happening(1, -30.0, GUARD, ALL_AWAY, 5), Happening(1, 20.0, PERSON, "trade"))
    desks = (ONLINE, SWITCHER)  # of one symbol
    plan = Plan(7, "2024-07-08", 2, desks, at_broker=False, happenings=happenings, guarded=SWITCHER, guard=rows)
    outcome = measure(plan)[0]
    assert outcome.problems == ()
    assert outcome.met["guard rest"] > 0
    alarms = [json.loads(text)["alarm"] for _, kind, text in outcome.story if kind == "alarm"]
    assert {"desk_silent", "guard_acts", "guard_acted", "desk_heard"} <= set(alarms)
