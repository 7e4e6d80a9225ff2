"""The criteria for trading real money: a table for each kind of claim, each line a function of the findings.

Report and promotion both read these tables, and no others exist. An unknown figure fails.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import NamedTuple

from strategies.kit.manifest import LEAD, RISK, StatedClaim
from training.evidence.findings import Findings, Judged
from training.evidence.risk import DRAWDOWN as DRAWDOWN_STATED
from training.evidence.risk import KeptRisk, RiskStatement, risk_claim, unknown_claim
from training.evidence.wording import number, percent, share

MINUTE_SESSIONS, DAILY_SESSIONS = 60, 756
"""The fewest test sessions: with an account for each session, and with one account through all sessions."""
FEWEST_SEEDS = 10
DRAWDOWN = 0.25
MODELLED = 0.1  # largest share of modelled prices among the fills of a run on recorded option quotes
DEFLATED = 0.95  # least deflated Sharpe ratio of the lead
MOVED = 0.01  # least change: nats, or standard deviation of an action or a probability

COSTS_TWICE, ONE_BAR_LATE = "costs x 2", "one bar late"
"""Names of the scenarios in which a policy must not lose."""


class Criterion(NamedTuple):
    """A rule in words with its threshold, the figure it tests, the comparison, and the figure's wording."""

    name: str
    rule: str
    figure: Callable[[Findings], float | None]
    compare: Callable[[float, float], bool]
    threshold: float
    format_figure: Callable[[float], str]


def _trades(findings: Findings) -> float:
    """The number of trades; for a share desk the sessions with a trade, because one basket fills dozens of orders."""
    figures = findings.policy.figures
    return figures.sessions_traded if findings.compounds else figures.trades


def _lead(findings: Findings) -> float | None:
    """Net return less the best baseline's; None without baselines."""
    baseline_returns = [line.figures.net_return for line in findings.rivals]
    return findings.policy.figures.net_return - max(baseline_returns) if baseline_returns else None


def _lower_bound(findings: Findings) -> float | None:
    """Lower bound of the mean lead of a session; None where sessions are too few or all alike."""
    return findings.lead.low if findings.lead is not None else None


def _deflated(findings: Findings) -> float | None:
    """`lead.deflated`; None for an imported policy, because the number of its trials is unknown."""
    return None if findings.imported or findings.lead is None else findings.lead.deflated


def _loss(findings: Findings) -> float | None:
    return findings.lead.loss if findings.lead is not None else None


def _length(findings: Findings) -> float:
    """Test sessions divided by the required number."""
    return findings.policy.figures.sessions / (DAILY_SESSIONS if findings.compounds else MINUTE_SESSIONS)


def _drawdown(findings: Findings) -> float:
    """The largest drawdown less the allowed one: the limit, or the best baseline's drawdown if deeper."""
    best = max(findings.rivals, key=lambda line: line.figures.net_return, default=None)
    theirs = best.figures.max_drawdown if best is not None else 0.0
    return findings.policy.figures.max_drawdown - max(DRAWDOWN, theirs)


def _moved(findings: Findings) -> float | None:
    """min(KL divergence from the start, variation) divided by the required change; None: not measured."""
    learnt = findings.learnt
    return None if learnt is None or learnt.kl is None else min(learnt.kl, learnt.variation) / MOVED


def _on_quotes(findings: Findings) -> float | None:
    """Sessions on recorded quotes divided by the required number; 1 without options; None: unknown.

    0 without a run on recorded quotes, without profit there, or with too many fills at modelled prices.
    """
    run = findings.recorded_run
    if not findings.trades_options:
        return None if findings.trades_options is None else 1.0
    if run is None or run.fills < 1 or run.profit_usd <= 0.0 or run.modelled > MODELLED * run.fills:
        return 0.0
    return run.sessions / MINUTE_SESSIONS


def net_return_of(findings: Findings, scenario: str) -> float | None:
    """Return the policy's net return in a scenario, None where it was not played."""
    return next((line.figures.net_return for line in findings.scenarios if line.name == scenario), None)


def _scenario(name: str) -> Callable[[Findings], float | None]:
    return lambda findings: net_return_of(findings, name)


def _not_recorded(findings: Findings) -> float:
    """0 for bars whose file names their source, 1 for other bars, 2 for made-up ones."""
    return 2.0 if findings.synthetic else 0.0 if findings.source else 1.0


