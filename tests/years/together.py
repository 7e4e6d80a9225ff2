"""Troubles that have to come together to do harm: what mended defects needed, as acts that wait for their moment.

An act takes its details from its own draw. What it may expect afterwards of the desk it says to the run (`problem`), by
the server's books and the market alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from daemon.alpaca_api.books import PositionChange
from daemon.alpaca_api.wire import text
from daemon.core.instruments.option_market import parse_occ
from daemon.host.panic_marker import leave
from simulator.prices.corporate_actions import Dividend, Merger, Rename, SpinOff, Split, close_before
from simulator.prices.day_prices import Action, DailyPrices
from simulator.trading.settlement import _deliver, amend_fill, cash_row
from strategies.kit.contract import Session
from strategies.kit.units import MINUTE_NS, SECOND_NS
from tests.chaos.desks.plan import DAILY, QUOTES, REBALANCER
from tests.years import acts
from tests.years.desks import UNDERLYING, new_name
from tests.years.market import Width, is_option

if TYPE_CHECKING:
    from simulator.faults import Faults
    from tests.years.run import Run
    from tests.years.world import World

DUE_S = 4 * 3600.0  # how long an act waits for its moment
LOOK_S = 5.0
READS = ("/v2/positions", "/v2/account", "/v2/orders")
CALL_S = 90  # five seconds without a report, and the broker's own call with what it waits for


async def until(run: Run, due: Callable[[], Any], within_s: float = DUE_S) -> Any:
    """Wait for something that is true, and return it; None where it did not come."""
    until_ns = run.now_ns() + int(within_s * SECOND_NS)
    while run.now_ns() < until_ns:
        if result := due():
            return result
        await asyncio.sleep(LOOK_S)
    return None


def _open(run: Run) -> bool:
    return run.world.market.session_at(run.now_ns()) is not None


def _left_min(run: Run) -> float:
    """Minutes of the running session that are left; 0 outside of one."""
    session = run.world.market.session_at(run.now_ns())
    return 0.0 if session is None else (session.close_ns - run.now_ns()) / MINUTE_NS


def _busy(run: Run) -> bool:
    """Whether an order works that is no resting stop."""
    return any(order.type not in ("stop", "stop_limit") for order in run.world.account.working.values())


def _option(run: Run) -> str:
    """A contract that the desk holds, with no order at work; "" for none."""
    options = [symbol for symbol in sorted(run.own()) if is_option(symbol)]
    return options[0] if options and _open(run) and not _busy(run) else ""


def _share(run: Run, chance: random.Random) -> str:
    shares = [
        symbol
        for symbol in sorted(run.own())
        if not is_option(symbol) and run.world.market.tradable(symbol, run.now_ns())
    ]
    return chance.choice(shares) if shares else ""


def _leap(run: Run, symbol: str, part: float, minutes: int, lasts_min: int = 0) -> None:
    """The underlying moves against the contract, or the share falls, by this part."""
    falls = not is_option(symbol) or symbol[-9] == "C"
    of = UNDERLYING if is_option(symbol) else symbol
    run.world.market.leap(of, 1 - part if falls else 1 + part, minutes, run.now_ns(), lasts_min)
    run.leapt_ns = run.now_ns()


def _next_date(run: Run) -> str:
    """The next session's date, "" where the run ends before it."""
    now_ns = run.now_ns()
    later = [session for session in run.sessions if session.open_ns > now_ns]
    return later[0].date if later else ""


def _acts_now(run: Run, symbol: str) -> bool:
    """Whether the company of a share may act, which it does once in a run: then the share is taken for this action."""
    free = bool(symbol) and not run.moved(symbol)
    run.befallen |= {symbol} if free else set()
    return free


def _in_market(world: World, action: Action, books_ns: int = 0) -> None:
    world.market.befall(world.server.back_office, action, books_ns)
    world.server.matching.changed.set()


# --- prices that are too wide, or fall --------------------------------------------------------------------------------


def _wide_for(run: Run, chance: random.Random, minutes: int) -> None:
    bid, ask = chance.choice(((0.3, 3.0), (0.15, 4.0), (0.5, 3.5)))
    until_ns = run.now_ns() + minutes * MINUTE_NS
    run.faults.add("quote_wide", until_ns=until_ns, where={"stream": "option"}, bid=bid, ask=ask)
    run.trouble_until(60 * minutes)


async def _falls_behind_wide_quotes(run: Run, chance: random.Random) -> None:
    """The underlying goes against a held contract while its quotes are too wide to be a price."""
    if symbol := await until(run, lambda: _option(run)):
        await asyncio.sleep(chance.uniform(20.0, 60.0))
        _wide_for(run, chance, 45)
        await asyncio.sleep(chance.uniform(30.0, 90.0))
        _leap(run, symbol, chance.uniform(0.006, 0.01), chance.randint(1, 4))


