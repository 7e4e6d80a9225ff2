"""Tables and plots of the page: against baselines, over time, by fold, seed and reward, at other conditions, of heads.

Every figure comes from the findings, every curve from the study. Missing values are stated. A plot's axis fits the
policy and the passive baselines; other players are clipped to it, with their values in the label.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, groupby, pairwise
from statistics import median

from markupsafe import Markup

from daemon.page_kit import plots, svg
from daemon.page_kit.plots import Curve, IntervalRow
from daemon.page_kit.svg import MINUS, Point, millions, plain
from training.desks.kind import SYNTHETIC
from training.evidence.calibration import ConfidenceCalibration
from training.evidence.findings import Findings, FoldLine, PlayerLine, TrialLine
from training.evidence.heads import DirectionScores, HeadScores, RiskScores
from training.evidence.resampling import Interval
from training.evidence.statistics import chosen_results, joined, running, session_returns
from training.evidence.wording import UNKNOWN, number, percent, share
from training.report.cells import ACTIVE, PLAYER_STYLES, Row, fall, sharpe, variant_word, with_interval, with_share
from training.study.study import PlayResult, SessionResult, SizesPlayed, Study, ValidationCheck

ROOM = 0.5  # margin on each side, as a part of the others' range

Range = tuple[float, float]


def framed_curves(curves: Sequence[Curve]) -> list[Curve]:
    """Return the curves, those of `ACTIVE` in pieces within the range; the label of a cut one has its last value."""
    frame = _frame([value for curve in curves if curve.label not in ACTIVE for _, value in curve.points])
    framed: list[Curve] = []
    for curve in curves:
        if curve.label not in ACTIVE or all(frame[0] <= value <= frame[1] for _, value in curve.points):
            framed.append(curve)
            continue
        *pieces, final_piece = _pieces(curve.points, frame)
        framed += [Curve("", curve.style, points) for points in pieces]
        framed.append(Curve(_with_value(curve.label, curve.points[-1][1]), curve.style, final_piece))
    return framed


def framed_spans(spans: Sequence[IntervalRow]) -> list[IntervalRow]:
    """Return the rows, those of `ACTIVE` cut to the range; the label of one whose value lies outside names that."""
    policy_rows = [row for row in spans if row.label not in ACTIVE]
    frame = _frame([value for row in policy_rows for value in (row.value, row.low, row.high) if value is not None])
    return [row if row.label not in ACTIVE else _clip_row(row, frame) for row in spans]


def _frame(values: Sequence[float]) -> Range:
    low, high = min(*values, 0.0), max(*values, 0.0)
    room = ROOM * ((high - low) or 0.1)
    return low - room, high + room


def _within(value: float, frame: Range) -> float:
    return min(max(value, frame[0]), frame[1])


def _with_value(label: str, value: float) -> str:
    return f"{label} {value:+.0%}".replace("-", MINUS).replace("%", " %")


def _clip_row(row: IntervalRow, frame: Range) -> IntervalRow:
    inside = _within(row.value, frame) == row.value
    return row._replace(
        label=row.label if inside else _with_value(row.label, row.value),
        value=_within(row.value, frame),
        low=None if row.low is None else _within(row.low, frame),
        high=None if row.high is None else _within(row.high, frame),
    )


def _pieces(points: Sequence[Point], frame: Range) -> list[list[Point]]:
    """Return the parts of a line within the range, each up to its edge; the last one ends where the line does, at the
    edge beyond which that is."""
    pieces: list[list[Point]] = []
    for (x, value), (next_x, following) in pairwise(points):
        begin, end = _within(value, frame), _within(following, frame)
        if begin == end and (begin, end) != (value, following):
            continue
        at, until = (x + (y - value) / ((following - value) or 1.0) * (next_x - x) for y in (begin, end))
        if not pieces or pieces[-1][-1] != (at, begin):
            pieces.append([(at, begin)])
        pieces[-1].append((until if end != following else next_x, end))
    last_x, last_y = points[-1]
    if not pieces or pieces[-1][-1][1] != _within(last_y, frame):
        pieces.append([(last_x, _within(last_y, frame))])
    return pieces


def result_rows(f: Findings) -> list[Row]:
    """The policy and the baselines side by side, with intervals."""
    return _rows(f, (f.policy, *f.baselines))


def quoted_rows(f: Findings) -> list[Row]:
    """The policy on recorded option quotes and on Black-Scholes prices side by side; none without recorded ones."""
    synthetic = next((line for line in f.scenarios if line.name == SYNTHETIC), None)
    return [] if synthetic is None else _rows(f, (f.policy, synthetic))


def _rows(f: Findings, lines: Sequence[PlayerLine]) -> list[Row]:
    return [
        ("net return" if f.compounds else "net return, sum", *(with_interval(line.net_return) for line in lines)),
        *([("a year", *(percent(line.figures.annual_return) for line in lines))] if f.compounds else []),
        ("in USD", *(number(line.figures.net_return * f.capital_usd, 0) for line in lines)),
        ("a session", *(percent(line.figures.mean, 3) for line in lines)),
        ("Sharpe ratio, annual", *(sharpe(line) for line in lines)),
        (
            "Sortino ratio, annual",
            *(_ratio(line, line.figures.sortino_annual, line.figures.worst_session < 0.0) for line in lines),
        ),
        ("Calmar ratio", *(_ratio(line, line.figures.calmar, line.figures.max_drawdown > 0.0) for line in lines)),
        (
            "largest drawdown" if f.compounds else "largest fall of that sum",
            *(fall(line.figures.max_drawdown) for line in lines),
        ),
        ("worst session", *(percent(line.figures.worst_session) for line in lines)),
        ("sessions that earned", *(_of(line, line.figures.hit_rate_sessions) for line in lines)),
        *(
            []
            if f.compounds
            else [("trades that earned", *(_of(line, line.figures.hit_rate_trades) for line in lines))]
        ),
        ("trades", *(f"{line.figures.trades:,}" for line in lines)),
        ("turnover a session", *(number(line.figures.turnover, 3 if f.compounds else 2) for line in lines)),
        ("time in the market", *(share(line.figures.exposure) for line in lines)),
        ("costs, USD" if f.compounds else "fees, USD", *(number(line.figures.fees_usd, 0) for line in lines)),
    ]


def _of(line: PlayerLine, value: float) -> str:
    return share(value) if line.figures.trades else UNKNOWN


def _ratio(line: PlayerLine, value: float, has_loss: bool) -> str:
    return number(value) if has_loss and line.figures.deviation > 0.0 else UNKNOWN


def result_plot(f: Findings, policy_name: str = "policy") -> Markup:
    """Net returns with their intervals; `policy_name` is the policy's name."""
    styles = [(line.name, line, PLAYER_STYLES.get(line.name, "other")) for line in f.baselines]
    return _net_returns(f, [(policy_name, f.policy, "policy"), *styles], "Net return with 95 % interval")


