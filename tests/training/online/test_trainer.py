"""The trainer learns from each entry of a stream once, whatever happens to it or to Redis."""

from __future__ import annotations

import io
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from daemon.experience.experience import ActionChoice, Experience, stream_name, to_entry
from daemon.experience.link import GROUP
from tests.support.desks.desk_run import Crash
from tests.support.outside.between import IMPOSSIBLE, between
from tests.support.outside.redis_server import RedisServer
from tests.support.outside.stream import STREAM, Logged, redis_anywhere, until
from tests.support.rl.stream_learner import A_SESSION, TinyLearner, make_experiences, put
from training.online.consume import CONSUMER, Consumer, later_streams
from training.online.reward import RewardAgent
from training.online.trainer import CHECKPOINT, FROZEN, REFUSED, CheckpointUnreadable, StreamTrainer

COUNT = 60
BOUNDARIES = {"taken", "learned", "before checkpoint", "after checkpoint", "after acknowledgement"}


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_anywhere() as running:
        yield running


@pytest.fixture
def client(server: RedisServer) -> Iterator[Any]:
    """The operator's client: it may do anything. It begins with nothing."""
    with server.client() as made_client:
        made_client.flushall()
        yield made_client


@pytest.fixture
def logged() -> Logged:
    return Logged()


class Desk:
    """A trainer with its learner, made anew as often as wanted."""

    def __init__(self, folder: Path, server: RedisServer, logged: Logged) -> None:
        self._folder, self._server, self._logged = folder, server, logged
        self.learner = TinyLearner()

    def trainer(self, every: int = 7, claim_ms: int = 60_000, stream: str = STREAM, **more: Any) -> StreamTrainer:
        """A trainer as a process that begins now."""
        self.learner = TinyLearner()
        link = more.pop("link", self._server.link("rltrader-trainer"))
        client = link.client(self._server.passwords["rltrader-trainer"], answer_s=more.pop("answer_s", 30.0))

        def connect(name: str) -> Consumer:
            return Consumer(client, name, claim_ms)

        return StreamTrainer(
            connect, stream, self.learner, RewardAgent(), self._folder, self._logged.log, every=every, **more
        )


@pytest.fixture
def desk(tmp_path: Path, server: RedisServer, logged: Logged) -> Desk:
    return Desk(tmp_path, server, logged)


def learn_all(trainer: StreamTrainer, row: int) -> None:
    """Take turns until the trainer has learned up to this row."""
    until(lambda: (trainer.turn(wait_ms=0), trainer.row >= row)[1])


def by_hand(experiences: list[Experience], gaps: tuple[int, ...] = ()) -> list[float]:
    """The weights after learning these in their order; before the decisions in `gaps` something is missing."""
    learner, ends = TinyLearner(), {decision - 1 for decision in gaps}
    for place, e in enumerate(experiences):
        holding = e.holdings[0]
        gain = (holding.next_shares * holding.next_mark - holding.shares * holding.mark + holding.flow) / e.equity
        following = e.state if e.terminal else e.next_state
        followed = place + 1 < len(experiences) and experiences[place + 1].decision == e.decision + 1
        learner.take(
            0,
            numbers(e.state),
            e.chosen[0].action,
            gain,
            numbers(following),
            ended=e.terminal or not followed or e.decision in ends,
            goes_on=not e.terminal,
        )
        learner.learn()
    return learner.weights()


def numbers(data: bytes) -> Any:
    import numpy as np

    return np.frombuffer(data, dtype="<f4")


