"""One run: a broker, a gateway, three desks behind it, and a person in `main`, on one loop, from one seed.

A run is a function of its plan: it must be the only one of its process, whose clocks and sockets it replaces. What must
hold is looked at each minute and in the end (`RULES`), by the server's own books.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from daemon.alpaca_api.refusals import Refusal
from daemon.app.live.desk import LiveDesk
from daemon.core.broker.ledger import AMENDED
from daemon.engine.recover import code_digest
from daemon.engine.verify import verify as verify_desk
from daemon.gateway import watched
from daemon.gateway.events import MAIN
from daemon.gateway.gateway import ALL, Gateway
from daemon.gateway.journal import verify
from daemon.gateway.server import status_of
from daemon.gateway.setup import served_at
from daemon.journal.journal import FILE
from daemon.journal.rows import JournalError
from simulator.faults import Faults
from simulator.server import AlpacaServer
from simulator.trading.account import Account
from simulator.trading.settlement import cash_row
from simulator.trading.venue import Rules
from strategies.kit.contract import Session
from strategies.kit.units import MINUTE_NS, SECOND_NS
from strategies.registry import strategy as strategy_named
from tests.chaos import verdict
from tests.chaos.gateway import verdict as gateway_verdict
from tests.chaos.gateway.boundaries import BOUNDARIES, NONE, put
from tests.chaos.gateway.person import Person
from tests.support.desks.live_desk import books
from tests.support.paths import FIXTURE_MODELS
from tests.years import acts, guard, together
from tests.years.desk import DeskLives, take_the_place_of_threads
from tests.years.desks import CASH_USD, SCALPER, SYMBOLS, UNDERLYING, market_of, tables
from tests.years.gateway.guarded import GuardedStation
from tests.years.gateway.lives import NAME, GatewayLives
from tests.years.gateway.plan import (
    ACTS,
    ALL_AWAY,
    BOUNDARY,
    BROKER,
    COMPANY,
    FLIP,
    GATEWAY,
    GUARD,
    LEFT_OUT,
    MERGER,
    OF_A_DESK,
    PERSON,
    SETTINGS,
    SPLIT,
    UNTOLD,
    Happening,
    Plan,
    limits,
)
from tests.years.holders import Holders, fold
from tests.years.loop import OWNER, Killed, StandsStill, running
from tests.years.market import is_option
from tests.years.models import STORE
from tests.years.run import AFTER_MIN, BEFORE_MIN, MORNING_MIN
from tests.years.schedule import Happening as OfDesk
from tests.years.schedule import protection
from tests.years.watch import Problem
from tests.years.world import World, addresses_of, toml_of

RULES = {
    "sum": "the sub-accounts are not together what the server has, to the cent and the share, and it lasts",
    "book": "a desk's book is not its sub-account, although it is reconciled, and it lasts",
    "short": "the account, or a sub-account, has less than nothing of a symbol",
    "owner": "somebody sold what is another's",
    "stranger": "the server has an order that nobody placed",
    "holdings": "a sub-account does not hold what its own trades come to",
    "split": "of a share that split, merged or was spun off a desk does not have its own part",
    "posts": "an order was accepted twice",
    "fills": "a fill is not exactly once in its desk's journal",
    "intent": "more was filled than a decision meant to hold",
    "apart": "after all trouble server, gateway and desks do not agree, or one is halted",
    "ended": "a program ended by itself",
    "stuck": "a program does not move",
    "replay": "a journal does not step again",
    "leak": "a key stands in a file",
    **guard.RULES,
    "guard_shared": "the guard closes or fences an account that others trade in",
}
"""Every rule by its name."""

MAINS_USD = 50_000
PORT = 8433
KINDS = {SCALPER: ("options",)}  # of others: shares
LOOK_S = 60.0
NIGHT_LOOK_S = 300.0
APART_S = 240  # how long books may differ while everybody says that they are whole
SETTLE_S = 5400
LAST_LINE_S = 20 * 3600.0  # from the last close: a line of an action comes until the next day's open
ENDS_MOST = 20
UP_S = 300  # after its start a program is looked at
ON_CALL_MIN = (5.0, 60.0)
SECRET = "years-secret-{}-000000000000000000000"
STEPPED_AGAIN = 3  # desks' journals in one run of so many


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run. `digest` is the same on every machine."""

    plan: Plan
    problems: tuple[Problem, ...]
    digest: str
    met: dict[str, int]
    orders: int
    fills: int
    lives: int
    turns: int
    story: tuple[tuple[int, str, str], ...]


@dataclass(slots=True)
class OnLoop:
    """The server as the campaign's helpers reach it: on this very loop."""

    server: AlpacaServer

    def call(self, function: Any, *args: Any) -> Any:
        """Call it."""
        return function(*args)

    def by_hand(self, action: str, **fields: Any) -> Any:
        """What a person does on the broker's page."""
        return self.server.by_hand(action, **fields)


