"""The judgement of a study's figures: criteria, verdict, and the first sentences of a report.

It only words findings that exist, and claims no more than they show.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import msgspec

from strategies.kit.manifest import RISK, StatedClaim
from training.desks.registry import reference_of
from training.evidence.criteria import (
    COSTS_TWICE,
    DAILY_SESSIONS,
    DEFLATED,
    DRAWDOWN,
    MINUTE_SESSIONS,
    MOVED,
    ONE_BAR_LATE,
    claim_of,
    fails,
    judge,
    lead_is_proven,
    net_return_of,
)
from training.evidence.dead import dead_trial
from training.evidence.findings import Findings, Judged, PlayerLine, told_apart
from training.evidence.risk import RiskStatement, evidence_words
from training.evidence.statistics import headline, joined
from training.evidence.wording import MINUS, counted, listed, number, percent, share
from training.forecast.findings import read as forecaster_findings
from training.report.cells import ACTIVE, fall
from training.report.forecaster import knowledge
from training.study.study import Study


def with_verdict(study: Study, findings: Findings) -> Findings:
    """The findings with criteria, verdict and abstract."""
    findings = msgspec.structs.replace(findings, passive=study.passive)
    claim = None if study.claim is None else claim_of(findings, study.claim, stated_risk(study))
    criteria, reference = with_limits(judge(findings), findings), reference_of(study.strategy)
    halted = account_words(findings) if findings.account is not None and not findings.account.anew else ""
    known_today = reference.survivorship if reference is not None else ""
    verdict_text = verdict(findings, criteria)
    words = (
        *_claim_sentences(claim, findings),
        study.exported,
        *_unproven_risk(study, findings, claim),
        halted,
        verdict_text,
    )
    return msgspec.structs.replace(
        findings,
        criteria=criteria,
        risk_criteria=judge(findings, RISK) if findings.risk is not None else (),
        claim=claim,
        verdict=" ".join(filter(None, (*words, _twin(study, findings)))),
        abstract=abstract(findings, study, known_today),
    )


def stated_risk(study: Study) -> RiskStatement | None:
    """The risk that a study states; None where it states none."""
    return None if study.risk is None else RiskStatement(study.risk.target, study.risk.drawdown)


def _claim_sentences(claim: StatedClaim | None, findings: Findings) -> tuple[str, ...]:
    """Sentences on the claim, and on the tests' result for a risk."""
    if claim is None:
        return ()
    risk = findings.risk if claim.kind == RISK else None
    return claim.sentence, *(() if risk is None else (evidence_words(risk),))


def _unproven_risk(study: Study, findings: Findings, claim: StatedClaim | None) -> tuple[str, ...]:
    """Sentences on a stated risk that the tests do not prove, with their figures, where nothing is claimed."""
    if study.claim is None or claim is not None or study.risk is None:
        return ()
    if findings.risk is None:
        return ("A risk was stated; the tests say nothing of it, so none is claimed.",)
    failed = listed(fails(findings, RISK))
    return f"A risk was stated and is not proven (fails {failed}).", evidence_words(findings.risk)


def _twin(study: Study, findings: Findings) -> str:
    """A sentence if the policy's results equal a baseline's in every session; "" otherwise, or without trades."""
    sessions = [(session.pnl_usd, session.trades) for session in headline(study)]
    for baseline in study.baselines:
        is_same = [(session.pnl_usd, session.trades) for session in joined(baseline.folds)] == sessions
        if is_same and baseline.name not in (*ACTIVE, *findings.parts) and findings.policy.figures.trades:
            return f"It held {baseline.name} on every day: each session's profit is that of this baseline, to the cent."
    return ""


# --- a criterion's figure and limit, in one unit ----------------------------------------------------------------------


def with_limits(criteria: Sequence[Judged], f: Findings) -> tuple[Judged, ...]:
    """Return the criteria with words that name figure and limit in one unit, where the figure is known."""
    return tuple(
        msgspec.structs.replace(criterion, found=_WORDS[criterion.name](f))
        if criterion.name in _WORDS and criterion.found != "not known"
        else criterion
        for criterion in criteria
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


def _move_text(f: Findings) -> str:
    change = f.learnt
    assert change is not None, "asked for a run that measured it"
    return (
        f"by {number(change.kl, 3)} nats, vary by {number(change.variation, 3)}; needed: at least {number(MOVED)} each"
    )


def _weights(f: Findings) -> str:
    if f.passive:
        return (
            f"those of the passive policy, {'which nothing trained' if f.untrained else 'of which no figure here is'}"
        )
    return "trained once more" if f.refit else "the tested ones"


def _lead(f: Findings) -> str:
    assert f.lead is not None, "asked for a policy with baselines"
    return f"lower bound {percent(f.lead.low, 3)} a session; needed: above 0"


def _deflated_text(f: Findings) -> str:
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
    "deflated lead": _deflated_text,
    "overfitting": _overfitting,
    "drawdown": _drawdown,
    "moved": _move_text,
    "luck": lambda f: f"{share(f.random_p)} of them; needed: at most 5 %",
    "costs": _scenario(COSTS_TWICE),
    "delay": _scenario(ONE_BAR_LATE),
}