def _net_returns(f: Findings, lines: Sequence[tuple[str, PlayerLine, str]], title: str) -> Markup:
    label = "net return, compounded" if f.compounds else "net return, sum of sessions"
    spans = [
        plots.IntervalRow(name, line.figures.net_return, line.net_return.low, line.net_return.high, style)
        for name, line, style in lines
    ]
    return plots.intervals(framed_spans(spans), label, title)


def equity_plot(study: Study, f: Findings, policy_name: str = "policy") -> plots.Figure:
    """Running sums over the test sessions, with a band of random traders where there are any."""
    players = [(policy_name, list(chosen_results(study)))]
    players += [
        (baseline.name, list(baseline.folds))
        for baseline in study.baselines
        if not (f.random_ranges and baseline.name == "random")
    ]
    curves = [
        plots.Curve(
            name, "policy" if name == policy_name else PLAYER_STYLES.get(name, "other"), _running(sessions, study)
        )
        for name, sessions in players
    ]
    starts = list(accumulate((len(fold.test) for fold in study.folds), initial=0))
    band = None
    if f.random_ranges:
        edges = [
            (0.0, 0.0, 0.0),
            *((float(at), *ranges) for at, ranges in zip(starts[1:], f.random_ranges, strict=True)),
        ]
        band = plots.Band("random", edges)
    return plots.in_both_widths(lambda width: plots.equity(framed_curves(curves), band, _dates(study), width))