async def _wide_quotes_stay(run: Run, chance: random.Random) -> None:
    if await until(run, lambda: _option(run)):
        _wide_for(run, chance, 45)


async def _wide_market(run: Run, chance: random.Random) -> None:
    """Everybody quotes wide while the underlying stands still; meanwhile a person flattens, or the close comes."""
    if not await until(run, lambda: _option(run)):
        return
    bid, ask = chance.choice((("0.3", "0.8"), ("0.4", "1.1")))
    begin_ns = run.now_ns() + 20 * SECOND_NS
    run.world.market.widths.append(Width(begin_ns, begin_ns + 25 * MINUTE_NS, Decimal(bid), Decimal(ask)))
    run.trouble_until(25 * 60 + 300)
    await asyncio.sleep(chance.uniform(90.0, 240.0))
    await acts.command(run, "flatten")
    await asyncio.sleep(40 * 60.0)
    await acts.command(run, "resume")


async def _falls(run: Run, chance: random.Random) -> None:
    """What is held falls; where that halts, a person resumes in one of the ways."""
    desks_own = lambda: _option(run) or (_open(run) and _share(run, chance))  # noqa: E731
    if not (symbol := await until(run, desks_own)):
        return
    part = chance.uniform(0.006, 0.012) if is_option(symbol) else chance.uniform(0.03, 0.08)
    for falling in (symbol,) if is_option(symbol) else sorted(run.own()):
        _leap(run, falling, part, 5)
    await asyncio.sleep(chance.uniform(900.0, 1500.0))
    for word in chance.choice((("resume",), ("accept-broker", "resume"), ("resume-reset-limits",), ("halt", "resume"))):
        await acts.command(run, word)
        await asyncio.sleep(60.0)


async def _falls_at_the_close(run: Run, chance: random.Random) -> None:
    """In the session's last minute what is held falls far."""
    if await until(run, lambda: 0 < _left_min(run) <= 1.9 and run.own(), 7 * 3600.0):
        for symbol in sorted(run.own()):
            _leap(run, symbol, chance.uniform(0.012, 0.02), 1)
            break


async def _exits_of_zero_minutes(run: Run, _: random.Random) -> None:
    """The desk is set to buy contracts of today, and no time before the close is left for their exits."""
    changes = {
        "contracts": {"min_days": 0, "max_days": 0},
        "execution": {
            "expiry_day_flat_min": 0, "flat_before_close_min": 0, "flatten_lead_min": 0, "expiry_day_no_entry_min": 1
        },
    }  # fmt: skip
    run.desk.kill(again=False)
    whole = run.config.read_text()
    run.config.write_text(run.world.config_with(changes))
    run.bad_file, before = True, run.watch.raised("configuration")
    run.desk.start()
    await asyncio.sleep(60.0)
    refused = run.desk.exit_code == 2 or run.watch.raised("configuration") > before
    if refused:  # as such a configuration is; a desk that holds something is up, and halted
        run.config.write_text(whole)
    run.bad_file = False
    if not run.desk.running:
        run.desk.start()
    elif refused:
        await run.restart()
        await asyncio.sleep(120.0)
        await acts.command(run, "resume")


# --- what a person holds beside ---------------------------------------------------------------------------------------


async def _both_hold(run: Run, chance: random.Random) -> str:
    """A person buys what the desk holds; returns the symbol, "" where the desk holds nothing till the close nears."""
    symbol = await until(run, lambda: _open(run) and _left_min(run) > 5 and _share(run, chance), 8 * 3600.0)
    if not symbol:
        return ""
    if run.world.account.quantity(symbol) <= run.own().get(symbol, 0):
        acts.by_hand(run, "place", symbol=symbol, qty=acts.shares_of(run, chance, 5, 90), side="buy")
        await asyncio.sleep(120.0)
    return str(symbol)


def _in_both(kind: str) -> Callable[[Run, random.Random], Awaitable[None]]:
    async def over_night(run: Run, chance: random.Random) -> None:
        """A person has shares of what the desk holds over night; on the next morning their company acts."""
        symbol, day = await _both_hold(run, chance), _next_date(run)
        if not day or not _acts_now(run, symbol):
            return
        await asyncio.sleep(600.0)
        await acts.command(run, "resume")  # the person's trade has halted it
        action: Any = {
            "split": Split(symbol, day, Decimal(chance.choice(("2", "3", "0.5"))), True),
            "dividend": Dividend(symbol, day, Decimal(chance.choice(("0.50", "1.11")))),
            "new name": Rename(symbol, day, new_name(symbol)),
        }[kind]
        if kind == "new name":
            run.befallen.add(new_name(symbol))
        _in_market(run.world, action)

    return over_night


