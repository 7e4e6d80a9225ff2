"""The operator's commands to a running desk, by socket or MQTT: one name, one event.

Pure. No command opens a position: `flatten` closes positions, `halt` and `pause` stop new risk, `resume` lets the gates
decide again, `resume-reset-limits` also counts loss and drawdown from the present equity, `accept-broker` replaces the
book by the broker's report, `reset-clock` corrects the desk's time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from daemon.core.effects import AnyEffect, RaiseAlarm
from daemon.core.events import (
    AcceptBrokerRequested,
    ClockReset,
    Event,
    FlattenRequested,
    HaltRequested,
    PauseRequested,
    ReloadRequested,
    ResumeRequested,
    StatusRequested,
)

REASON_MOST = 500  # letters of a reason, and of a name
RESET_CLOCK = "reset-clock"
ACCEPT_BROKER = "accept-broker"
RESET_LIMITS = "resume-reset-limits"  # `resume --reset-limits`
NAMES = ("pause", "resume", "halt", "flatten", "reload-model", "status", RESET_CLOCK, ACCEPT_BROKER, RESET_LIMITS)


REFUSALS = frozenset(("command_refused", "resume_refused"))  # alarms of a command that does nothing


class Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One command: a name of `NAMES`, the reason, and who sends it."""

    name: str
    reason: str
    who: str


class CommandError(ValueError):
    """A command that cannot be carried out; the text names the value found, the expected one, and the cure."""


def event_of(command: Command) -> Callable[[int], Event]:
    """Return the maker of the command's event. Raises CommandError for an unknown name or an unusable reason."""
    name, reason, who = command.name, command.reason.strip(), command.who.strip()
    if name not in NAMES:
        raise CommandError(f"command is {name[:40]!r}: expected one of {', '.join(NAMES)}: correct the name")
    for what, text in (("reason", reason), ("who", who)):
        if not text or len(text) > REASON_MOST or not text.isprintable():
            found = f"{len(text)} letters" if text.isprintable() else "text with control characters"
            raise CommandError(f"{what} has {found}: expected 1 to {REASON_MOST} printable ones: say it in short")
    match name:
        case "pause":
            return lambda now_ns: PauseRequested(now_ns, reason, who)
        case "resume":
            return lambda now_ns: ResumeRequested(now_ns, reason, who)
        case "resume-reset-limits":
            return lambda now_ns: ResumeRequested(now_ns, reason, who, reset_limits=True)
        case "halt":
            return lambda now_ns: HaltRequested(now_ns, "operator", reason, who)
        case "flatten":
            return lambda now_ns: FlattenRequested(now_ns, reason, who)
        case "accept-broker":
            return lambda now_ns: AcceptBrokerRequested(now_ns, reason, who)
        case "reset-clock":
            return lambda now_ns: ClockReset(now_ns, reason, who)
        case "reload-model":
            return lambda now_ns: ReloadRequested(now_ns, reason, who)
        case _:
            return lambda now_ns: StatusRequested(now_ns, reason, who)


def refused_by(effects: Iterable[AnyEffect]) -> str:
    """Return why a command does nothing, by the effects of its event; "" where it does something."""
    alarms = (effect for effect in effects if isinstance(effect, RaiseAlarm) and effect.name in REFUSALS)
    return "; ".join(alarm.detail for alarm in alarms)
