"""A stage for a live daemon: tape, simulated clock, loopback Alpaca, state directory and the keys, for one scenario.

Waiting is always for something that happens, with a generous limit; nothing here computes an expected value.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from datetime import time as wall_time
from pathlib import Path
from typing import Any

from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from simulator.clock import SimClock
from simulator.prices.market import Market
from simulator.prices.tape import NEW_YORK
from simulator.server import LoggedRequest, RunningServer, serving
from simulator.trading.account import Account
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET, Rules
from strategies.kit.contract import Bar, Session
from strategies.kit.quantity import Quantity, exact
from strategies.kit.units import SECOND_NS
from tests.support.desks.live_desk import LOOSE, Books, Daemon, books, write_config
from tests.support.simulator.clocks import clock_from

KEYS = {"APCA_API_KEY_ID": DEFAULT_KEY, "APCA_API_SECRET_KEY": DEFAULT_SECRET}
IN_PARTS = Rules(fill_sizes=(1, 2))  # orders of three and more fill in parts
END = "the end"
LIMIT_S = 300.0  # for anything that is waited for
LOOK_S = 0.5  # virtual
LIMIT_H = 30  # virtual hours for anything that is waited for
LONGEST_NS = 60 * SECOND_NS
SESSIONS_BEFORE = 2  # of history, 780 bars: more than the strategy wants

Table = Mapping[str, Mapping[str, object]]
UNENDING: Table = {"sizing": {"stop_loss": 0.99, "take_profit": 100.0}}
"""Only the policy and the clock end a position."""
SELDOM_PINGED: Table = {"alpaca": {"ping_s": 30}}
"""For virtual time: each ping costs two steps of the clock."""
QUICK: Table = {"alpaca": {"backoff_max_s": 0.5}, "broker": {"blind_min": 120}, "feed": {"silence_s": 1200}}
"""For a fast clock: reconnects at once, and no alarm when a busy machine takes 200 ms, a clock's minute."""


@dataclass(frozen=True, slots=True)
class Tape:
    """Bars of one symbol and the sessions around them."""

    bars: tuple[Bar, ...]
    sessions: tuple[Session, ...]

    def market(self, day: str) -> Market:
        """A market of the session of `day` and of those before it that history needs."""
        index = next(index for index, session in enumerate(self.sessions) if session.date == day)
        first_ns = self.sessions[index - SESSIONS_BEFORE].open_ns
        last_ns = self.sessions[index].close_ns
        bars = [bar for bar in self.bars if first_ns <= bar.start_ns < last_ns]
        return Market(bars, sessions=self.sessions[max(index - SESSIONS_BEFORE - 3, 0) : index + 15])


def new_york_ns(day: str, clock: str) -> int:
    """A New York wall time such as `09:30` or `15:55:30` of a date, in nanoseconds UTC."""
    moment = datetime.combine(date.fromisoformat(day), wall_time.fromisoformat(clock), NEW_YORK)
    return int(moment.timestamp()) * SECOND_NS


def new_york_time(time_ns: int) -> str:
    """`HH:MM:SS` in New York."""
    return f"{datetime.fromtimestamp(time_ns / SECOND_NS, NEW_YORK):%H:%M:%S}"


def until(reached: Callable[[], bool], what: str) -> None:
    """Return when `reached`. Raises AssertionError, naming `what`, when that takes beyond all measure."""
    end_s = time.monotonic() + LIMIT_S
    while not reached():
        if time.monotonic() > end_s:
            raise AssertionError(f"waited {LIMIT_S} s for this: {what}")
        time.sleep(LOOK_S)


