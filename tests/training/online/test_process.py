"""The trainer's command as a process: cold start, versions with cards, the same weights however often it is killed.

Real: the journal of a replay that explores, the publisher, a Redis, the command. The bars are the bundled ones.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from daemon.experience import publisher as publisher_module
from daemon.experience.experience import stream_name
from daemon.experience.link import GROUP, ResponseError
from daemon.experience.publisher import Publisher
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader, reading
from daemon.models.ladder.cards import card_of
from daemon.models.store import load, versions
from strategies.kit.card import Card
from strategies.registry import strategy
from tests.support.desks.desk_run import Desk, tape_rows, write_tape
from tests.support.outside.redis_server import RedisServer
from tests.support.outside.stream import Logged, redis_anywhere, until
from tests.support.paths import REPOSITORY
from tests.support.rl.trainer_work import work
from training.online.trainer import CHECKPOINT

NAME, DESK = "online_dqn", "paper-1"
SESSIONS, BARS = 4, 60
KILLS = 2  # while it learns; one more in the cold start
SETTINGS = (
    *("--preset", "smoke", "--publish-every", "2", "--card-sessions", "1", "--card-horizon", "3"),
    *("--checkpoint-every", "40", "--replay-rows", "300", "--log-format", "json"),
)


@dataclass(slots=True)
class Place:
    """A trainer's folders and its Redis. `start` as often as wanted."""

    path: Path
    server: RedisServer
    process: subprocess.Popen[bytes] | None = None  # the newest

    @property
    def own_dir(self) -> Path:
        return self.path / "own"

    @property
    def store(self) -> Path:
        return self.path / "store"

    @property
    def arguments(self) -> list[str]:
        self.store.mkdir(parents=True, exist_ok=True)
        bars = write_tape(self.path / "bars.csv", tape_rows(11, 390, stubs=0))
        folders = ["--models-dir", str(self.store), "--own-dir", str(self.own_dir), "--bars", str(bars)]
        return ["--desk", DESK, "--redis", f"unix://{self.server.socket}", *folders, *SETTINGS]

    def start(self) -> subprocess.Popen[bytes]:
        secret = {"REDIS_PASSWORD": self.server.passwords["rltrader-trainer"], "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-m", "training.online", *self.arguments]
        with (self.path / "log").open("ab") as log:
            self.process = subprocess.Popen(command, env={**os.environ, **secret}, stderr=log)
        return self.process

    def clear(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def publisher(self, state: Path) -> Publisher:
        (self.path / "publisher").mkdir(exist_ok=True)
        return Publisher(state, self.path / "publisher", self.server.client("rltrader-publisher"), Logged().log)

    def checkpoint(self) -> dict[str, Any]:
        state: dict[str, Any] = torch.load(self.own_dir / CHECKPOINT, weights_only=True)
        return state

    def cards(self) -> dict[str, Card]:
        """The cards of all versions, as the daemon reads them: after all checks of the store."""
        names = versions(self.store, NAME)
        return {name: card_of(load(self.store, strategy(NAME), name)) for name in names}


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The publisher takes small steps, so that a trainer can be killed between them."""
    monkeypatch.setattr(publisher_module, "BATCH", 20)
    monkeypatch.setattr("daemon.experience.walk.ROWS_AT_ONCE", 100)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Callable[[str], Place]]:
    with ExitStack() as stack:

        def make(name: str) -> Place:
            (tmp_path / name).mkdir()
            new_place = Place(tmp_path / name, stack.enter_context(redis_anywhere()))
            stack.callback(new_place.clear)
            return new_place

        yield make


def killed(process: subprocess.Popen[bytes]) -> None:
    assert process.poll() is None, "it ended by itself"
    process.kill()
    process.wait()


def finish(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(180) == 0


def alive(process: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
    """Wait for a condition; the process must not end before."""

    def look() -> bool:
        assert process.poll() is None, "it ended by itself"
        return reached()

    until(look)


def play_desk(place: Place, folder: Path) -> Path:
    """The journal of a replay with the first version, which explores."""
    (first,) = versions(place.store, NAME)
    tape = write_tape(folder / "tape.csv", tape_rows(SESSIONS, BARS, stubs=2))
    options = {"desk__strategy": NAME, "paths__models_dir": place.store, "policy__version": first}
    desk = Desk(tape, exploration__kind="epsilon", exploration__epsilon=0.3, **options)
    assert desk.run(folder / "state").failure is None
    return folder / "state"


def stream_of(state: Path) -> str:
    with closing(JournalReader(state / FILE)) as reader, reading(state / FILE):
        meta = reader.meta()
    return stream_name(meta["desk"], meta["epoch"])


def test_killed_at_any_moment_it_publishes_the_same_versions_and_ends_in_the_same_weights(
    place: Callable[[str], Place], tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    draw, disturbed, quiet = random.Random(seed), place("disturbed"), place("quiet")

    process = disturbed.start()
    alive(process, (disturbed.own_dir / draw.choice((".lock", "cold.replay"))).exists)
    killed(process)
    process = disturbed.start()
    alive(process, (disturbed.own_dir / CHECKPOINT).exists)
    first = versions(disturbed.store, NAME)
    state = play_desk(disturbed, tmp_path)

    stream, publisher, client = stream_of(state), disturbed.publisher(state), disturbed.server.client()
    for share in sorted(draw.random() for _ in range(KILLS)):
        publish(publisher, 1 + int(share * SESSIONS * BARS))
        alive(process, partial(has_read, client, stream, draw.randint(1, publisher.row)))
        killed(process)
        process = disturbed.start()
    until(lambda: (publisher.turn(), publisher.caught_up)[1])
    alive(process, partial(has_acknowledged, client, stream, publisher.row))
    finish(process)

    again = quiet.publisher(state)
    until(lambda: (again.turn(), again.caught_up)[1])
    with quiet.server.client("rltrader-trainer") as connection:
        reached = partial(has_acknowledged, connection, stream, again.row)
        work(quiet.arguments, connection, Logged(), iter([reached]))
    for one in (publisher, again):
        one.close()

    assert differs(disturbed.checkpoint(), quiet.checkpoint()) == "", f"seed {seed}"
    assert disturbed.checkpoint()["transitions"] == publisher.published
    cards = disturbed.cards()
    assert cards == quiet.cards()
    assert len(cards) == 2  # the first, and that taken after two of four sessions
    assert not (disturbed.store / NAME / "current").exists()
    (parent,) = first
    assert all(load(disturbed.store, strategy(NAME), card).manifest.reference is not None for card in cards)
    (later,) = [card for version, card in cards.items() if version != parent]
    assert (later.parent, later.stream, later.sessions, later.decisions) == (parent, stream, 1, BARS)
    assert later.exploration > 0.0
    assert later.cannot_be_said == "1 sessions, expected at least 8"


def publish(publisher: Publisher, least: int) -> None:
    """Publish so many decisions at least."""
    until(lambda: (publisher.turn(), publisher.published >= least)[1])


def has_read(client: Any, stream: str, least: int) -> bool:
    """Whether this row was delivered to the trainer."""
    return any(row(group["last-delivered-id"]) >= least for group in groups(client, stream))


def has_acknowledged(client: Any, stream: str, least: int) -> bool:
    """Whether all entries up to this row are acknowledged."""
    consumers = groups(client, stream)
    return any(not group["pending"] and row(group["last-delivered-id"]) >= least for group in consumers)


def groups(client: Any, stream: str) -> list[Any]:
    with suppress(ResponseError):  # no such key yet
        return [group for group in client.xinfo_groups(stream) if group["name"] == GROUP.encode()]
    return []


def row(identifier: bytes) -> int:
    return int(identifier.partition(b"-")[0])


def differs(one: Any, other: Any, at: str = "") -> str:
    """The first place at which two states hold different bytes, "" where they are the same."""
    if isinstance(one, torch.Tensor):
        return "" if one.numpy().tobytes() == other.numpy().tobytes() else at
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return at
        return next((path for key in one if (path := differs(one[key], other[key], f"{at}.{key}"))), "")
    if isinstance(one, list | tuple):
        pairs = enumerate(zip(one, other, strict=True))
        return next((path for n, (a, b) in pairs if (path := differs(a, b, f"{at}[{n}]"))), "")
    return "" if one == other else at
