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
from training.overfitting import Deflated, Detectable, Overfitting, Snooping
from training.run_folder import write_whole
from training.statistics import FEWEST, Calibration, Interval, Summary
from training.wording import number, percent, share

FORMAT = 1
REPORT_FILE = "report.json"
COSTS_TWICE, ONE_BAR_LATE = "costs x 2", "one bar late"
"""Names of the scenarios of a study that a policy has to survive."""


class PromotionError(Exception):
    """The version stays unpromoted; one line for each reason, naming the value found and the one expected."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One player over all test sessions. Returns are fractions of the capital, added up, never compounded."""

    name: str
    description: str = ""
    figures: Summary
    net_return: Interval  # the sum over sessions
    session_return: Interval  # the mean
    sharpe_annual: Interval


class FoldLine(msgspec.Struct, frozen=True, kw_only=True):
    """One fold: first and last session of each span and their number; what was chosen there, what it earned."""

    train: tuple[str, str, int]
    validate: tuple[str, str, int]
    test: tuple[str, str, int]
    weekdays_left_out: tuple[int, int]  # between train and validate, validate and test
    seed: int
    chosen_steps: int
    validate_return: float  # net, like the others
    net_return: float
    trades: int
    baselines: dict[str, float]
    random_p: float | None


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One trial in a line; returns are net, summed over the span's sessions."""

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
    """All trials of one reward: net return of a fold's test sessions, its interquartile mean over seeds and folds."""

    reward: str
    trials: int
    net_return: Interval
    profitable: float  # share of trials that earned
    trades_per_session: float
    headline_better: Interval | None  # probability that a run of the headline's reward earns more; None for itself


class Judged(msgspec.Struct, frozen=True):
    """One criterion and what came of it; `found` is in words."""

    name: str
    rule: str
    found: str
    passes: bool


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """All figures of a report, made from a study by `training.report`. `scenarios` are the policy once more."""

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
    imported: bool = False  # trained elsewhere: on which sessions, and chosen among how many, is not known
    code_version: str
    policy_sha256: str | None = None  # of the model that the report ships with; filled at export
    first_session: str
    last_session: str
    seeds: int  # of the headline's reward, the fewest of any fold
    policy: Line
    baselines: tuple[Line, ...]
    over_baselines: dict[str, Interval]  # the policy's mean session return less theirs, paired by session
    folds: tuple[FoldLine, ...]
    runs: tuple[Run, ...]
    rewards: tuple[RewardLine, ...]
    random_p: float | None
    random_ranges: tuple[tuple[float, float], ...]  # 5 and 95 % of random traders' running sums at each fold's end
    rank_correlation: float | None  # of validation and test return within folds, headline's reward, mean over folds
    rank_chance: float | None = None  # by chance one such correlation in twenty is above this
    deflated: Deflated
    overfitting: Overfitting
    snooping: Snooping | None
    prior_trials: int
    prior_openings: int
    detectable: Detectable
    detectable_fold: Detectable | None = None  # the same for the sessions of the shortest fold alone; None for one fold
    scenarios: tuple[Line, ...]
    calibration: Calibration
    denials: dict[str, int]
    criteria: tuple[Judged, ...] = ()


def told_apart(gap: Interval, sessions: int) -> bool:
    """Whether the interval of a difference over so many sessions leaves zero out; never for fewer than `FEWEST`."""
    return sessions >= FEWEST and not gap.low <= 0.0 <= gap.high


class Criterion(NamedTuple):
    """A rule in words (its threshold among them), the figure it looks at, and how that is compared and worded."""

    name: str
    rule: str
    figure: Callable[[Findings], float | None]
    compare: Callable[[float, float], bool]
    threshold: float
    shown: Callable[[float], str]


def _lead(findings: Findings) -> float | None:
    """Net return less the best baseline's; None without baselines."""
    others = [line.figures.net_return for line in findings.baselines]
    return findings.policy.figures.net_return - max(others) if others else None


def _lower_bound(findings: Findings) -> float | None:
    """Of the mean session return's interval; None where sessions are too few or all alike, so that it says nothing."""
    own = findings.policy.figures
    return findings.policy.session_return.low if own.sessions >= FEWEST and own.deviation > 0.0 else None


def _deflated(findings: Findings) -> float | None:
    """None for an imported policy: nobody knows among how many it was chosen."""
    return None if findings.imported else findings.deflated.deflated


def _scenario(name: str) -> Callable[[Findings], float | None]:
    def figure(findings: Findings) -> float | None:
        return next((line.figures.net_return for line in findings.scenarios if line.name == name), None)

    return figure


def _of_minimum(findings: Findings) -> float | None:
    """Test sessions over the minimum track record."""
    minimum = findings.deflated.minimum_sessions
    return None if minimum is None else findings.policy.figures.sessions / minimum


def _recorded(made_up: float) -> str:
    return "made up" if made_up else "recorded"


def _against_the_best(lead: float) -> str:
    return f"{percent(lead)} against the best"


def _of_them(part: float) -> str:
    return f"{share(part)} of them"


CRITERIA: tuple[Criterion, ...] = (
    Criterion("data", "bars are recorded, not made up", lambda f: f.synthetic, operator.le, 0, _recorded),
    Criterion("seeds", "at least 10 seeds in every fold", lambda f: f.seeds, operator.ge, 10, "{:.0f}".format),
    Criterion("folds", "at least 3 folds", lambda f: len(f.folds), operator.ge, 3, "{:.0f}".format),
    Criterion(
        "trades",
        "at least 30 trades on the test sessions",
        lambda f: f.policy.figures.trades,
        operator.ge,
        30,
        "{:.0f}".format,
    ),
    Criterion("profit", "net return above 0", lambda f: f.policy.figures.net_return, operator.gt, 0.0, percent),
    Criterion("baselines", "net return above every baseline's", _lead, operator.gt, 0.0, _against_the_best),
    Criterion(
        "mean return",
        "95 % interval of the mean session return above 0",
        _lower_bound,
        operator.gt,
        0.0,
        lambda low: f"lower bound {percent(low, 3)}",
    ),
    Criterion(
        "deflated Sharpe",
        "deflated Sharpe ratio at least 0.95",
        _deflated,
        operator.ge,
        0.95,
        lambda ratio: number(ratio, 3),
    ),
    Criterion(
        "overfitting",
        "probability of backtest overfitting at most 0.2",
        lambda f: f.overfitting.probability,
        operator.le,
        0.2,
        number,
    ),
    Criterion("luck", "at most 5 % of random traders did as well", lambda f: f.random_p, operator.le, 0.05, _of_them),
    Criterion("costs", "net return above 0 at twice the costs", _scenario(COSTS_TWICE), operator.gt, 0.0, percent),
    Criterion("delay", "net return above 0 one bar late", _scenario(ONE_BAR_LATE), operator.gt, 0.0, percent),
    Criterion(
        "track record",
        "as many test sessions as the minimum track record",
        _of_minimum,
        operator.ge,
        1.0,
        _of_them,
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
    return Judged(criterion.name, criterion.rule, criterion.shown(figure), passes=bool(holds))


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
