"""The guard of a world, on a host of its own: the real `Guard` in all its lives, and the rules for what it does.

It hears its desk through one folder. What is expected comes from the folder's writes and the server's books.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from daemon.brokers.registry import guarded_account
from daemon.config.load import EXIT_CODE, NO_STRATEGY, ConfigError, load
from daemon.guard import command
from daemon.guard.command import Guard
from daemon.guard.paths import Ears, FolderPath
from daemon.guard.watch import Close, Fence
from daemon.host.service import Service
from daemon.host.time.clock import Clock
from daemon.operator import guard_link
from daemon.operator.alarm_command import AlarmLine
from daemon.operator.guard_link import GuardLink
from daemon.operator.heartbeat import Heartbeat, guard_key
from daemon.operator.log import Log
from daemon.operator.signing import Key
from strategies.kit.units import SECOND_NS
from tests.years.lives import Lives
from tests.years.loop import OWNER, Process, YearsLoop
from tests.years.wires import Network

if TYPE_CHECKING:
    from tests.years.run import Run

NAME = "rltrader-guard"
PREFIX = "guard"
FOLDER, SECOND = "drop", "second"
TURN_S = 15.0  # between two turns of its watch, which the rules allow
WATCHED = 0.3  # of the nights in which the desk's host is off: the guard watches on
DUSK_S = 3600.0  # in the others it is off so long after the desk
TOLD_S = 300.0  # beyond its time, whatever it waited for
RULES: dict[str, str] = {
    "guard_hasty": "the guard acts although its desk was heard",
    "guard_idle": "a silent desk holds something, and nobody is told",
    "guard_entry": "an entry of a desk that is silent for long still works",
    "guard_bare": "what a silent desk holds has no stop, and nobody is told",
    "guard_ended": "the guard ended by itself",
}


class SecondPath(FolderPath):
    """In MQTT's place, which this world lacks: a folder that is another for each desk and guard."""

    name = "MQTT"

    def __init__(
        self, broker: Any, password: str | None, prefix: str, desk: str, key: Key, ears: Ears, beat_s: float
    ) -> None:
        del broker, password, prefix
        super().__init__(Path(SECOND), desk, key, ears, beat_s)


