"""The lines of the show: each is printed when it was seen, and what was not seen is named at the end."""

from __future__ import annotations

from collections.abc import Callable

LINES = {
    "market": "the market is made up, and what it hides",
    "waits": "the desk starts without a model and trades nothing",
    "cold start": "the trainer makes the first model of the history",
    "wakes": "the first model wakes the desk",
    "explores": "choices against the model, which reach the trainer over Redis",
    "forged card": "a version that promises 30 % a session passes its card",
    "rolled back": "its canary finds it out, and the first model answers again",
    "learns": "after five sessions a version is set aside, and later ones judge it",
    "negated": "a version that wants the opposite of what was learned is refused",
    "published": "the version of session 5 is published",
    "card": "its card passes",
    "replay": "the replay of the journal's sessions passes",
    "shadow": "in shadow it leads",
    "canary": "it trades 10, 25, 50 and 100 % of the size",
    "champion": "it is the champion",
    "earns": "what it earns at the full size, beside what the first model earned",
    "dashboard": "the dashboard's page shows it, its card and its steps",
    "once": "each decision was learned once",
    "verified": "the whole journal steps again to the same bytes",
}
"""What has to be seen, by name, in this order; docs/ONLINE.md has the same list."""


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
