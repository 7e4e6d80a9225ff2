"""The verdict of a report: its first sentences, on the policy and on what was tested.

Words only, from findings that are already there; never more than the figures show.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from training.evidence.criteria import DEFLATED
from training.evidence.findings import Findings, Judged, told_apart
from training.evidence.wording import MINUS, counted, listed, number, percent, share
from training.study.study import Study


def verdict(findings: Findings, criteria: Sequence[Judged]) -> str:
    """What the policy is worth, in one sentence of plain words."""
    figures = findings.policy.figures
    ahead = [line for line in findings.rivals if line.figures.net_return >= figures.net_return]
    over = f"over {counted(figures.sessions, 'test session')}{' of made-up bars' if findings.synthetic else ''}"
    ratio = "not known, as it was trained elsewhere" if findings.imported else number(findings.deflated.deflated)
    earned = f"{percent(figures.net_return)} after costs {over}"
    deflated = f"deflated Sharpe {ratio}{_of_the_lead(findings)}{_better_parts(findings)}"
    if figures.trades == 0:
        return f"Never traded, so it equals always flat: it earned nothing {over}."
    if ahead:
        names = listed([f"{line.name} ({percent(line.figures.net_return)})" for line in ahead], "or")
        return f"Does not beat {names} after costs: {percent(figures.net_return)} {over}; {deflated}."
    if figures.net_return <= 0.0:
        return f"Loses money after costs: {percent(figures.net_return)} {over}; {deflated}."
    failed = [judged.name for judged in criteria if not judged.passes]
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
    return f"Beats every baseline with {earned}; {deflated}; {judged_so}."


def _of_the_lead(findings: Findings) -> str:
    """Return the ratio that has a limit, next to it."""
    if findings.imported or findings.lead is None or findings.lead.deflated is None:
        return ""
    return f", of its lead {number(findings.lead.deflated)} (at least {DEFLATED} for real money)"


def _better_parts(findings: Findings) -> str:
    """Which of the policy's own parts earned more than the whole."""
    net, parts = findings.policy.figures.net_return, [one for one in findings.baselines if one.name in findings.parts]
    more = [f"{one.name} ({percent(one.figures.net_return)})" for one in parts if one.figures.net_return > net]
    return f"; of its own parts {listed(more)} earned more" if more else ""


def account_words(findings: Findings) -> str:
    """What one account through all tests came to, with its halts; "" where the verdict's figures are that account's."""
    one = findings.account
    if one is None or not (one.anew or one.halts):
        return ""
    spent = f"{number(one.capital_usd, 0)} USD became {number(one.end_usd, 0)} ({percent(one.net_return)})"
    beside = f"; {one.passive} {percent(one.passive_return)}" if one.passive else ""
    return (
        f"One account through all tests: {spent} with {counted(one.trades, 'trade')}, largest drawdown "
        f"{MINUS * (one.max_drawdown > 0.0)}{share(one.max_drawdown)}{_halted(findings)}{beside}."
    )


def _halted(findings: Findings) -> str:
    """When and why the account halted, and what it did after it."""
    one = findings.account
    if one is None or not one.halts:
        return ""
    halts = listed([f"{halt.date} ({halt.reason.replace('_', ' ')})" for halt in one.halts])
    did = f"made {counted(one.trades_after, 'trade')}" if one.trades_after else "traded nothing"
    after = f" and {did} in the {counted(one.sessions_after, 'session')} after it" if one.sessions_after else ""
    others = f", where accounts that begin anew made {counted(one.trades_anew, 'trade')}" if one.trades_anew else ""
    return f"; halted on {halts}{after}{others}"


def abstract(f: Findings, study: Study, known_today: str = "") -> tuple[str, ...]:
    """What was tested, what it earned, and what so few sessions can show: a sentence or a few each.

    `known_today` is what the choice of symbols flatters, "" for nothing.
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
    refit = [study.refit] if study.refit else []
    learnt = [_learnt(f, study)] if f.learnt is not None else []
    anew = f"; the figures above are of accounts that begin anew with each {'fold' if f.compounds else 'session'}."
    account = [account_words(f).removesuffix(".") + anew] if f.account is not None and f.account.anew else []
    return (
        f"Tested: {_tested(f, study)} {opened}",
        earned,
        *account,
        *refit,
        *learnt,
        *symbols,
        re.sub(r"(?<=\d)%", " %", f.detectable.words),
    )


def _learnt(f: Findings, study: Study) -> str:
    """How much was learned."""
    one = f.learnt
    assert one is not None, "asked for a study that measured it"
    steps = f"{one.gradient_steps:,} gradient steps to the chosen checkpoint"
    part = share(one.explained_variance)
    critic = f"; its forecast of the reward explains {part} of what that varied" if one.explained_variance else ""
    several = f", the mean of {f.members} seeds," if f.members > 1 else ""
    return (
        f"Learned: {steps}{' of the seed with the fewest' if several else ''}. The policy's answers{several} moved by "
        f"{number(one.kl, 3)} (Kullback–Leibler divergence; 0 is not at all) from those of the network that it began "
        f"as{_begun(study)}, have a mean size of {number(one.size, 3)} and deviate by {number(one.variation, 3)} over "
        f"what it sees{critic}."
    )


def _begun(study: Study) -> str:
    """What the first network was."""
    warm = study.settings.get("warm_start")
    words = {"passive": " (near the passive policy)", "random": " (drawn at random)"}
    return f" (version {warm})" if warm else words.get(study.settings.get("begins", ""), "")


def _tested(f: Findings, study: Study) -> str:
    bars = counted(f.policy.figures.sessions, "session") + (" of made-up bars" if f.synthetic else "")
    several = f.first_session < f.last_session
    span = f"on {bars}{f' from {f.first_session} to {f.last_session}' if several else f', {f.first_session}'}"
    if f.imported:
        return (
            f"a policy for {f.strategy} that was trained elsewhere, {span}. On which sessions it was trained, and "
            "among how many it was chosen, is not known: it may have learned from these very sessions."
        )
    if not any(trial.steps for trial in study.trials):
        return f"a rule for {f.strategy} that nothing trained, {span}."
    runs = "once" if len(study.trials) == 1 else f"{len(study.trials)} times"
    word = "setting" if f.compounds else "reward"
    rewards = f"{word}{'s' * (len(f.rewards) > 1)} {listed([f'“{line.reward}”' for line in f.rewards])}"
    return (
        f"the {f.network} network of {f.strategy}, trained {runs} ({counted(len(f.folds), 'fold')}, "
        f"{counted(f.seeds, 'seed')}, {rewards}), {span}, all later than what their fold was trained and chosen "
        "on."
    )
