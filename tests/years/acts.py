"""What happens to a world: to the daemon, its host and files, to the account by a person, and the operator's commands.

Each act is short or waits in virtual time; faults of the campaign's kinds are armed at the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from decimal import ROUND_UP, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.alpaca_api.refusals import Refusal
from daemon.alpaca_api.wire import text
from daemon.host.panic_marker import FLAT, leave
from daemon.journal.journal import FILE
from daemon.operator.commands import Command, CommandError, event_of, refused_by
from strategies.kit.quantity import FINEST, PLACES
from strategies.kit.units import SECOND_NS
from tests.chaos.desks.plan import bound
from tests.chaos.kinds import HELD, WORKING
from tests.chaos.plan import Trouble
from tests.years.loop import Killed
from tests.years.met import BOUNDARIES, PHASES
from tests.years.schedule import Happening, kind_of

if TYPE_CHECKING:
    from tests.years.run import Run

DUE_S = 3600.0  # how long trouble waits for its moment (a position, an order at work)
LOOK_S = 5.0
PARTS = 10**PLACES  # of a share


async def happen(run: Run, it: Happening) -> None:
    """Do it."""
    chance = random.Random(f"{run.schedule.seed} {it.what} {it.number}")
    kind = kind_of(it.what)
    if kind is not None:
        await arm(run, it, chance)
        return
    name, _, rest = it.what.partition(" ")
    of_file = name in ("typo", "model", "settings") or it.what == "exits of zero minutes"
    async with run.one_file if of_file else contextlib.nullcontext():  # what is put back is what was there
        await _do(run, chance, it.what, name, rest)
    run.met[f"did {it.what}"] += 1


async def _do(run: Run, chance: random.Random, kind: str, name: str, rest: str) -> None:
    from tests.years import guard
    from tests.years.host import HOST
    from tests.years.together import TOGETHER

    if kind in TOGETHER:
        await TOGETHER[kind](run, chance)
    elif kind in HOST:
        await HOST[kind](run, chance)
    elif kind in guard.GUARD:
        await guard.happen(run, chance, kind)
    elif name == "command":
        await command(run, rest)
    elif name == "typo":
        await _bad_file(run, chance, "configuration", rest.removeprefix("in "))
    elif name == "model":
        await _bad_file(run, chance, "model", rest)
    else:
        await ACTS[kind](run, chance)


# --- faults of the server ---------------------------------------------------------------------------------------------


async def arm(run: Run, it: Happening, chance: random.Random) -> None:
    """Arm a kind of the campaign at the server, when the account is as it needs."""
    kind = kind_of(it.what)
    assert kind is not None
    trouble = bound(Trouble(kind, kind.draw(chance), 0.0), run.world.account.key)
    until_ns = run.now_ns() + int(DUE_S * SECOND_NS)
    if kind.when == WORKING:
        _add(run, [line for line in trouble.lines if not line.counts])
    while kind.when in (HELD, WORKING) and not _is_due(run, kind.when):
        if run.now_ns() > until_ns:
            return
        await asyncio.sleep(LOOK_S)
    _add(run, [line for line in trouble.lines if line.counts or kind.when != WORKING])
    run.met[f"did {it.what}"] += 1


def _is_due(run: Run, when: str) -> bool:
    return bool(run.world.account.working) if when == WORKING else run.world.account.exposed()


def _add(run: Run, lines: list[Any]) -> None:
    for line in lines:
        until_ns = run.now_ns() + int(line.lasts_s * SECOND_NS) if line.lasts_s else None
        times = None if line.lasts_s else line.times
        run.faults.add(line.kind, times=times, until_ns=until_ns, where=line.where, **line.parameters)
        run.trouble_until(int(line.lasts_s + line.parameters.get("seconds", 0) + line.parameters.get("hold_s", 0)))


# --- the process and its host -----------------------------------------------------------------------------------------


async def _kill(run: Run, _: random.Random) -> None:
    run.desk.kill()


async def _kill_at_a_turn(run: Run, chance: random.Random) -> None:
    process = run.desk.process
    if process is not None and process.alive:
        process.kill_at = process.turns + chance.randint(1, 3_000)


async def _kill_in_the_step(run: Run, chance: random.Random) -> None:
    """Die at a boundary of the journal."""
    live, process, steps_left = run.desk.live, run.desk.process, chance.randint(1, 60)
    if live is None or process is None or not process.alive:
        return
    at = chance.choice(BOUNDARIES)

    def boundary(name: str) -> None:
        nonlocal steps_left
        steps_left -= name == at
        if steps_left <= 0 and name == at and process.alive:
            run.met[f"killed {name}"] += 1
            process.die()
            raise Killed

    live.engine._boundary = boundary


async def _kill_twice(run: Run, chance: random.Random) -> None:
    run.desk.kill()
    await asyncio.sleep(5.2)
    process = run.desk.process
    if process is not None and process.alive:
        process.kill_at = process.turns + chance.randint(1, 400)


async def _power(run: Run, chance: random.Random) -> None:
    """The host loses its power, and is back after a while."""
    run.desk.kill(power=True, again=False)
    await run.away(chance.uniform(60.0, 900.0))


async def _restart(run: Run, _: random.Random) -> None:
    await run.restart()


async def _away(run: Run, chance: random.Random) -> None:
    """Dead for hours."""
    run.desk.kill(again=False)
    await run.away(chance.uniform(600.0, 5 * 3600.0))


async def _network_down(run: Run, chance: random.Random) -> None:
    """No new connection, and those that are there are reset."""
    network, seconds = run.world.network, chance.uniform(20.0, 900.0)
    network.down = True
    for wire in list(network.wires):
        wire.other.abort()
        wire.abort()
    run.trouble_until(int(seconds))
    await asyncio.sleep(seconds)
    network.down = False


async def _half_open(run: Run, _: random.Random) -> None:
    """All connections are half open."""
    if run.desk.process is not None:
        run.world.network.cut(run.desk.process)
        run.trouble_until(120)


def _leap(by_s: float) -> Callable[[Run, random.Random], Awaitable[None]]:
    async def leap(run: Run, chance: random.Random) -> None:
        run.world.loop.ahead_ns += int(by_s * SECOND_NS)
        run.trouble_until(3600)
        await asyncio.sleep(chance.uniform(60.0, 1200.0))
        run.world.loop.ahead_ns -= int(by_s * SECOND_NS)

    return leap


# --- files ------------------------------------------------------------------------------------------------------------


async def _bad_file(run: Run, chance: random.Random, file_kind: str, how: str) -> None:
    """Killed, and a file that the next life needs is bad for a while; then it is whole, and a person resumes."""
    positions = run.watch.own() if run.exposed() else {}
    run.desk.kill(again=False)
    file = run.config if file_kind == "configuration" else policy_file(run)
    whole = file.read_bytes()
    if file_kind == "configuration":
        file.write_text(whole.decode().replace(f"[{how}]\n", f"[{how}]\ntypo = 1\n"))
    elif how == "gone":
        file.unlink()
    elif how == "cut":
        file.write_bytes(whole[: len(whole) // 2])
    else:
        flipped = bytearray(whole)
        flipped[chance.randrange(len(whole))] ^= 1
        file.write_bytes(bytes(flipped))
    run.bad_file = True
    run.desk.start()
    await asyncio.sleep(chance.uniform(120.0, 1800.0))
    if run.desk.exit_code == 2 and any(run.world.account.quantity(symbol) for symbol in positions):
        run.problem("no_start", f"a {file_kind} ({how}) that is bad ended a desk that holds something with code 2")
    file.write_bytes(whole)
    run.bad_file = False
    if not run.desk.running:
        run.desk.start()
    else:
        await run.restart()
    await asyncio.sleep(120.0)
    await command(run, "resume")


def policy_file(run: Run) -> Path:
    """The policy of the desk's model."""
    return next(iter(sorted((run.models / run.schedule.desk).rglob("policy.onnx"))))


