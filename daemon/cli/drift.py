"""`rltraderctl drift`: distance of recent live features and actions from the model's training.

Reads the journal's read models and the model's manifest; also while a daemon runs.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from daemon.cli.arguments import NotFound, add_state_dir, lead_on
from daemon.config.tables import DriftTable as Settings
from daemon.core.session import new_york_text
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.models.drift import DriftLimits, DriftResult, QuantityDrift, measure
from daemon.models.shipped import to_read
from strategies.kit import manifest as manifests
from strategies.kit.manifest import MANIFEST_FILE, Manifest

USUAL = Settings()


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `drift`."""
    command.set_defaults(run=run)
    add_state_dir(command)
    command.add_argument(
        "--models-dir", type=Path, default=Path("onnx_models"), metavar="DIR", help="model store (default onnx_models)"
    )
    command.add_argument(
        "--window", type=int, default=USUAL.window, metavar="N", help=f"newest decisions (default {USUAL.window})"
    )
    command.add_argument("--json", action="store_true", help="one JSON object, the bins' shares as well")


def run(options: argparse.Namespace, console: Console) -> int:
    """Print the features, the largest index first, and the actions; returns 0. Raises NotFound, JournalError."""
    if options.window < 1:
        raise NotFound(f"--window {options.window} is no number of decisions: expected 1 or more")
    manifest = _manifest(options.state_dir / FILE, to_read(options.models_dir))
    if manifest.reference is None:
        raise NotFound(
            f"the manifest of {manifest.version} holds no reference: add it with train-and-export reference, or export "
            "the model again"
        )
    drift = measure(options.state_dir / FILE, manifest, options.window, 1)
    if drift is None:
        raise NotFound(f"no decision of {manifest.version} in {options.state_dir} holds what it saw and answered")
    if options.json:
        sys.stdout.buffer.write(msgspec.json.encode(drift) + b"\n")
        return 0
    console.print(
        f"{drift.model}: {drift.decisions:,} decisions from {new_york_text(drift.first_ns)} to "
        f"{new_york_text(drift.last_ns)} against {manifest.reference.samples:,} of its training"
    )
    console.print(_table(drift))
    lead_on(options, "models", "list", about=("models_dir",))
    if drift.decisions < USUAL.least:
        console.print(f"fewer than {USUAL.least} decisions: by the default settings nothing is alarmed on yet")
    elif drift.actions.beyond(USUAL.action_psi_max) or any(f.beyond(USUAL.feature_psi_max) for f in drift.features):
        console.print("BEYOND: further away than chance and than any such span of the training (docs/MODELS.md, Drift)")
    return 0


def _manifest(journal: Path, models_dir: Path) -> Manifest:
    """Return the manifest of the model that made the newest decision."""
    with closing(JournalReader(journal)) as reader:
        strategy = reader.meta()["strategy"]
        rows = reader.query("SELECT model FROM decisions WHERE model IS NOT NULL ORDER BY decision DESC LIMIT 1")
    if not rows:
        raise NotFound(f"{journal.parent} holds no decision of a model yet")
    path = models_dir / strategy / rows[0]["model"] / MANIFEST_FILE
    try:
        return manifests.decode(path.read_bytes())
    except FileNotFoundError:
        raise NotFound(f"{path} is not there: give the model store of this desk with --models-dir") from None
    except (OSError, msgspec.DecodeError) as error:
        raise NotFound(f"{path} cannot be read: {error}") from error


def _table(drift: DriftResult) -> Table:
    limits = DriftLimits(USUAL.window, USUAL.least, USUAL.feature_psi_max, USUAL.action_psi_max)
    table = Table("feature", "index", "by chance", "in training", "verdict")
    for quantity in drift.features:
        table.add_row(*_line(quantity, limits.feature_psi_max))
    table.add_section()
    table.add_row(*_line(drift.actions, limits.action_psi_max))
    return table


def _line(quantity: QuantityDrift, limit: float) -> tuple[str, str, str, str, str]:
    if quantity.of_the_desk:
        word = "of the desk: never alarmed"
    elif quantity.beyond(limit):
        word = "BEYOND"
    else:
        word = "within what training saw" if quantity.psi > limit else ""
    training_text = f"{quantity.in_training:.4f}" if quantity.in_training else "–"
    return quantity.name, f"{quantity.psi:.4f}", f"{quantity.by_chance:.4f}", training_text, word
