"""Which kinds were met, and how often while an order worked or a position was open: counted where it is taken.

A line of the script belongs to the kind that armed it; lines that only prepare are not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from simulator.faults import Context, Fault, Faults
from tests.chaos.kinds import Line


class Tally(Faults):
    """The server's script of faults, which also counts by the campaign's kinds."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.kinds_met: Counter[str] = Counter()
        self.kinds_exposed: Counter[str] = Counter()
        self._owners: dict[int, tuple[str, Fault]] = {}

    def arm(self, name: str, line: Line, now_ns: int) -> None:
        """Add a line of the kind `name`, from now on."""
        until_ns = now_ns + int(line.lasts_s * 1e9) if line.lasts_s else None
        times = None if line.lasts_s else line.times
        where: Mapping[str, object] = line.where
        fault = self.add(line.kind, times=times, until_ns=until_ns, where=where, **line.parameters)
        if line.counts:
            self._owners[id(fault)] = (name, fault)

    def armed(self, name: str, line: Line) -> bool:
        """Whether this line of the kind `name` waits already."""
        waiting = self.waiting(line.kind)
        return any(owner == name and any(fault is it for it in waiting) for owner, fault in self._owners.values())

    def did(self, name: str, *, exposed: bool) -> None:
        """Count what the runner did itself."""
        self.kinds_met[name] += 1
        self.kinds_exposed[name] += exposed

    def take(self, kind: str, context: Context | None = None) -> Fault | None:
        """As the server's; and count it for the kind that armed it."""
        before = self.met_exposed[kind]
        fault = super().take(kind, context)
        if fault is not None and id(fault) in self._owners:
            self.did(self._owners[id(fault)][0], exposed=self.met_exposed[kind] > before)
        return fault
