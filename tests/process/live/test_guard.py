"""A real daemon and a real guard at the loopback Alpaca, each a process: the daemon is killed, and comes back.

Time runs sixty times as fast as real time, and the guard waits in real seconds. What is expected is the server's book.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from daemon.config.load import KEYS as KEY_NAMES
from daemon.gateway.config import GatewaySettings, client_keys, load_gateway
from daemon.gateway.journal import verify
from daemon.gateway.setup import SetupRequest, init, served_at
from daemon.journal.journal import FILE
from rltrader import module_command
from strategies.kit.quantity import Quantity
from tests.support.desks.desk_run import rltraderctl
from tests.support.desks.live_desk import Daemon
from tests.support.desks.online_day import online_stage
from tests.support.desks.stage import KEYS, Stage, Table, until
from tests.support.gateway_stage import keys_of
from tests.support.models.online_models import put_momentum
from tests.support.ports import free_port

KEY = "5a" * 32
SECRETS = {**KEYS, "GUARD_KEY": KEY}
QUICK = {"beat_s": 1, "silence_s": 5, "alarm_s": 5, "act_s": 20, "look_s": 5}
RATE = 60.0
NONE: Mapping[str, str] = {}
NOBODY: Mapping[str, int] = {}
ON_ITS_WAY_S = 0.5  # a request that was sent before the daemon was stopped


def watch_table(folder: Path, act: str) -> Table:
    drop = folder / "drop"
    drop.mkdir(parents=True)
    return {"guard": {"prefix": "guard", "drop_dir": str(drop), "act": act, **QUICK}}


@contextlib.contextmanager
def guarding(desk: Stage, addresses: Mapping[str, str] = NONE) -> Iterator[Path]:
    """`rltrader-guard` with the desk's own configuration, but for these addresses; yields the file of its log."""
    log = desk.folder / "guard.log"
    command = module_command(
        "daemon.guard", "--config", desk.folder / "config.toml", "--state-dir", desk.folder / "guard"
    )
    with log.open("w") as out:
        process = subprocess.Popen(command, stderr=out, env={**os.environ, **SECRETS, **addresses})
        try:
            yield log
            assert process.poll() is None, log.read_text()
        finally:
            process.terminate()
            assert process.wait(60) == 0


def logged(log: Path, event: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, log.read_text().splitlines()) if line["event"] == event]


def working(desk: Stage, side: str) -> dict[str, int]:
    """The server's open orders of one side: name -> quantity."""
    orders = desk.server.call(lambda: list(desk.account.working.values()))
    return {order.client_order_id: int(order.qty or 0) for order in orders if order.side == side}


def remembered(desk: Stage) -> dict[str, int]:
    """Symbol -> quantity that the newest heartbeat told the guard with a stop's price; {} before the first."""
    with contextlib.suppress(OSError):
        memory = json.loads((desk.folder / "guard" / "paper-1.json").read_text())
        return {
            symbol: quantity for symbol, (quantity, _, stop, _) in memory["beat"]["holds"].items() if stop is not None
        }
    return {}


def killed_while_told(desk: Stage, foreign_shares: Mapping[str, int] = NOBODY) -> bool:
    """Kill the daemon if all that it holds, and nothing else, was told to the guard; it goes on otherwise.

    It stands still while this is looked at: it trades each minute, which is a second here. What it sent before is
    answered before the second look, which has to see the same.
    """
    daemon = desk.daemons[-1]
    daemon.pause(stopped=True)
    if is_told(desk, foreign_shares):
        time.sleep(ON_ITS_WAY_S)
        if is_told(desk, foreign_shares):
            kill(desk)
            return True
    daemon.pause(stopped=False)
    return False


def is_told(desk: Stage, foreign_shares: Mapping[str, int]) -> bool:
    """Whether the guard knows all that the desk holds, with stops for all of it and no other order at work."""
    positions = of_desk(desk, foreign_shares)
    return remembered(desk) == positions != {} and not working(desk, "buy") and covered(desk, foreign_shares)


def covered(desk: Stage, foreign_shares: Mapping[str, int] = NOBODY) -> bool:
    """Whether orders to sell just what the desk holds are at work."""
    return sorted(working(desk, "sell").values()) == sorted(of_desk(desk, foreign_shares).values())


def of_desk(desk: Stage, foreign_shares: Mapping[str, int]) -> dict[str, Quantity]:
    """What the server's book holds beside `others`."""
    return {
        symbol: quantity - foreign_shares.get(symbol, 0)
        for symbol, quantity in desk.held().items()
        if quantity != foreign_shares.get(symbol)
    }


def cancel_all(desk: Stage) -> None:
    """Cancel what works, on the server's thread."""
    for order in tuple(desk.account.working.values()):
        desk.server.server.matching.cancel(desk.account, order)


def kill(desk: Stage) -> None:
    desk.daemons[-1].kill()
    desk.daemons[-1].wait(10)


