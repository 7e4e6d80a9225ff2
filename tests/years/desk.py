"""One desk of a world: the real `run_live` in all its lives, with keys and the operator's program."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from daemon.app.live.desk import LiveDesk, run_live
from daemon.app.live.prepare import prepare_live
from daemon.app.live.settings_choice import settings_of_a_held_desk
from daemon.cli.start.exits import TROUBLE, exit_code
from daemon.config.load import load
from daemon.config.sources import ConfigError
from daemon.config.tables import DeskSettings
from daemon.host.hang import HangGuard
from daemon.host.time.clock import Clock
from daemon.operator.alarm_command import AlarmCommand, AlarmLine
from daemon.operator.log import Log
from daemon.operator.side_thread import SideThread, supervise
from tests.years.lives import Lives
from tests.years.loop import Process, YearsLoop
from tests.years.wires import Network


class DeskLives(Lives):
    """`rltraderd` of one desk: started as systemd would, killed, stopped, started again."""

    def __init__(
        self,
        loop: YearsLoop,
        network: Network,
        folder: Path,
        config: Path,
        keys: tuple[str, str],
        note: Callable[[str, Mapping[str, Any]], None],
        name: str = "rltraderd",
    ) -> None:
        super().__init__(name, loop, network, folder / "desk", config, keys, note)
        self.live: LiveDesk | None = None
        self.alarms: list[AlarmLine] = []  # what the operator's program was told

    def begins(self) -> None:
        """Forget what is of the life before."""
        self.live = None

    def grave(self) -> object:
        """What of a dead life must not be collected."""
        return self.live

    async def main(self, process: Process, log: Log) -> int:
        """What `rltraderd` does once its command line is read."""
        del process

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


def take_the_place_of_threads(tell: Callable[[AlarmLine], str]) -> None:
    """Let this process run daemons without threads and programs; `tell` is the operator's program.

    Left out: the guard that ends a process whose step hangs in real time. The side thread's work runs on the loop.
    """
    HangGuard.start = lambda _self: None  # type: ignore[method-assign,assignment]

    async def run_for(_: AlarmCommand, line: AlarmLine) -> str:
        await asyncio.sleep(0.05)
        return tell(line)

    AlarmCommand.run_for = run_for  # type: ignore[method-assign,assignment]
    AlarmCommand.__init__.__defaults__ = (lambda: time.monotonic_ns(),)  # noqa: PLW0108 (it is replaced later)

    def start(self: SideThread) -> None:
        self.tasks = [  # type: ignore[attr-defined]
            asyncio.ensure_future(supervise(name, work, self._report)) for name, work in self._works
        ]

    def stop(self: SideThread, _within_s: float) -> bool:
        for task in self.tasks:  # type: ignore[attr-defined]
            task.cancel()
        return True

    SideThread.start, SideThread.stop = start, stop  # type: ignore[method-assign,assignment]
