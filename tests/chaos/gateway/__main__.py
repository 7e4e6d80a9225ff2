"""Three desks behind one gateway at one account, session after session, under random trouble.

`python -m tests.chaos.gateway --sessions 200 --seed N`. A floor lives through some mornings, then another begins. After
each session all trouble is taken away, and broker, gateway and desks must agree (docs/CHAOS.md says on what).
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.gateway.campaign import beside, campaign, format_report


def main() -> int:
    """Run it; exit code 1 when something did not hold."""
    parser = argparse.ArgumentParser("python -m tests.chaos.gateway", description="Three desks behind one gateway.")
    parser.add_argument("--sessions", type=int, default=200, help="how many (200)")
    parser.add_argument("--parallel", type=int, default=1, help="floors at the same time (1)")
    parser.add_argument("--seed", type=int, help="of the first floor; drawn where it is not given")
    parser.add_argument("--work", type=Path, help="folder for logs and journals (a temporary one)")
    parser.add_argument("--keep", action="store_true", help="keep the folders of floors that held too")
    beside_words = "one session at 60 times real time, with a program on alpaca-py beside the desks"
    parser.add_argument("--program", action="store_true", help=beside_words)
    options, began = parser.parse_args(), time.monotonic()
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    work = options.work or Path(tempfile.mkdtemp(prefix="rltrader-chaos-gateway."))
    print(f"gateway's campaign, seed {seed}, {options.sessions} sessions, folders in {work}", flush=True)
    if options.program:
        outcomes = beside(seed, work, keep=options.keep)
    else:
        outcomes = campaign(seed, options.sessions, options.parallel, work, keep=options.keep)
    print(format_report(outcomes, seed))
    print(f"took {(time.monotonic() - began) / 60:.1f} minutes")
    return int(any(outcome.problems for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
