"""The entry point of `rltrader-trainer`: it checks that the extras are installed, then calls the command."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from rltrader.install import install_line

NEEDED = ("torch", "onnx", "onnxscript", "redis")
USAGE_ERROR, STOPPED = 2, 130


def main() -> int:
    """Run `rltrader-trainer`; returns the exit code."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"rltrader-trainer: {', '.join(missing)} is not installed: run "
            f"`{install_line('cpu', 'training', 'online')}`\n"
        )
        return USAGE_ERROR
    try:
        from training.online.command import main as learn

        return learn()
    except KeyboardInterrupt:  # while libraries are loaded, which takes seconds
        return STOPPED


if __name__ == "__main__":
    sys.exit(main())
