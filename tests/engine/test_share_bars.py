"""A desk composed of the two axes anew, on the real engine: it replays a tape, verifies, and passes the crash test.

Nothing in the daemon knows this desk: its strategy is entered in the registry, as a new one would be.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

from daemon.core.events import ModelVerified, RunStarted
from daemon.core.limits import Paper, Trading
from daemon.engine.code import code_digest, libraries
from daemon.engine.engine import Engine
from daemon.engine.recover import recover
from daemon.engine.recovery import fresh_machine, identity_of
from daemon.engine.state_dir import open_state_dir
from daemon.host.time.calendar import SessionCalendar
from daemon.journal.writer import JournalWriter
from daemon.tapes.minutes import TapeInfo, TapeSource, scan
from strategies.registry import STRATEGIES
from strategies.registry import strategy as strategy_named
from tests.support.core.share_bars import SPEC, EveryThird, ShareBars
from tests.support.desks.desk_run import Crash, Tape, chained, drop, read_models, table, tape_rows, verified, write_tape

RULES = Trading(paper=Paper(cash_usd=Decimal(10_000)))
META = {"mode": "replay", "account": "paper", "strategy": SPEC.name, "feed": "sip", "desk": "toy", "tape": "tape.csv"}
BOUNDARIES = ("before step", "after step", "before commit", "after commit")
CRASHES = 60


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enter the strategy by its one line."""
    monkeypatch.setitem(STRATEGIES, SPEC.name, ShareBars.__module__)


@dataclass(frozen=True, slots=True)
class Toy:
    """A tape, and runs on state directories; each goes on where the journal ends."""

    tape: Path
    info: TapeInfo
    calendar: SessionCalendar

    def run(
        self, path: Path, *, boundary: Callable[[str], None] | None = None, group: int = 64, snapshots: int = 50
    ) -> str:
        """Run to the tape's end, or to a crash; returns the state's digest, "" after a crash."""
        state_dir, code = open_state_dir(path, META, "e1"), code_digest()
        identity = identity_of(state_dir.meta)
        machine = fresh_machine(strategy_named(identity.strategy, identity.symbols), identity, RULES)
        recovered = recover(state_dir.journal.reader(), machine, code)
        source = Tape(TapeSource(self.tape, self.info, self.calendar, recovered.fed))
        writer, crashed = JournalWriter(state_dir.journal, 0), False
        engine = Engine(
            recovered,
            writer,
            EveryThird(),
            source,
            code=code,
            group_events=group,
            snapshot_events=snapshots,
            observe=lambda _event, _step: None,
            boundary=boundary,
        )
        now, who = machine.state.now_ns, identity
        started = RunStarted(
            now, who.mode, who.account, who.strategy, who.epoch, code, who.feed, RULES, libraries=libraries()
        )
        try:
            asyncio.run(engine.run([started, ModelVerified(now, "v1", "d", promoted=True, feed="sip")]))
            return engine.state_digest()
        except Crash:
            crashed = True
            return ""
        finally:
            drop(state_dir, writer, crashed=crashed)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    tape = write_tape(tmp_path_factory.mktemp("toy") / "tape.csv", tape_rows(2, 40, stubs=0))
    info = scan(tape, SPEC.symbols, SPEC.bar_interval_s)
    return Toy(tape, info, SessionCalendar.load(info.first_date, info.last_date))


def crash_at(name: str, count: int, seen: Counter[str]) -> Callable[[str], None]:
    """A boundary hook that crashes at the `count`-th boundary called `name`."""
    left = count

    def hook(boundary: str) -> None:
        nonlocal left
        if boundary == name:
            left -= 1
            if left == 0:
                seen[name] += 1
                raise Crash(name)

    return hook


def test_it_replays_a_tape_trades_shares_and_verifies(toy: Toy, tmp_path: Path) -> None:
    digest = toy.run(tmp_path / "one")
    assert digest == toy.run(tmp_path / "two") != ""
    fills, decisions = table(tmp_path / "one", "fills"), table(tmp_path / "one", "decisions")
    assert len(decisions) == 2 * (40 - 2)  # every bar of a session but the two that warm it
    assert len(fills) > 8
    assert {row[3] for row in fills} == {"SPY"}
    assert {row[5] for row in fills} == {10}
    sides = [row[4] for row in sorted(fills, key=lambda row: int(row[8]))]  # by the time they filled
    assert sides == [1 if i % 2 == 0 else -1 for i in range(len(fills))]
    paid = sum(row[4] * row[5] * Decimal(row[6]) + Decimal(row[7]) for row in fills)
    assert Decimal(table(tmp_path / "one", "equity")[-1][2]) == 10_000 - paid
    assert chained(tmp_path / "one") == chained(tmp_path / "two")
    assert verified(tmp_path / "one").difference == ""


def test_a_crash_at_any_boundary_loses_no_fill_and_sends_no_order_twice(toy: Toy, tmp_path: Path) -> None:
    expected = toy.run(tmp_path / "undisturbed")
    rows, chain = read_models(tmp_path / "undisturbed"), chained(tmp_path / "undisturbed")
    seed = 20261121
    print(f"seed {seed}")
    draw, crashes, passes = random.Random(seed), Counter[str](), 0
    while crashes.total() < CRASHES or len(crashes) < len(BOUNDARIES):
        path, digest = tmp_path / f"pass{passes}", ""
        passes += 1
        while not digest:
            name = draw.choice(BOUNDARIES)
            hook = crash_at(name, draw.randint(1, 8 if "commit" in name else 60), crashes)
            digest = toy.run(path, boundary=hook, group=draw.choice((1, 3, 8, 32)), snapshots=draw.choice((1, 40)))
        assert digest == expected, f"seed {seed}, pass {passes}"
        assert (read_models(path), chained(path)) == (rows, chain), f"seed {seed}, pass {passes}"
        assert verified(path).difference == "", f"seed {seed}, pass {passes}"
