"""`train-and-export reference`: put the reference distributions into the manifest of a version that has none yet.

The policy plays its training sessions again, on the file of its training. Only the manifest's `reference` changes:
contract hash, policy digest and golden answers stay.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from daemon.core.strategy_rules import DIGEST, other_rules, with_rules
from daemon.host.version import CommandLine
from daemon.tapes.bars import digest_of_bars
from rltrader import called
from strategies.kit import manifest as manifests
from strategies.kit.manifest import MANIFEST_FILE, POLICY_FILE, Manifest
from strategies.registry import add, strategy
from training.cli.main import DONE, ERRORS, add_models_dir, wrong
from training.desks.registry import kind
from training.export.shelf import Version, check_contract, replace_manifest
from training.runs.settings import trading_of

if TYPE_CHECKING:
    from training.desks.kind import TaskData


class NoReference(ValueError):
    """No reference can be made; the text names what was found and expected."""


def add_reference(folder: Path, bars: Path, config: Path | None = None) -> Manifest:
    """Make the reference of the version in `folder` from its own bars file and write its manifest; returns it.

    `config` is that of the desk by whose rules it was trained; None: the strategy's defaults.

    Raises:
        NoReference, a ValueError: the file is not the one it was trained on, the policy not the manifest's, or the
            rules are others than those that it was trained by.
        VersionError: it has another contract than the strategy.
        ExportError: another command changed the version meanwhile.
        TapeError, CalendarError, HistoryError, ValueError, OSError: as reading the file or the manifest does.
    """
    from training.desks.kind import Span
    from training.export.export import Exported
    from training.export.reference import reference_of

    read = (folder / MANIFEST_FILE).read_bytes()
    manifest = manifests.decode(read)
    check_contract(Version(folder, manifest))
    graph = (folder / POLICY_FILE).read_bytes()
    for what, digest, expected, cure in (
        (bars.name, digest_of_bars(bars), manifest.training.file_sha256, f"give the file {manifest.training.file}"),
        (POLICY_FILE, hashlib.sha256(graph).hexdigest(), manifest.policy_sha256, "restore the version's folder"),
    ):
        if digest != expected:
            raise NoReference(f"{what} has SHA-256 {digest}, {MANIFEST_FILE} expects {expected}: {cure}")
    described = manifests.config_text(manifest)
    training_kind, trading = (
        kind(manifest.strategy, described, manifest.symbols or ()),
        trading_of(manifest.strategy, config),
    )
    own_rules = {key: value for key, value in manifest.rules.items() if key != DIGEST}
    if problem := other_rules(manifest, with_rules(trading, own_rules)):
        raise NoReference(f"{folder.name}: {problem}. Give the configuration that it was trained with: --config FILE")
    loaded = training_kind.load(bars, trading)
    span = Span(_train_dates(loaded, manifest), manifest.hyperparameters["rewards"][0], trading)
    watched = loaded.watch(Exported(folder / POLICY_FILE).eval(), span)
    reference = reference_of(
        training_kind.inputs, watched, strategy(manifest.strategy, manifest.symbols or (), described).spec
    )
    updated = msgspec.structs.replace(manifest, reference=reference)
    replace_manifest(folder, read, manifests.encode(updated))
    return updated


def _train_dates(data: TaskData, manifest: Manifest) -> list[str]:
    first, last = manifest.training.splits["train"]
    return [date for date in data.days if first <= date <= last]


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code: 0, 2 for what cannot be read or compared."""
    options = CommandLine(
        prog=f"{called('train-and-export')} reference",
        description="put the distributions of features and actions in training into the manifest of a version",
    )
    options.add_argument("--strategy", required=True, metavar="NAME", help="of the version, or its file")
    options.add_argument("--bars", required=True, type=Path, metavar="FILE", help="the file it was trained on")
    options.add_argument("--version", required=True, metavar="NAME", help="of the version, such as 2024-12-31-0a1b2c3d")
    config = "of the desk by whose rules it was trained (the strategy's defaults)"
    options.add_argument("--config", type=Path, metavar="FILE", help=config)
    add_models_dir(options, "model store", "--out")
    chosen = options.parse_args(arguments)
    try:
        folder = chosen.models_dir / add(chosen.strategy) / chosen.version
        updated = add_reference(folder, chosen.bars, chosen.config)
    except ERRORS as error:
        return wrong(error)
    assert updated.reference is not None
    sys.stderr.write(
        f"{updated.version}: {len(updated.reference.features)} features over "
        f"{updated.reference.samples:,} observations of the training sessions\n"
    )
    sys.stdout.write(f"{folder / MANIFEST_FILE}\n")
    return DONE