def _shown_kind(not_recorded: float) -> str:
    return ("recorded", "of a file that names no source", "made up")[round(not_recorded)]


def kind_of_bars(findings: Findings) -> str:
    """Return in words whether the bars were recorded, and by whom."""
    words = _shown_kind(_not_recorded(findings))
    return f"{words} ({findings.source})" if findings.source and not findings.synthetic else words


def _shown_on_quotes(part: float) -> str:
    return f"{share(part)} of it" if part else "none, or without a profit, or on modelled prices"


def _against_the_best(lead: float) -> str:
    return f"{percent(lead)} against the best"


def _of_them(part: float) -> str:
    return f"{share(part)} of them"


CRITERIA: tuple[Criterion, ...] = (
    Criterion("data", "bars are recorded: their file names its source", _not_recorded, operator.le, 0, _shown_kind),
    Criterion(
        "recorded options",
        f"options: a profit on recorded quotes of at least {MINUTE_SESSIONS} sessions after those it learned from, at "
        f"most {MODELLED:.0%} of the fills at modelled prices".replace("%", " %"),
        _on_quotes,
        operator.ge,
        1.0,
        _shown_on_quotes,
    ),
    Criterion(
        "weights",
        "the exported weights are those that the last fold tested",
        lambda f: f.refit or f.passive,
        operator.le,
        0,
        lambda count: "other ones" if count else "the tested ones",
    ),
    Criterion(
        "seeds",
        f"at least {FEWEST_SEEDS} seeds in every fold",
        lambda f: f.seeds,
        operator.ge,
        FEWEST_SEEDS,
        "{:.0f}".format,
    ),
    Criterion(
        "length",
        f"at least {MINUTE_SESSIONS} test sessions, of a basket of shares {DAILY_SESSIONS}",
        _length,
        operator.ge,
        1.0,
        lambda part: f"{share(part)} of the fewest",
    ),
    Criterion(
        "trades",
        "at least 30 trades on the test sessions, of a basket of shares on 30 of them",
        _trades,
        operator.ge,
        30,
        "{:.0f}".format,
    ),
    Criterion("profit", "net return above 0", lambda f: f.policy.figures.net_return, operator.gt, 0.0, percent),
    Criterion("baselines", "net return above every baseline's", _lead, operator.gt, 0.0, _against_the_best),
    Criterion(
        "lead",
        "lower bound of the mean lead over the best baseline above 0, one-sided at 99 %",
        _lower_bound,
        operator.gt,
        0.0,
        lambda low: f"lower bound {percent(low, 3)} a session",
    ),
    Criterion(
        "deflated lead",
        f"deflated Sharpe ratio of that lead, among all trials, at least {DEFLATED}",
        _deflated,
        operator.ge,
        DEFLATED,
        lambda ratio: number(ratio, 3),
    ),
    Criterion(
        "overfitting",
        "the best seed of one half of the sessions trails that baseline in the other in at most 20 % of the splits",
        _loss,
        operator.le,
        0.2,
        lambda part: f"{share(part)} of the splits",
    ),
    Criterion(
        "drawdown",
        f"largest drawdown at most {DRAWDOWN:.0%}, or the best baseline's where that is deeper".replace("%", " %"),
        _drawdown,
        operator.le,
        0.0,
        lambda over: f"{percent(over)} against the limit",
    ),
    Criterion(
        "moved",
        "answers at least 0.01 nats from those of the network it began as, which vary by 0.01 over what it sees",
        _moved,
        operator.ge,
        1.0,
        lambda part: f"{share(part)} of the least",
    ),
    Criterion("luck", "at most 5 % of random traders did as well", lambda f: f.random_p, operator.le, 0.05, _of_them),
    Criterion("costs", "net return above 0 at twice the costs", _scenario(COSTS_TWICE), operator.gt, 0.0, percent),
    Criterion("delay", "net return above 0 one bar late", _scenario(ONE_BAR_LATE), operator.gt, 0.0, percent),
)
"""The criteria for real money of a policy that claims a lead."""

