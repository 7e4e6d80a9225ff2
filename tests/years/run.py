"""One run of a schedule: its world, its watch, what happens, calm at the end, and the verdict.

A run is a function of its schedule: it must be the only one of its process, whose clocks and sockets it replaces.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

from msgspec import UnsetType

from daemon.alpaca_api.books import PositionChange
from daemon.app.live import desk as live_desk
from daemon.app.live.desk import LiveDesk
from daemon.config.tables import AlarmsTable
from daemon.core.session import new_york_date
from daemon.engine.verify import verify
from daemon.journal.journal import FILE
from daemon.journal.rows import JournalError
from simulator.faults import Faults
from simulator.prices.corporate_actions import Merger, SpinOff, Split, morning_ns
from simulator.trading.account import Account
from simulator.trading.venue import Rounding, Rules
from strategies.kit.quantity import FINEST, Quantity
from strategies.kit.units import MINUTE_NS, SECOND_NS
from strategies.registry import strategy as strategy_named
from tests.chaos import verdict
from tests.chaos.desks.plan import with_share_fees
from tests.support.desks.live_desk import books
from tests.years import acts, guard, watch
from tests.years.desks import ONLINE, SCALPER, desk_of
from tests.years.guard import Guarded
from tests.years.host import Host
from tests.years.loop import OWNER, Process, StandsStill, running
from tests.years.met import count_lives
from tests.years.models import BY_MINUTE, STORE
from tests.years.schedule import BY_BAR, FAMILIES, Happening, Schedule, kind_of
from tests.years.watch import Problem, Watch
from tests.years.world import World

HERE = Path("/proc/self/cwd")  # a run's folder, by one name in every process
LOOK_S = 15.0
AFTER_MIN = 35  # after the close the host goes off
MORNING_MIN = 100  # before the open it is on again
LONG_NS = 40 * 3600 * SECOND_NS
BEFORE_MIN = 100  # the world begins so long before the first open
SETTLE_S = 5400.0
WAIT_S = 9 * 3600.0  # after the last close for what waits for a moment that did not come: eight hours at most
ENDS_MOST = 20  # of lives by themselves; then nobody starts it again
ON_CALL_MIN = (5.0, 120.0)  # until the person on call acts
RESETS = 0.3  # of halts for a loss: the person takes the loss and starts anew; else waits for the next session
STEPPED_AGAIN = 3  # one run in so many has its journal stepped again in the end, as `verify` does
UNTRADED = frozenset(("delisted", "halted"))
AS_PLANNED = "as planned"  # a command of the run's own person
SECRET = "years-secret-0000000000000000000000000000"
BY_LIMIT = frozenset(("daily_loss", "drawdown"))  # the market's own way may meet them
EXPLAINED: dict[str, frozenset[str]] = {
    "process": frozenset(("flatten",)),
    "person": frozenset(("foreign_order", "reconciliation", "short_position", "fill_mismatch", "flatten")),
    "persons' shares": frozenset(("foreign_order", "reconciliation")),
    "command": frozenset(("operator", "flatten", "accept_broker")),
    "panic": frozenset(("panic", "foreign_order", "flatten", "accept_broker")),
    "model": frozenset(("no_model",)),
    "configuration": frozenset(("configuration",)),
    "exits of zero minutes": frozenset(("configuration",)),
    "disk": frozenset(("journal_damaged", "accept_broker")),
    "ledger": frozenset(("cash_difference",)),
    "bust unheard": frozenset(("cash_difference",)),  # where nobody can know which fill is meant
    **dict.fromkeys(("correction unheard", "older correction"), frozenset(("cash_difference",))),  # of which fill?
    "prices": frozenset(("flatten", "operator", "accept_broker", "blind", "blind_hold", "shares_from_exercise")),
    "shares of both": frozenset(("foreign_order", "reconciliation")),
    "no report": frozenset(("flatten", "blind", "blind_hold")),
    "no report beside": frozenset(("foreign_order",)),
    "panic that leaves": frozenset(("panic", "foreign_order", "flatten", "accept_broker")),
    "start": frozenset(("no_model", "configuration")),
    "strategy": frozenset(("quarantine",)),
    "alarms": frozenset(("foreign_order", "reconciliation", "flatten", "reject_rate")),
    "account": frozenset(("foreign_order", "reconciliation", "short_position", "flatten", "accept_broker")),
    "basket": frozenset(("operator", "blind", "blind_hold")),
    "disk out of room": frozenset(("disk_full",)),
    "upgrade unclean": frozenset(("code_changed",)),
    "backup restored": frozenset(
        ("foreign_order", "reconciliation", "cash_difference", "accept_broker", "code_changed")  # of another release
    ),
    "split in parts": frozenset(("flatten", "accept_broker")),
    "split in parts beside": frozenset(("reconciliation", "short_position")),
    **dict.fromkeys(("merger", "spin-off"), frozenset(("flatten", "accept_broker", "reconciliation"))),
    **dict.fromkeys(("merger beside", "spin-off beside"), frozenset(("reconciliation", "short_position"))),
}
"""Halts that what the runner does explains, by family or name; a server's fault those of its kind, an outage its."""
OUTAGE = frozenset(("blind", "blind_hold", "history_missing"))
OUTAGES = frozenset(("network", "clock", "process"))  # families after which the desk may be blind for a while


