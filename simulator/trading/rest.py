"""Trading REST with scripted faults of reads; see `daemon.alpaca_api.trading_rest`."""

from __future__ import annotations

from aiohttp import web

from daemon.alpaca_api import trading_rest
from daemon.alpaca_api.books import ActivityRow
from simulator.trading import settlement
from simulator.trading.account import Account
from simulator.trading.backend import Reads, Trading
from strategies.kit.units import SECOND_NS

ACCOUNT = web.RequestKey("account", Account)


class FaultyTradingRest(trading_rest.TradingRest[Account]):
    """The handlers of one server."""

    def __init__(self, trading: Trading) -> None:
        super().__init__(trading, ACCOUNT)
        self._venue = trading.venue

    def reads(self, request: web.Request) -> Reads:
        """Return reads of the present, or of the past under `stale_read`, which each read takes."""
        return Reads(self._venue, lambda: self._as_of(request))

    def _as_of(self, request: web.Request) -> int | None:
        """Return the time of a stale read; None for the present."""
        context = {"method": request.method, "path": request.path, "key": request[ACCOUNT].key}
        stale = self._venue.faults.take("stale_read", context)
        if stale is None:
            return None
        return self._venue.clock.now_ns() - int(float(stale.get("age_s", 5)) * SECOND_NS)

    def rows(self, request: web.Request, types: frozenset[str]) -> list[ActivityRow]:
        """Return the rows that match the filters, without those of a corporate action that the script withholds."""
        rows, faults = super().rows(request, types), self._venue.faults
        if not faults.waiting("action_line_late"):
            return rows
        key = request[ACCOUNT].key
        return [
            row
            for row in rows
            if row.fields.get("activity_type") not in settlement.MOVE_SHARES
            or faults.take("action_line_late", {"key": key, "symbol": row.fields.get("symbol")}) is None
        ]
