"""One desk of a world: the real `run_live` in all its lives, with systemd, disk, keys and the operator's program.

The disk keeps what was synced and any prefix of what was not: a life that is killed leaves an image of its folder whose
journal's log is cut somewhere behind the last commit. Nothing of the dead life runs, or closes, again.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from daemon.app.live.desk import LiveDesk, run_live
from daemon.app.live.prepare import prepare_live
from daemon.app.live.settings_choice import settings_of_a_held_desk
from daemon.cli.start.exits import TROUBLE, exit_code
from daemon.config.load import Credentials, load
from daemon.config.sources import ConfigError
from daemon.config.tables import DeskSettings
from daemon.host.hang import HangGuard
from daemon.host.time.clock import Clock
from daemon.journal.journal import FILE
from daemon.operator.alarm_command import AlarmCommand, AlarmLine
from daemon.operator.log import Log
from daemon.operator.side_thread import SideThread, supervised
from tests.years.loop import Process, YearsLoop
from tests.years.wires import Network

RESTART_S = 5.0  # as systemd's unit has it
WAL = f"{FILE}-wal"
WAL_HEAD = 32  # bytes of the log's own header
AT_IT = 0.5  # of the batches that waited for the disk: it was written, whole or in part


class DeskLives:
    """`rltraderd` of one desk: started as systemd would, killed, stopped, started again."""

    def __init__(
        self,
        loop: YearsLoop,
        network: Network,
        folder: Path,
        config: Path,
        keys: tuple[str, str],
        note: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        self.loop, self.network, self.folder, self.config = loop, network, folder, config
        self.state_dir = folder / "desk"
        self._keys = Credentials(api_key_id=SecretStr(keys[0]), api_secret_key=SecretStr(keys[1]))
        self._note = note
        self.lives = 0
        self.process: Process | None = None
        self.live: LiveDesk | None = None
        self.alarms: list[AlarmLine] = []  # what the operator's program was told
        self.ended: int | None = None  # the exit code of a life that is over
        self.wanted = False  # systemd starts it again
        self.on_over: Callable[[int], None] = lambda _code: None

    @property
    def running(self) -> bool:
        """Whether a life goes on."""
        return self.process is not None and self.process.alive and self.ended is None

    def start(self) -> None:
        """Begin the next life."""
        self.wanted = True
        self.lives += 1
        self.ended, self.live = None, None
        locks = self.folder / f"locks-{self.lives}"  # the dead life's, which its kernel released
        locks.mkdir()
        os.environ["RUNTIME_DIRECTORY"] = str(locks)
        self.process = process = Process(f"rltraderd {self.lives}")
        process.when_killed = self._died
        self._note("life", {"number": self.lives})
        main = self.loop.spawn(process, self._main(process))
        main.add_done_callback(lambda task: self._over(process, task))
        self.loop.graveyard.append(main)

    async def _main(self, process: Process) -> int:
        """What `rltraderd` does once its command line is read."""
        lines = _Lines(lambda line: self._note("log", line))
        log = Log("info", "json", lines)

        def checked() -> Any:
            settings = self._settings()
            clock = Clock.virtual(self.loop.participant)
            return prepare_live(settings, self._keys, dry_run=False, clock=clock)

        result: list[Any] = []

        def check() -> int:
            result.append(checked())
            return 0

        code = exit_code(log, check)
        if not result:
            return code
        raised: BaseException | None = None
        stopped_by = ""
        try:
            stopped_by = await run_live(result[0], log)
        except Exception as error:  # noqa: BLE001 # as the process's own end judges it
            raised = error

        def work() -> int:
            if raised is not None:
                raise raised
            return TROUBLE if stopped_by == "disk_full" else 0

        return exit_code(log, work)

    def _settings(self) -> DeskSettings:
        """What `rltraderd` reads: where it has mistakes, a desk that holds something goes on with its exits."""
        try:
            return load(self.config, {})
        except ConfigError as refused:
            settings, mistakes = settings_of_a_held_desk(self.config, {}, refused)
            return settings.in_place_of(mistakes)

    def _over(self, process: Process, task: asyncio.Task[int]) -> None:
        if self.process is not process or not process.alive:
            return
        if task.cancelled():
            self.ended = TROUBLE
        elif (error := task.exception()) is not None:
            self._note("crash", {"problem": f"{type(error).__name__}: {error}"})
            self.ended = TROUBLE
            self.loop.graveyard.append(error)
        else:
            self.ended = task.result()
        self._note("over", {"code": self.ended})
        process.end()
        self.on_over(self.ended)
        if self.wanted and self.ended == TROUBLE:
            self._again()

    def _again(self) -> None:
        """Let systemd start it again."""
        self.loop.outside(int(RESTART_S * 1e9), self._start_again, self.lives)

    def _start_again(self, lives: int) -> None:
        if self.wanted and self.lives == lives and not self.running:
            self.start()

    def kill(self, *, power: bool = False, again: bool = True) -> None:
        """SIGKILL; with `power` its host loses its power: connections stay half open. Systemd starts it again."""
        process = self.process
        if process is None or not process.alive:
            return
        if power:
            self.network.cut(process)
        self.wanted = again
        process.die()

    def _died(self) -> None:
        """It is dead: keep what the disk has; systemd starts it again."""
        assert self.process is not None
        self._note("killed", {"turn": self.process.turns})
        self.loop.graveyard.append((self.process, self.live))
        self._image(self.process)
        if self.wanted:
            self._again()

    def _image(self, process: Process) -> None:
        """Put the dead life's folder aside, and what its disk kept in its place."""
        if not self.state_dir.exists():
            return
        chance, wal = self.loop.chance, self.state_dir / WAL
        synced = wal.stat().st_size if wal.exists() else 0
        head = _head(wal)
        for thread in process.threads:  # it was at it
            while thread.name == "journal-writer" and chance.random() < AT_IT and thread.do_one():
                pass
        written = wal.stat().st_size if wal.exists() else 0
        if head != _head(wal):  # the log began anew: all before is in the file
            synced = min(WAL_HEAD, written)
        grave = self.folder / f"grave-{self.lives}"
        self.state_dir.rename(grave)
        shutil.copytree(grave, self.state_dir, ignore=shutil.ignore_patterns("*-shm", "control*"), symlinks=True)
        if written > synced:
            os.truncate(wal, chance.choice((synced, written, chance.randint(synced, written))))
        shutil.rmtree(grave)

    def stop(self) -> None:
        """SIGTERM; it is not started again."""
        self.wanted = False
        if self.process is not None:
            self.loop.signal(self.process, signal.SIGTERM)


