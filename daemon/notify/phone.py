"""Requests of a person to desks from a phone, and their answers. No network, no key, no clock of its own.

Invariant: a command that acts leaves here only after its sender confirmed this very command for this very desk, once,
within `CONFIRM_S`. Open confirmations are in memory only, so a restart voids them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple, Protocol

from daemon.core.instruments.option_market import meant_by
from daemon.core.session import new_york_text
from daemon.host.printable import printable
from daemon.operator.commands import CLOSE, RESUME, CommandError, closing
from daemon.operator.remote_commands import AT_START
from daemon.operator.status import DeskStatus, Holding, halts_in_words, holdings_in_words, trading_in_words
from daemon.pacing import TokenBucket
from strategies.kit.quantity import Quantity
from strategies.kit.units import SECOND_NS

CONFIRM_S = 60.0
AGE_MOST_S = 60.0  # age of a message, by Telegram's clock
PER_MINUTE = 20  # answered messages of one sender
CODE_LETTERS, CODE_LENGTH = "ABCDEFGHJKMNPQRSTUVWXYZ23456789", 6
TEXT_MOST = 3500  # characters of an answer; Telegram takes 4,096
TODAY, WEEK, ALL = "today", "week", "all"
HELP = """\
/status  what the desk is and holds
/profit [today|week|all]  realised and open
/positions  what is held, and what it stands at
/close SYMBOL [QUANTITY]  close a position, or a part of it
/flatten  close every position, and halt
/pause  take no new positions; exits go on
/resume  end a pause or a halt
/halt  take no new positions, cancel entries
/desks, /use NAME  which desk is meant
What acts asks first; answer within 60 s."""
_ACTING = ("pause", RESUME, "halt", "flatten", CLOSE)


class DeskAway(Exception):
    """A desk gave no answer; the text is the reason in plain words."""


class DeskStopped(DeskAway):
    """No daemon runs the desk; a command can be left for its next start."""


class DeskLine(Protocol):
    """Connection to one desk."""

    @property
    def name(self) -> str: ...
    def status(self) -> DeskStatus:
        """Return the desk's status. Raises DeskAway."""

    def profit(self, span: str) -> str:
        """Return the profit of a span, in words. Raises DeskAway."""

    def positions(self) -> str:
        """Return the positions, in words. Raises DeskAway."""

    def act(self, command: str, reason: str, wish: str, *, at_start: bool) -> str:
        """Have the command carried out; by the next start if the desk does not run and `at_start` is confirmed.

        `wish` is the same for repetitions of one request of a person. Raises DeskAway.
        """


class Sender(NamedTuple):
    """A person who may write, and the chat."""

    name: str
    chat: int
    user: int


class Incoming(NamedTuple):
    """A text or a press on a button. `age_s` of a text is by Telegram's clock; `press` is "" for a text."""

    update_id: int
    chat: int
    user: int
    text: str
    age_s: float = 0.0
    press: str = ""


class Outgoing(NamedTuple):
    """A message to a chat; with `press` the answer to a press on a button, which has no buttons itself."""

    chat: int
    text: str
    buttons: tuple[tuple[str, str], ...] = ()
    press: str = ""


class _Question(NamedTuple):
    code: str
    desk: str
    command: str
    asked_s: float
    at_start: bool


