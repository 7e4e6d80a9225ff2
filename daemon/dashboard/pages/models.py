"""The model store now, candidates compared with the live model, and the model changes in the journal.

Nothing is loaded or run here: manifests are read, and a file that cannot be read becomes a line with the reason.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from daemon.core.limits import Trading
from daemon.dashboard.desks import Picture
from daemon.dashboard.pages.decisions import shadow_rows
from daemon.dashboard.views import ModelLine, ModelsPage, ShadowSummary
from daemon.journal.reader import JournalReader
from daemon.models.pointer import CANDIDATE, CURRENT, ModelError, read_plain, version_of_pointer
from daemon.models.store import MANIFEST_BYTES_MAX, claim_words, versions
from strategies.kit.manifest import MANIFEST_FILE, Manifest, decode
from strategies.registry import configured

VERSIONS_MOST = 50
METRICS_MOST = 40
_SHADOWS = """
SELECT s.model AS model,
       count(s.action) AS decisions,
       avg(CASE WHEN s.action IS NOT NULL THEN s.action = d.action END) AS agreement,
       avg(CASE WHEN s.action IS NOT NULL THEN d.confidence END) AS live,
       avg(s.confidence) AS shadow,
       sum(s.problem <> '') AS failures,
       max(s.decision) AS newest
FROM shadows s JOIN decisions d ON d.decision = s.decision AND d.logits IS NOT NULL
GROUP BY s.model ORDER BY newest DESC
"""


def models_page(picture: Picture, reader: JournalReader, models_dir: Path) -> ModelsPage:
    """`GET /api/models`. Raises sqlite3.Error."""
    strategy = picture.meta.get("strategy", "")
    shadows = tuple(map(_summary, shadow_rows(reader, _SHADOWS)))
    if picture.spec is None:
        return ModelsPage("", (), shadows, picture.newest.swaps, bool(picture.process))
    shelf = models_dir / strategy
    current, candidate = _pointer(shelf, CURRENT), _pointer(shelf, CANDIDATE)
    model = picture.state.model if picture.state is not None else None
    running = model.version if model is not None else ""
    names = versions(models_dir, strategy)
    # versions with a pointer or an answer first, then the newest
    newest = sorted(names, key=lambda name: (name in (current, candidate, running), name), reverse=True)[:VERSIONS_MOST]
    trading = picture.state.trading if picture.state is not None else None
    desk = None if trading is None else (trading, configured(picture.spec))
    lines = tuple(
        _line(shelf / name, name, desk, current=name == current, candidate=name == candidate, running=name == running)
        for name in newest
    )
    absent_models = () if not running or running in names else (_absent(running),)
    store = f"{models_dir.name}/{strategy}"
    return ModelsPage(store, (*absent_models, *lines), shadows, picture.newest.swaps, bool(picture.process))


def _pointer(shelf: Path, name: str) -> str:
    """Return the version that a pointer names, "" for none."""
    try:
        return version_of_pointer(shelf, name)
    except ModelError:
        return ""


def manifest_in(folder: Path) -> Manifest:
    """Return a version's manifest. Raises ModelError, msgspec.DecodeError, UnicodeDecodeError."""
    return decode(read_plain(folder / MANIFEST_FILE, folder.parent.parent.resolve(), MANIFEST_BYTES_MAX, ""))


def _absent(version: str) -> ModelLine:
    problem = "this desk has it, the store does not"
    return ModelLine(version, False, False, True, False, "", "", (), problem, absent=True)


def _line(
    folder: Path,
    name: str,
    desk: tuple[Trading, tuple[str, ...]] | None,
    *,
    current: bool,
    candidate: bool,
    running: bool,
) -> ModelLine:
    try:
        manifest = manifest_in(folder)
    except (ModelError, msgspec.DecodeError, UnicodeDecodeError) as error:
        problem = f"its manifest cannot be read: {error.check if isinstance(error, ModelError) else error}"
        return ModelLine(name, current, candidate, running, False, "", "", (), problem)
    training = manifest.training
    trained_on = training.file
    if training.sessions:
        trained_on += f", {training.sessions} sessions from {training.first_session}"
    if training.synthetic:
        trained_on += ", synthetic"
    return ModelLine(
        version=name,
        current=current,
        candidate=candidate,
        running=running,
        promoted=manifest.promoted,
        trained_on=trained_on,
        last_session=training.last_session,
        metrics=tuple(_flat(manifest.metrics))[:METRICS_MOST],
        problem="",
        verdict=manifest.note,
        claim="" if desk is None else claim_words(manifest, *desk),
    )


def _flat(metrics: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    """Yield the figures by name, nested ones as `split figure`; lists are left out."""
    for name, value in metrics.items():
        label = f"{within} {name}".strip().replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, label)
        elif isinstance(value, bool | int | str):
            yield label, str(value)[:200]
        elif isinstance(value, float):
            yield label, f"{value:.6g}"


def _summary(row: sqlite3.Row) -> ShadowSummary:
    return ShadowSummary(
        model=row["model"],
        decisions=row["decisions"],
        agreement=row["agreement"] or 0.0,
        confidence_live=row["live"] or 0.0,
        confidence_shadow=row["shadow"] or 0.0,
        failures=row["failures"] or 0,
    )
