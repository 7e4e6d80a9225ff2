"""Wait for the first model of a desk whose store has none yet: its trainer is still making it.

Before there is a journal nothing is held, so nothing has to be watched. Whoever names a version first decides: without
a pointer the oldest version that passes the store's checks becomes `current`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from daemon.config.load import Settings
from daemon.config.strategy import strategy_of
from daemon.engine.segments import standing
from daemon.host.service import Service
from daemon.models.pointer import CURRENT, ModelError, foreign, point
from daemon.models.store import check_rules, load, versions
from daemon.operator.log import Log
from strategies.kit.contract import AnyStrategy
from strategies.kit.manifest import MANIFEST_FILE

WHO, WHY = "rltraderd", "the first version"
LOOK_S = 5.0  # between two looks; systemd's watchdog is fed at each


def wait_for_first(settings: Settings, log: Log, service: Service, pause: Callable[[float], None] = time.sleep) -> None:
    """Return once there is a model to start with; at once unless `policy.wait_for_first` is set.

    A desk with a journal does not wait: its model is missing while positions may be open, and a person has to look.

    Raises:
        ConfigError: the settings name no strategy.
        OSError: the store cannot be written.
    """
    if not settings.policy.wait_for_first or standing(settings.paths.state_dir).exists():
        return
    strategy, told = strategy_of(settings), ""
    while (problem := _look(settings, strategy, log)) is not None:
        if problem != told:
            log("no_model", reason=problem)
            service.ready()
            service.status(f"no model: {problem}")
            told = problem
        service.watchdog()
        pause(LOOK_S)


def _look(settings: Settings, strategy: AnyStrategy, log: Log) -> str | None:
    """Return why there is no model yet; None where one is named, or has just been."""
    name, store, wanted = strategy.spec.name, settings.paths.models_dir, settings.policy.version
    shelf = store / name
    if (shelf / wanted).exists() and not (wanted == CURRENT and foreign(shelf / wanted)):
        return None
    if wanted != CURRENT:
        return f"{shelf} has no version {wanted} yet"
    problem = f"{shelf} has no version yet: its trainer makes the first one"
    for version in _oldest_first(settings, name):
        try:
            check_rules(load(store, strategy, version, settings.policy.public_key), strategy, settings.trading())
        except ModelError as error:
            problem = str(error)
            continue
        point(shelf, CURRENT, version, who=WHO, why=WHY, now_ns=time.time_ns())
        log("first_model", version=version)
        return None
    return problem


def _oldest_first(settings: Settings, strategy: str) -> list[str]:
    shelf, found = settings.paths.models_dir / strategy, []
    for version in versions(settings.paths.models_dir, strategy):
        with contextlib.suppress(OSError):
            found.append(((shelf / version / MANIFEST_FILE).stat().st_mtime_ns, version))
    return [version for _, version in sorted(found)]
