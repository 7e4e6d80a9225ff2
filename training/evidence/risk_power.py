"""The power of the criteria for a stated risk: how often simulated tests prove true claims, and claims false by 25 %.

A market's volatility has calm and wild regimes of months, reacts to its own moves (GARCH) and has fat tails (Student's
t with 5 degrees of freedom); or it is noise, whose volatility never changes. A fully invested policy goes through it
under the desk's own overlay arithmetic (`daemon.core.risk.overlay`), with costs, next to the same without it. True
values are measured over all simulated markets of a kind. Not simulated are the criteria of data, weights and seeds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import NamedTuple, cast

import numpy as np

from daemon.core.risk.overlay import EWMA, cap_goals, exposure_cap, return_count, volatility
from training.evidence.criteria import RISK_PROOF, passes
from training.evidence.findings import Findings
from training.evidence.risk import (
    DRAWDOWN,
    DRAWDOWN_PROBABILITY,
    DRAWDOWN_SESSIONS,
    RiskSeries,
    RiskStatement,
    deepest,
    kept_risk,
    rolling_volatility,
)
from training.evidence.statistics import Series
from training.study.study import SESSIONS_A_YEAR

YEAR = math.sqrt(SESSIONS_A_YEAR)
MARKET_VOLATILITY, MARKET_SHARPE = 0.17, 0.5  # a year
CALM, WILD = 0.75, 1.7  # multiples of the deviation, before scaling to the market's
LEAVES_CALM, LEAVES_WILD = 1 / 250, 1 / 80  # probability of a change, a session
ARCH, GARCH = 0.10, 0.86
FREEDOM = 5
SPAN, BAND, COST = 20, 0.1, 0.0005  # of the overlay; a part of what is traded
WARM = 250  # burn-in sessions for the variance
TARGET = 0.10
QUARTER = 0.25


class OverlayRuns(NamedTuple):
    """Simulated tests side by side, float64 (markets, sessions)."""

    market: Series
    policy: Series
    exposure: Series
    traded: Series


class RiskRate(NamedTuple):
    """How many claims were proven, and how often each criterion failed."""

    proven: int
    markets: int
    failed: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class RiskClaimKind:
    """A kind of claim: its words, whether it is true, its market, and its changes to runs and statement."""

    name: str
    true: bool
    clustered: bool
    state: Callable[[OverlayRuns], RiskStatement]
    change: Callable[[OverlayRuns], OverlayRuns] = lambda runs: runs


def simulated(markets: int, sessions: int, random: np.random.Generator, *, clustered: bool) -> OverlayRuns:
    """Markets and the fully invested policy under an overlay of `TARGET`."""
    first = max(WARM, return_count(EWMA, SPAN))
    moves = _moves(markets, first + sessions, random, clustered=clustered)
    weights, policy, exposure, traded = np.zeros((markets, 1)), [], [], []
    ones = np.ones((markets, 1))
    for day in range(first, first + sessions):
        past = moves[:, day - return_count(EWMA, SPAN) : day, None]
        cap = exposure_cap(TARGET, volatility(np, ones, past, EWMA, SPAN))
        goal = cap_goals(np, weights, ones, ones, most=cap, band=BAND, whole=True, shares=False)
        changed, invested, move = np.abs(goal - weights)[:, 0], goal[:, 0], moves[:, day]
        earned = invested * move - COST * changed
        policy.append(earned)
        exposure.append(invested)
        traded.append(changed)
        weights = (invested * (1.0 + move) / (1.0 + earned))[:, None]
    return OverlayRuns(moves[:, first:], *(np.column_stack(columns) for columns in (policy, exposure, traded)))


def _moves(markets: int, sessions: int, random: np.random.Generator, *, clustered: bool) -> Series:
    """Daily returns, float64 (markets, sessions)."""
    shocks = random.standard_t(FREEDOM, (sessions, markets)) / math.sqrt(FREEDOM / (FREEDOM - 2.0))
    if clustered:
        wild, variance = random.random(markets) < LEAVES_CALM / (LEAVES_CALM + LEAVES_WILD), np.ones(markets)
        for day, numbers in enumerate(random.random((sessions, markets))):
            wild = np.where(wild, numbers >= LEAVES_WILD, numbers < LEAVES_CALM)
            shocks[day] *= np.sqrt(variance)
            variance = (1.0 - ARCH - GARCH) + ARCH * shocks[day] ** 2 + GARCH * variance
            shocks[day] *= np.where(wild, WILD, CALM)
        mean = (CALM**2 * LEAVES_WILD + WILD**2 * LEAVES_CALM) / (LEAVES_CALM + LEAVES_WILD)
        shocks /= math.sqrt(mean)
    return np.asarray(MARKET_VOLATILITY / YEAR * (shocks.T + MARKET_SHARPE / YEAR), dtype=np.float64)


def level_of(runs: OverlayRuns) -> float:
    """The true mean volatility of 60 sessions: over all markets."""
    return float(np.mean([rolling_volatility(policy).mean() for policy in runs.policy]))


def drawdown_of(runs: OverlayRuns) -> float:
    """The true quantile of a year's largest drawdown: over all years of all markets."""
    years = runs.policy.shape[1] // DRAWDOWN_SESSIONS
    paths = runs.policy[:, : years * DRAWDOWN_SESSIONS].reshape(-1, DRAWDOWN_SESSIONS)
    return float(np.quantile(deepest(paths), DRAWDOWN_PROBABILITY))


