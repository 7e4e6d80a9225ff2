"""Who may ask what from a phone, and each way in which nothing is done. Time is the test's; the desk is a stand-in."""

from __future__ import annotations

import re
from dataclasses import replace as changed
from typing import Any

import pytest

from daemon.notify.phone import AGE_MOST_S, CONFIRM_S, PER_MINUTE, DeskAway, Incoming, Outgoing, Phone, Sender
from daemon.operator.status import DeskStatus, Holding, unreadable_desk
from strategies.kit.quantity import Quantity

ANN, BOB, GROUP = 4711, 4712, -100200300
CALL = "SPY241101C00480000"


class StandIn:
    """A desk that notes what it is asked to do."""

    def __init__(self, name: str = "paper-1") -> None:
        self.name, self.acts, self.away = name, list[tuple[str, str, str]](), ""
        blank = changed(unreadable_desk("", ""), desk=name, mode="paper", reconciled=True, equity_usd="1000.00")
        self.stands: DeskStatus = changed(blank, day_usd="1.50", positions=(holding_of("QQQ", 10), holding_of(CALL, 2)))

    def status(self) -> DeskStatus:
        if self.away:
            raise DeskAway(self.away)
        return self.stands

    def profit(self, span: str) -> str:
        return f"profit {span}"

    def positions(self) -> str:
        return "positions"

    def act(self, command: str, reason: str, wish: str, *, at_start: bool) -> str:
        if self.away:
            raise DeskAway(self.away)
        assert not at_start
        self.acts.append((command, reason, wish))
        return "done"


def holding_of(symbol: str, quantity: Quantity) -> Holding:
    return Holding(symbol, quantity, "0.00", "")


class Stage:
    """A phone with Ann in her own chat and in a group, and two hands on it."""

    def __init__(self, *desks: StandIn, senders: tuple[Sender, ...] = (Sender("ann", ANN, ANN),)) -> None:
        self.desks, self.now_s, self.complaints = desks or (StandIn(),), 1000.0, list[str]()
        self.phone = Phone(senders, self.desks, "desk_bot", lambda: self.now_s, self.complaints.append)
        self._number = 0

    @property
    def acts(self) -> list[str]:
        return [command for desk in self.desks for command, _, _ in desk.acts]

    def take(self, text: str, user: int = ANN, chat: int = 0, age_s: float = 0.0, press: str = "") -> list[Outgoing]:
        self._number += 1
        return self.phone.take(Incoming(self._number, chat or user, user, text, age_s, press))

    def say(self, text: str, **more: Any) -> str:
        """The one answer to a text."""
        (answer,) = self.take(text, **more)
        return answer.text

    def ask(self, text: str, **more: Any) -> str:
        """Ask for what acts; returns the code."""
        (question,) = self.take(text, **more)
        code = question.buttons[0][1].removeprefix("yes ")
        assert question.buttons == (("Yes", f"yes {code}"), ("No", f"no {code}"))
        assert f"/yes {code}" in question.text
        return code


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("/pause", "pause"),
        ("/Halt", "halt"),
        ("/FLATTEN@desk_bot", "flatten"),
        ("/close qqq", "close QQQ"),
        ("/close@Desk_Bot QQQ 2.5", "close QQQ 2.5"),
        ("  /close   spy ", f"close {CALL}"),
        (f"/close {CALL.lower()} 1", f"close {CALL} 1"),
    ],
)
def test_what_acts_is_done_once_after_its_confirmation_and_is_the_very_command_that_was_asked_about(
    text: str, command: str
) -> None:
    stage = Stage()
    code = stage.ask(text)
    assert stage.acts == []
    assert stage.say(f"/yes {code.lower()}") == "done"
    (act,) = stage.desks[0].acts
    assert act == (command, "from the phone by ann (Telegram user 4711, update 2)", "2")
    assert "No such question is open" in stage.say(f"/yes {code}")
    assert stage.acts == [command]


def test_a_press_counts_like_the_code_and_a_no_ends_the_question() -> None:
    stage = Stage()
    code = stage.ask("/halt")
    answer, toast = stage.take(f"no {code}", press="7")
    assert (answer.text, toast.press) == ("Nothing was done.", "7")
    assert "No such question" in stage.take(f"yes {code}", press="8")[0].text
    code = stage.ask("/halt")
    assert stage.take(f"yes {code}", press="9")[0].text == "done"
    assert stage.acts == ["halt"]


def test_a_confirmation_expires_and_a_host_that_slept_counts_the_time() -> None:
    stage = Stage()
    code = stage.ask("/flatten")
    stage.now_s += CONFIRM_S + 0.001
    assert stage.say(f"/yes {code}").startswith("The question was open for 60 s. Nothing was done")
    stage.now_s += 1
    assert "No such question" in stage.say(f"/yes {code}")
    assert stage.acts == []


def test_a_confirmation_is_for_its_sender_and_its_desk_alone_and_a_new_question_ends_the_old_one() -> None:
    one, other = StandIn("paper-1"), StandIn("paper-2")
    senders = (Sender("ann", ANN, ANN), Sender("bob", BOB, BOB), Sender("ann in the group", GROUP, ANN))
    stage = Stage(one, other, senders=senders)
    assert stage.say("/flatten") == "Which desk? /use paper-1 or /use paper-2"
    assert stage.say("/use paper-9") == "There is no desk paper-9. There is: paper-1, paper-2"
    assert stage.say("/use paper-2") == "From now on paper-2 is meant."
    assert stage.say("/desks") == "paper-1: /use paper-1\npaper-2 (this one is meant)"
    code = stage.ask("/flatten")
    assert "No such question" in stage.say(f"/yes {code}", user=BOB)
    assert "No such question" in stage.say(f"/yes {code}", chat=GROUP)  # the same person, another chat
    newer = stage.ask("/pause")
    assert "No such question" in stage.say(f"/yes {code}")
    stage.say("/use paper-1")
    assert "No such question" in stage.say(f"/yes {newer}")
    code = stage.ask("/pause")
    assert stage.say(f"/yes {code}") == "done"
    assert ([act[0] for act in one.acts], other.acts) == (["pause"], [])