def flip_a_bit(folder: Path, chance: random.Random, table: str, but: Sequence[str] = ()) -> int | None:
    """Flip a bit of the newest snapshot, or of an event since then that is of none of the kinds `but`.

    Returns its row, None where there is none.
    """
    column, key = ("state", "event_id") if table == "snapshots" else ("payload", "id")
    kinds = ", ".join(f"'{kind}'" for kind in but)
    since = f"WHERE id > (SELECT coalesce(max(event_id), 0) FROM snapshots) AND kind NOT IN ({kinds})"
    where = "" if table == "snapshots" else since
    newest = f"SELECT {key}, {column} FROM {table} {where} ORDER BY 1 DESC LIMIT 100"
    with (
        contextlib.closing(sqlite3.connect(folder / FILE, isolation_level=None)) as journal,
        contextlib.suppress(sqlite3.Error),
    ):
        if rows := journal.execute(newest).fetchall():
            row, value = rows[0] if table == "snapshots" else chance.choice(rows)
            data = bytearray(value if isinstance(value, bytes) else value.encode())
            bit = chance.randrange(8 * len(data))
            data[bit // 8] ^= 1 << bit % 8
            cast = "?" if table == "snapshots" else "CAST(? AS TEXT)"
            journal.execute(f"UPDATE {table} SET {column} = {cast} WHERE {key} = ?", (bytes(data), row))
            return int(row)
    return None


async def _flip(run: Run, chance: random.Random, table: str) -> None:
    run.desk.kill(again=False)
    if flip_a_bit(run.desk.state_dir, chance, table) is not None:
        run.damaged |= table == "events"
    run.desk.start()
    await asyncio.sleep(300.0)
    await command(run, "accept-broker")
    await asyncio.sleep(120.0)
    await command(run, "resume")


async def _flip_snapshot(run: Run, chance: random.Random) -> None:
    await _flip(run, chance, "snapshots")


async def _flip_row(run: Run, chance: random.Random) -> None:
    await _flip(run, chance, "events")


# --- a person ---------------------------------------------------------------------------------------------------------


def by_hand(run: Run, action: str, **fields: Any) -> bool:
    """What a person does on the broker's page; False where the broker refuses it."""
    with contextlib.suppress(Refusal, KeyError, ValueError):
        run.persons += 1
        run.world.server.by_hand(action, **fields)
        run.by_hand_ns = run.now_ns()
        return True
    return False


def _one_held(run: Run, chance: random.Random) -> str:
    symbols = sorted(symbol for symbol, position in run.world.account.positions.items() if position.qty > 0)
    return chance.choice(symbols) if symbols else ""


def shares_of(run: Run, chance: random.Random, least: int, most: int) -> str:
    """How many shares a person takes: whole ones, or any number to nine decimals where this run has it so."""
    if not run.by_fractions:
        return str(chance.randint(least, most))
    return text(Decimal(chance.randint(least * PARTS, most * PARTS)) / PARTS)


async def _buys(run: Run, chance: random.Random) -> None:
    """What the desk holds."""
    if symbol := _one_held(run, chance):
        by_hand(run, "place", symbol=symbol, qty=shares_of(run, chance, 1, 9), side="buy")


async def _buys_beside(run: Run, chance: random.Random) -> None:
    """What the desk does not hold."""
    symbol = chance.choice(sorted(run.shares))
    by_hand(run, "place", symbol=symbol, qty=shares_of(run, chance, 1, 9), side="buy")


async def _sells(run: Run, chance: random.Random) -> None:
    """A part of what is held."""
    if symbol := _one_held(run, chance):
        holding = run.world.account.positions[symbol].qty
        whole = symbol not in run.shares or not run.by_fractions
        quantity = max(1, int(holding) // 2) if whole else (holding / 2).quantize(FINEST, ROUND_UP)
        by_hand(run, "place", symbol=symbol, qty=text(Decimal(quantity)), side="sell")


async def _closes(run: Run, chance: random.Random) -> None:
    if symbol := _one_held(run, chance):
        by_hand(run, "close", symbol=symbol)


async def _cancels(run: Run, _: random.Random) -> None:
    for order_id in list(run.world.account.working):
        by_hand(run, "cancel", order_id=order_id)


async def _closes_unheard(run: Run, chance: random.Random) -> None:
    """A person closes all while the desk's stream hears nothing; then it is commanded to flatten."""
    run.faults.add("update_lost", until_ns=run.now_ns() + 60 * SECOND_NS, where={"key": run.world.account.key})
    run.trouble_until(60)
    for symbol in sorted(run.world.account.positions):
        by_hand(run, "close", symbol=symbol)
    await asyncio.sleep(chance.uniform(0.0, 45.0))
    await command(run, "flatten")


def _beside(action: str) -> Callable[[Run, random.Random], Awaitable[None]]:
    async def beside(run: Run, chance: random.Random) -> None:
        """A person has shares, of which the broker makes more, or on which it pays."""
        shares = sorted(run.shares)
        symbol = _one_held(run, chance) if chance.random() < 0.7 else ""
        symbol = symbol if symbol in shares else chance.choice(shares)
        by_hand(run, "place", symbol=symbol, qty=shares_of(run, chance, 1, 90), side="buy")
        await asyncio.sleep(chance.uniform(30.0, 300.0))
        more: dict[str, Any] = {"ratio": chance.choice((2, 3))} if action == "split" else {}
        run.split |= {symbol} if action == "split" else set()
        run.faults.add(action, symbol=symbol, **more)
        run.trouble_until(60)

    return beside


async def command(run: Run, name: str, argument: str = "") -> bool:
    """An operator's command, as the control socket submits it; False where it did nothing."""
    live = run.desk.live
    if live is None or not run.desk.running:
        return False
    run.met[f"command {name} while {phase(run)}"] += 1
    state, words = live.engine.machine.state, f"{name} {argument}".strip()
    try:
        result = await live.operator.submitter.submit(event_of(Command(words, "as planned", "ann")), 10.0)
    except (TimeoutError, CommandError):
        return False
    refused = refused_by(result.step.effects)
    run.world.story.note("command", {"name": words, "refused": refused})
    run.commanded(name, state, refused)
    return not refused


async def _held_by_the_desk(run: Run, chance: random.Random) -> str:
    """Wait until the desk holds something; one of the symbols, "" where nothing came."""
    for _ in range(int(DUE_S / LOOK_S / 6)):
        if run.own():
            break
        await asyncio.sleep(LOOK_S * 6)
    return chance.choice(sorted(run.own()) or [""])


async def _close_all_of_one(run: Run, chance: random.Random) -> None:
    """An operator closes what the desk holds of one symbol."""
    symbol = await _held_by_the_desk(run, chance)
    if symbol and await command(run, "close", symbol):
        run.watch.closed(symbol, Decimal(0))


async def _close_a_part_of_one(run: Run, chance: random.Random) -> None:
    """An operator closes a part of it."""
    if symbol := await _held_by_the_desk(run, chance):
        holding = Decimal(run.own()[symbol])
        part = max(Decimal(1), holding // 2) if symbol not in run.shares or not run.by_fractions else holding / 2
        part = min(part.quantize(FINEST, ROUND_UP), holding)
        if await command(run, "close", f"{symbol} {text(part)}"):
            run.watch.closed(symbol, holding - part)


def phase(run: Run) -> str:
    """In what phase the desk is, one of `PHASES`."""
    live = run.desk.live
    if live is None:
        return PHASES[0]
    state = live.engine.machine.state
    if state.risk.halt is not None:
        return "halted"
    if state.risk.pause is not None:
        return "paused"
    if state.orders:
        return "working"
    if state.book.positions:
        return "held"
    session = state.session.session
    return "flat" if session is not None and session.open_ns <= run.now_ns() < session.close_ns else "closed"


async def _panic(run: Run, _: random.Random) -> None:
    """A person's panic closes all; then the desk is told to go on."""
    with contextlib.suppress(OSError):
        marker = leave(run.desk.state_dir, "ann")
        for _turn in range(30):
            await _cancels(run, random.Random(0))
            await asyncio.sleep(2.0)
            for symbol in sorted(run.world.account.positions):
                by_hand(run, "close", symbol=symbol)
            if not run.world.account.exposed():
                break
        marker.end(FLAT if not run.world.account.exposed() else "not flat")
    await after_panic(run)


async def _panic_that_fails(run: Run, chance: random.Random) -> None:
    """A panic that reached nobody: the desk closes what is its own."""
    with contextlib.suppress(OSError):
        marker = leave(run.desk.state_dir, "ann")
        await asyncio.sleep(chance.uniform(0.0, 60.0))
        marker.end("not flat")
        run.panic_failed_ns = run.now_ns()
    await asyncio.sleep(1800.0)
    await after_panic(run)


async def after_panic(run: Run) -> None:
    """A person accepts what the broker has, and resumes."""
    await asyncio.sleep(60.0)
    await command(run, "accept-broker")
    await asyncio.sleep(120.0)
    await command(run, "resume")


async def _fee_late(run: Run, chance: random.Random) -> None:
    account, amount = run.world.account, Decimal(chance.randint(1, 900)) / 100
    account.cash -= amount
    await asyncio.sleep(chance.uniform(0.0, 600.0))
    row = {"activity_type": "FEE", "net_amount": str(-amount), "date": "2024-11-20", "status": "executed"}
    account.note(run.now_ns(), {**row, "description": "Regulatory fees"})


async def _half_a_share(run: Run, chance: random.Random) -> None:
    by_hand(run, "place", symbol=chance.choice(sorted(run.shares)), qty="0.5", side="buy")


async def _dividend_reinvested(run: Run, chance: random.Random) -> None:
    """The broker pays for what is held, and buys less than a share of it for that."""
    symbol = _one_held(run, chance)
    quote = run.world.market.quote(symbol, run.now_ns()) if symbol in run.shares else None
    if quote is not None:
        most = quote[1] / run.world.account.quantity(symbol)  # a share's worth
        amount = (most * Decimal(chance.randint(1, 80)) / 100).quantize(Decimal("0.0001"), ROUND_UP)
        run.persons += 1
        run.by_hand_ns = run.now_ns()
        run.faults.add("dividend", symbol=symbol, amount=text(amount), reinvested=True)
        run.trouble_until(60)


async def _restart_flat(run: Run, _: random.Random) -> None:
    await command(run, "flatten")
    await asyncio.sleep(300.0)
    await run.restart()
    await asyncio.sleep(60.0)
    await command(run, "resume")


ACTS: dict[str, Callable[[Run, random.Random], Awaitable[None]]] = {
    "kill": _kill,
    "kill at a turn": _kill_at_a_turn,
    "kill in the step": _kill_in_the_step,
    "kill twice": _kill_twice,
    "power": _power,
    "restart": _restart,
    "restart flat": _restart_flat,
    "away": _away,
    "network down": _network_down,
    "half open": _half_open,
    "clock ahead": _leap(8 * 3600.0),
    "clock behind": _leap(-8 * 3600.0),
    "snapshot flipped": _flip_snapshot,
    "row flipped": _flip_row,
    "close all of one": _close_all_of_one,
    "close a part of one": _close_a_part_of_one,
    "buys": _buys,
    "buys beside": _buys_beside,
    "sells": _sells,
    "closes": _closes,
    "cancels": _cancels,
    "closes unheard, flatten": _closes_unheard,
    "split beside": _beside("split"),
    "dividend beside": _beside("dividend"),
    "panic": _panic,
    "panic that fails": _panic_that_fails,
    "fee late": _fee_late,
    "half a share": _half_a_share,
    "dividend reinvested": _dividend_reinvested,
}
"""Every act by its name in a schedule."""
