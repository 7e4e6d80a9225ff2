"""One session of the campaign from its plan to its verdict: server, daemon, the plan's troubles, calm, and the checks.

Simulated time decides what happens when; no verdict depends on how fast the machine is.
"""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from daemon.config.load import load
from simulator.clock import SimClock
from simulator.prices.market import Market
from simulator.server import RunningServer, serving
from simulator.trading.account import Account
from simulator.trading.venue import Rules
from simulator.virtual_clock import virtual_clock
from tests.chaos import acts, verdict
from tests.chaos.desk import START_LIMIT_S, Desk, make_room, small_disk
from tests.chaos.kinds import HELD, WORKING
from tests.chaos.operator import Operator
from tests.chaos.operator import examine as examine_operator
from tests.chaos.plan import CALM_MIN, Plan, Trouble
from tests.chaos.tally import Tally
from tests.support.desks.live_desk import LOOSE, Books, write_config
from tests.support.paths import FIXTURE_MODELS, REPOSITORY

MANUAL = REPOSITORY / "docs" / "OPERATIONS.md"
MINUTE_NS = 60_000_000_000
LOOK_S = 5.0  # virtual
LIVES_MAX = 20  # of a daemon in one session
PROGRESS_S = 900.0  # virtual seconds in which a running daemon journals something
SETTLE_S = 3600.0  # virtual seconds without faults within which book and broker agree, or the daemon is halted
GRACE_MIN = 40  # simulated minutes that trouble which has not come yet may still wait for its moment
WINDOW_MIN = 185  # from a session's start to the market's close, at least


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a session. `met` counts each kind, `exposed` those with a working order or an open position."""

    number: int
    seed: str
    kinds: tuple[str, ...]
    met: dict[str, int]
    exposed: dict[str, int]
    end: str
    problems: tuple[str, ...]
    bars: int
    trades: int
    lives: int
    real_s: float
    commands: int = 0  # accepted, of an operator's
    unanswered: int = 0


@dataclass(slots=True)
class Run:
    """A session under way."""

    plan: Plan
    served: RunningServer
    clock: SimClock
    tally: Tally
    account: Account
    desk: Desk
    chance: random.Random
    up_ns: int = 0
    disk: Path | None = None
    waiting: list[Trouble] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    end: str = ""
    lives_max: int = LIVES_MAX
    operator: Operator | None = None
    _rows: int = -1
    _moved_ns: int = 0
    _looked_ns: int = 0

    def minute(self) -> float:
        """Simulated minutes since the daemon was up."""
        return (self.clock.now_ns() - self.up_ns) / MINUTE_NS

    def exposed(self) -> bool:
        """Whether an order works or a position is open at the server."""
        return self.account.exposed()

    def nap(self, seconds: float) -> None:
        """Let virtual time pass, and look that the daemon lives and moves."""
        self.watch()
        self.clock.pass_s(seconds)
        self.watch()

    def watch(self) -> None:
        """Start the daemon again when it ended by itself; note when it does not move."""
        if not self.desk.alive():
            why = self.desk.why_ended()
            self.desk.ends.append(why)
            if not (self.disk is not None and ("disk_full" in why or "journal_failed" in why)):
                self.problems.append(f"the daemon ended by itself: {why[:300]}")
            if self.disk is not None:
                make_room(self.disk)
            self.start()
        now_ns = self.clock.now_ns()
        if now_ns - self._looked_ns > MINUTE_NS:
            self._looked_ns = now_ns
            rows = self.desk.rows()
            if rows != self._rows:
                self._rows, self._moved_ns = rows, now_ns
            elif now_ns - self._moved_ns > PROGRESS_S * 1e9:
                self.problems.append(f"stuck: nothing journaled for {PROGRESS_S} s, {rows} events")
                self._moved_ns = now_ns

    def start(self) -> None:
        """The daemon's next life, as systemd would begin it; gives up after `lives_max`."""
        if self.desk.lives >= self.lives_max:
            raise RuntimeError("the daemon ended by itself again and again")
        self.desk.start()
        self._moved_ns = self.clock.now_ns()

    def up(self) -> None:
        """Wait until the daemon is up, as long as it takes within reason."""
        until_ns = self.clock.now_ns() + int(START_LIMIT_S * 1e9)
        while self.clock.now_ns() < until_ns and not self.desk.listening():
            self.nap(1.0)
        self.up_ns = self.clock.now_ns()


