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
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.paths import REPOSITORY
from tests.years.__main__ import YEAR, lived
from tests.years.defects import defects, with_defect
from tests.years.focused import DESKS_OF, FOCUSED, LIKELY
from tests.years.run import HASTY, Outcome
from tests.years.schedule import Schedule, draw
from tests.years.shrink import as_test, shrunk, story

MOST = 2 * YEAR  # sessions within which a defect has to be found


class Tree:
    """A tree whose interpreter lives schedules: with a defect, or (no name) as it is."""

    def __init__(self, defect: str = "", folder: Path | None = None) -> None:
        self._defect = defect
        self._folder = Path(tempfile.mkdtemp(prefix="rltrader-find-", dir=folder))
        self._known: dict[Schedule, Outcome | str] = {}

    def __enter__(self) -> Self:
        root = with_defect(self._defect, self._folder / "copy") if self._defect else REPOSITORY
        self._ours, theirs = Pipe()
        environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.years.find", "--serve", str(theirs.fileno())]
        command += ["--hasty"] if self._defect else []
        self._process = subprocess.Popen(command, cwd=root, env=environment, pass_fds=(theirs.fileno(),))
        theirs.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ours.close()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def lived(self, schedule: Schedule) -> Outcome:
        """Live it there; without a defect once. Raises RuntimeError where the run itself failed."""
        outcome = self._known.get(schedule)
        if outcome is None:
            self._ours.send(schedule)
            outcome = self._ours.recv()
            if not self._defect:
                self._known[schedule] = outcome
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
            pipe.send(lived(schedule))
        except RuntimeError as error:
            pipe.send(str(error))


def schedules(name: str, seed: int) -> Iterator[tuple[Schedule, int]]:
    """Yield the runs of the defect's desks as `--years` draws them, and the sessions up to the end of each."""
    seeds = dict.fromkeys(DESKS_OF[name], seed)
    sessions = dict.fromkeys(DESKS_OF[name], 0)
    while sum(sessions.values()) < MOST:
        desk = min(sessions, key=lambda one: sessions[one])
        schedule = draw(desk, seeds[desk])
        seeds[desk] += 1
        sessions[desk] += schedule.days
        yield schedule, sum(sessions.values())


def found(name: str, tree: Tree, whole: Tree, options: argparse.Namespace) -> dict[str, Any]:
    """Look for the defect; the row says by which run, and which rule."""
    row: dict[str, Any] = {"defect": name, "focused": options.focused, "found": False}
    if options.focused:
        lives = [(FOCUSED[name], FOCUSED[name].days)]
    else:
        lives = [life for life in schedules(name, options.seed) if options.every or likely(name, life[0])]
        if not options.every:
            lives.sort(key=lambda life: (life[0].days + len(life[0].happenings), life[1]))
    runs = 0
    for schedule, sessions in lives[: options.most]:
        runs += 1
        row |= {"sessions": sessions, "runs": runs, "desk": schedule.desk, "seed": schedule.seed}
        try:
            outcome = tree.lived(schedule)
            if not outcome.problems:
                continue
            without = whole.lived(schedule)
        except RuntimeError as error:
            print(f"{name}: {schedule.desk} {schedule.seed}: {str(error)[-400:]}", flush=True)
            continue
        if without.problems:
            problem = without.problems[0]
            print(
                f"{name}: {schedule.desk} {schedule.seed} without it: {problem.rule}: {problem.text[:300]}", flush=True
            )
            row["without"] = [*row.get("without", []), f"{schedule.desk} {schedule.seed} {problem.rule}"]
            continue
        problem = outcome.problems[0]
        row |= {"found": True, "rule": problem.rule, "text": problem.text[:300]}
        if options.shrink_finds:
            best, result = shrunk(schedule, problem.rule, tree.lived, options.tries)
            row |= {"story": len(best.happenings), "days": best.days, "test": as_test(best, problem.rule)}
            row["lines"] = story(result)
        break
    return row


def likely(name: str, schedule: Schedule) -> bool:
    """Whether something happens in it that may meet the defect."""
    return any(it.what in LIKELY[name] for it in schedule.happenings)


def main(options: argparse.Namespace) -> int:
    """Look for each defect that is named and not yet in the file of results; 1 where one was not found."""
    names = options.find or list(defects())
    rows = [json.loads(line) for line in options.finds.read_text().splitlines()] if options.finds.exists() else []
    done = {row["defect"] for row in rows if row["focused"] == options.focused}
    missing = 0
    with Tree() as whole, options.finds.open("a") as file:
        for name in names:
            if name in done and not options.find:
                continue
            with Tree(name) as tree:
                row = found(name, tree, whole, options)
            file.write(json.dumps(row) + "\n")
            file.flush()
            missing += not row["found"]
            print(told(row), flush=True)
    return 1 if missing else 0


def told(row: dict[str, Any]) -> str:
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
    served = parser.parse_args()
    HASTY.on = served.hasty
    serve(served.serve)
