"""Every trouble of the stream of experience, on a journal that is published bit by bit; and what the verdict finds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from strategies.registry import strategy
from tests.chaos.desks.plan import STREAM, StreamTrouble
from tests.chaos.desks.stream import Stream
from tests.support.desks.desk_run import Desk, tape_rows, write_tape
from tests.support.models.online_models import NAME, VERSION, put_momentum
from tests.support.outside.redis_server import BINARY

MINUTE_NS = 60 * 10**9
APART_MIN, LASTS_MIN = 6, 3  # between two troubles


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stream]:
    if BINARY is None:
        pytest.skip("needs Debian's package redis-server: apt-get install redis-server")
    monkeypatch.setattr("daemon.experience.walk.ROWS_AT_ONCE", 12)
    tape = write_tape(tmp_path / "tape.csv", tape_rows(1, 250, stubs=2))
    desk = Desk(tape, desk__strategy=NAME, paths__models_dir=put_momentum(tmp_path / "store"), policy__version=VERSION)
    assert desk.run(tmp_path / "state").failure is None
    result = Stream(tmp_path / "stream", tmp_path / "state", 1, tmp_path / "store", strategy(NAME), ())
    yield result
    result.close()


def test_whatever_befalls_it_each_decision_is_learned_from_once(stream: Stream) -> None:
    while not stream._publisher.row:  # the bars before the first decision
        stream._turn()
    stream.draw([StreamTrouble(name, APART_MIN * (place + 1), LASTS_MIN) for place, name in enumerate(STREAM)])
    for minute in range(1, APART_MIN * (len(STREAM) + 2)):
        stream.tend(minute * MINUTE_NS, 0)
    assert stream.settle() == []
    assert {*stream.met} == {*STREAM}
    entries = stream._learner.taken
    assert len(entries) > 100
    for wrong in ([*entries, entries[-1]], entries[:-5], [*entries[:50], entries[0], *entries[51:]]):
        stream._learner.taken = list(wrong)
        expected, waits = stream._expected()
        assert stream._apart(expected, waits) != []
    refused = [line["reason"] for line in stream.logged.lines("experience_refused")]
    assert any("schema '99'" in reason for reason in refused)
    for event in ("experience_gap", "experience_delayed", "trainer_delayed"):
        assert stream.logged.lines(event) != []
