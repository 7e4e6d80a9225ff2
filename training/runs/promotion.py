"""Promotion of a version for real money: its report, judged again from its figures, must pass every criterion.

Only `promote` writes, and only the version's manifest.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from daemon.core.strategy_rules import DIGEST
from daemon.library.run_files import REPORT_FILE
from strategies.kit import manifest as manifests
from strategies.kit.manifest import LEAD, MANIFEST_FILE, POLICY_FILE, RISK, Manifest
from training.evidence.criteria import judge
from training.evidence.findings import FORMAT, Findings, Judged, RecordedRun, decode
from training.export.shelf import ExportError, replace_manifest
from training.runs.ledger import Ledger, LedgerError, ledger_path


class PromotionError(Exception):
    """The version stays unpromoted; one line for each reason, naming the value found and the one expected."""


class Judgement(msgspec.Struct, frozen=True):
    """A version and every criterion it passed."""

    version: str
    criteria: tuple[Judged, ...]
    claim: str = LEAD


class _Quotes(msgspec.Struct, frozen=True):
    """Fields of the summary of `rltraderd --dry-run --option-quotes`: quotes on file, and fills."""

    synthetic: str
    sessions_quoted: int
    first_date: str
    fills_recorded: int
    fills_modelled: int


class _Summary(msgspec.Struct, frozen=True):
    """The fields of such a summary that are used; `option_quotes` is null for other runs."""

    strategy: str
    model: str
    synthetic: bool
    stopped_by: str
    realized_pnl_usd: float
    rules: str
    option_quotes: _Quotes | None


def recorded_run(path: Path, manifest: Manifest) -> RecordedRun:
    """Read the summary, one JSON object, of a dry run on recorded option quotes. Raises PromotionError."""
    cure = "give the last line of standard output of rltraderd --dry-run --option-quotes"
    try:
        summary = msgspec.json.decode(_read(path), type=_Summary)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise PromotionError(f"{path} is no summary of a run ({error}): {cure}") from error
    quotes = summary.option_quotes
    if quotes is None:
        raise PromotionError(f"{path} is of a run without recorded option quotes: {cure}")
    for what, value, expected in (
        ("strategy", summary.strategy, manifest.strategy),
        ("model", summary.model, manifest.version),
        ("made-up bars", summary.synthetic, False),
        ("made-up quotes", quotes.synthetic, ""),
        ("stopped by", summary.stopped_by, ""),
        ("digest of sizes, limits, gates and costs", summary.rules, manifest.rules.get(DIGEST, summary.rules)),
    ):
        if value != expected:
            raise PromotionError(
                f"{path}: {what} {value!r}, expected {expected!r}: run this version to the end of both, by the "
                "configuration that it was trained by"
            )
    learned = learned_until(manifest)
    if quotes.first_date <= learned:
        raise PromotionError(
            f"{path}: the quotes begin on {quotes.first_date or 'no day'}, and the version was trained and chosen on "
            f"sessions up to {learned}; expected later ones alone: run it on quotes after {learned}"
        )
    fills = quotes.fills_recorded + quotes.fills_modelled
    return RecordedRun(quotes.sessions_quoted, fills, quotes.fills_modelled, summary.realized_pnl_usd)


def learned_until(manifest: Manifest) -> str:
    """Return the date of the last session that the version was trained or chosen on."""
    splits = manifest.training.splits
    spans = [splits[name] for name in ("train", "validate") if name in splits]
    return max((last_session for _, last_session in spans), default=manifest.training.last_session)


def promote(version_folder: Path, recorded: Path | None = None, claim: str = "") -> Judgement:
    """Set `promoted` in the manifest of a version of the model store whose report passes every criterion.

    The report's own judgement is ignored: its figures are judged again, with those of the dry run on recorded option
    quotes whose summary is `recorded`. The manifest is replaced by one rename. `claim` is a lead or a risk; "" is the
    one that the version makes, a lead where it makes none.

    Raises:
        PromotionError: a file is missing or damaged, the report is of another policy or other data or not the one that
            the manifest vouches for, the ledger has other trials than it counts, the version makes another claim, a
            criterion fails (one line each), or another command changed the version meanwhile. The manifest stays as
            it was.
    """
    read = _read(version_folder / MANIFEST_FILE)
    manifest, findings = _manifest(version_folder / MANIFEST_FILE, read), _findings(version_folder)
    digest = hashlib.sha256(_read(version_folder / POLICY_FILE)).hexdigest()
    for what, value, expected in (
        ("its folder is called", version_folder.resolve().name, manifest.version),
        (f"{REPORT_FILE} is of the strategy", findings.strategy, manifest.strategy),
        (
            f"{REPORT_FILE} says that exported is",
            _export_text(findings.passive),
            _export_text(manifest.metrics.get("exported") == "passive"),
        ),
        (f"{POLICY_FILE} has digest", digest, manifest.policy_sha256),
        (f"the policy of {REPORT_FILE} has digest", findings.policy_sha256, manifest.policy_sha256),
        (f"the bars of {REPORT_FILE} have digest", findings.data_sha256, manifest.training.file_sha256),
        *((f"{name} has digest", _digest(version_folder, name), vouched) for name, vouched in manifest.files.items()),
        (f"{REPORT_FILE} has digest", _digest(version_folder, REPORT_FILE), manifest.files.get(REPORT_FILE)),
    ):
        if value != expected:
            raise PromotionError(
                f"{version_folder.name}: {what} {value or 'none'}, {MANIFEST_FILE} names {expected or 'none'}: they "
                "are not of one training run; export the policy again with its own report"
            )
    _refuse_uncounted(version_folder.resolve().parents[1], findings)
    kind = _claim_kind(manifest, findings, claim)
    run = None if recorded is None else recorded_run(recorded, manifest)
    criteria = judge(msgspec.structs.replace(findings, recorded_run=run), kind)
    failed = [criterion for criterion in criteria if not criterion.passes]
    if failed:
        lines = [f"{criterion.name}: {criterion.rule}; found {criterion.found}" for criterion in failed]
        first = f"{version_folder.name} is not promoted: {len(failed)} of {len(criteria)} criteria fail"
        raise PromotionError("\n".join([first, *lines]))
    if not manifest.promoted:
        promoted = msgspec.structs.replace(manifest, promoted=True)
        try:
            replace_manifest(version_folder, read, manifests.encode(promoted))
        except ExportError as error:
            raise PromotionError(str(error)) from error
    return Judgement(manifest.version, criteria, kind)


def _refuse_uncounted(store: Path, findings: Findings) -> None:
    """Raise PromotionError unless the store's ledger has the very trials that the report counts.

    Every trial of a study is chosen among all of them, the first as well as the last. A ledger with fewer trials is not
    the training's; one with more means that further trials saw these sessions.
    """
    path, counted = ledger_path(store, findings.strategy), (findings.counted_trials, findings.counted_risks)
    dates = [fold.test[0] for fold in findings.folds]
    try:
        ledger = Ledger(path)
        now = (ledger.trials(dates), None if counted[1] is None else ledger.claims(dates))
    except LedgerError as error:
        raise PromotionError(str(error)) from error
    if now == counted and findings.counted_trials:
        return
    fewer = ": it is not the ledger of its training, or lines are missing" * (now[0] < counted[0])
    raise PromotionError(
        f"{path} has {_counts(now)} on the test sessions or later ones, {REPORT_FILE} counts {_counts(counted)}"
        f"{fewer}: give the command of its training again for this store: nothing is trained twice, and the report "
        "counts them all"
    )


def _counts(counts: tuple[int, int | None]) -> str:
    """Return numbers of trials and stated risks in words; reports of earlier versions count no risks."""
    trials, risks = counts
    return f"{trials} trials" if risks is None else f"{trials} trials and {risks} stated risks"


def _claim_kind(manifest: Manifest, findings: Findings, requested: str) -> str:
    """The kind of claim to judge. Raises PromotionError where the version makes another one, or a risk without rules.

    A version promoted by a risk may trade real money only under the rules of its tests, so its manifest must name them.
    """
    claim_kind = LEAD if manifest.claim is None else manifest.claim.kind
    again = f"train again with --claim {requested or claim_kind}: the same run, nothing is trained twice"
    if requested not in {"", claim_kind}:
        claimed = "nothing" if manifest.claim is None else f"a {claim_kind}"
        raise PromotionError(f"{manifest.version} claims {claimed}, expected a {requested}: {again}")
    if manifest.claim != findings.claim:
        raise PromotionError(f"{manifest.version}: {MANIFEST_FILE} and {REPORT_FILE} make other claims: {again}")
    if claim_kind == RISK and not manifest.rules.get(DIGEST):
        raise PromotionError(f"{manifest.version} names no digest of the rules that its risk was tested by: {again}")
    return claim_kind


def _export_text(passive: bool) -> str:
    return "the passive policy" if passive else "what was learned"


def _digest(folder: Path, name: str) -> str:
    """SHA-256 of a file that the manifest lists."""
    if Path(name).name != name:
        raise PromotionError(f"{folder.name}: {MANIFEST_FILE} names a file {name!r}, expected plain names")
    return hashlib.sha256(_read(folder / name)).hexdigest()


def _findings(folder: Path) -> Findings:
    path = folder / REPORT_FILE
    try:
        findings = decode(_read(path))
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise PromotionError(f"{path} cannot be read ({error}): export the policy again with its report") from error
    if findings.format != FORMAT:
        raise PromotionError(f"{path} has format {findings.format}, expected {FORMAT}: make the report again")
    return findings


def _manifest(path: Path, data: bytes) -> Manifest:
    try:
        return manifests.decode(data)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise PromotionError(f"{path} cannot be read ({error}): export the policy again") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PromotionError(
            f"{path} cannot be read ({error.strerror}): give the folder of a version with {POLICY_FILE}, "
            f"{MANIFEST_FILE} and {REPORT_FILE}"
        ) from error
