"""The feeds that an earlier start chose by the account's data plan, stored in the state directory."""

from __future__ import annotations

import contextlib
from pathlib import Path

from daemon.config.tables import OPTION_FEEDS, STOCK_FEEDS
from daemon.host.whole_files import write_whole

FILE = "feed"


def kept_feed(state_dir: Path) -> tuple[str, str] | None:
    """Return the feeds of shares and of options; None if there are none or they are unreadable."""
    try:
        name, options = (state_dir / FILE).read_text().split()
    except (OSError, ValueError):
        return None
    return (name, options) if name in STOCK_FEEDS and options in OPTION_FEEDS else None


def write_feed(state_dir: Path, name: str, options: str) -> None:
    """Store the feeds for later starts; if the folder cannot be written, the next start asks again."""
    with contextlib.suppress(OSError):
        write_whole(state_dir / FILE, f"{name} {options}\n".encode())
