"""The clock selected by `[clock]`: real, simulated or virtual."""

from __future__ import annotations

from daemon.config.checks import sim_start_ns
from daemon.config.tables import DeskSettings
from daemon.host.time.clock import Clock, LeapWatch
from daemon.host.time.virtual_time import Participant


def clock_of(settings: DeskSettings) -> Clock:
    """Return the clock. Raises OSError if no server provides the virtual one."""
    if settings.clock.socket:
        return Clock.virtual(Participant(settings.clock.socket, settings.desk.name))
    start_ns = sim_start_ns(settings.clock)
    if start_ns is None:
        return Clock.real(watch=LeapWatch())
    return Clock.simulated(settings.clock.anchor_unix_s, start_ns, settings.clock.rate, watch=LeapWatch())
