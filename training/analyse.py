"""`train-and-export analyse`: does a strategy see the future (lookahead), or more of the past than it says (warmup)?

The strategy runs over a file, then over the same file changed where it must not look; all bytes and decisions must be
the same. The desk is scripted by the clock, so a difference is the strategy's own. Nothing is written.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from daemon.core.events import BarClosed, SessionScheduled
from daemon.shell.calendar import CalendarError, SessionCalendar
from daemon.shell.tape import TapeSource, scan
from daemon.shell.tape_file import TapeError
from strategies import registry
from strategies.contract import Answer, Bar, Observation, Session, Spec, Strategy, View
from strategies.features import feature_table
from strategies.golden import contract_hash, golden_bars
from strategies.manifest import MANIFEST_FILE, POLICY_FILE, decode

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

CLEAN, CHANGES, USAGE_ERROR = 0, 1, 2
MULTIPLES = (1, 2, 4)  # of spec.history_bars, compared with all the history there is
MINUTE_NS = 60_000_000_000
TABLES: dict[str, Callable[..., Any]] = {"option_scalper": feature_table}
"""Registered strategies that are trained on a table of features, made from the whole history at once."""
BUNDLED = "spy_synthetic_30.csv.gz"


class AnalyseError(Exception):
    """The analysis cannot be made: the operator's trouble (exit code 2). The text names the thing and the cure."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The bars that closed together, oldest first in a tape; `index` counts from the session's first."""

    end_ns: int
    session: Session
    index: int
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Subject:
    """The strategy to analyse. `make` gets all bars of the file, for strategies that prepare something at start.

    `table` is how training sees the features, called like `strategies.features.feature_table`; None where it has none.
    """

    name: str
    make: Callable[[tuple[Bar, ...]], Strategy]
    table: Callable[..., Any] | None
    takes_bars: bool = False


class Change(msgspec.Struct, frozen=True):
    """One feature that differs in one kind of run."""

    feature: str
    run: str  # what was changed: cut, wild, table cut, 1x, table 2x, …
    first_bar: str  # start of the earliest bar whose observation differs, UTC
    bars: int  # observations (rows of the table) that differ
    largest: float  # absolute difference; infinite where one side has no observation
    relative: float  # largest |a - b| / max(|a|, |b|)


class Report(msgspec.Struct, frozen=True):
    """What an analysis found. `compared` counts observations and rows of the table, over all runs."""

    analysis: str  # lookahead or warmup
    strategy: str
    samples: int  # bars, or sessions
    compared: int
    decisions: int  # compared
    decisions_changed: int
    first_decision: str  # the earliest bar whose decision changed, "" for none
    changes: tuple[Change, ...]

    @property
    def clean(self) -> bool:
        """Nothing changes."""
        return not self.changes and not self.decisions_changed


# --- the strategy and its policy ----------------------------------------------------------------------------------


def subject_named(name: str) -> Subject:
    """A strategy by its registry name, `package.module:Class` or `path/to/file.py:Class`.

    What is named is called without arguments, or with `bars=` all bars of the file where it takes that. A function
    `feature_table` beside it is how training sees its features. Raises AnalyseError.
    """
    origin, colon, attribute = name.rpartition(":")
    if not colon:
        try:
            registry.strategy(name)
        except ValueError as error:
            raise AnalyseError(f"--{error} (or package.module:Class, or path/to/file.py:Class)") from None
        return Subject(name, lambda _: registry.strategy(name), TABLES.get(name))
    module = _module(origin)
    maker = getattr(module, attribute, None)
    if not callable(maker):
        raise AnalyseError(f"--strategy {name}: {origin} has no class or function {attribute!r}: correct the name")
    takes_bars = "bars" in inspect.signature(maker).parameters
    make = (lambda bars: maker(bars=bars)) if takes_bars else (lambda _: maker())
    table = getattr(module, "feature_table", None)
    return Subject(attribute, make, table if callable(table) else None, takes_bars)


def _module(origin: str) -> Any:
    path = Path(origin)
    try:
        if path.suffix != ".py":
            sys.path.append(str(Path.cwd()))  # a console script's path lacks it
            return importlib.import_module(origin)
        spec = importlib.util.spec_from_file_location(f"analysed_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where its structs look up their types
        spec.loader.exec_module(module)
    except (ImportError, OSError, SyntaxError) as error:
        raise AnalyseError(f"--strategy: {origin} cannot be imported ({type(error).__name__}: {error})") from error
    return module


def _made(subject: Subject, bars: tuple[Bar, ...]) -> Strategy:
    strategy = subject.make(bars)
    lacking = [name for name in ("spec", "state_type", "start", "observe", "decide") if not hasattr(strategy, name)]
    if lacking or not isinstance(strategy.spec, Spec):
        raise AnalyseError(
            f"--strategy {subject.name} is no strategy: {', '.join(lacking) or 'a spec of type Spec'} is missing: "
            "see strategies/contract.py"
        )
    return strategy


@dataclass(slots=True)
class Policy:
    """Logits for observations; each distinct observation is computed once, so equal bytes have equal logits."""

    name: str
    batch: Callable[[Float32Array], npt.NDArray[Any]]  # float32 (n, *shape) to logits (n, actions)
    _known: dict[bytes, tuple[float, ...]] = field(default_factory=dict)

    def prime(self, observations: Sequence[Observation]) -> None:
        """Compute what is not known yet, in one batch."""
        fresh = {key: o for o in observations if (key := _digest(o)) not in self._known}
        if fresh:
            logits = self.batch(np.stack([observation.array() for observation in fresh.values()]))
            self._known.update(zip(fresh, map(tuple, logits.tolist()), strict=True))

    def answer(self, observation: Observation) -> Answer:
        """The policy's answer to one observation."""
        key = _digest(observation)
        if key not in self._known:
            self.prime([observation])
        return Answer(self._known[key])


