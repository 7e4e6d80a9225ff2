"""`rltraderctl panic`: cancel all, close all at the broker. Needs only the configuration and the keys.

It needs no journal, lock, model or calendar, and works with the daemon dead, running, or its journal corrupt. A file in
the desk's folder makes a daemon that runs or starts there stand down: while the panic runs it sends nothing, exits
included. What the panic leaves the desk then closes itself, as far as it is its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

from daemon.brokers.api import Admin, BrokerRefused, alone
from daemon.brokers.panic import in_time, panic, problem_of
from daemon.brokers.registry import broker_of
from daemon.config.load import EXIT_CODE, Credentials, DeskSettings
from daemon.engine.state_dir import enter, locked_by
from daemon.host.own_files import StateDirError
from daemon.host.panic_marker import FLAT, Marker, leave, panic_asker
from daemon.host.time.clock import Clock

NOT_FLAT = 1
DEADLINE_S = 240.0
ASKED_MAX = 3  # requests for the account's number before all is closed unseen
ASKED_S = 5.0  # none begins later: a broker that hangs there may close all the same
PAUSE_S = 1.0
AGAIN = "to go on, run the same command again: rltraderctl panic"
LEFT_TIMEOUT_S = 5.0  # longest wait for the list of what is left, after Ctrl-C
STAND_DOWN_TIMEOUT_S = 3.0  # longest wait for a running daemon to stand down before orders are cancelled


def rescue(settings: DeskSettings, keys: Credentials, state_dir: Path) -> int:
    """Close everything in the account; returns 0 when it is flat, 1 when something remains.

    Returns 2, and touches nothing, when the broker refuses the keys or they open another account than configured.
    Ctrl-C ends it: what is left is printed, with how to go on; a second one does not wait for that.
    """
    try:
        return asyncio.run(_rescue(settings, keys, state_dir))
    except KeyboardInterrupt:
        print_line("interrupted: look at the broker's web page for what is left")
        print_line(AGAIN)
        return NOT_FLAT


async def _rescue(settings: DeskSettings, keys: Credentials, state_dir: Path) -> int:
    broker = alone(broker_of(settings), settings, keys, Clock.real())
    try:
        try:
            wrong = await _wrong_account(settings, broker.admin)
        except asyncio.CancelledError:
            _go_on()
            print_line("interrupted: nothing was touched")
            return NOT_FLAT
        if wrong:
            print_line(wrong)
            return EXIT_CODE
        return 0 if await _closed(broker.admin, state_dir) else NOT_FLAT
    finally:
        with contextlib.suppress(Exception):  # the account's state is the result, however the connection ends
            await in_time(broker.close, LEFT_TIMEOUT_S)


async def _closed(admin: Admin, state_dir: Path) -> bool:
    """Let the desk stand down, close everything, and note the result for the desk. True for a flat account."""
    marker, flat = None, False
    try:
        marker = await _stand_down(state_dir)
        flat = await panic(admin, print_line, deadline_s=DEADLINE_S)
    except asyncio.CancelledError:
        await _print_remains(admin)
    if marker is not None:
        marker.end(FLAT if flat else "not flat")
    if not flat:
        print_line(AGAIN)
    if marker is not None:
        if not flat:
            print_line(f"the desk in {state_dir} closes what is its own, once its daemon runs and hears the broker")
        print_line(f"then, for the desk: rltraderctl accept-broker --state-dir {state_dir} --reason TEXT; resume")
    return flat


async def _print_remains(admin: Admin) -> None:
    """Print what is left, if the broker answers in a short time."""
    _go_on()
    print_line("interrupted")
    try:
        remains = await in_time(admin.left, LEFT_TIMEOUT_S)
    except Exception:
        remains = ("the broker does not say what is left: look at its web page",)
    for line in remains or ("no open order, no position, for now",):
        print_line(f"NOT flat: {line}" if remains else line)


def _go_on() -> None:
    """Clear the cancellation of this task, after Ctrl-C."""
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()


async def _stand_down(state_dir: Path) -> Marker | None:
    """Leave the panic file and wait for a running daemon to stand down. None without a desk."""
    with contextlib.suppress(StateDirError):  # the panic goes on without that user's rights
        enter(state_dir)
    try:
        marker = leave(state_dir, f"rltraderctl panic, user id {os.getuid()}")
        running = bool(locked_by(state_dir))
    except FileNotFoundError:
        print_line(f"desk: no folder {state_dir}: where another one is its desk, halt that")
        return None
    except (OSError, StateDirError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        print_line(f"desk in {state_dir}: cannot be notified ({why}): stop its daemon by hand")
        return None
    until_s = asyncio.get_running_loop().time() + STAND_DOWN_TIMEOUT_S
    while running and asyncio.get_running_loop().time() < until_s:
        if not panic_asker(state_dir):
            print_line(f"desk in {state_dir}: stands down")
            return marker
        await asyncio.sleep(STAND_DOWN_TIMEOUT_S / 50)
    print_line(f"desk in {state_dir}: {'does not answer; going on' if running else 'stands down when it starts'}")
    return marker


async def _wrong_account(settings: DeskSettings, admin: Admin) -> str:
    """Return why nothing may be closed; "" for the configured account or an unknown one."""
    expected, now_s = settings.desk.account_number, asyncio.get_running_loop().time
    until_s = now_s() + ASKED_S
    for attempt in range(ASKED_MAX):
        if attempt:
            await asyncio.sleep(PAUSE_S)
            if now_s() > until_s:
                break
        try:
            number = (await in_time(admin.account)).number
        except Exception as error:
            problem = error
            continue
        if not expected or number == expected:
            print_line(f"account {number}")
            return ""
        cure = "nothing was touched; give the right keys"
        return f"the keys open account {number}, desk.account_number is {expected}: {cure}"
    if isinstance(problem, BrokerRefused) and problem.of_keys:
        cure = settings.hidden_address or "give those of this account"
        return f"the broker refuses the keys ({problem}): nothing was touched; {cure}"
    print_line(f"account number: not checked: {problem_of(problem)}; going on")
    return ""


def print_line(line: str) -> None:
    """Print a line. If the reader is gone (a broken pipe), discard the rest and go on."""
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