async def _dividend_unannounced(run: Run, chance: random.Random) -> None:
    """A dividend whose ex-date nobody announced, on shares of both, of which the person's were bought bit by bit."""
    symbol = await _both_hold(run, chance)
    if not symbol:
        return
    if await _into_next_session(run, 60.0) and symbol in run.own():
        acts.by_hand(run, "place", symbol=symbol, qty=acts.shares_of(run, chance, 5, 90), side="buy")
    if not await _into_next_session(run, 60.0) or symbol not in run.own():
        return
    await asyncio.sleep(chance.uniform(60.0, 600.0))
    account, now_ns = run.world.account, run.now_ns()
    shares, amount = account.quantity(symbol), Decimal(chance.choice(("0.75", "1.50")))
    run.watch.pays(symbol)
    cash_row(account, "DIV", shares * amount, now_ns, "Dividend", symbol=symbol)  # it does not say for how many
    run.trouble_until(60)


async def _exercise_beside(run: Run, chance: random.Random) -> None:
    """A person buys contracts, some of them the desk's, and exercises them."""
    market, account = run.world.market, run.world.account
    if not await until(run, lambda: _open(run) and _left_min(run) > 60):
        return
    spot = market.price(run.now_ns())
    option = await until(run, lambda: _option(run), 1800.0) if chance.random() < 0.6 else ""
    symbol = option or ""
    if not symbol and spot is not None:
        session = market.session_at(run.now_ns())
        if session is None:
            return
        rows = market.listed(session.date)
        fits = [r for r in rows if r["type"] == "call" and spot - 8 < Decimal(r["strike_price"]) < spot - 2]
        symbol = str(chance.choice(fits)["symbol"]) if fits else ""
    before = account.quantity(symbol)
    if not symbol or not acts.by_hand(run, "place", symbol=symbol, qty=str(chance.randint(1, 3)), side="buy"):
        return
    await asyncio.sleep(180.0)
    await acts.command(run, "resume")
    await asyncio.sleep(chance.uniform(30.0, 300.0))
    quantity = run.watch.others(symbol)
    position = account.positions.get(symbol)
    if quantity <= 0 or position is None or quantity > account.available(symbol) or before < 0:
        return
    contract, count = parse_occ(symbol), len(account.trades)
    assert contract is not None
    _deliver(run.world.server.matching, account, position, contract, "OPEXC", Decimal(quantity), run.now_ns())
    run.others_changes |= set(account.trades[count:])
    run.persons += 1


# --- no report --------------------------------------------------------------------------------------------------------


async def _no_report(run: Run, chance: random.Random, *, beside: bool) -> None:
    """Reads of the account fail for minutes, orders are taken; and a person flattens the desk."""
    symbol = await until(run, lambda: _open(run) and _left_min(run) > 15 and _share(run, chance), 8 * 3600.0)
    if not symbol:
        return
    if beside and await _both_hold(run, chance):
        await asyncio.sleep(400.0)
        await acts.command(run, "resume")
    seconds = chance.randint(240, 480)
    for path in READS:
        until_ns = run.now_ns() + seconds * SECOND_NS
        run.faults.add("http_error", until_ns=until_ns, where={"method": "GET", "path": path}, status=503)
    run.trouble_until(seconds)
    await asyncio.sleep(chance.uniform(15.0, 60.0))
    began_ns, up = run.now_ns(), run.alive_since(run.now_ns())
    symbols = run.plan.symbols or run.shares  # what became of others is held at its last price
    positions = {one: q for one, q in run.watch.own().items() if q > 0 and one in symbols}
    if not await acts.command(run, "flatten") or run.stands() or not up:
        return
    await asyncio.sleep(CALL_S)
    market, account = run.world.market, run.world.account
    sales = {order.symbol for order in account.orders.values() if order.sign < 0 and order.created_ns >= began_ns}
    waits = [
        one
        for one in positions
        if one not in sales and market.tradable(one, run.now_ns()) and account.quantity(one) > 0
    ]
    if waits and run.alive_since(began_ns) and _open(run) and not run.world.network.down:
        run.problem("not_left", f"{', '.join(waits)} wait {CALL_S} s for a report that does not come")
    await asyncio.sleep(seconds + 300.0)
    await acts.command(run, "resume")


async def _no_report_flatten(run: Run, chance: random.Random) -> None:
    await _no_report(run, chance, beside=False)


async def _no_report_beside(run: Run, chance: random.Random) -> None:
    await _no_report(run, chance, beside=True)


# --- panics -----------------------------------------------------------------------------------------------------------


async def _panic_killed(run: Run, chance: random.Random) -> None:
    """A panic that was killed before it wrote its result."""
    if not await until(run, lambda: _open(run) and run.own(), 4 * 3600.0):
        return
    marker = leave(run.desk.state_dir, "ann")
    await asyncio.sleep(chance.uniform(0.0, 60.0))
    if marker._file is not None:
        os.close(marker._file)
    run.panic_failed_ns = run.now_ns()
    await asyncio.sleep(2100.0)
    await acts.after_panic(run)


