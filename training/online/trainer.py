"""Learn from a stream of experience, each entry once.

The checkpoint holds the learner and the row up to which it learned, in one file. Repeated entries are skipped, and an
entry is acknowledged after a checkpoint holds it: a trainer killed at any moment ends in the same weights.
"""

from __future__ import annotations

import io
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import torch

from daemon.experience.experience import STATE_MOST, Experience, ForeignEntry, of_entry
from daemon.experience.link import RedisError
from daemon.host.whole_files import write_whole
from daemon.pacing import back_off_s
from strategies.kit.contract import Float32Array
from training.online.consume import Consumer, NotReady, held_by
from training.online.labels import HeadLabels
from training.online.reward import RewardAgent

# The interfaces of a learner and of its watcher.


class Stateful(Protocol):
    """Something whose state belongs to the trainer's checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """All that what follows depends on, generators too: tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""


class TransitionLearner(Stateful, Protocol):
    """Takes transitions one at a time, in the stream's order. What it becomes depends on them and on its seed alone."""

    def take(
        self,
        lane: int,
        observation: Float32Array,
        action: int,
        reward: float,
        following: Float32Array,
        *,
        ended: bool,
        goes_on: bool,
        labels: Sequence[float] = (),
    ) -> None:
        """Keep a transition of a lane (a symbol).

        `ended`: the lane's next transition does not follow from this one. `goes_on`: the next state has a value.
        `labels`: targets of the heads, NaN where unknown.
        """

    def learn(self) -> dict[str, float]:
        """Make the updates that are due by count (never by time); return their figures, empty without an update."""


class Watcher(Stateful, Protocol):
    """Gets each decision after the learner, exactly once with respect to checkpoints."""

    def look(
        self, experience: Experience, rewards: Sequence[float], *, stream: str, follows: bool, frozen: bool
    ) -> bool:
        """See a decision with the reward of each row; returns whether a checkpoint should be written now.

        `follows`: the session's next decision is known as well. `frozen`: nothing was learned from it.
        """


CHECKPOINT, FROZEN, REFUSED = "trainer.pt", "frozen", "refused"
REFUSED_MOST, REFUSED_BYTES = 100, 2**20  # most entries kept aside (the oldest is dropped), and most bytes of each
EVERY = 500  # transitions between two checkpoints
WAIT_MS = 1000  # for new entries
WAIT_FIRST_S, WAIT_MOST_S = 0.5, 30.0
_FAILURES: tuple[type[Exception], ...] = (Exception,)  # torch's exceptions share no other base


class CheckpointUnreadable(ValueError):
    """The checkpoint is damaged, no checkpoint, or has other parts than this release."""