def test_a_guard_protects_what_a_killed_daemon_held_and_the_next_one_takes_it_over(tmp_path: Path) -> None:
    rules: Table = {**watch_table(tmp_path, "protect"), "sizing": {"stop_loss": 0.2, "take_profit": 5.0}}
    with online_stage("10:45", tmp_path / "stage", put_momentum(tmp_path / "store"), rules, rate=RATE) as desk:
        desk.start(environment=SECRETS)
        until(lambda: bool(desk.held()) and bool(working(desk, "sell")), "a share is held, and its stop rests")
        with guarding(desk) as log:
            until(lambda: bool(json.loads((tmp_path / "drop" / "paper-1.heartbeat.json").read_text())["holds"]), "told")
            until(lambda: killed_while_told(desk), "the guard knows what is held when the daemon dies")
            assert desk.held()
            desk.server.call(partial(cancel_all, desk))  # somebody cancels its stop
            until(lambda: covered(desk), "the guard's stops rest")
            names = set(working(desk, "sell"))
            assert all(name.startswith("guard-") for name in names)
            assert len(logged(log, "desk_silent")) == 1
            desk.start(environment=SECRETS)
            until(lambda: "guard_acted" in [line["alarm"] for line in desk.read_log("alarm")], "it takes them over")
            until(lambda: bool(logged(log, "desk_heard")), "the guard hears it")
        assert desk.halts() == []


def test_a_flat_account_of_a_killed_daemon_is_fenced_until_a_resume(tmp_path: Path) -> None:
    rules = watch_table(tmp_path, "protect")
    with online_stage("08:00", tmp_path / "stage", put_momentum(tmp_path / "store"), rules, rate=RATE) as desk:
        desk.start(environment=SECRETS)
        until((tmp_path / "drop" / "paper-1.heartbeat.json").exists, "the desk lives")
        with guarding(desk):
            until((desk.folder / "guard" / "paper-1.json").exists, "the guard remembers the heartbeat")
            kill(desk)
            until(lambda: bool(desk.account.configuration["suspend_trade"]), "the account is fenced")
            desk.start(environment=SECRETS)
            until(lambda: "fenced" in desk.halts(), "it stands halted")
            rltraderctl("resume", "--state-dir", desk.state_dir, "--reason", "the host is back", cwd=tmp_path)
            until(lambda: not desk.account.configuration["suspend_trade"], "the fence is lifted")


def test_behind_a_gateway_a_guards_stop_is_its_desks_again_after_the_host_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person holds the symbol too: none of that is touched."""
    rules: Table = {**watch_table(tmp_path, "protect"), "sizing": {"stop_loss": 0.2, "take_profit": 5.0}}
    with online_stage("10:45", tmp_path / "stage", put_momentum(tmp_path / "store"), rules, rate=RATE) as desk:
        for symbol, quantity in PERSONS.items():
            desk.server.by_hand("place", symbol=symbol, qty=str(quantity), side="buy")
        until(lambda: desk.held() == PERSONS, "a person holds both")
        settings = behind(desk, tmp_path, monkeypatch)
        pair = client_keys(settings)["a"]
        secrets = {"GUARD_KEY": KEY, **dict(zip(KEY_NAMES, (pair.key, pair.secret), strict=True))}
        at_gateway: Table = {"alpaca": served_at(f"http://127.0.0.1:{settings.gateway.port}")}
        at_broker = served_at(desk.server.trading_url)
        gateway = start_gateway(desk, tmp_path)
        desk.start(environment=secrets, tables=(at_gateway,))
        until(lambda: bool(of_desk(desk, PERSONS)) and bool(working(desk, "sell")), "a share, and its stop")
        with guarding(desk, {f"RLTRADER_ALPACA__{name.upper()}": url for name, url in at_broker.items()}):
            until(lambda: killed_while_told(desk, PERSONS), "the guard knows what is held when the host dies")
            gateway.kill()
            gateway.wait(10)
            desk.server.call(partial(cancel_all, desk))
            until(lambda: covered(desk, PERSONS), "the guard's stops rest")
            gateway = start_gateway(desk, tmp_path)
            desk.start(environment=secrets, tables=(at_gateway,))
            until(lambda: "guard_acted" in [line["alarm"] for line in desk.read_log("alarm")], "it takes them over")
        assert desk.halts() == []
        daemon = desk.daemons[-1]
        daemon.terminate()
        assert daemon.wait(60) == 0
        assert all(desk.held()[symbol] >= quantity for symbol, quantity in PERSONS.items())
        gateway.terminate()
        assert gateway.wait(60) == 0
        assert verify(Path(settings.gateway.state_dir) / FILE).difference == ""


PERSONS = {"SPY": 7, "QQQ": 7}


def behind(desk: Stage, folder: Path, monkeypatch: pytest.MonkeyPatch) -> GatewaySettings:
    """The file and keys of a gateway in front of the stage's server, with the sub-account `a`."""
    for key, value in desk.clock.settings().items():
        monkeypatch.setenv(f"RLTRADER_CLOCK__{key.upper()}", str(value))
    file, state = folder / "gateway.toml", str(folder / "gateway")
    request = SetupRequest(file, ("a:40000:shares",), False, desk.server.trading_url, free_port(), state)
    asyncio.run(init(request, keys_of(desk.server.server)))
    text = file.read_text()
    assert text.count('guard_prefix = ""') == 1
    file.write_text(text.replace('guard_prefix = ""', 'guard_prefix = "guard"'))
    return load_gateway(file)


def start_gateway(desk: Stage, folder: Path) -> Daemon:
    """The gateway's process; it is ended with the stage."""
    variables = {**KEYS, "RUNTIME_DIRECTORY": str(folder)}
    arguments = ["--config", str(folder / "gateway.toml")]
    gateway = Daemon(arguments, variables, folder / "gateway.log", clock=desk.clock, program="daemon.gateway.command")
    desk.daemons.insert(0, gateway)
    return gateway
