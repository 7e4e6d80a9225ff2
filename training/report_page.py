"""The report as one HTML page that needs nothing else: no script, no font, no picture from elsewhere.

Words and layout only: every figure comes from the findings, every curve from the study. What is missing is said.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from itertools import accumulate, groupby
from pathlib import Path
from statistics import median
from string import Template

from training import plots
from training.plots import NARROW, WIDE
from training.promotion import Findings, Line, told_apart
from training.statistics import FEWEST, Interval
from training.study import Played, Point, Study
from training.wording import UNKNOWN, counted, number, percent, share

FRAME = Path(__file__).with_name("report_page.html")
EARLIER = (
    "the ratios of earlier trials are of other spans, often shorter ones, whose ratios scatter more, so SR₀ is rather "
    "too high than too low"
)
ELSEWHERE = "among how many trials the policy was chosen elsewhere is not known, so the true one is lower"
PLAYER_STYLES = {"always flat": "flat", "buy and hold": "hold", "random": "random", "simple rule": "rule"}
Row = Sequence[str]


def page(study: Study, findings: Findings) -> str:
    """The whole document. Same study and findings, same text."""
    sections = (
        ("result", "Result beside the baselines", _result(findings)),
        ("promotion", "Fit for real money?", _criteria(findings)),
        ("equity", "Equity over the test sessions", _equity(study, findings)),
        ("folds", "Fold by fold", _folds(findings)),
        ("seeds", "Seeds", _seeds(findings)),
        ("reward", "Which reward trains better?", _rewards(findings)),
        ("luck", "How much is luck and selection?", _luck(findings)),
        ("costs", "Higher costs, later orders", _scenarios(findings)),
        ("confidence", "Is the confidence worth anything?", _confidence(findings)),
        ("learning", "How training went", _learning(study)),
        ("gates", "Entries that gates denied", _gates(findings)),
        ("made", "How it was made", _made(study, findings)),
    )
    titles = [*((key, title) for key, title, _ in sections), ("words", "What the words mean"), ("limits", "Limits")]
    passed = bool(findings.criteria) and all(judged.passes for judged in findings.criteria)
    text = Template(FRAME.read_text(encoding="utf-8")).substitute(
        title=escape(f"{study.strategy}, {study.network}, {findings.first_session} to {findings.last_session}"),
        mark="good" if passed else "bad",
        verdict=escape(findings.verdict),
        abstract=_paragraph(" ".join(findings.abstract)),
        contents=" ".join(f'<a href="#{key}">{escape(title)}</a>' for key, title in titles),
        sections="".join(f'<section id="{key}"><h2>{title}</h2>{body}</section>' for key, title, body in sections),
    )
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def _result(f: Findings) -> str:
    lines = (f.policy, *f.baselines)
    rows: list[Row] = [
        ("net return, sum", *(_with_interval(line.net_return) for line in lines)),
        ("in USD", *(number(line.figures.net_return * f.capital_usd, 0) for line in lines)),
        ("a session", *(percent(line.figures.mean, 3) for line in lines)),
        ("Sharpe ratio, annual", *(_sharpe(line) for line in lines)),
        (
            "Sortino ratio, annual",
            *(_ratio(line, line.figures.sortino_annual, line.figures.worst_session < 0.0) for line in lines),
        ),
        ("Calmar ratio", *(_ratio(line, line.figures.calmar, line.figures.max_drawdown > 0.0) for line in lines)),
        ("largest drawdown", *(share(line.figures.max_drawdown) for line in lines)),
        ("worst session", *(percent(line.figures.worst_session) for line in lines)),
        ("sessions that earned", *(_of(line, line.figures.hit_rate_sessions) for line in lines)),
        ("trades that earned", *(_of(line, line.figures.hit_rate_trades) for line in lines)),
        ("trades", *(f"{line.figures.trades:,}" for line in lines)),
        ("turnover a session", *(number(line.figures.turnover) for line in lines)),
        ("time in the market", *(share(line.figures.exposure) for line in lines)),
        ("fees, USD", *(number(line.figures.fees_usd, 0) for line in lines)),
    ]
    spans = [
        plots.Span(line.name, line.figures.net_return, line.net_return.low, line.net_return.high, _style(line.name))
        for line in lines
    ]
    figure = _figure(
        plots.intervals(spans, plots.percent, "net return, sum of sessions", "Net return with 95 % interval"),
        "Net return with its 95 % interval (stationary bootstrap). Players lived through the same "
        "sessions, so whether they can be told apart is in the differences session by session, not in these bars.",
    )
    ahead = "".join(
        f"<li>over {escape(name)}: {_with_interval(gap, 3)} a session ({_apart(gap, f.policy.figures.sessions)})</li>"
        for name, gap in f.over_baselines.items()
    )
    described = "".join(
        f"<li><b>{escape(line.name)}</b>: {escape(line.description)}</li>" for line in f.baselines if line.description
    )
    cautions = dict.fromkeys((*f.policy.figures.notes, f.policy.net_return.note))
    notes = "".join(f"<li>{escape(note)}</li>" for note in cautions if note)
    missing = "" if f.baselines else _paragraph("No baseline was played, so there is nothing to compare with.")
    return (
        _table(("", *(line.name for line in lines)), rows, "numbers first")
        + missing
        + f'<div class="figures">{figure}<div class="words">'
        + (f"<h3>The policy against each, session by session</h3><ul>{ahead}</ul>" if ahead else "")
        + (f"<h3>Who they are</h3><ul>{described}</ul>" if described else "")
        + (f"<h3>Read with care</h3><ul>{notes}</ul>" if notes else "")
        + "</div></div>"
        + _paragraph(
            "All figures are after spread and fees. The spread is in the prices, so only fees have a line. " + _who(f)
        )
    )


def _who(f: Findings) -> str:
    if f.imported:
        return "The policy was trained elsewhere; nothing was chosen here."
    if len(f.folds) == 1:
        return "The policy is the seed with the best validation return; its test sessions chose nothing."
    last = counted(f.folds[-1].test[2], "test session")
    return (
        "The policy is, in each fold, the seed with the best validation return; its test sessions chose nothing. So "
        f"these figures are those of the procedure. What it ships is the last fold's policy, which only the {last} of "
        f"that fold tested: {percent(f.folds[-1].net_return)}."
    )


def _criteria(f: Findings) -> str:
    rows = [
        (escape(judged.name), escape(judged.rule), escape(judged.found), "passes" if judged.passes else "<b>fails</b>")
        for judged in f.criteria
    ]
    failed = sum(not judged.passes for judged in f.criteria)
    said = (
        f"{failed} of {len(f.criteria)} criteria fail, so this policy may run dry or on paper only."
        if failed
        else "All criteria pass, so a person may promote this policy. It is still no promise."
    )
    return _paragraph(f"{said} A figure that is not known fails.") + _table(
        ("criterion", "rule", "found", ""), rows, "criteria"
    )


def _equity(study: Study, f: Findings) -> str:
    capital = study.capital_usd
    players = [("policy", [study.trials[index].test for index in study.chosen])]
    banded = bool(f.random_ranges)
    players += [(one.name, list(one.folds)) for one in study.baselines if not (banded and one.name == "random")]
    curves = [plots.Curve(name, _style(name), _running(played, capital)) for name, played in players]
    starts = list(accumulate((len(fold.test) for fold in study.folds), initial=0))
    band = None
    if banded:
        edges = [(0.0, 0.0, 0.0), *((float(at), *found) for at, found in zip(starts[1:], f.random_ranges, strict=True))]
        band = plots.Band("random", edges)
    folds = [(float(at), fold.test[0]) for at, fold in zip(starts, study.folds, strict=False)]
    shown = "".join(
        f'<div class="{kind}">{plots.equity(curves, band, folds, width)}</div>'
        for kind, width in (("on-wide", WIDE), ("on-narrow", NARROW))
    )
    text = "Running sum of net returns, every session on the same capital. A date is the first test session of a fold."
    if banded:
        text += " The grey band holds nine of ten random traders at each fold's end (straight lines between)."
    return f'<figure class="whole">{shown}<figcaption>{escape(text)}</figcaption></figure>'


def _folds(f: Findings) -> str:
    names = list(f.folds[0].baselines)
    spans, earned = [], []
    for index, fold in enumerate(f.folds, 1):
        dates = [f"{a} to {b} <small>({count})</small>" for a, b, count in (fold.train, fold.validate, fold.test)]
        if f.imported:
            dates[0] = "not known"
        spans.append((str(index), *dates, f"{fold.weekdays_left_out[0]} and {fold.weekdays_left_out[1]}"))
        earned.append(
            (
                str(index),
                f"{fold.seed} <small>at {plots.millions(fold.chosen_steps)}</small>",
                percent(fold.validate_return),
                f"<b>{percent(fold.net_return)}</b>",
                str(fold.trades),
                number(fold.random_p, 3),
                *(percent(fold.baselines[name]) for name in names),
            )
        )
    head = ("fold", "seed chosen", "validation", "test", "trades", "random p", *(escape(name) for name in names))
    text = "Net returns, summed over the fold's sessions. Random p is the share of random traders that did as well."
    if len(f.folds) == 1:
        text += " With one fold nothing says whether the result holds in another period."
    if f.detectable_fold is not None:
        text += f" One fold alone says little. {f.detectable_fold.words}".replace("%", " %")
    return (
        _table(("fold", "train", "validate", "test", "weekdays left out"), spans, "numbers folds")
        + _paragraph(
            "Number of sessions in brackets. The weekdays left out lie between train and validate, and between "
            "validate and test (purge and embargo; holidays count)."
        )
        + _table(head, earned, "numbers folds")
        + _paragraph(text)
    )


def _seeds(f: Findings) -> str:
    if f.imported:
        return _paragraph("One finished policy was imported: how much its seed decided is not known.")
    if f.seeds < 2:
        return _paragraph("Only one seed was trained: how much the seed decides is not known. Ten are advised.")
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
    dots = _figure(
        plots.strips(rows, "net return on the fold's test sessions", "Test return of every seed"),
        "One dot for each seed, the chosen one large. The bar is the interquartile mean over seeds and folds with its "
        "95 % interval over seeds.",
    )
    cloud = _figure(
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


def _rewards(f: Findings) -> str:
    if f.imported:
        return _paragraph("The policy was trained elsewhere, by a reward that is not known here.")
    rows = [
        (
            escape(line.reward),
            str(line.trials),
            _with_interval(line.net_return),
            share(line.profitable),
            number(line.trades_per_session),
            UNKNOWN if line.headline_better is None else _with_share(line.headline_better),
        )
        for line in f.rewards
    ]
    head = ("reward", "runs", "net return of a fold, IQM", "runs that earned", "trades a session", f"{f.reward} better")
    notes = dict.fromkeys(line.net_return.note for line in f.rewards if line.net_return.note)
    table = _table(tuple(escape(one) for one in head), rows, "numbers") + "".join(
        _paragraph(f"{note[:1].upper()}{note[1:]}.") for note in notes
    )
    if len(f.rewards) < 2:
        return table + _paragraph(f"Only {f.reward} was trained, so whether another reward does better is not known.")
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
    return table + _figure(
        plots.intervals(spans, plots.percent, "net return of a fold's test sessions, IQM", "Rewards compared"),
        "Interquartile mean over all seeds and folds, with the 95 % interval over seeds. Where the interval of the "
        "probability holds 50 %, the rewards cannot be told apart.",
    )


def _luck(f: Findings) -> str:
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
        ("deflated Sharpe ratio (DSR)", f"<b>{number(d.deflated, 3)}</b>{effective}"),
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
    notes = "".join(_paragraph(f"{name}: {note}.") for name, note in reasons if note)
    table = f'<div class="words">{_table(("", ""), rows, "pairs")}{notes}</div>'
    if not o.logits:
        return table
    words = ("falls into the worse half", "stays in the better half")
    return (
        f'<div class="figures">{table}'
        + _figure(
            plots.histogram(o.logits, 0.0, words, "logit of the best run's rank out of sample"),
            f"Half of the sessions pick the best of {o.trials} runs and the other half rank it, in all {o.splits:,} "
            "ways to halve 16 blocks. The share up to zero is the PBO; choosing among equals gives about one half.",
        )
        + "</div>"
    )


def _scenarios(f: Findings) -> str:
    if not f.scenarios:
        return _paragraph("Not tested: what higher costs or a later order leave of the result is not known.")
    lines = (f.policy, *f.scenarios)
    rows = [
        (
            escape(_scenario_name(line, f)),
            _with_interval(line.net_return),
            _sharpe(line),
            share(line.figures.max_drawdown),
            f"{line.figures.trades:,}",
            number(line.figures.fees_usd, 0),
        )
        for line in lines
    ]
    spans = [
        plots.Span(
            _scenario_name(line, f),
            line.figures.net_return,
            line.net_return.low,
            line.net_return.high,
            "policy" if line is f.policy else "rule",
        )
        for line in lines
    ]
    return _table(("", "net return", "Sharpe", "drawdown", "trades", "fees, USD"), rows, "numbers") + _figure(
        plots.intervals(spans, plots.percent, "net return, sum of sessions", "Sensitivity to costs and delay"),
        "The same policy once more under other conditions. An edge that one bar of delay removes is not one to count "
        "on.",
    )


def _confidence(f: Findings) -> str:
    c = f.calibration
    if not c.bins or c.brier is None:
        return _paragraph("The policy made no trade, so its confidence says nothing.")
    figure = _figure(
        plots.reliability(
            [(one.confidence, one.won, one.low, one.high) for one in c.bins],
            "confidence at entry, mean of the bin",
            "trades that earned",
        ),
        "Trades in bins of about equal count, with Wilson's 95 % intervals. On the dashed line trades earn as often as "
        "the confidence reads.",
    )
    won = sum(one.trades * one.won for one in c.bins) / c.trades
    words = _paragraph(
        f"{counted(c.trades, 'trade')}, of which {share(won)} earned. Brier score {number(c.brier, 3)} (always naming "
        f"that share would have {number(won * (1.0 - won), 3)}, a coin 0.250), calibration error "
        f"{share(c.expected_error)}."
    ) + _paragraph(c.note)
    return f'<div class="figures">{figure}<div class="words">{words}</div></div>'


def _learning(study: Study) -> str:
    curves = [trial.curve for trial in study.trials if trial.reward == study.reward and trial.curve]
    if not curves:
        return _paragraph("No learning curve was recorded.")
    shown = (
        ("validate_return", plots.percent, "net return, validation", "Validation return over training"),
        ("entropy", plots.plain, "entropy, nats", "Entropy over training"),
    )
    parts = []
    for field, show, label, name in shown:
        thin = [[(float(point.steps), float(getattr(point, field))) for point in curve] for curve in curves]
        middle = _median(curves, field)
        caption = f"{name}: {len(curves)} runs thin, their median thick." if len(curves) > 1 else f"{name}, one run."
        parts.append(_figure(plots.learning(thin, middle, show, label, name), caption))
    stopped = [trial for trial in study.trials if trial.stopped]
    said = "".join(
        f"<li>fold {one.fold + 1}, {escape(one.reward)}, seed {one.seed}: {escape(one.stopped)}</li>" for one in stopped
    )
    tail = f"<p>Runs that stopped early:</p><ul>{said}</ul>" if stopped else ""
    return (
        f'<div class="figures">{"".join(parts)}</div>'
        + _paragraph(
            "Each run's checkpoint is the one with the best validation return, so the peak of a noisy curve is chosen: "
            "validation figures flatter. A median that does not rise has learned nothing that validation pays for."
        )
        + tail
    )


def _gates(f: Findings) -> str:
    if not f.denials:
        return _paragraph("No gate denied an entry on the test sessions.")
    rows = sorted(f.denials.items(), key=lambda item: (-item[1], item[0]))
    named = [(gate.replace("_", " "), count) for gate, count in rows]
    return _figure(
        plots.bars(named, "Denied entries by gate"), "Entries that the policy wanted and a gate denied, test sessions."
    )


def _made(study: Study, f: Findings) -> str:
    data = study.data
    seconds = sum(trial.seconds for trial in study.trials)
    facts = [
        ("strategy and network", f"{study.strategy}, {study.network}"),
        ("reward of the headline", "not known" if f.imported else study.reward),
        ("capital of every session", f"{study.capital_usd:,.0f} USD"),
        (
            "bars",
            f"{data.file}, feed {data.feed}, {'made up' if data.synthetic else 'recorded'}, {data.sessions} sessions",
        ),
        ("SHA-256 of the bars", data.file_sha256),
        ("SHA-256 of the policy", f.policy_sha256 or "not exported with this report"),
        ("code version", study.code_version),
        (
            "runs",
            "trained elsewhere" if f.imported else f"{len(study.trials)}, {seconds / 60:,.1f} minutes of training",
        ),
        *((name, value) for name, value in study.machine.items()),
    ]
    settings = {name: value for name, value in study.settings.items() if name != "command"}
    command = study.settings.get("command")
    again = (
        f"<p>To repeat:</p><pre>{escape(str(command))}</pre>"
        if command
        else _paragraph("The command was not recorded; the settings below repeat the study.")
    )
    fact_rows = [(escape(name), escape(value)) for name, value in facts]
    setting_rows = [
        (escape(name), escape(value if isinstance(value, str) else json.dumps(value)))
        for name, value in settings.items()
    ]
    return _table(("", ""), fact_rows, "pairs") + again + f"<h3>Settings</h3>{_table(('', ''), setting_rows, 'pairs')}"


def _running(played: Sequence[Played], capital_usd: float) -> list[plots.Point]:
    returns = (session.pnl_usd / capital_usd for one in played for session in one.sessions)
    return [(float(at), total) for at, total in enumerate(accumulate(returns, initial=0.0))]


def _median(curves: Sequence[Sequence[Point]], field: str) -> list[plots.Point]:
    """The median over the runs that reached each number of steps."""
    at: dict[int, list[float]] = {}
    for curve in curves:
        for point in curve:
            at.setdefault(point.steps, []).append(float(getattr(point, field)))
    return [(float(steps), median(values)) for steps, values in sorted(at.items())]


def _style(name: str) -> str:
    return "policy" if name == "policy" else PLAYER_STYLES.get(name, "other")


def _scenario_name(line: Line, f: Findings) -> str:
    return "as reported" if line is f.policy else line.name


def _of(line: Line, value: float) -> str:
    return share(value) if line.figures.trades else UNKNOWN


def _ratio(line: Line, value: float, has_loss: bool) -> str:
    return number(value) if has_loss and line.figures.deviation > 0.0 else UNKNOWN


def _sharpe(line: Line) -> str:
    found = line.sharpe_annual
    if line.figures.deviation <= 0.0:
        return UNKNOWN
    return f"{number(found.estimate)} <small>{number(found.low)} to {number(found.high)}</small>"


def _apart(gap: Interval, sessions: int) -> str:
    if sessions < FEWEST:
        return "too few sessions to tell"
    if not told_apart(gap, sessions):
        return "zero is inside: not told apart"
    return "above zero" if gap.low > 0.0 else "below zero"


def _with_interval(found: Interval, digits: int = 2) -> str:
    if found.low == found.high:
        return percent(found.estimate, digits)
    between = f"{percent(found.low, digits)} to {percent(found.high, digits)}"
    return f"{percent(found.estimate, digits)} <small>{between}</small>"


def _with_share(found: Interval) -> str:
    if found.low == found.high:
        return share(found.estimate)
    return f"{share(found.estimate)} <small>{share(found.low)} to {share(found.high)}</small>"


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _table(head: Row, rows: Sequence[Row], style: str) -> str:
    """A table in a frame that scrolls sideways on a phone. Cells are HTML already."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    shown = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    return f'<div class="table {style}"><table>{shown}<tbody>{body}</tbody></table></div>'
