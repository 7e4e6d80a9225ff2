"""The entry point of `rltrader-publisher`: it checks that the extra `online` is installed, then calls the command."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from rltrader.install import install_line

USAGE_ERROR = 2


def main() -> int:
    """Run `rltrader-publisher`; returns the exit code."""
    if find_spec("redis") is None:
        sys.stderr.write(f"rltrader-publisher: redis is not installed: run `{install_line('online')}`\n")
        return USAGE_ERROR
    from daemon.experience.command import main as publish

    return publish()


if __name__ == "__main__":
    sys.exit(main())
