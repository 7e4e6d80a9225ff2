"""A whole live desk at a broker that is not Alpaca: the interface is enough, and nothing of Alpaca is loaded.

The desk is `rltraderd` in a process of its own, in virtual time. What is expected is the broker's own account.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pytest

from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from simulator.clock import SimClock
from tests.support.desks.live_desk import LOOSE, books
from tests.support.desks.stage import UNENDING, new_york_ns
from tests.support.paths import REPOSITORY
from tests.support.simulator.clocks import clock_from
from tests.support.toy_broker import BOOK, CASH

DAY, BEGIN = "2024-10-29", "10:00"
TRADES = 4  # fills that are waited for
MOST_S = 3 * 3600  # virtual
RUN = """
import sys
from daemon.host.lean import without_pandas
without_pandas()
from daemon.__main__ import main
from daemon.brokers.registry import BROKERS
BROKERS["toy"] = "tests.support.toy_broker"
modules = sys.argv.pop()
exec(sys.argv.pop())
code = main()
open(modules, "w").write(" ".join(sys.modules))
sys.exit(code)
"""


def tables(clock: SimClock, folder: Path, models: Path) -> dict[str, Mapping[str, object]]:
    """The desk's configuration."""
    return {
        **LOOSE,
        **UNENDING,
        "desk": {"broker": "toy"},
        "paths": {"state_dir": str(folder / "state"), "models_dir": str(models)},
        "clock": clock.settings(),
        "broker": {"on_stop": "flatten"},
    }


FAULT = "import asyncio; from msgspec.structs import replace; import tests.support.toy_broker as toy; "
FLOATS = (
    "report, quote = toy.ToyTrading._report, toy.quote;"
    "toy.ToyTrading._report = lambda self, now_ns:"
    " replace(report(self, now_ns), cash=float(self._account.cash), positions=list(report(self, now_ns).positions))"
)
FAULTY_BARS = (
    "bar = toy.bar; toy.bar = lambda symbol, start_ns: replace("
    "bar(symbol, start_ns), close=float('nan') if start_ns // 60_000_000_000 % 9 == 4 else bar(symbol, start_ns).close)"
)
ENDS = "async def ends(self): {}\ntoy.{}.run = ends"
FATAL = {
    "no event": ("toy.ToyFeed._put_bars = lambda self, *_, past: self._put(None)", "'None' is no event"),
    "a time as text": (
        "report = toy.ToyTrading._report;toy.ToyTrading._report = lambda self, now_ns: report(self, str(now_ns))",
        "BrokerReported: Expected `int`, got `str` - at `$.time_ns`",
    ),
    "an end of the orders": (ENDS.format("pass", "ToyTrading"), "the broker ended by itself"),
    "orders that cancel themselves": (ENDS.format("raise asyncio.CancelledError", "ToyTrading"), "the broker ended by"),
    "an order that is never handed over": (
        "async def hangs(self, effects): await asyncio.Event().wait()\ntoy.ToyTrading.release = hangs",
        "the broker's release did not return",
    ),
    "an end of the feed": (ENDS.format("pass", "ToyFeed"), "the feed ended by itself"),
}


@contextmanager
def desk(folder: Path, models: Path, fault: str = "") -> Iterator[tuple[subprocess.Popen[bytes], SimClock]]:
    """The desk as a process, and the clock that both are on."""
    with clock_from(new_york_ns(DAY, BEGIN)) as clock:
        lines = []
        for name, keys in tables(clock, folder, models).items():
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
        (folder / "config.toml").write_text("\n".join(lines))
        secrets = {"APCA_API_KEY_ID": "a-key-id", "APCA_API_SECRET_KEY": "a-secret-key"}
        run = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "RUNTIME_DIRECTORY": str(folder / "run")}
        line = [
            sys.executable,
            "-c",
            RUN,
            "--config",
            str(folder / "config.toml"),
            FAULT + "\n" + fault,
            str(folder / "modules"),
        ]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(line, env={**run, **secrets}, cwd=folder, stderr=log)
        clock.expect(process.pid)
        try:
            yield process, clock
        finally:
            process.kill()
            process.wait()


def fills(folder: Path) -> int:
    """How many fills the journal has; 0 before there is one."""
    if not (folder / "state" / FILE).exists():
        return 0
    reader = JournalReader(folder / "state" / FILE)
    try:
        return int(reader.query("SELECT count(*) AS count FROM events WHERE kind = 'OrderFilled'")[0]["count"])
    finally:
        reader.close()


@pytest.mark.parametrize("fault", ["", FLOATS, FAULTY_BARS], ids=["as it is", "cash as a float", "faulty bars"])
def test_a_desk_trades_at_a_broker_of_three_hundred_lines_and_is_stopped_flat(
    tmp_path: Path, lively: Path, fault: str
) -> None:
    with desk(tmp_path, lively, fault) as (process, clock):
        until_ns = clock.now_ns() + MOST_S * 1_000_000_000
        while fills(tmp_path) < TRADES or fills(tmp_path) % 2 == 0:  # it holds something then
            assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
            assert clock.now_ns() < until_ns, (tmp_path / "log").read_text()[-3000:]
            clock.pass_s(5)
        process.send_signal(signal.SIGTERM)
        assert clock.wait(lambda _: None, lambda: process.poll() is not None, 600)
        assert process.returncode == 0, (tmp_path / "log").read_text()[-3000:]
    account, desk_books = json.loads((tmp_path / "state" / BOOK).read_text()), books(tmp_path / "state")
    assert (account["held"], desk_books.state.book.positions, desk_books.state.orders) == ({}, {}, {})
    assert Decimal(account["cash"]) == desk_books.state.book.cash != CASH
    assert len(desk_books.fills) % 2 == 0
    assert ("SPY: not_finite" in (tmp_path / "log").read_text()) == (fault == FAULTY_BARS)
    modules = set((tmp_path / "modules").read_text().split())
    assert "daemon.app.live" in modules
    assert {name for name in modules if "alpaca" in name.split(".")} == set()
    assert "pandas" not in modules


@pytest.mark.parametrize("fault", FATAL)
def test_a_broker_without_which_the_desk_would_trade_blind_ends_the_daemon_to_be_started_again(
    tmp_path: Path, lively: Path, fault: str
) -> None:
    code, problem = FATAL[fault]
    with desk(tmp_path, lively, code) as (process, clock):
        assert clock.wait(lambda _: None, lambda: process.poll() is not None, MOST_S)
        assert process.returncode == 1
    assert problem in (tmp_path / "log").read_text()
