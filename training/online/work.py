"""The trainer's process: cold start, choice of the stream, learning, and its published state."""

from __future__ import annotations

import argparse
import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from daemon.core.strategy_rules import trading_for
from daemon.experience.learning import LearningFile
from daemon.experience.link import RedisError
from daemon.host.service import Service
from daemon.library.run_files import TRAINING_LOCK
from daemon.models.ladder.cards import holds_of
from daemon.models.pointer import ModelError
from daemon.models.signature import sign as sign_version
from daemon.operator.log import Log
from daemon.pacing import back_off_s
from strategies.kit.units import MINUTE_NS, SECOND_NS
from strategies.online_dqn import OnlineDqn
from strategies.online_dqn.model_config import ModelConfig
from strategies.registry import strategy
from training.export.shelf import ExportError
from training.online.beginning import ReadyLearner, TrainerSettings, begin
from training.online.candidates import Candidates, Origin
from training.online.consume import (
    AHEAD_NS,
    Consumer,
    StreamsAtWork,
    backlog,
    later_streams,
    newest_bars_ns,
    stream_ahead,
)
from training.online.judging import nothing_logged
from training.online.labels import HeadLabels
from training.online.lease import LOOK_S as LEASE_LOOK_S
from training.online.lease import Lease
from training.online.publish import Versions
from training.online.reward import RewardAgent
from training.online.served import AnswerService
from training.online.trainer import CHECKPOINT, FROZEN, WAIT_FIRST_S, WAIT_MOST_S, StreamTrainer
from training.runs.folder import alone

BEAT_S = 10.0  # between two messages to the watchdog
PROGRESS_S = 1800.0  # without a sign of progress the watchdog is not fed any more
LOOK_S = 10.0  # between two looks for a newer stream, and at holds
SHOW_S = 30.0  # between two writings of what the dashboard shows, without a checkpoint
PORTFOLIO_MOST = 100.0  # bound of an observation's portfolio numbers, far above real ones
BARS_AT_WORK = 2.0  # bar lengths without a decision after which a stream is inactive
TELL_S = 60.0  # between two log lines of a cold start


class NoFirstVersion(Exception):
    """The cold start's model cannot be published; the text gives the reason."""


class ColdStartInterrupted(Exception):
    """A signal ended the process in the middle of a cold start, which begins anew next time."""


class Pulse:
    """Reports readiness and feeds the watchdog from its own thread while work makes progress.

    A cold start and a card can take longer than the watchdog waits, so each `beat` counts for half an hour.
    """

    def __init__(self, service: Service) -> None:
        self._service, self._last, self._end = service, time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._feed, name="watchdog", daemon=True)
        service.ready()
        self._thread.start()

    def beat(self) -> None:
        """Work made progress."""
        self._last = time.monotonic()

    def close(self) -> None:
        """Report that the process stops."""
        self._end.set()
        self._thread.join()
        self._service.stopping()
        self._service.close()

    def _feed(self) -> None:
        every_s = min(BEAT_S, self._service.interval_s or BEAT_S)
        while not self._end.wait(every_s):
            if time.monotonic() - self._last < PROGRESS_S:
                self._service.watchdog()


