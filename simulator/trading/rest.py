"""Trading REST and the stream of activities with scripted faults; the protocols are those of `daemon.alpaca_api`."""

from __future__ import annotations

import asyncio

from aiohttp import web

from daemon.alpaca_api import activity_stream, trading_rest
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


class FaultyActivityStream(activity_stream.ActivityStreamServer[Account]):
    """The endpoint for all accounts of one server."""

    def __init__(self, trading: Trading) -> None:
        super().__init__(trading, trading.venue.authentic)
        self._faults, self._clock = trading.venue.faults, trading.venue.clock

    def denied(self, key: str, account: Account | None) -> int:
        """Return 401 for wrong credentials, or the scripted status."""
        refusal = self._faults.take("activity_refused", {"key": key})
        return super().denied(key, account) if refusal is None else int(refusal.get("status", 404))

    async def pause(self, account: Account) -> None:
        """Wait for the account's next row: in virtual time each poll is a step of the clock."""
        await account.next_activity(self._clock)

    async def write(self, response: web.StreamResponse, account: Account, row: ActivityRow, event_id: str) -> bool:
        """Send one event; returns False if a fault cuts the connection before it."""
        context = {"key": account.key, "activity_type": row.fields["activity_type"]}
        if self._faults.take("activity_dropped", context) is not None:
            return False
        late = self._faults.take("activity_late", context)
        if late is not None:
            await asyncio.sleep(float(late.get("seconds", 1.0)))
        data = self.line(account, row, event_id)
        garbage = self._faults.take("activity_garbage", context)
        if garbage is not None:
            data = str(garbage.get("text", '{"event_id": 7')).encode("latin-1")
        copies = 1 if self._faults.take("activity_doubled", context) is None else 2
        await response.write((b"data: " + data + b"\n\n") * copies)
        return True