LEAD_PROOF = tuple(criterion for criterion in CRITERIA if criterion.name in {"trades", "lead", "deflated lead"})
"""The criteria that prove a lead: its lower bound, a correction for the number of trials on these sessions, and trades
enough: who bought once and kept earns what the passive policy does, and a lead of nothing passed the other two."""

TURNOVER, COST = 12.0, 0.01  # largest turnover (multiple of the equity) and cost (part of the equity) a year
FALLS = 0.25  # least reduction of the spread of volatility
STRETCHES = 2 / 3  # least share of stretches within the interval


def _risk(figure: Callable[[KeptRisk], float | None]) -> Callable[[Findings], float | None]:
    return lambda findings: None if findings.risk is None else figure(findings.risk)


def _outside(risk: KeptRisk) -> float:
    """How far the level's interval reaches outside the stated one, as a share of the target; below 0: inside."""
    return max(risk.stated_low - risk.level.low, risk.level.high - risk.stated_high) / risk.target


def _apart(risk: KeptRisk) -> float:
    """Distance of the passive policy's level outside the interval, as a share of the target; below 0: inside."""
    return max(risk.level.low - risk.passive_level, risk.passive_level - risk.level.high) / risk.target


def _seeds_missing(findings: Findings) -> float:
    """The number of seeds missing in the fold with the fewest; 0 for a passive policy, which is not trained."""
    return 0 if findings.passive else max(FEWEST_SEEDS - findings.seeds, 0)


def _of_the_target(part: float) -> str:
    return f"by {percent(part)} of the target"


RISK_PROOF: tuple[Criterion, ...] = (
    Criterion(
        "length",
        f"at least {DAILY_SESSIONS} test sessions",
        _risk(lambda risk: float(risk.sessions)),
        operator.ge,
        DAILY_SESSIONS,
        "{:,.0f}".format,
    ),
    Criterion(
        "level",
        "the interval of the mean volatility of 60 sessions within 25 % of the target",
        _risk(_outside),
        operator.le,
        0.0,
        lambda part: f"{_of_the_target(part)} outside" if part > 0.0 else f"{_of_the_target(-part)} inside",
    ),
    Criterion(
        "apart",
        "that interval excludes what the passive policy without overlay has at the same mean exposure",
        _risk(_apart),
        operator.gt,
        0.0,
        lambda part: f"{_of_the_target(part)} apart" if part > 0.0 else "it is inside",
    ),
    Criterion(
        "stretches",
        "at least two thirds of all stretches of 60 sessions within 25 % of the target",
        _risk(lambda risk: risk.inside),
        operator.ge,
        STRETCHES,
        share,
    ),
    Criterion(
        "spread",
        "the spread of the volatility of 60 sessions at least a quarter below the passive policy's at that exposure",
        _risk(lambda risk: None if risk.spread is None else risk.spread.estimate),
        operator.le,
        -FALLS,
        lambda change: percent(change, 1),
    ),
    Criterion(
        "spread interval",
        "the interval of that change below 0",
        _risk(lambda risk: None if risk.spread is None else risk.spread.high),
        operator.lt,
        0.0,
        lambda high: f"upper end {percent(high, 1)}",
    ),
    Criterion(
        "drawdown",
        "the stated part of resampled years, without drift and at the upper end of the level, keeps the drawdown",
        _risk(lambda risk: risk.drawdown_kept - risk.drawdown_probability),
        operator.ge,
        0.0,
        lambda over: f"{percent(over)} against the stated part",
    ),
    Criterion(
        "stated drawdown",
        f"at most {number(DRAWDOWN_STATED, 1)} times the target: a deeper one says nothing",
        _risk(lambda risk: risk.drawdown_stated / risk.target - DRAWDOWN_STATED),
        operator.le,
        1e-9,
        lambda over: f"{number(DRAWDOWN_STATED + over, 1)} times",
    ),
    Criterion(
        "sharpe",
        "no proven loss of Sharpe ratio against that passive policy: the 95 % interval of the change not below 0",
        _risk(lambda risk: risk.sharpe_change_high),
        operator.ge,
        0.0,
        lambda high: f"upper end {number(high)} a year",
    ),
    Criterion(
        "sharpe at twice the costs",
        "the same at twice the costs",
        _risk(lambda risk: risk.sharpe_change_twice_high),
        operator.ge,
        0.0,
        lambda high: f"upper end {number(high)} a year",
    ),
    Criterion(
        "turnover",
        f"at most {TURNOVER:.0f} times the equity bought and sold a year",
        _risk(lambda risk: risk.turnover),
        operator.le,
        TURNOVER,
        lambda times: f"{number(times, 1)} times",
    ),
    Criterion(
        "costs",
        f"spreads and fees of at most {COST:.0%} of the equity a year".replace("%", " %"),
        _risk(lambda risk: risk.cost),
        operator.le,
        COST,
        share,
    ),
)
"""The criteria that prove a stated risk."""