async def _panic_and_flatten(run: Run, chance: random.Random) -> None:
    """While the desk stands down after a panic that lives, a person flattens: that does nothing, and has to say so."""
    await until(run, lambda: _open(run) and run.own(), 3600.0)
    marker = leave(run.desk.state_dir, "ann")
    await asyncio.sleep(chance.uniform(10.0, 60.0))
    live = run.desk.live
    down = live is not None and run.desk.running and live.engine.machine.state.broker.stood_down
    if down and await acts.command(run, "flatten"):
        run.problem("command", "a flatten while a panic lives is taken, and nothing is sent")
    for symbol in sorted(run.world.account.positions):
        acts.by_hand(run, "close", symbol=symbol)
    await asyncio.sleep(60.0)
    marker.end("flat" if not run.world.account.exposed() else "not flat")
    await acts.after_panic(run)


async def _panic_unheard(run: Run, _: random.Random) -> None:
    """A panic lives on, closes nothing, and is heard of no more; a person comes in the middle of the next session."""
    if not await until(run, lambda: _open(run) and run.own(), 7 * 3600.0):
        return
    marker = leave(run.desk.state_dir, "ann")
    await asyncio.sleep(60.0)
    if await _into_next_session(run, 75.0):
        live = run.desk.live
        if live is not None and run.alive_since(run.now_ns() - 60 * MINUTE_NS) and run.own():
            alarm = run.watch.raised("panic_failed")
            if live.engine.machine.state.broker.stood_down and not alarm:
                run.problem("unnamed", f"{run.own()} are held after a panic, and this session has no alarm of it")
    marker.end("not flat")
    await asyncio.sleep(900.0)
    await acts.after_panic(run)


async def _into_next_session(run: Run, minutes: float) -> bool:
    """Wait so far into the next session; False where there is none."""
    later = [session for session in run.sessions if session.open_ns > run.now_ns()]
    if not later:
        return False
    await run.world.until(later[0].open_ns + int(minutes * MINUTE_NS))
    return True


# --- starts -----------------------------------------------------------------------------------------------------------


async def _ballast_is_a_folder(run: Run, _: random.Random) -> None:
    """Killed while it holds something, and where its reserve for a full disk was there is a folder."""
    if not await until(run, run.own):
        return
    run.desk.kill(again=False)
    place = run.desk.state_dir / "ballast"
    place.unlink(missing_ok=True)
    place.mkdir()
    run.desk.start()
    await asyncio.sleep(1200.0)
    with contextlib.suppress(OSError):
        place.rmdir()
    await run.restart()


async def _model_gone_for_days(run: Run, _: random.Random) -> None:
    """Killed while it holds something; its model is gone until the middle of the next session."""
    if not await until(run, run.own):
        return
    run.desk.kill(again=False)
    file = acts.policy_file(run)
    whole = file.read_bytes()
    file.unlink()
    run.bad_file = True
    run.desk.start()
    if await _into_next_session(run, 75.0):
        positions = run.own()
        alarm = run.watch.raised("no_model") or run.watch.raised("configuration")
        if positions and not alarm and run.desk.running and run.alive_since(run.now_ns() - 70 * MINUTE_NS):
            run.problem("unnamed", f"{positions} are held without a model, and this session has no alarm of it")
    file.write_bytes(whole)
    run.bad_file = False
    if run.desk.running:
        await run.restart()
    else:
        run.desk.start()
    await asyncio.sleep(120.0)
    await acts.command(run, "resume")


# --- a strategy that raises -------------------------------------------------------------------------------------------


async def _strategy_raises(run: Run, chance: random.Random) -> None:
    """The strategy raises at each bar for a while."""
    if not await until(run, lambda: _open(run) and _left_min(run) > 30 and run.own()):
        return
    now_ns = run.now_ns()
    begin_ns = now_ns - now_ns % MINUTE_NS
    run.raises = begin_ns, begin_ns + chance.randint(8, 20) * MINUTE_NS
    await asyncio.sleep(1500.0)
    if run.raised_ends > 2:
        run.problem("ended", f"a strategy that raises ended the daemon {run.raised_ends} times")
    await asyncio.sleep(300.0)
    await acts.command(run, "resume")


# --- alarms -----------------------------------------------------------------------------------------------------------


async def _many_small_and_a_grave(run: Run, chance: random.Random) -> None:
    """Small troubles come in numbers, with a grave one among them."""
    symbol = await until(run, lambda: _open(run) and run.own())
    if not symbol:
        return
    account = run.world.account
    for number in range(chance.randint(4, 9)):
        cash_row(account, f"NEW{number}", Decimal("0.0"), run.now_ns(), "Something new")
    await asyncio.sleep(chance.uniform(0.0, 100.0))
    if run.own():
        acts.by_hand(run, "close", symbol=min(run.own()))
    await asyncio.sleep(chance.uniform(10.0, 100.0))
    for number in range(9, 9 + chance.randint(4, 9)):
        cash_row(account, f"NEW{number}", Decimal("0.0"), run.now_ns(), "Something new")
    run.trouble_until(60)


