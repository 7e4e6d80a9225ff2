"""Five desks of one host at one loopback server, session after session with their nights, under random trouble.

`python -m tests.chaos.desks --sessions 20 --seed N`. The clock is one and fast; over weekends the host is off. After
each session all trouble is taken away, and server and journals must agree (docs/CHAOS.md says on what).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import random
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.alpaca_api.refusals import Refusal
from daemon.alpaca_api.wire import text
from daemon.cli.ctl import main as rltraderctl
from simulator.server import serving
from simulator.trading.account import Account
from simulator.virtual_clock import virtual_clock
from strategies.kit.contract import Session
from strategies.kit.units import SECOND_NS
from strategies.online_dqn.model_config import SHIPPED as SHIPPED_CONFIG
from strategies.online_dqn.state_vector import parse
from strategies.registry import strategy
from tests.chaos import verdict
from tests.chaos.acts import ask_desk
from tests.chaos.desk import START_LIMIT_S, Desk
from tests.chaos.desks import basket_verdict
from tests.chaos.desks import market as desks_market
from tests.chaos.desks import plan as desks_plan
from tests.chaos.desks import policy as desks_policy
from tests.chaos.desks.host import Host, Station
from tests.chaos.desks.plan import BY_MINUTE, DAILY, DESKS, FIVE_MINUTES, ONLINE, REBALANCER, SCALPER, bound
from tests.chaos.plan import OUTAGES, Plan
from tests.chaos.session import MINUTE_NS, Run, begin, due
from tests.chaos.tally import Tally
from tests.support.desks.live_desk import Books, Daemon
from tests.support.models.daily_models import put_models
from tests.support.models.forecast_models import put_relay
from tests.support.models.online_models import put_momentum
from tests.support.outside.redis_server import BINARY
from tests.support.paths import FIXTURE_MODELS, REPOSITORY

if TYPE_CHECKING:  # it needs torch
    from tests.chaos.desks.stream import Stream

SHIPPED = REPOSITORY / "onnx_models"
LOOK_S, NIGHT_LOOK_S = 5.0, 30.0  # virtual: at the desks, and at those that wait for the open
SETTLE_S = 3600.0  # virtual, after a session's close without faults, within which all books agree
CALM_MIN = 90.0  # before the close: nothing begins any more
NIGHTS = 0.35  # of those within a week are lived through; over all others, and over weekends, the host is off
WEEKEND_NS = 40 * 3600 * SECOND_NS  # a longer pause between two sessions
FIRST_MIN = 420  # before the first open: the campaign begins
UP_MIN = 420  # before the open: the host is on again, before splits take effect
LIVES_MAX = 400
LOOK_MIN = 10.0  # after an order of theirs a person looks at the desk
TOUCHED = "foreign_order"  # the halt by a person's trade in what the desk holds or works on
MANY = 10  # sessions, of which half at least must have had a basket


# --- one session --------------------------------------------------------------------------------------------------


def play(host: Host, session: Session, before_ns: int) -> None:
    """Live through the night before, and the session with its troubles, to the close."""
    for station in host.stations:
        station.run.up_ns = session.open_ns
        pairs = desks_plan.troubles(host.seed, session.date, station.name)
        station.drawn = [(bound(trouble, station.account.key), stage) for trouble, stage in pairs]
    if host.stream is not None:
        host.stream.draw(desks_plan.stream_troubles(host.seed, session.date))
    _let_persons_trade(host, session)
    calm_ns = session.close_ns - int(CALM_MIN * MINUTE_NS)
    while host.now_ns() < session.close_ns + 6 * MINUTE_NS:
        host.tend()
        if host.stream is not None:
            host.stream.tend(host.now_ns(), session.open_ns)
        for station in host.stations:
            if host.now_ns() < calm_ns and not station.back_ns:
                _strike(host, station, session, before_ns)
            _trade_by_hand(host, station, session)
        host.clock.pass_s(NIGHT_LOOK_S if host.now_ns() < session.open_ns - 10 * MINUTE_NS else LOOK_S)


def _let_persons_trade(host: Host, session: Session) -> None:
    """Draw what a person does beside the rebalancer."""
    dates = [session.date for session in desks_market.calendar()]
    (station,) = (station for station in host.stations if station.name == REBALANCER)
    station.by_hand = desks_market.persons(host.seed, host.happenings, dates, session.date)


def _trade_by_hand(host: Host, station: Station, session: Session) -> None:
    for order in [order for order in station.by_hand if host.now_ns() >= session.open_ns + order.minute * MINUTE_NS]:
        station.by_hand.remove(order)
        with contextlib.suppress(Refusal):
            fields = {"symbol": order.symbol, "qty": text(order.quantity), "side": order.side}
            host.served.by_hand("place", key=station.account.key, **fields)
            host.persons += 1
            station.look_ns = host.now_ns() + int(LOOK_MIN * MINUTE_NS)
    if 0 < station.look_ns <= host.now_ns() and station.run.desk.listening():
        station.look_ns = 0
        books = station.run.desk.books()
        if books is not None:
            _resumed(host, station, books)


def _resumed(host: Host, station: Station, books: Books) -> bool:
    """Whether a person ended the desk's halt this moment: one that an outage made, or that person's own trade."""
    halt = books.state.risk.halt
    ends = OUTAGES | ({TOUCHED} if station.name == REBALANCER and host.persons else set())
    if halt is None or halt.reason not in ends or ask_desk(station.run, "resume") is None:
        return False
    host.resumed.append(f"{station.name}: {halt.reason}")
    return True


def _strike(host: Host, station: Station, session: Session, before_ns: int) -> None:
    """Let the troubles of one desk begin whose moment has come."""
    for pair in list(station.drawn):
        trouble, stage = pair
        if not due(station.run, trouble) or (stage and stage not in station.stage(before_ns)):
            continue
        station.drawn.remove(pair)
        if trouble.kind.act == "away":
            station.run.desk.kill()
            station.back_ns = session.open_ns + random.Random(f"{host.seed} {session.date}").randint(5, 90) * MINUTE_NS
            host.tally.did(trouble.kind.name, exposed=station.account.exposed())
            return
        begin(station.run, trouble)


def settle(host: Host, session: Session) -> None:
    """Take all faults away; every desk is up, not halted, and its book is the server's.

    A person resumes what an outage halted, or that person's own trade, as the manual says; any other halt is a problem.
    """
    host.served.call(host.served.faults.clear)
    until_ns = host.now_ns() + int(SETTLE_S * SECOND_NS)
    apart = {station.name: ["no journal yet"] for station in host.stations}
    while any(apart.values()) and host.now_ns() < until_ns:
        host.clock.pass_s(30.0)
        host.tend()
        for station in host.stations:
            if apart[station.name] and not station.back_ns:
                apart[station.name] = _apart(host, station)
    for station in host.stations:
        if apart[station.name]:
            host.problem(session.date, station, f"apart {SETTLE_S} s after the close: {'; '.join(apart[station.name])}")


def _apart(host: Host, station: Station) -> list[str]:
    books = station.run.desk.books() if station.run.desk.listening() else None
    if books is None:
        return ["not up"]
    if _resumed(host, station, books):
        return ["resumed this moment"]
    halt = books.state.risk.halt
    differences = host.served.call(verdict.disagreements, books, station.account)
    if halt is not None:
        differences.append(f"halted: {halt.reason}: {halt.detail[:300]}")
    return differences or ([] if books.state.risk.reconciled else ["not reconciled"])


def judge(host: Host, session: Session, before_ns: int) -> None:
    """All that must hold after each session."""
    lines = []
    for station in host.stations:
        books = station.run.desk.books()
        if books is None:
            host.problem(session.date, station, "its journal cannot be read")
            continue
        for problem in host.served.call(_problems_of, station, books, before_ns, host.seed):
            host.problem(session.date, station, problem)
        outcome = basket_verdict.baskets(books).get(session.date, "none") if station.name in DAILY else ""
        station.baskets += outcome == "ordered"
        orders = sum(order.created_ns >= before_ns for order in station.account.orders.values())
        if host.stream is not None and station.name == ONLINE:
            for problem in host.stream.settle():
                host.problem(session.date, station, f"stream of experience: {problem}")
        lines.append(f"{station.name} {outcome + ', ' if station.name in DAILY else ''}{orders} orders")
    host.lines.append(f"{session.date}: {'; '.join(lines)}")
    print(host.lines[-1], f"; {len(host.problems)} problems", flush=True)


def _problems_of(station: Station, books: Books, before_ns: int, seed: int) -> list[str]:
    account, start = station.account, Decimal(desks_plan.money(seed, station.name).cash_usd)
    problems = [
        *verdict.fills_apart(books, account, whole=False),
        *verdict.intents_exceeded(books, account),
        *verdict.oversold(account),
        *basket_verdict.overdrawn(account, start),
    ]
    if station.name in DAILY:
        problems += basket_verdict.baskets_doubled(books)
    if station.name != SCALPER:
        problems += basket_verdict.uncovered(account, start, before_ns)
    return problems


# --- the whole campaign -------------------------------------------------------------------------------------------


def host_off(host: Host, session: Session) -> None:
    """The host is off, cleanly or not, until the morning of `session`."""
    for station in host.stations:
        if station.back_ns:
            continue
        if station.run.chance.random() < 0.5:
            station.run.desk.kill()
        elif (code := station.run.desk.stop(START_LIMIT_S)) != 0:
            host.problem(session.date, station, f"the stop over night ended with {code}")
            station.run.desk.kill()
    host.served.jump_to(session.open_ns - UP_MIN * MINUTE_NS)
    for station in host.stations:
        station.back_ns = 0
        host.write(station)
        station.run.start()


def finish(host: Host) -> None:
    """Status of the host, clean stops, journals that replay, and nothing of one desk in another's account."""
    buffer = io.StringIO()
    with contextlib.redirect_stdout(buffer):
        code = rltraderctl(["status", "--desks", str(host.folder / "desks"), "--json"])
    rows = [json.loads(line) for line in buffer.getvalue().splitlines()]
    if code != 0 or {row["strategy"] for row in rows if row["process"]} != set(DESKS):
        host.problems.append(f"rltraderctl status: {code}: {rows}")
    owners = {}
    for station in host.stations:
        exit_code = station.run.desk.stop(START_LIMIT_S)
        if exit_code != 0:
            host.problem("end", station, f"the stop ended with {exit_code}: {station.run.desk.why_ended()[:300]}")
        if different := station.run.desk.replayed():
            host.problem("end", station, f"the journal does not replay: {different[:500]}")
        books = station.run.desk.books()
        epoch = "" if books is None else books.state.identity.epoch
        owners[station.name] = (station.account, epoch, _symbols(station.name))
        for problem in station.run.problems:
            host.problem("run", station, problem)
        if station.name in DAILY and len(host.lines) >= MANY and 2 * station.baskets < len(host.lines):
            host.problem("end", station, f"only {station.baskets} baskets in {len(host.lines)} sessions")
    accounts = [station.account for station in host.stations]
    host.problems += basket_verdict.strangers(owners, host.served.server.requests)
    host.problems += basket_verdict.names_twice(accounts)
    for account in accounts:
        requests = [request for request in host.served.server.requests if request.key == account.key]
        host.problems += verdict.posts_apart(requests, account)
    secrets_of_stream = [] if host.stream is None else [*host.stream.secret.values()]
    words = [word for a in accounts for word in (a.key, a.secret)]
    host.problems += verdict.leaks(host.folder, [*words, *secrets_of_stream])


