"""Whether the years find the defects that were mended once: each is put back in a copy of the tree, which then lives.

A copy has an interpreter of its own, which lives what it is sent. A seed finds a defect if a run of it breaks a rule
with the defect and none without it; the sessions until then are those of all seeds up to it. Short runs go first.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.paths import REPOSITORY
from tests.years.__main__ import YEAR, outcome_of
from tests.years.defects import defects, with_defect
from tests.years.focused import DESKS_OF, FOCUSED, LIKELY
from tests.years.run import HASTY, Outcome
from tests.years.schedule import Schedule, draw
from tests.years.shrink import as_test, shrunk, story
from tests.years.watch import Problem

MOST = 2 * YEAR  # sessions within which a defect has to be found
FAILED = "failed"  # in place of a rule: the run itself did, or had no end


class Tree:
    """A tree whose interpreter lives schedules: as it is, or a changed copy, which `copy` makes in the folder given."""

    def __init__(self, copy: Callable[[Path], Path] | None = None, folder: Path | None = None) -> None:
        self._copy = copy
        self._folder = Path(tempfile.mkdtemp(prefix="rltrader-find-", dir=folder))
        self._outcomes: dict[Schedule, Outcome | str] = {}

    def __enter__(self) -> Self:
        root = self._copy(self._folder / "copy") if self._copy else REPOSITORY
        self._pipe, child_pipe = Pipe()
        environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.years.find", "--serve", str(child_pipe.fileno())]
        command += ["--hasty"] if self._copy else []
        self._process = subprocess.Popen(command, cwd=root, env=environment, pass_fds=(child_pipe.fileno(),))
        child_pipe.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def outcome_of(self, schedule: Schedule) -> Outcome:
        """Live it there; as it is once. Raises RuntimeError where the run itself failed, or the interpreter did."""
        outcome = self._outcomes.get(schedule)
        if outcome is None:
            try:
                self._pipe.send(schedule)
                outcome = self._pipe.recv()
            except (EOFError, ConnectionError):
                outcome = f"its interpreter ended with {self._process.wait()}"
            if not self._copy:
                self._outcomes[schedule] = outcome
        if isinstance(outcome, str):
            raise RuntimeError(outcome)  # noqa: TRY004 (it is why there is no outcome)
        return outcome


def serve(descriptor: int) -> None:
    """Live what comes on this pipe, until it closes."""
    pipe: Connection = Connection(descriptor)
    while True:
        try:
            schedule = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(outcome_of(schedule))
        except RuntimeError as error:
            pipe.send(str(error))


def schedules(desks: Iterable[str], seed: int) -> Iterator[tuple[Schedule, int]]:
    """Yield the runs of these desks as `--years` draws them, and the sessions up to the end of each."""
    seeds = dict.fromkeys(desks, seed)
    sessions = dict.fromkeys(seeds, 0)
    while sum(sessions.values()) < MOST:
        desk = min(sessions, key=lambda one: sessions[one])
        schedule = draw(desk, seeds[desk])
        seeds[desk] += 1
        sessions[desk] += schedule.days
        yield schedule, sum(sessions.values())


def find_defect(name: str, tree: Tree, whole: Tree, options: argparse.Namespace) -> dict[str, Any]:
    """Look for the defect; the row says by which run, and which rule."""
    row: dict[str, Any] = {"defect": name, "focused": options.focused, "found": False}
    if options.focused:
        lives = [(FOCUSED[name], FOCUSED[name].days)]
    else:
        lives = list(schedules(DESKS_OF[name], options.seed))
        if not options.every:
            lives = short_first(life for life in lives if likely(name, life[0]))
    problem = search(name, lives[: options.most], tree, whole, row)
    if problem is not None and options.shrink_finds and problem.rule != FAILED:
        schedule = next(life for life, _ in lives if (life.desk, life.seed) == (row["desk"], row["seed"]))
        best, result = shrunk(schedule, problem.rule, tree.outcome_of, options.tries)
        row |= {"story": len(best.happenings), "days": best.days, "test": as_test(best, problem.rule)}
        row["lines"] = story(result)
    return row


def short_first(lives: Iterable[tuple[Schedule, int]]) -> list[tuple[Schedule, int]]:
    """Order runs by what each costs."""
    return sorted(lives, key=lambda life: (life[0].days + len(life[0].happenings), life[1]))


def search(
    name: str, lives: Iterable[tuple[Schedule, int]], tree: Tree, whole: Tree, row: dict[str, Any]
) -> Problem | None:
    """Live these runs until one breaks a rule in `tree` and none in `whole`; None for no such run. Fills the row."""
    for runs, (schedule, sessions) in enumerate(lives, 1):
        row |= {"sessions": sessions, "runs": runs, "desk": schedule.desk, "seed": schedule.seed}
        problem = first_problem(tree, schedule)
        if problem is None:
            continue
        if (without := first_problem(whole, schedule)) is not None:
            text = f"{without.rule}: {without.text[-300:]}"
            print(f"{name}: {schedule.desk} {schedule.seed} without it: {text}", flush=True)
            row["without"] = [*row.get("without", []), f"{schedule.desk} {schedule.seed} {without.rule}"]
            continue
        row |= {"found": True, "rule": problem.rule, "text": problem.text[-300:]}
        return problem
    return None


def first_problem(tree: Tree, schedule: Schedule) -> Problem | None:
    """The first rule that the run breaks there, `FAILED` where it has no outcome; None for none."""
    try:
        return next(iter(tree.outcome_of(schedule).problems), None)
    except RuntimeError as error:
        return Problem(FAILED, 0, str(error))


def likely(name: str, schedule: Schedule) -> bool:
    """Whether something happens in it that may meet the defect."""
    return any(it.what in LIKELY[name] for it in schedule.happenings)


def main(options: argparse.Namespace) -> int:
    """Look for each defect that is named and not yet in the file of results; 1 where one was not found."""
    names = options.find or list(defects())
    rows = [json.loads(line) for line in options.finds.read_text().splitlines()] if options.finds.exists() else []
    defect_names = {row["defect"] for row in rows if row["focused"] == options.focused}
    missing = 0
    with Tree() as whole, options.finds.open("a") as file:
        for name in names:
            if name in defect_names and not options.find:
                continue
            with Tree(partial(with_defect, name)) as tree:
                row = find_defect(name, tree, whole, options)
            file.write(json.dumps(row) + "\n")
            file.flush()
            missing += not row["found"]
            print(line_of(row), flush=True)
    return 1 if missing else 0


def line_of(row: dict[str, Any]) -> str:
    """The row in a line."""
    if not row["found"]:
        return f"{row['defect']}: NOT FOUND in {row.get('sessions', 0)} sessions, {row.get('runs', 0)} runs lived"
    of_story = f"; story of {row['story']} happenings in {row['days']} sessions" if "story" in row else ""
    by = f"{row['desk']} {row['seed']}, {row['sessions']} sessions"
    return f"{row['defect']}: found by {by}: {row['rule']}: {row['text'][:160]}{of_story}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve", type=int)
    parser.add_argument("--hasty", action="store_true", help="end with the first broken rule")
    options = parser.parse_args()
    HASTY.on = options.hasty
    serve(options.serve)
