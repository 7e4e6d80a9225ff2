"""`rltraderctl panic`: cancel all, close all, straight over REST. Needs the configuration and the keys, nothing else.

No journal, lock, model or calendar is looked at: it works with the daemon dead, running, or its journal corrupt. A
daemon that runs meets orders that are not its own and halts.
"""

from __future__ import annotations

import asyncio
import os
import sys

from daemon.alpaca_parts import accesses
from daemon.config import EXIT_CODE, Credentials, Settings
from daemon.shell.alpaca.lanes import account_lanes
from daemon.shell.alpaca.panic import panic
from daemon.shell.alpaca.rest import Refused, RestError
from daemon.shell.alpaca.trading import TradingOrders, TradingReads
from daemon.shell.clock import Clock

NOT_FLAT = 1
DEADLINE_S = 240.0
ASKED_MAX = 3  # times the account's number is asked for before all is closed unseen
PAUSE_S = 1.0


def rescue(settings: Settings, keys: Credentials) -> int:
    """Close everything in the account; returns 0 when it is flat, 1 when something remains.

    2 when the broker refuses the keys or they open another account than the configured one: then nothing was touched.
    """
    return asyncio.run(_rescue(settings, keys))


async def _rescue(settings: Settings, keys: Credentials) -> int:
    order_access, read_access, _ = accesses(settings, keys)
    lanes = account_lanes(Clock.real())
    try:
        reads = TradingReads(read_access, lanes[1])
        wrong = await _wrong_account(settings, reads)
        if wrong:
            say(wrong)
            return EXIT_CODE
        flat = await panic(TradingOrders(order_access, lanes[0]), reads, say, deadline_s=DEADLINE_S)
        return 0 if flat else NOT_FLAT
    finally:
        for lane in lanes:
            await lane.close()


async def _wrong_account(settings: Settings, reads: TradingReads) -> str:
    """Why nothing may be closed there; "" when the account is the configured one, or the broker does not say now."""
    expected = settings.desk.account_number
    for asked in range(ASKED_MAX):
        if asked:
            await asyncio.sleep(PAUSE_S)
        try:
            found = str((await reads.account()).get("account_number"))
        except RestError as error:
            problem = error
            continue
        if not expected or found == expected:
            say(f"account {found}")
            return ""
        cure = "nothing was touched; give the right keys"
        return f"the keys open account {found}, desk.account_number is {expected}: {cure}"
    if isinstance(problem, Refused) and problem.status in (401, 403):
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
