"""The campaign's command: `python -m tests.chaos --sessions 500 --parallel 3`, or one session again with `--only K`.

It prints its seed first, each failed session with the command that repeats it, and in the end what was met.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.campaign import campaign, format_report, once_more, unmet
from tests.chaos.kinds import KINDS

ENOUGH = 400  # sessions in which every kind must be met


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command_line = argparse.ArgumentParser(
        "python -m tests.chaos", description="Sessions of the daemon under random faults."
    )
    command_line.add_argument("--sessions", type=int, default=500, help="how many (500)")
    command_line.add_argument("--parallel", type=int, default=3, help="how many at the same time (3)")
    command_line.add_argument("--seed", type=int, help="of the campaign; drawn where it is not given")
    command_line.add_argument(
        "--only", type=int, metavar="K", help="the session K of the campaign alone; its folder is kept"
    )
    command_line.add_argument(
        "--kind",
        action="append",
        choices=sorted(KINDS),
        metavar="NAME",
        help="this kind alone; may be repeated (docs/CHAOS.md has the names)",
    )
    command_line.add_argument(
        "--operator", action="store_true", help="with commands, metrics, a dead MQTT broker and a follower"
    )
    command_line.add_argument("--work", type=Path, help="folder for logs and journals (a temporary one)")
    return command_line


def main() -> int:
    """Run it; exit code 1 when a session failed or a kind was never met."""
    options, began = parser().parse_args(), time.monotonic()
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    work = options.work or Path(tempfile.mkdtemp(prefix="rltrader-chaos."))
    numbers = range(options.sessions) if options.only is None else range(options.only, options.only + 1)
    print(f"campaign seed {seed}, {len(numbers)} sessions, {options.parallel} at a time, folders in {work}", flush=True)
    hands = dict.fromkeys(numbers, options.kind) if options.kind else None
    how = {"keep": options.only is not None, "operated": options.operator}
    outcomes = campaign(seed, numbers, options.parallel, work, hands=hands, **how)
    whole = options.only is None and not options.kind and options.sessions >= ENOUGH
    for turn in range(2 * whole):
        if missing := once_more(unmet(outcomes), turn):
            print(f"{len(missing)} sessions more, for kinds that were not met", flush=True)
            outcomes += campaign(seed, missing, options.parallel, work, hands=missing, operated=options.operator)
    print(format_report(outcomes, seed, expected=frozenset(KINDS) if whole else frozenset()))
    print(f"took {(time.monotonic() - began) / 60:.1f} minutes")
    return int(any(outcome.problems for outcome in outcomes) or (whole and bool(unmet(outcomes))))


if __name__ == "__main__":
    sys.exit(main())
