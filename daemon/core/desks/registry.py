"""Compose the desk of a strategy from its spec. The one place that knows all kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from daemon.core.desks.bars import AtEachBar
from daemon.core.desks.gates import gates_of
from daemon.core.desks.options import OneOption
from daemon.core.desks.sessions import OnceASession
from daemon.core.desks.shares.desk import Shares
from daemon.core.draft import Decides, DeskKind, Holds
from strategies.kit.contract import AnyStrategy

DECIDES: Mapping[str, Callable[[Any], Decides]] = {"bar": AtEachBar, "session": OnceASession}
HOLDS: Mapping[str, Callable[[Any], Holds]] = {"option": OneOption, "shares": Shares}


def desk_of(strategy: AnyStrategy) -> DeskKind:
    """Return the desk that runs this strategy, by `Spec.decides` and `Spec.holds`."""
    spec = strategy.spec
    return DeskKind(spec, DECIDES[spec.decides](strategy), HOLDS[spec.holds](strategy), gates_of(spec))
