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
from training.evidence.calibration import ConfidenceCalibration
from training.evidence.findings import Findings, TrialLine
from training.evidence.wording import UNKNOWN, number, share
from training.report.cells import Row, variant_word, with_interval, with_share
from training.study.study import Study, ValidationCheck


def seeds_plot(f: Findings) -> Markup:
    """What every seed of a fold earned."""
    rows = []
    for index, group in groupby(_runs(f), key=lambda run: run.fold):
        runs = list(group)
        chosen = next((place for place, run in enumerate(runs) if run.chosen), None)
        rows.append(plots.Strip(f"fold {index + 1}", [run.test_return for run in runs], chosen, None))
    line = next((line for line in f.rewards if line.reward == f.reward), None)
    if line is not None:
        interval = line.net_return
        rows.append(plots.Strip("all: IQM", (), None, (interval.estimate, interval.low, interval.high)))
    return plots.strips(rows, "net return on the fold's test sessions", "Test return of every seed")


def choice_plot(f: Findings) -> Markup:
    """Validation against test return of every seed."""
    points = [(run.validate_return, run.test_return, run.chosen) for run in _runs(f)]
    title = "Validation against test return of every seed"
    return plots.scatter(points, "net return, validation", "net return, test", title)


def _runs(f: Findings) -> list[TrialLine]:
    return sorted((run for run in f.runs if run.reward == f.reward), key=lambda run: run.fold)


def choice_words(f: Findings) -> str:
    """Whether validation chooses well."""
    if f.rank_correlation is None:
        return "Too few runs to decide."
    text = f"Rank correlation within folds: {number(f.rank_correlation)} over {len(_runs(f))} runs. "
    if f.rank_chance is None or f.rank_correlation <= f.rank_chance:
        return text + (
            f"By chance alone one in twenty is above {number(f.rank_chance)}, so nothing shows that the validation "
            "return predicts which seed does well on test."
        )
    strength = "weakly" if f.rank_correlation < 0.3 else "somewhat" if f.rank_correlation < 0.6 else "clearly"
    return text + (
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
        plots.IntervalRow(
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
    bins = [plots.HistogramBin(*one) for one in f.overfitting.logits]
    return plots.histogram(bins, 0.0, ("bad", "good"), title, title, words=words)


def confidence_plot(f: Findings) -> Markup:
    """Confidence at entry against trades that earned."""
    rows = [(one.confidence, one.won, one.low, one.high) for one in f.calibration.bins]
    return plots.reliability(rows, "confidence at entry, mean of the bin", "trades that earned")


def share_won(c: ConfidenceCalibration) -> float:
    """The share of all trades that earned."""
    return sum(one.trades * one.won for one in c.bins) / c.trades


def denials_plot(f: Findings) -> Markup:
    """How often each gate denied what the policy wanted."""
    rows = sorted(f.denials.items(), key=lambda item: (-item[1], item[0]))
    named = [plots.BarRow(gate.replace("_", " "), (float(count),), f"{count:,}") for gate, count in rows]
    title = f"Denials by gate of an {'order' if f.compounds else 'entry'}"
    return plots.bars(named, ("count",), "", title, "", plots.NARROW)


def learning_plots(study: Study) -> list[tuple[Markup, str]]:
    """What the metrics of training were over its steps, each plot with its caption."""
    curves = [trial.curve for trial in study.trials if trial.reward == study.reward and trial.curve]
    agents = list(dict.fromkeys(point.agent for curve in curves for point in curve))
    curves_of = []
    for name, show, label, title in (*_LEARNING, *(_OFF_POLICY if any(agents) else ())):
        groups, count = [], 0
        for agent, style in zip(agents, AGENT_STYLES, strict=False):
            own = [[point for point in curve if point.agent == agent] for curve in curves]
            thin = [line for line in (_line(points, name) for points in own) if line]
            if thin:
                groups.append(plots.Runs(agent.upper(), style, thin, _median(thin)))
                count = max(count, len(thin))
        if groups:
            caption = f"{title}: {count} runs thin, their median thick." if count > 1 else f"{title}, one run."
            curves_of.append((plots.runs(groups, show, label, title), caption))
    return curves_of


AGENT_STYLES = ("median", "second-median")
_LEARNING = (
    ("validate_return", percent, "net return, validation", "Validation return over training"),
    ("entropy", plain, "entropy, nats", "Entropy over training"),
)
_OFF_POLICY = (
    ("gain", percent, "a session", "Reward: action x market return"),
    ("cost", percent, "a session", "Reward: costs"),
    ("bonus", percent, "a session", "Reward: bonus for a right forecast"),
    ("critic loss", plain, "loss of both critics", "Critic loss"),
    ("Q mean", plain, "value of scaled rewards", "Mean of Q"),
    ("actor loss", plain, "loss", "Loss of the policy"),
    ("loss", plain, "half the mean squared error", "Loss of the values"),
    ("heads loss", plain, "loss", "Loss of the heads"),
    ("temperature", plain, "weight of the entropy", "Temperature (SAC alone)"),
)


def update_to_data(study: Study) -> str:
    """How many gradient steps each agent took for a transition, in a sentence; "" where no agent has a replay."""
    last = {point.agent: point for trial in study.trials for point in trial.curve if point.agent}
    ratios = [
        f"{agent.upper()} {number(point.figures['update_to_data'], 4)} (after {point.steps:,} steps)"
        for agent, point in last.items()
    ]
    return f"Gradient steps of the critics for each transition: {', '.join(ratios)}." if ratios else ""


def _line(points: Sequence[ValidationCheck], name: str) -> list[tuple[float, float]]:
    """A field or a figure of one run over its steps, where it has it. TD3 has no entropy."""
    if name == "entropy" and points and points[0].agent and "temperature" not in points[-1].figures:
        return []
    values = [(float(point.steps), point.figures.get(name, getattr(point, name, None))) for point in points]
    return [(steps, float(value)) for steps, value in values if value is not None]


def _median(lines: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The median over the runs that reached each number of steps."""
    at: dict[float, list[float]] = {}
    for line in lines:
        for steps, value in line:
            at.setdefault(steps, []).append(value)
    return [(steps, median(values)) for steps, values in sorted(at.items())]
