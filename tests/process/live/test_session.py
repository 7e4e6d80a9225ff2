"""Whole sessions of `rltraderd` at the loopback Alpaca: both books agree at the end, and the clock's rules held.

The sessions of one test file run side by side in virtual time; each test looks at one of them. What is expected is the
server's own book, the request log, New York's wall clock, and the market as a function of time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from daemon.cli import ctl
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.reports.gap import read_gap
from daemon.tapes.quotes.reader import QuoteFile
from daemon.tapes.quotes.recording import finish
from simulator.prices.market import POINT_NS
from simulator.trading.account import Account
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET
from strategies.kit.units import MINUTE_NS
from tests.support.desks.desk_run import environment, records, rltraderd
from tests.support.desks.live_desk import LOOSE, Books, differences
from tests.support.desks.stage import UNENDING, Stage, Table, Tape, new_york_ns, new_york_time, stage
from tests.support.paths import FIXTURE_MODELS

STOP_S = 5.0  # a clean stop with nothing to wait for


@dataclass(frozen=True, slots=True)
class Lived:
    """A session that was lived through: its stage, how the daemon ended, and what its journal says."""

    stage: Stage
    exit_code: int | None
    books: Books

    @property
    def account(self) -> Account:
        """The server's book."""
        return self.stage.account


@dataclass(frozen=True, slots=True)
class Scenario:
    """A session to live through, from 8:50 to a quarter of an hour after its close."""

    tape: str  # a fixture of this package
    day: str
    end: str
    lively: bool = True
    arguments: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()


SELDOM: Table = {"alpaca": {"report_every_s": 120, "ping_s": 60}}  # reports and pings are most of a session's cost
RECORD: Table = {"record": {"enabled": True, "strikes": 6, "expiries": 1, "free_mib": 64}}
TOGETHER: dict[str, tuple[str, ...]] = {
    "trading": ("recorded", "bundled", "dry run"),
    "calendar": ("half day", "spring", "autumn"),
}
SCENARIOS = {
    "recorded": Scenario("recorded", "2024-07-01", "16:15", tables=(SELDOM,)),
    "bundled": Scenario("bundled", "2024-10-29", "16:15", tables=(SELDOM, RECORD)),
    "dry run": Scenario("bundled", "2024-10-30", "16:15", lively=False, arguments=("--dry-run",), tables=(SELDOM,)),
    "half day": Scenario("recorded", "2024-07-03", "13:15", tables=(SELDOM,)),
    "spring": Scenario("made_up", "2024-03-11", "16:15", lively=False, tables=(SELDOM,)),
    "autumn": Scenario("recorded", "2024-11-04", "16:15", lively=False, tables=(SELDOM,)),
}


def live_through(names: tuple[str, ...], request: pytest.FixtureRequest, folder: Path) -> Iterator[dict[str, Lived]]:
    """Run the scenarios at the same time, each with its own server; those without their data are left out."""
    stages: dict[str, Stage] = {}
    with ExitStack() as stack:
        for name in names:
            scenario = SCENARIOS[name]
            try:
                tape: Tape = request.getfixturevalue(scenario.tape)
            except pytest.skip.Exception:
                continue
            models = request.getfixturevalue("lively") if scenario.lively else FIXTURE_MODELS
            context = stage(tape, scenario.day, "08:50", folder / name.replace(" ", "-"), models)
            stages[name] = stack.enter_context(context)
            stages[name].start(*scenario.arguments, tables=scenario.tables)
        with ThreadPoolExecutor(len(stages) or 1) as drivers:
            for _ in drivers.map(lambda name: stages[name].until_time(_end_ns(name)), stages):
                pass
        for desk in stages.values():
            desk.daemons[-1].terminate()
        codes = {name: desk.daemons[-1].wait(STOP_S) for name, desk in stages.items()}
        yield {name: Lived(desk, codes[name], desk.books()) for name, desk in stages.items()}