async def _exits_refused(run: Run, chance: random.Random) -> None:
    """A position has to leave, and the broker refuses each attempt for long."""
    if not await until(run, lambda: _open(run) and _left_min(run) > 60 and run.own()):
        return
    seconds = chance.randint(1500, 2700)
    where = {"key": run.world.account.key, "side": "sell"}
    until_ns = run.now_ns() + seconds * SECOND_NS
    run.faults.add("order_refused", until_ns=until_ns, where=where, status=403, code=40310000, message="not now")
    run.trouble_until(seconds)
    await acts.command(run, "flatten")
    await asyncio.sleep(seconds + 600.0)
    await acts.command(run, "resume")


# --- others' orders, and the account ----------------------------------------------------------------------------------


async def _sells_more(run: Run, chance: random.Random) -> None:
    """A person sells what nobody holds, and buys it back much later."""
    account, symbols = run.world.account, sorted(run.plan.symbols or run.shares)
    free = [symbol for symbol in symbols if not account.quantity(symbol)]
    if not await until(run, lambda: _open(run)) or not free:
        return
    symbol, count = chance.choice(free), str(chance.randint(1, 9))
    if acts.by_hand(run, "place", symbol=symbol, qty=count, side="sell"):
        await asyncio.sleep(chance.uniform(1500.0, 3600.0))
        if account.quantity(symbol) < 0:
            acts.by_hand(run, "place", symbol=symbol, qty=count, side="buy")


async def _blocked(run: Run, chance: random.Random) -> None:
    """The account may not trade for a while in which positions have to leave."""

    def due() -> Any:
        if _left_min(run) <= 50 or _busy(run):
            return False
        return _option(run) or run.own()

    if not await until(run, due):
        return
    seconds = chance.randint(1200, 2400)
    run.faults.add("account_blocked", until_ns=run.now_ns() + seconds * SECOND_NS)
    run.trouble_until(seconds)
    if symbol := _option(run):
        _leap(run, symbol, 0.008, 2)


async def _closes_unheard(run: Run, chance: random.Random) -> None:
    """A person closes what the desk holds while its stream hears nothing; before the next report it flattens."""
    if await until(run, lambda: _open(run) and _left_min(run) > 10 and _share(run, chance)):
        run.faults.add("update_lost", until_ns=run.now_ns() + 90 * SECOND_NS, where={"key": run.world.account.key})
        run.trouble_until(90)
        for symbol in sorted(run.own()):
            acts.by_hand(run, "close", symbol=symbol)
        await asyncio.sleep(chance.uniform(16.0, 44.0))
        await acts.command(run, "flatten")
        await asyncio.sleep(900.0)
        await acts.command(run, "accept-broker")
        await acts.command(run, "resume")


# --- a daily desk -----------------------------------------------------------------------------------------------------


async def _split_line_late(run: Run, chance: random.Random) -> None:
    """A split over night, whose line comes after the deadline of the next decision."""
    symbol = await until(run, lambda: _open(run) and _share(run, chance), 8 * 3600.0)
    day = _next_date(run)
    if not day or not _acts_now(run, symbol):
        return
    _in_market(run.world, Split(symbol, day, Decimal(chance.choice(("2", "3"))), True))
    session = run.world.market.session_of(day)
    assert session is not None
    hidden_ns = session.close_ns + 20 * 3600 * SECOND_NS
    where = {"key": run.world.account.key, "symbol": symbol}
    run.faults.add("action_line_late", until_ns=hidden_ns, where=where)
    run.split_owed[symbol] = hidden_ns


NEVER_MIN = 14 * 24 * 60.0
RATIOS = ("2", "3", "10", "1.5", "1.25", "0.5", "0.2")
BOOKS_MIN = (-930, -330, -330, -330, -200, -20, 6)
"""From the open: the evening before, 04:00, before and after the open."""
LINE_MIN = (-330, -60, 3, 45, 200, 24 * 60.0)
ANNOUNCED_MIN = (None, None, -400, -30, 30, NEVER_MIN)  # None: all the time
BARS_MIN = (None, None, -100, 2, 240)


