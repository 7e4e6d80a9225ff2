"""From a bar's bytes leaving the loopback broker to its order's bytes arriving there, by stage: `make bench`.

The broker is a process of its own; the daemon is one too, run whole with a few functions wrapped by time stamps, which
cost a microsecond each. All read CLOCK_MONOTONIC. References, at the same time on the same machine: a bare
websocket-to-POST round trip over the same libraries, and one 4 KiB write with fsync on the same disk.

Three sessions of 100 seconds: `as_it_is`; `loaded`, with a load made here (a process for each core that computes, and
one that writes and syncs); and `idle_hours`, where an order comes only after an hour without any, at a broker that
closes a connection after four simulated minutes without a request. `--only` names one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import multiprocessing
import os
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import numpy as np
import requests
import uvloop
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from websockets.asyncio.client import connect

from bench.tapes import recorded_minutes, synthetic_minutes
from strategies.kit.units import SECOND_NS

RATE = 240.0  # simulated seconds a real one: a bar every quarter of a second
HISTORY_SESSIONS = 2  # of the tape, before the one that is traded
BEFORE_OPEN_S, AFTER_CLOSE_S = 20 * 60, 120  # simulated
IDLE_BARS = 60  # an hour without an order, in the session that idles
PURCHASES = 4  # bars of two purchases and their sales
KEEP_S = 1.0  # real ones, so four simulated minutes: an idle connection is closed then
BAR_MARK = b"\xa1T\xa1b"  # {"T": "b" ...} in msgpack
KEY, SECRET = "PKTEST00000000000000", "loopback-secret-0000000000000000000000000"
ALTERNATING: dict[str, dict[str, object]] = {
    "risk": {"orders_per_minute": 1000, "no_entry_before_close_min": 8},
    "sizing": {"stop_loss": 0.99, "take_profit": 100.0, "max_contracts": 1},
    "log": {"level": "warning"},
}
"""An order every minute: what is bought in one is sold in the next."""
STAGES = {
    "wire": ("sent", "received"),  # the server's send, the kernel, websockets, msgpack
    "parse": ("received", "put"),  # the feed's checks and merging, up to the intake
    "step": ("put", "stepped"),  # features, policy, decision, gates, and the rows' JSON and hashes
    "journal": ("stepped", "released"),  # to the writer's thread, commit with fsync, and back
    "queue": ("released", "posting"),  # task, lane and its thread
    "post": ("posting", "arrived"),  # requests, the kernel, until the server has read the body
    "bar_to_order": ("sent", "arrived"),
}
SESSIONS = ("as_it_is", "loaded", "idle_hours")
Stamps = dict[str, dict[str, float]]
ECHOES, ECHO_EVERY_S = 300, 0.3  # through nearly the whole session: the machine treats both alike


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50, p99 and the largest, in milliseconds."""
    p50, p99, most = np.percentile(np.array(seconds) * 1e3, [50, 99, 100]).tolist()
    return {"p50_ms": round(p50, 3), "p99_ms": round(p99, 3), "max_ms": round(most, 3)}


# --- the broker's process ---------------------------------------------------------------------------------------------


