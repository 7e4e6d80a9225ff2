"""What a report has found, and what of it must hold before a policy may trade real money.

One table of criteria, each a function of the findings; a figure that is not known fails. Nothing but `promote` writes,
and it writes one thing: the manifest of a version whose report, judged again from its figures, passes every criterion.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from strategies import manifest as manifests
from strategies.manifest import MANIFEST_FILE, POLICY_FILE, Manifest
from training.run_folder import write_whole

FORMAT = 1
REPORT_FILE = "report.json"
COSTS_TWICE, ONE_BAR_LATE = "costs x 2", "one bar late"
"""Names of the scenarios of a study that a policy has to survive."""


class PromotionError(Exception):
    """The version stays unpromoted; one line for each reason, naming the value found and the one expected."""


class Estimate(msgspec.Struct, frozen=True):
    """A figure and its 95 % interval; None where it cannot be computed, and `note` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One player over all test sessions. Returns are fractions of the capital, added up, never compounded."""

    name: str
    description: str = ""
    sessions: int
    net_usd: float
    net_return: Estimate  # the sum over sessions
    session_return: Estimate  # the mean
    sharpe: Estimate  # annual
    sortino: float | None  # annual
    calmar: float | None
    max_drawdown: float  # of the running sum
    worst_session: float
    turnover: float  # premium paid / capital, a session
    exposure: float  # minutes with a position / minutes
    hit_rate: float | None  # sessions with a profit / sessions with a trade
    win_rate: float | None  # trades with a profit / trades
    trades: int
    fees_usd: float


class FoldLine(msgspec.Struct, frozen=True, kw_only=True):
    """One fold: first and last session and their number for each span, and what was chosen there and what it earned."""

    train: tuple[str, str, int]
    validate: tuple[str, str, int]
    test: tuple[str, str, int]
    weekdays_left_out: tuple[int, int]  # between train and validate, validate and test
    seed: int
    chosen_steps: int
    validate_return: float
    net_return: float
    trades: int
    baselines: dict[str, float]  # net return of each
    random_p: float | None


class Run(msgspec.Struct, frozen=True):
    """One trial in a line."""

    fold: int
    seed: int
    reward: str
    steps: int
    chosen_steps: int
    stopped: str
    validate_return: float
    test_return: float
    test_trades: int
    chosen: bool


class RewardLine(msgspec.Struct, frozen=True, kw_only=True):
    """All trials of one reward on the test sessions. `mean_session` is the interquartile mean over the seeds."""

    reward: str
    seeds: int
    mean_session: Estimate  # of the session return, interquartile over seeds, stratified bootstrap
    profitable: float  # the share of trials with a net profit
    trades_per_session: float
    headline_better: Estimate | None  # probability that the headline's reward does better; None for itself


class Overfitting(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the result is left after what was tried. Sharpe ratios here are a session's, not annual."""

    sharpe_session: float | None
    trials: int  # of this study and of the ledger
    prior_trials: int
    prior_openings: int
    probabilistic_sharpe: float | None  # PSR(0)
    benchmark_sharpe: float | None  # SR0: what the best of so many tries reaches without any skill
    deflated_sharpe: float | None
    pbo: float | None
    pbo_note: str = ""
    logits: tuple[tuple[float, float, int], ...] = ()  # bins of the splits' logits: from, to, count
    loss_probability: float | None = None  # that the best in sample loses out of sample
    spa_p: float | None = None  # Hansen's SPA against always flat
    minimum_sessions: float | None = None  # minimum track record
    notes: tuple[str, ...] = ()


class Power(msgspec.Struct, frozen=True):
    """The smallest effect that so many sessions show in four of five cases (5 % level)."""

    sessions: int
    session_return: float | None
    sharpe: float | None  # annual


class Bin(msgspec.Struct, frozen=True):
    """Trades of similar confidence: how many, their mean confidence, and the share that won with its interval."""

    trades: int
    confidence: float
    won: Estimate


