"""Run a desk that learns while it trades, for as many sessions as one version needs for the whole ladder.

All processes, Redis and the ladder with the shipped criteria are real; only shadow and canary are shorter. The market
is synthetic and its time virtual: a session ends when everything in it is computed, and nights are skipped. The trainer
works in real time, so the next session waits for it.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from rltrader import module_command
from simulator.clock import SimClock
from simulator.faults import Faults
from simulator.online.prices import BURSTS, MOVE, as_csv, bars_of
from simulator.online.processes import Processes, ShowError, configuration
from simulator.prices.market import Market
from simulator.prices.tape import calendar_sessions
from simulator.server import RunningServer, serving
from simulator.trading.account import Account
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET, Rules
from simulator.virtual_clock import virtual_clock
from strategies.kit.contract import Session
from strategies.kit.units import MINUTE_NS


@dataclass(frozen=True, slots=True)
class Moved:
    """One step of the ladder, or one session on a step."""

    version: str
    from_step: str
    to_step: str
    champion: str
    reason: str
    detail: str
    figures: dict[str, float]


@dataclass(frozen=True, slots=True)
class Explored:
    """Choices of a session: all, those that the model did not rank best, and counts by action."""

    choices: int
    explored: int
    actions: dict[str, int]


class Books:
    """The journal in `state_dir`, and the folder of its versions."""

    def __init__(self, state_dir: Path, shelf: Path) -> None:
        self._journal, self._shelf = state_dir / "journal.sqlite", shelf

    def moves(self) -> list[Moved]:
        """Return the ladder's steps so far, oldest first."""
        with self._reading() as database:
            rows = database.execute("SELECT payload FROM events WHERE kind = 'LadderMoved' ORDER BY id").fetchall()
        return [_move_of(json.loads(row[0])) for row in rows]

    def meta(self, key: str) -> str:
        """Return a value of the journal's `meta` table."""
        with self._reading() as database:
            return str(database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0])

    def last_row(self, kind: str) -> int:
        """Return the newest row of an event's kind, 0 without one."""
        with self._reading() as database:
            return int(database.execute("SELECT max(id) FROM events WHERE kind = ?", (kind,)).fetchone()[0] or 0)

    def explored(self, session: Session) -> Explored:
        """Count the choices of a session by action, and those that differ from the greedy one."""
        span = (session.open_ns, session.close_ns)
        with self._reading() as database:
            rows = database.execute(
                "SELECT drawn, drawn != greedy, count(*) FROM choices WHERE time_ns > ? AND time_ns <= ? GROUP BY 1, 2",
                span,
            ).fetchall()
        actions: dict[str, int] = {}
        for action, _, count in rows:
            actions[action] = actions.get(action, 0) + count
        return Explored(sum(actions.values()), sum(row[2] for row in rows if row[1]), actions)

    def answered(self, session: Session) -> dict[str, int]:
        """Return how many decisions of a session each version answered."""
        with self._reading() as database:
            rows = database.execute(
                "SELECT model, count(*) FROM decisions WHERE kind = 'policy' AND model IS NOT NULL AND time_ns > ? "
                "AND time_ns <= ? GROUP BY 1",
                (session.open_ns, session.close_ns),
            ).fetchall()
        return dict(rows)

    def versions(self) -> list[str]:
        """Return the versions with a card, by the age of their cards."""
        cards = sorted((path.stat().st_mtime_ns, path.parent.name) for path in self._shelf.glob("*/card.json"))
        return [name for _, name in cards]

    def card(self, version: str) -> dict[str, Any]:
        """Return a version's card."""
        card: dict[str, Any] = json.loads((self._shelf / version / "card.json").read_text())
        return card

    def current(self) -> str:
        """Return the store's current version."""
        return (self._shelf / "current").read_text().strip()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(f"file:{self._journal}?mode=ro", uri=True, timeout=30.0)
        try:
            yield database
        finally:
            database.close()


def _move_of(payload: dict[str, Any]) -> Moved:
    return Moved(
        payload["version"],
        payload["from_step"],
        payload["to_step"],
        payload["champion"],
        payload["reason"],
        payload["detail"],
        payload.get("figures", {}),
    )