class Station:
    """A program of the floor, as the acts of the years know a run: the gateway or a desk."""

    def __init__(self, floor: Floor, name: str, desk: Any) -> None:
        self.floor, self.name, self.desk = floor, name, desk
        self.world, self.met, self.faults = floor.world, floor.met, floor.faults
        self.since_ns = 0  # it is up since then
        self.apart_ns = 0  # since when its book is not its sub-account's
        self.ends = 0
        self.epoch = ""  # of a desk's journal
        desk.on_over = self._over

    @property
    def state(self) -> Any:
        """The desk's state; None where it is not up."""
        live: LiveDesk | None = self.desk.live
        return live.engine.machine.state if live is not None and self.desk.running else None

    def now_ns(self) -> int:
        """The time."""
        return self.floor.now_ns()

    def trouble_until(self, seconds: int) -> None:
        """Trouble is under way."""

    def commanded(self, _name: str, _before: Any, _refused: str) -> None:
        """A command was carried out."""

    def problem(self, rule: str, text: str) -> None:
        """Note a broken rule."""
        self.floor.problem(rule, f"{self.name}: {text}")

    async def away(self, seconds: float) -> None:
        """Leave it down for a while."""
        await asyncio.sleep(seconds)
        if not self.desk.running and not self.floor.off:
            self.desk.start()

    async def stop(self) -> None:
        """A clean stop."""
        if not self.desk.running:
            return
        self.desk.stop()
        for _ in range(120):
            await asyncio.sleep(2.0)
            if not self.desk.running:
                break
        else:
            self.problem("stuck", "a clean stop does not end")
            self.desk.kill(again=False)
            return
        if self.desk.exit_code not in (0, None):
            self.problem("ended", f"a clean stop ended with {self.desk.exit_code}")

    async def restart(self) -> None:
        """A clean stop, and the next life."""
        await self.stop()
        if not self.desk.running and not self.floor.off:
            self.desk.start()

    def _over(self, code: int) -> None:
        if self.desk.is_wanted and code != 0:
            if self.name != self.floor.left_out:
                self.problem("ended", f"it ended by itself with code {code}")
                self.ends += 1
            self.desk.is_wanted &= self.ends < ENDS_MOST
            if code != 1 and self.desk.is_wanted:
                self.desk.again_in(60.0)


