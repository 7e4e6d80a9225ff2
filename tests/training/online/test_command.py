"""The trainer's command in this process: wrong use, streams of other epochs, freezing, and who may work in a folder."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from daemon.experience.experience import Experience, stream_name
from daemon.experience.learning import read_learning
from daemon.experience.link import GROUP, RedisError
from daemon.experience.questions import Question, answers_name, fields_of, questions_name, read_reply
from daemon.host.ed25519 import keygen
from daemon.host.service import Service
from daemon.library.run_files import TRAINING_LOCK
from daemon.models.ladder.cards import HoldReasons, write_holds
from daemon.models.store import versions
from strategies.kit.card import CARD_FILE, decode
from strategies.kit.manifest import MANIFEST_FILE
from strategies.kit.manifest import decode as manifest_of
from strategies.online_dqn import OnlineDqn
from tests.support.desks.desk_run import tape_rows, write_tape
from tests.support.outside.redis_server import RedisServer
from tests.support.outside.stream import LIMIT_S, Logged, redis_anywhere
from tests.support.rl.stream_learner import A_SESSION, make_experiences, put
from tests.support.rl.trainer_work import work
from training.desks.online.cold_start import REPLAY_FILE
from training.desks.online.network import COLD_PRESETS
from training.online.__main__ import main
from training.online.beginning import COLD_FILE, REPLAY, OtherFolder, made_in
from training.online.consume import StreamsAtWork, later_streams
from training.online.lease import Lease, LeaseTaken
from training.online.trainer import CHECKPOINT, FROZEN
from training.online.work import NoFirstVersion, Pulse
from training.runs.folder import RunFolderError, alone
from training.runs.ledger import Ledger, LedgerLine, ledger_path, utc_now

DESK = "toy"
FIRST, SECOND, THIRD = EPOCHS = [stream_name(DESK, epoch) for epoch in ("e1", "e2", "e3")]
WIDTH = OnlineDqn().spec.observation_shape[0]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_anywhere() as running:
        yield running


@pytest.fixture
def client(server: RedisServer) -> Iterator[Any]:
    with server.client() as made_client:
        made_client.flushall()
        yield made_client


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tape(tmp_path_factory.mktemp("bars") / "bars.csv", tape_rows(11, 390, stubs=0))


NOW_NS = 1_900_000_000_000_000_000


def arguments(folder: Path, bars: Path, server: RedisServer, *more: str) -> list[str]:
    (folder / "store").mkdir(exist_ok=True)
    folders = ["--models-dir", str(folder / "store"), "--own-dir", str(folder / "own"), "--bars", str(bars)]
    return ["--desk", DESK, "--redis", f"unix://{server.socket}", *folders, "--preset", "smoke", *more]


# --- the desk's newest stream -----------------------------------------------------------------------------------------


def wide(experiences: list[Experience], later_ns: int = 0) -> list[Experience]:
    """With observations of the shipped model configuration."""
    zeros = bytes(4 * WIDTH)
    return [
        replace(e, shape=(1, WIDTH), state=zeros, next_state=b"" if e.terminal else zeros, bar_ns=e.bar_ns + later_ns)
        for e in experiences
    ]


def test_the_streams_that_follow_are_those_with_newer_decisions_in_their_order(
    client: Any, server: RedisServer
) -> None:
    with server.client("rltrader-trainer") as connection:
        assert later_streams(connection, DESK, "", -1, NOW_NS) == ([], False)
        put(client, FIRST, make_experiences(3))
        put(client, stream_name("toys", "e9"), [replace(e, bar_ns=10**9) for e in make_experiences(3)])  # another desk
        client.xadd(stream_name(DESK, "e0"), {"a": "b"}, id="999-0")  # nothing that can be read
        assert later_streams(connection, DESK, "", -1, NOW_NS) == ([FIRST], False)
        assert later_streams(connection, DESK, FIRST, 2, NOW_NS) == ([], True)
        put(client, SECOND, [replace(e, bar_ns=e.bar_ns + 3) for e in make_experiences(1)])
        assert later_streams(connection, DESK, FIRST, 2, NOW_NS) == ([SECOND], True)
        assert later_streams(connection, DESK, FIRST, 3, NOW_NS) == ([], True)  # all of a stream may be trimmed
        put(client, THIRD, [replace(e, bar_ns=e.bar_ns + 9) for e in make_experiences(1)])
        assert later_streams(connection, DESK, FIRST, 2, NOW_NS) == ([SECOND, THIRD], True)
        assert later_streams(connection, DESK, SECOND, 3, NOW_NS) == ([THIRD], True)
        assert later_streams(connection, DESK, "", -1, NOW_NS) == ([THIRD], False)
        client.delete(FIRST)
        assert later_streams(connection, DESK, FIRST, 99, NOW_NS) == ([THIRD], False)


# --- one process at work ----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.online.work.LOOK_S", 0.0)


def test_frozen_from_the_start_it_makes_no_model(tmp_path: Path, bars: Path, client: Any, server: RedisServer) -> None:
    options, looks = arguments(tmp_path, bars, server), iter([lambda: True] * 3)
    (tmp_path / "store" / "online_dqn").mkdir()
    write_holds(tmp_path / "store" / "online_dqn", HoldReasons(frozen="holidays"))
    work(options, client, Logged(), looks)
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == [".lock", "lease.id"]


def test_it_follows_the_desk_from_epoch_to_epoch_serves_its_questions_and_stops_learning_while_frozen(
    tmp_path: Path, bars: Path, client: Any, server: RedisServer
) -> None:
    logged, own_dir, shelf = Logged(), tmp_path / "own", tmp_path / "store" / "online_dqn"
    first, second = wide(make_experiences(20)), wide(make_experiences(2 * A_SESSION, seed=2), later_ns=1000)

    def steps() -> Iterator[Callable[[], bool]]:
        put(client, FIRST, first)
        yield lambda: logged.lines("stream_found") != []
        (first_version,) = versions(tmp_path / "store", "online_dqn")
        _, desk, epoch, _ = FIRST.split(":")
        client.xadd(questions_name(desk, epoch), fields_of(Question(7, first_version, bytes(4 * WIDTH), (1, WIDTH))))
        yield lambda: client.xlen(answers_name(desk, epoch)) == 1
        ((_, fields),) = client.xrange(answers_name(desk, epoch))
        reply = read_reply(fields)
        assert (reply.decision, reply.version, reply.failed) == (7, first_version, "")
        assert reply.answer is not None
        assert len(reply.answer.logits) == 3
        put(client, SECOND, second[:A_SESSION])
        yield lambda: len(logged.lines("stream_found")) == 2
        assert client.xinfo_groups(FIRST)[0]["pending"] == 0
        write_holds(shelf, HoldReasons(frozen="holidays"))
        yield lambda: logged.lines("learning_frozen") != []
        write_holds(shelf, HoldReasons())
        (own_dir / FROZEN).touch()
        put(client, SECOND, second[A_SESSION:], second[A_SESSION - 1].row)
        yield lambda: client.xinfo_groups(SECOND)[0]["entries-read"] == len(second)
        (own_dir / FROZEN).unlink()
        yield lambda: logged.lines("learning_resumed") != []

    with server.client("rltrader-trainer") as own_client:
        work(arguments(tmp_path, bars, server), own_client, logged, steps())
    assert [line["stream"] for line in logged.lines("stream_found")] == [FIRST, SECOND]
    assert sum(line["transitions"] for line in logged.lines("learned")) == len(first) + len(second)
    frozen, resumed = logged.lines("learning_frozen"), logged.lines("learning_resumed")
    assert (len(frozen), len(resumed)) == (1, 1)
    assert frozen[0]["row"] <= second[A_SESSION - 1].row < resumed[0]["row"] == second[-1].row
    (version,) = versions(tmp_path / "store", "online_dqn")
    card = decode((shelf / version / CARD_FILE).read_bytes())
    assert (card.version, card.parent, card.stream) == (version, "", "")
    assert card.cannot_be_said == "it is the first version: nothing was logged"
    assert not (shelf / "current").exists()
    the_cold_start_is_counted_once(tmp_path / "store", version)
    other_settings_and_another_desk_are_refused(tmp_path, bars, client, server)


def test_bars_that_are_replaced_under_it_make_no_card_and_stop_no_learning(
    tmp_path: Path, client: Any, server: RedisServer
) -> None:
    of_the_cold_start, others = (tape_rows(sessions, 390, stubs=0) for sessions in (11, 16))
    bars = write_tape(tmp_path / "bars.csv", of_the_cold_start)
    given = arguments(tmp_path, bars, server, "--publish-every", "1", "--card-sessions", "1")
    all_, logged = wide(make_experiences(7 * A_SESSION)), Logged()

    def learn(sessions: int, until_sessions: int) -> bool:
        first = sessions * A_SESSION
        put(client, FIRST, all_[first : until_sessions * A_SESSION], all_[first - 1].row)
        return True

    def remove() -> bool:
        bars.unlink()
        return True

    def failed_by(words: str) -> bool:
        return any(words in line["problem"] for line in logged.lines("version_failed"))

    steps = [
        lambda: bool(logged.lines("stream_found")) and bool(write_tape(bars, others)) and learn(1, 5),
        lambda: failed_by("was made with bars of SHA-256") and remove() and learn(5, 6),
        lambda: failed_by("no such file") and bool(write_tape(bars, of_the_cold_start)) and learn(6, 7),
        lambda: bool(logged.lines("version_published")),
    ]
    put(client, FIRST, all_[:A_SESSION])
    with server.client("rltrader-trainer") as connection:
        work(given, connection, Logged(), iter([(tmp_path / "own" / CHECKPOINT).exists]))
        work(given, connection, logged, iter(steps))
    before_published = [line["event"] for line in logged.lines() if line["event"].startswith("version_")]
    assert before_published.index("version_published") >= 2


def test_epochs_that_began_while_it_was_dead_are_learned_in_their_order_and_the_newest_is_served_at_once(
    tmp_path: Path, bars: Path, client: Any, server: RedisServer
) -> None:
    logged, options = Logged(), arguments(tmp_path, bars, server)
    put(client, FIRST, wide(make_experiences(20)))
    with server.client("rltrader-trainer") as own_client:
        work(options, own_client, logged, iter([lambda: logged.lines("stream_found") != []]))
        assert [line["stream"] for line in logged.lines("stream_found")] == [FIRST]
        for place, stream in enumerate(EPOCHS[1:], 1):
            put(client, stream, wide(make_experiences(A_SESSION * place, seed=place), later_ns=1000 * place))
        _, desk, epoch, _ = THIRD.split(":")
        (version,) = versions(tmp_path / "store", "online_dqn")
        client.xadd(questions_name(desk, epoch), fields_of(Question(4, version, bytes(4 * WIDTH), (1, WIDTH))))
        counts: list[int] = []  # streams that were found when the answer came

        def steps() -> Iterator[Callable[[], bool]]:
            yield lambda: client.xlen(answers_name(desk, epoch)) == 1
            counts.append(len(logged.lines("stream_found")))
            yield lambda: [group["pending"] for group in client.xinfo_groups(THIRD)] == [0]

        work(options, own_client, logged, steps())
    assert [line["stream"] for line in logged.lines("stream_found")] == EPOCHS
    assert sum(line["transitions"] for line in logged.lines("learned")) == 20 + 3 * A_SESSION


def test_the_desk_s_newest_journal_is_served_though_its_former_one_is_not_learned_yet(
    tmp_path: Path, bars: Path, client: Any, server: RedisServer
) -> None:
    logged, experiences = Logged(), wide(make_experiences(A_SESSION))

    def steps() -> Iterator[Callable[[], bool]]:
        put(client, FIRST, experiences[:5])
        yield lambda: [group["entries-read"] for group in client.xinfo_groups(FIRST)] == [5]
        with client.pipeline(transaction=True) as pipeline:  # another consumer holds an entry: nothing newer is learned
            put(pipeline, FIRST, experiences[5:6], experiences[4].row)
            pipeline.xreadgroup(GROUP, "another", {FIRST: ">"}, count=1)
            pipeline.execute()
        yield lambda: logged.lines("trainer_delayed") != []
        put(client, SECOND, wide(make_experiences(3, seed=2), later_ns=1000))
        _, desk, epoch, _ = SECOND.split(":")
        (version,) = versions(tmp_path / "store", "online_dqn")
        client.xadd(questions_name(desk, epoch), fields_of(Question(4, version, bytes(4 * WIDTH), (1, WIDTH))))
        yield lambda: client.xlen(answers_name(desk, epoch)) == 1

    with server.client("rltrader-trainer") as own_client:
        work(arguments(tmp_path, bars, server), own_client, logged, steps())
    assert [line["stream"] for line in logged.lines("stream_found")] == [FIRST]


def test_a_second_trainer_with_a_folder_of_its_own_is_refused_and_the_first_goes_on(
    tmp_path: Path,
    bars: Path,
    client: Any,
    server: RedisServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("training.online.command.signal.signal", lambda *_: None)
    monkeypatch.setenv("REDIS_PASSWORD", server.passwords["rltrader-trainer"])
    experiences, seconds = wide(make_experiences(20)), tmp_path / "other"
    seconds.mkdir()

    def steps() -> Iterator[Callable[[], bool]]:
        put(client, FIRST, experiences[:10])
        yield lambda: client.exists(FIRST) and client.xinfo_groups(FIRST) != []
        assert main(arguments(seconds, bars, server)) == 2
        assert f"another trainer learns from toy: host {socket.gethostname()}, pid {os.getpid()}, since " in (
            capsys.readouterr().err
        )
        assert not list((seconds / "store").iterdir())  # no cold start, no version
        put(client, FIRST, experiences[10:], experiences[9].row)
        yield lambda: client.xinfo_groups(FIRST)[0]["entries-read"] == len(experiences)

    logged = Logged()
    with server.client("rltrader-trainer") as own_client:
        work(arguments(tmp_path, bars, server), own_client, logged, steps())
        assert logged.lines("experience_gap") == []
        once: Iterator[Callable[[], bool]] = iter([lambda: True])
        work(arguments(tmp_path, bars, server), own_client, logged, once)  # the same one again, at once


def the_cold_start_is_counted_once(store: Path, version: str) -> None:
    """One look at the sessions kept apart, by what the policy earned there; a second start adds none."""
    opening, trial = Ledger(ledger_path(store, "online_dqn")).read().lines
    manifest = manifest_of((store / "online_dqn" / version / MANIFEST_FILE).read_bytes())
    for line in (opening, trial):
        assert (line.first, line.last) == manifest.training.splits["test"]
        assert line.data_sha256 == manifest.training.file_sha256
    card = decode((store / "online_dqn" / version / CARD_FILE).read_bytes())
    assert (opening.kind, opening.sharpe, trial.kind) == ("opening", None, "trial")
    assert trial.sharpe == pytest.approx(card.session_mean / card.session_deviation)


def other_settings_and_another_desk_are_refused(folder: Path, bars: Path, client: Any, server: RedisServer) -> None:
    """What is there already stays as it is."""
    with server.client("rltrader-trainer") as own_client:
        with pytest.raises(OtherFolder, match=r"made with seed = 1, now 2: give the former value, or begin anew"):
            work(arguments(folder, bars, server, "--seed", "2"), own_client, Logged(), iter([lambda: False]))
        with pytest.raises(OtherFolder, match=r"made with reward = {'gain': 1.0}, now {'fees': 2.0}: give the former"):
            work(arguments(folder, bars, server, "--reward", "fees=2"), own_client, Logged(), iter([lambda: False]))
        longer = write_tape(folder / "longer.csv", tape_rows(12, 390, stubs=0))  # its last fifth was trained on
        with pytest.raises(OtherFolder, match=r"with bars of SHA-256 \w{64} \(bars\.csv\), --bars .*longer\.csv"):
            work(arguments(folder, longer, server), own_client, Logged(), iter([lambda: False]))
        put(client, stream_name(DESK, "e3"), [replace(e, bar_ns=10**6) for e in make_experiences(3)])
        logged = Logged()
        refused: Iterator[Callable[[], bool]] = iter([lambda: len(logged.lines("experience_refused")) == 3])
        work(arguments(folder, bars, server), own_client, logged, refused)
        assert "of the shape (1, 3), expected (1, " in logged.lines("experience_refused")[0]["reason"]
        with (
            alone(folder / "own" / TRAINING_LOCK),
            pytest.raises(RunFolderError, match="another trainer is at work in"),
        ):
            work(arguments(folder, bars, server), own_client, Logged(), iter([lambda: False]))
    for name in (REPLAY_FILE, REPLAY):
        file = (folder / "own" / name).rename(folder / name)
        with pytest.raises(
            OtherFolder, match=rf"{name} is missing, and trainer\.pt counts on its transitions: restore"
        ):
            work(arguments(folder, bars, server), client, Logged(), iter([lambda: False]))
        (folder / "own" / name).write_bytes(file.read_bytes()[:-4])
        with pytest.raises(OtherFolder, match=rf"{name} has \d+ bytes: expected \d+, .* its whole file, or begin anew"):
            work(arguments(folder, bars, server), client, Logged(), iter([lambda: False]))
        file.rename(folder / "own" / name)
    (folder / "own" / COLD_FILE).write_text("{}")
    with pytest.raises(OtherFolder, match="cannot be read"):
        work(arguments(folder, bars, server), client, Logged(), iter([lambda: False]))


def test_too_few_sessions_for_a_card_are_named(tmp_path: Path, client: Any, server: RedisServer) -> None:
    bars = write_tape(tmp_path / "short.csv", tape_rows(6, 390, stubs=0))
    with pytest.raises(NoFirstVersion, match="1 session returns, expected at least 2"):
        work(arguments(tmp_path, bars, server), client, Logged(), iter([lambda: False]))


def test_of_two_desks_of_one_name_one_is_learned_from_and_it_is_told(
    tmp_path: Path, bars: Path, client: Any, server: RedisServer
) -> None:
    logged, mine, others = Logged(), wide(make_experiences(12)), wide(make_experiences(12, seed=2), later_ns=1)

    def steps() -> Iterator[Callable[[], bool]]:
        put(client, FIRST, mine[:1])
        yield lambda: logged.lines("stream_found") != []
        for count in range(1, len(mine)):  # the later one of both takes turns, as with two desks of a minute
            put(client, FIRST, mine[count : count + 1], mine[count - 1].row)
            yield lambda row=mine[count].row: learned(FIRST) >= row  # type: ignore[misc]
            put(client, SECOND, others[count - 1 : count], others[count - 2].row if count > 1 else 0)
            yield once()

    def learned(stream: str) -> int:
        return max((int(group["last-delivered-id"].split(b"-")[0]) for group in client.xinfo_groups(stream)), default=0)

    def once() -> Callable[[], bool]:
        looks = iter([False, False, True])
        return lambda: next(looks)

    with server.client("rltrader-trainer") as own_client:
        work(arguments(tmp_path, bars, server), own_client, logged, steps())
    problems = [line["problem"] for line in logged.lines("trainer_delayed")]
    assert [problem.partition(" gets decisions beside ")[1] != "" for problem in problems] == [True], problems
    assert "two desks have the name toy" in problems[0]
    assert len(logged.lines("stream_found")) <= 3, logged.lines("stream_found")


def test_a_stream_that_another_one_follows_is_no_second_desk() -> None:
    seconds = iter(range(100))
    streams = StreamsAtWork(5.0, lambda: float(next(seconds)))

    def look(current: str, **bars_ns: int) -> str:
        return streams.other_than(current, bars_ns)

    assert [look("first", first=bar) for bar in range(3)] == ["", "", ""]
    assert look("first", first=3, second=4) == ""  # a new journal: the former one gets no more
    assert [look("second", first=3, second=bar) for bar in range(5, 8)] == ["", "", ""]
    assert look("second", first=8, second=8) == "first"  # another desk of this name
    assert look("first", first=8, second=9) == "second"
    assert look("third", first=8, second=9) == ""  # the stream is gone
    assert [look("second", first=8, second=bar) for bar in range(10, 14)] == ["first", "first", "", ""]  # it has ended


def test_a_stream_ahead_of_the_clock_is_told(tmp_path: Path, bars: Path, client: Any, server: RedisServer) -> None:
    logged, own_client = Logged(), server.client("rltrader-trainer")
    hour_ns = 3_600_000_000_000
    put(client, FIRST, wide(make_experiences(3), later_ns=time.time_ns() + hour_ns))
    with own_client:
        work(
            arguments(tmp_path, bars, server), own_client, logged, iter([lambda: logged.lines("trainer_delayed") != []])
        )
    assert [line["problem"] for line in logged.lines("trainer_delayed")] == [
        f"{FIRST} has decisions ahead of this host's clock, and is passed over: set the clock right"
    ]
    assert logged.lines("stream_found") == []


def test_a_cold_start_waits_for_a_redis_that_is_away_at_its_end(
    tmp_path: Path, bars: Path, client: Any, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    away, check, logged = 2 * ["Redis is away"], Lease.check, Logged()

    def check_lease(lease: Lease) -> None:
        if away:
            raise RedisError(away.pop())
        check(lease)

    monkeypatch.setattr(Lease, "check", check_lease)
    work(arguments(tmp_path, bars, server), client, logged, iter([(tmp_path / "own" / CHECKPOINT).exists]))
    assert [line["problem"] for line in logged.lines("trainer_delayed")] == ["Redis is away"]
    assert away == []
    assert len(versions(tmp_path / "store", "online_dqn")) == 1


# --- wrong use --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["--redis", "redis://10.0.0.1"], "use rediss://10.0.0.1:6379"),
        (["--desk", "*"], r"--desk is '*': expected the desk's name"),
        (["--preset", "none"], "--preset is 'none': expected one of cold, quick, smoke"),
        (["--bars", "/nowhere"], "--bars /nowhere: no such file"),
        (["--store", "/nowhere"], "--models-dir /nowhere: no such folder"),
        (["--model-config", "/nowhere"], "No such file or directory"),
        (["--reward", "gian=1"], "reward term 'gian' is unknown: did you mean gain?"),
        (["--reward", "gain=1", "--reward", "gain=2"], "--reward gain is given twice"),
        (["--signing-key", "/nowhere"], "/nowhere: the key cannot be read"),
        (["--public-key", "abc"], "--public-key abc: expected policy.public_key of the daemon"),
        (["--public-key", f"{'A' * 43}="], "--public-key without --signing-key: the daemon would refuse"),
    ],
)
def test_wrong_use_is_named(
    given: list[str], problem: str, tmp_path: Path, bars: Path, server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path, bars, server, *given)) == 2
    assert problem in capsys.readouterr().err


def test_a_signing_key_that_the_daemon_does_not_know_is_named(
    tmp_path: Path, bars: Path, server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    key, other = keygen(tmp_path / "key"), keygen(tmp_path / "other")
    assert main(arguments(tmp_path, bars, server, "--signing-key", str(tmp_path / "key"), "--public-key", other)) == 2
    assert f"is the key of {key}, which is not in --public-key: add it there and to" in capsys.readouterr().err


@pytest.mark.parametrize("given", [["--threads", "0"], ["--publish-every", "x"], ["--reward", "gain=x"]])
def test_wrong_numbers_are_named(
    given: list[str], tmp_path: Path, bars: Path, server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(arguments(tmp_path, bars, server, *given))
    assert exit_info.value.code == 2
    assert given[0] in capsys.readouterr().err


def test_a_disk_that_fails_before_it_begins_ends_it_with_code_1(
    tmp_path: Path,
    bars: Path,
    server: RedisServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By code 2 systemd starts it no more."""

    def fail(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("training.online.command.read_file", fail)
    assert main(arguments(tmp_path, bars, server, "--model-config", "model.toml")) == 1
    assert "Input/output error" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"{", b'{"plan":"\xff"}'])
