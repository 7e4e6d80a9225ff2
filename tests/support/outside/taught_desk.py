"""A desk on served answers that climbs its ladder, with its publisher, and a trainer that can be killed anywhere.

Real are engine, store, lifecycle, climber, publisher, Redis, trainer and the server of answers. The trainer works while
a question of the desk is open. Nothing here computes an expected value.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from decimal import Decimal
from pathlib import Path

import pytest

from daemon.config.tables import LadderTable
from daemon.core.effects import AskPolicy
from daemon.core.events import BarClosed, Event, Quote, QuotesReceived, SessionEnded, SessionScheduled
from daemon.core.state import LadderState
from daemon.engine.state_dir import StateDir, open_state_dir
from daemon.experience.experience import stream_name
from daemon.experience.publisher import Publisher
from daemon.models.ladder.replay_child import replayed
from daemon.models.ladder.replay_gate import Replayed, ReplayRequest
from daemon.models.served import ServedAnswers
from strategies.kit.card import Card
from strategies.kit.contract import Bar
from strategies.kit.units import SECOND_NS
from strategies.registry import strategy
from tests.support.desks.desk_run import Crash, Desk, bundled_rows
from tests.support.models.climbing import CARD as CARD_THAT_PASSES
from tests.support.models.climbing import climber_of, online_desk
from tests.support.models.online_models import NAME, put_momentum
from tests.support.models.swaps import Running, name, running
from tests.support.outside.redis_server import RedisServer
from tests.support.outside.stream import Logged, redis_anywhere
from tests.support.rl.noting import ByHand, Noting, candidates_of
from training.online.consume import Consumer
from training.online.reward import RewardAgent
from training.online.served import AnswerServer
from training.online.trainer import StreamTrainer

LIMIT_S = 180.0  # generous: nothing here is measured
EVERY, CARD = 1, 1  # sessions: before a version is taken, and of its card
STUBS, BARS = 2, 24  # sessions that warm the desk; bars of each after them
PUBLISHED = (1, 7)  # the versions that were taken after these sessions; others are not
CHECKPOINT_EVERY = 2  # decisions
RULES = LadderTable(
    promotion="automatic",
    replay_sessions=1,
    replay_behind_max=1.0,
    shadow_sessions=1,
    canary_sessions=1,
    shadow_behind_max=1.0,
    drawdown_max=1.0,
)
TRAINED, CARDED = "trained", "card"  # where a version is before the desk's ladder knows it


class TrainerProcess:
    """What dies with the trainer: its learner, its place in the stream, and the server of answers."""

    def __init__(
        self, folder: Path, server: RedisServer, store: Path, journal: tuple[str, str], cards: Mapping[str, Card]
    ) -> None:
        self._folder, self._server, self._journal, self._cards = folder, server, journal, cards
        self.store, self.epoch = store, journal[1]
        self._open = ExitStack()
        self.armed = ""  # the boundary at which it dies
        self.logged = Logged()
        self.lives = 0
        self.begin()

    def begin(self) -> None:
        """Begin a life at the checkpoint."""
        self._open.close()
        client = self._open.enter_context(closing(self._server.client("rltrader-trainer")))
        maker = strategy(NAME)
        self.learner = Noting(maker.spec.observation_shape[0])
        publish = ByHand(self.store, maker, self._cards)
        self.candidates = candidates_of(self.learner, publish, maker, every=EVERY, sessions=CARD)
        self.trainer = StreamTrainer(
            lambda stream: Consumer(client, stream),
            stream_name(*self._journal),
            self.learner,
            RewardAgent(),
            self._folder,
            self.logged.log,
            every=CHECKPOINT_EVERY,
            watcher=self.candidates,
            boundary=self._at,
        )
        self.answers = AnswerServer(client, self._journal, self.store, maker, self.logged.log)
        self.lives += 1

    def turn(self) -> str:
        """Learn what is there; where it is killed meanwhile, begin again. Returns the boundary of its death."""
        while True:
            try:
                self.trainer.turn(wait_ms=0)
            except Crash:
                died, self.armed = self.armed, ""
                self.begin()
                return died
            if self.trainer.caught_up or self.trainer.problem:  # there is no stream before the first decision
                return ""

    @property
    def judges(self) -> bool:
        """Whether a version waits for its card."""
        return bool(self.candidates._waiting)

    def close(self) -> None:
        """End it as a kill does."""
        self._open.close()

    def _at(self, boundary: str) -> None:
        if boundary == self.armed:
            raise Crash


class DryRun(Desk):
    """The desk in a dry run: only in a replay all answers are its own."""

    def fresh_state(self, path: Path) -> StateDir:
        """The state directory, opened or made."""
        return open_state_dir(path, self.replay.meta() | {"mode": "dry_run"}, self.replay.epoch())


class HeldReplay:
    """The replay of the ladder in a thread of this process, which waits until it is let go."""

    gate = threading.Event()

    def run(self, request: ReplayRequest) -> Replayed:
        assert self.gate.wait(LIMIT_S)
        return replayed(request)

    def kill(self) -> None:
        """It ends by itself."""


class TaughtDesk:
    """One run: `died` has the step and boundary of each kill, `steps` the steps in which a question was open."""

    def __init__(self, run: Running, process: TrainerProcess, publisher: Publisher) -> None:
        self._run, self._process, self._publisher = run, process, publisher
        self._climber = climber_of(run, process.store, RULES, strategy=strategy(NAME))
        self._kills: dict[str, list[str]] = {}
        self.died: list[tuple[str, str]] = []  # step, boundary
        self.steps: list[str] = []

    @property
    def step(self) -> str:
        """Where the version under way stands."""
        ladder = self._run.submitter.state.ladder
        if isinstance(ladder, LadderState):
            return ladder.step
        return CARDED if self._process.judges else TRAINED

    async def play(self, sessions: int, kills: Mapping[str, list[str]], at: Callable[[int], bool]) -> None:
        """Trade so many sessions. `at` gets the bar before each question is answered: whether something happened."""
        self._kills = {step: list(boundaries) for step, boundaries in kills.items()}
        await self._settle()
        session = bar = 0
        for event in quoted(self._run.tape):
            self._run.intake.put(event)
            await self._run.quiet()
            if isinstance(event, SessionScheduled):
                bar = 0
            if self._asked:
                bar += 1
                session += bar == 1
                if at(bar):
                    await self._settle()
                await self._answered()
            if isinstance(event, SessionEnded):
                self._work()
                await self._settle()
                if session == sessions:
                    return

    def drift(self) -> None:
        """The version under way drifts."""
        ladder = self._run.submitter.state.ladder
        assert isinstance(ladder, LadderState)
        self._climber.drifted(ladder.version, "index 3.1")

    @property
    def _asked(self) -> bool:
        return self._run.submitter.state.ask is not None

    def _work(self) -> None:
        """Let publisher and trainer work, and die where it is due."""
        if self.step not in self.steps:
            self.steps.append(self.step)
        step, left = self.step, self._kills.get(self.step)
        if left and not self._process.armed:
            self._process.armed = left[0]
        self._publisher.turn()
        while died := self._process.turn():
            self.died.append((step, died))
            if left:
                left.remove(died)

    async def _answered(self) -> None:
        """The question is open: the trainer works, perhaps dies, and answers."""
        self._work()
        end = time.monotonic() + LIMIT_S
        while self._asked:
            assert time.monotonic() < end, "no answer came"
            await asyncio.to_thread(self._process.answers.turn, 20)
            await asyncio.sleep(0.001)
        await self._run.quiet()

    async def _settle(self) -> None:
        """Let ladder and store follow one another until nothing moves; a replay that is held goes on being held."""
        row = -1
        while row != self._run.engine.last_row:
            row = self._run.engine.last_row
            await self._run.quiet()
            await self._climber.look()
            if HeldReplay.gate.is_set():
                await self._climber.replayed()
                await self._climber.look()
            await self._run.lifecycle.look()


def quoted(tape: Iterable[Event]) -> Iterator[Event]:
    """The events of a tape with a quote that closes each bar, and one some seconds later, which fills orders."""
    for event in tape:
        yield event
        if isinstance(event, BarClosed):
            bar, later_ns = event.bar, event.time_ns + 5 * SECOND_NS
            yield QuotesReceived(event.time_ns, bar.start_ns, (_quote(bar, event.time_ns),))
            yield QuotesReceived(later_ns, 0, (_quote(bar, later_ns),))


def _quote(bar: Bar, at_ns: int) -> Quote:
    bid = Decimal(str(bar.close))
    middle = bid + Decimal("0.01")
    return Quote(bar.symbol, bid, bid + Decimal("0.02"), middle, middle, at_ns)


def without_children(patch: pytest.MonkeyPatch) -> None:
    """Leave out the child processes of trial and replay, which have tests of their own."""
    patch.setattr("daemon.models.lifecycle.TrialProcess.run", lambda *_: None)
    patch.setattr("daemon.models.ladder.replay_child.try_model", lambda *_: None)
    patch.setattr("daemon.models.ladder.replay_gate.ReplayProcess", HeldReplay)


def taught(
    folder: Path, sessions: int, kills: Mapping[str, list[str]], at: Callable[[TaughtDesk], Callable[[int], bool]]
) -> tuple[TaughtDesk, TrainerProcess]:
    """Play in `folder`, a new one, to the end. The trainer dies at the boundaries of `kills`, by the ladder's step."""
    HeldReplay.gate.clear()
    store, state = folder / "store", folder / "state"
    for path in (store, folder / "trainer", folder / "publisher"):
        path.mkdir(parents=True)
    put_momentum(store, version="v1")
    name(store, "v1", strategy=NAME)
    served_by = {"policy__answers": "served", "policy__redis": "unix:///of/the/test"}
    desk = online_desk(folder, store, sessions, BARS, kind=DryRun, **served_by)
    pairs: list[tuple[TaughtDesk, TrainerProcess]] = []

    async def played(server: RedisServer) -> None:
        served: list[ServedAnswers] = []

        def serve(question: AskPolicy) -> None:
            served[0].ask(question)

        async with running(desk, state, serve=serve) as run:
            journal = (desk.replay.meta()["desk"], desk.replay.epoch())
            served.append(
                ServedAnswers(
                    server.link("rltraderd"),
                    server.passwords["rltraderd"],
                    journal,
                    desk.replay.strategy.spec,
                    lambda: run.models.running,
                    run.intake.put,
                    lambda: run.submitter.state.now_ns,
                    lambda event, /, **fields: run.log.append((event, fields)),
                    deadline_s=LIMIT_S,
                )
            )
            served[0].start()
            days = [*bundled_rows()][STUBS:]
            cards = {days[number - 1]: CARD_THAT_PASSES for number in PUBLISHED}
            process = TrainerProcess(folder / "trainer", server, store, journal, cards)
            publisher = Publisher(state, folder / "publisher", server.client("rltrader-publisher"), process.logged.log)
            one = TaughtDesk(run, process, publisher)
            pairs.append((one, process))
            try:
                await one.play(sessions, kills, at(one))
            finally:
                HeldReplay.gate.set()
                served[0].close()
                publisher.close()
                process.close()

    with redis_anywhere() as server:
        asyncio.run(played(server))
    return pairs[0]
