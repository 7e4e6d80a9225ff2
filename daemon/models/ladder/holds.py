"""What a person keeps off the ladder: versions that are held back, and learning that is frozen.

One file on the shelf, `holds.json`, written whole by `rltraderctl models` and read by daemon and trainer.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from daemon.host.whole_files import write_whole
from daemon.models.pointer import ModelError, foreign, put_aside, read_plain

HOLDS_FILE = "holds.json"
HOLDS_BYTES_MAX = 2**20


class HoldReasons(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Reasons: why learning is frozen ("": it is not), and why versions are held back."""

    frozen: str = ""
    held: dict[str, str] = {}


def holds_of(shelf: Path) -> HoldReasons:
    """Return the shelf's holds; none without the file, or where another user than the shelf's owner made it.

    Raises:
        ModelError: the file is unreadable. Then nothing may climb.
    """
    path = shelf / HOLDS_FILE
    if not path.exists() or foreign(path):
        return HoldReasons()
    data = read_plain(path, shelf.parent.resolve(), HOLDS_BYTES_MAX, "remove it, or hold and freeze again")
    try:
        return msgspec.json.decode(data, type=HoldReasons)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError("holds", f"{path} is unreadable: {error}: remove it, or hold and freeze again") from None


def former_holds(shelf: Path) -> HoldReasons:
    """Return the holds that a person changes; none where a folder has the file's place. Raises as `holds_of`."""
    return HoldReasons() if (shelf / HOLDS_FILE).is_dir() else holds_of(shelf)


def write_holds(shelf: Path, holds: HoldReasons) -> None:
    """Write the shelf's holds, whatever has taken the file's place. Raises OSError."""
    put_aside(shelf / HOLDS_FILE, folders=True)
    write_whole(shelf / HOLDS_FILE, msgspec.json.encode(holds) + b"\n")