LINES = {
    "market": "the market is made up, and what it hides",
    "waits": "the desk starts without a model and trades nothing",
    "cold start": "the trainer makes the first model of the history",
    "wakes": "the first model wakes the desk",
    "explores": "choices against the model, which reach the trainer over Redis",
    "forged card": "a version that promises 30 % a session passes its card",
    "rolled back": "its canary finds it out, and the first model answers again",
    "learns": "after five sessions a version is set aside, and later ones judge it",
    "negated": "a version that wants the opposite of what was learned is refused",
    "published": "the version of session 5 is published",
    "card": "its card passes",
    "replay": "the replay of the journal's sessions passes",
    "shadow": "in shadow it leads",
    "canary": "it trades 10, 25, 50 and 100 % of the size",
    "champion": "it is the champion",
    "earns": "what it earns at the full size, beside what the first model earned",
    "dashboard": "the dashboard's page shows it, its card and its steps",
    "once": "each decision was learned once",
    "verified": "the whole journal steps again to the same bytes",
}
"""Required observations by name, in this order; docs/ONLINE.md has the same list."""


class Story:
    """Numbers and prints the observations. Raises ValueError for an unknown one."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self.seen: list[str] = []

    def tell(self, name: str, text: str) -> None:
        """Print an observation; a second time it changes nothing."""
        if name not in LINES:
            raise ValueError(f"{name!r} is no line of the show: expected one of {', '.join(LINES)}")
        if name not in self.seen:
            self.seen.append(name)
            self._write(f"{len(self.seen):2d}  {text}")

    @property
    def missing(self) -> list[str]:
        """Return the observations still missing, in order."""
        return [name for name in LINES if name not in self.seen]

    def end(self, problem: str = "", seconds: float = 0.0) -> int:
        """Print the result; returns the exit code."""
        if not self.missing and not problem:
            self._write(f"    All {len(LINES)} were seen, in {seconds:.0f} s.")
            return 0
        if problem:
            self._write(f"    It ended early: {problem}")
        self._write(f"    Not seen: {', '.join(self.missing) or 'nothing'}.")
        return 1


MODEL = Path(__file__).with_name("model.yaml")
SYMBOLS = ("SPY", "QQQ", "IWM", "DIA")
DESK, STRATEGY, CASH = "learner", "online_dqn", 100_000
FIRST, HISTORY = "2024-01-02", 31  # the first session, and the number of sessions of recorded history
LEARN, CARD, SHADOW, CANARY = 5, 8, 2, 1  # sessions: before a version is taken, of its card, and of the ladder's steps
PARTS = 4  # steps of the canary
SESSIONS = LEARN + CARD + SHADOW + PARTS * CANARY
NEGATED = LEARN + CARD - 2  # after this session the negated version's card covers eight of the champion's sessions
EPSILON = 0.05


class DeskAt:
    """The desk in `folder`: its configuration, and the arguments of its companion processes."""

    def __init__(self, folder: Path, redis_socket: Path) -> None:
        self._folder, self._redis = folder, f"unix://{redis_socket}"
        self.history = folder / "history.csv"

    def tables(self, clock: SimClock, server: RunningServer) -> dict[str, dict[str, object]]:
        """Return the daemon's configuration at this server."""
        urls = ("trading_url", "data_url", "stream_url", "trade_stream_url", "option_stream_url")
        return {
            **self.own_tables(),  # nights cost less with fewer reports; reports count as lost after broker.blind_min
            "alpaca": {**{name: getattr(server, name) for name in urls}, "ping_s": 600, "report_every_s": 150},
            "clock": clock.settings(),
        }

    def own_tables(self) -> dict[str, dict[str, object]]:
        """Return the tables that do not depend on the server; of the ladder only the lengths of shadow and canary."""
        return {
            "desk": {"name": DESK, "strategy": STRATEGY, "symbols": list(SYMBOLS), "model_config": str(MODEL)},
            "paths": {"state_dir": str(self._folder / "state"), "models_dir": str(self._folder / "store")},
            "feed": {"name": "sip", "options": "indicative"},
            "log": {"format": "json"},
            "policy": {"version": "current", "wait_for_first": True, "poll_s": 300},
            "exploration": {"kind": "epsilon", "epsilon": EPSILON},
            "ladder": {"promotion": "automatic", "shadow_sessions": SHADOW, "canary_sessions": CANARY},
            "risk": {  # four shares, each traded every few minutes
                "cooldown_trade_s": 0,
                "cooldown_loss_s": 0,
                "consecutive_losses_max": 1000,
                "orders_per_minute": 40,
                "orders_per_day": 10_000,
            },
        }

    def trainer(self) -> list[object]:
        """Return the arguments of `rltrader-trainer`."""
        arguments: list[object] = ["--desk", DESK, "--redis", self._redis, "--models-dir", self._folder / "store"]
        arguments += ["--own-dir", self._folder / "trainer", *self._model(), "--symbols", *SYMBOLS, "--preset", "quick"]
        arguments += ["--publish-every", LEARN, "--card-sessions", CARD, "--checkpoint-every", 2000]
        return [*arguments, "--log-format", "json"]

    def publisher(self) -> list[object]:
        """Return the arguments of `rltrader-publisher`."""
        folders: list[object] = ["--state-dir", self._folder / "state", "--own-dir", self._folder / "publisher"]
        return [*folders, "--redis", self._redis, "--log-format", "json"]

    def dashboard(self, port: int) -> list[object]:
        """Return the arguments of `rltrader-dashboard`."""
        return ["--state-dir", self._folder / "state", "--models-dir", self._folder / "store", "--port", port]

    def planter(self, kind: str, parent: str, stream: str) -> list[object]:
        """Return the arguments of `training.online.planted`."""
        arguments: list[object] = [kind, "--parent", parent, "--models-dir", self._folder / "store", *self._model()]
        arguments += ["--own-dir", self._folder / "trainer", "--state-dir", self._folder / "state"]
        return [*arguments, "--stream", stream]

    def _model(self) -> list[object]:
        return ["--bars", self.history, "--model-config", MODEL]


