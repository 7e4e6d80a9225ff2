"""Run a challenger's replay beside the desk: in a thread that waits for a child process, looked at now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon.core.state import LadderState, State
from daemon.models.ladder.replay_gate import Replay, Replayed, ReplayLost, Request
from daemon.models.lifecycle import WriteLog

TRIES = 3  # a child that was lost so often is a problem of the version


class Replaying:
    """At most one replay. `done` is called on the event loop when it is over; then `look` returns what came of it."""

    def __init__(
        self, models_dir: Path, journal: Path, sessions: int, public_key: str, done: Callable[[], None], log: WriteLog
    ) -> None:
        self._models_dir, self._journal, self._sessions = models_dir, journal, sessions
        self._public_key, self._done, self._log = public_key, done, log
        self._replay: Replay | None = None
        self._task: asyncio.Task[Replayed] | None = None
        self._lost = 0

    def look(self, ladder: LadderState, state: State[Any]) -> Replayed | None:
        """Return what came of the replay; None while it runs. Start it where it does not."""
        task = self._task
        if task is None:
            self._start(ladder, state)
            return None
        if not task.done():
            return None
        self._task = None
        try:
            found = task.result()
        except ReplayLost as error:
            self._lost += 1
            if self._lost < TRIES:
                self._log("ladder_replay_lost", version=ladder.version, problem=str(error))
                self._start(ladder, state)
                return None
            found = Replayed(problem=f"its process was lost {TRIES} times: {error}")
        self._lost = 0
        return found

    def give_up(self) -> None:
        """End the replay that runs."""
        if self._replay is not None:
            self._replay.kill()
        self._replay, self._task, self._lost = None, None, 0

    async def wait(self) -> None:
        """Return when no replay runs."""
        if self._task is not None:
            await asyncio.wait({self._task})

    def _start(self, ladder: LadderState, state: State[Any]) -> None:
        request = Request(
            models_dir=str(self._models_dir.resolve()),
            journal=str(self._journal.resolve()),
            identity=state.identity,
            trading=state.trading,
            public_key=self._public_key,
            champion=ladder.champion,
            challenger=ladder.version,
            seq=int(ladder.figures.get("replay_to", state.seq)),
            sessions=self._sessions,
        )
        self._replay = Replay()
        self._task = asyncio.create_task(asyncio.to_thread(self._replay.run, request))
        self._task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[Replayed]) -> None:
        """Look at the result, so that one that was given up leaves no word."""
        if not task.cancelled():
            task.exception()
        self._done()
