"""The lines of the show: each is printed when it was seen, and what was not seen is named at the end."""

from __future__ import annotations

from collections.abc import Callable

LINES = (
    "market",
    "waits",
    "cold start",
    "wakes",
    "explores",
    "forged card",
    "rolled back",
    "learns",
    "negated",
    "published",
    "card",
    "replay",
    "shadow",
    "canary",
    "champion",
    "earns",
    "dashboard",
    "once",
    "verified",
)
"""What has to be seen, in this order."""


class Story:
    """Numbers and prints the lines. Raises ValueError for one that is unknown."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self.seen: list[str] = []

    def tell(self, name: str, text: str) -> None:
        """Print a line that was seen; a second time it changes nothing."""
        if name not in LINES:
            raise ValueError(f"{name!r} is no line of the show: expected one of {', '.join(LINES)}")
        if name not in self.seen:
            self.seen.append(name)
            self._write(f"{len(self.seen):2d}  {text}")

    @property
    def missing(self) -> list[str]:
        """The lines that were not seen, in their order."""
        return [name for name in LINES if name not in self.seen]

    def end(self, problem: str = "", seconds: float = 0.0) -> int:
        """Print how it ended; returns the exit code."""
        if not self.missing and not problem:
            self._write(f"    All {len(LINES)} were seen, in {seconds:.0f} s.")
            return 0
        if problem:
            self._write(f"    It ended early: {problem}")
        self._write(f"    Not seen: {', '.join(self.missing) or 'nothing'}.")
        return 1
