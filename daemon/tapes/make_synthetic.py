"""Write the bundled tapes: `python -m daemon.tapes.make_synthetic`. Synthetic bars, labelled on line one.

The same seed and sessions give the same bytes everywhere (gzip's time stamp is 0); a test checks that.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable

from daemon.host.time.calendar import SessionCalendar, midnight_ns
from daemon.tapes import BUNDLED_TAPE, DAILY_TAPE, bundled_tape
from strategies.kit.contract import Bar
from strategies.kit.synthetic import synthetic_days, synthetic_sessions
from strategies.registry import STRATEGIES, strategy

SEED = 20241231
FIRST_DATE, LAST_DATE = "2024-10-22", "2024-12-03"  # 30 sessions: the clocks change on 3 November, 29 November is half
SYMBOL = "SPY"
FIRST_DAY, LAST_DAY = "2022-12-05", "2024-11-29"  # 500 sessions
DAILY_SYMBOLS = tuple(
    dict.fromkeys(
        symbol
        for spec in (strategy(name).spec for name in STRATEGIES)
        if bundled_tape(spec) == DAILY_TAPE
        for symbol in spec.symbols
    )
)


def tape_bytes() -> bytes:
    """Return one-minute bars as CSV.gz: a comment, a header, and a row per minute; prices in USD, volume in shares."""
    calendar = SessionCalendar.load(FIRST_DATE, LAST_DATE)
    sessions = [session for session in calendar.sessions if FIRST_DATE <= session.date <= LAST_DATE]
    return _csv_bytes(FIRST_DATE, LAST_DATE, synthetic_sessions(SEED, sessions, symbol=SYMBOL))


def daily_tape_bytes() -> bytes:
    """Return one-day bars of all daily symbols as CSV.gz, like `tape_bytes`; a row starts at midnight New York."""
    calendar = SessionCalendar.load(FIRST_DAY, LAST_DAY)
    starts = [midnight_ns(session.date) for session in calendar.sessions if FIRST_DAY <= session.date <= LAST_DAY]
    return _csv_bytes(FIRST_DAY, LAST_DAY, synthetic_days(SEED, DAILY_SYMBOLS, starts))


def _csv_bytes(first: str, last: str, bars: Iterable[Bar]) -> bytes:
    text = io.StringIO()
    text.write(f"# synthetic bars, no market data: seed {SEED}, sessions {first} to {last}\n")
    text.write("symbol,timestamp,open,high,low,close,volume\n")
    for bar in bars:
        prices = f"{bar.open:.2f},{bar.high:.2f},{bar.low:.2f},{bar.close:.2f}"
        text.write(f"{bar.symbol},{bar.start_ns},{prices},{bar.volume:.0f}\n")
    return gzip.compress(text.getvalue().encode(), compresslevel=9, mtime=0)


def main() -> int:
    """Write the bundled tapes."""
    for path, data in ((BUNDLED_TAPE, tape_bytes()), (DAILY_TAPE, daily_tape_bytes())):
        size = path.write_bytes(data)
        print(f"wrote {path.name}: {size:,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
