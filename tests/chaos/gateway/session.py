"""One morning of a floor from what was drawn to its verdict: trouble, calm, comparisons, the way out, the end.

Simulated time decides what happens when; no verdict depends on how fast the machine is.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from daemon.gateway.events import MAIN
from daemon.journal.rows import JournalError
from strategies.kit.contract import Session
from strategies.kit.units import SECOND_NS
from tests.chaos import verdict
from tests.chaos.acts import ask_desk
from tests.chaos.desk import START_LIMIT_S
from tests.chaos.desks.host import Station
from tests.chaos.desks.plan import bound
from tests.chaos.gateway import program
from tests.chaos.gateway import verdict as gateway_verdict
from tests.chaos.gateway.boundaries import NONE
from tests.chaos.gateway.floor import UP_MIN, Floor
from tests.chaos.gateway.plan import BOUNDARY, CALM_MIN, DESKS, END_MIN, PROGRAM, drawn, of_desk
from tests.chaos.plan import OUTAGES, Trouble
from tests.chaos.session import MINUTE_NS, begin, due

LOOK_S = 5.0  # virtual
SETTLE_S = 1800.0  # virtual, without faults, within which all books agree
APART_S = 240.0  # virtual: how long sum and broker may differ while the gateway says that it is whole
LOOKS_S = 150.0  # virtual: how far apart two looks may be that see one difference
EXIT_S = 1800.0  # virtual: how long an exit may take after the storm
PROGRAM_S = 120.0  # real, until the program has left everything
HANDS = (4, 10)  # orders of a person in one session
AWAY_HALTS = OUTAGES | {"foreign_order"}


@dataclass(slots=True)
class Waiting:
    """What is to come in the session under way."""

    gateway: list[Trouble] = field(default_factory=list)
    person: list[Trouble] = field(default_factory=list)
    hands: list[float] = field(default_factory=list)  # minutes from the open
    expiring: str = ""
    exercised: str = ""
    minute: int = -1


# --- one session --------------------------------------------------------------------------------------------------


def play(floor: Floor, session: Session) -> None:
    """Live through one morning with its troubles."""
    waiting = draw(floor, session)
    while floor.now_ns() < session.open_ns + END_MIN * MINUTE_NS:
        floor.tend()
        minute = (floor.now_ns() - session.open_ns) / MINUTE_NS
        if minute < CALM_MIN:
            strike(floor, session, waiting)
        if int(minute) != waiting.minute:
            waiting.minute = int(minute)
            compare(floor, session.date)
        floor.clock.pass_s(LOOK_S)


def draw(floor: Floor, session: Session) -> Waiting:
    """Draw what befalls everybody in this session."""
    seed, date = floor.seed, session.date
    waiting = Waiting()
    waiting.gateway = [
        *drawn(seed, date, "gateway"),
        *(bound(t, floor.account.key) for t in drawn(seed, date, "broker")),
    ]
    waiting.person = drawn(seed, date, "person")
    chance = random.Random(f"hands {seed} {date}")
    waiting.hands = sorted(chance.uniform(1.0, CALM_MIN) for _ in range(chance.randint(*HANDS)))
    for run in (floor.gateway, *(station.run for station in floor.stations)):
        run.up_ns = session.open_ns
    for station in floor.stations:
        troubles = drawn(seed, date, station.name)
        station.drawn = [(of_desk(trouble, station.name), "") for trouble in troubles]
    return waiting


def strike(floor: Floor, session: Session, waiting: Waiting) -> None:
    """Let begin what is due."""
    for trouble in [t for t in waiting.gateway if due(floor.gateway, t)]:
        waiting.gateway.remove(trouble)
        if trouble.kind.act.startswith(BOUNDARY):
            floor.deadly.set(int(trouble.kind.act.removeprefix(BOUNDARY)))
            floor.tally.did(trouble.kind.name, exposed=floor.account.exposed())
        else:
            begin(floor.gateway, trouble)
    for station in floor.stations:
        for pair in [pair for pair in station.drawn if due(station.run, pair[0])]:
            station.drawn.remove(pair)
            begin(station.run, pair[0])
    for trouble in [t for t in waiting.person if due(floor.gateway, t)]:
        waiting.person.remove(trouble)
        success = by_person(floor, session, waiting, trouble.kind.act)
        floor.person[trouble.kind.name if success else f"{trouble.kind.name}: not done"] += 1
    minute = (floor.now_ns() - session.open_ns) / MINUTE_NS
    while waiting.hands and waiting.hands[0] <= minute:
        waiting.hands.pop(0)
        floor.trade_by_hand()
    if waiting.exercised in floor.account.positions and floor.exercise_by_hand(waiting.exercised):
        floor.person["exercised"] += 1
        waiting.exercised = ""


def by_person(floor: Floor, session: Session, waiting: Waiting, act: str) -> bool:
    """What a person does beside the desks; False where it could not be done."""
    desk = floor.chance.choice(DESKS)
    match act:
        case "fee":
            words = floor.chance.choice(("TAF fee for proceed of 9 shares", "REG fee", "ORF fee", "Regulatory fees"))
            amount = f"-{floor.chance.randint(1, 400) / 100:.2f}"
            day = session.date
            floor.served.call(fee, floor, amount, words, day)
            return True
        case "give":
            return floor.asked("/transfer", {"source": MAIN, "target": desk, "cash": "250.25", "why": "more"})
        case "take":
            return floor.asked("/transfer", {"source": desk, "target": MAIN, "cash": "100.10", "why": "less"})
        case "exercise":
            waiting.exercised = floor.option_by_hand(session, call=True)
            return bool(waiting.exercised)
        case _:
            waiting.expiring = floor.option_by_hand(session, call=False)
            return bool(waiting.expiring)


def fee(floor: Floor, amount: str, words: str, day: str) -> None:
    """The broker books a fee for the day's fills. On the server's loop."""
    floor.account.cash += Decimal(amount)
    row = {"activity_type": "FEE", "net_amount": amount, "date": day, "status": "executed", "description": words}
    floor.account.note(floor.now_ns(), row)


def compare(floor: Floor, date: str) -> None:
    """Compare sum and broker; they may differ while news is on its way.

    Looks that a busy machine put minutes apart see two differences, and not one that lasted.
    """
    status, since_ns = floor.status(), floor.looked_ns
    floor.looked_ns = floor.now_ns()
    if floor.looked_ns - since_ns > LOOKS_S * SECOND_NS:
        floor.apart_ns = 0
    if status is None or not status["ready"]:
        floor.looks["away"] += 1
        floor.apart_ns = 0
        return
    apart = floor.served.call(gateway_verdict.sum_apart, status, floor.account)
    floor.looks["apart" if apart else "equal"] += 1
    if not apart:
        floor.apart_ns = 0
    elif not floor.apart_ns:
        floor.apart_ns = floor.now_ns()
    elif floor.now_ns() - floor.apart_ns > APART_S * SECOND_NS:
        floor.problem(date, "gateway", f"apart for {APART_S} s: {gateway_verdict.worded(apart)}")
        floor.apart_ns = floor.now_ns()


# --- after it -----------------------------------------------------------------------------------------------------


def settle(floor: Floor, session: Session) -> None:
    """Take all faults away; broker, gateway and desks agree, nobody is halted."""
    floor.served.call(floor.served.faults.clear)
    floor.served.call(floor.let_go)
    floor.deadly.set(NONE)
    until_ns = floor.now_ns() + int(SETTLE_S * SECOND_NS)
    apart = ["nothing was compared yet"]
    while apart and floor.now_ns() < until_ns:
        floor.clock.pass_s(20.0)
        floor.tend()
        apart = differences(floor)
    if apart:
        floor.problem(session.date, "settle", f"apart {SETTLE_S} s after the last fault: {'; '.join(apart)}")


def differences(floor: Floor) -> list[str]:
    """Where broker, gateway and desks differ now."""
    status = floor.status()
    if status is None or not status["ready"]:
        return [f"the gateway is away: {'no answer' if status is None else status['away']}"]
    apart = floor.served.call(gateway_verdict.sum_apart, status, floor.account)
    apart += [f"the gateway doubts: {words}" for words in status["doubts"]]
    for station in floor.stations:
        apart += [f"{station.name}: {words}" for words in of_station(floor, station, status)]
    return apart


def of_station(floor: Floor, station: Station, status: gateway_verdict.Json) -> list[str]:
    """Where a desk is not its sub-account; a person resumes what an outage halted."""
    books = station.run.desk.books() if station.run.desk.listening() else None
    if books is None:
        return ["not up"]
    halt = books.state.risk.halt
    if halt is not None and halt.reason in AWAY_HALTS and ask_desk(station.run, "resume") is not None:
        floor.person[f"resumed {station.name}: {halt.reason}"] += 1
        return ["resumed this moment"]
    apart = floor.served.call(gateway_verdict.book_apart, books, status, station.name, floor.account)
    if halt is not None:
        apart.append(f"halted: {halt.reason}: {halt.detail[:300]}")
    lapses = any(order.absent for order in books.state.orders.values())  # an entry that never arrived, until the close
    return apart or ([] if books.state.risk.reconciled or lapses else ["not reconciled"])


def leave(floor: Floor, session: Session, names: tuple[str, ...]) -> None:
    """These desks are told to flatten, and each finds its way out; then a person resumes."""
    stations = [station for station in floor.stations if station.name in names]
    for station in stations:
        if ask_desk(station.run, "flatten") is None:
            floor.problem(session.date, station.name, "did not take the command to flatten")
    until_ns = floor.now_ns() + int(EXIT_S * SECOND_NS)
    holdings: dict[str, object] = dict.fromkeys(names, "not looked at")
    while holdings and floor.now_ns() < until_ns:
        floor.clock.pass_s(20.0)
        floor.tend()
        status = floor.status()
        if status is not None:
            rows = {row["name"]: row for row in status["accounts"]}
            holdings = {
                name: sellable for name in names if (sellable := floor.sellable(rows[name]["positions"], session))
            }
    for name, positions in holdings.items():
        floor.problem(session.date, name, f"cannot exit within {EXIT_S} s: {positions}")
    for station in stations:
        ask_desk(station.run, "resume")


def end_program(floor: Floor, session: Session) -> None:
    """The program on alpaca-py leaves everything and ends: it traded, and its sub-account is empty."""
    exit_code = floor.end_program(PROGRAM_S)
    lines = floor.programs_lines()
    if exit_code != 0:
        floor.problem(session.date, PROGRAM, f"it ended with {exit_code}: {lines[-3:]}")
    floor.person["orders of the program on alpaca-py"] += sum(line.get("sent", 0) for line in lines)
    floor.person["refusals that it met"] += sum(line["event"] == "refused" for line in lines)
    floor.person["close calls of it"] += sum(line["event"] == "closed" for line in lines)
    settle(floor, session)


def judge(floor: Floor, session: Session, since_ns: int) -> None:
    """All that must hold after each session."""
    account = floor.account
    books = {station.name: station.run.desk.books() for station in floor.stations}
    epochs = {name: "" if its is None else its.state.identity.epoch for name, its in books.items()}
    if None in books.values():
        floor.problem(session.date, "judge", "a journal cannot be read")
        return
    epochs[PROGRAM] = program.NAME
    close_owners = {line["id"]: PROGRAM for line in floor.programs_lines() if line["event"] == "closed"}
    calls = {station.name: station.run.desk.close_calls() for station in floor.stations}
    close_owners |= floor.served.call(gateway_verdict.closed_by, account, calls)
    with contextlib.suppress(JournalError):  # of a gateway that is being started
        close_owners |= gateway_verdict.called_by(Path(floor.settings.gateway.state_dir))
    problems = floor.served.call(gateway_verdict.oversold, account, epochs, close_owners)
    problems += floor.served.call(gateway_verdict.strangers, account, epochs, close_owners)
    problems += _holding_problems(floor, epochs, close_owners)
    requests = [request for request in floor.served.server.requests if request.key == account.key]
    problems += floor.served.call(verdict.posts_apart, requests, account)
    for name, its in books.items():
        if its is not None:
            problems += [
                f"{name}: {words}" for words in floor.served.call(verdict.fills_apart, its, account, whole=False)
            ]
            problems += [f"{name}: {words}" for words in floor.served.call(verdict.intents_exceeded, its, account)]
    for words in problems:
        floor.problem(session.date, "judge", words)
    owner_by_order = gateway_verdict.owners(account, epochs, close_owners)
    orders = Counter(owner_by_order[order.id] for order in account.orders.values() if order.created_ns >= since_ns)
    parts = ", ".join(f"{name} {count}" for name, count in sorted(orders.items()))
    floor.lines.append(f"{session.date}: orders {parts}")
    print(floor.lines[-1], f"; {len(floor.problems)} problems", flush=True)


def _holding_problems(floor: Floor, epochs: dict[str, str], close_owners: dict[str, str]) -> list[str]:
    """What sub-accounts hold beyond their owners' trades; where time is real a fill may come between the two looks."""
    problems: list[str] = []
    for _ in range(3):
        status = floor.status()
        if status is None:
            return ["the gateway is away"]
        problems = floor.served.call(gateway_verdict.holdings_apart, status, floor.account, epochs, close_owners)
        if not problems:
            return []
        floor.clock.pass_s(LOOK_S)
    return problems


