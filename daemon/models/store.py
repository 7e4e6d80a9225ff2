"""The model store: finds a version of a strategy's policy and checks its files against its manifest.

Reads files, runs nothing: onnxruntime is not imported here. Invariant: the returned bytes are those whose digest was
compared; a model that fails any check is refused with the check's name.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from daemon.core.events import RiskClaim
from daemon.core.limits import Trading
from daemon.core.strategy_rules import DIGEST, lines_to_claim, not_promoted_words, other_rules, promoted_under, unkept
from daemon.models.pointer import (
    CURRENT,
    MANIFEST_BYTES_MAX,
    MISSING,
    POINTERS,
    ModelError,
    check_judged,
    checked_name,
    is_name,
    last_digest,
    read_plain,
    version_of_pointer,
)
from daemon.models.shipped import how_to_copy
from daemon.models.signature import SIGNATURE_BYTES_MAX, SIGNATURE_FILE, check_signature
from strategies.golden import contract_hash, own_values
from strategies.kit.contract import AnyStrategy, Spec
from strategies.kit.manifest import FORMAT, MANIFEST_FILE, POLICY_FILE, RISK, Manifest, decode
from strategies.kit.own.stand_in import StandIn
from strategies.registry import configured, entry, typed
from strategies.registry import strategy as strategy_named

__all__ = [
    "CURRENT",
    "MANIFEST_BYTES_MAX",
    "POLICY_BYTES_MAX",
    "LoadedModel",
    "ModelError",
    "Sight",
    "check_rules",
    "claim_words",
    "how_to_claim",
    "load",
    "other_symbols",
    "other_values",
    "proof_words",
    "sight",
    "stated_claim",
    "versions",
    "warnings",
]

POLICY_BYTES_MAX = 64 * 2**20
FILE_BYTES_MAX = 64 * 2**20  # bytes of each other file
FILES_MAX = 32
NAMED = 5  # symbols that a warning names
MEMBERS_MAX = 100  # policies in one graph
AGAIN = "export the model again"
READS = 3  # of a version that exports replace while it is read

PASSIVE, UNPROVEN = "passive", "unproven"
ALLOW_PASSIVE = "--allow-passive"
_PROOF_WORDS = {
    PASSIVE: "it is the strategy's passive policy, because no lead of a learned one is proven",
    UNPROVEN: "it was learned, and no lead over the best baseline is proven",
}

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A version that passed all checks of the store; `daemon.models.runtime` checks its answers next.

    `digest` is the SHA-256 (hex) of `policy`, the ONNX graph's bytes, `manifest_digest` that of the manifest's; `path`
    is the version's folder.
    """

    version: str
    path: Path
    manifest: Manifest
    digest: str
    policy: bytes = field(repr=False)
    manifest_digest: str = ""


@dataclass(frozen=True, slots=True)
class Sight:
    """A cheap look at a version without reading its policy: enough to notice a change."""

    version: str
    manifest_digest: str  # "" without a readable manifest
    others: tuple[tuple[int, int, int], ...]  # inode, size and time of change of policy, signature and named files


def load(
    models_dir: Path, strategy: AnyStrategy, version: str = CURRENT, public_key: str = "", judged_digest: str = ""
) -> LoadedModel:
    """Return the strategy's policy of this version from `<models_dir>/<strategy>/<version>/`, read once and checked.

    Checks in this order: that the strategy could be imported, the version's name and its files, with a `public_key`
    (Ed25519, base64) the signature of the manifest, its format and fields, strategy, version, contract hash,
    observation shape, actions, number of golden answers, the policy file's digest, and the digests of the version's
    other files. `judged_digest` is the one that the manifest must have, "" for any. What an export replaces while it is
    read is read again.

    Raises:
        ModelError: the first check that failed.
    """
    name = strategy.spec.name
    if isinstance(strategy, StandIn):
        raise ModelError("strategy", f"{name} cannot be imported, and without it no model is asked")
    shelf = models_dir / name
    if not _is_folder(shelf):
        raise ModelError(
            "missing folder",
            f"{shelf} is no folder that can be read, expected the versions of {name} in it: "
            f"correct paths.models_dir{how_to_copy()}, or train and export a model",
        )
    if version in POINTERS:
        _check_pointer(models_dir, strategy, version)
        version = version_of_pointer(
            shelf, version, f"write a version's name into it or set policy.version; {_versions_text(shelf)}"
        )
    else:
        version = checked_name(version, "policy.version")
    folder = shelf / version
    if not _is_folder(folder):
        raise ModelError("missing version", f"{folder} is no folder that can be read, {_versions_text(shelf)}")
    for _ in range(READS - 1):
        before = _stamp(folder)
        try:
            return _read(folder, strategy, version, public_key, judged_digest)
        except ModelError:
            if _stamp(folder) == before:
                raise
    return _read(folder, strategy, version, public_key, judged_digest)


