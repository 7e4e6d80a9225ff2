"""The bundled tapes, and the tool that writes them. A tape is data: nothing here decides anything."""

from pathlib import Path

from strategies.kit.contract import Spec

BUNDLED_TAPE = Path(__file__).parent / "spy_synthetic_30.csv.gz"
"""Thirty made-up sessions of SPY in one-minute bars, which the demo plays."""

DAILY_TAPE = Path(__file__).parent / "daily_synthetic_500.csv.gz"
"""Five hundred made-up sessions of the 53 symbols of the daily desks in one-day bars."""


def bundled(spec: Spec) -> Path:
    """The bundled tape that a desk of this strategy can be tried on: of minutes, or of days."""
    return DAILY_TAPE if spec.decides == "session" else BUNDLED_TAPE
