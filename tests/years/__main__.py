"""`python -m tests.years`: whole desks in one process each, for years of virtual time, from one seed.

--years 100 --seed 1     live so many desk-years, in equal shares of the five strategies
--run DESK SEED          one run, with its story
--shrink DESK SEED       make a failing run shorter, and print it as a test
--digests 10             the digests of the first runs, to be compared between machines
--mutants 100            the share of small changes that the runs find; --find does so for mended defects
--never                  what no run of the file of results has met
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from daemon.engine.recover import code_digest
from tests.chaos.desks.plan import DESKS
from tests.years.desks import warm
from tests.years.met import never, universe
from tests.years.run import Outcome, live
from tests.years.schedule import Schedule, draw
from tests.years.shrink import as_test, shrunk, story

YEAR = 252  # sessions
GARBAGE = (50_000, 20, 50)
LIMIT_S = 600.0  # the processor's seconds for one run, whose turns the loop bounds: some call does not return
IDLE_S = 300.0  # real seconds in which a run had nothing of the processor, which a busy machine too gives it: it waits
STEP_S = 10.0  # between looks at a run; a machine that slept meanwhile counts as two
LAST_WORDS_S = 5.0
TALK = "years.jsonl"


def folder_of(pid: int) -> Path:
    """Where the run of this process may write: in memory where there is such a file system."""
    base = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())
    return base / f"rltrader-years-{pid}"


def _child(run: Callable[[Path], Any], sender: Any, stack: Any) -> None:
    """Live one run in this process, and say what became of it; at SIGUSR1, where it is."""
    faulthandler.register(signal.SIGUSR1, file=stack.fileno())
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        gc.freeze()
        gc.set_threshold(*GARBAGE)
        began = os.times()
        outcome = run(folder_of(os.getpid()))
        end = os.times()
        sender.send((outcome, end.user + end.system - began.user - began.system))
    except BaseException:  # noqa: BLE001 (the run failed, whatever it raised)
        sender.send((traceback.format_exc(), 0.0))
    sender.close()
    os._exit(0)


class Running:
    """A run in a process of its own: `run` lives it in a folder."""

    def __init__(self, run: Callable[[Path], Any]) -> None:
        code_digest()
        context: Any = multiprocessing.get_context("fork" if threading.active_count() == 1 else "spawn")
        self.receiver, sender = context.Pipe(duplex=False)
        self._stack, stack = context.Pipe(duplex=False)
        self.process = context.Process(target=_child, args=(run, sender, stack), daemon=True)
        self.process.start()
        sender.close()
        stack.close()
        self._looked, self._cpu_s, self._idle_s = time.monotonic(), 0.0, 0.0

    def late(self) -> bool:
        """Whether it will not end: it spent the limit, or waits. To be asked every `STEP_S`."""
        looked, self._looked = self._looked, time.monotonic()
        before, self._cpu_s = self._cpu_s, processor_s(self.process.pid)
        self._idle_s = 0.0 if self._cpu_s > before else self._idle_s + min(self._looked - looked, 2 * STEP_S)
        return self._cpu_s > LIMIT_S or self._idle_s > IDLE_S

    def result(self) -> tuple[Any, float]:
        """The outcome, or (a str) why there is none; and the processor's seconds."""
        while not self.receiver.poll(STEP_S):
            if self.late():
                return self._stopped()
        try:
            answer: tuple[Any, float] = self.receiver.recv()
        except EOFError:
            answer = (f"the run's process ended with {self.process.exitcode}", 0.0)
        self.process.join()
        return answer

    def _stopped(self) -> tuple[str, float]:
        """Kill it; what it was at, and the processor's seconds."""
        os.kill(self.process.pid, signal.SIGUSR1)
        stack = b""
        while self._stack.poll(LAST_WORDS_S) and (part := os.read(self._stack.fileno(), 1 << 16)):
            stack += part
        self.process.kill()
        self.process.join()
        shutil.rmtree(folder_of(self.process.pid), ignore_errors=True)
        idle = f", the last {self._idle_s:.0f} s without any" if self._idle_s else ""
        return f"no end after {self._cpu_s:.1f} s of the processor{idle}, at\n{stack.decode()}", self._cpu_s


def processor_s(pid: int) -> float:
    """The processor's seconds that a process spent; those of one that ended are not known: 0."""
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[11:13]
    except FileNotFoundError:
        return 0.0
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def of_schedule(schedule: Schedule) -> Running:
    """The run of a schedule."""
    warm((schedule.desk,), schedule.seed, schedule.first)
    return Running(partial(live, schedule))


