"""Arguments that several commands of `rltraderctl` share, and the error of a request without a result."""

from __future__ import annotations

import argparse
from pathlib import Path


class NotFound(Exception):
    """Nothing to show; the message names what was requested."""


def add_state_dir(command: argparse.ArgumentParser) -> None:
    """Add `--state-dir`: the one state directory that the command is about."""
    text = "folder of the journal (default: paths.state_dir of ./config.toml and the environment)"
    command.add_argument("--state-dir", type=Path, metavar="DIR", help=text)
    add_own_strategy(command)


def add_own_strategy(command: argparse.ArgumentParser) -> None:
    """Add `--strategy`: where the desk's own strategy is now, if its file was moved."""
    text = "file of the desk's strategy of your own, if it was moved (default: the one that the journal remembers)"
    command.add_argument("--strategy", dest="own_strategy", metavar="FILE.py", help=text)


def add_limit(command: argparse.ArgumentParser) -> None:
    """Add `--limit`: how many rows are shown."""
    command.add_argument("--limit", type=count, default=20, metavar="N", help="at most N (default 20)")


def count(text: str) -> int:
    """Read a whole number above 0. Raises argparse.ArgumentTypeError."""
    if not text.isdecimal() or int(text) not in range(1, 2**63):
        raise argparse.ArgumentTypeError(f"{text!r} is no count; expected 1 or more")
    return int(text)
