"""Cards in the store: which version is judged next, its card, and which versions a person keeps off the ladder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection
from hashlib import sha256
from pathlib import Path

import msgspec

from daemon.core.handlers import JUDGED_MAX
from daemon.host.whole_files import write_whole
from daemon.models.pointer import ModelError, alone, foreign, put_aside, read_plain
from daemon.models.store import LoadedModel, versions
from strategies.kit.card import CARD_FILE, FORMAT, STAKES, Card, decode
from strategies.kit.manifest import Manifest

CARD_BYTES_MAX = 2**20


def card_of(model: LoadedModel) -> Card:
    """Return a verified version's card. Raises ModelError as `read_card`."""
    return read_card(model.path, model.manifest)


def read_card(folder: Path, manifest: Manifest) -> Card:
    """Return the card in a version's folder.

    Raises:
        ModelError: the manifest does not vouch for it, or it is unreadable or another version's.
    """
    path, cure = folder / CARD_FILE, "publish the version again by the trainer"
    if CARD_FILE not in manifest.files:
        raise ModelError("card", f"{path} is not named by the manifest: {cure}")
    data = read_plain(path, folder.parent.parent.resolve(), CARD_BYTES_MAX, cure)
    if sha256(data).hexdigest() != manifest.files[CARD_FILE]:
        raise ModelError("file digest", f"{path} is not the one that the manifest vouches for: {cure}")
    try:
        card = decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # deeply nested
        raise ModelError("card", f"{path} is unreadable: {error}: {cure}") from None
    if (card.format, card.version) != (FORMAT, folder.name):
        fault = f"format {card.format} of {card.version}"
        raise ModelError("card", f"{path} has {fault}, expected format {FORMAT} of {folder.name}: publish it again")
    return card


def figures_of(card: Card) -> dict[str, float]:
    """Return the card's figures as the journal keeps them."""
    figures = {name: float(getattr(card, name)) for name in ("sessions", "overlap", "effective", "exploration")}
    figures |= {f"lead_{name}": lead.estimate for name, lead in card.leads.items()}
    figures |= {f"lead_{name}_low": lead.low for name, lead in card.leads.items()}
    figures |= {f"band_{stake}": loss for stake, loss in zip(STAKES, card.band, strict=False)}
    return figures | {"session_mean": card.session_mean, "session_deviation": card.session_deviation}


def card_times(models_dir: Path, strategy: str) -> dict[str, int]:
    """Return each version with a card, and the time (ns) of its file."""
    shelf, times = models_dir / strategy, {}
    for version in versions(models_dir, strategy):
        with contextlib.suppress(OSError):
            times[version] = (shelf / version / CARD_FILE).stat().st_mtime_ns
    return times


def newest_with_card(
    models_dir: Path, strategy: str, judged_versions: Collection[str], other_versions: Collection[str]
) -> str:
    """Return the version with the newest card, except the judged and the other ones; "" without one.

    Once as many were judged as the journal remembers, cards older than theirs may be of forgotten versions and are left
    out. A card dated in the future, by a host with a wrong clock, does not count for that, and waits for its time.
    """
    cards, now_ns = card_times(models_dir, strategy), time.time_ns()
    after_ns, until_ns = -1, max(cards.values(), default=0)
    if len(judged_versions) >= JUDGED_MAX:
        judged_at = (cards.get(version, 0) for version in judged_versions)
        after_ns, until_ns = max((at for at in judged_at if at <= now_ns), default=0), now_ns
    candidates = [
        name
        for name, at in cards.items()
        if after_ns < at <= until_ns and name not in judged_versions and name not in other_versions
    ]
    return max(candidates, key=lambda version: (cards[version], version), default="")


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
    """Return the holds that a person changes; none where a folder has the file's name. Raises as `holds_of`."""
    return HoldReasons() if (shelf / HOLDS_FILE).is_dir() else holds_of(shelf)


def change_holds(shelf: Path, change: Callable[[HoldReasons], HoldReasons]) -> HoldReasons:
    """Replace the shelf's holds by `change` of them, and return them: concurrent changes do not undo each other.

    Raises as `holds_of`, OSError, and what `change` raises.
    """
    with alone(shelf):
        holds = change(former_holds(shelf))
        write_holds(shelf, holds)
    return holds


def write_holds(shelf: Path, holds: HoldReasons) -> None:
    """Write the shelf's holds, replacing anything of the file's name. Raises OSError."""
    put_aside(shelf / HOLDS_FILE, folders=True)
    write_whole(shelf / HOLDS_FILE, msgspec.json.encode(holds) + b"\n", exact=True)