@pytest.mark.parametrize("text", ["/flatten", "/status", "/close QQQ"])
def test_a_message_that_lay_for_hours_is_not_acted_on(text: str) -> None:
    stage = Stage()
    name = text.split(maxsplit=1)[0]
    assert stage.say(text, age_s=3 * 3600) == f"Your {name} came 180 min late. Nothing was done: ask again."
    assert "from the future" in stage.say(text, age_s=-3600)
    assert stage.take(text, age_s=AGE_MOST_S)[0].text != ""
    code = stage.ask("/pause")
    assert "came 2 min late" in stage.say(f"/yes {code}", age_s=120)
    assert stage.acts == []


def test_who_is_not_listed_gets_no_answer_is_told_of_once_and_then_counted() -> None:
    stage = Stage(senders=(Sender("ann", ANN, ANN), Sender("bob", BOB, BOB)))
    messages = stage.take("/flatten", user=99)
    assert [message.chat for message in messages] == [ANN, BOB]
    assert all("user 99 in chat 99" in message.text for message in messages)
    for _ in range(5):
        assert stage.take("/flatten", user=99) == []
    assert stage.take("/flatten", user=ANN, chat=GROUP) == []  # Ann, where she is not listed
    assert stage.take("yes ABCDEF", user=99, press="1") == []
    assert len(stage.complaints) == 1
    assert stage.say("/status").endswith("8 messages of senders that are not listed.")
    assert stage.acts == []


def test_a_flood_gets_one_word_and_then_none_until_the_minute_is_over() -> None:
    stage = Stage()
    answers = [stage.take("/status") for _ in range(PER_MINUTE + 30)]
    assert [len(answer) for answer in answers] == [1] * (PER_MINUTE + 1) + [0] * 29
    assert answers[PER_MINUTE][0].text.startswith("More than 20 messages a minute")
    stage.now_s += 60
    first, second = stage.say("/status").splitlines()[:2]
    assert first.startswith("paper-1 (paper) trades")
    assert second == "Equity 1,000.00 USD, this session 1.50 USD."


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("/close", "close is given '': expected a symbol"),
        ("/close IWM", "paper-1 holds no IWM. It holds 10 QQQ, 2 SPY241101C00480000."),
        ("/close QQQ 11", "paper-1 holds only 10 QQQ: /close QQQ"),
        ("/close QQQ -1", "close QQQ: quantity is -1: expected one above 0"),
        ("/close QQQ ten", "close QQQ: "),
        ("/close QQQ 1 2", "close is given 'QQQ 1 2'"),
        ("/resume", "paper-1 is neither halted nor paused."),
        ("/panic", "panic is none of the commands."),
        ("/accept-broker", "accept-broker is none of the commands."),
        ("/resume-reset-limits", "resume-reset-limits is none of the commands."),
        ("/profit year", "/profit year: expected today, week or all"),
    ],
)
def test_what_cannot_be_done_is_said_and_not_asked_about(text: str, answer: str) -> None:
    stage = Stage()
    (message,) = stage.take(text)
    assert message.text.startswith(answer)
    assert message.buttons == ()


def test_two_contracts_of_one_underlying_are_told_apart() -> None:
    desk = StandIn()
    put = CALL.replace("C", "P")
    desk.stands = changed(desk.stands, positions=(holding_of(CALL, 2), holding_of(put, 1)))
    assert Stage(desk).say("/close spy") == f"Which one? /close {CALL}, /close {put}"


@pytest.mark.parametrize("text", ["hello", "", "/pause@another_bot", "yes", "flatten"])
def test_what_is_no_command_of_this_bot_gets_no_answer(text: str) -> None:
    assert Stage().take(text) == []


def test_a_desk_that_is_away_is_said_to_be_and_a_resume_names_what_it_ends() -> None:
    desk = StandIn()
    stage = Stage(desk)
    desk.stands = changed(desk.stands, halt="operator: lunch")
    (question,) = stage.take("/resume")
    assert question.text.startswith("paper-1: end the halt (operator: lunch)?")
    stage.say(f"/yes {question.buttons[0][1].removeprefix('yes ')}")
    assert stage.acts == [f"resume {desk.stands.time_ns}"]  # no halt that comes meanwhile
    (question,) = stage.take("/resume")
    desk.away = "paper-1 gave no answer: its daemon does not run."
    assert stage.say("/status") == desk.away
    assert stage.say(f"/yes {question.buttons[0][1].removeprefix('yes ')}") == desk.away
    assert len(stage.acts) == 1


def test_codes_differ_and_cannot_be_guessed_within_their_time() -> None:
    stage = Stage()
    codes = set()
    for _ in range(PER_MINUTE - 1):
        codes.add(stage.ask("/pause"))
    assert len(codes) == PER_MINUTE - 1
    assert all(re.fullmatch("[A-HJ-NP-Z2-9]{6}", code) for code in codes)