class GuardLives(Lives):
    """`rltrader-guard`: started as systemd would, killed, stopped, started again."""

    def __init__(
        self,
        loop: YearsLoop,
        network: Network,
        folder: Path,
        config: Path,
        keys: tuple[str, str],
        note: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        host = folder / "guard-host"
        host.mkdir()
        super().__init__(NAME, loop, network, host / "guard", config, keys, note)
        self.guard: Guard | None = None
        self.closes = False  # whether it closes all, which takes two paths
        self.since_ns = 0  # since when this life watches
        self.alarms: list[tuple[int, AlarmLine]] = []  # when the operator's program was told what
        self.on_action: Callable[[Any], None] = lambda _action: None

    def begins(self) -> None:
        """Forget what is of the life before."""
        self.guard = None

    def grave(self) -> object:
        """What of a dead life must not be collected."""
        return self.guard

    async def main(self, process: Process, log: Log) -> int:
        """What `rltrader-guard` does once its command line is read."""
        del process
        self._end_by_signal()
        try:
            settings = load(self.config, NO_STRATEGY, only=command.TABLES)
        except ConfigError as error:
            log("guard_ended", problem=str(error))
            return EXIT_CODE
        self.state_dir.mkdir(exist_ok=True)
        if self.closes:  # by two paths, which `load` would ask MQTT for
            mqtt = dataclasses.replace(settings.mqtt, enabled=True)
            settings = settings.model_copy(
                update={"guard": dataclasses.replace(settings.guard, act="close"), "mqtt": mqtt}
            )
        clock = Clock.virtual(self.loop.participant)
        account = guarded_account(settings, self._keys, clock)
        key, file = guard_key(settings.guard), self.state_dir / f"{settings.desk.name}.json"
        self.guard = Guard(settings, account, key, None, file, log, clock, self.loop.time)
        self.since_ns = self.loop.now_ns
        try:
            await self.guard.run(Service())
        except asyncio.CancelledError:
            return 0
        finally:
            await account.close()
        return 0


def take_the_place_of_time(lives: GuardLives, heard: Callable[[Heartbeat], None], is_cut: Callable[[], bool]) -> None:
    """Let guard and desk live by the loop's time; `heard` is called for each heartbeat that is written whole."""
    program, link_of_desk = cast("Any", command), cast("Any", guard_link)
    program.TURN_S, program.MqttPath = TURN_S, SecondPath
    carry_out, put = Guard._carry_out, link_of_desk.put

    async def carried_out(guard: Guard, action: Any) -> None:
        if guard is lives.guard:
            lives.on_action(action)
        await carry_out(guard, action)

    def put_beat(folder: Path, beat: Any) -> None:
        if is_cut():
            raise OSError("the world has it so")
        if lives.closes:
            put(Path(SECOND), beat)
            heard(beat)
        put(folder, beat)
        heard(beat)

    def send_last(link: GuardLink, beat: Heartbeat) -> None:
        assert link._folder is not None
        try:
            put_beat(link._folder, beat)
        except OSError:
            return

    Guard._carry_out = carried_out  # type: ignore[method-assign,assignment]
    link_of_desk.put = put_beat
    GuardLink._send_last = send_last  # type: ignore[method-assign,assignment]
    GuardLink.__init__.__defaults__ = (1.0, lives.loop.time)


class Guarded:
    """The guard beside a run's desk, with its troubles and its rules."""

    def __init__(self, run: Run) -> None:
        self._run = run
        world, table = run.world, run.tables["guard"]
        self.drop = Path(str(table["drop_dir"]))
        self.drop.mkdir()
        Path(SECOND).mkdir()
        self._act_s, self._alarm_s = float(str(table["act_s"])), float(str(table["alarm_s"]))
        self._only_tells = table["act"] == "alarm" and not run.guard_closes
        self._look_s, self._beat_s = float(str(table["look_s"])), float(str(table["beat_s"]))
        keys = (world.account.key, world.account.secret)
        self.lives = GuardLives(world.loop, world.network, world.folder, run.config, keys, world.story.note)
        self.lives.closes = run.guard_closes
        self.cut_until_ns = 0  # the desk's heartbeats do not arrive until then
        self._heard_ns = world.loop.now_ns  # the newest one that was written
        self._beat: Heartbeat | None = None
        self._ready_ns = world.loop.now_ns  # since when nothing keeps the guard from hearing and acting
        self._told: set[str] = set()  # rules broken in this silence
        self._nights = random.Random(f"guard's nights {run.schedule.seed}")
        take_the_place_of_time(self.lives, self._heard, self._is_cut)
        self.lives.on_action = self._acts
        self.lives.on_over = self._over

    def start(self) -> None:
        """Begin its first life."""
        self.lives.start()

    async def over_night(self, until_ns: int) -> None:
        """In most nights its host too is off, some time after the desk's."""
        if self._nights.random() < WATCHED:
            return
        await asyncio.sleep(DUSK_S)
        self.lives.stop()
        await self._run.world.until(until_ns)
        if not self.lives.running:
            self.lives.start()

    def tell(self, line: AlarmLine) -> None:
        """The guard's program was told of an alarm."""
        self.lives.alarms.append((self._run.now_ns(), line))

    def is_guards(self) -> bool:
        """Whether the running callback is the guard's."""
        owner = OWNER.get()
        return owner is not None and owner is self.lives.process

    def _heard(self, beat: Heartbeat) -> None:
        self._heard_ns, self._beat = self._run.now_ns(), beat
        self._told.clear()

    def _is_cut(self) -> bool:
        return self._run.now_ns() < self.cut_until_ns

    def _over(self, code: int) -> None:
        if code:
            self._run.problem("guard_ended", f"the guard ended by itself with code {code}")

    def _silent_s(self) -> float:
        return (self._run.now_ns() - self._heard_ns) / SECOND_NS

    def _acts(self, action: Any) -> None:
        """It may act on a silence alone, and only as far as its desk is really not heard."""
        run = self._run
        run.met[f"guard {type(action).__name__.lower()}"] += 1
        if isinstance(action, Close):
            run.closed_by_guard()
        lifts = isinstance(action, Fence) and not action.on
        clock_is_wrong = run.world.loop.ahead_ns or run.leapt_ns
        if not lifts and not clock_is_wrong and self._silent_s() < self._alarm_s - self._beat_s:
            run.problem("guard_hasty", f"{type(action).__name__} {self._silent_s():.0f} s after a heartbeat")

    def _is_ready(self) -> bool:
        """Whether nothing keeps the guard from hearing, looking and acting."""
        run = self._run
        up = self.lives.running and self.lives.since_ns
        return bool(
            up
            and self.drop.is_dir()
            and Path(SECOND).is_dir()
            and not run.faults.waiting()
            and not run.world.network.down
        )

    def look(self) -> None:
        """See whether what had to be done is done."""
        run, now_ns = self._run, self._run.now_ns()
        if not self._is_ready():
            self._ready_ns = now_ns
        since_ns = max(self._ready_ns, self._heard_ns, self.lives.since_ns)
        quiet_s = (now_ns - since_ns) / SECOND_NS
        beat, account = self._beat, run.world.account
        if beat is None or quiet_s < self._alarm_s + TOLD_S or self._told:
            return
        there = run.own_by_trades().items()
        own = {it: min(quantity, account.quantity(it)) for it, quantity in there if it in beat.holds}
        own = {it: quantity for it, quantity in own.items() if quantity > 0}
        alarms = {line.alarm for at_ns, line in self.lives.alarms if at_ns >= self._heard_ns}
        if own and not alarms & {"desk_silent", "guard_doubts", "guard_keys", "guard_account"}:
            self._broken("guard_idle", f"{sorted(own)} are held, silent for {quiet_s:.0f} s: {sorted(alarms)}")
        if self._only_tells or quiet_s < self._act_s + 4 * self._look_s + TOLD_S or "guard_doubts" in alarms:
            return
        working = [account.orders[it] for it in account.working]
        entries = [it for it in working if it.side == "buy" and it.client_order_id.startswith(beat.names)]
        old_entries = [it.client_order_id for it in entries if it.created_ns < since_ns and not it.cancel_requested_ns]
        if old_entries:
            self._broken("guard_entry", f"{old_entries} work, silent for {quiet_s:.0f} s")
        sold = defaultdict[str, Decimal](Decimal)
        for it in working:
            if it.side == "sell" and it.qty is not None and run.sells(it):
                sold[it.symbol] += it.qty - it.filled_qty
        bare = [it for it, quantity in own.items() if sold[it] < quantity and beat.holds[it].stop is not None]
        if bare and "guard_unprotected" not in alarms and run.world.market.session_at(now_ns) is not None:
            self._broken("guard_bare", f"{bare} have no stop, silent for {quiet_s:.0f} s: {sorted(alarms)}")

    def _broken(self, rule: str, text: str) -> None:
        self._told.add(rule)
        self._run.problem(rule, text)


# --- what happens to it -----------------------------------------------------------------------------------------------


async def _kill(run: Run, guarded: Guarded, _: random.Random) -> None:
    del run
    guarded.lives.kill()


async def _away(run: Run, guarded: Guarded, chance: random.Random) -> None:
    """Its host is gone for a while."""
    del run
    guarded.lives.kill(power=True, again=False)
    await asyncio.sleep(chance.uniform(120.0, 4 * 3600.0))
    if not guarded.lives.running:
        guarded.lives.start()


async def _no_folder(run: Run, guarded: Guarded, chance: random.Random) -> None:
    """Neither host sees a folder, one of two where the guard may close."""
    folder = chance.choice((guarded.drop, Path(SECOND) if run.guard_closes else guarded.drop))
    gone = folder.with_name(f"{folder.name}-gone")
    if gone.exists():
        return
    folder.rename(gone)
    await asyncio.sleep(chance.uniform(30.0, 2 * 3600.0))
    gone.rename(folder)


async def _cut(run: Run, guarded: Guarded, chance: random.Random) -> None:
    """The desk lives, and its heartbeats do not arrive."""
    guarded.cut_until_ns = run.now_ns() + int(chance.uniform(60.0, 3 * 3600.0) * SECOND_NS)


async def _both_away(run: Run, guarded: Guarded, chance: random.Random) -> None:
    """Desk and guard die at once; the guard is back first, or last."""
    run.desk.kill(power=True, again=False)
    guarded.lives.kill(power=True, again=False)
    waits = sorted((chance.uniform(30.0, 2 * 3600.0), chance.uniform(30.0, 2 * 3600.0)))
    begins: list[Callable[[], None]] = [
        lambda: None if guarded.lives.running else guarded.lives.start(),
        lambda: None if run.desk.running or run.off else run.desk.start(),
    ]
    chance.shuffle(begins)
    for wait_s, begin in zip((waits[0], waits[1] - waits[0]), begins, strict=True):
        await asyncio.sleep(wait_s)
        begin()


GUARD: dict[str, Callable[[Run, Guarded, random.Random], Awaitable[None]]] = {
    "guard killed": _kill,
    "guard away": _away,
    "guard's folder gone": _no_folder,
    "heartbeats cut": _cut,
    "desk and guard away": _both_away,
}


async def happen(run: Run, chance: random.Random, what: str) -> None:
    """Do one of `GUARD`, where the run has a guard."""
    if run.guarded is not None:
        await GUARD[what](run, run.guarded, chance)


def give_key() -> None:
    """Give desk and guard the key that signs."""
    os.environ["GUARD_KEY"] = "6b" * 32