class Calibration(msgspec.Struct, frozen=True):
    """Confidence against outcome. Confidence is the probability of an action, not of a profit."""

    bins: tuple[Bin, ...]
    brier: float
    expected_error: float


class Judged(msgspec.Struct, frozen=True):
    """One criterion and what came of it; `found` is in words."""

    name: str
    rule: str
    found: str
    passes: bool


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """All figures of a report. `lines` begin with the policy; `scenarios` are the policy once more, by name."""

    format: int = FORMAT
    verdict: str
    abstract: tuple[str, ...]  # sentences
    strategy: str
    network: str
    reward: str
    capital_usd: float
    data_file: str
    data_sha256: str
    synthetic: bool  # the bars were made up
    code_version: str
    policy_sha256: str | None = None  # of the model that the report ships with; filled at export
    first_session: str
    last_session: str
    seeds: int  # of the headline's reward, the fewest of any fold
    policy: Line
    baselines: tuple[Line, ...]
    over_baselines: dict[str, Estimate]  # difference of the mean session return, paired
    folds: tuple[FoldLine, ...]
    runs: tuple[Run, ...]
    rewards: tuple[RewardLine, ...]
    random_p: float | None
    random_range: tuple[float, float] | None  # 5 and 95 % of the random traders' net return
    overfitting: Overfitting
    power: Power
    scenarios: tuple[Line, ...]
    calibration: Calibration | None
    denials: dict[str, int]
    criteria: tuple[Judged, ...] = ()


class Criterion(NamedTuple):
    """A rule in words (its threshold among them), the figure it looks at, and how that figure is compared and shown."""

    name: str
    rule: str
    figure: Callable[[Findings], float | None]
    compare: Callable[[float, float], bool]
    threshold: float
    shown: str  # format of the figure


def _lead(findings: Findings) -> float | None:
    """Net return less the best baseline's; None without baselines, or with one unknown."""
    own = findings.policy.net_return.value
    known = [line.net_return.value for line in findings.baselines]
    others = [value for value in known if value is not None]
    return own - max(others) if own is not None and others and len(others) == len(known) else None


def _scenario(name: str) -> Callable[[Findings], float | None]:
    def figure(findings: Findings) -> float | None:
        return next((line.net_return.value for line in findings.scenarios if line.name == name), None)

    return figure


def _to_spare(findings: Findings) -> float | None:
    """Test sessions beyond the minimum track record."""
    minimum = findings.overfitting.minimum_sessions
    return None if minimum is None else findings.policy.sessions - minimum


CRITERIA: tuple[Criterion, ...] = (
    Criterion("data", "bars are recorded, not made up", lambda f: f.synthetic, operator.le, 0, "{:.0f} made-up files"),
    Criterion("seeds", "at least 10 seeds in every fold", lambda f: f.seeds, operator.ge, 10, "{:.0f}"),
    Criterion("folds", "at least 3 folds", lambda f: len(f.folds), operator.ge, 3, "{:.0f}"),
    Criterion(
        "trades", "at least 30 trades on the test sessions", lambda f: f.policy.trades, operator.ge, 30, "{:.0f}"
    ),
    Criterion("profit", "net return above 0", lambda f: f.policy.net_return.value, operator.gt, 0.0, "{:+.2%}"),
    Criterion("baselines", "net return above every baseline's", _lead, operator.gt, 0.0, "{:+.2%} against the best"),
    Criterion(
        "mean return",
        "95 % interval of the mean session return above 0",
        lambda f: f.policy.session_return.low,
        operator.gt,
        0.0,
        "lower bound {:+.3%}",
    ),
    Criterion(
        "deflated Sharpe",
        "deflated Sharpe ratio at least 0.95",
        lambda f: f.overfitting.deflated_sharpe,
        operator.ge,
        0.95,
        "{:.3f}",
    ),
    Criterion(
        "overfitting",
        "probability of backtest overfitting at most 0.2",
        lambda f: f.overfitting.pbo,
        operator.le,
        0.2,
        "{:.2f}",
    ),
    Criterion(
        "luck", "at most 5 % of random traders did as well", lambda f: f.random_p, operator.le, 0.05, "{:.1%} of them"
    ),
    Criterion("costs", "net return above 0 at twice the costs", _scenario(COSTS_TWICE), operator.gt, 0.0, "{:+.2%}"),
    Criterion("delay", "net return above 0 one bar late", _scenario(ONE_BAR_LATE), operator.gt, 0.0, "{:+.2%}"),
    Criterion(
        "track record",
        "no fewer test sessions than the minimum track record",
        _to_spare,
        operator.ge,
        0.0,
        "{:+,.0f} sessions",
    ),
)
"""What a policy must show before it may trade real money. The only such list; report and promotion both read it."""