class StreamTrainer:
    """One learner on one stream at a time. `turn` reads some entries and returns how long to wait, in seconds.

    A decision goes to the learner once it is known whether the next one follows, and with `labels` once the bars that
    its heads look ahead are known; `row` is the newest one given. Decisions not yet given are read again after a
    restart. While frozen, experience is stored without updates.
    """

    def __init__(
        self,
        connect: Callable[[str], Consumer],
        stream: str,
        learner: TransitionLearner,
        rewards: RewardAgent,
        folder: Path,
        log: Callable[..., None],
        *,
        every: int = EVERY,
        shape: tuple[int, ...] = (),
        actions: int = 0,
        symbols: tuple[str, ...] = (),
        state_most: float = STATE_MOST,
        labels: HeadLabels | None = None,
        watcher: Watcher | None = None,
        frozen: Callable[[], bool] | None = None,
        check: Callable[[], None] | None = None,
        boundary: Callable[[str], None] | None = None,
    ) -> None:
        """Go on from the checkpoint in `folder`; of another stream, its learner goes on at this one's begin.

        Args:
            connect: the consumer of a stream.
            stream: "" for that of the checkpoint, or none yet.
            every: transitions between two checkpoints; `most_between` is how many there can be.
            shape: of the observations that the learner takes, rows and their width; () for any.
            actions: from which a row's choice was made; 0 for any.
            symbols: of the desk, in the order of its rows; () for any.
            state_most: the largest number that an observation of the desk can have.
            frozen: whether learning is frozen now; by default while the file `frozen` is in `folder`.
            check: raises where this trainer may not learn any more; asked before each entry, checkpoint and
                acknowledgement.
        """
        self._connect, self._learner, self._rewards = connect, learner, rewards
        self._folder, self._log, self._every = folder, log, every
        self._shape, self._actions, self._labels, self._watcher = shape, actions, labels, watcher
        self._symbols, self._state_most = symbols, state_most
        self._check = check or _nothing
        self.refused = 0  # entries, since this process began
        self.taken = 0  # entries that another consumer read meanwhile, since this process began
        self._is_frozen = frozen or (folder / FROZEN).exists
        self._boundary = boundary or _nothing
        self.stream = stream
        self.row = 0
        self._held = 0  # the newest row given to the learner that a checkpoint holds
        self.newest_ns = -1  # bar of the newest decision seen on this stream
        self.transitions = 0
        self.updates = 0  # since this process began
        self.checkpoints = 0
        self.figures: dict[str, float] = {}  # of the newest update
        self.rewards: dict[str, float] = {}  # sums of the terms between the last two checkpoints
        self.frozen = False
        self.problem = ""
        self.caught_up = False  # the last turn found nothing new
        self._waiting: deque[Experience] = deque()  # decisions not given yet, without a gap
        self._ahead = max(1, labels.ahead if labels else 0)
        self._after = 0  # the newest row of a decision that was seen, given or not
        self._looked = self._told_taken = 0  # the newest row that was seen, and of those that another one read
        self._former: dict[str, tuple[int, int]] = {}  # row and bar of the newest decision of earlier streams
        self._begun = False
        self._wants_checkpoint = False
        self._saved_at = self._updated_at = 0  # transitions and updates at the last checkpoint
        self._sums: Counter[str] = Counter()
        self._failures = 0
        self._restore()
        self._consumer = connect(self.stream) if self.stream else None

    def turn(self, wait_ms: int = WAIT_MS) -> float:
        """Read some entries and learn from them. Redis' faults never raise.

        Raises:
            OSError: a checkpoint cannot be written.
            Exception: what `check` raises.
        """
        if self._consumer is None:
            return WAIT_FIRST_S
        try:
            if not self._begun:
                self._begin(self._consumer)
            self._look_at_freeze()
            entries = self._consumer.read(wait_ms)
            for row, fields in entries:
                self._take(self._consumer, row, fields)
            if not entries:
                self._take_missed(self._consumer, None)
        except (RedisError, NotReady) as error:
            return self._failed(error)
        if self.problem:
            self._log("trainer_resumed", row=self.row)
        self._failures, self.problem, self.caught_up = 0, "", not entries
        return 0.0

    def turn_to(self, stream: str) -> None:
        """Give the present stream's last decisions, leave it, and learn from the new entries of `stream`.

        Raises:
            RedisError: the old one cannot be acknowledged: call it again.
        """
        if self.stream:
            self._give_all()
            self.save()
        self._former[self.stream] = (self.row, self.newest_ns)
        self.stream, self._consumer = stream, self._connect(stream)
        self.row, self.newest_ns = self._former.pop(stream, (0, -1))
        self._after = self._looked = self._told_taken = self.row
        self._begun = self.caught_up = False
        self.save()

    def save(self) -> None:
        """Write a checkpoint, then acknowledge what it holds. Raises RedisError, OSError, and what `check` raises."""
        self._check()
        state = {
            "stream": self.stream,
            "row": self.row,
            "newest_ns": self.newest_ns,
            "former": dict(self._former),
            "transitions": self.transitions,
            "learner": self._learner.state_dict(),
        } | ({} if self._watcher is None else {"watcher": self._watcher.state_dict()})
        data = io.BytesIO()
        torch.save(state, data)
        self._boundary("before checkpoint")
        write_whole(self._folder / CHECKPOINT, data.getvalue(), 0o640)
        self._held = self.row
        self._boundary("after checkpoint")
        if self.transitions > self._saved_at:
            self._report()
        self._saved_at, self._wants_checkpoint = self.transitions, False
        self.checkpoints += 1
        if self._begun and self._consumer is not None:
            self._acknowledge(self._consumer, self.row)
        self._boundary("after acknowledgement")

    # --- where to go on -----------------------------------------------------------------------------------------------

    def _restore(self) -> None:
        path = self._folder / CHECKPOINT
        if not path.exists():
            return
        try:
            self._go_on_from(torch.load(path, weights_only=True))
        except OSError:
            raise
        except _FAILURES as error:  # damaged, or of a release or settings that has other parts
            first = str(error).partition("\n")[0][:200]
            raise CheckpointUnreadable(
                f"{path} cannot be read ({type(error).__name__}: {first}): restore it, or begin anew with an empty "
                "--own-dir"
            ) from None

    def _go_on_from(self, state: dict[str, Any]) -> None:
        self._learner.load_state_dict(state["learner"])
        if self._watcher is not None:
            self._watcher.load_state_dict(state["watcher"])
        self.transitions = self._saved_at = state["transitions"]
        self._former = {**state["former"], state["stream"]: (state["row"], state["newest_ns"])}
        self.stream = self.stream or state["stream"]
        self.row, self.newest_ns = self._former.pop(self.stream, (0, -1))
        self._after = self._looked = self._held = self.row

    def _begin(self, consumer: Consumer) -> None:
        """Read from the checkpoint's row: decisions given since are skipped, waiting ones are read again."""
        self._waiting.clear()
        self._after = self._looked = self.row
        consumer.begin(self._held)
        self._acknowledge(consumer, self._held)  # its trainer was killed before this
        self._begun = True

    def _acknowledge(self, consumer: Consumer, row: int) -> None:
        """Acknowledge what a checkpoint holds, if this trainer has the lease; else a successor has read it."""
        self._check()
        consumer.acknowledge(row)

    def _look_at_freeze(self) -> None:
        frozen = self._is_frozen()
        if frozen != self.frozen:
            if self.transitions > self._saved_at:
                self.save()  # a trainer that is killed later freezes at this very row again
            self.frozen = frozen
            if frozen:
                self._log("learning_frozen", row=self.row)
            else:
                self._log("learning_resumed", row=self.row)

    # --- one entry ----------------------------------------------------------------------------------------------------

    def _take(self, consumer: Consumer, row: int, fields: dict[bytes, bytes]) -> None:
        """Queue the entry's experience until its successors are known, and give the learner those that are ready."""
        if row <= self._after or row < self._looked or not fields:
            return  # given already, or deleted: the next entry reveals the gap
        self._check()
        session_row, unfit = row, ""
        try:
            experience, session_row = of_entry(row, fields)
        except ForeignEntry as error:
            unfit = str(error)
        if session_row > self._looked:
            self._take_missed(consumer, row)
        self._looked = row
        if unfit := unfit or self._unfit(experience):
            self._refuse(consumer, row, fields, unfit)
            return
        whole = session_row <= self._after
        if not whole:
            self._log("experience_gap", after=self._after, row=row)
        if self._waiting and not (whole and experience.decision == self._waiting[-1].decision + 1):
            self._give_all()
        self._waiting.append(experience)
        self._after, self.newest_ns = row, experience.bar_ns
        if experience.terminal:
            self._give_all()
        elif len(self._waiting) > self._ahead:
            self._give()
        self._save_if_due()

    def _take_missed(self, consumer: Consumer, before_row: int | None) -> None:
        """Take the entries that another consumer read, in order. Raises NotReady while that consumer holds them."""
        missed, holders = consumer.missed(self._looked, before_row)
        while missed:
            if missed[-1][0] > self._told_taken:
                count = sum(row > self._told_taken for row, _ in missed)
                self.taken += count
                self._log("experience_taken", entries=count, by=holders or "another", taken=self.taken)
                self._told_taken = missed[-1][0]
            if holders:
                raise held_by(self.stream, holders)
            for row, fields in missed:
                self._take(consumer, row, fields)
            missed, holders = consumer.missed(max(self._looked, missed[-1][0]), before_row)

    def _unfit(self, experience: Experience) -> str:
        """Return why the learner cannot take it, "" where it can."""
        if not self._shape:
            return ""
        if experience.shape != self._shape:
            return (
                f"observations of the shape {experience.shape}, expected {self._shape} (symbols, numbers of each): is "
                "this the desk's model configuration (--symbols, --model-config)?"
            )
        rows = len(experience.chosen), len(experience.holdings)
        if rows != (self._shape[0], self._shape[0]):
            return f"{rows[0]} choices and {rows[1]} holdings, expected {self._shape[0]}"
        actions = {len(chosen.probabilities) for chosen in experience.chosen}
        if self._actions and actions != {self._actions}:
            return f"one of {sorted(actions)} actions, expected {self._actions}"
        symbols = tuple(holding.symbol for holding in experience.holdings)
        if self._symbols and symbols != self._symbols:
            return f"the symbols {', '.join(symbols)}, expected {', '.join(self._symbols)}"
        most = max(
            np.abs(np.frombuffer(data, "<f4")).max(initial=0.0) for data in (experience.state, experience.next_state)
        )
        if most > self._state_most:
            return f"an observation of {most:g}, expected at most {self._state_most:g}"
        return ""

    def _refuse(self, consumer: Consumer, row: int, fields: dict[bytes, bytes], reason: str) -> None:
        """Keep an entry aside that nothing is learned from, count it and go on."""
        self.refused += 1
        self._log("experience_refused", entry=f"{row}-0", reason=reason[:300], refused=self.refused)
        aside = self._folder / REFUSED
        try:
            aside.mkdir(exist_ok=True)
            data = msgspec.msgpack.encode(fields)[:REFUSED_BYTES]
            write_whole(aside / f"{self.refused % REFUSED_MOST:03}.msgpack", data, 0o640)
        except OSError as problem:
            self._log("refused_not_kept", problem=str(problem))
        consumer.refuse(row)

    def _give_all(self) -> None:
        """Give the learner all decisions that wait; nothing follows the last one."""
        while self._waiting:
            self._give()

    def _give(self) -> None:
        """Give the learner the rows of the oldest decision that waits, and let it learn."""
        experience = self._waiting.popleft()
        follows = bool(self._waiting)
        width = len(experience.chosen)
        now = _observations(experience.state, width)
        following = now if experience.terminal else _observations(experience.next_state, width)
        terms = self._rewards.terms(experience)
        labels = [()] * width if self._labels is None else self._labels.of(experience, tuple(self._waiting))
        for lane, chosen in enumerate(experience.chosen):
            self._learner.take(
                lane,
                now[lane],
                chosen.action,
                sum(terms[lane].values()),
                following[lane],
                ended=not follows,
                goes_on=not experience.terminal,
                labels=labels[lane],
            )
            self._sums.update(terms[lane])
        self._boundary("taken")
        figures = {} if self.frozen else self._learner.learn()
        if figures:
            self.figures, self.updates = figures, self.updates + 1
        if self._watcher is not None:
            rewards = [sum(parts.values()) for parts in terms]
            self._wants_checkpoint |= self._watcher.look(
                experience, rewards, stream=self.stream, follows=follows, frozen=self.frozen
            )
        self.row = experience.row
        self.transitions += width
        self._boundary("learned")

    def _save_if_due(self) -> None:
        if self._wants_checkpoint or self.transitions - self._saved_at >= self._every:
            self.save()

    # --- reports ------------------------------------------------------------------------------------------------------

    def _report(self) -> None:
        self.rewards = dict(self._sums)
        self._log(
            "learned",
            row=self.row,
            transitions=self.transitions - self._saved_at,
            updates=self.updates - self._updated_at,
            rewards=self.rewards,
            figures=self.figures,
        )
        self._sums, self._updated_at = Counter(), self.updates

    def _failed(self, error: Exception) -> float:
        """Log a new problem once; returns the wait before the next attempt."""
        self._begun = self.caught_up = False
        self._failures += 1
        text = str(error)
        if text != self.problem:
            self._log("trainer_delayed", problem=text)
        self.problem = text
        return back_off_s(self._failures, WAIT_FIRST_S, WAIT_MOST_S)


def most_between(every: int, labels: HeadLabels, lanes: int) -> int:
    """Return the most transitions between two checkpoints: at a session's end all waiting ones are given at once."""
    return every + (labels.ahead + 2) * lanes


def _observations(data: bytes, width: int) -> Float32Array:
    return np.frombuffer(data, dtype="<f4").reshape(width, -1).copy()  # torch takes no memory that is read-only


def _nothing(_: str = "") -> None:
    """Do nothing."""
