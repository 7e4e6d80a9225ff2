"""Replay the desk's last sessions for a challenger and for its champion, in a child process of the lowest priority.

The bars are those of the journal, up to one event: the same ones after a crash. Each version trades them alone, through
the machine of a dry run with the desk's rules and the paper broker, without exploration; nothing is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from daemon.core.limits import Trading
from daemon.core.state import Identity, LadderState, State
from daemon.models.child import ChildProcess, GivenUp
from daemon.models.lifecycle import WriteLog

DEADLINE_S = 6 * 3600.0  # for a host with nearly no time for the child
ANSWER_BYTES_MAX = 65_536
LATE = "it is too late"
TRIES = 3  # after this many lost children the version is at fault


class ReplayRequest(msgspec.Struct, frozen=True):
    """What to replay: up to the event `seq`, the last `sessions` whole sessions of the journal at `journal`."""

    models_dir: str
    journal: str
    identity: Identity
    trading: Trading
    public_key: str
    champion: str
    challenger: str
    seq: int
    sessions: int
    manifests: dict[str, str] = {}  # version -> required digest of its manifest; without one: any


class Replayed(msgspec.Struct, frozen=True):
    """Results as parts of the equity before the first counted session. `problem`: why there are none, else ""."""

    problem: str = ""
    sessions: int = 0
    asked: int = 0
    failed: int = 0
    pnl: float = 0.0
    champion_pnl: float = 0.0
    trades: int = 0
    champion_trades: int = 0


class ReplayLost(Exception):
    """The child ended without an answer: killed, out of memory, too late. It may be tried again."""


class ReplayProcess:
    """One replay. `run` blocks; `kill` ends it from another thread, any number of times."""

    def __init__(self) -> None:
        self._child = ChildProcess(DEADLINE_S)
        self.kill = self._child.kill

    def run(self, request: ReplayRequest) -> Replayed:
        """Return the results of both versions. Raises ReplayLost."""
        question = (msgspec.json.encode(request),)
        try:
            output, status = self._child.ask("daemon.models.ladder.replay_child", (), question, ANSWER_BYTES_MAX, LATE)
        except GivenUp as error:
            raise ReplayLost(str(error)) from None
        except OSError as error:
            raise ReplayLost(f"no process can be started: {error}") from None
        try:
            return msgspec.json.decode(output, type=Replayed)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ReplayLost(f"signal {-status}" if status < 0 else f"exit code {status}") from None


# --- beside the desk --------------------------------------------------------------------------------------------------


class Replaying:
    """At most one replay. `on_done` is called on the event loop at its end; then `look` returns its results."""

    def __init__(
        self,
        models_dir: Path,
        journal: Path,
        sessions: int,
        public_key: str,
        on_done: Callable[[], None],
        log: WriteLog,
    ) -> None:
        self._models_dir, self._journal, self._sessions = models_dir, journal, sessions
        self._public_key, self._on_done, self._log = public_key, on_done, log
        self._replay: ReplayProcess | None = None
        self._task: asyncio.Task[Replayed] | None = None
        self._losses = 0

    def look(self, ladder: LadderState, state: State[Any]) -> Replayed | None:
        """Return the results of the replay; None while it runs, after starting it if necessary."""
        task = self._task
        if task is None:
            self._start(ladder, state)
            return None
        if not task.done():
            return None
        self._task = None
        try:
            result = task.result()
        except ReplayLost as error:
            self._losses += 1
            if self._losses < TRIES:
                self._log("ladder_replay_lost", version=ladder.version, problem=str(error))
                self._start(ladder, state)
                return None
            result = Replayed(problem=f"its process was lost {TRIES} times: {error}")
        self._losses = 0
        return result

    def give_up(self) -> None:
        """End the replay that runs."""
        if self._replay is not None:
            self._replay.kill()
        self._replay, self._task, self._losses = None, None, 0

    async def wait(self) -> None:
        """Return when no replay runs."""
        if self._task is not None:
            await asyncio.wait({self._task})

    def _start(self, ladder: LadderState, state: State[Any]) -> None:
        request = ReplayRequest(
            models_dir=str(self._models_dir.resolve()),
            journal=str(self._journal.resolve()),
            identity=state.identity,
            trading=state.trading,
            public_key=self._public_key,
            champion=ladder.champion,
            challenger=ladder.version,
            seq=int(ladder.figures.get("replay_to", state.seq)),
            sessions=self._sessions,
            manifests={ladder.version: ladder.manifest, ladder.champion: ladder.champion_manifest},
        )
        self._replay = ReplayProcess()
        self._task = asyncio.create_task(asyncio.to_thread(self._replay.run, request))
        self._task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[Replayed]) -> None:
        """Retrieve the result, so that an abandoned replay leaves no warning."""
        if not task.cancelled():
            task.exception()
        self._on_done()