def judge(findings: Findings) -> tuple[Judged, ...]:
    """Every criterion of `CRITERIA` on these findings, in its order. What is not known (None, or not finite) fails."""
    return tuple(_judged(criterion, criterion.figure(findings)) for criterion in CRITERIA)


def _judged(criterion: Criterion, figure: float | None) -> Judged:
    if figure is None or not math.isfinite(figure):
        return Judged(criterion.name, criterion.rule, "not known", passes=False)
    holds = criterion.compare(figure, criterion.threshold)
    return Judged(criterion.name, criterion.rule, criterion.shown.format(figure), passes=bool(holds))


class Judgement(msgspec.Struct, frozen=True):
    """A version and every criterion it passed."""

    version: str
    criteria: tuple[Judged, ...]


def promote(version_folder: Path) -> Judgement:
    """Set `promoted` in the manifest of a version of the model store whose report passes every criterion.

    The report's own judgement counts for nothing: its figures are judged again. The manifest is replaced by one rename.

    Raises:
        PromotionError: a file is missing or damaged, the report is of another policy or other data, or a criterion
            fails (one line each). The manifest stays as it was.
    """
    manifest, findings = _manifest(version_folder), _findings(version_folder)
    found = hashlib.sha256(_read(version_folder / POLICY_FILE)).hexdigest()
    for of, digest, expected in (
        (POLICY_FILE, found, manifest.policy_sha256),
        (f"the policy of {REPORT_FILE}", findings.policy_sha256, manifest.policy_sha256),
        (f"the bars of {REPORT_FILE}", findings.data_sha256, manifest.training.file_sha256),
    ):
        if digest != expected:
            raise PromotionError(
                f"{version_folder.name}: {of} has digest {digest or 'none'}, {MANIFEST_FILE} names {expected}: they "
                "are not of one training run; export the policy again with its own report"
            )
    criteria = judge(findings)
    failed = [judged for judged in criteria if not judged.passes]
    if failed:
        lines = [f"{judged.name}: {judged.rule}; found {judged.found}" for judged in failed]
        first = f"{version_folder.name} is not promoted: {len(failed)} of {len(criteria)} criteria fail"
        raise PromotionError("\n".join([first, *lines]))
    if not manifest.promoted:
        promoted = msgspec.structs.replace(manifest, promoted=True)
        write_whole(version_folder / MANIFEST_FILE, manifests.encode(promoted))
    return Judgement(manifest.version, criteria)


def encode(findings: Findings) -> bytes:
    """The findings as indented JSON with a newline at the end; a figure that is not finite becomes null."""
    return msgspec.json.format(msgspec.json.encode(findings), indent=1) + b"\n"


def decode(data: bytes) -> Findings:
    """Read findings. Raises `msgspec.ValidationError` or `msgspec.DecodeError` naming the field that is wrong."""
    return msgspec.json.decode(data, type=Findings)


def _findings(folder: Path) -> Findings:
    path = folder / REPORT_FILE
    try:
        findings = decode(_read(path))
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise PromotionError(f"{path} cannot be read ({error}): export the policy again with its report") from error
    if findings.format != FORMAT:
        raise PromotionError(f"{path} has format {findings.format}, expected {FORMAT}: make the report again")
    return findings


def _manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST_FILE
    try:
        return manifests.decode(_read(path))
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
