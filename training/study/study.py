"""The results of a study as data: folds, trials, baselines, sessions and the figures over them.

Runs write it; statistics, report and promotion read it. Pure arithmetic that knows no market and no strategy. Money in
USD, returns per session on the capital with which that session begins. A study is one JSON file, so a report can be
made again without training again.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from strategies.kit.manifest import Training

SESSIONS_A_YEAR = 252


@dataclass(frozen=True, slots=True)
class SessionResult:
    """One session on its own account; money in USD, net of spread and fees."""

    date: str
    pnl_usd: float
    trades: int
    wins: int
    fees_usd: float
    premium_usd: float  # USD: premium of all options bought; for shares the value of all trades
    held_min: int  # minutes with a position; for shares weighted by their part of the equity
    minutes: int  # minutes in which a position can be held
    capital_usd: float = 0.0  # USD at this session's begin; 0: the study's capital, with which every session begins
    over_night: int = 0  # positions left at the close by a desk that should be flat

    @property
    def decisions_flat(self) -> int:
        """Minutes without a position."""
        return max(self.minutes - self.held_min, 0)


@dataclass(frozen=True, slots=True)
class SessionFigures:
    """Figures over sessions. Returns are fractions of the capital with which the session begins."""

    sessions: int
    net_return: float  # the sum over sessions, or compounded
    session_return: float  # the mean
    session_deviation: float  # the sample deviation
    sharpe_annual: float  # mean / deviation x sqrt(252); 0 without deviation
    worst_session: float
    max_drawdown: float  # of the running sum of returns, or of the account's highest equity
    trades: int
    trades_per_session: float
    win_rate: float
    fees_usd: float
    turnover: float  # premium paid, or value traded / capital, a session
    exposure: float  # minutes with a position / minutes


def figures(results: Sequence[SessionResult], capital_usd: float, *, compounds: bool = False) -> SessionFigures:
    """The figures of at least one session; `compounds` where they are of one account that goes through all of them."""
    returns = [result.pnl_usd / (result.capital_usd or capital_usd) for result in results]
    deviation = statistics.stdev(returns) if len(returns) > 1 else 0.0
    mean = statistics.fmean(returns)
    running = peak = drawdown = 0.0  # net return so far
    for value in returns:
        running += value * (1.0 + running if compounds else 1.0)
        peak = max(peak, running)
        drawdown = max(drawdown, (peak - running) / (1.0 + peak if compounds else 1.0))
    trades = sum(result.trades for result in results)
    return SessionFigures(
        sessions=len(results),
        net_return=running if compounds else math.fsum(returns),
        session_return=mean,
        session_deviation=deviation,
        sharpe_annual=mean / deviation * math.sqrt(SESSIONS_A_YEAR) if deviation > 0.0 else 0.0,
        worst_session=min(returns),
        max_drawdown=drawdown,
        trades=trades,
        trades_per_session=trades / len(results),
        win_rate=sum(result.wins for result in results) / trades if trades else 0.0,
        fees_usd=math.fsum(result.fees_usd for result in results),
        turnover=sum(r.premium_usd / (r.capital_usd or capital_usd) for r in results) / len(results),
        exposure=sum(result.held_min for result in results) / sum(result.minutes for result in results),
    )


def as_metrics(results: SessionFigures) -> dict[str, Any]:
    """The figures for a manifest, rounded to six decimals."""
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(results).items()}


FORMAT = 1
PASSIVE_WORDS = "The exported policy is the passive one, which "
"""Prefix of `Study.exported` where the learned policy is not exported."""


class Fold(msgspec.Struct, frozen=True):
    """One walk-forward fold: New York dates of its sessions, ascending; spans never touch where one was purged."""

    train: tuple[str, ...]
    validate: tuple[str, ...]
    test: tuple[str, ...]


class ClosedTrade(msgspec.Struct, frozen=True):
    """One closed trade and the confidence (probability of the chosen action) with which it was entered."""

    date: str
    confidence: float
    pnl_usd: float  # after spread and fees


class AccountHalt(msgspec.Struct, frozen=True):
    """A halt of the desk that stood at the end of a session and not at its beginning."""

    date: str
    reason: str
    detail: str


class PlayResult(msgspec.Struct, frozen=True):
    """The results of one policy or baseline on the sessions of one span, from the dry-run engine."""

    sessions: tuple[SessionResult, ...]
    denials: dict[str, int] = {}
    entries: tuple[ClosedTrade, ...] = ()
    halts: tuple[AccountHalt, ...] = ()


class OneAccount(msgspec.Struct, frozen=True):
    """The policies of all folds on one account through all tests; a halt is never resumed."""

    folds: tuple[PlayResult, ...]  # each session has its own `capital_usd`
    passive: str = ""  # name of the reference account, "" for none
    held: tuple[SessionResult, ...] = ()  # sessions of the reference account


class ValidationCheck(msgspec.Struct, frozen=True):
    """One validation check of a training run."""

    steps: int
    reward: float  # mean of a step since the last check
    entropy: float  # nats
    kl: float  # nats
    clip_fraction: float
    explained_variance: float
    validate_return: float  # net, over the validation sessions: a sum, or compounded where one account goes through
    validate_trades: int
    agent: str = ""  # agent, where a trial trains several, each from step 0
    figures: dict[str, float] = {}  # SAC's and TD3's metrics by name: means since the last check


class NetworkChange(msgspec.Struct, frozen=True):
    """The distance of a trial's chosen checkpoint from its initial network, over observations of its fold."""

    gradient_steps: int  # gradient steps until that checkpoint; 0: not counted
    kl: float | None  # nats: KL divergence of its answers from the start's; None: unknown
    size: float  # mean absolute action, or mean probability of the likeliest one
    variation: float  # deviation over the observations of an action, or of its probability; mean over actions
    explained_variance: float  # of the critic at the last look