class Phone:
    """Answers the listed senders, one message at a time. `now_s` is a clock that also counts while the host sleeps."""

    def __init__(
        self,
        senders: Sequence[Sender],
        desks: Sequence[DeskLine],
        bot: str,
        now_s: Callable[[], float],
        complain: Callable[[str], None],
    ) -> None:
        self._senders = {(sender.chat, sender.user): sender for sender in senders}
        self._desks: Mapping[str, DeskLine] = {desk.name: desk for desk in desks}
        self._bot, self._now_s, self._complain = bot.lower(), now_s, complain
        self._chosen: dict[Sender, str] = {}
        self._open: dict[Sender, _Question] = {}
        self._rates: dict[Sender, TokenBucket] = {}
        self._over: set[Sender] = set()
        self.strangers = 0  # messages of senders that are not listed

    def take(self, incoming: Incoming) -> list[Outgoing]:
        """Return the messages to send for an incoming one."""
        sender = self._senders.get((incoming.chat, incoming.user))
        if sender is None:
            return self._stranger(incoming)
        if not self._within_rate(sender):
            if sender in self._over:
                return []
            self._over.add(sender)
            return [Outgoing(sender.chat, f"More than {PER_MINUTE} messages a minute: the others get no answer.")]
        self._over.discard(sender)
        if incoming.press:
            text = self._press(sender, incoming)
            return [Outgoing(sender.chat, text), Outgoing(sender.chat, "", press=incoming.press)]
        words = self._words(incoming.text)
        if not words:
            return []
        if abs(incoming.age_s) > AGE_MOST_S:
            return [Outgoing(sender.chat, _late(words[0], incoming.age_s))]
        return [self._answer(sender, words, incoming)]

    def _stranger(self, incoming: Incoming) -> list[Outgoing]:
        """Count a message of an unlisted sender; report the first one to the listed senders."""
        self.strangers += 1
        if self.strangers > 1:
            return []
        sender_text = f"user {incoming.user} in chat {incoming.chat}"
        self._complain(f"a message of a sender that is not listed, {sender_text}: no answer; further ones are counted")
        text = (
            f"Somebody who is not listed wrote to this bot ({sender_text}). There was no answer. "
            "Others are only counted."
        )
        return [Outgoing(chat, text) for chat in dict.fromkeys(sender.chat for sender in self._senders.values())]

    def _within_rate(self, sender: Sender) -> bool:
        bucket = self._rates.get(sender)
        if bucket is None:
            bucket = TokenBucket(lambda: round(self._now_s() * SECOND_NS), PER_MINUTE, PER_MINUTE)
            self._rates[sender] = bucket
        if bucket.wait_ns():
            return False
        bucket.take()
        return True

    def _words(self, text: str) -> list[str]:
        """Return the words of a command; empty for a text that is not for this bot."""
        words = text.split()
        if not words or not words[0].startswith("/"):
            return []
        name, _, bot = words[0][1:].lower().partition("@")
        return [name, *words[1:]] if bot in ("", self._bot) else []

    def _answer(self, sender: Sender, words: Sequence[str], incoming: Incoming) -> Outgoing:
        name, arguments = words[0], words[1:]
        try:
            if name == "yes":
                return Outgoing(sender.chat, self._confirm(sender, "".join(arguments).upper(), incoming))
            if name in _ACTING:
                return self._ask(sender, name, arguments)
            return Outgoing(sender.chat, self._answer_command(sender, name, arguments)[:TEXT_MOST])
        except (DeskAway, CommandError) as problem:
            return Outgoing(sender.chat, f"{problem}"[:TEXT_MOST])

    # --- what only tells ----------------------------------------------------------------------------------------------

    def _answer_command(self, sender: Sender, name: str, arguments: Sequence[str]) -> str:
        match name:
            case "status":
                return self._status(sender)
            case "profit":
                return self._desk(sender).profit(_span(arguments))
            case "positions":
                return self._desk(sender).positions()
            case "desks":
                return "\n".join(self._desk_line(sender, desk) for desk in self._desks)
            case "use":
                return self._use(sender, " ".join(arguments))
            case "help" | "start":
                return HELP
            case _:
                return f"{printable(name, 20)} is none of the commands.\n{HELP}"

    def _status(self, sender: Sender) -> str:
        text = in_words(self._desk(sender).status())
        if self.strangers:
            text += f"\n{self.strangers} message{'s' * (self.strangers != 1)} of senders that are not listed."
        return text

    def _desk(self, sender: Sender) -> DeskLine:
        """Return the desk that the sender means. Raises DeskAway if that is open."""
        if len(self._desks) == 1:
            return next(iter(self._desks.values()))
        if sender not in self._chosen:
            raise DeskAway(f"Which desk? /use {' or /use '.join(self._desks)}")
        return self._desks[self._chosen[sender]]

    def _desk_line(self, sender: Sender, desk: str) -> str:
        meant = len(self._desks) == 1 or self._chosen.get(sender) == desk
        return f"{desk} (this one is meant)" if meant else f"{desk}: /use {desk}"

    def _use(self, sender: Sender, name: str) -> str:
        if name not in self._desks:
            return f"There is no desk {printable(name, 40)}. There is: {', '.join(self._desks)}"
        self._chosen[sender] = name
        self._open.pop(sender, None)
        return f"From now on {name} is meant."

    # --- what acts ----------------------------------------------------------------------------------------------------

    def _ask(self, sender: Sender, name: str, arguments: Sequence[str]) -> Outgoing:
        """Ask for a confirmation. Raises DeskAway, CommandError."""
        self._open.pop(sender, None)
        desk, upper, at_start = self._desk(sender), [word.upper() for word in arguments], False
        try:
            status = desk.status()
            command, consequence = _closing(status, upper) if name == CLOSE else _consequence(name, status)
        except DeskStopped:
            if name not in AT_START:
                raise
            symbol, quantity = closing(upper) if name == CLOSE else ("", 0)
            command = " ".join(filter(None, (name, symbol, str(quantity or ""))))
            consequence, at_start = f"its daemon does not run. Do this when it starts: {command}?", True
        code = "".join(secrets.choice(CODE_LETTERS) for _ in range(CODE_LENGTH))
        self._open[sender] = _Question(code, desk.name, command, self._now_s(), at_start)
        text = f"{desk.name}: {consequence}\nPress, or write /yes {code}, within {CONFIRM_S:.0f} s."
        return Outgoing(sender.chat, text, (("Yes", f"yes {code}"), ("No", f"no {code}")))

    def _press(self, sender: Sender, incoming: Incoming) -> str:
        word, _, code = incoming.text.partition(" ")
        if word == "yes":
            try:
                return self._confirm(sender, code, incoming)
            except DeskAway as problem:
                return f"{problem}"[:TEXT_MOST]
        if (question := self._open.get(sender)) is not None and question.code == code:
            del self._open[sender]
        return "Nothing was done."

    def _confirm(self, sender: Sender, code: str, incoming: Incoming) -> str:
        """Have the command of this code carried out. Raises DeskAway."""
        question = self._open.get(sender)
        if question is None or not secrets.compare_digest(question.code.encode(), code.encode()):
            return (
                "No such question is open, so this did nothing. It was answered or is too old: /status tells how it is."
            )
        del self._open[sender]
        if self._now_s() - question.asked_s > CONFIRM_S:
            return f"The question was open for {CONFIRM_S:.0f} s. Nothing was done: ask again."
        reason = f"from the phone by {sender.name} (Telegram user {sender.user}, update {incoming.update_id})"
        return self._desks[question.desk].act(
            question.command, reason, str(incoming.update_id), at_start=question.at_start
        )