def _dates(study: Study) -> list[tuple[float, str]]:
    """Where each fold begins, of a single one each year, and the last session."""
    tests = [fold.test for fold in study.folds]
    starts = list(accumulate(map(len, tests), initial=0))
    marks = [(float(at), test[0]) for at, test in zip(starts, tests, strict=False)]
    if len(tests) == 1:
        years = [(place, date[:4]) for place, date in enumerate(tests[0])]
        marks += [(float(at), year) for (at, year), (_, last) in zip(years[1:], years, strict=False) if year != last]
    return [*marks, (float(starts[-1]), tests[-1][-1])]


def account_plot(study: Study, policy_name: str = "policy") -> plots.Figure:
    """The account through all tests, and the passive one next to it."""
    account = study.one_account
    assert account is not None, "asked for a study that has one"
    curves = [plots.Curve(policy_name, "policy", _growth(joined(account.folds), study))]
    if account.held:
        curves.append(plots.Curve(account.passive, "hold", _growth(account.held, study)))
    title = "One account through all tests"
    return plots.in_both_widths(lambda width: plots.equity(curves, None, _dates(study), width, title))


def _growth(sessions: Sequence[SessionResult], study: Study) -> list[Point]:
    return list(enumerate((0.0, *running(session_returns(sessions, study.capital_usd), compounds=True).tolist())))


def _running(played: Sequence[PlayResult], study: Study) -> list[Point]:
    sessions = [session for fold in played for session in fold.sessions]
    returns = running(session_returns(sessions, study.capital_usd), compounds=study.compounds)
    return list(enumerate((0.0, *returns.tolist())))


def span_rows(f: Findings) -> list[Row]:
    """The spans of each fold."""
    rows = []
    for index, fold in enumerate(f.folds, 1):
        dates = [f"{a} to {b}\n({count})" for a, b, count in (fold.train, fold.validate, fold.test)]
        if f.imported:
            dates[0] = "not known"
        rows.append((str(index), *dates, f"{fold.weekdays_left_out[0]} and {fold.weekdays_left_out[1]}"))
    return rows


def fold_rows(f: Findings) -> list[Row]:
    """What each fold chose and earned."""
    return [
        (
            str(index),
            _policy_of(f, fold),
            percent(fold.validate_return),
            Markup("<b>{}</b>").format(percent(fold.net_return)),
            str(fold.trades),
            number(fold.random_p, 3),
            *(percent(fold.baselines[name]) for name in f.folds[0].baselines),
        )
        for index, fold in enumerate(f.folds, 1)
    ]


def seed_rows(f: Findings) -> list[Row]:
    """How the mean of a fold's seeds did on validation next to the passive policy, and whether the seeds agree."""
    return [
        (
            str(index),
            "–" if fold.over_passive is None else with_interval(fold.over_passive),
            "–" if fold.agreement is None else number(fold.agreement.found, 3),
            "–" if fold.agreement is None else number(fold.agreement.chance, 3),
        )
        for index, fold in enumerate(f.folds, 1)
        if fold.over_passive is not None or fold.agreement is not None
    ]


def _policy_of(f: Findings, fold: FoldLine) -> str:
    """Words for a fold's chosen policy."""
    if f.imported:
        return "not known"
    return f"mean of {f.members}" if f.members > 1 else f"{fold.seed}\nat {millions(fold.chosen_steps)}"


