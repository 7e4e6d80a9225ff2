"""`rltrader-gateway`, also as `python -m daemon.gateway`."""

from __future__ import annotations

import sys

from daemon.gateway.command import main

if __name__ == "__main__":
    sys.exit(main())
