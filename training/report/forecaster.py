"""Tables and plots of a study's forecasters: how often they were right, how well calibrated, what it was worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup

from daemon.page_kit import plots
from daemon.page_kit.svg import percent, plain
from training.evidence.resampling import Interval
from training.evidence.wording import UNKNOWN, listed, number, share
from training.forecast.figures import CoveragePoint, ForecasterPlots
from training.forecast.findings import ForecasterFindings, Year
from training.forecast.labels import CLASSES
from training.forecast.risk import RiskScores
from training.forecast.scores import Calibrated, Skill
from training.report.cells import Row, with_share

HEAD = (
    "", "rows\nsessions", "moves or not, AUC", "BUY or SELL, AUC", "accuracy", "commonest class",
    "log loss, nats\nbefore → after", "Brier score\nbefore → after", "calibration error\nbefore → after",
    "temperature", "gradient steps",
)  # fmt: skip


def score_rows(findings: ForecasterFindings) -> list[Row]:
    """A row for the tested years together, then one for each year."""
    together = [] if findings.scores is None else [_scores("tested years", findings.scores, findings.skill, UNKNOWN, 0)]
    years = [
        _scores(
            _name(year),
            year.scores,
            year.skill,
            number(year.scores.temperature),
            year.gradient_steps,
            converged=year.converged,
        )
        for year in findings.years
        if year.scores is not None
    ]
    return [*together, *years]


def _name(year: Year) -> str:
    return f"{year.year}" if year.tested else f"{year.year}\nnot tested"


def _scores(
    name: str, scores: Calibrated, skill: Skill | None, temperature: str, steps: int, converged: bool | None = None
) -> Row:
    before, after = scores.before, scores.after
    return (
        name,
        f"{after.rows:,}\n{after.sessions:,}",
        UNKNOWN if skill is None else _area(skill.moves),
        UNKNOWN if skill is None else _area(skill.sides),
        with_share(after.accuracy),
        with_share(after.base_rate),
        _both(before.log_loss, after.log_loss),
        _both(before.brier, after.brier),
        _both(before.expected_calibration_error, after.expected_calibration_error),
        temperature,
        (f"{steps:,}" if steps else UNKNOWN) + "\nnot converged" * (converged is False),
    )


def _area(interval: Interval) -> str:
    return f"{number(interval.estimate, 3)}\n{number(interval.low, 3)} to {number(interval.high, 3)}"


def _both(before: Interval, after: Interval) -> str:
    return (
        f"{number(before.estimate, 3)} → {number(after.estimate, 3)}\n{number(after.low, 3)} to {number(after.high, 3)}"
    )


def changes(findings: ForecasterFindings) -> str:
    """A sentence on the effect of the temperatures over the tested years."""
    if findings.scores is None:
        return ""
    intervals = (
        ("log loss", findings.scores.log_loss),
        ("Brier score", findings.scores.brier),
        ("calibration error", findings.scores.expected_calibration_error),
    )
    texts = [
        f"{name} {number(interval.estimate, 4)} ({number(interval.low, 4)} to {number(interval.high, 4)})"
        for name, interval in intervals
    ]
    return f"What the temperature changed over the tested years, below zero is better: {listed(texts)}."


def judgement(findings: ForecasterFindings) -> str:
    """Sentences on the forecasters' skill, and whether it exceeds the class frequencies."""
    if findings.scores is None:
        return "No row of the tested years has a label, so nothing is known."
    risk = risk_words(findings.risk)
    return f"{skill_words(findings.skill)}{f'{risk} ' if risk else ''}{accuracy_words(findings.scores)}"


def knowledge(findings: ForecasterFindings) -> str:
    """Sentences on what the forecasters can and cannot predict, for a report's first lines."""
    sides = findings.skill.sides if findings.skill is not None else None
    cannot = sides is not None and sides.low <= 0.5
    lead = "The forecaster says who moves, not where. " if cannot else ""
    risk = risk_words(findings.risk)
    return f"{lead}{skill_words(findings.skill)}{risk}".strip()


