"""The stream of experience of the online desk under its own trouble: Redis, publisher and trainer, session by session.

Redis is a real server with the installed configuration; publisher and trainer are the real ones, turned by the
campaign, with a learner that only notes what it was given. The trainer serves the desk's answers, and publishes two
versions: one climbs the ladder, the other one's card is forged, and its canary is rolled back. Whatever happened, after
a session the learner was given each decision of the journal once, in its order, but for those that the campaign itself
took away.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

from msgspec.structs import replace

from daemon.experience.experience import ForeignEntry, of_entry, row_of, stream_name
from daemon.experience.link import GROUP
from daemon.experience.publisher import CHECKPOINT, Publisher
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.journal.rows import strategy_of
from strategies.kit.contract import AnyStrategy, ShareSpec
from tests.chaos.desks.plan import IN_STEP, StreamTrouble
from tests.support.models.climbing import CARD
from tests.support.outside.redis_server import RedisServer, prepared
from tests.support.outside.stream import Logged, walked
from tests.support.rl.noting import ByHand, Noting, Taken, candidates_of, takes
from training.online.consume import Consumer
from training.online.reward import RewardAgent
from training.online.served import AnswerService
from training.online.trainer import StreamTrainer

ANSWER_S = 0.3  # real; a frozen server is taken for an absent one after this
EVERY_NS = 60 * 10**9  # virtual, between two turns
SETTLE_S = 120.0  # real: generous, nothing here is measured
TAKEN_EACH, CARD_SESSIONS = 2, 1  # sessions: before a version is taken, and of its card
GOOD, FORGED = 2, 8  # the versions that were taken after these sessions are published
PROMISED = 0.3  # the return of a session on the forged card


class Later(Exception):
    """A trouble cannot begin now."""


class Stream:
    """Redis, publisher and trainer of one desk, over the whole campaign, whose sessions have these `dates`."""

    def __init__(
        self, folder: Path, state_dir: Path, seed: int, store: Path, maker: AnyStrategy, dates: Sequence[str]
    ) -> None:
        self._own, self._state_dir, self._store, self._maker = folder, state_dir, store, maker
        forged = replace(CARD, session_mean=PROMISED, session_deviation=PROMISED / 10.0)
        cards = {GOOD: CARD, FORGED: forged}
        self._cards = {date: cards[number] for number, date in enumerate(dates, 1) if number in cards}
        self._place = Path(tempfile.mkdtemp(prefix="r"))  # a socket's path is short
        self._server: RedisServer = prepared(self._place)
        self._server.start()
        (folder / "publisher").mkdir(parents=True)
        (folder / "trainer").mkdir()
        self._chance = random.Random(f"stream {seed}")
        self.logged = Logged()
        self.met: list[str] = []
        self._drawn: list[StreamTrouble] = []
        self._back: list[tuple[int, Callable[[], None]]] = []  # when trouble under way ends, and how
        self._lost: list[Taken] = []  # what the campaign took away before it was read
        self._turned_ns = 0
        self._name = ""
        self._publisher = self._new_publisher()
        self._learner = self._new_learner()
        self._trainer: StreamTrainer | None = None
        self._serving: contextlib.ExitStack = contextlib.ExitStack()  # what ends with the trainer
        self._away = False

    @property
    def address(self) -> str:
        """Where the desk's answers are served."""
        return f"unix://{self._server.socket}"

    @property
    def secret(self) -> dict[str, str]:
        """The desk's password of it, as its environment has it."""
        return {"REDIS_PASSWORD": self._server.passwords["rltraderd"]}

    # --- the session under way ----------------------------------------------------------------------------------------

    def draw(self, troubles: Sequence[StreamTrouble]) -> None:
        """The session's troubles, by minutes from its open."""
        self._drawn = list(troubles)

    def tend(self, now_ns: int, open_ns: int) -> None:
        """Begin what is due, end what is over, and let publisher and trainer take a turn each virtual minute."""
        if now_ns - self._turned_ns < EVERY_NS:
            return
        self._turned_ns = now_ns
        for due in [back for back in self._back if back[0] <= now_ns]:
            self._back.remove(due)
            due[1]()
        for trouble in [one for one in self._drawn if open_ns + one.from_min * 60 * 10**9 <= now_ns]:
            if self._back:  # one at a time
                continue
            with contextlib.suppress(Later):
                self._begin(trouble, now_ns)
        self._turn()

    def settle(self) -> list[str]:
        """End all trouble; what is wrong once publisher and trainer have caught up."""
        for _, end in self._back:
            end()
        self._back.clear()
        self._drawn.clear()
        if not (self._state_dir / FILE).exists():
            return ["there is no journal"]
        until_s = time.monotonic() + SETTLE_S
        while not self._publisher.caught_up and time.monotonic() < until_s:
            self._turn()
        expected, waits = self._expected()
        while self._apart(expected, waits) and time.monotonic() < until_s:
            self._turn()
        return self._apart(expected, waits)

    def close(self) -> None:
        """End the server and remove its folder."""
        self._serving.close()
        self._server.kill()
        shutil.rmtree(self._place, ignore_errors=True)

    # --- publisher and trainer ----------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._publisher.turn()
        if self._trainer is None and not self._away and (self._state_dir / FILE).exists():
            with closing(JournalReader(self._state_dir / FILE)) as reader:
                meta = reader.meta()
            self._name = stream_name(meta["desk"], meta["epoch"])
            self._trainer = self._new_trainer()
        if self._trainer is not None:
            self._trainer.turn(wait_ms=0)

    def _client(self, user: str) -> Any:
        return self._server.link(user).client(self._server.passwords[user], ANSWER_S)

    def _new_publisher(self) -> Publisher:
        return Publisher(self._state_dir, self._own / "publisher", self._client("rltrader-publisher"), self.logged.log)

    def _new_learner(self) -> Noting:
        return Noting(self._maker.spec.observation_shape[0])

    def _new_trainer(self) -> StreamTrainer:
        """The trainer at its checkpoint, and its thread that serves answers."""
        self._learner, client = self._new_learner(), self._client("rltrader-trainer")
        publish = ByHand(self._store, self._maker, self._cards)
        self._watcher = candidates_of(self._learner, publish, self._maker, every=TAKEN_EACH, sessions=CARD_SESSIONS)
        trainer = StreamTrainer(
            lambda name: Consumer(client, name, 0), self._name, self._learner, RewardAgent(), self._own / "trainer",
            self.logged.log, every=self._chance.choice((1, 7, 50)), watcher=self._watcher,
        )  # fmt: skip
        answers = AnswerService(self._client("rltrader-trainer"), self._store, self._maker, self.logged.log)
        self._serving.enter_context(answers).turn_to(self._name)
        return trainer

    def step(self) -> str:
        """Where the version under way stands: in the desk's journal, else with the trainer."""
        with closing(JournalReader(self._state_dir / FILE)) as reader:
            rows = reader.query("SELECT payload FROM events WHERE kind = 'LadderMoved' ORDER BY id DESC LIMIT 1")
        if rows:
            return str(json.loads(rows[0]["payload"])["to_step"])
        return "card" if self._trainer is not None and self._watcher._waiting else "trained"

    def _expected(self) -> tuple[list[Taken], int]:
        """What the learner is to be given of the journal, and how many of the last ones may still wait."""
        with closing(JournalReader(self._state_dir / FILE)) as reader:
            meta = reader.meta()
        spec = strategy_of(meta).spec
        assert isinstance(spec, ShareSpec)
        experiences = walked(self._state_dir, epoch=meta["epoch"], spec=spec)
        waits = 0 if not experiences or experiences[-1].terminal else len(experiences[-1].chosen)
        return [entry for one in experiences for entry in takes(one)], waits

    def _apart(self, expected: list[Taken], waits: int) -> list[str]:
        """How what the learner was given differs; what the campaign took away may have come again, or not."""
        if not expected:
            return ["the journal has no experience"]
        entries, expected = (
            [entry for entry in side if entry not in self._lost] for side in (self._learner.taken, expected)
        )
        if entries == expected or (waits and entries == expected[:-waits]):
            return []
        same = next((n for n, (a, b) in enumerate(zip(entries, expected, strict=False)) if a != b), None)
        return [f"the learner was given {len(entries)} of {len(expected)}, the first that differs is {same}"]

    # --- trouble ------------------------------------------------------------------------------------------------------

    def _begin(self, trouble: StreamTrouble, now_ns: int) -> None:
        """Let it begin; what lasts ends some minutes later."""
        step = IN_STEP.get(trouble.name)
        if step is not None and (self._trainer is None or self.step() != step):
            raise Later
        kind = self._kinds["trainer: killed" if step is not None else trouble.name]
        ends = kind(self)
        self._drawn.remove(trouble)
        self.met.append(trouble.name)
        if ends is not None:
            self._back.append((now_ns + int(trouble.lasts_min * 60 * 10**9), ends))

    def _killed(self) -> Callable[[], None]:
        self._server.kill()
        return self._server.start

    def _frozen(self) -> Callable[[], None]:
        self._server.freeze()
        return self._server.thaw

    def _full(self) -> Callable[[], None]:
        self._operate(lambda client: client.config_set("maxmemory", 1))
        return lambda: self._operate(lambda client: client.config_set("maxmemory", "1gb"))

    def _emptied(self) -> None:
        self._operate(lambda client: client.flushall())

    def _publisher_killed(self) -> None:
        self._publisher._forget()  # the journal's file is closed, and nothing is written
        self._publisher = self._new_publisher()

    def _checkpoint_lost(self) -> None:
        (self._own / "publisher" / CHECKPOINT).unlink(missing_ok=True)
        self._publisher_killed()

    def _trainer_killed(self) -> Callable[[], None]:
        """It is gone, and nobody serves answers: each decision is a HOLD until it comes back."""
        if self._trainer is None:
            raise Later
        self._trainer, self._away = None, True
        self._serving.close()

        def back() -> None:
            self._away = False

        return back

    def _foreign(self) -> None:
        """An entry of another schema, and one with no field of ours, after the newest one."""
        self._add(1, lambda _: {b"schema": b"99", b"after": b"0", b"experience": b""})
        self._add(0, lambda _: {b"a": b"b"})

    def _twice(self) -> None:
        """The newest entry once more, under an id that is not its row."""
        self._add(0, dict)

    def _taken_away(self) -> None:
        """The newest entry vanishes before the trainer reads it."""

        def delete(client: Any) -> None:
            self._publisher.turn()
            groups = client.xinfo_groups(self._name) if client.exists(self._name) else ()
            delivered = max(
                [row_of(group["last-delivered-id"]) for group in groups if group["name"] == GROUP.encode()] + [0]
            )
            for identifier, fields in client.xrevrange(self._name, count=1):
                if row_of(identifier) <= delivered:
                    raise Later
                try:
                    self._lost += takes(of_entry(row_of(identifier), fields)[0])
                except ForeignEntry as error:
                    raise Later from error
                client.xdel(self._name, identifier)

        if self._trainer is None:
            raise Later
        self._operate(delete)

    def _add(self, further: int, made_of: Callable[[Mapping[bytes, bytes]], dict[bytes, bytes]]) -> None:
        """Add an entry so many rows after the newest one. Raises Later where there is none: all is learned."""

        def add(client: Any) -> None:
            newest = client.xrevrange(self._name, count=1)
            if not newest:
                raise Later
            last = row_of(client.xinfo_stream(self._name)["last-generated-id"])  # of one that was taken away, perhaps
            client.xadd(self._name, made_of(newest[0][1]), id=b"%d-*" % (last + further))

        self._operate(add)

    def _operate(self, work: Callable[[Any], object]) -> None:
        """Do something as the operator of the tests, who may do anything."""
        if self._name:
            with closing(self._client("operator")) as client:
                work(client)

    _kinds: ClassVar[dict[str, Callable[[Stream], Callable[[], None] | None]]] = {
        "redis: killed": _killed,
        "redis: frozen": _frozen,
        "redis: full": _full,
        "redis: emptied": _emptied,
        "publisher: killed": _publisher_killed,
        "publisher: its checkpoint lost": _checkpoint_lost,
        "trainer: killed": _trainer_killed,
        "stream: foreign entries": _foreign,
        "stream: an entry twice": _twice,
        "stream: an entry taken away": _taken_away,
    }