class Stamped:
    """aiohttp with time stamps: when frames with bars left, when the bytes of requests arrived."""

    def __init__(self) -> None:
        self.sent: dict[str, float] = {}  # start of the bar, ns -> s
        self.arrived: dict[str, float] = {}  # client order id -> s
        self.connected: dict[str, float] = {}  # client order id -> s at which its connection was opened
        self._opened: dict[int, float] = {}
        self._heard: dict[int, float] = {}

    def install(self) -> None:
        """Wrap the classes of this process."""
        from daemon.alpaca_api.trading_rest import TradingRest

        send, submit = web.WebSocketResponse.send_bytes, TradingRest.submit
        hear, open_ = RequestHandler.data_received, RequestHandler.connection_made

        async def sending(socket: web.WebSocketResponse, data: bytes, compress: int | None = None) -> None:
            if BAR_MARK in data:
                now = time.monotonic()
                for message in msgpack.unpackb(data):
                    if message["T"] == "b":
                        self.sent.setdefault(str(message["t"].to_unix_nano()), now)
            await send(socket, data, compress)

        def hearing(handler: RequestHandler, data: bytes) -> None:
            self._heard[id(handler)] = time.monotonic()
            hear(handler, data)

        async def submitting(trading: TradingRest[Any], request: web.Request) -> web.Response:
            name, connection = json.loads(await request.text())["client_order_id"], id(request.protocol)
            self.arrived[name], self.connected[name] = self._heard[connection], self._opened[connection]
            return await submit(trading, request)

        def opened(handler: RequestHandler, transport: asyncio.BaseTransport) -> None:
            self._opened[id(handler)] = time.monotonic()
            open_(handler, transport)

        for owner, name, wrapped in (
            (web.WebSocketResponse, "send_bytes", sending),
            (RequestHandler, "data_received", hearing),
            (RequestHandler, "connection_made", opened),
            (TradingRest, "submit", submitting),
        ):
            setattr(owner, name, wrapped)


def _serve(pipe: Connection, tape: str, config: str, state_dir: str) -> None:
    """Serve one session; the time stamps go back through the pipe."""
    import simulator.server

    simulator.server.KEEP_S = KEEP_S
    stamped = Stamped()
    stamped.install()
    asyncio.run(_session(pipe, tape, Path(config), Path(state_dir), stamped))


async def _session(pipe: Connection, tape: str, config: Path, state_dir: Path, stamped: Stamped) -> None:
    from simulator.clock import SimClock
    from simulator.prices.market import Market
    from simulator.server import AlpacaServer, RunningServer
    from simulator.trading.account import Account
    from simulator.trading.venue import Rules
    from tests.support.desks.live_desk import LOOSE, write_config

    market = Market.from_bars(tape)
    day = [session for session in market.sessions if market.session_bars(session.date)][HISTORY_SESSIONS]
    clock = SimClock.starting_now(day.open_ns - BEFORE_OPEN_S * SECOND_NS, RATE)
    account = Account(KEY, SECRET, cash=Decimal(1_000_000))
    async with AlpacaServer(market, clock, accounts=(account,), rules=Rules(fill_sizes=(100, 100))) as server:
        write_config(config, RunningServer(server, asyncio.get_running_loop()), clock, state_dir, LOOSE, ALTERNATING)
        pipe.send("serving")
        await clock.sleep_until(day.close_ns + AFTER_CLOSE_S * SECOND_NS)
        pipe.send({"sent": stamped.sent, "arrived": stamped.arrived, "connected": stamped.connected})
        await asyncio.to_thread(pipe.recv)


# --- the daemon's process ---------------------------------------------------------------------------------------------