def _symbols(desk: str) -> frozenset[str]:
    """What a desk may trade; empty for any contract."""
    if desk == SCALPER:
        return frozenset()
    return frozenset(BY_MINUTE if desk == ONLINE else strategy(desk).spec.symbols)


def put_online(folder: Path) -> None:
    """The online desk's model configuration, and a policy for it that buys what rose and sells what fell."""
    config = folder / FIVE_MINUTES
    config.write_text(SHIPPED_CONFIG.read_text().replace("bar_minutes: 1", "bar_minutes: 5"))
    put_momentum(folder / "models", strategy(ONLINE, BY_MINUTE, parse(config.read_bytes(), config.name).text))


@contextlib.contextmanager
def hosted(seed: int, count: int, folder: Path, *, shipped: bool) -> Iterator[tuple[Host, list[Session]]]:
    """Server, models and five daemons in `folder` (new or empty), some hours before the first open; all are ended."""
    chance = random.Random(f"host {seed}")
    sessions = list(desks_market.calendar()[:count])
    happenings = desks_market.happenings(seed, [session.date for session in sessions])
    market = desks_market.market(seed, happenings)
    put_relay(desks_policy.store(put_models(folder / "models")))
    put_online(folder)
    scalpers = SHIPPED if shipped else FIXTURE_MODELS
    shutil.copytree(scalpers / SCALPER, folder / "models" / SCALPER)
    accounts = [
        Account(
            *(f"{word}{chance.getrandbits(120):030X}" for word in ("PKCHAOS", "secret-chaos-")),
            cash=Decimal(desks_plan.money(seed, name).cash_usd),
            account_number=f"PA3CHAOS{number}",
        )
        for number, name in enumerate(DESKS)
    ]
    tally = Tally(seed)
    rules = desks_plan.broker_rules(seed)
    print(f"{rules}; {'; '.join(f'{name}: {desks_plan.money(seed, name)}' for name in DESKS)}")
    for it in happenings:
        print(f"{it.date}: {it.symbol} {it.kind}")
    with (
        virtual_clock(sessions[0].open_ns - FIRST_MIN * MINUTE_NS, seed) as clock,
        serving(market, clock, faults=tally, accounts=accounts, rules=rules) as served,
    ):
        host = Host(seed, folder, served, clock, tally, [], happenings)
        plan = Plan(0, str(seed), 0, 0, (), {})
        try:
            host.stream = _stream(host)
            for name, account in zip(DESKS, accounts, strict=True):
                config, state_dir = folder / f"{name}.toml", folder / "desks" / name
                keys, log = (account.key, account.secret), folder / f"{name}.log"
                more = host.stream.secret if host.stream is not None and name == ONLINE else {}
                desk = Desk(config, state_dir, keys, log, clock, begin=False, more=more)
                chance = random.Random(f"{name} {seed}")
                run = Run(plan, served, clock, tally, account, desk, chance, lives_max=LIVES_MAX)
                host.stations.append(Station(name, run, account, config))
                host.write(host.stations[-1])
                run.start()
            yield host, sessions
        finally:
            if host.stream is not None:
                host.stream.close()
            for station in host.stations:
                station.run.desk.kill()


