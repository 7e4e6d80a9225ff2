"""Writes the bundled tape: `python -m daemon.tapes.make_synthetic [FILE]`. Made-up bars, and it says so on line one.

The same seed and sessions give the same bytes everywhere (gzip's time stamp is 0), which a test holds it to.
"""

from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path

from daemon.shell.calendar import SessionCalendar
from daemon.tapes import BUNDLED_TAPE
from strategies.synthetic import synthetic_sessions

SEED = 20241231
FIRST_DATE, LAST_DATE = "2024-10-22", "2024-12-03"  # 30 sessions: the clocks change on 3 November, 29 November is half
SYMBOL = "SPY"


def tape_bytes() -> bytes:
    """The CSV.gz file: a comment line, a header, and a row a minute with prices in USD and volume in shares."""
    calendar = SessionCalendar.load(FIRST_DATE, LAST_DATE)
    sessions = [session for session in calendar.sessions if FIRST_DATE <= session.date <= LAST_DATE]
    text = io.StringIO()
    text.write(f"# synthetic bars, no market data: seed {SEED}, sessions {FIRST_DATE} to {LAST_DATE}\n")
    text.write("symbol,timestamp,open,high,low,close,volume\n")
    for bar in synthetic_sessions(SEED, sessions, symbol=SYMBOL):
        prices = f"{bar.open:.2f},{bar.high:.2f},{bar.low:.2f},{bar.close:.2f}"
        text.write(f"{bar.symbol},{bar.start_ns},{prices},{bar.volume:.0f}\n")
    return gzip.compress(text.getvalue().encode(), compresslevel=9, mtime=0)


def main() -> int:
    """Write the tape to the file given, or to the bundled one."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else BUNDLED_TAPE
    size = path.write_bytes(tape_bytes())
    print(f"wrote {path}: {size:,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
