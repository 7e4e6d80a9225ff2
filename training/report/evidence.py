"""Sections of a report's page on what the result is worth: seeds, rewards, luck, confidence, and how training went.

Words and layout only: every figure comes from the findings, every curve from the study. What is missing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from statistics import median

from training.evidence.findings import Findings
from training.evidence.wording import UNKNOWN, counted, number, share
from training.report import plots
from training.report.html import figure, paragraph, table, variant_word, with_interval, with_share
from training.study.study import Point, Study

EARLIER = (
    "the ratios of earlier trials are of other spans, often shorter ones, whose ratios scatter more, so SR₀ is rather "
    "too high than too low"
)
ELSEWHERE = "among how many trials the policy was chosen elsewhere is not known, so the true one is lower"


def seeds_section(f: Findings) -> str:
    """HTML: what other seeds earned, and whether validation chooses well."""
    if f.imported:
        return paragraph("One finished policy was imported: how much its seed decided is not known.")
    if f.seeds < 2:
        return paragraph("Only one seed was trained: how much the seed decides is not known. Ten are advised.")
    runs = sorted((run for run in f.runs if run.reward == f.reward), key=lambda run: run.fold)
    rows = []
    for index, group in groupby(runs, key=lambda run: run.fold):
        own = list(group)
        chosen = next((place for place, run in enumerate(own) if run.chosen), None)
        rows.append(plots.Strip(f"fold {index + 1}", [run.test_return for run in own], chosen, None))
    line = next((line for line in f.rewards if line.reward == f.reward), None)
    if line is not None:
        found = line.net_return
        rows.append(plots.Strip("all: IQM", (), None, (found.estimate, found.low, found.high)))
    dots = figure(
        plots.strips(rows, "net return on the fold's test sessions", "Test return of every seed"),
        "One dot for each seed, the chosen one large. The bar is the interquartile mean over seeds and folds with its "
        "95 % interval over seeds.",
    )
    cloud = figure(
        plots.scatter(
            [(run.validate_return, run.test_return, run.chosen) for run in runs],
            "net return, validation",
            "net return, test",
            "Validation against test return of every seed",
        ),
        f"Does validation choose well? {_chooses(f)}",
    )
    return f'<div class="figures">{dots}{cloud}</div>'


def _chooses(f: Findings) -> str:
    if f.rank_correlation is None:
        return "Too few runs to say."
    runs = sum(run.reward == f.reward for run in f.runs)
    found = f"Rank correlation within folds: {number(f.rank_correlation)} over {runs} runs. "
    if f.rank_chance is None or f.rank_correlation <= f.rank_chance:
        return found + (
            f"By chance alone one in twenty is above {number(f.rank_chance)}, so nothing shows that the validation "
            "return tells which seed does well on test."
        )
    strength = "weakly" if f.rank_correlation < 0.3 else "somewhat" if f.rank_correlation < 0.6 else "clearly"
    return found + (
        f"By chance alone only one in twenty is above {number(f.rank_chance)}, so the validation return {strength} "
        "tells which seed does well on test."
    )


def rewards_section(f: Findings) -> str:
    """HTML: the ablation, each reward over all its seeds and folds."""
    if f.imported:
        return paragraph(f"The policy was trained elsewhere, by a {variant_word(f)} that is not known here.")
    rows = [
        (
            escape(line.reward),
            str(line.trials),
            with_interval(line.net_return),
            share(line.profitable),
            number(line.trades_per_session),
            UNKNOWN if line.headline_better is None else with_share(line.headline_better),
        )
        for line in f.rewards
    ]
    word = variant_word(f)
    head = (word, "runs", "net return of a fold, IQM", "runs that earned", "trades a session", f"{f.reward} better")
    notes = dict.fromkeys(line.net_return.note for line in f.rewards if line.net_return.note)
    compared = table(tuple(escape(one) for one in head), rows, "numbers") + "".join(
        paragraph(f"{note[:1].upper()}{note[1:]}.") for note in notes
    )
    if len(f.rewards) < 2:
        return compared + paragraph(f"Only {f.reward} was trained, so whether another {word} does better is not known.")
    spans = [
        plots.Span(
            line.reward,
            line.net_return.estimate,
            line.net_return.low,
            line.net_return.high,
            "policy" if line.reward == f.reward else "rule",
        )
        for line in f.rewards
    ]
    return compared + figure(
        plots.intervals(
            spans, plots.percent, "net return of a fold's test sessions, IQM", f"{word.capitalize()}s compared"
        ),
        "Interquartile mean over all seeds and folds, with the 95 % interval over seeds. Where the interval of the "
        f"probability holds 50 %, the {word}s cannot be told apart. Whoever picks a {word} by this table "
        "has chosen on test sessions.",
    )


def luck_section(f: Findings) -> str:
    """HTML: what choosing among many and chance account for."""
    d, o, s = f.deflated, f.overfitting, f.snooping
    effective = ""
    if d.effective_trials is not None and d.trials > 1:
        independent = (
            f"with {d.effective_trials:.0f}, about as many as are independent: {number(d.deflated_effective, 3)}"
        )
        effective = f" <small>({independent})</small>"
    rows = [
        ("Sharpe ratio a session", number(d.sharpe, 3)),
        ("probability that the true one is above 0 (PSR)", number(d.probabilistic, 3)),
        (
            "trials counted",
            f"{d.trials:,} <small>({f.prior_trials:,} of them in earlier studies and searches on these data)</small>",
        ),
        ("earlier openings of these test sessions", f"{f.prior_openings:,}"),
        ("what the best of so many reaches without skill (SR₀)", number(d.threshold, 3)),
        ("deflated Sharpe ratio (DSR)", f"{'at most ' if f.imported else ''}<b>{number(d.deflated, 3)}</b>{effective}"),
        ("probability of backtest overfitting (PBO)", f"<b>{number(o.probability)}</b>"),
        ("probability that the best in sample loses out of sample", number(o.probability_of_loss)),
        ("p-value of the best trial against always flat (SPA)", number(s.superior_ability if s else None, 3)),
        ("p-value against random traders", number(f.random_p, 3)),
        ("minimum track record, sessions", "never" if d.minimum_sessions is None else number(d.minimum_sessions, 0)),
        ("test sessions there are", f"{f.policy.figures.sessions:,}"),
    ]
    earlier = "" if f.prior_trials == 0 else EARLIER
    elsewhere = ELSEWHERE if f.imported else ""
    reasons = (
        ("DSR", d.note),
        ("DSR", earlier),
        ("DSR", elsewhere),
        ("PBO", o.note),
        ("SPA", s.note if s else "no run was trained in every fold"),
    )
    notes = "".join(paragraph(f"{name}: {note}.") for name, note in reasons if note)
    figures = f'<div class="words">{table(("", ""), rows, "pairs")}{notes}</div>'
    if not o.logits:
        return figures
    words = ("falls into the worse half", "stays in the better half")
    return (
        f'<div class="figures">{figures}'
        + figure(
            plots.histogram(o.logits, 0.0, words, "logit of the best run's rank out of sample"),
            f"Half of the sessions pick the best of {o.trials} runs and the other half rank it, in all {o.splits:,} "
            "ways to halve 16 blocks. The share up to zero is the PBO; choosing among equals gives about one half.",
        )
        + "</div>"
    )


def confidence_section(f: Findings) -> str:
    """HTML: confidence at entry against trades that earned."""
    c = f.calibration
    if f.compounds:
        return paragraph("Not looked at: a basket of shares has no single outcome that a confidence could be held to.")
    if not c.bins or c.brier is None:
        return paragraph("The policy made no trade, so its confidence says nothing.")
    chart = figure(
        plots.reliability(
            [(one.confidence, one.won, one.low, one.high) for one in c.bins],
            "confidence at entry, mean of the bin",
            "trades that earned",
        ),
        "Trades in bins of about equal count, with Wilson's 95 % intervals. On the dashed line trades earn as often as "
        "the confidence reads.",
    )
    won = sum(one.trades * one.won for one in c.bins) / c.trades
    words = paragraph(
        f"{counted(c.trades, 'trade')}, of which {share(won)} earned. Brier score {number(c.brier, 3)} (always naming "
        f"that share would have {number(won * (1.0 - won), 3)}, a coin 0.250), calibration error "
        f"{share(c.expected_error)}."
    ) + paragraph(c.note)
    return f'<div class="figures">{chart}<div class="words">{words}</div></div>'


def learning_section(study: Study) -> str:
    """HTML: validation return and entropy over training."""
    curves = [trial.curve for trial in study.trials if trial.reward == study.reward and trial.curve]
    if not curves:
        return paragraph("No learning curve was recorded.")
    shown = (
        ("validate_return", plots.percent, "net return, validation", "Validation return over training"),
        ("entropy", plots.plain, "entropy, nats", "Entropy over training"),
    )
    parts = []
    for field, show, label, name in shown:
        thin = [[(float(point.steps), float(getattr(point, field))) for point in curve] for curve in curves]
        middle = _median(curves, field)
        caption = f"{name}: {len(curves)} runs thin, their median thick." if len(curves) > 1 else f"{name}, one run."
        parts.append(figure(plots.learning(thin, middle, show, label, name), caption))
    stopped = [trial for trial in study.trials if trial.stopped]
    said = "".join(
        f"<li>fold {one.fold + 1}, {escape(one.reward)}, seed {one.seed}: {escape(one.stopped)}</li>" for one in stopped
    )
    tail = f"<p>Runs that stopped early:</p><ul>{said}</ul>" if stopped else ""
    return (
        f'<div class="figures">{"".join(parts)}</div>'
        + paragraph(
            "Each run's checkpoint is the one with the best validation return, so the peak of a noisy curve is chosen: "
            "validation figures flatter. A median that does not rise has learned nothing that validation pays for."
        )
        + tail
    )


def _median(curves: Sequence[Sequence[Point]], field: str) -> list[plots.Point]:
    """The median over the runs that reached each number of steps."""
    at: dict[int, list[float]] = {}
    for curve in curves:
        for point in curve:
            at.setdefault(point.steps, []).append(float(getattr(point, field)))
    return [(float(steps), median(values)) for steps, values in sorted(at.items())]
