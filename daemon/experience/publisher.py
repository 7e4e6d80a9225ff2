"""Publish a journal's experience to its Redis stream: sent at least once, counted once.

An entry's id is its journal row. Redis refuses ids that do not increase, so a repeated entry is stored once. The stream
itself shows how far it goes. If it lost entries (restored, emptied), they are sent again. Only acknowledged entries are
trimmed. The daemon does not depend on this process.
"""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec

from daemon.core.draft import wording
from daemon.experience.experience import FIELDS, HASH, Experience, ForeignEntry, of_entry, row_of, stream_name, to_entry
from daemon.experience.link import GROUP, RedisError, ResponseError, text_of
from daemon.experience.of_journal import Experiences
from daemon.experience.walk import JournalWalk, OtherJournal, hash_of
from daemon.host.whole_files import write_whole
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader, reading
from daemon.journal.rows import JournalError, strategy_of
from daemon.pacing import back_off_s

BATCH = 256  # entries in one transaction
IDLE_S = 0.5  # between two reads of a journal without news
TIDY_S = 5.0  # between two trims, each with a checkpoint
WAIT_FIRST_S, WAIT_MOST_S = 0.5, 30.0
QUIET_S = 600.0  # a problem that recurs sooner is the same one: a full server takes a few entries
CHECKPOINT = "publisher.json"
_FOREIGN = (
    "a desk on a copy of its state folder wrote it: run one of the two; or this is an older copy that went on: "
    "delete the stream"
)


class PublisherCheckpoint(msgspec.Struct, frozen=True):
    """The publisher's checkpoint. Rows of the journal of `epoch`; `former`: streams of earlier ones, to be trimmed."""

    epoch: str = ""
    published: int = 0  # the newest row that the stream had
    passed: int = 0  # the newest row that the trainer acknowledged: this and older ones need not come again
    passed_hash: str = ""  # of that row, hex: an older copy of the journal has another row there; "" for unknown
    former: frozenset[str] = frozenset()


class StreamForeign(Exception):
    """The stream has entries unknown to this journal: another one wrote them, or this one is an older copy."""


