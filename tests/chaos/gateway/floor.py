"""Broker, gateway and three desks of one host: processes, files, and what a person does. It judges nothing."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from daemon.config.load import KEYS, ConfigError
from daemon.gateway.command import ask
from daemon.gateway.config import GatewaySettings, load_gateway
from daemon.gateway.journal import verify
from daemon.journal.journal import FILE
from simulator.clock import SimClock
from simulator.server import RunningServer, serving
from simulator.trading.account import Account
from simulator.trading.venue import Rules
from strategies.kit.contract import Session
from tests.chaos.desk import Desk
from tests.chaos.desks import market as desks_market
from tests.chaos.desks import policy as desks_policy
from tests.chaos.desks.host import Station
from tests.chaos.gateway.boundaries import Deadly
from tests.chaos.gateway.person import Person
from tests.chaos.gateway.plan import (
    CAPITAL_USD,
    DECIDE_MIN,
    DESKS,
    MAINS_USD,
    PROGRAM,
    PROGRAM_USD,
    gateway_toml,
    tables,
)
from tests.chaos.plan import Plan
from tests.chaos.session import MINUTE_NS, Run
from tests.chaos.tally import Tally
from tests.support.desks.live_desk import LOOSE, write_config
from tests.support.desks.lively_policy import store as put_lively
from tests.support.models.daily_models import put_models
from tests.support.ports import free_port
from tests.support.simulator.clocks import clock_from

UP_MIN = DECIDE_MIN + 8  # before the open: the host is on
SCALPS_FROM = 0.055  # of the session: when the twenty bars are there that the scalper looks at
LIVES_MAX = 60
BACKOFF_S = 0.5  # real, where time is: half a minute of it
Json = dict[str, Any]


@dataclass(slots=True)
class Floor(Person):
    """The campaign under way. `gateway` is its process as `Run` looks after one, `account` the broker's."""

    seed: int
    folder: Path
    served: RunningServer
    clock: SimClock
    tally: Tally
    account: Account
    gateway: Run
    deadly: Deadly
    settings: GatewaySettings
    stations: list[Station]
    chance: random.Random
    own: bool = False  # each desk has an account of its own at the broker, and the gateway stands beside
    problems: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    person: Counter[str] = field(default_factory=Counter)  # what a person did, how often
    program: subprocess.Popen[bytes] | None = None  # on alpaca-py, beside the desks
    program_keys: tuple[str, str] = ("", "")
    apart_ns: int = 0  # since when sum and broker differ, 0: they agree
    looked_ns: int = 0  # when they were last compared
    looks: Counter[str] = field(default_factory=Counter)  # comparisons of sum and broker, by their outcome

    def now_ns(self) -> int:
        """The simulated time."""
        return self.clock.now_ns()

    def tend(self) -> None:
        """Start again what ended; a gateway that died at its boundary did what it should."""
        if not self.gateway.desk.alive() and self.gateway.desk.killed_itself():
            self.gateway.start()
        self.gateway.watch()
        for station in self.stations:
            station.run.watch()

    def status(self) -> Json | None:
        """What the gateway says of itself; None where none answers."""
        with contextlib.suppress(ConfigError, OSError):
            return dict(ask(self.settings, "GET", "/status"))
        return None

    def asked(self, path: str, body: Json) -> bool:
        """Whether the operator's socket did it."""
        with contextlib.suppress(ConfigError, OSError):
            ask(self.settings, "POST", path, body)
            return True
        return False

    def verified(self) -> str:
        """What another look at the gateway's journal finds; "" where all rows follow from one another."""
        report = verify(Path(self.settings.gateway.state_dir) / FILE)
        return report.difference

    def let_go(self) -> None:
        """The broker goes on with what it held back, and ends what waits for its cancel. On the server's loop."""
        for order in list(self.account.working.values()):
            order.held = False
            if order.status == "pending_cancel":
                order.canceled_ns = self.now_ns()
                self.served.server.matching.end(self.account, order, "canceled", order.canceled_ns)
        self.served.server.matching.changed.set()

    def sellable(self, positions: dict[str, str], session: Session) -> dict[str, str]:
        """Of positions what trades on this day: no share that is halted, or has no print."""
        days = self.served.server.market.days
        return {s: q for s, q in positions.items() if days is None or s not in days.bars or days.bar(s, session.date)}

    def problem(self, date: str, who: str, message: str) -> None:
        """Note what must not be."""
        self.problems.append(f"{date} {who}: {message[:1500]}")
        print(f"PROBLEM {self.problems[-1]}", flush=True)

    def write(self, station: Station) -> None:
        """The desk's configuration: everything at the gateway, or at the broker where the desk has its own account."""
        host = f"127.0.0.1:{self.settings.gateway.port}"
        at_gateway: dict[str, object] = {
            "trading_url": f"http://{host}",
            "data_url": f"http://{host}",
            "stream_url": f"ws://{host}/v2/{{feed}}",
            "trade_stream_url": f"ws://{host}/stream",
            "option_stream_url": f"ws://{host}/v1beta1/{{options}}",
        }
        at_broker: dict[str, object] = {
            "trade_stream_url": self.served.server.trade_stream_url_of(station.account),
        }
        alpaca = at_broker if self.own else at_gateway
        paths: dict[str, dict[str, object]] = {"paths": {"models_dir": str(self.folder / "models")}, "alpaca": alpaca}
        if not self.clock.settings().get("socket"):
            paths["alpaca"] = {**alpaca, "backoff_max_s": BACKOFF_S}
        listed = (LOOSE, *tables(station.name, self.folder), paths)
        write_config(station.config, self.served, self.clock, station.run.desk.state_dir, *listed)

    def begin_program(self) -> None:
        """Start a program on alpaca-py with the sub-account that is for one."""
        key, secret = self.program_keys
        command = [sys.executable, "-m", "tests.chaos.gateway.program", self.url, str(self.seed)]
        variables = {**os.environ, KEYS[0]: key, KEYS[1]: secret}
        with (self.folder / "program.log").open("wb") as log:
            self.program = subprocess.Popen(command, env=variables, stdout=log, stderr=subprocess.STDOUT)

    def end_program(self, within_s: float) -> int | None:
        """Ask it to leave and end; returns its exit code, None where it still ran after so many real seconds."""
        assert self.program is not None
        self.program.terminate()
        try:
            return self.program.wait(within_s)
        except subprocess.TimeoutExpired:
            self.program.kill()
            self.program.wait()
            return None

    def programs_lines(self) -> list[Json]:
        """What the program wrote."""
        if self.program is None:
            return []
        lines = (self.folder / "program.log").read_text().splitlines()
        return [json.loads(line) if line.startswith("{") else {"event": "", "text": line} for line in lines]

    @property
    def url(self) -> str:
        """The gateway's address."""
        return f"http://127.0.0.1:{self.settings.gateway.port}"


