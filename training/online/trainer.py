"""Learn from a stream of experience, each entry once.

The checkpoint holds the learner and the row up to which it learned, in one file. What comes again is passed over, and
an entry is acknowledged after a checkpoint holds it: a trainer that is killed at any moment ends in the same weights.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from daemon.experience.experience import Experience, ForeignEntry, of_entry
from daemon.experience.link import RedisError
from daemon.host.whole_files import write_whole
from daemon.pacing.back_off import back_off_s
from training.online.consume import Consumer, NotReady
from training.online.learning import Learner
from training.online.reward import RewardAgent

CHECKPOINT, FROZEN = "trainer.pt", "frozen"
EVERY = 500  # entries between two checkpoints
WAIT_MS = 1000  # for new entries
WAIT_FIRST_S, WAIT_MOST_S = 0.5, 30.0


class Trainer:
    """One learner on one stream. `turn` reads some entries and returns how long to wait, in seconds.

    A decision is given to the learner once the next entry shows whether it follows; `row` is the newest one given. The
    file `frozen` in `folder` stops updates: experience is kept all the same.
    """

    def __init__(
        self,
        consumer: Consumer,
        stream: str,
        learner: Learner,
        rewards: RewardAgent,
        folder: Path,
        log: Callable[..., None],
        *,
        every: int = EVERY,
        boundary: Callable[[str], None] | None = None,
    ) -> None:
        """Go on from the checkpoint in `folder`; of another stream, its learner goes on at this one's begin."""
        self._consumer, self._stream, self._learner, self._rewards = consumer, stream, learner, rewards
        self._folder, self._log, self._every = folder, log, every
        self._boundary = boundary or _nothing
        self.row = 0
        self.transitions = 0
        self.frozen = False
        self._held: Experience | None = None
        self._after = 0  # the newest row that was seen, given or held
        self._begun = False
        self._saved_at = 0  # transitions at the last checkpoint
        self._sums: Counter[str] = Counter()
        self._figures: dict[str, float] = {}
        self._updates = 0
        self._failures, self._problem = 0, ""
        self._restore()

    def turn(self, wait_ms: int = WAIT_MS) -> float:
        """Read some entries and learn from them. Redis' faults never raise."""
        try:
            if not self._begun:
                self._begin()
            self._look_at_freeze()
            for row, fields in self._consumer.read(wait_ms):
                self._take(row, fields)
                if self.transitions - self._saved_at >= self._every:
                    self.save()
        except (RedisError, NotReady) as error:
            return self._failed(error)
        if self._problem:
            self._log("trainer_resumed", row=self.row)
        self._failures, self._problem = 0, ""
        return 0.0

    def save(self) -> None:
        """Write a checkpoint, then acknowledge what it holds. Raises RedisError, OSError."""
        state = {
            "stream": self._stream,
            "row": self.row,
            "transitions": self.transitions,
            "learner": self._learner.state_dict(),
        }
        data = io.BytesIO()
        torch.save(state, data)
        self._boundary("before checkpoint")
        write_whole(self._folder / CHECKPOINT, data.getvalue(), 0o640)
        self._boundary("after checkpoint")
        if self.transitions > self._saved_at:
            self._report()
        self._saved_at = self.transitions
        if self._begun:
            self._consumer.acknowledge(self.row)
        self._boundary("after acknowledgement")

    # --- where to go on -----------------------------------------------------------------------------------------------

    def _restore(self) -> None:
        path = self._folder / CHECKPOINT
        if not path.exists():
            return
        state: dict[str, Any] = torch.load(path, weights_only=True)
        self._learner.load_state_dict(state["learner"])
        if state["stream"] == self._stream:
            self.row = self._after = state["row"]
            self.transitions = self._saved_at = state["transitions"]

    def _begin(self) -> None:
        """Read from the row that was given last: what is held comes again."""
        self._held, self._after = None, self.row
        self._consumer.begin(self.row)
        self._consumer.acknowledge(self.row)  # a checkpoint held them, and its trainer was killed before this
        self._begun = True

    def _look_at_freeze(self) -> None:
        frozen = (self._folder / FROZEN).exists()
        if frozen != self.frozen:
            if self.transitions > self._saved_at:
                self.save()  # a trainer that is killed later freezes at this very row again
            self.frozen = frozen
            if frozen:
                self._log("learning_frozen", row=self.row)
            else:
                self._log("learning_resumed", row=self.row)

    # --- one entry ----------------------------------------------------------------------------------------------------

    def _take(self, row: int, fields: dict[bytes, bytes]) -> None:
        """Hold the entry's experience, and give the one held before to the learner."""
        if row <= self._after or not fields:
            return  # learned from already, or deleted: the next one shows the gap
        try:
            experience, after = of_entry(row, fields)
        except ForeignEntry as error:
            self._log("experience_refused", entry=f"{row}-0", reason=str(error))
            self._consumer.refuse(row)
            return
        whole = after <= self._after
        if not whole:
            self._log("experience_gap", after=self._after, row=row)
        if self._held is not None:
            self._give(self._held, follows=whole and experience.decision == self._held.decision + 1)
        self._held, self._after = experience, row
        if experience.terminal:
            self._give(experience, follows=False)

    def _give(self, experience: Experience, *, follows: bool) -> None:
        """Give the learner each row's transition, and let it learn."""
        width = len(experience.chosen)
        now = np.frombuffer(experience.state, dtype="<f4").reshape(width, -1)
        following = now if experience.terminal else np.frombuffer(experience.next_state, dtype="<f4").reshape(width, -1)
        for lane, (chosen, terms) in enumerate(zip(experience.chosen, self._rewards.terms(experience), strict=True)):
            self._sums.update(terms)
            self._learner.take(
                lane,
                now[lane],
                chosen.action,
                sum(terms.values()),
                following[lane],
                ended=experience.terminal or not follows,
                goes_on=not experience.terminal,
            )
        self._boundary("taken")
        figures = {} if self.frozen else self._learner.learn()
        if figures:
            self._figures, self._updates = figures, self._updates + 1
        self.row, self._held = experience.row, None
        self.transitions += width
        self._boundary("learned")

    # --- reports ------------------------------------------------------------------------------------------------------

    def _report(self) -> None:
        self._log(
            "learned",
            row=self.row,
            transitions=self.transitions - self._saved_at,
            updates=self._updates,
            rewards=dict(self._sums),
            figures=self._figures,
        )
        self._sums, self._updates = Counter(), 0

    def _failed(self, error: Exception) -> float:
        """Log a new problem once; returns the wait before the next attempt."""
        self._begun = False
        self._failures += 1
        text = str(error)
        if text != self._problem:
            self._log("trainer_delayed", problem=text)
        self._problem = text
        return back_off_s(self._failures, WAIT_FIRST_S, WAIT_MOST_S)


def _nothing(_: str) -> None:
    """Do nothing."""
