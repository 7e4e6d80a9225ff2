"""The parts of one desk at the loopback Alpaca: which calls share a lane, and which wait for no other."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from daemon.brokers.alpaca.assemble import BROKER
from daemon.brokers.alpaca.market.feed import LiveFeed
from daemon.brokers.api import FeedDesk
from daemon.config.load import Credentials, load
from daemon.core.events import SessionScheduled
from daemon.core.state import State
from daemon.host.time.clock import Clock
from simulator.clock import SimClock
from simulator.server import AlpacaServer, RunningServer
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET
from strategies.registry import strategy
from tests.support.alpaca.market_desk import calendar
from tests.support.alpaca.rest_desk import MINUTE_NS, OPEN_NS, eventually, market
from tests.support.desks.live_desk import write_config


def unheard(event: str, /, **fields: object) -> None:
    """A log that nobody reads."""


def no_state() -> State[Any]:
    raise AssertionError("a feed of bars looks at no state")


async def settled() -> None:
    """Nothing was put."""


@pytest.mark.host_time
async def test_a_list_of_contracts_that_does_not_come_holds_up_nothing_that_is_asked_of_the_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("RLTRADER_")]:
        monkeypatch.delenv(name)
    sim = SimClock.starting_now(OPEN_NS + 2 * MINUTE_NS, 1.0)
    clock = Clock.simulated(sim.anchor_unix_s, sim.sim_start_ns, 1.0)
    keys = Credentials(api_key_id=SecretStr(DEFAULT_KEY), api_secret_key=SecretStr(DEFAULT_SECRET))
    scheduled = SessionScheduled(0, *calendar().around("2024-07-02"))
    async with AlpacaServer(market(), sim) as server:
        serving = RunningServer(server, asyncio.get_running_loop())
        settings = load(write_config(tmp_path / "config.toml", serving, sim, tmp_path / "state"), {})
        parts = BROKER.connect(settings, keys, clock, lambda _: None, unheard)
        feed = parts.market_feed(FeedDesk(strategy("option_scalper"), calendar(), tmp_path, no_state, settled))
        assert isinstance(feed, LiveFeed)
        assert feed._options is not None
        chain = feed._options.chain
        server.faults.add("http_hang", seconds=60, where={"path": "/v2/options/contracts"})
        listing = asyncio.create_task(chain.listed(scheduled, 545.0, clock.now_ns))
        await eventually(lambda: server.faults.met["http_hang"] == 1)
        await parts.admin.clock()
        held_up = listing.done()
        listing.cancel()
        await asyncio.gather(listing, return_exceptions=True)
    await parts.close()
    assert not held_up
