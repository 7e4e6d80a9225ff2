"""How often simulated tests pass the criteria of promotion: noise and planted edges, a table as Markdown.

    python -m bench.training.bench_promotion [--series 10000]

See `training.evidence.power` for what is simulated and what is not. `ratio` is the annual mean of the edge over its
deviation; 0 is noise.
"""

from __future__ import annotations

import argparse
import sys

from training.evidence.power import DAYS, MINUTES, rate

CELLS = (
    (MINUTES, 60, (0.0, 8.0, 10.0)),
    (MINUTES, 250, (0.0, 4.0, 5.0)),
    (DAYS, 756, (0.0, 2.0, 2.5)),
    (DAYS, 1512, (0.0, 1.5, 2.0)),
    (DAYS, 2016, (0.0, 1.25, 1.75)),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--series", type=int, default=10_000, help="for each line (%(default)s)")
    count = parser.parse_args().series
    sys.stdout.write("| desk | test sessions | ratio of | ratio | passed | most often failed first |\n")
    sys.stdout.write("|---|---|---|---|---|---|\n")
    for cadence, sessions, ratios in CELLS:
        for ratio in ratios:
            found = rate(cadence, sessions, ratio, count)
            failed = max(found.failed, key=lambda name: found.failed[name], default="–")
            line = f"| {cadence.name} | {sessions:,} | {cadence.edge} | {ratio:g} | {found.share:.2%} | {failed} |\n"
            sys.stdout.write(line.replace("%", " %"))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
