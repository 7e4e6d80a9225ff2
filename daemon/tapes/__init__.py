"""The bundled tapes, and the tool that writes them. A tape is data: nothing here decides anything."""

from pathlib import Path

BUNDLED_TAPE = Path(__file__).parent / "spy_synthetic_30.csv.gz"
"""Thirty made-up sessions of SPY in one-minute bars, which the demo plays."""
