"""What a sweep is asked for, and all that a process reads before it plays a cell."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.core.limits import Trading
from daemon.core.strategy_rules import DIGEST
from strategies.kit.manifest import Manifest, config_text
from training.desks.kind import TaskData
from training.desks.registry import kind
from training.export.version import Version, read_version
from training.rl.ppo import make_deterministic
from training.runs.desk_rules import trading_of
from training.runs.folder import RunFolderError
from training.runs.prepared import loaded
from training.runs.settings import settings_for
from training.sweep.grid import Axis


@dataclass(frozen=True, slots=True)
class Asked:
    """What a sweep is asked for."""

    strategy: str
    bars: Path
    store: Path
    axes: tuple[Axis, ...]
    version: str = "current"
    config: Path | None = None  # whose other rules hold; None: the strategy's defaults
    first: str = ""  # session, New York date; "": see `sessions_of`
    last: str = ""
    processes: int = 2
    ray: str = ""  # "local", "auto", an address; "" is this machine's processes without Ray
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """What a process needs to play a cell."""

    asked: Asked
    version: Version
    data: TaskData
    dates: tuple[str, ...]
    trading: Trading  # without any change

    @property
    def variant(self) -> str:
        """What one unit of an action is, or the reward that the policy was trained with."""
        rewards = self.version.manifest.hyperparameters.get("rewards") or kind(self.asked.strategy).variants
        return str(rewards[0])

    def identity(self) -> dict[str, Any]:
        """What decides the result, as JSON."""
        return {
            "policy": self.version.manifest.policy_sha256,
            "bars": self.data.info.sha256,
            "sessions": [self.dates[0], self.dates[-1], len(self.dates)],
            "axes": [[axis.key, list(axis.values)] for axis in self.asked.axes],
            "rules": repr(self.trading),
        }


def make_ready(asked: Asked) -> Ready:
    """Read everything.

    Raises:
        VersionError: the store has no such version.
        ValueError: a key's value is out of bounds, or fixed by the model; no session is left.
        TapeError, CalendarError, HistoryError, OSError: as reading the bars does.
    """
    make_deterministic()
    version, trading = (
        read_version(asked.store, asked.strategy, asked.version),
        trading_of(asked.strategy, asked.config),
    )
    fixed = version.manifest.rules.keys() - {DIGEST}
    for axis in asked.axes:
        if axis.key in fixed:
            raise ValueError(f"--set {axis.key}: the model {version.folder.name} was trained with one value of it")
    settings = dataclasses.replace(
        settings_for(asked.strategy, asked.bars, asked.store),
        symbols=version.manifest.symbols or (),
        model_config=config_text(version.manifest),
    )
    if settings.plan is None:
        settings = dataclasses.replace(settings, symbols=())
    data = loaded(settings.kind, settings, trading)
    dates = sessions_of(tuple(data.days), data.info.sha256, version.manifest, asked.first, asked.last)
    return Ready(asked, version, data, dates, trading)


def make_same(asked: Asked, sha256: str) -> Ready:
    """Read everything once more, in a further process. Raises `RunFolderError` where the bars have changed."""
    ready = make_ready(asked)
    if ready.data.info.sha256 != sha256:
        raise RunFolderError(f"{asked.bars} changed while the sweep was at work: give the same command again")
    return ready


def sessions_of(
    days: Sequence[str], sha256: str, manifest: Manifest, first: str = "", last: str = ""
) -> tuple[str, ...]:
    """The sessions from `first` to `last`; without either the policy's test sessions, or all after its last session.

    Raises:
        ValueError: there is none.
    """
    test = manifest.training.splits.get("test") if sha256 == manifest.training.file_sha256 else None
    if not first and not last and test is not None:
        first, last = test
    elif not first and not last:
        first = f"{manifest.training.last_session}~"  # after every text that begins so
    found = tuple(day for day in days if (not first or day >= first) and (not last or day <= last))
    if not found:
        raise ValueError(
            f"no session from {first.rstrip('~') or 'the first'} to {last or 'the last'} can be decided on; the file "
            f"has {len(days)} from {days[0] if days else 'none'} to {days[-1] if days else 'none'}: give --first and "
            "--last"
        )
    return found