def outcome_of(schedule: Schedule) -> Outcome:
    """Live one run in a process of its own. Raises RuntimeError where the run itself failed."""
    return measure(schedule)[0]


def measure(schedule: Schedule) -> tuple[Outcome, float]:
    """Live one run, as `outcome_of`; also returns the processor's seconds."""
    outcome, cpu_s = of_schedule(schedule).result()
    if isinstance(outcome, str):
        raise RuntimeError(outcome)  # noqa: TRY004 (it is why there is no outcome)
    return outcome, cpu_s


def live_all(
    schedules: Iterator[Schedule], parallel: int, take: Callable[[Schedule, Outcome | str, float], bool]
) -> None:
    """Live runs, so many at a time, until there are no more or `take` returns False."""
    running: list[tuple[Schedule, Running]] = []
    going = True
    while going or running:
        while going and len(running) < parallel:
            schedule = next(schedules, None)
            if schedule is None:
                going = False
                break
            running.append((schedule, of_schedule(schedule)))
        if not running:
            return
        ready = wait([it.receiver for _, it in running], timeout=STEP_S)
        for schedule, it in list(running):
            if it.receiver in ready or it.late():
                running.remove((schedule, it))
                outcome, cpu_s = it.result()
                going &= take(schedule, outcome, cpu_s)


def row_of(schedule: Schedule, outcome: Outcome | str, cpu_s: float) -> dict[str, Any]:
    """The row of a run in the file of results."""
    row: dict[str, Any] = {"desk": schedule.desk, "seed": schedule.seed, "sessions": schedule.days, "cpu_s": cpu_s}
    if isinstance(outcome, str):
        return row | {"failed": outcome[-2000:]}
    problems = [f"{problem.rule}: {problem.text}" for problem in outcome.problems]
    return row | {
        "problems": problems,
        "digest": outcome.digest,
        "orders": outcome.orders,
        "fills": outcome.fills,
        "lives": outcome.lives,
        "turns": outcome.turns,
        "met": outcome.met,
    }


def _years(options: argparse.Namespace) -> int:
    results: list[dict[str, Any]] = []
    if options.file.exists():
        results = [json.loads(line) for line in options.file.read_text().splitlines()]
    sessions = Counter[str]()
    for row in results:
        sessions[row["desk"]] += row["sessions"]
    seeds = {desk: max((r["seed"] + 1 for r in results if r["desk"] == desk), default=options.seed) for desk in DESKS}
    desks = [options.desk] if options.desk else list(DESKS)
    quota = options.years * YEAR / len(desks)
    began, cpu = time.monotonic(), Counter[str]()
    bad = 0

    def schedules() -> Iterator[Schedule]:
        while open_ones := [desk for desk in desks if sessions[desk] < quota]:
            desk = min(open_ones, key=lambda name: sessions[name])
            schedule = draw(desk, seeds[desk])
            seeds[desk] += 1
            sessions[desk] += schedule.days
            yield schedule

    with options.file.open("a") as file:

        def take(schedule: Schedule, outcome: Outcome | str, cpu_s: float) -> bool:
            nonlocal bad
            row = row_of(schedule, outcome, cpu_s)
            file.write(json.dumps(row) + "\n")
            file.flush()
            results.append(row)
            cpu[schedule.desk] += int(1000 * cpu_s)
            for problem in row.get("problems", [row.get("failed", "")]):
                bad += 1
                print(f"{schedule.desk} {schedule.seed}: {problem[:400]}", flush=True)
            return bool(time.monotonic() - began < options.seconds)

        live_all(schedules(), options.parallel, take)
    _print_rates(results, time.monotonic() - began, options.parallel)
    if options.never:
        _print_never(results)
    return 1 if bad else 0


