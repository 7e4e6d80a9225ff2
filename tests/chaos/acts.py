"""What the campaign itself does in the middle of a session: to the process, to its disk, or to the account as a person.

Each act returns when it is done; the daemon is running, or about to, afterwards.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING

from daemon.alpaca_api.refusals import Refusal
from daemon.config.load import load
from daemon.host.panic_marker import FLAT, leave
from daemon.journal.journal import FILE
from daemon.operator.control.client import CommandAnswer, CommandRequest, ControlError, ask
from tests.chaos.desk import START_LIMIT_S, fill, make_room

if TYPE_CHECKING:
    from tests.chaos.session import Run

LAST_BYTES = 64 * 1024
FEE_LATE_S = 300.0  # virtual
LOCKED_S = 5.0  # real: SQLite waits by the machine's clock
SETTLED_LIMIT_S = 1200.0  # virtual seconds from a panic until the desk goes on
ANSWER_S = 30.0  # real: virtual time stands still
WHO = "ann"
STOP_LIMIT_MIN = 5.0  # simulated minutes that a death waits for a stop
FULL_LIMIT_S = 3600.0  # virtual seconds until a daemon without room for its journal has halted and ended


def kill(run: Run) -> None:
    """SIGKILL after a moment, and the next life."""
    run.clock.pass_s(run.chance.uniform(0.0, 10.0))
    run.desk.kill()
    run.start()


def die(run: Run) -> None:
    """SIGKILL once a stop rests, an hour and more without a daemon, and the next life."""
    until = run.minute() + STOP_LIMIT_MIN
    while run.minute() < until and not _stops(run):
        run.nap(5.0)
    run.desk.kill()
    run.clock.pass_s(run.chance.uniform(3600.0, 5400.0))
    run.start()


def die_and_cancel(run: Run) -> None:
    """As `die`, and a person cancels the stop meanwhile."""
    until = run.minute() + STOP_LIMIT_MIN
    while run.minute() < until and not _stops(run):
        run.nap(5.0)
    run.desk.kill()
    run.clock.pass_s(run.chance.uniform(60.0, 1800.0))
    for order_id in _stops(run):
        with contextlib.suppress(Refusal):  # it filled meanwhile
            run.served.by_hand("cancel", order_id=order_id)
    run.clock.pass_s(3600.0)
    run.start()


def _stops(run: Run) -> list[str]:
    """The ids of the stops that rest at the server."""
    return [order.id for order in run.account.working.values() if order.type.startswith("stop")]


def kill_twice(run: Run) -> None:
    """SIGKILL, and again while it starts: of that only a part is in virtual time."""
    kill(run)
    time.sleep(run.chance.uniform(0.0, 0.7))
    run.clock.pass_s(run.chance.uniform(0.0, 0.3))
    run.desk.kill()
    run.start()


def flip_snapshot(run: Run) -> None:
    """SIGKILL, one bit of the newest snapshot flips, and the next life, which passes over that snapshot by itself."""
    until = run.minute() + START_LIMIT_S / 60
    while run.minute() < until and not run.desk.has_snapshot():
        run.nap(10.0)
    run.desk.kill()
    damaged = run.desk.flip_in_snapshot(run.chance)
    run.start()
    if not damaged:
        run.problems.append(f"no snapshot was there to be damaged within {START_LIMIT_S} s")
        return
    until = run.minute() + START_LIMIT_S / 60
    while run.minute() < until and not run.desk.listening():
        run.nap(1.0)
    if damaged not in run.desk.passed_over():
        run.problems.append(f"the damaged snapshot was not passed over: {damaged!r}, log: {run.desk.passed_over()}")


def flip_row(run: Run) -> None:
    """SIGKILL, one bit of an event flips, and the next life, which leaves that event out and is halted for it."""
    until = run.minute() + START_LIMIT_S / 60
    run.desk.kill()
    while not run.desk.flip_in_row(run.chance):  # killed before its first event, or right after a snapshot
        run.start()
        if run.minute() > until:
            run.problems.append(f"no event was there to be damaged within {START_LIMIT_S} s")
            return
        run.nap(10.0)
        run.desk.kill()
    run.start()
    until = run.minute() + START_LIMIT_S / 60
    while run.minute() < until and not run.desk.listening():
        run.nap(1.0)
    if "journal_damaged" not in run.desk.halted_for():
        run.problems.append(f"the damaged row halted nothing: {sorted(run.desk.halted_for())}")


def locked(run: Run) -> None:
    """SIGKILL, and another program keeps the journal for itself while the next life starts, which waits for it."""
    run.desk.kill()
    with contextlib.closing(sqlite3.connect(run.desk.state_dir / FILE, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        run.start()
        time.sleep(LOCKED_S)
        other.execute("COMMIT")
    until = run.minute() + START_LIMIT_S / 60
    while run.minute() < until and not run.desk.listening():
        run.nap(1.0)
    if not run.desk.listening():
        run.problems.append(f"it did not start within {START_LIMIT_S} s after its journal was locked")


def new_release(run: Run) -> None:
    """Another release is laid under the desk, then SIGKILL, and the next life: halted until a person resumes it."""
    run.desk.update()
    kill(run)


def bad_model(run: Run) -> None:
    """SIGKILL, and the model cannot be loaded: the next life has none, halted, or refuses where it holds nothing; then
    the model is whole again, and a person resumes.
    """
    run.desk.kill()
    shelf = load(run.desk.config, {}).paths.models_dir
    (policy,) = shelf.rglob("policy.onnx")
    whole = policy.read_bytes()
    damage = run.chance.choice(("flipped", "cut", "gone"))
    flipped = bytearray(whole)
    flipped[run.chance.randrange(len(whole))] ^= 1
    policy.write_bytes(bytes(flipped) if damage == "flipped" else whole[: len(whole) // 2])
    if damage == "gone":
        policy.unlink()
    _mended(run, "no_model", lambda: policy.write_bytes(whole))


def bad_configuration(run: Run) -> None:
    """SIGKILL, and a typo in one of the configuration's tables: as for a model that cannot be loaded."""
    run.desk.kill()
    whole = run.desk.config.read_text()
    table = run.chance.choice(("risk", "execution", "journal", "feed"))
    run.desk.config.write_text(whole.replace(f"[{table}]\n", f"[{table}]\ntypo = 1\n"))
    _mended(run, "configuration", lambda: run.desk.config.write_text(whole))
    restart(run)