def _read(folder: Path, strategy: AnyStrategy, version: str, public_key: str, judged_digest: str) -> LoadedModel:
    """Read and check the files of a version's folder. Raises ModelError."""
    shelf, root = folder.parent, folder.parents[1].resolve()
    data = read_plain(folder / MANIFEST_FILE, root, MANIFEST_BYTES_MAX, AGAIN)
    check_judged(folder / MANIFEST_FILE, sha256(data).hexdigest(), judged_digest)
    if (expected_digest := last_digest(shelf, version)) and expected_digest != sha256(data).hexdigest():
        raise ModelError(
            "promoted version",
            f"{folder / MANIFEST_FILE} is not the one that was promoted: it was changed since, so activate another "
            f"version, or this one again after a look at it",
        )
    if public_key:
        signature = folder / SIGNATURE_FILE
        cure = "sign the version (rltraderctl models sign), or leave policy.public_key empty"
        check_signature(signature, data, _signature(signature, root, cure), public_key)
    manifest = _manifest(folder / MANIFEST_FILE, data)
    _check_manifest(folder / MANIFEST_FILE, manifest, strategy, version)
    path = folder / POLICY_FILE
    policy = read_plain(path, root, POLICY_BYTES_MAX, AGAIN)
    digest = sha256(policy).hexdigest()
    if digest != manifest.policy_sha256:
        raise ModelError(
            "policy digest",
            f"{path} has SHA-256 {digest}, expected {manifest.policy_sha256} from its manifest: "
            f"the file was changed or is damaged, so restore the folder or export the model again",
        )
    _check_files(folder, root, manifest)
    return LoadedModel(
        version=version,
        path=folder,
        manifest=manifest,
        digest=digest,
        policy=policy,
        manifest_digest=sha256(data).hexdigest(),
    )


def _check_pointer(models_dir: Path, strategy: AnyStrategy, pointer: str) -> None:
    """Raise ModelError if there are versions but no pointer: the text has the command to type."""
    name = strategy.spec.name
    shelf, version_names = models_dir / name, versions(models_dir, name)
    if not version_names or os.path.lexists(shelf / pointer):
        return
    fitting, state = newest_fitting(models_dir, strategy), "active" if pointer == CURRENT else f"the {pointer}"
    version = fitting.version if fitting else version_names[-1]
    idle = pointer == CURRENT and fitting is not None and never_traded(fitting.manifest)
    verb, why = "activate" if pointer == CURRENT else pointer, ' --reason "..."'
    if fitting is None:
        verb, state, why = "check", f"{state}, and none passes the checks for this desk", ""
    flag = f" {ALLOW_PASSIVE}" if idle else ""
    command = f"rltraderctl models {verb} {version} --strategy {shlex.quote(typed(name))} --models-dir {models_dir}"
    more = (
        f" (others: {', '.join(other for other in version_names if other != version)})"
        if len(version_names) > 1
        else ""
    )
    never = "; it never traded in its test" if idle else ""
    raise ModelError(MISSING, f"no version in {shelf} is {state} yet, so type: {command}{flag}{why}{never}{more}")


def newest_fitting(models_dir: Path, strategy: AnyStrategy) -> LoadedModel | None:
    """Return the newest version that passes the store's checks for this strategy; None without one."""
    for version in reversed(versions(models_dir, strategy.spec.name)):
        with suppress(ModelError):
            return load(models_dir, strategy, version)
    return None


def never_traded(manifest: Manifest) -> bool:
    """Return whether a learned policy did nothing in its test: it is activated only with `--allow-passive`."""
    return trades_in_test(manifest) == 0 and not is_passive(manifest)


