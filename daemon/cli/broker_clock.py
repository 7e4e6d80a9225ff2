"""The broker's clock for a stopped desk: what `rltraderctl reset-clock` may lead its journal back to.

Needs the configuration and the keys; sends nothing, and believes no clock of this host.
"""

from __future__ import annotations

import asyncio

from daemon.brokers.alpaca import wire
from daemon.brokers.alpaca.assemble import accesses
from daemon.brokers.alpaca.rest.errors import RestError
from daemon.brokers.alpaca.rest.lanes import account_lanes
from daemon.brokers.alpaca.trading.trading import TradingReads
from daemon.cli.explain import NotFound
from daemon.config.load import Credentials, Settings
from daemon.host.clock import Clock


def broker_now_ns(settings: Settings, keys: Credentials) -> int:
    """The broker's time now, nanoseconds UTC. Raises NotFound where it cannot be asked."""
    return asyncio.run(_asked(settings, keys))


async def _asked(settings: Settings, keys: Credentials) -> int:
    lanes = account_lanes(Clock.real())
    try:
        reads = TradingReads(accesses(settings, keys)[1], lanes[1])
        return wire.time_ns((await reads.clock()).get("timestamp"))
    except (RestError, wire.Malformed) as error:
        raise NotFound(
            f"the broker's clock at {settings.address('trading_url')} cannot be asked: {error}: nothing was changed; "
            f"try again when it answers"
        ) from None
    finally:
        for lane in lanes:
            await lane.close()