def _mended(run: Run, reason: str, mend: Callable[[], object]) -> None:
    """The next life, which halts for this reason or ends with 2; what was wrong is mended, and a person resumes."""
    run.start()
    until = run.minute() + START_LIMIT_S / 60
    while run.minute() < until and run.desk.alive() and reason not in run.desk.halted_for():
        run.clock.pass_s(1.0)
    is_over = not run.desk.alive()
    mend()
    if is_over:
        if not run.desk.why_ended().startswith("2: refused"):
            run.problems.append(f"{reason}: it ended with {run.desk.why_ended()[:300]}")
        run.start()
        return
    if reason not in run.desk.halted_for():
        run.problems.append(f"{reason} halted nothing within {START_LIMIT_S} s: {sorted(run.desk.halted_for())}")
    until = run.minute() + SETTLED_LIMIT_S / 60
    while run.minute() < until:
        run.nap(20.0)
        answer = ask_desk(run, "resume")
        if answer is not None and answer.status is not None and not answer.status.halt:
            return


def kill_stopping(run: Run) -> None:
    """SIGKILL in the middle of a clean stop."""
    run.desk.ask_to_stop()
    run.clock.pass_s(run.chance.uniform(0.0, 0.2))
    run.desk.kill()
    run.start()


def restart(run: Run) -> None:
    """A clean stop, which must end with code 0, and the next life."""
    up = run.desk.listening()  # before that SIGTERM ends it at once, by the system's own rule
    code = run.desk.stop(START_LIMIT_S)
    if code != 0 and (up or code is None or code > 0):
        run.problems.append(f"a clean stop ended with {code}: {run.desk.why_ended()[:300]}")
        run.desk.kill()
    run.start()


def down(run: Run) -> None:
    """Killed, and nobody starts it for some simulated minutes."""
    run.desk.kill()
    run.clock.pass_s(run.chance.uniform(200.0, 700.0))
    run.start()


