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


def line_to(played: Stage) -> LocalDesk:
    """The line of a listener on the desk's host, whose time is the stage's."""
    return LocalDesk("paper-1", played.state_dir, "handset", KEYS["handset"], BOT_ID, played.clock.now_ns)


def started(played: Stage) -> None:
    played.start(environment=ENVIRONMENT)
    played.until_true(lambda: holding(played) and knows(played), "the first position")


def knows(played: Stage) -> bool:
    """Whether the desk has heard of every fill."""
    status = ask(played.state_dir, CommandRequest(1, "status")).status
    held = {} if status is None else {position.symbol: position.quantity for position in status.positions}
    return held == played.held() and status is not None and not status.orders


def test_a_position_that_a_phone_closed_is_left_and_not_bought_back_and_the_same_update_does_nothing(
    bundled: Tape, lively: Path, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        played = stack.enter_context(stage(bundled, DAY, BEGIN, tmp_path / "stage", lively, SIGNED))
        server = stack.enter_context(telegram())
        started(played)
        ((contract, quantity),) = played.held().items()
        with heard(server, [line_to(played)]):
            server.write("/close spx")
            assert server.until_sent(1)[0] == f"paper-1 holds no SPX. It holds {quantity} {contract}."
            server.write(f"/close {contract} {quantity + 1}")
            assert server.until_sent(2)[1] == f"paper-1 holds only {quantity} {contract}: /close {contract}"
            server.write("/close spy")
            asked = server.until_sent(3)[2]
            assert asked.startswith(f"paper-1: sell all {quantity} {contract}? None is bought back in this session.")
            assert played.journaled("CloseRequested") == []
            server.until_confirmed()
        with heard(server, [line_to(played)]):  # the listener started again between question and answer
            server.press("Yes")
            assert "No such question is open" in server.until_sent(4)[3]
            assert played.journaled("CloseRequested") == []
            server.write("/close spy")
            code = re.search(r"/yes ([A-Z0-9]+)", server.until_sent(5)[4])
            assert code is not None
            before = entries(played)
            number = server.write(f"/yes {code[1].lower()}")
            assert re.match(r"paper-1: done \(event [\d,]+\)\. It trades, 1 order sent", server.until_sent(6)[5])
            server.update({"message": server.message(f"/yes {code[1]}")}, number)  # Telegram delivers it again
            server.write("/positions")
            server.until_sent(7)
        (closed,) = played.journaled("CloseRequested")
        assert (closed["symbol"], closed["quantity"]) == (contract, 0)
        assert closed["reason"] == f"from the phone by ann (Telegram user {ANN}, update {number})"
        assert re.fullmatch(r"signed/handset #[0-9a-f]{16}", closed["who"])
        played.until_true(partial(flat, played), "the position is left")
        played.until_time(played.clock.now_ns() + 2 * PAUSED_MIN * MINUTE_NS)
        assert entries(played) == before
        assert len(played.journaled("CloseRequested")) == 1

        with heard(server, [line_to(played)]):
            sent = len(server.sent)
            server.write("/profit")
            told = server.until_sent(sent + 1)[sent]
            assert re.match(
                rf"paper-1, {DAY}: [+-][\d,.]+ USD realised; 1 trade closed, [01] won\nNothing is open\.", told
            )
            daemon = played.daemons[-1]
            daemon.kill()
            daemon.wait(60)
            server.write("/resume")
            assert server.until_sent(sent + 2)[sent + 1] == "paper-1 gave no answer: its daemon does not run."
    assert verified(played.state_dir).difference == ""


def test_what_a_phone_asks_of_a_stopped_desk_waits_for_its_start_and_is_done_once(
    bundled: Tape, lively: Path, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        played = stack.enter_context(stage(bundled, DAY, BEGIN, tmp_path / "stage", lively, SIGNED))
        server = stack.enter_context(telegram())
        started(played)
        (contract,) = played.held()
        played.daemons[-1].kill()
        played.daemons[-1].wait(60)
        with heard(server, [line_to(played)]):
            server.write(f"/close {contract}")
            assert f"its daemon does not run. Do this when it starts: close {contract}?" in server.until_sent(1)[0]
            server.press("Yes")
            left = f"paper-1: left for its next start within 96 h: close {contract}. Nothing is done before that."
            assert server.until_sent(2)[1] == left
        (waiting,) = (played.state_dir / "signed").iterdir()
        assert oct(waiting.parent.stat().st_mode & 0o7777) == "0o1770"
        copy = waiting.read_bytes()
        before = entries(played)
        played.start(environment=ENVIRONMENT)
        played.until_true(lambda: bool(played.journaled("CloseRequested")), "the command is journaled")
        played.until_true(partial(flat, played), "the position is left")
        assert not waiting.exists()
        played.until_time(played.clock.now_ns() + PAUSED_MIN * MINUTE_NS)
        assert entries(played) == before
        played.daemons[-1].kill()
        played.daemons[-1].wait(60)
        waiting.write_bytes(copy)
        played.start(environment=ENVIRONMENT)
        played.until_true(lambda: bool(played.journaled("CommandRefused")), "the copy is refused")
        (refused,) = played.journaled("CommandRefused")
        assert "left for this start" in refused["reason"]
        assert "it came before" in refused["reason"]
        assert len(played.journaled("CloseRequested")) == 1
        played.until_true(lambda: not waiting.exists(), "the copy is gone")