SPREAD = Decimal("0.03")  # USD: a purchase without a reason costs more than an ordinary minute earns
BEFORE_OPEN_NS, AFTER_CLOSE_NS, STEP_NS = 60 * MINUTE_NS, 20 * MINUTE_NS, 30 * MINUTE_NS
HOURS = 3  # of virtual time: limit for a due step of the ladder


class Show:
    """One run in `folder`, which must be empty and have a short name. `patience` scales timeouts."""

    def __init__(self, folder: Path, story: Story, patience: float, progress: Callable[[str], None]) -> None:
        self._folder, self._story, self._patience, self._progress = folder, story, patience, progress
        self._processes = Processes(folder, patience)
        self._desk_at = DeskAt(folder, self._processes.redis_socket)
        self._books = Books(folder / "state", folder / "store" / STRATEGY)
        sessions = calendar_sessions(FIRST, "2024-04-01")
        self._history, self._live = sessions[:HISTORY], sessions[HISTORY : HISTORY + SESSIONS]
        self._sessions = sessions
        self._account = Account(DEFAULT_KEY, DEFAULT_SECRET, cash=Decimal(CASH), margin=1)
        self._returns: list[float] = []  # of each session, as fractions of the equity before it
        self._canary: list[str] = []  # the canary's steps, each with its session's profit
        self._first = self._forged_version = self._negated_version = self._challenger = ""
        with socket.socket() as door:
            door.bind(("127.0.0.1", 0))
            self._port = int(door.getsockname()[1])  # port of the dashboard

    def run(self) -> None:
        """Run the whole demonstration. Raises ShowError if it cannot continue."""
        try:
            self._prepare()
            with self._desk() as (clock, server):
                self._wake(clock, server)
                for number, session in enumerate(self._live, 1):
                    self._progress(f"session {number} of {SESSIONS}")
                    self._night(clock, server, session)
                    self._session(clock, number, session)
                self._last(clock)
        finally:
            self._processes.stop_all()

    # --- what there is ------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Write the bars, start Redis and the trainer."""
        for name in ("store", "state", "trainer", "publisher", "run"):
            (self._folder / name).mkdir()
        self._desk_at.history.write_text(as_csv(bars_of(SYMBOLS, self._history, 1, recorded=True)))
        self._story.tell(
            "market",
            f"A made-up market of {len(SYMBOLS)} shares: in {BURSTS:.0%} of the minutes a burst of volume, after which "
            f"the price rises by {MOVE:.1%}. In {HISTORY} recorded sessions a dip of {MOVE:.1%} means nothing. From "
            "now on it comes back within the next minute.",
        )
        self._processes.start_redis()

    @contextmanager
    def _desk(self) -> Iterator[tuple[SimClock, RunningServer]]:
        """Serve the market, and start the daemon without a model."""
        sessions_seen = [*self._history[-2:], *self._live]
        bars = [*bars_of(SYMBOLS, self._history, 1, recorded=True), *bars_of(SYMBOLS, self._live, 2, recorded=False)]
        market = Market(
            [bar for bar in bars if bar.start_ns >= sessions_seen[0].open_ns],
            SYMBOLS[0],
            stock_spread=SPREAD,
            sessions=self._sessions[HISTORY - 4 : HISTORY + SESSIONS + 15],
        )
        rules = Rules(fill_sizes=(1000, 1000), rate_limit=10_000)
        with (
            virtual_clock(self._live[0].open_ns - BEFORE_OPEN_NS) as clock,
            serving(market, clock, rules=rules, accounts=[self._account], faults=Faults()) as server,
        ):
            try:
                yield clock, server
            finally:
                self._processes.stop("daemon", clock.passing)

    # --- before the first session -------------------------------------------------------------------------------------

    def _wake(self, clock: SimClock, server: RunningServer) -> None:
        """Let the trainer make the first model, for which the desk waits."""
        p, story = self._processes, self._story
        config = self._folder / "config.toml"
        config.write_text(configuration(self._desk_at.tables(clock, server)))
        pid = p.start("daemon", module_command("daemon", "--config", config), pinned=True)
        clock.expect(pid)
        p.until(lambda: bool(p.logged("daemon", "no_model")), "the desk waits for a model", 120.0)
        story.tell("waits", "The desk starts without a model: it waits, asks nothing and trades nothing.")
        began = time.monotonic()
        p.start("trainer", module_command("training.online", *self._desk_at.trainer()))
        p.until(lambda: bool(self._books.versions()), "the first version", 600.0)
        (self._first,) = self._books.versions()
        card = self._books.card(self._first)
        story.tell(
            "cold start",
            f"The trainer makes the first model of the history in {time.monotonic() - began:.0f} s: {self._first}, "
            f"which earns {card['session_mean']:+.2%} a session on sessions kept apart.",
        )
        p.until(lambda: bool(p.logged("daemon", "run_started")), "the desk runs", 120.0)
        if p.logged("daemon", "first_model") and self._books.current() == self._first:
            story.tell("wakes", f"The first model wakes the desk: {self._first} answers, at the full size.")
        p.start("publisher", module_command("daemon.experience", *self._desk_at.publisher()))
        p.start("dashboard", module_command("daemon.dashboard", *self._desk_at.dashboard(self._port)))
        p.until((self._folder / "trainer" / "trainer.pt").exists, "the trainer's first checkpoint", 60.0)
        p.begin("forger", self._planter("promising"))
        self._forged_version = p.finish("forger", 120.0).split()[-1]

    # --- one session --------------------------------------------------------------------------------------------------

    def _night(self, clock: SimClock, server: RunningServer, session: Session) -> None:
        """Skip the time to an hour before the session, in which nothing is decided."""
        if session.open_ns - BEFORE_OPEN_NS > clock.now_ns():
            server.jump_to(session.open_ns - BEFORE_OPEN_NS)

    def _session(self, clock: SimClock, number: int, session: Session) -> None:
        cash_before = self._account.cash
        self._pass(clock, session.close_ns + AFTER_CLOSE_NS)
        self._returns.append(float(self._account.cash / cash_before) - 1.0)
        self._processes.until(self._learned, "the trainer learns the session", 120.0)
        if number == 1:
            self._first_session(session)
        if number <= LEARN:
            self._look_at_forgery(clock, number)
        if number == LEARN:
            rows = sum(self._books.explored(session).choices for session in self._live[:LEARN])
            self._story.tell(
                "learns",
                f"After {LEARN} sessions the trainer has learned from {rows:,} choices, sets a version aside, and lets "
                f"{CARD} further sessions judge it.",
            )
        if number == NEGATED:
            self._processes.begin("negater", self._planter("negated"))
        if number == NEGATED + 1:
            self._look_at_negation(clock)
        if number == LEARN + CARD:
            self._look_at_card(clock)
        if number > LEARN + CARD:
            self._look_at_climb(clock, number)

    def _first_session(self, session: Session) -> None:
        exploration = self._books.explored(session)
        stream = self._redis().xinfo_stream(self._stream)
        self._story.tell(
            "explores",
            f"Session 1: {exploration.choices:,} choices, {exploration.explored} of them drawn against the model; "
            f"{self._returns[0]:+.2%}; {stream['entries-added']} decisions went over Redis to the trainer.",
        )

    def _look_at_forgery(self, clock: SimClock, number: int) -> None:
        """Check that the canary rejects a card with exaggerated figures, which passes the criteria."""
        replay_move = self._move_of(self._forged_version, "replay")
        if number == SHADOW and replay_move and (step := self._await(clock, self._forged_version, "canary_10")):
            self._story.tell(
                "forged card",
                f"A version with a forged card, {self._forged_version}, promises "
                f"{self._books.card(self._forged_version)['session_mean']:+.1%} a session: its card passes "
                f"({replay_move.detail}), and in shadow it is as good as the champion ({step.detail}).",
            )
        if number == LEARN and (step := self._await(clock, self._forged_version, "rolled_back")):
            returned_in_time = self._until(clock, lambda: self._books.current() == self._first)
            if returned_in_time:
                self._story.tell(
                    "rolled back",
                    f"The canary finds it out: rolled back from {step.from_step} ({step.reason}: "
                    f"{step.detail}); {self._first} answers again.",
                )

    def _look_at_negation(self, clock: SimClock) -> None:
        self._negated_version = self._processes.finish("negater", 600.0).split()[-1]
        if step := self._await(clock, self._negated_version, "refused"):
            self._story.tell(
                "negated",
                f"A version that wants the opposite of what was learned, {self._negated_version}, with an honest card: "
                f"refused ({step.reason}: {step.detail}).",
            )

    def _look_at_card(self, clock: SimClock) -> None:
        """Check the publication and the judgement of the trainer's own version."""
        versions = {self._first, self._forged_version, self._negated_version}
        self._processes.until(
            lambda: bool(set(self._books.versions()) - versions), "the trainer publishes its version", 300.0
        )
        (self._challenger,) = set(self._books.versions()) - versions
        card = self._books.card(self._challenger)
        self._story.tell(
            "published",
            f"The trainer publishes {self._challenger}: judged on {card['decisions']:,} choices of {card['sessions']} "
            f"sessions that it did not learn from, {card['exploration']:.1%} of them explored.",
        )
        if step := self._await(clock, self._challenger, "replay"):
            self._story.tell(
                "card",
                f"Its card passes: overlap {card['overlap']:.2f}, {card['effective']:,.0f} effective episodes, "
                f"{step.detail}.",
            )
        if step := self._await(clock, self._challenger, "shadow"):
            self._story.tell("replay", f"The replay of the journal's sessions passes: {step.detail}.")

    def _look_at_climb(self, clock: SimClock, number: int) -> None:
        steps = ("canary_10", "canary_25", "canary_50", "canary_100", "champion")
        place = number - LEARN - CARD - SHADOW
        if place < 0:
            return
        step = self._await(clock, self._challenger, steps[place])
        if step is None:
            if refused := self._move_of(self._challenger, "refused"):
                raise ShowError(f"the ladder refused {self._challenger} ({refused.reason}: {refused.detail})")
            return
        if place == 0:
            self._story.tell("shadow", f"In shadow for {SHADOW} sessions it leads: {step.detail}.")
            return
        part = steps[place - 1].removeprefix("canary_")
        self._canary.append(f"{part} % ({self._returns[-1]:+.2%})")
        if place == len(steps) - 1 == len(self._canary):
            self._story.tell(
                "canary",
                f"It trades a part of the size for a session each, without a breach: {', '.join(self._canary)}.",
            )
            self._story.tell("champion", f"{self._challenger} is the champion; {step.champion} answered before.")

    # --- the end ------------------------------------------------------------------------------------------------------

    def _last(self, clock: SimClock) -> None:
        former, newest = self._returns[LEARN : LEARN + CARD], self._returns[-1]
        mean = sum(former) / len(former)
        if newest > mean:
            self._story.tell(
                "earns",
                f"The first model earned {mean:+.2%} a session on average ({min(former):+.2%} to {max(former):+.2%}), "
                f"the one that learned {newest:+.2%} in its session at the full size.",
            )
        for rung in self._page()["rungs"]:
            if (rung["version"], rung["step"], rung["running"]) == (self._challenger, "champion", True):
                self._story.tell(
                    "dashboard",
                    f"The dashboard's page Learning shows {self._challenger} as the champion, with its card and the "
                    f"{len(rung['steps'])} steps that led there.",
                )
        entry_count = int(self._redis().xinfo_stream(self._stream)["entries-added"])
        self._processes.until(
            lambda: self._transitions() >= entry_count * len(SYMBOLS), "all is in the checkpoint", 120.0
        )
        if self._transitions() == entry_count * len(SYMBOLS):
            self._story.tell(
                "once", f"{entry_count:,} decisions came over Redis; the trainer learned each of them once."
            )
        self._processes.stop("daemon", clock.passing)
        p = self._processes
        p.begin("verify", module_command("daemon.cli.ctl", "verify", "--state-dir", self._folder / "state"))
        text = p.finish("verify", 600.0)
        if "identical" in text:
            self._story.tell(
                "verified", f"The whole journal steps again to the same bytes: {text.strip().splitlines()[-1]}"
            )

    def _planter(self, kind: str) -> list[str]:
        """Return the command that plants a bad version next to the champion."""
        return module_command("training.online.planted", *self._desk_at.planter(kind, self._first, self._stream))

    # --- looking ------------------------------------------------------------------------------------------------------

    @property
    def _stream(self) -> str:
        return f"rltrader:{DESK}:{self._books.meta('epoch')}:experience"

    def _redis(self) -> Any:
        import redis

        path = str(self._processes.redis_socket)
        return redis.Redis(unix_socket_path=path, username="rltrader-trainer", password=self._processes.secret)

    def _learned(self) -> bool:
        """Return whether the trainer has read all experience of the journal's sessions."""
        import redis

        try:
            stream = self._redis().xinfo_stream(self._stream)
            (group,) = self._redis().xinfo_groups(self._stream)
        except (redis.RedisError, ValueError):
            return False
        newest = stream["last-generated-id"]
        return bool(
            int(newest.split(b"-")[0]) >= self._books.last_row("SessionEnded") and group["last-delivered-id"] == newest
        )

    def _transitions(self) -> int:
        path = self._folder / "store" / STRATEGY / "learning.json"
        return int(json.loads(path.read_text())["transitions"]) if path.exists() else 0

    def _page(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/api/learning", timeout=60.0) as answer:
            page: dict[str, Any] = json.loads(answer.read())
        return page

    def _move_of(self, version: str, to_step: str) -> Moved | None:
        """Return the step that brought a version there, None if there was none."""
        steps = [move for move in self._books.moves() if move.version == version and move.from_step != move.to_step]
        return next((move for move in steps if move.to_step == to_step), None)

    def _await(self, clock: SimClock, version: str, to_step: str) -> Moved | None:
        """Return that step after waiting for some hours at most."""
        self._until(clock, lambda: self._move_of(version, to_step) is not None)
        return self._move_of(version, to_step)

    def _until(self, clock: SimClock, reached: Callable[[], bool]) -> bool:
        end_ns = clock.now_ns() + HOURS * 60 * MINUTE_NS
        while not reached() and clock.now_ns() < end_ns:
            self._pass(clock, clock.now_ns() + 5 * MINUTE_NS)
        return reached()

    def _pass(self, clock: SimClock, until_ns: int) -> None:
        """Let virtual time pass while all processes run. Raises ShowError."""
        row_count = 0
        while (left_ns := until_ns - clock.now_ns()) > 0:
            self._processes.check()
            try:
                clock.pass_s(min(left_ns, STEP_NS) / 1e9)
            except AssertionError as error:  # such as during a replay of the journal on a busy machine
                row_count += 1
                if row_count > self._patience:
                    raise ShowError(str(error)) from None
