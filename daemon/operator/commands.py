"""The operator's commands to a running desk, by a socket or MQTT: one name, one event.

Pure. No command opens a position: `flatten` closes positions, `close` one of them or a part, `halt` and `pause` stop
new risk, `resume` lets the gates decide again, `resume-reset-limits` also counts loss and drawdown from the present
equity, `accept-broker` replaces the book by the broker's report, `reset-clock` corrects the desk's time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import msgspec
from msgspec import UNSET, UnsetType

from daemon.core.effects import AnyEffect, RaiseAlarm
from daemon.core.events import (
    AcceptBrokerRequested,
    ClockReset,
    CloseRequested,
    Event,
    FlattenRequested,
    HaltRequested,
    PauseRequested,
    ReloadRequested,
    ResumeRequested,
    StatusRequested,
)
from strategies.kit.quantity import Quantity, exact

_SYMBOL = re.compile(r"[A-Z][A-Z0-9.]{0,20}")
REASON_MOST = 500  # characters of a reason or a name
RESET_CLOCK = "reset-clock"
ACCEPT_BROKER = "accept-broker"
RESET_LIMITS = "resume-reset-limits"  # `resume --reset-limits`
RESUME = "resume"  # both may have the desk's time (ns) of the look as argument: later halts stay
CLOSE = "close"  # followed by a symbol and, optionally, a quantity: "close SPY 12.5"
NAMES = (
    "pause", RESUME, "halt", "flatten", CLOSE, "reload-model", "status", RESET_CLOCK, ACCEPT_BROKER, RESET_LIMITS
)  # fmt: skip


REFUSALS = frozenset(("command_refused", "resume_refused"))  # alarms of a command without effect


class Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One command: a name of `NAMES` with its arguments, the reason, who sends it, and the scope of the key, if any."""

    name: str
    reason: str
    who: str
    scope: str = ""


class CommandError(ValueError):
    """A command that cannot be carried out; the text names the value found, the expected one, and the cure."""


def event_of(command: Command) -> Callable[[int], Event]:
    """Return the maker of the command's event. Raises CommandError for an unknown name or an unusable reason."""
    (name, *arguments), reason, sender = command.name.split(" "), command.reason.strip(), command.who.strip()
    if name not in NAMES or (arguments and name not in (CLOSE, RESUME, RESET_LIMITS)):
        raise CommandError(f"command is {command.name[:40]!r}: expected one of {', '.join(NAMES)}: correct the name")
    for field, text in (("reason", reason), ("who", sender)):
        if not text or len(text) > REASON_MOST or not text.isprintable():
            fault = f"{len(text)} letters" if text.isprintable() else "text with control characters"
            raise CommandError(f"{field} has {fault}: expected 1 to {REASON_MOST} printable ones: say it in short")
    match name:
        case "pause":
            return lambda now_ns: PauseRequested(now_ns, reason, sender)
        case "resume":
            seen_ns = _seen_ns(arguments)
            return lambda now_ns: ResumeRequested(now_ns, reason, sender, scope=command.scope or UNSET, seen_ns=seen_ns)
        case "resume-reset-limits":
            seen_ns = _seen_ns(arguments)
            return lambda now_ns: ResumeRequested(now_ns, reason, sender, reset_limits=True, seen_ns=seen_ns)
        case "halt":
            return lambda now_ns: HaltRequested(now_ns, "operator", reason, sender)
        case "flatten":
            return lambda now_ns: FlattenRequested(now_ns, reason, sender)
        case "close":
            symbol, quantity = closing(arguments)
            return lambda now_ns: CloseRequested(now_ns, symbol, quantity, reason, sender)
        case "accept-broker":
            return lambda now_ns: AcceptBrokerRequested(now_ns, reason, sender)
        case "reset-clock":
            return lambda now_ns: ClockReset(now_ns, reason, sender)
        case "reload-model":
            return lambda now_ns: ReloadRequested(now_ns, reason, sender)
        case _:
            return lambda now_ns: StatusRequested(now_ns, reason, sender)


def _seen_ns(arguments: Sequence[str]) -> int | UnsetType:
    if not arguments:
        return UNSET
    if len(arguments) > 1 or not re.fullmatch(r"[1-9][0-9]{0,18}", arguments[0]):
        raise CommandError(
            f"resume is given {' '.join(arguments)[:40]!r}: expected nothing more, or the desk's time that its "
            "halts were seen at, in nanoseconds UTC: leave it out"
        )
    return int(arguments[0])


def closing(arguments: Sequence[str]) -> tuple[str, Quantity]:
    """Return the symbol in a `close` command, and the quantity: 0 for all of it. Raises CommandError."""
    symbol, quantity = arguments[0] if arguments else "", arguments[1] if len(arguments) > 1 else ""
    if not _SYMBOL.fullmatch(symbol) or len(arguments) > 2:
        text = " ".join(arguments)[:40]
        raise CommandError(f"close is given {text!r}: expected a symbol, and maybe a quantity, such as SPY 12.5")
    try:
        count = exact(quantity) if quantity else 0
    except ValueError as error:
        raise CommandError(f"close {symbol}: {error}: leave it out to close all of it") from None
    if quantity and count <= 0:
        raise CommandError(f"close {symbol}: quantity is {quantity[:40]}: expected one above 0, or none for all of it")
    return symbol, count


def refused_by(effects: Iterable[AnyEffect]) -> str:
    """Return why a command has no effect, by the effects of its event; "" where it has one."""
    alarms = (effect for effect in effects if isinstance(effect, RaiseAlarm) and effect.name in REFUSALS)
    return "; ".join(alarm.detail for alarm in alarms)
