"""Books of one account as REST shows them: cash, positions, executions, activities, and the account object.

Arithmetic in `Decimal`; cash and a position change together, through `trade` and `amend`. Makes no decision.
"""

from __future__ import annotations

import dataclasses
import random
import uuid
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal

from daemon.alpaca_api.wire import ZERO, Json, asset_id, money, multiplier, text
from daemon.core.session import NEW_YORK
from strategies.kit.units import SECOND_NS


@dataclasses.dataclass(frozen=True, slots=True)
class PositionChange:
    """One change of a position: a fill, or a settlement. `quantity` is signed, `price` in USD a share.

    `rounding` is the part of its cost from rounding to cents, USD.
    """

    symbol: str
    quantity: Decimal
    price: Decimal
    time_ns: int
    order_id: str = ""
    execution_id: str = ""
    rounding: Decimal = ZERO

    @property
    def cost(self) -> Decimal:
        """USD that the trade takes from the cash; negative if it adds cash."""
        return self.quantity * self.price * multiplier(self.symbol) + self.rounding


@dataclasses.dataclass(frozen=True, slots=True)
class AlpacaPosition:
    """A holding: signed quantity, average entry price in USD a share; `lastday_price` is the last close, if known."""

    symbol: str
    qty: Decimal
    average: Decimal
    lastday_price: Decimal | None = None
    do_not_exercise: bool = False

    def after(self, quantity: Decimal, price: Decimal) -> AlpacaPosition:
        """Return the holding after a trade of signed `quantity`: adding averages the price, reducing keeps it."""
        total = self.qty + quantity
        if self.qty * quantity >= 0:
            average = (self.average * self.qty + price * quantity) / total if total else ZERO
        else:
            average = self.average if self.qty * total > 0 else price
        return dataclasses.replace(self, qty=total, average=average)

    def shown(self, price: Decimal, available: Decimal) -> Json:
        """Return REST's position object at the current `price` (USD a share); `available`: units not held by orders."""
        size = multiplier(self.symbol)
        basis = self.average * self.qty * size
        value = price * self.qty * size
        gain = value - basis
        previous_close = self.average if self.lastday_price is None else self.lastday_price
        return {
            "asset_id": asset_id(self.symbol),
            "symbol": self.symbol,
            "exchange": "" if size == 100 else "ARCA",
            "asset_class": "us_option" if size == 100 else "us_equity",
            "asset_marginable": size == 1,
            "qty": text(self.qty),
            "qty_available": text(available),
            "avg_entry_price": text(self.average.quantize(Decimal("1e-6"))),
            "side": "long" if self.qty > 0 else "short",
            "market_value": text(value),
            "cost_basis": text(basis.quantize(Decimal("1e-6"))),
            "unrealized_pl": text(gain.quantize(Decimal("1e-6"))),
            "unrealized_plpc": _ratio(gain, abs(basis)),
            "unrealized_intraday_pl": text(((price - previous_close) * self.qty * size).quantize(Decimal("1e-6"))),
            "unrealized_intraday_plpc": _ratio((price - previous_close) * self.qty, abs(previous_close * self.qty)),
            "current_price": text(price),
            "lastday_price": text(previous_close.quantize(Decimal("1e-6"))),
            "change_today": _ratio(price - previous_close, previous_close),
        }


def _ratio(part: Decimal, whole: Decimal) -> str:
    return text((part / whole).quantize(Decimal("1e-16"))) if whole else "0"


@dataclasses.dataclass(frozen=True, slots=True)
class ActivityRow:
    """A row of the activities. `time_ns` determines its id; REST shows it from `visible_ns` on.

    `amends` is the execution that a bust or correction changes.
    """

    id: str
    time_ns: int
    visible_ns: int
    fields: Json
    amends: str = ""


