"""Many floors, one after the other or some at a time; and the report of what they met.

Floors that failed keep their folder and are listed with the command that repeats them.
"""

from __future__ import annotations

import logging
import random
import shutil
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from strategies.kit.contract import Session
from strategies.kit.units import SECOND_NS
from tests.chaos.desks import market as desks_market
from tests.chaos.desks.plan import SCALPER
from tests.chaos.gateway.floor import Floor, opened
from tests.chaos.gateway.plan import DESKS
from tests.chaos.gateway.session import end_program, finish, host_off, judge, leave, play, settle
from tests.support.desks.live_desk import Daemon

SESSIONS_OF_A_FLOOR = 4
RATE = 60.0  # of real time, where a program runs that keeps it


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one floor."""

    seed: int
    sessions: int
    problems: tuple[str, ...]
    met: dict[str, int]
    exposed: dict[str, int]
    person: dict[str, int]
    looks: dict[str, int]
    fills: int
    lives: int
    gateway_lives: int
    real_s: float


def one(seed: int, count: int, folder: Path, *, keep: bool = False, rate: float | None = None) -> Outcome:
    """One floor through `count` sessions; its folder goes where nothing was wrong, unless `keep`.

    With `rate` one session in real time, so much faster, and a program on alpaca-py beside the desks.
    """
    began = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "desks").mkdir()
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # it tells of every client that vanished
    Daemon(["--config", "none.toml"], {}, folder / "warm").wait(60)  # refused, all loaded: others are forked from it
    chance = random.Random(f"begin {seed}")
    dates = [
        session for session in desks_market.calendar() if session.close_ns - session.open_ns > 6 * 3600 * SECOND_NS
    ]
    first = chance.randrange(len(dates) - count + 1)
    sessions: list[Session] = dates[first : first + count]
    floor: Floor | None = None
    raised = []
    try:
        with opened(seed, sessions, folder, rate=rate) as floor:
            since_ns = floor.now_ns()
            if rate is not None:
                floor.begin_program()
            for session in sessions:
                if session is not sessions[0]:
                    host_off(floor, session)
                play(floor, session)
                settle(floor, session)
                if rate is not None:
                    end_program(floor, session)
                judge(floor, session, since_ns)
                leave(floor, session, DESKS if session is sessions[-1] else (SCALPER,))
                since_ns = floor.now_ns()
            settle(floor, sessions[-1])
            finish(floor)
    except Exception:
        raised = [f"the floor itself raised: {traceback.format_exc()}"]
        print(raised[0], flush=True)
    outcome = _outcome(seed, count, floor, raised, time.monotonic() - began)
    if not outcome.problems and not keep:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _outcome(seed: int, count: int, floor: Floor | None, raised: list[str], real_s: float) -> Outcome:
    if floor is None:
        return Outcome(seed, count, tuple(raised), {}, {}, {}, {}, 0, 0, 0, real_s)
    return Outcome(
        seed,
        count,
        (*floor.problems, *raised),
        dict(floor.tally.kinds_met),
        dict(floor.tally.kinds_exposed),
        dict(floor.person),
        dict(floor.looks),
        len(floor.account.trades),
        sum(station.run.desk.lives for station in floor.stations),
        floor.gateway.desk.lives,
        real_s,
    )


def campaign(seed: int, sessions: int, parallel: int, work: Path, *, keep: bool = False) -> list[Outcome]:
    """Floors of some sessions each, until there were `sessions`."""
    counts = [min(SESSIONS_OF_A_FLOOR, sessions - at) for at in range(0, sessions, SESSIONS_OF_A_FLOOR)]
    jobs = [(seed + number, count, work / f"floor-{seed + number}") for number, count in enumerate(counts)]
    if parallel == 1:
        outcomes = []
        for floor_seed, count, folder in jobs:
            outcomes.append(one(floor_seed, count, folder, keep=keep))
            print(line_of(outcomes[-1]), flush=True)
        return outcomes
    with ProcessPoolExecutor(parallel, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(one, *job, keep=keep) for job in jobs]
        outcomes = [future.result() for future in futures]
    for outcome in outcomes:
        print(line_of(outcome), flush=True)
    return outcomes


def beside(seed: int, work: Path, *, keep: bool = False) -> list[Outcome]:
    """One session at 60 times real time with a program on alpaca-py beside the desks."""
    outcome = one(seed, 1, work / f"floor-{seed}", keep=keep, rate=RATE)
    print(line_of(outcome), flush=True)
    return [outcome]


def line_of(outcome: Outcome) -> str:
    """One line of a floor, more of one that failed."""
    head = (
        f"{'FAILED' if outcome.problems else 'ok    '} seed {outcome.seed}: {outcome.sessions} sessions, "
        f"{outcome.real_s:5.1f} s, {outcome.fills} fills, {outcome.lives} lives of desks, {outcome.gateway_lives} of "
        f"the gateway, compared {outcome.looks}"
    )
    again = f'  repeat: make chaos-gateway GATEWAY_ARGS="--sessions {outcome.sessions} --seed {outcome.seed}"'
    return "\n".join([head, *(f"  {p}" for p in outcome.problems), *([again] if outcome.problems else [])])


def format_report(outcomes: list[Outcome], seed: int) -> str:
    """What was met, what a person did, what went wrong."""
    counts: Counter[str] = Counter()
    exposed: Counter[str] = Counter()
    person: Counter[str] = Counter()
    looks: Counter[str] = Counter()
    for outcome in outcomes:
        counts.update(outcome.met)
        exposed.update(outcome.exposed)
        person.update(outcome.person)
        looks.update(outcome.looks)
    lines = ["", "met (while an order worked or a position was open):"]
    lines += [f"  {name:72s} {count:4d} ({exposed[name]})" for name, count in sorted(counts.items())]
    lines += ["a person:", *(f"  {name:72s} {count:4d}" for name, count in sorted(person.items()))]
    failed = [outcome.seed for outcome in outcomes if outcome.problems]
    fills, lives = sum(o.fills for o in outcomes), sum(o.lives for o in outcomes)
    sessions, gateways = sum(o.sessions for o in outcomes), sum(o.gateway_lives for o in outcomes)
    lines += [
        f"sum and broker compared: {dict(looks)}",
        f"fills {fills}, lives of desks {lives}, of gateways {gateways}",
        f"sessions: {sessions} on {len(outcomes)} floors, failed floors: {failed or 'none'}, seed {seed}",
    ]
    return "\n".join(lines)