def freeze(run: Run) -> None:
    """Stopped by SIGSTOP as by an overloaded host, then on."""
    run.desk.pause(stopped=True)
    run.clock.pass_s(run.chance.uniform(200.0, 800.0))
    run.desk.pause(stopped=False)


def clock_leap(run: Run) -> None:
    """The host's wall clock is eight hours ahead or behind, and right again a little later."""
    by_s = run.chance.choice((-8, 8)) * 3600
    run.desk.leap(by_s)
    run.nap(run.chance.uniform(400.0, 1200.0))
    run.desk.leap(-by_s)


def disk_full(run: Run) -> None:
    """Nothing is left of the disk until the daemon has ended; then there is room again, and the next life."""
    if run.disk is None:
        run.desk.let_files_grow_by(LAST_BYTES)
    else:
        fill(run.disk)
    until = run.minute() + FULL_LIMIT_S / 60
    while run.desk.alive() and run.minute() < until:
        run.clock.pass_s(1.0)
    if run.desk.alive():
        run.problems.append(f"it runs {FULL_LIMIT_S} s after its disk was full")
        run.desk.kill()
    else:
        why = run.desk.why_ended()
        run.desk.ends.append(why)
        if "disk_full" not in why and "journal_failed" not in why:
            run.problems.append(f"the full disk ended it without naming it: {why[:300]}")
    if run.disk is not None:
        make_room(run.disk)
    run.start()


def fee(run: Run) -> None:
    """The broker books a fee."""

    def book() -> None:
        now_ns = run.served.server.clock.now_ns()
        run.account.cash -= Decimal("0.37")
        row = {"activity_type": "FEE", "net_amount": "-0.37", "date": "2024-11-20", "status": "executed"}
        run.account.note(now_ns, {**row, "description": "Regulatory fees"})

    run.served.call(book)


def fee_late(run: Run) -> None:
    """The broker takes a fee; its line comes five minutes later."""

    def take() -> None:
        run.account.cash -= Decimal("5.00")

    def explain() -> None:
        row = {"activity_type": "FEE", "net_amount": "-5.00", "date": "2024-11-20", "status": "executed"}
        run.account.note(run.served.server.clock.now_ns(), {**row, "description": "Regulatory fees"})

    run.served.call(take)
    run.nap(FEE_LATE_S)
    run.served.call(explain)


def cash_account(run: Run) -> None:
    """The broker takes the margin away: what was sold today pays for nothing before tomorrow."""

    def change() -> None:
        run.account.margin, run.account.settles = 1, True
        run.account.configuration["max_margin_multiplier"] = "1"

    run.served.call(change)


def split(run: Run) -> None:
    """The contract that is held is adjusted two for one."""
    symbol = _held_symbol(run)
    if symbol:
        run.served.call(run.served.faults.add, "split", symbol=symbol, ratio=2)


def hand_buy(run: Run) -> None:
    """A person buys one contract: of what the desk holds, or of its neighbour."""
    symbol = _held_symbol(run)
    if run.chance.random() < 0.5 and symbol:
        symbol = f"{symbol[:-8]}{int(symbol[-8:]) + 1000:08d}"
    with contextlib.suppress(Refusal):
        run.served.by_hand("place", symbol=symbol, qty="1", side="buy")


def persons_dividend(run: Run) -> None:
    """A person holds shares of the underlying, and the broker pays a dividend on them."""
    _persons(run, "dividend")


def persons_split(run: Run) -> None:
    """A person holds shares of the underlying, and they are split."""
    _persons(run, "split")


def _persons(run: Run, action: str) -> None:
    with contextlib.suppress(Refusal):
        run.served.by_hand("place", symbol="SPY", qty=str(run.chance.randint(1, 8)), side="buy")
    run.nap(run.chance.uniform(30.0, 200.0))
    more = {"ratio": run.chance.choice((2, 3))} if action == "split" else {}
    run.served.call(run.served.faults.add, action, symbol="SPY", **more)
    run.nap(run.chance.uniform(0.0, 200.0))


def drip(run: Run) -> None:
    """The broker buys half a share with a dividend."""
    with contextlib.suppress(Refusal):
        run.served.by_hand("place", symbol="SPY", qty="0.5", side="buy")