def test_what_a_folder_was_made_with_is_named_with_the_cure_where_it_is_damaged(
    tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / COLD_FILE).write_bytes(content)
    with pytest.raises(OtherFolder, match=f"{COLD_FILE} cannot be read .*: restore it, or begin anew"):
        made_in(tmp_path)


@pytest.mark.parametrize(("fault", "code"), [(errno.ENOSPC, 1), (errno.EROFS, 1), (errno.EACCES, 2)])
def test_a_ledger_that_a_full_disk_did_not_take_is_tried_again_and_one_of_another_user_is_not(
    tmp_path: Path, bars: Path, server: RedisServer, monkeypatch: pytest.MonkeyPatch, fault: int, code: int
) -> None:
    """The cold start ends with it: by code 2 systemd starts no trainer more, and the desk waits for its first model."""

    def fail(*_: object) -> None:
        raise OSError(fault, os.strerror(fault))

    def record(_: object) -> None:
        monkeypatch.setattr("training.runs.ledger.os.write", fail)
        line = LedgerLine(
            kind="opening",
            utc=utc_now(),
            strategy="s",
            data_sha256="0" * 64,
            first="2024-01-02",
            last="2024-01-02",
            study="x",
        )
        Ledger(tmp_path / "ledger.jsonl").append(line)

    monkeypatch.setattr("training.online.command.signal.signal", lambda *_: None)
    monkeypatch.setattr("training.online.command.LearningProcess.run", record)
    assert main(arguments(tmp_path, bars, server)) == code


