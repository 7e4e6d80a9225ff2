"""One world: a market, the loopback Alpaca, one desk, on one loop, from one seed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from simulator.clock import SimClock
from simulator.faults import Faults
from simulator.server import AlpacaServer
from simulator.trading.account import Account
from simulator.trading.venue import Rules
from strategies.kit.units import SECOND_NS
from tests.years.desk import DeskLives, take_the_place_of_threads
from tests.years.loop import YearsLoop
from tests.years.market import MovedMarket
from tests.years.rest import lay_short_way
from tests.years.wires import lay


class YearsClock(SimClock):
    """The server's clock: the loop's time."""

    def __init__(self, loop: YearsLoop) -> None:
        self._loop = loop
        super().__init__(0.0, 0, 1.0)

    def real_ns(self) -> int:
        """The loop's time in nanoseconds UTC."""
        return self._loop.now_ns

    def now_ns(self) -> int:
        """The same: one second of the loop is one of the market."""
        return self._loop.now_ns

    def nap_s(self, sim_ns: int) -> float:
        """Seconds of the loop's time to sleep for a look at something."""
        return sim_ns / SECOND_NS

    async def sleep_until(self, ns: int) -> None:
        """Return at `ns`."""
        left_ns = 1
        while left_ns > 0:
            left_ns = ns - self._loop.now_ns
            await asyncio.sleep(max(left_ns, 0) / SECOND_NS)


WHOLE_WIRE = 0.1  # of the runs: every request of theirs goes as HTTP, byte by byte


class Story:
    """What happened, in order, and its digest: the same for the same seed on every machine."""

    def __init__(self, loop: YearsLoop, folder: Path) -> None:
        self._loop, self._folder = loop, str(folder)
        self.lines: list[tuple[int, str, str]] = []
        self._digest = hashlib.sha256()

    def note(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Add a line."""
        if kind == "log":
            fields = {key: value for key, value in fields.items() if key not in UNSTABLE}
        text = json.dumps(fields, sort_keys=True, default=str).replace(self._folder, "FOLDER")
        self._digest.update(f"{self._loop.now_ns} {kind} {text}\n".encode())
        self.lines.append((self._loop.now_ns, kind, text))

    def digest(self) -> str:
        """SHA-256 of all lines."""
        return self._digest.hexdigest()


UNSTABLE = frozenset(("timestamp", "state_dir", "journal", "path", "code", "report", "archive"))


class World:
    """The parts of one run."""

    def __init__(
        self,
        folder: Path,
        seed: object,
        start_ns: int,
        market: MovedMarket,
        account: Account,
        rules: Rules,
        faults: Faults,
    ) -> None:
        self.folder, self.seed, self.market, self.account = folder, seed, market, account
        self.loop = YearsLoop(start_ns, seed)
        self.network = lay(self.loop)
        self.story = Story(self.loop, folder)
        self.clock = YearsClock(self.loop)
        self.server = AlpacaServer(market, self.clock, faults=faults, accounts=[account], rules=rules)
        if random.Random(f"wire {seed}").random() >= WHOLE_WIRE:
            lay_short_way(self.loop, self.network, self.server)
        self.desk: DeskLives
        self.on_alarm: Callable[[Any], bool] = lambda _line: False  # whether it is another program's than the desk's
        self._tables: dict[str, dict[str, object]] = {}

    @contextlib.asynccontextmanager
    async def open(self, tables: Mapping[str, Mapping[str, object]]) -> AsyncIterator[World]:
        """Serve, and write the desk's configuration."""
        async with self.server as server:
            config = self.folder / "config.toml"
            self._tables = _merged(server, self.folder, tables)
            config.write_text(toml_of(self._tables))
            keys = (self.account.key, self.account.secret)
            self.desk = DeskLives(self.loop, self.network, self.folder, config, keys, self.story.note)
            take_the_place_of_threads(self._tell)
            yield self

    def config_with(self, tables: Mapping[str, Mapping[str, object]]) -> str:
        """The desk's configuration with these tables."""
        return toml_of(
            {**self._tables, **{name: {**self._tables.get(name, {}), **keys} for name, keys in tables.items()}}
        )

    def change(self, section: str, key: str, value: object) -> None:
        """Let the desk's configuration have this setting from now on."""
        self._tables.setdefault(section, {})[key] = value

    def _tell(self, line: Any) -> str:
        if not self.on_alarm(line):
            self.desk.alarms.append(line)
        self.story.note("alarm", {"alarm": line.alarm, "detail": line.detail})
        return ""

    async def until(self, ns: int) -> None:
        """Let time pass until `ns`."""
        await self.clock.sleep_until(ns)


def _merged(
    server: AlpacaServer, folder: Path, tables: Mapping[str, Mapping[str, object]]
) -> dict[str, dict[str, object]]:
    merged: dict[str, dict[str, object]] = {
        "paths": {"state_dir": str(folder / "desk")},
        "alpaca": dict(addresses_of(server)),
        "feed": {"name": "sip", "options": "indicative"},
        "log": {"format": "json"},
        "control": {"enabled": False},
        "alarms": {"command": ["/bin/true"]},
    }
    for section, keys in tables.items():
        merged[section] = {**merged.get(section, {}), **keys}
    return merged


def addresses_of(server: AlpacaServer) -> dict[str, str]:
    """The server's addresses, as `[alpaca]` names them."""
    return {
        "trading_url": server.trading_url,
        "data_url": server.data_url,
        "stream_url": server.stream_url,
        "trade_stream_url": server.trade_stream_url,
        "option_stream_url": server.option_stream_url,
    }


def toml_of(tables: Mapping[str, Mapping[str, object]]) -> str:
    """Tables as TOML."""
    rows = []
    for section, keys in tables.items():
        rows += [f"[{section}]", *(f"{key} = {_value(value)}" for key, value in keys.items()), ""]
    return "\n".join(rows)


def _value(value: object) -> str:
    return json.dumps(value) if not isinstance(value, Decimal) else str(value)


def fresh(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