RISK_HEAD = (
    "", "rows\nsessions", "QLIKE", "HAR's", "EWMA's", "less HAR's", "less EWMA's",
    "R²", "HAR's", "EWMA's", "more than HAR's",
)  # fmt: skip


def risk_rows(findings: ForecasterFindings) -> list[Row]:
    """How good the variances were: a row for the tested years together, then one for each year."""
    spans = [("tested years", findings.risk), *((_name(year), year.risk) for year in findings.years)]
    return [
        (
            name,
            f"{risk.rows:,}\n{risk.sessions:,}",
            *(_area(getattr(risk, figure)) for figure in ("qlike", "har", "ewma", "over_har", "over_ewma")),
            *(_area(getattr(risk, f"explained{figure}")) for figure in ("", "_har", "_ewma", "_over_har")),
        )
        for name, risk in spans
        if risk is not None
    ]


def risk_words(risk: RiskScores | None) -> str:
    """Whether the variances are better than the references', in a sentence; "" where that is not known."""
    if risk is None:
        return ""
    parts = [
        f"{name} by {number(-change.estimate, 3)} of QLIKE ({number(-change.high, 3)} to {number(-change.low, 3)}), "
        f"{_below_nothing(change)}"
        for name, change in (("HAR", risk.over_har), ("EWMA", risk.over_ewma))
    ]
    return f"How much a price will move: the variance of the next 5 sessions beats {listed(parts)}."


def _below_nothing(interval: Interval) -> str:
    if interval.high < 0.0:
        return "beyond chance"
    return "worse, beyond chance" if interval.low > 0.0 else "no lead is shown"


def skill_words(skill: Skill | None) -> str:
    """Whether forecasts tell a move from none, and a rise from a fall; "" where that is not known."""
    if skill is None:
        return ""
    parts = [
        f"{what}: AUC {number(area.estimate, 3)} ({number(area.low, 3)} to {number(area.high, 3)}), "
        f"{_above_half(area)}."
        for what, area in (("Whether a price will move", skill.moves), ("Which way, where it moved", skill.sides))
    ]
    return f"{' '.join(parts)} 0.5 knows nothing. "


def _above_half(interval: Interval) -> str:
    if interval.low > 0.5:
        return "more than chance"
    return "worse than chance" if interval.high < 0.5 else "no knowledge is shown"


def accuracy_words(scores: Calibrated) -> str:
    """A sentence on accuracy against the most frequent class; without skill in direction it shows none."""
    accuracy, base = scores.after.accuracy, scores.after.base_rate
    if accuracy.low > base.high:
        lead = "so it is right more often than always naming the commonest class, beyond chance"
    elif accuracy.high < base.low:
        lead = "so always naming the commonest class is right more often, beyond chance"
    else:
        lead = "and the intervals overlap: no knowledge is shown"
    points = f"{number((accuracy.estimate - base.estimate) * 100.0, 1)} points"
    return f"Accuracy {share(accuracy.estimate)}, commonest class {share(base.estimate)} ({points}), {lead}."


def confusion_rows(figures: ForecasterPlots) -> list[Row]:
    """A row for each true class: how often each class was predicted."""
    rows = []
    for name, counts in zip(CLASSES, figures.confusion, strict=True):
        total = sum(counts)
        rows.append(
            (name, *(f"{count:,}\n{share(count / total if total else None)}" for count in counts), f"{total:,}")
        )
    predicted = [sum(column) for column in zip(*figures.confusion, strict=True)]
    total = sum(predicted)
    rows.append(("all", *(f"{count:,}\n{share(count / total)}" for count in predicted), f"{total:,}"))
    return rows


CLASS_HEAD = ("class", "came", "forecast", "right where forecast", "forecast where it came", "AUC against the others")


