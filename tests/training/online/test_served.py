"""Served answers over a real Redis: the same numbers as the daemon's own model; lost ones are HOLDs, exits go on."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from daemon.core.effects import AskPolicy
from daemon.core.events import PolicyAnswered
from daemon.experience.experience import stream_name
from daemon.experience.link import Link
from daemon.experience.questions import (
    Question,
    Reply,
    answers_name,
    fields_of,
    questions_name,
    read_question,
    read_reply,
)
from daemon.models.runtime import OnnxPolicy
from daemon.models.served import ServedAnswers
from daemon.models.store import LoadedModel, load
from strategies.golden import golden_observations
from strategies.kit.contract import Answer
from strategies.registry import strategy
from tests.support.desks.desk_run import records, verified
from tests.support.desks.served_desk import DEADLINE_S, JOURNAL, served_desk, serving_answers
from tests.support.models.online_models import NAME, VERSION, put_momentum
from tests.support.outside.between import IMPOSSIBLE, between
from tests.support.outside.redis_server import RedisServer
from tests.support.outside.stream import Logged, redis_anywhere, until
from training.online import served

RISING = (500.0, 500.5, 501.0)
HEADS: dict[str, tuple[float, ...]] = {"direction": (0.5,), "risk": (0.001,)}
UNFIT: dict[str, Answer | str] = {
    "0 values, expected 3": Answer((), b"", HEADS),
    "4 values, expected 3": Answer((0.0, 1.0, 2.0, 3.0), b"", HEADS),
    "other heads than expected (direction of 1, risk of 1)": Answer((0.0, 1.0, 2.0), b"", {"direction": (0.5,)}),
    "a memory of 2 bytes, expected none": Answer((0.0, 1.0, 2.0), b"ab", HEADS),
    "NaN or infinity": Answer((0.0, nan, 2.0), b"", HEADS),
    "\\x1b[2J": "\x1b[2J" * 1000,  # another process's words reach no terminal as they are
}
"""What an answer must not be: in part of the journaled reason -> the answer, or the reason why there is none."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put_momentum(tmp_path_factory.mktemp("store"))


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_anywhere() as redis:
        yield redis


def test_served_answers_are_those_of_the_daemon_s_own_model_number_by_number(
    models: Path, server: RedisServer, tmp_path: Path
) -> None:
    async def play() -> None:
        async with served_desk(tmp_path / "state", models, server) as desk:
            for minute, price in enumerate(RISING):
                desk.bar(minute, price)
                await desk.answered(minute + 1)
            policy = OnnxPolicy.open(load(models, strategy(NAME)), strategy(NAME), "cpu")
            for question, answer in zip(desk.questions, desk.answers, strict=True):
                expected = policy.answer(question, answer.time_ns)
                assert isinstance(expected, PolicyAnswered)
                assert expected == answer
            assert [order.side for order in desk.orders] == [1]  # the price rose: bought once
            assert desk.alarms == []

    with serving_answers(models, server):
        asyncio.run(play())
    assert verified(tmp_path / "state").difference == ""