def _digest(observation: Observation) -> bytes:
    return hashlib.blake2b(observation.data, digest_size=16).digest()


def linear_policy(spec: Spec, observations: Sequence[Observation], seed: int) -> Policy:
    """A random linear policy over standardised observations: it has learned nothing, but decides something else often.

    Mean and deviation of each value are those of `observations` and stay fixed.
    """
    values = np.stack([observation.array() for observation in observations]).reshape(len(observations), -1)
    mean, deviation = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    weights = np.random.default_rng(seed).normal(size=(values.shape[1], len(spec.actions)))
    weights *= (np.where(deviation > 0.0, 1.0 / np.maximum(deviation, 1e-12), 0.0) / math.sqrt(values.shape[1]))[
        :, None
    ]

    def batch(some: Float32Array) -> Float64Array:
        logits: Float64Array = (some.reshape(len(some), -1).astype(np.float64) - mean) @ weights
        return logits

    return Policy("a random linear policy (no model)", batch)


def model_policy(model: str, models: Path, spec: Spec, contract: str) -> Policy | None:
    """The policy of an ONNX file, of a version's folder, or of a version in the store; "" is the store's current one.

    `contract` is the strategy's contract hash, "" for a strategy that has none. None where no model was asked for and
    the store has none that fits. Raises AnalyseError for one that was asked for and cannot be used.
    """
    shelf = models / spec.name
    current = shelf / "current"
    if not model and not current.is_file():
        return None
    given = Path(model) if model else shelf / current.read_text(encoding="utf-8").strip()
    found = [path for path in (given, given / POLICY_FILE, shelf / given / POLICY_FILE) if path.is_file()]
    if not found:
        raise AnalyseError(f"--model {given}: no such file, folder or version of {spec.name} in {models}")
    path = found[0]
    problem = _misfit(path, spec, contract)
    if problem and model:
        raise AnalyseError(f"--model {model}: {problem}: choose a model that was exported for this strategy")
    if problem:
        return None
    from training.export import run_onnx  # torch comes with it

    return Policy(f"{path.parent.name}/{path.name}", lambda observations: run_onnx(path, observations))


