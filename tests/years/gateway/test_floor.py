from __future__ import annotations

import os
import subprocess
import sys

from tests.chaos.gateway.boundaries import BOUNDARIES, TAKEN, UPDATED
from tests.support.paths import REPOSITORY
from tests.years.desks import ONLINE, SCALPER, SWITCHER
from tests.years.gateway.__main__ import measure
from tests.years.gateway.plan import BOUNDARY, GATEWAY, PERSON, Happening, Plan, draw

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