class SeedAgreement(msgspec.Struct, frozen=True):
    """Agreement between seeds: the mean correlation of their answers over pairs of seeds."""

    found: float
    chance: float  # independent seeds exceed this with probability 0.05


class Trial(msgspec.Struct, frozen=True):
    """One training: its request, its course, and the result of its chosen checkpoint."""

    fold: int  # index into the study's folds
    seed: int
    reward: str  # or the variant of the action that it was trained with
    steps: int  # trained
    seconds: float
    chosen_steps: int  # steps of the checkpoint with the best validation
    stopped: str  # why it stopped early, else ""
    curve: tuple[ValidationCheck, ...]
    validate: tuple[SessionResult, ...]  # the chosen checkpoint, on the tensor market
    test: PlayResult
    learnt: NetworkChange | None = None
    members: int = 1  # seeds of an averaged policy
    agreement: SeedAgreement | None = None  # of these seeds
    passive: tuple[SessionResult, ...] = ()  # the passive policy's validation sessions, beside a fold's chosen policy
    lead: float | None = None  # validation net return less the larger of the passive policy's and 0; None: not played
    score: float | None = None  # mean log growth a session over accounts that begin on several validation days

    @property
    def validated_usd(self) -> float:
        """Profit on the validation sessions in USD."""
        return math.fsum(result.pnl_usd for result in self.validate)

    @property
    def validate_lead(self) -> float:
        """The lead on validation; without a passive policy the profit as a part of the capital."""
        if self.lead is not None:
            return self.lead
        began = self.validate[0].capital_usd if self.validate else 0.0
        return self.validated_usd / (began or 1.0)

    @property
    def merit(self) -> float:
        """The figure that ranks a fold's seeds: the score, else the profit in USD."""
        return self.validated_usd if self.score is None else self.score


class Baseline(msgspec.Struct, frozen=True):
    """A reference to compare with: one `PlayResult` for each fold's test sessions."""

    name: str  # "always flat", "buy and hold", "random", "simple rule"
    description: str
    folds: tuple[PlayResult, ...]


class SizeFigures(msgspec.Struct, frozen=True):
    """The result for one account size; means are over the sessions with a decision."""

    capital_usd: float
    sessions: int
    fractions: bool  # True: the account traded fractions of shares at the last decision
    net_return: float
    off: float  # sum over symbols of |weight held - weight wanted|, at the decision's prices and equity
    off_most: float  # the largest of these
    orders: float  # filled orders a session
    costs: float  # costs of all sessions, as a part of the capital
    denials: int  # denials by gates
    day_fees: float = 0.0  # the part of these costs that is daily regulatory fees, as a part of the capital


