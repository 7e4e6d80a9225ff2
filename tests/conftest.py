"""What all tests share: the folder of real market data, Hypothesis without a clock, where coverage is measured, which
files come first, temporary folders in memory, and one garbage collection for all that was collected.

Tests that need real data take `data_dir`: they are skipped where the folder is missing, and fail where it exists but a
file in it does not. Expected values never come from here.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import shutil
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import coverage
import pytest

from tests.support.examples import load_profile
from tests.support.paths import REPOSITORY

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a run in the background: what tests start would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

load_profile()

os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # programs have their bare names
os.environ.pop("PYTEST_ADDOPTS", None)  # the user's, which this pytest has read: none for one that a test starts

COVERING = tuple(REPOSITORY / "tests" / name for name in ("core", "strategies"))
"""The tests whose coverage counts: those that test the pure code for its own sake. Tracing nearly doubles its cost."""

COVERED = (REPOSITORY / "daemon" / "core", REPOSITORY / "strategies")
"""What `make test` measures."""


LONGEST = (
    "process/own/test_tutorial.py",
    "training/desks/forecast/test_run.py",
    "chaos/desks/test_desks.py",
    "training/study/test_planted_market.py",
    "chaos/test_chaos.py",
    "years/test_desks.py",
    "process/live/test_session.py",
    "training/runs/test_passive.py",
    "process/live/daily/test_fractional_desk.py",
    "training/runs/test_killed_runs.py",
    "process/live/test_mistaken_configuration.py",
    "training/search/test_search_forecast.py",
    "process/live/daily/test_daily_desk.py",
    "training/desks/online/test_market.py",
    "process/replay/test_forecast_replay.py",
    "training/desks/forecast/test_planted_market.py",
    "process/host/test_panic.py",
    "training/runs/test_run_through_ray.py",
    "guard/test_watch.py",
    "dashboard/test_pages.py",
    "process/live/test_ledger_lines.py",
    "training/runs/test_shared_processes.py",
    "process/replay/test_daily_replay.py",
    "training/desks/online/test_run.py",
    "process/live/test_bad_strategy.py",
    "models/ladder/test_climber.py",
    "process/live/test_no_model.py",
    "training/runs/test_run.py",
    "process/live/daily/test_no_model.py",
    "years/gateway/test_floor.py",
    "process/live/test_guard.py",
    "training/rl/test_cartpole.py",
    "process/replay/test_operator_side.py",
    "training/rl/test_device_benchmark.py",
    "engine/test_crash.py",
    "training/desks/daily/test_dry_run.py",
    "chaos/gateway/test_quiet.py",
    "training/sweep/test_together.py",
    "process/replay/test_sigkill.py",
    "training/rl/off_policy/test_benchmark.py",
    "training/cli/test_cli.py",
    "strategies/kit/test_timeframes.py",
    "training/rl/test_ray_pool.py",
    "engine/test_verify.py",
    "training/rl/test_memory.py",
    "training/search/test_search.py",
    "training/online/test_process.py",
    "years/test_find.py",
    "dashboard/test_axe.py",
    "training/rl/dqn/test_benchmark.py",
    "years/test_nights.py",
    "training/rl/off_policy/test_agents_learn.py",
    "training/rules/test_rules.py",
    "dashboard/test_explore.py",
    "house/test_facade.py",
    "training/desks/daily/test_run.py",
    "dashboard/test_runs.py",
    "training/desks/forecast/test_dry_run.py",
    "cli/test_try_protection.py",
    "training/kit/test_kit.py",
    "training/online/test_command.py",
    "training/runs/test_refit.py",
    "training/rl/rllib/test_engine.py",
    "dashboard/test_learning.py",
    "training/runs/test_learnt.py",
    "training/search/test_search_ray.py",
    "experience/test_publisher.py",
    "training/evidence/test_risk.py",
)
"""Files of three quarters of a minute and more on a busy machine, the longest first, so that several processes end
together. One that waits for the time of a session stands beside one that computes: two of each leave no core idle. A
file's tests stay together, so a new long file belongs here."""

MEMORY, ROOM_GIB = Path("/dev/shm"), 4
"""Where files are in memory, and what must be free there: all files of the whole suite are below 1 GiB."""


def in_memory() -> bool:
    """Whether temporary folders have their place in memory: programs can be started there, and there is room."""
    try:
        filesystem = os.statvfs(MEMORY)
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, LookupError, ValueError):
        return False
    room = min(filesystem.f_bavail * filesystem.f_frsize, free) >= ROOM_GIB * 2**30
    return room and not filesystem.f_flag & (os.ST_NOEXEC | os.ST_RDONLY) and os.access(MEMORY, os.W_OK | os.X_OK)


if in_memory():  # a journal waits for the disk at each commit; the tests kill processes, and cut no power
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Give the memory back where all went well; else the folders stay, as on a disk."""
    made = getattr(session.config, "_tmp_path_factory")._basetemp  # noqa: B009
    mine = not hasattr(session.config, "workerinput") and made is not None and MEMORY in made.parents
    if mine and exitstatus == pytest.ExitCode.OK and session.config.option.basetemp is None:
        shutil.rmtree(made, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first."""
    first = {REPOSITORY / "tests" / name: place for place, name in enumerate(LONGEST)}
    if missing := [str(path) for path in first if not path.exists()]:
        raise pytest.UsageError(f"LONGEST in tests/conftest.py names files that are not there: {', '.join(missing)}")
    items.sort(key=lambda item: first.get(item.path, len(first)))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Import and collect without the garbage collector, and keep it later from walking through all that came of it.

    These are thousands of tests and all libraries, of which nothing is garbage.
    """
    gc.disable()
    try:
        _import_first(session)
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def _import_first(session: pytest.Session) -> None:
    """In a process of pytest-xdist that runs all tests, import the measured code, then the tests, untraced.

    Each process begins at another file: in a fresh checkout each rewrites the assertions of some files, and reads the
    bytecode that the others wrote of theirs. The collection comes after; it reports what cannot be imported.
    """
    worker: dict[str, Any] | None = getattr(session.config, "workerinput", None)
    if worker is None or session.config.args != session.config.getini("testpaths"):
        return
    _import_all([path for folder in COVERED for path in sorted(folder.rglob("*.py"))])
    tests = sorted((REPOSITORY / "tests").rglob("test_*.py"))
    first = len(tests) * int(str(worker["workerid"]).removeprefix("gw")) // int(worker["workercount"])
    with untraced():
        _import_all(tests[first:] + tests[:first])


def _import_all(files: list[Path]) -> None:
    for path in files:
        with contextlib.suppress(Exception, pytest.skip.Exception):
            importlib.import_module(".".join(path.relative_to(REPOSITORY).with_suffix("").parts))


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Pause all measuring of coverage; in a process of pytest-xdist, pytest-cov has begun twice."""
    stopped = []
    while (running := coverage.Coverage.current()) is not None:
        running.stop()  # the one below it goes on by itself
        stopped.append(running)
    try:
        yield
    finally:
        for paused in reversed(stopped):
            paused.start()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Trace no test outside `COVERING`, nor its fixtures, which pytest-cov's marker would trace."""
    if any(item.path.is_relative_to(folder) for folder in COVERING):
        return (yield)
    with untraced():
        return (yield)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data: RLTRADER_DATA, or ../shared/data beside the repository; skips where it is missing."""
    folder = Path(os.environ.get("RLTRADER_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs real data: set RLTRADER_DATA to its folder ({folder} does not exist)")
    return folder