def trades_in_test(manifest: Manifest) -> int | None:
    """Return how often the policy traded in its test sessions; None if the manifest does not say."""
    test_metrics = manifest.metrics.get("test")
    trades = test_metrics.get("trades") if isinstance(test_metrics, dict) else None
    return trades if isinstance(trades, int) else None


def exported_as(manifest: Manifest) -> str:
    """Return PASSIVE for the strategy's passive policy, UNPROVEN for a learned one without a proven lead, else ""."""
    label = manifest.metrics.get("exported")
    return label if isinstance(label, str) and label in _PROOF_WORDS else ""


def is_passive(manifest: Manifest) -> bool:
    """Return whether this is the strategy's untrained passive policy, which may never trade."""
    return exported_as(manifest) == PASSIVE


def proof_words(manifest: Manifest) -> str:
    """Return in words what a version without a proven lead is; "" for others, or if the manifest does not say."""
    return _PROOF_WORDS.get(exported_as(manifest), "")


def stated_claim(manifest: Manifest, trading: Trading, symbols: tuple[str, ...]) -> tuple[RiskClaim | UnsetType, str]:
    """Return a version's proven claim about risk, unset where a desk of these rules and symbols does not keep it.

    Then the text says why; it is "" where no such claim is proven: nothing is promised, and nothing is judged.
    """
    claim = manifest.claim
    if claim is None or claim.kind != RISK or not claim.proven:
        return UNSET, ""
    if why := unkept(manifest, trading, symbols):
        return UNSET, why
    return RiskClaim(
        claim.volatility_target,
        claim.volatility_low,
        claim.volatility_high,
        claim.window_sessions,
        claim.probability,
        claim.drawdown_max,
        claim.drawdown_probability,
        claim.drawdown_sessions,
    ), ""


def claim_words(manifest: Manifest, trading: Trading, symbols: tuple[str, ...]) -> str:
    """Return this version's claim in words, or why this desk claims no risk with it; "" without a claim."""
    return "" if manifest.claim is None else unkept(manifest, trading, symbols) or manifest.claim.sentence


def how_to_claim(manifest: Manifest, trading: Trading, symbols: tuple[str, ...]) -> tuple[str, ...]:
    """Return the lines missing in a desk's configuration for the version's claim to hold; () where none would help."""
    return lines_to_claim(manifest, trading) if unkept(manifest, trading, symbols) else ()


def warnings(manifest: Manifest, spec: Spec, trading: Trading) -> tuple[str, ...]:
    """Return which values, symbols and rules of a desk differ from a version's, without repeating `unkept`."""
    rules = "" if unkept(manifest, trading, configured(spec)) else other_rules(manifest, trading)
    return tuple(filter(None, (other_values(manifest, spec), other_symbols(manifest, spec), rules)))


def sight(models_dir: Path, strategy: str, version: str) -> Sight:
    """Look at a version or a pointer in the store. Raises ModelError where the pointer names none."""
    shelf = models_dir / strategy
    name = version_of_pointer(shelf, version) if version in POINTERS else checked_name(version, "policy.version")
    folder = shelf / name
    try:
        data = read_plain(folder / MANIFEST_FILE, models_dir.resolve(), MANIFEST_BYTES_MAX, AGAIN)
    except ModelError:
        data = b""  # `load` reports the fault
    return Sight(
        name,
        sha256(data).hexdigest() if data else "",
        tuple(_stamp(folder / other) for other in (POLICY_FILE, SIGNATURE_FILE, *_named_files(data))),
    )


def _named_files(manifest: bytes) -> tuple[str, ...]:
    """Return the plain names of the other files in a manifest's bytes; () where they cannot be read."""
    try:
        files = msgspec.json.decode(manifest, type=_Files).files
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ()
    return tuple(name for name in files if _FILE_NAME.fullmatch(name) is not None)[:FILES_MAX]


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        info = path.stat()
    except OSError:
        return (0, 0, 0)
    return (info.st_ino, info.st_size, info.st_mtime_ns)


