"""The entry point of `train-and-export`: it checks that the training extras are installed, then calls `cli`."""

from __future__ import annotations

import sys
from importlib.util import find_spec

NEEDED = ("torch", "onnx", "onnxscript", "gymnasium", "optuna", "arch", "tensorboard")
USAGE_ERROR, STOPPED = 2, 130


def main() -> int:
    """Run `train-and-export`; returns the exit code."""
    try:
        return _open()
    except KeyboardInterrupt:  # while libraries are loaded, which takes seconds
        sys.stderr.write("train-and-export: stopped; give the same command again to go on\n")
        return STOPPED


def _open() -> int:
    if sys.argv[1:2] == ["download"]:  # needs no more than the daemon has
        from training.cli import download

        return download.main(sys.argv[2:])
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"train-and-export: {', '.join(missing)} is not installed; training needs more than the daemon: "
            "run `make training` in a checkout, or pip install 'rltrader[cpu,training]' (Python 3.11)\n"
        )
        return USAGE_ERROR
    from training.cli import main as cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
