"""Tables and plots on the strength of the result: seeds, rewards, luck, confidence, and the training itself.

Every figure comes from the findings, every curve from the study.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from statistics import median

from markupsafe import Markup

from daemon.page_kit import plots
from daemon.page_kit.svg import percent, plain
from training.evidence.calibration import Calibration
from training.evidence.findings import Findings, Run
from training.evidence.wording import UNKNOWN, number, share
from training.report.cells import Row, variant_word, with_interval, with_share
from training.study.study import Point, Study


def seeds_plot(f: Findings) -> Markup:
    """What every seed of a fold earned."""
    rows = []
    for index, group in groupby(_runs(f), key=lambda run: run.fold):
        own = list(group)
        chosen = next((place for place, run in enumerate(own) if run.chosen), None)
        rows.append(plots.Strip(f"fold {index + 1}", [run.test_return for run in own], chosen, None))
    line = next((line for line in f.rewards if line.reward == f.reward), None)
    if line is not None:
        found = line.net_return
        rows.append(plots.Strip("all: IQM", (), None, (found.estimate, found.low, found.high)))
    return plots.strips(rows, "net return on the fold's test sessions", "Test return of every seed")


def choice_plot(f: Findings) -> Markup:
    """Validation against test return of every seed."""
    points = [(run.validate_return, run.test_return, run.chosen) for run in _runs(f)]
    title = "Validation against test return of every seed"
    return plots.scatter(points, "net return, validation", "net return, test", title)


def _runs(f: Findings) -> list[Run]:
    return sorted((run for run in f.runs if run.reward == f.reward), key=lambda run: run.fold)


def choice_words(f: Findings) -> str:
    """Whether validation chooses well."""
    if f.rank_correlation is None:
        return "Too few runs to decide."
    found = f"Rank correlation within folds: {number(f.rank_correlation)} over {len(_runs(f))} runs. "
    if f.rank_chance is None or f.rank_correlation <= f.rank_chance:
        return found + (
            f"By chance alone one in twenty is above {number(f.rank_chance)}, so nothing shows that the validation "
            "return predicts which seed does well on test."
        )
    strength = "weakly" if f.rank_correlation < 0.3 else "somewhat" if f.rank_correlation < 0.6 else "clearly"
    return found + (
        f"By chance alone only one in twenty is above {number(f.rank_chance)}, so the validation return {strength} "
        "predicts which seed does well on test."
    )


def reward_rows(f: Findings) -> list[Row]:
    """Each reward over all its seeds and folds."""
    return [
        (
            line.reward,
            str(line.trials),
            with_interval(line.net_return),
            share(line.profitable),
            number(line.trades_per_session),
            UNKNOWN if line.headline_better is None else with_share(line.headline_better),
        )
        for line in f.rewards
    ]


def reward_plot(f: Findings) -> Markup:
    """The same as a plot."""
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
    title = f"{variant_word(f).capitalize()}s compared"
    return plots.intervals(spans, "net return of a fold's test sessions, IQM", title)


def luck_plot(f: Findings) -> Markup:
    """How the best run of one half of the sessions ranks in the other; nothing where that is not known."""
    if not f.overfitting.logits:
        return Markup()
    title = "logit of the best run's rank out of sample"
    words = ("falls into the worse half", "stays in the better half")
    bins = [plots.Bin(*one) for one in f.overfitting.logits]
    return plots.histogram(bins, 0.0, ("bad", "good"), title, title, words=words)


def confidence_plot(f: Findings) -> Markup:
    """Confidence at entry against trades that earned."""
    rows = [(one.confidence, one.won, one.low, one.high) for one in f.calibration.bins]
    return plots.reliability(rows, "confidence at entry, mean of the bin", "trades that earned")


def share_won(c: Calibration) -> float:
    """The share of all trades that earned."""
    return sum(one.trades * one.won for one in c.bins) / c.trades


def denials_plot(f: Findings) -> Markup:
    """How often each gate denied what the policy wanted."""
    rows = sorted(f.denials.items(), key=lambda item: (-item[1], item[0]))
    named = [plots.Bar(gate.replace("_", " "), (float(count),), f"{count:,}") for gate, count in rows]
    title = f"Denials by gate of an {'order' if f.compounds else 'entry'}"
    return plots.bars(named, ("count",), "", title, "", plots.NARROW)


def learning_plots(study: Study) -> list[tuple[Markup, str]]:
    """Validation return and entropy over training, each with its caption."""
    curves = [trial.curve for trial in study.trials if trial.reward == study.reward and trial.curve]
    if not curves:
        return []
    shown = (
        ("validate_return", percent, "net return, validation", "Validation return over training"),
        ("entropy", plain, "entropy, nats", "Entropy over training"),
    )
    parts = []
    for field, show, label, name in shown:
        thin = [[(float(point.steps), float(getattr(point, field))) for point in curve] for curve in curves]
        caption = f"{name}: {len(curves)} runs thin, their median thick." if len(curves) > 1 else f"{name}, one run."
        parts.append((plots.learning(thin, _median(curves, field), show, label, name), caption))
    return parts


def _median(curves: Sequence[Sequence[Point]], field: str) -> list[tuple[float, float]]:
    """The median over the runs that reached each number of steps."""
    at: dict[int, list[float]] = {}
    for curve in curves:
        for point in curve:
            at.setdefault(point.steps, []).append(float(getattr(point, field)))
    return [(float(steps), median(values)) for steps, values in sorted(at.items())]
