"""What the figures of a study come to: criteria, verdict and first paragraph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from training.desks.registry import reference_of
from training.evidence.criteria import (
    COSTS_TWICE,
    DAILY_SESSIONS,
    DEFLATED,
    DRAWDOWN,
    MINUTE_SESSIONS,
    MOVED,
    ONE_BAR_LATE,
    judge,
    net_return_of,
)
from training.evidence.findings import Findings, Judged, PlayerLine
from training.evidence.statistics import headline
from training.evidence.verdict import abstract, account_words, verdict
from training.evidence.wording import counted, number, percent, share
from training.report.cells import fall
from training.report.framing import ACTIVE
from training.report.lines import joined
from training.study.study import Study


def judged(study: Study, findings: Findings) -> Findings:
    """The findings with criteria, verdict and abstract."""
    findings = msgspec.structs.replace(findings, passive=study.passive)
    criteria, reference = with_limits(judge(findings), findings), reference_of(study.strategy)
    halted = account_words(findings) if findings.account is not None and not findings.account.anew else ""
    known_today = reference.survivorship if reference is not None else ""
    return msgspec.structs.replace(
        findings,
        criteria=criteria,
        verdict=" ".join(filter(None, (study.exported, halted, verdict(findings, criteria), _twin(study, findings)))),
        abstract=abstract(findings, study, known_today),
    )


def _twin(study: Study, findings: Findings) -> str:
    """Which baseline the policy did the same as in every session; "" for none, or where it did nothing."""
    sessions = [(session.pnl_usd, session.trades) for session in headline(study)]
    for one in study.baselines:
        same = [(session.pnl_usd, session.trades) for session in joined(one.folds)] == sessions
        if same and one.name not in (*ACTIVE, *findings.parts) and findings.policy.figures.trades:
            return f"It held {one.name} on every day: each session's profit is that of this baseline, to the cent."
    return ""


# --- what a criterion found, in the unit of its limit and next to it --------------------------------------------------


def with_limits(criteria: Sequence[Judged], f: Findings) -> tuple[Judged, ...]:
    """Return the criteria with words that name figure and limit in one unit, where the figure is known."""
    return tuple(
        msgspec.structs.replace(one, found=_WORDS[one.name](f))
        if one.name in _WORDS and one.found != "not known"
        else one
        for one in criteria
    )


def _best(f: Findings) -> PlayerLine | None:
    return max(f.rivals, key=lambda line: line.figures.net_return, default=None)


def _options(f: Findings) -> str:
    run = f.recorded_run
    if not f.trades_options:
        return "holds no options"
    if run is None:
        return "no dry run on recorded quotes"
    modelled = share(run.modelled / run.fills) if run.fills else "none"
    return (
        f"{counted(run.sessions, 'session')}, profit {number(run.profit_usd, 0)} USD, modelled {modelled}; needed: at "
        f"least {MINUTE_SESSIONS}, above 0, at most 10 %"
    )


def _length(f: Findings) -> str:
    fewest = DAILY_SESSIONS if f.compounds else MINUTE_SESSIONS
    return f"{counted(f.policy.figures.sessions, 'session')}; needed: at least {fewest}"


def _trades(f: Findings) -> str:
    figures = f.policy.figures
    if f.compounds:
        days = f"{counted(figures.trades, 'order')} filled on {counted(figures.sessions_traded, 'session')}"
        return f"{days}; needed: at least 30 sessions"
    return f"{counted(figures.trades, 'trade')}; needed: at least 30"


def _baselines(f: Findings) -> str:
    best = _best(f)
    theirs = "" if best is None else f"; to beat {percent(best.figures.net_return)} ({best.name})"
    return f"{percent(f.policy.figures.net_return)}{theirs}"


def _drawdown(f: Findings) -> str:
    best = _best(f)
    deeper = best if best is not None and best.figures.max_drawdown > DRAWDOWN else None
    limit = fall(DRAWDOWN) if deeper is None else f"{fall(deeper.figures.max_drawdown)} ({deeper.name})"
    return f"{fall(f.policy.figures.max_drawdown)}; limit {limit}"


def _moved(f: Findings) -> str:
    one = f.learnt
    assert one is not None, "asked for a run that measured it"
    return f"by {number(one.kl, 3)} nats, vary by {number(one.variation, 3)}; needed: at least {number(MOVED)} each"


def _weights(f: Findings) -> str:
    if f.passive:
        return "those of the passive policy, of which no figure here is"
    return "trained once more" if f.refit else "the tested ones"


def _lead(f: Findings) -> str:
    assert f.lead is not None, "asked for a policy with baselines"
    return f"lower bound {percent(f.lead.low, 3)} a session; needed: above 0"


def _deflated(f: Findings) -> str:
    assert f.lead is not None, "asked for a policy with baselines"
    return f"{number(f.lead.deflated, 3)}; needed: at least {number(DEFLATED)}"


def _overfitting(f: Findings) -> str:
    assert f.lead is not None, "asked for a policy with baselines"
    return f"{share(f.lead.loss)} of the splits; needed: at most 20 %"


def _scenario(name: str) -> Callable[[Findings], str]:
    return lambda f: f"{percent(net_return_of(f, name))}; needed: above 0"


_WORDS: dict[str, Callable[[Findings], str]] = {
    "recorded options": _options,
    "weights": _weights,
    "seeds": lambda f: f"{f.seeds}; needed: at least 10",
    "length": _length,
    "trades": _trades,
    "profit": lambda f: f"{percent(f.policy.figures.net_return)}; needed: above 0",
    "baselines": _baselines,
    "lead": _lead,
    "deflated lead": _deflated,
    "overfitting": _overfitting,
    "drawdown": _drawdown,
    "moved": _moved,
    "luck": lambda f: f"{share(f.random_p)} of them; needed: at most 5 %",
    "costs": _scenario(COSTS_TWICE),
    "delay": _scenario(ONE_BAR_LATE),
}
