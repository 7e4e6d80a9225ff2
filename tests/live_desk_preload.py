"""What the warm server of `tests.live_desk` loads before it forks: all that `rltraderd` needs, and the calendar."""

from __future__ import annotations

import alpaca.data.historical
import alpaca.trading.client
import onnxruntime
import uvloop

import daemon.live
from daemon.shell.calendar import SessionCalendar

SessionCalendar.to_horizon("2024-03-01")