_RISK_WEIGHTS = Criterion(
    "weights",
    "the exported weights are tested ones, of a policy whose trials are known",
    lambda f: f.imported or (f.refit and not f.passive),
    operator.le,
    0,
    lambda count: "other ones" if count else "the tested ones",
)
RISK_CRITERIA: tuple[Criterion, ...] = (
    CRITERIA[0],
    _RISK_WEIGHTS,
    Criterion(
        "seeds",
        f"at least {FEWEST_SEEDS} seeds in every fold of a learned policy",
        _seeds_missing,
        operator.le,
        0,
        lambda missing: f"{missing:.0f} missing" if missing else "none missing",
    ),
    *RISK_PROOF,
)
"""The criteria for real money of a policy that claims a risk."""

_CLAIM_PROOF = {
    LEAD: (*(criterion for criterion in CRITERIA if criterion.name in {"weights", "length"}), *LEAD_PROOF),
    RISK: (_RISK_WEIGHTS, *RISK_PROOF),
}
"""The criteria that prove a version's claim, which is about the exported weights."""


def judge(findings: Findings, kind: str = LEAD) -> tuple[Judged, ...]:
    """Judge every criterion of this kind of claim, in the table's order. An unknown figure (None, not finite) fails."""
    return tuple(_judge(criterion, findings) for criterion in (RISK_CRITERIA if kind == RISK else CRITERIA))


def claim_of(findings: Findings, requested: str, stated: RiskStatement | None = None) -> StatedClaim | None:
    """The claim of a version with these findings: the `requested` one, proven or not; else the best proven one.

    Only learned weights can claim a lead; a risk needs `stated`. None where nothing is claimed.
    """
    lead = None if findings.passive else _claimed_lead(findings)
    risk = None if stated is None else _claimed_risk(findings, stated)
    if requested:
        return lead if requested == LEAD else risk
    return next((claim for claim in (lead, risk) if claim is not None and claim.proven), None)


def _claimed_lead(findings: Findings) -> StatedClaim | None:
    lead = findings.lead
    if lead is None or findings.imported:
        return None
    failed = fails(findings, LEAD)
    words = f"a lead over {lead.baseline}: {percent(lead.mean, 3)} a session, at least {percent(lead.low, 3)} at 99 %"
    proven = f"not proven (fails {', '.join(failed)})" if failed else "proven"
    return StatedClaim(kind=LEAD, proven=not failed, sentence=f"Claims {words}, {proven}.")


def lead_is_proven(findings: Findings) -> bool:
    """Whether the lead over the best baseline is proven, among all trials on its sessions."""
    return all(passes(criterion, findings) for criterion in LEAD_PROOF)


def _claimed_risk(findings: Findings, stated: RiskStatement) -> StatedClaim:
    if findings.risk is None:
        return unknown_claim(stated)
    return risk_claim(findings.risk, fails(findings, RISK))


def fails(findings: Findings, kind: str) -> tuple[str, ...]:
    """The criteria by which a claim of this kind is not proven."""
    return tuple(criterion.name for criterion in _CLAIM_PROOF[kind] if not passes(criterion, findings))


def passes(criterion: Criterion, findings: Findings) -> bool:
    """Whether the findings meet it; a figure that is not known (None, or not finite) fails."""
    figure = criterion.figure(findings)
    return figure is not None and math.isfinite(figure) and bool(criterion.compare(figure, criterion.threshold))


def _judge(criterion: Criterion, findings: Findings) -> Judged:
    figure = criterion.figure(findings)
    is_finite = figure is not None and math.isfinite(figure)
    figure_text = criterion.format_figure(figure) if is_finite and figure is not None else "not known"
    return Judged(criterion.name, criterion.rule, figure_text, passes=passes(criterion, findings))