@pytest.mark.parametrize("failure", ["killed", "frozen"])
def test_while_redis_is_lost_each_decision_is_a_hold_exits_go_on_and_then_answers_come_again(
    models: Path, server: RedisServer, tmp_path: Path, failure: str
) -> None:
    async def play() -> None:
        async with served_desk(tmp_path / "state", models, server) as desk:
            for minute, price in enumerate(RISING):
                desk.bar(minute, price)
                await desk.answered(minute + 1)
            desk.quote(3, 2.0, 501.0)  # the paper broker fills the buy
            await desk.tick(3, 2.5)
            assert desk.state.book.positions["SPY"].quantity > 0
            if failure == "killed":
                server.kill()
            else:
                server.freeze()
            desk.bar(3, 501.0)
            desk.quote(4, 2.0, 493.0)
            desk.quote(4, 3.0, 493.0)  # 1.6 % below what was paid
            await desk.tick(4, 3.5)
            assert desk.state.ask is not None  # nobody has answered, and the stop went out
            assert [order.side for order in desk.orders] == [1, -1]
            desk.quote(4, 4.0, 493.0)
            await desk.tick(4, 1.0 + DEADLINE_S + 0.1)
            assert desk.state.book.positions == {}
            assert "served_late" in desk.alarms
            assert desk.state.stats.denials == {"served_late": 1}
            await desk.until(lambda: bool(desk.logged.lines("served_unavailable")), "the outage is logged")
            if failure == "killed":
                server.start()
            else:
                server.thaw()
            for minute in range(5, 60):  # the first questions may still meet the old connection
                desk.bar(minute, 493.0)
                await desk.tick(minute + 1, 1.0)
                await asyncio.wait([asyncio.ensure_future(desk.answered(len(RISING) + 1))], timeout=DEADLINE_S)
                if len(desk.answers) > len(RISING):
                    break
                await desk.tick(minute + 1, 2.0 + DEADLINE_S)
            assert len(desk.answers) > len(RISING)

    with serving_answers(models, server):
        asyncio.run(play())
    proof = verified(tmp_path / "state")
    assert proof.difference == ""
    outcomes = [row["outcome"] for row in records(tmp_path / "state", "decisions") if row["kind"] == "policy"]
    assert "expired" in outcomes


def test_without_a_server_each_question_waits_for_its_deadline_and_no_longer(
    models: Path, server: RedisServer, tmp_path: Path
) -> None:
    async def play() -> None:
        async with served_desk(tmp_path / "state", models, server) as desk:
            desk.bar(0, 500.0)
            await desk.tick(1, 1.0 + DEADLINE_S)
            assert desk.state.ask is not None
            await desk.tick(1, 1.0 + DEADLINE_S + 0.1)
            assert desk.state.ask is None
            assert desk.alarms == ["served_late"]

    asyncio.run(play())
    assert verified(tmp_path / "state").difference == ""


class Patient:
    """A Redis where no answer comes: it notes each wait it is asked for, and how long its reply is waited for, ms."""

    def __init__(self) -> None:
        self.waits_ms: list[int] = []
        self.answer_ms = 0.0

    def client(self, _secret: str, answer_s: float, _answer_bytes: int) -> Patient:
        self.answer_ms = 1000 * answer_s
        return self

    def pipeline(self, *, transaction: bool) -> Patient:
        assert not transaction
        return self

    def xadd(self, *_: object, **_options: object) -> None:
        pass

    def xread(self, *_: object, count: int, block: int) -> None:
        assert count
        self.waits_ms.append(block)

    def execute(self) -> list[None]:
        return [None]

    def close(self) -> None:
        pass


@pytest.mark.parametrize("deadline_s", [0.01, 0.5])
def test_a_redis_that_ends_a_wait_late_counts_as_there_and_who_serves_as_silent(
    models: Path, deadline_s: float
) -> None:
    """With its timer at 10 Hz, its default, an idle server sees 100 ms late that a wait is over."""
    maker, redis, logged = strategy(NAME), Patient(), Logged()

    async def play() -> None:
        model, link = load(models, maker), cast(Link, redis)
        asking = ServedAnswers(
            link, "", JOURNAL, maker.spec, lambda: model, print, time.time_ns, logged.log, deadline_s=deadline_s
        )
        asking.start()
        asking.ask(AskPolicy(1, 0, golden_observations(maker)[0]))
        await asyncio.to_thread(until, lambda: redis.waits_ms != [])
        asking.close()

    asyncio.run(play())
    assert max(redis.waits_ms) + 100 <= redis.answer_ms
    assert logged.lines() == []


