"""The broker's clock for a stopped desk: the time that `rltraderctl reset-clock` sets.

Needs the configuration and the keys. Sends no order and uses no clock of this host.
"""

from __future__ import annotations

import asyncio

from daemon.brokers.api import BrokerError, alone
from daemon.brokers.registry import broker_of
from daemon.cli.arguments import NotFound
from daemon.config.load import Credentials, DeskSettings
from daemon.host.time.clock import Clock


def broker_now_ns(settings: DeskSettings, keys: Credentials) -> int:
    """Return the broker's time, nanoseconds UTC. Raises NotFound if it does not answer."""
    return asyncio.run(_asked(settings, keys))


async def _asked(settings: DeskSettings, keys: Credentials) -> int:
    broker = broker_of(settings)
    connection = alone(broker, settings, keys, Clock.real())
    try:
        return (await connection.admin.clock()).now_ns
    except BrokerError as error:
        raise NotFound(
            f"the broker's clock at {broker.service(settings)} cannot be asked: {error}: nothing was changed; "
            f"try again when it answers"
        ) from None
    finally:
        await connection.close()
