"""The figures of a report as data: `report.json` is one `Findings`, made by `training.report.find`.

Computes nothing but whether an interval leaves zero out. Returns are fractions of the capital with which a session
begins: added up over sessions, or compounded where one account goes through all of them.
"""

from __future__ import annotations

from typing import Any

import msgspec

from strategies.kit.manifest import StatedClaim
from training.evidence.calibration import ConfidenceCalibration
from training.evidence.lead import BaselineLead
from training.evidence.overfitting import Deflated, Overfitting
from training.evidence.resampling import FEWEST, Interval
from training.evidence.risk import KeptRisk
from training.evidence.significance import Detectable, Snooping
from training.evidence.statistics import SessionStatistics
from training.study.study import AccountHalt, NetworkChange, SeedAgreement, SizesPlayed

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
    over_passive: Interval | None = None  # net validation return less the passive policy's, a sum
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
    """The policies of all folds on one account through all tests, on which a halt stays. Drawdowns are of closes."""

    anew: bool  # the other figures are of accounts that begin anew, with each session or each fold
    capital_usd: float  # at its start
    end_usd: float
    net_return: float
    max_drawdown: float
    trades: int
    halts: tuple[AccountHalt, ...]
    sessions_after: int = 0  # after the day of the first halt
    trades_after: int = 0  # in these
    trades_anew: int = 0  # in these, on the accounts that begin anew
    passive: str = ""  # who has such an account next to it
    passive_return: float = 0.0
    passive_drawdown: float = 0.0


class RecordedRun(msgspec.Struct, frozen=True):
    """A dry run of the policy on recorded option quotes, as its summary says. `profit_usd` is after fees."""

    sessions: int  # with quotes on file
    fills: int
    modelled: int  # of them at Black-Scholes prices
    profit_usd: float


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """All figures of a report, made from a study by `training.report.find`. `scenarios` are the policy once more."""

    format: int = FORMAT
    verdict: str
    abstract: tuple[str, ...]  # sentences
    strategy: str
    network: str
    reward: str
    capital_usd: float  # of every session, or of the account at its start
    compounds: bool = False  # one account through all sessions of a fold
    data_file: str
    data_sha256: str
    synthetic: bool  # the bars were made up
    source: str = ""  # where their file says that they come from, "" where it does not
    passive: bool = False  # the passive policy is exported in place of what was learned, of which all figures are
    refit: bool = False  # the exported weights were trained once more on all sessions, which nothing tests
    imported: bool = False  # trained elsewhere: on which sessions, and chosen among how many, is not known
    code_version: str
    policy_sha256: str | None = None  # of the model that the report ships with; filled at export
    first_session: str
    last_session: str
    seeds: int  # of the headline's reward, the fewest of any fold
    trades_options: bool | None = None  # then the figures here are on made-up prices; None: not known
    recorded_run: RecordedRun | None = None  # of a policy that trades options; read when it is promoted
    members: int = 1  # seeds whose answers the policy is the mean of
    policy: PlayerLine
    baselines: tuple[PlayerLine, ...]
    parts: tuple[str, ...] = ()  # of them: parts of the policy itself, which it need not lead
    over_baselines: dict[str, Interval]  # the policy's mean session return less theirs, paired by session
    lead: BaselineLead | None = (
        None  # over the best baseline; None without baselines, and in reports of earlier versions
    )
    learnt: NetworkChange | None = None  # of the chosen trial that moved least; None: not measured
    account: AccountLine | None = None  # None in reports of earlier versions
    folds: tuple[FoldLine, ...]
    runs: tuple[TrialLine, ...]
    rewards: tuple[RewardLine, ...]
    random_p: float | None
    random_ranges: tuple[tuple[float, float], ...]  # 5 and 95 % of random traders' running sums at each fold's end
    rank_correlation: float | None  # of validation and test return within folds, headline's reward, mean over folds
    rank_chance: float | None = None  # by chance one such correlation in twenty is above this
    deflated: Deflated
    overfitting: Overfitting  # of the headline's trials alone
    snooping: Snooping | None
    prior_trials: int
    prior_openings: int
    counted_trials: int = 0  # in the ledger on the test sessions or later ones, its own too; 0 in earlier versions
    counted_risks: int | None = None  # as many risks were stated; None in reports of earlier versions
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
        """The baselines that are no part of the policy: those that it has to lead."""
        return tuple(line for line in self.baselines if line.name not in self.parts)

    @property
    def untrained(self) -> bool:
        """Whether nothing was trained: the figures are those of a policy as it was made."""
        return not any(run.steps for run in self.runs)


def told_apart(gap: Interval, sessions: int) -> bool:
    """Whether the interval of a difference over so many sessions leaves zero out; never for fewer than `FEWEST`."""
    return sessions >= FEWEST and not gap.low <= 0.0 <= gap.high


def encode(findings: Findings) -> bytes:
    """The findings as indented JSON with a newline at the end; a figure that is not finite becomes null."""
    return msgspec.json.format(msgspec.json.encode(findings), indent=1) + b"\n"


def decode(data: bytes) -> Findings:
    """Read findings. Raises `msgspec.ValidationError` or `msgspec.DecodeError` naming the field that is wrong."""
    return msgspec.json.decode(data, type=Findings)