def test_an_answer_that_no_model_of_the_desk_gives_is_a_hold_and_the_desk_goes_on(
    models: Path, server: RedisServer, tmp_path: Path
) -> None:
    async def play() -> None:
        async with served_desk(tmp_path / "state", models, server) as desk:
            for minute in range(len(UNFIT)):
                desk.bar(minute, 500.0 + minute)
                await desk.refused(minute + 1)
            for failure, reason in zip(desk.failures, UNFIT, strict=True):
                assert reason in failure.reason
                assert len(failure.reason) < 600
            assert desk.orders == []
            assert set(desk.alarms) == {"policy_failed"}

    with _answering(server, list(UNFIT.values())):
        asyncio.run(play())
    assert verified(tmp_path / "state").difference == ""
    outcomes = [row["outcome"] for row in records(tmp_path / "state", "decisions") if row["kind"] == "policy"]
    assert outcomes == ["failed"] * len(UNFIT)


def test_a_question_whose_model_cannot_be_asked_is_logged_and_the_next_one_is_answered(
    models: Path, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker, logged = strategy(NAME), Logged()
    data = bytes(4 * maker.spec.observation_shape[0])
    loaded = load(models, maker)

    def out_of_memory_once(*_: object) -> LoadedModel:
        monkeypatch.setattr(served, "load", lambda *_: loaded)
        raise MemoryError("no room")

    monkeypatch.setattr(served, "load", out_of_memory_once)
    with (
        contextlib.closing(server.client("rltrader-trainer")) as connection,
        contextlib.closing(server.client()) as client,
    ):
        serving = served.AnswerServer(connection, JOURNAL, models, maker, logged.log)
        for decision in (1, 2):
            question = Question(decision, "v1", data, (1, *maker.spec.observation_shape))
            client.xadd(questions_name(*JOURNAL), fields_of(question))
            serving.turn(1000)
        replies = [read_reply(fields) for _, fields in client.xrange(answers_name(*JOURNAL))]
    assert [reply.decision for reply in replies] == [2]
    assert replies[0].failed == ""
    assert [line["problem"] for line in logged.lines("question_refused")] == ["MemoryError: no room"]


@pytest.mark.parametrize("answer", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_an_answer_that_no_redis_gives_ends_no_serving(answer: bytes, models: Path, server: RedisServer) -> None:
    maker, user = strategy(NAME), "rltrader-trainer"
    data = bytes(4 * maker.spec.observation_shape[0])
    question = Question(1, VERSION, data, (1, *maker.spec.observation_shape))
    with (
        between(server, user) as proxy,
        contextlib.closing(proxy.link.client(server.passwords[user])) as connection,
        contextlib.closing(server.client()) as client,
        served.AnswerService(connection, models, maker, Logged().log) as serving,
    ):
        proxy.instead = answer
        serving.turn_to(stream_name(*JOURNAL))
        until(lambda: proxy.replaced > 1)
        proxy.instead = b""
        client.xadd(questions_name(*JOURNAL), fields_of(question))
        until(lambda: client.xlen(answers_name(*JOURNAL)) == 1)


def test_a_version_that_was_replaced_under_its_name_answers_as_the_desk_has_it(
    server: RedisServer, tmp_path: Path
) -> None:
    maker, store = strategy(NAME), put_momentum(tmp_path)
    former = load(store, maker)
    data = np.ones(maker.spec.observation_shape, dtype=np.float32).tobytes()

    def ask(digest: str) -> Reply:
        question = Question(1, former.version, data, (1, *maker.spec.observation_shape), digest=digest)
        client.xadd(questions_name(*JOURNAL), fields_of(question))
        assert serving.turn(1000) == 1
        return read_reply(client.xrevrange(answers_name(*JOURNAL), count=1)[0][1])

    with (
        contextlib.closing(server.client("rltrader-trainer")) as connection,
        contextlib.closing(server.client()) as client,
    ):
        serving = served.AnswerServer(connection, JOURNAL, store, maker, Logged().log)
        first = ask(former.digest).answer
        shutil.rmtree(former.path)
        put_momentum(tmp_path, slope=-1.0)
        now = load(store, maker)
        second, third = ask(now.digest).answer, ask(former.digest)
    assert first is not None
    assert second is not None
    assert first.logits[1] > 0.0 > second.logits[1]  # of BUY
    assert third.answer is None
    assert former.digest in third.failed


NESTED = {"id": b"1", "body": b"\x81\xa1x" + b"\x91" * 100_000 + b"\xc0"}
"""A well-formed body whose one value lies in 100,000 lists."""


def test_a_deeply_nested_reply_is_passed_over_and_the_good_one_after_it_is_the_answer(
    models: Path, server: RedisServer, tmp_path: Path
) -> None:
    async def play() -> None:
        async with served_desk(tmp_path / "state", models, server) as desk:
            for minute, price in enumerate(RISING):
                desk.bar(minute, price)
                await desk.answered(minute + 1)

    good = Answer((0.0, 1.0, 2.0), b"", HEADS)
    with _answering(server, [good] * len(RISING), before=[NESTED] * len(RISING)):
        asyncio.run(play())


def test_an_answer_to_another_question_of_the_same_number_is_passed_over(
    models: Path, server: RedisServer, tmp_path: Path
) -> None:
    """A second desk on a copy of the journal, or a journal that went back, asks under the same numbers."""

    async def play() -> None:
        async with served_desk(tmp_path / "state", models, server) as desk:
            for minute, price in enumerate(RISING):
                desk.bar(minute, price)
                await desk.answered(minute + 1)
            assert [answer.logits for answer in desk.answers] == [good.logits] * len(RISING)

    good, other = Answer((0.0, 1.0, 2.0), b"", HEADS), Answer((2.0, 1.0, 0.0), b"", HEADS)
    seen = Question(1, VERSION, bytes(4 * strategy(NAME).spec.observation_shape[0]), ()).seen
    copies = [fields_of(Reply(decision, VERSION, other, seen=seen)) for decision in range(1, len(RISING) + 1)]
    with _answering(server, [good] * len(RISING), before=copies):
        asyncio.run(play())


def test_a_redis_that_is_full_is_told_in_its_own_words(models: Path, server: RedisServer, tmp_path: Path) -> None:
    async def play() -> None:
        async with served_desk(tmp_path / "state", models, server) as desk:
            desk.bar(0, RISING[0])
            await desk.until(lambda: desk.logged.lines("served_unavailable") != [], "it is told")
            (line,) = desk.logged.lines("served_unavailable")
            assert line["problem"].endswith(": command not allowed when used memory > 'maxmemory'.")
            assert len(line["problem"]) < 100

    with contextlib.closing(server.client()) as client:
        client.config_set("maxmemory", 1)
    asyncio.run(play())


def test_what_keeps_answers_away_next_is_told_too_before_one_came(
    models: Path, server: RedisServer, tmp_path: Path
) -> None:
    async def play() -> None:
        async with served_desk(tmp_path / "state", models, server) as desk:
            desk.bar(0, RISING[0])
            await desk.until(lambda: len(desk.logged.lines("served_unavailable")) == 1, "it is full")
            server.kill()
            await desk.tick(1, 1.0 + DEADLINE_S + 0.1)
            desk.bar(1, RISING[1])
            await desk.until(lambda: len(desk.logged.lines("served_unavailable")) == 2, "it is gone")
            full, gone = (line["problem"] for line in desk.logged.lines("served_unavailable"))
            assert "maxmemory" in full
            assert "maxmemory" not in gone

    with contextlib.closing(server.client()) as client:
        client.config_set("maxmemory", 1)
    asyncio.run(play())


LARGE = 2**23
"""Bytes of an entry that no desk or trainer writes."""


def test_what_others_left_among_the_answers_is_not_read(models: Path, server: RedisServer, tmp_path: Path) -> None:
    async def play() -> None:
        async with served_desk(tmp_path / "state", models, server) as desk:
            before = client.info("stats")["total_net_output_bytes"]
            for minute, price in enumerate(RISING):
                desk.bar(minute, price)
                await desk.answered(minute + 1)
            assert client.info("stats")["total_net_output_bytes"] - before < LARGE

    with contextlib.closing(server.client()) as client:
        for _ in range(8):
            client.xadd(answers_name(*JOURNAL), {"id": b"1", "body": bytes(LARGE)})
        with serving_answers(models, server):
            asyncio.run(play())


def test_a_reply_of_any_size_is_a_hold_and_the_next_one_counts(
    models: Path, server: RedisServer, tmp_path: Path
) -> None:
    async def play() -> None:
        async with served_desk(tmp_path / "state", models, server) as desk:
            desk.bar(0, RISING[0])
            await desk.until(lambda: desk.logged.lines("served_unavailable") != [], "it is refused")
            await desk.tick(1, 1.0 + DEADLINE_S + 0.1)
            assert (desk.alarms, desk.answers) == (["served_late"], [])
            desk.bar(1, RISING[1])
            await desk.answered(1)
            (problem,) = {line["problem"] for line in desk.logged.lines("served_unavailable")}
            assert "an answer has more than 16777216 bytes" in problem

    good = Answer((0.0, 1.0, 2.0), b"", HEADS)
    with _answering(server, [good, good], before=[{"id": b"1", "body": bytes(3 * LARGE)}]):
        asyncio.run(play())


@pytest.mark.parametrize("of", [questions_name, answers_name])
def test_an_entry_whose_id_is_hours_ahead_keeps_no_answer_back(
    models: Path, server: RedisServer, tmp_path: Path, of: Callable[[str, str], str]
) -> None:
    ahead_ms = int(time.time() * 1000) + 8 * 3_600_000

    async def play() -> None:
        async with served_desk(tmp_path / "state", models, server) as desk:
            for minute, price in enumerate(RISING):
                desk.bar(minute, price)
                await desk.answered(minute + 1)

    with contextlib.closing(server.client()) as client:
        client.xadd(of(*JOURNAL), {"id": b"1", "body": b"?"}, id=f"{ahead_ms}-0")
    with serving_answers(models, server):
        asyncio.run(play())


def test_a_stream_of_questions_that_begins_again_below_its_old_ids_is_answered(
    models: Path, server: RedisServer
) -> None:
    maker = strategy(NAME)
    question = Question(1, "v1", bytes(4 * maker.spec.observation_shape[0]), (1, *maker.spec.observation_shape))
    with (
        contextlib.closing(server.client("rltrader-trainer")) as connection,
        contextlib.closing(server.client()) as client,
    ):
        serving = served.AnswerServer(connection, JOURNAL, models, maker, Logged().log)
        client.xadd(questions_name(*JOURNAL), fields_of(question), id="99999999999999-0")
        assert serving.turn(10) == 1
        client.delete(questions_name(*JOURNAL))
        client.xadd(questions_name(*JOURNAL), fields_of(question))
        assert sum(serving.turn(10) for _ in range(3)) == 1


@contextlib.contextmanager
def _answering(
    server: RedisServer, answers: Sequence[Answer | str], before: Sequence[Mapping[str, bytes]] = ()
) -> Iterator[None]:
    """A process that answers one question after the other with these; `before` each goes its entry."""

    def serve() -> None:
        with contextlib.closing(server.client("rltrader-trainer")) as client:
            last: bytes | str = "0"
            for place, answer in enumerate(answers):
                while not (questions := client.xread({questions_name(*JOURNAL): last}, count=1, block=1000)):
                    pass
                last, fields = questions[0][1][0]
                question = read_question(fields)
                reply = Reply(question.decision, question.version, None if isinstance(answer, str) else answer)
                if isinstance(answer, str):
                    reply = Reply(question.decision, question.version, failed=answer)
                for entry in before[place : place + 1]:
                    client.xadd(answers_name(*JOURNAL), dict(entry))
                client.xadd(answers_name(*JOURNAL), fields_of(reply))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield
    thread.join()
