"""The work of the trainer's command in this process, which ends when a script of conditions is done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from daemon.host.service import Service
from strategies.online_dqn.state_vector import read_file, shipped
from tests.support.outside.stream import LIMIT_S, Logged
from training.online.__main__ import parser
from training.online.reward import RewardAgent
from training.online.work import LearningProcess, Pulse

WORK_LIMIT_S = 3 * LIMIT_S  # of one step, a cold start included


class Script(threading.Event):
    """In place of the signal that stops: at each look it goes on to the next step whose condition holds."""

    def __init__(self, steps: Iterator[Callable[[], bool]]) -> None:
        super().__init__()
        self._steps = steps
        self._waits_for = next(steps)
        self._end = time.monotonic() + WORK_LIMIT_S

    def is_set(self) -> bool:
        """Whether all steps are done."""
        assert time.monotonic() < self._end, "it did not come"
        while self._waits_for():
            following = next(self._steps, None)
            if following is None:
                return True
            self._waits_for, self._end = following, time.monotonic() + WORK_LIMIT_S
        return False


def work(given: list[str], client: Any, logged: Logged, steps: Iterator[Callable[[], bool]]) -> None:
    """Run the command's work until the steps are done."""
    pulse = Pulse(Service())
    options = parser().parse_args(given)
    config = read_file(options.model_config) if options.model_config else shipped()
    LearningProcess(
        options, client, config, RewardAgent(dict(options.reward) or None), logged.log, pulse, Script(steps)
    ).run()
    pulse.close()