def verdict(findings: Findings, criteria: Sequence[Judged]) -> str:
    """The verdict on the policy in one plain sentence."""
    figures = findings.policy.figures
    ahead = [line for line in findings.rivals if line.figures.net_return >= figures.net_return]
    over = f"over {counted(figures.sessions, 'test session')}{' of made-up bars' if findings.synthetic else ''}"
    ratio = "not known, as it was trained elsewhere" if findings.imported else number(findings.deflated.deflated)
    earned = f"{percent(figures.net_return)} after costs {over}"
    deflated = f"deflated Sharpe {ratio}{_of_the_lead(findings)}{_better_parts(findings)}"
    if figures.trades == 0:
        denied = ", ".join(f"{gate} {count:,}" for gate, count in sorted(findings.denials.items(), key=lambda d: -d[1]))
        why = f" Denied by {denied}." if denied else ""
        return f"Never traded, so it equals always flat: it earned nothing {over}.{why}"
    if ahead:
        names = listed([f"{line.name} ({percent(line.figures.net_return)})" for line in ahead], "or")
        return f"Does not beat {names} after costs: {percent(figures.net_return)} {over}; {deflated}."
    if figures.net_return <= 0.0:
        return f"Loses money after costs: {percent(figures.net_return)} {over}; {deflated}."
    failed = [criterion.name for criterion in criteria if not criterion.passes]
    judged_so = (
        f"fails {len(failed)} of {len(criteria)} criteria for real money ({listed(failed)})"
        if failed
        else f"passes all {len(criteria)} criteria for real money"
    )
    if not findings.rivals:
        return f"Earned {earned}, with no baseline to compare with; {deflated}; {judged_so}."
    rivals = {line.name for line in findings.rivals}
    unsure = [
        name
        for name, gap in findings.over_baselines.items()
        if name in rivals and not told_apart(gap, figures.sessions)
    ]
    if unsure:
        lead = f"more than every baseline but not surely more than {listed(unsure, 'or')}"
        return f"Earned {earned}, {lead}; {deflated}; {judged_so}."
    if not lead_is_proven(findings):
        return (
            f"Earned {earned}, more than every baseline, which is not proven among all trials; {deflated}; {judged_so}."
        )
    return f"Beats every baseline with {earned}; {deflated}; {judged_so}."


def _of_the_lead(findings: Findings) -> str:
    """Return the lead's ratio and its limit, as text."""
    if findings.imported or findings.lead is None or findings.lead.deflated is None:
        return ""
    return f", of its lead {number(findings.lead.deflated)} (at least {DEFLATED} for real money)"


def _better_parts(findings: Findings) -> str:
    """A sentence that names the policy's parts that earned more than the whole."""
    net, parts = (
        findings.policy.figures.net_return,
        [line for line in findings.baselines if line.name in findings.parts],
    )
    more = [f"{line.name} ({percent(line.figures.net_return)})" for line in parts if line.figures.net_return > net]
    return f"; of its own parts {listed(more)} earned more" if more else ""


def account_words(findings: Findings) -> str:
    """Words on the account through all tests and its halts; "" where the verdict is on that account anyway."""
    account = findings.account
    if account is None or not (account.anew or account.halts):
        return ""
    spent = f"{number(account.capital_usd, 0)} USD became {number(account.end_usd, 0)} ({percent(account.net_return)})"
    beside = f"; {account.passive} {percent(account.passive_return)}" if account.passive else ""
    return (
        f"One account through all tests: {spent} with {counted(account.trades, 'trade')}, largest drawdown "
        f"{MINUS * (account.max_drawdown > 0.0)}{share(account.max_drawdown)}{_halt_text(findings)}{beside}."
    )


def _halt_text(findings: Findings) -> str:
    """Words on when and why the account halted, and its trades after that."""
    account = findings.account
    if account is None or not account.halts:
        return ""
    halts = listed([f"{halt.date} ({halt.reason.replace('_', ' ')})" for halt in account.halts])
    did = f"made {counted(account.trades_after, 'trade')}" if account.trades_after else "traded nothing"
    later_trades = (
        f" and {did} in the {counted(account.sessions_after, 'session')} after it" if account.sessions_after else ""
    )
    anew_trades = (
        f", where accounts that begin anew made {counted(account.trades_anew, 'trade')}" if account.trades_anew else ""
    )
    return f"; halted on {halts}{later_trades}{anew_trades}"


