"""A mutation sample: `make mutants` draws small changes of core, gates, reconcile and journal, and tries each.

Cosmic Ray makes a change (a comparison, a sign, a number, a condition, a loop that never runs); the tests that pass its
line run against it, the shortest first, until one fails. A change that no test sees has survived: its diff is printed,
and somebody has to look at it. The files are changed in a clone of the checkout's last commit, in the folder of
`--into`, where a stopped sample goes on. Run by a Python of its own that has Cosmic Ray (`requirements.txt`); the tests
run by `--python`, the project's.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from difflib import unified_diff
from functools import partial
from itertools import accumulate, count, islice
from pathlib import Path

import coverage
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[2]
AREAS = {
    "gates": ("daemon/core/risk", "daemon/core/desks/options.py", "daemon/core/desks/shares/desk.py"),
    "reconcile": ("daemon/core/broker",),
    "journal": ("daemon/journal",),
    "core": ("daemon/core",),
}
"""Where changes are drawn from, as many from each; a file belongs to the first that names it."""
TESTS = ("tests/core", "tests/strategies", "tests/journal", "tests/engine")
BINARY = {"Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_FloorDiv"}
COMPARED = {
    "Eq_NotEq", "NotEq_Eq", "Lt_LtE", "Lt_Gt", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_Lt", "GtE_Gt", "GtE_Lt", "Is_IsNot",
    "IsNot_Is",
}  # fmt: skip
PLAIN = {
    "ReplaceUnaryOperator_USub_UAdd", "ReplaceUnaryOperator_Delete_Not", "AddNot", "ReplaceTrueWithFalse",
    "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak", "NumberReplacer", "ZeroIterationForLoop",
}  # fmt: skip
"""Cosmic Ray's operators whose changes mean something; the others mostly raise TypeError at once."""
MOST_S = 60.0  # of tests for one change, traced
TESTS_FAILED = 1  # pytest's exit code; 2 to 5 say nothing of the change by themselves
NOT_IMPORTED = ("ERROR tests/", "ImportError while loading conftest")  # how lines begin where an import met the change
MARGIN_S, SLOWER = 60.0, 10.0  # of processor time: a change that makes tests run for longer is seen
IDLE = 20.0  # times as long by the clock: nobody waits longer, also on a busy machine


_TIMES = count(1_000_000_000)  # seconds, one for each version of a file


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change, by its place among all that its operator can make in the file."""

    area: str
    file: str
    operator: str
    occurrence: int
    line: int
    last: int
    at_import: bool  # outside of every function

    @property
    def name(self) -> str:
        return f"{self.file}:{self.line} {self.operator.removeprefix('core/')} {self.occurrence}"


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a change: `killed`, `survived`, `unreached` where no test passes its line, or `error`.

    An error is a run of pytest that ended otherwise (a test that it did not find, a crash): `by` says how, and the next
    run of the sample tries it again.
    """

    mutant: Mutant
    outcome: str
    tests: int
    seconds: float
    by: str
    diff: str