def _usual(target: float) -> RiskStatement:
    return RiskStatement(target, DRAWDOWN * target)


def _constant(runs: OverlayRuns) -> OverlayRuns:
    """The same mean exposure every day, without costs."""
    exposure = np.broadcast_to(runs.exposure.mean(axis=1, keepdims=True), runs.exposure.shape)
    return replace_runs(runs, exposure)


def _of_another(runs: OverlayRuns) -> OverlayRuns:
    """The exposures of another market, independent of this one."""
    return replace_runs(runs, np.roll(runs.exposure, 1, axis=0))


def replace_runs(runs: OverlayRuns, exposure: Series) -> OverlayRuns:
    """The same markets at another exposure, with the costs that there were."""
    return runs._replace(policy=exposure * runs.market - COST * runs.traded, exposure=exposure)


_TRUE = RiskClaimKind("what is claimed is true", True, True, lambda _: _usual(TARGET))
KINDS: tuple[RiskClaimKind, ...] = (
    _TRUE,
    *(
        RiskClaimKind(f"the volatility is {words} than stated, {market}", False, clustered, state)
        for market, clustered in (("regimes", True), ("noise", False))
        for words, state in (
            ("a quarter more", lambda runs: _usual(level_of(runs) / (1.0 + QUARTER))),
            ("a quarter less", lambda runs: _usual(level_of(runs) / (1.0 - QUARTER))),
        )
    ),
    replace(
        _TRUE,
        name="the drawdown is a quarter deeper than stated",
        true=False,
        state=lambda runs: RiskStatement(TARGET, drawdown_of(runs) / (1.0 + QUARTER)),
    ),
    replace(
        _TRUE,
        name="the exposure of another market",
        true=False,
        state=lambda runs: _usual(level_of(_of_another(runs))),
        change=_of_another,
    ),
    replace(
        _TRUE,
        name="a constant share of cash",
        true=False,
        state=lambda runs: _usual(level_of(_constant(runs))),
        change=_constant,
    ),
)
"""True claims, and claims of which one part is false by 25 % or empty."""


def risk_rate(kind: RiskClaimKind, sessions: int, markets: int, *, trials: int = 1, seed: int = 0) -> RiskRate:
    """How many of the claims are proven. The same seed and kind of market give the same markets."""
    random = np.random.default_rng([seed, sessions, markets, kind.clustered])
    runs = simulated(markets, sessions, random, clustered=kind.clustered)
    stated, runs = kind.state(runs), kind.change(runs)
    failures: Counter[str] = Counter()
    proven = 0
    for nth in range(markets):
        failed = failed_proofs(runs, nth, stated, trials)
        proven += not failed
        failures.update(failed)
    return RiskRate(proven, markets, dict(failures))


def failed_proofs(runs: OverlayRuns, nth: int, stated: RiskStatement, trials: int = 1) -> tuple[str, ...]:
    """The criteria of `RISK_PROOF` that the claim about one of the markets fails."""
    market, policy, exposure, traded = (part[nth] for part in runs)
    series = RiskSeries(
        policy=policy,
        exposure=exposure,
        passive=market,
        passive_exposure=np.ones_like(market),
        twice=policy - COST * traded,
        turnover=float(traded.mean()),
    )
    findings = cast("Findings", SimpleNamespace(risk=kept_risk(series, stated, trials=trials)))
    return tuple(criterion.name for criterion in RISK_PROOF if not passes(criterion, findings))
