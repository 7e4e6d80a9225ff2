"""A program of a world in all its lives: with systemd, its disk and its log.

The disk keeps what was synced and any prefix of what was not: a life that is killed leaves an image of its folder whose
journal's log is cut somewhere behind the last commit. Nothing of the dead life runs, or closes, again.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import io
import json
import os
import shutil
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from daemon.cli.start.exits import TROUBLE
from daemon.config.load import Credentials
from daemon.journal.journal import FILE
from daemon.operator.log import Log
from tests.years.loop import OWNER, Process, YearsLoop
from tests.years.wires import Network

RESTART_S = 5.0  # as systemd's unit has it
WAL = f"{FILE}-wal"
WAL_HEAD = 32  # bytes of the log's own header
AT_IT = 0.5  # of the batches that waited for the disk: it was written, whole or in part


class Lives(ABC):
    """One program: started as systemd would, killed, stopped, started again. Its journal is in `state_dir`."""

    def __init__(
        self,
        name: str,
        loop: YearsLoop,
        network: Network,
        state_dir: Path,
        config: Path,
        keys: tuple[str, str],
        note: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        self.name, self.loop, self.network, self.folder = name, loop, network, state_dir.parent
        self.state_dir, self.config, self._note = state_dir, config, note
        self._keys = Credentials(api_key_id=SecretStr(keys[0]), api_secret_key=SecretStr(keys[1]))
        self.lives = 0
        self.process: Process | None = None
        self.exit_code: int | None = None  # the exit code of a life that is over
        self.is_wanted = False  # systemd starts it again
        self.on_over: Callable[[int], None] = lambda _code: None

    @property
    def running(self) -> bool:
        """Whether a life goes on."""
        return self.process is not None and self.process.alive and self.exit_code is None

    def start(self) -> None:
        """Begin the next life."""
        self.is_wanted = True
        self.lives += 1
        self.exit_code = None
        self.begins()
        self.process = process = Process(f"{self.name} {self.lives}")
        process.when_killed = self._died
        self._note("life", {"number": self.lives})
        main = self.loop.spawn(process, self._run(process))
        main.add_done_callback(lambda task: self._over(process, task))
        self.loop.graveyard.append(main)

    @abstractmethod
    def begins(self) -> None:
        """Forget what is of the life before."""

    async def _run(self, process: Process) -> int:
        locks = self.folder / f"locks-{self.lives}"  # the dead life's were released by its kernel
        locks.mkdir()
        os.environ["RUNTIME_DIRECTORY"] = str(locks)  # it locks before it first waits
        return await self.main(process, Log("info", "json", _Lines(lambda line: self._note("log", line))))

    @abstractmethod
    async def main(self, process: Process, log: Log) -> int:
        """What the program does once its command line is read; returns its exit code."""

    @abstractmethod
    def grave(self) -> object:
        """What of a dead life must not be collected."""

    def _end_by_signal(self) -> None:
        """Let SIGTERM cancel the running task, as the programs without a desk's clean stop have it."""
        task = asyncio.current_task()
        assert task is not None
        self.loop.add_signal_handler(signal.SIGTERM, task.cancel)

    def _over(self, process: Process, task: asyncio.Task[int]) -> None:
        if self.process is not process or not process.alive:
            return
        if task.cancelled():
            self.exit_code = TROUBLE
        elif (error := task.exception()) is not None:
            self._note("crash", {"problem": f"{type(error).__name__}: {error}"})
            self.exit_code = TROUBLE
            self.loop.graveyard.append(error)
        else:
            self.exit_code = task.result()
        self._note("over", {"code": self.exit_code})
        process.end()
        self.on_over(self.exit_code)
        if self.is_wanted and self.exit_code == TROUBLE:
            self._again()

    def _again(self) -> None:
        """Let systemd start it again."""
        self.again_in(RESTART_S)

    def again_in(self, seconds: float) -> None:
        """Begin the next life after a while, unless another has begun; whoever asks may be dead by then."""
        context = contextvars.copy_context()
        context.run(OWNER.set, None)
        self.loop.outside(int(seconds * 1e9), self._start_again, self.lives, context=context)

    def _start_again(self, lives: int) -> None:
        if self.is_wanted and self.lives == lives and not self.running:
            self.start()

    def kill(self, *, power: bool = False, again: bool = True) -> None:
        """SIGKILL; with `power` its host loses its power: connections stay half open. Systemd starts it again."""
        process = self.process
        if process is None or not process.alive:
            return
        if power:
            self.network.cut(process)
        self.is_wanted = again
        process.die()

    def _died(self) -> None:
        """It is dead: keep what the disk has; systemd starts it again."""
        assert self.process is not None
        self._note("killed", {"turn": self.process.turns})
        self.loop.graveyard.append((self.process, self.grave()))
        self._image(self.process)
        if self.is_wanted:
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
        size = wal.stat().st_size if wal.exists() else 0
        if head != _head(wal):  # the log began anew: all before is in the file
            synced = min(WAL_HEAD, size)
        grave = self.folder / f"grave-{self.lives}"
        self.state_dir.rename(grave)
        shutil.copytree(grave, self.state_dir, ignore=shutil.ignore_patterns("*-shm", "control*"), symlinks=True)
        if size > synced:
            os.truncate(wal, chance.choice((synced, size, chance.randint(synced, size))))
        shutil.rmtree(grave)

    def stop(self) -> None:
        """SIGTERM; it is not started again."""
        self.is_wanted = False
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
