"""`rltraderctl panic`: cancel all, close all, straight over REST. Needs the configuration and the keys, nothing else.

No journal, lock, model or calendar is looked at: it works with the daemon dead, running, or its journal corrupt. A
daemon that runs meets orders that are not its own and halts.
"""

from __future__ import annotations

import asyncio
import sys

from daemon.config import EXIT_CODE, Credentials, Settings
from daemon.live import accesses
from daemon.shell.alpaca.lanes import account_lanes
from daemon.shell.alpaca.panic import panic
from daemon.shell.alpaca.rest import RestError, TradingOrders, TradingReads
from daemon.shell.clock import Clock

NOT_FLAT = 1
DEADLINE_S = 240.0


def rescue(settings: Settings, keys: Credentials) -> int:
    """Close everything in the account; returns 0 when it is flat, 1 when something remains, 2 for the wrong account."""
    return asyncio.run(_rescue(settings, keys))


async def _rescue(settings: Settings, keys: Credentials) -> int:
    order_access, read_access, _ = accesses(settings, keys)
    lanes = account_lanes(Clock.real())
    try:
        reads = TradingReads(read_access, lanes[1])
        wrong = await _wrong_account(settings, reads)
        if wrong:
            _say(wrong)
            return EXIT_CODE
        flat = await panic(TradingOrders(order_access, lanes[0]), reads, _say, deadline_s=DEADLINE_S)
        return 0 if flat else NOT_FLAT
    finally:
        for lane in lanes:
            await lane.close()


async def _wrong_account(settings: Settings, reads: TradingReads) -> str:
    """Why nothing may be closed there; "" when the account is the configured one, or cannot be asked now."""
    expected = settings.desk.account_number
    if not expected:
        return ""
    try:
        found = str((await reads.account()).get("account_number"))
    except RestError as error:
        _say(f"account number: not checked: {error}")
        return ""
    if found == expected:
        return ""
    return f"the keys open account {found}, desk.account_number is {expected}: nothing was touched; give the right keys"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