def class_rows(findings: ForecasterFindings) -> list[Row]:
    """A row for each class over the tested years: how often it came, was forecast, and was right."""
    if findings.figures is None:
        return []
    counts, skill = findings.figures.confusion, findings.skill
    total = sum(map(sum, counts))
    areas = (None,) * len(CLASSES) if skill is None else (skill.moves, skill.buy, skill.sell)
    rows: list[Row] = []
    for place, (name, area) in enumerate(zip(CLASSES, areas, strict=True)):
        came, forecast, right = sum(counts[place]), sum(row[place] for row in counts), counts[place][place]
        rows.append(
            (
                name,
                share(came / total),
                share(forecast / total),
                share(right / forecast if forecast else None),
                share(right / came if came else None),
                UNKNOWN if area is None else _area(area),
            )
        )
    return rows


def reliability_plot(figures: ForecasterPlots) -> Markup:
    """Confidence against how often it was right, over the tested years."""
    bins = [(point.confidence, point.right, point.low, point.high) for point in figures.reliability]
    return plots.reliability(bins, "probability of the predicted class", "rows predicted rightly")


def by_year_plots(findings: ForecasterFindings) -> list[tuple[Markup, str]]:
    """Curves with the tested years thin and all of them together thick, each with its caption."""
    several = sum(year.tested for year in findings.years) > 1
    thin = "Each tested year thin, all together thick." if several else "One tested year."
    base = None if findings.scores is None else findings.scores.after.base_rate.estimate
    even = plots.Runs("", "ideal", [], [(0.3, 0.3), (1.0, 1.0)])
    commonest = () if base is None else (plots.Runs("base rate", "second-median", [], [(0.0, base), (1.0, base)]),)
    cost = f"{number(findings.cost * 100.0)} %"
    curves = (
        (_reliability, "predicted rightly", _SURE, "Reliability by year", f"Bins of {FEWEST} rows or more.", (even,)),
        (
            _of("accuracy"), "accuracy", _COVERED, "Accuracy over coverage",
            "How often the most confident forecasts are right. A confidence worth something falls to the right.",
            commonest,
        ),
        (
            _of("pnl_a_trade", FEWEST), "return of a trade", _COVERED, "Profit of a trade over coverage",
            f"Each forecast BUY is bought at the next open, sold at its label's close, {cost} of costs.",
            (),
        ),
        (
            _of("pnl"), "sum of returns", _COVERED, "Sum of profits over coverage",
            "The same, added up over all trades of one unit of money each. They overlap, so this is no account.", (),
        ),
    )  # fmt: skip
    plotted = [(_curves(findings, *curve[:2], curve[3], curve[2], curve[5]), curve[3], curve[4]) for curve in curves]
    return [(plot, f"{title}. {words} {thin}") for plot, title, words in plotted if plot]


FEWEST = 100  # least number of rows of a bin, or of trades: fewer scatter over the whole plot
_SURE = (percent, "confidence")
_COVERED = (percent, "share of rows, the most confident first")
Curve = Callable[[ForecasterPlots], list[tuple[float, float]]]


def _of(name: str, trades: int = 0) -> Curve:
    """A figure over coverage, of points with at least so many trades."""

    def curve(figures: ForecasterPlots) -> list[tuple[float, float]]:
        return [(point.coverage, _value(point, name)) for point in figures.coverage if point.trades >= trades]

    return curve


def _value(point: CoveragePoint, name: str) -> float:
    return float(getattr(point, name))


def _reliability(figures: ForecasterPlots) -> list[tuple[float, float]]:
    return [(point.confidence, point.right) for point in figures.reliability if point.rows >= FEWEST]


def _curves(
    findings: ForecasterFindings,
    curve: Curve,
    label: str,
    title: str,
    x_axis: tuple[Callable[[float], str], str],
    also: Sequence[plots.Runs],
) -> Markup:
    years = [curve(year.figures) for year in findings.years if year.tested and year.figures is not None]
    together = curve(findings.figures) if findings.figures is not None else []
    if not together:
        return Markup()
    kinds = [plots.Runs("", "median", [line for line in years if line] if len(years) > 1 else [], together), *also]
    show = plain if label == "sum of returns" else percent
    return plots.runs(kinds, show, label, title, x_axis, begin=0.3 if curve is _reliability else 0.0)
