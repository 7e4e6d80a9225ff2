"""What the gateway adds to an order on its way to the broker: part of `make bench`.

The loopback broker, `rltrader-gateway` in a process of its own, and a desk's REST queue here. In turns an order goes
to the broker at once (an account of its own) and through the gateway; measured is the time until its bytes are at the
broker, and until its answer is back. The gateway journals before it sends: a bare write and fsync of a page, in the
journal's folder in the same run, stands beside.

With `--load` eight sub-accounts hear the minute bars and quotes of 50 shares each, at 60 times real speed, through one
connection, and one client beside them hears 50 at the broker itself: how late each bar is, how many came, and what the
gateway's process takes of a processor. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgpack
from aiohttp import web
from websockets.asyncio.client import connect

from bench.bench_latency import percentiles
from daemon.alpaca_api.trading_rest import TradingRest
from daemon.brokers.alpaca.rest.client import Access, RequestQueue
from daemon.brokers.alpaca.trading.trading import TradingOrders
from daemon.core.effects import SubmitOrder
from daemon.host.time.clock import Clock
from daemon.pacing import TokenBucket
from simulator.clock import SimClock
from simulator.server import RunningServer, serving
from simulator.trading.account import Account
from strategies.kit.units import MINUTE_NS
from tests.support.gateway_stage import OPEN_NS, market

PAIR_S = 0.75  # between two orders of a way: the gateway sends at most 100 a minute
CASH = Decimal(10_000_000)
PAGE = bytes(8192)
START_S = 60.0
ARRIVED: dict[str, float] = {}


def stamp_arrivals() -> None:
    """Note when the bytes of an order are at the broker, by its name."""
    submit = TradingRest.submit

    async def submitting(trading: TradingRest[Any], request: web.Request) -> web.Response:
        now = time.monotonic()
        ARRIVED[json.loads(await request.text())["client_order_id"]] = now
        return await submit(trading, request)

    TradingRest.submit = submitting  # type: ignore[method-assign,assignment]


def started(
    folder: Path, broker: RunningServer, clock: SimClock, names: list[str]
) -> tuple[subprocess.Popen[str], int, list[tuple[str, str]]]:
    """Start a gateway with these sub-accounts; returns it, its port and the sub-accounts' keys."""
    account = broker.server.account
    keys = {"APCA_API_KEY_ID": account.key, "APCA_API_SECRET_KEY": account.secret}
    file, command = folder / "gateway.toml", [sys.executable, "-m", "daemon.gateway", "--config", "gateway.toml"]
    subs = [word for name in names for word in ("--sub", f"{name}:500000:shares")]
    first = [*command, "init", "--url", broker.trading_url, *subs, "--port", "0"]
    environment = os.environ | keys | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))}
    subprocess.run(first, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    table = "".join(f"{key} = {json.dumps(value)}\n" for key, value in clock.settings().items())
    text = re.sub(r"stream_symbols_max = \d+", f"stream_symbols_max = {len(names) * SYMBOLS}", file.read_text())
    file.write_text(f"{text}\n[clock]\n{table}\n[log]\nformat = 'json'\n")
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    port, until = 0, time.monotonic() + START_S
    for line in process.stderr:
        if not line.startswith("{"):
            raise RuntimeError(line + process.stderr.read())
        entry = json.loads(line)
        port = entry.get("port", port)
        if entry["event"] == "gateway_ready" or time.monotonic() > until:
            break
    places = [folder / "gateway" / "keys" / name for name in names]
    pairs = [tuple((place / name).read_text().strip() for name in keys) for place in places]
    return process, port, [(key, secret) for key, secret in pairs]


async def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """All figures of so many orders on each way."""
    stamp_arrivals()
    clock = SimClock.starting_now(OPEN_NS + 10 * MINUTE_NS)
    accounts = [
        Account("PKGATEWAY00000000000", "s" * 40, cash=CASH, margin=1, account_number="PA1"),
        Account("PKDIRECT000000000000", "t" * 40, cash=CASH, margin=1, account_number="PA2"),
    ]
    with serving(market(), clock, accounts=accounts) as broker:
        gateway, port, (keys,) = await asyncio.to_thread(started, folder, broker, clock, ["bench"])
        try:
            direct = (accounts[1].key, accounts[1].secret)
            ways = {"direct": _way(broker.trading_url, *direct), "gateway": _way(f"http://127.0.0.1:{port}", *keys)}
            took = await _in_turns(ways, rounds, folder)
            for queue, _ in ways.values():
                await queue.close()
        finally:
            gateway.terminate()
            await asyncio.to_thread(gateway.wait)
    added = {
        what: {
            name: round(percentiles(took["gateway", what])[name] - percentiles(took["direct", what])[name], 3)
            for name in ("p50_ms", "p99_ms")
        }
        for what in ("to_broker", "answered")
    }
    figures = {f"{way}_{what}": percentiles(times) for (way, what), times in took.items()}
    return {"rounds": rounds, **figures, "added": added, "aim_ms": "one fsync + 1 (p50), + 3 (p99)"}


def _way(url: str, key: str, secret: str) -> tuple[RequestQueue, TradingOrders]:
    clock = Clock.real()
    queue = RequestQueue("orders", TokenBucket(clock.now_ns, 6000, 1000), clock)
    return queue, TradingOrders(Access(url, key, secret), queue)


async def _in_turns(
    ways: dict[str, tuple[RequestQueue, TradingOrders]], rounds: int, folder: Path
) -> dict[tuple[str, str], list[float]]:
    took: dict[tuple[str, str], list[float]] = {(way, what): [] for way in ways for what in ("to_broker", "answered")}
    took["fsync", "page"] = []
    chance = random.Random(1)
    with (folder / "block").open("wb", buffering=0) as file:
        for number in range(rounds + 5):
            names = list(ways)
            chance.shuffle(names)
            for way in names:
                name = f"{way}-{number}"
                order = SubmitOrder(name, "SPY", 1, 1, Decimal("400.00"), "", 2**62)
                began = time.monotonic()
                await ways[way][1].submit(order)
                answered = time.monotonic()
                if number >= 5:  # connections and caches are warm
                    took[way, "to_broker"].append(ARRIVED[name] - began)
                    took[way, "answered"].append(answered - began)
                await asyncio.sleep(PAIR_S / 2)
            began = time.monotonic()
            file.write(PAGE)
            os.fsync(file.fileno())
            took["fsync", "page"].append(time.monotonic() - began)
    return took


# --- eight sub-accounts -----------------------------------------------------------------------------------------------

SUBS, SYMBOLS, SPEED = 8, 50, 60.0
DIRECT = ("PKDIRECT000000000000", "t" * 40)


class Listener:
    """One client of the stock stream: when each bar came, by symbol and start."""

    def __init__(self, url: str, keys: tuple[str, str], symbols: list[str]) -> None:
        self.came: dict[tuple[str, int], float] = {}
        self.subscribed = asyncio.Event()
        self._url, self._keys, self._symbols = url, keys, symbols

    async def run(self) -> None:
        """Hear bars and quotes until cancelled."""
        headers = {"Content-Type": "application/msgpack"}
        async with connect(self._url, additional_headers=headers, max_size=None, proxy=None) as socket:
            await socket.recv()
            key, secret = self._keys
            await socket.send(msgpack.packb({"action": "auth", "key": key, "secret": secret}))
            await socket.recv()
            subscription = {"action": "subscribe", "bars": self._symbols, "quotes": self._symbols}
            await socket.send(msgpack.packb(subscription))
            async for frame in socket:
                now = time.time()
                for message in msgpack.unpackb(frame):
                    if message["T"] == "subscription":
                        self.subscribed.set()
                    elif message["T"] == "b":
                        self.came.setdefault((message["S"], message["t"].to_unix_nano()), now)


async def load(folder: Path, seconds: float) -> dict[str, Any]:
    """Lateness and loss of bars through the gateway and at the broker itself, in the same run."""
    symbols = [f"S{chr(65 + n // 26)}{chr(65 + n % 26)}" for n in range(SUBS * SYMBOLS)]
    clock = SimClock.starting_now(OPEN_NS + 10 * MINUTE_NS, SPEED)
    accounts = [
        Account("PKGATEWAY00000000000", "s" * 40, cash=CASH, margin=1, account_number="PA1"),
        Account(*DIRECT, cash=CASH, margin=1, account_number="PA2"),
    ]
    names = [f"sub{number}" for number in range(SUBS)]
    with serving(market(*symbols), clock, accounts=accounts) as broker:
        gateway, port, pairs = await asyncio.to_thread(started, folder, broker, clock, names)
        parts = [symbols[n * SYMBOLS : (n + 1) * SYMBOLS] for n in range(SUBS)]
        through = [Listener(f"ws://127.0.0.1:{port}/v2/sip", *it) for it in zip(pairs, parts, strict=True)]
        direct = Listener(broker.stream_url, DIRECT, parts[0])
        tasks = [asyncio.create_task(listener.run()) for listener in (*through, direct)]
        try:
            await asyncio.gather(*(listener.subscribed.wait() for listener in (*through, direct)))
            since_ns, began, processor_before = clock.now_ns() + MINUTE_NS, time.monotonic(), _processor_s(gateway.pid)
            await asyncio.sleep(seconds)
            used, until_ns = _processor_s(gateway.pid) - processor_before, clock.now_ns() - 2 * MINUTE_NS
            lasted = time.monotonic() - began
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            gateway.terminate()
            await asyncio.to_thread(gateway.wait)
    minutes = [bar.start_ns for bar in broker.server.market.bars["SPY"] if since_ns <= bar.start_ns < until_ns]
    lost = sum((s, m) not in it.came for it, part in zip(through, parts, strict=True) for s in part for m in minutes)

    def late(listener: Listener) -> list[float]:
        sent_at = {m: clock.anchor_unix_s + (m + MINUTE_NS - clock.sim_start_ns) / SPEED / 1e9 for m in minutes}
        return [at - sent_at[minute] for (_, minute), at in listener.came.items() if minute in sent_at]

    return {
        "sub_accounts": SUBS,
        "symbols_each": SYMBOLS,
        "speed": SPEED,
        "bars": len(minutes) * SUBS * SYMBOLS,
        "lost": lost,
        "direct_late": percentiles(late(direct)),
        "gateway_late": percentiles([at for listener in through for at in late(listener)]),
        "gateway_processor": round(used / lasted, 3),
    }


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=80, help="orders on each way (80: a minute)")
    parser.add_argument("--dir", type=Path, help="folder of the journal: its disk is what fsync waits for (a new one)")
    parser.add_argument("--load", type=float, metavar="SECONDS", help="eight sub-accounts with 50 shares, so long")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        work = load(Path(folder), options.load) if options.load else measure(Path(folder), options.rounds)
        sys.stdout.write(json.dumps(asyncio.run(work), indent=1) + "\n")


if __name__ == "__main__":
    main()
