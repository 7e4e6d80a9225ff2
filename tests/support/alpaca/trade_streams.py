"""Short timeouts for the tests of the trading stream."""

from __future__ import annotations

from daemon.brokers.alpaca.trading.trade_stream import StreamDeadlines

QUICK = StreamDeadlines(
    open_s=1,
    reply_s=0.1,
    ping_s=0.1,
    pong_s=0.1,
    close_s=0.5,
    first_pause_s=0.005,
    longest_pause_s=0.02,
    throttled_s=0.05,
    unauthorized_s=0.05,
)