def _head(wal: Path) -> bytes:
    """The log's own header, which changes when it begins anew."""
    with contextlib.suppress(OSError), wal.open("rb") as file:
        return file.read(WAL_HEAD)
    return b""


class _Lines(io.TextIOBase):
    """Hands each line of the log on, as a mapping."""

    def __init__(self, take: Callable[[dict[str, Any]], None]) -> None:
        self._take = take

    def write(self, text: str) -> int:
        for line in text.splitlines():
            if line.strip():
                try:
                    self._take(json.loads(line))
                except ValueError:
                    self._take({"event": "", "text": line})
        return len(text)

    def flush(self) -> None:
        """Nothing waits."""

    def isatty(self) -> bool:
        return False


def take_the_place_of_threads(told: Callable[[AlarmLine], str]) -> None:
    """Let this process run daemons without threads and programs; `told` is the operator's program.

    Left out: the guard that ends a process whose step hangs in real time. The side thread's work runs on the loop.
    """
    HangGuard.start = lambda _self: None  # type: ignore[method-assign,assignment]

    async def run_for(_: AlarmCommand, line: AlarmLine) -> str:
        await asyncio.sleep(0.05)
        return told(line)

    AlarmCommand.run_for = run_for  # type: ignore[method-assign,assignment]
    AlarmCommand.__init__.__defaults__ = (lambda: time.monotonic_ns(),)  # noqa: PLW0108 (it is replaced later)

    def start(self: SideThread) -> None:
        self.tasks = [  # type: ignore[attr-defined]
            asyncio.ensure_future(supervised(name, work, self._report)) for name, work in self._works
        ]

    def stop(self: SideThread, _within_s: float) -> bool:
        for task in self.tasks:  # type: ignore[attr-defined]
            task.cancel()
        return True

    SideThread.start, SideThread.stop = start, stop  # type: ignore[method-assign,assignment]