def split_in_parts(
    world: World, faults: Faults, chance: random.Random, symbol: str, session: Session
) -> tuple[Split, int, int]:
    """Let a share split before a session: announcement, books, line and new bars each come at a time of their own.

    Returns the split, and when the accounts' books and the ledger's line change.
    """

    split = Split(symbol, session.date, Decimal(chance.choice(RATIOS)), chance.random() < 0.7)
    books_ns, line_ns = (_from_open(session, chance.choice(minutes)) for minutes in (BOOKS_MIN, LINE_MIN))
    kept_back = {"action_line_late": line_ns}
    for kind, minutes in (("action_unannounced", ANNOUNCED_MIN), ("day_bars_unadjusted", BARS_MIN)):
        minute = chance.choice(minutes)
        kept_back |= {} if minute is None else {kind: _from_open(session, minute)}
    for kind, until_ns in kept_back.items():
        faults.add(kind, until_ns=until_ns, where={"symbol": symbol})
    _in_market(world, split, books_ns)
    world.story.note("split", {"of": symbol, "ratio": text(split.ratio), "books_ns": books_ns, **kept_back})
    return split, books_ns, line_ns


def while_split(session: Session, chance: random.Random) -> int:
    """When something comes between the parts of a split."""
    return _from_open(session, chance.uniform(-95.0, 90.0))


def _from_open(session: Session, minutes: float) -> int:
    return session.open_ns + int(minutes * MINUTE_NS)


def _in_parts(*, beside: bool) -> Callable[[Run, random.Random], Awaitable[None]]:
    async def in_parts(run: Run, chance: random.Random) -> None:
        """A split over night: announcement, books, line and new bars each at its own time, and something between."""
        symbol = await until(run, lambda: _open(run) and _share(run, chance), 8 * 3600.0)
        day = _next_date(run)
        session = run.world.market.session_of(day) if day else None
        if session is None or not _acts_now(run, symbol):
            return
        split, books_ns, _ = split_in_parts(run.world, run.faults, chance, symbol, session)
        run.splits.append((split, books_ns))
        await run.world.until(while_split(session, chance))
        await _meets(run, chance, symbol, beside=beside)

    return in_parts


def merger_of(days: DailyPrices, others: Sequence[str], chance: random.Random, symbol: str, date: str) -> Merger:
    """A merger for cash, for shares of one of `others` or of a share that nobody trades, or for both."""
    close = close_before(days.bars[symbol], date)
    assert close is not None
    part = chance.choice((1.0, 0.0, 0.0, 0.3))  # of the price, in cash
    cash = Decimal(str(round(close * part, 2)))
    if part == 1.0:
        return Merger(symbol, date, cash, cash_apart=chance.random() < 0.3)
    new, ratio = f"{symbol.replace('.', '')[:3]}M", Decimal(chance.choice(RATIOS))
    if others and chance.random() < 0.5:
        new = chance.choice(others)
        other_close = close_before(days.bars[new], date)
        assert other_close is not None
        ratio = Decimal(str(round((close - float(cash)) / other_close, 4)))
    return Merger(symbol, date, cash, new, ratio, chance.random() < 0.7, chance.random() < 0.3)


def spin_off_of(chance: random.Random, symbol: str, date: str) -> SpinOff:
    """A spin-off of a share that nobody trades."""
    new, ratio = f"{symbol.replace('.', '')[:3]}S", Decimal(chance.choice(("1", "0.5", "0.25", "2", "0.1")))
    return SpinOff(symbol, date, new, ratio, chance.choice((0.05, 0.2, 0.5)), chance.random() < 0.7)


def reorganised_in_parts(
    world: World, faults: Faults, chance: random.Random, action: Merger | SpinOff, session: Session
) -> tuple[int, int]:
    """Let a merger or spin-off come before a session: announcement, books and each line at a time of its own.

    Returns when the accounts' books and the ledger's last line change.
    """
    books_ns, line_ns = (_from_open(session, chance.choice(minutes)) for minutes in (BOOKS_MIN[:-1], LINE_MIN))
    lines_ns = {
        name: line_ns + (chance.randint(1, 30) * MINUTE_NS if chance.random() < 0.3 else 0)
        for name in (action.symbol, action.new)
    }
    for name, until_ns in lines_ns.items():
        faults.add("action_line_late", until_ns=until_ns, where={"symbol": name})
    if (minute := chance.choice(ANNOUNCED_MIN)) is not None:
        faults.add("action_unannounced", until_ns=_from_open(session, minute), where={"symbol": action.symbol})
    _in_market(world, action, books_ns)
    words = {"of": action.symbol, "into": action.new, "books_ns": books_ns, "lines_ns": lines_ns}
    world.story.note("reorganised", words)
    return books_ns, max(lines_ns.values())


