"""The journal on disk: rows and their hash chain, writer, readers, several files after rotation.

What readers and tools of others may import is in `__all__`, and is kept from release to release; all else may change.
`state` is here the state directory of a desk, a replay or a dry run:

>>> from daemon import journal
>>> with journal.open("state") as book:
...     first = next(book.rows())
...     closed = book.trades(result="win")
...     intact = book.check_chain()
>>> first.kind, first.event.strategy
('RunStarted', 'option_scalper')
>>> closed[0].symbol, closed[0].pnl_usd > 0
('SPY', True)
>>> intact.difference, len(intact.head)
('', 64)

A name is imported when it is first used: `import daemon.journal` alone reads no other module.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daemon.core.records import DecisionRow, EquityRow, FillRow, OrderRow
    from daemon.journal.equity import EquityDay
    from daemon.journal.opened import AccountAt, ChainCheck, OpenJournal, open  # noqa: A004
    from daemon.journal.published import heads_in
    from daemon.journal.rows import Entry, JournalBusy, JournalError
    from daemon.journal.trade import Trade
    from daemon.journal.trades import Totals

__all__ = [
    "AccountAt",
    "ChainCheck",
    "DecisionRow",
    "Entry",
    "EquityDay",
    "EquityRow",
    "FillRow",
    "JournalBusy",
    "JournalError",
    "OpenJournal",
    "OrderRow",
    "Totals",
    "Trade",
    "heads_in",
    "open",
]

_HOME = {
    "AccountAt": "daemon.journal.opened",
    "ChainCheck": "daemon.journal.opened",
    "DecisionRow": "daemon.core.records",
    "Entry": "daemon.journal.rows",
    "EquityDay": "daemon.journal.equity",
    "EquityRow": "daemon.core.records",
    "FillRow": "daemon.core.records",
    "JournalBusy": "daemon.journal.rows",
    "JournalError": "daemon.journal.rows",
    "OpenJournal": "daemon.journal.opened",
    "OrderRow": "daemon.core.records",
    "Totals": "daemon.journal.trades",
    "Trade": "daemon.journal.trade",
    "heads_in": "daemon.journal.published",
    "open": "daemon.journal.opened",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
