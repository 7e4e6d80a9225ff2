"""The figures of a report as data: `report.json` is one `Findings`, made by `training.report.find`.

Computes nothing except whether an interval excludes zero. Returns are fractions of the capital with which a session
begins: added up over sessions, or compounded where one account goes through all of them.

`StrategyClaims` are the claims of a strategy's published source, each with the function that gives this study's figure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from strategies.kit.manifest import StatedClaim
from training.evidence.calibration import ConfidenceCalibration
from training.evidence.lead import BaselineLead
from training.evidence.overfitting import Deflated, Overfitting
from training.evidence.resampling import FEWEST, Interval
from training.evidence.risk import KeptRisk
from training.evidence.significance import Detectable, Snooping
from training.evidence.statistics import SessionStatistics
from training.study.study import AccountHalt, NetworkChange, SeedAgreement, SizesPlayed, Study

FORMAT = 1


class PlayerLine(msgspec.Struct, frozen=True, kw_only=True):
    """One player over all test sessions."""

    name: str
    description: str = ""
    figures: SessionStatistics
    net_return: Interval  # the sum over sessions, or compounded
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
    over_passive: Interval | None = None  # net validation return less the passive policy's, added up
    agreement: SeedAgreement | None = None  # of these seeds


class TrialLine(msgspec.Struct, frozen=True, kw_only=True):
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
    """A criterion and its outcome; `found` is the figure as text."""

    name: str
    rule: str
    found: str
    passes: bool


class AccountLine(msgspec.Struct, frozen=True, kw_only=True):
    """The policies of all folds on one account through all tests; a halt is never resumed. Drawdowns are of closes."""

    anew: bool  # True: the report's other figures are of accounts that begin anew with each session or fold
    capital_usd: float  # at its start
    end_usd: float
    net_return: float
    max_drawdown: float
    trades: int
    halts: tuple[AccountHalt, ...]
    sessions_after: int = 0  # sessions after the day of the first halt
    trades_after: int = 0  # in these
    trades_anew: int = 0  # trades then on the accounts that begin anew
    passive: str = ""  # player whose account is shown beside it
    passive_return: float = 0.0
    passive_drawdown: float = 0.0


class RecordedRun(msgspec.Struct, frozen=True):
    """A dry run of the policy on recorded option quotes, as its summary says. `profit_usd` is after fees."""

    sessions: int  # sessions with quotes on file
    fills: int
    modelled: int  # fills at Black-Scholes prices
    profit_usd: float


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """All figures of a report, made from a study by `training.report.find`. `scenarios`: other conditions."""

    format: int = FORMAT
    verdict: str
    abstract: tuple[str, ...]  # sentences
    strategy: str
    network: str
    reward: str
    capital_usd: float  # capital of every session, or of the account at its start
    compounds: bool = False  # one account through all sessions of a fold
    data_file: str
    data_sha256: str
    synthetic: bool  # the bars were made up
    source: str = ""  # where their file says that they come from, "" where it does not
    passive: bool = False  # True: the passive policy is exported instead of the learned one, of which all figures are
    refit: bool = False  # True: the exported weights were trained again on all sessions, without a test
    imported: bool = False  # True: trained elsewhere, on unknown sessions, chosen among unknown trials
    code_version: str
    policy_sha256: str | None = None  # of the model that the report ships with; filled at export
    first_session: str
    last_session: str
    seeds: int  # seeds of the headline's reward, in the fold with the fewest
    trades_options: bool | None = None  # True: the figures are on modelled option prices; None: unknown
    recorded_run: RecordedRun | None = None  # of a policy that trades options; read when it is promoted
    members: int = 1  # seeds whose answers the policy is the mean of
    policy: PlayerLine
    baselines: tuple[PlayerLine, ...]
    parts: tuple[str, ...] = ()  # names of baselines that are parts of the policy, which it need not lead
    over_baselines: dict[str, Interval]  # mean session return of the policy less the baseline's, paired
    lead: BaselineLead | None = (
        None  # over the best baseline; None without baselines, and in reports of earlier versions
    )
    learnt: NetworkChange | None = None  # change of the chosen trial that changed least; None: not measured
    account: AccountLine | None = None  # None in reports of earlier versions
    folds: tuple[FoldLine, ...]
    runs: tuple[TrialLine, ...]
    rewards: tuple[RewardLine, ...]
    random_p: float | None
    random_ranges: tuple[tuple[float, float], ...]  # 5 and 95 % of random traders' running sums at each fold's end
    rank_correlation: float | None  # of validation and test return over a fold's seeds; mean over folds
    rank_chance: float | None = None  # a correlation that chance exceeds with probability 0.05
    deflated: Deflated
    overfitting: Overfitting  # of the headline's trials alone
    snooping: Snooping | None
    prior_trials: int
    prior_openings: int
    counted_trials: int = 0  # trials in the ledger that saw a test session or a later one; 0 in old reports
    counted_risks: int | None = None  # number of stated risks likewise; None in reports of earlier versions
    detectable: Detectable
    detectable_fold: Detectable | None = None  # the same for the sessions of the shortest fold alone; None for one fold
    scenarios: tuple[PlayerLine, ...]
    calibration: ConfidenceCalibration
    denials: dict[str, int]
    criteria: tuple[Judged, ...] = ()
    risk: KeptRisk | None = None  # of what is exported, under a risk overlay; None: without one, or not played
    risk_criteria: tuple[Judged, ...] = ()  # of a claim of that risk
    claim: StatedClaim | None = None  # that the version makes
    forecaster: dict[str, Any] | None = None  # of a strategy that has one: `training.forecast.findings`
    heads: dict[str, Any] | None = None  # of a strategy whose policy has some: `training.evidence.heads`
    sizes: SizesPlayed | None = None  # of what is exported, not of what was learned; None: not played

    @property
    def rivals(self) -> tuple[PlayerLine, ...]:
        """The baselines that the policy has to lead: those that are not parts of it."""
        return tuple(line for line in self.baselines if line.name not in self.parts)

    @property
    def untrained(self) -> bool:
        """Whether no trial was trained here: the figures are of a given policy."""
        return not any(run.steps for run in self.runs)


def told_apart(gap: Interval, sessions: int) -> bool:
    """Whether the interval of a difference excludes zero; never with fewer than `FEWEST` sessions."""
    return sessions >= FEWEST and not gap.low <= 0.0 <= gap.high


def encode(findings: Findings) -> bytes:
    """The findings as indented JSON with a newline at the end; a figure that is not finite becomes null."""
    return msgspec.json.format(msgspec.json.encode(findings), indent=1) + b"\n"


def decode(data: bytes) -> Findings:
    """Read findings. Raises `msgspec.ValidationError` or `msgspec.DecodeError` naming the field that is wrong."""
    return msgspec.json.decode(data, type=Findings)


class Claim(NamedTuple):
    """A claim of a reference in words, and the function that gives this study's figure as text; a report shows both."""

    name: str
    claimed: str
    figure_text: Callable[[Findings, Study], str]


class StrategyClaims(NamedTuple):
    """The published claims for a strategy, the differences in data and rules, and the bias of its choice of symbols."""

    claims: tuple[Claim, ...]
    differs: tuple[str, ...]
    survivorship: str