class AccountBooks:
    """One account's cash (USD), positions by symbol, executions and activities (oldest first).

    `level` is the approved option level, 0 to 3; `margin` the multiplier of the buying power: 2, or 1 for an account
    that buys only with cash. `seed` determines all ids of the books.
    """

    def __init__(self, seed: str, *, cash: Decimal, level: int, margin: int, account_number: str) -> None:
        self.cash = cash
        self.level = level
        self.margin = margin
        self.account_number = account_number
        self.last_equity = cash
        self._random = random.Random(seed)  # noqa: S311 (names, no secrets)
        self.id = self.new_id()
        self.positions: dict[str, AlpacaPosition] = {}
        self.trades: list[PositionChange] = []
        self.activities: list[ActivityRow] = []
        self.blocked = False
        self.configuration: Json = {
            "fractional_trading": True,
            "max_margin_multiplier": str(margin),
            "max_options_trading_level": None,
            "no_shorting": False,
            "ptp_no_exception_entry": False,
            "suspend_trade": False,
            "trade_confirm_email": "all",
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.account_number}, cash {self.cash}, {len(self.positions)} positions)"

    def new_id(self) -> str:
        """Return a fresh UUID; the same sequence in every run of one seed."""
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def trading_level(self) -> int:
        """The effective option level: the approved one, or less by the configuration."""
        level = self.configuration["max_options_trading_level"]
        return self.level if level is None else min(self.level, int(level))

    def quantity(self, symbol: str) -> Decimal:
        """Return the signed position, 0 without one."""
        position = self.positions.get(symbol)
        return ZERO if position is None else position.qty

    def trade(self, trade: PositionChange) -> None:
        """Book a trade: cash and position change together; a position of zero is removed."""
        self.trades.append(trade)
        self.cash -= trade.cost
        self._hold(trade)

    def amend(self, old: PositionChange, new: PositionChange | None) -> None:
        """Replace the booked `old` by `new` (None: only remove it); the position is computed anew from its trades."""
        where = self.trades.index(old)
        self.trades[where : where + 1] = [] if new is None else [new]
        self.cash += old.cost - (ZERO if new is None else new.cost)
        self.positions.pop(old.symbol, None)
        for trade in self.trades:
            if trade.symbol == old.symbol:
                self._hold(trade)

    def _hold(self, trade: PositionChange) -> None:
        position = self.positions.get(trade.symbol, AlpacaPosition(trade.symbol, ZERO, ZERO))
        new_position = position.after(trade.quantity, trade.price)
        if new_position.qty:
            self.positions[trade.symbol] = new_position
        else:
            self.positions.pop(trade.symbol, None)

    def note(
        self, now_ns: int, fields: Json, *, visible_ns: int | None = None, name: str = "", amends: str = ""
    ) -> ActivityRow:
        """Add a row to the activities; its id is `YYYYMMDDHHMMSSmmm::uuid` in New York time.

        `name` is the uuid: a fill's is its execution id, as observed at the real service.
        """
        moment = datetime.fromtimestamp(now_ns // SECOND_NS, NEW_YORK)
        label = f"{moment:%Y%m%d%H%M%S}{now_ns // 1_000_000 % 1000:03d}::{name or self.new_id()}"
        row = ActivityRow(label, now_ns, now_ns if visible_ns is None else visible_ns, {"id": label, **fields}, amends)
        self.activities.append(row)
        return row

    def figures(
        self,
        mark: Callable[[AlpacaPosition], Decimal],
        *,
        blocked: bool = False,
        reserved: Decimal = ZERO,
        unsettled: Decimal = ZERO,
        deficit: Decimal = ZERO,
    ) -> Json:
        """Return the account object of REST with every position at `mark` USD a share.

        `reserved` is subtracted from the buying power for working orders, `unsettled` is what a cash account may not
        spend yet, `deficit` raises the required margin this far above the equity; all in USD.
        """
        values = {p.symbol: mark(p) * p.qty * multiplier(p.symbol) for p in self.positions.values()}
        longs = sum((value for value in values.values() if value > 0), ZERO)
        shorts = sum((value for value in values.values() if value < 0), ZERO)
        stock = sum((abs(value) for symbol, value in values.items() if multiplier(symbol) == 1), ZERO)
        options = sum((value for symbol, value in values.items() if multiplier(symbol) == 100), ZERO)
        equity = self.cash + longs + shorts
        excess = max(equity - options - stock / 2 - reserved, ZERO)
        settled_usd = self.cash - unsettled - reserved
        plain = max(min(settled_usd, excess), ZERO)
        power = excess * self.margin if self.margin > 1 else max(settled_usd, ZERO)
        return {
            "id": self.id,
            "account_number": self.account_number,
            "status": "ACTIVE",
            "crypto_status": "ACTIVE",
            "currency": "USD",
            "cash": money(self.cash),
            "buying_power": money(power),
            "regt_buying_power": money(power),
            "non_marginable_buying_power": money(plain),
            "options_buying_power": money(plain),
            "equity": money(equity),
            "last_equity": money(self.last_equity),
            "portfolio_value": money(equity),
            "long_market_value": money(longs),
            "short_market_value": money(shorts),
            "initial_margin": money(stock / 2 + max(options, ZERO)),
            "maintenance_margin": money(equity + deficit if deficit else stock * Decimal("0.3") + max(options, ZERO)),
            "last_maintenance_margin": "0",
            "sma": "0",
            "multiplier": str(self.margin),
            "accrued_fees": "0",
            "trading_blocked": blocked or self.blocked,
            "transfers_blocked": False,
            "account_blocked": blocked or self.blocked,
            "trade_suspended_by_user": self.configuration["suspend_trade"],
            "shorting_enabled": not self.configuration["no_shorting"],
            "created_at": "2024-01-02T15:04:05.678901Z",
            "options_approved_level": self.level,
            "options_trading_level": self.trading_level(),
        }