def chosen_rows(study: Study) -> list[Row]:
    """A row for each fold of a study with several agents: validation's choices, and dead agents."""
    return [
        (
            str(fold),
            *(number(choice[name]) for name in ("sac", "td3", "threshold")),
            " ".join(f"{name.upper()} {share(part)}" for name, part in choice.get("saturated", {}).items()),
            "; ".join(f"{name.upper()}: {why}" for name, why in choice.get("dead", {}).items()),
        )
        for fold, choice in enumerate(study.extra["chosen"], 1)
    ]


def scenario_rows(f: Findings) -> list[Row]:
    """The policy under other costs and one bar late."""
    return [
        (
            name,
            with_interval(line.net_return),
            sharpe(line),
            fall(line.figures.max_drawdown),
            f"{line.figures.trades:,}",
            number(line.figures.fees_usd, 0),
        )
        for name, line, _ in _scenarios(f)
    ]


def scenario_plot(f: Findings) -> Markup:
    """The same as a plot."""
    return _net_returns(f, _scenarios(f), "Sensitivity to costs and delay")


def _scenarios(f: Findings) -> list[tuple[str, PlayerLine, str]]:
    return [("as reported", f.policy, "policy"), *((line.name, line, "rule") for line in f.scenarios)]


def seeds_plot(f: Findings) -> Markup:
    """The result of every seed by fold."""
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
    bins = [plots.HistogramBin(*logit_bin) for logit_bin in f.overfitting.logits]
    return plots.histogram(bins, 0.0, ("bad", "good"), title, title, words=words)


def confidence_plot(f: Findings) -> Markup:
    """Confidence at entry against trades that earned."""
    rows = [
        (confidence_bin.confidence, confidence_bin.won, confidence_bin.low, confidence_bin.high)
        for confidence_bin in f.calibration.bins
    ]
    return plots.reliability(rows, "confidence at entry, mean of the bin", "trades that earned")


def share_won(c: ConfidenceCalibration) -> float:
    """The share of all trades that earned."""
    return sum(confidence_bin.trades * confidence_bin.won for confidence_bin in c.bins) / c.trades


SIZES_HEAD = (
    "capital, USD", "shares in parts", "held from wanted", "of one symbol at most", "orders a session", "costs",
    "fees by the day", "net return", "denied",
)  # fmt: skip


def size_rows(sizes: SizesPlayed) -> list[Row]:
    """What is exported on accounts of several sizes, a row each."""
    return [
        (
            number(account.capital_usd, 0),
            "yes" if account.fractions else "no",
            percent(account.off, 4).lstrip("+"),
            percent(account.off_most, 4).lstrip("+"),
            number(account.orders, 1),
            share(account.costs),
            percent(account.day_fees, 4).lstrip("+") if round(account.day_fees, 6) else UNKNOWN,
            percent(account.net_return),
            f"{account.denials:,}",
        )
        for account in sizes.accounts
    ]


def denials_plot(f: Findings) -> Markup:
    """How often each gate denied what the policy wanted."""
    rows = sorted(f.denials.items(), key=lambda item: (-item[1], item[0]))
    rows_shown = [plots.BarRow(gate.replace("_", " "), (float(count),), f"{count:,}") for gate, count in rows]
    title = f"Denials by gate of an {'order' if f.compounds else 'entry'}"
    return plots.bars(rows_shown, ("count",), "", title, "", plots.NARROW)


def learning_plots(study: Study) -> list[tuple[Markup, str]]:
    """What the metrics of training were over its steps, each plot with its caption."""
    curves = [trial.curve for trial in study.trials if trial.reward == study.reward and trial.curve]
    agents = list(dict.fromkeys(point.agent for curve in curves for point in curve))
    curves_of = []
    for name, show, label, title in (*_LEARNING, *(_OFF_POLICY if any(agents) else ())):
        groups, count = [], 0
        for agent, style in zip(agents, AGENT_STYLES, strict=False):
            agent_curves = [[point for point in curve if point.agent == agent] for curve in curves]
            thin = [line for line in (_line(points, name) for points in agent_curves) if line]
            if thin:
                groups.append(plots.Runs(agent.upper(), style, thin, _median(thin)))
                count = max(count, len(thin))
        if groups:
            caption = f"{title}: {count} runs thin, their median thick." if count > 1 else f"{title}, one run."
            curves_of.append((plots.runs(groups, show, label, title), caption))
    return curves_of