def check_rules(model: LoadedModel, strategy: AnyStrategy, trading: Trading) -> None:
    """Check that the trading rules match those of the model's training.

    Raises:
        ModelError: a rule differs from the manifest's, or the manifest of a continuous policy names none.
    """
    rules, spec = model.manifest.rules, strategy.spec
    if spec.continuous and not rules.keys() - {DIGEST}:
        raise ModelError(
            "rules",
            f"{model.path / MANIFEST_FILE} does not say what one unit of its actions is: export the model again",
        )
    for key, expected in rules.items():
        if key == DIGEST:  # digest of all rules: only a warning, see `other_rules`
            continue
        table, _, name = key.partition(".")
        value = getattr(getattr(trading, table, None), name, None)
        if value is None or not _same(str(value), expected):
            raise ModelError(
                "rules", f"{key} is {value}, the model {model.version} was trained with {expected}: set {key} to that"
            )


def check_promoted(model: LoadedModel, running: LoadedModel, strategy: AnyStrategy, trading: Trading) -> None:
    """Check, for real money, that a model which may not open positions replaces none that may.

    Raises:
        ModelError: the running one may trade under these rules, and the model may not.
    """
    symbols = configured(strategy.spec)
    denial = not_promoted_words(model.manifest, trading, symbols)
    if denial and promoted_under(running.manifest, trading, symbols):
        raise ModelError(
            "not promoted",
            f"{model.version}: {denial}, and {running.version} may trade: on a live account it would deny every entry; "
            "promote it by its report (train-and-export promote), or name another",
        )


def other_values(manifest: Manifest, spec: Spec) -> str:
    """Return in words which values of an own strategy were others at the export; "" where none was, or none is known.

    No reason to refuse: what the policy sees is as in training, or its golden observations would differ.
    """
    exported, here = manifest.values, manifest.values
    if exported:
        with suppress(ValueError):  # an own strategy that cannot be made again: nothing is known
            here = own_values(strategy_named(spec.name, manifest.symbols, spec.config))
    names = [
        name
        for name in sorted({*exported, *here})
        if (name in exported, exported.get(name)) != (name in here, here.get(name))
    ]
    if not names:
        return ""
    was, is_now = (_values_text(names, values) for values in (exported, here))
    return (
        f"it was exported with {was}, this desk's strategy has {is_now}: what its test earned is of other values; "
        "export the model again, or start the desk with the file of the export"
    )