def host_off(floor: Floor, session: Session) -> None:
    """Host off, cleanly or not, until the morning of `session`."""
    runs = [floor.gateway, *(station.run for station in floor.stations)]
    floor.chance.shuffle(runs)
    for run in runs:
        if floor.chance.random() < 0.5:
            run.desk.kill()
        elif (code := run.desk.stop(START_LIMIT_S)) != 0:
            floor.problem(session.date, run.desk.config.stem, f"the stop over night ended with {code}")
            run.desk.kill()
    floor.served.jump_to(session.open_ns - UP_MIN * MINUTE_NS)
    for run in runs:
        run.start()


def finish(floor: Floor) -> None:
    """Clean stops, journals that replay, keys in no file."""
    for station in floor.stations:
        exit_code = station.run.desk.stop(START_LIMIT_S)
        if exit_code != 0:
            floor.problem("end", station.name, f"the stop ended with {exit_code}: {station.run.desk.why_ended()[:300]}")
        if different := station.run.desk.replayed():
            floor.problem("end", station.name, f"the journal does not replay: {different[:500]}")
        for problem in station.run.problems:
            floor.problem("run", station.name, problem)
        if any(account.orders for account in (station.account,)):
            floor.problem("end", station.name, "an order went past the gateway")
    if (core := floor.gateway.desk.core_size()) not in ("", "0"):
        floor.problem("end", "gateway", f"core dumps of up to {core} bytes are allowed: keys could reach a file")
    exit_code = floor.gateway.desk.stop(START_LIMIT_S)
    if exit_code != 0:
        floor.problem("end", "gateway", f"the stop ended with {exit_code}: {floor.gateway.desk.why_ended()[:300]}")
    if different := floor.verified():
        floor.problem("end", "gateway", f"the journal does not verify: {different[:500]}")
    for problem in floor.gateway.problems:
        floor.problem("run", "gateway", problem)
    kinds = Counter(str(row.fields["activity_type"]) for row in floor.account.activities)
    floor.person.update({f"ledger: {kind}": count for kind, count in kinds.items()})
    pairs = [(floor.account.key, floor.account.secret), *((s.account.key, s.account.secret) for s in floor.stations)]
    shutil.rmtree(floor.folder / "keys")
    for problem in verdict.leaks(floor.folder, [word for pair in pairs for word in pair]):
        floor.problem("end", "files", problem)
