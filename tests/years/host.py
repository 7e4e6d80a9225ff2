"""The desk's host: its disk (full, read-only or lost), its settings, and the release that is installed on it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from daemon.config.load import load
from daemon.config.sources import ConfigError
from daemon.engine import recover
from daemon.journal import writer
from daemon.journal.journal import FILE, Journal
from daemon.journal.rows import WriteFailed
from daemon.journal.writer import BALLAST_FILE
from strategies.kit.units import SECOND_NS
from tests.chaos.desks.plan import DAILY, SCALPER
from tests.years import acts
from tests.years.schedule import BY_BAR, EVERY, OF_SHARES, RULES

if TYPE_CHECKING:
    from tests.years.run import Run

Act = Callable[["Run", random.Random], Awaitable[None]]

FULL, READ_ONLY = "database or disk is full", "attempt to write a readonly database"
LEAVES_S = 900.0  # within which a desk with a full disk has left what it holds
LEAVES_MOST = 1200  # looks: it may have to wait for an open
RELEASES = 3
SETTINGS: dict[tuple[str, str], tuple[tuple[str, ...], tuple[object, ...]]] = {
    ("broker", "foreign_orders"): (EVERY, RULES),
    ("broker", "on_stop"): (EVERY, ("keep", "flatten")),
    ("journal", "snapshot_events"): (EVERY, (100, 2000)),
    ("risk", "daily_loss_max"): (EVERY, (0.005, 0.02, 0.1)),
    ("protection", "rest_at_broker"): (EVERY, (True, False)),
    ("protection", "disaster_stop"): (DAILY, (0.0, 0.05, 0.2)),
    ("sizing", "trailing_stop"): (BY_BAR, (0.0, 0.01, 0.2)),
    ("sizing", "time_stop_min"): (BY_BAR, (0, 3, 45)),
    ("sizing", "max_contracts"): ((SCALPER,), (1, 4)),
    ("basket", "fractions"): (OF_SHARES, ("on", "off", "auto")),
    ("basket", "gross_weight_max"): (OF_SHARES, (0.3, 1.05)),
    ("basket", "volatility_target"): (DAILY, (0.0, 0.1)),
    ("basket", "auction"): (DAILY, (True, False)),
}
"""What a person changes between two lives, for the desks that have it, and to what."""
DISK = 1 << 37


class Host:
    """What the host's disk refuses, and which release is installed; from now on all of this process goes by it."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.one = asyncio.Lock()  # held while the disk refuses something
        self.refuses = ""  # SQLite's words for what a commit meets, "" on a sound disk
        self.bad = False  # the disk refuses, or did so just now
        self.release = 0
        self._code = recover.code_digest()
        commit, ballast = Journal.commit, writer._make_ballast
        before = recover.code_digest

        def committed(journal: Journal, batch: Any) -> None:
            if self._is_refused(journal.path):
                if self.refuses == READ_ONLY:  # the reserve cannot be given up either
                    raise OSError(errno.EROFS, os.strerror(errno.EROFS))
                raise WriteFailed(f"{journal.path}: {self.refuses}") from sqlite3.OperationalError(self.refuses)
            commit(journal, batch)

        def make_ballast(path: Path, mib: int) -> None:
            if self.refuses:
                number = errno.ENOSPC if self.refuses == FULL else errno.EROFS
                _refuse(path, ballast, mib, number)
            else:
                ballast(path, mib)

        Journal.commit = committed  # type: ignore[method-assign,assignment]
        writer._make_ballast = make_ballast
        shutil.disk_usage = self._room  # type: ignore[assignment]
        for module in list(sys.modules.values()):
            if getattr(module, "code_digest", None) is before:
                module.code_digest = self.code_digest  # type: ignore[attr-defined]

    def _is_refused(self, path: Path) -> bool:
        """Whether a commit of the desk's journal fails: on a full disk only until the reserve is given up."""
        if not self.refuses or path.parent != self._run.desk.state_dir:
            return False
        return self.refuses == READ_ONLY or (path.parent / BALLAST_FILE).exists()

    def _room(self, _: object) -> SimpleNamespace:
        """The host's disk, and not this machine's: texts name how much is free."""
        free = 0 if self.refuses == FULL else DISK // 2
        return SimpleNamespace(total=DISK, used=DISK - free, free=free)

    def code_digest(self, _: str = "") -> str:
        """The digest of the installed release: the shipped strategies have no files of their own."""
        return self._code if not self.release else f"{self.release:02x}{self._code[2:]}"