class Floor(Person):
    """A run under way."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.chance = random.Random(f"person {plan.seed}")
        world_chance = random.Random(f"floor {plan.seed}")
        market, self.sessions, self.befalls = market_of(plan.desks, plan.seed, plan.first, plan.days, world_chance)
        self.faults = Faults(plan.seed)
        self.met: Counter[str] = Counter()
        self.person: Counter[str] = Counter()
        self.problems: list[Problem] = []
        self.off = False  # the host is
        self.apart_ns = 0
        self.panics = self.flipped = 0
        self.guard: GuardedStation | None = None
        self.left_out = ""  # a desk that the gateway's file does not have
        self.one_file = asyncio.Lock()  # held while that file changes
        self.untold = False  # money is gone that no line tells, and no person has said so yet
        self.splits: list[tuple[str, int, int]] = []  # in parts: of what, when the books change, and the ledger's line
        self.befallen: set[str] = set()  # shares whose company acts, once
        self.parents: dict[str, str] = {}  # of shares that were spun off
        self.closing_calls: dict[str, str] = {}  # orders of the broker's own call to close, and the desk that sent it
        cash = Decimal(MAINS_USD + sum(CASH_USD[name] for name in plan.desks))
        for befalls in self.befalls:
            self.met[f"befalls: {befalls.kind}"] += 1
        self.account = Account(
            "PKYEARS0000000000000", SECRET.format("broker"), cash=cash, account_number="PA3YEARS0001"
        )
        start_ns = self.sessions[0].open_ns - BEFORE_MIN * MINUTE_NS
        odd = plan.seed % 2 > 0
        rules = Rules(seed=plan.seed, fill_sizes=(1, 4), calls_cross=True, gtc_ends_days=odd, one_id=odd)
        self.world = World(folder, plan.seed, start_ns, market, self.account, rules, self.faults)
        self.readers: list[Account] = []
        for name in plan.desks if plan.at_broker else ():
            reader = Account(*self._keys(name), cash=Decimal(0), account_number=f"PA3READS{len(self.readers)}")
            self.world.server.accounts[reader.key] = reader
            self.readers.append(reader)
        self.served = OnLoop(self.world.server)
        self.deadly = NONE
        put(self._boundary)

    @staticmethod
    def _keys(name: str) -> tuple[str, str]:
        return f"GW{name.upper().replace('_', ''):0<20}", SECRET.format(name)

    # --- for acts -----------------------------------------------------------------------------------------------------

    def now_ns(self) -> int:
        """The time."""
        return self.world.loop.now_ns

    def problem(self, rule: str, text: str) -> None:
        """Note a broken rule, once for the same text."""
        if all((it.rule, it.text) != (rule, text) for it in self.problems):
            self.problems.append(Problem(rule, self.now_ns(), text))
            self.world.story.note("problem", {"rule": rule, "text": text})

    def trouble_until(self, seconds: int) -> None:
        """Trouble of the broker is under way."""

    def status(self) -> dict[str, Any] | None:
        """What the gateway says of itself; None where none answers."""
        gateway = self.lives.gateway
        if gateway is None or not self.lives.running or not gateway.books.seq:
            return None
        return status_of(gateway)

    def free_by_hand(self) -> dict[str, Decimal]:
        """The shares that a person bought, which no panic sold, and that no sale keeps."""
        free = super().free_by_hand()
        self._note_calls()
        mains = {order_id for order_id, owner in self.closing_calls.items() if owner == MAIN}
        for trade in self.account.trades:
            if trade.order_id in mains and trade.symbol in free:
                free[trade.symbol] += trade.quantity
        for order in self.account.working.values():
            if order.id in mains and order.symbol in free:
                free[order.symbol] -= order.left
        return {symbol: quantity for symbol, quantity in free.items() if quantity > 0}

    def _note(self, owner: str) -> Any:
        def note(kind: str, fields: Any) -> None:
            self.world.story.note(kind, {"who": owner, **fields})

        return note

    # --- the whole ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _laid(self) -> Iterator[None]:
        """Write all files, and make gateway and desks."""
        world, server = self.world, self.world.server
        at_server = addresses_of(server)
        keys_dir = self.folder / "keys"
        sections: dict[str, dict[str, object]] = {
            "gateway": {
                "port": PORT, "state_dir": str(self.folder / NAME), "keys_dir": str(keys_dir), "ballast_mib": 1,
                "stream_symbols_max": 1000,
            },
            "alpaca": {**at_server, "ping_s": 60, "report_every_s": 60},
            "feed": {"name": "sip", "options": "indicative"},
            "log": {"format": "json"},
        }  # fmt: skip
        for name in self.plan.desks:
            sections[f"sub_account.{name}"] = {"capital": CASH_USD[name], "kinds": KINDS.get(name, ("shares",))}
            if name == self.plan.guarded:
                sections[f"sub_account.{name}"]["guard_prefix"] = guard.PREFIX
            for file, word in zip(("APCA_API_KEY_ID", "APCA_API_SECRET_KEY"), self._keys(name), strict=True):
                path = keys_dir / name / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(word)
                path.chmod(0o600)
        for section, key, value in self.plan.tables:
            sections.setdefault(section, {})[key] = value
        self.sections = sections
        config = self.folder / "gateway.toml"
        config.write_text(toml_of(sections))
        pair = (self.account.key, self.account.secret)
        self.lives = GatewayLives(world.loop, world.network, self.folder, config, pair, self._note(NAME))
        self.gateway = Station(self, NAME, self.lives)
        models = Path(shutil.copytree(STORE, self.folder / "models"))
        shutil.rmtree(models / SCALPER)
        shutil.copytree(FIXTURE_MODELS / SCALPER, models / SCALPER)
        through = served_at(f"http://127.0.0.1:{PORT}")
        if self.plan.at_broker:
            through = at_server | {key: through[key] for key in ("trading_url", "trade_stream_url")}
        self.stations = []
        for name in self.plan.desks:
            folder = self.folder / name
            folder.mkdir()
            file_sections = {section: dict(keys) for section, keys in tables(name, models).items()}
            for section, key, value in protection(name, self.plan.seed) if self.plan.protected else ():
                file_sections.setdefault(section, {})[key] = value
            file_sections["alpaca"] = {**file_sections.get("alpaca", {}), **through}
            file_sections |= {
                "feed": {"name": "sip", "options": "indicative"},
                "log": {"format": "json"},
                "control": {"enabled": False},
                "alarms": {"command": ["/bin/true"]},
            }
            file_sections["paths"] |= {"state_dir": str(folder / "desk")}
            if name == self.plan.guarded:
                for section, key, value in (*self.plan.guard, (GUARD, "drop_dir", str(self.folder / guard.FOLDER))):
                    file_sections.setdefault(section, {})[key] = value
                file_sections.pop("world", None)
            (folder / "config.toml").write_text(toml_of(file_sections))
            desk = DeskLives(
                world.loop, world.network, folder, folder / "config.toml", self._keys(name), self._note(name), name
            )
            self.stations.append(Station(self, name, desk))
            if name == self.plan.guarded:
                self._lay_guard(self.stations[-1], file_sections, at_server)
        yield

    def _lay_guard(self, station: Station, tables: dict[str, Any], at_server: dict[str, Any]) -> None:
        """Make the guard of a desk: its file is the desk's, but for the gateway's addresses."""
        guard.give_key()
        config = self.folder / "guard.toml"
        config.write_text(toml_of({**tables, "alpaca": {**tables["alpaca"], **at_server}}))
        self.guard = GuardedStation(self, station, tables, config)

    def _boundary(self, boundary: int) -> None:
        """The gateway is at a boundary of its work: it dies there if that was set."""
        process = self.lives.process
        if boundary == self.deadly and process is not None and process.alive and OWNER.get() is process:
            self.deadly = NONE
            self.met[f"gateway {BOUNDARY}{BOUNDARIES[boundary]}"] += 1
            process.die()
            raise Killed

    def live(self) -> Outcome:
        """Run it all."""
        loop = self.world.loop
        before = LiveDesk.__init__

        def new_init(desk: LiveDesk, *args: Any, **kwargs: Any) -> None:
            before(desk, *args, **kwargs)
            for station in self.stations:
                if OWNER.get() is station.desk.process:
                    station.desk.live, station.since_ns = desk, self.now_ns()

        LiveDesk.__init__ = new_init  # type: ignore[method-assign,assignment]
        with running(loop):
            try:
                loop.run_until_complete(self._all())
            except StandsStill as error:
                self.problem("stuck", str(error))
        self._judge()
        return Outcome(
            self.plan,
            tuple(self.problems),
            self.world.story.digest(),
            dict(self.met + self.person),
            len(self.account.orders),
            len(self.account.trades),
            self.lives.lives + sum(station.desk.lives for station in self.stations),
            loop.turns,
            tuple(self.world.story.lines),
        )

    async def _all(self) -> None:
        async with self.world.server:
            take_the_place_of_threads(self._tell)
            watched.EVERY_S = LOOK_S  # nobody reads its status file here
            with self._laid():
                everybody = [self.gateway, *self.stations]
                for station in everybody:
                    station.desk.start()
                if self.guard is not None:
                    self.guard.guarded.start()
                works = [asyncio.ensure_future(work) for work in (self._look(), self._nights(), self._on_call())]
                doing: list[asyncio.Task[None]] = []
                for it in self.plan.happenings:
                    await self.world.until(self.sessions[it.day].open_ns + int(it.minute * MINUTE_NS))
                    if not self.off:
                        doing.append(asyncio.ensure_future(self._happen(it)))
                await self.world.until(self.sessions[-1].close_ns + 5 * MINUTE_NS)
                await asyncio.wait_for(asyncio.gather(*doing), LAST_LINE_S)
                await self._settle()
                for work in works:
                    if work.done() and not work.cancelled() and work.exception() is not None:
                        raise work.exception()  # type: ignore[misc]
                    work.cancel()
                if self.guard is not None:
                    self.guard.guarded.lives.stop()
                for station in (*self.stations, self.gateway):
                    await station.stop()

    def _tell(self, line: Any) -> str:
        if self.guard is not None and self.guard.guarded.is_guards():
            self.guard.guarded.tell(line)
        self.world.story.note("alarm", {"alarm": line.alarm, "detail": line.detail})
        return ""

    async def _nights(self) -> None:
        """Switch the host off between sessions."""
        for session, following in itertools.pairwise(self.sessions):
            await self.world.until(session.close_ns + AFTER_MIN * MINUTE_NS)
            self._judge_trades()
            self.off = True
            for station in self._shuffled():
                if self.chance.random() < 0.5:
                    await station.stop()
                station.desk.kill(again=False)
            morning_ns = following.open_ns - MORNING_MIN * MINUTE_NS
            if self.guard is not None:
                await self.guard.guarded.over_night(morning_ns - 20 * MINUTE_NS)
            await self.world.until(morning_ns)
            self.off = False
            for station in self._shuffled():
                if not station.desk.running:
                    station.desk.start()

    def _shuffled(self) -> list[Station]:
        everybody = [self.gateway, *self.stations]
        self.chance.shuffle(everybody)
        return everybody

    # --- what happens -------------------------------------------------------------------------------------------------

    async def _happen(self, it: Happening) -> None:
        self.world.story.note("happens", {"who": it.who, "what": it.what})
        chance = random.Random(f"{self.plan.seed} {it.who} {it.what} {it.number}")
        if it.who == BROKER:
            await acts.arm(self, OfDesk(it.day, it.minute, it.what, it.number), chance)  # type: ignore[arg-type]
        elif it.who == PERSON:
            await self._person_does(it.what, self.sessions[it.day], chance)
        elif it.who == COMPANY:
            await self._acts(it, chance)
        elif it.who == GUARD:
            await self._befall_guard(it, chance)
        else:
            await self._befall(it, chance)
        self.met[f"{it.who} {it.what}"] += 1

    async def _acts(self, it: Happening, chance: random.Random) -> None:
        """A company that a desk holds acts over night, in parts; something comes between them to who holds it."""
        pairs = await together.until(self, self._shares, 6 * 3600.0)  # type: ignore[arg-type]
        if not pairs:
            return
        desk, symbol = chance.choice(pairs)
        self.befallen.add(symbol)
        if chance.random() < 0.5:  # a person has some too
            self._hand(symbol, chance.choice(("5", "40", "2.5")), "buy")
        following = self.sessions[it.day + 1]
        self.met[f"{it.what} under way"] += 1
        if it.what == SPLIT:
            self.splits.append(
                (symbol, *together.split_in_parts(self.world, self.faults, chance, symbol, following)[1:])
            )
        else:
            self._reorganise(it.what, symbol, following, chance)
        await self.world.until(together.while_split(following, chance))
        actor = chance.choice((GATEWAY, desk, desk, PERSON, ""))
        if actor == PERSON and chance.random() < 0.5:
            self._hand(symbol, str(chance.randint(1, 9)), "buy")
        elif actor == PERSON:
            desks = sum((positions.get(symbol, Decimal(0)) for positions in self.desk_positions().values()), Decimal(0))
            self._hand(symbol, str(int(self.account.quantity(symbol) - desks)), "sell")
        elif actor and not self.off:
            act = chance.choice(ACTS[GATEWAY] if actor == GATEWAY else OF_A_DESK)
            await self._happen(Happening(it.day, 0.0, actor, act, chance.randrange(10**6)))

    def _reorganise(self, what: str, symbol: str, following: Session, chance: random.Random) -> None:
        """Let a share be taken over, or spin one off, before this session."""
        days = self.world.market.days
        assert days is not None
        if what == MERGER:
            own_symbols = {one for name in self.plan.desks for one in SYMBOLS[name]} - {UNDERLYING} - self.befallen
            others = [one for one in sorted(own_symbols) if one in days.bars]
            action: Any = together.merger_of(days, others, chance, symbol, following.date)
        else:
            action = together.spin_off_of(chance, symbol, following.date)
            self.parents[action.new] = symbol
        self.befallen.add(action.new)
        moments = together.reorganised_in_parts(self.world, self.faults, chance, action, following)
        self.splits += [(name, *moments) for name in (symbol, action.new) if name]

    def _shares(self) -> list[tuple[str, str]]:
        """Desks and shares that they hold, but for what has contracts here."""
        states = {station.name: station.state for station in self.stations}
        by_desk = {name: sorted(state.book.positions) for name, state in states.items() if state is not None}
        return [
            (name, symbol)
            for name, symbols in by_desk.items()
            for symbol in symbols
            if symbol != UNDERLYING and not is_option(symbol) and symbol not in self.befallen
        ]

    def _hand(self, symbol: str, quantity: str, side: str) -> None:
        with contextlib.suppress(Refusal):
            self.served.by_hand("place", key=self.account.key, symbol=symbol, qty=quantity, side=side)

    async def _befall(self, it: Happening, chance: random.Random) -> None:
        station = self.gateway if it.who == GATEWAY else next(s for s in self.stations if s.name == it.who)
        network, process = self.world.network, station.desk.process
        if it.what.startswith(BOUNDARY):
            self.deadly = BOUNDARIES.index(it.what.removeprefix(BOUNDARY))
        elif it.what == "cut off":
            network.barred.add(station.name)
            if process is not None:
                network.reset(process)
            await asyncio.sleep(chance.uniform(5.0, 600.0))
            network.barred.discard(station.name)
        elif it.what.startswith("command "):
            await acts.command(station, it.what.removeprefix("command "))  # type: ignore[arg-type]
        elif it.what == FLIP:
            await self._flip(chance)
        elif it.what in (SETTINGS, LEFT_OUT):
            await self._change_settings(chance, left_out=it.what == LEFT_OUT)
        elif it.what == "host without power":
            everybody = [self.gateway, *self.stations]
            for one in everybody:
                one.desk.kill(power=True, again=False)
            await asyncio.gather(*(one.away(chance.uniform(60.0, 900.0)) for one in everybody))
        else:
            await acts.ACTS[it.what](station, chance)  # type: ignore[arg-type]

    async def _befall_guard(self, it: Happening, chance: random.Random) -> None:
        assert self.guard is not None
        run: Any = self.guard
        if it.what == ALL_AWAY:
            both = (self.gateway, self.guard.station)
            for one in both:
                one.desk.kill(power=True, again=False)
            await asyncio.gather(*(one.away(chance.uniform(300.0, 3 * 3600.0)) for one in both))
        elif it.what in guard.GUARD:
            await guard.GUARD[it.what](run, self.guard.guarded, chance)
        else:
            station: Any = self.guard.station
            await acts.ACTS[it.what](station, chance)

    async def _flip(self, chance: random.Random) -> None:
        """Flip a bit of the gateway's journal under a kill; a person resumes. What moved inside nobody else knows."""
        self.lives.kill(again=False)
        but = (
            "Opened",
            "Transferred",
            "DifferenceAccepted",
            *(("Reported",) if chance.random() < 0.7 else ()),
        )  # most rows are reports
        row = acts.flip_a_bit(self.lives.state_dir, chance, "events", but)
        self.flipped += row is not None
        self.lives.start()
        await asyncio.sleep(chance.uniform(120.0, 3600.0))
        self._ask("resumed", lambda it: it.resume("ann", "compared"))

    async def _change_settings(self, chance: random.Random, *, left_out: bool) -> None:
        """Stopped, or killed, and started with other limits; or without a desk, which a later start has again."""
        if chance.random() < 0.5:
            await self.gateway.stop()
        self.lives.kill(again=False)
        async with self.one_file:
            sections = self.sections
            if left_out:
                self.left_out = chance.choice(self.plan.desks)
                table_name = f"sub_account.{self.left_out}"
                self.lives.config.write_text(
                    toml_of({name: keys for name, keys in sections.items() if name != table_name})
                )
                await self.gateway.away(5.0)
                await asyncio.sleep(chance.uniform(60.0, 3600.0))
                await self.gateway.stop()
                self.left_out = ""
            else:
                for section, key, value in limits(self.plan.desks, chance):
                    sections.setdefault(section, {})[key] = value
            self.lives.config.write_text(toml_of(sections))
            await self.gateway.away(5.0)

    async def _person_does(self, act: str, session: Session, chance: random.Random) -> None:
        desk = chance.choice(self.plan.desks)
        match act:
            case "trade":
                self.trade_by_hand()
            case "fee":
                words = chance.choice(("TAF fee for proceed of 9 shares", "REG fee", "ORF fee", "Regulatory fees"))
                amount = -Decimal(chance.randint(1, 400)) / 100
                cash_row(self.account, "FEE", amount, self.now_ns(), words)
            case "deposit":
                cash_row(self.account, "CSD", Decimal(chance.randint(1, 90_000)) / 100, self.now_ns(), "a deposit")
            case "exercise":
                symbol = self.option_by_hand(session, call=True)
                await asyncio.sleep(chance.uniform(30.0, 600.0))
                if symbol and self.account.quantity(symbol) > 0:
                    self.person["exercised"] += self.exercise_by_hand(symbol)
            case "let a contract expire":
                self.option_by_hand(session, call=False)
            case "transfer to a desk" | "transfer from a desk":
                ends = (MAIN, desk) if act == "transfer to a desk" else (desk, MAIN)
                cash = Decimal(chance.randint(1, 50_000)) / 100
                self._ask("moved", lambda it: it.transfer(*ends, cash, "", Decimal(0), "ann", "as planned"))
            case "halt and resume":
                self._ask("halted", lambda it: it.halt("operator", "as planned", "ann"))
                await asyncio.sleep(chance.uniform(60.0, 3600.0))
                self._ask("resumed", lambda it: it.resume("ann", "as planned"))
            case _ if act == UNTOLD:
                loss = Decimal(chance.randint(1, 9_000)) / 100
                self.account.cash -= loss
                self.untold = True
                count = self.person[UNTOLD]
                while self.person[UNTOLD] == count:  # until no fill, death or late line is in its way
                    await asyncio.sleep(chance.uniform(30.0, 300.0))
                    self._ask(UNTOLD, functools.partial(_accept, loss))
                self.untold = False
            case "panic of the account":
                self.panics += 1
                self._ask("panic of all", lambda it: it.panic(ALL, "ann"))
                await asyncio.sleep(chance.uniform(600.0, 3600.0))
                self._ask("resumed", lambda it: it.resume("ann", "as planned"))
            case "panic of a desk":
                self._ask("panic of one", lambda it: it.panic(desk, "ann"))
                await asyncio.sleep(chance.uniform(600.0, 3600.0))
                self._ask("lifted", lambda it: it.lift(desk))
            case _:
                raise ValueError(act)

    def _ask(self, act: str, ask: Callable[[Gateway], Coroutine[Any, Any, Any]]) -> None:
        """Let the operator's socket do it, if the gateway is there."""
        gateway, process = self.lives.gateway, self.lives.process
        if gateway is None or process is None or not gateway.ready or not self.lives.running:
            return

        async def ask_once() -> None:
            with contextlib.suppress(ValueError, Refusal):
                await ask(gateway)
                self.person[act] += 1

        self.world.loop.graveyard.append(self.world.loop.spawn(process, ask_once()))

    async def _on_call(self) -> None:
        """A person who leads a desk that stands out again."""
        chance = random.Random(f"on call {self.plan.seed}")
        due_ns: dict[str, int] = {}
        while True:
            await asyncio.sleep(120.0)
            for station in self.stations:
                state = station.state
                if state is None:
                    continue
                stands = state.risk.halt is not None or state.risk.pause is not None or state.broker.stood_down
                if state.risk.reconciled and not stands:
                    due_ns.pop(station.name, None)
                elif station.name not in due_ns:
                    due_ns[station.name] = self.now_ns() + int(chance.uniform(*ON_CALL_MIN) * MINUTE_NS)
                elif self.now_ns() >= due_ns[station.name]:
                    del due_ns[station.name]
                    self.met[f"halt {state.risk.halt.reason if state.risk.halt else 'none'}"] += 1
                    if not state.risk.reconciled or state.broker.stood_down:
                        await acts.command(station, "accept-broker")  # type: ignore[arg-type]
                        await asyncio.sleep(60.0)
                    await acts.command(station, "resume")  # type: ignore[arg-type]

    # --- what must hold -----------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S if self.world.market.session_at(self.now_ns()) else NIGHT_LOOK_S)
            self.look()

    def look(self) -> None:
        """Compare sum and server, books and sub-accounts; they may differ while news is on its way."""
        now_ns = self.now_ns()
        self._note_calls()
        if self.guard is not None:
            self._epochs()
            self.guard.guarded.look()
        for symbol, position in self.account.positions.items():
            if position.qty < 0:
                self.problem("short", f"the account has {position.qty} {symbol}")
        status = self.status()
        if status is None or not status["ready"]:
            self.met["look: away"] += 1
            self.apart_ns = 0
            for station in self.stations:
                station.apart_ns = 0
            return
        for row in status["accounts"]:
            for symbol, text in row["positions"].items():
                if row["name"] != MAIN and Decimal(text) < 0:
                    self.problem("short", f"{row['name']} has {text} {symbol}")
        apart = self._sum_apart(status)
        self.met["look: apart" if apart else "look: equal"] += 1
        self.apart_ns = (self.apart_ns or now_ns) if apart else 0
        if apart and now_ns - self.apart_ns > APART_S * SECOND_NS:
            self.problem("sum", gateway_verdict.worded(apart))
        for station in self.stations:
            apart = self._book_apart(station, status)
            station.apart_ns = (station.apart_ns or now_ns) if apart else 0
            if apart and now_ns - station.apart_ns > APART_S * SECOND_NS:
                station.problem("book", gateway_verdict.worded(apart))

    def _sum_apart(self, status: dict[str, Any]) -> list[str]:
        """Where the sub-accounts are not together what the server has, but for what a line, or a person, is to tell."""
        apart, now_ns = gateway_verdict.sum_apart(status, self.account), self.now_ns()
        owed = {symbol for symbol, books_ns, line_ns in self.splits if books_ns <= now_ns < line_ns}
        owed |= {"cash"} if self.untold else set()
        return [it for it in apart if not owed or it.split(":")[0] not in owed | {"cash"}]

    def _book_apart(self, station: Station, status: dict[str, Any]) -> list[str]:
        """Where a desk that is reconciled, with nothing at work, is not its sub-account."""
        state = station.state
        if (
            state is None
            or not state.risk.reconciled
            or state.orders
            or station.since_ns + UP_S * SECOND_NS > self.now_ns()
        ):
            return []
        part: Account = gateway_verdict.part(status, station.name, self.account)
        return _apart(state, part)

    async def _settle(self) -> None:
        """Take all trouble away, until everybody agrees."""
        self.faults.clear()
        self.deadly = NONE
        self.world.network.down = False
        self.world.network.barred.clear()
        self._let_go()
        until_ns, apart = self.now_ns() + SETTLE_S * SECOND_NS, ["nothing was compared yet"]
        while apart and self.now_ns() < until_ns:
            await asyncio.sleep(60.0)
            for station in (self.gateway, *self.stations):
                if not station.desk.running and station.desk.exit_code is not None:
                    station.desk.start()
            apart = self._differences()
        if apart:
            self.problem("apart", "; ".join(apart)[:1500])

    def _let_go(self) -> None:
        """The broker goes on with what it held back, and ends what waits for its cancel."""
        matching = self.world.server.matching
        for order in list(self.account.working.values()):
            order.held = False
            if order.status == "pending_cancel":
                order.canceled_ns = self.now_ns()
                matching.end(self.account, order, "canceled", order.canceled_ns)
        matching.changed.set()

    def _differences(self) -> list[str]:
        status = self.status()
        if status is None or not status["ready"]:
            return [f"the gateway is away: {'no answer' if status is None else status['away']}"]
        apart = gateway_verdict.sum_apart(status, self.account)
        for station in self.stations:
            state = station.state
            if state is None:
                apart.append(f"{station.name}: not up")
                continue
            words = _apart(state, gateway_verdict.part(status, station.name, self.account))
            if state.risk.halt is not None:
                words.append(f"halted: {state.risk.halt.reason}: {state.risk.halt.detail[:200]}")
            elif not state.risk.reconciled:
                words.append("not reconciled")
            apart += [f"{station.name}: {word}" for word in words]
        return apart

    def _epochs(self) -> dict[str, str]:
        result = {}
        for station in self.stations:
            live = station.desk.live
            if live is not None:
                station.epoch = str(live.engine.machine.state.identity.epoch)
            result[station.name] = station.epoch
        return result

    def _note_calls(self) -> None:
        """Remember whose the orders of close calls are, which bear the server's names, and the guard's."""
        for sent in self.account.orders.values() if self.plan.guarded else ():
            if sent.client_order_id.startswith(f"{guard.PREFIX}-"):
                self.closing_calls[sent.id] = self.plan.guarded
        gateway = self.lives.gateway
        for order in () if gateway is None else gateway.books.orders.values():
            if order.closing and order.id:
                self.closing_calls.setdefault(order.id, order.account)
        for station in self.stations:
            live = station.desk.live
            if live is not None:
                state = live.engine.machine.state
                orders = (*state.orders.values(), *state.closed.values())
                self.closing_calls |= {it.order_id: station.name for it in orders if it.closing and it.order_id}

    def _judge_trades(self) -> None:
        self._note_calls()
        epochs = self._epochs()
        requests = (request for request in self.world.server.requests if request.key == self.account.key)
        for rule, findings in (
            ("owner", gateway_verdict.oversold(self.account, epochs, self.closing_calls)),
            ("stranger", gateway_verdict.strangers(self.account, epochs, self.closing_calls)),
            ("posts", verdict.posts_apart(requests, self.account)),
        ):
            for words in findings:
                self.problem(rule, words)

    def _judge(self) -> None:
        self._judge_trades()
        epochs = self._epochs()
        try:
            different = verify(self.lives.state_dir / FILE).difference
        except JournalError as error:
            different = str(error)
        if different and not (self.flipped and different.endswith("is damaged")):
            self.problem("replay", f"{NAME}: {different[:500]}")
        if self.lives.gateway is not None:
            for words in gateway_verdict.holdings_apart(
                status_of(self.lives.gateway), self.account, epochs, self.closing_calls
            ):
                self.problem("holdings", words)
            self._judge_splits(self.lives.gateway)
        for station in self.stations:
            self._judge_desk(station)
        pairs = [(self.account.key, self.account.secret), *(self._keys(name) for name in self.plan.desks)]
        shutil.rmtree(self.folder / "keys")
        for leak in verdict.leaks(self.folder, [word for pair in pairs for word in pair]):
            self.problem("leak", leak)

    def _judge_splits(self, gateway: Gateway) -> None:
        """Of a share whose company acted in parts each desk has what its trades come to, but for a fraction."""
        amended = {row.fields.get("symbol") for row in self.account.activities if row.fields.get("status") in AMENDED}
        untold = [text for _, kind, text in self.world.story.lines if kind == "log" and "gateway_line_unowned" in text]
        for name, positions in self.desk_positions().items():
            for symbol in sorted({symbol for symbol, _, _ in self.splits} - amended):
                if any(f" {symbol}:" in text for text in untold):  # nobody announced it in time: it is main's, and told
                    continue
                has, comes_to = gateway.books.accounts[name].quantity(symbol), positions.get(symbol, Decimal(0))
                if abs(has - comes_to) >= 1:
                    self.problem("split", f"{name} has {has} {symbol}, its trades come to {comes_to}")

    def desk_positions(self) -> dict[str, Mapping[str, Decimal]]:
        """What each desk holds by the server's trades."""
        self._note_calls()
        owners, result = gateway_verdict.owners(self.account, self._epochs(), self.closing_calls), {}
        for name in self.plan.desks:
            its = {order_id for order_id, owner in owners.items() if owner == name}
            trades = self.account.trades
            result[name] = fold(Holders({}, {}), trades, its.__contains__, parents=self.parents).own
        return result

    def _judge_desk(self, station: Station) -> None:
        try:
            its = books(station.desk.state_dir)
            for rule, findings in (
                ("fills", verdict.fills_apart(its, self.account, whole=True)),
                ("intent", verdict.intents_exceeded(its, self.account)),
            ):
                for words in findings:
                    station.problem(rule, words)
            if self.plan.seed % STEPPED_AGAIN == 0:
                report = verify_desk(station.desk.state_dir / FILE, code_digest(), strategy_named)
                if report.difference:
                    station.problem("replay", report.difference[:500])
        except JournalError as error:
            station.problem("replay", str(error))


