"""Findings of `rltraderd --check` about capital: can the account hold an equal part of each symbol, or a contract?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from decimal import Decimal, DecimalException
from pathlib import Path

import msgspec

from daemon.app.small_accounts import FRACTIONS
from daemon.cli.start.checks import OK, WARN, CheckLine
from daemon.config.load import DeskSettings
from daemon.core.book import OPTION_MULTIPLIER
from daemon.core.desks.options import contracts_for
from daemon.core.desks.shares.sizes import FEWEST_SHARES, fractions_fit, out_of_reach, out_of_reach_words
from daemon.core.instruments.option_market import parse_occ
from daemon.core.limits import Basket, Sizing, Trading
from daemon.engine.state_dir import standing
from daemon.host.own_files import StateDirError
from daemon.journal.reader import JournalReader, reading
from daemon.journal.rows import JournalError, Snapshot
from strategies.registry import entry

SUBJECT = "capital"


class _Basket(msgspec.Struct):
    fractions: bool | None = None  # chosen by the first basket


class _Book(msgspec.Struct):
    equity: Decimal


class _Stats(msgspec.Struct):
    orders: int = 0


class _AccountState(msgspec.Struct):
    """Fields of a journal's newest state about the account."""

    book: _Book
    basket: _Basket = msgspec.field(default_factory=_Basket)
    stats: _Stats = msgspec.field(default_factory=_Stats)


def _account_state_of(state_dir: Path) -> _AccountState | None:
    """Return the account in this directory's newest state; None if there is none or it is unreadable.

    The finding about the state directory reports an unreadable one.
    """
    try:
        file = standing(state_dir)
        if not file.exists():
            return None
        with closing(JournalReader(file)) as reader, reading(file):
            newest = next(reader.newest_snapshots(), None)
        return msgspec.json.decode(newest.state, type=_AccountState) if isinstance(newest, Snapshot) else None
    except (StateDirError, JournalError, OSError, msgspec.MsgspecError):
        return None


def _equity(settings: DeskSettings, journal: _AccountState | None, account: str = "") -> float:
    """Return the equity in USD: the journal's, else the broker's, else `paper.cash_usd`."""
    if journal is not None:
        return float(journal.book.equity)
    try:
        equity = float(Decimal(account))
    except DecimalException:
        equity = math.nan
    return equity if math.isfinite(equity) else float(settings.paper.cash_usd)


def capital_finding(
    settings: DeskSettings, symbols: Sequence[str], quotes: Mapping[str, float], account: str = ""
) -> CheckLine:
    """Report whether the account can hold its basket in whole shares, in fractions, or not completely.

    Args:
        settings: of the desk.
        symbols: of the desk.
        quotes: USD a share by symbol, as far as known.
        account: the equity in USD as the broker writes it; "" for a simulated account.
    """
    journal = _account_state_of(settings.paths.state_dir)
    equity, prices = _equity(settings, journal, account), {symbol: quotes.get(symbol, 0.0) for symbol in symbols}
    count, usable_prices = len(prices), {symbol: price for symbol, price in prices.items() if price > 0}
    if not usable_prices:
        return CheckLine(SUBJECT, WARN, "not checked: no symbol has a price now")
    dearest = max(usable_prices, key=usable_prices.__getitem__)
    of_all = f"{equity:,.2f} USD over {count} symbol{'s' * (count != 1)}, {equity / count:,.2f} USD each"
    dear, few = f"{dearest} at {usable_prices[dearest]:,.2f} USD", f"fewer than {FEWEST_SHARES:.0f} shares"
    fractions, why = _fractions(settings, equity, journal, list(prices.values()))
    if denied := _denied_part(settings.trading().basket, equity, count, fractions=fractions):
        return CheckLine(SUBJECT, WARN, f"{of_all}: {denied}")
    if fractions:
        why = why or f"because an equal part pays for {few} of {dear}"
        return CheckLine(SUBJECT, OK, f"{of_all}: fractions of shares, {why}")
    if symbols := out_of_reach(equity, prices):
        words = out_of_reach_words(equity, prices, symbols)
        chosen = entry(settings.desk.strategy)
        fewer = ", fewer desk.symbols" if chosen.with_symbols or chosen.with_config else ""
        cure = f'set basket.fractions = "on"{fewer}, or add that capital'
        return CheckLine(SUBJECT, WARN, f"{words} ({why or 'whole shares'}): {cure}")
    shares = int(equity / count / usable_prices[dearest])
    why = why or f"an equal part pays for {shares:,} of {dear}"
    return CheckLine(SUBJECT, OK, f"{of_all}: whole shares, {why}")


