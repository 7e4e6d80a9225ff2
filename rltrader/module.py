"""Run a module of rltrader, whatever the working folder holds: `python -m rltrader.module daemon.tapes NAME`."""

from __future__ import annotations

import runpy
import sys

from rltrader import PACKAGES


def main() -> None:
    """Run the module that the first argument names, as `python -m` does, with the other arguments."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name.split(".")[0] not in PACKAGES:
        sys.exit(f"rltrader.module: {name or 'nothing'!r} is no module of {', '.join(PACKAGES)}")
    del sys.argv[0]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