class LearningProcess:
    """One process at work. `run` ends with `stop`, or raises what the command turns into an exit code."""

    def __init__(
        self,
        options: argparse.Namespace,
        client: Any,
        config: ModelConfig,
        rewards: RewardAgent,
        log: Log,
        pulse: Pulse,
        stop: threading.Event,
    ) -> None:
        self._options, self._client, self._config, self._rewards = options, client, config, rewards
        self._log, self._pulse, self._stop = log, pulse, stop
        self._strategy = OnlineDqn(config, config.symbols)
        self._trading = trading_for(self._strategy.spec.name)
        self._shelf: Path = options.models_dir / self._strategy.spec.name
        self._told = self._looked = -TELL_S
        self._shown, self._shown_at = -1, 0.0
        self._held_problem = self._ahead = ""  # told last
        self._at_work = StreamsAtWork(BARS_AT_WORK * MINUTE_NS / SECOND_NS * config.bar_minutes)
        self._namesake = ""  # what is wrong where two desks have this name
        self._served = ""  # the stream of the journal whose questions are answered
        self._learning: LearningFile | None = None

    def run(self) -> None:
        """Lock the folder, begin or go on, and learn until stopped."""
        own_dir: Path = self._options.own_dir
        own_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock_text = (
            f"another trainer is at work in {own_dir}: give each desk an --own-dir of its own, and run one of each"
        )
        with alone(own_dir / TRAINING_LOCK, lock_text):
            self._lease = Lease(self._client, self._options.desk, own_dir)
            if not self._alone_at_the_desk():
                return
            with self._lease:
                self._learning = LearningFile(self._shelf)
                self._sign()
                if self._thawed():
                    self._learn(self._trainer())

    def note_end(self, reason: str) -> None:
        """Show why the process ends, "" for a signal to stop; nothing where another trainer is at work here."""
        with contextlib.suppress(OSError):
            if self._learning is not None:
                self._learning.note_end(reason)

    def _alone_at_the_desk(self) -> bool:
        """Wait for the desk's lease; False where the process was stopped meanwhile. Raises LeaseTaken."""
        return self._until(self._lease.take)

    def _until(self, ask: Callable[[], bool]) -> bool:
        """Repeat `ask` until it is true; False: the process was stopped meanwhile. Raises LeaseTaken."""
        last_problem, failures = "", 0
        while True:
            try:
                if ask():
                    return True
                problem, wait_s = self._lease.awaited, LEASE_LOOK_S
            except RedisError as error:
                failures += 1
                problem, wait_s = str(error), back_off_s(failures, WAIT_FIRST_S, WAIT_MOST_S)
            if problem != last_problem:
                self._log("trainer_delayed", problem=problem)
                last_problem = problem
            self._pulse.beat()
            if self._stop.is_set():
                return False
            self._stop.wait(wait_s)

    # --- the beginning ------------------------------------------------------------------------------------------------

    def _thawed(self) -> bool:
        """Wait while learning is frozen and no model was made; False where the process was stopped meanwhile."""
        own_dir: Path = self._options.own_dir
        while not (own_dir / CHECKPOINT).exists() and self._is_frozen() and not self._stop.is_set():
            self._pulse.beat()
            self._stop.wait(LOOK_S)
        return not self._stop.is_set()

    def _trainer(self) -> StreamTrainer:
        """Return the trainer at its checkpoint; after a cold start the first version is in the store before it."""
        o = self._options
        plan = TrainerSettings(
            symbols=self._config.symbols,
            model_config=self._config.digest,
            preset=o.preset,
            seed=o.seed,
            replay_rows=o.replay_rows,
            checkpoint_every=o.checkpoint_every,
            reward=self._rewards.weights,
        )
        start = begin(
            o.own_dir,
            o.bars,
            self._config,
            self._trading,
            plan,
            feed=o.feed,
            threads=o.threads,
            report=self._cold_progress,
        )
        self._begun = start
        hyperparameters = {
            **msgspec.to_builtins(plan),
            "cold_start": start.figures,
            "online": asdict(start.coefficients),
        }
        sign = None if o.signing_key is None else partial(sign_version, key_file=o.signing_key)
        self._versions = Versions(
            o.models_dir, self._strategy, start.training, hyperparameters, start.apart, self._log, sign
        )
        candidates = Candidates(
            start.network,
            self._versions,
            every=o.publish_every,
            sessions=o.card_sessions,
            horizon=o.card_horizon,
            discount=start.coefficients.discount,
            features=len(self._strategy.spec.features),
            portfolio=len(self._config.portfolio),
        )
        trainer = StreamTrainer(
            lambda stream: Consumer(self._client, stream),
            "",
            start.learner,
            self._rewards,
            o.own_dir,
            self._log,
            every=o.checkpoint_every,
            shape=(len(self._config.symbols), self._strategy.spec.observation_shape[0]),
            actions=len(self._strategy.spec.actions),
            symbols=self._config.symbols,
            state_most=max(PORTFOLIO_MOST, self._config.scaling.clip),
            labels=HeadLabels(self._config),
            watcher=candidates,
            frozen=self._is_frozen,
            check=self._lease.check,
        )
        if start.fresh:
            self._first_version(start, trainer)
        return trainer

    def _first_version(self, start: ReadyLearner, trainer: StreamTrainer) -> None:
        """Publish the cold start's model, then write the checkpoint; a kill in between repeats both alike."""
        self._keep_lease()
        nothing = nothing_logged(
            self._options.card_horizon, start.coefficients.discount, "it is the first version: nothing was logged"
        )
        try:
            self._versions.publish(start.network, nothing, Origin(start.training.last_session, "", (0, 0)), "")
        except (ExportError, ValueError) as error:
            raise NoFirstVersion(f"the cold start made no version: {error}") from None
        self._keep_lease()
        trainer.save()

    def _keep_lease(self) -> None:
        """Wait while Redis is away: the cold start would begin anew. Raises LeaseTaken, ColdStartInterrupted."""

        def is_held() -> bool:
            self._lease.check()
            return True

        if not self._until(is_held):
            raise ColdStartInterrupted

    def _cold_progress(self, figures: Mapping[str, float]) -> None:
        """Feed the watchdog, and log the figures now and then. Raises ColdStartInterrupted on a stop."""
        self._pulse.beat()
        if self._stop.is_set():
            raise ColdStartInterrupted
        if time.monotonic() - self._told >= TELL_S:
            self._told = time.monotonic()
            self._log("cold_start", figures=dict(figures))
            self._sign()

    # --- learning -----------------------------------------------------------------------------------------------------

    def _learn(self, trainer: StreamTrainer) -> None:
        """Take turns until stopped, and serve the desk's questions beside; then keep what was learned."""
        spec = self._strategy.spec
        served = strategy(spec.name, spec.symbols, spec.config)
        keys = self._options.public_key
        with AnswerService(self._client, self._options.models_dir, served, self._log, keys) as serving:
            self._serve(serving, trainer.stream)
            while not self._stop.is_set():
                wait_s = trainer.turn()
                self._pulse.beat()
                self._show(trainer)
                self._look_for_streams(trainer, serving)
                if wait_s:
                    self._stop.wait(wait_s)
        with contextlib.suppress(RedisError):
            trainer.save()

    def _look_for_streams(self, trainer: StreamTrainer, serving: AnswerService) -> None:
        """Serve the newest journal, and turn to its stream once all of the former stream is learned."""
        now = time.monotonic()
        if now - self._looked < (LOOK_S if trainer.stream else WAIT_FIRST_S):
            return
        self._looked = now
        with contextlib.suppress(RedisError):  # the next turn meets it too, and reports it
            self._lease.check()  # a stream at rest asks for none
            position, now_ns = (trainer.stream, trainer.newest_ns), time.time_ns()
            later, exists = later_streams(self._client, self._options.desk, *position, now_ns)
            if self._two_desks(trainer.stream):
                later = []
            if trainer.newest_ns >= now_ns + AHEAD_NS:  # by this clock any other stream is later
                later = [name for name in later if self._at_work.grew(name)]
            self._serve(serving, [trainer.stream, *later][-1])
            if later and (trainer.caught_up or not exists):
                trainer.turn_to(later[0])
                self._log("stream_found", stream=later[0])
            ahead = stream_ahead(self._client, self._options.desk, trainer.stream, now_ns)
            problem = f"{ahead} has decisions ahead of this host's clock, and is passed over: set the clock right"
            if ahead and problem != self._ahead:
                self._log("trainer_delayed", problem=problem)
            self._ahead = problem if ahead else ""

    def _two_desks(self, stream: str) -> bool:
        """Whether another desk of this name is at work, which is told once. Raises RedisError."""
        desk = self._options.desk
        other = self._at_work.other_than(stream, newest_bars_ns(self._client, desk))
        former, self._namesake = self._namesake, ""
        if other:
            self._namesake = (
                f"{other} gets decisions beside {stream}: two desks have the name {desk}, and the second is neither "
                "learned from nor answered: give each a desk.name and a trainer of its own"
            )
        if self._namesake not in ("", former):
            self._log("trainer_delayed", problem=self._namesake)
        return bool(other)

    def _serve(self, serving: AnswerService, stream: str) -> None:
        if stream != self._served:
            self._served = stream
            serving.turn_to(stream)

    def _show(self, trainer: StreamTrainer) -> None:
        """Write what the dashboard shows: after each checkpoint, and now and then."""
        now = time.monotonic()
        if trainer.checkpoints == self._shown and now - self._shown_at < SHOW_S:
            return
        self._shown, self._shown_at = trainer.checkpoints, now
        waiting = pending = None
        with contextlib.suppress(RedisError):
            waiting, pending = backlog(self._client, trainer.stream) if trainer.stream else (None, None)
        assert self._learning is not None
        show = partial(
            self._learning.write,
            stream=trainer.stream,
            row=trainer.row,
            transitions=trainer.transitions,
            updates=self._begun.learner.gradient_steps,
            waiting=waiting,
            pending=pending,
            replay=self._begun.replay.size,
            replay_most=self._options.replay_rows,
            figures=trainer.figures,
            rewards=trainer.rewards,
            version=self._versions.newest,
            frozen=trainer.frozen,
            refused_count=trainer.refused,
            problem=trainer.problem or self._namesake or self._ahead or self._versions.problem,
            saved=trainer.checkpoints > 0,
        )
        self._put(show)

    def _sign(self) -> None:
        """Show that this process is at work, where there is a shelf already."""
        if self._learning is not None and self._shelf.is_dir():
            self._put(self._learning.sign)

    def _put(self, write: Callable[..., None]) -> None:
        try:
            write(now_ns=time.time_ns())
        except OSError as error:
            self._log("learning_not_shown", problem=str(error))

    def _is_frozen(self) -> bool:
        """True when a person froze learning: by the file next to the checkpoint, or on the shelf."""
        if (self._options.own_dir / FROZEN).exists():
            return True
        try:
            return bool(holds_of(self._shelf).frozen)
        except ModelError as error:
            if str(error) != self._held_problem:
                self._held_problem = str(error)
                self._log("ladder_held", reason=str(error))
            return True
