"""How a live desk stops: a clean stop within its deadline, and standing down after `rltraderctl panic`."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from daemon.app.live.prepare import Live
from daemon.app.live.ticks import Ticks
from daemon.core.events import PanicFailed, PanicNoticed, StopRequested
from daemon.core.state import State
from daemon.engine.engine import Engine
from daemon.engine.intake import Intake
from daemon.host.panic_marker import noticed, obey
from daemon.operator.log import Log


def stop_at_signals(stop: Callable[[str], Coroutine[Any, Any, None]]) -> list[asyncio.Task[None]]:
    """Run `stop(name)` on this loop at the first SIGTERM or SIGINT; the list holds its task from then on."""
    loop, stops = asyncio.get_running_loop(), list[asyncio.Task[None]]()

    def at_signal(name: str) -> None:
        if not stops:
            stops.append(loop.create_task(stop(name), name="stop"))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, at_signal, number.name)
    return stops


async def stop_cleanly(name: str, live: Live, engine: Engine, intake: Intake, ticks: Ticks, log: Log) -> None:
    """Cancel entries and, with `broker.on_stop = "flatten"`, close positions; then end, or at the deadline."""
    rules = live.settings
    flatten = rules.broker.on_stop == "flatten"
    engine.stopped_by = name
    intake.put(StopRequested(live.clock.now_ns(), name, flatten))
    try:
        async with asyncio.timeout(rules.service.stop_deadline_s):
            await ticks.probe()
            await ticks.until(lambda state: settled(state, flatten=flatten))
    except TimeoutError:
        log("stop_late", open=open_things(engine.machine.state))
    held = [f"{p.quantity} {p.symbol}" for p in engine.machine.state.book.positions.values()]
    if held and not live.dry_run:
        log("positions_kept", positions=held)
    intake.end()


class StandDown:
    """Stops all orders of the desk in `folder` once `rltraderctl panic` has written its file there, and while it lives.

    What a failed panic leaves is the desk's to close.
    """

    def __init__(self, folder: Path, live: Live, engine: Engine, intake: Intake, ticks: Ticks) -> None:
        self._folder, self._live, self._engine, self._intake, self._ticks = folder, live, engine, intake, ticks

    def at_start(self) -> None:
        """Stand down if the file is there. Run it before any other outside event. A desk that sends nothing goes on."""
        if not self._live.dry_run and (who := noticed(self._folder)):
            self._stand_down(who)

    def _stand_down(self, who: str) -> None:
        broker = self._engine.machine.state.broker
        if not broker.stood_down or broker.accept_ns or broker.panic_failed_ns:
            self._intake.put(PanicNoticed(self._live.clock.now_ns(), who))

    def _failed(self, why: str) -> None:
        self._intake.put(PanicFailed(self._live.clock.now_ns(), why))

    async def run(self) -> None:
        """Watch for the file."""
        if not self._live.dry_run:
            await self._engine.started.wait()
            await obey(self._folder, self._stand_down, self._failed, self._ticks.probe)


def settled(state: State[Any], *, flatten: bool) -> bool:
    """Return True when a clean stop has nothing left to wait for."""
    session = state.session.session
    trading = session is not None and session.open_ns <= state.now_ns < session.close_ns
    if flatten and trading:
        return (
            not state.orders
            and not state.works
            and not any(position.right for position in state.book.positions.values())
        )
    own = [order for order in state.orders.values() if order.purpose != "foreign"]
    return not any(order.purpose == "entry" or order.work not in state.works for order in own)


def open_things(state: State[Any]) -> list[str]:
    orders = [f"order {name} {order.status}" for name, order in state.orders.items()]
    return orders + [f"position {p.quantity} {p.symbol}" for p in state.book.positions.values()]
