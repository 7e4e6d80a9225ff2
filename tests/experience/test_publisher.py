"""The publisher brings each experience into the stream once, whatever happens to it, to Redis or to the journal."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from redis.client import Pipeline

from daemon.core.effects import AskPolicy
from daemon.core.events import PolicyAnswered
from daemon.experience import publisher as publisher_module
from daemon.experience.__main__ import main
from daemon.experience.experience import stream_name, to_entry
from daemon.experience.link import GROUP
from daemon.experience.publisher import CHECKPOINT, Publisher
from tests.support.core.share_bars import EveryThird
from tests.support.desks.desk_run import Crash
from tests.support.desks.share_bar_run import Toy
from tests.support.outside.between import IMPOSSIBLE, between
from tests.support.outside.redis_server import RedisServer
from tests.support.outside.stream import STREAM, Logged, entries, publish_all, until, walked
from tests.support.paths import REPOSITORY


@pytest.fixture
def client(server: RedisServer) -> Iterator[Any]:
    """The operator's client: it may do anything."""
    with server.client() as connection:
        yield connection


@pytest.fixture
def publisher(state: Path, tmp_path: Path, server: RedisServer, logged: Logged) -> Iterator[Publisher]:
    new_publisher = made_for(state, tmp_path, server, logged)
    yield new_publisher
    new_publisher.close()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trim at each turn, so that no test waits for it."""
    monkeypatch.setattr(publisher_module, "TIDY_S", 0.0)


def made_for(state: Path, folder: Path, server: RedisServer, logged: Logged) -> Publisher:
    return Publisher(state, folder, server.client("rltrader-publisher"), logged.log)


def is_whole(client: Any, state: Path) -> None:
    """The stream holds each experience of the journal once, and each entry names the one before."""
    expected, published = walked(state), entries(client)
    assert [experience for experience, _ in published] == expected
    assert [after for _, after in published] == [0, *(e.row for e in expected[:-1])]
    assert [identifier for identifier, _ in client.xrange(STREAM)] == [b"%d-0" % e.row for e in expected]


def test_it_brings_each_experience_of_a_journal_once(
    publisher: Publisher, client: Any, state: Path, tmp_path: Path, server: RedisServer, logged: Logged
) -> None:
    publish_all(publisher)
    is_whole(client, state)
    publisher.close()
    again = made_for(state, tmp_path, server, logged)
    publish_all(again)
    assert again.published == 0
    assert client.xinfo_stream(STREAM)["entries-added"] == publisher.published == 76
    assert logged.lines() == []


def test_it_follows_a_desk_that_runs(
    toy: Toy, client: Any, tmp_path: Path, server: RedisServer, logged: Logged
) -> None:
    state, counts = tmp_path / "running", []
    publisher = made_for(state, tmp_path, server, logged)

    def look(*_: object) -> None:
        if (state / "journal.sqlite").exists():
            publisher.turn()
            counts.append(publisher.published)

    assert toy.run(state, group=4, observe=look)
    publish_all(publisher)
    is_whole(client, state)
    assert len(set(counts)) > 20
    assert logged.lines("experience_resent") == []


def test_without_its_checkpoint_it_goes_on_where_the_stream_ends(
    publisher: Publisher, client: Any, state: Path, tmp_path: Path, server: RedisServer, logged: Logged
) -> None:
    publish_all(publisher)
    publisher.close()
    for content in (None, b"", b"{broken", b'{"epoch":"\xff"}'):
        (tmp_path / CHECKPOINT).unlink()
        if content is not None:
            (tmp_path / CHECKPOINT).write_bytes(content)
        again = made_for(state, tmp_path, server, logged)
        publish_all(again)
        again.close()
        assert again.published == 0
    is_whole(client, state)


def test_a_full_disk_of_its_own_keeps_no_experience_back(
    publisher: Publisher, client: Any, state: Path, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(publisher_module, "write_whole", full)
    monkeypatch.setattr(publisher_module, "TIDY_S", 0.0)
    monkeypatch.setattr("daemon.experience.walk.ROWS_AT_ONCE", 6)
    publish_all(publisher)
    publisher.close()
    is_whole(client, state)
    assert [line["problem"] for line in logged.lines("experience_delayed")] == ["[Errno 28] No space left on device"]


def test_killed_at_random_moments_it_loses_nothing_and_counts_nothing_twice(
    client: Any, state: Path, tmp_path: Path, server: RedisServer
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    draw, kills = random.Random(seed), 0
    while True:
        with slow_process(state, tmp_path, server) as process:
            goal = min(76, count(client) + draw.randint(1, 12))
            until(partial(reached, client, goal))
            process.kill()
            kills += 1
        if count(client) == 76:
            break
    assert kills >= 6
    is_whole(client, state)
    assert client.xinfo_stream(STREAM)["entries-added"] == 76


SLOWLY = """
import sys, time
from daemon.experience import publisher, walk
from daemon.experience.__main__ import main
from strategies.registry import STRATEGIES
STRATEGIES["share_bars"] = "tests.support.core.share_bars"
publisher.BATCH, walk.ROWS_AT_ONCE, publisher.TIDY_S = 2, 6, 0.0
publisher.to_entry = lambda *given, made=publisher.to_entry: time.sleep(0.03) or made(*given)
sys.exit(main(sys.argv[1:]))
"""


def slow_process(state: Path, folder: Path, server: RedisServer) -> subprocess.Popen[bytes]:
    """The command, which takes small steps."""
    arguments = ["--state-dir", str(state), "--own-dir", str(folder), "--redis", f"unix://{server.socket}"]
    secret = {"REDIS_PASSWORD": server.passwords["rltrader-publisher"], "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen([sys.executable, "-c", SLOWLY, *arguments], env={**os.environ, **secret})


def reached(client: Any, goal: int) -> bool:
    return count(client) >= goal


def count(client: Any) -> int:
    return int(client.xlen(STREAM))


def test_it_ends_by_a_signal_with_its_checkpoint(client: Any, state: Path, tmp_path: Path, server: RedisServer) -> None:
    with slow_process(state, tmp_path, server) as process:
        until(lambda: count(client) == 76)
        process.send_signal(signal.SIGTERM)
        assert process.wait(180) == 0
    assert b'"published":264' in (tmp_path / CHECKPOINT).read_bytes()


# --- Redis ------------------------------------------------------------------------------------------------------------


def test_redis_killed_and_started_again_loses_nothing(
    publisher: Publisher, client: Any, state: Path, server: RedisServer, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_module, "BATCH", 5)
    publisher.turn()
    server.kill()
    for _ in range(3):
        assert publisher.turn() > 0.0
    assert [line["event"] for line in logged.lines()] == ["experience_delayed"]
    server.start()
    publish_all(publisher)
    assert [line["event"] for line in logged.lines()] == ["experience_delayed", "experience_resumed"]
    is_whole(client, state)


def test_while_redis_is_away_no_more_is_read_than_one_look(
    publisher: Publisher, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.experience.walk.ROWS_AT_ONCE", 20)
    publisher.turn()
    server.kill()
    row = publisher.row
    for _ in range(20):
        publisher.turn()
    assert publisher.row == row
    server.start()
    publish_all(publisher)


def test_a_frozen_redis_delays_and_what_it_had_received_counts_once(
    publisher: Publisher, client: Any, state: Path, server: RedisServer, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.experience.walk.ROWS_AT_ONCE", 60)
    publisher._redis = server.link("rltrader-publisher").client(server.passwords["rltrader-publisher"], answer_s=0.3)
    publisher.turn()
    server.freeze()
    assert publisher.turn() > 0.0  # the requests wait in the socket
    assert publisher.turn() > 0.0
    server.thaw()
    publish_all(publisher)
    assert len(logged.lines("experience_delayed")) >= 1
    is_whole(client, state)


def test_an_emptied_redis_gets_again_what_the_trainer_has_not_acknowledged(
    publisher: Publisher, client: Any, state: Path, logged: Logged
) -> None:
    publish_all(publisher)
    rows = [e.row for e in walked(state)]
    acknowledge(client, rows, 20)
    publisher.turn()
    client.flushall()
    publish_all(publisher)
    until(lambda: (publisher.turn(), count(client) == 56)[1])
    assert [experience.row for experience, _ in entries(client)] == rows[20:]
    assert entries(client)[0][1] == rows[19]
    line = logged.lines("experience_resent")[0]
    assert (line["after"], line["until"]) == (rows[19], rows[-1])


def test_what_an_answer_to_another_request_seems_to_confirm_is_sent_again(
    publisher: Publisher, client: Any, state: Path, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute, foreign = Pipeline.execute, deque(range(3))

    def answered(pipeline: Pipeline, **options: object) -> object:
        if pipeline.command_stack and foreign:
            foreign.pop()
            return [b"1-0"] * len(pipeline.command_stack)
        return execute(pipeline, **options)

    monkeypatch.setattr(Pipeline, "execute", answered)
    publish_all(publisher)
    is_whole(client, state)
    assert len(logged.lines("experience_delayed")) == 1


@pytest.mark.parametrize("answer", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_an_answer_that_no_redis_gives_is_told_with_the_cure_and_nothing_is_lost(
    answer: bytes, client: Any, state: Path, tmp_path: Path, server: RedisServer, logged: Logged
) -> None:
    user = "rltrader-publisher"
    with between(server, user) as proxy:
        publisher = Publisher(state, tmp_path, proxy.link.client(server.passwords[user]), logged.log)
        proxy.instead = answer
        assert publisher.turn() > 0.0
        proxy.instead = b""
        publish_all(publisher)
        publisher.close()
    is_whole(client, state)
    (line,) = logged.lines("experience_delayed")
    assert "no Redis answers XINFO STREAM like this" in line["problem"]
    assert "connect to Redis without a proxy" in line["problem"]


def test_a_redis_emptied_between_two_requests_is_noticed(
    publisher: Publisher, client: Any, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_module, "BATCH", 5)
    real = publisher._redis.pipeline
    flushed: list[object] = []

    def pipeline(*arguments: Any, **options: Any) -> Any:
        if publisher.published >= 10 and not flushed:
            flushed.append(client.flushall())
        return real(*arguments, **options)

    monkeypatch.setattr(publisher._redis, "pipeline", pipeline)
    publish_all(publisher)
    assert flushed
    is_whole(client, state)


def test_a_full_redis_keeps_what_it_has_and_takes_the_rest_once_the_trainer_has_passed_some(
    publisher: Publisher, client: Any, state: Path, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_module, "BATCH", 5)
    monkeypatch.setattr("daemon.experience.walk.ROWS_AT_ONCE", 60)
    publisher.turn()
    client.xgroup_create(STREAM, GROUP, id="0")
    client.config_set("maxmemory", 1)
    there = count(client)
    for _ in range(4):
        publisher.turn()
    assert count(client) == there
    assert "maxmemory" in logged.lines("experience_delayed")[0]["problem"]
    read = client.xreadgroup(GROUP, "t", {STREAM: ">"}, count=3)[0][1]
    client.xack(STREAM, GROUP, *(identifier for identifier, _ in read))
    publisher.turn()
    assert count(client) == there - 3  # a full server still trims
    client.config_set("maxmemory", 0)
    publish_all(publisher)
    assert [experience for experience, _ in entries(client)] == walked(state)[3:]


def test_a_full_redis_is_reported_once_however_often_it_refuses_other_rows(
    publisher: Publisher, client: Any, state: Path, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_module, "BATCH", 5)
    monkeypatch.setattr("daemon.experience.walk.ROWS_AT_ONCE", 60)
    rows, send = list[int](), publisher._send

    def five() -> None:
        """Redis takes one batch, then it is full."""
        client.config_set("maxmemory", 0)
        before, publisher._waiting = publisher._waiting, deque(list(publisher._waiting)[:5])
        send()
        publisher._waiting = deque(list(before)[5:])
        rows.append(publisher.row)
        client.config_set("maxmemory", 1)
        send()

    monkeypatch.setattr(publisher, "_send", five)
    for _ in range(6):
        publisher.turn()
    client.config_set("maxmemory", 0)
    assert len(set(rows)) == 6  # another row was the first to be refused, each time
    (line,) = logged.lines("experience_delayed")
    assert line["problem"].endswith("command not allowed when used memory > 'maxmemory'.")
    assert "XADD" not in line["problem"]
    monkeypatch.setattr(publisher, "_send", send)
    publish_all(publisher)
    assert [line["event"] for line in logged.lines()] == ["experience_delayed", "experience_resumed"]
    client.delete(STREAM)
    for _ in range(4):  # a foreign stream that the journal never reaches, while the journal grows
        client.xadd(STREAM, {b"x": b"y"}, id=f"{client.incr('n') + 100_000}-0")
        publisher._checked = False
        publisher.turn()
    assert len(logged.lines("experience_delayed")) == 2


def acknowledge(client: Any, rows: list[int], number: int) -> None:
    """As the trainer: read twice as many, acknowledge `number`."""
    client.xgroup_create(STREAM, GROUP, id="0")
    client.xreadgroup(GROUP, "t", {STREAM: ">"}, count=2 * number)
    client.xack(STREAM, GROUP, *(b"%d-0" % row for row in rows[:number]))


def test_only_what_the_trainer_acknowledged_is_trimmed(publisher: Publisher, client: Any, state: Path) -> None:
    publish_all(publisher)
    rows = [e.row for e in walked(state)]
    client.xgroup_create(STREAM, "another", id="$")
    publisher.turn()
    assert count(client) == 76
    acknowledge(client, rows, 10)
    publisher.turn()
    assert entries(client)[0][0].row == rows[10]
    client.xack(STREAM, GROUP, *(b"%d-0" % row for row in rows[11:20]))  # row 10 is still to be learned from
    publisher.turn()
    assert entries(client)[0][0].row == rows[10]
    client.xack(STREAM, GROUP, b"%d-0" % rows[10])
    publisher.turn()
    assert entries(client)[0][0].row == rows[20]


def test_a_foreign_entry_in_front_keeps_nothing_back(publisher: Publisher, client: Any, state: Path) -> None:
    experiences = walked(state)
    for after, experience in zip((0, experiences[0].row, experiences[1].row), experiences[:3], strict=True):
        client.xadd(STREAM, to_entry(experience, after), id=b"%d-0" % experience.row)
    foreign = b"%d-0" % (experiences[2].row + 1)
    client.xadd(STREAM, {"a": "b"}, id=foreign)
    client.xgroup_create(STREAM, GROUP, id="0")
    client.xreadgroup(GROUP, "t", {STREAM: ">"}, count=3)
    client.xack(STREAM, GROUP, *(b"%d-0" % experience.row for experience in experiences[:3]))
    publish_all(publisher)
    ids = [identifier for identifier, _ in client.xrange(STREAM)]
    assert ids == [foreign, *(b"%d-0" % experience.row for experience in experiences[3:])]


# --- other streams, other journals ------------------------------------------------------------------------------------


def test_a_stream_that_another_one_wrote_is_left_alone_until_it_is_gone(
    publisher: Publisher, client: Any, state: Path, logged: Logged
) -> None:
    client.xadd(STREAM, {"a": "b"}, id="100000-0")
    for _ in range(3):
        assert publisher.turn() > 0.0
    assert count(client) == 1
    assert "ends at 100000, the journal at row 265:" in logged.lines("experience_delayed")[0]["problem"]
    client.delete(STREAM)
    publish_all(publisher)
    is_whole(client, state)


def test_a_stream_that_ends_with_another_decision_than_the_journal_is_left_alone(
    publisher: Publisher, client: Any, state: Path, logged: Logged
) -> None:
    *before, last = walked(state)
    of_the_former = replace(last, bar_ns=last.bar_ns - 1)  # the journal is an older copy, and has gone on since
    client.xadd(STREAM, to_entry(of_the_former, before[-1].row), id=b"%d-0" % last.row)
    for _ in range(3):
        assert publisher.turn() > 0.0
    assert count(client) == 1
    words = f"ends with a decision {last.decision} that the journal does not have"
    assert words in logged.lines("experience_delayed")[0]["problem"]
    client.delete(STREAM)
    publish_all(publisher)
    is_whole(client, state)


class Other(EveryThird):
    """Decides otherwise than before, from then on."""

    def answer(self, question: AskPolicy, now_ns: int) -> PolicyAnswered:
        other = super().answer(replace(question, decision=question.decision + 3), now_ns)
        return replace(other, decision=question.decision)


def crash_after(count: int) -> Callable[[str], None]:
    steps = iter(range(count))

    def hook(_: str) -> None:
        if next(steps, None) is None:
            raise Crash

    return hook


def published_beyond_a_copy(
    toy: Toy, tmp_path: Path, server: RedisServer, logged: Logged
) -> tuple[Path, Path, Publisher]:
    """A desk whose decisions are all published, a copy of its state from before half of them, and its publisher."""
    state, copy = tmp_path / "state", tmp_path / "copy"
    toy.run(state, boundary=crash_after(60), group=1)
    shutil.copytree(state, copy)
    toy.run(state, boundary=crash_after(150), group=1)
    publisher = made_for(state, tmp_path, server, logged)
    publish_all(publisher)
    return state, copy, publisher


def test_no_decision_of_one_past_ends_in_the_other_where_an_older_copy_takes_the_journals_place(
    toy: Toy, client: Any, tmp_path: Path, server: RedisServer, logged: Logged
) -> None:
    state, copy, publisher = published_beyond_a_copy(toy, tmp_path, server, logged)
    former = entries(client)
    shutil.rmtree(state)
    copy.rename(state)
    assert toy.run(state, policy=Other())
    until(lambda: (publisher.turn(), logged.lines("experience_delayed") != [])[1])
    assert "is an older copy" in logged.lines("experience_new_journal")[0]["problem"]
    assert entries(client) == former
    client.delete(STREAM)
    until(lambda: (publisher.turn(), publisher.caught_up)[1])
    is_whole(client, state)


def test_decisions_of_an_older_copy_in_whose_place_others_were_learned_are_told_once(
    toy: Toy, client: Any, tmp_path: Path, server: RedisServer, logged: Logged
) -> None:
    state, copy, publisher = published_beyond_a_copy(toy, tmp_path, server, logged)
    client.xgroup_create(STREAM, GROUP, id="0")
    *learned, _ = [experience.row for experience, _ in entries(client)]
    client.xreadgroup(GROUP, "t", {STREAM: ">"}, noack=True)
    publisher.turn()  # trims all but the newest entry
    publisher.close()
    shutil.rmtree(state)
    copy.rename(state)
    assert toy.run(state, policy=Other())
    client.delete(STREAM)
    for _ in range(2):
        again = made_for(state, tmp_path, server, logged)
        publish_all(again)
        again.close()
        client.delete(STREAM)
    assert [line["before"] for line in logged.lines("experience_missing")] == [learned[-1]]


def test_of_two_desks_on_copies_of_one_journal_one_alone_is_in_the_stream(
    toy: Toy, client: Any, tmp_path: Path, server: RedisServer
) -> None:
    states, logs = (tmp_path / "state", tmp_path / "copy"), (Logged(), Logged())
    toy.run(states[0], boundary=crash_after(60), group=1)
    shutil.copytree(*states)
    publishers = [made_for(state, tmp_path, server, log) for state, log in zip(states, logs, strict=True)]
    client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    seen = []
    for count, first in ((30, 0), (30, 1), (30, 0), (40, 1), (500, 0)):
        toy.run(states[0], boundary=crash_after(count), group=1)
        toy.run(states[1], boundary=crash_after(count), group=1, policy=Other())
        for place in (first, 1 - first) * 6:
            publishers[place].turn()
            seen += entries(client)
            client.xreadgroup(
                GROUP, "t", {STREAM: ">"}, noack=True
            )  # so it is trimmed: nothing is left to compare with
    for publisher in publishers:
        publisher.close()
    read = {experience.row: experience for experience, _ in seen}
    (writer,) = (place for place in (0, 1) if list(read.values()) == walked(states[place]))
    assert logs[writer].lines() == []
    problem = logs[1 - writer].lines("experience_delayed")[0]["problem"]
    assert "a desk on a copy of its state folder wrote it: run one of the two" in problem


def test_a_journal_of_another_epoch_has_a_stream_of_its_own(
    publisher: Publisher, client: Any, state: Path, toy: Toy, logged: Logged
) -> None:
    publish_all(publisher)
    shutil.rmtree(state)
    assert toy.run(state, epoch="e2")
    until(lambda: (publisher.turn(), logged.lines("experience_new_journal") != [])[1])
    publish_all(publisher)
    other = entries(client, stream_name("toy", "e2"))
    assert [experience for experience, _ in other] == walked(state, epoch="e2")
    assert count(client) == 76


def test_of_a_former_epoch_too_what_the_trainer_acknowledged_is_trimmed_and_makes_room(
    publisher: Publisher, client: Any, state: Path, toy: Toy, tmp_path: Path, server: RedisServer, logged: Logged
) -> None:
    publish_all(publisher)
    rows = [e.row for e in walked(state)]
    shutil.rmtree(state)
    assert toy.run(state, epoch="e2")
    client.config_set("maxmemory", 1)  # full before the new stream's first entry
    until(lambda: (publisher.turn(), logged.lines("experience_new_journal") != [])[1])
    publisher.close()
    again = made_for(state, tmp_path, server, logged)  # it knows the former stream by its checkpoint
    again.turn()
    assert count(client) == 76
    client.config_set("maxmemory", 0)
    client.xgroup_create(STREAM, GROUP, id="0")
    client.config_set("maxmemory", 1)
    read = client.xreadgroup(GROUP, "t", {STREAM: ">"}, count=70)[0][1]
    client.xack(STREAM, GROUP, *(identifier for identifier, _ in read[:60]))
    again.turn()
    assert [e.row for e, _ in entries(client)] == rows[60:]
    client.config_set("maxmemory", 0)
    publish_all(again)
    client.xack(STREAM, GROUP, *(identifier for identifier, _ in read[60:]))
    client.xreadgroup(GROUP, "t", {STREAM: ">"})
    client.xack(STREAM, GROUP, *(b"%d-0" % row for row in rows[70:]))
    again.turn()
    assert count(client) == 0
    again.turn()
    client.xadd(STREAM, {"of": "another"})  # it is left alone from now on
    client.xreadgroup(GROUP, "t", {STREAM: ">"}, noack=True)
    again.turn()
    assert count(client) == 1
    assert [e for e, _ in entries(client, stream_name("toy", "e2"))] == walked(state, epoch="e2")
    again.close()


def test_a_journal_that_is_away_delays(publisher: Publisher, client: Any, state: Path, logged: Logged) -> None:
    state.rename(state.with_name("away"))
    assert publisher.turn() > 0.0
    assert "no journal here" in logged.lines("experience_delayed")[0]["problem"]
    state.with_name("away").rename(state)
    publish_all(publisher)
    is_whole(client, state)


def test_a_wrong_password_is_reported_without_it(
    state: Path, tmp_path: Path, server: RedisServer, logged: Logged
) -> None:
    client = server.link("rltrader-publisher").client("wrong-password")
    publisher = Publisher(state, tmp_path, client, logged.log)
    assert publisher.turn() > 0.0
    problem = logged.lines("experience_delayed")[0]["problem"]
    assert "invalid username-password" in problem
    assert "wrong-password" not in problem


def test_each_process_may_do_its_own_work_alone(server: RedisServer, client: Any) -> None:
    client.xadd(STREAM, {"a": "b"}, id="1-0")
    for user in ("rltrader-publisher", "rltrader-trainer"):
        with server.client(user) as connection:
            assert connection.xinfo_stream(STREAM)["length"] == 1
            for forbidden in (
                ("FLUSHALL",),
                ("CONFIG", "GET", "dir"),
                ("XINFO", "STREAM", "else"),
                ("KEYS", "*"),
            ):
                with pytest.raises(Exception, match="no permissions"):
                    connection.execute_command(*forbidden)
    with server.link("default").client("") as nobody, pytest.raises(Exception, match="invalid username-password"):
        nobody.ping()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["--redis", "redis://10.0.0.1"], "use rediss://10.0.0.1:6379"),
        (["--redis", "https://x"], "expected unix:///"),
        (["--redis", "rediss://user:word@host"], "expected unix:///"),
        (["--redis", "redis://127.0.0.1:x"], "expected unix:///"),
        (["--redis", "redis://127.0.0.1", "--state-dir", "/nowhere", "--check"], "no journal here"),
    ],
)
def test_wrong_use_is_named(given: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--state-dir", str(tmp_path), "--own-dir", str(tmp_path), *given]) == 2
    assert problem in capsys.readouterr().err
