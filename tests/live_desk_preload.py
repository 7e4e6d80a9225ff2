"""What the warm server of `tests.warm` loads before it forks: all that `rltraderd` and `rltraderctl` need."""

from __future__ import annotations

import gc
import importlib

from daemon.shell.calendar import SessionCalendar

for name in (
    "alpaca.data.historical",
    "alpaca.trading.client",
    "daemon.cli",
    "daemon.ctl",
    "daemon.live",
    "onnxruntime",
    "tests.live_desk",
    "uvloop",
):
    importlib.import_module(name)
SessionCalendar.to_horizon("2024-03-01")
gc.freeze()  # a forked process looks at none of this again: its pages stay shared