def _misfit(path: Path, spec: Spec, contract: str) -> str:
    """Why this model cannot answer for the strategy; "" when it can."""
    import onnx

    if spec.recurrent_shape is not None:
        return "the strategy is recurrent, which is not analysed with a model"
    manifest = path.with_name(MANIFEST_FILE)
    if contract and manifest.is_file():
        try:
            held = decode(manifest.read_bytes()).contract_hash
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            return f"{manifest} cannot be read ({error})"
        if held != contract:
            return f"its contract hash is {held[:12]}…, the strategy's {contract[:12]}…"
    try:
        onnx.checker.check_model(str(path))
    except (OSError, onnx.checker.ValidationError) as error:
        return f"it is no ONNX file ({type(error).__name__})"
    graph = onnx.load(path).graph
    shapes = {
        item.name: [d.dim_value for d in item.type.tensor_type.shape.dim][1:] for item in (*graph.input, *graph.output)
    }
    wanted = {"observation": list(spec.observation_shape), "logits": [len(spec.actions)]}
    return "" if shapes == wanted else f"it has {shapes}, expected {wanted}"


# --- running ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """What a run gave at one moment."""

    observation: Observation | None
    decision: tuple[object, ...] | None  # the action, what it resolved to, and the target


def moments_of(path: Path, spec: Spec) -> tuple[Moment, ...]:
    """The file's regular-session bars of the strategy's symbols, as the daemon would be told of them."""
    info = scan(path, spec.symbols, spec.bar_interval_s)
    source = TapeSource(path, info, SessionCalendar.load(info.first_date, info.last_date))
    found: list[Moment] = []
    session: Session | None = None
    for event in source:
        if isinstance(event, SessionScheduled):
            session = event.session
        elif isinstance(event, BarClosed):
            assert session is not None  # SessionScheduled precedes every bar
            last = found[-1] if found else None
            if last is not None and last.end_ns == event.time_ns:
                found[-1] = Moment(last.end_ns, last.session, last.index, (*last.bars, event.bar))
            else:
                index = last.index + 1 if last is not None and last.session.date == session.date else 0
                found.append(Moment(event.time_ns, session, index, (event.bar,)))
    return tuple(found)