@dataclass(slots=True)
class Hasty:
    """Whether the runs of this process and its children end with the first broken rule."""

    on: bool = False


HASTY = Hasty()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run. `digest` is the same on every machine."""

    schedule: Schedule
    problems: tuple[Problem, ...]
    digest: str
    met: dict[str, int]
    orders: int
    fills: int
    lives: int
    turns: int
    story: tuple[tuple[int, str, str], ...]


def _rules(settings: Mapping[str, object], seed: int, symbols: Sequence[str]) -> Rules:
    """How the broker trades fractions, rounds cash and charges for shares, by the world's settings."""
    whole = frozenset[str]()
    if symbols and "not_fractionable" in settings:
        whole = frozenset((symbols[cast("int", settings["not_fractionable"]) % len(symbols)],))
    rounding = cast("Rounding", settings.get("cash_rounding", "none"))
    rules = Rules(
        seed=seed,
        fill_sizes=(1, 4),
        not_fractionable=whole,
        fractions_in_parts=bool(settings.get("fractions_in_parts", False)),
        cash_rounding=rounding,
    )
    return with_share_fees(rules) if settings.get("share_fees") else rules


class Run:
    """A run under way: what acts and watch need of it."""

    def __init__(self, schedule: Schedule, folder: Path) -> None:
        self.schedule = schedule
        chance = random.Random(f"world {schedule.desk} {schedule.seed}")
        self.plan = desk_of(schedule.desk, schedule.seed, schedule.first, schedule.days, folder, chance)
        self.sessions = self.plan.sessions
        patient = ("world", "patient", True) in schedule.tables and schedule.desk == SCALPER
        self.models = Path(shutil.copytree(STORE if patient else self.plan.models_dir, folder / "models"))
        self.faults = Faults(schedule.seed)
        self.met: Counter[str] = Counter()
        self.problems: list[Problem] = []
        self.persons = 0
        self.by_hand_ns = 0
        self.split: set[str] = set()
        self.short_by_hand: set[str] = set()
        self.damaged = self.bad_file = self.reset_limits = self.money_moved = False
        self.one_file = asyncio.Lock()  # held while a file is bad
        self.off = False  # its host is
        self.panic_failed_ns = 0
        self.calm_ns = 0  # from then on no trouble is under way
        self.stop_loss = 0.3 if schedule.desk == "option_scalper" else 0.0
        self.befallen: set[str] = set()  # symbols whose company acts
        self.others_changes: set[PositionChange] = set()  # of the account without an order, which are no desk's
        self.leapt_ns = 0
        self.closings: set[str] = set()  # orders of the broker's own call to close, by the server's names
        self.raises = (0, 0)  # the strategy does on bars that begin within these times
        self.raised_ends = self.ends = 0  # by itself
        self.splits: list[tuple[Split, int]] = []  # in parts: each with the time of its books
        self.reorganised: list[tuple[Merger | SpinOff, int, int]] = []  # each with the time of its books and its line
        self.split_owed: dict[str, int] = {}  # symbol -> until when the ledger hides the line of its split
        self.tables = {section: dict(keys) for section, keys in self.plan.tables.items()}
        self.tables.setdefault("paths", {})["models_dir"] = str(self.models)
        for section, key, value in schedule.tables:
            self.tables.setdefault(section, {})[key] = value
        world_table = self.tables.pop("world", {})
        if "closes_after_min" in world_table:
            self.plan.market.close_early(schedule.first, cast("int", world_table["closes_after_min"]))
        self.by_fractions = bool(world_table.get("fractions_by_hand", False))  # what a person buys and sells
        cash = Decimal(str(world_table.get("cash_usd", self.plan.cash)))
        account = Account("PKYEARS0000000000000", SECRET, cash=cash, account_number="PA3YEARS0001")
        start_ns = self.sessions[0].open_ns - BEFORE_MIN * MINUTE_NS
        rules = _rules(world_table, schedule.seed, sorted(self.plan.symbols))
        self.world = World(folder, schedule.seed, start_ns, self.plan.market, account, rules, self.faults)
        if "guard" in self.tables:
            self.tables["guard"]["drop_dir"] = str(folder / guard.FOLDER)
            guard.give_key()
        self.guarded: Guarded | None = None  # made with the world
        self.guard_closes = bool(world_table.get("guard_closes", False))
        self._guard_closed = False
        self.host = Host(self)
        self.watch = Watch(self)
        self._alive_ns = 0  # since when this life is up
        self._epoch = ""
        self._unit = Decimal(1)
        self.attended = bool(world_table.get("attended", False))
        live_desk.BUSY_TICK_NS = cast("int", world_table.get("tick_s", 1)) * SECOND_NS
        live_desk.HOLDING_TICK_NS = cast("int", world_table.get("holding_tick_s", 5)) * SECOND_NS
        self.stop_loss = float(str(self.tables.get("sizing", {}).get("stop_loss", self.stop_loss)))
        self.stop_loss = self.stop_loss if schedule.desk == SCALPER else 0.0

    # --- what others ask ----------------------------------------------------------------------------------------------

    @property
    def desk(self) -> Any:
        """The desk with its lives."""
        return self.world.desk

    @property
    def config(self) -> Path:
        """The desk's configuration."""
        return self.world.folder / "config.toml"

    @property
    def shares(self) -> frozenset[str]:
        """Symbols of shares in this world."""
        return frozenset(self.plan.market.bars)

    @property
    def adopts(self) -> bool:
        """Whether the desk takes others' holdings over."""
        return bool(self.tables.get("broker", {}).get("foreign_orders") == "adopt")

    @property
    def time_stop_min(self) -> int:
        """Minutes after which a position has to leave, 0 for none."""
        return cast("int", self.tables.get("sizing", {}).get("time_stop_min", 0))

    def change(self, section: str, key: str, value: object) -> None:
        """Let the desk's next life have this setting."""
        self.tables.setdefault(section, {})[key] = value
        self.world.change(section, key, value)
        self.world.story.note("setting", {"key": f"{section}.{key}", "value": value})

    def now_ns(self) -> int:
        """The time."""
        return self.world.loop.now_ns

    def problem(self, rule: str, text: str) -> None:
        """Note a broken rule, once for the same text."""
        if all((it.rule, it.text) != (rule, text) for it in self.problems):
            self.problems.append(Problem(rule, self.now_ns(), text))
            self.world.story.note("problem", {"rule": rule, "text": text})

    def restored(self) -> None:
        """The desk goes on from a copy of its journal: what it did since then is a person's to it."""
        self.persons += 1
        self.by_hand_ns = self.now_ns()
        self.watch.restored()
        self.trouble_until(3600)

    def trouble_until(self, seconds: int) -> None:
        """Trouble is under way for so long, and for a while after it."""
        self.calm_ns = max(self.calm_ns, self.now_ns() + (seconds + 600) * SECOND_NS)

    def only_quotes(self) -> bool:
        """Whether of all faults only wide quotes are under way."""
        return all(fault.kind.startswith("quote_wide") for fault in self.faults.waiting()) and not self._is_halted()

    def willing(self) -> bool:
        """Whether nothing is armed against the desk."""
        return not self.faults.waiting() and self.now_ns() > self.calm_ns and not self._is_halted()

    def _is_halted(self) -> bool:
        """Whether an exchange halts a share, or did ten minutes ago."""
        now_ns, halts = self.now_ns(), self.world.market.halts.values()
        return any(since <= now_ns < until + 600 * SECOND_NS for spans in halts for since, until in spans)

    def stands(self) -> bool:
        """Whether the desk stands down, or its account is not to be traded."""
        live = self.desk.live
        if live is None or not self.desk.running:
            return True
        broker = live.engine.machine.state.broker
        return bool(broker.stood_down or broker.blocked or broker.wrong or broker.closed)

    def alive_since(self, ns: int) -> bool:
        """Whether one life has gone on since then, and was up two minutes before."""
        return bool(self.desk.running and self._alive_ns and self._alive_ns + 120 * SECOND_NS < ns)

    def holds(self) -> bool:
        """Whether the account holds or works anything."""
        return self.world.account.exposed()

    def opened_ns(self) -> int:
        """When the running session opened; 0 outside of one."""
        session = self.world.market.session_at(self.now_ns())
        return 0 if session is None else session.open_ns

    def exposed(self) -> bool:
        """Whether the desk holds or works something, by its own state."""
        live = self.desk.live
        return live is not None and self.desk.running and bool(live.engine.machine.state.exposed)

    @property
    def unit(self) -> Decimal:
        """The least number of shares that the desk counts; while a life does not come up, that of the life before."""
        live = self.desk.live
        if live is not None:
            state = live.engine.machine.state
            rule, choice = state.trading.basket.fractions, state.basket.fractions
            fractions = rule == "on" or (rule == "auto" and choice is True)
            self._unit = FINEST if fractions and self.schedule.desk != SCALPER else Decimal(1)
        return self._unit

    def own(self) -> dict[str, Quantity]:
        """What the desk holds by its own book, and the server knows of."""
        live = self.desk.live
        if live is None or not self.desk.running:
            return {}
        state = live.engine.machine.state
        positions = {symbol: position.quantity for symbol, position in state.book.positions.items()}
        return {symbol: quantity for symbol, quantity in positions.items() if symbol in self.world.account.positions}

    def epoch(self) -> str:
        """The journal's epoch, "" before there is one; while a life does not come up, that of the life before."""
        live = self.desk.live
        if live is not None:
            self._epoch = str(live.engine.machine.state.identity.epoch)
        return self._epoch

    def note_closings(self) -> None:
        """Remember which orders the desk sent by the broker's own call to close, which bear the server's names."""
        live = self.desk.live
        if live is not None:
            state = live.engine.machine.state
            orders = (*state.orders.values(), *state.closed.values())
            self.closings |= {it.order_id for it in orders if it.closing and it.order_id}

    @property
    def alarms_a_minute(self) -> int:
        """Runs of the operator's program within a minute."""
        return cast("int", self.tables.get("alarms", {}).get("per_minute", AlarmsTable().per_minute))

    def is_own(self, order_id: str) -> bool:
        """Whether the desk sent this order of the server."""
        order, epoch = self.world.account.orders.get(order_id), self.epoch()
        if order is None:
            return False
        name = order.client_order_id
        return (bool(epoch) and name.startswith(f"{epoch}-")) or order_id in self.closings or self.is_guards(name)

    def is_guards(self, client_order_id: str) -> bool:
        """Whether the desk's guard sent this order: its stop is the desk's own."""
        return self.guarded is not None and client_order_id.startswith(f"{guard.PREFIX}-")

    def closed_by_guard(self) -> None:
        """The guard asks the broker to close everything, what a person holds too."""
        self.persons += 1
        self.by_hand_ns, self._guard_closed = self.now_ns(), True
        self.trouble_until(600)

    def sells(self, _order: Any) -> bool:
        """Whether a sale that works sells what the desk holds: in an account of its own any may."""
        return True

    def own_by_trades(self) -> dict[str, Decimal]:
        """What the desk holds by the server's trades, also while it is dead."""
        return self.watch.own()

    def is_invested(self) -> bool:
        """Whether most of the desk's equity is in what it holds."""
        live = self.desk.live
        if live is None or not self.desk.running:
            return False
        book = live.engine.machine.state.book
        return bool(book.cash < book.equity / 3)

    def cash_changed(self) -> bool:
        """Whether something that moves money without a trade has happened so far: what is to come excuses nothing."""
        return any(it.changes_cash and self._at(it) <= self.now_ns() for it in self.schedule.happenings)

    def moved(self, symbol: str) -> bool:
        """Whether a corporate action moved shares of it in this run, also one that its price does not follow."""
        return (
            symbol in self.befallen or symbol in self.split or any(it.symbol == symbol for it in self.plan.happenings)
        )

    def equity(self) -> Decimal | None:
        """The account's equity by the market's middle prices; None where one is not known, or a merger is under way."""
        account, market, now_ns = self.world.account, self.world.market, self.now_ns()
        if any(self._is_between(*it) for it in self.reorganised):
            return None
        total = Decimal(account.cash)
        for symbol, position in account.positions.items():
            quote = market.fair(symbol, now_ns)
            if quote is None:
                return None
            total += position.qty * (quote[0] + quote[1]) / 2 * (100 if len(symbol) > 6 else 1) * self._owed(symbol)
        return total

    def _owed(self, symbol: str) -> Decimal:
        """How many shares each of its positions' is, while prices are those of a split and the books not, or before."""
        factor, now_ns = Decimal(1), self.now_ns()
        for split, books_ns in self.splits:
            if split.symbol == symbol and morning_ns(split.date) <= now_ns < books_ns:
                factor *= split.ratio
            elif split.symbol == symbol and books_ns <= now_ns < morning_ns(split.date):
                factor /= split.ratio
        return factor

    def _is_between(self, action: Merger | SpinOff, books_ns: int, _: int) -> bool:
        """Whether the books, or the first prices, of a merger or spin-off are still to come."""
        session = self.world.market.session_of(action.date)
        open_ns = 0 if session is None else session.open_ns
        return books_ns <= self.now_ns() < open_ns

    def halted(self, reason: str, detail: str) -> None:
        """The desk halted: by a limit of the market's own way, or by what happened before."""
        self.world.story.note("halted", {"reason": reason, "detail": detail})
        if reason == "daily_loss":
            self.watch.lost(detail)
        if reason not in BY_LIMIT | self._explained() and not detail.startswith(AS_PLANNED):
            self.problem("halt", f"{reason}: {detail}"[:300])

    def _explained(self) -> set[str]:
        """The halts that what happened so far explains."""
        reasons: set[str] = set()
        today = new_york_date(self.now_ns()).isoformat()
        if any(it.kind in UNTRADED and it.date <= today for it in self.plan.happenings):
            reasons.add("reject_rate")  # an exit of what does not trade is refused again and again
        if self.guarded is not None:
            reasons.add("fenced")
        if self._guard_closed:
            reasons |= EXPLAINED["panic"] | {"reconciliation"}
        for it in self.schedule.happenings:
            if self._at(it) > self.now_ns():
                break
            kind = kind_of(it.what)
            if kind is not None:
                reasons |= kind.halts | OUTAGE | {"reject_rate", "reconciliation", "cash_difference"}
                continue
            family = next((name for name, acts_of in FAMILIES.items() if it.what in acts_of), "")
            reasons |= EXPLAINED["no report beside"] if it.what.endswith("beside") else frozenset()
            reasons |= EXPLAINED.get(it.what, frozenset())
            reasons |= EXPLAINED.get(family, frozenset()) | (OUTAGE if family in OUTAGES else frozenset())
        return reasons

    def commanded(self, name: str, before: Any, refused: str) -> None:
        """An operator's command was carried out."""
        halt, session = before.risk.halt, before.session.session
        if name == "resume" and not refused and halt is not None and halt.reason in BY_LIMIT:
            today = session is not None and session.open_ns <= halt.since_ns and self.now_ns() < session.close_ns
            if today:
                self.problem("resume", f"resumed after a halt by {halt.reason} in its own session")
        if name == "resume-reset-limits" and not refused:
            self.reset_limits = True
        if name == "accept-broker" and not refused:
            self.panic_failed_ns = 0  # what is there is what the desk holds from now on

    # --- lives --------------------------------------------------------------------------------------------------------

    async def away(self, seconds: float) -> None:
        """Leave the desk down for a while."""
        await asyncio.sleep(seconds)
        if not self.desk.running and not self.off:
            self.desk.start()

    async def restart(self) -> None:
        """A clean stop, and the next life."""
        if self.desk.running:
            self.desk.stop()
            for _ in range(60):
                await asyncio.sleep(2.0)
                if not self.desk.running:
                    break
            else:
                self.problem("stuck", "a clean stop does not end")
                self.desk.kill(again=False)
        if not self.desk.running:
            self.desk.start()

    def _life(self, live: LiveDesk) -> None:
        self.desk.live = live
        self.watch.began()
        self._alive_ns = self.now_ns()

    def _over(self, code: int) -> None:
        """A life ended by itself or was stopped."""
        if self.raises[0] and code == 1 and self.now_ns() < self.raises[1] + 600 * SECOND_NS:
            self.raised_ends += 1
            self.desk.is_wanted &= self.raised_ends < ENDS_MOST
            return
        excused = self.bad_file or ((self.host.bad or self.damaged) and code == 1)
        if self.desk.is_wanted and code != 0 and not excused:
            self.problem("ended", f"the daemon ended by itself with code {code}")
            self.ends += 1
            self.desk.is_wanted &= self.ends < ENDS_MOST
        if code == 2 and self.desk.is_wanted and not self.bad_file:
            self.desk.again_in(60.0)

    # --- the whole ----------------------------------------------------------------------------------------------------

    async def _all(self) -> None:
        async with self.world.open(self.tables):
            self.desk.on_over = self._over
            self.desk.start()
            if "guard" in self.tables:
                self.guarded = Guarded(self)
                self.world.on_alarm = self._is_of_guard
                self.guarded.start()
            looking = asyncio.ensure_future(self._look())
            nights = asyncio.ensure_future(self._nights())
            on_call = asyncio.ensure_future(self._on_call())
            doing: list[asyncio.Task[None]] = []
            for it in self.schedule.happenings:
                await self.world.until(self._at(it))
                if self.off:
                    continue
                self.world.story.note("happens", {"what": it.what})
                doing.append(asyncio.ensure_future(acts.happen(self, it)))
            await self.world.until(self.sessions[-1].close_ns + 5 * MINUTE_NS)
            for task in doing:
                if task.done() and not task.cancelled() and task.exception() is not None:
                    raise task.exception()  # type: ignore[misc]
            await asyncio.wait_for(asyncio.gather(*doing), WAIT_S)
            on_call.cancel()
            await self._settle()
            looking.cancel()
            nights.cancel()
            self.desk.stop()
            for _ in range(120):
                await asyncio.sleep(2.0)
                if not self.desk.running:
                    break
            if self.desk.exit_code != 0:
                self.problem("ended", f"the last stop ended with {self.desk.exit_code}")

    async def _until_found(self) -> None:
        """Run it, but for what follows the first broken rule."""
        whole = asyncio.ensure_future(self._all())
        while not whole.done() and not self.problems:
            await asyncio.wait({whole}, timeout=LOOK_S)
        if whole.done():
            whole.result()

    async def _nights(self) -> None:
        """Switch the host off over the nights that are not lived through, and over weekends."""
        for number, (session, following) in enumerate(itertools.pairwise(self.sessions), 1):
            long = following.open_ns - session.close_ns > LONG_NS
            if not long and self.schedule.nights[number : number + 1] == (True,):
                continue
            await self.world.until(session.close_ns + AFTER_MIN * MINUTE_NS)
            if self.desk.running:
                self.desk.stop()
                await asyncio.sleep(60.0)
                if self.desk.running:
                    self.desk.kill(again=False)
            self.off = True
            if self.guarded is not None:
                await self.guarded.over_night(following.open_ns - (MORNING_MIN + 20) * MINUTE_NS)
            await self.world.until(following.open_ns - MORNING_MIN * MINUTE_NS)
            self.off = False
            if not self.desk.running:
                self.desk.start()

    def _at(self, it: Happening) -> int:
        return self.sessions[it.day].open_ns + int(it.minute * 60 * SECOND_NS)

    def _is_of_guard(self, line: Any) -> bool:
        """Whether an alarm's program was run by the guard, which then notes it."""
        if self.guarded is None or not self.guarded.is_guards():
            return False
        self.guarded.tell(line)
        return True

    async def _look(self) -> None:
        closes = [session.close_ns + 2 * MINUTE_NS for session in self.sessions]
        while True:
            self.watch.look()
            if self.guarded is not None:
                self.guarded.look()
            await asyncio.sleep(LOOK_S if self.world.market.session_at(self.now_ns()) else 240.0)
            while closes and closes[0] <= self.now_ns():
                closes.pop(0)
                if self.schedule.desk in BY_BAR:
                    watch.at_the_close(self)

    async def _on_call(self) -> None:
        """A person who leads a desk that stands out again, some time after it stood: so that it goes on trading."""
        chance = random.Random(f"on call {self.schedule.desk} {self.schedule.seed}")
        due_ns = 0
        while self.attended:
            await asyncio.sleep(LOOK_S * 8)
            live = self.desk.live
            if live is None or not self.desk.running:
                continue
            risk, broker = live.engine.machine.state.risk, live.engine.machine.state.broker
            if risk.halt is None and risk.pause is None and risk.reconciled and not broker.stood_down:
                due_ns = 0
            elif not due_ns:
                due_ns = self.now_ns() + int(chance.uniform(*ON_CALL_MIN) * MINUTE_NS)
            elif self.now_ns() >= due_ns:
                due_ns = 0
                if not risk.reconciled or broker.stood_down:
                    await acts.command(self, "accept-broker")
                    await asyncio.sleep(60.0)
                by_limit = risk.halt is not None and risk.halt.reason in BY_LIMIT
                await acts.command(self, "resume-reset-limits" if by_limit and chance.random() < RESETS else "resume")

    async def _settle(self) -> None:
        """Take all trouble away; a person accepts the broker's word and resumes, until book and broker agree."""
        self.faults.clear()
        self.host.refuses = ""
        self.world.network.down = False
        self.world.loop.ahead_ns = 0
        if not self.desk.running:
            self.desk.start()
        until_ns = self.now_ns() + int(SETTLE_S * SECOND_NS)
        apart = ["not up"]
        accepted = False
        while self.now_ns() < until_ns:
            await asyncio.sleep(60.0)
            if not self.desk.running or self.desk.live is None:
                if not self.desk.running and self.desk.exit_code is not None:
                    self.desk.start()
                continue
            state = self.desk.live.engine.machine.state
            apart = self._apart()
            if state.risk.reconciled and not apart:
                return
            minutes_left = (until_ns - self.now_ns()) / MINUTE_NS
            if not accepted and minutes_left < 45 and (state.risk.halt is not None or apart):
                accepted = await acts.command(self, "accept-broker")
        self.problem("apart", "; ".join(apart)[:800] or "not reconciled")

    def _apart(self) -> list[str]:
        """Where the books differ, by the running state."""
        state, account = self.desk.live.engine.machine.state, self.world.account
        differences = []
        if Decimal(account.cash) != state.book.cash and not self.persons:
            differences.append(f"cash: server {account.cash}, daemon {state.book.cash}")
        account_positions = {symbol: position.qty for symbol, position in account.positions.items() if position.qty}
        desk_positions = verdict.known(state)
        if account_positions != desk_positions:
            differences.append(f"positions: server {account_positions}, daemon {desk_positions}")
        beside = state.broker.beside
        if self.unit == FINEST and not (self.persons or isinstance(beside, UnsetType) or not beside):
            differences.append(f"nobody but the desk has traded, and beside lies {beside}")
        working = {order.client_order_id for order in account.working.values()} | set(account.working)
        closed_orders = [
            name for name, it in state.orders.items() if name not in working and it.order_id not in working
        ]
        if closed_orders:
            differences.append(f"orders that ended at the server work in the book: {closed_orders}")
        return differences

    def live(self) -> Outcome:
        """Run it all."""
        loop = self.world.loop
        count_lives(self.met)
        _let_it_raise(self)
        before = LiveDesk.__init__
        observe = LiveDesk._observe

        def new_init(desk: LiveDesk, *args: Any, **kwargs: Any) -> None:
            before(desk, *args, **kwargs)
            owner = OWNER.get()
            if isinstance(owner, Process) and owner is self.desk.process:
                self._life(desk)

        def observed(desk: LiveDesk, event: Any, step: Any) -> None:
            observe(desk, event, step)
            if desk is self.desk.live:
                self.watch.stepped(event, step)

        LiveDesk.__init__, LiveDesk._observe = new_init, observed  # type: ignore[method-assign,assignment]
        with running(loop):
            try:
                loop.run_until_complete(self._until_found() if HASTY.on else self._all())
            except StandsStill as error:
                self.problem("stuck", str(error))
        if not (HASTY.on and self.problems):
            self._judge()
        return Outcome(
            self.schedule,
            tuple(self.problems),
            self.world.story.digest(),
            dict(self.met),
            len(self.world.account.orders),
            len(self.world.account.trades),
            self.desk.lives,
            loop.turns,
            tuple(self.world.story.lines),
        )

    def _judge(self) -> None:
        with contextlib.suppress(JournalError, IndexError, KeyError):
            watch.in_the_end(self, books(self.desk.state_dir))
        if not self.damaged and self.schedule.seed % STEPPED_AGAIN == 0:
            try:
                different = verify(self.desk.state_dir / FILE, self.host.code_digest(), strategy_named).difference
            except JournalError as error:
                different = str(error)
            if different:
                self.problem("replay", different[:500])
        for leak in verdict.leaks(self.world.folder, [SECRET]):
            self.problem("leak", leak)


def _let_it_raise(run: Run) -> None:
    """Let the desk's strategy raise while the run has it so."""
    kind: Any = type(strategy_named(run.schedule.desk, BY_MINUTE if run.schedule.desk == ONLINE else ()))
    observe = kind.observe

    def observed(self: Any, state: Any, bars: Any, view: Any) -> Any:
        begin_ns, end_ns = run.raises
        if bars and begin_ns <= bars[-1].start_ns < end_ns:  # whoever asks, and whenever: a replay too
            raise RuntimeError("the world has it so")
        return observe(self, state, bars, view)

    kind.observe = observed


def live(schedule: Schedule, folder: Path) -> Outcome:
    """Run a schedule in `folder`, which is emptied before and removed after. For a process of its own.

    The run knows its folder as `HERE`: the journal may name it, and its bytes must not depend on where that is.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    before = Path.cwd()
    os.chdir(folder)
    os.environ["HOME"] = str(HERE)
    try:
        return Run(schedule, HERE).live()
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)