@pytest.fixture(scope="module")
def trading(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Lived]]:
    yield from live_through(TOGETHER["trading"], request, tmp_path_factory.mktemp("trading"))


@pytest.fixture(scope="module")
def calendar(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Lived]]:
    yield from live_through(TOGETHER["calendar"], request, tmp_path_factory.mktemp("calendar"))


def _end_ns(name: str) -> int:
    return new_york_ns(SCENARIOS[name].day, SCENARIOS[name].end)


def of(sessions: dict[str, Lived], name: str) -> Lived:
    """The session of this name; skips where its data are missing."""
    if name not in sessions:
        pytest.skip(f"needs real data for the session {name!r}: set RLTRADER_DATA to its folder")
    return sessions[name]


def round_trips(account: Account) -> int:
    """How often a position of the server's book came back to nothing."""
    positions: dict[str, Decimal] = {}
    trips = 0
    for trade in account.trades:
        positions[trade.symbol] = positions.get(trade.symbol, Decimal(0)) + trade.quantity
        trips += positions[trade.symbol] == 0
    return trips


def partially_filled(account: Account) -> int:
    """Orders of the server's book that took more than one execution."""
    executions = [trade.order_id for trade in account.trades]
    return sum(executions.count(order.id) > 1 for order in account.orders.values())


# --- trading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["recorded", "bundled"])
def test_after_a_session_of_twenty_round_trips_both_books_agree_to_the_cent(
    trading: dict[str, Lived], name: str
) -> None:
    session = of(trading, name)
    assert session.exit_code == 0, session.stage.log()[-2000:]
    assert round_trips(session.account) >= 20
    assert partially_filled(session.account) > 0
    assert differences(session.books, session.account) == []
    unsent = {
        entry["client_order_id"] for entry in session.stage.read_log("order_not_sent")
    }  # too late on a busy machine
    assert session.books.orders.keys() - unsent == session.account.by_client_id.keys()
    assert session.books.state.risk.halt is None