def _refuse(path: Path, ballast: Callable[[Path, int], None], mib: int, number: int) -> None:
    """Let the reserve meet the disk's fault, unless it is there already."""
    allocate = os.posix_fallocate

    def refused(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    os.posix_fallocate = refused
    try:
        ballast(path, mib)
    finally:
        os.posix_fallocate = allocate


@contextlib.asynccontextmanager
async def _refused(run: Run, words: str) -> AsyncIterator[None]:
    """A time in which the disk refuses; then it is sound again, the desk is started, and a person resumes."""
    host = run.host
    async with host.one:
        host.refuses, host.bad = words, True
        yield
        host.refuses = ""
        await asyncio.sleep(30.0)
        if not run.desk.running:
            await run.away(0.0)
        await asyncio.sleep(120.0)
        host.bad = False
        await acts.command(run, "resume")


async def _disk_out_of_room(run: Run, chance: random.Random) -> None:
    """The disk is full until the desk has ended, or for long: meanwhile it halts, and leaves what it holds."""
    if not run.desk.running:
        return
    async with _refused(run, FULL):
        began_ns = run.now_ns()
        for _ in range(LEAVES_MOST):
            await asyncio.sleep(15.0)
            if not run.desk.running:
                break
            positions = {symbol: q for symbol, q in run.own().items() if run.world.market.trading(symbol, run.now_ns())}
            since_ns = max(began_ns, run.calm_ns, run.opened_ns())
            late = run.now_ns() > since_ns + LEAVES_S * SECOND_NS and run.alive_since(since_ns)
            if positions and late and run.opened_ns() and run.willing() and not run.stands():
                run.problem("not_left", f"{positions} are held {LEAVES_S:.0f} s after the disk was full")
                break
        await asyncio.sleep(chance.uniform(10.0, 90.0))


async def _disk_read_only(run: Run, chance: random.Random) -> None:
    """The disk takes nothing for a minute or two: the daemon ends, and is started again and again."""
    async with _refused(run, READ_ONLY):
        await asyncio.sleep(chance.uniform(20.0, 90.0))


def _another_release(run: Run, chance: random.Random) -> None:
    run.host.release = (run.host.release + chance.randint(1, RELEASES - 1)) % RELEASES


async def _upgrade(run: Run, chance: random.Random) -> None:
    """Stopped cleanly, and started by another release."""
    if run.desk.running:
        run.desk.stop()
        await asyncio.sleep(120.0)
    if not run.desk.running:
        _another_release(run, chance)
        await run.away(0.0)


async def _upgrade_unclean(run: Run, chance: random.Random) -> None:
    """Killed, and started by another release: a person compares and resumes."""
    run.desk.kill(again=False)
    _another_release(run, chance)
    await run.away(5.0)
    await asyncio.sleep(chance.uniform(60.0, 900.0))
    await acts.command(run, "resume")


async def _settings_changed(run: Run, chance: random.Random) -> None:
    """Stopped, or killed, and started with other settings, whatever it holds: a person resumes."""
    if chance.random() < 0.5:
        run.desk.stop()
        await asyncio.sleep(120.0)
    if run.desk.running:
        run.desk.kill(again=False)
    for _ in range(chance.randint(1, 3)):
        fitting = [key for key, (desks, _) in SETTINGS.items() if run.schedule.desk in desks]
        (section, key), whole = chance.choice(fitting), run.config.read_text()
        value = chance.choice(SETTINGS[section, key][1])
        run.config.write_text(run.world.config_with({section: {key: value}}))
        try:
            load(run.config, {})
        except ConfigError:  # no mistakes here
            run.config.write_text(whole)
            continue
        run.change(section, key, value)
    await run.away(5.0)
    await asyncio.sleep(300.0)
    await acts.command(run, "resume")


async def _backup_restored(run: Run, chance: random.Random) -> None:
    """The disk is lost, and a copy of the journal from before is put in its place: a person accepts what is there."""
    journal, copy = run.desk.state_dir / FILE, run.world.folder / f"backup-{chance.randrange(10**9)}.sqlite"
    if not journal.exists():
        return
    with contextlib.closing(sqlite3.connect(journal)) as there:
        there.execute("VACUUM INTO ?", (str(copy),))
    await asyncio.sleep(chance.choice((30.0, 600.0, 3 * 3600.0)) * chance.uniform(0.5, 1.5))
    async with run.host.one:
        run.desk.kill(again=False)
        shutil.rmtree(run.desk.state_dir, ignore_errors=True)
        run.desk.state_dir.mkdir()
        copy.rename(journal)
        run.restored()
        await run.away(chance.uniform(5.0, 600.0))
        await asyncio.sleep(300.0)
        await acts.command(run, "accept-broker")
        await asyncio.sleep(120.0)
        await acts.command(run, "resume")


HOST: dict[str, Act] = {
    "disk out of room": _disk_out_of_room,
    "disk read-only": _disk_read_only,
    "upgrade": _upgrade,
    "upgrade unclean": _upgrade_unclean,
    "settings changed": _settings_changed,
    "backup restored": _backup_restored,
}
"""Every act of the host by its name in a schedule."""