class SizesPlayed(msgspec.Struct, frozen=True):
    """The exported policy on an account of each size, in the sessions from `first` to `last` (New York dates)."""

    first: str
    last: str
    accounts: tuple[SizeFigures, ...]


class RiskRuns(msgspec.Struct, frozen=True, kw_only=True):
    """The exported policy under a risk overlay on each fold's test sessions, and the statement of a claim of risk."""

    target: float  # annual volatility
    drawdown: float  # within a year, a fraction
    policy: tuple[PlayResult, ...]
    twice: tuple[PlayResult, ...]  # the same at twice the costs
    passive: tuple[PlayResult, ...]  # the passive policy without the overlay
    earlier: int = 0  # trials and claims that saw these sessions before


class Study(msgspec.Struct, frozen=True, kw_only=True):
    """All data that the report is made of.

    The headline series is the result of the whole procedure: in each fold the mean of all seeds of `reward`
    (`ensembles`), or the seed that validation chose (`chosen`), on that fold's test sessions, joined in order of time.
    With an `account` the series is that account's, and baselines, random traders and scenarios have such accounts too;
    else each fold begins anew.
    """

    format: int = FORMAT
    strategy: str
    network: str  # the network's name within its strategy
    reward: str  # the headline's reward, or variant; trials with others are the ablation
    capital_usd: float
    compounds: bool = False  # one account through all sessions of a fold, each with its own `capital_usd`
    code_version: str
    settings: dict[str, Any]  # steps, seeds, coefficients, precision, ...
    machine: dict[str, str]  # torch, threads, device, platform
    data: Training
    folds: tuple[Fold, ...]
    trials: tuple[Trial, ...]
    chosen: tuple[int, ...]  # for each fold the index into trials
    baselines: tuple[Baseline, ...]
    random_pnl_usd: tuple[tuple[float, ...], ...]  # for each fold, the total of each of (at least) 1,000 random traders
    scenarios: dict[
        str, tuple[PlayResult, ...]
    ]  # the chosen trials under other conditions, by fold: "costs x 2", "one bar late", ...
    extra: dict[str, Any] = {}  # the procedure's results, as JSON, for its pages
    ensembles: tuple[Trial, ...] = ()  # for each fold the mean of its seeds; then this is the headline
    account: tuple[PlayResult, ...] = ()  # the chosen trials, fold by fold, where one account goes through all tests
    one_account: OneAccount | None = None  # the same policies on one account, where the figures are not of one
    prior_sharpes: tuple[float, ...] = ()  # session Sharpe ratios of all earlier trials in the ledger on these sessions
    exported: str = ""  # a sentence on what is exported instead of the learned policy, or although unproven
    refit: str = ""  # after a refit: what the exported weights were trained on, and that they are untested
    prior_openings: int = 0  # times the test sessions were opened before this study
    counted_trials: int = 0  # in the ledger on the test sessions or later ones, this study's too; 0 in earlier versions
    counted_risks: int | None = None  # number of stated risks likewise; None in earlier versions
    claim: str | None = None  # asked for: "lead", "risk", "" for the better proven one; None: nothing was exported
    risk: RiskRuns | None = None
    sizes: SizesPlayed | None = None  # None where each session has an account of its own, and in earlier versions

    @property
    def passive(self) -> bool:
        """Whether the passive policy is exported instead of the learned one, of which all figures are."""
        return self.exported.startswith(PASSIVE_WORDS)

    @property
    def headline(self) -> tuple[Trial, ...]:
        """Each fold's policy: the mean of its seeds, or the chosen trial."""
        return self.ensembles or tuple(self.trials[index] for index in self.chosen)


def encode(study: Study) -> bytes:
    """The study as JSON."""
    return msgspec.json.encode(study)


def decode(data: bytes) -> Study:
    """Read a study. Raises `msgspec.ValidationError` or `msgspec.DecodeError` naming the field that is wrong."""
    return msgspec.json.decode(data, type=Study)