def scripted_view(moment: Moment) -> View:
    """The desk at a moment, by the clock alone: 40 bars flat, 40 long calls, 40 long puts, and so on."""
    since = moment.index % 40
    side = (0, +1, -1)[moment.index // 40 % 3]
    if side == 0:
        return View(moment.end_ns, moment.session)
    return View(moment.end_ns, moment.session, side, (since - 10) / 20, float(since))


def observed(strategy: Strategy, moments: Sequence[Moment]) -> list[Observation]:
    """All observations of a run in which the policy is never asked."""
    state, found = strategy.start(), []
    for moment in moments:
        state, observation = strategy.observe(state, moment.bars, scripted_view(moment))
        if observation is not None:
            found.append(observation)
    return found


def played(subject: Subject, moments: Sequence[Moment], bars: tuple[Bar, ...], policy: Policy) -> list[Step]:
    """A run with the policy over `moments`, of a strategy made with `bars`; one step for each moment."""
    policy.prime(observed(_made(subject, bars), moments))
    strategy = _made(subject, bars)
    state, steps = strategy.start(), []
    for moment in moments:
        view = scripted_view(moment)
        state, observation = strategy.observe(state, moment.bars, view)
        told: tuple[object, ...] | None = None
        if observation is not None:
            state, decision = strategy.decide(state, policy.answer(observation), view)
            told = (decision.choice.action, decision.resolved, decision.target)
        steps.append(Step(observation, told))
    return steps


def _bars(moments: Sequence[Moment]) -> tuple[Bar, ...]:
    return tuple(bar for moment in moments for bar in moment.bars)


def _wild(moments: Sequence[Moment]) -> tuple[Moment, ...]:
    """Every price and volume two or three times as large, in turns: still bars, but nobody's continuation."""
    found = []
    for place, moment in enumerate(moments):
        bars = tuple(_times(bar, 2.0 + place % 2) for bar in moment.bars)
        found.append(Moment(moment.end_ns, moment.session, moment.index, bars))
    return tuple(found)


def _times(bar: Bar, factor: float) -> Bar:
    prices = (factor * value for value in (bar.open, bar.high, bar.low, bar.close, bar.volume))
    return Bar(bar.symbol, bar.start_ns, *prices)


# --- training's table ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rows:
    """Training's table over some bars: the bars' starts, the features, and which rows mean something."""

    start_ns: list[int]
    values: Float64Array  # (n, features)
    warm: npt.NDArray[np.bool_]  # (n,)


def tabled(subject: Subject, moments: Sequence[Moment]) -> _Rows:
    """The table as training makes it from these bars alone. Raises AnalyseError when it has another shape."""
    assert subject.table is not None
    bars = _bars(moments)
    firsts = [
        place for place, moment in enumerate(moments) if not place or moment.session != moments[place - 1].session
    ]
    columns = np.array([(b.open, b.high, b.low, b.close, b.volume) for b in bars], dtype=np.float64).T
    made = subject.table(
        *columns,
        session_starts=firsts,
        session_minutes=[(moments[i].session.close_ns - moments[i].session.open_ns) // MINUTE_NS for i in firsts],
        elapsed_minutes=[(moment.end_ns - moment.session.open_ns) / MINUTE_NS for moment in moments],
    )
    values = np.asarray(getattr(made, "values", made), dtype=np.float64)
    if values.ndim != 2 or len(values) != len(bars):
        raise AnalyseError(
            f"feature_table of {subject.name} has shape {values.shape} for {len(bars)} bars: expected a row for each"
        )
    warm = np.asarray(getattr(made, "warm", np.ones(len(bars))), dtype=np.bool_)
    return _Rows([bar.start_ns for bar in bars], values, warm)


# --- comparing ----------------------------------------------------------------------------------------------------


class _Findings:
    """Differences as they are found, by feature and run."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._bars: dict[tuple[str, str], set[int]] = {}
        self._largest: dict[tuple[str, str], tuple[float, float]] = {}
        self._decided: set[int] = set()
        self.compared = 0
        self.decisions = 0

    def steps(self, run: str, moments: Sequence[Moment], expected: Sequence[Step], found: Sequence[Step]) -> None:
        """Observations and decisions of two runs over moments of the same bars."""
        for moment, left, right in zip(moments, expected, found, strict=True):
            start_ns = moment.bars[-1].start_ns
            self.compared += left.observation is not None
            self.decisions += left.decision is not None
            if left.decision != right.decision:
                self._decided.add(start_ns)
            if left.observation is None or right.observation is None:
                if left.observation is not right.observation:
                    self._note("(no observation)", run, start_ns, math.inf, math.inf)
            elif left.observation.data != right.observation.data:
                self._observations(run, start_ns, left.observation.array(), right.observation.array())

    def rows(self, run: str, expected: _Rows, found: _Rows) -> None:
        """Rows of two tables over the same bars."""
        self.compared += int(np.count_nonzero(expected.warm))
        for row in np.nonzero(expected.warm != found.warm)[0].tolist():
            self._note("(no row)", run, expected.start_ns[row], math.inf, math.inf)
        left, right = expected.values, found.values
        names = (*self._spec.features, *(f"column {place}" for place in range(left.shape[1])))[: left.shape[1]]
        unequal = ((left != right) & ~(np.isnan(left) & np.isnan(right))).any(axis=1) & expected.warm & found.warm
        for row in np.nonzero(unequal)[0].tolist():
            self._values(run, expected.start_ns[row], names, left[row : row + 1], right[row : row + 1])

    def _observations(self, run: str, start_ns: int, left: Float32Array, right: Float32Array) -> None:
        """The features are the last axis of an observation, or all its values in C order, or have no names."""
        names: Sequence[str] = self._spec.features
        if left.shape[-1] != len(names):
            names = names if left.size == len(names) else [f"value {place}" for place in range(left.size)]
        shape = (-1, len(names))
        self._values(run, start_ns, names, left.reshape(shape), right.reshape(shape))

    def _values(
        self, run: str, start_ns: int, names: Sequence[str], left: npt.NDArray[Any], right: npt.NDArray[Any]
    ) -> None:
        """`left` and `right` (rows, names)."""
        a, b = left.astype(np.float64), right.astype(np.float64)
        absolute = np.where(a == b, 0.0, np.abs(a - b))
        absolute = np.where(np.isnan(a) & np.isnan(b), 0.0, np.where(np.isnan(absolute), math.inf, absolute))
        size = np.maximum(np.abs(a), np.abs(b))
        relative = np.divide(absolute, size, out=np.zeros_like(absolute), where=(absolute > 0.0) & np.isfinite(size))
        for column in np.nonzero(absolute.max(axis=0))[0].tolist():
            largest, share = float(absolute[:, column].max()), float(relative[:, column].max())
            self._note(names[column], run, start_ns, largest, share)

    def _note(self, feature: str, run: str, start_ns: int, largest: float, relative: float) -> None:
        key = (feature, run)
        self._bars.setdefault(key, set()).add(start_ns)
        before = self._largest.get(key, (0.0, 0.0))
        self._largest[key] = (max(before[0], largest), max(before[1], relative))

    def report(self, analysis: str, strategy: str, samples: int) -> Report:
        """All that was found, features in the spec's order."""
        order = {name: place for place, name in enumerate(self._spec.features)}
        keys = sorted(self._bars, key=lambda key: (order.get(key[0], -1), key[0]))
        return Report(
            analysis=analysis,
            strategy=strategy,
            samples=samples,
            compared=self.compared,
            decisions=self.decisions,
            decisions_changed=len(self._decided),
            first_decision=_utc(min(self._decided)) if self._decided else "",
            changes=tuple(
                Change(
                    name, run, _utc(min(self._bars[name, run])), len(self._bars[name, run]), *self._largest[name, run]
                )
                for name, run in keys
            ),
        )


def lookahead(subject: Subject, moments: tuple[Moment, ...], policy: Policy, samples: int, seed: int) -> Report:
    """Run over the whole file, then with the future cut off, and made wild, after each of `samples` seeded bars.

    All bars up to the sampled one are compared. Raises AnalyseError when the strategy is never warm.
    """
    bars = _bars(moments)
    whole = played(subject, moments, bars, policy)
    spec = _made(subject, bars).spec
    findings = _Findings(spec)
    table = tabled(subject, moments) if subject.table is not None and len(spec.symbols) == 1 else None
    warm = [place for place, step in enumerate(whole) if step.observation is not None and place + 1 < len(moments)]
    if not warm:
        raise AnalyseError(f"{subject.name} has no observation on {len(moments)} bars: give a longer file with --bars")
    chosen = np.random.default_rng(seed).choice(warm, size=min(samples, len(warm)), replace=False)
    for cut in sorted(place + 1 for place in chosen.tolist()):
        past = moments[:cut]
        for run, future in (("cut", ()), ("wild", _wild(moments[cut:]))):
            if subject.takes_bars or not future:  # a strategy that is made without bars gets no future in either run
                findings.steps(run, past, whole[:cut], played(subject, past, _bars(past + future), policy))
            if table is not None:
                found = tabled(subject, past + future)
                findings.rows(f"table {run}", _part(table, 0, cut), _part(found, 0, cut))
    return findings.report("lookahead", subject.name, len(chosen))


def warmup(subject: Subject, moments: tuple[Moment, ...], policy: Policy, samples: int, seed: int) -> Report:
    """Run `samples` seeded sessions with 1, 2 and 4 times the spec's history before them, and with all there is.

    Raises AnalyseError when no session has more than the spec's history before it.
    """
    bars = _bars(moments)
    spec = _made(subject, bars).spec
    findings = _Findings(spec)
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
        expected = played(subject, everything, _bars(everything), policy)[first:]
        table = tabled(subject, everything) if subject.table is not None and len(spec.symbols) == 1 else None
        for multiple in MULTIPLES:
            begin = max(first - multiple * history, 0)
            some = moments[begin:end]
            found = played(subject, some, _bars(some), policy)[first - begin :]
            findings.steps(f"{multiple}x", session, expected, found)
            if table is not None:
                rows = _part(tabled(subject, some), first - begin, end - begin)
                findings.rows(f"table {multiple}x", _part(table, first, end), rows)
    return findings.report("warmup", subject.name, len(picked))


def _part(rows: _Rows, first: int, end: int) -> _Rows:
    return _Rows(rows.start_ns[first:end], rows.values[first:end], rows.warm[first:end])


def _utc(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).isoformat().replace("+00:00", "Z")


# --- the command --------------------------------------------------------------------------------------------------

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


def told(report: Report) -> str:
    """The report as a table and a sentence for a person."""
    kind = "bars" if report.analysis == "lookahead" else "sessions"
    counts = f"{report.compared:,} observations and rows of tables, {report.decisions:,} decisions compared"
    lines = [f"{report.analysis} of {report.strategy}: {report.samples} {kind} sampled, {counts}"]
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
    parser.add_argument("--bars", type=Path, help="CSV, CSV.gz or Parquet file (the bundled made-up tape of SPY)")
    parser.add_argument("--model", default="", help="version, its folder, or an ONNX file (the store's current one)")
    parser.add_argument("--models", type=Path, default=Path("onnx_models"), help="model store (%(default)s)")
    parser.add_argument("--samples", type=int, default=20, help="bars, or sessions, to look at (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which of them, and of the stand-in policy (%(default)s)")


def run(chosen: argparse.Namespace) -> int:
    """Run the parsed command; returns 0 when nothing changes, 1 when something does, 2 when it cannot be said."""
    if chosen.samples < 1 or chosen.seed < 0:
        sys.stderr.write(
            f"analyse: --samples is {chosen.samples}, --seed {chosen.seed}: expected at least 1 and at least 0\n"
        )
        return USAGE_ERROR
    try:
        subject = subject_named(chosen.strategy)
        spec = _spec_of(subject)
        path = chosen.bars or Path(str(files("daemon.tapes").joinpath(BUNDLED)))
        moments = moments_of(path, spec)
        policy = _policy(chosen, subject, spec, moments)
        sys.stderr.write(f"analyse: {path.name}, {len(moments):,} bars; decisions by {policy.name}\n")
        report = ANALYSES[chosen.analysis](subject, moments, policy, chosen.samples, chosen.seed)
    except (AnalyseError, TapeError, CalendarError) as error:
        sys.stderr.write(f"analyse: {error}\n")
        return USAGE_ERROR
    sys.stdout.write(f"{told(report)}\n")
    return CLEAN if report.clean else CHANGES


def _spec_of(subject: Subject) -> Spec:
    """The spec says which bars are read, so a strategy that wants bars at its start is made of the golden tape's."""
    return _made(subject, golden_bars()).spec


def _policy(chosen: argparse.Namespace, subject: Subject, spec: Spec, moments: Sequence[Moment]) -> Policy:
    contract = contract_hash(_made(subject, golden_bars())) if subject.name in registry.STRATEGIES else ""
    policy = model_policy(chosen.model, chosen.models, spec, contract)
    if policy is not None:
        return policy
    observations = observed(_made(subject, _bars(moments)), moments)
    if not observations:
        raise AnalyseError(f"{subject.name} has no observation on {len(moments)} bars: give a longer file with --bars")
    return linear_policy(spec, observations, chosen.seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """`train-and-export analyse …`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="train-and-export analyse", description=(__doc__ or "").partition("\n")[0])
    add_arguments(parser)
    return run(parser.parse_args(arguments))