def _stream(host: Host) -> Stream | None:
    """The online desk's stream of experience, where Redis and torch are installed."""
    if BINARY is None or find_spec("torch") is None:
        print("no redis-server or no torch: the stream of experience is left out")
        return None
    from tests.chaos.desks.stream import Stream

    config = parse((host.folder / FIVE_MINUTES).read_bytes(), FIVE_MINUTES)
    maker, dates = strategy(ONLINE, BY_MINUTE, config.text), [session.date for session in desks_market.calendar()]
    return Stream(
        host.folder / "stream", host.folder / "desks" / ONLINE, host.seed, host.folder / "models", maker, dates
    )


def campaign(seed: int, count: int, folder: Path, *, shipped: bool = True) -> Host:
    """Run the first `count` sessions; the host's `problems` are empty when all held."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "desks").mkdir()
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # it tells of every client that vanished
    Daemon(["--config", "none.toml"], {}, folder / "warm").wait(60)  # refused, all loaded: others are forked from it
    with hosted(seed, count, folder, shipped=shipped) as (host, sessions):
        before_ns = host.now_ns()
        happenings = desks_market.happenings(seed, [session.date for session in sessions])
        for session in sessions:
            for kind, symbol, until_ns in desks_market.late_parts(seed, happenings, session):
                host.tally.add(kind, until_ns=until_ns, where={"symbol": symbol})
            night = random.Random(f"night {seed} {session.date}").random()
            if host.lines and (session.open_ns - before_ns > WEEKEND_NS or night >= NIGHTS):
                host_off(host, session)
            play(host, session, before_ns)
            settle(host, session)
            judge(host, session, before_ns)
            before_ns = session.close_ns
        finish(host)
    return host


def format_report(host: Host) -> str:
    """What was met, by desk and family; what became of the baskets; what went wrong."""
    families: Counter[str] = Counter()
    for name, count in host.tally.kinds_met.items():
        desk, _, kind = name.partition(": ")
        families[f"{desk:17s} {desks_plan.family(kind)}"] += count
    lines = ["", "met, by desk and family:", *(f"  {name:46s} {count:4d}" for name, count in sorted(families.items()))]
    if host.stream is not None:
        lines += [f"  {ONLINE:17s} {name:28s} {count:4d}" for name, count in sorted(Counter(host.stream.met).items())]
    for station in host.stations:
        fills = len(station.account.trades)
        lines.append(f"{station.name}: {station.run.desk.lives} lives, {fills} fills, {station.baskets} baskets")
    lines += [f"orders of a person beside {REBALANCER}: {host.persons}"]
    lines += [f"resumed by a person: {one}" for one in host.resumed]
    lines += [f"PROBLEM {problem}" for problem in host.problems]
    return "\n".join([*lines, f"sessions: {len(host.lines)}, problems: {len(host.problems)}, seed {host.seed}"])


def main() -> int:
    """Run it; exit code 1 when something did not hold."""
    parser = argparse.ArgumentParser("python -m tests.chaos.desks", description="Five desks under random faults.")
    parser.add_argument("--sessions", type=int, default=20, help="how many, 1 to 20 (20)")
    parser.add_argument("--seed", type=int, help="of the campaign; drawn where it is not given")
    parser.add_argument("--work", type=Path, help="folder for logs and journals (a temporary one)")
    parser.add_argument("--timetable", action="store_true", help="the scalper acts by the clock, not by its model")
    options, began = parser.parse_args(), time.monotonic()
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    work = options.work or Path(tempfile.mkdtemp(prefix="rltrader-desks."))
    print(f"campaign of desks, seed {seed}, {options.sessions} sessions, folder {work}")
    host = campaign(seed, options.sessions, work, shipped=not options.timetable)
    print(format_report(host))
    print(f"took {(time.monotonic() - began) / 60:.1f} minutes")
    return int(bool(host.problems))


if __name__ == "__main__":
    sys.exit(main())