def test_what_may_pass_ends_it_with_code_1_and_is_logged(
    tmp_path: Path,
    bars: Path,
    server: RedisServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("training.online.command.signal.signal", lambda *_: None)
    (tmp_path / "own").write_text("no folder")
    assert main(arguments(tmp_path, bars, server, "--log-format", "json")) == 1
    line = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert line["event"] == "trainer_failed"
    assert "FileExistsError" in line["problem"]


def test_why_it_ended_is_shown_until_a_process_wrote_a_checkpoint(
    tmp_path: Path, bars: Path, client: Any, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    shelf = tmp_path / "store" / "online_dqn"
    shelf.mkdir(parents=True)
    monkeypatch.setattr("training.online.command.signal.signal", lambda *_: None)
    monkeypatch.setenv("REDIS_PASSWORD", server.passwords["rltrader-trainer"])
    with monkeypatch.context() as patched:
        patched.setattr("training.online.work.StreamTrainer.turn", fail)
        for ends in (1, 2):
            assert main(arguments(tmp_path, bars, server)) == 1
            learning = read_learning(shelf)
            assert learning is not None
            assert (learning.runs, learning.ends, learning.stream) == (False, ends, "")
            assert "No space left on device" in learning.trouble
    put(client, FIRST, wide(make_experiences(12)))
    more = ("--checkpoint-every", "500")

    def shown() -> bool:
        learning = read_learning(shelf)
        return learning is not None and bool(learning.stream) and learning.ends == 0

    with server.client("rltrader-trainer") as own_client:
        work(arguments(tmp_path, bars, server, *more), own_client, Logged(), iter([shown]))


def test_ready_comes_at_once_and_the_watchdog_is_fed_while_there_is_progress(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "n"))
        listener.settimeout(LIMIT_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        monkeypatch.setattr("training.online.work.BEAT_S", 0.01)
        pulse = Pulse(Service())
        assert [listener.recv(100), listener.recv(100)] == [b"READY=1", b"WATCHDOG=1"]
        monkeypatch.setattr("training.online.work.PROGRESS_S", -1.0)
        pulse.close()
        received = [listener.recv(100)]
        while received[-1] != b"STOPPING=1":
            received.append(listener.recv(100))
        assert set(received[:-1]) <= {b"WATCHDOG=1"}


def test_help_and_wrong_words_need_no_library_of_learning() -> None:
    script = (
        "import sys, training.online.__main__ as entry\ntry: entry.main(sys.argv[1:])\n"
        "finally: sys.exit(9) if 'torch' in sys.modules else None"
    )
    for argument, code in (("--help", 0), ("--desk", 2)):
        process = subprocess.run([sys.executable, "-c", script, argument], capture_output=True, text=True, check=False)
        assert process.returncode == code, process.stderr
        assert "usage: " in process.stdout + process.stderr
        assert code or all(name in process.stdout for name in COLD_PRESETS)


def test_a_clock_set_back_an_hour_leads_to_no_stream_that_gets_no_decisions(
    tmp_path: Path, bars: Path, client: Any, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The former journal's decisions are those alone that are not ahead of such a clock."""
    monkeypatch.setattr("training.online.work.BARS_AT_WORK", 0.1)  # six seconds
    logged, own_client = Logged(), server.client("rltrader-trainer")
    now_ns, hour_ns, clock = time.time_ns(), 3_600_000_000_000, time.time_ns
    later = wide(make_experiences(6, seed=2), later_ns=now_ns - 1_000_000)

    def steps() -> Iterator[Callable[[], bool]]:
        put(client, FIRST, wide(make_experiences(3), later_ns=now_ns - 2 * hour_ns))
        put(client, SECOND, later[:3])
        yield lambda: logged.lines("stream_found") != []
        monkeypatch.setattr("training.online.work.time.time_ns", lambda: clock() - hour_ns)
        for count in range(3, 6):  # the desk goes on
            put(client, SECOND, later[count : count + 1], later[count - 1].row)
            yield looks(3)
        assert [line["stream"] for line in logged.lines("stream_found")] == [SECOND]
        put(client, FIRST, wide(make_experiences(4), later_ns=now_ns - 2 * hour_ns)[3:], 2)
        yield lambda: len(logged.lines("stream_found")) > 1  # that desk is at work now

    def looks(count: int) -> Callable[[], bool]:
        ends = iter([False] * count + [True])
        return lambda: next(ends)

    with own_client:
        work(arguments(tmp_path, bars, server), own_client, logged, steps())
    assert [line["stream"] for line in logged.lines("stream_found")] == [SECOND, FIRST]


def test_a_trainer_that_lost_the_desk_ends_while_its_stream_is_at_rest_too(
    tmp_path: Path, bars: Path, client: Any, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two began in copies of one folder: each takes the other for its own former self, until both are seen alive."""
    lost, check = threading.Event(), Lease.check

    def check_lease(lease: Lease) -> None:
        if lost.is_set():
            raise LeaseTaken("another trainer learns")
        check(lease)

    def steps() -> Iterator[Callable[[], bool]]:
        ends = iter([False] * 5 + [True])
        yield (tmp_path / "own" / CHECKPOINT).exists
        lost.set()
        yield lambda: next(ends)
        lost.clear()

    monkeypatch.setattr(Lease, "check", check_lease)
    with server.client("rltrader-trainer") as own_client, pytest.raises(LeaseTaken):
        work(arguments(tmp_path, bars, server), own_client, Logged(), steps())
