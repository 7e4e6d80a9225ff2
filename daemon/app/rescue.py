"""`rltraderctl panic`: cancel all, close all at the broker. Needs the configuration and the keys, nothing else.

No journal, lock, model or calendar is needed: it works with the daemon dead, running, or its journal corrupt. A file in
the desk's folder lets a daemon that runs there, or starts, stand down: it sends nothing more, exits neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

from daemon.brokers.api import Admin, BrokerError, BrokerRefused, alone
from daemon.brokers.panic import panic
from daemon.brokers.registry import broker_of
from daemon.config.load import EXIT_CODE, Credentials, Settings
from daemon.engine.state_dir import enter, locked_by
from daemon.host.own_files import StateDirError
from daemon.host.panic_marker import leave, noticed
from daemon.host.time.clock import Clock

NOT_FLAT = 1
DEADLINE_S = 240.0
ASKED_MAX = 3  # times the account's number is asked for before all is closed unseen
PAUSE_S = 1.0
HEED_S = 3.0  # a daemon that runs has to stand down before its orders are cancelled; longer nobody waits


def rescue(settings: Settings, keys: Credentials, state_dir: Path) -> int:
    """Close everything in the account; returns 0 when it is flat, 1 when something remains.

    2 when the broker refuses the keys or they open another account than the configured one: then nothing was touched.
    """
    return asyncio.run(_rescue(settings, keys, state_dir))


async def _rescue(settings: Settings, keys: Credentials, state_dir: Path) -> int:
    broker = alone(broker_of(settings), settings, keys, Clock.real())
    try:
        wrong = await _wrong_account(settings, broker.admin)
        if wrong:
            say(wrong)
            return EXIT_CODE
        marked = await _stand_down(state_dir)
        flat = await panic(broker.admin, say, deadline_s=DEADLINE_S)
        if marked:
            say(f"then, for the desk: rltraderctl accept-broker --state-dir {state_dir} --reason TEXT; resume")
        return 0 if flat else NOT_FLAT
    finally:
        await broker.close()


async def _stand_down(state_dir: Path) -> bool:
    """Leave the file that tells the desk, and give a daemon that runs a moment to stand down. False without a desk."""
    with contextlib.suppress(StateDirError):  # the panic needs no right of that user: it goes on
        enter(state_dir)
    try:
        leave(state_dir, f"rltraderctl panic, user id {os.getuid()}")
        running = bool(locked_by(state_dir))
    except FileNotFoundError:
        say(f"desk: no folder {state_dir}: where another one is its desk, halt that")
        return False
    except (OSError, StateDirError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        say(f"desk in {state_dir}: cannot be told ({why}): stop its daemon by hand")
        return False
    until_s = asyncio.get_running_loop().time() + HEED_S
    while running and asyncio.get_running_loop().time() < until_s:
        if not noticed(state_dir):
            say(f"desk in {state_dir}: stands down")
            return True
        await asyncio.sleep(HEED_S / 50)
    say(f"desk in {state_dir}: {'does not answer; going on' if running else 'stands down when it starts'}")
    return True


async def _wrong_account(settings: Settings, admin: Admin) -> str:
    """Why nothing may be closed there; "" when the account is the configured one, or the broker does not say now."""
    expected = settings.desk.account_number
    for asked in range(ASKED_MAX):
        if asked:
            await asyncio.sleep(PAUSE_S)
        try:
            found = (await admin.account()).number
        except BrokerError as error:
            problem = error
            continue
        if not expected or found == expected:
            say(f"account {found}")
            return ""
        cure = "nothing was touched; give the right keys"
        return f"the keys open account {found}, desk.account_number is {expected}: {cure}"
    if isinstance(problem, BrokerRefused) and problem.of_keys:
        return f"the broker refuses the keys ({problem}): nothing was touched; give those of this account"
    say(f"account number: not checked: {problem}; going on")
    return ""


def say(line: str) -> None:
    """Print a line. A reader that went away, such as a pipe that broke, stops nothing: the rest is said to nobody."""
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
