"""Entry point of `rltraderd`: limits what is loaded, then calls `daemon.cli.daemon`."""

from __future__ import annotations

import os
import sys

from daemon.host.lean import without_pandas


def main() -> int:
    """Run `rltraderd`; returns the exit code."""
    without_pandas()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy multiplies nothing here; its idle threads cost time
    from daemon.cli import daemon as cli
    from daemon.cli.start.exits import TROUBLE, ThreadsLeft

    left = ThreadsLeft()
    try:
        code = cli.main()
    except Exception:
        left.leave_in_time(TROUBLE)
        raise
    left.leave_in_time(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
