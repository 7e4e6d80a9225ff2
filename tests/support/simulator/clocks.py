"""The clock of a stage: virtual, or simulated at a rate."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from simulator.clock import SimClock
from simulator.virtual_clock import virtual_clock


@contextlib.contextmanager
def clock_from(start_ns: int, rate: float | None = None, seed: object = 0) -> Iterator[SimClock]:
    """A clock for the time of a `with`: virtual, or at `rate` simulated seconds a second where there is one."""
    if rate is not None:
        yield SimClock.starting_now(start_ns, rate)
        return
    with virtual_clock(start_ns, seed) as clock:
        yield clock
