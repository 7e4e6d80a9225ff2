"""The model store: finds a version of a strategy's policy and proves that its files are the ones it was exported with.

Reads files, runs nothing: onnxruntime is not imported here. Invariant: the bytes handed on are the bytes whose digest
was compared, so what runs is what was checked; a model that fails any check is refused with the check's name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from hashlib import sha256
from pathlib import Path

import msgspec

from daemon.core.limits import Trading
from strategies.contract import DailySpec, Strategy
from strategies.golden import contract_hash
from strategies.manifest import FORMAT, MANIFEST_FILE, POLICY_FILE, Manifest, decode

CURRENT = "current"
"""The version that means: the one named by the file `current` beside the versions."""

NAME_BYTES_MAX = 256
MANIFEST_BYTES_MAX = 16 * 2**20
POLICY_BYTES_MAX = 64 * 2**20

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class ModelError(Exception):
    """The model is refused; the daemon does not start with it. `check` names the check that failed.

    The text says which check, which file, what was found, what was expected, and the cure.
    """

    def __init__(self, check: str, text: str) -> None:
        super().__init__(f"model refused, {check}: {text}")
        self.check = check


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A version that passed all checks of the store; `daemon.shell.policy` still has to see it answer.

    `digest` is the SHA-256 (hex) of `policy`, the ONNX graph's bytes; `path` the version's folder.
    """

    version: str
    path: Path
    manifest: Manifest
    digest: str
    policy: bytes = field(repr=False)


def load(models_dir: Path, strategy: Strategy, version: str = CURRENT) -> LoadedModel:
    """The strategy's policy of this version from `<models_dir>/<strategy>/<version>/`, read once and checked.

    Checks in this order: the version's name and its files, the manifest's format and fields, strategy, version,
    contract hash, observation shape, actions, number of golden answers, and the policy file's digest.

    Raises:
        ModelError: the first check that failed.
    """
    name = strategy.spec.name
    shelf = models_dir / name
    if not _is_folder(shelf):
        raise ModelError(
            "missing folder",
            f"{shelf} is no folder that can be read, expected the versions of {name} in it: "
            f"correct paths.models_dir, or train and export a model",
        )
    root = models_dir.resolve()
    version = _current(shelf, root) if version == CURRENT else _checked_name(version, "policy.version")
    folder = shelf / version
    if not _is_folder(folder):
        raise ModelError("missing version", f"{folder} is no folder that can be read, {_known(shelf)}")
    manifest = _manifest(folder / MANIFEST_FILE, root)
    _check_manifest(folder / MANIFEST_FILE, manifest, strategy, version)
    path = folder / POLICY_FILE
    policy = _read(path, root, POLICY_BYTES_MAX, "export the model again")
    digest = sha256(policy).hexdigest()
    if digest != manifest.policy_sha256:
        raise ModelError(
            "policy digest",
            f"{path} has SHA-256 {digest}, expected {manifest.policy_sha256} from its manifest: "
            f"the file was changed or is damaged, so restore the folder or export the model again",
        )
    return LoadedModel(version=version, path=folder, manifest=manifest, digest=digest, policy=policy)


def check_rules(model: LoadedModel, strategy: Strategy, trading: Trading) -> None:
    """The trading rules must be those without which the model's answers mean something else.

    Raises:
        ModelError: a rule differs from the manifest's, or the manifest of a continuous policy names none.
    """
    told, spec = model.manifest.rules, strategy.spec
    if isinstance(spec, DailySpec) and spec.continuous and not told:
        raise ModelError(
            "rules",
            f"{model.path / MANIFEST_FILE} does not say what one unit of its actions is: export the model again",
        )
    for key, expected in told.items():
        table, _, name = key.partition(".")
        found = getattr(getattr(trading, table, None), name, None)
        if found is None or not _same(str(found), expected):
            raise ModelError(
                "rules", f"{key} is {found}, the model {model.version} was trained with {expected}: set {key} to that"
            )