def main() -> None:
    """Print progress and survivors, and at the end one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--python", type=Path, default=ROOT / ".venv" / "bin" / "python")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    sys.stdout.write(json.dumps(_Sample(chosen).outcome()) + "\n")


class _Sample:
    """A sample in its folder: a clone for each process, the lines that each test passes, and what was tried."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        commit = _git(ROOT, "rev-parse", "HEAD")
        self._folder: Path = chosen.into.absolute() / f"{commit[:12]}-{chosen.seed}"
        self._python, self._seed, self._count = chosen.python.absolute(), chosen.seed, chosen.count
        self._trees = [self._folder / f"tree{number}" for number in range(chosen.processes)]
        self._kept = self._folder / "tried.jsonl"
        for tree in self._trees:
            shutil.rmtree(tree, ignore_errors=True)
            _git(ROOT, "clone", "--quiet", "--local", str(ROOT), str(tree))
            _git(tree, "checkout", "--quiet", commit)

    def outcome(self) -> dict[str, object]:
        """Try what is left of the sample; the figures of all of it."""
        self._passed = self._lines()
        mutants = self._drawn()
        tried = {trial.mutant: trial for trial in self._read() if trial.outcome != "error"}
        remaining = [mutant for mutant in mutants if mutant not in tried]
        _say(f"{len(mutants)} changes, {len(mutants) - len(remaining)} tried before; folder {self._folder}")
        with self._kept.open("a", encoding="utf-8") as journal, ThreadPoolExecutor(len(self._trees)) as pool:
            free = list(self._trees)
            for trial in pool.map(lambda mutant: self._in_a_tree(mutant, free), remaining):
                journal.write(json.dumps(asdict(trial)) + "\n")
                journal.flush()
                tried[trial.mutant] = trial
                if trial.outcome != "killed":
                    _say(f"{trial.outcome} ({trial.tests} tests): {trial.mutant.name} {trial.by}\n{trial.diff}")
        every = [tried[mutant] for mutant in mutants]
        areas = {}
        for area in AREAS:
            counts = Counter(trial.outcome for trial in every if trial.mutant.area == area)
            areas[area] = {**counts, "killed_share": round(counts["killed"] / max(counts.total(), 1), 3)}
        share = sum(trial.outcome == "killed" for trial in every) / max(len(every), 1)
        return {"bench": "mutants", "mutants": len(every), "killed_share": round(share, 3), "areas": areas}

    def _in_a_tree(self, mutant: Mutant, free: list[Path]) -> Tried:
        tree = free.pop()
        try:
            return self._try(mutant, tree)
        finally:
            free.append(tree)

    # --- what each test passes ----------------------------------------------------------------------------------------

    def _lines(self) -> coverage.CoverageData:
        """Run all tests once, traced."""
        lines = self._folder / "lines.coverage"
        if not (self._folder / "seconds.json").exists():
            _say(f"tracing {', '.join(TESTS)}")
            process = self._pytest(self._trees[0], "-p", "bench.mutants.tracing", *TESTS)
            if process.returncode != 0:
                sys.exit(f"the tests fail without any change:\n{process.stdout[-3000:]}")
        self._seconds: dict[str, float] = json.loads((self._folder / "seconds.json").read_text(encoding="utf-8"))
        coverage_data = coverage.CoverageData(str(lines))
        coverage_data.read()
        return coverage_data

    def _pytest(self, tree: Path, *arguments: str, limit_s: float = 0.0) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(tree), "MUTANTS_FOLDER": str(self._folder)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # half of a run is else spent on compiling the tests
        environment.setdefault("RLTRADER_DATA", str(ROOT.parent / "shared" / "data"))
        command = [str(self._python), "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
        return subprocess.run(
            [*command, *arguments],
            cwd=tree,
            env=environment,
            capture_output=True,
            text=True,
            timeout=IDLE * limit_s if limit_s else None,
            check=False,
            preexec_fn=partial(_limit, math.ceil(limit_s)) if limit_s else None,
        )

    # --- the sample ---------------------------------------------------------------------------------------------------

    def _drawn(self) -> list[Mutant]:
        """The same number of mutants of each area, drawn by the seed: lines first, then a mutant of each."""
        chance, tree = random.Random(self._seed), self._trees[0]
        places: dict[str, dict[tuple[str, int], list[Mutant]]] = {area: {} for area in AREAS}
        sources = {str(path.relative_to(tree)): path.read_text("utf-8") for path in (tree / "daemon").rglob("*.py")}
        for file, source in sorted(sources.items()):
            area = next((area for area, parts in AREAS.items() if file.startswith(parts)), None)
            for mutant in _mutants(area, file, source) if area is not None else ():
                places[mutant.area].setdefault((file, mutant.line), []).append(mutant)
        mutants: list[Mutant] = []
        for number, lines in enumerate(places.values()):
            mutants += islice(_one_of_each(lines, sources, chance), (self._count + number) // len(AREAS))
        return mutants

    def _read(self) -> Iterator[Tried]:
        if self._kept.exists():
            for line in self._kept.read_text(encoding="utf-8").splitlines():
                fields = json.loads(line)
                yield Tried(Mutant(**fields.pop("mutant")), **fields)

    # --- one change ---------------------------------------------------------------------------------------------------

    def _try(self, mutant: Mutant, tree: Path) -> Tried:
        path, began = tree / mutant.file, time.monotonic()
        source = path.read_text(encoding="utf-8")
        changed = _changed(mutant, source)
        diff = "".join(unified_diff(source.splitlines(True), changed.splitlines(True), n=1))
        tests = self._tests_of(mutant)
        if not tests:
            return Tried(mutant, "unreached", 0, 0.0, "", diff)
        test_list = tree / "tests_of_a_line.txt"
        test_list.write_text("\n".join(tests), encoding="utf-8")
        limit = MARGIN_S + SLOWER * sum(self._seconds[test] for test in tests)
        _write(path, changed)
        try:
            process = self._pytest(tree, f"@{test_list}", limit_s=limit)
            outcome, by = _judged(process.returncode, process.stdout)
        except subprocess.TimeoutExpired:
            outcome, by = "killed", f"waited for more than {IDLE * limit:.0f} s"
        finally:
            _write(path, source)
        return Tried(mutant, outcome, len(tests), round(time.monotonic() - began, 1), by, diff)

    def _tests_of(self, mutant: Mutant) -> list[str]:
        """The tests that pass the line, the shortest first, `MOST_S` together at most.

        For a line that runs at its import: all of the file's.
        """
        file = next((name for name in self._passed.measured_files() if name.endswith(f"/{mutant.file}")), None)
        if file is None:
            return []
        by_line = self._passed.contexts_by_lineno(file)
        tests = {test for line in range(mutant.line, mutant.last + 1) for test in by_line.get(line, ())}
        if mutant.at_import:
            tests = {test for tests in by_line.values() for test in tests}
        ordered = sorted(tests & self._seconds.keys(), key=lambda test: (self._seconds[test], test))
        until = list(accumulate(self._seconds[test] for test in ordered))
        return [test for test, spent in zip(ordered, until, strict=True) if spent <= MOST_S]


def _write(path: Path, text: str) -> None:
    """Write a file with a time that no version of it had before: Python knows compiled files by time and size."""
    path.write_text(text, encoding="utf-8")
    os.utime(path, (next(_TIMES),) * 2)


def _limit(seconds: int) -> None:
    """In the new process: end it after so much processor time."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


def _judged(code: int, output: str) -> tuple[str, str]:
    """The outcome of a run of pytest by its exit code, and the test that failed or what went wrong."""
    failure = next((line for line in output.splitlines() if line.startswith(("FAILED", *NOT_IMPORTED))), "")[:200]
    if code == 0:
        return "survived", ""
    if code == -signal.SIGXCPU:
        return "killed", "took ten times as much processor time"
    if code == TESTS_FAILED or failure:
        return "killed", failure
    return "error", f"pytest ended with {code}: {output[-200:]}"


def _mutants(area: str, file: str, source: str) -> Iterator[Mutant]:
    """All changes of a file but idle ones."""
    tree, idle, within = get_ast(source), _idle(source), _lines_of_functions(source)
    for name in operator_names():
        short = name.removeprefix("core/")
        kind = short.removeprefix("ReplaceBinaryOperator_").removeprefix("ReplaceComparisonOperator_")
        if short not in PLAIN and kind not in BINARY | COMPARED:
            continue
        operator = get_operator(name)()
        places = [place for node in ast_nodes(tree) for place in operator.mutation_positions(node)]
        for occurrence, ((line, column), (last, _)) in enumerate(places):
            if not any(first <= (line, column) < end for first, end in idle):
                yield Mutant(area, file, name, occurrence, line, last, line not in within)


def _one_of_each(
    lines: dict[tuple[str, int], list[Mutant]], sources: dict[str, str], chance: random.Random
) -> Iterator[Mutant]:
    """One change of each line that has some, lines and changes by chance."""
    order = sorted(lines)
    chance.shuffle(order)
    for line in order:
        chance.shuffle(lines[line])
        yield from islice((mutant for mutant in lines[line] if _changed(mutant, sources[mutant.file])), 1)


def _changed(mutant: Mutant, source: str) -> str:
    """The file with the change; "" where it is no Python then."""
    changed: str = mutate_code(source, get_operator(mutant.operator)(), mutant.occurrence)
    try:
        compile(changed, mutant.file, "exec")
    except SyntaxError:
        return ""
    return changed


def _idle(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where nothing happens that a test could see: annotations, and the keywords of classes (`frozen`, `gc`)."""
    spans = []
    for node in ast.walk(ast.parse(source)):
        parts = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if isinstance(node, ast.ClassDef):
            parts += [keyword.value for keyword in node.keywords]
        for part in parts:
            if isinstance(part, ast.expr):
                end = (part.end_lineno or part.lineno, part.end_col_offset or part.col_offset)
                spans.append(((part.lineno, part.col_offset), end))
    return spans


def _lines_of_functions(source: str) -> set[int]:
    """The lines of bodies, without signatures: defaults and decorators run at the import."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines |= set(range(node.body[0].lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def _git(folder: Path, *arguments: str) -> str:
    process = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return process.stdout.strip()


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    main()