def _late(name: str, age_s: float) -> str:
    if age_s < 0:
        return f"Your /{printable(name, 20)} seems to come from the future. Nothing was done: ask again."
    minutes = round(age_s / 60)
    return f"Your /{printable(name, 20)} came {minutes} min late. Nothing was done: ask again."


def _span(arguments: Sequence[str]) -> str:
    span = arguments[0].lower() if arguments else TODAY
    if span not in (TODAY, WEEK, ALL):
        raise DeskAway(f"/profit {printable(span, 20)}: expected {TODAY}, {WEEK} or {ALL}")
    return span


def _closing(status: DeskStatus, arguments: Sequence[str]) -> tuple[str, str]:
    """Return the command and its effect in words. Raises DeskAway if it would do nothing, CommandError."""
    symbol, quantity = closing(arguments)
    holding = _holding(status, symbol)
    if quantity > holding.quantity:
        raise DeskAway(f"{status.desk} holds only {holding.quantity} {holding.symbol}: /close {holding.symbol}")
    part: Quantity = quantity or holding.quantity
    words = f"sell {part} of {holding.quantity}" if quantity else f"sell all {part}"
    command = f"{CLOSE} {holding.symbol} {quantity}" if quantity else f"{CLOSE} {holding.symbol}"
    return command, f"{words} {holding.symbol}? None is bought back in this session."


def _holding(status: DeskStatus, symbol: str) -> Holding:
    """Return the position in this symbol, or the only one in options on it. Raises DeskAway."""
    positions = {one.symbol: one for one in status.positions}
    matches = meant_by(symbol, positions)
    if len(matches) == 1:
        return positions[matches[0]]
    if matches:
        raise DeskAway("Which one? " + ", ".join(f"/close {name}" for name in matches))
    raise DeskAway(f"{status.desk} holds no {symbol}. It holds {holdings_in_words(status) or 'nothing'}.")


def _consequence(name: str, status: DeskStatus) -> tuple[str, str]:
    """Return the command and its effect, as a question. Raises DeskAway if it would do nothing."""
    match name:
        case "pause":
            return name, "take no new positions until it is resumed? Exits go on."
        case "halt":
            return name, "halt: take no new positions and cancel entries, until it is resumed? Exits go on."
        case "flatten":
            return name, f"close every position ({holdings_in_words(status) or 'none is held'}) and halt?"
        case _:
            if not (status.halt or status.pause):
                raise DeskAway(f"{status.desk} is neither halted nor paused.")
            stands = f"the halt ({status.halt})" if status.halt else f"the pause ({status.pause})"
            return f"{RESUME} {status.time_ns}", f"end {printable(stands, 600)}?"


def _usd(amount: str) -> str:
    return f"{Decimal(amount):,.2f}" if amount else "?"


def in_words(status: DeskStatus) -> str:
    """Return a status in a few short lines."""
    if status.halt:
        since_text = f" since {new_york_text(status.halt_since_ns)[:16]} New York" if status.halt_since_ns else ""
        state = f"HALTED{since_text}: {halts_in_words(status.halt)}"
    else:
        trading, may = trading_in_words(status)
        state = "trades" if may else trading.replace("not reconciled", "compares its book with the broker's")
    lines = [
        f"{status.desk} ({status.mode}) {state}",
        f"Equity {_usd(status.equity_usd)} USD, this session {_usd(status.day_usd)} USD.",
        f"Holds {holdings_in_words(status) or 'nothing'}; {status.orders} order{'s' * (status.orders != 1)} at work.",
    ]
    lines += [f"Book and broker differ: {status.differences}"] * bool(status.differences)
    lines += [f"On the host: {status.then}"] * bool(status.then)
    return "\n".join(printable(line, 600) for line in lines)