class Watch:
    """The daemon's order path with time stamps, by bar (its start, ns) or by client order id; seconds of commits.

    With `idle_bars`, so many bars pass without an order before two purchases, each sold in the minute after it.
    """

    def __init__(self, idle_bars: int) -> None:
        self._idle_bars, self._answers = idle_bars, 0
        self.stamps: Stamps = {name: {} for name in ("received", "put", "stepped", "released", "posting")}
        self.bar_of: dict[str, str] = {}
        self.commits: list[float] = []
        self._bar = ""

    def install(self) -> None:
        """Wrap the classes of this process."""
        from daemon.brokers.alpaca.market.socket import StockStream
        from daemon.brokers.alpaca.trading.link import BrokerLink
        from daemon.brokers.alpaca.trading.trading import TradingOrders
        from daemon.core.effects import SubmitOrder
        from daemon.core.events import BarClosed, PolicyAnswered, QuotesReceived
        from daemon.engine.engine import Engine, Intake
        from daemon.journal.journal import Journal
        from daemon.models.runtime import OnnxPolicy

        def bar_received(_stream: object, message: dict[str, Any]) -> None:
            if message["T"] == "b":
                self._stamp("received", str(message["t"].to_unix_nano()))

        def bar_put(_intake: object, event: object) -> None:
            if isinstance(event, BarClosed):
                self._stamp("put", str(event.bar.start_ns))

        def stepped(_engine: object, event: object, step: Any) -> None:
            if isinstance(event, BarClosed):
                self._bar = str(event.bar.start_ns)
            elif not (isinstance(event, PolicyAnswered) or (isinstance(event, QuotesReceived) and event.closes_bar_ns)):
                self._bar = ""  # whatever is ordered now, no bar asked for it
            for effect in step.effects:
                if isinstance(effect, SubmitOrder) and self._bar:
                    self.bar_of[effect.client_order_id] = self._bar
                    self._stamp("stepped", effect.client_order_id)

        def released(_link: object, effects: Any) -> None:
            for effect in effects:
                if isinstance(effect, SubmitOrder):
                    self._stamp("released", effect.client_order_id)

        self._wrap(StockStream, "_take", call_before=bar_received)
        self._wrap(Intake, "put", call_before=bar_put)
        self._wrap(Engine, "_gather", call_after=stepped)
        self._wrap(BrokerLink, "release", call_before=released)
        self._wrap(
            TradingOrders, "_send", call_before=lambda _orders, order, *_: self._stamp("posting", order.client_order_id)
        )
        self._time(Journal, "commit")
        self._alternate(OnnxPolicy)

    def _stamp(self, stage: str, name: str) -> None:
        self.stamps[stage].setdefault(name, time.monotonic())

    def _wrap(
        self, owner: type, name: str, call_before: Callable[..., None] | None = None, call_after: Any = None
    ) -> None:
        call = getattr(owner, name)

        def wrapped(*arguments: Any) -> Any:
            if call_before is not None:
                call_before(*arguments)
            result = call(*arguments)
            if call_after is not None:
                call_after(*arguments)
            return result

        setattr(owner, name, wrapped)

    def _time(self, owner: type, name: str) -> None:
        call, took = getattr(owner, name), self.commits

        def timed(*arguments: Any) -> Any:
            began = time.monotonic()
            try:
                return call(*arguments)
            finally:
                took.append(time.monotonic() - began)

        setattr(owner, name, timed)

    def _alternate(self, owner: type) -> None:
        """The real network runs, its logits are replaced: BUY_CALL when flat (or HOLD for an hour), EXIT when not."""
        from strategies.option_scalper import ACTIONS, BUY_CALL, EXIT, FEATURES, HOLD, MARKET_FEATURES

        name = "answer"
        answer, side_at = getattr(owner, name), 4 * (MARKET_FEATURES - len(FEATURES))  # bytes from the window's end

        def alternating(policy: object, question: Any, now_ns: int) -> Any:
            answered, data = answer(policy, question, now_ns), question.observation.data
            logits = [0.0] * len(ACTIONS)
            has_position = struct.unpack_from("<f", data, len(data) + side_at)[0]
            self._answers += 1
            idles = self._answers % (self._idle_bars + PURCHASES) < self._idle_bars
            logits[EXIT if has_position else HOLD if idles else BUY_CALL] = 8.0
            return msgspec.structs.replace(answered, logits=tuple(logits))

        setattr(owner, name, alternating)


def _daemon(config: str, result: str, idle_bars: int) -> None:
    """Run `rltraderd` whole; what was stamped goes into a file."""
    os.environ.update({"APCA_API_KEY_ID": KEY, "APCA_API_SECRET_KEY": SECRET})
    from daemon.cli.daemon import main as rltraderd

    watch = Watch(idle_bars)
    watch.install()
    code = rltraderd(["--config", config])
    stamped = {"stamps": watch.stamps, "bar_of": watch.bar_of, "commits": watch.commits, "exit_code": code}
    Path(result).write_text(json.dumps(stamped))


