"""A person with a phone, a loopback Telegram, the listener, and a desk that takes signed commands of its key alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.core.events import ClockTicked
from daemon.core.limits import Sizing, Trading
from daemon.journal.journal import FILE, Journal
from daemon.journal.rows import CommitBatch, HashChain
from daemon.notify.desk_line import LocalDesk
from daemon.notify.phone import DeskAway
from daemon.operator.control.client import SIGNED_SOCKET
from daemon.operator.remote_commands import Judge
from daemon.operator.status import DeskStatus
from tests.support.core.desk import TRIM_50, sent
from tests.support.core.desk import desk as core_desk
from tests.support.desks.desk_at_work import AtWork, in_background
from tests.support.desks.desk_run import Desk, tape_rows, write_tape
from tests.support.outside.inbox import inbox
from tests.support.outside.phones import HEX, KEYS, Heard, heard
from tests.support.outside.telegram import BOT_ID, TOKEN, Telegram, telegram, too_many
from tests.support.paths import REPOSITORY


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(write_tape(tmp_path_factory.mktemp("tape") / "tape.csv", tape_rows(1, 75)))


@pytest.fixture
def server() -> Iterator[Telegram]:
    with telegram() as serving:
        yield serving


@contextmanager
def at_the_phone(server: Telegram, desk: Desk, state: Path) -> Iterator[tuple[AtWork, Heard]]:
    judge = Judge("desk-1", KEYS, time.time_ns)
    with in_background(desk, state, 5, judge=judge) as work:
        line = LocalDesk("desk-1", state, "handset", KEYS["handset"], BOT_ID)
        with heard(server, [line]) as listener:
            yield work, listener


def commands(work: AtWork) -> list[str]:
    """The commands that were journaled."""
    return [type(event).__name__ for event in work.stepped if type(event).__name__.endswith("Requested")]


def test_status_tells_and_pause_asks_first_and_is_then_done_once(server: Telegram, desk: Desk, tmp_path: Path) -> None:
    with at_the_phone(server, desk, tmp_path / "state") as (work, _):
        server.write("/status")
        first = server.until_sent(1)[0]
        assert first.startswith("desk-1 (replay) ")
        assert "Holds nothing; 0 orders at work." in first

        server.write("/Pause@Desk_Bot")
        question = server.until_sent(2)[1]
        assert question.startswith("desk-1: take no new positions until it is resumed?")
        assert commands(work) == []
        server.press("Yes")
        assert server.until_sent(3)[2].startswith("desk-1: done (event ")
        server.until(lambda: len(server.toasts) == 1)
        assert commands(work) == ["PauseRequested"]
        pause = work.submitter.state.risk.pause
        assert pause is not None
        assert pause.reason.startswith("from the phone by ann (Telegram user 4711, update 8740000")
        assert "signed/handset #" in pause.reason

        server.press("Yes")  # the same button again
        assert server.until_sent(4)[3].startswith("No such question is open, so this did nothing.")
        assert commands(work) == ["PauseRequested"]


# --- what Telegram and the network do ---------------------------------------------------------------------------------


@pytest.fixture
def helper(server: Telegram) -> Iterator[Heard]:
    """A listener without a desk that answers: /help is enough."""
    with heard(server, [LocalDesk("desk-1", Path("/nowhere"), "handset", KEYS["handset"], BOT_ID)]) as listener:
        yield listener


def test_what_is_no_message_of_a_person_is_confirmed_and_gets_no_answer(server: Telegram, helper: Heard) -> None:
    person = {"id": 4711, "is_bot": False, "first_name": "Ann"}
    origin = {"type": "user", "sender_user": person, "date": server.now_s()}
    message = server.message("/help")
    server.edit("/help")
    server.write("/help", forward_origin=origin)
    server.write("/help", via_bot={"id": 5, "is_bot": True, "first_name": "Inline"})
    server.write("/help", sender_chat={"id": -1001, "type": "supergroup", "title": "Desks"})
    server.update({"message": message | {"from": person | {"is_bot": True}}})
    server.update({"message": {name: value for name, value in message.items() if name != "text"}})
    server.update({"message": message | {"text": 17}})  # nothing that Telegram sends
    server.update({"callback_query": {"id": "1", "from": person, "chat_instance": "2", "data": "yes ABCDEF"}})
    server.until_confirmed()
    server.write("/help")
    assert server.until_sent(1)[0].startswith("/status  what the desk is and holds")
    assert server.asked[1][1]["allowed_updates"] == ["message", "callback_query"]
    server.until_confirmed()
    assert len(server.sent) == 1


def test_the_profit_of_a_day_has_what_a_part_of_an_open_trade_realised(tmp_path: Path) -> None:
    d = core_desk(Trading(sizing=Sizing(stop_loss=0.99, take_profit=9.0)))
    entry = d.order(d.holds())  # at 2.00
    d.bar(1)
    part = sent(d.answer(TRIM_50))
    assert part.quantity < entry.quantity
    d.fill(part.client_order_id, part.quantity, "2.50")
    journal, batch = Journal.create(tmp_path / FILE, {}), CommitBatch()
    batch.rows, batch.entries = list(d.rows), [HashChain().entry(1, ClockTicked(d.state.now_ns), "[]")]
    journal.commit(batch)
    journal.close()
    text = LocalDesk("desk-1", tmp_path, "handset", KEYS["handset"], BOT_ID).profit("today")
    assert text.startswith(f"desk-1, 2024-07-01: +{part.quantity * 50}.00 USD realised\n1 open: ")


class Broken(LocalDesk):
    """A desk whose line has a bug."""

    def status(self) -> DeskStatus:
        raise ZeroDivisionError(TOKEN)


def test_a_message_that_brings_an_error_up_is_passed_over_and_the_next_one_is_answered(server: Telegram) -> None:
    with heard(server, [Broken("desk-1", Path("/nowhere"), "handset", KEYS["handset"], BOT_ID)]) as listener:
        number = server.write("/status")
        server.write("/help")
        assert server.until_sent(1)[0].startswith("/status  what the desk is")
        server.until_confirmed()
    assert listener.complaints == [f"update {number} gave no answer: ZeroDivisionError"]


def test_a_command_whose_answer_is_lost_is_said_to_be_open(tmp_path: Path) -> None:
    line = LocalDesk("desk-1", tmp_path, "handset", KEYS["handset"], BOT_ID)
    with socket.socket(socket.AF_UNIX) as listening_socket:
        listening_socket.bind(str(tmp_path / SIGNED_SOCKET))
        listening_socket.listen()

        def cut_off() -> None:
            connection, _ = listening_socket.accept()
            with connection:
                connection.recv(65536)

        daemon = threading.Thread(target=cut_off)
        daemon.start()
        with pytest.raises(DeskAway) as away:
            line.act("flatten", "a test", "1", at_start=False)
        daemon.join()
    assert "which may still be carried out" in str(away.value)
    assert str(away.value).endswith("Whether it was carried out is not known: look at /status.")


def test_an_update_that_comes_twice_is_answered_once(server: Telegram, helper: Heard) -> None:
    number = server.write("/help")
    server.until_sent(1)
    server.update({"message": server.message("/help")}, number)
    server.write("/help")
    server.until_sent(2)
    server.until_confirmed()
    assert len(server.sent) == 2


def test_an_answer_that_meets_flood_control_comes_when_telegram_says_so(server: Telegram, helper: Heard) -> None:
    server.until(lambda: len(server.asked) == 2)  # it polls
    server.faults.append(("sendMessage", *too_many(2)))
    began_s = time.monotonic()
    server.write("/help")
    server.until_sent(1)
    assert time.monotonic() - began_s >= 2
    assert helper.complaints == ["an answer is delayed: sendMessage: too many requests (429)"]


def test_trouble_at_telegram_is_waited_out_and_no_line_holds_the_token(server: Telegram, helper: Heard) -> None:
    server.until(lambda: len(server.asked) == 2)
    conflict = {"ok": False, "error_code": 409, "description": "Conflict: terminated by other getUpdates request"}
    poll = "getUpdates"
    stranger = {"detail": "no such page"}  # of a proxy on the way
    server.faults += [(poll, 502, {}), (poll, 404, stranger), (poll, 409, conflict)]
    server.write("/help")
    server.until(lambda: not server.faults and bool(server.sent))
    server.write("/help")
    server.until_sent(2)
    assert "getUpdates: an answer that is none of Telegram's (404); it is tried again" in helper.complaints
    assert not helper.refused
    assert [line for line in helper.complaints if "another program asks for this bot's updates" in line] != []
    assert server.token not in "".join(helper.complaints + helper.said)


def test_a_telegram_that_cannot_be_reached_is_asked_until_it_can(tmp_path: Path) -> None:
    with telegram() as first:
        port = first.port
    away = Telegram()
    away.port = port
    with heard(away, [LocalDesk("desk-1", tmp_path, "handset", KEYS["handset"], BOT_ID)]) as listener:
        while not listener.complaints:
            time.sleep(0.01)
        with telegram(port) as back:
            back.write("/help")
            back.until_sent(1)
    assert listener.complaints[0] == "getMe: ClientConnectorError: Telegram was not reached; it is tried again"


def test_the_age_of_a_message_is_judged_by_telegram_s_clock_not_by_the_host_s(server: Telegram, helper: Heard) -> None:
    server.skew_s = -5 * 3600  # as far as it is from the host's
    server.write("/help")
    assert server.until_sent(1)[0].startswith("/status")
    server.write("/help", age_s=90)
    assert server.until_sent(2)[1].startswith("Your /help came 2 min late.")


CONFIG = """
[telegram]
api = "{api}"
[[sender]]
name = "ann"
chat = 4711
user = 4711
[[desk]]
name = "desk-1"
state_dir = "{state}"
"""


def program(server: Telegram, folder: Path, config: str = CONFIG, **credentials: str) -> subprocess.Popen[str]:
    """`rltrader-notify listen` as a process."""
    (folder / "phone.toml").write_text(config.format(api=server.api, state=folder / "state"))
    secrets = {"TELEGRAM_TOKEN": TOKEN, "PHONE_KEYS": f"handset:{HEX}:phone", **credentials}
    line = [sys.executable, "-m", "daemon.notify", "listen", "--config", str(folder / "phone.toml")]
    env = {"PATH": os.environ["PATH"], **secrets}
    return subprocess.Popen(line, cwd=REPOSITORY, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_the_program_answers_until_a_signal_and_shows_no_secret(server: Telegram, tmp_path: Path) -> None:
    with program(server, tmp_path) as running:
        server.write("/desks")
        assert server.until_sent(1) == ["desk-1 (this one is meant)"]
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=120)
    assert (running.returncode, out, err) == (0, "rltrader-notify: listens as bot desk_bot for desk-1\n", "")


def test_a_token_that_telegram_refuses_is_said_once_and_ends_the_program(server: Telegram, tmp_path: Path) -> None:
    with inbox() as box, program(server, tmp_path, TELEGRAM_TOKEN=f"1{TOKEN}", NOTIFY_URLS=box.url) as running:
        _, err = running.communicate(timeout=120)
        assert box.titles == ["rltrader: the phone is not heard"]
    words = "Telegram refuses the bot's token (401): nothing is heard until TELEGRAM_TOKEN is replaced"
    assert (running.returncode, err.count("\n")) == (3, 1)
    assert words in err
    assert TOKEN not in err
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("change", "credentials", "problem"),
    [
        (("[[sender]]", "[[senders]]"), {}, "phone.toml: Object contains unknown field `senders`"),
        (
            ('name = "desk-1"', 'name = "a/b"'),
            {},
            "phone.toml: Expected 1 to 40 letters, digits, '.', '_' and '-' - at `$.desk[0].name`",
        ),
        (('api = "{api}"', 'api = "http://example.org"'), {}, "expected https://, the token travels there"),
        (("", ""), {"PHONE_KEYS": f"handset:{HEX}"}, "key handset may do everything: expected NAME:HEX:phone"),
        (("", ""), {"PHONE_KEYS": ""}, "there is no PHONE_KEYS, and the environment has none: write NAME:HEX:phone"),
        (("", ""), {"PHONE_KEYS": ","}, "environment PHONE_KEYS holds no key"),
        (("", ""), {"TELEGRAM_TOKEN": ""}, "CREDENTIALS_DIRECTORY=FOLDER (a unit does it: docs/MONITORING.md)"),
        (("", ""), {"TELEGRAM_TOKEN": "", "CREDENTIALS_DIRECTORY": "keys"}, "keys has no file TELEGRAM_TOKEN, and"),
        (("", ""), {"TELEGRAM_TOKEN": "s3cret"}, "environment TELEGRAM_TOKEN: this is no token of a bot"),
    ],
)
def test_what_is_wrong_with_the_configuration_is_named_with_its_cure_and_without_a_secret(
    server: Telegram, tmp_path: Path, change: tuple[str, str], credentials: dict[str, str], problem: str
) -> None:
    with program(server, tmp_path, CONFIG.replace(*change) if change[0] else CONFIG, **credentials) as running:
        _, err = running.communicate(timeout=120)
    assert running.returncode == 2
    assert problem in err
    assert not any(secret in err for secret in (HEX, TOKEN, "s3cret"))
