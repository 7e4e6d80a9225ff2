"""Arguments that several commands of `rltraderctl` share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    """Add a command about one state directory: `commands` is what `add_subparsers` returned."""
    made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    made.add_argument("--state-dir", type=Path, required=True, metavar="DIR", help="folder of the journal")
    return made


def add_limit(command: argparse.ArgumentParser) -> None:
    """Add `--limit`: how many rows are shown."""
    command.add_argument("--limit", type=_count, default=20, metavar="N", help="at most N (default 20)")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) not in range(1, 2**63):
        raise argparse.ArgumentTypeError(f"{text!r} is no count; expected 1 or more")
    return int(text)