# --- the run ----------------------------------------------------------------------------------------------------------


def measure(tape: Path, folder: Path, idle_bars: int = 0) -> dict[str, Any]:
    """All figures of a session. Raises RuntimeError when the daemon did not end cleanly."""
    spawn = multiprocessing.get_context("spawn")
    pipe, theirs = spawn.Pipe()
    config, result = folder / "config.toml", folder / "stamps.json"
    server = spawn.Process(target=_serve, args=(theirs, str(tape), str(config), str(folder / "state")), daemon=True)
    server.start()
    echo_pipe, echo_theirs = spawn.Pipe()
    echo = spawn.Process(target=serve_echoes, args=(echo_theirs,), daemon=True)
    echo.start()
    port = echo_pipe.recv()
    pipe.recv()
    daemon = spawn.Process(target=_daemon, args=(str(config), str(result), idle_bars), daemon=True)
    daemon.start()
    disk = uvloop.run(answer_echoes(port, folder))
    echo_pipe.send("done")
    bare: list[float] = echo_pipe.recv()
    while not pipe.poll(1.0):
        if daemon.exitcode is not None:
            raise RuntimeError(f"rltraderd ended early with {daemon.exitcode}")
    served: Stamps = pipe.recv()
    daemon.terminate()
    daemon.join(30)
    pipe.send("done")
    server.join(30)
    if not result.exists():
        raise RuntimeError(f"rltraderd ended with {daemon.exitcode} and left no time stamps")
    stamped = json.loads(result.read_text())
    chains = list(_chains(stamped, served))
    if idle_bars:
        return after_idle(chains) | {"exit_code": stamped["exit_code"]}
    p99 = float(np.percentile([chain["arrived"] - chain["sent"] for chain in chains], 99))
    return {
        "orders": len(chains),
        "bar_to_order_p99_of_fsyncs_p99": round(p99 / float(np.percentile(disk, 99)), 2),
        **{name: percentiles([c[end] - c[begin] for c in chains]) for name, (begin, end) in STAGES.items()},
        "commit_and_fsync": percentiles(stamped["commits"]),
        "reference_bare_round_trip": percentiles(bare),
        "reference_fsync_4k": percentiles(disk),
        "exit_code": stamped["exit_code"],
    }


def _chains(stamped: dict[str, Any], served: Stamps) -> list[dict[str, float]]:
    """The moments from a bar's sending to the arrival of the order that it caused, one dict per order."""
    by_bar = {"sent": served["sent"], **{name: stamped["stamps"][name] for name in ("received", "put")}}
    by_order = {name: served[name] for name in ("arrived", "connected")}
    by_order |= {name: stamped["stamps"][name] for name in ("stepped", "released", "posting")}
    chains = []
    for name, bar in stamped["bar_of"].items():
        if all(bar in stamps for stamps in by_bar.values()) and all(name in stamps for stamps in by_order.values()):
            chain = {stage: stamps[bar] for stage, stamps in by_bar.items()}
            chains.append(chain | {stage: stamps[name] for stage, stamps in by_order.items()})
    return chains


def after_idle(chains: list[dict[str, float]]) -> dict[str, Any]:
    """The first purchase after an idle hour and the second, two bars later; the first one's connection, too."""
    ordered = sorted(chains, key=lambda chain: chain["sent"])
    hour_s = IDLE_BARS * 60 / RATE
    firsts = [
        number
        for number, (previous, chain) in enumerate(itertools.pairwise(ordered), 1)
        if chain["sent"] - previous["sent"] > hour_s * 0.9 and number + 2 < len(ordered)
    ]
    took = [chain["arrived"] - chain["sent"] for chain in ordered]
    return {
        "idle_hours": len(firsts),
        "first_order_ms": sorted(round(took[number] * 1e3, 2) for number in firsts),
        "second_order_ms": sorted(round(took[number + 2] * 1e3, 2) for number in firsts),
        "connections_opened_for_the_first": sum(ordered[n]["connected"] > ordered[n]["sent"] for n in firsts),
    }


