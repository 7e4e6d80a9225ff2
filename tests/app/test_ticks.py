"""How often a live desk looks at the time: each five seconds while it holds something around a session, else rarely."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import Any, cast

import pytest

from daemon.app.live.desk import Ticks
from daemon.core.events import Event
from daemon.core.state import State
from daemon.engine.engine import Intake
from daemon.host.time.clock import Clock
from daemon.host.time.virtual_time import Participant, VirtualLoop
from daemon.journal.writer import JournalWriter
from simulator.virtual_clock import virtual_clock
from tests.support.core.account import Account
from tests.support.core.desk import OPEN, SECOND
from tests.support.core.others import HALT, holding

MINUTE = 60 * SECOND
CLOSE = OPEN + 390 * MINUTE


class Taken:
    """Takes ticks as the intake does; nothing ever waits in it."""

    def __init__(self) -> None:
        self.times: list[int] = []

    def __len__(self) -> int:
        return 0

    def put(self, event: Event) -> None:
        self.times.append(event.time_ns)


def gaps_s(state: State[Any], begin_ns: int) -> set[int]:
    """Seconds between the ticks of the ten minutes from `begin_ns` on."""
    intake = Taken()
    with virtual_clock(begin_ns) as clock:
        joined = Participant(clock.socket, "desk")

        async def work() -> None:
            ticks = Ticks(Clock.virtual(joined), cast(Intake, intake), cast(JournalWriter, None), lambda: state)
            await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(ticks.run())), 600)

        def run() -> None:
            with asyncio.Runner(loop_factory=lambda: VirtualLoop(joined)) as runner, pytest.raises(TimeoutError):
                runner.run(work())
            joined.leave()

        thread = threading.Thread(target=run)
        thread.start()
        clock.pass_s(601.0)
        with clock.passing():
            thread.join(60.0)
    return {(later - time) // SECOND for time, later in itertools.pairwise(intake.times)}


@pytest.mark.parametrize(
    ("begin_ns", "every_s"),
    [(OPEN - 420 * MINUTE, 60), (OPEN - 25 * MINUTE, 5), (OPEN + 60 * MINUTE, 5), (CLOSE + 45 * MINUTE, 60)],
    ids=["at night", "before the open", "in the session", "after the close"],
)
def test_a_position_is_looked_at_each_five_seconds_around_a_session_and_each_minute_else(
    begin_ns: int, every_s: int
) -> None:
    assert gaps_s(holding(Account(), HALT).state, begin_ns) == {every_s}
