"""Tapes and policies that the live tests share, read or made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.tapes import BUNDLED_TAPE
from simulator.prices.tape import calendar_sessions, new_york_date, read_bars
from strategies.kit.synthetic import synthetic_sessions
from tests.support.desks import lively_policy
from tests.support.desks.live_desk import Daemon
from tests.support.desks.stage import Tape


@pytest.fixture(scope="session", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The server that daemons are forked from has loaded everything before the first clock runs."""
    assert Daemon(["--help"], {}, tmp_path_factory.mktemp("warm") / "log").wait(120) == 0


@pytest.fixture(scope="session")
def lively(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store with the lively policy."""
    return lively_policy.store(tmp_path_factory.mktemp("lively"))


@pytest.fixture(scope="session")
def bundled() -> Tape:
    """The bundled synthetic tape."""
    return _tape(BUNDLED_TAPE)


@pytest.fixture(scope="session")
def recorded(data_dir: Path) -> Tape:
    """SPY's recorded minutes of 2024."""
    return _tape(data_dir / "spy_1min_2024.parquet")


@pytest.fixture(scope="session")
def made_up() -> Tape:
    """Synthetic minutes around the second Sunday of March 2024, when New York's clocks went forward."""
    sessions = tuple(calendar_sessions("2024-03-01", "2024-03-12"))
    return Tape(tuple(synthetic_sessions(7, [s for s in sessions if "2024-03-06" <= s.date <= "2024-03-12"])), sessions)


def _tape(path: Path) -> Tape:
    bars = tuple(read_bars(path, "SPY"))
    first, last = (bar.start_ns for bar in (bars[0], bars[-1]))
    return Tape(bars, tuple(calendar_sessions(new_york_date(first), new_york_date(last))))
