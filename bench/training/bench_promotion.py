"""How often simulated tests pass the criteria of promotion: noise and planted edges, a table as Markdown.

    python -m bench.training.bench_promotion [--series 10000] [--markets 40] [--claim lead|risk]

See `training.evidence.power` for what is simulated of a lead and what is not: `ratio` is the annual mean of the edge
over its deviation; 0 is noise. See `training.evidence.risk_power` for claims of a stated risk.
"""

from __future__ import annotations

import argparse
import sys

from strategies.kit.manifest import LEAD, RISK
from training.evidence.power import DAYS, MINUTES, rate
from training.evidence.risk_power import KINDS, risk_rate

CELLS = (
    (MINUTES, 60, (0.0, 8.0, 10.0)),
    (MINUTES, 250, (0.0, 4.0, 5.0)),
    (DAYS, 756, (0.0, 2.0, 2.5)),
    (DAYS, 1512, (0.0, 1.5, 2.0)),
    (DAYS, 2016, (0.0, 1.25, 1.75)),
)
RISK_CELLS = ((1512, 1), (2016, 1), (2016, 20))  # test sessions, trials that saw them


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--series", type=int, default=10_000, help="for each line (%(default)s)")
    parser.add_argument("--markets", type=int, default=40, help="of each line of a risk (%(default)s)")
    parser.add_argument("--claim", choices=(LEAD, RISK), help="one of the two tables alone")
    options = parser.parse_args()
    if options.claim != RISK:
        _leads(options.series)
    if options.claim != LEAD:
        _risks(options.markets)


def _leads(count: int) -> None:
    sys.stdout.write("| desk | test sessions | ratio of | ratio | passed | most often failed first |\n")
    sys.stdout.write("|---|---|---|---|---|---|\n")
    for cadence, sessions, ratios in CELLS:
        for ratio in ratios:
            measured = rate(cadence, sessions, ratio, count)
            failed = max(measured.failed, key=lambda name: measured.failed[name], default="–")
            line = f"| {cadence.name} | {sessions:,} | {cadence.edge} | {ratio:g} | {measured.share:.2%} | {failed} |\n"
            sys.stdout.write(line.replace("%", " %"))
            sys.stdout.flush()


def _risks(count: int) -> None:
    sys.stdout.write("\n| claim of a risk | test sessions | trials | proven | most often failed |\n")
    sys.stdout.write("|---|---|---|---|---|\n")
    for kind in KINDS:
        for sessions, trials in RISK_CELLS if kind.true else RISK_CELLS[1:2]:
            measured = risk_rate(kind, sessions, count, trials=trials)
            failed = max(measured.failed, key=lambda name: measured.failed[name], default="–")
            cells = (kind.name, f"{sessions:,}", str(trials), f"{measured.proven} of {measured.markets}", failed)
            sys.stdout.write(f"| {' | '.join(cells)} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