def main() -> None:
    """Print all figures as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SESSIONS)
    chosen = parser.parse_args().only
    figures: dict[str, Any] = {"bench": "latency", "rate": RATE, "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tape = recorded_minutes() or synthetic_minutes(folder / "tape.parquet", 2000)
        figures["tape"] = tape.name
        for session in (chosen,) if chosen else SESSIONS:
            (folder / session).mkdir()
            with load(folder) if session == "loaded" else contextlib.nullcontext():
                idle_bars = IDLE_BARS if session == "idle_hours" else 0
                figures[session] = measure(tape, folder / session, idle_bars)
    sys.stdout.write(json.dumps(figures) + "\n")
    for session, least in (("as_it_is", 300), ("loaded", 150)):
        if session in figures and (orders := figures[session]["orders"]) < least:
            sys.exit(f"bench: {orders} orders prove little, {session}; expected {least} or more")


# --- a busy machine, and what the daemon is compared with -------------------------------------------------------------


@contextlib.contextmanager
def load(folder: Path) -> Iterator[None]:
    """A machine with other work: a process for each core that computes, and one that writes and syncs 256 KiB."""
    spawn = multiprocessing.get_context("spawn")
    works = [spawn.Process(target=_compute, daemon=True) for _ in range(os.cpu_count() or 1)]
    works.append(spawn.Process(target=_write, args=(str(folder / "load"),), daemon=True))
    for work in works:
        work.start()
    try:
        yield
    finally:
        for work in works:
            work.kill()
            work.join()


def _compute() -> None:
    while True:
        sum(range(100_000))


def _write(path: str) -> None:
    with Path(path).open("wb", buffering=0) as file:
        while True:
            file.seek(0)
            file.write(bytes(1 << 18))
            os.fsync(file.fileno())


def serve_echoes(pipe: Connection) -> None:
    asyncio.run(_echo(pipe))


async def _echo(pipe: Connection) -> None:
    """A bare server: a short message over a websocket now and then, and the time at which each POST for it came."""
    sent: dict[int, float] = {}
    took: list[float] = []

    async def stream(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for number in range(ECHOES):
            await asyncio.sleep(ECHO_EVERY_S)
            sent[number] = time.monotonic()
            await socket.send_bytes(msgpack.packb([{"T": "b", "S": "SPY", "n": number, "o": 1.5, "h": 1.5, "l": 1.5}]))
        await asyncio.sleep(5 * ECHO_EVERY_S)
        await socket.close()
        return socket

    async def order(request: web.Request) -> web.Response:
        number = json.loads(await request.text())["n"]
        took.append(time.monotonic() - sent[number])
        return web.json_response({"id": number})

    app = web.Application()
    app.router.add_routes([web.get("/stream", stream), web.post("/orders", order)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    pipe.send(runner.addresses[0][1])
    await asyncio.to_thread(pipe.recv)
    await runner.cleanup()
    pipe.send(took)


async def answer_echoes(port: int, folder: Path) -> list[float]:
    """The bare client: a message in, a POST out; then, on its own, a block to the disk, of which the seconds return."""
    took, session, block = [], requests.Session(), bytes(4096)
    session.trust_env = False
    with (folder / "block").open("wb", buffering=0) as file:
        async with connect(f"ws://127.0.0.1:{port}/stream", proxy=None, ping_interval=None) as socket:
            async for frame in socket:
                number = msgpack.unpackb(frame)[0]["n"]
                body = {"n": number, "symbol": "SPY", "qty": 1, "side": "buy", "type": "limit", "limit_price": "1.50"}
                session.post(f"http://127.0.0.1:{port}/orders", json=body, timeout=5)
                began = time.monotonic()
                file.write(block)
                os.fsync(file.fileno())
                took.append(time.monotonic() - began)
    return took


if __name__ == "__main__":
    main()
