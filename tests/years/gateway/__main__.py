"""`python -m tests.years.gateway`: a gateway and three desks in one process each run, in virtual time, from one seed.

--seed 1 --runs 10       so many runs, each of a few sessions
--seed 7 --runs 1 --story  one of them again, with its story
--without 0,3            leave out what happens at these places of the plan: to find what breaks a rule
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

from tests.years.__main__ import Running
from tests.years.desks import warm
from tests.years.gateway.floor import Outcome, live
from tests.years.gateway.plan import Plan, draw
from tests.years.shrink import STORY_KINDS

LOGS = ("order_submitted", "order_filled", "order_rejected", "order_denied", "halted", "reconciled", "gateway_")


def measure(plan: Plan) -> tuple[Outcome, float]:
    """Live one run in a process of its own; returns its outcome and the processor's seconds.

    Raises RuntimeError where the run itself failed.
    """
    warm(plan.desks, plan.seed, plan.first)
    outcome, cpu_s = Running(partial(live, plan)).result()
    if isinstance(outcome, str):
        raise RuntimeError(outcome)  # noqa: TRY004 (it is why there is no outcome)
    return outcome, cpu_s


def story(outcome: Outcome) -> list[str]:
    """What happened, a line each."""
    lines = []
    for at_ns, kind, text in outcome.story:
        if kind in STORY_KINDS or (kind == "log" and any(f'"event": "{name}' in text for name in LOGS)):
            moment = datetime.fromtimestamp(at_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
            lines.append(f"{moment} {kind}: {text[:400]}")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m tests.years.gateway", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the first run (%(default)s)")
    parser.add_argument("--runs", type=int, default=1, help="how many (%(default)s)")
    parser.add_argument("--days", type=int, default=0, help="sessions of each (drawn)")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no run after so many real seconds")
    parser.add_argument("--story", action="store_true", help="tell the story of each")
    parser.add_argument("--without", default="", help="leave out these happenings, by their places")
    options = parser.parse_args(arguments)
    began, sessions, bad, cpu_all = time.monotonic(), 0, 0, 0.0
    counts: Counter[str] = Counter()
    for seed in range(options.seed, options.seed + options.runs):
        if time.monotonic() - began > options.seconds:
            break
        plan = draw(seed, options.days).without({int(word) for word in options.without.split(",") if word})
        try:
            outcome, cpu_s = measure(plan)
        except RuntimeError as error:
            print(f"{seed}: the run itself failed: {error}", flush=True)
            bad += 1
            continue
        if options.story:
            print("\n".join(story(outcome)))
        sessions, cpu_all, bad = sessions + plan.days, cpu_all + cpu_s, bad + bool(outcome.problems)
        counts.update(outcome.met)
        print(
            f"{seed}: {plan.days} sessions of {', '.join(plan.desks)}, {outcome.orders} orders, {outcome.fills} fills, "
            f"{outcome.lives} lives, {cpu_s / plan.days:.1f} CPU seconds a session, digest {outcome.digest}",
            flush=True,
        )
        for problem in outcome.problems:
            moment = datetime.fromtimestamp(problem.at_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
            print(f"  {moment} {problem.rule}: {problem.text[:700]}", flush=True)
    for name, count in sorted(counts.items()):
        print(f"  {name:80s} {count:6d}")
    rate = cpu_all / max(sessions, 1)
    print(f"{sessions} sessions of three desks, {bad} runs with problems, {rate:.1f} CPU seconds a session")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
