"""`rltrader-guard`, also as `python -m daemon.guard`."""

from __future__ import annotations

import sys

from daemon.guard.command import main

if __name__ == "__main__":
    sys.exit(main())
