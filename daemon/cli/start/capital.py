"""What the account can hold, as `rltraderd --check` says it: shares by an equal part of the equity for each symbol."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from decimal import Decimal, DecimalException
from pathlib import Path

import msgspec

from daemon.cli.start.checks import OK, WARN, CheckLine
from daemon.config.load import DeskSettings
from daemon.core.desks.shares.sizes import FEWEST_SHARES, fractions_fit, out_of_reach, out_of_reach_words
from daemon.engine.state_dir import standing
from daemon.host.own_files import StateDirError
from daemon.journal.reader import JournalReader, reading
from daemon.journal.rows import JournalError, Snapshot
from strategies.registry import entry

SUBJECT = "capital"


class _Basket(msgspec.Struct):
    fractions: bool | None = None  # as the first basket chose


class _Book(msgspec.Struct):
    equity: Decimal


class _Stats(msgspec.Struct):
    orders: int = 0


class _Begun(msgspec.Struct):
    """What a journal says of its account: the part of its newest state that is read here."""

    book: _Book
    basket: _Basket = msgspec.field(default_factory=_Basket)
    stats: _Stats = msgspec.field(default_factory=_Stats)


def _begun(state_dir: Path) -> _Begun | None:
    """Return what the newest state in this directory says of the account; None without one, or where it is unreadable.

    The line about the state directory reports what cannot be read.
    """
    try:
        file = standing(state_dir)
        if not file.exists():
            return None
        with closing(JournalReader(file)) as reader, reading(file):
            newest = next(reader.newest_snapshots(), None)
        return msgspec.json.decode(newest.state, type=_Begun) if isinstance(newest, Snapshot) else None
    except (StateDirError, JournalError, OSError, msgspec.MsgspecError):
        return None


def _equity(settings: DeskSettings, journal: _Begun | None, account: str = "") -> float:
    """Return the equity in USD: the journal's, else the account's as its broker tells it, else `paper.cash_usd`."""
    if journal is not None:
        return float(journal.book.equity)
    try:
        equity = float(Decimal(account))
    except DecimalException:
        equity = math.nan
    return equity if math.isfinite(equity) else float(settings.paper.cash_usd)


def capital_finding(
    settings: DeskSettings, symbols: Sequence[str], quoted: Mapping[str, float], account: str = ""
) -> CheckLine:
    """Say whether the account holds its basket in whole shares, in fractions, or not all of it.

    Args:
        settings: of the desk.
        symbols: of the desk.
        quoted: USD a share by symbol, as far as known.
        account: the equity in USD as the broker writes it; "" for a desk whose account is made up.
    """
    journal = _begun(settings.paths.state_dir)
    equity, prices = _equity(settings, journal, account), {symbol: quoted.get(symbol, 0.0) for symbol in symbols}
    count, priced = len(prices), {symbol: price for symbol, price in prices.items() if price > 0}
    if not priced:
        return CheckLine(SUBJECT, WARN, "not checked: no symbol has a price now")
    dearest = max(priced, key=priced.__getitem__)
    of_all = f"{equity:,.2f} USD over {count} symbol{'s' * (count != 1)}, {equity / count:,.2f} USD each"
    dear, few = f"{dearest} at {priced[dearest]:,.2f} USD", f"fewer than {FEWEST_SHARES:.0f} shares"
    fractions, why = _fractions(settings, equity, journal, list(prices.values()))
    if fractions:
        why = why or f"because an equal part pays for {few} of {dear}"
        return CheckLine(SUBJECT, OK, f"{of_all}: fractions of shares, {why}")
    if symbols := out_of_reach(equity, prices):
        words = out_of_reach_words(equity, prices, symbols)
        chosen = entry(settings.desk.strategy)
        fewer = ", fewer desk.symbols" if chosen.with_symbols or chosen.with_config else ""
        cure = f'set basket.fractions = "on"{fewer}, or add that capital'
        return CheckLine(SUBJECT, WARN, f"{words} ({why or 'whole shares'}): {cure}")
    shares = int(equity / count / priced[dearest])
    why = why or f"an equal part pays for {shares:,} of {dear}"
    return CheckLine(SUBJECT, OK, f"{of_all}: whole shares, {why}")


def _fractions(settings: DeskSettings, equity: float, journal: _Begun | None, prices: list[float]) -> tuple[bool, str]:
    """Return whether the desk holds fractions, and why; "" where its first basket will choose by the prices."""
    rule = settings.basket.fractions
    if rule != "auto":
        return rule == "on", f'basket.fractions = "{rule}"'
    if journal is None:
        return fractions_fit(equity, prices), ""
    if journal.basket.fractions is not None:
        return journal.basket.fractions, "as the journal began"
    if journal.stats.orders:
        return False, "as the journal began"
    return fractions_fit(equity, prices), ""
