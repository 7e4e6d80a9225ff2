"""How long an exit that leaves no shares waits for its report: part of `make bench`.

The real step, link and REST queues in one process with the loopback broker: from the step that decides the exit to the
moment at which its order's bytes arrive. The report that it waits for is read meanwhile, one request after another.
The commits to the journal are left out: `bench_latency` has them. Reference, in alternation: a bare read of the
positions and a bare submission over the same clients. With `--round-trip-ms` each answer comes that much later, as
over a network. Half of the exits fall into the pause that follows another report. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from aiohttp import web
from msgspec.structs import replace

from bench.bench_latency import percentiles
from daemon.alpaca_api.trading_rest import TradingRest
from daemon.brokers.alpaca.trading.link import Timeouts
from daemon.brokers.api import BrokerError
from daemon.core import events as ev
from daemon.core.effects import AskBroker, SubmitOrder
from daemon.core.limits import Broker, Trading
from daemon.core.state import Identity, State
from daemon.core.step import Core
from tests.support.alpaca.linked import Linked, linked
from tests.support.alpaca.rest_desk import SESSIONS
from tests.support.core.share_bars import ShareBars

SHARES = 10
GAP_S = 4.5  # real: longer than the pause that a report makes at least, and within 200 requests a minute


class Arrivals:
    """When submissions reached the broker, which refuses them: the position stays for the next exit."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}

    def install(self) -> None:
        submit = TradingRest.submit

        async def submitting(trading: TradingRest[Any], request: web.Request) -> web.Response:
            self.at[json.loads(await request.text())["client_order_id"]] = time.monotonic()
            return await submit(trading, request)

        TradingRest.submit = submitting  # type: ignore[method-assign,assignment]


async def measure(exits: int, round_trip_s: float) -> dict[str, Any]:
    """All figures of so many exits."""
    arrivals = Arrivals()
    arrivals.install()
    waited: list[float] = []
    bare: list[float] = []
    chance = random.Random(1)
    async with linked(Timeouts()) as it:
        it.desk.server.by_hand("place", symbol="SPY", qty=str(SHARES), side="buy", time_in_force="day", type="market")
        core, holding = await _holding(it)
        it.desk.server.faults.add("order_refused", times=1_000_000, status=403, code=40310000, message="kept")
        if round_trip_s:
            it.desk.server.faults.add("http_slow", times=1_000_000, seconds=round_trip_s)
        for number in range(exits):
            await asyncio.sleep(GAP_S if number % 2 else chance.uniform(0.0, GAP_S))
            waited.append(await _exit(it, core, holding, f"e1-scalper-{number}-1-0", arrivals))
            began = time.monotonic()
            await it.desk.reads.positions()
            with contextlib.suppress(BrokerError):
                await it.desk.orders.submit(_order(f"e1-scalper-{number}-9-9"))
            bare.append(arrivals.at[f"e1-scalper-{number}-9-9"] - began)
    return {
        "exits": exits,
        "round_trip_ms": round_trip_s * 1e3,
        "decided_to_arrived": percentiles(waited),
        "reference_one_read_and_the_order": percentiles(bare),
    }


async def _holding(it: Linked) -> tuple[Core, State[Any]]:
    """The step's state with the shares as its own, reconciled with the broker."""
    core = Core(ShareBars())
    state = core.start(Identity("live", "d", "scalper", "e1", "sip"), Trading(broker=Broker(foreign_orders="adopt")))
    now_ns = it.desk.clock.now_ns()
    await until(lambda: bool(it.desk.server.account.positions) and not it.desk.server.account.working)
    it.link.stepped(ev.ClockTicked(now_ns), [AskBroker("the beginning", at_once=True)])
    await _report(it, len(it.of(ev.BrokerReported)))
    session = SESSIONS[0]
    for event in (
        ev.ModelVerified(now_ns, "v1", "d", promoted=True, feed="sip"),
        ev.SessionScheduled(now_ns, session, tuple(SESSIONS[1:])),
        it.of(ev.BrokerReported)[-1],
    ):
        state = core.step(state, event).state
    if state.book.positions["SPY"].quantity != SHARES:
        raise RuntimeError(f"holds {state.book.positions}, expected {SHARES} SPY")
    return core, state


async def _exit(it: Linked, core: Core, holding: State[Any], name: str, arrivals: Arrivals) -> float:
    """Decide an exit; seconds until its order arrives at the broker."""
    reports = len(it.of(ev.BrokerReported))
    began = time.monotonic()
    event = ev.FlattenRequested(it.desk.clock.now_ns(), "bench", "bench")
    step = core.step(holding, event)
    it.link.stepped(event, step.effects)
    orders: list[SubmitOrder] = []
    while not orders:
        report = await _report(it, reports)
        step = core.step(step.state, report)
        reports += 1
        orders = [replace(effect, client_order_id=name) for effect in step.effects if isinstance(effect, SubmitOrder)]
    if orders[0].closing:
        raise RuntimeError("the report came too late: the exit left by the broker's own call")
    await it.link.release(orders)
    await until(lambda: name in arrivals.at)
    return arrivals.at[name] - began


async def _report(it: Linked, number: int) -> ev.BrokerReported:
    await until(lambda: len(it.of(ev.BrokerReported)) > number)
    return it.of(ev.BrokerReported)[number]


def _order(name: str) -> SubmitOrder:
    return SubmitOrder(name, "SPY", -1, SHARES, Decimal(1), "", 2**62)


async def until(reached: Callable[[], bool]) -> None:
    """Return within a fifth of a millisecond of it. Raises TimeoutError after a minute."""
    async with asyncio.timeout(60):
        while not reached():  # noqa: ASYNC110 - what is looked at has no event
            await asyncio.sleep(0.0002)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exits", type=int, default=60)
    parser.add_argument("--round-trip-ms", type=float, default=30.0)
    options = parser.parse_args()
    figures = [asyncio.run(measure(options.exits, delay / 1e3)) for delay in (0.0, options.round_trip_ms)]
    print(json.dumps({"exit_that_waits_for_a_report": figures}, indent=1))


if __name__ == "__main__":
    main()
