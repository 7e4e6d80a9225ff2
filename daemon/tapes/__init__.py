"""Readers of recorded bars and quotes, and the bundled tapes."""

from pathlib import Path

from strategies.kit.contract import Spec

BUNDLED_TAPE = Path(__file__).parent / "spy_synthetic_30.csv.gz"
"""Thirty synthetic sessions of SPY in one-minute bars, for the demo."""

DAILY_TAPE = Path(__file__).parent / "daily_synthetic_500.csv.gz"
"""Five hundred synthetic sessions of the 53 symbols of the daily desks in one-day bars."""


_TAPES = {"bar": BUNDLED_TAPE, "session": DAILY_TAPE}


def bundled_tape(spec: Spec) -> Path:
    """Return the bundled tape for a desk of this strategy: of minutes, or of days."""
    return _TAPES[spec.decides]
