"""What the tests of publisher and trainer share: a journal's experiences, a log to read, and a stream's entries."""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from daemon.experience.experience import Experience, of_entry, row_of, stream_name
from daemon.experience.of_journal import Experiences
from daemon.experience.publisher import Publisher
from daemon.experience.walk import JournalWalk
from daemon.operator.log import Log
from strategies.kit.contract import ShareSpec
from tests.support.core.share_bars import SPEC
from tests.support.desks.share_bar_run import META
from tests.support.outside.redis_server import RedisServer, running

STREAM = stream_name(META["desk"], "e1")
LIMIT_S = 180.0  # generous: nothing here is measured


def walked(state_dir: Path, after: int = 0, epoch: str = "e1", spec: ShareSpec = SPEC) -> list[Experience]:
    """The experiences of a journal beyond row `after`, as far as it goes; by default of the toy desk."""
    walk, experiences, found = JournalWalk(state_dir, epoch, max(after - 1, 0)), Experiences(spec), []
    while not walk.caught_up:
        for row, _, step, begins in walk.look():
            if begins is not None:
                experiences.begin(begins)
            done = None if step is None else experiences.take(row, step)
            if done is not None and done.row > after:
                found.append(done)
        assert walk.problem == ""
    walk.close()
    return found


class Logged:
    """A real log, whose lines can be read."""

    def __init__(self) -> None:
        self._text = io.StringIO()
        self.log = Log("debug", "json", self._text)

    def lines(self, event: str = "") -> list[dict[str, Any]]:
        """The lines so far, of one event or of all."""
        found = [json.loads(line) for line in self._text.getvalue().splitlines()]
        return [line for line in found if event in {"", line["event"]}]


def entries(client: Any, stream: str = STREAM) -> list[tuple[Experience, int]]:
    """All entries of a stream, each with the row that it names as the one before."""
    return [of_entry(row_of(identifier), fields) for identifier, fields in client.xrange(stream)]


def publish_all(publisher: Publisher) -> None:
    """Take turns until all experience of the journal is in the stream."""
    until(lambda: (publisher.turn(), publisher.caught_up)[1])


def until(done: Callable[[], bool]) -> None:
    """Wait for a condition."""
    end = time.monotonic() + LIMIT_S
    while not done():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


@contextmanager
def redis_anywhere(*more: str) -> Iterator[RedisServer]:
    """A server in a folder with a short name: the path of a socket has at most 107 letters."""
    with tempfile.TemporaryDirectory(prefix="r") as folder, running(Path(folder), more) as server:
        yield server
