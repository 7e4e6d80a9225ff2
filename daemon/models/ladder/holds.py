"""What a person keeps off the ladder: versions that are held back, and learning that is frozen.

One file on the shelf, `holds.json`, written whole by `rltraderctl models` and read by daemon and trainer.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from daemon.host.whole_files import write_whole
from daemon.models.pointer import ModelError, read_plain

HOLDS_FILE = "holds.json"
HOLDS_BYTES_MAX = 2**20


class Holds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Reasons: why learning is frozen ("": it is not), and why versions are held back."""

    frozen: str = ""
    held: dict[str, str] = {}


def holds_of(shelf: Path) -> Holds:
    """Return the shelf's holds; none without the file.

    Raises:
        ModelError: the file is unreadable. Then nothing may climb.
    """
    path = shelf / HOLDS_FILE
    if not path.exists():
        return Holds()
    data = read_plain(path, shelf.parent.resolve(), HOLDS_BYTES_MAX, "remove it, or hold and freeze again")
    try:
        return msgspec.json.decode(data, type=Holds)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError("holds", f"{path} is unreadable: {error}: remove it, or hold and freeze again") from None


def write_holds(shelf: Path, holds: Holds) -> None:
    """Write the shelf's holds. Raises OSError."""
    write_whole(shelf / HOLDS_FILE, msgspec.json.encode(holds) + b"\n")
