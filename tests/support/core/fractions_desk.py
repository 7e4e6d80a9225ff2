"""A desk that holds fractions of shares, with its journal as a daemon writes it: all that reads a journal can read it.

What happens, in USD; the broker charges nothing. On Monday it buys 0.3335 AAA (0.1, then 0.2335), 12.25 BBB (9.5, then
2.75) and 3 CCC, all at 100. On Tuesday it sells all AAA at 120 and 2.25 BBB at 104 (2 in the auction, 0.25 later), and
buys 0.35 CCC at 100. So AAA is a closed trade: 33.35 became 40.02. Of BBB 10 are held that cost 1,000 and are worth
1,040; 2.25 of it realised 9. CCC are 3.35, worth what they cost. Cash: 10,000 - 33.35 - 1,225 - 300 + 40.02 + 234 - 35
= 8,680.67; equity 8,680.67 + 1,040 + 335 = 10,055.67; realised 6.67 + 9 = 15.67.
"""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import AnyEffect, SubmitOrder
from daemon.core.limits import Basket, Trading
from daemon.engine.recover import TOLD_BY_RUNS, code_digest
from daemon.journal.journal import FILE, Journal
from daemon.journal.rows import STRATEGY_FROM, CommitBatch, HashChain, chain_start, encode_effects
from strategies.kit.entry import StrategyEntry
from strategies.kit.quantity import exact
from tests.support.core.account import Account
from tests.support.core.daily_desk import IDENTITY, LAST_FRIDAY, SYMBOLS, DailyDesk, Shelf
from tests.support.core.desk import MONDAY, TUESDAY, of

FRACTIONS = Trading(basket=Basket(fractions="on"))
PAPER = replace(IDENTITY, mode="paper")
STRATEGY = StrategyEntry(Shelf, {}, "shelf")


class JournaledDesk(DailyDesk):
    """A desk that keeps each event with its effects, as rows of a journal."""

    def __init__(self, trading: Trading) -> None:
        super().__init__(trading, mode="paper")
        self.meta = {name: getattr(PAPER, name) for name in TOLD_BY_RUNS} | {"desk": "shelf-1"}
        self.meta[STRATEGY_FROM] = f"{Path(__file__)}:STRATEGY"
        self.batch = CommitBatch()
        self._chain = HashChain(1, chain_start(self.meta | {"schema": "1"}))

    def _step(self, event: ev.Event) -> list[AnyEffect]:
        before = self.state.seq
        effects = super()._step(event)
        seq = self.state.seq if self.state.seq != before else None
        self.batch.entries.append(self._chain.entry(seq, event, encode_effects(effects)))
        return effects

    def write(self, folder: Path) -> Path:
        """Write the journal; returns its file."""
        self.batch.rows = list(self.rows)
        journal = Journal.create(folder / FILE, self.meta)
        journal.commit(self.batch)
        journal.close()
        return folder / FILE


def filled(d: DailyDesk, account: Account, order: SubmitOrder, price: str, *parts: str) -> None:
    """The order arrives and is filled at this price in these parts."""
    name = account.take(order, d.state.now_ns)
    for part in parts:
        d.put(account.fill(name, exact(part), price, d.state.now_ns))


def played() -> JournaledDesk:
    """The desk on Tuesday, after all of it."""
    account = Account()
    d = JournaledDesk(FRACTIONS)
    mode, own, strategy, epoch, feed = (getattr(PAPER, name) for name in TOLD_BY_RUNS)
    d.put(ev.RunStarted(MONDAY.open_ns - 10**13, mode, own, strategy, epoch, code_digest("shelf"), feed, FRACTIONS))
    d.begin(MONDAY)
    d.prompt = account.report
    now = d.at(-20)
    d.put(ev.ModelVerified(now, "v1", "d", promoted=True, feed="sip"), account.report(now))
    d.bars(LAST_FRIDAY, **dict.fromkeys(SYMBOLS, 100.0))
    d.due()
    d.answer(0.3335, 12.25, 3.0)
    parts = {"AAA": ("0.1", "0.2335"), "BBB": ("9.5", "2.75"), "CCC": ("3",)}
    for order in of(d.quotes(0, **dict.fromkeys(SYMBOLS, "100")), SubmitOrder):
        filled(d, account, order, "100", *parts[order.symbol])
    d.put(account.report(d.at(1)))
    d.end(AAA=120.0, BBB=104.0, CCC=100.0)
    d.begin(TUESDAY)
    d.put(account.report(d.at(-20)))
    d.due()
    prices = {"AAA": "120", "BBB": "104", "CCC": "100"}
    sent = of(d.answer(0.0, 10.0, 3.35), SubmitOrder)
    for minute in (0, 1, 2):
        for order in sent + of(d.quotes(minute, **prices), SubmitOrder):
            filled(d, account, order, prices[order.symbol], str(order.quantity))
        sent = []
    d.put(account.report(d.at(4)))
    d.quotes(5, **prices)
    return d
