"""`rltrader-notify`, also as `python -m daemon.notify`."""

from __future__ import annotations

import sys

from daemon.notify.command import main

if __name__ == "__main__":
    sys.exit(main())
