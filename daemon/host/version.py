"""`--version` of every command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any


class _Print(argparse.Action):
    """Print the command and the version of the installed package, and exit."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **kwargs)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version  # 10 ms that a start without --version saves

        sys.stdout.write(f"{parser.prog} {version('rltrader')}\n")
        parser.exit()


def add_version(parser: argparse.ArgumentParser) -> None:
    """Add `--version` to a command."""
    parser.add_argument("--version", action=_Print, help="print the installed version and exit")
