"""Many sessions, some at a time, each in a process that serves and watches it; and the report of what they met.

Failed sessions keep their folder and are listed with the command that repeats them.
"""

from __future__ import annotations

import logging
import multiprocessing
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from pathlib import Path

from simulator.prices.market import Market
from tests.chaos.kinds import KINDS
from tests.chaos.plan import FROM_DECK, plan
from tests.chaos.session import Outcome, run
from tests.support.desks.live_desk import Daemon
from tests.support.paths import REPOSITORY

EXTRA = 10_000  # numbers of sessions from here on are for kinds that were not met in those below
TOGETHER = 3  # kinds of such a session
TAPE = REPOSITORY / "daemon" / "tapes" / "spy_synthetic_30.csv.gz"


@lru_cache(maxsize=1)
def _market() -> Market:
    """The tape's market, once a process, and a warm server from which daemons are forked."""
    return Market.from_bars(TAPE)


def _warm(folder: str) -> None:
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # it tells of every client that vanished
    _market()
    Daemon(["--config", "none.toml"], {}, Path(folder) / "warm").wait(60)  # refused, all loaded


def one(
    seed: int,
    number: int,
    work: Path,
    only: Sequence[str] | None,
    from_deck: int = FROM_DECK,
    *,
    keep: bool = False,
    operated: bool = False,
) -> Outcome:
    """The session `number` of the campaign; its folder goes when nothing was wrong, unless `keep`."""
    session_plan = plan(seed, number, only=only, from_deck=from_deck)
    folder = work / f"session-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    try:
        outcome = run(session_plan, folder, _market(), operated=operated)
    except Exception:
        names = tuple(trouble.kind.name for trouble in session_plan.troubles)
        problem = f"the session itself raised: {traceback.format_exc()}"
        outcome = Outcome(number, session_plan.seed, names, {}, {}, "", (problem,), 0, 0, 0, time.monotonic() - began)
    if not outcome.problems and not keep:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def campaign(
    seed: int,
    numbers: Iterable[int],
    parallel: int,
    work: Path,
    *,
    hands: Mapping[int, Sequence[str]] | None = None,
    from_deck: int = FROM_DECK,
    keep: bool = False,
    operated: bool = False,
) -> list[Outcome]:
    """Run the sessions of these numbers, `parallel` at a time; printed as they end, returned in the order of numbers.

    `hands` are the kinds of the sessions that shall have these alone; `operated` switches the operator's side on.
    """
    work.mkdir(parents=True, exist_ok=True)
    kinds_by_number = hands or {}
    outcomes = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(parallel, mp_context=context, initializer=_warm, initargs=(str(work),)) as pool:
        how = {"keep": keep, "operated": operated}
        runs = [
            pool.submit(one, seed, number, work, kinds_by_number.get(number), from_deck, **how) for number in numbers
        ]
        for future in as_completed(runs):
            outcome = future.result()
            outcomes.append(outcome)
            print(line_of(outcome, seed, operated=operated), flush=True)
    return sorted(outcomes, key=lambda outcome: outcome.number)


def once_more(names: Iterable[str], turn: int) -> dict[int, list[str]]:
    """Sessions for kinds that were not met, a few in each, those that stand alone in one of their own."""
    alone = [[name] for name in names if KINDS[name].alone]
    common = [name for name in names if not KINDS[name].alone]
    hands = alone + [common[at : at + TOGETHER] for at in range(0, len(common), TOGETHER)]
    return {EXTRA * (turn + 1) + number: hand for number, hand in enumerate(hands)}


def unmet(outcomes: Iterable[Outcome]) -> list[str]:
    """Kinds that were never met while an order worked or a position was open."""
    exposed = {name for outcome in outcomes for name, count in outcome.exposed.items() if count}
    return [name for name in KINDS if name not in exposed]


def line_of(outcome: Outcome, seed: int, *, operated: bool = False) -> str:
    """One line of a session that held, more of one that failed."""
    kinds = ", ".join(f"{name} x{outcome.exposed.get(name, 0)}" for name in outcome.kinds)
    head = (
        f"{'FAILED' if outcome.problems else 'ok    '} {outcome.number:4d} {outcome.real_s:5.1f} s "
        f"{outcome.bars:3d} bars {outcome.trades:2d} fills {outcome.lives} lives  {outcome.end}  [{kinds}]"
    )
    options = "".join(f" --kind '{name}'" for name in outcome.kinds) if outcome.number >= EXTRA else ""
    options += " --operator" if operated else ""
    again = f'  repeat: make chaos CHAOS_ARGS="--seed {seed} --only {outcome.number}{options}"'
    return "\n".join([head, *(f"  {problem}" for problem in outcome.problems), *([again] if outcome.problems else [])])


def format_report(outcomes: Sequence[Outcome], seed: int, *, expected: Collection[str] = ()) -> str:
    """The campaign's report: ends, what each family and each kind met, what was never met, what failed."""
    counts: Counter[str] = Counter()
    exposed: Counter[str] = Counter()
    for outcome in outcomes:
        counts.update(outcome.met)
        exposed.update(outcome.exposed)
    families = sorted({kind.family for kind in KINDS.values()})
    lines = ["", "met while an order worked or a position was open (of all times it was met), by family:"]
    for family in families:
        names = [kind.name for kind in KINDS.values() if kind.family == family]
        kinds, all_met = sum(exposed[name] for name in names), sum(counts[name] for name in names)
        if all_met or expected:
            lines.append(f"  {family:28s} {kinds:5d} of {all_met:5d}, {len(names)} kinds")
    lines += ["", "ends:"]
    ends = Counter(outcome.end or "none" for outcome in outcomes)
    lines += [f"  {count:5d} {end}" for end, count in ends.most_common()]
    failed = [outcome for outcome in outcomes if outcome.problems]
    unmet = sorted(name for name in expected if not exposed[name])
    lines += ["", f"kinds never met while exposed: {', '.join(unmet) or 'none'}"] if expected else []
    lines += [
        f"sessions: {len(outcomes)}, failed: {len(failed)} {[outcome.number for outcome in failed] or ''}",
        f"bars: {sum(o.bars for o in outcomes)}, fewest {min(o.bars for o in outcomes)}",
        f"fills at the server: {sum(o.trades for o in outcomes)}; daemon lives: {sum(o.lives for o in outcomes)}",
        f"commands done: {sum(o.commands for o in outcomes)}; unanswered: {sum(o.unanswered for o in outcomes)}",
        f"campaign seed {seed}",
    ]
    return "\n".join(lines)