def _print_rates(results: list[dict[str, Any]], took_s: float, parallel: int) -> None:
    """Desk-years and their rates, by strategy."""
    for desk in DESKS:
        rows = [row for row in results if row["desk"] == desk]
        days, cpu_s = sum(row["sessions"] for row in rows), sum(row["cpu_s"] for row in rows)
        if days:
            orders, lives = (sum(row.get(name, 0) for row in rows) for name in ("orders", "lives"))
            rate = days / YEAR / cpu_s * 3600 if cpu_s else 0.0
            print(
                f"{desk}: {days / YEAR:.2f} desk-years in {len(rows)} runs, {orders} orders, {lives} lives; "
                f"{rate:.1f} desk-years an hour of one core"
            )
    days, cpu_s = sum(row["sessions"] for row in results), sum(row["cpu_s"] for row in results)
    failed = sum(bool(row.get("problems") or row.get("failed")) for row in results)
    rate = days / YEAR / cpu_s * 3600 * 2 if cpu_s else 0.0
    print(
        f"all: {days / YEAR:.2f} desk-years, {len(results)} runs, {failed} with problems; "
        f"{rate:.1f} an hour on two cores; this call took {took_s / 60:.1f} minutes, {parallel} at a time"
    )


def _print_never(results: list[dict[str, Any]]) -> None:
    counts: Counter[str] = Counter()
    for row in results:
        counts.update(row.get("met", {}))
    names = universe()
    missing = never(counts, names)
    print(f"met: {len(names) - len(missing)} of {len(names)}; never:")
    for name in missing:
        print(f"  {name}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.years", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--years", type=float, default=0.0, help="desk-years to live in all, with those in the file")
    parser.add_argument("--seed", type=int, default=1, help="of the first run of each strategy (%(default)s)")
    parser.add_argument("--desk", choices=DESKS, help="one strategy alone")
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop beginning runs after so many real seconds")
    parser.add_argument("--file", type=Path, default=Path(TALK), help="results, kept and gone on with (%(default)s)")
    parser.add_argument("--run", nargs=2, metavar=("DESK", "SEED"), help="one run, with its story")
    parser.add_argument("--shrink", nargs=2, metavar=("DESK", "SEED"), help="make a failing run shorter")
    parser.add_argument("--digests", type=int, default=0, metavar="N", help="print the digests of N runs")
    parser.add_argument("--never", action="store_true", help="list what was never met")
    parser.add_argument("--find", nargs="*", metavar="NAME", help="look for defects that were mended: these, or all")
    parser.add_argument("--focused", action="store_true", help="with --find: by the shortest life that meets each")
    parser.add_argument("--every", action="store_true", help="with --find: live also the runs that cannot meet it")
    parser.add_argument(
        "--shorter", action="store_true", dest="shrink_finds", help="with --find: shrink what was found"
    )
    parser.add_argument("--tries", type=int, default=60, help="with --shorter: runs at most (%(default)s)")
    parser.add_argument(
        "--most", type=int, default=1000, help="with --find, --mutants: runs to live at most, each (%(default)s)"
    )
    parser.add_argument(
        "--mutants", type=int, metavar="N", help="try N changes that the tests see, and all that they do not"
    )
    parser.add_argument("--sample", type=Path, help="with --mutants: `tried.jsonl` of `make mutants`")
    parser.add_argument(
        "--finds", type=Path, default=Path("finds.jsonl"), help="results of --find, --mutants (%(default)s)"
    )
    options = parser.parse_args(arguments)
    if options.find is not None:
        from tests.years import find

        return find.main(options)
    if options.mutants is not None:
        if options.sample is None:
            parser.error("--mutants needs --sample, the file tried.jsonl of `make mutants`")
        from tests.years import mutants

        return mutants.main(options)
    if options.run:
        schedule = draw(options.run[0], int(options.run[1]))
        outcome, cpu_s = measure(schedule)
        print("\n".join(story(outcome)))
        for problem in outcome.problems:
            print(f"{problem.rule}: {problem.text}")
        print(
            f"{schedule.days} sessions, {cpu_s / schedule.days:.2f} CPU seconds each, {outcome.turns} turns of the loop"
        )
        print(f"digest {outcome.digest}")
        return 1 if outcome.problems else 0
    if options.shrink:
        schedule = draw(options.shrink[0], int(options.shrink[1]))
        first = outcome_of(schedule)
        if not first.problems:
            print("this run breaks no rule")
            return 0
        rule = first.problems[0].rule
        best, outcome = shrunk(schedule, rule, outcome_of)
        print("\n".join(story(outcome)))
        print(as_test(best, rule))
        return 1
    if options.digests:
        for number in range(options.digests):
            desk = DESKS[number % len(DESKS)]
            print(desk, options.seed + number, outcome_of(draw(desk, options.seed + number)).digest, flush=True)
        return 0
    return _years(options)


if __name__ == "__main__":
    sys.exit(main())
