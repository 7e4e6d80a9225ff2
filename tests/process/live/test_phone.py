"""A hand on a trading desk from a phone: question, confirmation, signed command, event, orders at the loopback Alpaca.

Expected values are the server's book and its log of requests.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from daemon.notify.desk_line import LocalDesk
from daemon.operator.control.client import CommandRequest, ask
from strategies.kit.units import MINUTE_NS
from tests.support.desks.desk_run import verified
from tests.support.desks.stage import KEYS as BROKER_KEYS
from tests.support.desks.stage import Stage, Table, Tape, entries, flat, holding, stage
from tests.support.outside.phones import HEX, KEYS, heard
from tests.support.outside.telegram import ANN, BOT_ID, telegram

DAY = "2024-10-31"
BEGIN = "10:06"  # three minutes before the lively policy's first entry
PAUSED_MIN = 15  # two entries of the lively policy would fall into it
SIGNED: Table = {"control": {"signed": True}, "desk": {"name": "paper-1"}}
ENVIRONMENT = {**BROKER_KEYS, "MQTT_COMMAND_KEYS": f"handset:{HEX}:phone"}


def line_to(desk: Stage) -> LocalDesk:
    """The line of a listener on the desk's host, whose time is the stage's."""
    return LocalDesk("paper-1", desk.state_dir, "handset", KEYS["handset"], BOT_ID, desk.clock.now_ns)


def start(desk: Stage) -> None:
    desk.start(environment=ENVIRONMENT)
    desk.until_true(lambda: holding(desk) and knows(desk), "the first position")


def knows(desk: Stage) -> bool:
    """Whether the desk has heard of every fill."""
    status = ask(desk.state_dir, CommandRequest(1, "status")).status
    positions = {} if status is None else {position.symbol: position.quantity for position in status.positions}
    return positions == desk.held() and status is not None and not status.orders


def test_a_position_that_a_phone_closed_is_left_and_not_bought_back_and_the_same_update_does_nothing(
    bundled: Tape, lively: Path, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        desk = stack.enter_context(stage(bundled, DAY, BEGIN, tmp_path / "stage", lively, SIGNED))
        server = stack.enter_context(telegram())
        start(desk)
        ((contract, quantity),) = desk.held().items()
        with heard(server, [line_to(desk)]):
            server.write("/close spx")
            assert server.until_sent(1)[0] == f"paper-1 holds no SPX. It holds {quantity} {contract}."
            server.write(f"/close {contract} {quantity + 1}")
            assert server.until_sent(2)[1] == f"paper-1 holds only {quantity} {contract}: /close {contract}"
            server.write("/close spy")
            question = server.until_sent(3)[2]
            assert question.startswith(f"paper-1: sell all {quantity} {contract}? None is bought back in this session.")
            assert desk.journaled("CloseRequested") == []
            server.until_confirmed()
        with heard(server, [line_to(desk)]):  # the listener started again between question and answer
            server.press("Yes")
            assert "No such question is open" in server.until_sent(4)[3]
            assert desk.journaled("CloseRequested") == []
            server.write("/close spy")
            code = re.search(r"/yes ([A-Z0-9]+)", server.until_sent(5)[4])
            assert code is not None
            before = entries(desk)
            number = server.write(f"/yes {code[1].lower()}")
            assert re.match(r"paper-1: done \(event [\d,]+\)\. It trades, 1 order sent", server.until_sent(6)[5])
            server.update({"message": server.message(f"/yes {code[1]}")}, number)  # Telegram delivers it again
            server.write("/positions")
            server.until_sent(7)
        (request,) = desk.journaled("CloseRequested")
        assert (request["symbol"], request["quantity"]) == (contract, 0)
        assert request["reason"] == f"from the phone by ann (Telegram user {ANN}, update {number})"
        assert re.fullmatch(r"signed/handset #[0-9a-f]{16}", request["who"])
        desk.until_true(partial(flat, desk), "the position is left")
        desk.until_time(desk.clock.now_ns() + 2 * PAUSED_MIN * MINUTE_NS)
        assert entries(desk) == before
        assert len(desk.journaled("CloseRequested")) == 1

        with heard(server, [line_to(desk)]):
            count = len(server.sent)
            server.write("/profit")
            reply = server.until_sent(count + 1)[count]
            assert re.match(
                rf"paper-1, {DAY}: [+-][\d,.]+ USD realised; 1 trade closed, [01] won\nNothing is open\.", reply
            )
            daemon = desk.daemons[-1]
            daemon.kill()
            daemon.wait(60)
            server.write("/resume")
            assert server.until_sent(count + 2)[count + 1] == "paper-1 gave no answer: its daemon does not run."
    assert verified(desk.state_dir).difference == ""


def test_what_a_phone_asks_of_a_stopped_desk_waits_for_its_start_and_is_done_once(
    bundled: Tape, lively: Path, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        desk = stack.enter_context(stage(bundled, DAY, BEGIN, tmp_path / "stage", lively, SIGNED))
        server = stack.enter_context(telegram())
        start(desk)
        (contract,) = desk.held()
        desk.daemons[-1].kill()
        desk.daemons[-1].wait(60)
        with heard(server, [line_to(desk)]):
            server.write(f"/close {contract}")
            assert f"its daemon does not run. Do this when it starts: close {contract}?" in server.until_sent(1)[0]
            server.press("Yes")
            notice = f"paper-1: left for its next start within 96 h: close {contract}. Nothing is done before that."
            assert server.until_sent(2)[1] == notice
        (waiting,) = (desk.state_dir / "signed").iterdir()
        assert oct(waiting.parent.stat().st_mode & 0o7777) == "0o1770"
        copy = waiting.read_bytes()
        before = entries(desk)
        desk.start(environment=ENVIRONMENT)
        desk.until_true(lambda: bool(desk.journaled("CloseRequested")), "the command is journaled")
        desk.until_true(partial(flat, desk), "the position is left")
        assert not waiting.exists()
        desk.until_time(desk.clock.now_ns() + PAUSED_MIN * MINUTE_NS)
        assert entries(desk) == before
        desk.daemons[-1].kill()
        desk.daemons[-1].wait(60)
        waiting.write_bytes(copy)
        desk.start(environment=ENVIRONMENT)
        desk.until_true(lambda: bool(desk.journaled("CommandRefused")), "the copy is refused")
        (refused,) = desk.journaled("CommandRefused")
        assert "left for this start" in refused["reason"]
        assert "it came before" in refused["reason"]
        assert len(desk.journaled("CloseRequested")) == 1
        desk.until_true(lambda: not waiting.exists(), "the copy is gone")