@contextlib.contextmanager
def opened(
    seed: int,
    sessions: list[Session],
    folder: Path,
    *,
    own: bool = False,
    fill_sizes: tuple[int, int] = (1, 4),
    rate: float | None = None,
) -> Iterator[Floor]:
    """Broker, models, gateway and three desks in `folder`, some minutes before the first open; all are ended.

    With `own` each desk trades at the broker with an account of its own, of its sub-account's capital.
    With `rate` time is real, so much faster, and else virtual.
    """
    chance = random.Random(f"floor {seed}")
    happenings = desks_market.happenings(seed, [session.date for session in sessions])
    market = desks_market.market(seed, happenings)
    desks_policy.store(put_models(folder / "models"))
    put_lively(folder / "models", begin=SCALPS_FROM)
    whole = MAINS_USD + PROGRAM_USD + sum(CAPITAL_USD.values())
    account = Account(*_pair(chance, "PK"), cash=Decimal(whole), account_number=f"PA3GW{seed}")
    pairs = {name: _pair(chance, f"GW{number}") for number, name in enumerate((*DESKS, PROGRAM))}
    owned = [
        Account(*pairs[name], cash=Decimal(CAPITAL_USD[name]), margin=1, account_number=f"PA3OWN{seed}N{number}")
        for number, name in enumerate(DESKS)
    ]
    for name, pair in pairs.items():
        _write_keys(folder / "keys" / name, pair)
    tally = Tally(seed)
    rules = Rules(seed=seed, fill_sizes=fill_sizes, calls_cross=True)
    with (
        clock_from(sessions[0].open_ns - UP_MIN * MINUTE_NS, rate, seed) as clock,
        serving(market, clock, faults=tally, accounts=[account, *owned], rules=rules) as served,
    ):
        config = folder / "gateway.toml"
        state_dir = folder / "gateway"
        server = served.server
        upstream = {
            "trading_url": served.trading_url,
            "data_url": served.data_url,
            "stream_url": served.stream_url,
            "trade_stream_url": server.trade_stream_url_of(account),
            "option_stream_url": served.option_stream_url,
            "backoff_max_s": 30.0 if rate is None else BACKOFF_S,
        }
        config.write_text(gateway_toml(free_port(), state_dir, folder / "keys", upstream, clock.settings()))
        deadly = Deadly()
        plan = Plan(0, str(seed), 0, 0, (), {})
        process = Desk(
            config, state_dir, (account.key, account.secret), folder / "gateway.log", clock,
            begin=False, program="daemon.gateway.command", prepare=deadly.arm,
        )  # fmt: skip
        gateway = Run(plan, served, clock, tally, account, process, chance, lives_max=LIVES_MAX)
        floor = Floor(
            seed, folder, served, clock, tally, account, gateway, deadly, load_gateway(config), [], chance, own
        )
        floor.program_keys = pairs[PROGRAM]
        try:
            gateway.start()
            for name, desk_account in zip(DESKS, owned, strict=True):
                desk = Desk(
                    folder / f"{name}.toml", folder / "desks" / name, pairs[name], folder / f"{name}.log", clock,
                    begin=False,
                )  # fmt: skip
                chance_of = random.Random(f"{name} {seed}")
                run = Run(
                    plan, served, clock, tally, desk_account if own else account, desk, chance_of, lives_max=LIVES_MAX
                )
                floor.stations.append(Station(name, run, desk_account, folder / f"{name}.toml"))
                floor.write(floor.stations[-1])
                run.start()
            yield floor
        finally:
            for run in (gateway, *(station.run for station in floor.stations)):
                run.desk.kill()
            if floor.program is not None:
                floor.program.kill()


def _pair(chance: random.Random, word: str) -> tuple[str, str]:
    return f"{word}CHAOS{chance.getrandbits(96):024X}", f"secret-chaos-{chance.getrandbits(120):030X}"


def _write_keys(folder: Path, pair: tuple[str, str]) -> None:
    folder.mkdir(parents=True)
    for name, text in zip(KEYS, pair, strict=True):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(file, "w") as stream:
            stream.write(text)
