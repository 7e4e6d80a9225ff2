"""The entry point of `train-and-export`: it checks that the training extras are installed, then calls `cli`."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec

from rltrader.install import install_line

NEEDED = ("torch", "onnx", "onnxscript", "gymnasium", "optuna", "arch", "tensorboard")
LIGHT = ("data", "download")  # need no more than the daemon has
USAGE_ERROR, STOPPED = 2, 130


def main() -> int:
    """Run `train-and-export`; returns the exit code."""
    try:
        return _open()
    except KeyboardInterrupt:  # while libraries are loaded, which takes seconds
        sys.stderr.write("train-and-export: stopped; give the same command again to go on\n")
        return STOPPED
    except Exception as error:
        from training.cli.main import wrong
        from training.rl.pool import own_fault

        if own_fault(error):  # of any type: the line in the strategy's file says more than ours
            return wrong(error)
        raise


def _open() -> int:
    if sys.argv[1:] and sys.argv[1] in LIGHT:
        code: int = import_module(f"training.cli.{sys.argv[1]}").main(sys.argv[2:])
        return code
    from training.rules import command

    words, rule, wrong = sys.argv[1:], False, ""
    try:
        rule = command.of_rule(words)
    except ValueError as error:
        wrong = str(error)
    missing = [name for name in NEEDED if find_spec(name) is None]
    if rule and (missing or words[:1] == ["search"]):
        return command.main(words)
    if missing and wrong:
        sys.stderr.write(f"train-and-export: {wrong}\n")
        return USAGE_ERROR
    if missing:
        sys.stderr.write(
            f"train-and-export: {', '.join(missing)} is not installed; training needs more than the daemon: "
            f"run `make training` in a checkout, or {install_line('cpu', 'training')} (Python 3.11); a strategy "
            "that is a rule (new-strategy --template plain) needs none of it\n"
        )
        return USAGE_ERROR
    from training.cli import main as cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