@pytest.fixture(scope="module")
def experiences() -> list[Experience]:
    """So many that the last one ends a session: nothing is held for what follows."""
    return make_experiences(A_SESSION * (COUNT // A_SESSION))


def test_it_learns_from_each_entry_once_in_their_order(
    desk: Desk, client: Any, experiences: list[Experience], logged: Logged
) -> None:
    put(client, STREAM, experiences)
    trainer = desk.trainer()
    learn_all(trainer, experiences[-1].row)
    trainer.save()
    assert desk.learner.weights() == by_hand(experiences)
    assert desk.learner.updates == len(experiences)
    group = client.xinfo_groups(STREAM)[0]
    assert (group["pending"], group["last-delivered-id"]) == (0, b"%d-0" % experiences[-1].row)
    lines = logged.lines("learned")
    assert sum(line["transitions"] for line in lines) == len(experiences)
    assert sum(line["rewards"]["gain"] for line in lines) == pytest.approx(
        sum((10 * (h.next_mark - h.mark) + h.flow) / 1000 for e in experiences for h in e.holdings)
    )


def test_killed_at_random_moments_it_ends_in_the_same_weights(
    desk: Desk, client: Any, experiences: list[Experience]
) -> None:
    expected = by_hand(experiences)
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    draw, crashes = random.Random(seed), Counter[str]()
    while crashes.total() < 60 or set(crashes) < BOUNDARIES:
        client.flushall()
        (desk._folder / CHECKPOINT).unlink(missing_ok=True)
        put(client, STREAM, experiences)
        while True:
            trainer = desk.trainer(every=draw.choice((1, 3, 10)), boundary=crash_after(draw.randint(1, 40), crashes))
            try:
                learn_all(trainer, experiences[-1].row)
                trainer.save()
            except Crash:
                continue
            break
        assert desk.learner.weights() == expected, f"seed {seed}"
        assert desk.learner.updates == len(experiences), f"seed {seed}"
        assert client.xinfo_groups(STREAM)[0]["pending"] == 0, f"seed {seed}"


def crash_after(steps: int, counts: Counter[str]) -> Callable[[str], None]:
    """End the trainer, as a kill does, at the boundary after so many."""

    def hook(boundary: str) -> None:
        nonlocal steps
        steps -= 1
        if steps == 0:
            counts[boundary] += 1
            raise Crash(boundary)

    return hook


def saved(state: object) -> bytes:
    data = io.BytesIO()
    torch.save(state, data)
    return data.getvalue()


@pytest.mark.parametrize("data", [b"", b"no checkpoint", b"PK\x03\x04 cut", saved({"row": 3}), saved([1])])
def test_a_damaged_or_foreign_checkpoint_is_named_with_the_cure(desk: Desk, data: bytes) -> None:
    (desk._folder / CHECKPOINT).write_bytes(data)
    with pytest.raises(CheckpointUnreadable, match=r"trainer\.pt cannot be read .*: restore it, or begin anew with"):
        desk.trainer()


def test_a_stream_that_comes_later_is_waited_for(
    desk: Desk, client: Any, experiences: list[Experience], logged: Logged
) -> None:
    trainer = desk.trainer()
    assert trainer.turn() > 0.0
    assert "does not exist yet" in logged.lines("trainer_delayed")[0]["problem"]
    put(client, STREAM, experiences[:20])
    learn_all(trainer, experiences[18].row)
    assert trainer.row == experiences[18].row  # whether the next one follows is not known yet
    put(client, STREAM, experiences[20:], experiences[19].row)
    learn_all(trainer, experiences[-1].row)
    assert desk.learner.weights() == by_hand(experiences)
    assert len(logged.lines("trainer_resumed")) == 1


@pytest.mark.parametrize("answer", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_an_answer_that_no_redis_gives_is_told_with_the_cure_and_each_entry_is_learned_once(
    answer: bytes, desk: Desk, client: Any, server: RedisServer, experiences: list[Experience], logged: Logged
) -> None:
    put(client, STREAM, experiences[:20])
    with between(server, "rltrader-trainer") as proxy:
        trainer = desk.trainer(link=proxy.link)
        learn_all(trainer, experiences[18].row)
        put(client, STREAM, experiences[20:], experiences[19].row)
        proxy.instead = answer
        assert trainer.turn(wait_ms=0) > 0.0
        proxy.instead = b""
        learn_all(trainer, experiences[-1].row)
    assert desk.learner.weights() == by_hand(experiences)
    (line,) = logged.lines("trainer_delayed")
    assert "no Redis answers X" in line["problem"]
    assert "connect to Redis without a proxy" in line["problem"]


def test_missing_entries_are_a_gap_across_which_no_return_reaches(
    desk: Desk, client: Any, experiences: list[Experience], logged: Logged
) -> None:
    put(client, STREAM, experiences)
    missing = experiences[5:8]
    client.xdel(STREAM, *(b"%d-0" % e.row for e in missing))
    trainer = desk.trainer()
    learn_all(trainer, experiences[-1].row)
    rest = [e for e in experiences if e not in missing]
    assert desk.learner.weights() == by_hand(rest)
    assert [row[-2] for row in desk.learner.taken[3:7]] == [0.0, 1.0, 0.0, 0.0]  # `ended` before the gap alone
    gap = logged.lines("experience_gap")
    assert [(line["after"], line["row"]) for line in gap] == [(experiences[4].row, experiences[8].row)]


def test_entries_deleted_after_they_were_delivered_are_a_gap_too(
    desk: Desk, client: Any, experiences: list[Experience], logged: Logged
) -> None:
    put(client, STREAM, experiences)
    client.xgroup_create(STREAM, GROUP, id="0")
    client.xreadgroup(GROUP, CONSUMER, {STREAM: ">"}, count=20)
    client.xdel(STREAM, *(b"%d-0" % e.row for e in experiences[5:8]))
    trainer = desk.trainer()
    learn_all(trainer, experiences[-1].row)
    trainer.save()
    assert len(logged.lines("experience_gap")) == 1
    assert desk.learner.updates == len(experiences) - 3
    assert client.xinfo_groups(STREAM)[0]["pending"] == 0


def test_foreign_entries_are_refused_and_change_nothing(
    desk: Desk, client: Any, experiences: list[Experience], logged: Logged
) -> None:
    put(client, STREAM, experiences[:10])
    row = experiences[9].row
    foreign = to_entry(replace(experiences[9], row=row + 1), row)
    client.xadd(STREAM, {**foreign, b"schema": b"2"}, id=b"%d-0" % (row + 1))
    client.xadd(STREAM, to_entry(experiences[9], row), id=b"%d-0" % (row + 2))  # the same experience again
    client.xadd(STREAM, {b"a": b"b"}, id=b"%d-1" % (row + 2))
    put(client, STREAM, experiences[10:], row)
    trainer = desk.trainer()
    learn_all(trainer, experiences[-1].row)
    trainer.save()
    assert desk.learner.weights() == by_hand(experiences)
    reasons = [line["reason"] for line in logged.lines("experience_refused")]
    assert [reason.split(",")[0][:18] for reason in reasons] == ["schema '2'", "the experience of ", "schema ''"]
    assert logged.lines("experience_gap") == []
    assert client.xinfo_groups(STREAM)[0]["pending"] == 0


def poisoned(good: Experience, name: str) -> dict[bytes, bytes]:
    """The entry of this row with one thing that no desk can have had."""
    holding, bar = good.holdings[0], good.holdings[0].bar

    def state(number: float) -> bytes:
        return np.array([number, 0.0, 0.0], dtype="<f4").tobytes()

    def experience_of(**more: Any) -> Experience:
        return replace(good, holdings=(replace(holding, **more),))

    variants: dict[str, Experience] = {
        "action 9 of 12": replace(good, chosen=(ActionChoice(9, 0, (1 / 12,) * 12),)),
        "no holdings": replace(good, holdings=()),
        "two holdings": replace(good, holdings=(holding, holding)),
        "NaN in the state": replace(good, state=state(math.nan)),
        "inf in the state": replace(good, next_state=state(math.inf)),
        "1e30 in the state": replace(good, state=state(1e30)),
        "equity NaN": replace(good, equity=math.nan),
        "equity 1e-300": replace(good, equity=1e-300),
        "another shape": replace(good, shape=(1, 2), state=good.state[:8], next_state=good.next_state[:8]),
        "price 0": experience_of(next_bar=replace(bar, close=0.0)),
        "mark NaN": experience_of(next_mark=math.nan),
        "a gain of 1e14": experience_of(flow=1e14),
        "probabilities 0": replace(good, chosen=(ActionChoice(0, 0, (0.0, 0.0, 0.0)),)),
        "probabilities NaN": replace(good, chosen=(ActionChoice(0, 0, (math.nan, 0.5, 0.5)),)),
        "a probability of -5": replace(good, chosen=(ActionChoice(0, 0, (-5.0, 3.0, 3.0)),)),
        "an action of probability 0": replace(good, chosen=(ActionChoice(1, 0, (1.0, 0.0, 0.0)),)),
        "fees of 1e300": experience_of(fees=1e300),
        "a billion shares": experience_of(shares=10**9, next_shares=10**9, next_mark=holding.mark),
        "a close of 1e-300": experience_of(next_bar=replace(bar, close=1e-300)),
        "a low above the high": experience_of(bar=replace(bar, low=102.0)),
        "a bar of 2**63": experience_of(bar=replace(bar, start_ns=2**63)),
        "another symbol": experience_of(symbol="EVIL"),
        "9e8 in the state": replace(good, state=state(9e8)),
        "decision 2**63": replace(good, decision=2**63),
        "decision -1": replace(good, decision=-1),
        "a model above the folder": replace(good, model="../../evil"),
        "a symbol above the folder": experience_of(symbol="../A"),
        "the year 2116": replace(good, bar_ns=4_600_000_000_000_000_000),
    }
    fields = to_entry(variants.get(name, good), 0)
    if name == "after of 20,000 digits":
        fields[b"after"] = b"1" * 20_000
    if name == "nested deep":
        fields[b"experience"] = b"\x91" * 5000 + b"\xc0"
    if name == "a bit of a word":
        fields[b"experience"] = fields[b"experience"].replace(b"SPY", b"\xd3PY")
    return fields


POISONS = (
    "an action of probability 0", "fees of 1e300", "a billion shares", "a close of 1e-300", "a low above the high",
    "a bar of 2**63", "another symbol", "9e8 in the state", "decision 2**63",
    "action 9 of 12", "no holdings", "two holdings", "NaN in the state", "inf in the state", "1e30 in the state",
    "equity NaN", "equity 1e-300", "another shape", "price 0", "mark NaN", "a gain of 1e14", "probabilities 0",
    "probabilities NaN", "a probability of -5", "decision -1", "a model above the folder",
    "a symbol above the folder", "the year 2116", "after of 20,000 digits", "nested deep",
    "a bit of a word",
)  # fmt: skip


@pytest.mark.parametrize("poison", POISONS)
def test_an_entry_that_no_desk_can_have_had_is_kept_aside_and_stops_nothing(
    desk: Desk, client: Any, tmp_path: Path, experiences: list[Experience], logged: Logged, poison: str
) -> None:
    put(client, STREAM, experiences[:5])
    row = experiences[4].row
    client.xadd(STREAM, poisoned(replace(experiences[5], row=row + 1), poison), id=b"%d-0" % (row + 1))
    put(client, STREAM, experiences[5:20], row)
    trainer = desk.trainer(shape=(1, 3), actions=3, symbols=("SPY",), state_most=100.0)
    learn_all(trainer, experiences[18].row)
    trainer.save()
    assert len(logged.lines("experience_refused")) == trainer.refused == 1
    assert [path.name for path in (tmp_path / REFUSED).iterdir()] == ["001.msgpack"]
    assert logged.lines("experience_gap") == []
    whole = by_hand(experiences[:20])
    learn_all(trainer, experiences[18].row)
    assert all(math.isfinite(weight) for weight in desk.learner.weights())
    assert len(desk.learner.taken) == 19
    again = desk.trainer(shape=(1, 3), actions=3)  # a restart meets nothing of it any more
    again.turn(wait_ms=0)
    assert again.refused == 0
    assert whole != []


def test_a_second_stream_of_the_far_future_and_one_of_another_name_draw_nobody_away(
    client: Any, experiences: list[Experience]
) -> None:
    now_ns = 1_700_000_000_000_000_000
    put(client, STREAM, [replace(one, bar_ns=now_ns + one.bar_ns) for one in experiences[:5]])
    desk_name = STREAM.split(":")[1]
    late = replace(experiences[0], bar_ns=now_ns + 90 * 365 * 86_400 * 10**9)
    put(client, stream_name(desk_name, "e9"), [late])
    client.xadd(f"rltrader:{desk_name}:e1:more:experience", to_entry(experiences[0], 0), id=b"3-0")
    assert later_streams(client, desk_name, "", -1, now_ns) == ([STREAM], False)
    ahead_ns = now_ns + 8 * 3600 * 10**9
    put(client, stream_name(desk_name, "e8"), [replace(late, bar_ns=ahead_ns)])
    assert later_streams(client, desk_name, STREAM, 5, now_ns) == ([], True)
    newer = stream_name(desk_name, "e7")  # a bar ahead in the known stream keeps nobody from the next one
    put(client, newer, [replace(experiences[1], bar_ns=now_ns + 10)])
    assert later_streams(client, desk_name, STREAM, ahead_ns, now_ns) == ([newer], True)


def test_what_a_dead_consumer_held_comes_first(
    desk: Desk, client: Any, experiences: list[Experience], logged: Logged
) -> None:
    put(client, STREAM, experiences)
    client.xgroup_create(STREAM, GROUP, id="0")
    client.xreadgroup(GROUP, "another", {STREAM: ">"}, count=4)
    waiting = desk.trainer()
    assert waiting.turn() > 0.0
    assert "another holds entries" in logged.lines("trainer_delayed")[0]["problem"]
    assert desk.learner.updates == 0
    trainer = desk.trainer(claim_ms=0)
    learn_all(trainer, experiences[-1].row)
    assert desk.learner.weights() == by_hand(experiences)


def test_entries_that_another_consumer_reads_meanwhile_are_claimed_and_learned_in_their_order(
    desk: Desk, client: Any, experiences: list[Experience], logged: Logged
) -> None:
    put(client, STREAM, experiences[:20])
    trainer = desk.trainer(claim_ms=300)
    learn_all(trainer, experiences[18].row)
    put(client, STREAM, experiences[20:30], experiences[19].row)
    client.xreadgroup(GROUP, "a person", {STREAM: ">"}, count=4)
    learn_all(trainer, experiences[28].row)
    put(client, STREAM, experiences[30:], experiences[29].row)
    client.xreadgroup(GROUP, "a person", {STREAM: ">"})  # all to the end: nothing follows that would show a gap
    learn_all(trainer, experiences[-1].row)
    trainer.save()
    assert logged.lines("experience_gap") == []
    assert desk.learner.weights() == by_hand(experiences)
    assert client.xpending(STREAM, GROUP)["pending"] == 0
    lines = logged.lines("experience_taken")
    assert [(line["entries"], line["by"], line["taken"]) for line in lines] == [
        (4, "a person", 4),
        (len(experiences) - 30, "a person", 4 + len(experiences) - 30),
    ]
    assert trainer.taken == 4 + len(experiences) - 30
    assert "a person holds entries" in logged.lines("trainer_delayed")[0]["problem"]


def test_entries_that_another_consumer_reads_and_acknowledges_are_read_again(
    desk: Desk, client: Any, experiences: list[Experience], logged: Logged
) -> None:
    put(client, STREAM, experiences[:20])
    trainer = desk.trainer()
    learn_all(trainer, experiences[18].row)
    put(client, STREAM, experiences[20:], experiences[19].row)
    ((_, pending),) = client.xreadgroup(GROUP, "another", {STREAM: ">"}, count=5)
    client.xack(STREAM, GROUP, *(identifier for identifier, _ in pending))
    learn_all(trainer, experiences[-1].row)
    trainer.save()
    assert logged.lines("experience_gap") == []
    assert desk.learner.weights() == by_hand(experiences)
    assert [line["entries"] for line in logged.lines("experience_taken")] == [5]


def test_an_entry_that_was_refused_is_not_read_again_by_the_one_that_follows(
    desk: Desk, client: Any, experiences: list[Experience], logged: Logged
) -> None:
    put(client, STREAM, experiences[:20])
    row = experiences[19].row
    client.xadd(STREAM, poisoned(replace(experiences[20], row=row + 1), "equity NaN"), id=b"%d-0" % (row + 1))
    put(client, STREAM, experiences[20:], row + 1)  # as the publisher of the poisoned one goes on
    trainer = desk.trainer()
    learn_all(trainer, experiences[-1].row)
    assert trainer.refused == len(logged.lines("experience_refused")) == 1
    assert [(line["after"], line["row"]) for line in logged.lines("experience_gap")] == [(row, experiences[20].row)]
    assert trainer.taken == 0


def test_who_may_not_learn_any_more_learns_no_entry_of_those_that_it_has(
    desk: Desk, client: Any, experiences: list[Experience]
) -> None:
    class LostError(Exception):
        """The lease is another one's."""

    looks = 0

    def check() -> None:
        nonlocal looks
        looks += 1
        if looks > 10:
            raise LostError

    put(client, STREAM, experiences)
    trainer = desk.trainer(check=check)
    with pytest.raises(LostError):
        learn_all(trainer, experiences[-1].row)
    assert 0 < desk.learner.updates < 10
    pending = client.xpending(STREAM, GROUP)["pending"]
    with pytest.raises(LostError):
        trainer.save()
    assert client.xpending(STREAM, GROUP)["pending"] == pending


@pytest.mark.parametrize("where", ["in a checkpoint", "after a fault"])
def test_who_lost_the_desk_while_it_was_stopped_acknowledges_nothing_of_its_successor(
    desk: Desk, client: Any, tmp_path: Path, experiences: list[Experience], where: str
) -> None:
    class LostError(Exception):
        """The lease is another one's."""

    is_lost = False

    def check() -> None:
        if is_lost:
            raise LostError

    def taken_over(boundary: str = "after checkpoint") -> None:
        """Another one, with a folder of its own, reads all that is there; no checkpoint of it has that."""
        nonlocal is_lost
        if boundary == "after checkpoint" and trainer.row == experiences[-1].row:
            learn_all(other.trainer(every=10_000), experiences[-1].row)
            is_lost = True

    put(client, STREAM, experiences)
    (tmp_path / "other").mkdir()
    other = Desk(tmp_path / "other", desk._server, desk._logged)
    trainer = desk.trainer(every=10_000, check=check, boundary=taken_over if where == "in a checkpoint" else None)
    learn_all(trainer, experiences[-1].row)
    if where == "after a fault":
        trainer._held, trainer._begun = trainer.row, False  # its checkpoint was whole, and then a request failed
        taken_over()
    with pytest.raises(LostError):
        trainer.save() if where == "in a checkpoint" else trainer.turn(wait_ms=0)
    assert client.xpending(STREAM, GROUP)["pending"] == len(experiences)


def test_frozen_it_keeps_experience_and_learns_nothing(
    desk: Desk, client: Any, tmp_path: Path, experiences: list[Experience], logged: Logged
) -> None:
    put(client, STREAM, experiences[:13])
    trainer = desk.trainer()
    learn_all(trainer, experiences[12].row)
    before = desk.learner.weights()
    (tmp_path / FROZEN).touch()
    trainer.turn(wait_ms=0)
    put(client, STREAM, experiences[13:26], experiences[12].row)
    learn_all(trainer, experiences[25].row)
    assert desk.learner.weights() == before
    assert len(desk.learner.taken) == 26
    (tmp_path / FROZEN).unlink()
    trainer.turn(wait_ms=0)
    put(client, STREAM, experiences[26:], experiences[25].row)
    learn_all(trainer, experiences[-1].row)
    assert desk.learner.weights() != before
    assert [line["row"] for line in logged.lines("learning_frozen")] == [experiences[12].row]
    assert [line["row"] for line in logged.lines("learning_resumed")] == [experiences[25].row]


def test_another_epochs_stream_goes_on_with_the_learner_from_its_begin(
    desk: Desk, client: Any, experiences: list[Experience]
) -> None:
    put(client, STREAM, experiences)
    trainer = desk.trainer()
    learn_all(trainer, experiences[-1].row)
    trainer.save()
    other = f"{STREAM}:of another epoch:experience"
    put(client, other, experiences)
    again = desk.trainer(stream=other)
    assert again.row == 0
    learn_all(again, experiences[-1].row)
    assert desk.learner.weights() == by_hand([*experiences, *experiences])


def test_a_stream_that_was_left_and_comes_back_is_not_learned_again(
    desk: Desk, client: Any, experiences: list[Experience], logged: Logged
) -> None:
    other = f"{STREAM}:of another epoch:experience"
    put(client, STREAM, experiences[:20])
    put(client, other, experiences)
    trainer = desk.trainer()
    learn_all(trainer, experiences[18].row)
    trainer.turn_to(other)  # what waited of the former stream is an end
    learn_all(trainer, experiences[-1].row)
    trainer.save()
    client.delete(STREAM)
    put(client, STREAM, experiences)  # all of it again, as by a publisher without its checkpoint
    again = desk.trainer(stream="")
    assert (again.stream, again.row) == (other, experiences[-1].row)
    again.turn_to(STREAM)
    assert again.row == experiences[19].row
    learn_all(again, experiences[-1].row)
    sequence = [*experiences[:20], *experiences, *experiences[20:]]
    assert desk.learner.weights() == by_hand(sequence)
    assert desk.learner.updates == 2 * len(experiences)


# --- Redis ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A server that a test may kill."""
    with redis_anywhere() as running:
        yield running


def test_a_trainer_that_starts_on_a_full_server_learns_what_is_there_and_makes_room(
    tmp_path: Path, own_server: RedisServer, logged: Logged, experiences: list[Experience]
) -> None:
    desk, client = Desk(tmp_path, own_server, logged), own_server.client()
    put(client, STREAM, experiences[:20])
    learn_all(desk.trainer(), experiences[18].row)  # it was killed then, and was away until the server was full
    put(client, STREAM, experiences[20:], experiences[19].row)
    client.config_set("maxmemory", 1)
    trainer = desk.trainer()
    learn_all(trainer, experiences[-1].row)
    trainer.save()
    assert desk.learner.weights() == by_hand(experiences)
    assert client.xinfo_groups(STREAM)[0]["pending"] == 0  # all of it may be trimmed now
    assert logged.lines("trainer_delayed") == []


@pytest.mark.parametrize("emptied", [False, True])
def test_what_no_checkpoint_holds_comes_again_after_redis_failed_and_the_trainer_was_killed(
    tmp_path: Path, own_server: RedisServer, logged: Logged, experiences: list[Experience], *, emptied: bool
) -> None:
    desk = Desk(tmp_path, own_server, logged)
    client = own_server.client()
    put(client, STREAM, experiences[:20])
    trainer = desk.trainer(every=10)  # checkpoints after 10 decisions, and not after those that follow
    learn_all(trainer, experiences[14].row)
    assert trainer.checkpoints == 1
    own_server.kill()
    assert trainer.turn() > 0.0
    own_server.start()
    if emptied:
        client.flushall()
        put(client, STREAM, experiences[8:20], experiences[7].row)
    learn_all(trainer, experiences[16].row)
    assert trainer.checkpoints == 1
    anew = desk.trainer()  # the former one is killed
    put(client, STREAM, experiences[20:], experiences[19].row)
    learn_all(anew, experiences[-1].row)
    assert desk.learner.weights() == by_hand(experiences)


def test_redis_killed_frozen_and_emptied_is_waited_for_and_nothing_is_learned_twice(
    tmp_path: Path, own_server: RedisServer, logged: Logged, experiences: list[Experience]
) -> None:
    desk = Desk(tmp_path, own_server, logged)
    client = own_server.client()
    put(client, STREAM, experiences[:20])
    trainer = desk.trainer(answer_s=0.5)
    learn_all(trainer, experiences[18].row)
    own_server.kill()
    assert trainer.turn() > 0.0
    own_server.start()
    put(client, STREAM, experiences[20:30], experiences[19].row)
    learn_all(trainer, experiences[28].row)
    own_server.freeze()
    assert trainer.turn() > 0.0
    own_server.thaw()
    put(client, STREAM, experiences[30:40], experiences[29].row)
    learn_all(trainer, experiences[38].row)
    client.flushall()
    until(lambda: trainer.turn(wait_ms=0) > 0.0)
    put(client, STREAM, experiences[10:], experiences[9].row)  # as the publisher sends again what was not acknowledged
    learn_all(trainer, experiences[-1].row)
    trainer.save()
    assert desk.learner.weights() == by_hand(experiences)
    assert logged.lines("experience_gap") == []
    client.close()