def _reorganised(*, merges: bool, beside: bool) -> Callable[[Run, random.Random], Awaitable[None]]:
    async def reorganised(run: Run, chance: random.Random) -> None:
        """A share that the desk holds is taken over, or spins one off, over night; something comes between."""
        symbol = await _both_hold(run, chance) if beside else ""
        symbol = symbol or await until(run, lambda: _open(run) and _share(run, chance), 8 * 3600.0)
        day, days = _next_date(run), run.world.market.days
        session = run.world.market.session_of(day) if day else None
        if session is None or days is None or not _acts_now(run, symbol):
            return
        if beside:
            await asyncio.sleep(600.0)
            await acts.command(run, "resume")  # the person's trade has halted it
        others = [one for one in sorted(run.plan.symbols) if one in days.bars and not run.moved(one)]
        action = merger_of(days, others, chance, symbol, day) if merges else spin_off_of(chance, symbol, day)
        run.befallen |= {action.new} - {""}
        run.reorganised.append((action, *reorganised_in_parts(run.world, run.faults, chance, action, session)))
        await run.world.until(while_split(session, chance))
        await _meets(run, chance, symbol, beside=beside)

    return reorganised


async def _meets(run: Run, chance: random.Random, symbol: str, *, beside: bool) -> None:
    """Something comes while the split, merger or spin-off is under way."""
    if beside:
        side = chance.choice(("buy", "sell"))
        acts.by_hand(run, "place", symbol=symbol, qty=acts.shares_of(run, chance, 1, 9), side=side)
        return
    act = chance.choice(("nothing", "kill", "restart", "away", "close", "accept-broker", "flatten"))
    if act == "close":
        await acts.command(run, "close", symbol)
    elif act in ("accept-broker", "flatten"):
        await acts.command(run, act)
    elif act != "nothing":
        await acts.ACTS[act](run, chance)


def _kept_back(name: str) -> Callable[[Run, random.Random], Awaitable[None]]:
    async def kept_back(run: Run, chance: random.Random) -> None:
        """Halted or paused at the decision, and resumed before the open."""
        following = next((s for s in run.sessions if s.open_ns > run.now_ns() + 30 * MINUTE_NS), None)
        if following is None:
            return
        await run.world.until(following.open_ns - chance.randint(17, 25) * MINUTE_NS)
        calm = run.alive_since(run.now_ns() - 10 * MINUTE_NS) and run.willing()
        live = run.desk.live
        calm &= live is not None and live.engine.machine.state.risk.halt is None
        if not await acts.command(run, name):
            return
        await run.world.until(following.open_ns - chance.randint(4, 12) * MINUTE_NS)
        calm &= run.willing()
        resumed, began_ns = await acts.command(run, "resume"), run.now_ns()
        await run.world.until(following.open_ns + 10 * MINUTE_NS)
        other = run.schedule.desk == REBALANCER and date.fromisoformat(following.date).weekday() > 1
        calm &= resumed and run.alive_since(began_ns) and run.willing() and not run.watch.raised("account_too_small")
        if other and calm and not any(it.created_ns > began_ns for it in run.world.account.orders.values()):
            run.problem("basket", "resumed before the open, and the day's basket was not traded")

    return kept_back


async def _quotes_gone(run: Run, chance: random.Random) -> None:
    """No quotes over REST for most of a session; a desk that is invested says so."""
    if not await until(run, lambda: _open(run) and run.own(), 7 * 3600.0):
        return
    if _left_min(run) < 150 and not await _into_next_session(run, chance.uniform(-5.0, 30.0)):
        return
    hours = chance.uniform(2.0, 5.0)
    for path in (QUOTES["path"], "/v2/stocks/snapshots"):
        until_ns = run.now_ns() + int(hours * 3600 * SECOND_NS)
        run.faults.add("http_error", until_ns=until_ns, where={"method": "GET", "path": path}, status=503)
    run.trouble_until(int(hours * 3600))
    began_ns = run.now_ns()
    await asyncio.sleep(100 * 60.0)
    invested = run.own()
    applies = invested and run.schedule.desk in DAILY and _open(run) and run.alive_since(began_ns) and run.is_invested()
    if applies and not run.watch.raised("blind") and not run.stands():
        run.problem("unnamed", f"no quote of {len(invested)} holdings for 100 minutes, and no alarm blind")


# --- the ledger -------------------------------------------------------------------------------------------------------


async def _unknown_line(run: Run, chance: random.Random) -> None:
    """A line of a kind that nobody knows, with cash."""
    await until(run, lambda: _open(run))
    amount = Decimal(chance.choice(("-40", "40", "-7.35", "12.5")))
    cash_row(run.world.account, "NEW", amount, run.now_ns(), "Something new")
    run.money_moved = True


async def _worthless(run: Run, chance: random.Random) -> None:
    """Shares of the desk are removed as worthless."""
    symbol = await until(run, lambda: _open(run) and _share(run, chance))
    if not symbol or run.watch.others(symbol) or any(o.symbol == symbol for o in run.world.account.working.values()):
        return
    account, quantity = run.world.account, run.world.account.quantity(symbol)
    account.trade(PositionChange(symbol, -quantity, Decimal(0), run.now_ns()))
    cash_row(account, "REORG", Decimal(0), run.now_ns(), "Worthless removal", symbol=symbol, qty=text(-quantity))
    run.money_moved = True
    run.befallen.add(symbol)
    days = run.world.market.days
    assert days is not None
    days.delisted[symbol] = _next_date(run) or "9999"


