"""One line of `rltraderd --check`."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "FAIL"


@dataclass(frozen=True, slots=True)
class CheckLine:
    """One line of a check: its subject, its status, and the finding (with the cure if not ok)."""

    subject: str
    verdict: str
    text: str
