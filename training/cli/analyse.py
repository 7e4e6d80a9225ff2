"""`train-and-export analyse`: does a strategy see the future (lookahead) or more history than its spec states (warmup)?

The strategy runs over a file, then over a copy that differs only in bars that it must not use; all bytes and decisions
must be the same. Nothing is written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from daemon.host.time.calendar import CalendarError
from daemon.host.version import CommandLine
from daemon.tapes import bundled_tape
from daemon.tapes.files import TapeError
from daemon.tapes.span_options import add_span, chosen_bars
from rltrader import called
from strategies import registry
from strategies.golden import contract_hash, golden_bars
from strategies.kit.contract import Spec
from strategies.online_dqn.model_config import ModelConfigError
from strategies.online_dqn.state_vector import read_file
from training.analysis.differences import DifferenceLog, Report
from training.analysis.strategy_runs import (
    UNITS,
    Moment,
    bars_of,
    has_table,
    moments_of,
    observed,
    part_of,
    recent,
    run_with_policy,
    tabled,
    wild,
)
from training.analysis.subjects import (
    AnalyseError,
    CachedPolicy,
    Subject,
    linear_policy,
    model_policy,
    strategy_of,
    subject_named,
)
from training.cli.main import add_models_dir

CLEAN, CHANGES, USAGE_ERROR = 0, 1, 2
MULTIPLES = (1, 2, 4)  # of spec.history_bars, compared with all the history there is


def lookahead(subject: Subject, moments: tuple[Moment, ...], policy: CachedPolicy, samples: int, seed: int) -> Report:
    """Run over the whole file, then with the future cut off, and distorted, after each of `samples` seeded bars.

    All bars up to the sampled one are compared. Raises AnalyseError when the strategy is never warm.
    """
    bars = bars_of(moments)
    whole = run_with_policy(subject, moments, bars, policy)
    spec = strategy_of(subject, bars).spec
    findings = DifferenceLog(spec)
    table = tabled(subject, moments, spec) if has_table(subject, spec) else None
    warm = [place for place, step in enumerate(whole) if step.observation is not None and place + 1 < len(moments)]
    if not warm:
        raise AnalyseError(f"{subject.name} has no observation on {len(moments)} bars: give a longer file with --bars")
    chosen = np.random.default_rng(seed).choice(warm, size=min(samples, len(warm)), replace=False)
    for cut in sorted(place + 1 for place in chosen.tolist()):
        past = moments[:cut]
        for run, future in (("cut", ()), ("wild", wild(moments[cut:]))):
            if subject.takes_bars or not future:  # a strategy made without bars cannot have seen the future
                findings.steps(run, past, whole[:cut], run_with_policy(subject, past, bars_of(past + future), policy))
            if table is not None:
                rows = tabled(subject, past + future, spec)
                findings.rows(f"table {run}", part_of(table, 0, cut), part_of(rows, 0, cut))
    return findings.report("lookahead", subject.name, len(chosen))


def warmup(subject: Subject, moments: tuple[Moment, ...], policy: CachedPolicy, samples: int, seed: int) -> Report:
    """Run `samples` seeded sessions with 1, 2 and 4 times the spec's history before them, and with all there is.

    Of a daily strategy the history is the newest bars of each symbol, with those of the session itself.
    Raises AnalyseError when no session has more than the spec's history before it.
    """
    bars = bars_of(moments)
    spec = strategy_of(subject, bars).spec
    findings = DifferenceLog(spec)
    history = max(spec.history_bars, 1)
    firsts = [place for place, moment in enumerate(moments) if moment.index == 0]
    spans = [span for span in zip(firsts, [*firsts[1:], len(moments)], strict=True) if span[0] > history]
    if not spans:
        raise AnalyseError(
            f"no session has more than {history} bars before it in {len(moments)} bars, so the history of "
            f"{subject.name} cannot be varied: give a longer file with --bars"
        )
    picked = np.random.default_rng(seed).choice(len(spans), size=min(samples, len(spans)), replace=False)
    for first, end in (spans[place] for place in sorted(picked.tolist())):
        session, everything = moments[first:end], moments[:end]
        expected = run_with_policy(subject, everything, bars_of(everything), policy)[first:]
        table = tabled(subject, everything, spec) if has_table(subject, spec) else None
        for multiple in MULTIPLES:
            count = multiple * history
            some = recent(moments, first, end, count, spec)
            begin = len(some) - len(session)
            steps = run_with_policy(subject, some, bars_of(some), policy)[begin:]
            findings.steps(f"{multiple}x", session, expected, steps)
            if table is not None:
                rows = part_of(tabled(subject, some, spec), begin, len(some))
                findings.rows(f"table {multiple}x", part_of(table, first, end), rows)
    return findings.report("warmup", subject.name, len(picked))


ANALYSES = {"lookahead": lookahead, "warmup": warmup}
SENTENCES = {
    "lookahead": (
        "No observation and no decision depends on what comes after its bar.",
        "depend on bars that come later: what was learned or measured with them will not be seen live.",
    ),
    "warmup": (
        "No observation and no decision of a session depends on more history than the strategy asks for.",
        "depend on how much history there is, so live and training differ: raise spec.history_bars or anchor them.",
    ),
}


def report_text(report: Report) -> str:
    """Return the report as a table and a sentence."""
    counts = f"{report.compared:,} observations and rows of tables, {report.decisions:,} decisions compared"
    lines = [f"{report.analysis} of {report.strategy}: {report.samples} {report.sampled} sampled, {counts}"]
    clean, changed = SENTENCES[report.analysis]
    if report.clean:
        return "\n".join([*lines, clean])
    if report.changes:
        width = max(7, *(len(change.feature) for change in report.changes))
        lines.append(
            f"{'feature':{width}}  {'run':10}  {'first bar':20}  {'bars':>7}  {'largest':>10}  {'relative':>10}"
        )
    lines.extend(
        f"{c.feature:{width}}  {c.run:10}  {c.first_bar:20}  {c.bars:7,}  {c.largest:10.3g}  {c.relative:10.3g}"
        for c in report.changes
    )
    features = len({change.feature for change in report.changes})
    since = f" (the first at {report.first_decision})" if report.first_decision else ""
    lines.append(f"{features} features and {report.decisions_changed} decisions{since} {changed}")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("analysis", choices=tuple(ANALYSES), help="what to look for")
    parser.add_argument("--strategy", required=True, help="a registered name, package.module:Class, or file.py:Class")
    parser.add_argument("--bars", type=Path, help="CSV, CSV.gz or Parquet file, or a folder (the bundled made-up tape)")
    add_span(parser)
    file = "state vector, of a strategy that a file describes (the shipped one)"
    parser.add_argument("--model-config", type=Path, metavar="FILE", help=file)
    parser.add_argument("--model", default="", help="version, its folder, or an ONNX file (the store's current one)")
    add_models_dir(parser, "model store", "--models")
    parser.add_argument("--samples", type=int, default=20, help="bars, or sessions, to look at (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which of them, and of the stand-in policy (%(default)s)")


def run(chosen: argparse.Namespace) -> int:
    """Run the parsed command; returns 0 when nothing changes, 1 when something does, 2 when it cannot be decided."""
    if chosen.samples < 1 or chosen.seed < 0:
        sys.stderr.write(
            f"analyse: --samples is {chosen.samples}, --seed {chosen.seed}: expected at least 1 and at least 0\n"
        )
        return USAGE_ERROR
    try:
        config = read_file(chosen.model_config) if chosen.model_config else None
        subject = subject_named(chosen.strategy, config)
        spec = _spec_of(subject)
        path = chosen_bars(chosen, chosen.bars, spec) or bundled_tape(spec)
        moments = moments_of(path, spec)
        policy = _policy(chosen, subject, spec, moments)
        sys.stderr.write(f"analyse: {path.name}, {len(moments):,} {UNITS[spec.decides]}; decisions by {policy.name}\n")
        report = ANALYSES[chosen.analysis](subject, moments, policy, chosen.samples, chosen.seed)
    except (AnalyseError, ModelConfigError, TapeError, CalendarError) as error:
        sys.stderr.write(f"analyse: {error}\n")
        return USAGE_ERROR
    sys.stdout.write(f"{report_text(report)}\n")
    return CLEAN if report.clean else CHANGES


def _spec_of(subject: Subject) -> Spec:
    """Return the strategy's spec. A strategy that needs bars at its start gets those of the golden tape."""
    return strategy_of(subject, golden_bars()).spec


def _policy(chosen: argparse.Namespace, subject: Subject, spec: Spec, moments: Sequence[Moment]) -> CachedPolicy:
    contract = contract_hash(strategy_of(subject, golden_bars())) if registry.is_known(subject.name) else ""
    policy = model_policy(chosen.model, chosen.models_dir, spec, contract)
    if policy is not None:
        return policy
    observations = observed(strategy_of(subject, bars_of(moments)), moments)
    if not observations:
        raise AnalyseError(f"{subject.name} has no observation on {len(moments)} bars: give a longer file with --bars")
    return linear_policy(spec, observations, chosen.seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """`train-and-export analyse …`; returns the exit code."""
    parser = CommandLine(prog=f"{called('train-and-export')} analyse", description=(__doc__ or "").partition("\n")[0])
    add_arguments(parser)
    return run(parser.parse_args(arguments))
