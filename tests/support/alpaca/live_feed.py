"""A live feed over one recorded day."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from daemon.brokers.api import Known
from tests.support.alpaca.market_desk import MINUTE, MarketDesk, desk, session

DATE = "2024-07-02"


DAY = session(DATE)


BEFORE = session("2024-07-01")


ENDED = Known(BEFORE.date, True, BEFORE.open_ns + 389 * MINUTE)


CALL, PUT = "SPY240703C00545000", "SPY240703P00545000"


@asynccontextmanager
async def live(folder: Path, start_s: float = -20.0, **settings: Any) -> AsyncIterator[MarketDesk]:
    """A feed that runs since shortly before the open (or later), with what came before caught up."""
    async with desk(folder, DATE, start_s, **settings) as it:
        await it.feed.catch_up(ENDED)
        async with it.running():
            await it.until(lambda: "stream_up" in it.log.names())
            yield it
