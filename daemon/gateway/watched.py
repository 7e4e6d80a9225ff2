"""A running gateway's status, each second: as a file for the dashboard, and as Prometheus metrics.

The event loop makes the status; the scrape's thread reads only the newest one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.registry import Collector

from daemon.alpaca_api.wire import Json
from daemon.gateway.journal import COMMIT_BOUNDS_S
from daemon.gateway.server import GatewayServer, status_of
from daemon.host.whole_files import write_whole
from daemon.operator.gateway_view import STATUS_FILE
from daemon.operator.metrics.exposition import GATEWAY_ALARMS, GATEWAY_METRICS, Exposition
from strategies.kit.units import SECOND_NS

EVERY_S = 1.0


class GatewayStatusFile(Collector):
    """The newest status of one gateway, in `folder` and as a collector."""

    def __init__(self, server: GatewayServer, folder: Path) -> None:
        self._server, self._file = server, folder / STATUS_FILE
        self._newest = self._look()
        self._process = ProcessCollector(registry=None)

    async def run(self) -> None:
        """Renew the status each second until cancelled; a disk that refuses the file stops nothing."""
        while True:
            self._newest = self._look()
            with contextlib.suppress(OSError):
                await asyncio.to_thread(write_whole, self._file, json.dumps(self._newest).encode(), 0o640)
            await asyncio.sleep(EVERY_S)

    def _look(self) -> Json:
        gateway = self._server.gateway
        return status_of(gateway) | {
            "sent": dict(gateway.orders_sent),
            "alarms": dict(gateway.alarms_raised),
            "refused": dict(self._server.refusals),
            "budgets": gateway.upstream.budgets,
        }

    def registry(self) -> CollectorRegistry:
        """Return a registry with only this collector."""
        registry = CollectorRegistry()
        registry.register(self)
        return registry

    def describe(self) -> list[Metric]:
        """Return nothing: the names are declared elsewhere."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the families of one scrape."""
        status, scrape = self._newest, Exposition("gateway", GATEWAY_METRICS)
        for row in status["accounts"]:
            name = row["name"]
            scrape.add("rltrader_gateway_equity_usd", float(row["equity"]), sub_account=name)
            scrape.add("rltrader_gateway_cash_usd", float(row["cash"]), sub_account=name)
            scrape.add("rltrader_gateway_open_orders", row["open_orders"], sub_account=name)
        for place in ("sum", "broker"):
            for figure in ("equity", "cash"):
                if status[place][figure]:
                    scrape.add(f"rltrader_gateway_{place}_{figure}_usd", float(status[place][figure]))
        if status["reported_ns"]:
            scrape.add("rltrader_gateway_last_broker_report_timestamp_seconds", status["reported_ns"] / SECOND_NS)
        scrape.add("rltrader_gateway_differences", len(status["differences"]))
        scrape.add("rltrader_gateway_doubts", len(status["doubts"]))
        scrape.add("rltrader_gateway_ready", status["ready"])
        scrape.add("rltrader_gateway_halted", status["halt"] is not None)
        for name, count in status["sent"].items():
            scrape.add("rltrader_gateway_orders_total", count, sub_account=name)
        for name in GATEWAY_ALARMS:
            scrape.add("rltrader_gateway_alarms_total", status["alarms"].get(name, 0), alarm=name)
        for code, count in status["refused"].items():
            scrape.add("rltrader_gateway_refusals_total", count, status=code)
        for queue, calls in status["budgets"].items():
            scrape.add("rltrader_gateway_budget_left", calls, queue=queue)
        commits = self._server.gateway.journal.commits
        scrape.add_histogram("rltrader_gateway_commit_seconds", COMMIT_BOUNDS_S, commits.cumulative(), commits.total_s)
        scrape.take_over(self._process.collect())
        yield from scrape
