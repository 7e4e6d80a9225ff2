"""What the warm server of `tests.live_desk` loads before it forks: all that `rltraderd` needs, and the calendar."""

from __future__ import annotations

import importlib

from daemon.shell.calendar import SessionCalendar

for name in ("alpaca.data.historical", "alpaca.trading.client", "daemon.live", "onnxruntime", "uvloop"):
    importlib.import_module(name)
SessionCalendar.to_horizon("2024-03-01")
