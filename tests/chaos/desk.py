"""The daemon of one session over all its lives: started, killed, frozen, stopped, and started again as systemd would.

It knows processes and files alone. A life that ends without being asked to is reported with its reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path

from daemon.engine.recover import code_digest
from daemon.engine.verify import verify
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.journal.rows import JournalError
from simulator.clock import SimClock
from strategies.registry import strategy as strategy_named
from tests.support.desks.live_desk import Books, Daemon, another_release, books

START_LIMIT_S = 600.0
ROOM_MIB = 48  # of the small disk
FILLER = "filler"


class Desk:
    """`rltraderd` with one configuration and one state directory. Times are virtual seconds.

    Its first life begins at once unless `begin` is false. `more` are further variables of its environment; `program`
    and `prepare` are those of `Daemon`.
    """

    def __init__(
        self,
        config: Path,
        state_dir: Path,
        keys: tuple[str, str],
        log: Path,
        clock: SimClock,
        *,
        begin: bool = True,
        more: Mapping[str, str] | None = None,
        program: str = "daemon.cli.daemon",
        prepare: Callable[[], object] | None = None,
    ) -> None:
        self.state_dir = state_dir
        self.lives = 0
        self.ends: list[str] = []  # of lives that ended by themselves
        self.config = config
        self._arguments = ["--config", str(config)]
        self._environment = {"APCA_API_KEY_ID": keys[0], "APCA_API_SECRET_KEY": keys[1], **(more or {})}
        self._log, self._clock = log, clock
        self._ahead_s = 0.0
        self._release: Path | None = None
        self._program, self._prepare = program, prepare
        self._damaged = False  # a row is, which a replay names
        self._flipped: dict[int, bytes] = {}  # snapshots as they were, by their event row
        log.touch()
        if begin:
            self.start()

    def start(self) -> None:
        """Begin the next life."""
        self.lives += 1
        self._log_start = self._log.stat().st_size
        self._process = Daemon(
            self._arguments, self._environment, self._log, self._ahead_s, self._clock, self._release,
            self._program, self._prepare,
        )  # fmt: skip

    def update(self) -> None:
        """Lay another release under the desk, which decides the same: its next life runs that one."""
        self._release = another_release(self._log.parent / "release")

    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.returncode is None

    def killed_itself(self) -> bool:
        """Whether this life ended by SIGKILL, which nobody here sent."""
        return self._process.returncode == -signal.SIGKILL

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self._process.kill()
        self._process.wait(START_LIMIT_S)

    def stop(self, limit_s: float) -> int | None:
        """SIGTERM; the exit code, None when it still runs after `limit_s`."""
        self.ask_to_stop()
        return self.wait(limit_s)

    def ask_to_stop(self) -> None:
        """SIGTERM, without waiting."""
        if self.alive():
            self._process.terminate()

    def wait(self, limit_s: float) -> int | None:
        """The exit code, None when it still runs after `limit_s`."""
        return self._process.wait(limit_s)

    def pause(self, *, stopped: bool) -> None:
        """SIGSTOP or SIGCONT."""
        self._process.pause(stopped=stopped)

    def leap(self, by_s: float) -> None:
        """Set the host's wall clock by real seconds, for this life and those after it."""
        self._ahead_s += by_s
        self._process.leap(by_s)

    def why_ended(self) -> str:
        """`CODE: REASON` of a life that is over, from the log."""
        code = self._process.returncode
        entries = self._process.read_log()
        for event in reversed(entries[-50:]):
            if event["event"] in ("refused", "journal_failed", "step_failed"):
                return f"{code}: {event['event']}: {event.get('problem', '')}"
            if event["event"] == "run_ended":
                return f"{code}: {event['stopped_by']}"
            if event["event"] == "" and "Error" in event["text"]:
                return f"{code}: {event['text']}"
        return f"{code}: no reason in the log"

    def let_files_grow_by(self, size: int) -> None:
        """From now on no file of this life grows beyond its journal's log as it is and `size` bytes: where no small
        disk can be mounted, its writes fail all the same.
        """
        with contextlib.suppress(OSError):
            log = self.state_dir / f"{FILE}-wal"
            limit = log.stat().st_size + size
            resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (limit, limit))

    def core_size(self) -> str:
        """The limit for core dumps of this life, as the kernel tells it; "" where it is over."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self._process.pid}/limits").read_text().splitlines():
                if line.startswith("Max core file size"):
                    return line.split()[4]
        return ""

    def has_snapshot(self) -> bool:
        """Whether the journal, where there is one, has a snapshot."""
        try:
            with contextlib.closing(JournalReader(self.state_dir / FILE)) as reader:
                return bool(reader.query("SELECT 1 FROM snapshots LIMIT 1"))
        except (JournalError, sqlite3.Error):
            return False

    def flip_in_snapshot(self, chance: random.Random) -> str:
        """Flip a bit of the newest snapshot, of a life that is over; what the next one is to log of it, "" for none."""
        if not self.has_snapshot():
            return ""
        with contextlib.closing(sqlite3.connect(self.state_dir / FILE, isolation_level=None)) as journal:
            newest = "SELECT event_id, seq, state FROM snapshots ORDER BY event_id DESC LIMIT 1"
            row, seq, state = journal.execute(newest).fetchone()
            flipped, bit = bytearray(state), chance.randrange(8 * len(state))
            flipped[bit // 8] ^= 1 << bit % 8
            journal.execute("UPDATE snapshots SET state = ? WHERE event_id = ?", (bytes(flipped), row))
        self._flipped.setdefault(row, state)
        return f"event {seq}: it is damaged"

    def flip_in_row(self, chance: random.Random) -> bool:
        """Flip a bit of one of the newest events' payloads, of a life that is over, among the rows that no snapshot
        covers; False if there is no such row.
        """
        with contextlib.closing(sqlite3.connect(self.state_dir / FILE, isolation_level=None)) as journal:
            uncovered = "id > (SELECT coalesce(max(event_id), 0) FROM snapshots)"
            query = f"SELECT id, kind, payload FROM events WHERE {uncovered} ORDER BY id DESC LIMIT 200"
            kinds: dict[str, list[tuple[int, str]]] = {}
            for row, kind, payload in journal.execute(query):
                kinds.setdefault(kind, []).append((row, payload))
            if not kinds:
                return False
            row, payload = chance.choice(kinds[chance.choice(sorted(kinds))])  # most rows are quotes and ticks
            flipped, bit = bytearray(payload.encode()), chance.randrange(8 * len(payload))
            flipped[bit // 8] ^= 1 << bit % 8
            journal.execute("UPDATE events SET payload = CAST(? AS TEXT) WHERE id = ?", (bytes(flipped), row))
        self._damaged = True
        return True

    def halted_for(self) -> set[str]:
        """The reasons of all halts that the log names; one that stands behind another is told by its alarm alone."""
        names = {"halted": "reason", "alarm": "alarm"}
        log = self._process.read_log()
        return {str(line[names[str(line["event"])]]) for line in log if line["event"] in names}

    def passed_over(self) -> list[str]:
        """Snapshots that could not be used, as the log names them."""
        entries = self._process.read_log()
        return [str(event["snapshot"]) for event in entries if event["event"] == "snapshot_passed_over"]

    def _mend_snapshots(self) -> None:
        """Put back what was flipped and is still there: a replay names each damaged snapshot, and is to go on."""
        with contextlib.closing(sqlite3.connect(self.state_dir / FILE, isolation_level=None)) as journal:
            for row, state in self._flipped.items():
                journal.execute("UPDATE snapshots SET state = ? WHERE event_id = ?", (state, row))

    def replayed(self) -> str:
        """What a replay of the journal finds different; "" when both are equal bit for bit. For one that is over."""
        if self._flipped:
            self._mend_snapshots()
        try:
            difference = verify(self.state_dir / FILE, code_digest(), strategy_named).difference
        except JournalError as error:
            return str(error)
        return "" if self._damaged and "the hash does not match: this row" in difference else difference

    def listening(self) -> bool:
        """Whether this life has heard the trade stream: it is up."""
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            return b"trade_stream_listening" in log.read()

    def rows(self) -> int:
        """How many events the journal has; 0 before there is one."""
        with contextlib.suppress(JournalError):
            reader = JournalReader(self.state_dir / FILE)
            try:
                return int(reader.query("SELECT coalesce(max(id), 0) AS n FROM events")[0]["n"])
            finally:
                reader.close()
        return 0

    def bars_since(self, ns: int) -> int:
        """How many bars the journal has that began at `ns` or later."""
        with contextlib.suppress(JournalError):
            reader = JournalReader(self.state_dir / FILE)
            try:
                whole = (
                    "CASE WHEN json_valid(payload) THEN json_extract(payload, '$.bar.start_ns') END"  # some bit flips
                )
                query = f"SELECT count(DISTINCT {whole}) AS n FROM events WHERE kind = 'BarClosed' AND {whole} >= ?"
                return int(reader.query(query, (ns,))[0]["n"])
            finally:
                reader.close()
        return 0

    def close_calls(self) -> set[tuple[str, Decimal]]:
        """Symbol and quantity of all closes by the broker's own call: their orders bear no name of the desk's."""
        with contextlib.suppress(JournalError):
            reader = JournalReader(self.state_dir / FILE)
            try:
                rows = reader.query("""SELECT effects FROM events WHERE effects LIKE '%"closing":true%'""")
                effects = [effect for row in rows for effect in json.loads(row["effects"])]
                return {(str(it["symbol"]), Decimal(it["quantity"])) for it in effects if it.get("closing")}
            finally:
                reader.close()
        return set()

    def books(self) -> Books | None:
        """What the journal says now; None while it cannot be read."""
        with contextlib.suppress(JournalError, IndexError, KeyError):
            return books(self.state_dir)
        return None


@contextlib.contextmanager
def small_disk(folder: Path, *, wanted: bool) -> Iterator[bool]:
    """A file system of its own with little room at `folder`, while root may mount one; yields whether there is one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM_MIB}M", "tmpfs", str(folder)]
    is_mounted = (
        wanted and os.geteuid() == 0 and subprocess.run(command, check=False, capture_output=True).returncode == 0
    )
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Take all room that the file system of `folder` has."""
    block = bytes(1 << 16)
    with (folder / FILLER).open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(block)


def make_room(folder: Path) -> None:
    """Give the room back."""
    (folder / FILLER).unlink(missing_ok=True)