class Publisher:
    """Publishes one desk's experience. `turn` does one piece of work and returns the wait in seconds.

    It never raises for Redis or the journal. One thread only. `published` counts entries since the start.
    """

    def __init__(self, state_dir: Path, folder: Path, client: Any, log: Callable[..., None]) -> None:
        self._state_dir, self._file = state_dir, folder / CHECKPOINT
        self._redis, self._log = client, log
        self._walk: JournalWalk | None = None
        self._experiences: Experiences | None = None
        self._waiting: deque[tuple[Experience, bytes]] = deque()  # experience and hash of its row
        self._stream = ""
        self._mark = _read_mark(self._file)
        self._last_sent = 0  # the newest row in the stream
        self._checked = False  # whether the stream is known to end at `_sent`
        self._exists = False
        self._failures = 0
        self._problems: dict[str, float] = {}  # by kind: time of the last occurrence, monotonic seconds
        self._delayed = False  # a problem was logged since the last good turn
        self._tidied_s = 0.0
        self.published = 0

    @property
    def caught_up(self) -> bool:
        """Whether all experience of the journal is in the stream, as far as known."""
        return self._walk is not None and self._walk.caught_up and not self._waiting and not self._failures

    @property
    def row(self) -> int:
        """The newest row whose experience the stream has."""
        return self._last_sent

    def turn(self) -> float:
        """Read some rows, send the completed experiences, tidy now and then."""
        try:
            if self._walk is None:
                self._open()
            if not self._checked:
                self._check()
            idle = self._gather()
            self._tidy()  # first: a full server takes nothing before a trim
            self._send()
        except OtherJournal as error:
            self._log("experience_new_journal", problem=str(error))
            self._forget()
            return 0.0
        except (RedisError, StreamForeign, JournalError, sqlite3.Error, OSError, KeyError, ValueError) as error:
            return self._note_failure(error)
        if self._delayed:
            self._log("experience_resumed", row=self._last_sent)
        self._failures, self._delayed = 0, False
        return IDLE_S if idle and not self._waiting else 0.0

    def close(self) -> None:
        """Write the checkpoint, if the disk takes it, and close the journal."""
        if self._stream:
            with suppress(OSError):
                self._save()
        self._forget()

    # --- where to go on -----------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Read the journal's identity. Raises JournalError, KeyError, ValueError."""
        with closing(JournalReader(self._state_dir / FILE)) as reader, reading(reader.path):
            meta = reader.meta()
        epoch, strategy = meta["epoch"], strategy_of(meta)
        self._stream = stream_name(meta["desk"], epoch)
        if self._mark.epoch != epoch:
            former_streams = (
                {*self._mark.former, stream_name(meta["desk"], self._mark.epoch)} if self._mark.epoch else set()
            )
            self._mark = PublisherCheckpoint(epoch, former=frozenset(former_streams - {self._stream}))
        self._experiences = Experiences(strategy.spec)
        self._begin(self._mark.published)

    def _begin(self, after_id: int) -> None:
        """Start the walk so that the experience after row `after_id` is next; its question may be that very row's."""
        if self._walk is not None:
            self._walk.close()
        self._walk = JournalWalk(self._state_dir, self._mark.epoch, max(after_id - 1, 0))
        self._waiting.clear()
        self._last_sent, self._checked = after_id, False

    def _check(self) -> None:
        """Compare the stream's end with the sent rows, and move to it. Raises StreamForeign, RedisError."""
        last = self._last_row()
        self._exists = last is not None
        end = self._mark.passed if last is None else last
        if last is not None:
            self._compare(last)
        else:
            self._tell_passed_over()
        if end < self._last_sent:
            self._log("experience_resent", after=end, until=self._last_sent)
            self._begin(end)
        elif end > self._last_sent:
            if self._waiting and end <= self._waiting[-1][0].row:
                while self._waiting and self._waiting[0][0].row <= end:
                    self._waiting.popleft()
            else:
                self._begin(end)
            self._last_sent = end
        self._checked = True

    def _compare(self, end: int) -> None:
        """Raise StreamForeign if the stream's newest entry is not of this journal."""
        newest = self._newest_row()
        if end > newest:
            raise StreamForeign(f"{self._stream} ends at {end}, the journal at row {newest}: {_FOREIGN}")
        if (entry := self._redis.xinfo_stream(self._stream)["last-entry"]) is not None:
            row, fields = row_of(entry[0]), entry[1]
            with suppress(ForeignEntry):
                experience = of_entry(row, fields)[0]
                if not self._has(row, fields.get(HASH, b""), experience):
                    raise StreamForeign(
                        f"{self._stream} ends with a decision {experience.decision} that the journal does not have: "
                        f"{_FOREIGN}"
                    )

    def _tell_passed_over(self) -> None:
        """Log once that an older copy's rows up to `passed` are not sent: the trainer learned others in their place."""
        mark = self._mark
        known = hash_of(self._state_dir, mark.passed) if mark.passed_hash else None
        if mark.passed_hash and (known.hex() != mark.passed_hash if known else self._newest_row() < mark.passed):
            self._log("experience_missing", before=mark.passed)
            self._mark = msgspec.structs.replace(mark, passed_hash="")

    def _has(self, row: int, row_hash: bytes, experience: Experience) -> bool:
        """Return whether an entry's row is one of this journal; without a hash to compare, whether its decision is."""
        known = hash_of(self._state_dir, row) if row_hash else None
        return known == row_hash if known else experience.bar_ns in self._bars_of(experience.decision)

    def _bars_of(self, decision: int) -> list[int]:
        with closing(JournalReader(self._state_dir / FILE)) as reader, reading(reader.path):
            rows = reader.query("SELECT bar_ns FROM decisions WHERE decision = ?", (decision,))
        return [int(row["bar_ns"]) for row in rows]

    def _last_row(self) -> int | None:
        try:
            return row_of(self._redis.xinfo_stream(self._stream)["last-generated-id"])
        except ResponseError as error:
            if "no such key" in str(error):
                return None
            raise

    def _newest_row(self) -> int:
        with closing(JournalReader(self._state_dir / FILE)) as reader, reading(reader.path):
            last = reader.last_entry()
        return 0 if last is None else last.id

    # --- from the journal to the stream -------------------------------------------------------------------------------

    def _gather(self) -> bool:
        """Read rows while nothing waits; returns whether the journal has no more."""
        walk, experiences = self._walk, self._experiences
        assert walk is not None
        assert experiences is not None
        if self._waiting:
            return False
        gaps = walk.gaps
        for row, row_hash, step, begins in walk.look():
            if begins is not None:
                experiences.begin(begins)
            experience = None if step is None else experiences.take(row, step)
            if experience is not None and experience.row > self._last_sent:
                self._waiting.append((experience, row_hash))
        if walk.gaps > gaps:
            self._log("experience_missing", before=walk.last_id)
        if walk.problem:
            raise JournalError(walk.problem)
        return walk.caught_up

    def _send(self) -> None:
        """Send the waiting entries, in transactions. Raises RedisError: the stream's end is then checked first."""
        while self._waiting and self._checked:
            batch = [self._waiting[place] for place in range(min(BATCH, len(self._waiting)))]
            self._checked = False
            ids = [b"%d-0" % experience.row for experience, _ in batch]
            pipeline = self._redis.pipeline(transaction=True)
            after_id, exists = self._last_sent, self._exists
            for (experience, row_hash), entry_id in zip(batch, ids, strict=True):
                pipeline.xadd(self._stream, to_entry(experience, after_id, row_hash), id=entry_id, nomkstream=exists)
                after_id, exists = experience.row, True
            answers = pipeline.execute()
            if None in answers:  # the stream was deleted
                return
            if answers != ids:
                raise ResponseError(f"the answers {answers!r} are those of another request, expected {ids!r}")
            for _ in batch:
                self._waiting.popleft()
            self._last_sent, self._exists, self._checked = after_id, True, True
            self.published += len(batch)

    def _tidy(self) -> None:
        """Trim the acknowledged entries, and write the checkpoint, every `TIDY_S` seconds."""
        now = time.monotonic()
        if now - self._tidied_s < TIDY_S:
            return
        self._tidy_former()
        if not self._exists:
            return
        self._tidied_s = now
        if self._last_row() != self._last_sent:  # emptying the stream breaks no connection
            self._checked = False
            return
        passed_row = self._passed_row(self._stream, self._mark.passed)
        if passed_row > self._mark.passed:
            self._trim(self._stream, min(passed_row, self._last_sent - 1))  # the newest one identifies the stream
            first = self._redis.xinfo_stream(self._stream)["first-entry"]
            after_id = b"%d" % self._last_sent if first is None else first[1].get(FIELDS[1], b"")
            if after_id.isdigit():  # the newest entry that was trimmed; a foreign entry does not say which
                passed_hash = (hash_of(self._state_dir, int(after_id)) or b"").hex()
                self._mark = msgspec.structs.replace(self._mark, passed=int(after_id), passed_hash=passed_hash)
        try:
            self._save()
        except OSError as error:  # the stream's end shows the same: waiting entries are sent anyway
            self._report_problem(error)

    def _tidy_former(self) -> None:
        """Trim streams of earlier epochs as the trainer acknowledges them, until they are empty."""
        for stream in self._mark.former:
            try:
                self._trim(stream, self._passed_row(stream, 0))
                over = not self._redis.xlen(stream)
            except ResponseError as error:
                if "no such key" not in str(error):
                    raise
                over = True
            if over:
                self._mark = msgspec.structs.replace(self._mark, former=self._mark.former - {stream})

    def _trim(self, stream: str, passed_row: int) -> None:
        self._redis.xtrim(stream, minid=b"%d-0" % (passed_row + 1), approximate=False)

    def _passed_row(self, stream: str, least: int) -> int:
        """Return a row up to which the trainer acknowledged every entry; `least` without a trainer."""
        for group in self._redis.xinfo_groups(stream):
            if group["name"] == GROUP.encode():
                if not group["pending"]:
                    return row_of(group["last-delivered-id"])
                oldest = self._redis.xpending(stream, GROUP)["min"]
                return least if oldest is None else row_of(oldest) - 1
        return least

    def _save(self) -> None:
        mark = msgspec.structs.replace(self._mark, published=self._last_sent)
        if mark != _read_mark(self._file):
            write_whole(self._file, msgspec.json.encode(mark))
        self._mark = mark

    # --- failures -----------------------------------------------------------------------------------------------------

    def _note_failure(self, error: Exception) -> float:
        """Log a problem; returns the wait before the next attempt, on a new connection: this one's answers may lag."""
        self._redis.connection_pool.disconnect()
        self._checked, self._tidied_s = False, 0.0
        self._failures += 1
        self._delayed |= self._report_problem(error)
        return back_off_s(self._failures, WAIT_FIRST_S, WAIT_MOST_S)

    def _report_problem(self, error: Exception) -> bool:
        """Log a problem whose kind has not occurred for `QUIET_S`; returns whether it was logged."""
        text = text_of(error)
        kind = f"{type(error).__name__} {wording(text)}"
        now = time.monotonic()
        new = now - self._problems.get(kind, -QUIET_S) >= QUIET_S
        if new:
            self._log("experience_delayed", problem=text)
        self._problems[kind] = now
        return new

    def _forget(self) -> None:
        if self._walk is not None:
            self._walk.close()
        self._walk, self._stream = None, ""
        self._waiting.clear()


def _read_mark(path: Path) -> PublisherCheckpoint:
    """Return the checkpoint; an empty one if it cannot be read, as the stream's end decides then."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=PublisherCheckpoint)
    except (OSError, ValueError):
        return PublisherCheckpoint()