def _same(found: str, expected: str) -> bool:
    try:
        return Decimal(found) == Decimal(expected)
    except InvalidOperation:
        return found == expected


def versions(models_dir: Path, strategy: str) -> tuple[str, ...]:
    """The names of the strategy's versions (folders with a manifest) in alphabetical order; () when there are none."""
    shelf = models_dir / strategy
    if not _is_folder(shelf):
        return ()
    return tuple(sorted(p.parent.name for p in shelf.glob(f"*/{MANIFEST_FILE}") if _VERSION.fullmatch(p.parent.name)))


def _current(shelf: Path, root: Path) -> str:
    """The version that the file `current` names."""
    path = shelf / CURRENT
    data = _read(path, root, NAME_BYTES_MAX, f"write a version's name into it or set policy.version; {_known(shelf)}")
    return _checked_name(data.decode("utf-8", errors="replace").strip(), str(path))


def _checked_name(version: str, origin: str) -> str:
    if _VERSION.fullmatch(version) is None or ".." in version or version == CURRENT:
        raise ModelError(
            "version name",
            f"{origin} is {version!r}, expected the plain name of a version's folder (letters, digits, "
            f"'.', '_' and '-', no path separator, no '..'): write such a name there",
        )
    return version


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a folder on the way may not be entered
        return False


def _known(shelf: Path) -> str:
    """What the error says of the versions there are."""
    known = ", ".join(versions(shelf.parent, shelf.name))
    return (
        f"expected one of: {known}: choose one of these"
        if known
        else f"and {shelf} has no version at all: train and export a model"
    )


def _read(path: Path, root: Path, limit: int, cure: str) -> bytes:
    """All bytes of a plain file that lies, links followed, within `root` and has at most `limit` bytes."""
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(root):
            raise ModelError(
                "file outside of the store",
                f"{path} leads to {real}, expected a file within {root}: replace the link by the file itself",
            )
        if not real.is_file():
            raise ModelError("missing file", f"{path} is no plain file, expected one: {cure}")
        with real.open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise ModelError(
            "missing file", f"{path} cannot be read ({error}), expected a readable file: {cure}"
        ) from error
    if len(data) > limit:
        raise ModelError("file size", f"{path} has more than {limit} bytes, expected at most that many: {cure}")
    return data


class _Format(msgspec.Struct):
    format: int


def _manifest(path: Path, root: Path) -> Manifest:
    """The manifest. Its format is read first, so that a newer one is called newer and not broken."""
    data = _read(path, root, MANIFEST_BYTES_MAX, "export the model again")
    try:
        found = msgspec.json.decode(data, type=_Format).format
        if found != FORMAT:
            raise ModelError(
                "manifest format",
                f"{path} has format {found}, expected {FORMAT}: export the model again with this code, "
                f"or run the code that wrote it",
            )
        return decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # ValidationError is a DecodeError
        raise ModelError(
            "manifest", f"{path} is unreadable: {error}; expected a manifest as the export writes it: export it again"
        ) from error


def _check_manifest(path: Path, manifest: Manifest, strategy: Strategy, version: str) -> None:
    spec = strategy.spec
    again = "export the model again with this code, or run the code it was exported with"
    checks = (
        ("strategy", manifest.strategy, spec.name, "put the model into its own strategy's folder"),
        ("version", manifest.version, version, "give the folder its version's name again"),
        ("contract hash", manifest.contract_hash, contract_hash(strategy), again),
        ("observation shape", manifest.observation_shape, spec.observation_shape, again),
        ("actions", manifest.actions, spec.actions, again),
        ("golden answers", len(manifest.golden.logits), len(manifest.golden.observations), again),
    )
    for check, found, expected, cure in checks:
        if found != expected:
            raise ModelError(check, f"{path} says {found!r}, expected {expected!r}: {cure}")
