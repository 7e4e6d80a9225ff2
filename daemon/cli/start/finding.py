"""One line of `rltraderd --check`."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, how it is, and what was found (with the cure where it is not ok)."""

    subject: str
    verdict: str
    text: str
