"""What the warm server of `tests.support.desks.warm` loads before it forks: all that the commands need."""

from __future__ import annotations

import gc
import importlib

from daemon.host.time.calendar import SessionCalendar

for name in (
    "daemon.brokers.alpaca.assemble",
    "daemon.cli.daemon",
    "daemon.cli.ctl",
    "daemon.app.live.desk",
    "daemon.gateway.command",
    "onnxruntime",
    "tests.support.desks.live_desk",
    "uvloop",
):
    importlib.import_module(name)
SessionCalendar.to_horizon("2024-03-01")
gc.freeze()  # a forked process looks at none of this again: its pages stay shared