def run(plan: Plan, folder: Path, market: Market, *, operated: bool = False) -> Outcome:
    """Run one session in `folder` (new), `operated` with everything of the operator's side switched on.

    Raises nothing for a fault of the daemon: the outcome tells it.
    """
    began = time.monotonic()
    folder.mkdir(parents=True)
    chance = random.Random(f"run {plan.seed}")
    key, secret = (f"{word}{chance.getrandbits(120):030X}" for word in ("PKCHAOS", "secret-chaos-"))
    account, tally = Account(key, secret), Tally(plan.number)
    days = [session for session in market.sessions if market.closing_price(session.date) is not None]
    day = days[plan.day]  # of a half day a window earlier
    begin_ns = min(day.open_ns + plan.start_min * MINUTE_NS, day.close_ns - WINDOW_MIN * MINUTE_NS)
    full = any(trouble.kind.act == "disk_full" for trouble in plan.troubles)
    rules = Rules(seed=plan.number, fill_sizes=(1, 4))
    with (
        small_disk(folder / "disk", wanted=full) as small,
        virtual_clock(begin_ns, plan.seed) as clock,
        serving(market, clock, faults=tally, accounts=[account], rules=rules) as served,
    ):
        state_dir = folder / "disk" / "state"
        operator = Operator.of(plan, state_dir) if operated else None
        more = operator.tables() if operator is not None else {}
        models = shutil.copytree(FIXTURE_MODELS, folder / "models")
        config = write_config(
            folder / "config.toml", served, clock, state_dir, LOOSE, plan.tables, more, models_dir=models
        )
        desk = Desk(config, state_dir, (key, secret), folder / "log", clock)
        small_one = folder / "disk" if small else None
        session = Run(plan, served, clock, tally, account, desk, chance, disk=small_one, operator=operator)
        try:
            mix(session)
            settle(session)
            finish(session)
        finally:
            desk.kill()
        books = desk.books()
        problems = [*session.problems, *examine(plan, books, served, config, market)]
        if operator is not None and books is not None:
            problems += examine_operator(operator, books)
        problems += verdict.leaks(folder, (key, secret))
        bars = desk.bars_since(begin_ns)
    return Outcome(
        plan.number,
        plan.seed,
        tuple(trouble.kind.name for trouble in plan.troubles),
        dict(tally.kinds_met),
        dict(tally.kinds_exposed),
        session.end,
        tuple(problems),
        bars,
        len(account.trades),
        desk.lives,
        time.monotonic() - began,
        *([0, 0] if operator is None else operator.figures()),
    )


def mix(run: Run) -> None:
    """Let each trouble begin at its moment; wait a while for those whose moment does not come."""
    run.up()
    run.waiting = list(run.plan.troubles)
    again = [trouble for trouble in run.plan.troubles if trouble.kind.act == "kill" and _counting(trouble)]
    while run.minute() < CALM_MIN or (_unmet(run) and run.minute() < CALM_MIN + GRACE_MIN):
        run.nap(LOOK_S)
        if run.operator is not None:
            run.operator.turn(run)
        for trouble in again:  # what only a start asks for is asked for again until it was met
            if trouble not in run.waiting and not run.tally.kinds_exposed[trouble.kind.name] and run.desk.lives < 5:
                run.waiting.append(trouble)
        for trouble in [trouble for trouble in run.waiting if due(run, trouble)]:
            run.waiting.remove(trouble)
            begin(run, trouble)


def _counting(trouble: Trouble) -> bool:
    return any(line.counts for line in trouble.lines)


def _unmet(run: Run) -> bool:
    return any(not run.tally.kinds_exposed[trouble.kind.name] for trouble in run.plan.troubles)