def _amended(*, bust: bool, older: bool) -> Callable[[Run, random.Random], Awaitable[None]]:
    async def amended(run: Run, chance: random.Random) -> None:
        """A fill is busted or corrected; neither its order nor an update shows it, only the ledger's line."""
        account = run.world.account

        def fitting() -> list[PositionChange]:
            session = run.world.market.session_at(run.now_ns())
            if session is None:
                return []
            by_desk = [t for t in account.trades if t.execution_id and run.is_own(t.order_id)]
            then = [t for t in by_desk if (t.time_ns < session.open_ns) == older]
            candidates = [t for t in then if not bust or (t.quantity > 0 and run.own().get(t.symbol, 0) >= t.quantity)]
            return [t for t in candidates if not run.moved(t.symbol) and run.now_ns() - t.time_ns > 120 * SECOND_NS]

        fills = await until(run, fitting)
        if not fills:
            return
        fill = chance.choice(fills[-5:])
        until_ns = run.now_ns() + 30 * SECOND_NS
        word = "trade_bust" if bust else "trade_correct"
        run.faults.add("update_lost", until_ns=until_ns, where={"key": account.key, "event": word})
        price_change = (
            Decimal("0.50") if abs(fill.quantity) * (100 if is_option(fill.symbol) else 1) > 10 else Decimal("2.00")
        )
        amend_fill(
            run.world.server.matching, account, fill, None if bust else price_change, run.now_ns(), order_kept=True
        )
        run.money_moved = True
        run.trouble_until(60)

    return amended


TOO_LONG = 1_200_000  # letters: above what a desk takes as one event


async def _activity_garbage(run: Run, chance: random.Random) -> None:
    """The stream of activities misbehaves in every way."""
    garbage = ["x" * TOO_LONG, *chance.sample(("{", "nonsense", "x" * 200_000), chance.randint(0, 2))]
    chance.shuffle(garbage)
    for line in garbage:
        run.faults.add("activity_garbage", text=line)
    for kind in ("activity_dropped", "activity_doubled"):
        run.faults.add(kind, times=chance.randint(1, 3))
    run.money_moved = True  # from the first fee on: until the next report the desk cannot know it
    for _ in range(len(garbage) + chance.randint(1, 3)):
        cash_row(run.world.account, "FEE", Decimal("-0.10"), run.now_ns(), "Fee")
        run.world.server.matching.changed.set()
        await asyncio.sleep(chance.uniform(5.0, 60.0))
    await asyncio.sleep(120.0)
    for fault in run.faults.waiting("activity_garbage", "activity_dropped", "activity_doubled"):
        run.faults.remove(fault)


TOGETHER: dict[str, Callable[[Run, random.Random], Awaitable[None]]] = {
    "falls behind wide quotes": _falls_behind_wide_quotes,
    "wide quotes stay": _wide_quotes_stay,
    "wide market, flatten": _wide_market,
    "falls": _falls,
    "falls at the close": _falls_at_the_close,
    "exits of zero minutes": _exits_of_zero_minutes,
    "split of both": _in_both("split"),
    "dividend of both": _in_both("dividend"),
    "new name of both": _in_both("new name"),
    "dividend nobody announced": _dividend_unannounced,
    "exercise beside": _exercise_beside,
    "no report, flatten": _no_report_flatten,
    "no report, flatten beside": _no_report_beside,
    "panic killed": _panic_killed,
    "panic, flatten": _panic_and_flatten,
    "panic unheard": _panic_unheard,
    "ballast is a folder": _ballast_is_a_folder,
    "model gone for days": _model_gone_for_days,
    "strategy raises": _strategy_raises,
    "many small and a grave": _many_small_and_a_grave,
    "exits refused": _exits_refused,
    "sells more": _sells_more,
    "blocked": _blocked,
    "closes unheard, then flatten": _closes_unheard,
    "split line late": _split_line_late,
    "split in parts": _in_parts(beside=False),
    "split in parts beside": _in_parts(beside=True),
    "merger": _reorganised(merges=True, beside=False),
    "merger beside": _reorganised(merges=True, beside=True),
    "spin-off": _reorganised(merges=False, beside=False),
    "spin-off beside": _reorganised(merges=False, beside=True),
    "halted at the decision": _kept_back("halt"),
    "paused at the decision": _kept_back("pause"),
    "quotes gone": _quotes_gone,
    "unknown line": _unknown_line,
    "worthless": _worthless,
    "bust unheard": _amended(bust=True, older=False),
    "correction unheard": _amended(bust=False, older=False),
    "older correction": _amended(bust=False, older=True),
    "older bust": _amended(bust=True, older=True),
    "activity garbage": _activity_garbage,
}
"""Every act by its name in a schedule."""