AGENT_STYLES = ("median", "second-median")
_LEARNING = (
    ("validate_return", svg.percent, "net return, validation", "Validation return over training"),
    ("entropy", plain, "entropy, nats", "Entropy over training"),
)
_OFF_POLICY = (
    ("gain", svg.percent, "a session", "Reward: action x market return"),
    ("cost", svg.percent, "a session", "Reward: costs"),
    ("bonus", svg.percent, "a session", "Reward: bonus for a right forecast"),
    ("critic loss", plain, "loss of both critics", "Critic loss"),
    ("Q mean", plain, "value of scaled rewards", "Mean of Q"),
    ("actor loss", plain, "loss", "Loss of the policy"),
    ("loss", plain, "half the mean squared error", "Loss of the values"),
    ("heads loss", plain, "loss", "Loss of the heads"),
    ("temperature", plain, "weight of the entropy", "Temperature (SAC alone)"),
)


def update_to_data(study: Study) -> str:
    """A sentence on each agent's gradient steps per transition; "" where no agent has a replay."""
    last_points = {point.agent: point for trial in study.trials for point in trial.curve if point.agent}
    ratios = [
        f"{agent.upper()} {number(point.figures['update_to_data'], 4)} (after {point.steps:,} steps)"
        for agent, point in last_points.items()
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


SCORES_HEAD = ("", "head", "base rate", "head less base rate")
BASIS_POINTS = 10_000.0  # basis points


def direction_words(scores: HeadScores) -> str:
    """Whether the direction head knows more than the base rate, in a sentence; "" without one."""
    if scores.direction is None:
        return ""
    gap = scores.direction.over_log_loss
    if gap.high < 0.0:
        return "The direction head knows more than the base rate."
    if gap.low > 0.0:
        return "The direction head knows less than the base rate: who names the base rate is nearer."
    return "That the direction head knows more than the base rate is not shown."


def score_rows(scores: HeadScores) -> list[Row]:
    """A row for each score: of the head, of the base rate, and their difference; small figures are intervals."""
    direction, risk = scores.direction, scores.risk
    return [*(_direction(direction) if direction else ()), *(_risk(risk) if risk else ())]


def scored(scores: HeadScores) -> str:
    """A sentence for each head on the scored rows."""
    texts = []
    if scores.direction is not None:
        score = scores.direction
        texts.append(
            f"direction: {score.rows:,} bars of {score.sessions} sessions, {share(score.came)} of them rose; base rate "
            f"{share(score.base_rate)}, from the training sessions"
        )
    if scores.risk is not None:
        two = scores.risk
        came, expected, base = (number(value * BASIS_POINTS, 1) for value in (two.came, two.expected, two.base))
        texts.append(f"risk: a mean fall of {came} basis points came, {expected} expected; base {base}")
    return "; ".join(texts)


def _direction(scores: DirectionScores) -> tuple[Row, Row]:
    return (
        ("direction, log loss in nats", *map(_cell, (scores.log_loss, scores.base_log_loss, scores.over_log_loss))),
        ("direction, Brier score", *map(_cell, (scores.brier, scores.base_brier, scores.over_brier))),
    )


def _risk(scores: RiskScores) -> tuple[Row]:
    errors = (scores.error, scores.base_error, scores.over_error)
    return (("risk, error in basis points", *(_cell(error, BASIS_POINTS, 2) for error in errors)),)


def _cell(interval: Interval, times: float = 1.0, digits: int = 4) -> str:
    estimate, low, high = (number(value * times, digits) for value in (interval.estimate, interval.low, interval.high))
    return f"{estimate}\n{low} to {high}"
