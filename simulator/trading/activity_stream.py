"""The stream of activities with scripted faults; see `daemon.alpaca_api.activity_stream`."""

from __future__ import annotations

import asyncio

from aiohttp import web

from daemon.alpaca_api import activity_stream
from daemon.alpaca_api.books import ActivityRow
from simulator.trading.account import Account
from simulator.trading.backend import Trading


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
