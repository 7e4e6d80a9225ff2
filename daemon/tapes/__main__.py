"""Print the path of a strategy's bundled tape: `python -m daemon.tapes NAME`. Used by `make demo`."""

from __future__ import annotations

import sys

from daemon.tapes import bundled_tape
from strategies.registry import strategy

if __name__ == "__main__":
    try:
        print(bundled_tape(strategy(sys.argv[1]).spec))
    except (IndexError, ValueError) as error:
        raise SystemExit(f"python -m daemon.tapes NAME: {error}") from None
