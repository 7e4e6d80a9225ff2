"""The brokers by name, one line each. A broker's folder is imported on a desk's first use, never in a replay."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Coroutine
from typing import cast
from urllib.parse import urlsplit

from daemon.brokers.api import Broker, GuardedAccount
from daemon.config.checks import LOOPBACK
from daemon.config.load import ConfigError, Credentials, DeskSettings
from daemon.host.time.clock import Clock

BROKERS: dict[str, str] = {
    "alpaca": "daemon.brokers.alpaca.assemble",
}
"""Name in `desk.broker` -> the module whose `BROKER` it is."""


TRIALS: dict[str, str] = {
    "alpaca": "daemon.brokers.alpaca.trial",
}
"""Name in `desk.broker` -> the module whose `trial` is `rltraderctl try-protection`."""
Trial = Callable[[DeskSettings, Credentials, str, Callable[[str], None]], Coroutine[None, None, int]]


def trial_of(settings: DeskSettings) -> Trial:
    """Return what tries stops that rest at the desk's broker. Raises ConfigError where nothing does."""
    name = settings.desk.broker
    if name not in TRIALS:
        raise ConfigError(f"desk.broker is {name!r}: stops that rest can be tried at {', '.join(TRIALS)} alone")
    return cast("Trial", importlib.import_module(TRIALS[name]).trial)


GUARDS: dict[str, str] = {
    "alpaca": "daemon.brokers.alpaca.guarded",
}
"""Name in `desk.broker` -> the module whose `guarded` is the account as `rltrader-guard` sees it."""
Guarded = Callable[[DeskSettings, Credentials, Clock], GuardedAccount]


def guarded_account(settings: DeskSettings, keys: Credentials, clock: Clock) -> GuardedAccount:
    """Return the desk's account for a guard. Raises ConfigError for a broker that no guard knows."""
    name = settings.desk.broker
    if name not in GUARDS:
        raise ConfigError(f"desk.broker is {name!r}: a guard knows {', '.join(GUARDS)} alone")
    return cast("Guarded", importlib.import_module(GUARDS[name]).guarded)(settings, keys, clock)


def broker_of(settings: DeskSettings) -> Broker:
    """Return the desk's broker. Raises ConfigError for an unknown one, and for simulated time at a real one."""
    name, clock = settings.desk.broker, settings.clock
    if name not in BROKERS:
        raise ConfigError(f"desk.broker is {name!r}: expected one of {', '.join(BROKERS)}")
    broker = cast("Broker", importlib.import_module(BROKERS[name]).BROKER)
    if clock.sim_start or clock.socket:
        for address in broker.services(settings):
            if urlsplit(address).hostname not in LOOPBACK:
                raise ConfigError(f"clock is simulated, and the broker is at {address}: expected one on this machine")
    return broker
