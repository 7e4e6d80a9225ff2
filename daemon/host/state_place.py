"""The default state directory of a desk started here, for the daemon, rltraderctl and the dashboard."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from daemon.host.own_files import StateDirError

STATE_DIR = Path("state")
CONFIG = Path("config.toml")
VARIABLE = "RLTRADER_PATHS__STATE_DIR"
WHOLE_PATH = "a whole path: nothing puts your home folder in place of ~ here"
"""What is expected instead of a path that begins with ~."""


def configured_state_dir() -> Path:
    """Return `paths.state_dir` of the environment, else of ./config.toml, else the default. No other key is read.

    Raises:
        StateDirError: ./config.toml is unreadable, or its key is no text.
    """
    if folder := os.environ.get(VARIABLE):
        return Path(folder)
    try:
        folder_text = tomllib.loads(CONFIG.read_text()).get("paths", {}).get("state_dir", str(STATE_DIR))
    except FileNotFoundError:
        return STATE_DIR
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, AttributeError) as error:
        raise StateDirError(f"{CONFIG}: unreadable: {error}: mend it, or name the desk with --state-dir") from error
    if not isinstance(folder_text, str) or not folder_text:
        raise StateDirError(
            f"{CONFIG}: paths.state_dir is {folder_text!r}: expected a folder; or name it with --state-dir"
        )
    return Path(folder_text)
