"""A daily desk at a real broker, with shares that were there before."""

from __future__ import annotations

from daemon.core import events as ev
from daemon.core.effects import SubmitOrder
from daemon.core.limits import Broker, Trading
from tests.support.core.account import Account
from tests.support.core.daily_desk import KEEP, LAST_FRIDAY, SYMBOLS, DailyDesk
from tests.support.core.desk import MONDAY, TUESDAY, of

IGNORE = Trading(broker=Broker(foreign_orders="ignore"))


ADOPT = Trading(broker=Broker(foreign_orders="adopt"))


def live(account: Account, trading: Trading | None = None) -> DailyDesk:
    """A desk on Monday before the open whose first report came from `account`."""
    d = DailyDesk(trading, mode="live").begin(MONDAY)
    d.prompt = account.report
    now = d.at(-20)
    d.put(ev.ModelVerified(now, "v1", "d", promoted=True, feed="sip"), account.report(now))
    d.bars(LAST_FRIDAY, **dict.fromkeys(SYMBOLS, 100.0))
    return d


def with_shares(account: Account, trading: Trading | None = None, **shares: float) -> DailyDesk:
    """The same with these shares bought on Monday at 100.00, on Tuesday before the open."""
    d = live(account, trading)
    buy(d, account, **shares)
    return d


def buy(d: DailyDesk, account: Account, **shares: float) -> None:
    """Buy these shares on Monday at 100.00; then it is Tuesday before the open."""
    d.due()
    d.answer(*(shares.get(symbol, KEEP) for symbol in SYMBOLS))
    for order in of(d.quotes(0, **dict.fromkeys(shares, "100")), SubmitOrder):
        name = account.take(order, d.state.now_ns)
        d.put(account.fill(name, order.quantity, "100", d.state.now_ns))
    d.put(account.report(d.at(1)))
    d.end(**dict.fromkeys(SYMBOLS, 100.0))
    d.begin(TUESDAY)
    d.put(account.report(d.at(-20)))
    assert d.state.risk.reconciled