def _values_text(names: Sequence[str], values: Mapping[str, Any]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(f"{name} {_brief(values[name]) if name in values else 'none'}" for name in names[:NAMED]) + more


def other_symbols(manifest: Manifest, spec: Spec) -> str:
    """Return in words how the desk's symbols differ from those of the model's training; "" if they do not.

    No reason to refuse: where rows are symbols, one policy serves any.
    """
    model_symbols, desk = set(manifest.symbols), set(configured(spec))
    if not model_symbols or not desk or model_symbols == desk:
        return ""
    new, missing = sorted(desk - model_symbols), sorted(model_symbols - desk)
    parts = [
        f"{len(names)} {problem} ({', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''})"
        for names, problem in ((new, "that it never saw"), (missing, "of its own are left out"))
        if names
    ]
    return f"it was trained on {len(model_symbols)} symbols, this desk has {len(desk)}: {'; '.join(parts)}"


def _same(actual: str, expected: str) -> bool:
    try:
        return Decimal(actual) == Decimal(expected)
    except InvalidOperation:
        return actual == expected


def versions(models_dir: Path, strategy: str) -> tuple[str, ...]:
    """Return the names of the strategy's versions (folders with a manifest) in alphabetical order; () without any."""
    shelf = models_dir / strategy
    if not _is_folder(shelf):
        return ()
    return tuple(sorted(p.parent.name for p in shelf.glob(f"*/{MANIFEST_FILE}") if is_name(p.parent.name)))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a parent folder cannot be entered
        return False


def _versions_text(shelf: Path) -> str:
    """Return the existing versions as text for an error."""
    names = ", ".join(versions(shelf.parent, shelf.name))
    return (
        f"expected one of: {names}: choose one of these"
        if names
        else f"and {shelf} has no version at all: train and export a model"
    )


class _Format(msgspec.Struct):
    format: int


class _Files(msgspec.Struct):
    files: dict[str, str] = {}


def _signature(path: Path, root: Path, cure: str) -> bytes:
    try:
        return read_plain(path, root, SIGNATURE_BYTES_MAX, cure)
    except ModelError as error:
        raise ModelError("signature", error.text) from None


def _check_files(folder: Path, root: Path, manifest: Manifest) -> None:
    """Check the files against the manifest's digests."""
    if len(manifest.files) > FILES_MAX:
        raise ModelError(
            "file digest", f"{folder / MANIFEST_FILE} names {len(manifest.files)} files, expected at most {FILES_MAX}"
        )
    for name, expected in manifest.files.items():
        if _FILE_NAME.fullmatch(name) is None or ".." in name:
            raise ModelError(
                "file name", f"{folder / MANIFEST_FILE} names a file {name[:100]!r}, expected plain names: {AGAIN}"
            )
        digest = sha256(read_plain(folder / name, root, FILE_BYTES_MAX, AGAIN)).hexdigest()
        if digest != expected:
            raise ModelError(
                "file digest",
                f"{folder / name} has SHA-256 {digest}, expected {expected[:64]} from the manifest: the file was "
                f"changed or is damaged, so restore the folder or export the model again",
            )


def _manifest(path: Path, data: bytes) -> Manifest:
    """Decode the manifest. Its format is checked first, so that a newer one is reported as newer, not broken."""
    try:
        format_number = msgspec.json.decode(data, type=_Format).format
        if format_number != FORMAT:
            raise ModelError(
                "manifest format",
                f"{path} has format {format_number}, expected {FORMAT}: export the model again with this code, "
                f"or run the code that wrote it",
            )
        return decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # ValidationError is a DecodeError
        raise ModelError(
            "manifest", f"{path} is unreadable: {error}; expected a manifest as the export writes it: export it again"
        ) from error


def _check_manifest(path: Path, manifest: Manifest, strategy: AnyStrategy, version: str) -> None:
    spec = strategy.spec
    cure_by_export = (
        "let a version answer that fits (rltraderctl models list), export the model again with this code, or "
        "run the code it was exported with"
    )
    own_config = msgspec.json.decode(spec.config) if spec.config else {}
    if differs := _config_differs(manifest.model_config, own_config, _parameter_defaults(spec)):
        raise ModelError(
            "model configuration",
            f"{path} was trained with {differs}: set desk.model_config to its file (desk.parameters to its values), or "
            "export a model for this one",
        )
    desk = configured(spec)
    if not spec.rows_are_symbols and manifest.strategy == spec.name and manifest.symbols != desk:
        raise ModelError(
            "symbols",
            f"{path} was made for {_symbols_text(manifest.symbols)}, desk.symbols is {_symbols_text(desk)}: "
            f"set desk.symbols to {list(manifest.symbols)}, or "
            "train a model for this list (train-and-export --symbols)",
        )
    checks = (
        ("strategy", manifest.strategy, spec.name, "put the model into its own strategy's folder"),
        ("version", manifest.version, version, "give the folder its version's name again"),
        ("contract hash", manifest.contract_hash, contract_hash(strategy), cure_by_export),
        ("observation shape", manifest.observation_shape, spec.observation_shape, cure_by_export),
        ("actions", manifest.actions, spec.actions, cure_by_export),
        ("golden answers", len(manifest.golden.logits), len(manifest.golden.observations), cure_by_export),
    )
    for check, actual, expected, cure in checks:
        if actual != expected:
            raise ModelError(check, f"{path} says {actual!r}, expected {expected!r}: {cure}")
    if not 1 <= manifest.members <= MEMBERS_MAX:
        raise ModelError("members", f"{path} says {manifest.members!r}, expected 1 to {MEMBERS_MAX}: {cure_by_export}")


def _symbols_text(symbols: Sequence[str]) -> str:
    return ", ".join(symbols) or "the strategy's own symbols"


def _parameter_defaults(spec: Spec) -> dict[str, Any]:
    """Return a strategy's default parameters, since a configuration only has the changed ones."""
    return {name: one.default for name, one in entry(spec.name).parameters.items()} if not configured(spec) else {}


def _config_differs(model_config: Mapping[str, Any], own_config: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Return the first key at which two model configurations differ, with both values; "" where none does."""
    trained_with = {**defaults, **model_config}
    for key, value in {**defaults, **own_config}.items():
        if trained_with.get(key) != value:
            return f"{key} {_brief(trained_with.get(key))}, this desk's model configuration has {_brief(value)}"
    return ""


def _brief(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= NAMED * 20 else f"{text[: NAMED * 20]}..."