async def _accept(amount: Decimal, gateway: Gateway) -> None:
    """A person finds the account short of exactly this much, and says that it was `main`'s."""
    figure = gateway.books.broker_cash
    if gateway.books.sums()[0] - figure != amount:
        raise ValueError("there is more to it: look again later")
    await gateway.accept("cash", figure, MAIN, "ann", "gone by the broker's page, and no line says why")


def _apart(state: Any, part: Any) -> list[str]:
    """Where a desk's state and a sub-account differ."""
    differences = []
    if part.cash != state.book.cash:
        differences.append(f"cash: sub-account {part.cash}, desk {state.book.cash}")
    account_positions = {symbol: position.qty for symbol, position in part.positions.items()}
    counts: Counter[str] = Counter(dict(state.broker.foreign_held))
    for symbol, position in state.book.positions.items():
        counts[symbol] += position.quantity
    desk_positions = {symbol: quantity for symbol, quantity in counts.items() if quantity}
    if account_positions != desk_positions:
        differences.append(f"positions: sub-account {account_positions}, desk {desk_positions}")
    return differences


def live(plan: Plan, folder: Path) -> Outcome:
    """Run a plan in `folder`, which is emptied before and removed after. For a process of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ["HOME"] = str(folder)
    try:
        return Floor(plan, folder).live()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
