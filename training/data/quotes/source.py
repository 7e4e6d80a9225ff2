"""A file of recorded option quotes as a run names it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class QuoteSource:
    """Recorded option quotes that a run trains and tests on."""

    path: Path
    sha256: str
    root: str = ""  # of the contracts; "" is the strategy's underlying
    closes: Path | None = None  # bars whose closes give the volatility of modelled fills; None: the run's bars
    closes_sha256: str = ""
    synthetic_share: float = 0.0  # of the training episodes, on Black-Scholes prices

    @property
    def identity(self) -> dict[str, Any]:
        """The fields that decide a run's result, as JSON."""
        closes = {} if self.closes is None else {"closes": self.closes.name, "closes_sha256": self.closes_sha256}
        fields = {"file": self.path.name, "sha256": self.sha256, "synthetic_share": self.synthetic_share}
        return fields | ({"root": self.root} if self.root else {}) | closes