@dataclass(slots=True)
class Stage:
    """One scenario's server, clock and folder. `tables` are the configuration's, later ones win."""

    server: RunningServer
    clock: SimClock
    market: Market
    folder: Path
    models_dir: Path
    tables: tuple[Table, ...] = ()
    daemons: list[Daemon] = field(default_factory=list)

    @property
    def state_dir(self) -> Path:
        """Where the daemon's journal is."""
        return self.folder / "state"

    @property
    def account(self) -> Account:
        """The server's book."""
        return self.server.server.account

    def start(
        self,
        *arguments: str,
        environment: Mapping[str, str] = KEYS,
        tables: tuple[Table, ...] = (),
        ahead_s: float = 0.0,
        release: Path | None = None,
        prepare: Callable[[], object] | None = None,
    ) -> Daemon:
        """`rltraderd` with these arguments on this stage; of another `release` where one is named.

        `prepare` is called in its process before it.
        """
        path = self.folder / "config.toml"
        chosen = (LOOSE, UNENDING, *self.tables, *tables)
        write_config(path, self.server, self.clock, self.state_dir, *chosen, models_dir=self.models_dir)
        variables = {"RUNTIME_DIRECTORY": str(self.folder / "run")}  # the host's folder of locks
        log = self.folder / "log"
        daemon = Daemon(
            ["--config", str(path), *arguments],
            {**variables, **environment},
            log,
            ahead_s,
            self.clock,
            release,
            prepare=prepare,
        )
        self.daemons.append(daemon)
        return daemon

    def until_time(self, time_ns: int) -> None:
        """Return when the clock shows `time_ns`. Raises AssertionError when a daemon ended before."""
        while (left_ns := time_ns - self.clock.now_ns()) > 0:
            self.alive()
            self.clock.pass_s(min(left_ns, LONGEST_NS) / SECOND_NS)

    def until_true(self, reached: Callable[[], bool], what: str) -> None:
        """Return when `reached`. Raises AssertionError when a daemon ended before, or after `LIMIT_H` hours."""
        end_ns = self.clock.now_ns() + LIMIT_H * 3600 * SECOND_NS
        while not reached():
            self.alive()
            if self.clock.now_ns() > end_ns:
                raise AssertionError(f"waited {LIMIT_H} hours of virtual time for this: {what}")
            self.clock.pass_look(LOOK_S)

    def alive(self) -> None:
        """Raise AssertionError when the newest daemon has ended."""
        if self.daemons and self.daemons[-1].returncode is not None:
            raise AssertionError(f"rltraderd ended: {self.log()[-2000:]}")

    def log(self) -> str:
        """The log of all daemons of this stage."""
        return (self.folder / "log").read_text()

    def read_log(self, event: str) -> list[dict[str, Any]]:
        """The log's lines of one event, so far."""
        if not (self.folder / "log").exists():
            return []
        return [line for line in self.daemons[-1].read_log() if line["event"] == event]

    def posts(self) -> list[dict[str, Any]]:
        """The bodies of all submissions that reached the server."""
        return [json.loads(row.body) for row in self.requests("POST") if row.path == "/v2/orders"]

    def requests(self, *methods: str) -> list[LoggedRequest]:
        """What reached the server over REST."""
        return [row for row in self.server.server.requests[:] if row.method in methods]

    def held(self) -> dict[str, Quantity]:
        """Contracts and shares held by the server's book."""
        return self.server.call(
            lambda: {symbol: exact(position.qty) for symbol, position in self.account.positions.items()}
        )

    def halts(self) -> list[str]:
        """The reasons of the halts in the last daemon's log, oldest first."""
        return [str(line["reason"]) for line in self.read_log("halted")]

    def journaled(self, kind: str) -> list[dict[str, Any]]:
        """The journal's events of one kind so far, oldest first; none before the first daemon has taken it over."""
        if not self.read_log("run_started"):
            return []
        reader = JournalReader(self.state_dir / FILE)
        try:
            rows = reader.query("SELECT payload FROM events WHERE kind = ? ORDER BY id", (kind,))
            return [json.loads(row["payload"]) for row in rows]
        finally:
            reader.close()

    def books(self) -> Books:
        """What the journal says; the daemon must have ended."""
        return books(self.state_dir)


def entries(played: Stage) -> int:
    """Entries that reached the server."""
    return sum(post["side"] == "buy" for post in played.posts())


def holding(played: Stage) -> bool:
    """Whether the server's book has a position and no order works."""
    return bool(played.held()) and not played.server.call(lambda: list(played.account.working))


def flat(played: Stage) -> bool:
    """Whether the server's book has neither a position nor an order that works."""
    return not played.held() and not played.server.call(lambda: list(played.account.working))


@contextlib.contextmanager
def stage(
    tape: Tape,
    day: str,
    begin: str,
    folder: Path,
    models_dir: Path,
    *tables: Table,
    rate: float | None = None,
    **settings: Any,
) -> Iterator[Stage]:
    """A stage whose clock starts at New York's `begin` of `day`; what still runs at the end is killed.

    Time is virtual, or runs at `rate` simulated seconds a second. `settings` are those of `AlpacaServer`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    market = tape.market(day)
    rules: Rules = settings.setdefault("rules", IN_PARTS)
    with clock_from(new_york_ns(day, begin), rate, rules.seed) as clock, serving(market, clock, **settings) as server:
        quick = SELDOM_PINGED if rate is None else QUICK
        scene = Stage(server, clock, market, folder, models_dir, (quick, *tables))
        try:
            yield scene
        finally:
            for daemon in scene.daemons:
                daemon.kill()
                daemon.wait(10)


class Systemd:
    """systemd's end of a notification socket at `path`, bound on an absolute path or none. It reads on a thread of its
    own, as systemd does: what a full socket does not take is dropped.
    """

    def __init__(self, path: Path, watchdog_s: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(int(watchdog_s * 1e6))}
        self.heard: list[str] = []
        self._known = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while (message := self._socket.recv(4096).decode()) != END:
            self.heard.append(message)

    def hear(self) -> list[str]:
        """What came since the last call; `heard` has all."""
        before, self._known = self._known, len(self.heard)
        return self.heard[before : self._known]

    def received(self, message: str) -> bool:
        """Whether `message` came at any time."""
        return message in self.heard

    def close(self) -> None:
        """Close the socket."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(END.encode(), self._socket.getsockname())
        self._reader.join()
        self._socket.close()


def soon(desk: Stage, reached: Callable[[], bool], goal: str) -> None:
    """Return when `reached`, looked at every ten virtual seconds for twenty minutes."""
    for _ in range(120):
        if reached():
            return
        desk.alive()
        desk.clock.pass_s(10)
    raise AssertionError(f"waited twenty minutes of virtual time for this: {goal}")


def halted(desk: Stage) -> str:
    """The reason of the desk's halt, "" without one."""
    halt = desk.books().state.risk.halt
    return "" if halt is None else halt.reason