def _denied_part(rules: Basket, equity: float, count: int, *, fractions: bool) -> str:
    """Return the limit that refuses a buy of an equal part, or of a symbol's highest weight; "" for none."""
    part = equity * min(1 / count, rules.weight_max)
    limits = {
        "order_notional_max_usd": float(rules.order_notional_max_usd) or math.inf,
        "order_weight_max": rules.order_weight_max * equity,
        "position_weight_max": rules.position_weight_max * equity,
        "gross_weight_max": rules.gross_weight_max * equity,
    }
    name, limit = min(limits.items(), key=lambda item: item[1])
    if part > limit:
        least = f"at least {part:,.0f}" if name.endswith("usd") else f"more than {part / equity:.3f}"
        text = f"basket.{name} = {getattr(rules, name)} denies a buy of {part:,.2f} USD, whole"
        return f"{text}: raise it to {least}, or trade more symbols"
    if fractions and rules.min_order_usd > part:
        text = f"basket.min_order_usd = {rules.min_order_usd} leaves out a fraction that is worth {part:,.2f} USD"
        return f"{text}: lower it, such as to 1"
    return ""


def entry_finding(
    settings: DeskSettings, symbols: Sequence[str], quotes: Mapping[str, float], account: str = ""
) -> CheckLine:
    """Report whether the account pays for a call and for a put at the money now, and a cure if not.

    Args:
        settings: of an option desk.
        symbols: of the desk; the first is the underlying.
        quotes: USD by symbol: the underlying's price, and the asks of contracts near the money; 0 without one.
        account: as of `capital_finding`.
    """
    trading = settings.trading()
    equity = Decimal(str(_equity(settings, _account_state_of(settings.paths.state_dir), account)))
    asks = [(contract, Decimal(str(ask))) for name, ask in quotes.items() if (contract := parse_occ(name)) and ask > 0]
    dates = sorted({contract.expiry for contract, _ in asks})
    spot, least = Decimal(str(quotes.get(symbols[0], 0.0))), trading.contracts.min_days
    if len(dates) <= least:
        return CheckLine(SUBJECT, WARN, "not checked: no contract near the money has an ask now")
    of_day = [(contract, ask) for contract, ask in asks if contract.expiry == dates[least]]
    limits = {}
    for right, name in ((1, "call"), (-1, "put")):
        near = min(
            (one for one in of_day if one[0].right == right), key=lambda one: abs(one[0].strike - spot), default=None
        )
        if near is not None:
            limits[f"a {name} at {near[1]:,.2f}"] = near[1] * (1 + Decimal(str(trading.execution.entry_slack)))
    dear = [words for words, limit in limits.items() if not _pays(trading, equity, limit, trading.sizing)]
    now = f"{equity:,.2f} USD, contracts at the money that end {dates[least]}: {' and '.join(limits)} USD a share"
    if not dear:
        return CheckLine(SUBJECT, OK, f"{now}: an entry pays for each")
    part = f"{len(dear)} of {len(limits)} entries cost more than one position may"
    fitting = [
        part
        for part in FRACTIONS
        if part > trading.sizing.premium_fraction
        and all(
            _pays(trading, equity, limit, replace(trading.sizing, premium_fraction=part)) for limit in limits.values()
        )
    ]
    cure = f"sizing.premium_fraction = {fitting[0]:g} fits them" if fitting else "add capital"
    tape = "rltraderd --dry-run --check says it of a whole tape, with other settings"
    return CheckLine(SUBJECT, WARN, f"{now}; {part}: {cure}; {tape}")


def _pays(trading: Trading, equity: Decimal, limit: Decimal, sizing: Sizing) -> bool:
    """Return whether the account pays for the least size at this limit in USD a share."""
    cost = limit * contracts_for(equity, limit, sizing) * OPTION_MULTIPLIER
    return 0 < cost <= min(trading.risk.premium_max_usd, equity)


def _fractions(
    settings: DeskSettings, equity: float, journal: _AccountState | None, prices: list[float]
) -> tuple[bool, str]:
    """Return whether the desk holds fractions, and why; "" if its first basket will choose by the prices."""
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