def hand_close(run: Run) -> None:
    """A person closes what the desk holds."""
    with contextlib.suppress(Refusal):
        run.served.by_hand("close", symbol=_held_symbol(run))


def hand_cancel(run: Run) -> None:
    """A person cancels an order of the desk."""
    for order_id in list(run.account.working):
        with contextlib.suppress(Refusal):
            run.served.by_hand("cancel", order_id=order_id)


def hand_close_unheard(run: Run) -> None:
    """A person closes what the desk holds while its stream is half open; a moment later it is commanded to flatten."""
    hand_close(run)
    run.nap(run.chance.uniform(0.0, 45.0))
    ask_desk(run, "flatten")


def panic(run: Run) -> None:
    """A person's panic: its file in the desk's folder, then all is cancelled and closed; then `accept-broker` and
    `resume`, until the desk goes on.
    """
    until = run.minute() + SETTLED_LIMIT_S / 60
    marker = leave(run.desk.state_dir, WHO)
    while run.exposed() and run.minute() < until:
        hand_cancel(run)
        run.nap(1.0)
        for symbol in list(run.account.positions):
            with contextlib.suppress(Refusal):
                run.served.by_hand("close", symbol=symbol)
        run.nap(1.0)
    marker.end(FLAT if not run.exposed() else "not flat")
    _settle(run, until)


def panic_unreachable(run: Run) -> None:
    """A panic that reaches no broker, and gives up: the desk closes what is its own; then as after any panic."""
    until = run.minute() + SETTLED_LIMIT_S / 60
    marker = leave(run.desk.state_dir, WHO)
    run.nap(run.chance.uniform(0.0, 30.0))
    marker.end("not flat")
    while run.exposed() and run.minute() < until:
        run.nap(10.0)
    if run.exposed() and len(run.plan.troubles) == 1:
        run.problems.append(f"still exposed {SETTLED_LIMIT_S} s after a panic that failed")
    _settle(run, until)


def _settle(run: Run, until: float) -> None:
    """The way out after a panic."""
    while run.minute() < until and "panic" not in run.desk.halted_for():
        run.nap(1.0)
    if "panic" not in run.desk.halted_for():
        run.problems.append(f"a panic halted nothing: {sorted(run.desk.halted_for())}")
    while run.minute() < until and not ask_desk(run, "accept-broker"):
        run.nap(1.0)
    halted = True
    while halted and run.minute() < until:
        run.nap(10.0)
        answer = ask_desk(run, "resume")
        halted = answer is None or answer.status is None or bool(answer.status.halt)
    if halted and len(run.plan.troubles) == 1:  # another trouble may keep the broker's report away
        run.problems.append(f"still halted {SETTLED_LIMIT_S} s after the panic")


def ask_desk(run: Run, command: str) -> CommandAnswer | None:
    """What the daemon answers to an operator's command; None for no answer, or no."""
    with contextlib.suppress(ControlError):
        answer = ask(run.desk.state_dir, CommandRequest(1, command, "settled", WHO), ANSWER_S)
        return answer if answer.ok else None
    return None


def _held_symbol(run: Run) -> str:
    return next((symbol for symbol in run.account.positions if symbol != "SPY"), "")  # half a share lies beside


ACTS: dict[str, Callable[[Run], None]] = {
    "die": die,
    "die_and_cancel": die_and_cancel,
    "kill": kill,
    "kill_twice": kill_twice,
    "flip_snapshot": flip_snapshot,
    "flip_row": flip_row,
    "locked": locked,
    "new_release": new_release,
    "bad_model": bad_model,
    "bad_configuration": bad_configuration,
    "kill_stopping": kill_stopping,
    "restart": restart,
    "down": down,
    "freeze": freeze,
    "clock_leap": clock_leap,
    "disk_full": disk_full,
    "fee": fee,
    "fee_late": fee_late,
    "cash_account": cash_account,
    "split": split,
    "drip": drip,
    "persons_dividend": persons_dividend,
    "persons_split": persons_split,
    "hand_buy": hand_buy,
    "hand_close": hand_close,
    "hand_cancel": hand_cancel,
    "hand_close_unheard": hand_close_unheard,
    "panic": panic,
    "panic_unreachable": panic_unreachable,
}
"""Every act by the name that `tests.chaos.kinds` gives it."""
