"""Record option quotes into one file per session, a minute at a time, on a separate thread.

`DATE.part/` holds a whole file for each minute; at the session's end they become `DATE.parquet`. A killed recording
resumes: memory holds only minutes that wait for the disk. Failures never reach the desk: a full or slow disk stops the
recording, and `problem` names the reason.
"""

from __future__ import annotations

import contextlib
import queue
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet

from daemon.host.time.clock import steady_ns
from daemon.host.whole_files import whole
from daemon.tapes.files import TapeError
from daemon.tapes.quotes.minute_book import MinuteQuote
from daemon.tapes.quotes.reader import QuoteFile
from daemon.tapes.quotes.schema import MINUTE, SCHEMA
from daemon.tapes.quotes.writer import writing_quotes
from strategies.kit.units import SECOND_NS

PART = ".part"
WAITING_MOST = 400  # minutes that may wait in memory: a session
SLOW_S = 60.0  # host seconds that the oldest may wait
MIB = 1 << 20
_CHUNK = pa.schema([item for item in SCHEMA if item.name != "source"])


class MinuteRows(NamedTuple):
    """The rows of one minute; `underlying` in USD, None where unknown."""

    date: str
    end_ns: int
    underlying: float | None
    rows: list[MinuteQuote]


class Finished(NamedTuple):
    """A session's file."""

    path: Path
    rows: int
    minutes: int  # recorded minutes
    damaged: int  # unreadable files of a minute


class Recording:
    """The files of one desk. `add` and `finish` never wait; the thread writes until `stop`.

    `source` names the origin of the quotes, `synthetic` their generator ("" for real ones). Writing stops while less
    than `free_mib` is free on the disk.
    """

    def __init__(
        self, folder: Path, *, source: str, synthetic: str, free_mib: int, now_ns: Callable[[], int] = steady_ns
    ) -> None:
        self.problem = ""  # why the recording stopped; "" while it runs
        self.finished: queue.SimpleQueue[Finished] = queue.SimpleQueue()
        self.unfinished: queue.SimpleQueue[str] = queue.SimpleQueue()  # why an earlier session has no file
        self._folder, self._source, self._synthetic = folder, source, synthetic
        self._free_mib, self._now_ns = free_mib, now_ns
        self._waiting: queue.Queue[tuple[int, MinuteRows | str] | None] = queue.Queue(WAITING_MOST)
        self._oldest_ns = 0  # when the item in work was added; 0 while the thread waits
        self._thread = threading.Thread(target=self._run, name="quote recording", daemon=True)

    def start(self) -> None:
        """Start the thread; it first finishes sessions that an earlier run left."""
        self._thread.start()

    def begin(self, date: str) -> None:
        """Begin a session: try again after a problem, and finish the sessions before it."""
        self.problem = ""
        self._put(f"<{date}")

    def add(self, minute: MinuteRows) -> None:
        """Queue a minute for writing; ignored after a problem."""
        if not self.problem and minute.rows:
            self._put(minute)

    def finish(self, date: str) -> None:
        """Queue the merge of the session's minutes into its file."""
        if not self.problem:
            self._put(date)

    def stop(self, within_s: float) -> None:
        """End the thread once the queue is written, or abandon it after `within_s`: every file is whole at any time."""
        try:
            self._waiting.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(within_s)

    def _put(self, item: MinuteRows | str) -> None:
        now_ns = self._now_ns()
        slow = self._oldest_ns and now_ns - self._oldest_ns > SLOW_S * SECOND_NS
        if not slow:
            with contextlib.suppress(queue.Full):
                self._waiting.put_nowait((now_ns, item))
                return
        self.problem = f"the disk is too slow: {self._waiting.qsize()} minutes wait for it"

    # --- on the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            self._oldest_ns, item = waiting
            try:
                self._write(item)
            except Exception as error:  # no exception may reach the desk
                self.problem = f"{type(error).__name__}: {error}"
            self._oldest_ns = 0

    def _write(self, item: MinuteRows | str) -> None:
        if self.problem:
            return
        if isinstance(item, MinuteRows):
            self._check_room()
            write_minute(self._folder, item)
            return
        if not item.startswith("<"):
            self._finish(item)
            return
        for date in (date for date in left_in(self._folder) if date < item[1:]):
            try:
                self._finish(date)
            except TapeError as error:  # a damaged session must not cost this one
                self.unfinished.put(str(error))

    def _finish(self, date: str) -> None:
        self._check_room()
        outcome = finish(self._folder, date, source=self._source, synthetic=self._synthetic)
        if outcome is not None:
            self.finished.put(outcome)

    def _check_room(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._folder).free // MIB
        if free < self._free_mib:
            raise OSError(f"{free} MiB are free in {self._folder}; expected record.free_mib ({self._free_mib})")


def write_minute(folder: Path, minute: MinuteRows) -> None:
    """Write one minute as a whole file, replacing the same minute. Raises OSError."""
    part = folder / f"{minute.date}{PART}"
    part.mkdir(parents=True, exist_ok=True)
    count = len(minute.rows)
    columns = dict(zip(MinuteQuote._fields, zip(*minute.rows, strict=True), strict=True))
    columns |= {"timestamp": (minute.end_ns,) * count, "underlying": (minute.underlying,) * count}
    table = pa.table([pa.array(columns[item.name], item.type) for item in _CHUNK], schema=_CHUNK)
    with whole(part / f"{minute.end_ns}.parquet") as path:
        pa.parquet.write_table(table, path, compression="zstd", write_page_checksum=True)


def left_in(folder: Path) -> list[str]:
    """Return the dates of the unfinished sessions with minutes."""
    return sorted(path.name.removesuffix(PART) for path in folder.glob(f"????-??-??{PART}"))


def finish(folder: Path, date: str, *, source: str, synthetic: str) -> Finished | None:
    """Merge the session's minutes with its earlier `DATE.parquet`, if any; None without a minute.

    Raises OSError, TapeError.
    """
    part, out = folder / f"{date}{PART}", folder / f"{date}.parquet"
    minutes = sorted(part.glob("*.parquet"))
    if not minutes:
        return None
    damaged_count = 0
    with writing_quotes(out, source=source, interval=MINUTE, synthetic=synthetic) as writer:
        keys = set()
        if out.exists():
            for table in QuoteFile(out).tables():
                keys |= set(table.column("timestamp").cast(pa.int64()).to_pylist())
                writer.add(table)
        for path in minutes:
            table = _read(path)
            damaged_count += table is None
            if table is not None and int(path.stem) not in keys:
                writer.add(table)
        if damaged_count == len(minutes) and not keys:
            raise TapeError(f"{part}: all {damaged_count} files are damaged: remove the folder")
        summary = writer.finish()
    shutil.rmtree(part)
    return Finished(out, summary.rows, len(minutes) - damaged_count, damaged_count)


def _read(path: Path) -> Any:
    """Return the table of a minute's file, None for a damaged one. Raises OSError if the disk fails."""
    try:
        return pa.parquet.read_table(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # pyarrow's own errors have none
            raise
        return None