def abstract(f: Findings, study: Study, known_today: str = "") -> tuple[str, ...]:
    """The abstract: what was tested, its result, and what the number of sessions can show.

    `known_today` describes the bias from choosing symbols with hindsight; "" for none.
    """
    policy = f.policy
    openings = counted(f.prior_openings, "earlier opening") if f.prior_openings else "no earlier opening"
    opened = f"The ledger shows {openings} of them{', so they are no longer untouched' * bool(f.prior_openings)}."
    has_interval = policy.net_return.low < policy.net_return.high
    bounds = (
        f" (95 % interval {percent(policy.net_return.low)} to {percent(policy.net_return.high)})"
        if has_interval
        else ""
    )
    earned = (
        f"The policy earned {percent(policy.net_return.estimate)} {'' if f.compounds else 'of its capital in sum '}"
        f"with {counted(policy.figures.trades, 'trade')}{bounds}."
    )
    symbols = [known_today] if known_today else []
    forecasters = forecaster_findings(study.extra)
    knowledge_text = [knowledge(forecasters)] if forecasters is not None and forecasters.skill is not None else []
    refit = [study.refit] if study.refit else []
    learnt = [_learnt(f, study)] if f.learnt is not None else []
    anew = f"; the figures above are of accounts that begin anew with each {'fold' if f.compounds else 'session'}."
    account = [account_words(f).removesuffix(".") + anew] if f.account is not None and f.account.anew else []
    return (
        f"Tested: {_test_text(f, study)} {opened}",
        *knowledge_text,
        earned,
        *account,
        *refit,
        *learnt,
        *symbols,
        re.sub(r"(?<=\d)%", " %", f.detectable.words),
    )


def _learnt(f: Findings, study: Study) -> str:
    """A sentence on how much was learned."""
    change = f.learnt
    assert change is not None, "asked for a study that measured it"
    steps = f"{change.gradient_steps:,} gradient steps to the chosen checkpoint"
    part = share(max(change.explained_variance or 0.0, 0.0))  # worse than the mean: it explains nothing
    critic = f"; its forecast of the reward explains {part} of what that varied" if change.explained_variance else ""
    several = f", the mean of {f.members} seeds," if f.members > 1 else ""
    return (
        f"Learned: {steps}{' of the seed with the fewest' if several else ''}. The policy's answers{several} moved by "
        f"{number(change.kl, 3)} (Kullback–Leibler divergence; 0 is not at all) from those of the network that it "
        f"began as{_start_text(study)}, have a mean size of {number(change.size, 3)} and deviate by "
        f"{number(change.variation, 3)} over what it sees{critic}.{_dead(study)}"
    )


SHOWN_DEAD = 3  # trials that are named


def _dead(study: Study) -> str:
    """Which trials of the headline are dead, in a sentence; "" where none is."""
    dead_trials = [trial for trial in study.trials if trial.reward == study.reward and dead_trial(trial)]
    if not dead_trials:
        return ""
    names = listed([f"fold {trial.fold + 1} seed {trial.seed}" for trial in dead_trials[:SHOWN_DEAD]])
    more = f" and {len(dead_trials) - SHOWN_DEAD} more" if len(dead_trials) > SHOWN_DEAD else ""
    return f" Dead: {names}{more}, without weight beside a living one; of the first {dead_trial(dead_trials[0])}."


def _start_text(study: Study) -> str:
    """The kind of network that training began with, as text."""
    warm = study.settings.get("warm_start")
    words = {"passive": " (near the passive policy)", "random": " (drawn at random)"}
    return f" (version {warm})" if warm else words.get(study.settings.get("begins", ""), "")


def _test_text(f: Findings, study: Study) -> str:
    bars = counted(f.policy.figures.sessions, "session") + (" of made-up bars" if f.synthetic else "")
    several = f.first_session < f.last_session
    span = f"on {bars}{f' from {f.first_session} to {f.last_session}' if several else f', {f.first_session}'}"
    if f.imported:
        return (
            f"a policy for {f.strategy} that was trained elsewhere, {span}. On which sessions it was trained, and "
            "among how many it was chosen, is not known: it may have learned from these very sessions."
        )
    if f.untrained:
        return f"a {'passive policy' if f.passive else 'rule'} for {f.strategy} that nothing trained, {span}."
    runs = "once" if len(study.trials) == 1 else f"{len(study.trials)} times"
    word = "setting" if f.compounds else "reward"
    rewards = f"{word}{'s' * (len(f.rewards) > 1)} {listed([f'“{line.reward}”' for line in f.rewards])}"
    return (
        f"the {f.network} network of {f.strategy}, trained {runs} ({counted(len(f.folds), 'fold')}, "
        f"{counted(f.seeds, 'seed')}, {rewards}), {span}, all later than what their fold was trained and chosen "
        "on."
    )