@pytest.mark.parametrize("name", ["recorded", "bundled"])
def test_no_order_name_is_posted_twice(trading: dict[str, Lived], name: str) -> None:
    names = [post["client_order_id"] for post in of(trading, name).stage.posts()]
    assert len(names) >= 40
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["recorded", "bundled", "dry run"])
def test_the_journal_of_a_live_session_verifies(
    trading: dict[str, Lived], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    session = of(trading, name)
    assert ctl.main(["verify", "--state-dir", str(session.stage.state_dir)]) == 0
    assert capsys.readouterr().out.startswith("identical: ")


@pytest.mark.parametrize("name", ["recorded", "bundled", "dry run"])
def test_heads_are_published_at_the_start_within_the_session_and_at_the_end(
    trading: dict[str, Lived], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    session = of(trading, name)
    rows = [line["row"] for line in session.stage.read_log("chain_head")]
    reader = JournalReader(session.stage.state_dir / FILE)
    last = reader.last_entry()
    end_row = reader.query("SELECT id FROM events WHERE kind = 'SessionEnded' ORDER BY id DESC LIMIT 1")[0]["id"]
    reader.close()
    assert last is not None
    assert (rows[0], rows[-1]) == (0, last.id)
    assert rows == sorted(set(rows))
    assert [row for row in rows if 0 < row < end_row] != []  # at snapshots
    log, state = str(session.stage.folder / "log"), str(session.stage.state_dir)
    assert ctl.main(["verify", "--state-dir", state, "--against", log]) == 0
    assert f"published heads: {len(rows)} agree" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["recorded", "bundled", "dry run"])
def test_every_minute_comes_once_is_decided_once_and_no_key_is_told(trading: dict[str, Lived], name: str) -> None:
    session = of(trading, name)
    bar_starts = [event["bar"]["start_ns"] for event in session.stage.journaled("BarClosed")]
    taped = [bar.start_ns for bar in session.stage.market.session_bars(SCENARIOS[name].day)]
    assert bar_starts[-len(taped) :] == taped
    decided = [row["bar_ns"] for row in session.books.decisions if row["kind"] == "policy"]
    assert len(decided) == len(set(decided)) > 300  # a bar that a busy machine brings too late is not asked about
    assert set(decided) <= set(taped[19:])  # an observation has 20 rows
    assert DEFAULT_SECRET not in session.stage.log()
    assert DEFAULT_KEY not in session.stage.log()


def test_a_dry_run_with_keys_sends_nothing_but_reads(trading: dict[str, Lived]) -> None:
    session = of(trading, "dry run")
    assert session.exit_code == 0, session.stage.log()[-2000:]
    assert session.stage.requests("POST", "PATCH", "DELETE", "PUT") == []
    assert len(session.stage.requests("GET")) > 0
    assert session.account.orders == {}


def test_a_dry_runs_fills_are_at_quotes_that_the_server_gave(trading: dict[str, Lived]) -> None:
    session = of(trading, "dry run")
    market = session.stage.market
    assert len(session.books.fills) >= 12
    for fill in session.books.fills:
        moments = range(fill["time_ns"] - 2 * MINUTE_NS, fill["time_ns"] + 1, POINT_NS)
        quotes = [quote for moment in moments if (quote := market.quote(fill["symbol"], moment)) is not None]
        assert Decimal(fill["price"]) in {ask if fill["side"] > 0 else bid for bid, ask in quotes}


# --- the recording ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recording(trading: dict[str, Lived]) -> Path:
    """The quotes that the desk recorded, finished as a later session does: virtual time may leave none for it."""
    folder, day = of(trading, "bundled").stage.state_dir / "quotes", SCENARIOS["bundled"].day
    finish(folder, day, source="again", synthetic="")
    return folder / f"{day}.parquet"


def test_a_recording_holds_what_the_server_quoted_at_each_minutes_end(
    trading: dict[str, Lived], recording: Path
) -> None:
    session = of(trading, "bundled")
    market, day = session.stage.market, SCENARIOS["bundled"].day
    assert session.stage.read_log("recording_stopped") == session.stage.read_log("recording_narrowed") == []
    (quotes,) = QuoteFile(recording).sessions()
    assert len(set(quotes.end_ns.tolist())) == 390
    assert len(quotes.bid) > 390 * 20  # six strikes on each side, of both rights, and the desk's own
    closes = {bar.start_ns + MINUTE_NS: bar.close for bar in market.session_bars(day)}
    assert quotes.underlying.tolist() == [closes[end] for end in quotes.end_ns.tolist()]
    for row in range(0, len(quotes.bid), 97):
        symbol, end = quotes.contracts.symbols[quotes.codes[row]], int(quotes.end_ns[row])
        assert (Decimal(str(quotes.bid[row])), Decimal(str(quotes.ask[row]))) == market.quote(symbol, end)


def test_quotes_of_a_simulated_market_leave_the_journal_marked_as_made_up(
    trading: dict[str, Lived], tmp_path: Path
) -> None:
    state, out = of(trading, "bundled").stage.state_dir, tmp_path / "quotes.parquet"
    assert ctl.main(["export", "quotes", "--state-dir", str(state), "--out", str(out)]) == 0
    assert QuoteFile(out).synthetic == "a simulated Alpaca"


def test_a_dry_run_on_the_recording_differs_from_the_live_run_as_the_gap_report_states(
    trading: dict[str, Lived], recording: Path, tmp_path: Path
) -> None:
    """Every order of the dry run is one of the live run's, and it fills as the report has it on paper."""
    session, day = of(trading, "bundled"), SCENARIOS["bundled"].day
    state = _dry_run_on(recording, session.stage, tmp_path)
    gap = read_gap(session.stage.state_dir / FILE, day, recording.parent)
    lines = {line.client_order_id: line for line in gap.lines}
    live = {_order(row): row for row in session.books.orders.values()}
    dry = {_order(row): row for row in map(dict, records(state, "orders", "submitted_ns"))}
    assert len(dry) > 60
    assert dry.keys() <= live.keys()
    for key, row in dry.items():
        line = lines[live[key]["client_order_id"]]
        price = Decimal(row["cost"]) / row["filled"] if row["filled"] else None
        assert price == line.paper_price, key
        assert (price == line.live_price) or line.reason != "same"
    split = {line.client_order_id.rsplit("-", 1)[0] for line in gap.lines if line.reason == "quantity"}
    for key in live.keys() - dry.keys():  # the rest of an order that the server filled in parts
        assert live[key]["client_order_id"].rsplit("-", 1)[0] in split
    assert {line.reason for line in gap.lines} >= {"same", "price", "quantity"}


def _order(row: Mapping[str, Any]) -> tuple[int, str, int, str]:
    """What an order is in both runs: minute, contract, side, limit."""
    return row["submitted_ns"] // MINUTE_NS, row["symbol"], row["side"], row["limit_price"]


def _dry_run_on(quotes: Path, stage: Stage, folder: Path) -> Path:
    """Replay the stage's bars on these quotes by its rules; return the state directory."""
    rows = [
        f"{bar.start_ns},{bar.open!r},{bar.high!r},{bar.low!r},{bar.close!r},{bar.volume!r}"
        for bar in stage.market.bars["SPY"]
    ]
    tape, state = folder / "tape.csv", folder / "state"
    tape.write_text("\n".join(["timestamp,open,high,low,close,volume", *rows]) + "\n")
    rules = {
        f"{table}__{key}": value
        for tables in (LOOSE, UNENDING)
        for table in tables
        for key, value in tables[table].items()
    }
    rules["paths__models_dir"] = stage.models_dir
    usual = {name: value for name, value in environment().items() if not name.startswith("RLTRADER_")}
    env = usual | {f"RLTRADER_{name}".upper(): str(value) for name, value in rules.items()}
    arguments = ("--dry-run", "--bars", tape, "--option-quotes", quotes, "--state-dir", state)
    finished = rltraderd(*arguments, cwd=folder, env=env)
    assert finished.returncode == 0, finished.stderr
    return state


# --- the calendar -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "begin", "close"),
    [("half day", "09:30:00", "13:00:00"), ("spring", "09:30:00", "16:00:00"), ("autumn", "09:30:00", "16:00:00")],
)
def test_a_session_begins_and_is_flat_by_new_yorks_clock(
    calendar: dict[str, Lived], name: str, begin: str, close: str
) -> None:
    session = of(calendar, name)
    assert session.exit_code == 0, session.stage.log()[-2000:]
    day = SCENARIOS[name].day
    starts = [event["bar"]["start_ns"] for event in session.stage.journaled("BarClosed")]
    assert new_york_time(next(start for start in starts if start >= new_york_ns(day, "00:00"))) == begin
    assert session.account.trades
    assert new_york_time(session.account.trades[-1].time_ns) < close
    assert session.account.positions == {}
    assert differences(session.books, session.account) == []


def test_a_half_day_ends_with_an_exit_sent_before_its_own_close(calendar: dict[str, Lived]) -> None:
    session = of(calendar, "half day")
    last = session.account.trades[-1]
    assert last.quantity < 0
    sent_ns = session.account.orders[last.order_id].created_ns
    assert new_york_time(sent_ns) >= "12:53:00"  # flat 5 minutes before the close, the exit sent 2 minutes earlier
    assert new_york_time(last.time_ns) < "13:00:00"


def test_the_weeks_of_the_clock_change_open_at_different_hours_utc(calendar: dict[str, Lived]) -> None:
    opens = {"spring": (13, 30), "autumn": (14, 30)}
    for name, (hour, minute) in opens.items():
        scheduled = of(calendar, name).stage.journaled("SessionScheduled")
        session = next(event["session"] for event in scheduled if event["session"]["date"] == SCENARIOS[name].day)
        assert session["open_ns"] % (86_400 * 10**9) == (hour * 60 + minute) * MINUTE_NS
