"""A real daemon and a real guard at the loopback Alpaca, each a process: the daemon is killed, and comes back.

Time runs sixty times as fast as real time, and the guard waits in real seconds. What is expected is the server's book.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rltrader import module_command
from tests.support.desks.desk_run import rltraderctl
from tests.support.desks.online_day import online_stage
from tests.support.desks.stage import KEYS, Stage, Table, until
from tests.support.models.online_models import put_momentum

KEY = "5a" * 32
SECRETS = {**KEYS, "GUARD_KEY": KEY}
QUICK = {"beat_s": 1, "silence_s": 5, "alarm_s": 5, "act_s": 20, "look_s": 5}
RATE = 60.0
ON_ITS_WAY_S = 0.5  # a request that was sent before the daemon was stopped


def watched(folder: Path, act: str) -> Table:
    drop = folder / "drop"
    drop.mkdir(parents=True)
    return {"guard": {"prefix": "guard", "drop_dir": str(drop), "act": act, **QUICK}}


@contextlib.contextmanager
def guarding(played: Stage) -> Iterator[Path]:
    """`rltrader-guard` with the desk's own configuration; yields the file of its log."""
    log = played.folder / "guard.log"
    command = module_command(
        "daemon.guard", "--config", played.folder / "config.toml", "--state-dir", played.folder / "guard"
    )
    with log.open("w") as out:
        process = subprocess.Popen(command, stderr=out, env={**os.environ, **SECRETS})
        try:
            yield log
            assert process.poll() is None, log.read_text()
        finally:
            process.terminate()
            assert process.wait(60) == 0


def logged(log: Path, event: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, log.read_text().splitlines()) if line["event"] == event]


def working(played: Stage, side: str) -> dict[str, int]:
    """The server's open orders of one side: name -> quantity."""
    orders = played.server.call(lambda: list(played.account.working.values()))
    return {order.client_order_id: int(order.qty or 0) for order in orders if order.side == side}


def remembered(played: Stage) -> dict[str, int]:
    """Symbol -> quantity that the newest heartbeat told the guard with a stop's price; {} before the first."""
    with contextlib.suppress(OSError):
        kept = json.loads((played.folder / "guard" / "paper-1.json").read_text())
        return {symbol: held for symbol, (held, _, stop, _) in kept["beat"]["holds"].items() if stop is not None}
    return {}


def killed_while_told(played: Stage) -> bool:
    """Kill the daemon if all that it holds, and nothing else, was told to the guard; it goes on otherwise.

    It stands still while this is looked at: it trades each minute, which is a second here. What it sent before is
    answered before the second look, which has to see the same.
    """
    daemon = played.daemons[-1]
    daemon.pause(stopped=True)
    if is_told(played):
        time.sleep(ON_ITS_WAY_S)
        if is_told(played):
            kill(played)
            return True
    daemon.pause(stopped=False)
    return False


def is_told(played: Stage) -> bool:
    """Whether the guard knows all that is held, with stops for all of it and no other order at work."""
    held = played.held()
    return remembered(played) == held != {} and not working(played, "buy") and covered(played)


def covered(played: Stage) -> bool:
    """Whether orders to sell just what is held are at work."""
    return sorted(working(played, "sell").values()) == sorted(played.held().values())


def cancel_all(played: Stage) -> None:
    """Cancel what works, on the server's thread."""
    for order in tuple(played.account.working.values()):
        played.server.server.matching.cancel(played.account, order)


def kill(played: Stage) -> None:
    played.daemons[-1].kill()
    played.daemons[-1].wait(10)


def test_a_guard_protects_what_a_killed_daemon_held_and_the_next_one_takes_it_over(tmp_path: Path) -> None:
    rules: Table = {**watched(tmp_path, "protect"), "sizing": {"stop_loss": 0.2, "take_profit": 5.0}}
    with online_stage("10:45", tmp_path / "stage", put_momentum(tmp_path / "store"), rules, rate=RATE) as played:
        played.start(environment=SECRETS)
        until(lambda: bool(played.held()) and bool(working(played, "sell")), "a share is held, and its stop rests")
        with guarding(played) as log:
            until(lambda: bool(json.loads((tmp_path / "drop" / "paper-1.heartbeat.json").read_text())["holds"]), "told")
            until(lambda: killed_while_told(played), "the guard knows what is held when the daemon dies")
            assert played.held()
            played.server.call(partial(cancel_all, played))  # somebody cancels its stop
            until(lambda: covered(played), "the guard's stops rest")
            names = set(working(played, "sell"))
            assert all(name.startswith("guard-") for name in names)
            assert len(logged(log, "desk_silent")) == 1
            played.start(environment=SECRETS)
            until(lambda: "guard_acted" in [line["alarm"] for line in played.read_log("alarm")], "it takes them over")
            until(lambda: bool(logged(log, "desk_heard")), "the guard hears it")
        assert played.halts() == []


def test_a_flat_account_of_a_killed_daemon_is_fenced_until_a_resume(tmp_path: Path) -> None:
    rules = watched(tmp_path, "protect")
    with online_stage("08:00", tmp_path / "stage", put_momentum(tmp_path / "store"), rules, rate=RATE) as played:
        played.start(environment=SECRETS)
        until((tmp_path / "drop" / "paper-1.heartbeat.json").exists, "the desk lives")
        with guarding(played):
            until((played.folder / "guard" / "paper-1.json").exists, "the guard remembers the heartbeat")
            kill(played)
            until(lambda: bool(played.account.configuration["suspend_trade"]), "the account is fenced")
            played.start(environment=SECRETS)
            until(lambda: "fenced" in played.halts(), "it stands halted")
            rltraderctl("resume", "--state-dir", played.state_dir, "--reason", "the host is back", cwd=tmp_path)
            until(lambda: not played.account.configuration["suspend_trade"], "the fence is lifted")