def due(run: Run, trouble: Trouble) -> bool:
    """Whether the trouble's minute has come, and the account is as its kind wants it."""
    if run.minute() < trouble.from_min:
        return False
    if trouble.kind.when == HELD:
        return bool(run.account.positions)
    if trouble.kind.when == WORKING:
        if not run.account.working:  # what makes orders work for a while is armed first
            for line in trouble.lines:
                if not line.counts and not run.served.faults.waiting(line.kind):
                    run.served.call(run.tally.arm, trouble.kind.name, line, run.clock.now_ns())
        return bool(run.account.working)
    return True


def begin(run: Run, trouble: Trouble) -> None:
    """Arm the trouble's lines at the server, and do what it does itself."""
    kind, now_ns = trouble.kind, run.clock.now_ns()
    for line in trouble.lines:
        if (line.counts or kind.when != WORKING) and not run.tally.armed(kind.name, line):
            run.served.call(run.tally.arm, kind.name, line, now_ns)
    if kind.act:
        exposed = run.exposed()
        acts.ACTS[kind.act](run)
        if not _counting(trouble):
            run.tally.did(kind.name, exposed=exposed)


def settle(run: Run) -> None:
    """Take all faults away and wait until book and broker agree, or the daemon is halted for a reason it may have."""
    run.served.call(run.served.faults.clear)
    if run.operator is not None:
        run.operator.let_go(run)
    until_ns = run.clock.now_ns() + int(SETTLE_S * 1e9)
    apart: list[str] = ["no journal yet"]
    while run.clock.now_ns() < until_ns:
        run.nap(30.0)
        books = run.desk.books() if run.desk.listening() else None  # of a life that is up
        if books is None:
            continue
        halt, reconciled = books.state.risk.halt, books.state.risk.reconciled
        apart = run.served.call(verdict.disagreements, books, run.account)
        run.end = f"halted: {halt.reason}" if halt else "running"
        excused = halt is not None and not run.plan.books
        if (not apart and (reconciled or halt)) or excused:
            return
        apart = apart or ["not reconciled, and not halted"]
    run.problems.append(f"apart {SETTLE_S} s after the last fault: {'; '.join(apart)[:1500]}")


def finish(run: Run) -> None:
    """A clean stop: it ends with code 0 within its deadline, and its journal replays."""
    if (core := run.desk.core_size()) not in ("", "0"):
        run.problems.append(f"core dumps of up to {core} bytes are allowed: keys could reach a file")
    code = run.desk.stop(START_LIMIT_S)
    if code != 0:
        why = "still running" if code is None else run.desk.why_ended()
        run.problems.append(f"the stop ended with {code}: {why[:300]}")
    if different := run.desk.replayed():
        run.problems.append(f"the journal does not replay: {different[:500]}")


def examine(plan: Plan, books: Books | None, served: RunningServer, config: Path, market: Market) -> list[str]:
    """All that must hold in the end."""
    server, account = served.server, served.server.account
    if books is None:
        return ["the journal cannot be read"]
    halt = books.state.risk.halt
    problems = [] if halt is None or halt.reason in plan.halts else [f"halted: {halt.reason}: {halt.detail[:500]}"]
    if halt is not None and f"### halt `{halt.reason}`" not in MANUAL.read_text():
        problems.append(f"halted: {halt.reason}: {MANUAL.name} has no such heading")
    risk = load(config, {}).risk
    names = ("order_contracts_max", "position_contracts_max", "orders_per_minute", "orders_per_day")
    limits = {name: Decimal(str(getattr(risk, name))) for name in names}
    for name in ("order_notional_max_usd", "gross_exposure_max_usd"):
        limits[name] = Decimal(str(getattr(risk, name)))
    by_hand = Counter(kind.kind.act for kind in plan.troubles if kind.kind.act.startswith("hand_"))
    return [
        *problems,
        *verdict.posts_apart(server.requests, account),
        *verdict.fills_apart(books, account, whole=False),
        *verdict.intents_exceeded(books, account),
        *([] if by_hand else verdict.oversold(account)),
        *verdict.stops_twice(account),
        *verdict.entered_while_halted(books, account),
        *verdict.limits_exceeded(books, account, market, limits, risk.quote_age_max_s),
    ]
